"""What the clock says of frozen networks, and of their layers inside them, where each of several may stand."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from tnlib import layers, measure
from tnlib.compress.inputs import Call

ROUNDS = 200  # of turns of a network, at most
SECONDS = 1.0  # for a network, about
TURNS = 20  # of each option of a layer, at most
FEWEST = 3  # however long they take
LONGEST = 30.0  # seconds, after which no more turns than these are begun
DENSE = "dense"


@dataclass(frozen=True)
class Run:
    """A frozen network and how it is called."""

    module: nn.Module
    call: Call

    @classmethod
    def of(cls, model: nn.Module, call: Call) -> Run:
        """A network frozen for a call. Raises what `layers.freeze` raises."""
        return cls(layers.freeze(model, call.kwargs or call.args), call)

    def __call__(self) -> Any:
        """What it returns."""
        return self.call.run(self.module)


class Clock:
    """The machine's. Give another one to have times from elsewhere: simulated, or of a device."""

    def networks(self, runs: Mapping[str, Run]) -> dict[str, float]:
        """Nanoseconds of networks called in turn: of the first the median, of others by their median ratio to it."""
        found = measure.compare(runs, rounds=ROUNDS, seconds=SECONDS)
        first = found.timings[next(iter(runs))].median * 1e6
        return {name: first / found.speedup[name][0] for name in runs}

    def inside(
        self, run: Run, places: Mapping[str, str], options: Mapping[str, Mapping[str, nn.Module]]
    ) -> tuple[float, dict[str, dict[str, float]]]:
        """Nanoseconds of layers inside a network: all calls of one in one call of it, each of its options in turn.

        In every call of the network each layer is one of its options, in an order that is random and the same in every
        process: their neighbours, what lies in caches and what Python has just run are then those of a network.

        Args:
            run: the network, each of these layers dense.
            places: name of a layer -> key; layers of one key are timed together.
            options: key -> label -> what may stand there, frozen.

        Returns:
            What the network takes besides these layers, and key -> label -> time; `dense` is the layer itself. All are
            the lower quartiles: a call in which another process ran says nothing of the network.
        """
        slots = {name: _Slot(run.module.get_submodule(name), options.get(key, {})) for name, key in places.items()}
        found: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        draw, besides = np.random.default_rng(0), list[int]()
        longest = max(len(slot.options) for slot in slots.values())
        turns = max(TURNS, ROUNDS // longest)
        try:
            with torch.no_grad():
                measure.latency(run, rounds=1)  # warmed up, and the C library keeps freed memory
                started = time.perf_counter()
                for turn in range(turns):
                    if turn >= FEWEST and time.perf_counter() - started > LONGEST:
                        break
                    orders = {name: draw.permutation(longest) % len(slot.options) for name, slot in slots.items()}
                    for step in range(longest):
                        for name, slot in slots.items():
                            slot.choose(int(orders[name][step]))
                        before = time.perf_counter_ns()
                        run()
                        whole = time.perf_counter_ns() - before
                        besides.append(whole - sum(slot.spent for slot in slots.values()))
                        for name, slot in slots.items():
                            found[places[name]][slot.label].append(slot.spent)
        finally:
            for slot in slots.values():
                slot.leave()
        rows = {key: {label: _quartile(times) for label, times in row.items()} for key, row in found.items()}
        return _quartile(besides), rows


def _quartile(times: Sequence[int]) -> float:
    return float(np.quantile(times, 0.25))


class _Slot:
    """Takes the place of a layer's `forward`: runs one of the options, and sums up how long its calls take."""

    def __init__(self, layer: nn.Module, options: Mapping[str, nn.Module]) -> None:
        self.layer, self.label, self.spent = layer, DENSE, 0
        self.options: dict[str, Callable[..., Any]] = {DENSE: layer.forward}
        self.options |= {label: option.forward for label, option in options.items()}
        self.current = self.options[DENSE]
        device = next((tensor.device for tensor in layer.parameters()), torch.device("cpu"))
        self.waits = device.type == "cuda"
        vars(layer)["forward"] = self

    def choose(self, number: int) -> None:
        """Which option comes next."""
        self.label = list(self.options)[number]
        self.current, self.spent = self.options[self.label], 0

    def leave(self) -> None:
        """The layer is itself again."""
        del vars(self.layer)["forward"]

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        if self.waits:
            torch.cuda.synchronize()
        start = time.perf_counter_ns()
        result = self.current(*arguments, **options)
        if self.waits:
            torch.cuda.synchronize()
        self.spent += time.perf_counter_ns() - start
        return result
