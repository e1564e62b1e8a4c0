# %% [markdown]
# # Measure how long a plan for a whole network takes
#
# A benchmark: one run gives one record, `bench-compress`. How long do the curves of all layers take, how long the plan, another
# plan from the same curves, and making the network? How much memory? And what grows with the network?
#
# **Rules.** One process, networks from small to large, each once: these are minutes, not milliseconds. Memory is the highest
# resident size of the process so far, Python and torch included. Weights are drawn but for the first network's: time hardly depends on them,
# and nothing is said of accuracy. Every network is planned for half of its multiplications by the metric `weight`, which looks at no input.

# %% tags=["parameters"]
profile: str = "quick"  # "quick": the smallest network, seconds; "full": five networks, some ten minutes
formats: list[str] = ["svd", "spatial_svd", "tucker2"]  # of all networks but the one that is planned with every format
budget: float = 0.5  # share of the multiplications that is left, in (0, 1)
seed: int = 0  # decides the weights

# %%
import resource
import sys
import time
from collections import defaultdict

import numpy as np
import torch
import torchvision

from tnlib import compress, layers, measure, models, study

# %%
made = {
    "resnet20": lambda: models.load("resnet20-cifar10"),
    "resnet56, all formats": models.model_info("resnet56-cifar10").build,
}
made |= {"resnet18": torchvision.models.resnet18, "vit_b_16": torchvision.models.vit_b_16}
made["vgg16"] = torchvision.models.vgg16

# %%
names = list(made) if profile == "full" else ["resnet20"]

# %%
every_format = tuple(dict.fromkeys(name for by_name in layers.FORMATS.values() for name in by_name))


# %%
def peak_bytes():
    """The highest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


# %%
class Watch:
    """Seconds since it was last read."""

    def __init__(self):
        self.last = time.perf_counter()

    def read(self):
        before, self.last = self.last, time.perf_counter()
        return self.last - before


# %% [markdown]
# `progress` is called after each curve, so its calls tell how long each one took.


# %%
def planned(name):
    torch.manual_seed(seed)
    model = made[name]().eval()
    size = 32 if name.startswith(("resnet20", "resnet56")) else 224
    example = torch.zeros(1, 3, size, size)
    measure.cost(model, example)  # the first counting in a process loads a large part of torch
    spent, lap, watch = defaultdict(float), Watch(), Watch()

    def note(done, total, what):
        spent[what] += lap.read()

    chosen = every_format if "all formats" in name else tuple(formats)
    curves = compress.curves(model, example, chosen, "weight", progress=note, seed=seed)
    row = {"network": name, "params": sum(p.numel() for p in model.parameters()), "curves_s": watch.read()}
    return model, curves, spent, row | {"layers": len(curves.candidates)}


# %%
def timed(name):
    model, curves, spent, row = planned(name)
    watch = Watch()
    plan = compress.Plan.of(curves, compress.Budget(macs=budget))
    row["plan_s"] = watch.read()
    compress.Plan.of(curves, compress.Budget(macs=0.8 * budget))
    row["second_plan_s"] = watch.read()
    small = plan.apply(model)
    row |= {"apply_s": watch.read(), "peak_bytes": peak_bytes(), "macs": plan.share("macs"), "gap": plan.gap}
    row["candidates"] = sum(map(len, curves.candidates.values()))
    row["params_after"] = sum(p.numel() for p in small.parameters())
    assert row["params_after"] == plan.cost["params"]
    return row | dominant(spent)


# %% [markdown]
# What dominates: the format, and the layer, that took most of the time.


# %%
def dominant(spent):
    sums = {"layer": defaultdict(float), "format": defaultdict(float)}
    for what, seconds in spent.items():
        layer, _, form = what.rpartition(" ")
        sums["layer"][layer] += seconds
        sums["format"][form] += seconds
    found = {}
    for kind, by_name in sums.items():
        name = max(by_name, key=by_name.get)
        found |= {f"slowest_{kind}": name, f"slowest_{kind}_share": by_name[name] / sum(spent.values())}
    return found


# %%
rows = [timed(name) for name in names]
print([row["network"] for row in rows])

# %% [markdown]
# With several networks: by which power of the number of parameters the time grows, a line in logarithms.

# %%
metrics = {"rows": rows, "peak_bytes": peak_bytes()}
alike = [row for row in rows if "all formats" not in row["network"]]
if len(alike) > 1:
    logs = [np.log([row[key] for row in alike]) for key in ("params", "curves_s")]
    metrics["exponent"] = float(np.polyfit(*logs, 1)[0])

# %%
study.record(
    "bench-compress",
    metrics,
    parameters={"profile": profile, "formats": formats, "budget": budget},
    source="notebooks/experiments/bench_compress",
    seed=seed,
)
print("recorded bench-compress")
