"""A network on its way out: ONNX that equals torch, for any batch; int8 near float; balanced factors; the command."""

import json
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from compress_networks import Encoder, Residual, images, seeded
from safetensors.torch import save_model
from torch import nn

from tnlib import compress, deploy, layers
from tnlib.compress import Budget
from tnlib.deploy.balance import links
from tnlib.study import cli

NETS = """
import torch
from torch import nn


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 5)

    def forward(self, x):
        return self.last(self.two(self.one(x).relu()).relu().mean((2, 3)))


class Fixed(Small):
    def forward(self, x):
        return super().forward(x) * torch.arange(2.0)[:, None]


class Wrong(Small):
    def forward(self, x):
        y = super().forward(x)
        return y if torch.compiler.is_compiling() else y + 0.01
"""
ROUND = {"rtol": 1e-4, "atol": 1e-4}


class Bottleneck(nn.Module):
    """Two chains of linear steps, and channels of very different size between their factors."""

    def __init__(self):
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 16, 3, padding=1), nn.Linear(16, 7)

    def forward(self, x):
        return self.linear(self.conv(x).relu().mean((2, 3)))


def torch_of(model, x):
    with torch.no_grad():
        return model(x)


def factorized(format, rank, linear=4):
    model = seeded(Bottleneck)
    model.conv = layers.factorize(model.conv, format, rank)
    model.linear = layers.factorize(model.linear, "svd", linear)
    return model


def spread(model):
    """The same network, its rank channels scaled by factors from 1/30 to 30."""
    for chain in (model.conv, model.linear):
        factors = chain.factors()
        scale = torch.logspace(-1.5, 1.5, factors[0].shape[0])
        with torch.no_grad():
            factors[0].mul_(scale.view(-1, *[1] * (factors[0].ndim - 1)))
            factors[1].div_(
                scale.view(*((-1, 1) if factors[1].shape[1] == 1 else (1, -1)), *[1] * (factors[1].ndim - 2))
            )
    return model


@pytest.mark.parametrize("format", [None, "svd", "spatial_svd", "tucker2", "cp", "cp3", "tt", "ttm"])
def test_every_format_computes_in_onnx_what_it_computes_in_torch(format, tmp_path):
    model = seeded(Residual)
    if format is not None:
        for name in ("stem", "twice", "dilated"):
            model.set_submodule(name, layers.factorize(model.get_submodule(name), format, share=0.6))
    path = tmp_path / "n.onnx"
    done = deploy.export(model, images(1), path, inputs=images(150, 3))
    assert done.difference <= 1e-4 * max(1, done.largest)
    assert (done.same, done.samples, done.bytes) == (150, 150, path.stat().st_size)
    session = deploy.session(path)
    assert isinstance(session.get_inputs()[0].shape[0], str)
    for number in (1, 2, 9):
        x = images(number, number)
        torch.testing.assert_close(deploy.outputs(session, x)[0], torch_of(model, x), **ROUND)
    proto = onnx.load(path)
    assert proto.opset_import[0].version == done.opset
    assert not any(one.external_data for one in proto.graph.initializer)
    assert not any(node.metadata_props or node.doc_string for node in proto.graph.node)
    assert {"twice", "head"} <= {node.name.rpartition("/")[0].partition(".layer")[0] for node in proto.graph.node}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("format", "lanes"),
    [("cp3", 1), ("cp3", 3), *((format, 8) for format in ("svd", "spatial_svd", "tucker2", "cp", "tt"))],
)
def test_channels_between_factors_are_padded_to_whole_lanes(format, lanes, tmp_path):
    model = seeded(Residual)
    for name in ("stem", "twice", "dilated"):
        model.set_submodule(name, layers.factorize(model.get_submodule(name), format, share=0.6))
    deploy.export(model, images(1), tmp_path / "n.onnx", lanes=lanes)
    graph = onnx.load(tmp_path / "n.onnx").graph
    shapes = {one.name: tuple(one.dims) for one in graph.initializer}
    for name in ("stem", "dilated"):
        chain = [node for node in graph.node if node.op_type == "Conv" and node.name.startswith(f"{name}/")]
        ranks = [shapes[node.input[1]][0] for node in chain[:-1]]
        stages = layers.freeze(model, images(1), portable=True).get_submodule(name)
        own = [len(stages.get_buffer(f"kernel_{k}")) for k in range(len(ranks))]
        assert ranks == [-(-rank // lanes) * lanes for rank in own]
        assert shapes[chain[-1].input[1]][0] == len(model.get_submodule(name).weight)
    x = images(4, 4)
    torch.testing.assert_close(deploy.outputs(deploy.session(tmp_path / "n.onnx"), x)[0], torch_of(model, x), **ROUND)


def test_int8_of_padded_factors_is_int8_of_the_factors(tmp_path):
    model, x, found = factorized("cp3", 5), images(60, 1), {}
    for lanes in (1, 8):
        paths = [tmp_path / f"{kind}{lanes}.onnx" for kind in ("float", "int8")]
        deploy.export(model, images(1), paths[0], lanes=lanes)
        deploy.quantize(paths[0], x, paths[1])
        found[lanes] = deploy.outputs(deploy.session(paths[1]), x)[0]
    exact = torch_of(model, x)
    wrong = {lanes: float((y - exact).norm() / exact.norm()) for lanes, y in found.items()}
    assert wrong[8] < 1.1 * wrong[1] + 1e-3


def test_keyword_arguments(tmp_path):
    model, x = seeded(Encoder), torch.randn(4, 6, 16, generator=torch.Generator().manual_seed(0))
    call = {"x": x, "mask": torch.zeros(4, 6, dtype=torch.bool)}
    done = deploy.export(model, call, tmp_path / "n.onnx", inputs=[call])
    assert done.samples == done.same == 4


def test_a_network_that_differs_or_takes_one_batch_alone_leaves_no_file(tmp_path):
    class Other(Bottleneck):
        def forward(self, x):
            y = super().forward(x)
            return y if torch.compiler.is_compiling() else y + 1e-2

    class Fixed(Bottleneck):
        def forward(self, x):
            return super().forward(x) * torch.arange(2.0)[:, None]

    with pytest.raises(deploy.ParityError, match=r"differs from torch by 0.01"):
        deploy.export(seeded(Other), images(2), tmp_path / "n.onnx")
    with pytest.raises(ValueError, match="any number of samples"):
        deploy.export(seeded(Fixed), images(2), tmp_path / "n.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("format", "rank", "places"), [("spatial_svd", 6, 2), ("cp3", 8, 3), ("tucker2", (6, 3), 3)])
def test_balanced_factors_have_equal_ranges_and_the_same_product(format, rank, places, tmp_path):
    model = spread(factorized(format, rank))
    deploy.export(model, images(2), tmp_path / "n.onnx")
    proto = onnx.load(tmp_path / "n.onnx")
    balanced, count = deploy.balance(proto)
    assert count == places == len(links(proto))
    before, after = (deploy.session(one.SerializeToString()) for one in (proto, balanced))
    want, got = (deploy.outputs(one, images(20, 1))[0] for one in (before, after))
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    weights = {one.name: onnx.numpy_helper.to_array(one) for one in balanced.graph.initializer}
    for link in links(balanced):
        into, out = (weights[node.input[1]] for node in (link.before, link.after))
        if link.before.op_type != "Conv":
            into, out = (w if node.attribute else w.T for w, node in ((into, link.before), (out, link.after)))
        into = np.abs(into).reshape(len(into), -1).max(1)
        out = np.abs(out).reshape(*out.shape[:2], -1).max(-1)
        np.testing.assert_allclose(into, out[:, 0] if out.shape[1] == 1 else out.max(0), rtol=0.02)


def test_int8_is_near_float_and_balanced_factors_are_what_brings_it_there(tmp_path):
    model = spread(factorized("cp3", 12, linear=7))
    seen, x = images(200, 1), images(200, 2)
    path = tmp_path / "n.onnx"
    deploy.export(model, images(1), path)
    want = torch_of(model, x)
    apart = {}
    for balanced in ("none", "weights", "activations"):
        done = deploy.quantize(path, seen, tmp_path / f"{balanced}.onnx", balanced=balanced)
        assert done.nodes == (5, 5)
        assert done.balanced == (0 if balanced == "none" else 3)
        got = deploy.outputs(deploy.session(done.path), x)[0]
        apart[balanced] = float((got - want).norm() / (want - want.mean(0)).norm())
    assert max(apart["weights"], apart["activations"]) < 0.3
    assert max(apart["weights"], apart["activations"]) < 0.7 * apart["none"]


def test_int8_is_computed_in_integers_not_read_back_and_convolved_in_float(tmp_path):
    """With signed values between nodes x86 processors did that to every convolution before a ReLU."""
    deploy.export(seeded(Residual), images(1), tmp_path / "n.onnx")
    done = deploy.quantize(tmp_path / "n.onnx", images(20), tmp_path / "i.onnx")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "run.onnx"), 3
    onnxruntime.InferenceSession(str(done.path), options, providers=["CPUExecutionProvider"])
    run_as = [node.op_type for node in onnx.load(str(tmp_path / "run.onnx")).graph.node]
    assert run_as.count("QLinearConv") > 2
    assert not {"Conv", "FusedConv", "Add"} & set(run_as)


def test_what_is_skipped_stays_in_float(tmp_path):
    path = tmp_path / "n.onnx"
    deploy.export(factorized("spatial_svd", 6), images(1), path)
    done = deploy.quantize(path, [images(20)], tmp_path / "i.onnx", skip=["conv"], per_channel=False, weight_bits=8)
    assert done.nodes == (4, 2)
    with pytest.raises(ValueError, match=r"no node of a module 'con' .* conv"):
        deploy.quantize(path, images(20), tmp_path / "j.onnx", skip=["con"])
    with pytest.raises(ValueError, match="expected one of none, weights, activations, got 'both'"):
        deploy.quantize(path, images(20), tmp_path / "j.onnx", balanced="both")
    assert not (tmp_path / "j.onnx").exists()


def test_hits_and_accuracy_count_in_batches(tmp_path):
    model, x = seeded(Bottleneck), images(25)
    deploy.export(model, images(1), tmp_path / "n.onnx")
    labels = torch_of(model, x).argmax(1)
    labels[3] = (labels[3] + 1) % 7
    right = deploy.hits(tmp_path / "n.onnx", x, labels, batch=10)
    assert right.tolist() == [k != 3 for k in range(25)]
    assert deploy.accuracy(deploy.session(tmp_path / "n.onnx", fused=False), x, labels) == 24 / 25


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder, with a module of networks, weights, and inputs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "somebodys", raising=False)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "somebodys.py").write_text(NETS)
    np.save("inputs.npy", images(30).numpy())
    yield tmp_path
    sys.modules.pop("somebodys", None)


def run(command):
    return cli.main(command.split())


def test_compress_writes_onnx_and_export_reads_its_folder(here, capsys):
    sys.path.insert(0, str(here))
    import somebodys

    sys.path.pop(0)
    save_model(seeded(somebodys.Small), "w.safetensors")
    command = "compress somebodys:Small --weights w.safetensors --inputs inputs.npy --budget params=0.7 --out small"
    assert run(f"{command} --onnx") == 0
    shown = capsys.readouterr().out
    assert "opset 20, any number of samples" in shown
    assert "parity with torch on the inputs of inputs.npy: largest difference" in shown
    assert "same top-1 on 30 of 30" in shown
    assert {"network.onnx", "run_onnx.py", "weights.safetensors"} < {path.name for path in (here / "small").iterdir()}
    assert run("export small") == 2
    assert "small has network.onnx: choose another folder, or replace it with --force" in capsys.readouterr().err
    assert run("export small --force --int8 --inputs inputs.npy --skip last") == 0
    shown = capsys.readouterr().out
    assert "network.int8.onnx: " in shown
    assert shown.endswith("run it: python small/run_onnx.py inputs.npy\n")
    assert run("export small --out there --lanes 1") == 0
    assert (here / "there" / "network.onnx").stat().st_size <= (here / "small" / "network.onnx").stat().st_size
    assert "64 random inputs, since no others were given" in capsys.readouterr().out
    before = {path.name for path in (here / "small").iterdir()}
    assert run(f"{command} --force") == 0
    assert before - {path.name for path in (here / "small").iterdir()} == {
        "network.onnx",
        "network.int8.onnx",
        "run_onnx.py",
    }, "an ONNX network of other weights does not stay beside these"
    report = json.loads((here / "small" / "report.json").read_text())
    assert report["network"] == "somebodys:Small"


def test_the_loader_needs_onnxruntime_and_numpy_alone(here):
    assert run("export somebodys:Small --example 1,3,9,9 --out made") == 0
    code = (
        "import sys\nsys.modules.update(dict.fromkeys(('torch', 'onnx', 'tnlib', 'safetensors')))\n"
        "sys.path.insert(0, 'made')\nfrom run_onnx import run\nimport numpy as np\n"
        "np.save('out.npy', run(np.load('inputs.npy'))[0])"
    )
    subprocess.run([sys.executable, "-c", code], cwd=here, check=True, capture_output=True)
    session = onnxruntime.InferenceSession("made/network.onnx", providers=["CPUExecutionProvider"])
    (want,) = session.run(None, {session.get_inputs()[0].name: np.load("inputs.npy")})
    np.testing.assert_allclose(np.load("out.npy"), want, rtol=1e-5, atol=1e-6)
    done = subprocess.run(
        [sys.executable, "made/run_onnx.py", "inputs.npy"], cwd=here, check=True, capture_output=True, text=True
    )
    assert "tensor(float)" in done.stdout
    assert done.stdout.count("\n") > 30


WRONG = {
    "export nowhere --out made": (2, "unknown model 'nowhere'"),
    "export somebodys:Small --example 1,3,9,9": (2, "somebodys:Small needs --out"),
    "export somebodys:Small --out made": (2, "needs --inputs, or the shape of its one input"),
    "export somebodys:Small --out made --example 1,2,9,9": (2, "does not run on inputs of shape (1, 2, 9, 9)"),
    "export somebodys:Small --out made --example 1,3,9,9 --int8": (2, "--int8 needs --inputs"),
    "export somebodys:Small --out made --inputs inputs.npy --skip one": (2, "are for --int8"),
    "export somebodys:Small --out made --inputs inputs.npy --int8 --skip three": (2, "no node of a module 'three'"),
    "export somebodys:Small --out made --inputs inputs.npy --lanes 0": (2, "0 is not in the range x>=1"),
    "export somebodys:Fixed --out made --inputs inputs.npy": (2, "cannot be exported for any number of samples: "),
    "export somebodys:Wrong --out made --inputs inputs.npy": (1, "the ONNX network differs from torch by 0.01"),
    "export empty": (2, "empty has no report.json; expected a folder that tnlib compress wrote"),
    "compress somebodys:Wrong --inputs inputs.npy --budget params=0.7 --onnx --out made": (1, "differs from torch by"),
}


@pytest.mark.parametrize("command", WRONG)
def test_a_mistake_gets_one_sentence_and_leaves_nothing(command, here, capsys):
    (here / "empty").mkdir()
    files = sorted(here.rglob("*"))
    status, text = WRONG[command]
    assert run(command) == status
    error = capsys.readouterr().err
    assert text in error
    assert error.startswith("tnlib: ")
    assert error.count("\n") == 1
    assert sorted(here.rglob("*")) == files


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
@pytest.mark.parametrize("command", ["export", "compress --budget params=0.7 --onnx"])
def test_without_the_extra_the_command_says_what_to_install(command, package, here, monkeypatch, capsys):
    for name in [name for name in sys.modules if name.startswith("tnlib.deploy")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    assert run(f"{command} somebodys:Small --example 1,3,9,9 --out made") == 1
    wanted = f"tnlib: ONNX needs {package}, which is not installed: pip install 'tnlib[deploy]'\n"
    assert capsys.readouterr().err == wanted
    assert not (here / "made").exists()


def test_a_plan_exported_keeps_its_size(tmp_path):
    """Nothing is multiplied out on the way, nor padded, unless it is asked for."""
    model = seeded(Residual)
    plan = compress.plan(model, images(20), Budget(params=0.6), formats=("svd", "cp3"))
    deploy.export(plan.apply(model), images(1), tmp_path / "n.onnx", lanes=1)
    held = onnx.load(tmp_path / "n.onnx").graph.initializer
    numbers = sum(int(np.prod(one.dims)) for one in held if one.data_type == onnx.TensorProto.FLOAT)
    assert numbers <= plan.cost["params"] + 24
