"""A network and the candidates of its layers, frozen and timed on this machine: what fills the table of times."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tnlib import layers, measure
from tnlib.compress.curves import Candidate, Curves, Progress
from tnlib.compress.inputs import Call
from tnlib.compress.survey import Place, opened
from tnlib.compress.times import VERSION, Point, Times, keys_of, named, this_machine
from tnlib.layers.ranks import Ranks

TIMED = 8  # candidates of a layer and a format that are timed, from the fewest to the most MACs
ROUNDS = 100  # of turns, at most
SECONDS = 0.2  # for a candidate, about
LONGER = 2.0  # for a network


@dataclass(frozen=True)
class Run:
    """A frozen module and the arguments of each of its calls: all of them are one run."""

    module: nn.Module
    calls: tuple[tuple[Any, ...], ...]

    def __call__(self) -> None:
        """Run it once."""
        for arguments in self.calls:
            self.module(*arguments)


# Nanoseconds of each run, all of them timed in turn, in about so many seconds each; the first is what the others are
# compared with. Give one of your own to `plan` to have times from elsewhere.
Clock = Callable[[Mapping[str, Run], float], Mapping[str, float]]


def by_clock(runs: Mapping[str, Run], seconds: float) -> dict[str, float]:
    """Nanoseconds by the clock: of the first run the median, of others by their median ratio to it, round by round."""
    found = measure.compare(runs, rounds=ROUNDS, seconds=seconds)
    first = found.timings[next(iter(runs))].median * 1e6
    return {name: first / found.speedup[name][0] for name in runs}


class _Positional(nn.Module):
    """A network with its keyword arguments in a row: `layers.freeze` takes no others."""

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.model, self.names = model, tuple(names)

    def forward(self, *values: Any) -> Any:
        return self.model(**dict(zip(self.names, values, strict=True)))


def frozen_run(model: nn.Module, call: Call) -> Run:
    """A network frozen for a call, and that call; keyword arguments are given in a row. What `layers.freeze` raises."""
    if not call.kwargs:
        return Run(layers.freeze(model, call.args), (call.args,))
    values = tuple(call.kwargs.values())
    return Run(layers.freeze(_Positional(model, tuple(call.kwargs)), values), (values,))


def measure_times(
    curves: Curves,
    model: nn.Module,
    *,
    cache: Path | None = None,
    clock: Clock = by_clock,
    progress: Progress | None = None,
) -> Times:
    """Time the network and candidates of its layers, frozen, alone, at the shapes they see in the call that counts.

    Layers of one configuration and the same shapes are timed once; of each format up to eight candidates, in turn with
    the dense layer, with random factors; a layer that is called several times takes all its calls. What the dense
    network takes more than its dense layers is `Times.rest`.

    Args:
        curves: of this model.
        model: the network; it is untouched.
        cache: folder where the table is kept, for this network, machine and number of threads.
        clock: what times them, by default `by_clock`.
        progress: called with (layers done, of how many, what the last one was).

    Raises:
        ValueError: a network that cannot be frozen.
    """
    places, keys = curves.survey.places, keys_of(curves.survey.places)
    machine, network = this_machine(next(iter(places.values())).weight.device), _network(model, curves, keys)
    path = None if cache is None else cache / f"times-{network}-{_digest(machine)}.json"
    if path is not None and path.is_file():
        times = Times.load(path)
        times.require(machine, keys)
    else:
        _warn_of_others(cache, network, machine)
        times = _of_network(model, curves, keys, machine, network, clock)
    first = {key: places[name] for name, key in reversed(keys.items())}
    for done, (key, place) in enumerate(reversed(first.items()), 1):
        rows = [row for name, row in curves.candidates.items() if keys[name] == key]
        wanted = [c for format in curves.formats for c in _thinned(times, rows, format)]
        times = _timed(times, key, place, wanted, clock)
        if path is not None and (wanted or not path.is_file()):
            times.save(path)
        if progress is not None:
            progress(done, len(first), f"times of {place.name} {tuple(place.calls[0][0])}")
    return times


def time_these(
    times: Times, curves: Curves, chosen: Collection[Candidate], cache: Path | None, clock: Clock
) -> tuple[Times, bool]:
    """The table with those of these candidates that were not timed yet, and whether there were any."""
    by_key: dict[str, dict[tuple[str | None, Ranks | None], Candidate]] = {}
    for candidate in chosen:
        if not times.is_timed(candidate.layer, candidate.format, candidate.rank):
            by_key.setdefault(times.layers[candidate.layer], {})[candidate.format, candidate.rank] = candidate
    for key, rows in by_key.items():
        place = curves.survey.places[next(iter(rows.values())).layer]
        times = _timed(times, key, place, list(rows.values()), clock)
    if by_key and cache is not None:
        times.save(cache / f"times-{times.network}-{_digest(times.machine)}.json")
    return times, bool(by_key)


def _of_network(
    model: nn.Module, curves: Curves, keys: Mapping[str, str], machine: dict[str, Any], network: str, clock: Clock
) -> Times:
    """The table with the network and its dense layers alone, which are those of the frozen network."""
    call, places = curves.survey.call, curves.survey.places
    split = opened(model)
    try:
        runs = {"opened": frozen_run(split, call)}
        if split is not model:
            runs["original"] = frozen_run(model, call)
    except Exception as error:  # whatever the network raises
        raise ValueError(
            f"latency cannot be measured, because freezing the network fails: {type(error).__name__}: {error}"
        ) from error
    frozen: Any = runs["opened"].module
    for name, key in keys.items():
        layer = (frozen.model if call.kwargs else frozen).get_submodule(name)
        runs.setdefault(key, Run(layer, _inputs(places[name])))
    found = clock(runs, LONGER)
    whole = found["opened"]
    shown = sum(found[key] for key in keys.values())
    fits = min(1.0, whole / shown)  # in the network layers may be faster than alone
    dense = {key: max(1, int(fits * found[key])) for key in dict.fromkeys(keys.values())}
    rest = max(0, round(whole) - sum(dense[key] for key in keys.values()))
    return Times(machine, network, round(found.get("original", whole)), rest, dict(keys), dense, {})


def _timed(times: Times, key: str, place: Place, wanted: Sequence[Candidate], clock: Clock) -> Times:
    """The table with these candidates of a layer, as many times as long as the dense layer as here alone."""
    if not wanted:
        return times
    inputs = _inputs(place)
    runs = {"dense": Run(layers.freeze(place.layer, inputs[0]), inputs)}
    for candidate in wanted:
        assert candidate.format is not None
        made = layers.factorize(place.layer, candidate.format, candidate.rank, weights="fresh")
        runs[f"{candidate.format} {candidate.rank}"] = Run(layers.freeze(made, inputs[0]), inputs)
    found = clock(runs, SECONDS)
    unit = times.dense[key] / found["dense"]
    points = []
    for c in wanted:
        assert c.format is not None
        assert c.rank is not None
        points.append((c.format, Point(c.rank, c.macs, max(1, round(unit * found[f"{c.format} {c.rank}"])))))
    return times.with_points(key, points)


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


def _inputs(place: Place) -> tuple[tuple[Tensor], ...]:
    """Random inputs of all calls of a layer, of the shapes, types and memory layouts that it sees."""
    layer, device, draw = place.layer, place.weight.device, torch.Generator().manual_seed(0)
    result = []
    for (shape, _), (strides, dtype) in zip(place.calls, place.layouts, strict=True):
        if isinstance(layer, nn.Embedding):
            drawn = torch.randint(layer.num_embeddings, shape, generator=draw)
        else:
            drawn = torch.randn(shape, generator=draw)
        # Of a layout that leaves gaps or overlaps, an expanded tensor's, a plain one is made.
        like = torch.empty_like(torch.empty_strided(shape, strides, dtype=dtype, device="meta"), device=device)
        result.append((like.copy_(drawn),))
    return tuple(result)


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
