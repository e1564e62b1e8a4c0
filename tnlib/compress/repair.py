"""What costs no training: the statistics of BatchNorm layers, estimated anew behind compressed layers."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from tnlib import measure
from tnlib.compress.inputs import calls


def repair(small: nn.Module, model: nn.Module, inputs: Any) -> nn.Module:
    """A new model: `small` with its BatchNorm statistics estimated anew on inputs; no weight changes, no labels.

    Args:
        small: the compressed network; it is untouched.
        model: the original; today it is not looked at.
        inputs: as for `curves`; hundreds of samples, of the kind that the network was trained on.

    Raises:
        ValueError: inputs that are empty. TypeError: inputs of another kind.
    """
    repaired = copy.deepcopy(small)
    reestimate_batchnorm(repaired, inputs)
    return repaired


@torch.no_grad()
def reestimate_batchnorm(model: nn.Module, inputs: Any) -> None:
    """Recompute every BatchNorm's running mean and variance, in place: plain averages over the batches of `inputs`.

    Costs one forward pass. Layers without running statistics are left alone; all modes are restored. Raises as
    `repair`.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
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
