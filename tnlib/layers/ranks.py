"""Ranks that a decomposition can use: checked, cut where other ranks limit them, and found for a cost or an error."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import Tensor

from tnlib import decompose
from tnlib.decompose import _validate as validate

Ranks = int | tuple[int, ...]
Errors = tuple[list[Ranks], Tensor]


def useful_tt_ranks(rank: object, shape: Sequence[int]) -> tuple[int, ...]:
    """TT ranks R_1 .. R_(Q-1) of a tensor of this shape, cut to R_q <= R_(q-1) N_q as TT-SVD cuts them.

    Raises:
        ValueError: a rank below 1, or above what any tensor of this shape needs (the message names that one).
    """
    ranks = [1, *validate.many_ranks(rank, decompose.max_tt_ranks(shape), "TT rank")]
    for q in range(1, len(ranks)):
        ranks[q] = min(ranks[q], ranks[q - 1] * shape[q - 1])
    return tuple(ranks[1:])


def max_tucker_ranks(shape: Sequence[int], modes: int | None = None) -> tuple[int, ...]:
    """The largest useful Tucker ranks of the first `modes` modes (by default all): min(size, product of the others)."""
    total = math.prod(shape)
    return tuple(min(size, total // size) for size in shape[:modes])


def useful_tucker_ranks(rank: object, shape: Sequence[int], modes: int | None = None) -> tuple[int, ...]:
    """Tucker ranks of the first `modes` modes (by default all), cut to what the core's other sizes leave.

    A core of sizes R_1 x .. x R_Q has at most R_2 .. R_Q independent slices: a larger R_1 changes nothing.

    Raises:
        ValueError: a rank below 1 or above min(size of the mode, product of the others), which the message names.
    """
    modes = len(shape) if modes is None else modes
    core = [*validate.many_ranks(rank, max_tucker_ranks(shape, modes), "Tucker rank"), *shape[modes:]]
    before: list[int] = []
    while core != before:
        before = core.copy()
        for q in range(modes):
            core[q] = min(core[q], math.prod(core) // core[q])
    return tuple(core[:modes])


def rank_within(share: float, cost: Callable[[int], int], dense: int, limits: Ranks, what: str) -> int:
    """The largest integer rank whose cost is at most `share` of the dense layer's.

    An integer stands for all ranks of a format, each cut to its largest useful value, so that the cost never falls
    when it grows.

    Args:
        share: above 0.
        cost: of a rank, non-decreasing.
        dense: cost of the layer that is replaced.
        limits: the format's largest useful rank or ranks.
        what: of which costs the share is, for messages.

    Raises:
        ValueError: a share that is no positive number, or that not even rank 1 keeps.
    """
    if not share > 0:
        raise ValueError(f"share must be above 0, got {share}")
    low, high = 1, max(limits) if isinstance(limits, tuple) else limits
    allowed = share * dense
    if cost(low) > allowed:
        raise ValueError(f"share {share} of {what} is out of reach: rank 1 takes {cost(low) / dense:.4g} of {dense:,}")
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if cost(middle) <= allowed else (low, middle - 1)
    return low


def first_within(error: Callable[[int], float], rel_error: float, largest: int) -> int:
    """A rank whose error is at most `rel_error`, found by doubling, then halving the gap; `largest` if none is.

    For decompositions that are computed anew for each rank (CP). With an error that does not always fall with the rank
    it is a rank that will do, not always the smallest.
    """
    low, high = 0, 1
    while high < largest and error(high) > rel_error:
        low, high = high, min(2 * high, largest)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if error(middle) <= rel_error else (middle, high)
    return high


def largest_of(ranks: Sequence[Ranks]) -> Ranks:
    """Entry by entry the largest rank of several, for one rank that serves all groups of a layer."""
    first = ranks[0]
    if isinstance(first, int):
        return max(rank for rank in ranks if isinstance(rank, int))
    return tuple(max(entries) for entries in zip(*(rank for rank in ranks if isinstance(rank, tuple)), strict=True))
