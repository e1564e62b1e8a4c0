"""A detector of speech, for readers who have its weights (Silero VAD): the workbook brings none."""

from __future__ import annotations

import importlib
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

RATE = 16_000  # samples a second
CHUNK, CONTEXT = 512, 64  # new samples of an answer, 32 ms; samples before them that are looked at, too
_WINDOW, _HOP, _BINS, _STATE = 256, 128, 129, 128
# Of the four convolutions: inputs, outputs, stride.
_CONVOLUTIONS = ((_BINS, 128, 1), (128, 64, 2), (64, 64, 2), (64, 128, 1))
# Our name of a module, and what begins its weights' names in the published file.
_PUBLISHED = {"": "model.stft.", "last": "model.decoder.decoder.2."}
_PUBLISHED |= {f"convolutions.{k}": f"model.encoder.{k}.reparam_conv." for k in range(4)}
_PUBLISHED |= dict.fromkeys(("gates", "memory"), "model.decoder.rnn.")


class SpeechDetector(nn.Module):
    """Chunks of sound to two logits each, no speech and speech: the network of Silero VAD 6 at 16 kHz.

    The size of a short-time Fourier transform, four convolutions along time, an LSTM (Hochreiter and Schmidhuber 1997),
    one linear layer. The LSTM is two linear layers, `gates` for what a chunk brings and `memory` for what is
    remembered, so that each can be factorized like any other. The first logit is zero. Weights are drawn by torch's
    generator; the transform's are what they are.
    """

    fourier: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("fourier", _fourier())
        self.convolutions = nn.ModuleList(
            nn.Conv1d(before, after, 3, stride, padding=1) for before, after, stride in _CONVOLUTIONS
        )
        self.gates, self.memory = nn.Linear(128, 4 * _STATE), nn.Linear(_STATE, 4 * _STATE)
        self.last = nn.Linear(_STATE, 1)

    def forward(self, chunks: Tensor) -> Tensor:
        """(N, T, 576), T chunks of each of N sounds one after the other (`chunked`), to logits (N, T, 2)."""
        gates = self.gates(self.features(chunks.flatten(0, 1))).unflatten(0, chunks.shape[:2])
        h = c = chunks.new_zeros(len(chunks), _STATE)
        heard = []
        for now in gates.unbind(1):
            h, c = self._remember(now, h, c)
            heard.append(h)
        return self._logits(torch.stack(heard, 1))

    def step(self, chunk: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One chunk of each sound, (N, 576), and what is remembered, twice (N, 128): logits (N, 2), and both anew."""
        h, c = self._remember(self.gates(self.features(chunk)), h, c)
        return self._logits(h), h, c

    def features(self, chunk: Tensor) -> Tensor:
        """(N, 576) to (N, 128): all that comes before the LSTM."""
        wave = F.pad(chunk, (0, CONTEXT), mode="reflect")[:, None]
        real, imaginary = F.conv1d(wave, self.fourier, stride=_HOP).split(_BINS, 1)
        x: Tensor = (real.square() + imaginary.square()).sqrt()
        for convolution in self.convolutions:
            x = convolution(x).relu()
        return x.squeeze(-1)

    def _remember(self, now: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        enter, keep, new, show = (now + self.memory(h)).chunk(4, -1)
        c = keep.sigmoid() * c + enter.sigmoid() * new.tanh()
        return show.sigmoid() * c.tanh(), c

    def _logits(self, h: Tensor) -> Tensor:
        speech = self.last(h.relu())
        return torch.cat([torch.zeros_like(speech), speech], -1)


class Step(nn.Module):
    """`SpeechDetector.step` as a module of its own, for a sound that is still coming in."""

    def __init__(self, detector: SpeechDetector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, chunk: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `SpeechDetector.step`."""
        return self.detector.step(chunk, h, c)


def _fourier() -> Tensor:
    """(258, 1, 256): real and imaginary part of the lowest 129 frequencies of a sound in a periodic Hann window."""
    time = torch.arange(_WINDOW, dtype=torch.float64)
    angle = 2 * math.pi / _WINDOW * torch.arange(_BINS, dtype=torch.float64)[:, None] * time
    waves = torch.cat([angle.cos(), -angle.sin()]) * torch.hann_window(_WINDOW, dtype=torch.float64)
    return waves[:, None].float()


def chunked(sound: Tensor) -> Tensor:
    """Sounds (N, samples) to (N, T, 576): chunks of 512, each behind the 64 samples before it; the first behind zeros.

    Samples at the end that do not fill a chunk are left out. ValueError for a sound shorter than one.
    """
    number = sound.shape[-1] // CHUNK
    if not number:
        raise ValueError(f"a sound has at least {CHUNK} samples, got {sound.shape[-1]}")
    return F.pad(sound[..., : number * CHUNK], (CONTEXT, 0)).unfold(-1, CHUNK + CONTEXT, CHUNK)


def load_detector(path: str | Path) -> SpeechDetector:
    """The published network, in eval mode. Needs the extra `deploy`.

    Args:
        path: of `silero_vad_16k_op15.onnx`, which the PyPI package `silero-vad` 6.2.3 has in its folder `data`.
            (`silero_vad_16k.safetensors` beside it holds the weights of another release.)

    Raises:
        ValueError: a file that is missing, or of another network.
        ModuleNotFoundError: without the package `onnx`.
    """
    try:
        onnx = importlib.import_module("onnx")
    except ModuleNotFoundError:
        raise ModuleNotFoundError("a detector of speech is read by the package onnx: pip install '.[deploy]'") from None
    path, model, state = Path(path), SpeechDetector(), {}
    if not path.is_file():
        raise ValueError(f"there is no file {path.name!r}: give the path of silero_vad_16k_op15.onnx")
    broken = importlib.import_module("google.protobuf.message").DecodeError
    try:
        graph = onnx.load(str(path)).graph
        given = {one.name: torch.from_numpy(onnx.numpy_helper.to_array(one).copy()) for one in graph.initializer}
        for name, place in model.state_dict().items():
            module, _, kind = name.rpartition(".")
            published = _PUBLISHED[module] + (kind if module else "forward_basis_buffer")
            published += {"gates": "_ih", "memory": "_hh"}.get(module, "")
            state[name] = given[published].reshape(place.shape)
    except (KeyError, RuntimeError, broken) as error:
        raise ValueError(f"{path.name!r} holds another network than Silero VAD's at 16 kHz: {error}") from None
    model.load_state_dict(state)
    return model.requires_grad_(False).eval()
