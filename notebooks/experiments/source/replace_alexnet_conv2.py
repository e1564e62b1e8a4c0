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
weights: str = ""  # a file of torchvision's AlexNet (state_dict), or "torchvision": fetched by it; "": drawn
imagenet_dir: str = ""  # the validation folder, a subfolder a class; "": no accuracy
pictures: int = 1000  # at least 1; how many of its pictures are classified
ranks: list[int] = [35, 70, 140, 200]  # of the CPD; the paper's are reported to reach about 200
seed: int = 0  # decides drawn weights, images and the start of CP

# %%
import warnings
from pathlib import Path

import torch
from torch import nn

from tnlib import imagenet, layers, measure, study

# %%
full = profile == "full"
torch.manual_seed(seed)
network = imagenet.alexnet(weights)
conv2 = network.get_submodule("features.3")
group = nn.Conv2d(48, 128, 5, padding=2)
shapes = {"grouped": group, "ungrouped": conv2}
metrics = {}


# %% [markdown]
# ## Time against rank
# One image of 27 x 27, one thread and two; the dense layer in the faster of its memory formats; frozen, called from
# Python and as a TorchScript graph.


# %%
def graph(layer, x):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is in maintenance
        traced = torch.jit.freeze(torch.jit.trace(layer, x))
    with torch.no_grad():
        for _ in range(3):
            traced(x)
    return traced


# %%
def speed(dense, small):
    x = torch.randn(1, dense.in_channels, 27, 27)
    fixed = {"contiguous": x, "channels_last": x.to(memory_format=torch.channels_last)}
    sides = {"dense": dense.eval().requires_grad_(False), "small": small.requires_grad_(False)}
    rivals = {}
    for side, layer in sides.items():
        for layout, image in fixed.items():
            frozen = layers.freeze(nn.Sequential(layer), image, fixed=True)
            rivals[side, "python", layout] = lambda frozen=frozen, image=image: frozen(image)
            traced = graph(frozen, image)
            rivals[side, "graph", layout] = lambda traced=traced, image=image: traced(image)
    turns = {"rounds": 60, "seconds": 1.0, "block": 20.0} if full else {"rounds": 1}
    times = {name: timing.median for name, timing in measure.compare(rivals, **turns).timings.items()}
    result = {}
    for how in ("python", "graph"):
        best = {side: min(times[side, how, layout] for layout in fixed) for side in sides}
        result |= {f"{side}_{how}_ms": ms for side, ms in best.items()}
        result[f"speedup_{how}"] = best["dense"] / best["small"]
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
            metrics |= {f"{name}_rank{rank}_threads{threads}_{key}": found[key] for key in found if "speedup" in key}
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
