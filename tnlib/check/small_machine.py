"""Exercises of `15_bring_a_network_to_a_small_machine`: affine quantization, a chain balanced, where to clip."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tnlib.check.exercise import Exercise, Mistake

NOTEBOOK = "15_bring_a_network_to_a_small_machine"
_generator = torch.Generator().manual_seed(2024)


def _randn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=_generator, dtype=torch.float64)


def _rand(*shape: int) -> Tensor:
    return torch.rand(shape, generator=_generator, dtype=torch.float64)


# 1. Affine quantization


def _affine(x: Tensor, low: float, high: float, *, levels: int = 255, zero: bool = True, clip: bool = True) -> Tensor:
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / levels
    point = round(-128 - low / scale)
    q = torch.round(x / scale) + point
    return scale * ((q.clamp(-128, 127) if clip else q) - point)


def _quantize_affine(x: Tensor, low: float, high: float) -> Tensor:
    """What int8 makes of x: scale and zero point for the range from low to high, widened to contain 0."""
    return _affine(x, low, high)


def _unrounded_point(x: Tensor, low: float, high: float) -> Tensor:
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / 255
    return scale * (torch.round((x - low) / scale).clamp(0, 255)) + low


def _truncated(x: Tensor, low: float, high: float) -> Tensor:
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / 255
    point = round(-128 - low / scale)
    return scale * ((torch.floor(x / scale) + point).clamp(-128, 127) - point)


def _symmetric(x: Tensor, low: float, high: float) -> Tensor:
    scale = max(abs(low), abs(high)) / 127
    return scale * torch.round(x / scale).clamp(-128, 127)


QUANTIZE_AFFINE = Exercise(
    "quantize_affine",
    NOTEBOOK,
    _quantize_affine,
    (
        {"x": torch.tensor([-0.93, 0.31, 1.77], dtype=torch.float64), "low": -1.0, "high": 2.0},
        {"x": _randn(40), "low": -1.3, "high": 0.9},
        {"x": 2 + _rand(20), "low": 1.1, "high": 2.9},
        {"x": -_rand(20) - 1, "low": -1.9, "high": -0.4},
        {"x": 3 * _randn(5, 7), "low": -0.07, "high": 6.1},
    ),
    (
        Mistake(
            lambda x, low, high: _affine(x, low, high, zero=False),
            "0 must lie in the range, or the zero point is no int8: padding and ReLU make zeros.",
        ),
        Mistake(
            lambda x, low, high: _affine(x, low, high, clip=False),
            "int8 has nothing below -128 and above 127: what lies outside of the range is clipped.",
        ),
        Mistake(
            _unrounded_point, "The zero point is an integer, too, so that 0 is met exactly: round it before it is used."
        ),
        Mistake(
            lambda x, low, high: _affine(x, low, high, levels=256),
            "From -128 to 127 there are 256 numbers, and one step less than that.",
        ),
        Mistake(_truncated, "To the nearest integer, not to the one below: half a step is the most that may be lost."),
        Mistake(_symmetric, "That is the symmetric kind: the range need not be as wide below 0 as above."),
    ),
    tolerance=1e-6,
)

# 2. A chain of three factors


def _balance_three(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Scales (3, R) whose product is 1 in each channel, and which make the channel's three ranges equal."""
    ranges = torch.stack([a, b, c])
    return ranges.prod(0) ** (1 / 3) / ranges


def _pairwise(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """One pair after the other, once: not yet at the end."""
    d = (b / a).sqrt()
    e = (c / (b / d)).sqrt()
    return torch.stack([d, e / d, 1 / e])


def _three(rank: int, spread: float) -> dict[str, Any]:
    return {name: torch.exp(spread * _randn(rank)) for name in "abc"}


BALANCE_THREE = Exercise(
    "balance_three",
    NOTEBOOK,
    _balance_three,
    (
        {"a": torch.tensor([1.0, 4.0]), "b": torch.tensor([1.0, 1.0]), "c": torch.tensor([8.0, 2.0])},
        _three(1, 1.0),
        _three(5, 1.0),
        _three(12, 2.0),
    ),
    (
        Mistake(_pairwise, "Balancing one pair disturbs the one before: solve for all three at once."),
        Mistake(
            lambda a, b, c: (a * b * c) ** (1 / 3) * torch.stack([1 / a, 1 / b, 1 / c]).square(),
            "The range after scaling is range times scale: divide once.",
        ),
        Mistake(
            lambda a, b, c: torch.stack([a, b, c]) / (a * b * c) ** (1 / 3),
            "The other way round: where a range is small, the scale is large.",
        ),
        Mistake(
            lambda a, b, c: 1 / torch.stack([a, b, c]),
            "Ranges of 1 are equal, but the three scales of a channel must multiply to 1, or the product changes.",
        ),
        Mistake(
            lambda a, b, c: (a * b * c) ** 0.5 / torch.stack([a, b, c]),
            "Three factors share a channel's size: which root gives each its part?",
        ),
        Mistake(
            lambda a, b, c: (a * b * c).prod() ** (1 / (3 * len(a))) / torch.stack([a, b, c]),
            "Each channel keeps its own product: channels cannot lend to each other.",
        ),
    ),
    tolerance=1e-6,
)

# 3. Where to clip


def _squared_errors(x: Tensor, ranges: Tensor, *, clip: bool = True) -> Tensor:
    steps = ranges[:, None] / 127
    q = torch.round(x / steps)
    return (steps * (q.clamp(-127, 127) if clip else q) - x).square().sum(1)


def _best_range(x: Tensor, ranges: Tensor) -> Tensor:
    """Of some ranges the one whose symmetric int8 has the smallest squared error on x, clipping included."""
    return ranges[_squared_errors(x, ranges).argmin()]


def _tailed(number: int, outliers: int, size: float) -> dict[str, Tensor]:
    x = _randn(number)
    x[:outliers] *= size
    return {"x": x, "ranges": torch.linspace(0.05, 1.0, 20, dtype=torch.float64) * x.abs().max()}


BEST_RANGE = Exercise(
    "best_range",
    NOTEBOOK,
    _best_range,
    (_tailed(200, 0, 1.0), _tailed(4000, 1, 6.0), _tailed(3000, 2, 9.0), _tailed(20000, 3, 12.0)),
    (
        Mistake(lambda x, ranges: ranges.max(), "Without clipping nothing is cut off, but the step is the largest."),
        Mistake(
            lambda x, ranges: ranges[_squared_errors(x, ranges, clip=False).argmin()],
            "The smallest step rounds best and clips most: what is clipped to the end of the range counts, too.",
        ),
        Mistake(
            lambda x, ranges: ranges[(ranges - x.abs().quantile(0.99)).abs().argmin()],
            "A quantile is a guess: try every range and count the squared error.",
        ),
        Mistake(
            lambda x, ranges: _squared_errors(x, ranges).min(),
            "That is the error; return the range that it belongs to.",
        ),
        Mistake(lambda x, ranges: _squared_errors(x, ranges).argmin(), "That is its place in `ranges`."),
    ),
    tolerance=1e-9,
)

EXERCISES = (QUANTIZE_AFFINE, BALANCE_THREE, BEST_RANGE)
