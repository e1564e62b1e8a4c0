# %% [markdown]
# # Choose ranks and keep factors stable
#
# **What you'll do.** Halve the multiplications of a trained ResNet-20. Choose the rank of each layer in five ways: by energy,
# by a model of noise, by outputs on held-out images, by measured loss, by a budget for the whole network. Write the solver
# of the last one and prove how good its answer is. Then look at what the chosen factors are made of.
#
# **What you'll learn.** What each rule assumes, and where this network breaks it. Why one number per layer is not enough to
# share a budget, and why a multiplier is. How to test whether a predicted loss tells a measured one. What exactly the size of
# CP terms says about a network whose factors move.
#
# **What you need first.** Lesson 03 (truncation), 06 (layers made of factors), 07 (MACs); 08 for the last section.
#
# **Time.** 155 minutes: 90 to read text and code, 65 for the exercises. Run All takes a minute and a half.
# **Difficulty.** Medium.
#
# Previous: [11 review the state of the art](11_review_the_state_of_the_art.ipynb) · Next: [13 compare representations](13_compare_representations.ipynb) · [Solutions](solutions/12_choose_ranks.ipynb) · [Glossary](GLOSSARY.md)

# %% tags=["parameters"]
profile: str = "quick"  # "quick": 300 test images, 24 random networks; "full": 2,000, 60
budget: float = 0.5  # share of the network's multiplications that is left, in [0.3, 0.8]
energy: float = 0.8  # share of a kernel's energy to keep where one value is needed, in [0.5, 0.95]
layer: str = "layer3.1.conv1"  # the 3x3 convolution of ResNet-20 to look at; one of layer3, not its first
seed: int = 0  # decides images, random matrices and random networks

# %%
import copy
import itertools
import math
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from IPython.display import display
from scipy.optimize import brentq
from scipy.stats import kendalltau
from torch import nn

from tnlib import check, compress, data, decompose, layers, measure, models, plots, study, train
from tnlib.compress.allocate import choose

plots.use_style()
generator = torch.Generator().manual_seed(seed)
count, few, networks = {"quick": (300, 150, 24), "full": (2000, 2000, 60)}[profile]


# %%
def randn(*shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


# %% [markdown]
# ## The question
#
# A trained ResNet-20 has nineteen convolutions. You may keep half of its multiplications. Which rank for which layer?
#
# Images come in three roles, and no image has two. `fitted` are looked at by methods that need inputs. `held_out` check them. `test`
# tells the result, and `part` is a part of it, for what is measured often. The first two are training images, without their labels. (The network has seen them in training; a rank
# rule has not.)

# %%
network = models.load("resnet20-cifar10")
drawn = data.load("cifar10", "train").sample(320, seed).images
fitted, held_out = drawn[:64], drawn[64:]
test = data.load("cifar10", "test").sample(count, seed)
part = test if few == count else test.sample(few, seed)
convs = {name: module for name, module in network.named_modules() if isinstance(module, nn.Conv2d)}
names = [name for name in convs if name != "conv1"]
print(len(fitted), "fitted,", len(held_out), "held out;", len(names), "convolutions of 3 x 3 behind the first")

# %% [markdown]
# Throughout, a layer becomes the pair of convolutions $k_h \times 1$ and $1 \times k_w$ (`spatial_svd`, lesson 06). That is an SVD of
# the kernel as a matrix $\mathbf W$, with a row for each (input channel, height) and a column for each (output channel, width). One layer, one
# rank. All that is said holds for other formats, with more ranks a layer.


# %%
def matrix(conv):
    """The kernel as a matrix, (S kh) x (T kw), in float64."""
    return conv.weight.detach().double().permute(1, 2, 0, 3).flatten(2).flatten(0, 1)


def replaced(ranks):
    """A new network with some layers at these ranks."""
    small = copy.deepcopy(network)
    for name, rank in ranks.items():
        small.set_submodule(name, layers.factorize(convs[name], "spatial_svd", rank))
    return small


# %%
spectra = {name: torch.linalg.svdvals(matrix(conv)) for name, conv in convs.items()}


def lost(name, rank):
    """Relative squared error of the kernel."""
    return float(spectra[name][rank:].square().sum() / spectra[name].square().sum())


for rank in (1, 7, 30):
    made = layers.factorize(convs[layer], "spatial_svd", rank).dense_weight().detach()
    assert math.isclose(float((made - convs[layer].weight).detach().norm() ** 2 / convs[layer].weight.detach().norm() ** 2),
                        lost(layer, rank), rel_tol=1e-4)  # fmt: skip
print("the layer's error is the tail of the matrix's spectrum")

# %% [markdown]
# A rank $R$ pays if the two factors of an $m \times n$ matrix are smaller than it is: $R\,(m + n) < m n$. Call $mn / (m + n)$ the
# **break-even** rank; for a square matrix it is half the side.


# %%
def break_even(name):
    m, n = matrix(convs[name]).shape
    return m * n / (m + n)


for name in names:
    assert layers.size(convs[name], "spatial_svd", 1) * break_even(name) == convs[name].weight.numel()
print(f"{layer}: {tuple(matrix(convs[layer]).shape)}, break-even at rank {break_even(layer):g}")

# %% [markdown]
# ## 1. By energy
#
# The oldest rule. With $\sigma_1 \ge \sigma_2 \ge \dots$ the singular values, rank $R$ keeps the share
#
# $$e(R) = \sum_{r \le R} \sigma_r^2 \Big/ \sum_r \sigma_r^2$$
#
# of the energy. Choose the smallest $R$ with $e(R) \ge e$, with one threshold $e$ for all layers. By Eckart and Young the relative error of
# each kernel is then at most $\sqrt{1 - e}$. `decompose.energy_rank` does this.

# %%
by_energy = {name: decompose.energy_rank(matrix(convs[name]), energy) for name in names}
for name, rank in by_energy.items():
    assert lost(name, rank) <= 1 - energy < lost(name, rank - 1)
print({name: by_energy[name] for name in (names[0], names[7], layer, names[-1])})

# %%
kept = {name: spectra[name].square().cumsum(0) / spectra[name].square().sum() for name in names}
fig, ax = plt.subplots()
for name in names:
    shown = {layer: "#D55E00", names[-1]: "#0072B2", "layer1.2.conv1": "#009E73"}
    share = torch.arange(1, len(kept[name]) + 1) / break_even(name)
    style = {"label": name, "zorder": 3} if name in shown else {"linewidth": 0.6}
    ax.plot(share, kept[name], color=shown.get(name, "0.7"), **style)
ax.axhline(energy, color="0.4", linestyle="--", linewidth=1)
ax.set(xlabel="rank / break-even rank", ylabel="share of the energy kept", xlim=(0, 1), ylim=(0, 1))
ax.set_title("The same energy has another price in each layer")
plots.label_lines(ax)
plt.show()

# %% [markdown]
# So the price differs. What about the damage? Replace *one* layer at a time, each at the same energy, and measure how much the
# cross-entropy rises on some test images. **Predict:** by how much do the largest and the median rise differ? A factor of 2, 5, more?


# %%
@torch.no_grad()
def cross_entropy(model):
    return float(F.cross_entropy(model(part.images), part.labels))


dense_loss = cross_entropy(network)
rises = pd.Series({name: cross_entropy(replaced({name: by_energy[name]})) - dense_loss for name in names})

# %% tags=["nbval-ignore-output"] jupyter={"outputs_hidden": true}
fig, ax = plt.subplots(figsize=(7.2, 4.2))
ax.barh(names, rises, color=["#D55E00" if rise == rises.max() else "#0072B2" for rise in rises])
ax.invert_yaxis()
ax.set(xlabel="rise of the cross-entropy, this layer alone replaced")
ax.set_title("Equal energy, unequal damage")
plt.show()

# %% tags=["nbval-ignore-output"]
assert rises.max() > 5 * rises.median()
print(f"largest rise {rises.max():.2f} ({rises.idxmax()}), median {rises.median():.3f}")

# %% [markdown]
# One layer is hurt out of proportion. Energy knows neither what the inputs excite, nor what later layers make of
# the error. The threshold is a rule for *one* matrix. Nothing makes it one for nineteen.
#
# ## 2. By a model of noise
#
# Could a layer tell its rank by itself? It could, if its weights were a low-rank matrix plus noise. Say
#
# $$\mathbf V = \mathbf B \mathbf A^\top + \mathbf E, \qquad \mathbf V \in \mathbb R^{L \times M},\ L \le M, \quad E_{ij} \sim \mathcal N(0, \sigma^2) .$$
#
# **What noise alone looks like.** With $\alpha = L / M$ fixed and both sides large, the largest squared singular value of $\mathbf E$ tends to
# $M \sigma^2 (1 + \sqrt\alpha)^2$ (Marchenko and Pastur 1967; Geman 1980). So measure in units of $M \sigma^2$:

# %%
for L, M in ((100, 400), (200, 400), (300, 300)):
    largest = float(torch.linalg.matrix_norm(randn(L, M), 2)) ** 2 / M
    edge = (1 + math.sqrt(L / M)) ** 2
    assert abs(largest / edge - 1) < 0.08
    print(f"{L} x {M}: noise ends near {edge:.2f}")


# %% [markdown]
# **What a component looks like in noise.** A rank-one component of squared singular value $M \sigma^2 t$ shows up larger, since noise adds to it:
# at $x = (1 + t)(1 + \alpha / t)$, as long as $t > \sqrt\alpha$ (Benaych-Georges and Nadakuditi 2012). At $t = \sqrt\alpha$ this is the edge: weaker components drown.


# %%
def seen(t, alpha):
    """Squared singular value in noise of one that is t without, both over M sigma^2."""
    return (1 + t) * (1 + alpha / t)


L, M = 100, 400
for t in (1.0, 2.0, 5.0):
    planted = torch.zeros(L, M, dtype=torch.float64)
    planted[0, 0] = math.sqrt(M * t)
    found = [float(torch.linalg.matrix_norm(planted + randn(L, M), 2)) ** 2 / M for _ in range(10)]
    assert abs(np.mean(found) / seen(t, L / M) - 1) < 0.08
assert math.isclose(seen(math.sqrt(0.25), 0.25), (1 + math.sqrt(0.25)) ** 2)
print("planted 1, 2, 5; seen", *(f"{seen(t, L / M):.2f}" for t in (1.0, 2.0, 5.0)))

# %% [markdown]
# **Where to cut.** Variational Bayes puts Gaussian priors on the columns of $\mathbf A$ and $\mathbf B$, approximates the posterior by one in which $\mathbf A$ and
# $\mathbf B$ are independent, and takes priors of least free energy (*empirical* VB). Nakajima et al. (2013) solved this in closed form: the
# problem falls apart into one for each singular value. Keeping the component seen at $x = (1 + \tau)(1 + \alpha / \tau)$ changes twice the free energy by $M$ times (Nakajima et al. 2015)
#
# $$\psi(\tau) = \log(1 + \tau) + \alpha \log(1 + \tau / \alpha) - \tau .$$
#
# Two logarithms are the price of the two columns, $\tau$ is what is explained. Keep the component if $\psi < 0$. The zero of $\psi$ has to
# be found by numbers; it lies above $\sqrt\alpha$.


# %%
def psi(tau, alpha):
    return np.log1p(tau) + alpha * np.log1p(tau / alpha) - tau


def weakest(alpha):
    """The least t of a component that is kept."""
    return brentq(psi, math.sqrt(alpha), 3, args=(alpha,))


for alpha in (0.1, 0.25, 0.5, 1.0):
    assert weakest(alpha) > 2 * math.sqrt(alpha)
    print(f"alpha {alpha:4.2f}: drowns below {math.sqrt(alpha):.2f}, kept from {weakest(alpha):.2f} on")

# %% [markdown]
# Only singular values enter, so a diagonal matrix tests `decompose.vbmf` exactly, just above the threshold and just below:

# %%
for L, M in ((10, 40), (30, 30)):
    threshold = math.sqrt(M * seen(weakest(L / M), L / M))
    for factor, rank in ((0.999, 0), (1.001, 1)):
        V = torch.zeros(L, M, dtype=torch.float64)
        V[0, 0] = factor * threshold
        assert decompose.vbmf(V, noise_variance=1.0).rank == rank
print("kept above the threshold, dropped below")

# %% [markdown]
# **And the noise?** $\sigma^2$ is the one of least free energy. Per entry, twice the free energy is, but for a constant,
#
# $$f(\sigma^2) = \log \sigma^2 + \frac 1 L \sum_h \big( x_h + \min(0, \psi(\tau_h)) \big), \qquad x_h = \frac{s_h^2}{M \sigma^2} .$$
#
# Without any component this is the log-likelihood of white noise, and its minimum is the mean square of the entries. You can scan it:


# %%
def free_energy(variance, s, L, M):
    x, alpha = s**2 / (M * variance), L / M
    root = np.sqrt(np.maximum((x - 1 - alpha) ** 2 - 4 * alpha, 0))
    tau = np.where(x > (1 + math.sqrt(alpha)) ** 2, (x - 1 - alpha + root) / 2, math.sqrt(alpha))
    return math.log(variance) + (x + np.minimum(0, psi(tau, alpha))).sum() / L


# %%
L, M, rank, variance = 60, 240, 5, 0.3
V = randn(L, rank) @ randn(rank, M) + math.sqrt(variance) * randn(L, M)
grid = np.geomspace(0.05, 20, 4000)
scanned = grid[np.argmin([free_energy(v, torch.linalg.svdvals(V).numpy(), L, M) for v in grid])]
found = decompose.vbmf(V)
assert abs(scanned / found.noise_variance - 1) < 0.01
assert abs(found.noise_variance / variance - 1) < 0.1
print(f"rank {found.rank} of {rank}; noise variance {found.noise_variance:.1f} of {variance}")

# %% [markdown]
# A rival from signal processing, description length (Wax and Kailath 1985), asks how many bits describe the data: those of $R$ components, plus those of a
# remainder whose eigenvalues are all equal. `decompose.description_length_rank`. Where components are strong, both find every planted rank:

# %%
for rank in (0, 1, 5, 12):
    for _ in range(5):
        V = 2 * randn(L, rank) @ randn(rank, M) + randn(L, M)
        assert decompose.vbmf(V).rank == decompose.description_length_rank(V) == rank
print("planted 0, 1, 5, 12: found by both, in all draws")

# %% [markdown]
# Now five components of *equal* strength $t$. **Predict:** where does each rule begin to see them: at $\sqrt\alpha$, where it becomes possible, or later? Which one first?

# %%
alpha, strengths = L / M, np.linspace(0.6, 9, 13)
rules = {"VBMF": lambda V: decompose.vbmf(V).rank, "description length": decompose.description_length_rank}
found = {name: [] for name in rules}
for strength in strengths:
    U, W = (torch.linalg.qr(randn(size, 5)).Q for size in (L, M))
    planted = math.sqrt(M * strength * math.sqrt(alpha)) * U @ W.T
    drawn = [planted + randn(L, M) for _ in range(8)]
    for name, rule in rules.items():
        found[name].append(np.mean([rule(V) for V in drawn]))

# %% jupyter={"outputs_hidden": true}
fig, ax = plt.subplots()
for name, means in found.items():
    ax.plot(strengths, means, "o-", label=name)
for place, text in ((1, "possible"), (weakest(alpha) / math.sqrt(alpha), "VBMF's threshold")):
    ax.axvline(place, color="0.5", linestyle="--", linewidth=1)
    ax.annotate(text, (place, 5.3), (4, 0), textcoords="offset points", color="0.4")
ax.set(xlabel=r"strength $t$ of five components, over $\sqrt{\alpha}$", ylabel="rank found, mean of 8", ylim=(0, 5.6))
ax.set_title("Both rules wait: they drop what could already be seen")
plots.label_lines(ax)
plt.show()

# %%
assert found["VBMF"][0] == found["description length"][0] == 0
assert found["VBMF"][-1] == found["description length"][-1] == 5
assert max(found[name][1] for name in rules) < 1 < strengths[1]
print("none of the weak, all of the strong, and nothing where it has just become possible")

# %% [markdown]
# ### On trained kernels
#
# Kim et al. (2016) took the Tucker-2 ranks of whole networks from VBMF. What do both rules say of our matrices? **Predict** whether they agree.

# %%
table = {}
for name in names[::3] + names[-1:]:
    W = matrix(convs[name])
    table[name] = {"matrix": f"{W.shape[0]} x {W.shape[1]}", "break-even": break_even(name)}
    table[name] |= {"VBMF": decompose.vbmf(W).rank, "description length": decompose.description_length_rank(W)}
    table[name]["energy VBMF keeps"] = round(1 - lost(name, decompose.vbmf(W).rank), 2)
pd.DataFrame(table).T

# %% [markdown]
# They do not: one of them finds nearly full rank here and none at all there. The assumption is at fault. Noise of one variance has a spectrum that ends at an edge, and a kernel's has none:

# %%
W = matrix(convs[layer])
model = decompose.vbmf(W)
shuffled = W.flatten()[torch.randperm(W.numel(), generator=generator)].reshape(W.shape)
noise = math.sqrt(model.noise_variance) * randn(*W.shape)
fig, ax = plt.subplots()
ax.plot(spectra[layer], label="kernel")
ax.plot(torch.linalg.svdvals(shuffled), label="its entries, shuffled")
ax.plot(torch.linalg.svdvals(noise), ":", label="noise that VBMF supposes")
ax.axvline(model.rank, color="0.5", linestyle="--", linewidth=1)
ax.annotate(
    "VBMF cuts here", (model.rank, 0.9 * float(spectra[layer][0])), (4, 0), textcoords="offset points", color="0.4"
)
ax.set(
    xlabel="number of the singular value",
    ylabel="singular value",
    ylim=(0, None),
    title="A kernel's spectrum has no edge",
)
ax.legend()
plt.show()

# %%
vbmf_ranks = {name: decompose.vbmf(matrix(convs[name])).rank for name in names}
assert decompose.vbmf(shuffled).rank <= 2 < model.rank
assert all(rank < break_even(name) for name, rank in vbmf_ranks.items())
print("shuffled entries have next to no rank; every rank of VBMF lies below break-even")

# %% [markdown]
# Shuffled, the same numbers have next to no rank: the structure is real. But what lies below the cut is structure as well.
#
# The second assertion is no finding about networks. With an unknown noise variance, VBMF's rank stays below $LM / (L + M)$ for *every* matrix (sources: the docstring of
# `decompose.vbmf`), since something has to be left that is noise. This is the break-even rank. So VBMF "saves" whatever it is given, even here:

# %%
for m, n in ((20, 20), (30, 60)):
    decaying = torch.diag(0.8 ** torch.arange(m, dtype=torch.float64)) @ torch.linalg.qr(randn(n, m)).Q.T
    assert int(torch.linalg.matrix_rank(decaying)) == m
    rank = decompose.vbmf(decaying).rank
    assert 0 < rank < m * n / (m + n)
    print(f"{m} x {n} of full rank, no noise: VBMF says {rank}")


# %% [markdown]
# What do its ranks cost? Each figure of accuracy below stands twice: raw, and after `compress.repair(.., fit=False)` has estimated the statistics of BatchNorm anew on
# held-out images. A truncated kernel gives outputs of less variance, and BatchNorm still divides by the old one. Repairing takes one pass and no label.


# %%
def measured(small, images=test, settling=held_out):
    """MACs as a share; which images are right, raw and repaired."""
    repaired = compress.repair(small, network, settling, fit=False)
    macs = measure.cost(small, images.images[:1]).macs / dense_macs
    return {"MACs": macs, "raw": train.hits(small, images), "repaired": train.hits(repaired, images)}


dense_macs = measure.cost(network, test.images[:1]).macs
dense_hits = train.hits(network, test)


def told(result):
    return {key: float(value.float().mean()) if torch.is_tensor(value) else value for key, value in result.items()}


# %% tags=["nbval-ignore-output"] jupyter={"outputs_hidden": true}
by_vbmf = measured(replaced(vbmf_ranks))
print(f"dense: {dense_hits.float().mean():.1%} of {count} test images")
print("VBMF: ", {key: f"{value:.1%}" for key, value in told(by_vbmf).items()})

# %%
assert by_vbmf["MACs"] < 0.5
assert by_vbmf["raw"].float().mean() < dense_hits.float().mean() - 0.1
print("VBMF takes more than half of the multiplications, and the network no longer works without further training")

# %% [markdown]
# Kim et al. fine-tuned afterwards, and reported little loss. As a *start* for training such ranks may serve; as a measure of what a layer needs they rest on a
# model that does not hold. And you cannot tell VBMF how much you want to save.
#
# ## 3. By outputs on held-out images
#
# What counts is not the kernel but what it does. Stack a layer's input patches as columns of $\mathbf X$, and write the kernel as $\mathbf K$, $T \times S k_h k_w$.
# An error $\boldsymbol\Delta$ of the kernel changes the outputs by
#
# $$\| \boldsymbol\Delta \mathbf X \|_F^2 = \operatorname{tr}\big(\boldsymbol\Delta\, \mathbf X \mathbf X^\top \boldsymbol\Delta^\top\big) .$$
#
# The inputs enter through their second moment $\mathbf X \mathbf X^\top$ alone. Only if this is a multiple of $\mathbf I$ is the error of the outputs that of the kernel.
# Metric `input` of `compress.curves` collects these moments.


# %%
@torch.no_grad()
def patches(name, images):
    """What the kernel's rows are multiplied with, one column a position: (S kh kw, positions)."""
    caught = []
    handle = convs[name].register_forward_pre_hook(lambda module, args: caught.append(args[0]))
    network(images)
    handle.remove()
    conv = convs[name]
    return (
        F.unfold(caught[0], conv.kernel_size, padding=conv.padding, stride=conv.stride)
        .double()
        .transpose(0, 1)
        .flatten(1)
    )


# %%
K, X = convs[layer].weight.detach().double().flatten(1), patches(layer, fitted)
truncated = layers.factorize(convs[layer], "spatial_svd", 30).dense_weight().detach().double().flatten(1)
off = truncated - K
assert torch.allclose((off @ X).square().sum(), torch.trace(off @ (X @ X.T) @ off.T))
assert (off @ X).norm() / (K @ X).norm() < off.norm() / K.norm()
moments = torch.linalg.eigvalsh(X @ X.T).flip(0)
print(
    f"half of the inputs' energy lies in {int((moments.cumsum(0) < 0.5 * moments.sum()).sum()) + 1} of {len(moments)} directions"
)

# %% [markdown]
# Which layer of rank $R$ has the least error on given inputs? Let $\mathbf Y = \mathbf K \mathbf X$, and $\mathbf U_R$ its $R$ leading left singular vectors. Take
# $\mathbf U_R \mathbf U_R^\top \mathbf K$. Its outputs are $\mathbf U_R \mathbf U_R^\top \mathbf Y$, the best approximation of $\mathbf Y$ by any matrix of rank $R$, so no layer of rank $R$ does better (Zhang et al. 2015).


# %%
def principal(Y, rank):
    """Leading directions of outputs, (T, rank)."""
    return torch.linalg.eigh(Y @ Y.T).eigenvectors.flip(1)[:, :rank]


def output_error(U, Y):
    return float((Y - U @ (U.T @ Y)).square().sum() / Y.square().sum())


# %%
Y, rank = K @ X, 16
best = output_error(principal(Y, rank), Y)
by_weight = torch.linalg.svd(K, full_matrices=False).U[:, :rank]
assert best <= output_error(by_weight, Y)
assert all(best <= output_error(torch.linalg.qr(randn(len(Y), rank)).Q, Y) for _ in range(20))
print("on the inputs that it was fitted to, no layer of this rank has less error")

# %% [markdown]
# "On the inputs that it was fitted to." Fit on $n$ images, and look at others. **Predict** what happens to the two errors when $n$ grows from one image on.

# %%
held = K @ patches(layer, held_out[:64])
numbers = (1, 2, 4, 8, 16, 64)
fits = {n: principal(K @ patches(layer, fitted[:n]), rank) for n in numbers}
on_fitted = [output_error(fits[n], K @ patches(layer, fitted[:n])) for n in numbers]
on_held = [output_error(fits[n], held) for n in numbers]

# %% jupyter={"outputs_hidden": true}
fig, ax = plt.subplots()
ax.semilogx(numbers, on_held, "o-", label="held-out images")
ax.semilogx(numbers, on_fitted, "o-", label="fitted images")
ax.axhline(output_error(by_weight, held), color="0.4", linestyle="--", linewidth=1)
ax.annotate(
    "no images: SVD of the kernel", (1, output_error(by_weight, held)), (0, 4), textcoords="offset points", color="0.4"
)
ax.set(xlabel="images that the factors were fitted to", ylabel="relative squared error of outputs", ylim=(0, None))
ax.set_title(f"Fitted images flatter (rank {rank})")
plots.label_lines(ax)
plt.show()

# %% [markdown]
# The gap is what a rank chosen on fitted images gets wrong. So choose on held-out ones: the smallest rank whose error there is at most a tolerance. This is
# **validation**; with several splits in turn it is cross-validation.


# %%
def rank_for(Y, judged, tolerance):
    """The smallest rank, fitted to Y, whose error on judged outputs is at most the tolerance."""
    every = principal(Y, len(Y))
    left = 1 - (every.T @ judged).square().sum(1).cumsum(0) / judged.square().sum()
    return int((left > tolerance).sum()) + 1


# %%
few, many = (K @ patches(layer, fitted[:n]) for n in (1, 64))
ranks = {"1 image, itself": rank_for(few, few, 0.05), "1 image, held out": rank_for(few, held, 0.05)}
ranks |= {"64 images, themselves": rank_for(many, many, 0.05), "64 images, held out": rank_for(many, held, 0.05)}
assert ranks["1 image, itself"] < ranks["64 images, held out"] <= ranks["1 image, held out"]
assert on_fitted[0] < on_held[0]
assert on_held[-1] < on_held[0]
print(ranks)

# %% [markdown]
# That tells the rank for a *tolerance*. It does not tell which tolerance a layer deserves.
#
# ## 4. By sensitivity
#
# So measure. Lower the rank of one layer, leave all others, and look at the loss of the network. Here for three layers and four ranks:

# %%
shares, looked_at = (0.1, 0.25, 0.5, 0.9), ("layer1.2.conv1", "layer2.1.conv1", layer)
sensitivity = {
    name: [cross_entropy(replaced({name: max(1, round(s * break_even(name)))})) - dense_loss for s in shares]
    for name in looked_at
}

# %% tags=["nbval-ignore-output"] jupyter={"outputs_hidden": true}
fig, ax = plt.subplots()
for name, values in sensitivity.items():
    ax.plot(shares, values, "o-", label=name)
ax.set(xlabel="rank / break-even rank, of this layer alone", ylabel="rise of the cross-entropy", xlim=(0, 1))
ax.set_title("Layers differ in what a rank is worth")
plots.label_lines(ax)
plt.show()

# %% [markdown]
# Is this the truth? It has two prices. A curve takes a pass over the images for every layer and rank:

# %%
every_rank = sum(math.ceil(break_even(name)) - 1 for name in names)
print(f"{every_rank:,} passes for all ranks below break-even")

# %% [markdown]
# And it sees one layer at a time. With $\boldsymbol\Delta_k$ the error of layer $k$, $\mathbf g$ the gradient and $\mathbf H$ the Hessian, the loss changes by
#
# $$\sum_k \Big( \mathbf g_k^\top \boldsymbol\Delta_k + \tfrac 1 2 \boldsymbol\Delta_k^\top \mathbf H_{kk} \boldsymbol\Delta_k \Big) + \sum_{k < l} \boldsymbol\Delta_k^\top \mathbf H_{kl} \boldsymbol\Delta_l + \dots$$
#
# Measured one by one you get the first sum; the second is missing. **Predict:** all layers replaced at once, at the energy of section 1. Is the rise the sum of the single ones?

# %% tags=["nbval-ignore-output"] jupyter={"outputs_hidden": true}
together = cross_entropy(replaced(by_energy)) - dense_loss
print(f"sum of the single rises {rises.sum():.2f}, all at once {together:.2f}")

# %% [markdown]
# Errors meet errors. Any sum over layers is a *model* of the loss, also one of measured terms. It is worth having, because sums can be minimised. Keep in mind what
# it leaves out.
#
# ## 5. By a budget for the whole network
#
# Let layer $k$ have candidates $j$, with predicted loss $\ell_{kj}$ and cost $c_{kj}$ in MACs; the dense layer is one of them, with loss 0. Choose one a layer:
#
# $$\min_{j_1, \dots, j_n} \sum_k \ell_{k j_k} \quad \text{subject to} \quad \sum_k c_{k j_k} \le B .$$
#
# This is the **multiple-choice knapsack**. `compress.curves` makes the candidates, here by the relative squared error of the weight, and by that of the layer's output.

# %%
weight_curves = compress.curves(network, fitted, formats=("spatial_svd",), metric="weight")
input_curves = compress.curves(network, fitted, formats=("spatial_svd",), metric="input")
rows = list(weight_curves.candidates.values())
costs, losses = ([np.array([getattr(c, what) for c in row]) for row in rows] for what in ("macs", "loss"))
print(
    f"{len(rows)} layers, {sum(map(len, rows))} candidates, 10^{sum(math.log10(len(row)) for row in rows):.0f} choices"
)

# %%
for row in rows[1:-1]:
    for candidate in row[1::7]:
        assert math.isclose(candidate.loss, lost(candidate.layer, candidate.rank), rel_tol=1e-5, abs_tol=1e-9)
print("metric `weight`: the tail of the spectrum again")

# %% [markdown]
# ### A price for MACs
#
# You cannot try all choices. Instead of forbidding to exceed $B$, let it cost: $\lambda \ge 0$ for each MAC too many (Everett 1963; Geoffrion 1974). The minimum of
#
# $$\sum_k \ell_{k j_k} + \lambda \Big( \sum_k c_{k j_k} - B \Big)$$
#
# falls apart: each layer chooses by itself, the candidate with the least $\ell + \lambda c$. Call it $D(\lambda)$, the **dual function**.


# %%
def pick(losses, costs, price):
    return [int(np.argmin(loss + price * cost)) for loss, cost in zip(losses, costs, strict=True)]


def total(table, choice):
    return sum(float(values[j]) for values, j in zip(table, choice, strict=True))


def dual(losses, costs, room, price):
    return sum(float((loss + price * cost).min()) for loss, cost in zip(losses, costs, strict=True)) - price * room


# %% [markdown]
# **Proposition** (weak duality). $D(\lambda)$ is at most the loss of *any* choice that keeps the budget.
#
# *Proof.* For such a choice the bracket is not positive, so its loss is at least its loss plus $\lambda$ times the bracket, and $D(\lambda)$ is the minimum of that over all choices. $\square$
#
# So one number $\lambda$, however found, *proves* that nothing is better than $D(\lambda)$. On a case small enough to try everything:


# %%
def brute_force(losses, costs, room):
    every = itertools.product(*map(range, map(len, losses)))
    return min((choice for choice in every if total(costs, choice) <= room), key=lambda choice: total(losses, choice))


rng = np.random.default_rng(seed)
small_costs = [np.sort(rng.integers(1, 100, 6))[::-1] for _ in range(5)]
small_losses = [np.sort(rng.random(6)) for _ in range(5)]
small_room = 200
optimum = total(small_losses, brute_force(small_losses, small_costs, small_room))

# %%
prices = np.linspace(0, 0.05, 400)
heights = [dual(small_losses, small_costs, small_room, price) for price in prices]
assert max(heights) <= optimum
assert (np.diff(heights, 2) <= 1e-12).all()
print("every price gives a bound; as a function of the price it is concave")

# %%
fig, ax = plt.subplots()
ax.plot(1000 * prices, heights)
ax.axhline(optimum, color="#D55E00", linewidth=1)
ax.annotate("best choice of all", (38, optimum), (0, 4), textcoords="offset points", color="#D55E00")
ax.set(
    xlabel=r"price $\lambda$ of a thousand units", ylabel=r"$D(\lambda)$", title="Every price proves a bound from below"
)
plt.show()

# %% [markdown]
# Concave, since it is a minimum of linear functions of $\lambda$. Where one choice is the minimum, the slope is its excess $\sum_k c_{k j_k} - B$. So the sign of the excess
# tells on which side of the top you are: too dear, raise the price. Bisect.


# %%
def lagrangian(losses, costs, room):
    """A choice that keeps the budget, the one beyond it, and a lower bound for every choice."""
    low, high = 0.0, 1.0 + sum(float(loss.max()) for loss in losses)
    if total(costs, pick(losses, costs, low)) <= room:
        return pick(losses, costs, low), None, dual(losses, costs, room, low)
    for _ in range(100):
        middle = (low + high) / 2
        if total(costs, pick(losses, costs, middle)) > room:
            low = middle
        else:
            high = middle
    return pick(losses, costs, high), pick(losses, costs, low), dual(losses, costs, room, high)


# %%
choice, beyond, bound = lagrangian(small_losses, small_costs, small_room)
assert total(small_costs, choice) <= small_room
assert bound <= optimum <= total(small_losses, choice)
print(f"bound {bound:.4f} <= optimum {optimum:.4f} <= Lagrangian choice {total(small_losses, choice):.4f}")

# %% [markdown]
# ### How wide is the gap?
#
# At the top of $D$ two choices are minimal: one that keeps the budget, one that exceeds it. For the latter, $D(\lambda) = \sum \ell + \lambda \cdot \text{excess} \ge \sum \ell$. So the optimum lies
# **between the losses of two neighbours**, and in general these differ in one layer, by one step. With many layers a step is little.

# %%
share_left = weight_curves.survey.cost["macs"] - sum(int(cost[0]) for cost in costs)
room = math.floor(budget * weight_curves.survey.cost["macs"]) - share_left
choice, beyond, bound = lagrangian(losses, costs, room)
assert total(losses, beyond) <= bound + 1e-9 <= total(losses, choice) + 2e-9
assert sum(a != b for a, b in zip(choice, beyond, strict=True)) == 1
print(f"of all choices: between {total(losses, beyond):.4f} and {total(losses, choice):.4f}, and not below {bound:.4f}")

# %% [markdown]
# ### The convex hull
#
# Which candidates can a price pick at all? Draw loss against cost: minimising $\ell + \lambda c$ slides a line of slope $-\lambda$ up until it touches. It touches at corners of the **lower convex hull**,
# and nowhere else.

# %%
row = list(weight_curves.candidates).index(layer)
touched = sorted({int(np.argmin(losses[row] + price * costs[row])) for price in np.geomspace(1e-9, 1e-5, 3000)})
fig, ax = plt.subplots()
ax.plot(costs[row] / 1e6, losses[row], ".", color="0.6")
ax.plot(costs[row][touched] / 1e6, losses[row][touched], "o-", markersize=4)
ax.annotate("dense", (costs[row][0] / 1e6, 0), (0, 26), textcoords="offset points", ha="center")
ax.set(xlabel="MACs of the layer, millions", ylabel="relative squared error of the weight")
ax.set_title("Near break-even no price picks a rank: dense is the better deal")
plt.show()

# %%
slopes = [(losses[row][a] - losses[row][b]) / (costs[row][b] - costs[row][a]) for a, b in pairwise(touched)]
assert all(first < second for first, second in pairwise(slopes))
largest = max(candidate.rank for candidate in rows[row][1:])
assert max(rows[row][j].rank for j in touched[1:]) < largest
print(
    f"ranks up to {max(rows[row][j].rank for j in touched[1:])} of {largest} can be picked; slopes rise along the hull"
)

# %% [markdown]
# That explains what plans look like: some layers stay dense, the others are compressed clearly. A rank just below break-even pays nearly the dense price and loses all the same.
#
# ### The exact optimum
#
# `compress.allocate` takes the price, drops candidates that the bound excludes, and searches the rest (its docstring says how). On small cases it agrees with brute force:

# %%
for _ in range(20):
    some_costs = [rng.integers(1, 100, (6, 1)) for _ in range(4)]
    some_losses = [rng.random(6) for _ in range(4)]
    flat, space = [cost[:, 0] for cost in some_costs], sum(int(cost.min()) for cost in some_costs) + 60
    _, found, proved = choose(some_losses, some_costs, np.array([space]))
    assert math.isclose(found, total(some_losses, brute_force(some_losses, flat, space)), rel_tol=1e-9)
    assert proved <= found + 1e-9
print("20 random cases: the same least loss")

# %%
exact = compress.allocate(weight_curves, compress.Budget(macs=budget))
assert bound - 1e-9 <= exact.loss <= total(losses, choice) + 1e-9
assert exact.gap < 1e-9
print(f"bound {bound:.5f}, exact {exact.loss:.5f}, fifteen lines {total(losses, choice):.5f}")

# %% [markdown]
# ### Plan and apply
#
# A plan is one candidate a layer. What it promises in MACs is what is counted afterwards:

# %%
plan = compress.Plan.of(weight_curves, compress.Budget(macs=budget))
planned = plan.apply(network)
assert measure.cost(planned, test.images[:1]).macs == plan.cost["macs"] <= budget * plan.original["macs"]
plan.table()[["format", "rank", "macs share", "loss"]].round(2).iloc[::3]

# %% [markdown]
# ### Allocated or uniform?
#
# Rivals of the same MACs, in the same format. *Uniform*: every layer gets the same share of its own MACs. *One energy*: one threshold for all layers, as in section 1.
# In both, one number is bisected until the budget is met.


# %%
def under_budget(select):
    """The dearest of a family of choices, one for each number in [0, 1], that keeps the budget."""
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if total(costs, select(middle)) <= room else (low, middle)
    return select(low)


def uniform(share):
    return [int(np.where(c <= max(share * c[0], c.min()), c, 0).argmax()) for c in costs]


def one_energy(kept):
    return [
        int(np.where(loss <= max(1 - kept, loss.min()), c, np.inf).argmin())
        for loss, c in zip(losses, costs, strict=True)
    ]


# %%
choices = {"uniform": under_budget(uniform), "one energy": under_budget(one_energy)}
ways = {
    name: {row[j].layer: row[j].rank for row, j in zip(rows, found, strict=True) if j}
    for name, found in choices.items()
}
for name, found in choices.items():
    assert plan.loss <= total(losses, found)
    print(f"{name:<11} predicted loss {total(losses, found):.3f}")
print(f"{'allocated':<11} predicted loss {plan.loss:.3f}")

# %% [markdown]
# By its own measure the allocation is the best: that was proved, not measured. **Predict** the order by accuracy, raw and repaired.

# %%
results = {name: measured(replaced(ranks)) for name, ranks in ways.items()}
results["allocated, weight"] = measured(planned)
by_outputs = compress.Plan.of(input_curves, compress.Budget(macs=budget))
results["allocated, input"] = measured(by_outputs.apply(network))
for result in results.values():
    assert budget - 0.03 < result["MACs"] <= budget


# %%
def against_dense(hits):
    """Points lost on the same images, and the standard error of that."""
    lost_points = dense_hits.float() - hits.float()
    return f"{100 * lost_points.mean():.1f} ± {100 * lost_points.std() / math.sqrt(len(hits)):.1f}"


# %% tags=["nbval-ignore-output"] jupyter={"outputs_hidden": true}
table = pd.DataFrame({name: told(result) for name, result in results.items()}).T.round(3)
table["points lost, repaired"] = {name: against_dense(result["repaired"]) for name, result in results.items()}
table

# %%
for result in results.values():
    assert result["repaired"].float().mean() > result["raw"].float().mean() - 0.05
print("repairing BatchNorm helps, or costs next to nothing")

# %% [markdown]
# Read the last column with its standard error, on this many images: what differs by less than two of them may as well be equal. The large step is from raw to repaired, whatever the ranks. No weight was trained;
# what training adds, and whether the order survives it, takes whole studies.
#
# ### By measured latency
#
# Multiplications are not time: lesson 07 shows small and depthwise convolutions far below the speed of large ones. So `Budget(latency=0.8)` asks a clock. Every candidate is frozen and timed *inside* the
# frozen network, since alone its inputs would be warm. The prediction is a sum again,
#
# $$t(\text{plan}) = t_0 + \sum_k t_{k j_k} ,$$
#
# $t_0$ being what the network takes besides these layers. That is an assumption, so it is checked: the compressed network is timed beside the original; where the two differ by more than a tenth, the times are corrected and the plan is
# made anew. **Predict:** this network at 0.5 of its MACs, on one image: at which share of its time?
#
# The benchmark [bench_latency](experiments/bench_latency.ipynb) plans for several shares and then times each network once more, which the plan has not seen. From its record:


# %%
def newest(name):
    """The newest record of a benchmark at full size, or None."""
    found = study.results(name)
    found = found[found["parameters.profile"] == "full"] if len(found) else found
    return found.iloc[-1] if len(found) else None


# %% tags=["nbval-ignore-output"] jupyter={"outputs_hidden": true}
clock = newest("bench-latency")
if clock is not None:
    promised = pd.DataFrame(clock["metrics.rows"])
    display(promised[["network", "batch", "budget", "reached", "predicted", "measured", "macs", "params"]].round(2))
    print("largest difference:", f"{clock['metrics.largest_off']:.0%};", clock["machine.cpu"])

# %% [markdown]
# Where `reached` is false, no mixture of these formats is that fast: in a small network at batch 1 most of the time is not multiplying, and no rank brings it back. Compare the columns `measured` and `macs`: the first falls much more slowly.
#
# ### And how long does a plan take?
#
# The curves cost nearly all of it; another budget from the same curves takes a fraction of a second. The benchmark [bench_compress](experiments/bench_compress.ipynb) goes from ResNet-20 to VGG-16; what dominates stands beside each point.

# %% tags=["nbval-ignore-output"] jupyter={"outputs_hidden": true}
spent = newest("bench-compress")
if spent is not None:
    spent = pd.DataFrame(spent["metrics.rows"])
    fig, ax = plt.subplots()
    ax.loglog(spent.params / 1e6, spent.curves_s + spent.plan_s + spent.apply_s, "o")
    for place in spent.itertuples():
        told_beside = f"{place.network}: {place.slowest_format} {place.slowest_format_share:.0%}"
        seconds = place.curves_s + place.plan_s + place.apply_s
        ax.annotate(told_beside, (place.params / 1e6, seconds), (4, 4), textcoords="offset points", fontsize=7)
    ax.set(xlabel="parameters, millions", ylabel="curves, plan and apply, seconds", xlim=(0.1, 3000))
    ax.set_title("Time grows much more slowly than the number of parameters")
    plt.show()

# %% [markdown]
# Time follows the sizes of matrices more than the number of parameters: one SVD of the largest layer, or many layers with a format that iterates.
#
# ## 6. Does predicted loss tell measured loss?
#
# An allocation is as good as its $\ell$. Schuurmans et al. (ICLR 2023) asked which error measure orders networks as their accuracy does, and report that errors of layers' *features* do not correlate with it significantly better than
# errors of weights, before fine-tuning or after. Their yardstick is Kendall's $\tau$: of all pairs of networks, those in the same order by both measures, minus those in opposite order, over the number of pairs. With ties, divide by the pairs that are not tied ($\tau_b$). As signs:
#
# $$\tau_b = \frac{\langle \mathbf S_x, \mathbf S_y \rangle}{\|\mathbf S_x\|_F \|\mathbf S_y\|_F}, \qquad (\mathbf S_x)_{ij} = \operatorname{sign}(x_i - x_j) ,$$
#
# a cosine between two matrices of signs.


# %%
def kendall(x, y):
    signs = [np.sign(np.subtract.outer(values, values)) for values in map(np.asarray, (x, y))]
    return float((signs[0] * signs[1]).sum() / (np.linalg.norm(signs[0]) * np.linalg.norm(signs[1])))


for _ in range(10):
    x, y = rng.integers(0, 6, 20), rng.integers(0, 6, 20)
    assert math.isclose(kendall(x, y), kendalltau(x, y)[0], abs_tol=1e-12)
assert math.isclose(kendall([1, 2, 3], [2, 4, 8]), 1)
assert math.isclose(kendall([1, 2, 3], [3, 2, 1]), -1)
print("by hand = SciPy's, ties included")

# %% [markdown]
# Networks of different size are easy to order: any measure sees which is smaller. The fair question is at *equal* MACs. So draw ranks at random, and scale each draw until the budget is met.


# %%
def random_choice():
    wish = rng.uniform(0.15, 0.9, len(costs))
    return under_budget(
        lambda factor: [
            int(np.where(c <= max(2 * factor * w * c[0], c.min()), c, 0).argmax())
            for c, w in zip(costs, wish, strict=True)
        ]
    )


drawn_choices = [random_choice() for _ in range(networks)]
assert all(
    budget - 0.05 < (share_left + total(costs, found)) / plan.original["macs"] <= budget for found in drawn_choices
)
print(len(drawn_choices), "networks of the same MACs")

# %% [markdown]
# Three predictions, each a sum over the layers: the relative squared error of the weight, the absolute one, and the relative squared error of the layer's output. Then two measurements.


# %%
def judged(found):
    ranks = {row[j].layer: row[j].rank for row, j in zip(rows, found, strict=True) if j}
    small, picked = (
        replaced({name: rank for name, rank in ranks.items() if name in convs}),
        list(zip(rows, found, strict=True)),
    )
    energies = {row[0].layer: float(network.get_submodule(row[0].layer).weight.detach().square().sum()) for row in rows}
    predicted = {"weight, relative": total(losses, found)}
    predicted["weight, absolute"] = sum(row[j].loss * energies[row[j].layer] for row, j in picked)
    predicted["output"] = sum(
        input_curves.norms[name].loss(convs[name].weight, small.get_submodule(name).dense_weight())
        for name in ranks
        if name in convs
    )
    return predicted | {
        key: value for key, value in told(measured(small, part, held_out[:96])).items() if key != "MACs"
    }


# %%
judgements = pd.DataFrame([judged(found) for found in drawn_choices])
measures = ["weight, relative", "weight, absolute", "output"]
taus = {(m, a): kendall(-judgements[m], judgements[a]) for m in measures for a in ("raw", "repaired")}

# %% [markdown]
# How sure is a $\tau$ from so few networks? Draw networks from them with replacement, again and again (bootstrap, lesson 10). **Predict** which measure wins, and whether its interval is clear of the others.


# %%
def interval(m, a):
    draws = [rng.integers(0, len(judgements), len(judgements)) for _ in range(400)]
    values = judgements[m].to_numpy(), judgements[a].to_numpy()
    return np.nanpercentile([kendall(-values[0][d], values[1][d]) for d in draws], [5, 95])


intervals = {pair: interval(*pair) for pair in taus}

# %% tags=["nbval-ignore-output"] jupyter={"outputs_hidden": true}
fig, ax = plt.subplots()
for shift, (a, color) in zip((-0.12, 0.12), (("raw", "#0072B2"), ("repaired", "#D55E00")), strict=True):
    for place, m in enumerate(measures):
        ax.plot(intervals[m, a], [place + shift] * 2, color=color, linewidth=1.2)
        ax.plot(taus[m, a], place + shift, "o", color=color, label=a if place == 0 else None)
ax.axvline(0, color="0.4", linewidth=1)
ax.set(yticks=range(3), yticklabels=measures, xlabel="Kendall's tau with accuracy, 90 % interval", xlim=(-1, 1))
ax.set_title(f"What {len(judgements)} networks can tell")
ax.legend(loc="upper left")
plt.show()

# %% tags=["nbval-ignore-output"]
print({f"{m}; {a}": round(value, 2) for (m, a), value in taus.items()})

# %% [markdown]
# Look at the widths first. Where intervals overlap, this study has not decided. A $\tau$ near zero says that the measure orders the networks no better than a coin. Note what it takes for granted, too: *unrepaired* accuracy hangs on
# whatever BatchNorm makes of the errors, which none of the sums knows. And an order among random networks is not yet an order among the best ones.
#
# What the paper measured is accuracy *after fine-tuning*. One epoch of all images for each network takes an hour or so, and is read from records: the experiment
# [compress_network](experiments/compress_network.ipynb) draws ranks as above, notes four predictions, and measures accuracy raw, repaired and tuned (sweep `order_study`).


# %%
def on_record(**wanted):
    """Records of compress_network at full size; a column's name is its last word."""
    found = study.results("compress-network")
    if len(found):
        meant = [column for column in found if column.startswith(("parameters.", "metrics."))]
        found = found[meant].rename(columns=lambda column: column.split(".")[-1])
        found = found[(found[list(wanted)] == pd.Series(wanted)).all(axis=1)]
    return found


# %% tags=["nbval-ignore-output"] jupyter={"outputs_hidden": true}
stages = [f"{stage}_accuracy" for stage in ("raw", "repaired", "tuned")]
drawn_runs = on_record(profile="full", choice="random", held_out=0)
if len(drawn_runs) > 2:
    predictions = [f"{what}_{kind}" for what in ("weight", "output") for kind in ("relative", "absolute")]
    rows = {m: {a: kendall(-drawn_runs[m], drawn_runs[a]) for a in stages} for m in predictions}
    display(pd.DataFrame(rows).T.round(2))
print(len(drawn_runs), "networks on record")

# %% [markdown]
# And what remains of a loss when more is repaired than BatchNorm? `compress.repair` as it comes fits the layers, too, one after the other: each to what the original computes, on the inputs that the
# compressed network now gives it, by least squares, without labels or gradients (`repair = sequence` below; sweep `repair_study`). Then some epochs of training, as many for the dense network, since they may
# help that one, too (sweep `halve_study`). Accuracy in percent, on all test images:

# %% tags=["nbval-ignore-output"] jupyter={"outputs_hidden": true}
runs = on_record(profile="full", held_out=0)
if len(runs):
    runs = runs[runs.choice != "random"].assign(formats=runs.formats.map(" ".join))
    runs["repair"] = runs["repair"].fillna("batchnorm") if "repair" in runs else "batchnorm"
    groups = runs.groupby(["choice", "budget", "formats", "repair", "epochs", "lr"])
    display((100 * groups[["original_accuracy", *stages]].mean()).round(2).assign(seeds=groups.size()))
print(len(runs), "runs on record")

# %% [markdown]
# ## 7. Keep factors stable
#
# So far all factors came from SVDs: orthogonal, of bounded size. A CPD gives no such promise. Lesson 02 shows why terms grow and cancel, lesson 08 what their size costs in one layer and how `max_norm` and `decompose.correct_cp` bound it.
# Here: what the size *means*, exactly, and how large it gets in a whole network.
#
# As in lesson 08, the **size** of a CPD is the root of the sum of its terms' squared norms, over the norm of the tensor.
#
# **Proposition.** Multiply every entry of the $Q$ factors by $1 + \varepsilon z$, with independent $z$ of mean 0 and variance 1. Then the tensor $\hat{\mathcal X}$ moves by
#
# $$\mathrm E\, \| \hat{\mathcal X}' - \hat{\mathcal X} \|^2 = \big( (1 + \varepsilon^2)^Q - 1 \big) \sum_r \| \text{term}_r \|^2 \approx Q\, \varepsilon^2\, \text{size}^2\, \|\mathcal X\|^2 .$$
#
# *Proof.* An entry of a term is a product of $Q$ entries of factors. It keeps its mean, and its mean square grows by $(1 + \varepsilon^2)^Q$. Different terms use different columns, so their errors are uncorrelated and the variances add up. $\square$
#
# So terms may cancel in the sum, but their errors do not.


# %%
def shaken(found, strength):
    return torch.einsum(
        "r,ar,br,cr,dr->abcd", found.weights, *[f * (1 + strength * randn(*f.shape)) for f in found.factors]
    )


kernel = convs[layer].weight.detach().double()
found = decompose.cp(kernel[:16, :16], 12, max_iter=100, seed=seed)
strength = 0.02
moves = [float((shaken(found, strength) - found.to_tensor()).square().sum()) for _ in range(300)]
expected = ((1 + strength**2) ** 4 - 1) * float(found.weights.square().sum())
assert abs(np.mean(moves) / expected - 1) < 0.1
print("mean squared move of 300 draws = that of the formula, to a tenth")

# %% [markdown]
# At worst all errors point the same way. If each column moves by at most $\varepsilon$ of its norm, the triangle inequality gives $\|\hat{\mathcal X}' - \hat{\mathcal X}\| \le ((1 + \varepsilon)^Q - 1) \sum_r \|\text{term}_r\|$:

# %%
for strength in (0.01, 0.1, 0.5):
    moved = []
    for factor in found.factors:
        step = randn(*factor.shape)
        moved.append(factor + strength * step / step.norm(dim=0) * factor.norm(dim=0))
    distance = (torch.einsum("r,ar,br,cr,dr->abcd", found.weights, *moved) - found.to_tensor()).norm()
    assert distance <= ((1 + strength) ** 4 - 1) * found.weights.sum()
print("never beyond the bound")

# %% [markdown]
# How large do terms get, with the rank and with the time that ALS is given? **Predict:** does the size rise or fall when ALS iterates longer? And what does a bound cost in error?

# %%
kernel_norm = kernel.norm()


def described(found):
    error = float((found.to_tensor() - kernel).norm() / kernel_norm)
    return {"relative error": error, "size": float(found.weights.norm() / kernel_norm)}


# %%
cp_ranks, table = (16, 48, 96), {}
for rank in cp_ranks:
    for name, options in {"20 iterations": {"max_iter": 20}, "100 iterations": {"max_iter": 100}}.items():
        table[rank, name] = described(decompose.cp(kernel, rank, seed=seed, tol=1e-9, **options))
    bounded = decompose.cp(kernel, rank, seed=seed, tol=1e-9, max_iter=100, max_norm=1.5)
    table[rank, "size at most 1.5"] = described(bounded)
table = pd.DataFrame(table).T

# %% tags=["nbval-ignore-output"] jupyter={"outputs_hidden": true}
table.round(2)

# %%
for rank in cp_ranks:
    short, long, bounded = (table.loc[rank].loc[name] for name in table.loc[rank].index)
    assert long["relative error"] < short["relative error"]
    assert long["size"] > short["size"]
    assert bounded["size"] <= 1.5 + 1e-6
    assert bounded["relative error"] < 1.05 * long["relative error"]
print("longer: less error, larger terms; bounded: small terms, and an error within a twentieth of the unbounded")

# %% [markdown]
# A small gain in error is paid in size. (Until when? Lesson 02: sometimes there is no best approximation, and no end.) And on this kernel the payment was not needed: among CPDs of
# about the same error there are some of small terms, which the bound finds. (A part of that is work: the correction is a fit that goes on.) Now the network: the last seven kernels as CPDs, at half of their parameters,
# without a bound and with one; then the factors shaken, by as much as bfloat16 would round them, and by far more.


# %%
def all_cp(**options):
    small, sizes = copy.deepcopy(network), []
    for name in names[11:]:
        made = layers.factorize(convs[name], "cp", share=0.5, seed=seed, max_iter=30, **options)
        small.set_submodule(name, made)
        squares = torch.stack(
            [f.detach().flatten(1).norm(dim=1 if q < 3 else 0) for q, f in enumerate(made.factors())]
        ).prod(0)
        sizes.append(float(squares.norm() / convs[name].weight.detach().norm()))
    return small, sizes


# %%
unbounded, sizes = all_cp()
bounded, small_sizes = all_cp(max_norm=1.2)
print("factors of one layer:", *(tuple(f.shape) for f in unbounded.get_submodule(layer).factors()))

# %% tags=["nbval-ignore-output"] jupyter={"outputs_hidden": true}
fig, ax = plt.subplots()
ax.plot(sizes, range(len(sizes)), "o", label="no bound")
ax.plot(small_sizes, range(len(sizes)), "s", label="max_norm=1.2")
ax.set(yticks=range(len(sizes)), yticklabels=names[11:], xlabel="size of the terms", xlim=(0, None))
ax.set_title("Without a bound, the terms of all layers grow")
ax.legend(loc="upper left")
plt.show()

# %%
assert all(size <= 1.2 * (1 + 1e-4) for size in small_sizes)
assert all(small < large for small, large in zip(small_sizes, sizes, strict=True))
print("bounded in all layers, and smaller than without")


# %%
@torch.no_grad()
def shake(model, strength):
    """A copy whose CP factors are moved, entry by entry."""
    moved, noise = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    for name in names[11:]:
        for factor in moved.get_submodule(name).factors():
            factor.mul_(1 + strength * torch.randn(factor.shape, generator=noise))
    return moved


# %% tags=["nbval-ignore-output"] jupyter={"outputs_hidden": true}
table = {}
for name, small in {"no bound": unbounded, "max_norm=1.2": bounded}.items():
    repaired = compress.repair(small, network, held_out, fit=False)
    for strength in (0.0, 2**-8, 0.1, 0.2):
        table[name, f"{strength:.3f}"] = train.accuracy(shake(repaired, strength), part)
pd.Series(table).unstack().rename_axis(columns="relative change of each entry").round(3)

# %% [markdown]
# Compare along a row how much the shaking takes, and down a column what the bound costs to begin with. The rounding of bfloat16 is too small to matter at these sizes; in lesson 08, where they are larger, it
# mattered. At a tenth and more, as with few bits or large steps of training, the formula above says which network moves further, and by which factor.
#
# `compress.curves` knows the formats `cp` and `cp3`, too. It decomposes a layer at seven ranks, whose losses are bounds, since ALS may stop short of the best; between them it takes the logarithm of the loss as linear in the rank.
#
# ## Exercises
#
# ### 1. Warm-up: the rank for an energy (15 minutes)
#
# Given singular values in *any* order, return the smallest rank that keeps at least the share `energy` of their squared sum. `energy` may be 1, some values may be 0, and all of them may be: then the rank is 0.
# Mind rounding: four values of 1 keep exactly half with two.


# %%
def rank_for_energy(singular_values, energy):
    return ...


check.rank_for_energy(rank_for_energy)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Sort. A sum that should be 1 may come out as 1 minus a rounding error: allow for a few of them.
# </details>
# <details><summary>Solution</summary>
#
# In the [solutions](solutions/12_choose_ranks.ipynb), section 1.
# </details>

# %% [markdown]
# ### 2. Core: the lower hull of a curve (25 minutes)
#
# Candidates of a layer have `costs` and `losses`, in any order. Return the indices of those that some price $\lambda \ge 0$ can pick as the *only* best one: the corners of the lower convex hull, from the
# dearest to the cheapest. A dear candidate with no less loss than a cheaper one is never picked. No two candidates have the same cost and loss; a candidate on the line between two others is no corner.


# %%
def lower_hull(costs, losses):
    return ...


check.lower_hull(lower_hull)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Go through the candidates from cheap to dear. When a new one is added, does the corner before it still lie below the line from its predecessor to the new one? If not, remove it, and ask again.
# </details>
# <details><summary>Solution</summary>
#
# In the [solutions](solutions/12_choose_ranks.ipynb), section 2.
# </details>

# %% [markdown]
# ### 3. Stretch: the exact optimum (25 minutes)
#
# `losses` and `costs` have a list for each layer, costs are positive integers. Return the indices, one a layer, of least total loss whose costs sum to at most `room`. (Some choice does.) Trying all of them is not possible:
# the check has 30 layers of eight candidates.


# %%
def least_loss(losses, costs, room):
    return ...


check.least_loss(least_loss)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Go layer by layer, and keep what can be reached: for each total cost so far, the least loss, and how it was reached. Two partial choices of equal cost have the same future.
# </details>
# <details><summary>Solution</summary>
#
# In the [solutions](solutions/12_choose_ranks.ipynb), section 3.
# </details>

# %% [markdown]
# ## Summary
#
# - Energy is a rule for one matrix. The same share in all layers does unequal damage.
# - VBMF finds the rank of a low-rank matrix in white noise, and waits until it is sure. A trained kernel is no such matrix: its spectrum has no edge. The ranks stay below break-even by construction.
# - The error of outputs is that of the kernel in the norm of the inputs' second moment. Judge it on images that nothing was fitted to.
# - Measured sensitivities are dear, and their sum is not the joint loss.
# - A price for MACs splits the network into layers. Each price proves a bound, and the best choice lies between two neighbours.
# - No price picks a rank near break-even: stay dense, or go clearly below.
# - Compare error measures at equal MACs, with intervals.
# - The size of CP terms is the factor between a relative change of the factors and that of the tensor.
#
# ## Further reading
#
# - S. Nakajima, M. Sugiyama, S. D. Babacan, R. Tomioka, *Global analytic solution of fully-observed variational Bayesian matrix factorization*, JMLR 14, 2013.
# - S. Nakajima, R. Tomioka, M. Sugiyama, S. D. Babacan, *Condition for perfect dimensionality recovery by variational Bayesian PCA*, JMLR 16, 2015.
# - M. Wax, T. Kailath, *Detection of signals by information theoretic criteria*, IEEE Trans. ASSP 33, 1985.
# - V. A. Marchenko, L. A. Pastur, *Distribution of eigenvalues for some sets of random matrices*, Math. USSR-Sbornik 1, 1967; S. Geman, *A limit theorem for the norm of random matrices*, Ann. Probab. 8, 1980.
# - F. Benaych-Georges, R. R. Nadakuditi, *The singular values and vectors of low rank perturbations of large rectangular random matrices*, J. Multivariate Anal. 111, 2012.
# - Y.-D. Kim et al., [*Compression of deep convolutional neural networks for fast and low power mobile applications*](https://arxiv.org/abs/1511.06530), ICLR 2016: ranks by VBMF.
# - X. Zhang, J. Zou, K. He, J. Sun, [*Accelerating very deep convolutional networks for classification and detection*](https://arxiv.org/abs/1505.06798), 2015: outputs instead of weights.
# - H. Everett, *Generalized Lagrange multiplier method for solving problems of optimum allocation of resources*, Operations Research 11, 1963; A. M. Geoffrion, *Lagrangean relaxation for integer programming*, 1974.
# - J. T. Schuurmans, K. Batselier, J. F. P. Kooij, [*How informative is the approximation error from tensor decomposition for neural network compression?*](https://openreview.net/forum?id=sKHqgFOaFXI), ICLR 2023.
# - A.-H. Phan et al., [*Stable low-rank tensor decomposition for compression of convolutional neural network*](https://arxiv.org/abs/2008.05441), ECCV 2020.

# %% [markdown]
# Previous: [11 review the state of the art](11_review_the_state_of_the_art.ipynb) · Next: [13 compare representations](13_compare_representations.ipynb) · [Solutions](solutions/12_choose_ranks.ipynb) · [Glossary](GLOSSARY.md)
