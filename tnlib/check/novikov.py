"""Exercises of `09_reproduce_novikov`: compression factors, cores that move, a train that grows."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from tnlib.check.exercise import Exercise, Mistake

NOTEBOOK = "09_reproduce_novikov"
_generator = torch.Generator().manual_seed(2015)


def _normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=_generator, dtype=torch.float64)


def _train(row_dims: Sequence[int], col_dims: Sequence[int], *ranks: int) -> list[Tensor]:
    sizes = zip(pairwise((1, *ranks, 1)), row_dims, col_dims, strict=True)
    return [_normal(left, m, n, right) / math.sqrt(left * n) for (left, right), m, n in sizes]


# 1. Factors from shapes


def _factor(
    row_dims: Sequence[int],
    col_dims: Sequence[int],
    rank: int,
    *,
    end: int = 1,
    pair: Callable[[int, int], int] = operator.mul,
) -> float:
    bonds = pairwise((end, *[rank] * (len(row_dims) - 1), end))
    numbers = sum(a * b * pair(m, n) for (a, b), m, n in zip(bonds, row_dims, col_dims, strict=True))
    return math.prod(row_dims) * math.prod(col_dims) / numbers


TTM_FACTOR = Exercise(
    "ttm_factor",
    NOTEBOOK,
    _factor,
    (
        {"row_dims": (4, 3), "col_dims": (2, 5), "rank": 1},
        {"row_dims": (4, 3, 2), "col_dims": (2, 5, 7), "rank": 3},
        {"row_dims": (4,) * 6, "col_dims": (2, 7, 8, 8, 7, 4), "rank": 4},
        {"row_dims": (2,) * 10, "col_dims": (2,) * 10, "rank": 8},
    ),
    (
        Mistake(
            lambda row_dims, col_dims, rank: _factor(row_dims, col_dims, rank, end=rank),
            "The first and the last core have one bond, not two.",
        ),
        Mistake(
            lambda row_dims, col_dims, rank: 1 / _factor(row_dims, col_dims, rank),
            "How many times *fewer*: the dense layer's numbers over the train's.",
        ),
        Mistake(
            lambda row_dims, col_dims, rank: _factor(row_dims, col_dims, rank, pair=operator.add),
            "A core pairs its two digits: m times n slices, not m plus n.",
        ),
        Mistake(
            lambda row_dims, col_dims, rank: _factor(row_dims, col_dims, rank) / math.prod(row_dims),
            "The dense layer has a number for each pair of an input and an output.",
        ),
        Mistake(
            lambda row_dims, col_dims, rank: math.floor(_factor(row_dims, col_dims, rank)), "A ratio: do not round it."
        ),
    ),
)

# 2. All cores move at once


def _step(state: Tensor, core: Tensor, digit: int) -> Tensor:
    """One core takes its digit in; the state is (sample, digits to read, the next digit, bond, digits written)."""
    moved = torch.einsum("bpnco,amnc->bpamo", state, core)
    return moved.reshape(len(state), -1, digit, core.shape[0], math.prod(moved.shape[3:]))


def _directional(cores: Sequence[Tensor], directions: Sequence[Tensor], x: Tensor) -> Tensor:
    state = x.reshape(len(x), -1, cores[-1].shape[2], 1, 1)
    slope = torch.zeros_like(state)
    for q in reversed(range(len(cores))):
        digit = cores[q - 1].shape[2] if q else 1
        slope = _step(slope, cores[q], digit) + _step(state, directions[q], digit)
        state = _step(state, cores[q], digit)
    return slope.flatten(1)


def _output(cores: Sequence[Tensor], x: Tensor) -> Tensor:
    state = x.reshape(len(x), -1, cores[-1].shape[2], 1, 1)
    for q in reversed(range(len(cores))):
        state = _step(state, cores[q], cores[q - 1].shape[2] if q else 1)
    return state.flatten(1)


def _moved(cores: Sequence[Tensor], directions: Sequence[Tensor], t: float) -> list[Tensor]:
    return [core + t * direction for core, direction in zip(cores, directions, strict=True)]


def _case(row_dims: Sequence[int], col_dims: Sequence[int], ranks: Sequence[int], batch: int) -> dict[str, object]:
    cores, directions = (_train(row_dims, col_dims, *ranks) for _ in range(2))
    return {"cores": cores, "directions": directions, "x": _normal(batch, math.prod(col_dims))}


DIRECTIONAL_OUTPUT = Exercise(
    "directional_output",
    NOTEBOOK,
    _directional,
    (
        _case((2, 3), (3, 2), (2,), 1),
        _case((2, 3, 2), (3, 2, 2), (2, 3), 4),
        _case((3, 2, 2, 2), (2, 3, 2, 3), (3, 4, 2), 3),
    ),
    (
        Mistake(
            lambda cores, directions, x: _output(directions, x),
            "That is the output of the directions as a train: each term of the derivative has one of them only.",
        ),
        Mistake(
            lambda cores, directions, x: _directional(cores, [*map(torch.zeros_like, cores[:-1]), directions[-1]], x),
            "Only the last core moves.",
        ),
        Mistake(
            lambda cores, directions, x: _directional(cores, [directions[0], *map(torch.zeros_like, cores[1:])], x),
            "Only the first core moves.",
        ),
        Mistake(
            lambda cores, directions, x: _output(_moved(cores, directions, 1.0), x) - _output(cores, x),
            "That is a whole step, with the products of several moves in it; the derivative has the first order only.",
        ),
        Mistake(
            lambda cores, directions, x: _output(_moved(cores, directions, 1.0), x),
            "That is the output after the step.",
        ),
    ),
    beyond=(_case((4,) * 9, (4,) * 9, (2,) * 8, 1),),
    forbidden="Do not build the matrix of the layer: it has a number for each pair of an input and an output.",
)

# 3. A train that grows


def _interfaces(cores: Sequence[Tensor]) -> list[Tensor]:
    """For each bond the product of the cores before it, (all digits before, rank)."""
    left, found = torch.ones(1, cores[0].shape[0], dtype=cores[0].dtype), []
    for core in cores[:-1]:
        left = (left @ core.flatten(1)).reshape(-1, core.shape[3])
        found.append(left)
    return found


def _can_grow(left: Tensor, right: Tensor) -> bool:
    return any(int(torch.linalg.matrix_rank(side, rtol=1e-6)) == side.shape[1] for side in (left, right))


def _grown(answer: Sequence[Tensor], cores: Sequence[Tensor], extra: int, seed: int) -> Tensor:
    """What counts of a grown train: ranks, whether it has new numbers, and each bond a new direction; its matrix."""
    found = [core.detach().double() for core in answer]
    new = sum(int(core.count_nonzero()) for core in found) > sum(int(core.count_nonzero()) for core in cores)
    ranks = [float(core.shape[3]) for core in found]
    mirrored = [core.transpose(0, 3) for core in reversed(found)]
    sides = zip(_interfaces(found), reversed(_interfaces(mirrored)), strict=True)
    free = [float(_can_grow(*side)) for side in sides]
    product = torch.ones(1, found[0].shape[0], dtype=torch.float64)
    for core in found:
        product = product.reshape(-1, core.shape[0]) @ core.flatten(1)
    return torch.cat([torch.tensor([*ranks, float(new), *free], dtype=torch.float64), product.flatten()])


def _grow(
    cores: Sequence[Tensor], extra: int, seed: int, *, rows: bool = False, columns: bool = True, ends: bool = False
) -> list[Tensor]:
    generator, last, found = torch.Generator().manual_seed(seed), len(cores) - 1, []
    for q, core in enumerate(cores):
        above, beyond = extra * (q > 0 or ends), extra * (q < last or ends)
        left, m, n, right = core.shape
        new = torch.zeros(left + above, m, n, right + beyond, dtype=core.dtype)
        new[:left, ..., :right] = core
        if columns and beyond:
            new[:left, ..., right:] = torch.randn(left, m, n, beyond, generator=generator).to(core)
        if rows and above:
            new[left:] = torch.randn(new[left:].shape, generator=generator).to(core)
        found.append(new)
    return found


def _copied(cores: Sequence[Tensor], extra: int, seed: int) -> list[Tensor]:
    """Every bond twice as wide by copies, or as far as `extra` goes."""
    found = []
    for q, core in enumerate(cores):
        if q < len(cores) - 1:
            core = torch.cat([core, core[..., :extra]], 3)
        if q > 0:
            share = torch.ones(cores[q].shape[0], dtype=core.dtype)
            share[:extra] = 0.5
            core = core * share.reshape(-1, 1, 1, 1)
            core = torch.cat([core, core[:extra]])
        found.append(core)
    return found


GROW_TRAIN = Exercise(
    "grow_train",
    NOTEBOOK,
    _grow,
    (
        {"cores": _train((2, 3), (3, 2), 1), "extra": 1, "seed": 0},
        {"cores": _train((3, 2, 3), (2, 3, 2), 2, 2), "extra": 1, "seed": 1},
        {"cores": _train((3, 2, 2, 3), (3, 3, 2, 2), 3, 4, 2), "extra": 2, "seed": 2},
    ),
    (
        Mistake(
            lambda cores, extra, seed: _grow(cores, extra, seed, columns=False),
            "With zeros on both sides of a bond all new entries' gradients are 0: the train stays as it is.",
        ),
        Mistake(
            lambda cores, extra, seed: _grow(cores, extra, seed, rows=True),
            "New numbers on both sides of a bond: the layer computes something else now.",
        ),
        Mistake(
            _copied,
            "Copies get the gradients of what they copy and stay copies: the bond has no new direction.",
        ),
        Mistake(lambda cores, extra, seed: _grow(cores, extra, seed, ends=True), "The bonds at both ends stay 1."),
        Mistake(lambda cores, extra, seed: list(cores), "The ranks are what they were."),
    ),
    reading=_grown,
)

EXERCISES = (TTM_FACTOR, DIRECTIONAL_OUTPUT, GROW_TRAIN)
