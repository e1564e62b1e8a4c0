"""Right answers to the exercises of lesson 11."""

import math

import numpy as np
import pandas as pd
from scipy.integrate import quad
from scipy.stats import norm


def _by_sizes(factor, share):
    whole = 1_000_000.0
    layer = share * whole
    return whole / (whole - layer + layer / factor)


def _by_what_is_removed(factor, share):
    return 1 / (1 - share * (1 - 1 / factor))


def _in_percent(f, s):
    return 100 / ((100 - 100 * s) + 100 * s / f)


def _all_pairs(removed, change):
    def beaten(i):
        return any(
            j != i
            and removed[j] >= removed[i]
            and change[j] >= change[i]
            and (removed[j], change[j]) != (removed[i], change[i])
            for j in known
        )

    known = [i for i, pair in enumerate(zip(removed, change, strict=True)) if not any(map(math.isnan, pair))]
    return sorted((i for i in known if not beaten(i)), key=lambda i: removed[i])


def _with_pandas(removed, change):
    table = pd.DataFrame({"r": removed, "c": change}).dropna().sort_values(["r", "c"], ascending=False)
    best = table["c"].cummax().shift(fill_value=-np.inf)
    return table[table["c"] > best].index[::-1].tolist()


def _sweeping(removed, change):
    order = np.lexsort((change, removed))[::-1]
    found, best = [], -math.inf
    for i in order:
        if change[i] > best and removed[i] == removed[i]:
            found.insert(0, i)
            best = change[i]
    return np.array(found)


def _density(runs):
    return quad(lambda x: x * runs * norm.pdf(x) * norm.cdf(x) ** (runs - 1), -10, 10, epsabs=1e-10)[0]


def _tails(n):
    return quad(lambda x: 1 - norm.cdf(x) ** n - norm.cdf(-x) ** n, 0, 12, epsabs=1e-10)[0]


def _quantiles(runs):
    """E max = E of the normal quantile of U^(1/n), U uniform."""
    return quad(lambda u: norm.ppf(u ** (1 / runs)), 0, 1, epsabs=1e-9, limit=200)[0]


RIGHT = {
    "network_factor": (_by_sizes, _by_what_is_removed, _in_percent),
    "front": (_all_pairs, _with_pandas, _sweeping),
    "expected_best": (_density, _tails, _quantiles),
}
