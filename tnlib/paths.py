"""Where the workbook keeps its files. Environment variables win over the defaults; nothing is created on import."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile

ROOT = Path(__file__).resolve().parent.parent
EMBEDDED = ROOT / "data" / "embedded"
WEIGHTS = ROOT / "data" / "weights"
PUBLISHED = ROOT / "data" / "results"
REFERENCE = ROOT / "data" / "reference"
NOTEBOOKS = ROOT / "notebooks"
RUNS = ROOT / "runs"


def cache() -> Path:
    """Folder of the full data sets and fetched weights: `TNLIB_DATA`, by default `data/cache/`."""
    return Path(os.environ.get("TNLIB_DATA") or ROOT / "data" / "cache")


def results() -> Path:
    """Folder that new records go to: `TNLIB_RESULTS`, by default `runs/results/`; only a maintainer publishes."""
    return Path(os.environ.get("TNLIB_RESULTS") or RUNS / "results")


def mirror() -> Path | None:
    """Local folder tried before any download: `TNLIB_MIRROR`, or None when it is not set."""
    folder = os.environ.get("TNLIB_MIRROR")
    return Path(folder) if folder else None


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
