"""One way in: replace a layer by its factorized form, whatever its type and the format."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from tnlib.layers.conv import CPConv2d, SpatialSVDConv2d, SVDConv2d, TTConv2d, Tucker2Conv2d
from tnlib.layers.linear import SVDLinear, TTLinear

FORMATS: dict[type[nn.Module], dict[str, Any]] = {
    nn.Linear: {cls.format: cls for cls in (SVDLinear, TTLinear)},
    nn.Conv2d: {cls.format: cls for cls in (SVDConv2d, SpatialSVDConv2d, CPConv2d, Tucker2Conv2d, TTConv2d)},
}


def factorize(layer: nn.Module, format: str, rank: int | Sequence[int], **options: Any) -> nn.Module:
    """Replace a pretrained layer by one on the factors of its weight.

    Args:
        layer: `nn.Linear` or `nn.Conv2d`; it is left untouched.
        format: for `nn.Linear` `svd` or `tt`; for `nn.Conv2d` `svd`, `spatial_svd`, `cp`, `tucker2` or `tt`.
        rank: the format's rank (of each group's kernel, for a grouped convolution).
        options: for the decomposition, and for `tt` of a linear layer `row_dims` and `col_dims`.

    Returns:
        A module with the layer's inputs, outputs, dtype, device and train/eval mode, and with `rank`,
        `dense_weight()` and `from_layer`.

    Raises:
        TypeError: a layer that cannot be factorized.
        ValueError: an unknown format, or a rank that is out of range (the message names the largest useful one).
    """
    cls = _class_for(layer, format)
    module: nn.Module = cls.from_layer(layer, rank, **options)
    return module


def max_rank(layer: nn.Module, format: str) -> int | tuple[int, ...]:
    """The largest useful rank of a layer in a format: there an exact factorization exists.

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
