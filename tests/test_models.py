"""Networks and their weights: the committed files, the published ones' path, and what happens to damaged files."""

import hashlib
import json

import pytest
import torch

from tnlib import data, models, networks, train

COMMITTED = ("mlp1024-mnist", "quick-cifar10", "vgg-cifar10", "resnet20-cifar10", "charnet-chars36")


@pytest.mark.parametrize("name", COMMITTED)
def test_committed_weights_have_their_record_and_reach_its_accuracy(name):
    record = models.record(name)
    for key in ("recipe", "epochs_done", "test_accuracy", "versions", "machine", "date", "sha256"):
        assert key in record
    assert record["epochs_done"] == record["recipe"]["epochs"]
    assert record["test_images"] == data.dataset_info(record["dataset"]).counts["test"]
    model = models.load(name)
    assert not model.training
    # The embedded test images are part of all: three standard errors of such a sample.
    sample = data.load(record["dataset"], "test").sample(1000)
    accuracy, p = train.accuracy(model, sample), record["test_accuracy"]
    assert abs(accuracy - p) < 3 * (p * (1 - p) / 1000) ** 0.5


@pytest.mark.parametrize(
    ("name", "least"),
    [("mlp1024-mnist", 0.981), ("quick-cifar10", 0.7675), ("resnet20-cifar10", 0.91), ("charnet-chars36", 0.88)],
)
def test_committed_weights_are_as_good_as_the_papers(name, least):
    assert models.record(name)["test_accuracy"] >= least


def test_a_flipped_byte_in_committed_weights_is_noticed(monkeypatch, tmp_path):
    for suffix in (".safetensors", ".json"):
        source = models.weights_file("quick-cifar10").with_suffix(suffix)
        (tmp_path / source.name).write_bytes(source.read_bytes())
    file = tmp_path / "quick-cifar10.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-10] ^= 1
    file.write_bytes(raw)
    monkeypatch.setattr(models.paths, "WEIGHTS", tmp_path)
    with pytest.raises(RuntimeError, match=r"quick-cifar10\.safetensors is damaged"):
        models.load("quick-cifar10")


def test_mistakes_say_what_is_known():
    with pytest.raises(ValueError, match="unknown model 'vgg'; expected one of mlp1024-mnist, quick-cifar10"):
        models.load("vgg")
    with pytest.raises(ValueError, match="unknown weights 'best'"):
        models.load("quick-cifar10", weights="best")
    with pytest.raises(ValueError, match="has no published weights"):
        models.load("quick-cifar10", weights="published")
    with pytest.raises(ValueError, match="no trained weights of resnet56-cifar10 are committed"):
        models.load("resnet56-cifar10", weights="trained")


@pytest.fixture
def published(monkeypatch, tmp_path):
    """A stand-in for the published ResNet-20: random weights in the same file format, pinned; returns its mirror."""
    torch.manual_seed(3)
    info = models.MODELS["resnet20-cifar10"]
    model = info.build_published()
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    file = mirror / info.published.file
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}, "best_prec1": 10.0}, file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    pinned = models.Published(info.published.url, info.published.file, digest, info.published.licence)
    fields = {**vars(info), "published": pinned}
    monkeypatch.setitem(models.MODELS, "resnet20-cifar10", models.ModelInfo(**fields))
    return mirror, model


def test_published_weights_come_from_the_mirror_and_are_cached(published, offline, monkeypatch):
    mirror, model = published
    monkeypatch.setenv("TNLIB_MIRROR", str(mirror))
    loaded = models.load("resnet20-cifar10", weights="published")
    assert all(
        torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), model.state_dict().values(), strict=True)
    )
    assert torch.allclose(loaded.prepare.mean.flatten(), torch.tensor((0.485, 0.456, 0.406)))
    monkeypatch.delenv("TNLIB_MIRROR")
    models.load("resnet20-cifar10", weights="published")


def test_published_weights_of_another_digest_are_refused(published, offline, monkeypatch):
    mirror, _ = published
    file = next(mirror.iterdir())
    file.write_bytes(file.read_bytes() + b"x")
    monkeypatch.setenv("TNLIB_MIRROR", str(mirror))
    with pytest.raises(RuntimeError, match=r"another SHA-256.*set TNLIB_MIRROR"):
        models.load("resnet20-cifar10", weights="published")
    assert not list(offline.rglob("*.th"))


def test_published_checkpoints_pinned_digests_are_those_of_the_repository():
    pins = {name: info.published.sha256[:8] for name, info in models.MODELS.items() if info.published}
    # That repository writes the first eight digits into the files' names.
    assert all(
        info.published.file.split("-")[1].split(".")[0] == pins[n]
        for n, info in models.MODELS.items()
        if info.published
    )


def test_prepare_takes_bytes_and_floats_alike():
    prepare = networks.Prepare((0.5, 0.4, 0.3), (0.2, 0.2, 0.1), padding=1)
    images = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    want = (torch.nn.functional.pad(images.float() / 255, (1,) * 4) - prepare.mean) / prepare.std
    assert torch.allclose(prepare(images), want)
    assert torch.allclose(prepare(images.float() / 255), want)
    assert prepare.double()(images).dtype == torch.float64


def test_option_a_shortcut_strides_and_pads_channels():
    block = networks.BasicBlock(4, 8, 2).eval()
    with torch.no_grad():
        block.bn2.weight.zero_()
        x = torch.rand(2, 4, 6, 6)
        y = block(x)
    assert torch.equal(y[:, 2:6], x[:, :, ::2, ::2])
    assert float(y[:, :2].abs().sum() + y[:, 6:].abs().sum()) == 0


def test_records_are_json_and_name_no_absolute_path():
    for path in models.paths.WEIGHTS.glob("*.json"):
        text = path.read_text()
        json.loads(text)
        assert str(models.paths.ROOT) not in text
