"""Exercises of `11_review_the_state_of_the_art`: from a layer to the network, a front, the best of several."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tnlib.check.exercise import Exercise, Mistake

NOTEBOOK = "11_review_the_state_of_the_art"
_rng = np.random.default_rng(2020)


# 1. From a layer to the network


def _network_factor(factor: float, share: float) -> float:
    """Original over compressed, of the network."""
    return 1 / (1 - share + share / factor)


NETWORK_FACTOR = Exercise(
    "network_factor",
    NOTEBOOK,
    _network_factor,
    (
        {"factor": 4.0, "share": 0.5},
        {"factor": 1.0, "share": 0.3},
        {"factor": 50972.0, "share": 0.743},
        {"factor": 2.5, "share": 1.0},
        {"factor": 10.0, "share": 0.0},
        {"factor": 0.8, "share": 0.25},
    ),
    (
        Mistake(lambda factor, share: factor * share + (1 - share), "Sizes add up, factors do not."),
        Mistake(lambda factor, share: factor, "The rest of the network is not compressed."),
        Mistake(
            lambda factor, share: 1 - share + share / factor, "That is compressed over original: turn it over, please."
        ),
        Mistake(
            lambda factor, share: 1 / (share - share / factor) if share and factor != 1 else 1.0,
            "That is the original over what was removed; what is left counts.",
        ),
        Mistake(
            lambda factor, share: 1 / (1 - share) if share < 1 else 0.0,
            "The compressed layer is small, but it is still there.",
        ),
    ),
)

# 2. The front of a cloud of published points


def _front(removed: Sequence[float], change: Sequence[float], *, strict: bool = True, upper: bool = True) -> list[int]:
    """Indices of points that no other one equals or beats in both, by the share removed."""
    known = [i for i in range(len(removed)) if not math.isnan(removed[i]) and not math.isnan(change[i])]
    kept: list[int] = []
    for i in sorted(known, key=lambda i: (-removed[i], -change[i] if upper else change[i])):
        better = not kept or (change[i] > change[kept[-1]] if upper else change[i] < change[kept[-1]])
        if better or (not strict and change[i] == change[kept[-1]]):
            kept.append(i)
    return kept[::-1]


def _cloud(size: int) -> dict[str, list[float]]:
    removed = np.round(90 * _rng.random(size), 1)
    change = np.round(1.5 - 0.03 * removed + _rng.normal(size=size), 2)
    change[::7] = np.nan
    return {"removed": [float(x) for x in removed], "change": [float(x) for x in change]}


FRONT = Exercise(
    "front",
    NOTEBOOK,
    _front,
    (
        {"removed": [50.0], "change": [-0.2]},
        {"removed": [30.0, 50.0, 70.0], "change": [0.5, 0.1, -0.8]},
        {"removed": [70.0, 30.0, 50.0, 60.0], "change": [-0.8, 0.1, 0.5, -0.9]},
        {"removed": [40.0, math.nan, 60.0, 60.0], "change": [0.25, 2.0, -0.5, math.nan]},
        {"removed": [20.0, 40.0, 40.0, 60.0], "change": [0.5, 0.5, 0.25, 0.25]},
        _cloud(25),
        _cloud(60),
    ),
    (
        Mistake(
            lambda removed, change: sorted(
                (i for i in range(len(removed)) if removed[i] == removed[i] and change[i] == change[i]),
                key=lambda i: removed[i],
            ),
            "Some of these are beaten: another one removes more and loses less.",
        ),
        Mistake(
            lambda removed, change: _front(removed, change)[::-1], "From the smallest share removed to the largest."
        ),
        Mistake(
            lambda removed, change: _front(removed, change, upper=False),
            "That is the worst front: a change above zero is a gain.",
        ),
        Mistake(
            lambda removed, change: _front(removed, change, strict=False),
            "Of two with the same change the one that removes less is beaten.",
        ),
        Mistake(
            lambda removed, change: _front(
                [0.0 if x != x else x for x in removed], [0.0 if x != x else x for x in change]
            ),
            "A number that is not known is not zero: leave such points out.",
        ),
    ),
    reading=lambda answer, **case: [int(i) for i in answer],
)

# 3. The best of several seeds


def _expected_best(runs: int) -> float:
    """The mean of the largest of so many independent standard normal numbers: the integral of x n phi Phi^(n-1)."""
    x = np.linspace(-12, 12, 24001)
    density = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    below = np.array([0.5 * math.erfc(-float(value) / math.sqrt(2)) for value in x])
    return float((x * runs * density * below ** (runs - 1)).sum() * (x[1] - x[0]))


EXPECTED_BEST = Exercise(
    "expected_best",
    NOTEBOOK,
    _expected_best,
    tuple({"runs": runs} for runs in (2, 3, 5, 10, 100)),
    (
        Mistake(lambda runs: 0.0, "The best of several is above the mean."),
        Mistake(lambda runs: 1 / math.sqrt(runs), "That is the standard error of the mean."),
        Mistake(
            lambda runs: math.sqrt(2 * math.log(runs)),
            "That is what it grows like in the end; a few runs are far from there.",
        ),
        Mistake(lambda runs: -_expected_best(runs) if runs > 1 else 1.0, "That would be the worst of them."),
        Mistake(
            lambda runs: float(np.random.default_rng(0).standard_normal((50, runs)).max(1).mean()),
            "Fifty draws leave the second digit open: integrate, or draw many more.",
        ),
    ),
    tolerance=1e-4,
)

EXERCISES = (NETWORK_FACTOR, FRONT, EXPECTED_BEST)
