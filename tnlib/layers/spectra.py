"""What is lost at every rank, from one decomposition: the curves of the formats that have a closed form."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import tensorly as tl
import torch
from torch import Tensor

from tnlib.layers.ranks import Errors, Ranks, max_tucker_ranks, useful_tucker_ranks

MANY = 400  # ranks of a matrix's curve, at most
PAIRS = 1000  # combinations of a Tucker decomposition's ranks, at most


def matrix_errors(matrix: Tensor) -> Errors:
    """Ranks of truncated SVDs and the squared Frobenius errors they leave (Eckart and Young 1936).

    The squared singular values are the eigenvalues of the smaller Gram matrix: accurate to rounding of the whole, and
    much cheaper than an SVD. Of more than 400 ranks every so many.
    """
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT
    squares = torch.linalg.eigvalsh(wide @ wide.mT).flip(0).clamp_min(0)
    tails = squares.flip(0).cumsum(0).flip(0) - squares  # what is cut off behind each
    ranks = ladder(len(squares), MANY)
    return list(ranks), tails[torch.tensor(ranks) - 1]


def tucker_errors(kernel: Tensor, modes: int | None = None) -> Errors:
    """Ranks of truncated HOSVDs of the first `modes` modes (by default all) and the squared errors they leave.

    All come from one core: the bases are orthonormal, so that a truncated core keeps what its entries' squares sum to
    (De Lathauwer et al. 2000). Where there are many ranks, every so many of each mode.
    """
    number = kernel.ndim if modes is None else modes
    core = kernel
    for mode in range(number):
        unfolded = tl.unfold(kernel, mode)
        basis = torch.linalg.eigh(unfolded @ unfolded.mT).eigenvectors.flip(1)
        core = torch.tensordot(basis.mT, core, ([1], [mode])).movedim(0, mode)
    kept = core.square().flatten(number).sum(-1) if number < kernel.ndim else core.square()
    for mode in range(number):
        kept = kept.cumsum(mode)
    total = kernel.square().sum()
    steps = _steps(max_tucker_ranks(kernel.shape, number))
    ranks: list[Ranks] = [r for r in itertools.product(*steps) if useful_tucker_ranks(r, kernel.shape, number) == r]
    places = torch.tensor(ranks) - 1
    return ranks, (total - kept[tuple(places.unbind(1))]).clamp_min(0)


def ladder(limit: int, count: int) -> list[int]:
    """All integers from 1 to `limit`, or `count` of them spread evenly, `limit` among them."""
    if limit <= count:
        return list(range(1, limit + 1))
    return sorted({round(k * limit / count) for k in range(1, count + 1)})


def _steps(sizes: Sequence[int]) -> list[list[int]]:
    """A ladder for each mode, so that there are at most `PAIRS` combinations; small modes are not thinned."""
    count = max(sizes)
    while count > 2:
        steps = [ladder(size, count if size > 8 else size) for size in sizes]
        if torch.tensor([len(step) for step in steps]).prod() <= PAIRS:
            return steps
        count -= 1
    return [ladder(size, count if size > 8 else size) for size in sizes]
