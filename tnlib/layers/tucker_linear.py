"""A fully connected layer on a Tucker decomposition of its tensorized weight."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

import torch
from tensorly.tenalg import multi_mode_dot
from torch import Tensor, nn

from tnlib import decompose
from tnlib.contract import Plan, plan_tucker
from tnlib.layers.ranks import max_tucker_ranks, useful_tucker_ranks
from tnlib.layers.stages import Stage, own_parameter
from tnlib.layers.tensorized import TensorizedLinear


class TuckerLinear(TensorizedLinear):
    """A linear layer on the Tucker decomposition of its weight as a tensor of shape (m_1 .. m_d, n_1 .. n_d).

    `core` has shape (T_1 .. T_2d), `row_factors[k]` (m_k, T_k), `col_factors[k]` (n_k, T_(d+k)). Rank: the 2d ranks, or
    one integer for all, each cut to its mode. `factors()` are the core, the row factors, the column factors.
    """

    format = "tucker"

    def __init__(
        self,
        core: Tensor,
        row_factors: Sequence[Tensor],
        col_factors: Sequence[Tensor],
        bias: Tensor | None = None,
        *,
        out_features: int | None = None,
        in_features: int | None = None,
    ) -> None:
        super().__init__()
        self.core = own_parameter(core, core, requires_grad=True)
        self.row_factors, self.col_factors = (
            nn.ParameterList([own_parameter(factor, factor, requires_grad=True) for factor in side])
            for side in (row_factors, col_factors)
        )
        self._setup([core, *row_factors, *col_factors], bias, out_features, in_features)

    def factors(self) -> list[nn.Parameter]:
        """Core, row factors, column factors."""
        return [self.core, *(side[k] for side in (self.row_factors, self.col_factors) for k in range(len(side)))]

    @classmethod
    def _from_flat(cls, factors: Sequence[Tensor], bias: Tensor | None, **sizes: int) -> Self:
        d = len(factors) // 2
        return cls(factors[0], factors[1 : d + 1], factors[d + 1 :], bias, **sizes)

    @classmethod
    def _rank_of(cls, factors: Sequence[Tensor]) -> tuple[int, ...]:
        return tuple(factors[0].shape)

    @classmethod
    def _digits_of(cls, factors: Sequence[Tensor]) -> dict[str, Any]:
        sizes, d = tuple(factor.shape[0] for factor in factors[1:]), len(factors) // 2
        return {"row_dims": sizes[:d], "col_dims": sizes[d:]}

    @classmethod
    def _limits(cls, shape: Sequence[int], **digits: Any) -> tuple[int, ...]:
        return max_tucker_ranks((*digits["row_dims"], *digits["col_dims"]))

    @classmethod
    def _stages(cls, shape: Sequence[int], rank: Any, **digits: Any) -> list[Stage]:
        sizes, d = (*digits["row_dims"], *digits["col_dims"]), len(digits["row_dims"])
        ranks = useful_tucker_ranks(rank, sizes)
        rows = [Stage((m, t), t) for m, t in zip(sizes[:d], ranks[:d], strict=True)]
        cols = [Stage((n, t), n) for n, t in zip(sizes[d:], ranks[d:], strict=True)]
        return [Stage(ranks, math.prod(ranks[d:])), *rows, *cols]

    @classmethod
    def _factor_digits(
        cls,
        matrix: Tensor,
        rows: Sequence[int],
        cols: Sequence[int],
        rank: Any,
        rel_error: Any,
        seed: int,
        **options: Any,
    ) -> list[Tensor]:
        shape = (*rows, *cols)
        ranks = None if rank is None else useful_tucker_ranks(rank, shape)
        core, factors = decompose.tucker(matrix.reshape(shape), ranks, rel_error=rel_error, **options)
        return [core, *factors]

    @classmethod
    def _square_norm(cls, factors: Sequence[Tensor]) -> float:
        triangles = [torch.linalg.qr(factor).R for factor in factors[1:]]
        return float(multi_mode_dot(factors[0], triangles).square().sum())

    @classmethod
    def _plan_for(cls, digits: dict[str, Any], rank: Any, rows: int, **how: Any) -> Plan:
        d = len(digits["row_dims"])
        return plan_tucker(digits["row_dims"], digits["col_dims"], rank[:d], rank[d:], rows, **how)

    def _dense(self) -> Tensor:
        d, weight = len(self.row_factors), self.core
        for axis, factor in enumerate(self.factors()[1:]):
            weight = torch.tensordot(factor, weight, ([1], [axis])).movedim(0, axis)
        return weight.reshape(math.prod(weight.shape[:d]), -1)
