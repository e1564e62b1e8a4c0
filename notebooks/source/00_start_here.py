# %% [markdown]
# # Start here: compress a trained network five ways
#
# **What you'll do.** Load a trained ResNet-20, look inside its kernels, replace every 3x3 convolution but the first by
# five kinds of tensor factorization, and draw what that does to accuracy, size, arithmetic and time.
#
# **What you'll learn.** What a *format* and a *rank* are; why formats of equal size lose different amounts of accuracy;
# why fewer multiplications need not mean less time; how this workbook measures.
#
# **What you need first.** Matrices, the singular value decomposition, a little PyTorch (`nn.Conv2d`, `state_dict`).
#
# **Time.** 95 minutes: 35 to read text and code, 60 for the exercises. Run All takes a minute or two.
# **Difficulty.** Easy.
#
# Next: [01 work with tensors](01_work_with_tensors.ipynb) · [Solutions](solutions/00_start_here.ipynb) · [Glossary](GLOSSARY.md)

# %% [markdown]
# ## The map
#
# | notebook | question |
# | --- | --- |
# | **00 start here** | What happens to a real network when its weights are factorized? |
# | 01 work with tensors | How do you unfold, multiply and draw tensors, and in which order do you contract them? |
# | 02 fit CPD | When is a sum of rank-one terms unique, when does it not exist, and how do you fit it? |
# | 03 truncate Tucker | What does a truncation lose at most, and what is a core? |
# | 04 build tensor trains | Which errors can a train promise, and which format suits which data? |
# | 05 couple third-order trains | How does one hard problem of high order become a chain of easy ones of order three? |
# | 06 build tensor layers | How does each format become a sequence of ordinary layers, and how does it learn? |
# | 07 measure what it costs | Why do few multiplications not make a fast layer, and what does? |
# | 08 reproduce Lebedev | Can a trained convolution be replaced by its CPD, and what does it cost? |
# | 10 run a study | How do you decide by experiment: parameters, sweeps, statistics? |
# | 20 compute with trains | How do you compute with a tensor of $2^{40}$ entries? What does each format cost? |
#
# Notation and terms are collected in [GLOSSARY.md](GLOSSARY.md). Words that a later lesson explains are explained here in
# half a sentence each.
#
# Every notebook has a `parameters` cell. Change it here, or from the command line: `tnlib run 00 -p batch=64`.
#
# Where a text asks you to **predict**, the output below it is folded in JupyterLab. Answer first, on paper; then click on the
# three dots.

# %% tags=["parameters"]
profile: str = "quick"  # "quick": committed data; "full": all 10,000 test images, more budgets
weights: str = "trained"  # "trained" here, or "published" by others (fetched once)
batch: int = 16  # images at once when latency is measured
seed: int = 0  # decides the samples and the starting points of CPD

# %%
import copy
import math

import matplotlib.pyplot as plt
import pandas as pd
import torch
from torch import nn

from tnlib import check, data, decompose, layers, measure, models, plots, study, train

plots.use_style()
fractions = {"quick": [0.3, 0.6], "full": [0.2, 0.4, 0.6, 0.8]}[profile]
subset, num_test, num_calibration = {"quick": ("embedded", 400, 500), "full": ("full", 10_000, 2_000)}[profile]

# %% [markdown]
# First, the machine. Times below are times *on it*. Counts come out the same anywhere, accuracies nearly so.

# %%
machine = measure.provenance()
pd.Series({**machine["machine"], **machine["versions"]}, name="this run").to_frame()

# %% [markdown]
# ## The network and its images
#
# ResNet-20 (He et al. 2016) has 19 convolutions with 3x3 kernels and one fully connected layer. The `trained` weights
# come from `tnlib train resnet20-cifar10`; the record beside them says how, and what they reach on all 10,000 test
# images. The images here are real CIFAR-10 images, a stratified sample: as many of each class as in the whole set.

# %%
model = models.load("resnet20-cifar10", weights=weights)
test = data.load("cifar10", "test", subset).sample(num_test, seed)
calibration = data.load("cifar10", "train", subset).sample(num_calibration, seed)
print(f"{len(test)} test images, and {len(calibration)} training images for the statistics of BatchNorm")

# %%
right = {"original": train.hits(model, test)}
baseline = right["original"].double().mean().item()
error_bar = 1.96 * (baseline * (1 - baseline) / len(test)) ** 0.5
print(f"accuracy on this sample: {baseline:.1%} +- {error_bar:.1%} (95 % confidence, from the sample's size alone)")

# %% [markdown]
# What does one image cost? A *MAC* is one multiplication with its addition; those of convolutions and matrix products
# are counted. Bytes include the statistics that BatchNorm keeps.

# %% tags=["nbval-check-output"]
cost = measure.cost(model, (1, 3, 32, 32))
print(f"{cost.params:,} parameters, {cost.macs:,} MACs, {cost.bytes:,} bytes of weights and statistics")

# %% [markdown]
# ## A weight is a tensor
#
# A convolution's weight, its *kernel*, is an array with four indices, or **modes**: output channels $T$, input channels
# $S$, height $k_h$ and width $k_w$. We write it $\mathcal K \in \mathbb R^{T \times S \times k_h \times k_w}$, as PyTorch
# stores it.

# %% tags=["nbval-check-output"]
convs = {name: m for name, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.in_channels > 3}
conv = convs["layer3.1.conv1"]
kernel = conv.weight.detach()
print(f"{len(convs)} convolutions to compress; this one: {tuple(kernel.shape)}, {kernel.numel():,} numbers")

# %% [markdown]
# **Predict, then reveal.** Write the kernel as a matrix with a row for each output channel, $T \times S k_h k_w$: *unfold*
# it. If half of the matrix's singular values were zero, almost half of the layer would be free. Do you expect the singular
# values of a *trained* kernel to fall quickly? Compared with a random kernel of the same shape? (All kernels in the figure
# below have nine times as many columns as rows, so their shape makes no difference.)

# %%
generator = torch.Generator().manual_seed(seed)
noise = torch.randn(kernel.shape, generator=generator)
spectra = {"random": torch.linalg.svdvals(noise.flatten(1))}
for name in ("layer1.0.conv1", "layer2.1.conv1", "layer3.1.conv1"):
    spectra[name] = torch.linalg.svdvals(convs[name].weight.detach().flatten(1))

# %% jupyter={"outputs_hidden": true}
fig, ax = plt.subplots()
for name, s in spectra.items():
    ax.plot(torch.arange(1, len(s) + 1) / len(s), s / s[0], label=name, color="0.5" if name == "random" else None)
ax.set(
    xlabel="index of the singular value / number of them",
    ylabel="singular value / the largest",
    xlim=(0, 1.25),
    ylim=(0, 1.05),
)
ax.set_title("Singular values of trained kernels fall, but slowly")
plots.label_lines(ax)
plt.show()

# %% [markdown]
# The spectra of these kernels fall faster than that of noise, but none of their singular values is close to zero. That is
# no choice of examples:

# %% tags=["nbval-check-output"]
least = []
for layer in convs.values():
    s = torch.linalg.svdvals(layer.weight.detach().flatten(1))
    least.append((s[-1] / s[0]).item())
print(
    f"the smallest singular value of a kernel is at least {min(least):.2f} of its largest, in all {len(least)} kernels"
)

# %% [markdown]
# So every compression below makes an error, and the question is where it hurts least. How large is the error for the
# matrix? The **Eckart-Young theorem** (1936) says: the best rank-$R$ approximation keeps the first $R$ singular triplets (a
# singular value with its two vectors), and
#
# $$\|\mathbf W - \mathbf W_R\|_F^2 = \sum_{r \ge R} \sigma_r^2 .$$
#
# We never state such a thing without testing it:

# %% tags=["nbval-check-output"]
matrix = kernel.double().flatten(1)
sigma = torch.linalg.svdvals(matrix)
for rank in (1, 8, 32, 64):
    error = (matrix - decompose.svd(matrix, rank).to_matrix()).norm()
    assert torch.isclose(error, sigma[rank:].norm(), atol=1e-12)
print("the error is the norm of the discarded singular values, for ranks 1, 8, 32 and 64")

# %% [markdown]
# That is the formula. *Best* is a claim about all other matrices of rank $R$; we can at least try to beat it. Each
# competitor below projects the kernel's columns onto a random subspace, near the optimal one or far from it:

# %% tags=["nbval-check-output"]
U = decompose.svd(matrix, 8).U
for size in (0.01, 0.1, 1.0, 10.0):
    for _ in range(50):
        rival = torch.linalg.qr(U + size * torch.randn(U.shape, generator=generator, dtype=torch.float64)).Q
        assert (matrix - rival @ (rival.T @ matrix)).norm() >= sigma[8:].norm()
print("200 competitors of rank 8, none better")

# %% [markdown]
# ## Five formats
#
# A *format* is a way to store the kernel by factors; its *rank* says how large they are. Each one turns the layer into
# a chain of smaller convolutions (a *depthwise* one filters every channel for itself and mixes none):
#
# | format | the chain | source |
# | --- | --- | --- |
# | `svd` | $k_h \times k_w$ to $R$ channels, then $1 \times 1$ | matrix SVD of $T \times S k_h k_w$ |
# | `spatial_svd` | $k_h \times 1$ to $R$, then $1 \times k_w$ | Jaderberg et al. 2014 |
# | `cp` | $1 \times 1$ to $R$, $k_h \times 1$ and $1 \times k_w$ depthwise, $1 \times 1$ | Lebedev et al. 2015 |
# | `tucker2` | $1 \times 1$ to $R_S$, $k_h \times k_w$ to $R_T$, $1 \times 1$ | Kim et al. 2016 |
# | `tt` | $1 \times 1$ to $R_1$, $k_h \times 1$ to $R_2$, $1 \times k_w$ to $R_3$, $1 \times 1$ | tensor train of the kernel, its modes in the order $S, k_h, k_w, T$ |
#
# `layers.factorize` does it for one layer, with its stride, padding, groups and bias. (It knows more formats; lesson 06
# derives them.)

# %% tags=["nbval-check-output"]
small = layers.factorize(conv, "cp", 16, seed=seed)
small

# %% [markdown]
# The chain computes exactly what a convolution with the *multiplied-out* kernel would compute, but never forms that
# kernel. Checked on random input, in double precision, for this layer and for one with a stride, padding, two groups and a
# bias:

# %% tags=["nbval-check-output"]
grouped = nn.Conv2d(64, 96, (3, 5), stride=(1, 2), padding=(0, 2), groups=2)
x = torch.randn(2, 64, 8, 8, generator=generator, dtype=torch.float64)
for layer in (conv, grouped):
    options = {"stride": layer.stride, "padding": layer.padding, "groups": layer.groups}
    for format in ("svd", "spatial_svd", "cp", "tucker2", "tt"):
        chain = layers.factorize(layer, format, 8, seed=seed).double()
        bias = None if layer.bias is None else layer.bias.double()
        dense = nn.functional.conv2d(x, chain.dense_weight(), bias, **options)
        assert torch.allclose(chain(x), dense, rtol=0, atol=1e-10)
print("all five chains equal the convolution with their dense weight")

# %% [markdown]
# And at the largest useful rank nothing is lost. (For `cp` an exact decomposition exists at such a rank too, but
# alternating least squares, the usual algorithm, need not find it; the tests of `tnlib` try `cp` on kernels that are built
# from few terms.)
# Ranks of `tucker2` are given as $(R_T, R_S)$, in the order of the kernel's modes.

# %% tags=["nbval-check-output"]
for format in ("svd", "spatial_svd", "tucker2", "tt"):
    full = layers.max_rank(conv, format)
    weight = layers.factorize(conv, format, full).dense_weight()
    assert torch.allclose(weight, kernel, atol=1e-5)
    print(f"{format:<12} exact at rank {full}")

# %% [markdown]
# ## Formats on equal terms
#
# Ranks of different formats cannot be compared; sizes can. Count the parameters of each chain as a function of its
# rank (one number $r$, used for all ranks of a format, and cut where it exceeds what is useful):

# %%
count = {
    "svd": lambda T, S, k, r: r * (S * k * k + T),
    "spatial_svd": lambda T, S, k, r: r * k * (S + T),
    "cp": lambda T, S, k, r: r * (S + 2 * k + T),
    "tucker2": lambda T, S, k, r: S * min(r, S) + min(r, S) * min(r, T) * k * k + min(r, T) * T,
    "tt": lambda T, S, k, r: S * min(r, S) + k * r * (min(r, S) + min(r, T)) + min(r, T) * T,
}

# %% [markdown]
# Formulas are claims, too. Each is compared with the number of entries of a real chain:

# %% tags=["nbval-check-output"]
for format, formula in count.items():
    for layer, r in ((conv, 12), (convs["layer2.0.conv1"], 12), (convs["layer2.0.conv1"], 24)):
        chain = layers.factorize(layer, format, r, **({"max_iter": 1} if format == "cp" else {}))
        T, S, k, _ = layer.weight.shape
        assert formula(T, S, k, r) == sum(p.numel() for p in chain.parameters())
print("five formulas agree with the chains, also where a rank exceeds the number of input channels")

# %% [markdown]
# Now the rank follows from a budget: the largest one whose chain has at most a given fraction of the layer's
# parameters.


# %%
def rank_for(layer, format, fraction):
    T, S, k, _ = layer.weight.shape
    budget = fraction * layer.weight.numel()
    return max(r for r in range(1, 10 * T) if r == 1 or count[format](T, S, k, r) <= budget)


pd.DataFrame({f: {r: rank_for(conv, f, r) for r in (0.1, 0.3, 0.6, 0.9)} for f in count}).rename_axis(
    "fraction of parameters"
)

# %% [markdown]
# How well is each format served by this comparison? `svd` and `spatial_svd` are optimal, by singular values. `tucker2`
# starts from them and gets a few sweeps of least squares (a sweep improves every factor once). `tt` is computed by
# singular values, too, but one number for all of its ranks is not its best choice. `cp` gets 20 sweeps from one random
# start: more would approximate the weights better, and another start may give a network that is much better or worse *as
# compressed* (try `seed`). So the comparison is fair to sizes, and not the last word on `cp` and `tt`.
#
# A CP term costs only $S + 2k + T$ numbers, so CP affords many of them. Whether many cheap terms beat few rich ones is
# an empirical question; **write down your ranking of the five formats before you go on.**


# %%
def compress(model, format, fraction):
    result = copy.deepcopy(model)
    options = {"max_iter": 20, "seed": seed} if format == "cp" else {}
    for name, layer in convs.items():
        rank = rank_for(layer, format, fraction)
        result.set_submodule(name, layers.factorize(layer, format, rank, **options))
    return result


# %% [markdown]
# ## The experiment
#
# For each format and each budget: compress all layers, measure accuracy as it is, then let BatchNorm re-estimate its
# means and variances on a few training images (one forward pass; no weight changes), and measure again. Nothing is
# fine-tuned in this notebook. `right` keeps which images each network gets right: you will see why.

# %%
networks, rows = {}, []
for format in count:
    for fraction in fractions:
        small = networks[format, fraction] = compress(model, format, fraction)
        row = {"format": format, "fraction": fraction, "raw": train.accuracy(small, test)}
        train.reestimate_batchnorm(small, calibration)
        right[format, fraction] = train.hits(small, test)
        relative = measure.cost(small, (1, 3, 32, 32)).relative_to(cost)
        accuracy = right[format, fraction].double().mean().item()
        rows.append(row | {"accuracy": accuracy, "params": relative["params"], "macs": relative["macs"]})
        print(f"{format:<12} {fraction:.0%}  as compressed {row['raw']:.1%}, re-estimated {accuracy:.1%}")

# %% [markdown]
# Time is measured last, all networks in turn, so that whatever else the machine does hurts all of them alike
# (`measure.compare`). The figure is a ratio to the original's time, with its 10 % and 90 % quantiles over rounds. Images
# lie *channels last* in memory, the layout in which CPUs convolve fastest. A network for use need not keep its factors
# apart: `layers.freeze` returns a copy for inference in which stages are merged, and it is the copy that is timed.

# %%
assert 1 <= batch <= len(test), f"batch must lie between 1 and {len(test)}, got {batch}"
images = test.images[:batch].contiguous(memory_format=torch.channels_last)
frozen = {str(key): layers.freeze(net, images) for key, net in networks.items()}
timed = measure.compare({"original": model} | frozen, images, rounds=6)
for row in rows:
    median, low, high = timed.speedup[str((row["format"], row["fraction"]))]
    row |= {"time": 1 / median, "time_low": 1 / high, "time_high": 1 / low}
table = pd.DataFrame(rows)
table.round(3)

# %% [markdown]
# Three costs, three pictures. The dashed line is the original network.

# %% tags=["cover"]
fig, axes = plt.subplots(1, 3, figsize=(10, 3.8), sharey=True)
points = dict(tuple(table.groupby("format", sort=False)))
labels = {"params": "parameters / original", "macs": "MACs / original", "time": f"time / original, batch {batch}"}
plots.tradeoff(axes, points, labels, baseline)
for format, part in points.items():
    color = plots.FORMAT_STYLE[format]["color"]
    axes[2].hlines(100 * part.accuracy, part.time_low, part.time_high, color=color, linewidth=1, alpha=0.4)
for ax, title in zip(axes, ("Equal size, unequal accuracy", "Fewer MACs", "Less time?"), strict=True):
    ax.set(title=title, xlim=(0, None))
axes[2].legend(*axes[0].get_legend_handles_labels(), loc="lower right")
plt.show()

# %% [markdown]
# Read the panels from left to right. In the first, formats of equal size differ a lot in accuracy, though each
# approximates the same kernels. In the second the order hardly changes: for these chains MACs follow parameters. In the
# third, points move to the right, by how much depends on the machine. A chain of small convolutions moves more data and
# makes more library calls than one large convolution, and a depthwise one does little work for each number it loads.
# **Fewer MACs are not as much less time**; the lessons on layers come back to it. A network whose interval contains 1 is
# neither faster nor slower, as far as this run can tell:

# %%
speed = table.assign(mac_saving=1 / table.macs, speedup=1 / table.time)
assert (speed.speedup < speed.mac_saving).all()
verdict = {"faster": table.time_high < 1, "slower": table.time_low > 1}
print({name: int(which.sum()) for name, which in verdict.items()}, "of", len(table), "networks, beyond their intervals")
speed.groupby("format", sort=False)[["mac_saving", "speedup"]].mean().round(2)

# %% [markdown]
# ## What BatchNorm re-estimation repairs
#
# A compressed layer's outputs have other means and variances than those that the following BatchNorm was trained with.
# One pass over a few hundred images corrects them. What does such a pass cost a network that needs no correction? So the
# original gets one, too.

# %%
again = copy.deepcopy(model)
train.reestimate_batchnorm(again, calibration)
right["original, re-estimated"] = train.hits(again, test)
original = {"format": "original", "fraction": 1.0, "raw": baseline, "accuracy": train.accuracy(again, test)}
repair = pd.concat([table, pd.DataFrame([original])], ignore_index=True)
repair["gain"] = repair.accuracy - repair.raw

# %%
fig, ax = plt.subplots()
ax.hlines(repair.index, 100 * repair.raw, 100 * repair.accuracy, color="0.8")
ax.plot(100 * repair.raw, repair.index, "o", color="#D55E00", label="as compressed")
ax.plot(100 * repair.accuracy, repair.index, "o", color="#0072B2", label="BatchNorm re-estimated")
ax.axvline(100 * baseline, color="0.4", linestyle="--", linewidth=1)
ax.set_yticks(repair.index, [f"{row.format}, {row.fraction:.0%}" for row in repair.itertuples()])
ax.set(xlabel="top-1 accuracy (%)", xlim=(0, 100), title="One forward pass repairs much, without training")
ax.legend(loc="lower left", bbox_to_anchor=(0, -0.32), ncols=2)
plt.show()

# %% [markdown]
# Where does it help most: where the damage is largest?

# %%
worst, most = repair.loc[repair.raw.idxmin()], repair.loc[repair.gain.idxmax()]
for title, row in {"most damaged": worst, "gains most": most, "undamaged": repair.iloc[-1]}.items():
    print(f"{title:<12}  {row.format}, {row.fraction:.0%}: {row.raw:.1%}, then {row.accuracy:.1%} ({row.gain:+.1%})")

# %% [markdown]
# No. Statistics repair a shift of what the kernels compute, not what they no longer compute. A network that is near chance
# (one right in ten) has lost more than its statistics and stays far below the others. And a network that is as good as the
# original has nothing to gain and may lose a little: statistics of a few hundred images are noisier than those of the
# whole training set.
#
# ## Are two networks different?
#
# The interval printed above is for *one* network on *its* sample, and grows towards 50 %. It is no yardstick for
# differences here, because all networks see the same images: most are right for both or wrong for both, and say nothing.
# What counts are the images on which exactly one of the two is right. If the networks were equally good, each of these
# would be a fair coin, and a binomial distribution tells how surprising the count is (McNemar's test, lesson 10).


# %%
def compare_hits(a, b):
    only_a, only_b = int((right[a] & ~right[b]).sum()), int((right[b] & ~right[a]).sum())
    n, k = only_a + only_b, min(only_a, only_b)
    p = min(1.0, 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n)
    return {
        "only first right": only_a,
        "only second right": only_b,
        "difference": (only_a - only_b) / len(test),
        "p": p,
    }


large, small_budget = max(fractions), min(fractions)
pairs = [(("cp", large), ("spatial_svd", large)), (("tucker2", small_budget), ("tt", small_budget))]
pairs += [(("cp", large), "original"), ("original, re-estimated", "original")]
pd.DataFrame({f"{a} against {b}": compare_hits(a, b) for a, b in pairs}).T.round(3)

# %% [markdown]
# A small `p` says: the difference is more than which images were drawn. A large one does *not* say that the networks are
# equal, only that this sample cannot tell. And many pairs looked at make a small `p` somewhere likely; lesson 10 has both.
#
# ## Keep the result
#
# A number that somebody may quote is written as a record: parameters, metrics, versions, machine, commit, date.

# %%
path = study.record(
    "compress-resnet20-formats",
    {"baseline": baseline, "test_images": len(test), "rows": rows},
    parameters={
        "profile": profile,
        "weights": weights,
        "batch": batch,
        "fractions": fractions,
        "calibration_images": len(calibration),
        "cp_sweeps": 20,
    },
    source="notebooks/00_start_here",
    seed=seed,
)
print("recorded", path.name.rsplit("-", 1)[0])

# %% [markdown]
# `tnlib results compress-resnet20-formats` prints the published ones. One run on one sample is a picture: of images, of
# starts of CP, and of what else the machine did. `--profile full` uses all 10,000 test images, and the lesson on studies
# repeats runs over seeds.

# %% [markdown]
# ## Exercises
#
# Replace `...` by your answer and run the cell: the check says whether it is right, and if not, on which input.
#
# ### 1. Warm-up: the size of Tucker-2 (15 minutes)
#
# How many parameters has the `tucker2` chain of a $T \times S \times k \times k$ kernel with ranks $R_T$ and $R_S$?


# %%
def tucker2_parameters(T, S, k, R_T, R_S):
    return ...


check.tucker2_parameters(tucker2_parameters)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Add the entries of three kernels: $1 \times 1$ from $S$ to $R_S$ channels, $k \times k$ from $R_S$ to $R_T$,
# $1 \times 1$ from $R_T$ to $T$.
# </details>
# <details><summary>Solution</summary>
#
# In the [solutions](solutions/00_start_here.ipynb), section 1.
# </details>

# %% [markdown]
# ### 2. Core: when does CP stop saving? (20 minutes)
#
# Find the largest rank at which a CP chain has *fewer* parameters than its kernel.


# %%
def break_even_rank(T, S, k):
    return ...


check.break_even_rank(break_even_rank)

# %% [markdown]
# <details><summary>Hint</summary>
#
# One term costs $S + 2k + T$. The count must stay strictly below $T S k^2$, and a rank is a whole number.
# </details>
# <details><summary>Solution</summary>
#
# In the [solutions](solutions/00_start_here.ipynb), section 2.
# </details>

# %% [markdown]
# ### 3. Stretch: an error without an approximation (25 minutes)
#
# Give the relative error $\|\mathcal K - \mathcal K_R\| / \|\mathcal K\|$ of the `svd` format at rank $R$ from the
# singular values alone, for a kernel of any shape $T \times S \times k_h \times k_w$.


# %%
def tail_error(kernel, rank):
    return ...


check.tail_error(tail_error)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `kernel.flatten(1)` is the unfolding that the `svd` format uses, and Eckart-Young gives the error's square.
# </details>
# <details><summary>Solution</summary>
#
# In the [solutions](solutions/00_start_here.ipynb), section 3.
# </details>

# %% [markdown]
# ## Summary
#
# - A trained kernel is not of low rank; compression is a choice of where to make an error.
# - Formats of equal size differ in accuracy, and MACs saved are not time saved. Always report the three together.
# - Re-estimating BatchNorm costs one forward pass and repairs much, though not a kernel that is lost.
# - Networks on the same images are compared image by image.
#
# ## Further reading
#
# - V. Lebedev et al., [*Speeding-up convolutional neural networks using fine-tuned CP-decomposition*](https://arxiv.org/abs/1412.6553), ICLR 2015.
# - A. Novikov et al., [*Tensorizing neural networks*](https://arxiv.org/abs/1509.06569), NeurIPS 2015.
# - Y. Zniyed et al., *High-order tensor estimation via trains of coupled third-order CP and Tucker decompositions*,
#   LAA 588, 2020.
# - T. G. Kolda and B. W. Bader, [*Tensor decompositions and applications*](https://doi.org/10.1137/07070111X), SIAM Review 51(3), 2009.

# %% [markdown]
# Next: [01 work with tensors](01_work_with_tensors.ipynb) · [Solutions](solutions/00_start_here.ipynb) · [Glossary](GLOSSARY.md)
