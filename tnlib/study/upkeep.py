"""The commands `data`, `train`, `accuracy`, `check` and, for maintainers, `sync`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tnlib import paths

PATH = click.Path(path_type=Path)


@click.command(epilog="example: tnlib data fetch cifar10")
@click.argument("action", type=click.Choice(["list", "fetch", "verify"]))
@click.argument("names", metavar="[NAME]...", nargs=-1)
def data(action: str, names: tuple[str, ...]) -> int:
    """List, fetch or verify the full data sets; all of them when no NAME is given."""
    from tnlib import data

    names = names or tuple(data.DATASETS)
    if action == "fetch":
        for name in names:
            print(f"{name}: from {data.fetch(name)}", flush=True)
        return 0
    states = {name: data.verify(name) for name in names}
    if action == "list":
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


@click.command(epilog="example: tnlib train mlp1024-mnist")
@click.argument("name")
@click.option("--device", default="auto", help="auto, cpu, cuda, ...")
@click.option("--fresh", is_flag=True, help="start again instead of resuming from the last epoch")
def train(name: str, device: str, fresh: bool) -> None:
    """Train the network NAME on its full data set."""
    from tnlib import train

    train.train(name, device=device, resume=not fresh)


@click.command(epilog="example: tnlib accuracy quick-cifar10 --subset embedded")
@click.argument("name")
@click.option("--weights", type=click.Choice(["trained", "published"]), default="trained")
@click.option("--subset", type=click.Choice(["embedded", "full"]), default="full", help="of the test images")
@click.option("--publish", is_flag=True, help="record in data/results/ instead of runs/results/")
def accuracy(name: str, weights: Any, subset: Any, publish: bool) -> None:
    """Measure the network NAME on test images and record it."""
    import time

    from tnlib import data, models, train
    from tnlib.study.store import record

    model, dataset = models.load(name, weights), models.model_info(name).dataset
    images, started = data.load(dataset, "test", subset), time.perf_counter()
    score = train.accuracy(model, images)
    print(f"{name}, {weights}: {score:.3%} of {len(images)} {dataset} test images")
    path = record(
        "accuracy",
        {"test_accuracy": score, "test_images": len(images)},
        parameters={"model": name, "weights": weights, "subset": subset},
        source=f"tnlib accuracy {name} --weights {weights} --subset {subset}",
        seconds=time.perf_counter() - started,
        folder=paths.PUBLISHED if publish else None,
    )
    print(f"recorded {path.name}")


@click.command(epilog="example: tnlib check answers.py")
@click.argument("file", type=PATH, required=False)
def check(file: Path | None) -> int:
    """Show your progress over all exercises, or check the functions in a Python FILE that are named like exercises.

    Progress is what your saved copies of the lessons show, in learn/ (make lab, or tnlib learn).
    """
    import runpy

    from tnlib.check import EXERCISES

    if file is None:
        _show_progress()
        return 0
    if not file.is_file():
        raise ValueError(f"no file {file}; expected a Python file with your functions")
    try:
        answers = runpy.run_path(str(file))
    except (Exception, SystemExit) as error:  # whatever the learner's file raises
        raise ValueError(f"{file} does not run: {type(error).__name__}: {error}") from None
    verdicts = [verify(answers[name]) for name, verify in EXERCISES.items() if name in answers]
    if not verdicts:
        raise ValueError(f"{file} defines none of the exercises: {', '.join(EXERCISES)}")
    print(*verdicts, sep="\n")
    return int(not all(verdicts))


def _show_progress() -> None:
    import textwrap

    from tnlib.check import EXERCISES
    from tnlib.study.learner import FOLDER, SIGNS, progress

    found = progress()
    for lesson in dict.fromkeys(exercise.notebook for exercise in EXERCISES.values()):
        names = [name for name, exercise in EXERCISES.items() if exercise.notebook == lesson]
        solved = sum(found[name] is True for name in names)
        marks = "  ".join(f"{SIGNS[found[name]]}\N{NO-BREAK SPACE}{name}" for name in names)
        print(f"{lesson}: {solved} of {len(names)}")
        print(textwrap.fill(marks, 100, initial_indent="  ", subsequent_indent="  "))
    solved = sum(passed is True for passed in found.values())
    print(f"\n{solved} of {len(found)} solved; ✗ wrong when last saved, ○ not attempted")
    if not FOLDER.is_dir():
        print("next: make lab (or tnlib learn), which copies the lessons for you to work in")


@click.command(epilog="example: tnlib learn")
@click.option("--folder", type=PATH, help="of your copies (default: learn/, which git ignores)")
def learn(folder: Path | None) -> None:
    """Copy the lessons into a folder of your own, and bring what has changed since.

    A copy in which you have answered is never overwritten: the new lesson is written beside it.
    """
    if not paths.IN_REPOSITORY:
        raise ValueError(paths.needs_repository("what lessons are copied from"))
    from tnlib.study.learner import FOLDER, update

    place = folder or FOLDER
    changes = update(place)
    new = [change for change in changes if change.kind == "new"]
    for change in changes:
        size = f"{change.cells} cell{'s' * (change.cells != 1)}"
        if change.kind == "updated" and change.path.suffix != ".ipynb":
            print(f"{change.name} has changed; yours was as copied, and is the new one now")
        elif change.kind == "updated":
            print(f"{change.name} has changed ({size}); yours held no answer, and is the new one now")
        if change.kind == "beside":
            print(f"{change.name} has changed ({size}); yours stays, the new one is {change.path.name}")
    if new:
        print(f"{len(new)} files copied")
    if not changes:
        print("nothing has changed")
    shown = place.resolve()
    print(f"your copies: {shown.relative_to(paths.ROOT) if shown.is_relative_to(paths.ROOT) else shown}/")


@click.command(epilog="example: tnlib sync 00")
@click.argument("names", metavar="[NAME]...", nargs=-1)
def sync(names: tuple[str, ...]) -> None:
    """Execute the notebook sources that begin with a NAME, or all; write notebooks and tables (maintainers)."""
    from tnlib.study.publish import publish, sources
    from tnlib.study.tables import fill_pages

    if not paths.IN_REPOSITORY:
        raise ValueError(paths.needs_repository("what sync works on"))
    chosen = [source for source in sources() if not names or source.stem.startswith(names)]
    if not chosen:
        raise ValueError(f"no notebook source begins with {', '.join(names)}")
    for source in chosen:
        print(publish(source), flush=True)
    fill_pages()


COMMANDS = (data, train, accuracy, check, learn, sync)
