# %% [markdown]
# # Solve the exercises of `04 build tensor trains`
#
# Try them first. Each answer is followed by the same check as in the lesson, and by why it is so.
#
# [Back to the lesson](../04_build_tensor_trains.ipynb) · [Glossary](../GLOSSARY.md)

# %% tags=["parameters"]
seed: int = 0  # of the random trains that the answers are tried on

# %%
import itertools
import math

import torch

from tnlib import check, decompose

generator = torch.Generator().manual_seed(seed)


# %%
def random_train(shape, ranks):
    bonds = [1, *ranks, 1]
    sizes = [(bonds[q], size, bonds[q + 1]) for q, size in enumerate(shape)]
    return [torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes]


def full(cores):
    product = cores[0]
    for core in cores[1:]:
        product = torch.tensordot(product, core, 1)
    return product[0, ..., 0]


# %% [markdown]
# ## 1. Sum a train
#
# The sum over all indices of a product of matrices is the product of the sums, because each index occurs in one factor
# only: $\sum_{i_0 \dots} \mathbf G_0(i_0) \mathbf G_1(i_1) \cdots = \big(\sum_{i_0} \mathbf G_0(i_0)\big) \big(\sum_{i_1} \mathbf G_1(i_1)\big) \cdots$.
# Sum each core over its mode, multiply the matrices.


# %%
def tt_sum(cores):
    row = torch.ones(1, 1, dtype=cores[0].dtype)
    for core in cores:
        row = row @ core.sum(1)
    return row[0, 0]


check.tt_sum(tt_sum)

# %% [markdown]
# The common mistake is to sum each core over *everything* and multiply the numbers. Then the two copies of a bond index
# run independently of each other, though in the train they are one index. For rank 1 there is no difference, so a test
# on a rank-one tensor does not find the mistake:

# %%
flat, thick = random_train((3, 5, 4), (1, 1)), random_train((3, 5, 4), (2, 3))
for cores in (flat, thick):
    assert torch.isclose(tt_sum(cores), full(cores).sum())
careless = [math.prod(float(core.sum()) for core in cores) for cores in (flat, thick)]
print("careless sum right at rank 1:", math.isclose(careless[0], tt_sum(flat)))
print("careless sum right at ranks 2 and 3:", math.isclose(careless[1], tt_sum(thick)))

# %% [markdown]
# The same function sums $2^{60}$ entries. With all-ones cores of ranks 1 it must count them:

# %%
assert tt_sum([torch.ones(1, 2, 1, dtype=torch.float64)] * 60) == 2.0**60
print("a train of ones with 60 modes of size 2 sums to 2^60")

# %% [markdown]
# ## 2. Ranks in another order
#
# Permute, then take the rank of each sequential unfolding: rows are the first $q$ modes *of the new order*. In row-major
# memory the unfolding is a reshape, because `permute` followed by `reshape` copies the entries into the new order.


# %%
def tt_ranks(tensor, order):
    moved = tensor.permute(*order)
    cuts = [moved.reshape(math.prod(moved.shape[:q]), -1) for q in range(1, moved.ndim)]
    return torch.stack([torch.linalg.matrix_rank(cut) for cut in cuts])


check.tt_ranks(tt_ranks)

# %% [markdown]
# Two mistakes give plausible numbers. Ranks of *mode* unfoldings (one mode against the rest) are Tucker's; the two kinds
# agree only at the ends. And a permutation and its inverse are easily confused: `permute(2, 0, 3, 1)` puts mode 2 first.
# TT-SVD agrees with the ranks, for every order:

# %%
x = full(random_train((4, 5, 3, 6), (2, 3, 2)))
for order in itertools.permutations(range(4)):
    train = decompose.tt(x.permute(order), rel_error=1e-10)
    assert list(train.rank) == [1, *tt_ranks(x, order).tolist(), 1]
print("all 24 orders: the ranks that TT-SVD finds are those of the unfoldings")

# %% [markdown]
# A cut's rank is limited by the bonds it goes through. The order in which the train was built cuts one bond each time; an
# order that jumps back and forth cuts several, and their sizes multiply (unless the modes are too small to show it):

# %%
y = full(random_train((4, 7, 6, 5), (2, 3, 2)))
straight, jumping = tt_ranks(y, (0, 1, 2, 3)).tolist(), tt_ranks(y, (0, 2, 1, 3)).tolist()
assert straight == [2, 3, 2]
assert jumping[1] == 2 * 3 * 2
print("as built:", straight, "  back and forth:", jumping)

# %% [markdown]
# ## 3. The distance of two trains
#
# $\|\mathcal X - \mathcal Y\|^2 = \langle \mathcal X, \mathcal X \rangle - 2 \langle \mathcal X, \mathcal Y \rangle + \langle \mathcal Y, \mathcal Y \rangle$, and each inner product
# runs from one end of the trains to the other.


# %%
def tt_inner(x, y):
    state = torch.ones(1, 1, dtype=torch.float64)
    for g, h in zip(x, y, strict=True):
        half = (state.T @ g.flatten(1)).reshape(-1, g.shape[2])
        state = half.T @ h.flatten(0, 1)
    return state[0, 0]


def tt_distance(x, y):
    squared = tt_inner(x, x) - 2 * tt_inner(x, y) + tt_inner(y, y)
    return squared.clamp(min=0).sqrt()


check.tt_distance(tt_distance)

# %% [markdown]
# Right, and still not what you should use to see whether two trains are *almost* equal. Three large numbers cancel: a
# squared norm is known to about 16 digits, so a relative distance below $10^{-8}$ drowns. (That is why the square is
# clamped: it can come out negative.) The stable way forms the difference as a train, whose ranks add, and reads
# its norm off the last core after a QR sweep. Nothing cancels after the subtraction.


# %%
def tt_subtract(x, y):
    cores = []
    for q, (g, h) in enumerate(zip(x, y, strict=True)):
        (a, n, b), (c, _, d) = g.shape, h.shape
        core = torch.zeros(a + c, n, b + d, dtype=torch.float64)
        core[:a, :, :b], core[a:, :, b:] = g, -h if q == 0 else h
        cores.append(core)
    return [cores[0].sum(0, keepdim=True), *cores[1:-1], cores[-1].sum(2, keepdim=True)]


# %%
def tt_norm(cores):
    push = torch.ones(1, 1, dtype=torch.float64)
    for core in cores:
        block = torch.tensordot(push, core, 1).flatten(0, 1)
        push = torch.linalg.qr(block).R
    return push.norm()


x, y = random_train((4, 3, 5), (2, 3)), random_train((4, 3, 5), (3, 2))
assert torch.isclose(tt_distance(x, y), (full(x) - full(y)).norm())
assert torch.isclose(tt_norm(tt_subtract(x, y)), (full(x) - full(y)).norm())
print("both ways agree where the trains differ")

# %% [markdown]
# Now let $\mathcal Y$ be $\mathcal X$ with one core scaled by $1 + 10^{-11}$. The distance is $10^{-11}$ of the norm.

# %%
near = [x[0], x[1] * (1 + 1e-11), x[2]]
true = 1e-11 * full(x).norm()
stable, naive = tt_norm(tt_subtract(x, near)), tt_distance(x, near)
assert 0.5 * true < stable < 2 * true
assert not 0.5 * true < naive < 2 * true
print("QR sweep within a factor of 2:", True, "  inner products within a factor of 2:", False)

# %% [markdown]
# ## 4. Close the chain
#
# Each bond of the ring is a factor $T_{s_q s_{q+1}}$, and the last one closes the product:
# $Z = \sum_{s_0 \dots s_{Q-1}} T_{s_0 s_1} T_{s_1 s_2} \cdots T_{s_{Q-1} s_0} = \operatorname{trace} \mathbf T^Q$. The matrix
#
# $$\mathbf T = \begin{pmatrix} e^{K} & e^{-K} \\ e^{-K} & e^{K} \end{pmatrix}$$
#
# has the eigenvectors $(1, 1)$ and $(1, -1)$ with eigenvalues $e^K + e^{-K} = 2 \cosh K$ and $e^K - e^{-K} = 2 \sinh K$. The trace of
# a power is the sum of the powers: $Z = (2 \cosh K)^Q + (2 \sinh K)^Q$.


# %%
def ising_ring(sites, coupling):
    return (2 * math.cosh(coupling)) ** sites + (2 * math.sinh(coupling)) ** sites


check.ising_ring(ising_ring)

# %% [markdown]
# By brute force, for all states of small rings:

# %%
for sites, coupling in ((3, 0.7), (8, 0.3), (7, -0.5)):
    spins = torch.cartesian_prod(*[torch.tensor([1.0, -1.0], dtype=torch.float64)] * sites)
    energy = (spins * spins.roll(1, dims=1)).sum(1)
    assert math.isclose(torch.exp(coupling * energy).sum(), ising_ring(sites, coupling))
print("three rings summed state by state: the closed form is right, also for a negative coupling")

# %% [markdown]
# The sign matters. With $K < 0$ neighbours want to differ, and on a ring of odd length they cannot all do so; the second
# eigenvalue is negative and lowers $Z$ below $(2\cosh K)^Q$. The open chain, $2 (2 \cosh K)^{Q-1}$, has one bond less.
#
# As a tensor, the ring is the cycle of the lesson's section on where trains lose: every cut goes through two bonds, so the TT ranks are 4
# where the chain has 2.

# %%
spins = torch.cartesian_prod(*[torch.tensor([1.0, -1.0], dtype=torch.float64)] * 8)
pairs = spins * spins.roll(-1, dims=1)
ring, chain = (torch.exp(0.4 * p.sum(1)).reshape((2,) * 8) for p in (pairs, pairs[:, :-1]))
ranks = [tt_ranks(tensor, range(8)).tolist() for tensor in (ring, chain)]
assert ranks == [[2, 4, 4, 4, 4, 4, 2], [2] * 7]
print("ring:", ranks[0], "  chain:", ranks[1])

# %% [markdown]
# ## 5. Singular values of a matrix you cannot form
#
# $\mathbf X_{\langle q \rangle} = \mathbf L_q \mathbf R_q$. Make all cores before the cut left-orthogonal but for the last, and all after it right-orthogonal:
# then $\mathbf X_{\langle q \rangle} = \mathbf U\, \mathbf C\, \mathbf V^{\mathsf T}$ with orthonormal columns in $\mathbf U$ and $\mathbf V$, and $\mathbf C$ the centre core $q - 1$ as a matrix
# $R_{q-1} I_{q-1} \times R_q$. Its singular values are those of the huge matrix. (More directly still: two QR sweeps that meet at
# the bond leave a matrix on each side, and the product of the two is all that counts.)


# %%
def left_remainder(cores):
    rest = torch.ones(1, 1, dtype=cores[0].dtype)
    for core in cores:
        rest = torch.linalg.qr(torch.tensordot(rest, core, 1).flatten(0, 1)).R
    return rest


def tt_singular_values(cores, q):
    left = left_remainder(cores[:q])
    right = left_remainder([core.permute(2, 1, 0) for core in reversed(cores[q:])])
    return torch.linalg.svdvals(left @ right.T)


check.tt_singular_values(tt_singular_values)

# %%
train = random_train((4, 3, 5, 4, 3), (3, 5, 4, 2))
for q, rank in enumerate((3, 5, 4, 2), start=1):
    dense = torch.linalg.svdvals(full(train).reshape(math.prod((4, 3, 5, 4, 3)[:q]), -1))
    assert torch.allclose(tt_singular_values(train, q), dense[:rank])
    assert dense[rank:].norm() < 1e-10 * dense.norm()
print("all four bonds: the same singular values as the dense unfoldings")

# %% [markdown]
# The common mistake is to take the singular values of a core as it stands. They depend on the gauge: insert a matrix and
# its inverse into a bond and they change, though the tensor does not. The result above does not change:

# %%
M = torch.randn(5, 5, generator=generator, dtype=torch.float64)
other = [train[0], torch.tensordot(train[1], M, 1), torch.tensordot(torch.linalg.inv(M), train[2], 1), *train[3:]]
before, after = (torch.linalg.svdvals(cores[1].flatten(0, 1)) for cores in (train, other))
assert torch.allclose(tt_singular_values(train, 2), tt_singular_values(other, 2))
assert not torch.allclose(before, after, rtol=1e-2)
print("gauge changed: singular values of the bond stay, those of the core do not")

# %% [markdown]
# For a train of 60 modes the unfolding in the middle has $2^{30}$ rows. The squares of its singular values add up to the
# squared norm, which an inner product gives independently:

# %%
long = [core / 2 for core in random_train((2,) * 60, (2,) + (4,) * 57 + (2,))]
values = tt_singular_values(long, 30)
assert torch.isclose(values.square().sum(), tt_inner(long, long))
print(f"{len(values)} singular values of a matrix with 2^30 rows and 2^30 columns")
