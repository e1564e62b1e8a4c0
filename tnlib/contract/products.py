"""Matrix products as a contraction calls them: their sizes and what they count, and how long they take."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

LARGEST = 3e8, 6e7  # multiply-accumulates and numbers of a product that is timed


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


def random_products(number: int, seed: int = 0) -> list[Product]:
    """Products as they occur: half batched, a quarter of many rows, a quarter of few rows and a large weight."""
    rng = np.random.default_rng(seed)

    def draw(low: float, high: float) -> int:
        return round(2 ** rng.uniform(np.log2(low), np.log2(high)))

    found: list[Product] = []
    while len(found) < number:
        kind = rng.integers(4)
        if kind < 2:
            product = Product(draw(1, 4096), draw(2, 256), draw(2, 512), draw(2, 1024), weight_first=True)
        elif kind == 2:
            product = Product(1, draw(1, 65536), draw(2, 2048), draw(2, 2048), weight_first=False)
        else:
            product = Product(1, draw(1, 128), draw(16, 16384), draw(16, 16384), weight_first=False)
        if product.macs <= LARGEST[0] and product.floats <= LARGEST[1]:
            found.append(product)
    return found


def time_products(products: Sequence[Product], seconds: float = 0.1) -> list[float]:
    """Nanoseconds of a call of each product, timed for `seconds` in turns with one fixed product.

    A time is the median of its ratios to that product, times that one's median over the whole run: what the machine
    does to both cancels.
    """
    pace = call(Product(1, 256, 256, 256, weight_first=False))
    ratios, paces = [], []
    for product in products:
        run = call(product)
        found: list[float] = []
        run()
        end = time.perf_counter() + seconds
        while not found or time.perf_counter() < end:
            unit = _nanoseconds(pace)
            paces.append(unit)
            found.append(_nanoseconds(run) / unit)
        ratios.append(float(np.median(found)))
    return [ratio * float(np.median(paces)) for ratio in ratios]


def call(product: Product) -> Callable[[], Tensor]:
    """A product of ones, as a contraction calls it."""
    count, rows, inner, cols = product.count, product.rows, product.inner, product.cols
    if not product.weight_first:
        y, weight = torch.ones(rows, inner), torch.ones(inner, cols)
        return lambda: torch.mm(y, weight)
    y, weight = torch.ones(count, inner, cols), torch.ones(rows, inner)
    return lambda: torch.bmm(weight.expand(count, -1, -1), y)


def _nanoseconds(run: Callable[[], Tensor], least: float = 1e6) -> float:
    """Of one call, the mean over so many calls that they take `least` nanoseconds."""
    calls, start, passed = 0, time.perf_counter_ns(), 0
    while passed < least:
        run()
        calls += 1
        passed = time.perf_counter_ns() - start
    return passed / calls
