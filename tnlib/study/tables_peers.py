"""README's table of other people's tools, beside CP3 at the same budgets: notebook 13."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from tnlib.study.store import results

USUAL = {"importance": "magnitude", "ranking": "global", "channels": "inner"}
OURS = "`cp3`, ours"


def rows_of_peers() -> tuple[list[str], list[list[str]], str]:
    """Head, rows and the line below; a line alone where there is no record."""
    made = [*_theirs(), *_ours()]
    points = pd.DataFrame(made, columns=["network", "by", "labels", "seed", "budget", "macs", "accuracy"])
    points = points[points["network"].isin(points["network"][points["by"] != OURS])]
    if points.empty:
        return [], [], "No run is on record yet."
    points = points.drop_duplicates(["network", "by", "seed", "budget"], keep="last")  # made again: the newest counts
    budgets, rows = sorted(points["budget"].unique(), reverse=True), []
    for (network, by, labels), group in points.groupby(["network", "by", "labels"]):
        means = group.astype({"accuracy": float, "macs": float}).groupby("budget")[["accuracy", "macs"]].mean()
        cells = [_cell(means["accuracy"][b], means["macs"][b], b) if b in means.index else "" for b in budgets]
        rows.append([f"`{network}`", str(by), "yes" if labels else "no", *cells, str(group["seed"].nunique())])
    head = ["network", "by", "labels", *(f"{b:.0%} of MACs" for b in budgets), "draws"]
    line = "In brackets the share that is left, where it is more than 1 % below the budget. "
    return head, rows, line + "Records: sweeps `peers_study`, `formats_study`."


def _theirs() -> list[dict[str, Any]]:
    frame = results("compare-peers")
    if frame.empty:
        return []
    made = []
    for r in frame[frame["parameters.profile"].eq("full")].sort_values("date").to_dict("records"):
        if r.get("parameters.timed") is True:
            continue
        unusual = [r[f"parameters.{name}"] for name, value in USUAL.items() if r[f"parameters.{name}"] != value]
        told = {"network": r["parameters.network"], "by": ", ".join([r["parameters.peer"], *unusual])}
        told |= {"labels": r["metrics.labels_used"], "seed": r["seed"]}
        columns = (r[f"metrics.{name}"] for name in ("budget", "macs", "raw_accuracy", "batchnorm_accuracy"))
        for budget, macs, raw, repaired in zip(*columns, strict=True):
            best = None if raw is None else max(raw, repaired)
            made.append(told | {"budget": budget, "macs": macs, "accuracy": best})
    return made


def _ours() -> list[dict[str, Any]]:
    frame = results("compare-formats")
    if frame.empty:
        return []
    known = {"profile": "full", "choice": "allocated", "metric": "input", "repair": "batchnorm"}
    for name, value in known.items():
        frame = frame[frame[f"parameters.{name}"].eq(value)]
    frame = frame[frame["parameters.formats"].map(lambda formats: formats == ["cp3"])]
    return [
        {"network": r["parameters.network"], "by": OURS, "labels": False, "seed": r["seed"]}
        | {"budget": row["budget"], "macs": row.get("macs")}
        | {"accuracy": row.get("repaired_accuracy", row.get("raw_accuracy"))}
        for r in frame.sort_values("date").to_dict("records")
        for row in r["metrics.rows"]
    ]


def _cell(accuracy: float, macs: float, budget: float) -> str:
    if math.isnan(accuracy):
        return "none"
    return f"{accuracy:.2%}" + f" ({macs:.2f})" * bool(macs < 0.99 * budget)
