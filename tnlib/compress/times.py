"""How long the layers of a network take on one machine, in every format that was timed, and what lies between."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch

from tnlib import measure, paths
from tnlib.compress.survey import Place
from tnlib.layers.ranks import Ranks

VERSION = 2
FACTORS = 0.5, 2.0  # a correction in one step, at most: beyond, the measurement is doubted


class Point(NamedTuple):
    """A timed candidate: rank, multiply-accumulates of all calls, and nanoseconds of all calls."""

    rank: Ranks
    macs: int
    time: int


@dataclass(frozen=True)
class Times:
    """Nanoseconds of one call of a network, frozen, and of its layers' candidates, frozen, at the shapes they see.

    A network takes `rest` plus what its layers take: dense ones as `dense` says, others `factor` times as long as their
    `points`. With `rest` the dense network's whole is right, with `factor` that of the last compressed one measured.

    Attributes:
        machine: where it was measured: processor, threads, device, version of torch.
        network: digest of the network and of the shapes of its inputs.
        original: of the network as it is.
        rest: what its layers do not show: activations, normalizations, additions, what a call takes.
        layers: name -> key; layers of one key have the same configuration and see the same shapes.
        dense: key -> all calls of the dense layer.
        points: key -> format -> timed candidates, ascending in MACs.
        factor: how much longer replaced layers take than when they were timed.
    """

    machine: Mapping[str, Any]
    network: str
    original: int
    rest: int
    layers: Mapping[str, str]
    dense: Mapping[str, int]
    points: Mapping[str, Mapping[str, tuple[Point, ...]]]
    factor: float = 1.0

    def of(self, layer: str, format: str | None, rank: Ranks | None, macs: int) -> int:
        """Nanoseconds of a candidate: measured, or between its format's measured neighbours in MACs.

        ValueError for a layer, or a format of it, of which nothing was timed.
        """
        key = self.layers.get(layer)
        if key is None or (format is not None and not self.points.get(key, {}).get(format)):
            what = f"no layer {layer!r}" if key is None else f"no {format} of the layer {layer!r}"
            raise ValueError(f"the table of times has {what}: measure it with compress.measure_times")
        if format is None:
            return self.dense[key]
        points = self.points[key][format]
        exact = next((point.time for point in points if point.rank == rank), None)
        return max(1, round(self.factor * (_between(points, macs) if exact is None else exact)))

    def is_timed(self, layer: str, format: str | None, rank: Ranks | None) -> bool:
        """Whether a candidate was timed itself."""
        points = self.points.get(self.layers.get(layer, ""), {}).get(format or "", ())
        return format is None or any(point.rank == rank for point in points)

    def with_points(self, key: str, points: Iterable[tuple[str, Point]]) -> Self:
        """A table with more candidates, pairs (format, point), of the layers of a key."""
        by_format = {format: list(old) for format, old in self.points.get(key, {}).items()}
        for format, point in points:
            old = [other for other in by_format.get(format, ()) if other.rank != point.rank]
            by_format[format] = sorted([*old, point], key=lambda p: (p.macs, str(p.rank)))
        return replace(self, points={**self.points, key: {name: tuple(row) for name, row in by_format.items()}})

    def corrected(self, replaced: int, kept: int, measured: int) -> Self:
        """A table that predicts for one compressed network what was measured.

        Args:
            replaced: what its replaced layers take by this table.
            kept: what its dense layers take.
            measured: what the network takes.
        """
        if not replaced:
            return self
        low, high = FACTORS
        return replace(self, factor=self.factor * min(high, max(low, (measured - self.rest - kept) / replaced)))

    def require(self, machine: Mapping[str, Any], keys: Mapping[str, str]) -> None:
        """ValueError unless the table is of this machine and has these layers, name -> key."""
        if dict(self.machine) != dict(machine):
            raise ValueError(
                f"this table of times was measured on {named(self.machine)}, and this is {named(machine)}: measure "
                "anew with compress.measure_times"
            )
        other = next((name for name, key in keys.items() if self.layers.get(name) != key), None)
        if other is not None:
            raise ValueError(
                f"this table of times is not of this network and these inputs: it has no layer {other!r} of its shapes"
            )

    def table(self) -> Any:
        """A pandas.DataFrame, one row for each candidate that was timed: layers, format, rank, MACs, milliseconds.

        ModuleNotFoundError where pandas is not installed; it comes with the extra `study`.
        """
        pandas = importlib.import_module("pandas")
        rows: list[dict[str, Any]] = []
        for key, dense in self.dense.items():
            names = ", ".join(name for name, other in self.layers.items() if other == key)
            rows.append({"layers": names, "format": "dense", "rank": "", "macs": None, "ms": dense / 1e6})
            for format, points in self.points.get(key, {}).items():
                for rank, macs, time in points:
                    ms = self.factor * time / 1e6
                    rows.append({"layers": names, "format": format, "rank": rank, "macs": macs, "ms": ms})
        return pandas.DataFrame(rows).astype({"macs": "Int64"})

    def save(self, path: str | Path) -> None:
        """Write the table as JSON."""
        with paths.replacing(Path(path)) as temporary:
            temporary.write_text(json.dumps({"version": VERSION, **asdict(self)}, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote; ValueError for a file that is no table of times."""
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            if content.pop("version") != VERSION:
                raise ValueError("another version")
            points = {
                key: {
                    format: tuple(Point(as_rank(rank), macs, time) for rank, macs, time in row)
                    for format, row in by_format.items()
                }
                for key, by_format in content.pop("points").items()
            }
            return cls(points=points, **content)
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError, UnicodeDecodeError, ValueError) as error:
            raise ValueError(f"{Path(path).name} is no table of times that this version can read: {error}") from None


def _between(points: Iterable[Point], macs: int) -> float:
    """Nanoseconds at some MACs: linear between neighbours, of equal MACs the mean, beyond the last ones as theirs."""
    by_macs: dict[int, list[int]] = {}
    for point in points:
        by_macs.setdefault(point.macs, []).append(point.time)
    places = sorted(by_macs)
    return float(np.interp(macs, places, [float(np.mean(by_macs[place])) for place in places]))


def this_machine(device: torch.device) -> dict[str, Any]:
    """What decides how long a layer takes here: processor, threads of torch, device, version of torch."""
    return {
        "cpu": measure.cpu_name(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "torch": str(torch.__version__),
    }


def named(machine: Mapping[str, Any]) -> str:
    """A machine in a few words."""
    threads = machine.get("threads")
    device = "" if machine.get("device") in ("cpu", None) else f", {machine['device']}"
    return f"{machine.get('cpu')}, {threads} thread{'' if threads == 1 else 's'}{device}, torch {machine.get('torch')}"


def as_rank(rank: Any) -> Any:
    """A rank that was read from JSON, where tuples are lists."""
    return tuple(rank) if isinstance(rank, list) else rank


def keys_of(places: Mapping[str, Place]) -> dict[str, str]:
    """A key for each layer, the same for layers that take the same time: configuration, shapes and memory layouts."""
    return {
        name: hashlib.sha256(f"{place.setting}{place.layouts}".encode()).hexdigest()[:16]
        for name, place in places.items()
    }
