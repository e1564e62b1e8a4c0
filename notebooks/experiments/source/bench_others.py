# %% [markdown]
# # Measure what low rank gains in networks that nobody here wrote
#
# A benchmark: one run gives one record, `bench-others`. How long does MiniLM take for a sentence, Silero VAD for a chunk of 32 ms, dense and with
# matrices of low rank in all layers? In ONNX Runtime, one thread.
#
# **Rules.** Times do not depend on the values of weights: they are drawn, and no file of others is needed. What is left of accuracy is the question of
# `compress_sentences` and `compress_speech`. Ranks are uniform, as there. All forms of a network take turns in one process, in blocks of calls after one that is not
# timed, and ratios are taken turn by turn. Nothing else may run.

# %% tags=["parameters"]
profile: str = "quick"  # "quick": a small encoder, seconds; "full": one of MiniLM's size, minutes
shares: list[float] = [0.75, 0.5, 0.25, 0.12]  # in (0, 1); of what the layers have: parameters, of the detector MACs
tokens: list[int] = [8, 32, 128]  # in a sentence
seed: int = 0  # decides the weights and the inputs

# %%
from pathlib import Path
from tempfile import TemporaryDirectory

import onnxruntime as ort
import torch
from torch import nn

from tnlib import compress, deploy, measure, sentences, speech, study

# %%
torch.set_num_threads(1)
torch.manual_seed(seed)
sizes = {"quick": {"vocabulary": 500, "hidden": 64, "inner": 128, "heads": 4, "blocks": 2}, "full": {}}[profile]
encoder, detector = sentences.SentenceEncoder(**sizes).eval(), speech.SpeechDetector().eval()
seconds, folder = {"quick": 0.3, "full": 4.0}[profile], TemporaryDirectory()

# %% [markdown]
# An encoder is called with a sentence of some length, the detector with one chunk and what it remembers.

# %%
text = torch.randint(500, (1, max(tokens)))
chunk, memory = 0.1 * torch.randn(1, speech.CHUNK + speech.CONTEXT), torch.zeros(1, 128)


# %%
def compressed(model, example, only, of, share):
    """A network of matrices of low rank, its layers left with a share of what they have."""
    layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv1d)]
    whole = measure.cost(model, example)
    parts = sum(p.numel() for m in layers for p in m.parameters())
    if of == "macs":
        parts = whole.macs - model.fourier.numel() * 4
    left = 1 - (1 - share) * parts / getattr(whole, of)
    curves = compress.curves(model, example, ["svd"], "weight", example=example, only=only, seed=seed)
    return compress.uniform(curves, compress.Budget(**{of: left}), "svd").apply(model)


# %%
def opened(name, made, example):
    """Of each share: the file's bytes, a call of the exported network, and its multiplications."""
    found = {}
    for share, model in made.items():
        path = Path(folder.name) / f"{name}_{share}.onnx"
        size, session = deploy.export(model, example, path).bytes, deploy.session(path)
        call = lambda feed, session=session: session.run(None, feed)  # noqa: E731
        found[share] = size, call, measure.cost(model, example).macs
    feed = dict(zip([one.name for one in session.get_inputs()], [x.numpy() for x in example], strict=True))
    return found, feed


# %%
def timed(name, size, made, example):
    """A row for each share: all take turns."""
    found, feed = opened(f"{name}_{size}", made, example)
    calls = {share: call for share, (_, call, _) in found.items()}
    compared, rows = measure.compare(calls, feed, rounds=100, seconds=seconds, block=20.0), []
    for share, times in compared.timings.items():
        row = {"network": name, "size": size, "share": share, "bytes": found[share][0], "macs": found[share][2]}
        row |= {"ms": times.median, "ms_low": times.low, "ms_high": times.high}
        rows.append(row | dict(zip(("speedup", "speedup_low", "speedup_high"), compared.speedup[share], strict=True)))
    return rows


# %%
made = {1.0: encoder} | {share: compressed(encoder, text, ["blocks"], "params", share) for share in shares}
rows = [row for length in tokens for row in timed("encoder", length, made, (text[:, :length],))]

# %%
made = {1.0: detector} | {share: compressed(detector, chunk[None], None, "macs", share) for share in shares}
steps = {share: speech.Step(model) for share, model in made.items()}
rows += timed("detector", speech.CHUNK, steps, (chunk, memory, memory))

# %% [markdown]
# The real-time factor: what share of a chunk's 32 ms its answer takes.

# %%
for row in rows:
    row["gmacs_per_s"] = row["macs"] / row["ms"] / 1e6
    if row["network"] == "detector":
        row["real_time"] = row["ms"] / (1000 * speech.CHUNK / speech.RATE)
folder.cleanup()

# %%
metrics = {"rows": rows}
for row in rows:
    label = f"{row['network']}_{row['size']}_share{row['share']}"
    figures = ("ms", "speedup", "speedup_low", "speedup_high", "real_time")
    metrics |= {f"{label}_{figure}": row[figure] for figure in figures if figure in row}

# %%
told = {"profile": profile, "shares": shares, "tokens": tokens, "onnxruntime": ort.__version__}
study.record("bench-others", metrics, parameters=told, source="notebooks/experiments/bench_others", seed=seed)
print("recorded bench-others")
