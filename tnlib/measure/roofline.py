"""What this machine can do at best: arithmetic, memory traffic and the price of a call, measured in a second or two."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import torch

from tnlib.provenance import has_fast_bf16


@dataclass(frozen=True)
class Roofline:
    """The limits of one machine at one number of threads.

    `gmacs_per_second`: the rate of a large square matrix product, in 10^9 MACs (one MAC is two FLOP), for each dtype
    that the machine multiplies in hardware, by name: `float32`, and `bfloat16` where it is fast.
    `gbytes_per_second`: the rate of a triad a = b + 3 c on arrays far larger than the caches, in 10^9 bytes, two reads
    and a write for each entry.
    `overhead_microseconds`: one product of two 8 x 8 matrices, which is nearly all overhead of the call.
    """

    threads: int
    gmacs_per_second: Mapping[str, float]
    gbytes_per_second: float
    overhead_microseconds: float

    def attainable(self, intensity: float, dtype: str = "float32") -> float:
        """The highest rate, in 10^9 MACs per second, of work that does `intensity` MACs for each byte it moves.

        The smaller of the arithmetic peak and of bandwidth times intensity (Williams, Waterman and Patterson 2009).

        Raises:
            ValueError: a negative intensity, or a dtype that was not measured.
        """
        if not intensity >= 0:
            raise ValueError(f"intensity must be at least 0 MACs per byte, got {intensity}")
        return min(self._peak(dtype), self.gbytes_per_second * intensity)

    def ridge(self, dtype: str = "float32") -> float:
        """The intensity, in MACs per byte, from which on arithmetic is the limit and no longer memory."""
        return self._peak(dtype) / self.gbytes_per_second

    def _peak(self, dtype: str) -> float:
        if dtype not in self.gmacs_per_second:
            raise ValueError(f"dtype must be one of {', '.join(self.gmacs_per_second)}, got {dtype!r}")
        return self.gmacs_per_second[dtype]

    def __str__(self) -> str:
        peaks = ", ".join(f"{rate:.3g} GMAC/s {dtype}" for dtype, rate in self.gmacs_per_second.items())
        return (
            f"{peaks}, {self.gbytes_per_second:.3g} GB/s, {self.overhead_microseconds:.3g} us a call, "
            f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        )


def roofline(
    *, threads: int | None = None, matrix_size: int = 1024, array_megabytes: float = 128, repeats: int = 7
) -> Roofline:
    """Measure the CPU's arithmetic peak, its memory bandwidth and the overhead of a call; medians, after a warm-up.

    Args:
        threads: of torch, for this measurement only; by default as many as it uses now.
        matrix_size: rows and columns of the matrices that are multiplied.
        array_megabytes: of each of the triad's three arrays. It must be far beyond the last cache for the rate to be
            the memory's.
        repeats: timed runs of each kind.

    Raises:
        ValueError: a number below 1.
    """
    given = {"threads": 1 if threads is None else threads, "matrix_size": matrix_size, "repeats": repeats}
    for name, value in given.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if not array_megabytes > 0:
        raise ValueError(f"array_megabytes must be positive, got {array_megabytes}")
    dtypes = [torch.float32, *([torch.bfloat16] if has_fast_bf16() else [])]
    with _threads(threads), torch.no_grad():
        return Roofline(
            threads=torch.get_num_threads(),
            gmacs_per_second={
                str(dtype).removeprefix("torch."): matrix_size**3 / _product_seconds(matrix_size, dtype, repeats) / 1e9
                for dtype in dtypes
            },
            gbytes_per_second=_bandwidth(int(array_megabytes * 1e6 / 4) + 1, repeats) / 1e9,
            overhead_microseconds=_overhead(repeats) * 1e6,
        )


def _product_seconds(size: int, dtype: torch.dtype, repeats: int) -> float:
    a, b, out = (torch.ones(size, size, dtype=dtype) for _ in range(3))
    return _seconds(lambda: torch.mm(a, b, out=out), repeats)


def _bandwidth(entries: int, repeats: int) -> float:
    a, b, c = (torch.ones(entries) for _ in range(3))
    return 3 * a.numel() * a.element_size() / _seconds(lambda: torch.add(b, c, alpha=3, out=a), repeats)


def _overhead(repeats: int, calls: int = 500) -> float:
    a, b = torch.ones(8, 8), torch.ones(8, 8)

    def many() -> None:
        for _ in range(calls):
            a @ b

    return _seconds(many, repeats) / calls


def _seconds(f: Callable[[], object], repeats: int) -> float:
    """Median seconds of one call, after two that are not timed."""
    f()
    f()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        f()
        times.append(time.perf_counter() - start)
    return median(times)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        if count is not None:
            torch.set_num_threads(count)
        yield
    finally:
        torch.set_num_threads(before)
