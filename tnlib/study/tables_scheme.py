"""The tables of the scheme of notebook 14, for `tables`: without training, and with a few epochs on top."""

from __future__ import annotations

import pandas as pd

from tnlib.study.store import results

Rows = tuple[list[str], list[list[str]], str]
USUAL = {"metric": "exact", "choice": "allocated", "pictures": "training", "inputs": 1000, "rounds": 3}
EPOCHS = {"epochs": 5, "distill": 1.0, "metric": "exact", "weights": "published", "held_out": 0, "inputs": 1000}


def rows_of_scheme() -> Rows:
    """Head, rows and a line below: each network at each budget, as factored, and in sequence."""
    head = [
        "network",
        "discount",
        "budget",
        "MACs left",
        "original",
        "factored",
        "and BatchNorm",
        "in sequence",
        "draws",
    ]
    frame = _chosen("ablate-scheme", USUAL | {"counted": "exact"})
    if frame.empty:
        return head, [], "No run is on record yet."
    frame, rows = frame[frame["parameters.formats"].map(" ".join) == "spatial_svd cp3"], []
    for (network, weights, less), group in frame.groupby(["parameters.network", "parameters.weights", "discount"]):
        pairs = [(seed, row) for seed, found in zip(group["seed"], group["metrics.rows"], strict=True) for row in found]
        points = pd.DataFrame([{"seed": seed} | row for seed, row in pairs if row["reason"] is None])
        points = points.drop_duplicates(["seed", "budget"], keep="last")  # made again: the newest counts
        for budget, same in sorted(points.groupby("budget"), reverse=True):
            cells = [f"`{network}`, {weights}", f"{less:g}", f"{budget:g}", f"{same['macs'].mean():.1%}"]
            cells += [spread(group["metrics.original_accuracy"])]
            cells += [spread(same[f"{stage}_accuracy"]) for stage in ("raw", "batchnorm", "sequence")]
            rows.append([*cells, str(len(same))])
    images = f"Accuracy on {frame['metrics.test_images'].iloc[0]} test images."
    return head, rows, f"{images} Records: sweep `scheme_study`."


def rows_of_epochs() -> Rows:
    """Likewise, each network at each budget, before and after five epochs that imitate the original's logits."""
    head = ["network", "discount", "MACs left", "original", "before", "after five epochs", "by", "draws"]
    frame = _chosen("tune-compressed", EPOCHS)
    if frame.empty:
        return head, [], "No run is on record yet."
    rows = []
    by = ["parameters.network", "parameters.budget", "discount", "parameters.optimizer", "parameters.lr"]
    for (network, budget, less, optimizer, lr), same in sorted(frame.groupby(by), reverse=True):
        told = "dense" if budget == 1 else f"{less:g}"
        cells = [f"`{network}`", told, f"{same['metrics.macs'].mean():.1%}"]
        cells += [spread(same[f"metrics.{stage}_accuracy"]) for stage in ("original", "untuned", "tuned")]
        rows.append([*cells, f"{optimizer}, {lr:g}", str(len(same))])
    images = f"Accuracy on {frame['metrics.test_images'].iloc[0]} test images."
    return head, rows, f"{images} Records: sweep `tune_study`."


def _chosen(study: str, parameters: dict[str, object]) -> pd.DataFrame:
    """Full-size records with these parameters; `discount` is 0 where a record does not have it."""
    frame = results(study)
    for name, value in {"profile": "full", **parameters}.items():
        if frame.empty or f"parameters.{name}" not in frame:
            return frame.iloc[:0]
        frame = frame[frame[f"parameters.{name}"] == value]
    frame = frame.sort_values("date")
    return frame.assign(discount=frame.get("parameters.discount", 0.0)).fillna({"discount": 0.0})


def spread(values: pd.Series[float]) -> str:
    """Their mean, and the smallest and the largest where they differ."""
    lowest, highest = values.min(), values.max()
    return f"{values.mean():.2%}" + f" ({lowest:.2%} to {highest:.2%})" * bool(highest > lowest)
