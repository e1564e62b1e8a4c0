"""Matricized tensor times Khatri-Rao product (MTTKRP) of every mode, and the partial contractions that it is made of.

The tensor is never permuted: one matrix product contracts the modes at its front or its back, batched products over the
R columns contract the rest (after Phan, Tichavsky and Cichocki 2013, section III).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from tensorly.tenalg import khatri_rao
from torch import Tensor


def balanced_split(shape: Sequence[int]) -> int:
    """The number of leading modes, at least one and not all, whose total size is closest to that of the others."""
    return min(range(1, len(shape)), key=lambda split: math.prod(shape[:split]) + math.prod(shape[split:]))


def contract_front(tensor: Tensor, factors: Sequence[Tensor], split: int) -> Tensor:
    """The first `split` modes contracted, term by term: (R, N_(split+1) .. N_Q flat)."""
    rows = math.prod(tensor.shape[:split])
    return khatri_rao_all(factors[:split], factors[0].shape[1], tensor).mT @ tensor.reshape(rows, -1)


def contract_back(tensor: Tensor, factors: Sequence[Tensor], split: int) -> Tensor:
    """The modes after the first `split` contracted, term by term: (R, N_1 .. N_split flat)."""
    columns = math.prod(tensor.shape[split:])
    return (tensor.reshape(-1, columns) @ khatri_rao_all(factors[split:], factors[0].shape[1], tensor)).mT


def contract_all_but(partial: Tensor, factors: Sequence[Tensor], mode: int) -> Tensor:
    """Of a partial contraction (R, N_1 .. N_k flat), all modes but one contracted with their factors: (N_mode, R)."""
    rank, size = factors[0].shape[1], factors[mode].shape[0]
    left, right = khatri_rao_all(factors[:mode], rank, partial), khatri_rao_all(factors[mode + 1 :], rank, partial)
    partial = partial.reshape(rank, len(left), size, len(right))
    if len(left) > len(right):
        return torch.einsum("rns,sr->nr", torch.einsum("rlns,lr->rns", partial, left), right)
    return torch.einsum("rln,lr->nr", torch.einsum("rlns,sr->rln", partial, right), left)


def mttkrp_all(tensor: Tensor, factors: Sequence[Tensor]) -> list[Tensor]:
    """For each mode, unfold(tensor, mode) @ khatri_rao(all other factors), (N_mode, R), reading the tensor twice only.

    The modes fall into two groups; each group's partial contraction serves all modes of the other one (the first
    level of the dimension tree of Phan, Tichavsky and Cichocki 2013).
    """
    split = balanced_split(tensor.shape)
    front, back = contract_back(tensor, factors, split), contract_front(tensor, factors, split)
    return [contract_all_but(front, factors[:split], q) for q in range(split)] + [
        contract_all_but(back, factors[split:], q) for q in range(tensor.ndim - split)
    ]


def cp_residual(tensor: Tensor, factors: Sequence[Tensor]) -> Tensor:
    """The tensor minus the sum of the rank-one terms, in the tensor's shape."""
    rank, split = factors[0].shape[1], balanced_split(tensor.shape)
    left, right = khatri_rao_all(factors[:split], rank, tensor), khatri_rao_all(factors[split:], rank, tensor)
    return torch.addmm(tensor.reshape(len(left), len(right)), left, right.mT, alpha=-1).reshape(tensor.shape)


def khatri_rao_all(factors: Sequence[Tensor], rank: int, like: Tensor) -> Tensor:
    """Khatri-Rao product of any number of factors (N_q, R): a row of ones for none of them."""
    if len(factors) < 2:
        return factors[0] if factors else torch.ones(1, rank, dtype=like.dtype, device=like.device)
    product: Tensor = khatri_rao(list(factors))
    return product
