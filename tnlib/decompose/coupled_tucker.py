"""Tucker decomposition by a train of coupled third-order ones; notebook 05 derives it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from tensorly.tucker_tensor import TuckerTensor
from torch import Tensor

from tnlib.decompose import _validate as validate
from tnlib.decompose.sketch import Sketch, is_worth_a_sketch, sketched_svd
from tnlib.decompose.train import canonical, find_train


def coupled_tucker(
    tensor: Tensor,
    rank: int | Sequence[int],
    *,
    core_at: int | None = None,
    train: Literal["structured", "svd"] = "structured",
    sketch: Sketch = "auto",
    seed: int = 0,
) -> TuckerTensor:
    """Tucker decomposition through a tensor train (after Zniyed, Boyer, de Almeida and Favier 2020).

    The train of a tensor of Tucker ranks T_q has ranks R_q = min(T_1 .. T_q, T_(q+1) .. T_Q). Each of its cores is a
    third-order Tucker tensor with second factor F_q: a reshaped identity times F_q in every core but one, q*, which
    holds the reshaped Tucker core.

    Args:
        tensor: order Q of at least 2, sizes N_1 .. N_Q.
        rank: T_1 .. T_Q, or one integer for all of them (cut to each largest useful one).
        core_at: q*, counted from 0; by default the mode in the middle.
        train: `structured` builds the train from both ends towards q*, one third-order core (R_(q-1), N_q, the rest)
            after the other, and truncates along the mode N_q only: the identities hold by construction. (In this order
            of the modes it is the sequentially truncated HOSVD of Vannieuwenhoven, Vandebril and Meerbergen 2012.)
            `svd` finds the train first and reads the factors from its cores. That is as exact, but loses in noise: the
            unfoldings in the middle of the train have small singular values, which the TT-SVD drops for noise.
        sketch: find the leading directions of large unfoldings by a randomized SVD; `auto`: where a mode is larger than
            2 T_q + 20 (`structured`), or where there are more than 4,096 entries (`svd`).
        seed: of the sketch.

    Returns:
        `TuckerTensor` with core (T_1, .., T_Q) and orthonormal factors (N_q, T_q).

    Raises:
        ValueError: a rank that is out of range, a `core_at` that is no mode, an unknown option.
    """
    wide, exponent = validate.scaled(tensor)
    shape = tuple(wide.shape)
    ranks = validate.many_ranks(rank, [min(n, wide.numel() // n) for n in shape], "Tucker rank")
    if core_at is None:
        core_at = len(shape) // 2
    if core_at not in range(len(shape)):
        raise ValueError(f"core_at must be a mode between 0 and {len(shape) - 1}, or None, got {core_at!r}")
    if train not in ("structured", "svd") or sketch not in ("auto", True, False):
        raise ValueError(
            f"unknown train {train!r} or sketch {sketch!r}; expected structured or svd, 'auto', True or False"
        )
    if train == "svd":
        core, factors = _read_from_train(wide, ranks, core_at, sketch, seed)
    else:
        core, factors = _towards(wide, ranks, core_at, sketch, seed)
    core = validate.narrowed(core, tensor.dtype, exponent)
    return TuckerTensor((core, [validate.narrowed(factor, tensor.dtype) for factor in factors]))


def _towards(
    wide: Tensor, ranks: tuple[int, ...], core_at: int, sketch: Sketch, seed: int
) -> tuple[Tensor, list[Tensor]]:
    """Factors from both ends towards q*, each projected out before the next; what is left is the core."""
    generator = torch.Generator().manual_seed(seed)
    sizes, factors = list(wide.shape), {}
    for q in [*range(core_at), *range(len(sizes) - 1, core_at - 1, -1)]:
        block = wide.reshape(math.prod(sizes[:q]), sizes[q], -1)
        matrix = block.transpose(0, 1).flatten(1)
        pays = is_worth_a_sketch(matrix, ranks[q])
        if ranks[q] < sizes[q] and (pays if sketch == "auto" else sketch):
            factors[q] = sketched_svd(matrix, ranks[q], generator)[0]
        else:
            factors[q] = _leading(matrix, ranks[q])
        wide = torch.einsum("inj,nt->itj", block, factors[q])
        sizes[q] = ranks[q]
    return wide.reshape(sizes), [factors[q] for q in range(len(sizes))]


def _read_from_train(
    wide: Tensor, ranks: tuple[int, ...], core_at: int, sketch: Sketch, seed: int
) -> tuple[Tensor, list[Tensor]]:
    """Factors from the cores of a TT-SVD that is orthogonal around q*; the core is the train times the factors."""
    train = canonical(find_train(wide, validate.max_tt_ranks(ranks), sketch, seed))
    cores = [*train.left[:core_at], train.centre[core_at], *train.right[core_at + 1 :]]
    factors = [_leading(core.transpose(0, 1).flatten(1), kept) for core, kept in zip(cores, ranks, strict=True)]
    result = torch.ones(1, 1, dtype=wide.dtype, device=wide.device)
    for core, factor in zip(cores, factors, strict=True):
        result = (result @ torch.einsum("inj,nt->itj", core, factor).flatten(1)).reshape(-1, core.shape[2])
    return result.reshape(ranks), factors


def _leading(matrix: Tensor, rank: int) -> Tensor:
    """The leading left singular vectors; of the triangular factor when the matrix is wide."""
    rows, columns = matrix.shape
    if columns > 2 * rows:
        matrix = torch.linalg.qr(matrix.mT, mode="r").R.mT
    u: Tensor = torch.linalg.svd(matrix, full_matrices=rank > columns).U
    return u[:, :rank]
