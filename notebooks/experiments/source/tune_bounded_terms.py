# %% [markdown]
# # Fine-tune a CP convolution with and without a bound on its terms
#
# An experiment, not a lesson: one run gives one record. The second convolution of the character network becomes a CPD,
# and all factors and weights are tuned for some steps of SGD at one learning rate, in float32, no gradient shortened. Asked is
# whether that diverges, and what the terms' norms have to do with it: Phan et al. 2020 say that large terms that cancel
# make fine-tuning unstable. Before tuning, the network also reads the test in bfloat16.

# %% tags=["parameters"]
profile: str = "quick"  # "quick": 1,280 images to tune on, 2,200 to test with; "full": 12,800 and 10,800
rank: int = 64  # at least 1
max_norm: float = 0.0  # at least 0; bound on the terms of the fit (decompose.cp); 0: none
lr: float = 0.003  # peak of the learning rate
seed: int = 0  # decides the start of CP, the order of the images and their crops

# %%
import math

import torch

from tnlib import data, layers, models, study, train

# %%
full = profile == "full"
training = data.load("chars36", "train", "full" if full else "embedded").sample(12_800 if full else 1_280, seed)
test = data.load("chars36", "test", "full" if full else "embedded")
model = models.load("charnet-chars36")
conv = model.conv2
print(f"{len(training)} images to tune on, {len(test)} test images")

# %%
bound = {"max_norm": max_norm} if max_norm else {}
small = layers.factorize(conv, "cp", rank, method="nls", max_iter=100 if full else 30, tol=1e-7, seed=seed, **bound)
model.conv2 = small


# %% [markdown]
# The root of the sum of squared norms of the terms, over the kernel's norm: 1 if nothing cancels and all is orthogonal.


# %%
@torch.no_grad()
def norm_of_terms():
    *inner, last = (factor.flatten(1) for factor in small.factors())
    terms = last.norm(dim=0) * torch.stack([factor.norm(dim=1) for factor in inner]).prod(0)
    return float(terms.norm() / conv.weight.norm())


# %%
kernel = conv.weight.detach()
metrics = {
    "error": float((small.dense_weight().detach() - kernel).norm() / kernel.norm()),
    "norm": norm_of_terms(),
    "raw_accuracy": train.accuracy(model, test),
}
with torch.autocast("cpu", torch.bfloat16):
    metrics["raw_accuracy_bfloat16"] = train.accuracy(model, test)

# %%
torch.manual_seed(seed)  # dropout knows no other generator
recipe = train.Recipe(epochs=1, lr=lr, warmup=0.1, padding=2, flip=False, seed=seed)
loss = train.fit(model, training, recipe, precision="float32").losses[-1]
metrics |= {"accuracy": train.accuracy(model, test), "test_images": len(test), "norm_after": norm_of_terms()}

# %% [markdown]
# JSON has no nan: a loss or norm that is not finite is recorded as null.

# %%
finite = {"loss": loss, "norm_after": metrics["norm_after"]}
metrics |= {name: value if math.isfinite(value) else None for name, value in finite.items()}
metrics["diverged"] = not math.isfinite(loss) or metrics["accuracy"] < metrics["raw_accuracy"] / 2

# %%
study.record(
    "tune-bounded-terms",
    metrics,
    parameters={"profile": profile, "rank": rank, "max_norm": max_norm, "lr": lr},
    source="notebooks/experiments/tune_bounded_terms",
    seed=seed,
)
print("recorded tune-bounded-terms")
