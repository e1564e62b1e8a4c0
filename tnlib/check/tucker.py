"""Exercises of `notebooks/03_truncate_tucker`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tnlib.check.exercise import Exercise, Mistake
from tnlib.check.tucker_counts import cheapest_st_hosvd, tucker_free_parameters

_NOTEBOOK = "03_truncate_tucker"


def _unfold(tensor: Tensor, mode: int) -> Tensor:
    return tensor.movedim(mode, 0).flatten(1)


def _energies(tensor: Tensor, mode: int) -> Tensor:
    """Squared singular values of an unfolding."""
    energies: Tensor = torch.linalg.svdvals(_unfold(tensor, mode)).square()
    return energies


def _left(tensor: Tensor, mode: int) -> Tensor:
    left: Tensor = torch.linalg.svd(_unfold(tensor, mode), full_matrices=False).U
    return left


def _product(tensor: Tensor, matrix: Tensor, mode: int) -> Tensor:
    """Mode product: the matrix's columns meet the tensor's mode."""
    product: Tensor = torch.tensordot(matrix, tensor, dims=([1], [mode]))
    return product.movedim(0, mode)


def _decaying(*shape: int, decay: float, seed: int | None = None) -> Tensor:
    """A random tensor whose singular values fall in every mode, faster in the later ones."""
    generator = torch.Generator().manual_seed(sum(shape) if seed is None else seed)
    tensor = torch.randn(shape, generator=generator, dtype=torch.float64)
    for q, n in enumerate(shape):
        scale = torch.exp(-decay * (1 + 0.3 * q) * torch.arange(n, dtype=torch.float64))
        tensor = tensor * scale.reshape([n if p == q else 1 for p in range(len(shape))])
    return tensor


def _generic(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(min(n, math.prod(shape) // n) for n in shape)


generic_multilinear_rank = Exercise(
    "generic_multilinear_rank",
    _NOTEBOOK,
    _generic,
    ({"shape": (2, 3, 7)}, {"shape": (4, 5, 6)}, {"shape": (3, 2, 2, 20)}, {"shape": (11, 2, 4)}, {"shape": (6, 9)}),
    (
        Mistake(lambda shape: tuple(shape), "A 2 x 3 x 7 tensor has 7 slices, but they live in a space of 2 x 3."),
        Mistake(
            lambda shape: tuple(math.prod(shape) // n for n in shape),
            "The unfolding of mode n has I_n rows; can its rank exceed that?",
        ),
        Mistake(
            lambda shape: tuple(min(n, sum(shape) - n) for n in shape),
            "How many columns has an unfolding? The sizes of the other modes are not added.",
        ),
        Mistake(
            lambda shape: tuple(min(shape) for _ in shape),
            "You gave all modes one rank. That holds for the two modes of a matrix, not beyond.",
        ),
    ),
)


def _pairs(kernel: Tensor) -> tuple[Tensor, list[tuple[int, int]]]:
    """HOSVD core of modes 0 and 1 of a kernel, and all pairs of ranks."""
    core = _product(_product(kernel, _left(kernel, 0).mT, 0), _left(kernel, 1).mT, 1)
    return core, list(itertools.product(range(1, core.shape[0] + 1), range(1, core.shape[1] + 1)))


def _count(kernel: Tensor, a: int, b: int) -> int:
    T, S, kh, kw = kernel.shape
    return T * a + a * b * kh * kw + S * b


def _kept(core: Tensor, a: int, b: int) -> float:
    return float(core[:a, :b].square().sum())


def _best(
    kernel: Tensor,
    budget: int,
    count: Callable[[Tensor, int, int], float] = _count,
    allowed: Callable[[int, int], bool] = lambda a, b: True,
) -> tuple[int, int]:
    core, pairs = _pairs(kernel)
    fitting = [pair for pair in pairs if allowed(*pair) and count(kernel, *pair) <= budget]
    return max(fitting, key=lambda pair: _kept(core, *pair))


def _smallest_bound(kernel: Tensor, budget: int) -> tuple[int, int]:
    rows, columns = _energies(kernel, 0), _energies(kernel, 1)
    fitting = [pair for pair in _pairs(kernel)[1] if _count(kernel, *pair) <= budget]
    return min(fitting, key=lambda pair: float(rows[pair[0] :].sum() + columns[pair[1] :].sum()))


def _largest(kernel: Tensor, budget: int) -> tuple[int, int]:
    fitting = [pair for pair in _pairs(kernel)[1] if _count(kernel, *pair) <= budget]
    return max(fitting, key=lambda pair: _count(kernel, *pair))


def _swapped(kernel: Tensor, budget: int) -> tuple[int, int]:
    a, b = _best(kernel, budget)
    return b, a


def _adapted(kernel: Tensor, budget: int, sweeps: int) -> tuple[int, int]:
    """The best pair when the second factor is computed from what the first has left, `sweeps` times in turn."""

    def kept(a: int, b: int) -> float:
        U, V = _left(kernel, 0)[:, :a], _left(kernel, 1)[:, :b]
        for sweep in range(sweeps):
            if sweep:
                U = _left(_product(kernel, V.mT, 1), 0)[:, :a]
            V = _left(_product(kernel, U.mT, 0), 1)[:, :b]
        return float(_product(_product(kernel, U.mT, 0), V.mT, 1).square().sum())

    fitting = [pair for pair in _pairs(kernel)[1] if _count(kernel, *pair) <= budget]
    return max(fitting, key=lambda pair: kept(*pair))


_NOT_HOSVD = "Do your factors adapt to each other? Truncated HOSVD takes both bases from the kernel itself."

tucker2_ranks = Exercise(
    "tucker2_ranks",
    _NOTEBOOK,
    _best,
    (
        {"kernel": _decaying(9, 6, 3, 3, decay=0.25), "budget": 56},
        {"kernel": _decaying(6, 11, 3, 1, decay=0.3), "budget": 103},
        {"kernel": _decaying(8, 7, 1, 3, decay=0.1), "budget": 90},
        {"kernel": _decaying(5, 5, 3, 3, decay=0.4), "budget": 56},
        {"kernel": _decaying(6, 6, 1, 3, decay=0.02, seed=0), "budget": 72},  # HOOI and ST-HOSVD have another best pair
    ),
    (
        Mistake(_swapped, "R_T comes first, then R_S, as the kernel's modes do."),
        Mistake(
            lambda kernel, budget: _best(kernel, budget, allowed=lambda a, b: a == b),
            "You tried equal ranks only; a pair of unequal ones fits the budget and loses less.",
        ),
        Mistake(
            lambda kernel, budget: _best(kernel, budget, lambda kernel, a, b: a * b * kernel[0, 0].numel()),
            "Your ranks exceed the budget: is every part of the chain counted?",
        ),
        Mistake(
            lambda kernel, budget: _best(kernel, budget - 1),
            "A chain that has exactly `budget` parameters is allowed.",
        ),
        Mistake(_smallest_bound, "You minimised the sum of the discarded energies, a bound. The core knows the error."),
        Mistake(lambda kernel, budget: _adapted(kernel, budget, 8), _NOT_HOSVD),  # HOOI
        Mistake(lambda kernel, budget: _adapted(kernel, budget, 1), _NOT_HOSVD),  # ST-HOSVD
        Mistake(_largest, "You spend as many parameters as you can; ask which pair loses least."),
    ),
)


def _sequential(
    tensor: Tensor, rel_error: float, *, share: Callable[[float, float, int, int], float] | None = None
) -> tuple[int, ...]:
    """Ranks of ST-HOSVD from a tolerance; `share(total, spent, q, order)` is what step q may discard, squared."""
    total, spent, order = (rel_error * float(tensor.norm())) ** 2, 0.0, tensor.ndim
    ranks, current = [], tensor
    for q in range(order):
        allowed = (total - spent) / (order - q) if share is None else share(total, spent, q, order)
        energies = _energies(current, q)
        tails = energies.flip(0).cumsum(0).flip(0)
        rank = max(1, int((tails > allowed).sum()))
        spent += float(energies[rank:].sum())
        current = _product(current, _left(current, q)[:, :rank].mT, q)
        ranks.append(rank)
    return tuple(ranks)


def _parallel(tensor: Tensor, rel_error: float) -> tuple[int, ...]:
    allowed = (rel_error * float(tensor.norm())) ** 2 / tensor.ndim
    tails = [_energies(tensor, q).flip(0).cumsum(0).flip(0) for q in range(tensor.ndim)]
    return tuple(max(1, int((tail > allowed).sum())) for tail in tails)


def _from_the_original(tensor: Tensor, rel_error: float) -> tuple[int, ...]:
    """What is left over is handed on, but every step looks at the original tensor."""
    left, ranks = (rel_error * float(tensor.norm())) ** 2, []
    for q in range(tensor.ndim):
        energies = _energies(tensor, q)
        tails = energies.flip(0).cumsum(0).flip(0)
        ranks.append(max(1, int((tails > left / (tensor.ndim - q)).sum())))
        left -= float(energies[ranks[-1] :].sum())
    return tuple(ranks)


st_hosvd_ranks = Exercise(
    "st_hosvd_ranks",
    _NOTEBOOK,
    _sequential,
    (
        {"tensor": _decaying(9, 8, 7, decay=0.25), "rel_error": 0.3},
        {"tensor": _decaying(7, 11, 5, decay=0.2), "rel_error": 0.45},
        {"tensor": _decaying(5, 6, 7, 8, decay=0.2), "rel_error": 0.5},
        {"tensor": _decaying(8, 9, 10, decay=0.1), "rel_error": 0.6},
    ),
    (
        Mistake(
            _from_the_original, "You take the energies of the original tensor; what is already gone is paid twice."
        ),
        Mistake(
            lambda tensor, rel_error: _sequential(tensor, rel_error**0.5),
            "Energies are squares of errors: is the tolerance squared, too?",
        ),
        Mistake(_parallel, "Those are the ranks of HOSVD: the later modes must see the truncated tensor."),
        Mistake(
            lambda tensor, rel_error: _sequential(
                tensor, rel_error, share=lambda total, spent, q, order: total / order
            ),
            "What a step leaves unspent is lost; hand it on to the steps after it.",
        ),
        Mistake(
            lambda tensor, rel_error: _sequential(
                tensor, rel_error, share=lambda total, spent, q, order: total - spent
            ),
            "The first step may spend the whole budget: nothing is left for the later modes.",
        ),
        Mistake(
            lambda tensor, rel_error: _sequential(tensor, rel_error, share=lambda total, spent, q, order: total),
            "Each step spends the whole budget; their discarded energies add up.",
        ),
        Mistake(
            lambda tensor, rel_error: tuple(
                min(r + 1, n) for r, n in zip(_sequential(tensor, rel_error), tensor.shape, strict=True)
            ),
            "One too many in a mode: `tail[r]`, counted from 0, is what is discarded when r are kept.",
        ),
        Mistake(
            lambda tensor, rel_error: _sequential(
                tensor, rel_error, share=lambda total, spent, q, order: (total - spent) / order
            ),
            "The remaining budget is to be shared among the remaining steps, not among all of them.",
        ),
    ),
)

EXERCISES = (
    generic_multilinear_rank,
    tucker_free_parameters,
    tucker2_ranks,
    cheapest_st_hosvd,
    st_hosvd_ranks,
)
