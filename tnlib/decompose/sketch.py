"""Leading singular triplets of large matrices from a random sketch of their range."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Sketch = Literal["auto"] | bool

OVERSAMPLING, POWER_ITERATIONS = 10, 2
LARGE = 2**22  # entries up to which `auto` decomposes a matrix or a tensor by plain SVDs


def plain_up_to(sketch: Sketch, auto: int = LARGE) -> float:
    """The number of entries up to which SVDs are plain, `auto` being that of "auto"; ValueError for another word."""
    if sketch not in ("auto", True, False):
        raise ValueError(f"sketch must be 'auto', True or False, got {sketch!r}")
    return {True: 0, False: math.inf, "auto": auto}[sketch]


def is_worth_a_sketch(matrix: Tensor, rank: int) -> bool:
    """Whether the rank is so far below the matrix's sizes that a sketch is much cheaper than an SVD."""
    return min(matrix.shape) > 2 * (rank + OVERSAMPLING)


def sketched_svd(matrix: Tensor, rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """U (m, R), S (R,), Vh (R, n) of a matrix's range on R + 10 random vectors, with two power iterations.

    Halko, Martinsson and Tropp 2011, algorithms 4.4 and 5.1; exact when the matrix has rank R, and its error is near
    the smallest one otherwise. Beside the matrix it takes memory for a few (m + n) x (R + 10) numbers.
    """
    random = torch.randn(matrix.shape[1], rank + OVERSAMPLING, generator=generator, dtype=matrix.dtype)
    basis = torch.linalg.qr(matrix @ random.to(matrix.device)).Q
    for _ in range(POWER_ITERATIONS):
        # `(basis.mT @ matrix).mT` is `matrix.mT @ basis`, but faster: the large matrix is read row by row.
        basis = torch.linalg.qr(matrix @ torch.linalg.qr((basis.mT @ matrix).mT).Q).Q
    u, s, v = thin_svd(basis.mT @ matrix)
    return (basis @ u)[:, :rank], s[:rank], v[:, :rank].mT


def thin_svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Thin SVD with the right vectors as columns, of the orthogonal-triangular factor when that is much smaller."""
    rows, columns = matrix.shape
    if columns > 4 * rows:
        q, r = torch.linalg.qr(matrix.mT)
        u, s, vh = torch.linalg.svd(r.mT, full_matrices=False)
        return u, s, q @ vh.mT
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    return u, s, vh.mT
