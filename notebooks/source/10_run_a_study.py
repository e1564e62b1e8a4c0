# %% [markdown]
# # Run a study: parameters, sweeps, statistics, a decision
#
# **What you'll do.** Take a notebook that does one experiment, run it with many parameter sets, and decide from sixty
# records whether CP or Tucker-2 costs less accuracy in one layer of a ResNet-20.
#
# **What you'll learn.** How to write an experiment so that it can be swept; how a sweep survives interruption; why pairs
# beat piles; what an interval says, and how often it lies; how to move the same sweep to a cluster.
#
# **What you need first.** Notebook 00. Mean, variance, normal distribution.
#
# **Time.** 110 minutes: 35 to read text and code, 75 for the exercises. Run All takes a minute or two.
# **Difficulty.** Medium.
#
# Previous: [09 reproduce Novikov](09_reproduce_novikov.ipynb) · Next: [11 review the state of the art](11_review_the_state_of_the_art.ipynb) · [Solutions](solutions/10_run_a_study.ipynb) · [Glossary](GLOSSARY.md)

# %% tags=["parameters"]
profile: str = "quick"  # "quick": four live runs; "full": twelve
seed: int = 0  # at least 0; decides the resamples and the simulations
simulations: int = 4000  # 500 to 100000; repetitions behind every simulated probability
level: float = 0.95  # 0.5 to 0.999; confidence of the intervals; tests are made at 1 - level

# %%
import math
import sys
import tempfile
from contextlib import chdir, redirect_stderr
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
from scipy import stats

from tnlib import check, paths, plots, study
from tnlib.study import cli

plots.use_style()
rng = np.random.default_rng(seed)
alpha = round(1 - level, 12)

# %% [markdown]
# ## The question
#
# Two formats, one layer, equal numbers of parameters: which one costs less accuracy? It sounds like two runs. But the
# answer of two runs depends on which test images you happened to take and on where the fit of CP happened to start.
# A *study* repeats the runs over such accidents and says how much of the difference survives.
#
# ## An experiment is a notebook with a parameters cell
#
# `notebooks/experiments/compress_one_layer.ipynb` compresses one layer and writes one record. This is what its cell of
# parameters promises; `tnlib` reads types and allowed values from the annotations and comments.

# %% tags=["nbval-check-output"]
(experiment,) = study.notebooks(["compress_one_layer"])
known = study.parameters_of(experiment)
pd.DataFrame([{"name": p.name, "default": p.default, "expected": p.expected} for p in known.values()])

# %% [markdown]
# Because it knows them, a mistake costs a second and not a night. **Predict** what happens to these three:

# %% tags=["nbval-check-output"] jupyter={"outputs_hidden": true}
with redirect_stderr(sys.stdout):
    for wrong in ("rnak=8", "rank=0", "format=tucker"):
        assert cli.main(["run", "compress_one_layer", "-p", wrong]) == 2

# %% [markdown]
# Here and below, `cli.main([...])` is the command `tnlib ...` of the terminal. Four rules make a notebook fit for a sweep:
#
# 1. everything that you may want to vary is a parameter, with a type and its allowed values;
# 2. `seed` decides everything random, and nothing else does;
# 3. one record at the end: `study.record(name, metrics)` (parameters, seed and code are known from the run);
# 4. little printed, nothing drawn: nobody looks at run 137.
#
# ## A sweep is a file
#
# It names the notebook and the parameter sets: `grid` (all combinations), `list`, `random` (draws from ranges) and
# `seeds`; the runs of the sweep are the product of what is given. `notebooks/sweeps/rank_study.yaml` is the one that
# this notebook quotes:

# %% tags=["nbval-check-output"]
print((paths.NOTEBOOKS / "sweeps" / "rank_study.yaml").read_text())

# %% [markdown]
# Look at the pairs of ranks. A CP term of this layer has $64 + 3 + 3 + 64$ parameters; Tucker-2 at rank $(r, r)$ has
# $2 \cdot 64 r + 9 r^2$. Ranks are whole numbers, so sizes are seldom equal; these CP ranks come nearest:

# %% tags=["nbval-check-output"]
for cp_rank, tucker_rank in ((12, 8), (39, 18), (79, 28)):
    term, tucker = 64 + 3 + 3 + 64, 2 * 64 * tucker_rank + 9 * tucker_rank**2
    assert cp_rank == min(range(1, 300), key=lambda r: abs(r * term - tucker))
    more = cp_rank * term / tucker - 1
    print(f"cp {cp_rank}: {cp_rank * term:>6,}   tucker2 {tucker_rank}: {tucker:>6,}   cp has {more:+.1%}")

# %% [markdown]
# ## Run a small one, live
#
# A run of this study takes longer than you want to wait. To see what a sweep does, a toy is enough: a network whose true accuracy we
# know, measured on so many test images. This is the whole experiment, two cells:

# %%
parameters = """accuracy: float = 0.9  # between 0 and 1; of the network, were there images without end
images: int = 1000  # at least 1; in the test set
seed: int = 0  # decides which images
"""
body = """import random
from tnlib import study
rng = random.Random(seed)
right = sum(rng.random() < accuracy for _ in range(images))
study.record("toy", {"measured": right / images})
"""

# %%
work = Path(tempfile.mkdtemp())
python = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
toy = nbformat.v4.new_notebook(metadata=python)
toy.cells = [
    nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}),
    nbformat.v4.new_code_cell(body),
]
nbformat.write(toy, work / "toy.ipynb")

# %% [markdown]
# A sweep of it, two runs at a time. Validation comes first; `--dry-run` stops after it and says how much there is to do.

# %%
seeds = {"quick": [0, 1], "full": [0, 1, 2, 3, 4, 5]}[profile]
(work / "toy.yaml").write_text(f"notebook: toy\ngrid: {{images: [100, 10000]}}\nseeds: {seeds}\n")


def tnlib(command):
    with chdir(work):
        return cli.main(command.split())


# %% tags=["nbval-ignore-output"]
assert tnlib("sweep toy.yaml --results records --out copies --dry-run") == 0

# %% tags=["nbval-ignore-output"]
assert tnlib("sweep toy.yaml --results records --out copies --workers 2") == 0

# %% [markdown]
# Now the command again. **Predict** what it does.

# %% tags=["nbval-check-output"] jupyter={"outputs_hidden": true}
assert tnlib("sweep toy.yaml --results records --out copies --workers 2") == 0

# %% [markdown]
# Every run is *keyed* by a hash of the notebook's code and all its parameters, and its record carries that key.
# This is all there is to resuming. Stop a sweep with Ctrl-C, kill it, pull the plug: the records that are there are
# whole, the others do not exist, and the same command goes on. How far to trust that? Sweeps were killed at random
# moments and resumed, and their records counted:

# %% tags=["nbval-check-output"]
kills = study.results("bench-sweeps").iloc[-1]
resumed, exact = kills["metrics.killed_sweeps"], kills["metrics.kills_exactly_one_record"]
print(f"{resumed} sweeps were to be killed and begun again; {exact} of them have exactly one valid record a run")
assert resumed == exact

# %% [markdown]
# Change one character of the experiment's code and all keys change: old records stay, and new ones are made. Change its
# prose, and nothing happens. Change `tnlib` under it: the records still count, but the sweep says that other code made
# them, and `--refresh` makes them again.
#
# ## Records
#
# `study.results` reads a folder of records into a DataFrame. These are the live ones. **Predict** which two differ more:
# those of 100 images, or those of 10,000?

# %% jupyter={"outputs_hidden": true}
live = study.results("toy", work / "records")  # by date: in the order in which the workers finished
live = live.sort_values(["parameters.images", "seed"], ignore_index=True)
live[["parameters.images", "seed", "metrics.measured"]]

# %% [markdown]
# A record leads back to its run. `tnlib run --from RECORD` executes the same notebook with the same parameters and
# compares every number:

# %% tags=["nbval-ignore-output"]
assert tnlib(f"run toy.ipynb --from records/{live['record'][0]}.json --out again") == 0

# %% [markdown]
# The same from the terminal, with choices and exports:
#
# ```
# tnlib results compress-one-layer --where rank=18 --group-by format
# tnlib results compress-one-layer --group-by layer_params,format --metric drop --html report.html
# tnlib results compress-one-layer --parquet records.parquet
# ```
#
# ## Look first
#
# The sixty published records: two formats, three sizes, ten seeds, 1,000 test images each. The ten seeds see ten
# *disjoint* tenths of the test set, so what they find about this network is independent; two formats with the same seed see
# the same tenth.

# %% tags=["nbval-check-output"]
records = study.results("compress-one-layer")
records = records[records["parameters.profile"] == "full"]
size = pd.cut(records["metrics.layer_params"], [0, 0.1, 0.2, 0.4], labels=["4 %", "14 %", "29 %"]).rename("size")
table = records.pivot_table("metrics.drop", index=[size, "seed"], columns="parameters.format", observed=True)
assert len(records) == 60
assert table.shape == (30, 2)
print(f"{len(records)} records of {records['metrics.test_images'].iloc[0]} images each, {len(table)} pairs")

# %%
fig, ax = plt.subplots()
positions = {"4 %": 0, "14 %": 1, "29 %": 2}
for shift, name in ((-0.13, "cp"), (0.13, "tucker2")):
    style = plots.FORMAT_STYLE[name]
    for x, part in zip(positions.values(), (table.loc[size, name] for size in positions), strict=True):
        ax.plot(np.full(len(part), x + shift), 100 * part, linestyle="none", alpha=0.5, **style)
        ax.hlines(100 * part.mean(), x + shift - 0.09, x + shift + 0.09, color=style["color"], linewidth=3)
    ax.text(
        1.8 * shift,
        100 * table.loc["4 %", name].mean(),
        name,
        color=style["color"],
        va="center",
        ha="left" if shift > 0 else "right",
    )
ax.axhline(0, color="0.7", linewidth=1)
ax.set_xticks(list(positions.values()), positions)
ax.set(xlabel="parameters of the layer that are kept", ylabel="accuracy lost (points)", xlim=(-0.5, 2.4))
ax.set_title("The more of the layer is kept, the more the two clouds overlap")
plt.show()

# %% [markdown]
# A dot is one run, on 1,000 images; a bar is the mean of ten. The clouds overlap more and more towards the right. Are the formats
# different there, or not?
#
# ## Pairs beat piles
#
# Write $a_i$ and $b_i$ for the losses of the two formats with seed $i$. The mean difference is the same whether you take
# pairs or piles. Its uncertainty is not:
#
# $$\operatorname{var}(a - b) = \operatorname{var}(a) + \operatorname{var}(b) - 2 \operatorname{cov}(a, b).$$
#
# This identity holds exactly for sample variances, too:

# %% tags=["nbval-check-output"]
for _, part in table.groupby("size", observed=True):
    a, b = part["cp"], part["tucker2"]
    assert math.isclose((a - b).var(), a.var() + b.var() - 2 * a.cov(b), rel_tol=1e-9)
print("var(a - b) = var(a) + var(b) - 2 cov(a, b), for all three sizes")

# %% [markdown]
# A tenth that is hard for one format tends to be hard for the other: the covariance is positive if they share their
# images. Then pairs are worth having. How much?

# %% tags=["nbval-check-output"]
gain = {}
for name, part in table.groupby("size", observed=True):
    a, b = part["cp"], part["tucker2"]
    gain[name] = (a.var() + b.var()) / (a - b).var()
    print(
        f"{name:>4}: correlation of the pairs {a.corr(b):+.2f}; unpaired runs needed for the same: {gain[name]:.1f} x"
    )

# %% [markdown]
# ## An interval, and how often it lies
#
# For $n$ paired differences $d_i$ with mean $\bar d$ and standard deviation $s$, Student's interval is
# $\bar d \pm t_{n-1}\, s/\sqrt n$. It is exact if the $d_i$ are independent and normal with one mean and variance. What it promises is a *frequency*: of many such
# intervals, a share `level` contains the truth. Promises can be tested. We draw normal samples whose truth we know:


# %%
def student_interval(d, level=level):
    half = stats.t.ppf((1 + level) / 2, d.shape[-1] - 1) * d.std(axis=-1, ddof=1) / math.sqrt(d.shape[-1])
    return d.mean(axis=-1) - half, d.mean(axis=-1) + half


# %% tags=["nbval-check-output"]
low, high = student_interval(rng.standard_normal((simulations, 10)))
coverage = ((low < 0) & (high > 0)).mean()
error = math.sqrt(level * (1 - level) / simulations)
assert abs(coverage - level) < 4.5 * error
print("Student's interval keeps its promise on normal samples of ten")

# %% [markdown]
# The **bootstrap** does without the normal distribution. Draw $n$ of the differences *with replacement*, take the mean,
# repeat; the middle `level` of these means is the interval. The unit that is redrawn must be the independent one. Here
# it is the seed, hence the pair.


# %%
def bootstrap_interval(d, rng, draws=2000, level=level):
    means = d[rng.integers(len(d), size=(draws, len(d)))].mean(axis=1)
    return np.quantile(means, [(1 - level) / 2, (1 + level) / 2])


# %% [markdown]
# **Predict:** does it keep the promise with $n = 10$? Its spread is that of a sample of ten *without* Bessel's
# correction: the variance of a bootstrap mean is exactly $\frac{n-1}{n} \frac{s^2}{n}$, and it knows nothing of Student's
# wider tails.

# %% tags=["nbval-check-output"] jupyter={"outputs_hidden": true}
d = rng.standard_normal(10)
every = d[np.indices((10,) * 4).reshape(4, -1)]  # all 10,000 ways to draw four of the ten
assert math.isclose(every.mean(axis=0).var(), 9 / 10 * d.var(ddof=1) / 4, rel_tol=1e-9)
print("variance of the mean of m draws = (n - 1)/n s^2/m, over all 10,000 ways to draw m = 4 of n = 10")

# %% jupyter={"outputs_hidden": true}
samples = rng.standard_normal((simulations // 5, 10))
ends = np.array([bootstrap_interval(sample, rng, draws=500) for sample in samples])
share = ((ends[:, 0] < 0) & (ends[:, 1] > 0)).mean()
assert share < level
print(f"Student's interval {coverage:.1%}, bootstrap {share:.1%} (promised: {level:.1%})")

# %% [markdown]
# So use the percentile bootstrap when $n$ is large or the statistic has no formula (a median, a
# ratio); for a mean of ten differences take Student's, or the exact test below. Now both, on our pairs:

# %%
rows = []
for name, part in table.groupby("size", observed=True):
    d = (part["tucker2"] - part["cp"]).to_numpy()
    welch = stats.ttest_ind(part["tucker2"], part["cp"], equal_var=False).confidence_interval(level)
    intervals = {
        "unpaired": tuple(welch),
        "paired": student_interval(d),
        "bootstrap of pairs": bootstrap_interval(d, rng),
    }
    rows += [{"size": name, "kind": kind, "mean": d.mean(), "low": a, "high": b} for kind, (a, b) in intervals.items()]
intervals = pd.DataFrame(rows)
(100 * intervals.set_index(["size", "kind"])).round(2)

# %%
fig, ax = plt.subplots()
for shift, kind, color in ((0.2, "unpaired", "0.4"), (0, "paired", "#0072B2"), (-0.2, "bootstrap of pairs", "#D55E00")):
    part = intervals[intervals.kind == kind].reset_index()
    y = np.arange(len(part))[::-1] + shift
    ax.hlines(y, 100 * part.low, 100 * part.high, color=color, linewidth=3)
    ax.plot(100 * part["mean"], y, "o", color=color)
    ax.text(100 * part.high[0] + 0.05, y[0], kind, color=color, va="center")
ax.axvline(0, color="0.7", linewidth=1)
ax.set_yticks([2, 1, 0], [f"{name} kept" for name in positions])
ax.set(xlabel="mean accuracy lost, tucker2 - cp (points)", xlim=(None, 125 * intervals.high.max()))
ax.set_title(f"Pairs say more than piles: {level:.0%} intervals from the same runs")
plt.show()

# %% [markdown]
# ## A test that assumes symmetry
#
# If the formats were interchangeable, each difference could as well have had the other sign: its distribution would be
# symmetric about zero. With ten pairs there are $2^{10}$ sign patterns, few enough to try them all. The $p$-value is the
# share of patterns whose mean is at least as far from zero as ours. For independent pairs and every *symmetric*
# distribution, $p \le \alpha$ has probability at most $\alpha$, for every $n$; no normal one is needed.


# %%
def sign_flip_p(d):
    signs = 1 - 2 * (np.arange(2 ** len(d))[:, None] >> np.arange(len(d)) & 1)
    return float((np.abs(signs @ d) >= abs(d.sum()) * (1 - 1e-12)).mean())


# %% [markdown]
# Two checks of the test itself. The smallest possible $p$ is $2/2^n$ (all signs equal). And when nothing is different,
# $p \le 0.05$ must happen in at most 5 % of the cases, whatever the symmetric distribution; a heavy-tailed one here. A
# *mean* of zero is not enough: on skewed differences whose mean is zero the test rejects too often.

# %% tags=["nbval-check-output"]
assert sign_flip_p(np.arange(1.0, 11)) == 2 / 2**10
runs = simulations // 4
nulls = {"symmetric": rng.standard_t(2, size=(runs, 10)), "skewed": rng.lognormal(0, 1.5, (runs, 10)) - math.exp(1.125)}
rejected = {name: np.mean([sign_flip_p(d) <= 0.05 for d in draws]) for name, draws in nulls.items()}
margin = 4.5 * math.sqrt(0.05 * 0.95 / runs)
assert rejected["symmetric"] < 0.05 + margin < rejected["skewed"]
print("symmetric: a true hypothesis is rejected in at most one case of twenty; skewed, with mean zero: in more")

# %% [markdown]
# ## Several questions at once
#
# We ask three questions, one for each size. If all three differences were zero, and the three tests *independent*, the
# chance that at least one says otherwise would be $1 - (1 - \alpha)^3$, not $\alpha$. (Ours are not: all see the same images.
# But whatever depends on what, the chance is at most $3 \alpha$.)

# %% tags=["nbval-check-output"]
false_alarms = (rng.random((simulations, 3)) < alpha).any(axis=1).mean()
truth = 1 - (1 - alpha) ** 3
assert abs(false_alarms - truth) < 4.5 * math.sqrt(truth * (1 - truth) / simulations)
assert truth < 3 * alpha
print(f"three independent tests at {alpha:.1%}: some false alarm in {truth:.1%} of such studies")

# %% [markdown]
# **Holm's** remedy works for tests that depend on each other, too: sort the $p$-values; compare the smallest with
# $\alpha/3$, the next with $\alpha/2$, the last with $\alpha$; stop at the first that fails. The decision, made by code:


# %%
def holm(p, alpha=alpha):
    decided, still = {}, True
    for rank, (name, value) in enumerate(sorted(p.items(), key=lambda item: item[1])):
        still = still and value <= alpha / (len(p) - rank)
        decided[name] = still
    return decided


# %% tags=["nbval-check-output"]
difference = table["tucker2"] - table["cp"]
mean = difference.groupby("size", observed=True).mean()
p = {name: sign_flip_p(part.to_numpy()) for name, part in difference.groupby("size", observed=True)}
for name, decided in holm(p).items():
    better = "cp" if mean[name] > 0 else "tucker2"
    print(f"{name:>4}: p = {p[name]:.4f}  ->  {f'{better} keeps more' if decided else 'no decision from these data'}")

# %% [markdown]
# ## Image by image: McNemar's test
#
# "No decision" is not "equal". A study that ends so would like more seeds. There are none: ten tenths are the whole test
# set. But ten means of a thousand images have thrown something away. The records keep, a bit an image, which ones each
# compressed network gets right. Images that both get right, or both wrong, say nothing about the difference. Of the
# others, let $b$ be those that only CP gets right and $c$ those that only Tucker-2 does. If the two were equally good, each
# of these images would be a fair coin: $b$ is binomial with $n = b + c$ and $p = 1/2$, exactly (McNemar 1947). It is a
# statement about *these* fits on images like these, which are independent of each other. (In a study of your own choose the test
# before you look: a second test of the same question is a second chance to be wrong.)


# %%
def bits(record):
    packed = np.frombuffer(bytes.fromhex(record["metrics.right"]), np.uint8)
    return np.unpackbits(packed)[: record["metrics.test_images"]].astype(bool)


def all_images(name, format):
    part = records[(size == name) & (records["parameters.format"] == format)].sort_values("seed")
    return np.concatenate([bits(record) for _, record in part.iterrows()])


# %% tags=["nbval-check-output"]
rows, p_images = {}, {}
for name in positions:
    cp, tucker = all_images(name, "cp"), all_images(name, "tucker2")
    b, c = int((cp & ~tucker).sum()), int((tucker & ~cp).sum())
    p_images[name] = stats.binomtest(b, b + c).pvalue
    assert math.isclose((b - c) / len(cp), mean[name], abs_tol=1e-9)  # the same difference, seen otherwise
    rows[name] = {"only cp right": b, "only tucker2 right": c}
    rows[name] |= {"p, ten pairs": f"{p[name]:.1e}", "p, images": f"{p_images[name]:.1e}"}
assert len(cp) == 10_000
pd.DataFrame(rows).T

# %% tags=["nbval-check-output"]
for name, decided in holm(p_images).items():
    better = "cp" if mean[name] > 0 else "tucker2"
    print(f"{name:>4}: {f'{better} keeps more' if decided else 'no decision, on 10,000 images'}")

# %% [markdown]
# That the test keeps its promise can be simulated: two equally good networks, and how often it says otherwise. (Less often
# than $\alpha$: counts are whole numbers.)

# %% tags=["nbval-check-output"]
discordant = rng.binomial(60, 0.5, simulations)
p_null = np.array([stats.binomtest(k, 60).pvalue for k in range(61)])[discordant]
assert (p_null <= alpha).mean() < alpha + 4.5 * math.sqrt(alpha * (1 - alpha) / simulations)
print("equally good networks are told apart at most as often as promised")

# %% [markdown]
# Note what a study can say and what it cannot. It decides for one layer of one network, without fine-tuning, CP fitted by
# 100 iterations. And where even 10,000 images do not decide, the difference is too small to matter here, or the question
# needs other data.
#
# ## How many seeds?
#
# To see a difference $\delta$ of pairs with standard deviation $s$ in 80 % of the studies you need about
# $n = (z_{0.975} + z_{0.8})^2 (s/\delta)^2$ pairs. It is an approximation for large $n$; Student's tails cost a few more.

# %% tags=["nbval-check-output"]
n = math.ceil((stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) ** 2 * 2.0**2)  # s = 2 delta
low, high = student_interval(0.5 + rng.standard_normal((simulations, n)), 0.95)
power = (low > 0).mean()
assert 0.74 < power < 0.83
print(f"s = 2 delta: {n} pairs, and the difference is seen in about {round(power, 1):.0%} of simulated studies")

# %% [markdown]
# ## Never the best of several
#
# Report the best of $k$ seeds, and you report luck. For independent normal scores the best of two lies $1/\sqrt\pi$ standard
# deviations above the mean, with no progress made at all:

# %% tags=["nbval-check-output"]
scores = rng.standard_normal((simulations, 10))
two = scores[:, :2].max(axis=1)
assert abs(two.mean() - 1 / math.sqrt(math.pi)) < 4.5 * two.std() / math.sqrt(simulations)
print(
    f"best of two: {1 / math.sqrt(math.pi):.2f} standard deviations; best of ten: about {scores.max(axis=1).mean():.1f}"
)

# %% [markdown]
# ## Your own experiment
#
# ```
# tnlib new my_study              # my_study.ipynb, a working experiment, and my_study.yaml, a sweep of it
# tnlib run my_study.ipynb -p rank=4
# tnlib sweep my_study.yaml --dry-run
# tnlib sweep my_study.yaml
# tnlib results my-study --group-by rank,format
# ```
#
# Open `my_study.ipynb`, change what it does, keep the four rules. A copy of this notebook's statistics does the rest.
#
# ## More than one machine (optional)
#
# By default each run has a kernel on your machine. The same file runs on **Dask** workers elsewhere, as long as they see
# the same folders (a shared home directory) and the same environment.
#
# **By hand**, on any machines. On the first, then on each of the others, then where you sit:
#
# ```
# dask scheduler --scheduler-file scheduler.json
# dask worker --scheduler-file scheduler.json --nworkers 4 --nthreads 1
# tnlib sweep rank_study.yaml --scheduler tcp://THE-ADDRESS-IT-PRINTED:8786 --threads 2
# ```
#
# A scheduler runs code for whoever reaches its port. Keep it inside the cluster's network, or give it Dask's TLS settings.
#
# **On Slurm**, line by line:
#
# 1. On the login node, in the shared home: clone the workbook and `make install`. It installs dask-jobqueue, too.
# 2. Tell dask-jobqueue what a job is, once, in `~/.config/dask/jobqueue.yaml`:
#
#    ```yaml
#    jobqueue:
#      slurm:
#        queue: normal            # your partition
#        account: my-project      # if your site wants one
#        cores: 4                 # of a job
#        processes: 4             # runs at once in a job, one core each
#        memory: 16GB             # of a job
#        walltime: "04:00:00"
#        interface: null          # the network interface, if nodes have several: ib0
#        job-script-prologue: []  # module load ..., source ...
#        job-extra-directives: []
#    ```
# 3. `tnlib data fetch cifar10` on the login node, if the compute nodes have no network.
# 4. `tnlib sweep notebooks/sweeps/rank_study.yaml --slurm --workers 16 --dry-run`, then without `--dry-run`, inside `tmux`
#    or a batch job of its own. `squeue --me` shows the jobs. `--workers 16` here makes four jobs of four processes.
# 5. A job that reaches its walltime takes its runs with it; Dask hands them to the others. If all is lost, submit again:
#    what is recorded is not repeated.
#
# ## Exercises
#
# ### 1. Warm-up: the size of a sweep (15 minutes)
#
# How many runs has a sweep with a grid (a mapping from names to lists of values) and a number of seeds?


# %%
def sweep_runs(grid, seeds):
    return ...


check.sweep_runs(sweep_runs)

# %% [markdown]
# <details><summary>Hint</summary>
#
# A grid means all combinations. What is the number of combinations of an empty grid?
# </details>
# <details><summary>Solution</summary>
#
# In the [solutions](solutions/10_run_a_study.ipynb), section 1.
# </details>

# %% [markdown]
# ### 2. Core: the standard error of a paired difference (15 minutes)
#
# Two tensors hold the results of two formats, seed by seed. Give the standard error of the mean difference.


# %%
def paired_error(a, b):
    return ...


check.paired_error(paired_error)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Subtract first. Then $s/\sqrt n$, with $n - 1$ in the variance.
# </details>
# <details><summary>Solution</summary>
#
# In the [solutions](solutions/10_run_a_study.ipynb), section 2.
# </details>

# %% [markdown]
# ### 3. Pencil and paper: the family's error (20 minutes)
#
# You test $m$ independent true hypotheses, each at $\alpha$. With which probability do you reject at least one? Derive it
# on paper, then write it down.


# %%
def family_error(m, alpha):
    return ...


check.family_error(family_error)

# %% [markdown]
# <details><summary>Hint</summary>
#
# What is the probability that none is rejected?
# </details>
# <details><summary>Solution</summary>
#
# In the [solutions](solutions/10_run_a_study.ipynb), section 3.
# </details>

# %% [markdown]
# ### 4. Stretch: the percentile bootstrap (25 minutes)
#
# Given values, a matrix of indices (a row for each resample) and a level, return the two ends of the percentile interval
# of the mean, as a tensor. Use linear interpolation between order statistics (the default of `torch.quantile`).


# %%
def percentile_interval(values, index, level):
    return ...


check.percentile_interval(percentile_interval)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `values[index]` has a row for each resample. The interval leaves out $(1 - \text{level})/2$ on either side.
# </details>
# <details><summary>Solution</summary>
#
# In the [solutions](solutions/10_run_a_study.ipynb), section 4.
# </details>

# %% [markdown]
# ## Summary
#
# - An experiment is a notebook whose parameters cell says all that varies, whose seed decides all that is random, and
#   which writes one record.
# - A sweep is keyed: runs that are done are skipped, so any interruption costs what was running and nothing else.
# - Compare in pairs; redraw the independent unit; with ten pairs prefer an exact test to the bootstrap; correct for the
#   number of questions; never report the best of several.
#
# ## Further reading
#
# - B. Efron and R. Tibshirani, *An Introduction to the Bootstrap*, Chapman and Hall, 1993.
# - S. Holm, [*A simple sequentially rejective multiple test procedure*](https://www.jstor.org/stable/4615733), Scandinavian Journal of
#   Statistics 6, 1979.
# - Q. McNemar, [*Note on the sampling error of the difference between correlated proportions or percentages*](https://doi.org/10.1007/BF02295996),
#   Psychometrika 12, 1947.
# - J. Demšar, [*Statistical comparisons of classifiers over multiple data sets*](https://jmlr.org/papers/v7/demsar06a.html), JMLR 7, 2006.
# - The manuals of papermill, Dask and dask-jobqueue.

# %% [markdown]
# Previous: [09 reproduce Novikov](09_reproduce_novikov.ipynb) · Next: [11 review the state of the art](11_review_the_state_of_the_art.ipynb) · [Solutions](solutions/10_run_a_study.ipynb) · [Glossary](GLOSSARY.md)
