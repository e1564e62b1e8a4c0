"""Costs that are counted, not timed: exact, the same on every machine."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

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


def cost(model: nn.Module, input_shape: Sequence[int], *, dtype: torch.dtype = torch.float32) -> Cost:
    """Count a model's cost for an input of one shape, batch included; the model runs in eval mode, on zeros.

    It runs twice: what layers prepare in their first call is not counted. Operations that work entry by entry, views,
    reductions, normalizations, pooling and indexing count as no MACs. What is neither one of them nor a product that a
    formula is known for (`torch.linalg`, `torch.fft`, an operation of your own) is named in a warning and not counted,
    unless you give torch a formula: `torch.utils.flop_counter.register_flop_formula`. Transformer layers run without
    their fused inference path, which hides its products.

    Args:
        model: any module of one input.
        input_shape: for example (1, 3, 32, 32).
        dtype: of the input.

    Raises:
        ValueError: the model does not accept that shape.
    """
    tensors = (*model.parameters(), *model.buffers())
    device = tensors[0].device if tensors else torch.device("cpu")
    # Tensors made in inference mode would hide what operations consist of.
    with torch.inference_mode(False), torch.no_grad(), evaluating(model), _without_fast_path():
        x = torch.zeros(tuple(input_shape), dtype=dtype, device=device)
        counter = Counter(x)
        try:
            model(x)
            with counter:
                model(x)
        except (RuntimeError, IndexError, AssertionError) as error:
            raise ValueError(f"the model does not run on an input of shape {tuple(input_shape)}: {error}") from error
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
def _without_fast_path() -> Iterator[None]:
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
