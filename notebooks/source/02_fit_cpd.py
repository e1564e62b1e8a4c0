# %% [markdown]
# # Fit a CPD: write a tensor as few rank-one terms
#
# **What you'll do.** Write alternating least squares from its normal equations, compare it with a library, and then
# break it: with collinear factors, with a tensor that has no best approximation, with bad starts, with float32. Then
# mend what can be mended. At the end you separate the dyes of a mixture, and decompose a trained kernel.
#
# **What you'll learn.** What the rank of a tensor is, and why it behaves unlike that of a matrix; when the terms are
# unique, and how to test it; how many to take; why a fit can improve forever while its terms explode; what an ALS sweep costs.
#
# **What you need first.** Least squares, the SVD, `torch.einsum`; unfoldings and the Khatri-Rao product (notebook 01).
#
# **Time.** 190 minutes: 90 to read text and code, 100 for the exercises. Run All takes a minute or two.
# **Difficulty.** Medium.
#
# Previous: [01 work with tensors](01_work_with_tensors.ipynb) · Next: [03 truncate Tucker](03_truncate_tucker.ipynb) · [Solutions](solutions/02_fit_cpd.ipynb) · [Glossary](GLOSSARY.md)

# %% tags=["parameters"]
profile: str = "quick"  # "quick", or "full": more random tensors, longer runs, a larger rank of the kernel
seed: int = 0  # decides all random tensors and starting points
cosine: float = 0.9  # between any two columns of a factor, in the hardest run of the section on swamps; 0.85 to 0.97
noise: float = 0.02  # of the fluorescence measurement: its norm relative to the clean data's, at most 0.1
layer: str = "layer2.1.conv1"  # of ResNet-20, any 3x3 convolution but the first: whose kernel is decomposed

# %%
import math
from itertools import combinations, pairwise, permutations

import matplotlib.pyplot as plt
import pandas as pd
import tensorly as tl
import torch
from tensorly.base import unfold
from tensorly.cp_tensor import CPTensor
from tensorly.decomposition import parafac
from tensorly.tenalg import khatri_rao
from torch.overrides import TorchFunctionMode

from tnlib import check, decompose, measure, models, plots, study

plots.use_style()
assert 0.85 <= cosine <= 0.97, f"cosine must lie between 0.85 and 0.97, got {cosine}"
assert 0 < noise <= 0.1, f"noise must be positive and at most 0.1, got {noise}"
assert layer != "conv1", "layer must be another convolution than the first: that has three input channels"

# %%
draws, sweeps = {"quick": (400_000, 400), "full": (1_000_000, 3_000)}[profile]
kernel_ranks = {"quick": [2, 4, 8, 16, 32, 64], "full": [2, 4, 8, 16, 32, 64, 128]}[profile]
generator = torch.Generator().manual_seed(seed)


def random(*shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def close(x, y, tolerance=1e-10):
    return bool((x - y).norm() <= tolerance * y.norm())


# %% [markdown]
# ## 1. The model
#
# A **canonical polyadic decomposition** (CPD, also PARAFAC or CP) writes a tensor as a sum of $R$ *terms*, each the
# outer product of vectors. For order 3:
#
# $$\mathcal X = \sum_{r=1}^{R} \mathbf a_r \circ \mathbf b_r \circ \mathbf c_r ,\qquad
# x_{ijk} = \sum_{r=1}^{R} a_{ir} b_{jr} c_{kr} .$$
#
# The vectors are the columns of the *factors* $\mathbf A \in \mathbb R^{I \times R}$, $\mathbf B \in \mathbb R^{J
# \times R}$, $\mathbf C \in \mathbb R^{K \times R}$. Text and code number the modes from 0: $\mathbf A$ belongs to mode
# 0. The formula for the entries *is* an einsum, for any order:


# %%
def dense(factors):
    modes = "ijklmn"[: len(factors)]
    return torch.einsum(",".join(mode + "r" for mode in modes) + "->" + modes, *factors)


plots.einsum_graph("ir,jr,kr->ijk", names=("A", "B", "C")).set_title("One index joins all")
plt.show()

# %% [markdown]
# One index, $r$, joins all three factors; that is what the dot means. Nothing else joins them.

# %% tags=["nbval-check-output"]
A, B, C = factors = [random(7, 4), random(5, 4), random(3, 4)]
X = dense(factors)
terms = [torch.tensordot(torch.outer(A[:, r], B[:, r]), C[:, r], dims=0) for r in range(4)]
assert close(sum(terms), X)
print("the einsum is the sum of the outer products;", X.numel(), "entries from", sum(f.numel() for f in factors))

# %% [markdown]
# Two rewritings carry all algorithms. Frontal slices share the outer factors, and unfoldings are matrix products with
# the **Khatri-Rao product** $\odot$, which takes the Kronecker product column by column:
#
# $$\mathbf X_{::k} = \mathbf A \,\mathrm{diag}(\mathbf c_{k:})\, \mathbf B^\top , \qquad
# \mathbf X_{(0)} = \mathbf A (\mathbf B \odot \mathbf C)^\top ,\quad
# \mathbf X_{(1)} = \mathbf B (\mathbf A \odot \mathbf C)^\top ,\quad
# \mathbf X_{(2)} = \mathbf C (\mathbf A \odot \mathbf B)^\top .$$

# %% tags=["nbval-check-output"]
for k in range(3):
    assert close(A @ torch.diag(C[k]) @ B.T, X[:, :, k])
for mode in range(3):
    others = [f for n, f in enumerate(factors) if n != mode]
    assert close(factors[mode] @ khatri_rao(others).T, unfold(X, mode))
print("slices and unfoldings hold, in TensorLy's order of columns (the last mode runs fastest)")

# %% [markdown]
# Kolda and Bader (2009) let the *first* mode run fastest. Then the factors stand in reverse order. Both are right; a
# mixture of the two is the most common bug in this subject, and no shape error warns you.

# %% tags=["nbval-check-output"]
first_fastest = X.permute(0, 2, 1).reshape(7, -1)
assert close(A @ khatri_rao([C, B]).T, first_fastest)
assert not close(A @ khatri_rao([C, B]).T, unfold(X, 0), 0.1)
print("C, B fits the other unfolding, and has the same shape as B, C")

# %% [markdown]
# Two changes of the factors change nothing: the order of the terms, and scales within a term whose product is one.

# %% tags=["nbval-check-output"]
order, s, t = torch.randperm(4, generator=generator), random(4), random(4)
same = [(A * s)[:, order], (B * t)[:, order], (C / (s * t))[:, order]]
assert close(dense(same), X)
print("permuted and rescaled: the same tensor")

# %% [markdown]
# ## 2. Rank, and how strange it is
#
# The **rank** of $\mathcal X$ is the smallest $R$ for which a CPD is exact. Two bounds are easy. A CPD of $\mathcal X$
# factorizes each unfolding, so no unfolding has a larger matrix rank than $R$. And each of the $I J$ fibres of mode 2
# makes one term, so $R \le I J$, and likewise for the other pairs of modes.

# %% tags=["nbval-check-output"]
low = dense([random(7, 2), random(5, 2), random(3, 2)])
assert max(int(torch.linalg.matrix_rank(unfold(low, n))) for n in range(3)) <= 2
Y = random(4, 3, 5)
fibres = [torch.eye(4).double().repeat_interleave(3, 1), torch.eye(3).double().repeat(1, 4), Y.reshape(12, 5).T]
assert close(dense(fibres), Y)
print("rank 2 bounds all unfoldings by 2; any 4 x 3 x 5 tensor has a CPD with 12 terms")

# %% [markdown]
# **Predict, then reveal.** A $2 \times 2$ matrix has rank 2 at most. What is the largest rank of a $2 \times 2 \times
# 2$ tensor? (The bound says 4.)
#
# Take the tensor of complex multiplication: $(x_0 + i x_1)(y_0 + i y_1)$ has real part $x_0 y_0 - x_1 y_1$ and imaginary
# part $x_0 y_1 + x_1 y_0$. Write the coefficients of $x_i y_j$ into two slices. A CPD with $R$ terms is a recipe with $R$
# real multiplications. Gauss knew one with three:

# %% tags=["nbval-check-output"] jupyter={"outputs_hidden": true}
product = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [-1.0, 0.0]]], dtype=torch.float64)
x_or_y = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]], dtype=torch.float64)
gauss = [x_or_y, x_or_y, torch.tensor([[1.0, -1.0, 0.0], [-1.0, -1.0, 1.0]], dtype=torch.float64)]
assert close(dense(gauss), product)
print("three real multiplications: x0 y0, x1 y1, (x0 + x1)(y0 + y1)")

# %% [markdown]
# With *complex* factors two terms are enough, since $\mathrm{Re}\, z$ and $\mathrm{Im}\, z$ are combinations of $z$ and
# $\bar z$. So the rank depends on the field of numbers, which never happens for matrices.

# %% tags=["nbval-check-output"]
conjugates = torch.tensor([[1, 1], [1j, -1j]], dtype=torch.complex128)
complex_factors = [conjugates, conjugates, torch.tensor([[0.5, 0.5], [-0.5j, 0.5j]], dtype=torch.complex128)]
assert close(dense(complex_factors), product.to(torch.complex128))
print("two complex terms")

# %% [markdown]
# Why not two real terms? If $\mathcal X$ is $2 \times 2 \times 2$ of rank 2, then
# $\det(\mathbf X_{::0} + t\, \mathbf X_{::1}) = \det \mathbf A \det \mathbf B \prod_r (c_{0r} + t\, c_{1r})$ is a
# polynomial in $t$ with real roots. Its discriminant is Cayley's **hyperdeterminant**
#
# $$\Delta = \bigl(\det(\mathbf X_{::0} + \mathbf X_{::1}) - \det \mathbf X_{::0} - \det \mathbf X_{::1}\bigr)^2
# - 4 \det \mathbf X_{::0} \det \mathbf X_{::1} ,$$
#
# and for a sum of two terms it is a square: $\Delta = (\det \mathbf A \det \mathbf B \det \mathbf C)^2 \ge 0$.


# %% tags=["nbval-check-output"]
def hyperdeterminant(X):
    zero, one = torch.linalg.det(X[..., 0]), torch.linalg.det(X[..., 1])
    return (torch.linalg.det(X.sum(-1)) - zero - one) ** 2 - 4 * zero * one


square = [random(2, 2) for _ in range(3)]
assert torch.isclose(hyperdeterminant(dense(square)), torch.stack([f.det() for f in square]).prod() ** 2)
assert hyperdeterminant(product) < 0
print(f"a square for two terms, but {hyperdeterminant(product):.0f} for complex multiplication: its real rank is 3")

# %% [markdown]
# Let $\mathbf X_{::1}$ be invertible, as it is with probability one. If $\Delta > 0$, the matrix $\mathbf X_{::0}
# \mathbf X_{::1}^{-1} = \mathbf A\, \mathrm{diag}(c_{0r} / c_{1r})\, \mathbf A^{-1}$ has two different real eigenvalues, its
# eigenvectors are $\mathbf A$, and the rest follows: rank 2. If $\Delta < 0$, they are complex: the rank is more than 2. It is
# 3, and 3 is the answer to the question: no $2 \times 2 \times 2$ tensor has a larger rank (Kruskal 1989; Kolda and Bader 2009,
# section 3.1). A random tensor is of either kind, each with positive probability. Both 2 and 3 are **typical ranks**; random
# matrices have only one. ($\Delta = 0$ has probability zero, and comes in section 6.)

# %% tags=["nbval-check-output"]
cubes = random(1000, 2, 2, 2)
eigenvalues = torch.linalg.eigvals(cubes[..., 0] @ torch.linalg.inv(cubes[..., 1]))
assert torch.equal((eigenvalues.imag == 0).all(-1), hyperdeterminant(cubes) > 0)
print("1000 tensors: the eigenvalues are real exactly where the hyperdeterminant is positive")

# %% [markdown]
# For Gaussian entries the probability of rank 2 is $\pi / 4$ (Bergqvist 2013). Guess how many draws you need to tell it
# from 0.78, by five standard errors. Then:

# %% tags=["nbval-check-output"] jupyter={"outputs_hidden": true}
share = (hyperdeterminant(random(draws, 2, 2, 2)) > 0).double().mean().item()
half_width = 5 * math.sqrt(share * (1 - share) / draws)
needed = 25 * math.pi / 4 * (1 - math.pi / 4) / (math.pi / 4 - 0.78) ** 2
assert abs(share - math.pi / 4) < half_width < abs(share - 0.78)
print(f"about {round(needed, -3):,.0f} draws are needed; of {draws:,}, a share of {share:.3f} has rank 2:")
print(f"pi/4 = {math.pi / 4:.4f} lies within five standard errors, 0.78 does not")

# %% [markdown]
# So a rank can exceed every mode size. For shapes near a cube that is the rule: $R$ terms have $R\,(I + J + K - 2)$ free
# parameters once scales are taken away, and to fill $I J K$ entries takes at least $R = I J K / (I + J + K - 2)$ of them.
# You count this yourself in exercise 2. It is a lower bound. Where one mode is long, its unfolding needs more terms:

# %% tags=["nbval-check-output"]
for sizes in ((2, 2, 4), (3, 3, 9), (2, 3, 6), (4, 4)):
    counted = math.ceil(math.prod(sizes) / (sum(sizes) - len(sizes) + 1))
    needed = max(int(torch.linalg.matrix_rank(unfold(random(*sizes), n))) for n in range(len(sizes)))
    assert needed == max(sizes) > counted
    print(f"{sizes}: by counting {counted} terms, but an unfolding has rank {needed}")

# %% [markdown]
# Matrices are of this kind, and so are $1 \times 1$ convolutions. And do not hope for a fast algorithm that computes the
# rank: the problem is NP-hard (Håstad 1990 for rational numbers, Hillar and Lim 2013 for real ones).

# %% [markdown]
# ## 3. Alternating least squares
#
# To fit a CPD is to minimise $\| \mathcal X - [\![\mathbf A, \mathbf B, \mathbf C]\!] \|^2$, where the brackets stand for
# the sum of terms. In all factors at once that is hard. In one factor it is linear least squares:
#
# $$\min_{\mathbf A} \| \mathbf X_{(0)} - \mathbf A \mathbf K^\top \|_F^2 ,\quad \mathbf K = \mathbf B \odot \mathbf C
# \qquad\Rightarrow\qquad \mathbf A\, (\mathbf K^\top \mathbf K) = \mathbf X_{(0)} \mathbf K .$$
#
# $\mathbf K$ has $JK$ rows, but its Gram matrix needs none of them:
# $\mathbf K^\top \mathbf K = (\mathbf B^\top \mathbf B) * (\mathbf C^\top \mathbf C)$ with the entrywise (Hadamard)
# product, because inner products of outer products multiply.

# %% tags=["nbval-check-output"]
K = khatri_rao([B, C])
assert close((B.T @ B) * (C.T @ C), K.T @ K)
print("the Gram matrix of a Khatri-Rao product is the Hadamard product of the Gram matrices")

# %% [markdown]
# The right side $\mathbf X_{(0)} \mathbf K$ has a name, the *matricized tensor times Khatri-Rao product* (MTTKRP), and
# nearly all of the cost. One update, for any mode of any order (`mu` will be needed later, and is 0 until then):


# %%
def update(X, factors, mode, mu=0.0):
    others = [f for n, f in enumerate(factors) if n != mode]
    gram = torch.stack([f.T @ f for f in others]).prod(0)
    mttkrp = unfold(X, mode) @ khatri_rao(others)
    return torch.linalg.solve(gram + mu * torch.eye(len(gram), dtype=X.dtype), mttkrp.T).T


# %% [markdown]
# If that is the minimiser, the residual is orthogonal to everything that $\mathbf A$ can reach, and no other $\mathbf A$
# does better:

# %% tags=["nbval-check-output"]
noisy = X + 0.3 * random(*X.shape)
best = update(noisy, factors, 0)
assert ((unfold(noisy, 0) - best @ K.T) @ K).norm() < 1e-9
for size in (1e-3, 1e-1, 10.0):
    assert (unfold(noisy, 0) - (best + size * random(7, 4)) @ K.T).norm() > (unfold(noisy, 0) - best @ K.T).norm()
print("the residual is orthogonal to K, and three other factors are worse")

# %% [markdown]
# **Alternating least squares** (ALS; Carroll and Chang 1970, Harshman 1970) updates one factor after the other. A *sweep*
# is one round over the modes. We keep two numbers after each sweep: the relative error, and the norm of the largest term.


# %%
def error(X, factors):
    return float((unfold(X, 0) - factors[0] @ khatri_rao(factors[1:]).T).norm() / X.norm())


def term_norms(factors):
    return torch.stack([f.norm(dim=0) for f in factors]).prod(0)


def als(X, factors, sweeps, mu=0.0):
    factors, errors, largest = list(factors), [], []
    for _ in range(sweeps):
        for mode in range(X.ndim):
            factors[mode] = update(X, factors, mode, mu)
        errors.append(error(X, factors))
        largest.append(float(term_norms(factors).max()))
    return factors, errors, largest


# %% [markdown]
# Each update minimises, so the error cannot rise. It is bounded below by 0, so it converges. (That the *factors*
# converge does not follow. Hold on to the thought.)

# %% tags=["nbval-check-output"]
start = [random(n, 3) for n in X.shape]
fitted, errors, _ = als(noisy, start, 30)
assert all(after <= before + 1e-12 for before, after in pairwise(errors))
print("30 sweeps, and the error never rises")

# %% [markdown]
# Is it the same algorithm as everyone's? TensorLy's `parafac` from the same start, stopped after as many sweeps, is an
# oracle that knows nothing of our code:

# %% tags=["nbval-check-output"]
initial = CPTensor((torch.ones(3, dtype=torch.float64), [f.clone() for f in start]))
oracle = parafac(noisy, 3, n_iter_max=30, init=initial, tol=0, normalize_factors=False)
assert close(dense(fitted), tl.cp_to_tensor(oracle), 1e-8)
print("after 30 sweeps: the same tensor as TensorLy's")

# %% [markdown]
# `decompose.cp` of this workbook adds restarts, columns of norm one with weights $\lambda_r$ beside them (the norms of the
# terms), and a little damping (exercise 3). On a tensor of rank 3 it finds the exact fit, too:

# %% tags=["nbval-check-output"]
exact = dense([random(8, 3), random(7, 3), random(6, 3)])
found = decompose.cp(exact, 3, restarts=4, max_iter=500, tol=1e-10, seed=seed)
assert close(found.to_tensor(), exact, 1e-5)
print("decompose.cp recovers a tensor of rank 3")

# %% [markdown]
# ### What a sweep costs
#
# For order $Q$ the MTTKRP of one mode multiplies an $I_n \times \prod_{m \ne n} I_m$ matrix by one with $R$ columns:
# $R \prod_m I_m$ MACs, the same for every mode. The Gram matrices add $R^2 \sum_{m \ne n} I_m$, hence for a sweep of our
# `update`
#
# $$Q\, R \prod_m I_m + (Q - 1)\, R^2 \sum_m I_m ,$$
#
# plus $Q$ solves with an $R \times R$ matrix and the (elementwise) building of Khatri-Rao products. (An implementation that
# keeps its Gram matrices saves the factor $Q - 1$.) A formula is a claim; PyTorch lets you listen in on every call and
# count those that really happen:


# %%
class CountMACs(TorchFunctionMode):
    macs = 0

    def __torch_function__(self, function, types, arguments=(), options=None):
        if function is torch.Tensor.matmul:
            self.macs += arguments[0].numel() * arguments[1].shape[1]
        return function(*arguments, **(options or {}))


# %% tags=["nbval-check-output"]
T4, start4 = random(6, 5, 3, 4), [random(n, 7) for n in (6, 5, 3, 4)]
with CountMACs() as counter:
    for mode in range(4):
        update(T4, start4, mode)
assert counter.macs == 4 * 7 * T4.numel() + 3 * 7**2 * sum(T4.shape)
print(f"{counter.macs:,} MACs in all matrix products of a sweep, as by the formula")

# %% [markdown]
# Count, then time. The last column is not constant: small products are dominated by overhead, and building $\mathbf K$
# moves memory without a single MAC in the formula.

# %% tags=["nbval-ignore-output"]
kernel_like, rows = random(64, 64, 9), []
for R in (4, 16, 64):
    guess = [random(n, R) for n in kernel_like.shape]
    ms = measure.latency(update, kernel_like, guess, 0, rounds=10).median
    rows.append({"R": R, "million MACs": kernel_like.numel() * R / 1e6, "ms": ms})
pd.DataFrame(rows).assign(gmacs_per_s=lambda t: t["million MACs"] / t["ms"]).round(2)

# %% [markdown]
# ## 4. Uniqueness
#
# A matrix $\mathbf A \mathbf B^\top$ is also $(\mathbf A \mathbf M)(\mathbf B \mathbf M^{-\top})^\top$, for *every*
# invertible $\mathbf M$. That is why the SVD must impose orthogonality, and why its vectors need not mean anything. From
# order 3 on, factors are usually unique if $R$ is small enough, up to the order and the scales of section 1. (With more
# parameters than entries, as in the 12 terms of section 2, they cannot be.) To see it, compare terms by their
# **congruence**, the product of the cosines in all modes. It is 1 for equal terms, whatever their scales.


# %%
def congruence(first, second):
    cosines = [(f / f.norm(dim=0)).T @ (g / g.norm(dim=0)) for f, g in zip(first, second, strict=True)]
    return torch.stack(cosines).prod(0)


def least_congruence(first, second):
    return float(congruence(first, second).max(1).values.min())


# %% tags=["nbval-check-output"]
assert close(congruence(same, factors).max(1).values, torch.ones(4).double())
M = random(4, 4)
assert close((A @ M) @ (B @ torch.linalg.inv(M).T).T, A @ B.T, 1e-8)
print("reordered, rescaled factors have congruence 1; matrices have other factors for every M")

# %% [markdown]
# **Kruskal's theorem** (1977) needs the *k-rank* of a matrix: the largest $k$ such that *every* $k$ columns are linearly
# independent. (For the rank, *some* set is enough. The k-rank is also called Kruskal rank, a word that some tutorials use for
# $R$.) If
#
# $$k_{\mathbf A} + k_{\mathbf B} + k_{\mathbf C} \ge 2 R + 2 ,$$
#
# then the CPD is unique up to order and scales, and $R$ is the rank. The k-rank by brute force:


# %% tags=["nbval-check-output"]
def k_rank(matrix):
    for k in range(matrix.shape[1]):
        subsets = torch.stack([matrix[:, list(c)] for c in combinations(range(matrix.shape[1]), k + 1)])
        if (torch.linalg.matrix_rank(subsets) <= k).any():
            return k
    return matrix.shape[1]


twins = torch.cat([random(5, 3), random(5, 1)], 1)[:, [0, 1, 2, 3, 3]]
assert (k_rank(random(4, 6)), int(torch.linalg.matrix_rank(twins)), k_rank(twins)) == (4, 4, 1)
print("generic 4 x 6: k-rank 4. Two equal columns: rank 4, k-rank 1")

# %% [markdown]
# When the condition holds, two exact fits from unrelated starts must give the *same factors*. They do (the columns here are
# kept well apart, so that the fits are easy; section 5 makes them hard):

# %% tags=["nbval-check-output"]
mixed = torch.eye(4).double() + 0.4
truth = [torch.linalg.qr(random(n, 4)).Q @ mixed for n in (6, 5, 4)]
assert sum(map(k_rank, truth)) >= 2 * 4 + 2
for other_seed in (seed + 100, seed + 200):
    fit = decompose.cp(dense(truth), 4, restarts=6, max_iter=200, seed=other_seed)
    assert least_congruence(truth, fit.factors) > 0.999
print("k-ranks 4 + 4 + 4 >= 10, and both fits find the four terms that the tensor was built from")

# %% [markdown]
# Kernels have order 4. For order $Q$ the condition reads $\sum_n k_{\mathbf A_n} \ge 2R + Q - 1$ (Sidiropoulos and Bro 2000).
# Here it holds with equality, though $R$ exceeds every size. (The fit needs the method of section 5.)

# %% tags=["nbval-check-output"]
truth = [random(n, 6) for n in (5, 4, 3, 3)]
assert sum(map(k_rank, truth)) == 15 == 2 * 6 + 4 - 1
for other_seed in (seed + 100, seed + 200):
    fit = decompose.cp(dense(truth), 6, method="nls", restarts=6, max_iter=200, seed=other_seed)
    assert least_congruence(truth, fit.factors) > 0.999
reach = max(R for R in range(2, 200) if 2 * min(64, R) + 3 + 3 >= 2 * R + 4 - 1)
print(f"order 4: both fits find all six terms. Generic 64 x 64 x 3 x 3: the condition holds up to R = {reach}")

# %% [markdown]
# Does it matter to a layer? No: that needs the product of the factors, not the one true set. (Sections 6 and 11 show what does
# matter: that the terms stay small.)
#
# **Predict, then reveal.** Make two columns of $\mathbf A$ equal, so that $k_{\mathbf A} = 1$. The two terms add up to
# $\mathbf a \circ (\mathbf b_1 \mathbf c_1^\top + \mathbf b_2 \mathbf c_2^\top)$. What freedom has come back? Write down a second
# CPD before you open the next line.
#
# <details><summary>A whole family of them</summary>
#
# The bracket is a matrix of rank 2, and this section began with the freedom of such. For every number $t$,
#
# $$\mathbf b_1 \mathbf c_1^\top + \mathbf b_2 \mathbf c_2^\top
# = (\mathbf b_1 + t\, \mathbf b_2)\, \mathbf c_1^\top + \mathbf b_2\, (\mathbf c_2 - t\, \mathbf c_1)^\top .$$
#
# </details>


# %% tags=["nbval-check-output"] jupyter={"outputs_hidden": true}
def family(t):
    A, B, C = (f.clone() for f in one)
    B[:, 0] += t * B[:, 1]
    C[:, 1] -= t * C[:, 0]
    return [A, B, C]


one = [random(6, 2)[:, [0, 0, 1]], random(5, 3), random(4, 3)]
assert sum(map(k_rank, one)) == 7
for t in (-2.0, 0.5, 1.0):
    assert close(dense(family(t)), dense(one))
    assert least_congruence(one, family(t)) < 0.99
print("k-ranks 1 + 3 + 3 < 8: for each t the same tensor, and terms that differ in more than order and scale")

# %% [markdown]
# Kruskal's condition is sufficient. For $R = 2$ and $3$ it is necessary, too, for larger $R$ it is not (ten Berge and
# Sidiropoulos 2002). A cheaper test looks near one solution only: move the factors a little, and count the directions in
# which the tensor moves, the rank of the Jacobian. At most it is $R\,(I + J + K - 2)$, because of the scales. If it is, the
# solution is *locally* unique. Others far away are not excluded: generic $4 \times 4 \times 4$ tensors of rank 6 pass the
# test, and have two CPDs (Chiantini and Ottaviani 2012). A smaller rank is a suspicion, no proof. Where a family as above
# exists, the rank must be smaller, by at least one for each independent parameter:


# %% tags=["nbval-check-output"]
def jacobian_rank(factors):
    parts = torch.autograd.functional.jacobian(lambda *f: dense(f), tuple(factors))
    return int(torch.linalg.matrix_rank(torch.cat([p.flatten(-2).flatten(0, -2) for p in parts], 1)))


beyond = [random(4, 7), random(4, 7), random(7, 7)]
assert sum(map(k_rank, beyond)) < 2 * 7 + 2
assert jacobian_rank(beyond) == 7 * (4 + 4 + 7 - 2)
assert jacobian_rank(one) == 3 * (6 + 5 + 4 - 2) - 2
assert jacobian_rank([random(6, 3), random(5, 3)]) == 3 * (6 + 5 - 1) - 3 * 2
print("locally unique beyond Kruskal. Equal columns cost two directions: t, and the same with 1 and 2 exchanged.")
print("A matrix lacks R (R - 1) of them: M without its scales")

# %% [markdown]
# ## 5. Swamps (optional)
#
# Uniqueness does not make a fit easy. Let all columns of each factor enclose the same angle, with cosine $c$. The
# off-diagonal entries of the Gram matrices are $c$, those of their Hadamard product $c^2$, and the normal equations have
# the condition number $(1 + (R - 1)\, c^2) / (1 - c^2)$.


# %% tags=["nbval-check-output"]
def with_cosine(n, R, c):
    Q = torch.linalg.qr(random(n, R + 1)).Q
    return math.sqrt(c) * Q[:, :1] + math.sqrt(1 - c) * Q[:, 1:]


for c in (0.3, 0.6, cosine):
    F, G = with_cosine(9, 3, c), with_cosine(8, 3, c)
    expected = torch.tensor((1 + 2 * c**2) / (1 - c**2), dtype=torch.float64)
    assert torch.isclose(torch.linalg.cond((F.T @ F) * (G.T @ G)), expected)
print("the condition number of the normal equations is as derived, for three cosines")

# %% [markdown]
# That is no catastrophe: for $c = 0.9$ it is below 20. So does ALS care? Three tensors of exact rank 3, the same start
# for all of them:

# %%
cosines = (0.3, 0.6, cosine)
begin, swamps = [random(n, 3) for n in (9, 8, 7)], {}
for c in cosines:
    swamp = dense([with_cosine(n, 3, c) for n in (9, 8, 7)])
    swamps[c] = als(swamp, begin, sweeps)[1]

# %%
fig, ax = plt.subplots()
for c, curve in swamps.items():
    shown = [max(e, 1e-15) for e in curve]
    ax.semilogy(range(1, len(shown) + 1), shown, label=f"cosine {c:g}")
ax.set(xlabel="sweeps", ylabel="relative error", xlim=(0, 1.25 * sweeps), ylim=(1e-16, 2))
ax.set_title("Collinear factors put ALS in a swamp")
plots.label_lines(ax)
plt.show()

# %% tags=["nbval-check-output"]
needed = {c: next((n for n, e in enumerate(curve, 1) if e < 1e-6), sweeps + 1) for c, curve in swamps.items()}
assert max(needed[0.3], needed[0.6]) < needed[cosine]
slow = {c: sum(after > 0.95 * before > 1e-10 for before, after in pairwise(curve)) for c, curve in swamps.items()}
assert slow[cosine] > 3 * max(1, slow[0.3])
print("an error of 1e-6 takes most sweeps in the swamp, and there are many that gain less than five percent")

# %% [markdown]
# This is called a **swamp** (Mitchell and Burdick 1994): sweep after sweep, hardly anything happens. The trouble is not one solve, but that ALS moves along coordinate directions in a narrow curved valley. *A rule
# that stops when progress is small stops in the swamp*; section 9 shows it.
#
# ### Out of the swamp: damped Gauss-Newton
#
# Coordinate directions are the trouble, so move all factors at once. Collect all entries of all factors in one vector
# $\boldsymbol\theta$, and let $\mathbf r(\boldsymbol\theta)$ be the residual, the vectorized model minus the tensor, with
# Jacobian $\mathbf J$. *Gauss-Newton* pretends that $\mathbf r$ is linear and solves the least squares problem
# $\min_{\mathbf d} \|\mathbf r + \mathbf J \mathbf d\|$ for a step $\mathbf d$. But $\mathbf J$ is singular: scales move
# nothing. So the step is *damped* (Levenberg 1944, Marquardt 1963),
#
# $$(\mathbf J^\top \mathbf J + \lambda\, \mathbf I)\, \mathbf d = -\mathbf J^\top \mathbf r ,$$
#
# with less damping after a step that lowers the error, and more after one that does not (which is taken back). All of it
# is called *non-linear least squares*, NLS. The Jacobian is no mystery: the model is linear in each factor, so the column of
# the entry $a_{pr}$ is the tensor $\mathbf e_p \circ \mathbf b_r \circ \mathbf c_r$.


# %%
def jacobian(factors):
    (A, B, C), eyes = factors, [torch.eye(len(f), dtype=f.dtype) for f in factors]
    parts = [
        torch.einsum("ip,jr,kr->ijkpr", eyes[0], B, C),
        torch.einsum("ir,jp,kr->ijkpr", A, eyes[1], C),
        torch.einsum("ir,jr,kp->ijkpr", A, B, eyes[2]),
    ]
    return torch.cat([part.flatten(3).flatten(0, 2) for part in parts], 1)


automatic = torch.autograd.functional.jacobian(lambda *f: dense(f).flatten(), tuple(start))
assert close(jacobian(start), torch.cat([part.flatten(1) for part in automatic], 1))
print("the columns of J are rank-one tensors, as automatic differentiation finds")


# %%
def nls(X, factors, steps, damping=1.0):
    theta, ends = torch.cat([f.flatten() for f in factors]), [f.numel() for f in factors]

    def split(theta):
        return [part.reshape(f.shape) for part, f in zip(theta.split(ends), factors, strict=True)]

    def residual(theta):
        return (dense(split(theta)) - X).flatten()

    errors = []
    for _ in range(steps):
        J, r = jacobian(split(theta)), residual(theta)
        step = torch.linalg.solve(J.T @ J + damping * torch.eye(len(theta)).double(), -J.T @ r)
        better = residual(theta + step).norm() < r.norm()
        theta, damping = (theta + step, damping / 3) if better else (theta, damping * 5)
        errors.append(float(residual(theta).norm() / X.norm()))
    return split(theta), errors


# %% tags=["nbval-check-output"]
hardest = dense([with_cosine(n, 3, cosine) for n in (9, 8, 7)])
two_starts = [begin, [f.flip(0) for f in begin]]
by_als = min(als(hardest, start_, 100)[1][-1] for start_ in two_starts)
by_nls = min(nls(hardest, start_, 100)[1][-1] for start_ in two_starts)
assert by_nls < 1e-10 < 1e-6 < by_als
print("the better of two starts: 100 steps of NLS leave the swamp for good, 100 sweeps of ALS do not")

# %% [markdown]
# (A bad start can trap either method; hence two.) A step costs more than a sweep: $\mathbf J$ has a column for each of the
# $R\,(I + J + K)$ parameters. The library does not form it, since $\mathbf J^\top \mathbf J$ consists of Gram matrices and
# their products (Tomasi and Bro 2006); `decompose.cp(..., method="nls")` uses that. Lebedev et al. (2015) compress convolutions by NLS, and report that it beats
# fits term by term; lesson 05 polishes its fits with it.
#
# ## 6. No best approximation
#
# The matrices of rank at most $R$ form a closed set: a best approximation exists, and Eckart-Young gives it. For tensors
# this fails. Take orthonormal $\mathbf a, \mathbf b$ and
#
# $$\mathcal W = \mathbf a \circ \mathbf a \circ \mathbf b + \mathbf a \circ \mathbf b \circ \mathbf a
# + \mathbf b \circ \mathbf a \circ \mathbf a .$$
#
# It has rank 3. In the basis $\mathbf a, \mathbf b$ it is $2 \times 2 \times 2$ with $\Delta = 0$, and
# $\mathbf X_{::0}^{-1} \mathbf X_{::1}$ would be diagonalizable if two terms were enough. But it is nilpotent:

# %% tags=["nbval-check-output"]
W2 = torch.zeros(2, 2, 2).double()
W2[0, 0, 1] = W2[0, 1, 0] = W2[1, 0, 0] = 1
N = torch.linalg.inv(W2[:, :, 0]) @ W2[:, :, 1]
assert N.norm() > 0
assert (N @ N).norm() == 0
assert hyperdeterminant(W2) == 0
print("not zero, but its square is: no basis of eigenvectors, hence no two terms")

# %% [markdown]
# Yet two terms come as close as you like. Look at $\mathcal T(t) = (\mathbf a + t\,\mathbf b)^{\circ 3}$, a curve of
# *rank-one* tensors. $\mathcal W$ is its derivative at $t = 0$, and a derivative is a limit of difference quotients, each
# of which has *two* terms. With $t = 1/n$, the forward and the central difference miss $\mathcal W$ by
#
# $$\bigl\| n\,\mathcal T(\tfrac1n) - n\,\mathcal T(0) - \mathcal W \bigr\|^2 = \frac 3{n^2} + \frac 1{n^4} , \qquad
# \bigl\| \tfrac n2 \mathcal T(\tfrac1n) - \tfrac n2 \mathcal T(-\tfrac1n) - \mathcal W \bigr\| = \frac 1{n^2} .$$

# %% tags=["nbval-check-output"]
a, b = torch.linalg.qr(random(5, 2)).Q.T


def cube(t):
    return torch.einsum("i,j,k->ijk", *[a + t * b] * 3)


W = torch.autograd.functional.jacobian(cube, torch.zeros(()).double())
assert close(W, dense([torch.stack(v, 1) for v in ((a, a, b), (a, b, a), (b, a, a))]))
for n in (1, 3, 10, 100):
    forward, central = n * (cube(1 / n) - cube(0)), n / 2 * (cube(1 / n) - cube(-1 / n))
    assert math.isclose((forward - W).norm(), math.sqrt(3 / n**2 + 1 / n**4), rel_tol=1e-8)
    assert math.isclose((central - W).norm(), 1 / n**2, rel_tol=1e-8)
print("errors O(1/n) and O(1/n^2), exactly as stated")

# %% [markdown]
# The smallest number of terms that comes arbitrarily close is the **border rank**: 2 for $\mathcal W$, one less than its
# rank. The price stands in front of the brackets. The terms have norms of about $n$ (or $n / 2$), with opposite signs;
# nearly all of them cancels. The infimum of the error is 0 and is not attained (de Silva and Lim 2008).
#
# **Predict, then reveal.** What does ALS with $R = 2$ do on $\mathcal W$?

# %% jupyter={"outputs_hidden": true}
two = [random(5, 2) for _ in range(3)]
diverging, errors, largest = als(W, two, 2 * sweeps)
fig, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharex=True)
axes[0].loglog(range(1, 2 * sweeps + 1), errors, color="#D55E00")
axes[0].set(xlabel="sweeps", ylabel="relative error", title="The error falls and falls ...")
axes[1].loglog(range(1, 2 * sweeps + 1), largest, color="#0072B2")
law = [math.sqrt(1 / (4 * math.sqrt(3)) / e) for e in errors]
axes[1].loglog(range(1, 2 * sweeps + 1), law, color="0.5", linestyle=":")
axes[1].text(
    0.97,
    0.25,
    "dotted: of the central\ndifference with this error",
    color="0.4",
    ha="right",
    transform=axes[1].transAxes,
)
axes[1].set(xlabel="sweeps", ylabel="norm of the largest term", title="... while the terms grow")
plt.show()

# %% tags=["nbval-check-output"]
opposite = float(congruence(diverging, diverging)[0, 1])
assert errors[-1] < errors[sweeps] < errors[sweeps // 4]
assert largest[-1] > largest[sweeps] > largest[sweeps // 4]
assert math.isclose(errors[-1] * largest[-1] ** 2, 1 / (4 * math.sqrt(3)), rel_tol=0.1)
assert opposite < -0.8
print("the error falls as the inverse square of the terms' norm grows, as it does for the central difference")

# %% [markdown]
# This is **degeneracy**. It is no defect of ALS: any method that minimises the error must follow. And it is not rare: for
# real tensors of some shapes it happens with positive probability (de Silva and Lim 2008). Section 11 meets it in a trained
# kernel, and shows what low precision does then: it rounds the terms, not their small sum.
#
# ## 7. Keep the terms bounded
#
# Pay for size. For some $\mu > 0$ minimise
#
# $$f = \| \mathcal X - [\![\mathbf A, \mathbf B, \mathbf C]\!] \|^2
# + \mu \left( \|\mathbf A\|_F^2 + \|\mathbf B\|_F^2 + \|\mathbf C\|_F^2 \right) .$$
#
# Setting the derivative to zero adds $\mu \mathbf I$ to the Gram matrix, which is the `mu` in `update`. Two facts follow
# at once. $f$ tends to infinity with the factors, so a minimum *exists*. And no term can be large: by the inequality of
# means $\|\mathbf a_r\| \|\mathbf b_r\| \|\mathbf c_r\| \le \bigl(f / (3\mu)\bigr)^{3/2}$.


# %% tags=["nbval-check-output"]
def objective(X, factors, mu):
    return float((X - dense(factors)).square().sum() + mu * sum(f.square().sum() for f in factors))


mu, ridge = 0.01, two
values = [objective(W, ridge, mu)]
for _ in range(200):
    ridge = als(W, ridge, 1, mu)[0]
    values.append(objective(W, ridge, mu))
    assert float(term_norms(ridge).max()) <= (values[-1] / (3 * mu)) ** 1.5
assert all(after <= before + 1e-12 for before, after in pairwise(values))
print("the penalized objective never rises, and bounds the norms of the terms")

# %% [markdown]
# But a minimum need not be *the* minimum. A term that is zero stays zero: what it could gain is a product of three small
# numbers, and what it costs is a sum of squares. So for every $\mu > 0$ a lost term is a trap: with the others settled, a
# local minimum.

# %% tags=["nbval-check-output"]
mu = 0.03
lost = [f * torch.tensor([1.0, 0.0]) for f in two]
lost = als(W, lost, sweeps, mu)[0]
small = als(W, [f + 1e-3 * random(5, 2) for f in lost], sweeps, mu)[0]
assert term_norms(lost).min() == 0
assert term_norms(small).min() < 1e-12 < 1 < term_norms(small).max()
print("a lost term does not come back, not even after a push")

# %% [markdown]
# The remedy is that of section 8: start small, take several starts, and keep the one with the least $f$.


# %%
def settle(mu, starts=4):
    ends = [als(W, [0.3 * random(5, 2) for _ in range(3)], sweeps, mu) for _ in range(starts)]
    return min(ends, key=lambda end: objective(W, end[0], mu))


# %% tags=["nbval-check-output"]
settled = settle(mu)[0]
norms = torch.stack([f.norm(dim=0) for f in settled])
assert objective(W, settled, mu) < 0.5 * objective(W, lost, mu)
assert norms.min() > 0.5
assert (norms - norms.mean(0)).abs().max() < 1e-3
print("both terms are there, f is lower, and each term's vectors have the same norm in all modes")

# %% [markdown]
# (Equal norms are no accident: at a stationary point a rescaling with product one, which leaves the error alone, must not
# make the penalty smaller.) Now the trade-off is yours. Each $\mu$ ends at a different point; without penalty ALS slides
# down to the right forever, close to the line of the central difference.

# %%
penalties, settled = (0.1, 0.03, 0.01, 0.003), []
for mu in penalties:
    settled.append(settle(mu))
    print(f"mu = {mu:g}: the best of four starts")
assert all(term_norms(end[0]).min() > 0.1 for end in settled)
ends = [(errors_[-1], largest_[-1]) for _, errors_, largest_ in settled]
n = torch.logspace(0, 1.2, 30).double()
heights = {"forward difference": (n * (1 + n**-2) ** 1.5, (n**-2 + n**-4 / 3).sqrt())}
heights["central difference"] = n / 2 * (1 + n**-2) ** 1.5, n**-2 / math.sqrt(3)

# %%
fig, ax = plt.subplots()
for (name, (x, y)), style in zip(heights.items(), (":", "--"), strict=True):
    ax.loglog(x[n > 1.5], y[n > 1.5], style, color="0.5", label=name)
ax.loglog(largest[50:], errors[50:], color="#D55E00", label="ALS, no penalty")
for mu, (e, size) in zip(penalties, ends, strict=True):
    ax.plot(size, e, "o", color="#0072B2")
    ax.annotate(rf"$\mu$ = {mu:g}", (size, e), (-6, -12), textcoords="offset points", ha="right", color="#0072B2")
ax.set(xlabel="norm of the largest term", ylabel="relative error", xlim=(0.6, 40), ylim=(1e-3, 2))
ax.set_title("A penalty stops the slide where you want it")
plots.label_lines(ax)
plt.show()

# %% tags=["nbval-check-output"]
assert all(size < largest[-1] and e > errors[-1] for e, size in ends)
assert all(e > lower and size < longer for (e, size), (lower, longer) in pairwise(ends))
print("the stronger the penalty, the smaller the terms and the larger the error: that is what they cost")

# %% [markdown]
# Other ways to the same end: bound the norm explicitly, or minimise the norm of the terms *at a given error* (the
# error-preserving correction of Phan et al. 2019), or constrain the factors to be non-negative: then terms cannot
# cancel and a best approximation exists (Lim and Comon 2009).
#
# ## 8. Where to start
#
# The error of ALS converges; its factors need not (section 6). Where they do and every update has one solution, the end is a
# stationary point, and which one depends on the start. Two recipes: *random* factors; or *SVD*, the leading left singular
# vectors of each unfolding. To measure success rates we need many runs, so run many at once: `...` in an einsum carries any
# number of tensors along.


# %%
def als_batch(X, A, B, C, sweeps):
    def solve(F, G, right):
        gram = (F.mT @ F) * (G.mT @ G) + 1e-12 * torch.eye(F.shape[-1]).double()
        return torch.linalg.solve(gram, right).mT

    for _ in range(sweeps):
        A = solve(B, C, torch.einsum("...ijk,...jr,...kr->...ri", X, B, C))
        B = solve(A, C, torch.einsum("...ijk,...ir,...kr->...rj", X, A, C))
        C = solve(A, B, torch.einsum("...ijk,...ir,...jr->...rk", X, A, B))
    return A, B, C


def batch_error(X, A, B, C):
    return (X - torch.einsum("...ir,...jr,...kr->...ijk", A, B, C)).flatten(-3).norm(dim=-1).clamp(min=1e-16)


# %% tags=["nbval-check-output"]
some = dense([random(6, 2), random(5, 2), random(4, 2)]) + 0.1 * random(6, 5, 4)
alone = [random(n, 2) for n in (6, 5, 4)]
batched = batch_error(some[None], *als_batch(some[None], *(f[None] for f in alone), 10))
assert math.isclose(float(batched[0] / some.norm()), als(some, alone, 10)[1][-1], rel_tol=1e-6)
print("the batched loop does what als does")

# %% [markdown]
# Tensors of shape $6 \times 5 \times 4$ and exact rank 5, 60 of them, each from five random starts and one SVD start.
# The last mode has only four singular vectors; a random column fills up. Five starts are five times the work of one, so
# every run is looked at twice: after 200 sweeps, and after 1000. *One start with 1000 sweeps costs as much as five with 200.*
# Which is better spent?

# %%
count, R = 60, 5
hidden = [random(count, n, R) for n in (6, 5, 4)]
many = torch.einsum("bir,bjr,bkr->bijk", *hidden)
many = many / many.flatten(1).norm(dim=1)[:, None, None, None]
svd_start = []
for mode, n in enumerate((6, 5, 4)):
    U = torch.linalg.svd(many.movedim(mode + 1, 1).flatten(2), full_matrices=False).U[:, :, :R]
    svd_start.append(torch.cat([U, random(count, n, R - U.shape[-1])], -1))

# %% tags=["nbval-ignore-output"]
random_start = [random(5, count, n, R) for n in (6, 5, 4)]
five, errors_after = many.expand(5, -1, -1, -1, -1), {}
runs = {"random": (five, random_start), "SVD": (many, svd_start)}
for name, (tensors, factors) in runs.items():
    for done, more in ((200, 200), (1000, 800)):
        factors = als_batch(tensors, *factors, more)
        errors_after[name, done] = batch_error(tensors, *factors)
        print(f"{name} starts: {done} sweeps done")

# %% tags=["nbval-ignore-output"]
results = {}
for done in (200, 1000):
    results[f"one start, {done} sweeps"] = errors_after["random", done]
    results[f"best of five, {done} sweeps"] = errors_after["random", done].min(0).values
    results[f"SVD start, {done} sweeps"] = errors_after["SVD", done]
rate = {name: (r < 1e-3).double().mean().item() for name, r in results.items()}
pd.Series(rate, name="success rate").to_frame().round(2)

# %%
fig, axes = plt.subplots(1, 2, figsize=(10, 3.8), sharey=True)
colors = {"one": "#D55E00", "best": "#0072B2", "SVD": "0.4"}
for name, r in results.items():
    ordered, (label, done) = r.flatten().sort().values, name.split(", ")
    share = torch.arange(1, len(ordered) + 1) / len(ordered)
    ax = axes[int("1000" in done)]
    ax.semilogy(share, ordered, color=colors[name.split()[0]], label=label)
    if name == "best of five, 200 sweeps":
        axes[1].semilogy(share, ordered, ":", color=colors["best"], label="five x 200 sweeps")
for ax in axes:
    ax.axhline(1e-3, color="0.6", linewidth=1, linestyle="--")
    ax.set(xlabel="fraction of runs", xlim=(0, 1.6), ylim=(1e-12, 1e2), xticks=(0, 0.25, 0.5, 0.75, 1))
    plots.label_lines(ax, gap=0.08)
axes[0].set(title="After 200 sweeps many runs are unfinished", ylabel="relative error")
axes[1].set_title("After 1000, restarts save most of the rest")
plt.show()

# %% [markdown]
# (Dashed: where a run counts as a success. Dotted: five starts for the work of one start with 1000 sweeps.)

# %% tags=["nbval-check-output"]
failed = errors_after["random", 200] >= 1e-3
freed = (errors_after["random", 1000][failed] < 1e-3).double().mean().item()
assert 0 < rate["one start, 200 sweeps"] < rate["one start, 1000 sweeps"] < 1
assert 1 - rate["best of five, 1000 sweeps"] < 0.5 * (1 - rate["one start, 1000 sweeps"])
assert freed > 0.3
print("of the runs that failed after 200 sweeps, many only needed more of them;")
print("of the tensors that one start of 1000 sweeps still fails on, restarts save most")

# %% [markdown]
# So failures come in two kinds, and you have seen both: runs in a swamp, which more sweeps set free, and runs on their
# way to a bad stationary point or to degeneracy, which only another start avoids. A number of sweeps in which no run has
# settled says nothing about starts. An SVD start is one good guess, not a guarantee, and there is only one of it: take
# it once, random ones several times, and **report how many runs agreed**.
#
# ## 9. In float32 (optional)
#
# An error can be had almost free from what a sweep computes anyway, since
# $\|\mathcal X - \hat{\mathcal X}\|^2 = \|\mathcal X\|^2 - 2 \langle \mathcal X, \hat{\mathcal X} \rangle +
# \|\hat{\mathcal X}\|^2$, the middle is the sum of MTTKRP $*$ factor, and the last is the sum of all entries of the
# Hadamard product of *all* Gram matrices. TensorLy does this, and many others.


# %% tags=["nbval-check-output"]
def cheap_error(X, factors):
    middle = (unfold(X, 0) @ khatri_rao(factors[1:]) * factors[0]).sum()
    square = torch.stack([f.T @ f for f in factors]).prod(0).sum()
    return float((X.square().sum() - 2 * middle + square).abs().sqrt() / X.norm())


assert math.isclose(cheap_error(noisy, fitted), error(noisy, fitted), rel_tol=1e-8)
print("the cheap error equals the error, when the error is large")

# %% [markdown]
# Subtract two almost equal numbers of relative precision $\epsilon$, take the root: the cheap error cannot see below about
# $\sqrt\epsilon$. Fit a tensor of *exact* rank 3, in both precisions, from the same start, and judge both by the true
# error in float64:

# %%
clean = dense([with_cosine(n, 3, 0.5) for n in (9, 8, 7)])
begin = [random(n, 3) for n in (9, 8, 7)]
curves = {(d, what): [] for d in (torch.float64, torch.float32) for what in ("true", "cheap")}
for dtype in (torch.float64, torch.float32):
    current, data_ = [f.to(dtype) for f in begin], clean.to(dtype)
    for _ in range(150):
        current = als(data_, current, 1)[0]
        curves[dtype, "true"].append(error(clean, [f.double() for f in current]))
        curves[dtype, "cheap"].append(cheap_error(data_, current))

# %%
fig, ax = plt.subplots()
for (dtype, what), values in curves.items():
    color = "#0072B2" if dtype == torch.float64 else "#D55E00"
    seen = [sweep for sweep, value in enumerate(values) if value > 1e-17]
    label = f"float{torch.finfo(dtype).bits}, {what}"
    style = "-" if what == "true" else "."
    ax.semilogy(seen, [values[sweep] for sweep in seen], style, color=color, markersize=3, label=label)
ax.set(xlabel="sweeps", ylabel="relative error", xlim=(0, 190), ylim=(1e-17, 2))
ax.set_title("The cheap error (dots) goes blind long before the fit ends")
plots.label_lines(ax)
plt.show()

# %% tags=["nbval-check-output"]
last = {key: max(values[-20:]) for key, values in curves.items()}
assert last[torch.float64, "true"] < 1e-12
assert 1e-9 < last[torch.float32, "true"] < 1e-4
assert last[torch.float64, "cheap"] > 100 * last[torch.float64, "true"]
assert last[torch.float32, "cheap"] > 10 * last[torch.float32, "true"]
print("float64 reaches rounding level, float32 its own; both cheap errors stand far above the true ones")

# %% [markdown]
# Float32 itself is not so bad: the update is solved as well as float32 can. What does the damage is a stopping rule fed
# with the cheap error. "Stop when a sweep gains less than $10^{-8}$" is below the resolution of the cheap error in
# float32, so noise decides. In float64 the same rule is no danger here; a rule that asks for more gain is. Below: a tensor
# of exact rank 3 in a swamp, and where each rule stops (or the number of sweeps does).

# %% tags=["nbval-ignore-output"]
hard = dense([with_cosine(n, 3, 0.95) for n in (9, 8, 7)])
begin, stopped = [random(n, 3) for n in (9, 8, 7)], {}
for dtype, least in ((torch.float64, 1e-8), (torch.float32, 1e-8), (torch.float64, 1e-4)):
    current, before = [f.to(dtype) for f in begin], math.inf
    done, gain = 0, math.inf
    while done < sweeps and gain >= least:
        current, done = als(hard.to(dtype), current, 1)[0], done + 1
        gain, before = before - cheap_error(hard.to(dtype), current), cheap_error(hard.to(dtype), current)
    true = error(hard, [f.double() for f in current])
    stopped[f"{dtype}, gain below {least:g}"] = {"sweeps": done, "true error": true}
pd.DataFrame(stopped).T

# %% tags=["nbval-check-output"]
careful, _, impatient = stopped.values()
assert impatient["sweeps"] < careful["sweeps"]
assert impatient["true error"] > 1.5 * careful["true error"]
print("the impatient rule stops in the swamp, far above what more sweeps reach")

# %% [markdown]
# The lesson: decompose in float64, and convert the factors afterwards. That is what `tnlib.decompose` does. And the
# normal equations square the condition number of $\mathbf K$; a QR-based solve would not.

# %% tags=["nbval-check-output"]
K = khatri_rao([with_cosine(8, 3, cosine), with_cosine(7, 3, cosine)])
assert torch.isclose(torch.linalg.cond(K.T @ K), torch.linalg.cond(K) ** 2, rtol=1e-8)
print("the condition number of the Gram matrix is the square of that of K")

# %% [markdown]
# ## 10. What uniqueness buys: see the dyes in a mixture (optional)
#
# Light of wavelength $k$ excites a dye, which emits light of wavelength $j$. The intensity is a product: concentration
# of dye $r$ in sample $i$, times its emission spectrum at $j$, times its excitation spectrum at $k$. A mixture of dyes adds up.
# The measured samples $\times$ emission $\times$ excitation tensor *is* a CPD, with a dye a term (as long as little light is
# absorbed twice). We make such data: three dyes, 15 samples of random mixtures, noise.

# %%
emission, excitation = torch.linspace(300, 600, 61).double(), torch.linspace(220, 420, 41).double()


def bell(x, centre, width):
    return torch.exp(-0.5 * ((x - centre) / width) ** 2)


spectra = torch.stack([bell(emission, m, w) for m, w in ((380, 28), (430, 32), (470, 36))], 1)
absorbed = torch.stack([bell(excitation, m, w) for m, w in ((270, 20), (300, 24), (335, 28))], 1)
concentration = 0.1 + torch.rand(15, 3, generator=generator, dtype=torch.float64)
light = dense([concentration, spectra, absorbed])
disturbance = random(*light.shape)
measured = light + noise * light.norm() / disturbance.norm() * disturbance

# %% [markdown]
# Two people unmix it. One unfolds the tensor and takes the three leading singular vectors (PCA without its centring). The
# other fits a CPD. The *fits* are equally good:

# %% tags=["nbval-check-output"]
U, S, Vh = torch.linalg.svd(unfold(measured, 1), full_matrices=False)
fit = decompose.cp(measured, 3, restarts=3, max_iter=500, seed=seed)
pca_error = float(S[3:].norm() / S.norm())
cp_error = float((measured - fit.to_tensor()).norm() / measured.norm())
assert abs(pca_error - cp_error) < 0.2 * noise
print("both leave a residual of the size of the noise")

# %% [markdown]
# PCA finds the *space* of the spectra, and an orthonormal basis in it. Which basis the dyes themselves form, no matrix
# can tell: that is the $\mathbf M$ of section 4. The CPD has no $\mathbf M$.


# %% tags=["nbval-check-output"]
def cosines_to_truth(found):
    return (spectra / spectra.norm(dim=0)).T @ (found / found.norm(dim=0))


assert (spectra - U[:, :3] @ (U[:, :3].T @ spectra)).norm() < 0.05 * spectra.norm()
assert cosines_to_truth(U[:, :3]).abs().max(1).values.min() < 0.95
assert cosines_to_truth(fit.factors[1]).abs().max(1).values.min() > 0.99
print("PCA: the right space, wrong spectra. CPD: each of the three spectra, with a cosine above 0.99")


# %%
def aligned(found):
    cosines = cosines_to_truth(found)
    order = max(permutations(range(3)), key=lambda p: sum(cosines[r, p[r]].abs() for r in range(3)))
    ordered = found[:, order] * torch.sign(cosines[range(3), order])
    return ordered / ordered.abs().max(0).values


fig, axes = plt.subplots(1, 3, figsize=(10, 3.3), sharey=True)
panels = {"The dyes, as made": spectra, "PCA invents negative light": U[:, :3], "CPD finds the dyes": fit.factors[1]}
for ax, (title, found) in zip(axes, panels.items(), strict=True):
    ax.plot(emission, aligned(found))
    ax.set(title=title, xlabel="emission wavelength (nm)")
axes[0].set_ylabel("intensity / maximum")
plt.show()

# %% [markdown]
# (A colour is a dye; what was found is paired with the dyes as well as it can be.) The CPD was told that there are three
# dyes, and nothing else: not that spectra are positive or bell-shaped, nor which sample holds which dye. The same reasoning
# separates users of a CDMA radio channel by (antenna, code, symbol), with a user a term (Sidiropoulos, Giannakis and Bro 2000).
#
# ### How many terms?
#
# Who tells you $R$? Fit several, and compare errors. Up to the right $R$ the error falls steeply; beyond, it creeps,
# because nothing is left to fit but noise. A second witness is the *core consistency* (Bro and Kiers 2003): allow all
# products $\mathbf a_r \circ \mathbf b_s \circ \mathbf c_t$, and fit their coefficients $\mathcal G$ by least squares; for the
# right terms $\mathcal G$ is nearly $\mathcal I$ (ones where $r = s = t$, zeros elsewhere), and
# $100\,(1 - \|\mathcal G - \mathcal I\|^2 / R)$ nearly 100.


# %% tags=["nbval-check-output"]
def core_consistency(X, cpd):
    inverses = [torch.linalg.pinv(f) for f in (cpd.factors[0] * cpd.weights, *cpd.factors[1:])]
    core = torch.einsum("ijk,ri,sj,tk->rst", X, *inverses)
    diagonal = dense([torch.eye(len(core)).double()] * 3)
    return float(100 * (1 - (core - diagonal).square().sum() / len(core)))


fits = {R: decompose.cp(measured, R, max_iter=200, restarts=2, seed=seed) for R in (1, 2, 3, 4, 5)}
left = {R: float((measured - fit.to_tensor()).norm() / measured.norm()) for R, fit in fits.items()}
assert left[1] > left[2] > 1.5 * left[3]
assert left[5] > 0.9 * left[3]
assert core_consistency(measured, fits[3]) > 90 > 50 > core_consistency(measured, fits[4])
print("the error falls steeply up to three terms, then creeps; the core is diagonal with three, not with four")

# %% [markdown]
# Here both agree, since there *is* a right $R$. A trained kernel, as you are about to see, has no such bend. Then $R$ is what
# you can afford, and the question is how to spend a budget over all layers: lesson 12 does it for a network.
#
# ## 11. A trained kernel
#
# A convolution kernel is a tensor that nobody built from few terms. How many does it need? Compare it with a random one
# of the same shape.

# %%
model = models.load("resnet20-cifar10")
kernel = model.get_submodule(layer).weight.detach().double()
kernels, rows = {"trained": kernel, "random": random(*kernel.shape)}, []
print(f"{layer}: {tuple(kernel.shape)}, {kernel.numel():,} numbers")

# %% tags=["nbval-ignore-output"]
for name, tensor in kernels.items():
    for R in kernel_ranks:
        cpd = decompose.cp(tensor, R, max_iter=40, seed=seed)
        e = float((tensor - cpd.to_tensor()).norm() / tensor.norm())
        terms = float(cpd.weights.norm() / tensor.norm())
        size = R * sum(kernel.shape) / kernel.numel()
        rows.append({"kernel": name, "rank": R, "size": size, "error": e, "terms": terms})
table = pd.DataFrame(rows)
table.query("kernel == 'trained'").round(2)

# %% [markdown]
# `size` is the number of parameters, relative to the kernel's. `terms` is $\sqrt{\sum_r \lambda_r^2}\, / \|\mathcal
# K\|$, where $\lambda_r$ is the norm of a term. For orthogonal terms it would be at most 1. Beyond 1, terms cancel (below 1
# some may).

# %%
fig, axes = plt.subplots(1, 2, figsize=(9.5, 3.6))
for name, part in table.groupby("kernel", sort=False):
    color = {"trained": "#D55E00", "random": "0.5"}[name]
    for ax, column in zip(axes, ("error", "terms"), strict=True):
        ax.plot(part["rank"], part[column], "o-", color=color, label=name)
for ax, label in zip(axes, ("relative error", "norm of terms / norm of kernel"), strict=True):
    ax.set_xscale("log", base=2)
    ax.set_xticks(kernel_ranks, kernel_ranks)
    ax.set(xlabel="rank $R$", ylabel=label, xlim=(0.9 * kernel_ranks[0], 2.4 * kernel_ranks[-1]))
    ax.set_ylim(bottom=0)
    plots.label_lines(ax, pad=0.03)
axes[1].axhline(1, color="0.6", linewidth=1, linestyle="--")
axes[0].set_title("A trained kernel needs fewer terms")
axes[1].set_title("Terms grow with the rank")
plt.show()

# %% tags=["nbval-check-output"]
errors_of = {name: list(part["error"]) for name, part in table.groupby("kernel")}
assert all(t < r for t, r in zip(errors_of["trained"], errors_of["random"], strict=True))
assert all(part.terms.iloc[-1] > part.terms.iloc[0] for _, part in table.groupby("kernel"))
print("at each rank the trained kernel is easier to fit than noise, and in both the terms grow with the rank")

# %% [markdown]
# Easier than noise, but by no means of low rank: a rank as large as the number of channels still leaves a sizable error.
# Whether the network minds is another question, which notebook 00 asked.
#
# Each point is one run of 40 sweeps from one random start. Is the run at its end? Watch both numbers as it goes on, and
# what rounding the factors does to the fit. Convolutions of small machines often compute with 8 bits: each column is rounded
# to 255 levels.


# %% tags=["nbval-ignore-output"]
def rounded(cpd):
    step = [f.abs().max(0).values / 127 for f in cpd.factors]
    factors = [(f / s).round() * s for f, s in zip(cpd.factors, step, strict=True)]
    return tl.cp_to_tensor((cpd.weights, factors))


longer = {}
for count in (40, 160, 640):
    cpd = decompose.cp(kernel, 32, max_iter=count, tol=0, seed=seed)
    fit_error = float((kernel - cpd.to_tensor()).norm() / kernel.norm())
    error_8 = float((kernel - rounded(cpd)).norm() / kernel.norm())
    terms = float(cpd.weights.norm() / kernel.norm())
    longer[f"{count} sweeps"] = {"error": fit_error, "terms": terms, "error, 8 bits": error_8}
pd.DataFrame(longer).T.round(3)

# %% tags=["nbval-check-output"]
early, _, late = longer.values()
assert late["error"] < early["error"]
assert late["terms"] > 1.5 * early["terms"]
assert late["error, 8 bits"] - late["error"] > early["error, 8 bits"] - early["error"]
print("more sweeps: a slightly smaller error, much larger terms, and more that rounding destroys")

# %% [markdown]
# The error hardly changes, and the terms keep growing: the fit *degenerates*, as in section 6, only slowly. A stopping rule
# has hidden it. Phan et al. (2020) find the same in kernels of larger networks, and name it as the reason why networks with
# CP layers are hard to fine-tune. So an error alone does not describe a CPD: report the norm of its terms beside it. The record:

# %%
path = study.record(
    "cpd-kernel-error",
    {"rows": rows},
    parameters={"profile": profile, "layer": layer, "sweeps": 40, "restarts": 1},
    source="notebooks/02_fit_cpd",
    seed=seed,
)
print("recorded", path.name.rsplit("-", 1)[0])

# %% [markdown]
# ## Exercises
#
# Replace `...` by your answer and run the cell.
#
# ### 1. Warm-up: a norm without the tensor (15 minutes)
#
# Give $\bigl\| \sum_r \lambda_r\, \mathbf a_r \circ \mathbf b_r \circ \cdots \bigr\|$ from `weights` ($R$ numbers, of any
# sign) and a list of factors, whose columns have any norm. One of the inputs has order 10 and is too large to be formed.


# %%
def cpd_norm(weights, factors):
    return ...


check.cpd_norm(cpd_norm)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Expand the square into a double sum over terms. The inner product of two rank-one tensors is a product of inner
# products of vectors: section 3 has the matrix that holds all of them.
# </details>
# <details><summary>Solution</summary>
#
# In the [solutions](solutions/02_fit_cpd.ipynb), section 1.
# </details>

# %% [markdown]
# ### 2. Pencil and paper: how many terms must there be? (20 minutes)
#
# Count the free parameters of a CPD with $R$ terms of a tensor with sizes $I_0, \dots, I_{Q-1}$. What is the smallest
# $R$ for which there are at least as many as entries? (For nearly all shapes that were ever checked this is the rank of
# generic complex tensors. For some it is not enough: for matrices, for shapes with a mode that is longer than about the product of the
# others, and for a few exotic ones. Here just count.)


# %%
def cpd_generic_rank(sizes):
    return ...


check.cpd_generic_rank(cpd_generic_rank)

# %% [markdown]
# <details><summary>Hint</summary>
#
# One term has $\sum_n I_n$ numbers. How many scales can you change without changing the term? Try a matrix of rank one.
# Then round, with care.
# </details>
# <details><summary>Solution</summary>
#
# In the [solutions](solutions/02_fit_cpd.ipynb), section 2.
# </details>

# %% [markdown]
# ### 3. Core: update a factor, but not too far (20 minutes)
#
# Derive and write the *proximal* update: with $\mathbf A_n$ the present factor of `mode` and $\mathbf K$ the Khatri-Rao product of
# the others, return the $\mathbf A$ that minimises
# $\|\mathbf X_{(n)} - \mathbf A \mathbf K^\top\|_F^2 + \mu\, \|\mathbf A - \mathbf A_n\|_F^2$. Unlike the penalty of
# section 7 it has the fixed points of ALS and no others, and moves less far in a step. (Which of them is reached may
# change.) `decompose.cp` uses it.


# %%
def cpd_proximal_update(tensor, factors, mode, mu):
    return ...


check.cpd_proximal_update(cpd_proximal_update)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Set the derivative with respect to $\mathbf A$ to zero, and collect what multiplies $\mathbf A$ on one side. Only two
# places of `update` change.
# </details>
# <details><summary>Solution</summary>
#
# In the [solutions](solutions/02_fit_cpd.ipynb), section 3.
# </details>

# %% [markdown]
# ### 4. Pencil and paper: how far does Kruskal reach? (20 minutes)
#
# Generic factors have the largest k-rank that their shape allows. For sizes $(I, J, K)$, what is the largest $R$ for which Kruskal's
# condition holds? Return 1 if it holds for no $R \ge 2$, as when a size is 1. Sizes come in any order. Find the answer by hand
# first: it is a formula with two cases, for sizes of at least 2.


# %%
def cpd_kruskal_rank(sizes):
    return ...


check.cpd_kruskal_rank(cpd_kruskal_rank)

# %% [markdown]
# <details><summary>Hint</summary>
#
# A generic $I \times R$ matrix has k-rank $\min(I, R)$. Let $K$ be the largest size, and treat $R \le K$ and $R > K$
# separately.
# </details>
# <details><summary>Solution</summary>
#
# In the [solutions](solutions/02_fit_cpd.ipynb), section 4.
# </details>

# %% [markdown]
# ### 5. Stretch: a CPD from eigenvectors (25 minutes)
#
# When $\mathbf A$ and $\mathbf B$ have full column rank and no two columns of $\mathbf C$ are parallel, there is a direct method,
# without iteration (Leurgans, Ross and Abel 1993; it is often called Jennrich's, whose algorithm was ALS). For such a tensor
# with $R =$ `rank` terms, return the factors $(\mathbf A, \mathbf B, \mathbf C)$, of shapes $(I, R)$, $(J, R)$, $(K, R)$, so that
# `dense` gives the tensor back. Sizes need not equal the rank. Stay in double precision. One input has forty terms with nearly
# parallel vectors and a time limit of one second: a fit by iteration, ALS or NLS, is still on its way then.


# %%
def cpd_by_eigenvectors(tensor, rank):
    return ...


check.cpd_by_eigenvectors(cpd_by_eigenvectors)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Section 2 did it for $2 \times 2 \times 2$: $\mathbf A$ holds eigenvectors of one slice times the (pseudo-)inverse of
# another. Mix slices with some fixed weights, so that a zero in $\mathbf C$ does no harm. With rectangular factors there
# are eigenvalues zero to leave out.
# </details>
# <details><summary>Hint 2</summary>
#
# Knowing $\mathbf A$, solve $\mathbf X_{(0)} = \mathbf A \mathbf Y$ for $\mathbf Y = (\mathbf B \odot \mathbf C)^\top$. What is
# row $r$ of $\mathbf Y$, folded to a $J \times K$ matrix?
# </details>
# <details><summary>Solution</summary>
#
# In the [solutions](solutions/02_fit_cpd.ipynb), section 5.
# </details>

# %% [markdown]
# ## Summary
#
# - A CPD is a sum of rank-one terms. Its rank may exceed every mode size, depends on the field, and has no fast algorithm.
# - From order 3 on its terms are usually unique, if they are few enough. Kruskal's condition proves it; the Jacobian tests it
#   locally. Where data have a right number of terms, the error bends there.
# - ALS solves small normal equations and never raises the error, at $R \prod_m I_m$ MACs a mode. It crawls through
#   swamps, depends on its start, and a careless stopping rule ends it early. Damped Gauss-Newton leaves swamps behind.
# - A best approximation need not exist. Watch the norms of the terms beside the error, and bound them.
#
# ## Further reading
#
# - T. G. Kolda and B. W. Bader, [*Tensor decompositions and applications*](https://doi.org/10.1137/07070111X), SIAM Review 51(3), 2009: section 3.
# - J. B. Kruskal, [*Three-way arrays: rank and uniqueness of trilinear decompositions*](https://doi.org/10.1016/0024-3795(77)90069-6), Linear Algebra and its
#   Applications 18, 1977.
# - V. de Silva and L.-H. Lim, [*Tensor rank and the ill-posedness of the best low-rank approximation problem*](https://doi.org/10.1137/06066518X), SIAM
#   Journal on Matrix Analysis and Applications 30(3), 2008.
# - J. Håstad, [*Tensor rank is NP-complete*](https://doi.org/10.1016/0196-6774(90)90014-6), Journal of Algorithms 11, 1990; C. J. Hillar and
#   L.-H. Lim, [*Most tensor problems are NP-hard*](https://doi.org/10.1145/2512329), Journal of the ACM 60(6), 2013.
# - J. D. Carroll and J.-J. Chang, [*Analysis of individual differences in multidimensional scaling*](https://doi.org/10.1007/BF02310791), Psychometrika
#   35, 1970; R. A. Harshman, *Foundations of the PARAFAC procedure*, UCLA Working Papers in Phonetics 16, 1970: ALS.
# - J. M. F. ten Berge and N. D. Sidiropoulos, [*On uniqueness in CANDECOMP/PARAFAC*](https://doi.org/10.1007/BF02294992), Psychometrika 67, 2002;
#   N. D. Sidiropoulos and R. Bro, *On the uniqueness of multilinear decomposition of N-way arrays*, Journal of Chemometrics 14, 2000.
# - L. Chiantini and G. Ottaviani, [*On generic identifiability of 3-tensors of small rank*](https://arxiv.org/abs/1103.2696), SIAM Journal on Matrix
#   Analysis and Applications 33(3), 2012.
# - S. E. Leurgans, R. T. Ross and R. B. Abel, [*A decomposition for three-way arrays*](https://doi.org/10.1137/0614071), SIAM Journal on Matrix
#   Analysis and Applications 14(4), 1993.
# - B. C. Mitchell and D. S. Burdick, [*Slowly converging PARAFAC sequences: swamps and two-factor degeneracies*](https://doi.org/10.1002/cem.1180080207),
#   Journal of Chemometrics 8, 1994; L.-H. Lim and P. Comon, [*Nonnegative approximations of nonnegative
#   tensors*](https://arxiv.org/abs/0903.4530), Journal of Chemometrics 23, 2009.
# - G. Tomasi and R. Bro, [*A comparison of algorithms for fitting the PARAFAC model*](https://doi.org/10.1016/j.csda.2004.11.013), Computational Statistics & Data
#   Analysis 50, 2006.
# - R. Bro and H. A. L. Kiers, [*A new efficient method for determining the number of components in PARAFAC models*](https://doi.org/10.1002/cem.801), Journal
#   of Chemometrics 17, 2003.
# - A.-H. Phan et al., *Stable low-rank tensor decomposition for compression of convolutional neural network*, ECCV 2020,
#   [arXiv:2008.05441](https://arxiv.org/abs/2008.05441).
# - V. Lebedev et al., *Speeding-up convolutional neural networks using fine-tuned CP-decomposition*, ICLR 2015,
#   [arXiv:1412.6553](https://arxiv.org/abs/1412.6553).
# - G. Bergqvist, *Exact probabilities for typical ranks of 2 x 2 x 2 and 3 x 3 x 2 tensors*, Linear Algebra and its
#   Applications 438, 2013.
# - N. D. Sidiropoulos, G. B. Giannakis and R. Bro, [*Blind PARAFAC receivers for DS-CDMA systems*](https://doi.org/10.1109/78.823975), IEEE
#   Transactions on Signal Processing 48(3), 2000.
# - A.-H. Phan, P. Tichavský and A. Cichocki, *Error preserving correction: a method for CP decomposition at a target
#   error bound*, IEEE Transactions on Signal Processing 67(5), 2019, [arXiv:1709.08349](https://arxiv.org/abs/1709.08349).

# %% [markdown]
# Previous: [01 work with tensors](01_work_with_tensors.ipynb) · Next: [03 truncate Tucker](03_truncate_tucker.ipynb) · [Solutions](solutions/02_fit_cpd.ipynb) · [Glossary](GLOSSARY.md)
