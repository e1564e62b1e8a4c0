# %% [markdown]
# # Fit factors in the norm of the inputs: in turns, or all at once
#
# An experiment, not a lesson: one run gives one record. Kalle et al. (2025) fit CP and Tucker-2 of a convolution in the norm of its
# inputs by alternating least squares, layer by layer; lesson 14 fits all factors at once, by Levenberg-Marquardt. Here both go on from
# the same start, at the same rank, to the same norm: what do they leave of each layer, what do they take, and what is left of the network?
#
# What is here is our version of their idea, on our networks: none of their numbers is reproduced.

# %% tags=["parameters"]
profile: str = (
    "quick"  # "quick": the committed images; "full": all test images, and inputs drawn from all training images
)
network: str = "quick-cifar10"  # a network for CIFAR-10 that `models.load` knows
weights: str = "trained"  # "trained" or "published"
format: str = "cp3"  # the format of all layers
budget: float = 0.5  # share of the multiplications that is left, in (0, 1); the same share in each layer
inputs: int = 30  # at least 1; training images, without labels
sweeps: int = 5  # at least 1; sweeps over all factors in turn, at most
steps: int = 5  # at least 1; steps with all factors at once, at most
sequence: bool = False  # whether the networks are also fitted in sequence
tol: float = 1e-4  # a sweep that gains less, relative to the error, is the last
seed: int = 0  # decides which images these are

# %%
import time

import numpy as np

from tnlib import compress, data, layers, measure, models, study, train
from tnlib.compress.fitting import fit_factors

# %%
subset = {"quick": "embedded", "full": "full"}[profile]
training, test = (data.load("cifar10", split, subset) for split in ("train", "test"))
model, looked_at = models.load(network, weights=weights), training.sample(inputs, seed).images
example = looked_at[:1]

# %%
curves = compress.curves(model, looked_at, ["svd"], "exact", example=example, seed=seed)
plan = compress.uniform(curves, compress.Budget(macs=budget), format)
chosen = {name: c.rank for name, c in plan.chosen.items() if c.format is not None}
networks = {name: plan.apply(model, weights="empty") for name in ("start", "als", "nls")}
METHODS = {"als": {"steps": sweeps, "tol": tol}, "nls": {"steps": steps}}


# %%
def fitted(method, start, layer, norm):
    started, target = time.perf_counter(), layer.weight.detach().double().flatten(1)[None]
    factors, errors = fit_factors(start, target, norm.moment.damped(norm.ridge), method=method, **METHODS[method])
    made = type(start).from_factors(factors, like=layer)
    return made, {"error": errors[-1], "steps": len(errors) - 1, "seconds": time.perf_counter() - started}


# %%
rows = []
for name, rank in chosen.items():
    layer, norm = model.get_submodule(name), curves.norms[name]
    start = layers.factorize(layer, format, rank, metric=norm.metric)
    networks["start"].set_submodule(name, start)
    row = {"layer": name, "rank": rank}
    for method in METHODS:
        made, told = fitted(method, start, layer, norm)
        networks[method].set_submodule(name, made)
        row |= {f"{method}_{key}": value for key, value in told.items()}
    rows.append(row)

# %% [markdown]
# Errors are those of the layers' outputs, squared and relative. The network is measured three times: as factored, with BatchNorm's
# statistics estimated anew, and, if asked for, with all layers fitted in sequence.

# %%
dense, hits = measure.cost(model, example), train.hits(model, test)
metrics = {"rows": rows, "test_images": len(test), "original_accuracy": hits.double().mean()}
metrics["macs"] = measure.cost(networks["nls"], example).macs / dense.macs

# %%
for name, small in networks.items():
    stages = {"raw": small, "batchnorm": compress.repair(small, model, looked_at, fit=False)}
    if sequence and name != "start":
        stages["sequence"] = compress.repair(small, model, looked_at)
    for stage, made in stages.items():
        hits = train.hits(made, test)
        metrics[f"{name}_{stage}_accuracy"] = hits.double().mean()
        metrics[f"{name}_{stage}_right"] = np.packbits(hits.numpy()).tobytes().hex()

# %%
told = {"profile": profile, "network": network, "weights": weights, "format": format, "budget": budget}
told |= {"inputs": inputs, "sweeps": sweeps, "steps": steps, "tol": tol, "sequence": sequence}
study.record("compare-fits", metrics, parameters=told, source="notebooks/experiments/compare_fits", seed=seed)
print("recorded compare-fits")
