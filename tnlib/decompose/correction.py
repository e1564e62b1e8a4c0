"""CP decompositions whose terms are small, or few at a time: error-preserving correction, and the greedy method."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import islice

import torch
from tensorly.cp_tensor import CPTensor
from torch import Tensor

from tnlib.decompose import _validate as validate
from tnlib.decompose.als import als, as_cp_tensor, column_norms, sweeps
from tnlib.decompose.mttkrp import cp_residual


def correct_cp(
    tensor: Tensor,
    found: CPTensor,
    *,
    rel_error: float | None = None,
    max_norm: float | None = None,
    max_iter: int = 500,
    tol: float = 1e-4,
) -> CPTensor:
    """A CPD of the same rank with smaller terms, by alternating updates (after Phan, Sobolev et al. 2020).

    Each update has a closed form: a factor by ridge regression, its one parameter by bisection. The sum of squared
    norms of the terms never rises (`rel_error`), or the error never does once the norms are small enough (`max_norm`).

    Args:
        tensor: order Q, sizes N_1 .. N_Q.
        found: a CPD of it, to start from; factors (N_q, R).
        rel_error: the error, relative to the tensor's norm, that the result may have, of which it has the smallest
            terms found. By default that of `found`: an error-preserving correction.
        max_norm: instead, the square root of the sum of squared norms of the terms, divided by the tensor's norm, that
            the result may have; at least 1 / sqrt(R) is useful. Of such CPDs it has the smallest error found.
        max_iter: largest number of rounds over the modes.
        tol: it ends when a round changes what is being lowered by less than this, relatively.

    Raises:
        ValueError: factors that do not fit the tensor, both bounds, or a bound out of range.
    """
    wide, exponent = validate.scaled(tensor)
    scale = float(wide.norm())
    if tuple(len(factor) for factor in found.factors) != tuple(wide.shape):
        shape = tuple(len(factor) for factor in found.factors)
        raise ValueError(f"the factors make a tensor of shape {shape}, not {tuple(wide.shape)}")
    if rel_error is not None and max_norm is not None:
        raise ValueError("give rel_error or max_norm, not both")
    if rel_error is not None and not 0 < rel_error < 1:
        raise ValueError(f"rel_error must lie in (0, 1), got {rel_error}")
    if max_norm is not None and not max_norm > 0:
        raise ValueError(f"max_norm must be positive, got {max_norm}")
    if scale == 0:
        return as_cp_tensor([f.double() * 0 for f in found.factors], scale, exponent, tensor.dtype)
    unit, factors = wide / scale, _absorbed(found, scale, exponent)
    if rel_error is None and max_norm is None:
        rel_error = float(cp_residual(unit, factors).norm())
    return as_cp_tensor(smaller(unit, factors, rel_error, max_norm, max_iter, tol), scale, exponent, tensor.dtype)


def smaller(
    unit: Tensor, factors: list[Tensor], rel_error: float | None, max_norm: float | None, max_iter: int, tol: float
) -> list[Tensor]:
    """The rounds of `correct_cp` for a tensor of norm one; one of the two bounds is given."""
    if rel_error is not None:
        goal = rel_error**2
        update = _ridge(lambda *ridge: _error(*ridge) <= goal, largest=True)
    else:
        bound = float(max_norm or 0) ** 2
        update = _ridge(lambda *ridge: _size(*ridge) <= bound, largest=False)
    before = math.inf
    for corrected in islice(sweeps(unit, factors, update), max_iter):
        factors = corrected
        lowered = norm_of_terms(factors) if rel_error is not None else float(cp_residual(unit, factors).norm())
        if not lowered < before * (1 - tol):
            break
        before = lowered
    return factors


def greedy_cp(tensor: Tensor, rank: int, *, max_iter: int = 100, tol: float = 1e-6, seed: int = 0) -> CPTensor:
    """CPD term by term: the best rank-one approximation found of what the terms before it have left.

    What Lebedev et al. 2015 compare their fit with. For matrices it is the SVD; for tensors a best approximation of
    rank R does not contain one of rank R - 1, so that the terms fixed first are the wrong ones.

    Args, result and errors: as for `cp`; `max_iter` and `tol` are those of a term's alternating least squares.
    """
    wide, exponent = validate.scaled(tensor)
    rank = validate.one_rank(rank, validate.max_cp_rank(wide.shape), "CP rank")
    scale, generator = float(wide.norm()), torch.Generator().manual_seed(seed)
    rest, terms = wide / (scale or 1.0), []
    for _ in range(rank):
        size = float(rest.norm()) or 1.0
        start = [torch.randn(n, 1, generator=generator, dtype=torch.float64).to(wide.device) for n in wide.shape]
        _, term = als(rest / size, start, max_iter, tol)
        term[0] = term[0] * size
        rest = cp_residual(rest, term)
        terms.append(term)
    factors = [torch.cat(columns, 1) for columns in zip(*terms, strict=True)]
    return as_cp_tensor(factors, scale, exponent, tensor.dtype)


def norm_of_terms(factors: list[Tensor]) -> float:
    """Square root of the sum of squared norms of the rank-one terms."""
    return float(torch.stack([factor.norm(dim=0) for factor in factors]).prod(0).norm())


def _absorbed(found: CPTensor, scale: float, exponent: int) -> list[Tensor]:
    """Factors of the tensor at norm one, in float64, the weights in the first."""
    factors = [factor.detach().double() for factor in found.factors]
    if found.weights is not None:
        factors[0] = factors[0] * (found.weights.double() * 2.0**-exponent / scale)
    norms = [column_norms(factor) for factor in factors[1:]]
    return [factors[0] * torch.stack(norms).prod(0), *(f / n for f, n in zip(factors[1:], norms, strict=True))]


def _error(strength: float, energy: Tensor, values: Tensor) -> float:
    """Squared error of ridge regression; the tensor has norm 1."""
    return 1 - float((energy * (values + 2 * strength) / (values + strength).square()).sum())


def _size(strength: float, energy: Tensor, values: Tensor) -> float:
    """Squared norm of the factor that ridge regression gives."""
    return float((energy / (values + strength).square()).sum())


def _ridge(allowed: Callable[[float, Tensor, Tensor], bool], *, largest: bool) -> Callable[..., Tensor]:
    """The update right (gram + strength I)^-1, with the largest, or smallest, strength that is allowed."""

    def update(gram: Tensor, right: Tensor, old: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(gram)
        values = values.clamp(min=0)
        rotated = right @ vectors
        energy = rotated.square().sum(0)
        low, high = -14.0, 4.0  # powers of ten: the Gram matrix has a diagonal of ones
        if allowed(10**low, energy, values) is not largest:
            strength = 10**low  # nothing to lower, or a bound that holds anyway
            return old if largest else (rotated / (values + strength)) @ vectors.mT
        for _ in range(50):
            middle = (low + high) / 2
            if allowed(10**middle, energy, values) is largest:
                low = middle
            else:
                high = middle
        solution: Tensor = (rotated / (values + 10 ** (low if largest else high))) @ vectors.mT
        return solution

    return update
