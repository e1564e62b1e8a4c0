"""`tnlib compress`: a network in, a folder with a smaller one out that loads, is what the report says, or nothing."""

import json
import re
import runpy
import shlex
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file, save_model
from torch import nn

from tnlib import compress, data, layers, measure, models
from tnlib.compress import Budget
from tnlib.compress.curves import CLOSED
from tnlib.study import cli, compress_command, compressing, given, result_folder

NETS = """
import torch
from torch import nn


class Images(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.second, self.last = nn.Conv2d(12, 12, 3, padding=1), nn.Linear(12, 5)
        self.add_module("<b>&", nn.Linear(5, 5))

    def forward(self, x):
        return self.get_submodule("<b>&")(self.last(self.second(self.norm(self.first(x)).relu()).mean((2, 3))))


class Sequences(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True)
        self.encoder, self.out = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False), nn.Linear(16, 5)

    def forward(self, x, *, mask=None):
        return self.out(self.encoder(x, src_key_padding_mask=mask).mean(1))


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.mix, self.head = nn.Embedding(30, 12), nn.Linear(12, 12), nn.Linear(12, 30, bias=False)
        self.norm, self.head.weight = nn.BatchNorm1d(12), self.embed.weight

    def forward(self, tokens):
        return self.head(self.norm(self.mix(self.embed(tokens)).mean(1)))


class Noisy(nn.Linear):
    def __init__(self):
        super().__init__(9, 9)
        self.register_buffer("noise", torch.rand(9), persistent=False)


def not_a_network():
    return 3


def with_argument(width):
    return nn.Linear(width, width)


def raising():
    raise RuntimeError("two\\nlines")


def not_finite():
    layer = nn.Linear(9, 9)
    nn.init.constant_(layer.weight, float("nan"))
    return layer


def plain():
    return nn.Linear(20, 20)
"""
RNG = np.random.default_rng(0)
IMAGES = RNG.standard_normal((40, 3, 9, 9))
SEQUENCES = RNG.standard_normal((6, 7, 16))
MASK = np.zeros((6, 7), dtype=bool)
TOKENS = RNG.integers(0, 30, (12, 4))


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder, with a module of networks, weights, and inputs of all kinds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "somebodys", raising=False)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "somebodys.py").write_text(NETS)
    for name in ("Images", "Sequences", "Words"):
        torch.manual_seed(1)
        save_model(runpy.run_path("somebodys.py")[name]().double().float(), f"{name}.safetensors")
    np.savez("images.npz", IMAGES)
    np.savez("one.npz", IMAGES[:1])
    np.savez("sequences.npz", x=SEQUENCES, mask=MASK, labels=np.arange(6))
    np.save("tokens.npy", TOKENS)
    (tmp_path / "batches").mkdir()
    for k, part in enumerate((IMAGES[:10], IMAGES[10:25], IMAGES[25:])):
        np.savez(tmp_path / "batches" / f"b{k}.npz", images=part)
    yield tmp_path
    sys.modules.pop("somebodys", None)


def run(command):
    return cli.main(["compress", *shlex.split(command)])


def report_of(folder):
    return json.loads((folder / "report.json").read_text())


def loaded(folder):
    return runpy.run_path(str(folder / "load.py"))["load"]()


def costs(report):
    return {name: measure.Cost(**cost) for name, cost in report["cost"].items()}


def test_a_network_of_ours(here, monkeypatch, capsys):
    monkeypatch.setattr(compressing, "IMAGES", 40)
    assert run("resnet20-cifar10 --budget macs=0.5 --formats svd,spatial_svd --skip linear --out made/small") == 0
    out, shown = here / "made" / "small", capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == sorted(result_folder.FILES)
    assert not [path for path in here.rglob("*") if path.name.startswith(".")]
    report, model = report_of(out), models.load("resnet20-cifar10")
    before, after = costs(report)["original"], costs(report)["compressed"]
    images = data.load("cifar10", "train").sample(40).images
    assert before == measure.cost(model, images[:1].clone())
    assert after == measure.cost(loaded(out), images[:1].clone())
    assert after.macs <= 0.5 * before.macs
    assert report["inputs"] == "40 training images of cifar10"
    assert report["repaired"] is True
    assert report["left"] == {"linear": "it is in `skip`"}
    assert report["latency_ms"].keys() == {"original", "compressed", "speedup"}
    assert report["machine"]["cpu"]
    assert "40 samples" in report["notes"][0]
    for kind in ("params", "macs", "bytes"):
        saved = sum(row["original"][kind] - row[kind] for row in report["layers"])
        assert saved == getattr(before, kind) - getattr(after, kind)
    small = compress.repair(compress.Plan.load(out / "plan.json").apply(model), model, images, skip=["linear"])
    with torch.no_grad():
        assert torch.equal(loaded(out)(images), small(images))
    assert "MACs" in shown
    assert f"{after.macs:,}" in shown
    assert shown.endswith("load it: python made/small/load.py\n")


def test_terms_may_be_kept_from_cancelling(here):
    command = "somebodys:Images --weights Images.safetensors --inputs images.npz --budget macs=0.5 --formats cp3"
    assert run(f"{command} --out plain") == run(f"{command} --for-int8 --out small") == 0
    x = torch.from_numpy(IMAGES).float()
    model = runpy.run_path("somebodys.py")["Images"]()
    model.load_state_dict(load_file("Images.safetensors"))
    plan = compress.Plan.load(here / "small" / "plan.json").apply(model.eval())
    for folder, rounding in (("plain", 0.0), ("small", compress.ROUNDING)):
        small = compress.repair(plan, model, x, rounding=rounding)
        with torch.no_grad():
            assert torch.equal(loaded(here / folder)(x), small(x))
    with torch.no_grad():
        assert not torch.equal(loaded(here / "plain")(x), loaded(here / "small")(x))


def test_arrays_are_samples_and_another_folder_is_asked_for(here, capsys):
    command = "somebodys:Images --weights Images.safetensors --inputs images.npz --budget params=0.7 --metric input"
    assert run(f"{command} --cache kept --out small") == 0
    report, model = report_of(here / "small"), loaded(here / "small")
    assert report["counted_call"] == "(1, 3, 9, 9)"
    assert report["weights"] == "Images.safetensors"
    assert report["repaired"] is True
    assert costs(report)["compressed"] == measure.cost(model, (1, 3, 9, 9))
    assert any(isinstance(module, layers.Factorized) for module in model.modules())
    assert len(list((here / "kept").iterdir())) > 4
    assert run(f"{command} --out small") == 2
    assert "not empty" in capsys.readouterr().err
    (here / "small" / "mine.txt").write_text("mine")
    before = (here / "small" / "weights.safetensors").read_bytes()
    assert run(f"{command} --out small --force --budget macs=0.001") == 2, "out of reach"
    assert (here / "small" / "weights.safetensors").read_bytes() == before
    assert run(f"{command.replace('0.7', '0.5')} --out small --force") == 0
    assert (here / "small" / "weights.safetensors").read_bytes() != before
    assert report_of(here / "small")["share"]["params"] <= 0.5
    assert (here / "small" / "mine.txt").read_text() == "mine"
    assert len(list((here / "small").iterdir())) == 6


def test_a_folder_is_batches_and_the_loaded_network_is_the_compressed_one(here):
    done = compressing.compress_network(
        "somebodys:Images",
        Budget(macs=0.6),
        here / "small",
        weights=here / "Images.safetensors",
        inputs=here / "batches",
    )
    assert done.report == report_of(here / "small") | {"layers": done.report["layers"]}
    assert done.report["counted_call"] == "(10, 3, 9, 9)"
    assert done.report["inputs"] == "3 batches of batches"
    x = torch.from_numpy(IMAGES).float()
    model = given.network("somebodys:Images", here / "Images.safetensors").model
    small = compress.repair(done.plan.apply(model), model, x.split((10, 15, 15)))
    with torch.no_grad():
        expected = done.model(x)
        assert torch.allclose(small(x), expected, atol=1e-6)
    code = (
        "import runpy, torch, numpy as np\n"
        "model = runpy.run_path('small/load.py', run_name='__main__')['load']()\n"
        "x = torch.from_numpy(np.load('images.npz')['arr_0']).float()\n"
        "with torch.no_grad():\n    np.save('outputs.npy', model(x))"
    )
    fresh = subprocess.run([sys.executable, "-c", code], cwd=here, check=True, capture_output=True, text=True)
    assert torch.equal(torch.from_numpy(np.load("outputs.npy")), expected)
    assert fresh.stdout.startswith("Images(")


def test_several_arrays_are_keyword_arguments(here):
    done = compressing.compress_network(
        "somebodys:Sequences",
        Budget(params=0.7, macs=0.8),
        here / "small",
        weights=here / "Sequences.safetensors",
        inputs=here / "sequences.npz",
        metric="input",
    )
    call = {"x": torch.from_numpy(SEQUENCES).float(), "mask": torch.from_numpy(MASK)}
    model = loaded(here / "small")
    with torch.no_grad():
        assert torch.equal(model(**call), done.model(**call))
    assert costs(done.report)["compressed"] == measure.cost(model, call)
    assert done.report["latency_ms"] is not None
    assert done.report["repaired"] is True
    assert "encoder.layers.0.self_attn.q_proj" in {row["layer"] for row in done.report["layers"]}


def test_tied_weights_and_integers(here):
    command = "somebodys:Words --weights Words.safetensors --inputs tokens.npy --budget params=0.95"
    assert len(load_file("Words.safetensors")) == len(runpy.run_path("somebodys.py")["Words"]().state_dict()) - 1
    assert run(f"{command} --out small") == 0
    model, report = loaded(here / "small"), report_of(here / "small")
    assert model.head.weight is model.embed.weight
    assert torch.equal(model.head.weight, load_file("Words.safetensors")["embed.weight"])
    assert "stay tied" in report["left"]["embed"]
    assert costs(report)["compressed"] == measure.cost(model, torch.from_numpy(TOKENS[:1].copy()))


def test_a_shape_is_enough_for_the_metric_weight(here, capsys):
    assert run("somebodys:Images --example 2,3,9,9 --budget bytes=0.6 --formats tt --seed 3 --out small") == 0
    report = report_of(here / "small")
    assert report["counted_call"] == "(2, 3, 9, 9)"
    assert (report["repaired"], report["seed"], report["formats"]) == (False, 3, ["tt"])
    assert costs(report)["compressed"] == measure.cost(loaded(here / "small"), (2, 3, 9, 9))


def test_the_page_has_everything_and_no_markup_of_others(here):
    assert run("somebodys:Images --inputs images.npz --budget params=0.6 --skip '<b>&' --out small") == 0
    page, report = (here / "small" / "report.html").read_text(), report_of(here / "small")
    assert "<b>" not in page
    assert page.count("<td>&lt;b&gt;&amp;</td>") == 2  # among the layers left alone and what was asked for
    assert not re.search(r"<script|<link|<img|https?:|\bsrc=|@import", page)
    for row in report["layers"]:
        assert f"<tr><td>{row['layer']}</td><td>{row['format'] or 'dense'}</td>" in page
        assert f"<td>{row['loss']:.4g}</td></tr>" in page
    for text in (report["machine"]["cpu"], report["weights_sha256"], f"{report['cost']['compressed']['macs']:,}"):
        assert text in page


def test_what_cannot_be_frozen_is_compressed_all_the_same(here, monkeypatch, capsys):
    monkeypatch.setattr(layers, "freeze", lambda *_: 1 / 0)
    assert run("somebodys:plain --example 1,20 --budget params=0.5 --out small") == 0
    report = report_of(here / "small")
    assert report["latency_ms"] is None
    assert report["notes"] == ["not timed, because freezing fails: ZeroDivisionError: division by zero"]
    assert "note: not timed" in capsys.readouterr().out
    assert "not timed" in (here / "small" / "report.html").read_text()


WRONG = {
    "resnet2 --budget macs=0.5": "unknown model 'resnet2'; expected one of",
    "nobodys:Images --budget macs=0.5": "no module 'nobodys': it is neither in this folder nor installed",
    "somebodys.more:Images --budget macs=0.5": "no module 'somebodys.more'",
    "broken:make --budget macs=0.5": "broken cannot be imported: SyntaxError",
    "somebodys.py:Images --budget macs=0.5": "expected its module, somebodys:Images",
    "'somebodys:import x' --budget macs=0.5": "is no package.module:function",
    "somebodys:Imags --budget macs=0.5": "has no function 'Imags', did you mean Images?",
    "somebodys:not_a_network --budget macs=0.5": "must return an nn.Module, got int",
    "somebodys:with_argument --budget macs=0.5": "called without arguments fails: TypeError",
    "somebodys:raising --budget macs=0.5": "fails: RuntimeError: two lines",
    "somebodys:not_finite --budget macs=0.5": "weight of somebodys:not_finite holds numbers that are not finite",
    "somebodys:plain --budget macs=0.5": "needs --inputs, or the shape",
    "somebodys:plain --budget macs=0.5 --example 1,20 --metric input": "somebodys:plain needs --inputs",
    "somebodys:plain --budget macs=0.5 --example 1,20 --for-int8": "somebodys:plain needs --inputs for --for-int8",
    "somebodys:plain --budget macs=0.5 --example 1,20 --metric output": "unknown metric 'output'",
    "somebodys:plain --budget macs=0.5 --example 1x20": "a shape is a list of sizes like 1,3,32,32, got '1x20'",
    "somebodys:plain --budget macs=0.5 --example 1,3": "does not run on zeros of shape (1, 3): ",
    "somebodys:plain --budget macs=0.5 --example 1,20 --formats svd,tucker9": "unknown format 'tucker9'",
    "somebodys:plain --budget macs=0.5 --example 1,20 --skip lst": "no module 'lst'",
    "somebodys:plain --budget macs=0.01 --example 1,20": "budget macs=0.01 is out of reach: with these layers",
    "somebodys:plain --example 1,20": "Missing option '--budget'",
    "somebodys:plain --budget macs --example 1,20": "a budget is COST=SHARE, for example macs=0.5, got 'macs'",
    "somebodys:plain --budget macs=half --example 1,20": "got 'macs=half'",
    "somebodys:plain --budget macs=nan --example 1,20": "got 'macs=nan'",
    "somebodys:plain --budget mac=0.5 --example 1,20": "got 'mac=0.5', did you mean macs?",
    "somebodys:plain --budget macs=2 --example 1,20": "share of the original's cost in (0, 1], got 2.0",
    "somebodys:plain --budget macs=0.5 --budget macs=0.4 --example 1,20": "macs is given twice: 0.5 and 0.4",
    "somebodys:Images --weights no.safetensors --budget macs=0.5": "no file no.safetensors",
    "somebodys:Images --weights images.npz --budget macs=0.5": "images.npz is no safetensors file",
    "somebodys:Images --weights Words.safetensors --budget macs=0.5": "it lacks first.weight, first.bias",
    "somebodys:Images --weights wide.safetensors --budget macs=0.5": "last.weight is (7, 12) and not (5, 12)",
    "resnet20-cifar10 --weights Words.safetensors --budget macs=0.5": "does not fit resnet20-cifar10: it lacks conv1",
    "somebodys:Images --inputs no.npz --budget macs=0.5": "no file or folder no.npz",
    "somebodys:Images --inputs tokens.npy --budget macs=0.5": "does not run on inputs of shape (1, 4)",
    "somebodys:Images --inputs empty --budget macs=0.5": "the folder empty holds no .npz or .npy file",
    "somebodys:Images --inputs somebodys.py --budget macs=0.5": "holds no arrays that can be read without pickle",
    "somebodys:Images --inputs pickled.npy --budget macs=0.5": "holds no arrays that can be read without pickle",
    "somebodys:Images --inputs texts.npz --budget macs=0.5": "must hold numbers, got <U3",
    "somebodys:Images --inputs infinite.npz --budget macs=0.5": "holds numbers that are not finite",
    "somebodys:Images --inputs none.npz --budget macs=0.5": "inputs are empty",
    "somebodys:Images --inputs uneven --budget macs=0.5": "does not run on b1.npy: ",
    "somebodys:Images --inputs uneven --budget macs=0.5 --metric input": "does not run on b1.npy: ",
    "somebodys:Sequences --inputs wrong.npz --budget macs=0.5": "holds maks, which is no argument of the network, did",
    "somebodys:Sequences --inputs sequences.npz --example 1,7,16 --budget macs=0.5": "network of one input",
}


@pytest.mark.parametrize("command", WRONG)
def test_a_mistake_gets_one_sentence_and_leaves_nothing(command, here, capsys):
    (here / "broken.py").write_text("def make(:\n")
    (here / "empty").mkdir()
    (here / "uneven").mkdir()
    save_file(load_file("Images.safetensors") | {"last.weight": torch.zeros(7, 12)}, "wide.safetensors")
    np.save("uneven/b0.npy", IMAGES[:3])
    np.save("uneven/b1.npy", IMAGES[:3, :2])
    np.save("pickled.npy", np.array([{}, "x"], dtype=object))
    np.savez("texts.npz", np.array(["one", "two"]))
    np.savez("infinite.npz", np.where(IMAGES > 3, np.inf, IMAGES))
    np.savez("none.npz", IMAGES[:0])
    np.savez("wrong.npz", x=SEQUENCES, maks=MASK)
    files, path = sorted(here.rglob("*")), sys.path[:]
    assert run(f"{command} --out made/small") == 2
    error = capsys.readouterr().err
    assert WRONG[command] in error
    assert error.startswith("tnlib: ")
    assert error.count("\n") == 1
    assert sorted(here.rglob("*")) == files
    assert sys.path == path


def test_a_function_whose_network_is_another_one_each_time_is_noticed(here, capsys):
    before = sorted(here.rglob("*"))
    assert run("somebodys:Noisy --example 1,9 --budget params=0.9 --skip '' --out made/small") == 2
    assert "nothing to compress" in capsys.readouterr().err
    (here / "somebodys.py").write_text(NETS + "\n\ndef noisy():\n    return nn.Sequential(nn.Linear(9, 9), Noisy())\n")
    del sys.modules["somebodys"]
    assert run("somebodys:noisy --example 1,9 --budget params=0.95 --out made/small") == 1
    assert "somebodys:noisy does not build the same network in every call: 1.noise" in capsys.readouterr().err
    assert sorted(here.rglob("*")) == before


def test_a_place_that_nothing_can_be_written_to(here, capsys):
    command = "somebodys:plain --example 1,20 --budget params=0.5"
    assert run(f"{command} --out images.npz") == 2
    assert "images.npz is a file; expected a folder" in capsys.readouterr().err
    assert run(f"{command} --out images.npz/small") == 2
    assert "no folder that can be written to" in capsys.readouterr().err
    (here / "there").mkdir()
    assert run(f"{command} --out there") == 0, "an empty folder is taken"
    assert len(list((here / "there").iterdir())) == 5


def test_what_is_interrupted_leaves_nothing(here, monkeypatch, capsys):
    def stop(*_, **__):
        raise KeyboardInterrupt

    before = sorted(here.rglob("*"))
    monkeypatch.setattr(result_folder.compression_report, "page", stop)
    assert run("somebodys:plain --example 1,20 --budget params=0.5 --out made/small") == 130
    assert sorted(here.rglob("*")) == before
    assert capsys.readouterr().err.strip() == "tnlib: interrupted"


def test_help_tells_the_default_formats():
    texts = [option.help for option in compress_command.compress.params if option.name == "formats"]
    assert f"default: {','.join(CLOSED)}" in texts[0]


def test_batchnorm_is_not_estimated_on_a_batch_of_one():
    """Of 101 samples: batches of near-equal size, since each weighs as much."""
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).eval()
    x = torch.randn(101, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        means = torch.stack([model[0](part).mean(0) for part in x.split((51, 50))]).mean(0)
    assert torch.allclose(compress.repair(model, model, x, fit=False)[1].running_mean, means, atol=1e-6)
