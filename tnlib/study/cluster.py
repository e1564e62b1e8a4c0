"""Run a sweep: on threads here, each with a kernel of its own, on a Dask scheduler elsewhere, or in Slurm jobs.

Wherever it is, runs are submitted to an executor of `concurrent.futures`; what a run does is in `keyed_run`.
"""

from __future__ import annotations

import logging
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from tnlib import paths
from tnlib.provenance import code_digest
from tnlib.study.keyed_run import Outcome, Task, fail, is_whole, run_keyed
from tnlib.study.parameters import read_notebook
from tnlib.study.store import DamagedRecordError, made_by_other_code, quarantine, read_all
from tnlib.study.sweep import Run, Sweep, key


@dataclass
class State:
    """How a sweep stands in a store: runs by what is to be done with them; `stale` are those done by other code."""

    todo: list[Run] = field(default_factory=list)
    done: list[Run] = field(default_factory=list)
    stale: list[Run] = field(default_factory=list)
    failed: list[Run] = field(default_factory=list)
    studies: set[str] = field(default_factory=set)  # of the records of what is done
    damaged: list[str] = field(default_factory=list)  # and quarantined
    seconds: float | None = None  # of one run, as far as known

    def estimate(self, workers: int) -> float | None:
        """Seconds that what is to do will take."""
        return None if self.seconds is None else self.seconds * len(self.todo) / max(1, min(workers, len(self.todo)))


def state(sweep: Sweep, store: Path, *, retry: bool = False, refresh: bool = False, repair: bool = True) -> State:
    """Read a store and the published records: which runs are done, which failed, which are left.

    With `retry`, failed runs are to do again; with `refresh`, those that other code did. With `repair`, damaged records
    of the store are moved to its `damaged/` folder.
    """
    found, code = State(), code_digest(sweep.notebook)
    whole: dict[str, bool] = {}  # key -> whether it was done by today's code
    keys = {run.key for run in sweep.runs}
    seconds = []
    for folder in dict.fromkeys((store.resolve(), paths.PUBLISHED.resolve())):
        by_key: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for path, content in read_all(folder):
            if isinstance(content, DamagedRecordError):
                if folder == store.resolve() and (not repair or quarantine(path)):
                    found.damaged.append(str(content))
            elif "key" in (run := content["run"] or {}):
                by_key[key(run["digest"], run["parameters"])].append(content)
                if Path(run["notebook"]).name == sweep.notebook.name:
                    seconds.append(run["seconds"])
        for name, contents in by_key.items():
            if name in keys and is_whole(contents):
                found.studies |= {content["study"] for content in contents}
                fresh = all(made_by_other_code(content, code) is False for content in contents)
                whole[name] = fresh or whole.get(name, False)
    noted = {path.stem for path in (store / "failed").glob("*.json")}
    for run in sweep.runs:
        if whole.get(run.key) or (run.key in whole and not refresh):
            found.done.append(run)
            found.stale += [] if whole[run.key] else [run]
        else:
            (found.failed if run.key in noted and not retry else found.todo).append(run)
    published = read_notebook(sweep.notebook)["metadata"].get("tnlib", {}).get("seconds")
    found.seconds = float(median(seconds)) if seconds else published
    return found


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def executor(workers: int, scheduler: str | None = None, slurm: bool = False) -> Iterator[Executor]:
    """Workers: those of the Dask scheduler at an address, `workers` Slurm jobs, or `workers` threads here.

    Raises RuntimeError when the scheduler does not answer, ValueError when a package is not installed.
    """
    if scheduler is None and not slurm:
        from tnlib.study.engine import kernel_threads

        with kernel_threads(workers) as threads:
            yield threads
        return
    try:
        from distributed import Client

        if slurm:
            from dask_jobqueue.slurm import SLURMCluster
    except ImportError as error:
        raise ValueError(f"--slurm and --scheduler need {error.name}: pip install 'tnlib[slurm]'") from None
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    with ExitStack() as stack:
        cluster = stack.enter_context(SLURMCluster(n_workers=workers)) if slurm else scheduler
        try:
            client = stack.enter_context(Client(cluster, timeout="20s", set_as_default=False))
        except (OSError, ValueError) as error:
            raise RuntimeError(f"no Dask scheduler answers at {scheduler} ({error})") from None
        pool = client.get_executor(pure=False)
        stack.callback(pool.shutdown, wait=False)
        yield pool


def run_sweep(
    sweep: Sweep,
    runs: list[Run],
    store: Path,
    out: Path,
    *,
    workers: int,
    scheduler: str | None = None,
    slurm: bool = False,
    threads: int | None = None,
    keep: bool = False,
    refresh: bool = False,
    report: Callable[[Run, Outcome], None] = lambda run, outcome: None,
) -> None:
    """Do runs until all are done or the sweep's time limit has passed; `report` is told of each as it ends.

    Records go to `store`, executed copies of failed runs (of all with `keep`) to `out`; workers must see both under the
    same paths. Each run computes with `threads` threads: by default the cores are shared out here, and 1 elsewhere.
    On a running scheduler, as many runs go on at once as its workers have threads. With `refresh`, records that other
    code made do not count.
    """
    here = scheduler is None and not slurm
    common: dict[str, Any] = {
        "sweep": sweep.name,
        "notebook": str(sweep.notebook.resolve()),
        "results": str(store.resolve()),
        "out": str(out.resolve()),
        "threads": threads or (max(1, cores() // workers) if here else 1),
        "code": code_digest(sweep.notebook),
        "limit": sweep.cell_limit,
        "keep": keep,
        "refresh": refresh,
    }
    with executor(workers, scheduler, slurm) as pool:
        common["not_after"] = None if sweep.time_limit is None else time.time() + sweep.time_limit
        tasks = [Task(run.key, run.parameters, **common) for run in runs]
        pending: dict[Future[Outcome], tuple[Run, Task]] = {
            pool.submit(run_keyed, task): (run, task) for run, task in zip(runs, tasks, strict=True)
        }
        while pending:
            for future in wait(pending, return_when=FIRST_COMPLETED).done:
                run, task = pending.pop(future)
                try:
                    outcome = future.result()
                except Exception as error:  # the worker died again and again, or the store cannot be written
                    outcome = Outcome(run.key, "failed", 0.0, f"{type(error).__name__}: {error}")
                    fail(store, run.key, {"sweep": sweep.name, "error": outcome.message, "cell": "", "executed": ""})
                if outcome.status == "busy":  # somebody else does it: see what became of it, after all others
                    pending[pool.submit(run_keyed, task, wait=True)] = run, task
                else:
                    report(run, outcome)
