"""The commands `run`, `sweep`, `results` and `new`. ValueError: a mistake in the call, told in one line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from tnlib import paths

PATH = click.Path(path_type=Path)


@click.command(epilog="example: tnlib run 00 -p batch=8")
@click.argument("names", metavar="[NOTEBOOK]...", nargs=-1)
@click.option("-p", "--parameter", "assignments", multiple=True, metavar="NAME=VALUE", help="set a parameter")
@click.option("--profile", help="short for -p profile=...")
@click.option("--out", type=PATH, help="folder of the executed copies and their records (default: runs/)")
@click.option("--from", "record", metavar="RECORD", help="repeat what wrote a record, and compare")
@click.option("--tolerance", default=1e-6, help="with --from: relative difference that still agrees (1e-6)")
def run(
    names: tuple[str, ...],
    assignments: tuple[str, ...],
    profile: str | None,
    out: Path | None,
    record: str | None,
    tolerance: float,
) -> int:
    """Execute notebooks from fresh kernels into a folder.

    A NOTEBOOK is a number, a name, words of a title, or a path; without one, all lessons are run.
    """
    from tnlib.study.parameters import complete, parameters_of
    from tnlib.study.repeat import find, repeat
    from tnlib.study.run import notebooks, run_notebook

    if record is not None:
        if assignments or profile or len(names) > 1:
            raise ValueError("--from repeats a record as it was: no parameters, and at most one notebook's path")
        apart = repeat(find(record), notebook=notebooks(names)[0] if names else None, out=out, tolerance=tolerance)
        print(*(f"apart: {line}" for line in apart), sep="\n", end="\n" if apart else "")
        return int(bool(apart))
    texts = _assigned([*assignments, *([f"profile={profile}"] if profile else [])])
    books = notebooks(names)
    given, runs = [], []
    for book in books:
        known = parameters_of(book)
        given.append({name: known[name].from_text(text) if name in known else text for name, text in texts.items()})
        complete(book, given[-1], known)
    for number, (book, values) in enumerate(zip(books, given, strict=True), 1):
        print(f"[{number}/{len(books)}] {book.stem}", flush=True)
        runs.append(run_notebook(book, values, out=out, progress=True))
        if not runs[-1].ok:
            print(f"\n{book.stem}, {runs[-1].failed_cell}\n\n{runs[-1].error}\n", flush=True)
    width = max(len(run.notebook) for run in runs)
    print(f"\n{'notebook':<{width}}  status  seconds  executed copy")
    for done in runs:
        status = "ok" if done.ok else "FAILED"
        print(f"{done.notebook:<{width}}  {status:<6}  {done.seconds:>7.1f}  {_short(done.output)}")
    return int(not all(run.ok for run in runs))


@click.command(epilog="example: tnlib sweep rank_study.yaml --dry-run")
@click.argument("file", type=PATH)
@click.option("--workers", type=click.IntRange(1), help="runs at once (default: one for each core)")
@click.option("--scheduler", metavar="ADDRESS", help="run on a Dask scheduler, tcp://host:8786")
@click.option("--slurm", is_flag=True, help="run in Slurm jobs (configured for dask-jobqueue)")
@click.option("--threads", type=click.IntRange(1), help="that each run computes with (default: the cores shared out)")
@click.option("--results", type=PATH, help="folder of the records (default: runs/results/)")
@click.option("--publish", is_flag=True, help="record in data/results/")
@click.option("--out", type=PATH, help="folder of executed copies (default: runs/sweeps/NAME/)")
@click.option("--keep", is_flag=True, help="keep the executed copies of all runs, not only of failed ones")
@click.option("--retry", is_flag=True, help="do runs again that failed before")
@click.option("--refresh", is_flag=True, help="do runs again whose records other code made")
@click.option("--dry-run", is_flag=True, help="say what would run and how long it would take")
def sweep(
    file: Path,
    *,
    results: Path | None,
    publish: bool,
    out: Path | None,
    workers: int | None,
    retry: bool,
    dry_run: bool,
    **options: Any,
) -> int:
    """Run a notebook with many parameter sets: those of FILE that are not on record yet.

    FILE is YAML: notebook, parameters, grid, list, random, seeds, time_limit, cell_limit. Ctrl-C stops; the same
    command goes on.
    """
    print(f"{file}: reading the sweep and the records", flush=True)
    from tnlib.study import cluster
    from tnlib.study.keyed_run import Outcome
    from tnlib.study.sweep import Run, load

    if (results and publish) or (options["scheduler"] and options["slurm"]):
        raise ValueError("--results and --publish exclude each other, and so do --scheduler and --slurm")
    plan = load(file)
    store = paths.PUBLISHED if publish else results or paths.results()
    now = cluster.state(plan, store, retry=retry, refresh=options["refresh"], repair=not dry_run)
    for problem in now.damaged:
        print(f"damaged: {problem}")
    workers = workers or min(cluster.cores(), max(1, len(now.todo)))
    left = now.estimate(workers)
    print(
        f"{plan.name}: {len(plan.runs)} runs of {plan.notebook.stem}: {len(now.done)} done, {len(now.failed)} failed "
        f"before, {len(now.todo)} to run" + (f"; with {workers} workers {_time(left)}" if now.todo else ""),
        flush=True,
    )
    if dry_run:
        for todo in now.todo:
            print(f"  {todo.key}  {plan.describe(todo)}")
        _end(now, store)
        return 0
    count = 0

    def report(run: Run, outcome: Outcome) -> None:
        nonlocal count
        if outcome.status != "late":
            count += 1
            line = f"[{count}/{len(now.todo)}] {outcome.status:<6} {outcome.seconds:6.1f} s  {plan.describe(run)}"
            print(f"{line}  {outcome.message}".rstrip(), flush=True)

    if now.todo:
        print(f"first: {plan.describe(now.todo[0])} ... (Ctrl-C stops, and the same command goes on)", flush=True)
        try:
            place = out or paths.RUNS / "sweeps" / plan.name
            cluster.run_sweep(plan, now.todo, store, place, workers=workers, report=report, **options)
        except KeyboardInterrupt:
            print(f"interrupted: {count} of {len(now.todo)} ended; the same command goes on", file=sys.stderr)
            return 130
        now = cluster.state(plan, store, refresh=options["refresh"], repair=False)
    if now.todo:
        print(f"{len(now.todo)} runs were left when the sweep's time limit had passed; the same command goes on")
    return _end(now, store) or int(bool(now.todo))


@click.command(epilog="example: tnlib results compress-one-layer --where rank=18 --group-by format")
@click.argument("study", required=False)
@click.option("--folder", type=PATH, help="the store (default: the published records and runs/results/)")
@click.option("--where", multiple=True, metavar="CONDITION", help="rank=8, format!=cp, rank<=16, ...")
@click.option("--group-by", metavar="NAMES", help="mean, spread and n for each value of these: rank,format")
@click.option("--metric", multiple=True, metavar="NAME", help="of these metrics (default: all)")
@click.option("--csv", is_flag=False, flag_value="-", metavar="[FILE]", help="all columns, shown or to a file")
@click.option("--json", is_flag=False, flag_value="-", metavar="[FILE]", help="the same as JSON")
@click.option("--parquet", metavar="FILE", help="the same as Parquet")
@click.option("--html", type=PATH, metavar="FILE", help="a report with figures; needs --group-by")
def results(
    study: str | None,
    folder: Path | None,
    where: tuple[str, ...],
    group_by: str | None,
    metric: tuple[str, ...],
    csv: str | None,
    json: str | None,
    parquet: str | None,
    html: Path | None,
) -> int:
    """List the studies on record; show, choose, summarise and export the records of one STUDY."""
    from tnlib.study import report

    by = [name.strip() for name in (group_by or "").split(",") if name.strip()]
    if html and not by:
        raise ValueError("--html needs --group-by: what its figures compare")
    folders = [folder] if folder else list(dict.fromkeys((paths.PUBLISHED, paths.results())))
    frame, damaged = _read(folders)
    if study:
        study = report.find_study(frame, study)
        frame = frame[frame["study"] == study].dropna(axis="columns", how="all")
    if frame.empty:
        print(f"no records in {' and '.join(str(_short(folder)) for folder in folders)}")
        return damaged
    frame = report.select(frame, where)
    if frame.empty:
        print(f"no records with {' and '.join(where)}")
        return damaged
    shown = report.summary(frame, by, metric) if by else report.flat(frame)
    if html is not None:
        report.write_html(frame, html, by, metric, study or "All records")
    if parquet is not None:
        report.flat(frame).to_parquet(parquet, index=False)
    if csv is not None:
        _write(csv, shown.to_csv(index=bool(by)))
    if json is not None:
        _write(json, (shown.reset_index() if by else frame).to_json(orient="records", indent=1) + "\n")
    if not (csv or json or parquet or html):
        if by:
            print(shown.to_string())
        elif study or where:
            unwanted = [c for c in frame.columns if c.startswith("metrics.") and c.partition(".")[2] not in metric]
            print(report.text(frame.drop(columns=unwanted) if metric else frame))
        else:
            print(f"{report.studies(frame).to_string(index=False)}\n\ntnlib results STUDY shows its records")
    return damaged


@click.command(epilog="example: tnlib new my_study")
@click.argument("name")
@click.option("--folder", type=PATH, default=Path(), help="where to (default: here)")
def new(name: str, folder: Path) -> None:
    """Write NAME.ipynb, an experiment to start from, and NAME.yaml, a sweep of it.

    NAME is made of lower-case letters, digits and underscores.
    """
    from tnlib.study.new import new as write

    book, plan = write(name, folder)
    print(f"{book}\n{plan}\nnext: tnlib sweep {plan}, then tnlib results {name.replace('_', '-')}")


def _read(folders: list[Path]) -> tuple[Any, int]:
    """The records of folders, each once, and 1 if some are damaged, which is told."""
    import warnings

    import pandas as pd

    from tnlib.study.store import results as records

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        frames = [frame for folder in folders if len(frame := records(None, folder))]
    for warning in caught:
        print(f"tnlib: {warning.message}", file=sys.stderr)
    if not frames:
        return pd.DataFrame(), int(bool(caught))
    return pd.concat(frames).drop_duplicates("record", ignore_index=True), int(bool(caught))


def _write(target: str, text: str) -> None:
    if target == "-":
        print(text, end="")
    else:
        Path(target).write_text(text)


def _assigned(assignments: list[str]) -> dict[str, str]:
    """Texts by name, of `name=value`."""
    texts: dict[str, str] = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"a parameter is given as name=value, got {assignment!r}")
        if name in texts:
            raise ValueError(f"the parameter {name} is given twice: {texts[name]} and {value}")
        texts[name] = value
    return texts


def _end(now: Any, store: Path) -> int:
    """Say what a sweep's state is, and which command comes next."""
    if now.stale:
        print(
            f"{len(now.stale)} of {len(now.done)} done by other code, or by code that they do not name: "
            "--refresh runs them again"
        )
    if now.failed:
        print(f"{len(now.failed)} failed (their notes: {_short(store / 'failed')}); --retry runs them again")
    if now.studies:
        folder = "" if store in (paths.PUBLISHED, paths.results()) else f" --folder {store}"
        print(f"see them: {'; '.join(f'tnlib results {study}{folder}' for study in sorted(now.studies))}")
    return int(bool(now.failed))


def _short(path: Path) -> Path:
    return path.relative_to(paths.ROOT) if path.is_relative_to(paths.ROOT) else path


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "an unknown time"
    for size, unit in ((7200, "h"), (120, "min")):
        if seconds >= size:
            return f"about {seconds / {'h': 3600, 'min': 60}[unit]:.1f} {unit}"
    return f"about {seconds:.0f} s"


COMMANDS = (run, sweep, results, new)
