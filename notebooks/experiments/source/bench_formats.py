# %% [markdown]
# # Measure what each format saves in time and memory
#
# A benchmark: one run gives one record, `bench-formats`. A network is brought to shares of its multiplications in one format after the other,
# with the same share for every layer, and frozen. How fast is each beside the frozen original, with how many images in a call and on how many
# threads, and what do its parameters and its activations occupy? How long does it take to factor the layers?
#
# **Rules.** One process; all networks of a budget take turns, in blocks of calls after one that is not timed, and ratios are taken turn by turn.
# Times do not depend on the values of weights. Nothing else may run. Accuracy at the same plans is `compare_formats`' question.

# %% tags=["parameters"]
profile: str = "quick"  # "quick": a network of three convolutions, seconds; "full": ResNet-20, minutes
formats: list[str] = ["svd", "spatial_svd", "tucker2", "tucker", "cp3", "cp", "tt", "ttm"]  # each alone
budgets: list[float] = [0.5, 0.25]  # shares of the multiplications that are left, in (0, 1)
batches: list[int] = [1, 64]  # images in a call
threads: list[int] = [1, 2]  # threads of a call
seed: int = 0  # decides the images and what the formats draw

# %%
import time

import torch

from tnlib import compress, data, layers, measure, models, study

# %%
network = {"quick": "quick-cifar10", "full": "resnet20-cifar10"}[profile]
seconds = {"quick": 0.1, "full": 3.0}[profile]
model, images = models.load(network), data.load("cifar10", "train").sample(max(batches), seed).images
curves = compress.curves(model, images[:1], ["svd"], "weight", seed=seed)  # the layers; uniform ranks need no curve
dense, rows, missing = measure.cost(model, images[:1]), [], {}


# %%
def made(format, budget):
    """The network in one format and how long its layers took; None where the budget is out of reach, which is told."""
    started = time.perf_counter()
    try:
        small = compress.uniform(curves, compress.Budget(macs=budget), format).apply(model)
    except ValueError as error:
        missing[f"{format} at {budget:g}"] = str(error)
        return None, 0.0
    return small, time.perf_counter() - started


# %% [markdown]
# Frozen for the number of images in a call: in which order factors are multiplied depends on it.


# %%
def timed(networks, batch, number):
    torch.set_num_threads(number)
    x = images[:batch]
    frozen = {name: layers.freeze(network, x) for name, network in networks.items()}
    return measure.compare(frozen, x, rounds=60, seconds=seconds, block=20.0)


# %%
for budget in budgets:
    built = {format: made(format, budget) for format in formats}
    networks = {"dense": model} | {format: small for format, (small, _) in built.items() if small is not None}
    costs = {name: measure.cost(small, images[:1]) for name, small in networks.items()}
    for batch, number in [(batch, number) for batch in batches for number in threads]:
        found = timed(networks, batch, number)
        for name, (speedup, low, high) in found.speedup.items():
            row = {
                "format": name,
                "budget": budget,
                "batch": batch,
                "threads": number,
                "seconds": built.get(name, (0, 0.0))[1],
            }
            row |= {
                k: getattr(costs[name], k) / getattr(dense, k)
                for k in ("macs", "params", "bytes", "peak_activation_bytes")
            }
            rows.append(
                row | {"ms": found.timings[name].median, "speedup": speedup, "speedup_low": low, "speedup_high": high}
            )

# %%
metrics = {"rows": rows, "missing": missing, "network": network}
for row in rows:
    if row["format"] != "dense":
        label = f"{row['format']}_{row['budget']:g}_batch{row['batch']}_threads{row['threads']}"
        metrics |= {f"{label}_{end}": row[end] for end in ("speedup", "speedup_low", "speedup_high")}

# %%
study.record(
    "bench-formats",
    metrics,
    parameters={"profile": profile, "formats": formats, "budgets": budgets, "batches": batches, "threads": threads},
    source="notebooks/experiments/bench_formats",
    seed=seed,
)
print("recorded bench-formats")
