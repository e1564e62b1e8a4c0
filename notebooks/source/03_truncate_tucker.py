# %% [markdown]
# # Truncate a tensor: Tucker, HOSVD and HOOI
#
# **What you'll do.** Find out how small a box holds a tensor, mode by mode. Write the three algorithms that shrink it
# (HOSVD, ST-HOSVD, HOOI), bound their errors, count their work, and use them on images, on a trained convolution and on
# a CPD.
#
# **What you'll learn.** Multilinear rank; why truncation is within a factor $\sqrt Q$ of the best; how to choose ranks
# from a tolerance with a guarantee; which parts of a Tucker decomposition mean something and which are arbitrary; when
# it saves memory and when it does not.
#
# **What you need first.** The singular value decomposition, mode products and unfoldings (lesson 01), the CPD
# (lesson 02).
#
# **Time.** 180 minutes: 80 to read text and code, 100 for the exercises. Run All takes a minute or two.
# **Difficulty.** Medium.
#
# Previous: [02 fit CPD](02_fit_cpd.ipynb) · Next: [04 build tensor trains](04_build_tensor_trains.ipynb) · [Solutions](solutions/03_truncate_tucker.ipynb) · [Glossary](GLOSSARY.md)

# %% tags=["parameters"]
profile: str = "quick"  # "quick": 60 random tensors, three layers; "full": 600 tensors, all layers of ResNet-20
seed: int = 0  # decides random tensors and which images are stacked
num_images: int = 60  # images in the stack, at least 8; a multiple of 10 takes all classes equally
tolerance: float = 0.2  # relative error that truncation may make where one value is needed, in (0, 1)
layer: str = "layer3.2.conv2"  # the 3x3 convolution of ResNet-20 to look at, any but the first

# %%
import base64
import io
import itertools
import math

import matplotlib.pyplot as plt
import pandas as pd
import tensorly as tl
import torch
from IPython.display import HTML
from PIL import Image
from tensorly import unfold
from tensorly.cp_tensor import CPTensor
from tensorly.decomposition import parafac
from tensorly.tenalg import kronecker, mode_dot, multi_mode_dot
from torch.overrides import TorchFunctionMode

from tnlib import check, data, decompose, measure, models, plots

plots.use_style()
trials = {"quick": 60, "full": 600}[profile]
generator = torch.Generator().manual_seed(seed)


# %% [markdown]
# Modes are numbered from 0, in code and in text alike. $\mathcal X$ has order $Q$ and sizes $I_0, \dots, I_{Q-1}$. The
# unfolding $\mathbf X_{(n)}$ has a row for each index of mode $n$; its columns are ordered as TensorLy orders them, the
# last mode fastest (row-major). $\mathcal X \times_n \mathbf M$ multiplies each mode-$n$ fibre by $\mathbf M$.


# %%
def randn(*shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def relative_error(X, approximation):
    return (X - approximation).norm() / X.norm()


# %% [markdown]
# ## The question: how small a box holds a tensor?
#
# Take some CIFAR-10 images and stack them. The result has order four. Subtract one number, the mean of all entries:
# otherwise the first singular vector only says that pixels are positive.

# %%
images = data.load("cifar10", "test").sample(num_images, seed).images
stack = images.permute(2, 3, 1, 0).double() / 255
mean = stack.mean()
stack = stack - mean
print("height x width x colour x image:", tuple(stack.shape), f"= {stack.numel():,} numbers")

# %% [markdown]
# **Predict, then reveal.** You may replace one mode by fewer directions: fewer heights, widths, colours or images. Which
# mode gives most for least? Write down an order of the four.
#
# For one mode alone this is a matrix question. By Eckart and Young (1936), keeping $T_n$ directions of mode $n$ makes a
# squared error of at least $\sum_{t \ge T_n} \sigma_t^2$, with the singular values $\sigma_0 \ge \sigma_1 \ge \dots$ of
# $\mathbf X_{(n)}$. (They, too, are numbered from 0.) This sum is the *discarded energy* of the mode, its **tail**:


# %%
def tail(X, n, kept):
    return torch.linalg.svdvals(unfold(X, n))[kept:].square().sum()


noise = randn(*stack.shape)
curves = {name: [float((tail(stack, n, t) / stack.norm() ** 2).sqrt()) for t in range(stack.shape[n] + 1)]
          for n, name in enumerate(["height", "width", "colour", "image"])}  # fmt: skip
curves["height, noise"] = [float((tail(noise, 0, t) / noise.norm() ** 2).sqrt()) for t in range(len(noise) + 1)]

# %% jupyter={"outputs_hidden": true}
fig, ax = plt.subplots()
places = {
    "height": (0.23, 0.31),
    "width": (0.02, 0.38),
    "colour": (0.685, 0.095),
    "image": (0.5, 0.31),
    "height, noise": (0.5, 0.73),
}
for name, curve in curves.items():
    marker = "o" if len(curve) < 10 else ".-"  # three colours are points, not a curve
    (line,) = ax.plot(torch.linspace(0, 1, len(curve)), curve, marker, color="0.5" if "noise" in name else None)
    ax.annotate(name, places[name], color=line.get_color())
ax.set(xlabel="fraction of the mode's directions kept", ylabel="relative error, at least", ylim=(0, 1.02))
ax.set_title("Images repeat in height, width and colour, less from one to another")
plt.show()

# %% [markdown]
# <details><summary>What the figure says</summary>
#
# Neighbouring rows look alike, and so do colours. Different images share much less.
# </details>
#
# The four modes deserve four different ranks. That is the first way in which tensors differ from matrices.
#
# ## Multilinear rank
#
# The rank of mode $n$ is $T_n = \operatorname{rank} \mathbf X_{(n)}$, the largest number of linearly independent mode-$n$ fibres. The tuple $(T_0, \dots, T_{Q-1})$ is the **multilinear rank**.


# %%
def multilinear_rank(X):
    return tuple(int(torch.linalg.matrix_rank(unfold(X, n))) for n in range(X.ndim))


X = multi_mode_dot(randn(2, 3, 4), [randn(7, 2), randn(9, 3), randn(5, 4)])
print("a", tuple(X.shape), "tensor of multilinear rank", multilinear_rank(X))

# %% [markdown]
# A matrix has one rank: row rank equals column rank. Its two unfoldings are the matrix and its transpose. For $Q > 2$
# nothing ties the modes that tightly.

# %%
for rank in (1, 3, 6):
    A = randn(8, rank) @ randn(rank, 11)
    assert multilinear_rank(A) == (rank, rank)
assert multilinear_rank(X) == (2, 3, 4)
print("a matrix: both ranks agree; the tensor above: three different ones")

# %% [markdown]
# They are not free, either. **Predict:** can a tensor have multilinear rank $(2, 3, 7)$? Try to build one, from a random
# $2 \times 3 \times 7$ core.

# %% jupyter={"outputs_hidden": true}
print(multilinear_rank(multi_mode_dot(randn(2, 3, 7), [randn(7, 2), randn(8, 3), randn(9, 7)])))

# %% [markdown]
# <details><summary>What happened, and the rule behind it</summary>
#
# One rank is too large. In general
#
# $$T_n \le \prod_{m \ne n} T_m .$$
#
# Write each mode $m \ne n$ in a basis of its $T_m$ fibre directions: then the mode-$n$ unfolding has only
# $\prod_{m \ne n} T_m$ columns, and all others are combinations of them. For $Q = 2$ the bound says $T_0 \le T_1 \le T_0$, and
# row rank equals column rank again.
# </details>
#
# The rule, on random cores, some of which ask for too much:

# %%
refused = 0
for _ in range(trials):
    wanted = torch.randint(1, 7, (3,), generator=generator).tolist()
    ranks = multilinear_rank(multi_mode_dot(randn(*wanted), [randn(7, t) for t in wanted]))
    assert ranks == tuple(min(t, math.prod(wanted) // t) for t in wanted)
    refused += ranks != tuple(wanted)
assert 0 < refused < trials
print(f"in {refused} of {trials} draws a core asks for a rank above the product of the others, and gets that product")

# %% [markdown]
# Two more facts, both used below. Invertible matrices on the modes change nothing, since they act on the rows and on the
# columns of each unfolding by invertible maps. And a sum of $R$ rank-one terms has $T_n \le R$ in each mode: the fibres
# are combinations of the $R$ columns of one factor.

# %%
assert multilinear_rank(multi_mode_dot(X, [randn(size, size) for size in X.shape])) == multilinear_rank(X)
for R in (1, 3, 6):
    terms = torch.einsum("ir,jr,kr->ijk", randn(5, R), randn(4, R), randn(7, R))
    assert max(multilinear_rank(terms)) <= R
print("invariant under invertible mode products; at most R for R rank-one terms")

# %% [markdown]
# ## The Tucker decomposition
#
# A tensor of multilinear rank $(T_0, \dots, T_{Q-1})$ is a small tensor in other coordinates (Tucker 1966):
#
# $$\mathcal X = \mathcal G \times_0 \mathbf U_0 \times_1 \mathbf U_1 \cdots \times_{Q-1} \mathbf U_{Q-1}, \qquad
# \mathcal G \in \mathbb R^{T_0 \times \dots \times T_{Q-1}}, \quad \mathbf U_n \in \mathbb R^{I_n \times T_n} .$$
#
# $\mathcal G$ is the **core**. As a network, it is a star:

# %%
ax = plots.einsum_graph("abc,ia,jb,kc->ijk", names=(r"$\mathcal{G}$", "$U_0$", "$U_1$", "$U_2$"))
ax.set_title("Tucker: a core in the middle, a matrix a mode")
plt.show()

# %% [markdown]
# Entry by entry it is an einsum, and unfolded it is a product of matrices:
# $\mathbf X_{(n)} = \mathbf U_n \, \mathbf G_{(n)} \, \big(\bigotimes_{m \ne n} \mathbf U_m\big)^\top$, the Kronecker factors
# in ascending order of $m$. (Kolda and Bader unfold column-major; there they stand in descending order.)

# %%
core, factors = randn(2, 3, 4), [randn(5, 2), randn(7, 3), randn(9, 4)]
X = torch.einsum("abc,ia,jb,kc->ijk", core, *factors)
assert torch.allclose(X, multi_mode_dot(core, factors))
for n in range(3):
    others = kronecker([factors[m] for m in range(3) if m != n])
    assert torch.allclose(unfold(X, n), factors[n] @ unfold(core, n) @ others.T)
print("einsum = mode products = unfolded, for all three modes")

# %% [markdown]
# From here on the factors have orthonormal columns, $\mathbf U_n^\top \mathbf U_n = \mathbf I$. Then the core is as
# long as the tensor, and it is found by multiplying with transposes.

# %%
factors = [torch.linalg.qr(U).Q for U in factors]
X = multi_mode_dot(core, factors)
assert torch.isclose(X.norm(), core.norm())
assert torch.allclose(multi_mode_dot(X, factors, transpose=True), core)
print("same norm; core = X times the transposed factors")

# %% [markdown]
# One entry of the core needs one column of each factor. A mode product with a single row $\mathbf u^\top$ leaves a mode of
# size 1; without that mode it is the **tensor-times-vector** product (Kolda and Bader 2009, section 2.5): a combination of
# the tensor's slices. In all modes, it is a number:

# %%
columns = [U[:, t] for U, t in zip(factors, (1, 2, 3), strict=True)]
assert torch.isclose(multi_mode_dot(X, columns), core[1, 2, 3])
mixed = sum(weight * piece for weight, piece in zip(columns[0], X, strict=True))
assert torch.allclose(mixed, mode_dot(X, columns[0], 0))
print("tensor times one column a mode = one entry of the core;", "in one mode: a", tuple(mixed.shape), "mix of slices")

# %% [markdown]
# ## HOSVD
#
# Which factors? The **higher-order SVD** (De Lathauwer, De Moor and Vandewalle 2000a) takes, for each mode, the left
# singular vectors of the unfolding. With all of them it is exact. With the first $T_n$ of them it is the *truncated*
# HOSVD.


# %%
def svd_basis(X, n, rank):
    return torch.linalg.svd(unfold(X, n), full_matrices=False).U[:, :rank]


def hosvd(X, ranks=None, basis=svd_basis):
    factors = [basis(X, n, rank) for n, rank in enumerate(ranks or X.shape)]
    return multi_mode_dot(X, factors, transpose=True), factors


# %%
assert torch.allclose(multi_mode_dot(*hosvd(X, multilinear_rank(X))), X)
Y = randn(5, 7, 6)
assert torch.allclose(multi_mode_dot(*hosvd(Y)), Y)
print("exact at the multilinear rank, also when that is full")

# %% [markdown]
# This proves that a Tucker decomposition with these ranks always exists: $\mathbf U_n \mathbf U_n^\top$ leaves every
# mode-$n$ fibre as it is.
#
# The matrix SVD has a diagonal core. In general no orthogonal factors give a tensor one (solution 2 counts why). What HOSVD
# keeps is weaker. Multiply the core's unfolding by its transpose: the orthogonal factors of the other modes cancel, and
# $\mathbf G_{(n)} \mathbf G_{(n)}^\top = \mathbf U_n^\top \mathbf X_{(n)} \mathbf X_{(n)}^\top \mathbf U_n = \boldsymbol\Sigma_n^2$.
# So the core's slices along any mode are orthogonal to each other (**all-orthogonality**), and their norms are the
# mode's singular values, in descending order (**ordering**).

# %%
core, _ = hosvd(stack)
for n in range(stack.ndim):
    gram = unfold(core, n) @ unfold(core, n).T
    sigma = torch.linalg.svdvals(unfold(stack, n))
    assert torch.allclose(gram, sigma.square().diag(), atol=1e-9 * float(sigma[0]) ** 2)
    assert bool((gram.diag().diff() <= 1e-9 * gram[0, 0]).all())
print("slices of the core: orthogonal, norms = singular values, in order; all four modes")

# %% [markdown]
# That holds for the whole core. (At the multilinear rank, too: what is cut off is zero.) Truncation shortens the slices
# of one mode along the others: in general they are no longer orthogonal, and shorter than the singular values.

# %%
small, _ = hosvd(stack, (8, 8, 2, 8))
gram = unfold(small, 0) @ unfold(small, 0).T
sigma = torch.linalg.svdvals(unfold(stack, 0))[:8]
assert (gram - gram.diag().diag()).norm() > 1e-3 * gram.norm()
assert (gram.diag().sqrt() < sigma).all()
print("a truncated core: its slices are not orthogonal, and shorter than the singular values")

# %% [markdown]
# Not diagonal, then, but is it sparse? The energy $\|\mathcal G\|^2 = \|\mathcal X\|^2$ is the same whatever the basis. It
# can be spread or concentrated. **Predict:** how many of the core's largest entries hold 95 % of it: 50 %, 20 %, 5 %?
# Compared with the pixels themselves, and with the same core after a random rotation of each mode?


# %% jupyter={"outputs_hidden": true}
def concentration(X):
    energy = X.flatten().square().sort(descending=True).values.cumsum(0)
    return 1 - energy / energy[-1]


rotated = multi_mode_dot(core, [torch.linalg.qr(randn(size, size)).Q for size in core.shape])
assert torch.isclose(core.norm(), rotated.norm())
spread = {"pixels": concentration(stack), "core": concentration(core), "core, rotated": concentration(rotated)}
for name, rest in spread.items():
    print(f"{name:<14} {int((rest > 0.05).sum()) / len(rest):.0%} of the entries hold 95 % of the energy")

# %% jupyter={"outputs_hidden": true}
fig, ax = plt.subplots()
for name, rest in spread.items():
    seen = slice(0, int((rest > 3e-3).sum()), 200)
    (line,) = ax.semilogy((torch.arange(len(rest))[seen] + 1) / len(rest), rest[seen])
    where = int((rest > 0.03).sum()) / len(rest), 0.03
    ax.annotate(name, where, (6, 4), textcoords="offset points", color=line.get_color())
ax.set(xlabel="fraction of the entries kept, largest first", ylabel="fraction of the energy lost", xlim=(0, 0.9))
ax.set_title("HOSVD gathers the energy in few entries of the core")
plt.show()

# %% [markdown]
# So there are two ways to compress with a HOSVD. Keep the largest entries wherever they stand, and store their places:
# that is what image codecs do, in a fixed basis. Or keep a box at the core's corner: that is truncation, it needs no
# list of places, and it turns a convolution into smaller convolutions. This lesson cuts boxes.
#
# ## How good is truncation?
#
# Let $\pi_n$ project mode $n$ onto the $T_n$ leading singular vectors. Truncated HOSVD is
# $\hat{\mathcal X} = \pi_0 \pi_1 \cdots \pi_{Q-1} \mathcal X$. Insert one projection after another:
#
# $$\mathcal X - \hat{\mathcal X} = \sum_n \; \pi_0 \cdots \pi_{n-1} \, (1 - \pi_n) \, \mathcal X .$$
#
# This is a *telescope*: term $n$ is $\pi_0 \cdots \pi_{n-1} \mathcal X - \pi_0 \cdots \pi_n \mathcal X$, and the next one adds what it
# subtracts. Any two terms are orthogonal: projections of different modes commute, so the later term is in the range of a
# $\pi_n$, the earlier one in that of $1 - \pi_n$. So squares add. Projections do not lengthen, so each term is at most as long as $(1 - \pi_n) \mathcal X$, whose squared
# length is the mode's discarded energy:
#
# $$\|\mathcal X - \hat{\mathcal X}\|^2 \;\le\; \sum_n \; \sum_{t \ge T_n} \big(\sigma^{(n)}_t\big)^2$$
#
# (De Lathauwer et al. 2000a, property 10).
#
# Now what could be better? Multilinear ranks are ranks of matrices, and matrices of rank at most $T_n$ form a closed set; so do
# the tensors of multilinear rank at most $(T_0, \dots, T_{Q-1})$. Hence a *best* approximation $\mathcal X_{\text{best}}$ exists, always.
# (For the CPD it need not: [lesson 02](02_fit_cpd.ipynb), "No best approximation".)
#
# From below: *any* tensor of multilinear rank at most $(T_0, \dots, T_{Q-1})$ has a mode-$n$ unfolding of rank at most $T_n$. Eckart and Young hold for each mode, so even the best one errs by at
# least
#
# $$\|\mathcal X - \mathcal X_{\text{best}}\|^2 \;\ge\; \max_n \; \sum_{t \ge T_n} \big(\sigma^{(n)}_t\big)^2 .$$
#
# A sum of $Q$ numbers is at most $Q$ times the largest. Therefore
# $\|\mathcal X - \hat{\mathcal X}\| \le \sqrt Q \, \|\mathcal X - \mathcal X_{\text{best}}\|$: truncated HOSVD is **quasi-optimal**. The first
# two inequalities say more than the last one, since you can evaluate them. We test all of it on tensors of orders 3
# to 5, from pure noise to fast decay:


# %%
def draw():
    shape = torch.randint(3, 8, (int(torch.randint(3, 6, (), generator=generator)),), generator=generator).tolist()
    X, decay = randn(*shape), float(torch.rand((), generator=generator))
    for n, size in enumerate(shape):
        X = mode_dot(X, torch.exp(-decay * torch.arange(size, dtype=torch.float64)).diag(), n)
    ranks = [int(torch.randint(1, size, (), generator=generator)) for size in shape]
    return X, [min(t, math.prod(ranks) // t) for t in ranks]


draws = [draw() for _ in range(trials)]

# %%
ratios = []
for X, ranks in draws:
    tails = torch.stack([tail(X, n, rank) for n, rank in enumerate(ranks)])
    error, lower = (X - multi_mode_dot(*hosvd(X, ranks))).norm(), tails.max().sqrt()
    assert lower <= error * (1 + 1e-9)
    assert error <= tails.sum().sqrt() * (1 + 1e-9)
    ratios.append((X.ndim, float(error / lower)))
print(f"largest tail <= error^2 <= sum of the tails, for {trials} tensors")

# %% [markdown]
# Can $\sqrt Q$ be reached? Build a tensor on which HOSVD chooses wrongly in every mode. Two large entries, three entries
# $\varepsilon$ in different places, and one that is a little larger:

# %%
epsilon = 0.1
sharp = torch.zeros(4, 4, 4, dtype=torch.float64)
sharp[0, 0, 0] = sharp[1, 1, 1] = 1
sharp[2, 0, 1] = sharp[0, 2, 1] = sharp[0, 1, 2] = epsilon
sharp[3, 3, 3] = 1.01 * epsilon

# %% [markdown]
# Slices along one mode have no entry in common. So they are orthogonal, and the singular vectors are unit vectors. At ranks
# $(3, 3, 3)$ each mode drops the smallest direction: number 2, of length $\varepsilon$. Three modes, three different entries lost. Dropping direction 3
# instead loses *one* entry, the same in each mode.

# %%
by_hosvd = (sharp - multi_mode_dot(*hosvd(sharp, (3, 3, 3)))).norm()
by_hand = sharp[3, 3, 3]  # what is lost when direction 3 is dropped
assert torch.isclose(by_hosvd**2, sum(tail(sharp, n, 3) for n in range(3)))
assert torch.isclose(by_hosvd / by_hand, torch.tensor(math.sqrt(3) / 1.01).double())
print(f"HOSVD errs {by_hosvd / by_hand:.3f} times as much as another box: sqrt(3) / 1.01")

# %% [markdown]
# The error is the whole sum of the tails. With $1 + \delta$ for $1.01$ the ratio is at least $\sqrt 3 / (1 + \delta)$: no factor below
# $\sqrt 3$ holds for all tensors of order 3. On tensors that nobody built for it:

# %%
fig, ax = plt.subplots(figsize=(7.2, 3.2))
for order in (3, 4, 5):
    values = [ratio for its_order, ratio in ratios if its_order == order]
    height = order + torch.linspace(-0.22, 0.22, len(values))
    ax.plot(values, height, "o", color="#0072B2", alpha=0.6, markeredgewidth=0)
    ax.plot([math.sqrt(order)] * 2, [order - 0.35, order + 0.35], color="#D55E00")
    where = math.sqrt(order), order + 0.3
    ax.annotate(rf"$\sqrt{{{order}}}$", where, (4, -2), textcoords="offset points", color="#D55E00")
ax.plot(by_hosvd / epsilon, 3, "*", color="black", markersize=11)
ax.annotate("the tensor above", (math.sqrt(3), 3), (9, -4), textcoords="offset points")
ax.set(xlabel="error of truncated HOSVD / lower bound for the best one", ylabel="order $Q$", yticks=(3, 4, 5))
ax.set(xlim=(0.97, 2.35), ylim=(2.5, 5.5), title=r"Random tensors stay far below $\sqrt{Q}$")
plt.show()

# %% [markdown]
# Each dot is a random tensor. Its ratio to the *best* approximation is at most the one that is drawn, since the lower bound
# need not be attained.
#
# ## ST-HOSVD: shrink as you go
#
# HOSVD takes every SVD of the full tensor. **Sequentially truncated** HOSVD (Vannieuwenhoven, Vandebril and Meerbergen
# 2012) truncates one mode, and computes the next basis from what is left:


# %%
def st_hosvd(X, ranks, basis=svd_basis):
    factors = []
    for n, rank in enumerate(ranks):
        factors.append(basis(X, n, rank))
        X = mode_dot(X, factors[n].T, n)
    return X, factors


# %% [markdown]
# The telescope above now has *equality*: term $n$ is exactly what step $n$ discards from the current tensor. And a
# projection of other modes cannot raise a singular value, so each step discards at most what HOSVD's bound allows it.
# The same $\sqrt Q$ follows, and it is sharp here, too.

# %%
for X, ranks in draws:
    core, factors = st_hosvd(X, ranks)
    current, steps = X, []
    for n, rank in enumerate(ranks):
        steps.append(tail(current, n, rank))
        assert steps[n] <= tail(X, n, rank) + 1e-9 * X.norm() ** 2
        current = mode_dot(current, factors[n].T, n)
    error = (X - multi_mode_dot(core, factors)).norm()
    assert torch.isclose(error**2, sum(steps))
assert torch.isclose((sharp - multi_mode_dot(*st_hosvd(sharp, (3, 3, 3)))).norm(), by_hosvd)
print(f"error^2 = sum of the steps, each at most HOSVD's tail, for {trials} tensors")

# %% [markdown]
# Now the cost. For a wide matrix, the usual way to its left singular vectors is the eigenvectors of the small Gram
# matrix $\mathbf X_{(n)} \mathbf X_{(n)}^\top$: $I_n$ MACs (multiplications with an addition) for each entry of the
# tensor, if its symmetry is not used. The product with the transposed factor takes $T_n$ MACs for each entry. Eigenvectors of
# $I_n \times I_n$ matrices are needed by both algorithms alike and are left out.


# %%
def gram_basis(X, n, rank):
    matrix = unfold(X, n)
    return torch.linalg.eigh(matrix @ matrix.T).eigenvectors[:, -rank:].flip(1)


def macs(shape, ranks, sequential):
    sizes, total = list(shape), 0
    for n, rank in enumerate(ranks):
        gram_entries = math.prod(sizes if sequential else shape)
        total += shape[n] * gram_entries + rank * math.prod(sizes)
        sizes[n] = rank
    return total


# %% [markdown]
# A count is a claim. So look over PyTorch's shoulder and count the matrix products that it really computes: an
# $m \times k$ by $k \times n$ product takes $m k n$ MACs.


# %%
class CountMACs(TorchFunctionMode):
    total = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function.__name__ in ("matmul", "__matmul__"):
            self.total += args[0].numel() * args[1].shape[-1]
        return function(*args, **(kwargs or {}))


# %%
box = (8, 8, 2, 20 if num_images >= 20 else 8)
for method, sequential in ((hosvd, False), (st_hosvd, True)):
    with CountMACs() as counter:
        method(stack, box, basis=gram_basis)
    assert counter.total == macs(stack.shape, box, sequential)
    print(f"{method.__name__:<9} {counter.total:>12,} MACs for the stack at ranks {box}, as the formula says")

# %% [markdown]
# Count, then time. Time also pays for reordering the entries into unfoldings and for the eigenvectors, so expect
# another factor than that of the MACs.

# %% tags=["nbval-ignore-output"]
print(measure.compare({
    "HOSVD": lambda: hosvd(stack, box, basis=gram_basis),
    "ST-HOSVD": lambda: st_hosvd(stack, box, basis=gram_basis),
}, rounds=10, seconds=1.0))  # fmt: skip

# %% [markdown]
# Which of the two errs less? Either may:

# %%
smaller = {"HOSVD": 0, "ST-HOSVD": 0, "the same": 0}
for X, ranks in draws:
    first, second = ((X - multi_mode_dot(*method(X, ranks))).norm() / X.norm() for method in (hosvd, st_hosvd))
    smaller["the same" if abs(first - second) < 1e-12 else "HOSVD" if first < second else "ST-HOSVD"] += 1
assert smaller["ST-HOSVD"] > smaller["HOSVD"]
print("the smaller error is that of", smaller)

# %% [markdown]
# Mostly it is ST-HOSVD, on these tensors: its later bases know what the earlier ones have discarded. The order of the modes
# changes result and cost of ST-HOSVD; exercise 4 looks for the cheapest one.
#
# The Gram matrix has a price. It squares the singular values, so those below about $10^{-8}$ of the largest drown in
# the rounding errors of float64. This matrix has a singular value of $10^{-10}$:

# %% tags=["nbval-ignore-output"]
sigma = torch.tensor([1.0, 1e-3, 1e-6, 1e-10], dtype=torch.float64)
ill = torch.linalg.qr(randn(4, 4)).Q @ sigma.diag() @ torch.linalg.qr(randn(6, 4)).Q.T
squared = torch.linalg.eigvalsh(ill @ ill.T)[0].abs()
print(f"smallest by SVD: {torch.linalg.svdvals(ill)[3]:.1e}, from the Gram matrix: {squared.sqrt():.1e}")

# %% [markdown]
# ## HOOI: iterate
#
# Both are one-shot. To find the *best* approximation, note first: with orthonormal factors and the core
# $\mathcal G = \mathcal X \times_0 \mathbf U_0^\top \cdots \times_{Q-1} \mathbf U_{Q-1}^\top$ the error follows from the core alone, by Pythagoras:
#
# $$\|\mathcal X - \hat{\mathcal X}\|^2 = \|\mathcal X\|^2 - \|\mathcal G\|^2 .$$
#
# So make the core as long as possible. With all factors but $\mathbf U_n$ fixed, the longest core comes from the leading
# left singular vectors of $\mathbf Y_{(n)}$, where $\mathcal Y$ is $\mathcal X$ compressed in the other modes. Do that mode
# after mode (one round is a *sweep*), again and again: **higher-order orthogonal iteration** (Kroonenberg and De Leeuw 1980; De Lathauwer et al. 2000b).


# %%
def hooi(X, ranks, sweeps=10, factors=None):
    factors = list(factors or hosvd(X, ranks)[1])
    history = [(multi_mode_dot(X, factors, transpose=True), list(factors))]
    for _ in range(sweeps):
        for n, rank in enumerate(ranks):
            Y = multi_mode_dot(X, factors, skip=n, transpose=True)
            factors[n] = svd_basis(Y, n, rank)
        history.append((mode_dot(Y, factors[-1].T, X.ndim - 1), list(factors)))
    return history


# %% [markdown]
# Every update solves its subproblem exactly, so the error never rises. Both statements, at every sweep. And since no
# error is below the best one, HOSVD's must be at most $\sqrt Q$ times that of HOOI:

# %%
gains = []
for X, ranks in draws[:30]:
    errors, scale = [], float(X.norm() ** 2)
    for core, factors in hooi(X, ranks, sweeps=4):
        errors.append(float((X - multi_mode_dot(core, factors)).norm() ** 2))
        assert math.isclose(errors[-1], scale - float(core.norm() ** 2), abs_tol=1e-10 * scale)
    assert all(after <= before + 1e-10 * scale for before, after in itertools.pairwise(errors))
    assert errors[-1] >= float(max(tail(X, n, rank) for n, rank in enumerate(ranks))) - 1e-10 * scale
    assert errors[0] <= X.ndim * errors[-1] + 1e-10 * scale
    gains.append(math.sqrt(errors[0] / errors[-1]))
print("error^2 = |X|^2 - |core|^2; it never rises from sweep to sweep; it stays above the lower bound")
print(f"HOSVD errs at most {max(gains):.2f} times as much as four sweeps of HOOI")

# %% [markdown]
# `decompose.tucker` does the same, with a stopping rule:

# %%
sweeps = hooi(stack, box, sweeps=20)
ours = relative_error(stack, multi_mode_dot(*sweeps[-1]))
theirs = relative_error(stack, decompose.tucker(stack, box).to_tensor())
assert abs(ours - theirs) < 1e-4
print(f"relative error on the stack: HOSVD {relative_error(stack, multi_mode_dot(*sweeps[0])):.3f}, HOOI {ours:.3f}")

# %% [markdown]
# Monotone does not mean optimal. The errors converge; what they converge to may be a local minimum. The tensor that fools
# HOSVD has one, and HOOI from HOSVD stays in it. Some random starts do better:

# %%
starts = [None, *([torch.linalg.qr(randn(4, 3)).Q for _ in range(3)] for _ in range(20))]
ends = [hooi(sharp, (3, 3, 3), sweeps=60, factors=start)[-1] for start in starts]
reached = [float((sharp - multi_mode_dot(*end)).norm()) for end in ends]
assert math.isclose(reached[0], by_hosvd)
assert math.isclose(min(reached), by_hand, rel_tol=1e-6)
print(f"from HOSVD: {reached[0]:.3f}, as HOSVD itself; the best of 20 random starts: {min(reached):.3f}")

# %% [markdown]
# Or not even that. Here every update is optimal, nothing changes, and a step aside would help:

# %%
e = torch.eye(2, dtype=torch.float64)
saddle = torch.einsum("i,j,k->ijk", e[0], e[0], e[0]) + 2 * torch.einsum("i,j,k->ijk", e[1], e[1], e[0])
stuck = float(hooi(saddle, (1, 1, 1), sweeps=50, factors=[e[:, :1]] * 3)[-1][0].norm())
turned = e[:, :1] * math.cos(0.05) + e[:, 1:] * math.sin(0.05)
aside = float(multi_mode_dot(saddle, [turned, turned, e[:, :1]], transpose=True).norm())
best = float(hooi(saddle, (1, 1, 1))[-1][0].norm())
assert math.isclose(stuck, 1)
assert stuck + 1e-3 < aside < best
assert math.isclose(best, 2)
print(f"core of norm {stuck:.0f} after 50 sweeps, {aside:.4f} a step aside, {best:.0f} from HOSVD: a saddle point")

# %% [markdown]
# **Predict, then reveal.** Start HOOI from ten random sets of factors, on noise and on the images. In which case do the
# starts agree?


# %%
def errors_from(X, ranks, factors=None):
    cores = [core for core, _ in hooi(X, ranks, sweeps=20, factors=factors)]
    return [float((1 - (core.norm() / X.norm()) ** 2).sqrt()) for core in cores]


panels = {"noise, ranks 2 2 2": (randn(9, 8, 7), (2, 2, 2)), "images, ranks 6 6 2 4": (stack, (6, 6, 2, 4))}
runs = {}
for name, (X, ranks) in panels.items():
    starts = [[torch.linalg.qr(randn(*size)).Q for size in zip(X.shape, ranks, strict=True)] for _ in range(10)]
    runs[name] = [errors_from(X, ranks, start) for start in (*starts, None)]

# %% jupyter={"outputs_hidden": true}
fig, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
for ax, (name, curves) in zip(axes, runs.items(), strict=True):
    best = min(curve[-1] for curve in curves)
    for i, curve in enumerate(curves):
        last = i == len(curves) - 1  # from HOSVD
        style = {"color": "#D55E00", "linewidth": 2.4} if last else {"color": "0.6", "linewidth": 1}
        ax.semilogy([max(error / best - 1, 1e-12) for error in curve], **style)
    ax.set(xlabel="sweep", xticks=range(0, 21, 5), title=name, ylim=(1e-8, 2))
    label = {"color": "#D55E00", "bbox": {"facecolor": "white", "edgecolor": "none", "pad": 1}}
    ax.annotate("from HOSVD", (0, curve[0] / best - 1), (6, 9), textcoords="offset points", **label)
axes[0].set_ylabel("error above the best end, relative")
fig.suptitle("On images all starts meet, on noise they end apart", x=0, ha="left", fontweight="bold")
plt.show()

# %% jupyter={"outputs_hidden": true}
noise_ends, image_ends = ([curve[-1] for curve in curves] for curves in runs.values())
assert max(image_ends) / min(image_ends) < max(noise_ends) / min(noise_ends)
assert runs["images, ranks 6 6 2 4"][-1][0] < 1.05 * min(image_ends)
print("the ends on images lie closer together; HOSVD alone is within 5 % of the best of them")

# %% [markdown]
# <details><summary>What the figure says</summary>
#
# A grey line is a random start; one that falls below the frame has met the best end to eight digits. On noise the starts end
# at different errors, or still move after twenty sweeps, and HOSVD's is not always the lowest. Images, whose singular values
# fall, are kinder: the starts meet, and HOSVD is nearly there at once.
# </details>
#
# That is why a few sweeps after HOSVD are common, and many are rare. To compute the best approximation is NP-hard in general
# (Hillar and Lim 2013, already for rank one and order three). The lower bound above tells how far from it you are at most.
#
# ## Ranks from a tolerance
#
# Usually you know the error that you accept, not the ranks. Turn the bound around. Let each mode discard at most
# $\varepsilon^2 \|\mathcal X\|^2 / Q$ of energy. Then the sum of the tails is at most $\varepsilon^2 \|\mathcal X\|^2$, before
# anything is truncated.


# %%
def ranks_for(X, rel_error):
    allowed, ranks = (rel_error * X.norm()) ** 2 / X.ndim, []
    for n in range(X.ndim):
        energy = torch.linalg.svdvals(unfold(X, n)).square()
        discarded = energy.flip(0).cumsum(0).flip(0)  # entry t: what is lost when t directions are kept
        ranks.append(max(1, int((discarded > allowed).sum())))
    return tuple(ranks)


# %%
for X, _ in draws:
    for wanted in (0.05, 0.2, 0.5):
        ranks = ranks_for(X, wanted)
        assert relative_error(X, multi_mode_dot(*hosvd(X, ranks))) <= wanted
        assert relative_error(X, multi_mode_dot(*st_hosvd(X, ranks))) <= wanted
        assert tuple(decompose.tucker(X, rel_error=wanted, method="hosvd").core.shape) == ranks
print(f"the tolerance is kept by HOSVD and by ST-HOSVD, {3 * trials} times; tnlib chooses the same ranks")

# %% [markdown]
# ### What it saves, honestly
#
# A Tucker decomposition stores $\prod_n T_n + \sum_n I_n T_n$ numbers. Its rival is a truncated SVD of one mode's unfolding,
# $R (I_n + \prod_{m \ne n} I_m)$ numbers, with the best choice of $n$. There are two fair comparisons: at the same
# *guarantee*, and at the same *error*. They differ, because an SVD errs by almost exactly what you allow, and Tucker by less.


# %%
def svd_stored(X, rel_error):
    kept = [decompose.svd(unfold(X, n), rel_error=float(rel_error)).S.numel() for n in range(X.ndim)]
    return min(r * (size + X.numel() // size) for r, size in zip(kept, X.shape, strict=True)) / X.numel()


def tucker_stored(X, core, modes):
    return (core.numel() + sum(X.shape[n] * core.shape[n] for n in modes)) / X.numel()


# %% [markdown]
# The tensors: the images; a trained kernel, truncated in all four modes or in its two channel modes only (then the
# tolerance is shared by two); noise of the kernel's shape.

# %%
net = models.load("resnet20-cifar10")
kernel = net.get_submodule(layer).weight.detach().double()
every = (0, 1, 2, 3)
cases = {"images": (stack, every), "kernel": (kernel, every), "kernel, modes 0, 1": (kernel, (0, 1)),
         "noise": (randn(*kernel.shape), every)}  # fmt: skip

# %%
rows = []
for name, (X, modes) in cases.items():
    for wanted in (0.1, 0.3, 0.5, 0.7):
        part = decompose.tucker(X, rel_error=wanted, modes=modes, method="hosvd")
        error = float(relative_error(X, part.to_tensor()))
        row = {"ranks": tuple(part.core.shape), "error": error, "Tucker": tucker_stored(X, part.core, modes)}
        row |= {"SVD, same tolerance": svd_stored(X, wanted), "SVD, same error": svd_stored(X, error)}
        rows.append({"tensor": name, "tolerance": wanted} | row)
table = pd.DataFrame(rows).set_index(["tensor", "tolerance"])
table.round(2)

# %%
wins = pd.DataFrame({basis: table.Tucker < table[f"SVD, {basis}"] for basis in ("same tolerance", "same error")})
for X in ("images", "kernel"):
    assert table.loc[X, "Tucker"].is_monotonic_decreasing
assert (table.loc["images", "Tucker"] < table.loc["kernel", "Tucker"]).all()
assert (table.loc["kernel", "Tucker"] < table.loc["noise", "Tucker"]).loc[0.3:].all()
assert (table.loc["kernel, modes 0, 1", "Tucker"] < table.loc["kernel", "Tucker"]).loc[:0.5].all()
wins.groupby("tensor", sort=False).sum().add_suffix(": Tucker smaller, of 4")

# %% [markdown]
# The last three columns of the first table are numbers stored, as a fraction of the tensor's own; the second table counts in
# how many rows Tucker stores less than the SVD. Read them slowly.
#
# - The error is below the tolerance, often well below. The bound pays for each mode as if nothing were discarded twice,
#   and gives a share to modes that cannot use it.
# - Images: the looser the tolerance, the more Tucker wins. Every mode shrinks, and the fractions multiply. At a tight
#   tolerance the SVD is its equal.
# - The trained kernel lies between images and noise, and at tight tolerances near noise. At the same *tolerance* the SVD
#   mostly stores less: the price of Tucker's guarantee is what Tucker could have won. At the same *error* Tucker is ahead
#   where the error is large. Leaving the spatial modes alone makes the guarantee cheaper, unless the tolerance is loose enough to
#   cut them. (The last layer of ResNet-20 is its most compressible one. Set `layer` to another, and noise comes nearer.)
# - Values above 1 are not misprints: the factors come on top of a core that hardly shrank.
#
# A guarantee is worth its price when you need one. When you do not, evaluate the error and choose ranks by it; the
# section on kernels does.
#
# Numbers are not bytes, either. The pixels were `uint8` before we made them floating point.

# %%
size = tucker_stored(stack, hosvd(stack, ranks_for(stack, tolerance))[0], every)
print(f"images at tolerance {tolerance}: {size:.0%} of the numbers;")
print(f"kept as float32 against uint8 pixels: {4 * size:.0%} of the bytes")

# %% [markdown]
# Now look. The slider chooses the tolerance, the tolerance chooses the four ranks, and `hosvd` does the rest. The figure
# below it shows some of the same frames for readers whose viewer strips scripts. (If the slider does not move, run
# the cell.)

# %%
levels = [0.7, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05]
truncated, captions = [], []
for level in levels:
    ranks = ranks_for(stack, level)
    core, factors = hosvd(stack, ranks)
    approximation = multi_mode_dot(core, factors)
    truncated.append((approximation + mean).clamp(0, 1))
    error, size = relative_error(stack, approximation), tucker_stored(stack, core, every)
    captions.append(f"tolerance {level}: ranks {ranks}, error {error:.2f}, {size:.1%} of the numbers")
print("\n".join(captions))


# %%
def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray((255 * pixels).round().byte().numpy()).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def slider(frames, captions):
    style = 'style="width: 100%; max-width: 768px; image-rendering: pixelated"'
    swap = "this.parentNode.querySelectorAll('figure').forEach((f, i) => f.style.display = i == this.value ? 'block' : 'none')"
    figures = "".join(
        f'<figure style="margin: 0; display: {"none" if i else "block"}"><img {style} alt="{text}" src="data:image/png;base64,{frame}">'
        f"<figcaption>{text}</figcaption></figure>"
        for i, (frame, text) in enumerate(zip(frames, captions, strict=True))
    )
    knob = f'<input type="range" min="0" max="{len(frames) - 1}" value="0" style="width: 400px" oninput="{swap}">'
    return HTML(f"<div>{figures}{knob}</div>")


# %% tags=["nbval-ignore-output"]
strips = [torch.cat([frame[..., i] for i in range(6)], dim=1) for frame in [*truncated, stack + mean]]
slider([png(strip) for strip in strips], [*captions, "the original"])

# %%
shown = [0, 1, 3, 5, 7]
fig, axes = plt.subplots(len(shown), 1, figsize=(7.2, 6.6))
for ax, i in zip(axes, shown, strict=True):
    ax.imshow(strips[i].numpy(), interpolation="nearest")
    ax.set_title([*captions, "the original"][i], fontsize=9, fontweight="normal")
    ax.axis("off")
fig.suptitle("A looser tolerance costs colours and detail", x=0, ha="left", fontweight="bold")
plt.show()

# %% [markdown]
# Few heights and widths blur. One colour direction leaves a single tint. Fewer directions of mode 3 than images make each image
# a mixture of others: that one shows as speckle and ghosts where a picture should be smooth.
#
# ## What is unique, and what is not (optional)
#
# Take any invertible $\mathbf M_n$, put it into the core and its inverse into the factor:
#
# $$\mathcal G \times_n \mathbf M_n \quad\text{and}\quad \mathbf U_n \mathbf M_n^{-1} \qquad\text{give the same } \mathcal X .$$

# %%
X = multi_mode_dot(randn(2, 3, 4), [randn(7, 2), randn(9, 3), randn(5, 4)])
core, factors = hosvd(X, (2, 3, 4))
M = [randn(t, t) for t in core.shape]
other_core = multi_mode_dot(core, M)
other_factors = [U @ torch.linalg.inv(m) for U, m in zip(factors, M, strict=True)]
assert torch.allclose(multi_mode_dot(other_core, other_factors), X)
assert relative_error(core, other_core) > 0.01
print("other core, other factors, same tensor")

# %% [markdown]
# So a column of a Tucker factor means nothing by itself, and neither does a core entry. (Contrast the CPD, whose
# columns are unique up to scale and order under mild conditions.) What *is* unique, where $T_n$ is the multilinear rank and
# the decomposition is exact, is the **subspace** that the columns span: that of the fibres. (With a larger $T_n$ the rest of the
# space is free.) Two subspaces are compared by their principal angles, whose cosines are the singular values of
# $\mathbf Q_1^\top \mathbf Q_2$ for orthonormal bases $\mathbf Q_1$, $\mathbf Q_2$.


# %%
def cosines(A, B):
    return torch.linalg.svdvals(torch.linalg.qr(A).Q.T @ torch.linalg.qr(B).Q)


for U, other in zip(factors, other_factors, strict=True):
    assert bool((cosines(U, other) > 1 - 1e-9).all())
stranger = cosines(factors[1], randn(9, 3)).clamp(max=1).arccos().rad2deg()
print("all angles between the two Tuckers' subspaces are 0; to a random subspace of mode 1, the largest is", end=" ")
print(f"{stranger.max():.0f} degrees")

# %% [markdown]
# All-orthogonality and ordering pick one representative: if the $T_n$ singular values of each mode are distinct, HOSVD at the
# multilinear rank is unique up to signs. Start from the scrambled version, and HOSVD brings back the same core.

# %%
again, _ = hosvd(multi_mode_dot(other_core, other_factors), (2, 3, 4))
assert torch.allclose(again.abs(), core.abs(), atol=1e-8 * float(core.norm()))
print("HOSVD of the scrambled decomposition: the same core, up to signs")

# %% [markdown]
# The freedom is also an opportunity. Between the factors of a layer there is no nonlinearity, so they may be rescaled or
# rotated for numerical reasons, and the network computes the same function.
#
# ## Tucker-2 of a trained kernel
#
# A convolution kernel is $T \times S \times k_h \times k_w$. Its spatial modes have size 3: to cut them to 2 or 1 makes the core
# smaller by a factor of at most 9. So it is usual to compress the two channel modes only, with ranks $R_T$ and $R_S$ (Kim
# et al. 2016, who choose them by *variational Bayesian matrix factorization*, VBMF, of the two unfoldings; here the budget chooses). The core is a
# smaller convolution kernel, the factors are $1 \times 1$ convolutions around it.

# %%
ax = plots.einsum_graph(
    "ta,abhw,sb->tshw", names=("$U_T$", r"$\mathcal{G}$", "$U_S$"), sizes={"h": kernel.shape[2], "w": kernel.shape[3]}
)
ax.set_title("Tucker-2: height and width stay in the core")
plt.show()

# %% [markdown]
# The bases of HOSVD are nested: the box for smaller ranks is a corner of the box for larger ones. One HOSVD therefore
# tells the error of *all* pairs $(R_T, R_S)$, by cumulative sums over the core.


# %%
def tucker2_errors(kernel):
    bases = [svd_basis(kernel, n, None) for n in (0, 1)]
    core = multi_mode_dot(kernel, bases, modes=[0, 1], transpose=True)
    kept = core.square().sum((2, 3)).cumsum(0).cumsum(1)
    return (1 - kept / kernel.norm() ** 2).clamp(min=0).sqrt()  # entry (a, b): ranks a + 1 and b + 1


# %%
errors = tucker2_errors(kernel)
for ranks in ((3, 7), (8, 8), (11, 5)):
    truncation = decompose.tucker(kernel, ranks, modes=(0, 1), method="hosvd").to_tensor()
    assert torch.isclose(relative_error(kernel, truncation), errors[ranks[0] - 1, ranks[1] - 1])
print(f"one HOSVD, {errors.numel():,} pairs of ranks; three of them compared with a real truncation")

# %% [markdown]
# The rivals are again matrices. Two of them, the SVD of $T \times S k_h k_w$ and that of $S \times T k_h k_w$, are hidden in
# the table `errors`. With $R_S = S$ the second factor is an orthogonal matrix that changes nothing, and what remains is the SVD of the first
# unfolding:

# %%
for n in (0, 1):
    sigma = torch.linalg.svdvals(unfold(kernel, n)).square()
    border = errors[:, -1] if n == 0 else errors[-1]
    assert torch.allclose(border.square(), (1 - sigma.cumsum(0) / sigma.sum()), atol=1e-10)
print("the table's last column and last row are the errors of the two SVDs")

# %% [markdown]
# So if you leave out a factor that is square, the best pair can never lose against either of these at equal size. If you keep it,
# as the format `tucker2` of [00 start here](00_start_here.ipynb) does, you pay up to $S^2$ for nothing. **Predict:** where does
# that matter, at small sizes or at large ones?
#
# The third matrix splits the window: $S k_h \times T k_w$, the format `spatial_svd`. For each size, the ranks of Tucker-2, of
# Tucker in all four modes (`tucker`), or of a matrix with the smallest error:


# %%
def frontier(size, errors):
    order = size.flatten().argsort(stable=True)
    return size.flatten()[order], errors.flatten()[order].cummin(0).values


def tucker_frontiers(kernel):
    kept = hosvd(kernel)[0].square()
    for n in range(4):
        kept = kept.cumsum(n)
    errors = (1 - kept / kernel.norm() ** 2).clamp(min=0).sqrt()  # of all boxes
    ranks = torch.meshgrid(*[torch.arange(1, size + 1) for size in errors.shape], indexing="ij")
    size = math.prod(ranks) + sum(rank * n for rank, n in zip(ranks[:2], kernel.shape, strict=False))
    size = size + sum(torch.where(rank < n, rank * n, 0) for rank, n in zip(ranks[2:], kernel.shape[2:], strict=True))
    size = size / kernel.numel()  # a window's mode that stays whole has no factor
    return {"tucker2": frontier(size[..., -1, -1], errors[..., -1, -1]), "tucker": frontier(size, errors)}


# %%
def matrix_frontier(kernel, rows, cols):
    matrix = kernel.permute(*rows, *cols).reshape(math.prod(kernel.shape[m] for m in rows), -1)
    energy = torch.linalg.svdvals(matrix).square()
    numbers = torch.arange(1, len(energy) + 1) * sum(matrix.shape)
    return numbers / kernel.numel(), (1 - energy.cumsum(0) / energy.sum()).clamp(min=0).sqrt()


def frontiers(kernel):
    return {
        **tucker_frontiers(kernel),
        "svd": matrix_frontier(kernel, (0,), (1, 2, 3)),
        "svd, S first": matrix_frontier(kernel, (1,), (0, 2, 3)),
        "spatial_svd": matrix_frontier(kernel, (1, 2), (0, 3)),
    }


# %% jupyter={"outputs_hidden": true}
fig, ax = plt.subplots()
for name, (size, error) in frontiers(kernel).items():
    shown = size <= 1
    color = plots.FORMAT_STYLE.get(name, {"color": "0.6" if "svd" in name else "black"})["color"]
    ax.semilogx(size[shown], error[shown], color=color, label=name)
ax.set(xlabel="numbers stored / original", ylabel="relative error of the kernel", xlim=(0.01, 1), ylim=(0, 1))
ax.set_title(f"{layer}: Tucker pays when you store little")
ax.legend(loc="lower left")
plt.show()

# %% jupyter={"outputs_hidden": true}
convolutions = [
    name for name, part in net.named_modules() if isinstance(part, torch.nn.Conv2d) and part.in_channels > 3
]
names = ["layer1.1.conv2", "layer2.1.conv1", layer] if profile == "quick" else convolutions
rows = []
for name in dict.fromkeys(names):
    weight = net.get_submodule(name).weight.detach().double()
    for budget in (0.1, 0.3, 0.6):
        best = {f: float(error[size <= budget].min()) for f, (size, error) in frontiers(weight).items()}
        rows.append({"layer": name, "budget": budget, **best})
result = pd.DataFrame(rows)
result.set_index(["layer", "budget"]).round(2)

# %% jupyter={"outputs_hidden": true}
mean_error = result.groupby("budget")[["tucker2", "svd", "spatial_svd"]].mean()
assert mean_error.loc[0.1].idxmin() == "tucker2"
assert mean_error.loc[[0.3, 0.6]].idxmin(axis=1).eq("spatial_svd").all()
print("the smallest mean error:", mean_error.idxmin(axis=1).to_dict())

# %% [markdown]
# <details><summary>What figure and table say</summary>
#
# Budgets are numbers stored, as a fraction of the kernel's. On the mean of the layers Tucker-2 beats the SVDs when you store little.
# At larger budgets a plain matrix is better, if it is the right one: the SVD that splits the window, not the channels. That is also
# where the square factor is paid for. To cut all four modes can only help; on most layers it hardly does, since the best box
# leaves the window whole.
# </details>
#
# None of these errors is a loss of accuracy: [00 start here](00_start_here.ipynb) shows how far these two are
# apart, and what the CPD does at equal size. What matters is measured behind the layer, on data.
#
# ## Compress first, then CPD (optional)
#
# Let $\mathbf U_n$ be orthonormal bases of the spaces of fibres, as HOSVD at the multilinear rank gives them. Then
# $\mathbf U_n \mathbf U_n^\top$ leaves $\mathcal X$ as it is. Take *any* CPD of $\mathcal X$, with factors $\mathbf A_n$ and any number of terms, and
# multiply it in all modes by $\mathbf U_n^\top$: it is a CPD of the *core*, with factors $\mathbf B_n = \mathbf U_n^\top \mathbf A_n$ and as
# many terms. Multiply that by $\mathbf U_n$, and it is a CPD of $\mathcal X$ again. So **core and tensor have the same rank**, also when it
# is larger than all sizes of the core:

# %%
bases = [torch.linalg.qr(randn(8, 3)).Q for _ in range(3)]
A = [U @ randn(3, 4) for U in bases]  # four terms in spaces of dimension three
X = torch.einsum("ir,jr,kr->ijk", *A)
core, factors = hosvd(X, multilinear_rank(X))
assert tuple(core.shape) == (3, 3, 3)
B = [U.T @ a for U, a in zip(factors, A, strict=True)]
assert torch.allclose(torch.einsum("ir,jr,kr->ijk", *B), core)
assert torch.allclose(torch.einsum("ir,jr,kr->ijk", *[U @ b for U, b in zip(factors, B, strict=True)]), X)
print("a core of 3 x 3 x 3, and four terms, as many as the tensor's own")

# %% [markdown]
# If the $\mathbf A_n$ have full column rank, the fibres span what their columns span, and $\mathbf U_n \mathbf U_n^\top \mathbf A_n = \mathbf A_n$:
# expanding the core's CPD gives these very factors. Alternating least squares can run on the core (Carroll, Pruzansky and
# Kruskal 1980; Bro and Andersson 1998).

# %%
R, shape = 3, (30, 40, 50)
A = [randn(size, R) for size in shape]
X = torch.einsum("ir,jr,kr->ijk", *A)
core, factors = st_hosvd(X, (R, R, R))
for U, a in zip(factors, A, strict=True):
    assert torch.allclose(U @ (U.T @ a), a)
print("from", tuple(X.shape), "to a core of", tuple(core.shape), "and the CPD's factors lie in the subspaces")

# %%
options = {"init": "svd", "max_iter": 2000, "tol": 1e-13}
direct = decompose.cp(X, R, **options)
small = decompose.cp(core, R, **options)
expanded = [U @ b for U, b in zip(factors, small.factors, strict=True)]
again = torch.einsum("r,ir,jr,kr->ijk", small.weights, *expanded)
assert relative_error(X, again) < 1e-6
assert relative_error(X, direct.to_tensor()) < 1e-6
print("both rebuild the tensor")

# %% [markdown]
# Do they give the *same* terms? Compare every term of one with every term of the other by their congruence (lesson 02):
# the product over the modes of the columns' cosines. Here without its sign, so it is 1 for equal terms.


# %%
def congruence(first, second):
    cosine = [(a / a.norm(dim=0)).T @ (b / b.norm(dim=0)) for a, b in zip(first, second, strict=True)]
    return torch.stack(cosine).prod(0).abs()


for other in (direct.factors, A):
    same = congruence(expanded, other) > 1 - 1e-6
    assert same.sum(0).eq(1).all()
    assert same.sum(1).eq(1).all()
print("the core's CPD, expanded = the direct CPD = the terms that we put in")

# %% [markdown]
# The work of one ALS iteration is mainly the tensor times Khatri-Rao products: $R$ MACs for each entry and each mode.
# Compression is paid once.

# %%
once = macs(shape, (R, R, R), sequential=True)
on_tensor, on_core = 3 * R * math.prod(shape), 3 * R * R**3
print(f"one iteration: {on_tensor:,} MACs on the tensor, {on_core:,} on the core; compression, once: {once:,}")
print(f"compression has paid for itself after {math.ceil(once / (on_tensor - on_core))} iterations")

# %% [markdown]
# A smaller problem is not an easier one. Start both from the same factors, expanded for the tensor: a least-squares update
# commutes with the change of coordinates, so ALS takes the same steps, and what it gets stuck in on one it gets stuck in on
# the other. They are only cheaper on the core.


# %%
def als(T, rank, iterations, start):
    first = CPTensor((torch.ones(rank, dtype=torch.float64), [a.clone() for a in start]))
    return tl.cp_to_tensor(parafac(T, rank, n_iter_max=iterations, init=first, tol=0))


start = [randn(R, R) for _ in shape]
for iterations in (1, 2, 5):
    on_core_now = als(core, R, iterations, start)
    on_tensor_now = als(X, R, iterations, [U @ b for U, b in zip(factors, start, strict=True)])
    assert relative_error(on_tensor_now, multi_mode_dot(on_core_now, factors)) < 1e-6
print("after 1, 2 and 5 iterations: the fit of the core, expanded, is the fit of the tensor")

# %% [markdown]
# With noise, the best CPD of the core is no longer that of $\mathcal X$, only the best one *inside the subspaces*. Pythagoras
# says what that means: for any $\hat{\mathcal G}$, expanded to $\hat{\mathcal X}$,
# $\|\mathcal X - \hat{\mathcal X}\|^2 = \big(\|\mathcal X\|^2 - \|\mathcal G\|^2\big) + \|\mathcal G - \hat{\mathcal G}\|^2$. The first part
# is lost by compression, the second is what ALS works on. A few iterations on the full tensor, started from the expanded
# factors, take back what compression has lost for nothing.

# %%
noisy = X + 3.0 * randn(*shape)
core, factors = hosvd(noisy, (R, R, R))
fit = decompose.cp(core, R, init="svd")
total = (noisy - multi_mode_dot(fit.to_tensor(), factors)).norm() ** 2
assert torch.isclose(total, noisy.norm() ** 2 - core.norm() ** 2 + (core - fit.to_tensor()).norm() ** 2)
print("error^2 = what compression loses + what the core's CPD loses")


# %%
expanded = [U @ b for U, b in zip(factors, fit.factors, strict=True)]
inside = relative_error(noisy, multi_mode_dot(fit.to_tensor(), factors)).item()
polished = {n: relative_error(noisy, als(noisy, R, n, expanded)).item() for n in (1, 3, 100)}
assert inside > polished[1] >= polished[3] - 1e-12 >= polished[100] - 2e-12
assert inside - polished[3] > 0.9 * (inside - polished[100])
print("three iterations on the full tensor take back nine tenths of what a hundred do, or more")

# %% [markdown]
# ## Exercises
#
# Replace `...` by your answer and run the cell.
#
# ### 1. Warm-up: the multilinear rank of a random tensor (15 minutes)
#
# All entries of a tensor of the given shape are drawn at random. What is its multilinear rank? Give a tuple. (The
# largest one that the shape allows; no tensor is needed.)


# %%
def generic_multilinear_rank(shape):
    return ...


check.generic_multilinear_rank(generic_multilinear_rank)

# %% [markdown]
# <details><summary>Hint</summary>
#
# The unfolding of mode $n$ has $I_n$ rows. How many columns? A random matrix has the largest rank that its shape allows.
# </details>
# <details><summary>Solution</summary>
#
# In the [solutions](solutions/03_truncate_tucker.ipynb), section 1.
# </details>

# %% [markdown]
# ### 2. Pencil and paper: how many free parameters? (20 minutes)
#
# A Tucker decomposition stores $\prod_n T_n + \sum_n I_n T_n$ numbers, but different ones give the same tensor. How many
# parameters are *free*: what is the dimension of the set of tensors of multilinear rank exactly $(T_0, \dots, T_{Q-1})$,
# for ranks that exist? Derive it on paper, for any order.


# %%
def tucker_free_parameters(shape, ranks):
    return ...


check.tucker_free_parameters(tucker_free_parameters)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Look at "What is unique, and what is not". How many numbers does one $\mathbf M_n$ have? Try $Q = 2$ first: an
# $m \times n$ matrix of rank $R$ has $R (m + n - R)$ free parameters.
# </details>
# <details><summary>Solution</summary>
#
# In the [solutions](solutions/03_truncate_tucker.ipynb), section 2. It checks the formula by the rank of a Jacobian.
# </details>

# %% [markdown]
# ### 3. Core: the best Tucker-2 ranks under a budget (20 minutes)
#
# Given a kernel and a number of parameters, return the pair $(R_T, R_S)$ whose truncated HOSVD of modes 0 and 1 has the
# smallest error, among all pairs with $T R_T + R_T R_S k_h k_w + S R_S \le$ `budget`. (HOOI and ST-HOSVD err less, and may
# have another best pair. The exercise is about truncated HOSVD: in `decompose.tucker`, `method="hosvd"`.)


# %%
def tucker2_ranks(kernel, budget):
    return ...


check.tucker2_ranks(tucker2_ranks)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `tucker2_errors(kernel)` has the error of all pairs. Set those that cost too much to infinity. Ranks begin at 1.
# </details>
# <details><summary>Solution</summary>
#
# In the [solutions](solutions/03_truncate_tucker.ipynb), section 3.
# </details>

# %% [markdown]
# ### 4. Core: the cheapest order for ST-HOSVD (20 minutes)
#
# ST-HOSVD may process the modes in any order. Give the smallest number of MACs over all orders, counted as above: in
# each step $I_n + T_n$ MACs for each entry of the current tensor.


# %%
def cheapest_st_hosvd(shape, ranks):
    return ...


check.cheapest_st_hosvd(cheapest_st_hosvd)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `itertools.permutations(range(len(shape)))` has all orders. `macs` above is the count for one of them.
# </details>
# <details><summary>Solution</summary>
#
# In the [solutions](solutions/03_truncate_tucker.ipynb), section 4. It also says which rules of thumb fail.
# </details>

# %% [markdown]
# ### 5. Stretch: a tolerance for ST-HOSVD (25 minutes)
#
# `ranks_for` gives each mode the same share of the tolerance, and what a mode does not use is lost. ST-HOSVD knows what
# it has spent. Process the modes $0, 1, \dots$ in turn. Step $n$ may discard, of the *current* tensor,
#
# $$\frac{\varepsilon^2 \|\mathcal X\|^2 - \text{energy discarded so far}}{Q - n} .$$
#
# Keep the smallest rank that respects it, at least 1, truncate, go on. Return the ranks.


# %%
def st_hosvd_ranks(tensor, rel_error):
    return ...


check.st_hosvd_ranks(st_hosvd_ranks)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Merge `ranks_for` into `st_hosvd`. The energy discarded so far is $\|\mathcal X\|^2$ minus the squared norm of the
# current tensor.
# </details>
# <details><summary>Solution</summary>
#
# In the [solutions](solutions/03_truncate_tucker.ipynb), section 5.
# </details>

# %% [markdown]
# ## Summary
#
# - A tensor has a rank in each mode. They differ, within $T_n \le \prod_{m \ne n} T_m$.
# - HOSVD: one SVD a mode. The whole core is all-orthogonal and ordered, its energy gathers at one corner.
# - Truncation costs at most the sum of the discarded energies, and no method can do better than their maximum. So it is
#   within $\sqrt Q$ of the best (a sharp bound, rarely met), and ranks follow from a tolerance with a guarantee.
# - ST-HOSVD keeps the guarantee for fewer MACs. HOOI lowers the error, never raises it, and may stop short of the best.
# - At the multilinear rank subspaces are unique; factors and core are not.
# - Of ResNet-20's kernels, Tucker-2 is better than the SVDs when little is stored; at larger sizes the SVD that splits the
#   window is.
# - The core has $\prod_n T_n$ entries: Tucker is for low orders. The tensor train (lesson 04) removes this exponent.
#
# ## Further reading
#
# - C. Eckart, G. Young, *The approximation of one matrix by another of lower rank*, Psychometrika 1, 1936.
# - L. R. Tucker, *Some mathematical notes on three-mode factor analysis*, Psychometrika 31, 1966.
# - L. De Lathauwer, B. De Moor, J. Vandewalle, [*A multilinear singular value decomposition*](https://doi.org/10.1137/S0895479896305696), SIAM J. Matrix Anal. Appl.
#   21(4), 2000 (cited as 2000a), and *On the best rank-1 and rank-($R_1, R_2, \dots, R_N$) approximation of higher-order
#   tensors*, same issue (2000b).
# - P. M. Kroonenberg, J. de Leeuw, *Principal component analysis of three-mode data by means of alternating least
#   squares algorithms*, Psychometrika 45, 1980.
# - C. J. Hillar, L.-H. Lim, [*Most tensor problems are NP-hard*](https://doi.org/10.1145/2512329), Journal of the ACM 60(6), 2013.
# - N. Vannieuwenhoven, R. Vandebril, K. Meerbergen, [*A new truncation strategy for the higher-order singular value
#   decomposition*](https://doi.org/10.1137/110836067), SIAM J. Sci. Comput. 34(2), 2012.
# - T. G. Kolda, B. W. Bader, [*Tensor decompositions and applications*](https://doi.org/10.1137/07070111X), SIAM Review 51(3), 2009, section 4.
# - Y.-D. Kim et al., [*Compression of deep convolutional neural networks for fast and low power mobile applications*](https://arxiv.org/abs/1511.06530),
#   ICLR 2016: Tucker-2 of whole networks.
# - J. D. Carroll, S. Pruzansky, J. B. Kruskal, *CANDELINC: a general approach to multidimensional analysis of many-way
#   arrays with linear constraints on parameters*, Psychometrika 45, 1980.
# - R. Bro, C. A. Andersson, *Improving the speed of multiway algorithms, part II: compression*, Chemometrics and
#   Intelligent Laboratory Systems 42, 1998.

# %% [markdown]
# Previous: [02 fit CPD](02_fit_cpd.ipynb) · Next: [04 build tensor trains](04_build_tensor_trains.ipynb) · [Solutions](solutions/03_truncate_tucker.ipynb) · [Glossary](GLOSSARY.md)
