"""What a network costs: parameters, MACs, bytes and peak activation memory by counting, milliseconds by the clock."""

from tnlib.measure.cost import Cost, cost, evaluating
from tnlib.measure.provenance import commit, cpu_name, has_fast_bf16, provenance
from tnlib.measure.timing import Comparison, Timing, compare, latency

__all__ = [
    "Comparison",
    "Cost",
    "Timing",
    "commit",
    "compare",
    "cost",
    "cpu_name",
    "evaluating",
    "has_fast_bf16",
    "latency",
    "provenance",
]
