"""Drop-in replacements for torch layers, built on factors of their weights: `factorize` is the one way in."""

from tnlib.layers.conv import CPConv2d, FactorizedConv2d, SpatialSVDConv2d, SVDConv2d, TTConv2d, Tucker2Conv2d
from tnlib.layers.factory import FORMATS, factorize, max_rank
from tnlib.layers.linear import SVDLinear, TTLinear, balanced_dims

__all__ = [
    "FORMATS",
    "CPConv2d",
    "FactorizedConv2d",
    "SVDConv2d",
    "SVDLinear",
    "SpatialSVDConv2d",
    "TTConv2d",
    "TTLinear",
    "Tucker2Conv2d",
    "balanced_dims",
    "factorize",
    "max_rank",
]
