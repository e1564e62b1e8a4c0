"""README's tables of whole networks: the formats of notebook 13, each alone, and int8 on top of some, notebook 15."""

from __future__ import annotations

import pandas as pd

from tnlib.study.store import results

NETWORKS = ("resnet20-cifar10", "vgg-cifar10")  # the others are in the notebook


def rows_of_formats() -> tuple[list[str], list[list[str]], str]:
    """Head, rows and the line below; a line alone where there is no record."""
    frame = results("compare-formats")
    if not frame.empty:
        frame = frame[frame["parameters.profile"].eq("full") & frame["parameters.choice"].eq("allocated")]
        frame = frame[frame["parameters.repair"].eq("batchnorm")]
        frame = frame[frame["parameters.network"].isin(NETWORKS)].drop_duplicates("run.key", keep="last")
    if frame.empty:
        return [], [], "No run is on record yet."
    points = pd.DataFrame(
        [
            {
                "network": r["parameters.network"],
                "format": _named(r["parameters.formats"], r["parameters.metric"]),
                "budget": row["budget"],
                "accuracy": row.get("repaired_accuracy", row.get("raw_accuracy")),
                "seed": r["seed"],
                "original": r["metrics.original_accuracy"],
            }
            for r in frame.to_dict("records")
            for row in r["metrics.rows"]
        ]
    )
    budgets = sorted(points["budget"].unique(), reverse=True)
    made = []
    for (network, form), group in points.groupby(["network", "format"]):
        by_budget = group.groupby("budget")["accuracy"].mean()
        cells = ["out of reach" if pd.isna(by_budget[b]) else f"{by_budget[b]:.2%}" for b in budgets]
        original = f"{group['original'].iloc[0]:.2%}"
        made.append([f"`{network}`", str(form), original, *cells, str(group["seed"].nunique())])
    head = ["network", "format", "original", *(f"{b:.0%} of MACs" for b in budgets), "draws"]
    images = frame["metrics.test_images"].iloc[0]
    return head, made, f"Accuracy on {images} test images. Records: sweeps `formats_study`, `guide_study`."


def _named(formats: list[str], metric: str) -> str:
    return f"`{formats[0]}`" if len(formats) == 1 else f"the best of {len(formats)} in each layer, by `{metric}`"


def rows_of_int8() -> tuple[list[str], list[list[str]], str]:
    """Likewise: float beside int8, accuracy and bytes; with and without care for terms that cancel."""
    frame = results("quantize-network")
    if not frame.empty:
        frame = frame[frame["parameters.profile"].eq("full") & frame["parameters.weight_bits"].eq(7)]
        frame = frame[frame["parameters.per_channel"].eq(True) & frame["parameters.skip"].map(len).eq(0)]
        frame = frame[frame["parameters.balance"].eq("activations")]
    if frame.empty:
        return [], [], "No run is on record yet."
    frame = frame.assign(rounding=frame.get("parameters.rounding", 0.0)).fillna({"rounding": 0.0})
    dense = frame["parameters.budget"].eq(1)
    named = frame["parameters.formats"].map(lambda formats: ", ".join(f"`{name}`" for name in formats))
    frame = frame.assign(formats=named.mask(dense, "dense"), rounding=frame["rounding"].mask(dense, 0.0))
    keys = ["parameters.network", "parameters.budget", "formats", "rounding"]
    frame = frame.drop_duplicates([*keys, "seed"], keep="last")
    made, measured = [], ["onnx_accuracy", "int8_accuracy", "onnx_bytes", "int8_bytes", "macs"]
    for (network, budget, formats, rounding), group in reversed(list(frame.groupby(keys))):
        before, after, size, smaller, macs = (group[f"metrics.{name}"].mean() for name in measured)
        bounded = "" if budget == 1 else "yes" if rounding else "no"
        cells = [f"`{network}`", f"{macs:.1%}", str(formats), bounded, f"{before:.2%}", f"{after:.2%}"]
        made.append([*cells, f"{size / 1000:.0f}", f"{smaller / 1000:.0f}", str(len(group))])
    head = ["network", "MACs left", "formats", "terms bounded", "float", "int8", "kB", "kB, int8", "draws"]
    images = frame["metrics.test_images"].iloc[0]
    return head, made, f"Accuracy on {images} test images, in ONNX Runtime. Records: sweep `quantize_study`."
