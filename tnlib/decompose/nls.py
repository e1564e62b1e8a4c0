"""Canonical polyadic decomposition by non-linear least squares: a damped Gauss-Newton method."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tnlib.decompose.als import column_norms
from tnlib.decompose.mttkrp import cp_residual, mttkrp_all

DENSE = 1500  # unknowns up to which the normal equations are solved by a Cholesky factorization


def nls(wide: Tensor, factors: Sequence[Tensor], max_iter: int, tol: float) -> tuple[float, list[Tensor]]:
    """Levenberg-Marquardt steps until the error settles; returns the error and the factors. `wide` has unit norm.

    The Jacobian J of the residual by all factors is never formed. J^T J has a closed form in the factors' Gram
    matrices (Tomasi and Bro 2006; Sorber, Van Barel and De Lathauwer 2013); the gradient is one `mttkrp_all` of the
    residual. With up to 1,500 unknowns J^T J is factorized, with more the step comes from conjugate gradients
    preconditioned by its diagonal blocks. The damping follows Nielsen 1999. A run ends after two steps in a row that
    lower the error by less than `tol`, or when no step lowers it.
    """
    factors = balance(factors)
    residual = cp_residual(wide, factors)
    error = float(residual.norm())
    damping, growth, idle = 1e-3 * float(torch.stack([g.diagonal().max() for g in _others(factors)]).max()), 2.0, 0
    for _ in range(max_iter):
        downhill = mttkrp_all(residual, factors)
        if math.sqrt(sum(float(part.square().sum()) for part in downhill)) < 1e-15:
            break
        step = _step(factors, downhill, damping)
        # Of the model's decrease 1/2 <step, downhill + damping step>, and of the real one.
        predicted = sum(float((s * (d + damping * s)).sum()) for s, d in zip(step, downhill, strict=True)) / 2
        moved = [factor + s for factor, s in zip(factors, step, strict=True)]
        trial = cp_residual(wide, moved)
        trial_error = float(trial.norm())
        gain = (error**2 - trial_error**2) / 2 / max(predicted, 1e-300)
        if trial_error < error:
            idle = idle + 1 if error - trial_error < tol else 0
            factors, residual, error = balance(moved), trial, trial_error
            damping, growth = max(damping * max(1 / 3, 1 - (2 * gain - 1) ** 3), 1e-14), 2.0
        else:
            damping, growth = damping * growth, 2 * growth
        if idle >= 2 or damping > 1e12:
            break
    return error, factors


def balance(factors: Sequence[Tensor]) -> list[Tensor]:
    """The same rank-one terms, each with columns of the same norm in all modes."""
    norms = torch.stack([column_norms(factor) for factor in factors])
    alive = torch.stack([(factor != 0).any(0) for factor in factors]).all(0)
    common = torch.where(alive, norms.log().mean(0).exp(), torch.zeros_like(norms[0]))
    return [factor / norm * common for factor, norm in zip(factors, norms, strict=True)]


def _others(factors: Sequence[Tensor]) -> list[Tensor]:
    """For each mode the Hadamard product of the other modes' Gram matrices, (R, R)."""
    grams = [factor.mT @ factor for factor in factors]
    return [torch.stack(grams[:q] + grams[q + 1 :]).prod(0) for q in range(len(grams))]


def _pairs(factors: Sequence[Tensor]) -> dict[tuple[int, int], Tensor]:
    """For each pair of modes the Hadamard product of the Gram matrices of the modes outside it, (R, R)."""
    grams = [factor.mT @ factor for factor in factors]
    ones = torch.ones_like(grams[0])
    return {
        (q, p): torch.stack([ones, *grams[:q], *grams[q + 1 : p], *grams[p + 1 :]]).prod(0)
        for q in range(len(grams))
        for p in range(q + 1, len(grams))
    }


def gauss_newton_matrix(factors: Sequence[Tensor]) -> Tensor:
    """J^T J of the tensor's entries by all factors, from Gram matrices alone.

    Args:
        factors: (N_q, R) for each mode, with the weights in them.

    Returns:
        (n, n) with n = R (N_1 + .. + N_Q); the unknowns in the order of the factors, each row by row.
    """
    sizes, rank = [len(factor) for factor in factors], factors[0].shape[1]
    starts = [rank * sum(sizes[:q]) for q in range(len(sizes) + 1)]
    matrix = factors[0].new_zeros(starts[-1], starts[-1])
    for q, gram in enumerate(_others(factors)):
        eye = torch.eye(sizes[q], dtype=gram.dtype, device=gram.device)
        matrix[starts[q] : starts[q + 1], starts[q] : starts[q + 1]] = torch.kron(eye, gram)
    for (q, p), gram in _pairs(factors).items():
        # d x / d a_q(i,r) and d x / d a_p(j,s) meet in a_q(i,s) a_p(j,r) times the other modes' Gram entry (r,s).
        block = torch.einsum("is,jr,rs->irjs", factors[q], factors[p], gram).reshape(rank * sizes[q], -1)
        matrix[starts[q] : starts[q + 1], starts[p] : starts[p + 1]] = block
        matrix[starts[p] : starts[p + 1], starts[q] : starts[q + 1]] = block.mT
    return matrix


def gauss_newton_product(factors: Sequence[Tensor]) -> Callable[[Sequence[Tensor]], list[Tensor]]:
    """The map of a direction (one tensor a factor) to J^T J times it, without that matrix."""
    others, pairs = _others(factors), _pairs(factors)

    def product(direction: Sequence[Tensor]) -> list[Tensor]:
        result = [d @ gram for d, gram in zip(direction, others, strict=True)]
        for (q, p), gram in pairs.items():
            result[q] = result[q] + factors[q] @ (gram * (factors[p].mT @ direction[p])).mT
            result[p] = result[p] + factors[p] @ (gram * (factors[q].mT @ direction[q])).mT
        return result

    return product


def _step(factors: Sequence[Tensor], downhill: Sequence[Tensor], damping: float) -> list[Tensor]:
    """The solution of (J^T J + damping I) step = downhill."""
    sizes = [factor.numel() for factor in factors]
    if sum(sizes) <= DENSE:
        matrix = gauss_newton_matrix(factors)
        matrix.diagonal().add_(damping)
        right = torch.cat([part.flatten() for part in downhill])
        lower, info = torch.linalg.cholesky_ex(matrix)
        if int(info) == 0:
            solution = torch.cholesky_solve(right[:, None], lower)[:, 0]
        else:  # rounding made it indefinite
            solution = torch.linalg.lstsq(matrix, right[:, None], driver="gelsd").solution[:, 0]
        return [part.reshape(f.shape) for part, f in zip(solution.split(sizes), factors, strict=True)]
    return _conjugate_gradients(factors, downhill, damping)


def _conjugate_gradients(
    factors: Sequence[Tensor], downhill: Sequence[Tensor], damping: float, max_iter: int = 100, tol: float = 1e-6
) -> list[Tensor]:
    """The same solution by conjugate gradients, preconditioned by the diagonal blocks."""
    product = gauss_newton_product(factors)
    eye = torch.eye(factors[0].shape[1], dtype=factors[0].dtype, device=factors[0].device)
    blocks = [torch.linalg.inv(gram + (damping + 1e-14) * eye) for gram in _others(factors)]

    def dot(x: Sequence[Tensor], y: Sequence[Tensor]) -> float:
        return sum(float((a * b).sum()) for a, b in zip(x, y, strict=True))

    step, rest = [torch.zeros_like(part) for part in downhill], list(downhill)
    scaled = [part @ block for part, block in zip(rest, blocks, strict=True)]
    direction, energy = scaled, dot(rest, scaled)
    goal = tol**2 * energy
    for _ in range(max_iter):
        image = [part + damping * d for part, d in zip(product(direction), direction, strict=True)]
        curvature = dot(direction, image)
        if not energy > goal or curvature <= 0:
            break
        length = energy / curvature
        step = [s + length * d for s, d in zip(step, direction, strict=True)]
        rest = [r - length * i for r, i in zip(rest, image, strict=True)]
        scaled = [part @ block for part, block in zip(rest, blocks, strict=True)]
        before, energy = energy, dot(rest, scaled)
        direction = [z + energy / before * d for z, d in zip(scaled, direction, strict=True)]
    return step
