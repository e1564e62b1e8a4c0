"""Exercises of `notebooks/06_build_tensor_layers`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tnlib.check.exercise import Exercise, Mistake
from tnlib.check.tensor_layers_counts import cp_conv_macs, equal_std, least_macs

_NOTEBOOK = "06_build_tensor_layers"
_Pair = tuple[int, int]


class _Tensors(list[Tensor]):
    """Cores or factors; a list like any other that shows its sizes instead of its numbers."""

    def __repr__(self) -> str:
        return f"<{', '.join('x'.join(map(str, item.shape)) for item in self)}>"


def _rand(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


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
        {"x": _rand(1, 2**19, seed=7), "cores": _cores((1, 2**19), (2**19, 1), (2,), 8)},
    ),
    forbidden="Only the sweep from the left can do this input: form no weight, and apply the first core first.",
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


def _mixed(x: Tensor, factors: Sequence[Tensor], stride: _Pair, padding: _Pair) -> Tensor:
    out, inp, high, wide = factors
    high, wide = (f.T[:, None].expand(-1, inp.shape[1], -1) for f in (high, wide))
    y = F.conv2d(x, inp.T[:, :, None, None])
    y = F.conv2d(y, high[..., None], stride=(stride[0], 1), padding=(padding[0], 0))
    y = F.conv2d(y, wide[:, :, None], stride=(1, stride[1]), padding=(0, padding[1]))
    return F.conv2d(y, out[:, :, None, None])


_CONV_FACTORS = _Tensors(_rand(n, 4, seed=20 + k) for k, n in enumerate((5, 3, 3, 3)))


def _thin(channels: int) -> _Tensors:
    return _Tensors(_rand(n, 2, seed=30 + k) for k, n in enumerate((channels, channels, 2, 2)))


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
        Mistake(_mixed, "In the middle stages `r` is not summed: a channel sees one filter and no other channel."),
    ),
    beyond=(
        {"x": _rand(1, 2**12, 2, 2, seed=11), "factors": _thin(2**12), "stride": (2, 1), "padding": (1, 0)},
        {"x": _rand(1, 2**18, 2, 2, seed=11), "factors": _thin(2**18), "stride": (2, 1), "padding": (1, 0)},
    ),
    forbidden="The kernel of this input is too large to form: convolve with one factor after the other.",
)


EXERCISES = (cp_conv_macs, tt_linear_from_left, strided_cp, equal_std, least_macs)
