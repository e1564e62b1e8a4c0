# %% [markdown]
# # Solve the exercises of `20 compute with trains`
#
# Try them first. Each answer is followed by the same check as in the lesson, and by why it is so.
#
# [Back to the lesson](../20_compute_with_trains.ipynb) · [Glossary](../GLOSSARY.md)

# %% tags=["parameters"]
seed: int = 0  # of the random trains that the answers are tried on

# %%
import math

import torch

from tnlib import check

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
# ## 2. The distance of two trains
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
# ## 3. Close the chain
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
# As a tensor, the ring is the cycle of lesson 04, where trains lose: every cut goes through two bonds, so the TT ranks are 4
# where the chain has 2.

# %%
spins = torch.cartesian_prod(*[torch.tensor([1.0, -1.0], dtype=torch.float64)] * 8)
pairs = spins * spins.roll(-1, dims=1)
ring, chain = (torch.exp(0.4 * p.sum(1)).reshape((2,) * 8) for p in (pairs, pairs[:, :-1]))
ranks = [[int(torch.linalg.matrix_rank(tensor.reshape(2**q, -1))) for q in range(1, 8)] for tensor in (ring, chain)]
assert ranks == [[2, 4, 4, 4, 4, 4, 2], [2] * 7]
print("ring:", ranks[0], "  chain:", ranks[1])

# %% [markdown]
# ## 4. The energy as a train
#
# Read from left to right and remember one of three states on the bond:
#
# - state 0: no pair has been started;
# - state 1: the spin just read waits to be multiplied by its neighbour;
# - state 2: the pair is done.
#
# A term $s_q s_{q+1}$ is a path through the states: stay in 0 (factor 1) up to $q$, step from 0 to 1 with factor $s_q$, from 1 to 2 with
# factor $s_{q+1}$, stay in 2 (factor 1) to the end. The matrix product sums over all paths from state 0 to state 2, which are
# the $Q - 1$ terms, each once:
#
# $$\mathbf G(s) = \begin{pmatrix} 1 & s & 0 \\ 0 & 0 & s \\ 0 & 0 & 1 \end{pmatrix}, \qquad \text{first core: row 0}, \quad \text{last core: column 2.}$$


# %%
def ising_energy(sites):
    s, one = torch.tensor([1.0, -1.0], dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    core = torch.zeros(3, 2, 3, dtype=torch.float64)
    core[0, :, 0], core[2, :, 2] = one, one
    core[0, :, 1], core[1, :, 2] = s, s
    return [core[:1], *[core] * (sites - 2), core[:, :, 2:]]


check.ising_energy(ising_energy)

# %% [markdown]
# The common mistake gives state 1 a way to stay: a 1 in the middle of the matrix. Then the spin $s_q$ waits for *every* later
# spin, and the train holds the sum over all pairs.

# %%
spins = torch.cartesian_prod(*[torch.tensor([1.0, -1.0], dtype=torch.float64)] * 6)
neighbours, all_pairs = (spins[:, 1:] * spins[:, :-1]).sum(1), (spins.sum(1) ** 2 - 6) / 2
patient = [core.clone() for core in ising_energy(6)]
for core in patient[1:-1]:
    core[1, :, 1] = 1
assert torch.allclose(full(ising_energy(6)).flatten(), neighbours)
assert torch.allclose(full(patient).flatten(), all_pairs)
print("no way to stay: neighbours; with a 1 in the middle: all pairs")

# %% [markdown]
# Could a bond be smaller? Across a cut in the middle, the energy is (energy of the left half) + $s_q s_{q+1}$ + (energy of the
# right half): three products of a function of the left and one of the right, and these are independent where each half has
# a pair of its own. So 3 is the rank; at the ends it is 2.

# %%
tensor = full(ising_energy(8))
ranks = [int(torch.linalg.matrix_rank(tensor.reshape(2**q, -1))) for q in range(1, 8)]
assert ranks == [2, 3, 3, 3, 3, 3, 2]
print("ranks of the energy of eight spins:", ranks)

# %% [markdown]
# Such cores are how physicists write a Hamiltonian; as a *matrix product operator* it is what DMRG works on. A use for 40
# spins: the mean energy when each spin is up with probability $p$ on its own is $(Q - 1)(2p - 1)^2$.

# %%
chances = torch.tensor([0.8, 0.2], dtype=torch.float64)
row = torch.ones(1, dtype=torch.float64)
for core in ising_energy(40):
    row = row @ torch.einsum("aib,i->ab", core, chances)
assert torch.isclose(row[0], torch.tensor(39 * 0.6**2, dtype=torch.float64))
print(f"mean energy of 40 independent spins, from 2^40 states: {row[0]:.2f}")
