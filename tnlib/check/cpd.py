"""Exercises of `notebooks/02_fit_cpd`."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tnlib.check.cpd_counts import cpd_generic_rank, cpd_kruskal_rank
from tnlib.check.exercise import Exercise, Mistake

_NOTEBOOK = "02_fit_cpd"


def _random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class _Factors(list[Tensor]):
    """A list of factors that shows itself by their shapes: a failed check prints its input."""

    def __repr__(self) -> str:
        return f"[{', '.join(f'<tensor {tuple(factor.shape)}>' for factor in self)}]"


def _factors(sizes: Sequence[int], rank: int, seed: int, scale: float = 1.0) -> list[Tensor]:
    return _Factors(scale * _random(n, rank, seed=seed + q) for q, n in enumerate(sizes))


def _grams(factors: Sequence[Tensor]) -> Tensor:
    return torch.stack([factor.mT @ factor for factor in factors])


def _khatri_rao(factors: Sequence[Tensor]) -> Tensor:
    product = factors[0]
    for factor in factors[1:]:
        product = torch.einsum("ir,jr->ijr", product, factor).flatten(0, 1)
    return product


# 1. The norm of a CPD


def _norm(weights: Tensor, factors: list[Tensor]) -> Tensor:
    return (weights @ _grams(factors).prod(0) @ weights).sqrt()


def _orthogonal(weights: Tensor, factors: list[Tensor]) -> Tensor:
    return (weights.square() * _grams(factors).prod(0).diagonal()).sum().sqrt()


cpd_norm = Exercise(
    "cpd_norm",
    _NOTEBOOK,
    _norm,
    (
        {"weights": torch.tensor([2.0, 0.5], dtype=torch.float64), "factors": _factors((3, 5, 4), 2, 10)},
        {"weights": _random(4, seed=20), "factors": _factors((2, 3, 5, 7), 4, 21)},
        {"weights": torch.tensor([-1.5], dtype=torch.float64), "factors": _factors((3, 2), 1, 25)},
    ),
    (
        Mistake(_orthogonal, "That would be so if the terms were orthogonal; what do two different terms contribute?"),
        Mistake(
            lambda weights, factors: _norm(weights.abs(), factors),
            "Weights may be negative, and then terms can cancel.",
        ),
        Mistake(lambda weights, factors: _norm(weights, factors) ** 2, "That is the squared norm."),
        Mistake(
            lambda weights, factors: (weights @ _grams(factors).sum(0) @ weights).sqrt(),
            "The inner product of two rank-one tensors is a product over the modes, not a sum.",
        ),
        Mistake(
            lambda weights, factors: _grams(factors).prod(0).sum().sqrt(),
            "The weights are missing.",
        ),
        Mistake(
            lambda weights, factors: weights.norm(),
            "The columns of the factors need not have norm one, nor be orthogonal.",
        ),
    ),
    beyond=({"weights": _random(3, seed=30), "factors": _factors((2**16,) * 10, 3, 31, 2**-8)},),
    forbidden="The tensor of this input is too large to form, and so are Khatri-Rao products: R x R matrices do.",
)


# 3. Update a factor, but not too far


def _solve(gram: Tensor, right: Tensor) -> Tensor:
    solution: Tensor = torch.linalg.solve(gram, right.mT).mT
    return solution


def _parts(tensor: Tensor, factors: list[Tensor], mode: int, *, flip: bool = False) -> tuple[Tensor, Tensor]:
    others = [factor for q, factor in enumerate(factors) if q != mode]
    product = _khatri_rao(others[::-1] if flip else others)
    return tensor.movedim(mode, 0).flatten(1) @ product, _grams(others).prod(0)


def _proximal(
    tensor: Tensor,
    factors: list[Tensor],
    mode: int,
    mu: float,
    *,
    keep: float = 1.0,
    damp: float = 1.0,
    flip: bool = False,
    full: bool = False,
) -> Tensor:
    right, gram = _parts(tensor, factors, mode, flip=flip)
    damping = torch.ones_like(gram) if full else torch.eye(len(gram), dtype=gram.dtype)
    return _solve(gram + damp * mu * damping, right + keep * mu * factors[mode])


cpd_proximal_update = Exercise(
    "cpd_proximal_update",
    _NOTEBOOK,
    _proximal,
    (
        {"tensor": _random(4, 3, 5, seed=40), "factors": _factors((4, 3, 5), 2, 41), "mode": 0, "mu": 3.0},
        {"tensor": _random(3, 5, 4, seed=50), "factors": _factors((3, 5, 4), 3, 51), "mode": 1, "mu": 0.7},
        {"tensor": _random(2, 3, 4, 5, seed=60), "factors": _factors((2, 3, 4, 5), 3, 61), "mode": 3, "mu": 2.0},
    ),
    (
        Mistake(
            lambda tensor, factors, mode, mu: _proximal(tensor, factors, mode, mu, keep=0.0),
            "This pulls the factor towards zero; it is to be pulled towards where it was.",
        ),
        Mistake(
            lambda tensor, factors, mode, mu: _proximal(tensor, factors, mode, 0.0),
            "This is the plain update: mu has no effect.",
        ),
        Mistake(
            lambda tensor, factors, mode, mu: _proximal(tensor, factors, mode, mu, damp=0.0),
            "Set the derivative to zero again: the new factor stands in both squares.",
        ),
        Mistake(
            lambda tensor, factors, mode, mu: _proximal(tensor, factors, mode, mu / 2),
            "mu counts half: both squares give a factor 2 when they are differentiated.",
        ),
        Mistake(
            lambda tensor, factors, mode, mu: _proximal(tensor, factors, mode, mu, flip=True),
            "The rows of the Khatri-Rao product are not in the order of the unfolding's columns.",
        ),
        Mistake(
            lambda tensor, factors, mode, mu: _proximal(tensor, factors, mode, mu, full=True),
            "A number added to a matrix is added to all its entries: which of them does mu concern?",
        ),
    ),
)


# 5. A CPD from eigenvectors


def _dense(answer: Any, tensor: Tensor, rank: int) -> Tensor:
    """What three factors multiply out to; raises when they are not three of the right shapes."""
    if isinstance(answer, Tensor) or not all(isinstance(factor, Tensor) for factor in answer):
        raise ValueError("expected three matrices A, B, C in a tuple or a list, with the sizes of the terms in them")
    shapes = [tuple(factor.shape) for factor in answer]
    wanted = [(n, rank) for n in tensor.shape]
    if shapes != wanted:
        raise ValueError(f"factors of shapes {shapes}, expected {wanted}")
    dtype = functools.reduce(torch.promote_types, (factor.dtype for factor in answer))
    wide = torch.complex128 if dtype.is_complex else torch.float64
    product: Tensor = torch.einsum("ir,jr,kr->ijk", *(factor.to(wide) for factor in answer))
    return product.to(dtype)


def _eigenvectors(tensor: Tensor, rank: int, *, transpose: bool = False, signed: bool = False) -> Tensor:
    """The first factor's columns: eigenvectors of M N^+ for two mixtures M, N of the slices along mode 2."""
    steps = torch.arange(tensor.shape[2], dtype=tensor.dtype)
    one, two = tensor @ torch.cos(steps + 1), tensor @ torch.sin(3 * steps + 1)
    pencil = one @ torch.linalg.pinv(two, rtol=1e-10)
    values, vectors = torch.linalg.eig(pencil.mT if transpose else pencil)
    key = values.real if signed else values.abs()
    largest: Tensor = vectors.real[:, key.argsort(descending=True)[:rank]]
    return largest


def _by_eigenvectors(
    tensor: Tensor,
    rank: int,
    *,
    transpose: bool = False,
    scaled: bool = True,
    swapped: bool = False,
    signed: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    first = _eigenvectors(tensor, rank, transpose=transpose, signed=signed)
    rows = torch.linalg.pinv(first) @ tensor.flatten(1)
    shape = (tensor.shape[2], tensor.shape[1]) if swapped else (tensor.shape[1], tensor.shape[2])
    U, S, Vh = torch.linalg.svd(rows.reshape(rank, *shape))
    second, third = U[:, :, 0].mT, Vh[:, 0, :].mT
    if swapped:
        second, third = third, second
    return first, second * S[:, 0] if scaled else second, third


def _pencil(sizes: tuple[int, int, int], rank: int, seed: int) -> dict[str, Any]:
    tensor = torch.einsum("ir,jr,kr->ijk", *_factors(sizes, rank, seed))
    return {"tensor": tensor, "rank": rank}


def _sparse_pencil(sizes: tuple[int, int, int], rank: int, seed: int) -> dict[str, Any]:
    """A term that the first two slices lack, and columns that are nearly parallel."""
    factors = _factors(sizes, rank, seed)
    factors[0] = factors[0] + 3 * factors[0][:, :1]
    factors[2][:2, -1] = 0
    return {"tensor": torch.einsum("ir,jr,kr->ijk", *factors), "rank": rank}


def _collinear_pencil(rank: int, cosine: float, seed: int) -> dict[str, Any]:
    """Two slices, many terms: eigenvalues well apart, and a swamp in which any fit by iteration stays for long.

    Columns of the first two factors enclose one angle; those of the third are neighbours on an arc of 90 degrees.
    """
    mean = (math.sqrt(1 - cosine + cosine * rank) - math.sqrt(1 - cosine)) / rank
    mixed = math.sqrt(1 - cosine) * torch.eye(rank, dtype=torch.float64) + mean
    first, second = (torch.linalg.qr(_random(rank, rank, seed=seed + q)).Q @ mixed for q in range(2))
    angles = torch.arange(rank, dtype=torch.float64) * math.pi / 2 / rank
    third = torch.stack([angles.cos(), angles.sin()])
    return {"tensor": torch.einsum("ir,jr,kr->ijk", first, second, third), "rank": rank}


def _first_slices(tensor: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    values, vectors = torch.linalg.eig(tensor[..., 0] @ torch.linalg.pinv(tensor[..., 1], rtol=1e-10))
    first = vectors.real[:, values.abs().argsort(descending=True)[:rank]]
    U, S, Vh = torch.linalg.svd((torch.linalg.pinv(first) @ tensor.flatten(1)).reshape(rank, *tensor.shape[1:]))
    return first, U[:, :, 0].mT * S[:, 0], Vh[:, 0, :].mT


def _mismatched(tensor: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    first, second = _eigenvectors(tensor, rank), _eigenvectors(tensor.transpose(0, 1), rank).flip(1)
    product = torch.linalg.pinv(_khatri_rao([first, second]))
    return first, second, (product @ tensor.flatten(0, 1)).mT


cpd_by_eigenvectors = Exercise(
    "cpd_by_eigenvectors",
    _NOTEBOOK,
    _by_eigenvectors,
    (_pencil((3, 4, 2), 3, 70), _pencil((5, 6, 4), 4, 80), _pencil((4, 3, 7), 2, 90), _sparse_pencil((5, 4, 4), 3, 95)),
    (
        Mistake(
            lambda tensor, rank: _by_eigenvectors(tensor, rank, transpose=True),
            "These eigenvectors are those of the transposed matrix: its eigenvalues are the same, its vectors are not.",
        ),
        Mistake(
            lambda tensor, rank: _by_eigenvectors(tensor, rank, scaled=False),
            "Every vector may have norm one, but then the term's size is lost.",
        ),
        Mistake(
            lambda tensor, rank: _by_eigenvectors(tensor, rank, swapped=True),
            "A row of length J K folds to a J x K matrix, row by row.",
        ),
        Mistake(
            _first_slices,
            "A single slice may lack a term, whose entry of C is zero: mix all slices.",
        ),
        Mistake(
            _mismatched,
            "Each factor is right up to the order of its columns, but the orders must belong together.",
        ),
        Mistake(
            lambda tensor, rank: _by_eigenvectors(tensor, rank, signed=True),
            "Which eigenvalues belong to no term? Those of terms may be negative.",
        ),
    ),
    tolerance=1e-6,
    reading=_dense,
    beyond=(_collinear_pencil(40, 0.9, 97),),
    forbidden="Forty nearly parallel terms: a fit by iteration crawls here, eigenvectors give many digits at once.",
)

EXERCISES = (cpd_norm, cpd_generic_rank, cpd_proximal_update, cpd_kruskal_rank, cpd_by_eigenvectors)
