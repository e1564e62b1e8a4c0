"""How much errors at a layer's outputs matter at the network's: second moments of gradients of its outputs."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from tnlib import measure
from tnlib.compress.inputs import Call
from tnlib.compress.moments import Moment
from tnlib.compress.norms import LossMetric, Norm
from tnlib.compress.survey import Place
from tnlib.layers.stages import groups_of


class NoGradientError(ValueError):
    """A model returns no tensor that depends on its layers."""


class ExactError(LossMetric):
    """The relative squared error of the network's outputs, to first order, from exact second moments at each layer.

    The outputs z are centred over their last axis, as logits are that a softmax follows. An error E of a kernel moves
    them by sum over positions of J E x; with random weights v of the outputs, E |J E x|^2 = tr(G E C E^T), C the moment
    of what the kernel is applied to (patches, not channels), G that of the gradients of v^T z at the layer's outputs.
    That errors at different positions do not add up is an assumption. G is the logits' Gauss-Newton matrix: unlike the
    Fisher information it does not vanish where the network is sure of its answer, as on images that it was trained on.
    Factors are fitted in the norms of C and of G, with a tenth of its mean diagonal entry added. No labels.
    """

    key = "exact"

    def norms(self, model: nn.Module, places: Iterable[Place], inputs: Iterable[Call]) -> dict[str, Norm]:
        """From the moments; the model runs once on all inputs, forward and backward."""
        named = {place.name: place.layer for place in places}
        sums = {layer: _Sums(layer, Moment(layer)) for layer in named.values()}
        energy, result = _run(model, sums, inputs), {}
        for name, layer in named.items():
            moment = sums[layer].moment
            assert moment is not None
            scale = 1 / max(moment.vectors * energy, 1e-300)
            result[name] = Norm(moment, outputs=sums[layer].gradients * scale, fits=True)
        return result


class ChannelError(ExactError):
    """As `ExactError`, with a Kronecker product in place of C: channels as they are, the window's pixels uncorrelated.

    In its norm whitened channels are all that a decomposition needs, so that nothing is fitted: what EigenDamage (Wang
    et al. 2019) and Fisher-weighted SVDs do for matrices, for every format. Of linear layers C is what it was.
    """

    key = "kfac"

    def norms(self, model: nn.Module, places: Iterable[Place], inputs: Iterable[Call]) -> dict[str, Norm]:
        """From the moments; the model runs once on all inputs, forward and backward."""
        result = {}
        for name, norm in super().norms(model, places, inputs).items():
            assert norm.moment is not None
            result[name] = replace(norm, moment=norm.moment.by_channels(), fits=False)
        return result


def counted_outputs(model: nn.Module, layers: Mapping[str, Any], inputs: Iterable[Call]) -> dict[str, Tensor]:
    """How much errors of layers' outputs count, as in `ExactError`, up to a factor of each: (groups, outputs, outputs).

    NoGradientError for a model that returns no tensor that depends on its layers.
    """
    sums = {layer: _Sums(layer) for layer in layers.values()}
    _run(model, sums, inputs)
    return {name: sums[layer].gradients for name, layer in layers.items()}


def _run(model: nn.Module, sums: Mapping[nn.Module, _Sums], inputs: Iterable[Call]) -> float:
    """Fill the sums, by one pass forward and backward; the squared norm of all centred outputs."""
    generator, energy = torch.Generator().manual_seed(0), 0.0
    with torch.enable_grad(), measure.evaluating(model), measure.without_fast_path(), _noting(sums):
        for call in inputs:
            with warnings.catch_warnings():  # a model that asks for a value need not know that gradients are wanted
                warnings.filterwarnings("ignore", "Converting a tensor with requires_grad", UserWarning)
                z = _centred(call.run(model))
            v = torch.randn(z.shape, generator=generator).to(z)
            v = v - v.mean(-1, keepdim=True)
            weights: list[Any] = [layer.weight for layer in sums]
            torch.autograd.grad((z * v).sum(), weights, allow_unused=True)  # hooks of outputs are called
            energy += float(z.detach().double().square().sum())
    return energy


class _Sums:
    """Of one layer: the moment of its inputs if wanted, and of gradients at its outputs, (groups, outputs, outputs)."""

    def __init__(self, layer: Any, moment: Moment | None = None) -> None:
        self.layer, self.moment, groups = layer, moment, groups_of(layer)
        channels = layer.weight.shape[1] if isinstance(layer, nn.Embedding) else len(layer.weight) // groups
        self.gradients = torch.zeros(groups, channels, channels, dtype=torch.float64, device=layer.weight.device)

    def note(self, module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], output: Tensor) -> None:
        """A forward hook."""
        if self.moment is not None:
            self.moment.add((args[0] if args else next(iter(kwargs.values()))).detach())
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
        raise NoGradientError("the metric 'exact' needs a model that returns a tensor that depends on its layers")
    z = floating[0]
    return z - z.mean(-1, keepdim=True) if z.shape[-1] > 1 else z
