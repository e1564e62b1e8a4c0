# %% [markdown]
# # Train a network for digits whose layers are factorized
#
# An experiment, not a lesson: one run gives one record. Novikov et al. 2015's network for MNIST: 28 x 28 images padded to
# 1,024 inputs, 1,024 hidden units, ReLU, 10 outputs. Its first layer is dense, of low matrix rank, or a TT-matrix in given digits; the
# second dense or a TT-matrix, too. Trained from scratch, or from the trained dense network by TT-SVD (`start="pretrained"`).

# %% tags=["parameters"]
profile: str = "quick"  # "quick": the committed images; "full": 60,000 to train on, 10,000 test images
dataset: str = "mnist"  # "mnist" or "fashion-mnist" (the latter in full only)
format: str = "ttm"  # "ttm", "svd" or "dense": of the first layer
digits: list[int] = [4, 8, 8, 4]  # of inputs and hidden units, for "ttm"; their product is 1,024
rank: int = 8  # at least 1; TT rank, or matrix rank, of the first layer
last: str = "dense"  # "dense" or "ttm": the second layer
last_rank: int = 8  # at least 1; its TT rank
start: str = "fresh"  # "fresh" or "pretrained": the dense network's weights, decomposed (mnist only)
optimizer: str = "sgd"  # "sgd" or "adam"
padding: int = 0  # at least 0; pixels that training images are shifted by, at most
epochs: int = 2  # at least 0
lr: float = 0.05  # peak of the learning rate
weight_decay: float = 1e-4  # at least 0
held_out: int = 0  # at least 0; so many training images are measured instead of the test images, to choose a recipe
seed: int = 0  # decides the weights, the order of the images and their shifts

# %%
import torch

from tnlib import data, layers, models, networks, study, train

# %%
subset = {"quick": "embedded", "full": "full"}[profile]
training, test = (data.load(dataset, split, subset) for split in ("train", "test"))
if held_out:
    images, labels = training.images, training.labels
    training = data.ImageSet(training.info, images[:-held_out], labels[:-held_out])
    test = data.ImageSet(training.info, images[-held_out:], labels[-held_out:])

# %%
torch.manual_seed(seed)
model = models.load("mlp1024-mnist") if start == "pretrained" else networks.mlp1024()
if dataset != "mnist":
    model[0] = networks.Prepare(data.DATASETS[dataset].mean, data.DATASETS[dataset].std, padding=2)
print(f"{len(training)} images to train on, {len(test)} test images")

# %% [markdown]
# The ten outputs are 2 x 5, the digits in the middle; all others are ones.

# %%
weights = "pretrained" if start == "pretrained" else "fresh"
middle = (len(digits) - 1) // 2
outputs = [1] * middle + [2, 5] + [1] * (len(digits) - middle - 2)


# %%
def replaced(layer, form, rank, **how):
    if weights == "fresh":
        how |= {"seed": seed}
    return layers.factorize(layer, form, rank, weights=weights, **how)


# %%
if format == "ttm":
    model[2] = replaced(model[2], "ttm", rank, row_dims=digits, col_dims=digits)
elif format == "svd":
    model[2] = replaced(model[2], "svd", rank)
if last == "ttm":
    model[4] = replaced(model[4], "ttm", last_rank, row_dims=outputs, col_dims=digits)

# %%
metrics = {"test_images": len(test), "raw_error": 1 - train.accuracy(model, test)}
how = {"epochs": epochs, "lr": lr, "weight_decay": weight_decay, "optimizer": optimizer}
recipe = train.Recipe(**how, padding=padding, flip=False, warmup=0.1, clip=5.0, seed=seed)
losses, seconds = train.fit(model, training, recipe, precision="float32") if epochs else ([], [])

# %%
params = sum(p.numel() for p in model.parameters())
first = sum(p.numel() for p in model[2].parameters())
metrics |= {"error": 1 - train.accuracy(model, test), "params": params, "first_params": first}
metrics |= {"losses": losses, "seconds": sum(seconds)}

# %%
told = how | {"profile": profile, "dataset": dataset, "format": format, "digits": digits, "rank": rank}
told |= {"last": last, "last_rank": last_rank, "start": start, "padding": padding}
told["held_out"] = held_out
study.record(
    "train-digit-layers",
    metrics,
    parameters=told,
    source="notebooks/experiments/train_digit_layers",
    seed=seed,
)
print("recorded train-digit-layers")
