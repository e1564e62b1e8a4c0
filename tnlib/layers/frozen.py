"""Layers for use only: what `freeze` puts in the place of factorized layers."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, is_grad_enabled, nn

from tnlib.layers.factorized import Factorized
from tnlib.layers.tensorized import TensorizedLinear, apply

REFUSED = "a frozen model is for use only: train the one that it was frozen from, and freeze that again"


class Frozen(nn.Module):
    """A factorized layer for inference: always in eval mode, without gradients, its weights as they were.

    RuntimeError for training mode, or where a gradient is asked of it. Attributes of the replaced layer stay, `weight`
    is computed from what is held.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.training = False
        self.format, self.rank, self.name = layer.format, layer.rank, type(layer).__name__
        for name in layer.attributes:
            setattr(self, name, getattr(layer, name))

    def train(self, mode: bool = True) -> Self:
        """Stays in eval mode; RuntimeError for any other."""
        if mode:
            raise RuntimeError(REFUSED)
        return self

    @property
    def weight(self) -> Tensor:
        """`dense_weight()`, for modules that read it."""
        return self.dense_weight()

    def dense_weight(self) -> Tensor:
        """The weight that the frozen factors multiply out to."""
        raise NotImplementedError

    def _hold(self, name: str, values: Tensor | None) -> None:
        """Keep a copy as a buffer; none as a plain attribute, since torch.export miscounts empty buffers."""
        if values is None:
            setattr(self, name, None)
        else:
            self.register_buffer(name, values.detach().clone())

    def _check(self, x: Tensor) -> None:
        if is_grad_enabled() and x.requires_grad:
            raise RuntimeError(f"no gradient passes through a frozen {self.name}: {REFUSED}")

    def extra_repr(self) -> str:
        return f"{self.name}, rank={self.rank}"


class FrozenLayer(Frozen):
    """A factorized layer as it is, where there is nothing to merge."""

    def __init__(self, layer: Factorized) -> None:
        super().__init__(layer)
        self.layer = layer.eval().requires_grad_(False)

    @property
    def bias(self) -> Tensor | None:
        """The layer's bias."""
        bias: Tensor | None = getattr(self.layer, "bias", None)
        return bias

    def dense_weight(self) -> Tensor:
        """The weight that the factors multiply out to."""
        return self.layer.dense_weight()

    def forward(self, input: Tensor) -> Tensor:
        """As the layer."""
        if is_grad_enabled() and any(p.requires_grad for p in self.parameters()):
            raise RuntimeError(f"no gradient passes through a frozen {self.name}: {REFUSED}")
        self._check(input)
        result: Tensor = self.layer(input)
        return result


class FrozenTensorized(Frozen):
    """A linear layer's factors merged for a number of rows; other numbers are computed the same way."""

    bias: Tensor | None
    in_features: int
    out_features: int

    def __init__(self, layer: TensorizedLinear, rows: int) -> None:
        super().__init__(layer)
        self.plan, self.surplus = layer.plan(rows, use="frozen"), layer.surplus
        with torch.no_grad():
            merged = self.plan.merge(layer.factors())
        self._names = [f"merged_{k}" for k in range(len(merged))]
        for name, tensor in zip(self._names, merged, strict=True):
            self._hold(name, tensor)
        self._hold("bias", layer.bias)

    def _merged(self) -> list[Tensor]:
        return [getattr(self, name) for name in self._names]

    def dense_weight(self) -> Tensor:
        """The (out, in) weight: what the plan makes of an identity matrix."""
        merged = self._merged()
        identity = torch.eye(self.in_features, dtype=merged[0].dtype, device=merged[0].device)
        return apply(self.plan, merged, identity, None, self.surplus).t()

    def forward(self, input: Tensor) -> Tensor:
        """Map (..., in) to (..., out); ValueError for another last size."""
        self._check(input)
        if input.shape[-1] != self.in_features:
            raise ValueError(f"expected {self.in_features} features in the last mode, got shape {tuple(input.shape)}")
        if input.ndim == 2:
            return apply(self.plan, self._merged(), input, self.bias, self.surplus)
        y = apply(self.plan, self._merged(), input.reshape(-1, self.in_features), self.bias, self.surplus)
        return y.reshape(*input.shape[:-1], self.out_features)
