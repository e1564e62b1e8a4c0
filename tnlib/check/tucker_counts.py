"""Exercises of `notebooks/03_truncate_tucker` that count: parameters and multiplications."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

from tnlib.check.exercise import Exercise, Mistake

_NOTEBOOK = "03_truncate_tucker"


def _free(shape: Sequence[int], ranks: Sequence[int]) -> int:
    return _stored(shape, ranks) - sum(r * r for r in ranks)


def _stored(shape: Sequence[int], ranks: Sequence[int]) -> int:
    return math.prod(ranks) + sum(n * r for n, r in zip(shape, ranks, strict=True))


tucker_free_parameters = Exercise(
    "tucker_free_parameters",
    _NOTEBOOK,
    _free,
    (
        {"shape": (5, 6, 7), "ranks": (2, 3, 4)},
        {"shape": (9, 8), "ranks": (3, 3)},
        {"shape": (4, 5, 6, 7), "ranks": (2, 2, 3, 3)},
    ),
    (
        Mistake(_stored, "That is how many numbers are stored. Which changes of them leave the tensor as it is?"),
        Mistake(
            lambda shape, ranks: _stored(shape, ranks) - sum(r * (r - 1) // 2 for r in ranks),
            "You divided out rotations. The factors need not be orthonormal: more can be inserted than rotations.",
        ),
        Mistake(
            lambda shape, ranks: _stored(shape, ranks) - sum(r * (r + 1) // 2 for r in ranks),
            "You asked for orthonormal factors, but orthonormal factors can still be rotated.",
        ),
        Mistake(
            lambda shape, ranks: _free(shape, ranks) - math.prod(ranks),
            "You counted the subspaces; within them the core is free.",
        ),
        Mistake(
            lambda shape, ranks: _stored(shape, ranks) - sum(ranks),
            "You divided out one scale a column. That is the freedom of a CPD; here columns may be mixed, too.",
        ),
    ),
)


def _macs(shape: Sequence[int], ranks: Sequence[int], order: Sequence[int]) -> int:
    sizes, total = list(shape), 0
    for q in order:
        total += (shape[q] + ranks[q]) * math.prod(sizes)
        sizes[q] = ranks[q]
    return total


def _orders(shape: Sequence[int]) -> list[tuple[int, ...]]:
    return list(itertools.permutations(range(len(shape))))


def _cheapest(shape: Sequence[int], ranks: Sequence[int]) -> int:
    return min(_macs(shape, ranks, order) for order in _orders(shape))


def _products_only(shape: Sequence[int], ranks: Sequence[int]) -> int:
    def products(order: Sequence[int]) -> int:
        sizes, total = list(shape), 0
        for q in order:
            total += ranks[q] * math.prod(sizes)
            sizes[q] = ranks[q]
        return total

    return min(products(order) for order in _orders(shape))


def _by(key: Callable[[int, int], float]) -> Callable[..., int]:
    """The count of one order: modes sorted by a function of size and rank."""
    return lambda shape, ranks: _macs(shape, ranks, sorted(range(len(shape)), key=lambda q: key(shape[q], ranks[q])))


cheapest_st_hosvd = Exercise(
    "cheapest_st_hosvd",
    _NOTEBOOK,
    _cheapest,
    (
        {"shape": (40, 30, 20), "ranks": (4, 15, 2)},
        {"shape": (12, 50, 9, 6), "ranks": (10, 5, 8, 2)},
        {"shape": (64, 64, 9), "ranks": (16, 32, 9)},
        {"shape": (8, 9, 10), "ranks": (8, 3, 1)},
    ),
    (
        Mistake(
            lambda shape, ranks: _macs(shape, ranks, range(len(shape))),
            "That is the count for the order 0, 1, 2, ...; another order is cheaper.",
        ),
        Mistake(
            lambda shape, ranks: max(_macs(shape, ranks, order) for order in _orders(shape)),
            "That is the most expensive order.",
        ),
        Mistake(_products_only, "The Gram matrices cost, too: I_n MACs for each entry of the current tensor."),
        Mistake(
            lambda shape, ranks: min(_macs(sizes, ranks, range(len(ranks))) for sizes in itertools.permutations(shape)),
            "You reorder the sizes, but their ranks stay behind.",
        ),
        Mistake(
            lambda shape, ranks: math.prod(shape) * (sum(shape) + sum(ranks)),
            "You count every step at full size; the tensor shrinks after each of them.",
        ),
        Mistake(_by(lambda n, r: n), "Smallest mode first is a rule of thumb; it ignores how much each step shrinks."),
        Mistake(_by(lambda n, r: r / n), "The strongest shrinking first ignores what the Gram matrix of a mode costs."),
    ),
)
