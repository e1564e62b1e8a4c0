"""Canonical polyadic decomposition: one way in to every method."""

from __future__ import annotations

from typing import Literal

import torch
from tensorly.cp_tensor import CPTensor
from torch import Tensor

from tnlib.decompose import _validate as validate
from tnlib.decompose.als import als, as_cp_tensor
from tnlib.decompose.coupled import coupled_cp
from tnlib.decompose.nls import nls


def cp(
    tensor: Tensor,
    rank: int,
    *,
    method: Literal["als", "nls", "coupled"] = "als",
    init: Literal["random", "svd"] = "random",
    restarts: int = 1,
    max_iter: int = 500,
    tol: float = 1e-8,
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
            them when columns are nearly collinear. `coupled` needs no start: it goes through a tensor train
            (`coupled_cp`, which tells its conditions).
        init: (`als` and `nls`) normal random factors, or leading singular vectors of the unfoldings, filled up with
            random columns.
        restarts: number of runs, from seeds `seed`, `seed + 1`, ...; the one with the smallest error is returned.
        max_iter: largest number of sweeps (`als`) or steps (`nls`) of a run, or of the polish.
        tol: a run stops when a sweep, or two steps in a row, lower the error, relative to the tensor's norm, by less
            than this.
        polish: (`coupled`) fit the whole tensor by `als` or `nls`, starting from the chain's estimate.
        merge_modes: (`coupled`) join modes at the ends that are smaller than the rank.
        seed: decides everything random; the same call gives the same factors.

    Returns:
        `CPTensor` with weights (R,), descending, and factors (N_q, R) with columns of unit norm.

    Raises:
        ValueError: nan or infinite values, a rank that is out of range, an unknown method or init, fewer than one
            restart or iteration, weights too large for the input's dtype.
    """
    wide, exponent = validate.scaled(tensor)
    rank = validate.one_rank(rank, validate.max_cp_rank(wide.shape), "CP rank")
    if method not in ("als", "nls", "coupled") or init not in ("random", "svd"):
        raise ValueError(
            f"unknown method {method!r} or init {init!r}; expected method als, nls or coupled, init random or svd"
        )
    if restarts < 1 or max_iter < 1:
        raise ValueError(f"restarts and max_iter must be at least 1, got {restarts} and {max_iter}")
    if method == "coupled":
        if restarts != 1 or init != "random":
            raise ValueError("method coupled has no restarts and no init; coupled_cp takes starts for its middle core")
        return coupled_cp(tensor, rank, polish=polish, merge_modes=merge_modes, max_iter=max_iter, tol=tol, seed=seed)
    if polish is not None or merge_modes:
        raise ValueError(f"polish and merge_modes belong to method coupled, not to {method}")
    fit = als if method == "als" else nls
    scale = float(wide.norm())
    if scale == 0:  # any unit columns will do
        return as_cp_tensor(_start(wide, rank, init, seed), scale, exponent, tensor.dtype)
    runs = [fit(wide / scale, _start(wide, rank, init, seed + run), max_iter, tol) for run in range(restarts)]
    return as_cp_tensor(min(runs, key=lambda run: run[0])[1], scale, exponent, tensor.dtype)


def _start(wide: Tensor, rank: int, init: str, seed: int) -> list[Tensor]:
    """Initial factors; the randomness comes from the CPU, so that every device starts from the same ones."""
    generator = torch.Generator().manual_seed(seed)
    factors = [torch.randn(n, rank, generator=generator, dtype=torch.float64).to(wide.device) for n in wide.shape]
    if init == "svd":
        for q, factor in enumerate(factors):
            u = torch.linalg.svd(wide.movedim(q, 0).flatten(1), full_matrices=False).U[:, :rank]
            factor[:, : u.shape[1]] = u
    return factors
