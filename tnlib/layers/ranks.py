"""Ranks that a decomposition can use: checked, and cut where the other ranks already limit them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tnlib import decompose
from tnlib.decompose import _validate as validate


def useful_tt_ranks(rank: object, shape: Sequence[int]) -> tuple[int, ...]:
    """TT ranks R_1 .. R_(Q-1) of a tensor of this shape, cut to R_q <= R_(q-1) N_q as TT-SVD cuts them.

    Raises:
        ValueError: a rank below 1, or above what any tensor of this shape needs (the message names that one).
    """
    ranks = [1, *validate.many_ranks(rank, decompose.max_tt_ranks(shape), "TT rank")]
    for q in range(1, len(ranks)):
        ranks[q] = min(ranks[q], ranks[q - 1] * shape[q - 1])
    return tuple(ranks[1:])


def useful_tucker_ranks(rank: object, shape: Sequence[int], modes: int | None = None) -> tuple[int, ...]:
    """Tucker ranks of the first `modes` modes (by default all), cut to what the core's other sizes leave.

    A core of sizes R_1 x .. x R_Q has at most R_2 .. R_Q independent slices: a larger R_1 changes nothing.

    Raises:
        ValueError: a rank below 1 or above min(size of the mode, product of the others), which the message names.
    """
    modes = len(shape) if modes is None else modes
    total = math.prod(shape)
    largest = [min(size, total // size) for size in shape[:modes]]
    core = [*validate.many_ranks(rank, largest, "Tucker rank"), *shape[modes:]]
    before: list[int] = []
    while core != before:
        before = core.copy()
        for q in range(modes):
            core[q] = min(core[q], math.prod(core) // core[q])
    return tuple(core[:modes])
