"""A whole network: curves of predicted loss against cost, allocation under a budget, plan, repair. No labels anywhere.

`plan = compress.plan(model, inputs, budget=Budget(macs=0.5))`, `small = plan.apply(model)`,
`small = compress.repair(small, model, inputs)`, then `layers.freeze(small, example)`.
"""

from tnlib.compress.allocate import Allocation, allocate
from tnlib.compress.budget import Budget
from tnlib.compress.curves import Candidate, Curves, curves
from tnlib.compress.norms import METRICS, LossMetric, Norm
from tnlib.compress.plan import Plan, plan
from tnlib.compress.repair import reestimate_batchnorm, repair

__all__ = [
    "METRICS",
    "Allocation",
    "Budget",
    "Candidate",
    "Curves",
    "LossMetric",
    "Norm",
    "Plan",
    "allocate",
    "curves",
    "plan",
    "reestimate_batchnorm",
    "repair",
]
