"""Tensor trains of tensors (TT-SVD) and of matrices with paired row and column indices."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from tensorly.tt_matrix import TTMatrix
from tensorly.tt_tensor import TTTensor
from torch import Tensor

from tnlib.decompose import _validate as validate
from tnlib.decompose.sketch import LARGE, Sketch, plain_up_to
from tnlib.decompose.train import find_train


def tt(
    tensor: Tensor,
    rank: int | Sequence[int] | None = None,
    *,
    rel_error: float | None = None,
    sketch: Sketch = "auto",
    seed: int = 0,
) -> TTTensor:
    """Tensor train by successive SVDs, TT-SVD (Oseledets 2011, algorithm 1).

    Args:
        tensor: order Q of at least 2, sizes N_1 .. N_Q.
        rank: R_1 .. R_(Q-1), or one integer for all of them (cut to each largest useful one).
        rel_error: instead of `rank`, a bound on the Frobenius error relative to the tensor's norm; each of the Q-1
            truncations may then spend rel_error / sqrt(Q-1) of it.
        sketch: with a rank, cut the tensor in two halves of about equal size by a randomized SVD (Halko, Martinsson
            and Tropp 2011), then the halves: in much less time, and in the memory of one float64 copy of the tensor and
            little more. The error is near that of TT-SVD, and none where the tensor has these ranks. `auto`: where
            there are more than 2^22 entries. With `rel_error` all SVDs are plain.
        seed: of the sketch.

    Returns:
        `TTTensor` whose factors have shape (R_(q-1), N_q, R_q) with R_0 = R_Q = 1; all but the last are
        left-orthogonal.

    Raises:
        ValueError: a rank that is out of range (the message names the largest useful one), an unknown `sketch`, nan or
            infinite values, a last core with numbers too large for the input's dtype.
    """
    wide, exponent = validate.scaled(tensor, contiguous=True)
    *cores, last = _train(wide, rank, rel_error, sketch, seed)
    last = validate.narrowed(last, tensor.dtype, exponent)
    return TTTensor([*(validate.narrowed(core, tensor.dtype) for core in cores), last])


def _train(
    wide: Tensor, rank: int | Sequence[int] | None, rel_error: float | None, sketch: Sketch, seed: int
) -> list[Tensor]:
    """The cores, float64."""
    validate.check_rank_or_error(rank, rel_error)
    large, shape = wide.numel() > plain_up_to(sketch), tuple(wide.shape)
    ranks = None if rank is None else validate.many_ranks(rank, validate.max_tt_ranks(shape), "TT rank")
    if large and ranks is not None:
        wanted, useful = _cut_ranks(ranks, shape)
        return _widened(find_train(wide, useful, sketch, seed, auto=LARGE), wanted)
    cores, left = [], 1
    threshold = (rel_error or 0.0) * float(wide.norm()) / math.sqrt(max(1, len(shape) - 1))
    rest = wide
    for q, size in enumerate(shape[:-1]):
        u, s, vh = torch.linalg.svd(rest.reshape(left * size, -1), full_matrices=False)
        kept = validate.tail_rank(s, threshold) if ranks is None else min(ranks[q], len(s))
        cores.append(u[:, :kept].reshape(left, size, kept))
        rest, left = s[:kept, None] * vh[:kept], kept
    return [*cores, rest.reshape(left, shape[-1], 1)]


def _cut_ranks(ranks: Sequence[int], shape: Sequence[int]) -> tuple[list[int], list[int]]:
    """Ranks cut to R_q <= R_(q-1) N_q, as TT-SVD cuts them, and cut to R_q <= N_(q+1) R_(q+1) too."""
    cut, left = [], 1
    for rank, size in zip(ranks, shape, strict=False):
        left = min(rank, left * size)
        cut.append(left)
    useful, right = [], 1
    for rank, size in zip(reversed(cut), reversed(shape), strict=False):
        right = min(rank, right * size)
        useful.append(right)
    return cut, useful[::-1]


def _widened(cores: list[Tensor], ranks: Sequence[int]) -> list[Tensor]:
    """The same train with larger ranks, its left-orthogonal cores completed by columns that the next core ignores."""
    result, left = [], 1
    for core, rank in zip(cores, (*ranks, 1), strict=True):
        core = F.pad(core, (0, 0, 0, 0, 0, left - core.shape[0]))
        if core.shape[2] < rank:
            more = torch.linalg.qr(core.flatten(0, 1), mode="complete").Q[:, core.shape[2] : rank]
            core = torch.cat([core, more.reshape(*core.shape[:2], -1)], 2)
        result.append(core)
        left = rank
    return result


def tt_matrix(
    matrix: Tensor,
    row_dims: Sequence[int],
    col_dims: Sequence[int],
    rank: int | Sequence[int] | None = None,
    *,
    rel_error: float | None = None,
    sketch: Sketch = "auto",
    seed: int = 0,
) -> TTMatrix:
    """TT-matrix: row and column indices are split into d digits each and paired, digit by digit.

    Args:
        matrix: shape (prod(row_dims), prod(col_dims)).
        row_dims: d row digits m_k, most significant first.
        col_dims: d column digits n_k, likewise.
        rank: as for `tt`, of the tensor of sizes m_k n_k.
        rel_error: as for `tt`.
        sketch: as for `tt`.
        seed: of the sketch.

    Returns:
        `TTMatrix` whose factors have shape (R_(k-1), m_k, n_k, R_k) (Novikov et al. 2015, equation 4).

    Raises:
        ValueError: digits that do not multiply to the matrix's shape, a bad rank, an unknown `sketch`.
    """
    validate.check_tensor(matrix, order=2)
    rows, cols = tuple(row_dims), tuple(col_dims)
    if len(rows) != len(cols) or (math.prod(rows), math.prod(cols)) != tuple(matrix.shape):
        raise ValueError(
            f"row_dims {rows} and col_dims {cols} must be equally many and multiply to the shape {tuple(matrix.shape)}"
        )
    d, modes = len(rows), [m * n for m, n in zip(rows, cols, strict=True)]
    paired = [axis for k in range(d) for axis in (k, d + k)]
    # Copied once, in the order of the pairs: a large matrix is not to stand in memory more often.
    wide, exponent = validate.scaled(matrix.reshape(*rows, *cols).permute(paired), contiguous=True)
    *cores, last = _train(wide.reshape(modes), rank, rel_error, sketch, seed)
    cores = [validate.narrowed(core, matrix.dtype) for core in cores]
    factors = [*cores, validate.narrowed(last, matrix.dtype, exponent)]
    return TTMatrix([g.reshape(g.shape[0], m, n, g.shape[2]) for g, m, n in zip(factors, rows, cols, strict=True)])
