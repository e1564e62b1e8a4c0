"""Canonical polyadic decomposition by non-linear least squares: a damped Gauss-Newton method."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tnlib.decompose.als import column_norms
from tnlib.decompose.gauss_newton import GaussNewton
from tnlib.decompose.mttkrp import cp_residual, mttkrp_all


def nls(
    wide: Tensor, factors: Sequence[Tensor], max_iter: int, tol: float, rel_error: float = 0.0
) -> tuple[float, list[Tensor]]:
    """Levenberg-Marquardt steps until the error settles; returns the error and the factors. `wide` has unit norm.

    The Jacobian J of the residual by all factors is never formed: J^T J comes from Gram matrices (`GaussNewton`), the
    gradient is one `mttkrp_all` of the residual. The damping follows Nielsen 1999. A run ends after `max_iter` steps,
    after two in a row that lower the error by less than `tol`, at `rel_error`, or when no step lowers it.
    """
    factors, sizes = balance(factors), [len(factor) for factor in factors]
    residual = cp_residual(wide, factors)
    error, normal = float(residual.norm()), GaussNewton(factors)
    damping, growth, idle = 1e-3 * float(normal.others.diagonal(dim1=1, dim2=2).max()), 2.0, 0
    for _ in range(max_iter):
        downhill = torch.cat(mttkrp_all(residual, factors))
        if error <= rel_error or float(downhill.norm()) < 1e-15:
            break
        step = normal.step(downhill, damping)
        # Of the model's decrease 1/2 <step, downhill + damping step>, and of the real one.
        predicted = float((step * (downhill + damping * step)).sum()) / 2
        moved = [factor + part for factor, part in zip(factors, step.split(sizes), strict=True)]
        trial = cp_residual(wide, moved)
        trial_error = float(trial.norm())
        gain = (error**2 - trial_error**2) / 2 / max(predicted, 1e-300)
        if trial_error < error:
            idle = idle + 1 if error - trial_error < tol else 0
            factors, residual, error = balance(moved), trial, trial_error
            normal = GaussNewton(factors)
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
