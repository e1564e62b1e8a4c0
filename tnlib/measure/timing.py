"""Time by the clock, honestly: warmed up, repeated until it settles, medians with their spread, rivals interleaved."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

# glibc gives freed memory back from twice the size of the largest block that it ever mapped and unmapped, and takes
# that to be 128 KiB at first and 32 MiB at most.
_KEPT = 32 * 2**20 - 2**16


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one call: median, and the 10 % and 90 % quantiles, of `n` timed calls."""

    median: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.median:.3g} ms ({self.low:.3g} to {self.high:.3g}, n = {self.n})"


@dataclass(frozen=True)
class Comparison:
    """Timings of several functions called in turn, and how many times as fast as the first each is.

    `speedup[name]` is (median, low, high) of the ratios first / name taken round by round: what the machine did to a
    whole round cancels.
    """

    timings: dict[str, Timing]
    speedup: dict[str, tuple[float, float, float]]

    def __str__(self) -> str:
        width = max(map(len, self.timings))
        lines = []
        for name, timing in self.timings.items():
            median, low, high = self.speedup[name]
            lines.append(f"{name:<{width}}  {timing}  {median:.2f}x ({low:.2f} to {high:.2f})")
        return "\n".join(lines)


def latency(f: Callable[..., Any], *args: Any, rounds: int = 30, seconds: float = 2.0) -> Timing:
    """Time f(*args): two calls to warm up, then calls until `rounds` are done or `seconds` are over, three at least."""
    return compare({"f": f}, *args, rounds=rounds, seconds=seconds).timings["f"]


def compare(
    functions: Mapping[str, Callable[..., Any]], *args: Any, rounds: int = 30, seconds: float = 2.0, block: float = 0.0
) -> Comparison:
    """Time several functions on the same arguments, interleaved: one turn of each a round, in alternating order.

    A turn is one call, or with `block` as many as fill so many milliseconds after one that is not timed: a rival that
    reads hundreds of megabytes then does not leave cold caches to the others. Before, the C library is brought to keep
    freed memory, as it does in a program that has once handled large tensors: else a layer alone in its process may
    get its pages anew in every call, which can take as long as its arithmetic.

    Args:
        functions: name -> function; the first is the one that the speed-ups refer to.
        args: given to each of them. Gradients are off: a training step is timed by passing a function that turns
            them on.
        rounds: number of timed turns of each.
        seconds: no round begins after `rounds` or, once three are done, after `seconds` times the number of functions.
        block: milliseconds of a turn; its time is then the median of its calls.

    Raises:
        ValueError: no functions or no rounds.
    """
    if not functions or rounds < 1:
        raise ValueError("compare needs at least one function and one round")
    names = list(functions)
    times: dict[str, list[float]] = {name: [] for name in names}
    torch.empty(_KEPT, dtype=torch.uint8)
    with torch.no_grad():
        for name in names * 2:
            functions[name](*args)
        started = time.perf_counter()
        for turn in range(rounds):
            if turn >= 3 and time.perf_counter() - started > seconds * len(names):
                break
            for name in names if turn % 2 == 0 else reversed(names):
                times[name].append(_turn(functions[name], args, block))
    first = np.array(times[names[0]])
    return Comparison(
        {name: Timing(*_spread(np.array(times[name])), n=len(first)) for name in names},
        {name: _spread(first / np.array(times[name])) for name in names},
    )


def _turn(f: Callable[..., Any], args: tuple[Any, ...], block: float) -> float:
    if not block:
        return _milliseconds(f, args)
    f(*args)
    times = [_milliseconds(f, args)]
    while sum(times) < block:
        times.append(_milliseconds(f, args))
    return float(np.median(times))


def _milliseconds(f: Callable[..., Any], args: tuple[Any, ...]) -> float:
    # Asked once a call and never between the clock's two readings: the question takes tens of microseconds.
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    f(*args)
    if cuda:
        torch.cuda.synchronize()
    return (time.perf_counter() - start) * 1e3


def _spread(values: np.ndarray) -> tuple[float, float, float]:
    median, low, high = np.quantile(values, [0.5, 0.1, 0.9])
    return float(median), float(low), float(high)
