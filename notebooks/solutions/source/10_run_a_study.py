# %% [markdown]
# # Solve the exercises of `10 run a study`
#
# Try them first. Each answer is followed by the same check as in the lesson, and by why it is so.
#
# [Back to the lesson](../10_run_a_study.ipynb) · [Glossary](../GLOSSARY.md)

# %% tags=["parameters"]
seed: int = 0  # at least 0; of the data that the answers are tried on

# %%
import itertools
import math

import torch

from tnlib import check

generator = torch.Generator().manual_seed(seed)

# %% [markdown]
# ## 1. The size of a sweep
#
# A grid means all combinations: the product of the numbers of values, times the seeds. An empty product is one, and so
# it should be: a grid of nothing leaves one combination, the defaults.


# %%
def sweep_runs(grid, seeds):
    return math.prod(len(values) for values in grid.values()) * seeds


check.sweep_runs(sweep_runs)

# %% [markdown]
# Counted by making them:

# %%
grid = {"rank": [1, 2, 4], "format": ["cp", "tt"], "weights": ["trained"]}
assert sweep_runs(grid, 5) == len(list(itertools.product(*grid.values(), range(5))))
assert sweep_runs({}, 1) == len(list(itertools.product())) == 1
print(sweep_runs(grid, 5), "runs, made and counted")

# %% [markdown]
# ## 2. The standard error of a paired difference
#
# The differences $d_i = a_i - b_i$ are one sample of size $n$. Their mean has variance $\sigma_d^2 / n$, and
# $s^2 = \frac{1}{n-1} \sum_i (d_i - \bar d)^2$ estimates $\sigma_d^2$ without bias. Adding the variances of $a$ and $b$
# instead would forget the covariance, which is what pairing is for.


# %%
def paired_error(a, b):
    return (a - b).std(correction=1) / math.sqrt(len(a))


check.paired_error(paired_error)

# %% [markdown]
# Many small studies of which we know the truth: the mean of the squared standard errors is the variance of the mean.

# %%
shared = torch.randn(20_000, 6, generator=generator, dtype=torch.float64)
a, b = (shared + 0.5 * torch.randn(shared.shape, generator=generator, dtype=torch.float64) for _ in range(2))
squares = torch.stack([paired_error(x, y) ** 2 for x, y in zip(a[:2000], b[:2000], strict=True)])
variance = (a - b).mean(1).var()
assert abs(squares.mean() / variance - 1) < 0.1
print("on average the squared standard error is the variance of the mean difference")

# %% [markdown]
# ## 3. The family's error
#
# Each true hypothesis survives with probability $1 - \alpha$. Independent ones all survive with probability
# $(1 - \alpha)^m$. At least one is rejected otherwise. Bonferroni's $m \alpha$ is larger (the union bound), close to it
# when $m \alpha$ is small, and needs no independence.


# %%
def family_error(m, alpha):
    return 1 - (1 - alpha) ** m


check.family_error(family_error)

# %%
for m, alpha in itertools.product((1, 2, 5, 50), (0.001, 0.05, 0.3)):
    assert family_error(m, alpha) <= m * alpha + 1e-12
alarms = (torch.rand(100_000, 4, generator=generator) < 0.05).any(1).double().mean()
assert abs(alarms - family_error(4, 0.05)) < 0.005
print("below the union bound, and what a simulation gives")

# %% [markdown]
# ## 4. The percentile bootstrap
#
# `values[index]` holds a resample in each row. The means of the rows are the bootstrap distribution; cut
# $(1 - \text{level})/2$ off either end.


# %%
def percentile_interval(values, index, level):
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=values.dtype)
    return torch.quantile(values[index].mean(1), ends)


check.percentile_interval(percentile_interval)

# %% [markdown]
# It respects monotone changes of scale: the interval of the mean of $2x + 3$ is twice the interval plus three. And for a
# large sample it comes close to the normal interval:

# %%
values = torch.rand(400, generator=generator, dtype=torch.float64)
index = torch.randint(400, (4000, 400), generator=generator)
interval = percentile_interval(values, index, 0.95)
assert torch.allclose(percentile_interval(2 * values + 3, index, 0.95), 2 * interval + 3)
normal = values.mean() + torch.tensor([-1.96, 1.96], dtype=torch.float64) * values.std() / math.sqrt(400)
assert torch.allclose(interval, normal, atol=0.1 * float(interval[1] - interval[0]))
print("affine, and close to the normal interval when n is large")
