"""The detector of speech, with drawn weights: torch's own LSTM cell and transform as oracles, chunks, files."""

import sys
from importlib.util import find_spec

import pytest
import torch
from torch import nn

from tnlib import compress, measure, speech

needs_onnx = pytest.mark.skipif(find_spec("onnx") is None, reason="needs the extra `deploy`")
# Of the published file, written out once more: what each of its weights is called, and ours.
PUBLISHED = {
    "model.stft.forward_basis_buffer": "fourier",
    "model.decoder.rnn.weight_ih": "gates.weight",
    "model.decoder.rnn.weight_hh": "memory.weight",
    "model.decoder.rnn.bias_ih": "gates.bias",
    "model.decoder.rnn.bias_hh": "memory.bias",
    "model.decoder.decoder.2.weight": "last.weight",
    "model.decoder.decoder.2.bias": "last.bias",
    **{
        f"model.encoder.{k}.reparam_conv.{kind}": f"convolutions.{k}.{kind}"
        for k in range(4)
        for kind in ("weight", "bias")
    },
}


def drawn(seed=0):
    """A detector in float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return speech.SpeechDetector().double().eval().requires_grad_(False)


def sound(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_it_is_torchs_lstm_cell_behind_torchs_convolutions():
    model, chunks = drawn(), speech.chunked(sound(3, 5 * 512))
    cell = nn.LSTMCell(128, 128).double()
    state = {"weight_ih": model.gates.weight, "weight_hh": model.memory.weight}
    cell.load_state_dict(state | {"bias_ih": model.gates.bias, "bias_hh": model.memory.bias})
    h = c = torch.zeros(3, 128, dtype=torch.float64)
    for k in range(5):
        wave = nn.functional.pad(chunks[:, k], (0, 64), mode="reflect")
        window = torch.hann_window(256, dtype=torch.float64)
        x = torch.stft(wave, 256, 128, window=window, center=False, return_complex=True).abs()
        for convolution, stride in zip(model.convolutions, (1, 2, 2, 1), strict=True):
            x = nn.functional.conv1d(x, convolution.weight, convolution.bias, stride, 1).relu()
        h, c = cell(x[..., 0], (h, c))
        probability = model.last(h.relu()).sigmoid()[:, 0]
        assert torch.allclose(model(chunks).softmax(-1)[:, k, 1], probability, atol=1e-6)  # the transform is in float32


def test_step_by_step_is_all_at_once():
    model, chunks = drawn(1), speech.chunked(sound(2, 7 * 512, seed=1))
    h = c = torch.zeros(2, 128, dtype=torch.float64)
    step = speech.Step(model)
    for k, wanted in enumerate(model(chunks).unbind(1)):
        logits, h, c = step(chunks[:, k], h, c)
        assert torch.allclose(logits, wanted, atol=1e-12), k
    assert not wanted[:, 0].any()


def test_chunks_look_back():
    wave = torch.arange(1100.0)[None]
    chunks = speech.chunked(wave)
    assert chunks.shape == (1, 2, 576)
    assert torch.equal(chunks[0, 0], torch.cat([torch.zeros(64), wave[0, :512]]))
    assert torch.equal(chunks[0, 1], wave[0, 512 - 64 : 1024])
    with pytest.raises(ValueError, match="at least 512 samples, got 511"):
        speech.chunked(wave[:, :511])


def test_sizes():
    model = drawn()
    cost = measure.cost(model, sound(1, 1, 576))
    layers = 4 * 3 * 129 * 128 + 2 * 3 * 128 * 64 + 3 * 64 * 64 + 3 * 64 * 128 + 2 * 128 * 512 + 128
    assert cost.macs == 4 * 258 * 256 + layers
    assert cost.params == sum(p.numel() for p in model.parameters())


def test_both_parts_of_the_lstm_are_compressed():
    model, chunks = drawn(), speech.chunked(sound(2, 6 * 512))
    curves = compress.curves(model, chunks, ["svd"], "exact", example=chunks[:1, :1])
    small = compress.Plan.of(curves, compress.Budget(macs=0.6)).apply(model)
    assert measure.cost(small, chunks[:1, :1]).macs <= 0.6 * measure.cost(model, chunks[:1, :1]).macs
    repaired = compress.repair(small, model, chunks)
    assert small.gates.rank < 128
    assert small.memory.rank < 128
    assert not torch.equal(repaired.gates.dense_weight(), small.gates.dense_weight())
    assert torch.equal(repaired.memory.dense_weight(), small.memory.dense_weight())  # called for every chunk: left


def published(path, model, **changed):
    """A file as published, of weights alone."""
    import onnx

    state = model.state_dict()
    given = {name: state[ours].float().numpy() for name, ours in PUBLISHED.items()}
    given["model.decoder.decoder.2.weight"] = given["model.decoder.decoder.2.weight"][..., None]
    given |= {name.replace("_dot_", "."): value for name, value in changed.items()}
    held = [onnx.numpy_helper.from_array(value, name) for name, value in given.items() if value is not None]
    graph = onnx.helper.make_graph([], "detector", [], [], initializer=held)
    onnx.save(onnx.helper.make_model(graph), str(path))
    return path


@needs_onnx
def test_the_published_file_is_read(tmp_path):
    model, chunks = drawn(), speech.chunked(sound(1, 4 * 512))
    loaded = speech.load_detector(published(tmp_path / "vad.onnx", model))
    assert torch.allclose(loaded(chunks.float()).double(), model(chunks), atol=1e-5)
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())


@needs_onnx
def test_files_that_are_no_detector(tmp_path):
    with pytest.raises(ValueError, match=r"no file 'none\.onnx': give the path of silero_vad_16k_op15\.onnx"):
        speech.load_detector(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("not a network")
    with pytest.raises(ValueError, match=r"'text\.onnx' holds another network"):
        speech.load_detector(tmp_path / "text.onnx")
    name = "model.decoder.rnn.weight_hh"
    lacking = {name.replace(".", "_dot_"): None}
    with pytest.raises(ValueError, match=r"another network than Silero VAD's at 16 kHz: 'model\.decoder\.rnn"):
        speech.load_detector(published(tmp_path / "lacking.onnx", drawn(), **lacking))
    wide = {name.replace(".", "_dot_"): sound(512, 129).float().numpy()}
    with pytest.raises(ValueError, match="another network than Silero VAD's at 16 kHz: shape"):
        speech.load_detector(published(tmp_path / "wide.onnx", drawn(), **wide))


def test_files_need_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install '\.\[deploy\]'"):
        speech.load_detector(tmp_path / "vad.onnx")
