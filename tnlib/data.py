"""Real image data in three layers: committed subsets, a local cache of the full sets, and sources to fill it from.

Images are uint8 tensors of shape (n, channels, height, width), labels int64 tensors of shape (n,); every canonical
array has a pinned SHA-256, the same whichever source it came from. `notebooks/00_start_here` shows them in use.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from tnlib import paths, sources

Split = Literal["train", "test"]
Subset = Literal["embedded", "full"]
SPLITS = ("train", "test")


@dataclass(frozen=True)
class DatasetInfo:
    """What a data set is: image shape (channels, height, width), images per split, classes, and pinned digests."""

    name: str
    shape: tuple[int, int, int]
    counts: dict[str, int]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    licence: str
    sha256: dict[str, str]


_DIGITS = tuple(str(digit) for digit in range(10))
_CLOTHES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
_CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_CHARACTERS = tuple("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ")
_SIXTY = {"train": 60_000, "test": 10_000}

DATASETS: dict[str, DatasetInfo] = {
    info.name: info
    for info in (
        DatasetInfo(
            "mnist", (1, 28, 28), _SIXTY, _DIGITS, (0.13066,), (0.30811,), "CC BY-SA 3.0",
            {
                "train/images": "762412133fb9a6d9cb722274af6bd8f3cb2125ce1dab58cf34d2a30cc43ecc1c",
                "train/labels": "cb29fa436ba8e47a4d7424bd931befc5117ac902d078b4f1fd3914639d81f3d1",
                "test/images": "fdddec5025dc7ea82eba74c39a4451e1993bcb9a000696d1094db45fa9c19af2",
                "test/labels": "c93ed899932f0208e8cbdff358e28373d877b0765b33317762199c518f83dbeb",
            },
        ),
        DatasetInfo(
            "fashion-mnist", (1, 28, 28), _SIXTY, _CLOTHES, (0.28604,), (0.35302,), "MIT",
            {},
        ),
        DatasetInfo(
            "cifar10", (3, 32, 32), {"train": 50_000, "test": 10_000}, _CIFAR,
            (0.49140, 0.48216, 0.44653), (0.24703, 0.24349, 0.26159), "no licence stated; cite Krizhevsky 2009",
            {
                "train/images": "9cfd45ccf81bc98599f12dd01ccd0d44c4cb98f77ac6aca707ce93e61c5a2f0e",
                "train/labels": "968d590023f35563a714a46bb3b2e11d84ed07d732e3f0b0e403af6981ae543b",
                "test/images": "6a03444e163aaad3af064e9b9b268a7910fea84c2bb601ab51d9e385bae2f2cd",
                "test/labels": "100e6bc35bee88ee3c7bf669c35552371e5de78fe81a3e804deac582ad29f467",
            },
        ),
        DatasetInfo(
            "chars36", (1, 24, 24), {"train": 64_800, "test": 10_800}, _CHARACTERS, (0.50036,), (0.24001,),
            "free fonts, each licence in data/reference/chars36-faces.csv",
            {
                "train/images": "a5b085aaf84e98293e21faf9b92eb434ddc24518176c0aa6a1f5a8546d4fd0eb",
                "train/labels": "cd2f83b8c2e23969b8cb75944019a3d97dde5a7a00c5bcff2e3b907cab970666",
                "test/images": "0e624cfbf7e3e2cd7b112121570858bc21272602647ed01bf7b778a03be48ad3",
                "test/labels": "0c25a432a9b6e3a5e07db8632507eb5e0cb44bd802e7c77bc1fe53381e4b6bab",
            },
        ),
    )
}  # fmt: skip


class ImageSet(TensorDataset):
    """A `TensorDataset` of (image, label) pairs that knows its data set.

    `images` is uint8 (n, channels, height, width), `labels` int64 (n,), `info` the `DatasetInfo`.
    """

    def __init__(self, info: DatasetInfo, images: Tensor, labels: Tensor) -> None:
        super().__init__(images, labels)
        self.info, self.images, self.labels = info, images, labels

    def sample(self, size: int, seed: int = 0) -> ImageSet:
        """A random subset of `size` images, drawn without replacement and stratified over the classes.

        Every class gets size // classes images, the first size % classes of them one more; order is random.
        Raises ValueError when a class has too few images.
        """
        chosen = stratified(self.labels.numpy(), size, len(self.info.classes), seed)
        index = torch.from_numpy(chosen)
        return ImageSet(self.info, self.images[index], self.labels[index])


def stratified(labels: np.ndarray, size: int, classes: int, seed: int) -> np.ndarray:
    """Indices of `size` items, the classes as equally frequent as `size` allows, in random order."""
    generator = np.random.default_rng(seed)
    chosen = []
    for label in range(classes):
        members = np.flatnonzero(labels == label)
        wanted = size // classes + (label < size % classes)
        if not 0 <= wanted <= len(members):
            raise ValueError(
                f"a stratified sample of {size} needs {wanted} images of class {label}, but it has {len(members)}"
            )
        chosen.append(generator.choice(members, wanted, replace=False))
    return generator.permutation(np.concatenate(chosen))


def load(name: str, split: Split = "train", subset: Subset = "embedded") -> ImageSet:
    """Load one split of a data set.

    Args:
        name: `mnist`, `fashion-mnist`, `cifar10` or `chars36`.
        split: `train` or `test`.
        subset: `embedded`, the committed stratified subset, or `full`, from the cache (fetched when absent).

    Raises:
        ValueError: unknown name, split or subset, or no embedded subset for this data set.
        RuntimeError: a full set that no source could give, or a damaged file.
    """
    info = dataset_info(name)
    _one_of("split", split, SPLITS)
    _one_of("subset", subset, ("embedded", "full"))
    images, labels = _embedded(info, split) if subset == "embedded" else _full(info, split)
    return ImageSet(info, torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64)))


def dataset_info(name: str) -> DatasetInfo:
    """The description of a data set; ValueError names the known ones."""
    _one_of("data set", name, tuple(DATASETS))
    return DATASETS[name]


def fetch(name: str) -> str:
    """Fill the cache with a full data set and return the source it came from (`cache` when it was whole already).

    A damaged file in the cache is set aside by being fetched again; an array whose SHA-256 is not the pinned one is
    never stored. Raises RuntimeError naming every source that was tried and what it answered.
    """
    info = dataset_info(name)
    if all(status == "ok" for status in verify(name).values()):
        return "cache"
    answers = []
    for label, get in sources.sources(name, paths.mirror()):
        try:
            arrays = get()
            _check(info, arrays)
        except (sources.UnavailableError, *sources.FAILURES) as error:
            answers.append(f"  {label}: {str(error) or type(error).__name__}")
            continue
        for key, array in arrays.items():
            with paths.replacing(cached_file(name, key)) as temporary, temporary.open("wb") as handle:
                np.save(handle, np.ascontiguousarray(array), allow_pickle=False)
            with paths.replacing(cached_file(name, key).with_suffix(".sha256")) as temporary:
                temporary.write_text(digest(array) + "\n")
        return label
    raise RuntimeError(
        f"{name}: no source could give the full data set. Tried, in order:\n" + "\n".join(answers) + "\n"
        "Use subset='embedded', or put the files in a folder and set TNLIB_MIRROR to it (data/README.md says which)."
    )


def verify(name: str) -> dict[str, str]:
    """State of each cached array of a data set: `ok`, `missing`, or `damaged`."""
    info = dataset_info(name)
    return {key: _state(info, key) for key in (f"{s}/{w}" for s in SPLITS for w in ("images", "labels"))}


def cached_file(name: str, key: str) -> Path:
    """Where the cache holds an array; `key` is for example `train/images`."""
    return paths.cache() / name / (key.replace("/", "_") + ".npy")


def digest(array: np.ndarray) -> str:
    """SHA-256 of an array's shape and of its elements as bytes in C order."""
    header = json.dumps([str(array.dtype), *array.shape]).encode()
    return hashlib.sha256(header + np.ascontiguousarray(array).tobytes()).hexdigest()


def _check(info: DatasetInfo, arrays: sources.Arrays) -> None:
    """Raise `UnavailableError` when arrays are not the canonical ones."""
    for split in SPLITS:
        for what, shape in (("images", (info.counts[split], *info.shape)), ("labels", (info.counts[split],))):
            array, key = arrays[f"{split}/{what}"], f"{split}/{what}"
            if array.shape != shape or array.dtype != np.uint8:
                raise sources.UnavailableError(f"{key} is {array.dtype} {array.shape}, expected uint8 {shape}")
            if info.sha256 and info.sha256[key] != digest(array):
                raise sources.UnavailableError(f"{key} has another SHA-256 than the canonical one")


def _state(info: DatasetInfo, key: str) -> str:
    path = cached_file(info.name, key)
    if not path.is_file():
        return "missing"
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError):
        return "damaged"
    return "ok" if _expected_digest(info, key) == digest(array) else "damaged"


def _expected_digest(info: DatasetInfo, key: str) -> str | None:
    """The pinned digest of an array; for a data set without pinned ones that noted when it was fetched."""
    if info.sha256:
        return info.sha256[key]
    note = cached_file(info.name, key).with_suffix(".sha256")
    return note.read_text().strip() if note.is_file() else None


def _full(info: DatasetInfo, split: Split) -> tuple[np.ndarray, np.ndarray]:
    for key in (f"{split}/images", f"{split}/labels"):
        if (state := _state(info, key)) != "ok":
            try:
                fetch(info.name)
            except RuntimeError as error:
                damaged = f"{cached_file(info.name, key)} is damaged and could not be replaced. "
                raise RuntimeError((damaged if state == "damaged" else "") + str(error)) from None
    images, labels = (np.load(cached_file(info.name, f"{split}/{what}")) for what in ("images", "labels"))
    return images, labels


def embedded_file(name: str, split: str) -> Path:
    """The committed mosaic (lossless WebP) of a data set's embedded subset; its JSON lies beside it."""
    return paths.EMBEDDED / f"{name}-{split}.webp"


def _embedded(info: DatasetInfo, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Cut a mosaic of images, `columns` to a row, back into the array that it was made from."""
    from PIL import Image

    path = embedded_file(info.name, split)
    record_path = path.with_suffix(".json")
    if not path.is_file() or not record_path.is_file():
        raise ValueError(f"{info.name} has no embedded subset; ask for subset='full'")
    damaged = f"{path.name} or its JSON is damaged (not the recorded SHA-256): restore it with git checkout"
    try:
        record = json.loads(record_path.read_text())
        with Image.open(path) as mosaic:
            pixels = np.asarray(mosaic.convert("RGB" if info.shape[0] == 3 else "L"))
        labels = np.array(record["labels"], dtype=np.uint8)
    except (OSError, ValueError, KeyError):
        raise RuntimeError(damaged) from None
    channels, height, width = info.shape
    tiles = pixels.reshape(-1, height, record["columns"], width, channels)
    images = np.ascontiguousarray(tiles.transpose(0, 2, 4, 1, 3).reshape(len(labels), *info.shape))
    if (digest(images), digest(labels)) != (record["sha256"], record["labels_sha256"]):
        raise RuntimeError(damaged)
    return images, labels


def random_crop_flip(
    images: Tensor, generator: torch.Generator, *, size: int | None = None, padding: int = 4, flip: bool = True
) -> Tensor:
    """Random crops of zero-padded images, half of them mirrored, without a Python loop over the images.

    Args:
        images: any dtype, shape (n, channels, height, width).
        generator: source of the randomness, on the CPU.
        size: height and width of a crop, by default the images' own height.
        padding: zeros added on each side before cropping.
        flip: mirror each image left to right with probability 1/2.

    Returns:
        Tensor of shape (n, channels, size, size), same dtype and device.
    """
    n, _, height, width = images.shape
    size = height if size is None else size
    padded = torch.nn.functional.pad(images, (padding,) * 4)
    limits = height + 2 * padding - size + 1, width + 2 * padding - size + 1
    if min(limits) < 1:
        raise ValueError(f"a crop of {size} does not fit in {height} x {width} images padded by {padding}")
    top, left = (torch.randint(limit, (n, 1), generator=generator) for limit in limits)
    steps = torch.arange(size)
    columns = left + steps
    if flip:
        mirrored = torch.rand(n, 1, generator=generator) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    rows, columns = (top + steps).to(images.device), columns.to(images.device)
    index = torch.arange(n, device=images.device)[:, None, None]
    pixels = padded.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]]
    return pixels.permute(0, 3, 1, 2)


def _one_of(what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"unknown {what} {value!r}; expected one of {', '.join(known)}")
