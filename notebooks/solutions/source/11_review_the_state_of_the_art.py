# %% [markdown]
# # Solve the exercises of `11 review the state of the art`
#
# Try them first. Each answer is followed by the same check as in the lesson, and by why it is so.
#
# [Back to the lesson](../11_review_the_state_of_the_art.ipynb) · [Glossary](../GLOSSARY.md)

# %% tags=["parameters"]
seed: int = 0  # of the random numbers that the answers are tried on

# %%
import math

import numpy as np

from tnlib import check

rng = np.random.default_rng(seed)

# %% [markdown]
# ## 1. From a layer to the network
#
# Let the network have size 1. The rest keeps $1 - s$, of the layer $s / f$ is left. This is Amdahl's law, said of parameters instead of time.


# %%
def network_factor(factor, share):
    return 1 / (1 - share + share / factor)


check.network_factor(network_factor)

# %% [markdown]
# However large the factor of the layer, the network's stays below $1 / (1 - s)$:

# %%
for share in rng.random(5):
    assert network_factor(1e12, share) <= 1 / (1 - share) + 1e-9
print(f"a layer of 74 % of the parameters: at most {1 / (1 - 0.74):.1f} times")

# %% [markdown]
# ## 2. The front
#
# Sort by what is removed, the most first, of equal ones the better first. A point belongs to the front if its change exceeds all before it: those remove at least as much.


# %%
def front(removed, change):
    known = [i for i in range(len(removed)) if not math.isnan(removed[i] + change[i])]
    found, best = [], -math.inf
    for i in sorted(known, key=lambda i: (-removed[i], -change[i])):
        if change[i] > best:
            found, best = [i, *found], change[i]
    return found


check.front(front)

# %% [markdown]
# Whoever is not on the front is beaten by somebody who is:

# %%
removed, change = rng.random(200), rng.random(200)
on_front = front(removed, change)
for i in set(range(200)) - set(on_front):
    assert any(removed[j] >= removed[i] and change[j] >= change[i] for j in on_front)
print(len(on_front), "of 200 random points")

# %% [markdown]
# ## 3. The best of several
#
# All are at most $x$ with probability $\Phi(x)^n$; the density is its derivative. The integrand is smooth and falls off like $e^{-x^2/2}$, and for such functions the plain sum over a grid converges faster than any power of its step.


# %%
def expected_best(runs):
    x = np.linspace(-10, 10, 4001)
    density = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    below = np.array([math.erfc(-value / math.sqrt(2)) / 2 for value in x])
    return float((x * runs * density * below ** (runs - 1)).sum() * (x[1] - x[0]))


check.expected_best(expected_best)

# %% [markdown]
# By symmetry the best of one is 0, and the closed forms come out:

# %%
assert abs(expected_best(1)) < 1e-12
assert math.isclose(expected_best(2), 1 / math.sqrt(math.pi), rel_tol=1e-9)
drawn = rng.standard_normal((20_000, 10)).max(1)
assert abs(drawn.mean() - expected_best(10)) < 0.03
print(f"the best of ten: {expected_best(10):.3f} deviations above the mean")
