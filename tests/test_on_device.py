"""The script for small machines: without torch, inside a memory limit, one record; what it cannot do in one line."""

import runpy
import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tnlib import study
from tnlib.deploy import on_device
from tnlib.study import store

WIDTH, RANK, CLASSES = 3000, 4, 10


def network(path, *weights, inputs=1, kind=TensorProto.FLOAT):
    """A chain of products with matrices (inputs, outputs), which takes `inputs` inputs and reads the first."""
    names = [f"w{n}" for n in range(len(weights))]
    values = ["x", *(f"h{n}" for n in range(1, len(weights))), "y"]
    nodes = [helper.make_node("MatMul", [values[n], names[n]], [values[n + 1]]) for n in range(len(weights))]
    entries = [helper.make_tensor_value_info(name, kind, ["n", len(weights[0])]) for name in ("x", "other")[:inputs]]
    end = helper.make_tensor_value_info("y", kind, ["n", weights[-1].shape[1]])
    held = [numpy_helper.from_array(w, name) for w, name in zip(weights, names, strict=True)]
    opset = [helper.make_opsetid("", 20)]
    proto = helper.make_model(helper.make_graph(nodes, "g", entries, [end], held), opset_imports=opset, ir_version=9)
    onnx.save(proto, path)
    return path


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


FACTORS = drawn(64, WIDTH), drawn(WIDTH, RANK), drawn(RANK, WIDTH, seed=1), drawn(WIDTH, CLASSES, seed=2)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder as on a small machine: the script and a network of low rank."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(on_device, "_alone", lambda: None)  # this process keeps its cores
    shutil.copy(on_device.__file__, tmp_path / "on_device.py")
    network("small.onnx", *FACTORS)
    return tmp_path


def run(*words):
    """The script in a process of its own, in which torch, onnx and tnlib cannot be imported."""
    code = "import runpy, sys\nsys.modules.update(dict.fromkeys(('torch', 'onnx', 'tnlib', 'scipy')))\n"
    code += "runpy.run_path('on_device.py', run_name='__main__')"
    return subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, check=False)


def test_a_limit_that_the_dense_network_fails_and_the_compressed_one_passes(here):
    """36 MB of weights cannot be held in 20; a hundredth of them can."""
    network("dense.onnx", FACTORS[0], FACTORS[1] @ FACTORS[2], FACTORS[3])
    x = drawn(33, 64, seed=3)
    labels = (((x.astype(float) @ FACTORS[0]) @ FACTORS[1]) @ FACTORS[2] @ FACTORS[3]).argmax(1)
    labels[:3] = (labels[:3] + 1) % CLASSES
    np.savez("images.npz", images=x, labels=labels)
    dense = run("dense.onnx", "--memory-limit", 20, "--out", "records")
    assert (dense.returncode, dense.stdout) == (on_device.TOO_LARGE, "")
    assert dense.stderr == "on_device: dense.onnx needs more memory than the limit of 20 MB leaves\n"
    small = run("small.onnx", "--memory-limit", 20, "--out", "records", "--images", "images.npz", "--batch", 8)
    assert (small.returncode, small.stderr) == (0, "")
    assert run("dense.onnx", "--repeat", 2, "--out", "records").returncode == 0
    (path, found), (_, free) = sorted(
        store.read_all(here / "records"), key=lambda pair: pair[1]["parameters"]["model"], reverse=True
    )
    assert str(path.relative_to(here)) in small.stdout
    assert found["parameters"]["memory_limit_mb"] == 20
    assert (found["parameters"]["batch"], found["parameters"]["images"]) == (8, "images.npz")
    assert found["metrics"]["accuracy"] == pytest.approx(30 / 33)
    assert found["metrics"]["test_images"] == 33
    assert found["machine"]["threads"] == 1
    assert set(found["versions"]) == {"python", "numpy", "onnxruntime", "on_device"}
    for metrics in (found["metrics"], free["metrics"]):
        assert metrics["cold_ms"] == pytest.approx(metrics["open_ms"] + metrics["first_call_ms"])
        assert 0 < metrics["warm_ms_low"] <= metrics["warm_ms"] <= metrics["warm_ms_high"]
        assert 0 < metrics["before_mb"] <= metrics["before_peak_mb"] <= metrics["peak_mb"]
    assert found["metrics"]["file_bytes"] == (here / "small.onnx").stat().st_size
    # The weights are in memory at least once, beside what the small network takes.
    taken = [m["peak_mb"] - m["before_peak_mb"] for m in (free["metrics"], found["metrics"])]
    assert taken[0] > 4 * WIDTH**2 / 1e6
    assert taken[1] < 20 < taken[0]


def test_its_records_are_records(here, capsys):
    for seconds in range(2):
        assert on_device.main(["small.onnx", "--repeat", "3", "--out", "records"]) == 0, seconds
    frame = study.results("on-device", here / "records")
    assert len(frame) == 2
    assert set(frame["parameters.model_sha256"].str.len()) == {64}
    assert "accuracy" not in capsys.readouterr().out
    path = next((here / "records").glob("*.json"))
    path.write_text(path.read_text().replace('"file_bytes": ', '"file_bytes": 1'))
    with pytest.raises(store.DamagedRecordError, match="its content was changed"):
        store.read(path)


WRONG = {
    "nothing.onnx": "no file nothing.onnx",
    "text.onnx": "text.onnx does not run: ",
    "two.onnx": "two.onnx does not run: it takes 2 inputs, expected one",
    "bytes.onnx": "inputs of type tensor(int64) need --images",
    "small.onnx --images nothing.npz": "no file nothing.npz",
    "small.onnx --images text.npz": "text.npz is no .npy or .npz of samples: ",
    "small.onnx --images pickled.npy": "pickled.npy is no .npy or .npz of samples: ",
    "small.onnx --images other.npz": "it has x, and no `images`",
    "small.onnx --images apart.npz": "apart.npz has 5 samples and labels of shape (4,)",
    "small.onnx --images narrow.npy": "small.onnx does not run: ",
    "small.onnx --images empty.npy": "empty.npy has no samples",
    "small.onnx --batch 0": "--batch is at least 1, and --repeat 2",
    "small.onnx --repeat 1": "--batch is at least 1, and --repeat 2",
    "small.onnx --memory-limit -1": "--memory-limit is in MB, got -1",
}


@pytest.mark.parametrize("command", WRONG)
def test_a_mistake_gets_one_line_and_no_record(command, here, capsys):
    (here / "text.onnx").write_text("no network")
    (here / "text.npz").write_text("no samples")
    network("two.onnx", drawn(4, 3), inputs=2)
    network("bytes.onnx", np.eye(4, 3, dtype=np.int64), kind=TensorProto.INT64)
    np.save("pickled.npy", np.array([{}], dtype=object))
    np.savez("other.npz", x=drawn(4, 64))
    np.savez("apart.npz", images=drawn(5, 64), labels=np.zeros(4, int))
    np.save("narrow.npy", drawn(4, 63))
    np.save("empty.npy", drawn(0, 64))
    assert on_device.main([*command.split(), "--out", "records"]) == on_device.WRONG
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("on_device: ")
    assert WRONG[command] in shown.err
    assert shown.err.count("\n") == 1
    assert not (here / "records").exists()


def test_without_linux_there_is_no_limit_but_all_the_rest(here, monkeypatch, capsys):
    monkeypatch.setattr(on_device, "_status", lambda name: None)
    monkeypatch.setitem(sys.modules, "resource", None)
    assert on_device.main(["small.onnx", "--memory-limit", "20"]) == on_device.WRONG
    assert capsys.readouterr().err == "on_device: --memory-limit needs Linux\n"
    assert on_device.main(["small.onnx"]) == 0
    shown = capsys.readouterr().out
    assert "warm_ms" in shown
    assert "peak_mb" not in shown


def test_help_without_anything_installed(here, monkeypatch, capsys):
    for name in ("numpy", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(sys, "argv", ["on_device.py", "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path("on_device.py", run_name="__main__")
    assert ended.value.code == 0
    assert "--memory-limit" in capsys.readouterr().out
