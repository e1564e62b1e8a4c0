"""A fully connected layer on a TT-matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from tnlib import decompose
from tnlib.decompose._validate import many_ranks
from tnlib.layers.digits import paired_dims
from tnlib.layers.plan import ChainPlan, plan_chain
from tnlib.layers.sweep import Rows, merge_blocks, merge_cores, run_chain
from tnlib.layers.tensorized import TensorizedLinear, listed


class TTLinear(TensorizedLinear):
    """A linear layer whose weight is a TT-matrix, applied without rebuilding it (Novikov et al. 2015).

    `cores[k]` has shape (R_(k-1), m_k, n_k, R_k), the row digits m multiplying to the outputs, the column digits n to
    the inputs. `explain(batch)` tells in which order the cores are merged and applied.
    """

    format: ClassVar[str] = "tt"

    def __init__(
        self,
        cores: Sequence[Tensor],
        bias: Tensor | None = None,
        *,
        out_features: int | None = None,
        in_features: int | None = None,
    ) -> None:
        rows, cols = tuple(core.shape[1] for core in cores), tuple(core.shape[2] for core in cores)
        super().__init__(rows, cols, bias, out_features or math.prod(rows), in_features or math.prod(cols))
        self.cores = nn.ParameterList(nn.Parameter(core.detach().clone()) for core in cores)

    @property
    def rank(self) -> tuple[int, ...]:
        """TT ranks R_1 .. R_(d-1)."""
        return tuple(core.shape[3] for core in self.factors()[:-1])

    def factors(self) -> list[Any]:
        """The cores."""
        return listed(self, "cores")

    @staticmethod
    def max_rank(weight_shape: Sequence[int]) -> tuple[int, ...]:
        """The largest useful ranks for a weight of shape (out, in) in the default digits."""
        rows, cols = paired_dims(weight_shape[0], weight_shape[1], None, None)
        return decompose.max_tt_ranks([m * n for m, n in zip(rows, cols, strict=True)])

    @staticmethod
    def _decompose(
        weight: Tensor, row_dims: Sequence[int], col_dims: Sequence[int], rank: Any, options: dict[str, Any]
    ) -> Sequence[Tensor]:
        cores: list[Tensor] = list(decompose.tt_matrix(weight, row_dims, col_dims, rank, **options).factors)
        return cores

    @staticmethod
    def _fresh(row_dims: Sequence[int], col_dims: Sequence[int], rank: Any, normal: Any) -> Sequence[Tensor]:
        largest = decompose.max_tt_ranks([m * n for m, n in zip(row_dims, col_dims, strict=True)])
        ranks = (1, *many_ranks(rank, largest, "TT rank"), 1)
        shapes = zip(ranks, row_dims, col_dims, ranks[1:], strict=False)
        return [normal((left, m, n, right), n * right) for left, m, n, right in shapes]

    @staticmethod
    def _square_norm(factors: Sequence[Tensor]) -> float:
        gram = torch.ones(1, 1, dtype=factors[0].dtype)
        for core in factors:
            gram = torch.einsum("ab,amnc,bmnd->cd", gram, core, core)
        return float(gram)

    @classmethod
    def _build(cls, layer: nn.Linear, factors: Sequence[Tensor], bias: Tensor | None) -> Self:
        return cls(factors, bias, out_features=layer.out_features, in_features=layer.in_features)

    def _find_plan(self, batch: int, training: bool, chunked: bool) -> ChainPlan:
        shapes: Any = tuple(tuple(core.shape) for core in self.cores)
        return plan_chain(shapes, batch, training=training, chunked=chunked)

    def _merge(self, plan: ChainPlan) -> list[Tensor]:
        return merge_blocks(plan, self.factors())

    def _run(self, plan: ChainPlan, merged: list[Tensor], bias: Tensor | None, rows: int) -> Rows:
        return run_chain(plan, merged, bias, rows)

    def _dense(self) -> Tensor:
        return merge_cores(self.factors())[0, :, :, 0]
