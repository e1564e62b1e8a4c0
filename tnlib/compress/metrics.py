"""The metrics by name."""

from __future__ import annotations

from tnlib.compress.curvature import ChannelError, ExactError
from tnlib.compress.norms import InputError, LossMetric, WeightError

METRICS: dict[str, type[LossMetric]] = {cls.key: cls for cls in (WeightError, InputError, ChannelError, ExactError)}


def metric_of(metric: str | LossMetric) -> LossMetric:
    """The metric of this name, or the given one; ValueError for an unknown name."""
    if isinstance(metric, LossMetric):
        return metric
    if metric not in METRICS:
        raise ValueError(f"unknown metric {metric!r}; expected one of {', '.join(METRICS)}, or a LossMetric")
    return METRICS[metric]()
