"""Embeddings on factors of their table, and the one of a truncated SVD; only the rows asked for are computed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from tnlib import decompose
from tnlib.contract import without_autocast
from tnlib.decompose import _validate as validate
from tnlib.layers.factorized import Factorized
from tnlib.layers.ranks import Errors
from tnlib.layers.spectra import matrix_errors
from tnlib.layers.stages import Mode, Stage, own_parameter


class FactorizedEmbedding(Factorized):
    """An `nn.Embedding` on factors of its table (num_embeddings, embedding_dim); base class of the formats.

    The row of `padding_idx` is zero and stays zero: nothing of its output's gradient reaches a factor.
    """

    replaces = (nn.Embedding,)
    modes = ("in", "out")
    attributes: ClassVar[tuple[str, ...]] = ("num_embeddings", "embedding_dim", "padding_idx", "max_norm", "norm_type")
    scale_grad_by_freq = sparse = False
    num_embeddings: int
    embedding_dim: int
    padding_idx: int | None

    @classmethod
    def _shape_of(cls, layer: Any) -> tuple[int, ...]:
        shape = super()._shape_of(layer)
        options = {name: getattr(layer, name) for name in ("max_norm", "scale_grad_by_freq", "sparse")}
        given = [f"{name}={value}" for name, value in options.items() if value not in (None, False)]
        if given:
            raise ValueError(f"cannot factorize an nn.Embedding with {', '.join(given)}: factors belong to many rows")
        return shape

    @classmethod
    def from_layer(cls, layer: Any, rank: Any = None, **options: Any) -> Self:
        """As for every format; ValueError also for a row of padding_idx that is not zero, or options of the table."""
        cls._shape_of(layer)
        if layer.padding_idx is not None and bool(layer.weight[layer.padding_idx].any()):
            raise ValueError(
                f"the row of padding_idx={layer.padding_idx} is not zero, and a factorized one always is; "
                "set it to zero, or padding_idx to None"
            )
        return super().from_layer(layer, rank, **options)

    def forward(self, input: Tensor) -> Tensor:
        """Map indices of any shape to (*shape, embedding_dim); IndexError for one out of range."""
        if input.dtype not in (torch.int64, torch.int32):
            raise TypeError(f"indices must be int64 or int32, got {input.dtype}")
        flat = input.reshape(-1)
        # Looked up in a row of so many zeros without memory, an index out of range fails as in `nn.Embedding`.
        flat = flat + flat.new_zeros(1).expand(self.num_embeddings).index_select(0, flat)
        with without_autocast(input.device.type):  # as `nn.Embedding` does not take part in it
            rows = self._rows(flat)
        if self.padding_idx is not None:
            rows = rows.masked_fill((flat == self.padding_idx)[:, None], 0.0)
        return rows.reshape(*input.shape, self.embedding_dim)

    def _rows(self, indices: Tensor) -> Tensor:
        """Rows of the table for indices (N,), shape (N, embedding_dim)."""
        raise NotImplementedError

    def _table(self) -> Tensor:
        """The table before the row of `padding_idx` is zeroed."""
        raise NotImplementedError

    def dense_weight(self) -> Tensor:
        """The (num_embeddings, embedding_dim) table that the factors multiply out to; differentiable."""
        table = self._table()
        if self.padding_idx is None:
            return table
        padding = torch.arange(self.num_embeddings, device=table.device) == self.padding_idx
        return table.masked_fill(padding[:, None], 0.0)

    def extra_repr(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}, rank={self.rank}"


class SVDEmbedding(FactorizedEmbedding):
    """A table of R columns, then a linear layer: truncated SVD of the table.

    Rank: one integer, at most min(num_embeddings, embedding_dim). `factors()` are the table (num_embeddings, R) and the
    linear layer's weight (embedding_dim, R).
    """

    format = "svd"

    def __init__(self, layer: nn.Embedding, table: Tensor, linear: Tensor) -> None:
        super().__init__()
        like: dict[str, Any] = {"device": layer.weight.device, "dtype": layer.weight.dtype}
        rows, rank = table.shape
        self.table = nn.utils.skip_init(nn.Embedding, rows, rank, **like)
        self.linear = nn.utils.skip_init(nn.Linear, rank, layer.embedding_dim, bias=False, **like)
        self.table.weight, self.linear.weight = own_parameter(table, layer.weight), own_parameter(linear, layer.weight)

    def factors(self) -> list[nn.Parameter]:
        """The table's weight, the linear layer's."""
        return [self.table.weight, self.linear.weight]

    @classmethod
    def _limits(cls, shape: Sequence[int], **digits: Any) -> int:
        return min(shape)

    @classmethod
    def _stages(cls, shape: Sequence[int], rank: Any, **digits: Any) -> list[Stage]:
        rank = validate.one_rank(rank, min(shape), "rank")
        return [Stage((shape[0], rank), 1), Stage((shape[1], rank), rank)]

    @classmethod
    def _factor(cls, kernel: Tensor, rank: Any, rel_error: float | None, seed: int, **options: Any) -> list[Tensor]:
        u, s, vh = decompose.svd(kernel, rank, rel_error=rel_error, seed=seed, **options)
        return [u * s, vh.mT]

    @classmethod
    def errors(cls, kernel: Tensor) -> Errors:
        """Ranks, and the squared errors they leave of the float64 weight."""
        return matrix_errors(kernel)

    @classmethod
    def _rank_of(cls, factors: Sequence[Tensor]) -> int:
        return int(factors[0].shape[1])

    @classmethod
    def _assemble(cls, like: Any, factors: Sequence[Tensor], bias: Tensor | None) -> Self:
        return cls(like, *factors)._become(like)

    @classmethod
    def _square_norm(cls, factors: Sequence[Tensor]) -> float:
        table, linear = (torch.linalg.qr(factor).R for factor in factors)
        return float((table @ linear.mT).square().sum())

    @classmethod
    def macs(cls, layer: Any, rank: Any, output_size: Sequence[int] | None = None, **digits: Any) -> int:
        """Multiply-accumulates of one index."""
        return math.prod(cls._stages(cls._shape_of(layer), rank)[1].shape)

    @classmethod
    def dense_macs(cls, layer: Any, output_size: Sequence[int] | None = None) -> int:
        """None: a table is looked up."""
        return 0

    @classmethod
    def multiply_mode(cls, factors: Sequence[Tensor], mode: Mode, matrix: Tensor) -> list[Tensor]:
        """Along `in`, the embeddings, or `out`, their features."""
        if mode not in ("in", "out"):
            raise ValueError(f"mode must be 'in' or 'out', got {mode!r}")
        table, linear = factors
        return [matrix.to(table) @ table, linear] if mode == "in" else [table, matrix.to(linear) @ linear]

    def _rows(self, indices: Tensor) -> Tensor:
        rows: Tensor = self.linear(self.table(indices))
        return rows

    def _table(self) -> Tensor:
        table: Tensor = self.table.weight @ self.linear.weight.mT
        return table
