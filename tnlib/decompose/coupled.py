"""Canonical polyadic decomposition by a train of coupled third-order ones; notebook 05 derives it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from tensorly.cp_tensor import CPTensor
from torch import Tensor

from tnlib.decompose import _validate as validate
from tnlib.decompose.als import als, as_cp_tensor, column_norms
from tnlib.decompose.mttkrp import contract_all_but
from tnlib.decompose.nls import nls
from tnlib.decompose.sketch import Sketch
from tnlib.decompose.third_order import leading_pair, third_order_cpd
from tnlib.decompose.train import Canonical, canonical, find_train, mirrored

TWO_FACTOR_SWEEPS = 20


def coupled_cp(
    tensor: Tensor,
    rank: int,
    *,
    middle: int | None = None,
    starts: int = 5,
    step: Literal["closed", "als"] = "closed",
    polish: Literal["als", "nls"] | None = None,
    merge_modes: bool = False,
    sketch: Sketch = "auto",
    max_iter: int = 500,
    tol: float = 1e-8,
    seed: int = 0,
) -> CPTensor:
    """CPD of a tensor of order 3 or more through its tensor train (after Zniyed, Boyer, de Almeida and Favier 2020).

    A tensor train of ranks R is found. Its core q is itself a third-order CPD, I x_0 M_(q-1) x_1 A_q x_2 M_q^-T, with
    matrices M that neighbours share. One middle core is decomposed; from there the chain goes outwards, each core
    giving its own factor and the next M, and each end its factor by a solve.

    Two cores need nothing of A_q but columns that are not zero: only the first and last factor must have R independent
    columns, and the middle one no two collinear columns.

    Args:
        tensor: order Q of at least 3, sizes N_1 .. N_Q.
        rank: number R of rank-one terms, at most N_1 and N_Q.
        middle: the mode, 1 to Q-2, whose core is decomposed first. By default the central one; the others are tried,
            and the best is kept, when its error is larger than the noise explains.
        starts: pairs of slice mixtures that are diagonalised for the first guess of the middle core's CPD.
        step: `closed` takes the next factor and M by one rank-one SVD a column; `als` fits both to the core by
            alternating least squares, the M before it being fixed.
        polish: `als` or `nls` fits the whole tensor, starting from the chain's estimate.
        merge_modes: when the first or last modes are smaller than R, join as many of them as it takes, and split each
            column of their common factor again, as a tensor of rank one.
        sketch: as for `coupled_tucker`.
        max_iter: largest number of sweeps or steps of the polish.
        tol: the polish stops when one lowers the error, relative to the tensor's norm, by less than this.
        seed: decides everything random.

    Returns:
        `CPTensor` with weights (R,), descending, and factors (N_q, R) with columns of unit norm.

    Raises:
        ValueError: a condition of the chain fails (the message says which, and what to do); an unknown option.
    """
    wide, exponent = validate.scaled(tensor)
    rank = validate.one_rank(rank, validate.max_cp_rank(wide.shape), "CP rank")
    if step not in ("closed", "als") or polish not in (None, "als", "nls"):
        raise ValueError(f"unknown step {step!r} or polish {polish!r}; expected step closed or als, polish als or nls")
    if starts < 1 or max_iter < 1:
        raise ValueError(f"starts and max_iter must be at least 1, got {starts} and {max_iter}")
    scale = float(wide.norm())
    if scale == 0:
        raise ValueError("the tensor is zero: its tensor train has no cores of rank 1 or more to decompose")
    groups = group_modes(wide.shape, rank, merge_modes)
    centres = _middles(groups, wide.ndim, middle)
    merged = wide.reshape([math.prod(wide.shape[q] for q in group) for group in groups])
    *cores, last = find_train(merged, [rank] * (len(groups) - 1), sketch, seed)
    train = canonical([core.cpu() for core in (*cores, last / scale)])
    _check_bonds(train, groups, rank, 1e-13 if tensor.dtype == torch.float64 else 1e-7)
    factors = _best_chain(train, centres, starts, step, seed, whole=middle is None)
    parts = []
    for factor, group in zip(factors, groups, strict=True):
        parts += split_rank_one(factor, [wide.shape[q] for q in group])
    parts = [part.to(wide.device) for part in parts]
    if polish is not None:
        parts = {"als": als, "nls": nls}[polish](wide / scale, parts, max_iter, tol)[1]
    return as_cp_tensor(parts, scale, exponent, tensor.dtype)


def group_modes(shape: Sequence[int], rank: int, merge: bool) -> list[list[int]]:
    """The modes of each core: one each, but at the ends as many as it takes to reach the rank.

    Raises:
        ValueError: the ends are too small and `merge` is not set, or no core would be left between them.
    """
    order = len(shape)
    front = next((k for k in range(1, order) if math.prod(shape[:k]) >= rank), order)
    back = next((k for k in range(1, order) if math.prod(shape[order - k :]) >= rank), order)
    if front + back > order - 1:
        raise ValueError(
            f"CP rank {rank} is too large for the chain on shape {tuple(shape)}: it needs leading and trailing modes "
            f"of total size {rank} or more each, so that their factors can have full column rank, and a mode between "
            "them; lower the rank, or use method='als' or 'nls'"
        )
    if not merge and max(front, back) > 1:
        which, size = ("first", shape[0]) if front > 1 else ("last", shape[-1])
        raise ValueError(
            f"the {which} mode's size {size} is below the CP rank {rank}, so that its factor cannot have full column "
            "rank; set merge_modes=True, permute a larger mode there, or use method='als' or 'nls'"
        )
    inner = [[q] for q in range(front, order - back)]
    if rank > 1 and all(shape[q] == 1 for [q] in inner):
        raise ValueError(
            f"all modes between the ends have size 1 on shape {tuple(shape)}: no middle factor has Kruskal rank 2, and "
            f"a CPD of rank {rank} is not unique; lower the rank to 1, or drop modes of size 1"
        )
    return [list(range(front)), *inner, list(range(order - back, order))]


def _middles(groups: list[list[int]], order: int, middle: int | None) -> list[int]:
    """Cores to start from, the most central first, or the one asked for."""
    if middle is None:
        return sorted(range(1, len(groups) - 1), key=lambda core: abs(2 * core - len(groups) + 1))
    inner = [q for group in groups[1:-1] for q in group]
    if middle not in inner:
        raise ValueError(f"middle must be a mode between the ends, one of {inner}, got {middle!r}")
    return [groups.index([middle])]


def _check_bonds(train: Canonical, groups: list[list[int]], rank: int, tolerance: float) -> None:
    for s, group in zip(train.bonds, groups[1:], strict=True):
        found = int((s > tolerance * s[0]).sum())
        if found < rank:
            raise ValueError(
                f"the unfolding of the first {group[0]} modes has numerical rank {found}, below the CP rank {rank}: "
                "the rank is too large, or the joint factor of these modes or of the others lacks full column rank; "
                f"try rank {found}, permute the modes, or use method='als' or 'nls'"
            )


def _best_chain(
    train: Canonical, centres: list[int], starts: int, step: str, seed: int, *, whole: bool
) -> list[Tensor]:
    """Chains from the given cores until one explains the train as well as noise lets it; the best of them."""
    captured = float(train.centre[0].square().sum())
    dimension = sum(core.numel() for core in train.centre) - sum(len(s) ** 2 for s in train.bonds)
    # The tensor has unit norm. What the train left out tells the noise, of which the train holds its share.
    noise = max(0.0, 1 - captured)
    entries = math.prod(core.shape[1] for core in train.centre)
    enough = max(noise * dimension / max(1, entries - dimension), 1e-22)
    best: tuple[float, list[Tensor]] | None = None
    collinear = 0
    for core in centres:
        generator = torch.Generator().manual_seed(seed)
        a, p, b = third_order_cpd(train.centre[core], starts, generator)
        cosines = (p.mT @ p).abs().fill_diagonal_(0)
        if not bool(torch.isfinite(cosines).all()) or float(cosines.max()) > 1 - 1e-12:
            collinear += 1
            continue
        factors = _chain(train, core, (a, p, b), step)
        misfit, factors = fit_weights(train, factors)
        if best is None or misfit < best[0]:
            best = misfit, factors
        if misfit <= enough:
            break
    if best is None:
        raise ValueError(
            f"the middle factor has two collinear columns (Kruskal rank below 2) at {collinear} of {len(centres)} "
            f"cores tried, so that their CPD is not unique; {'lower the rank' if whole else 'choose another middle'}, "
            "or use method='als' or 'nls'"
        )
    return best[1]


def _chain(train: Canonical, core: int, middle: tuple[Tensor, Tensor, Tensor], step: str) -> list[Tensor]:
    """All factors from the middle core's CPD: outwards to the right, and the same in the mirror."""
    a, p, b = middle
    right = _outwards(train, core, a, p, b, step)
    left = _outwards(mirrored(train), len(train.centre) - 1 - core, b, p, a, step)
    return [*left[::-1], p, *right]


def _outwards(train: Canonical, core: int, a: Tensor, p: Tensor, b: Tensor, step: str) -> list[Tensor]:
    """Factors of the cores after `core`, whose CPD has the factors a, p, b.

    In the orthonormal basis of the right cores, b is the inverse transpose of the matrix that the core shares with the
    next one. Multiplying the next core by b^T therefore leaves one rank-one matrix for each term.
    """
    factors, last = [], len(train.centre) - 1
    for q in range(core + 1, last + 1):
        if step == "als":  # the same terms' left sides, in the basis of the left cores
            a = torch.einsum("ir,inj,nr->jr", a, train.left[q - 1], p)
        if q == last:
            end = torch.einsum("ir,in->nr", b, train.right[q][..., 0])
            factors.append(torch.linalg.lstsq(a, train.centre[q][..., 0]).solution.mT if step == "als" else end)
            break
        u, v = leading_pair(torch.einsum("ir,inj->rnj", b, train.right[q]))
        p, b = u.mT, v.mT
        if step == "als":
            p, b = _two_factors(train.centre[q], a, p, b)
        factors.append(p)
    return factors


def _two_factors(centre: Tensor, a: Tensor, p: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """ALS for the second and third factor of a core whose first one is known."""
    gram, partial = a.mT @ a, torch.einsum("ir,inj->rnj", a, centre)
    before = math.inf
    for _ in range(TWO_FACTOR_SWEEPS):
        b = torch.linalg.lstsq(gram * (p.mT @ p), torch.einsum("rnj,nr->rj", partial, p)).solution.mT
        p = torch.linalg.lstsq(gram * (b.mT @ b), torch.einsum("rnj,jr->rn", partial, b)).solution.mT
        norms = column_norms(p)
        p, b = p / norms, b * norms
        # Up to a constant, the squared error.
        error = float(((gram * (p.mT @ p)) * (b.mT @ b)).sum() - 2 * (torch.einsum("rnj,nr->jr", partial, p) * b).sum())
        if not error < before - 1e-14:
            break
        before = error
    return p, b


def fit_weights(train: Canonical, factors: Sequence[Tensor]) -> tuple[float, list[Tensor]]:
    """Give the terms their best weights; returns the squared distance to the train too."""
    unit = [factor / column_norms(factor) for factor in factors]
    overlap = torch.ones(1, unit[0].shape[1], dtype=torch.float64)
    for core, factor in zip([*train.left[:-1], train.centre[-1]], unit, strict=True):
        overlap = torch.einsum("ir,inj,nr->jr", overlap, core, factor)
    gram = torch.stack([factor.mT @ factor for factor in unit]).prod(0)
    weights = torch.linalg.lstsq(gram, overlap.mT, driver="gelsd").solution[:, 0]
    captured = float(train.centre[-1].square().sum())
    misfit = captured - 2 * float(weights @ overlap[0]) + float(weights @ gram @ weights)
    return max(misfit, 0.0), [unit[0] * weights, *unit[1:]]


def split_rank_one(factor: Tensor, sizes: Sequence[int], sweeps: int = 10) -> list[Tensor]:
    """Khatri-Rao factorization: each column (N_1 .. N_k flat) as a rank-one tensor, by SVDs and power iterations.

    Returns:
        k factors (N_i, R), all but the first with columns of unit norm; their Khatri-Rao product is close to `factor`.
    """
    if len(sizes) == 1:
        return [factor]
    columns, rest, parts = factor.mT, factor.mT, []
    for size in sizes[:-1]:
        u, rest = leading_pair(rest.reshape(len(columns), size, -1))
        parts.append(u.mT)
    parts.append((rest / rest.norm(dim=1, keepdim=True).clamp(min=1e-300)).mT)
    for _ in range(sweeps if len(sizes) > 2 else 0):
        for mode in range(len(sizes) - 1, -1, -1):
            parts[mode] = contract_all_but(columns, parts, mode)
            norms = column_norms(parts[mode])
            parts[mode] = parts[mode] / norms
    parts[0] = contract_all_but(columns, parts, 0)
    return parts
