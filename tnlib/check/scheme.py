"""Exercises of `14_propose_a_scheme`: targets behind a shortcut, reduced-rank regression, Kronecker products."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tnlib.check.exercise import Exercise, Mistake

NOTEBOOK = "14_propose_a_scheme"
_generator = torch.Generator().manual_seed(2021)


def _randn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=_generator, dtype=torch.float64)


# 1. What the last layer of a block should give


def _shortcut_target(wanted: Tensor, before: Tensor, now: Tensor, scale: Tensor) -> Tensor:
    """What the layer should give so that scale * layer + shortcut is the original's, though the shortcut has moved."""
    return wanted + (before - now) / scale[:, None]


def _block(channels: int, positions: int) -> dict[str, Tensor]:
    before = _randn(channels, positions)
    return {
        "wanted": _randn(channels, positions),
        "before": before,
        "now": before + 0.3 * _randn(channels, positions),
        "scale": 0.5 + torch.rand(channels, generator=_generator, dtype=torch.float64),
    }


SHORTCUT_TARGET = Exercise(
    "shortcut_target",
    NOTEBOOK,
    _shortcut_target,
    (_block(1, 2), _block(3, 3), _block(4, 10), _block(8, 5)),
    (
        Mistake(
            lambda wanted, before, now, scale: wanted - (before - now) / scale[:, None],
            "The sign: a shortcut that has become too small asks for more from the layer.",
        ),
        Mistake(
            lambda wanted, before, now, scale: wanted + (before - now) * scale[:, None],
            "BatchNorm multiplies what the layer gives by its scale; the gap is behind it.",
        ),
        Mistake(
            lambda wanted, before, now, scale: wanted + before - now,
            "Between the layer and the sum stands BatchNorm: by what does it multiply?",
        ),
        Mistake(
            lambda wanted, before, now, scale: wanted - now / scale[:, None],
            "Take what the shortcut has changed by, not all of it: the layer gave its part in the original, too.",
        ),
        Mistake(
            lambda wanted, before, now, scale: scale[:, None] * wanted + before - now,
            "That is what BatchNorm should give; what should the layer in front of it give?",
        ),
    ),
)

# 2. Reduced-rank regression


def _least_squares(x: Tensor, y: Tensor) -> Tensor:
    solution: Tensor = torch.linalg.lstsq(x.T, y.T).solution
    return solution.T


def _truncated(matrix: Tensor, rank: int) -> Tensor:
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    cut: Tensor = (u[:, :rank] * s[:rank]) @ v[:rank]
    return cut


def _reduced_rank(x: Tensor, y: Tensor, rank: int) -> Tensor:
    """The matrix K of at most that rank with the smallest |y - K x|: least squares, projected on leading outputs."""
    whole = _least_squares(x, y)
    u: Tensor = torch.linalg.svd(whole @ x, full_matrices=False).U[:, :rank]
    return u @ u.T @ whole


def _samples(outputs: int, inputs: int, number: int, rank: int) -> dict[str, Any]:
    x = torch.linspace(0.2, 2, inputs, dtype=torch.float64)[:, None] * _randn(inputs, number)
    x = _randn(inputs, inputs) @ x  # inputs are neither white nor apart
    noise = torch.linspace(3, 0.1, outputs, dtype=torch.float64)[:, None] * _randn(outputs, number)
    return {"x": x, "y": _randn(outputs, inputs) @ x / inputs + noise, "rank": rank}


def _by_outputs(x: Tensor, y: Tensor, rank: int) -> Tensor:
    u: Tensor = torch.linalg.svd(y, full_matrices=False).U[:, :rank]
    return u @ u.T @ _least_squares(x, y)


def _by_inputs(x: Tensor, y: Tensor, rank: int) -> Tensor:
    u: Tensor = torch.linalg.svd(x, full_matrices=False).U[:, :rank]
    return _least_squares(u.T @ x, y) @ u.T


REDUCED_RANK = Exercise(
    "reduced_rank",
    NOTEBOOK,
    _reduced_rank,
    (_samples(2, 3, 7, 1), _samples(4, 3, 20, 2), _samples(5, 6, 40, 3), _samples(9, 4, 30, 2), _samples(6, 8, 60, 4)),
    (
        Mistake(
            lambda x, y, rank: _truncated(_least_squares(x, y), rank),
            "That truncates least squares in its own norm; the error counts on the samples: look at K x.",
        ),
        Mistake(
            _by_outputs, "The directions to keep are those of what least squares *predicts*: the rest of y is noise."
        ),
        Mistake(_by_inputs, "Directions in which the inputs are large need not matter for the outputs."),
        Mistake(lambda x, y, rank: _least_squares(x, y), "The rank is too large."),
        Mistake(
            lambda x, y, rank: _truncated(y @ x.T / x.shape[1], rank),
            "y x^T is the cross moment; least squares divides by the moment of x.",
        ),
    ),
    tolerance=1e-6,
)

# 3. The nearest Kronecker product


def _nearest_kronecker(matrix: Tensor, m: int, n: int) -> Tensor:
    """The Kronecker product of an m x m and an n x n matrix nearest in the Frobenius norm (Van Loan and Pitsianis)."""
    rearranged = matrix.reshape(m, n, m, n).permute(0, 2, 1, 3).reshape(m * m, n * n)
    return _truncated(rearranged, 1).reshape(m, m, n, n).permute(0, 2, 1, 3).reshape(m * n, m * n)


def _moment(m: int, n: int) -> dict[str, Any]:
    left, right, rest = _randn(m, 3 * m), _randn(n, 3 * n), _randn(m * n, m * n)
    product = torch.kron(left @ left.T / m, right @ right.T / n)
    return {"matrix": product + rest @ rest.T, "m": m, "n": n}


def _by_traces(matrix: Tensor, m: int, n: int) -> Tensor:
    split = matrix.reshape(m, n, m, n)
    left, right = torch.einsum("ikjk->ij", split), torch.einsum("ikil->kl", split)
    return torch.kron(left, right) / matrix.trace()


def _swapped(matrix: Tensor, m: int, n: int) -> Tensor:
    turned = matrix.reshape(n, m, n, m).permute(1, 0, 3, 2).reshape(m * n, m * n)
    answer = _nearest_kronecker(turned, m, n).reshape(m, n, m, n).permute(1, 0, 3, 2)
    return answer.reshape(m * n, m * n)


def _with_means(matrix: Tensor, m: int, n: int) -> Tensor:
    """Alternating least squares, stopped after one step from the identity."""
    split = matrix.reshape(m, n, m, n)
    left = torch.einsum("ikjk->ij", split) / n
    right = torch.einsum("ij,ikjl->kl", left, split) / left.square().sum()
    return torch.kron(left, right)


NEAREST_KRONECKER = Exercise(
    "nearest_kronecker",
    NOTEBOOK,
    _nearest_kronecker,
    (_moment(2, 2), _moment(2, 3), _moment(3, 2), _moment(4, 3), _moment(2, 9)),
    (
        Mistake(
            _by_traces,
            "Partial traces give a product with the right trace, not the nearest one; which matrix has rank one?",
        ),
        Mistake(_swapped, "Row (i, k) of A (x) B is row i of A and row k of B, i the slower index."),
        Mistake(lambda matrix, m, n: _truncated(matrix, 1), "Rank one is not Kronecker: rearrange first."),
        Mistake(_with_means, "One step of alternation is not yet the nearest; an SVD of the rearrangement is."),
        Mistake(
            lambda matrix, m, n: matrix.reshape(m, n, m, n).permute(0, 2, 1, 3).reshape(m * m, n * n),
            "That is the rearrangement; keep its leading singular triple and go back.",
        ),
    ),
    tolerance=1e-6,
)

EXERCISES = (SHORTCUT_TARGET, REDUCED_RANK, NEAREST_KRONECKER)
