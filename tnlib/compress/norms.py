"""In which norm the loss of a layer is predicted: that of its weight, or that of its output on given inputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from tnlib import layers, measure
from tnlib.compress.inputs import Call
from tnlib.compress.moments import Moment
from tnlib.compress.survey import Place


@dataclass(frozen=True)
class Norm:
    """How the loss of one layer is predicted from the error of its weight.

    Attributes:
        moment: second moment of what the weight is applied to; None for the weight's own norm.
        ridge: added to the moment where the weight is factored in its norm, relative to its mean diagonal entry.
    """

    moment: Moment | None = None
    ridge: float = 1e-4

    @property
    def metric(self) -> layers.Metric | None:
        """The norm of channels in which weights are factored; None for the weight's own."""
        return None if self.moment is None else self.moment.metric(self.ridge)

    def loss(self, weight: Tensor, approximation: Tensor) -> float:
        """Relative squared error: of the weight, or of what it makes of the inputs. 0 for a zero weight."""
        whole, error = weight.detach().double(), approximation.detach().double() - weight.detach().double()
        if self.moment is None:
            before, after = whole.square().sum(), error.square().sum()
        else:
            before, after = self.moment.square(whole), self.moment.square(error)
        return float(after / before) if float(before) else 0.0


class LossMetric(ABC):
    """A way to predict what the layers' errors cost; give an instance of your own as `metric`.

    `key` stands for everything that the predictions depend on besides weights and inputs: it names cached curves.
    """

    key: ClassVar[str]
    needs_inputs: ClassVar[bool] = True

    @abstractmethod
    def norms(self, model: nn.Module, places: Iterable[Place], inputs: Iterable[Call]) -> dict[str, Norm]:
        """The norm of each layer, by name. `inputs` may be gone through once."""


class WeightError(LossMetric):
    """The weight's relative squared error; looks at no input."""

    key = "weight"
    needs_inputs = False

    def norms(self, model: nn.Module, places: Iterable[Place], inputs: Iterable[Call]) -> dict[str, Norm]:
        """One and the same for all."""
        return {place.name: Norm() for place in places}


class InputError(LossMetric):
    """The relative squared error of the layer's output on the inputs, those of the original network."""

    key = "input"

    def norms(self, model: nn.Module, places: Iterable[Place], inputs: Iterable[Call]) -> dict[str, Norm]:
        """From the second moments of the inputs; the model runs once on all of them."""
        moments = {place.layer: Moment(place.layer) for place in places}

        def note(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
            moments[module].add(args[0] if args else next(iter(kwargs.values())))

        handles = [layer.register_forward_pre_hook(note, with_kwargs=True) for layer in moments]
        try:
            with torch.no_grad(), measure.evaluating(model), measure.without_fast_path():
                for call in inputs:
                    call.run(model)
        finally:
            for handle in handles:
                handle.remove()
        return {place.name: Norm(moments[place.layer]) for place in places}


METRICS: dict[str, type[LossMetric]] = {cls.key: cls for cls in (WeightError, InputError)}


def metric_of(metric: str | LossMetric) -> LossMetric:
    """The metric of this name, or the given one; ValueError for an unknown name."""
    if isinstance(metric, LossMetric):
        return metric
    if metric not in METRICS:
        raise ValueError(f"unknown metric {metric!r}; expected one of {', '.join(METRICS)}, or a LossMetric")
    return METRICS[metric]()
