"""Fully connected layers on a TT-matrix, and on a tensor train through the digits of rows and columns in turn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from tnlib import decompose
from tnlib.contract import Plan, plan_chain
from tnlib.layers.digits import paired_dims
from tnlib.layers.stages import own_parameter
from tnlib.layers.tensorized import TensorizedLinear
from tnlib.layers.tt_matrix import OnTTMatrix, multiply_cores


class TTMLinear(OnTTMatrix, TensorizedLinear):
    """A linear layer whose weight is a TT-matrix, applied without rebuilding it (Novikov et al. 2015).

    `cores[k]` has shape (R_(k-1), m_k, n_k, R_k), the row digits m multiplying to the outputs, the column digits n to
    the inputs. Rank: (R_1, .., R_(d-1)); an integer stands for all, each cut to its largest useful value.
    """

    format = "ttm"

    def __init__(
        self,
        cores: Sequence[Tensor],
        bias: Tensor | None = None,
        *,
        out_features: int | None = None,
        in_features: int | None = None,
    ) -> None:
        super().__init__()
        self.cores = nn.ParameterList([own_parameter(core, core, requires_grad=True) for core in cores])
        self._setup(cores, bias, out_features, in_features)

    def factors(self) -> list[nn.Parameter]:
        """The cores."""
        return [self.cores[k] for k in range(len(self.cores))]

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
        return list(decompose.tt_matrix(matrix, rows, cols, rank, rel_error=rel_error, seed=seed, **options).factors)

    @classmethod
    def _plan_for(cls, digits: dict[str, Any], rank: Any, rows: int, **how: Any) -> Plan:
        ends = (1, *rank, 1)
        shapes = zip(ends, digits["row_dims"], digits["col_dims"], ends[1:], strict=False)
        return plan_chain(tuple(shapes), rows, **how)

    def _dense(self) -> Tensor:
        return multiply_cores(self.factors())


class TTLinear(TTMLinear):
    """A linear layer on a tensor train of its weight as a tensor of shape (m_1 .. m_d, n_1 .. n_e).

    The train runs through the row digits, then through the column digits: `cores` have shapes (R, m_k, 1, R'), then
    (R, 1, n_k, R'). Its middle rank is the weight's matrix rank. `row_dims` and `col_dims` of a layer are those of its
    cores, with ones. Rank: (R_1, .., R_(d+e-1)), or an integer for all.
    """

    format = "tt"

    @classmethod
    def _choose(cls, shape: Sequence[int], options: dict[str, Any]) -> dict[str, Any]:
        given = options.pop("row_dims", None), options.pop("col_dims", None)
        if all(given) and len(given[0]) == len(given[1]) and all(1 in pair for pair in zip(*given, strict=True)):
            rows, cols = paired_dims(shape[0], shape[1], *given)  # those of cores
            return {"row_dims": rows, "col_dims": cols}
        rows, cols = paired_dims(shape[0], shape[1], *given, paired=False)
        return {"row_dims": rows + (1,) * len(cols), "col_dims": (1,) * len(rows) + cols}
