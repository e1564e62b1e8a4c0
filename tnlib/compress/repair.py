"""What costs no training: layers fitted one after the other to what the original computes, or BatchNorm alone."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tnlib import layers, measure
from tnlib.compress.curvature import NoGradientError, counted_outputs
from tnlib.compress.inputs import Call, calls
from tnlib.compress.sequence import BATCHNORM, Walk, traced
from tnlib.compress.stepwise import fit_stepwise
from tnlib.compress.survey import opened

ROUNDING = 1e-3  # for networks that will be int8; found on training images of ResNet-20 that nothing was fitted to
ROUNDS = 3  # in which what is wanted in front of a ReLU is drawn anew


@torch.no_grad()
def repair(
    small: nn.Module,
    model: nn.Module,
    inputs: Any,
    *,
    fit: bool = True,
    skip: Collection[str] = (),
    rounds: int = ROUNDS,
    metric: Literal["input", "exact"] = "exact",
    rounding: float = 0.0,
) -> nn.Module:
    """A new model: `small`, its layers fitted to what the original computes; no labels, no training, no rank changes.

    From the input to the output, each linear layer and convolution, factorized or not, is fitted on the inputs that the
    layers before it now give: the kernel by least squares, then its factors in the norm of these inputs, and of outputs
    by what their errors do to the original network's. Before a sum with a shortcut the layer makes up for the
    shortcut's error, too; in front of a ReLU it may give any negative number where the original is cut off. Biases and
    BatchNorm's means follow. Layers that are called twice, share a parameter, or have more than 6,000 inputs stay as
    they are, as embeddings do.

    Costs: one call of each network on all inputs, whose values at the widest place are kept in memory, of both, and one
    backward pass of the original; and per layer a moment with the square of its inputs. A network that `torch.fx`
    cannot trace takes as many calls as it has layers.

    Args:
        small: the compressed network, from `Plan.apply`; it is untouched.
        model: the original.
        inputs: as for `curves`; hundreds of samples, of the kind that the network was trained on. Few samples fit
            themselves: a kernel has as many unknowns as inputs times window.
        fit: without, no weight changes, and BatchNorm statistics alone are estimated anew.
        skip: qualified names of modules that are to stay as they are, with all that they contain.
        rounds: how often what is wanted of a layer in front of a ReLU is drawn anew (`rectified`); 0: what the original
            gives there. With three a repair takes two to three times as long. Only where `torch.fx` traces.
        metric: how much errors of a layer's outputs count: `input` all alike, `exact` by what they do to the outputs of
            the original, to first order, as the metric of that name has it; of a model that returns no tensor that
            depends on its layers all alike, too.
        rounding: how much the squares of a CP convolution's terms count beside its squared error (`fit_factors`). For a
            network that will be int8, `ROUNDING` keeps terms from cancelling: each would be larger than their sum, as
            would be what is rounded off it.

    Raises:
        ValueError: inputs that are empty; networks of other layers; negative rounds; an unknown metric; a rounding
            that is no number of at least 0.
        TypeError: inputs of another kind.
    """
    if rounds < 0:
        raise ValueError(f"rounds: {rounds} is negative")
    if not rounding >= 0:
        raise ValueError(f"rounding: {rounding} is no number of at least 0")
    if metric not in ("input", "exact"):
        raise ValueError(f"unknown metric {metric!r}; expected input or exact")
    repaired, model = copy.deepcopy(small), opened(model)
    if not fit:
        reestimate_batchnorm(repaired, inputs)
        return repaired
    _require_same(repaired, model)
    every = list(calls(model, inputs))
    with measure.evaluating(model), measure.evaluating(repaired), measure.without_fast_path():
        outputs = _counted(repaired, model, every) if metric == "exact" else {}
        found = traced(repaired, model, every)
        if found is None:
            fit_stepwise(repaired, model, every, skip, outputs, rounding)
        else:
            Walk(*found, repaired, model, skip, rounds, outputs, rounding).run()
    return repaired


def _counted(small: nn.Module, model: nn.Module, every: Sequence[Call]) -> dict[str, Tensor]:
    """How much errors of the outputs of layers that are factorized count; of none where the model does not tell."""
    made = {name for name, module in small.named_modules() if isinstance(module, layers.Factorized)}
    named = {name: layer for name, layer in model.named_modules() if name in made}
    if not named:
        return {}
    try:
        return counted_outputs(model, named, every)
    except NoGradientError:
        return {}


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
