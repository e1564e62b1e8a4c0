# %% [markdown]
# # Solve the exercises of `09 reproduce novikov`
#
# Try them first. Each answer is followed by the same check as in the lesson, and by why it is so.
#
# [Back to the lesson](../09_reproduce_novikov.ipynb) · [Glossary](../GLOSSARY.md)

# %% tags=["parameters"]
seed: int = 0  # of the random trains that the answers are tried on

# %%
import math
from itertools import pairwise

import torch

from tnlib import check

generator = torch.Generator().manual_seed(seed)


# %%
def normal(*shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


# %% [markdown]
# ## 1. Factors from shapes
#
# A core has a slice of $R_q \times R_{q+1}$ numbers for each pair of digits; both ends have one bond only.


# %%
def ttm_factor(row_dims, col_dims, rank):
    bonds = pairwise([1, *[rank] * (len(row_dims) - 1), 1])
    numbers = sum(a * m * n * b for (a, b), m, n in zip(bonds, row_dims, col_dims, strict=True))
    return math.prod(row_dims) * math.prod(col_dims) / numbers


check.ttm_factor(ttm_factor)

# %% [markdown]
# VGG's first fully connected layer at ranks 4, 2 and 1: the paper's figures are these, rounded to whole numbers.

# %%
digits = (4,) * 6, (2, 7, 8, 8, 7, 4)
factors = [ttm_factor(*digits, rank) for rank in (4, 2, 1)]
assert [round(factor) for factor in factors] == [50972, 194622, 713614]
print(", ".join(f"{factor:,.1f}" for factor in factors))

# %% [markdown]
# ## 2. All cores move at once
#
# The product rule at each step: a state that moves meets the core, the state meets the core's direction. Two passes' work, whatever the number of cores.


# %%
def step(state, core, digit):
    moved = torch.einsum("bpnco,amnc->bpamo", state, core)
    return moved.reshape(len(state), -1, digit, core.shape[0], math.prod(moved.shape[3:]))


def directional_output(cores, directions, x):
    state = x.reshape(len(x), -1, cores[-1].shape[2], 1, 1)
    slope = torch.zeros_like(state)
    for q in reversed(range(len(cores))):
        digit = cores[q - 1].shape[2] if q else 1
        slope = step(slope, cores[q], digit) + step(state, directions[q], digit)
        state = step(state, cores[q], digit)
    return slope.flatten(1)


check.directional_output(directional_output)

# %% [markdown]
# With the gradients $\bar G_q$ it has to agree: $\langle \bar y, \dot y \rangle = \sum_q \langle D_q, \bar G_q \rangle$. And the set of all $\dot y$ is that of a train of twice
# the ranks: the tangent space of the trains, on which Riemannian methods work.

# %%
shapes = [(1, 2, 3, 2), (2, 3, 2, 3), (3, 2, 2, 1)]
cores, directions = ([normal(*shape) for shape in shapes] for _ in range(2))
x, dy = normal(5, 12), normal(5, 12)
leaves = [core.clone().requires_grad_() for core in cores]
output = torch.einsum("amnb,bpqc,crsd->mprnqs", *leaves).reshape(12, 12)
gradients = torch.autograd.grad((dy * (x @ output.mT)).sum(), leaves)
by_cores = sum((direction * gradient).sum() for direction, gradient in zip(directions, gradients, strict=True))
assert torch.allclose((dy * directional_output(cores, directions, x)).sum(), by_cores)
print(
    f"by the output {float((dy * directional_output(cores, directions, x)).sum()):.6f}, by the cores {float(by_cores):.6f}"
)

# %% [markdown]
# ## 3. A train that grows
#
# New columns of random numbers in core $q$ meet new rows of zeros in core $q+1$: their product adds nothing. But the gradient of
# the zeros is (what stands left of them, new directions too) times (what stands right): not zero. The gradient of the new columns *is* zero, in the
# first step only.


# %%
def grow_train(cores, extra, seed):
    generator, grown = torch.Generator().manual_seed(seed), []
    for q, core in enumerate(cores):
        left, m, n, right = core.shape
        above, beyond = extra * (q > 0), extra * (q < len(cores) - 1)
        new = torch.zeros(left + above, m, n, right + beyond, dtype=core.dtype)
        new[:left, :, :, :right] = core
        fresh = torch.randn(left, m, n, beyond, generator=generator, dtype=core.dtype)
        new[:left, :, :, right:] = fresh / math.sqrt(left * n)
        grown.append(new)
    return grown


check.grow_train(grow_train)


# %% [markdown]
# That it learns: a train of rank 1 that has to become a matrix of TT rank 2, before and after it grew.


# %%
def distance(cores, goal):
    return (torch.einsum("amnb,bpqc->mpnq", *cores).reshape(goal.shape) - goal).square().sum()


def fitted(cores, goal, steps=2000):
    cores = [core.clone().requires_grad_() for core in cores]
    stepper = torch.optim.Adam(cores, lr=0.02)
    for _ in range(steps):
        stepper.zero_grad()
        distance(cores, goal).backward()
        stepper.step()
    return [core.detach() for core in cores]


# %%
goal = torch.einsum("amnb,bpqc->mpnq", normal(1, 3, 2, 2), normal(2, 2, 3, 1)).reshape(6, 6)
small = fitted([normal(1, 3, 2, 1), normal(1, 2, 3, 1)], goal)
grown = grow_train(small, 1, seed)
assert torch.allclose(distance(grown, goal), distance(small, goal))
after = fitted(grown, goal)
assert distance(after, goal) < 1e-3 * distance(small, goal)
print("squared distance: the same right after growing, then less than a thousandth")

# %% [markdown]
# So a network can start with a small rank and grow where it needs to. Where the error of the *best* rank-1 train is large, the
# left-over is what a second term should fit: choosing the new columns from the gradient's SVD instead of at random starts closer.
#
# [Back to the lesson](../09_reproduce_novikov.ipynb) · [Glossary](../GLOSSARY.md)
