# %% [markdown]
# # Solve the exercises of `08 reproduce lebedev`
#
# Try them first. Each answer is followed by the same check as in the lesson, and by why it is so.
#
# [Back to the lesson](../08_reproduce_lebedev.ipynb) · [Glossary](../GLOSSARY.md)

# %% tags=["parameters"]
seed: int = 0  # of the random factors that the answers are tried on

# %%
import math

import torch

from tnlib import check

generator = torch.Generator().manual_seed(seed)


# %%
def normal(*shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


# %% [markdown]
# ## 1. The energy of the terms
#
# $\lVert \lambda\, \mathbf a \circ \mathbf b \circ \mathbf c \rVert = |\lambda| \lVert \mathbf a \rVert \lVert \mathbf b \rVert \lVert \mathbf c \rVert$, since all entries are products. Squares need no absolute value.


# %%
def cp_term_energy(weights, factors):
    energy = weights**2
    for factor in factors:
        energy = energy * (factor**2).sum(0)
    return energy.sum()


check.cp_term_energy(cp_term_energy)

# %% [markdown]
# The squared norm of the *sum* is another number: it has the inner products between terms, too. Two terms that cancel:

# %%
a = normal(4, 1)
pair = [torch.cat([a, a], 1), torch.cat([a, a], 1)]
weights = torch.tensor([5.0, -5.0], dtype=torch.float64)
assert torch.einsum("r,ir,jr->ij", weights, *pair).norm() < 1e-12
print("a sum that is zero has terms of energy", round(float(cp_term_energy(weights, pair) / a.norm() ** 4), 6), "|a|^4")

# %% [markdown]
# ## 2. What is left
#
# The first layer: $16^2$ positions, 96 filters of 81 entries. The fourth: 128 to 144, once. The two CPDs by the formula of the lesson.


# %%
def char_network_macs(rank):
    second = rank * (48 * 16**2 + 9 * 8 * 16 + 9 * 8**2 + 128 * 8**2)
    third = rank * (64 * 8**2 + 8 * 1 * 8 + 8 * 1 + 512 * 1)
    return 16**2 * 96 * 81 + second + third + 128 * 144


check.char_network_macs(char_network_macs)

# %%
share = 16**2 * 96 * 81 / char_network_macs(64)
assert share > 0.5
print(f"share of the first layer at rank 64: {share:.0%}")

# %% [markdown]
# More than half of what is left is the layer that stayed. Its kernel is $96 \times 1 \times 9 \times 9$: with one input channel, a
# CPD of rank $R$ costs $R\,(24^2 + 9 \cdot 16 \cdot 24 + 9 \cdot 16^2 + 96 \cdot 16^2)$, a third at rank 20 or so.

# %% [markdown]
# ## 3. The first greedy term
#
# With the angle $\theta$ between $\mathbf a$ and $\mathbf u$, and $\varphi = \arccos \rho$: $\cos^3 \theta + \cos^3(\varphi - \theta)$. A component outside the plane only shortens both cosines. A
# grid finds the right hill, smaller grids its top.


# %%
def greedy_first_term(cosine):
    angle, low, high = math.acos(cosine), -math.pi, math.pi
    for _ in range(8):
        grid = torch.linspace(low, high, 401, dtype=torch.float64)
        values = (grid.cos() ** 3 + (angle - grid).cos() ** 3).abs()
        best, step = float(grid[values.argmax()]), (high - low) / 400
        low, high = best - step, best + step
    return float(values.max())


check.greedy_first_term(greedy_first_term)

# %% [markdown]
# While the two are far apart the best $\mathbf u$ is near one of them; once they are close, it is the bisector. Where is the border? At the bisector
# the second derivative is proportional to $2 \tan^2(\varphi / 2) - 1$: it is a maximum while $\tan^2(\varphi/2) < 1/2$, that is for $\rho > 1/3$.

# %%
for cosine in (0.30, 0.36):
    bisector = 2 * math.cos(math.acos(cosine) / 2) ** 3
    print(cosine, "bisector is best:", abs(greedy_first_term(cosine) - bisector) < 1e-9)

# %% [markdown]
# ## 4. A Gauss-Newton product
#
# $\mathbf J$ times the direction is $\sum_m [\![\mathbf A_0, \dots, \mathbf D_m, \dots, \mathbf A_{Q-1}]\!]$. Its MTTKRP in mode $n$: for $m = n$, $\mathbf D_n$ times the Hadamard product of the other
# modes' Gram matrices. For $m \ne n$, $\mathbf A_n$ times the Hadamard product of $\mathbf D_m^\top \mathbf A_m$ with the Gram matrices of all modes but $n$ and $m$.


# %%
def cp_gauss_newton_product(factors, direction):
    grams = [A.T @ A for A in factors]
    mixed = [D.T @ A for A, D in zip(factors, direction, strict=True)]
    result = []
    for n, A in enumerate(factors):
        others = [k for k in range(len(factors)) if k != n]
        alone = math.prod(grams[k] for k in others)
        cross = sum(math.prod(mixed[k] if k == m else grams[k] for k in others) for m in others)
        result.append(direction[n] @ alone + A @ cross)
    return result


check.cp_gauss_newton_product(cp_gauss_newton_product)

# %% [markdown]
# Against the Jacobian itself, on a small tensor:

# %%
sizes, R = (4, 3, 5), 2
factors, direction = [normal(n, R) for n in sizes], [normal(n, R) for n in sizes]


def entries(*parts):
    return torch.einsum("ir,jr,kr->ijk", *parts)


blocks = torch.autograd.functional.jacobian(entries, tuple(factors))
J = torch.cat([block.reshape(math.prod(sizes), -1) for block in blocks], 1)
got = torch.cat([part.flatten() for part in cp_gauss_newton_product(factors, direction)])
assert torch.allclose(got, J.T @ J @ torch.cat([part.flatten() for part in direction]))

# %% [markdown]
# The cost: $O(\sum_n I_n R^2)$ for the products with tall matrices, since the small ones are summed before, and $O(Q^3 R^2)$ for the small
# ones; the tensor has $\prod_n I_n$ entries.
#
# [Back to the lesson](../08_reproduce_lebedev.ipynb) · [Glossary](../GLOSSARY.md)
