"""Canonical polyadic decomposition by alternating least squares."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from tensorly.cp_tensor import CPTensor
from tensorly.tenalg import khatri_rao
from torch import Tensor

from tnlib.decompose import _validate as validate


def cp(
    tensor: Tensor,
    rank: int,
    *,
    method: Literal["als"] = "als",
    init: Literal["random", "svd"] = "random",
    restarts: int = 1,
    max_iter: int = 500,
    tol: float = 1e-8,
    seed: int = 0,
) -> CPTensor:
    """Canonical polyadic decomposition (CPD, PARAFAC) by alternating least squares, the best of `restarts` runs.

    Args:
        tensor: order Q, sizes N_1 .. N_Q.
        rank: number R of rank-one terms, at most the product of all sizes but the largest.
        method: `als` (Carroll and Chang 1970, Harshman 1970); each update is proximal, so that collinear columns
            cannot make it singular, and its fixed points are those of plain ALS.
        init: normal random factors, or leading singular vectors of the unfoldings, filled up with random columns.
        restarts: number of runs, from seeds `seed`, `seed + 1`, ...; the one with the smallest error is returned.
        max_iter: largest number of sweeps of a run.
        tol: a run stops when a sweep lowers the error, relative to the tensor's norm, by less than this.
        seed: decides everything random; the same call gives the same factors.

    Returns:
        `CPTensor` with weights (R,), descending, and factors (N_q, R) with columns of unit norm.

    Raises:
        ValueError: a rank that is out of range, an unknown method or init, fewer than one restart or sweep.
    """
    wide = validate.as_float64(tensor)
    rank = validate.one_rank(rank, validate.max_cp_rank(wide.shape), "CP rank")
    if method != "als" or init not in ("random", "svd"):
        raise ValueError(f"unknown method {method!r} or init {init!r}; expected method als, init random or svd")
    if restarts < 1 or max_iter < 1:
        raise ValueError(f"restarts and max_iter must be at least 1, got {restarts} and {max_iter}")
    scale = float(wide.norm()) or 1.0
    runs = [_als(wide / scale, _start(wide, rank, init, seed + run), max_iter, tol) for run in range(restarts)]
    factors = min(runs, key=lambda run: run[0])[1]
    norms = torch.stack([_norms(factor) for factor in factors])
    weights = torch.stack([factor.norm(dim=0) for factor in factors]).prod(0) * scale
    order = torch.argsort(weights, descending=True)
    unit = [(factor / norm)[:, order] for factor, norm in zip(factors, norms, strict=True)]
    return CPTensor((weights[order].to(tensor.dtype), [factor.to(tensor.dtype).contiguous() for factor in unit]))


def _start(wide: Tensor, rank: int, init: str, seed: int) -> list[Tensor]:
    """Initial factors; the randomness comes from the CPU, so that every device starts from the same ones."""
    generator = torch.Generator().manual_seed(seed)
    factors = [torch.randn(n, rank, generator=generator, dtype=torch.float64).to(wide.device) for n in wide.shape]
    if init == "svd":
        for q, factor in enumerate(factors):
            u = torch.linalg.svd(wide.movedim(q, 0).flatten(1), full_matrices=False).U[:, :rank]
            factor[:, : u.shape[1]] = u
    return factors


def _als(wide: Tensor, factors: list[Tensor], max_iter: int, tol: float) -> tuple[float, list[Tensor]]:
    """Sweep over the modes until the error settles; returns the error and the factors. `wide` has unit norm."""
    # Columns of unit norm keep the Gram matrices well scaled; the factor solved for last carries the terms' weights.
    heavy, before = 0, math.inf
    for q in range(1, wide.ndim):
        factors[q] = factors[q] / _norms(factors[q])
    grams = [factor.mT @ factor for factor in factors]
    damping = 1e-12 * torch.eye(factors[0].shape[1], dtype=wide.dtype, device=wide.device)
    for _ in range(max_iter):
        for q in range(wide.ndim):
            norms = _norms(factors[heavy])
            factors[heavy] = factors[heavy] / norms
            factors[q] = factors[q] * norms
            grams[heavy] = factors[heavy].mT @ factors[heavy]
            gram = torch.stack(grams[:q] + grams[q + 1 :]).prod(0)
            right = mttkrp(wide, factors, q) + damping[0, 0] * factors[q]
            factors[q] = torch.linalg.solve(gram + damping, right.mT).mT
            heavy = q
        error = float((wide.flatten(1) - factors[0] @ khatri_rao_all(factors[1:], len(damping), wide).mT).norm())
        if not error < before - tol:
            break
        before = error
    return error, factors


def _norms(factor: Tensor) -> Tensor:
    """Norms of a factor's columns; 1 for a column of zeros, so that one may divide by it."""
    norms = factor.norm(dim=0)
    return torch.where(norms > 0, norms, torch.ones_like(norms))


def mttkrp(tensor: Tensor, factors: Sequence[Tensor], mode: int) -> Tensor:
    """Matricized tensor times Khatri-Rao product: unfold(tensor, mode) @ khatri_rao(all factors but that mode's).

    The tensor is never permuted: one matrix product contracts some modes at its front or its back, batched products
    over the R columns contract the rest (after Phan, Tichavsky and Cichocki 2013, section III). The modes of the
    first product are those that keep its Khatri-Rao factor and its result smallest together.

    Args:
        tensor: sizes N_1 .. N_Q.
        factors: one of shape (N_q, R) for each mode; that of `mode` is not used.
        mode: the mode that stays.

    Returns:
        Tensor (N_mode, R).
    """
    shape, order, rank = tensor.shape, tensor.ndim, factors[0].shape[1]

    def size(split: int) -> int:
        return math.prod(shape[:split]) + math.prod(shape[split:])

    fronts, backs = range(1, mode + 1), range(mode + 1, order)
    split = min((*fronts, *backs), key=size)
    if split <= mode:  # contract the front: (R, N_split .. N_Q)
        partial = khatri_rao_all(factors[:split], rank, tensor).mT @ tensor.reshape(math.prod(shape[:split]), -1)
        before, after = factors[split:mode], factors[mode + 1 :]
    else:  # contract the back: (N_1 .. N_(split-1), R), then R first
        partial = (tensor.reshape(-1, math.prod(shape[split:])) @ khatri_rao_all(factors[split:], rank, tensor)).mT
        before, after = factors[:mode], factors[mode + 1 : split]
    left, right = khatri_rao_all(before, rank, tensor), khatri_rao_all(after, rank, tensor)
    partial = partial.reshape(-1, len(left), shape[mode], len(right))
    if len(left) > len(right):
        return torch.einsum("rns,sr->nr", torch.einsum("rlns,lr->rns", partial, left), right)
    return torch.einsum("rln,lr->nr", torch.einsum("rlns,sr->rln", partial, right), left)


def khatri_rao_all(factors: Sequence[Tensor], rank: int, like: Tensor) -> Tensor:
    """Khatri-Rao product of any number of factors (N_q, R): a row of ones for none of them."""
    if len(factors) < 2:
        return factors[0] if factors else torch.ones(1, rank, dtype=like.dtype, device=like.device)
    product: Tensor = khatri_rao(list(factors))
    return product
