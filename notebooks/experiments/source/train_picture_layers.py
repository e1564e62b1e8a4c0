# %% [markdown]
# # Train a network for pictures whose layers are factorized
#
# An experiment, not a lesson: one run gives one record. Two networks for CIFAR-10: Caffe's `quick`, whose fully connected part
# Novikov et al. 2015 make a TT-matrix, and that of Garipov et al. 2016, who do the same to the convolutions. Trained
# from scratch, or from trained dense weights by TT-SVD (`start="pretrained"`). With `convolutions="dense"` and
# `connected="dense"` nothing is replaced, and the same epochs are spent: what the dense network gains from them, too, is the epochs'.
#
# Every epoch leaves a checkpoint: a run that was killed goes on from it when it is started again with the same parameters.

# %% tags=["parameters"]
profile: str = "quick"  # "quick": the committed images; "full": 50,000 to train on, 10,000 test images
network: str = "quick"  # "quick" (Caffe's) or "garipov"
convolutions: str = "dense"  # "dense" or "ttm": all but the first
conv_rank: int = 16  # at least 1; of the convolutions
connected: str = "ttm"  # "dense", "ttm" or "svd": the fully connected part
digits: list[list[int]] = [[8, 8, 16], [8, 8, 1]]  # for "ttm": of the sizes before, between and after connected layers
ranks: list[int] = [8]  # of the connected layers, one after the other; those without one stay dense
start: str = "pretrained"  # "pretrained" or "fresh"
weights: str = "runs/weights/garipov.safetensors"  # file with the pretrained weights of garipov
keep: str = ""  # file that the trained weights are written to; none when empty
optimizer: str = "sgd"  # "sgd" or "adam"
epochs: int = 1  # at least 0
batch: int = 64  # at least 1
lr: float = 0.01  # peak of the learning rate
weight_decay: float = 5e-4  # at least 0
precision: str = "auto"  # "auto" (bfloat16 where it is fast) or "float32"
resumable: bool = False  # keep a checkpoint until the run is over
seed: int = 0  # decides fresh weights, the order of the images and their crops

# %%
import hashlib
import json

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tnlib import data, layers, measure, models, networks, paths, study, train

# %%
subset = {"quick": "embedded", "full": "full"}[profile]
training, test = (data.load("cifar10", split, subset) for split in ("train", "test"))
print(f"{len(training)} images to train on, {len(test)} test images")

# %%
torch.manual_seed(seed)
model = {"quick": networks.quick, "garipov": networks.garipov}[network]()
stored = paths.ROOT / weights if network == "garipov" else models.weights_file("quick-cifar10")
if start == "pretrained":
    model.load_state_dict(load_file(stored))

# %%
dense = measure.cost(model.eval(), (1, 3, 32, 32))
first, *convs = (k for k, module in enumerate(model) if isinstance(module, nn.Conv2d))
linears = [k for k, module in enumerate(model) if isinstance(module, nn.Linear)]


# %%
def replace(k, form, rank, **dims):
    how = dims if start == "pretrained" else dims | {"weights": "fresh", "seed": seed + k}
    model[k] = layers.factorize(model[k], form, rank, **how)


def params(numbers):
    return sum(p.numel() for k in numbers for p in model[k].parameters())


# %%
sizes = {"dense_convolution_params": params([first, *convs]), "dense_connected_params": params(linears)}

# %% [markdown]
# Channels have the digits of the authors' code, 4 x 4 x 4 and 4 x 8 x 4.

# %%
channels = {32: [4, 2, 4], 64: [4, 4, 4], 128: [4, 8, 4]}
for k in convs if convolutions == "ttm" else ():
    dims = {"row_dims": channels[model[k].out_channels], "col_dims": channels[model[k].in_channels]}
    replace(k, "ttm", conv_rank, **dims)

# %%
for i, (k, rank) in enumerate(zip(linears, ranks, strict=False)):
    if connected == "ttm":
        replace(k, "ttm", rank, col_dims=digits[i], row_dims=digits[i + 1])
    elif connected == "svd":
        replace(k, "svd", rank)

# %%
cost = measure.cost(model, (1, 3, 32, 32))
metrics = sizes | {"convolution_params": params([first, *convs]), "connected_params": params(linears)}
metrics |= {"dense_params": dense.params, "params": cost.params, "dense_macs": dense.macs, "macs": cost.macs}
metrics |= {f"{part}factor": metrics[f"dense_{part}params"] / metrics[f"{part}params"] for part in ("", "connected_")}
metrics |= {"convolution_factor": metrics["dense_convolution_params"] / metrics["convolution_params"]}
metrics |= {"test_images": len(test), "raw_error": 1 - train.accuracy(model, test)}

# %%
told = {"profile": profile, "network": network, "convolutions": convolutions, "conv_rank": conv_rank}
told |= {"connected": connected, "digits": digits, "ranks": ranks, "start": start, "weights": weights}
told |= {"optimizer": optimizer, "epochs": epochs, "batch": batch, "lr": lr, "weight_decay": weight_decay}
told |= {"precision": precision, "weights_sha256": models.file_digest(stored) if start == "pretrained" else ""}

# %%
key = hashlib.sha256(json.dumps([told, seed]).encode()).hexdigest()[:16]
checkpoint = paths.RUNS / "train" / f"train-picture-layers-{key}.pt" if resumable else None
metrics["resumed"] = resumable and checkpoint.is_file()

# %%
how = {"epochs": epochs, "batch": batch, "lr": lr, "weight_decay": weight_decay, "optimizer": optimizer, "seed": seed}
recipe = train.Recipe(**how, padding={"quick": 2, "garipov": 4}[network], clip=5.0)
losses, seconds = [], []
if epochs:
    losses, seconds = train.fit(model, training, recipe, precision=precision, checkpoint=checkpoint)

# %%
metrics |= {"error": 1 - train.accuracy(model, test), "losses": losses, "seconds": sum(seconds)}
if keep:
    with paths.replacing(paths.ROOT / keep) as temporary:
        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, temporary)

# %%
study.record(
    "train-picture-layers",
    metrics,
    parameters=told,
    source="notebooks/experiments/train_picture_layers",
    seed=seed,
)
if resumable:
    checkpoint.unlink(missing_ok=True)
print("recorded train-picture-layers")
