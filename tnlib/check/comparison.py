"""Exercises of `13_compare_representations`: ranks of methods, a paired test, one share for all layers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import binom, rankdata

from tnlib.check.exercise import Exercise, Mistake

NOTEBOOK = "13_compare_representations"
_rng = np.random.default_rng(2020)
Table = Sequence[Sequence[float]]

# 1. Mean ranks of methods over networks


def _mean_ranks(scores: Table, method: str = "average") -> np.ndarray:
    """Of each method (row) the mean over networks (columns) of its place, 1 for the highest score."""
    table = np.asarray(scores, dtype=float)
    return np.asarray(rankdata(-table, method=method, axis=0).mean(axis=1))


def _scores(methods: int, networks: int) -> dict[str, list[list[float]]]:
    return {"scores": np.round(_rng.random((methods, networks)), 1).tolist()}


MEAN_RANKS = Exercise(
    "mean_ranks",
    NOTEBOOK,
    _mean_ranks,
    (
        {"scores": [[0.9, 0.6], [0.8, 0.7], [0.1, 0.2]]},
        {"scores": [[0.5, 0.5], [0.5, 0.4]]},
        {"scores": [[0.2], [0.2], [0.2], [0.7]]},
        _scores(5, 4),
        _scores(8, 7),
    ),
    (
        Mistake(
            lambda scores: _mean_ranks([[-x for x in row] for row in scores]), "Place 1 is that of the highest score."
        ),
        Mistake(lambda scores: _mean_ranks(scores, "ordinal"), "Methods that tie share the mean of their places."),
        Mistake(lambda scores: _mean_ranks(scores, "min"), "Two that tie for the first place have 1.5 each, not 1."),
        Mistake(
            lambda scores: rankdata(-np.asarray(scores, dtype=float).mean(1)),
            "That ranks the mean scores; rank in each network first, then average.",
        ),
        Mistake(lambda scores: _mean_ranks(scores) - 1, "Places are counted from 1."),
        Mistake(
            lambda scores: _mean_ranks(np.asarray(scores, dtype=float).T.tolist()),
            "Rows are methods, columns are networks: one number a method, please.",
        ),
    ),
)

# 2. McNemar's test


def _paired_p(a: Sequence[int], b: Sequence[int]) -> float:
    """The exact two-sided p-value: of the images that one network alone has right, each is either's by a fair coin."""
    first = sum(1 for x, y in zip(a, b, strict=True) if x and not y)
    second = sum(1 for x, y in zip(a, b, strict=True) if y and not x)
    return min(1.0, 2 * float(binom.cdf(min(first, second), first + second, 0.5)))


def _right(both: int, first: int, second: int, none: int) -> dict[str, list[int]]:
    a = [1] * both + [1] * first + [0] * second + [0] * none
    b = [1] * both + [0] * first + [1] * second + [0] * none
    order = _rng.permutation(len(a))
    return {"a": [a[i] for i in order], "b": [b[i] for i in order]}


def _counts(a: Sequence[int], b: Sequence[int]) -> tuple[int, int]:
    first = sum(1 for x, y in zip(a, b, strict=True) if x and not y)
    return first, sum(1 for x, y in zip(a, b, strict=True) if y and not x)


def _chi_square(a: Sequence[int], b: Sequence[int]) -> float:
    first, second = _counts(a, b)
    return math.erfc(abs(first - second) / math.sqrt(2 * max(1, first + second)))


def _independent(a: Sequence[int], b: Sequence[int]) -> float:
    n, p, q = len(a), sum(a) / len(a), sum(b) / len(b)
    pooled = (p + q) / 2
    deviation = math.sqrt(max(1e-300, 2 * pooled * (1 - pooled) / n))
    return math.erfc(abs(p - q) / deviation / math.sqrt(2))


PAIRED_P = Exercise(
    "paired_p",
    NOTEBOOK,
    _paired_p,
    (
        _right(6, 3, 1, 2),
        _right(50, 9, 2, 5),
        _right(10, 4, 4, 1),
        _right(8, 0, 0, 3),
        _right(300, 2, 17, 20),
        _right(0, 5, 0, 0),
    ),
    (
        Mistake(
            lambda a, b: _paired_p(a, b) / 2 if _counts(a, b)[0] != _counts(a, b)[1] else 0.5,
            "Either could be the better one: count both tails.",
        ),
        Mistake(
            lambda a, b: 2 * float(binom.cdf(min(_counts(a, b)), sum(_counts(a, b)), 0.5)),
            "A probability is at most 1: with equal counts the two tails overlap.",
        ),
        Mistake(_independent, "The images are the same: only those that one alone has right tell them apart."),
        Mistake(_chi_square, "That is the normal approximation; with few images the binomial sum differs."),
        Mistake(
            lambda a, b: min(1.0, 2 * float(binom.cdf(min(_counts(a, b)), len(a), 0.5))),
            "Images that both have right, or neither, say nothing: leave them out of the number of coins.",
        ),
    ),
    tolerance=1e-9,
)

# 3. One share for all layers


def _same_share(costs: Sequence[Sequence[int]], dense: Sequence[int], room: int) -> list[int]:
    """Indices of each layer's dearest candidate within one share of its dense cost, the share as large as fits."""

    def within(share: float) -> list[int]:
        return [
            max(0, sum(cost <= share * whole * (1 + 1e-12) for cost in row) - 1)
            for row, whole in zip(costs, dense, strict=True)
        ]

    def total(chosen: list[int]) -> int:
        return sum(row[k] for row, k in zip(costs, chosen, strict=True))

    shares = sorted({cost / whole for row, whole in zip(costs, dense, strict=True) for cost in row})
    fitting = [chosen for share in [0.0, *shares] if total(chosen := within(share)) <= room]
    return fitting[-1]


def _layers(sizes: Sequence[tuple[int, int]], share: float) -> dict[str, object]:
    """Layers m x n: candidate k costs (k + 1)(m + n), the dense one m n."""
    costs = [[r * (m + n) for r in range(1, m * n // (m + n) + 1)] for m, n in sizes]
    dense = [m * n for m, n in sizes]
    return {"costs": costs, "dense": dense, "room": math.floor(share * sum(dense))}


def _greedy(costs: Sequence[Sequence[int]], dense: Sequence[int], room: int) -> list[int]:
    """The common share, and then what is left, from the first layer on."""
    chosen = _same_share(costs, dense, room)
    free = room - sum(row[k] for row, k in zip(costs, chosen, strict=True))
    for i, row in enumerate(costs):
        while chosen[i] + 1 < len(row) and row[chosen[i] + 1] - row[chosen[i]] <= free:
            free -= row[chosen[i] + 1] - row[chosen[i]]
            chosen[i] += 1
    return chosen


def _each_alone(costs: Sequence[Sequence[int]], dense: Sequence[int], room: int) -> list[int]:
    share = room / sum(dense)
    return [max(0, sum(c <= share * whole for c in row) - 1) for row, whole in zip(costs, dense, strict=True)]


def _same_rank(costs: Sequence[Sequence[int]], dense: Sequence[int], room: int) -> list[int]:
    found = [0] * len(costs)
    for rank in range(max(map(len, costs))):
        chosen = [min(rank, len(row) - 1) for row in costs]
        if sum(row[k] for row, k in zip(costs, chosen, strict=True)) <= room:
            found = chosen
    return found


def _same_cost(costs: Sequence[Sequence[int]], dense: Sequence[int], room: int) -> list[int]:
    return [max(0, sum(c <= room / len(costs) for c in row) - 1) for row in costs]


SAME_SHARE = Exercise(
    "same_share",
    NOTEBOOK,
    _same_share,
    (
        {"costs": [[10, 20, 30], [10, 20, 30]], "dense": [40, 40], "room": 50},
        {"costs": [[20, 40, 60], [5, 10, 15, 20]], "dense": [100, 30], "room": 70},
        {"costs": [[50], [1, 2, 3, 4]], "dense": [60, 10], "room": 52},
        _layers([(27, 16), (48, 48), (96, 96), (192, 192)], 0.5),
        _layers([(27, 16), (48, 48), (48, 48), (96, 192)], 0.25),
        _layers([(64, 10), (300, 120), (25, 32)], 0.6),
    ),
    (
        Mistake(_greedy, "What is left over is handed out as well here: the share has to be one and the same."),
        Mistake(_each_alone, "Rounding down leaves room: look for the largest share whose total still fits."),
        Mistake(_same_rank, "The same rank is another share in each layer."),
        Mistake(_same_cost, "The same cost is another share in each layer."),
        Mistake(
            lambda costs, dense, room: [k + 1 for k in _same_share(costs, dense, room)],
            "Those are ranks; indices, from 0, are asked for.",
        ),
    ),
    reading=lambda answer, **case: [int(k) for k in answer],
)

EXERCISES = (MEAN_RANKS, PAIRED_P, SAME_SHARE)
