"""In which norm the loss of a layer is predicted: that of its weight, or that of its output on given inputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tnlib import layers, measure
from tnlib.compress.fitting import fit_factors
from tnlib.compress.inputs import Call
from tnlib.compress.moments import Moment
from tnlib.compress.quadratic import evened
from tnlib.compress.survey import Place


@dataclass(frozen=True)
class Norm:
    """How the loss of one layer is predicted from the error of its weight.

    Attributes:
        moment: second moment of what the weight is applied to; None for the weight's own norm.
        ridge: added to the moment where the weight is factored in its norm, relative to its mean diagonal entry.
        outputs: (groups, outputs, outputs), how much squared errors of the outputs count, and the loss is absolute;
            None: all alike, and it is relative to what the weight makes of the inputs.
        fits: whether factors are fitted in this norm after a decomposition.
    """

    moment: Moment | None = None
    ridge: float = 1e-4
    outputs: Tensor | None = None
    fits: bool = False

    @property
    def metric(self) -> layers.Metric | None:
        """The norm of channels in which weights are factored; None for the weight's own."""
        return None if self.moment is None else self.moment.metric(self.ridge, evened(self.outputs))

    def fitted(self, small: Any, layer: Any, effort: tuple[int, int | None]) -> Any:
        """What stands for a layer, its factors fitted in this norm, both ridges added; itself where `fits` is false.

        `effort`: steps of `fit_factors`, and products in each, None: by default.
        """
        if self.moment is None or not self.fits or self.moment.total.ndim == 1:
            return small
        target = layer.weight.detach().double().unflatten(0, (self.moment.groups, -1)).flatten(2)
        factors, errors = fit_factors(
            small, target, self.moment.damped(self.ridge), *effort, outputs=evened(self.outputs)
        )
        return type(small).from_factors(factors, like=layer) if len(errors) > 1 else small

    def loss(self, weight: Tensor, approximation: Tensor) -> float:
        """Squared error: of the weight, or of what it makes of the inputs; relative but with `outputs`.

        0 for a zero weight.
        """
        whole, error = weight.detach().double(), approximation.detach().double() - weight.detach().double()
        if self.moment is not None and self.outputs is not None:
            return float(self.moment.square(error, self.outputs))
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
