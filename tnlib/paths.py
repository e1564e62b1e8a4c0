"""Where the workbook keeps its files. Environment variables win over the defaults; nothing is created on import.

`ROOT` is the workbook's repository: the folder around this package (a clone, an editable install), or else the nearest
one above the current folder. Without a repository, what is fetched and run goes to the user's own folders.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile


def _repository() -> Path | None:
    def is_one(folder: Path) -> bool:
        return (folder / "notebooks" / "source").is_dir() and (folder / "tnlib" / "paths.py").is_file()

    around = Path(__file__).resolve().parent.parent
    if is_one(around):
        return around
    return next((folder for folder in (Path.cwd(), *Path.cwd().parents) if is_one(folder)), None)


def _user_folder() -> Path:
    import platformdirs

    return platformdirs.user_data_path("tnlib", appauthor=False)


_FOUND = _repository()
IN_REPOSITORY = _FOUND is not None
ROOT = _FOUND or _user_folder()
EMBEDDED = ROOT / "data" / "embedded"
WEIGHTS = ROOT / "data" / "weights"
PUBLISHED = ROOT / "data" / "results"
REFERENCE = ROOT / "data" / "reference"
NOTEBOOKS = ROOT / "notebooks"
RUNS = ROOT / "runs"


def cache() -> Path:
    """Folder of the full data sets and fetched weights: `TNLIB_DATA`; by default `data/cache/`, or the user's cache."""
    if given := os.environ.get("TNLIB_DATA"):
        return Path(given)
    if IN_REPOSITORY:
        return ROOT / "data" / "cache"
    import platformdirs

    return platformdirs.user_cache_path("tnlib", appauthor=False)


def results() -> Path:
    """Folder that new records go to: `TNLIB_RESULTS`, by default `runs/results/`; only a maintainer publishes."""
    return Path(os.environ.get("TNLIB_RESULTS") or RUNS / "results")


def absolute(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment whose folders of ours are absolute: for a process that starts in another folder."""
    ours = [name for name in ("TNLIB_DATA", "TNLIB_RESULTS", "TNLIB_MIRROR") if environment.get(name)]
    return {**environment, **{name: str(Path(environment[name]).absolute()) for name in ours}}


def mirror() -> Path | None:
    """Local folder tried before any download: `TNLIB_MIRROR`, or None when it is not set."""
    folder = os.environ.get("TNLIB_MIRROR")
    return Path(folder) if folder else None


def needs_repository(what: str) -> str:
    """The sentence for something that no installed package holds, to be raised when `IN_REPOSITORY` is False."""
    return f"{what} is only in the workbook's repository, and this is not inside one: clone it and work there"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file whole or not at all: yields a temporary path beside `path`, renamed to it on success.

    The temporary file is flushed to disk before the rename and removed when the block raises.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=".part", delete=False) as handle:
        temporary = Path(handle.name)
    try:
        yield temporary
        with temporary.open("rb+") as handle:
            os.fsync(handle.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
