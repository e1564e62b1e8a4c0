# %% [markdown]
# # Solve the exercises of `01 work with tensors`
#
# Try them first. Each answer is followed by the same check as in the lesson, and by why it is so.
#
# [Back to the lesson](../01_work_with_tensors.ipynb) · [Glossary](../GLOSSARY.md)

# %% tags=["parameters"]
seed: int = 0  # of the random tensors that the answers are tried on

# %%
import functools
import itertools
import math

import torch
from tensorly import unfold
from tensorly.cp_tensor import cp_to_tensor
from tensorly.tenalg import multi_mode_dot

from tnlib import check, decompose

generator = torch.Generator().manual_seed(seed)


def randn(*shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


# %% [markdown]
# ## 1. Where does an entry go?
#
# The mode itself picks the row. What remains is an index of order $Q - 1$, and TensorLy numbers the columns row-major:
# the last of the remaining indices runs fastest. Horner's scheme evaluates such a number from the left: multiply by the
# size, add the index.


# %%
def tensor_unfold_column(shape, index, mode):
    column = 0
    for n, (size, i) in enumerate(zip(shape, index, strict=True)):
        if n != mode:
            column = column * size + i
    return column


check.tensor_unfold_column(tensor_unfold_column)

# %% [markdown]
# A tensor that holds its own positions shows it for every entry. The common mistake is to leave `index[mode]` out but to
# keep `shape[mode]` in the strides: then columns beyond the last one come out.

# %%
shape = (3, 5, 4, 2)
positions = torch.arange(math.prod(shape)).reshape(shape)
for mode, index in itertools.product(range(4), itertools.product(*map(range, shape))):
    assert unfold(positions, mode)[index[mode], tensor_unfold_column(shape, index, mode)] == positions[index]
print("every entry of every unfolding found")

# %% [markdown]
# ## 2. The third convention
#
# The order of the modes after unfolding is $n;\; n+1, \dots, Q-1, 0, \dots, n-1$: all modes, rotated. `reshape` merges the others
# row-major, the last fastest, which is what the convention asks for.


# %%
def tensor_unfold_cyclic(tensor, mode):
    rotated = [(mode + k) % tensor.ndim for k in range(tensor.ndim)]
    return tensor.permute(rotated).reshape(tensor.shape[mode], -1)


check.tensor_unfold_cyclic(tensor_unfold_cyclic)

# %% [markdown]
# The Kronecker factors of an unfolded Tucker format follow the same rotation, so this convention has a formula of its
# own (De Lathauwer et al. 2000): $\mathbf X_{(n)} = \mathbf A_n \mathbf G_{(n)} (\mathbf A_{n+1} \otimes \dots \otimes \mathbf A_{Q-1} \otimes \mathbf A_0 \otimes \dots \otimes \mathbf A_{n-1})^\top$.

# %%
G, factors = randn(2, 4, 3, 2), [randn(3, 2), randn(5, 4), randn(4, 3), randn(7, 2)]
X = multi_mode_dot(G, factors)
for n in range(4):
    rotated = [factors[(n + k) % 4].contiguous() for k in range(1, 4)]
    expected = factors[n] @ tensor_unfold_cyclic(G, n) @ functools.reduce(torch.kron, rotated).T
    assert torch.allclose(tensor_unfold_cyclic(X, n), expected)
print("Tucker, unfolded cyclically: Kronecker factors rotated")

# %% [markdown]
# Why does the check use order 4? Because order 3 hides the difference. There, two modes remain, and they have only two
# orders: for modes 0 and 2 the cyclic one is TensorLy's, for mode 1 it is Kolda and Bader's. Code that was tested on
# third-order tensors only may be wrong for all others.

# %%
third = randn(3, 5, 4)
agrees = [torch.equal(tensor_unfold_cyclic(third, n), unfold(third, n)) for n in range(3)]
assert agrees == [True, False, True]
kolda = third.movedim(1, 0).numpy().reshape(5, -1, order="F")
assert torch.equal(tensor_unfold_cyclic(third, 1), torch.from_numpy(kolda.copy()))
print("order 3, modes 0, 1, 2: the same as TensorLy's?", agrees)

# %% [markdown]
# ## 3. An inner product without tensors
#
# The inner product is bilinear, so it is a sum over all pairs of a term $r$ of the first and a term $s$ of the second. For
# one pair, $\langle \mathbf a_r \circ \mathbf b_r \circ \mathbf c_r,\; \mathbf d_s \circ \mathbf e_s \circ \mathbf f_s \rangle = (\mathbf a_r^\top \mathbf d_s)(\mathbf b_r^\top \mathbf e_s)(\mathbf c_r^\top \mathbf f_s)$: the sum over $i, j, k$
# factorizes. The three numbers are entries $(r, s)$ of $\mathbf A^\top \mathbf D$, $\mathbf B^\top \mathbf E$ and $\mathbf C^\top \mathbf F$. Multiply these entry by entry, then add
# everything.


# %%
def tensor_cp_inner(A, B, C, D, E, F):
    return ((A.T @ D) * (B.T @ E) * (C.T @ F)).sum()


check.tensor_cp_inner(tensor_cp_inner)

# %% [markdown]
# The common mistake adds only the diagonal, the pairs $r = s$. That drops all products between different terms; with
# equal ranks nothing looks wrong. Compared with the tensors themselves, and the number of multiplications of both ways:

# %%
I, J, K, R, S = 30, 20, 25, 3, 4
first, second = [randn(n, R) for n in (I, J, K)], [randn(n, S) for n in (I, J, K)]
X, Y = (cp_to_tensor((None, factors)) for factors in (first, second))
assert torch.isclose(tensor_cp_inner(*first, *second), (X * Y).sum())
print(f"{R * S * (I + J + K + 2):,} multiplications instead of {I * J * K + (R + S) * (I * J + I * J * K):,}")

# %% [markdown]
# ## 4. Zip a ladder up
#
# Write down what each step has at its two tensors, and multiply the sizes. After a complete rung, what you have is an
# $R \times R$ matrix, one line to either train.
#
# | step | lines involved | MACs | leaves |
# | --- | --- | --- | --- |
# | first cores, $N \times R$ and $N \times R$ | $N, R, R$ | $N R^2$ | $R \times R$ |
# | inner core of the one train | $R, R$; $N, R$ | $N R^3$ | $R \times N \times R$ |
# | inner core of the other | $R, N, R$; $R$ | $N R^3$ | $R \times R$ |
# | ... both of them for each of the $Q - 2$ inner rungs | | $2 (Q - 2) N R^3$ | $R \times R$ |
# | last core of the one | $R, R$; $N$ | $N R^2$ | $R \times N$ |
# | last core of the other | $R, N$ | $N R$ | a number |
#
# In the third row, the shared lines $N$ and $R$ are summed and count once: four lines of which three have size $R$.


# %%
def tensor_train_inner_macs(Q, N, R):
    return 2 * (Q - 2) * N * R**3 + 2 * N * R**2 + N * R


check.tensor_train_inner_macs(tensor_train_inner_macs)

# %% [markdown]
# It is *linear* in the order $Q$, while the tensors have $N^Q$ entries. The steps, counted one by one from the lines
# that each pair of tensors has:


# %%
def walk(Q, N, R):
    size = {"n": N, "a": R, "b": R, "c": R, "d": R}
    inner_rung = ["abnc", "bncd"]  # (a, b) with core (a, n, c); then (b, n, c) with core (b, n, d)
    steps = ["nab", *inner_rung * (Q - 2), "abn", "bn"]
    return sum(math.prod(size[line] for line in step) for step in steps)


for Q, N, R in itertools.product((3, 4, 9), (2, 7), (3, 5)):
    assert walk(Q, N, R) == tensor_train_inner_macs(Q, N, R)
print(f"Q=10, N=20, R=5: {tensor_train_inner_macs(10, 20, 5):,} MACs, tensors of {20.0**10:.0e} entries")

# %% [markdown]
# The best order of the lesson, 6,025 MACs for $Q = 3$, starts at both ends: the last rung becomes an $R \times R$ matrix of its own, for
# $N R^2$, and closes the ladder with $R^2$ instead of $N R$. It saves $N R - R^2$, which is little, and only if $R < N$.

# %%
Q, N, R = 3, 20, 5
both_ends = N * R**2 + 2 * (Q - 2) * N * R**3 + N * R**2 + R**2
assert both_ends == 6025 == tensor_train_inner_macs(Q, N, R) - (N * R - R**2)
print("from one end:", tensor_train_inner_macs(Q, N, R), " from both ends:", both_ends)

# %% [markdown]
# ## 5. The rank of a paired cut
#
# `reshape` splits both indices into digits without moving anything: axes $0 \dots d-1$ are row digits, $d \dots 2d-1$ column digits.
# `permute` puts digit $n$ of the columns right after digit $n$ of the rows. The first $k$ pairs have
# $\prod_{n<k} m_n c_n$ values, if $m_n$ and $c_n$ are the sizes of the row and column digits, and these are the rows of the cut.


# %%
def tensor_paired_rank(matrix, row_dims, col_dims, k):
    d = len(row_dims)
    pairs = [axis for n in range(d) for axis in (n, d + n)]
    tensor = matrix.reshape(*row_dims, *col_dims).permute(pairs)
    return torch.linalg.matrix_rank(tensor.reshape(math.prod(row_dims[:k]) * math.prod(col_dims[:k]), -1))


check.tensor_paired_rank(tensor_paired_rank)

# %% [markdown]
# The common mistake is a `reshape` to the right sizes without `permute`. It raises nothing and returns ranks, of another
# matrix. A sum of two Kronecker products tells them apart: paired, its rank at the cut between the factors is 2.

# %%
rows, cols = (3, 4), (5, 2)
matrix = sum(torch.kron(randn(3, 5), randn(4, 2)) for _ in range(2))
unpaired = torch.linalg.matrix_rank(matrix.reshape(3 * 5, -1))
assert tensor_paired_rank(matrix, rows, cols, 1) == 2
assert unpaired > 2
print("paired:", tensor_paired_rank(matrix, rows, cols, 1).item(), " unpaired:", unpaired.item())

# %% [markdown]
# These are the ranks that a TT-matrix has when it is computed to full accuracy:

# %%
rows, cols = (2, 3, 2), (3, 2, 2)
matrix = functools.reduce(torch.kron, [randn(2, 3), randn(3, 2), randn(2, 2)])
matrix = matrix + torch.kron(randn(6, 6), randn(2, 2))
train = decompose.tt_matrix(matrix, rows, cols, rel_error=1e-10)
ranks = [int(tensor_paired_rank(matrix, rows, cols, k)) for k in (1, 2)]
assert ranks == [core.shape[3] for core in train.factors[:-1]]
print("ranks of the two cuts, and of the TT-matrix:", ranks)
