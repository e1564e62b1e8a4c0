# %% [markdown]
# # Measure how long the scheme of lesson 14 takes
#
# A benchmark: one run gives one record, `bench-scheme`. How long do the curves take, how long allocation and factors, how long the repair?
# How much memory do they need?
#
# **Rules.** One process; the whole scheme several times, after a run on the smallest network that nobody looks at. Time hardly depends on the
# weights: those of the network that is committed serve, and where there are none they are drawn. Memory is the highest resident size of
# the process, Python, torch and images included. Nothing is said of accuracy.

# %% tags=["parameters"]
profile: str = "quick"  # "quick": the smallest network, seconds; "full": what is asked for, some ten minutes
network: str = "quick-cifar10"  # a network that `models.load` knows
budget: float = 0.5  # share of the multiplications that is left, in (0, 1)
formats: list[str] = ["spatial_svd", "cp3"]  # to choose from in each layer
inputs: int = 100  # at least 1; training images, without labels
repeats: int = 1  # at least 1
seed: int = 0  # decides the images, and the weights where they are drawn

# %%
import resource
import statistics
import sys
import time

import torch

from tnlib import compress, data, models, study

# %%
subset = {"quick": "embedded", "full": "full"}[profile]
pictures = data.load(models.model_info(network).dataset, "train", subset).sample(inputs, seed).images


# %%
def drawn():
    torch.manual_seed(seed)
    return models.model_info(network).build().eval()


# %%
model = models.load(network) if models.weights_file(network).is_file() else drawn()
parameters = sum(p.numel() for p in model.parameters())


# %%
def peak_bytes():
    """The highest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


# %%
PARTS = ("curves", "apply", "repair")


def run(model, pictures, limit):
    """Seconds of each part, and the share of multiplications that is left."""
    marks = [time.perf_counter()]
    curves = compress.curves(model, pictures, formats, "exact", example=pictures[:1], seed=seed)
    marks.append(time.perf_counter())
    plan = compress.Plan.of(curves, compress.Budget(macs=limit))
    small = plan.apply(model)
    marks.append(time.perf_counter())
    compress.repair(small, model, pictures)
    marks.append(time.perf_counter())
    parts = {name: marks[k + 1] - marks[k] for k, name in enumerate(PARTS)}
    return {"macs": plan.share("macs")} | parts | {"seconds": marks[-1] - marks[0]}


# %%
before = peak_bytes()
warm = data.load("cifar10", "train", "embedded").sample(20, 0).images
run(models.load("quick-cifar10"), warm, 0.5)
rows = [run(model, pictures, budget) for _ in range(repeats)]

# %%
metrics = {"rows": rows, "params": parameters, "peak_bytes": peak_bytes(), "peak_bytes_before": before}
for part in (*PARTS, "seconds"):
    metrics[f"{part}_s"] = statistics.median(row[part] for row in rows)
metrics |= {f"{name}_seconds": pick(row["seconds"] for row in rows) for name, pick in (("least", min), ("most", max))}

# %%
study.record(
    "bench-scheme",
    metrics,
    parameters={
        "profile": profile,
        "network": network,
        "budget": budget,
        "formats": formats,
        "inputs": inputs,
        "repeats": repeats,
    },
    source="notebooks/experiments/bench_scheme",
    seed=seed,
)
print("recorded bench-scheme")
