# %% [markdown]
# # Replace AlexNet's second convolution by CP
#
# An experiment, not a lesson: one run gives one record. Lebedev et al. 2015 replace it and report four times the speed at
# one point of top-5 error. Its time is measured here in both shapes: 64 channels to 192 (one GPU, Krizhevsky 2014; torchvision),
# and 48 to 128, one of the two groups of the original. Time does not depend on the weights, so these are
# drawn unless you have some.
#
# With `weights` the CPD is fitted to the trained kernel; with `imagenet_dir`, too, the network's error is measured before and
# after, without fine-tuning: that needs the whole of ImageNet.

# %% tags=["parameters"]
profile: str = "quick"  # "quick": one turn and ten steps of NLS; "full": 60 turns and 120 steps
weights: str = ""  # a file of torchvision's AlexNet (state_dict), or torchvision: fetched by it; empty: drawn
imagenet_dir: str = ""  # the validation folder, a subfolder a class; empty: no accuracy
pictures: int = 1000  # at least 1; how many of its pictures are classified
ranks: list[int] = [35, 70, 140, 200]  # of the CPD; the paper's are reported to reach about 200
seed: int = 0  # decides drawn weights, images and the start of CP

# %%
from pathlib import Path

import torch
from torch import nn

from tnlib import imagenet, layers, measure, study

# %%
full = profile == "full"
turns = {"rounds": 60, "seconds": 1.0, "block": 20.0} if full else {"rounds": 1}
torch.manual_seed(seed)
network = imagenet.alexnet(weights)

# %%
conv2 = network.get_submodule("features.3")
group = nn.Conv2d(48, 128, 5, padding=2)
shapes = {"grouped": group, "ungrouped": conv2}
metrics = {}


# %% [markdown]
# ## Time against rank
# One image of 27 x 27, one thread and two; each side in the faster of two memory formats; frozen, called from
# Python and as a TorchScript graph. A speed-up is the median of the ratios of neighbouring turns.


# %%
def ready(layer, image, how):
    """A function of no arguments: the frozen layer on this image."""
    frozen = layers.freeze(nn.Sequential(layer), image, fixed=True)
    called = frozen if how == "python" else layers.graph(frozen, image)
    return lambda: called(image)


# %%
def faster(layer, x, how):
    """The layer on the image in the faster of two memory formats."""
    rivals = {
        form: ready(layer, x.to(memory_format=form), how) for form in (torch.contiguous_format, torch.channels_last)
    }
    timings = measure.compare(rivals, **turns | {"rounds": 10}).timings
    return rivals[min(timings, key=lambda form: timings[form].median)]


# %%
def speed(dense, small):
    x, result = torch.randn(1, dense.in_channels, 27, 27), {}
    sides = {"dense": dense.eval().requires_grad_(False), "small": small.requires_grad_(False)}
    for how in ("python", "graph"):
        found = measure.compare({side: faster(layer, x, how) for side, layer in sides.items()}, **turns)
        result |= {f"{side}_{how}_ms": timing.median for side, timing in found.timings.items()}
        names = [f"speedup{end}_{how}" for end in ("", "_low", "_high")]
        result |= dict(zip(names, found.speedup["small"], strict=True))
    return result


# %%
rows = []
for name, dense in shapes.items():
    for rank in ranks:
        small = layers.factorize(dense, "cp", rank, weights="fresh", seed=seed)
        macs = {"dense": dense.weight.numel() * 27 * 27, "cp": layers.macs(dense, "cp", rank, (27, 27))}
        for threads in (1, 2):
            before = torch.get_num_threads()
            torch.set_num_threads(threads)
            found = speed(dense, small)
            torch.set_num_threads(before)
            row = {"shape": name, "rank": rank, "threads": threads, "mac_ratio": macs["dense"] / macs["cp"]}
            rows.append(row | found)
            metrics |= {
                f"{name}_rank{rank}_threads{threads}_{key}": found[key] for key in ("speedup_python", "speedup_graph")
            }

# %%
metrics["times"] = rows

# %% [markdown]
# ## Error, with trained weights
# Top-1 and top-5 accuracy of the network, raw: nothing is tuned after the replacement.


# %%
@torch.no_grad()
def accuracy(model, images, labels):
    found = torch.cat([model(part).topk(5).indices for part in images.split(50)])
    right = found == labels.unsqueeze(1)
    return {"top1": float(right[:, 0].double().mean()), "top5": float(right.any(1).double().mean())}


# %%
if imagenet_dir:
    images, labels = imagenet.read_folder(Path(imagenet_dir), pictures)
    metrics["pictures"] = len(images)
    metrics |= {f"dense_{key}": value for key, value in accuracy(network, images, labels).items()}

# %%
if weights:
    kernel = conv2.weight.detach()
    for rank in ranks:
        small = layers.factorize(conv2, "cp", rank, method="nls", max_iter=120 if full else 10, seed=seed)
        metrics[f"rank{rank}_error"] = float((small.dense_weight().detach() - kernel).norm() / kernel.norm())
        if imagenet_dir:
            network.set_submodule("features.3", small)
            metrics |= {f"rank{rank}_{key}": value for key, value in accuracy(network, images, labels).items()}
            network.set_submodule("features.3", conv2)
else:
    print("no weights given: times alone, of drawn ones")

# %%
study.record(
    "replace-alexnet-conv2",
    metrics,
    parameters={"profile": profile, "weights": Path(weights).name, "ranks": ranks, "pictures": pictures},
    source="notebooks/experiments/replace_alexnet_conv2",
    seed=seed,
)
print("recorded replace-alexnet-conv2")
