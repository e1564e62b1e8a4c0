"""How much errors at a layer's outputs matter at the network's: second moments of gradients of its outputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tnlib import measure
from tnlib.compress.inputs import Call
from tnlib.compress.moments import Moment
from tnlib.compress.norms import LossMetric, Norm
from tnlib.compress.survey import Place


class ExactError(LossMetric):
    """The relative squared error of the network's outputs, to first order, from exact second moments at each layer.

    The outputs z are centred over their last axis, as logits are that a softmax follows. An error E of a kernel moves
    them by sum over positions of J E x; with random weights v of the outputs, E |J E x|^2 = tr(G E C E^T), C the moment
    of what the kernel is applied to (patches, not channels), G that of the gradients of v^T z at the layer's outputs.
    That errors at different positions do not add up is an assumption. G is the logits' Gauss-Newton matrix: unlike the
    Fisher information it does not vanish where the network is sure of its answer, as on images that it was trained on.
    Factors are fitted in the norm of C. No labels.
    """

    key = "exact"

    def norms(self, model: nn.Module, places: Iterable[Place], inputs: Iterable[Call]) -> dict[str, Norm]:
        """From the moments; the model runs once on all inputs, forward and backward."""
        named = {place.name: place.layer for place in places}
        sums = {layer: _Sums(layer) for layer in named.values()}
        generator, energy, samples = torch.Generator().manual_seed(0), 0.0, 0
        with torch.enable_grad(), measure.evaluating(model), measure.without_fast_path(), _noting(sums):
            for call in inputs:
                z = _centred(call.run(model))
                v = torch.randn(z.shape, generator=generator).to(z)
                v = v - v.mean(-1, keepdim=True)
                weights: list[Any] = [layer.weight for layer in sums]
                torch.autograd.grad((z * v).sum(), weights, allow_unused=True)  # hooks of outputs are called
                energy += float(z.detach().double().square().sum())
                samples += len(z)
        result = {}
        for name, layer in named.items():
            moment = sums[layer].moment
            scale = 1 / max(moment.vectors * energy, 1e-300)
            result[name] = Norm(moment, outputs=sums[layer].gradients * scale, fits=True)
        return result


class _Sums:
    """Of one layer: the moment of its inputs, and of gradients at its outputs, (groups, outputs, outputs)."""

    def __init__(self, layer: Any) -> None:
        self.layer, self.moment = layer, Moment(layer)
        groups = self.moment.groups
        channels = layer.weight.shape[1] if isinstance(layer, nn.Embedding) else len(layer.weight) // groups
        like = self.moment.total
        self.gradients = like.new_zeros(groups, channels, channels)

    def note(self, module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], output: Tensor) -> None:
        """A forward hook."""
        x = args[0] if args else next(iter(kwargs.values()))
        self.moment.add(x.detach())
        output.register_hook(self._add)

    def _add(self, gradient: Tensor) -> None:
        last = isinstance(self.layer, (nn.Linear, nn.Embedding))
        if not last and gradient.ndim < self.layer.weight.ndim:
            gradient = gradient[None]
        columns = gradient.detach().movedim(-1 if last else 1, 0).flatten(1).unflatten(0, (len(self.gradients), -1))
        self.gradients += torch.bmm(columns, columns.mT)


@contextmanager
def _noting(sums: Mapping[nn.Module, _Sums]) -> Iterator[None]:
    """Hooks on all layers, whose weights need gradients meanwhile."""
    handles, needed = [], {}
    try:
        for layer, one in sums.items():
            handles.append(layer.register_forward_hook(one.note, with_kwargs=True))
            weight: Any = layer.weight
            needed[layer] = weight.requires_grad
            weight.requires_grad_(True)
        yield
    finally:
        for handle in handles:
            handle.remove()
        for layer, before in needed.items():
            restored: Any = layer.weight
            restored.requires_grad_(before)


def _centred(output: Any) -> Tensor:
    """The first tensor of numbers among what a model returns, (samples, .., centred)."""
    found = list(output.values()) if isinstance(output, Mapping) else output
    tensors = [found] if isinstance(found, Tensor) else [x for x in found if isinstance(x, Tensor)]
    floating = [x for x in tensors if x.is_floating_point() and x.requires_grad]
    if not floating:
        raise ValueError("the metric 'exact' needs a model that returns a tensor that depends on its layers")
    z = floating[0]
    return z - z.mean(-1, keepdim=True) if z.shape[-1] > 1 else z
