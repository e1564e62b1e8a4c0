"""What a network costs: parameters, MACs, bytes and peak activation memory by counting, milliseconds by the clock."""

from tnlib.measure.cost import Cost, cost, evaluating, without_fast_path
from tnlib.measure.memory import peak_memory
from tnlib.measure.roofline import Roofline, roofline
from tnlib.measure.timing import Comparison, Timing, compare, latency
from tnlib.provenance import commit, cpu_name, has_fast_bf16, provenance

__all__ = [
    "Comparison",
    "Cost",
    "Roofline",
    "Timing",
    "commit",
    "compare",
    "cost",
    "cpu_name",
    "evaluating",
    "has_fast_bf16",
    "latency",
    "peak_memory",
    "provenance",
    "roofline",
    "without_fast_path",
]
