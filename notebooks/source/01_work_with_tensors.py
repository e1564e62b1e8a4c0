# %% [markdown]
# # Work with tensors: unfold, multiply, contract, tensorize
#
# **What you'll do.** Take tensors apart into fibres, slices and matrices, multiply them in every way that later lessons
# need, draw them as networks, count what each order of contraction costs, and turn vectors and a trained weight into
# tensors of order 10 and 20.
#
# **What you'll learn.** Why the same formula comes out right with one library's unfolding and wrong with another's; the
# dozen identities behind CPD, Tucker and tensor trains; that the order of contraction decides the cost; for which
# data tensorization saves a lot, and for which it saves nothing.
#
# **What you need first.** Matrix products, ranks, the singular value decomposition, `torch.Tensor.reshape` and
# `permute`.
#
# **Time.** 180 minutes: 80 to read text and code, 100 for the exercises. Run All takes a minute or two.
# **Difficulty.** Easy to medium.
#
# Previous: [00 start here](00_start_here.ipynb) · Next: [02 fit CPD](02_fit_cpd.ipynb) · [Solutions](solutions/01_work_with_tensors.ipynb) · [Glossary](GLOSSARY.md)

# %% tags=["parameters"]
profile: str = "quick"  # "quick"; "full": a larger search over orders, and all 19 cuts of the order-20 weight
seed: int = 0  # of all random tensors, and the image that is shown
digits: int = 10  # vectors of 2**digits samples are tensorized, 6 to 12
degree: int = 3  # of the polynomial whose tensor ranks are computed, 1 to 4
rel_error: float = 0.3  # allowed relative error when ranks of the trained weight are counted, between 0 and 1

# %%
import functools
import itertools
import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from tensorly import fold, unfold
from tensorly.cp_tensor import cp_to_tensor
from tensorly.tenalg import khatri_rao, mode_dot, multi_mode_dot

from tnlib import check, data, decompose, measure, models, plots

plots.use_style()
assert 6 <= digits <= 12
assert 1 <= degree <= 4
assert 0 < rel_error < 1
print("TensorLy computes with", type(unfold(torch.ones(2, 3), 0)).__name__ + "s of torch")

# %% [markdown]
# Random tensors have unequal, mostly odd sizes: where sizes are equal, a wrong order of modes goes unnoticed. All are
# in double precision, and *equal* below means equal up to rounding. (Importing `tnlib.decompose` has made torch the
# backend of TensorLy.)

# %%
generator = torch.Generator().manual_seed(seed)


def randn(*shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def same(a, b):
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-10, atol=1e-10)


# %% [markdown]
# ## 1. Order, modes, fibres, slices
#
# A tensor $\mathcal X \in \mathbb R^{I_0 \times \dots \times I_{Q-1}}$ has **order** $Q$, the number of its
# **modes**, and mode $n$ has **size** $I_n$. Here modes are numbered from 0, in text as in code. (Papers mostly number
# them from 1.)
#
# An image is a tensor of order 3: channel, row, column.

# %%
photos = data.load("cifar10", "test").sample(50, seed)
image = photos.images[(photos.labels == 8).nonzero()[0, 0]].double() / 255
print(f"order {image.ndim}, sizes {tuple(image.shape)}, {image.numel()} entries")

# %% [markdown]
# Fix all indices but one: what is left is a vector, a **fibre**. A mode-$n$ fibre runs along mode $n$. Fix all but two:
# what is left is a matrix, a **slice**.

# %%
pixel, vertical, horizontal = image[:, 20, 14], image[0, :, 14], image[0, 20, :]
print(
    "fibres of mode 0, 1, 2 have",
    len(pixel),
    len(vertical),
    len(horizontal),
    "entries; the first is one pixel's colour:",
)
print([round(value, 2) for value in pixel.tolist()])

# %%
fig, axes = plt.subplots(1, 4, figsize=(10, 3), width_ratios=[1, 1, 0.3, 0.3])
axes[0].imshow(image.permute(1, 2, 0).numpy())
for ax, part in zip(axes[1:], (image[0], image[:, 20].T, image[:, :, 14].T), strict=True):
    ax.imshow(part.numpy(), vmin=0, vmax=1, aspect="auto" if part.shape[1] == 3 else "equal")
titles = ("the image", "one channel", "one row", "one column")
for ax, title, x, y in zip(
    axes, titles, ("column", "column", "channel", "channel"), ("row", "row", "column", "row"), strict=True
):
    ax.set(xlabel=x, ylabel=y)
    ax.set_title(title, fontweight="normal", fontsize=10)
    ax.grid(False)
fig.suptitle("Fix one index of an image, and a matrix remains: its slices", fontweight="bold")
plt.show()

# %% [markdown]
# **Predict, then reveal.** How many mode-$n$ fibres has a tensor of sizes $3 \times 5 \times 4 \times 7$, for each $n$?

# %% jupyter={"outputs_hidden": true}
X = randn(3, 5, 4, 7)
fibres = []
for n in range(X.ndim):
    others = itertools.product(*(range(size) for m, size in enumerate(X.shape) if m != n))
    fibres.append([X[*index[:n], :, *index[n:]] for index in others])
    assert sorted(torch.cat(fibres[n]).tolist()) == sorted(X.flatten().tolist())  # every entry is in exactly one
print("fibres of mode 0 to 3:", [len(each) for each in fibres], "- the product of the other modes' sizes")

# %% [markdown]
# ## 2. Unfoldings, and why conventions differ
#
# Linear algebra knows matrices. So put all mode-$n$ fibres side by side as the columns of a matrix: the **mode-$n$
# unfolding** $\mathbf X_{(n)} \in \mathbb R^{I_n \times \prod_{m \ne n} I_m}$, also called matricization. In which
# *order* the columns stand is a convention, and here libraries and papers disagree.
#
# | convention | the column index runs fastest over | used by |
# | --- | --- | --- |
# | row-major | the **last** of the other modes | TensorLy, and so this workbook |
# | column-major | the **first** of the other modes | Kolda & Bader 2009, MATLAB toolboxes |
# | cyclic | mode $n-1$; the slowest is mode $n+1$ | De Lathauwer et al. 2000 |
#
# The first two are what memory layouts suggest: C and NumPy store the last index contiguously, Fortran and MATLAB the
# first. The third treats all modes alike. A tensor of the numbers 0 to 23 shows the difference.

# %%
T = torch.arange(24).reshape(2, 3, 4)
print("TensorLy, mode 1:\n", unfold(T, 1))

# %% [markdown]
# Kolda and Bader's, with NumPy's help: `order="F"` reads and writes with the first index fastest.


# %%
def unfold_kolda(tensor, n):
    fibres_first = tensor.movedim(n, 0).numpy()
    return torch.from_numpy(fibres_first.reshape(tensor.shape[n], -1, order="F").copy())


print("Kolda and Bader, mode 1:\n", unfold_kolda(T, 1))

# %% [markdown]
# Same columns, other order. As formulas, from 0: entry $(i_0, \dots, i_{Q-1})$ goes to row $i_n$ and to column
#
# $$j = \sum_{k \ne n} i_k J_k, \qquad
# J_k = \prod_{m > k,\, m \ne n} I_m \;\text{(row-major)}, \qquad
# J_k = \prod_{m < k,\, m \ne n} I_m \;\text{(column-major)}.$$
#
# The second is Kolda and Bader's section 2.4, shifted to count from 0. We check both for every entry:


# %%
def column(index, shape, n, later):
    others = [m for m in range(len(shape)) if m != n]
    return sum(index[k] * math.prod(shape[m] for m in others if (m > k if later else m < k)) for k in others)


for n, index in itertools.product(range(4), itertools.product(*map(range, X.shape))):
    assert unfold(X, n)[index[n], column(index, X.shape, n, later=True)] == X[index]
    assert unfold_kolda(X, n)[index[n], column(index, X.shape, n, later=False)] == X[index]
print(f"{4 * X.numel()} entries stand where the two formulas say")

# %% [markdown]
# **What a reshape costs.** A `torch.Tensor` is a stretch of memory and, for each mode, a *stride*: how far apart in memory
# neighbours along this mode are. `permute` only exchanges strides; it returns a *view*, and nothing moves. `reshape` returns a
# view where strides can express the new shape, and else copies everything. Most unfoldings are copies:


# %%
def is_view(part, whole):
    return part.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr()


print("strides of X", X.stride(), "and of X with mode 2 first", X.movedim(2, 0).stride())
assert is_view(X.movedim(2, 0), X)
print("unfoldings that are views, by mode:", [is_view(unfold(X, n), X) for n in range(X.ndim)])

# %% [markdown]
# Moving data takes time, though it is no arithmetic. Lesson 07 comes back to it.
#
# Back to the two conventions. One is the other with its columns permuted, $\mathbf X_{(n)}^{\text{KB}} = \mathbf X_{(n)} \boldsymbol\Pi_n$. The permutation comes
# from unfolding *the column numbers themselves*: number the columns row-major, then read them column-major.

# %%
for n in range(X.ndim):
    others = [size for m, size in enumerate(X.shape) if m != n]
    numbers = np.arange(math.prod(others)).reshape(others)
    permutation = torch.from_numpy(numbers.flatten(order="F"))
    assert torch.equal(unfold_kolda(X, n), unfold(X, n)[:, permutation])
print("KB unfolding = TensorLy unfolding with its columns permuted, for every mode")

# %% [markdown]
# Without index gymnastics: reverse the order of all modes, and row-major turns into column-major.

# %%
reverse = X.permute(3, 2, 1, 0)
for n in range(X.ndim):
    assert torch.equal(unfold_kolda(X, n), unfold(reverse, X.ndim - 1 - n))
print("KB unfolding of mode n = TensorLy unfolding of mode Q-1-n of the reversed tensor")

# %% [markdown]
# On the image you can see it. Along mode 1 (rows), row-major puts the three channels side by side; column-major
# interleaves them, and every picture column appears three times in a row, in red, green and blue.

# %%
fig, axes = plt.subplots(2, 1, figsize=(7.2, 5))
for ax, (name, matrix) in zip(
    axes, {"TensorLy": unfold(image, 1), "Kolda and Bader": unfold_kolda(image, 1)}.items(), strict=True
):
    ax.imshow(matrix.numpy(), vmin=0, vmax=1)
    ax.set_ylabel("row of the image")
    ax.set_title(name, fontweight="normal")
    ax.grid(False)
fig.suptitle("The same 96 columns in two orders", fontweight="bold")
axes[1].set_xlabel("column of the mode-1 unfolding")
plt.show()

# %% [markdown]
# **Predict, then reveal.** Which of these depend on the convention: the rank of $\mathbf X_{(n)}$, its singular values, its left
# singular vectors, its right singular vectors?

# %% jupyter={"outputs_hidden": true}
for n in range(X.ndim):
    rows, kolda = unfold(X, n), unfold_kolda(X, n)
    assert same(rows @ rows.T, kolda @ kolda.T)
    assert not same(rows.T @ rows, kolda.T @ kolda)
print("X_(n) X_(n)^T is the same in both: so are rank, singular values and left singular vectors")

# %% [markdown]
# A permutation $\boldsymbol\Pi$ is orthogonal, and $\mathbf X \boldsymbol\Pi \boldsymbol\Pi^\top \mathbf X^\top = \mathbf X \mathbf X^\top$. Only the right singular vectors move. HOSVD (lesson 03)
# needs the left ones, so it does not care. Formulas with Kronecker products do care: section 6.
#
# `fold` undoes `unfold`, and needs the tensor's shape to do it. The ranks of the $Q$ unfoldings together are the
# **multilinear rank**. Unlike row and column rank of a matrix they may all differ:

# %%
for n in range(X.ndim):
    assert torch.equal(fold(unfold(X, n), n, X.shape), X)
low = multi_mode_dot(randn(2, 3, 4), [randn(7, 2), randn(5, 3), randn(9, 4)], [0, 1, 2])
multilinear = [torch.linalg.matrix_rank(unfold(low, n)).item() for n in range(3)]
assert multilinear == [2, 3, 4]
print("fold(unfold(X)) = X. Multilinear rank of a 7x5x9 tensor:", multilinear)

# %% [markdown]
# ## 3. vec, inner product, norm
#
# $\operatorname{vec}$ writes a tensor as one vector: row-major, `X.flatten()`, here; stacked columns in most of the
# literature. For a matrix product the choice turns the factors around:
#
# $$\operatorname{vec}_{\text{row}}(\mathbf A \mathbf X \mathbf B) = (\mathbf A \otimes \mathbf B^\top) \operatorname{vec}_{\text{row}} \mathbf X,
# \qquad
# \operatorname{vec}_{\text{col}}(\mathbf A \mathbf X \mathbf B) = (\mathbf B^\top \otimes \mathbf A) \operatorname{vec}_{\text{col}} \mathbf X .$$

#
# The Kronecker product $\mathbf A \otimes \mathbf B$ replaces every entry $a_{ij}$ by the block $a_{ij} \mathbf B$; section 5 has more. As code:


# %%
def kron(*matrices):
    def pair(A, B):
        return torch.einsum("ij,kl->ikjl", A, B).reshape(A.shape[0] * B.shape[0], -1)

    return functools.reduce(pair, matrices)


print(kron(torch.tensor([[1, 10, 100]]), torch.tensor([[1, 2], [3, 4]])))

# %%
A, M, B = randn(3, 5), randn(5, 7), randn(7, 2)
assert same((A @ M @ B).flatten(), kron(A, B.T) @ M.flatten())
assert same((A @ M @ B).T.flatten(), kron(B.T, A) @ M.T.flatten())
print("vec(AXB) agrees in both conventions")

# %% [markdown]
# The **inner product** of two tensors of equal sizes adds the products of their entries, and the (Frobenius) **norm** is
# $\|\mathcal X\| = \sqrt{\langle \mathcal X, \mathcal X \rangle}$. Neither cares how entries are arranged:
#
# $$\langle \mathcal X, \mathcal Y \rangle = \operatorname{vec}(\mathcal X)^\top \operatorname{vec}(\mathcal Y) = \operatorname{tr}(\mathbf X_{(n)} \mathbf Y_{(n)}^\top)
# \quad \text{for every } n .$$

# %%
Y = randn(*X.shape)
inner = (X * Y).sum()
assert same(inner, X.flatten() @ Y.flatten())
for n in range(X.ndim):
    assert same(inner, torch.trace(unfold(X, n) @ unfold(Y, n).T))
    assert same(X.norm(), unfold_kolda(X, n).norm())
print("inner product and norm agree in vec and in every unfolding")

# %% [markdown]
# ## 4. Mode products
#
# A matrix times a tensor, along one mode: $\mathcal Y = \mathcal X \times_n \mathbf A$ multiplies *every mode-$n$ fibre* by
# $\mathbf A \in \mathbb R^{J \times I_n}$. Mode $n$ then has size $J$. As matrices, by definition,
#
# $$\mathbf Y_{(n)} = \mathbf A \, \mathbf X_{(n)} .$$

# %%
for n, size in enumerate(X.shape):
    A = randn(6, size)
    Y = mode_dot(X, A, n)
    assert same(unfold(Y, n), A @ unfold(X, n))
    assert same(unfold_kolda(Y, n), A @ unfold_kolda(X, n))
print("Y_(n) = A X_(n) for every mode, in both conventions")

# %% [markdown]
# You know one already. A $1 \times 1$ convolution multiplies the channel fibre at each pixel by a matrix:

# %%
model = models.load("resnet20-cifar10")
W = model.layer3[0].conv1.weight.detach().double()[:, :, 1, 1]
maps = randn(2, W.shape[1], 8, 8)
assert same(torch.nn.functional.conv2d(maps, W[:, :, None, None]), mode_dot(maps, W, 1))
print(f"a 1x1 convolution with a {tuple(W.shape)} matrix is a mode-1 product")

# %% [markdown]
# Mode products in *different* modes commute; in the *same* mode they compose, the later one on the left:
#
# $$\mathcal X \times_m \mathbf A \times_n \mathbf B = \mathcal X \times_n \mathbf B \times_m \mathbf A \;\; (m \ne n), \qquad
# \mathcal X \times_n \mathbf A \times_n \mathbf B = \mathcal X \times_n (\mathbf B \mathbf A) .$$

# %%
A, B, C = randn(6, 5), randn(2, 7), randn(3, 6)
assert same(mode_dot(mode_dot(X, A, 1), B, 3), mode_dot(mode_dot(X, B, 3), A, 1))
assert same(mode_dot(mode_dot(X, A, 1), C, 1), mode_dot(X, C @ A, 1))
print("different modes commute, equal modes compose")

# %% [markdown]
# The transpose moves to the other side of an inner product, and a matrix with orthonormal columns keeps norms:
#
# $$\langle \mathcal X \times_n \mathbf A, \mathcal Z \rangle = \langle \mathcal X, \mathcal Z \times_n \mathbf A^\top \rangle, \qquad
# \|\mathcal X \times_n \mathbf Q\| = \|\mathcal X\| \;\text{ if }\; \mathbf Q^\top \mathbf Q = \mathbf I .$$
#
# The second is why compression methods like orthonormal factors: errors made in the small tensor are the errors of the
# large one.

# %%
Z = randn(3, 6, 4, 7)
assert same((mode_dot(X, A, 1) * Z).sum(), (X * mode_dot(Z, A.T, 1)).sum())
Q = torch.linalg.qr(randn(9, 5)).Q
assert same(mode_dot(X, Q, 1).norm(), X.norm())
print("the adjoint of x_n A is x_n A^T; orthonormal columns keep the norm")

# %% [markdown]
# ## 5. Four products
#
# | product | symbol | sizes | entry |
# | --- | --- | --- | --- |
# | outer | $\mathbf a \circ \mathbf b$ | $I, J \to I \times J$ | $a_i b_j$ |
# | Kronecker | $\mathbf A \otimes \mathbf B$ | $I \times J,\; K \times L \to IK \times JL$ | $a_{ij} b_{kl}$ at $(iK + k,\; jL + l)$ |
# | Khatri-Rao | $\mathbf A \odot \mathbf B$ | $I \times R,\; K \times R \to IK \times R$ | $a_{ir} b_{kr}$ at $(iK + k,\; r)$ |
# | Hadamard | $\mathbf A * \mathbf B$ | $I \times J$ twice $\to I \times J$ | $a_{ij} b_{ij}$ |
#
# All multiply entries and differ in which indices they tie together. Each is one `einsum`, with a `reshape` that merges
# indices:

# %%
A, B = randn(3, 4), randn(5, 4)
assert same(torch.kron(A, B), torch.einsum("ij,kl->ikjl", A, B).reshape(15, 16))
assert same(khatri_rao([A, B]), torch.einsum("ir,kr->ikr", A, B).reshape(15, 4))
assert same(torch.outer(A[0], B[0]), torch.einsum("i,j->ij", A[0], B[0]))
print("Kronecker, Khatri-Rao and outer product as einsums")

# %% [markdown]
# They are one family. Column $r$ of a Khatri-Rao product is the Kronecker product of the columns $r$; the Khatri-Rao
# product keeps $R$ of the $R^2$ columns of the Kronecker product; the Hadamard product of two $I \times J$ matrices keeps only
# the rows $iI + i$ and the columns $jJ + j$; and the vectorized outer product is a Kronecker product of vectors.

# %%
for r in range(4):
    assert same(khatri_rao([A, B])[:, r], torch.kron(A[:, r], B[:, r]))
assert same(khatri_rao([A, B]), kron(A, B)[:, :: 4 + 1])
S, T = randn(3, 5), randn(3, 5)
assert same(S * T, kron(S, T)[:: 3 + 1, :: 5 + 1])
assert same(torch.outer(A[0], B[0]).flatten(), torch.kron(A[0], B[0]))
print("columns, selection, submatrix, vec: four relations hold")

# %% [markdown]
# **The mixed products.** Kronecker products multiply factor by factor. This line makes fast algorithms out of large
# formulas:
#
# $$(\mathbf A \otimes \mathbf B)(\mathbf C \otimes \mathbf D) = \mathbf A \mathbf C \otimes \mathbf B \mathbf D, \qquad
# (\mathbf A \otimes \mathbf B)(\mathbf C \odot \mathbf D) = \mathbf A \mathbf C \odot \mathbf B \mathbf D .$$

# %%
A, B, C, D = randn(3, 5), randn(7, 2), randn(5, 4), randn(2, 4)
assert same(kron(A, B) @ kron(C, D), kron(A @ C, B @ D))
assert same(kron(A, B) @ khatri_rao([C, D]), khatri_rao([A @ C, B @ D]))
print("both mixed products hold")

# %% [markdown]
# Transpose, pseudo-inverse, norm and rank go factor by factor too:
#
# $$(\mathbf A \otimes \mathbf B)^\top = \mathbf A^\top \otimes \mathbf B^\top, \quad
# (\mathbf A \otimes \mathbf B)^\dagger = \mathbf A^\dagger \otimes \mathbf B^\dagger, \quad
# \|\mathbf A \otimes \mathbf B\| = \|\mathbf A\| \|\mathbf B\|, \quad
# \operatorname{rank}(\mathbf A \otimes \mathbf B) = \operatorname{rank} \mathbf A \operatorname{rank} \mathbf B .$$

# %%
K, pinv, rank = kron(A, B), torch.linalg.pinv, torch.linalg.matrix_rank
assert same(K.T, kron(A.T, B.T))
assert same(pinv(K), kron(pinv(A), pinv(B)))
assert same(K.norm(), A.norm() * B.norm())
assert rank(K) == rank(A) * rank(B)
print("Kronecker: transpose, pseudo-inverse, norm, rank")

# %% [markdown]
# **Predict, then reveal.** $\mathbf A \odot \mathbf B$ with $\mathbf A \in \mathbb R^{1000 \times 20}$, $\mathbf B \in \mathbb R^{2000 \times 20}$ has 40 million entries. Its Gram matrix
# $(\mathbf A \odot \mathbf B)^\top (\mathbf A \odot \mathbf B)$ is only $20 \times 20$. How many multiplications do you need for it?
#
# <details><summary>The answer, and why</summary>
#
# Entry $(r, s)$ is $\sum_{i,k} a_{ir} b_{kr} a_{is} b_{ks} = (\sum_i a_{ir} a_{is}) (\sum_k b_{kr} b_{ks})$. So
#
# $$(\mathbf A \odot \mathbf B)^\top (\mathbf A \odot \mathbf B) = \mathbf A^\top \mathbf A * \mathbf B^\top \mathbf B, \qquad
# (\mathbf A \odot \mathbf B)^\dagger = (\mathbf A^\top \mathbf A * \mathbf B^\top \mathbf B)^\dagger (\mathbf A \odot \mathbf B)^\top .$$
#
# The long product never needs to exist: 3,000 multiplications for each of the 400 entries, and one more, instead of two
# million.
# </details>
#
# Alternating least squares for CPD (lesson 02) rests on this line.

# %% jupyter={"outputs_hidden": true}
A, B = randn(7, 4), randn(5, 4)
KR, gram = khatri_rao([A, B]), (A.T @ A) * (B.T @ B)
assert same(KR.T @ KR, gram)
assert same(torch.linalg.pinv(KR), torch.linalg.pinv(gram) @ KR.T)
print("Gram matrix and pseudo-inverse of a Khatri-Rao product, from 4 x 4 matrices")

# %%
for R in (4, 20):
    through_product, through_grams = 1000 * 2000 * R + 1000 * 2000 * R**2, 3000 * R**2 + R**2
    print(f"R={R:2}: {through_product:11,} multiplications with the long product, {through_grams:9,} without")

# %% [markdown]
# It has a price. A Gram matrix has the *square* of the condition number, and a least squares problem solved through it
# loses twice as many digits. Two nearly parallel columns show it:

# %%
for angle in (1, 1e-4):
    near = [torch.cat([m[:, :3], m[:, 2:3] + angle * m[:, 3:]], dim=1) for m in (A, B)]
    tall = khatri_rao(near)
    wanted = torch.linspace(-1, 1, 400, dtype=torch.float64).view(4, 100)  # 100 systems, since one may be lucky
    right = tall @ wanted
    small = (near[0].T @ near[0]) * (near[1].T @ near[1])
    solutions = {"lstsq": torch.linalg.lstsq(tall, right).solution, "Gram": torch.linalg.solve(small, tall.T @ right)}
    lost = {name: (solution - wanted).norm().item() for name, solution in solutions.items()}
    assert torch.isclose(torch.linalg.cond(small), torch.linalg.cond(tall) ** 2, rtol=0.01)
assert lost["Gram"] > 100 * lost["lstsq"]
print("nearly parallel columns: the Gram matrix costs more than two further digits")

# %% [markdown]
# The Kronecker and the Khatri-Rao product are associative, so three factors need no brackets. They are *not* commutative:
# $\mathbf B \odot \mathbf A$ has the rows of $\mathbf A \odot \mathbf B$ in another order, the same permutation that relates the two unfolding
# conventions.

# %%
C = randn(3, 4)
assert same(khatri_rao([A, khatri_rao([B, C])]), khatri_rao([khatri_rao([A, B]), C]))
shuffle = torch.arange(7 * 5).reshape(7, 5).T.flatten()
assert same(khatri_rao([B, A]), khatri_rao([A, B])[shuffle])
print("associative; commutative only up to a permutation of rows")

# %% [markdown]
# ## 6. Everything together: unfolded Tucker and CP
#
# Multiply a tensor $\mathcal G$ in all modes by matrices: $\mathcal X = \mathcal G \times_0 \mathbf A_0 \times_1 \mathbf A_1 \cdots \times_{Q-1} \mathbf A_{Q-1}$, a **Tucker**
# format with core $\mathcal G$. Each mode product becomes one Kronecker factor:
#
# $$\operatorname{vec} \mathcal X = (\mathbf A_0 \otimes \mathbf A_1 \otimes \dots \otimes \mathbf A_{Q-1}) \operatorname{vec} \mathcal G , \qquad
# \mathbf X_{(n)} = \mathbf A_n \, \mathbf G_{(n)} \, \Big(\bigotimes_{m \ne n} \mathbf A_m\Big)^{\!\top} .$$
#
# *Why.* Entry $x_{i_0 i_1 \dots}$ is $\sum_{j_0 j_1 \dots} a_{0, i_0 j_0}\, a_{1, i_1 j_1} \cdots g_{j_0 j_1 \dots}$. Merge the $i$'s into one index and the $j$'s into another, row-major: the
# product of the $a$'s is then an entry of the Kronecker product, its factors in *ascending* order, because there too the
# last factor's index runs fastest.

# %%
G, factors = randn(2, 4, 3, 5), [randn(3, 2), randn(5, 4), randn(4, 3), randn(7, 5)]
X = multi_mode_dot(G, factors)
assert same(X.flatten(), kron(*factors) @ G.flatten())
for n in range(4):
    others = [factors[m] for m in range(4) if m != n]
    assert same(unfold(X, n), factors[n] @ unfold(G, n) @ kron(*others).T)
print("Tucker: vec and all four unfoldings, Kronecker factors ascending")

# %% [markdown]
# In the column-major convention the *first* index runs fastest, and the same argument gives the factors in *descending*
# order: $\mathbf X_{(n)} = \mathbf A_n \mathbf G_{(n)} (\mathbf A_{Q-1} \otimes \dots \otimes \mathbf A_{n+1} \otimes \mathbf A_{n-1} \otimes \dots \otimes \mathbf A_0)^\top$, as in Kolda and Bader.

# %%
for n in range(4):
    descending = [factors[m] for m in reversed(range(4)) if m != n]
    assert same(unfold_kolda(X, n), factors[n] @ unfold_kolda(G, n) @ kron(*descending).T)
print("the same with Kolda and Bader's unfolding: Kronecker factors descending")

# %% [markdown]
# **CP** is the special case of a diagonal core: a sum of $R$ outer products,
# $\mathcal X = \sum_r \mathbf a_{0,r} \circ \mathbf a_{1,r} \circ \cdots \circ \mathbf a_{Q-1,r}$. The Kronecker product times an unfolded diagonal keeps $R$ of its columns, the Khatri-Rao product:
#
# $$\mathbf X_{(n)} = \mathbf A_n \Big(\bigodot_{m \ne n} \mathbf A_m\Big)^{\!\top}, \qquad \operatorname{vec} \mathcal X = \Big(\bigodot_m \mathbf A_m\Big) \mathbf 1 ,$$
#
# ascending in TensorLy's convention, descending in Kolda and Bader's.

# %%
R = 4
factors = [randn(size, R) for size in (3, 5, 6, 7)]
X = cp_to_tensor((torch.ones(R, dtype=torch.float64), factors))
assert same(X.flatten(), khatri_rao(factors) @ torch.ones(R, dtype=torch.float64))
for n in range(4):
    others = [factors[m] for m in range(4) if m != n]
    assert same(unfold(X, n), factors[n] @ khatri_rao(others).T)
    assert same(unfold_kolda(X, n), factors[n] @ khatri_rao(others[::-1]).T)
print("CP: vec and all four unfoldings, in both conventions")

# %% [markdown]
# **The classic mistake**: a formula from a paper, an unfolding from another library. All shapes agree, nothing raises,
# and the numbers are wrong:

# %%
mixed = factors[0] @ khatri_rao(factors[:0:-1]).T
assert mixed.shape == unfold(X, 0).shape
assert (mixed - unfold(X, 0)).norm() > 0.5 * X.norm()
print("the shapes agree, and the relative error is above one half")

# %% [markdown]
# Norms and inner products of CP tensors follow from the Gram identity, without forming a single tensor:
#
# $$\|\mathcal X\|^2 = \mathbf 1^\top \big( (\mathbf A_0)^\top \mathbf A_0 * (\mathbf A_1)^\top \mathbf A_1 * \cdots * (\mathbf A_{Q-1})^\top \mathbf A_{Q-1} \big) \mathbf 1 .$$

# %%
grams = torch.stack([factor.T @ factor for factor in factors])
assert same(X.norm() ** 2, grams.prod(0).sum())
print(f"the squared norm of {X.numel()} entries, from {sum(f.numel() for f in factors)} entries of factors")

# %% [markdown]
# **Five things are called rank.** Say which one you mean:
#
# | rank | of | is |
# | --- | --- | --- |
# | matrix rank | a matrix | the number of its singular values above zero |
# | multilinear rank | a tensor | $Q$ matrix ranks, those of its unfoldings |
# | TT ranks | a tensor, its modes in this order | $Q - 1$ matrix ranks, of its sequential unfoldings (section 9) |
# | rank, CP rank | a tensor | the least number of outer products that add up to it (lesson 02) |
# | rank of a format | an approximation | one or several numbers that *you* choose: how many terms, how large a core |
#
# ## 7. Draw it: tensor networks
#
# Indices and letters get out of hand at order 5. Pictures don't. Draw a circle for each tensor and a line for each
# index. A line between two circles is summed over; a line that ends nowhere stays. The number of loose ends is the
# order of the result. That is the same information as an `einsum` string, and `plots.einsum_graph` draws any of them.

# %%
networks = {
    "matrix product": ("ij,jk->ik", "AB"),
    "inner product": ("ijk,ijk->", ("$\\mathcal{X}$", "$\\mathcal{Y}$")),
    "trace of a product": ("ij,jk,ki->", "ABC"),
    "mode-1 product": ("ijk,lj->ilk", ("$\\mathcal{X}$", "A")),
    "outer": ("i,j->ij", "ab"),
    "Kronecker": ("ij,kl->ikjl", "AB"),
    "Khatri-Rao": ("ir,jr->ijr", "AB"),
    "Hadamard": ("ij,ij->ij", "AB"),
    "CP": ("ir,jr,kr->ijk", "ABC"),
    "Tucker": ("abc,ia,jb,kc->ijk", ("$\\mathcal{G}$", "A", "B", "C")),
    "tensor train": ("ia,ajb,bk->ijk", ("$G_0$", "$G_1$", "$G_2$")),
}

# %%
fig, axes = plt.subplots(3, 4, figsize=(11, 7.6))
for ax, (name, (equation, tensors)) in zip(axes.flat, networks.items(), strict=False):
    plots.einsum_graph(equation, names=tensors, ax=ax)
    ax.set_title(f"{name}\n{equation}", fontweight="normal", fontsize=10, loc="center")
axes.flat[-1].axis("off")
fig.suptitle("The products of this lesson as networks; loose ends are what remains", fontweight="bold")
plt.show()

# %% [markdown]
# The black dot is an index that more than two tensors share, or that two share and the result keeps. It marks what sets
# CP apart: *one* index $r$ runs through all factors, while Tucker and the tensor train have only ordinary lines. (Kronecker
# and Khatri-Rao products are drawn as the tensors that `einsum` gives, before a reshape merges $i$ with $k$, or with $j$.)
#
# The last picture is a **tensor train** (lesson 04): every entry is a product of matrices, one from each *core*,
#
# $$x_{ijk} = \sum_{a,b} (G_0)_{ia} \, (G_1)_{ajb} \, (G_2)_{bk} ,$$
#
# and the sizes of the inner lines $a$ and $b$ are the train's ranks.
#
# Pictures are proofs. The trace of a product is a ring, a ring has no first tensor, so
# $\operatorname{tr}(\mathbf A \mathbf B \mathbf C) = \operatorname{tr}(\mathbf B \mathbf C \mathbf A)$. A line between two tensors may carry any invertible matrix and its inverse, so the
# tensors of a Tucker or a train format are never unique:

# %%
A, B, C = randn(3, 5), randn(5, 7), randn(7, 3)
assert same(torch.trace(A @ B @ C), torch.trace(B @ C @ A))
left, middle, right = randn(3, 2), randn(2, 5, 4), randn(4, 7)
change = randn(4, 4)
X = torch.einsum("ia,ajb,bk->ijk", left, middle, right)
other = torch.einsum("ia,ajb,bk->ijk", left, middle @ change, torch.linalg.solve(change, right))
assert same(X, other)
print("trace is cyclic; a change of basis on an inner line changes nothing outside")

# %% [markdown]
# ## 8. The order of contraction decides the cost
#
# `einsum` says *what* to compute. For the *order*, pick two tensors, contract them, go on. Contracting two costs one
# multiplication with its addition (a **MAC**) for each value of each index that either of them has. Start small:
# $\mathbf A \mathbf B \mathbf x$ with $300 \times 300$ matrices. Left to right, or right to left?

# %%
n = 300
print(f"(AB)x: {n**3 + n**2:12,} MACs\nA(Bx): {2 * n**2:12,} MACs, {(n**3 + n**2) / (2 * n**2):.1f} times fewer")

# %% [markdown]
# Now let the computer try *every* order. A network of $t$ tensors has $t!\,(t-1)!/2^{t-1}$ sequences of pairs: $t(t-1)/2$ pairs
# first, then the pairs of what is left, and so on. (Sequences that do the same steps at other times count apart; there are
# $(2t-3)!! = 1 \cdot 3 \cdots (2t-3)$ different sets of steps.)


# %%
def contractions(terms, output, size):
    if len(terms) == 1:
        yield 0, ()
    for i, j in itertools.combinations(range(len(terms)), 2):
        rest = [term for n, term in enumerate(terms) if n not in (i, j)]
        involved = set(terms[i] + terms[j])
        merged = "".join(sorted(involved & set(output).union(*rest)))
        step = math.prod(size[index] for index in involved)
        for macs, order in contractions([*rest, merged], output, size):
            yield step + macs, ((i, j), *order)


# %% [markdown]
# An index of the pair survives if another tensor or the output needs it. For a chain of three matrices there are three
# orders: two of them you know, the third multiplies $\mathbf A$ with $\mathbf C$ first, which share no index.

# %%
size = {"i": 10, "j": 300, "k": 20, "l": 400}
for macs, order in contractions(["ij", "jk", "kl"], "il", size):
    first = " with ".join("ABC"[n] for n in order[0])
    print(f"{first} first: {macs:12,} MACs")
assert min(contractions(["ij", "jk", "kl"], "il", size))[0] == 10 * 300 * 20 + 10 * 20 * 400

# %% [markdown]
# A network with more to lose: the inner product of two tensor trains. Six small tensors, no loose end. (The full
# profile puts a matrix between the middle cores, a seventh tensor.)

# %%
equation = {"quick": "ia,ajb,bk,dk,cjd,ic->", "full": "ia,ajb,bk,dk,cld,ic,jl->"}[profile]
terms = equation.removesuffix("->").split(",")
size = dict.fromkeys("ijkl", 20) | dict.fromkeys("abcd", 5)
names = ("$G_0$", "$G_1$", "$G_2$", "$H_2$", "$H_1$", "$H_0$", "M")[: len(terms)]
places = [(0, 1.4), (1, 1.4), (2, 1.4), (2, 0), (1, 0), (0, 0), (1, 0.7)][: len(terms)]
ax = plots.einsum_graph(equation, names=names, at=places, sizes={c: size[c] for c in sorted(set("".join(terms)))})
ax.set_title("The inner product of two trains is a ladder")
plt.show()

# %% [markdown]
# **Predict, then reveal.** You could multiply out both trains and sum the products of their entries. Or start at one end
# and swallow one core after the other. By which factor do the best and the worst order differ: 10, 100, 1000?


# %% jupyter={"outputs_hidden": true}
def tree(order, t):
    tensors = [frozenset([n]) for n in range(t)]
    for i, j in order:
        merged = tensors[i] | tensors[j]
        tensors = [*(tensor for n, tensor in enumerate(tensors) if n not in (i, j)), merged]
        yield merged


orders = sorted(contractions(terms, "", size))
t = len(terms)
assert len(orders) == math.factorial(t) * math.factorial(t - 1) // 2 ** (t - 1)
(best, best_order), (worst, worst_order) = orders[0], orders[-1]
steps = {frozenset(tree(order, t)) for _, order in orders}
assert len(steps) == math.prod(range(1, 2 * t - 2, 2))
print(f"{len(orders):,} orders, {len(steps):,} sets of steps, from {best:,} to {worst:,} MACs")

# %%
one_train = 20**2 * 5**2 + 20**3 * 5
naive = 2 * one_train + 20**3 * {6: 1, 7: 1 + 20}[t]
assert naive in {macs for macs, _ in orders}
fig, ax = plt.subplots()
ax.hist([macs for macs, _ in orders], bins=np.geomspace(best, worst, 40), color="#56B4E9")
ax.set_ylim(0, 1.25 * ax.get_ylim()[1])
for macs, text, side in (
    (best, "best", "left"),
    (naive, "multiply both trains out", "left"),
    (worst, "worst", "right"),
):
    ax.axvline(macs, color="0.3", linestyle="--", linewidth=1)
    ax.text(macs, 0.95, f" {text} ", transform=ax.get_xaxis_transform(), ha=side, va="top")
ax.set(xscale="log", xlabel="MACs", ylabel="number of orders")
ax.set_title("Same tensors, same result: only the order of contraction differs")
plt.show()

# %% [markdown]
# All orders compute the same number. A path of pairs, as `contractions` gives it, is what `numpy.einsum` calls an
# `einsum_path`; so any order can be executed. NumPy has a search of its own for the cheapest one. It counts additions
# apart, so its choice need not be ours in every network. Here it is:

# %%
tensors = [randn(*(size[index] for index in term)).numpy() for term in terms]
results = [np.einsum(equation, *tensors, optimize=["einsum_path", *order]) for _, order in orders[:: len(orders) // 15]]
assert np.allclose(results, results[0], rtol=1e-10)
path = tuple(tuple(sorted(pair)) for pair in np.einsum_path(equation, *tensors, optimize=("optimal", 2**40))[0][1:])
assert {order: macs for macs, order in orders}.get(path) == best
print(f"{len(results)} orders, one result; NumPy's optimal path costs {best:,} MACs as well")

# %% [markdown]
# Count, then time. Expect the same order on the clock, but a smaller ratio: with so few MACs the calls themselves cost
# more than the arithmetic. (The next cell's numbers are this machine's.)

# %% tags=["nbval-ignore-output"]
race = {
    name: (lambda order=order: np.einsum(equation, *tensors, optimize=["einsum_path", *order]))
    for name, order in (("worst order", worst_order), ("best order", best_order))
}
timed = measure.compare(race, rounds=10)
print(f"best order: {worst / best:,.0f} times fewer MACs, {timed.speedup['best order'][0]:.0f} times faster here")

# %% [markdown]
# Nobody tries all orders of a large network: finding the best one is NP-hard in general (Lam et al. 1997). For chains and
# trains there are few sensible candidates, and a lesson on layers picks among them by counting.

# %% [markdown]
# ## 9. Tensorization
#
# So far tensors came with their modes. You can also *make* modes: write an index in base 2, and each binary digit becomes
# a mode of size 2. A vector of $2^d$ entries turns into a tensor of order $d$. In row-major order that is a `reshape`, the most significant digit
# first, and no entry moves.

# %%
x = torch.arange(2**digits, dtype=torch.float64) / 2**digits
f = torch.sin(7 * x + 1).reshape((2,) * digits)
bits = [int(bit) for bit in format(2**digits // 3, f"0{digits}b")]
assert f[tuple(bits)] == torch.sin(7 * x + 1)[2**digits // 3]
print(f"entry {2**digits // 3} of the vector is entry {tuple(bits)} of a tensor of order {f.ndim}")

# %% [markdown]
# What for? Cut the digits after the $q$-th, coarse digits to the left, fine ones to the right. The **sequential
# unfolding** has a row for each value of the coarse digits and a column for each value of the fine ones:
# $\mathbf F_{\langle q \rangle} \in \mathbb R^{2^q \times 2^{d-q}}$. Row and column index *add up* to the argument, $x = y + z$. So any formula for $f(y + z)$ as a sum of $R$
# products $u_r(y)\,v_r(z)$ bounds the rank by $R$, at every cut:
#
# | $f$ | because | rank |
# | --- | --- | --- |
# | $e^{\lambda x}$ | $e^{\lambda y} e^{\lambda z}$ | 1 |
# | $\sin(\omega x + \varphi)$ | $\sin(\omega y + \varphi) \cos(\omega z) + \cos(\omega y + \varphi) \sin(\omega z)$ | 2 |
# | polynomial of degree $p$ | binomial theorem: $1, z, \dots, z^p$ with coefficients that depend on $y$ | $p + 1$ |
#
# Near the ends a cut has fewer than $R$ rows or columns, so the rank is *at most* $\min(2^q, R, 2^{d-q})$. Usually it is equal. The ranks of these $d - 1$ matrices are
# the **TT ranks** (Oseledets 2011; lesson 04). Of binary digits one says *quantized* TT, **QTT** (Khoromskij 2011).


# %%
def tail_errors(matrix):
    s = torch.linalg.svdvals(matrix)
    return s.flip(0).square().cumsum(0).sqrt()


def tt_ranks(tensor, error=1e-13):
    cuts = [tensor.reshape(math.prod(tensor.shape[:q]), -1) for q in range(1, tensor.ndim)]
    return [int((tails > error * tails[-1]).sum()) for tails in map(tail_errors, cuts)]


# %% [markdown]
# (`tail_errors` are the errors of all truncations, the norm last, by Eckart-Young; the rank is the smallest one whose
# error is at most `error` times the norm.) The polynomial is $T_p(2x - 1) = \cos(p \arccos(2x - 1))$, Chebyshev's of degree $p$.

# %%
samples = {
    "exp": (torch.exp(-3 * x), 1),
    "sin": (torch.sin(7 * x + 1), 2),
    f"degree {degree}": (torch.cos(degree * torch.arccos(2 * x - 1)), degree + 1),
}
for name, (vector, R) in samples.items():
    ranks = tt_ranks(vector.reshape((2,) * digits))
    assert ranks == [min(2**q, R, 2 ** (digits - q)) for q in range(1, digits)]
    print(f"{name:<9} QTT ranks {ranks}")

# %% [markdown]
# Can it be less? A sine whose period is a power of two samples repeats itself, and its coarse digits carry nothing:

# %%
for omega, phase in ((2 * math.pi, 0), (8 * math.pi, 0), (math.pi * 2 ** (digits - 1), 0.3)):
    ranks = tt_ranks(torch.sin(omega * x + phase).reshape((2,) * digits), 1e-10)  # large arguments are rounded
    assert all(rank <= min(2**q, 2, 2 ** (digits - q)) for q, rank in enumerate(ranks, 1))
    assert min(ranks) == 1
    print(f"sin({omega / math.pi:.0f} pi x + {phase}): QTT ranks {ranks}")

# %% [markdown]
# Rank 1 means: the exponential *is* a Kronecker product of $d$ vectors of size 2. Rank 2 means: the sine is a product of
# $d$ rotations, one per digit, each rotating only if its digit is 1. No SVD needed, the cores are explicit
# (Oseledets 2013):

# %%
steps = [0.5 ** (k + 1) for k in range(digits)]
vectors = [torch.tensor([1, math.exp(-3 * step)], dtype=torch.float64) for step in steps]
assert same(kron(*(v[None] for v in vectors))[0], torch.exp(-3 * x))
print(f"exp: {2 * digits} numbers instead of {2**digits}")

# %%
state = torch.tensor([[math.sin(1), math.cos(1)]], dtype=torch.float64)
for step in steps:
    angle = 7 * step * torch.arange(2, dtype=torch.float64)
    c, s = torch.cos(angle), torch.sin(angle)
    core = torch.stack([torch.stack([c, -s]), torch.stack([s, c])])
    state = torch.einsum("xr,rsb->xbs", state, core).reshape(-1, 2)
assert same(state[:, 0], torch.sin(7 * x + 1))
print(f"sin: {digits} cores of 2 x 2 x 2 give {2**digits} samples")

# %% [markdown]
# Ranks add when functions add, and multiply when functions multiply (at most). And *which* number is whose neighbour
# matters: shuffle the samples of the sine, and every rank is as large as it can be.

# %%
sine, line = torch.sin(7 * x + 1), 1 + x
shuffled = sine[torch.randperm(2**digits, generator=generator)]
largest = [min(2**q, 2 ** (digits - q)) for q in range(1, digits)]
ranks = {"sin + exp": sine + torch.exp(-3 * x), "sin * (1 + x)": sine * line, "sin, shuffled": shuffled}
ranks = {name: tt_ranks(vector.reshape((2,) * digits)) for name, vector in ranks.items()}
assert max(ranks["sin + exp"]) <= 2 + 1
assert max(ranks["sin * (1 + x)"]) <= 2 * 2
assert ranks["sin, shuffled"] == largest
pd.DataFrame(ranks, index=pd.RangeIndex(1, digits, name="cut after digit")).T

# %% [markdown]
# ### A trained weight, tensorized
#
# Now the question of this workbook. The first layer of a trained MNIST network is a $1024 \times 1024$ matrix. Write row *and*
# column index in binary: $i = (i_0 \dots i_9)$, $j = (j_0 \dots j_9)$. Put the digits in the order $i_0, j_0, i_1, j_1, \dots$, a tensor of order 20
# with modes of size 2. Merge each pair to one mode of size 4: order 10.
#
# One thing to know about this weight: images of $28 \times 28$ pixels were padded to $32 \times 32$, so that $240$ of the
# 1024 inputs are constant, and the columns that they meet hold what weight decay has left of their starting values.


# %%
def pair_digits(matrix, d=10):
    digits_apart = matrix.reshape((2,) * (2 * d))
    return digits_apart.permute([axis for k in range(d) for axis in (k, d + k)])


W = models.load("mlp1024-mnist")[2].weight.detach().double()
order20 = pair_digits(W)
order10 = order20.reshape((4,) * 10)
padding = torch.ones(32, 32, dtype=torch.bool)
padding[2:-2, 2:-2] = False
share = W[:, padding.flatten()].square().sum() / W.square().sum()
assert padding.sum() == 240
print("order", order20.ndim, "with modes of size 2; order", order10.ndim, "with modes of size 4")
print(f"the {padding.sum()} columns of the padding hold {share:.1%} of the squared norm")

# %%
for i, j in torch.randint(1024, (200, 2), generator=generator).tolist():
    pairs = [(i >> (9 - k) & 1, j >> (9 - k) & 1) for k in range(10)]
    assert order20[tuple(bit for pair in pairs for bit in pair)] == W[i, j]
    assert order10[tuple(2 * a + b for a, b in pairs)] == W[i, j]
print("200 entries of the matrix found in both tensors")

# %% [markdown]
# Why pairs? Because then the tensor *of order 10* has all ranks 1 exactly when the matrix is a Kronecker product of ten
# $2 \times 2$ matrices, the identity for example: its entries are the products of one entry of each of the ten. (At order 20
# more cuts are counted, those between a row digit and its column digit; there the identity has rank 2.) Without pairing,
# cutting *all row digits* from *all column digits*, the identity has full rank:

# %%
small = kron(*(randn(2, 2) for _ in range(6)))
assert tt_ranks(pair_digits(small, 6).reshape((4,) * 6)) == [1] * 5
eye = torch.eye(64, dtype=torch.float64)
assert tt_ranks(pair_digits(eye, 6).reshape((4,) * 6)) == [1] * 5
assert tt_ranks(pair_digits(eye, 6)) == [2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2]
assert max(tt_ranks(eye.reshape((2,) * 12))) == 64
two = small + kron(*(randn(2, 2) for _ in range(6)))  # no Kronecker product
assert tt_ranks(pair_digits(two, 6).reshape((4,) * 6)) == [2] * 5
print("paired: Kronecker products and the identity have rank 1; unpaired, the identity has rank 64")

# %% [markdown]
# **Predict, then reveal.** Three $1024 \times 1024$ matrices: samples of a smooth function $e^{-8(s - t)^2}$, the trained weight, and
# noise. Allow a relative error (`rel_error`, a parameter) at each cut, and count the ranks. Where will the trained weight lie?

# %%
t = torch.arange(1024, dtype=torch.float64) / 1024
matrices = {"smooth": torch.exp(-8 * (t[:, None] - t) ** 2), "trained": W, "noise": randn(1024, 1024)}
shape = {"quick": (4,) * 10, "full": (2,) * 20}[profile]
sides = [(math.prod(shape[:q]), math.prod(shape[q:])) for q in range(1, len(shape))]
tails = {name: [tail_errors(pair_digits(M).reshape(side)) for side in sides] for name, M in matrices.items()}


# %% jupyter={"outputs_hidden": true}
def ranks_within(tails, error):
    return [int((tail > error * tail[-1]).sum()) for tail in tails]


cut_ranks = {name: ranks_within(tails[name], rel_error) for name in matrices}
largest = [min(side) for side in sides]
pd.DataFrame(cut_ranks | {"largest possible": largest}, index=pd.RangeIndex(1, len(shape), name="cut")).T

# %%
fig, ax = plt.subplots()
cuts, half = range(1, len(shape)), len(shape) // 2
ax.plot(cuts, largest, color="0.6", linestyle="--")
ax.text(half - 0.15, 1.35 * largest[half - 1], "largest possible", color="0.4", ha="center")
for name, color, lift in (("noise", "0.3", 0.62), ("trained", "#D55E00", 0.6), ("smooth", "#0072B2", 1.5)):
    ax.plot(cuts, cut_ranks[name], "o-", color=color)
    ax.text(half, lift * cut_ranks[name][half - 1], name, color=color, ha="center", va="center", fontweight="bold")
ax.set(yscale="log", ylim=(0.6, 3000), xlabel="cut after mode", ylabel=f"rank for a relative error of {rel_error:g}")
ax.set_title("A trained weight is closer to noise than to a smooth function")
ax.set_xticks(cuts)
plt.show()

# %% [markdown]
# Ranks make sizes. A train with ranks $R_q$ stores $\sum_q R_q I_q R_{q+1}$ numbers. With the ranks above this is a **lower bound** for *any*
# train within the error, *in these modes and in this order*: the train's own unfolding at cut $q$ has rank at most $R_q$, and by Eckart-Young none of smaller
# rank comes so close. A truncated SVD of the matrix stores $2 \cdot 1024 \cdot R$. Which is smaller?


# %%
def train_size(ranks):
    R = [1, *ranks, 1]
    return sum(R[q] * shape[q] * R[q + 1] for q in range(len(shape)))


def svd_size(name, error):
    return 2048 * ranks_within([matrix_tails[name]], error)[0]


matrix_tails = {name: tail_errors(M) for name, M in matrices.items()}
sizes = {name: [train_size(cut_ranks[name]), svd_size(name, rel_error), 1024**2] for name in matrices}
pd.DataFrame(sizes, index=["train, at least", "matrix SVD", "dense"]).T.map("{:,}".format)

# %%
errors = np.linspace(0.02, 0.9, 45)
fig, ax = plt.subplots()
for name, color in (("trained", "#D55E00"), ("smooth", "#0072B2")):
    train = [train_size(ranks_within(tails[name], error)) / 1024**2 for error in errors]
    svd = [svd_size(name, error) / 1024**2 for error in errors]
    ax.plot(errors, train, color=color, label=f"{name}, train at least")
    ax.plot(errors, svd, color=color, linestyle="--", label=f"{name}, SVD")
    smaller = np.array(train) < svd
    print(f"{name}: the train's bound is below the SVD's size for relative errors from {errors[smaller].min():.2f} on")
ax.axhline(1, color="0.5", linewidth=1)
ax.set(
    yscale="log",
    xlim=(0, 1.25),
    xticks=np.arange(0, 1, 0.2),
    xlabel="relative error of the weight",
    ylabel="numbers stored / dense",
)
ax.set_title("A train of paired digits pays for the smooth matrix, hardly for the trained one")
plots.label_lines(ax)
plt.show()

# %% [markdown]
# The smooth matrix shrinks to a handful of numbers as a train, where an SVD still stores whole columns. For the trained
# weight, no train *of these paired digits* is smaller than the SVD unless you accept a large error, and for a small one both
# store more than the dense matrix. The bound holds however the train is computed. A real one is larger. TT-SVD guarantees
# the *total* error that you allow, and stays below it:

# %%
for name in ("smooth", "trained"):
    train = decompose.tt_matrix(matrices[name], (2,) * 10, (2,) * 10, rel_error=rel_error)
    stored = sum(core.numel() for core in train.factors)
    error = (train.to_matrix() - matrices[name]).norm() / matrices[name].norm()
    assert error <= rel_error
    assert stored >= train_size(cut_ranks[name]) or profile == "full"  # there the bound is that of other modes
    print(f"{name:<8} TT-SVD stores {stored:9,} numbers; its relative error is {error:.3f}, allowed are {rel_error:g}")

# %% [markdown]
# ### Digits that mean something
#
# Is it the train, or are it the modes? A hidden unit's number means nothing, and its digits mean nothing either. But an input
# is a pixel with a row and a column. So leave the hidden units alone and split only the input: 1024 hidden units, 32 image
# rows, 32 image columns. That is a train of order 3 with ranks $R_1, R_2$. TT-SVD first truncates the matrix itself at $R_1$,
# then the rest at $R_2$; the squared errors add up (lesson 04). So the smallest such train within the error is found by
# trying all $R_1$:

# %%
U, sigma, Vh = torch.linalg.svd(W)
cut = tail_errors(W)


def smallest_train(error):
    found = []
    first = ranks_within([cut], error)[0]
    for R1 in range(first, min(first + 200, 1024)):
        rest = (sigma[:R1, None] * Vh[:R1]).reshape(R1 * 32, 32)
        left = (error * cut[-1]) ** 2 - sigma[R1:].square().sum()
        tails = tail_errors(rest)
        R2 = int((tails**2 > left).sum())
        found.append((1024 * R1 + R1 * 32 * R2 + R2 * 32, R1, R2))
    return min(found)


# %%
stored, R1, R2 = smallest_train(rel_error)
train = decompose.tt(W.reshape(1024, 32, 32), (R1, R2))
assert sum(core.numel() for core in train.factors) == stored
error = (train.to_tensor().reshape(1024, 1024) - W).norm() / W.norm()
assert error <= rel_error + 1e-9
assert stored < 1.01 * svd_size("trained", rel_error)
print(f"units | rows | columns: {stored:,} numbers at ranks {R1}, {R2} and relative error {error:.3f}")
print(
    f"matrix SVD: {svd_size('trained', rel_error):,}; train of paired digits: at least {train_size(cut_ranks['trained']):,}"
)

# %% [markdown]
# At moderate errors this train is smaller than the SVD. So it is the *pairing* of hidden units with pixels that hurts this weight, not the
# train: tensorize an index only if its digits mean something.
#
# Then why do trains of paired digits compress such layers at all (Novikov et al. 2015, lesson 06)? Two reasons. Their networks are *trained in* the format:
# the optimizer looks for good weights of low TT rank, which exist, although the dense training found others. And the
# error of a weight is not the error of a network.
#
# Part of the trouble is arbitrary. A layer's hidden units may be renumbered without changing the network. Renumbering permutes
# rows: it leaves every singular value of the matrix alone, and ruins the digits:

# %%
smooth = matrices["smooth"][::4, ::4]
renumbered = smooth[torch.randperm(256, generator=generator)]
before, after = (tt_ranks(pair_digits(matrix, 8).reshape((4,) * 8), 0.01) for matrix in (smooth, renumbered))
assert same(torch.linalg.svdvals(renumbered), torch.linalg.svdvals(smooth))
assert sum(after) > 2 * sum(before)
print("smooth 256 x 256 matrix, 1 % error:", before, "\nits rows renumbered:               ", after)

# %% [markdown]
# So tensorization is a *hypothesis* about data: that digits separate, coarse from fine. Sampled smooth functions fulfil
# it. For a trained weight it must be tested, and this is how.

# %% [markdown]
# ## Exercises
#
# Replace `...` by your answer and run the cell: the check says whether it is right, and if not, on which input.
#
# ### 1. Warm-up: where does an entry go? (15 minutes)
#
# Give the column of entry `index` (a tuple) in TensorLy's mode-`mode` unfolding of a tensor of shape `shape`. From 0.


# %%
def tensor_unfold_column(shape, index, mode):
    return ...


check.tensor_unfold_column(tensor_unfold_column)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Leave out mode `mode`, in `shape` and in `index`. What remains is the position of an entry in a row-major tensor of
# order $Q-1$.
# </details>
# <details><summary>Solution</summary>
#
# In the [solutions](solutions/01_work_with_tensors.ipynb), section 1.
# </details>

# %% [markdown]
# ### 2. Core: the third convention (20 minutes)
#
# De Lathauwer et al. (2000) let the columns run over the other modes *cyclically*: $n+1, n+2, \dots, Q-1, 0, \dots, n-1$, the
# first of these slowest, the last fastest. Write this unfolding.


# %%
def tensor_unfold_cyclic(tensor, mode):
    return ...


check.tensor_unfold_cyclic(tensor_unfold_cyclic)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Which `permute` brings the modes into the order $n, n+1, \dots$? After it, one `reshape` suffices.
# </details>
# <details><summary>Solution</summary>
#
# In the [solutions](solutions/01_work_with_tensors.ipynb), section 2.
# </details>

# %% [markdown]
# ### 3. Core: an inner product without tensors (20 minutes)
#
# Two CP tensors of order 3 have factors `A`, `B`, `C` (rank $R$) and `D`, `E`, `F` (rank $S$, another one perhaps). Compute
# their inner product without forming either tensor.


# %%
def tensor_cp_inner(A, B, C, D, E, F):
    return ...


check.tensor_cp_inner(tensor_cp_inner)

# %% [markdown]
# <details><summary>Hint</summary>
#
# First for rank 1: $\langle \mathbf a \circ \mathbf b \circ \mathbf c,\; \mathbf d \circ \mathbf e \circ \mathbf f \rangle$ is a product of three inner products. Then sum over all pairs of
# terms.
# </details>
# <details><summary>Solution</summary>
#
# In the [solutions](solutions/01_work_with_tensors.ipynb), section 3.
# </details>

# %% [markdown]
# ### 4. Pencil and paper: zip a ladder up (20 minutes)
#
# Two trains of order $Q \ge 3$, all modes of size $N$, all inner lines of size $R$: cores $N \times R$, then $R \times N \times R$ each, then
# $R \times N$. Their inner product is computed from one end: contract the two first cores; then, train after train, the next core with
# what you have. Derive the number of MACs as a formula in $Q$, $N$ and $R$. Don't run a search.


# %%
def tensor_train_inner_macs(Q, N, R):
    return ...


check.tensor_train_inner_macs(tensor_train_inner_macs)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Draw the ladder for $Q = 4$ and rub out one tensor at a time. A step costs the product of the sizes of all lines at the two
# tensors involved. First step, two equal steps per inner rung, two different steps at the end. Section 8 found
# 6,025 MACs for $Q = 3$, $N = 20$, $R = 5$: starting at *both* ends saves a little there. You should get a little more.
# </details>
# <details><summary>Solution</summary>
#
# In the [solutions](solutions/01_work_with_tensors.ipynb), section 4.
# </details>

# %% [markdown]
# ### 5. Stretch: the rank of a paired cut (25 minutes)
#
# Row and column indices of `matrix` are split into digits of sizes `row_dims` and `col_dims`, most significant first, and paired
# as in section 9. Give the rank of the sequential unfolding whose rows are the first `k` pairs. Digits need not be binary,
# and row and column digits may have different sizes.


# %%
def tensor_paired_rank(matrix, row_dims, col_dims, k):
    return ...


check.tensor_paired_rank(tensor_paired_rank)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `matrix.reshape(*row_dims, *col_dims)` has all row digits first. `permute` brings them into pairs, a last `reshape` makes
# the matrix of the cut.
# </details>
# <details><summary>Solution</summary>
#
# In the [solutions](solutions/01_work_with_tensors.ipynb), section 5.
# </details>

# %% [markdown]
# ## Summary
#
# | you have | you write |
# | --- | --- |
# | a mode product | $\mathbf Y_{(n)} = \mathbf A \mathbf X_{(n)}$ |
# | all modes multiplied (Tucker) | $\mathbf X_{(n)} = \mathbf A_n \mathbf G_{(n)} (\bigotimes_{m \ne n} \mathbf A_m)^\top$, ascending in TensorLy's convention |
# | a sum of outer products (CP) | $\mathbf X_{(n)} = \mathbf A_n (\bigodot_{m \ne n} \mathbf A_m)^\top$, likewise |
# | a tall Khatri-Rao product | its Gram matrix, $\mathbf A^\top \mathbf A * \mathbf B^\top \mathbf B$ |
# | several tensors to contract | a graph, and a count before you run it |
#
# - Unfolding conventions differ by a permutation of columns. Ranks and left singular vectors don't see it; formulas with
#   $\otimes$ and $\odot$ do. Take the unfolding and the formula from the same source.
# - The order of contraction changes the cost by orders of magnitude, and never the result.
# - Tensorization makes smooth data tiny. A densely trained weight is not smooth in the digits of its hidden units; in the rows
#   and columns of an image it may be. Modes are a hypothesis about the data, and it can be tested.
#
# ## Further reading
#
# - T. G. Kolda and B. W. Bader, [*Tensor decompositions and applications*](https://doi.org/10.1137/07070111X), SIAM Review 51(3), 2009. Section 2 is the
#   column-major version of this lesson.
# - L. De Lathauwer, B. De Moor and J. Vandewalle, [*A multilinear singular value decomposition*](https://doi.org/10.1137/S0895479896305696), SIAM J. Matrix Anal. Appl.
#   21(4), 2000. The cyclic convention.
# - C. F. Van Loan, *The ubiquitous Kronecker product*, J. Comput. Appl. Math. 123, 2000.
# - I. V. Oseledets, [*Tensor-train decomposition*](https://doi.org/10.1137/090752286), SIAM J. Sci. Comput. 33(5), 2011.
# - B. N. Khoromskij, *O(d log N)-quantics approximation of N-d tensors in high-dimensional numerical modeling*, Constr.
#   Approx. 34, 2011.
# - I. V. Oseledets, *Constructive representation of functions in low-rank tensor formats*, Constr. Approx. 37, 2013.
# - C.-C. Lam, P. Sadayappan and R. Wenger, *On optimizing a class of multi-dimensional loops with reductions for parallel
#   execution*, Parallel Process. Lett. 7(2), 1997. The cost of contraction orders.
# - A. Novikov, D. Podoprikhin, A. Osokin and D. Vetrov, [*Tensorizing neural networks*](https://arxiv.org/abs/1509.06569), NeurIPS 2015.
# - Terms and symbols of all lessons: [GLOSSARY.md](GLOSSARY.md).

# %% [markdown]
# Previous: [00 start here](00_start_here.ipynb) · Next: [02 fit CPD](02_fit_cpd.ipynb) · [Solutions](solutions/01_work_with_tensors.ipynb) · [Glossary](GLOSSARY.md)
