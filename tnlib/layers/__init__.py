"""Drop-in replacements for torch layers, built on factors of their weights: `factorize` is the one way in."""

from tnlib.layers.conv import CPConv2d, FactorizedConv2d, SpatialSVDConv2d, SVDConv2d, TTConv2d, Tucker2Conv2d
from tnlib.layers.conv1d import CPConv1d, SVDConv1d, TTConv1d, Tucker2Conv1d
from tnlib.layers.cost_model import CostModel, Product
from tnlib.layers.cp_linear import CPLinear
from tnlib.layers.digits import balanced_dims, padded_dims
from tnlib.layers.embedding import SVDEmbedding, TTEmbedding
from tnlib.layers.factory import FORMATS, factorize, max_rank
from tnlib.layers.linear import SVDLinear
from tnlib.layers.plan import ChainPlan, plan_chain
from tnlib.layers.tensorized_conv import TensorizedTTConv2d
from tnlib.layers.tt_linear import TTLinear
from tnlib.layers.tucker_conv import TuckerConv2d
from tnlib.layers.tucker_linear import TuckerLinear

__all__ = [
    "FORMATS",
    "CPConv1d",
    "CPConv2d",
    "CPLinear",
    "ChainPlan",
    "CostModel",
    "FactorizedConv2d",
    "Product",
    "SVDConv1d",
    "SVDConv2d",
    "SVDEmbedding",
    "SVDLinear",
    "SpatialSVDConv2d",
    "TTConv1d",
    "TTConv2d",
    "TTEmbedding",
    "TTLinear",
    "TensorizedTTConv2d",
    "Tucker2Conv1d",
    "Tucker2Conv2d",
    "TuckerConv2d",
    "TuckerLinear",
    "balanced_dims",
    "factorize",
    "max_rank",
    "padded_dims",
    "plan_chain",
]
