"""Exercises of `notebooks/10_run_a_study`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tnlib.check.exercise import Exercise, Mistake

_NOTEBOOK = "10_run_a_study"


def _runs(grid: Mapping[str, Sequence[object]], seeds: int) -> int:
    return math.prod(len(values) for values in grid.values()) * seeds


sweep_runs = Exercise(
    "sweep_runs",
    _NOTEBOOK,
    _runs,
    (
        {"grid": {"rank": [1, 2, 4], "format": ["cp", "tt"]}, "seeds": 5},
        {"grid": {"rank": [1, 2, 4, 8]}, "seeds": 1},
        {"grid": {}, "seeds": 3},
    ),
    (
        Mistake(
            lambda grid, seeds: sum(len(v) for v in grid.values()) * seeds,
            "A grid is all combinations, not one name at a time.",
        ),
        Mistake(
            lambda grid, seeds: math.prod(len(v) for v in grid.values()), "Every combination runs with every seed."
        ),
        Mistake(lambda grid, seeds: len(grid) * seeds, "You counted the names; their values count."),
        Mistake(
            lambda grid, seeds: math.prod(len(v) for v in grid.values()) * seeds if grid else 0,
            "An empty grid leaves one combination: the defaults.",
        ),
        Mistake(
            lambda grid, seeds: math.prod(len(v) for v in grid.values()) + seeds,
            "Every combination runs with every seed, not each of both once.",
        ),
    ),
)


def _error(a: Tensor, b: Tensor) -> float:
    return float((a - b).std(correction=1) / math.sqrt(len(a)))


def _unpaired(a: Tensor, b: Tensor) -> float:
    return float(((a.var() + b.var()) / len(a)).sqrt())


def _draw(n: int, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(n, generator=generator, dtype=torch.float64)
    a, b = (shared + 0.3 * torch.randn(n, generator=generator, dtype=torch.float64) for _ in range(2))
    return {"a": a, "b": b - 1}


paired_error = Exercise(
    "paired_error",
    _NOTEBOOK,
    _error,
    (_draw(10, 0), _draw(3, 1)),
    (
        Mistake(_unpaired, "That is the error of two piles; subtract seed by seed first."),
        Mistake(lambda a, b: float((a - b).std()), "That is the spread of one difference; the mean of n varies less."),
        Mistake(
            lambda a, b: float((a - b).std(correction=0) / math.sqrt(len(a))),
            "The sample's own mean was used: divide the squares by n - 1.",
        ),
        Mistake(
            lambda a, b: float((a - b).var() / len(a)),
            "That is the variance of the mean, in squared units; take the root.",
        ),
        Mistake(
            lambda a, b: float((a - b).std() / len(a)),
            "Too small: the variance of a mean falls like 1 / n. Its root?",
        ),
        Mistake(lambda a, b: float((a - b).mean()), "That is the mean difference itself, not its uncertainty."),
    ),
)

family_error = Exercise(
    "family_error",
    _NOTEBOOK,
    lambda m, alpha: 1 - (1 - alpha) ** m,
    ({"m": 3, "alpha": 0.05}, {"m": 1, "alpha": 0.1}, {"m": 40, "alpha": 0.05}),
    (
        Mistake(lambda m, alpha: m * alpha, "That is an upper bound (Bonferroni's); with 40 tests it exceeds one."),
        Mistake(lambda m, alpha: alpha**m, "That is the probability that all are rejected."),
        Mistake(lambda m, alpha: (1 - alpha) ** m, "That is the probability that none is rejected."),
        Mistake(
            lambda m, alpha: m * alpha * (1 - alpha) ** (m - 1),
            "That is the probability that exactly one is rejected.",
        ),
        Mistake(
            lambda m, alpha: min(1.0, m * alpha),
            "That is Bonferroni's bound, which holds whatever depends on what. These tests are independent.",
        ),
        Mistake(lambda m, alpha: 1 - alpha**m, "That is the probability that at least one is not rejected."),
    ),
)


def _interval(values: Tensor, index: Tensor, level: float) -> Tensor:
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=values.dtype)
    return torch.quantile(values[index].mean(1), ends)


def _resamples(n: int, draws: int, level: float) -> dict[str, Tensor | float]:
    generator = torch.Generator().manual_seed(n)
    values = torch.randn(n, generator=generator, dtype=torch.float64).exp()
    return {"values": values, "index": torch.randint(n, (draws, n), generator=generator), "level": level}


def _one_sided(values: Tensor, index: Tensor, level: float) -> Tensor:
    return _interval(values, index, 2 * level - 1)


def _of_values(values: Tensor, index: Tensor, level: float) -> Tensor:
    return torch.quantile(values, torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=values.dtype))


def _reflected(values: Tensor, index: Tensor, level: float) -> Tensor:
    return (2 * values.mean() - _interval(values, index, level)).flip(0)


def _by_column(values: Tensor, index: Tensor, level: float) -> Tensor:
    return _interval(values, index.T, level)


def _too_wide(values: Tensor, index: Tensor, level: float) -> Tensor:
    return _interval(values, index, 1 - (1 - level) / 2)


def _normal(values: Tensor, index: Tensor, level: float) -> Tensor:
    means = values[index].mean(1)
    half = math.sqrt(2) * torch.erfinv(torch.tensor(level, dtype=values.dtype)) * means.std()
    return torch.stack([means.mean() - half, means.mean() + half])


percentile_interval = Exercise(
    "percentile_interval",
    _NOTEBOOK,
    _interval,
    (_resamples(10, 300, 0.95), _resamples(7, 100, 0.8)),
    (
        Mistake(_one_sided, "You left out 1 - level on either side; together that is twice too much."),
        Mistake(_of_values, "Those are quantiles of the values; the interval is of their mean."),
        Mistake(
            _normal, "That is a normal interval with the bootstrap's spread; percentiles need no normal distribution."
        ),
        Mistake(_by_column, "A resample is a row of `index`; you took the means of its columns."),
        Mistake(_reflected, "That interval is reflected at the mean (the basic bootstrap); the percentiles are asked."),
        Mistake(_too_wide, "You left out a quarter of 1 - level on either side; together that is half of it."),
        Mistake(lambda values, index, level: _interval(values, index, level).flip(0), "The lower end comes first."),
    ),
)

EXERCISES = (sweep_runs, paired_error, family_error, percentile_interval)
