"""Exercises of `08_reproduce_lebedev`: terms, counts, the greedy method, a Gauss-Newton product."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tnlib.check.exercise import Exercise, Mistake

NOTEBOOK = "08_reproduce_lebedev"
_generator = torch.Generator().manual_seed(2015)


def _normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=_generator, dtype=torch.float64)


# 1. The energy of the terms


def _norms(weights: Tensor, factors: Sequence[Tensor]) -> Tensor:
    return abs(weights) * torch.stack([factor.norm(dim=0) for factor in factors]).prod(0)


def _term_energy(weights: Tensor, factors: Sequence[Tensor]) -> Tensor:
    return _norms(weights, factors).square().sum()


def _energy_of_the_sum(weights: Tensor, factors: Sequence[Tensor]) -> Tensor:
    gram = torch.stack([factor.mT @ factor for factor in factors]).prod(0)
    return weights @ gram @ weights


TERM_ENERGY = Exercise(
    "cp_term_energy",
    NOTEBOOK,
    _term_energy,
    (
        {"weights": torch.tensor([2.0, -3.0], dtype=torch.float64), "factors": [_normal(3, 2), _normal(2, 2)]},
        {"weights": _normal(4), "factors": [_normal(5, 4), _normal(4, 4), _normal(3, 4)]},
        {"weights": _normal(3), "factors": [_normal(2, 3), _normal(3, 3), _normal(2, 3), _normal(2, 3)]},
    ),
    (
        Mistake(_energy_of_the_sum, "That is the squared norm of the sum: it shows nothing of terms that cancel."),
        Mistake(
            lambda weights, factors: _norms(torch.ones_like(weights), factors).square().sum(), "Where are the weights?"
        ),
        Mistake(
            lambda weights, factors: weights.square().sum(),
            "The factors' columns need not have norm one: each term's norm is a product.",
        ),
        Mistake(
            lambda weights, factors: _norms(weights, factors).square().sum().sqrt(), "The sum of squares, not its root."
        ),
        Mistake(lambda weights, factors: _norms(weights, factors).sum(), "These norms are not squared."),
    ),
)

# 2. Counts


def _char_macs(
    rank: int,
    *,
    first_on: Callable[[int, int], int] = lambda image, out: image * image,
    second_on: Callable[[int, int], int] = lambda image, out: out * image,
    mixing: int | None = None,
    ends: bool = True,
) -> int:
    total = (16 * 16 * 96 * 81 + 128 * 144) if ends else 0
    for inputs, outputs, image, window in ((48, 128, 16, 9), (64, 512, 8, 8)):
        out = image - window + 1
        total += inputs * rank * first_on(image, out)
        total += window * rank * (mixing or 1) * second_on(image, out) + window * rank * (mixing or 1) * out * out
        total += rank * outputs * out * out
    return total


CHAR_NETWORK_MACS = Exercise(
    "char_network_macs",
    NOTEBOOK,
    _char_macs,
    tuple({"rank": rank} for rank in (1, 16, 64, 256)),
    (
        Mistake(
            lambda rank: _char_macs(rank, first_on=lambda image, out: out * out),
            "The first stage runs before any window has shortened the image.",
        ),
        Mistake(
            lambda rank: _char_macs(rank, second_on=lambda image, out: out * out),
            "The vertical stage shortens the height only: the width is still the input's.",
        ),
        Mistake(
            lambda rank: _char_macs(rank, mixing=rank),
            "Depthwise stages have one input channel for each output channel.",
        ),
        Mistake(lambda rank: _char_macs(rank, ends=False), "The first and the last layer are there, too."),
        Mistake(
            lambda rank: _char_macs(rank, second_on=lambda image, out: image * image),
            "The vertical stage has as many rows as the output, without padding.",
        ),
    ),
)

# 3. The greedy method


def _largest(values: Callable[[Tensor], Tensor], low: float, high: float) -> float:
    """The largest value of a smooth function of an angle, on finer and finer grids."""
    for _ in range(8):
        grid = torch.linspace(low, high, 401, dtype=torch.float64)
        best, step = float(grid[values(grid).argmax()]), (high - low) / 400
        low, high = best - step, best + step
    return float(values(torch.tensor([best], dtype=torch.float64)))


def _first_term(cosine: float) -> float:
    angle = math.acos(cosine)
    return _largest(lambda u: (u.cos() ** 3 + (angle - u).cos() ** 3).abs(), -math.pi, math.pi)


GREEDY_FIRST_TERM = Exercise(
    "greedy_first_term",
    NOTEBOOK,
    _first_term,
    tuple({"cosine": cosine} for cosine in (0.0, 0.2, 0.5, 0.8, 0.95, -0.5)),
    (
        Mistake(lambda cosine: 1 + cosine**3, "That is what u = a gives. Is it the best u?"),
        Mistake(
            lambda cosine: 2 * math.cos(math.acos(cosine) / 2) ** 3,
            "The bisector of a and c is best only while they are close.",
        ),
        Mistake(lambda cosine: 1.0, "That holds for orthogonal vectors."),
        Mistake(
            lambda cosine: math.sqrt(2 + 2 * cosine**3),
            "That is the norm of the tensor; one term reaches less.",
        ),
        Mistake(
            lambda cosine: math.sqrt(max(0.0, 2 + 2 * cosine**3 - _first_term(cosine) ** 2)),
            "That is the norm of what is left, not that of the term.",
        ),
    ),
)

# 4. A Gauss-Newton product


def _product(
    factors: Sequence[Tensor], direction: Sequence[Tensor], *, cross: float = 1.0, turned: bool = True
) -> list[Tensor]:
    grams = [factor.mT @ factor for factor in factors]
    result = []
    for n, part in enumerate(direction):
        others = torch.stack([gram for m, gram in enumerate(grams) if m != n]).prod(0)
        image = part @ others
        for m, other in enumerate(direction):
            if m != n:
                rest = torch.stack([g for k, g in enumerate(grams) if k not in (m, n)] + [others * 0 + 1]).prod(0)
                mixed = factors[m].mT @ other
                image = image + cross * factors[n] @ (rest * (mixed.mT if turned else mixed))
        result.append(image)
    return result


def _whole_grams(factors: Sequence[Tensor], direction: Sequence[Tensor]) -> list[Tensor]:
    gram = torch.stack([factor.mT @ factor for factor in factors]).prod(0)
    return [part @ gram for part in direction]


def _flat(answer: Sequence[Tensor], **_: object) -> Tensor:
    return torch.cat([torch.as_tensor(part).flatten() for part in answer])


def _pair(shape: Sequence[int], rank: int) -> dict[str, list[Tensor]]:
    return {"factors": [_normal(n, rank) for n in shape], "direction": [_normal(n, rank) for n in shape]}


CP_GAUSS_NEWTON = Exercise(
    "cp_gauss_newton_product",
    NOTEBOOK,
    _product,
    (_pair((3, 2, 2), 2), _pair((4, 3, 5), 3), _pair((3, 4, 2, 3), 2), _pair((5, 4), 3)),
    (
        Mistake(
            lambda factors, direction: _product(factors, direction, cross=0.0),
            "These are the diagonal blocks alone: a step in one mode changes what another mode's step does.",
        ),
        Mistake(
            lambda factors, direction: _product(factors, direction, turned=False),
            "In the blocks off the diagonal one of the small matrices is transposed.",
        ),
        Mistake(_whole_grams, "A mode's own Gram matrix has no place in its diagonal block."),
        Mistake(
            lambda factors, direction: _product(factors, direction, cross=2.0),
            "The blocks off the diagonal are counted twice.",
        ),
    ),
    reading=_flat,
    beyond=(_pair((400, 500, 600), 4), _pair((3000, 3000, 3000, 3000), 3)),
    forbidden="The Jacobian, and the tensor, are too large here: small matrices R x R are enough.",
)

EXERCISES = (TERM_ENERGY, CHAR_NETWORK_MACS, GREEDY_FIRST_TERM, CP_GAUSS_NEWTON)
