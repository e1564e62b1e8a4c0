"""Drop-in replacements for torch layers, built on factors of their weights: `factorize` in, `freeze` out to use."""

from tnlib.layers.attention import SplitAttention, split_attention
from tnlib.layers.conv import CP3Conv, CPConv, SpatialSVDConv, SVDConv, TTConv, Tucker2Conv
from tnlib.layers.cp_linear import CPLinear
from tnlib.layers.digits import balanced_dims, padded_dims
from tnlib.layers.embedding import SVDEmbedding
from tnlib.layers.factorized import Factorized
from tnlib.layers.factory import FORMATS, factorize, format_class, macs, max_rank, size
from tnlib.layers.freeze import freeze
from tnlib.layers.graph import graph
from tnlib.layers.linear import SVDLinear
from tnlib.layers.stages import Metric
from tnlib.layers.tt_linear import TTLinear, TTMLinear
from tnlib.layers.ttm_conv import TTMConv
from tnlib.layers.ttm_embedding import TTMEmbedding
from tnlib.layers.tucker_conv import TuckerConv
from tnlib.layers.tucker_linear import TuckerLinear

__all__ = [
    "FORMATS",
    "CP3Conv",
    "CPConv",
    "CPLinear",
    "Factorized",
    "Metric",
    "SVDConv",
    "SVDEmbedding",
    "SVDLinear",
    "SpatialSVDConv",
    "SplitAttention",
    "TTConv",
    "TTLinear",
    "TTMConv",
    "TTMEmbedding",
    "TTMLinear",
    "Tucker2Conv",
    "TuckerConv",
    "TuckerLinear",
    "balanced_dims",
    "factorize",
    "format_class",
    "freeze",
    "graph",
    "macs",
    "max_rank",
    "padded_dims",
    "size",
    "split_attention",
]
