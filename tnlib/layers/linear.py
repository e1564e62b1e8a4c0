"""A fully connected layer on the factors of a truncated SVD."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from tnlib import decompose
from tnlib.decompose._validate import one_rank


class SVDLinear(nn.Sequential):
    """Two linear layers through R features: truncated SVD of the weight. Rank: one integer, at most min(out, in)."""

    format: ClassVar[str] = "svd"

    @property
    def rank(self) -> int:
        """Features between the two layers."""
        return self._parts()[0].out_features

    def _parts(self) -> list[nn.Linear]:
        return [part for part in self if isinstance(part, nn.Linear)]

    @classmethod
    def from_layer(cls, layer: nn.Linear, rank: int, **options: Any) -> Self:
        """Decompose a layer's weight; bias, dtype, device and train/eval mode carry over. ValueError for a bad rank."""
        u, s, vh = decompose.svd(layer.weight.detach().double(), rank, **options)
        root = s.sqrt()
        first, second = _linear(root[:, None] * vh, None, layer), _linear(u * root, layer.bias, layer)
        return cls(first, second).train(layer.training)

    @classmethod
    def fresh(cls, layer: nn.Linear, rank: int, *, gain: float = math.sqrt(2.0), seed: int = 0) -> Self:
        """The same two layers with random weights of variance 1 / R and gain^2 / in; their product has gain^2 / in."""
        rank = one_rank(rank, min(layer.weight.shape), "rank")
        generator = torch.Generator().manual_seed(seed)
        outputs, inputs = layer.weight.shape
        first = torch.randn(rank, inputs, generator=generator) * gain / math.sqrt(inputs)
        second = torch.randn(outputs, rank, generator=generator) / math.sqrt(rank)
        bias = None if layer.bias is None else torch.zeros_like(layer.bias)
        return cls(_linear(first, None, layer), _linear(second, bias, layer)).train(layer.training)

    @staticmethod
    def max_rank(weight_shape: Sequence[int]) -> int:
        """The largest useful rank for a weight of shape (out, in)."""
        return min(weight_shape)

    def dense_weight(self) -> Tensor:
        """The (out, in) weight that the two layers multiply out to; differentiable."""
        first, second = self._parts()
        weight: Tensor = second.weight @ first.weight
        return weight


def _linear(weight: Tensor, bias: Tensor | None, like: nn.Linear) -> nn.Linear:
    """An `nn.Linear` with this weight and bias, of the other one's dtype, device and need for gradients."""
    outputs, inputs = weight.shape
    place = {"device": like.weight.device, "dtype": like.weight.dtype}
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, inputs, outputs, bias=bias is not None, **place)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
    layer.requires_grad_(like.weight.requires_grad)
    return layer
