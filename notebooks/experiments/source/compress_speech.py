# %% [markdown]
# # Compress a network that hears speech
#
# An experiment, not a lesson: one run gives one record. Silero VAD tells for every 32 ms of sound whether somebody speaks. It is small
# already, runs on telephones, and has an LSTM. Its layers are factored without labels and without training, and what is left is measured on
# other sounds. Nobody here trained it.
#
# `weights` names the file `silero_vad_16k_op15.onnx` of the PyPI package `silero-vad` 6.2.3 (MIT); `sounds` a folder of spoken
# prompts, 16-bit wav at 8 kHz, as Debian's package `asterisk-core-sounds-en-wav` has them (Allison Smith, CC BY-SA 3.0). Without them weights and
# sounds are drawn: every step runs, and the numbers say nothing about speech. Relative paths start from the data's folder, `data/cache/` or
# `TNLIB_DATA`.
#
# A clip is prompts with pauses between them, and noise all over. Somebody speaks in a chunk if the prompts alone are louder there than a
# thousandth of the energy of the clip's loudest chunk: that is known because we made the clips. What is left is told in four ways: right
# decisions; the area under the curve of hits against false alarms; decisions as before; the mean change of the probability.

# %% tags=["parameters"]
weights: str = ""  # a file of the published network; empty: drawn
sounds: str = ""  # a folder of wav files, 16 bits, 8 kHz, one channel; with weights only; empty: drawn
metric: str = "exact"  # "weight", "input" or "exact": the norm in which layers are factored and losses predicted
formats: list[str] = ["svd", "tucker2", "cp3"]  # to choose from in each layer
choices: list[str] = ["uniform", "allocated"]  # of ranks; uniform: svd alone
shares: list[float] = [0.5, 0.25]  # in (0, 1]; of the multiplications of all layers with weights
inputs: int = 4  # at least 1; clips to look at
clips: int = 8  # at least 1; other clips, of other prompts, to measure with
seconds: float = 2.0  # at least 1; of a clip
seed: int = 0  # decides which prompts these are, and the noise

# %%
import time
import wave
from pathlib import Path

import numpy as np
import torch
from scipy.signal import resample_poly
from scipy.stats import mannwhitneyu

from tnlib import compress, measure, paths, speech, study

# %%
if bool(weights) != bool(sounds):
    raise ValueError("weights and sounds belong together: give both, or neither")
torch.manual_seed(0)
model = speech.load_detector(paths.cache() / weights) if weights else speech.SpeechDetector().eval()
rng = np.random.default_rng(seed)
samples = int(seconds * speech.RATE)


# %%
def prompt_of(path):
    with wave.open(str(path)) as file:
        if (file.getframerate(), file.getsampwidth(), file.getnchannels()) != (8000, 2, 1):
            raise ValueError(f"{path.name} is not 16 bits, 8 kHz, one channel")
        sound = np.frombuffer(file.readframes(file.getnframes()), "<i2") / 2**15
    return resample_poly(sound, 2, 1)


# %%
def drawn_prompt():
    """A hum that swells and fades, half a second to two."""
    length = int(rng.uniform(0.5, 2) * speech.RATE)
    time = np.arange(length) / speech.RATE
    return np.sin(np.pi * time / time[-1]) * np.sin(2 * np.pi * rng.uniform(100, 300) * time).cumsum() / 30


# %% [markdown]
# The prompts are dealt: half of them for the clips to look at, the others for those to measure with.

# %%
if sounds:
    folder = paths.cache() / sounds
    prompts = [prompt_of(path) for path in sorted(folder.glob("*.wav"))]
    prompts = [sound for sound in prompts if len(sound) > 0.3 * speech.RATE]
    if len(prompts) < 2:
        raise ValueError(
            f"the folder {folder.name!r} has {len(prompts)} wav files of 0.3 s and more: at least two are needed"
        )
else:
    prompts = [drawn_prompt() for _ in range(20)]
order = rng.permutation(len(prompts))


# %%
def noise_of(level):
    """Noise whose power falls with the frequency (pink), of this root mean square."""
    waves = np.fft.rfft(rng.standard_normal(samples))
    noise = np.fft.irfft(waves / np.sqrt(np.maximum(np.arange(len(waves)), 1)), samples)
    return level * noise / np.sqrt((noise**2).mean())


# %%
def clip_of(chosen):
    """One clip, and where somebody speaks in it."""
    clean, at = np.zeros(samples), 0
    while True:
        at += int(rng.uniform(0.2, 1.0) * speech.RATE)
        if at >= samples:
            break
        sound = rng.uniform(0.3, 1) * prompts[rng.choice(chosen)][: samples - at]
        clean[at : at + len(sound)], at = sound, at + len(sound)
    energy = (clean[: samples // speech.CHUNK * speech.CHUNK].reshape(-1, speech.CHUNK) ** 2).mean(1)
    spoken = energy > 1e-3 * energy.max()
    level = np.sqrt(energy[spoken].mean()) * 10 ** (-rng.choice([0, 5, 10, 20]) / 20)  # decibels below the speech
    return clean + noise_of(level), spoken


# %%
half = len(order) // 2
made = [clip_of(order[:half]) for _ in range(inputs)] + [clip_of(order[half:]) for _ in range(clips)]
chunks = speech.chunked(torch.tensor(np.stack([clip for clip, _ in made]), dtype=torch.float32))
looked_at, heard = chunks[:inputs], chunks[inputs:]
spoken = np.stack([truth for _, truth in made[inputs:]])
print(
    f"{looked_at.shape[:2].numel()} chunks to look at, {spoken.size} to measure, somebody speaks in {spoken.mean():.0%} of these"
)

# %% [markdown]
# The transform in front has two fifths of the multiplications and no weights to choose: budgets are those of the layers behind it.

# %%
example = heard[:1, :1]
started = time.perf_counter()
curves = compress.curves(model, looked_at, formats, metric, example=example, seed=seed)
curves_seconds = time.perf_counter() - started
dense = measure.cost(model, example)
of_layers = dense.macs - model.fourier.numel() * 4
print(f"{dense.macs} multiplications a chunk, {of_layers} of them in layers with weights")


# %%
@torch.no_grad()
def probabilities(network):
    return network(heard).softmax(-1)[..., 1].double().numpy()


# %%
def measured(network, prefix):
    now = probabilities(network)
    row = {"right": ((now > 0.5) == spoken).mean(), "same": ((now > 0.5) == (original > 0.5)).mean()}
    row["area"] = mannwhitneyu(now[spoken], now[~spoken]).statistic / (spoken.sum() * (~spoken).sum())
    row["change"] = np.abs(now - original).mean()
    return {f"{prefix}_{name}": float(value) for name, value in row.items()}


# %%
original = probabilities(model)


# %%
def row_of(choice, share):
    budget = compress.Budget(macs=1 - (1 - share) * of_layers / dense.macs)
    plan = compress.Plan.of(curves, budget) if choice == "allocated" else compress.uniform(curves, budget, "svd")
    small = plan.apply(model)
    cost = measure.cost(small, example)
    row = {"choice": choice, "share": share, "layers": 1 - (dense.macs - cost.macs) / of_layers}
    row |= {"params": cost.params / dense.params, "macs": cost.macs / dense.macs}
    row["chosen"] = [[c.layer, c.format, c.rank] for c in plan.chosen.values()]
    started = time.perf_counter()
    fitted = compress.repair(small, model, looked_at)
    row["repair_seconds"] = time.perf_counter() - started
    return row | measured(small, "raw") | measured(fitted, "sequence")


# %%
rows = [row_of(choice, share) for choice in choices for share in shares]

# %% [markdown]
# The published file computes the same, chunk after chunk: the largest difference of a probability.


# %%
def difference():
    import onnxruntime

    session = onnxruntime.InferenceSession(str(paths.cache() / weights), providers=["CPUExecutionProvider"])
    state, worst = np.zeros((2, len(heard), 128), np.float32), 0.0
    for k in range(heard.shape[1]):
        feed = {"input": heard[:, k].numpy(), "state": state, "sr": np.array(speech.RATE)}
        now, state = session.run(None, feed)
        worst = max(worst, float(np.abs(now[:, 0] - original[:, k]).max()))
    return worst


# %%
metrics = {"rows": rows, "reference_difference": difference() if weights else None, "chunks": spoken.size}
metrics |= {"looked_at": looked_at.shape[:2].numel(), "spoken": float(spoken.mean()), "curves_seconds": curves_seconds}
metrics |= {"params": dense.params, "macs": dense.macs, "layer_macs": of_layers} | measured(model, "original")

# %%
told = {"weights": Path(weights).name, "sounds": Path(sounds).name, "metric": metric, "formats": formats}
told |= {"choices": choices, "shares": shares, "inputs": inputs, "clips": clips, "seconds": seconds}
study.record("compress-speech", metrics, parameters=told, source="notebooks/experiments/compress_speech", seed=seed)
print("recorded compress-speech")
