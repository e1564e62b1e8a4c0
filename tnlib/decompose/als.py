"""Alternating least squares for the canonical polyadic decomposition, and the form in which every method returns it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import torch
from tensorly.cp_tensor import CPTensor
from torch import Tensor

from tnlib.decompose import _validate as validate
from tnlib.decompose.mttkrp import balanced_split, contract_all_but, contract_back, contract_front, cp_residual

Update = Callable[
    [Tensor, Tensor, Tensor], Tensor
]  # (Gram matrix, matricized tensor times Khatri-Rao, old): new factor


def als(
    wide: Tensor, factors: Sequence[Tensor], max_iter: int, tol: float, rel_error: float = 0.0
) -> tuple[float, list[Tensor]]:
    """Sweep over the modes until the error settles; returns the error and the factors. `wide` has unit norm.

    Ends after `max_iter` sweeps, or after one that lowers the error by less than `tol` or to `rel_error`.
    """
    before = math.inf
    for found in islice(sweeps(wide, factors, _least_squares), max_iter):
        error = float(cp_residual(wide, found).norm())
        if error <= rel_error or not error < before - tol:
            break
        before = error
    return error, found


def sweeps(wide: Tensor, factors: Sequence[Tensor], update: Update) -> Iterator[list[Tensor]]:
    """Update one factor after the other, without end; yields all factors after each round.

    The factor that is updated carries the norms of the terms, the others have columns of unit norm. A sweep reads the
    tensor twice, whatever its order: once for each of two groups of modes, whose partial contraction serves all modes
    of the group.
    """
    factors = list(factors)
    heavy = 0
    for q in range(1, wide.ndim):
        factors[q] = factors[q] / column_norms(factors[q])
    grams = [factor.mT @ factor for factor in factors]
    split = balanced_split(wide.shape)
    while True:
        for first, last in ((0, split), (split, wide.ndim)):
            # The partial contraction must not hold the heavy factor's norms: they move to the group that is updated.
            norms = column_norms(factors[heavy])
            factors[heavy] = factors[heavy] / norms
            grams[heavy] = factors[heavy].mT @ factors[heavy]
            factors[first] = factors[first] * norms
            heavy = first
            partial = contract_back(wide, factors, split) if first == 0 else contract_front(wide, factors, split)
            for q in range(first, last):
                norms = column_norms(factors[heavy])
                factors[heavy] = factors[heavy] / norms
                factors[q] = factors[q] * norms
                grams[heavy] = factors[heavy].mT @ factors[heavy]
                gram = torch.stack(grams[:q] + grams[q + 1 :]).prod(0)
                factors[q] = update(gram, contract_all_but(partial, factors[first:last], q - first), factors[q])
                heavy = q
        yield list(factors)


def _least_squares(gram: Tensor, right: Tensor, old: Tensor) -> Tensor:
    """Of least error; proximal, so that collinear columns cannot make it singular."""
    damping = 1e-12
    diagonal = damping * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    solution: Tensor = torch.linalg.solve(gram + diagonal, (right + damping * old).mT)
    return solution.mT


def column_norms(factor: Tensor) -> Tensor:
    """Norms of a factor's columns; 1 for a column of zeros, so that one may divide by it."""
    norms = factor.norm(dim=0)
    return torch.where(norms > 0, norms, torch.ones_like(norms))


def as_cp_tensor(factors: Sequence[Tensor], scale: float, exponent: int, dtype: torch.dtype) -> CPTensor:
    """Factors as a `CPTensor`: columns of unit norm, weights non-negative and descending, times scale 2^exponent."""
    weights = torch.stack([factor.norm(dim=0) for factor in factors]).prod(0) * scale
    order = torch.argsort(weights, descending=True)
    # A column of zeros, whose term has the weight 0, becomes one of equal entries.
    unit = [torch.where(factor.any(0), factor / column_norms(factor), len(factor) ** -0.5) for factor in factors]
    weights = validate.narrowed(weights[order], dtype, exponent)
    return CPTensor((weights, [validate.narrowed(factor[:, order], dtype) for factor in unit]))
