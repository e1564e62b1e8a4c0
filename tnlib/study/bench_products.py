"""Matrix products against the clock: `tnlib bench products` fits the cost model of the contraction planner."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import least_squares
from torch import Tensor

from tnlib.layers.cost_model import CostModel, Product
from tnlib.layers.sweep import product_step
from tnlib.measure import compare
from tnlib.study.store import record

BLOCK = 3.0  # milliseconds of a turn
LARGEST = 3e8, 6e7  # multiply-accumulates and numbers of a product that is timed
_RATES = ("call", "matrix", "mac", "narrow", "written", "near", "far", "memory", "paged")
_ZERO = CostModel(**dict.fromkeys(_RATES, 0.0))  # type: ignore[arg-type]


def products(size: int | None = None, folder: Path | None = None) -> Path:
    """Time random products as sweeps call them, `size` of them (default 600), and fit the cost model to two thirds.

    Each is timed in turns with one fixed product, and its time divided by that one's: what the machine does to both
    cancels. Times then are multiples of that product's median over the whole run.
    """
    started, number = time.perf_counter(), size or 600
    drawn = random_products(number)
    pace = step(Product(1, 256, 256, 256, weight_first=False))
    ratios, paces = [], []
    for product in drawn:
        run = step(product)
        comparison = compare({"pace": pace, "product": run}, rounds=5, seconds=0.2, block=BLOCK)
        ratios.append(1 / comparison.speedup["product"][0])
        paces.append(comparison.timings["pace"].median)
    unit = float(np.median(paces)) * 1e6
    nanoseconds = np.array(ratios) * unit
    held = np.arange(number) % 3 == 0
    train, seen = [p for p, out in zip(drawn, held, strict=True) if not out], nanoseconds[~held]
    fitted = fit(train, seen)
    metrics: dict[str, Any] = {"model": asdict(fitted), "default": asdict(CostModel()), "pace_ns": unit}
    for name, model in (("fitted", fitted), ("default", CostModel())):
        error = np.array([abs(np.log(model.product(p) / t)) for p, t in zip(drawn, nanoseconds, strict=True)])[held]
        metrics[f"error_{name}"] = [float(v) for v in np.expm1(np.quantile(error, [0.5, 0.9]))]
    metrics["products"] = [[*asdict(p).values(), round(float(t))] for p, t in zip(drawn, nanoseconds, strict=True)]
    rates = ", ".join(f"{name} {getattr(fitted, name):.3g}" for name in _RATES)
    print(f"{rates}, cache {fitted.cache:,}")
    print(f"error on those held out, median and 90 %: {metrics['error_fitted']}; default {metrics['error_default']}")
    parameters = {"products": number, "threads": torch.get_num_threads(), "block_ms": BLOCK}
    seconds = time.perf_counter() - started
    return record(
        "products", metrics, parameters=parameters, source="tnlib bench products", seconds=seconds, folder=folder
    )


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


def step(product: Product) -> Callable[[], Tensor]:
    """A product of ones, as a sweep calls it."""
    count, rows, inner, cols = product.count, product.rows, product.inner, product.cols
    if product.weight_first:
        weight, y = torch.ones(rows, inner), torch.ones(count, inner, cols)
    else:
        weight, y = torch.ones(inner, cols), torch.ones(rows, inner)
    run = product_step(product, weight, count)
    return lambda: run(y)


def fit(drawn: list[Product], nanoseconds: np.ndarray) -> CostModel:
    """The rates for the smallest error of the logarithm, outliers counting less, and the best of some cache sizes."""
    best: tuple[float, CostModel] | None = None
    start = np.log([getattr(CostModel(), rate) for rate in _RATES])
    for cache in (2e6, 3e6, 4e6, 6e6, 8e6, 12e6):
        ones = [replace(_ZERO, cache=int(cache), **{rate: 1.0}) for rate in _RATES]  # type: ignore[arg-type]
        system = np.array([[one.product(p) for one in ones] for p in drawn]) / nanoseconds[:, None]
        bounds = start - np.log(100), start + np.log(100)
        found = least_squares(_log_ratios, start, args=(system,), loss="soft_l1", f_scale=0.1, bounds=bounds)
        if best is None or found.cost < best[0]:
            best = (
                found.cost,
                replace(_ZERO, **dict(zip(_RATES, np.exp(found.x).tolist(), strict=True)), cache=int(cache)),
            )
    assert best is not None
    return best[1]


def _log_ratios(logarithms: np.ndarray, system: np.ndarray) -> np.ndarray:
    result: np.ndarray = np.log(system @ np.exp(logarithms))
    return result
