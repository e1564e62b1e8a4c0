# %% [markdown]
# # Time the character network, dense and with CP layers
#
# A benchmark: one run gives one record, `bench-characters`. How fast is Lebedev et al. 2015's network in use, dense and
# with its second and third layer as CPDs, and with the first as one, too? Time does not depend on the weights, so these are
# random; [replace_character_layers](replace_character_layers.ipynb) says what they cost in accuracy.
#
# **Rules.** Frozen for its input, on one thread and on two, a single image and 64; called from Python, and as a
# TorchScript graph, which has no Python in it. The dense network is timed in both memory formats, and its faster one counts.

# %% tags=["parameters"]
profile: str = "quick"  # "quick": one rank, few turns; "full": all ranks, minutes
rank: int = 64  # at least 1; of the second and of the third layer
first_rank: int = 32  # 1 to 81; of the first layer
seed: int = 0  # decides images and random weights

# %%
import torch

from tnlib import layers, measure, networks, study

# %%
full = profile == "full"
turns = {"rounds": 30, "seconds": 1.0, "block": 20.0} if full else {"rounds": 3, "seconds": 0.1, "block": 1.0}
ranks = sorted({16, 32, 64, 128, 256, rank}) if full else [rank]
torch.manual_seed(seed)
network = networks.charnet().eval()
pictures = torch.randint(256, (64, 1, 24, 24), dtype=torch.uint8)


# %%
def compressed(rank, first_rank=0):
    model, chosen = networks.charnet().eval(), {"conv2": rank, "conv3": rank}
    for name, r in (chosen | ({"conv1": first_rank} if first_rank else {})).items():
        model.set_submodule(name, layers.factorize(model.get_submodule(name), "cp", r, weights="fresh", seed=seed))
    return model


# %%
def frozen(model, images):
    return layers.freeze(model, images, fixed=True)


# %% [markdown]
# A frozen network must answer as the one that it was frozen from. First the dense one in both memory formats, then the faster one
# and the small ones in turn: a speed-up is the median of the ratios of neighbouring turns.


# %%
@torch.no_grad()
def in_use(model, images, how):
    eager = frozen(model, images)
    ready = eager if how == "python" else layers.graph(eager, images)
    error = (ready(images) - model(images)).norm() / model(images).norm()
    assert error < 1e-4, f"off by {error:.1e}"
    return ready


# %%
def faster_dense(images, how):
    last = frozen(network, images).to(memory_format=torch.channels_last)
    rivals = {
        "contiguous": in_use(network, images, how),
        "last": last if how == "python" else layers.graph(last, images),
    }
    timings = measure.compare(rivals, images, **turns | {"rounds": 10}).timings
    return rivals[min(timings, key=lambda name: timings[name].median)]


# %%
def speed(models, batch, threads):
    before, images, rows = torch.get_num_threads(), pictures[:batch], []
    torch.set_num_threads(threads)
    for how in ("python", "graph"):
        small = {name: in_use(model, images, how) for name, model in models.items()}
        found = measure.compare({"dense": faster_dense(images, how)} | small, images, **turns)
        for name in models:
            row = {"network": name, "called": how, "batch": batch, "threads": threads}
            row |= dict(zip(("speedup", "speedup_low", "speedup_high"), found.speedup[name], strict=True))
            rows.append(row | {"dense_ms": found.timings["dense"].median, "ms": found.timings[name].median})
    torch.set_num_threads(before)
    return rows


# %% [markdown]
# The networks of all ranks take turns with each other, too: a slow minute of the machine then moves no rank alone.

# %%
shape, rows = (1, 1, 24, 24), []
ranks_of = {f"rank {r}" + f", first {first}" * bool(first): (r, first) for r in ranks for first in (0, first_rank)}
small = {name: compressed(*of) for name, of in ranks_of.items()}
mac_ratios = {
    name: measure.cost(network, shape).macs / measure.cost(model, shape).macs for name, model in small.items()
}

# %%
for batch, threads in ((1, 1), (1, 2), (64, 1), (64, 2)):
    for row in speed(small, batch, threads):
        of = dict(zip(("rank", "first_rank"), ranks_of[row["network"]], strict=True))
        rows.append(of | {"mac_ratio": mac_ratios[row["network"]]} | row)

# %% [markdown]
# ## Its layers, one by one
# The three convolutions at the given ranks, one image, one thread.

# %%
before = torch.get_num_threads()
torch.set_num_threads(1)
metrics = {"times": rows}
for name, size, r in (("conv1", 24, first_rank), ("conv2", 16, rank), ("conv3", 8, rank)):
    conv = network.get_submodule(name).requires_grad_(False)
    x = torch.randn(1, conv.in_channels, size, size)
    last = layers.freeze(conv, x).to(memory_format=torch.channels_last)
    dense = measure.compare({"contiguous": conv, "channels_last": last}, x, **turns | {"rounds": 10}).timings
    rival = conv if dense["contiguous"].median < dense["channels_last"].median else last
    fast = layers.freeze(layers.factorize(conv, "cp", r, weights="fresh", seed=seed), x)
    found = measure.compare({"dense": rival, "cp": fast}, x, **turns)
    metrics |= {f"{name}_dense_ms": found.timings["dense"].median, f"{name}_ms": found.timings["cp"].median}
    metrics[f"{name}_speedup"] = found.speedup["cp"][0]
torch.set_num_threads(before)

# %%
for row in rows:
    if row["rank"] == rank:
        case = f"batch{row['batch']}_threads{row['threads']}" + ("_first" if row["first_rank"] else "")
        metrics[f"{case}_{row['called']}_speedup"] = row["speedup"]

# %%
study.record(
    "bench-characters",
    metrics,
    parameters={"profile": profile, "rank": rank, "first_rank": first_rank},
    source="notebooks/experiments/bench_characters",
    seed=seed,
)
print("recorded bench-characters")
