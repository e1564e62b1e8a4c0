# %% [markdown]
# # Reproduce Novikov et al. 2015: fully connected layers as TT-matrices, trained through their cores
#
# **What you'll do.** Write the forward and the backward pass of a TT layer and compare them with autograd. Find out how its
# cores have to start. Train networks for digits whose first layer has hundreds of numbers instead of a million, beside
# low-rank layers of equal size. Then put our figures beside the paper's main ones.
#
# **What you'll learn.** Why gradients of all cores cost no more than twice the forward pass. What every core's gradient has
# in common. Why a TT-matrix of rank 1 keeps many directions of its input, and a matrix of rank 1 only one. What "200,000 times
# smaller" says of a layer, and what of a network.
#
# **What you need first.** Notebooks 04, 06 and 07: tensor trains, layers made of factors, latency.
#
# **Time.** 120 minutes: 55 to read text and code, 65 for the exercises. Run All takes a minute and a half.
# **Difficulty.** Medium.
#
# Previous: [08 reproduce Lebedev](08_reproduce_lebedev.ipynb) · Next: [10 run a study](10_run_a_study.ipynb) · [Solutions](solutions/09_reproduce_novikov.ipynb) · [Glossary](GLOSSARY.md)

# %% tags=["parameters"]
profile: str = "quick"  # "quick": the committed images; "full": all 60,000, and VGG's own layer
dataset: str = "mnist"  # "mnist" or "fashion-mnist" (the latter in full only)
rank: int = 8  # at least 2; TT rank of the layers that are trained here
epochs: int = 6  # at least 1
seed: int = 0  # decides every random tensor, start and order

# %%
import math
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from IPython.display import display
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tnlib import check, data, layers, measure, models, networks, paths, plots, study, train

plots.use_style()
generator = torch.Generator().manual_seed(seed)
subset = {"quick": "embedded", "full": "full"}[profile]


# %%
def normal(*shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


# %% [markdown]
# ## The question
#
# Novikov, Podoprikhin, Osokin and Vetrov asked in 2015 whether a fully connected layer can be *stored and trained* as a tensor
# train. These are their claims, with how sure we are of each: *abstract* means read in the paper's abstract, *computed* that
# anyone can compute it from the shapes, *secondary* reported to us and not re-read in the source.

# %%
claims = pd.read_csv(paths.REFERENCE / "novikov2015.csv")
later = claims.place.isin(["table 2", "table 3"])
claims.loc[~later, ["claim", "value", "unit", "certainty"]].fillna("")

# %% [markdown]
# ## The layer
#
# The weight $W$ of a layer has $M = m_0 m_1 \cdots m_{d-1}$ rows and $N = n_0 n_1 \cdots n_{d-1}$ columns. Row $i$ and column $j$ are written in
# digits, and the entry is a product of $d$ small matrices, one for each *pair* of digits (lesson 04):
#
# $$W_{ij} = G_0[i_0, j_0]\; G_1[i_1, j_1] \cdots G_{d-1}[i_{d-1}, j_{d-1}], \qquad G_q \in \mathbb{R}^{R_q \times m_q \times n_q \times R_{q+1}}.$$
#
# $y = W x$ needs no $W$: take the cores from the last to the first. Core $q$ sums over the input digit $j_q$ and the bond behind it, and
# writes the output digit $i_q$. The state between two cores has the input digits not yet read and the output digits already written.
# We keep all states; you'll soon see what for.


# %%
def forward(cores, x):
    """States before each core, the last core's first, and the output."""
    state, states = x.reshape(len(x), -1, cores[-1].shape[2], 1, 1), []
    for q in reversed(range(len(cores))):
        states.append(state)  # sample, digits to read, the next digit, bond, digits written
        state = torch.einsum("bpnco,amnc->bpamo", state, cores[q])
        digit = cores[q - 1].shape[2] if q else 1
        state = state.reshape(len(x), -1, digit, cores[q].shape[0], math.prod(state.shape[3:]))
    return state.flatten(1), states


# %%
def random_cores(rows, cols, ranks):
    bonds = pairwise((1, *ranks, 1))
    return [normal(a, m, n, b) / math.sqrt(a * n) for (a, b), m, n in zip(bonds, rows, cols, strict=True)]


# %%
def dense_matrix(cores):
    matrix = torch.ones(1, 1, 1, dtype=cores[0].dtype)
    for core in cores:
        matrix = torch.einsum("MNa,amnb->MmNnb", matrix, core).flatten(2, 3).flatten(0, 1)
    return matrix[..., 0]


# %%
rows, cols = (4, 4, 4), (4, 8, 4)
cores, x = random_cores(rows, cols, (3, 3)), normal(7, 128)
y, states = forward(cores, x)
assert torch.allclose(y, x @ dense_matrix(cores).mT)
print("states, from the input on:", *(tuple(state.shape) for state in states), sep="\n")

# %% [markdown]
# ## Backward through the cores
#
# Let the loss be $\ell$, and $\bar y = \partial \ell / \partial y$ be given. Each step of the pass is linear in its state *and* linear in its core:
#
# $$z'_{p a m o} = \sum_{n, c} z_{p n c o}\; G_{a m n c} .$$
#
# So, with $\bar z'$ for the derivative by $z'$, the chain rule gives two products of the same kind:
#
# $$\bar G_{a m n c} = \sum_{p, o} z_{p n c o}\, \bar z'_{p a m o}, \qquad \bar z_{p n c o} = \sum_{a, m} \bar z'_{p a m o}\, G_{a m n c} .$$
#
# ($p$: input digits not yet read; $n$: the one read now; $c$ and $a$: the bonds behind and before the core; $m$: the digit written; $o$: those
# written before. Each sample has its own $z$, and $\bar G$ sums over the samples, too.)
#
# The second one is a pass of $\bar y$ through the cores from the *first* to the last. The first needs the states: that is why we kept them.
#
# **Predict:** how many times the forward pass's multiplications does this take, for all $d$ gradients and the input's?


# %%
def backward(cores, states, dy):
    """Gradients of the cores and of the input."""
    slope, gradients = dy.reshape(len(dy), 1, 1, cores[0].shape[1], -1), []
    for q, state in enumerate(reversed(states)):
        gradients.append(torch.einsum("bpnco,bpamo->amnc", state, slope))
        slope = torch.einsum("bpamo,amnc->bpnco", slope, cores[q])
        digit = cores[q + 1].shape[1] if q + 1 < len(cores) else 1
        slope = slope.reshape(len(dy), -1, cores[q].shape[3], digit, slope.shape[4] // digit)
    return gradients, slope.flatten(1)


# %% [markdown]
# Against autograd, which differentiates the multiplied-out matrix and knows nothing of passes:

# %%
dy = normal(*y.shape)
gradients, dx = backward(cores, states, dy)
leaves = [tensor.clone().requires_grad_() for tensor in (*cores, x)]
loss = (dy * (leaves[-1] @ dense_matrix(leaves[:-1]).mT)).sum()
expected = torch.autograd.grad(loss, leaves)
assert all(torch.allclose(*pair) for pair in zip((*gradients, dx), expected, strict=True))
print("gradients of", len(cores), "cores and of the input: those of autograd")

# %%
layer = layers.TTMLinear(cores)
theirs = torch.autograd.grad((dy * layer(x)).sum(), layer.factors())
assert all(torch.allclose(*pair) for pair in zip(gradients, theirs, strict=True))
print("of tnlib's layer, too")


# %% [markdown]
# The count. Each step multiplies a state by a core; each of its two derivatives runs over the same three groups of indices. By torch's
# counter, a MAC being two floating-point operations:


# %%
def counted(function, *args):
    with FlopCounterMode(display=False) as counter:
        function(*args)
    return counter.get_total_flops() // 2


# %%
there, back = counted(forward, cores, x), counted(backward, cores, states, dy)
assert back == 2 * there
assert there == sum(
    state.numel() * core.shape[0] * core.shape[1] for state, core in zip(states, reversed(cores), strict=True)
)
print(f"forward {there:,} MACs, backward {back:,}; dense {y.numel() * 128:,} and {2 * y.numel() * 128:,}")

# %% [markdown]
# Twice, as for a dense layer. With $m$ the largest digit and $R$ the largest rank, a pass takes $O(d R^2 m \max(M, N))$, as long as no state has
# more digits than the longer of input and output. The paper is reported to compute each core's gradient by itself, in $O(d^2 R^4 m \max(M, N))$; sharing
# the pass saves a factor $d$ and two powers of the rank. What it costs is memory for the states. (`tnlib` keeps none where
# computing them again is cheaper; `layer.explain` tells.)
#
# ### What all cores' gradients have in common
#
# **Proposition.** $\langle G_q, \bar G_q \rangle$ is the same number for every core: $\langle \bar y, y \rangle$, summed over the samples.
#
# *Proof.* $y$ is linear in $G_q$, all else fixed: $\langle G_q, \bar G_q \rangle$ is the derivative of $\ell$ along $G_q$ itself, and moving $G_q$ by
# $t\, G_q$ moves $y$ by $t\, y$. $\square$

# %%
in_common = [float((core * gradient).sum()) for core, gradient in zip(cores, gradients, strict=True)]
assert np.allclose(in_common, float((dy * y).sum()))
print("core times gradient:", *(f"{value:.6f}" for value in in_common))

# %% [markdown]
# Its consequence: along the gradient flow $\dot G_q = -\bar G_q$, $\tfrac{d}{dt} \lVert G_q \rVert^2 = -2 \langle G_q, \bar G_q \rangle$ is the same for all $q$, so **the differences
# $\lVert G_q \rVert^2 - \lVert G_p \rVert^2$ never change** (for deep homogeneous networks: Du, Hu and Lee 2018). Flow means tiny steps without weight
# decay: a step $\eta$ changes the differences by order $\eta^2$, a decay $\lambda$ lets them fade like $e^{-2 \lambda t}$.
#
# There is more at each bond: $G_q X$ and $X^{-1} G_{q+1}$ make the same layer for any invertible $X$. So a whole $R \times R$ matrix of products agrees:

# %%
behind = torch.einsum("amnb,amnc->bc", cores[0], gradients[0])
before = torch.einsum("bmnd,cmnd->bc", gradients[1], cores[1])
assert torch.allclose(behind, before)
print("on both sides of the first bond the same matrix, of trace", f"{float(behind.trace()):.6f}")

# %% [markdown]
# **Predict:** does Adam, which divides each gradient by its size, keep the differences, too?

# %%
goal = dense_matrix(random_cores(rows, cols, (3, 3)))


def norms_while_fitting(optimizer, steps=400):
    """Squared norms of the cores, (steps, d), while a train learns another train's matrix."""
    moving = [(scale * core).requires_grad_() for scale, core in zip((0.5, 1, 1.5), cores, strict=True)]
    stepper, found = optimizer(moving), []
    for _ in range(steps):
        stepper.zero_grad()
        (dense_matrix(moving) - goal).square().sum().backward()
        stepper.step()
        found.append([float(core.detach().square().sum()) for core in moving])
    return np.array(found)


# %%
by_sgd = norms_while_fitting(lambda cores: torch.optim.SGD(cores, lr=1e-3))
by_adam = norms_while_fitting(lambda cores: torch.optim.Adam(cores, lr=1e-2))

# %%
fig, axes = plt.subplots(1, 2, figsize=(9, 3), sharey=True)
for ax, found, name in zip(axes, (by_sgd, by_adam), ("small steps of SGD", "Adam"), strict=True):
    ax.plot(found, label=[f"$G_{q}$" for q in range(3)])
    ax.set(title=name, xlabel="step")
axes[0].set_ylabel("squared norm of the core")
axes[0].legend()
plt.show()

# %% tags=["nbval-ignore-output"]
drift = {name: np.ptp(found[:, 2] - found[:, 0]) for name, found in (("SGD", by_sgd), ("Adam", by_adam))}
moved = np.ptp(by_sgd, axis=0).max()
assert drift["SGD"] < 0.1 * moved < drift["Adam"]
print(f"squared norms move by up to {moved:.1f} with SGD")
print("their difference moves by", ", ".join(f"{value:.2f} with {name}" for name, value in drift.items()))

# %% [markdown]
# The curves of SGD are parallel: every squared norm changes by the same amount, and the gap between two cores never closes. Relative to its size the
# small core moves most: its gradient is at least $|\langle \bar y, y \rangle| / \lVert G_q \rVert$ (Cauchy and Schwarz). A learning rate that suits
# the large cores is too large for the small one. So start balanced.
#
# ## How to start
#
# A dense layer with ReLU starts from independent entries of variance $2 / N$. Draw cores independently with variances $v_q$: each entry of $W$ is a
# sum of $R_1 \cdots R_{d-1}$ products, so its variance is $\prod_q v_q \cdot \prod_q R_q$ (lesson 06). That fixes the size. It does not make the entries normal:
#
# **Proposition.** Let the cores' entries be independent and normal with mean 0, of one variance a core. Over draws the kurtosis of an entry of $W$, $\mathrm{E}\, w^4 / (\mathrm{E}\, w^2)^2$, is $3 \prod_{q=1}^{d-1} (1 + 2 / R_q)$.
#
# *Proof.* An entry is $g_0 G_1 \cdots G_{d-2}\, g_{d-1}$ with a row $g_0$. A row $v$ of length $|v|$ times a matrix of standard normal entries is $|v|$ times a vector of $R$
# standard normal numbers, whose squared length $\chi^2_R$ has mean $R$ and mean square $R (R + 2)$. The lengths' factors are independent and multiply;
# the last core gives one normal number, of kurtosis 3. $\square$
#
# **Predict** it for ten cores of rank 1. (A normal number has 3.)

# %%
shapes = {"32": (32,) * 2, "4 8 8 4": (4, 8, 8, 4), "2 2 8 8 2 2": (2, 2, 8, 8, 2, 2), "2 ten times": (2,) * 10}


def kurtosis(ranks):
    return 3 * math.prod(1 + 2 / r for r in ranks)


# %%
table = {
    f"rank {r}": {name: kurtosis([r] * (len(digits) - 1)) for name, digits in shapes.items()} for r in (1, 2, 8, 32)
}
pd.DataFrame(table).map("{:,.1f}".format)


# %% [markdown]
# Three times itself ten times: in most draws an entry is near zero, in a few it is huge. Ranks of 8 tame it. The formula against draws:


# %%
def drawn_entries(ranks, count):
    row = torch.ones(count, 1, 1, dtype=torch.float64)
    for r in (*ranks, 1):
        row = row @ normal(count, row.shape[-1], r)
    return row.flatten()


# %%
entries = drawn_entries((8, 8, 8), 200_000)
found = float(entries.pow(4).mean() / entries.square().mean() ** 2)
assert abs(found / kurtosis((8, 8, 8)) - 1) < 0.2
print(f"four cores of rank 8: by the formula {kurtosis((8, 8, 8)):.2f}, of draws about {found:.0f}")

# %% [markdown]
# `factorize(..., weights="fresh")` gives core $q$ the variance that its own sum asks for, and scales all cores alike until this draw's mean square
# is $2 / N$ (lesson 06):

# %%
drawn = layers.factorize(
    nn.Linear(1024, 1024), "ttm", rank, weights="fresh", seed=seed, row_dims=(4, 8, 8, 4), col_dims=(4, 8, 8, 4)
)
mean_square = float(drawn.dense_weight().detach().square().mean())
assert math.isclose(mean_square, 2 / 1024, rel_tol=1e-3)
print(f"mean square of a fresh weight: {1024 * mean_square:.3f} / 1024")

# %% [markdown]
# What a wrong start does is seen below, where networks are trained.

# %% [markdown]
# ## Rank 1 is not rank 1
#
# A matrix of rank 1 keeps *one* direction of its input, $u\, (v^\top x)$. A TT-matrix of rank 1 is a Kronecker product (lesson 04), and
# $\operatorname{rank}(A \otimes B) = \operatorname{rank} A \cdot \operatorname{rank} B$: with $\sum_q m_q n_q$ numbers its rank goes up to $\prod_q \min(m_q, n_q)$. For square digits
# that is full rank; for the digits that the paper gives VGG's layer, half of it.


# %%
def rank_of_kronecker(rows, cols):
    drawn = dense_matrix(random_cores(rows, cols, (1,) * (len(rows) - 1)))
    largest = math.prod(map(min, rows, cols))
    assert torch.linalg.matrix_rank(drawn) == largest
    return f"{sum(m * n for m, n in zip(rows, cols, strict=True))} numbers, {tuple(drawn.shape)}, rank {largest}"


print(rank_of_kronecker((4, 8, 8, 4), (4, 8, 8, 4)))
print(rank_of_kronecker((4, 4, 4), (2, 7, 8)))

# %% [markdown]
# That is one difference between two rows of the paper's Table 2, below: `TT1`, with 144 numbers for VGG's 103 million, is reported within three
# points of its top-1 error; `MR1`, a matrix of rank 1 with two hundred times as many, at 99.5 %, where guessing has 99.9 %.
#
# ## Decomposed or trained from scratch?
#
# A layer has two ways to become a TT-matrix: the trained matrix is decomposed, or its cores are trained from the start. The paper
# does the second. First the first, on the workbook's trained network 1024-1024-10. **Predict** whether the matrix of a trained layer is
# nearer to a TT-matrix or to a low-rank matrix of as many numbers.

# %%
training, test = (data.load(dataset, split, subset) for split in ("train", "test"))
network = models.load("mlp1024-mnist")


# %%
def numbers(shape, r):
    """Of the cores of a square TT-matrix; of the two factors of a low-rank one for shape None."""
    square = nn.Linear(1024, 1024, bias=False, device="meta")
    return 2048 * r if shape is None else layers.size(square, "ttm", r, row_dims=shape, col_dims=shape)


# %%
def as_format(layer, shape, r, **how):
    if shape is None:
        return layers.factorize(layer, "svd", r, **how)
    return layers.factorize(layer, "ttm", r, row_dims=shape, col_dims=shape, **how)


# %% tags=["nbval-ignore-output"]
rows_of_table, weight = [], network[2].weight.detach()
tried = [("4 8 8 4", 16), ("matrix", 16), ("4 8 8 4", 32), ("matrix", 32), ("2 ten times", 32)]
for name, r in tried:
    shape = shapes.get(name)
    small = models.load("mlp1024-mnist")
    small[2] = as_format(network[2], shape, r)
    off = float((small[2].dense_weight().detach() - weight).norm() / weight.norm())
    score = train.accuracy(small, test) if dataset == "mnist" else math.nan
    rows_of_table.append((name, r, numbers(shape, r), round(off, 2), round(1 - score, 3)))
assert rows_of_table[0][3] > rows_of_table[1][3]
assert rows_of_table[2][3] > rows_of_table[3][3]
pd.DataFrame(rows_of_table, columns=["digits", "rank", "numbers", "error of the weight", "test error, raw"])

# %% [markdown]
# The low-rank matrix is nearer, at equal size, and neither is near. No wonder: the hidden units of a trained network may be listed in any order, so
# the digits of their numbers mean nothing. Nor does the weight's error say what the network's will be. What counts is how good a
# network *of this form* can get.
#
# ## Trained from scratch
#
# The network for digits with a first layer of about as many numbers in each of three forms, and the dense one (which starts as torch starts it, with
# variance $1 / (3 N)$); the same recipe for all. **Predict** the order.


# %%
def fresh(shape, r):
    torch.manual_seed(seed)
    model = networks.mlp1024()
    if dataset != "mnist":
        model[0] = networks.Prepare(data.DATASETS[dataset].mean, data.DATASETS[dataset].std, padding=2)
    if r:
        model[2] = as_format(model[2], shape, r, weights="fresh", seed=seed)
    return model


# %%
def trained(model, optimizer="sgd", lr=0.05):
    how = {"epochs": epochs, "lr": lr, "optimizer": optimizer, "seed": seed}
    recipe = train.Recipe(**how, weight_decay=5e-4, warmup=0.1, padding=0, flip=False, clip=5.0)
    losses, _ = train.fit(model, training, recipe, device="cpu", precision="float32")
    return losses


# %%
equal = max(1, round(numbers((4, 8, 8, 4), rank) / 2048))
forms = {"dense": (None, 0), "TT, 4 8 8 4": (shapes["4 8 8 4"], rank)}
forms |= {"TT, 2 ten times": (shapes["2 ten times"], 2 * rank), "matrix": (None, equal)}
contenders = {name: fresh(*form) for name, form in forms.items()}
first_layer = {name: sum(p.numel() for p in model[2].parameters()) for name, model in contenders.items()}
print("numbers of the first layer, biases included:", first_layer)

# %% tags=["nbval-ignore-output"]
losses = {name: trained(model) for name, model in contenders.items()}
errors = {name: 1 - train.accuracy(model, test) for name, model in contenders.items()}
last = {name: curve[-1] for name, curve in losses.items()}
pd.DataFrame({"numbers of the first layer": first_layer, "last loss": last, "test error": errors}).round(3)

# %% [markdown]
# A hundredth of the numbers, and it still learns; on few images the small ones may even win. One seed and few
# images prove nothing: the study below has all of them, and three seeds.
#
# **A wrong start.** Each of the ten cores with variance $2 / N$, as if it were the layer:

# %%
wrong = fresh(shapes["2 ten times"], 2 * rank)
with torch.no_grad():
    for core in wrong[2].factors():
        core.normal_(std=math.sqrt(2 / 1024), generator=torch.Generator().manual_seed(seed))
stuck = trained(wrong)
assert min(stuck) > 0.9 * math.log(10)
print(f"loss after each epoch: {stuck[0]:.2f} ... {stuck[-1]:.2f}; guessing among ten has {math.log(10):.2f}")

# %% [markdown]
# The weight is so small that no gradient comes through nine other cores.
#
# **SGD or Adam?** The paper is reported to train the cores by SGD with momentum. Here the recipe of the others, and Adam at a learning rate
# that was not tuned:

# %% tags=["nbval-ignore-output"]
by_optimizer = {"SGD, momentum 0.9": losses["TT, 4 8 8 4"], "Adam": trained(fresh((4, 8, 8, 4), rank), "adam", 0.003)}
fig, ax = plt.subplots()
for name, curve in by_optimizer.items():
    ax.plot(range(1, epochs + 1), curve, marker="o", label=name)
ax.set(xlabel="epoch", ylabel="training loss", yscale="log", title="The same TT layer, two optimizers")
ax.legend()
plt.show()

# %% [markdown]
# From a balanced start SGD needs no help. On all images the sweep `digits_recipe`, below, has both.
#
# ## The study
#
# The experiment [train_digit_layers](experiments/train_digit_layers.ipynb) is this with all images, the sweep `digits_study` its list of
# runs: four shapes, several ranks, low-rank matrices, the dense network, three seeds each. **Predict** which shape does
# best at a thousand numbers, and how many the error of the dense network takes.


# %%
def study_of(name):
    """The records of a study at full size; a column's name is its last word."""
    found = study.results(name)
    found = found[found["parameters.profile"] == "full"] if len(found) else found
    meant = [column for column in found if column.startswith(("parameters.", "metrics.")) or column == "machine.cpu"]
    return found[meant].rename(columns=lambda column: column.split(".")[-1])


# %%
records = study_of("train-digit-layers")
records = records[records.dataset == dataset] if len(records) else records
if len(records):
    named = {"ttm": lambda digits: " ".join(map(str, digits)), "svd": lambda _: "matrix", "dense": lambda _: "dense"}
    records["form"] = [named[form](digits) for form, digits in zip(records.format, records.digits, strict=True)]
    records.loc[(records.form == "matrix") & (records.optimizer == "sgd"), "form"] = "matrix, rate of trains"
    records["weights"] = records.first_params - 1024
else:
    print("no run is on record: tnlib sweep digits_study")


# %%
def on_record(**wanted):
    return records[(records[list(wanted)] == pd.Series(wanted)).all(axis=1)] if len(records) else records


fresh_runs = on_record(start="fresh", last="dense", padding=0, held_out=0)

# %% tags=["nbval-ignore-output"] jupyter={"outputs_hidden": true}
if len(fresh_runs):
    fig, ax = plt.subplots()
    for form, group in fresh_runs[fresh_runs.form != "dense"].groupby("form"):
        scores = (100 * group.error).groupby(group.weights).agg(["mean", "min", "max"])
        bars = [scores["mean"] - scores["min"], scores["max"] - scores["mean"]]
        ax.errorbar(scores.index, scores["mean"], bars, marker="o", label=form)
    dense = 100 * fresh_runs[fresh_runs.form == "dense"].error.mean()
    ax.axhline(dense, color="#666666", label="dense: 1,048,576 numbers")
    ax.set(xscale="log", yscale="log", xlabel="numbers of the first layer, no biases", ylabel="test error in percent")
    ax.set_yticks([1, 2, 3, 5, 10, 20, 50], labels=[1, 2, 3, 5, 10, 20, 50])
    ax.legend()
    ax.set_title("Error by size, from records (bars: lowest and highest seed)")
    plt.show()

# %% [markdown]
# A low-rank matrix has to choose its few directions of the image, and it learns unsteadily at a learning rate that was chosen for trains. So it has one of its own
# as well (sweeps `lowrank_recipe`, `lowrank_study`): a rival deserves the care that one's own method gets.
#
# **The whole network.** The paper makes the second layer a TT-matrix, too: 12,602 numbers in all are reported to keep the error of the dense network. Then
# with training images shifted by a pixel (`padding`), which costs nothing in use; and from the trained dense network's TT-SVD instead of a fresh
# start (`digits_decomposed`): how few epochs does it need? Errors in percent.

# %% tags=["nbval-ignore-output"] jupyter={"outputs_hidden": true}
if len(records):
    picked = (records["last"] == "ttm") | (records.start == "pretrained") | (records.form == "dense")
    groups = records[picked & (records.held_out == 0)].groupby(["form", "last", "start", "padding", "epochs", "params"])
    summary = groups.error.agg(["mean", "min", "max", "size"])
    display((summary * [100, 100, 100, 1]).round(2))

# %% [markdown]
# The recipe was chosen on 10,000 training images that were held out (`held_out`), never on the test images, by one seed:

# %% tags=["nbval-ignore-output"] jupyter={"outputs_hidden": true}
if len(records):
    tried = records[records.held_out > 0].assign(error=lambda found: 100 * found.error).sort_values("error")
    display(tried[["form", "rank", "optimizer", "lr", "weight_decay", "padding", "epochs", "error"]].round(4))

# %% [markdown]
# **Clothes instead of digits.** Fashion-MNIST has the same size and is harder. Do digits that were chosen for one data set serve another (`fashion_study`, the recipe of MNIST)?

# %% tags=["nbval-ignore-output"] jupyter={"outputs_hidden": true}
every_set = study_of("train-digit-layers")
clothes = every_set[every_set.dataset == "fashion-mnist"] if len(every_set) else every_set
if len(clothes):
    groups = clothes.groupby(["format", "last", "params", "epochs"]).error.agg(["mean", "min", "max", "size"])
    display((groups * [100, 100, 100, 1]).round(2))

# %% [markdown]
# ## CIFAR-10: the connected part of a convolutional network
#
# Caffe's network `quick` has two fully connected layers, nearly half of its weights. The experiment
# [train_picture_layers](experiments/train_picture_layers.ipynb) starts from the workbook's trained network, replaces them by their TT-SVD (or by low-rank matrices of
# equal size), and fine-tunes; its control is the dense network, tuned as long. Between the two layers stands no ReLU, so the paper's factor has a cheap part:
# their product, one layer of 10 x 1024, is the same function with 6.5 times fewer numbers. **Predict** what twelve times fewer cost.

# %%
caffe = networks.quick()
sizes = {
    kind: sum(p.numel() for m in caffe if isinstance(m, kind) for p in m.parameters())
    for kind in (nn.Conv2d, nn.Linear)
}
assert round(sizes[nn.Linear] / (10 * 1025), 1) == 6.5
print(f"convolutions {sizes[nn.Conv2d]:,}, connected part {sizes[nn.Linear]:,}, as one layer {10 * 1025:,}")


# %% tags=["nbval-ignore-output"] jupyter={"outputs_hidden": true}
pictures = study_of("train-picture-layers")
if len(pictures):
    groups = pictures.groupby(["network", "convolutions", "connected", "connected_factor", "factor", "epochs"])
    summary = (100 * groups[["raw_error", "error"]].mean()).assign(lowest=100 * groups.error.min())
    display(summary.assign(highest=100 * groups.error.max(), seeds=groups.size()).round(2))
else:
    print("no run is on record: tnlib sweep picture_study")

# %% [markdown]
# `connected_factor` is that of the connected part, `factor` that of the network, in parameters; `raw_error` is taken before the fine-tuning.
#
# **Convolutions, too.** Garipov et al. 2016 make a kernel $T \times S \times k_h \times k_w$ a TT-matrix of its channels with one core for the window (lesson 06), and
# reach what no connected layer alone could:

# %%
garipov = pd.read_csv(paths.REFERENCE / "garipov2016.csv")
garipov[["claim", "value", "unit", "certainty"]]

# %% [markdown]
# Their network is large where TT-matrices are good: 13 of its 14 million numbers are in the connected part. At the ranks of the sweep
# `garipov_study` the factor on the network is that of their last line:

# %%
deep = networks.garipov()
big = sum(p.numel() for p in deep.parameters())
connected = sum(p.numel() for m in deep if isinstance(m, nn.Linear) for p in m.parameters())
print(f"{big:,} numbers, of which {connected:,} connected; 82.87 times fewer are {big / 82.87:,.0f}")

# %% [markdown]
# ## Very wide
#
# A layer of 262,144 hidden units behind 3,072 inputs has 805 million weights as a matrix, the next one, to 4,096, has 1,074 million: 7.5 GB, and three times that
# with gradients and momentum. The TT-matrices of rank 8 in six digits have fewer numbers than the last layer of the network, 4096 x 10:

# %%
wide = {"3072 -> 262,144": ((8,) * 6, (3, 4, 4, 4, 4, 4)), "262,144 -> 4096": ((4,) * 6, (8,) * 6)}
table = {}
for name, (row_dims, col_dims) in wide.items():
    large = nn.Linear(math.prod(col_dims), math.prod(row_dims), bias=False, device="meta")
    size, macs = (count(large, "ttm", 8, row_dims=row_dims, col_dims=col_dims) for count in (layers.size, layers.macs))
    table[name] = {"dense": large.weight.numel(), "TT-matrix": size, "biases": large.out_features, "MACs of it": macs}
assert sum(row["TT-matrix"] for row in table.values()) < 4096 * 10
pd.DataFrame(table).T.map("{:,}".format)

# %% [markdown]
# Now the biases are the larger part. The arithmetic and the activations stay wide: an epoch takes long. The experiment
# [train_wide_network](experiments/train_wide_network.ipynb) trains it resumably, and narrower ones to the end. **Predict** whether width helps.

# %% tags=["nbval-ignore-output"] jupyter={"outputs_hidden": true}
widths = study_of("train-wide-network")
widths = widths[widths.held_out == 0] if len(widths) else widths
if len(widths):
    groups = widths.groupby(["hidden", "params", "macs", "peak_bytes", "epochs"])
    display((groups.error.agg(["mean", "min", "max", "size"]) * [100, 100, 100, 1]).round(1))
else:
    print("no run is on record: tnlib sweep wide_study")

# %% [markdown]
# ## The layer of VGG
#
# The first fully connected layer of VGG maps 25,088 numbers to 4,096: 103 million weights, three quarters of VGG-16. The paper's digits are
# $2 \cdot 7 \cdot 8 \cdot 8 \cdot 7 \cdot 4$ and $4^6$. Their factors follow from the shapes alone: `TT4` is a TT-matrix of rank 4, `MR5` a matrix of rank
# 5, the three words stand for the three fully connected layers. Errors as reported, not re-read; they need ImageNet.

# %%
rows_vgg, cols_vgg = (4,) * 6, (2, 7, 8, 8, 7, 4)
FC = {"first": (25088, 4096), "second": (4096, 4096)}
VGG = {"VGG-16": 138_357_544, "VGG-19": 143_667_240}  # parameters


# %%
def held(layer, name):
    """Numbers of a layer without bias, as the paper counts: FC, TT4, MR5."""
    inputs, outputs = FC[layer]
    if name == "FC":
        return inputs * outputs
    if name.startswith("MR"):
        return int(name[2:]) * (inputs + outputs)
    dense, col_dims = nn.Linear(inputs, outputs, bias=False, device="meta"), cols_vgg if layer == "first" else rows_vgg
    return layers.size(dense, "ttm", int(name[2:]), row_dims=rows_vgg, col_dims=col_dims)


assert held("first", "TT1") == 144


# %%
def factors(first, second):
    """Of the replaced layers, and of each network."""
    replaced = [pair for pair in (("first", first), ("second", second)) if pair[1] != "FC"]
    before, after = sum(held(layer, "FC") for layer, _ in replaced), sum(held(*pair) for pair in replaced)
    return {"factor": before / after} | {name: total / (total - before + after) for name, total in VGG.items()}


reported = claims[claims.place == "table 2"].set_index("claim").value.astype(float)

# %%
table = {}
for words in ("TT4 FC", "TT2 FC", "TT1 FC", "TT4 TT4", "MR1 FC", "MR5 FC", "MR50 FC"):
    row = table[words] = factors(*words.split())
    assert abs(row["factor"] - reported[f"{words} FC: factor on the layers"]) < 1
    assert all(abs(row[name] - reported[f"{words} FC: factor on {name}"]) <= 0.06 for name in VGG)
    row |= {f"{top} error": reported[f"{words} FC: {top} error of VGG-16"] for top in ("top-1", "top-5")}
pd.DataFrame(table).T.round(1)

# %% [markdown]
# A layer hundreds of thousands of times smaller, a network four times: what is left are the convolutions and the other two layers. Say of what a factor is.

# %%
mebibytes = 25088 * 4096 * 4 / 2**20
assert round(mebibytes) == 392
largest = max(4 * math.prod(rows_vgg[:q]) * math.prod(cols_vgg[q:]) for q in range(1, 6))  # rank 4, first core first
assert round(largest * 4 / 2**20, 3) == 0.766
print(
    f"the dense layer in float32: {mebibytes:.0f} MiB; its train of rank 4: {held('first', 'TT4') * 4 / 2**10:.0f} KiB"
)
print(f"the largest state of a pass from the first core on: {largest * 4 / 2**20:.3f} MiB")

# %% [markdown]
# So the abstract's 392 MB are the weights, in units of $2^{20}$ bytes. Its 0.766 MB agree with the largest state of a pass that starts at the first core,
# one image at a time; how the paper counted is not known to us.
#
# ### Its TT-SVD
#
# The experiment [replace_vgg_fc6](experiments/replace_vgg_fc6.ipynb) decomposes such a matrix by randomized SVDs; seconds, and the memory that is held beside
# the weight at the worst moment. The matrix is drawn: a train of rank 16 and noise, so its error says nothing about a trained one. Bring `weights` and `imagenet_dir`, and
# it measures the error of the network.

# %% tags=["nbval-ignore-output"] jupyter={"outputs_hidden": true}
vgg = study_of("replace-vgg-fc6")
if len(vgg):
    trains, matrices = (pd.DataFrame(vgg.iloc[-1][kind]) for kind in ("trains", "matrices"))
    table = pd.concat([trains.assign(form="TT-matrix"), matrices.assign(form="matrix")])
    table = table.assign(peak=(table.peak_bytes / 1e9).map("{:.2f} GB".format), seconds=table.seconds.round(1))
    display(table[["form", "rank", "params", "seconds", "peak", "error"]].round(3))
    print("the noise that was planted:", round(vgg.iloc[-1]["planted_error"], 3))
else:
    print("no run is on record: tnlib run replace_vgg_fc6 --profile full")

# %% [markdown]
# ### Its time
#
# The order of the products decides how many there are:

# %%
fc6 = nn.Linear(25088, 4096, bias=False, device="meta")
cheapest = layers.macs(fc6, "ttm", 4, row_dims=rows_vgg, col_dims=cols_vgg)
vgg_cores = [core.float() for core in random_cores(rows_vgg, cols_vgg, (4,) * 5)]
ours = counted(forward, vgg_cores, torch.zeros(1, 25088))
assert cheapest < ours
print(
    f"times fewer MACs: {fc6.weight.numel() / ours:.1f} in the order of `forward`, {fc6.weight.numel() / cheapest:.1f} in the cheapest"
)

# %% [markdown]
# Table 3 of the paper, beside ours: the benchmark [bench_layers](experiments/bench_layers.ipynb), rank 4, the layer frozen, in the order that is fastest.
# What is compared is the ratio: processors of 2015 are not ours. **Predict** it.

# %% tags=["nbval-ignore-output"] jupyter={"outputs_hidden": true}
bench = study_of("bench-layers")
if len(bench):
    newest, theirs = bench.iloc[-1], claims[claims.place == "table 3"].set_index("claim").value.astype(float)
    table, cpu = [], newest["cpu"].split(" avx")[0]
    for images in (1, 100):
        text = f"{images} image" + "s" * (images > 1)
        fc, tt = (theirs[f"25088 to 4096: {kind} on a CPU; {text}"] for kind in ("FC", "TT"))
        table.append(("the paper", images, fc, tt, fc / tt))
        for where, threads in ((f"{cpu}, one thread", "one_thread_"), (f"{cpu}, all threads", "")):
            figures = (newest.get(f"{threads}batch{images}_{key}") for key in ("dense_ms", "ms", "speedup"))
            table.append((where, images, *figures))
    display(pd.DataFrame(table, columns=["where", "images", "dense, ms", "TT, ms", "times faster"]).round(2))
else:
    print("no run is on record: tnlib run bench_layers --profile full")

# %% [markdown]
# For one image the dense layer waits for memory: it reads all its weights to use each once. The train fits a cache, and here it wins by far
# more than the ratio of MACs. For 100 images both compute. If the train's small products ran at the rate of the dense one, the ratio of MACs would be the
# gain; they run slower.
#
# A small piece of it, live:

# %% tags=["nbval-ignore-output"]
with torch.no_grad():
    dense_layer = nn.Linear(4096, 1024)
    small = layers.factorize(
        dense_layer, "ttm", 4, weights="fresh", row_dims=(4,) * 5, col_dims=(4, 4, 8, 8, 4), seed=seed
    )
    for images in (1, 100):
        batch = torch.randn(images, 4096, generator=generator)
        frozen = layers.freeze(small, batch)
        assert torch.allclose(frozen(batch), small(batch), atol=1e-4)
        print(f"{images} image(s)", measure.compare({"dense": dense_layer, "TT": frozen}, batch), sep="\n")

# %% [markdown]
# ## Beside the paper


# %%
def spread(values):
    return f"{100 * values.mean():.2f} ({100 * values.min():.2f} to {100 * values.max():.2f})"


lines = []
if len(fresh_runs) and dataset == "mnist":
    dense_runs = fresh_runs[fresh_runs.form == "dense"]
    lines.append(("MNIST, dense: error, %", 1.9, spread(dense_runs.error), f"{len(dense_runs)} seeds"))

# %%
two = on_record(last="ttm", start="fresh", held_out=0, dataset="mnist")
two = two[two.params <= 12602] if len(two) else two
for (numbers_in_all, padding), found in two.groupby(["params", "padding"]) if len(two) else ():
    how = f"{numbers_in_all:,} numbers, {found.epochs.max()} epochs, {len(found)} seeds" + ", shifted images" * bool(
        padding
    )
    lines.append(("MNIST, two TT layers of at most 12,602 numbers: error, %", 1.9, spread(found.error), how))

# %%
quick = pictures[(pictures.network == "quick") & (pictures.convolutions == "dense")] if len(pictures) else pictures
for (factor, spent), found in (
    quick[quick.connected == "ttm"].groupby(["connected_factor", "epochs"]) if len(quick) else ()
):
    control = quick[(quick.connected == "dense") & (quick.epochs == spent)].error
    what = f"CIFAR-10 quick, connected part {factor:.1f} times smaller (paper: 11.9): points lost"
    how = f"against the dense network, tuned as long; {spent} epochs, {len(found)} seeds"
    lines.append((what, 1 if factor < 13 else "", f"{100 * (found.error.mean() - control.mean()):.2f}", how))

# %%
reached = garipov.set_index("claim").value.astype(float)
their_loss = reached["accuracy of the dense network"] - reached.filter(like="82.87").iloc[0]
deep_runs = pictures[(pictures.network == "garipov") & (pictures.start == "pretrained")] if len(pictures) else pictures
for (factor, spent), found in deep_runs.groupby(["factor", "epochs"]) if len(deep_runs) else ():
    control = deep_runs[(deep_runs.factor == 1) & (deep_runs.epochs == spent)].error
    if factor > 1 and len(control):
        what = f"CIFAR-10, the network of Garipov et al., {factor:.1f} times smaller: points lost"
        how = f"against the dense network, tuned as long; {spent} epochs, {len(found)} seed(s)"
        theirs = f"{their_loss:.1f}" if round(factor) == 83 else ""
        lines.append((what, theirs, f"{100 * (found.error.mean() - control.mean()):.2f}", how))

# %%
for (hidden, spent), found in widths.groupby(["hidden", "epochs"]) if len(widths) else ():
    what, theirs = f"CIFAR-10, {hidden:,} hidden units: error, %", 31.47 if hidden == 262144 else ""
    lines.append((what, theirs, spread(found.error), f"{spent} epochs, {len(found)} seeds"))

# %%
for images, theirs in ((1, "13"), (100, "1.03")) if len(bench) else ():
    for how, key in (("all threads", ""), ("one thread", "one_thread_")):
        ratio = newest.get(f"{key}batch{images}_speedup", math.nan)
        what = f"VGG's layer, {images} image(s): times faster on a CPU"
        lines.append((what, theirs, f"{ratio:.0f}", f"frozen, {how}"))

# %% tags=["nbval-ignore-output"] jupyter={"outputs_hidden": true}
pd.DataFrame(lines, columns=["claim", "paper", "ours", "how measured"])

# %% [markdown]
# ## What is not reproduced, and why
#
# - The errors of VGG in Table 2 need ImageNet and days on GPUs: the paper trained these layers. The factors are ours, the errors reported.
# - The paper's epochs, batches and learning rates are not known to us; ours stand in the records.
# - Times on GPUs: the same notebook runs there (`device="auto"`); no record of ours has one.
# - HashedNets, which the paper compares with: 2.79 % with 12,720 numbers, as reported.
# - Garipov et al.'s network takes hours a run here: `garipov_study` is ready, and resumable; whether it was run stands in the table above.
#
# ## Exercises
#
# ### 1. Warm-up: factors from shapes (15 minutes)
#
# Return how many times fewer numbers a TT-matrix has than the dense matrix, biases not counted. All inner ranks are `rank`, even where a smaller one
# would do.


# %%
def ttm_factor(row_dims, col_dims, rank):
    return ...


check.ttm_factor(ttm_factor)

# %% [markdown]
# <details><summary>Hint</summary>
#
# How many numbers has the first core, how many one in the middle?
# </details>
# <details><summary>Solution</summary>
#
# In the [solutions](solutions/09_reproduce_novikov.ipynb), section 1.
# </details>

# %% [markdown]
# ### 2. Core: all cores move at once (25 minutes)
#
# `x` (samples x inputs) goes through a TT layer without bias. Each core $G_q$ moves to $G_q + t\, D_q$. Return the derivative of the output by $t$ at $t = 0$, (samples x
# outputs), exactly, and without building the layer's matrix: the check has one with 69 billion entries.


# %%
def directional_output(cores, directions, x):
    return ...


check.directional_output(directional_output)

# %% [markdown]
# <details><summary>Hint</summary>
#
# The product rule, one step of the pass at a time: what does a step do to a state that moves, with a core that moves?
# </details>
# <details><summary>Solution</summary>
#
# In the [solutions](solutions/09_reproduce_novikov.ipynb), section 2.
# </details>

# %% [markdown]
# ### 3. Stretch: a train that grows (25 minutes)
#
# Return cores with every inner rank larger by `extra` that multiply out to the *same* matrix, so that training can go on and use the
# new directions. `seed` is for random numbers. What a new direction is: multiply out the cores before a bond, which gives a column for each index of the
# bond, and those behind it, a row for each. The columns must be linearly independent, or the rows.


# %%
def grow_train(cores, extra, seed):
    return ...


check.grow_train(grow_train)

# %% [markdown]
# <details><summary>Hint</summary>
#
# What must hold at a bond for the product to stay? Is the gradient of *all* new numbers then zero?
# </details>
# <details><summary>Solution</summary>
#
# In the [solutions](solutions/09_reproduce_novikov.ipynb), section 3.
# </details>

# %% [markdown]
# ## Summary
#
# - Backward through a train is a second pass, from the other end: twice the forward pass, whatever the number of cores.
# - Every core's product with its gradient is the same number, so small steps keep the differences of their squared norms: what starts unbalanced stays unbalanced.
# - Products of many normal factors are far from normal, and of many small ones tiny: a train has to start with the variance of the layer.
# - A TT-matrix of rank 1 can have a large matrix rank: with few numbers it keeps many directions.
# - This trained dense matrix is no short train, since its units have no order; a network trained as one does well.
# - A factor of a layer is not a factor of a network, nor one of time.
#
# ## Further reading
#
# - A. Novikov, D. Podoprikhin, A. Osokin, D. Vetrov, [*Tensorizing neural networks*](https://arxiv.org/abs/1509.06569), NeurIPS 2015.
# - T. Garipov, D. Podoprikhin, A. Novikov, D. Vetrov, [*Ultimate tensorization: compressing convolutional and FC layers alike*](https://arxiv.org/abs/1611.03214), 2016.
# - I. Oseledets, *Tensor-train decomposition*, SIAM J. Sci. Comput. 33, 2011.
# - S. Du, W. Hu, J. Lee, [*Algorithmic regularization in learning deep homogeneous models: layers are automatically balanced*](https://arxiv.org/abs/1806.00900), NeurIPS 2018.
# - W. Chen, J. Wilson, S. Tyree, K. Weinberger, Y. Chen, [*Compressing neural networks with the hashing trick*](https://arxiv.org/abs/1504.04788), ICML 2015: HashedNets.
# - N. Halko, P.-G. Martinsson, J. Tropp, [*Finding structure with randomness*](https://arxiv.org/abs/0909.4061), SIAM Rev. 53, 2011.

# %% [markdown]
# Previous: [08 reproduce Lebedev](08_reproduce_lebedev.ipynb) · Next: [10 run a study](10_run_a_study.ipynb) · [Solutions](solutions/09_reproduce_novikov.ipynb) · [Glossary](GLOSSARY.md)
