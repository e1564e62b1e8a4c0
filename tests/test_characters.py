"""chars36: the same bytes from the same seed, families in one split only, a clear word where fonts are missing."""

import hashlib
import json
import re

import numpy as np
import pytest
from PIL import Image

from tnlib import characters, data, sources


def installed():
    try:
        list(characters._fonts(characters.faces()))
    except RuntimeError:
        return False
    return True


def test_every_family_is_in_one_split_and_has_a_licence():
    listed = characters.faces()
    families = {split: {face.family for face in characters.faces(split)} for split in ("train", "test")}
    assert not families["train"] & families["test"]
    assert len(characters.faces("train")) + len(characters.faces("test")) == len(listed) >= 150
    assert min(len(names) for names in families.values()) >= 30
    digests = {split: {face.sha256 for face in characters.faces(split)} for split in ("train", "test")}
    assert not digests["train"] & digests["test"]
    for face in listed:
        assert face.package.startswith("fonts-")
        assert face.licence
        assert face.version
        assert re.fullmatch("[0-9a-f]{64}", face.sha256)


def test_a_design_that_was_copied_often_is_not_tested():
    copies = re.compile("Nimbus|Liberation|Free(Sans|Serif|Mono)|DejaVu|STIX")
    assert not [face for face in characters.faces("test") if copies.match(face.family)]
    assert len([face for face in characters.faces("train") if copies.match(face.family)]) > 10


@pytest.mark.skipif(not installed(), reason="the fonts of chars36 are not installed")
@pytest.mark.parametrize("split", data.SPLITS)
def test_the_same_seed_draws_the_same_bytes(split):
    images, labels = characters.draw(split, count=300)
    record = json.loads(data.embedded_file("chars36", split).with_suffix(".json").read_text())
    known = [(place, index) for place, index in enumerate(record["index"]) if index < 300]
    assert known
    embedded = data.load("chars36", split).images.numpy()
    for place, index in known:
        np.testing.assert_array_equal(embedded[place], images[index])
        assert record["labels"][place] == labels[index]
    other, _ = characters.draw(split, seed=1, count=1)
    assert (other != images[:1]).any()


def test_missing_fonts_are_named_by_their_package(monkeypatch, tmp_path):
    monkeypatch.setattr(characters, "FOLDERS", (tmp_path,))
    monkeypatch.setattr(data.paths, "cache", lambda: tmp_path / "cache")
    with pytest.raises(RuntimeError, match=r"(?s)fonts of chars36 are missing: install fonts-.*subset='embedded'"):
        data.load("chars36", "test", "full")


def test_another_version_of_a_font_is_refused(monkeypatch, tmp_path):
    face = characters.faces()[0]
    (tmp_path / face.file).write_bytes(b"another font")
    monkeypatch.setattr(characters, "FOLDERS", (tmp_path,))
    with pytest.raises(RuntimeError, match=f"{face.file} is not that of {face.package} {re.escape(face.version)}"):
        list(characters._fonts([face]))
    assert hashlib.sha256(b"another font").hexdigest() != face.sha256


def test_arrays_of_another_version_are_refused(monkeypatch):
    drawn = (np.zeros((2, 1, 24, 24), np.uint8), np.zeros(2, np.uint8))
    monkeypatch.setattr(characters, "draw", lambda split: drawn)
    with pytest.raises(sources.UnavailableError, match="expected uint8"):
        data._check(data.dataset_info("chars36"), sources.from_fonts())


def test_glyphs_fall_onto_the_canvas_or_beside_it():
    canvas = np.zeros((6, 6), np.uint8)
    glyph = np.full((2, 3), 9, np.uint8)
    for left, expected in ((-5, 0), (-2, 2), (4, 4), (6, 0)):
        canvas[:] = 0
        characters._put(canvas, glyph, 4, left)
        assert (canvas == 9).sum() == expected


def test_a_folder_of_ones_own_is_read(tmp_path):
    for name, size in (
        ("A/one.png", (24, 24)),
        ("b/two.jpg", (60, 40)),
        ("7/three.png", (5, 9)),
        ("AB/no.png", (9, 9)),
    ):
        path = tmp_path / name
        path.parent.mkdir()
        Image.new("RGB", size, (200, 100, 50)).save(path)
    (tmp_path / "A" / "notes.txt").write_text("no picture")
    images, labels = characters.read_folder(tmp_path)
    assert images.shape == (3, 1, 24, 24)
    assert images.dtype == np.uint8
    assert [characters.CHARACTERS[label] for label in labels] == ["7", "A", "B"]
    assert (abs(images.astype(int) - round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)) <= 2).all()
    with pytest.raises(ValueError, match="expected subfolders 0 to 9 and A to Z"):
        characters.read_folder(tmp_path / "A")
