"""Exercises of `notebooks/00_start_here`."""

from __future__ import annotations

import torch
from torch import Tensor

from tnlib.check.exercise import Exercise, Mistake

_NOTEBOOK = "00_start_here"


def _tucker2(T: int, S: int, k: int, R_T: int, R_S: int) -> int:
    return S * R_S + R_S * R_T * k * k + R_T * T


tucker2_parameters = Exercise(
    "tucker2_parameters",
    _NOTEBOOK,
    _tucker2,
    (
        {"T": 64, "S": 32, "k": 3, "R_T": 20, "R_S": 10},
        {"T": 7, "S": 11, "k": 5, "R_T": 2, "R_S": 3},
        {"T": 16, "S": 16, "k": 1, "R_T": 16, "R_S": 16},
    ),
    (
        Mistake(
            lambda T, S, k, R_T, R_S: S * R_T + R_S * R_T * k * k + R_S * T,
            "R_T belongs to the output channels T, R_S to the input channels S.",
        ),
        Mistake(
            lambda T, S, k, R_T, R_S: S * R_S + R_S * R_T * k + R_T * T,
            "The core is a convolution kernel: how many entries has a k x k window?",
        ),
        Mistake(
            lambda T, S, k, R_T, R_S: S * R_S + R_T * T,
            "You counted the two factor matrices; the core has entries too.",
        ),
        Mistake(
            lambda T, S, k, R_T, R_S: R_S * R_T * k * k,
            "You counted the core; the two 1x1 convolutions around it have entries too.",
        ),
    ),
)


def _break_even(T: int, S: int, k: int) -> int:
    return (T * S * k * k - 1) // (S + 2 * k + T)


break_even_rank = Exercise(
    "break_even_rank",
    _NOTEBOOK,
    _break_even,
    ({"T": 64, "S": 64, "k": 3}, {"T": 16, "S": 16, "k": 3}, {"T": 192, "S": 64, "k": 5}, {"T": 2, "S": 2, "k": 2}),
    (
        Mistake(lambda T, S, k: (T * S * k * k) // (S + 2 * k + T), "Fewer is meant: at equality nothing is saved."),
        Mistake(lambda T, S, k: (T * S * k * k - 1) // (S + 2 * k + T) + 1, "One too many: is the count really below?"),
        Mistake(lambda T, S, k: (T * S * k * k - 1) // (S + k * k + T), "The two spatial factors have k rows each."),
        Mistake(lambda T, S, k: (T * S * k * k - 1) // (S + k + T), "There are two spatial factors, with k rows each."),
        Mistake(
            lambda T, S, k: (T * S * k * k) // (S + 2 * k + T) - 1,
            "One too few, unless the quotient is whole: the largest number *below* it is asked for.",
        ),
        Mistake(lambda T, S, k: (T * S * k * k - 1) / (S + 2 * k + T), "A rank is a whole number."),
    ),
)


def _tail(kernel: Tensor, rank: int) -> float:
    s = torch.linalg.svdvals(kernel.to(torch.float64).flatten(1))
    return float(s[rank:].norm() / s.norm())


def _kernel(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def _wrong_unfolding(kernel: Tensor, rank: int) -> float:
    return _tail(kernel.transpose(0, 1), rank)


def _off_by_one(kernel: Tensor, rank: int) -> float:
    return _tail(kernel, rank - 1)


def _squared(kernel: Tensor, rank: int) -> float:
    return _tail(kernel, rank) ** 2


def _absolute(kernel: Tensor, rank: int) -> float:
    return _tail(kernel, rank) * float(kernel.norm())


def _nuclear(kernel: Tensor, rank: int) -> float:
    s = torch.linalg.svdvals(kernel.flatten(1))
    return float(s[rank:].sum() / s.sum())


tail_error = Exercise(
    "tail_error",
    _NOTEBOOK,
    _tail,
    ({"kernel": _kernel(6, 4, 3, 3), "rank": 2}, {"kernel": _kernel(5, 7, 1, 3), "rank": 4}),
    (
        Mistake(_wrong_unfolding, "The rows of the unfolding are the output channels, the first mode."),
        Mistake(_off_by_one, "Off by one: the first `rank` singular values are kept."),
        Mistake(_squared, "That is the relative squared error; take the root."),
        Mistake(_absolute, "Divide by the kernel's norm."),
        Mistake(_nuclear, "The Frobenius norm adds squares of singular values, not the values."),
    ),
)

EXERCISES = (tucker2_parameters, break_even_rank, tail_error)
