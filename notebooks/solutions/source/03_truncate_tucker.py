# %% [markdown]
# # Solve the exercises of `03 truncate tucker`
#
# Try them first. Each answer is followed by the same check as in the lesson, and by why it is so.
#
# [Back to the lesson](../03_truncate_tucker.ipynb) · [Glossary](../GLOSSARY.md)

# %% tags=["parameters"]
seed: int = 0  # of the random tensors that the answers are tried on

# %%
import itertools
import math

import torch
from tensorly import unfold
from tensorly.tenalg import mode_dot, multi_mode_dot

from tnlib import check, decompose

# %%
generator = torch.Generator().manual_seed(seed)


def randn(*shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


# %% [markdown]
# ## 1. The multilinear rank of a random tensor
#
# The unfolding of mode $n$ is a random matrix with $I_n$ rows and $\prod_{m \ne n} I_m$ columns. A random matrix has full
# rank (the others are where some determinant vanishes, which happens with probability zero), so
# $T_n = \min(I_n, \prod_{m \ne n} I_m)$.


# %%
def generic_multilinear_rank(shape):
    return tuple(min(n, math.prod(shape) // n) for n in shape)


check.generic_multilinear_rank(generic_multilinear_rank)

# %%
for shape in ((2, 3, 7), (4, 5, 6), (3, 2, 2, 20), (6, 9)):
    X = randn(*shape)
    ranks = tuple(int(torch.linalg.matrix_rank(unfold(X, n))) for n in range(X.ndim))
    assert ranks == generic_multilinear_rank(shape)
    print(shape, "has multilinear rank", ranks)

# %% [markdown]
# At most one mode can be longer than the product of the others. If one is, a tall and thin tensor, Tucker is exact there
# with fewer directions than the mode has: compression without loss. The common mistake is to expect $T_n = I_n$, as for
# square matrices.
#
# ## 2. How many free parameters?
#
# Stored are $\prod_n T_n + \sum_n I_n T_n$ numbers. For each mode, an invertible $\mathbf M_n$ may be inserted without
# changing the tensor: $T_n^2$ numbers that do nothing. No other change is without effect: the tensor determines the
# subspaces, a basis of each subspace is determined up to such an $\mathbf M_n$, and the bases determine the core. So
#
# $$\prod_n T_n + \sum_n I_n T_n - \sum_n T_n^2 = \prod_n T_n + \sum_n T_n (I_n - T_n).$$
#
# The second form reads well: a core, and for each mode a subspace ($T_n (I_n - T_n)$ is the dimension of the Grassmann
# manifold).


# %%
def tucker_free_parameters(shape, ranks):
    subspaces = sum(t * (n - t) for n, t in zip(shape, ranks, strict=True))
    return math.prod(ranks) + subspaces


check.tucker_free_parameters(tucker_free_parameters)

# %% [markdown]
# For a matrix, $Q = 2$ and $T_0 = T_1 = R$, it is $R^2 + R(m - R) + R(n - R) = R(m + n - R)$, as it must be.
#
# The common mistake divides out rotations only, $T_n (T_n - 1) / 2$ a mode. That counts freedom *among orthonormal
# factors*; orthonormality itself removes another $T_n (T_n + 1) / 2$. Together they are $T_n^2$ again.
#
# A number derived on paper deserves a measurement. The map from core and factors to the tensor has a Jacobian, and its
# rank at a random point is the dimension of the image:


# %%
def jacobian_rank(shape, ranks):
    sizes = [tuple(ranks), *zip(shape, ranks, strict=True)]
    parts = [randn(*size) for size in sizes]

    def build(*parts):
        return multi_mode_dot(parts[0], list(parts[1:])).flatten()

    blocks = torch.func.jacrev(build, argnums=tuple(range(len(parts))))(*parts)
    return int(torch.linalg.matrix_rank(torch.cat([block.flatten(1) for block in blocks], dim=1)))


# %%
for shape, ranks in (((5, 6, 7), (2, 3, 4)), ((9, 8), (3, 3)), ((3, 4, 5), (1, 1, 1)), ((3, 4, 3, 4), (2, 2, 2, 3))):
    assert jacobian_rank(shape, ranks) == tucker_free_parameters(shape, ranks)
    print(f"{shape} at ranks {ranks}: {jacobian_rank(shape, ranks)} free parameters")

# %% [markdown]
# The count also answers why HOSVD's core cannot be diagonal in general. An $n \times n \times n$ tensor has $n^3$ free
# entries. Three orthogonal matrices and a diagonal have $3 n (n - 1) / 2 + n$, which is less from $n = 2$ on.

# %%
for n in range(2, 50):
    assert 3 * n * (n - 1) // 2 + n < n**3
    assert n * (n - 1) + n == n**2
print("order 3: too few parameters for a diagonal core; order 2: exactly enough, and there the SVD exists")

# %% [markdown]
# ## 3. The best Tucker-2 ranks under a budget
#
# The core of the full HOSVD of modes 0 and 1 knows every truncation: the energy kept by $(R_T, R_S)$ is that of the box
# `core[:R_T, :R_S]`. Two cumulative sums give all boxes. Pairs that cost too much keep "minus infinity".


# %%
def tucker2_ranks(kernel, budget):
    T, S, kh, kw = kernel.shape
    bases = [torch.linalg.svd(unfold(kernel, n), full_matrices=False).U for n in (0, 1)]
    core = multi_mode_dot(kernel, bases, modes=[0, 1], transpose=True)
    kept = core.square().sum((2, 3)).cumsum(0).cumsum(1)
    a, b = torch.arange(1, kept.shape[0] + 1)[:, None], torch.arange(1, kept.shape[1] + 1)
    kept[T * a + a * b * kh * kw + S * b > budget] = -math.inf
    best = int(kept.argmax())
    return best // kept.shape[1] + 1, best % kept.shape[1] + 1


check.tucker2_ranks(tucker2_ranks)

# %% [markdown]
# Compared with real truncations, every pair of them, on a kernel whose channels matter unequally:

# %%
kernel = randn(6, 5, 3, 3) * torch.exp(-0.3 * torch.arange(6.0).double()).reshape(6, 1, 1, 1)
budget, errors = 110, {}
fitting = [(a, b) for a, b in itertools.product(range(1, 7), range(1, 6)) if 6 * a + a * b * 9 + 5 * b <= budget]
for pair in fitting:
    part = decompose.tucker(kernel, pair, modes=(0, 1), method="hosvd")
    errors[pair] = float((kernel - part.to_tensor()).norm())

# %%
assert min(errors, key=errors.get) == tucker2_ranks(kernel, budget)
print("the pair found by cumulative sums is the best of", len(errors), "real truncations")

# %% [markdown]
# Minimising the sum of the discarded energies of both modes instead is a natural mistake. It is an upper bound, which
# counts twice what is outside of the box in both modes; its smallest value need not belong to the smallest error.
#
# HOOI and ST-HOSVD adapt one factor to the other, and lower the error of each pair by another amount. So their best pair may
# be another one: the check has a kernel on which it is. With them, no single core knows all errors.
#
# ## 4. The cheapest order for ST-HOSVD
#
# Try all orders: $Q!$ of them is nothing for the orders of everyday tensors.


# %%
def macs(shape, ranks, order):
    sizes, total = list(shape), 0
    for n in order:
        total += (shape[n] + ranks[n]) * math.prod(sizes)
        sizes[n] = ranks[n]
    return total


# %%
def cheapest_st_hosvd(shape, ranks):
    return min(macs(shape, ranks, order) for order in itertools.permutations(range(len(shape))))


check.cheapest_st_hosvd(cheapest_st_hosvd)

# %% [markdown]
# Rules of thumb: the smallest mode first (its Gram matrix is cheap), or the strongest shrinking first (everything after
# it is small). Each looks at one half of the cost and fails on the other half. Exchange two neighbouring steps $m$ and
# $n$, write $c = I + T$ for the cost per entry and $s = T / I$ for the shrinking: $m$ first is cheaper when
# $c_m + s_m c_n < c_n + s_n c_m$, that is when $c_m / (1 - s_m) < c_n / (1 - s_n)$. Sorting by $c / (1 - s)$ is therefore
# optimal, without trying all orders:


# %%
def by_exchange(shape, ranks):
    key = [(n + t) / (1 - t / n) if t < n else math.inf for n, t in zip(shape, ranks, strict=True)]
    return macs(shape, ranks, sorted(range(len(shape)), key=key.__getitem__))


# %%
for _ in range(300):
    shape = torch.randint(2, 40, (4,), generator=generator).tolist()
    ranks = [int(torch.randint(1, n + 1, (), generator=generator)) for n in shape]
    assert by_exchange(shape, ranks) == cheapest_st_hosvd(shape, ranks)
print("sorting by (I + T) / (1 - T / I) is as cheap as the best of all orders, 300 times")

# %% [markdown]
# The order also changes the result a little: another sequence of projections, another error, the same bound.
#
# ## 5. A tolerance for ST-HOSVD
#
# The squared error of ST-HOSVD is *exactly* the sum of what its steps discard. So a step may count on what the earlier
# ones left over, and nothing is lost by looking at truncated tensors only.


# %%
def st_hosvd_ranks(tensor, rel_error):
    current, ranks = tensor, []
    budget = (rel_error * tensor.norm()) ** 2
    for n in range(tensor.ndim):
        spent = tensor.norm() ** 2 - current.norm() ** 2
        U, sigma, _ = torch.linalg.svd(unfold(current, n), full_matrices=False)
        discarded = sigma.square().flip(0).cumsum(0).flip(0)
        ranks.append(max(1, int((discarded > (budget - spent) / (tensor.ndim - n)).sum())))
        current = mode_dot(current, U[:, : ranks[-1]].T, n)
    return tuple(ranks)


check.st_hosvd_ranks(st_hosvd_ranks)

# %% [markdown]
# The guarantee holds: at the last step the share is all that remains. And no rank is larger than the one that the equal
# shares of HOSVD give, because singular values cannot grow by projecting other modes, and no share is smaller.


# %%
def st_hosvd_error(X, ranks):
    core, factors = X, []
    for n, rank in enumerate(ranks):
        factors.append(torch.linalg.svd(unfold(core, n), full_matrices=False).U[:, :rank])
        core = mode_dot(core, factors[n].T, n)
    return (X - multi_mode_dot(core, factors)).norm() / X.norm()


# %%
saved = 0
for _ in range(40):
    X = randn(7, 8, 9) * torch.exp(-0.3 * torch.arange(9.0).double())
    for wanted in (0.1, 0.3, 0.6):
        ranks, equal = st_hosvd_ranks(X, wanted), decompose.tucker(X, rel_error=wanted, method="hosvd").core.shape
        assert st_hosvd_error(X, ranks) <= wanted * (1 + 1e-12)
        assert all(mine <= theirs for mine, theirs in zip(ranks, equal, strict=True))
        saved += ranks != tuple(equal)
assert saved > 0
print("120 times within the tolerance, and never a larger rank than with equal shares; sometimes a smaller one")

# %% [markdown]
# The common mistake is to take the singular values of the original tensor in every step. The guarantee survives it, but
# less is gained over HOSVD: energy that an earlier step has removed is paid for again.
