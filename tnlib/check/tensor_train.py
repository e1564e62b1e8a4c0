"""Exercises of `notebooks/04_build_tensor_trains`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from tnlib.check.exercise import Exercise, Mistake

_NOTEBOOK = "04_build_tensor_trains"


class _Train(list[Tensor]):
    """Cores of a train; a list like any other that shows its sizes instead of its numbers."""

    def __repr__(self) -> str:
        return f"<train {', '.join('x'.join(map(str, core.shape)) for core in self)}>"


def _train(shape: Sequence[int], ranks: Sequence[int], seed: int, shift: float = 0.0) -> _Train:
    generator, bonds = torch.Generator().manual_seed(seed), [1, *ranks, 1]
    return _Train(
        shift + torch.randn(bonds[q], size, bonds[q + 1], generator=generator, dtype=torch.float64)
        for q, size in enumerate(shape)
    )


_HUGE = (2**16,) * 3  # to form such a tensor is impossible
_FORBIDDEN = "The tensor of this input is too large to form, or to walk through: cores alone have to do."


def _full(cores: Sequence[Tensor]) -> Tensor:
    product = cores[0]
    for core in cores[1:]:
        product = torch.tensordot(product, core, 1)
    return product[0, ..., 0]


def _sum(cores: Sequence[Tensor]) -> Tensor:
    row = torch.ones(1, 1, dtype=torch.float64)
    for core in cores:
        row = row @ core.sum(1)
    return row[0, 0]


def _entries(cores: Sequence[Tensor]) -> int:
    return math.prod(core.shape[1] for core in cores)


tt_sum = Exercise(
    "tt_sum",
    _NOTEBOOK,
    _sum,
    (
        {"cores": _train((4, 3, 5), (2, 3), 1)},
        {"cores": _train((2, 6, 3, 2), (2, 4, 2), 2)},
        {"cores": _train((2,) * 16, (2,) * 15, 3, shift=0.5)},
    ),
    (
        Mistake(
            lambda cores: torch.stack([core.sum() for core in cores]).prod(),
            "Neighbours share a bond index: it has the same value in both cores, so it cannot be summed in each alone.",
        ),
        Mistake(lambda cores: _sum(cores) / _entries(cores), "That is the mean of the entries."),
        Mistake(
            lambda cores: _full([core[:, :1] for core in cores]).sum(),
            "That is one entry: every mode's index must run over all its values.",
        ),
        Mistake(
            lambda cores: torch.stack([core.sum() for core in cores]).sum(),
            "That adds the numbers that are stored; an entry of the tensor is a product of matrices.",
        ),
    ),
    beyond=tuple({"cores": _train(sizes, (2, 2), 20)} for sizes in ((600,) * 3, _HUGE)),
    forbidden=_FORBIDDEN,
)


def _ranks(tensor: Tensor, order: Sequence[int]) -> Tensor:
    moved = tensor.permute(*order)
    cuts = [moved.reshape(math.prod(moved.shape[:q]), -1) for q in range(1, moved.ndim)]
    return torch.stack([torch.linalg.matrix_rank(cut) for cut in cuts])


def _inverse(order: Sequence[int]) -> list[int]:
    return [list(order).index(mode) for mode in range(len(order))]


def _mode_ranks(tensor: Tensor, order: Sequence[int]) -> Tensor:
    unfoldings = [tensor.movedim(mode, 0).flatten(1) for mode in order[:-1]]
    return torch.stack([torch.linalg.matrix_rank(unfolding) for unfolding in unfoldings])


def _largest_ranks(tensor: Tensor, order: Sequence[int]) -> Tensor:
    sizes = [tensor.shape[mode] for mode in order]
    return torch.tensor([min(math.prod(sizes[:q]), math.prod(sizes[q:])) for q in range(1, len(sizes))])


_CHAIN = _full(_train((4, 5, 3, 6), (2, 3, 2), 4))

tt_ranks = Exercise(
    "tt_ranks",
    _NOTEBOOK,
    _ranks,
    (
        {"tensor": _full(_train((3, 4, 2, 3, 4), (2, 3, 3, 2), 5)), "order": (4, 1, 0, 3, 2)},
        {"tensor": _CHAIN, "order": (2, 0, 3, 1)},
        {"tensor": _CHAIN, "order": (1, 2, 0, 3)},
    ),
    (
        Mistake(
            lambda tensor, order: _ranks(tensor, range(tensor.ndim)),
            "These are the ranks in the order the tensor came in.",
        ),
        Mistake(
            lambda tensor, order: _ranks(tensor, _inverse(order)),
            "You applied the inverse permutation: order[0] is the mode that comes first.",
        ),
        Mistake(
            _mode_ranks, "These are ranks of mode unfoldings, one mode against the rest: Tucker's, not the train's."
        ),
        Mistake(_largest_ranks, "These follow from the sizes alone, and are upper limits; look at the entries."),
        Mistake(lambda tensor, order: _ranks(tensor, order).flip(0), "These are the ranks read from the right end."),
    ),
)


def _inner(x: Sequence[Tensor], y: Sequence[Tensor]) -> Tensor:
    left = torch.ones(1, 1, dtype=torch.float64)
    for a, b in zip(x, y, strict=True):
        left = torch.einsum("cnb,cnd->bd", torch.einsum("ac,anb->cnb", left, a), b)
    return left[0, 0]


def _distance(x: Sequence[Tensor], y: Sequence[Tensor]) -> Tensor:
    return (_inner(x, x) - 2 * _inner(x, y) + _inner(y, y)).sqrt()


tt_distance = Exercise(
    "tt_distance",
    _NOTEBOOK,
    _distance,
    (
        {"x": _train((4, 3, 5), (2, 3), 6), "y": _train((4, 3, 5), (3, 2), 7)},
        {"x": _train((3,) * 9, (2,) * 8, 8, shift=0.5), "y": _train((3,) * 9, (3,) * 8, 9)},
    ),
    (
        Mistake(
            lambda x, y: (_inner(x, x).sqrt() - _inner(y, y).sqrt()).abs(),
            "That is the difference of the norms, not the norm of the difference.",
        ),
        Mistake(lambda x, y: _distance(x, y) ** 2, "That is the squared distance."),
        Mistake(
            lambda x, y: (_inner(x, x) + 2 * _inner(x, y) + _inner(y, y)).sqrt(),
            "That is the norm of the sum: check a sign.",
        ),
        Mistake(
            lambda x, y: (_inner(x, x) - _inner(x, y) + _inner(y, y)).abs().sqrt(),
            "Multiply the square of a difference out again: how often does the mixed term occur?",
        ),
        Mistake(
            lambda x, y: (_inner(x, x) + _inner(y, y)).sqrt(),
            "That would hold for orthogonal tensors; these two are not.",
        ),
    ),
    tolerance=1e-5,
    beyond=({"x": _train(_HUGE, (2, 2), 21), "y": _train(_HUGE, (1, 3), 22)},),
    forbidden=_FORBIDDEN,
)


def _ring(sites: int, coupling: float) -> float:
    return (2 * math.cosh(coupling)) ** sites + (2 * math.sinh(coupling)) ** sites


ising_ring = Exercise(
    "ising_ring",
    _NOTEBOOK,
    _ring,
    (
        {"sites": 3, "coupling": 0.7},
        {"sites": 5, "coupling": -0.4},
        {"sites": 6, "coupling": 0.3},
        {"sites": 40, "coupling": 0.5},
    ),
    (
        Mistake(
            lambda sites, coupling: 2 * (2 * math.cosh(coupling)) ** (sites - 1),
            "That is the open chain: the ring has one more bond, between the last spin and the first.",
        ),
        Mistake(
            lambda sites, coupling: (2 * math.cosh(coupling)) ** sites,
            "You kept the larger eigenvalue; a trace is a sum over both.",
        ),
        Mistake(
            lambda sites, coupling: _ring(sites - 1, coupling),
            "One factor is missing: how many bonds has a ring of that many spins?",
        ),
        Mistake(
            lambda sites, coupling: (2 * math.cosh(coupling)) ** sites + abs(2 * math.sinh(coupling)) ** sites,
            "Right for positive couplings; one of the eigenvalues can be negative.",
        ),
        Mistake(
            lambda sites, coupling: math.cosh(coupling) ** sites + math.sinh(coupling) ** sites,
            "Off by a power of two: check the eigenvalues of the 2 x 2 transfer matrix.",
        ),
    ),
)


def _left_sweep(cores: Sequence[Tensor], q: int) -> list[Tensor]:
    """Cores before number q made left-orthogonal, what is left over multiplied into core q."""
    cores = list(cores)
    for k in range(q):
        left, size, right = cores[k].shape
        basis, rest = torch.linalg.qr(cores[k].reshape(left * size, right))
        cores[k], cores[k + 1] = basis.reshape(left, size, -1), torch.tensordot(rest, cores[k + 1], 1)
    return cores


def _mirror(cores: Sequence[Tensor]) -> list[Tensor]:
    return [core.permute(2, 1, 0) for core in reversed(cores)]


def _bond_values(cores: Sequence[Tensor], q: int) -> Tensor:
    right_orthogonal = _mirror(_left_sweep(_mirror(cores), len(cores) - q))
    core = _left_sweep(right_orthogonal, q - 1)[q - 1]
    values: Tensor = torch.linalg.svdvals(core.flatten(0, 1))
    return values


def _as_it_stands(cores: Sequence[Tensor], q: int) -> Tensor:
    values: Tensor = torch.linalg.svdvals(cores[q - 1].flatten(0, 1))
    return values


def _one_sided(cores: Sequence[Tensor], q: int) -> Tensor:
    values: Tensor = torch.linalg.svdvals(_left_sweep(cores, q - 1)[q - 1].flatten(0, 1))
    return values


def _next_bond(cores: Sequence[Tensor], q: int) -> Tensor:
    return _bond_values(cores, q + 1 if q + 1 < len(cores) else q - 1)


tt_singular_values = Exercise(
    "tt_singular_values",
    _NOTEBOOK,
    _bond_values,
    (
        {"cores": _train((4, 3, 5, 4), (3, 4, 2), 10), "q": 2},
        {"cores": _train((4, 3, 5, 4), (3, 4, 2), 10), "q": 1},
        {"cores": _train((3,) * 8, (3, 4, 5, 4, 5, 4, 3), 11), "q": 5},
    ),
    (
        Mistake(
            _as_it_stands,
            "These are the core's singular values; they are the tensor's only when the cores around it are orthogonal.",
        ),
        Mistake(_one_sided, "The cores to the left are orthogonal now; those to the right are not."),
        Mistake(_next_bond, "These belong to a neighbouring bond: R_q follows the first q modes."),
        Mistake(lambda cores, q: _bond_values(cores, q) ** 2, "These are the squares: eigenvalues of a Gram matrix."),
        Mistake(
            lambda cores, q: _bond_values(cores, q) / _bond_values(cores, q).norm(),
            "Right up to one factor: the tensor's norm got lost.",
        ),
    ),
    beyond=({"cores": _train(_HUGE, (2, 2), 23), "q": 1},),
    forbidden=_FORBIDDEN,
)

EXERCISES = (tt_sum, tt_ranks, tt_distance, ising_ring, tt_singular_values)
