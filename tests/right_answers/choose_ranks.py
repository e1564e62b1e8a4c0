"""Right answers to the exercises of lesson 12."""

import math
from functools import cache

import numpy as np
import torch

from tnlib import decompose


def _one_by_one(singular_values, energy):
    values = sorted((float(s) for s in singular_values), reverse=True)
    whole, left, rank = math.fsum(s * s for s in values), 0.0, 0
    if whole == 0:
        return 0
    while rank < len(values) and left < energy * whole * (1 - 1e-12):
        left, rank = left + values[rank] ** 2, rank + 1
    return rank


def _by_tails(s, e):
    squares = np.sort(np.asarray(s) ** 2)
    return int((np.cumsum(squares) > (1 - e) * squares.sum() + 1e-13 * squares.sum()).sum())


def _of_a_diagonal_matrix(singular_values, energy):
    return decompose.energy_rank(torch.diag(singular_values), energy)


def _by_chain(costs, losses):
    kept = []
    for i in np.lexsort((losses, costs)):
        if kept and losses[i] >= losses[kept[-1]]:
            continue
        while len(kept) > 1 and _slope(costs, losses, kept[-2], kept[-1]) >= _slope(costs, losses, kept[-2], i) - 1e-12:
            kept.pop()
        kept.append(int(i))
    return kept[::-1]


def _slope(costs, losses, a, b):
    return (losses[b] - losses[a]) / (costs[b] - costs[a])


def _by_wrapping(costs, losses):
    """From the cheapest corner on, always the steepest descent; of equal ones the farthest."""
    here = min(range(len(costs)), key=lambda i: (costs[i], losses[i]))
    found = [here]
    while True:
        better = [i for i in range(len(costs)) if costs[i] > costs[here] and losses[i] < losses[here]]
        if not better:
            return found[::-1]
        here = min(better, key=lambda i: (round(_slope(costs, losses, here, i), 12), -costs[i]))
        found.append(here)


def _by_all_lines(costs, losses):
    """A corner lies below every line of two others on its two sides, and below all that is cheaper."""
    c, v = np.asarray(costs), np.asarray(losses)
    found = []
    for i in range(len(c)):
        if ((c <= c[i]) & (v <= v[i]) & (np.arange(len(c)) != i)).any():
            continue
        left, right = np.flatnonzero(c < c[i]), np.flatnonzero(c > c[i])
        lines = [v[a] + (v[b] - v[a]) * (c[i] - c[a]) / (c[b] - c[a]) for a in left for b in right]
        if all(v[i] < height - 1e-12 for height in lines):
            found.append(i)
    return sorted(found, key=lambda i: -c[i])


def _by_recursion(losses, costs, room):
    @cache
    def best(k, left):
        if k == len(losses):
            return 0.0, ()
        options = [
            (loss + best(k + 1, left - cost)[0], j)
            for j, (loss, cost) in enumerate(zip(losses[k], costs[k], strict=True))
            if cost <= left
        ]
        value, j = min(options, default=(math.inf, 0))
        return (value, (j, *best(k + 1, left - costs[k][j])[1])) if math.isfinite(value) else (math.inf, ())

    return list(best(0, room)[1])


def _by_a_table(losses, costs, room):
    value, trail = np.zeros(room + 1), []
    for loss, cost in zip(losses, costs, strict=True):
        options = np.full((len(loss), room + 1), np.inf)
        for j, (lost, spent) in enumerate(zip(loss, cost, strict=True)):
            if spent <= room:
                options[j, spent:] = value[: room + 1 - spent] + lost
        trail.append(options.argmin(0))
        value = options.min(0)
    left, choice = room, []
    for picks, cost in zip(reversed(trail), reversed(costs), strict=True):
        choice.append(int(picks[left]))
        left -= cost[choice[-1]]
    return choice[::-1]


def _by_undominated(losses, costs, room):
    front = [(0, 0.0, ())]
    for k, (loss, cost) in enumerate(zip(losses, costs, strict=True)):
        needed = sum(min(later) for later in costs[k + 1 :])
        grown = [(c + x, v + y, (*t, j)) for c, v, t in front for j, (x, y) in enumerate(zip(cost, loss, strict=True))]
        front = []
        for state in sorted(grown):
            if state[0] + needed <= room and (not front or state[1] < front[-1][1]):
                front.append(state)
    return front[-1][2]


RIGHT = {
    "rank_for_energy": [_one_by_one, _by_tails, _of_a_diagonal_matrix],
    "lower_hull": [_by_chain, _by_wrapping, _by_all_lines],
    "least_loss": [_by_recursion, _by_a_table, _by_undominated],
}
