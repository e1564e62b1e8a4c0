"""What costs no training: layers fitted one after the other to what the original computes, or BatchNorm alone."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any

import torch
from torch import nn

from tnlib import measure
from tnlib.compress.inputs import calls
from tnlib.compress.sequence import BATCHNORM, Walk, traced
from tnlib.compress.stepwise import fit_stepwise
from tnlib.compress.survey import opened


@torch.no_grad()
def repair(
    small: nn.Module,
    model: nn.Module,
    inputs: Any,
    *,
    fit: bool = True,
    skip: Collection[str] = (),
    rounds: int = 0,
) -> nn.Module:
    """A new model: `small`, its layers fitted to what the original computes; no labels, no gradients, no rank changes.

    From the input to the output, each linear layer and convolution, factorized or not, is fitted on the inputs that the
    layers before it now give: the kernel by least squares, then its factors in the norm of these inputs. Before a sum
    with a shortcut the layer makes up for the shortcut's error, too. Biases and BatchNorm's means follow. Layers that
    are called twice, share a parameter, or have more than 6,000 inputs stay as they are, as embeddings do.

    Costs: one call of each network on all inputs, whose values at the widest place are kept in memory, of both; and per
    layer a moment with the square of its inputs. A network that `torch.fx` cannot trace takes as many calls as it has
    layers.

    Args:
        small: the compressed network, from `Plan.apply`; it is untouched.
        model: the original.
        inputs: as for `curves`; hundreds of samples, of the kind that the network was trained on. Few samples fit
            themselves: a kernel has as many unknowns as inputs times window.
        fit: without, no weight changes, and BatchNorm statistics alone are estimated anew.
        skip: qualified names of modules that are to stay as they are, with all that they contain.
        rounds: how often what is wanted of a layer in front of a ReLU is drawn anew: where the original is cut off, the
            layer may give any negative number (`rectified`). With three a repair takes two to three times as long.
            0: what the original gives. Only where `torch.fx` traces.

    Raises:
        ValueError: inputs that are empty; networks of other layers; negative rounds. TypeError: inputs of another kind.
    """
    if rounds < 0:
        raise ValueError(f"rounds: {rounds} is negative")
    repaired, model = copy.deepcopy(small), opened(model)
    if not fit:
        reestimate_batchnorm(repaired, inputs)
        return repaired
    _require_same(repaired, model)
    every = list(calls(model, inputs))
    with measure.evaluating(model), measure.evaluating(repaired), measure.without_fast_path():
        found = traced(repaired, model, every)
        if found is None:
            fit_stepwise(repaired, model, every, skip)
        else:
            Walk(*found, repaired, model, skip, rounds).run()
    return repaired


def _require_same(small: nn.Module, model: nn.Module) -> None:
    """ValueError unless every BatchNorm and layer of the original has its place in the compressed network."""
    places = {name for name, _ in small.named_modules()}
    for name, module in model.named_modules():
        if name not in places and any(True for _ in module.parameters(recurse=False)):
            raise ValueError(f"the networks differ: the compressed one has no {name!r}")


@torch.no_grad()
def reestimate_batchnorm(model: nn.Module, inputs: Any) -> None:
    """Recompute every BatchNorm's running mean and variance, in place: plain averages over the batches of `inputs`.

    Costs one forward pass. Layers without running statistics are left alone; all modes are restored. Raises as
    `repair`.
    """
    norms = [m for m in model.modules() if isinstance(m, BATCHNORM) and m.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    with measure.evaluating(model):
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # torch then averages over all batches
            norm.train()
        try:
            for call in calls(model, inputs):
                call.run(model)
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
