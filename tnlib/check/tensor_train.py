"""Exercises of `notebooks/04_build_tensor_trains`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from tnlib.check.exercise import Exercise, Mistake

_NOTEBOOK = "04_build_tensor_trains"


class Train(list[Tensor]):
    """Cores of a train; a list like any other that shows its sizes instead of its numbers."""

    def __repr__(self) -> str:
        return f"<train {', '.join('x'.join(map(str, core.shape)) for core in self)}>"


def random_train(shape: Sequence[int], ranks: Sequence[int], seed: int, shift: float = 0.0) -> Train:
    """A train of normal entries around `shift`."""
    generator, bonds = torch.Generator().manual_seed(seed), [1, *ranks, 1]
    return Train(
        shift + torch.randn(bonds[q], size, bonds[q + 1], generator=generator, dtype=torch.float64)
        for q, size in enumerate(shape)
    )


HUGE = (2**16,) * 3  # to form such a tensor is impossible
FORBIDDEN = "The tensor of this input is too large to form, or to walk through: cores alone have to do."


def full(cores: Sequence[Tensor]) -> Tensor:
    """The tensor of a train."""
    product = cores[0]
    for core in cores[1:]:
        product = torch.tensordot(product, core, 1)
    return product[0, ..., 0]


def _entry(cores: Sequence[Tensor], index: Sequence[int]) -> Tensor:
    row = torch.ones(1, dtype=torch.float64)
    for core, i in zip(cores, index, strict=True):
        row = row @ core[:, i]
    return row[0]


tt_entry = Exercise(
    "tt_entry",
    _NOTEBOOK,
    _entry,
    (
        {"cores": random_train((4, 3, 4), (2, 3), 1), "index": (3, 1, 2)},
        {"cores": random_train((3, 5, 5, 3), (2, 4, 2), 2), "index": (0, 4, 1, 2)},
    ),
    (
        Mistake(
            lambda cores, index: torch.stack([c[:, i].sum() for c, i in zip(cores, index, strict=True)]).prod(),
            "Neighbours share a bond index: it has the same value in both cores, so it cannot be summed in each alone.",
        ),
        Mistake(
            lambda cores, index: torch.stack([c[0, i, 0] for c, i in zip(cores, index, strict=True)]).prod(),
            "You used one number of each matrix; a bond index runs over all its values.",
        ),
        Mistake(
            lambda cores, index: _entry(cores, [i - 1 for i in index]),
            "That is another entry: indices count from 0.",
        ),
        Mistake(
            lambda cores, index: _entry(cores, index[::-1]),
            "That is another entry: index[0] belongs to the first core.",
        ),
        Mistake(
            lambda cores, index: torch.stack([c[:, i].norm() for c, i in zip(cores, index, strict=True)]).prod(),
            "That is a bound: the norm of a product of matrices is at most the product of their norms.",
        ),
    ),
    beyond=tuple({"cores": random_train(sizes, (2, 2), 20), "index": (599, 0, 7)} for sizes in ((600,) * 3, HUGE)),
    forbidden=FORBIDDEN,
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


_CHAIN = full(random_train((4, 5, 3, 6), (2, 3, 2), 4))

tt_ranks = Exercise(
    "tt_ranks",
    _NOTEBOOK,
    _ranks,
    (
        {"tensor": full(random_train((3, 4, 2, 3, 4), (2, 3, 3, 2), 5)), "order": (4, 1, 0, 3, 2)},
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


def _matrix_train(rows: Sequence[int], ranks: Sequence[int], seed: int, shift: float = 0.0) -> Train:
    cores = random_train([n * n for n in rows], ranks, seed, shift)
    return Train(core.reshape(len(core), n, n, -1) for core, n in zip(cores, rows, strict=True))


def _diagonal(cores: Sequence[Tensor]) -> list[Tensor]:
    return [torch.einsum("aiib->aib", core) for core in cores]


def _product(matrices: Sequence[Tensor]) -> Tensor:
    row = torch.ones(1, 1, dtype=torch.float64)
    for matrix in matrices:
        row = row @ matrix
    return row[0, 0]


def _trace(cores: Sequence[Tensor]) -> Tensor:
    return _product([core.sum(1) for core in _diagonal(cores)])


tt_matrix_trace = Exercise(
    "tt_matrix_trace",
    _NOTEBOOK,
    _trace,
    (
        {"cores": _matrix_train((2, 3, 2), (2, 3), 12)},
        {"cores": _matrix_train((3, 2, 4, 2), (3, 4, 2), 13)},
        {"cores": _matrix_train((2,) * 8, (2,) * 7, 14, shift=0.5)},
    ),
    (
        Mistake(
            lambda cores: _product([core.sum((1, 2)) for core in cores]),
            "That is the sum of all entries of the matrix, off the diagonal, too.",
        ),
        Mistake(
            lambda cores: torch.stack([core.sum() for core in _diagonal(cores)]).prod(),
            "Neighbours share a bond index: it cannot be summed in each core alone.",
        ),
        Mistake(
            lambda cores: _product([core[:, 0, 0] for core in cores]),
            "That is the first entry of the diagonal: every digit must run over all its values.",
        ),
        Mistake(
            lambda cores: _trace(cores) / math.prod(core.shape[1] for core in cores),
            "That is the mean of the diagonal.",
        ),
        Mistake(
            lambda cores: full(_diagonal(cores)).prod(),
            "That multiplies the entries of the diagonal; a trace adds them.",
        ),
    ),
    beyond=tuple({"cores": _matrix_train(rows, (2, 2), 24)} for rows in ((24,) * 3, (128,) * 3)),
    forbidden="The matrix of this input is too large to form, or to walk through: cores alone have to do.",
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
        {"cores": random_train((4, 3, 5, 4), (3, 4, 2), 10), "q": 2},
        {"cores": random_train((4, 3, 5, 4), (3, 4, 2), 10), "q": 1},
        {"cores": random_train((3,) * 8, (3, 4, 5, 4, 5, 4, 3), 11), "q": 5},
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
    beyond=({"cores": random_train(HUGE, (2, 2), 23), "q": 1},),
    forbidden=FORBIDDEN,
)

EXERCISES = (tt_entry, tt_ranks, tt_matrix_trace, tt_singular_values)
