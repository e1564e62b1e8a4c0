# %% [markdown]
# # Build tensor trains: from one SVD after another to $2^{40}$ entries
#
# **What you'll do.** Write TT-SVD, rounding and the arithmetic of tensor trains; sum a tensor of $2^{40}$ entries
# exactly without forming it; write a 25088 x 4096 layer with two thousand numbers; find out where trains lose; end
# with one table of all formats, its formulas checked against real factors.
#
# **What you'll learn.** What TT ranks are and why the order of modes decides them; which errors you can promise before
# you compute; what a gauge is; what each format costs to store, to compute and to apply.
#
# **What you need first.** Notebooks 01 to 03, or: unfoldings, QR and SVD, CPD and Tucker. Some `torch.einsum`.
#
# **Time.** 200 minutes: 100 to read text and code, 100 for the exercises. Run All takes a minute or two.
# **Difficulty.** Medium.
#
# Previous: [03 truncate Tucker](03_truncate_tucker.ipynb) · Next: [05 couple third order trains](05_couple_third_order_trains.ipynb) · [Solutions](solutions/04_build_tensor_trains.ipynb) · [Glossary](GLOSSARY.md)

# %% tags=["parameters"]
profile: str = "quick"  # "quick": three kernels, few CP sweeps; "full": all of ResNet-20's, many sweeps
seed: int = 0  # decides every random tensor and the starting points of CPD
layer: str = "layer3.1.conv1"  # the convolution of ResNet-20 that is looked at in detail, one with stride 1
rel_error: float = 0.3  # allowed relative error where the orders of a kernel's modes are compared
sites: int = 40  # spins of the Ising chain: 2^sites entries; 4 to 200
coupling: float = 0.6  # between neighbouring spins, in units of temperature; not 0
fraction: float = 0.3  # of the kernel's parameters that each format may keep in the last comparison

# %%
import itertools
import math

import matplotlib.pyplot as plt
import pandas as pd
import tensorly as tl
import torch
from torch.utils.flop_counter import FlopCounterMode

from tnlib import check, data, decompose, layers, measure, models, plots

plots.use_style()
pd.set_option("display.max_colwidth", None)
generator = torch.Generator().manual_seed(seed)
cp_sweeps, num_images = {"quick": (6, 40), "full": (50, 200)}[profile]

# %% [markdown]
# ## The question
#
# A tensor of order $Q$ with $N$ values a mode has $N^Q$ entries. CPD stores $QNR$ numbers, but no algorithm is sure to
# find it. Tucker comes from SVDs, but its core alone has $R^Q$ entries: the exponent is still there.
#
# **Predict, then reveal.** Take $N = 2$. From which order on does a full tensor in double precision no longer fit in the
# 16 GB of your laptop?

# %% jupyter={"outputs_hidden": true}
for order in (10, 20, 30, 31, 32, 40):
    print(f"order {order}: {8 * 2**order / 1e9:,.3f} GB")

# %% [markdown]
# We want both: few numbers, linear in $Q$, *and* SVDs. That is the **tensor train** (Oseledets 2011; physicists know it
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
# unfoldings.** These ranks are what "the TT ranks of $\mathcal X$" means. For generic cores nothing is wasted:

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
# Below the exact ranks it must err. Let $\varepsilon_q$ be the distance from $\mathbf X_{\langle q \rangle}$ to the nearest matrix of rank $R_q$:
# the tail of *its* singular values, known before anything is computed. Then
#
# $$\max_q \varepsilon_q \;\le\; \|\mathcal X - \mathcal X_{\text{best}}\| \;\le\; \|\mathcal X - \mathcal X_{\text{TT-SVD}}\| \;=\; \Big(\sum_q \delta_q^2\Big)^{1/2}
# \;\le\; \Big(\sum_q \varepsilon_q^2\Big)^{1/2} \;\le\; \sqrt{Q-1}\, \|\mathcal X - \mathcal X_{\text{best}}\| .$$
#
# Why? *First:* every train with these ranks has unfoldings with these ranks, so it is at least $\varepsilon_q$ away, for each $q$.
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
    assert epsilon.max() <= error <= epsilon.norm() <= math.sqrt(4) * epsilon.max()
print("Pythagoras, both bounds, and the factor sqrt(Q-1): hold for three choices of ranks")

# %% [markdown]
# Can TT-SVD really be that much worse than the best? Its first step looks at one bond only, and may keep what later bonds
# cannot. Here the first slice of the tensor is a bit longer than the second, so with ranks $(1, 1)$ it is kept. But it is a
# multiple of the identity, of which rank 1 keeps one part in $n$; the second slice has rank 1 and would have been kept whole:

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
# So the factor is sharp: nothing smaller holds for all tensors. Such tensors are rare.
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

# %% jupyter={"outputs_hidden": true}
fig, ax = plt.subplots()
for (name, curve), style in zip(curves.items(), ("--", "-", ":"), strict=True):
    ax.plot(grid, curve, style, label=name)
ax.set(xlabel="TT rank, the same at every bond (cut where it exceeds its limit)", ylabel="relative error", xlim=(0, 50))
ax.set(ylim=(0, None), xticks=grid, title="TT-SVD errs less than promised, and little more than it must (images)")
plots.label_lines(ax)
plt.show()

# %% [markdown]
# The promise is cautious: where it exceeds 1 it is worth nothing, a tensor of zeros errs less. But TT-SVD stays close to
# the line that no train of these ranks can cross, and both lines were known before. For CPD nothing like it exists.
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
# (Holtz, Rohwedder and Schneider 2012). The rank of the Jacobian of "multiply out" counts the directions in which the
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
# $\mathbf L^{\mathsf T} \mathcal X \mathbf R^{\mathsf T}$. Move the centre from core to core and you have alternating least squares. It starts from
# TT-SVD, can only get better, and cannot pass $\max_q \varepsilon_q$.


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
print(f"20 sweeps lower the error of TT-SVD by {1 - errors[-1] / errors[0]:.1%}, never below the lower bound")

# %% [markdown]
# On noise, where TT-SVD has the least to hold on to, that is what it leaves on the table. Far from the factor
# $\sqrt{Q-1}$ that theory allows.

# %% [markdown]
# ## Arithmetic without multiplying out
#
# Sum: put the matrices $\mathbf G_q(i)$ and $\mathbf H_q(i)$ side by side on a diagonal. **Ranks add.** Entrywise (Hadamard)
# product: the product of two numbers is a Kronecker product of $1 \times 1$ matrices, and
# $(\mathbf A \otimes \mathbf B)(\mathbf C \otimes \mathbf D) = \mathbf{AC} \otimes \mathbf{BD}$. **Ranks multiply.**


# %%
def tt_add(x, y):
    cores = []
    for g, h in zip(x, y, strict=True):
        (a, _, b), (c, _, d) = g.shape, h.shape
        upper = torch.nn.functional.pad(g, (0, d, 0, 0, 0, c))
        cores.append(upper + torch.nn.functional.pad(h, (b, 0, 0, 0, a, 0)))
    cores[0], cores[-1] = cores[0].sum(0, keepdim=True), cores[-1].sum(2, keepdim=True)
    return cores


# %%
def tt_hadamard(x, y):
    return [torch.einsum("anb,cnd->acnbd", g, h).flatten(3).flatten(0, 1) for g, h in zip(x, y, strict=True)]


# %%
def bonds(cores):
    return [core.shape[0] for core in cores[1:]]


u, v = random_train((5, 3, 7, 4), (3, 4, 2)), random_train((5, 3, 7, 4), (2, 5, 3))
for name, operation, result in (("sum", tt_add, full(u) + full(v)), ("product", tt_hadamard, full(u) * full(v))):
    assert close(full(operation(u, v)), result)
    print(f"{name}: ranks {bonds(u)} and {bonds(v)} give {bonds(operation(u, v))}")

# %% [markdown]
# ### Inner product
#
# Contract the ladder from one end to the other. The state in between is an $R \times S$ matrix, never larger:

# %%
two_rows = [(q, 1) for q in range(4)] + [(q, 0) for q in reversed(range(4))]
names = ("G0", "G1", "G2", "G3", "H3", "H2", "H1", "H0")
plots.einsum_graph("iA,AjB,BkC,Cl,cl,bkc,ajb,ia->", names=names, at=two_rows)
plt.title("An inner product has no open leg")
plt.show()


# %%
def tt_inner(x, y):
    state = torch.ones(1, 1, dtype=torch.float64)
    for g, h in zip(x, y, strict=True):
        half = (state.T @ g.flatten(1)).reshape(-1, g.shape[2])  # (bond of y and mode, next bond of x)
        state = half.T @ h.flatten(0, 1)
    return state[0, 0]


# %%
assert torch.isclose(tt_inner(u, v), (full(u) * full(v)).sum())
assert torch.isclose(tt_inner(u, u).sqrt(), full(u).norm())
print("inner product and norm agree with the dense ones")


# %% [markdown]
# Its cost is $\sum_q (R_q S_q I_q R_{q+1} + S_q I_q R_{q+1} S_{q+1})$ MACs, about $2 Q N R^3$. Counted while it runs:


# %%
def macs(function, *arguments):
    with FlopCounterMode(display=False) as counter:
        function(*arguments)
    return counter.get_total_flops() // 2


# %%
R, S, I = [1, *bonds(u), 1], [1, *bonds(v), 1], (5, 3, 7, 4)
formula = sum(S[q] * I[q] * R[q + 1] * (R[q] + S[q + 1]) for q in range(4))
assert macs(tt_inner, u, v) == formula
print(f"{formula} MACs for the inner product of two trains, {5 * 3 * 7 * 4} if both tensors were at hand")

# %% [markdown]
# For four short modes the dense product is cheaper, even if it is free to form. The train's cost grows with the number
# of modes, the dense one with its exponential.

# %% [markdown]
# ## Rounding
#
# Arithmetic makes trains with larger ranks than they need. You want TT-SVD of that tensor, but you only
# have its cores, and multiplying them out may be impossible. **Rounding** (Oseledets 2011, algorithm 2): put the centre
# at core 0, then sweep to the right with truncated SVDs. The cores to the right are orthogonal, so the singular values
# of the small centre core *are* those of the huge unfolding.


# %%
def tt_round(cores, rel_error=1e-12, max_rank=10**9):
    cores = canonical(cores, 0)
    threshold = rel_error * cores[0].norm() / math.sqrt(len(cores) - 1)
    for q in range(len(cores) - 1):
        left, size, right = cores[q].shape
        U, sigma, Vh = torch.linalg.svd(cores[q].reshape(left * size, right), full_matrices=False)
        tail = sigma.square().flip(0).cumsum(0).flip(0).sqrt()
        rank = max(1, min(max_rank, int((tail > threshold).sum())))
        cores[q] = U[:, :rank].reshape(left, size, rank)
        cores[q + 1] = torch.tensordot(sigma[:rank, None] * Vh[:rank], cores[q + 1], 1)
    return cores


# %% [markdown]
# The sum of a train and itself is twice that train, stored with twice the ranks. Rounding finds out. And it equals TT-SVD
# of the full tensor, and keeps its promise:

# %%
fat = tt_add(u, u)
slim = tt_round(fat)
assert close(full(slim), 2 * full(u))
assert bonds(slim) == bonds(u)
print(f"ranks {bonds(fat)} rounded to {bonds(slim)}, the same tensor")

# %%
big = random_train((5, 3, 7, 4, 3), (5, 9, 8, 3))
assert close(full(tt_round(big, 0, max_rank=3)), full(tt_svd(full(big), (3, 3, 3, 3))[0]), 1e-8)
for tolerance in (0.1, 0.3, 0.6):
    rounded = tt_round(big, tolerance)
    assert tt_error(full(big), rounded) <= tolerance * full(big).norm()
    print(f"tolerance {tolerance}: ranks {bonds(rounded)}")

# %% [markdown]
# **Predict, then reveal.** A train of ranks 2, squared entry by entry. The Kronecker product has ranks 4. What remains
# after rounding?

# %% jupyter={"outputs_hidden": true}
two = random_train((5, 6, 7, 6, 5), (2, 2, 2, 2))
square = tt_hadamard(two, two)
print("squared:", bonds(square), " rounded:", bonds(tt_round(square)))
assert close(full(tt_round(square)), full(two) ** 2)
assert bonds(tt_round(square)) == [3, 3, 3, 3]

# %% [markdown]
# Three. $\mathbf A \otimes \mathbf A$ maps symmetric vectors to symmetric ones, and these have $R(R+1)/2$ dimensions. Rules
# for ranks give upper limits; rounding tells the truth.

# %% [markdown]
# ### What rounding costs
#
# Count an SVD or QR decomposition of an $m \times n$ matrix as $m\,n\min(m, n)$ MACs, which is right up to a constant. Then
# rounding from ranks $R$ to $r$ takes about $Q N R^3 + Q N r R^2$: **linear in $Q$**. TT-SVD of the full tensor starts
# with an $N \times N^{Q-1}$ matrix: exponential. The counts from shapes alone:


# %%
def svd_work(m, n):
    return m * n * min(m, n)


# %%
def rounding_work(order, N, R, r):
    R, r = ([1] + [min(rank, N**q, N ** (order - q)) for q in range(1, order)] + [1] for rank in (R, r))
    orthogonalise = sum(svd_work(N * R[q + 1], R[q]) for q in range(1, order))
    return orthogonalise + sum(svd_work(r[q] * N, R[q + 1]) for q in range(order - 1))


# %%
def tt_svd_work(shape, ranks):
    rows, work, rest = 1, 0, math.prod(shape)
    for size, rank in zip(shape[:-1], ranks, strict=True):
        rest //= size
        work, rows = work + svd_work(rows * size, rest), rank
    return work


# %% [markdown]
# Formulas are claims, too. `Tally` listens to torch while our functions and tnlib's run, and adds up the decompositions
# that really happen:


# %%
class Tally(torch.overrides.TorchFunctionMode):
    work = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (torch.linalg.qr, torch.linalg.svd):
            self.work += svd_work(*args[0].shape)
        return func(*args, **(kwargs or {}))


# %%
wide = random_train((4,) * 6, (4, 10, 10, 10, 4))
with Tally() as tally:
    tt_round(wide, 0, max_rank=5)
assert tally.work == rounding_work(6, 4, 10, 5)

# %%
with Tally() as tally:
    decompose.tt(full(wide), (4, 5, 5, 5, 4))
assert tally.work == tt_svd_work((4,) * 6, (4, 5, 5, 5, 4))
print("both counts agree with what torch was asked to do")

# %%
orders = range(3, 41)
fig, ax = plt.subplots()
ax.semilogy(orders, [rounding_work(Q, 4, 20, 10) for Q in orders], label="round the train")
few = [Q for Q in orders if Q <= 20]
ax.semilogy(
    few, [tt_svd_work((4,) * Q, [min(10, 4**q) for q in range(1, Q)]) for Q in few], label="TT-SVD of the tensor"
)
ax.set(xlabel="order Q (mode size 4, ranks 20 rounded to 10)", ylabel="work of QR and SVD (MACs)", xlim=(2, 50))
ax.set_title("Rounding is linear in the order, recompressing is exponential")
plots.label_lines(ax)
plt.show()

# %% [markdown]
# At the left end the two lines meet: for a kernel of order 3 or 4 you may as well multiply out. Rounding pays when the
# order is high.

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
# other tell what to expect of speed: numbers fall by five digits, arithmetic by one or two. And sweeping from left to
# right is not the best order; the lesson on layers looks for better ones.
#
# The count is checked on real cores, and so is the claim that the layer can be applied at all:

# %%
R = [1, 2, 2, 2, 2, 2, 1]
vgg = [rand(R[k], outputs[k], inputs[k], R[k + 1]) for k in range(6)]
assert sum(g.numel() for g in vgg) == 528
assert macs(tt_matvec, vgg, rand(25088)) == matvec_macs(outputs, inputs, [2] * 5)
print(tt_matvec(vgg, rand(25088)).shape, "from 528 numbers")

# %% [markdown]
# ### Matrix times train
#
# If the vector is a train as well, its digits never need to be expanded. Core by core, sum over the column digit:
# **ranks multiply**, and a vector with $10^{12}$ entries is no obstacle.


# %%
def tt_matrix_times_train(cores, x):
    return [torch.einsum("aijb,cjd->acibd", g, h).flatten(3).flatten(0, 1) for g, h in zip(cores, x, strict=True)]


# %%
digits = random_train((4, 3, 2), (2, 2))
product = tt_matrix_times_train(cores, digits)
assert close(full(product).flatten(), dense @ full(digits).flatten())
print(f"matrix ranks {bonds(cores)}, vector ranks {bonds(digits)}, product ranks {bonds(product)}")

# %% [markdown]
# Two facts to keep in mind. A TT-matrix of rank 1 is a **Kronecker product**. And pairing matters: the identity has rank
# 1 if digits are paired. **Predict** its ranks if all row digits come first, then all column digits.

# %%
A, B, C = rand(3, 4), rand(2, 3), rand(5, 2)
one = [A[None, :, :, None], B[None, :, :, None], C[None, :, :, None]]
assert close(tt_matvec(one, vector), torch.kron(torch.kron(A, B), C) @ vector)

# %% jupyter={"outputs_hidden": true}
eye = torch.eye(32, dtype=torch.float64)
paired, unpaired = (
    decompose.tt_matrix(eye, (2,) * 5, (2,) * 5, rel_error=1e-9),
    decompose.tt(eye.reshape((2,) * 10), rel_error=1e-9),
)
assert list(paired.rank) == [1] * 6
assert list(unpaired.rank) == [1, 2, 4, 8, 16, 32, 16, 8, 4, 2, 1]
print("identity of size 32, paired:", paired.rank, " rows first:", unpaired.rank)

# %% [markdown]
# ## The order of modes matters
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
orders = pd.DataFrame({name: storage(convs[name].weight.detach().double()) for name in chosen}).sort_values(layer)
orders.round(2)

# %%
fig, ax = plt.subplots()
for name, column in orders.items():
    ax.plot(range(12), column, "o", color=None if name == layer else "0.75", zorder=3 if name == layer else 2)
ax.axhline(1, color="0.4", linestyle="--", linewidth=1)
ax.set_xticks(range(12), [name.replace(" ", "\n") for name in orders.index])
ax.set(
    ylabel="numbers stored / original",
    xlabel="order of the modes; h, w: height, width; grey: other kernels",
    ylim=(0, 1.25),
)
ax.set_title(f"Mode order decides what a train stores ({layer}, error at most {rel_error:.0%})")
plt.show()

# %% [markdown]
# Where the two channel modes come first, or last, the cut between channels and space is a matrix with only
# $k_h k_w = 9$ columns: that bond is at most 9. In any other order the cut in the middle has $3\,S$ or $3\,T$ on a side,
# and a trained kernel uses much of it. The larger the kernel, the more it matters. Above the dashed line the train is
# *larger* than the kernel. And the order that suits storage is not the one that makes a chain of small convolutions,
# $S, k_h, k_w, T$: storage and speed want different things.

# %% [markdown]
# ## Ranks and size: smooth data, trained weights
#
# Any vector of $2^d$ entries becomes a tensor of $d$ modes of size 2, one a binary digit: the **quantized** tensor train,
# QTT (Oseledets 2010; Khoromskij 2011). For $x_k = e^{ak}$ the digits separate,
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
quiz = sine_train(d, step)
assert (full(quiz).flatten() - torch.sin(t)).abs().max() < 1e-10
print(f"sine on {2**d} points from {sum(g.numel() for g in quiz)} numbers")

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
# paired binary digits it has nine bonds. Beside it: noise of the same size, the largest possible ranks, and a smooth
# matrix, $e^{-|i - j|/100}$. All at the relative error `rel_error`, or better.

# %%
W = models.load("mlp1024-mnist")[2].weight.detach().double()
points = torch.arange(1024, dtype=torch.float64)
matrices = {"noise": rand(1024, 1024), "trained": W, "smooth": torch.exp(-(points[:, None] - points).abs() / 100)}
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
# (above 1 it stores more than the matrix has). Nothing in training asked for it: the hidden units stand in an arbitrary
# order, so neighbours have nothing to do with each other. That is a weight trained *without* the format. A layer
# trained *in* it can do far better; that is what Novikov et al. did.

# %% [markdown]
# ## A tensor with $2^{40}$ entries
#
# Spins $s_q = \pm 1$ in a row, neighbours coupled by $K$: the Ising chain. A state has the weight
# $p(s_0, \dots, s_{Q-1}) = \exp\big(K \sum_q s_q s_{q+1}\big)$: a tensor of order $Q$ with modes of size 2. Each factor links
# only neighbours, so with $\mathbf T = \begin{pmatrix} e^{K} & e^{-K} \\ e^{-K} & e^{K} \end{pmatrix}$ it is a train of ranks 2,
# $\mathcal G_q(s, i, t) = \delta_{si}\, T_{it}$.


# %%
def ising_train(sites, coupling):
    spins = torch.tensor([1.0, -1.0], dtype=torch.float64)
    T = torch.exp(coupling * torch.outer(spins, spins))
    delta = torch.eye(2, dtype=torch.float64)
    inner = torch.einsum("si,it->sit", delta, T)
    return [T[None], *[inner] * (sites - 2), delta[:, :, None]]


# %% [markdown]
# First small: ten spins, all 1024 weights formed from the definition, and compared.

# %%
spins = torch.tensor([1.0, -1.0], dtype=torch.float64)
states = torch.cartesian_prod(*[spins] * 10)
weights = torch.exp(coupling * (states[:, :-1] * states[:, 1:]).sum(1)).reshape((2,) * 10)
assert close(full(ising_train(10, coupling)), weights)
print("the train of ten spins equals the definition, all 1024 entries")

# %% [markdown]
# Now large. The parameter `sites` is 40 by default.

# %%
chain = ising_train(sites, coupling)
print(
    f"{2.0**sites:.1e} entries, {8 * 2.0**sites / 1e12:,.1f} TB if formed; {sum(g.numel() for g in chain)} numbers in the train"
)

# %% [markdown]
# The sum of all entries, the *partition function*, is an inner product with the train of ones. In closed form
# $Z = 2\,(2\cosh K)^{Q-1}$. The squared norm is a sum of $\exp(2K \dots)$: the same with $2K$.

# %%
ones = [torch.ones(1, 2, 1, dtype=torch.float64)] * sites
Z, squared_norm = tt_inner(chain, ones), tt_inner(chain, chain)
assert math.isclose(Z, 2 * (2 * math.cosh(coupling)) ** (sites - 1), rel_tol=1e-10)
assert math.isclose(squared_norm, 2 * (2 * math.cosh(2 * coupling)) ** (sites - 1), rel_tol=1e-10)
print(f"sum of 2^{sites} entries: {Z:.6e}; sum and squared norm agree with their closed forms")

# %% [markdown]
# A **marginal** sums over all modes but a few: contract each of the others with ones, which leaves a product of matrices.
# For a pair at distance $r$ theory says $p(s, s') = \tfrac14 \big(1 + s s' \tanh^r K\big)$.


# %%
def marginal(cores, keep):
    state = torch.ones(1, 1, dtype=torch.float64)
    for q, core in enumerate(cores):
        state = torch.tensordot(state, core, 1).flatten(0, 1) if q in keep else state @ core.sum(1)
    return state.reshape([cores[q].shape[1] for q in sorted(keep)])


# %%
small_chain = ising_train(10, coupling)
assert close(marginal(small_chain, {2, 7}), weights.sum((0, 1, 3, 4, 5, 6, 8, 9)))
print("the marginal of two of ten spins equals the dense sum")

# %%
for a, b in ((0, sites - 1), (1, 2), (sites // 3, sites // 2)):
    theory = (1 + torch.outer(spins, spins) * math.tanh(coupling) ** (b - a)) / 4
    assert close(marginal(chain, {a, b}) / Z, theory)
print(marginal(chain, {1, 2}) / Z)

# %%
distance = range(1, min(sites, 26))
fig, ax = plt.subplots()
for K in (0.5 * coupling, coupling, 2 * coupling):
    cores = ising_train(sites, K)
    total = tt_inner(cores, ones)
    ax.semilogy(
        distance, [((marginal(cores, {0, r}) / total) * torch.outer(spins, spins)).sum().abs() for r in distance], "o"
    )
    ax.semilogy(distance, [abs(math.tanh(K)) ** r for r in distance], color="0.6", zorder=1)
    ax.text(1.02 * max(distance), abs(math.tanh(K)) ** max(distance), f"K = {K:.2g}", va="center")
ax.set(xlabel="distance between two spins", ylabel="absolute correlation", xlim=(0, 1.15 * max(distance)))
ax.set_title(f"Exact correlations out of 2^{sites} entries; lines: the closed form")
plt.show()

# %% [markdown]
# And arithmetic at that size. The square of the weights, entry by entry, is the chain at coupling $2K$: the Hadamard
# product has ranks 4, rounding brings them back to 2.

# %%
squared = tt_round(tt_hadamard(chain, chain))
assert set(bonds(squared)) == {2}
assert torch.isclose(tt_inner(squared, ones), tt_inner(chain, chain), rtol=1e-9)
print("squared, rounded back to ranks 2, summed")

# %% [markdown]
# What made it possible is not the train but the *structure*: a cut through the chain separates two halves that talk
# through one spin. What if every spin talks to every other? Then it depends on what they say. The *energy*
# $\sum_{i<j} K_{ij} s_i s_j$ has ranks that grow by one a spin at most: a half must pass on its own energy, and one sum for each
# spin of the other half. The *weights*, its exponentials, are harder. With equal $K_{ij}$ the left half matters only through
# its sum of spins, which has $q + 1$ values. With a coupling of its own for each pair, every configuration of the half
# matters, and nothing is saved:

# %%
eight, pairs = torch.cartesian_prod(*[spins] * 8), torch.ones(8, 8, dtype=torch.float64).triu(1)
for name, K in {"equal couplings": 0.1 * pairs, "random couplings": 0.5 * rand(8, 8) * pairs}.items():
    energy = torch.einsum("xi,ij,xj->x", eight, K, eight).reshape((2,) * 8)
    of_energy, of_weights = tt_ranks_of(energy), tt_ranks_of(energy.exp())
    half = [min(q, 8 - q) for q in range(1, 8)]
    assert all(rank <= h + 2 for rank, h in zip(of_energy, half, strict=True))
    assert of_weights == [h + 1 if name.startswith("equal") else 2**h for h in half]
    print(f"{name}: ranks of the energy {of_energy}, of the weights {of_weights}")

# %% [markdown]
# ## When trains lose
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
assert min(worst.values()) == 3**2
assert max(worst.values()) == 3**4
print("largest TT rank over all orders: from", min(worst.values()), "to", max(worst.values()))

# %% [markdown]
# It does not; a bad order makes it worse. A train is a line, and a ring has no ends. The same holds for grids: a train
# through a picture must cut many neighbours.
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
# One more difference, for the table below. The tensor
# $\mathcal W = \mathbf a \otimes \mathbf a \otimes \mathbf b + \mathbf a \otimes \mathbf b \otimes \mathbf a + \mathbf b \otimes \mathbf a \otimes \mathbf a$ has CP rank 3, and tensors
# of CP rank 2 come as near as you like, with terms that diverge (de Silva and Lim 2008): there is *no* best one. Its
# TT ranks are 2, and ranks of matrices cannot jump up in a limit: for trains, as for Tucker, a best approximation exists.


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
# ## All formats in one table
#
# First as formulas, for order $Q$, all modes of size $N$, all ranks $R \le N$. *Apply* means: contract with one vector a
# mode, the cheapest order we know; for a matrix, multiply a vector. Work of SVDs is counted as before.


# %%
def tt_svd_uniform(N, Q, R):
    return N ** (Q + 1) + sum(svd_work(R * N, N ** (Q - 1 - q)) for q in range(1, Q - 1))


parameters = {
    "full": ("N^Q", lambda N, Q, R: N**Q),
    "CP": ("Q N R  (+ R weights)", lambda N, Q, R: Q * N * R),
    "Tucker": ("Q N R + R^Q", lambda N, Q, R: Q * N * R + R**Q),
    "TT": ("2 N R + (Q-2) N R^2", lambda N, Q, R: 2 * N * R + (Q - 2) * N * R**2),
    "TT-matrix": ("the same with N = m n", lambda n, Q, R: 2 * n**2 * R + (Q - 2) * n**2 * R**2),
}

# %%
compute = {
    "full": ("0", lambda N, Q, R: 0),
    "CP": ("Q N^Q R  each ALS sweep", lambda N, Q, R: Q * N**Q * R),
    "Tucker": ("Q N^(Q+1)  HOSVD", lambda N, Q, R: Q * N ** (Q + 1)),
    "TT": ("N^(Q+1) + R^2 N^Q + ...  TT-SVD", tt_svd_uniform),
    "TT-matrix": ("the same with N = m n", lambda n, Q, R: tt_svd_uniform(n**2, Q, R)),
}

# %%
apply = {
    "full": ("N^Q + N^(Q-1) + ... + N", lambda N, Q, R: sum(N**q for q in range(1, Q + 1))),
    "CP": ("Q N R", lambda N, Q, R: Q * N * R),
    "Tucker": ("Q N R + R^Q + ... + R", lambda N, Q, R: Q * N * R + sum(R**q for q in range(1, Q + 1))),
    "TT": ("parameters + (Q-2) R^2 + 2 R", lambda N, Q, R: 2 * N * R + (Q - 2) * (N + 1) * R**2 + 2 * R),
    "TT-matrix": ("n^(Q+1) ((Q-2) R^2 + 2 R), m = n", lambda n, Q, R: n ** (Q + 1) * ((Q - 2) * R**2 + 2 * R)),
}

# %%
words = {
    "full": ("yes", "-", "-"),
    "CP": ("yes, up to order and scale, under Kruskal's condition", "not always", "iterative; may stall or diverge"),
    "Tucker": ("no: a basis for each mode", "yes", "SVDs, backward stable; within sqrt(Q) of the best"),
    "TT": ("no: a gauge for each bond", "yes", "SVDs, backward stable; within sqrt(Q-1) of the best"),
    "TT-matrix": ("no: a gauge for each bond", "yes", "as TT, on paired digits"),
}

# %%
size = "4 (float32) or 8 each"
rows = {f: (parameters[f][0], size, compute[f][0], apply[f][0], *words[f]) for f in parameters}
rows["QTT"] = ("TT with N = 2, Q = log2(entries)", size, *["as TT"] * 5)
heads = ["parameters", "bytes", "MACs to compute", "MACs to apply", "unique?", "best one exists?", "computation"]
pd.DataFrame(rows, index=heads).T

# %% [markdown]
# Sources of the words: uniqueness Kruskal 1977, Sidiropoulos and Bro 2000; existence de Silva and Lim 2008; Tucker's
# bound De Lathauwer et al. 2000 (the constant as in Hackbusch 2012); TT Oseledets 2011. *Backward stable* is meant of each
# SVD; what the truncations add is the $\varepsilon_q$ above.
#
# Now the formulas against real containers. Parameters: count their entries.

# %%
N, Q, R = 6, 5, 3
block = rand(*(N,) * Q)
made = {"CP": decompose.cp(block, R, max_iter=1).factors, "TT": decompose.tt(block, R).factors}
tucker = decompose.tucker(block, R, method="hosvd")
made |= {"Tucker": [tucker.core, *tucker.factors], "full": [block]}
for name, parts in made.items():
    assert sum(part.numel() for part in parts) == parameters[name][1](N, Q, R)
    assert sum(part.nbytes for part in parts) == 8 * parameters[name][1](N, Q, R)
pd.DataFrame({name: [parameters[name][1](N, Q, R)] for name in parameters if name in made}, index=["parameters"])

# %% [markdown]
# QTT and TT-matrix: the ranks at the ends are limited by the sizes, so choose $R \le N$.

# %%
square = decompose.tt_matrix(rand(3**4, 3**4), (3,) * 4, (3,) * 4, 5)
assert sum(g.numel() for g in square.factors) == parameters["TT-matrix"][1](3, 4, 5)
quantized = decompose.tt(torch.exp(t).reshape((2,) * d) + torch.sin(t).reshape((2,) * d), 2)
assert sum(g.numel() for g in quantized.factors) == parameters["TT"][1](2, d, 2)
print("TT-matrix and QTT agree, too")

# %% [markdown]
# The cost to apply: each format contracted with random vectors, the result compared with the dense one, the MACs
# counted by torch.


# %%
def apply_full(tensor, vectors):
    for vector in reversed(vectors):
        tensor = (tensor.reshape(-1, len(vector)) @ vector[:, None]).reshape(tensor.shape[:-1])
    return tensor


# %%
def apply_cp(factors, vectors):
    return torch.stack([v[None] @ f for f, v in zip(factors, vectors, strict=True)]).prod(0).sum()


# %%
def apply_tucker(core, factors, vectors):
    return apply_full(core, [(v[None] @ f)[0] for f, v in zip(factors, vectors, strict=True)])


def apply_tt(cores, vectors):
    row = torch.ones(1, 1, dtype=torch.float64)
    for g, v in zip(cores, vectors, strict=True):
        row = row @ torch.tensordot(g, v, dims=([1], [0]))
    return row[0, 0]


# %%
vectors = [rand(N) for _ in range(Q)]
runs = {
    "full": (apply_full, (block, vectors), block),
    "CP": (apply_cp, (made["CP"], vectors), tl.cp_to_tensor((torch.ones(R, dtype=torch.float64), made["CP"]))),
    "Tucker": (apply_tucker, (*tucker, vectors), tucker.to_tensor()),
    "TT": (apply_tt, (made["TT"], vectors), full(made["TT"])),
}

# %%
for name, (function, arguments, dense) in runs.items():
    assert torch.isclose(function(*arguments), apply_full(dense, vectors))
    assert macs(function, *arguments) == apply[name][1](N, Q, R)
assert macs(tt_matvec, square.factors, rand(81)) == apply["TT-matrix"][1](3, 4, 5)
print("five costs to apply: same result as dense, MACs as the formulas say")

# %% [markdown]
# The cost to compute: listen to tnlib's SVDs, and count one of the $Q$ products that make an ALS sweep, the unfolding
# times a Khatri-Rao product.

# %%
with Tally() as hosvd:
    decompose.tucker(block, R, method="hosvd")
with Tally() as ttsvd:
    decompose.tt(block, R)
khatri_rao = tl.tenalg.khatri_rao(made["CP"][1:])
assert hosvd.work == compute["Tucker"][1](N, Q, R)
assert ttsvd.work == compute["TT"][1](N, Q, R) == tt_svd_work((N,) * Q, [R] * (Q - 1))
assert Q * macs(torch.matmul, tl.unfold(block, 0), khatri_rao) == compute["CP"][1](N, Q, R)
print("HOSVD, TT-SVD and the ALS sweep cost what the formulas say")

# %% [markdown]
# ### The same on trained weights
#
# Each format gets the largest rank that fits the budget: `fraction` of the parameters for the kernel, a tenth of that
# for the MLP's matrix. The error is measured on the factors, not derived. **Predict** the ranking first.


# %%
def capped(shape, rank):
    return [min(rank, limit) for limit in decompose.max_tt_ranks(shape)]


# %%
def largest(entries, budget):
    ranks = [rank for rank in range(1, 2000) if entries(rank) <= budget]
    return max(ranks, default=1)


# %% [markdown]
# The convolution, on the feature map that it sees in ResNet-20. CP's work is that of a sweep; it takes `cp_sweeps` of
# them.

# %%
conv = convs[layer]
T, S, kh, kw = conv.weight.shape
feature_map = (1, S, *[{16: 32, 32: 16, 64: 8}[T] * conv.stride[0]] * 2)
chain_shape = (S, kh, kw, T)
entries = {
    "cp": lambda r: r * (T + S + kh + kw),
    "tucker2": lambda r: T * min(r, T) + S * min(r, S) + kh * kw * min(r, T) * min(r, S),
    "tt": lambda r: tt_entries(chain_shape, capped(chain_shape, r)),
}

# %%
work = {
    "cp": lambda r: 4 * kernel.numel() * r,
    "tucker2": lambda r: svd_work(T, S * kh * kw) + svd_work(S, T * kh * kw),
    "tt": lambda r: tt_svd_work(chain_shape, capped(chain_shape, r)),
}


# %%
@torch.no_grad()
def compressed_conv(format, share):
    rank = largest(entries[format], share * kernel.numel())
    options = {"max_iter": cp_sweeps, "seed": seed} if format == "cp" else {}
    chain = layers.factorize(conv, format, rank, **options)
    error = (chain.dense_weight() - conv.weight).norm() / conv.weight.norm()
    cost = measure.cost(chain, feature_map)
    assert cost.params == entries[format](rank)
    return {"weight": layer, "format": format, "rank": rank, "params": cost.params, "bytes": cost.bytes,
            "error": float(error), "work": work[format](rank), "MACs": cost.macs}  # fmt: skip


# %% jupyter={"outputs_hidden": true}
cost = measure.cost(conv, feature_map)
original = {
    "weight": layer,
    "format": "full",
    "rank": 0,
    "params": cost.params,
    "bytes": cost.bytes,
    "error": 0.0,
    "work": 0,
    "MACs": cost.macs,
}
rows = [original, *(compressed_conv(format, fraction) for format in entries)]
print(f"{kernel.numel():,} parameters, budget {fraction * kernel.numel():,.0f}")

# %% [markdown]
# The matrix, 1024 x 1024, as a matrix, as a tensor of order 4 ($32^4$: two row digits, two column digits), and as
# TT-matrices. Here MACs are those of one product with a vector. For CP and Tucker on $32^4$: contract the two column
# digits, then expand the two row digits.

# %%
budget, tensor4 = fraction / 10 * W.numel(), W.reshape(32, 32, 32, 32)
rank = {
    "svd": largest(lambda r: 2048 * r, budget),
    "cp": largest(lambda r: 128 * r, budget),
    "tucker": largest(lambda r: 128 * r + r**4, budget),
    "tt": largest(lambda r: tt_entries((32,) * 4, capped((32,) * 4, r)), budget),
}

# %%
digits = {"TT-matrix 4x8x8x4": (4, 8, 8, 4), "QTT-matrix 2^10": (2,) * 10}
pair_shape = {name: [n * n for n in dims] for name, dims in digits.items()}
rank |= {name: largest(lambda r, s=s: tt_entries(s, capped(s, r)), budget) for name, s in pair_shape.items()}

# %%
svd, cp = decompose.svd(W, rank["svd"]), decompose.cp(tensor4, rank["cp"], max_iter=cp_sweeps, seed=seed)
tucker, train = decompose.tucker(tensor4, rank["tucker"], method="hosvd"), decompose.tt(tensor4, rank["tt"])
trains = {name: decompose.tt_matrix(W, dims, dims, rank[name]) for name, dims in digits.items()}

# %%
dense = {"svd": svd.to_matrix(), "cp": cp.to_tensor(), "tucker": tucker.to_tensor(), "tt": train.to_tensor()}
dense |= {name: t.to_matrix() for name, t in trains.items()}
parts = {
    "svd": [svd.U * svd.S, svd.Vh],
    "cp": cp.factors,
    "tucker": [tucker.core, *tucker.factors],
    "tt": train.factors,
}
parts |= {name: t.factors for name, t in trains.items()}

# %% [markdown]
# Applied to a vector without forming the matrix, five ways. Each must give what the dense matrix gives; torch counts.


# %%
def cp_matvec(x):
    A, B, C, D = parts["cp"]
    return (A * cp.weights * ((x.reshape(32, 32) @ D) * C).sum(0)) @ B.T


# %%
def tucker_matvec(x):
    core, A, B, C, D = parts["tucker"]
    inside = torch.tensordot(core, C.T @ (x.reshape(32, 32) @ D), 2)
    return A @ inside @ B.T


# %%
def train_matvec(x):
    g0, g1, g2, g3 = parts["tt"]
    right = torch.tensordot(x.reshape(32, 32), g3[..., 0], dims=([1], [1]))
    bond = torch.tensordot(g2, right, dims=([1, 2], [0, 1]))
    return g0[0] @ torch.tensordot(g1, bond, 1)


# %%
run = {
    "svd": lambda x: parts["svd"][0] @ (parts["svd"][1] @ x[:, None]),
    "cp": cp_matvec,
    "tucker": tucker_matvec,
    "tt": train_matvec,
}
run |= {name: lambda x, name=name: tt_matvec(parts[name], x) for name in trains}

# %%
vector = rand(1024)
for name, function in run.items():
    assert close(function(vector).flatten(), dense[name].reshape(1024, 1024) @ vector, 1e-9)
    assert sum(part.numel() for part in parts[name]) <= budget
print(", ".join(run), "apply what they store, within the budget")

# %%
cube_shape = (32,) * 4
svds = {
    "svd": svd_work(1024, 1024),
    "cp": 4 * W.numel() * rank["cp"],
    "tucker": 4 * svd_work(32, 32**3),
    "tt": tt_svd_work(cube_shape, capped(cube_shape, rank["tt"])),
}

# %%
svds |= {name: tt_svd_work(s, capped(s, rank[name])) for name, s in pair_shape.items()}
rows.append(
    {
        "weight": "MLP",
        "format": "full",
        "rank": 0,
        "params": 2**20,
        "bytes": 2**22,
        "error": 0.0,
        "work": 0,
        "MACs": 2**20,
    }
)
for name, function in run.items():
    params, error = sum(part.numel() for part in parts[name]), (dense[name].reshape(W.shape) - W).norm() / W.norm()
    rows.append({"weight": "MLP", "format": name, "rank": rank[name], "params": params, "bytes": 4 * params,
                 "error": float(error), "work": svds[name], "MACs": macs(function, vector)})  # fmt: skip

# %% [markdown]
# The summary on trained weights. Bytes are those of float32. *Work* is what the decomposition takes, in MACs as counted
# above (CP: one sweep). *MACs* is what applying takes: the kernel on one image, the matrix on one vector.

# %%
summary = pd.DataFrame(rows).set_index(["weight", "format"])
summary.drop(columns="error").map("{:,}".format).assign(error=summary.error.map("{:.2f}".format))

# %%
fig, ax = plt.subplots()
shares = (0.1, 0.2, 0.3, 0.45, 0.6)
for format in entries:
    ax.plot(
        shares,
        [compressed_conv(format, share)["error"] for share in shares],
        label=format,
        **plots.FORMAT_STYLE[format],
    )
ax.set(xlabel="parameters / original", ylabel="relative error of the weight", xlim=(0.05, 0.7), ylim=(0, 1))
ax.set_title(f"Equal parameters, unequal error ({layer})")
plots.label_lines(ax)
plt.show()

# %% [markdown]
# Read the table a column at a time.
#
# - *Error.* On the kernel CP errs least at equal parameters, though nobody can promise it: it needs an iteration, and more
#   sweeps lower it further. Tucker-2 and TT are close to each other, and done after a fixed amount of work.
# - *MACs.* A chain of convolutions takes MACs in proportion to its parameters. A TT-matrix does not: it stores a few
#   percent of the matrix and takes *more* MACs than the dense product, because its ranks are not small.
# - *The MLP.* At a few percent of its numbers **every** format loses most of the weight. CP and the plain SVD lose least,
#   and paired digits lose more: the layer was not trained in them.
#
# A relative error of a weight is not a loss of accuracy; notebook 00 has shown how far the two can be apart, and that a
# network can be repaired.

# %% [markdown]
# ## Exercises
#
# Replace `...` by your answer and run the cell. A train is given as a list of cores $R_q \times I_q \times R_{q+1}$.
#
# ### 1. Warm-up: sum a train (15 minutes)
#
# Return the sum of all entries of the tensor. Do not form it.


# %%
def tt_sum(cores):
    return ...


check.tt_sum(tt_sum)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Sum each core over its mode; what is left is a matrix. What do you do with matrices that share bonds?
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
# ### 3. Core: the distance of two trains (20 minutes)
#
# Return $\|\mathcal X - \mathcal Y\|$ of two trains of the same shape, with other ranks. Do not form them.


# %%
def tt_distance(x, y):
    return ...


check.tt_distance(tt_distance)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Multiply out $\langle \mathcal X - \mathcal Y, \mathcal X - \mathcal Y \rangle$, or subtract the trains and read the norm off a centre core. Which of
# the two do you trust when the trains are almost equal?
# </details>
# <details><summary>Solution</summary>
#
# In the [solutions](solutions/04_build_tensor_trains.ipynb), section 3.
# </details>

# %% [markdown]
# ### 4. Pencil and paper: close the chain (20 minutes)
#
# Put the spins on a ring: the last one is coupled to the first, too. Derive the sum over all $2^Q$ states in closed form,
# for any coupling, and return it.


# %%
def ising_ring(sites, coupling):
    return ...


check.ising_ring(ising_ring)

# %% [markdown]
# <details><summary>Hint</summary>
#
# The sum is a trace of a power of $\mathbf T$. A symmetric $2 \times 2$ matrix with equal diagonal entries has the eigenvectors
# $(1, 1)$ and $(1, -1)$.
# </details>
# <details><summary>Solution</summary>
#
# In the [solutions](solutions/04_build_tensor_trains.ipynb), section 4.
# </details>

# %% [markdown]
# ### 5. Stretch: singular values of a matrix you cannot form (25 minutes)
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
# In the [solutions](solutions/04_build_tensor_trains.ipynb), section 5.
# </details>

# %% [markdown]
# ## Summary
#
# - TT ranks are ranks of matrices: of the sequential unfoldings. So trains have SVDs, errors that you know beforehand, and
#   a best approximation.
# - TT-SVD is within $\sqrt{Q-1}$ of the best, on data far closer. Rounding is TT-SVD for trains, linear in the order.
# - Cores are not unique, only their product is. Canonical forms fix most of the gauge and make norms local.
# - Ranks add and multiply under arithmetic; rounding takes back what is superfluous.
# - The order of modes decides. A line suits chains, not cycles, not grids, not a large common core.
# - Storage falls first, arithmetic later if at all. Trained weights are not smooth: expect less than the examples promise.
#
# ## Further reading
#
# - I. V. Oseledets, [*Tensor-train decomposition*](https://doi.org/10.1137/090752286), SIAM J. Sci. Comput. 33(5), 2011.
# - A. Novikov, D. Podoprikhin, A. Osokin, D. Vetrov, [*Tensorizing neural networks*](https://arxiv.org/abs/1509.06569), NeurIPS 2015.
# - S. Holtz, T. Rohwedder, R. Schneider, [*On manifolds of tensors of fixed TT-rank*](https://doi.org/10.1007/s00211-011-0419-7), Numer. Math. 120, 2012.
# - V. de Silva, L.-H. Lim, [*Tensor rank and the ill-posedness of the best low-rank approximation problem*](https://doi.org/10.1137/06066518X), SIAM J. Matrix
#   Anal. Appl. 30(3), 2008.
# - U. Schollwöck, [*The density-matrix renormalization group in the age of matrix product states*](https://doi.org/10.1016/j.aop.2010.09.012), Ann. Phys. 326, 2011:
#   the physicists' side, canonical forms in full.
# - T. G. Kolda, B. W. Bader, [*Tensor decompositions and applications*](https://doi.org/10.1137/07070111X), SIAM Review 51(3), 2009.
#
# Four things beyond this lesson, and what they are for:
#
# - *TT-cross* builds a train from few entries of a tensor that is given as a function: I. Oseledets, E. Tyrtyshnikov,
#   [*TT-cross approximation for multidimensional arrays*](https://doi.org/10.1016/j.laa.2009.07.024), Linear Algebra Appl. 432, 2010.
# - *DMRG* finds the smallest eigenvector of a train operator, two cores at a time: S. R. White, [*Density matrix formulation
#   for quantum renormalization groups*](https://doi.org/10.1103/PhysRevLett.69.2863), Phys. Rev. Lett. 69, 1992.
# - *AMEn* solves linear systems with trains and enlarges ranks by residuals: S. V. Dolgov, D. V. Savostyanov, [*Alternating
#   minimal energy methods for linear systems in higher dimensions*](https://doi.org/10.1137/140953289), SIAM J. Sci. Comput. 36(5), 2014.
# - *Riemannian optimisation* walks on the set of trains of fixed ranks: M. Steinlechner, [*Riemannian optimization for
#   high-dimensional tensor completion*](https://doi.org/10.1137/15M1010506), SIAM J. Sci. Comput. 38(5), 2016.

# %% [markdown]
# Previous: [03 truncate Tucker](03_truncate_tucker.ipynb) · Next: [05 couple third order trains](05_couple_third_order_trains.ipynb) · [Solutions](solutions/04_build_tensor_trains.ipynb) · [Glossary](GLOSSARY.md)
