"""The squared error that factors are fitted in, and coordinates of a layer's channels in which it is simpler."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tnlib import layers
from tnlib.layers.stages import Mode, whitened

EVEN = 0.1  # added to how much errors of outputs count, relative to the mean over the outputs


def damped(matrix: Tensor, ridge: float) -> Tensor:
    """Matrices (groups, n, n) with a ridge on their diagonals, relative to the mean entry there."""
    added = ridge * matrix.diagonal(dim1=1, dim2=2).mean(1) + 1e-300
    return matrix + torch.diag_embed(added[:, None].expand(matrix.shape[:2]))


def evened(outputs: Tensor | None) -> Tensor | None:
    """How much errors of outputs count in a fit, (groups, outputs, outputs): none nothing; None: all alike.

    What second moments of gradients say of large errors holds to first order only.
    """
    if outputs is None or not bool((outputs != 0).any()):
        return None
    scaled = outputs / outputs.diagonal(dim1=1, dim2=2).mean()
    return scaled + EVEN * torch.eye(outputs.shape[1]).to(outputs)


@dataclass(frozen=True)
class Quadratic:
    """tr(O E M E^T) of the error E of a kernel, summed over groups.

    Attributes:
        target: (groups, outputs, inputs window), the kernel without error.
        moment: M, of the inputs, symmetric positive definite, (groups, inputs window, inputs window).
        outputs: O, how much squared errors of the outputs count, likewise (groups, outputs, outputs); None: all alike.
    """

    target: Tensor
    moment: Tensor
    outputs: Tensor | None = None

    def weigh(self, error: Tensor) -> Tensor:
        """O E M: half the gradient."""
        weighed = error @ self.moment
        return weighed if self.outputs is None else self.outputs @ weighed

    def square(self, error: Tensor) -> float:
        """tr(O E M E^T)."""
        return float((error * self.weigh(error)).sum())

    def look(self, kernel: Tensor) -> tuple[float, Tensor]:
        """The error of a kernel relative to that of a zero one, absolute beside a zero target, and O E M."""
        error = kernel - self.target
        weighed = self.weigh(error)
        return float((error * weighed).sum()) / (self.square(self.target) or 1.0), weighed


class Coordinates:
    """Coordinates of channels: of the inputs those in which they are white, of the outputs those that count alike.

    With R^T R the moment of the input channels, summed over the window's pixels, and Q^T Q the outputs' norm, kernels
    become Q K R^T, pixel by pixel. Formats whose channels are split into digits, and groups, stay as they are.
    """

    def __init__(self, layer: layers.Factorized, problem: Quadratic) -> None:
        self.kind, self.roots, self.shape = type(layer), dict[Mode, Tensor](), (0, 0)
        if layer.in_digits or len(problem.moment) > 1:
            return
        weight: Any = layer.weight
        self.shape = (weight.shape[1], math.prod(weight.shape[2:]))
        split = problem.moment[0].reshape(*self.shape, *self.shape)
        outputs = None if problem.outputs is None else problem.outputs[0]
        self.roots = layers.Metric(inputs=torch.einsum("akbk->ab", split), outputs=outputs).roots()

    def turned(self, problem: Quadratic) -> Quadratic:
        """The same error in these coordinates."""
        if not self.roots:
            return problem
        kernel = problem.target[0].unflatten(1, self.shape)
        target = whitened(kernel, self.roots, ("out", "in")).flatten(1)[None]
        inverse = torch.linalg.inv(self.roots["in"])
        half = torch.einsum("ar,akm->rkm", inverse, problem.moment[0].unflatten(0, self.shape))
        both = torch.einsum("nbl,bs->nsl", half.flatten(0, 1).unflatten(1, self.shape), inverse)
        return Quadratic(target, both.flatten(1)[None])

    def to(self, factors: Sequence[Tensor]) -> list[Tensor]:
        """Factors in these coordinates."""
        return self._multiplied(factors, self.roots)

    def back(self, factors: Sequence[Tensor]) -> list[Tensor]:
        """Factors in the channels' own coordinates."""
        return self._multiplied(factors, {mode: torch.linalg.inv(root) for mode, root in self.roots.items()})

    def _multiplied(self, factors: Sequence[Tensor], by: dict[Mode, Tensor]) -> list[Tensor]:
        made = list(factors)
        for mode, matrix in by.items():
            made = self.kind.multiply_mode(made, mode, matrix)
        return made
