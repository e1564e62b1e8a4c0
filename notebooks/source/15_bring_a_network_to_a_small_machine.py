# %% [markdown]
# # Bring a network to a small machine
#
# **What you'll do.** Follow one network from trained weights to a file that a machine without PyTorch runs: compress it under a budget, repair it without labels, export it with proof
# of parity, round it to eight bits, and open it in a process with little memory, where a dense network fails. Then two networks that nobody here wrote.
#
# **What you'll learn.** What affine quantization is and what it loses at most. Why one scale for each output beats one for all. What freedom two factors of a layer leave you, and how to use it for rounding.
# What int8 saves, and what it doesn't.
#
# **What you need first.** Lesson 06 (layers of factors), 07 (costs), 12 (budgets); 14 for the repair.
#
# **Time.** 105 minutes: 50 to read text and code, 55 for the exercises. Run All takes one to two minutes. **Difficulty.** Medium.
#
# Previous: [14 propose a scheme](14_propose_a_scheme.ipynb) · Next: [20 compute with trains](20_compute_with_trains.ipynb) · [Solutions](solutions/15_bring_a_network_to_a_small_machine.ipynb) · [Glossary](GLOSSARY.md)

# %% tags=["parameters"]
profile: str = "quick"  # "quick": 300 test images; "full": all that are committed
network: str = "quick-cifar10"  # "quick-cifar10" or "resnet20-cifar10": the network of the story
budget: float = 0.4  # of the multiplications that are left, in [0.25, 0.8]
images: int = 64  # training images without labels, to repair and to calibrate on; 16 to 500
memory_limit: float = 20.0  # MB that a network may take in a process of its own, in [15, 30]
seed: int = 0  # decides the images and all random numbers

# %%
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib.pyplot as plt
import numpy as np
import onnx
import pandas as pd
import torch

from tnlib import check, compress, data, deploy, layers, measure, models, plots, study, train
from tnlib.deploy import on_device
from tnlib.deploy.balance import links

plots.use_style()
generator = torch.Generator().manual_seed(seed)
folder = TemporaryDirectory()
there = Path(folder.name)

# %% [markdown]
# ## The question
#
# You have a trained network and a board with one slow core and little memory. It has no PyTorch and never will. What is the way from here to there, and what is lost at each step?
# **Before you read on, predict:** which of three things shrinks most on the way: the file, the time of an answer, or the memory of the process?
#
# ## 1. What is there
#
# Nothing can be decided before the original is measured.

# %%
model = models.load(network)
seen = data.load("cifar10", "train").sample(images, seed).images
test = data.load("cifar10", "test").sample({"quick": 300, "full": 2000}[profile], seed)
before = measure.cost(model, seen[:1])
print(f"{before.params:,} parameters, {before.macs:,} multiply-accumulates an image")

# %% [markdown]
# ## 2. Choose a budget, then ranks
#
# Which budget? Bytes are the file's, multiplications the processor's. They don't shrink together: early layers of a convolutional network have few weights and many pixels. We take multiplications, since a core without wide vectors is short of them first, and `spatial_svd`,
# whose two factors are ordinary convolutions that every runtime has fast code for (lesson 13 compares formats).

# %% tags=["nbval-ignore-output"]
wanted = compress.Budget(macs=budget)
plan = compress.plan(model, seen, wanted, formats=["spatial_svd"], metric="input", seed=seed)
small = plan.apply(model)
after = measure.cost(small, seen[:1])
assert after.macs <= budget * before.macs
print(f"{after.macs / before.macs:.1%} of the multiplications, {after.params / before.params:.1%} of the parameters")

# %% [markdown]
# ## 3. Repair without labels
#
# Nobody labels images on a factory floor. The repair of lesson 14 needs none: layer after layer is fitted to what the original computes.

# %%
repaired = compress.repair(small, model, seen)
stages = {"original": model, "compressed": small, "repaired": repaired}
right = {name: float(train.hits(each, test).double().mean()) for name, each in stages.items()}

# %% tags=["nbval-ignore-output"]
assert right["repaired"] > right["original"] - 0.2
pd.Series(right, name=f"accuracy on {len(test)} test images").round(3).to_frame()

# %% [markdown]
# With more images the repair does better: the records of section 9 use a thousand.
#
# ## 4. Out of Python, with proof
#
# **ONNX** is a file format for networks: a graph of standard operators and their weights. `deploy.export` freezes the network (`layers.freeze`: BatchNorm is multiplied into the weights), writes the file, runs it in ONNX Runtime and compares all outputs with torch's.
# Where they differ by more than $10^{-4}$ of the largest output, no file is left behind. A converter that you don't check is a converter that you trust.

# %%
files = {name: there / f"{name}.onnx" for name in ("dense", "small")}
exported = {
    "dense": deploy.export(model, seen[:1], files["dense"], inputs=test.images),
    "small": deploy.export(repaired, seen[:1], files["small"], inputs=test.images),
}

# %%
for each in exported.values():
    assert each.difference <= 1e-4 * max(1, each.largest)
    assert each.samples - each.same <= max(1, each.samples // 2000)
print("ONNX Runtime and torch agree on all test images, for both networks")

# %% [markdown]
# Four bytes a parameter, and a little for the graph:

# %% tags=["nbval-ignore-output"]
assert 1 <= exported["dense"].bytes / (4 * before.params) < 1.1
assert exported["small"].bytes < exported["dense"].bytes
print({name: f"{each.bytes / 1000:.0f} kB" for name, each in exported.items()})

# %% [markdown]
# A core multiplies several numbers at once: 8 floats with AVX2, 16 with AVX-512. ONNX Runtime has fast convolutions on such processors for channels that come in whole groups of that many, and much slower ones for any other number: a rank of 22 is no cheaper than 24. So `deploy.export` adds
# channels of zeros between two factors, up to a multiple of `lanes=8`. **Predict:** what does that change in the answers, in the file, and in the time?

# %%
bare = deploy.export(repaired, seen[:1], there / "bare.onnx", inputs=test.images, lanes=1)
opened = {"as they are": deploy.session(bare.path), "padded": deploy.session(files["small"])}
answers = [deploy.outputs(session, test.images[:50])[0] for session in opened.values()]
assert torch.allclose(*answers, rtol=1e-3, atol=1e-3 * float(answers[0].abs().max()))
assert bare.bytes <= exported["small"].bytes
print("zeros change no answer")

# %% tags=["nbval-ignore-output"]
calls = {name: lambda x, s=session: deploy.outputs(s, x) for name, session in opened.items()}
timed = measure.compare(calls, test.images[:1], rounds=20, seconds=0.5)
grown = exported["small"].bytes / bare.bytes - 1
print(f"{timed.speedup['padded'][0]:.2f} times as fast, live; the file grows by {grown:.0%}")

# %% [markdown]
# On a processor whose runtime knows no such groups it costs a little instead. Measure where the network will run.
#
# ## 5. Eight bits
#
# **Definition.** Affine quantization to int8 stores $x$ as $q = \operatorname{clip}(\operatorname{round}(x / s) + z,\ -128,\ 127)$ and reads it as $\hat x = s\,(q - z)$. For values in $[l, h]$ with $l \le 0 \le h$: the **scale** is $s = (h - l) / 255$, the **zero point** $z = \operatorname{round}(-128 - l / s)$.
#
# **Proposition 1.** $0$ is stored exactly, and $|\hat x - x| \le s / 2$ for each $x$ that isn't clipped. *Proof.* $q = z$ gives $\hat x = 0$, and $-128 \le z \le 127$ as $l \le 0 \le h$. Without clipping $\hat x = s \operatorname{round}(x / s)$, and rounding moves by half at most. $\square$
#
# Why must zero be exact? Padding and ReLU write zeros everywhere; a wrong zero is a bias in every sum. (ONNX Runtime is told here to store values between layers from 0 to 255, that is $q + 128$: the same
# steps. With signed ones it computes some convolutions in float on x86 processors, between two conversions.)


# %%
def scale_and_zero(low, high):
    scale = (high - low) / 255
    return scale, round(-128 - low / scale)


def stored(x, scale, zero):
    return (torch.round(x / scale) + zero).clamp(-128, 127)


# %%
x = torch.randn(10_000, generator=generator, dtype=torch.float64)
scale, zero = scale_and_zero(float(x.min()), float(x.max()))
q = stored(x, scale, zero)
off = (scale * (q - zero) - x).abs()
inside = (torch.round(x / scale) + zero).clamp(-128, 127) == torch.round(x / scale) + zero
assert (off[inside] <= scale / 2 + 1e-12).all()
assert (off <= scale + 1e-12).all()
assert float(scale * (stored(torch.zeros(1), scale, zero) - zero)) == 0
print(f"{len(q.unique())} of 256 numbers are used; the largest error is {float(off[inside].max() / scale):.2f} steps")

# %% [markdown]
# Weights are taken **symmetric**, $z = 0$ and $s = \max |w| / 127$. Then a product of matrices is one of integers, and one multiplication for the scales at its end:
#
# $$\sum_k w_{ik} x_k \;\approx\; s_w s_x \Big( \sum_k q_{ik}\, q_k - z_x \sum_k q_{ik} \Big).$$
#
# The second sum doesn't depend on $\mathbf x$: it is made once. Asserted, in integers:

# %%
W = torch.randn(20, 50, generator=generator, dtype=torch.float64)
step = float(W.abs().max()) / 127
q_w, q_x = torch.round(W / step).long(), q[:50].long()
integers = q_w @ q_x - zero * q_w.sum(1)
assert torch.allclose(step * scale * integers, (step * q_w) @ (scale * (q_x - zero)))
print("sums of integers, scaled once, are the product of the rounded numbers")

# %% [markdown]
# A sum of two products of 8 bits should fit into what the processor adds in. x86 processors without VNNI add pairs in 16 bits; then weights had better have 7 bits, here with inputs from 0 to 255:

# %%
largest = {bits: 2 * 255 * 2 ** (bits - 1) for bits in (7, 8)}
assert largest[7] <= 2**15 - 1 < largest[8]
print(largest, "against", 2**15 - 1)

# %% [markdown]
# ### One scale for all, or one for each output
#
# A weight's step is set by its largest entry. **Per tensor** all outputs share it; **per channel** each output has its own, which costs one number an output. The step of a channel is never larger, so neither is its bound. **Predict:** in which of this network's convolutions does it matter most?


# %%
def rounded(weight, per_channel, levels=127):
    """Symmetric int8 of a weight (outputs, ...), read back."""
    size = weight.abs().flatten(1).amax(1).view(-1, *[1] * (weight.ndim - 1)) if per_channel else weight.abs().max()
    step = (size / levels).clamp_min(1e-30)
    return torch.round(weight / step) * step


# %%
losses = {}
for name, layer in model.named_modules():
    if isinstance(layer, torch.nn.Conv2d):
        weight = layer.weight.detach().double()
        errors = [
            float((rounded(weight, each) - weight).square().sum() / weight.square().sum()) for each in (False, True)
        ]
        losses[name] = errors
lost = pd.DataFrame(losses, index=["per tensor", "per channel"]).T

# %%
assert (lost["per channel"] <= lost["per tensor"]).all()
ax = lost.plot(logy=True, style="o", figsize=(7, 3.5))
ax.set(xlabel="convolution", ylabel="relative squared error")
ax.set_title("A scale for each output loses less in every convolution")
ax.set_xticks(range(len(lost)), lost.index, rotation=90, fontsize=7)
plt.show()

# %% [markdown]
# ## 6. The gauge of a factorization
#
# A factorized layer has a freedom that a dense one hasn't. Between the factors $\mathbf A \in \mathbb R^{R \times n}$ and $\mathbf B \in \mathbb R^{m \times R}$ stand $R$ channels that nobody sees: for every diagonal $\mathbf D$ with positive entries
# $\mathbf B \mathbf A = (\mathbf B \mathbf D^{-1})(\mathbf D \mathbf A)$. Physicists call this a **gauge**. In float it is nothing. In int8 it decides the steps.
#
# Let $a_r$ be the largest entry of row $r$ of $\mathbf A$, $b_r$ that of column $r$ of $\mathbf B$. With one scale for each factor, the steps are proportional to $\max_r d_r a_r$ and $\max_r b_r / d_r$. Each alone can be made as small as you like, at the cost of the other; their product can't:
#
# **Proposition 2.** $\displaystyle \max_r d_r a_r \cdot \max_r \frac{b_r}{d_r} \;\ge\; \max_r a_r b_r$ for every $\mathbf D$, with equality for $d_r = \sqrt{b_r / a_r}$.
#
# *Proof.* For each $r$ the left side is at least $d_r a_r \cdot b_r / d_r = a_r b_r$. With $d_r = \sqrt{b_r / a_r}$ both ranges of channel $r$ are $\sqrt{a_r b_r}$, so both maxima are $\sqrt{\max_r a_r b_r}$. $\square$
#
# The choice makes both ranges of each channel equal: the factors are **balanced** (for whole networks: Nagel et al. 2019).


# %%
def ranges(A, B, d):
    return (d * A.abs().amax(1)).max() * (B.abs().amax(0) / d).max()


A, B = (torch.randn(size, generator=generator, dtype=torch.float64) for size in ((12, 40), (30, 12)))
a, b = A.abs().amax(1), B.abs().amax(0)
best = (b / a).sqrt()
assert torch.isclose(ranges(A, B, best), (a * b).max())

# %%
draws = [torch.exp(2 * torch.randn(12, generator=generator, dtype=torch.float64)) for _ in range(200)]
assert all(torch.allclose((B / d) @ (d[:, None] * A), B @ A) for d in draws)
assert all(ranges(A, B, d) >= (a * b).max() * (1 - 1e-12) for d in draws)
print("200 gauges: the product stays, and no product of ranges is below that of the balanced one")


# %%
def product_error(d):
    """Relative error of the product of two factors in int8, each with one scale."""
    product = rounded(B / d, False) @ rounded(d[:, None] * A, False)
    return float((product - B @ A).norm() / (B @ A).norm())


sides = torch.linspace(-3, 3, 41, dtype=torch.float64)
direction = torch.randn(12, generator=generator, dtype=torch.float64)
errors = [product_error(best * torch.exp(t * direction)) for t in sides]

# %%
assert errors[20] < min(errors[0], errors[-1]) / 2
fig, ax = plt.subplots()
ax.semilogy(sides, errors)
ax.axvline(0, color="0.7", linewidth=1)
ax.set(xlabel="distance from the balanced gauge (logarithm of a scale)", ylabel="relative error of the product")
ax.set_title("The product is the same; what int8 makes of it is not")
plt.show()

# %% [markdown]
# The bound has its minimum at zero; the error itself need not be smallest exactly there, but it can't be far. The same in the file: `deploy.balance` finds all places where two linear steps follow each other with nothing between, and scales their channels.

# %%
proto = onnx.load(files["small"])
balanced, places = deploy.balance(proto)
assert places == len(links(proto)) >= 1
outputs = [deploy.outputs(deploy.session(each.SerializeToString()), test.images[:50])[0] for each in (proto, balanced)]
assert torch.allclose(*outputs, rtol=1e-3, atol=1e-3)
print(
    f"{places} places; the float network computes the same. The dense network has {len(links(onnx.load(files['dense'])))}"
)

# %% [markdown]
# With a scale for each output of a weight, $\mathbf A$'s rows don't share a step any more. Then the gauge decides about the *values* between the factors, which do share one: `balanced="activations"` measures their ranges on the images.
#
# ### What no gauge mends: terms that cancel
#
# A layer of rank $R$ adds up $R$ terms, $y = \sum_r y_r$. In an SVD they are orthogonal. In a CPD they aren't: two large terms may nearly cancel, in float at no cost (lesson 02 met this as degeneracy, lesson 08 as a danger for training). And in int8?
#
# **Proposition 3.** Let each term be rounded with steps $s_r = \kappa\, (\mathbb E\, y_r^2)^{1/2}$ in proportion to its own size, errors uniform and independent. Then the relative squared error of the sum is
# $$\frac{\mathbb E (\hat y - y)^2}{\mathbb E\, y^2} = \frac{\kappa^2}{12}\, \varrho, \qquad \varrho = \frac{\sum_r \mathbb E\, y_r^2}{\mathbb E\, y^2}.$$
#
# *Proof.* A uniform error of a step $s_r$ has mean square $s_r^2 / 12$; independent ones add up. $\square$
#
# $\varrho$ is 1 for orthogonal terms, and has no upper bound for others (its root is the *size of the terms* of lesson 02, in the norm of the inputs). No scaling of channels changes it: it belongs to the terms, not to their gauge. **Predict:** two terms leave a tenth of themselves when they are added. How much larger is the error?


# %%
def cancelling(left, number=20_000):
    """The ratio of squares, and what rounding costs the sum beside what the proposition says of it."""
    large, small = torch.randn(2, number, generator=generator, dtype=torch.float64)
    terms = torch.stack([large, left * small - large])
    size = terms.square().mean(1).sqrt()
    steps = 0.05 * size[:, None]
    error = ((terms / steps).round() * steps - terms).sum(0).square().mean()
    ratio, energy = terms.square().mean(1).sum() / terms.sum(0).square().mean(), terms.sum(0).square().mean()
    return float(ratio), float(error / energy), float(0.05**2 / 12 * ratio)


# %%
for left in (1.4, 0.3, 0.1, 0.03):
    ratio, cost, predicted = cancelling(left)
    assert abs(cost / predicted - 1) < 0.1
    print(
        f"terms leave {left:g}: ratio {ratio:8.1f}, relative squared error {cost:.1e}, by the proposition {predicted:.1e}"
    )

# %% [markdown]
# So the fit has to know. In the repair each CP layer minimizes its squared error plus a small multiple of $\sum_r \mathbb E\, y_r^2$, both in the same norm: `compress.repair(..., rounding=compress.ROUNDING)`, or `tnlib compress ... --for-int8`. That keeps a few large terms from doing each other's work. The
# float network hardly notices; section 7 shows what int8 makes of it. (Prior art: Phan et al. 2020 and [others](https://www.mdpi.com/2076-3417/14/4/1491) bound a CPD's sensitivity so that it can be trained on; a [submission to ICLR 2023](https://openreview.net/forum?id=b1g6e7enW5o) seeks factors near their quantized versions, by ADMM; of the last two we read abstracts. There the numbers of the factors are rounded, in the kernel's norm; here we look at the values between them, in the norm of the inputs. We know of no one who did that, and did not search long.)
#
# ## 7. The whole network in int8
#
# The quantizer needs ranges of all values between operators: it runs the **calibration** images, without labels, and notes the smallest and the largest. How wrong are the logits then, relative to their spread?


# %%
def quantized(name, **options):
    return deploy.quantize(files[name.split()[0]], seen, there / f"{name}.onnx", **options)


# %%
variants = {"dense int8": {}, "small int8, not balanced": {"balanced": "none"}, "small int8": {}}
variants["small int8, one scale"] = {"per_channel": False}
made = {name: quantized(name.replace(",", ""), **options) for name, options in variants.items()}


# %%
def logits(path):
    return deploy.outputs(deploy.session(path), test.images)[0].double()


def row_of(path, want):
    got = logits(path)
    error = float((got - want).norm() / (want - want.mean(0)).norm())
    return {"error of logits": error, "accuracy": float((got.argmax(1) == test.labels).double().mean())}


# %%
floats = {name: logits(path) for name, path in files.items()}
table = {name: row_of(files[name], floats[name]) for name in files}
table |= {name: row_of(done.path, floats[name.split()[0]]) for name, done in made.items()}

# %% tags=["nbval-ignore-output"]
assert table["small int8"]["accuracy"] > table["small"]["accuracy"] - 0.1
assert table["dense"]["error of logits"] == 0 < table["dense int8"]["error of logits"] < 1
pd.DataFrame(table).T.round(3)

# %% tags=["nbval-ignore-output"]
assert all(done.nodes[0] == done.nodes[1] for done in made.values())
assert made["dense int8"].bytes < 0.5 * exported["dense"].bytes
assert made["small int8"].bytes < exported["small"].bytes
print({name: f"{done.bytes / 1000:.0f} kB" for name, done in made.items()})

# %% [markdown]
# Look at both columns: on images that are this few, a point of accuracy is a matter of luck, and the error of the logits is not. Balance and scales for each output help the *weights*, in the network less than in section 5 and 6:
# all variants share the rounding of values between nodes, and where that is the larger part, better weights don't show.
#
# Now a network of CP layers, `cp3`, of the same budget, repaired without and with care for its terms. **Predict** which number differs more: the accuracy in float, or the error of the logits in int8?


# %%
def sizes_of_terms(network):
    """Of each CP layer the root of the sum of its terms' squares, over the norm of its kernel."""
    found = []
    for layer in (module for module in network.modules() if isinstance(module, layers.Factorized)):
        *inner, last = (factor.detach().flatten(1) for factor in layer.factors())
        terms = last.norm(dim=0) * torch.stack([factor.norm(dim=1) for factor in inner]).prod(0)
        found.append(float(terms.norm() / layer.dense_weight().detach().norm()))
    return found


# %%
plan = compress.plan(model, seen, wanted, formats=["cp3"], metric="input", seed=seed)
terms, sizes = plan.apply(model), {}
for name, weight in {"terms": 0.0, "bounded terms": compress.ROUNDING}.items():
    fitted = compress.repair(terms, model, seen, rounds=0, rounding=weight)
    files[name], sizes[name] = there / f"{name}.onnx", sizes_of_terms(fitted)
    exported[name] = deploy.export(fitted, seen[:1], files[name], inputs=test.images)
    done = deploy.quantize(files[name], seen, there / f"{name} int8.onnx")
    floats[name] = logits(files[name])
    table |= {name: row_of(files[name], floats[name]), f"{name} int8": row_of(done.path, floats[name])}

# %% tags=["nbval-ignore-output"]
assert all(after < before for before, after in zip(sizes["terms"], sizes["bounded terms"], strict=True))
rounded_terms = pd.DataFrame(table).T.filter(like="terms", axis=0).round(3)
rounded_terms.assign(largest_size=[round(max(sizes[name.removesuffix(" int8")]), 2) for name in rounded_terms.index])

# %% [markdown]
# The largest size of a layer's terms has come down, and with it what int8 does to the logits; how far depends on what else is rounded, here few images and little cancelling at mild budgets. Section 9 has it at full size.
#
# A quarter of the bits isn't a quarter of the file: beside the weights a file holds a scale and a zero point for every value and output, and twice the nodes. The smaller the network, the more that weighs.
#
# ## 8. A small machine, as honestly as this one can play it
#
# `on_device.py` is one file that needs numpy and ONNX Runtime. You copy it to a Raspberry Pi; here it plays the board: a process of its own, one core, one thread, and a limit on the memory that the network may add.
# What it can't play is the slow core. Nor does it measure energy, and neither do we.
#
# This network is too small to fail anywhere that Python runs. The network for characters of lesson 08 isn't: its weights are the largest that are committed here. Memory doesn't ask whether a weight is a good one, so that its factors get no repair.

# %%
characters = models.load("charnet-chars36")
letters = data.load("chars36", "test").sample(100, seed).images
factored = models.load("charnet-chars36")
for name in ("conv2", "conv3"):
    setattr(factored, name, layers.factorize(getattr(factored, name), "spatial_svd", share=0.1))
wide = {"wide": characters, "wide_factored": factored}
wide = {name: deploy.export(each, letters[:1], there / f"{name}.onnx") for name, each in wide.items()}

# %%
sizes = {name: each.bytes for name, each in wide.items()}
assert sizes["wide_factored"] < 0.2 * sizes["wide"] < 0.2e6 * memory_limit
print({name: f"{size / 1e6:.1f} MB" for name, size in sizes.items()}, "under a limit of", memory_limit, "MB")

# %% [markdown]
# **Predict:** the dense file is smaller than the limit. Does it run?


# %%
def on_the_board(name, *options):
    """The script in a process of its own, as on the board: its exit code and what it said."""
    shutil.copy(on_device.__file__, there / "on_device.py")
    command = [sys.executable, "on_device.py", f"{name}.onnx", *map(str, options)]
    return subprocess.run(command, cwd=there, capture_output=True, text=True, check=False)


# %%
dense = on_the_board("wide", "--memory-limit", memory_limit)
assert dense.returncode == on_device.TOO_LARGE
print(dense.stderr)

# %%
light = on_the_board("wide_factored", "--memory-limit", memory_limit)
assert light.returncode == 0
print("the factored network runs under the same limit")

# %% tags=["nbval-ignore-output"]
print(light.stdout)

# %% [markdown]
# The file must be read, its weights unpacked, and packed once more in the order that the processor multiplies in: for a moment several copies are in memory. Count on a multiple of the file.
#
# ### Time
#
# Now the story's network, again with labels, so that the board counts its right answers. `cold` is the first answer: open the file, compute once. `warm` is the median of later ones.

# %%
np.savez(there / "images.npz", images=test.images[:200].numpy(), labels=test.labels[:200].numpy())
named = {"dense": "dense", "dense int8": "dense int8", "small": "small", "small int8": "small int8"}
for name in named:
    done = on_the_board(name, "--images", "images.npz", "--out", "records")
    assert done.returncode == 0, done.stderr

# %%
board = study.results("on-device", there / "records")
assert len(board) == len(named)
assert (board["machine.threads"] == 1).all()
print("four records, as the board writes them")

# %% tags=["nbval-ignore-output"]
shown = board.set_index("parameters.model").filter(regex="cold_ms|warm_ms$|peak_mb|accuracy|file_bytes")
shown.rename(columns=lambda name: name.removeprefix("metrics.")).round(2)

# %% [markdown]
# Compare with the share of multiplications, and with your prediction. Memory hardly moves: nearly all of it is Python and the runtime. Time does not follow the multiplications: each convolution has become two thinner ones, which a core runs less well (lesson 07), and whether int8 gains depends on the processor's products of bytes: at every border between the kinds of numbers it adds a conversion.
#
# ## 9. Accuracy against bytes and time
#
# From here on all numbers are records: all 10,000 test images, each run with other images to calibrate on.


# %%
def recorded(name):
    found = study.results(name)
    return found[found["parameters.profile"] == "full"] if len(found) else found


runs, times = recorded("quantize-network"), recorded("bench-deploy")
print(f"{len(runs)} runs of quantize_network are on record, {len(times)} of bench_deploy")


# %%
def rows_of(run):
    """A row for each way in which one network was quantized."""
    told = {name: run.get(f"parameters.{name}") for name in ("network", "budget", "rounding")}
    told["formats"] = " ".join(run["parameters.formats"]) if run["parameters.budget"] < 1 else "dense"
    if told["formats"] == "dense" or pd.isna(told["rounding"]):  # older records had none
        told["rounding"] = 0.0
    told |= {name: run[f"metrics.{name}"] for name in ("onnx_accuracy", "onnx_bytes")}
    return [
        told | row | {"skip": " ".join(row["skip"]), "seed": run["seed"], "first": k == 0}
        for k, row in enumerate(run["metrics.rows"])
    ]


# %%
HOW = ["network", "formats", "budget", "rounding", "balance", "per_channel", "weight_bits", "skip"]
SHOWN = ["onnx_accuracy", "int8_accuracy", "int8_plain_accuracy", "onnx_bytes", "int8_bytes"]
quantizations = pd.DataFrame(
    [row for run in runs.to_dict("records") for row in rows_of(run)], columns=[*HOW, *SHOWN, "seed", "first"]
)
quantizations = quantizations.drop_duplicates([*HOW, "seed", "first"], keep="last")
quantizations["lost"] = quantizations.onnx_accuracy - quantizations.int8_accuracy
usual = quantizations[quantizations["first"] & (quantizations.network == "resnet20-cifar10")]

# %%
assert (quantizations.int8_bytes < quantizations.onnx_bytes).all()
means = usual.groupby(HOW[1:4])[[*SHOWN, "lost"]].mean().round(4)
means.assign(runs=usual.groupby(HOW[1:4]).size())

# %% [markdown]
# `lost` is what int8 costs, in points of accuracy over 100; `rounding` is the weight of the terms. Then the quantizer's other choices, changed one at a time in runs of one draw. `int8_plain_accuracy` is that of the same rounded numbers multiplied in float: where it is higher, sums overflowed on the processor that ran.

# %%
ablated = quantizations[quantizations.groupby(["budget", "rounding", "seed"])["first"].transform("size") > 1]
ablated.set_index(HOW[2:])[["int8_accuracy", "int8_plain_accuracy", "int8_bytes"]].sort_index().round(4)

# %% [markdown]
# The figure: float and int8 by the size of the file. On the left the records of ResNet-20 (`data/results/`, empty without any), the lines through its budgets. On the right what this page has just measured, live, on few images.

# %%
drawn = usual[(usual.formats == "dense") | (usual.rounding > 0) & (usual.formats == "spatial_svd cp3")]
print(f"{len(drawn)} runs for the left half")


# %%
def draw_recorded(ax):
    if not len(drawn):
        ax.text(0.5, 0.5, "none yet", ha="center")
    for numbers, color in (("onnx", "C0"), ("int8", "C1")) if len(drawn) else ():
        points = drawn.groupby("budget")[[f"{numbers}_bytes", f"{numbers}_accuracy"]].mean()
        label = numbers.replace("onnx", "float")
        ax.plot(points.iloc[:, 0] / 1000, 100 * points.iloc[:, 1], "o-", color=color, label=label)
        ax.annotate(label, (points.iloc[-1, 0] / 1000, 100 * points.iloc[-1, 1]), color=color)


def draw_live(ax):
    sizes = {name: each.bytes for name, each in exported.items()}
    for name, size in (sizes | {name: done.bytes for name, done in made.items()}).items():
        if "," not in name:
            ax.plot(size / 1000, 100 * table[name]["accuracy"], "x", color="0.4")
            ax.annotate(name, (size / 1000, 100 * table[name]["accuracy"]), fontsize=8)


# %%
fig, axes = plt.subplots(1, 2, figsize=(9, 3.6))
draw_recorded(axes[0])
draw_live(axes[1])
axes[0].set(xlabel="file in kB", ylabel="test accuracy in %", title="ResNet-20, records")
axes[1].set(xlabel="file in kB", title=f"{network}, live, few images")
plt.show()

# %% [markdown]
# A point is worth having if no other one is both smaller and better. Compare the lines at one size: the higher one is the better way to it.
# And the time of one image, from the newest benchmark of each budget: one thread, all networks in turns, relative to the dense float network in the same turn.

# %%
newest = times.sort_values("date").drop_duplicates("parameters.budget", keep="last") if len(times) else times
bench = pd.DataFrame(
    [
        {"lanes": 1, "budget": run["parameters.budget"]} | row
        for run in newest.to_dict("records")
        for row in run["metrics.rows"]
    ]
)  # older records padded nothing
SPEED = ["ms", "speedup", "speedup_low", "speedup_high", "gmacs_per_s"]
# %%
if len(bench):
    bench = bench[bench.batch == 1].set_index(["budget", "network", "numbers", "lanes"]).sort_index()
    speed = bench[SPEED].round(3)
else:
    speed = "no full run of bench_deploy is on record yet: tnlib run bench_deploy --profile full"
speed

# %%
if len(bench):
    shown = bench.speedup.unstack("lanes").drop("dense", level="network")
    shown.index = [f"{share:g}: {name}, {numbers}" for share, name, numbers in shown.index]
    ax = shown.plot.barh(figsize=(7, 0.3 * len(shown) + 1), color=["0.8", "C0", "0.5"])
    ax.axvline(1, color="0.4", linestyle="--", linewidth=1)
    ax.set(xlabel="times as fast as the dense float network", ylabel="", title="Ranks in whole lanes decide")
    plt.show()

# %%
if len(bench) and {1, 8} <= set(bench.index.unique("lanes")):
    gain = bench.speedup.xs(8, level="lanes") / bench.speedup.xs(1, level="lanes")
    assert gain.drop("dense", level="network").min() > 1
    print(f"padding to 8 made each compressed network faster, {gain.min():.2f} to {gain.max():.2f} times")

# %% [markdown]
# Read `gmacs_per_s` beside `speedup`: a network with a share $p$ of the multiplications is $1/p$ times as fast only at the same rate, and thin layers have a lower one. Without padding the depthwise step of `cp3` falls back to the slowest kernel of all, and two fifths of the multiplications take *longer* than all of them;
# with it `cp3` is as fast as `spatial_svd`, and keeps more accuracy at equal multiplications (lesson 13). The number of lanes is the processor's: 8 on the one of these records. int8 speeds up the dense network more than a thin one: each factor pays for its conversions.
#
# ## 10. Networks that nobody here wrote
#
# Whoever makes a method tests it on networks that suit it. Two that we didn't choose for that: **MiniLM**, which turns a sentence into a vector (six blocks of linear layers; 22 million parameters, half of them a table of words that stays), and **Silero VAD**, which tells for every
# 32 ms of sound whether somebody speaks (a Fourier transform, four convolutions, an LSTM). Both were trained by others, run on small machines as they are, and came in packages. The same three steps, without labels and without training: ranks, factors, repair. **Predict:** of which of the two can
# a half be left out, and is the kernel's own norm enough to find it?


# %%
def left_of(name, figure):
    """Means over draws, of both stages, where there is a record."""
    found = study.results(name)
    found = found[found["parameters.weights"] != ""] if len(found) else found
    rows = [row | {"norm": r["parameters.metric"]} for r in found.to_dict("records") for row in r["metrics.rows"]]
    kept = [f"raw_{figure}", f"sequence_{figure}"]
    frame = pd.DataFrame(rows, columns=["choice", "norm", "share", *kept])
    return frame.groupby(["choice", "norm", "share"])[kept].mean()


# %%
sentences_left, speech_left = left_of("compress-sentences", "cosine"), left_of("compress-speech", "same")
sentences_left.unstack("share").round(3)

# %% [markdown]
# MiniLM: the mean cosine of a sentence's vector with that of the original, for shares of the linear layers' parameters; halves of verses of the King James Bible, other ones than those looked at (sweep `sentences_study`). Below Silero VAD: the share of decisions that stay as they were, by shares of its layers' multiplications; spoken
# prompts of a telephone exchange with pauses and noise (sweep `speech_study`). `uniform` is an SVD of every layer, and with the norm `weight` it is what people try first.

# %%
speech_left.unstack("share").round(3)

# %%
if len(sentences_left) and len(speech_left):
    raw = sentences_left["raw_cosine"]
    assert raw["allocated", "exact", 0.5] > raw["uniform", "weight", 0.75] + 0.2
    kept = speech_left["raw_same"]
    assert kept["allocated", "exact", 0.12] > 0.95 > 0.5 > kept["uniform", "weight", 0.5]
    assert (speech_left["sequence_same"] > 0.95).all()

# %% [markdown]
# Read three things. MiniLM's linear layers can't be halved for nothing: a cosine of 0.9 still changes who is whose neighbour. The plain SVD leaves Silero VAD deaf, and the norm of what errors do to the answers leaves it as good as it was at an eighth of its layers: the same matrices, the same ranks' cost. And the repair makes
# up for bad factors where the layers before allow it.
#
# Is it worth it? Times in ONNX Runtime with one thread, from the newest benchmark, relative to the dense network in the same turn:

# %%
others = study.results("bench-others")
others = others[others["parameters.profile"] == "full"] if len(others) else others
timed = pd.DataFrame(others.iloc[-1]["metrics.rows"] if len(others) else [])
shown = ["ms", "speedup", "speedup_low", "speedup_high", "macs", "bytes"]
timed.set_index(["network", "size", "share"])[shown].round(3) if len(timed) else "none on record yet"

# %% [markdown]
# `size` is a sentence's length in tokens, or samples of sound. The encoder gains most of what it saves, since its matrices are wide. The detector answers in less than a hundredth of the time that it has, dense or not, and gains little: its Fourier transform, which has no weights to choose, is two fifths of the multiplications. There the smaller file may count, time doesn't.
#
# ## 11. What is not shown
#
# - No board was measured here. The script writes the record on one; bring it back and compare.
# - A limit of the address space isn't a small memory: caches and swap are those of this machine.
# - Training with rounding in the loop goes further than calibration. We had no labels.
# - Four bits, and mixed widths, are another menu: the same allocation could choose from it.
#
# ## Exercises
#
# ### 1. Warm-up: eight bits and back (15 minutes)
#
# Return what int8 makes of `x`: scale and zero point for the range from `low` to `high`, which is widened to contain 0 where it doesn't; stored as integers from -128 to 127, and read back.


# %%
def quantize_affine(x, low, high):
    return ...


check.quantize_affine(quantize_affine)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Section 5 has all of it but the widening. Mind the order: round, add, clip.
# </details>
# <details><summary>Solution</summary>
#
# In the [solutions](solutions/15_bring_a_network_to_a_small_machine.ipynb), section 1.
# </details>

# %% [markdown]
# ### 2. Core: a chain of three (20 minutes)
#
# `cp3` has three factors with the same $R$ channels between them. The largest entries of channel $r$ in them are `a[r]`, `b[r]` and `c[r]`. By which positive scales must each be multiplied so that the product stays and the three ranges of a channel are equal? Return them as (3, R).


# %%
def balance_three(a, b, c):
    return ...


check.balance_three(balance_three)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Call the common range of a channel $m_r$. What is the product of the three ranges before and after?
# </details>
# <details><summary>Solution</summary>
#
# In the [solutions](solutions/15_bring_a_network_to_a_small_machine.ipynb), section 2.
# </details>

# %% [markdown]
# ### 3. Stretch: where to clip (20 minutes)
#
# One outlier makes the step large for all. Of the candidate `ranges` return the one whose symmetric int8 (integers from -127 to 127, step range / 127) has the smallest squared error on `x`: rounding inside and clipping outside, counted together.


# %%
def best_range(x, ranges):
    return ...


check.best_range(best_range)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Quantize all of `x` with each candidate, clip, read back, and sum the squares.
# </details>
# <details><summary>Solution</summary>
#
# In the [solutions](solutions/15_bring_a_network_to_a_small_machine.ipynb), section 3.
# </details>

# %%
folder.cleanup()

# %% [markdown]
# ## Summary
#
# - Measure, choose a budget, compress, repair, freeze, export with proof, round, and measure again where it will run.
# - Affine int8 keeps zero exactly and errs by half a step; the step is the range over 255, so ranges decide.
# - A scale for each output costs little and loses less. Between factors there is a gauge: balance it, it is free.
# - Terms that cancel are rounded each by itself: what int8 costs grows with their squares. A fit that keeps them small loses hardly anything in float.
# - Memory of a network is a multiple of its file. Multiplications are not time, and bits aren't either.
#
# ## Further reading
#
# - B. Jacob et al., [*Quantization and training of neural networks for efficient integer-arithmetic-only inference*](https://arxiv.org/abs/1712.05877), CVPR 2018.
# - A.-H. Phan et al., [*Stable low-rank tensor decomposition for compression of convolutional neural network*](https://arxiv.org/abs/2008.05441), ECCV 2020.
# - M. Nagel, M. van Baalen, T. Blankevoort, M. Welling, [*Data-free quantization through weight equalization and bias correction*](https://arxiv.org/abs/1906.04721), ICCV 2019.
# - M. Nagel et al., [*A white paper on neural network quantization*](https://arxiv.org/abs/2106.08295), 2021.

# %% [markdown]
# Previous: [14 propose a scheme](14_propose_a_scheme.ipynb) · Next: [20 compute with trains](20_compute_with_trains.ipynb) · [Solutions](solutions/15_bring_a_network_to_a_small_machine.ipynb) · [Glossary](GLOSSARY.md)
