# %% [markdown]
# # Couple third-order trains: split one hard decomposition into easy ones
#
# **What you'll do.** Turn a CPD of any order into a train of third-order CPDs that share a matrix at every bond, and find
# its factors core by core: one small third-order CPD, then nothing but small SVDs. Do the same for Tucker. Derive the
# error that no unbiased method can beat, and measure how close this one comes, beside ALS and TensorLy. Then break it.
#
# **What you'll learn.** What survives of the factors in the cores of a TT-SVD, and how to get it out; why coupling fixes
# the order of the terms; which conditions the method needs and what it does without them; what the Cramér-Rao bound of a
# reconstructed tensor counts; when not to use a chain.
#
# **What you need first.** Notebook 02 (CPD, ALS, uniqueness) and notebook 04 (trains, TT-SVD, gauge).
#
# **Time.** 195 minutes: 95 to read text and code, 100 for the exercises. Run All takes a minute or two.
# **Difficulty.** Hard.
#
# Previous: [04 build tensor trains](04_build_tensor_trains.ipynb) · Next: [06 build tensor layers](06_build_tensor_layers.ipynb) · [Solutions](solutions/05_couple_third_order_trains.ipynb) · [Glossary](GLOSSARY.md)

# %% tags=["parameters"]
profile: str = "quick"  # "quick": 10 live draws; "full": 100, and more Monte Carlo
seed: int = 0  # at least 0; decides every random tensor and every starting point
snr_db: float = 20.0  # 10 to 60; signal-to-noise ratio of the live draws, in dB
collinearity: float = 0.9  # 0.5 to 0.99; of the hardest live draws: what a factor's columns have in common
weight_rank: int = 4  # 2 to 8; of the CPDs of the trained weight at the end

# %%
import math
import time

import matplotlib.pyplot as plt
import pandas as pd
import tensorly as tl
import torch
from tensorly.decomposition import parafac
from tensorly.tenalg import khatri_rao
from torch.overrides import TorchFunctionMode

from tnlib import check, decompose, models, plots, study

plots.use_style()
draws, trials, weight_sweeps = {"quick": (10, 400, 15), "full": (100, 4000, 200)}[profile]
generator = torch.Generator().manual_seed(seed)


# %%
def random(*shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def close(x, y, tolerance=1e-8):
    return bool((x - y).norm() <= tolerance * y.norm())


def dense(factors):
    modes = "abcdefghijkl"[: len(factors)]
    return torch.einsum(",".join(mode + "r" for mode in modes) + "->" + modes, *factors)


# %% [markdown]
# ## The question
#
# A CPD of order 8 has few parameters and a hard problem: eight factors that multiply each other. ALS (notebook 02) reads
# the *whole* tensor once a factor and sweep, depends on its start, and may end in a place that is no solution. A
# TT-SVD (notebook 04) has none of these troubles, but gives cores without meaning: any gauge will do.
#
# Zniyed, Boyer, de Almeida and Favier (2020) put the two together: their abstract says that a CPD (or Tucker) of order
# $Q > 3$ equals a train of $Q$ tensors of order at most 3 that follow the same decomposition. Statements, proofs and checks
# below are written for this notebook, with our letters (where tnlib's docstrings follow the paper, its $\mathbf P_q$, counted
# from 1, is our $\mathbf A_{q-1}$).
#
# **Predict, then reveal.** The first unfolding has rank $R$, if the factors are well-behaved. Which TT ranks does a tensor
# of CP rank $R$ have?

# %% jupyter={"outputs_hidden": true}
R, shape = 3, (5, 4, 7, 3, 6)
Q, A = len(shape), [random(n, R) for n in shape]
x = dense(A)
ranks = [int(torch.linalg.matrix_rank(x.reshape(math.prod(shape[:q]), -1))) for q in range(1, Q)]
print(f"shape {shape}, CP rank {R}: TT ranks {ranks}")

# %% [markdown]
# <details><summary>Why</summary>
#
# All of them are $R$. Each sequential unfolding is $\mathbf X_{\langle q \rangle} = (\mathbf A_0 \odot \cdots \odot
# \mathbf A_{q-1})(\mathbf A_q \odot \cdots \odot \mathbf A_{Q-1})^\top$: two matrices with $R$ columns, of full column rank here.
# </details>

# %% jupyter={"outputs_hidden": true}
assert ranks == [R] * (Q - 1)
for q in range(2, Q - 1):
    left, right = khatri_rao(A[:q]), khatri_rao(A[q:])
    assert close(left @ right.T, x.reshape(len(left), -1))
print("each sequential unfolding is a product of two Khatri-Rao products")

# %% [markdown]
# ## 1. Theorem: a CPD is a train of coupled third-order CPDs
#
# **Step 1: a CPD is a train.** The index $r$ joins all factors. Pass it on from mode to mode instead: give core $q$ two
# more indices that both must equal $r$. Of core $q$ of a train, $\mathbf G_q(i)$ is the slice at index $i$ of its mode
# (notebook 04). Here the slices are diagonal, $\mathbf H_q(i) = \mathrm{diag}(a_{i1}, \dots, a_{iR})$
# with the row $i$ of $\mathbf A_q$; the ends are $\mathbf H_0(i) = $ row $i$ of $\mathbf A_0$ and $\mathbf H_{Q-1}(i) = $ row
# $i$ of $\mathbf A_{Q-1}$, transposed.


# %%
def diagonal_train(factors):
    first, *middle, last = factors
    return [first[None], *(torch.diag_embed(f).permute(1, 0, 2) for f in middle), last.T[:, :, None]]


def full(cores):
    product = cores[0]
    for core in cores[1:]:
        product = torch.tensordot(product, core, 1)
    return product[0, ..., 0]


# %%
H = diagonal_train(A)
assert close(full(H), x)
print("diagonal cores", [tuple(core.shape) for core in H], "multiply out to the CPD")

# %% [markdown]
# **Step 2: two smallest trains of a tensor differ by a gauge.** Let TT-SVD return cores $\mathcal G_q$ of the same size.
# Cut both trains at bond $q$, multiply the halves out, and compare: $\mathbf L^G_q \mathbf R^G_q = \mathbf L^H_q \mathbf R^H_q$.
# Both are factorizations of one matrix of rank $R$ into parts of full rank $R$, so (notebook 02, section 4) there is exactly
# one invertible $\mathbf M_q$ with
#
# $$\mathbf L^H_q = \mathbf L^G_q \mathbf M_q , \qquad \mathbf R^G_q = \mathbf M_q \mathbf R^H_q .$$


# %%
def halves(cores, q):
    left = right = torch.ones(1, 1, dtype=torch.float64)
    for core in cores[:q]:
        left = torch.tensordot(left, core, 1).flatten(0, 1)
    for core in reversed(cores[q:]):
        right = torch.tensordot(core, right, 1).flatten(1)
    return left, right


def gauges(cores, other):
    return [torch.linalg.pinv(halves(cores, q)[0]) @ halves(other, q)[0] for q in range(1, len(cores))]


# %%
G = list(decompose.tt(x, R).factors)
M = [None, *gauges(G, H)]
for q in range(1, Q):
    assert close(halves(G, q)[0] @ M[q], halves(H, q)[0])
    assert close(M[q] @ halves(H, q)[1], halves(G, q)[1])
print("one matrix a bond turns all left halves, and its inverse all right halves")

# %% [markdown]
# **Step 3: look at one core.** Cut on both sides of core $q$. What is left between full-rank halves must agree:
# $\mathbf G_q(i) = \mathbf M_q \mathbf H_q(i)\, \mathbf M_{q+1}^{-1}$ for every $i$, and $\mathbf H_q(i)$ is diagonal. Written out,
#
# $$g_{aib} = \sum_{r=1}^{R} (\mathbf M_q)_{ar}\, (\mathbf A_q)_{ir}\, (\mathbf M_{q+1}^{-\top})_{br}
# \quad\Longleftrightarrow\quad \mathcal G_q = [\![\mathbf M_q, \mathbf A_q, \mathbf M_{q+1}^{-\top}]\!] .$$
#
# **Theorem** (after Zniyed et al. 2020). *Let $\mathcal X$, of order $Q \ge 3$, follow a CPD with $R$ terms whose factors have
# full column rank. Then all its TT ranks are $R$, and every train of $\mathcal X$ with these ranks consists of third-order CPDs,*
#
# $$\mathcal G_0 = \mathbf A_0 \mathbf M_1^{-1}, \qquad \mathcal G_q = [\![\mathbf M_q, \mathbf A_q, \mathbf M_{q+1}^{-\top}]\!],
# \qquad \mathcal G_{Q-1} = \mathbf M_{Q-1} \mathbf A_{Q-1}^\top ,$$
#
# *with invertible $\mathbf M_q$. Neighbours are coupled: the third factor of one is the inverse transpose of the first factor of
# the next,* $\widetilde{\mathbf M}_{q+1} = \mathbf M_{q+1}^{-\top}$. (Its columns are the *dual* basis of those of $\mathbf M_{q+1}$.)
#
# The unknown factor $\mathbf A_q$ sits untouched in the middle of its core.

# %%
dual = [None, *(torch.linalg.inv(m).T for m in M[1:])]
assert close(G[0][0], A[0] @ torch.linalg.inv(M[1]))
for q in range(1, Q - 1):
    assert close(G[q], dense([M[q], A[q], dual[q + 1]]))
assert close(G[-1][:, :, 0], M[-1] @ A[-1].T)
print(f"core by core: {Q - 2} third-order CPDs and two ends, as the theorem says")

# %% [markdown]
# Conversely, cores of that form multiply out to the CPD, whatever the $\mathbf M_q$: at each bond
# $\mathbf M_{q+1}^{-1} \mathbf M_{q+1} = \mathbf I$ glues the indices $r$ together again. So the two models are *equivalent*. In
# the drawings, from left to right, a dot is an index that joins more than two tensors:

# %%
fig, axes = plt.subplots(1, 2, figsize=(11, 3))
fan = [(-2, -0.3), (-1.1, -0.95), (0, -1.35), (1.1, -0.95), (2, -0.3)]
plots.einsum_graph("ir,jr,kr,lr,mr->ijklm", names=("A0", "A1", "A2", "A3", "A4"), at=fan, ax=axes[0])
plots.einsum_graph("ia,ajb,bkc,cld,dm->ijklm", names=("G0", "G1", "G2", "G3", "G4"), ax=axes[1])
axes[0].set_title("A CPD: one index r for all factors ...")
axes[1].set_title("... a train: an index from neighbour to neighbour")
plt.show()

# %%
dual_name = r"$\widetilde{{\rm M}}$%d"
chain_names = ("A0", dual_name % 1, "M1", "A1", dual_name % 2, "M2", "A2", dual_name % 3, "M3", "A3")
fig, ax = plt.subplots(figsize=(11, 2.8))
places = [(0, 0), (1, 0), (2.1, 0), (2.9, -0.9), (3.7, 0), (4.8, 0), (5.6, -0.9), (6.4, 0), (7.5, 0), (8.5, 0)]
plots.einsum_graph("ip,ap,ar,jr,br,bs,ks,cs,cu,lu->ijkl", names=chain_names, at=places, ax=ax)
ax.set_title("The cores of order 4 as CPDs: each bond a, b, c joins a dual basis and its basis, an identity")
plt.show()

# %%
other = [random(R, R) for _ in range(Q + 1)]
inverse = [torch.linalg.inv(m).T for m in other]
pair = torch.tensordot(dense([other[2], A[2], inverse[3]]), dense([other[3], A[3], inverse[4]]), 1)
assert close(pair, torch.einsum("br,kr,lr,dr->bkld", other[2], A[2], A[3], inverse[4]))
print("two coupled cores, contracted: one CPD again, for any M")

# %% [markdown]
# ### What the proof really needs
#
# It used that all halves $\mathbf A_0 \odot \cdots \odot \mathbf A_{q-1}$ and $\mathbf A_q \odot \cdots \odot \mathbf A_{Q-1}$ have full
# column rank. **Claim:** if $\mathbf A$ has full column rank and $\mathbf B$ no zero column, then $\mathbf A \odot \mathbf B$ has full
# column rank. (If $\sum_r c_r\, \mathbf a_r \otimes \mathbf b_r = 0$, then for every row $j$ of $\mathbf B$
# $\sum_r c_r b_{jr}\, \mathbf a_r = 0$, so all $c_r b_{jr} = 0$, and some $b_{jr}$ is not.) At the border:

# %%
parallel, zeroed, dependent = torch.ones(4, 3).double(), torch.ones(4, 3).double(), random(5, 3)
zeroed[:, 1], dependent[:, 2] = 0, dependent[:, 0] + dependent[:, 1]
cases = (random(5, 3), parallel), (random(5, 3), zeroed), (dependent, parallel)
assert [int(torch.linalg.matrix_rank(khatri_rao(pair))) for pair in cases] == [3, 2, 2]
print("parallel columns in one factor do no harm; a zero column does, and so do dependent ones in the other")

# %% [markdown]
# So it is enough that the *two end factors* have full column rank, and that no column in between is zero. In the middle there
# may be more terms than a mode has values:

# %%
A_wide = [random(5, 5), random(2, 5), random(3, 5), random(2, 5), random(7, 5)]
x_wide = dense(A_wide)
H_wide, G_wide = diagonal_train(A_wide), list(decompose.tt(x_wide, 5).factors)
M_wide = [None, *gauges(G_wide, H_wide)]
for q in (1, 2, 3):
    assert close(G_wide[q], dense([M_wide[q], A_wide[q], torch.linalg.inv(M_wide[q + 1]).T]), 1e-6)
print("rank 5 with middle modes of sizes 2, 3, 2: the theorem holds")

# %% [markdown]
# And is the CPD of a middle core unique? By Kruskal's condition (1977; notebook 02), if $R \ge 2$: $\mathbf M_q$ and
# $\widetilde{\mathbf M}_{q+1}$ are invertible and have k-rank $R$, so it reads $R + k_{\mathbf A_q} + R \ge 2R + 2$, that is $k_{\mathbf A_q} \ge 2$: **no two columns of $\mathbf A_q$ may be parallel.**
# One such core is enough to start from; all others follow, you will see below, if only their columns are not zero.
#
# ## 2. The same theorem for Tucker
#
# Let $\mathcal X = \mathcal G \times_0 \mathbf U_0 \times_1 \mathbf U_1 \cdots$ with core $\mathcal G$ (no number; the train's cores
# $\mathcal G_q$ have one) of sizes $T_0 \times \dots \times T_{Q-1}$, and factors of full column rank (orthonormal in notebook 03; a QR
# gets you there). Where a CPD passes one index $r$ along, Tucker must remember *all* indices of $\mathcal G$ so far, until
# $\mathcal G$ has seen them. Left of a mode $c$ the train collects indices: core $q$ takes the bundle of the first $q$ and the new
# one, and passes the larger bundle on. That is an identity matrix, reshaped. Right of $c$ it hands them out. At $c$ stands
# $\mathcal G$ itself, reshaped. With $T_{<q} = T_0 \cdots T_{q-1}$ and $T_{\ge q} = T_q \cdots T_{Q-1}$ the train is
#
# $$\mathcal H_q = \mathcal B_q \times_1 \mathbf U_q , \qquad \mathcal B_q = \begin{cases}
# \mathbf I \text{ as } T_{<q} \times T_q \times T_{<q+1} & q < c \\
# \mathcal G \text{ as } T_{<c} \times T_c \times T_{\ge c+1} & q = c \\
# \mathbf I \text{ as } T_{\ge q} \times T_q \times T_{\ge q+1} & q > c \end{cases}$$
#
# Its ranks are smallest when $c$ is the last mode with $T_{<c} \le T_{\ge c}$: then $R_q = \min(T_{<q}, T_{\ge q})$.


# %%
def tucker_train(core, factors):
    T, cores = core.shape, []
    before, after = ([math.prod(part) for part in side] for side in ([T[:q] for q in range(len(T) + 1)],
                                                                     [T[q:] for q in range(len(T) + 1)]))  # fmt: skip
    c = max(q for q in range(len(T)) if before[q] <= after[q])
    for q, factor in enumerate(factors):
        sizes = (before[q] if q <= c else after[q], T[q], before[q + 1] if q < c else after[q + 1])
        block = core if q == c else torch.eye(before[q + 1] if q < c else after[q], dtype=core.dtype)
        cores.append(torch.einsum("atb,it->aib", block.reshape(sizes), factor))
    return cores


# %%
T, sizes = (2, 3, 2, 2), (5, 7, 4, 6)
core, U = random(*T), [random(n, t) for n, t in zip(sizes, T, strict=True)]
y = torch.einsum("abcd,ia,jb,kc,ld->ijkl", core, *U)
H_tucker = tucker_train(core, U)
assert close(full(H_tucker), y)
print("reshaped identities, one core:", [tuple(h.shape) for h in H_tucker])

# %% [markdown]
# Are these the *smallest* ranks? Not for every $\mathcal G$. Its sequential unfolding $\mathbf G_{\langle q \rangle}$ is a $T_{<q} \times
# T_{\ge q}$ matrix, and if the factors have full column rank, $\mathbf X_{\langle q \rangle}$ has its rank. So the TT ranks of
# $\mathcal X$ are $\min(T_{<q}, T_{\ge q})$ if and only if all these matrices have full rank. Random cores have (with probability
# one). A superdiagonal core, that of a CPD with two terms, has not:

# %%
superdiagonal = torch.zeros(2, 2, 2, 2, dtype=torch.float64)
superdiagonal[0, 0, 0, 0] = superdiagonal[1, 1, 1, 1] = 1


def tt_ranks(tensor):
    return [int(torch.linalg.matrix_rank(tensor.flatten(0, q - 1).flatten(1))) for q in range(1, tensor.ndim)]


V = [random(5, 2) for _ in range(4)]
for block, ranks in ((random(2, 2, 2, 2), [2, 4, 2]), (superdiagonal, [2, 2, 2])):
    assert tt_ranks(tl.tucker_to_tensor((block, V))) == ranks
    print(f"TT ranks {ranks}; those of its train H: {[h.shape[2] for h in tucker_train(block, V)[:-1]]}")

# %% [markdown]
# **Theorem** (after Zniyed et al. 2020; the hypothesis on $\mathcal G$ is ours). *Let the factors have full column rank, and let all
# $\mathbf G_{\langle q \rangle}$ have the full rank $\min(T_{<q}, T_{\ge q})$. Then every train of $\mathcal X$ with these ranks has the
# cores $\mathcal G_q = \mathcal B_q \times_0 \mathbf M_q \times_1 \mathbf U_q \times_2 \widetilde{\mathbf M}_{q+1}$ (with
# $\mathbf M_0 = \mathbf M_Q = 1$): third-order Tucker tensors, coupled as before.* The proof is word for word
# the one above; only $\mathcal H_q$ has changed. It used that the halves of the train $\mathcal H$ have full rank, and that is what the two
# hypotheses say.

# %%
G_tucker = list(decompose.tt(y, [h.shape[2] for h in H_tucker[:-1]]).factors)
bases = [torch.eye(1, dtype=torch.float64), *gauges(G_tucker, H_tucker), torch.eye(1, dtype=torch.float64)]
for q, h in enumerate(H_tucker):
    expected = torch.einsum("xa,aib,yb->xiy", bases[q], h, torch.linalg.inv(bases[q + 1]).T)
    assert close(G_tucker[q], expected)
print("core by core: third-order Tucker with the same factor and coupled bases")

# %% [markdown]
# Without the hypothesis it fails. The superdiagonal core has a train $\mathcal H$ of ranks 2 4 2, and the diagonal train of its CPD, of
# ranks 2 2 2, padded with zeros to 2 4 2. Same tensor, same ranks, but no invertible $\mathbf M_2$ turns a left half of
# rank 2 into one of rank 4:

# %%
H_super, padded = tucker_train(superdiagonal, V), diagonal_train(V)
padded[1] = torch.nn.functional.pad(padded[1], (0, 2))
padded[2] = torch.nn.functional.pad(padded[2], (0, 0, 0, 0, 0, 2))
assert close(full(padded), full(H_super))
assert [h.shape for h in padded] == [h.shape for h in H_super]
ranks = [int(torch.linalg.matrix_rank(halves(train, 2)[0])) for train in (padded, H_super)]
assert ranks == [2, 4]
print(f"two trains of one tensor and one size whose left halves have ranks {ranks}: no gauge between them")

# %%
names = (r"M$_q$", r"$\mathcal{B}_q$", r"U$_q$", r"$\widetilde{{\rm M}}_{q+1}$")
fig, ax = plt.subplots(figsize=(5.5, 2.6))
plots.einsum_graph("xa,atb,it,yb->xiy", names=names, at=[(0, 1), (1, 1), (1, 0.1), (2, 1)], ax=ax)
ax.set_title("A core of the Tucker chain is a third-order Tucker")
plt.show()

# %% [markdown]
# What does it buy? *If the $T_q$ are the least Tucker ranks*, the mode-1 unfolding of core $q$ has the column space of
# $\mathbf U_q$: a basis of it comes from a matrix with $R_q R_{q+1}$ columns, not $\prod_{p \ne q} I_p$. (A reshaped identity has
# independent rows in mode 1 anyway. For $\mathcal G$ it is a condition of its own: three equal slices in mode 1 leave the
# sequential unfoldings of a $2 \times 3 \times 2$ core of full rank, and its mode-1 unfolding of rank 1.)

# %%
slices_equal = torch.eye(2, dtype=torch.float64)[:, None].expand(2, 3, 2)
assert tt_ranks(slices_equal) == [2, 2]
assert int(torch.linalg.matrix_rank(tl.unfold(slices_equal, 1))) == 1
print("full sequential unfoldings, and still a Tucker rank of 1 in the middle")

# %% [markdown]
# Better still, put the centre of the train at $q$ (notebook 04). Then its neighbours are
# orthonormal, and the unfolding of the core has the *same left singular vectors and (non-zero) singular values* as
# $\mathbf X_{(q)}$. So these factors are those of the HOSVD (notebook 03) of what TT-SVD kept. In noise, that *what TT-SVD kept*
# matters: section 7.


# %%
def centre_at(cores, c):
    cores = list(cores)
    for q in range(len(cores) - 1, c, -1):
        Qt, Rt = torch.linalg.qr(cores[q].flatten(1).T)
        cores[q] = Qt.T.reshape(-1, *cores[q].shape[1:])
        cores[q - 1] = torch.tensordot(cores[q - 1], Rt.T, 1)
    return cores  # TT-SVD has left-orthogonal cores already


# %%
for q, rank in enumerate(T):
    centre = centre_at(G_tucker, q)[q]
    small = torch.linalg.svd(tl.unfold(centre, 1), full_matrices=False)
    large = torch.linalg.svd(tl.unfold(y, q), full_matrices=False)
    assert torch.allclose(small.S[:rank], large.S[:rank])
    near, far = small.U[:, :rank], large.U[:, :rank]
    assert close(near @ near.T, far @ far.T)
    assert close(near @ (near.T @ U[q]), U[q])
    print(f"factor {q}: an SVD of {tuple(tl.unfold(centre, 1).shape)} instead of {tuple(tl.unfold(y, q).shape)}")

# %% [markdown]
# ## 3. The algorithm, step by step
#
# Back to CPD. Given a (noisy) tensor and $R$:
#
# 1. TT-SVD with all ranks $R$.
# 2. A CPD of *one* middle core, $R \times I_c \times R$.
# 3. Walk outwards. The neighbour's first (or third) factor is known, by coupling. The rest of it is a set of rank-one matrices.
# 4. At each end, one small product.
#
# ### Step 2: eigenvectors to begin with
#
# Slices of core $c$ are $\mathbf M_c\, \mathrm{diag}(\cdot)\, \mathbf M_{c+1}^{-1}$. Mix them with two sets of random weights,
# $\mathbf S = \sum_i w_i \mathbf G_c(i)$ and $\mathbf S'$. Then $\mathbf S \mathbf S'^{-1} = \mathbf M_c\, \mathrm{diag}(\cdot)\,
# \mathbf M_c^{-1}$: *the columns of $\mathbf M_c$ are eigenvectors* (simultaneous diagonalisation; Leurgans et al. 1993). With probability
# one $\mathbf S'$ is invertible and the eigenvalues differ, if no two columns of $\mathbf A_c$ are parallel. There is no start to choose.
#
# Noise can push two close eigenvalues off the real line, as a conjugate pair with vectors $\mathbf u \pm i \mathbf w$. The real parts alone would be
# twice the same column, and the next inverse would fail; $\mathbf u + \mathbf w$ and $\mathbf u - \mathbf w$ (real part plus imaginary part) span the
# same plane, and ALS can start from them. Real vectors have no imaginary part, and stay as they are.


# %%
def by_eigenvectors(core):
    first, second = torch.einsum("wi,aib->wab", random(2, core.shape[1]), core)
    vectors = torch.linalg.eig(first @ torch.linalg.inv(second)).eigenvectors
    return vectors.real + vectors.imag


# %%
c = Q // 2
basis = by_eigenvectors(G[c])
coordinates = (torch.linalg.inv(M[c]) @ basis).abs()
coordinates = coordinates / coordinates.max(0).values
assert (coordinates.sort(0).values[:-1] < 1e-4).all()
assert sorted(coordinates.argmax(0).tolist()) == list(range(R))
print("each eigenvector is a multiple of one column of the true M: in another order, with another scale")

# %% [markdown]
# ### Step 3: rank-one matrices
#
# Let $\mathbf M_q$ be known. $\mathbf M_q^{-1} \mathbf G_q(i) = \mathrm{diag}(\cdot)\, \mathbf M_{q+1}^{-1}$, so for each term $r$ the horizontal
# slice $r$ of $\mathcal G_q \times_0 \mathbf M_q^{-1}$ is the rank-one matrix $\mathbf a_{q,r}\, \tilde{\mathbf m}_r^\top$, where $\tilde{\mathbf m}_r$ is a
# column of $\widetilde{\mathbf M}_{q+1}$. (Stacked, they are the Khatri-Rao product $\mathbf A_q \odot \widetilde{\mathbf M}_{q+1}$; this is
# its *rank-one factorization*.) The best approximation is one SVD a term (Eckart and Young). Nothing is iterated.
#
# And the inverse? The core before has just given us $\widetilde{\mathbf M}_q = \mathbf M_q^{-\top}$, so $\mathbf M_q^{-1} =
# \widetilde{\mathbf M}_q^\top$: coupling makes the step free of inverses.


# %%
def step(core, dual):
    slices = torch.einsum("ar,aib->rib", dual, core)
    U, S, Vh = torch.linalg.svd(slices, full_matrices=False)
    return (U[:, :, 0] * S[:, :1]).T, Vh[:, 0].T


# %%
slices = torch.einsum("ar,aib->rib", dual[2], G[2])
assert close(slices, torch.einsum("ir,br->rib", A[2], dual[3]))
factor, following = step(G[2], dual[2])
assert close(dense([M[2], factor, following]), G[2])
print("with M known, the slices are rank-one matrices; two factors of the core from", R, "small SVDs")

# %% [markdown]
# The alternative is **two-factor ALS**: hold $\mathbf M_q$ fixed and update the other two in turn, as in notebook 02. It minimises
# $\|\mathcal G_q - [\![\mathbf M_q, \mathbf A_q, \widetilde{\mathbf M}_{q+1}]\!]\|$, where the closed form minimises the same after a
# multiplication by $\mathbf M_q^{-1}$. On an exact core both can reach zero, and then they agree.


# %%
def update(core, factors, mode):
    others = [f for p, f in enumerate(factors) if p != mode]
    return torch.linalg.lstsq(khatri_rao(others), tl.unfold(core, mode).T).solution.T


def als(core, factors, modes, sweeps):
    factors = list(factors)
    for _ in range(sweeps):
        for mode in modes:
            factors[mode] = update(core, factors, mode)
    return factors


# %%
_, *by_als = als(G[2], [M[2], random(shape[2], R), random(R, R)], (2, 1), 300)
assert close(torch.einsum("ir,br->rib", *by_als), torch.einsum("ir,br->rib", factor, following), 1e-5)
disturbed = G[2] + 0.05 * random(*G[2].shape)
start = step(disturbed, dual[2])
_, *found = als(disturbed, [M[2], *start], (2, 1), 50)
assert (dense([M[2], *found]) - disturbed).norm() < (dense([M[2], *start]) - disturbed).norm()
print("exact core: the same; disturbed core: ALS leaves the smaller residual, from the closed form as its start")

# %% [markdown]
# ### Step 4: walk, and close the ends
#
# From the middle to the right, each step hands its $\widetilde{\mathbf M}$ to the next one. At the end
# $\widetilde{\mathbf M}_{Q-1}^\top \mathcal G_{Q-1} = \mathbf A_{Q-1}^\top$. To the left it is the same walk in a mirror: transposed slices $\mathbf G_q(i)^\top = \mathbf M_{q+1}^{-\top} \mathrm{diag}(\cdot)\,
# \mathbf M_q^\top$ swap the two outer factors.


# %%
def walk(cores, dual):
    factors = []
    for core in cores[:-1]:
        factor, dual = step(core, dual)
        factors.append(factor)
    return [*factors, cores[-1][:, :, 0].T @ dual]


# %%
def mirror(cores):
    return [core.permute(2, 1, 0) for core in reversed(cores)]


def coupled(x, R, sweeps=20):
    c = x.ndim // 2
    cores = centre_at(decompose.tt(x, R).factors, c)
    basis = by_eigenvectors(cores[c])
    start = basis, *step(cores[c], torch.linalg.inv(basis).T)
    first, middle, third = als(cores[c], start, (0, 1, 2), sweeps)
    return [*walk(mirror(cores[:c]), first)[::-1], middle, *walk(cores[c + 1 :], third)]


# %% [markdown]
# One detail, for noise: `centre_at` makes all cores but number $c$ orthonormal. Then an error of core $c$ is an error of the tensor,
# of the same norm, and to fit the core *is* to fit the train (the other cores being fixed). That is the whole method. On the tensor from above, compared with the true factors by the *congruence* of terms (notebook 02: 1 for
# equal terms, whatever their order and scales):


# %%
def worst_congruence(truth, found):
    cosines = [(a / a.norm(dim=0)).T @ (b / b.norm(dim=0)) for a, b in zip(truth, found, strict=True)]
    return float(torch.stack(cosines).prod(0).max(1).values.min())


# %%
found = coupled(x, R)
assert [tuple(f.shape) for f in found] == [tuple(f.shape) for f in A]
assert close(dense(found), x)
assert worst_congruence(A, found) > 1 - 1e-8
print("the tensor, and all its factors, without a start and without a sweep over the tensor")

# %% [markdown]
# It also finds the five terms with middle modes of sizes 2, 3, 2:

# %%
found = coupled(x_wide, 5)
assert close(dense(found), x_wide, 1e-4)
print("rank 5 in a 5 x 2 x 3 x 2 x 7 tensor, found by a chain that starts at the mode of size 3")

# %% [markdown]
# ### Why coupling fixes the order of the terms
#
# **Predict, then reveal.** Skip step 3. Every core has a unique CPD, so decompose each by itself, and put the $\mathbf A_q$ together.
# What do you get?


# %% jupyter={"outputs_hidden": true}
def alone(core):
    basis = by_eigenvectors(core)
    return basis, *step(core, torch.linalg.inv(basis).T)


separate = {q: alone(G[q]) for q in range(1, Q - 1)}
for q, factors in separate.items():
    assert close(dense(factors), G[q], 1e-6)
shuffled = separate[2][1][:, [1, 2, 0]], separate[3][1]
first, last = G[0][0] @ separate[1][0], G[-1][:, :, 0].T @ separate[3][2]
together = dense([first, separate[1][1], *shuffled, last])
assert not close(together, x, 0.1)
print("every core is decomposed exactly, and the factors do not fit together")

# %% [markdown]
# <details><summary>Why</summary>
#
# Each CPD comes with its own order and scales. (We shuffled one by hand, to be sure that chance did not line them up.)
# </details>
#
# Neighbours share $\mathbf M_{q+1}$, up to order and scale: the third factor of core $q$, transposed, times the first factor of core
# $q + 1$ is a permutation matrix times a diagonal one, and that tells who is who (exercise 2). The walk does not even need
# it: it *hands over* $\widetilde{\mathbf M}_{q+1}$, with order and scales, so one permutation and one set of scales holds for all factors.

# %%
product = separate[1][2].T @ separate[2][0]
pattern = product.abs() > 1e-4 * product.abs().max()
assert torch.equal(pattern.sum(0), torch.ones(R).long())
assert torch.equal(pattern.sum(1), torch.ones(R).long())
print("third factor of core 1 against first factor of core 2: one entry a row, one a column")

# %% [markdown]
# ### What it costs
#
# An ALS sweep takes $Q\, R \prod_p I_p$ MACs, in its plain form (notebook 02). The CPD of the middle core does not depend on $Q$ at
# all, and the walk costs $Q - 3$ times $R$ SVDs of size $I \times R$. What the chain pays for is TT-SVD, *once*. A thin SVD of an $m \times n$
# matrix takes a small multiple of $m^2 n$ MACs, $m \le n$. With all sizes $I$, the first unfolding is $I \times I^{Q-1}$, which makes
# $I \cdot I^Q$. The second is $R I \times I^{Q-2}$, and *not* cheaper if $R^2 > I$: it makes $R^2 I^Q$. From there on each is $I$ times
# cheaper than the one before, while it is wider than high. Together, in sweeps:
#
# $$\frac{I \cdot I^Q + R^2 I^Q\, (1 + I^{-1} + I^{-2} + \dots)}{Q R\, I^Q} \approx \frac{1}{Q R} \Big( I + \frac{R^2 I}{I - 1} \Big) .$$
#
# We look at the SVDs that really happen:


# %%
class SvdShapes(TorchFunctionMode):
    def __init__(self):
        super().__init__()
        self.shapes = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.linalg.svd:
            self.shapes.append(tuple(args[0].shape))
        return function(*args, **(kwargs or {}))


# %%
rows = []
for order, n, r in ((4, 10, 3), (6, 5, 3), (8, 5, 3), (9, 4, 3)):
    with SvdShapes() as seen:
        decompose.tt(random(*[n] * order), r)
    assert seen.shapes == [(n * (r if q else 1), n ** (order - 1 - q)) for q in range(order - 1)]
    svds = sum(min(shape) ** 2 * max(shape) for shape in seen.shapes)
    sweep, formula = order * r * n**order, (n + r * r * n / (n - 1)) / (order * r)
    assert math.isclose(svds / sweep, formula, rel_tol=0.1)
    rows.append({"order": order, "size": n, "rank": r, "ALS sweep": f"{sweep:,}", "all SVDs": f"{svds:,}",
                 "in sweeps": f"{svds / sweep:.2f}", "first SVD alone": f"{n / (order * r):.2f}"})  # fmt: skip
pd.DataFrame(rows)

# %% [markdown]
# (Times the constant of an SVD, which makes it a few sweeps.) A sketch lowers that further: only $R$ singular vectors are wanted, and random projections find them (`sketch=` of
# `decompose.coupled_cp`, a randomized SVD: Halko, Martinsson and Tropp 2011).
#
# ### The same in tnlib
#
# `decompose.coupled_cp` is this algorithm with several starts for the middle core, checks of all conditions and an optional polish:
# a few sweeps of ALS or steps of NLS on the whole tensor that begin at the chain's estimate.

# %%
for step_kind in ("closed", "als"):
    estimate = decompose.coupled_cp(x, R, step=step_kind, seed=seed)
    assert close(estimate.to_tensor(), x)
    assert worst_congruence(A, estimate.factors) > 1 - 1e-8
assert close(decompose.cp(x, R, method="coupled", seed=seed).to_tensor(), x)
assert close(dense(coupled(x, R)), estimate.to_tensor())
print("tnlib finds the same tensor and the same terms, with either kind of step")

# %%
chain = decompose.coupled_tucker(y, T, seed=seed)
assert close(chain.to_tensor(), y)
for q in range(len(T)):
    basis = torch.linalg.qr(chain.factors[q]).Q
    assert close(basis @ (basis.T @ U[q]), U[q])
print("and coupled_tucker the same spaces")

# %% [markdown]
# ## 4. Conditions, and what happens without them
#
# The chain needs: $R$ at most the size of the first and of the last mode (their factors must have full column rank), no zero
# column, and one middle factor without parallel columns. tnlib checks, and says what fails.


# %%
def complaint(tensor, rank, **options):
    try:
        decompose.coupled_cp(tensor, rank, seed=seed, **options)
    except ValueError as error:
        return f"ValueError: {error}"
    return "no complaint"


# %% [markdown]
# **A mode at an end is too small.** The first unfolding has 2 rows, but should have rank 4:

# %%
A_small = [random(n, 4) for n in (2, 3, 5, 3, 2)]
x_small = dense(A_small)
message = complaint(x_small, 4)
assert "merge_modes=True" in message
print(message)

# %% [markdown]
# The cure: read the first two modes as *one* of size 6, and the last two likewise. That is a mere `reshape`, and the merged tensor follows a CPD
# again, with the factor $\mathbf A_0 \odot \mathbf A_1$. Afterwards each of its columns is split: reshaped to a matrix, it has rank one.

# %%
merged = x_small.reshape(6, 5, 6)
together = khatri_rao(A_small[:2])
assert close(dense([together, A_small[2], khatri_rao(A_small[3:])]), merged)
for column in together.T:
    assert int(torch.linalg.matrix_rank(column.reshape(2, 3))) == 1
found = decompose.coupled_cp(x_small, 4, merge_modes=True, seed=seed)
assert close(found.to_tensor(), x_small, 1e-5)
assert worst_congruence(A_small, found.factors) > 1 - 1e-4
print("merged, decomposed, split: factors", [tuple(f.shape) for f in found.factors])

# %% [markdown]
# **An end factor has dependent columns.** Here the third column of $\mathbf A_0$ is the sum of the first two. The terms are still unique,
# but the bond has rank 2, and no third basis vector. Put that mode in the middle, and it does no harm:

# %%
A_bad = [random(5, 3), random(4, 3), random(6, 3), random(5, 3)]
A_bad[0][:, 2] = A_bad[0][:, 0] + A_bad[0][:, 1]
x_bad = dense(A_bad)
message = complaint(x_bad, 3)
assert "numerical rank 2" in message
found = decompose.coupled_cp(x_bad.movedim(0, 1).contiguous(), 3, seed=seed)
assert worst_congruence([A_bad[1], A_bad[0], *A_bad[2:]], found.factors) > 1 - 1e-6
print(message)

# %% [markdown]
# **Parallel columns in all middle factors.** No middle core has a unique CPD. One good core would do; tnlib looks for it. A cure can be to merge middle modes:
# columns that are parallel in one of them need not be in their Khatri-Rao product.

# %%
A_twins = [random(5, 3), random(4, 3), random(6, 3), random(5, 3)]
A_twins[1][:, 2] = A_twins[1][:, 0]
assert complaint(dense(A_twins), 3) == "no complaint"
A_twins[2][:, 1] = -A_twins[2][:, 0]
message = complaint(dense(A_twins), 3)
assert "collinear" in message
joined = decompose.coupled_cp(dense(A_twins).flatten(1, 2), 3, seed=seed)
assert worst_congruence([A_twins[0], khatri_rao(A_twins[1:3]), A_twins[3]], joined.factors) > 1 - 1e-6
print(message)

# %% [markdown]
# **The rank is too large for any merging.** One mode of a $3 \times 3 \times 3 \times 3$ tensor has to stay in the middle, so one end is a
# single mode, and $R \le 3$. Yet four generic terms are unique (Kruskal's condition for order $Q$, Sidiropoulos and Bro 2000: the k-ranks
# add up to $2R + Q - 1$ or more; here $12 \ge 11$), and methods that see the whole tensor have no such limit:

# %%
A_many = [random(3, 4) for _ in range(4)]
message = complaint(dense(A_many), 4, merge_modes=True)
assert "too large" in message
print(message)
found = decompose.cp(dense(A_many), 4, method="nls", restarts=5, seed=seed)
assert worst_congruence(A_many, found.factors) > 1 - 1e-6
print("NLS with five random starts finds the four terms")

# %% [markdown]
# ## 5. How good can an estimate be?
#
# Let $\mathcal Y = \mathcal X + \mathcal E$, with white Gaussian noise of variance $\sigma^2$. The quality of an estimate is the *normalized mean squared
# error*, NMSE $= \|\hat{\mathcal X} - \mathcal X\|^2 / \|\mathcal X\|^2$. The **Cramér-Rao bound** limits the covariance of every unbiased estimator.
#
# Collect all entries of the factors in $\boldsymbol\theta$, and let $\mathbf J$ be the Jacobian of $\operatorname{vec} \mathcal X$. The logarithm of the
# density of $\mathcal Y$ is $-\|\mathcal Y - \mathcal X(\boldsymbol\theta)\|^2 / (2 \sigma^2)$ plus a constant. Its gradient in $\boldsymbol\theta$ is the **score**
# $\mathbf s = \mathbf J^\top \mathbf e / \sigma^2$ with the noise $\mathbf e$. The covariance of the score is the **Fisher information**
#
# $$\mathbf I_{\mathrm F} = \mathrm E\, \mathbf s \mathbf s^\top = \mathbf J^\top \mathbf J / \sigma^2 :$$
#
# it says how sharply, on average, the data tell one $\boldsymbol\theta$ from its neighbours. Why does it bound errors? Let $g(\boldsymbol\theta)$ be a
# number and $\hat g(\mathcal Y)$ an unbiased estimator of it, $\mathrm E\, \hat g = g$ for every $\boldsymbol\theta$. Differentiate under the integral:
# $\mathrm E\, \hat g\, \mathbf s = \nabla g$. The score has mean zero, so this is a covariance, and the inequality of Cauchy and Schwarz for $\hat g$ and
# $\mathbf v^\top \mathbf s$ says $(\mathbf v^\top \nabla g)^2 \le \operatorname{var} \hat g \cdot \mathbf v^\top \mathbf I_{\mathrm F} \mathbf v$ for every $\mathbf v$. The best $\mathbf v = \mathbf I_{\mathrm F}^\dagger \nabla g$ gives
# $\operatorname{var} \hat g \ge \nabla g^\top \mathbf I_{\mathrm F}^\dagger \nabla g$ (for $\nabla g$ in the range of $\mathbf I_{\mathrm F}$).
#
# Here $\mathbf I_{\mathrm F}$ is singular: scales within a term do not change $\mathcal X$. But we ask for $\mathcal X$, not for $\boldsymbol\theta$, and the
# gradients of its entries, the rows of $\mathbf J$, lie in that range. So the bound on the covariance of $\operatorname{vec} \hat{\mathcal X}$ is
#
# $$\sigma^2\, \mathbf J (\mathbf J^\top \mathbf J)^\dagger \mathbf J^\top = \sigma^2\, \mathbf P_{\mathbf J} ,$$
#
# $\sigma^2$ times the orthogonal *projection* on the range of $\mathbf J$. Its trace is the bound on the squared error, and the trace of a projection
# is its rank:
#
# $$\mathrm{E}\, \|\hat{\mathcal X} - \mathcal X\|^2 \ge \sigma^2 \operatorname{rank} \mathbf J .$$


# %%
def jacobian(factors):
    blocks = torch.autograd.functional.jacobian(lambda *f: dense(f).flatten(), tuple(factors))
    return torch.cat([block.flatten(1) for block in blocks], 1)


# %%
small = [random(n, 2) for n in (3, 5, 4)]
J = jacobian(small)
P = J @ torch.linalg.pinv(J.T @ J, rtol=1e-10) @ J.T
assert close(P @ P, P)
assert close(P, P.T)
assert close(P @ J, J)
assert math.isclose(P.trace(), int(torch.linalg.matrix_rank(J)), rel_tol=1e-6)
print(f"Jacobian {tuple(J.shape)}, a projection of rank {int(torch.linalg.matrix_rank(J))}")

# %%
sigma, many = 0.3, 100 * trials
scores = sigma * random(many, len(J)) @ J / sigma**2
covariance, information = scores.T @ scores / many, J.T @ J / sigma**2
assert (covariance - information).norm() < 5 * information.trace() / math.sqrt(many)
print("the covariance of simulated scores is the Fisher information")

# %% [markdown]
# The rank of $\mathbf J$ is what notebook 02 counted: $\sum_n I_n$ numbers a term, of which $Q - 1$ scales are idle,
#
# $$\operatorname{rank} \mathbf J = R\, \Bigl( \sum_n I_n - Q + 1 \Bigr)$$
#
# for generic factors, as long as the tensor has finitely many CPDs: then nothing but scales is idle. To see them: scaling
# $\mathbf a_{0,r}$ up and $\mathbf a_{n,r}$ down, $n > 0$, is in the null space of $\mathbf J$, $R\,(Q - 1)$ of them.

# %%
for sizes, r in (((3, 5, 4), 2), ((4, 3, 5, 2), 3), ((2, 3, 2, 4, 3), 2)):
    factors = [random(n, r) for n in sizes]
    J = jacobian(factors)
    assert int(torch.linalg.matrix_rank(J)) == r * (sum(sizes) - len(sizes) + 1)
    idle = [torch.cat([(f * (s == 0) - f * (s == 1)).flatten() for s, f in zip(which, factors, strict=True)])
            for which in ([0, *[1 if p == q else 2 for p in range(1, len(sizes))]] for q in range(1, len(sizes)))]  # fmt: skip
    assert max(float((J @ direction).norm()) for direction in idle) < 1e-9
    print(f"{sizes}, rank {r}: {J.shape[1]} numbers, {int(torch.linalg.matrix_rank(J))} free")

# %% [markdown]
# At the border the count fails: three terms of a $2 \times 2 \times 2$ tensor have more numbers than there are entries, and
# five terms of a $4 \times 4 \times 3$ tensor have one idle direction that is no scale (a *defective* case), though there are entries enough.

# %%
for sizes, r in (((2, 2, 2), 3), ((4, 4, 3), 5)):
    J, count = jacobian([random(n, r) for n in sizes]), r * (sum(sizes) - len(sizes) + 1)
    assert int(torch.linalg.matrix_rank(J)) < count
    print(f"{sizes}, rank {r}: counted {count}, free {int(torch.linalg.matrix_rank(J))}, entries {len(J)}")

# %% [markdown]
# With $\sigma^2 = \|\mathcal X\|^2\, 10^{-\mathrm{SNR}/10} / \prod_n I_n$ the norm cancels. **The bound only counts parameters:**
#
# $$\mathrm{NMSE} \ge 10^{-\mathrm{SNR}/10}\, \frac{R\,(\sum_n I_n - Q + 1)}{\prod_n I_n} .$$
#
# **Predict:** order 8, size 5, rank 3, 20 dB, that is 1 % of noise. How small may the error be?


# %% jupyter={"outputs_hidden": true}
def bound(shape, rank, snr):
    return 10 ** (-snr / 10) * rank * (sum(shape) - len(shape) + 1) / math.prod(shape)


for sizes, r, snr in (((3, 5, 4), 2, 10.0), ((4, 3, 5, 2), 3, 35.0), ((5,) * 8, 3, 20.0)):
    assert math.isclose(bound(sizes, r, snr), decompose.cp_bound(sizes, r, snr), rel_tol=1e-9)
print(f"{bound((5,) * 8, 3, 20.0):.1e}: a tensor of high order averages its noise away")

# %% [markdown]
# ### Monte Carlo
#
# A bound is worth something if someone reaches it. To first order, least squares projects the noise: its error is $\mathbf P_{\mathbf J}\,
# \mathbf e$, with $\|\mathbf P_{\mathbf J}\, \mathbf e\|^2 / \sigma^2$ distributed as $\chi^2$ with $\operatorname{rank} \mathbf J$ degrees of freedom. Draw the noise and check the mean
# (five standard errors are allowed):

# %%
p = int(torch.linalg.matrix_rank(P))
lengths = (random(trials, len(P)) @ P).square().sum(1)
allowed = 5 * math.sqrt(2 / (p * trials))
assert abs(lengths.mean() / p - 1) < allowed
assert abs(lengths.var() / (2 * p) - 1) < 5 * math.sqrt((2 + 12 / p) / trials)
print(f"projected noise: mean and variance of a chi-squared variable with {p} degrees of freedom")

# %% [markdown]
# Now a real estimator: least squares by ALS at 40 dB, from the true factors as start, so that nothing but the noise is tested. And the chain, which is
# not told the factors:


# %%
def add_noise(clean, snr):
    sigma = clean.norm() * 10 ** (-snr / 20) / math.sqrt(clean.numel())
    return clean + sigma * random(*clean.shape)


def nmse(estimate, clean):
    return float((estimate - clean).norm() / clean.norm()) ** 2


# %%
kept = [torch.linalg.qr(random(n, 2)).Q + 0.3 for n in (3, 5, 4)]
clean, ratios = dense(kept), {"least squares": [], "chain": []}
for _ in range(trials // 4):
    noisy = add_noise(clean, 40.0)
    estimates = dense(als(noisy, kept, (0, 1, 2), 15)), dense(coupled(noisy, 2))
    for values, estimate in zip(ratios.values(), estimates, strict=True):
        values.append(nmse(estimate, clean) / bound((3, 5, 4), 2, 40.0))
means = {name: sum(values) / len(values) for name, values in ratios.items()}
assert abs(means["least squares"] - 1) < 6 * math.sqrt(2 / (p * trials / 4))
assert means["chain"] > means["least squares"] - 0.05
print("least squares reaches the bound, on average over the noise; the chain stays above it or on it")

# %% [markdown]
# So the bound is attained (at high SNR). The chain, which fits core after core, may pay for not fitting all at once: little on these terms, more
# on collinear ones (section 6). A polish takes it back. Two warnings. The bound holds on *average*: single draws scatter by a factor of about $1 \pm \sqrt{2 / \operatorname{rank} \mathbf J}$, so some
# lie below it. And it binds *unbiased* estimators; at very low SNR an estimate that shrinks towards zero may beat it.
#
# ## 6. Live draws
#
# A small version of the experiment: tensors of order 6 with normal factors, at `snr_db`. All methods see the same tensors. (TensorLy's `parafac` starts from
# singular vectors by default; a random start is the other choice. *Compress, then CPD* fits the core of a HOSVD; *NLS* is in
# notebook 02, section 5.)


# %%
def compress_first(y):  # Carroll, Pruzansky and Kruskal 1980; lesson 03
    small = decompose.tucker(y, R, method="hosvd")
    return tl.tucker_to_tensor((decompose.cp(small.core, R, init="svd").to_tensor(), small.factors))


methods = {
    "TT-SVD only": lambda y, s: decompose.tt(y, R).to_tensor(),
    "chain (this notebook)": lambda y, s: dense(coupled(y, R)),
    "chain (tnlib)": lambda y, s: decompose.coupled_cp(y, R, seed=s).to_tensor(),
    "chain + NLS": lambda y, s: decompose.coupled_cp(y, R, polish="nls", seed=s).to_tensor(),
    "ALS, one start": lambda y, s: decompose.cp(y, R, seed=s).to_tensor(),
    "ALS, SVD start": lambda y, s: decompose.cp(y, R, init="svd").to_tensor(),
    "compress, then CPD": lambda y, s: compress_first(y),
    "parafac, SVD start": lambda y, s: tl.cp_to_tensor(parafac(y, R, n_iter_max=500, init="svd")),
}
methods["parafac, random start"] = lambda y, s: tl.cp_to_tensor(
    parafac(y, R, n_iter_max=500, init="random", random_state=s)
)


# %%
def draw_factors(shape, shared):
    return [math.sqrt(shared) * random(n, 1) + math.sqrt(1 - shared) * random(n, R) for n in shape]


def compare(shape, shared, methods):
    rows = []
    for number in range(draws):
        print(number + 1, end=" ", flush=True)
        clean = dense(draw_factors(shape, shared))
        noisy = add_noise(clean, snr_db)
        for name, method in methods.items():
            begin = time.perf_counter()
            estimate = method(noisy, number)
            ms = 1e3 * (time.perf_counter() - begin)
            rows.append({"method": name, "over": nmse(estimate, clean) / bound(shape, R, snr_db), "ms": ms})
    return pd.DataFrame(rows)


# %%
def summarize(rows):
    groups = rows.groupby("method", sort=False)
    columns = {"median NMSE / bound": groups.over.median(), "largest": groups.over.max()}
    columns["successes"] = groups.over.apply(lambda over: int((over < 10).sum()))
    return pd.DataFrame(columns | {"median ms": groups.ms.median()}).round(2)


# %% tags=["nbval-ignore-output"]
live = compare((5,) * 6, 0.0, methods)
summarize(live)

# %% [markdown]
# A *success* is an NMSE below ten times the bound. What the live draws show:

# %%
median = live.groupby("method").over.median()
assert 10 * abs(math.log10(median["chain + NLS"])) < 1.5
assert median["chain + NLS"] < median["TT-SVD only"]
assert median["chain (tnlib)"] < median["TT-SVD only"]
print("the polished chain is at the bound; TT-SVD alone, which ignores the CPD, is not")

# %% [markdown]
# TT-SVD removes most of the noise by itself: the same reasoning gives it a bound of its own, with the free numbers of a *train*
# (cores, less a gauge a bond: notebook 04) in place of those of a CPD.


# %%
def over_a_cpd(sizes, rank):
    bonds = [1, *[rank] * (len(sizes) - 1), 1]
    cores = sum(a * n * b for a, n, b in zip(bonds, sizes, bonds[1:], strict=False))
    return (cores - sum(b**2 for b in bonds[1:-1])) / (rank * (sum(sizes) - len(sizes) + 1))


assert abs(10 * math.log10(median["TT-SVD only"] / over_a_cpd((5,) * 6, R))) < 1.5
print(f"a train has {over_a_cpd((5,) * 6, R):.2f} times the free numbers, and TT-SVD about that many times the bound")

# %% [markdown]
# The same at order 5 with columns that have much in common (`collinearity` is the expected cosine between two columns). TensorLy sits this one out: in a
# swamp it takes its time, and the stored records have it. **Predict** who suffers: TT-SVD, what is read from its cores, or ALS?

# %% tags=["nbval-ignore-output"] jupyter={"outputs_hidden": true}
here = {name: method for name, method in methods.items() if not name.startswith("parafac")}
collinear = compare((5,) * 5, collinearity, here)
summarize(collinear)

# %% [markdown]
# <details><summary>What to look for</summary>
#
# TT-SVD does not suffer: the *tensor* is kept as well as before, since its bound counts numbers and knows no angles. What suffers is what the chain reads
# from the cores: the bases $\mathbf M_q$ are worse conditioned, and the closed form multiplies noise by their inverses. (Ours tries one pair of mixtures for
# the middle core, tnlib five: compare the rows.) The polish mends what is close enough to be mended. ALS pays in sweeps: compare its times with those of
# the first table. How often a start goes wrong, ten draws cannot say; the records below can.
# </details>


# %% jupyter={"outputs_hidden": true}
def condition(shared):  # of M_1 with columns of norm one, that is, of A_0; the median of 101
    factors = [draw_factors((5,), shared)[0] for _ in range(101)]
    return float(torch.stack([torch.linalg.cond(f / f.norm(dim=0)) for f in factors]).median())


apart, near = condition(0.0), condition(collinearity)
assert near > apart
assert collinear.groupby("method").over.median()["TT-SVD only"] < 1.5 * over_a_cpd((5,) * 5, R)
print(f"condition of the first basis: {near / apart:.1f} times that of independent columns; TT-SVD still at its bound")

# %% [markdown]
# ## 7. The stored experiment (optional)
#
# `notebooks/experiments/recover_cp_factors.ipynb` is one point of the same experiment with 100 draws; the sweep `notebooks/sweeps/coupled_study.yaml`
# lists all points. `tnlib sweep notebooks/sweeps/coupled_study.yaml` repeats it. These cells draw whatever records there are.

# %%
CURVES = {
    "parafac_random": ("parafac, random start", "#E69F00"),
    "parafac_best": ("parafac, best of ten", "#CC79A7"),
    "parafac_svd": ("parafac, SVD start", "#56B4E9"),
    "als": ("our ALS, random start", "0.5"),
    "coupled": ("chain", "#0072B2"),
    "coupled_nls": ("chain + NLS", "#009E73"),
}
KEYS = ["order", "size", "rank", "snr_db", "collinearity"]
SERIES = pd.DataFrame({"order": [4, 6, 8, 10, 12], "size": [8, 5, 5, 3, 3]})


# %%
def tidy(records):
    rows = []
    for record in records.to_dict("records"):
        where = {key: record[f"parameters.{key}"] for key in KEYS} | {"bound": record["metrics.bound"]}
        for method in (*CURVES, "coupled_step_als", "coupled_als"):
            if record.get(f"metrics.{method}.median", math.nan) > 0:
                keys = ("low", "median", "high", "largest", "success", "seconds", "times_coupled")
                rows.append(where | {"method": method} | {key: record[f"metrics.{method}.{key}"] for key in keys})
    columns = [*KEYS, "bound", "method", "low", "median", "high", "largest", "success", "seconds", "times_coupled"]
    table = pd.DataFrame(rows, columns=columns).drop_duplicates([*KEYS, "method"], keep="last")
    return table.astype({"order": int, "size": int})


# %%
records = study.results("recover-cp-factors")
if len(records):
    records = records[records["parameters.draws"] >= 100]
stored = tidy(records)
print(f"{len(stored[KEYS].drop_duplicates())} points of 100 draws or more on record")


# %%
def points(**fixed):
    chosen = stored
    for key, value in fixed.items():
        chosen = chosen[chosen[key] == value]
    if chosen.empty:
        print(f"no record with {fixed}: run `tnlib sweep notebooks/sweeps/coupled_study.yaml`")
    return chosen


def lines(ax, chosen, x, y, only=CURVES, **style):
    for method, part in chosen.sort_values(x).groupby("method", sort=False):
        if method in only:
            label, color = CURVES[method]
            ax.plot(part[x], part[y], "o-", color=color, label=label, markersize=4, **style)


# %% [markdown]
# ### Error against noise


# %%
def decibels(values):
    return 10 * values.map(math.log10)


fig, axes = plt.subplots(1, 3, figsize=(11, 3.8), sharey=True)
for ax, (Q_shown, n) in zip(axes, ((4, 8), (6, 5), (8, 5)), strict=True):
    chosen = points(order=Q_shown, size=n, rank=3, collinearity=0.0)
    chosen = chosen[chosen.snr_db.between(0, 40) & chosen.method.isin(["als", "coupled"])]
    lines(ax, chosen.assign(over=decibels(chosen["median"] / chosen.bound)), "snr_db", "over")
    for method, part in chosen.sort_values("snr_db").groupby("method"):
        low, high = (decibels(part[key] / part.bound) for key in ("low", "high"))
        ax.fill_between(part.snr_db, low, high, color=CURVES[method][1], alpha=0.2, linewidth=0)
    ax.axhline(0, color="k", linestyle="--", linewidth=1)
    ax.set(xlabel="SNR (dB)", title=f"order {Q_shown}, size {n}", xlim=(-2, 42), ylim=(-5, 65))
axes[0].set_ylabel("NMSE over the bound (dB)")
plots.label_lines(axes[2], gap=0.08, pad=0.04)
fig.suptitle("The higher the order, the more a random start is a gamble", x=0.01, ha="left", weight="bold")
plt.show()

# %% [markdown]
# Lines are medians, bands hold the middle 80 of 100 draws, and the dashed line is the bound. Where the top of a band is 10 dB or more above it, about one
# draw in ten, or more, was no success. (The polished chain would nearly lie on the chain, but for 0 dB.)
#
# ### Success and time against the order

# %%
SIZED = [f"{order}\nsize {size}" for order, size in SERIES.itertuples(index=False)]
shown = [method for method in CURVES if method != "coupled_nls"]
fig, axes = plt.subplots(1, 2, figsize=(11, 4.2))
by_order = points(rank=3, snr_db=20.0, collinearity=0.0).merge(SERIES)
lines(axes[0], by_order.assign(success=100 * by_order.success), "order", "success", shown)
lines(axes[1], by_order, "order", "seconds", shown)
axes[0].set(ylabel="successes (% of the draws)", ylim=(0, 104), title="Who finds the tensor")
axes[1].set(ylabel="seconds, median", yscale="log", title="... and in what time (two CPU cores)")
for ax in axes:
    ax.set_xticks(list(SERIES.order), SIZED)
    ax.set_xlabel("order")
    plots.label_lines(ax, gap=0.065, pad=0.025)
plt.show()

# %% [markdown]
# (Orders 10 and 12 have modes as small as the rank, where an end factor may be badly conditioned: the chain's weak spot is the size of its end modes,
# not the order.) The numbers of the point with order 8, size 5:

# %%
chosen = points(order=8, size=5, rank=3, snr_db=20.0, collinearity=0.0)
columns = ["method", "median", "high", "largest", "success", "times_coupled"]
table = chosen[columns].set_index("method")
if len(table):
    print(f"bound {chosen.bound.iloc[0]:.1e}")
table.map("{:.2g}".format)

# %% [markdown]
# `times_coupled` is a method's time divided by the chain's on the same draw, the median of these ratios. Read the rows with care. One random start of ALS
# is a gamble; ten starts are nearly safe here and cost the time of ten, at least. The SVD start, TensorLy's default, is far better than its reputation: it
# computes $Q$ singular value decompositions of the *whole* tensor, finds the spaces of all factors (of modes larger than $R$), and then needs few sweeps. Against it, the
# chain wins time more than success here. And a part of that time is not the algorithm's: `als` and `parafac_random` do the same in two codes. (Our ALS with
# an SVD start is not on record; it stands in the live table above, beside the chain.)
#
# **Predict:** at orders 10 and 12 the modes are of size 3, the rank. What do the leading three left singular vectors of an unfolding with three rows
# tell about its terms?

# %% jupyter={"outputs_hidden": true}
for size in (5, 3):
    factors = [random(size, 3) for _ in range(6)]
    for q, factor in enumerate(factors):
        U = torch.linalg.svd(tl.unfold(dense(factors), q), full_matrices=False).U[:, :3]
        assert torch.allclose(U @ U.T, factor @ torch.linalg.pinv(factor), atol=1e-8)
    whole = torch.allclose(U @ U.T, torch.eye(size, dtype=U.dtype), atol=1e-8)
    assert whole == (size == 3)
    print(f"size {size}: they span the factor's columns{', which is the whole space' if whole else ''}")

# %% [markdown]
# <details><summary>Why</summary>
#
# Nothing: at size 3 they span the whole space, whatever the terms are. The chain meets the same small modes, but the unfoldings of a train join
# modes, and all but the two at its ends have far more rows than the rank.
# </details>
#
# Successes by order:

# %%
by_order.pivot_table("success", index="method", columns="order", sort=False).sort_index(axis=1).map("{:.0%}".format)

# %% [markdown]
# Compare `parafac_svd` with `parafac_random` from order 10 on: there the SVD start is no better than a random one. The chain hardly loses a draw, and ten starts
# together lose more of them the higher the order. The times, over the chain's:

# %%
by_order.pivot_table("times_coupled", index="method", columns="order", sort=False).sort_index(axis=1).map(
    "{:.2g}".format
)

# %% [markdown]
# ### Where it fails


# %%
def over_bound(ax, chosen, x, only):
    lines(ax, chosen.assign(over=decibels(chosen["median"] / chosen.bound)), x, "over", only)
    ax.axhline(0, color="k", linestyle="--", linewidth=1)
    ax.set_ylim(-1, 8)
    plots.label_lines(ax, gap=0.075, pad=0.03)


fig, axes = plt.subplots(1, 2, figsize=(11, 3.8), sharey=True)
shown = ("als", "coupled", "coupled_nls", "parafac_svd")
over_bound(axes[0], points(order=6, size=5, rank=3, collinearity=0.0), "snr_db", shown)
over_bound(axes[1], points(order=6, size=5, rank=3, snr_db=20.0), "collinearity", ("coupled", "coupled_nls"))
axes[0].set(xlabel="SNR (dB)", ylabel="median NMSE over the bound (dB)", title="Strong noise: all leave the bound")
axes[1].set(xlabel="collinearity, at 20 dB", title="Collinear terms: the chain needs its polish")
plt.show()

# %% [markdown]
# A median hides the worst draws. The same points by the *largest* of all draws, over the bound:

# %%
hard = pd.concat([points(order=6, size=5, snr_db=20.0), points(order=4, size=8, snr_db=0.0)])
hard = hard.assign(over=hard.largest / hard.bound)
hard = hard[hard.method.isin(shown)]
table = hard.pivot_table("over", index=["order", "rank", "collinearity", "snr_db"], columns="method")
table.map("{:.2g}".format).replace("nan", "not run")

# %% [markdown]
# What to look for, and why:
#
# - **Order 4.** Little to gain: ALS has few factors to confuse and succeeds as often (table above), and its tensors are small.
# - **Rank close to a mode's size.** A square end factor may be nearly singular; then a bond is nearly lost in the noise. Above the size, modes are merged.
#   On these draws both cost the chain little (rows with rank 5 and 8). A random start of ALS goes wrong somewhere at every rank, the SVD start from rank 4 on.
# - **Strong noise.** TT-SVD decides bond by bond what is signal, before anything knows that a CPD is wanted. At -10 dB least squares itself leaves the bound.
# - **Collinear terms.** The bases $\mathbf M_q$ are badly conditioned, and the bare chain falls behind.
#
# The polish helps as long as the chain's estimate is near enough, at the price of sweeps over the whole tensor. And everything rests on the model: the chain
# *believes* that the tensor has CP rank $R$. Section 8 shows one that has not.
#
# ### Tucker in noise
#
# HOSVD takes an SVD of every unfolding of the noisy tensor. The chain of section 2 comes in two kinds. `train="svd"` reads the factors from a TT-SVD.
# `"structured"`, tnlib's default, builds the train from both ends towards $\mathcal G$ and truncates along one mode at a time, so that the blocks are
# reshaped identities by construction; in this order of the modes that is the ST-HOSVD of notebook 03.
#
# **Predict.** The middle bond of an order-6 train with all $T_q = 2$ has rank 8, as large as the core's unfolding. What do its small singular values meet in a
# noisy tensor?

# %% tags=["nbval-ignore-output"] jupyter={"outputs_hidden": true}
tucker_methods = {
    "HOSVD": lambda y: decompose.tucker(y, 2, method="hosvd"),
    "chain, structured": lambda y: decompose.coupled_tucker(y, 2),
    "chain from TT-SVD": lambda y: decompose.coupled_tucker(y, 2, train="svd"),
}
rows = []
for _ in range(draws):
    clean = tl.tucker_to_tensor((random(*(2,) * 6), [random(n, 2) for n in (5, 6, 5, 4, 5, 6)]))
    noisy = add_noise(clean, snr_db)
    for name, method in tucker_methods.items():
        begin = time.perf_counter()
        fit = method(noisy)
        rows.append({"method": name, "ms": 1e3 * (time.perf_counter() - begin), "NMSE": nmse(fit.to_tensor(), clean)})
tucker_runs = pd.DataFrame(rows).groupby("method").median()
tucker_runs.assign(NMSE=tucker_runs.NMSE.map("{:.2e}".format)).round(1)

# %% jupyter={"outputs_hidden": true}
assert tucker_runs.NMSE["chain, structured"] < 1.05 * tucker_runs.NMSE["HOSVD"]
assert tucker_runs.NMSE["chain from TT-SVD"] > 1.5 * tucker_runs.NMSE["HOSVD"]
print("the structured chain is as accurate as HOSVD; from a TT-SVD it is worse")

# %% [markdown]
# <details><summary>Why</summary>
#
# They meet the noise, and the ones below it are lost: TT-SVD keeps the eight largest directions of a bond, whoever they belong to, and a factor read from such a
# train inherits the mistake. HOSVD and ST-HOSVD look for two directions at a time, whose singular values are large. The theorem is exact; as an algorithm for
# noisy Tucker tensors it wants the structured train.
# </details>
#
# ## 8. A trained weight (optional)
#
# The first weight of a trained MLP is $1024 \times 1024$ (240 of its columns see zero padding, and hold next to nothing). Tensorized (notebook 01), it is a tensor of order 6, 8 or 10: row digits first, column digits
# after them. Does a CPD of it profit from the chain? **Predict** first: does anything promise that a trained weight has low CP rank?

# %% jupyter={"outputs_hidden": true}
weight = next(p for p in models.load("mlp1024-mnist").parameters() if p.ndim == 2).detach().double()
shapes = {6: (16, 8, 8, 16, 8, 8), 8: (8, 4, 4, 8, 8, 4, 4, 8), 10: (4,) * 10}
fits = {
    "TT-SVD only": lambda w: decompose.tt(w, weight_rank),
    "chain": lambda w: decompose.coupled_cp(w, weight_rank, merge_modes=True, seed=seed),
    "chain + ALS": lambda w: decompose.coupled_cp(
        w, weight_rank, merge_modes=True, polish="als", max_iter=weight_sweeps, seed=seed
    ),
    "ALS": lambda w: decompose.cp(w, weight_rank, max_iter=weight_sweeps, seed=seed),
}
print(f"{weight.numel():,} numbers; CP rank {weight_rank}")

# %% tags=["nbval-ignore-output"]
rows = []
for Q_weight, sizes in shapes.items():
    for name, fit in fits.items():
        begin = time.perf_counter()
        estimate = fit(weight.reshape(sizes))
        seconds = time.perf_counter() - begin
        error = float((estimate.to_tensor().reshape(1024, 1024) - weight).norm() / weight.norm())
        rows.append({"order": Q_weight, "method": name, "error": error, "s": seconds})
trained = pd.DataFrame(rows)
trained.pivot(index="method", columns="order", values=["error", "s"]).loc[list(fits)].round(3)

# %%
errors = trained.pivot(index="order", columns="method", values="error")
assert (errors["chain"] <= 1 + 1e-6).all()
assert (errors["chain + ALS"] <= errors["chain"] + 1e-6).all()
assert (errors["TT-SVD only"] <= errors.min(axis=1)).all()
floor = float(torch.linalg.svdvals(weight)[weight_rank:].norm() / weight.norm())
assert (errors.min() > floor).all()
print(
    f"rows by columns, a CPD of rank {weight_rank} is a matrix of rank {weight_rank}: none errs less than {floor:.2f}"
)

# %% [markdown]
# What you see:
#
# - **No method finds low rank where there is none.** All errors are near 1, and Eckart and Young say how near they must be. A CPD of small rank and high order has a few hundred numbers; the weight has a million.
# - The train with the same ranks errs less than any of the CPDs. It contains them all and has more numbers, so this is no comparison at equal size. The chain throws
#   its freedom away: the cores are *not* third-order CPDs, so there is nothing to couple. The middle core's CPD is an approximation, and its error is handed on at every step.
# - As a *start* for ALS the chain does about as well as a random one; compare the two rows, and their times.
#
# The chain is a tool for tensors that *follow* the model, in noise. For weights that leaves those with a low CP rank built in:
# layers that are *trained* as CPDs (notebook 06).

# %% [markdown]
# ## Exercises
#
# Replace `...` by your answer and run the cell.
#
# ### 1. Warm-up: a factor as a core (15 minutes)
#
# Return the core of the diagonal train, $R \times I \times R$, for a factor $\mathbf A$ ($I \times R$) of a middle mode.


# %%
def cpd_train_core(factor):
    return ...


check.cpd_train_core(cpd_train_core)

# %% [markdown]
# <details><summary>Hint</summary>
#
# The slice of row $i$ is diagonal. `torch.diag_embed` puts that slice's number first; where does a core want it?
# </details>
# <details><summary>Solution</summary>
#
# In the [solutions](solutions/05_couple_third_order_trains.ipynb), section 1.
# </details>

# %% [markdown]
# ### 2. Core: who is who (20 minutes)
#
# Two neighbouring cores were decomposed separately. `third` ($R \times R$) is the third factor of the left one, `first` the first factor of the right one; both are
# exact, their columns in any order and with any scales (of any sign). Return a tensor `p` of $R$ integers: column `r` of `third` and column `p[r]` of `first` belong
# to the same term.


# %%
def coupled_match(third, first):
    return ...


check.coupled_match(coupled_match)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Section 3: what is $\widetilde{\mathbf M}_{q+1}^\top \mathbf M_{q+1}$? Large entries count, whatever their sign, and scales differ from term to term.
# </details>
# <details><summary>Solution</summary>
#
# In the [solutions](solutions/05_couple_third_order_trains.ipynb), section 2.
# </details>

# %% [markdown]
# ### 3. Core: a step to the left (20 minutes)
#
# Let `core` be $\mathcal G_q$, and let `right` be $\mathbf M_{q+1}$, found before. Return $(\mathbf A_q, \mathbf M_q)$: an $I \times R$ and an $R \times R$ matrix with the terms for columns, in
# the order of those of `right`, of any scales whose product is right, such that $\mathcal G_q = [\![\mathbf M_q, \mathbf A_q, \mathbf M_{q+1}^{-\top}]\!]$. One input is
# disturbed: there take the best approximation of rank one of each term's slice, as `step` does.


# %%
def coupled_step_left(core, right):
    return ...


check.coupled_step_left(coupled_step_left)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Which matrix multiplies slices $\mathbf M_q\, \mathrm{diag}(\cdot)\, \mathbf M_{q+1}^{-1}$ from the right, so that the term is left alone? Then one SVD a term.
# </details>
# <details><summary>Solution</summary>
#
# In the [solutions](solutions/05_couple_third_order_trains.ipynb), section 3.
# </details>

# %% [markdown]
# ### 4. Pencil and paper: the bound for Tucker (20 minutes)
#
# Derive the bound on the NMSE for a tensor of Tucker ranks $T_n$ (generic, each at most the product of the others and at most $I_n$), and return it for sizes, ranks and an SNR in dB. How many
# directions do not move the tensor?


# %%
def tucker_bound(sizes, ranks, snr_db):
    return ...


check.tucker_bound(tucker_bound)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Core and factors have $\prod T_n + \sum T_n I_n$ numbers. An invertible matrix may be put between the core and each factor.
# </details>
# <details><summary>Solution</summary>
#
# In the [solutions](solutions/05_couple_third_order_trains.ipynb), section 4.
# </details>

# %% [markdown]
# ### 5. Stretch: how many modes to merge (25 minutes)
#
# For generic factors with the given mode sizes (three or more), what is the largest rank for which the chain works, if any number of modes may be merged at each end, the order
# of the modes is fixed, and at least one mode of size 2 or more is left unmerged between the ends? Return an integer.


# %%
def coupled_largest_rank(sizes):
    return ...


check.coupled_largest_rank(coupled_largest_rank)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Choose the mode that stays in the middle. The rank is limited by both sides.
# </details>
# <details><summary>Solution</summary>
#
# In the [solutions](solutions/05_couple_third_order_trains.ipynb), section 5.
# </details>

# %% [markdown]
# ## Summary
#
# - A CPD is a train of third-order CPDs with coupled neighbours; Tucker is a train of coupled third-order Tuckers, if its core's sequential unfoldings have full
#   rank. Proof: two smallest trains differ by a gauge.
# - So TT-SVD, one small CPD and one SVD a term and mode find all factors. Coupling hands order and scales along.
# - The two end factors need full column rank, one middle factor no parallel columns, none a zero column. Merging helps where ends are too small.
# - The bound on the NMSE counts free parameters: $10^{-\mathrm{SNR}/10}\, R\,(\sum I_n - Q + 1) / \prod I_n$. The chain is close to it, with a polish at it,
#   but for strong noise.
# - It wins at high order, where random starts of ALS fail, and SVD starts as well when modes are as small as the rank. It wins little at order 4, and
#   needs the polish with collinear terms. Noisy Tucker tensors want the structured train.
# - It believes in the model. A trained weight does not follow it.
#
# ## Further reading
#
# - Y. Zniyed, R. Boyer, A. L. F. de Almeida, G. Favier, *High-order tensor estimation via trains of coupled third-order CP and Tucker decompositions*, Linear Algebra and its
#   Applications 588:304-337, 2020.
# - I. V. Oseledets, [*Tensor-train decomposition*](https://doi.org/10.1137/090752286), SIAM J. Sci. Comput. 33(5), 2011.
# - S. E. Leurgans, R. T. Ross, R. B. Abel, *A decomposition for three-way arrays*, SIAM J. Matrix Anal. Appl. 14(4), 1993: eigenvectors give a CPD.
# - N. D. Sidiropoulos, R. Bro, *On the uniqueness of multilinear decomposition of N-way arrays*, J. Chemometrics 14, 2000: Kruskal's condition at any order.
# - X. Liu, N. D. Sidiropoulos, *Cramér-Rao lower bounds for low-rank decomposition of multidimensional arrays*, IEEE Trans. Signal Processing 49(9), 2001.
# - P. Stoica, T. L. Marzetta, *Parameter estimation problems with singular information matrices*, IEEE Trans. Signal Processing 49(1), 2001.
# - N. Halko, P. G. Martinsson, J. A. Tropp, [*Finding structure with randomness*](https://arxiv.org/abs/0909.4061), SIAM Review 53(2), 2011: sketches.

# %% [markdown]
# Previous: [04 build tensor trains](04_build_tensor_trains.ipynb) · Next: [06 build tensor layers](06_build_tensor_layers.ipynb) · [Solutions](solutions/05_couple_third_order_trains.ipynb) · [Glossary](GLOSSARY.md)
