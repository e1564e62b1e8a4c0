"""The table of times filled: a network and few candidates of its layers, frozen, timed inside it."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tnlib import layers
from tnlib.compress.candidate import Candidate
from tnlib.compress.clock import DENSE, Clock, Run
from tnlib.compress.curves import Curves, Progress
from tnlib.compress.survey import Place, opened
from tnlib.compress.times import VERSION, Point, Times, keys_of, named, this_machine

TIMED = 8  # candidates of a layer and a format that are timed, from the fewest to the most MACs
COMPARED = 3  # times that a compressed network is compared with the original
HELD = 2**28  # bytes of candidates that are held at a time, or as many as the network has


@dataclass
class Stopwatch:
    """Times candidates of a network's layers, and the networks of plans, with a clock, and keeps a table of them.

    `original` and `split` are the network frozen, as it is and with its attention split; one and the same without.
    """

    curves: Curves
    model: nn.Module
    cache: Path | None = None
    clock: Clock = field(default_factory=Clock)
    progress: Progress | None = None

    def __post_init__(self) -> None:
        places = self.curves.survey.places
        self.keys = keys_of(places)
        self.machine = this_machine(next(iter(places.values())).weight.device)
        self.network = _network(self.model, self.curves, self.keys)
        call, split = self.curves.survey.call, opened(self.model)
        try:
            self.split = Run.of(split, call)
            self.original = self.split if split is self.model else Run.of(self.model, call)
        except Exception as error:  # whatever the network raises
            raise ValueError(
                f"latency cannot be measured, because freezing the network fails: {type(error).__name__}: {error}"
            ) from error

    def table(self) -> Times:
        """The table of `measure_times`."""
        if self.path is not None and self.path.is_file():
            times = Times.load(self.path)
            times.require(self.machine, self.keys)
        else:
            _warn_of_others(self.cache, self.network, self.machine)
            times = self._of_network()
        by_key: dict[str, list[Sequence[Candidate]]] = {}
        for name, row in self.curves.candidates.items():
            by_key.setdefault(self.keys[name], []).append(row)
        formats = self.curves.formats
        wanted = [c for rows in by_key.values() for format in formats for c in _thinned(times, rows, format)]
        return self.with_times_of(times, wanted)

    def with_times_of(self, times: Times, candidates: Collection[Candidate]) -> Times:
        """The table with those of these candidates that it lacks, each as many times as long as the dense layer."""
        missing = {
            (self.keys[c.layer], c.format, c.rank): c
            for c in candidates
            if not times.is_timed(c.layer, c.format, c.rank)
        }
        done = 0
        for part in self._parts(list(missing.values())):
            options: dict[str, dict[str, nn.Module]] = {}
            for c in part:
                options.setdefault(self.keys[c.layer], {})[_label(c)] = self._made(c)
            _, found = self.clock.inside(self.split, self.keys, options)
            for c in part:
                key = self.keys[c.layer]
                time = max(1, round(times.dense[key] * found[key][_label(c)] / found[key][DENSE]))
                assert c.format is not None
                assert c.rank is not None
                times = times.with_points(key, [(c.format, Point(c.rank, c.macs, time))])
            done += len(part)
            if self.path is not None:
                replace(times, factor=1.0).save(self.path)  # a factor belongs to one plan
            if self.progress is not None:
                self.progress(done, len(missing), "candidates timed")
        return times

    def share(self, small: nn.Module) -> float:
        """What a compressed network takes, frozen, as a share of the original's: the median of three comparisons."""
        runs = {"original": self.original, "compressed": Run.of(small, self.curves.survey.call)}
        every = [self.clock.networks(runs) for _ in range(COMPARED)]
        return float(np.median([found["compressed"] / found["original"] for found in every]))

    @property
    def path(self) -> Path | None:
        """The table's file."""
        return None if self.cache is None else self.cache / f"times-{self.network}-{_digest(self.machine)}.json"

    def _of_network(self) -> Times:
        """The table with the network and its dense layers alone."""
        besides, found = self.clock.inside(self.split, self.keys, {})
        dense = {key: max(1, round(row[DENSE])) for key, row in found.items()}
        rest = max(0, round(besides))
        original = whole = rest + sum(dense[key] for key in self.keys.values())
        if self.original is not self.split:
            both = self.clock.networks({"split": self.split, "original": self.original})
            original = max(1, round(whole * both["original"] / both["split"]))
        return Times(self.machine, self.network, original, rest, dict(self.keys), dense, {})

    def _parts(self, candidates: Sequence[Candidate]) -> Iterator[list[Candidate]]:
        """The candidates in parts that are held at a time."""
        limit, part, held = max(HELD, self.curves.survey.cost["bytes"]), list[Candidate](), 0
        for candidate in candidates:
            if part and held + candidate.bytes > limit:
                yield part
                part, held = [], 0
            part.append(candidate)
            held += candidate.bytes
        if part:
            yield part

    def _made(self, candidate: Candidate) -> nn.Module:
        """A candidate with random factors, frozen for the first call of its layer."""
        assert candidate.format is not None
        place = self.curves.survey.places[candidate.layer]
        made = layers.factorize(place.layer, candidate.format, candidate.rank, weights="fresh")
        return layers.freeze(made, _input(place))


def measure_times(
    curves: Curves,
    model: nn.Module,
    *,
    cache: Path | None = None,
    clock: Clock | None = None,
    progress: Progress | None = None,
) -> Times:
    """Time the network, frozen, and in it its layers and candidates of them, in the call that counts.

    Layers of one configuration and the same shapes are timed together; of each format up to eight candidates, with
    random factors; a layer that is called several times takes all its calls. What the dense network takes more than its
    dense layers is `Times.rest`.

    Args:
        curves: of this model.
        model: the network; it is untouched.
        cache: folder where the table is kept, for this network, machine and number of threads.
        clock: what times them, by default the machine's.
        progress: called with (candidates timed, of how many, text).

    Raises:
        ValueError: a network that cannot be frozen.
    """
    return Stopwatch(curves, model, cache, clock or Clock(), progress).table()


def _label(candidate: Candidate) -> str:
    return f"{candidate.format} {candidate.rank}"


def _thinned(times: Times, rows: Sequence[Sequence[Candidate]], format: str) -> list[Candidate]:
    """Candidates of layers of one key in one format that are to be timed: spread over their order by MACs."""
    found = {c.rank: c for row in rows for c in row if c.format == format}
    every = sorted(found.values(), key=lambda c: (c.macs, str(c.rank)))
    if not every:
        return []
    known = times.points.get(times.layers[every[0].layer], {}).get(format, ())
    if len(known) >= TIMED and known[0].macs <= every[0].macs and every[-1].macs <= known[-1].macs:
        return []
    picked = {round(place) for place in np.linspace(0, len(every) - 1, TIMED)}
    return [c for k, c in enumerate(every) if k in picked and not times.is_timed(c.layer, format, c.rank)]


def _input(place: Place) -> Tensor:
    """A random input of the first call of a layer, of the shape, type and memory layout that it sees."""
    (shape, _), (strides, dtype) = place.calls[0], place.layouts[0]
    layer, draw = place.layer, torch.Generator().manual_seed(0)
    if isinstance(layer, nn.Embedding):
        drawn = torch.randint(layer.num_embeddings, shape, generator=draw)
    else:
        drawn = torch.randn(shape, generator=draw)
    # Of a layout that leaves gaps or overlaps, an expanded tensor's, a plain one is made.
    layout = torch.empty_strided(shape, strides, dtype=dtype, device="meta")
    return torch.empty_like(layout, device=place.weight.device).copy_(drawn)


def _network(model: nn.Module, curves: Curves, keys: Mapping[str, str]) -> str:
    """Digest of what decides a network's time: modules, sizes of parameters and buffers, inputs, layers."""
    call = curves.survey.call
    values = [*call.args, *call.kwargs.values()]
    tensors = [*model.named_parameters(), *model.named_buffers()]
    content = [
        VERSION,
        TIMED,
        str(model),
        [(name, str(tensor.dtype), tuple(tensor.shape)) for name, tensor in tensors],
        [(str(x.dtype), tuple(x.shape), x.stride()) if isinstance(x, Tensor) else str(x) for x in values],
        dict(keys),
    ]
    return _digest(content)


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _warn_of_others(cache: Path | None, network: str, machine: Mapping[str, Any]) -> None:
    """Say that a cache holds times of this network, and of other machines alone."""
    for path in sorted(cache.glob(f"times-{network}-*.json")) if cache is not None else ():
        other = named(Times.load(path).machine)
        warnings.warn(
            f"the cache holds times of this network on {other}; this is {named(machine)}: measured anew",
            UserWarning,
            stacklevel=3,
        )
        return
