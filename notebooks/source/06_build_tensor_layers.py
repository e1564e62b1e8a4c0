# %% [markdown]
# # Build tensor layers: every format is a chain of ordinary layers
#
# **What you'll do.** Turn each format into a layer that computes with the factors and never forms the weight: five for
# `nn.Linear`, seven for `nn.Conv2d`, one each for `nn.Conv1d` and `nn.Embedding`. Put all of them through one test. Freeze
# layers for use. Then find out how to initialise them, and train a TT network from scratch and from a trained one.
#
# **What you'll learn.** How to derive a layer from a decomposition: move the sums inwards. Where stride and padding go,
# and what happens when they go elsewhere. Why the order of contraction is part of a layer's design. Why the obvious
# initialisation makes deep tensor networks die or explode, and the rule that avoids it.
#
# **What you need first.** Notebooks 01 to 04, or: `einsum`, CPD, Tucker, TT-matrices. `nn.Conv2d` and backpropagation.
#
# **Time.** 195 minutes: 95 to read text and code, 100 for the exercises. Run All takes a minute or two.
# **Difficulty.** Medium.
#
# Previous: [05 couple third order trains](05_couple_third_order_trains.ipynb) · Next: [07 measure what it costs](07_measure_what_it_costs.ipynb) · [Solutions](solutions/06_build_tensor_layers.ipynb) · [Glossary](GLOSSARY.md)

# %% tags=["parameters"]
profile: str = "quick"  # "quick": committed images, short training; "full": all 60,000 images, longer, more runs
seed: int = 0  # decides every random tensor, and the first of the training runs
layer: str = "layer2.0.conv1"  # the convolution of ResNet-20 that is factorized, any but the first
rank: int = 8  # TT rank of the network that is trained; 2 to 16
depth: int = 10  # layers of the random networks whose activations are watched; 4 to 18

# %%
import copy
import itertools
import math
from functools import reduce

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from tensorly.tenalg import khatri_rao
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tnlib import check, data, decompose, layers, measure, models, plots, train

plots.use_style()
generator = torch.Generator().manual_seed(seed)
subset, epochs, runs = {"quick": ("embedded", 2, 1), "full": ("full", 8, 3)}[profile]

# %% [markdown]
# ## The question
#
# Notebooks 01 to 04 turn a weight into factors. A network needs more: it must *apply* them. The lazy way multiplies the
# factors out and calls the ordinary layer. It saves storage, pays for the multiplying out in every step, and for small batches
# saves nothing else. The other way never forms the weight. How do you find it?
#
# **The recipe.** Write the output as a sum over all indices, with the decomposition put in for the weight. Then move
# each sum as far inwards as it goes. Every inner sum that is left is a layer.
#
# For the truncated SVD, $\mathbf W \approx \mathbf A \mathbf B$ with $\mathbf A \in \mathbb R^{M \times R}$,
# $\mathbf B \in \mathbb R^{R \times N}$:
#
# $$y_i = \sum_j w_{ij} x_j = \sum_j \sum_r a_{ir} b_{rj} x_j = \sum_r a_{ir} \underbrace{\Big(\sum_j b_{rj} x_j\Big)}_{\text{a linear layer to } R \text{ features}} .$$
#
# Two linear layers, without anything between them. We write a pair of functions for each format: one computes with the
# factors, the other says which matrix they stand for.


# %%
def svd_linear(x, A, B):
    return x @ B.T @ A.T


def svd_weight(A, B):
    return A @ B


# %% [markdown]
# ## One test for all layers
#
# What must hold, for each format?
#
# 1. **Same function.** `forward(x, factors)` equals torch's own dense layer with the multiplied-out weight.
# 2. **Right gradients.** They agree with finite differences (`torch.autograd.gradcheck`, in double precision).
# 3. **The chain rule.** The loss sees the factors $\theta$ only through $\mathbf W$, so
#    $\partial L / \partial \theta = \sum_{ij} (\partial L / \partial w_{ij})\, (\partial w_{ij} / \partial \theta)$:
#    going through the dense weight must give the same gradients as going through the layers.
# 4. **Count.** Parameters and MACs as a formula says. MACs are those of matrix products and convolutions, as torch
#    counts them.


# %%
def rand(*shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def close(a, b, tolerance=1e-10):
    return (a - b).norm() <= tolerance * b.norm()


# %%
def macs(function, *args):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        function(*args)
    return counter.get_total_flops() // 2


# %%
def examine(forward, weight, dense, x, factors):
    x, *factors = (t.detach().requires_grad_() for t in (x, *factors))
    W = weight(*factors)
    y, wanted = forward(x, *factors), dense(x, W)
    assert close(y, wanted)
    assert torch.autograd.gradcheck(forward, (x, *factors))
    upstream = rand(*y.shape)
    (dW,) = torch.autograd.grad(wanted, W, upstream)
    through_weight = torch.autograd.grad(W, factors, dW)
    direct = torch.autograd.grad(y, factors, upstream)
    assert all(close(a, b) for a, b in zip(direct, through_weight, strict=True))
    return sum(f.numel() for f in factors), macs(forward, x, *factors) // len(x)


# %% [markdown]
# For the SVD: $R(M + N)$ parameters, and as many MACs a sample.

# %%
M, N, R = 15, 14, 4
params, work = examine(svd_linear, svd_weight, F.linear, rand(3, N), [rand(M, R), rand(R, N)])
assert params == work == R * (M + N)
print(f"same function, same gradients; {params} parameters and MACs, dense {M * N}")

# %% [markdown]
# **Predict, then reveal.** From which rank on are the two layers no cheaper than the dense one? Predict it for a square
# weight first.
#
# <details><summary>Answer</summary>
#
# $R (M + N) < MN$ gives $R < MN / (M + N)$: for a square weight, less than *half* the size.
# </details>

# %% jupyter={"outputs_hidden": true}
for m, n in ((1024, 1024), (4096, 25088), (10, 1024)):
    limit = math.ceil(m * n / (m + n)) - 1
    assert limit * (m + n) < m * n <= (limit + 1) * (m + n)
    print(f"{m} x {n}: cheaper than dense up to rank {limit} of {min(m, n)}")

# %% [markdown]
# ## Linear layers with digits
#
# To use a tensor format on a matrix, write its indices in digits: $i = (i_0, \dots, i_{d-1})$ with sizes $m_q$,
# $\prod m_q = M$, and $j = (j_0, \dots, j_{d-1})$ with sizes $n_q$, $\prod n_q = N$. The weight is a tensor of order
# $2d$, the input one of order $d$ (and a batch). Modes and digits are numbered from 0; row-major, the last digit runs
# fastest, so turning a vector into digits is a `reshape`. With $d = 2$ (`b` counts the samples of a batch; `j`, `k` are the
# two input digits, `m`, `n` the two output digits):

# %%
fig, axes = plt.subplots(1, 3, figsize=(11, 3), width_ratios=(4.2, 4.6, 2.6))
networks = {
    "CP: one index joins all factors": (
        "bjk,jr,kr,mr,nr->bmn", ("x", "B0", "B1", "A0", "A1"), [(0, 0.5), (1, 1), (1, 0), (2.6, 1), (2.6, 0)]),
    "Tucker: a core in the middle": (
        "bjk,jc,kd,efcd,me,nf->bmn", ("x", "V0", "V1", "G", "U0", "U1"),
        [(0, 0.5), (1, 1), (1, 0), (2, 0.5), (3, 1), (3, 0)]),
    "TT-matrix: cores pair digits": ("bjk,mjq,qnk->bmn", ("x", "G0", "G1"), [(0.5, 0), (0, 1), (1, 1)]),
}  # fmt: skip
for ax, (title, (equation, names, at)) in zip(axes, networks.items(), strict=True):
    plots.einsum_graph(equation, names=names, at=at, ax=ax).set_title(title, loc="center")
    ax.set_anchor("N")
plt.show()

# %% [markdown]
# ### CP: shrink, then expand
#
# Factors $\mathbf A_q$ ($m_q \times R$) for the outputs, $\mathbf B_q$ ($n_q \times R$) for the inputs:
# $w_{i_0 \dots j_{d-1}} = \sum_r \prod_q a^{(q)}_{i_q r} \prod_q b^{(q)}_{j_q r}$. Put in, and moved inwards:
#
# $$y_{i_0 \dots i_{d-1}} = \sum_r \Big(\prod_q a^{(q)}_{i_q r}\Big) \Big[ \sum_{j_0} b^{(0)}_{j_0 r} \cdots \sum_{j_{d-1}} b^{(d-1)}_{j_{d-1} r}\, x_{j_0 \dots j_{d-1}} \Big] .$$
#
# The bracket shrinks the input to $R$ numbers, one digit after another, the last first. The rest expands: digit after
# digit of the output is appended. The index $r$ is summed only at the very end.


# %%
def cp_linear(x, *factors):
    rows, cols = factors[: len(factors) // 2], factors[len(factors) // 2 :]
    y = x.reshape(len(x), *[len(B) for B in cols]) @ cols[-1]
    for B in reversed(cols[:-1]):
        y = torch.einsum("...jr,jr->...r", y, B)
    y = y[:, None]
    for A in rows[:-1]:
        y = (y[:, :, None] * A).flatten(1, 2)
    return (y @ rows[-1].T).flatten(1)


# %% [markdown]
# The rows of a Khatri-Rao product carry the digits in the same order, so the weight is
# $\mathbf W = (\mathbf A_0 \odot \cdots \odot \mathbf A_{d-1}) (\mathbf B_0 \odot \cdots \odot \mathbf B_{d-1})^\top$.


# %%
def cp_weight(*factors):
    half = len(factors) // 2
    return khatri_rao(factors[:half]) @ khatri_rao(factors[half:]).T


# %% [markdown]
# $R \sum_q (m_q + n_q)$ parameters. Shrinking digit $q$ takes $R\, n_0 \cdots n_q$ MACs; of expanding, only the last
# step is a matrix product, with $RM$. (Those before it only multiply, $R\, m_0 \cdots m_q$ times, which torch does not count.)

# %%
rows, cols, R = (3, 5, 2), (4, 2, 3), 4
factors = [rand(size, R) for size in rows + cols]
params, work = examine(cp_linear, cp_weight, F.linear, rand(2, 24), factors)
assert params == R * (sum(rows) + sum(cols))
assert work == R * sum(math.prod(cols[: k + 1]) for k in range(3)) + R * math.prod(rows)
print(f"CP, rank {R}: {params} parameters, {work} MACs a sample; dense {30 * 24} of both")

# %% [markdown]
# Look at $\mathbf W$ again: it is a product of an $M \times R$ and an $R \times N$ matrix. **CP on digits is an SVD
# format whose two layers are themselves compressed.** It stores far less than an SVD of rank $R$, but the rank of its
# matrix cannot exceed $R$ either.
#
# ### Tucker: change basis, mix, change basis back
#
# A core $\mathcal G$ and factors $\mathbf U_q$ ($m_q \times t_q$), $\mathbf V_q$ ($n_q \times t'_q$):
# $w_{i j} = \sum g_{e_0 \dots c_{d-1}} \prod_q u^{(q)}_{i_q e_q} \prod_q v^{(q)}_{j_q c_q}$. The sums over input digits
# go inwards one by one; what remains in the middle is a small dense linear layer, the core.


# %%
def tucker_linear(x, core, *factors):
    rows, cols = factors[: len(factors) // 2], factors[len(factors) // 2 :]
    y = x.reshape(len(x), *[len(V) for V in cols])
    for V in cols:
        y = torch.tensordot(y, V, dims=([1], [0]))
    y = y.flatten(1) @ core.reshape(-1, y[0].numel()).T
    y = y.reshape(len(x), *[U.shape[1] for U in rows])
    for U in rows:
        y = torch.tensordot(y, U, dims=([1], [1]))
    return y.flatten(1)


# %% [markdown]
# Each `tensordot` takes the front digit and puts its replacement at the back; after all $d$ of them the digits are in
# their old order. The weight is a product of three matrices, with Kronecker products outside:


# %%
def tucker_weight(core, *factors):
    U, V = (reduce(torch.kron, half) for half in (factors[: len(factors) // 2], factors[len(factors) // 2 :]))
    return U @ core.reshape(U.shape[1], V.shape[1]) @ V.T


# %%
def mode_products(sizes, targets):
    return sum(math.prod(targets[: k + 1]) * math.prod(sizes[k:]) for k in range(len(sizes)))


# %%
inner_rows, inner_cols = (2, 3, 2), (3, 2, 2)
tucker_factors = [rand(a, b) for a, b in zip(rows + cols, inner_rows + inner_cols, strict=True)]
core = rand(*inner_rows, *inner_cols)
params, work = examine(tucker_linear, tucker_weight, F.linear, rand(2, 24), [core, *tucker_factors])
assert params == core.numel() + sum(a * b for a, b in zip(rows + cols, inner_rows + inner_cols, strict=True))
assert work == mode_products(cols, inner_cols) + core.numel() + mode_products(inner_rows, rows)
print(f"Tucker: {params} parameters, {work} MACs a sample")

# %% [markdown]
# ### TT-matrix: the sweep
#
# Core $\mathcal G_q$ has shape $R_q \times m_q \times n_q \times R_{q+1}$ (notebook 04). The sum over the *last* digit goes
# in first, then the one over the digit before it and the bond between the two cores, and so on to the left:
#
# $$y_{i_0 \dots} = \sum_{j_0, r_1} g^{(0)}_{i_0 j_0 r_1} \Big[ \sum_{j_1, r_2} g^{(1)}_{r_1 i_1 j_1 r_2} \Big[ \cdots \sum_{j_{d-1}} g^{(d-1)}_{r_{d-1} i_{d-1} j_{d-1}}\, x_{j_0 \dots j_{d-1}} \Big] \Big] .$$
#
# Call what is in the brackets the *state*, and keep it so that what comes next stands last: (outputs so far, batch,
# digits to come, bond). A core as a matrix $n_q R_{q+1} \times R_q m_q$ acts on the end; then the new output digit moves
# to the front. One matrix product and one transposition a core: a **sweep**.


# %%
def tt_linear(x, *cores):
    y = x
    for core in reversed(cores):
        left, m, n, right = core.shape
        y = y.reshape(-1, n * right) @ core.permute(2, 3, 0, 1).reshape(n * right, left * m)
        y = y.reshape(-1, m).T
    return y.reshape(-1, len(x)).T


# %%
def tt_weight(*cores):
    W = cores[0]
    for core in cores[1:]:
        W = torch.einsum("aijr,rklb->aikjlb", W, core).flatten(3, 4).flatten(1, 2)
    return W[0, :, :, 0]


# %% [markdown]
# Core $q$ acts once for each value of the input digits still to come and of the output digits already done:
#
# $$\text{MACs} = \sum_q (R_q m_q)(n_q R_{q+1}) \cdot \underbrace{n_0 \cdots n_{q-1}}_{\text{to come}} \cdot \underbrace{m_{q+1} \cdots m_{d-1}}_{\text{done}} .$$


# %%
def sweep_macs(rows, cols, ranks):
    R = [1, *ranks, 1]
    others = [math.prod(cols[:k]) * math.prod(rows[k + 1 :]) for k in range(len(rows))]
    return sum(R[k] * rows[k] * cols[k] * R[k + 1] * others[k] for k in range(len(rows)))


# %%
def random_cores(rows, cols, ranks):
    R = [1, *ranks, 1]
    return [rand(R[k], rows[k], cols[k], R[k + 1]) for k in range(len(rows))]


# %%
cores = random_cores(rows, cols, (3, 2))
params, work = examine(tt_linear, tt_weight, F.linear, rand(2, 24), cores)
assert params == 1 * 3 * 4 * 3 + 3 * 5 * 2 * 2 + 2 * 2 * 3 * 1
assert work == sweep_macs(rows, cols, (3, 2))
print(f"TT, ranks (3, 2): {params} parameters, {work} MACs a sample")

# %% [markdown]
# ### What they can express
#
# **Predict, then reveal.** The identity of size 64, in digits $4 \times 4 \times 4$, is the most harmless layer there
# is. What rank does each format need for it?

# %% jupyter={"outputs_hidden": true}
eye = torch.eye(64, dtype=torch.float64)
as_ttm = decompose.tt_matrix(eye, (4,) * 3, (4,) * 3, rel_error=1e-10)
as_tt = decompose.tt(eye.reshape((4,) * 6), rel_error=1e-10)
multilinear = decompose.tucker(eye.reshape((4,) * 6), rel_error=1e-10).core.shape
print("identity: TT-matrix ranks", as_ttm.rank[1:-1], " Tucker ranks", tuple(multilinear))
print("train through all row digits, then all column digits:", as_tt.rank[1:-1], " CP and SVD: 64 terms at least")

# %% [markdown]
# <details><summary>Why</summary>
#
# With $R$ terms a CP weight has matrix rank $R$ at most; Tucker the product of its input ranks at most, and of its output
# ranks. A plain train, through the row digits $i_0, \dots, i_{d-1}$ and then the column digits, has a middle rank of at
# least the matrix rank: cut there, it is a product of two matrices. What makes the TT-matrix different is that it
# *pairs* the digits. Of rank 1 it is a Kronecker product of small matrices and can have *full* matrix rank; the identity
# is $\mathbf I_4 \otimes \mathbf I_4 \otimes \mathbf I_4$.
# </details>
#
# Novikov et al. (2015, table 2, as reported, not re-read) store a layer with 25088 inputs by a few hundred numbers with
# little loss of accuracy, where matrices of low rank lose far more. A high matrix rank is a plausible reason, not proved.

# %%
assert list(as_ttm.rank) == [1, 1, 1, 1]
assert list(as_tt.rank) == [1, 4, 16, 64, 16, 4, 1]
assert tuple(multilinear) == (4,) * 6
assert torch.linalg.matrix_rank(cp_weight(*[rand(4, 5) for _ in range(6)])) == 5
tucker_rank = torch.linalg.matrix_rank(tucker_weight(core, *tucker_factors))
kronecker = torch.linalg.matrix_rank(tt_weight(*random_cores((4,) * 3, (4,) * 3, (1, 1))))
assert tucker_rank <= min(math.prod(inner_rows), math.prod(inner_cols))
assert kronecker == 64
print(f"matrix rank: Tucker {tucker_rank} of 24, limited by its core; TT of rank 1: {kronecker} of 64")

# %% [markdown]
# ### By hand = `layers.factorize`
#
# The layers of `tnlib` are these; there, a TT-matrix is the format `ttm`, and `tt` is the plain train of the weight. Its
# cores have a row digit or a column digit, the other has size 1, so our sweep applies it as it is:

# %%
dense = nn.Linear(24, 30, dtype=torch.float64)
with torch.no_grad():
    dense.weight.copy_(rand(30, 24) / 5)
x, sizes = rand(5, 24), {"row_dims": (3, 5, 2), "col_dims": (4, 2, 3)}
made = {
    "svd": layers.factorize(dense, "svd", 6),
    "cp": layers.factorize(dense, "cp", 5, seed=seed, max_iter=5, **sizes),
    "tucker": layers.factorize(dense, "tucker", (3, 4, 2, 3, 2, 2), **sizes),
    "tt": layers.factorize(dense, "tt", (3, 6, 8, 6, 3), **sizes),
    "ttm": layers.factorize(dense, "ttm", (4, 5), **sizes),
}

# %%
ours = {"svd": svd_linear, "cp": cp_linear, "tucker": tucker_linear, "tt": tt_linear, "ttm": tt_linear}
multiplied = {"svd": svd_weight, "cp": cp_weight, "tucker": tucker_weight, "tt": tt_weight, "ttm": tt_weight}
for format, module in made.items():
    factors = [module[1].weight, module[0].weight] if format == "svd" else module.factors()
    assert close(module(x), ours[format](x, *factors) + dense.bias)
    assert close(module.dense_weight(), multiplied[format](*factors))
print(", ".join(made), "by hand: what factorize makes")
print("cores of tt:", [tuple(core.shape) for core in made["tt"].factors()])

# %% [markdown]
# ## The order of contraction is part of the layer
#
# The sweep could as well run from the left. Same result, other MACs, because other digits are expanded early:
#
# $$\text{MACs}_{\rightarrow} = \sum_q (m_q R_{q+1})(R_q n_q) \cdot m_0 \cdots m_{q-1} \cdot n_{q+1} \cdots n_{d-1} .$$
#
# That is the sweep from the right for the mirrored train: reverse all lists. Novikov et al.'s layer for VGG, 25088 to
# 4096, rank 4:

# %%
inputs, outputs, ranks = (2, 7, 8, 8, 7, 4), (4,) * 6, (4,) * 5
from_right = sweep_macs(outputs, inputs, ranks)
from_left = sweep_macs(outputs[::-1], inputs[::-1], ranks[::-1])
full_size, R = math.prod(inputs) * math.prod(outputs), [1, *ranks, 1]
expanded = [math.prod(outputs[: q + 1]) * math.prod(inputs[q:]) for q in range(6)]
assert from_left == sum(R[q] * R[q + 1] * expanded[q] for q in range(6))
print(f"from the right {from_right:,}; from the left {from_left:,}; dense {full_size:,}")

# %% [markdown]
# And neighbours may be **merged** first, their bond summed: cores $q$ and $q + 1$ become one, with digits $m_q m_{q+1}$
# and $n_q n_{q+1}$. That costs something once, when the weights change, not once a sample. A merged core stores more,
# unless the bond is large, and saves a pass over the state. Whether it saves MACs is a matter of counting. There are $2^{d-1}$ ways to merge
# neighbours, and two directions.


# %%
def merge(rows, cols, ranks, cuts):
    ends = [0, *cuts, len(rows)]
    groups = list(itertools.pairwise(ends))
    new_rows, new_cols = ([math.prod(sizes[a:b]) for a, b in groups] for sizes in (rows, cols))
    return new_rows, new_cols, [ranks[cut - 1] for cut in cuts]


# %%
def plans(rows, cols, ranks):
    d = len(rows)
    for count in range(d):
        for cuts in itertools.combinations(range(1, d), count):
            r, c, R = merge(rows, cols, ranks, cuts)
            yield cuts, "from the right", sweep_macs(r, c, R)
            yield cuts, "from the left", sweep_macs(r[::-1], c[::-1], R[::-1])


# %% [markdown]
# The formula, tried on a real train: merge cores 1 and 2 of four.

# %%
four = random_cores((2, 3, 2, 3), (3, 2, 4, 2), (2, 3, 2))
merged = torch.einsum("aijr,rklb->aikjlb", four[1], four[2]).flatten(3, 4).flatten(1, 2)
x = rand(1, 48)
assert close(tt_linear(x, four[0], merged, four[3]), tt_linear(x, *four))
assert macs(tt_linear, x, four[0], merged, four[3]) == sweep_macs(*merge((2, 3, 2, 3), (3, 2, 4, 2), (2, 3, 2), (1, 3)))
print("merged: the same output, and the MACs of the formula")

# %% [markdown]
# Merged completely, the layer is the dense one, and the formula knows it. **Predict** how far apart the best and the
# worst of the 64 plans are.

# %% jupyter={"outputs_hidden": true}
table = pd.DataFrame(plans(outputs, inputs, ranks), columns=["cut at", "direction", "MACs"]).sort_values(
    "MACs", kind="stable"
)
assert set(table.loc[table["cut at"] == (), "MACs"]) == {full_size}
assert len(table) == 64
assert table.MACs.min() < from_right < from_left < full_size < table.MACs.max()
table.assign(MACs=table.MACs.map("{:,}".format)).iloc[[0, 1, 2, 3, -2, -1]]

# %% jupyter={"outputs_hidden": true}
fig, ax = plt.subplots()
for direction, part in table.groupby("direction"):
    ax.plot(range(1, 33), part.MACs / 1e6, "o-", markersize=3, label=direction)
ax.plot([1, 32], [full_size / 1e6] * 2, "--", color="0.4", linewidth=1)
ax.text(1, full_size / 1e6 * 1.1, "dense", color="0.4")
ax.set(yscale="log", xlim=(0, 42), xlabel="plan (which cores are merged), sorted", ylabel="million MACs a sample")
ax.set_yticks([5, 10, 20, 50, 100, 200], ["5", "10", "20", "50", "100", "200"])
ax.minorticks_off()
ax.set_title(
    f"One layer, one result: the dearest plan takes {table.MACs.max() / table.MACs.min():.0f} times the cheapest"
)
plots.label_lines(ax)
plt.show()

# %% [markdown]
# <details><summary>Why does the right end win?</summary>
#
# The first stage decides how large the state becomes. From the left it sums over 2 values and puts $4 \cdot 4$ in their
# place: eight times as many. From the right it sums over 4 for 16; with the last two cores merged, over 28 for 64. A rule
# of thumb, no theorem: *start where a stage shrinks most, or grows least.*
# </details>
#
# Some plans cost more than the dense layer, for the same function: a format without an order is only half a layer.
#
# `layers.TTMLinear` looks for its order by itself, for each batch size, with a model of time instead of MACs. It says
# what it found (and predicts):

# %% tags=["nbval-ignore-output"]
bonds = [1, 4, 4, 4, 4, 4, 1]
vgg = layers.TTMLinear([rand(bonds[k], 4, inputs[k], bonds[k + 1]).float() for k in range(6)])
print(vgg.explain(1))

# %% [markdown]
# MACs are not time: whether the plan with the fewest is the fastest, and at which batch size, is measured in notebook
# 07.
#
# And when is it right to rebuild the weight? Multiplying out costs the same for any batch; each sample then costs
# $MN$. In MACs, rebuilding never pays as long as the sweep takes at most $MN$ a sample. Otherwise it pays from some
# batch size on. Count for 1024 x 1024 in digits $4^5$, the plain sweep from the right:

# %%
for r in (4, 8, 16):
    R = [min(r, limit) for limit in decompose.max_tt_ranks((16,) * 5)]
    sweep, once = sweep_macs((4,) * 5, (4,) * 5, R), macs(tt_weight, *random_cores((4,) * 5, (4,) * 5, R))
    verdict = "never" if sweep <= 1024**2 else f"from {math.ceil(once / (sweep - 1024**2))} samples on"
    assert (sweep <= 1024**2) == (r <= 8)
    print(f"rank {r:>2}: sweep / dense = {sweep / 1024**2:.2f} MACs a sample, rebuilding pays {verdict}")

# %% [markdown]
# ## Train the factors, freeze the layer for use
#
# When may cores be merged? In training they change in every step, so what was merged a step ago is wrong. A factorized
# layer therefore keeps nothing but its factors: what it merges, it merges anew in each call. Change a core, and the next
# output follows:

# %%
core, x = vgg.factors()[0], torch.rand(1, 25088, generator=generator)
with torch.no_grad():
    before = vgg(x)
    core.mul_(2)
    after = vgg(x)
assert close(after, 2 * before, 1e-4)
print("one core doubled: the output is twice as large")

# %% [markdown]
# For use, the weights stay. `layers.freeze(model, example)` returns a *copy* of a model in which the factors of each layer
# are merged once, by the plan that suits inputs of the example's shape. The output agrees, and what you do to the model
# afterwards does not reach the copy:

# %%
frozen = layers.freeze(vgg, x)
with torch.no_grad():
    assert close(frozen(x), vgg(x), 1e-4)
    core.div_(2)
    assert close(frozen(x), after, 1e-4)
    assert close(vgg(x), before, 1e-4)
print("frozen: the output of the model when it was frozen; the model goes on by itself")

# %% [markdown]
# **Predict, then reveal.** How much faster is a single sample? (In these lessons times of inference are those of frozen
# layers, times of training steps those of the layer itself.)

# %% tags=["nbval-ignore-output"] jupyter={"outputs_hidden": true}
timed = measure.compare({"the layer": vgg, "frozen": frozen}, x, rounds=30)
median, low, high = timed.speedup["frozen"]
print(f"the layer {timed.timings['the layer'].median:.2f} ms, frozen {timed.timings['frozen'].median:.2f} ms a sample")
print(f"frozen is {median:.1f} times as fast (10 % to 90 %: {low:.1f} to {high:.1f})")

# %% [markdown]
# A frozen model has no factors any more that could learn, and says so:

# %%
try:
    frozen.train()
    raise AssertionError("a frozen model has to refuse")
except RuntimeError as error:
    print(error)

# %% [markdown]
# ## Convolutions
#
# A convolution's output at a place $p = (p_h, p_w)$ is
#
# $$y_{t\, p} = \sum_{s,\, a,\, b} k_{t s a b}\; x_{s,\; \sigma_h p_h + \delta_h a - \pi_h,\; \sigma_w p_w + \delta_w b - \pi_w}$$
#
# with stride $\sigma$, dilation $\delta$ and padding $\pi$ (zeros outside the image). The recipe is the same, with
# one thing to watch: the index $a$ is tied to $\sigma_h$, $\delta_h$, $\pi_h$, and $b$ to $\sigma_w$, $\delta_w$,
# $\pi_w$. **Whichever factor holds $a$ carries the vertical stride, padding and dilation; whichever holds $b$ the
# horizontal ones; a factor of the channels alone is a $1 \times 1$ convolution and carries none.**
#
# We test with everything unequal: a $3 \times 2$ kernel, stride $(2, 1)$, padding $(1, 2)$, dilation $(1, 2)$.

# %%
geometry = {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2)}
neutral = {"stride": 1, "padding": 0, "dilation": 1}
vertical = {name: (pair[0], neutral[name]) for name, pair in geometry.items()}
horizontal = {name: (neutral[name], pair[1]) for name, pair in geometry.items()}

# %%
T, S, kh, kw = 4, 3, 3, 2
image = rand(2, S, 7, 6)
print("vertical", vertical, "\nhorizontal", horizontal)


# %%
def dense_conv(x, kernel):
    return F.conv2d(x, kernel, **geometry)


height, width = dense_conv(image, rand(T, S, kh, kw)).shape[2:]
print(f"image 7 x 6, output {height} x {width}")

# %% [markdown]
# ### Two factors: where to cut?
#
# `svd` cuts between $t$ and $(s, a, b)$: the first stage is the convolution itself, with $R$ output channels.
# `spatial_svd` cuts between $(s, a)$ and $(t, b)$ (Jaderberg et al. 2014): a vertical convolution, then a horizontal
# one.


# %%
def svd_conv(x, A, B):
    return F.conv2d(F.conv2d(x, B, **geometry), A[:, :, None, None])


# %%
def svd_kernel(A, B):
    return torch.einsum("tr,rsab->tsab", A, B)


# %%
def spatial_conv(x, V, H):
    return F.conv2d(F.conv2d(x, V[:, :, :, None], **vertical), H[:, :, None, :], **horizontal)


# %%
def spatial_kernel(V, H):
    return torch.einsum("rsa,trb->tsab", V, H)


# %% [markdown]
# MACs: a stage's weights, times the places of its output. After the vertical stage the image is `height` x 6: still as
# wide as the input.

# %%
places, halfway, R = height * width, height * 6, 2
params, work = examine(svd_conv, svd_kernel, dense_conv, image, [rand(T, R), rand(R, S, kh, kw)])
assert (params, work) == (R * (T + S * kh * kw), R * (T + S * kh * kw) * places)
params, work = examine(spatial_conv, spatial_kernel, dense_conv, image, [rand(R, S, kh), rand(T, R, kw)])
assert (params, work) == (R * (S * kh + T * kw), R * S * kh * halfway + R * T * kw * places)
print("svd and spatial_svd: same function, gradients and counts right")

# %% [markdown]
# ### CP: four stages (Lebedev et al. 2015)
#
# Factors $\mathbf A, \mathbf B, \mathbf C, \mathbf D$ of the modes 0 to 3:
# $k_{tsab} = \sum_r a_{tr}\, b_{sr}\, c_{ar}\, d_{br}$. Moved inwards:
#
# $$y_{tp} = \sum_r a_{tr} \Big[ \sum_b d_{br} \Big[ \sum_a c_{ar} \Big[ \sum_s b_{sr}\, x_{s, \dots} \Big] \Big] \Big] .$$
#
# In the two middle sums $r$ stays as it is: every channel is convolved with a filter of its own. That is a
# *depthwise* convolution, `groups=R`.


# %%
def cp_conv(x, out, inp, high, wide):
    groups = inp.shape[1]
    y = F.conv2d(x, inp.T[:, :, None, None])
    y = F.conv2d(y, high.T[:, None, :, None], groups=groups, **vertical)
    y = F.conv2d(y, wide.T[:, None, None, :], groups=groups, **horizontal)
    return F.conv2d(y, out[:, :, None, None])


# %%
def cp_kernel(out, inp, high, wide):
    return torch.einsum("tr,sr,ar,br->tsab", out, inp, high, wide)


# %%
cp_factors = [rand(size, R) for size in (T, S, kh, kw)]
params, work = examine(cp_conv, cp_kernel, dense_conv, image, cp_factors)
assert params == R * (T + S + kh + kw)
assert work == R * (S * 7 * 6 + kh * halfway + kw * places + T * places)
print(f"cp: {params} parameters, {work} MACs an image; the 1x1 in front sees the whole image")

# %% [markdown]
# `cp3` leaves the window whole: $k_{tsab} = \sum_r a_{tr}\, b_{sr}\, c_{abr}$, a CPD of three modes $t$, $s$ and
# $(a, b)$. Its one depthwise stage has $R\, k_h k_w$ numbers instead of $R (k_h + k_w)$, and is one call instead of two.


# %%
def cp3_conv(x, out, inp, window):
    y = F.conv2d(x, inp.T[:, :, None, None])
    y = F.conv2d(y, window.movedim(2, 0)[:, None], groups=inp.shape[1], **geometry)
    return F.conv2d(y, out[:, :, None, None])


def cp3_kernel(out, inp, window):
    return torch.einsum("tr,sr,abr->tsab", out, inp, window)


# %%
params, work = examine(cp3_conv, cp3_kernel, dense_conv, image, [rand(T, R), rand(S, R), rand(kh, kw, R)])
assert params == R * (T + S + kh * kw)
assert work == R * (S * 7 * 6 + kh * kw * places + T * places)
outer = torch.einsum("ar,br->abr", *cp_factors[2:])
assert close(cp3_kernel(*cp_factors[:2], outer), cp_kernel(*cp_factors))
print(f"cp3: {params} parameters, {work} MACs an image; every cp kernel of rank R is a cp3 kernel of rank R")

# %% [markdown]
# What if the stride goes elsewhere? **Predict** for each: right or wrong, cheaper or dearer?
#
# - the stride in the *last* $1 \times 1$ convolution;
# - the stride in the *first* $1 \times 1$ convolution;
# - the padding in the first one.


# %%
def four_stages(x, factors, first, middle_h, middle_w, last):
    out, inp, high, wide = factors
    y = F.conv2d(x, inp.T[:, :, None, None], **first)
    y = F.conv2d(y, high.T[:, None, :, None], groups=R, **middle_h)
    y = F.conv2d(y, wide.T[:, None, None, :], groups=R, **middle_w)
    return F.conv2d(y, out[:, :, None, None], **last)


# %%
stride, pad = ({name: geometry[name]} for name in ("stride", "padding"))
lazy_h, lazy_w = vertical | {"stride": 1}, horizontal | {"stride": 1}
bare_h, bare_w = vertical | {"padding": 0}, horizontal | {"padding": 0}
places_of = {
    "as derived": ({}, vertical, horizontal, {}),
    "stride in the last": ({}, lazy_h, lazy_w, stride),
    "stride in the first": (stride, lazy_h, lazy_w, {}),
    "padding in the first": (pad, bare_h, bare_w, {}),
}

# %% jupyter={"outputs_hidden": true}
wanted, found = dense_conv(image, cp_kernel(*cp_factors)), {}
for name, where in places_of.items():
    got = four_stages(image, cp_factors, *where)
    right = got.shape == wanted.shape and bool(close(got, wanted))
    found[name] = right, macs(four_stages, image, cp_factors, *where) // 2
    print(f"{name:<22} same shape {got.shape == wanted.shape}, right {right}, {found[name][1]} MACs an image")

# %% [markdown]
# <details><summary>Why</summary>
#
# The stride in the first stage gives an output of the *right shape* and wrong numbers: it throws away pixels that the
# kernel would have seen. Shapes do not test a layer. The other two are right (zeros stay zeros through a stage
# without bias) and cost more. The bias belongs to the last stage: an earlier one would pass through the filters, and come
# out smaller or larger near the border, where these see padding.
# </details>

# %%
assert [right for right, _ in found.values()] == [True, True, False, True]
assert all(cost > found["as derived"][1] for name, (right, cost) in found.items() if right and name != "as derived")
constant = cp_conv(torch.ones_like(image), *cp_factors)
assert constant.std((2, 3)).max() > 0.01
print("one of the four is wrong; and a constant image does not come out constant, because of the padding")

# %% [markdown]
# ### Tucker-2 and tensor train
#
# `tucker2` (Kim et al. 2016) compresses the channel modes only: $k_{tsab} = \sum_{e, c} g_{ecab}\, u_{te}\, v_{sc}$.
# In the middle remains a convolution of the old kernel size on fewer channels. `tt` orders the kernel $(s, a, b, t)$
# and has a bond between neighbours.


# %%
def tucker2_conv(x, core, out, inp):
    y = F.conv2d(x, inp.T[:, :, None, None])
    return F.conv2d(F.conv2d(y, core, **geometry), out[:, :, None, None])


def tucker2_kernel(core, out, inp):
    return torch.einsum("ecab,te,sc->tsab", core, out, inp)


# %%
def tt_conv(x, first, high, wide, last):
    y = F.conv2d(x, first.T[:, :, None, None])
    y = F.conv2d(y, high.permute(2, 0, 1)[:, :, :, None], **vertical)
    y = F.conv2d(y, wide.permute(2, 0, 1)[:, :, None, :], **horizontal)
    return F.conv2d(y, last.T[:, :, None, None])


def tt_kernel(first, high, wide, last):
    return torch.einsum("sp,paq,qbr,rt->tsab", first, high, wide, last)


# %%
params, work = examine(tucker2_conv, tucker2_kernel, dense_conv, image, [rand(3, 2, kh, kw), rand(T, 3), rand(S, 2)])
assert params == 3 * 2 * kh * kw + T * 3 + S * 2
assert work == S * 2 * 7 * 6 + 3 * 2 * kh * kw * places + 3 * T * places
params, work = examine(tt_conv, tt_kernel, dense_conv, image, [rand(S, 2), rand(2, kh, 4), rand(4, kw, 3), rand(3, T)])
assert params == S * 2 + 2 * kh * 4 + 4 * kw * 3 + 3 * T
assert work == S * 2 * 7 * 6 + 2 * kh * 4 * halfway + (4 * kw * 3 + 3 * T) * places
print("tucker2 and tt: same function, gradients and counts right")

# %% [markdown]
# ### Garipov et al. 2016: digits for the channels, too
#
# Write the channels in digits, $t = (t_0, \dots)$,
# $s = (s_0, \dots)$, paired as in a TT-matrix, and put one core for the filter in front:
#
# $$k_{tsab} = \sum_{r_0, r_1, \dots} g_{a b r_0}\; g^{(0)}_{r_0 t_0 s_0 r_1}\; g^{(1)}_{r_1 t_1 s_1 r_2} \cdots$$
#
# The innermost sum runs over $a, b$: every input channel, taken as an image of its own, is convolved with the same
# $R_0$ filters. Then a sweep over the channels, from the left, at every place.


# %%
def garipov_conv(x, filters, *cores):
    n, channels = x.shape[:2]
    y = F.conv2d(x.reshape(n * channels, 1, *x.shape[2:]), filters.permute(2, 0, 1)[:, None], **geometry)
    size = y.shape[2:]
    y = y.reshape(n, channels, -1, size.numel()).transpose(1, 2).flatten(2)
    for core in cores:
        left, t, s, right = core.shape
        matrix = core.permute(1, 3, 0, 2).reshape(t * right, left * s)
        y = matrix @ y.reshape(len(y), left * s, -1)
        y = y.reshape(len(y) * t, right, -1)
    return y.reshape(n, -1, *size)


# %%
def garipov_kernel(filters, *cores):
    K = filters.flatten(0, 1)[:, None, None]
    for core in cores:
        K = torch.einsum("fijr,rklb->fikjlb", K, core).flatten(3, 4).flatten(1, 2)
    return K[..., 0].unflatten(0, filters.shape[:2]).permute(2, 3, 0, 1)


# %%
many, filters = rand(1, 12, 5, 4), rand(kh, kw, 3)
channel_cores = [rand(3, 2, 4, 2), rand(2, 5, 3, 1)]
params, work = examine(garipov_conv, garipov_kernel, dense_conv, many, [filters, *channel_cores])
area = math.prod(dense_conv(many, rand(10, 12, kh, kw)).shape[2:])
assert params == filters.numel() + sum(core.numel() for core in channel_cores)
assert work == (12 * 3 * kh * kw + 3 * 4 * (2 * 2) * 3 + 2 * 3 * (5 * 1) * 2) * area
print(f"TT-matrix of channel digits, 12 -> 10 channels: {params} parameters, dense {10 * 12 * kh * kw}")

# %% [markdown]
# Few parameters, but look at the first term of its MACs: all $S$ channels are filtered $R_0$ times. A large $R_0$
# does not pay: at $R_0 = T$ the first stage alone takes as many as the whole dense layer.
#
# ### The chains as drawings
#
# An arrow is an image with so many channels, a box a convolution. A core of `ttm` is a $1 \times 1$ convolution that
# works on one digit of the channels (of sizes $m_q$ for $T$, $n_q$ for $S$).


# %%
def draw_chain(ax, y, title, boxes, channels):
    ax.text(-0.85, y, title, ha="right", va="center", weight="bold")
    for k, name in enumerate(channels):
        ax.annotate("", (1.8 * k + 0.25, y), (1.8 * k - 0.75, y), arrowprops={"arrowstyle": "->", "color": "0.35"})
        ax.text(1.8 * k - 0.25, y + 0.14, name, ha="center", fontsize=9)
    for k, name in enumerate(boxes):
        deep = "depthwise" in name or "every" in name
        face, edge = ("#FBE3D3", "#D55E00") if deep else ("#CFE8F7", "#0072B2")
        box = {"boxstyle": "round", "facecolor": face, "edgecolor": edge}
        ax.text(1.8 * k + 0.65, y, name, ha="center", va="center", fontsize=8.5, bbox=box)


# %%
one = "1 x 1"
chains = {
    "svd": (["$k_h$ x $k_w$", one], "S R T"),
    "spatial_svd": (["$k_h$ x 1", "1 x $k_w$"], "S R T"),
    "cp": ([one, "$k_h$ x 1\ndepthwise", "1 x $k_w$\ndepthwise", one], "S R R R T"),
    "cp3": ([one, "$k_h$ x $k_w$\ndepthwise", one], "S R R T"),
    "tucker2": ([one, "$k_h$ x $k_w$", one], "S $R_S$ $R_T$ T"),
    "tt": ([one, "$k_h$ x 1", "1 x $k_w$", one], "S $R_1$ $R_2$ $R_3$ T"),
    "ttm": (
        ["$k_h$ x $k_w$\nevery one", "core 0:\n$n_0$ to $m_0$", "core 1:\n$n_1$ to $m_1$"],
        "S $SR_0$ $m_0R_1n_1$ T",
    ),
}
fig, ax = plt.subplots(figsize=(9, 5.2))
for k, (name, (boxes, channels)) in enumerate(chains.items()):
    draw_chain(ax, -0.8 * k, name, boxes, channels.split())
ax.set(xlim=(-2.4, 8.0), ylim=(-5.3, 0.6), title="Seven formats, seven chains; orange filters every channel for itself")
ax.axis("off")
plt.show()

# %% [markdown]
# ### Groups
#
# A grouped convolution is $g$ convolutions side by side. Each kernel, $T/g \times S/g \times k_h \times k_w$, is decomposed
# by itself, at one rank for all; then each stage is grouped, too. `factorize` does that:

# %%
grouped = nn.Conv2d(6, 9, (3, 2), **geometry, groups=3, dtype=torch.float64)
module = layers.factorize(grouped, "cp", 4, seed=seed, max_iter=5)
x = rand(2, 6, 7, 6)
assert close(module(x), F.conv2d(x, module.dense_weight(), grouped.bias, **geometry, groups=3))
assert [stage.groups for stage in module] == [3, 12, 12, 3]
print("groups of the four stages:", [stage.groups for stage in module])

# %% [markdown]
# ### By hand = `layers.factorize`, on a trained kernel
#
# A real layer, with its stride. The stages' weights are our factors, up to their shape.

# %%
conv = models.load("resnet20-cifar10").get_submodule(layer).double()
T, S, kh, kw = conv.weight.shape
geometry = {"stride": conv.stride, "padding": conv.padding, "dilation": conv.dilation}
vertical = {name: (pair[0], neutral[name]) for name, pair in geometry.items()}
horizontal = {name: (neutral[name], pair[1]) for name, pair in geometry.items()}
print(f"{layer}: {T} x {S} x {kh} x {kw}, {geometry}")


# %%
by_hand = {  # the layer, its kernel, and our factors from the weights of the stages
    "svd": (svd_conv, svd_kernel, lambda a, b: (b, a)),
    "spatial_svd": (spatial_conv, spatial_kernel, lambda a, b: (a, b)),
    "cp": (cp_conv, cp_kernel, lambda a, b, c, d: (d, a.T, b.T, c.T)),
    "cp3": (cp3_conv, cp3_kernel, lambda a, b, c: (c, a.T, b.movedim(0, 2))),
    "tucker2": (tucker2_conv, tucker2_kernel, lambda a, b, c: (b, c, a.T)),
    "tt": (tt_conv, tt_kernel, lambda a, b, c, d: (a.T, b.permute(1, 2, 0), c.permute(1, 2, 0), d.T)),
}

# %%
maps = rand(1, S, 16, 16)
for format, (forward, kernel, arrange) in by_hand.items():
    module = layers.factorize(conv, format, 6, **({"max_iter": 5, "seed": seed} if "cp" in format else {}))
    factors = arrange(*(stage.weight.detach().squeeze() for stage in module))
    assert close(module(maps), forward(maps, *factors))
    assert close(module.dense_weight(), kernel(*factors))
    assert close(module(maps), dense_conv(maps, kernel(*factors)))
print(", ".join(by_hand), "agree with factorize and with the dense convolution")

# %% [markdown]
# And Garipov's, which is the format `ttm` of a convolution. (The layer chooses an order for the image's size, as the
# linear layer does for the batch.)

# %%
half = {"row_dims": (T // 4, 4), "col_dims": (S // 4, 4)}
module = layers.factorize(conv, "ttm", (3, 5), **half)
factors = [module.filters[:, 0].permute(1, 2, 0), *module.cores]
assert close(module(maps), garipov_conv(maps, *factors))
assert close(module.dense_weight(), garipov_kernel(*factors))
print(f"ttm of {layer}: {sum(p.numel() for p in module.parameters())} numbers for {conv.weight.numel()}")

# %% [markdown]
# ### Fine-tuning wants balanced factors
#
# $10 \mathbf A$ and $\mathbf B / 10$ make the same kernel, but not the same training: the gradient of $\mathbf B / 10$ is
# ten times larger, and the same step of it moves the kernel ten times further. Take half the squared error of the kernel,
# and one factor alone. That is linear least squares with the Khatri-Rao product $\mathbf K$ of the other three as its
# matrix: the Hessian is $\mathbf K^\top \mathbf K$ for each row, and gradient descent diverges for steps above
# $2 / \sigma_1(\mathbf K)^2$. All factors at once allow no larger ones: this is a diagonal block of their Hessian.


# %%
def largest_step(factors):
    others = [khatri_rao([f for m, f in enumerate(factors) if m != n]) for n in range(4)]
    return min(2 / float(torch.linalg.matrix_norm(product, 2)) ** 2 for product in others)


# %%
module = layers.factorize(conv, "cp", 6, max_iter=5, seed=seed)
inp, high, wide, out = (stage.weight.detach().squeeze() for stage in module)
inp, high, wide = inp.T, high.T, wide.T
other = [10 * out, inp / 10, high, wide]
assert close(cp_kernel(*other), cp_kernel(out, inp, high, wide))
hessian = torch.autograd.functional.hessian(
    lambda B: (cp_kernel(out, B, high, wide) - conv.weight).square().sum() / 2, inp
)
top = torch.linalg.eigvalsh(hessian.reshape(inp.numel(), -1))[-1]
assert close(top, torch.linalg.matrix_norm(khatri_rao([out, high, wide]), 2) ** 2)
ratio = largest_step((out, inp, high, wide)) / largest_step(other)
assert 10 < ratio <= 100.001
print(f"same kernel; with the factors as factorize leaves them, steps may be {ratio:.0f} times larger")

# %% [markdown]
# `factorize` balances the vectors of each term. That does not help when terms grow and cancel (degeneracy, notebook 02).
# Phan et al. (2020, abstract) say that such terms make fine-tuning unstable; Lebedev et al. (2015) found no good learning
# rate for some layers (as reported, not re-read).

# %% [markdown]
# ## One dimension, and tables of words (optional)
#
# `nn.Conv1d`, with a kernel $T \times S \times k$, has one spatial mode. CP gives three stages: $1$, depthwise $k$,
# $1$; stride, padding and dilation go to the middle.


# %%
def cp_conv1d(x, out, inp, along):
    y = F.conv1d(x, inp.T[:, :, None])
    y = F.conv1d(y, along.T[:, None], groups=inp.shape[1], stride=2, padding=3, dilation=2)
    return F.conv1d(y, out[:, :, None])


# %%
def kernel1d(out, inp, along):
    return torch.einsum("tr,sr,ar->tsa", out, inp, along)


def dense_conv1d(x, kernel):
    return F.conv1d(x, kernel, stride=2, padding=3, dilation=2)


params, work = examine(cp_conv1d, kernel1d, dense_conv1d, rand(2, 5, 13), [rand(6, 3), rand(5, 3), rand(4, 3)])
steps = dense_conv1d(rand(1, 5, 13), rand(6, 5, 4)).shape[2]
assert (params, work) == (3 * (6 + 5 + 4), 3 * (5 * 13 + 4 * steps + 6 * steps))
print(f"Conv1d as CP: {params} parameters, {work} MACs a signal")

# %% [markdown]
# `nn.Embedding` is a matrix of $V$ rows of $D$ numbers, from which a batch asks for a few. As a TT-matrix with row digits of
# sizes $m_q$ (of the word's number) and column digits of sizes $n_q$ (of its vector), row $i$ is a chain of slices, joined
# at their bonds:
#
# $$e_{i,\, j_0 \dots j_{d-1}} = \mathbf G_0(i_0, j_0) \cdots \mathbf G_{d-1}(i_{d-1}, j_{d-1}), \qquad \mathbf G_q(i_q, j_q) \in \mathbb R^{R_q \times R_{q+1}} .$$
#
# Only the slices of the words asked for are read; the table never exists.


# %%
def tt_rows(index, *cores):
    digits = torch.unravel_index(index, [core.shape[1] for core in cores])
    y = torch.ones(len(index), 1, 1, dtype=cores[0].dtype)
    for core, digit in zip(cores, digits, strict=True):
        chosen = core[:, digit].movedim(1, 0)
        y = (y @ chosen.flatten(2)).reshape(len(index), -1, core.shape[3])
    return y.flatten(1)


# %%
words, features, ranks = (4, 3, 5), (2, 3, 2), (3, 2)
cores = [core.requires_grad_() for core in random_cores(words, features, ranks)]
index = torch.tensor([17, 3, 59, 17])
assert close(tt_rows(index, *cores), F.embedding(index, tt_weight(*cores)))
assert torch.autograd.gradcheck(lambda *cores: tt_rows(index, *cores), cores)
assert macs(tt_rows, index, *cores) == 4 * (1 * 2 * 3 + 2 * 3 * 3 * 2 + 6 * 2 * 2 * 1)
print("four rows of sixty, equal to nn.Embedding's; the MACs do not depend on the number of words")

# %%
table = nn.Embedding(60, 12, dtype=torch.float64)
module = layers.factorize(table, "ttm", ranks, row_dims=words, col_dims=features)
assert close(module(index), tt_rows(index, *module.factors()))
assert close(module.dense_weight(), tt_weight(*module.factors()))
print("by hand: what factorize makes")

# %% [markdown]
# A dense table gets gradients only in the rows asked for. Here a *slice* is shared by all words with that digit, so
# words learn together:

# %%
tt_rows(index, *cores).square().sum().backward()
touched = [[v for v in range(core.shape[1]) if core.grad[:, v].abs().sum() > 0] for core in cores]
digits = torch.stack(torch.unravel_index(index, words))
assert touched == [sorted(set(row.tolist())) for row in digits]
tt_table = sum(core.numel() for core in random_cores((37, 37, 37), (8, 8, 8), (16, 16)))
print("slices with a gradient, digit by digit:", touched)
print(f"50,653 words x 512 at rank 16: {tt_table:,} numbers instead of {37**3 * 512:,}")

# %% [markdown]
# $50{,}653 = 37^3$: hardly any vocabulary has such a size. Sizes that do not factor well are **padded**: take digits whose
# product is a little larger, and never ask for the rest. For a linear layer: pad the input with zeros, cut the
# output.

# %%
cores = random_cores((3, 4, 3), (3, 3, 4), (3, 3))
small = tt_weight(*cores)[:31, :33]
x = rand(5, 33)
assert close(tt_linear(F.pad(x, (0, 3)), *cores)[:, :31], x @ small.T)
print("31 x 33 as a TT-matrix of 36 x 36")

# %% [markdown]
# ## All counts in one table
#
# Linear layers with $d$ digits on each side, an embedding of $V = \prod m_q$ words in $D = \prod n_q$ dimensions,
# convolutions at $P$ places (stride 1, so that all stages have $P$), for `ttm` with $T = \prod m_q$, $S = \prod n_q$:
#
# | format | parameters | MACs a sample |
# | --- | --- | --- |
# | Linear `svd` | $R(M + N)$ | the same |
# | `cp` | $R \sum_q (m_q + n_q)$ | $R \sum_q n_0 \cdots n_q + RM$ |
# | `tucker` | $\prod t_q t'_q + \sum_q (m_q t_q + n_q t'_q)$ | $\prod t_q t'_q + \sum_q (t'_0 \cdots t'_q \, n_q \cdots n_{d-1} + m_0 \cdots m_q \, t_q \cdots t_{d-1})$ |
# | `ttm` | $\sum_q R_q m_q n_q R_{q+1}$ | $\sum_q R_q m_q n_q R_{q+1} \cdot n_0 \cdots n_{q-1} \cdot m_{q+1} \cdots m_{d-1}$ |
# | Conv `svd` | $R(S k_h k_w + T)$ | times $P$ |
# | `spatial_svd` | $R(S k_h + T k_w)$ | times $P$ |
# | `cp` | $R(S + k_h + k_w + T)$ | times $P$ |
# | `cp3` | $R(S + k_h k_w + T)$ | times $P$ |
# | `tucker2` | $S R_S + R_S R_T k_h k_w + R_T T$ | times $P$ |
# | `tt` | $S R_1 + R_1 k_h R_2 + R_2 k_w R_3 + R_3 T$ | times $P$ |
# | `ttm` | $R_0 k_h k_w + \sum_q R_q m_q n_q R_{q+1}$ | $(S R_0 k_h k_w + \sum_q R_q m_q n_q R_{q+1} \cdot m_0 \cdots m_{q-1} \cdot n_{q+1} \cdots n_{d-1})\, P$ |
# | Embedding `svd` | $R(V + D)$ | $R D$ a token |
# | `ttm` | $\sum_q R_q m_q n_q R_{q+1}$ | $\sum_q n_0 \cdots n_{q-1} \, R_q n_q R_{q+1}$ a token |
#
# (`ttm` in the order of our functions; `layers` may pick another, and its embedding does not multiply by the first slice.)
# The one row that was not asserted above:

# %%
table = nn.Embedding(24, 30)
table_factors = layers.factorize(table, "svd", 3, weights="fresh", seed=seed).factors()
assert layers.size(table, "svd", 3) == sum(factor.numel() for factor in table_factors) == 3 * (24 + 30)
assert layers.macs(table, "svd", 3) == 3 * 30
print("embedding, svd: 162 parameters, 90 MACs a token")

# %% [markdown]
# In the other chains of a convolution each number works at every place, so MACs follow parameters. In `ttm` and in a linear
# layer with digits they part: a core works on many digits of one sample. On 1024 x 1024, in digits
# $4 \times 8 \times 8 \times 4$:

# %%
digits = (4, 8, 8, 4)
samples = {
    "dense": (F.linear, lambda W: W, [rand(1024, 1024)]),
    "svd, R = 4": (svd_linear, svd_weight, [rand(1024, 4), rand(4, 1024)]),
    "cp, R = 170": (cp_linear, cp_weight, [rand(n, 170) for n in digits * 2]),
    "tucker, 3 a digit": (tucker_linear, tucker_weight, [rand(*(3,) * 8), *[rand(n, 3) for n in digits * 2]]),
    "ttm, R = 8": (tt_linear, tt_weight, random_cores(digits, digits, (8, 8, 8))),
}
counts = pd.DataFrame(columns=["parameters", "MACs", "matrix rank"], index=list(samples))
for name, (forward, weight, fs) in samples.items():
    found = torch.linalg.matrix_rank(weight(*fs))
    counts.loc[name] = sum(f.numel() for f in fs), macs(forward, rand(1, 1024), *fs), int(found)
assert counts.loc["ttm, R = 8", "MACs"] == sweep_macs(digits, digits, (8, 8, 8))
assert list(counts["matrix rank"]) == [1024, 4, 170, 81, 1024]
counts.map("{:,}".format)

# %% [markdown]
# Four formats of about the same size; their MACs and their matrix ranks differ by two orders of magnitude.
#
# ## Initialise
#
# To train such a layer from scratch, you draw its factors at random. How large? For a dense layer with ReLU the
# answer is known (He et al. 2015): independent entries, drawn symmetrically around 0 with variance $g^2 / N$ and
# $g^2 = 2$, keep the mean square of the activations from layer to layer. $N$ is the number of inputs (*fan-in*), $g$ the
# *gain*. So we want
#
# $$\operatorname{Var}(w_{ij}) = g^2 / N$$
#
# for the *multiplied-out* weight. Each $w_{ij}$ is a sum of products of one entry from each factor. Let all entries
# be independent with mean 0. Two different terms differ in one entry at least, whose mean is 0, so they are
# uncorrelated (and so are two entries of the weight); the variance of such a product is the product of the variances. Hence:
#
# **The variances multiply out like the factors themselves.** Put each entry's variance in its place, multiply out:
# every entry of the result is the variance of that entry of the weight. So we can check any rule exactly, without
# drawing anything.

# %%
cores = random_cores((3, 2), (2, 3), (4,))
variances = [torch.full_like(core, v) for core, v in zip(cores, (0.5, 0.3), strict=True)]
exact = tt_weight(*variances)
draws = torch.stack([tt_weight(*[rand(*v.shape) * v.sqrt() for v in variances]) for _ in range(4000)])
assert torch.allclose(exact, torch.full_like(exact, 4 * 0.5 * 0.3))
assert torch.allclose(draws.var(0), exact, rtol=0.35)
print("4 terms, variances 0.5 and 0.3: each entry has variance 0.6, and 4,000 draws agree")

# %% [markdown]
# ### Two natural mistakes
#
# 1. *Every core as if it were the weight*: variance $2 / N$ each. A product of $d$ small numbers: at equal ranks $R$
#    the weight's variance is $(2R/N)^{d-1}$ of what it should be.
# 2. *Every core as if it were a layer with a ReLU behind it*: variance $2 / (\text{terms that it sums})$ each. The
#    gain enters $d$ times instead of once: $2^{d-1}$ too much.
#
# ### The rule
#
# A stage of the chain sums some number of terms. **Give each factor the variance 1 / (terms that its stage sums), the
# last one $g^2$ times more.** Then each stage keeps the mean square of what it gets, averaged over draws, and the whole
# chain does what the dense layer does. For the sweep: core $q$ sums over $n_q R_{q+1}$ terms.


# %%
def core_variances(rule, rows, cols, ranks, gain2=2.0):
    R, N = [1, *ranks, 1], math.prod(cols)
    terms = [cols[k] * R[k + 1] for k in range(len(cols))]
    if rule == "as the weight":
        return [gain2 / N] * len(cols)
    if rule == "gain each":
        return [gain2 / count for count in terms]
    return [(gain2 if k == 0 else 1) / count for k, count in enumerate(terms)]


# %%
def weight_variance(rule, rows, cols, ranks):
    R = [1, *ranks, 1]
    values = core_variances(rule, rows, cols, ranks)
    shapes = [(R[k], rows[k], cols[k], R[k + 1]) for k in range(len(rows))]
    return tt_weight(*[torch.full(shape, v, dtype=torch.float64) for shape, v in zip(shapes, values, strict=True)])


# %%
for rows, cols, ranks in (((3, 2, 5), (2, 4, 3), (3, 2)), ((2, 2), (3, 7), (5,)), ((2,) * 6, (3,) * 6, (4,) * 5)):
    target, d, whole = 2 / math.prod(cols), len(cols), math.prod(ranks)
    expected = {"right": 1, "gain each": 2 ** (d - 1), "as the weight": target ** (d - 1) * whole}
    for rule, factor in expected.items():
        variance = weight_variance(rule, rows, cols, ranks)
        assert torch.allclose(variance, torch.full_like(variance, target * factor))
print("the rule gives 2 / fan-in exactly; the two mistakes are off by the factors stated")

# %% [markdown]
# The same rule, for every other format: list the terms that each stage sums, put 1 / terms in, multiply out.

# %%
T, S, kh, kw, R = 8, 6, 3, 5, 7
fan_in = S * kh * kw
stages = {
    "svd": (svd_kernel, {(T, R): R, (R, S, kh, kw): fan_in}),
    "spatial_svd": (spatial_kernel, {(R, S, kh): S * kh, (T, R, kw): R * kw}),
    "cp": (cp_kernel, {(T, R): R, (S, R): S, (kh, R): kh, (kw, R): kw}),
    "cp3": (cp3_kernel, {(T, R): R, (S, R): S, (kh, kw, R): kh * kw}),
    "tucker2": (tucker2_kernel, {(4, 3, kh, kw): 3 * kh * kw, (T, 4): 4, (S, 3): S}),
    "tt": (tt_kernel, {(S, 2): S, (2, kh, 4): 2 * kh, (4, kw, 3): 4 * kw, (3, T): 3}),
}
for kernel, terms in stages.values():
    variance = kernel(
        *[torch.full(shape, 2 ** (k == 0) / n, dtype=torch.float64) for k, (shape, n) in enumerate(terms.items())]
    )
    assert torch.allclose(variance, torch.full_like(variance, 2 / fan_in))
print("six formats, one rule: every entry of the kernel has variance 2 / (S kh kw)")

# %% [markdown]
# Digits of a linear layer, too. In CP's chain a row factor sums nothing, except the last, which sums $R$ terms:

# %%
rows, cols, R = (3, 5, 2), (4, 2, 3), 6
terms = [1, 1, R, *cols]
variance = cp_weight(*[torch.full((size, R), 1 / n) for size, n in zip(rows + cols, terms, strict=True)])
assert torch.allclose(variance, torch.full_like(variance, 1 / 24))
terms = [12, 2, 3, 2, 4, 2, 3]
shapes = [(2, 3, 2, 3, 2, 2), (3, 2), (5, 3), (2, 2), (4, 3), (2, 2), (3, 2)]
variance = tucker_weight(*[torch.full(shape, 1 / n) for shape, n in zip(shapes, terms, strict=True)])
assert torch.allclose(variance, torch.full_like(variance, 1 / 24))
print("cp and tucker of a linear layer: variance 1 / fan-in, times the gain")

# %% [markdown]
# `factorize(..., weights="fresh")` draws by this rule. A single draw of few factors can be off by a lot, so it then
# scales all factors alike: the mean square of the dense weight is $2 / N$ in *each* draw, not only on average.

# %%
plain = nn.Linear(64, 48)
for format, r in (("svd", 12), ("cp", 12), ("tucker", 3), ("tt", 6), ("ttm", 6)):
    for k in range(20):
        drawn = layers.factorize(plain, format, r, weights="fresh", seed=100 * seed + k)
        assert math.isclose(drawn.dense_weight().detach().square().mean(), 2 / 64, rel_tol=1e-3)
print("svd, cp, tucker, tt, ttm: mean square 2 / fan-in in each of 20 draws")

# %% [markdown]
# ### What it does to a deep network
#
# **Predict:** `depth` TT layers 256 -> 256 with ReLU between them, digits $4^4$, rank 8. The second mistake makes the
# variance $2^3$ times too large in each layer. What is left of the activations' size at the end, for each rule?


# %%
def draw_cores(rule, rows, cols, ranks, generator):
    R = [1, *ranks, 1]
    shapes = [(R[k], rows[k], cols[k], R[k + 1]) for k in range(len(rows))]
    values = core_variances(rule, rows, cols, ranks)
    return [torch.randn(s, generator=generator) * v**0.5 for s, v in zip(shapes, values, strict=True)]


# %%
def activations(rule):
    x = rand(200, 256)
    sizes = [1.0]
    for _ in range(depth):
        if rule == "dense":
            y = F.linear(x, rand(256, 256) * (2 / 256) ** 0.5)
        else:
            y = tt_linear(x, *[core.double() for core in draw_cores(rule, (4,) * 4, (4,) * 4, (8,) * 3, generator)])
        x = torch.relu(y)
        sizes.append(float(x.square().mean().sqrt()))
    return sizes


# %% jupyter={"outputs_hidden": true}
curves = {rule: activations(rule) for rule in ("dense", "right", "gain each", "as the weight")}
drift = {rule: math.log10(curve[-1]) / depth for rule, curve in curves.items()}
print("a layer multiplies the size of the activations by about")
print(", ".join(f"{rule}: 10^{round(value, 2) + 0.0:.2f}" for rule, value in drift.items()))

# %% jupyter={"outputs_hidden": true}
palette = {"dense": "0.4", "right": "#009E73", "gain each": "#D55E00", "as the weight": "#0072B2"}
fig, axes = plt.subplots(1, 2, figsize=(10, 3.9))
splits = [[2**12], [64] * 2, [16] * 3, [8] * 4, [4] * 6, [2] * 12]
for rule in list(palette)[1:]:
    off = [weight_variance(rule, [1] * len(s), s, [8] * (len(s) - 1)).mean() / (2 / 4096) for s in splits]
    axes[0].plot([len(s) for s in splits], off, "o-", color=palette[rule], label=rule)
for rule, curve in curves.items():
    axes[1].plot(range(depth + 1), curve, "o-", color=palette[rule], label=rule)
axes[0].set(
    yscale="log", xlim=(0, 18), xlabel="order d (digits of 4096 inputs)", ylabel="variance of the weight / wanted"
)
axes[0].set_title("Naive variances are off exponentially in the order")
axes[1].set(yscale="log", xlim=(0, depth * 1.45), xlabel="layer", ylabel="root mean square of the activations")
axes[1].set_title("Only the rule keeps the activations' size")
for ax in axes:
    plots.label_lines(ax, gap=0.075)
plt.show()
assert drift["as the weight"] < -1 < -0.2 < drift["right"] < 0.2 < 0.3 < drift["gain each"] < 0.6

# %% [markdown]
# The rule follows the dense network, though not exactly. The *variance* is the same, the distribution is not: products of
# Gaussians are heavy-tailed. Their kurtosis $\mathbb E[w^4] / \mathbb E[w^2]^2$ is not 3 but $3^d$; that of a sum of $R$
# independent products of two is $3 + 6 / R$.

# %%
for r in (1, 4, 32):
    entries = (rand(r, 100_000) * rand(r, 100_000)).sum(0)
    kurtosis = float(entries.pow(4).mean() / entries.pow(2).mean() ** 2)
    assert abs(kurtosis / (3 + 6 / r) - 1) < 0.2
    print(f"two cores, rank {r:>2}: kurtosis {3 + 6 / r:.2f}, and 100,000 draws agree within 20 %")

# %% [markdown]
# So at low ranks a few entries are large and most small. The mean square of a deep stack is right *on average over draws*,
# but such an average lives on few large draws. The typical draw is smaller: the mean of a logarithm is below the logarithm
# of the mean (Jensen), in each layer, and layers add up. The activations of a typical stack *shrink*, the more so the lower
# the rank:


# %%
def log_size(rank):
    x = torch.randn(40, 16, generator=generator)
    for _ in range(depth):
        x = torch.relu(tt_linear(x, *draw_cores("right", (4, 4), (4, 4), (rank,), generator)))
    return float(x.square().mean().sqrt().log10())


# %%
typical = {r: np.median([log_size(r) for _ in range(200)]) for r in (1, 4, 16)}
assert typical[1] < typical[4] < typical[16] + 0.1
assert typical[1] < -0.03 * depth
print(
    "typical size of the activations after all layers:", ", ".join(f"rank {r}: 10^{v:.1f}" for r, v in typical.items())
)

# %% [markdown]
# ## Train
#
# Novikov et al.'s MNIST network: 28 x 28 images padded to 1024 inputs, 1024 hidden units, ReLU, 10 outputs. The first
# layer becomes a TT-matrix in digits $4 \times 8 \times 8 \times 4$. `layers.TTMLinear` takes cores as ours, and
# computes the same in an order that it finds cheaper:

# %%
cores = random_cores((4, 8, 8, 4), (4, 8, 8, 4), (5, 7, 5))
x, bias = rand(6, 1024), rand(1024)
assert close(layers.TTMLinear(cores, bias)(x), tt_linear(x, *cores) + bias)
print("layers.TTMLinear = our sweep")


# %%
mlp = models.load("mlp1024-mnist")
train_set, test_set = (data.load("mnist", split, subset) for split in ("train", "test"))
digits, ranks = (4, 8, 8, 4), [rank] * 3
truncated = decompose.tt_matrix(mlp[2].weight.detach(), digits, digits, rank)
before = train.accuracy(mlp, test_set)
print(f"{len(train_set):,} training images, {len(test_set):,} test images")
stored = sum(core.numel() for core in truncated.factors)
print(f"first layer: dense {mlp[2].weight.numel():,} weights; TT-matrix of rank {rank}: {stored:,}")

# %% [markdown]
# Four starts. *Dense, fresh* and *TT, fresh* begin from nothing, *TT, naive* too, but with every core drawn as if it
# were the weight. *TT, pretrained* takes the truncated TT of the trained layer, and the trained last layer. That one
# is no fair rival: its weights have seen all 60,000 images.


# %%
def network(start, run_seed):
    generator, net = torch.Generator().manual_seed(run_seed), copy.deepcopy(mlp)
    if start == "TT, pretrained":
        net[2] = layers.TTMLinear(truncated.factors, mlp[2].bias)
        return net
    if start == "dense, fresh":
        net[2].weight.data = torch.randn(1024, 1024, generator=generator) * (2 / 1024) ** 0.5
        net[2].bias.data.zero_()
    else:
        rule = "right" if start == "TT, fresh" else "as the weight"
        net[2] = layers.TTMLinear(draw_cores(rule, digits, digits, ranks, generator), torch.zeros(1024))
    net[4].weight.data = torch.randn(10, 1024, generator=generator) / 32
    net[4].bias.data.zero_()
    return net


# %%
results = []
for start in ("dense, fresh", "TT, fresh", "TT, naive", "TT, pretrained"):
    for run in range(runs):
        net = network(start, seed + run)
        params, raw = sum(p.numel() for p in net.parameters()), train.accuracy(net, test_set)
        recipe = train.Recipe(epochs, batch=100, lr=0.05, padding=0, flip=False, seed=seed + run)
        losses, _ = train.fit(net, train_set, recipe)
        results.append((start, run, params, raw, train.accuracy(net, test_set), losses[-1]))
        print(f"{start}, run {run}: trained")
results = pd.DataFrame(results, columns=["start", "run", "parameters", "before", "after", "loss"])

# %% tags=["nbval-ignore-output"]
grouped = results.groupby("start", sort=False)
summary = grouped.agg(parameters=("parameters", "first"), before=("before", "mean"), after=("after", "mean"))
summary["spread"] = grouped.after.max() - grouped.after.min()
assert summary.after["TT, fresh"] > summary.after["TT, naive"]
assert summary.after["TT, pretrained"] > summary.before["TT, pretrained"]
summary.round(3)

# %%
fig, ax = plt.subplots()
for k, (_, part) in enumerate(grouped):
    ax.plot(100 * part.before, [k] * len(part), "o", color="0.6")
    ax.plot(100 * part.after, [k] * len(part), "o", color="#009E73")
    ax.annotate(
        "", (100 * part.after.mean(), k), (100 * part.before.mean(), k), arrowprops={"arrowstyle": "->", "color": "0.6"}
    )
ax.axvline(100 * before, color="0.4", linestyle="--", linewidth=1)
ax.text(100 * before - 1, -0.5, "the trained dense network", color="0.4", ha="right")
ax.set(
    yticks=range(4),
    yticklabels=summary.index,
    xlim=(0, 101),
    ylim=(-0.8, 3.5),
    xlabel="top-1 accuracy on the test images (%)",
)
ax.invert_yaxis()
ax.set_title("The same training from four starts: naive variances lag behind")
plt.show()

# %% [markdown]
# Grey is before training, green after. *Dense, fresh* is what these few images and epochs can give. *TT, fresh* comes
# close to it, with a few percent of the first layer's weights or fewer. *TT, naive* is the same network with other
# variances: hardly anything of the image gets through its first layer and hardly any gradient comes back, so it starts to
# learn late. That is one such layer; the figure before says what becomes of many. *TT, pretrained* loses accuracy by
# truncation and gets most of it back.
#
# What this does not show: a run or a few on a small set of images are a demonstration, not a measurement (one run has no
# spread). That the naive start is bad is a large effect; *which* of the others is best would need more seeds: notebook 10.

# %% [markdown]
# ## Exercises
#
# Replace `...` by your answer and run the cell.
#
# ### 1. Warm-up: count a chain with a stride (15 minutes)
#
# Return the MACs of one image in the CP chain ($1 \times 1$, vertical, horizontal, $1 \times 1$) of a kernel
# $T \times S \times k_h \times k_w$. `image` is the height and width that comes in, `output` that which comes out.


# %%
def cp_conv_macs(kernel_shape, rank, image, output):
    return ...


check.cp_conv_macs(cp_conv_macs)

# %% [markdown]
# <details><summary>Hint</summary>
#
# A stage costs its number of weights times the number of places where it is applied. How large is the image after
# each of the four?
# </details>
# <details><summary>Solution</summary>
#
# In the [solutions](solutions/06_build_tensor_layers.ipynb), section 1.
# </details>

# %% [markdown]
# ### 2. Core: sweep from the left (20 minutes)
#
# Apply a TT-matrix to a batch `x` (samples x inputs), first core first, without forming the weight. `cores` is a list;
# core $q$ is $R_q \times m_q \times n_q \times R_{q+1}$. The last input that the check tries cannot be swept from the right.


# %%
def tt_linear_from_left(x, cores):
    return ...


check.tt_linear_from_left(tt_linear_from_left)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Mirror the lesson's sweep: let the state be (bond, digits to come, batch, outputs so far) and the core act on the
# front. Where does the new output digit go?
# </details>
# <details><summary>Solution</summary>
#
# In the [solutions](solutions/06_build_tensor_layers.ipynb), section 2.
# </details>

# %% [markdown]
# ### 3. Core: a strided CP convolution (20 minutes)
#
# Return what the four stages compute from the images `x`, for any `stride` and `padding` (vertical, horizontal), without
# forming the kernel. `factors` are those of the modes $T$, $S$, $k_h$, $k_w$, each with $R$ columns.


# %%
def strided_cp(x, factors, stride, padding):
    return ...


check.strided_cp(strided_cp)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Which factor holds the vertical index of the kernel? Its stage, and no other, moves vertically.
# </details>
# <details><summary>Solution</summary>
#
# In the [solutions](solutions/06_build_tensor_layers.ipynb), section 3.
# </details>

# %% [markdown]
# ### 4. Pencil and paper: one standard deviation for all cores (20 minutes)
#
# Draw *all* cores of a TT-matrix with the same standard deviation $s$. Derive the $s$ for which every entry of the
# weight has the variance $g^2 / N$, and return it. `rows` and `cols` are the sizes $m_q$ and $n_q$, `ranks` the $d - 1$
# inner ranks, `gain` is $g$.


# %%
def equal_std(rows, cols, ranks, gain):
    return ...


check.equal_std(equal_std)

# %% [markdown]
# <details><summary>Hint</summary>
#
# An entry of the weight is a sum; over which indices, so of how many terms? What is the variance of one term?
# </details>
# <details><summary>Solution</summary>
#
# In the [solutions](solutions/06_build_tensor_layers.ipynb), section 4.
# </details>

# %% [markdown]
# ### 5. Stretch: the cheapest plan (25 minutes)
#
# Return the least number of MACs a sample, over all ways of merging neighbouring cores and both directions of the
# sweep; merging none and merging all are ways, too. (Merging itself costs nothing here; `ranks` are the inner ones.) Can
# you do it without going through all $2^{d-1}$ ways?


# %%
def least_macs(rows, cols, ranks):
    return ...


check.least_macs(least_macs)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Enumerating is fine for the check. For more: what the first group of cores costs does not depend on how the others
# are grouped.
# </details>
# <details><summary>Solution</summary>
#
# In the [solutions](solutions/06_build_tensor_layers.ipynb), section 5.
# </details>

# %% [markdown]
# ## Summary
#
# - Put the decomposition in for the weight, move the sums inwards: each sum is a layer. The weight is never formed.
# - Test such a layer against torch's own, with all sizes unequal. A right shape proves nothing.
# - Stride, padding and dilation follow the kernel's index; the bias goes last. Balance the factors before you fine-tune.
# - CP on digits has matrix rank $R$ at most, Tucker that of its core. A TT-matrix of rank 1 can have full matrix rank.
# - Parameters do not depend on the order of contraction, MACs do, by orders of magnitude. Time: notebook 07.
# - A layer computes from its factors as they are now. `freeze` returns a copy with merged weights, for use.
# - Variances multiply out like factors. Each factor gets 1 / (terms that its stage sums), one of them $g^2$ times
#   more. Otherwise training starts late or never.
#
# ## Further reading
#
# - A. Novikov et al., [*Tensorizing neural networks*](https://arxiv.org/abs/1509.06569), NeurIPS 2015.
# - A.-H. Phan et al., [*Stable low-rank tensor decomposition for compression of convolutional neural network*](https://arxiv.org/abs/2008.05441),
#   ECCV 2020: terms that grow and cancel, and how to bound them.
# - V. Lebedev et al., [*Speeding-up convolutional neural networks using
#   fine-tuned CP-decomposition*](https://arxiv.org/abs/1412.6553), ICLR 2015.
# - M. Jaderberg et al., *Speeding up convolutional neural networks with low rank expansions*, BMVC
#   2014.
# - Y.-D. Kim et al., [*Compression of deep convolutional neural networks for fast and low power mobile applications*](https://arxiv.org/abs/1511.06530),
#   ICLR 2016.
# - T. Garipov et al., [*Ultimate tensorization: compressing convolutional and FC
#   layers alike*](https://arxiv.org/abs/1611.03214), 2016.
# - K. He et al., *Delving deep into rectifiers*, ICCV 2015: the variance rule for dense layers.

# %% [markdown]
# Previous: [05 couple third order trains](05_couple_third_order_trains.ipynb) · Next: [07 measure what it costs](07_measure_what_it_costs.ipynb) · [Solutions](solutions/06_build_tensor_layers.ipynb) · [Glossary](GLOSSARY.md)
