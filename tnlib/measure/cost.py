"""Costs that are counted, not timed: exact, the same on every machine."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model in eval mode for a while; every submodule gets its own mode back, also after an error."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@dataclass(frozen=True)
class Cost:
    """What one forward pass takes.

    `params`: number of parameters; `macs`: multiply-accumulates of convolutions and matrix products (half of torch's
    FLOP count); `bytes`: of parameters and buffers; `peak_activation_bytes`: the most that inputs, intermediate and
    output tensors occupy at one time.
    """

    params: int
    macs: int
    bytes: int
    peak_activation_bytes: int

    def relative_to(self, other: Cost) -> dict[str, float]:
        """Each figure as a fraction of another cost's (a compressed network's of the original's)."""
        return {name: value / getattr(other, name) for name, value in vars(self).items() if getattr(other, name)}


def cost(model: nn.Module, input_shape: Sequence[int], *, dtype: torch.dtype = torch.float32) -> Cost:
    """Count a model's cost for an input of one shape, batch included; the model runs in eval mode, on zeros.

    It runs twice: what layers prepare in their first call, as merged factors, is not counted.

    Args:
        model: any module of one input.
        input_shape: for example (1, 3, 32, 32).
        dtype: of the input.

    Raises:
        ValueError: the model does not accept that shape.
    """
    tensors = (*model.parameters(), *model.buffers())
    device = tensors[0].device if tensors else torch.device("cpu")
    x = torch.zeros(tuple(input_shape), dtype=dtype, device=device)
    counter, memory = FlopCounterMode(display=False), _PeakMemory(x)
    try:
        with evaluating(model), torch.no_grad():
            model(x)
            with counter, memory:
                model(x)
    except (RuntimeError, IndexError) as error:
        raise ValueError(f"the model does not run on an input of shape {tuple(input_shape)}: {error}") from error
    return Cost(
        params=sum(p.numel() for p in model.parameters()),
        macs=counter.get_total_flops() // 2,
        bytes=sum(t.numel() * t.element_size() for t in tensors),
        peak_activation_bytes=memory.peak,
    )


class _PeakMemory(TorchDispatchMode):
    """Follows the storages that operations return, and the most bytes of them alive at one time."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.alive: dict[int, tuple[int, int]] = {}  # storage -> (tensors on it, bytes)
        self.now = self.peak = 0
        self._add(x)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        mine = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        for tensor in tree_leaves(result):
            # A view of something that is not followed is a view of a parameter: not an activation.
            if isinstance(tensor, Tensor):
                key = tensor.untyped_storage()._cdata
                if key in self.alive or key not in mine:
                    self._add(tensor)
        return result

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        count, size = self.alive.get(storage._cdata, (0, storage.nbytes()))
        if count == 0:
            self.now += size
            self.peak = max(self.peak, self.now)
        self.alive[storage._cdata] = count + 1, size
        weakref.finalize(tensor, self._drop, storage._cdata)

    def _drop(self, key: int) -> None:
        count, size = self.alive[key]
        if count == 1:
            self.now -= size
            del self.alive[key]
        else:
            self.alive[key] = count - 1, size
