# %% [markdown]
# # Reproduce Lebedev et al. 2015: convolutions of a character network, each as four thin ones
#
# **What you'll do.** Take a network that reads characters, find its dear layers, and turn each into four cheap ones. Fit the
# decomposition greedily, by ALS and by non-linear least squares, and see what each is worth. Tame terms that
# cancel. Then follow the paper's procedure: replace, fine-tune, replace, fine-tune, measure.
#
# **What you'll learn.** Why one term at a time is the wrong way to a CPD, with proof. How a Gauss-Newton step is made of small
# matrices. What "8.5 times faster at one point of accuracy" means, what it needs, and how far two cores get.
#
# **What you need first.** Notebooks 02, 06 and 07: CPD, ALS, degeneracy; layers made of factors; latency.
#
# **Time.** 135 minutes: 55 to read text and code, 80 for the exercises. Run All takes two minutes; with `"full"` it needs all of
# `chars36` and takes a quarter of an hour.
# **Difficulty.** Medium.
#
# Previous: [07 measure what it costs](07_measure_what_it_costs.ipynb) · Next: [09 reproduce Novikov](09_reproduce_novikov.ipynb) · [Solutions](solutions/08_reproduce_lebedev.ipynb) · [Glossary](GLOSSARY.md)

# %% tags=["parameters"]
profile: str = "quick"  # "quick": committed images, short fits; "full": all images, longer fits
rank: int = 64  # at least 1; of both replaced layers
epochs: int = 2  # at least 0; of fine-tuning after each replacement, on the committed images in "quick"
image_folder: str = ""  # a folder of your own with subfolders 0 to 9 and A to Z that hold pictures; empty: none
seed: int = 0  # decides every random tensor, start and order

# %%
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from IPython.display import display

from tnlib import characters, check, data, decompose, layers, measure, models, paths, plots, study, train

plots.use_style()
MEANT = {
    "parameters": ["method", "rank", "first_rank", "max_norm", "tune", "lr"],
    "metrics": "test_images dense_accuracy conv2_accuracy conv3_raw_accuracy accuracy conv3_norm relative_params".split()
    + "relative_macs error norm raw_accuracy raw_accuracy_bfloat16 diverged".split(),
}  # what the tables below show of the records
generator = torch.Generator().manual_seed(seed)
subset, nls_iter, als_iter = {"quick": ("embedded", 25, 100), "full": ("full", 100, 500)}[profile]


# %%
def normal(*shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


# %% [markdown]
# ## The question
#
# Lebedev, Ganin, Rakhuba, Oseledets and Lempitsky asked in 2015 whether a trained convolution can be replaced by its CPD. These are
# their claims, with how sure we are of each: *abstract* means read in the paper's abstract, *secondary* reported to us and
# not re-read in the source.

# %%
claims = pd.read_csv(paths.REFERENCE / "lebedev2015.csv")
claims[["claim", "value", "unit", "certainty"]].fillna("")

# %% [markdown]
# All else that this lesson says of the paper is secondary, too.
#
# The authors' images of characters are not to be had, nor are their weights. So the data here are ours: `chars36`, drawn from
# free fonts and distorted until the network errs about as often as theirs did. No family of fonts is in both
# splits. The network is theirs, Jaderberg et al. 2014's.

# %%
test = data.load("chars36", "test", subset)
training = data.load("chars36", "train", subset)
fig, ax = plt.subplots(figsize=(9, 2.1))
rows_of_images = test.images[:108, 0].numpy().reshape(3, 36, 24, 24)
ax.imshow(rows_of_images.transpose(0, 2, 1, 3).reshape(3 * 24, 36 * 24), cmap="gray")
ax.set_axis_off()
ax.set_title("What the network has to read")
plt.show()

# %% [markdown]
# Four convolutions, all of them without padding. After each, *maxout*: the largest of 2 or 4 channels.

# %%
network = models.load("charnet-chars36")
assert sum(p.numel() for p in network.parameters()) == 2_621_904
network

# %% tags=["nbval-ignore-output"]
dense_accuracy = train.accuracy(network, test)
print(f"accuracy on {len(test)} test images: {dense_accuracy:.1%}")

# %% [markdown]
# **Predict** which layer costs most: the first sees the largest image, the third has 80 % of the parameters.

# %% jupyter={"outputs_hidden": true}
shape = (1, *test.images.shape[1:])
convs = {name: module for name, module in network.named_children() if name.startswith("conv")}
positions = {"conv1": 16 * 16, "conv2": 8 * 8, "conv3": 1, "conv4": 1}
counts = pd.DataFrame(
    {
        "kernel": {name: " x ".join(map(str, conv.weight.shape)) for name, conv in convs.items()},
        "parameters": {name: sum(p.numel() for p in conv.parameters()) for name, conv in convs.items()},
        "MACs": {name: conv.weight.numel() * positions[name] for name, conv in convs.items()},
    }
)
assert counts.MACs.sum() == measure.cost(network, shape).macs
counts["share of the MACs"] = (counts.MACs / counts.MACs.sum()).map("{:.1%}".format)
counts

# %% [markdown]
# The second layer has nine tenths of the multiplications, the third four fifths of the weights. These two are replaced.
#
# **A folder of your own?** With `image_folder` the network reads it, too.

# %%
if image_folder:
    own, labels = characters.read_folder(Path(image_folder))
    guesses = network(torch.from_numpy(own)).argmax(1).numpy()
    print(f"your {len(own)} images: {np.mean(guesses == labels):.1%} right")

# %% [markdown]
# ## One convolution becomes four
#
# A convolution computes, at output channel $t$ and position $(x, y)$,
#
# $$v_{t x y} = \sum_{s, i, j} k_{t s i j}\, u_{s,\, x + i,\, y + j} .$$
#
# Put in a CPD, $k_{tsij} = \sum_r a^T_{tr} a^S_{sr} a^H_{ir} a^W_{jr}$, and move each sum inwards as far as it goes:
#
# $$v_{t x y} = \sum_r a^T_{tr} \Big( \sum_j a^W_{jr} \Big( \sum_i a^H_{ir} \Big( \sum_s a^S_{sr}\, u_{s,\, x + i,\, y + j} \Big) \Big) \Big) .$$
#
# From the inside: mix the $S$ channels to $R$ ($1 \times 1$); filter each of the $R$ for itself down the columns ($k_h \times 1$), then along the
# rows ($1 \times k_w$); mix $R$ to $T$ ($1 \times 1$).


# %%
def four_convolutions(u, factors):
    out, inp, high, wide = factors
    rank = out.shape[1]
    u = F.conv2d(u, inp.T[:, :, None, None])
    u = F.conv2d(u, high.T[:, None, :, None], groups=rank)
    u = F.conv2d(u, wide.T[:, None, None, :], groups=rank)
    return F.conv2d(u, out[:, :, None, None])


# %%
sizes = (5, 4, 3, 2)
factors = [normal(n, 6) for n in sizes]
u = normal(2, 4, 9, 8)
kernel = torch.einsum("tr,sr,ir,jr->tsij", *factors)
assert torch.allclose(four_convolutions(u, factors), F.conv2d(u, kernel))

# %% [markdown]
# On an $h \times w$ image with $h' \times w'$ outputs this takes $R\,(S\, h w + k_h\, h' w + k_w\, h' w' + T\, h' w')$ MACs, instead of
# $T S k_h k_w\, h' w'$. Mind the first two stages: they run before the windows have made the image smaller.


# %%
def cp_macs(conv, image, rank):
    T, S, k, _ = conv.weight.shape
    out = image - k + 1
    return rank * (S * image**2 + k * out * image + k * out**2 + T * out**2)


# %%
small = layers.factorize(network.conv2, "cp", rank, weights="fresh")
assert measure.cost(small, (1, 48, 16, 16)).macs == cp_macs(network.conv2, 16, rank)
times_fewer = {
    name: counts.MACs[name] / cp_macs(convs[name], image, rank) for name, image in (("conv2", 16), ("conv3", 8))
}
print("times fewer MACs:", {name: round(float(value), 1) for name, value in times_fewer.items()})

# %% [markdown]
# ## Not one term at a time
#
# A good approximation of rank one is easy to find: ALS with one term. (The best one is hard to find in general, Hillar and Lim 2013.) Why not
# take it away, approximate what is left, and so on? For matrices this *is* the SVD. The paper names it as the baseline
# that non-linear least squares beats.
#
# **Proposition.** Let $\mathbf a, \mathbf c$ be unit vectors with $0 < |\rho| < 1$ for $\rho = \mathbf a^\top \mathbf c$, and
# $\mathcal X = \mathbf a \circ \mathbf a \circ \mathbf a + \mathbf c \circ \mathbf c \circ \mathbf c$. No best approximation of $\mathcal X$ of rank one leaves a remainder of rank one.
#
# *Proof.* $\mathcal X$ has rank 2: it is a sum of two terms, and each of its unfoldings has rank 2. The CPD with two terms is unique, by Kruskal's condition
# ($2 + 2 + 2 \ge 2 \cdot 2 + 2$). If a remainder had rank one, it and the approximation would be a CPD of two terms, so the
# approximation would be one of the two, $\mathbf a \circ \mathbf a \circ \mathbf a$ say. But a best approximation is
# $\lambda\, \mathbf u \circ \mathbf v \circ \mathbf w$ with unit vectors at which $\langle \mathcal X, \mathbf u \circ \mathbf v \circ \mathbf w \rangle$ is stationary. There the gradient by $\mathbf u$,
# which is $\mathbf a + \rho^2 \mathbf c$ at $\mathbf u = \mathbf v = \mathbf w = \mathbf a$, is a multiple of $\mathbf u = \mathbf a$. It is not: $\rho \ne 0$ and $\mathbf c$ is not parallel to $\mathbf a$. $\square$
#
# The proof uses no more than stationarity, so it holds for whatever ALS converges to, as well.

# %%
a, c = torch.tensor([1.0, 0.0], dtype=torch.float64), torch.tensor([0.6, 0.8], dtype=torch.float64)
two = torch.einsum("i,j,k->ijk", a, a, a) + torch.einsum("i,j,k->ijk", c, c, c)
gradient = torch.einsum("ijk,j,k->i", two, a, a)
assert torch.allclose(gradient, a + (a @ c) ** 2 * c)
assert abs(torch.linalg.det(torch.stack([gradient, a]))) > 0.1  # not parallel to a


# %%
def relative_error(found, tensor):
    return float((found.to_tensor() - tensor).norm() / tensor.norm())


# %%
for terms in (1, 2, 3, 4):
    greedy = relative_error(decompose.greedy_cp(two, terms, max_iter=1000, tol=1e-13, seed=seed), two)
    together = relative_error(decompose.cp(two, terms, method="nls", tol=1e-14, restarts=3, seed=seed), two)
    print(f"{terms} terms: greedy {greedy:.3f}, together {together:.3f}")
    assert greedy > 1e-3
    assert terms == 1 or together < 1e-6

# %% [markdown]
# One term: the same. Two: together the fit is exact, greedy is not, and does not become so with four (two is proved, three
# and four are measured). The first term sits between the two true ones, and the others spend themselves on making up for it.
#
# ## All factors at once
#
# Lebedev et al. fit by *non-linear least squares*. You know the method from lesson 02; here it is again in small. Let $\boldsymbol\theta$ be all
# factors in one vector and $\mathbf r(\boldsymbol\theta)$ the residual, the model's entries minus the tensor's. Near $\boldsymbol\theta$ it is
# $\mathbf r + \mathbf J \mathbf d$ for a step $\mathbf d$, $\mathbf J$ the Jacobian. Least squares for the step, and a damping $\lambda$ that keeps it short while
# this model is poor (Levenberg 1944, Marquardt 1963):
#
# $$(\mathbf J^\top \mathbf J + \lambda \mathbf I)\, \mathbf d = - \mathbf J^\top \mathbf r .$$

# %% [markdown]
# The derivative of $x_{ijk} = \sum_r a_{ir} b_{jr} c_{kr}$ by $a_{lr}$ is $b_{jr} c_{kr}$ where $i = l$, else 0; and so for the other factors.


# %%
def entries(factors):
    return torch.einsum("ir,jr,kr->ijk", *factors)


def jacobian(factors):
    blocks = []
    for n, factor in enumerate(factors):
        eye, names = torch.eye(len(factor), dtype=factor.dtype), ["ir", "jr", "kr"]
        names[n] = names[n][0] + "l"
        parts = [eye if m == n else other for m, other in enumerate(factors)]
        blocks.append(torch.einsum(f"{','.join(names)}->ijklr", *parts).reshape(-1, factor.numel()))
    return torch.cat(blocks, 1)


# %%
small_factors, step = [normal(n, 2) for n in (4, 3, 2)], 1e-6
nudged = [factor.clone() for factor in small_factors]
nudged[1][2, 1] += step  # unknown number 8 + 2 * 2 + 1
slope = (entries(nudged) - entries(small_factors)).flatten() / step
assert torch.allclose(jacobian(small_factors)[:, 13], slope, atol=1e-5)


# %%
def damped_gauss_newton(tensor, factors, steps):
    damping, errors, sizes = 1.0, [], [f.numel() for f in factors]
    for _ in range(steps):
        r, J = (entries(factors) - tensor).flatten(), jacobian(factors)
        d = torch.linalg.solve(J.T @ J + damping * torch.eye(J.shape[1], dtype=J.dtype), -J.T @ r)
        moved = [f + part.view(f.shape) for f, part in zip(factors, d.split(sizes), strict=True)]
        if (entries(moved) - tensor).norm() < r.norm():  # accept, and trust the linear model more
            factors, damping = moved, damping / 5
        else:
            damping *= 4
        errors.append(float((entries(factors) - tensor).norm() / tensor.norm()))
    return errors


# %%
def als(tensor, factors, iterations):
    factors, errors, letters = list(factors), [], "ijk"
    for _ in range(iterations):
        for n in range(3):
            (m, left), (k, right) = [(letters[m], factors[m]) for m in range(3) if m != n]
            mttkrp = torch.einsum(f"ijk,{m}r,{k}r->{letters[n]}r", tensor, left, right)
            factors[n] = mttkrp @ torch.linalg.pinv((left.T @ left) * (right.T @ right), hermitian=True)
        errors.append(float((entries(factors) - tensor).norm() / tensor.norm()))
    return errors


# %% [markdown]
# A tensor of three nearly parallel terms, eight random starts, the same for both. **Predict** what 60 steps of each make of them.

# %% tags=["nbval-ignore-output"]
base, cosine = torch.linalg.qr(normal(8, 4)).Q, 0.9
columns = base[:, :1] * cosine**0.5 + base[:, 1:] * (1 - cosine) ** 0.5  # of norm 1, pairwise cosine 0.9
tensor = entries([columns] * 3)
starts = [[normal(8, 3) for _ in range(3)] for _ in range(8)]
runs = {fit: np.array([fit(tensor, start, 60) for start in starts]) for fit in (als, damped_gauss_newton)}
assert (runs[damped_gauss_newton][:, -1] < 1e-8).sum() >= 6
assert runs[als][:, -1].min() > 1e-4
print((runs[damped_gauss_newton][:, -1] < 1e-8).sum(), "of 8 starts of Gauss-Newton end at rounding error")

# %% jupyter={"outputs_hidden": true}
fig, ax = plt.subplots()
for errors, name, color in zip(runs.values(), ("ALS", "Gauss-Newton"), ("#D55E00", "#0072B2"), strict=True):
    ax.semilogy(range(1, 61), errors.clip(1e-12).T, color=color, alpha=0.6)
    ax.text(61, max(np.median(errors[:, -1]), 1e-12), name, color=color, va="center")
ax.set(xlabel="step, or ALS iteration", ylabel="relative error", xlim=(0, 78), xticks=range(0, 61, 10))
ax.set_title("Nearly parallel terms: ALS crawls from every start")
plt.show()

# %% [markdown]
# Gauss-Newton reaches rounding error from all starts, or from all but one (try `seed=3`): it is a local method, too, and a start
# may get stuck. That is what several starts are for.
#
# A step of ALS is far cheaper than one with the Jacobian. For a kernel $\mathbf J$ would not even fit: `conv2` has half a million entries and,
# at rank 64, 12,416 unknowns, which makes 49 GB. Two things save the method. The right side $\mathbf J^\top \mathbf r$ is an MTTKRP of the residual in every
# mode, and $\mathbf J^\top \mathbf J$ times a vector needs products with factors and $R \times R$ Gram matrices only (exercise 4); conjugate
# gradients ask for nothing else. And a step need not be exact, since the next one corrects it. `decompose.cp(..., method="nls")`
# does so, after a few iterations of ALS.
#
# **Predict** the order of the three methods on the trained kernel, and how much lies between them.

# %% tags=["nbval-ignore-output"] jupyter={"outputs_hidden": true}
kernel = network.conv2.weight.detach().double()
ranks = (8, 16, 32) if profile == "quick" else (16, 32, 64, 128)
fits, rows = {}, []
for R in ranks:
    for method, iterations in (("greedy", 30), ("als", als_iter), ("nls", nls_iter)):
        begin = time.perf_counter()
        fits[method, R] = decompose.cp(kernel, R, method=method, max_iter=iterations, seed=seed)
        seconds = time.perf_counter() - begin
        rows.append({"rank": R, "method": method, "error": relative_error(fits[method, R], kernel), "seconds": seconds})
    print(f"rank {R}: done")
kernel_fits = pd.DataFrame(rows)

# %% tags=["nbval-ignore-output"] jupyter={"outputs_hidden": true}
kernel_fits.pivot(index="rank", columns="method", values=["error", "seconds"]).round(3)

# %%
worst = kernel_fits.pivot(index="rank", columns="method", values="error")
assert (worst.greedy > worst.nls).all()
assert worst.greedy.iloc[-1] / worst.nls.iloc[-1] > worst.greedy.iloc[0] / worst.nls.iloc[0]

# %% [markdown]
# Greedy loses more the more terms there are. Between ALS and NLS it depends on how long you wait: both lower the same function.
# A benchmark that waits longer, on four kernels, stands below.
#
# ## Terms that cancel
#
# Lesson 02 warned: a good fit may consist of large terms that cancel. Their *size*, we say, is the root of the sum of their squared norms, over
# the norm of the kernel.
#
# **Predict** the size for each method. One of the three cannot exceed 1.

# %%
R = ranks[-1]
kernel_norm = kernel.norm()


def size_of_terms(found):
    return float(found.weights.norm() / kernel_norm)


# %% tags=["nbval-ignore-output"]
print({method: round(size_of_terms(fits[method, R]), 2) for method in ("greedy", "als", "nls")})

# %% [markdown]
# Greedy terms cannot cancel: each is an orthogonal projection of what is left, so that the squared norms of all terms and of the last
# residual add up to the kernel's.

# %%
greedy = fits["greedy", R]
assert abs(size_of_terms(greedy) ** 2 + relative_error(greedy, kernel) ** 2 - 1) < 1e-6
assert size_of_terms(fits["nls", R]) > size_of_terms(greedy)

# %% [markdown]
# Does it matter? The sum of the terms is a good kernel. But each factor is a layer now, and a rounding or a step of training
# changes whole terms. A relative change of $\varepsilon$ in a term changes the kernel by $\varepsilon$ times that term's norm. In float32
# $\varepsilon$ is $6 \cdot 10^{-8}$, and nobody notices. In bfloat16, in which GPUs and recent CPUs train fast, it is $2^{-8}$, or $4 \cdot 10^{-3}$.
#
# Phan et al. 2020 *correct* such a fit: among CPDs of at most a given error, take one of small terms. With all
# factors but one fixed, their columns at norm one, the squared norm of the free factor is the sum over the terms: a ridge regression.
# Its one parameter follows from the error that is allowed, or from the size that is. `correct_cp` goes through the modes until nothing moves.

# %%
long_fit = decompose.cp(kernel, rank, method="nls", max_iter=100, tol=1e-7, seed=seed)
fitted = relative_error(long_fit, kernel)
versions = {
    "fitted": long_fit,
    "same error": decompose.correct_cp(kernel, long_fit, max_iter=50),
    "size at most 5": decompose.correct_cp(kernel, long_fit, max_norm=5, max_iter=50),
    "1 % more error": decompose.correct_cp(kernel, long_fit, rel_error=1.01 * fitted, max_iter=50),
}
print("four CPDs of", rank, "terms")

# %% [markdown]
# How far does rounding the factors to bfloat16 move the kernel? By less than $(1 + \varepsilon)^4 - 1$ times the sum of the terms' norms, by
# the triangle inequality: each entry of a term is a product of five numbers, of which the four of the factors are rounded.


# %%
def moved_by_rounding(found):
    rounded = [factor.bfloat16().double() for factor in found.factors]
    moved = found.to_tensor() - torch.einsum("r,tr,sr,ir,jr->tsij", found.weights, *rounded)
    assert moved.norm() < ((1 + 2**-8) ** 4 - 1) * found.weights.sum()
    return float(moved.norm() / kernel_norm)


# %% [markdown]
# Each version as a layer: the four convolutions above, the weights spread evenly over the factors. **Predict** what share of the images
# the network reads with each, in float32 and in bfloat16.


# %%
def as_layer(conv, found):
    out, inp, high, wide = (factor.float() * found.weights.float() ** 0.25 for factor in found.factors)
    stages = [inp.T[:, :, None, None], high.T[:, None, :, None], wide.T[:, None, None, :], out[:, :, None, None]]
    return layers.CPConv.from_factors(stages, like=conv)


# %%
def reads(found, sample):
    model = models.load("charnet-chars36")
    model.conv2 = as_layer(model.conv2, found)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = train.accuracy(model, sample)
    return {"read in float32": train.accuracy(model, sample), "read in bfloat16": rounded}


# %%
sample, table = test.sample(720, seed), {}
for name, found in versions.items():
    table[name] = {"relative error": relative_error(found, kernel), "size of the terms": size_of_terms(found)}
    table[name] |= {"moved by rounding": moved_by_rounding(found), **reads(found, sample)}
table = pd.DataFrame(table)

# %% tags=["nbval-ignore-output"] jupyter={"outputs_hidden": true}
table.round(3)

# %%
assert table.loc["relative error", "same error"] < fitted * 1.00001
assert table.loc["size of the terms", "same error"] <= table.loc["size of the terms", "fitted"] * 1.00001
assert table.loc["size of the terms", "size at most 5"] <= 5.00001
assert table.loc["relative error", "1 % more error"] < 1.01001 * fitted

# %% [markdown]
# Nearly the same error, but not the same kernel. What a correction costs in float32, if anything, and what it saves in bfloat16
# stand side by side: compare before you choose. `decompose.cp(..., max_norm=5)`
# bounds the terms in one go, and so does `layers.factorize` with that option.
#
# An error of two thirds, and the network still reads: how can that be? The kernel's norm counts all directions, also those that no image
# excites. The layer's outputs do not:

# %% tags=["nbval-ignore-output"]
with torch.no_grad():
    inputs = network[:3](test.images[:200])
    outputs = F.conv2d(inputs, network.conv2.weight)
    off = F.conv2d(inputs, versions["size at most 5"].to_tensor().float()) - outputs
print(
    f"relative error of the kernel {table.loc['relative error', 'size at most 5']:.2f}, of the outputs {off.norm() / outputs.norm():.2f}"
)

# %% [markdown]
# Does it matter for *training* in float32, too, as Phan et al. 2020 report? The experiment
# [tune_bounded_terms](experiments/tune_bounded_terms.ipynb) tunes all weights and factors after the second layer was replaced, for a
# hundred steps, with the terms as fitted (`max_norm` 0) and bounded; no gradient is shortened there, as it is in the study below. *Diverged* means: the loss is not finite, or less than half
# as many images are read as before. **Predict** at which learning rate that happens, without the bound and with it.

# %% tags=["nbval-ignore-output"] jupyter={"outputs_hidden": true}
short = {f"{kind}.{name}": name for kind, names in MEANT.items() for name in names}
tuned = study.results("tune-bounded-terms")
tuned = tuned[tuned["parameters.profile"] == "full"].rename(columns=short) if len(tuned) else tuned
if len(tuned):
    display(tuned.groupby("max_norm")[["error", "norm", "raw_accuracy", "raw_accuracy_bfloat16"]].mean().round(3))
    by_rate = tuned.groupby(["lr", "max_norm"]).agg(
        seeds=("seed", "size"), diverged=("diverged", "sum"), accuracy=("accuracy", "mean"), lowest=("accuracy", "min")
    )
    display(by_rate.unstack("max_norm").round(3))
else:
    print("no run is on record: tnlib sweep bounded_terms")

# %% [markdown]
# ## The paper's procedure, live
#
# Replace the second layer, fine-tune the others; replace the third, fine-tune the others again: in float32, since rounding costs a CPD with
# large terms accuracy already in reading. (The abstract speaks of fine-tuning the *entire* network; that the new layers are
# held is reported to us. The study has both.) Here with few images, few epochs, and so a smaller learning rate than the study's.


# %%
def fine_tune(model, fixed, step):
    for module in fixed:
        module.requires_grad_(False)
    torch.manual_seed(seed + step)  # dropout knows no other generator
    if epochs:
        recipe = train.Recipe(epochs=epochs, lr=0.001, warmup=0.1, padding=2, flip=False, clip=2.0, seed=seed + step)
        train.fit(model, training, recipe, device="cpu", precision="float32")
    model.to(memory_format=torch.contiguous_format).requires_grad_(True)


# %% tags=["nbval-ignore-output"]
compressed, accuracies = models.load("charnet-chars36"), {"dense": dense_accuracy}
for step, name in enumerate(("conv2", "conv3")):
    conv = compressed.get_submodule(name)
    compressed.set_submodule(name, layers.factorize(conv, "cp", rank, method="nls", max_iter=nls_iter, seed=seed))
    accuracies[f"{name} replaced"] = train.accuracy(compressed, test)
    fine_tune(compressed, [compressed.get_submodule(n) for n in ("conv2", "conv3")[: step + 1]], step)
    accuracies[f"{name} replaced, then tuned"] = train.accuracy(compressed, test)
    print(f"{name}: done")
pd.Series(accuracies, name="accuracy").map("{:.1%}".format).to_frame()

# %%
small, dense = measure.cost(compressed, shape), measure.cost(network, shape)
print(f"times fewer parameters: {dense.params / small.params:.1f}; times fewer MACs: {dense.macs / small.macs:.1f}")
assert small.macs == counts.MACs[["conv1", "conv4"]].sum() + sum(
    cp_macs(convs[n], i, rank) for n, i in (("conv2", 16), ("conv3", 8))
)

# %% [markdown]
# Fewer MACs are not less time (lesson 07). Frozen for use, one image, one thread; as they are called from Python, and as
# TorchScript graphs, since in so small a network the interpreter takes a good part of the time. Compare CP with the faster dense
# one. **Predict** both ratios.


# %% tags=["nbval-ignore-output"]
threads, image = torch.get_num_threads(), test.images[:1]
torch.set_num_threads(1)
frozen = {name: layers.freeze(m, image, fixed=True) for name, m in (("dense", network), ("CP", compressed))}
frozen["dense, channels last"] = layers.freeze(network, image, fixed=True).to(memory_format=torch.channels_last)
print("from Python:", measure.compare(frozen, image), sep="\n")
print("as graphs:", measure.compare({name: layers.graph(f, image) for name, f in frozen.items()}, image), sep="\n")
torch.set_num_threads(threads)

# %% [markdown]
# How is a filter of nine weights run at speed? Not as a convolution: on many CPUs a *depthwise* convolution runs far below the speed of a
# product of matrices. For one small image, `freeze` writes the filters along an axis as $R$ band matrices and multiplies by these,
# zeros included: 16 MACs an output instead of 9.

# %%
filters, length = compressed.conv2[1].weight.detach().flatten(1), 16
band = torch.zeros(rank, length - 8, length)
for offset in range(length - 8):
    band[:, offset, offset : offset + 9] = filters
maps = normal(1, rank, length, length).float()
assert torch.allclose(torch.bmm(band, maps[0]), F.conv2d(maps, filters[:, None, :, None], groups=rank)[0], atol=1e-4)
in_use = layers.freeze(compressed.conv2, torch.zeros(1, 48, 16, 16))
assert rank == 1 or torch.allclose(in_use.down, band)  # of one channel, a convolution is no depthwise one
print("the band matrices of a rank, times a column of pixels:", tuple(band.shape))

# %% tags=["nbval-ignore-output"]
depthwise = lambda: F.conv2d(maps, filters[:, None, :, None], groups=rank)  # noqa: E731
print(measure.compare({"depthwise": depthwise, "bands": lambda: torch.bmm(band, maps[0])}))

# %%
print(f"the first layer's share of the MACs left: {counts.MACs['conv1'] / small.macs:.0%}")

# %% [markdown]
# At rank 64 more than half of what is left is the first layer's, which the paper does not touch (exercise 2).
#
# ## The study
#
# The experiment [replace_character_layers](experiments/replace_character_layers.ipynb) is this procedure with all images, the sweep `character_study`
# its list of runs: methods, ranks, seeds, and the control, a *dense* network that is fine-tuned as long. Without it, a gain
# may be the epochs'. It spends two epochs at the learning rate of the paper's two layers, and controls these runs only. `conv3_raw` is the
# accuracy before the last fine-tuning, `norm` the size of the third layer's terms.
#
# **Predict** the smallest rank within a point of the original, and whether the control gains.

# %% tags=["nbval-ignore-output"] jupyter={"outputs_hidden": true}
records = study.results("replace-character-layers")
records = records[records["parameters.profile"] == "full"].rename(columns=short) if len(records) else records
if len(records):
    records.loc[records.method == "dense", "rank"] = 0
    groups = records.groupby(["method", "rank", "first_rank", "max_norm", "tune", "lr"])
    columns = ["conv2_accuracy", "conv3_raw_accuracy", "accuracy", "conv3_norm", "relative_params", "relative_macs"]
    summary = groups[columns].mean().round(4)
    display(summary.assign(lowest=groups.accuracy.min(), highest=groups.accuracy.max(), seeds=groups.size()))
else:
    print("no run is on record: tnlib sweep character_study")


# %%
def on_record(**wanted):
    return records[(records[list(wanted)] == pd.Series(wanted)).all(axis=1)] if len(records) else records


paper = {"method": "nls", "first_rank": 0, "max_norm": 0.0, "tune": "rest"}
of_rank, control = on_record(**paper), on_record(method="dense")

# %% tags=["nbval-ignore-output"] jupyter={"outputs_hidden": true}
if len(of_rank) and len(control):
    scores = (100 * of_rank.set_index("rank").accuracy).groupby("rank").agg(["mean", "min", "max"])
    fig, ax = plt.subplots()
    bars = [scores["mean"] - scores["min"], scores["max"] - scores["mean"]]
    ax.errorbar(scores.index, scores["mean"], bars, marker="o")
    ends = {"the original": records.dense_accuracy.iloc[0], "dense, tuned as long": control.accuracy.mean()}
    for (name, value), line in zip(ends.items(), ("-", ":"), strict=True):
        ax.axhline(100 * value, color="#666666", linestyle=line, label=name)
    ax.set(xscale="log", xlabel="rank of both layers", ylabel="test accuracy in percent")
    ax.set_xticks(scores.index, labels=scores.index)
    ax.minorticks_off()
    ax.legend(loc="lower right")
    ax.set_title("Accuracy by rank (bars: lowest and highest seed)")
    plt.show()

# %% [markdown]
# Times are the benchmark [bench_characters](experiments/bench_characters.ipynb)'s, each network frozen, the dense one in the faster of
# its two memory formats:

# %% tags=["nbval-ignore-output"]
bench = study.results("bench-characters")
bench = bench[bench["parameters.profile"] == "full"] if len(bench) else bench
if len(bench):
    times = pd.DataFrame(bench.iloc[-1]["metrics.times"])
    cases = ["batch", "threads", "called"]
    print("times faster, on", bench.iloc[-1]["machine.cpu"])
    display(times.pivot_table(index=["rank", "first_rank"], columns=cases, values="speedup").round(1))
    names = [("dense_ms", "dense, ms"), ("ms", "CP, ms"), ("speedup", "times faster")]
    single = {
        f"conv{k} alone": {name: bench.iloc[-1][f"metrics.conv{k}_{key}"] for key, name in names} for k in (1, 2, 3)
    }
    display(pd.DataFrame(single).round(2))
else:
    print("no run is on record: tnlib run bench_characters --profile full")

# %% [markdown]
# Beside the paper. *Ours* is a mean over the seeds on record, with the lowest and the highest.


# %%
def spread(values):
    return f"{100 * values.mean():.1f} ({100 * values.min():.1f} to {100 * values.max():.1f})"


# %%
lines, runs_of = (
    [],
    {"replaced: layers 2 and 3": on_record(**paper, rank=64), "the control: dense, tuned as long": control},
)
runs_of["replaced: layers 2 and 3, all tuned"] = on_record(**(paper | {"tune": "all"}), rank=64)
runs_of["replaced: layers 2, 3, and 1 (rank 32), all tuned"] = on_record(method="nls", rank=64, first_rank=32)
if len(records):
    lines.append(("accuracy before, %", 91, f"{100 * records.dense_accuracy.iloc[0]:.1f}", "all test images"))
for what, found in runs_of.items():
    if len(found):
        how = f"rank 64, {len(found)} seeds, {found.test_images.max()} test images, an epoch a layer"
        lines.append((f"accuracy after, %, {what}", 90 if what.endswith("3") else "", spread(found.accuracy), how))
if len(bench):
    one = times[(times.batch == 1) & (times.threads == 1) & (times["rank"] == 64)]
    for row in one.itertuples():
        what = "layers 2 and 3" + f", and 1 (rank {row.first_rank})" * bool(row.first_rank)
        how = "one image, one thread, " + {"graph": "both sides as graphs", "python": "both from Python"}[row.called]
        lines.append((f"times faster, {what}", "" if row.first_rank else 8.5, f"{row.speedup:.1f}", how))

# %%
alexnet = study.results("replace-alexnet-conv2")
alexnet = alexnet[alexnet["parameters.profile"] == "full"] if len(alexnet) else alexnet
if len(alexnet):
    by_rank = pd.DataFrame(alexnet.iloc[-1]["metrics.times"])
    for row in by_rank[(by_rank["rank"] == 140) & (by_rank.threads == 1)].itertuples():
        how = "rank 140, our choice; one image, one thread, both as graphs"
        lines.append((f"AlexNet conv2, {row.shape}: times faster", 4, f"{row.speedup_graph:.1f}", how))
lines.append(("AlexNet conv2: points of top-5 error", 1, "", "not measured: no weights, no ImageNet here"))

# %% tags=["nbval-ignore-output"] jupyter={"outputs_hidden": true}
pd.DataFrame(lines, columns=["claim", "paper", "ours", "how measured"])

# %% tags=["nbval-ignore-output"]
ours = runs_of["replaced: layers 2 and 3"]
if len(ours) and len(control) and len(bench):
    lost, of_control = (100 * (found.dense_accuracy - found.accuracy).mean() for found in (ours, control))
    speed = one[(one.first_rank == 0) & (one.called == "graph")].speedup.iloc[0]
    print(
        f"ours: {lost:.1f} points lost, {speed:.1f} times faster; the control loses {of_control:.1f}; the paper: 1 and 8.5"
    )

# %% [markdown]
# The graph is the comparison nearest to the paper, whose network was run by compiled code; its batch and its number of threads are not known to us.
#
# AlexNet's second layer against the rank, in the experiment [replace_alexnet_conv2](experiments/replace_alexnet_conv2.ipynb). *Grouped*: 48
# channels to 128, one of the original's two groups; *ungrouped*: 64 to 192, as in torchvision. With `weights` and `imagenet_dir` of your own the
# experiment measures the error, too.

# %% tags=["nbval-ignore-output"]
if len(alexnet):
    shown = ["mac_ratio", "speedup_python", "speedup_graph"]
    display(by_rank.pivot_table(index=["shape", "rank"], columns="threads", values=shown).round(1))
else:
    print("no run is on record: tnlib run replace_alexnet_conv2 --profile full")

# %% [markdown]
# ## Fits that take their time
#
# The benchmark [bench_cp](experiments/bench_cp.ipynb) gives three starts to each method, on kernels of trained networks (the one of AlexNet's shape is drawn).
# `parafac` is TensorLy's ALS, with its defaults; its error is that of its best start, its seconds those of one. Then the seconds
# until NLS is as good, how many of its three starts were, where NLS ends, and how many times as long `parafac` takes as our ALS to the same error.

# %% tags=["nbval-ignore-output"]
fit_bench = study.results("bench-cp")
fit_bench = fit_bench[fit_bench["parameters.profile"] == "full"] if len(fit_bench) else fit_bench
if len(fit_bench):
    newest = fit_bench.iloc[-1].dropna()
    ends = "_parafac_error"
    kernels = [c.removeprefix("metrics.").removesuffix(ends) for c in newest.index if c.endswith(ends)]
    keys = [
        "rank",
        "parafac_error",
        "parafac_seconds",
        "nls_seconds_to_that",
        "nls_reached_it",
        "nls_error",
        "nls_seconds",
    ]
    keys.append("parafac_over_als_seconds")
    display(pd.DataFrame({key: {k: newest.get(f"metrics.{k}_{key}") for k in kernels} for key in keys}).round(3))
else:
    print("no run is on record: tnlib run bench_cp --profile full")

# %% [markdown]
# ## What is not reproduced, and why
#
# - The authors' images and weights cannot be had: ours are other characters, made as hard as theirs.
# - AlexNet's second layer needs trained weights and ImageNet, which are not ours to give. Its *shape* is timed here; its accuracy is
#   not, until you bring both.
# - The paper's time was taken on a CPU of 2014 with other software. A ratio of times is compared, not a time.
#
# ## Exercises
#
# ### 1. Warm-up: the energy of the terms (15 minutes)
#
# Return the sum of squared norms of the rank-one terms of a CPD of any order. The weights may be negative, the factors' columns
# have any norm.


# %%
def cp_term_energy(weights, factors):
    return ...


check.cp_term_energy(cp_term_energy)

# %% [markdown]
# <details><summary>Hint</summary>
#
# The norm of an outer product is the product of the norms.
# </details>
# <details><summary>Solution</summary>
#
# In the [solutions](solutions/08_reproduce_lebedev.ipynb), section 1.
# </details>

# %% [markdown]
# ### 2. Core: what is left (20 minutes)
#
# Return the MACs of the *whole* character network for one image, when the second and the third layer are CPDs of rank `rank`, each as four
# convolutions in the order of this lesson. Maxout and biases are not counted.


# %%
def char_network_macs(rank):
    return ...


check.char_network_macs(char_network_macs)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Maxout halves the channels of the first two layers: the second layer reads 48, the third 64.
# </details>
# <details><summary>Solution</summary>
#
# In the [solutions](solutions/08_reproduce_lebedev.ipynb), section 2.
# </details>

# %% [markdown]
# ### 3. Core: the first greedy term (20 minutes)
#
# For unit vectors with cosine $\rho$ (`cosine`, $-1 < \rho < 1$) and $\mathcal X = \mathbf a \circ \mathbf a \circ \mathbf a + \mathbf c \circ \mathbf c \circ \mathbf c$, return the norm of the best approximation of
# rank one, to six digits. You may use that a symmetric tensor has a best one that is symmetric (Banach 1938):
# it is the largest $|\langle \mathcal X, \mathbf u \circ \mathbf u \circ \mathbf u \rangle|$ over unit vectors $\mathbf u$.


# %%
def greedy_first_term(cosine):
    return ...


check.greedy_first_term(greedy_first_term)

# %% [markdown]
# <details><summary>Hint</summary>
#
# The best $\mathbf u$ lies in the plane of $\mathbf a$ and $\mathbf c$: one angle. There may be several local maxima.
# </details>
# <details><summary>Solution</summary>
#
# In the [solutions](solutions/08_reproduce_lebedev.ipynb), section 3.
# </details>

# %% [markdown]
# ### 4. Stretch: a Gauss-Newton product (25 minutes)
#
# `factors` and `direction` are lists of matrices of the same shapes, $I_n \times R$, for any order. Return $\mathbf J^\top \mathbf J$ times the direction as such a list. $\mathbf J$ is
# the Jacobian of the entries of $[\![\mathbf A_0, \dots, \mathbf A_{Q-1}]\!]$ by all factors. Form neither $\mathbf J$ nor the tensor.


# %%
def cp_gauss_newton_product(factors, direction):
    return ...


check.cp_gauss_newton_product(cp_gauss_newton_product)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# $\mathbf J$ times a direction is the tensor $\sum_m [\![\dots, \mathbf D_m, \dots]\!]$, each time one factor replaced. $\mathbf J^\top$ times a tensor is its MTTKRP, in every mode.
# </details>
# <details><summary>Hint 2</summary>
#
# The MTTKRP of a tensor that is a CPD itself needs products of factors only: $\mathbf A_m^\top \mathbf A_m$ and $\mathbf D_m^\top \mathbf A_m$.
# </details>
# <details><summary>Solution</summary>
#
# In the [solutions](solutions/08_reproduce_lebedev.ipynb), section 4.
# </details>

# %% [markdown]
# ## Summary
#
# - A CPD of a kernel is a chain of four convolutions; the first runs on the whole image.
# - Terms fitted one by one are the wrong terms: after the first there is no way back.
# - A Gauss-Newton step needs an MTTKRP a mode, as an ALS iteration does, then products with factors and Gram matrices as often as conjugate
#   gradients ask. It wins where terms are nearly parallel.
# - Large terms that cancel fit well and cost digits in bfloat16. A correction makes them small and changes the kernel: measure what it costs
#   in float32, too.
# - What one point of accuracy buys stands in the last tables above, with a dense control. After compression the layer that nobody touched is the dear one,
#   and the interpreter.
#
# ## Further reading
#
# - V. Lebedev, Y. Ganin, M. Rakhuba, I. Oseledets, V. Lempitsky, [*Speeding-up convolutional neural networks using fine-tuned CP-decomposition*](https://arxiv.org/abs/1412.6553), ICLR 2015.
# - M. Jaderberg, A. Vedaldi, A. Zisserman, *Deep features for text spotting*, ECCV 2014: the network.
# - A.-H. Phan et al., [*Stable low-rank tensor decomposition for compression of convolutional neural network*](https://arxiv.org/abs/2008.05441), ECCV 2020: degeneracy and correction.
# - C. Hillar, L.-H. Lim, *Most tensor problems are NP-hard*, J. ACM 60, 2013.
# - G. Tomasi, R. Bro, *A comparison of algorithms for fitting the PARAFAC model*, Comput. Statist. Data Anal. 50, 2006.
# - I. Goodfellow et al., [*Maxout networks*](https://arxiv.org/abs/1302.4389), ICML 2013.

# %% [markdown]
# Previous: [07 measure what it costs](07_measure_what_it_costs.ipynb) · Next: [09 reproduce Novikov](09_reproduce_novikov.ipynb) · [Solutions](solutions/08_reproduce_lebedev.ipynb) · [Glossary](GLOSSARY.md)
