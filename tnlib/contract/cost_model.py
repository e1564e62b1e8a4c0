"""What a call of a matrix product is expected to cost on a CPU: the model by which plans are chosen.

`notebooks/07_measure_what_it_costs` measures where time goes, `notebooks/experiments/bench_products` fits the model to
products, and `bench_layers` beside it compares its predictions for whole layers with the clock.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any, Self

import numpy as np
from scipy.optimize import least_squares

from tnlib.contract.products import Product, random_products, time_products

RATES = ("call", "matrix", "mac", "narrow", "written", "near", "far", "memory", "paged")
_CACHES = (2e6, 3e6, 4e6, 6e6, 8e6, 12e6)


@dataclass(frozen=True)
class CostModel:
    """Nanoseconds of a product: a sum of what is started, multiplied, written and moved.

    A rate that is not given is zero: `CostModel(mac=1.0)` counts multiply-accumulates. The rates of measured machines
    are in `rates.json`, with where they come from; `default()` and `named(...)` read them, `fit()` measures this one.
    Only the proportions matter for a choice. `narrow` is where machines differ most.
    """

    call: float = 0.0  # a call of torch, Python's part included
    matrix: float = 0.0  # a matrix of a batch
    mac: float = 0.0  # a multiply-accumulate, the last mode counted in full vectors
    narrow: float = 0.0  # more for one of a batched product whose last mode does not fill a vector
    written: float = 0.0  # a number of the result, likewise
    near: float = 0.0  # a number read or written in cache
    far: float = 0.0  # more for a number of a product that does not fit into the cache
    memory: float = 0.0  # more for a number of a weight that does not fit into the last cache
    paged: float = 0.0  # more for a number of a result so large that its memory is new in every call
    vector: int = 1  # numbers in a vector register
    tile: int = 1  # rows of a result that a processor's kernel makes together
    cache: int = 12_000_000  # bytes of a product that stay near
    last_cache: int = 32_000_000  # bytes of a weight that need not come from memory
    mapped: int = 32 * 2**20  # bytes from which on the C library gives memory back: glibc's largest threshold

    @classmethod
    def default(cls) -> Self:
        """The model that plans use unless they are given another."""
        return cls.named(_machines()["default"])

    @classmethod
    @functools.cache
    def named(cls, name: str) -> Self:
        """The rates of a machine in `rates.json`; ValueError, with the names there are, for any other."""
        machines = _machines()["machines"]
        if name not in machines:
            raise ValueError(f"no rates of a machine {name!r}; there are {', '.join(machines)}")
        return cls(**machines[name]["rates"])

    @classmethod
    def fit(
        cls,
        products: int | Sequence[Product] = 200,
        nanoseconds: Sequence[float] | None = None,
        *,
        seed: int = 0,
        seconds: float = 0.1,
    ) -> Self:
        """The rates for the smallest error of the time's logarithm, outliers counting less.

        Rates cannot be negative; of some cache sizes the best is taken. Few products leave some rates undetermined.

        Args:
            products: how many random ones to time, or the products.
            nanoseconds: of each product, if they have been timed; else they are timed here, with torch's threads.
            seed: of the random products.
            seconds: to time each product for.

        Raises:
            ValueError: no products, or not one time for each.
        """
        drawn = random_products(products, seed) if isinstance(products, int) else list(products)
        times = time_products(drawn, seconds) if nanoseconds is None else list(nanoseconds)
        if not drawn or len(drawn) != len(times):
            raise ValueError(f"a fit needs one time for each product, got {len(drawn)} products, {len(times)} times")
        start = np.log([getattr(cls.default(), rate) for rate in RATES])
        found = [_fit_cache(int(cache), drawn, np.asarray(times), start) for cache in _CACHES]
        _, rates, cache = min(found, key=lambda one: one[0])
        return replace(cls.default(), **dict(zip(RATES, rates, strict=True)), cache=cache)  # type: ignore[arg-type]

    def product(self, p: Product) -> float:
        """Nanoseconds of one product."""
        rows, cols = -(-p.rows // self.tile) * self.tile, -(-p.cols // self.vector) * self.vector
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


@functools.cache
def _machines() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(resources.files("tnlib.contract").joinpath("rates.json").read_text("utf-8"))
    return found


def _fit_cache(
    cache: int, products: Sequence[Product], times: np.ndarray, start: np.ndarray
) -> tuple[float, list[float], int]:
    """The least cost, the rates and the cache size; the model is linear in its rates."""
    zero = replace(CostModel.default(), cache=cache, **dict.fromkeys(RATES, 0.0))  # type: ignore[arg-type]
    ones = [replace(zero, **{rate: 1.0}) for rate in RATES]  # type: ignore[arg-type]
    system = np.array([[one.product(p) for one in ones] for p in products]) / times[:, None]
    bounds = start - np.log(100), start + np.log(100)
    found = least_squares(lambda logs: np.log(system @ np.exp(logs)), start, loss="soft_l1", f_scale=0.1, bounds=bounds)
    return float(found.cost), np.exp(found.x).tolist(), cache
