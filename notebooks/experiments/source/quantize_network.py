# %% [markdown]
# # Quantize a whole network, compressed or not
#
# An experiment, not a lesson: one run gives one record. A network is compressed to a share of its multiplications (1.0: left as
# it is), repaired without labels, exported to ONNX, compared with torch, and quantized to int8 by ONNX Runtime. What is lost on
# the way: by compression, by export, by int8? Times are another benchmark's.
#
# With `ablate` the network is quantized again with one choice of the quantizer changed at a time: how factors are balanced, one scale for a
# whole weight, eight bits, the first and the last layer in float.
#
# Terms of a CPD may cancel. Then each is larger than their sum, and so is what int8 rounds off each: `rounding` keeps the repair from it.

# %% tags=["parameters"]
profile: str = "quick"  # "quick": the committed images; "full": 10,000 test images
network: str = "resnet20-cifar10"  # a network that `models.load` knows
budget: float = 1.0  # share of the multiplications that is left, in (0, 1]; 1.0 is the network as it is
formats: list[str] = ["spatial_svd"]  # formats to choose from
metric: str = "input"  # "weight", "input" or "exact": how a layer's loss is predicted
discount: float = 1.0  # how much less early layers' losses count in the allocation: by exp(-discount) of the first one
inputs: int = 500  # at least 1; training images, without labels, for the metric, the repair and the ranges of values
repair: str = "sequence"  # "batchnorm" or "sequence": what is done after compression, without labels
rounding: float = (
    1e-3  # at least 0; how much the squares of a CP's terms count in the repair, beside the error of their sum
)
int8: bool = True  # quantize, or stop at the float network
per_channel: bool = True  # a scale for each output of a weight, or one for the whole weight
weight_bits: int = 7  # 7 to 8; 8 overflows on x86 processors without VNNI
balance: str = "activations"  # "none", "weights" or "activations": how channels between two factors are scaled before
skip: list[str] = []  # modules that stay in float
ablate: bool = False  # whether one of these choices is changed at a time, too
seed: int = 0  # decides the images of `inputs`

# %%
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from torch import nn

from tnlib import compress, data, deploy, measure, models, study, train

# %%
subset = {"quick": "embedded", "full": "full"}[profile]
name_of_data = models.model_info(network).dataset
training, test = (data.load(name_of_data, split, subset) for split in ("train", "test"))
looked_at = training.sample(inputs, seed).images
print(f"{len(looked_at)} images to calibrate on, {len(test)} to measure")

# %%
model = models.load(network)
small = model
if budget < 1:
    example = looked_at[:1]
    curves = compress.curves(model, looked_at, formats, metric, example=example, seed=seed, discount=discount)
    plan = compress.Plan.of(curves, compress.Budget(macs=budget))
    small = compress.repair(plan.apply(model), model, looked_at, fit=repair == "sequence", rounding=rounding)

# %%
cost, before = (measure.cost(m, looked_at[:1]) for m in (small, model))
right = {"original": train.hits(model, test), "torch": train.hits(small, test)}

# %% [markdown]
# Parity with torch is asserted on all test images: `deploy.export` writes no file without it.

# %%
folder = TemporaryDirectory()
paths = {name: Path(folder.name) / f"{name}.onnx" for name in ("float", "int8")}
exported = deploy.export(small, looked_at[:1], paths["float"], inputs=test.images)
right["onnx"] = deploy.hits(paths["float"], test.images, test.labels)

# %%
metrics = {"macs": cost.macs / before.macs, "params": cost.params / before.params, "test_images": len(test)}
metrics |= {"onnx_bytes": exported.bytes, "onnx_difference": exported.difference, "largest_output": exported.largest}
metrics |= {"onnx_other_top1": exported.samples - exported.same, "opset": exported.opset}

# %% [markdown]
# An int8 network is run twice: as ONNX Runtime runs it here, and node by node with its rounded numbers multiplied in float. Where the
# two accuracies are apart, products overflowed on this processor.


# %%
def packed(hits):
    return np.packbits(hits.numpy()).tobytes().hex()


# %%
def quantized(per_channel, weight_bits, balance, skip):
    how = {"per_channel": per_channel, "weight_bits": weight_bits, "balanced": balance, "skip": skip}
    done = deploy.quantize(paths["float"], looked_at, paths["int8"], **how)
    plain = deploy.session(paths["int8"], fused=False)
    row = {"int8_bytes": done.bytes, "nodes": done.nodes[0], "int8_nodes": done.nodes[1], "links": done.balanced}
    for name, network in (("int8", paths["int8"]), ("int8_plain", plain)):
        hits = deploy.hits(network, test.images, test.labels)
        row |= {f"{name}_accuracy": float(hits.double().mean()), f"{name}_right": packed(hits)}
    return row


# %%
chosen = {"per_channel": per_channel, "weight_bits": weight_bits, "balance": balance, "skip": skip}
ends = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
others = {"per_channel": [not per_channel], "weight_bits": [15 - weight_bits], "skip": [[ends[0], ends[-1]]]}
others["balance"] = [other for other in ("none", "weights", "activations") if other != balance] if budget < 1 else []

# %%
changed = [chosen | {name: other} for name, values in others.items() for other in values] if ablate else []
rows = [how | quantized(**how) for how in [chosen, *changed]] if int8 else []
metrics |= {"rows": rows} | {name: value for row in rows[:1] for name, value in row.items() if name not in chosen}
folder.cleanup()

# %%
metrics |= {f"{name}_accuracy": hits.double().mean() for name, hits in right.items()}
metrics |= {f"{name}_right": packed(hits) for name, hits in right.items()}

# %%
told = {"profile": profile, "network": network, "budget": budget, "formats": formats, "metric": metric}
told |= {"inputs": inputs, "repair": repair, "rounding": rounding, "int8": int8, "per_channel": per_channel}
told |= {"weight_bits": weight_bits, "balance": balance, "skip": skip, "discount": discount, "ablate": ablate}

# %%
study.record(
    "quantize-network",
    metrics,
    parameters=told,
    source="notebooks/experiments/quantize_network",
    seed=seed,
)
print("recorded quantize-network")
