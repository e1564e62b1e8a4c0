"""A fully connected layer on the factors of a truncated SVD."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from tnlib import decompose
from tnlib.decompose import _validate as validate
from tnlib.layers.factorized import Factorized
from tnlib.layers.ranks import Errors
from tnlib.layers.spectra import matrix_errors
from tnlib.layers.stages import Stage, own_parameter


class SVDLinear(Factorized, nn.Sequential):
    """Two linear layers through R features: truncated SVD of the weight. Rank: one integer, at most min(out, in).

    `factors()` are (R, in) and (out, R), the weights of the two.
    """

    format = "svd"
    replaces = (nn.Linear,)
    attributes = ("in_features", "out_features")

    @property
    def bias(self) -> nn.Parameter | None:
        """The second layer's bias."""
        bias: nn.Parameter | None = self[1].bias
        return bias

    def __getitem__(self, index: Any) -> Any:
        """One of the two; of a slice, a plain sequence."""
        return nn.Sequential(*list(self)[index]) if isinstance(index, slice) else super().__getitem__(index)

    def factors(self) -> list[nn.Parameter]:
        """The weights of the two layers."""
        return [self[0].weight, self[1].weight]

    @classmethod
    def _limits(cls, shape: Sequence[int], **digits: Any) -> int:
        return min(shape)

    @classmethod
    def _stages(cls, shape: Sequence[int], rank: Any, **digits: Any) -> list[Stage]:
        rank = validate.one_rank(rank, min(shape), "rank")
        return [Stage((rank, shape[1]), shape[1]), Stage((shape[0], rank), rank)]

    @classmethod
    def _factor(cls, kernel: Tensor, rank: Any, rel_error: float | None, seed: int, **options: Any) -> list[Tensor]:
        u, s, vh = decompose.svd(kernel, rank, rel_error=rel_error, seed=seed, **options)
        return [vh, u * s]

    @classmethod
    def errors(cls, kernel: Tensor) -> Errors:
        """Ranks, and the squared errors they leave of the float64 weight."""
        return matrix_errors(kernel)

    @classmethod
    def _rank_of(cls, factors: Sequence[Tensor]) -> int:
        return int(factors[0].shape[0])

    @classmethod
    def _assemble(cls, like: Any, factors: Sequence[Tensor], bias: Tensor | None) -> Self:
        first, second = factors
        chain = cls(_linear(first, None, like), _linear(second, bias, like))
        return chain._become(like)

    @classmethod
    def _square_norm(cls, factors: Sequence[Tensor]) -> float:
        first, second = (torch.linalg.qr(part).R for part in (factors[0].mT, factors[1]))
        return float((second @ first.mT).square().sum())

    @classmethod
    def macs(cls, layer: Any, rank: Any, output_size: Sequence[int] | None = None, **digits: Any) -> int:
        """Multiply-accumulates of one sample (one row)."""
        return sum(stage.shape[0] * stage.shape[1] for stage in cls._stages(cls._shape_of(layer), rank))

    def dense_weight(self) -> Tensor:
        """The (out, in) weight that the two layers multiply out to; differentiable."""
        first, second = self.factors()
        return second @ first


def _linear(weight: Tensor, bias: Tensor | None, like: nn.Linear) -> nn.Linear:
    """An `nn.Linear` with this weight and bias, of the other one's dtype and device."""
    outputs, inputs = weight.shape
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, inputs, outputs, bias=False, device=like.weight.device)
    layer.weight = own_parameter(weight, like.weight)
    if bias is not None:
        layer.bias = own_parameter(bias, bias)
    return layer.train(like.training)
