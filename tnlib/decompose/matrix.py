"""The singular value decomposition, the decomposition on which the others stand."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tnlib.decompose import _validate as validate
from tnlib.decompose.sketch import Sketch, is_worth_a_sketch, plain_up_to, sketched_svd


class TruncatedSVD(NamedTuple):
    """Leading singular triplets: U (m, R) and Vh (R, n) orthonormal, S (R,) descending."""

    U: Tensor
    S: Tensor
    Vh: Tensor

    def to_matrix(self) -> Tensor:
        """The (m, n) matrix U diag(S) Vh."""
        return (self.U * self.S) @ self.Vh


def svd(
    matrix: Tensor,
    rank: int | None = None,
    *,
    rel_error: float | None = None,
    sketch: Sketch = "auto",
    seed: int = 0,
) -> TruncatedSVD:
    """Best low-rank approximation of a matrix in the Frobenius norm (Eckart and Young 1936).

    Args:
        matrix: shape (m, n), real.
        rank: number of singular triplets kept, at most min(m, n).
        rel_error: instead of `rank`, the largest Frobenius error relative to the matrix's norm.
        sketch: with a rank, find the leading triplets of a matrix of more than 2 R + 20 rows and columns by a
            randomized SVD (Halko, Martinsson and Tropp 2011), whose error is near the best one; `auto`: where there
            are more than 2^22 entries. With `rel_error` the SVD is always plain.
        seed: of the sketch.

    Returns:
        `TruncatedSVD`, the signs fixed so that the largest entry of each left vector is positive.

    Raises:
        ValueError: a rank that is out of range, both or neither of rank and rel_error, an unknown `sketch`,
            nan or infinite values, singular values too large for the input's dtype.
    """
    wide, exponent = validate.scaled(matrix, order=2)
    validate.check_rank_or_error(rank, rel_error)
    if rank is not None:
        rank = validate.one_rank(rank, min(wide.shape), "rank")
    large = wide.numel() > plain_up_to(sketch)
    if rank is not None and large and is_worth_a_sketch(wide, rank):
        u, s, vh = sketched_svd(wide, rank, torch.Generator().manual_seed(seed))
    else:
        u, s, vh = torch.linalg.svd(wide, full_matrices=False)
    if rank is None:
        assert rel_error is not None
        rank = validate.tail_rank(s, rel_error * float(wide.norm()))
    u, s, vh = u[:, :rank], s[:rank], vh[:rank]
    signs = torch.where(u.gather(0, u.abs().argmax(0, keepdim=True)) < 0, -1.0, 1.0).to(u)
    u, vh = (validate.narrowed(part, matrix.dtype) for part in (u * signs, vh * signs.mT))
    return TruncatedSVD(u, validate.narrowed(s, matrix.dtype, exponent), vh)
