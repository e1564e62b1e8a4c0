"""The explorer: a page with sliders, its numbers those of records. `static/explorer.js` draws them."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd

from tnlib import study

NORMS = {
    "weight": "the weight",
    "input": "its outputs, on inputs",
    "exact": "the network's logits, to first order",
}


def page() -> str:
    """The page in Markdown: the numbers as JSON inside it, as browsers refuse to fetch a file from a disk."""
    told = json.dumps(numbers(), separators=(",", ":")).replace("</", "<\\/")
    return f"""# Explore layers and networks

Pick a layer, move the slider, and see what each format makes of that share of its multiplications; below, the same of
whole networks, in right answers. Nothing is computed here: all numbers are records of
[price_layers](notebooks/experiments/price_layers.ipynb) and
[compare_formats](notebooks/experiments/compare_formats.ipynb), and what they mean is in lessons
[12](notebooks/12_choose_ranks.ipynb) and [13](notebooks/13_compare_representations.ipynb).

```{{raw}} html
<noscript><p>Without JavaScript: the same figures are in lessons 12 and 13.</p></noscript>
<script type="application/json" id="explorer-numbers">{told}</script>
```

## A layer

A point is a rank on record. Errors are squared and relative: of the weight, of the layer's outputs, or of the
network's logits.

```{{raw}} html
<div class="explorer" id="explorer-layer"></div>
```

## A network

Each format alone, in all layers that take it, at equal multiplications of the whole network; ranks chosen by
allocation, nothing trained. All test images of the network's data, mean over draws of the images that norms and
statistics come from.

```{{raw}} html
<div class="explorer" id="explorer-network"></div>
```
"""


def numbers() -> dict[str, Any]:
    """What the page draws: curves of layers, and accuracy of networks, by names that a reader sees."""
    return {"norms": NORMS, "layers": layers(), "networks": networks()}


def layers() -> dict[str, Any]:
    """Network, layer, norm, format: candidates as [rank, parameters, multiplications, loss], by the newest record."""
    result: dict[str, Any] = {}
    for record in _full_size("price-layers"):
        dense = {layer: costs for layer, *costs in record["metrics.dense"]}
        curves: dict[str, Any] = {layer: {} for layer in dense}
        for layer, norm, format, rank, *rest in record["metrics.rows"]:
            shown = str(rank) if isinstance(rank, int) else " ".join(map(str, _flat(rank)))
            curves[layer].setdefault(norm, {}).setdefault(format, []).append([shown, *rest])
        name = f"{record['parameters.network']}, {record['parameters.weights']}"
        result[name] = {"dense": dense, "curves": curves}
    return result


def networks() -> dict[str, Any]:
    """Network, format: points as [multiplications, parameters, raw accuracy, accuracy with BatchNorm anew or None]."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    originals: dict[str, float] = {}
    for record in _full_size("compare-formats"):
        if record["parameters.choice"] != "allocated":
            continue
        name, formats = record["parameters.network"], record["parameters.formats"]
        format = formats[0] if len(formats) == 1 else f"best of {len(formats)}, {record['parameters.metric']}"
        originals[name] = record["metrics.original_accuracy"]
        rows = [row for row in record["metrics.rows"] if row["reason"] is None]
        found.setdefault(name, {}).setdefault(format, []).extend(rows)
    kinds = ["macs", "params", "raw_accuracy", "repaired_accuracy"]
    result: dict[str, Any] = {}
    for name, by_format in sorted(found.items()):
        points = {}
        for format, rows in sorted(by_format.items()):
            means = pd.DataFrame(rows).reindex(columns=["budget", *kinds]).groupby("budget").mean()
            points[format] = [[None if pd.isna(x) else round(x, 4) for x in row] for row in means.to_numpy()]
        result[name] = {"original": originals[name], "points": points}
    return result


def _full_size(name: str) -> list[dict[str, Any]]:
    """Published records of the profile `full`, the oldest first."""
    frame = study.results(name)
    if frame.empty:
        return []
    rows: Any = frame[frame["parameters.profile"] == "full"].to_dict("records")
    return list(rows)


def _flat(rank: Any) -> list[Any]:
    return [x for part in rank for x in (_flat(part) if isinstance(part, (list, tuple)) else [part])]
