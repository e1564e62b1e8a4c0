"""Repeat the run that a record comes from, and say how closely the new numbers agree with its numbers."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tnlib import paths
from tnlib.study.parameters import digest
from tnlib.study.run import run_notebook
from tnlib.study.store import read, read_all


def find(name: str) -> Path:
    """A record by its path, or by its name in the published results or the default store. ValueError if none is."""
    for place in (Path(name), *(folder / f"{Path(name).stem}.json" for folder in (paths.PUBLISHED, paths.results()))):
        if place.is_file():
            return place
    raise ValueError(f"no record {name!r}; expected a path, or a name that `tnlib results STUDY` shows")


def repeat(path: Path, *, notebook: Path | None = None, out: Path | None = None, tolerance: float = 1e-6) -> list[str]:
    """Run a record's notebook again, in a folder of its own; print how the metrics agree, and what differs from then.

    Args:
        path: the record.
        notebook: used instead of the one that the record names (it lies elsewhere, say).
        out: folder of the executed copy, by default `runs/repeat/`.
        tolerance: relative difference up to which two numbers agree.

    Returns:
        The metrics that disagree, one line each.

    Raises:
        DamagedRecordError: the record itself. ValueError: no notebook wrote it, or the notebook is gone.
        RuntimeError: the repetition failed or wrote no record of the same study with the same parameters.
    """
    old, folder = read(path), out or paths.RUNS / "repeat"
    if not old["run"]:
        raise ValueError(f"no notebook wrote {path.name}, it comes from: {old['source']}")
    book = notebook or paths.ROOT / old["run"]["notebook"]
    if not book.is_file():
        raise ValueError(f"the record names {old['run']['notebook']}, which is not here; give its path, too")
    if digest(book) != old["run"]["digest"]:
        print(f"{book.name} is not the same code as then; `git checkout {old['commit'].split('+')[0]}` has it")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix="records-") as name:
        run = run_notebook(book, old["run"]["parameters"], out=folder, results=Path(name), progress=sys.stderr.isatty())
        if not run.ok:
            raise RuntimeError(f"the repetition failed: {run.error} ({run.output})")
        contents = [content for _, content in read_all(Path(name)) if isinstance(content, dict)]
    same = ("study", "parameters", "seed")
    again = [content for content in contents if all(content[entry] == old[entry] for entry in same)]
    if not again and old["metrics"]:
        raise RuntimeError(f"the repetition wrote no record of {old['study']} with the same parameters")
    new = again[min(old["run"].get("part", 1), len(again)) - 1] if again else old
    for what in ("versions", "machine"):
        for entry, then in old[what].items():
            if new[what].get(entry) != then:
                print(f"{what}, {entry}: {then} then, {new[what].get(entry)} now")
    return compare(old["metrics"], new["metrics"], tolerance)


def compare(old: Mapping[str, Any], new: Mapping[str, Any], tolerance: float) -> list[str]:
    """Compare two `metrics`, value by value, and print how closely they agree; returns lines on those that do not."""
    then, now, apart, largest = dict(leaves(old)), dict(leaves(new)), [], 0.0
    names = dict.fromkeys([*then, *now])
    for name in names:
        a, b = then.get(name, "nothing"), now.get(name, "nothing")
        difference = float(a != b)
        if isinstance(a, float | int) and isinstance(b, float | int) and a != b:
            difference = abs(a - b) / max(abs(a), abs(b))
        largest = max(largest, difference)
        if difference > tolerance:
            apart.append(f"{name}: {a} then, {b} now")
    equal = sum(name in then and name in now and then[name] == now[name] for name in names)
    print(f"{len(names)} values, {equal} of them equal to the last digit; largest relative difference {largest:.1e}")
    return apart


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Numbers and texts in nested mappings and lists, with names like `rows[3].error`."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from leaves(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from leaves(item, f"{name}[{index}]")
    else:
        yield name, value
