# %% [markdown]
# # Replace the layers of a character network by CP, one after the other
#
# An experiment, not a lesson: one run gives one record. It is the procedure of Lebedev et al. 2015: the second
# convolution becomes a CPD, the network is fine-tuned, the third becomes one, and it is fine-tuned again. With `first_rank`
# the first layer follows, which the paper leaves alone. With `method="dense"` nothing is replaced, and the same epochs
# are spent: a gain that the dense network has, too, is the epochs'.
#
# What is fine-tuned is the network without its new layers (`tune="rest"`, as in the paper), or all of it; in float32,
# since terms that cancel cost bfloat16 its digits.

# %% tags=["parameters"]
profile: str = "quick"  # "quick": 2,200 images to tune on and to test with; "full": 64,800 and 10,800
method: str = "nls"  # "nls", "als" or "greedy": how a kernel is decomposed; "dense": nothing is replaced
rank: int = 64  # at least 1; of the second and of the third layer
first_rank: int = 0  # 0 to 81; of the first layer; 0: it stays as it is
max_norm: float = 0.0  # at least 0; bound on the terms of a fit (decompose.cp; nls and als); 0: none
tune: str = "rest"  # "rest" or "all": what is fine-tuned after a layer was replaced
epochs: int = 1  # at least 0; after each replacement
lr: float = 0.003  # peak of the learning rate
weight_decay: float = 5e-4  # at least 0
seed: int = 0  # decides the start of CP, the order of the images and their crops

# %%
import time

import torch

from tnlib import data, layers, measure, models, study, train

# %%
subset = {"quick": "embedded", "full": "full"}[profile]
network = "charnet-chars36"

# %%
model = models.load(network)
training, test = (data.load("chars36", split, subset) for split in ("train", "test"))
dense, shape = models.load(network), (1, *test.images.shape[1:])
metrics = {"test_images": len(test), "dense_accuracy": train.accuracy(model, test)}
print(f"{len(test)} test images")


# %%
def fine_tune(step):
    how = {"warmup": 0.1, "padding": 2, "flip": False, "clip": 2.0, "seed": 1000 * seed + step}
    if epochs:
        recipe = train.Recipe(epochs=epochs, lr=lr, weight_decay=weight_decay, **how)
        train.fit(model, training, recipe, precision="float32")
        model.to(memory_format=torch.contiguous_format)
    model.requires_grad_(True)


# %%
def replace(name, rank):
    options = {"max_iter": {"nls": 100, "als": 500, "greedy": 100}[method], "tol": 1e-7, "seed": seed}
    if max_norm:
        options["max_norm"] = max_norm
    conv = model.get_submodule(name)
    begin = time.perf_counter()
    small = layers.factorize(conv, "cp", rank, method=method, **options)
    metrics[f"{name}_seconds"] = time.perf_counter() - begin
    kernel, found = conv.weight.detach(), small.dense_weight().detach()
    *inner, last = (factor.detach().flatten(1) for factor in small.factors())
    terms = last.norm(dim=0) * torch.stack([factor.norm(dim=1) for factor in inner]).prod(0)
    metrics[f"{name}_error"] = float((found - kernel).norm() / kernel.norm())
    metrics[f"{name}_norm"] = float(terms.norm() / kernel.norm())
    model.set_submodule(name, small)
    small.requires_grad_(tune == "all")


# %%
steps = [("conv2", rank), ("conv3", rank)] + ([("conv1", first_rank)] if first_rank else [])
for step, (name, r) in enumerate(steps):
    if method != "dense":
        replace(name, r)
        metrics[f"{name}_raw_accuracy"] = train.accuracy(model, test)
        for earlier, _ in steps[:step]:
            model.get_submodule(earlier).requires_grad_(tune == "all")
    fine_tune(step)
    metrics[f"{name}_accuracy"] = train.accuracy(model, test)
    print(name, "done")

# %% [markdown]
# What the network in use takes is the benchmark [bench_characters](bench_characters.ipynb)'s question: time does not depend on weights.

# %%
cost = measure.cost(model, shape)
metrics |= {"accuracy": metrics[f"{steps[-1][0]}_accuracy"], "params": cost.params, "macs": cost.macs}
metrics |= {f"relative_{k}": v for k, v in cost.relative_to(measure.cost(dense, shape)).items()}

# %%
study.record(
    "replace-character-layers",
    metrics,
    parameters={
        **{"profile": profile, "method": method, "rank": rank, "first_rank": first_rank, "max_norm": max_norm},
        **{"tune": tune, "epochs": epochs, "lr": lr, "weight_decay": weight_decay},
    },
    source="notebooks/experiments/replace_character_layers",
    seed=seed,
)
print("recorded replace-character-layers")
