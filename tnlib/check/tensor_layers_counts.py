"""Exercises of `notebooks/06_build_tensor_layers` whose answer is a number: MACs and a standard deviation."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

from tnlib.check.exercise import Exercise, Mistake

_NOTEBOOK = "06_build_tensor_layers"
_Pair = tuple[int, int]


def _stages(kernel_shape: Sequence[int], rank: int, places: Sequence[int]) -> int:
    """MACs of the four stages of a CP chain when each is applied at so many places."""
    outputs, inputs, height, width = kernel_shape
    return rank * sum(n * p for n, p in zip((inputs, height, width, outputs), places, strict=True))


def _cp_macs(kernel_shape: Sequence[int], rank: int, image: _Pair, output: _Pair) -> int:
    return _stages(
        kernel_shape, rank, (image[0] * image[1], output[0] * image[1], output[0] * output[1], output[0] * output[1])
    )


def _dense_middle(kernel_shape: Sequence[int], rank: int, image: _Pair, output: _Pair) -> int:
    outputs, inputs, height, width = kernel_shape
    return _cp_macs((outputs, inputs, rank * height, rank * width), rank, image, output)


cp_conv_macs = Exercise(
    "cp_conv_macs",
    _NOTEBOOK,
    _cp_macs,
    (
        {"kernel_shape": (8, 6, 3, 3), "rank": 5, "image": (16, 16), "output": (8, 8)},
        {"kernel_shape": (7, 5, 4, 3), "rank": 6, "image": (12, 9), "output": (6, 3)},
        {"kernel_shape": (64, 64, 3, 3), "rank": 40, "image": (8, 8), "output": (8, 8)},
    ),
    (
        Mistake(
            lambda kernel_shape, rank, image, output: _stages(kernel_shape, rank, [math.prod(output)] * 4),
            "Right without stride; with it, not every stage works on an image as small as the output.",
        ),
        Mistake(
            lambda kernel_shape, rank, image, output: _stages(kernel_shape, rank, [math.prod(image)] * 4),
            "Right without stride; with it, the image shrinks on its way through the chain.",
        ),
        Mistake(
            lambda kernel_shape, rank, image, output: _stages(
                kernel_shape, rank, [math.prod(image), *[math.prod(output)] * 3]
            ),
            "The image does not shrink in both directions at once: what comes out of the first filter that strides?",
        ),
        Mistake(_dense_middle, "How many input channels does one filter of a depthwise stage see?"),
        Mistake(
            lambda kernel_shape, rank, image, output: _stages(
                kernel_shape, rank, [image[0] * image[1], image[0] * output[1], math.prod(output), math.prod(output)]
            ),
            "The first of the two middle stages is the vertical one: which of the two sizes does it shrink?",
        ),
        Mistake(
            lambda kernel_shape, rank, image, output: rank * sum(kernel_shape),
            "These are the parameters; each works at many places.",
        ),
    ),
)


def _std(rows: Sequence[int], cols: Sequence[int], ranks: Sequence[int], gain: float, power: float = 0.5) -> float:
    return float((gain**2 / (math.prod(cols) * math.prod(ranks))) ** (power / len(cols)))


equal_std = Exercise(
    "equal_std",
    _NOTEBOOK,
    _std,
    (
        {"rows": (4, 4, 5), "cols": (3, 4, 2), "ranks": (3, 5), "gain": 2**0.5},
        {"rows": (2, 9), "cols": (8, 8), "ranks": (7,), "gain": 1.0},
        {"rows": (4,) * 6, "cols": (2, 7, 8, 8, 7, 4), "ranks": (4,) * 5, "gain": 2**0.5},
    ),
    (
        Mistake(lambda rows, cols, ranks, gain: _std(rows, cols, ranks, gain, 1.0), "That is the variance."),
        Mistake(
            lambda rows, cols, ranks, gain: _std(rows, cols, (), gain),
            "That would do at ranks 1: how many terms is an entry of the weight a sum of?",
        ),
        Mistake(
            lambda rows, cols, ranks, gain: _std(rows, cols, (sum(ranks),), gain),
            "How many terms is an entry of the weight a sum of? Each bond's index runs for itself.",
        ),
        Mistake(
            lambda rows, cols, ranks, gain: _std(cols, rows, ranks, gain),
            "That keeps the size of gradients on their way back: fan-out. Asked is fan-in, the number of inputs.",
        ),
        Mistake(
            lambda rows, cols, ranks, gain: _std(rows, cols, ranks, gain, 0.5 * len(cols)),
            "That many times the cores multiply: the product of all of them must have that size, not each.",
        ),
        Mistake(
            lambda rows, cols, ranks, gain: _std(rows, cols, ranks, gain**0.5),
            "Off by a power of the gain: the variance carries its square.",
        ),
    ),
)


def _sweep(rows: Sequence[int], cols: Sequence[int], ranks: Sequence[int]) -> int:
    bonds = [1, *ranks, 1]
    others = [math.prod(cols[:k]) * math.prod(rows[k + 1 :]) for k in range(len(rows))]
    return sum(bonds[k] * rows[k] * cols[k] * bonds[k + 1] * others[k] for k in range(len(rows)))


def _merged(
    rows: Sequence[int], cols: Sequence[int], ranks: Sequence[int]
) -> Iterator[tuple[list[int], list[int], list[int]]]:
    """Digits and ranks after every way to merge neighbours."""
    d = len(rows)
    for count in range(d):
        for cuts in itertools.combinations(range(1, d), count):
            groups = list(itertools.pairwise([0, *cuts, d]))
            digits = [[math.prod(sizes[a:b]) for a, b in groups] for sizes in (rows, cols)]
            yield digits[0], digits[1], [ranks[cut - 1] for cut in cuts]


def _directions(rows: Sequence[int], cols: Sequence[int], ranks: Sequence[int]) -> _Pair:
    return _sweep(rows, cols, ranks), _sweep(rows[::-1], cols[::-1], ranks[::-1])


def _least(rows: Sequence[int], cols: Sequence[int], ranks: Sequence[int]) -> int:
    return min(min(_directions(*plan)) for plan in _merged(rows, cols, ranks))


least_macs = Exercise(
    "least_macs",
    _NOTEBOOK,
    _least,
    (
        {"rows": (4,) * 6, "cols": (2, 7, 8, 8, 7, 4), "ranks": (4,) * 5},
        {"rows": (8, 8, 4, 4), "cols": (2, 3, 6, 4), "ranks": (6, 5, 3)},
        {"rows": (4, 8, 8, 4), "cols": (4, 8, 8, 4), "ranks": (2, 2, 2)},
        {"rows": (5, 6), "cols": (6, 5), "ranks": (30,)},
        {"rows": (4, 2, 8), "cols": (9, 3, 2), "ranks": (5, 2)},
    ),
    (
        Mistake(lambda rows, cols, ranks: _directions(rows, cols, ranks)[0], "That is the plain sweep from the right."),
        Mistake(
            lambda rows, cols, ranks: min(_directions(rows, cols, ranks)),
            "Both directions were tried, but no cores were merged.",
        ),
        Mistake(
            lambda rows, cols, ranks: min(_sweep(*plan) for plan in _merged(rows, cols, ranks)),
            "There are cheaper plans: the sweep can start at either end.",
        ),
        Mistake(
            lambda rows, cols, ranks: min(_directions(*plan)[1] for plan in _merged(rows, cols, ranks)),
            "There are cheaper plans: try the sweep from the right, too.",
        ),
        Mistake(
            lambda rows, cols, ranks: min(min(_directions(*plan)) for plan in _merged(rows, cols, ranks) if plan[2]),
            "There is a cheaper plan: all cores may be merged into one.",
        ),
        Mistake(
            lambda rows, cols, ranks: min(
                min(_directions(*plan)) for plan in _merged(rows, cols, ranks) if len(plan[2]) > len(ranks) - 2
            ),
            "There are cheaper plans: more than two cores may be merged, or two pairs.",
        ),
        Mistake(
            lambda rows, cols, ranks: max(max(_directions(*plan)) for plan in _merged(rows, cols, ranks)),
            "That is the dearest plan.",
        ),
    ),
)
