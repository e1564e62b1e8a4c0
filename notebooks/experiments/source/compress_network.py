# %% [markdown]
# # Compress a whole network under a budget, and train it on
#
# An experiment, not a lesson: one run gives one record. A network is planned for a share of its multiplications, compressed,
# repaired without labels, and it is trained for some epochs. `choice` tells how ranks are found: allocated; the same
# share in each layer; or drawn at random and scaled until the budget is met. The same epochs spent on the
# network as it is (`choice="dense"`) tell what of a gain is the epochs'.

# %% tags=["parameters"]
profile: str = "quick"  # "quick": the committed images; "full": 50,000 to train on, 10,000 test images
network: str = "resnet20-cifar10"  # a network that `models.load` knows
budget: float = 0.5  # share of the multiplications that is left, in (0, 1)
formats: list[str] = ["spatial_svd"]  # formats to choose from
metric: str = "weight"  # "weight" or "input": how a layer's loss is predicted, and in which norm it is factored
choice: str = "allocated"  # "allocated", "uniform", "random" or "dense"
inputs: int = 500  # at least 1; training images, without labels, for the metric "input" and for the repair
repair: str = "batchnorm"  # "batchnorm" or "sequence": what is done before training, without labels: statistics alone, or layers fitted, too
epochs: int = 0  # at least 0
batch: int = 128  # at least 1
lr: float = 0.03  # peak of the learning rate
distill: float = 0.0  # in [0, 1]; share of the loss that imitates the network before compression
held_out: int = 0  # at least 0; so many training images are measured instead of the test images, to choose a recipe
resumable: bool = False  # keep a checkpoint until the run is over
seed: int = 0  # decides the images of `inputs`, random ranks, and the order of the images

# %%
import hashlib
import json
from dataclasses import replace

import numpy as np

from tnlib import compress, data, measure, models, paths, study, train

# %%
subset = {"quick": "embedded", "full": "full"}[profile]
name_of_data = models.model_info(network).dataset
training, test = (data.load(name_of_data, split, subset) for split in ("train", "test"))
if held_out:
    images, labels = training.images, training.labels
    training = data.ImageSet(training.info, images[:-held_out], labels[:-held_out])
    test = data.ImageSet(training.info, images[-held_out:], labels[-held_out:])
print(f"{len(training)} images to train on, {len(test)} to measure")

# %%
model = models.load(network)
looked_at = training.sample(inputs, seed).images
how = {"example": looked_at[:1], "seed": seed}
curves = {name: compress.curves(model, looked_at, formats, name, **how) for name in ("weight", "input")}

# %%
chosen_from = curves[metric].candidates
whole = curves[metric].survey.cost["macs"]
fixed = whole - sum(row[0].macs for row in chosen_from.values())
plan = compress.Plan.of(curves[metric], compress.Budget(macs=budget))

# %% [markdown]
# A wish per layer, and one factor for all wishes, as large as the budget allows: of each layer's candidates the one of least predicted
# loss that costs at most wish times factor.


# %%
def within(wishes, factor):
    chosen = {}
    for (name, row), wish in zip(chosen_from.items(), wishes, strict=True):
        most = max(wish * factor * row[0].macs, min(c.macs for c in row))
        chosen[name] = min((c for c in row if c.macs <= most), key=lambda c: (c.loss, c.macs))
    return chosen


def scaled(wishes):
    low, high = 0.0, 1 / min(wishes)
    for _ in range(50):
        middle = (low + high) / 2
        fits = fixed + sum(c.macs for c in within(wishes, middle).values()) <= budget * whole
        low, high = (middle, high) if fits else (low, middle)
    return within(wishes, low)


# %%
drawn = np.random.default_rng(seed).uniform(0.15, 0.9, len(chosen_from))
if choice in ("uniform", "random"):
    plan = replace(plan, chosen=scaled(drawn if choice == "random" else np.ones(len(drawn))))
elif choice == "dense":
    plan = replace(plan, chosen={name: row[0] for name, row in chosen_from.items()})
small = plan.apply(model)

# %% [markdown]
# Four predictions, each a sum over the layers: squared errors of the weight and of the layer's output, relative and absolute.

# %%
replaced = [name for name, c in plan.chosen.items() if c.format is not None]
predicted = {f"{m}_{kind}": 0.0 for m in ("weight", "output") for kind in ("relative", "absolute")}
for name in replaced:
    weight, made = model.get_submodule(name).weight, small.get_submodule(name).dense_weight()
    for m, which in {"weight": "weight", "output": "input"}.items():
        norm = curves[which].norms[name]
        relative = norm.loss(weight, made)
        energy = weight.detach().square().sum() if norm.moment is None else norm.moment.square(weight.detach().double())
        predicted[f"{m}_relative"] += relative
        predicted[f"{m}_absolute"] += relative * float(energy)

# %%
cost, before = (measure.cost(m, looked_at[:1]) for m in (small, model))
right = {"original": train.hits(model, test), "raw": train.hits(small, test)}
if choice != "dense":
    small = compress.repair(small, model, looked_at, fit=repair == "sequence")
right["repaired"] = train.hits(small, test)

# %%
told = {"profile": profile, "network": network, "budget": budget, "formats": formats, "metric": metric}
told |= {"choice": choice, "inputs": inputs, "epochs": epochs, "batch": batch, "lr": lr}
told |= {"distill": distill, "held_out": held_out, "repair": repair}

# %%
key = hashlib.sha256(json.dumps([told, seed]).encode()).hexdigest()[:16]
checkpoint = paths.RUNS / "train" / f"compress-network-{key}.pt" if resumable else None

# %%
recipe = train.Recipe(epochs=epochs, batch=batch, lr=lr, clip=5.0, distill=distill, seed=seed)
losses, seconds = [], []
if epochs:
    losses, seconds = train.fit(small, training, recipe, checkpoint=checkpoint, teacher=model)
right["tuned"] = train.hits(small, test)

# %%
metrics = {f"{name}_accuracy": hits.double().mean() for name, hits in right.items()}
metrics |= {f"{name}_right": np.packbits(hits.numpy()).tobytes().hex() for name, hits in right.items()}
metrics |= {"macs": cost.macs / before.macs, "params": cost.params / before.params, "replaced": len(replaced)}
metrics |= predicted | {"losses": losses, "seconds": sum(seconds), "test_images": len(test)}

# %%
study.record(
    "compress-network",
    metrics,
    parameters=told,
    source="notebooks/experiments/compress_network",
    seed=seed,
)
if resumable and epochs:
    checkpoint.unlink(missing_ok=True)
print("recorded compress-network")
