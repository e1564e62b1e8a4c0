"""One candidate a layer: the least predicted loss under a budget, found exactly, or with a proof of how near it is.

The problem is a multiple-choice knapsack. For any multipliers of the costs, the cheapest choice of each layer by loss
plus multiplied costs bounds the optimum from below (Lagrangian relaxation, Geoffrion 1974); the best multipliers are
those of the linear relaxation. A feasible choice bounds it from above. A candidate whose choice alone lifts the lower
bound over the upper one is out, and what is left is gone through layer by layer, keeping the partial choices that no
other one beats and that the bound does not exclude (Dyer, Riha and Walker 1995).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, sparse

from tnlib.compress.budget import Budget
from tnlib.compress.candidate import Candidate
from tnlib.compress.curves import Curves

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
STATES = 50_000  # partial choices that are kept, at most; dropping some weakens the proof and never breaks the budget
STRONG = 100  # of them, those that others are compared with where there are several costs


@dataclass(frozen=True)
class Allocation:
    """One candidate a layer; `loss` is the sum of their losses, and no choice within the budget has less than `bound`.

    `gap` is the difference: 0 if the choice is proved to be the best one. Where curves have a discount, all three are
    of losses times `Curves.weights`.
    """

    chosen: Mapping[str, Candidate]
    loss: float
    bound: float

    @property
    def gap(self) -> float:
        """How much less loss another choice might have, at most."""
        return max(0.0, self.loss - self.bound)


def allocate(curves: Curves, budget: Budget) -> Allocation:
    """The candidates of least total loss under a budget.

    Raises:
        ValueError: a budget that no choice keeps; the message tells the smallest cost that one can reach. A budget of
            latency for curves without times.
    """
    original = curves.cost
    if budget.latency is not None and curves.times is None:
        raise ValueError(
            "a budget of latency needs measured times: use compress.plan or compress.plan_within, which measure them, "
            "or curves.with_times(compress.measure_times(curves, model))"
        )
    limits, kinds = budget.limits(original), tuple(budget.shares())
    rows = list(curves.candidates.values())
    fixed = {kind: curves.fixed(kind) for kind in kinds}
    costs = [np.array([[c.cost(kind) for kind in kinds] for c in row], dtype=np.int64) for row in rows]
    weights = curves.weights()
    losses = [weights[row[0].layer] * np.array([c.loss for c in row]) for row in rows]
    room = np.array([limits[kind] - fixed[kind] for kind in kinds], dtype=np.int64)
    for k, kind in enumerate(kinds):
        least = fixed[kind] + sum(int(cost[:, k].min()) for cost in costs)
        if least > limits[kind]:
            raise ValueError(
                f"the budget {kind}={getattr(budget, kind):g} is out of reach: with these layers and formats the "
                f"smallest is {kind}={above(least / original[kind])} ({_said(kind, least, original[kind])})"
            )
    found = choose(losses, costs, room)
    if found is None:
        raise ValueError(f"the budgets {budget} are out of reach together: each alone is not")
    choice, loss, bound = found
    chosen = {row[0].layer: row[index] for row, index in zip(rows, choice, strict=True)}
    return Allocation(chosen, loss, bound)


def above(share: float) -> str:
    """A share rounded up to four digits: a budget that can be kept."""
    return f"{np.ceil(share * 1e4) / 1e4:g}"


def _said(kind: str, least: int, original: int) -> str:
    if kind == "latency":
        return f"{least / 1e6:.3g} of {original / 1e6:.3g} ms"
    return f"{least:,} of {original:,}"


def choose(
    losses: Sequence[Floats], costs: Sequence[Integers], room: Integers
) -> tuple[list[int], float, float] | None:
    """Indices of least total loss, one of each class, whose costs sum to at most `room`; None if there are none.

    Args:
        losses: of each class (n,).
        costs: likewise (n, d), integers.
        room: (d,).

    Returns:
        The indices, their loss, and a lower bound of the loss of any choice.
    """
    if any((sum(cost[:, k].min() for cost in costs) > room[k]) for k in range(len(room))):
        return None
    multipliers = _multipliers(losses, costs, room)
    reduced = [loss + cost @ multipliers for loss, cost in zip(losses, costs, strict=True)]
    bound = float(sum(value.min() for value in reduced) - room @ multipliers)
    first = _feasible(losses, costs, room, multipliers)
    best = np.inf if first is None else sum(float(loss[i]) for loss, i in zip(losses, first, strict=True))
    slack = 1e-12 * max(1.0, abs(bound))
    if first is not None and best - bound <= slack:
        return first, best, best
    kept = [np.flatnonzero(value - value.min() + bound < best - slack) for value in reduced]
    found, excluded = _search(losses, costs, room, multipliers, kept, best - slack)
    if found is None:
        return None if first is None else (first, best, min(best, excluded))
    total = sum(float(loss[i]) for loss, i in zip(losses, found, strict=True))
    return found, total, min(total, excluded)


def _multipliers(losses: Sequence[Floats], costs: Sequence[Integers], room: Integers) -> Floats:
    """The dual solution of the linear relaxation: what a unit of each cost is worth, at least 0."""
    scale = np.maximum(1, np.abs(room)).astype(float)
    every, weights = np.concatenate(losses), np.concatenate(costs) / scale
    classes = np.repeat(np.arange(len(losses)), [len(loss) for loss in losses])
    one_each = sparse.csr_array((np.ones(len(every)), (classes, np.arange(len(every)))))
    unit = float(np.abs(every).max()) or 1.0
    found = optimize.linprog(
        every / unit, A_ub=weights.T, b_ub=room / scale, A_eq=one_each, b_eq=np.ones(len(losses)), method="highs"
    )
    if found.status != 0:  # the search then goes without a bound
        return np.zeros(len(room))
    result: Floats = np.maximum(0.0, -found.ineqlin.marginals) * unit / scale
    return result


def _feasible(
    losses: Sequence[Floats], costs: Sequence[Integers], room: Integers, multipliers: Floats
) -> list[int] | None:
    """A choice within the room: multipliers raised until it fits, then the best exchange of one class, repeatedly."""
    raised = np.maximum(multipliers, 1e-12 / np.maximum(1, np.abs(room)))

    def pick(factor: float) -> list[int]:
        pairs = zip(losses, costs, strict=True)
        return [int(np.lexsort((loss, loss + cost @ (raised * factor)))[0]) for loss, cost in pairs]

    def used(choice: Sequence[int]) -> Integers:
        total: Integers = np.sum([cost[i] for cost, i in zip(costs, choice, strict=True)], axis=0)
        return total

    low, high = 1.0, 1.0
    while (used(pick(high)) > room).any():
        low, high = high, high * 4
        if high > 1e18:
            return None
    for _ in range(40 if high > 1 else 0):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if (used(pick(middle)) > room).any() else (low, middle)
    choice = pick(high)
    while True:
        free, gains = room - used(choice), []
        for k, (loss, cost) in enumerate(zip(losses, costs, strict=True)):
            fits = (cost - cost[choice[k]] <= free).all(1)
            index = int(np.where(fits, loss, np.inf).argmin())
            gains.append((float(loss[choice[k]] - loss[index]), k, index))
        gain, k, index = max(gains)
        if gain <= 0:
            return choice
        choice[k] = index


def _search(
    losses: Sequence[Floats],
    costs: Sequence[Integers],
    room: Integers,
    multipliers: Floats,
    kept: Sequence[Integers],
    ceiling: float,
) -> tuple[list[int] | None, float]:
    """The best choice of less loss than `ceiling`, and the least bound of what was dropped for lack of space."""
    order = sorted(range(len(losses)), key=lambda k: len(kept[k]))
    if any(not len(kept[k]) for k in order):
        return None, np.inf
    relaxed = [float((losses[k][kept[k]] + costs[k][kept[k]] @ multipliers).min()) for k in order]
    least = [costs[k][kept[k]].min(0) for k in order]
    behind = np.concatenate([np.cumsum(relaxed[::-1])[::-1][1:], [0.0]]) - float(room @ multipliers)
    needed = np.concatenate([np.cumsum(least[::-1], axis=0)[::-1][1:], [np.zeros_like(room)]])
    loss, used, trail, dropped = np.zeros(1), np.zeros((1, len(room)), dtype=np.int64), [], np.inf
    for step, k in enumerate(order):
        value = loss + used @ multipliers
        by_value = np.argsort(value, kind="stable")
        parts = []
        for option in kept[k]:
            more = losses[k][option] + costs[k][option] @ multipliers + behind[step]
            below = by_value[: np.searchsorted(value[by_value], ceiling - more)]  # the others cannot be better
            fits = (used[below] + costs[k][option] + needed[step] <= room).all(1)
            parts.append((below[fits], np.full(int(fits.sum()), option)))
        parents, picked = (np.concatenate(column) for column in zip(*parts, strict=True))
        if not len(parents):
            return None, dropped
        loss, used = loss[parents] + losses[k][picked], used[parents] + costs[k][picked]
        bounds = loss + used @ multipliers + behind[step]
        alive = _undominated(loss, used, bounds)
        if len(alive) > STATES:
            alive = alive[np.argsort(bounds[alive], kind="stable")]
            dropped, alive = min(dropped, float(bounds[alive[STATES]])), alive[:STATES]
        loss, used = loss[alive], used[alive]
        trail.append((k, parents[alive], picked[alive]))
    at, choice = int(loss.argmin()), [0] * len(losses)
    if loss[at] >= ceiling:
        return None, dropped
    for k, parents, picked in reversed(trail):
        choice[k], at = int(picked[at]), int(parents[at])
    return choice, dropped


def _undominated(loss: Floats, used: Integers, bounds: Floats) -> Integers:
    """Which partial choices no other one beats in loss and in every cost; with several costs, those cheaply seen."""
    order = np.lexsort((loss, *used.T[::-1]))  # ascending in the first cost, the later ones, then in loss
    if used.shape[1] == 1:
        best = np.minimum.accumulate(loss[order])
        first = np.concatenate([[True], loss[order][1:] < best[:-1]])
        front: Integers = order[first]
        return front
    same = np.concatenate([[False], (used[order][1:] == used[order][:-1]).all(1)])
    order = np.asarray(order[~same], dtype=np.int64)
    for index in order[np.argsort(bounds[order], kind="stable")[:STRONG]]:
        beaten = (loss[order] >= loss[index]) & (used[order] >= used[index]).all(1) & (order != index)
        order = order[~beaten]
    return order
