"""What layers on a TT-matrix share, be they linear, convolutions or embeddings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from tnlib import decompose
from tnlib.layers.digits import chosen_digits
from tnlib.layers.factorized import Factorized
from tnlib.layers.ranks import useful_tt_ranks
from tnlib.layers.stages import Stage


class OnTTMatrix(Factorized):
    """Factors: cores (R_(k-1), m_k, n_k, R_k), m digits of the outputs, n of the inputs; a convolution's filters first.

    Rank: the ranks between neighbours; an integer stands for all, each cut to its largest useful value.
    """

    in_digits = True
    filters_before: ClassVar[int] = 0  # factors in front of the cores

    @classmethod
    def _choose(cls, shape: Sequence[int], options: dict[str, Any]) -> dict[str, Any]:
        return chosen_digits(shape, options)

    @classmethod
    def _digits_of(cls, factors: Sequence[Tensor]) -> dict[str, Any]:
        cores = factors[cls.filters_before :]
        return {"row_dims": tuple(c.shape[1] for c in cores), "col_dims": tuple(c.shape[2] for c in cores)}

    @classmethod
    def _modes(cls, shape: Sequence[int], digits: dict[str, Any]) -> list[int]:
        pairs = [m * n for m, n in zip(digits["row_dims"], digits["col_dims"], strict=True)]
        return [math.prod(shape[2:])] * cls.filters_before + pairs

    @classmethod
    def _limits(cls, shape: Sequence[int], **digits: Any) -> tuple[int, ...]:
        return decompose.max_tt_ranks(cls._modes(shape, digits))

    @classmethod
    def _rank_of(cls, factors: Sequence[Tensor]) -> tuple[int, ...]:
        return tuple(int(core.shape[0]) for core in factors[cls.filters_before :][1 - cls.filters_before :])

    @classmethod
    def _stages(cls, shape: Sequence[int], rank: Any, **digits: Any) -> list[Stage]:
        ranks = useful_tt_ranks(rank, cls._modes(shape, digits))
        ends = (*ranks, 1) if cls.filters_before else (1, *ranks, 1)
        sizes = zip(ends, digits["row_dims"], digits["col_dims"], ends[1:], strict=False)
        cores = [Stage((left, m, n, right), cls._terms(left, n, right)) for left, m, n, right in sizes]
        return [Stage((ends[0], 1, *shape[2:]), math.prod(shape[2:]))] * cls.filters_before + cores

    @classmethod
    def _terms(cls, left: int, n: int, right: int) -> int:
        """How many products a core's stage sums: applied last to first, over the right rank."""
        return n * right

    @classmethod
    def _square_norm(cls, factors: Sequence[Tensor]) -> float:
        gram = torch.ones(1, 1, dtype=factors[0].dtype)
        if cls.filters_before:
            gram = factors[0].flatten(1) @ factors[0].flatten(1).mT
        for core in factors[cls.filters_before :]:
            gram = torch.einsum("ab,amnc,bmnd->cd", gram, core, core)
        return float(gram)


def multiply_cores(cores: Sequence[Tensor]) -> Tensor:
    """The matrix (prod m, prod n) of a TT-matrix's cores; differentiable."""
    matrix = cores[0][0]
    for core in cores[1:]:
        matrix = torch.einsum("mnr,rijs->minjs", matrix, core).flatten(2, 3).flatten(0, 1)
    return matrix[:, :, 0]
