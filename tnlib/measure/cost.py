"""Costs that are counted, not timed: exact, the same on every machine."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tnlib.measure.counter import Counter


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

    `params`: number of parameters; `macs`: multiply-accumulates of convolutions, matrix products, attention (masked or
    not) and recurrent layers; `bytes`: of parameters and buffers; `peak_activation_bytes`: the most that inputs,
    intermediate and output tensors occupy at one time.
    """

    params: int
    macs: int
    bytes: int
    peak_activation_bytes: int

    def relative_to(self, other: Cost) -> dict[str, float]:
        """Each figure as a fraction of another cost's (a compressed network's of the original's)."""
        return {name: value / getattr(other, name) for name, value in vars(self).items() if getattr(other, name)}


def cost(
    model: nn.Module, example: Sequence[Any] | Tensor | Mapping[str, Any], *, dtype: torch.dtype = torch.float32
) -> Cost:
    """Count what a model costs in one call; it runs in eval mode.

    It runs twice: what layers prepare in their first call is not counted. Operations that work entry by entry, views,
    reductions, normalizations, pooling and indexing count as no MACs. What is neither one of them nor a product that a
    formula is known for (`torch.linalg`, `torch.fft`, an operation of your own) is named in a warning and not counted,
    unless you give torch a formula: `torch.utils.flop_counter.register_flop_formula`. Transformer layers run without
    their fused inference path, which hides its products.

    Args:
        model: any module.
        example: the shape of its one input, batch included, for example (1, 3, 32, 32), which is then zeros; or an
            input itself, the sequence of several, or a mapping of keyword arguments.
        dtype: of the zeros.

    Raises:
        ValueError: the model does not accept that.
    """
    tensors = (*model.parameters(), *model.buffers())
    device = tensors[0].device if tensors else torch.device("cpu")
    # Tensors made in inference mode would hide what operations consist of.
    with torch.inference_mode(False), torch.no_grad(), evaluating(model), without_fast_path():
        args, kwargs = _arguments(example, dtype, device)
        counter = Counter([args, kwargs])
        try:
            model(*args, **kwargs)
            with counter:
                model(*args, **kwargs)
        except (RuntimeError, IndexError, AssertionError) as error:
            shapes = ", ".join(str(tuple(x.shape)) for x in [*args, *kwargs.values()] if isinstance(x, Tensor))
            raise ValueError(f"the model does not run on an input of shape {shapes}: {error}") from error
    if counter.uncounted:
        warnings.warn(
            f"the MACs of {', '.join(sorted(counter.uncounted))} are not counted: no formula is known", stacklevel=2
        )
    return Cost(
        params=sum(p.numel() for p in model.parameters()),
        macs=counter.macs,
        bytes=sum(t.numel() * t.element_size() for t in tensors),
        peak_activation_bytes=counter.peak,
    )


@contextmanager
def without_fast_path() -> Iterator[None]:
    """For a while, transformer layers call their parts, as in training, instead of one operation that hides them."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _arguments(
    example: Sequence[Any] | Tensor | Mapping[str, Any], dtype: torch.dtype, device: torch.device
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments of the call that an example stands for."""
    if isinstance(example, Tensor):
        return (example.to(device),), {}
    if isinstance(example, Mapping):
        return (), dict(example)
    if all(isinstance(size, int) for size in example):
        return (torch.zeros(tuple(example), dtype=dtype, device=device),), {}
    return tuple(example), {}
