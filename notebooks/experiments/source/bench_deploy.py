# %% [markdown]
# # Measure what a compressed network gains in ONNX Runtime, in float and in int8
#
# A benchmark: one run gives one record, `bench-deploy`. A network and what is left of it at a share of its multiplications are frozen, exported
# and quantized. How fast are they in ONNX Runtime beside the dense float network, with one thread, and where does the time go? What does it change if ranks
# are padded with zeros to multiples of `lanes`?
#
# **Rules.** One process, one thread; all networks take turns, in blocks of calls after one that is not timed, and ratios are taken turn by turn. Memory and the first answer are measured by
# `on_device.py`, in a process for each network. Times do not depend on the values of weights, so that nothing is repaired here: accuracy is `quantize_network`'s question. Nothing else may run.

# %% tags=["parameters"]
profile: str = "quick"  # "quick": a network of three convolutions, seconds; "full": ResNet-20, minutes
budget: float = 0.4  # share of the multiplications that is left, in (0, 1)
latency_budget: float = (
    0.0  # at least 0; share of the time that is left in a plan by measured times, 0 for no such plan
)
menus: list[str] = ["spatial_svd", "cp3", "spatial_svd cp3"]  # a plan for each: the formats that it chooses from
lanes: list[int] = [8]  # ranks are padded to multiples of these, each in a file of its own; 1 pads nothing
batches: list[int] = [1, 64]  # images in a call
inputs: int = 32  # at least 1; training images to calibrate int8 on
seed: int = 0  # decides the images

# %%
import json
import statistics
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import onnxruntime as ort
import torch

from tnlib import compress, data, deploy, measure, models, study
from tnlib.deploy import on_device

# %%
torch.set_num_threads(1)
name = {"quick": "quick-cifar10", "full": "resnet20-cifar10"}[profile]
model, images = models.load(name), data.load("cifar10", "train").sample(inputs, seed).images
seconds, folder = {"quick": 0.3, "full": 4.0}[profile], TemporaryDirectory()

# %%
files, costs, plans = {}, {}, []
KEY = ("network", "numbers", "lanes")


# %%
def add(label, network):
    """The network's float and int8 files; the dense one has no ranks, and one file of each."""
    costs[label] = measure.cost(network, images[:1])
    for number in lanes if label != "dense" else lanes[:1]:
        paths = [Path(folder.name) / f"{label.replace(' ', '_')}.{number}.{kind}.onnx" for kind in ("float", "int8")]
        deploy.export(network, images[:1], paths[0], inputs=images, lanes=number)
        deploy.quantize(paths[0], images, paths[1])
        files.update({(label, "float", number): paths[0], (label, "int8", number): paths[1]})


# %%
add("dense", model)
for menu in menus:
    plan = compress.plan(
        model, images[:1], compress.Budget(macs=budget), formats=menu.split(), metric="weight", seed=seed
    )
    add(menu, plan.apply(model))

# %%
if latency_budget:
    try:
        wanted = compress.Budget(latency=latency_budget)
        formats = sorted({format for menu in menus for format in menu.split()})
        plan = compress.plan(model, images[:1], wanted, formats=formats, metric="weight", seed=seed)
        add("by latency", plan.apply(model))
    except ValueError as error:
        plans.append(f"by latency: {error}")

# %% [markdown]
# Before anything is timed: all networks are open, and give one answer.

# %%
opened = {key: deploy.session(path) for key, path in files.items()}
calls = {key: lambda x, s=s: s.run(None, {s.get_inputs()[0].name: x}) for key, s in opened.items()}
rows = []

# %%
for batch in batches:
    x = images.repeat(-(-batch // inputs), 1, 1, 1)[:batch].numpy()
    timed = measure.compare(calls, x, rounds=100, seconds=seconds, block=20.0)
    for key, times in timed.timings.items():
        row = dict(zip(KEY, key, strict=True)) | {
            "batch": batch,
            "ms": times.median,
            "ms_low": times.low,
            "ms_high": times.high,
        }
        row |= dict(zip(("speedup", "speedup_low", "speedup_high"), timed.speedup[key], strict=True))
        row |= {"macs": costs[key[0]].macs, "file_bytes": files[key].stat().st_size}
        rows.append(row | {"gmacs_per_s": batch * row["macs"] / row["ms"] / 1e6})


# %% [markdown]
# Where the time goes: ONNX Runtime's own profile, by kind of operator, of one network after the other.


# %%
def profile_of(path, x, calls=20):
    """Milliseconds of a call by kind of operator, each node the median over the calls; profiling itself takes time, too."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.enable_profiling, options.log_severity_level = 1, True, 3
    options.profile_file_prefix = str(path)
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    for _ in range(calls):
        session.run(None, {session.get_inputs()[0].name: x})
    events = json.loads(Path(session.end_profiling()).read_text())
    nodes = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            nodes.setdefault((event["args"]["op_name"], event["name"]), []).append(event["dur"] / 1e3)
    kinds = sorted({kind for kind, _ in nodes})
    return {kind: sum(statistics.median(times) for (k, _), times in nodes.items() if k == kind) for kind in kinds}


# %%
operators = [
    dict(zip(KEY, key, strict=True)) | {"ms": profile_of(path, images[:1].numpy())} for key, path in files.items()
]


# %%
def on_its_own(path):
    """Memory that a network adds to its process, and its first answer, by `on_device.py`."""
    command = [sys.executable, on_device.__file__, str(path), "--repeat", "20", "--out", str(path.with_suffix(""))]
    subprocess.run(command, check=True, capture_output=True, text=True)
    (record,) = (json.loads(found.read_text())["metrics"] for found in path.with_suffix("").glob("*.json"))
    return {"cold_ms": record["cold_ms"], "memory_mb": record["peak_mb"] - record["before_peak_mb"]}


# %%
alone = [dict(zip(KEY, key, strict=True)) | on_its_own(path) for key, path in files.items()]
folder.cleanup()

# %%
metrics = {"rows": rows, "operators": operators, "alone": alone, "not_made": plans}

# %%
for row in rows:
    padded = "" if row["lanes"] == lanes[0] else f"_lanes{row['lanes']}"
    label = f"{row['network']}_{row['numbers']}{padded}_batch{row['batch']}".replace(" ", "_")
    metrics |= {f"{label}_ms": row["ms"]} | {
        f"{label}_{end}": row[end] for end in ("speedup", "speedup_low", "speedup_high")
    }

# %%
told = {"profile": profile, "budget": budget, "latency_budget": latency_budget, "menus": menus, "lanes": lanes}
study.record(
    "bench-deploy",
    metrics,
    parameters=told | {"batches": batches, "inputs": inputs, "onnxruntime": ort.__version__},
    source="notebooks/experiments/bench_deploy",
    seed=seed,
)
print("recorded bench-deploy")
