"""The tables of numbers in README and its sister pages, and its picture: written by `tnlib sync`, never by hand."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from tnlib import paths
from tnlib.study.parameters import read_notebook
from tnlib.study.store import DamagedRecordError, read_all, results
from tnlib.study.tables_formats import rows_of_formats, rows_of_int8
from tnlib.study.tables_others import rows_of_sentences, rows_of_speech
from tnlib.study.tables_peers import rows_of_peers
from tnlib.study.tables_scheme import rows_of_epochs, rows_of_scheme, spread

PAGES = [
    paths.ROOT / "README.md",
    paths.ROOT / "data" / "README.md",
    paths.NOTEBOOKS / "experiments" / "README.md",
    paths.NOTEBOOKS / "sweeps" / "README.md",
]
COVER = paths.NOTEBOOKS / "overview.png"


def networks() -> str:
    """The trained networks, from the records beside their weights, then the published ones that were measured."""
    rows = []
    for path in sorted(paths.WEIGHTS.glob("*.json")):
        r = json.loads(path.read_text())
        minutes = f"{sum(r['seconds_per_epoch']) / 60:.0f}"
        rows.append([f"`{r['model']}`", f"{r['epochs_done']}", minutes, f"{r['test_accuracy']:.2%}", f"`{path.name}`"])
    frame = results("accuracy")
    if not frame.empty:
        frame = frame[(frame["parameters.weights"] == "published") & (frame["parameters.subset"] == "full")]
        frame = frame.drop_duplicates("parameters.model", keep="last").sort_values("parameters.model")
    for _, r in frame.iterrows():
        name, score = r["parameters.model"], r["metrics.test_accuracy"]
        rows.append([f"`{name}`, weights of others", "", "", f"{score:.2%}", f"`{r['record']}.json`"])
    return table(["network", "epochs", "minutes", "accuracy, all test images", "record"], rows)


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
    """Accuracy and time in the newest published run of notebook 00: a row a format, two columns a budget."""
    frame = results("compress-resnet20-formats")
    if frame.empty or not (frame["parameters.weights"] == "trained").any():
        return "No run is on record yet."
    r = frame[frame["parameters.weights"] == "trained"].iloc[-1]
    cells = {(row["format"], row["fraction"]): row for row in r["metrics.rows"]}
    names = list(dict.fromkeys(name for name, _ in cells))
    fractions = sorted({fraction for _, fraction in cells})
    head = ["format", *(f"{what}, {f:.0%} of each layer" for f in fractions for what in ("accuracy", "time"))]
    rows = [
        [f"`{n}`", *(x for f in fractions for x in (f"{cells[n, f]['accuracy']:.1%}", f"{cells[n, f]['time']:.2f}"))]
        for n in names
    ]
    rows.append(["the original", *[f"{r['metrics.baseline']:.1%}", "1"] * len(fractions)])
    return (
        f"{table(head, rows)}\n\nRecord: `data/results/{r['record']}.json` ({r['metrics.test_images']} test images, "
        f"one seed; batch {r['parameters.batch']}, {_processor(r['machine.cpu'])}, {r['machine.threads']} threads)."
    )


def characters() -> str:
    """The character network after Lebedev et al. 2015: accuracy in the published sweep, speed in the benchmark."""
    frame, times = _full_size("replace-character-layers"), _full_size("bench-characters")
    if frame.empty or times.empty:
        return "No run is on record yet."
    names = [f"parameters.{name}" for name in ("method", "rank", "first_rank", "max_norm", "tune")]
    frame.loc[frame["parameters.method"] == "dense", "parameters.rank"] = 0
    bench, rows = times.iloc[-1], list[list[str]]()
    quick = {
        (row["rank"], row["first_rank"]): row
        for row in bench["metrics.times"]
        if (row["batch"], row["threads"], row["called"]) == (1, 1, "graph")
    }
    for (method, rank, first, bound, tune), group in frame.groupby(names):
        scores, row = group["metrics.accuracy"], quick.get((rank, first))
        options = [f"first layer {first}"] * bool(first) + [f"terms at most {bound:g}"] * bool(bound)
        options += ["all tuned"] * (tune == "all")
        what = (
            "dense, tuned as long" if method == "dense" else ", ".join([f"{str(method).upper()} rank {rank}", *options])
        )
        figures = [f"{group[f'metrics.relative_{k}'].iloc[0]:.1%}" for k in ("params", "macs")]
        speed = f"{row['speedup']:.1f}" if row and method != "dense" else ""
        spread = f"{scores.mean():.1%} ({scores.min():.1%} to {scores.max():.1%})"
        rows.insert(0 if method == "dense" else len(rows), [what, spread, str(len(group)), *figures, speed])
    before = frame["metrics.dense_accuracy"].iloc[0]
    rows.insert(0, ["the original", f"{before:.1%}", "1", "100.0%", "100.0%", "1"])
    head = ["second and third layer", "test accuracy", "seeds", "parameters", "MACs", "times faster"]
    return (
        f"{table(head, rows)}\n\nRecords: sweep `character_study`, {frame['metrics.test_images'].iloc[0]} test images; "
        f"times: `data/results/{bench['record']}.json` (one image, one thread, frozen, both sides as TorchScript "
        f"graphs, {_processor(bench['machine.cpu'])}). All ranks take turns."
    )


def digits() -> str:
    """Networks for digits after Novikov et al. 2015: error by size, in the published sweep."""
    frame = _full_size("train-digit-layers")
    if not frame.empty:
        told = frame[[f"parameters.{name}" for name in ("held_out", "dataset", "start")]]
        frame = frame[(told == [0, "mnist", "fresh"]).all(axis=1)]
    if frame.empty:
        return "No run is on record yet."
    frame = frame.assign(digits=frame["parameters.digits"].map(lambda digits: " ".join(map(str, digits))))
    names = [f"parameters.{name}" for name in ("format", "optimizer", "rank", "last", "last_rank", "padding", "epochs")]
    rows = []
    for (params, digits, form, optimizer, rank, last, last_rank, padding, epochs), group in frame.groupby(
        ["metrics.params", "digits", *names]
    ):
        matrix, train = f"matrix, rank {rank}, by {optimizer}", f"digits {digits}, rank {rank}"
        first = {"dense": "dense", "svd": matrix, "ttm": train}[str(form)]
        second = {"dense": "dense", "ttm": f"same digits, rank {last_rank}"}[str(last)]
        errors, seen = group["metrics.error"], "shifted" if padding else "as they are"
        spread = f"{errors.mean():.2%} ({errors.min():.2%} to {errors.max():.2%})"
        rows.append([first, second, f"{params:,}", spread, str(len(group)), str(epochs), seen])
    head = ["first layer", "second layer", "parameters in all", "test error", "seeds", "epochs", "training images"]
    images = frame["metrics.test_images"].iloc[0]
    return f"{table(head, rows[::-1])}\n\nRecords: sweeps `digits_study` and `lowrank_study`, {images} test images."


def compressed() -> str:
    """Whole networks at a share of their multiplications: accuracy as they were, raw, repaired and trained on."""
    frame = _full_size("compress-network")
    if not frame.empty:
        told = frame[["parameters.held_out", "parameters.choice"]]
        frame = frame[(told["parameters.held_out"] == 0) & (told["parameters.choice"] != "random")]
    if frame.empty:
        return "No run is on record yet."
    frame["parameters.formats"] = frame["parameters.formats"].map(" ".join)
    if "parameters.repair" not in frame:
        frame["parameters.repair"] = None
    frame["parameters.repair"] = frame["parameters.repair"].fillna("batchnorm")  # of records before there was a choice
    names = ("network", "budget", "choice", "formats", "metric", "repair", "epochs", "distill", "lr")
    rows = []
    for key, group in frame.groupby([f"parameters.{name}" for name in names]):
        how = dict(zip(names, key, strict=True))
        ranks = f"{how['choice']}, {how['formats']}, by `{how['metric']}`" if how["choice"] != "dense" else "dense"
        cells = [f"`{how['network']}`", f"{group['metrics.macs'].mean():.1%}", ranks]
        cells += [spread(group[f"metrics.{stage}_accuracy"]) for stage in ("original", "raw", "repaired")]
        cells.insert(
            5, "" if how["choice"] == "dense" else "in sequence" if how["repair"] == "sequence" else "BatchNorm"
        )
        rate = f"{how['epochs']}, rate {how['lr']:g}" + f", distilled by {how['distill']:g}" * bool(how["distill"])
        cells += [spread(group["metrics.tuned_accuracy"]), rate] if how["epochs"] else ["", "none"]
        rows.append([*cells, str(len(group))])
    head = ["network", "MACs left", "ranks", "original", "raw", "repair", "repaired", "trained on", "epochs", "seeds"]
    images = frame["metrics.test_images"].iloc[0]
    return f"{table(head, rows)}\n\nAccuracy on {images} test images. Records: sweeps `repair_study`, `halve_study`."


def _elsewhere(found: tuple[list[str], list[list[str]], str]) -> str:
    head, rows, line = found
    return f"{table(head, rows)}\n\n{line}" if rows else line


def sweeps() -> str:
    """The committed sweep files: what each is for (its first comment), its cells, and what they took."""
    from tnlib.study.sweep import load

    frame, rows = results(), []
    for path in sorted((paths.NOTEBOOKS / "sweeps").glob("*.yaml")):
        plan = load(path)
        made = frame[frame["run.sweep"] == plan.name].drop_duplicates("run.key")
        done = made["run.key"].isin([run.key for run in plan.runs])
        purpose = path.read_text().splitlines()[0].removeprefix("#").strip()
        minutes = f"{made['run.seconds'].sum() / 60:.0f}" if len(made) else "not run"
        older = f", and {(~done).sum()} made from an older text" * bool((~done).any())
        rows.append([f"[{path.name}]({path.name})", purpose, str(len(plan.runs)), f"{done.sum()}{older}", minutes])
    return table(["sweep", "question", "runs", "on record", "minutes"], rows)


def benchmarks() -> str:
    """The numbers in the newest full-size record of each benchmark notebook, a row each, a column a processor."""
    newest: dict[tuple[str, str], tuple[str, str, dict[str, Any]]] = {}
    for path, r in read_all(paths.PUBLISHED):
        if isinstance(r, DamagedRecordError) or not r["study"].startswith("bench-"):
            continue
        if r["parameters"]["profile"] == "full":
            place = (r["study"], _processor(r["machine"]["cpu"]))
            newest[place] = max(newest.get(place, ("", "", {})), (r["date"], path.stem, r["metrics"]))
    blocks = []
    for study in sorted({study for study, _ in newest}):
        found = {machine: run for (name, machine), run in sorted(newest.items()) if name == study}
        labels = dict.fromkeys(label for _, _, m in found.values() for label in m if _is_figure(m, label))
        rows = [[label.replace("_", " "), *(_three(m.get(label)) for _, _, m in found.values())] for label in labels]
        rows.append(["record", *(f"`{name}.json`" for _, name, _ in found.values())])
        blocks.append(f"### {study.replace('-', '_')}\n\n{table(['figure', *found], rows)}")
    return "\n\n".join(blocks) or "No full-size run is on record yet."


TABLES: dict[str, Callable[[], str]] = {
    "networks": networks,
    "published": published,
    "formats": formats,
    "characters": characters,
    "digits": digits,
    "sentences": lambda: _elsewhere(rows_of_sentences()),
    "speech": lambda: _elsewhere(rows_of_speech()),
    "alone": lambda: _elsewhere(rows_of_formats()),
    "peers": lambda: _elsewhere(rows_of_peers()),
    "int8": lambda: _elsewhere(rows_of_int8()),
    "sweeps": sweeps,
    "benchmarks": benchmarks,
    "compressed": compressed,
    "scheme": lambda: _elsewhere(rows_of_scheme()),
    "epochs": lambda: _elsewhere(rows_of_epochs()),
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


def fill_pages() -> None:
    """Write the pages' tables from the records, and README's picture."""
    for page in PAGES:
        text = filled(page.read_text())
        with paths.replacing(page) as temporary:
            temporary.write_text(text)
    with paths.replacing(COVER) as temporary:
        temporary.write_bytes(cover())


def cover() -> bytes:
    """The figure of notebook 00 whose cell has the tag `cover`, a PNG."""
    cells = read_notebook(paths.NOTEBOOKS / "00_start_here.ipynb")["cells"]
    (outputs,) = (cell["outputs"] for cell in cells if "cover" in cell["metadata"].get("tags", []))
    (image,) = (data for output in outputs if (data := output.get("data", {}).get("image/png")))
    return base64.b64decode(image)


def _full_size(study: str) -> pd.DataFrame:
    """The published records of a study with the profile `full`."""
    frame = results(study)
    return frame if frame.empty else frame.loc[frame["parameters.profile"] == "full"].copy()


def _processor(cpu: str) -> str:
    """The processor's name without its instruction sets, which are in the record."""
    return str(re.split(r" (?:avx|neon)", cpu)[0])


def _is_figure(metrics: dict[str, Any], label: str) -> bool:
    """A number that a table shows; the ends of its spread are in the record."""
    return type(metrics[label]) in (int, float) and not label.endswith(("_low", "_high"))


def _three(value: float | None) -> str:
    return "" if value is None else str(value) if isinstance(value, int) else f"{value:.3g}"
