# %% [markdown]
# # Solve the exercises of `05 couple third order trains`
#
# Try them first. Each answer is followed by the same check as in the lesson, by why it is so, and by the mistake that is
# made most often.
#
# [Back to the lesson](../05_couple_third_order_trains.ipynb) · [Glossary](../GLOSSARY.md)

# %% tags=["parameters"]
seed: int = 0  # of the random tensors that the answers are tried on

# %%
import math
from itertools import pairwise

import torch

from tnlib import check, decompose

generator = torch.Generator().manual_seed(seed)


def random(*shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def dense(factors):
    modes = "abcdefgh"[: len(factors)]
    return torch.einsum(",".join(mode + "r" for mode in modes) + "->" + modes, *factors)


def close(x, y, tolerance=1e-8):
    return bool((x - y).norm() <= tolerance * y.norm())


# %% [markdown]
# ## 1. A factor as a core
#
# The slice of row $i$ is $\mathrm{diag}(a_{i1}, \dots, a_{iR})$: the bond on the left and the bond on the right carry the same $r$.
# `diag_embed` makes an $I \times R \times R$ tensor; the mode belongs in the middle.


# %%
def cpd_train_core(factor):
    return torch.diag_embed(factor).permute(1, 0, 2)


check.cpd_train_core(cpd_train_core)

# %% [markdown]
# Multiplied out between two end factors, it gives the CPD:

# %%
A, B, C = random(4, 3), random(5, 3), random(6, 3)
train = torch.einsum("ia,ajb,kb->ijk", A, cpd_train_core(B), C)
assert close(train, dense([A, B, C]))
print("ends and diagonal core multiply out to the CPD")

# %% [markdown]
# The common mistake is to leave the mode first. With $I = R$ no shape complains, and the result is wrong:

# %%
B = random(3, 3)
assert not close(torch.einsum("ia,ajb,kb->ijk", A, torch.diag_embed(B), C), dense([A, B, C]), 0.1)
print("the transposed core has a shape that fits, and gives another tensor")

# %% [markdown]
# ## 2. Who is who
#
# Let the true factors be $\widetilde{\mathbf M} = \mathbf M^{-\top}$ on the left of the bond and $\mathbf M$ on the right. What was found is $\widetilde{\mathbf M} \boldsymbol\Pi \mathbf D$ and
# $\mathbf M \boldsymbol\Pi' \mathbf D'$, with permutations $\boldsymbol\Pi$ and diagonal matrices $\mathbf D$. Multiply:
#
# $$(\widetilde{\mathbf M} \boldsymbol\Pi \mathbf D)^\top (\mathbf M \boldsymbol\Pi' \mathbf D') = \mathbf D\, \boldsymbol\Pi^\top\, \mathbf M^{-1} \mathbf M\, \boldsymbol\Pi'
# \mathbf D' = \mathbf D\, (\boldsymbol\Pi^\top \boldsymbol\Pi')\, \mathbf D' .$$
#
# One entry a row is not zero. Row $r$ belongs to the left core's term $r$, and the column of its entry to the right core's term.


# %%
def coupled_match(third, first):
    return (third.T @ first).abs().argmax(1)


check.coupled_match(coupled_match)

# %%
M, order = random(5, 5), torch.randperm(5, generator=generator)
third, first = torch.linalg.inv(M).T * random(5), (M * random(5))[:, order]
p = coupled_match(third, first)
assert torch.equal(order[p], torch.arange(5))
product = (third.T @ first).abs()
assert int((product > 1e-9 * product.max()).sum()) == 5
print("the permutation is undone; the product has five entries that are not zero")

# %% [markdown]
# The common mistake is `argmax(0)`: the inverse permutation. For two terms, and for every swap, both are the same, so a small test does not show it. The
# other is to look for the nearest column, as if $\widetilde{\mathbf M}$ and $\mathbf M$ were equal. They are *dual* bases: $\tilde{\mathbf m}_r$ is orthogonal to all columns
# of $\mathbf M$ but one, and need not be near that one. (Cosines do no harm: to scale columns only changes $\mathbf D$ and $\mathbf D'$.)
#
# ## 3. A step to the left
#
# $\mathbf G_q(i)\, \mathbf M_{q+1} = \mathbf M_q\, \mathrm{diag}(a_{i1}, \dots, a_{iR})$: column $r$ of the product is $a_{ir}$ times column $r$ of $\mathbf M_q$. Collected over
# $i$, that is the matrix $\mathbf a_r \mathbf m_r^\top$, of rank one, and the leading singular pair is its best approximation (Eckart and Young).


# %%
def coupled_step_left(core, right):
    slices = torch.einsum("aib,br->ria", core, right)
    U, S, Vh = torch.linalg.svd(slices, full_matrices=False)
    return (U[:, :, 0] * S[:, :1]).T, Vh[:, 0].T


check.coupled_step_left(coupled_step_left)

# %% [markdown]
# With it, a whole train unrolls from the right: the last core of a CPD's train is $\mathbf M_{Q-1} \mathbf A_{Q-1}^\top$, and whoever knows $\mathbf M_{Q-1}$ knows all.

# %%
factors = [random(n, 3) for n in (5, 4, 6, 3)]
x = dense(factors)
cores = decompose.tt(x, 3).factors
M = cores[3][:, :, 0] @ torch.linalg.pinv(factors[3].T)
found = [factors[3]]
for core in (cores[2], cores[1]):
    A, M = coupled_step_left(core, M)
    found.insert(0, A)
assert close(dense([cores[0][0] @ M, *found]), x)
print("two steps and the left end: the tensor, from one known factor")

# %% [markdown]
# The common mistake is to multiply by $\mathbf M^{-\top}$, the matrix that *stands* in the core, instead of by what cancels it. The slices then have full rank, and the SVD
# hides it: it returns *something*. Looking at the second singular value would have told. A subtler one reads $\mathbf a_r$ off a column and $\mathbf m_r$ off a row: right
# without noise, and with it as bad as the entry that happened to be divided by.

# %%
slices = torch.einsum("aib,br->ria", cores[2], cores[3][:, :, 0] @ torch.linalg.pinv(factors[3].T))
S = torch.linalg.svdvals(slices)
assert (S[:, 1] < 1e-8 * S[:, 0]).all()
print("the right slices have one singular value")

# %% [markdown]
# ## 4. The bound for Tucker
#
# As for the CPD, the bound is $\sigma^2 \operatorname{rank} \mathbf J / \|\mathcal X\|^2$ with the Jacobian of the tensor by all parameters. There are $\prod_n T_n$ numbers in the core and
# $\sum_n T_n I_n$ in the factors. An invertible $T_n \times T_n$ matrix behind factor $n$, its inverse in the core, changes nothing: $\sum_n T_n^2$ idle directions, and no others
# if the $T_n$ are the least Tucker ranks. Hence
#
# $$\mathrm{NMSE} \ge 10^{-\mathrm{SNR}/10}\, \frac{\prod_n T_n + \sum_n T_n (I_n - T_n)}{\prod_n I_n} .$$


# %%
def tucker_bound(sizes, ranks, snr_db):
    free = math.prod(ranks) + sum(t * (n - t) for n, t in zip(sizes, ranks, strict=True))
    return 10 ** (-snr_db / 10) * free / math.prod(sizes)


check.tucker_bound(tucker_bound)

# %%
sizes, ranks = (4, 5, 3), (2, 3, 2)
core, U = random(*ranks), [random(n, t) for n, t in zip(sizes, ranks, strict=True)]
blocks = torch.autograd.functional.jacobian(
    lambda c, *u: torch.einsum("abc,ia,jb,kc->ijk", c, *u).flatten(), (core, *U)
)
J = torch.cat([block.flatten(1) for block in blocks], 1)
assert int(torch.linalg.matrix_rank(J)) == round(tucker_bound(sizes, ranks, 0.0) * math.prod(sizes))
print(f"{J.shape[1]} numbers, {int(torch.linalg.matrix_rank(J))} free: the rank of the Jacobian")

# %% [markdown]
# The common mistake is to demand orthonormal factors and to subtract $T_n (T_n + 1) / 2$ only: that many conditions make the columns orthonormal, but they may still be rotated, which is another
# $T_n (T_n - 1) / 2$. Together: $T_n^2$.

# %%
for t in range(1, 8):
    assert t * (t + 1) // 2 + t * (t - 1) // 2 == t**2
print("lengths and angles, plus rotations: T squared")

# %% [markdown]
# ## 5. How many modes to merge
#
# Let mode $c$ be the one that stays. All modes before it merge to a size of $\prod_{n<c} I_n$, all after it to $\prod_{n>c} I_n$, and a generic Khatri-Rao product has full column rank while its number of
# rows allows. So this choice reaches the smaller of the two, and the best choice the largest of these. (To keep more modes in the middle never reaches further: the ends only get smaller.) A mode of size 1 in the middle does not count: all
# columns of its factor are parallel.


# %%
def coupled_largest_rank(sizes):
    inner = [c for c in range(1, len(sizes) - 1) if sizes[c] > 1]
    return max(min(math.prod(sizes[:c]), math.prod(sizes[c + 1 :])) for c in inner)


check.coupled_largest_rank(coupled_largest_rank)

# %% [markdown]
# tnlib merges as few modes as needed, and agrees at the limit and one beyond it:

# %%
sizes = (2, 3, 3, 2, 2)
R = coupled_largest_rank(sizes)
x = dense([random(n, R) for n in sizes])
assert close(decompose.coupled_cp(x, R, merge_modes=True, seed=seed).to_tensor(), x, 1e-4)
try:
    decompose.coupled_cp(x, R + 1, merge_modes=True)
    message = "no error"
except ValueError as error:
    message = str(error)
assert "too large" in message
print(f"rank {R} works on {sizes}, rank {R + 1} does not")

# %% [markdown]
# The common mistake is to merge *everything* into the two ends: a chain without a middle is a matrix, and a matrix has no unique CPD. How much one loses by the mode in the middle:

# %%
cut = max(min(math.prod(sizes[:c]), math.prod(sizes[c:])) for c in range(1, len(sizes)))
assert cut > R
grid = [coupled_largest_rank((4,) * order) for order in range(3, 11)]
assert all(later in (earlier, 4 * earlier) for earlier, later in pairwise(grid))
print(f"cut in two: {cut}, with a middle: {R}; for modes of size 4, orders 3 to 10: {grid}")
