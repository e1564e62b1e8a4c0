"""One run of a sweep, on whatever worker it lands: execute the notebook, and put its records into the store once.

Exactly once means: the run is claimed by a lock that the operating system drops when its holder dies, however it dies;
whether it is done is asked again under the lock; the notebook writes into a folder of its own; and its records go to
names that follow from the run's key, after the notebook has ended well.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from tnlib import paths
from tnlib.study.parameters import complete
from tnlib.study.run import about, run_notebook
from tnlib.study.store import DamagedRecordError, made_by_other_code, put, quarantine, read, record, sealed


@dataclass(frozen=True)
class Task:
    """A run and where it works; paths are texts because a worker may run another Python.

    With `refresh`, records of other code than `code` do not count; after `not_after` (a time stamp) it does not start.
    """

    key: str
    parameters: Mapping[str, Any]
    sweep: str
    notebook: str
    results: str
    out: str
    threads: int
    code: str
    limit: float | None = None
    keep: bool = False
    refresh: bool = False
    not_after: float | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of a run: `found` was done by somebody else meanwhile, `busy` is being done by somebody else."""

    key: str
    status: Literal["done", "found", "busy", "late", "failed"]
    seconds: float = 0.0
    message: str = ""


def run_keyed(task: Task, wait: bool = False) -> Outcome:
    """Run unless it is done or another process runs it; with `wait`, wait for that process to end first."""
    store = Path(task.results)
    with claim(store, task.key, wait=wait) as mine:
        if not mine:
            return Outcome(task.key, "busy")
        contents = [content for _, content in _records(store, task.key) if content is not None]
        if is_whole(contents) and not (
            task.refresh and any(made_by_other_code(c, task.code) is not False for c in contents)
        ):
            return Outcome(task.key, "found")
        if task.not_after is not None and time.time() > task.not_after:
            return Outcome(task.key, "late")
        staging = store / ".staging"
        for left in staging.glob(f"{task.key}-*"):  # by a holder that was killed
            shutil.rmtree(left, ignore_errors=True)
        staging.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"{task.key}-", dir=staging, ignore_cleanup_errors=True) as place:
            return _run(task, store, Path(place))


def is_whole(contents: Iterable[Mapping[str, Any]]) -> bool:
    """Whether records are all that a run wrote."""
    runs = [content["run"] for content in contents]
    return bool(runs) and {run["part"] for run in runs} == set(range(1, runs[0]["parts"] + 1))


def fail(store: Path, key: str, what: Mapping[str, Any]) -> None:
    """Note a failed run, in the place of an earlier note."""
    note = {"key": key, "date": datetime.now(UTC).isoformat(timespec="seconds"), "host": platform.node(), **what}
    with paths.replacing(store / "failed" / f"{key}.json") as temporary:
        temporary.write_text(json.dumps(note, indent=1) + "\n")


@contextmanager
def claim(store: Path, key: str, *, wait: bool = False) -> Iterator[bool]:
    """Hold the lock of a run; yields False when another process holds it, or went on holding it while we waited."""
    from tnlib.study.engine import is_ending

    path = store / ".locks" / key
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(os.fstat(handle), path.stat()):
                break  # or else the last holder removed the file between our opening and our locking it
        except BlockingIOError:
            if not wait or is_ending():
                os.close(handle)
                yield False
                return
            time.sleep(0.1)
        os.close(handle)
    try:
        yield True
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def _run(task: Task, store: Path, place: Path) -> Outcome:
    out, notebook = Path(task.out), Path(task.notebook)
    name = f"{notebook.stem}-{task.key}.ipynb"
    entries = {"key": task.key, "sweep": task.sweep}
    for chance in ("first", "second"):  # whoever killed a kernel may be about to kill us
        folder = place / chance
        folder.mkdir()
        run = run_notebook(
            notebook,
            task.parameters,
            out=out,
            results=folder,
            name=name,
            run=entries,
            threads=task.threads,
            timeout=task.limit,
        )
        if not run.died:
            break
    if not run.ok:
        what = {"parameters": dict(task.parameters), "error": run.error, "cell": run.failed_cell}
        fail(store, task.key, {"sweep": task.sweep, "notebook": notebook.name, **what, "executed": run.output.name})
        return Outcome(task.key, "failed", run.seconds, run.error)
    written = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    if not written:  # a notebook without a record: it ran, with these parameters
        study = re.sub(r"[^a-z0-9]+", "-", notebook.stem.lower()).strip("-")
        told = about(notebook, complete(notebook, task.parameters)) | entries
        written = [record(study, {}, folder=folder, run=told)]
    for old, content in _records(store, task.key):
        if content is None:
            quarantine(old)
        else:  # of other code, or of a run that was killed while it wrote
            (store / "replaced").mkdir(exist_ok=True)
            old.replace(store / "replaced" / f"{old.stem}-{content['sha256'][:12]}.json")
    for part, content in enumerate(map(read, written), 1):
        told = {**content["run"], "part": part, "parts": len(written), "seconds": round(run.seconds, 3)}
        ending = "" if len(written) == 1 else f"-{part}"
        put(sealed({**content, "run": told}), store / f"{content['study']}-{task.key}{ending}.json")
    (store / "failed" / f"{task.key}.json").unlink(missing_ok=True)
    run.output.with_stem(f"{run.output.stem}-failed").unlink(missing_ok=True)
    if not task.keep:
        run.output.unlink(missing_ok=True)
    return Outcome(task.key, "done", run.seconds)


def _records(store: Path, key: str) -> list[tuple[Path, dict[str, Any] | None]]:
    """The files of a run, with None for those that are damaged."""
    result: list[tuple[Path, dict[str, Any] | None]] = []
    for path in sorted({*store.glob(f"*-{key}.json"), *store.glob(f"*-{key}-*.json")}):
        try:
            result.append((path, read(path)))
        except DamagedRecordError:
            result.append((path, None))
        except FileNotFoundError:
            continue
    return result
