"""A frozen model without Python around it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

_WARM_UP = 3  # calls in which TorchScript profiles and optimizes


def graph(frozen: nn.Module, example: Tensor | Sequence[Any]) -> Any:
    """A frozen model as a TorchScript graph, which runs without the interpreter: for small networks half of the time.

    Traced for the example, its constants folded, and called a few times, since it optimizes itself in its first calls.
    TorchScript is in maintenance; of torch's ways out of Python it is the one with the fewest microseconds a call.

    Args:
        frozen: from `layers.freeze`, with `fixed=True` where convolutions shall keep what was planned for the shape;
            or any module in eval mode without gradients.
        example: an input of the shape that is to come, or the sequence of the model's arguments.

    Returns:
        A callable that gives what the model gives.

    Raises:
        ValueError: a model in training mode.
    """
    if frozen.training:
        raise ValueError("a graph is made of a frozen model, or of one in eval mode: call layers.freeze first")
    arguments = (example,) if isinstance(example, Tensor) else tuple(example)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.freeze(torch.jit.trace(frozen, arguments))
        for _ in range(_WARM_UP):
            traced(*arguments)
    return traced
