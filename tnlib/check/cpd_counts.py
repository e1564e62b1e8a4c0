"""Exercises of `notebooks/02_fit_cpd` that count."""

from __future__ import annotations

import math

from tnlib.check.exercise import Exercise, Mistake

_NOTEBOOK = "02_fit_cpd"


# 2. The rank that generic tensors need, by counting


def _generic(sizes: tuple[int, ...]) -> int:
    return -(-math.prod(sizes) // (sum(sizes) - len(sizes) + 1))


cpd_generic_rank = Exercise(
    "cpd_generic_rank",
    _NOTEBOOK,
    _generic,
    (
        {"sizes": (5, 7, 9)},
        {"sizes": (64, 64, 3, 3)},
        {"sizes": (2, 2, 2)},
        {"sizes": (4, 6, 6, 5, 3)},
        {"sizes": (2, 2, 4)},
    ),
    (
        Mistake(
            lambda sizes: -(-math.prod(sizes) // sum(sizes)),
            "Some of a term's numbers change nothing: rescale one vector, and another one back.",
        ),
        Mistake(
            lambda sizes: -(-math.prod(sizes) // (sum(sizes) - len(sizes))),
            "One scale too many is taken away: a term still has a size.",
        ),
        Mistake(
            lambda sizes: math.prod(sizes) // (sum(sizes) - len(sizes) + 1),
            "Rounded the wrong way: with that many terms there are fewer unknowns than entries.",
        ),
        Mistake(
            lambda sizes: math.prod(sizes) // (sum(sizes) - len(sizes) + 1) + 1,
            "One too many where the division leaves nothing over.",
        ),
        Mistake(
            lambda sizes: max(max(sizes), _generic(sizes)),
            "A better bound, since a long mode's unfolding needs as many terms; here only parameters are counted.",
        ),
        Mistake(lambda sizes: math.prod(sizes) / (sum(sizes) - len(sizes) + 1), "A rank is a whole number."),
    ),
)


# 4. How far Kruskal's condition reaches


def _kruskal(sizes: tuple[int, int, int], *, right: int = 2, capped: bool = True) -> int:
    def k_ranks(rank: int) -> int:
        return sum(min(n, rank) if capped else n for n in sizes)

    return max(rank for rank in range(1, sum(sizes)) if rank == 1 or k_ranks(rank) >= 2 * rank + right)


cpd_kruskal_rank = Exercise(
    "cpd_kruskal_rank",
    _NOTEBOOK,
    _kruskal,
    (
        {"sizes": (5, 6, 8)},
        {"sizes": (30, 4, 3)},
        {"sizes": (2, 2, 2)},
        {"sizes": (7, 7, 7)},
        {"sizes": (8, 5, 6)},
        {"sizes": (1, 5, 5)},
        {"sizes": (3, 4, 7)},
    ),
    (
        Mistake(
            lambda sizes: max(1, min(sum(sorted(sizes)[:2]) - 2, (sum(sizes) - 2) // 2)),
            "With a size of 1 the tensor is a matrix: for which R >= 2 does the condition hold then?",
        ),
        Mistake(
            lambda sizes: sum(sorted(sizes)[:2]) - 2 if max(sizes) > sum(sorted(sizes)[:2]) else (sum(sizes) - 2) // 2,
            "Where does one case end and the other begin? Compare with the largest R, not with the sizes.",
        ),
        Mistake(
            lambda sizes: 1 if 1 in sizes else min(sizes[0] + sizes[1] - 2, (sum(sizes) - 2) // 2),
            "Right if sizes ascend; here they come in any order.",
        ),
        Mistake(
            lambda sizes: _kruskal(sizes, capped=False),
            "A factor with R columns has a k-rank of at most R, however many rows it has.",
        ),
        Mistake(lambda sizes: _kruskal(sizes, right=0), "The right side is 2R + 2, not 2R."),
        Mistake(lambda sizes: _kruskal(sizes, right=3), "Equality is enough."),
        Mistake(
            lambda sizes: min(sizes), "Kruskal's condition can hold with more terms than the smallest mode's size."
        ),
        Mistake(lambda sizes: max(sizes), "The largest size alone does not decide: all three k-ranks are added."),
    ),
)
