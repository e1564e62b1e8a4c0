"""The third-order CPD in the middle of a chain: simultaneous diagonalisation from several starts, then ALS."""

from __future__ import annotations

import torch
from torch import Tensor


def third_order_cpd(
    core: Tensor, starts: int, generator: torch.Generator, *, max_iter: int = 50, tol: float = 1e-6
) -> tuple[Tensor, Tensor, Tensor]:
    """CPD of rank R of a core (R, N, R) whose first and third factors are invertible.

    Args:
        core: float64, on the CPU.
        starts: number of pairs of slice mixtures that are diagonalised; the best `starts` enter the ALS together.
        generator: draws the mixtures.
        max_iter: largest number of ALS sweeps.
        tol: the sweeps stop when none of the starts improves by more than this, relative to the core's norm.

    Returns:
        Factors (R, R), (N, R), (R, R); the first two have columns of unit norm.
    """
    a, p, b = diagonalise(core, starts, generator)
    a, p, b = _als(core, a, p, b, max_iter, tol)
    error = (torch.einsum("sir,snr,sjr->sinj", a, p, b) - core).flatten(1).norm(dim=1)
    best = int(error.nan_to_num(nan=torch.inf).argmin())
    return a[best], p[best], b[best]


def diagonalise(core: Tensor, starts: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Simultaneous diagonalisation (Leurgans, Ross and Abel 1993), once for each of `starts` pairs of mixtures.

    Two mixtures of the core's slices along its second mode, T_1 = A D_1 B^T and T_2 = A D_2 B^T with diagonal D, have
    T_1 T_2^-1 = A D_1 D_2^-1 A^-1: its eigenvectors are the first factor's columns. With the inverse of A known, one
    rank-one SVD a column gives the others. The first pair of mixtures is along the two leading singular vectors.

    Returns:
        First factors (starts, R, R), second (starts, N, R), third (starts, R, R).
    """
    mixtures = torch.randn(starts, 2, core.shape[1], generator=generator, dtype=core.dtype)
    leading = torch.linalg.svd(core.transpose(0, 1).flatten(1), full_matrices=False).U[:, :2].mT
    mixtures[0, : len(leading)] = leading
    pencil = torch.einsum("spn,inj->spij", mixtures, core)
    values, vectors = torch.linalg.eig(pencil[:, 0] @ torch.linalg.pinv(pencil[:, 1]))
    # Noise may make two eigenvalues a conjugate pair; the parts of its vectors span the same real plane.
    a = torch.where(values.imag[:, None, :] < 0, vectors.imag, vectors.real)
    a = a / a.norm(dim=1, keepdim=True)
    slices = torch.einsum("sri,inj->srnj", torch.linalg.pinv(a), core)
    p, b = leading_pair(slices)
    return a, p.mT, b.mT


def leading_pair(slices: Tensor) -> tuple[Tensor, Tensor]:
    """Best rank-one approximation u v^T of each matrix (..., N, M): u (..., N) of unit norm, v (..., M)."""
    u, s, vh = torch.linalg.svd(slices, full_matrices=False)
    return u[..., 0], s[..., :1] * vh[..., 0, :]


def _als(core: Tensor, a: Tensor, p: Tensor, b: Tensor, max_iter: int, tol: float) -> tuple[Tensor, Tensor, Tensor]:
    """ALS of all starts at once."""
    rank = core.shape[0]
    damping = 1e-14 * torch.eye(rank, dtype=core.dtype)
    square, before = core.square().sum(), torch.full((len(a),), torch.inf, dtype=core.dtype)
    first, second, third = core.flatten(1), core.transpose(0, 1).flatten(1), core.permute(2, 0, 1).flatten(1)

    def product(x: Tensor, y: Tensor) -> Tensor:
        return (x[:, :, None] * y[:, None]).flatten(1, 2)

    def solve(unfolded: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        right = unfolded @ product(x, y)
        gram = (x.mT @ x) * (y.mT @ y) + damping
        return torch.linalg.solve(gram, right.mT).mT, right

    for _ in range(max_iter):
        a, _ = solve(first, p, b)
        a = a / a.norm(dim=1, keepdim=True)
        p, _ = solve(second, a, b)
        p = p / p.norm(dim=1, keepdim=True)
        b, right = solve(third, a, p)
        error = (square - (b * right).flatten(1).sum(1)).clamp(min=0).sqrt() / square.sqrt()
        if not bool((error < before - tol).any()):
            break
        before = error
    return a, p, b
