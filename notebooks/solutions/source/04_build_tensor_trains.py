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
# ## 1. One entry
#
# Fix the middle index of each core: what is left is a matrix, and the entry is the product of these matrices. Start from
# the left with a row and it stays a row: each step takes $R_q R_{q+1}$ multiplications, no more than the core has numbers.


# %%
def tt_entry(cores, index):
    row = torch.ones(1, dtype=cores[0].dtype)
    for core, i in zip(cores, index, strict=True):
        row = row @ core[:, i]
    return row[0]


check.tt_entry(tt_entry)

# %% [markdown]
# Every entry of a small train, against the tensor:

# %%
small = random_train((3, 4, 2, 3), (2, 3, 2))
for index in itertools.product(range(3), range(4), range(2), range(3)):
    assert torch.isclose(tt_entry(small, index), full(small)[index])
print("all", full(small).numel(), "entries agree")

# %% [markdown]
# A mistake that is easy to make: sum the numbers of each matrix, multiply the sums. The two copies of a bond index then run
# independently of each other, though in the train they are one index. At rank 1 there is no difference, so a test on a
# rank-one tensor does not find it.

# %%
flat = random_train((3, 4, 2), (1, 1))
for cores, is_right in ((flat, True), (small, False)):
    sums = math.prod(float(core[:, 1].sum()) for core in cores)
    assert math.isclose(sums, tt_entry(cores, [1] * len(cores))) == is_right
print("sums multiplied: right at rank 1, wrong at higher ranks")

# %% [markdown]
# Sixty modes are no harder. The train of ones of ranks 2 has the entry $2^{59}$ everywhere: each bond is summed over.

# %%
long = [torch.ones(1, 2, 2), *[torch.ones(2, 2, 2)] * 58, torch.ones(2, 2, 1)]
assert tt_entry([core.double() for core in long], [0, 1] * 30) == 2.0**59
print("an entry of a tensor with 2^60 entries: 2^59")

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
# ## 3. The trace of a TT-matrix
#
# Row and column number are equal exactly if all their digits are: $i_k = j_k$. So
# $\operatorname{trace} \mathbf W = \sum_{i_0, i_1, \dots} \mathbf G_0(i_0, i_0)\, \mathbf G_1(i_1, i_1) \cdots$. Each digit occurs in one factor only, so the sums can
# be taken core by core, and a product of small matrices is left.


# %%
def tt_matrix_trace(cores):
    row = torch.ones(1, 1, dtype=cores[0].dtype)
    for core in cores:
        row = row @ torch.einsum("aiib->ab", core)
    return row[0, 0]


check.tt_matrix_trace(tt_matrix_trace)

# %% [markdown]
# Against a matrix that can be formed, and against the rule $\operatorname{trace}(\mathbf A \otimes \mathbf B) = \operatorname{trace} \mathbf A \, \operatorname{trace} \mathbf B$, which is the
# case of rank 1:

# %%
matrix = torch.randn(24, 24, generator=generator, dtype=torch.float64)
train = decompose.tt_matrix(matrix, (2, 3, 4), (2, 3, 4), rel_error=1e-12)
assert torch.isclose(tt_matrix_trace(train.factors), matrix.trace())
A, B = matrix[:3, :3], matrix[3:7, 3:7]
kronecker = [A[None, :, :, None], B[None, :, :, None]]
assert torch.isclose(tt_matrix_trace(kronecker), A.trace() * B.trace())
assert torch.isclose(tt_matrix_trace(kronecker), torch.kron(A, B).trace())
print("trace of a full-rank TT-matrix and of a Kronecker product agree with the dense ones")

# %% [markdown]
# It works because digits are *paired*. In a train with all row digits first, then all column digits, the digits $i_k$ and $j_k$ sit
# far apart, and $i_k = j_k$ ties two distant cores together; then a whole bond has to be carried from one to the other.
#
# The identity of $2^{100}$ rows has trace $2^{100}$:

# %%
identity = [torch.eye(2, dtype=torch.float64)[None, :, :, None]] * 100
assert tt_matrix_trace(identity) == 2.0**100
print("trace of the identity with 2^100 rows: 2^100")

# %% [markdown]
# ## 4. Singular values of a matrix you cannot form
#
# $\mathbf X_{\langle q \rangle} = \mathbf L_q \mathbf R_q$. Make all cores before the cut left-orthogonal but for the last, and all after it right-orthogonal:
# then $\mathbf X_{\langle q \rangle} = \mathbf U\, \mathbf C\, \mathbf V^\top$ with orthonormal columns in $\mathbf U$ and $\mathbf V$, and $\mathbf C$ the centre core $q - 1$ as a matrix
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
# squared norm, which an inner product gives independently (lesson 20):

# %%
long = [core / 2 for core in random_train((2,) * 60, (2,) + (4,) * 57 + (2,))]
values = tt_singular_values(long, 30)
state = torch.ones(1, 1, dtype=torch.float64)
for core in long:
    state = torch.einsum("ab,aic,bid->cd", state, core, core)
assert torch.isclose(values.square().sum(), state[0, 0])
print(f"{len(values)} singular values of a matrix with 2^30 rows and 2^30 columns")
