# %% [markdown]
# # Solve the exercises of `13 compare representations`
#
# Try them first. Each answer is followed by the same check as in the lesson, and by why it is so.
#
# [Back to the lesson](../13_compare_representations.ipynb) · [Glossary](../GLOSSARY.md)

# %% tags=["parameters"]
seed: int = 0  # of the random numbers that the answers are tried on

# %%
import math

import numpy as np

from tnlib import check

rng = np.random.default_rng(seed)

# %% [markdown]
# ## 1. Mean places
#
# A score that $g$ others exceed and that $e$ share, itself included, takes the places $g + 1, \dots, g + e$. Their mean is $g + (e + 1) / 2$.


# %%
def mean_ranks(scores):
    table = np.array(scores, dtype=float)
    better = (table[None] > table[:, None]).sum(axis=1)
    equal = (table[None] == table[:, None]).sum(axis=1)
    return (better + (equal + 1) / 2).mean(axis=1)


check.mean_ranks(mean_ranks)

# %% [markdown]
# Sharing keeps the sum of the places: however scores tie, $m$ methods have $m (m + 1) / 2$ places in each network. Means of methods that know nothing scatter around
# $(m + 1) / 2$, with the variance $(m^2 - 1) / 12$ of a place divided by the number of networks:

# %%
m, networks = 5, 20_000
means = mean_ranks(rng.random((m, networks)))
assert math.isclose(means.sum(), m * (m + 1) / 2)
assert np.abs(means - (m + 1) / 2).max() < 6 * math.sqrt((m**2 - 1) / 12 / networks)
print("all of them near", (m + 1) / 2)

# %% [markdown]
# ## 2. The same images
#
# Of the $n$ images that one network alone has right, $k$ are the first one's. Under the hypothesis $k$ is as likely as $n - k$, so the two tails are equal, and
# their sum is twice the smaller one. For $k = n / 2$ they overlap in the middle: hence the minimum with 1. For $n = 0$ the sum is $\binom{0}{0} = 1$, doubled 2, cut to 1.


# %%
def paired_p(a, b):
    first = sum(x and not y for x, y in zip(a, b, strict=True))
    second = sum(y and not x for x, y in zip(a, b, strict=True))
    n, k = first + second, min(first, second)
    return min(1.0, 2 * sum(math.comb(n, j) for j in range(k + 1)) / 2**n)


check.paired_p(paired_p)

# %% [markdown]
# A test that is to err at most once in twenty must do so on networks that are equally good. The exact test does, and it errs less often than it may, as the binomial is discrete:

# %%
found = 0
for _ in range(400):
    a, b = rng.random((2, 60)) < 0.7
    found += paired_p(a.tolist(), b.tolist()) < 0.05
assert found <= 0.05 * 400 + 3 * math.sqrt(400 * 0.05 * 0.95)
print("false findings stay within what chance allows")

# %% [markdown]
# ## 3. One share for all layers
#
# The total is a staircase in $s$: it rises where $s$ meets a candidate's cost over the dense one. The largest share that fits lies on such a step, or below all of them.
# A step is compared with a product of itself, so rounding decides; a relative slack of $10^{-12}$ is far below any true difference of two such fractions here.


# %%
def same_share(costs, dense, room):
    def within(share):
        return [max(0, sum(c <= share * d * (1 + 1e-12) for c in row) - 1) for row, d in zip(costs, dense, strict=True)]

    def total(chosen):
        return sum(row[k] for row, k in zip(costs, chosen, strict=True))

    steps = sorted({c / d for row, d in zip(costs, dense, strict=True) for c in row})
    return [chosen for s in [0, *steps] if total(chosen := within(s)) <= room][-1]


check.same_share(same_share)

# %% [markdown]
# What the share leaves over is less than what the next step takes: all layers of one shape step together. With many equal layers that can be much, and
# `compress.uniform` hands it out.

# %%
layers = 20
costs, dense = [[10 * (k + 1) for k in range(9)]] * layers, [100] * layers
chosen = same_share(costs, dense, room=layers * 50 - 1)
assert chosen == [3] * layers
print("one less than half:", sum(row[k] for row, k in zip(costs, chosen, strict=True)), "of", layers * 50 - 1)
