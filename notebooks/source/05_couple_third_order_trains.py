# %% [markdown]
# # Couple third-order trains: split one hard decomposition into easy ones
#
# **What you'll do.** Turn a CPD of any order into a train of third-order CPDs that share a matrix at every bond, and find
# its factors core by core: one eigenvalue problem, then nothing but small SVDs. Do the same for Tucker. Derive the error
# that no unbiased method can beat, and measure how close this one comes, beside ALS and TensorLy. Then break it.
#
# **What you'll learn.** What survives of the factors in the cores of a TT-SVD, and how to get it out; why coupling fixes
# the order of the terms; which conditions the method needs and what it does without them; what the Cramér-Rao bound of a
# reconstructed tensor counts; when not to use a chain.
#
# **What you need first.** Notebook 02 (CPD, ALS, uniqueness) and notebook 04 (trains, TT-SVD, gauge).
#
# **Time.** 180 minutes: 80 to read text and code, 100 for the exercises. Run All takes a minute or two.
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
# Zniyed, Boyer, de Almeida and Favier (2020) put the two together. The cores are *third-order* tensors. If the tensor
# follows a CPD, what do its cores follow?
#
# **Predict, then reveal.** The first unfolding has rank $R$, if the factors are well-behaved. Which TT ranks does a tensor
# of CP rank $R$ have?

# %% jupyter={"outputs_hidden": true}
R, shape = 3, (5, 4, 7, 3, 6)
Q, A = len(shape), [random(n, R) for n in shape]
x = dense(A)
ranks = [int(torch.linalg.matrix_rank(x.reshape(math.prod(shape[:q]), -1))) for q in range(1, Q)]
assert ranks == [R] * (Q - 1)
print(f"shape {shape}, CP rank {R}: TT ranks {ranks}")

# %% [markdown]
# All of them are $R$, since each sequential unfolding is $\mathbf X_{\langle q \rangle} = (\mathbf A_0 \odot \cdots \odot
# \mathbf A_{q-1})(\mathbf A_q \odot \cdots \odot \mathbf A_{Q-1})^\top$: two matrices with $R$ columns.

# %%
for q in range(2, Q - 1):
    left, right = khatri_rao(A[:q]), khatri_rao(A[q:])
    assert close(left @ right.T, x.reshape(len(left), -1))
print("each sequential unfolding is a product of two Khatri-Rao products")

# %% [markdown]
# ## 1. Theorem: a CPD is a train of coupled third-order CPDs
#
# **Step 1: a CPD is a train.** The index $r$ joins all factors. Pass it on from mode to mode instead: give core $q$ two
# more indices that both must equal $r$. Its slices are diagonal, $\mathbf H_q(i) = \mathrm{diag}(a_{i1}, \dots, a_{iR})$
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
# **Theorem** (after Zniyed et al. 2020). *If $\mathcal X$ follows a CPD of rank $R$ with factors of full column rank, then
# every train of $\mathcal X$ with ranks $R$ consists of third-order CPDs of rank $R$,*
#
# $$\mathcal G_0 = \mathbf A_0 \mathbf M_1^{-1}, \qquad \mathcal G_q = [\![\mathbf M_q, \mathbf A_q, \mathbf M_{q+1}^{-\top}]\!],
# \qquad \mathcal G_{Q-1} = \mathbf M_{Q-1} \mathbf A_{Q-1}^\top ,$$
#
# *and neighbours are coupled: the third factor of one is the inverse transpose of the first factor of the next.*
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
# the drawing, a dot is an index that joins more than two tensors:

# %%
fig, axes = plt.subplots(1, 3, figsize=(12, 3.6))
plots.einsum_graph("ir,jr,kr,lr,mr->ijklm", names=("A0", "A1", "A2", "A3", "A4"), ax=axes[0])
plots.einsum_graph("ia,ajb,bkc,cld,dm->ijklm", names=("G0", "G1", "G2", "G3", "G4"), ax=axes[1])
plots.einsum_graph("br,kr,cr->bkc", names=("M2", "A2", r"M3$^{-T}$"), ax=axes[2])
for ax, title in zip(axes, ("A CPD of order 5 ...", "... as a train ...", "... with CPDs for cores"), strict=True):
    ax.set_title(title)
plt.show()

# %%
fig, ax = plt.subplots(figsize=(9, 3.2))
plots.einsum_graph(
    "br,kr,cr,cs,ls,ds->bkld",
    names=("M2", "A2", r"M3$^{-T}$", "M3", "A3", r"M4$^{-T}$"),
    at=[(0, 1), (0.7, 0.2), (1.4, 1), (2.4, 1), (3.1, 0.2), (3.8, 1)],
    ax=ax,
).set_title("Two neighbours: the coupling makes the bond c an identity, and r = s")
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
# column rank. (If $\sum_r c_r\, \mathbf a_r \otimes \mathbf b_r = 0$, its row blocks say $\sum_r c_r b_{jr}\, \mathbf a_r = 0$ for
# every $j$, so all $c_r b_{jr} = 0$.) So it is enough that the *two end factors* have full column rank. In the middle there may be more
# terms than a mode has values:

# %%
A_wide = [random(5, 5), random(2, 5), random(3, 5), random(2, 5), random(7, 5)]
x_wide = dense(A_wide)
H_wide, G_wide = diagonal_train(A_wide), list(decompose.tt(x_wide, 5).factors)
M_wide = [None, *gauges(G_wide, H_wide)]
for q in (1, 2, 3):
    assert close(G_wide[q], dense([M_wide[q], A_wide[q], torch.linalg.inv(M_wide[q + 1]).T]), 1e-6)
print("rank 5 with middle modes of sizes 2, 3, 2: the theorem holds")

# %% [markdown]
# And is the CPD of a middle core unique? Kruskal (notebook 02): $\mathbf M_q$ and $\mathbf M_{q+1}$ are invertible and have k-rank $R$, so
# the condition is $R + k_{\mathbf A_q} + R \ge 2R + 2$, that is $k_{\mathbf A_q} \ge 2$: **no two columns of $\mathbf A_q$ may be parallel.**
# One such core is enough to start from; you will see below that all others follow without any condition.
#
# ## 2. The same theorem for Tucker
#
# Let $\mathcal X = \mathcal C \times_0 \mathbf F_0 \times_1 \mathbf F_1 \cdots$ with ranks $T_q$. Where a CPD passes one index $r$ along,
# Tucker must remember *all* Tucker indices so far, until the core has seen them. Left of a mode $c$ the train collects indices:
# core $q$ takes the bundle $(t_0 \dots t_{q-1})$ and the new $t_q$ and passes the larger bundle on. That is an identity matrix of size
# $T_0 \cdots T_q$, reshaped. Right of $c$ it hands them out. At $c$ stands the Tucker core itself, reshaped. With
# $P_q = T_0 \cdots T_{q-1}$ and $S_q = T_q \cdots T_{Q-1}$:
#
# $$\mathcal H_q = \mathcal T_q \times_1 \mathbf F_q , \qquad \mathcal T_q = \begin{cases}
# \mathbf I \text{ as } P_q \times T_q \times P_{q+1} & q < c \\
# \mathcal C \text{ as } P_c \times T_c \times S_{c+1} & q = c \\
# \mathbf I \text{ as } S_q \times T_q \times S_{q+1} & q > c \end{cases}$$
#
# The ranks are smallest when $c$ is the last mode with $P_c \le S_c$: then $R_q = \min(P_q, S_q)$.


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
C, F = random(*T), [random(n, t) for n, t in zip(sizes, T, strict=True)]
y = torch.einsum("abcd,ia,jb,kc,ld->ijkl", C, *F)
H_tucker = tucker_train(C, F)
assert close(full(H_tucker), y)
print("reshaped identities, one core:", [tuple(core.shape) for core in H_tucker])

# %% [markdown]
# Are these the *smallest* ranks? Not for every core. Cut the core after mode $q$: it is a $P_q \times S_q$ matrix $\mathbf C_{\langle q \rangle}$,
# and if the factors have full column rank, $\mathbf X_{\langle q \rangle}$ has its rank. So the TT ranks of $\mathcal X$ are $\min(P_q, S_q)$ if and only if
# all these matrices have full rank. Random cores have. A superdiagonal core has not, that of a CPD with two terms for example:

# %%
superdiagonal = torch.zeros(2, 2, 2, 2, dtype=torch.float64)
superdiagonal[0, 0, 0, 0] = superdiagonal[1, 1, 1, 1] = 1
for core, ranks in ((random(2, 2, 2, 2), [2, 4, 2]), (superdiagonal, [2, 2, 2])):
    tensor = torch.einsum("abcd,ia,jb,kc,ld->ijkl", core, *[random(5, 2) for _ in range(4)])
    assert [int(torch.linalg.matrix_rank(tensor.reshape(5**q, -1))) for q in (1, 2, 3)] == ranks
assert close(full(tucker_train(superdiagonal, F2 := [random(5, 2) for _ in range(4)])), dense(F2))
print("a random core: ranks 2 4 2; a superdiagonal one: 2 2 2, and its train of ranks 2 4 2 is larger than need be")

# %% [markdown]
# **Theorem** (after Zniyed et al. 2020). *Let the factors have full column rank, and let all $\mathbf C_{\langle q \rangle}$ have the full rank
# $\min(P_q, S_q)$. Then every train of $\mathcal X$ with these ranks has the cores $\mathcal G_q = \mathcal T_q \times_0 \mathbf M_q
# \times_1 \mathbf F_q \times_2 \mathbf M_{q+1}^{-\top}$: third-order Tucker tensors (Tucker3), coupled as before.* The proof is word for word
# the one above; only $\mathcal H_q$ has changed. It used that the halves of the train $\mathcal H$ have full rank, and that is what the two
# hypotheses say. (Without them $\mathcal H$ is a train of the same tensor, but others with its ranks need not be its gauges.)

# %%
G_tucker = list(decompose.tt(y, [core.shape[2] for core in H_tucker[:-1]]).factors)
bases = [torch.eye(1, dtype=torch.float64), *gauges(G_tucker, H_tucker), torch.eye(1, dtype=torch.float64)]
for q, core in enumerate(H_tucker):
    expected = torch.einsum("xa,aib,yb->xiy", bases[q], core, torch.linalg.inv(bases[q + 1]).T)
    assert close(G_tucker[q], expected)
print("core by core: Tucker3 with the same factor and coupled bases")

# %%
names = (r"M$_q$", r"$\mathcal{T}_q$", r"F$_q$", r"M$_{q+1}^{-T}$")
ax = plots.einsum_graph("xa,atb,it,yb->xiy", names=names, at=[(0, 1), (1, 1), (1, 0.2), (2, 1)])
ax.set_title("A core of the Tucker chain: Tucker3, with a reshaped identity inside")
plt.show()

# %% [markdown]
# What does it buy? The mode-1 unfolding of *core $q$* has the column space of $\mathbf F_q$: a basis of it comes from a matrix with
# $R_q R_{q+1}$ columns, not $\prod_{p \ne q} I_p$. Better still, put the centre of the train at $q$ (notebook 04). Then its neighbours are
# orthonormal, and the unfolding of the core has the *same left singular vectors and singular values* as $\mathbf X_{(q)}$. So the Tucker
# chain is the HOSVD (notebook 03) of what TT-SVD kept.


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
    core = centre_at(G_tucker, q)[q]
    small = torch.linalg.svd(tl.unfold(core, 1), full_matrices=False)
    large = torch.linalg.svd(tl.unfold(y, q), full_matrices=False)
    assert torch.allclose(small.S[:rank], large.S[:rank])
    U, V = small.U[:, :rank], large.U[:, :rank]
    assert close(U @ U.T, V @ V.T)
    assert close(U @ (U.T @ F[q]), F[q])
    print(f"factor {q}: an SVD of {tuple(tl.unfold(core, 1).shape)} instead of {tuple(tl.unfold(y, q).shape)}")

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
# \mathbf M_c^{-1}$: *the columns of $\mathbf M_c$ are eigenvectors* (simultaneous diagonalisation). No start, no iteration.
#
# Noise can push two close eigenvalues off the real line, as a conjugate pair with vectors $\mathbf u \pm i \mathbf w$. The real parts alone would be
# twice the same column, and the next inverse would fail; $\mathbf u + \mathbf w$ and $\mathbf u - \mathbf w$ (real part plus imaginary part) span the
# same plane, and are a start for ALS as good as any. Real vectors have no imaginary part, and stay as they are.


# %%
def by_eigenvectors(core):
    first, second = torch.einsum("wi,aib->wab", random(2, core.shape[1]), core)
    vectors = torch.linalg.eig(first @ torch.linalg.inv(second)).eigenvectors
    return vectors.real + vectors.imag


# %%
c = Q // 2
basis = by_eigenvectors(G[c])
match = (torch.linalg.inv(M[c]) @ basis).abs()
match = match / match.max(0).values
assert torch.equal(match.sort(0).values.round(decimals=4)[:-1].max(), torch.tensor(0.0).double())
print("each eigenvector is a multiple of one column of the true M: in another order, with another scale")

# %% [markdown]
# ### Step 3: rank-one matrices
#
# Let $\mathbf M_q$ be known. $\mathbf M_q^{-1} \mathbf G_q(i) = \mathrm{diag}(\cdot)\, \mathbf M_{q+1}^{-1}$, so for each term $r$ the horizontal
# slice $r$ of $\mathcal G_q \times_0 \mathbf M_q^{-1}$ is the rank-one matrix $\mathbf a_{q,r}\, \mathbf n_r^\top$, where $\mathbf n_r$ is a
# column of $\mathbf N = \mathbf M_{q+1}^{-\top}$. (Stacked, they are the Khatri-Rao product $\mathbf A_q \odot \mathbf N$; this is its
# *rank-one factorization*.) Its best approximation is one SVD per term. Nothing is iterated.
#
# And the inverse? The core before has just given us $\mathbf N_{q-1} = \mathbf M_q^{-\top}$, so $\mathbf M_q^{-1} = \mathbf N_{q-1}^\top$: coupling
# makes the step free of inverses.


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
# $\|\mathcal G_q - [\![\mathbf M_q, \mathbf A, \mathbf N]\!]\|$, where the closed form minimises the same after a multiplication by
# $\mathbf M_q^{-1}$. On exact cores both give the same.


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
# From the middle to the right, each step hands its $\mathbf N$ to the next one. At the end $\mathbf N^\top \mathcal G_{Q-1} = \mathbf A_{Q-1}^\top$. To
# the left it is the same walk in a mirror: transposed slices $\mathbf G_q(i)^\top = \mathbf M_{q+1}^{-\top} \mathrm{diag}(\cdot)\,
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
# of the same norm, and to fit the core *is* to fit the tensor. That is the whole method. On the tensor from above, compared with the true factors by the *congruence* of terms (notebook 02: 1 for
# equal terms, whatever their order and scales):


# %%
def worst_match(truth, found):
    cosines = [(a / a.norm(dim=0)).T @ (b / b.norm(dim=0)) for a, b in zip(truth, found, strict=True)]
    return float(torch.stack(cosines).prod(0).max(1).values.min())


# %%
found = coupled(x, R)
assert [tuple(f.shape) for f in found] == [tuple(f.shape) for f in A]
assert close(dense(found), x)
assert worst_match(A, found) > 1 - 1e-8
print("the tensor, and all its factors, without a start and without a sweep over the tensor")

# %% [markdown]
# It also finds the five terms with middle modes of sizes 2, 3, 2. (ALS on this one is a gamble.)

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
# Each CPD comes with its own order and scales. (We shuffled one by hand, to be sure that chance did not line them up.) But neighbours share
# $\mathbf M_{q+1}$, up to order and scale: the third factor $\mathbf N$ of core $q$ and the first factor $\mathbf M$ of core $q + 1$ satisfy
# $\mathbf N^\top \mathbf M = $ a permutation matrix times a diagonal one, and that tells who is who (exercise 2). The walk does not even need
# it: it *hands over* $\mathbf N$, with order and scales, so one permutation and one set of scales holds for all factors.

# %%
product = separate[1][2].T @ separate[2][0]
pattern = product.abs() > 1e-4 * product.abs().max()
assert torch.equal(pattern.sum(0), torch.ones(R).long())
assert torch.equal(pattern.sum(1), torch.ones(R).long())
print("third factor of core 1 against first factor of core 2: one entry a row, one a column")

# %% [markdown]
# ### What it costs
#
# An ALS sweep takes $Q\, R \prod_p I_p$ MACs. The CPD of the middle core does not depend on $Q$ at all. What the chain pays for is
# TT-SVD, *once*. A thin SVD of an $m \times n$ matrix takes a small multiple of $m^2 n$ MACs, $m \le n$. With all sizes $I$ and
# $N = I^Q$ entries, the first unfolding is $I \times N / I$, which makes $I N$. The second is $R I \times N / I^2$, and *not* cheaper if
# $R^2 > I$: it makes $R^2 N$. From there on each is $I$ times cheaper than the one before. Together, in sweeps:
#
# $$\frac{I N + R^2 N\, (1 + I^{-1} + I^{-2} + \dots)}{Q R N} \approx \frac{1}{Q R} \Big( I + \frac{R^2 I}{I - 1} \Big) .$$
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
    assert worst_match(A, estimate.factors) > 1 - 1e-8
assert close(decompose.cp(x, R, method="coupled", seed=seed).to_tensor(), x)
assert close(dense(coupled(x, R)), estimate.to_tensor())
print("tnlib finds the same tensor and the same terms, with either kind of step")

# %%
chain = decompose.coupled_tucker(y, T, seed=seed)
assert close(chain.to_tensor(), y)
for q in range(len(T)):
    basis = torch.linalg.qr(chain.factors[q]).Q
    assert close(basis @ (basis.T @ F[q]), F[q])
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
assert worst_match(A_small, found.factors) > 1 - 1e-4
print("merged, decomposed, split: factors", [tuple(f.shape) for f in found.factors])

# %% [markdown]
# **An end factor has dependent columns.** Here the third column of $\mathbf A_0$ is the sum of the first two. The terms are still unique,
# but the bond has rank 2 and the third is lost in it. Put that mode in the middle, and it does no harm:

# %%
A_bad = [random(5, 3), random(4, 3), random(6, 3), random(5, 3)]
A_bad[0][:, 2] = A_bad[0][:, 0] + A_bad[0][:, 1]
x_bad = dense(A_bad)
message = complaint(x_bad, 3)
assert "numerical rank 2" in message
assert close(
    decompose.coupled_cp(x_bad.permute(1, 0, 2, 3).contiguous(), 3).to_tensor(), x_bad.permute(1, 0, 2, 3), 1e-6
)
print(message)

# %% [markdown]
# **Parallel columns in all middle factors.** No middle core has a unique CPD. One good core would do; tnlib looks for it.

# %%
A_twins = [random(5, 3), random(4, 3), random(6, 3), random(5, 3)]
A_twins[1][:, 2] = A_twins[1][:, 0]
assert complaint(dense(A_twins), 3) == "no complaint"
A_twins[2][:, 1] = -A_twins[2][:, 0]
message = complaint(dense(A_twins), 3)
assert "collinear" in message
print(message)

# %% [markdown]
# **The rank is too large for any merging.** ALS has no such limit: a $3 \times 3 \times 3 \times 3$ tensor may have more than 9 terms.

# %%
message = complaint(random(3, 3, 3, 3), 10, merge_modes=True)
assert "too large" in message
print(message)

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
# number and $t(\mathcal Y)$ unbiased, $\mathrm E\, t = g$ for every $\boldsymbol\theta$. Differentiate under the integral: $\mathrm E\, t\, \mathbf s = \nabla g$. The
# score has mean zero, so this is a covariance, and the inequality of Cauchy and Schwarz for $t$ and $\mathbf v^\top \mathbf s$ says
# $(\mathbf v^\top \nabla g)^2 \le \operatorname{var} t \cdot \mathbf v^\top \mathbf I_{\mathrm F} \mathbf v$ for every $\mathbf v$. The best $\mathbf v = \mathbf I_{\mathrm F}^\dagger \nabla g$ gives
# $\operatorname{var} t \ge \nabla g^\top \mathbf I_{\mathrm F}^\dagger \nabla g$ (for $\nabla g$ in the range of $\mathbf I_{\mathrm F}$).
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
assert math.isclose(P.trace(), int(torch.linalg.matrix_rank(J)), rel_tol=1e-6)
print(f"Jacobian {tuple(J.shape)}, a projection of rank {int(torch.linalg.matrix_rank(J))}")

# %%
sigma, many = 0.3, 100 * trials
scores = sigma * random(many, len(J)) @ J / sigma**2
covariance, information = scores.T @ scores / many, J.T @ J / sigma**2
assert (covariance - information).norm() < 5 * information.trace() / math.sqrt(many)
print("the covariance of simulated scores is the Fisher information")

# %% [markdown]
# The rank of $\mathbf J$ is what notebook 02 counted: $\sum_q I_q$ numbers a term, of which $Q - 1$ scales are idle,
#
# $$\operatorname{rank} \mathbf J = R\, \Bigl( \sum_q I_q - Q + 1 \Bigr)$$
#
# for generic factors (as long as terms are unique and fewer than the entries allow). To see the idle directions: scaling $\mathbf a_{0,r}$ up
# and $\mathbf a_{q,r}$ down is in the null space of $\mathbf J$, $R\,(Q - 1)$ of them.

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
# With $\sigma^2 = \|\mathcal X\|^2\, 10^{-\mathrm{SNR}/10} / \prod_q I_q$ the norm cancels. **The bound only counts parameters:**
#
# $$\mathrm{NMSE} \ge 10^{-\mathrm{SNR}/10}\, \frac{R\,(\sum_q I_q - Q + 1)}{\prod_q I_q} .$$
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
# So the bound is attained (at high SNR), and the chain, which fits core after core, pays something for not fitting all at once. The polish takes it back.
# Two warnings. The bound holds on *average*: single draws scatter by a factor of about $1 \pm \sqrt{2 / \operatorname{rank} \mathbf J}$, so some
# lie below it. And it binds *unbiased* estimators; at very low SNR an estimate that shrinks towards zero may beat it.
#
# ## 6. Live: ten draws
#
# A small version of the experiment: tensors of order 6 with normal factors, at `snr_db`. All methods see the same tensors. (TensorLy's `parafac` starts from
# singular vectors by default; a random start is the other choice. *Compress, then CPD* fits the core of a HOSVD.)


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
# A *success* is an NMSE below ten times the bound. What the live draws show, whatever the seed:

# %%
median = live.groupby("method").over.median()
assert 10 * abs(math.log10(median["chain + NLS"])) < 1.5
assert median["chain + NLS"] < median["TT-SVD only"]
assert median["chain (tnlib)"] < median["TT-SVD only"]
print("the polished chain is at the bound; TT-SVD alone, which ignores the CPD, is not")

# %% [markdown]
# TT-SVD removes most of the noise by itself: it has its own bound, with the free numbers of a *train* (notebook 04) in place of those of a CPD.
#
# The same at order 5 with columns that have much in common (`collinearity` is the expected cosine between two columns). TensorLy sits this one out: in a
# swamp it takes its time, and the stored records have it. **Predict** who suffers.

# %% tags=["nbval-ignore-output"] jupyter={"outputs_hidden": true}
here = {name: method for name, method in methods.items() if not name.startswith("parafac")}
collinear = compare((5,) * 5, collinearity, here)
summarize(collinear)

# %% [markdown]
# In noise, collinear terms cannot be told apart by *anyone's* cores: the bonds' last singular values sink below the noise, TT-SVD drops the wrong direction,
# and the chain inherits it. The polish mends what is close enough to be mended. The bound itself does not change: it is a bound for the
# tensor, not for its terms.
#
# ## 7. The stored experiment
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


# %%
def legend(ax, **options):
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize=8, **options)


# %% [markdown]
# ### Error against noise

# %%
fig, axes = plt.subplots(1, 3, figsize=(13, 4), sharey=True)
shown = ("als", "coupled", "coupled_nls")
for ax, (Q_shown, n) in zip(axes, ((4, 8), (6, 5), (8, 5)), strict=True):
    chosen = points(order=Q_shown, size=n, rank=3, collinearity=0.0)
    chosen = chosen[chosen.snr_db.between(0, 40)]
    lines(ax, chosen.assign(median=10 * chosen["median"].map(lambda v: math.log10(v))), "snr_db", "median", shown)
    for method, part in chosen.sort_values("snr_db").groupby("method"):
        if method in shown:
            low, high = (10 * part[key].map(math.log10) for key in ("low", "high"))
            ax.fill_between(part.snr_db, low, high, color=CURVES[method][1], alpha=0.15)
    snr = [0, 40]
    ax.plot(snr, [10 * math.log10(bound((n,) * Q_shown, 3, s)) for s in snr], "k--", linewidth=1.2, label="bound")
    ax.set(xlabel="SNR (dB)", title=f"order {Q_shown}, size {n}", xlim=(-2, 42))
axes[0].set_ylabel("NMSE (dB), median and 10-90 %")
legend(axes[2], loc="upper right")
fig.suptitle("A random start is a gamble at high order; the chain needs none")
plt.show()

# %% [markdown]
# A shaded band holds the middle 80 of 100 draws. Where a band of a random start reaches up to the noise of the tensor or above, more than one draw in
# ten ended in a wrong place.
#
# ### Success and time against the order

# %%
fig, axes = plt.subplots(1, 2, figsize=(11, 4))
by_order = points(rank=3, snr_db=20.0, collinearity=0.0).merge(SERIES)
lines(axes[0], by_order.assign(success=100 * by_order.success), "order", "success")
lines(axes[1], by_order, "order", "seconds")
axes[0].set(xlabel="order", ylabel="successes (% of the draws)", ylim=(0, 104), title="Who finds the terms")
axes[1].set(xlabel="order", ylabel="seconds, median", yscale="log", title="... and in what time")
legend(axes[1])
plt.show()

# %% [markdown]
# (Sizes differ: 8, 5, 5, 3, 3 from order 4 to 12. Orders 10 and 12 have modes as small as the rank, where an end factor may be badly
# conditioned; that is the chain's weak spot, not the order.) The numbers of the point with order 8, size 5:

# %%
chosen = points(order=8, size=5, rank=3, snr_db=20.0, collinearity=0.0)
columns = ["method", "median", "high", "largest", "success", "times_coupled"]
table = chosen[columns].set_index("method")
if len(table):
    print(f"bound {chosen.bound.iloc[0]:.1e}")
table.map("{:.2g}".format)

# %% [markdown]
# `times_coupled` is a method's time divided by the chain's on the same draw, the median of these ratios. Read the rows with care. One random start of ALS
# is a gamble; ten starts are nearly safe and cost more than ten times as much. The SVD start, TensorLy's default, is far better than its reputation: it
# computes $Q$ singular value decompositions of the *whole* tensor, finds nearly the same subspaces as TT-SVD, and then needs few sweeps. Against it, the
# chain wins time more than success here.
#
# **Predict:** at orders 10 and 12 the modes are of size 3, the rank. What do the leading three left singular vectors of an unfolding with three rows
# tell about its terms?

# %% jupyter={"outputs_hidden": true}
for size, wanted in ((5, "the factor's columns"), (3, "everything")):
    factors = [random(size, 3) for _ in range(6)]
    for q, factor in enumerate(factors):
        U = torch.linalg.svd(tl.unfold(dense(factors), q), full_matrices=False).U[:, :3]
        assert torch.allclose(U @ U.T, factor @ torch.linalg.pinv(factor), atol=1e-8)
        assert torch.allclose(U @ U.T, torch.eye(size, dtype=U.dtype), atol=1e-8) == (size == 3)
    print(f"size {size}: they span {wanted}")

# %% [markdown]
# At size 3 they span the whole space, whatever the terms are. Successes by order:

# %%
by_order.pivot_table("success", index="method", columns="order", sort=False).sort_index(axis=1).map("{:.0%}".format)

# %% [markdown]
# The SVD start has become as much of a gamble as a random one. The chain meets the same small modes and loses hardly a draw: the unfoldings of a train join
# modes, and all but the two at its ends have far more rows than the rank. Ten starts are no longer safe at order 12, and the times, over the
# chain's:

# %%
by_order.pivot_table("times_coupled", index="method", columns="order", sort=False).sort_index(axis=1).map(
    "{:.2g}".format
)

# %% [markdown]
# ### Where it fails


# %%
def over_bound(ax, chosen, x, only):
    db = chosen.assign(over=[10 * math.log10(m / b) for m, b in zip(chosen["median"], chosen.bound, strict=True)])
    lines(ax, db, x, "over", only)
    ax.axhline(0, color="k", linestyle="--", linewidth=1)
    ax.set_ylim(-2, 15)


fig, axes = plt.subplots(1, 4, figsize=(14, 3.8), sharey=True)
shown = ("als", "coupled", "coupled_nls", "parafac_svd")
over_bound(axes[0], points(order=4, size=8, rank=3, collinearity=0.0), "snr_db", shown)
over_bound(axes[1], points(order=6, size=5, snr_db=20.0, collinearity=0.0), "rank", shown)
over_bound(axes[2], points(order=6, size=5, rank=3, collinearity=0.0), "snr_db", shown)
over_bound(axes[3], points(order=6, size=5, rank=3, snr_db=20.0), "collinearity", shown)
labels = ("SNR (dB), order 4", "rank, size 5, order 6", "SNR (dB), order 6", "collinearity, order 6")
for ax, label in zip(axes, labels, strict=True):
    ax.set_xlabel(label)
axes[0].set_ylabel("median NMSE / bound (dB)")
legend(axes[3], loc="upper left")
fig.suptitle("Where it is hard: the median error over the bound (dashed)")
plt.show()

# %% [markdown]
# A median hides the worst draws. The same points by the *largest* of all draws, over the bound:

# %%
hard = pd.concat([points(order=6, size=5, snr_db=20.0), points(order=4, size=8, snr_db=0.0)])
hard = hard.assign(over=hard.largest / hard.bound)
hard = hard[hard.method.isin(shown)]
hard.pivot_table("over", index=["order", "rank", "collinearity", "snr_db"], columns="method").map("{:.2g}".format)

# %% [markdown]
# What to look for, and why:
#
# - **Order 4.** Little to gain: ALS has few factors to confuse and finds the terms as well, and its tensors are small.
# - **Rank close to a mode's size.** A square end factor may be nearly singular; then a bond is nearly lost in the noise. Above the size, modes are merged. It
#   shows in the largest errors first.
# - **Strong noise.** TT-SVD decides bond by bond what is signal, before anything knows that a CPD is wanted. (There least squares itself leaves the bound.)
# - **Collinear terms.** The same in another guise: the last singular values of a bond are small, and the bare chain falls behind.
#
# The polish helps as long as the chain's estimate is near enough, at the price of sweeps over the whole tensor. And everything rests on the model: the chain
# *believes* that the tensor has CP rank $R$. Section 8 shows one that has not.
#
# ### Tucker in noise
#
# HOSVD takes an SVD of every unfolding of the noisy tensor. The chain takes them of what TT-SVD has left.

# %% tags=["nbval-ignore-output"]
rows = []
for _ in range(draws):
    clean = tl.tucker_to_tensor((random(*(2,) * 6), [random(n, 2) for n in (5, 6, 5, 4, 5, 6)]))
    noisy = add_noise(clean, snr_db)
    both = {
        "HOSVD": lambda y: decompose.tucker(y, 2, method="hosvd"),
        "chain": lambda y: decompose.coupled_tucker(y, 2),
    }
    for name, method in both.items():
        begin = time.perf_counter()
        fit = method(noisy)
        rows.append({"method": name, "ms": 1e3 * (time.perf_counter() - begin), "NMSE": nmse(fit.to_tensor(), clean)})
tucker_runs = pd.DataFrame(rows).groupby("method").median()
tucker_runs.assign(NMSE=tucker_runs.NMSE.map("{:.2e}".format)).round(1)

# %%
assert tucker_runs.NMSE["chain"] < 1.02 * tucker_runs.NMSE["HOSVD"]
print("the Tucker chain is as accurate as HOSVD")

# %% [markdown]
# ## 8. A trained weight
#
# The first weight of a trained MLP is $1024 \times 1024$. Tensorized (notebook 01), it is a tensor of order 6, 8 or 10: row digits first, column digits
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
assert (errors["TT-SVD only"] < errors["chain"]).all()
assert (errors.min() > 0.5).all()
print("every error is close to 1: at this rank no CPD describes the weight, whatever the algorithm")

# %% [markdown]
# What you see:
#
# - **No method finds low rank where there is none.** All errors are near 1. A CPD of small rank and high order has a few hundred numbers; the weight has a million.
# - The train of the same bonds errs less than any of the CPDs, because it has more freedom, and the chain throws that away: the cores are *not* third-order CPDs, so
#   there is nothing to couple. The middle core's CPD is an approximation, and its error is handed on at every step.
# - As a *start* for ALS the chain is as good as a random one, not better. It is fast. That is all.
#
# The chain is a tool for tensors that *follow* the model, in noise. For weights it is useful where a low CP rank is built in: in layers that are
# *trained* as CPDs, or as a quick first guess that is then fitted to data.

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
# exact, in any order and with any scales (of any sign). Return a tensor `p` of $R$ integers: term `r` of the left core is term `p[r]` of the right one.


# %%
def coupled_match(third, first):
    return ...


check.coupled_match(coupled_match)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Section 3: what is $\mathbf N^\top \mathbf M$? Large entries count, whatever their sign, and scales differ from term to term.
# </details>
# <details><summary>Solution</summary>
#
# In the [solutions](solutions/05_couple_third_order_trains.ipynb), section 2.
# </details>

# %% [markdown]
# ### 3. Core: a step to the left (20 minutes)
#
# Let `core` be $\mathcal G_q$, and let `right` be $\mathbf M_{q+1}$, found before. Return $(\mathbf A_q, \mathbf M_q)$: an $I \times R$ and an $R \times R$ matrix, of any scales
# whose product is right, such that $\mathcal G_q = [\![\mathbf M_q, \mathbf A_q, \mathbf M_{q+1}^{-\top}]\!]$. In the last input the core is disturbed: take the best
# rank-one matrices.


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
# Derive the bound on the NMSE for a tensor of Tucker ranks $T_q$ (generic, each at most the product of the others), and return it for sizes, ranks and an SNR in dB. How many
# directions do not move the tensor?


# %%
def tucker_bound(sizes, ranks, snr_db):
    return ...


check.tucker_bound(tucker_bound)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Core and factors have $\prod T_q + \sum T_q I_q$ numbers. An invertible matrix may be put between the core and each factor.
# </details>
# <details><summary>Solution</summary>
#
# In the [solutions](solutions/05_couple_third_order_trains.ipynb), section 4.
# </details>

# %% [markdown]
# ### 5. Stretch: how many modes to merge (25 minutes)
#
# For generic factors with the given mode sizes, what is the largest rank for which the chain works, if any number of modes may be merged at each end, the order of the modes is fixed,
# and at least one mode (of size 2 or more) is left between the ends? Return an integer.


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
# - A CPD is a train of third-order CPDs with coupled neighbours; Tucker is a train of coupled Tucker3. Proof: two smallest trains differ by a gauge.
# - So TT-SVD, one small CPD and one SVD a term and mode find all factors. Coupling hands order and scales along.
# - The two end factors need full column rank, one middle factor no parallel columns. Merging helps where ends are too small.
# - The bound on the NMSE counts free parameters: $10^{-\mathrm{SNR}/10}\, R\,(\sum I_q - Q + 1) / \prod I_q$. The chain is close to it, with a polish at it.
# - It wins at high order, where random starts of ALS fail, and SVD starts as well when modes are as small as the rank. It wins little at order 4, and
#   needs the polish in strong noise and with collinear terms.
# - It believes in the model. A trained weight does not follow it.
#
# ## Further reading
#
# - Y. Zniyed, R. Boyer, A. L. F. de Almeida, G. Favier, *High-order tensor estimation via trains of coupled third-order CP and Tucker decompositions*, Linear Algebra and its
#   Applications 588, 2020.
# - I. V. Oseledets, [*Tensor-train decomposition*](https://doi.org/10.1137/090752286), SIAM J. Sci. Comput. 33(5), 2011.
# - S. E. Leurgans, R. T. Ross, R. B. Abel, *A decomposition for three-way arrays*, SIAM J. Matrix Anal. Appl. 14(4), 1993: eigenvectors give a CPD.
# - N. Halko, P. G. Martinsson, J. A. Tropp, *Finding structure with randomness*, SIAM Review 53(2), 2011: sketches.

# %% [markdown]
# Previous: [04 build tensor trains](04_build_tensor_trains.ipynb) · Next: [06 build tensor layers](06_build_tensor_layers.ipynb) · [Solutions](solutions/05_couple_third_order_trains.ipynb) · [Glossary](GLOSSARY.md)
