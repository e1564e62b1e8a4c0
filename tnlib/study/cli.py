"""The command line, `tnlib` or `python -m tnlib`. Exit status: 0 done, 1 something failed, 2 a mistake in the call."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tnlib.study import commands


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the arguments, run the command, and turn expected errors into one line."""
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.command(arguments))
    except (ValueError, TypeError) as error:
        print(f"tnlib: {error}", file=sys.stderr)
        return 2
    except (RuntimeError, OSError) as error:
        print(f"tnlib: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("tnlib: interrupted", file=sys.stderr)
        return 130


def _data(arguments: argparse.Namespace) -> int:
    from tnlib import data

    names = arguments.name or list(data.DATASETS)
    if arguments.action == "fetch":
        for name in names:
            print(f"{name}: from {data.fetch(name)}", flush=True)
        return 0
    states = {name: data.verify(name) for name in names}
    if arguments.action == "list":
        for name, state in states.items():
            info = data.dataset_info(name)
            embedded = "yes" if data.embedded_file(name, "train").is_file() else "no"
            full = "cached" if set(state.values()) == {"ok"} else "damaged" if "damaged" in state.values() else "absent"
            print(f"{name:<14} {'x'.join(map(str, info.shape)):<8} embedded: {embedded:<4} full: {full}")
        return 0
    for name, state in states.items():
        for key, value in state.items():
            print(f"{name:<14} {key:<13} {value}")
    return int(any(value != "ok" for state in states.values() for value in state.values()))


def _train(arguments: argparse.Namespace) -> int:
    from tnlib import train

    train.train(arguments.name, device=arguments.device, resume=not arguments.fresh)
    return 0


def _accuracy(arguments: argparse.Namespace) -> int:
    import time

    from tnlib import data, models, paths, train
    from tnlib.study.store import record

    model, dataset = models.load(arguments.name, arguments.weights), models.model_info(arguments.name).dataset
    images, started = data.load(dataset, "test", arguments.subset), time.perf_counter()
    score = train.accuracy(model, images)
    print(f"{arguments.name}, {arguments.weights}: {score:.3%} of {len(images)} {dataset} test images")
    path = record(
        "accuracy",
        {"test_accuracy": score, "test_images": len(images)},
        parameters={"model": arguments.name, "weights": arguments.weights, "subset": arguments.subset},
        source=f"tnlib accuracy {arguments.name} --weights {arguments.weights} --subset {arguments.subset}",
        seconds=time.perf_counter() - started,
        folder=paths.PUBLISHED if arguments.publish else None,
    )
    print(f"recorded {path.name}")
    return 0


def _check(arguments: argparse.Namespace) -> int:
    import runpy

    from tnlib.check import EXERCISES

    if arguments.file is None:
        for exercise in EXERCISES.values():
            print(f"{exercise.notebook:<16} {exercise.name}")
        return 0
    if not arguments.file.is_file():
        raise ValueError(f"no file {arguments.file}; expected a Python file with your functions")
    try:
        answers = runpy.run_path(str(arguments.file))
    except (Exception, SystemExit) as error:  # whatever the learner's file raises
        raise ValueError(f"{arguments.file} does not run: {type(error).__name__}: {error}") from None
    verdicts = [check(answers[name]) for name, check in EXERCISES.items() if name in answers]
    if not verdicts:
        raise ValueError(f"{arguments.file} defines none of the exercises: {', '.join(EXERCISES)}")
    print(*verdicts, sep="\n")
    return int(not all(verdicts))


def _sync(arguments: argparse.Namespace) -> int:
    from tnlib.study.publish import publish, sources
    from tnlib.study.readme import fill_readme

    chosen = [s for s in sources() if not arguments.name or s.stem.startswith(tuple(arguments.name))]
    if not chosen:
        raise ValueError(f"no notebook source begins with {', '.join(arguments.name)}")
    for source in chosen:
        print(publish(source), flush=True)
    fill_readme()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tnlib", description="The Tensor Compression Workbook's command line.")
    subparsers = parser.add_subparsers(title="commands", required=True)

    def command(name: str, function: Any, text: str, example: str) -> argparse.ArgumentParser:
        sub = subparsers.add_parser(name, help=text, description=text, epilog=f"example: {example}")
        sub.set_defaults(command=function)
        return sub

    run = command("run", commands.run, "Execute notebooks from fresh kernels into a folder.", "tnlib run 00 -p batch=8")
    run.add_argument("notebook", nargs="*", help="number, name, title or path; all lessons when none is given")
    run.add_argument("-p", "--parameter", action="append", default=[], metavar="NAME=VALUE", help="set a parameter")
    run.add_argument("--profile", help="short for -p profile=...")
    run.add_argument("--out", type=Path, help="folder of the executed copies and their records (default: runs/)")
    run.add_argument("--from", dest="record", metavar="RECORD", help="repeat what wrote a record, and compare")
    run.add_argument(
        "--tolerance", type=float, default=1e-6, help="with --from: relative difference that still agrees (1e-6)"
    )

    sweep = command(
        "sweep", commands.sweep, "Run a notebook with many parameter sets.", "tnlib sweep rank_study.yaml --dry-run"
    )
    sweep.add_argument(
        "file", type=Path, help="the sweep, YAML: notebook, parameters, grid, list, random, seeds, limits"
    )
    sweep.add_argument("--workers", type=int, help="cells at once (default: one for each core)")
    where = sweep.add_mutually_exclusive_group()
    where.add_argument("--scheduler", metavar="ADDRESS", help="run on a Dask scheduler, tcp://host:8786")
    where.add_argument("--slurm", action="store_true", help="run in Slurm jobs (configured for dask-jobqueue)")
    sweep.add_argument("--threads", type=int, help="that each cell computes with (default: the cores shared out)")
    target = sweep.add_mutually_exclusive_group()
    target.add_argument("--results", type=Path, help="folder of the records (default: runs/results/)")
    target.add_argument("--publish", action="store_true", help="record in data/results/")
    sweep.add_argument("--out", type=Path, help="folder of executed copies (default: runs/sweeps/NAME/)")
    sweep.add_argument(
        "--keep", action="store_true", help="keep the executed copies of all cells, not only of failed ones"
    )
    sweep.add_argument("--retry", action="store_true", help="run cells again that failed before")
    sweep.add_argument("--dry-run", action="store_true", help="say what would run and how long it would take")

    new = command("new", commands.new, "Write an experiment notebook and a sweep to start from.", "tnlib new my_study")
    new.add_argument("name", help="lower-case letters, digits and underscores")
    new.add_argument("--folder", type=Path, default=Path(), help="where to (default: here)")

    bench = command("bench", commands.bench, "Run a benchmark and record it; nothing else should run.", "tnlib bench")
    bench.add_argument("name", nargs="?", help="which; without, they are listed")
    bench.add_argument("--publish", action="store_true", help="record in data/results/ instead of runs/results/")
    bench.add_argument("--size", type=int, help="how much of it (cells, rounds); a smaller one is for trying")

    data = command("data", _data, "List, fetch or verify the full data sets.", "tnlib data fetch cifar10")
    data.add_argument("action", choices=("list", "fetch", "verify"))
    data.add_argument("name", nargs="*", help="data sets; all when none is given")

    train = command("train", _train, "Train a network on its full data set.", "tnlib train mlp1024-mnist")
    train.add_argument("name", help="a network with a recipe")
    train.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    train.add_argument("--fresh", action="store_true", help="start again instead of resuming from the last epoch")

    accuracy = command(
        "accuracy", _accuracy, "Measure a network on test images and record it.", "tnlib accuracy quick-cifar10"
    )
    accuracy.add_argument("name", help="a known network")
    accuracy.add_argument("--weights", choices=("trained", "published"), default="trained")
    accuracy.add_argument("--subset", choices=("embedded", "full"), default="full", help="of the test images")
    accuracy.add_argument("--publish", action="store_true", help="record in data/results/ instead of runs/results/")

    check = command("check", _check, "List the exercises, or check the functions in a file.", "tnlib check answers.py")
    check.add_argument("file", nargs="?", type=Path, help="Python file that defines functions named like the exercises")

    results = command(
        "results",
        commands.show_results,
        "Show, choose, summarise and export records.",
        "tnlib results one-layer --where rank=16 --group-by format",
    )
    results.add_argument("study", nargs="?", help="only the records of this study")
    results.add_argument("--folder", type=Path, help="the store (default: the published records, data/results/)")
    results.add_argument(
        "--where", action="append", default=[], metavar="CONDITION", help="rank=8, format!=cp, rank<=16, ..."
    )
    results.add_argument("--group-by", metavar="NAMES", help="mean, spread and n for each value of these: rank,format")
    results.add_argument(
        "--metric", action="append", default=[], metavar="NAME", help="of these metrics (default: all)"
    )
    results.add_argument(
        "--csv", nargs="?", const="-", metavar="FILE", help="comma-separated values, shown or to a file"
    )
    results.add_argument("--parquet", metavar="FILE", help="all columns, as Parquet")
    results.add_argument("--html", type=Path, metavar="FILE", help="a report with figures; needs --group-by")

    sync = command("sync", _sync, "Execute notebook sources; write notebooks and README tables.", "tnlib sync 00")
    sync.add_argument("name", nargs="*", help="beginnings of names; all sources when none is given")
    return parser
