"""What is wanted of a layer in front of a ReLU: where the original is cut off, whatever is cut off as well.

A ReLU makes all negative numbers one and the same, so that a layer of few parameters need not spend any on telling them
apart. Zhang et al. (2015, arXiv 1505.06798) fit layers to what comes out of the ReLU, in turns: a problem
for each number, in closed form, and least squares. Here the former is a projection: of all numbers with the original's
value behind the ReLU, the one nearest to what the compressed network has. The squared distance from these sets bounds
that behind the ReLU, and does not grow from one round to the next, where a fit counts errors of all outputs alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

SMALLEST = 1e-3  # of a BatchNorm's scales, relative to the largest, through which an error behind it is made up for
RELUS = (F.relu, torch.relu, torch.relu_, "relu", "relu_")


def is_relu(node: fx.Node, model: nn.Module) -> bool:
    """Whether a node of a model's graph is a ReLU: a module, a function or a method."""
    if node.op == "call_module":
        return isinstance(model.get_submodule(str(node.target)), nn.ReLU)
    return node.target in RELUS


@dataclass(frozen=True)
class Affine:
    """What a BatchNorm in eval mode does to each channel: times `scale`, plus `offset`."""

    scale: Tensor
    offset: Tensor

    @classmethod
    def of(cls, norm: Any, like: Tensor) -> Affine:
        """Of a BatchNorm, or of nothing, in the shape in which it meets outputs of a layer."""
        if norm is None:
            return cls(like.new_ones(()), like.new_zeros(()))
        scale = (norm.running_var + norm.eps).rsqrt() * (1.0 if norm.weight is None else norm.weight)
        offset = (0.0 if norm.bias is None else norm.bias) - scale * norm.running_mean
        shape = (-1, *[1] * (like.ndim - 2))
        return cls(scale.reshape(shape), offset.reshape(shape))

    def __call__(self, y: Tensor) -> Tensor:
        return self.scale * y + self.offset

    def inverse(self, change: Tensor) -> Tensor:
        """The change of y that makes this change behind; 0 where hardly anything passes."""
        passes = self.scale.abs() > SMALLEST * self.scale.abs().max()
        return change * torch.where(passes, 1 / self.scale, torch.zeros_like(self.scale))


def rectified(before: Tensor, now: Tensor) -> Tensor:
    """Of all numbers that a ReLU makes what it makes of `before`, those that are nearest to `now`."""
    return torch.where(before > 0, before, now.clamp_max(0))
