# %% [markdown]
# # Replace VGG's first fully connected layer by a TT-matrix
#
# An experiment, not a lesson: one run gives one record. Novikov et al. 2015, table 2, replace VGG's first layers after the
# convolutions, 25088 to 4096 and 4096 to 4096. By how much that shrinks layer and network follows from shapes and is
# always computed. Then the first of them is decomposed: seconds, memory and error of its TT-SVD by rank, beside a matrix
# of low rank that has as many parameters.
#
# Without `weights` the layer is drawn, and its error says nothing about VGG. With `weights` it is the trained one of
# VGG-16; with `imagenet_dir`, too, the network's accuracy is measured before and after, without fine-tuning.

# %% tags=["parameters"]
profile: str = "quick"  # "quick": a drawn layer of 1568 to 512; "full": of 25088 to 4096, as with weights in both
weights: str = ""  # a file of torchvision's VGG-16 (state_dict), or torchvision: fetched by it; empty: drawn
imagenet_dir: str = ""  # the validation folder, a subfolder a class; empty: no accuracy
pictures: int = 1000  # at least 1; how many of its pictures are classified
ranks: list[int] = [4, 8, 16, 32, 64]  # TT ranks of the layer
seed: int = 0  # decides a drawn layer and the random sketch of the decompositions

# %%
import math
import time
from pathlib import Path

import torch
from torch import nn

from tnlib import imagenet, layers, measure, study

# %%
if imagenet_dir and not weights:
    raise ValueError("imagenet_dir needs weights: a drawn network has no accuracy to lose")
whole = profile == "full" or bool(weights)
digits = {"row_dims": (4,) * 6, "col_dims": (2, 7, 8, 8, 7, 4)}
if not whole:
    digits = {"row_dims": (2, 2, 4, 4, 4, 2), "col_dims": (2, 7, 4, 4, 7, 1)}
generator = torch.Generator().manual_seed(seed)
metrics = {}

# %% [markdown]
# ## Factors from shapes
# `FC` is a dense layer, `TT4` a TT-matrix of ranks 4, `MR5` a matrix of rank 5, for the three fully connected layers in
# turn. The factor on the layers counts weights, no biases, of those that are replaced; that on the network all parameters.
# The last row is not in the paper.

# %%
table = [f"TT{rank} FC FC" for rank in (4, 2, 1)] + ["TT4 TT4 FC"] + [f"MR{rank} FC FC" for rank in (1, 5, 50)]
table = ["FC FC FC", *table, "TT4 TT4 TT4"]
places = ("classifier.0", "classifier.3", "classifier.6")
split = dict(zip(places, [(2, 7, 8, 8, 7, 4), (4,) * 6, (4,) * 6], strict=True))  # the columns
fours = {"classifier.6": (2, 2, 2, 5, 5, 5)}  # the rows, where they are not six times 4


# %%
def parameters(layer, place, how):
    """Of a fully connected layer as FC, TT<rank> or MR<rank>, its bias included."""
    if how == "FC":
        return layer.weight.numel() + layer.bias.numel()
    if how.startswith("MR"):
        return layers.size(layer, "svd", int(how[2:]))
    dims = {"row_dims": fours.get(place, (4,) * 6), "col_dims": split[place]}
    return layers.size(layer, "ttm", int(how[2:]), **dims)


# %%
def factors(depth, row):
    """What a row of the table makes of the replaced layers, and of the network of this depth."""
    with torch.device("meta"):  # shapes alone
        network = imagenet.vgg(depth)
    changed = {place: how for place, how in zip(places, row.split(), strict=True) if how != "FC"} or {places[0]: "FC"}
    sides = {place: network.get_submodule(place) for place in changed}
    before = sum(layer.weight.numel() for layer in sides.values())
    after = sum(parameters(layer, place, changed[place]) - layer.bias.numel() for place, layer in sides.items())
    total = sum(p.numel() for p in network.parameters())
    return before / after, total / (total - before + after)


# %%
shapes = []
for row in table:
    (layer_factor, of_16), (_, of_19) = factors(16, row), factors(19, row)
    shapes.append({"layers": row, "layer_factor": layer_factor, "vgg16_factor": of_16, "vgg19_factor": of_19})
metrics["shapes"] = shapes

# %%
for row in shapes:
    name = row["layers"].lower().replace(" ", "_")
    metrics |= {f"{name}_{key}": value for key, value in row.items() if key != "layers"}

# %% [markdown]
# ## The layer
# A drawn one is a TT-matrix of known ranks and noise of half its norm: a TT-SVD at these ranks or larger ones leaves
# about the noise, and that much is known beforehand.

# %%
planted = 16 if whole else 4


# %%
def drawn():
    layer = nn.utils.skip_init(nn.Linear, math.prod(digits["col_dims"]), math.prod(digits["row_dims"]), bias=False)
    hidden = layers.factorize(layer, "ttm", planted, weights="fresh", seed=seed, **digits)
    with torch.no_grad():
        layer.weight.normal_(generator=generator)
        signal = hidden.dense_weight()
        layer.weight.mul_(0.5 * signal.norm() / layer.weight.norm()).add_(signal)
    return layer


# %%
if weights:
    network = imagenet.vgg(16, weights)
    layer = network.get_submodule("classifier.0")
else:
    layer = drawn()
    metrics |= {"planted_rank": planted, "planted_error": math.sqrt(0.2)}
layer.requires_grad_(False)
metrics |= {"in_features": layer.in_features, "out_features": layer.out_features}
metrics["weight_bytes"] = layer.weight.numel() * layer.weight.element_size()

# %% [markdown]
# ## Its decomposition
# One call gives both. Memory is what torch's allocator holds beside the weight at the worst moment: the interpreter, the
# libraries and the weight itself come on top. The seconds are those under torch's profiler, which costs a few large
# operations next to nothing.


# %%
def replaced(format, rank):
    """The small layer, and what it took to find it."""
    options, made = {"seed": seed, "sketch": True} | (digits if format == "ttm" else {}), {}

    def call():
        start = time.perf_counter()
        made["layer"] = layers.factorize(layer, format, rank, **options)
        made["seconds"] = time.perf_counter() - start

    peak = measure.peak_memory(call, device="cpu")
    return made["layer"], {"rank": rank, "seconds": made["seconds"], "peak_bytes": peak}


# %%
def distance(small):
    """Of the weights, relative to the layer's."""
    return float((small.dense_weight() - layer.weight).norm() / layer.weight.norm())


# %% [markdown]
# With pictures, top-1 and top-5 accuracy of the network; nothing is tuned after the replacement.


# %%
@torch.no_grad()
def accuracy(model):
    found = torch.cat([model(part).topk(5).indices for part in images.split(20)])
    right = found == labels.unsqueeze(1)
    return {"top1": float(right[:, 0].double().mean()), "top5": float(right.any(1).double().mean())}


# %%
if imagenet_dir:
    images, labels = imagenet.read_folder(Path(imagenet_dir), pictures)
    metrics["pictures"] = len(images)
    metrics |= {f"dense_{key}": value for key, value in accuracy(network).items()}


# %%
def measured(format, rank):
    small, found = replaced(format, rank)
    found |= {"params": sum(f.numel() for f in small.factors()), "error": distance(small)}
    if imagenet_dir:
        network.set_submodule("classifier.0", small)
        found |= accuracy(network)
        network.set_submodule("classifier.0", layer)
    return found


# %% [markdown]
# The matrix of low rank gets at least as many parameters as the TT-matrix, and at least rank one.

# %%
trains = [measured("ttm", rank) for rank in ranks]
one = layer.in_features + layer.out_features
equal = [math.ceil(row["params"] / one) for row in trains]
matrices = {rank: measured("svd", rank) for rank in sorted(set(equal))}

# %%
for train, rank in zip(trains, equal, strict=True):
    of_train = {f"rank{train['rank']}_{key}": value for key, value in train.items() if key != "rank"}
    of_matrix = {f"rank{train['rank']}_matrix_{key}": value for key, value in matrices[rank].items()}
    metrics |= of_train | of_matrix
metrics |= {"trains": trains, "matrices": list(matrices.values())}

# %%
study.record(
    "replace-vgg-fc6",
    metrics,
    parameters={"profile": profile, "weights": Path(weights).name, "ranks": ranks, "pictures": pictures},
    source="notebooks/experiments/replace_vgg_fc6",
    seed=seed,
)
print("recorded replace-vgg-fc6")
