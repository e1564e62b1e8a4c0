"""One-dimensional convolutions as chains of smaller ones, one class a format: an `nn.Sequential` of `nn.Conv1d`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from tnlib import decompose
from tnlib.decompose import _validate as validate
from tnlib.layers.chain import FactorizedConv, Stage
from tnlib.layers.ranks import useful_tt_ranks, useful_tucker_ranks


class FactorizedConv1d(FactorizedConv):
    """An `nn.Conv1d` replaced by a chain; base class of the formats, made with `from_layer` or `fresh`."""

    layer_type = nn.Conv1d


class SVDConv1d(FactorizedConv1d):
    """Convolution of width k to R channels, then width 1: truncated SVD of the kernel unfolded to T x (S k).

    Rank: one integer, at most min(T, S k).
    """

    format = "svd"

    @staticmethod
    def stages(kernel_shape: Sequence[int], rank: Any) -> list[Stage]:
        outputs, inputs, width = kernel_shape
        rank = validate.one_rank(rank, SVDConv1d.max_rank(kernel_shape), "rank")
        return [Stage((rank, inputs, width), "w"), Stage((outputs, rank, 1))]

    @staticmethod
    def decompose(kernel: Tensor, rank: Any, **options: Any) -> list[Tensor]:
        u, s, vh = decompose.svd(kernel.flatten(1), rank, **options)
        root = s.sqrt()
        return [(root[:, None] * vh).unflatten(1, kernel.shape[1:]), (u * root)[:, :, None]]

    @staticmethod
    def max_rank(kernel_shape: Sequence[int]) -> int:
        return min(kernel_shape[0], math.prod(kernel_shape[1:]))


class CPConv1d(FactorizedConv1d):
    """Width 1 to R channels, width k depthwise, width 1 to T: CPD of the third-order kernel.

    Rank: one integer, at most the product of all kernel sizes but the largest.
    """

    format = "cp"

    @staticmethod
    def stages(kernel_shape: Sequence[int], rank: Any) -> list[Stage]:
        outputs, inputs, width = kernel_shape
        rank = validate.one_rank(rank, CPConv1d.max_rank(kernel_shape), "CP rank")
        return [Stage((rank, inputs, 1)), Stage((rank, 1, width), "w", depthwise=True), Stage((outputs, rank, 1))]

    @staticmethod
    def decompose(kernel: Tensor, rank: Any, **options: Any) -> list[Tensor]:
        weights, (a_out, a_in, a_width) = decompose.cp(kernel, rank, **options)
        # The weights are spread evenly over the three factors: fine-tuning then sees gradients of like size.
        root = weights.abs() ** (1 / 3)
        return [
            (a_in * root).mT[:, :, None],
            (a_width * root).mT[:, None, :],
            (a_out * root * weights.sign())[:, :, None],
        ]

    @staticmethod
    def max_rank(kernel_shape: Sequence[int]) -> int:
        return decompose.max_cp_rank(kernel_shape)


class Tucker2Conv1d(FactorizedConv1d):
    """Width 1 to R_S channels, width k to R_T, width 1 to T: Tucker decomposition of the two channel modes.

    Rank: (R_T, R_S), in the order of the kernel's modes, at most (T, S); an integer stands for both.
    """

    format = "tucker2"

    @property
    def rank(self) -> tuple[int, ...]:
        """(R_T, R_S)."""
        return self._inner_channels()[::-1]

    @staticmethod
    def stages(kernel_shape: Sequence[int], rank: Any) -> list[Stage]:
        outputs, inputs, width = kernel_shape
        r_out, r_in = useful_tucker_ranks(rank, kernel_shape, modes=2)
        return [Stage((r_in, inputs, 1)), Stage((r_out, r_in, width), "w"), Stage((outputs, r_out, 1))]

    @staticmethod
    def decompose(kernel: Tensor, rank: Any, **options: Any) -> list[Tensor]:
        ranks = useful_tucker_ranks(rank, kernel.shape, modes=2)
        core, (u_out, u_in, _) = decompose.tucker(kernel, ranks, modes=(0, 1), **options)
        return [u_in.mT[:, :, None], core, u_out[:, :, None]]

    @staticmethod
    def max_rank(kernel_shape: Sequence[int]) -> tuple[int, int]:
        outputs, inputs, width = kernel_shape
        return min(outputs, inputs * width), min(inputs, outputs * width)


class TTConv1d(FactorizedConv1d):
    """Width 1 to R_1 channels, width k to R_2, width 1 to T: tensor train of the kernel ordered (S, k, T).

    Rank: (R_1, R_2); an integer stands for both, each cut to its largest useful value.
    """

    format = "tt"

    @property
    def rank(self) -> tuple[int, ...]:
        """(R_1, R_2)."""
        return self._inner_channels()

    @staticmethod
    def stages(kernel_shape: Sequence[int], rank: Any) -> list[Stage]:
        outputs, inputs, width = kernel_shape
        r1, r2 = useful_tt_ranks(rank, (inputs, width, outputs))
        return [Stage((r1, inputs, 1)), Stage((r2, r1, width), "w"), Stage((outputs, r2, 1))]

    @staticmethod
    def decompose(kernel: Tensor, rank: Any, **options: Any) -> list[Tensor]:
        first, middle, last = decompose.tt(kernel.permute(1, 2, 0), rank, **options).factors
        return [first[0].mT[:, :, None], middle.permute(2, 0, 1), last[:, :, 0].mT[:, :, None]]

    @staticmethod
    def max_rank(kernel_shape: Sequence[int]) -> tuple[int, ...]:
        outputs, inputs, width = kernel_shape
        return decompose.max_tt_ranks((inputs, width, outputs))
