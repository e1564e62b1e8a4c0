"""AlexNet, VGG and a reader's folder of pictures, with generated weights and pictures."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tnlib import imagenet, measure, paths, study

# What torchvision publishes of its AlexNet: parameters, and multiply-accumulates of a 224 x 224 picture.
PARAMETERS, MACS = 61_100_840, 714_188_480
SHAPES = {"features.3.weight": (192, 64, 5, 5), "features.10.bias": (256,), "classifier.1.weight": (4096, 9216)}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return imagenet.alexnet()


def paint(folder, sizes, colour=(200, 100, 50)):
    folder.mkdir(parents=True)
    for number, size in enumerate(sizes):
        Image.new("RGB", size, colour).save(folder / f"{number}.png")


def test_alexnet_is_torchvisions(model):
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS
    assert measure.cost(model, (1, 3, 224, 224)).macs == MACS
    state = model.state_dict()
    assert {name: tuple(state[name].shape) for name in SHAPES} == SHAPES
    assert set(state) == {f"features.{n}.{kind}" for n in (0, 3, 6, 8, 10) for kind in ("weight", "bias")} | {
        f"classifier.{n}.{kind}" for n in (1, 4, 6) for kind in ("weight", "bias")
    }
    sizes = []
    hook = model.features[3].register_forward_pre_hook(lambda _, inputs: sizes.append(tuple(inputs[0].shape)))
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 224, 224, dtype=torch.uint8)).shape == (1, imagenet.CLASSES)
    hook.remove()
    assert sizes == [(1, 64, 27, 27)]


@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_weights_of_a_file(model, tmp_path, kind):
    path = tmp_path / f"w.{kind}"
    save = save_file if kind == "safetensors" else torch.save
    save(model.state_dict(), path)
    again = imagenet.alexnet(str(path)).state_dict()
    assert all(torch.equal(again[name], value) for name, value in model.state_dict().items())


def test_weights_that_are_not_there(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="no file"):
        imagenet.alexnet(str(tmp_path / "w.pth"))
    torch.save({"a": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="not a state_dict of torchvision's AlexNet"):
        imagenet.alexnet(str(tmp_path / "w.pth"))
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(ValueError, match="install it"):
        imagenet.alexnet("torchvision")


# What torchvision publishes of its VGGs: parameters, and multiply-accumulates of a picture.
VGG = {16: (138_357_544, 15_470_264_320), 19: (143_667_240, 19_632_062_464)}
CONVOLUTIONS = {
    16: (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
    19: (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34),
}


@pytest.mark.parametrize("depth", VGG)
def test_vgg_is_torchvisions(depth):
    with torch.device("meta"):
        model = imagenet.vgg(depth)
    assert (sum(p.numel() for p in model.parameters()), macs_by_hand(model)) == VGG[depth]
    assert not model.training
    state = model.state_dict()
    assert set(state) == {f"features.{n}.{kind}" for n in CONVOLUTIONS[depth] for kind in ("weight", "bias")} | {
        f"classifier.{n}.{kind}" for n in (0, 3, 6) for kind in ("weight", "bias")
    }
    assert tuple(state["features.5.weight"].shape) == (128, 64, 3, 3)
    assert tuple(state[f"features.{CONVOLUTIONS[depth][-1]}.weight"].shape) == (512, 512, 3, 3)
    assert [tuple(state[f"classifier.{n}.weight"].shape) for n in (0, 3, 6)] == [
        (4096, 25088), (4096, 4096), (1000, 4096)
    ]  # fmt: skip


def macs_by_hand(model):
    side, total = 224, 0
    for layer in [*model.features, *model.classifier]:
        if isinstance(layer, torch.nn.Conv2d):
            total += side**2 * layer.weight.numel()
        elif isinstance(layer, torch.nn.MaxPool2d):
            side //= 2
        elif isinstance(layer, torch.nn.Linear):
            total += layer.weight.numel()
    assert side == 7
    return total


def write_vgg(path):
    """A file of VGG-16's shapes: drawn convolutions; matrices of rank one, of which a row or a column is stored."""
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in imagenet.vgg().state_dict().items()}
    generator, state = torch.Generator().manual_seed(0), {}
    for name, shape in shapes.items():
        one = {"classifier.0.weight": (1, shape[-1]), "classifier.3.weight": (1, shape[-1])}
        drawn = torch.randn(one.get(name, shape), generator=generator)
        state[name] = (drawn * (2 / shape[1:].numel()) ** 0.5).expand(shape)
    torch.save(state, path)


@pytest.fixture(scope="module")
def vgg_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("vgg") / "vgg16.pth"
    write_vgg(path)
    return path


def test_weights_of_vgg_are_read(vgg_file):
    assert vgg_file.stat().st_size < 100e6
    state, wanted = imagenet.vgg(16, str(vgg_file)).state_dict(), torch.load(vgg_file, weights_only=True)
    assert all(torch.equal(state[name], value) for name, value in wanted.items())


def test_vggs_that_are_not_there(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="depth of 16 or 19, got 11"):
        imagenet.vgg(11)
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with torch.device("meta"):
        with pytest.raises(ValueError, match=r"no file .*torchvision's VGG-19"):
            imagenet.vgg(19, str(tmp_path / "w.pth"))
        torch.save({"a": torch.zeros(1)}, tmp_path / "w.pth")
        with pytest.raises(ValueError, match="is not a state_dict of torchvision's VGG-16"):
            imagenet.vgg(16, str(tmp_path / "w.pth"))
        with pytest.raises(ValueError, match="install it"):
            imagenet.vgg(16, "torchvision")


def test_published_weights_are_those_of_the_network(monkeypatch):
    asked = []

    class Version:
        def get_state_dict(self, check_hash):
            assert check_hash
            return {}

    class Module:
        def __getattr__(self, name):
            if not name.endswith("_Weights"):
                raise AttributeError(name)
            asked.append(name)
            return type("Weights", (), {"IMAGENET1K_V1": Version()})

    for name in ("torchvision", "torchvision.models"):
        monkeypatch.setitem(sys.modules, name, Module())
    for call in (lambda: imagenet.alexnet("torchvision"), *(lambda d=d: imagenet.vgg(d, "torchvision") for d in VGG)):
        with torch.device("meta"), pytest.raises(ValueError, match="torchvision is not a state_dict"):
            call()
    assert asked == ["AlexNet_Weights", "VGG16_Weights", "VGG19_Weights"]


def test_folders_named_by_numbers(tmp_path):
    paint(tmp_path / "7", [(300, 500), (256, 256)])
    paint(tmp_path / "999", [(30, 20)])
    pictures, labels = imagenet.read_folder(tmp_path)
    assert pictures.shape == (3, 3, 224, 224)
    assert pictures.dtype == torch.uint8
    assert labels.tolist() == [7, 7, 999]
    assert (pictures == torch.tensor([200, 100, 50]).view(1, 3, 1, 1)).all()
    assert imagenet.read_folder(tmp_path, count=2)[1].tolist() == [7, 999]


def test_a_thousand_folders_are_numbered_in_order(tmp_path):
    for number in range(imagenet.CLASSES):
        (tmp_path / f"n{number:08}").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "n00000412" / "a.jpeg")
    assert imagenet.read_folder(tmp_path)[1].tolist() == [412]


def test_the_middle_is_kept(tmp_path):
    (tmp_path / "0").mkdir()
    stripes = np.zeros((256, 512, 3), dtype=np.uint8)
    stripes[:, 144:368] = 255  # the middle 224 columns; the middle rows are all
    Image.fromarray(stripes).save(tmp_path / "0" / "a.png")
    assert (imagenet.read_folder(tmp_path)[0] == 255).all()


def test_folders_of_another_make(tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        imagenet.read_folder(tmp_path / "nowhere")
    (tmp_path / "cats").mkdir()
    with pytest.raises(ValueError, match="1000 folders"):
        imagenet.read_folder(tmp_path)
    (tmp_path / "cats").rename(tmp_path / "3")
    with pytest.raises(ValueError, match="hold no pictures"):
        imagenet.read_folder(tmp_path)


def test_the_experiment_with_weights_and_pictures(model, tmp_path, monkeypatch):
    monkeypatch.delenv("TNLIB_RESULTS")
    torch.save(model.state_dict(), tmp_path / "w.pth")
    paint(tmp_path / "val" / "3", [(40, 30), (30, 30)])
    parameters = {"weights": str(tmp_path / "w.pth"), "imagenet_dir": str(tmp_path / "val"), "ranks": [4]}
    notebook = paths.NOTEBOOKS / "experiments" / "replace_alexnet_conv2.ipynb"
    run = study.run_notebook(notebook, parameters, out=tmp_path)
    assert run.ok, f"{run.failed_cell}\n{run.error}"
    (record,) = (json.loads(path.read_text()) for path in (tmp_path / "results").glob("*.json"))
    assert record["parameters"]["weights"] == "w.pth"  # no path of a reader's machine in a record
    metrics = record["metrics"]
    assert metrics["pictures"] == 2
    assert 0.9 < metrics["rank4_error"] < 1.1  # a random kernel is no CPD of few terms
    assert {"dense_top1", "dense_top5", "rank4_top1", "rank4_top5"} <= metrics.keys()
    assert {(row["shape"], row["threads"]) for row in metrics["times"]} == {
        (shape, threads) for shape in ("grouped", "ungrouped") for threads in (1, 2)
    }
    run = study.run_notebook(notebook, {"weights": "nowhere.pth"}, out=tmp_path)
    assert not run.ok
    assert "no file nowhere.pth" in run.error


def test_the_experiment_with_vggs_weights_and_pictures(vgg_file, tmp_path, monkeypatch):
    monkeypatch.delenv("TNLIB_RESULTS")
    paint(tmp_path / "val" / "3", [(40, 30)])
    parameters = {"weights": str(vgg_file), "imagenet_dir": str(tmp_path / "val"), "ranks": [2]}
    notebook = paths.NOTEBOOKS / "experiments" / "replace_vgg_fc6.ipynb"
    run = study.run_notebook(notebook, parameters, out=tmp_path)
    assert run.ok, f"{run.failed_cell}\n{run.error}"
    (record,) = (json.loads(path.read_text()) for path in (tmp_path / "results").glob("*.json"))
    assert record["parameters"]["weights"] == "vgg16.pth"  # no path of a reader's machine in a record
    metrics = record["metrics"]
    assert (metrics["in_features"], metrics["out_features"], metrics["pictures"]) == (25088, 4096, 1)
    assert "planted_rank" not in metrics
    # The matrix in the file has equal rows: rank one, which is no TT-matrix of ranks 2.
    assert metrics["rank2_matrix_error"] < 1e-6
    assert 0.5 < metrics["rank2_error"] < 1
    assert 4 <= metrics["rank2_peak_bytes"] / metrics["weight_bytes"] < 4.2
    for size in ("top1", "top5"):
        assert metrics[f"rank2_matrix_{size}"] == metrics[f"dense_{size}"]
        assert 0 <= metrics[f"rank2_{size}"] <= 1
    run = study.run_notebook(notebook, {"imagenet_dir": "val"}, out=tmp_path)
    assert not run.ok
    assert "imagenet_dir needs weights" in run.error
