# %% [markdown]
# # Compare the representations
#
# **What you'll do.** Bring networks to the same number of multiplications in eight formats, and ask which one loses least: for one layer
# live, for whole networks from records.
#
# **What you'll learn.** What has to be equal before two methods may be compared. Why the better format at equal *rank* is the worse one at
# equal *cost*. How to test many pairs on the same images without fooling yourself, how to rank methods over networks, and how far a
# rule derived on some networks holds on another one.
#
# **What you need first.** Lesson 06 (formats), 07 (MACs), 10 (paired tests), 12 (allocation).
#
# **Time.** 120 minutes: 60 to read text and code, 60 for the exercises. Run All takes a minute. **Difficulty.** Medium.
#
# Previous: [12 choose ranks](12_choose_ranks.ipynb) · Next: [14 propose a scheme](14_propose_a_scheme.ipynb) · [Solutions](solutions/13_compare_representations.ipynb) · [Glossary](GLOSSARY.md)

# %% tags=["parameters"]
profile: str = "quick"  # "quick": 500 test images where networks are measured live; "full": all that are committed
layer: str = "layer2.1.conv1"  # the 3x3 convolution of ResNet-20 to look at
network: str = "resnet20-cifar10"  # "resnet20-cifar10" or "quick-cifar10": whose records are drawn
budget: float = 0.5  # share of the multiplications where pairs are tested: 0.75, 0.5, 0.35, 0.25 or 0.1
seed: int = 0  # decides which images are drawn

# %%
from itertools import combinations
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy.stats import binomtest, rankdata
from torch import nn

from tnlib import check, compress, data, layers, measure, models, plots, study, train
from tnlib.study.sweep import load as load_sweep

plots.use_style()
rng = np.random.default_rng(seed)

# %% [markdown]
# ## The question
#
# *CP, Tucker or a tensor train, for my layer?* You know eight ways to store a kernel $T \times S \times k_h \times k_w$ in fewer numbers.
# **Before you read on, predict:** at half of a network's multiplications, which one of these loses the fewest images, and which one the most?
#
# | format | the kernel becomes | one position costs |
# | --- | --- | --- |
# | `svd` | $k_h \times k_w$, then $1 \times 1$ | $R\,(S k_h k_w + T)$ |
# | `spatial_svd` | $k_h \times 1$, then $1 \times k_w$ | $R\,(S k_h + T k_w)$ |
# | `tucker2` | $1 \times 1$, core $k_h \times k_w$, $1 \times 1$ | $S R_S + R_S R_T k_h k_w + T R_T$ |
# | `cp3` | $1 \times 1$, one $k_h \times k_w$ window a channel, $1 \times 1$ | $R\,(S + k_h k_w + T)$ |
# | `cp` | the same with windows $k_h \times 1$ and $1 \times k_w$ | $R\,(S + k_h + k_w + T)$ |
#
# and `tucker`, `tt` and `ttm`, which have several ranks each.

# %% [markdown]
# ## 1. Equal rank is not equal cost
#
# CP lies inside Tucker: a sum of $R$ terms has multilinear ranks of at most $R$, and its factor matrices span the subspaces. And Tucker-2
# lies inside the truncated matrix: whoever truncates two modes has truncated one of them. So, with $E$ the smallest error in the Frobenius norm,
#
# $$E_{\text{svd}}(R) \;\le\; E_{\text{tucker2}}(R, R) \;\le\; E_{\text{cp3}}(R) .$$
#
# At equal rank CP is the *worst* of the three. Seen on a trained layer, in squared errors relative to the kernel's norm:

# %%
resnet = models.load("resnet20-cifar10")
conv = resnet.get_submodule(layer)
kernel = conv.weight.detach().double()


def error(format, rank):
    small = layers.factorize(conv, format, rank, seed=seed).dense_weight().detach().double()
    return float((small - kernel).square().sum() / kernel.square().sum())


# %%
for rank in (2, 4, 8, 16):
    errors = [error(format, rank) for format in ("svd", "tucker2", "cp3")]
    assert errors[0] <= errors[1] + 1e-6 <= errors[2] + 2e-6
    print(f"rank {rank:2}: svd {errors[0]:.2f}, tucker2 {errors[1]:.2f}, cp3 {errors[2]:.2f}")

# %% [markdown]
# (What is computed for Tucker and CP are upper bounds of their smallest errors. The first inequality holds for any Tucker-2 approximation, and
# the second one does for these.) But a rank has another price in each format:

# %%
for format in ("svd", "spatial_svd", "tucker2", "cp3", "cp"):
    share = layers.macs(conv, format, 8) / layers.macs(conv, "svd", 8)
    print(f"{format:12} rank 8 costs {share:.2f} of what svd's does")
assert layers.macs(conv, "cp3", 8) < layers.macs(conv, "tucker2", 8) < layers.macs(conv, "svd", 8)

# %% [markdown]
# **Predict, then look:** which curve is the lowest when the axis is cost?

# %%
FORMATS = ["svd", "spatial_svd", "tucker2", "cp3", "cp", "tt"]
images = data.load("cifar10", "train").sample(32, seed).images
found = compress.curves(resnet, images, FORMATS, only=[layer], seed=seed)
dense = found.candidates[layer][0]
fig, ax = plt.subplots()
for format in FORMATS:
    row = sorted((c for c in found.candidates[layer] if c.format == format), key=lambda c: c.macs)
    ax.plot(
        [c.macs / dense.macs for c in row],
        [c.loss for c in row],
        label=format,
        **plots.FORMAT_STYLE[format],
        markersize=3,
    )
ax.set(
    xlabel="share of the layer's multiplications",
    ylabel="relative squared error of the kernel",
    xlim=(0, 1),
    ylim=(0, 1),
)
ax.set_title(f"{layer}: by cost, CP has the smallest error")
plots.label_lines(ax)
plt.show()


# %%
def error_within(format, share):
    small = layers.factorize(conv, format, share=share, of="macs", seed=seed)
    return float(
        (small.dense_weight().detach() - conv.weight.detach()).square().sum() / conv.weight.detach().square().sum()
    )


at_half = {format: error_within(format, 0.5) for format in FORMATS}
for format in ("svd", "spatial_svd", "tucker2", "tt"):
    assert at_half["cp3"] < at_half[format]
print(", ".join(f"{format} {value:.2f}" for format, value in sorted(at_half.items(), key=lambda pair: pair[1])))

# %% [markdown]
# A term of CP costs $S + k_h k_w + T$; a rank of the SVD costs $S k_h k_w + T$, several times as much. So CP can afford so many more terms that the
# order turns round. That is the error of a kernel. Whether the smallest error also loses the fewest images is another question (lesson 12); the next sections answer it.
#
# ## 2. Equal cost for a whole network
#
# A protocol. Whatever a study compares, four things have to be the same: the **network** with its weights, the **images** that may be looked at (and
# whether their labels are), the **cost as realised** and not as asked for, and the **test images**, so that pairs can be compared image by image.
#
# The simplest way to a budget is *the same share for every layer*: each layer gets the largest rank whose cost is at most a share $s$ of its own, and $s$ is
# as large as the budget allows. `compress.uniform` does that. It also hands out what rounding leaves, a rank a layer from the first one on.

# %%
small_net = models.load("quick-cifar10")
curves = compress.curves(small_net, images, ("svd",))
plans = {f: compress.uniform(curves, compress.Budget(macs=budget), f) for f in ("svd", "spatial_svd", "tucker2", "cp3")}
for format, plan in plans.items():
    counted = measure.cost(plan.apply(small_net, weights="empty"), images[:1]).macs
    assert counted == plan.cost["macs"] <= budget * plan.original["macs"]
    print(
        f"{format:12} {plan.share('macs'):.4f} of the multiplications, ranks",
        [c.rank for c in plan.chosen.values()][:3],
    )

# %% [markdown]
# The dense layers of this network are no convolutions: three of the formats leave them as they are, and the convolutions pay for them.
# Live, on a few test images:

# %% tags=["nbval-ignore-output"]
test = data.load("cifar10", "test").sample({"quick": 500, "full": 2000}[profile], seed)
right = {format: train.hits(plan.apply(small_net), test) for format, plan in plans.items()}
right["dense"] = train.hits(small_net, test)
pd.Series({format: float(hits.double().mean()) for format, hits in right.items()}, name="accuracy").round(3).to_frame()

# %% [markdown]
# ## 3. All formats, all budgets, from records
#
# The sweep `formats_study` does this on all test images: every format alone, with the same share for every layer (and the kernel's own norm, as most people do), and with ranks allocated by predicted loss
# in the norm of the inputs (lesson 12); then the best of four formats in each layer. BatchNorm's statistics are estimated anew on the same 200 images without labels, where a network has some.
# No record was left out, and none is chosen among seeds.


# %%
def rows_of(record):
    told = {k.removeprefix("parameters."): v for k, v in record.items() if k.startswith("parameters.")}
    how = "menu" if len(told["formats"]) > 1 else told["formats"][0]
    head = {
        "network": told["network"],
        "format": how,
        "choice": told["choice"],
        "metric": told["metric"],
        "seed": record["seed"],
        "images": record["metrics.test_images"],
    }
    for row in record["metrics.rows"]:
        yield (
            head | {"dense": record["metrics.original_accuracy"], "dense_right": record["metrics.original_right"]} | row
        )


# %%
records = study.results("compare-formats")
records = records[records["parameters.profile"] == "full"].to_dict("records")
points = pd.DataFrame([row for record in records for row in rows_of(record)])
repaired = points.get("repaired_accuracy", points.raw_accuracy)
points["accuracy"] = repaired.fillna(points.raw_accuracy)  # without BatchNorm there is nothing to estimate anew
NEW = "vgg-cifar10"  # kept for section 8
assert {record["parameters.inputs"] for record in records} <= {200}
print(len(records), "records;", points.groupby("network").seed.nunique().to_dict(), "draws of images")

# %% [markdown]
# What is missing is told, too, cell by cell: how many of the three draws are on record. The sweeps' files list all runs of the protocol (`guide_study` has a network that section 8 is about). There is one reason for all that is
# missing: a run takes up to five minutes of a core for ResNet-20 and ten for ResNet-56, and this workbook was made on two. Two take longer: CP allocated in `mlp1024`, and CharNet's menu in the norm `exact`. The sweep goes on where it was stopped, with the same command.

# %%
asked = [run.parameters for name in ("formats_study", "guide_study") for run in load_sweep(Path(name)).runs]
names = ["network", "formats", "choice", "metric"]
done = {repr([*(r[f"parameters.{name}"] for name in names), r["seed"]]) for r in records}

# %%
cells = pd.DataFrame([{name: p[name] for name in names} | {"draws": repr([*(p[name] for name in names), p["seed"]]) in done} for p in asked])  # fmt: skip
print(f"{cells.draws.sum()} of {len(cells)} runs are on record; missing:", cells[~cells.draws].network.value_counts().to_dict())  # fmt: skip

# %%
cells["format"] = cells.formats.map(lambda formats: "menu" if len(formats) > 1 else formats[0])
counts = cells.pivot_table(index=["format", "choice", "metric"], columns="network", values="draws", aggfunc="sum")
counts.rename(columns=lambda name: name.split("-")[0]).fillna(-1).astype(int).map(lambda n: "" if n < 0 else n)

# %%
drawn = points[(points.network == network) & points.macs.notna()]
fig, axes = plt.subplots(1, 2, figsize=(9, 4), sharey=True)
for ax, choice in zip(axes, ("uniform", "allocated"), strict=True):
    part = drawn[(drawn.choice == choice) & (drawn.format != "menu")]
    for format, rows in part.groupby("format"):
        mean = rows.groupby("budget")[["macs", "accuracy"]].mean()
        ax.plot(
            mean.macs, mean.accuracy, label=format, **plots.FORMAT_STYLE.get(format, {"color": "0.4"}), markersize=3
        )
    ax.axhline(drawn.dense.iloc[0], color="0.4", linestyle="--", linewidth=1)
    ax.set(xlabel="share of the multiplications", title=f"ranks: {choice}", xlim=(0, 1))
    plots.label_lines(ax)
axes[0].set_ylabel("accuracy, all test images")
fig.suptitle(f"{network}: no training; dashed: the original")
plt.show()

# %%
wide = points.pivot_table(index=["network", "format", "choice", "metric"], columns="budget", values="accuracy")
(100 * wide.loc[network]).round(2)

# %% [markdown]
# And what was realised? Candidates of trains and CP are few, so that an allocation may stay below its budget: such a row is at a disadvantage, and its column is no fair
# comparison at equal cost. Shares of the multiplications:

# %%
realised = points.pivot_table(index=["network", "format", "choice", "metric"], columns="budget", values="macs")
realised.loc[network].round(3)

# %%
kept = points[points.macs.notna()].copy()
assert (kept.macs <= kept.budget).all()  # a budget is kept, always
kept["below"] = kept.macs < 0.99 * kept.budget
kept.groupby(["format", "choice"]).below.agg(["sum", "size"]).unstack("choice").rename(
    columns={"sum": "over 1 % below", "size": "of"}
)

# %% [markdown]
# An empty cell is a budget that the format cannot keep there: its record says why. Formats lose for two reasons, then: because their error is
# large, and because their smallest cost is.

# %%
failed = points[points.reason.notna()].groupby(["network", "format", "choice"]).reason.agg(["size", "first"])
pd.set_option("display.max_colwidth", 90)
failed.rename(columns={"size": "budgets and draws", "first": "the first reason"})

# %% [markdown]
# ## 4. Are the differences real?
#
# Two networks are measured on the same test images, and most images say nothing: both networks are right, or both wrong. Of the $n$
# that *one* of them alone has right, let $k$ be the first one's. If neither is better, each of the $n$ is a fair coin, so $k \sim \mathcal B(n, 1/2)$
# and the exact p-value is $\min(1,\ 2\,P(X \le \min(k, n - k)))$: **McNemar's test** (1947). It needs no assumption on how hard the images are.
#
# With $m$ pairs some p-value is small by chance. **Holm's correction** (1979) sorts them, $p_{(1)} \le \dots \le p_{(m)}$, and replaces $p_{(i)}$ by
# $\max_{j \le i} \min(1, (m - j + 1)\, p_{(j)})$. The chance of even one false finding is then at most the level, whatever the dependence.


# %%
def bits(text, number):
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8))[:number].astype(bool)


def mcnemar(a, b):
    alone = int((a & ~b).sum()), int((~a & b).sum())
    return binomtest(alone[0], sum(alone)).pvalue if sum(alone) else 1.0


def holm(p):
    order, m = np.argsort(p), len(p)
    adjusted = np.maximum.accumulate(np.minimum(1, (m - np.arange(m)) * np.asarray(p)[order]))
    return adjusted[np.argsort(order)]


# %%
assert np.allclose(holm([0.01, 0.04, 0.03]), [0.03, 0.06, 0.06])
coins = rng.random((2, 10_000)) < 0.9
assert mcnemar(*coins) > 1e-6
assert mcnemar(coins[0], coins[0]) == 1
print("two networks that err independently and equally often: p =", "large" if mcnemar(*coins) > 0.001 else "small")


# %%
def answers(rows):
    """Which test images the formats with allocated ranks have right; the best format first."""
    rows = rows[(rows.seed == 0) & (rows.choice == "allocated") & (rows.metric == "input")]
    texts = {r["format"]: r["repaired_right"] if isinstance(r.get("repaired_right"), str) else r["raw_right"] for r in rows.to_dict("records")}  # fmt: skip
    correct = {name: bits(text, int(rows.images.iloc[0])) for name, text in texts.items()}
    return dict(sorted(correct.items(), key=lambda pair: -pair[1].sum()))


def tested_pairs(rows):
    """For all budgets of a network: who is right where, and adjusted p-values, one family of tests."""
    at = {share: correct for share, part in rows.groupby("budget") if (correct := answers(part))}
    pairs = [(share, *pair) for share, correct in at.items() for pair in combinations(correct, 2)]
    p = holm([mcnemar(at[share][a], at[share][b]) for share, a, b in pairs])
    return at, dict(zip(pairs, p, strict=True))


# %%
correct, p = tested_pairs(drawn)
one = correct.get(budget, {})
table = pd.DataFrame("", list(one), list(one))
for a, b in combinations(one, 2):
    gap = 100 * (one[a].mean() - one[b].mean())
    table.loc[a, b] = f"{gap:+.2f}" + ("" if p[budget, a, b] < 0.05 else " (?)")
table.iloc[:, 1:]

# %% [markdown]
# Points of accuracy that the row has over the column; `(?)` marks what is undecided at 5 % after Holm's correction, for all pairs at all budgets of this network together.
#
# **Predict:** at which budgets will the first place be the hardest to tell from the second? For every network and budget, then: who is first, with what accuracy (and Wilson's interval of 95 %, for
# the draw of the test images), and who could as well be.


# %%
def firsts(name, rows):
    at, p = tested_pairs(rows)
    for share, (first, *others) in sorted(at.items(), reverse=True):
        hits = at[share][first]
        low, high = binomtest(int(hits.sum()), len(hits)).proportion_ci(method="wilson")
        row = {"network": name, "budget": share, "first": first, "accuracy": f"{100 * hits.mean():.2f} ({100 * low:.1f} to {100 * high:.1f})"}  # fmt: skip
        yield row | {"not told apart from it": ", ".join(o for o in others if p[share, first, o] >= 0.05)}


by_name = points[points.macs.notna() & (points.network != NEW)].groupby("network")
pd.DataFrame([row for name, rows in by_name for row in firsts(name, rows)]).set_index(["network", "budget"])

# %% [markdown]
# The test says whether *these two networks* differ. Whether the *methods* do is another question: another draw of images gives another pair of networks, which is why the protocol
# has three.
#
# ## 5. Over networks
#
# Accuracies of different networks must not be averaged: one that loses much would decide alone. Rank the methods within each network and budget, and average the **places**
# (Friedman 1937; Demsar 2006): 1 for the best, a shared mean for ties. What keeps no budget gets the last place.


# %%
def places_of(points):
    """The place of each format, alone and allocated, by network and budget; budgets that most formats keep."""
    alone = points[(points.format != "menu") & (points.choice == "allocated")]
    every = alone.pivot_table(index="format", columns=["network", "budget"], values="accuracy", dropna=False)
    every = every.loc[:, 2 * every.notna().sum() > len(every)]
    return pd.DataFrame(rankdata(-every.fillna(-1), axis=0), every.index, every.columns)


# %%
places = places_of(points[points.network != NEW])
by_network = places.T.groupby("network").mean().T
by_network.assign(all=places.mean(axis=1)).sort_values("all").round(1)

# %%
assert np.allclose(places.sum(), len(places) * (len(places) + 1) / 2)
print(
    "best place:",
    places.mean(axis=1).idxmin(),
    "- never first:",
    sorted(set(places.index) - set(places.index[(places == 1).any(axis=1)])),
)

# %% [markdown]
# ## 6. What is the choice worth?
#
# Three steps from what most people do, the best single format with the same share for each layer: allocate ranks by predicted loss; choose the format layer by layer too (the *menu*); predict
# the loss at the network's outputs and fit the factors in that norm (`exact`).

# %%
steps = {"same share": (points.choice == "uniform"), "allocated": (points.choice == "allocated") & (points.format != "menu"),
         "menu": (points.format == "menu") & (points.metric == "input"), "menu, exact": (points.format == "menu") & (points.metric == "exact")}  # fmt: skip
best = pd.DataFrame({name: points[which & (points.network == network)].groupby(["budget", "format"]).accuracy.mean().groupby("budget").max()
                     for name, which in steps.items()})  # fmt: skip
(100 * best).round(2)

# %% [markdown]
# The first two columns show the best of all single formats, chosen after the fact and by the test images: that flatters them.
# The menu is chosen beforehand, by predicted loss alone.
#
# ## 7. Anatomy: which layers tolerate what?
#
# The allocation answers it: a layer that it leaves many multiplications is one that tolerates little. Is it depth, stride or width?

# %%
menus = points[(points.format == "menu") & (points.metric == "input") & points.chosen.notna()]
menus = menus[menus.network != NEW]


def layers_of(name):
    """A network's layers, and the multiplications of those that can be replaced; its weights are not looked at."""
    network, image = models.load(name, weights="none"), data.load(models.model_info(name).dataset, "test").images[:1]
    rows = compress.curves(network, image, ()).candidates  # no format: the layers alone
    return dict(network.named_modules()), {layer: row[0].macs for layer, row in rows.items()}


modules, original = {}, {}
for name in [*menus.network.unique(), NEW]:
    modules[name], original[name] = layers_of(name)

# %%
layers_kept = pd.DataFrame([
    {"network": r.network, "budget": r.budget, "layer": c[0], "format": c[1] or "dense", "kept": c[3] / original[r.network][c[0]]}
    for r in menus.itertuples() for c in r.chosen])  # fmt: skip

# %%
one = layers_kept[(layers_kept.network == network) & layers_kept.kept.notna()]
shown = one.pivot_table(index="layer", columns="budget", values="kept", sort=False)
shown.round(2)

# %%
facts = layers_kept.assign(
    depth=layers_kept.groupby(["network", "budget"]).cumcount(),
    width=[modules[r.network][r.layer].weight.numel() for r in layers_kept.itertuples()],
    share=[original[r.network][r.layer] for r in layers_kept.itertuples()],
)
facts.groupby("network")[["kept", "depth", "width", "share"]].corr("spearman").kept.unstack()[
    ["depth", "width", "share"]
].round(2)

# %% [markdown]
# Rank correlations of what is kept with how deep a layer lies, how many weights it has and how many multiplications. A negative number says: the larger, the
# less is kept. Look for a column that is strong in every network. Layers with many multiplications give most, as a share there pays most; that is what a budget of multiplications
# asks for, and no property of the layer.
#
# ## 8. A guide, and its test
#
# *If your layer is ..., take ....* The rule below is made by code: of all layers that the menu replaced, at all budgets, which format did it take most often, by kind of layer? And it is
# tested as a rule should be: on a network that had no part in making it.


# %%
def kind(layer):
    if isinstance(layer, nn.Linear):
        return "dense layer"
    if layer.in_channels <= 3:
        return "convolution of up to 3 channels"
    return "convolution, 1x1" if layer.kernel_size[0] == 1 else "convolution with a window"


# %%
facts["kind"] = [kind(modules[r.network][r.layer]) for r in facts.itertuples()]
guide = facts.pivot_table(index="kind", columns="format", values="kept", aggfunc="size", fill_value=0)
guide


# %%
def rule(rows):
    """The format that is chosen most often, by kind of layer; ties go to the first by name."""
    counts = rows[rows.format != "dense"].groupby(["kind", "format"]).size().reset_index(name="n")
    counts = counts.sort_values(["n", "format"], ascending=[False, True])
    return counts.drop_duplicates("kind").set_index("kind").format.to_dict()


rule(facts)

# %% [markdown]
# Now the test. Leave one network out, make the rule from the others, and look at the format that it names for the kind of layer with the most multiplications there. Which place does this format, alone and allocated,
# have among all formats in the network that was left out, over the budgets?
#
# Leaving out is a weak test: whoever wrote the rule had seen all these networks. So one more was made afterwards: `vgg-cifar10`, six convolutions one after the other, without shortcuts, whose
# accuracies no rank, place or rule above has used. **Predict:** will the rule's format be the best one there?


# %%
def main_kind(name):
    """The kind of layer that most of a network's multiplications are in."""
    shares = pd.DataFrame([{"kind": kind(modules[name][k]), "macs": macs} for k, macs in original[name].items()])
    return shares.groupby("kind").macs.sum().idxmax()


def tested(name, places, facts):
    """The place of the rule's format in a network, the rule being made without it."""
    main = main_kind(name)
    named = rule(facts[facts.network != name]).get(main)
    known = named in places.index and name in places.columns.get_level_values("network")
    place = places.loc[named, name].mean() if known else np.nan
    return {"network": name, "kind": main, "format": named, "mean place": place, "of": len(places)}


# %%
new_places = places_of(points[points.network == NEW])
rows = [tested(name, places, facts) for name in sorted(facts.network.unique())]
pd.DataFrame([*rows, tested(NEW, new_places, facts)]).round(1)

# %% [markdown]
# The last row is the test. A place that is not a number: the records are missing. The places of all formats there, by budget:

# %%
new_places.droplevel("network", axis=1) if len(new_places) else "no run of the new network is on record"

# %% [markdown]
# With what certainty? At how many budgets the rule's format is the first of all, the menu among them, and at how many it can't be told apart from the first (section 4):

# %%
measured = points[points.macs.notna() & points.network.isin(modules)]
named = {name: rule(facts[facts.network != name]).get(main_kind(name)) for name in modules}
ends = [
    {"network": name, "format": named[name], "first": row["first"] == named[name]}
    | {"undecided": named[name] in row["not told apart from it"].split(", ")}
    for name, rows in measured.groupby("network")
    for row in firsts(name, rows)
]
sure = pd.DataFrame(ends).groupby(["network", "format"])
sure[["first", "undecided"]].sum().assign(budgets=sure.size())

# %% [markdown]
# **So, for your layer?** A convolution with a window: CP, and of its two kinds `cp3`, which the rule names; `cp` is as good where the table says so. Not Tucker, not a tensor train: both pay for a core that CP does without. A dense layer: a matrix of low rank; a train of its weights can't be told apart from it at a quarter and more, and is behind at a tenth
# (`mlp1024-mnist` in section 4). The first convolution, of one or three channels: spatial SVD, or leave it. And all that before training: section 9 shows how much three epochs level.
# This holds for networks of this size, on these images, and for the draws counted above.
#
# ## 9. Trained on
#
# Published results are trained on after compression. So are these, all by the same recipe (`formats_recipe` chose it on images held out): three epochs with labels. And the dense network is trained on as long: what it gains, the epochs have gained.

# %%
tuned = study.results("tune-compressed")
told = {"profile": "full", "held_out": 0, "epochs": 3, "distill": 0.0, "repair": "batchnorm", "images": 0}
for name, value in told.items():
    tuned = tuned[tuned[f"parameters.{name}"] == value] if len(tuned) else tuned
trained = pd.DataFrame([
    {"network": r["parameters.network"], "format": "dense" if r["parameters.budget"] == 1 else r["parameters.formats"][0],
     "budget": r["parameters.budget"], "seed": r["seed"], "date": r["date"],
     "before": r["metrics.untuned_accuracy"], "after": r["metrics.tuned_accuracy"]}
    for r in tuned.to_dict("records")], columns=["network", "format", "budget", "seed", "date", "before", "after"])  # fmt: skip
trained = trained.sort_values("date").drop_duplicates(
    ["network", "format", "budget", "seed"], keep="last"
)  # made again: the newest counts

# %%
asked = load_sweep(Path("tune_formats")).runs
print(
    f"{len(trained)} of {len(asked)} runs of tune_formats are on record; a run of ResNet-20 takes ten to twenty minutes"
)
means = trained.groupby(["network", "budget", "format"])[["before", "after"]].agg(["mean", "count"])
means = means.drop(columns=("before", "count")).set_axis(["before", "after", "draws"], axis=1)
means.assign(before=100 * means.before, after=100 * means.after).round(2)

# %% [markdown]
# Look at the differences between formats, before and after: is the order still the same, and how much of a difference is left? And compare what a format loses with what the *dense* network gains, or loses, by the same epochs at the same rate.
#
# ## 10. Time and memory
#
# Multiplications are neither. The networks of section 3 with the same share for every layer, frozen, beside the frozen original, in turns (`bench_formats`); `seconds` is what it took to factor all layers.

# %%
timed = study.results("bench-formats")
timed = timed[timed["parameters.profile"] == "full"].tail(1).to_dict("records") if len(timed) else []
rows = pd.DataFrame([row for record in timed for row in record["metrics.rows"]])
print(
    "; ".join(f"{r['metrics.network']}, {r['machine.cpu']}, {r['record']}" for r in timed)
    or "no benchmark is on record"
)


# %%
def speed_and_size(rows):
    """A row a budget and format: shares of the original, seconds to factor, and times as fast as the original."""
    by = rows.assign(
        call=[
            f"{r.batch} image{'s' * (r.batch > 1)}, {r.threads} thread{'s' * (r.threads > 1)}"
            for r in rows.itertuples()
        ]
    )
    shares = by.groupby(["budget", "format"])[["macs", "params", "peak_activation_bytes", "seconds"]].first()
    return shares.join(by.pivot_table(index=["budget", "format"], columns="call", values="speedup")).round(2)


speed_and_size(rows) if len(rows) else "no benchmark is on record"


# %%
def priced(rows, network):
    """Accuracy beside shares of parameters and of time: 64 images, one thread."""
    measured = points[(points.network == network) & (points.choice == "uniform") & points.macs.notna()]
    accuracy = 100 * measured.groupby(["budget", "format"]).accuracy.mean()
    many = rows[(rows.batch == 64) & (rows.threads == 1)].set_index(["budget", "format"])
    return many.assign(time=1 / many.speedup).join(accuracy, how="inner").reset_index()


# %%
if len(rows):
    fig, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
    for ax, (x, label) in zip(axes, {"params": "parameters", "time": "time of 64 images"}.items(), strict=True):
        for (budget, part), color in zip(priced(rows, timed[0]["metrics.network"]).groupby("budget"), ("C1", "C0")):  # noqa: B905
            ax.plot(part[x], part.accuracy, "o", color=color, label=f"{budget:g} of the multiplications")
            for row in part.itertuples():
                ax.annotate(
                    row.format, (getattr(row, x), row.accuracy), fontsize=8, xytext=(4, 2), textcoords="offset points"
                )
        ax.set(xlabel=f"{label}, relative to the dense network")
    axes[0].set(ylabel="test accuracy in %", title="At equal multiplications sizes are alike ...")
    axes[1].set(title="... and times are not")
    axes[0].legend(fontsize=8, loc="upper left")
    plt.show()

# %% [markdown]
# Times as fast as the original, medians. Where a number is below 1, a network of half or a quarter of the multiplications is *slower*: many thin layers and depthwise windows keep a processor waiting for memory (lesson 07).
# Which formats gain most, and is it those that lose least accuracy? One image and many are two questions, too. And the program that runs the network is a third one: in ONNX Runtime, with ranks in whole lanes, CP3 and spatial SVD of half the multiplications are faster than the original (section 11).
#
# ## 11. Beside other people's tools
#
# Equal realised multiplications, the same weights and test images, before any training; BatchNorm estimated anew, or as the tool left it, whichever is better for the tool. `labels` tells whether it looked at labels of training images: ours does not.

# %%
peers = study.results("compare-peers")
peers = peers[peers["parameters.profile"] == "full"].sort_values("date") if len(peers) else peers
is_timed = peers["parameters.timed"].eq(True) if "parameters.timed" in peers else peers.index < 0
timed, peers = peers[is_timed], peers[~is_timed]


usual = {"importance": "magnitude", "ranking": "global", "channels": "inner"}


def called(record):
    """The tool, and what was not its default here."""
    unusual = [
        f"{name}: {record[f'parameters.{name}']}" for name in usual if record[f"parameters.{name}"] != usual[name]
    ]
    return ", ".join([record["parameters.peer"], *unusual])


# %%
names = ("budget", "raw_accuracy", "batchnorm_accuracy")
rows = [
    {
        "network": r["parameters.network"],
        "by": called(r),
        "labels": r["metrics.labels_used"],
        "seed": r["seed"],
        "budget": b,
        "accuracy": max(raw, norm),
    }
    for r in peers.to_dict("records")
    for b, raw, norm in zip(*(r[f"metrics.{name}"] for name in names), strict=True)
    if norm is not None
]

# %%
ours = points[(points.choice == "allocated") & points.network.isin([row["network"] for row in rows])]
rows += [
    {
        "network": r.network,
        "by": f"ours: {r.format}, {r.metric}",
        "labels": False,
        "seed": r.seed,
        "budget": r.budget,
        "accuracy": r.accuracy,
    }
    for r in ours.itertuples()
]

# %%
beside = pd.DataFrame(rows, columns=["network", "by", "labels", "seed", "budget", "accuracy"])
beside = beside.drop_duplicates(["network", "by", "seed", "budget"], keep="last")  # made again: the newest counts
(100 * beside.pivot_table(index=["network", "by", "labels"], columns="budget", values="accuracy")).round(2)

# %%
known = {(r["parameters.network"], called(r), r["seed"]) for r in peers.to_dict("records")}
asked = [
    (p["network"], called({f"parameters.{name}": value for name, value in p.items()}), p["seed"])
    for p in (usual | run.parameters for run in load_sweep(Path("peers_study")).runs)
]

# %%
left_out = pd.Series([f"{name}, {tool}" for name, tool, draw in asked if (name, tool, draw) not in known])
print(f"{len(asked) - len(left_out)} of {len(asked)} runs of peers_study are on record; draws that are missing:")
print(left_out.value_counts(sort=False).to_string())

# %% [markdown]
# Means over draws. Is a single format, allocated by predicted loss, ahead of every tool at every budget? By how many points: the best one for each budget, which is chosen after the fact, and CP3 everywhere. A tool that can't come near a budget is at a disadvantage, and is listed below.
# AIMET's networks of CharNet and ResNet-56 are far from most budgets, and so far smaller: it compresses one layer at a time and measures 500 training images, and where many layers leave as many of them right, it seems, one step of its threshold takes them all.

# %%
by_tool = ~beside.by.str.startswith("ours")
singles = {"the best one": ~by_tool & ~beside.by.str.contains("menu"), "cp3": beside.by == "ours: cp3, input"}


def best(rows):
    return rows.groupby(["network", "by", "budget"]).accuracy.mean().groupby(["network", "budget"]).max()


leads = {name: 100 * (best(beside[which]) - best(beside[by_tool])).dropna() for name, which in singles.items()}

# %%
pd.DataFrame(leads).round(2).unstack("budget")

# %% [markdown]
# Are these leads real? On the same test images, of one draw, CP3 beside whichever tool has most right (section 4):

# %%
cp3 = points[(points.format == "cp3") & (points.choice == "allocated") & (points.seed == 0) & points.macs.notna()]
repaired = cp3.repaired_right.where(cp3.repaired_right.notna(), cp3.raw_right)
mine = {(network_of, share): bits(text, number) for network_of, share, text, number in zip(cp3.network, cp3.budget, repaired, cp3.images)}  # noqa: B905  # fmt: skip

# %%
tools = {}
for r in peers[peers.seed == 0].to_dict("records"):
    for budget_of, *texts in zip(*(r[f"metrics.{name}"] for name in ("budget", "raw_right", "batchnorm_right"))):  # noqa: B905
        place = tools.setdefault((r["parameters.network"], budget_of), [])
        place += [bits(text, r["metrics.test_images"]) for text in texts if text]

# %%
met = [key for key in mine if tools.get(key)]
p_lead = holm([mcnemar(mine[key], max(tools[key], key=np.sum)) for key in met])
open_ones = [f"{key[0]} at {key[1]:g}" for key, value in zip(met, p_lead, strict=True) if value >= 0.05]
assert all(mine[key].sum() > max(map(np.sum, tools[key])) for key in met)
print(f"ahead in all {len(met)} places; not told apart at 5 % after Holm's correction:", ", ".join(open_ones) or "none")

# %%
reached = [
    (f"{r['parameters.network']}, {called(r)}", budget, macs, said)
    for r in peers.to_dict("records")
    for budget, macs, said in zip(r["metrics.budget"], r["metrics.macs"], r["metrics.failed"], strict=True)
]

# %%
far = {f"  {who}: {macs:.3f} at {budget:g}" for who, budget, macs, _ in reached if macs and macs < 0.95 * budget}
print("more than 5 % below their budgets:", *sorted(far), sep="\n")
print(
    "no network:", *sorted({f"  {who} at {b:g}: {said}"[:110] for who, b, macs, said in reached if not macs}), sep="\n"
)

# %% [markdown]
# And in time? Pruned channels leave plain convolutions, which is what a processor likes best. In ONNX Runtime, one thread, times as fast as the original (`compare_peers` with `timed`), ours as they are and with their ranks
# padded to whole lanes (lesson 15):

# %%
raced = pd.DataFrame(
    [
        {"tool": called(r), "network of": row["network"].replace("tool", "the tool")} | row
        for r in timed.to_dict("records")
        for row in r["metrics.times"]
    ]
)

# %%
if len(raced):
    print(raced.pivot_table(index=["tool", "network of"], columns=["batch", "budget"], values="speedup").round(2))
else:
    print("no times of other people's tools are on record")

# %% [markdown]
# In lanes CP3 is faster than both tools' networks; as it is, it is slower than both. A tool's channels are left as the tool leaves them: where they fill no lanes either, it is at the same disadvantage, and Torch-Pruning could be asked for multiples of 8 (`round_to`, not tried here).
#
# The input-whitened alternating least squares of Kalle et al. (2025), for CP and Tucker-2, are no other format but another way to fit one: lesson 14 has them (`fits_study`).
#
# And without any decomposition: int8 leaves all multiplications, and makes each of them and each weight smaller (lesson 15). The *dense* network, quantized with ranges from 1,000 training images, as `quantize_study` has it:

# %%
quantized = study.results("quantize-network")
told = {"profile": "full", "budget": 1.0, "per_channel": True, "weight_bits": 7, "inputs": 1000}
for name, value in told.items():
    quantized = quantized[quantized[f"parameters.{name}"] == value] if len(quantized) else quantized
newest = {
    (r["parameters.network"], r["seed"]): r for r in quantized.to_dict("records")
}  # made again: the newest counts
for r in newest.values():
    print(f"{r['parameters.network']}, seed {r['seed']}: {r['metrics.int8_accuracy']:.2%} of {r['metrics.original_accuracy']:.2%},"
          f" {r['metrics.int8_bytes'] / r['metrics.onnx_bytes']:.2f} of the bytes, {r['metrics.int8_nodes']} of {r['metrics.nodes']} nodes in integers")  # fmt: skip
print(len(quantized), "records of int8 alone")

# %% [markdown]
# ## What was not compared
#
# - A budget of latency instead of multiplications: a comparison under one may end otherwise (section 10, and lesson 12).
# - int8 on top of a decomposition: lesson 15.
# - Whatever the count of missing runs above says.
#
# ## Exercises
#
# ### 1. Warm-up: mean places (15 minutes)
#
# `scores` is a list of rows, one a method, with a score for each network, the higher the better. Return each method's mean place over the networks: 1 is the best, and methods
# that tie share the mean of the places that they take.


# %%
def mean_ranks(scores):
    return ...


check.mean_ranks(mean_ranks)

# %% [markdown]
# <details><summary>Hint</summary>
#
# The place of a score: how many are larger, and half of those that are equal, itself among them, and a half.
# </details>
# <details><summary>Solution</summary>
#
# In the [solutions](solutions/13_compare_representations.ipynb), section 1.
# </details>

# %% [markdown]
# ### 2. Core: the same images (20 minutes)
#
# `a` and `b` are lists of 0 and 1: which images two networks have right. Return McNemar's exact two-sided p-value (section 4). Do without `binomtest`, and mind the case where no image tells them apart.


# %%
def paired_p(a, b):
    return ...


check.paired_p(paired_p)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Count the images that one alone has right, in both directions. `math.comb(n, k) / 2**n` is the probability of `k` heads.
# </details>
# <details><summary>Solution</summary>
#
# In the [solutions](solutions/13_compare_representations.ipynb), section 2.
# </details>

# %% [markdown]
# ### 3. Stretch: one share for all layers (25 minutes)
#
# `costs` has a list for each layer: what its candidates cost, ascending. `dense` has the cost of each layer as it is. For a share $s$ a layer takes its dearest candidate of at most $s$ times its dense cost, and the first one if there is
# none. Return the indices for the largest $s$ whose total is at most `room`. Nothing that is left over is handed out. (The first candidates together always fit.)


# %%
def same_share(costs, dense, room):
    return ...


check.same_share(same_share)

# %% [markdown]
# <details><summary>Hint</summary>
#
# The total changes at a few values of $s$ only. Which ones? Try them all, or halve an interval. Mind rounding where a cost is exactly $s$ times the dense one.
# </details>
# <details><summary>Solution</summary>
#
# In the [solutions](solutions/13_compare_representations.ipynb), section 3.
# </details>

# %% [markdown]
# ## Summary
#
# - At equal rank CP errs most; at equal cost it erred least in the layer above: its terms are cheap. Compare at equal, realised cost.
# - The same network, images, labels, cost and test images: without these a difference is nobody's.
# - Pairs on the same images are told apart by the images that one alone has right; many pairs need a correction.
# - Over networks average places, not accuracies.
# - A rule read off some networks is a guess about the next one, and can be tested as such.
#
# ## Further reading
#
# - J. Demsar, *Statistical comparisons of classifiers over multiple data sets*, JMLR 7, 2006.
# - Q. McNemar, *Note on the sampling error of the difference between correlated proportions or percentages*, Psychometrika 12, 1947.
# - S. Holm, *A simple sequentially rejective multiple test procedure*, Scandinavian Journal of Statistics 6, 1979.
# - J. T. Schuurmans, K. Batselier, J. F. P. Kooij, [*How informative is the approximation error from tensor decomposition for neural network compression?*](https://openreview.net/forum?id=sKHqgFOaFXI), ICLR 2023.

# %% [markdown]
# Previous: [12 choose ranks](12_choose_ranks.ipynb) · Next: [14 propose a scheme](14_propose_a_scheme.ipynb) · [Solutions](solutions/13_compare_representations.ipynb) · [Glossary](GLOSSARY.md)
