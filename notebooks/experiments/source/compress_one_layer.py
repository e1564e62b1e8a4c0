# %% [markdown]
# # Compress one layer and measure the network's accuracy
#
# An experiment, not a lesson: one run gives one record, and a sweep runs it many times (`notebooks/sweeps/`). Notebook 10
# explains it, and `tnlib new NAME` copies it as the beginning of an experiment of your own.
#
# **Rules that make it fit for a sweep.** Everything that varies is a parameter. The seed decides everything random. It
# writes one record at its end. It draws nothing and prints little: nobody looks at run 137.

# %% tags=["parameters"]
profile: str = "quick"  # "quick": tenths of 200 committed test images; "full": tenths of 1,000
network: str = "resnet20-cifar10"  # a network that `models.load` knows
layer: str = "layer3.1.conv1"  # name of the convolution to compress
format: str = "tucker2"  # "svd", "spatial_svd", "cp", "tucker2" or "tt"
rank: int = 18  # at least 1; all ranks of the format, cut at its largest useful ones
seed: int = 0  # 0 to 9; decides the tenth of the test images, the calibration images and the start of CP

# %%
import copy

import numpy as np
import torch

from tnlib import data, layers, measure, models, study, train

subset = {"quick": "embedded", "full": "full"}[profile]

# %% [markdown]
# The ten tenths are disjoint: runs with different seeds see different images, so their results are independent draws.
# Runs with the *same* seed see the same images, whatever their format and rank: their results can be compared in pairs,
# and even image by image. So the record also says which images were right, a bit each.

# %%
model = models.load(network)
images = data.load(models.model_info(network).dataset, "test", subset)
order = torch.randperm(len(images), generator=torch.Generator().manual_seed(2026))
tenth = order.chunk(10)[seed]
test = data.ImageSet(images.info, images.images[tenth], images.labels[tenth])
calibration = data.load(models.model_info(network).dataset, "train", "embedded").sample(1000, seed)
print(f"{len(test)} test images")

# %%
conv = model.get_submodule(layer)
options = {"max_iter": 100, "seed": seed} if format == "cp" else {}
chain = layers.factorize(conv, format, rank, **options)
compressed = copy.deepcopy(model)
compressed.set_submodule(layer, chain)

# %%
weight = conv.weight.detach()
shape = tuple(test.images.shape[1:])
right = {"original": train.hits(model, test), "right": train.hits(compressed, test)}
metrics = {
    "original": right["original"].double().mean(),
    "accuracy": right["right"].double().mean(),
    "right": np.packbits(right["right"].numpy()).tobytes().hex(),
    "error": (chain.dense_weight() - weight).norm() / weight.norm(),
    "layer_params": sum(p.numel() for p in chain.parameters()) / sum(p.numel() for p in conv.parameters()),
    **{
        f"network_{k}": v
        for k, v in measure.cost(compressed, (1, *shape)).relative_to(measure.cost(model, (1, *shape))).items()
    },
}
metrics["drop"] = metrics["original"] - metrics["accuracy"]

# %% [markdown]
# And once more after BatchNorm has seen a thousand training images:

# %%
train.reestimate_batchnorm(compressed, calibration)
metrics["drop_reestimated"] = metrics["original"] - train.accuracy(compressed, test)

# %%
study.record(
    "compress-one-layer",
    metrics | {"test_images": len(test)},
    parameters={"profile": profile, "network": network, "layer": layer, "format": format, "rank": rank},
    source="notebooks/experiments/compress_one_layer",
    seed=seed,
)
print("recorded compress-one-layer")
