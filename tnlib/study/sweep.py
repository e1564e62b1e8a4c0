"""A sweep file: a notebook and the parameter sets to run it with, validated as a whole before anything runs."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import fastjsonschema

from tnlib.study.parameters import complete, digest, parameters_of
from tnlib.study.run import notebooks

_RANGE = {
    "oneOf": [
        {"type": "object", "required": [kind], "properties": {kind: shape}, "additionalProperties": False}
        for kind, shape in {
            "choice": {"type": "array", "minItems": 1},
            "integers": {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2},
            "uniform": {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2},
            "log": {"type": "array", "items": {"type": "number", "exclusiveMinimum": 0}, "minItems": 2, "maxItems": 2},
        }.items()
    ]
}
_MAP = {"type": "object"}
SCHEMA = {
    "type": "object",
    "required": ["notebook"],
    "additionalProperties": False,
    "properties": {
        "notebook": {"type": ["string", "integer"]},
        "parameters": _MAP,
        "grid": {"type": "object", "additionalProperties": {"type": "array", "minItems": 1}},
        "list": {"type": "array", "items": _MAP, "minItems": 1},
        "random": {
            "type": "object",
            "required": ["samples", "ranges"],
            "additionalProperties": False,
            "properties": {
                "samples": {"type": "integer", "minimum": 1},
                "seed": {"type": "integer", "minimum": 0},
                "ranges": {"type": "object", "additionalProperties": _RANGE, "minProperties": 1},
            },
        },
        "seeds": {"type": "array", "items": {"type": "integer"}, "minItems": 1, "uniqueItems": True},
        "time_limit": {"type": ["string", "number"]},
        "cell_limit": {"type": ["string", "number"]},
    },
}


@dataclass(frozen=True)
class Cell:
    """One run of a sweep; `parameters` holds what differs from the notebook's defaults, and `key` names it."""

    key: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True)
class Sweep:
    """A validated sweep: cells in the order of the file, limits in seconds (None: no limit)."""

    name: str
    notebook: Path
    cells: tuple[Cell, ...]
    varied: tuple[str, ...]
    time_limit: float | None
    cell_limit: float | None

    def describe(self, cell: Cell) -> str:
        """The parameters of a cell that vary in the sweep."""
        return " ".join(f"{name}={cell.parameters[name]}" for name in self.varied if name in cell.parameters)


def load(path: Path) -> Sweep:
    """Read and validate a sweep file.

    The cells are the product of `grid`, `list`, `random` and `seeds`, as far as they are given.

    Raises:
        ValueError: not YAML, an unknown entry, an unknown parameter, a value that the notebook does not take, one
            parameter set twice, two equal cells. All problems are named at once.
    """
    import yaml

    if not path.is_file():
        raise ValueError(f"no sweep file {path}")
    try:
        spec = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path.name} is not YAML: {' '.join(str(error).split())}") from None
    try:
        fastjsonschema.compile(SCHEMA)(spec)
    except fastjsonschema.JsonSchemaValueException as problem:
        raise ValueError(f"{path.name}: {problem.message.replace('data', 'sweep', 1)}") from None
    name = f"{spec['notebook']:02d}" if isinstance(spec["notebook"], int) else spec["notebook"]
    beside = path.parent / name
    (notebook,) = [beside] if beside.is_file() else notebooks([name])
    blocks: list[list[dict[str, Any]]] = [[dict(spec.get("parameters", {}))]]
    if grid := spec.get("grid"):
        blocks.append([dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())])
    if "list" in spec:
        blocks.append(spec["list"])
    if "random" in spec:
        blocks.append(_draw(spec["random"]))
    if "seeds" in spec:
        blocks.append([{"seed": seed} for seed in spec["seeds"]])
    for first, second in itertools.combinations(blocks, 2):
        if twice := sorted({n for c in first for n in c} & {n for c in second for n in c}):
            raise ValueError(f"{path.name}: {', '.join(twice)} set in two places")
    known, source, cells, wrong = parameters_of(notebook), digest(notebook), [], []
    for parts in itertools.product(*blocks):
        given = {key: value for part in parts for key, value in part.items()}
        try:
            values = complete(notebook, given, known)
        except ValueError as error:
            wrong.append(str(error))
            continue
        cells.append(Cell(key(source, values), {name: values[name] for name in given}))
    if wrong:
        distinct = list(dict.fromkeys(wrong))
        more = f"; and {len(distinct) - 5} more" if len(distinct) > 5 else ""
        raise ValueError(f"{path.name}: " + "; ".join(distinct[:5]) + more)
    seen: dict[str, Cell] = {}
    for cell in cells:
        if cell.key in seen:
            raise ValueError(f"{path.name}: two cells have the same parameters: {dict(cell.parameters)}")
        seen[cell.key] = cell
    varied = tuple(dict.fromkeys(n for block in blocks[1:] for part in block for n in part))
    limits = [_seconds(path, entry, spec.get(entry)) for entry in ("time_limit", "cell_limit")]
    return Sweep(path.stem, notebook, tuple(cells), varied, *limits)


def key(source: str, values: Mapping[str, Any]) -> str:
    """What names a cell: a hash of the notebook's code, all its parameters, and tnlib's version."""
    text = json.dumps([source, values, version("tnlib")], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _draw(spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Random parameter sets, the same for the same seed; `log` is uniform in the logarithm, ends of integers count."""
    import numpy as np

    rng = np.random.default_rng(spec.get("seed", 0))
    sets = []
    for _ in range(spec["samples"]):
        drawn: dict[str, Any] = {}
        for name, given in spec["ranges"].items():
            ((kind, ends),) = given.items()
            if kind == "choice":
                drawn[name] = ends[int(rng.integers(len(ends)))]
            elif kind == "integers":
                drawn[name] = int(rng.integers(ends[0], ends[1], endpoint=True))
            elif kind == "uniform":
                drawn[name] = float(rng.uniform(*ends))
            else:
                drawn[name] = float(np.exp(rng.uniform(*np.log(ends))))
        if drawn not in sets:  # few integers drawn often: equal sets count once
            sets.append(drawn)
    return sets


def _seconds(path: Path, entry: str, given: str | float | None) -> float | None:
    """Seconds from a number or a text like `2h` or `90 min`."""
    if given is None:
        return None
    import pandas as pd

    try:
        seconds = float(given) if isinstance(given, int | float) else pd.Timedelta(given).total_seconds()
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise ValueError(f"{path.name}: {entry} must be seconds or a time such as 90min or 2h, got {given!r}")
    return seconds
