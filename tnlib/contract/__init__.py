"""In which order to multiply the factors of a matrix with rows of an input: plans, and the cost model that chooses.

Plans depend on shapes alone, never on values. This package knows tensors but no torch module.
"""

from tnlib.contract.chain import merge_cores, plan_chain
from tnlib.contract.cost_model import CostModel
from tnlib.contract.cp import khatri_rao, plan_cp
from tnlib.contract.plan import Block, Plan, Use
from tnlib.contract.products import Product, random_products, time_products
from tnlib.contract.run import without_autocast
from tnlib.contract.steps import is_tracing
from tnlib.contract.tucker import plan_tucker

__all__ = [
    "Block",
    "CostModel",
    "Plan",
    "Product",
    "Use",
    "is_tracing",
    "khatri_rao",
    "merge_cores",
    "plan_chain",
    "plan_cp",
    "plan_tucker",
    "random_products",
    "time_products",
    "without_autocast",
]
