"""Exercises of `notebooks/07_measure_what_it_costs` that count, or solve for a size."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tnlib.check.exercise import Exercise, Mistake

_NOTEBOOK = "07_measure_what_it_costs"

_Area = Callable[[int, int, int], int]


def _large(height: int, width: int, stride: int) -> int:
    return height * width


def _small(height: int, width: int, stride: int) -> int:
    return -(-height // stride) * -(-width // stride)


def _floor(height: int, width: int, stride: int) -> int:
    return (height // stride) * (width // stride)


def _break_even(
    areas: tuple[_Area, _Area, _Area] = (_large, _small, _small), after: _Area = _small, equal: int = 0, more: int = 0
) -> Callable[..., int]:
    """The largest rank, when the three stages compute the given numbers of positions and the dense kernel `after`."""

    def rank(T: int, S: int, k: int, height: int, width: int, stride: int) -> int:
        first, middle, last = (area(height, width, stride) for area in areas)
        dense = after(height, width, stride) * T * S * k * k
        R = 0
        while first * S * (R + 1) + middle * (R + 1) ** 2 * k * k + last * (R + 1) * T < dense + equal:
            R += 1
        return R + more

    return rank


tucker2_mac_break_even = Exercise(
    "tucker2_mac_break_even",
    _NOTEBOOK,
    _break_even(),
    (
        {"T": 64, "S": 64, "k": 3, "height": 16, "width": 16, "stride": 2},
        {"T": 128, "S": 64, "k": 3, "height": 15, "width": 11, "stride": 2},
        {"T": 48, "S": 96, "k": 5, "height": 9, "width": 8, "stride": 1},
        {"T": 3, "S": 2, "k": 1, "height": 5, "width": 4, "stride": 1},
        {"T": 96, "S": 80, "k": 3, "height": 7, "width": 7, "stride": 3},
    ),
    (
        Mistake(
            _break_even((_small, _small, _small)),
            "That is the break-even of parameters. The first 1x1 stage computes the map before the stride.",
        ),
        Mistake(
            _break_even((_large, _large, _small)),
            "The k x k stage strides: it computes only the positions that are left after it.",
        ),
        Mistake(_break_even((_large, _small, _large)), "The last 1x1 stage comes after the stride."),
        Mistake(_break_even((_large, _floor, _floor), _floor), "Odd sizes are rounded up by a stride, not down."),
        Mistake(_break_even(equal=1), "Fewer is meant: with as many MACs nothing is saved."),
        Mistake(_break_even(more=1), "One too many: does that rank still do fewer MACs?"),
    ),
)


def _ridge(inputs: int, outputs: int, ridge: float, *, per: float = 4.0, shift: int = 0) -> int:
    rest = 1 / (per * ridge) - 1 / inputs - 1 / outputs
    return math.ceil(1 / rest) + shift if rest > 0 else 0


def _ridge_floor(inputs: int, outputs: int, ridge: float) -> int:
    return max(0, _ridge(inputs, outputs, ridge) - 1)


def _ridge_searched(inputs: int, outputs: int, ridge: float) -> int:
    B = _ridge(inputs, outputs, ridge)
    return B if B <= 1000 else 0


def _ridge_no_zero(inputs: int, outputs: int, ridge: float) -> int:
    return math.ceil(1 / (1 / (4 * ridge) - 1 / inputs - 1 / outputs))


ridge_batch = Exercise(
    "ridge_batch",
    _NOTEBOOK,
    _ridge,
    (
        {"inputs": 1000, "outputs": 700, "ridge": 3.7},
        {"inputs": 4096, "outputs": 25088, "ridge": 12.3},
        {"inputs": 30, "outputs": 4000, "ridge": 8.3},
        {"inputs": 90, "outputs": 70, "ridge": 2.1},
        {"inputs": 40, "outputs": 4000, "ridge": 9.8},
    ),
    (
        Mistake(
            lambda inputs, outputs, ridge: math.ceil(4 * ridge),
            "Intensity is B / 4 only while B is small beside both sizes of the layer.",
        ),
        Mistake(
            _ridge_floor, "One too few, or none at all where there is one: at that batch memory is still the limit."
        ),
        Mistake(
            lambda inputs, outputs, ridge: _ridge(inputs, outputs, ridge, per=1.0),
            "A quarter, about: a float32 number has four bytes.",
        ),
        Mistake(
            lambda inputs, outputs, ridge: _ridge(inputs, outputs, ridge, per=2.0),
            "Half, about: you mixed FLOP and MACs.",
        ),
        Mistake(
            lambda inputs, outputs, ridge: (
                4 * ridge * inputs * outputs / (inputs * outputs - 4 * ridge * (inputs + outputs))
            ),
            "A batch is a whole number, and none is negative.",
        ),
        Mistake(_ridge_searched, "Did a search end too early? Near the limit of the layer's sizes the batch is large."),
        Mistake(_ridge_no_zero, "A negative batch: then the layer's own sizes keep its intensity below the ridge."),
    ),
)


def _two_sided(
    row_dims: Sequence[int], col_dims: Sequence[int], ranks: Sequence[int], p: int, *, kind: str = ""
) -> int:
    """MACs when cores p .. d - 1 are contracted from the last one, then cores 0 .. p - 1 from the first one."""
    m, n, bonds = row_dims, col_dims, [1, *ranks, 1]
    macs = 0
    for k in range(p, len(m)):
        macs += math.prod(n[:k]) * bonds[k] * m[k] * n[k] * bonds[k + 1] * math.prod(m[k + 1 :])
    done = 1 if kind == "forgets" else math.prod(m[p:])
    for k in range(p):
        closes = k == p - 1
        is_open = {"": not closes, "forgets": not closes, "never": False, "always": True}[kind]
        waiting = bonds[p] if is_open else 1
        macs += math.prod(m[:k]) * bonds[k] * m[k] * n[k] * bonds[k + 1] * math.prod(n[k + 1 : p]) * waiting * done
    return macs


def _best(kind: str = "", points: Callable[[int], Sequence[int]] = lambda d: range(d + 1)) -> Callable[..., int]:
    def macs(row_dims: Sequence[int], col_dims: Sequence[int], ranks: Sequence[int]) -> int:
        return min(_two_sided(row_dims, col_dims, ranks, p, kind=kind) for p in points(len(row_dims)))

    return macs


def _worst(row_dims: Sequence[int], col_dims: Sequence[int], ranks: Sequence[int]) -> int:
    return max(_two_sided(row_dims, col_dims, ranks, p) for p in range(len(row_dims) + 1))


two_sided_macs = Exercise(
    "two_sided_macs",
    _NOTEBOOK,
    _best(),
    (
        {"row_dims": (4, 4, 4, 4, 4, 4), "col_dims": (2, 7, 8, 8, 7, 4), "ranks": (4, 4, 4, 4, 4)},
        {"row_dims": (3, 9, 2, 2), "col_dims": (6, 2, 3, 4), "ranks": (4, 2, 2)},
        {"row_dims": (2, 8, 3), "col_dims": (8, 2, 5), "ranks": (3, 2)},
        {"row_dims": (4, 2, 9, 2), "col_dims": (9, 8, 9, 6), "ranks": (4, 4, 2)},
    ),
    (
        Mistake(_best(points=lambda d: (0,)), "That is the contraction from the last core alone."),
        Mistake(_best(points=lambda d: (d,)), "That is the contraction from the first core alone."),
        Mistake(
            _best(points=lambda d: (0, d)),
            "You compared only the two that go one way; a meeting point in between is better.",
        ),
        Mistake(_worst, "That is the most expensive meeting point."),
        Mistake(
            _best("never"), "Between the two phases a bond is open, and it multiplies the work of the second phase."
        ),
        Mistake(_best("always"), "The last step sums over the open bond: there it is counted once, not twice."),
        Mistake(_best("forgets"), "The outputs of the first phase are carried along in the second one."),
    ),
)

EXERCISES = (tucker2_mac_break_even, ridge_batch, two_sided_macs)
