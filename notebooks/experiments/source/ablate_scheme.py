# %% [markdown]
# # Take the scheme apart
#
# An experiment, not a lesson: one run gives one record. A network is brought to several shares of its multiplications by the
# scheme of lesson 14, or by the scheme with one part replaced: no label, no training. Each budget is measured three times:
# with each layer factored by itself, then with BatchNorm's statistics estimated anew, and with all layers fitted in sequence.
#
# `pictures` tells what the network is looked at with: images that it was trained on, the same ones blurred or as noise of their mean and
# spread, or digits. Its images come from the training set and never from the test set, which is read once for each row.

# %% tags=["parameters"]
profile: str = (
    "quick"  # "quick": the committed images; "full": all test images, and inputs drawn from all training images
)
network: str = "quick-cifar10"  # a network for CIFAR-10 that `models.load` knows
weights: str = "trained"  # "trained" or "published"
formats: list[str] = ["cp3"]  # to choose from in each layer
choice: str = "allocated"  # "allocated" or "uniform"; "uniform" takes one format
metric: str = (
    "exact"  # "weight", "input", "kfac" or "exact": how a layer's loss is predicted, and in which norm it is factored
)
pictures: str = "training"  # "training", "blurred", "noise" or "digits"
budgets: list[float] = [0.5]  # shares of the multiplications that are left, in (0, 1)
inputs: int = 100  # at least 1; images, without labels, for the metric and for the repair
rounds: int = 3  # at least 0; how often what is wanted of a layer in front of a ReLU is drawn anew
counted: str = "exact"  # "input" or "exact": how much errors of a layer's outputs count in the fit in sequence
discount: float = (
    1.0  # at least 0; less of early layers' losses counts in the allocation, by exp(-discount) of the first one
)
seed: int = 0  # decides which images these are

# %%
import time

import numpy as np
import torch
import torch.nn.functional as F

from tnlib import compress, data, measure, models, study

# %%
subset = {"quick": "embedded", "full": "full"}[profile]
training, test = (data.load("cifar10", split, subset) for split in ("train", "test"))
model = models.load(network, weights=weights)
drawn = training.sample(inputs, seed).images


# %%
def blurred(images):
    small = F.avg_pool2d(images.float(), 4)
    return F.interpolate(small, scale_factor=4, mode="bilinear").round().to(images.dtype)


def noise(images):
    mean, spread = images.float().mean((0, 2, 3), keepdim=True), images.float().std((0, 2, 3), keepdim=True)
    values = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    return (mean + spread * values).round().clamp(0, 255).to(images.dtype)


def digits(images):
    found = data.load("mnist", "train", "embedded").sample(len(images), seed).images
    return F.pad(found, (2, 2, 2, 2)).expand(-1, 3, -1, -1).contiguous()


# %%
makers = {"training": lambda images: images, "blurred": blurred, "noise": noise, "digits": digits}
looked_at = makers[pictures](drawn)
example = looked_at[:1]
print(f"{len(looked_at)} images to look at ({pictures}), {len(test)} to measure")

# %%
started = time.perf_counter()
searched = formats if choice == "allocated" else ["svd"]  # uniform ranks need no curve, only the layers and their norms
curves = compress.curves(model, looked_at, searched, metric, example=example, seed=seed, discount=discount)
curves_seconds = time.perf_counter() - started
dense = measure.cost(model, example)


# %% [markdown]
# What is lost is told twice: in right answers, and as the squared error of the centred logits on the test images, relative to their own squares. The latter is what
# the metric `exact` predicts.


# %%
def logits_of(network):
    with torch.no_grad():
        z = torch.cat([network(batch) for batch in test.images.split(500)]).double()
    return z - z.mean(1, keepdim=True)


def measured(network, prefix):
    z = logits_of(network)
    hits = z.argmax(1) == test.labels
    error = float((z - original).square().sum() / original.square().sum())
    packed = np.packbits(hits.numpy()).tobytes().hex()
    return {f"{prefix}_accuracy": float(hits.double().mean()), f"{prefix}_error": error, f"{prefix}_right": packed}


# %%
original = logits_of(model)
of_dense = measured(model, "original")


# %%
def row_of(share):
    budget, started = compress.Budget(macs=share), time.perf_counter()
    plan = compress.Plan.of(curves, budget) if choice == "allocated" else compress.uniform(curves, budget, *formats)
    small = plan.apply(model)
    row = {"plan_seconds": time.perf_counter() - started, "predicted": None if choice == "uniform" else plan.loss}
    cost = measure.cost(small, example)
    row |= {kind: getattr(cost, kind) / getattr(dense, kind) for kind in ("macs", "params", "peak_activation_bytes")}
    row["chosen"] = [[c.layer, c.format, c.rank, c.macs] for c in plan.chosen.values()]
    row |= measured(small, "raw")
    row |= measured(compress.repair(small, model, looked_at, fit=False), "batchnorm")
    started = time.perf_counter()
    fitted = compress.repair(small, model, looked_at, rounds=rounds, metric=counted)
    return row | {"repair_seconds": time.perf_counter() - started} | measured(fitted, "sequence")


# %%
rows = []
for share in budgets:
    try:
        rows.append({"budget": share, "reason": None} | row_of(share))
    except ValueError as error:
        rows.append({"budget": share, "reason": str(error)})

# %%
told = {"profile": profile, "network": network, "weights": weights, "formats": formats, "choice": choice}
told |= {"metric": metric, "pictures": pictures, "budgets": budgets, "inputs": inputs}
told |= {"rounds": rounds, "counted": counted, "discount": discount}
metrics = {"rows": rows, "test_images": len(test), "curves_seconds": curves_seconds}
metrics |= {key: of_dense[key] for key in ("original_accuracy", "original_right")}
metrics["original"] = {kind: getattr(dense, kind) for kind in ("macs", "params")}

# %%
study.record("ablate-scheme", metrics, parameters=told, source="notebooks/experiments/ablate_scheme", seed=seed)
print("recorded ablate-scheme")
