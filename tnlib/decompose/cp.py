"""Canonical polyadic decomposition: one way in to every method."""

from __future__ import annotations

import math
from typing import Literal

import torch
from tensorly.cp_tensor import CPTensor
from torch import Tensor

from tnlib.decompose import _validate as validate
from tnlib.decompose.als import als, as_cp_tensor
from tnlib.decompose.correction import greedy_cp, norm_of_terms, smaller
from tnlib.decompose.coupled import coupled_cp
from tnlib.decompose.gauss_newton import DENSE
from tnlib.decompose.nls import nls

WARM = 20  # sweeps of ALS before NLS, where a step of NLS is dear: far from a solution they gain more in less time


def cp(
    tensor: Tensor,
    rank: int,
    *,
    method: Literal["als", "nls", "greedy", "coupled"] = "als",
    init: Literal["random", "svd"] = "random",
    restarts: int = 1,
    max_iter: int = 500,
    tol: float = 1e-8,
    rel_error: float = 0.0,
    max_norm: float | None = None,
    polish: Literal["als", "nls"] | None = None,
    merge_modes: bool = False,
    seed: int = 0,
) -> CPTensor:
    """Canonical polyadic decomposition (CPD, PARAFAC); `als` and `nls` return the best of `restarts` runs.

    Args:
        tensor: order Q, sizes N_1 .. N_Q.
        rank: number R of rank-one terms, at most the product of all sizes but the largest.
        method: `als` (Carroll and Chang 1970, Harshman 1970); each update is proximal, so that collinear columns
            cannot make it singular, and its fixed points are those of plain ALS. `nls` fits all factors at once by
            non-linear least squares, a damped Gauss-Newton method (Tomasi and Bro 2006): dearer steps, far fewer of
            them when columns are nearly collinear. With more than 1,500 unknowns its steps are solved for by
            conjugate gradients, and 20 sweeps of ALS go before. `greedy` takes one term after the other
            (`greedy_cp`). `coupled` needs no start: it goes through a tensor train (`coupled_cp`, which tells its
            conditions).
        init: (`als` and `nls`) normal random factors, or leading singular vectors of the unfoldings, filled up with
            random columns.
        restarts: number of runs, from seeds `seed`, `seed + 1`, ...; the one with the smallest error is returned.
        max_iter: largest number of sweeps (`als`) or steps (`nls`) of a run, or of the polish.
        tol: a run stops when a sweep, or two steps in a row, lower the error, relative to the tensor's norm, by less
            than this.
        rel_error: (`als` and `nls`) a run stops as soon as its error, relative to the tensor's norm, is at most this.
        max_norm: bound on the square root of the sum of squared norms of the terms, divided by the tensor's norm; a fit
            that exceeds it is corrected (`correct_cp`).
        polish: (`coupled`) fit the whole tensor by `als` or `nls`, starting from the chain's estimate.
        merge_modes: (`coupled`) join modes at the ends that are smaller than the rank.
        seed: decides everything random; the same call gives the same factors.

    Returns:
        `CPTensor` with weights (R,), descending, and factors (N_q, R) with columns of unit norm.

    Raises:
        ValueError: nan or infinite values, a rank that is out of range, an unknown method or init, fewer than one
            restart or iteration, an error outside [0, 1), weights too large for the input's dtype.
    """
    wide, exponent = validate.scaled(tensor)
    rank = validate.one_rank(rank, validate.max_cp_rank(wide.shape), "CP rank")
    if method not in ("als", "nls", "greedy", "coupled") or init not in ("random", "svd"):
        raise ValueError(
            f"unknown method {method!r} or init {init!r}; expected als, nls, greedy or coupled, and random or svd"
        )
    if restarts < 1 or max_iter < 1:
        raise ValueError(f"restarts and max_iter must be at least 1, got {restarts} and {max_iter}")
    if not 0 <= rel_error < 1 or (max_norm is not None and not max_norm > 0):
        raise ValueError(f"rel_error must lie in [0, 1) and max_norm be positive, got {rel_error} and {max_norm}")
    if method in ("greedy", "coupled"):
        if rel_error or max_norm is not None:
            raise ValueError(f"method {method} has no bounds: rel_error and max_norm belong to als and nls")
        if restarts != 1 or init != "random":
            raise ValueError(
                f"method {method} has no restarts and no init; coupled_cp takes starts for its middle core"
            )
    if method == "coupled":
        return coupled_cp(tensor, rank, polish=polish, merge_modes=merge_modes, max_iter=max_iter, tol=tol, seed=seed)
    if polish is not None or merge_modes:
        raise ValueError(f"polish and merge_modes belong to method coupled, not to {method}")
    if method == "greedy":
        return greedy_cp(tensor, rank, max_iter=max_iter, tol=tol, seed=seed)
    scale = float(wide.norm())
    if scale == 0:  # any unit columns will do
        return as_cp_tensor(_start(wide, rank, init, seed), scale, exponent, tensor.dtype)
    unit = wide / scale
    best: tuple[float, list[Tensor]] = (math.inf, [])
    for run in range(restarts):
        factors = _start(wide, rank, init, seed + run)
        if method == "als":
            found = als(unit, factors, max_iter, tol, rel_error)
        else:
            if rank * sum(wide.shape) > DENSE:
                factors = als(unit, factors, WARM, tol, rel_error)[1]
            found = nls(unit, factors, max_iter, tol, rel_error)
        best = min(best, found, key=lambda pair: pair[0])
        if best[0] <= rel_error:
            break
    factors = best[1]
    if max_norm is not None and norm_of_terms(factors) > max_norm:
        factors = smaller(unit, factors, None, max_norm, max_iter, tol)
    return as_cp_tensor(factors, scale, exponent, tensor.dtype)


def _start(wide: Tensor, rank: int, init: str, seed: int) -> list[Tensor]:
    """Initial factors; the randomness comes from the CPU, so that every device starts from the same ones."""
    generator = torch.Generator().manual_seed(seed)
    factors = [torch.randn(n, rank, generator=generator, dtype=torch.float64).to(wide.device) for n in wide.shape]
    if init == "svd":
        for q, factor in enumerate(factors):
            u = torch.linalg.svd(wide.movedim(q, 0).flatten(1), full_matrices=False).U[:, :rank]
            factor[:, : u.shape[1]] = u
    return factors
