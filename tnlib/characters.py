"""`chars36`: grey images of 0-9 and A-Z, drawn from free fonts and distorted; the same bytes from the same seed.

The faces, their packages, licences, and digests stand in `data/reference/chars36-faces.csv`. Families, not faces, are
split between training and test, designs that are copies of each other together: no letter shape of the test is trained
on. Distortions use additions, multiplications and integers alone, whose results do not depend on a processor.
`notebooks/08_reproduce_lebedev` shows them.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter, ImageFont, ImageOps

from tnlib import paths

CHARACTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
SIZE = 24
COUNTS = {"train": 64_800, "test": 10_800}
FOLDERS = (Path("/usr/share/fonts"), Path("/usr/local/share/fonts"), Path.home() / ".local" / "share" / "fonts")
_EM = 60  # pixels that a glyph is drawn at, before it is shrunk
_FINE = 3 * SIZE  # height and width of the picture that is shrunk to SIZE by means of 3 x 3 pixels

Array = np.ndarray[Any, Any]
Glyph = Array  # uint8, (height, width), its ink


@dataclass(frozen=True)
class Face:
    """One font file: where it comes from, and what may be done with it."""

    package: str
    version: str
    licence: str
    file: str
    family: str
    style: str
    split: str
    sha256: str


def faces(split: str | None = None) -> list[Face]:
    """The listed faces, of one split or of both."""
    with (paths.REFERENCE / "chars36-faces.csv").open(newline="") as handle:
        return [Face(**row) for row in csv.DictReader(handle) if split in (None, row["split"])]


def draw(split: str, seed: int = 0, count: int | None = None) -> tuple[Array, Array]:
    """Images uint8 (n, 1, 24, 24) and labels uint8 (n,) of a split: equally many of each character, in random order.

    With `count`, only so many of them, the first.

    Raises:
        RuntimeError: naming the packages, when font files are missing or are of another version than the listed ones.
    """
    glyphs = [[_glyph(font, text) for text in CHARACTERS] for font in _fonts(faces(split))]
    random = np.random.default_rng([seed, sorted(COUNTS).index(split)])
    labels = random.permutation(np.arange(COUNTS[split], dtype=np.uint8) % len(CHARACTERS))
    images = np.stack([_distorted(glyphs, int(label), random) for label in labels[:count]])
    return images[:, None], labels[:count]


def read_folder(folder: Path) -> tuple[Array, Array]:
    """Images of your own: a subfolder for each character, named by it (A or a is A), of pictures that Pillow reads.

    Each becomes grey and 24 x 24, cut to its middle square. Returns images uint8 (n, 1, 24, 24) and labels uint8 (n,).

    Raises:
        ValueError: a folder without any image in a subfolder named by a character.
    """
    images, labels = [], []
    for path in sorted(folder.glob("*/*")):
        label, kinds = CHARACTERS.find(path.parent.name.upper()), (".png", ".jpg", ".jpeg", ".webp", ".bmp")
        if len(path.parent.name) != 1 or label < 0 or path.suffix.lower() not in kinds:
            continue
        with Image.open(path) as picture:
            images.append(np.asarray(ImageOps.fit(picture.convert("L"), (SIZE, SIZE), Image.Resampling.BILINEAR)))
        labels.append(label)
    if not images:
        raise ValueError(f"no images in {folder}: expected subfolders 0 to 9 and A to Z that hold pictures")
    return np.stack(images)[:, None], np.array(labels, dtype=np.uint8)


def _fonts(listed: list[Face]) -> Iterator[ImageFont.FreeTypeFont]:
    found: dict[str, list[Path]] = {}
    for folder in FOLDERS:
        for path in folder.rglob("*.[ot]tf"):
            found.setdefault(path.name, []).append(path)
    if missing := {face.package for face in listed if face.file not in found}:
        raise RuntimeError(f"the fonts of chars36 are missing: install {' '.join(sorted(missing))} (Debian 12)")
    for face in listed:
        same = [path for path in found[face.file] if hashlib.sha256(path.read_bytes()).hexdigest() == face.sha256]
        if not same:
            raise RuntimeError(f"{face.file} is not that of {face.package} {face.version}: the images would differ")
        yield ImageFont.truetype(same[0], _EM, layout_engine=ImageFont.Layout.BASIC)


def _glyph(font: ImageFont.FreeTypeFont, text: str) -> Glyph:
    mask = font.getmask(text, mode="L")
    return np.asarray(mask, dtype=np.uint8).reshape(mask.size[::-1])


def _distorted(glyphs: list[list[Glyph]], label: int, random: np.random.Generator) -> Array:
    """One image (24, 24): a character between halves of others, moved, blurred, badly lit, partly covered, noisy."""
    face = glyphs[random.integers(len(glyphs))]
    ink = _line(face, label, random)
    ink = ink.filter(ImageFilter.BoxBlur(float(random.uniform(0, 2.5)))).resize((SIZE, SIZE), Image.Resampling.BOX)
    shape = np.asarray(ink, dtype=np.float64) / 255
    paper, pen = _levels(random), _levels(random)
    while abs(paper.mean() - pen.mean()) < 40:  # contrast that a person still reads
        pen = _levels(random)
    image = paper + shape * (pen - paper)
    for _ in range(random.integers(0, 2)):  # a stroke across
        image += _stroke(random)
    noise = random.integers(-128, 128, (4, SIZE, SIZE)).sum(0) / 256  # nearly normal, deviation 0.58
    image = image + random.uniform(0, 25) * noise
    rounded: Array = np.floor(image.clip(0, 255) + 0.5).astype(np.uint8)
    return rounded


def _line(face: list[Glyph], label: int, random: np.random.Generator) -> Image.Image:
    """The ink of a character and its neighbours on 72 x 72 pixels, under a random affine map."""
    glyph, canvas = face[label], np.zeros((3 * _FINE, 3 * _FINE), dtype=np.uint8)
    height, width = glyph.shape
    bottom, left = (3 * _FINE + height) // 2, (3 * _FINE - width) // 2
    _put(canvas, glyph, bottom, left)
    gap = int(random.integers(1, 12))
    if random.random() < 0.5:
        other = face[random.integers(len(face))]
        _put(canvas, other, bottom, left - gap - other.shape[1])
    if random.random() < 0.5:
        other = face[random.integers(len(face))]
        _put(canvas, other, bottom, left + width + gap)
    # What a pixel shows lies at matrix @ (pixel - middle) + middle + shift, in units of the glyph's size.
    zoom = max(height, 0.8 * width) / (0.78 * _FINE) * random.uniform(0.82, 1.25)
    matrix = zoom * (np.eye(2) + random.uniform(-1, 1, (2, 2)) * [[0.10, 0.22], [0.22, 0.10]])
    middle, shift = 1.5 * _FINE, random.uniform(-0.07, 0.07, 2) * _FINE
    offset = middle + shift - matrix @ [_FINE / 2, _FINE / 2]
    coefficients = (*matrix[0], offset[0], *matrix[1], offset[1])
    return Image.fromarray(canvas).transform(
        (_FINE, _FINE), Image.Transform.AFFINE, coefficients, resample=Image.Resampling.BILINEAR
    )


def _put(canvas: Array, glyph: Glyph, bottom: int, left: int) -> None:
    """Ink of a glyph where it falls onto the canvas, the darker of both."""
    height, width = glyph.shape
    top, first, last = max(0, bottom - height), max(0, left), min(canvas.shape[1], left + width)
    if first < last:
        part = canvas[top:bottom, first:last]
        np.maximum(part, glyph[height - (bottom - top) :, first - left : last - left], out=part)


def _levels(random: np.random.Generator) -> Array:
    """A grey level that changes linearly over the image (24, 24)."""
    steps = np.linspace(-1, 1, SIZE)
    slope = random.uniform(-35, 35, 2)
    level: Array = random.uniform(20, 235) + slope[0] * steps[:, None] + slope[1] * steps
    return level


def _stroke(random: np.random.Generator) -> Array:
    """A straight stroke (24, 24), lighter or darker than what it covers."""
    steps = np.linspace(-1, 1, SIZE)
    a, b, c = random.uniform(-1, 1, 3)
    away = abs(a * steps[:, None] + b * steps + c) / max(abs(a), abs(b), 0.1)
    stroke: Array = random.uniform(-70, 70) * (1 - away / random.uniform(0.06, 0.25)).clip(0, 1)
    return stroke
