# %% [markdown]
# # Time CP decompositions of convolution kernels
#
# A benchmark: one run gives one record, `bench-cp`. Lesson 02 derives ALS and the damped Gauss-Newton method (NLS). Here both
# run beside TensorLy's `parafac` on kernels of trained networks: how long to the error that parafac's best start ends
# at, and which error in how much time. The kernel of AlexNet's shape is drawn, not trained: its weights are not here.
#
# **Rules.** One process, the methods one after the other on each start, `parafac` with its defaults but for the start and a
# seed. Errors are relative to the kernel's norm.

# %% tags=["parameters"]
profile: str = "quick"  # "quick": one small kernel, seconds; "full": four kernels, many minutes
starts: int = 3  # at least 1; random starts of every method
nls_iter: int = 120  # at least 1; steps of NLS at most
seed: int = 0  # decides all starts

# %%
import time

import numpy as np
import tensorly as tl
import torch
from tensorly.decomposition import parafac

from tnlib import decompose, models, study

# %%
ALS_ITER = 5000  # at most


# %%
def drawn(*shape):
    """A kernel with a spectrum that falls, and an even window: smoothed noise."""
    generator = torch.Generator().manual_seed(seed)
    kernel = torch.randn(shape, generator=generator, dtype=torch.float64)
    for mode, size in enumerate(shape):
        scale = torch.arange(1, size + 1, dtype=torch.float64) ** -0.5
        basis = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q
        kernel = tl.tenalg.mode_dot(kernel, basis * scale, mode)
    return kernel


# %%
def kernels():
    resnet = models.load("resnet20-cifar10").layer3[1].conv1.weight
    if profile != "full":
        yield "resnet20_small", resnet[:16, :16], 12
        return
    charnet = models.load("charnet-chars36")
    yield "resnet20_layer3", resnet, 64
    yield "charnet_conv2", charnet.conv2.weight, 64
    yield "charnet_conv3", charnet.conv3.weight, 64
    yield "alexnet_conv2_drawn", drawn(192, 64, 5, 5), 140


# %%
def timed(fit, kernel):
    begin = time.perf_counter()
    found = fit()
    seconds = time.perf_counter() - begin
    return {"seconds": seconds, "error": float((found.to_tensor() - kernel).norm() / kernel.norm())}


# %%
def compare(kernel, rank):
    kernel = kernel.detach().double()
    rows = {"parafac": [], "als": [], "nls": []}
    for start in range(starts):
        rows["parafac"].append(
            timed(lambda s=start: parafac(kernel, rank, init="random", random_state=seed + s), kernel)
        )
    for start, rival in enumerate(rows["parafac"]):
        goal = {"rel_error": rival["error"], "seed": seed + start, "tol": 0.0}
        rows["als"].append(timed(lambda g=goal: decompose.cp(kernel, rank, max_iter=ALS_ITER, **g), kernel))
    best = min(row["error"] for row in rows["parafac"])
    for start in range(starts):
        goal = {"method": "nls", "seed": seed + start, "tol": 0.0, "max_iter": nls_iter}
        to_best = timed(lambda g=goal: decompose.cp(kernel, rank, rel_error=best, **g), kernel)
        rows["nls"].append(timed(lambda g=goal: decompose.cp(kernel, rank, **g), kernel) | {"to_best": to_best})
    return rows


# %%
def summary(rows):
    seconds = {name: float(np.median([row["seconds"] for row in row_list])) for name, row_list in rows.items()}
    errors = {name: [row["error"] for row in row_list] for name, row_list in rows.items()}
    reached = [row["to_best"] for row in rows["nls"]]
    pairs = list(zip(rows["parafac"], rows["als"], strict=True))
    return {
        "parafac_seconds": seconds["parafac"],
        "parafac_error": min(errors["parafac"]),
        "nls_seconds_to_that": float(np.median([row["seconds"] for row in reached])),
        "nls_reached_it": sum(row["error"] <= min(errors["parafac"]) for row in reached),
        "nls_seconds": seconds["nls"],
        "nls_error": float(np.median(errors["nls"])),
        "nls_error_max": max(errors["nls"]),
        "als_reached_it": sum(als["error"] <= rival["error"] for rival, als in pairs),
        "parafac_over_als_seconds": float(np.median([rival["seconds"] / als["seconds"] for rival, als in pairs])),
    }


# %%
metrics, details = {}, {}

# %%
for name, kernel, rank in kernels():
    details[name] = compare(kernel, rank)
    metrics |= {f"{name}_{key}": value for key, value in summary(details[name]).items()}
    metrics[f"{name}_rank"] = rank
    print(name, "done")

# %%
study.record(
    "bench-cp",
    metrics | {"runs": details},
    parameters={"profile": profile, "starts": starts, "nls_iter": nls_iter},
    source="notebooks/experiments/bench_cp",
    seed=seed,
)
print("recorded bench-cp")
