"""What a call of a matrix product is expected to cost on a CPU: the model by which the planner chooses.

`notebooks/07_measure_what_it_costs` measures where time goes, `tnlib bench products` fits the model to products,
`tnlib bench layers` compares its predictions for whole layers with the clock.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Product:
    """`count` products of (rows x inner) by (inner x cols) matrices in one call, all with the same weight.

    The weight is the left operand of a batched product (`weight_first`), the right one of a plain product (count 1).
    """

    count: int
    rows: int
    inner: int
    cols: int
    weight_first: bool

    @property
    def macs(self) -> int:
        """Multiply-accumulate operations."""
        return self.count * self.rows * self.inner * self.cols

    @property
    def weight(self) -> int:
        """Numbers in the weight."""
        return self.inner * (self.rows if self.weight_first else self.cols)

    @property
    def result(self) -> int:
        """Numbers written."""
        return self.count * self.rows * self.cols

    @property
    def floats(self) -> int:
        """Numbers read and written, each once."""
        return self.weight + self.count * self.inner * (self.cols if self.weight_first else self.rows) + self.result

    def __str__(self) -> str:
        times = f"{self.count} x " if self.weight_first else ""
        return f"{times}({self.rows} x {self.inner}) ({self.inner} x {self.cols})"


@dataclass(frozen=True)
class CostModel:
    """Nanoseconds of a product: a sum of what is started, multiplied, written and moved.

    The default rates were fitted by `tnlib bench products` to two thirds of 600 random products, float32, two threads
    of a 2.5 GHz Xeon with AVX-512; on the other third their error is 13 % in the median (the record with `products`
    in its name under data/results). Only the proportions matter for a choice: that machine's pace varies by two, and
    on a newer Xeon the rates are off by a factor of 3.7 in the median (record products-c12bb9d95017).
    `narrow` is the exception, where machines differ most: 0.004 fits that Xeon, 0.04 an EPYC with AVX2.
    """

    call: float = 13300.0  # a call of torch, Python's part included
    matrix: float = 122.0  # a matrix of a batch
    mac: float = 0.0171  # a multiply-accumulate, the last mode counted in full vectors
    narrow: float = 0.01  # more for one of a batched product whose last mode does not fill a vector
    written: float = 0.0565  # a number of the result, likewise
    near: float = 0.0543  # a number read or written in cache
    far: float = 0.160  # more for a number of a product that does not fit into the cache
    memory: float = 0.217  # more for a number of a weight that does not fit into the last cache
    paged: float = 1.60  # more for a number of a result so large that its memory is new in every call
    vector: int = 16  # numbers in a vector register
    cache: int = 12_000_000  # bytes of a product that stay near
    last_cache: int = 32_000_000  # bytes of a weight that need not come from memory
    mapped: int = 32 * 2**20  # bytes from which on the C library gives memory back: glibc's largest threshold

    def product(self, p: Product) -> float:
        """Nanoseconds of one product."""
        rows, cols = -(-p.rows // 4) * 4, -(-p.cols // self.vector) * self.vector
        outputs = p.count * rows * cols
        time = self.call + self.mac * outputs * p.inner + self.written * outputs + self.moved(p.floats)
        if p.weight_first:
            time += self.matrix * p.count
            if p.cols < self.vector:
                time += self.narrow * outputs * p.inner
        if 4 * p.weight > self.last_cache:
            time += self.memory * p.weight
        if 4 * p.result >= self.mapped:
            time += self.paged * p.result
        return time

    def moved(self, floats: float) -> float:
        """Nanoseconds of reading or writing so many numbers, from one working set."""
        return floats * (self.near + (self.far if 4 * floats > self.cache else 0.0))
