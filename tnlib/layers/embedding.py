"""Embeddings on the factors of a truncated SVD or of a TT-matrix; only the rows asked for are computed."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tnlib import decompose
from tnlib.decompose import _validate as validate
from tnlib.layers.digits import paired_dims
from tnlib.layers.ranks import useful_tt_ranks

# From so many indices on it pays to look for repeated ones: sorting a thousand indices takes some tens of microseconds.
_MANY = 256


class FactorizedEmbedding(nn.Module, ABC):
    """An `nn.Embedding` on factors of its table; base class of the formats, made with `from_layer` or `fresh`.

    The row of `padding_idx` is zero and stays zero: nothing of its output's gradient reaches a factor.
    """

    format: ClassVar[str]

    def __init__(self, layer: nn.Embedding) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = layer.num_embeddings, layer.embedding_dim
        self.padding_idx = layer.padding_idx

    @abstractmethod
    def _table(self) -> Tensor:
        """The table before the row of `padding_idx` is zeroed."""

    def dense_weight(self) -> Tensor:
        """The (num_embeddings, embedding_dim) table that the factors multiply out to; differentiable."""
        table = self._table()
        if self.padding_idx is None:
            return table
        padding = torch.arange(self.num_embeddings, device=table.device) == self.padding_idx
        return table.masked_fill(padding[:, None], 0.0)

    def extra_repr(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}"


class SVDEmbedding(FactorizedEmbedding):
    """A table of R columns, then a linear layer: truncated SVD, the singular values shared evenly.

    Rank: one integer, at most min(num_embeddings, embedding_dim).
    """

    format = "svd"

    def __init__(self, layer: nn.Embedding, table: Tensor, linear: Tensor) -> None:
        """From `table` (num_embeddings, R) and `linear` (embedding_dim, R)."""
        super().__init__(layer)
        like: dict[str, Any] = {"device": layer.weight.device, "dtype": layer.weight.dtype}
        rows, rank = table.shape
        # Given to the inner table, `padding_idx` keeps its row zero, and with it the output: there is no bias.
        self.table = nn.utils.skip_init(nn.Embedding, rows, rank, padding_idx=layer.padding_idx, **like)
        self.linear = nn.utils.skip_init(nn.Linear, rank, layer.embedding_dim, bias=False, **like)
        with torch.no_grad():
            self.table.weight.copy_(table)
            self.linear.weight.copy_(linear)
            if layer.padding_idx is not None:
                self.table.weight[layer.padding_idx] = 0.0
        self.requires_grad_(layer.weight.requires_grad).train(layer.training)

    @property
    def rank(self) -> int:
        """Columns of the table."""
        return int(self.table.embedding_dim)

    @classmethod
    def from_layer(cls, layer: nn.Embedding, rank: int) -> Self:
        """Decompose a layer's table; padding_idx, dtype, device and train/eval mode carry over.

        Raises:
            TypeError: another kind of layer.
            ValueError: a rank out of range; max_norm, scale_grad_by_freq or sparse; a row of padding_idx that is not
                zero.
        """
        _check(cls, layer, pretrained=True)
        u, s, vh = decompose.svd(layer.weight.detach().double(), rank)
        root = s.sqrt()
        return cls(layer, u * root, vh.mT * root)

    @classmethod
    def fresh(cls, layer: nn.Embedding, rank: int, *, gain: float = 1.0, seed: int = 0) -> Self:
        """Random factors: the table normal with variance 1, the linear layer's weight with gain**2 / R.

        Entries of `dense_weight` then have variance gain**2, like a fresh `nn.Embedding`'s with gain 1.
        """
        _check(cls, layer, pretrained=False)
        rank = validate.one_rank(rank, cls.max_rank(layer.weight.shape), "rank")
        generator = torch.Generator().manual_seed(seed)
        table = torch.randn(layer.num_embeddings, rank, generator=generator, dtype=torch.float64)
        linear = torch.randn(layer.embedding_dim, rank, generator=generator, dtype=torch.float64)
        return cls(layer, table, linear * gain / math.sqrt(rank))

    @staticmethod
    def max_rank(weight_shape: Sequence[int]) -> int:
        """The largest useful rank for a table of shape (num_embeddings, embedding_dim)."""
        return min(weight_shape)

    def forward(self, indices: Tensor) -> Tensor:
        """Map indices of any shape to (*shape, embedding_dim); IndexError as from `nn.Embedding`."""
        _check_indices(indices, self.num_embeddings)
        rows: Tensor = self.linear(self.table(indices))
        return rows

    def _table(self) -> Tensor:
        table: Tensor = self.table.weight @ self.linear.weight.mT
        return table


class TTEmbedding(FactorizedEmbedding):
    """An embedding whose table is a TT-matrix (Hrinchuk et al. 2020); rank R_1 .. R_(d-1), or one integer for all.

    `cores[k]` has shape (R_(k-1), m_k, n_k, R_k), the digits m multiplying to num_embeddings, the digits n to
    embedding_dim, or to more: the table is then padded with zeros and cut.

    A row is a product of one slice of each core. `forward` finds the digits of each index; the leading cores are
    multiplied out for all their digits while that takes no more rows than there are indices, the others for the
    indices asked for only. Where there are many indices, repeated ones are computed once.
    """

    format = "tt"

    def __init__(self, layer: nn.Embedding, cores: Sequence[Tensor]) -> None:
        super().__init__(layer)
        self.cores = nn.ParameterList(nn.Parameter(core.detach().to(layer.weight, copy=True)) for core in cores)
        self.row_dims = tuple(core.shape[1] for core in cores)
        self.col_dims = tuple(core.shape[2] for core in cores)
        self.requires_grad_(layer.weight.requires_grad).train(layer.training)

    @property
    def rank(self) -> tuple[int, ...]:
        """TT ranks R_1 .. R_(d-1)."""
        return tuple(core.shape[3] for core in list(self.cores)[:-1])

    @classmethod
    def from_layer(
        cls,
        layer: nn.Embedding,
        rank: int | Sequence[int],
        *,
        row_dims: Sequence[int] | None = None,
        col_dims: Sequence[int] | None = None,
    ) -> Self:
        """Decompose a layer's table by TT-SVD; padding_idx, dtype, device and train/eval mode carry over.

        Args:
            layer: an `nn.Embedding`.
            rank: R_1 .. R_(d-1), or one integer for all, cut to each largest useful one.
            row_dims: digits of num_embeddings, most significant first; by default as many as `col_dims` has, or three.
            col_dims: digits of embedding_dim.

        Raises:
            TypeError: another kind of layer.
            ValueError: digits that multiply to too little, a rank out of range; max_norm, scale_grad_by_freq or
                sparse; a row of padding_idx that is not zero.
        """
        _check(cls, layer, pretrained=True)
        rows, cols = paired_dims(layer.num_embeddings, layer.embedding_dim, row_dims, col_dims)
        table = layer.weight.detach().double()
        padding = (0, math.prod(cols) - table.shape[1], 0, math.prod(rows) - table.shape[0])
        return cls(layer, decompose.tt_matrix(F.pad(table, padding), rows, cols, rank).factors)

    @classmethod
    def fresh(
        cls,
        layer: nn.Embedding,
        rank: int | Sequence[int],
        *,
        gain: float = 1.0,
        seed: int = 0,
        row_dims: Sequence[int] | None = None,
        col_dims: Sequence[int] | None = None,
    ) -> Self:
        """Random cores: core k normal with variance 1 / R_(k-1), the terms that it sums, the last one's gain**2 more.

        Entries of `dense_weight` then have variance gain**2, like a fresh `nn.Embedding`'s with gain 1.
        """
        _check(cls, layer, pretrained=False)
        rows, cols = paired_dims(layer.num_embeddings, layer.embedding_dim, row_dims, col_dims)
        ranks = (1, *useful_tt_ranks(rank, [m * n for m, n in zip(rows, cols, strict=True)]), 1)
        generator, cores = torch.Generator().manual_seed(seed), []
        for k, (m, n) in enumerate(zip(rows, cols, strict=True)):
            scale = (gain if k == len(rows) - 1 else 1.0) / math.sqrt(ranks[k])
            cores.append(scale * torch.randn(ranks[k], m, n, ranks[k + 1], generator=generator, dtype=torch.float64))
        return cls(layer, cores)

    @staticmethod
    def max_rank(
        weight_shape: Sequence[int], *, row_dims: Sequence[int] | None = None, col_dims: Sequence[int] | None = None
    ) -> tuple[int, ...]:
        """The largest useful ranks for a table of shape (num_embeddings, embedding_dim)."""
        size, features = weight_shape
        rows, cols = paired_dims(size, features, row_dims, col_dims)
        return decompose.max_tt_ranks([m * n for m, n in zip(rows, cols, strict=True)])

    def forward(self, indices: Tensor) -> Tensor:
        """Map indices of any shape to (*shape, embedding_dim); IndexError for one out of range."""
        _check_indices(indices, self.num_embeddings)
        flat = indices.reshape(-1)
        # How many different indices there are is not known to a compiler.
        if len(flat) >= _MANY and not torch.compiler.is_compiling():
            different, where = flat.unique(return_inverse=True)
            rows = self._rows(different).index_select(0, where)
        else:
            rows = self._rows(flat)
        return rows.reshape(*indices.shape, self.embedding_dim)

    def _rows(self, indices: Tensor) -> Tensor:
        """Rows of the table for indices (N,), shape (N, embedding_dim)."""
        first, *rest = list(self.cores)
        rows: Tensor = first[0]  # (prefixes, n_1 .. n_k, R_k)
        done = first.shape[2]
        below = math.prod(self.row_dims[1:])
        gathered = False
        for core in rest:
            left, m, n, right = core.shape
            done *= n
            if not gathered and len(rows) * m <= len(indices):
                rows = torch.tensordot(rows, core, 1).transpose(1, 2).reshape(len(rows) * m, done, right)
                below //= m
                continue
            if not gathered:
                rows, gathered = rows.index_select(0, indices // below), True
            below //= m
            slices = core.transpose(0, 1).reshape(m, left, n * right).index_select(0, indices // below % m)
            rows = torch.bmm(rows, slices).reshape(len(indices), done, right)
        if not gathered:
            rows = rows.index_select(0, indices)
        rows = rows.reshape(len(indices), done)[:, : self.embedding_dim]
        if self.padding_idx is None:
            return rows
        return rows.masked_fill((indices == self.padding_idx)[:, None], 0.0)

    def _table(self) -> Tensor:
        table: Tensor = self.cores[0][0]
        for core in list(self.cores)[1:]:
            table = torch.einsum("mnr,rijb->minjb", table, core).flatten(2, 3).flatten(0, 1)
        return table[: self.num_embeddings, : self.embedding_dim, 0]

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self.row_dims} x {self.col_dims}, rank={self.rank}"


def _check(cls: type[FactorizedEmbedding], layer: object, *, pretrained: bool) -> None:
    """An `nn.Embedding` without the options that factors cannot keep."""
    if not isinstance(layer, nn.Embedding):
        raise TypeError(f"{cls.__name__} replaces nn.Embedding, got {type(layer).__name__}")
    options = {name: getattr(layer, name) for name in ("max_norm", "scale_grad_by_freq", "sparse")}
    set_ones = [f"{name}={value}" for name, value in options.items() if value not in (None, False)]
    if set_ones:
        raise ValueError(f"cannot factorize an nn.Embedding with {', '.join(set_ones)}: factors belong to many rows")
    if pretrained and layer.padding_idx is not None and bool(layer.weight[layer.padding_idx].any()):
        raise ValueError(
            f"the row of padding_idx={layer.padding_idx} is not zero, and a factorized one always is; "
            "set it to zero, or padding_idx to None"
        )


def _check_indices(indices: Tensor, size: int) -> None:
    if indices.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"indices must be int64 or int32, got {indices.dtype}")
    if torch.compiler.is_compiling() or not indices.numel():
        return
    low, high = (int(bound) for bound in torch.aminmax(indices))
    if low < 0 or high >= size:
        raise IndexError(f"index {low if low < 0 else high} is out of range for {size} embeddings")
