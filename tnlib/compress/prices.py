"""What a layer would cost in a format and a rank: exactly what `measure.cost` then counts, without building it."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from tnlib import layers, measure
from tnlib.compress.survey import Place
from tnlib.layers.ranks import Ranks

Price = dict[str, int]


@dataclass
class Prices:
    """Costs of candidates; layers of the same configuration and shapes share them."""

    _known: dict[tuple[str, str, Ranks], Price] = field(default_factory=dict)
    _rough: dict[tuple[str, str, Ranks], tuple[int, int]] = field(default_factory=dict)
    _trusted: dict[tuple[str, str], bool] = field(default_factory=dict)
    _bare: dict[str, nn.Module] = field(default_factory=dict)

    def of(self, place: Place, format: str, rank: Ranks) -> Price:
        """Parameters, multiply-accumulates of all calls and bytes of the factorized layer."""
        key = (place.setting, format, rank)
        if key not in self._known:
            params, macs = self.rough(place, format, rank)
            if not self._trusted.get(key[:2], False):
                macs = self._counted(place, format, rank)
            self._known[key] = {"params": params, "macs": macs, "bytes": params * place.weight.element_size()}
        return self._known[key]

    def rough(self, place: Place, format: str, rank: Ranks) -> tuple[int, int]:
        """Parameters, and multiply-accumulates by the format's own formula."""
        key = (place.setting, format, rank)
        if key not in self._rough:
            self._rough[key] = layers.size(place.layer, format, rank), formula(place, format, rank)
        return self._rough[key]

    def prepare(self, place: Place, format: str, ranks: list[Ranks]) -> bool:
        """Whether the format's own formula tells what a call takes, found out from a few of these ranks.

        It need not: of a convolution with a stride it knows the output's size and not the input's, and of a format
        that multiplies its factors out in each call the fewest products of all orders.
        """
        key = place.setting, format
        if ranks and key not in self._trusted:
            probes = {ranks[k * (len(ranks) - 1) // 4] for k in range(5)}
            equal = (formula(place, format, r) == self._counted(place, format, r) for r in sorted(probes, key=str))
            self._trusted[key] = all(equal)
        return self._trusted.get(key, False)

    def _counted(self, place: Place, format: str, rank: Ranks) -> int:
        """What torch counts in all calls of a layer without values."""
        if place.setting not in self._bare:
            memo: dict[int, Any] = {id(p): p.to("meta") for p in place.layer.parameters()}
            self._bare[place.setting] = copy.deepcopy(place.layer, memo)
        layer = layers.factorize(self._bare[place.setting], format, rank, weights="empty")
        kind = torch.int64 if isinstance(place.layer, nn.Embedding) else place.weight.dtype
        each = {shape: torch.empty(shape, dtype=kind, device="meta") for shape, _ in place.calls}
        once = {shape: measure.cost(layer, x).macs for shape, x in each.items()}
        return sum(once[shape] for shape, _ in place.calls)


def formula(place: Place, format: str, rank: Ranks) -> int:
    """Multiply-accumulates of all calls by the format's own formula."""
    layer = place.layer
    if isinstance(layer, nn.Embedding):
        return sum(math.prod(shape) for shape, _ in place.calls) * layers.macs(layer, format, rank)
    if isinstance(layer, nn.Linear):
        return sum(place.positions) * layers.macs(layer, format, rank)
    total = 0
    for (_, after), positions in zip(place.calls, place.positions, strict=True):
        size = after[-(place.weight.ndim - 2) :]
        total += positions // math.prod(size) * layers.macs(layer, format, rank, size)
    return total
