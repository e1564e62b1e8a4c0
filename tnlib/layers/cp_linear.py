"""A fully connected layer on a CPD of its tensorized weight."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

from tensorly.cp_tensor import cp_norm
from tensorly.tenalg import khatri_rao
from torch import Tensor, nn

from tnlib import decompose
from tnlib.contract import Plan, plan_cp
from tnlib.decompose import _validate as validate
from tnlib.layers.conv import spread_weights
from tnlib.layers.ranks import first_within
from tnlib.layers.stages import Stage, own_parameter
from tnlib.layers.tensorized import TensorizedLinear


class CPLinear(TensorizedLinear):
    """A linear layer on the CPD of its weight as a tensor of shape (m_1 .. m_d, n_1 .. n_d).

    `row_factors[k]` has shape (m_k, R), `col_factors[k]` (n_k, R). The weight's matrix rank is at most R. Rank: one
    integer. `factors()` are the row factors, then the column factors.
    """

    format = "cp"

    def __init__(
        self,
        row_factors: Sequence[Tensor],
        col_factors: Sequence[Tensor],
        bias: Tensor | None = None,
        *,
        out_features: int | None = None,
        in_features: int | None = None,
    ) -> None:
        super().__init__()
        self.row_factors, self.col_factors = (
            nn.ParameterList([own_parameter(factor, factor, requires_grad=True) for factor in side])
            for side in (row_factors, col_factors)
        )
        self._setup([*row_factors, *col_factors], bias, out_features, in_features)

    def factors(self) -> list[nn.Parameter]:
        """Row factors, then column factors."""
        return [side[k] for side in (self.row_factors, self.col_factors) for k in range(len(side))]

    @classmethod
    def _from_flat(cls, factors: Sequence[Tensor], bias: Tensor | None, **sizes: int) -> Self:
        d = len(factors) // 2
        return cls(factors[:d], factors[d:], bias, **sizes)

    @classmethod
    def _rank_of(cls, factors: Sequence[Tensor]) -> int:
        return int(factors[0].shape[1])

    @classmethod
    def _digits_of(cls, factors: Sequence[Tensor]) -> dict[str, Any]:
        sizes, d = tuple(factor.shape[0] for factor in factors), len(factors) // 2
        return {"row_dims": sizes[:d], "col_dims": sizes[d:]}

    @classmethod
    def _limits(cls, shape: Sequence[int], **digits: Any) -> int:
        return decompose.max_cp_rank((*digits["row_dims"], *digits["col_dims"]))

    @classmethod
    def _stages(cls, shape: Sequence[int], rank: Any, **digits: Any) -> list[Stage]:
        rank = validate.one_rank(rank, cls._limits(shape, **digits), "CP rank")
        rows = [Stage((m, rank), rank if k == 0 else 1) for k, m in enumerate(digits["row_dims"])]
        return [*rows, *(Stage((n, rank), n) for n in digits["col_dims"])]

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
        tensor = matrix.reshape(*rows, *cols)
        if rank is None:
            validate.check_rank_or_error(rank, rel_error)
            norm = tensor.norm().clamp_min(1e-300)

            def error(r: int) -> float:
                return float((decompose.cp(tensor, r, seed=seed, **options).to_tensor() - tensor).norm() / norm)

            rank = first_within(error, rel_error, decompose.max_cp_rank(tensor.shape))
        return spread_weights(decompose.cp(tensor, rank, seed=seed, **options))

    @classmethod
    def _square_norm(cls, factors: Sequence[Tensor]) -> float:
        return float(cp_norm((None, list(factors)))) ** 2

    @classmethod
    def _plan_for(cls, digits: dict[str, Any], rank: Any, rows: int, **how: Any) -> Plan:
        return plan_cp(digits["row_dims"], digits["col_dims"], rank, rows, **how)

    def _dense(self) -> Tensor:
        d = len(self.row_factors)
        rows, cols = (khatri_rao(f) if len(f) > 1 else f[0] for f in (self.factors()[:d], self.factors()[d:]))
        result: Tensor = rows @ cols.t()
        assert math.prod(self.row_dims) == len(result)
        return result
