# %% [markdown]
# # Build tensor trains: one SVD after another
#
# **What you'll do.** Write TT-SVD and check what it promises; bring a train into canonical form; write a 25088 x 4096
# layer with five hundred numbers, and apply it; see what the order of modes costs; find out where trains lose.
#
# **What you'll learn.** What TT ranks are and why the order of modes decides them; which errors you can promise before
# you compute; what a gauge is; which data suit a train, and which suit CPD or Tucker.
#
# **What you need first.** Notebooks 01 to 03, or: unfoldings, QR and SVD, CPD and Tucker. Some `torch.einsum`.
#
# **Time.** 140 minutes: 60 to read text and code, 80 for the exercises. Run All takes half a minute.
# **Difficulty.** Medium.
#
# Previous: [03 truncate Tucker](03_truncate_tucker.ipynb) · Next: [05 couple third order trains](05_couple_third_order_trains.ipynb) · [Solutions](solutions/04_build_tensor_trains.ipynb) · [Glossary](GLOSSARY.md)

# %% tags=["parameters"]
profile: str = "quick"  # "quick": three kernels, 40 images; "full": all kernels of ResNet-20, 200 images
seed: int = 0  # decides every random tensor
layer: str = "layer3.1.conv1"  # the convolution of ResNet-20 that is looked at in detail
rel_error: float = 0.3  # allowed relative error where the orders of a kernel's modes are compared

# %%
import itertools
import math

import matplotlib.pyplot as plt
import pandas as pd
import tensorly as tl
import torch
from torch.utils.flop_counter import FlopCounterMode

from tnlib import check, data, decompose, models, plots

plots.use_style()
generator = torch.Generator().manual_seed(seed)
num_images = {"quick": 40, "full": 200}[profile]

# %% [markdown]
# ## The question
#
# A tensor of order $Q$ with $N$ values a mode has $N^Q$ entries. CPD stores $QNR$ numbers, but in general no algorithm is
# sure to find it. Tucker comes from SVDs, but its core alone has $R^Q$ entries: the exponent is still there.
#
# **Predict, then reveal.** Take $N = 2$. From which order on does a full tensor in double precision no longer fit in the
# 16 GB of your laptop?

# %% jupyter={"outputs_hidden": true}
for order in (10, 20, 30, 31, 32, 40):
    print(f"order {order}: {8 * 2**order / 1e9:,.3f} GB")

# %% [markdown]
# We want both: few numbers, linear in $Q$ as long as ranks stay fixed, *and* SVDs. That is the **tensor train** (Oseledets 2011; physicists know it
# as a matrix product state).
#
# ## Definition
#
# Modes are numbered from 0, in the text as in the code. A train has one **core** a mode,
# $\mathcal G_q \in \mathbb R^{R_q \times I_q \times R_{q+1}}$, with $R_0 = R_Q = 1$. Fix the middle index of a core and you have
# a matrix $\mathbf G_q(i_q)$; an entry of the tensor is a product of matrices:
#
# $$x_{i_0 i_1 \dots i_{Q-1}} = \mathbf G_0(i_0)\, \mathbf G_1(i_1) \cdots \mathbf G_{Q-1}(i_{Q-1}) .$$
#
# The first factor is a row and the last a column, so the product is a number. $R_q$, the size of the **bond** after
# the first $q$ modes, is a **TT rank**. As a drawing, with a circle a core and a line an index:

# %%
plots.einsum_graph(
    "iA,AjB,BkC,Cl->ijkl",
    names=("G0", "G1", "G2", "G3"),
    sizes={"i": 5, "A": 3, "j": 3, "B": 4, "k": 7, "C": 2, "l": 4},
)
plt.title("Four cores, three bonds, four open legs")
plt.show()


# %%
def rand(*shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def random_train(shape, ranks):
    bonds = [1, *ranks, 1]
    return [rand(bonds[q], size, bonds[q + 1]) for q, size in enumerate(shape)]


# %% [markdown]
# To multiply a train out, contract one bond after another. `close` compares relative to the second tensor's norm; it
# is what every check below uses.


# %%
def full(cores):
    product = cores[0]
    for core in cores[1:]:
        product = torch.tensordot(product, core, 1)
    return product[0, ..., 0]


# %%
def close(a, b, tolerance=1e-10):
    return (a - b).norm() <= tolerance * b.norm()


# %%
train = random_train((5, 3, 7, 4), (3, 4, 2))
entry = train[0][:, 4] @ train[1][:, 0] @ train[2][:, 6] @ train[3][:, 2]
assert torch.isclose(entry.squeeze(), full(train)[4, 0, 6, 2])
print(f"an entry is a product of matrices; {sum(g.numel() for g in train)} numbers store {full(train).numel()}")

# %% [markdown]
# ## TT ranks are ranks of matrices
#
# The **sequential unfolding** $\mathbf X_{\langle q \rangle}$ has the first $q$ modes as rows and the others as columns. In memory,
# row-major, it is a mere `reshape`. Cut a train at bond $q$ and multiply each half out:
#
# $$\mathbf X_{\langle q \rangle} = \mathbf L_q \mathbf R_q , \qquad \mathbf L_q \in \mathbb R^{I_0 \cdots I_{q-1} \times R_q}, \quad
# \mathbf R_q \in \mathbb R^{R_q \times I_q \cdots I_{Q-1}} .$$


# %%
def unfolding(tensor, q):
    return tensor.reshape(math.prod(tensor.shape[:q]), -1)


# %%
def halves(cores, q):
    left = right = torch.ones(1, 1, dtype=torch.float64)
    for core in cores[:q]:
        left = torch.tensordot(left, core, 1).flatten(0, 1)
    for core in reversed(cores[q:]):
        right = torch.tensordot(core, right, 1).flatten(1)
    return left, right


# %%
x = full(train)
for q in (1, 2, 3):
    left, right = halves(train, q)
    assert close(left @ right, unfolding(x, q))
    print(f"cut {q}: {tuple(unfolding(x, q).shape)} = {tuple(left.shape)} times {tuple(right.shape)}")

# %% [markdown]
# So no train of $\mathcal X$ can have a bond smaller than the rank of that unfolding. The converse is a theorem (Oseledets 2011,
# theorem 2.1), and TT-SVD below is its proof: **a train exists whose ranks are exactly those of the sequential
# unfoldings.** These ranks are what "the TT ranks of $\mathcal X$" means. For generic cores, with no
# bond above the limit below, nothing is wasted:

# %%
ranks = [int(torch.linalg.matrix_rank(unfolding(x, q))) for q in (1, 2, 3)]
assert ranks == [3, 4, 2]
print("ranks of the sequential unfoldings:", ranks)

# %% [markdown]
# A matrix's rank is at most its smaller side, so $R_q \le \min(I_0 \cdots I_{q-1},\; I_q \cdots I_{Q-1})$. A tensor with no
# structure reaches that limit at every bond: in the middle it is exponential in $Q$.

# %%
noise = rand(3, 5, 4, 3, 2)
limits = decompose.max_tt_ranks(noise.shape)
assert limits == tuple(int(torch.linalg.matrix_rank(unfolding(noise, q))) for q in range(1, 5))
print("a random tensor of shape", tuple(noise.shape), "has TT ranks", limits)

# %% [markdown]
# ## TT-SVD
#
# Split the first mode off by an SVD and keep the right part as a tensor whose first index is the new bond. Repeat.
# Each step leaves one core with orthonormal columns and discards the tail of one spectrum; its norm $\delta_q$ is kept for
# later.


# %%
def tt_svd(tensor, ranks):
    cores, discarded, rest, left = [], [], tensor, 1
    for size, rank in zip(tensor.shape[:-1], ranks, strict=True):
        U, sigma, Vh = torch.linalg.svd(rest.reshape(left * size, -1), full_matrices=False)
        rank = min(rank, len(sigma))
        cores.append(U[:, :rank].reshape(left, size, rank))
        discarded.append(sigma[rank:].norm())
        rest, left = sigma[:rank, None] * Vh[:rank], rank
    return [*cores, rest.reshape(left, -1, 1)], torch.stack(discarded)


# %% [markdown]
# At the exact ranks, it finds a train of the same size for `x`. The cores are others; what they multiply out to is not.

# %%
again, _ = tt_svd(x, (3, 4, 2))
assert [g.shape for g in again] == [g.shape for g in train]
assert close(full(again), x)
assert not close(again[0], train[0], 1e-2)
print("other cores, same tensor")

# %% [markdown]
# ### The error, before and after
#
# Below the exact ranks it must err. For $q = 1, \dots, Q - 1$ let $\varepsilon_q$ be the distance from $\mathbf X_{\langle q \rangle}$ to the nearest matrix of rank $R_q$:
# the tail of *its* singular values, known before any train is computed. Let $\mathcal X_{\text{best}}$ be a best train of these
# ranks (there is one: corollary 2.4 below). Then
#
# $$\max_q \varepsilon_q \;\le\; \|\mathcal X - \mathcal X_{\text{best}}\| \;\le\; \|\mathcal X - \mathcal X_{\text{TT-SVD}}\| \;=\; \Big(\sum_q \delta_q^2\Big)^{1/2}
# \;\le\; \Big(\sum_q \varepsilon_q^2\Big)^{1/2} \;\le\; \sqrt{Q-1}\, \|\mathcal X - \mathcal X_{\text{best}}\| .$$
#
# Why? *First:* a tensor with a train of these ranks has unfoldings of at most these ranks, so it is at least $\varepsilon_q$ away, for each $q$.
# *The equality:* what step $q$ discards is orthogonal to all that later steps can build, because the cores so far have
# orthonormal columns: Pythagoras. *Then:* $\delta_q \le \varepsilon_q$, because step $q$ sees a projection of $\mathcal X$, and projecting
# does not enlarge singular values. *Last:* each $\varepsilon_q$ is at most the best error. So TT-SVD is **quasi-optimal**, within
# $\sqrt{Q-1}$ (Oseledets 2011, theorem 2.2 and corollary 2.4).


# %%
def tails(tensor, ranks):
    return torch.stack([torch.linalg.svdvals(unfolding(tensor, q + 1))[r:].norm() for q, r in enumerate(ranks)])


def tt_error(tensor, cores):
    return (tensor - full(cores)).norm()


# %%
for small in ((2, 2, 2, 1), (3, 6, 4, 2), (1, 1, 1, 1)):
    cores, delta = tt_svd(noise, small)
    error, epsilon = tt_error(noise, cores), tails(noise, small)
    assert torch.isclose(error, delta.norm())
    assert (delta <= epsilon + 1e-12).all()
    assert epsilon.max() <= error <= epsilon.norm()
print("Pythagoras and the bounds on both sides hold for three choices of ranks")

# %% [markdown]
# The factor compares with a best train, which we do not know; but it holds against *any* train of these ranks. Can TT-SVD
# really be that much worse than the best? Its first step looks at one bond only, and may keep what later bonds
# cannot. Here the first slice of the tensor is a bit longer than the second, so with ranks $(1, 1)$ it is kept. But it is a
# multiple of the identity, of which rank 1 keeps one part in $n$ of the squared norm; the second slice has rank 1 and would have been kept whole:

# %%
for n in (2, 8, 128):
    greedy = torch.zeros(2, n, n, dtype=torch.float64)
    greedy[0], greedy[1, 0, 1] = torch.eye(n) / math.sqrt(n), 0.99
    better = greedy.clone()
    better[0] = 0  # a train of ranks 1, 1
    ratio = tt_error(greedy, tt_svd(greedy, (1, 1))[0]) / (greedy - better).norm()
    assert 1 < ratio <= math.sqrt(2)
    print(f"n = {n:3}: TT-SVD errs {ratio:.3f} times as much as another train; sqrt(Q-1) = {math.sqrt(2):.3f}")
assert ratio > 0.98 * math.sqrt(2)

# %% [markdown]
# So for $Q = 3$ the factor is sharp: nothing smaller holds for all tensors. This one was built for the purpose.
#
# On data. A stack of CIFAR-10 images is a tensor of four modes: image, colour, height, width. **Predict:** how far
# apart are the two bounds, compared with how much they change with the rank?

# %%
images = data.load("cifar10", "train").sample(num_images, seed).images.double() / 255
images = images - images.mean()
grid, curves = (
    (2, 4, 8, 16, 24, 32),
    {"sqrt(sum eps²), promised": [], "TT-SVD": [], "max eps, no train does better": []},
)

# %%
for rank in grid:
    some = [min(rank, limit) for limit in decompose.max_tt_ranks(images.shape)]
    epsilon, error = tails(images, some), tt_error(images, tt_svd(images, some)[0])
    for curve, value in zip(curves.values(), (epsilon.norm(), error, epsilon.max()), strict=True):
        curve.append(float(value / images.norm()))

# %% jupyter={"outputs_hidden": true, "source_hidden": true}
fig, ax = plt.subplots()
for (name, curve), style in zip(curves.items(), ("--", "-", ":"), strict=True):
    ax.plot(grid, curve, style, label=name)
ax.set(xlabel="TT rank, the same at every bond (cut where it exceeds its limit)", ylabel="relative error", xlim=(0, 50))
ax.set(ylim=(0, None), xticks=grid, title="TT-SVD errs less than promised, and little more than it must (images)")
plots.label_lines(ax)
plt.show()

# %% [markdown]
# <details><summary>What you see</summary>
#
# The promise is cautious: where it exceeds 1 it is worth nothing, a tensor of zeros errs less. But TT-SVD stays close to
# the line that no train of these ranks can cross, and both lines were known before. For CPD there is a lower line as well
# (every unfolding has rank at most $R$), but no promise above it.
# </details>
#
# `decompose.tt` and TensorLy's `tensor_train` are the same algorithm. Their cores may differ from ours in sign; compare
# products:

# %%
small = (3, 6, 4, 2)
ours = full(tt_svd(noise, small)[0])
assert close(decompose.tt(noise, small).to_tensor(), ours)
assert close(tl.decomposition.tensor_train(noise, rank=[1, *small, 1]).to_tensor(), ours)
print("TT-SVD here, in tnlib and in TensorLy: the same tensor")

# %% [markdown]
# ## Gauge freedom
#
# Insert $\mathbf M \mathbf M^{-1}$ into a bond and give one half to each neighbour: all numbers in two cores change, the
# tensor does not. This is the **gauge freedom** of a train. A core by itself means nothing.

# %%
M = rand(4, 4)
other = list(train)
other[1], other[2] = torch.tensordot(train[1], M, 1), torch.tensordot(torch.linalg.inv(M), train[2], 1)
assert close(full(other), x)
print(f"core 1 moved by {(other[1] - train[1]).norm() / train[1].norm():.0%} of its norm, the tensor by nothing")

# %% [markdown]
# How many numbers are then really free? Each bond wastes an invertible $R_q \times R_q$ matrix, so
#
# $$\dim = \sum_q R_q I_q R_{q+1} - \sum_{q=1}^{Q-1} R_q^2$$
#
# for the tensors with exactly these TT ranks (Holtz, Rohwedder and Schneider 2012).
# The rank of the Jacobian of "multiply out" counts the directions in which the
# tensor can move:

# %%
cores = random_train((3, 5, 4, 3), (2, 3, 2))
jacobian = torch.autograd.functional.jacobian(lambda *cores: full(cores), tuple(cores))
columns = torch.cat([block.reshape(3 * 5 * 4 * 3, -1) for block in jacobian], dim=1)
free = int(torch.linalg.matrix_rank(columns))
assert free == columns.shape[1] - (2**2 + 3**2 + 2**2)
print(f"{columns.shape[1]} numbers stored, {free} of them free")

# %% [markdown]
# ## Canonical forms
#
# Use the freedom. A core is **left-orthogonal** if its matrix $R_q I_q \times R_{q+1}$ has orthonormal columns. One sweep of QR
# decompositions gets there: keep $\mathbf Q$ as the core, push $\mathbf R$ into the next one.


# %%
def sweep(cores, stop):
    cores = list(cores)
    for q in range(stop):
        left, size, right = cores[q].shape
        Q, R = torch.linalg.qr(cores[q].reshape(left * size, right))
        cores[q], cores[q + 1] = Q.reshape(left, size, -1), torch.tensordot(R, cores[q + 1], 1)
    return cores


# %%
def mirror(cores):
    return [core.permute(2, 1, 0) for core in reversed(cores)]


# %% [markdown]
# The same from the right, on the mirrored train, gives right-orthogonal cores. **Mixed canonical form** with centre $c$:
# left-orthogonal before $c$, right-orthogonal after it.


# %%
def canonical(cores, centre):
    return mirror(sweep(mirror(sweep(cores, centre)), len(cores) - 1 - centre))


mixed = canonical(train, 2)
assert close(full(mixed), x)
print("same tensor, centre at core 2")

# %%
for q, g in enumerate(mixed):
    left, right = torch.einsum("anb,anc->bc", g, g), torch.einsum("anb,cnb->ac", g, g)
    is_left, is_right = (torch.allclose(m, torch.eye(len(m), dtype=m.dtype)) for m in (left, right))
    assert (is_left, is_right) == (q < 2, q > 2)
    print(f"core {q}: left-orthogonal {is_left}, right-orthogonal {is_right}")

# %% [markdown]
# What it buys: everything to the left of the centre is a matrix with orthonormal columns, everything to the right one
# with orthonormal rows. So the tensor's **norm is the norm of the centre core**, wherever the centre is:

# %%
for centre in range(4):
    assert torch.isclose(canonical(train, centre)[centre].norm(), x.norm())
print("the centre core has the norm of the tensor, for all four centres")

# %% [markdown]
# And the best centre core, the others held fixed, is a **projection** of the tensor on them, without solving any system:
# $\mathbf L^\top \mathcal X \mathbf R^\top$. Move the centre from core to core and you have alternating least squares (one round: a
# *sweep*). Started from TT-SVD it can only get better, and cannot pass $\max_q \varepsilon_q$.


# %%
def polish(tensor, cores):
    for q in range(len(cores)):
        cores = canonical(cores, q)
        left, right = halves(cores, q)[0], halves(cores, q + 1)[1]
        block = tensor.reshape(len(left), -1, right.shape[1])
        cores[q] = torch.einsum("al,aib,rb->lir", left, block, right)
    return cores


# %%
cores = tt_svd(noise, small)[0]
errors = [tt_error(noise, cores)]
for _ in range(20):
    cores = polish(noise, cores)
    errors.append(tt_error(noise, cores))
    assert tails(noise, small).max() <= errors[-1] <= errors[-2] + 1e-12
least, most = errors[0] / errors[-1], errors[0] / tails(noise, small).max()
assert 1 <= least <= math.sqrt(noise.ndim - 1)
print(f"20 sweeps lower the error of TT-SVD by {1 - errors[-1] / errors[0]:.1%}, never below the lower bound")
print(
    f"TT-SVD errs {least:.2f} to {most:.2f} times as much as the best train; theory allows {math.sqrt(noise.ndim - 1):.0f}"
)

# %% [markdown]
# That is on noise, where TT-SVD has the least to hold on to. The best train is not known: ALS may stop short of it, so its
# error is an upper bound, and $\max_q \varepsilon_q$ is a lower one. Between the two lies the factor by which TT-SVD misses.
#
# What else canonical forms are good for, rounding and arithmetic in trains, is in
# [20 compute with trains](20_compute_with_trains.ipynb).

# %% [markdown]
# ## TT-matrices
#
# A matrix of $M = \prod m_k$ rows and $N = \prod n_k$ columns: write the row number in digits $(i_0, \dots, i_{d-1})$, the
# column number in digits $(j_0, \dots, j_{d-1})$, and **pair** them, digit by digit (Novikov et al. 2015):
#
# $$w_{ij} = \mathbf G_0(i_0, j_0)\, \mathbf G_1(i_1, j_1) \cdots \mathbf G_{d-1}(i_{d-1}, j_{d-1}), \qquad
# \mathcal G_k \in \mathbb R^{R_k \times m_k \times n_k \times R_{k+1}} .$$

# %%
plots.einsum_graph("ipA,AjqB,BkrC,Cls->ijklpqrs", names=("G0", "G1", "G2", "G3"))
plt.title("Each core has a row digit and a column digit")
plt.show()


# %%
def matrix_train(matrix, rows, cols, ranks):
    d = len(rows)
    pairs = [axis for k in range(d) for axis in (k, d + k)]
    tensor = matrix.reshape(*rows, *cols).permute(pairs).reshape([m * n for m, n in zip(rows, cols, strict=True)])
    cores, _ = tt_svd(tensor, ranks)
    return [g.reshape(len(g), m, n, -1) for g, m, n in zip(cores, rows, cols, strict=True)]


# %%
matrix, rows, cols = rand(30, 24), (3, 2, 5), (4, 3, 2)
exact = matrix_train(matrix, rows, cols, (12, 10))
assert close(torch.einsum("aipb,bjqc,ckrd->ijkpqr", *exact).reshape(30, 24), matrix)
cores = matrix_train(matrix, rows, cols, (7, 9))
dense = torch.einsum("aipb,bjqc,ckrd->ijkpqr", *cores).reshape(30, 24)
assert close(dense, decompose.tt_matrix(matrix, rows, cols, (7, 9)).to_matrix())
print("exact at full ranks; truncated, the same matrix as tnlib's; cores", [tuple(g.shape) for g in cores])

# %% [markdown]
# ### Multiply by a vector, core by core
#
# The matrix is never formed. Each core swaps one column digit for one row digit; the state keeps a bond, the column
# digits still to come, and the row digits done.


# %%
def tt_matvec(cores, vector):
    state = vector.reshape(1, -1)
    for core in cores:
        left, _, n, right = core.shape
        state = torch.tensordot(core, state.reshape(left, n, -1), dims=([0, 2], [0, 1]))  # (m, right, rest)
        state = state.movedim(0, -1).reshape(right, -1)
    return state.flatten()


# %%
vector = rand(24)
assert close(tt_matvec(cores, vector), dense @ vector)
print("equal to the dense product")

# %% [markdown]
# Core $k$ takes $R_k\, m_k n_k R_{k+1}$ MACs for each of the $m_0 \cdots m_{k-1}\, n_{k+1} \cdots n_{d-1}$ columns of the state:


# %%
def macs(function, *arguments):
    with FlopCounterMode(display=False) as counter:
        function(*arguments)
    return counter.get_total_flops() // 2


# %%
def matvec_macs(rows, cols, ranks):
    R = [1, *ranks, 1]
    others = [math.prod(rows[:k]) * math.prod(cols[k + 1 :]) for k in range(len(rows))]
    return sum(R[k] * rows[k] * cols[k] * R[k + 1] * others[k] for k in range(len(rows)))


assert macs(tt_matvec, cores, vector) == matvec_macs(rows, cols, (7, 9))
print(f"{matvec_macs(rows, cols, (7, 9))} MACs, the dense product {dense.numel()}")

# %% [markdown]
# More than the dense product, at these ranks. **A train saves arithmetic only if its ranks are small**: storage falls
# first. At full scale: VGG's first fully connected layer is 25088 x 4096. Novikov et al. write 25088 as
# $2 \cdot 7 \cdot 8 \cdot 8 \cdot 7 \cdot 4$ and 4096 as $4^6$. How many times fewer numbers at ranks 2, 4 and 1?

# %%
inputs, outputs = (2, 7, 8, 8, 7, 4), (4,) * 6
for rank in (2, 4, 1):
    R = [1] + [rank] * 5 + [1]
    entries = sum(R[k] * outputs[k] * inputs[k] * R[k + 1] for k in range(6))
    work = matvec_macs(outputs, inputs, [rank] * 5)
    print(
        f"rank {rank}: {entries:5,} numbers, {25088 * 4096 / entries:7,.0f} times fewer; {25088 * 4096 / work:5.1f} times fewer MACs"
    )
    assert round(25088 * 4096 / entries) == {2: 194_622, 4: 50_972, 1: 713_614}[rank]

# %% [markdown]
# The three factors are those of the paper's table 2 (as reported, not re-read; recomputed here). The columns beside each
# other tell what to expect of speed: the numbers fall by factors of tens or hundreds of thousands, the arithmetic by tens
# or hundreds. And left to right is not the best order: right to left takes fewer MACs. Lesson 06 looks for the best.
#
# The count is checked on real cores, and so is the claim that the layer can be applied at all:

# %%
R = [1, 2, 2, 2, 2, 2, 1]
vgg = [rand(R[k], outputs[k], inputs[k], R[k + 1]) for k in range(6)]
assert sum(g.numel() for g in vgg) == 528
assert macs(tt_matvec, vgg, rand(25088)) == matvec_macs(outputs, inputs, [2] * 5)
assert matvec_macs(outputs[::-1], inputs[::-1], [2] * 5) < matvec_macs(outputs, inputs, [2] * 5)
print(tt_matvec(vgg, rand(25088)).shape, "from 528 numbers")

# %% [markdown]
# ### Rank 1, and why digits are paired
#
# Two facts to keep in mind. A TT-matrix of rank 1 is a **Kronecker product**. And pairing matters: the identity has rank
# 1 if digits are paired. **Predict** its ranks if all row digits come first, then all column digits.

# %%
A, B, C = rand(3, 4), rand(2, 3), rand(5, 2)
one = [A[None, :, :, None], B[None, :, :, None], C[None, :, :, None]]
assert close(tt_matvec(one, vector), torch.kron(torch.kron(A, B), C) @ vector)
print("a TT-matrix of rank 1 multiplies as the Kronecker product of its cores")

# %% jupyter={"outputs_hidden": true}
eye = torch.eye(32, dtype=torch.float64)
paired, unpaired = (
    decompose.tt_matrix(eye, (2,) * 5, (2,) * 5, rel_error=1e-9),
    decompose.tt(eye.reshape((2,) * 10), rel_error=1e-9),
)
print("identity of size 32, paired:", paired.rank, " rows first:", unpaired.rank)

# %% jupyter={"source_hidden": true}
assert list(paired.rank) == [1] * 6
assert list(unpaired.rank) == [1, 2, 4, 8, 16, 32, 16, 8, 4, 2, 1]

# %% [markdown]
# ## The order of modes matters (optional)
#
# CPD and Tucker do not care in which order modes stand. A train does: $R_q$ is the rank across one particular cut. The
# extreme case is $x_{ijkl} = a_{ik}\, b_{jl}$ with invertible $\mathbf A$, $\mathbf B$. Put partners side by side and the middle
# bond is 1. Separate them and it is $N^2$.


# %%
def tt_ranks_of(tensor):
    return [int(torch.linalg.matrix_rank(unfolding(tensor, q))) for q in range(1, tensor.ndim)]


x = torch.einsum("ik,jl->ijkl", rand(6, 6), rand(6, 6))
assert tt_ranks_of(x.permute(0, 2, 1, 3)) == [6, 1, 6]
assert tt_ranks_of(x) == [6, 36, 6]
print("i k j l:", tt_ranks_of(x.permute(0, 2, 1, 3)), "  i j k l:", tt_ranks_of(x))

# %% [markdown]
# There are $Q!$ orders, half as many up to reversal: reading a train backwards transposes every unfolding and keeps the
# ranks. Now a trained kernel with modes $T, S, k_h, k_w$, all 12 orders. The ranks are chosen such that the bound
# $\sqrt{\sum \varepsilon_q^2}$ meets the parameter `rel_error`, each bond taking its share.


# %%
resnet = models.load("resnet20-cifar10")
convs = {name: m for name, m in resnet.named_modules() if isinstance(m, torch.nn.Conv2d) and m.in_channels > 3}
kernel = convs[layer].weight.detach().double()


# %%
def ranks_for(tensor, rel_error):
    share = rel_error * tensor.norm() / math.sqrt(tensor.ndim - 1)
    spectra = [torch.linalg.svdvals(unfolding(tensor, q)) for q in range(1, tensor.ndim)]
    return [max(1, int((s.square().flip(0).cumsum(0).flip(0).sqrt() > share).sum())) for s in spectra]


# %%
def tt_entries(shape, ranks):
    R = [1, *ranks, 1]
    return sum(R[q] * size * R[q + 1] for q, size in enumerate(shape))


# %%
def storage(kernel):
    rows = {}
    for order in itertools.permutations(range(4)):
        if order < order[::-1]:
            moved = kernel.permute(order)
            name = " ".join(("T", "S", "h", "w")[mode] for mode in order)
            rows[name] = tt_entries(moved.shape, ranks_for(moved, rel_error)) / kernel.numel()
    return rows


# %%
assert ranks_for(kernel, rel_error) == ranks_for(kernel.permute(3, 2, 1, 0), rel_error)[::-1]
print("reading backwards reverses the ranks")

# %%
chosen = (
    [layer, *(n for n in ("layer1.0.conv1", "layer2.1.conv2") if n != layer)] if profile == "quick" else list(convs)
)
orders = pd.DataFrame({name: storage(convs[name].weight.detach().double()) for name in chosen}).sort_values(
    layer, kind="stable"
)
orders.round(2)

# %%
fig, ax = plt.subplots(figsize=(7, 4.2))
for (name, column), marker in zip(orders.items(), itertools.cycle("osD")):
    is_shown = profile == "quick" or name == layer
    label = f"{name}, {convs[name].out_channels} channels" if is_shown else None
    ax.plot(column, range(12), marker, color=None if is_shown else "0.75", label=label, zorder=2 + is_shown)
ax.axvline(1, color="0.4", linestyle="--", linewidth=1)
ax.set_yticks(range(12), orders.index)
ax.set(xlabel="numbers stored / original", ylabel="order of the modes; h, w: height, width", ylim=(11.5, -0.5))
ax.set_title(f"Mode order decides what a train stores (error at most {rel_error:.0%})")
ax.legend(loc="lower center", bbox_to_anchor=(0.5, -0.32), ncols=3, fontsize="small")
plt.show()

# %% [markdown]
# Where the two channel modes stand side by side at one end, the cut in the middle separates channels from space: a matrix
# with $k_h k_w = 9$ columns, so that bond is at most 9. In any other order the middle cut is a matrix of size $3S \times 3T$, and
# a trained kernel uses much of its rank. On the two larger kernels those four orders store least; with 16 channels $3S$ is
# only 48, and the orders differ less. Right of the dashed line the train is *larger* than the kernel. And storage is not
# speed: the order that makes a chain of small convolutions, $S, k_h, k_w, T$ (lesson 06), is none of the four.

# %% [markdown]
# ## Ranks and size: smooth data, trained weights (optional)
#
# Any vector of $2^d$ entries becomes a tensor of $d$ modes of size 2, one a binary digit: the **quantized** tensor train,
# QTT (Oseledets 2010; Khoromskij 2011; lesson 01). For $x_k = e^{ak}$ the digits separate,
# $e^{a(k_0 2^{d-1} + \dots + k_{d-1})} = \prod_q e^{a\, 2^{d-1-q} k_q}$: **rank 1**. For the sine, the addition theorem is a
# product of rotation matrices: **rank 2**. A polynomial of degree $p$ has rank at most $p + 1$.


# %%
def sine_train(d, step):
    angles = [step * 2 ** (d - 1 - q) * torch.arange(2, dtype=torch.float64) for q in range(d)]
    rotations = [torch.stack([a.cos(), -a.sin(), a.sin(), a.cos()], -1).reshape(2, 2, 2).movedim(0, 1) for a in angles]
    first = torch.tensordot(torch.tensor([[0.0, 1.0]], dtype=torch.float64), rotations[0], 1)
    last = torch.tensordot(rotations[-1], torch.tensor([[1.0], [0.0]], dtype=torch.float64), 1)
    return [first, *rotations[1:-1], last]


# %%
d, step = 12, 0.01
t = step * torch.arange(2**d, dtype=torch.float64)
sine = sine_train(d, step)
assert (full(sine).flatten() - torch.sin(t)).abs().max() < 1e-10
print(f"sine on {2**d} points from {sum(g.numel() for g in sine)} numbers")

# %%
for name, values in {
    "exp": torch.exp(-t),
    "sin": torch.sin(t),
    "cubic": 1 - t + 0.3 * t**3,
    "sin + exp": torch.sin(t) + torch.exp(-t / 9),
}.items():
    ranks = decompose.tt(values.reshape((2,) * d), rel_error=1e-9).rank
    print(f"{name:<10} largest rank {max(ranks)}")
    assert max(ranks) == {"exp": 1, "sin": 2, "cubic": 4, "sin + exp": 3}[name]

# %% [markdown]
# Is a trained layer like that? The first layer of the MLP is 1024 x 1024, so $2^{10} \times 2^{10}$. As a TT-matrix with
# paired binary digits it has nine bonds. A caution: its inputs are images of 28 x 28 pixels, padded to 32 x 32. The columns
# of the 240 padding pixels hold what weight decay left of their first values.
#
# Beside it: noise with the same columns empty, the largest possible ranks, and a smooth matrix, $e^{-|i - j|/100}$. All at
# the relative error `rel_error`, or better.

# %%
W = models.load("mlp1024-mnist")[2].weight.detach().double()
seen = torch.nn.functional.pad(torch.ones(28, 28, dtype=torch.float64), (2,) * 4).flatten()
share = (W * (1 - seen)).square().sum() / W.square().sum()
print(f"{int((1 - seen).sum())} columns of padding hold {share:.1%} of the squared norm")

# %%
points = torch.arange(1024, dtype=torch.float64)
smooth = torch.exp(-(points[:, None] - points).abs() / 100)
matrices = {"noise": rand(1024, 1024) * seen, "trained": W, "smooth": smooth}
pairs = [axis for k in range(10) for axis in (k, 10 + k)]
qtt = {
    name: ranks_for(m.reshape((2,) * 20).permute(pairs).reshape((4,) * 10), rel_error) for name, m in matrices.items()
}
qtt["most possible"] = list(decompose.max_tt_ranks((4,) * 10))

# %%
fig, ax = plt.subplots()
for name, ranks in qtt.items():
    line = ax.plot(range(1, 10), ranks, "--" if name == "most possible" else "-")[0]
    ax.annotate(name, (5, ranks[4]), (7.3, ranks[4] + 80), color=line.get_color(), arrowprops={"arrowstyle": "-"})
ax.set(xlabel="bond q, after q of the ten digit pairs", ylabel=f"TT rank at {rel_error:.0%} error", xticks=range(1, 10))
ax.set_ylim(-40, 1200)
ax.set_title("A trained weight is closer to noise than to a smooth function")
plt.show()

# %%
stored = {name: f"{tt_entries((4,) * 10, ranks) / 2**20:.4f}" for name, ranks in qtt.items()}
pd.Series(stored, name="numbers stored / entries").to_frame()

# %% [markdown]
# On smooth data the train compresses by orders of magnitude. On trained weights it saves little or nothing at this error
# (above 1 it stores more than the matrix has); noise with the same empty columns needs more still. Nothing in training
# asked for smoothness: the hidden units stand in an arbitrary order, so neighbouring rows have nothing to do with each
# other. That is a weight trained *without* the format. A layer trained *in* it can do far better; that is what Novikov et
# al. did.

# %% [markdown]
# ## When trains lose: which format for what
#
# **A CP tensor of high rank.** Each term is rank 1 across every cut, so a tensor of CP rank $R$ has TT ranks at most $R$,
# cut at the ends where the sizes do not allow more. But a middle core then has $N R^2$ entries, of which a diagonal train
# uses $N R$: TT stores a matrix where CP stores a diagonal.

# %%
N, Q, R = 10, 4, 40
factors = [rand(N, R) for _ in range(Q)]
x = tl.cp_to_tensor((torch.ones(R, dtype=torch.float64), factors))
diagonal = [torch.diag_embed(f).transpose(0, 1) for f in factors]
diagonal[0], diagonal[-1] = diagonal[0].sum(0, keepdim=True), diagonal[-1].sum(2, keepdim=True)
assert close(full(diagonal), x)
assert tt_ranks_of(x) == [min(R, N**q, N ** (Q - q)) for q in range(1, Q)]
print("TT ranks", tt_ranks_of(x), "of a tensor of CP rank", R)

# %% [markdown]
# **A generic Tucker core.** Its factors are orthogonal changes of basis, one a mode, and do not touch the ranks of
# unfoldings. So the TT ranks are those of the core: the most possible for a $T \times T \times T \times T$ tensor.

# %%
core, bases = rand(5, 5, 5, 5), [torch.linalg.qr(rand(20, 5)).Q for _ in range(4)]
x_tucker = tl.tucker_to_tensor((core, bases))
assert tt_ranks_of(x_tucker) == list(decompose.max_tt_ranks((5, 5, 5, 5)))
print("TT ranks", tt_ranks_of(x_tucker), "from Tucker ranks 5")

# %% [markdown]
# **A cycle.** Close the chain to a ring, $x = \operatorname{trace}(\mathbf G_0(i) \mathbf G_1(j) \mathbf G_2(k) \mathbf G_3(l))$. Every contiguous cut
# now goes through *two* bonds, so the ranks are $R^2$. **Predict:** does another order of the modes help?

# %% jupyter={"outputs_hidden": true}
ring = [rand(3, 10, 3) for _ in range(4)]
x_ring = torch.einsum("aib,bjc,ckd,dla->ijkl", *ring)
worst = {order: max(tt_ranks_of(x_ring.permute(order))) for order in itertools.permutations(range(4))}
print("largest TT rank over all orders: from", min(worst.values()), "to", max(worst.values()))

# %% jupyter={"source_hidden": true}
assert min(worst.values()) == 3**2
assert max(worst.values()) == 3**4

# %% [markdown]
# <details><summary>What you see</summary>
#
# It does not; a bad order makes it worse. A train is a line, and a ring has no ends. The same holds for grids: a train
# through a picture must cut many neighbours.
# </details>
#
# Who wins where? Four tensors, each built in one format, stored in each: the ranks are those of their unfoldings
# (all at the exact ranks, so nothing is lost). For CPD we only know what the construction gives.

# %%
x_chain = full(random_train((10,) * 4, (3, 3, 3)))


# %%
def tucker_entries(tensor):
    ranks = [int(torch.linalg.matrix_rank(tl.unfold(tensor, q))) for q in range(tensor.ndim)]
    return sum(n * r for n, r in zip(tensor.shape, ranks, strict=True)) + math.prod(ranks)


# %%
def sizes(tensor, by_construction):
    train = tt_entries(tensor.shape, tt_ranks_of(tensor))
    return {"full": tensor.numel(), "Tucker": tucker_entries(tensor), "TT": train} | by_construction


# %%
home = {
    "CP rank 40, 10^4": sizes(x, {"CP": 4 * 10 * 40}),
    "Tucker core 5^4, 20^4": sizes(x_tucker, {}),
    "ring of bonds 3, 10^4": sizes(x_ring, {"ring": 4 * 10 * 9}),
    "train of bonds 3, 10^4": sizes(x_chain, {}),
}
table = pd.DataFrame(home).T[["full", "CP", "Tucker", "TT", "ring"]].astype("Int64")

# %%
winners = {"CP": "CP", "Tucker": "Tucker", "ring": "ring", "train": "TT"}
assert all(row[winners[name.split()[0]]] == row.min() for name, row in table.iterrows())
table.astype(str).replace("<NA>", "")

# %% [markdown]
# Each format wins at home. Choosing one is a statement about how the modes depend on each other: all through one common
# index (CPD), through a small common core (Tucker), along a line (TT).
#
# One more difference. With $\mathbf a$, $\mathbf b$ independent, the tensor
# $\mathcal W = \mathbf a \circ \mathbf a \circ \mathbf b + \mathbf a \circ \mathbf b \circ \mathbf a + \mathbf b \circ \mathbf a \circ \mathbf a$ has CP rank 3, and tensors
# of CP rank 2 come as near as you like, with terms that diverge (de Silva and Lim 2008): there is *no* best one
# (lesson 02). Its
# TT ranks are 2, and ranks of matrices cannot jump up in a limit: for trains, as for Tucker, a best approximation exists
# (Oseledets 2011, corollary 2.4).


# %%
def cube(v):
    return torch.einsum("i,j,k->ijk", v, v, v)


a, b = torch.eye(2, dtype=torch.float64)
w = sum(torch.einsum("i,j,k->ijk", *three) for three in ((a, a, b), (a, b, a), (b, a, a)))
for epsilon in (1e-1, 1e-2, 1e-3):
    near = (cube(a + epsilon * b) - cube(a)) / epsilon
    assert (near - w).norm() < 2 * epsilon
    print(f"distance {(near - w).norm():.4f}, size of each term {cube(a).norm() / epsilon:,.0f}")
assert tt_ranks_of(w) == [2, 2]

# %% [markdown]
# ## Exercises
#
# Replace `...` by your answer and run the cell. A train is given as a list of cores $R_q \times I_q \times R_{q+1}$.
#
# ### 1. Warm-up: one entry (15 minutes)
#
# Return the entry $x_{i_0 i_1 \dots}$ of a train; `index` holds one index a mode. Do not form the tensor.


# %%
def tt_entry(cores, index):
    return ...


check.tt_entry(tt_entry)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Fix the middle index of each core. What is left of a core, and what do you do with all of them?
# </details>
# <details><summary>Solution</summary>
#
# In the [solutions](solutions/04_build_tensor_trains.ipynb), section 1.
# </details>

# %% [markdown]
# ### 2. Core: ranks in another order (20 minutes)
#
# Return the TT ranks $R_1, \dots, R_{Q-1}$ of a tensor whose modes are rearranged: `order[0]` is the mode that comes
# first.


# %%
def tt_ranks(tensor, order):
    return ...


check.tt_ranks(tt_ranks)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `tensor.permute`, then one matrix rank for each cut. Return a tensor or a list of $Q - 1$ numbers.
# </details>
# <details><summary>Solution</summary>
#
# In the [solutions](solutions/04_build_tensor_trains.ipynb), section 2.
# </details>

# %% [markdown]
# ### 3. Core: the trace of a TT-matrix (20 minutes)
#
# The cores $R_k \times n_k \times n_k \times R_{k+1}$ of a square TT-matrix are given, the row digit before the column digit. Return the
# matrix's trace, the sum of its diagonal. Do not form the matrix.


# %%
def tt_matrix_trace(cores):
    return ...


check.tt_matrix_trace(tt_matrix_trace)

# %% [markdown]
# <details><summary>Hint</summary>
#
# On the diagonal row and column number are equal. What does that say of their digits? Which sums can be taken core by core?
# </details>
# <details><summary>Solution</summary>
#
# In the [solutions](solutions/04_build_tensor_trains.ipynb), section 3.
# </details>

# %% [markdown]
# ### 4. Stretch: singular values of a matrix you cannot form (25 minutes)
#
# Return the $R_q$ largest singular values of the sequential unfolding $\mathbf X_{\langle q \rangle}$, in descending order, from the cores alone.
# (In the check, no rank is larger than it needs to be.)


# %%
def tt_singular_values(cores, q):
    return ...


check.tt_singular_values(tt_singular_values)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Multiplying by a matrix with orthonormal columns from the left, or orthonormal rows from the right, keeps singular
# values. Where must the centre be so that one small matrix carries those of cut $q$?
# </details>
# <details><summary>Solution</summary>
#
# In the [solutions](solutions/04_build_tensor_trains.ipynb), section 4.
# </details>

# %% [markdown]
# ## Summary
#
# - TT ranks are ranks of matrices: of the sequential unfoldings. So trains have SVDs, errors that you know beforehand, and
#   a best approximation.
# - TT-SVD is within $\sqrt{Q-1}$ of the best; on images it is far closer.
# - Cores are not unique, only their product is. Canonical forms fix most of the gauge and make norms local.
# - A TT-matrix pairs row and column digits. Storage falls first, arithmetic later if at all.
# - The order of modes decides. A line suits chains, not cycles, not grids, not a large common core.
# - Trained weights are not smooth: expect less than the examples promise.
#
# ## Further reading
#
# - I. V. Oseledets, [*Tensor-train decomposition*](https://doi.org/10.1137/090752286), SIAM J. Sci. Comput. 33(5), 2011.
# - I. V. Oseledets, [*Approximation of $2^d \times 2^d$ matrices using tensor decomposition*](https://doi.org/10.1137/090757861), SIAM J. Matrix Anal. Appl. 31(4), 2010.
# - B. N. Khoromskij, [*O(d log N)-quantics approximation of N-d tensors in high-dimensional numerical modeling*](https://doi.org/10.1007/s00365-011-9131-1),
#   Constr. Approx. 34, 2011.
# - A. Novikov, D. Podoprikhin, A. Osokin, D. Vetrov, [*Tensorizing neural networks*](https://arxiv.org/abs/1509.06569), NeurIPS 2015.
# - S. Holtz, T. Rohwedder, R. Schneider, [*On manifolds of tensors of fixed TT-rank*](https://doi.org/10.1007/s00211-011-0419-7), Numer. Math. 120, 2012.
# - V. de Silva, L.-H. Lim, [*Tensor rank and the ill-posedness of the best low-rank approximation problem*](https://doi.org/10.1137/06066518X), SIAM J. Matrix
#   Anal. Appl. 30(3), 2008.
# - U. Schollwöck, [*The density-matrix renormalization group in the age of matrix product states*](https://doi.org/10.1016/j.aop.2010.09.012), Ann. Phys. 326, 2011:
#   the physicists' side, canonical forms in full.
#
# Sums, products and rounding in trains, a tensor with $2^{40}$ entries, and all formats in one table:
# [20 compute with trains](20_compute_with_trains.ipynb).

# %% [markdown]
# Previous: [03 truncate Tucker](03_truncate_tucker.ipynb) · Next: [05 couple third order trains](05_couple_third_order_trains.ipynb) · [Solutions](solutions/04_build_tensor_trains.ipynb) · [Glossary](GLOSSARY.md)
