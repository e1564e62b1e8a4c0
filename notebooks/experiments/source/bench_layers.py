# %% [markdown]
# # Time tensor-train layers against dense ones and against other libraries
#
# A benchmark: one run gives one record, `bench-layers`. It asks how fast a TT-matrix layer is beside the dense layer that
# it replaces, beside a plain pass over its cores and beside the layers of other libraries, if these are installed
# (tensorly-torch, torchTT; opt_einsum for its count of multiplications); what a training step takes; and whether a
# layer of any shape is ever slower than the better of dense and plain.
#
# **Rules.** All rivals compute the same function, which is asserted before anything is timed. They run in turns in one
# process. Speed-ups are ratios of neighbouring turns: median, 10 % and 90 % quantile.

# %% tags=["parameters"]
profile: str = "quick"  # "quick": 4096 -> 1024, seconds; "full": 25088 -> 4096 (a dense matrix of 411 MB), minutes
rank: int = 4  # 1 to 16; TT rank of the layer
batches: list[int] = [1, 100]  # rows of an input; the last is the batch of the training step
shapes: int | None = None  # at least 1; random shapes; None: as many as the profile has
seed: int = 0  # decides weights, inputs and random shapes

# %%
import math
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import torch
from torch import nn

from tnlib import contract, layers, measure, study

# %% [markdown]
# `full` is the layer of Novikov et al. 2015, table 3: the first fully connected one of VGG.

# %%
full = profile == "full"
row_dims = (4,) * 6 if full else (4,) * 5
col_dims = (2, 7, 8, 8, 7, 4) if full else (4, 4, 8, 8, 4)
shapes = shapes or (20 if full else 3)
generator = torch.Generator().manual_seed(seed)
metrics = {"in_features": math.prod(col_dims), "out_features": math.prod(row_dims)}

# %% [markdown]
# A turn is as many calls as fill a block of milliseconds, after one that does not count.

# %%
infer = {"rounds": 21, "seconds": 4.0, "block": 20.0} if full else {"rounds": 5, "seconds": 0.1, "block": 2.0}
learn = {"rounds": 7, "seconds": 8.0, "block": 200.0} if full else {"rounds": 3, "seconds": 0.1, "block": 5.0}
grid = infer | {"seconds": 1.0 if full else 0.05}


# %% [markdown]
# ## The rivals
# The dense layer holds the matrix that the cores multiply out to.


# %%
def pair(row_dims, col_dims, rank, seed):
    dense = nn.Linear(math.prod(col_dims), math.prod(row_dims))
    nn.init.normal_(dense.bias, generator=generator)
    small = layers.factorize(dense, "ttm", rank, weights="fresh", row_dims=row_dims, col_dims=col_dims, seed=seed)
    with torch.no_grad():
        dense.weight.copy_(small.dense_weight())
        small.bias.copy_(dense.bias)
    return small, dense


# %% [markdown]
# The plain pass goes core by core from the last to the first, nothing merged, the whole batch at once: what most write
# first.


# %%
def plain(small):
    def forward(x):
        y = x.reshape(-1, 1)
        for core in reversed(small.factors()):
            left, m, n, right = core.shape
            y = core.reshape(left * m, n * right) @ y.reshape(-1, n * right, y.shape[1])
            y = y.reshape(-1, m * y.shape[2])
        return y.reshape(x.shape[0], -1) + small.bias

    return forward


# %%
def installed(library):
    try:
        return version(library)
    except PackageNotFoundError:
        return None


# %%
names = ("tensorly-torch", "torchTT", "opt_einsum")
versions = {name: found for name in names if (found := installed(name))}
metrics["libraries"] = versions

# %% [markdown]
# The other libraries' layers get the same cores and the same bias.


# %%
@torch.no_grad()
def with_values(theirs, small, cores, bias):
    for core, parameter in zip(small.factors(), cores, strict=True):
        parameter.copy_(core)
    bias.copy_(small.bias.view_as(bias))
    return theirs


# %%
def tensorly_torch(small):
    import tltorch

    how = {"factorization": "blocktt", "rank": max(small.rank), "implementation": "factorized"}
    theirs = tltorch.FactorizedLinear(small.col_dims, small.row_dims, **how)
    return with_values(theirs, small, [p for p in theirs.parameters() if p.ndim == 4], theirs.bias)


# %%
def torch_tt(small):
    import torchtt

    theirs = torchtt.nn.LinearLayerTT(list(small.col_dims), list(small.row_dims), [1, *small.rank, 1])
    cores = [p for p in theirs.parameters() if tuple(p.shape) != small.row_dims]
    with_values(theirs, small, cores, next(p for p in theirs.parameters() if tuple(p.shape) == small.row_dims))
    return nn.Sequential(nn.Unflatten(1, small.col_dims), theirs, nn.Flatten())


# %%
small, dense = pair(row_dims, col_dims, rank, seed)
makers = {"tensorly-torch": tensorly_torch, "torchTT": torch_tt}
others = {name: make(small) for name, make in makers.items() if name in versions}


# %% [markdown]
# ## Inference
# The layer is frozen for its batch: merged and planned beforehand.


# %%
def assert_near(found):
    wanted = found["dense"]
    for name, tensor in found.items():
        error = (tensor - wanted).norm() / wanted.norm()
        assert error < 1e-4, f"{name} differs from dense by {error:.1e}"


# %%
@torch.no_grad()
def assert_equal(rivals, x):
    assert_near({name: forward(x) for name, forward in rivals.items()})


# %%
def summary(name, comparison):
    median, low, high = comparison.speedup["tnlib"]
    found = {f"{name}_ms": comparison.timings["tnlib"].median, f"{name}_dense_ms": comparison.timings["dense"].median}
    found |= {f"{name}_speedup": median, f"{name}_speedup_low": low, f"{name}_speedup_high": high}
    rivals = [rival for rival in comparison.timings if rival not in ("dense", "tnlib")]
    ratios = {rival: comparison.timings[rival].median / comparison.timings["tnlib"].median for rival in rivals}
    return found | {f"{name}_over_{rival.replace('-', '_')}": ratio for rival, ratio in ratios.items()}


# %% [markdown]
# A bound: the plan's products one by one, their operands in cache, with nothing between them.


# %%
def products_alone(plan):
    products = [step.product(plan.chunk) for step in plan.steps]
    nanoseconds = contract.time_products(products, 0.4 if full else 0.02)
    return sum(nanoseconds) * plan.rows / plan.chunk / 1e6


# %% [markdown]
# Another yardstick: multiplications of a row by the best order that opt_einsum finds. It merges no cores beforehand.


# %%
def einsum_macs(small, batch):
    import opt_einsum

    d = len(small.row_dims)
    rows, cols, bonds = ([opt_einsum.get_symbol(1 + k * (d + 1) + i) for i in range(d + 1)] for k in range(3))
    cores = [bonds[k] + rows[k] + cols[k] + bonds[k + 1] for k in range(d)]
    batch_symbol = opt_einsum.get_symbol(0)
    equation = f"{batch_symbol}{''.join(cols[:d])},{','.join(cores)}->{batch_symbol}{''.join(rows[:d])}"
    operands = [(batch, *small.col_dims), *(tuple(core.shape) for core in small.factors())]
    _, info = opt_einsum.contract_path(equation, *operands, shapes=True, optimize="optimal")
    return int(info.opt_cost / 2 / batch)


# %% [markdown]
# Memory in use: what each side holds, and what a call takes beside that and the input, its output included.


# %%
def held(module):
    return sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers()))


# %%
metrics |= {"dense_bytes": held(dense), "tt_bytes": held(small)}


# %%
@torch.no_grad()
def memory(frozen, x):
    found = {"peak_bytes": measure.peak_memory(frozen, x), "dense_peak_bytes": measure.peak_memory(dense, x)}
    return found | {"frozen_bytes": held(frozen)}


# %%
def inference(batch):
    x = torch.randn(batch, dense.in_features, generator=generator)
    frozen = layers.freeze(small, x)
    rivals, plan = {"dense": dense, "tnlib": frozen, "plain": plain(small), **others}, frozen.plan
    assert_equal(rivals, x)
    found = summary(f"batch{batch}", measure.compare(rivals, x, **infer))
    bound = found[f"batch{batch}_dense_ms"] / products_alone(plan)
    more = {"bound_speedup": bound, "predicted_ms": plan.nanoseconds / 1e6, "macs": plan.macs, "plan": str(plan)}
    more |= memory(frozen, x)
    if "opt_einsum" in versions:
        more["opt_einsum_macs"] = einsum_macs(small, batch)
    return found | {f"batch{batch}_{key}": value for key, value in more.items()}


# %%
for batch in batches:
    metrics |= inference(batch)

# %% [markdown]
# On one thread, too: products this small gain little from a second.

# %%
threads = torch.get_num_threads()
torch.set_num_threads(1)
for batch in batches:
    kept = [f"batch{batch}_{key}" for key in ("ms", "dense_ms", "speedup", "speedup_low", "speedup_high")]
    metrics |= {f"one_thread_{key}": value for key, value in inference(batch).items() if key in kept}
torch.set_num_threads(threads)


# %% [markdown]
# ## A training step
# Forward and backward, gradients of the input included; the layer as it is, not frozen.


# %%
def step(layer):
    @torch.enable_grad()
    def run(x):
        layer.zero_grad()
        x.grad = None
        layer(x).square().sum().backward()

    return run


# %%
x = torch.randn(batches[-1], dense.in_features, generator=generator).requires_grad_()
rivals = {"dense": dense, "tnlib": small, **others}
assert_equal(rivals, x)
steps = {name: step(layer) for name, layer in rivals.items()}


# %%
def gradient(name):
    steps[name](x)
    return x.grad.clone()


# %%
assert_near({name: gradient(name) for name in rivals})

# %%
metrics |= summary("training_step", measure.compare(steps, x, **learn))
metrics["training_step_batch"] = len(x)
metrics["training_step_plan"] = str(small.plan(len(x), use="training"))

# %% [markdown]
# Memory beside weights and input, gradients included: what is left of the last step goes first.

# %%
small.zero_grad()
x.grad = None
peak = measure.peak_memory(steps["tnlib"], x)
metrics["training_step_peak_bytes"] = peak
metrics["training_step_peak_over_input"] = peak / (x.numel() * x.element_size())

# %% [markdown]
# ## Any shape
# Random shapes, ranks and batches. `slower` is the frozen layer's time over that of the better of dense and plain: above
# one, somebody would have done better without us.

# %%
rng = np.random.default_rng(seed)
largest = {2: 64, 3: 16, 4: 8, 5: 6, 6: 4}  # tensorized size, by the number of cores


# %%
def random_shape():
    d, batch = int(rng.integers(2, 7)), int(rng.choice([1, 10, 100]))
    rows, cols = (tuple(rng.integers(2, largest[d] + 1, d).tolist()) for _ in range(2))
    return {"row_dims": rows, "col_dims": cols, "rank": int(2 ** rng.integers(0, 6)), "batch": batch}


# %%
def one_shape(number):
    shape = random_shape()
    small, dense = pair(shape["row_dims"], shape["col_dims"], shape["rank"], number)
    x = torch.randn(shape["batch"], dense.in_features, generator=generator)
    frozen = layers.freeze(small, x)
    rivals = {"tnlib": frozen, "dense": dense, "plain": plain(small)}  # ratios are tnlib / rival
    assert_equal(rivals, x)
    comparison = measure.compare(rivals, x, **grid)
    predicted = {"dense_plan": frozen.plan.dense, "predicted_ms": frozen.plan.nanoseconds / 1e6}
    row = shape | {"rank": small.rank, **predicted}
    row |= {f"{name}_ms": timing.median for name, timing in comparison.timings.items()}
    return row | {"slower": max(comparison.speedup[name][0] for name in ("dense", "plain"))}


# %%
rows = [one_shape(number) for number in range(shapes)]
errors = [abs(math.log(row["predicted_ms"] / row["tnlib_ms"])) for row in rows]
metrics["shapes_worst"] = max(row["slower"] for row in rows)
metrics["shapes_model_error"] = math.expm1(np.median(errors))

# %%
study.record(
    "bench-layers",
    metrics | {"shapes": rows},
    parameters={"profile": profile, "rank": rank, "batches": batches, "shapes": shapes},
    source="notebooks/experiments/bench_layers",
    seed=seed,
)
print("recorded bench-layers")
