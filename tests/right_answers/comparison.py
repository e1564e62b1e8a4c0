"""Right answers to the exercises of lesson 13."""

import math
from fractions import Fraction

import numpy as np
import pandas as pd
from scipy.stats import binomtest


def _with_pandas(scores):
    return pd.DataFrame(scores).rank(ascending=False).mean(axis=1).to_numpy()


def _by_counting(scores):
    table = np.array(scores, dtype=float)
    better = (table[None] > table[:, None]).sum(1)
    equal = (table[None] == table[:, None]).sum(1)
    return (better + (equal + 1) / 2).mean(1)


def _in_loops(scores):
    places = []
    for column in zip(*scores, strict=True):
        order = sorted(column, reverse=True)
        places.append([order.index(x) + 1 + (order.count(x) - 1) / 2 for x in column])
    return [sum(column) / len(places) for column in zip(*places, strict=True)]


def _with_scipy(a, b):
    a, b = np.array(a, bool), np.array(b, bool)
    first, both = int((a & ~b).sum()), int((a ^ b).sum())
    return binomtest(first, both).pvalue if both else 1.0


def _by_sums(a, b):
    first = sum(x > y for x, y in zip(a, b, strict=True))
    n = first + sum(x < y for x, y in zip(a, b, strict=True))
    tail = sum(math.comb(n, k) for k in range(min(first, n - first) + 1))
    return float(min(Fraction(1), Fraction(2 * tail, 2**n)))


def _by_likelihood(a, b):
    """All outcomes that are at most as likely as the one seen."""
    first, second = sum(x > y for x, y in zip(a, b, strict=True)), sum(x < y for x, y in zip(a, b, strict=True))
    n = first + second
    return sum(math.comb(n, k) for k in range(n + 1) if math.comb(n, k) <= math.comb(n, first)) / 2**n


def _bisecting(costs, dense, room):
    def within(share):
        return [max(0, sum(c <= share * d for c in row) - 1) for row, d in zip(costs, dense, strict=True)]

    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        fits = sum(row[k] for row, k in zip(costs, within(middle), strict=True)) <= room
        low, high = (middle, high) if fits else (low, middle)
    return within(low)


def _in_steps(costs, dense, room):
    """All layers of the smallest next share rise at once, while that fits."""
    at = [0] * len(costs)
    while True:
        following = [
            row[k + 1] / d if k + 1 < len(row) else math.inf for row, k, d in zip(costs, at, dense, strict=True)
        ]
        least = min(following)
        if least == math.inf:
            return at
        raised = [k + (share <= least * (1 + 1e-12)) for k, share in zip(at, following, strict=True)]
        if sum(row[k] for row, k in zip(costs, raised, strict=True)) > room:
            return at
        at = raised


def _in_fractions(costs, dense, room):
    best = [0] * len(costs)
    for share in sorted({Fraction(c, d) for row, d in zip(costs, dense, strict=True) for c in row}):
        chosen = [max(0, sum(Fraction(c, d) <= share for c in row) - 1) for row, d in zip(costs, dense, strict=True)]
        if sum(row[k] for row, k in zip(costs, chosen, strict=True)) <= room:
            best = chosen
    return tuple(best)


RIGHT = {
    "mean_ranks": (_with_pandas, _by_counting, _in_loops),
    "paired_p": (_with_scipy, _by_sums, _by_likelihood),
    "same_share": (_bisecting, _in_steps, _in_fractions),
}
