"""Run a sweep's cells on Dask: worker processes here, a scheduler elsewhere, or Slurm jobs.

Dask starts workers, replaces those that die and runs their cells again; what a cell does is in `cell`.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from tnlib.study.cell import Outcome, Task, completed, fail, run_cell
from tnlib.study.parameters import read_notebook
from tnlib.study.store import DamagedRecordError, read_all, set_aside
from tnlib.study.sweep import Cell, Sweep


@dataclass
class State:
    """How a sweep stands in a store: cells by what is to be done with them, and damaged files that were set aside."""

    todo: list[Cell]
    done: list[Cell]
    failed: list[Cell]
    set_aside: list[str] = field(default_factory=list)
    seconds: float | None = None  # of one cell, as far as known

    def estimate(self, workers: int) -> float | None:
        """Seconds that the cells to do will take."""
        return None if self.seconds is None else self.seconds * len(self.todo) / max(1, min(workers, len(self.todo)))


def state(sweep: Sweep, store: Path, *, retry: bool = False, mend: bool = True) -> State:
    """Read a store: which cells are done, which failed (to do again with `retry`), which are left.

    With `mend`, damaged files are moved to the store's `damaged/` folder; their cells are then to do.
    """
    contents, aside = [], []
    for path, content in read_all(store):
        if not isinstance(content, DamagedRecordError):
            contents.append(content)
        elif not mend or set_aside(path):
            aside.append(str(content))
    done = completed(contents)
    noted = {path.stem for path in (store / "failed").glob("*.json")}
    parts: tuple[list[Cell], list[Cell], list[Cell]] = ([], [], [])
    for cell in sweep.cells:
        parts[1 if cell.key in done else 2 if cell.key in noted and not retry else 0].append(cell)
    return State(*parts, aside, _seconds_of_a_cell(sweep, contents))


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def client(workers: int, scheduler: str | None = None, slurm: bool = False) -> Iterator[Any]:
    """A Dask client: of the scheduler at an address, of `workers` Slurm jobs, or of `workers` processes here.

    Raises RuntimeError when the scheduler does not answer, ValueError when dask-jobqueue is not installed.
    """
    import dask
    from distributed import Client, LocalCluster

    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    with dask.config.set({"distributed.scheduler.allowed-failures": 3, "distributed.admin.tick.limit": "1h"}):
        if scheduler is not None:
            try:
                connection = Client(scheduler, timeout="20s", set_as_default=False)
            except (OSError, ValueError) as error:
                raise RuntimeError(f"no Dask scheduler answers at {scheduler} ({error})") from None
            with connection:
                yield connection
            return
        if slurm:
            try:
                from dask_jobqueue.slurm import SLURMCluster
            except ImportError:
                raise ValueError("--slurm needs dask-jobqueue: pip install 'tnlib[slurm]'") from None
            cluster: Any = SLURMCluster(n_workers=workers)
        else:
            cluster = LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                memory_limit=0,
                silence_logs=logging.CRITICAL,
            )
        with cluster, Client(cluster, set_as_default=False) as connection:
            yield connection


def run_sweep(
    sweep: Sweep,
    cells: list[Cell],
    store: Path,
    out: Path,
    *,
    workers: int,
    scheduler: str | None = None,
    slurm: bool = False,
    threads: int | None = None,
    keep: bool = False,
    report: Callable[[Cell, Outcome], None] = lambda cell, outcome: None,
) -> list[Outcome]:
    """Run cells until all are done or the sweep's time limit has passed; `report` is told of each as it ends.

    Args:
        sweep: where the cells come from.
        cells: those to run.
        store: folder of the records; workers must see it under the same path.
        out: folder for the executed copies of failed cells, and of all with `keep`.
        workers: how many cells at once; on a running scheduler, as many as its workers have threads.
        scheduler: address of a running Dask scheduler.
        slurm: start the workers as Slurm jobs, configured by dask-jobqueue's own file.
        threads: that each cell computes with; by default the cores are shared out here, and 1 elsewhere.
        keep: keep the executed copies of all cells.
        report: called in this process.

    Returns:
        One outcome for each cell that ended; cells that the time limit left out have none.
    """
    from distributed import as_completed

    here = scheduler is None and not slurm
    threads = threads or (max(1, cores() // workers) if here else 1)
    tasks = {
        cell.key: Task(
            cell.key,
            cell.parameters,
            sweep.name,
            str(sweep.notebook.resolve()),
            str(store.resolve()),
            str(out.resolve()),
            threads,
            sweep.cell_limit,
            keep,
        )
        for cell in cells
    }
    by_key, waiting, busy = {cell.key: cell for cell in cells}, list(tasks), list[str]()
    outcomes: list[Outcome] = []
    with client(workers, scheduler, slurm) as connection:
        started = time.monotonic()
        running, futures = as_completed(loop=connection.loop), dict[Any, str]()

        def refill() -> None:
            late = sweep.time_limit is not None and time.monotonic() - started > sweep.time_limit
            slots = max(workers if here or slurm else 1, sum(connection.nthreads().values()))
            while (waiting or busy) and len(futures) < slots and not late:
                wait = not waiting  # only what somebody else runs is left: wait for it
                key = (waiting or busy).pop(0)
                future = connection.submit(run_cell, tasks[key], wait, pure=False, key=f"{key}-{time.monotonic_ns()}")
                futures[future] = key
                running.add(future)

        refill()
        while futures:
            future = next(running)
            key = futures.pop(future)
            try:
                outcome = future.result()
            except Exception as error:  # the worker died again and again, or the store cannot be written
                outcome = Outcome(key, "failed", 0.0, f"{type(error).__name__}: {error}")
                fail(store, key, {"sweep": sweep.name, "error": outcome.message, "cell": "", "executed": ""})
            future.release()
            if outcome.status == "busy":
                busy.append(key)
            else:
                outcomes.append(outcome)
                report(by_key[key], outcome)
            refill()
    return outcomes


def _seconds_of_a_cell(sweep: Sweep, contents: list[dict[str, Any]]) -> float | None:
    """From earlier runs of the notebook in the store, or else from when it was published."""
    name = sweep.notebook.name
    runs = [content["run"] for content in contents if content["run"]]
    seconds = [r["seconds"] for r in runs if "seconds" in r and Path(r["notebook"]).name == name]
    if seconds:
        return float(median(seconds))
    published = read_notebook(sweep.notebook)["metadata"].get("tnlib", {}).get("seconds")
    return None if published is None else float(published)
