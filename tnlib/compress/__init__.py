"""A whole network: curves of predicted loss against cost, allocation under a budget, plan, repair. No labels anywhere.

`plan = compress.plan(model, inputs, budget=Budget(macs=0.5))`, `small = plan.apply(model)`,
`small = compress.repair(small, model, inputs)`, then `layers.freeze(small, example)`. With
`Budget(latency=0.7)` the network and its layers' candidates are timed on this machine.
"""

from tnlib.compress.allocate import Allocation, allocate
from tnlib.compress.budget import Budget
from tnlib.compress.candidate import Candidate
from tnlib.compress.clock import Clock
from tnlib.compress.curves import DISCOUNT, Curves, curves
from tnlib.compress.metrics import METRICS
from tnlib.compress.norms import LossMetric, Norm
from tnlib.compress.plan import Plan
from tnlib.compress.repair import ROUNDING, reestimate_batchnorm, repair
from tnlib.compress.times import Times
from tnlib.compress.timing import measure_times
from tnlib.compress.uniform import uniform
from tnlib.compress.within import plan, plan_within

__all__ = [
    "DISCOUNT",
    "METRICS",
    "ROUNDING",
    "Allocation",
    "Budget",
    "Candidate",
    "Clock",
    "Curves",
    "LossMetric",
    "Norm",
    "Plan",
    "Times",
    "allocate",
    "curves",
    "measure_times",
    "plan",
    "plan_within",
    "reestimate_batchnorm",
    "repair",
    "uniform",
]
