# %% [markdown]
# # EMIS: tensor compression without labels, in the exact metric and in sequence
#
# *Tensor Compression Workbook, lesson 14. Every number below is computed from records of runs when this page is made.*

# %%
import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import Markdown, display
from matplotlib.ticker import PercentFormatter

from tnlib import paths, study

NETWORKS = {"resnet20-cifar10": "ResNet-20", "resnet56-cifar10": "ResNet-56"}
USUAL = {"formats": "spatial_svd cp3", "choice": "allocated", "metric": "exact", "pictures": "training"}
USUAL |= {"inputs": 1000, "rounds": 3, "counted": "exact"}

# %%
found = study.results("ablate-scheme")
found = found[(found["parameters.profile"] == "full") & (found["parameters.weights"] == "published")]
rows = pd.DataFrame([
    {name.removeprefix("parameters."): record[name] for name in found if name.startswith("parameters.")}
    | {"seed": record["seed"], "original": record["metrics.original_accuracy"], "images": record["metrics.test_images"]} | row
    for record in found.sort_values("date").to_dict("records") for row in record["metrics.rows"] if row["reason"] is None])  # fmt: skip
rows["formats"] = rows.formats.map(" ".join)
rows["discount"] = rows.get("discount", pd.Series(0.0, rows.index)).fillna(0.0)  # older records had none
keys = ["network", "weights", *USUAL, "discount", "seed", "budget"]
rows = rows.drop_duplicates(keys, keep="last")  # made again: the newest counts
USUAL["discount"] = rows.groupby("discount").size().idxmax()


# %%
def runs(**parts):
    """Rows of the scheme, some of its parts replaced."""
    chosen = rows
    for name, value in (USUAL | parts).items():
        chosen = chosen[chosen[name] == value]
    return chosen


def told(values):
    """Mean and range in percent."""
    low, high = 100 * values.min(), 100 * values.max()
    return f"{100 * values.mean():.2f}" + (f" ({low:.2f} to {high:.2f})" if high > low else "")


scheme = runs()

# %%
tuned = study.results("tune-compressed")
TOLD = {"parameters": ["network", "budget"], "metrics": ["original_accuracy", "tuned_accuracy", "macs"]}
fixed = {"profile": "full", "epochs": 5, "distill": 1.0, "metric": "exact", "weights": "published", "held_out": 0}
for name, value in (fixed | {"optimizer": "soap", "inputs": 1000}).items():
    tuned = tuned[tuned[f"parameters.{name}"] == value]
tuned = pd.DataFrame({name: tuned.get(f"{part}.{name}", []) for part, names in TOLD.items() for name in names})

# %%
tight = scheme[(scheme.network == "resnet20-cifar10") & (scheme.budget == 0.4)]
deep = scheme[(scheme.network == "resnet56-cifar10") & (scheme.budget == 0.29)]
display(Markdown(f"""**Abstract.** A trained convolutional network is factored, layer by layer, into separable filters or CPDs, each fitted by
non-linear least squares in the norm in which its errors count: the second moment of its input patches, times the Gauss-Newton matrix
of the logits at its outputs. Formats and ranks of all layers are chosen together under a budget of multiplications. Then the layers
are fitted again, from the input to the output, to what the original computes, on what the compressed network computes. No labels and no
training: 1,000 images are looked at. Of ResNet-20 ({told(tight.original)} %) with {tight.macs.mean():.0%} of its multiplications
{told(tight.sequence_accuracy)} % of {tight.images.iloc[0]:,} CIFAR-10 test images are right, of ResNet-56 ({told(deep.original)} %) with
{deep.macs.mean():.0%} {told(deep.sequence_accuracy)} %; means and ranges of {tight.seed.nunique()} and {deep.seed.nunique()} draws of
images."""))  # fmt: skip

# %% [markdown]
# ## The scheme
#
# **Look.** One forward and one backward pass over the images give for each layer C, the second moment of the patches that its kernel is
# applied to, and G, that of the gradients at its outputs of randomly weighted, centred logits. An error E of the kernel, a matrix
# outputs × patch, changes the logits, to first order and if errors at different positions do not add up, by tr(G E C Eᵀ).
#
# **Curves.** Each layer is factored in each format at some ranks: first in the norm of its channels, where whitening is exact, then by
# Levenberg-Marquardt steps on all factors in that of C and G. Between these ranks the logarithm of the loss is interpolated.
#
# **Allocate.** One format and rank for each layer, of least predicted loss under the budget: a multiple-choice knapsack. Losses of early
# layers may be discounted, as the next step makes up for part of them.
#
# **Repair in sequence.** From the input to the output each layer is fitted to the original's outputs, its inputs being the compressed
# network's: the kernel by ridge regression (the ridge by cross-validation), then its factors. Where a ReLU cuts the original off, any negative
# number will do; what is wanted there is drawn anew three times (after Zhang et al. 2015). In front of a sum the layer makes up for
# the shortcut's error, too. Biases and BatchNorm's means follow.
#
# *Not new*: whitening by the inputs' moment (Kalle et al. 2025) and on both sides (EigenDamage, Wang et al. 2019), reconstruction in
# sequence (Zhang et al. 2015), ranks by a multiplier (ALDS, Liebenwein et al. 2021), least squares for a kernel's CPD (Lebedev et al. 2015). *Not found
# elsewhere*: their union for all formats, in the exact moment of patches.
#
# ## Evidence

# %%
groups = sorted(scheme.groupby(["network", "budget"]), key=lambda pair: (pair[0][0], -pair[0][1]))
table = pd.DataFrame([
    {"network": NETWORKS[network], "budget": f"{budget:g}", "MACs left": f"{same.macs.mean():.1%}", "parameters left": f"{same.params.mean():.1%}",
     "original": told(same.original), "factored": told(same.raw_accuracy), "in sequence": told(same.sequence_accuracy),
     "five epochs": told(five.tuned_accuracy) if len(five := tuned[(tuned.network == network) & (tuned.budget == budget)]) else "not run",
     "draws": f"{same.seed.nunique()}, {len(five)}"}
    for (network, budget), same in groups])  # fmt: skip
display(Markdown("Accuracy in percent, mean and range over draws of 1,000 training images; all test images, read once a run. "
                 "*Five epochs*: from there, by the original's logits, still without labels."))  # fmt: skip
table.style.hide(axis="index")

# %%
works = pd.read_csv(paths.REFERENCE / "works.csv")
works = works[(works.data == "CIFAR-10") & works.change.notna() & works.macs_removed.notna()]
fig, axes = plt.subplots(1, 2, figsize=(8.5, 2.7), sharey=True)
for ax, (network, name) in zip(axes, NETWORKS.items(), strict=True):
    others, ours = works[works.network == name], scheme[scheme.network == network]
    few = others.epochs == "0"
    ax.plot(100 - others.macs_removed[~few], others.change[~few], "o", color="0.75", label="published, trained on")
    ax.plot(100 - others.macs_removed[few], others.change[few], "s", color="0.35", label="published, not trained on")
    ax.plot(
        100 * ours.macs, 100 * (ours.sequence_accuracy - ours.original), "C0v", label="EMIS, no labels, no training"
    )
    here = tuned[(tuned.network == network) & (tuned.budget < 1)]
    ax.plot(
        100 * here.macs, 100 * (here.tuned_accuracy - here.original_accuracy), "C1^", label="and five epochs, no labels"
    )
    ax.set(title=name, xlabel="multiplications left", ylim=(-9, 2.5), xlim=(5, 80))
    ax.xaxis.set_major_formatter(PercentFormatter(decimals=0))
axes[0].set_ylabel("change of accuracy, points")
axes[1].legend(fontsize=7, loc="lower right")
fig.tight_layout()

# %%
PARTS = {"the scheme": {}, "discount of early layers": {"discount": 1.0}, "no rounds for ReLUs": {"rounds": 0}, "repair counts all outputs alike": {"counted": "input"},
         "formats, ranks by the kernel's norm": {"metric": "weight"}, "spatial SVD alone": {"formats": "spatial_svd"},
         "CPD alone, uniform ranks": {"formats": "cp3", "choice": "uniform"}, "3,000 images": {"inputs": 3000}}  # fmt: skip
parts = {label: runs(**change) for label, change in PARTS.items()}
parts = {label: kept for label, part in parts.items() if len(kept := part[part.network == "resnet20-cifar10"])}
draws = set.intersection(*(set(part.seed) for part in parts.values()))
ablation = pd.DataFrame({
    label: {f"{kind} at {budget}": f"{100 * part[(part.budget == budget) & part.seed.isin(draws)][f'{key}_accuracy'].mean():.2f}"
            for budget in (0.4, 0.15) for kind, key in (("factored", "raw"), ("in sequence", "sequence"))}
    for label, part in parts.items()}).T  # fmt: skip
display(
    Markdown(
        f"**One part at a time**, ResNet-20, accuracy in percent, {len(draws)} draw of images that all of these have on record (the first two rows with interpolated curves, the others from before):"
    )
)
ablation

# %%
clock = study.results("bench-scheme")
clock = clock[clock["parameters.profile"] == "full"] if len(clock) else clock
times = "; ".join(
    f"{NETWORKS.get(row['parameters.network'], row['parameters.network'])} at {row['parameters.budget']:g}: {row['metrics.seconds_s']:.0f} s, "
    f"{row['metrics.peak_bytes'] / 1e9:.1f} GB at most ({row['machine.cpu']}, {row['machine.threads']} threads)"
    for row in clock.to_dict("records")
)
display(Markdown(f"**Time** of the whole scheme, nothing else running: {times or 'not on record yet'}."))

# %%
at_tight = ablation["in sequence at 0.15"].astype(float)
shift = at_tight.iloc[0] - at_tight
display(Markdown(f"""## Where it loses

Long training with labels goes further at the same share (grey circles). Multiplications are not time: a CPD's depthwise step runs far
below a processor's peak. The scheme is led by its images. Two networks of one data set were looked at, and the scheme was developed on
them: a first sketch looked at their test images, later choices were made on training images that nothing was fitted to. On ResNet-20 at 0.15, the format is worth {shift['spatial SVD alone']:.1f} points over spatial SVD alone and
the rounds for ReLUs {shift['no rounds for ReLUs']:.1f}; at 0.4 most parts are worth less than draws of images differ by."""))  # fmt: skip

# %% [markdown]
# *Code, records and proofs: lesson 14 of the workbook, `tnlib.compress`, and `data/results/`; `tnlib results ablate-scheme` lists the runs.*
