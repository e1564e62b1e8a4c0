"""A sweep file: a notebook and the parameter sets to run it with, validated as a whole before anything runs."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fastjsonschema
import yaml

from tnlib import paths
from tnlib.study.parameters import complete, digest, hint, parameters_of
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
ENTRIES: dict[str, dict[str, Any]] = {
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
}
_SECONDS = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True)
class Run:
    """One run of a sweep; `parameters` holds what differs from the notebook's defaults, and `key` names it."""

    key: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True)
class Sweep:
    """A validated sweep: runs in the order of the file, limits in seconds (None: no limit)."""

    name: str
    notebook: Path
    runs: tuple[Run, ...]
    varied: tuple[str, ...]
    time_limit: float | None
    cell_limit: float | None

    def describe(self, run: Run) -> str:
        """The parameters of a run that vary in the sweep."""
        return " ".join(f"{name}={run.parameters[name]}" for name in self.varied if name in run.parameters)


def load(path: Path) -> Sweep:
    """Read and validate a sweep file, which may be named as those in `notebooks/sweeps/` are.

    The runs are the product of `grid`, `list`, `random` and `seeds`, as far as they are given.

    Raises:
        ValueError: no such file, not YAML, an unknown entry or one that is given twice, an unknown parameter, a value
            that the notebook does not take, two equal runs. All problems with values are named at once.
    """
    path = _find(path)
    spec = _read(path)
    notebook = _notebook(path, spec["notebook"])
    blocks = list(_blocks(spec))
    for first, second in itertools.combinations(blocks, 2):
        if twice := sorted({n for given in first for n in given} & {n for given in second for n in given}):
            raise ValueError(f"{path.name}: {', '.join(twice)} set in two places")
    known, source, wrong = parameters_of(notebook), digest(notebook), dict[str, None]()
    runs: dict[str, Run] = {}
    for parts in itertools.product(*blocks):
        given = {name: value for part in parts for name, value in part.items()}
        try:
            values = complete(notebook, given, known)
        except ValueError as error:
            wrong[str(error)] = None
            continue
        run = Run(key(source, values), {name: values[name] for name in given})
        if run.key in runs:
            raise ValueError(f"{path.name}: two runs have the same parameters: {dict(run.parameters)}")
        runs[run.key] = run
    if wrong:
        more = f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise ValueError(f"{path.name}: {'; '.join(list(wrong)[:5])}{more}")
    varied = tuple(dict.fromkeys(n for block in blocks[1:] for part in block for n in part))
    limits = [_seconds(path, entry, spec.get(entry)) for entry in ("time_limit", "cell_limit")]
    return Sweep(path.stem, notebook, tuple(runs.values()), varied, *limits)


def key(source: str, values: Mapping[str, Any]) -> str:
    """What names a run: a hash of the digest of the notebook's code and all its parameters."""
    text = json.dumps([source, values], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _find(path: Path) -> Path:
    sweeps = paths.NOTEBOOKS / "sweeps"
    for place in (path, path.with_suffix(".yaml"), sweeps / path.name, sweeps / f"{path.stem}.yaml"):
        if place.is_file():
            return place
    folder = path.parent if path.parent.is_dir() else Path()
    near = [p.name for place in (folder, sweeps) for p in place.glob("*.yaml")]
    raise ValueError(f"no sweep file {path}{hint(path.name, near)}")


class _Loader(yaml.SafeLoader):
    """YAML in which an entry that is given twice is a mistake."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [name.value for name, _ in node.value if isinstance(name, yaml.ScalarNode)]
        if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
            raise yaml.constructor.ConstructorError(None, None, f"{', '.join(twice)} given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _read(path: Path) -> dict[str, Any]:
    try:
        spec = yaml.load(path.read_text(), _Loader)  # noqa: S506, a safe loader
    except yaml.YAMLError as error:
        raise ValueError(f"{path.name} is not YAML: {' '.join(str(error).split())}") from None
    for name in spec if isinstance(spec, dict) else ():
        if name not in ENTRIES:
            raise ValueError(
                f"{path.name}: no entry {name!r}{hint(str(name), ENTRIES)} (entries: {', '.join(ENTRIES)})"
            )
    try:
        fastjsonschema.compile({"type": "object", "required": ["notebook"], "properties": ENTRIES})(spec)
    except fastjsonschema.JsonSchemaValueException as problem:
        raise ValueError(f"{path.name}: {problem.message.replace('data', 'sweep', 1)}") from None
    return dict(spec)


def _notebook(path: Path, given: str | int) -> Path:
    name = f"{given:02d}" if isinstance(given, int) else given
    for beside in (path.parent / name, path.parent / f"{name}.ipynb"):
        if beside.is_file():
            return beside
    (notebook,) = notebooks([name])
    return notebook


def _blocks(spec: Mapping[str, Any]) -> Iterator[list[dict[str, Any]]]:
    """Lists of parameter sets, whose product are the runs; the first is what all have in common."""
    yield [dict(spec.get("parameters", {}))]
    if grid := spec.get("grid"):
        yield [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    if "list" in spec:
        yield spec["list"]
    if "random" in spec:
        yield _draw(spec["random"])
    if "seeds" in spec:
        yield [{"seed": seed} for seed in spec["seeds"]]


def _draw(spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Random parameter sets, the same for the same seed; `log` is uniform in the logarithm, ends of integers count."""
    import numpy as np

    rng = np.random.default_rng(spec.get("seed", 0))
    sets = []
    for _ in range(spec["samples"]):
        drawn: dict[str, Any] = {}
        for name, given in spec["ranges"].items():
            ((kind, ends),) = given.items()
            if kind != "choice" and ends[0] > ends[1]:
                raise ValueError(f"random: the range of {name} begins at {ends[0]} and ends at {ends[1]}")
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
    """Seconds from a number or a text like `2h`, `90 min` or `1h 30min`."""
    if given is None:
        return None
    seconds = 0.0
    if not isinstance(given, str):
        seconds = float(given)
    elif re.fullmatch(r"(\s*\d+(\.\d+)?\s*(s|sec|m|min|h|d))+\s*", given):
        seconds = sum(float(n) * _SECONDS[unit] for n, unit in re.findall(r"(\d+(?:\.\d+)?)\s*([a-z]+)", given))
    if not 0 < seconds < float("inf"):
        raise ValueError(f"{path.name}: {entry} must be seconds or a time such as 90min or 2h, got {given!r}")
    return seconds
