# %% [markdown]
# # Solve the exercises of `02 fit cpd`
#
# Try them first. Each answer is followed by the same check as in the lesson, by why it is so, and by the mistake that is
# made most often.
#
# [Back to the lesson](../02_fit_cpd.ipynb) · [Glossary](../GLOSSARY.md)

# %% tags=["parameters"]
seed: int = 0  # of the random tensors that the answers are tried on

# %%
import math

import tensorly as tl
import torch
from tensorly.base import unfold
from tensorly.tenalg import khatri_rao

from tnlib import check

tl.set_backend("pytorch")
generator = torch.Generator().manual_seed(seed)


def random(*shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def dense(factors):
    modes = "ijklmn"[: len(factors)]
    return torch.einsum(",".join(mode + "r" for mode in modes) + "->" + modes, *factors)


# %% [markdown]
# ## 1. A norm without the tensor
#
# The square of a sum is a double sum: $\sum_{r, s} \lambda_r \lambda_s \langle \mathbf a_r \circ \mathbf b_r \circ
# \cdots, \mathbf a_s \circ \mathbf b_s \circ \cdots \rangle$. The inner product of two rank-one tensors is
# $(\mathbf a_r^\top \mathbf a_s)(\mathbf b_r^\top \mathbf b_s) \cdots$, which is entry $(r, s)$ of the Hadamard product
# of all Gram matrices. So the square is the quadratic form $\boldsymbol\lambda^\top (\mathbf A^\top \mathbf A *
# \mathbf B^\top \mathbf B * \cdots) \boldsymbol\lambda$.


# %%
def cpd_norm(weights, factors):
    gram = torch.stack([f.T @ f for f in factors]).prod(0)
    return (weights @ gram @ weights).sqrt()


check.cpd_norm(cpd_norm)

# %% [markdown]
# Compared with the norm of the tensor itself, where it can be formed:

# %%
weights, factors = random(3), [random(4, 3), random(5, 3), random(2, 3)]
tensor = dense([factors[0] * weights, *factors[1:]])
assert torch.isclose(cpd_norm(weights, factors), tensor.norm())
assert not torch.isclose(cpd_norm(weights, factors), weights.norm(), rtol=1e-3)
print("the formula gives the norm; the norm of the weights is another number")

# %% [markdown]
# The common mistake is to add squares, $\sqrt{\sum_r \lambda_r^2 \|\cdot\|^2}$, as if terms were orthogonal. The difference
# is the point of the lesson's section 6: terms of norm $n$ each can have a sum of norm $\sqrt 3$.

# %%
n, e = 50, torch.eye(2).double()
pair = torch.stack([e[0] + e[1] / n, e[0]], 1)
total = cpd_norm(torch.tensor([n, -n]).double(), [pair] * 3)
assert abs(float(total) - math.sqrt(3)) < 0.1
print(f"two terms of norm about {n}, and a sum of norm {float(total):.2f}")

# %% [markdown]
# ## 2. How many terms must there be?
#
# A term has $\sum_n I_n$ numbers. Each of its $Q$ vectors may be scaled if the product of the $Q$ scales is one, which
# leaves $Q - 1$ free scales that change nothing. So $R$ terms have $R\,(\sum_n I_n - Q + 1)$ free parameters, and there
# must be at least $\prod_n I_n$:
#
# $$R \ge \left\lceil \frac{\prod_n I_n}{\sum_n I_n - Q + 1} \right\rceil .$$
#
# The ceiling, because fewer parameters than entries cannot fill an open set of tensors. In whole numbers it is
# `-(-a // b)`, free of the rounding of floats.


# %%
def cpd_generic_rank(sizes):
    return -(-math.prod(sizes) // (sum(sizes) - len(sizes) + 1))


check.cpd_generic_rank(cpd_generic_rank)

# %% [markdown]
# Common mistakes: to take away $Q$ scales instead of $Q - 1$ (a term has a size, which matters), and to round down. The
# count is confirmed by the rank of the Jacobian, which is the number of directions in which the tensor can move:


# %%
def jacobian_rank(factors):
    parts = torch.autograd.functional.jacobian(lambda *f: dense(f), tuple(factors))
    return int(torch.linalg.matrix_rank(torch.cat([p.flatten(-2).flatten(0, -2) for p in parts], 1)))


sizes = (3, 4, 5)
R = cpd_generic_rank(sizes)
assert jacobian_rank([random(n, R - 1) for n in sizes]) == (R - 1) * (sum(sizes) - 2) < 60
assert jacobian_rank([random(n, R) for n in sizes]) == 60
print(f"{sizes}: {R - 1} terms cannot reach all directions, {R} terms can")

# %% [markdown]
# For a few shapes the count is too optimistic. The best known is $3 \times 3 \times 3$. Four terms
# have 28 parameters for 27 entries, but look:

# %%
R = cpd_generic_rank((3, 3, 3))
assert R == 4
assert jacobian_rank([random(3, 4) for _ in range(3)]) == 26
print("4 terms move a 3 x 3 x 3 tensor in only 26 of its 27 directions")

# %% [markdown]
# This is Strassen's exception: the generic rank is 5 (Strassen 1983). Counting gives a lower bound, never a proof.
#
# ## 3. Update a factor, but not too far
#
# Write the sum as $\|\mathbf X_{(n)} - \mathbf A \mathbf K^\top\|_F^2 + \mu \|\mathbf A - \mathbf A_n\|_F^2$ and set half its
# derivative to zero:
#
# $$(\mathbf A \mathbf K^\top - \mathbf X_{(n)})\, \mathbf K + \mu\, (\mathbf A - \mathbf A_n) = 0 \quad\Rightarrow\quad
# \mathbf A\, (\mathbf K^\top \mathbf K + \mu \mathbf I) = \mathbf X_{(n)} \mathbf K + \mu \mathbf A_n .$$


# %%
def cpd_proximal_update(tensor, factors, mode, mu):
    others = [f for n, f in enumerate(factors) if n != mode]
    gram = torch.stack([f.T @ f for f in others]).prod(0) + mu * torch.eye(factors[0].shape[1], dtype=tensor.dtype)
    right = unfold(tensor, mode) @ khatri_rao(others) + mu * factors[mode]
    return torch.linalg.solve(gram, right.T).T


check.cpd_proximal_update(cpd_proximal_update)

# %% [markdown]
# The common mistake is to add $\mu \mathbf I$ on one side only. That is the penalty of section 7, which pulls towards
# zero and *changes the solution*. The proximal update leaves an exact fit where it is, and yet can be computed when the Gram
# matrix is singular:

# %%
factors = [random(4, 2), random(5, 2), random(3, 2)]
assert torch.allclose(cpd_proximal_update(dense(factors), factors, 1, 5.0), factors[1])
factors[2][:, 1] = factors[2][:, 0]
factors[1][:, 1] = factors[1][:, 0]
assert torch.linalg.matrix_rank((factors[1].T @ factors[1]) * (factors[2].T @ factors[2])) == 1
assert cpd_proximal_update(random(4, 5, 3), factors, 0, 0.1).isfinite().all()
print("an exact fit stays where it is; equal columns do no harm")

# %% [markdown]
# ## 4. How far does Kruskal reach?
#
# Let $I \le J \le K$ and $R \ge 2$. A generic $I \times R$ matrix has k-rank $\min(I, R)$.
#
# - If $J \le R \le K$, the largest k-rank is $R$ itself, and the condition is $I + J + R \ge 2R + 2$, or
#   $R \le I + J - 2$. (For $2 \le R < J$ it always holds.)
# - If $R > K$, the condition is $I + J + K \ge 2R + 2$, or $R \le (I + J + K - 2) / 2$.
#
# The second case can only occur if $(I + J + K - 2) / 2 > K$, which says $I + J - 2 > K$. So the answer is the smaller
# one of the two bounds, if $I \ge 2$. If $I = 1$, the tensor is a matrix: $1 + 2R \ge 2R + 2$ never holds, and the answer is 1.


# %%
def cpd_kruskal_rank(sizes):
    I, J, K = sorted(sizes)
    return 1 if I == 1 else min(I + J - 2, (I + J + K - 2) // 2)


check.cpd_kruskal_rank(cpd_kruskal_rank)

# %% [markdown]
# The common mistake is to forget the cap $\min(\cdot, R)$: a very long third mode does not help beyond $I + J - 2$. The
# formula against the definition, for all small shapes:

# %%
for I in range(1, 8):
    for J in range(1, 8):
        for K in range(1, 16):
            holds = [R for R in range(2, 30) if min(I, R) + min(J, R) + min(K, R) >= 2 * R + 2]
            assert cpd_kruskal_rank((I, J, K)) == max(holds, default=1)
print("the formula agrees with the definition for 735 shapes")

# %% [markdown]
# ## 5. A CPD from eigenvectors
#
# Mix the slices with weights $\mathbf v$: $\mathbf M = \sum_k v_k \mathbf X_{::k} = \mathbf A\,
# \mathrm{diag}(\mathbf C^\top \mathbf v)\, \mathbf B^\top$, and with other weights $\mathbf w$ get $\mathbf N$. If $\mathbf A$
# and $\mathbf B$ have full column rank, and no entry of $\mathbf C^\top \mathbf w$ is zero, $\mathbf M \mathbf N^\dagger =
# \mathbf A\, \mathbf D\, \mathbf A^\dagger$ with diagonal $\mathbf D$, whose entries are the ratios of those of $\mathbf C^\top
# \mathbf v$ and $\mathbf C^\top \mathbf w$. As no two columns of $\mathbf C$ are parallel, random weights make them differ and none
# zero, with probability one. So the eigenvectors for the $R$ nonzero eigenvalues are the columns of $\mathbf A$, in some order
# and scale.
#
# Then $\mathbf A^\dagger \mathbf X_{(0)} = (\mathbf B \odot \mathbf C)^\top$. Its row $r$ is $\mathbf b_r \otimes \mathbf c_r$, which
# folds to the rank-one matrix $\mathbf b_r \mathbf c_r^\top$: one SVD for each term gives both.


# %%
def cpd_by_eigenvectors(tensor, rank):
    _, J, K = tensor.shape
    weights = torch.randn(K, 2, generator=torch.Generator().manual_seed(1), dtype=tensor.dtype)
    M, N = (tensor @ weights).unbind(-1)
    values, vectors = torch.linalg.eig(M @ torch.linalg.pinv(N, rtol=1e-10))
    A = vectors.real[:, values.abs().argsort(descending=True)[:rank]]
    rows = (torch.linalg.pinv(A) @ tensor.flatten(1)).reshape(rank, J, K)
    U, S, Vh = torch.linalg.svd(rows)
    return A, U[:, :, 0].T * S[:, 0], Vh[:, 0, :].T


check.cpd_by_eigenvectors(cpd_by_eigenvectors)

# %% [markdown]
# The common mistakes are to take $\mathbf B$ from a second eigenproblem, whose columns come in another order, and to
# forget the singular value, which carries the size of the term.
#
# On a tensor of the swamp, where ALS needs many sweeps, it needs none:

# %%
common = [torch.linalg.qr(random(n, 4)).Q for n in (9, 8, 7)]
swamp = dense([math.sqrt(0.95) * Q[:, :1] + math.sqrt(0.05) * Q[:, 1:] for Q in common])
direct = dense(cpd_by_eigenvectors(swamp, 3))
assert (direct - swamp).norm() < 1e-7 * swamp.norm()
print("exact, without a sweep")

# %% [markdown]
# Why does anybody use ALS, then? Add a little noise. The direct method uses two mixtures of slices and trusts them;
# least squares weighs all the data:

# %%
noisy = swamp + 1e-4 * swamp.norm() / math.sqrt(swamp.numel()) * random(*swamp.shape)
direct = cpd_by_eigenvectors(noisy, 3)
refined = list(direct)
for _ in range(50):
    for mode in range(3):
        refined[mode] = cpd_proximal_update(noisy, refined, mode, 1e-9)
assert (dense(refined) - noisy).norm() < (dense(direct) - noisy).norm()
print("ALS from the direct solution has a smaller error: the two work best together")
