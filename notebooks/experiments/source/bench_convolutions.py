# %% [markdown]
# # Time factorized convolutions against dense ones
#
# A benchmark: one run gives one record, `bench-convolutions`. Three questions, one a section: how fast is AlexNet's second
# convolution in the CP format (Lebedev et al. 2015); how much of the multiply-accumulates (MACs) that Tucker-2 saves
# become speed; and which format fits the kernels of ResNet-20 best at equal MACs, and in what time?
#
# **Rules.** The rival is `nn.Conv2d` in the faster of its two memory formats, contiguous and channels_last. Layers are
# frozen for their input. Each is compared with the convolution by the kernel that its factors multiply out to before it is
# timed. Speed-ups are ratios of neighbouring turns.

# %% tags=["parameters"]
profile: str = "quick"  # "quick": few shapes, few turns, seconds; "full": all shapes, minutes
cp_rank: int = 140  # 1 to 1600; CP rank of AlexNet's conv2
cp_batch: int = 1  # at least 1; images a call there
batch: int = 16  # at least 1; images a call of all other layers
share: float = 0.25  # between 0.05 and 1; of the dense layer's MACs, for the comparison of formats
seed: int = 0  # decides images, random weights and starts of CP

# %%
import copy
import math

import torch
import torch.nn.functional as F
from torch import nn

from tnlib import layers, measure, models, study

# %%
full = profile == "full"
turns = {"rounds": 60, "seconds": 1.0, "block": 20.0} if full else {"rounds": 3, "seconds": 0.05, "block": 1.0}
generator = torch.Generator().manual_seed(seed)
metrics = {}


# %% [markdown]
# ## Layers and how they are timed
# Weights are random where only time is asked for: it does not depend on them.


# %%
def conv(inputs, outputs, kernel=3, stride=1, bias=True):
    layer = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=bias)
    nn.init.kaiming_normal_(layer.weight, generator=generator)
    if bias:
        nn.init.normal_(layer.bias, generator=generator)
    return layer.eval()


# %%
def images(layer, size, batch):
    return torch.randn(batch, layer.in_channels, size, size, generator=generator)


# %%
def last(thing):
    """An image or a copy of a layer in channels_last."""
    return copy.deepcopy(thing).to(memory_format=torch.channels_last)


# %% [markdown]
# First the dense layer in both memory formats, then the faster one beside the frozen layer.


# %%
def faster_dense(dense, x):
    twin, y = last(dense), last(x)
    rivals = {"contiguous": lambda: dense(x), "channels_last": lambda: twin(y)}
    timings = measure.compare(rivals, **turns).timings
    name = min(timings, key=lambda name: timings[name].median)
    return name, rivals[name]


# %%
@torch.no_grad()
def assert_equal(frozen, small, x):
    expected = F.conv2d(x, small.dense_weight(), small.bias, small.stride, small.padding)
    for y in (frozen(x), frozen(last(x))):
        error = (y - expected).norm() / expected.norm()
        assert error < 1e-4, f"the frozen layer is off by {error:.1e}"


# %%
def mac_ratio(dense, small, output):
    dense_macs = dense.weight.numel() * output[2:].numel()
    return dense_macs / layers.macs(dense, small.format, small.rank, output[2:])


# %% [markdown]
# `share_of_reduction` is the speed-up over the factor by which MACs fell: 1 if all that was saved became speed. Figures
# come for channels_last inputs and, with `_contiguous`, for contiguous ones.


# %%
def speed(dense, small, x):
    frozen = layers.freeze(small, x)
    assert_equal(frozen, small, x)
    name, rival = faster_dense(dense, x)
    ratio = mac_ratio(dense, small, frozen(x).shape)
    found = {"rank": small.rank, "batch": len(x), "mac_ratio": ratio, "dense_format": name}
    for suffix, y in {"": last(x), "_contiguous": x}.items():
        result = measure.compare({"dense": rival, "frozen": lambda y=y: frozen(y)}, **turns)
        found[f"dense_ms{suffix}"], found[f"ms{suffix}"] = (t.median for t in result.timings.values())
        median, low, high = result.speedup["frozen"]
        found |= {f"speedup{suffix}": median, f"speedup_low{suffix}": low, f"speedup_high{suffix}": high}
        found[f"share_of_reduction{suffix}"] = median / ratio
    return found


# %%
def geometric_mean(values):
    return math.exp(math.fsum(map(math.log, values)) / len(values))


# %% [markdown]
# ## AlexNet conv2, CP
# 64 to 192 channels, 5 x 5, 27 x 27 pixels.

# %%
dense = conv(64, 192, kernel=5)
small = layers.factorize(dense, "cp", cp_rank, weights="fresh", seed=seed)
x = images(dense, 27, cp_batch)
metrics |= {f"alexnet_conv2_{key}": value for key, value in speed(dense, small, x).items()}

# %% [markdown]
# ## Tucker-2 at half ranks
# All distinct convolutions of two networks for CIFAR but their first ones: name, inputs, outputs, pixels, stride.

# %%
table = [
    ("resnet20", 16, 16, 32, 1),
    ("resnet20", 16, 32, 32, 2),
    ("resnet20", 32, 32, 16, 1),
    ("resnet20", 32, 64, 16, 2),
    ("resnet20", 64, 64, 8, 1),
]

# %%
table += [
    ("vgg16", 64, 64, 32, 1),
    ("vgg16", 64, 128, 16, 1),
    ("vgg16", 128, 128, 16, 1),
    ("vgg16", 128, 256, 8, 1),
    ("vgg16", 256, 256, 8, 1),
    ("vgg16", 256, 512, 4, 1),
    ("vgg16", 512, 512, 4, 1),
    ("vgg16", 512, 512, 2, 1),
]
table = table if full else [table[0], table[3], table[6]]


# %%
def half_ranks(network, inputs, outputs, size, stride):
    dense = conv(inputs, outputs, stride=stride, bias=network == "vgg16")
    small = layers.factorize(dense, "tucker2", (outputs // 2, inputs // 2), weights="fresh", seed=seed)
    row = {"network": network, "inputs": inputs, "outputs": outputs, "size": size, "stride": stride}
    return row | speed(dense, small, images(dense, size, batch))


# %%
halves = [half_ranks(*row) for row in table]
for suffix in ("", "_contiguous"):
    shares = [row[f"share_of_reduction{suffix}"] for row in halves]
    metrics[f"tucker2_share_of_reduction{suffix}"] = geometric_mean(shares)
for network in ("resnet20", "vgg16"):
    shares = [row["share_of_reduction"] for row in halves if row["network"] == network]
    metrics[f"tucker2_share_of_reduction_{network}"] = geometric_mean(shares)

# %% [markdown]
# ## Formats at equal MACs
# Kernels of the trained ResNet-20, one of each stage. Every format gets its largest rank within the share of MACs. CP is
# fitted by alternating least squares from one random start.

# %%
model = models.load("resnet20-cifar10")
fitted = {"layer1.1.conv1": 32, "layer2.1.conv1": 16, "layer3.1.conv1": 8} if full else {"layer1.1.conv1": 32}
formats = ("cp3", "cp", "tucker2", "tt", "svd", "spatial_svd")
iterations = {"max_iter": 300 if full else 20, "seed": seed}


# %%
def fit(name, size, format):
    dense = model.get_submodule(name)
    options = iterations if format.startswith("cp") else {}
    small = layers.factorize(dense, format, share=share, of="macs", output_size=(size, size), **options)
    error = (small.dense_weight() - dense.weight).detach().norm() / dense.weight.detach().norm()
    row = {"layer": name, "format": format, "error": float(error)}
    return row | speed(dense, small, images(dense, size, batch))


# %%
fits = [fit(name, size, format) for name, size in fitted.items() for format in formats]


# %%
def mean_of(key, format):
    return geometric_mean([row[key] for row in fits if row["format"] == format])


# %%
for format in formats:
    metrics[f"equal_macs_error_{format}"] = mean_of("error", format)
    metrics[f"equal_macs_speedup_{format}"] = mean_of("speedup", format)
metrics["cp3_over_cp_error"] = mean_of("error", "cp3") / mean_of("error", "cp")
metrics["cp3_over_cp_ms"] = mean_of("ms", "cp3") / mean_of("ms", "cp")

# %%
study.record(
    "bench-convolutions",
    metrics | {"tucker2": halves, "equal_macs": fits},
    parameters={"profile": profile, "cp_rank": cp_rank, "cp_batch": cp_batch, "batch": batch, "share": share},
    source="notebooks/experiments/bench_convolutions",
    seed=seed,
)
print("recorded bench-convolutions")
