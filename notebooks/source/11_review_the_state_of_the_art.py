# %% [markdown]
# # Review the state of the art
#
# **What you'll do.** Read more than five hundred published results on compressed networks the way a referee does: what was compressed,
# how, at which cost, from which baseline, with which certainty. Then ask what they prove.
#
# **What you'll learn.** The families of methods and what each leaves open. Why a gain is measured against a baseline that may be low, how
# large a difference has to be before 10,000 test images show it, and what the best of several seeds adds for nothing.
#
# **What you need first.** Lessons 01 to 05 for the words, 10 for paired tests; mean and variance.
#
# **Time.** 90 minutes: 30 to read text and code, 60 for the exercises. Run All takes seconds. **Difficulty.** Easy to medium.
#
# Previous: [10 run a study](10_run_a_study.ipynb) · Next: [12 choose ranks](12_choose_ranks.ipynb) · [Solutions](solutions/11_review_the_state_of_the_art.ipynb) · [Glossary](GLOSSARY.md)

# %% tags=["parameters"]
profile: str = "quick"  # "quick" and "full" are the same here: everything is read from tables
dataset: str = "CIFAR-10"  # images whose results are compared, as the table spells it
network: str = "ResNet-56"  # the network whose published points are drawn
spread: float = 0.2  # standard deviation of accuracy over seeds, in points, above 0
seed: int = 0  # of the simulations

# %%
import math
import textwrap

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy.integrate import quad
from scipy.stats import norm, spearmanr

from tnlib import check, paths, study

# %%
rng = np.random.default_rng(seed)
works = pd.read_csv(paths.REFERENCE / "works.csv")
ideas = pd.read_csv(paths.REFERENCE / "ideas.csv").set_index("work")["idea"]
print(f"{len(works)} rows of {works.work.nunique()} works")

# %% [markdown]
# ## The question
#
# A colleague comes from a conference: *their method removes 60 % of the multiplications, and the network gets better by 0.3 points.* **Before you read on, write down five questions you would ask.** At the end of
# this lesson you will have asked them of the whole field.
#
# ## 1. What was read, and how sure that is
#
# One row is one published **operating point**: a network, compressed once. Its numbers were looked up, and each row says where and how sure that is:
#
# - `table`: read in the paper's tables or in its authors' repository;
# - `abstract`: read in the abstract;
# - `secondary`: as somebody else reports it. It may be right. It was not checked.
#
# An empty cell means *unknown*, not zero.

# %%
assert set(works.certainty) == {"table", "abstract", "secondary"}
assert set(works.work) == set(ideas.index)
print(works.certainty.value_counts().to_string())

# %%
columns = ["before", "after", "change", "macs_removed", "params_removed", "epochs", "speedup"]
known = works[columns].notna().mean().sort_values()
fig, ax = plt.subplots()
ax.barh(known.index, 100 * known)
ax.set(xlabel="rows that tell it, percent", xlim=(0, 100), title="What is reported, and what seldom is")
plt.show()

# %% [markdown]
# Look at the bottom of the figure. Multiplications are counted often; time is measured rarely, though it is what a small machine has too little of (lesson 07 shows how far the two are apart). How long a network was trained
# after compression is often left out, though it may explain more than the method does.

# %%
assert known["speedup"] < known["macs_removed"]
assert known.index[0] == "speedup"
print("speed is what the fewest rows tell")

# %% [markdown]
# ## 2. Families
#
# What is done to a weight sorts most works:
#
# | family | what becomes of a weight | lesson |
# | --- | --- | --- |
# | `matrix` | a product of two matrices: channels, or spatial axes, on either side | 06 |
# | `cp`, `tucker`, `tt`, `tr`, `kronecker` | a tensor format of the kernel, or of a matrix made a tensor | 02 to 06 |
# | `mixed` | several of these, or one beside pruning | 12 |
# | `pruning` | whole filters go; what stays is dense | |
# | `quantization` | fewer bits for each number | |
#
# The others are about *how*, whatever the format: `metric` (in which norm is the error small?), `reconstruction` (fit outputs instead of weights), `rank-learning` (ranks found in training), `theory`; `transformer` collects language
# models.

# %%
years = works.dropna(subset="year").drop_duplicates("work")
counts = years.groupby(["group", "year"]).size()
order = years.groupby("group").year.median().sort_values().index
assert counts.sum() == len(years)
fig, ax = plt.subplots(figsize=(7, 4))
for (group, year), number in counts.items():
    ax.scatter(year, list(order).index(group), s=25 * number, color="#0072B2", alpha=0.7)
ax.set_yticks(range(len(order)), order)
ax.set(xlabel="year", title="Works in the table: from formats to metrics and language models")
plt.show()

# %% [markdown]
# The area of a point is the number of works. It is this table's view, not a census: it was made by following citations from tensor methods outwards.
#
# ### One laboratory's line
#
# Trains of coupled third-order decompositions (lesson 05) belong to a line of work that goes on. What it did, and what it leaves open:

# %%
line = ["Zniyed", "NORTON", "CORING", "SLIMING", "CoDeC", "thesis"]
of_line = {word: [name for name in ideas.index if word.lower() in name.lower()] for word in line}
assert all(of_line.values()), of_line
for names in of_line.values():
    print(textwrap.fill(f"{names[0]}: {ideas[names[0]]}", 110), end="\n\n")

# %% [markdown]
# ### In which norm
#
# A kernel's error matters as far as inputs excite it and outputs depend on it. Who used that, and how:

# %%
for name in works[works.group.eq("metric")].work.unique():
    print(textwrap.fill(f"{name}: {ideas[name]}", 110), end="\n\n")

# %% [markdown]
# Read these four or five entries twice. Lesson 12 used the simplest such norm (`metric="input"`), and the new scheme of a later lesson stands on these shoulders.
#
# ## 3. Published accuracy against multiplications
#
# **Predict:** as more multiplications are removed, how does the published change of accuracy fall?

# %%
points = works[works.data.eq(dataset) & works.network.str.startswith(network, na=False)]
points = points[
    points.metric.str.startswith("top-1", na=False) & points[["macs_removed", "change"]].notna().all(axis=1)
]
assert len(points) > 3
print(f"{len(points)} points of {points.work.nunique()} works")

# %%
looks = {"table": ("o", "#0072B2"), "abstract": ("s", "#E69F00"), "secondary": ("x", "0.5")}
fig, ax = plt.subplots()
for sure, (marker, color) in looks.items():
    some = points[points.certainty.eq(sure)]
    ax.plot(some.macs_removed, some.change, marker, color=color, label=sure)
ax.axhline(0, color="0.8", zorder=0)
ax.set(xlabel="multiplications removed, percent", ylabel="published change, points", title=f"{network}, {dataset}")
ax.legend(title="read in")
plt.show()

# %% [markdown]
# Most points lie in a band of one point around zero, up to three quarters removed. Either most multiplications of this network are useless and all methods find that out equally well; or the band is what retraining, baselines and
# luck leave. The next three sections take these one by one.

# %%
share_within = (points.change.abs() < 1).mean()
assert 0 <= share_within <= 1
print(f"{share_within:.0%} of the points within one point of their baseline; {(points.change > 0).mean():.0%} above it")

# %% [markdown]
# Ours, for orientation, from the records of [compress_network](experiments/compress_network.ipynb): ResNet-20, repaired without labels, no training at all.

# %% tags=["nbval-ignore-output"] jupyter={"outputs_hidden": true}
ours = study.results("compress-network")
if len(ours):
    ours = ours[ours["parameters.profile"].eq("full") & ours["parameters.epochs"].eq(0)]
    ours = ours[ours["parameters.choice"].eq("allocated") & ours["parameters.repair"].eq("sequence")]
    removed = 100 * (1 - ours["metrics.macs"]).round(2)
    change = 100 * (ours["metrics.repaired_accuracy"] - ours["metrics.original_accuracy"])
    print(change.groupby(removed).agg(["mean", "min", "max", "size"]).round(2).to_string())

# %% [markdown]
# ## 4. From which baseline?
#
# A change is a difference, and the number it is taken from is chosen by the authors. The same architecture, the same data:

# %%
baselines = works[works.data.eq(dataset) & works.metric.str.startswith("top-1", na=False)].dropna(subset="before")
table = baselines.groupby("network").before.agg(["min", "max", "nunique", "size"])
table = table[table["nunique"] > 2].sort_values("size", ascending=False)
assert (table["max"] >= table["min"]).all()
print(table.head(6).to_string())

# %% [markdown]
# **Proposition.** Let a baseline be $b = \mu + \varepsilon$ and the compressed accuracy $a$ be independent of the noise $\varepsilon$. Then the change $a - b$ is correlated with $b$:
#
# $$\mathrm{Cov}(b, a - b) = \mathrm{Cov}(a, b) - \mathrm{Var}(b) = - \mathrm{Var}(\varepsilon) .$$
#
# *Proof.* Covariance is linear in each argument, and $\mathrm{Cov}(a, b) = 0$. $\square$ A low baseline makes a gain, without any method.

# %%
b, a = 93 + spread * rng.standard_normal(100_000), 93 + spread * rng.standard_normal(100_000)
covariance = np.cov(b, a - b)[0, 1]
assert math.isclose(covariance, np.cov(a, b)[0, 1] - np.var(b, ddof=1), rel_tol=1e-9)
assert math.isclose(covariance, -(spread**2), rel_tol=0.05)
print("the lower the baseline, the larger the gain: -Var of its noise")

# %%
told = points.dropna(subset="before")
if told.before.nunique() > 2:
    rho = spearmanr(told.before, told.change)
    print(f"{len(told)} published points of {network}: rank correlation of baseline and change {rho.statistic:+.2f}")

# %% [markdown]
# The table mixes budgets and methods, so do not read a cause into that number. But ask of every gain: *which baseline, and could the dense network, trained as long, have had it, too?* One repository shows what training alone does: the same
# pruned network, trained on under two schedules of the learning rate.

# %%
schedules = works[works.remark.str.contains("(?:step|cosine) schedule", na=False)]
found = schedules.assign(schedule=schedules.remark.str.split().str[0])
found = found.pivot_table("after", ["network", "macs_removed"], "schedule").dropna()
assert (found["cosine"] > found["step"]).all()
print(found.to_string())

# %% [markdown]
# ## 5. How large must a difference be?
#
# **Proposition.** If a network is right on each of $n$ independent images with probability $p$, its measured accuracy has standard deviation $\sqrt{p (1 - p) / n}$.

# %%
p, images = 0.934, 10_000
error = math.sqrt(p * (1 - p) / images)
drawn = rng.binomial(images, p, 20_000) / images
assert math.isclose(drawn.std(), error, rel_tol=0.03)
print(f"at {p:.1%} on {images} images: {100 * error:.2f} points")

# %% [markdown]
# Two networks that are measured on the *same* images do better: what both get right, or both wrong, cancels. Only images on which they differ count.
#
# **Proposition.** Let $p_{10}$ and $p_{01}$ be the probabilities that only the first, only the second is right. The difference of accuracies on $n$ images has standard deviation $\sqrt{(p_{10} + p_{01} - (p_{10} - p_{01})^2) / n}$.
#
# *Proof.* An image adds $+1$, $-1$ or $0$: its mean is $p_{10} - p_{01}$, its mean square $p_{10} + p_{01}$. $\square$


# %%
def paired_error(p10, p01, n):
    return math.sqrt((p10 + p01 - (p10 - p01) ** 2) / n)


counts = rng.multinomial(images, [0.02, 0.015, 0.965], 20_000)
differences = (counts[:, 0] - counts[:, 1]) / images
assert math.isclose(differences.std(), paired_error(0.02, 0.015, images), rel_tol=0.03)
print(f"paired: {100 * paired_error(0.02, 0.015, images):.2f} points; unpaired: {100 * math.sqrt(2) * error:.2f}")

# %% [markdown]
# How many published changes are larger than twice the unpaired error? (Papers do not print which images were right, so nobody can pair afterwards. Our records hold one bit an image.)

# %%
changes = works[works.data.eq("CIFAR-10") & works.metric.str.startswith("top-1", na=False)].change.dropna()
unclear = (changes.abs() < 200 * math.sqrt(2) * error).mean()
assert 0 < unclear < 1
print(f"{unclear:.0%} of {len(changes)} published changes could be noise of the test images alone")

# %% tags=["nbval-ignore-output"] jupyter={"outputs_hidden": true}
if len(ours):
    bits = [bytes.fromhex(ours.iloc[0][f"metrics.{stage}_right"]) for stage in ("original", "repaired")]
    before, after = (np.unpackbits(np.frombuffer(one, np.uint8))[:images].astype(bool) for one in bits)
    se = paired_error((before & ~after).mean(), (after & ~before).mean(), images)
    print(f"ours, paired: {100 * (after.mean() - before.mean()):+.2f} points, standard error {100 * se:.2f}")

# %% [markdown]
# ## 6. The best of several
#
# Train the compressed network five times and print the best: the result is higher, with no better method. By how much?
#
# **Proposition.** The largest of $n$ independent normal numbers of mean $\mu$ and deviation $\sigma$ has mean $\mu + c_n \sigma$, with
#
# $$c_n = \int x\, n\, \varphi(x)\, \Phi(x)^{n-1} \mathrm dx , \qquad c_2 = \frac 1 {\sqrt \pi}, \qquad c_3 = \frac 3 {2 \sqrt \pi} .$$
#
# *Proof.* The maximum is at most $x$ if all are: its distribution is $\Phi^n$, its density the derivative. $\square$


# %%
def c(n):
    return quad(lambda x: x * n * norm.pdf(x) * norm.cdf(x) ** (n - 1), -10, 10)[0]


assert math.isclose(c(2), 1 / math.sqrt(math.pi), rel_tol=1e-6)
assert math.isclose(c(3), 3 / (2 * math.sqrt(math.pi)), rel_tol=1e-6)
best = (rng.standard_normal((100_000, 5)) * spread).max(1)
assert math.isclose(best.mean(), c(5) * spread, rel_tol=0.02)
print("the formula, its closed forms and a simulation agree")

# %%
runs = np.arange(1, 21)
fig, ax = plt.subplots()
ax.plot(runs, [spread * c(int(n)) for n in runs], "o-", markersize=4)
ax.set(xlabel="runs, of which the best is printed", ylabel="points above the mean", xticks=runs[::3])
ax.set_title(f"What choosing the best brings, at a spread of {spread} points")
plt.show()

# %% [markdown]
# Compare its height with the gains of section 3. Choosing the best epoch on the test images is the same thing, with more runs. So: the mean of three seeds or more, and the spread beside it; never the best.
#
# ## 7. What looks odd
#
# Whoever copies five hundred numbers meets some that do not fit. The rows say so themselves; they are kept, and marked:

# %%
words = "two values|swapped|copied|equal|same .* in two|collapses|lower than"
odd = works[works.remark.str.contains(words, case=False, na=False)]
assert 0 < len(odd) < len(works) / 2
for row in odd.drop_duplicates("work").head(5).itertuples():
    print(textwrap.fill(f"{row.work}, {row.network}: {row.remark}", 110), end="\n\n")
print(len(odd), "rows carry such a remark")

# %% [markdown]
# ## 8. Labels, epochs, time: the cost of getting there
#
# | question | why it matters |
# | --- | --- |
# | Were labels used? | A customer's network often comes without its data. |
# | How many epochs afterwards? | Three hundred epochs are a second training. |
# | Was time measured, on which machine? | Multiplications are not time. |

# %%
labels = works.labels.fillna("unknown").value_counts()
assert labels.sum() == len(works)
print(labels.to_string())

# %%
epochs = pd.to_numeric(works.epochs, errors="coerce")
long = works[epochs >= 100]
assert (epochs.dropna() >= 0).all()
print(f"epochs are a number in {epochs.notna().sum()} rows; of these {len(long)} train for a hundred or more")

# %% [markdown]
# ## 9. What is open
#
# Put together, with what lessons 12 and later do about it:
#
# - In none of the works, as far as they could be read, are all formats compared at *equal realised cost*, with the same inputs, the same epochs, and the dense network trained alike.
# - Norms of inputs and outputs are used for matrices and language models; for tensor formats of convolutions they are new, and fitted by alternating least squares only.
# - Few results come without labels and without epochs.
# - Intervals are rare, and nobody prints the bits that a paired test needs.
#
# ## Exercises
#
# ### 1. Warm-up: from a layer to the network (15 minutes)
#
# A layer holds the share `share` of a network's parameters and is compressed by `factor` (original over compressed). Return the factor of the whole network. (Novikov et al. 2015 compress one layer of VGG-16 some fifty thousand times;
# the network shrinks less than four times.)


# %%
def network_factor(factor, share):
    return ...


check.network_factor(network_factor)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Let the network have size 1. What is left of the layer, and what of the rest?
# </details>
# <details><summary>Solution</summary>
#
# In the [solutions](solutions/11_review_the_state_of_the_art.ipynb), section 1.
# </details>

# %% [markdown]
# ### 2. Core: the front (20 minutes)
#
# Points have `removed` (the more the better) and `change` (the higher the better); either may be NaN, unknown. Return the indices of points that no other point equals or beats in both and beats in one, from the smallest `removed` to
# the largest; unknown ones are left out. No two points are equal in both.


# %%
def front(removed, change):
    return ...


check.front(front)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Go through the points from the largest `removed` down, of equal ones the best first. Which ones improve on all before them?
# </details>
# <details><summary>Solution</summary>
#
# In the [solutions](solutions/11_review_the_state_of_the_art.ipynb), section 2.
# </details>

# %% [markdown]
# ### 3. Stretch: the best of several (25 minutes)
#
# Return the mean of the largest of `runs` independent standard normal numbers, to four digits, for any number of runs up to a hundred: the $c_n$ of section 6, this time by a way of your own. One hundred thousand draws are not enough; do
# without scipy if you can.


# %%
def expected_best(runs):
    return ...


check.expected_best(expected_best)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Sum $x\, n\, \varphi(x)\, \Phi(x)^{n-1}$ on a fine grid; `math.erfc` gives $\Phi$. Or draw a uniform number: where does its $n$-th root come in?
# </details>
# <details><summary>Solution</summary>
#
# In the [solutions](solutions/11_review_the_state_of_the_art.ipynb), section 3.
# </details>

# %% [markdown]
# ## Summary
#
# - A published number has a place where it was read and a certainty; an empty cell is unknown.
# - Formats, norms, ways to fit and ways to find ranks can be combined: most works change one and keep the rest.
# - A change depends on its baseline: noise of the baseline alone correlates the two.
# - On ten thousand images a difference of a few tenths of a point needs a paired test, and papers do not print what that takes.
# - The best of several runs exceeds their mean by a known number of deviations.
# - Ask: equal cost? equal epochs? which baseline? how many seeds? whose labels? measured on what?
#
# ## Further reading
#
# - J. T. Schuurmans, K. Batselier, J. F. P. Kooij, [*How informative is the approximation error from tensor decomposition for neural network compression?*](https://openreview.net/forum?id=sKHqgFOaFXI), ICLR 2023.
# - D. Blalock, J. J. Gonzalez Ortiz, J. Frankle, J. Guttag, [*What is the state of neural network pruning?*](https://arxiv.org/abs/2003.03033), MLSys 2020: the same questions, asked of pruning.
# - The references of all works: [works.bib](../data/reference/works.bib); their figures: [works.csv](../data/reference/works.csv).

# %% [markdown]
# Previous: [10 run a study](10_run_a_study.ipynb) · Next: [12 choose ranks](12_choose_ranks.ipynb) · [Solutions](solutions/11_review_the_state_of_the_art.ipynb) · [Glossary](GLOSSARY.md)
