# %% [markdown]
# # What every rank costs a layer, and loses
#
# An experiment, not a lesson: one run gives one record. For each layer of a network and each format, some ranks along the curve: what the layer then costs, and the loss that is predicted in three norms.
# In the kernel's own it is the relative squared error of the weight, in that of the inputs the relative squared error of the layer's outputs, in the exact one that of the network's centred logits. Each norm has ranks of its own, as each factors in itself.
# The explorer of the web book draws this record.

# %% tags=["parameters"]
profile: str = "quick"  # "quick": looks at the committed images; "full": at images drawn from all training images
network: str = "quick-cifar10"  # a network that `models.load` knows
weights: str = "trained"  # "trained" or "published"
formats: list[str] = ["spatial_svd", "cp3"]  # as far as a layer takes them
inputs: int = 50  # at least 1; images, without labels, for the norms
points: int = 12  # at least 2; ranks of a layer in a format that are kept, at most
seed: int = 0  # decides which images these are, and where decompositions start

# %%
from tnlib import compress, data, measure, models, study

# %%
subset = {"quick": "embedded", "full": "full"}[profile]
model = models.load(network, weights=weights)
looked_at = data.load(models.model_info(network).dataset, "train", subset).sample(inputs, seed).images
example = looked_at[:1]


# %%
def spread(candidates):
    """The first, the last, and some between them, at equal steps of their number."""
    last, kept = len(candidates) - 1, min(points, len(candidates))
    return [candidates[round(k * last / max(1, kept - 1))] for k in range(kept)]


# %%
def row_of(norm, candidate):
    costs = [candidate.params, candidate.macs]
    return [candidate.layer, norm, candidate.format, candidate.rank, *costs, float(f"{candidate.loss:.4g}")]


# %%
rows, dense = [], {}
for norm in ("weight", "input", "exact"):
    curves = compress.curves(model, looked_at, formats, norm, example=example, seed=seed)
    for layer, (whole, *others) in curves.candidates.items():
        dense[layer] = [whole.params, whole.macs]
        for format in formats:
            rows += [row_of(norm, one) for one in spread([one for one in others if one.format == format])]
print(len(rows), "candidates of", len(dense), "layers")

# %%
cost = measure.cost(model, example)
metrics = {
    "rows": rows,
    "dense": [[layer, *costs] for layer, costs in dense.items()],
    "params": cost.params,
    "macs": cost.macs,
}

# %%
told = {"profile": profile, "network": network, "weights": weights, "formats": formats}
told |= {"inputs": inputs, "points": points}

# %%
study.record("price-layers", metrics, parameters=told, source="notebooks/experiments/price_layers", seed=seed)
print("recorded price-layers")
