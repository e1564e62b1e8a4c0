# %% [markdown]
# # Solve the exercises of `00 start here`
#
# Try them first. Each answer is followed by the same check as in the lesson, and by why it is so.
#
# [Back to the lesson](../00_start_here.ipynb) · [Glossary](../GLOSSARY.md)

# %% tags=["parameters"]
seed: int = 0  # of the random kernel that the answers are tried on

# %%
import torch

from tnlib import check, decompose, layers

# %% [markdown]
# ## 1. The size of Tucker-2
#
# A convolution from $a$ to $b$ channels with a $k \times k$ window has $a\,b\,k^2$ entries. The chain has three:
# $1 \times 1$ from $S$ to $R_S$, $k \times k$ from $R_S$ to $R_T$, $1 \times 1$ from $R_T$ to $T$.


# %%
def tucker2_parameters(T, S, k, R_T, R_S):
    return S * R_S + R_S * R_T * k * k + R_T * T


check.tucker2_parameters(tucker2_parameters)

# %% [markdown]
# It is the same sum that counts a Tucker decomposition in two modes: two factor matrices and a core. A real chain
# agrees:

# %%
layer = torch.nn.Conv2d(12, 20, 3, bias=False)
chain = layers.factorize(layer, "tucker2", (7, 5))
assert tucker2_parameters(20, 12, 3, 7, 5) == sum(p.numel() for p in chain.parameters())
print(chain)

# %% [markdown]
# ## 2. When does CP stop saving?
#
# $R (S + 2k + T) < T S k^2$ means $R < T S k^2 / (S + 2k + T)$. The largest whole number *strictly* below a ratio of
# whole numbers $a / b$ is $\lfloor (a - 1) / b \rfloor$: it differs from $\lfloor a / b \rfloor$ only when $b$ divides
# $a$, which is when the chain would have exactly as many parameters as the kernel.


# %%
def break_even_rank(T, S, k):
    return (T * S * k * k - 1) // (S + 2 * k + T)


check.break_even_rank(break_even_rank)

# %% [markdown]
# For a 64 x 64 x 3 x 3 kernel that rank is larger than the number of channels. That alone is nothing special: ranks of
# `spatial_svd` and `tt` exceed it, too, being ranks of matrices with up to $3 \cdot 64$ rows. What sets CP apart: its rank
# may exceed the ranks of *all* unfoldings of the kernel, in whatever way its modes are grouped into rows and columns.

# %%
T, S, k = 64, 64, 3
unfoldings = [min(T, S * k * k), min(S, T * k * k), k, min(T * S, k * k), min(T * k, S * k)]
assert break_even_rank(T, S, k) > max(unfoldings)
print(break_even_rank(T, S, k), "terms; no unfolding has a rank above", max(unfoldings))

# %% [markdown]
# ## 3. An error without an approximation
#
# The `svd` format is the truncated SVD of the unfolding $T \times S k_h k_w$. By Eckart-Young the squared error is the
# sum of the squares of the discarded singular values, and the squared norm is the sum of all of them.


# %%
def tail_error(kernel, rank):
    sigma = torch.linalg.svdvals(kernel.flatten(1))
    return sigma[rank:].norm() / sigma.norm()


check.tail_error(tail_error)

# %% [markdown]
# Compared with an approximation that is really computed:

# %%
kernel = torch.randn(6, 5, 3, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
approximation = decompose.svd(kernel.flatten(1), 3).to_matrix().reshape(kernel.shape)
assert torch.isclose(tail_error(kernel, 3), (kernel - approximation).norm() / kernel.norm())
print("the formula and the approximation agree")
