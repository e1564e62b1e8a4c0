# %% [markdown]
# # Compress a network in one format, at several budgets
#
# An experiment, not a lesson: one run gives one record. A network is brought to several shares of its multiplications, in one
# format or in the best one of several for each layer; no label and no training. Lesson 13 compares the records.
#
# `choice` tells how ranks are found: the same share in each layer, or allocated by predicted loss. A budget that a format
# cannot keep is left out, and the record says why.

# %% tags=["parameters"]
profile: str = (
    "quick"  # "quick": the committed images; "full": all test images, and inputs drawn from all training images
)
network: str = "resnet20-cifar10"  # a network that `models.load` knows
formats: list[str] = ["spatial_svd"]  # one format, or several to choose from in each layer
choice: str = "allocated"  # "allocated" or "uniform"
metric: str = "input"  # "weight", "input" or "exact": how a layer's loss is predicted, and in which norm it is factored
repair: str = "batchnorm"  # "batchnorm" or "sequence": what is done afterwards, without labels: statistics alone, or layers fitted, too
budgets: list[float] = [0.5, 0.25]  # shares of the multiplications that are left, in (0, 1)
inputs: int = 200  # at least 1; training images, without labels, for the metric and for the repair
seed: int = 0  # decides which images these are

# %%
import time

import numpy as np
from torch import nn

from tnlib import compress, data, measure, models, study, train

# %%
subset = {"quick": "embedded", "full": "full"}[profile]
training, test = (data.load(models.model_info(network).dataset, split, subset) for split in ("train", "test"))
model, looked_at = models.load(network), training.sample(inputs, seed).images
example = looked_at[:1]
print(f"{len(looked_at)} images to look at, {len(test)} to measure")

# %%
started = time.perf_counter()
searched = formats if choice == "allocated" else ["svd"]  # uniform ranks need no curve, only the layers and their norms
curves = compress.curves(model, looked_at, searched, metric, example=example, seed=seed)
seconds = {"curves": time.perf_counter() - started}
dense = measure.cost(model, example)

# %% [markdown]
# Statistics of BatchNorm can be estimated anew only where there are some; the other networks have nothing to repair that way.


# %%
has_norms = any(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def packed(hits):
    return np.packbits(hits.numpy()).tobytes().hex()


def planned(budget):
    if choice == "allocated":
        return compress.Plan.of(curves, budget)
    return compress.uniform(curves, budget, *formats)


# %%
def measured(small, prefix):
    hits = train.hits(small, test)
    return {f"{prefix}_accuracy": float(hits.double().mean()), f"{prefix}_right": packed(hits)}


# %%
def row_of(share):
    started = time.perf_counter()
    plan = planned(compress.Budget(macs=share))
    small = plan.apply(model)
    row = {"seconds": time.perf_counter() - started, "gap": plan.gap if choice == "allocated" else None}
    cost = measure.cost(small, example)
    row |= {kind: getattr(cost, kind) / getattr(dense, kind) for kind in ("macs", "params", "peak_activation_bytes")}
    chosen = [[c.layer, c.format, c.rank, c.macs, c.params] for c in plan.chosen.values()]
    row |= {"chosen": chosen} | measured(small, "raw")
    started = time.perf_counter()
    if not has_norms and repair == "batchnorm":
        return row | {"repair_seconds": 0.0}
    small = compress.repair(small, model, looked_at, fit=repair == "sequence")
    return row | {"repair_seconds": time.perf_counter() - started} | measured(small, "repaired")


# %%
rows = []
for share in budgets:
    try:
        rows.append({"budget": share, "reason": None} | row_of(share))
    except ValueError as error:
        rows.append({"budget": share, "reason": str(error)})

# %%
told = {"profile": profile, "network": network, "formats": formats, "choice": choice, "metric": metric}
told |= {"repair": repair, "budgets": budgets, "inputs": inputs}

# %%
hits = train.hits(model, test)
metrics = {"rows": rows, "original_accuracy": float(hits.double().mean()), "original_right": packed(hits)}
metrics |= {
    "test_images": len(test),
    "has_norms": has_norms,
    "original": {k: getattr(dense, k) for k in ("macs", "params")},
}
metrics |= {"curves_seconds": seconds["curves"]}

# %%
study.record(
    "compare-formats",
    metrics,
    parameters=told,
    source="notebooks/experiments/compare_formats",
    seed=seed,
)
print("recorded compare-formats")
