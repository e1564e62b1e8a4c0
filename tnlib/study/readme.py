"""The README's tables of numbers: written from records by `tnlib sync`, never by hand."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

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


def _in_the_middle(kills: dict[str, Any]) -> int:
    """How many kills came when some records were there, but not all."""
    cells = kills["parameters"]["cells"]
    return sum(0 < row["records_when_killed"] < cells for row in kills["metrics"]["rows"])


def _layers(r: dict[str, Any]) -> str:
    fc6, grid = r["metrics"]["vgg_fc6"], r["metrics"]["grid"]
    parts = []
    for name, case in fc6.items():
        ours, median = case["speedup_over_dense"]["tnlib"][0], {k: v["median"] for k, v in case["milliseconds"].items()}
        others = [f"{median[k] / median['tnlib']:.1f}x {k}" for k in ("tensorly-torch", "torchTT") if k in median]
        if "products_alone" in case:
            bound = median["dense"] / case["products_alone"]["milliseconds"]
            others.append(f"its products alone, in cache, would be {bound:.0f}x")
        parts.append(f"{name}: {', '.join([f'{ours:.0f}x the dense layer', *others])}")
    memory = fc6["training step, batch 100"]
    parts.append(f"peak of extra memory in training {memory['peak_bytes'] / memory['input_bytes']:.1f} times the input")
    parts.append(
        f"{len(grid['rows'])} random shapes: at worst {grid['worst']:.2f} times the time of the better of dense and "
        f"plain sweep; median error of the predicted time {grid['median_model_error']:.0%}"
    )
    return f"TT 25088 -> 4096, rank 4, {'; '.join(parts)}"


def _spread(records: list[dict[str, Any]]) -> str:
    machines: dict[str, list[dict[str, Any]]] = {}
    for r in records:
        machines.setdefault(_processor(r), []).append(r["metrics"])
    parts = []
    for machine, metrics in machines.items():
        ratios = {
            name: [m["vgg_fc6"][name]["speedup_over_dense"]["tnlib"][0] for m in metrics]
            for name in metrics[0]["vgg_fc6"]
        }
        ranges = [f"{name} {_range(values)}" for name, values in ratios.items()]
        worst = max(m["grid"]["worst"] for m in metrics)
        parts.append(f"{len(metrics)} on {machine}: {', '.join(ranges)}, random shapes at worst {worst:.2f}")
    return f"; over the dense layer in all {len(records)} records, {'; '.join(parts)}"


def _range(ratios: list[float]) -> str:
    low, high = f"{min(ratios):.0f}x", f"{max(ratios):.0f}x"
    return low if low == high else f"{low} to {high}"


def _processor(r: dict[str, Any]) -> str:
    """The processor's name without its instruction sets, which are in the record."""
    return str(re.split(r" (?:avx|neon)", r["machine"]["cpu"])[0])


def _products(r: dict[str, Any]) -> str:
    median, high = r["metrics"]["error_fitted"]
    return (
        f"the planner's cost model, fitted to two thirds of {r['parameters']['products']:.0f} random matrix products: "
        f"error on the others {median:.0%} in the median, {high:.0%} at 90 %"
    )


def _convolutions(r: dict[str, Any]) -> str:
    conv, tucker = r["metrics"]["alexnet_conv2"], r["metrics"]["tucker2_at_half_ranks"]
    bound = conv[f"dense_{conv['dense_format']}"][0] / sum(conv["steps_alone"])
    return (
        f"AlexNet conv2, CP rank 140, batch 1: {conv['speedup'][0]:.1f}x the dense layer in its faster memory format "
        f"(its steps alone, in cache, {bound:.1f}x); "
        f"Tucker-2 at half ranks, batch {tucker['batch']}: {tucker['share']:.2f} of the MAC reduction becomes speed "
        f"(ResNet-20 shapes {tucker['share_resnet20']:.2f}, VGG-16 shapes {tucker['share_vgg16']:.2f})"
    )


def _coupled(r: dict[str, Any]) -> str:
    eight, twelve = r["metrics"]["order_8"], r["metrics"]["order_12"]
    chain, ratio = eight["coupled"], eight["parafac_to_coupled_seconds"]["median"]
    excess = [point["polished"]["excess_db"] for point in r["metrics"]["bound"]]
    tucker = [point["hosvd_to_chain_seconds"]["median"] for point in r["metrics"]["tucker"]]
    accuracy = [point["chain_to_hosvd_nmse"]["median"] for point in r["metrics"]["tucker"]]
    return (
        f"order 8, size 5, rank 3, 20 dB, {r['parameters']['draws']:.0f} draws: "
        f"median NMSE {chain['nmse']['median']:.1e}, largest {chain['nmse']['max']:.1e}, "
        f"{ratio:.0f} times as fast as parafac from a random start and "
        f"{eight['parafac_svd_to_coupled_seconds']['median']:.0f} times as from its default one; "
        f"order 12: error {twelve['relative_error']:.0e} in {twelve['seconds']:.1f} s; "
        f"polished, orders 4 to 8, 10 to 40 dB: {min(excess):+.1f} to {max(excess):+.1f} dB from the Cramer-Rao bound; "
        f"Tucker, orders 6 to 8: {min(accuracy):.2f} to {max(accuracy):.2f} of HOSVD's NMSE, "
        f"{min(tucker):.1f} to {max(tucker):.0f} times as fast"
    )


def _overhead(r: dict[str, Any]) -> str:
    return (
        f"{r['metrics']['ratio']:.3f} of papermill's time a cell ({r['parameters']['cells']:.0f} cells, one worker; "
        f"papermill's median {r['metrics']['papermill_cell_median']:.2f} s)"
    )


def _kills(r: dict[str, Any]) -> str:
    return (
        f"{r['metrics']['rounds']:.0f} kills, {r['metrics']['exactly_one_record_a_cell']:.0f} times exactly one valid "
        f"record a cell after resuming ({_in_the_middle(r)} kills between the first record and the last)"
    )


def benchmarks() -> str:
    """The newest record of each benchmark and processor; of layers, one row for all."""
    rows = []
    for study, say in {
        "layers": _layers,
        "convolutions": _convolutions,
        "products": _products,
        "coupled": _coupled,
        "sweep-overhead": _overhead,
        "sweep-kills": _kills,
    }.items():
        names = list(results(study).get("record", []))
        found = [json.loads((paths.PUBLISHED / f"{name}.json").read_text()) for name in names]
        if not found:
            continue
        newest = {_processor(r): (name, r) for name, r in zip(names, found, strict=True)}
        if study == "layers":
            newest = {_processor(found[-1]): (names[-1], found[-1])}
        for machine, (name, r) in reversed(newest.items()):
            text = say(r) + (_spread(found) if study == "layers" and len(found) > 1 else "")
            rows.append([f"`tnlib bench {study}`", text, f"`data/results/{name}.json` ({machine})"])
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
