"""Fully connected layers on the factors of a truncated SVD or of a TT-matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from tnlib import decompose


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

    @staticmethod
    def max_rank(weight_shape: Sequence[int]) -> int:
        """The largest useful rank for a weight of shape (out, in)."""
        return min(weight_shape)

    def dense_weight(self) -> Tensor:
        """The (out, in) weight that the two layers multiply out to; differentiable."""
        first, second = self._parts()
        weight: Tensor = second.weight @ first.weight
        return weight


class TTLinear(nn.Module):
    """A linear layer whose weight is a TT-matrix, applied core by core without rebuilding it (Novikov et al. 2015).

    `cores[k]` has shape (R_(k-1), m_k, n_k, R_k), the row digits m multiplying to the outputs, the column digits n to
    the inputs.
    """

    format: ClassVar[str] = "tt"

    def __init__(self, cores: Sequence[Tensor], bias: Tensor | None = None) -> None:
        super().__init__()
        self.cores = nn.ParameterList(nn.Parameter(core.detach().clone()) for core in cores)
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())
        self.row_dims = tuple(core.shape[1] for core in cores)
        self.col_dims = tuple(core.shape[2] for core in cores)
        self.out_features, self.in_features = math.prod(self.row_dims), math.prod(self.col_dims)

    @property
    def rank(self) -> tuple[int, ...]:
        """TT ranks R_1 .. R_(d-1)."""
        return tuple(core.shape[3] for core in list(self.cores)[:-1])

    @classmethod
    def from_layer(
        cls,
        layer: nn.Linear,
        rank: int | Sequence[int],
        *,
        row_dims: Sequence[int] | None = None,
        col_dims: Sequence[int] | None = None,
        **options: Any,
    ) -> Self:
        """Decompose a layer's weight; bias, dtype, device and train/eval mode carry over.

        `row_dims` and `col_dims` must multiply to the outputs and the inputs; by default both are split into three
        digits by `balanced_dims`. ValueError for digits that do not fit or a bad rank.
        """
        rows = tuple(row_dims) if row_dims else balanced_dims(layer.out_features, len(col_dims) if col_dims else 3)
        cols = tuple(col_dims) if col_dims else balanced_dims(layer.in_features, len(rows))
        train = decompose.tt_matrix(layer.weight.detach(), rows, cols, rank, **options)
        result = cls(train.factors, layer.bias).train(layer.training)
        result.requires_grad_(layer.weight.requires_grad)
        return result

    @staticmethod
    def max_rank(weight_shape: Sequence[int]) -> tuple[int, ...]:
        """The largest useful ranks for a weight of shape (out, in) in the default digits."""
        rows, cols = (balanced_dims(size, 3) for size in weight_shape)
        return decompose.max_tt_ranks([m * n for m, n in zip(rows, cols, strict=True)])

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out). From the last core to the first; no intermediate is ever permuted."""
        # `y` is (batch n_1 .. n_k R_k, M), M the outputs so far: a core turns n_k R_k into R_(k-1) m_k by a matmul.
        y = x.reshape(-1, 1)
        for core in reversed(list(self.cores)):
            left, m, n, right = core.shape
            done = y.shape[1]
            y = core.reshape(left * m, n * right) @ y.reshape(-1, n * right, done)
            y = y.reshape(-1, m * done)
        y = y.reshape(*x.shape[:-1], self.out_features)
        return y if self.bias is None else y + self.bias

    def dense_weight(self) -> Tensor:
        """The (out, in) weight that the cores multiply out to; differentiable."""
        weight = self.cores[0]
        for core in list(self.cores)[1:]:
            weight = torch.einsum("amnr,rijb->aminjb", weight, core).flatten(3, 4).flatten(1, 2)
        dense: Tensor = weight[0, :, :, 0]
        return dense

    def extra_repr(self) -> str:
        return f"{self.col_dims} -> {self.row_dims}, rank={self.rank}, bias={self.bias is not None}"


def balanced_dims(size: int, count: int) -> tuple[int, ...]:
    """Split an integer into `count` factors as equal as its prime factors allow, in ascending order.

    The largest prime factor goes first, each to the factor that is smallest so far: 25088 in six is (4, 4, 7, 7, 8, 4)
    in some order.
    """
    if size < 1 or count < 1:
        raise ValueError(f"cannot split {size} into {count} factors")
    primes, rest, p = [], size, 2
    while rest > 1:
        while rest % p == 0:
            primes.append(p)
            rest //= p
        p = p + 1 if p * p <= rest else max(rest, p + 1)
    dims = [1] * count
    for prime in reversed(primes):
        dims[dims.index(min(dims))] *= prime
    return tuple(sorted(dims))


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
