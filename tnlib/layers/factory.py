"""One way in: replace a layer by its factorized form, whatever its type and the format."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import nn

from tnlib.layers import eligible
from tnlib.layers.conv import CP3Conv, CPConv, SpatialSVDConv, SVDConv, TTConv, Tucker2Conv
from tnlib.layers.cp_linear import CPLinear
from tnlib.layers.embedding import SVDEmbedding
from tnlib.layers.factorized import Factorized
from tnlib.layers.linear import SVDLinear
from tnlib.layers.ranks import Ranks
from tnlib.layers.stages import groups_of
from tnlib.layers.tt_linear import TTLinear, TTMLinear
from tnlib.layers.ttm_conv import TTMConv
from tnlib.layers.ttm_embedding import TTMEmbedding
from tnlib.layers.tucker_conv import TuckerConv
from tnlib.layers.tucker_linear import TuckerLinear


def _by_name(*classes: type[Factorized]) -> dict[str, type[Factorized]]:
    return {cls.format: cls for cls in classes}


_CONV = (SVDConv, CPConv, CP3Conv, Tucker2Conv, TuckerConv, TTConv, TTMConv)
FORMATS: dict[type[nn.Module], dict[str, type[Factorized]]] = {
    nn.Linear: _by_name(SVDLinear, CPLinear, TuckerLinear, TTLinear, TTMLinear),
    nn.Conv1d: _by_name(*_CONV),
    nn.Conv2d: _by_name(SVDConv, SpatialSVDConv, *_CONV[1:]),
    nn.Conv3d: _by_name(*_CONV),
    nn.Embedding: _by_name(SVDEmbedding, TTMEmbedding),
}


def factorize(
    layer: nn.Module,
    format: str,
    rank: Any = None,
    *,
    weights: Literal["pretrained", "fresh", "empty"] = "pretrained",
    **options: Any,
) -> Factorized:
    """Replace a layer by one on the factors of its weight, or by one of the same shapes to be trained from scratch.

    Args:
        layer: `nn.Linear`, `nn.Conv1d`, `nn.Conv2d`, `nn.Conv3d` or `nn.Embedding`; it is left untouched. If it shares
            its weight with another layer, the two are independent afterwards.
        format: for `nn.Linear` `svd`, `cp`, `tucker`, `tt` or `ttm`; for convolutions `svd`, `cp`, `cp3`, `tucker2`,
            `tucker`, `tt` or `ttm`, and `spatial_svd` for `nn.Conv2d`; for `nn.Embedding` `svd` or `ttm`.
        rank: the format's rank (of each group's kernel, for a grouped convolution); or one of
            `rel_error=`: the largest error of the weight, relative to its norm, and
            `share=`: of the layer's cost, `of="params"` (default) or `of="macs"`; the largest rank that fits is taken.
        weights: `pretrained` decomposes the layer's weight; `fresh` draws random factors whose product has the mean
            square gain^2 / fan_in (options `gain` and `seed`); `empty` makes factors of a rank that hold anything,
            for a state that is loaded, or for shapes alone.
        options: for the decomposition (`seed`, `sketch`, `max_iter` ..); `metric` (a `Metric`); for formats in
            digits (`ttm`, and all but `svd` of a linear layer) also `row_dims` and `col_dims`.

    Returns:
        A module with the layer's inputs, outputs, attributes, dtype, device and train/eval mode, and with `rank`,
        `factors()`, `dense_weight()` (also `weight`).

    Raises:
        TypeError: a layer that cannot be factorized; an unknown option.
        ValueError: an unknown format, or a rank that is out of range (the message names the largest useful one).
    """
    cls = format_class(layer, format)
    if weights == "fresh":
        return cls.fresh(layer, rank, **options)
    if weights == "empty":
        like: Any = layer
        return cls.from_factors([like.weight.new_empty(s) for s in shapes(layer, format, rank, **options)], layer)
    if weights != "pretrained":
        raise ValueError(f"weights must be 'pretrained', 'fresh' or 'empty', got {weights!r}")
    return cls.from_layer(layer, rank, **options)


def max_rank(layer: nn.Module, format: str, **digits: Any) -> Ranks:
    """The largest useful rank of a layer in a format: there an exact factorization exists.

    All formats but the CPDs find it; for these ALS need not. `digits` are `row_dims` and `col_dims`, where a format has
    them.
    """
    return format_class(layer, format).max_rank(layer, **digits)


def shapes(layer: nn.Module, format: str, rank: Any, **digits: Any) -> list[tuple[int, ...]]:
    """Shapes of the factors of the layer that `factorize` makes, in the order of its `factors()`."""
    cls = format_class(layer, format)
    kernel, groups = cls._shape_of(layer), groups_of(layer)
    stages = cls._stages(kernel, rank, **cls._choose(kernel, digits))
    return [(groups * stage.shape[0], *stage.shape[1:]) for stage in stages]


def size(layer: nn.Module, format: str, rank: Any, **digits: Any) -> int:
    """Parameters, bias included, of the layer that `factorize` makes; nothing is built."""
    return format_class(layer, format).size(layer, rank, **digits)


def macs(layer: nn.Module, format: str, rank: Any, output_size: Sequence[int] | None = None, **digits: Any) -> int:
    """Multiply-accumulates of one sample in the layer that `factorize` makes; nothing is built.

    `output_size` is that of a convolution, (height, width); by default those of one output position count.
    """
    return format_class(layer, format).macs(layer, rank, output_size, **digits)


def format_class(layer: nn.Module, format: str) -> type[Factorized]:
    """The class of a format for a layer; TypeError for a layer without formats, ValueError for an unknown format."""
    formats = next((formats for kind, formats in FORMATS.items() if isinstance(layer, kind)), None)
    if formats is None:
        eligible.require(layer, tuple(FORMATS), "layers.factorize")
        raise AssertionError("every kind of layer that is eligible has formats")
    if format not in formats:
        raise ValueError(f"unknown format {format!r} for {type(layer).__name__}; expected one of {', '.join(formats)}")
    return formats[format]
