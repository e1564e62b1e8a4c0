"""What `tnlib run`, `sweep`, `results`, `new` and `bench` do. ValueError: a mistake in the call, told in one line."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tnlib import paths


def run(arguments: argparse.Namespace) -> int:
    """Check all parameters, then execute the notebooks one after the other."""
    from tnlib.study.parameters import complete, from_texts
    from tnlib.study.run import notebooks, run_notebook

    if arguments.record is not None:
        return _repeat(arguments)
    texts = dict(_assignment(text) for text in arguments.parameter)
    if arguments.profile:
        texts["profile"] = arguments.profile
    books = notebooks(arguments.notebook)
    given = [from_texts(book, texts) for book in books]
    for book, values in zip(books, given, strict=True):
        complete(book, values)
    runs = []
    for number, (book, values) in enumerate(zip(books, given, strict=True), 1):
        print(f"[{number}/{len(books)}] {book.stem}", flush=True)
        runs.append(run_notebook(book, values, out=arguments.out, progress=True))
        if not runs[-1].ok:
            print(f"\n{book.stem}, {runs[-1].failed_cell}\n\n{runs[-1].error}\n", flush=True)
    width = max((len(run.notebook) for run in runs), default=8)
    print(f"\n{'notebook':<{width}}  status  seconds  executed copy")
    for done in runs:
        print(
            f"{done.notebook:<{width}}  {'ok' if done.ok else 'FAILED':<6}  {done.seconds:>7.1f}  {_short(done.output)}"
        )
    return 0 if runs and all(run.ok for run in runs) else 1


def _repeat(arguments: argparse.Namespace) -> int:
    from tnlib.study.cli import main
    from tnlib.study.repeat import find, repeat
    from tnlib.study.run import notebooks

    if arguments.parameter or arguments.profile or len(arguments.notebook) > 1:
        raise ValueError("--from repeats a record as it was: it takes no parameters and at most one notebook's path")
    notebook = notebooks(arguments.notebook)[0] if arguments.notebook else None
    record = find(arguments.record)
    agreement = repeat(record, main, notebook=notebook, out=arguments.out, tolerance=arguments.tolerance)
    print(f"{record.stem}: {agreement}")
    return int(bool(agreement.apart))


def sweep(arguments: argparse.Namespace) -> int:
    """Validate the file, look what is done, run the rest."""
    from tnlib.study import cluster
    from tnlib.study.cell import Outcome
    from tnlib.study.sweep import Cell, load

    for name in ("workers", "threads"):
        if (number := getattr(arguments, name)) is not None and number < 1:
            raise ValueError(f"--{name} must be at least 1, got {number}")
    plan = load(arguments.file)
    store = paths.PUBLISHED if arguments.publish else arguments.results or paths.results()
    out = arguments.out or paths.RUNS / "sweeps" / plan.name
    now = cluster.state(plan, store, retry=arguments.retry, mend=not arguments.dry_run)
    for problem in now.set_aside:
        print(f"set aside: {problem}")
    workers = arguments.workers or min(cluster.cores(), max(1, len(now.todo)))
    left = now.estimate(workers)
    print(
        f"{plan.name}: {len(plan.cells)} cells of {plan.notebook.stem}: {len(now.done)} done, {len(now.failed)} failed "
        f"before, {len(now.todo)} to run; with {workers} workers about {'?' if left is None else _time(left)}",
        flush=True,
    )
    if arguments.dry_run:
        for cell in now.todo:
            print(f"  {cell.key}  {plan.describe(cell)}")
        return 0
    failures, count = 0, 0

    def report(cell: Cell, outcome: Outcome) -> None:
        nonlocal failures, count
        count += 1
        failures += outcome.status != "done" and outcome.status != "found"
        text = plan.describe(cell)
        print(
            f"[{count}/{len(now.todo)}] {outcome.status:<6} {outcome.seconds:6.1f} s  {text}  {outcome.message}",
            flush=True,
        )

    if now.todo:
        try:
            cluster.run_sweep(
                plan,
                now.todo,
                store,
                out,
                workers=workers,
                scheduler=arguments.scheduler,
                slurm=arguments.slurm,
                threads=arguments.threads,
                keep=arguments.keep,
                report=report,
            )
        except KeyboardInterrupt:
            print(f"interrupted: {count} of {len(now.todo)} ended; the same command goes on", file=sys.stderr)
            return 130
    skipped = len(now.todo) - count
    if skipped:
        print(f"{skipped} cells were left when the time limit of the sweep had passed; the same command goes on")
    if failures or now.failed:
        print(f"{failures + len(now.failed)} failed (their notes: {_short(store / 'failed')}); --retry runs them again")
    return int(bool(failures or skipped or now.failed))


def show_results(arguments: argparse.Namespace) -> int:
    """Choose records, then print or write them, or their summary."""
    import warnings

    from tnlib.study import report
    from tnlib.study.store import results

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        frame = results(arguments.study, arguments.folder)
    for warning in caught:
        print(f"tnlib: {warning.message}", file=sys.stderr)
    damaged = bool(caught)
    if not frame.empty:
        frame = report.select(frame, arguments.where)
    if frame.empty:
        print("no records" + (f" of {arguments.study}" if arguments.study else ""))
        return int(damaged)
    frame = frame.dropna(axis="columns", how="all")
    by = [name.strip() for name in (arguments.group_by or "").split(",") if name.strip()]
    if arguments.html is not None:
        if not by:
            raise ValueError("--html needs --group-by: what its figures compare")
        report.write_html(frame, arguments.html, by, arguments.metric, arguments.study or "All records")
    if arguments.parquet is not None:
        report.flat(frame).to_parquet(arguments.parquet, index=False)
    columns = ["record", "date", *(c for c in frame.columns if c.startswith(("parameters.", "metrics.")))]
    shown = report.summary(frame, by, arguments.metric) if by else frame[columns]
    if arguments.csv is not None:
        text = shown.to_csv(index=bool(by)) if by else report.flat(shown).to_csv(index=False)
        if arguments.csv == "-":
            print(text, end="")
        else:
            Path(arguments.csv).write_text(text)
    if not (arguments.csv or arguments.parquet or arguments.html):
        print(shown.to_string(index=bool(by)))
    return int(damaged)


def new(arguments: argparse.Namespace) -> int:
    """Write an experiment and its sweep."""
    from tnlib.study.new import new as write

    for path in write(arguments.name, arguments.folder):
        print(path)
    return 0


def bench(arguments: argparse.Namespace) -> int:
    """Run one benchmark, or list them."""
    from tnlib.study.bench import BENCHMARKS

    if arguments.name is None:
        for name, function in BENCHMARKS.items():
            print(f"{name:<16} {(function.__doc__ or '').splitlines()[0]}")
        return 0
    if arguments.name not in BENCHMARKS:
        raise ValueError(f"no benchmark {arguments.name!r}; there are {', '.join(BENCHMARKS)}")
    path = BENCHMARKS[arguments.name](arguments.size, paths.PUBLISHED if arguments.publish else None)
    print(f"recorded {path.name}")
    return 0


def _assignment(text: str) -> tuple[str, str]:
    """Split `name=value`."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise ValueError(f"a parameter is given as name=value, got {text!r}")
    return name, value


def _short(path: Path) -> Path:
    return path.relative_to(paths.ROOT) if path.is_relative_to(paths.ROOT) else path


def _time(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )
