"""Tensor trains of tensors (TT-SVD) and of matrices with paired row and column indices."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from tensorly.tt_matrix import TTMatrix
from tensorly.tt_tensor import TTTensor
from torch import Tensor

from tnlib.decompose import _validate as validate


def tt(tensor: Tensor, rank: int | Sequence[int] | None = None, *, rel_error: float | None = None) -> TTTensor:
    """Tensor train by successive SVDs, TT-SVD (Oseledets 2011, algorithm 1).

    Args:
        tensor: order Q of at least 2, sizes N_1 .. N_Q.
        rank: R_1 .. R_(Q-1), or one integer for all of them (cut to each largest useful one).
        rel_error: instead of `rank`, a bound on the Frobenius error relative to the tensor's norm; each of the Q-1
            truncations may then spend rel_error / sqrt(Q-1) of it.

    Returns:
        `TTTensor` whose factors have shape (R_(q-1), N_q, R_q) with R_0 = R_Q = 1; all but the last are
        left-orthogonal.

    Raises:
        ValueError: a rank that is out of range (the message names the largest useful one), nan or infinite values, a
            last core with numbers too large for the input's dtype.
    """
    wide, exponent = validate.scaled(tensor)
    validate.check_rank_or_error(rank, rel_error)
    shape, cores, left = tuple(wide.shape), [], 1
    ranks = None if rank is None else validate.many_ranks(rank, validate.max_tt_ranks(shape), "TT rank")
    threshold = (rel_error or 0.0) * float(wide.norm()) / math.sqrt(len(shape) - 1)
    rest = wide
    for q, size in enumerate(shape[:-1]):
        u, s, vh = torch.linalg.svd(rest.reshape(left * size, -1), full_matrices=False)
        kept = validate.tail_rank(s, threshold) if ranks is None else min(ranks[q], len(s))
        cores.append(u[:, :kept].reshape(left, size, kept))
        rest, left = s[:kept, None] * vh[:kept], kept
    last = validate.narrowed(rest.reshape(left, shape[-1], 1), tensor.dtype, exponent)
    return TTTensor([*(validate.narrowed(core, tensor.dtype) for core in cores), last])


def tt_matrix(
    matrix: Tensor,
    row_dims: Sequence[int],
    col_dims: Sequence[int],
    rank: int | Sequence[int] | None = None,
    *,
    rel_error: float | None = None,
) -> TTMatrix:
    """TT-matrix: row and column indices are split into d digits each and paired, digit by digit.

    Args:
        matrix: shape (prod(row_dims), prod(col_dims)).
        row_dims: d row digits m_k, most significant first.
        col_dims: d column digits n_k, likewise.
        rank: as for `tt`, of the tensor of sizes m_k n_k.
        rel_error: as for `tt`.

    Returns:
        `TTMatrix` whose factors have shape (R_(k-1), m_k, n_k, R_k) (Novikov et al. 2015, equation 4).

    Raises:
        ValueError: digits that do not multiply to the matrix's shape, or a bad rank.
    """
    wide, exponent = validate.scaled(matrix, order=2)
    rows, cols = tuple(row_dims), tuple(col_dims)
    if len(rows) != len(cols) or (math.prod(rows), math.prod(cols)) != tuple(matrix.shape):
        raise ValueError(
            f"row_dims {rows} and col_dims {cols} must be equally many and multiply to the shape {tuple(matrix.shape)}"
        )
    validate.check_rank_or_error(rank, rel_error)
    d = len(rows)
    if d == 1:
        validate.many_ranks(() if rank is None else rank, (), "TT rank")
        return TTMatrix([validate.narrowed(wide[None, :, :, None], matrix.dtype, exponent)])
    paired = [axis for k in range(d) for axis in (k, d + k)]
    tensor = matrix.reshape(*rows, *cols).permute(paired).reshape([m * n for m, n in zip(rows, cols, strict=True)])
    train = tt(tensor, rank, rel_error=rel_error)
    return TTMatrix(
        [g.reshape(g.shape[0], m, n, g.shape[2]) for g, m, n in zip(train.factors, rows, cols, strict=True)]
    )
