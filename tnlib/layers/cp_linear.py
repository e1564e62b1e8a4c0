"""A fully connected layer on a CPD of its tensorized weight."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from tensorly.cp_tensor import cp_norm
from tensorly.tenalg import khatri_rao
from torch import Tensor, nn

from tnlib import decompose
from tnlib.decompose._validate import max_cp_rank, one_rank
from tnlib.layers.cost_model import CostModel, Product
from tnlib.layers.digits import paired_dims
from tnlib.layers.plan import DEFAULT
from tnlib.layers.sweep import Rows, dense_step
from tnlib.layers.tensorized import TensorizedLinear, listed


@dataclass(frozen=True)
class CPPlan:
    """Where to cut the factors of either side into a head and a tail, each merged by a Khatri-Rao product.

    Columns: the tail is applied by a matrix product, the head by a weighted sum. Rows: the head weights, the tail is a
    matrix product. `first` and `last` are the matrix products; `dense` is the whole matrix instead, if cheaper.
    """

    col_cut: int
    row_cut: int
    first: Product
    last: Product
    heads: tuple[int, int]
    batch: int
    whole: Product
    dense: bool
    nanoseconds: float

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one row, the weighted sums included."""
        if self.dense:
            return self.whole.inner * self.whole.cols
        sums = sum(head * self.first.cols for head in self.heads if head > 1)
        return (self.first.macs + self.last.macs) // self.batch + sums

    @property
    def merged(self) -> int:
        """Numbers in merged heads and tails."""
        if self.dense:
            return self.whole.weight
        return self.first.weight + self.last.weight + sum(self.heads) * self.first.cols

    def __str__(self) -> str:
        if self.dense:
            return f"dense: {self.whole}\n  all factors are multiplied out: the dense matrix is cheaper here"
        head_in, head_out = self.heads
        return (
            f"columns, cut after digit {self.col_cut}: {self.first}"
            + f", weighted sum over {head_in}" * (head_in > 1)
            + f"\nrows, cut after digit {self.row_cut}: "
            + f"{head_out} copies weighted, " * (head_out > 1)
            + f"{self.last}"
        )


@functools.lru_cache(maxsize=1024)
def plan_cp(
    row_dims: tuple[int, ...],
    col_dims: tuple[int, ...],
    rank: int,
    batch: int,
    *,
    training: bool = False,
    model: CostModel = DEFAULT,
) -> CPPlan:
    """The cheapest cuts by the cost model. ValueError for no rows."""
    if batch < 1:
        raise ValueError(f"a plan needs at least one row, got {batch}")
    times = 3 if training else 1

    def side(dims: tuple[int, ...], cut: int, columns: bool) -> tuple[float, Product, int]:
        head, tail = math.prod(dims[:cut]), math.prod(dims[cut:])
        inner, cols = (tail, rank) if columns else (rank, tail)
        product = Product(1, batch * head, inner, cols, weight_first=False)
        time = model.product(product)
        if head > 1:
            time += 2 * model.call + model.moved(4 * batch * head * rank)
        if training:
            time += model.moved(3 * (head + tail) * rank)
        return times * time, product, head

    col = min((side(col_dims, cut, True), cut) for cut in range(len(col_dims)))
    row = min((side(row_dims, cut, False), cut) for cut in range(len(row_dims)))
    ((col_time, first, head_in), col_cut), ((row_time, last, head_out), row_cut) = col, row
    whole = Product(1, batch, math.prod(col_dims), math.prod(row_dims), weight_first=False)
    once = times * model.product(whole)
    if training:
        once += times * model.product(Product(1, whole.cols, rank, whole.inner, weight_first=False))
    chain = col_time + row_time
    cuts = col_cut, row_cut, first, last, (head_in, head_out)
    return CPPlan(*cuts, batch, whole, once < chain, min(once, chain))


class CPLinear(TensorizedLinear):
    """A linear layer on the CPD of its weight as a tensor of shape (m_1 .. m_d, n_1 .. n_d).

    `row_factors[k]` has shape (m_k, R), `col_factors[k]` (n_k, R). The weight's matrix rank is at most R. Rank: one
    integer.
    """

    format: ClassVar[str] = "cp"

    def __init__(
        self,
        row_factors: Sequence[Tensor],
        col_factors: Sequence[Tensor],
        bias: Tensor | None = None,
        *,
        out_features: int | None = None,
        in_features: int | None = None,
    ) -> None:
        rows, cols = [factor.shape[0] for factor in row_factors], [factor.shape[0] for factor in col_factors]
        super().__init__(rows, cols, bias, out_features or math.prod(rows), in_features or math.prod(cols))
        self.row_factors = nn.ParameterList(nn.Parameter(factor.detach().clone()) for factor in row_factors)
        self.col_factors = nn.ParameterList(nn.Parameter(factor.detach().clone()) for factor in col_factors)

    @property
    def rank(self) -> int:
        """CP rank."""
        return int(self.row_factors[0].shape[1])

    def factors(self) -> list[Any]:
        """Row factors, then column factors."""
        return listed(self, "row_factors") + listed(self, "col_factors")

    @staticmethod
    def max_rank(weight_shape: Sequence[int]) -> int:
        """A rank that suffices for a weight of shape (out, in) in the default digits."""
        rows, cols = paired_dims(weight_shape[0], weight_shape[1], None, None)
        return max_cp_rank((*rows, *cols))

    @staticmethod
    def _decompose(
        weight: Tensor, row_dims: Sequence[int], col_dims: Sequence[int], rank: Any, options: dict[str, Any]
    ) -> Sequence[Tensor]:
        weights, factors = decompose.cp(weight.reshape(*row_dims, *col_dims), rank, **options)
        # The weights are spread evenly over the factors: training then sees gradients of like size.
        spread = [factor * weights.abs() ** (1 / len(factors)) for factor in factors]
        return [spread[0] * weights.sign(), *spread[1:]]

    @staticmethod
    def _fresh(row_dims: Sequence[int], col_dims: Sequence[int], rank: Any, normal: Any) -> Sequence[Tensor]:
        rank = one_rank(rank, max_cp_rank((*row_dims, *col_dims)), "CP rank")
        rows = [normal((m, rank), rank if k == 0 else 1) for k, m in enumerate(row_dims)]
        return [*rows, *(normal((n, rank), n) for n in col_dims)]

    @staticmethod
    def _square_norm(factors: Sequence[Tensor]) -> float:
        return float(cp_norm((None, list(factors)))) ** 2

    @classmethod
    def _build(cls, layer: nn.Linear, factors: Sequence[Tensor], bias: Tensor | None) -> Self:
        d = len(factors) // 2
        return cls(factors[:d], factors[d:], bias, out_features=layer.out_features, in_features=layer.in_features)

    def _find_plan(self, batch: int, training: bool, chunked: bool) -> CPPlan:
        return plan_cp(self.row_dims, self.col_dims, self.rank, batch, training=training)

    def _merge(self, plan: CPPlan) -> Any:
        if plan.dense:
            return self._dense()
        cols, rows = listed(self, "col_factors"), listed(self, "row_factors")
        return (
            _merged(cols[: plan.col_cut]),
            _merged(cols[plan.col_cut :]),
            _merged(rows[: plan.row_cut]),
            _merged(rows[plan.row_cut :]).t(),
        )

    def _run(self, plan: CPPlan, merged: Any, bias: Tensor | None, rows: int) -> Rows:
        if plan.dense:
            return dense_step(merged, bias)
        col_head, col_tail, row_head, row_tail = merged
        (head_in, head_out), (tail, rank) = plan.heads, col_tail.shape

        def run(x: Tensor) -> Tensor:
            y: Tensor = x.reshape(-1, tail) @ col_tail
            if head_in > 1:
                y = (y.reshape(rows, head_in, rank) * col_head).sum(1)
            if head_out > 1:
                y = (y[:, None, :] * row_head).reshape(-1, rank)
            y = (y @ row_tail).reshape(rows, -1)
            return y if bias is None else y + bias

        return run

    def _dense(self) -> Tensor:
        result: Tensor = _merged(list(self.row_factors)) @ _merged(list(self.col_factors)).t()
        return result


def _merged(factors: Sequence[Tensor]) -> Any:
    """Khatri-Rao product of the factors, (product of sizes, R); of none, None."""
    return khatri_rao(list(factors)) if len(factors) > 1 else factors[0] if factors else None
