# %% [markdown]
# # Train a compressed network on, for a few epochs
#
# An experiment, not a lesson: one run gives one record. A network is brought to a share of its multiplications without labels, as lesson
# 13 or lesson 14 does it, and is then trained on: by its labels, or by what the original answers, which needs none. A budget of 1 leaves
# the network as it is: the same epochs spent on the dense network tell what of a gain is the epochs'.
#
# Accuracy is measured before training and after the last epoch; the test set decides nothing. `held_out` takes images away from the
# training set and measures on those instead, to choose a recipe.

# %% tags=["parameters"]
profile: str = "quick"  # "quick": the committed images; "full": 50,000 to train on, 10,000 test images
network: str = "quick-cifar10"  # a network that `models.load` knows
weights: str = "trained"  # "trained" or "published"
budget: float = 0.5  # share of the multiplications that is left, in (0, 1]; 1.0 is the network as it is
formats: list[str] = ["spatial_svd", "cp3"]  # to choose from in each layer
choice: str = "allocated"  # "allocated" or "uniform"; "uniform" takes one format
metric: str = "input"  # "weight", "input", "kfac" or "exact": the norm of predicted losses and of factors
discount: float = 0.0  # at least 0; by exp(-discount) the first layer's loss counts less in the allocation
repair: str = "sequence"  # "none", "batchnorm" or "sequence": what is done before training, without labels
inputs: int = 100  # at least 1; training images, without labels, for the metric and for the repair
epochs: int = 1  # at least 0
batch: int = 128  # at least 1
optimizer: str = "sgd"  # "sgd", "adam" or "soap"
lr: float = 0.003  # peak of the learning rate
distill: float = 1.0  # in [0, 1]; share of the loss that imitates the network before compression; 1 needs no labels
match: str = "logits"  # "answers" or "logits": what is imitated
norms: str = "frozen"  # "frozen" or "trained": whether BatchNorm keeps its statistics in training
weight_decay: float = 0.0  # of the weights, not of biases and BatchNorm
images: int = 0  # at least 0; so many training images are trained on, 0 for all
held_out: int = 0  # at least 0; so many training images are measured instead of the test images
resumable: bool = False  # keep checkpoints until the run is over
seed: int = 0  # decides the images of `inputs`, and the order of the images

# %%
import hashlib
import json

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from tnlib import compress, data, measure, models, paths, provenance, study, train

# %%
subset = {"quick": "embedded", "full": "full"}[profile]
name_of_data = models.model_info(network).dataset
training, test = (data.load(name_of_data, split, subset) for split in ("train", "test"))
if held_out:
    order = torch.randperm(len(training), generator=torch.Generator().manual_seed(0)).split(len(training) - held_out)
    training, test = (data.ImageSet(training.info, training.images[i], training.labels[i]) for i in order)
print(f"{images or len(training)} images to train on, {len(test)} to measure")

# %%
model = models.load(network, weights=weights)
looked_at = training.sample(inputs, seed).images
example = looked_at[:1]

# %%
built = {"profile": profile, "network": network, "weights": weights, "budget": budget, "formats": formats}
built |= {"choice": choice, "metric": metric, "repair": repair, "inputs": inputs, "held_out": held_out}
built |= {"discount": discount}
recipe = {"epochs": epochs, "batch": batch, "optimizer": optimizer, "lr": lr, "distill": distill, "match": match}
recipe |= {"norms": norms, "weight_decay": weight_decay}
told = built | recipe | {"images": images}


# %% [markdown]
# What was built is kept beside the checkpoint of training: a run that is resumed goes on from both, and runs that differ in their recipe alone
# share it. It is known by the code that built it, too.


# %%
def kept(name, *content):
    key = hashlib.sha256(json.dumps([*content, seed]).encode()).hexdigest()[:16]
    return paths.RUNS / "train" / f"tune-compressed-{name}-{key}"


code = provenance.code_digest("from tnlib import compress, data, models")
plan_file = kept("plan", built, code).with_suffix(".json")
state_file = plan_file.with_suffix(".safetensors")
checkpoint = kept("training", told, code).with_suffix(".pt") if resumable else None


# %%
def planned():
    searched = formats if choice == "allocated" else ["svd"]  # uniform ranks need no curve
    curves = compress.curves(model, looked_at, searched, metric, example=example, seed=seed, discount=discount)
    if choice == "allocated":
        return compress.Plan.of(curves, compress.Budget(macs=budget))
    return compress.uniform(curves, compress.Budget(macs=budget), *formats)


def repaired(small):
    return small if repair == "none" else compress.repair(small, model, looked_at, fit=repair == "sequence")


# %%
small = models.load(network, weights=weights)
if budget < 1:
    found = state_file.is_file()
    plan = compress.Plan.load(plan_file) if found else planned()
    small = plan.apply(model, weights="empty" if found else "pretrained")
    if found:
        small.load_state_dict(load_file(state_file))
    else:
        small = repaired(small)

# %%
if budget < 1 and resumable and not found:
    state_file.parent.mkdir(parents=True, exist_ok=True)
    plan.save(plan_file)
    with paths.replacing(state_file) as temporary:
        save_file({name: value.contiguous() for name, value in small.state_dict().items()}, temporary)

# %%
cost, before = (measure.cost(m, example) for m in (small, model))
right = {"original": train.hits(model, test), "untuned": train.hits(small, test)}

# %%
losses, seconds = [], []
if epochs:
    how = train.Recipe(**recipe, warmup=0.1, clip=5.0, seed=seed)
    seen = training.sample(images, seed) if images else training
    losses, seconds = train.fit(small, seen, how, checkpoint=checkpoint, teacher=model if distill else None)
right["tuned"] = train.hits(small, test)

# %%
metrics = {f"{name}_accuracy": hits.double().mean() for name, hits in right.items()}
metrics |= {f"{name}_right": np.packbits(hits.numpy()).tobytes().hex() for name, hits in right.items()}
metrics |= {kind: getattr(cost, kind) / getattr(before, kind) for kind in ("macs", "params", "peak_activation_bytes")}
metrics |= {"losses": losses, "seconds": sum(seconds), "test_images": len(test)}

# %%
study.record(
    "tune-compressed",
    metrics,
    parameters=told,
    source="notebooks/experiments/tune_compressed",
    seed=seed,
)
if checkpoint is not None:
    checkpoint.unlink(missing_ok=True)
print("recorded tune-compressed")
