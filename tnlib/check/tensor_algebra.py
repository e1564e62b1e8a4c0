"""Exercises of `notebooks/01_work_with_tensors`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from tnlib.check.exercise import Exercise, Mistake

_NOTEBOOK = "01_work_with_tensors"


def _randn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def _flat(shape: Sequence[int], index: Sequence[int]) -> int:
    """Row-major position of an entry."""
    position = 0
    for size, i in zip(shape, index, strict=True):
        position = position * size + i
    return position


def _without(values: Sequence[int], mode: int) -> list[int]:
    return [value for n, value in enumerate(values) if n != mode]


def _column(shape: Sequence[int], index: Sequence[int], mode: int) -> int:
    return _flat(_without(shape, mode), _without(index, mode))


tensor_unfold_column = Exercise(
    "tensor_unfold_column",
    _NOTEBOOK,
    _column,
    (
        {"shape": (3, 5, 4, 7), "index": (1, 4, 2, 5), "mode": 1},
        {"shape": (2, 3, 4), "index": (1, 2, 3), "mode": 0},
        {"shape": (6, 2, 5), "index": (4, 1, 3), "mode": 2},
    ),
    (
        Mistake(
            lambda shape, index, mode: _flat(_without(shape, mode)[::-1], _without(index, mode)[::-1]),
            "That is Kolda and Bader's order of the columns: which of the other modes runs fastest in TensorLy's?",
        ),
        Mistake(
            lambda shape, index, mode: _flat(shape, index),
            "That is the position in the flattened tensor; the unfolded mode picks the row, not the column.",
        ),
        Mistake(
            lambda shape, index, mode: sum(i * math.prod(shape[n + 1 :]) for n, i in enumerate(index) if n != mode),
            "You left the mode out of the index, but its size is still in the strides.",
        ),
        Mistake(
            lambda shape, index, mode: _column(shape, index, mode) + 1,
            "One too many: columns are counted from 0 here, in papers mostly from 1.",
        ),
        Mistake(
            lambda shape, index, mode: index[mode],
            "That is the row. The column depends on all other indices.",
        ),
    ),
)


def _cyclic(tensor: Tensor, mode: int) -> Tensor:
    order = [(mode + k) % tensor.ndim for k in range(tensor.ndim)]
    return tensor.permute(order).reshape(tensor.shape[mode], -1)


def _row_major(tensor: Tensor, mode: int) -> Tensor:
    return tensor.movedim(mode, 0).reshape(tensor.shape[mode], -1)


def _column_major(tensor: Tensor, mode: int) -> Tensor:
    others = [n for n in reversed(range(tensor.ndim)) if n != mode]
    return tensor.permute(mode, *others).reshape(tensor.shape[mode], -1)


def _cyclic_reversed(tensor: Tensor, mode: int) -> Tensor:
    order = [(mode - k) % tensor.ndim for k in range(tensor.ndim)]
    return tensor.permute(order).reshape(tensor.shape[mode], -1)


def _no_permutation(tensor: Tensor, mode: int) -> Tensor:
    return tensor.reshape(tensor.shape[mode], -1)


def _cyclic_transposed(tensor: Tensor, mode: int) -> Tensor:
    return _cyclic(tensor, mode).T


tensor_unfold_cyclic = Exercise(
    "tensor_unfold_cyclic",
    _NOTEBOOK,
    _cyclic,
    tuple({"tensor": _randn(3, 2, 5, 4), "mode": mode} for mode in (1, 2, 0, 3)),
    (
        Mistake(_row_major, "That is TensorLy's unfolding: its other modes start at 0, not after the unfolded mode."),
        Mistake(_column_major, "That is Kolda and Bader's unfolding: its other modes run down from the last."),
        Mistake(_cyclic_reversed, "Cyclic, but in the wrong direction: which of the other modes is the slowest?"),
        Mistake(_no_permutation, "A reshape alone keeps the memory order: are your columns fibres of this mode?"),
        Mistake(_cyclic_transposed, "Transposed: the unfolded mode belongs to the rows."),
    ),
)


def _cp_inner(A: Tensor, B: Tensor, C: Tensor, D: Tensor, E: Tensor, F: Tensor) -> Tensor:
    return ((A.T @ D) * (B.T @ E) * (C.T @ F)).sum()


def _matched_terms(A: Tensor, B: Tensor, C: Tensor, D: Tensor, E: Tensor, F: Tensor) -> Tensor:
    return ((A.T @ D) * (B.T @ E) * (C.T @ F)).diagonal().sum()


def _summed_grams(A: Tensor, B: Tensor, C: Tensor, D: Tensor, E: Tensor, F: Tensor) -> Tensor:
    return (A.T @ D + B.T @ E + C.T @ F).sum()


def _product_of_sums(A: Tensor, B: Tensor, C: Tensor, D: Tensor, E: Tensor, F: Tensor) -> Tensor:
    return (A.T @ D).sum() * (B.T @ E).sum() * (C.T @ F).sum()


def _chained_grams(A: Tensor, B: Tensor, C: Tensor, D: Tensor, E: Tensor, F: Tensor) -> Tensor:
    return ((A.T @ D) @ (B.T @ E).T @ (C.T @ F)).sum()


def _own_norm(A: Tensor, B: Tensor, C: Tensor, D: Tensor, E: Tensor, F: Tensor) -> Tensor:
    return _cp_inner(A, B, C, A, B, C)


def _cosine(A: Tensor, B: Tensor, C: Tensor, D: Tensor, E: Tensor, F: Tensor) -> Tensor:
    return _cp_inner(A, B, C, D, E, F) / (_own_norm(A, B, C, D, E, F) * _own_norm(D, E, F, A, B, C)).sqrt()


def _cp_case(sizes: tuple[int, int, int], ranks: tuple[int, int]) -> dict[str, Tensor]:
    first, second = zip("ABC", sizes, strict=True), zip("DEF", sizes, strict=True)
    return {name: _randn(size, ranks[0]) for name, size in first} | {
        name: _randn(size + 1, ranks[1])[1:] for name, size in second
    }


tensor_cp_inner = Exercise(
    "tensor_cp_inner",
    _NOTEBOOK,
    _cp_inner,
    (_cp_case((5, 7, 4), (3, 2)), _cp_case((60, 50, 40), (2, 4)), _cp_case((4, 6, 5), (3, 3))),
    (
        Mistake(_matched_terms, "Only equal terms are paired; the inner product of two sums has all pairs of terms."),
        Mistake(_summed_grams, "The modes are added. For two rank-one tensors: sum or product of inner products?"),
        Mistake(
            _product_of_sums, "Too early a sum: it makes one pair of numbers out of all pairs of terms, mode by mode."
        ),
        Mistake(
            _chained_grams, "A matrix product stands where the modes' matrices are to be multiplied entry by entry."
        ),
        Mistake(_own_norm, "That is the squared norm of the first tensor; the second one is not in it."),
        Mistake(_cosine, "That is the cosine of the angle between them: do not divide by the norms."),
    ),
    beyond=(_cp_case((600, 600, 600), (2, 3)), _cp_case((2**16, 2**16, 2**16), (2, 3))),
    forbidden="The tensors of this input are too large to form, or to walk through: factors alone have to do.",
)


def _ladder(Q: int, N: int, R: int) -> int:
    return N * R**2 + 2 * (Q - 2) * N * R**3 + N * R**2 + N * R


tensor_train_inner_macs = Exercise(
    "tensor_train_inner_macs",
    _NOTEBOOK,
    _ladder,
    ({"Q": 3, "N": 20, "R": 5}, {"Q": 10, "N": 4, "R": 7}, {"Q": 4, "N": 3, "R": 2}),
    (
        Mistake(
            lambda Q, N, R: N * R**2 + (Q - 2) * N * R**3 + N * R**2 + N * R,
            "Each inner rung has two cores, and each takes a step of its own.",
        ),
        Mistake(
            lambda Q, N, R: N * R**2 + (Q - 2) * N * R**4 + N * R**2,
            "You swallow both cores of a rung in one step; one after the other is cheaper.",
        ),
        Mistake(
            lambda Q, N, R: 2 * Q * N * R**3,
            "You count every core as an inner one, but those at both ends have one line less.",
        ),
        Mistake(
            lambda Q, N, R: N * R**2 + 2 * (Q - 2) * N * R**3,
            "The last rung is missing.",
        ),
        Mistake(
            lambda Q, N, R: 2 * N * R**2 + 2 * (Q - 2) * N * R**3,
            "Almost: the last rung has two cores as well, and the second meets a matrix that has their line alone.",
        ),
        Mistake(
            lambda Q, N, R: 2 * N * R**2 + 2 * (Q - 2) * N * R**3 + R**2,
            "That starts at both ends, which is another order: start at one end and walk to the other.",
        ),
        Mistake(
            lambda Q, N, R: 2 * (N * R**2 + 2 * (Q - 2) * N * R**3 + N * R**2 + N * R),
            "Twice too many: a MAC is one multiplication together with its addition.",
        ),
    ),
)


def _rank(matrix: Tensor) -> int:
    return int(torch.linalg.matrix_rank(matrix))


def _paired(matrix: Tensor, row_dims: Sequence[int], col_dims: Sequence[int], k: int) -> int:
    d = len(row_dims)
    tensor = matrix.reshape(*row_dims, *col_dims).permute([axis for n in range(d) for axis in (n, d + n)])
    return _rank(tensor.reshape(math.prod(row_dims[:k]) * math.prod(col_dims[:k]), -1))


def _unpaired(matrix: Tensor, row_dims: Sequence[int], col_dims: Sequence[int], k: int) -> int:
    return _rank(matrix.reshape(math.prod(row_dims[:k]) * math.prod(col_dims[:k]), -1))


def _largest(matrix: Tensor, row_dims: Sequence[int], col_dims: Sequence[int], k: int) -> int:
    rows = math.prod(row_dims[:k]) * math.prod(col_dims[:k])
    return min(rows, matrix.numel() // rows)


def _inverse(matrix: Tensor, row_dims: Sequence[int], col_dims: Sequence[int], k: int) -> int:
    d = len(row_dims)
    order = [axis for n in range(d) for axis in (n, d + n)]
    tensor = matrix.reshape(*row_dims, *col_dims).permute([order.index(axis) for axis in range(2 * d)])
    return _rank(tensor.reshape(math.prod(row_dims[:k]) * math.prod(col_dims[:k]), -1))


def _plain_rank(matrix: Tensor, row_dims: Sequence[int], col_dims: Sequence[int], k: int) -> int:
    return _rank(matrix)


def _row_digits(matrix: Tensor, row_dims: Sequence[int], col_dims: Sequence[int], k: int) -> int:
    return _rank(matrix.reshape(math.prod(row_dims[:k]), -1))


def _next_cut(matrix: Tensor, row_dims: Sequence[int], col_dims: Sequence[int], k: int) -> int:
    return _paired(matrix, row_dims, col_dims, k + 1)


def _last_digits(matrix: Tensor, row_dims: Sequence[int], col_dims: Sequence[int], k: int) -> int:
    return _paired(matrix, row_dims, col_dims, len(row_dims) - k)


def _train_matrix(row_dims: tuple[int, ...], col_dims: tuple[int, ...], ranks: tuple[int, ...]) -> Tensor:
    """A random matrix of given TT-matrix ranks."""
    bounds = (1, *ranks, 1)
    result = torch.ones(1, 1, 1, dtype=torch.float64)
    for n, (rows, cols) in enumerate(zip(row_dims, col_dims, strict=True)):
        core = _randn(bounds[n], rows, cols, bounds[n + 1])
        result = torch.einsum("xya,aijb->xiyjb", result, core).reshape(
            result.shape[0] * rows, result.shape[1] * cols, bounds[n + 1]
        )
    return result[:, :, 0]


_MATRIX = _train_matrix((3, 2, 4), (2, 5, 3), (2, 5))
_BINARY = _train_matrix((2, 2, 2, 2), (2, 2, 2, 2), (1, 3, 2))

tensor_paired_rank = Exercise(
    "tensor_paired_rank",
    _NOTEBOOK,
    _paired,
    (
        {"matrix": _MATRIX, "row_dims": (3, 2, 4), "col_dims": (2, 5, 3), "k": 1},
        {"matrix": _MATRIX, "row_dims": (3, 2, 4), "col_dims": (2, 5, 3), "k": 2},
        {"matrix": _BINARY, "row_dims": (2, 2, 2, 2), "col_dims": (2, 2, 2, 2), "k": 2},
        {"matrix": _BINARY, "row_dims": (2, 2, 2, 2), "col_dims": (2, 2, 2, 2), "k": 1},
        {"matrix": torch.ones(16, 16, dtype=torch.float64), "row_dims": (2, 2, 2, 2), "col_dims": (2, 2, 2, 2), "k": 2},
    ),
    (
        Mistake(_largest, "That is the largest rank that a matrix of this size can have, whatever its entries."),
        Mistake(_inverse, "Digits are mixed, but not paired: `permute` got the inverse of the permutation it needs."),
        Mistake(
            _unpaired, "The right sizes but no pairing: a reshape alone leaves all row digits before all column digits."
        ),
        Mistake(_plain_rank, "That is the matrix's own rank: the cut between all row digits and all column digits."),
        Mistake(_row_digits, "Only row digits stand on the left of your cut; their column digits belong there too."),
        Mistake(_next_cut, "One pair too far: the first k pairs stand on the left."),
        Mistake(_last_digits, "You cut at the other end: digits are given most significant first."),
    ),
)

EXERCISES = (
    tensor_unfold_column,
    tensor_unfold_cyclic,
    tensor_cp_inner,
    tensor_train_inner_macs,
    tensor_paired_rank,
)
