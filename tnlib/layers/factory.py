"""One way in: replace a layer by its factorized form, whatever its type and the format."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import nn

from tnlib.layers.conv import CPConv2d, SpatialSVDConv2d, SVDConv2d, TTConv2d, Tucker2Conv2d
from tnlib.layers.conv1d import CPConv1d, SVDConv1d, TTConv1d, Tucker2Conv1d
from tnlib.layers.cp_linear import CPLinear
from tnlib.layers.embedding import SVDEmbedding, TTEmbedding
from tnlib.layers.linear import SVDLinear
from tnlib.layers.tensorized_conv import TensorizedTTConv2d
from tnlib.layers.tt_linear import TTLinear
from tnlib.layers.tucker_conv import TuckerConv2d
from tnlib.layers.tucker_linear import TuckerLinear

_CONV2D = (SVDConv2d, SpatialSVDConv2d, CPConv2d, Tucker2Conv2d, TuckerConv2d, TTConv2d)
FORMATS: dict[type[nn.Module], dict[str, Any]] = {
    nn.Linear: {cls.format: cls for cls in (SVDLinear, CPLinear, TuckerLinear, TTLinear)},
    nn.Conv2d: {cls.format: cls for cls in _CONV2D},
    nn.Conv1d: {cls.format: cls for cls in (SVDConv1d, CPConv1d, Tucker2Conv1d, TTConv1d)},
    nn.Embedding: {cls.format: cls for cls in (SVDEmbedding, TTEmbedding)},
}


def factorize(
    layer: nn.Module,
    format: str,
    rank: int | Sequence[int],
    weights: Literal["pretrained", "fresh"] = "pretrained",
    **options: Any,
) -> nn.Module:
    """Replace a layer by one on the factors of its weight, or by one of the same shapes to be trained from scratch.

    Args:
        layer: `nn.Linear`, `nn.Conv2d`, `nn.Conv1d` or `nn.Embedding`; it is left untouched.
        format: for `nn.Linear` `svd`, `cp`, `tucker` or `tt`; for `nn.Conv2d` `svd`, `spatial_svd`, `cp`, `tucker2`,
            `tucker` or `tt`; for `nn.Conv1d` `svd`, `cp`, `tucker2` or `tt`; for `nn.Embedding` `svd` or `tt`.
        rank: the format's rank (of each group's kernel, for a grouped convolution).
        weights: `pretrained` decomposes the layer's weight; `fresh` draws random factors whose product has the variance
            gain^2 / fan_in (options `gain` and `seed`).
        options: for the decomposition; for `cp`, `tucker` and `tt` of a linear layer and `tt` of an embedding also
            `row_dims` and `col_dims`. These two make `tt` of a convolution the tensorized one of Garipov et al. 2016.

    Returns:
        A module with the layer's inputs, outputs, dtype, device and train/eval mode, and with `rank`,
        `dense_weight()` and `from_layer`.

    Raises:
        TypeError: a layer that cannot be factorized.
        ValueError: an unknown format, or a rank that is out of range (the message names the largest useful one).
    """
    cls = _class_for(layer, format)
    if cls is TTConv2d and {"row_dims", "col_dims"} & set(options):
        cls = TensorizedTTConv2d
    if weights not in ("pretrained", "fresh"):
        raise ValueError(f"weights must be 'pretrained' or 'fresh', got {weights!r}")
    make = cls.from_layer if weights == "pretrained" else cls.fresh
    module: nn.Module = make(layer, rank, **options)
    return module


def max_rank(layer: nn.Module, format: str) -> int | tuple[int, ...]:
    """The largest useful rank of a layer in a format, in its default digits: there an exact factorization exists.

    All formats but `cp` find it; for `cp` ALS need not.
    """
    weight = layer.weight
    cls = _class_for(layer, format)
    shape = list(weight.shape)  # type: ignore[arg-type]
    shape[0] //= getattr(layer, "groups", 1)
    result: int | tuple[int, ...] = cls.max_rank(shape)
    return result


def _class_for(layer: nn.Module, format: str) -> Any:
    formats = next((formats for kind, formats in FORMATS.items() if isinstance(layer, kind)), None)
    if formats is None:
        known = " or ".join(f"nn.{kind.__name__}" for kind in FORMATS)
        raise TypeError(f"cannot factorize {type(layer).__name__}; expected {known}")
    if format not in formats:
        raise ValueError(f"unknown format {format!r} for {type(layer).__name__}; expected one of {', '.join(formats)}")
    return formats[format]
