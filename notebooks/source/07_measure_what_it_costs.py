# %% [markdown]
# # Measure what it costs
#
# **What you'll do.** Count MACs, bytes and calls of factorized layers, measure the limits of your machine, place the
# layers under its roofline, time them without fooling yourself, and predict latencies before you measure them.
#
# **What you'll learn.** Why a layer with a fifth of the multiplications may be no faster: what arithmetic intensity is,
# why low rank lowers it, why depthwise stages disappoint, what training keeps in memory, what changes on a GPU, and what the
# format and the order of contraction decide.
#
# **What you need first.** The formats of lesson 00, TT-matrices (lesson 04).
#
# **Time.** 200 minutes: 90 to read text and code, 110 for the exercises. Run All takes a minute or two.
# **Difficulty.** Medium.
#
# Previous: [06 build tensor layers](06_build_tensor_layers.ipynb) · Next: [08 reproduce Lebedev](08_reproduce_lebedev.ipynb) · [Solutions](solutions/07_measure_what_it_costs.ipynb) · [Glossary](GLOSSARY.md)

# %% tags=["parameters"]
profile: str = "quick"  # "quick": few ranks and rounds; "full": more ranks, more rounds
batch: int = 16  # images at once
channels: int = 64  # input and output channels of the convolution that is compressed
side: int = 16  # height and width of its feature map
threads: int = 2  # of torch; the roofline is measured with as many
gpu_gmacs: float = 9750.0  # 10^9 MAC/s of a GPU in float32; here and below: data sheet of an NVIDIA A100 (40 GB), 2020
gpu_half_gmacs: float = 156000.0  # the same in float16, by its tensor cores
gpu_gbytes: float = 1555.0  # 10^9 bytes/s of its memory
gpu_launch: float = 5.0  # microseconds from one kernel launch to the next; not from the data sheet: measure yours
seed: int = 0  # of the random numbers that identities are tried on

# %%
import hashlib
import inspect
import math
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from scipy.optimize import nnls
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from tnlib import check, layers, measure, plots
from tnlib.measure import timing

# %%
plots.use_style()
torch.set_num_threads(threads)
generator = torch.Generator().manual_seed(seed)
rounds, fractions = {"quick": (7, [0.2, 0.5, 0.75, 1]), "full": (41, np.linspace(0.1, 1.2, 12))}[profile]

# %% [markdown]
# ## Three prices
#
# Every stage of a network pays three prices: it is *called*, it *moves bytes*, it *multiplies*. Compression lowers the
# third. A chain of small stages raises the first, and often the second. So three counts are needed:
#
# - **MACs**: multiplications with their additions. One MAC is two FLOP; in this lesson rates are in MACs.
# - **Bytes**: read the input once, read the weights once, write the output once. No implementation can move less, unless
#   a cache already holds some of it.
# - **Arithmetic intensity** $I$ = MACs / bytes: how much work each byte brings along.
#
# A linear layer $m \times n$ on a batch of $B$ does $Bmn$ MACs. In float32 it moves $4(Bn + mn + Bm)$ bytes.
# Divide, and the batch and the two sizes appear side by side:
#
# $$\frac 1 I = 4\left(\frac 1 B + \frac 1 m + \frac 1 n\right) .$$


# %%
def linear_intensity_of(B, m, n):
    return 1 / (4 * (1 / B + 1 / m + 1 / n))


# %%
print(
    f"batch 1: {linear_intensity_of(1, 1000, 1000):.3f}  batch 100: {linear_intensity_of(100, 1000, 1000):.1f} MAC/byte"
)

# %% [markdown]
# We count rather than believe. `stages` lets a model run once and notes, for each convolution or linear layer in it, what
# goes in, what comes out, and the weight. Each entry of the output costs one MAC for each entry of its row of the weight.


# %%
def stages(model, x):
    rows = []

    def note(module, inputs, output):
        weight = module.weight.detach()
        moved = inputs[0].nbytes + weight.nbytes + output.nbytes
        rows.append({"macs": output.numel() * weight[0].numel(), "bytes": moved, "call": partial(module, inputs[0])})

    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d)
    hooks = [m.register_forward_hook(note) for m in model.modules() if isinstance(m, kinds)]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    table = pd.DataFrame(rows)
    return table.assign(intensity=table.macs / table.bytes)


# %%
for B, m, n in ((1, 37, 53), (5, 7, 11), (64, 300, 200)):
    row = stages(nn.Linear(n, m, bias=False), torch.zeros(B, n)).iloc[0]
    assert row.macs == B * m * n == measure.cost(nn.Linear(n, m), (B, n)).macs
    assert row.bytes == 4 * (B * n + m * n + B * m)
    assert math.isclose(row.intensity, linear_intensity_of(B, m, n))
print("MACs, bytes and intensity of three linear layers: formula = count")

# %% [markdown]
# The sum of reciprocals is dominated by its largest term: $I$ is below a quarter of the *smallest* of $B$, $m$ and $n$.
# Two consequences. At batch 1 a linear layer does less than a quarter of a MAC per byte, whatever its size. And a
# low-rank layer has a size of $R$ in each of its two stages, so
#
# $$I < \tfrac 14 \min(B, R, \dots) :$$
#
# **low rank means low intensity.** What you save in MACs you partly lose in MACs per second.

# %%
for B, m, n, R in ((64, 200, 300, 8), (1, 200, 300, 8), (500, 90, 70, 5)):
    pair = stages(nn.Sequential(nn.Linear(n, R, bias=False), nn.Linear(R, m, bias=False)), torch.zeros(B, n))
    assert pair.macs.sum() == B * R * (m + n)
    assert (pair.intensity < min(B, R) / 4).all()
    assert linear_intensity_of(B, m, n) < min(B, m, n) / 4
print("each stage of a low-rank layer: intensity below min(B, R) / 4")

# %% [markdown]
# ## Convolutions, stage by stage
#
# A convolution computes $P$ = batch x height x width output positions. With stride 1 and padding that keeps the size,
# each position meets each entry of the kernel once: $P\,T S k^2$ MACs. As for a linear layer,
#
# $$\frac 1 I = 4\left(\frac 1 P + \frac 1 {T k^2} + \frac 1 {S k^2}\right) .$$
#
# Costs do not depend on what the weights are, so here the chains get random ones. The stages are those of lesson 00, as
# (inputs, outputs, kernel, groups), with one rank $R$ for all.


# %%
def chain(format, T, S, k, R=0, stride=1):
    one, square, tall, wide = (1, 1), (k, k), (k, 1), (1, k)
    parts = {
        "dense": [(S, T, square, 1)],
        "svd": [(S, R, square, 1), (R, T, one, 1)],
        "spatial_svd": [(S, R, tall, 1), (R, T, wide, 1)],
        "cp": [(S, R, one, 1), (R, R, tall, R), (R, R, wide, R), (R, T, one, 1)],
        "tucker2": [(S, R, one, 1), (R, R, square, 1), (R, T, one, 1)],
        "tt": [(S, R, one, 1), (R, R, tall, 1), (R, R, wide, 1), (R, T, one, 1)],
    }[format]
    convs = []
    for inputs, outputs, kernel, groups in parts:
        strides = tuple(stride if size > 1 else 1 for size in kernel)
        padding = tuple(size // 2 for size in kernel)
        convs.append(nn.Conv2d(inputs, outputs, kernel, strides, padding, groups=groups, bias=False))
    return nn.Sequential(*convs)


# %% [markdown]
# Are these really the chains that `layers.factorize` makes? Compare the shapes of all weights. (In this lesson each stage
# is timed as it is, in inference. A model for use is frozen first, and `layers.freeze` merges stages: more of that below.)

# %%
formats = ["svd", "spatial_svd", "cp", "tucker2", "tt"]
dense = chain("dense", 24, 20, 3)[0]
for format in formats:
    made = layers.factorize(dense, format, 10, **({"max_iter": 1} if format == "cp" else {}))
    ours = chain(format, 24, 20, 3, 10)
    assert [p.shape for p in made.parameters()] == [p.shape for p in ours.parameters()]
print("same stages as tnlib's, for", ", ".join(formats))

# %% [markdown]
# Now the formulas. Per output position, a chain does as many MACs as it has parameters:

# %%
per_position = {
    "dense": lambda T, S, k, R: T * S * k**2,
    "svd": lambda T, S, k, R: R * (S * k**2 + T),
    "spatial_svd": lambda T, S, k, R: R * k * (S + T),
    "cp": lambda T, S, k, R: R * (S + 2 * k + T),
    "tucker2": lambda T, S, k, R: R * (S + R * k**2 + T),
    "tt": lambda T, S, k, R: R * (S + 2 * R * k + T),
}

# %%
for format, formula in per_position.items():
    for T, S, k, R, H, W in ((7, 5, 3, 4, 9, 6), (6, 11, 5, 3, 7, 8)):
        model = chain(format, T, S, k, R)
        counted = measure.cost(model, (2, S, H, W))
        assert counted.macs == stages(model, torch.zeros(2, S, H, W)).macs.sum() == 2 * H * W * formula(T, S, k, R)
        assert counted.params == formula(T, S, k, R)
print("six formats: MACs = positions x parameters, by formula and by two counts")

# %% [markdown]
# With a stride that is no longer so. The stages before the stride still see the large map, and parameters tell you less
# than you think. **Predict:** which formats suffer? Look for those whose first stage does not stride in both directions.

# %% jupyter={"outputs_hidden": true}
strided = {}
for format in per_position:
    cost = [measure.cost(chain(format, 32, 32, 3, 8, stride), (1, 32, 16, 16)).macs for stride in (1, 2)]
    strided[format] = cost[0] / cost[1]
assert strided["dense"] == strided["svd"] == 4
assert all(strided[format] < 4 for format in ("spatial_svd", "cp", "tucker2", "tt"))
pd.Series(strided, name="MACs at stride 1 / MACs at stride 2").round(2).to_frame()

# %% [markdown]
# ### The depthwise stage
#
# A depthwise $k \times 1$ convolution gives each channel its own $k$ numbers. Per output entry it does $k$ MACs, and it
# moves two entries, one in, one out. Hence
#
# $$I < \frac k 8 \quad \text{MAC per byte, whatever the batch, the rank and the map:}$$
#
# $3/8$ for $k = 3$. Each entry that is read serves $k$ MACs and no more; no larger batch will help.

# %%
for R, k, H, W in ((16, 3, 32, 32), (300, 3, 8, 9), (7, 5, 40, 41)):
    row = stages(chain("cp", 5, 4, k, R), torch.zeros(3, 4, H, W)).iloc[1]
    assert row.macs == 3 * R * H * W * k
    assert row.bytes == 4 * (2 * 3 * R * H * W + R * k)
    assert 0.9 * k / 8 < row.intensity < k / 8
print("depthwise k x 1: just below k / 8 MACs per byte")

# %% [markdown]
# The stages of our convolution, side by side. Read the last column.

# %%
x = torch.rand(batch, channels, side, side, generator=generator)
rank = channels // 2
tables = {f: stages(chain(f, channels, channels, 3, rank), x) for f in per_position}
pd.concat(tables, names=["format", "stage"])[["macs", "bytes", "intensity"]].round({"intensity": 2})

# %% [markdown]
# ## A roofline of this machine
#
# What can the machine do? Multiply two large matrices: take that as the arithmetic peak $\pi$ (MAC/s). Stream arrays that fit
# in no cache: take that as the bandwidth $\beta$ (byte/s). A stage of intensity $I$ whose bytes come from memory cannot run
# faster than
#
# $$\min(\pi, \beta I) ,$$
#
# the *roofline* (Williams, Waterman and Patterson 2009). The two roofs meet at the *ridge* $I^* = \pi / \beta$. Left of
# it memory is the limit, right of it arithmetic. `measure.roofline` measures both in a second or two. (Its arrays have 128 MB each; if
# your processor has a larger cache, ask for larger ones. Measured roofs are no law of nature: expect them to move by some percent.)

# %% tags=["nbval-ignore-output"]
roof = measure.roofline(repeats=5)
print(roof)
print(f"ridge at {roof.ridge():.2g} MAC/byte")

# %%
for intensity in (0, 0.1, 1, 10, 1000):
    assert roof.attainable(intensity) == min(roof.gmacs_per_second["float32"], roof.gbytes_per_second * intensity)
assert math.isclose(roof.attainable(roof.ridge()), roof.gmacs_per_second["float32"])
assert math.isclose(roof.attainable(roof.ridge() / 3), roof.gmacs_per_second["float32"] / 3)
print("attainable = min(peak, bandwidth x intensity); the roofs meet at the ridge")

# %% [markdown]
# One bandwidth is too simple. A stage that follows another finds its input in a cache, if it is small enough. The same
# triad (read two arrays, write one) on smaller and smaller arrays shows how much faster caches are:

# %% tags=["nbval-ignore-output"]
sizes = [0.03, 0.1, 0.3, 1, 3, 10, 30]  # megabytes of each of the three arrays
rates = [measure.roofline(matrix_size=32, array_megabytes=size, repeats=15).gbytes_per_second for size in sizes]
working_set = [3e6 * size for size in [*sizes, 128]]
rates = np.maximum.accumulate([roof.gbytes_per_second, *rates[::-1]])[::-1]
pd.Series(rates, index=pd.Index(np.array(working_set) / 1e6, name="MB in use"), name="GB/s").round(1).to_frame().T

# %% [markdown]
# (On the smallest arrays the call itself costs more than the moving, so the curve is not allowed to fall towards them.)
# For a stage we read the bandwidth off this curve, at the number of bytes that it moves:


# %%
def bandwidth(moved):
    return float(np.interp(np.log(moved), np.log(working_set), rates))


# %% [markdown]
# **Predict, then reveal.** Where will the stages lie: dense $3 \times 3$, its $1 \times 1$ companions, the depthwise ones?
# Each stage is timed on its own input, all of them interleaved.

# %% tags=["nbval-ignore-output"] jupyter={"outputs_hidden": true}
calls = {(f, i): row.call for f, table in tables.items() for i, row in table.iterrows()}
timed = measure.compare({str(key): call for key, call in calls.items()}, rounds=rounds)
for format, table in tables.items():
    table["ms"] = [timed.timings[str((format, i))].median for i in table.index]
    table["gmacs"] = table.macs / table.ms / 1e6
pd.concat(tables)[["intensity", "ms", "gmacs"]].round(3)


# %%
def kind(conv):
    return "depthwise" if conv.groups > 1 else "1 x 1" if conv.kernel_size == (1, 1) else "spatial"


assert [kind(conv) for conv in chain("cp", 8, 8, 3, 4)] == ["1 x 1", "depthwise", "depthwise", "1 x 1"]

# %% jupyter={"outputs_hidden": true}
fig, ax = plt.subplots(figsize=(7, 4.2))
peak = roof.gmacs_per_second["float32"]
for rate, name in ((roof.gbytes_per_second, "memory"), (max(rates), "fastest cache")):
    corner = peak / rate
    ax.plot(
        [corner / 40, corner, 400], [peak / 40, peak, peak], color="0.3", linestyle="-" if name == "memory" else ":"
    )
    left = max(corner / 12, 0.15)
    ax.text(left, min(peak, left * rate), f"{name} ", color="0.3", ha="right", va="bottom")
points = pd.concat(tables.values())
points["kind"] = [kind(call.func) for call in points.call]
for (name, part), color in zip(points.groupby("kind"), ("#0072B2", "#D55E00", "#009E73"), strict=True):
    ax.plot(part.intensity, part.gmacs, "o", color=color, alpha=0.7)
    ax.text(part.intensity.max() * 1.2, part.gmacs.median(), name, color=color, va="center")
ax.plot(*tables["dense"].loc[0, ["intensity", "gmacs"]], "*k", markersize=11)
ax.set(xscale="log", yscale="log", xlim=(0.02, 400), xlabel="arithmetic intensity (MAC/byte)", ylabel="rate (GMAC/s)")
ax.set_title("Stages of little intensity run at a fraction of the peak")
plt.show()

# %% [markdown]
# Each point is one stage, the star the dense kernel. The solid line is what main memory allows, the dotted one what the fastest cache
# would. A stage above the solid line lives in a cache. No stage here has less intensity than the depthwise ones. How
# far a point lies *below* its roof is the fault of the kernel that torch runs and of the call's overhead, not of the mathematics.
#
# ## Latency done right
#
# A clock is easy to misread. Five mistakes, each of them made here on purpose. First a naive stopwatch:


# %%
def stopwatch(f, count):
    times = []
    with torch.no_grad():
        for _ in range(count):
            start = time.perf_counter()
            f()
            times.append(1e3 * (time.perf_counter() - start))
    return np.array(times)


# %% [markdown]
# **Mistake 1: no warm-up.** The first call with a new shape chooses and prepares kernels and touches fresh memory.

# %% tags=["nbval-ignore-output"]
fresh = nn.Conv2d(48, 80, 5)
first, *rest = stopwatch(partial(fresh, torch.rand(4, 48, 23, 21, generator=generator)), 30)
print(
    f"first call {first:.2f} ms, median of the next {len(rest)}: {np.median(rest):.2f} ms, ratio {first / np.median(rest):.1f}"
)

# %% [markdown]
# **Mistake 2: the mean.** Interruptions make some calls longer, none shorter: the distribution has one long tail. A mean
# follows its tail, a median does not. On numbers you can check by hand:

# %%
quiet_times = np.array([1.0, 1.1, 1.0, 1.2, 1.1, 1.0, 1.1])
with_one_stall = np.append(quiet_times, 50.0)
assert with_one_stall.mean() > 6 * quiet_times.mean()
assert abs(np.median(with_one_stall) - np.median(quiet_times)) <= 0.1
print("one stall in eight calls: the mean is more than six times as large, the median moves by less than 10 %")

# %% tags=["nbval-ignore-output"]
layer, vector = nn.Linear(256, 256), torch.rand(8, 256, generator=generator)
times = stopwatch(partial(layer, vector), 2000)[100:]
low, middle, high, worst = np.quantile(times, [0.1, 0.5, 0.9, 1])
print(f"mean {times.mean():.4f}  median {middle:.4f}  10 to 90 %: {low:.4f} to {high:.4f}  worst {worst:.2f} ms")

# %% [markdown]
# Give the median *and* a spread; `measure.latency` returns both. The spread is that of single calls. The median of many calls
# is known much better, so two programs may differ although their spreads overlap; and both may be shifted alike by what else
# the machine does. Whether they differ is seen when they run in turns, from the spread of the *ratio* (mistake 4).
#
# **Mistake 3: an unknown number of threads.** $t$ threads can at best divide the arithmetic by $t$. (The other cores bring their
# caches, too, so the time may now and then fall by more.) Handing out work and waiting for the slowest thread costs microseconds in
# every call, whatever its size, and torch hands out very small work not at all. So read the last column from top to bottom:


# %%
@contextmanager
def using(count):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# %% tags=["nbval-ignore-output"]
work = {f"{n} x {n}": partial(nn.Linear(n, n), torch.rand(32, n, generator=generator)) for n in (32, 128, 512, 2048)}
by_threads = {}
for count in (1, threads):
    with using(count):
        timings = measure.compare(work, rounds=4 * rounds).timings
        by_threads[f"ms, threads {count}"] = {name: timing.median for name, timing in timings.items()}
pd.DataFrame(by_threads).assign(ratio=lambda t: t.iloc[:, 0] / t.iloc[:, -1]).round(4)

# %% [markdown]
# A ratio that grows downwards says that small stages, those of a compressed network, gain less from threads than the large ones
# that they replace. Then the speed-up by compression depends on the number of threads: quote it *with* that number.
#
# **Mistake 4: one after the other.** You time A, then B. In between a neighbour starts to work. B looks slow. To see how bad
# it gets, let A and B be *the same function*, and be our own neighbour:


# %%
@contextmanager
def neighbour():
    stop, load = threading.Event(), bytes(10**6)

    def work():
        while not stop.is_set():
            hashlib.sha256(load)  # runs beside Python, on one core

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


# %%
job = partial(nn.Linear(2048, 2048), torch.rand(64, 2048, generator=generator))
warm = stopwatch(job, 5)
block_a = stopwatch(job, 40)
with neighbour():
    block_b = stopwatch(job, 40)
turns = [stopwatch(job, 2) for _ in range(20)]
with neighbour():
    turns += [stopwatch(job, 2) for _ in range(20)]
turn_a, turn_b = np.array(turns).T

# %%
fig, axes = plt.subplots(1, 2, figsize=(8, 3.2), sharey=True)
calls_of = {"A": (np.arange(40), np.arange(0, 80, 2)), "B": (np.arange(40, 80), np.arange(1, 80, 2))}
for (name, x_of), color, block, turn in zip(
    calls_of.items(), ("#0072B2", "#D55E00"), (block_a, block_b), (turn_a, turn_b), strict=True
):
    for ax, position, ms in zip(axes, x_of, (block, turn), strict=True):
        ax.plot(position, ms, "o", color=color, markersize=3)
    axes[0].text(x_of[0][19], 0.3 * block_a.min(), name, color=color, fontweight="bold")
    axes[1].text(x_of[1][18 if name == "A" else 21], 0.3 * block_a.min(), name, color=color, fontweight="bold")
for ax, title in zip(axes, ("In blocks, only B meets the neighbour", "In turns, both meet it"), strict=True):
    ax.axvspan(40, 80, color="0.92", zorder=0)
    ax.set(title=title, xlabel="number of the call", ylim=(0, 1.25 * np.quantile([*block_b, *turn_b], 0.95)))
    ax.text(0.98, 0.97, "a neighbour works", fontsize=9, color="0.3", ha="right", va="top", transform=ax.transAxes)
axes[0].set_ylabel("time of one call (ms)")
plt.show()

# %% tags=["nbval-ignore-output"]
print(f"in blocks, ratio of medians: B takes {np.median(block_b) / np.median(block_a):.2f} times as long as A")
print(f"in turns, median of ratios:  B takes {np.median(turn_b / turn_a):.2f} times as long as A")

# %% [markdown]
# The truth is 1. (On a machine with more idle cores than you use, the neighbour may not be felt at all.) In turns, what the
# machine does to a whole round it does to both, and the ratio *taken round by round* cancels it. A slow drift does not cancel completely, since B always comes second. Let the order alternate, A B B A, and
# a linear drift has exactly the same sum over both:

# %%
drift = {call: 1 + 0.01 * call for call in range(80)}


# %%
blocks = sum(drift[i] for i in range(40, 80)) / sum(drift[i] for i in range(40))
turns_abab = sum(drift[i] for i in range(1, 80, 2)) / sum(drift[i] for i in range(0, 80, 2))
alternating = sum(drift[i] for i in range(80) if i % 4 in (1, 2)) / sum(drift[i] for i in range(80) if i % 4 in (0, 3))
assert math.isclose(alternating, 1)
assert 1 < turns_abab < 1.01 < 1.3 < blocks
print(f"bias of a linear drift: in blocks {blocks:.3f}, A B A B {turns_abab:.3f}, A B B A {alternating:.3f}")

# %% [markdown]
# **Mistake 5: memory that is new in every call.** A chain of layers writes results and frees them. Where do they live?
# The C library may hand their pages back to the system after each call and ask for them again in the next; the system
# then has to find and to clear all of them. It does so in a small program. One that has once freed a large block keeps
# what it has. **Predict, then reveal:** fifty results of some 8 MB, each slightly larger than what was freed before, in a
# program of their own, which needs no torch for that; once as it is, and once after a block of 32 MB was asked for and
# given back. What does the block change?

# %%
PROGRAM = """
import resource, sys, time

if "freed" in sys.argv:
    b"1" * 32_000_000

before, start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.perf_counter()
for i in range(50):
    b"1" * (8_000_000 + 8_000 * i)
pages = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(pages / 50, 1000 * (time.perf_counter() - start) / 50)
"""

# %%
answers = [
    subprocess.run([sys.executable, "-c", PROGRAM, word], capture_output=True, text=True, check=True).stdout
    for word in ("as it is", "freed")
]
pages = np.array([answer.split() for answer in answers], dtype=float)
assert pages.shape == (2, 2)

# %% tags=["nbval-ignore-output"] jupyter={"outputs_hidden": true}
pd.DataFrame(pages, index=["as it is", "block freed"], columns=["new pages a result", "ms a result"]).round(2)

# %% [markdown]
# A single layer timed alone in a program may thus look slower than it is in a network. (This is glibc's rule, of Linux;
# other systems have other rules.)
#
# `measure.compare` does all of it: one large block freed, two calls to warm up, one call of each a round, alternating
# order, medians of ratios.
#
# ## Batch size and memory format
#
# **Predict, then reveal.** A linear layer has $I \approx B / 4$ as long as $B$ is small. How does its time grow with $B$,
# left of the ridge and right of it?


# %%
def roof_ms(macs, moved):
    """Milliseconds of a call: its overhead, then arithmetic or memory, whichever takes longer."""
    limit = max(macs / roof.gmacs_per_second["float32"], moved / bandwidth(moved)) / 1e6
    return roof.overhead_microseconds / 1e3 + limit


# %%
assert roof_ms(0, 1) >= roof.overhead_microseconds / 1e3
assert roof_ms(2e9, 1) > 1.99 * roof_ms(1e9, 1) - roof.overhead_microseconds / 1e3
print("overhead + max(MACs / peak, bytes / bandwidth)")

# %% tags=["nbval-ignore-output"] jupyter={"outputs_hidden": true}
batches, n = [1, 2, 4, 8, 16, 32, 64, 128, 256], 2048
wide = nn.Linear(n, n, bias=False)
inputs = {str(B): partial(wide, torch.rand(B, n, generator=generator)) for B in batches}
measured = [timing.median for timing in measure.compare(inputs, rounds=rounds).timings.values()]
predicted = [roof_ms(B * n * n, 4 * (2 * B * n + n * n)) for B in batches]
pd.DataFrame({"roofline, ms": predicted, "measured, ms": measured}, index=batches).rename_axis("batch").round(3).T

# %% jupyter={"outputs_hidden": true}
fig, ax = plt.subplots()
for name, ms, style in (("measured", measured, "o-"), ("roofline", predicted, "--")):
    ax.plot(batches, np.divide(ms, batches), style, color="#0072B2" if name == "measured" else "0.4", label=name)
ax.set(xscale="log", yscale="log", xlabel="batch", ylabel="time per sample (ms)", xlim=(0.9, 600))
ax.set_xticks(batches, batches)
ax.yaxis.set_major_formatter("{x:g}")
ax.yaxis.set_minor_formatter(lambda y, _: f"{y:g}" if str(f"{y:e}")[0] in "25" else "")
ax.set_title("A sample takes less time in a larger batch")
plots.label_lines(ax)
plt.show()

# %% [markdown]
# While the weights' bytes dominate, another sample is free, *says the roofline*: the weights are read once for all samples of a
# call. Kernels for a few rows need not keep that promise. What did they make of it here, from one sample to eight?

# %% tags=["nbval-ignore-output"] jupyter={"outputs_hidden": true}
one, eight = measured[0], measured[batches.index(8)]
print(
    f"eight samples: by the roofline {predicted[3] / predicted[0]:.1f} times the time of one, measured {eight / one:.1f}"
)

# %% [markdown]
# At batch 1, reading the weights is most of the work, and a compressed linear layer has fewer of them to read.
#
# **Memory format.** Images are stored (batch, channels, height, width). *Channels last* keeps the shape and changes the
# order in memory, such that all channels of one position lie together. Results are equal but for rounding, times are not.

# %%
conv = chain("dense", channels, channels, 3)
last = x.contiguous(memory_format=torch.channels_last)
assert last.shape == x.shape
assert last.stride() == (channels * side**2, 1, side * channels, channels)
assert torch.allclose(conv(x), conv(last), atol=1e-4)
print("same shape, same result, other strides")

# %%
rivals = {}
for format in per_position:
    model = chain(format, channels, channels, 3, rank)
    rivals |= {(format, "contiguous"): partial(model, x), (format, "channels last"): partial(model, last)}


# %% tags=["nbval-ignore-output"]
timed = measure.compare({str(key): call for key, call in rivals.items()}, rounds=rounds).timings
by_layout = pd.Series({key: timed[str(key)].median for key in rivals}).unstack()
by_layout.assign(ratio=by_layout["contiguous"] / by_layout["channels last"]).loc[list(per_position)].round(3)

# %% [markdown]
# A ratio above 1 says that channels last is faster here. Whichever wins on your machine, compare formats in the layout
# that suits each, or at least say which one you used. From here on: channels last.
#
# ## Break-even ranks
#
# Up to which rank does a chain do fewer MACs than the dense kernel? For formats that are linear in $R$, divide; for
# `tucker2` and `tt` with one rank solve a quadratic, $a R^2 + (S + T) R < T S k^2$ with $a = k^2$ or $2k$.


# %%
def break_even(format, T, S, k):
    total = T * S * k**2
    quadratic = {"tucker2": k**2, "tt": 2 * k}.get(format, 0)
    linear = {"svd": S * k**2 + T, "spatial_svd": k * (S + T), "cp": S + 2 * k + T}.get(format, S + T)
    if quadratic == 0:
        return math.ceil(total / linear) - 1
    root = (math.sqrt(linear**2 + 4 * quadratic * total) - linear) / (2 * quadratic)
    return math.ceil(root) - 1


# %%
for format in formats:
    for T, S, k in ((64, 64, 3), (128, 64, 3), (192, 48, 5), (17, 9, 3)):
        R = break_even(format, T, S, k)
        assert per_position[format](T, S, k, R) < T * S * k**2 <= per_position[format](T, S, k, R + 1)


# %%
shapes = {"64 -> 64, 3x3": (64, 64, 3), "256 -> 256, 3x3": (256, 256, 3), "64 -> 192, 5x5": (192, 64, 5)}
pd.DataFrame({name: {f: break_even(f, *shape) for f in formats} for name, shape in shapes.items()}).rename_axis(
    "format"
)

# %% [markdown]
# At stride 1 the break-even rank in parameters is the same, as MACs are positions times parameters. At stride 2 it is not: that is
# exercise 4.
#
# And on the clock? **Predict** the rank at which the chain takes as long as the dense layer: at the break-even of MACs,
# or well below? Two layers with equal MACs, one with a large map and few channels, one the other way round.

# %% tags=["nbval-ignore-output"] jupyter={"outputs_hidden": true}
cases = {f"{c} channels, {s} x {s}": (c, s) for c, s in ((channels, side), (2 * channels, side // 2))}
curves = {}
for name, (c, s) in cases.items():
    image = torch.rand(batch, c, s, s, generator=generator).contiguous(memory_format=torch.channels_last)
    ranks = {f: sorted({max(1, int(v * break_even(f, c, c, 3))) for v in fractions}) for f in ("svd", "cp", "tucker2")}
    models = {(f, r): chain(f, c, c, 3, r) for f in ranks for r in ranks[f]}
    rivals = {"dense": chain("dense", c, c, 3)} | {str(key): model for key, model in models.items()}
    speed = measure.compare(rivals, image.detach(), rounds=rounds).speedup
    rows = [(f, r, per_position[f](c, c, 3, r) / (9 * c * c), 1 / speed[str((f, r))][0]) for f, r in models]
    curves[name] = pd.DataFrame(rows, columns=["format", "rank", "macs", "time"])
    print(f"{name}: {len(models)} chains timed")

# %% jupyter={"outputs_hidden": true}
fig, axes = plt.subplots(1, 2, figsize=(9, 3.9), sharey=True, layout="constrained")
for ax, (name, curve) in zip(axes, curves.items(), strict=True):
    ax.plot([0, 1], [0, 1], color="0.5", linestyle="--")
    ax.axhline(1, color="0.5", linewidth=1)
    for format, part in curve.groupby("format", sort=False):
        ax.plot(part.macs, part.time, **plots.FORMAT_STYLE[format], label=format)
    ax.set(xlabel="MACs of the chain / of the dense layer", xlim=(0, 1.35))
    ax.set_title(name, fontsize=10, fontweight="normal")
axes[0].set(
    ylabel="time / of the dense layer", ylim=(0, 1.1 * max(1, *(curve.time.max() for curve in curves.values())))
)
for ax in axes:
    plots.label_lines(ax)
    ax.text(1.34, 0.98, "as fast as dense", fontsize=8, color="0.4", ha="right", va="top")
    ax.text(0.6, 0.52, "time like MACs", fontsize=8, color="0.4", va="top")
fig.suptitle("Time does not follow MACs", x=0.01, ha="left", fontweight="bold")
plt.show()

# %% [markdown]
# Points above the dashed line gain less time than MACs; above the grey line they are slower than the layer they replace.
# The largest rank *tried* at which a chain was still faster than dense, beside the one that MACs promise:

# %% tags=["nbval-ignore-output"]
promised = {name: {f: break_even(f, c, c, 3) for f in ("svd", "cp", "tucker2")} for name, (c, s) in cases.items()}
found = {
    name: {f: max(curve["rank"][(curve.format == f) & (curve.time < 1)], default="none") for f in promised[name]}
    for name, curve in curves.items()
}
pd.concat({"by MACs": pd.DataFrame(promised), "on the clock": pd.DataFrame(found)}, axis=1).rename_axis("format")

# %% [markdown]
# ## Why depthwise stages disappoint
#
# Take the `cp` chain apart. The two depthwise stages have next to no MACs. Their share of the time is another matter:

# %% tags=["nbval-ignore-output"]
R = break_even("cp", channels, channels, 3) // 4
parts = stages(chain("cp", channels, channels, 3, R), last)
timed = measure.compare({str(i): call for i, call in enumerate(parts.call)}, rounds=2 * rounds).timings
parts["ms"] = [timing.median for timing in timed.values()]
parts["attainable"] = [roof.attainable(i) for i in parts.intensity]
parts["GMAC/s"] = parts.macs / parts.ms / 1e6
parts.index = ["1 x 1, in", "3 x 1 depthwise", "1 x 3 depthwise", "1 x 1, out"]
share = parts[["macs", "bytes", "ms"]] / parts[["macs", "bytes", "ms"]].sum()
share.round(3).join(parts[["attainable", "GMAC/s"]].round(1))

# %% [markdown]
# (The first three columns are shares of the chain's total.) Compare the share of time with that of bytes rather than with
# that of MACs. `attainable` is what main memory would allow: if the depthwise stages exceed it, a cache helps them.
#
# Bytes suggest a remedy. A $k \times 1$ depthwise stage followed by $1 \times k$ is one $k \times k$ depthwise stage
# whose kernels are outer products. That has *more* MACs, $k^2$ instead of $2k$ per entry, and half the traffic:

# %%
vertical, horizontal = (torch.rand(7, 3, generator=generator, dtype=torch.float64) for _ in range(2))


# %%
y = torch.rand(2, 7, 6, 5, generator=generator, dtype=torch.float64)
step = nn.functional.conv2d(y, vertical[:, None, :, None], padding=(1, 0), groups=7)
two = nn.functional.conv2d(step, horizontal[:, None, None, :], padding=(0, 1), groups=7)
merged = torch.einsum("rh,rw->rhw", vertical, horizontal)[:, None]
assert torch.allclose(two, nn.functional.conv2d(y, merged, padding=1, groups=7))
print("two depthwise stages = one with outer products as kernels")

# %%
pair = nn.Sequential(*chain("cp", channels, channels, 3, R)[1:3])
single = nn.Sequential(nn.Conv2d(R, R, 3, padding=1, groups=R, bias=False))
maps = torch.rand(batch, R, side, side, generator=generator).contiguous(memory_format=torch.channels_last)


# %%
counts = {name: stages(model, maps)[["macs", "bytes"]].sum() for name, model in (("two", pair), ("one", single))}
assert 2 * counts["one"].macs == 3 * counts["two"].macs
assert 0.5 < counts["one"].bytes / counts["two"].bytes < 0.53
pd.DataFrame(counts)

# %% [markdown]
# **Predict, then reveal.** Which one is faster?

# %% tags=["nbval-ignore-output"] jupyter={"outputs_hidden": true}
race = measure.compare({"two stages": pair, "one stage": single}, maps, rounds=4 * rounds)
print(race)
ratio = race.speedup["one stage"][0]
print("the one with", "more MACs and fewer bytes" if ratio > 1 else "fewer MACs and more bytes", "is faster here")

# %% [markdown]
# In training the two stages have to stay two: their factors are what learns. (Or the layer has one such stage from the
# beginning, with any kernels: that is the format `cp3`.) For use they need not. `layers.freeze` returns a copy of a model
# for inference, in which the two are one. (It also fills the rank up with zeros to whole registers, which costs MACs.)
# Is all that worth it here? Read the ratio.

# %%
conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
cp_layer = layers.factorize(conv, "cp", R, weights="fresh", seed=seed)
frozen = layers.freeze(cp_layer, last)
with torch.no_grad():
    assert (frozen(last) - cp_layer(last)).norm() < 1e-4 * cp_layer(last).norm()
print("cp, the layer:", [tuple(stage.weight.shape) for stage in cp_layer])
print("cp, frozen:   ", [tuple(kernel.shape) for kernel in frozen.buffers()])

# %% tags=["nbval-ignore-output"]
print(measure.compare({"the layer": cp_layer, "frozen": frozen}, last, rounds=2 * rounds))

# %% [markdown]
# ## Peak memory of training (optional)
#
# Inference forgets: at any moment it holds the input and the output of one stage. Training remembers: backward needs the
# input of every stage. `measure.peak_memory` reports what torch allocates above the start. For a chain of linear
# layers the counts are short sums.

# %%
widths = [40, 30, 20, 10, 30]
mlp = nn.Sequential(*[nn.Linear(a, b, bias=False) for a, b in pairwise(widths)])
samples = torch.rand(100, widths[0], generator=generator)
with torch.no_grad():
    inference = measure.peak_memory(mlp, samples)
training = measure.peak_memory(mlp, samples)
assert inference == 4 * 100 * max(a + b for a, b in pairwise(widths[1:]))
assert training == 4 * 100 * sum(widths[1:])
print(f"forward, 100 samples: {inference:,} bytes without gradients, {training:,} with")

# %% [markdown]
# So a chain of $L$ stages keeps $L - 1$ maps more than the dense layer, at stride 1 each of $B R H W$ numbers. Whether that is much
# depends on the rank: with `cp` ranks are large.

# %% [markdown]
# **Predict, then reveal.** One training step (forward and backward) of our convolution, dense and as chains of equal
# parameters. Rank your guesses.


# %%
def training_step(model, image):
    model.zero_grad(set_to_none=True)
    model(image).square().mean().backward()


# %% tags=["nbval-ignore-output"] jupyter={"outputs_hidden": true}
memory = {}
for format in per_position:
    R = max(
        r for r in range(1, 1000) if r == 1 or per_position[format](channels, channels, 3, r) <= channels**2 * 9 / 3
    )
    model = chain(format, channels, channels, 3, R)
    image = last.clone().requires_grad_()
    kept = sum(conv.out_channels for conv in model[:-1]) * batch * side**2 * 4
    memory[format] = {"rank": R, "kept between stages, MB": kept / 1e6}
    memory[format]["peak of a step, MB"] = measure.peak_memory(training_step, model, image) / 1e6
pd.DataFrame(memory).T.round(2)

# %% [markdown]
# <details><summary>What the table says</summary>
#
# A compressed layer can need *more* memory to train than the original. `cp` buys many terms for its parameters, and each stage keeps a
# map of all of them. (The rank of `dense` means nothing.)
# </details>
#
# The remedy is *checkpointing*: keep only the
# chain's input, and compute the rest again during backward (Chen et al. 2016). It is paid for in MACs. Linear layers, where we
# can count; the gradient of the input is computed, too:


# %%
def checkpointed(model, x):
    return checkpoint(model, x, use_reentrant=False, preserve_rng_state=False)


samples = torch.rand(100, widths[0], generator=generator).requires_grad_()
results = {}
for name, forward in (("plain", mlp), ("checkpointed", partial(checkpointed, mlp))):
    with FlopCounterMode(display=False) as counter:
        forward(samples).sum().backward()
    results[name] = {"MACs of a step": counter.get_total_flops() // 2}
    results[name]["peak bytes of forward"] = measure.peak_memory(forward, samples)
pd.DataFrame(results).T

# %%
forward_macs = measure.cost(mlp, (100, widths[0])).macs
assert results["plain"]["MACs of a step"] == 3 * forward_macs
last_stage = 100 * widths[-2] * widths[-1]
assert results["checkpointed"]["MACs of a step"] == 4 * forward_macs - last_stage
assert results["checkpointed"]["peak bytes of forward"] == inference
print("a step is 3 forward passes; checkpointing adds the recomputation of all stages but the last")

# %% [markdown]
# ## On a GPU (optional)
#
# All counts stay as they are; the clock does not. A call only puts a *kernel* (a program for the GPU) into a queue and returns, often
# before the kernel has begun. A stopwatch around the call times the queueing. A queue with one worker shows the effect
# without a GPU; each of its ten jobs takes twenty milliseconds:

# %% tags=["nbval-ignore-output"]
with ThreadPoolExecutor(1) as queue:
    start = time.perf_counter()
    jobs = [queue.submit(time.sleep, 0.02) for _ in range(10)]
    queued = time.perf_counter() - start
    jobs[-1].result()  # the queue keeps its order: when the last job is done, all are
    done = time.perf_counter() - start
assert queued < 0.2 <= done
print(f"returned after {1e3 * queued:.1f} ms, done after {1e3 * done:.0f} ms")

# %% [markdown]
# So a stopwatch has to wait for the queue, *before* it starts (for what others have put there) and before it stops:
# `torch.cuda.synchronize()`. `measure.latency` and `measure.compare` do so by themselves. This is the code that reads the clock:

# %%
print(inspect.getsource(timing._milliseconds))

# %% tags=["nbval-ignore-output"]
if torch.cuda.is_available():
    print(measure.latency(nn.Linear(2048, 2048, device="cuda"), torch.rand(64, 2048, device="cuda")))
else:
    print("no GPU here: the calls of synchronize above were not executed, here or anywhere in this notebook")

# %% [markdown]
# **Warm-up** matters more: the first call makes the GPU's context, loads or compiles kernels and may try several. And each
# kernel pays for its **launch**, some microseconds. In one stream, $L$ kernels whose bytes come from memory cannot take less than
#
# $$\max\Bigl(L\,t_{\text{launch}},\ \sum\nolimits_{\ell} \max(\text{MACs}_\ell / \pi,\ \text{bytes}_\ell / \beta)\Bigr) ,$$
#
# unless launches are recorded once and replayed together (CUDA graphs). Put your GPU's numbers into the parameters. (By default torch
# lets convolutions in float32 round their factors for tensor cores, TF32; then that rate is the peak.) Half
# precision has two bytes a number, so $I = \frac 12 (1/B + 1/m + 1/n)^{-1}$, and a layer needs sizes above
# $I^*$ times the bytes of a number to reach the ridge:

# %% tags=["nbval-ignore-output"]
machines = {"CPU, measured": (roof.gmacs_per_second["float32"], roof.gbytes_per_second, roof.overhead_microseconds, 4)}
machines["GPU, float32"] = (gpu_gmacs, gpu_gbytes, gpu_launch, 4)
machines["GPU, float16"] = (gpu_half_gmacs, gpu_gbytes, gpu_launch, 2)
limits = pd.DataFrame(machines, index=["GMAC/s", "GB/s", "us a call", "bytes a number"]).T
limits["ridge (MAC/byte)"] = limits["GMAC/s"] / limits["GB/s"]
limits["sizes above"] = limits["ridge (MAC/byte)"] * limits["bytes a number"]
limits["million MACs in a call's time"] = limits["GMAC/s"] * limits["us a call"] / 1e3
limits.T.round(1)

# %% [markdown]
# The last row says how much work a stage must bring along before its arithmetic is longer than its launch. **Predict:** by this
# bound, is a chain of our convolution, with all its savings in MACs, faster than the dense kernel on that GPU in float32? Change
# `batch`, and see.

# %% jupyter={"outputs_hidden": true}
bounds = {}
for format in per_position:
    table = stages(chain(format, channels, channels, 3, rank), x)
    work = np.maximum(table.macs / gpu_gmacs, table.bytes / gpu_gbytes) / 1e3
    launches, done = len(work) * gpu_launch, 0.0
    for number, us in enumerate(work, 1):  # a kernel begins when it is launched and the one before is done
        done = max(done, number * gpu_launch) + us
    bound = max(launches, work.sum())
    assert bound <= done <= launches + work.sum()
    bounds[format] = {"MACs / dense": table.macs.sum() / tables["dense"].macs.sum(), "kernels": len(table)}
    bounds[format] |= {"launches, us": launches, "work, us": work.sum(), "at least, us": bound}
pd.DataFrame(bounds).T.round(2)

# %% [markdown]
# ## The order of contraction
#
# A TT-matrix has cores of shape $R_q \times m_q \times n_q \times R_{q+1}$ for $q = 0, \dots, d - 1$, with $m_q$ the digits of the
# outputs and $n_q$ those of the inputs. The sum over all bonds and input digits has one value and many orders. Take the cores one after
# the other from the *last* one. At core $q$ the inputs $n_0 \cdots n_q$ are not yet met, and the outputs $m_{q+1} \cdots m_{d-1}$ are done:
#
# $$\text{MACs} = B \sum_{q=0}^{d-1} \; (n_0 \cdots n_{q-1}) \; (R_q m_q)(n_q R_{q+1}) \; (m_{q+1} \cdots m_{d-1}) .$$
#
# From the first core it is the same formula for the reversed train.


# %%
def from_last_macs(m, n, R, B):
    bonds = [1, *R, 1]
    return B * sum(
        math.prod(n[:q]) * bonds[q] * m[q] * n[q] * bonds[q + 1] * math.prod(m[q + 1 :]) for q in range(len(m))
    )


def from_first_macs(m, n, R, B):
    return from_last_macs(m[::-1], n[::-1], R[::-1], B)


# %% [markdown]
# Both orders as plain matrix products. From the last core, `y` is always (what is left of the inputs, bond and digit to be met,
# outputs done); from the first, (batch and outputs done, bond and digit to be met, what is left of the inputs):


# %%
def from_last(cores, x):
    y = x.reshape(-1, 1)
    for core in reversed(cores):
        left, m, n, right = core.shape
        done = y.shape[1]
        y = core.reshape(left * m, n * right) @ y.reshape(-1, n * right, done)
        y = y.reshape(-1, m * done)
    return y.reshape(len(x), -1)


def from_first(cores, x):
    y, rows = x, len(x)  # rows: batch times the outputs done
    for core in cores:
        left, m, n, right = core.shape
        y = core.permute(1, 3, 0, 2).reshape(m * right, left * n) @ y.reshape(rows, left * n, -1)
        rows *= m
    return y.reshape(len(x), -1)


# %% [markdown]
# Equal results, and equal to the dense matrix; MACs by formula and by torch's counter:


# %%
def random_cores(m, n, R, dtype=torch.float32):
    bonds = [1, *R, 1]
    sizes = [(bonds[q], m[q], n[q], bonds[q + 1]) for q in range(len(m))]
    return [torch.randn(size, generator=generator, dtype=dtype) / math.prod(size[2:]) ** 0.5 for size in sizes]


# %%
def counted(f, *args):
    with FlopCounterMode(display=False) as counter:
        f(*args)
    return counter.get_total_flops() // 2


# %%
m, n, R, B = (3, 2, 5), (4, 3, 2), (3, 2), 7
cores, samples = random_cores(m, n, R, torch.float64), torch.rand(B, 24, generator=generator, dtype=torch.float64)


# %%
matrix = torch.einsum("aipb,bjqc,ckrd->ijkpqr", *cores).reshape(30, 24)
for contract, formula in ((from_last, from_last_macs), (from_first, from_first_macs)):
    assert torch.allclose(contract(cores, samples), samples @ matrix.T)
    assert counted(contract, cores, samples) == formula(m, n, R, B)
print("both orders equal the dense product, and cost what the formula says")

# %% [markdown]
# Now a large layer, the first fully connected one of a VGG network in the digits of Novikov et al. 2015:
# $25088 = 2 \cdot 7 \cdot 8 \cdot 8 \cdot 7 \cdot 4$ inputs, $4096 = 4^6$ outputs, rank 4. **Predict:** which order is
# cheaper? Guess by how the intermediate result grows or shrinks.

# %% jupyter={"outputs_hidden": true}
n, m, R = (2, 7, 8, 8, 7, 4), (4,) * 6, (4,) * 5
macs = {"dense": 25088 * 4096, "from first": from_first_macs(m, n, R, 1), "from last": from_last_macs(m, n, R, 1)}
assert macs["from last"] < macs["from first"] < macs["dense"]
print("MACs of a sample:", "  ".join(f"{name} {count:,}" for name, count in macs.items()))

# %% [markdown]
# Those are not the only orders. Merging neighbouring cores first gives more, and a batch can be cut into chunks whose
# intermediate results fit in a cache. `tnlib`'s layers search over all of it; `explain` prints the plan for a batch, and
# `layers.freeze` merges by it, once.

# %% tags=["nbval-ignore-output"]
cores = random_cores(m, n, R)
layer = layers.TTMLinear(cores)
print(layer.explain(batch))

# %%
samples = torch.rand(3, 25088, generator=generator)
with torch.no_grad():
    planned, plain = layers.freeze(layer, samples)(samples), from_last(cores, samples)
assert (planned - plain).norm() < 1e-4 * plain.norm()
assert measure.cost(layer, (3, 25088)).macs < 3 * macs["dense"]
print("the planned layer computes the same, with fewer MACs than the dense one")

# %% [markdown]
# **Predict, then reveal.** Will the order with fewer MACs be the faster one?

# %% tags=["nbval-ignore-output"] jupyter={"outputs_hidden": true}
orders, rows = {"from first": partial(from_first, cores), "from last": partial(from_last, cores)}, []
for B in (1, batch):
    samples = torch.rand(B, 25088, generator=generator)
    orders["planned, frozen"] = layers.freeze(layer, samples)
    with torch.no_grad():
        count = {name: counted(order, samples) for name, order in orders.items()}
    timed = measure.compare(orders, samples, rounds=rounds).timings
    rows += [(B, name, count[name], timing.median) for name, timing in timed.items()]
pd.DataFrame(rows, columns=["batch", "order", "MACs", "ms"]).set_index(["batch", "order"]).round(3)

# %% [markdown]
# <details><summary>Compare, when you have looked</summary>
#
# MACs decide between orders only as far as the products have decent shapes. The first step from the last core
# multiplies thousands of vectors of four numbers by a $16 \times 4$ matrix, one small product each: calls and bytes,
# hardly work. Where that order is the slower one, this is why. Merging the last two cores makes one larger product of it;
# the plan above says which cores it merges.
# </details>
#
# **Predict, then reveal.** What decides more: the order for a given format, or the format, each in its best order? Count
# both. First four ways to use the layer above; then five formats for a square layer of 1024 inputs, in digits
# $4 \cdot 8 \cdot 8 \cdot 4$, all with about one percent of its parameters, and three orders for its `ttm`.

# %% jupyter={"outputs_hidden": true}
with torch.no_grad():
    of_vgg = macs | {"planned": counted(layers.freeze(layer, torch.rand(1, 25088)), torch.rand(1, 25088))}
square, digits, of_formats = nn.Linear(1024, 1024, bias=False), (4, 8, 8, 4), {}
for format in ("svd", "cp", "tucker", "tt", "ttm"):
    options = {} if format == "svd" else {"row_dims": digits, "col_dims": digits}
    made = layers.factorize(square, format, share=0.01, weights="fresh", seed=seed, **options)
    of_formats[format] = layers.macs(square, format, made.rank, **options)
bonds = [core.shape[3] for core in made.factors()[:-1]]
of_square = {"from last": from_last_macs(digits, digits, bonds, 1), "dense": 1024**2, "best": of_formats["ttm"]}
for name, counts in {"VGG, ttm": of_vgg, "1024, ttm": of_square, "1024, formats": of_formats}.items():
    print(f"{name:<14} spread {max(counts.values()) / min(counts.values()):5.1f}:", counts)

# %% jupyter={"outputs_hidden": true}
spread = {name: max(counts.values()) / min(counts.values()) for name, counts in
          {"VGG": of_vgg, "square": of_square, "formats": of_formats}.items()}  # fmt: skip
assert min(spread["VGG"], spread["formats"]) > 10 > spread["square"]
print("an order may decide a factor of more than ten, and so may a format; on the square layer the format decides more")

# %% [markdown]
# <details><summary>What decides more?</summary>
#
# Neither rule of thumb holds. In the wide layer the worst order, to multiply the matrix out first, costs more than ten times as
# much as the best one, while the sensible ones, core by core or planned, differ by a factor of about two. In the square layer the
# three orders of `ttm` are that close, and another format is far cheaper, at about equal parameters. (What it does to
# accuracy is another question, which parameters do not answer either.)
# </details>

# %% [markdown]
# ## Predict, then measure (optional)
#
# Can you tell the time of a chain that you never timed? Three models, from coarse to fine:
#
# 1. **MACs**: time = MACs / one rate for everything.
# 2. **Roofline**: per stage, overhead + max(MACs / peak, bytes / bandwidth), then the sum.
# 3. **Fitted roofline**: kernels do not reach the roof. Multiply each stage's roofline time by a factor for its kind
#    ($1 \times 1$, spatial, depthwise), and add a constant for each stage.
#
# The rate of model 1 and the four constants of model 3 come from *other* layers than those that are predicted. A model that is
# fitted on the layers one reports looks better than it is.


# %%
def chain_stages(T, S, k, side, format, R):
    image = torch.rand(batch, S, side, side, generator=generator).contiguous(memory_format=torch.channels_last)
    model = chain(format, T, S, k, R)
    table = stages(model, image)
    roofline_ms = [roof_ms(row.macs, row.bytes) for row in table.itertuples()]
    return partial(model, image), table.assign(kind=[kind(conv) for conv in model], roofline=roofline_ms)


# %%
known = [(32, 32, 3, 32), (128, 96, 3, 8)]  # outputs, inputs, kernel, map: to calibrate on
unseen = [(48, 64, 3, 16), (96, 96, 3, 12), (64, 32, 5, 14)]  # to predict
assert not set(known) & set(unseen)
print(f"{len(known)} layers to calibrate on, {len(unseen)} to predict, {len(per_position)} chains of each")

# %%
seen = []
for shape in known:
    for format in per_position:
        for fraction in (0.25, 0.6) if format != "dense" else (1,):
            R = 0 if format == "dense" else int(fraction * break_even(format, *shape[:3]))
            seen.append(chain_stages(*shape, format, R)[1])
seen = pd.concat(seen, ignore_index=True)
seen.groupby("kind").size().rename("stages to calibrate on").to_frame()

# %%
rows, tables, chains = [], [], {}
for shape in unseen:
    for format in per_position:
        R = 0 if format == "dense" else int(0.4 * break_even(format, *shape[:3]))
        chains[str((*shape, format))], table = chain_stages(*shape, format, R)
        tables.append(table)
        rows.append((str(shape), format, R, table.macs.sum()))
result = pd.DataFrame(rows, columns=["layer", "format", "rank", "macs"])
print(f"{len(chains)} chains to predict")

# %% [markdown]
# A machine that is slow today is slow for both sets, if both are timed in the same rounds. So everything is timed now,
# in turns. The times of the chains to predict stay in their box until the end.

# %% tags=["nbval-ignore-output"]
calls = dict(enumerate(seen.call)) | chains
print(f"timing {len(seen)} stages and {len(chains)} chains in turns, {2 * rounds} rounds")
timed = measure.compare({str(key): call for key, call in calls.items()}, rounds=2 * rounds).timings
seen["ms"] = [timed[str(i)].median for i in seen.index]
box = [timed[name].median for name in chains]
rate = seen.macs.sum() / seen.ms.sum()
print(f"model 1: {rate / 1e6:.3g} GMAC/s for everything")

# %% [markdown]
# Model 3 is a least-squares problem in four unknowns, none of which may be negative. Dividing each row by its time makes all
# relative errors count alike:

# %%
kinds = ["1 x 1", "spatial", "depthwise"]


def features(table):
    return np.column_stack([table.roofline * (table.kind == name) for name in kinds] + [np.ones(len(table))])


# %% tags=["nbval-ignore-output"]
constants, _ = nnls(features(seen) / seen.ms.to_numpy()[:, None], np.ones(len(seen)))
print(
    pd.Series(constants, index=[*(f"{name}, times the roofline" for name in kinds), "ms a stage"]).round(3).to_string()
)

# %% [markdown]
# The first three say how many times as long as its roofline's time a stage of each kind takes here, beside the constant. **Before you go on:**
# what mean error do you expect of each model on the layers that took no part?

# %% tags=["nbval-ignore-output"]
result["MACs"] = result.macs / rate
result["roofline"] = [table.roofline.sum() for table in tables]
result["fitted"] = [(features(table) @ constants).sum() for table in tables]
result.drop(columns="layer").groupby("format", sort=False).mean().round(2)

# %% tags=["nbval-ignore-output"] jupyter={"outputs_hidden": true}
result["measured"] = box
model_names = ["MACs", "roofline", "fitted"]
error = result[model_names].sub(result.measured, axis=0).abs().div(result.measured, axis=0)
print("mean error of the latency models:", {name: f"{value:.0%}" for name, value in error.mean().items()})
result.round(2)

# %% jupyter={"outputs_hidden": true}
fig, axes = plt.subplots(1, 3, figsize=(9.5, 3.7), sharex=True, sharey=True, layout="constrained")
titles, ticks = ("MACs alone", "Roofline", "Fitted roofline"), (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)
ends = np.array([0.8, 1.25]) * [f(result[["measured", *model_names]].to_numpy()) for f in (np.min, np.max)]
for ax, name, title in zip(axes, model_names, titles, strict=True):
    ax.plot(ends, ends, color="0.6", linewidth=1)
    for format, part in result.groupby("format", sort=False):
        style = plots.FORMAT_STYLE.get(format, {"color": "black", "marker": "*"})
        ax.plot(part[name], part.measured, **(style | {"linestyle": "none"}), label=format)
    ax.set(xscale="log", yscale="log", xlabel="predicted (ms)", aspect="equal")
    ax.set_xticks(ticks, ticks)
    ax.set_yticks(ticks, ticks)
    ax.minorticks_off()
    ax.set(xlim=ends, ylim=ends)
    ax.set_title(f"{title}: mean error {error[name].mean():.0%}", fontsize=9, fontweight="normal")
axes[0].set_ylabel("measured (ms)")
fig.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=9)
fig.suptitle("Layers that no model has seen: on the line, a prediction is right", x=0.01, ha="left", fontweight="bold")
plt.show()

# %% [markdown]
# On the grey line a prediction is right; above it the chain is slower than predicted. One rate for everything knows
# nothing of stages and bytes. The roofline knows of them, and asks the kernels for more than they give. The fitted model
# is not exact either. It is meant to rule candidates out before you time the rest; timing has the last word.

# %% [markdown]
# ## Exercises
#
# Replace `...` by your answer and run the cell.
#
# ### 1. Warm-up: intensity (15 minutes)
#
# MACs per byte of a linear layer *with bias* ($m$ numbers more to read; its additions are not counted), when each number
# takes `width` bytes.


# %%
def linear_intensity(batch, inputs, outputs, width):
    return ...


check.linear_intensity(linear_intensity)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Count numbers first: input, weight, bias, output. Then multiply by `width`.
# </details>
# <details><summary>Solution</summary>
#
# In the [solutions](solutions/07_measure_what_it_costs.ipynb), section 1.
# </details>

# %% [markdown]
# ### 2. Warm-up: attainable GFLOP/s (15 minutes)
#
# A stage does `macs` MACs and moves `moved` bytes on a machine whose peak is `peak_gflops` ($10^9$ FLOP/s) and whose bandwidth is
# `gbytes_per_second`. How many GFLOP/s can it reach at most?


# %%
def attainable_gflops(macs, moved, peak_gflops, gbytes_per_second):
    return ...


check.attainable_gflops(attainable_gflops)

# %% [markdown]
# <details><summary>Hint</summary>
#
# One MAC is two FLOP. The roofline is a minimum.
# </details>
# <details><summary>Solution</summary>
#
# In the [solutions](solutions/07_measure_what_it_costs.ipynb), section 2.
# </details>

# %% [markdown]
# ### 3. Core: a speed-up from samples (15 minutes)
#
# `first` and `second` hold the milliseconds of two functions, one entry a round, timed in turns. How many times as fast as the first is
# the second? Use the median, and let what happens to a whole round cancel.


# %%
def paired_speedup(first, second):
    return ...


check.paired_speedup(paired_speedup)

# %% [markdown]
# <details><summary>Hint</summary>
#
# A ratio for each round comes first, the median second. Twice as fast is 2, not 0.5.
# </details>
# <details><summary>Solution</summary>
#
# In the [solutions](solutions/07_measure_what_it_costs.ipynb), section 3.
# </details>

# %% [markdown]
# ### 4. Core: break-even with a stride (20 minutes)
#
# A $k \times k$ convolution ($k$ odd, padding $\lfloor k / 2 \rfloor$) has stride `stride` on an $H \times W$ map. Find the largest rank $R$ (of both channel modes) at which
# its `tucker2` chain does *fewer* MACs; 0 when there is none. The map after the stride has $\lceil H / s \rceil \times \lceil W / s \rceil$ positions.


# %%
def tucker2_mac_break_even(T, S, k, height, width, stride):
    return ...


check.tucker2_mac_break_even(tucker2_mac_break_even)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Which stages see the large map? A loop over $R$ is good enough.
# </details>
# <details><summary>Solution</summary>
#
# In the [solutions](solutions/07_measure_what_it_costs.ipynb), section 4.
# </details>

# %% [markdown]
# ### 5. Pencil and paper: the batch at the ridge (20 minutes)
#
# From which batch on can a linear layer without bias (float32) be limited by arithmetic? Solve $I(B) \ge I^*$ for $B$ by hand; return the
# smallest whole $B$, and 0 when no batch is large enough.


# %%
def ridge_batch(inputs, outputs, ridge):
    return ...


check.ridge_batch(ridge_batch)

# %% [markdown]
# <details><summary>Hint</summary>
#
# $1/I = 4(1/B + 1/m + 1/n)$. What is left of $1 / (4 I^*)$ for $1/B$? It has to be positive.
# </details>
# <details><summary>Solution</summary>
#
# In the [solutions](solutions/07_measure_what_it_costs.ipynb), section 5.
# </details>

# %% [markdown]
# ### 6. Stretch: the cheapest meeting point (25 minutes)
#
# One can contract the input with some cores of a TT-matrix from the last one and with the others from the first one. Restrict
# yourself to this: cores $d - 1, d - 2, \dots, p$ first, then cores $0, 1, \dots, p - 1$, one at a time, none merged. Give the MACs of
# the best $p$, $0 \le p \le d$, for one sample. `row_dims` are the outputs' digits $m_0, \dots, m_{d-1}$, `col_dims` the inputs'
# digits $n_0, \dots, n_{d-1}$, `ranks` the inner bonds $R_1, \dots, R_{d-1}$.


# %%
def two_sided_macs(row_dims, col_dims, ranks):
    return ...


check.two_sided_macs(two_sided_macs)

# %% [markdown]
# <details><summary>Hint</summary>
#
# In the second phase the bond $R_p$, between cores $p - 1$ and $p$, stays open until core $p - 1$ closes it. It multiplies the MACs of
# cores $0, \dots, p - 2$. Core $p - 1$ has it as its own right bond, where it counts once. The outputs of the first phase multiply all.
# </details>
# <details><summary>Solution</summary>
#
# In the [solutions](solutions/07_measure_what_it_costs.ipynb), section 6.
# </details>

# %% [markdown]
# ## Summary
#
# - A stage costs a call, bytes and MACs. Its roof is $\min(\pi, \beta I)$, and low rank lowers $I$.
# - Depthwise stages stay below $k / 8$ MACs per byte whatever you do. More MACs can take less time when they move fewer bytes.
# - Time in turns, after a warm-up, with a stated number of threads; report medians of ratios and their spread.
# - Training a chain keeps a map for each stage; checkpointing trades it for MACs.
# - A GPU's queue hides what a call takes (synchronize), and every stage pays a launch.
# - Format and order of contraction decide the work together: count both before you choose a rank.
#
# ## Further reading
#
# - S. Williams, A. Waterman and D. Patterson, [*Roofline: an insightful visual performance model for multicore architectures*](https://doi.org/10.1145/1498765.1498785),
#   Communications of the ACM 52(4), 2009.
# - J. D. McCalpin, *Memory bandwidth and machine balance in current high performance computers*, IEEE TCCA Newsletter, 1995 (the STREAM triad).
# - V. Lebedev et al., [*Speeding-up convolutional neural networks using fine-tuned CP-decomposition*](https://arxiv.org/abs/1412.6553), ICLR 2015.
# - A. Novikov et al., [*Tensorizing neural networks*](https://arxiv.org/abs/1509.06569), NeurIPS 2015.
# - T. Chen et al., [*Training deep nets with sublinear memory cost*](https://arxiv.org/abs/1604.06174), 2016 (checkpointing).
# - NVIDIA, *A100 Tensor Core GPU architecture*, white paper, 2020 (the GPU's peaks and bandwidth).

# %% [markdown]
# Previous: [06 build tensor layers](06_build_tensor_layers.ipynb) · Next: [08 reproduce Lebedev](08_reproduce_lebedev.ipynb) · [Solutions](solutions/07_measure_what_it_costs.ipynb) · [Glossary](GLOSSARY.md)
