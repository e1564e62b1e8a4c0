"""A layer fitted to the outputs it should give, from the inputs it gets: least squares, then its factors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from tnlib import layers
from tnlib.compress.fitting import STEPS, fit_factors
from tnlib.compress.moments import Moment
from tnlib.compress.quadratic import damped, evened

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # added to the moment of the inputs, relative to its mean diagonal entry
USUAL = 1e-3  # where the samples cannot choose


class _Sums:
    """Sums over inputs x and wanted outputs y: of x x^T, y x^T, x and y, group by group."""

    def __init__(self, layer: Any) -> None:
        self.moment = Moment(layer)
        like, groups, size = self.moment.total, self.moment.groups, self.moment.total.shape[-1]
        self.cross = like.new_zeros(groups, len(layer.weight) // groups, size)
        self.x, self.y = like.new_zeros(groups, size), like.new_zeros(self.cross.shape[:2])

    def add(self, vectors: Tensor, outputs: Tensor, known: bool) -> None:
        """Take in columns, (groups, inputs window, number) and (groups, outputs, number); `known`: outputs alone."""
        if vectors.element_size() < 4:
            vectors, outputs = vectors.float(), outputs.float()
        if not known:
            self.moment.add_vectors(vectors)
            self.x += vectors.sum(2)
        self.cross += torch.bmm(outputs, vectors.mT)
        self.y += outputs.sum(2)

    def add_outputs(self, x: Tensor, y: Tensor) -> None:
        """Of a convolution: outputs alone, as a batch; y x^T is the gradient of its weight, which needs no patches."""
        layer: Any = self.moment.layer
        with torch.enable_grad():
            weight = layer.weight.detach().requires_grad_()
            made = functional_call(layer, {"weight": weight}, (x,))
            (gradient,) = torch.autograd.grad(made, weight, y)
        self.cross += gradient.unflatten(0, (len(self.cross), -1)).flatten(2)
        self.y += y.transpose(0, 1).flatten(1).sum(1).unflatten(0, (len(self.y), -1))

    def __add__(self, other: _Sums) -> _Sums:
        both = _Sums(self.moment.layer)
        for one in (self, other):
            both.moment.total += one.moment.total
            both.moment.vectors += one.moment.vectors
            both.cross, both.x, both.y = both.cross + one.cross, both.x + one.x, both.y + one.y
        return both

    def means(self) -> tuple[Tensor, Tensor]:
        """The mean input, (groups, inputs window), and the mean wanted output, (groups, outputs)."""
        number = max(1, self.moment.vectors)
        return self.x / number, self.y / number

    def normal(self, shift: bool) -> tuple[Tensor, Tensor]:
        """Means of x x^T and y x^T, of centred x and y where a shift is free."""
        number = max(1, self.moment.vectors)
        moment, cross = self.moment.total / number, self.cross / number
        if shift:
            x, y = self.means()
            moment, cross = moment - x[:, :, None] * x[:, None], cross - y[:, :, None] * x[:, None]
        return moment, cross


class Regression:
    """Least squares for a layer's kernel: from its inputs x to the outputs y that are wanted of it."""

    def __init__(self, layer: Any) -> None:
        self.layer, self.halves, self.known = layer, (_Sums(layer), _Sums(layer)), False

    def want_anew(self) -> None:
        """Forget what was wanted, and keep the inputs: they are to be added again, with other outputs."""
        self.known = True
        for half in self.halves:
            half.cross.zero_()
            half.y.zero_()

    def add(self, x: Tensor, y: Tensor) -> None:
        """Take in one batch of inputs and wanted outputs; the first half of its samples apart from the second."""
        if self.known and not isinstance(self.layer, nn.Linear) and x.element_size() >= 4:
            x, y = (one if one.ndim == self.layer.weight.ndim else one[None] for one in (x, y))
            for half, part in zip(self.halves, (slice(len(x) // 2), slice(len(x) // 2, None)), strict=True):
                if len(x[part]):
                    half.add_outputs(x[part], y[part])
            return
        vectors = self.halves[0].moment.vectors_of(x)
        if isinstance(self.layer, nn.Linear):
            channels = y.movedim(-1, 0)
        else:
            channels = (y if y.ndim == self.layer.weight.ndim else y[None]).transpose(0, 1)
        outputs = channels.flatten(1).unflatten(0, (len(vectors), -1))
        samples = channels.shape[1] if channels.ndim > 1 else 1
        middle = vectors.shape[2] // samples * (samples // 2)
        for half, columns in zip(self.halves, (slice(middle), slice(middle, None)), strict=True):
            half.add(vectors[:, :, columns], outputs[:, :, columns], self.known)

    def solve(self, shift: bool) -> tuple[Tensor, Tensor]:
        """The kernel of least squared error, and the moment in which kernels near it are compared.

        It minimizes the mean of |y - K x - b|^2 + ridge |K - W|^2 over K, W the layer's weight, and over the shift b if
        that is free. The ridge is the one with which each half of the samples predicts the other best.

        Args:
            shift: whether the outputs may be shifted: the layer has a bias, or a BatchNorm behind it.

        Returns:
            K, (groups, outputs, inputs window), and the moment with its ridge, (groups, inputs window, inputs window).
        """
        weight = self.layer.weight.detach().double().unflatten(0, (self.halves[0].moment.groups, -1)).flatten(2)
        ridge = self._ridge(weight, shift)
        moment, cross = (self.halves[0] + self.halves[1]).normal(shift)
        if ridge is None:
            return weight, _positive(moment, USUAL)[0]
        raised, root = _positive(moment, ridge)
        return weight + torch.cholesky_solve((cross - weight @ moment).mT, root).mT, raised

    def _ridge(self, weight: Tensor, shift: bool) -> float | None:
        """By cross-validation; None where the given weight predicts better than any step from it."""
        if not all(half.moment.vectors for half in self.halves):
            return None
        normals = [half.normal(shift) for half in self.halves]
        rests = [cross - weight @ moment for moment, cross in normals]
        best: tuple[float, float | None] = (0.0, None)
        for ridge in RIDGES:
            error = 0.0
            for k in range(2):
                step = torch.cholesky_solve(rests[k].mT, _positive(normals[k][0], ridge)[1]).mT
                error += float(((step @ normals[1 - k][0]) * step).sum() - 2 * (step * rests[1 - k]).sum())
            best = min(best, (error, ridge), key=lambda pair: pair[0])
        return best[1]

    def means(self) -> tuple[Tensor, Tensor]:
        """The mean input, (groups, inputs window), and the mean wanted output, (groups, outputs)."""
        return (self.halves[0] + self.halves[1]).means()


def _positive(moment: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """A moment with a ridge, and its Cholesky factor; eigenvalues are raised where rounding has left negative ones.

    Sums are of single precision, and centred ones may be small beside them: inputs that hardly vary show it.
    """
    raised = damped(moment, ridge)
    root, failed = torch.linalg.cholesky_ex(raised)
    if failed.any():
        values, vectors = torch.linalg.eigh(moment)
        least = ridge * values.abs().amax(1, keepdim=True) + 1e-300
        raised = (vectors * torch.maximum(values, least)[:, None]) @ vectors.mT
        root = torch.linalg.cholesky(raised)
    return raised, root


@torch.no_grad()
def refit(
    layer: Any,
    made: Any,
    pairs: Iterable[tuple[Tensor, Tensor]],
    shift: bool,
    *,
    sums: Regression | None = None,
    outputs: Tensor | None = None,
    steps: int = STEPS,
    rounding: float = 0.0,
) -> None:
    """Fit a layer of a compressed network, in place, to the outputs that are wanted of it.

    A dense one becomes the least-squares solution, a factorized one is fitted to that in the norm of its inputs and
    outputs, from its factors on. A bias makes the mean output what is wanted.

    Args:
        layer: the original one.
        made: what stands in its place: a layer of its kind, or factorized.
        pairs: batches of inputs of `made` and of outputs that are wanted.
        shift: whether something behind the layer makes up for a shift of its outputs.
        sums: those of the layer, where the same inputs have been looked at before.
        outputs: how much squared errors of its outputs count, (groups, outputs, outputs); None: all alike.
        steps: at most so many, of `fit_factors`.
        rounding: as there.
    """
    sums = Regression(layer) if sums is None else sums
    for x, y in pairs:
        sums.add(x, y)
    target, moment = sums.solve(shift or layer.bias is not None)
    if isinstance(made, layers.Factorized):
        factors, _ = fit_factors(made, target, moment, steps, outputs=evened(outputs), rounding=rounding)
        for parameter, factor in zip(made.factors(), factors, strict=True):
            parameter.copy_(factor)
        kernel = made.dense_weight()
    else:
        made.weight.copy_(target.reshape(made.weight.shape))
        kernel = made.weight
    if made.bias is not None:
        x, y = sums.means()
        flat = kernel.double().unflatten(0, (len(x), -1)).flatten(2)
        made.bias.copy_((y - torch.einsum("gtn,gn->gt", flat, x)).flatten())
