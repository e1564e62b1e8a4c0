"""Exercises of `notebooks/05_couple_third_order_trains`."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from tnlib.check.exercise import Exercise, Mistake

_NOTEBOOK = "05_couple_third_order_trains"


def _random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# 1. A factor as a core of the diagonal train


def _core(factor: Tensor) -> Tensor:
    return torch.diag_embed(factor).permute(1, 0, 2)


cpd_train_core = Exercise(
    "cpd_train_core",
    _NOTEBOOK,
    _core,
    ({"factor": _random(4, 3, seed=10)}, {"factor": _random(2, 5, seed=11)}, {"factor": _random(3, 1, seed=12)}),
    (
        Mistake(
            lambda factor: torch.diag_embed(factor),
            "The mode's index stands first; in a core it stands between the two bonds.",
        ),
        Mistake(
            lambda factor: torch.diag_embed(factor).permute(1, 2, 0),
            "The mode's index stands last; in a core it stands between the two bonds.",
        ),
        Mistake(
            lambda factor: factor.mT[:, :, None].expand(-1, -1, factor.shape[1]),
            "The slices are not diagonal: with these the terms would mix.",
        ),
        Mistake(
            lambda factor: torch.diag_embed(factor.mT).permute(1, 0, 2),
            "Rows and columns are mixed up: a slice belongs to a value of the mode's index, its diagonal to the terms.",
        ),
        Mistake(
            lambda factor: torch.diag_embed(factor / factor.norm(dim=0)).permute(1, 0, 2),
            "The columns have lost their norms; the train must multiply out to the same tensor.",
        ),
    ),
)


# 2. Which term of a core is which one of its neighbour


def _match(third: Tensor, first: Tensor) -> Tensor:
    largest: Tensor = (third.mT @ first).abs().argmax(1)
    return largest


def _unit(matrix: Tensor) -> Tensor:
    return torch.nn.functional.normalize(matrix, dim=0)


def _pair(rank: int, seed: int) -> dict[str, Tensor]:
    """Factors on both sides of a bond: N = M^-T, reordered and rescaled by factors of both signs."""
    matrix = _random(rank, rank, seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    scales = 3 ** _random(rank, seed=seed + 2) * torch.tensor([-1.0, 1.0]).repeat(rank)[:rank]
    order = torch.randperm(rank, generator=generator)
    if torch.equal(order, order.argsort()):
        order = torch.arange(rank).roll(1)
    return {"third": torch.linalg.inv(matrix).mT * scales, "first": (matrix / scales.flip(0))[:, order]}


coupled_match = Exercise(
    "coupled_match",
    _NOTEBOOK,
    _match,
    (_pair(3, 20), _pair(5, 30), _pair(4, 40), _pair(6, 50)),
    (
        Mistake(
            lambda third, first: (third.mT @ first).abs().argmax(0),
            "That is the permutation from the right core's terms to the left one's.",
        ),
        Mistake(
            lambda third, first: (third.mT @ first).argmax(1),
            "Scales may be negative: then the entry that counts is not the largest, but the largest in absolute value.",
        ),
        Mistake(
            lambda third, first: (torch.linalg.pinv(third) @ first).abs().argmax(1),
            "The third factor is not a multiple of the next core's first factor; which matrix of it is?",
        ),
        Mistake(
            lambda third, first: torch.cdist(_unit(third).mT, _unit(first).mT).argmin(1),
            "The nearest column is not the right one: two bases of a bond are dual to each other, not equal.",
        ),
        Mistake(
            lambda third, first: (third @ first).abs().argmax(1),
            "This mixes up rows and columns: terms are columns in both matrices.",
        ),
        Mistake(
            lambda third, first: torch.arange(third.shape[1]),
            "The cores were decomposed separately: each has an order of its own.",
        ),
    ),
)


# 3. One step of the chain to the left


def _left_slices(core: Tensor, right: Tensor) -> Tensor:
    """For each term, the matrix (I, R) whose rank is one: the core times M_(q+1) on its right bond."""
    return torch.einsum("aib,br->ria", core, right)


def _leading(slices: Tensor, *, scaled: bool = True) -> tuple[Tensor, Tensor]:
    u, s, vh = torch.linalg.svd(slices, full_matrices=False)
    return (u[:, :, 0] * s[:, :1] if scaled else u[:, :, 0]).mT, vh[:, 0].mT


def _step_left(core: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    return _leading(_left_slices(core, right))


def _terms(answer: Any, core: Tensor, right: Tensor) -> Tensor:
    """The rank-one matrices that a pair of factors stands for; raises when the shapes are others than asked."""
    shapes = [tuple(factor.shape) for factor in answer]
    wanted = [(core.shape[1], core.shape[0]), (core.shape[0], core.shape[0])]
    if shapes != wanted:
        raise ValueError(f"factors of shapes {shapes}, expected {wanted}")
    factor, left = answer
    return torch.einsum("ir,ar->ria", factor, left.to(factor.dtype))


def _coupled_core(size: int, rank: int, seed: int, noise: float = 0.0) -> dict[str, Tensor]:
    left, factor, right = (_random(n, rank, seed=seed + i) for i, n in enumerate((rank, size, rank)))
    core = torch.einsum("ar,ir,br->aib", left, factor, torch.linalg.inv(right).mT)
    return {"core": core + noise * _random(*core.shape, seed=seed + 3), "right": right}


def _two_factor_als(core: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """The least residual of the core itself, the third factor being fixed."""
    dual = torch.linalg.inv(right).mT
    factor, left = _step_left(core, right)
    for _ in range(100):
        for mode in (0, 1):
            known = factor if mode == 0 else left
            products = torch.einsum("nr,br->nbr", known, dual).flatten(0, 1)
            unfolding = core.movedim(mode, 0).flatten(1)
            solved = torch.linalg.lstsq(products, unfolding.mT).solution.mT
            factor, left = (factor, solved) if mode == 0 else (solved, left)
    return factor, left


def _first_row_and_column(core: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    slices = _left_slices(core, right)
    return slices[:, :, 0].mT, (slices[:, 0] / slices[:, 0, :1]).mT


coupled_step_left = Exercise(
    "coupled_step_left",
    _NOTEBOOK,
    _step_left,
    (_coupled_core(5, 3, 60), _coupled_core(2, 4, 70), _coupled_core(6, 2, 80, 0.1)),
    (
        Mistake(
            lambda core, right: _leading(_left_slices(core, torch.linalg.inv(right).mT)),
            "The slices hold the inverse of M already; multiplied by its inverse again, they have not rank one.",
        ),
        Mistake(
            lambda core, right: _leading(torch.einsum("ra,aib->rib", torch.linalg.inv(right), core)),
            "That is the step to the right: the known matrix belongs to the core's other bond.",
        ),
        Mistake(
            lambda core, right: _leading(_left_slices(core, right.mT)),
            "The matrix is multiplied transposed: which of its indices is the bond, which the term?",
        ),
        Mistake(
            lambda core, right: _leading(_left_slices(core, right), scaled=False),
            "The singular values are lost, so the product of the two factors has the wrong scale.",
        ),
        Mistake(
            _first_row_and_column,
            "Right when the slices have rank one exactly; in noise one row and one column are not the best.",
        ),
        Mistake(
            lambda core, right: (_step_left(core, right)[0], _step_left(core, right)[1].mT),
            "The terms have to be the columns of both matrices.",
        ),
        Mistake(
            _two_factor_als,
            "That is the best fit to the core; asked are the best fits to each term's slice, without iterations.",
        ),
    ),
    reading=_terms,
)


# 4. The bound for Tucker


def _bound(sizes: tuple[int, ...], ranks: tuple[int, ...], snr_db: float, *, gauge: float = 1.0) -> float:
    numbers = math.prod(ranks) + sum(t * (n - gauge * t) for n, t in zip(sizes, ranks, strict=True))
    return float(10 ** (-snr_db / 10) * numbers / math.prod(sizes))


tucker_bound = Exercise(
    "tucker_bound",
    _NOTEBOOK,
    _bound,
    (
        {"sizes": (5, 6, 7), "ranks": (2, 3, 4), "snr_db": 10.0},
        {"sizes": (9, 4, 5, 3), "ranks": (2, 2, 3, 3), "snr_db": 25.0},
        {"sizes": (6, 6, 6, 6, 6, 6), "ranks": (2, 2, 2, 2, 2, 2), "snr_db": 0.0},
    ),
    (
        Mistake(
            lambda sizes, ranks, snr_db: _bound(sizes, ranks, snr_db, gauge=0.0),
            "Some of these numbers change nothing: put a matrix between the core and a factor, and its inverse.",
        ),
        Mistake(
            lambda sizes, ranks, snr_db: (
                10 ** (-snr_db / 10)
                * (math.prod(ranks) + sum(t * n - t * (t + 1) / 2 for n, t in zip(sizes, ranks, strict=True)))
                / math.prod(sizes)
            ),
            "Orthonormal columns remove some of the freedom, but a rotation of them remains.",
        ),
        Mistake(
            lambda sizes, ranks, snr_db: _bound(sizes, ranks, snr_db / 2),
            "A ratio of powers is 10^(dB/10); 20 belongs to ratios of amplitudes.",
        ),
        Mistake(
            lambda sizes, ranks, snr_db: _bound(sizes, ranks, snr_db) * math.prod(sizes),
            "The noise power is spread over all entries, and only the part along the free directions counts.",
        ),
        Mistake(
            lambda sizes, ranks, snr_db: (
                _bound(sizes, ranks, snr_db) - 10 ** (-snr_db / 10) * math.prod(ranks) / math.prod(sizes)
            ),
            "The core has free numbers too.",
        ),
    ),
)


# 5. The largest rank that the chain reaches with merged modes


def _largest(sizes: tuple[int, ...]) -> int:
    return max(min(math.prod(sizes[:c]), math.prod(sizes[c + 1 :])) for c in range(1, len(sizes) - 1) if sizes[c] > 1)


def _balanced_cut(sizes: tuple[int, ...]) -> int:
    return max(min(math.prod(sizes[:c]), math.prod(sizes[c:])) for c in range(1, len(sizes)))


coupled_largest_rank = Exercise(
    "coupled_largest_rank",
    _NOTEBOOK,
    _largest,
    (
        {"sizes": (5, 5, 5)},
        {"sizes": (2, 3, 5, 4, 3)},
        {"sizes": (4, 4, 4, 4, 4, 4)},
        {"sizes": (3, 7, 2, 2, 2, 6)},
        {"sizes": (4, 6, 1, 5, 5)},
    ),
    (
        Mistake(_balanced_cut, "No mode is left in the middle: every mode was merged into one of the ends."),
        Mistake(lambda sizes: min(sizes[0], sizes[-1]), "That is the largest rank without merging."),
        Mistake(lambda sizes: min(sizes), "Only the ends must be as large as the rank; and modes may be merged there."),
        Mistake(
            lambda sizes: min(math.prod(sizes[: len(sizes) // 2]), math.prod(sizes[len(sizes) // 2 + 1 :])),
            "The central mode is not always the best one to keep.",
        ),
        Mistake(
            lambda sizes: max(
                min(sum(sizes[:c]), sum(sizes[c + 1 :])) for c in range(1, len(sizes) - 1) if sizes[c] > 1
            ),
            "Merged modes have the product of their sizes, not the sum.",
        ),
        Mistake(
            lambda sizes: max(min(math.prod(sizes[:c]), math.prod(sizes[c + 1 :])) for c in range(1, len(sizes) - 1)),
            "A mode of size 1 in the middle has parallel columns only, and its core no unique CPD.",
        ),
    ),
)

EXERCISES = (cpd_train_core, coupled_match, coupled_step_left, tucker_bound, coupled_largest_rank)
