"""Exercises of `12_choose_ranks`: a rank for an energy, the lower hull of a curve, the exact allocation."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tnlib.check.exercise import Exercise, Mistake

NOTEBOOK = "12_choose_ranks"
_rng = np.random.default_rng(2013)
Table = Sequence[Sequence[float]]


# 1. A rank for an energy


def _values(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _rank(singular_values: Tensor, energy: float, *, power: int = 2, sort: bool = True, strict: bool = False) -> int:
    """The smallest rank whose energy is at least the share, or more than it."""
    values = singular_values.sort(descending=True).values if sort else singular_values
    kept = values.pow(power).cumsum(0)
    goal = energy * float(kept[-1])
    slack = 1e-12 * float(kept[-1])
    missing = kept <= goal + slack if strict else kept < goal - slack
    return min(int(missing.sum()) + 1, len(values)) if float(kept[-1]) else 0


RANK_FOR_ENERGY = Exercise(
    "rank_for_energy",
    NOTEBOOK,
    _rank,
    (
        {"singular_values": _values(1, 1, 1, 1), "energy": 0.5},
        {"singular_values": _values(0.5, 3, 1, 2), "energy": 0.9},
        {"singular_values": _values(*[0.1] * 10), "energy": 0.3},
        {"singular_values": _values(3, 2, 0, 1, 0), "energy": 1.0},
        {"singular_values": _values(0, 0, 0), "energy": 0.7},
        {"singular_values": _values(*(0.9**k for k in range(30))), "energy": 0.95},
    ),
    (
        Mistake(
            lambda singular_values, energy: _rank(singular_values, energy, power=1),
            "Energy is the sum of the squares, not of the values.",
        ),
        Mistake(
            lambda singular_values, energy: _rank(singular_values, energy, sort=False),
            "The values come in any order; the largest are kept first.",
        ),
        Mistake(
            lambda singular_values, energy: _rank(singular_values, energy, strict=True),
            "A rank that keeps exactly the share is enough.",
        ),
        Mistake(
            lambda singular_values, energy: max(0, _rank(singular_values, energy) - 1),
            "One too few: how many values does the first entry of a cumulative sum hold?",
        ),
        Mistake(
            lambda singular_values, energy: max(1, _rank(singular_values, energy)),
            "If all values are zero nothing has to be kept.",
        ),
        Mistake(
            lambda singular_values, energy: _rank(singular_values, math.sqrt(energy)),
            "The energy is a share of squares already: take no root of it.",
        ),
    ),
)

# 2. The lower hull


def _corners(
    costs: Sequence[float], losses: Sequence[float], *, falling: bool = True, upper: bool = False
) -> list[int]:
    """Indices of the lower hull's corners, the dearest first; those alone that lose less than cheaper ones."""
    sign = -1 if upper else 1
    order = sorted(range(len(costs)), key=lambda i: (costs[i], sign * losses[i]))
    hull: list[int] = []
    for new in order:
        if hull and costs[hull[-1]] == costs[new]:
            continue
        while len(hull) > 1:
            a, b = hull[-2], hull[-1]
            run, rise = costs[b] - costs[a], sign * (losses[b] - losses[a])
            if rise * (costs[new] - costs[a]) < sign * (losses[new] - losses[a]) * run - 1e-12:
                break
            hull.pop()
        hull.append(new)
    while falling and len(hull) > 1 and losses[hull[-1]] >= losses[hull[-2]]:
        hull.pop()
    return hull[::-1]


def _undominated(costs: Sequence[float], losses: Sequence[float]) -> list[int]:
    """Those that no cheaper one equals in loss, the dearest first."""
    kept: list[int] = []
    for i in sorted(range(len(costs)), key=lambda i: (costs[i], losses[i])):
        if not kept or losses[i] < losses[kept[-1]]:
            kept.append(i)
    return kept[::-1]


def _with_collinear(costs: Sequence[float], losses: Sequence[float]) -> list[int]:
    """The corners and what lies on the lines between them."""
    hull, found = _corners(costs, losses), []
    for i in range(len(costs)):
        for a, b in itertools.pairwise(hull):
            cross = (losses[i] - losses[a]) * (costs[b] - costs[a]) - (losses[b] - losses[a]) * (costs[i] - costs[a])
            if abs(cross) < 1e-12 and costs[b] < costs[i] < costs[a]:
                found.append(i)
    return sorted({*hull, *found}, key=lambda i: -costs[i])


def _cloud(size: int) -> dict[str, list[float]]:
    costs = _rng.permutation(3 * size)[:size] + 1
    losses = np.exp(-3.0 * costs / costs.max()) + 0.3 * _rng.random(size)
    return {"costs": [float(cost) for cost in costs], "losses": [round(float(loss), 6) for loss in losses]}


LOWER_HULL = Exercise(
    "lower_hull",
    NOTEBOOK,
    _corners,
    (
        {"costs": [5.0], "losses": [0.2]},
        {"costs": [4.0, 3.0, 2.0, 1.0], "losses": [0.0, 0.5, 0.6, 1.0]},
        {"costs": [1.0, 2.0, 3.0, 4.0], "losses": [1.0, 0.5, 0.25, 0.0]},
        {"costs": [1.0, 2.0, 3.0, 5.0], "losses": [3.0, 2.0, 1.0, 0.0]},
        {"costs": [1.0, 2.0, 3.0, 4.0], "losses": [1.0, 0.25, 0.5, 0.75]},
        {"costs": [2.0, 2.0, 1.0, 4.0, 4.0], "losses": [0.5, 0.25, 1.0, 0.125, 0.25]},
        _cloud(12),
        _cloud(40),
    ),
    (
        Mistake(
            _undominated, "None of these is beaten in both, but a price cannot pick one above the line of two others."
        ),
        Mistake(lambda costs, losses: _corners(costs, losses)[::-1], "From the dearest to the cheapest, please."),
        Mistake(
            lambda costs, losses: _corners(costs, losses, falling=False),
            "A dearer candidate with no less loss than a cheaper one is never picked: prices are not negative.",
        ),
        Mistake(
            lambda costs, losses: _corners(costs, losses, upper=True),
            "That hull lies above the points; a price picks from below.",
        ),
        Mistake(_with_collinear, "A candidate on the line between two corners is never the only best one."),
    ),
)

# 3. The exact allocation


def _total(table: Table, choice: Sequence[int]) -> float:
    return float(sum(values[j] for values, j in zip(table, choice, strict=True)))


def _least(losses: Table, costs: Table, room: float, *, at_most: bool = True) -> list[int]:
    """By costs that can be reached: the least loss so far, and how."""
    reached: dict[int, tuple[float, tuple[int, ...]]] = {0: (0.0, ())}
    for loss, cost in zip(losses, costs, strict=True):
        after: dict[int, tuple[float, tuple[int, ...]]] = {}
        for (spent, (so_far, choice)), j in itertools.product(reached.items(), range(len(loss))):
            new, value = spent + int(cost[j]), so_far + loss[j]
            if new <= room and (new not in after or value < after[new][0]):
                after[new] = (value, (*choice, j))
        reached = after
    best = min(reached.values()) if at_most else reached[max(reached)]
    return list(best[1])


def _greedy(losses: Table, costs: Table, room: float) -> list[int]:
    """From the cheapest on, the exchange of one layer that gains most a unit of cost, as long as one fits."""
    choice = [int(np.argmin(cost)) for cost in costs]
    while True:
        free, best = room - _total(costs, choice), (0.0, -1, -1)
        for k, (loss, cost) in enumerate(zip(losses, costs, strict=True)):
            for j in range(len(loss)):
                more, gain = cost[j] - cost[choice[k]], loss[choice[k]] - loss[j]
                if 0 < more <= free and gain / more > best[0]:
                    best = (gain / more, k, j)
        if best[1] < 0:
            return choice
        choice[best[1]] = best[2]


def _priced(losses: Table, costs: Table, room: float) -> list[int]:
    """The choice of the least price that keeps the budget."""

    def pick(price: float) -> list[int]:
        pairs = zip(losses, costs, strict=True)
        return [min(range(len(loss)), key=lambda j: (loss[j] + price * cost[j], cost[j])) for loss, cost in pairs]

    low, high = 0.0, 1e3
    if _total(costs, pick(low)) <= room:
        return pick(low)
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _total(costs, pick(middle)) > room else (low, middle)
    return pick(high)


def _each_its_share(losses: Table, costs: Table, room: float) -> list[int]:
    """Each layer by itself, within the same share of its own dearest candidate, as large as fits."""

    def pick(share: float) -> list[int]:
        choice = []
        for loss, cost in zip(losses, costs, strict=True):
            fitting = [j for j in range(len(loss)) if cost[j] <= max(share * max(cost), min(cost))]
            choice.append(min(fitting, key=lambda j: loss[j]))
        return choice

    return next(c for s in np.linspace(1, 0, 1001) if _total(costs, c := pick(float(s))) <= room)


def _allocated(answer: Sequence[int], losses: Table, costs: Table, room: float) -> Tensor:
    """What counts: whether the budget is kept, and the loss."""
    choice = [int(j) for j in answer]
    if len(choice) != len(losses) or any(not 0 <= j < len(loss) for j, loss in zip(choice, losses, strict=True)):
        raise ValueError("one index a layer")
    return torch.tensor([float(_total(costs, choice) <= room), _total(losses, choice)], dtype=torch.float64)


def _problem(layers: int, candidates: int, tightness: float) -> dict[str, object]:
    costs = [
        sorted((int(c) for c in _rng.choice(40, candidates, replace=False) + 1), reverse=True) for _ in range(layers)
    ]
    losses = [sorted(round(float(loss), 4) for loss in _rng.random(candidates)) for _ in range(layers)]
    least, most = sum(min(c) for c in costs), sum(max(c) for c in costs)
    return {"losses": losses, "costs": costs, "room": int(least + tightness * (most - least))}


LEAST_LOSS = Exercise(
    "least_loss",
    NOTEBOOK,
    _least,
    (
        {"losses": [[0.0, 0.5, 1.0], [0.0, 0.25, 1.0]], "costs": [[6, 4, 1], [5, 3, 1]], "room": 7},
        {"losses": [[0.0, 0.6], [0.0, 0.7], [0.0, 1.0]], "costs": [[5, 1], [5, 1], [8, 1]], "room": 11},
        _problem(4, 4, 0.4),
        _problem(5, 4, 0.25),
        _problem(6, 3, 0.6),
        _problem(5, 5, 0.5),
    ),
    (
        Mistake(lambda losses, costs, room: [0] * len(losses), "The budget is exceeded."),
        Mistake(_priced, "Some room is left over, and another choice, which no price picks, makes use of it."),
        Mistake(_greedy, "Step by step, the best gain first: an early step can take the room of a better pair."),
        Mistake(_each_its_share, "You gave each layer the same share; a layer that needs less can give to another."),
        Mistake(
            lambda losses, costs, room: _least(losses, costs, room, at_most=False),
            "The dearest total is not always the best: spending all is not the aim.",
        ),
        Mistake(
            lambda losses, costs, room: _least(losses, costs, room - 1),
            "A choice whose cost is exactly the room is allowed.",
        ),
    ),
    reading=_allocated,
    beyond=(_problem(14, 5, 0.4), _problem(30, 8, 0.4)),
    forbidden="Do not try all choices: 30 layers of eight candidates have 10^27.",
)

EXERCISES = (RANK_FOR_ENERGY, LOWER_HULL, LEAST_LOSS)
