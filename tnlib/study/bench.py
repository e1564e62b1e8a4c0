"""Benchmarks of the command line's own claims: `tnlib bench NAME`. Each returns the path of its record."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import nbformat
import numpy as np

from tnlib.study.bench_coupled import coupled
from tnlib.study.bench_layers import convolutions, layers
from tnlib.study.bench_products import products
from tnlib.study.store import DamagedRecordError, read_all, record

SOURCE = "tnlib bench"


def trivial(folder: Path, *, cells: int, seconds: float = 0.0) -> Path:
    """Write a notebook that squares a number, and a sweep of it with so many cells; returns the sweep's path."""
    book = nbformat.v4.new_notebook(
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    )
    book.cells = [
        nbformat.v4.new_code_cell("number: int = 0  # at least 0", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(f"import time\ntime.sleep({seconds})\nnumber**2"),
    ]
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(book, folder / "trivial.ipynb")
    path = folder / "trivial.yaml"
    path.write_text(f"notebook: trivial.ipynb\ngrid: {{number: {list(range(cells))}}}\n")
    return path


def command(sweep: Path, store: Path, *options: str) -> list[str]:
    """The command line of a sweep in a process of its own."""
    out = sweep.parent / "out"
    return [sys.executable, "-m", "tnlib", "sweep", str(sweep), "--results", str(store), "--out", str(out), *options]


def sweep_overhead(size: int | None = None, folder: Path | None = None) -> Path:
    """Time a cell of a 200-cell sweep with one worker, beside papermill called 100 times in one process.

    Half of papermill's calls run before the sweep and half after it, so that a drift of the machine hits both. The
    sweep is the whole command: interpreter, validation, scheduler, worker, store.
    """
    import papermill

    cells, rounds, started = size or 200, 1, time.perf_counter()
    bare: list[float] = []
    blocks: list[float] = []
    sweeps: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        path = trivial(place, cells=cells)

        def block(numbers: range) -> None:
            begin = time.perf_counter()
            for number in numbers:
                one = time.perf_counter()
                papermill.execute_notebook(
                    str(place / "trivial.ipynb"),
                    str(place / "bare.ipynb"),
                    parameters={"number": number},
                    kernel_name="python3",
                    progress_bar=False,
                )
                bare.append(time.perf_counter() - one)
            blocks.append((time.perf_counter() - begin) / len(numbers))

        block(range(2))  # imports
        bare.clear()
        blocks.clear()
        for number in range(rounds):
            block(range(cells // 4))
            begin = time.perf_counter()
            subprocess.run(
                command(path, place / f"store{number}", "--workers", "1"), check=True, stdout=subprocess.DEVNULL
            )
            sweeps.append((time.perf_counter() - begin) / cells)
            assert len(list((place / f"store{number}").glob("*.json"))) == cells
            block(range(cells // 4))
    ratios = [s / ((blocks[2 * i] + blocks[2 * i + 1]) / 2) for i, s in enumerate(sweeps)]
    low, high = sorted(bare)[len(bare) // 10], sorted(bare)[-1 - len(bare) // 10]
    metrics = {
        "ratio": median(ratios),
        "ratios": ratios,
        "sweep_seconds_per_cell": sweeps,
        "papermill_seconds_per_cell": blocks,
        "papermill_cell_median": median(bare),
        "papermill_cell_10_to_90_percent": [low, high],
    }
    print(f"sweep / papermill, a cell: {', '.join(f'{ratio:.3f}' for ratio in ratios)}")
    return _record("sweep-overhead", metrics, {"cells": cells, "workers": 1, "rounds": rounds}, started, folder)


def sweep_kills(size: int | None = None, folder: Path | None = None) -> Path:
    """Kill a sweep's driver at a random moment, resume it, and count the records; 20 times over.

    Every second time its workers and kernels are killed with it, as by a power cut.
    """
    rounds, cells, started, rng = size or 20, 6, time.perf_counter(), np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        path = trivial(Path(name), cells=cells, seconds=0.3)
        length = 0.0
        for number in range(-1, rounds):  # the first one runs undisturbed and tells how long it takes
            store = Path(name) / f"store{number}"
            begin = time.perf_counter()
            if number < 0:
                subprocess.run(command(path, store, "--workers", "2"), check=True, stdout=subprocess.DEVNULL)
                length = time.perf_counter() - begin
                continue
            after, whole = float(rng.uniform(0.1, 0.95)) * length, number % 2 == 1
            found = killed_and_resumed(path, store, [(0, after)], whole=whole)
            rows.append({"killed_after": after, "with_workers": whole, **found})
            print(f"[{number + 1}/{rounds}] killed after {after:.1f} s: {found}", flush=True)
    metrics = {
        "rounds": len(rows),
        "exactly_one_record_a_cell": sum(row["records"] == cells and row["distinct"] == cells for row in rows),
        "damaged": sum(row["damaged"] for row in rows),
        "undisturbed_seconds": length,
        "rows": rows,
    }
    return _record("sweep-kills", metrics, {"cells": cells, "workers": 2}, started, folder)


def killed_and_resumed(
    sweep: Path, store: Path, kills: list[tuple[int, float]], *, whole: bool = False
) -> dict[str, int]:
    """Start a sweep and kill it, for each of `kills`; then let it end, and count what is there.

    A kill comes so many seconds after the store holds so many records: (3, 0.5). With `whole` the workers and kernels
    are killed, too.
    """
    before = []
    for number, moment in kills:
        driver = subprocess.Popen(
            command(sweep, store, "--workers", "2"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        while driver.poll() is None and len(list(store.glob("*.json"))) < number:
            time.sleep(0.02)
        time.sleep(moment)
        victims = [driver.pid, *(_descendants(driver.pid) if whole else [])]
        for pid in victims:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        driver.wait()
        before.append(len(list(store.glob("*.json"))))
    subprocess.run(command(sweep, store, "--workers", "2"), check=True, stdout=subprocess.DEVNULL)
    contents = [content for _, content in read_all(store)]
    whole_ones = [content for content in contents if not isinstance(content, DamagedRecordError)]
    return {
        "records_when_killed": before[-1],
        "records": len(whole_ones),
        "distinct": len({content["parameters"]["number"] for content in whole_ones}),
        "damaged": len(contents) - len(whole_ones) + len(list((store / "damaged").glob("*"))),
    }


def _descendants(pid: int) -> list[int]:
    import psutil

    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _record(
    name: str, metrics: dict[str, Any], parameters: dict[str, Any], started: float, folder: Path | None
) -> Path:
    return record(
        name,
        metrics,
        parameters=parameters,
        source=f"{SOURCE} {name}",
        seconds=time.perf_counter() - started,
        folder=folder,
    )


BENCHMARKS: dict[str, Callable[[int | None, Path | None], Path]] = {
    "sweep-overhead": sweep_overhead,
    "sweep-kills": sweep_kills,
    "products": products,
    "layers": layers,
    "convolutions": convolutions,
    "coupled": coupled,
}
