"""Tensor trains as the chain methods need them: found by halving with a sketch, then orthogonal around every core."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tnlib.decompose.mttkrp import balanced_split
from tnlib.decompose.sketch import Sketch, is_worth_a_sketch, plain_up_to, sketched_svd, thin_svd

SMALL = 4096  # entries up to which a block is split mode by mode with plain SVDs


class Canonical(NamedTuple):
    """A tensor train seen from each of its cores; all have shape (R_(q-1), N_q, R_q).

    With left[:q] before it and right[q+1:] behind it, centre[q] makes up the whole tensor. The left cores have
    orthonormal columns (R_(q-1) N_q, R_q), the right ones orthonormal rows (R_(q-1), N_q R_q), so that a distance
    between two centres is a distance between two tensors.
    """

    left: list[Tensor]
    centre: list[Tensor]
    right: list[Tensor]
    bonds: list[Tensor]  # singular values of the Q-1 unfoldings, descending


def find_train(wide: Tensor, ranks: Sequence[int], sketch: Sketch, seed: int, auto: int = SMALL) -> list[Tensor]:
    """Cores of a tensor train of the given ranks, all but the last left-orthogonal.

    Args:
        wide: order Q, float64.
        ranks: R_1 .. R_(Q-1).
        sketch: `False` is TT-SVD from left to right. `True` cuts the tensor in two halves of about the same size by a
            randomized SVD (Halko, Martinsson and Tropp 2011, algorithms 4.4 and 5.1), then the halves in the same way
            (halving the train is the idea of TT-HSVD, Zniyed et al. 2020b). `"auto"` sketches what has more than
            `auto` entries.
        seed: of the sketch.
        auto: see `sketch`.
    """
    smallest = plain_up_to(sketch, auto)
    generator = torch.Generator().manual_seed(seed)
    return _cut(wide.reshape(1, *wide.shape, 1), list(ranks), smallest, generator)


def _cut(block: Tensor, ranks: list[int], smallest: float, generator: torch.Generator) -> list[Tensor]:
    """Cores of a block (R_left, N_1 .. N_k, R_right) with k-1 inner ranks; the last one is not orthogonal."""
    outer, sizes, last = block.shape[0], block.shape[1:-1], block.shape[-1]
    if not ranks:
        return [block]
    small = block.numel() <= smallest
    at = 1 if small else balanced_split((outer * sizes[0], *sizes[1:-1], sizes[-1] * last))
    matrix = block.reshape(outer * math.prod(sizes[:at]), -1)
    if not small and is_worth_a_sketch(matrix, ranks[at - 1]):
        u, s, vh = sketched_svd(matrix, ranks[at - 1], generator)
    else:
        u, s, vh = (part[..., : ranks[at - 1]] for part in thin_svd(matrix))
        vh = vh.mT
    # Each half is cut with the singular values in it, so that no cut sees a direction larger or smaller than it is.
    front = _cut((u * s).reshape(outer, *sizes[:at], len(s)), ranks[: at - 1], smallest, generator)
    q, r = torch.linalg.qr(front[-1].flatten(0, 1))
    back = _cut((r @ vh).reshape(len(r), *sizes[at:], last), ranks[at:], smallest, generator)
    return [*front[:-1], q.reshape(*front[-1].shape[:2], -1), *back]


def canonical(cores: Sequence[Tensor]) -> Canonical:
    """Orthogonalise a train around each of its cores; the cores given may be any."""
    right = list(cores)
    for q in range(len(right) - 1, 0, -1):
        basis, rest = torch.linalg.qr(right[q].flatten(1).mT)
        right[q] = basis.mT.reshape(-1, *right[q].shape[1:])
        right[q - 1] = right[q - 1] @ rest.mT
    left, centre, bonds, here = [], [], [], right[0]
    for core in right[1:]:
        centre.append(here)
        u, s, vh = torch.linalg.svd(here.flatten(0, 1), full_matrices=False)
        left.append(u.reshape(*here.shape[:2], -1))
        bonds.append(s)
        here = torch.einsum("ij,jnk->ink", s[:, None] * vh, core)
    return Canonical([*left, here], [*centre, here], right, bonds)


def mirrored(train: Canonical) -> Canonical:
    """The same train read from right to left."""

    def flip(cores: Sequence[Tensor]) -> list[Tensor]:
        return [core.transpose(0, 2) for core in reversed(cores)]

    return Canonical(flip(train.right), flip(train.centre), flip(train.left), train.bonds[::-1])
