"""Right answers to the exercises of lesson 10."""

import itertools
import math
import statistics

import numpy as np
import torch
from scipy import stats


def _array(tensor):
    return tensor.numpy()


def _made_and_counted(grid, seeds):
    return len(list(itertools.product(*grid.values(), range(seeds))))


def _one_name_after_the_other(grid, seeds):
    runs = [{"seed": seed} for seed in range(seeds)]
    for name in grid:
        runs = [run | {name: value} for run in runs for value in grid[name]]
    return torch.tensor(len(runs))


def _by_covariance(a, b):
    both = np.cov(_array(a), _array(b))
    return np.sqrt((both[0, 0] + both[1, 1] - 2 * both[0, 1]) / len(a))


def _by_squares(first, second):
    d = [float(x) - float(y) for x, y in zip(first, second, strict=True)]
    n, mean = len(d), sum(d) / len(d)
    return math.sqrt(sum((x - mean) ** 2 for x in d) / (n * (n - 1)))


def _one_not_rejected_yet(m, alpha):
    none = 1.0
    for _ in range(m):
        none -= none * alpha
    return torch.tensor([1 - none])


def _inclusion_and_exclusion(m, alpha):
    return sum((-1) ** (k + 1) * math.comb(m, k) * alpha**k for k in range(1, m + 1))


def _interpolated_by_hand(values, index, level):
    means = sorted(float(values[row].mean()) for row in index)

    def at(q):
        below, part = divmod(q * (len(means) - 1), 1)
        upper = min(int(below) + 1, len(means) - 1)
        return means[int(below)] * (1 - part) + means[upper] * part

    return [at((1 - level) / 2), at(1 - (1 - level) / 2)]


def _by_counts(values, index, level):
    """Each resample as how often it has each value."""
    n = len(values)
    counts = torch.nn.functional.one_hot(index, n).sum(1).float()
    means = counts @ values.float() / n
    return torch.stack([means.quantile((1 - level) / 2), means.quantile((1 + level) / 2)])


RIGHT = {
    "sweep_runs": [
        _made_and_counted,
        _one_name_after_the_other,
        lambda grid, seeds: np.prod([len(values) for values in grid.values()]) * seeds,
        lambda names, n: math.prod([n, *map(len, names.values())]),
    ],
    "paired_error": [
        _by_covariance,
        _by_squares,
        lambda a, b: stats.sem(_array(a) - _array(b)),
        lambda a, b: statistics.stdev((a.float() - b.float()).tolist()) / len(a) ** 0.5,
        lambda x, y: (x - y).var(keepdim=True).div(x.numel()).sqrt(),
    ],
    "family_error": [
        _one_not_rejected_yet,
        _inclusion_and_exclusion,
        lambda m, alpha: stats.binom.sf(0, m, alpha),
        lambda tests, level: -math.expm1(tests * math.log1p(-level)),
    ],
    "percentile_interval": [
        _interpolated_by_hand,
        _by_counts,
        lambda values, index, level: np.percentile(
            _array(values)[_array(index)].mean(axis=1), [50 * (1 - level), 50 * (1 + level)]
        ),
        lambda x, where, share: tuple(
            torch.quantile(x[where].sum(1) / len(x), q) for q in (0.5 - share / 2, 0.5 + share / 2)
        ),
    ],
}
