# %% [markdown]
# # Train a wide, shallow network whose two large layers are TT-matrices
#
# An experiment, not a lesson: one run gives one record. Novikov et al. 2015's network for CIFAR-10 has two hidden layers: 3,072
# inputs, 262,144 units, 4,096 units, 10 outputs, no convolution. The first two layers are TT-matrices of rank 8. A ReLU follows
# each: without the second one, nothing would stand between the last two layers. The authors' public code
# (timgaripov/TensorNet-TF) has it, too, and BatchNorm (`normalize`), and dropout; it shifts and mirrors no images.
#
# Every epoch leaves a checkpoint: a run that was killed goes on from it when it is started again with the same parameters.

# %% tags=["parameters"]
profile: str = "quick"  # "quick": the committed images; "full": 50,000 to train on, 10,000 test images
hidden: int = 1024  # at least 64; units of the first hidden layer; 262,144 in the paper
format: str = "ttm"  # "ttm" or "dense": of the first two layers
rank: int = 8  # at least 1; TT rank of both
normalize: bool = False  # BatchNorm after each of them
dropout: float = 0.0  # [0, 1); of both hidden layers' units
optimizer: str = "adam"  # "adam" or "sgd"
epochs: int = 4  # at least 0
batch: int = 128  # at least 1
lr: float = 0.003  # peak of the learning rate
weight_decay: float = 1e-4  # at least 0
padding: int = 0  # at least 0; pixels that training images are shifted by, at most
flip: bool = False  # mirror half of the training images
held_out: int = 0  # at least 0; so many training images are measured instead of the test images, to choose a recipe
resumable: bool = False  # keep a checkpoint until the run is over
seed: int = 0  # decides the weights, the order of the images, their shifts and what is dropped

# %%
import copy
import hashlib
import json
import math

import torch
import torch.nn.functional as F
from torch import nn

from tnlib import data, layers, measure, networks, paths, study, train

# %%
subset = {"quick": "embedded", "full": "full"}[profile]
training, test = (data.load("cifar10", split, subset) for split in ("train", "test"))
if held_out:
    images, labels = training.images, training.labels
    training = data.ImageSet(training.info, images[:-held_out], labels[:-held_out])
    test = data.ImageSet(training.info, images[-held_out:], labels[-held_out:])
print(f"{len(training)} images to train on, {len(test)} test images")

# %% [markdown]
# All sizes are split into six digits. The pixels of a colour lie together here: what the paper writes 4 x 4 x 4 x 4 x 4 x 3 begins
# with the 3. The dense layers that the TT-matrices stand for (3 GB and 4 GB) are shapes alone: their memory is never touched.

# %%
sizes = [3072, hidden, 4096]
digits = [[3, 4, 4, 4, 4, 4], layers.balanced_dims(hidden, 6), [4] * 6]


# %%
def large(i):
    if format == "dense":
        return nn.Linear(sizes[i], sizes[i + 1])
    like = nn.utils.skip_init(nn.Linear, sizes[i], sizes[i + 1])
    dims = {"col_dims": digits[i], "row_dims": digits[i + 1]}
    return layers.factorize(like, "ttm", rank, weights="fresh", seed=10 * seed + i, **dims)


# %%
torch.manual_seed(seed)
model = nn.Sequential(networks.Prepare(data.DATASETS["cifar10"].mean, data.DATASETS["cifar10"].std), nn.Flatten())
for i in (0, 1):
    model.append(large(i))
    if normalize:
        model.append(nn.BatchNorm1d(sizes[i + 1]))
    model.extend([nn.ReLU(), nn.Dropout(dropout)])
model.append(nn.Linear(4096, 10))


# %%
def step(network, images, labels):
    network.zero_grad()
    F.cross_entropy(network(images), labels).backward()


# %% [markdown]
# What a training step holds besides weights and images, and what the two layers are.

# %%
peak = measure.peak_memory(step, copy.deepcopy(model).train(), training.images[:batch], training.labels[:batch])
cost = measure.cost(model.eval(), (1, 3, 32, 32))
metrics = {"test_images": len(test), "params": cost.params, "macs": cost.macs, "peak_bytes": peak}

# %%
matrices = [
    p.numel() for name, p in model.named_parameters() if p.ndim > 1 and not name.startswith(f"{len(model) - 1}.")
]
dense_params = (3072 + 1) * hidden + (hidden + 1) * 4096 + 4097 * 10
metrics |= {"matrix_params": sum(matrices), "dense_matrix_params": (3072 + 4096) * hidden, "dense_params": dense_params}
metrics |= {"matrix_factor": metrics["dense_matrix_params"] / sum(matrices), "factor": dense_params / cost.params}
metrics["raw_error"] = 1 - train.accuracy(model, test)

# %%
told = {"profile": profile, "hidden": hidden, "format": format, "rank": rank, "normalize": normalize}
told |= {"dropout": dropout, "optimizer": optimizer, "epochs": epochs, "batch": batch, "lr": lr}
told |= {"weight_decay": weight_decay, "padding": padding, "flip": flip, "held_out": held_out}

# %%
key = hashlib.sha256(json.dumps([told, seed]).encode()).hexdigest()[:16]
checkpoint = paths.RUNS / "train" / f"train-wide-network-{key}.pt" if resumable else None
metrics["resumed"] = resumable and checkpoint.is_file()

# %%
how = {"epochs": epochs, "batch": batch, "lr": lr, "weight_decay": weight_decay, "optimizer": optimizer, "seed": seed}
recipe = train.Recipe(**how, padding=padding, flip=flip, clip=5.0)
losses, seconds = [], []
if epochs:
    losses, seconds = train.fit(model, training, recipe, precision="float32", checkpoint=checkpoint)

# %%
steps = len(losses) * math.ceil(len(training) / batch)
metrics |= {"error": 1 - train.accuracy(model, test), "losses": losses, "epochs_done": len(losses)}
metrics |= {"seconds": sum(seconds), "step_ms": 1000 * sum(seconds) / steps if steps else None}

# %%
study.record(
    "train-wide-network",
    metrics,
    parameters=told,
    source="notebooks/experiments/train_wide_network",
    seed=seed,
)
if resumable:
    checkpoint.unlink(missing_ok=True)
print("recorded train-wide-network")
