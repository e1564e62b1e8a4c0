# %% [markdown]
# # Time the chain of coupled decompositions against its rivals
#
# A benchmark: one run gives one record, `bench-coupled`. Lesson 05 derives the chain. Here it runs beside TensorLy's
# `parafac` and our ALS; without noise at a large order; beside the Cramér-Rao bound, alone and polished; and, as a Tucker
# decomposition, beside HOSVD. `recover_cp_factors` sweeps over many more points.
#
# **Rules.** Methods that are compared see the same tensors, one after the other in one process, in an order that turns from
# draw to draw. Times are ratios on the same draw. A round that does not count warms everything up.

# %% tags=["parameters"]
profile: str = "quick"  # "quick": order 5, 3 draws, seconds; "full": orders to 12, 100 draws, minutes
draws: int | None = None  # at least 1; tensors a point; None: as many as the profile has
size: int = 5  # 4 to 8; of every mode
rank: int = 3  # 2 to 4; CP rank
seed: int = 0  # decides all tensors and starts

# %%
import math
import time

import numpy as np
import tensorly as tl
import torch
from tensorly.decomposition import parafac

from tnlib import decompose, study

# %%
full = profile == "full"
draws = draws or (100 if full else 3)
order, large_order = (8, 12) if full else (5, 7)
points = [(q, snr) for q in (4, 6, 8) for snr in (10.0, 20.0, 30.0, 40.0)] if full else [(4, 20.0)]
tucker_points = [(q, snr) for q in (6, 7, 8) for snr in (20.0, 0.0)] if full else [(5, 20.0), (6, 0.0)]


# %% [markdown]
# ## Tensors
# Factors have normal entries; a Tucker core has them, too, and its factors are orthonormal. The noise is white:
# `snr_db` is the ratio of the tensor's squared norm to the expected one of the noise.


# %%
def normal(generator, *shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


# %%
def random_cp(generator, order, size=size, rank=rank):
    return tl.cp_to_tensor((None, [normal(generator, size, rank) for _ in range(order)]))


# %%
def random_tucker(generator, order, rank=2):
    core = normal(generator, *(rank,) * order)
    return tl.tucker_to_tensor((core, [torch.linalg.qr(normal(generator, size, rank)).Q for _ in range(order)]))


# %%
def noisy(generator, tensor, snr_db):
    sigma = float(tensor.norm()) / math.sqrt(tensor.numel()) * 10 ** (-snr_db / 20)
    return tensor + sigma * normal(generator, *tensor.shape)


# %%
def nmse(estimate, tensor):
    return float((estimate.to_tensor() - tensor).square().sum() / tensor.square().sum())


# %%
def compare(methods, draw, snr_db):
    names, rows = list(methods), {name: {"nmse": [], "seconds": []} for name in methods}
    generator = torch.Generator().manual_seed(seed)
    for number in range(-1, draws):
        tensor = draw(generator)
        given, turn = noisy(generator, tensor, snr_db), (number + 1) % len(names)
        for name in names[turn:] + names[:turn]:
            begin = time.perf_counter()
            estimate = methods[name](given, number + 1)
            seconds = time.perf_counter() - begin
            if number >= 0:
                rows[name]["seconds"].append(seconds)
                rows[name]["nmse"].append(nmse(estimate, tensor))
    return rows


# %%
def spread(values):
    low, middle, high = np.quantile(values, (0.1, 0.5, 0.9)).tolist()
    return {"median": middle, "low": low, "high": high, "max": max(values)}


# %%
def ratio(rows, what, of, to):
    return spread([a / b for a, b in zip(rows[of][what], rows[to][what], strict=True)])


# %%
def told(rows):
    return {name: {what: spread(values) for what, values in row.items()} for name, row in rows.items()}


# %% [markdown]
# ## The chain and ALS
# Each ALS has one random start; `parafac_svd` is parafac from its default one.

# %%
methods = {
    "coupled": lambda x, n: decompose.coupled_cp(x, rank),
    "parafac": lambda x, n: parafac(x, rank, n_iter_max=500, init="random", random_state=n),
    "parafac_svd": lambda x, n: parafac(x, rank, n_iter_max=500, init="svd", random_state=n),
    "als": lambda x, n: decompose.cp(x, rank, seed=n),
}
rows = compare(methods, lambda generator: random_cp(generator, order), 20.0)

# %%
metrics = {"order": order, "bound": decompose.cp_bound((size,) * order, rank, 20.0)}
for name, row in rows.items():
    metrics[f"{name}_nmse"], metrics[f"{name}_nmse_max"] = spread(row["nmse"])["median"], max(row["nmse"])
    metrics[f"{name}_seconds"] = spread(row["seconds"])["median"]
    metrics[f"{name}_failures"] = sum(value > 1e-3 for value in row["nmse"])

# %%
for name in ("parafac", "parafac_svd", "als"):
    found = ratio(rows, "seconds", name, "coupled")
    metrics |= {f"{name}_over_coupled_seconds": found["median"]}
    metrics |= {f"{name}_over_coupled_seconds_{end}": found[end] for end in ("low", "high")}

# %% [markdown]
# ## A large order without noise
# The second of two calls is timed.

# %%
tensor = random_cp(torch.Generator().manual_seed(seed), large_order, size=4)
decompose.coupled_cp(tensor, rank)
begin = time.perf_counter()
estimate = decompose.coupled_cp(tensor, rank)
metrics |= {"large_order": large_order, "large_order_seconds": time.perf_counter() - begin}
metrics["large_order_error"] = math.sqrt(nmse(estimate, tensor))
assert metrics["large_order_error"] < 1e-6

# %% [markdown]
# ## The Cramér-Rao bound
# `excess_db`: the median error over the bound; a draw fails that is more than ten times above.

# %%
methods = {
    "chain": lambda x, n: decompose.coupled_cp(x, rank),
    "polished": lambda x, n: decompose.coupled_cp(x, rank, polish="nls"),
}


# %%
def against_bound(order, snr_db):
    bound = decompose.cp_bound((size,) * order, rank, snr_db)
    rows = compare(methods, lambda generator: random_cp(generator, order), snr_db)
    point = {"order": order, "snr_db": snr_db, "bound": bound, **told(rows)}
    for name, row in rows.items():
        point[f"{name}_excess_db"] = 10 * math.log10(point[name]["nmse"]["median"] / bound)
        point[f"{name}_failures"] = sum(value > 10 * bound for value in row["nmse"])
    return point


# %%
bounds = [against_bound(*point) for point in points]
for name in methods:
    excess = [point[f"{name}_excess_db"] for point in bounds]
    metrics |= {f"{name}_excess_db_low": min(excess), f"{name}_excess_db_high": max(excess)}
    metrics[f"{name}_failures"] = sum(point[f"{name}_failures"] for point in bounds)

# %% [markdown]
# ## Tucker and HOSVD
# `svd_train` finds the tensor train first, by the TT-SVD.

# %%
methods = {
    "chain": lambda x, n: decompose.coupled_tucker(x, 2),
    "svd_train": lambda x, n: decompose.coupled_tucker(x, 2, train="svd"),
    "hosvd": lambda x, n: decompose.tucker(x, 2, method="hosvd"),
}


# %%
def against_hosvd(order, snr_db):
    rows = compare(methods, lambda generator: random_tucker(generator, order), snr_db)
    point = {"order": order, "snr_db": snr_db, **told(rows)}
    for name in ("chain", "svd_train"):
        point[f"{name}_over_hosvd_nmse"] = ratio(rows, "nmse", name, "hosvd")
    return point | {"hosvd_over_chain_seconds": ratio(rows, "seconds", "hosvd", "chain")}


# %%
tuckers = [against_hosvd(*point) for point in tucker_points]
for key in ("chain_over_hosvd_nmse", "svd_train_over_hosvd_nmse", "hosvd_over_chain_seconds"):
    medians = [point[key]["median"] for point in tuckers]
    metrics |= {f"tucker_{key}_low": min(medians), f"tucker_{key}_high": max(medians)}

# %%
study.record(
    "bench-coupled",
    metrics | {"draws": draws, "bounds": bounds, "tucker": tuckers},
    parameters={"profile": profile, "draws": draws, "size": size, "rank": rank},
    source="notebooks/experiments/bench_coupled",
    seed=seed,
)
print("recorded bench-coupled")
