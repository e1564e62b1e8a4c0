"""The formats of a convolution that are chains of convolutions, but for the full Tucker one (`tucker_conv`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tnlib import decompose
from tnlib.decompose import _validate as validate
from tnlib.layers.chain import FactorizedConv, multiply_out
from tnlib.layers.ranks import Errors, first_within, max_tucker_ranks, useful_tt_ranks, useful_tucker_ranks
from tnlib.layers.spectra import matrix_errors, tucker_errors
from tnlib.layers.stages import Stage


class SVDConv(FactorizedConv):
    """A convolution to R channels, then 1x1: truncated SVD of the kernel as T x (S window). Rank: one integer."""

    format = "svd"

    @classmethod
    def _limits(cls, shape: Sequence[int], **digits: Any) -> int:
        return min(shape[0], math.prod(shape[1:]))

    @classmethod
    def _stages(cls, shape: Sequence[int], rank: Any, **digits: Any) -> list[Stage]:
        outputs, inputs, *window = shape
        rank, ones = validate.one_rank(rank, cls._limits(shape), "rank"), [1] * len(window)
        axes = tuple(range(len(window)))
        first = Stage((rank, inputs, *window), inputs * math.prod(window), axes)
        return [first, Stage((outputs, rank, *ones), rank)]

    @classmethod
    def _factor(cls, kernel: Tensor, rank: Any, rel_error: float | None, seed: int, **options: Any) -> list[Tensor]:
        u, s, vh = decompose.svd(kernel.flatten(1), rank, rel_error=rel_error, seed=seed, **options)
        return [vh.unflatten(1, kernel.shape[1:]), (u * s).reshape(*u.shape, *[1] * (kernel.ndim - 2))]

    @classmethod
    def errors(cls, kernel: Tensor) -> Errors:
        """Ranks, and the squared errors they leave of a group's float64 kernel."""
        return matrix_errors(kernel.flatten(1))


class SpatialSVDConv(FactorizedConv):
    """kh x 1 to R channels, then 1 x kw: truncated SVD of the kernel as (S kh) x (T kw) (Jaderberg et al. 2014).

    Rank: one integer. Only for two spatial dimensions.
    """

    format = "spatial_svd"
    replaces = (nn.Conv2d,)

    @classmethod
    def _limits(cls, shape: Sequence[int], **digits: Any) -> int:
        outputs, inputs, height, width = shape
        return min(inputs * height, outputs * width)

    @classmethod
    def _stages(cls, shape: Sequence[int], rank: Any, **digits: Any) -> list[Stage]:
        outputs, inputs, height, width = shape
        rank = validate.one_rank(rank, cls._limits(shape), "rank")
        vertical = Stage((rank, inputs, height, 1), inputs * height, (0,))
        return [vertical, Stage((outputs, rank, 1, width), rank * width, (1,))]

    @classmethod
    def _factor(cls, kernel: Tensor, rank: Any, rel_error: float | None, seed: int, **options: Any) -> list[Tensor]:
        outputs, inputs, height, width = kernel.shape
        u, s, vh = decompose.svd(cls._matrix(kernel), rank, rel_error=rel_error, seed=seed, **options)
        horizontal = (s[:, None] * vh).reshape(-1, outputs, 1, width).transpose(0, 1)
        return [u.mT.reshape(-1, inputs, height, 1), horizontal]

    @staticmethod
    def _matrix(kernel: Tensor) -> Tensor:
        outputs, inputs, height, width = kernel.shape
        return kernel.permute(1, 2, 0, 3).reshape(inputs * height, outputs * width)

    @classmethod
    def errors(cls, kernel: Tensor) -> Errors:
        """Ranks, and the squared errors they leave of a group's float64 kernel."""
        return matrix_errors(cls._matrix(kernel))


class CPConv(FactorizedConv):
    """1x1 to R channels, one depthwise filter along each spatial axis, 1x1: CPD of the kernel, one mode an axis.

    For two dimensions it is the four-way one of Lebedev et al. 2015, section 3.2. Rank: one integer, at most the
    product of the kernel's sizes but the largest.
    """

    format = "cp"

    @staticmethod
    def _modes(shape: Sequence[int]) -> list[tuple[int, ...]]:
        """Which spatial axes belong to one mode."""
        return [(axis,) for axis in range(len(shape) - 2)]

    @classmethod
    def _tensor_shape(cls, shape: Sequence[int]) -> tuple[int, ...]:
        return (*shape[:2], *(math.prod(shape[2 + axis] for axis in axes) for axes in cls._modes(shape)))

    @classmethod
    def _limits(cls, shape: Sequence[int], **digits: Any) -> int:
        return decompose.max_cp_rank(cls._tensor_shape(shape))

    @classmethod
    def _stages(cls, shape: Sequence[int], rank: Any, **digits: Any) -> list[Stage]:
        outputs, inputs, *window = shape
        rank, ones = validate.one_rank(rank, cls._limits(shape), "CP rank"), [1] * len(window)
        stages = [Stage((rank, inputs, *ones), inputs)]
        for axes in cls._modes(shape):
            sizes = [n if axis in axes else 1 for axis, n in enumerate(window)]
            stages.append(Stage((rank, 1, *sizes), math.prod(sizes), axes, depthwise=True))
        return [*stages, Stage((outputs, rank, *ones), rank)]

    @classmethod
    def _factor(cls, kernel: Tensor, rank: Any, rel_error: float | None, seed: int, **options: Any) -> list[Tensor]:
        if rank is None:
            assert rel_error is not None
            validate.check_rank_or_error(rank, rel_error)

            def error(r: int) -> float:
                factors = cls._factor(kernel, r, None, seed, **options)
                return float((multiply_out(factors) - kernel).norm() / kernel.norm().clamp_min(1e-300))

            rank = first_within(error, rel_error, cls._limits(kernel.shape))
        cpd = decompose.cp(kernel.reshape(cls._tensor_shape(kernel.shape)), rank, seed=seed, **options)
        a_out, a_in, *spatial = spread_weights(cpd)
        shapes = [stage.shape for stage in cls._stages(kernel.shape, rank)]
        inner = [factor.mT.reshape(shape) for factor, shape in zip([a_in, *spatial], shapes, strict=False)]
        return [*inner, a_out.reshape(shapes[-1])]


class CP3Conv(CPConv):
    """1x1 to R channels, one depthwise filter of the whole window, 1x1: CPD of the kernel as S x window x T.

    Rank: one integer, at most the product of these three sizes but the largest.
    """

    format = "cp3"

    @staticmethod
    def _modes(shape: Sequence[int]) -> list[tuple[int, ...]]:
        return [tuple(range(len(shape) - 2))]


class Tucker2Conv(FactorizedConv):
    """1x1 to R_S channels, the window to R_T, 1x1 to T: Tucker decomposition of the channel modes (Kim et al. 2016).

    Rank: (R_T, R_S), in the order of the kernel's modes, at most (T, S); an integer stands for both.
    """

    format = "tucker2"

    @classmethod
    def _rank_of(cls, factors: Sequence[Tensor]) -> tuple[int, ...]:
        return tuple(factors[1].shape[:2])

    @classmethod
    def _limits(cls, shape: Sequence[int], **digits: Any) -> tuple[int, ...]:
        return max_tucker_ranks(shape, 2)

    @classmethod
    def _stages(cls, shape: Sequence[int], rank: Any, **digits: Any) -> list[Stage]:
        outputs, inputs, *window = shape
        (r_out, r_in), ones = useful_tucker_ranks(rank, shape, modes=2), [1] * len(window)
        core = Stage((r_out, r_in, *window), r_in * math.prod(window), tuple(range(len(window))))
        return [Stage((r_in, inputs, *ones), inputs), core, Stage((outputs, r_out, *ones), r_out)]

    @classmethod
    def _factor(cls, kernel: Tensor, rank: Any, rel_error: float | None, seed: int, **options: Any) -> list[Tensor]:
        ranks = None if rank is None else useful_tucker_ranks(rank, kernel.shape, modes=2)
        core, (u_out, u_in, *_) = decompose.tucker(kernel, ranks, modes=(0, 1), rel_error=rel_error, **options)
        ones = [1] * (kernel.ndim - 2)
        return [u_in.mT.reshape(*u_in.mT.shape, *ones), core, u_out.reshape(*u_out.shape, *ones)]

    @classmethod
    def errors(cls, kernel: Tensor) -> Errors:
        """Ranks, and the squared errors they leave of a group's float64 kernel, before HOOI lowers them."""
        return tucker_errors(kernel, 2)


class TTConv(FactorizedConv):
    """1x1 to R_1 channels, one filter along each spatial axis to R_2 .., 1x1 to T: tensor train of (S, *window, T).

    Rank: (R_1, R_2, ..), one more than there are spatial axes; an integer stands for all, each cut to its largest.
    """

    format = "tt"

    @classmethod
    def _rank_of(cls, factors: Sequence[Tensor]) -> tuple[int, ...]:
        return tuple(factor.shape[0] for factor in factors[:-1])

    @classmethod
    def _limits(cls, shape: Sequence[int], **digits: Any) -> tuple[int, ...]:
        return decompose.max_tt_ranks((*shape[1:], shape[0]))

    @classmethod
    def _stages(cls, shape: Sequence[int], rank: Any, **digits: Any) -> list[Stage]:
        outputs, inputs, *window = shape
        ranks, ones = useful_tt_ranks(rank, (inputs, *window, outputs)), [1] * len(window)
        stages = [Stage((ranks[0], inputs, *ones), inputs)]
        for axis, size in enumerate(window):
            sizes = [*ones[:axis], size, *ones[axis + 1 :]]
            stages.append(Stage((ranks[axis + 1], ranks[axis], *sizes), ranks[axis] * size, (axis,)))
        return [*stages, Stage((outputs, ranks[-1], *ones), ranks[-1])]

    @classmethod
    def _factor(cls, kernel: Tensor, rank: Any, rel_error: float | None, seed: int, **options: Any) -> list[Tensor]:
        cores = decompose.tt(kernel.movedim(0, -1), rank, rel_error=rel_error, seed=seed, **options).factors
        ranks = tuple(core.shape[2] for core in cores[:-1])
        weights = [core.permute(2, 0, 1) for core in cores[:-1]] + [cores[-1].permute(1, 0, 2)]
        return [w.reshape(s.shape) for w, s in zip(weights, cls._stages(kernel.shape, ranks), strict=True)]


def spread_weights(cpd: Any) -> list[Tensor]:
    """Factors of a CPD whose columns share the weights evenly, the first one with the signs.

    Where a weight is zero, the first factor's column is zero and the others keep theirs, so that gradients pass.
    """
    weights, factors = cpd
    root = weights.abs() ** (1 / len(factors))
    rest = torch.where(weights == 0, torch.ones_like(root), root)
    return [factors[0] * root * weights.sign(), *(factor * rest for factor in factors[1:])]
