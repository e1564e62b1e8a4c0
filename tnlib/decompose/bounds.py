"""Cramer-Rao bounds of the canonical polyadic decomposition in white Gaussian noise."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from tnlib.decompose import _validate as validate
from tnlib.decompose.als import column_norms
from tnlib.decompose.gauss_newton import GaussNewton


def cp_dimension(shape: Sequence[int], rank: int) -> int:
    """The number of free parameters of a generic tensor of CP rank R: the rank of the Jacobian by the factors.

    R (N_1 + .. + N_Q - Q + 1), since each of R terms has Q-1 scalings to spare. Two things cap it: the number of
    entries, and each unfolding, a matrix N_q x M whose rank is at most R, which has R (N_q + M - R) parameters. (For
    order 2 this cap always binds; for higher orders only when one mode is larger than the others together allow.) The
    few other defective shapes, like (3, 3, 2k+1) with rank 3k+1 or (3, 3, 3) with rank 5 as symmetric ones, are not
    looked for.
    """
    entries = math.prod(shape)
    unfoldings = [rank * (n + entries // n - rank) for n in shape if rank < min(n, entries // n)]
    return min(entries, rank * (sum(shape) - len(shape) + 1), *unfoldings)


def cp_bound(shape: Sequence[int], rank: int, snr_db: float) -> float:
    """Cramer-Rao bound on the normalised mean squared error of a tensor estimated through its CPD.

    With X of CP rank R, generic factors, and white Gaussian noise N of variance sigma^2, no unbiased estimator of X has
    E ||X_hat - X||^2 / ||X||^2 below sigma^2 rank(J) / ||X||^2, J being the Jacobian of X by the factors. Notebook 05
    derives it.

    Args:
        shape: N_1 .. N_Q.
        rank: R.
        snr_db: 10 log10(||X||^2 / E ||N||^2), so that sigma^2 = ||X||^2 10^(-snr_db/10) / (N_1 .. N_Q).

    Returns:
        10^(-snr_db/10) rank(J) / (N_1 .. N_Q), of at most 10^(-snr_db/10), which is the noisy tensor's own error.

    Raises:
        ValueError: a shape of fewer than two modes or with a size below 1; a rank that is out of range.
    """
    sizes = tuple(int(n) for n in shape)
    if len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(f"expected a shape of two or more modes of size 1 or more, got {tuple(shape)}")
    rank = validate.one_rank(rank, validate.max_cp_rank(sizes), "CP rank")
    return float(10 ** (-snr_db / 10) * cp_dimension(sizes, rank) / math.prod(sizes))


def cp_factor_bounds(factors: Sequence[Tensor], snr_db: float) -> Tensor:
    """Cramer-Rao bound on the mean squared error of every factor's columns, brought to unit norm.

    Args:
        factors: (N_q, R) for each mode, the true ones, with the weights in any of them.
        snr_db: as for `cp_bound`.

    Returns:
        (Q, R): the bound on E ||p_hat - p||^2 of column r of factor q, both of unit norm, sign and permutation known.

    Raises:
        ValueError: factors of different numbers of columns, with a column of zeros, with nan or infinite values.
    """
    # The bound does not depend on how large the factors are.
    wide = [validate.scaled(factor, order=2)[0] for factor in factors]
    rank = wide[0].shape[1]
    if {factor.shape[1] for factor in wide} != {rank} or any(bool((f == 0).all(0).any()) for f in wide):
        raise ValueError("expected factors with equally many columns, none of them zero")
    energy = torch.stack([factor.mT @ factor for factor in wide]).prod(0).sum()
    sigma2 = float(energy) * 10 ** (-snr_db / 10) / math.prod(len(factor) for factor in wide)
    # The scalings inside a term cannot be told: the pseudo-inverse leaves them out, and unit columns do not see them.
    covariance = sigma2 * torch.linalg.pinv(GaussNewton(wide).matrix(), rtol=1e-12, hermitian=True)
    bounds, start = [], 0
    for factor in wide:
        size = len(factor)
        block = covariance[start : start + factor.numel(), start : start + factor.numel()]
        by_column = block.reshape(size, rank, size, rank).diagonal(dim1=1, dim2=3).permute(2, 0, 1)
        norms = column_norms(factor)
        unit = (factor / norms).mT
        across = torch.eye(size, dtype=factor.dtype, device=factor.device) - unit[:, :, None] * unit[:, None, :]
        bounds.append((across @ by_column).diagonal(dim1=1, dim2=2).sum(1) / norms.square())
        start += factor.numel()
    return torch.stack(bounds)
