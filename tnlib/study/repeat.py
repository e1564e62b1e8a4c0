"""Repeat what a record tells, and say how closely the new numbers agree with its numbers."""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tnlib import paths
from tnlib.study.parameters import digest
from tnlib.study.run import run_notebook
from tnlib.study.store import read, read_all


@dataclass
class Agreement:
    """Values of a record beside those of its repetition; relative differences, of the larger magnitude."""

    values: int = 0
    equal: int = 0
    largest: float = 0.0
    where: str = ""
    apart: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        text = f"{self.values} values, {self.equal} of them equal to the last digit"
        if self.largest:
            text += f"; largest relative difference of the rest {self.largest:.1e}, at {self.where}"
        return text + "".join(f"\n  apart: {line}" for line in self.apart)


def find(name: str) -> Path:
    """A record by its path, or by its name in the published results or the default store. ValueError if none is."""
    places = [Path(name), *(folder / f"{Path(name).stem}.json" for folder in (paths.PUBLISHED, paths.results()))]
    for place in places:
        if place.is_file():
            return place
    raise ValueError(f"no record {name!r}; expected a path, or a name that `tnlib results` shows")


def repeat(
    path: Path,
    command: Callable[[Sequence[str]], int],
    *,
    notebook: Path | None = None,
    out: Path | None = None,
    tolerance: float = 1e-6,
    say: Callable[[str], None] = print,
) -> Agreement:
    """Run again what wrote a record, in a folder of its own, and compare.

    Args:
        path: the record.
        command: runs a command line of tnlib, for records that a command wrote.
        notebook: used instead of the one that the record names (it lies elsewhere, say).
        out: folder of the executed copy, by default `runs/repeat/`.
        tolerance: relative difference up to which two numbers agree.
        say: told what differs from then: code, versions, machine.

    Raises:
        DamagedRecordError: the record itself. ValueError: it does not tell how it was made, or the notebook is gone.
        RuntimeError: the repetition failed or wrote no record of the same study with the same parameters.
    """
    old, folder = read(path), out or paths.RUNS / "repeat"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix="records-") as name:
        if old["run"]:
            book = notebook or paths.ROOT / old["run"]["notebook"]
            if not book.is_file():
                raise ValueError(f"the record names {old['run']['notebook']}, which is not here; give its path, too")
            if digest(book) != old["run"]["digest"]:
                say(f"{book.name} is not the same code as then; `git checkout {old['commit'].split('+')[0]}` has it")
            run = run_notebook(
                book, old["run"]["parameters"], out=folder, results=Path(name), progress=sys.stderr.isatty()
            )
            if not run.ok:
                raise RuntimeError(f"the repetition failed: {run.error} ({run.output})")
        elif old["source"].startswith("tnlib "):
            before = os.environ.get("TNLIB_RESULTS")
            os.environ["TNLIB_RESULTS"] = name
            try:
                if status := command(shlex.split(old["source"])[1:]):
                    raise RuntimeError(f"the repetition failed: `{old['source']}` exited with {status}")
            finally:
                os.environ.pop("TNLIB_RESULTS")
                if before is not None:
                    os.environ["TNLIB_RESULTS"] = before
        else:
            raise ValueError(f"{path.name} does not tell which run wrote it (source: {old['source']})")
        new = _same(old, [content for _, content in read_all(Path(name)) if isinstance(content, dict)])
    for what in ("versions", "machine"):
        changed = {key: (value, new[what].get(key)) for key, value in old[what].items() if new[what].get(key) != value}
        for key, (then, now) in changed.items():
            say(f"{what}, {key}: {then} then, {now} now")
    return compare(old["metrics"], new["metrics"], tolerance)


def compare(old: Mapping[str, Any], new: Mapping[str, Any], tolerance: float) -> Agreement:
    """Compare two `metrics`, leaf by leaf; a leaf that only one has is apart."""
    result, now = Agreement(), dict(leaves(new))
    then = dict(leaves(old))
    for name in [*then, *(name for name in now if name not in then)]:
        result.values += 1
        a, b = then.get(name), now.get(name)
        if name in then and name in now and a == b:
            result.equal += 1
            continue
        if isinstance(a, int | float) and isinstance(b, int | float) and not isinstance(a, bool):
            difference = abs(a - b) / max(abs(a), abs(b))
            if difference > result.largest:
                result.largest, result.where = difference, name
            if difference <= tolerance:
                continue
        missing = "nothing"
        result.apart.append(f"{name}: {a if name in then else missing} then, {b if name in now else missing} now")
    return result


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


def _same(old: Mapping[str, Any], contents: list[dict[str, Any]]) -> dict[str, Any]:
    """The new record that corresponds to an old one."""
    of_study = [content for content in contents if content["study"] == old["study"]]
    exact = [c for c in of_study if c["parameters"] == old["parameters"] and c["seed"] == old["seed"]]
    part = (old["run"] or {}).get("part", 1)
    if not old["metrics"] and not contents:
        return dict(old)  # a notebook that writes no record: that it ran is all there is
    if len(exact) == 1 or (exact and len(exact) >= part):
        return exact[0 if len(exact) == 1 else part - 1]
    raise RuntimeError(f"the repetition wrote no record of {old['study']} with the same parameters")
