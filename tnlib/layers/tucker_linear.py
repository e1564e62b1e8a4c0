"""A fully connected layer on a Tucker decomposition of its tensorized weight."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from tensorly.tenalg import multi_mode_dot
from torch import Tensor, nn

from tnlib import decompose
from tnlib.decompose._validate import many_ranks
from tnlib.layers.cost_model import Product
from tnlib.layers.digits import paired_dims
from tnlib.layers.plan import DEFAULT, ChainPlan, plan_chain
from tnlib.layers.sweep import Rows, dense_step, merge_blocks, merge_cores, run_chain
from tnlib.layers.tensorized import TensorizedLinear, listed


@dataclass(frozen=True)
class TuckerPlan:
    """Column factors, core, row factors, one after the other; or, if that is cheaper, the dense matrix."""

    columns: ChainPlan
    middle: Product
    rows: ChainPlan
    whole: Product
    dense: bool
    nanoseconds: float

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one row, without those of merging."""
        if self.dense:
            return self.whole.inner * self.whole.cols
        return self.columns.macs + self.middle.inner * self.middle.cols + self.rows.macs

    @property
    def merged(self) -> int:
        """Numbers kept beside the factors."""
        return self.whole.weight if self.dense else self.columns.merged + self.rows.merged

    def __str__(self) -> str:
        if self.dense:
            return f"dense: {self.whole}\n  all factors are multiplied out: the dense matrix is cheaper here"
        return f"columns: {self.columns}\ncore: {self.middle}\nrows: {self.rows}"


class TuckerLinear(TensorizedLinear):
    """A linear layer on the Tucker decomposition of its weight as a tensor of shape (m_1 .. m_d, n_1 .. n_d).

    `core` has shape (T_1 .. T_2d), `row_factors[k]` (m_k, T_k), `col_factors[k]` (n_k, T_(d+k)). Rank: the 2d ranks, or
    one integer for all, each cut to its mode.
    """

    format: ClassVar[str] = "tucker"

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
        rows, cols = [factor.shape[0] for factor in row_factors], [factor.shape[0] for factor in col_factors]
        super().__init__(rows, cols, bias, out_features or math.prod(rows), in_features or math.prod(cols))
        self.core = nn.Parameter(core.detach().clone())
        self.row_factors = nn.ParameterList(nn.Parameter(factor.detach().clone()) for factor in row_factors)
        self.col_factors = nn.ParameterList(nn.Parameter(factor.detach().clone()) for factor in col_factors)

    @property
    def rank(self) -> tuple[int, ...]:
        """Ranks T_1 .. T_2d, rows first."""
        return tuple(self.core.shape)

    def factors(self) -> list[Any]:
        """Core, row factors, column factors."""
        return [self.core, *listed(self, "row_factors"), *listed(self, "col_factors")]

    @staticmethod
    def max_rank(weight_shape: Sequence[int]) -> tuple[int, ...]:
        """The largest useful ranks for a weight of shape (out, in) in the default digits."""
        rows, cols = paired_dims(weight_shape[0], weight_shape[1], None, None)
        return _largest((*rows, *cols))

    @staticmethod
    def _decompose(
        weight: Tensor, row_dims: Sequence[int], col_dims: Sequence[int], rank: Any, options: dict[str, Any]
    ) -> Sequence[Tensor]:
        shape = (*row_dims, *col_dims)
        ranks = many_ranks(rank, _largest(shape), "Tucker rank")
        core, factors = decompose.tucker(weight.reshape(shape), ranks, **options)
        return [core, *factors]

    @staticmethod
    def _fresh(row_dims: Sequence[int], col_dims: Sequence[int], rank: Any, normal: Any) -> Sequence[Tensor]:
        shape, d = (*row_dims, *col_dims), len(row_dims)
        ranks = many_ranks(rank, _largest(shape), "Tucker rank")
        core = normal(ranks, math.prod(ranks[d:]))
        rows = [normal((m, t), t) for m, t in zip(row_dims, ranks[:d], strict=True)]
        return [core, *rows, *(normal((n, t), n) for n, t in zip(col_dims, ranks[d:], strict=True))]

    @staticmethod
    def _square_norm(factors: Sequence[Tensor]) -> float:
        triangles = [torch.linalg.qr(factor).R for factor in factors[1:]]
        return float(multi_mode_dot(factors[0], triangles).square().sum())

    @classmethod
    def _build(cls, layer: nn.Linear, factors: Sequence[Tensor], bias: Tensor | None) -> Self:
        d = len(factors) // 2
        sizes = {"out_features": layer.out_features, "in_features": layer.in_features}
        return cls(factors[0], factors[1 : d + 1], factors[d + 1 :], bias, **sizes)

    def _find_plan(self, batch: int, training: bool, chunked: bool) -> TuckerPlan:
        d, ranks = len(self.row_dims), self.rank
        column_shapes = tuple((1, t, n, 1) for t, n in zip(ranks[d:], self.col_dims, strict=True))
        row_shapes = tuple((1, m, t, 1) for m, t in zip(self.row_dims, ranks[:d], strict=True))
        columns = plan_chain(column_shapes, batch, training=training, chunked=chunked)
        rows = plan_chain(row_shapes, batch, training=training, chunked=chunked)
        middle = Product(1, batch, math.prod(ranks[d:]), math.prod(ranks[:d]), weight_first=False)
        whole = Product(1, batch, math.prod(self.col_dims), math.prod(self.row_dims), weight_first=False)
        times = 3 if training else 1
        chain = columns.nanoseconds + times * DEFAULT.product(middle) + rows.nanoseconds
        once = times * DEFAULT.product(whole)
        if training:  # the dense matrix is made anew in every step
            once += times * (self.core.numel() * max(self.col_dims) * DEFAULT.mac + DEFAULT.moved(4 * whole.weight))
        return TuckerPlan(columns, middle, rows, whole, once < chain, min(once, chain))

    def _merge(self, plan: TuckerPlan) -> Any:
        if plan.dense:
            return self._dense()
        d = len(self.row_dims)
        columns = merge_blocks(plan.columns, [factor.t()[None, :, :, None] for factor in self.col_factors])
        rows = merge_blocks(plan.rows, [factor[None, :, :, None] for factor in self.row_factors])
        return columns, self.core.reshape(math.prod(self.rank[:d]), -1).t(), rows

    def _run(self, plan: TuckerPlan, merged: Any, bias: Tensor | None, rows: int) -> Rows:
        if plan.dense:
            return dense_step(merged, bias)
        columns, middle, outputs = merged
        first, last = run_chain(plan.columns, columns, None, rows), run_chain(plan.rows, outputs, bias, rows)
        return lambda x: last(first(x) @ middle)

    def _dense(self) -> Tensor:
        d = len(self.row_dims)
        rows = merge_cores([factor[None, :, :, None] for factor in self.row_factors])[0, :, :, 0]
        cols = merge_cores([factor[None, :, :, None] for factor in self.col_factors])[0, :, :, 0]
        return rows @ self.core.reshape(math.prod(self.rank[:d]), -1) @ cols.t()


def _largest(shape: Sequence[int]) -> tuple[int, ...]:
    total = math.prod(shape)
    return tuple(min(size, total // size) for size in shape)
