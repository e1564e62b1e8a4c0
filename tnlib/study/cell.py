"""One cell of a sweep, on whatever worker it lands: run the notebook, and put its records into the store once.

Exactly once means: the cell is claimed by a lock that the operating system drops when its holder dies, however it dies;
whether it is done is asked again under the lock; the notebook writes into a folder of its own; and its records go to
names that follow from the cell's key, after the notebook has ended well.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from tnlib import paths
from tnlib.study.parameters import complete, digest
from tnlib.study.run import run_notebook
from tnlib.study.store import DamagedRecordError, put, read, record, sealed, set_aside


@dataclass(frozen=True)
class Task:
    """A cell and where it works; paths are texts because a worker may run another Python."""

    key: str
    parameters: Mapping[str, Any]
    sweep: str
    notebook: str
    results: str
    out: str
    threads: int
    limit: float | None = None
    keep: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of a cell: `found` was done by somebody else meanwhile, `busy` is being run by somebody else."""

    key: str
    status: Literal["done", "found", "busy", "failed", "interrupted"]
    seconds: float = 0.0
    message: str = ""


def run_cell(task: Task, wait: bool = False) -> Outcome:
    """Run a cell unless it is done or another process runs it; with `wait`, wait for that process to end first."""
    store = Path(task.results)
    with claim(store, task.key, wait=wait) as mine:
        if not mine:
            return Outcome(task.key, "busy")
        if is_done(store, task.key):
            return Outcome(task.key, "found")
        staging = store / ".staging" / task.key
        try:
            return _run(task, store, staging)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def is_done(store: Path, key: str) -> bool:
    """Whether the store holds all records of a cell, each valid."""
    return _whole([content for _, content in _records(store, key) if content is not None])


def completed(contents: list[dict[str, Any]]) -> set[str]:
    """Keys of the cells that are done, from all records of a store."""
    by_key: dict[str, list[dict[str, Any]]] = {}
    for content in contents:
        if key := (content["run"] or {}).get("key"):
            by_key.setdefault(key, []).append(content)
    return {key for key, parts in by_key.items() if _whole(parts)}


def fail(store: Path, key: str, what: Mapping[str, Any]) -> None:
    """Note a failed cell, in the place of an earlier note."""
    note = {"key": key, "date": datetime.now(UTC).isoformat(timespec="seconds"), "host": platform.node(), **what}
    with paths.replacing(store / "failed" / f"{key}.json") as temporary:
        temporary.write_text(json.dumps(note, indent=1) + "\n")


@contextmanager
def claim(store: Path, key: str, *, wait: bool = False) -> Iterator[bool]:
    """Hold the lock of a cell; yields False when another process holds it."""
    path = store / ".locks" / key
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(handle)
            yield False
            return
        if path.exists() and os.path.samestat(os.fstat(handle), path.stat()):
            break
        os.close(handle)  # the last holder removed the file between our opening and our locking it
    try:
        yield True
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def _run(task: Task, store: Path, staging: Path) -> Outcome:
    out, notebook = Path(task.out), Path(task.notebook)
    name = f"{notebook.stem}-{task.key}.ipynb"
    for _ in range(2):  # a kernel that was killed gets a second chance: whoever killed it may be about to kill us
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        run = run_notebook(
            notebook,
            task.parameters,
            out=out,
            results=staging,
            name=name,
            run={"key": task.key, "sweep": task.sweep},
            threads=task.threads,
            timeout=task.limit,
        )
        if not run.died:
            break
    if run.error.startswith("KeyboardInterrupt"):
        return Outcome(task.key, "interrupted", run.seconds)
    contents = []
    if run.ok:
        contents = [read(path) for path in sorted(staging.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)]
    else:
        what = {"parameters": dict(task.parameters), "error": run.error, "cell": run.failed_cell, "executed": name}
        fail(store, task.key, {"sweep": task.sweep, "notebook": notebook.name, **what})
        return Outcome(task.key, "failed", run.seconds, run.error)
    if not contents:
        contents = [read(_bare(task, notebook, staging))]
    for old, _ in _records(store, task.key):  # damaged, or of a run that was killed while it wrote
        set_aside(old)
    for part, content in enumerate(contents, 1):
        told = {**content["run"], "part": part, "parts": len(contents), "seconds": round(run.seconds, 3)}
        ending = "" if len(contents) == 1 else f"-{part}"
        put(sealed({**content, "run": told}), store / f"{content['study']}-{task.key}{ending}.json")
    (store / "failed" / f"{task.key}.json").unlink(missing_ok=True)
    if not task.keep:
        run.output.unlink(missing_ok=True)
    return Outcome(task.key, "done", run.seconds)


def _bare(task: Task, notebook: Path, staging: Path) -> Path:
    """The record of a notebook that wrote none: it ran, with these parameters."""
    values = complete(notebook, task.parameters)
    seed = values.get("seed")
    return record(
        re.sub(r"[^a-z0-9]+", "-", notebook.stem.lower()).strip("-"),
        {},
        parameters=values,
        source=notebook.name,
        seed=seed if isinstance(seed, int) else None,
        folder=staging,
        run={
            "notebook": notebook.name,
            "digest": digest(notebook),
            "parameters": values,
            "key": task.key,
            "sweep": task.sweep,
        },
    )


def _records(store: Path, key: str) -> list[tuple[Path, dict[str, Any] | None]]:
    """The files of a cell, with None for those that are damaged."""
    result: list[tuple[Path, dict[str, Any] | None]] = []
    for path in sorted({*store.glob(f"*-{key}.json"), *store.glob(f"*-{key}-*.json")}):
        try:
            result.append((path, read(path)))
        except DamagedRecordError:
            result.append((path, None))
        except FileNotFoundError:
            continue
    return result


def _whole(contents: list[dict[str, Any]]) -> bool:
    parts = {content["run"]["part"] for content in contents}
    return bool(contents) and parts == set(range(1, contents[0]["run"]["parts"] + 1))
