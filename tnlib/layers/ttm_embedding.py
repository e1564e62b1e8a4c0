"""An embedding on a TT-matrix; only the rows asked for are computed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tnlib import decompose
from tnlib.contract import is_tracing
from tnlib.layers.embedding import FactorizedEmbedding
from tnlib.layers.stages import own_parameter
from tnlib.layers.tt_matrix import OnTTMatrix, multiply_cores


class TTMEmbedding(OnTTMatrix, FactorizedEmbedding):
    """An embedding whose table is a TT-matrix (Hrinchuk et al. 2020); rank R_1 .. R_(d-1), or one integer for all.

    `cores[k]` has shape (R_(k-1), m_k, n_k, R_k), the digits m multiplying to num_embeddings, the digits n to
    embedding_dim, or to more: the table is then padded with zeros and cut.

    A row is a product of one slice of each core. `forward` finds the digits of each index; the leading cores are
    multiplied out for all their digits while that takes no more rows than there are indices, the others for the
    indices asked for only.
    """

    format = "ttm"

    def __init__(self, layer: nn.Embedding, cores: Sequence[Tensor]) -> None:
        super().__init__()
        self.cores = nn.ParameterList([own_parameter(core, layer.weight) for core in cores])
        self.row_dims = tuple(core.shape[1] for core in cores)
        self.col_dims = tuple(core.shape[2] for core in cores)

    def factors(self) -> list[nn.Parameter]:
        """The cores."""
        return [self.cores[k] for k in range(len(self.cores))]

    @classmethod
    def _terms(cls, left: int, n: int, right: int) -> int:
        return left

    @classmethod
    def _factor(cls, kernel: Tensor, rank: Any, rel_error: float | None, seed: int, **options: Any) -> list[Tensor]:
        rows, cols = options.pop("row_dims"), options.pop("col_dims")
        padded = F.pad(kernel, (0, math.prod(cols) - kernel.shape[1], 0, math.prod(rows) - kernel.shape[0]))
        return list(decompose.tt_matrix(padded, rows, cols, rank, rel_error=rel_error, seed=seed, **options).factors)

    @classmethod
    def _assemble(cls, like: Any, factors: Sequence[Tensor], bias: Tensor | None) -> Self:
        return cls(like, factors)._become(like)

    @classmethod
    def macs(cls, layer: Any, rank: Any, output_size: Sequence[int] | None = None, **digits: Any) -> int:
        """Multiply-accumulates of one index: its slices of the cores multiplied from first to last."""
        shape = cls._shape_of(layer)
        stages, done, total = cls._stages(shape, rank, **cls._choose(shape, digits)), 1, 0
        for position, stage in enumerate(stages):
            left, _, n, right = stage.shape
            total += done * left * n * right if position else 0
            done *= n
        return total

    @classmethod
    def dense_macs(cls, layer: Any, output_size: Sequence[int] | None = None) -> int:
        """None: a table is looked up."""
        return 0

    def _rows(self, indices: Tensor) -> Tensor:
        first, *rest = self.factors()
        rows: Tensor = first[0]  # (prefixes, n_1 .. n_k, R_k)
        number = 1024 if is_tracing() else indices.shape[0]
        done, below, gathered = first.shape[2], math.prod(self.row_dims[1:]), False
        for core in rest:
            left, m, n, right = core.shape
            done *= n
            if not gathered and rows.shape[0] * m <= number:
                rows = torch.tensordot(rows, core, 1).transpose(1, 2).reshape(rows.shape[0] * m, done, right)
                below //= m
                continue
            if not gathered:
                rows, gathered = rows.index_select(0, indices // below), True
            below //= m
            slices = core.transpose(0, 1).reshape(m, left, n * right).index_select(0, indices // below % m)
            rows = torch.bmm(rows, slices).reshape(indices.shape[0], done, right)
        if not gathered:
            rows = rows.index_select(0, indices)
        return rows.reshape(indices.shape[0], done)[:, : self.embedding_dim]

    def _table(self) -> Tensor:
        return multiply_cores(self.factors())[: self.num_embeddings, : self.embedding_dim]
