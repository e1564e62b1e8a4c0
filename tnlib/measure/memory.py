"""The most memory that a function holds at one time, gradients and temporaries included."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._profiler import _EventType
from torch.autograd.profiler import profile
from torch.utils._pytree import tree_leaves


def peak_memory(f: Callable[..., Any], *args: Any, device: torch.device | str | None = None) -> int:
    """Bytes that torch's allocator holds above the start, at the worst moment of one call of f(*args).

    Gradients are as the caller has them: a training step is a function that does its own backward. What exists before
    the call (weights, arguments) is not counted. On the CPU torch's profiler reports every allocation, also the few
    bytes of a Python number that meets a tensor; memory that a library such as oneDNN takes by itself is not seen, and
    what the call frees of older memory is not subtracted. On CUDA the allocator's own counter is read, which does
    subtract it. `notebooks/07_measure_what_it_costs` compares the figure with counts by hand.

    Args:
        f: called once. What it returns is alive until the end.
        args: given to it.
        device: whose memory counts. By default that of the first tensor in `args`, or of the first parameter of a
            module among f and `args`; the CPU when there is none.

    Raises:
        TypeError: f is not callable.
        ValueError: a device other than CPU and CUDA.
        RuntimeError: on the CPU, when a profiler is already running.
    """
    if not callable(f):
        raise TypeError(f"peak_memory needs a function and its arguments, got {type(f).__name__}")
    place = torch.device(device) if device is not None else _device(f, args)
    gc.collect()  # a cycle that is collected in the middle of f would look like memory that f gave back
    if place.type == "cpu":
        return _on_cpu(f, args)
    if place.type == "cuda":
        return _on_cuda(f, args, place)
    raise ValueError(f"peak_memory knows the devices cpu and cuda, got {place.type}")


def _device(f: Callable[..., Any], args: tuple[Any, ...]) -> torch.device:
    for item in tree_leaves((args, f)):
        if isinstance(item, Tensor):
            return item.device
        if isinstance(item, nn.Module):
            for parameter in item.parameters():
                return parameter.device
    return torch.device("cpu")


def _on_cpu(f: Callable[..., Any], args: tuple[Any, ...]) -> int:
    with _quiet(), profile(profile_memory=True) as profiler:
        result = f(*args)
    del result  # alive until here: its release is not part of the recording
    assert profiler.kineto_results is not None
    events = sorted(_allocations(profiler.kineto_results.experimental_event_tree()), key=lambda event: event[0])
    alive: dict[int, int] = {}
    now = peak = 0
    for _, address, size in events:
        if size > 0:
            alive[address] = size
            now += size
            peak = max(peak, now)
        else:
            # The release of something older is reported with a size that was noted long ago, or not at all.
            now -= alive.pop(address, 0)
    return peak


def _allocations(events: Iterable[Any]) -> Iterator[tuple[int, int, int]]:
    """(nanoseconds, address, bytes) of every change of the CPU's memory, bytes negative for a release."""
    for event in events:
        kind, fields = event.typed
        if kind == _EventType.Allocation and fields.device.type == "cpu":
            yield event.start_time_ns, fields.ptr, fields.alloc_size
        yield from _allocations(event.children)


def _on_cuda(f: Callable[..., Any], args: tuple[Any, ...], device: torch.device) -> int:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    result = f(*args)
    torch.cuda.synchronize(device)
    peak: int = torch.cuda.max_memory_allocated(device) - before
    del result
    return peak


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the profiler's start-up notes (of a missing GPU, say) from stderr; it asks for its log level only once."""
    name = "KINETO_LOG_LEVEL"
    before = os.environ.get(name)
    os.environ.setdefault(name, "99")
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
