"""Exercises of `notebooks/06_build_tensor_layers`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tnlib.check.exercise import Exercise, Mistake

_NOTEBOOK = "06_build_tensor_layers"
_Pair = tuple[int, int]


class _Tensors(list[Tensor]):
    """Cores or factors; a list like any other that shows its sizes instead of its numbers."""

    def __repr__(self) -> str:
        return f"<{', '.join('x'.join(map(str, item.shape)) for item in self)}>"


def _rand(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


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


def _cores(rows: Sequence[int], cols: Sequence[int], ranks: Sequence[int], seed: int) -> _Tensors:
    bonds = [1, *ranks, 1]
    return _Tensors(_rand(bonds[k], rows[k], cols[k], bonds[k + 1], seed=seed + k) for k in range(len(rows)))


def _matrix(cores: Sequence[Tensor]) -> Tensor:
    weight = cores[0]
    for core in cores[1:]:
        weight = torch.einsum("aijr,rklb->aikjlb", weight, core).flatten(3, 4).flatten(1, 2)
    return weight.sum((0, 3))


def _apply(x: Tensor, cores: Sequence[Tensor]) -> Tensor:
    y = x[:, None, None]  # samples, output digits done, bond, inputs to come
    for core in cores:
        y = torch.einsum("bdrns,rmnq->bdmqs", y.unflatten(3, (core.shape[2], -1)), core).flatten(1, 2)
    return y.flatten(1)


def _reverse_digits(x: Tensor, sizes: Sequence[int]) -> Tensor:
    order = [0, *range(len(sizes), 0, -1)]
    return x.reshape(len(x), *sizes).permute(order).reshape(len(x), -1)


def _outputs_reversed(x: Tensor, cores: Sequence[Tensor]) -> Tensor:
    return _reverse_digits(_apply(x, cores), [core.shape[1] for core in cores])


def _inputs_reversed(x: Tensor, cores: Sequence[Tensor]) -> Tensor:
    return _apply(_reverse_digits(x, [core.shape[2] for core in reversed(cores)]), cores)


tt_linear_from_left = Exercise(
    "tt_linear_from_left",
    _NOTEBOOK,
    _apply,
    (
        {"x": _rand(3, 12, seed=1), "cores": _cores((2, 3, 2), (3, 2, 2), (2, 3), 2)},
        {"x": _rand(2, 12, seed=3), "cores": _cores((3, 4), (2, 6), (4,), 4)},
        {"x": _rand(4, 36, seed=5), "cores": _cores((3, 2, 2, 3), (2, 3, 3, 2), (2, 4, 2), 6)},
    ),
    (
        Mistake(
            lambda x, cores: x @ _matrix(cores),
            "That is the transposed layer: in a core the row digit (of the outputs) comes before the column digit.",
        ),
        Mistake(
            _outputs_reversed, "The outputs are right, but in the order of reversed digits: the last runs fastest."
        ),
        Mistake(_inputs_reversed, "The input was read with its digits reversed: row-major, the last runs fastest."),
        Mistake(
            lambda x, cores: _apply(x, [cores[0][..., :1], *[c[:1, ..., :1] for c in cores[1:-1]], cores[-1][:1]]),
            "Only the first value of each bond was used: neighbours share an index that is summed.",
        ),
        Mistake(
            lambda x, cores: x @ _matrix([c.sum((0, 3), keepdim=True) for c in cores]).T,
            "Each bond was summed in each core alone; it is one index that both neighbours share.",
        ),
    ),
    beyond=(
        {"x": _rand(1, 2**12, seed=7), "cores": _cores((2**8,) * 2, (2**6,) * 2, (2,), 8)},
        {"x": _rand(1, 2**14, seed=7), "cores": _cores((2**11,) * 2, (2**7,) * 2, (2,), 8)},
    ),
    forbidden="The weight of this input is too large to form: apply core after core.",
)


def _cp_forward(
    x: Tensor, factors: Sequence[Tensor], strides: Sequence[Sequence[int]], pads: Sequence[Sequence[int]]
) -> Tensor:
    """The four stages with a stride and a padding for each."""
    out, inp, high, wide = factors
    weights = inp.T[:, :, None, None], high.T[:, None, :, None], wide.T[:, None, None, :], out[:, :, None, None]
    for weight, stride, pad, groups in zip(weights, strides, pads, (1, inp.shape[1], inp.shape[1], 1), strict=True):
        x = F.conv2d(x, weight, stride=tuple(stride), padding=tuple(pad), groups=groups)
    return x


def _strided(x: Tensor, factors: Sequence[Tensor], stride: _Pair, padding: _Pair) -> Tensor:
    none, pads = (1, 1), ((0, 0), (padding[0], 0), (0, padding[1]), (0, 0))
    return _cp_forward(x, factors, (none, (stride[0], 1), (1, stride[1]), none), pads)


def _stride_first(x: Tensor, factors: Sequence[Tensor], stride: _Pair, padding: _Pair) -> Tensor:
    none, pads = (1, 1), ((0, 0), (padding[0], 0), (0, padding[1]), (0, 0))
    return _cp_forward(x, factors, (stride, none, none, none), pads)


def _both_everywhere(x: Tensor, factors: Sequence[Tensor], stride: _Pair, padding: _Pair) -> Tensor:
    return _cp_forward(x, factors, ((1, 1), stride, stride, (1, 1)), ((0, 0), padding, padding, (0, 0)))


def _unflipped(x: Tensor, factors: Sequence[Tensor], stride: _Pair, padding: _Pair) -> Tensor:
    out, inp, high, wide = factors
    return _strided(x, [out, inp, high.flip(0), wide.flip(0)], stride, padding)


_CONV_FACTORS = _Tensors(_rand(n, 4, seed=20 + k) for k, n in enumerate((5, 3, 3, 3)))

strided_cp = Exercise(
    "strided_cp",
    _NOTEBOOK,
    _strided,
    (
        {"x": _rand(2, 3, 8, 8, seed=8), "factors": _CONV_FACTORS, "stride": (2, 2), "padding": (1, 1)},
        {"x": _rand(1, 3, 9, 7, seed=9), "factors": _CONV_FACTORS, "stride": (2, 1), "padding": (0, 2)},
        {"x": _rand(1, 3, 7, 9, seed=10), "factors": _CONV_FACTORS, "stride": (1, 3), "padding": (1, 0)},
    ),
    (
        Mistake(
            _stride_first,
            "The stride came too early: pixels that the filters behind it would have seen are gone.",
        ),
        Mistake(_both_everywhere, "Two stages stride and pad in the same direction; the dense layer does it once."),
        Mistake(
            lambda x, factors, stride, padding: _strided(x, [*factors[:2], factors[3], factors[2]], stride, padding),
            "The vertical and the horizontal filters are exchanged.",
        ),
        Mistake(_unflipped, "The filters are mirrored: torch's convolution does not flip its kernel."),
        Mistake(
            lambda x, factors, stride, padding: _strided(x, factors, stride[::-1], padding[::-1]),
            "The first number of stride and padding is the vertical one.",
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
            lambda rows, cols, ranks: max(max(_directions(*plan)) for plan in _merged(rows, cols, ranks)),
            "That is the dearest plan.",
        ),
    ),
)

EXERCISES = (cp_conv_macs, tt_linear_from_left, strided_cp, equal_std, least_macs)
