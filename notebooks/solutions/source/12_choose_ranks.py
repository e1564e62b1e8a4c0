# %% [markdown]
# # Solve the exercises of `12 choose ranks`
#
# Try them first. Each answer is followed by the same check as in the lesson, and by why it is so.
#
# [Back to the lesson](../12_choose_ranks.ipynb) · [Glossary](../GLOSSARY.md)

# %% tags=["parameters"]
seed: int = 0  # of the random numbers that the answers are tried on

# %%
import itertools
import math

import numpy as np
import torch

from tnlib import check, decompose

rng = np.random.default_rng(seed)
generator = torch.Generator().manual_seed(seed)

# %% [markdown]
# ## 1. The rank for an energy
#
# Look at what is *lost*: the tails, summed from the small end. A rank will do if its tail is at most the share $1 - e$ of the whole. Rounding is allowed for relative to the whole:
# four values of 1 have a tail of 2 behind the second, and half of 4 is no more than that.


# %%
def rank_for_energy(singular_values, energy):
    squares = singular_values.sort(descending=True).values.square()
    tails = squares.flip(0).cumsum(0).flip(0)  # what is lost if this value and all behind it go
    return int((tails > (1 - energy + 1e-12) * tails[0]).sum())


check.rank_for_energy(rank_for_energy)

# %% [markdown]
# `tails[r]` is what rank $r$ loses, so counting those that are too large is counting the ranks that are too small. With nothing to keep, no tail is larger than 0, and the rank is 0. On matrices it agrees with `decompose`:

# %%
for energy in (0.3, 0.7, 0.95):
    W = torch.randn(20, 30, generator=generator, dtype=torch.float64)
    assert rank_for_energy(torch.linalg.svdvals(W), energy) == decompose.energy_rank(W, energy)
print("the ranks of decompose.energy_rank")

# %% [markdown]
# ## 2. The lower hull of a curve
#
# The monotone chain (Andrew 1979). First drop what is beaten: walking from cheap to dear, each candidate has to lose less than all before it. Then a corner $b$ between $a$ and the new $c$ stays only if the slope from $a$ to $b$ is
# steeper than that from $a$ to $c$: the gain for each unit of cost must fall along the hull.


# %%
def lower_hull(costs, losses):
    hull = []
    for c in sorted(range(len(costs)), key=lambda i: (costs[i], losses[i])):
        if hull and losses[c] >= losses[hull[-1]]:
            continue
        while len(hull) > 1:
            a, b = hull[-2:]
            if (losses[a] - losses[b]) * (costs[c] - costs[a]) > (losses[a] - losses[c]) * (costs[b] - costs[a]):
                break
            hull.pop()
        hull.append(c)
    return hull[::-1]


check.lower_hull(lower_hull)

# %% [markdown]
# Products instead of quotients: nothing is divided by zero, and whole numbers stay exact. Each candidate enters once and leaves at most once, so that sorting is what costs. Every price picks a corner:

# %%
costs, losses = rng.permutation(200)[:50] + 1.0, rng.random(50)
hull = lower_hull(costs, losses)
for price in np.geomspace(1e-5, 1, 200):
    assert int(np.argmin(losses + price * costs)) in hull
print(len(hull), "corners of", len(costs), "candidates; no price picks another")

# %% [markdown]
# With the hulls, no bisection is needed: sort the steps of all layers by gain for each unit of cost, and take them from the cheapest choice on until the room is used up.
#
# ## 3. The exact optimum
#
# Dynamic programming. Two partial choices of the same cost have the same future: keep the better one. More: a partial choice that costs *and* loses no less than another is out. Walk through the states by cost, and keep those that lose less than all before.


# %%
def least_loss(losses, costs, room):
    states = [(0, 0.0, ())]  # cost, loss, choice
    for loss, cost in zip(losses, costs, strict=True):
        grown = [(c + cost[j], v + loss[j], (*chosen, j)) for c, v, chosen in states for j in range(len(loss))]
        states = []
        for state in sorted(grown):
            if state[0] <= room and (not states or state[1] < states[-1][1]):
                states.append(state)
    return list(states[-1][2])


check.least_loss(least_loss)

# %% [markdown]
# There are at most `room` + 1 states, so the work grows with layers times candidates times room, not with a power of the number of layers. Against all choices, on cases that allow it:

# %%
for _ in range(20):
    costs = [rng.integers(1, 30, 5).tolist() for _ in range(4)]
    losses = [rng.random(5).tolist() for _ in range(4)]
    room = sum(map(min, costs)) + 15
    fitting = [c for c in itertools.product(range(5), repeat=4) if sum(map(list.__getitem__, costs, c)) <= room]
    best = min(sum(map(list.__getitem__, losses, c)) for c in fitting)
    assert math.isclose(sum(map(list.__getitem__, losses, least_loss(losses, costs, room))), best)
print("20 random cases: the least loss of all choices")

# %% [markdown]
# MACs come in millions, and so would the states. `compress.allocate` first asks the dual: a candidate, or a partial choice, that even with the cheapest rest exceeds the best known loss is dropped. A few states are left.
#
# [Back to the lesson](../12_choose_ranks.ipynb) · [Glossary](../GLOSSARY.md)
