# %% [markdown]
# # Measure whether a plan for a share of the time keeps its promise
#
# A benchmark: one run gives one record, `bench-latency`. A network is planned for shares of its latency, frozen, on this machine. How far is
# the time that the plan predicts from the time that the compressed network takes? How much time can be saved at all?
#
# **Rules.** One process; the compressed network, with its real factors and frozen, is timed in turn with the original, frozen, after
# the plan is made: the plan has not seen this measurement. Nothing else may run. What a plan costs in accuracy is not asked here.

# %% tags=["parameters"]
profile: str = "quick"  # "quick": a network of three convolutions, seconds; "full": ResNet-20, too, minutes
formats: list[str] = ["svd", "spatial_svd", "tucker2", "cp", "cp3"]  # formats to choose from
budgets: list[float] = [0.9, 0.8, 0.7]  # shares of the original's latency, in (0, 1)
batches: list[int] = [1, 32]  # images in a call
threads: int = 1  # at least 1
seed: int = 0  # decides the images and what the formats draw

# %%
import time

import torch

from tnlib import compress, layers, measure, models, study

# %%
torch.set_num_threads(threads)

# %%
names = ["quick-cifar10", "resnet20-cifar10"] if profile == "full" else ["quick-cifar10"]
made = {name: models.load(name) for name in names}


# %%
def predicted(name, batch):
    """Curves of a network with the times of their candidates, and how long both took."""
    images = torch.zeros(batch, 3, 32, 32)
    started = time.perf_counter()
    curves = compress.curves(made[name], images[:1], formats, "weight", example=images, seed=seed)
    times = compress.measure_times(curves, made[name])
    return images, curves, times, time.perf_counter() - started


# %%
def compared(name, images, plan):
    """The compressed network's time as a share of the original's: median and range."""
    runs = {
        "original": layers.freeze(made[name], images),
        "compressed": layers.freeze(plan.apply(made[name]), images),
    }
    median, low, high = measure.compare(runs, images, seconds=2.0).speedup["compressed"]
    return {"measured": 1 / median, "low": 1 / high, "high": 1 / low}


# %%
def row_of(name, batch, budget, images, curves, times):
    row = {"network": name, "batch": batch, "budget": budget}
    try:
        plan = compress.plan_within(curves, made[name], compress.Budget(latency=budget), times=times)
    except ValueError as error:
        return row | {"reached": False, "said": str(error)}
    row |= {"reached": True, "predicted": plan.share("latency")} | compared(name, images, plan)
    row["off"] = row["predicted"] / row["measured"] - 1
    return row | {"macs": plan.share("macs"), "params": plan.share("params")}


# %%
rows, seconds = [], {}

# %%
for name in names:
    for batch in batches:
        images, curves, times, spent = predicted(name, batch)
        seconds[f"{name}, batch {batch}"] = spent
        rows += [row_of(name, batch, budget, images, curves, times) for budget in budgets]
print(len(rows), "plans")

# %%
kept = [row for row in rows if row["reached"]]
metrics = {"rows": rows, "seconds": seconds, "reached": len(kept)}
if kept:
    metrics["largest_off"] = max(abs(row["off"]) for row in kept)

# %%
study.record(
    "bench-latency",
    metrics,
    parameters={"profile": profile, "formats": formats, "budgets": budgets, "batches": batches, "threads": threads},
    source="notebooks/experiments/bench_latency",
    seed=seed,
)
print("recorded bench-latency")
