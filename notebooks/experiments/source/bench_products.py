# %% [markdown]
# # Fit the planner's cost model to this machine's matrix products
#
# A benchmark: one run gives one record, `bench-products`. The planner chooses the order of a contraction by a model of what
# a matrix product costs (`tnlib.contract.CostModel`). How well does the model fit this machine, on products that it was not
# fitted to? How far off are the rates that plans use by default, and those of other machines on file?
#
# **Rules.** Random products as contractions call them. Each is timed in turns with one fixed product. A third of them
# is held out.

# %% tags=["parameters"]
profile: str = "quick"  # "quick": 36 products, seconds; "full": 600 products, minutes
products: int | None = None  # at least 12; how many; None: as many as the profile has
seconds: float | None = None  # positive; to time each for; None: as the profile has it
seed: int = 0  # decides the products

# %%
import json
from dataclasses import asdict
from importlib import resources

import numpy as np

from tnlib import contract, study

# %%
full = profile == "full"
count = products or (600 if full else 36)
drawn = contract.random_products(count, seed)
nanoseconds = np.array(contract.time_products(drawn, seconds or (0.2 if full else 0.02)))

# %%
held = np.arange(count) % 3 == 0
train = [product for product, out in zip(drawn, held, strict=True) if not out]
test = [product for product, out in zip(drawn, held, strict=True) if out]
fitted = contract.CostModel.fit(train, nanoseconds[~held])


# %% [markdown]
# An error of 0.25 means: off by a factor of 1.25, up or down.


# %%
def errors(model, products, times):
    logs = [abs(np.log(model.product(product) / time)) for product, time in zip(products, times, strict=True)]
    return np.expm1(np.quantile(logs, [0.5, 0.9])).tolist()


# %% [markdown]
# Only proportions matter for a choice. `shape_error` is what is left when a model may be scaled by one factor, which the
# fitted products decide: it compares machines of different speed.


# %%
def shape_error(model):
    ratios = nanoseconds / [model.product(product) for product in drawn]
    scale = float(np.exp(np.median(np.log(ratios[~held]))))
    return errors(model, test, nanoseconds[held] / scale)[0]


# %% [markdown]
# The fit itself, put to the test: it starts from the default rates, and from times that another machine's rates predict it
# must find a model that predicts the same.

# %%
known = contract.CostModel.named("xeon-amx")
times = [known.product(product) for product in train]
self_error = max(errors(contract.CostModel.fit(train, times), train, times))
assert errors(contract.CostModel.default(), train, times)[0] > 1, "the start is far off"
assert self_error < 0.02

# %%
metrics = {"products": count, "held_out": len(test), "self_error": self_error}
for name, model in {"fitted": fitted, "default": contract.CostModel.default()}.items():
    median, high = errors(model, test, nanoseconds[held])
    metrics |= {f"{name}_error": median, f"{name}_error_90": high, f"{name}_shape_error": shape_error(model)}

# %%
on_file = json.loads(resources.files("tnlib.contract").joinpath("rates.json").read_text("utf-8"))["machines"]
for name in on_file:
    model = contract.CostModel.named(name)
    metrics[f"error_{name}"] = errors(model, test, nanoseconds[held])[0]
    metrics[f"shape_error_{name}"] = shape_error(model)
metrics["rates"] = asdict(fitted)

# %%
rows = [[*asdict(product).values(), round(float(time))] for product, time in zip(drawn, nanoseconds, strict=True)]
study.record(
    "bench-products",
    metrics | {"rows": rows},
    parameters={"profile": profile, "products": products, "seconds": seconds},
    source="notebooks/experiments/bench_products",
    seed=seed,
)
print("recorded bench-products")
