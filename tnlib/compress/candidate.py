"""A layer in a format and a rank: what it costs, and the loss it is predicted to bring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np

from tnlib.compress.survey import Place
from tnlib.layers.ranks import Ranks


class Loss(NamedTuple):
    """What a rank is predicted to lose: in itself, or interpolated between others."""

    rank: Ranks
    loss: float
    interpolated: bool = False


@dataclass(frozen=True)
class Candidate:
    """A layer in a format and a rank: what it costs and the loss it is predicted to bring. Dense: no format, loss 0.

    `interpolated`: whether the loss is one between those of other ranks, not that of a decomposition. `latency`:
    nanoseconds of all its calls in one call of the network; None where no times are at hand.
    """

    layer: str
    format: str | None
    rank: Ranks | None
    params: int
    macs: int
    bytes: int
    loss: float
    interpolated: bool = False
    latency: int | None = None

    @classmethod
    def of(cls, place: Place, format: str, one: Loss, cost: Mapping[str, int]) -> Self:
        """From a rank and its loss, and what that costs by kind."""
        params, macs, size = (cost[kind] for kind in ("params", "macs", "bytes"))
        return cls(place.name, format, one.rank, params, macs, size, one.loss, one.interpolated)

    def cost(self, kind: str) -> int:
        """One of `params`, `macs`, `bytes`, and `latency` where it is known."""
        value: int = getattr(self, kind)
        return value


def undominated(rows: Sequence[Candidate]) -> list[Candidate]:
    """Those that no other one beats in every cost and in loss, ascending in loss; of equal ones the first."""
    if not rows:
        return []
    table = np.array([[row.loss, row.params, row.macs, row.bytes] for row in rows], dtype=np.float64)
    kept: list[int] = []
    front = np.empty((0, 4))
    for index in np.lexsort(table.T[::-1]):
        if not (front <= table[index]).all(1).any():
            kept.append(int(index))
            front = np.vstack([front, table[index]])
    return [rows[index] for index in kept]
