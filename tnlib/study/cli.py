"""The command line, `tnlib` or `python -m tnlib`. Exit status: 0 done, 1 something failed, 2 a mistake in the call."""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


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


def _run(arguments: argparse.Namespace) -> int:
    from tnlib import paths
    from tnlib.study.run import check_parameters, notebooks, run_notebook

    parameters = dict(_assignment(text) for text in arguments.parameter)
    if arguments.profile:
        parameters["profile"] = arguments.profile
    books = notebooks(arguments.notebook)
    for book in books:
        check_parameters(book, parameters)
    runs = []
    for number, book in enumerate(books, 1):
        print(f"[{number}/{len(books)}] {book.stem}", flush=True)
        runs.append(run_notebook(book, parameters, out=arguments.out, progress=True))
        if not runs[-1].ok:
            print(f"\n{book.stem}, {runs[-1].failed_cell}\n\n{runs[-1].error}\n", flush=True)
    width = max((len(run.notebook) for run in runs), default=8)
    print(f"\n{'notebook':<{width}}  status  seconds  executed copy")
    for run in runs:
        where = run.output.relative_to(paths.ROOT) if run.output.is_relative_to(paths.ROOT) else run.output
        print(f"{run.notebook:<{width}}  {'ok' if run.ok else 'FAILED':<6}  {run.seconds:>7.1f}  {where}")
    return 0 if runs and all(run.ok for run in runs) else 1


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


def _results(arguments: argparse.Namespace) -> int:
    from tnlib.study.store import results

    frame = results(arguments.study, arguments.folder)
    if frame.empty:
        print("no records" + (f" of {arguments.study}" if arguments.study else ""))
        return 0
    columns = ["record", "date", *(c for c in frame.columns if c.startswith(("parameters.", "metrics.")))]
    shown = frame[columns].dropna(axis="columns", how="all")
    print(shown.to_csv(index=False) if arguments.csv else shown.to_string(index=False))
    return 0


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


def _assignment(text: str) -> tuple[str, Any]:
    """Split `name=value`; the value is a Python literal, or a string when it is not one."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise ValueError(f"a parameter is given as name=value, got {text!r}")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tnlib", description="The Tensor Compression Workbook's command line.")
    commands = parser.add_subparsers(title="commands", required=True)

    def command(name: str, function: Any, text: str, example: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text, epilog=f"example: {example}")
        sub.set_defaults(command=function)
        return sub

    run = command("run", _run, "Execute notebooks from fresh kernels into a folder.", "tnlib run 00 -p batch=8")
    run.add_argument("notebook", nargs="*", help="number, name or path; all lessons when none is given")
    run.add_argument("-p", "--parameter", action="append", default=[], metavar="NAME=VALUE", help="set a parameter")
    run.add_argument("--profile", choices=("quick", "full"), help="short for -p profile=...")
    run.add_argument("--out", type=Path, help="folder of the executed copies and their records (default: runs/)")

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

    results = command("results", _results, "Show the records.", "tnlib results compress-resnet20 --csv")
    results.add_argument("study", nargs="?", help="only the records of this study")
    results.add_argument(
        "--folder", type=Path, help="where the records lie (default: the published ones, data/results)"
    )
    results.add_argument("--csv", action="store_true", help="as comma-separated values")

    sync = command("sync", _sync, "Execute notebook sources; write notebooks and README tables.", "tnlib sync 00")
    sync.add_argument("name", nargs="*", help="beginnings of names; all sources when none is given")
    return parser
