"""The README's tables of numbers: written from records by `tnlib sync`, never by hand."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence

import pandas as pd

from tnlib import paths
from tnlib.study.store import results

README = paths.ROOT / "README.md"


def networks() -> str:
    """The trained networks, from the records beside their weights, then the published ones that were measured."""
    rows = []
    for path in sorted(paths.WEIGHTS.glob("*.json")):
        r = json.loads(path.read_text())
        recipe = f"{r['epochs_done']} epochs, seed {r['recipe']['seed']}, {sum(r['seconds_per_epoch']) / 60:.0f} min"
        rows.append([f"`{r['model']}`", recipe, f"{r['test_accuracy']:.3%}", f"`data/weights/{path.name}`"])
    frame = results("accuracy")
    if not frame.empty:
        frame = frame[(frame["parameters.weights"] == "published") & (frame["parameters.subset"] == "full")]
        frame = frame.drop_duplicates("parameters.model", keep="last").sort_values("parameters.model")
    for _, r in frame.iterrows():
        name, score = r["parameters.model"], r["metrics.test_accuracy"]
        rows.append([f"`{name}`, published", "weights of others", f"{score:.3%}", f"`data/results/{r['record']}.json`"])
    return table(["network", "training", "accuracy, 10,000 test images", "record"], rows)


def published() -> str:
    """The errors that others published for these networks, with how sure we are of each."""
    frame = pd.read_csv(paths.REFERENCE / "networks.csv")
    rows = [
        [f"`{r.network}`", f"{r.value:.2%}", f"{r.paper}, {r.place}", f"{r.certainty}"]
        for r in frame.itertuples()
        if r.metric == "test_error"
    ]
    return table(["network", "published error", "source", "certainty"], rows)


def formats() -> str:
    """Accuracy and time in the newest published run of notebook 00, a row a format, a column a budget."""
    frame = results("compress-resnet20-formats")
    if frame.empty or not (frame["parameters.weights"] == "trained").any():
        return "No run is on record yet."
    frame = frame[frame["parameters.weights"] == "trained"]
    r = frame.iloc[-1]
    cells = {(row["format"], row["fraction"]): row for row in r["metrics.rows"]}
    names = list(dict.fromkeys(name for name, _ in cells))
    fractions = sorted({fraction for _, fraction in cells})
    rows = [
        [f"`{n}`", *(f"{cells[n, f]['accuracy']:.1%} at {cells[n, f]['time']:.2f}" for f in fractions)] for n in names
    ]
    cpu = r["machine.cpu"].split(" avx")[0]
    text = table(["format", *(f"at most {f:.0%} of each layer" for f in fractions)], rows)
    return (
        f"{text}\n\nThe original: {r['metrics.baseline']:.1%}. Record: `data/results/{r['record']}.json` "
        f"({r['metrics.test_images']} test images, one seed; batch {r['parameters.batch']}, {cpu}, "
        f"{r['machine.threads']} threads)."
    )


def sweeps() -> str:
    """The committed sweep files: what each is for (its first comment), its cells, and what they took."""
    from tnlib.study.sweep import load

    frame, rows = results(), []
    for path in sorted((paths.NOTEBOOKS / "sweeps").glob("*.yaml")):
        plan = load(path)
        done = frame[frame["run.sweep"] == plan.name].drop_duplicates("run.key")
        link = f"[{path.name}](notebooks/sweeps/{path.name})"
        purpose = path.read_text().splitlines()[0].removeprefix("#").strip()
        minutes = f"{done['run.seconds'].sum() / 60:.0f}" if len(done) else "not run"
        rows.append([link, purpose, str(len(plan.cells)), str(len(done)), minutes])
    return table(["sweep", "reproduces", "cells", "on record", "minutes"], rows)


def _in_the_middle(kills: pd.Series) -> int:
    """How many kills came when some records were there, but not all."""
    return sum(0 < row["records_when_killed"] < kills["parameters.cells"] for row in kills["metrics.rows"])


def benchmarks() -> str:
    """The newest record of each benchmark of the sweeps."""
    frame, rows = results(), []
    for study, say in {
        "sweep-overhead": lambda r: (
            f"{r['metrics.ratio']:.3f} of papermill's time a cell ({r['parameters.cells']:.0f} cells, one worker; "
            f"papermill's median {r['metrics.papermill_cell_median']:.2f} s)"
        ),
        "sweep-kills": lambda r: (
            f"{r['metrics.rounds']:.0f} kills, {r['metrics.exactly_one_record_a_cell']:.0f} times exactly one valid "
            f"record a cell after resuming ({_in_the_middle(r)} kills between the first record and the last)"
        ),
    }.items():
        newest = frame[frame["study"] == study]
        for _, r in newest.tail(1).iterrows():
            rows.append([f"`tnlib bench {study}`", say(r), f"`data/results/{r['record']}.json`"])
    return table(["benchmark", "result", "record"], rows)


TABLES: dict[str, Callable[[], str]] = {
    "networks": networks,
    "published": published,
    "formats": formats,
    "sweeps": sweeps,
    "benchmarks": benchmarks,
}


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def filled(text: str) -> str:
    """A text whose blocks `<!-- table: name -->` to `<!-- end -->` hold the tables of that name."""

    def block(match: re.Match[str]) -> str:
        return f"<!-- table: {match[1]} -->\n{TABLES[match[1]]()}\n<!-- end -->"

    return re.sub(r"<!-- table: (\w+) -->\n.*?<!-- end -->", block, text, flags=re.DOTALL)


def fill_readme() -> None:
    """Write the README's tables from the records."""
    text = README.read_text()
    with paths.replacing(README) as temporary:
        temporary.write_text(filled(text))
