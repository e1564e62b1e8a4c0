"""The most memory that a function holds at one time, gradients and temporaries included."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.profiler import profile


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
    if place.type == "cpu":
        return _on_cpu(f, args)
    if place.type == "cuda":
        return _on_cuda(f, args, place)
    raise ValueError(f"peak_memory knows the devices cpu and cuda, got {place.type}")


def _device(f: Callable[..., Any], args: tuple[Any, ...]) -> torch.device:
    return next(_devices((args, f)), torch.device("cpu"))


def _devices(value: object) -> Iterator[torch.device]:
    """Of the tensors and modules in nested tuples, lists and dicts."""
    if isinstance(value, Tensor):
        yield value.device
    elif isinstance(value, nn.Module):
        yield from (parameter.device for parameter in value.parameters())
    elif isinstance(value, (tuple, list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _devices(item)


def _on_cpu(f: Callable[..., Any], args: tuple[Any, ...]) -> int:
    with _quiet(), profile(profile_memory=True) as profiler:
        result = f(*args)
    del result  # alive until here: its release is not part of the recording
    alive: dict[int, int] = {}
    now = peak = 0
    for address, size in _allocations(profiler):
        if size > 0:
            alive[address] = size
            now += size
            peak = max(peak, now)
        else:
            # The release of something older is reported with a size that was noted long ago, or not at all.
            now -= alive.pop(address, 0)
    return peak


def _allocations(profiler: profile) -> Iterator[tuple[int, int]]:
    """(address, bytes) of every change of the CPU's memory in its order, bytes negative for a release.

    Read from the profiler's trace, which says both; its tables in Python only add up what each operator took.
    """
    with TemporaryDirectory() as folder:
        trace = Path(folder, "trace.json")
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_bytes())["traceEvents"]
    changes = [event for event in events if event.get("name") == "[memory]"]
    for event in sorted(changes, key=lambda event: float(event["ts"])):
        details = event["args"]
        if details["Device Type"] == 0:  # the CPU
            yield details["Addr"], details["Bytes"]


def _on_cuda(f: Callable[..., Any], args: tuple[Any, ...], device: torch.device) -> int:
    gc.collect()  # a cycle that is collected in the middle of f would look like memory that f gave back
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
