"""Two-dimensional convolutions as chains of smaller ones, one class a format.

Each class is an `nn.Sequential` of ordinary `nn.Conv2d`, but for the core of `tucker` (see `tucker_conv`).
`notebooks/00_start_here` compares some of them; `notebooks/06_build_tensor_layers` derives all of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from tnlib import decompose
from tnlib.decompose import _validate as validate
from tnlib.layers.chain import FactorizedConv, Stage
from tnlib.layers.ranks import useful_tt_ranks, useful_tucker_ranks


class FactorizedConv2d(FactorizedConv):
    """An `nn.Conv2d` replaced by a chain; base class of the formats, made with `from_layer` or `fresh`."""

    layer_type = nn.Conv2d


class SVDConv2d(FactorizedConv2d):
    """kh x kw convolution to R channels, then 1x1: truncated SVD of the kernel unfolded to T x (S kh kw).

    Rank: one integer, at most min(T, S kh kw).
    """

    format = "svd"

    @staticmethod
    def stages(kernel_shape: Sequence[int], rank: Any) -> list[Stage]:
        outputs, inputs, height, width = kernel_shape
        rank = validate.one_rank(rank, SVDConv2d.max_rank(kernel_shape), "rank")
        return [Stage((rank, inputs, height, width), "hw"), Stage((outputs, rank, 1, 1))]

    @staticmethod
    def decompose(kernel: Tensor, rank: Any, **options: Any) -> list[Tensor]:
        u, s, vh = decompose.svd(kernel.flatten(1), rank, **options)
        root = s.sqrt()
        return [(root[:, None] * vh).unflatten(1, kernel.shape[1:]), (u * root)[:, :, None, None]]

    @staticmethod
    def max_rank(kernel_shape: Sequence[int]) -> int:
        return min(kernel_shape[0], math.prod(kernel_shape[1:]))


class SpatialSVDConv2d(FactorizedConv2d):
    """kh x 1 convolution to R channels, then 1 x kw: SVD of the kernel arranged as (S kh) x (T kw).

    Rank: one integer, at most min(S kh, T kw). Source: Jaderberg et al. 2014, scheme 2.
    """

    format = "spatial_svd"

    @staticmethod
    def stages(kernel_shape: Sequence[int], rank: Any) -> list[Stage]:
        outputs, inputs, height, width = kernel_shape
        rank = validate.one_rank(rank, SpatialSVDConv2d.max_rank(kernel_shape), "rank")
        return [Stage((rank, inputs, height, 1), "h"), Stage((outputs, rank, 1, width), "w")]

    @staticmethod
    def decompose(kernel: Tensor, rank: Any, **options: Any) -> list[Tensor]:
        outputs, inputs, height, width = kernel.shape
        u, s, vh = decompose.svd(kernel.permute(1, 2, 0, 3).reshape(inputs * height, outputs * width), rank, **options)
        root = s.sqrt()
        vertical = (u * root).mT.reshape(-1, inputs, height, 1)
        return [vertical, (root[:, None] * vh).reshape(-1, outputs, 1, width).transpose(0, 1)]

    @staticmethod
    def max_rank(kernel_shape: Sequence[int]) -> int:
        outputs, inputs, height, width = kernel_shape
        return min(inputs * height, outputs * width)


class CPConv2d(FactorizedConv2d):
    """1x1 to R channels, kh x 1 and 1 x kw depthwise, 1x1: CPD of the 4-way kernel (Lebedev et al. 2015, section 3.2).

    Rank: one integer, at most the product of all kernel sizes but the largest.
    """

    format = "cp"

    @staticmethod
    def stages(kernel_shape: Sequence[int], rank: Any) -> list[Stage]:
        outputs, inputs, height, width = kernel_shape
        rank = validate.one_rank(rank, CPConv2d.max_rank(kernel_shape), "CP rank")
        return [
            Stage((rank, inputs, 1, 1)),
            Stage((rank, 1, height, 1), "h", depthwise=True),
            Stage((rank, 1, 1, width), "w", depthwise=True),
            Stage((outputs, rank, 1, 1)),
        ]

    @staticmethod
    def decompose(kernel: Tensor, rank: Any, **options: Any) -> list[Tensor]:
        weights, (a_out, a_in, a_vertical, a_horizontal) = decompose.cp(kernel, rank, **options)
        # The weights are spread evenly over the four factors: fine-tuning then sees gradients of like size.
        root = weights.abs() ** 0.25
        return [
            (a_in * root).mT[:, :, None, None],
            (a_vertical * root).mT[:, None, :, None],
            (a_horizontal * root).mT[:, None, None, :],
            (a_out * root * weights.sign())[:, :, None, None],
        ]

    @staticmethod
    def max_rank(kernel_shape: Sequence[int]) -> int:
        return decompose.max_cp_rank(kernel_shape)


class Tucker2Conv2d(FactorizedConv2d):
    """1x1 to R_S channels, kh x kw to R_T, 1x1 to T: Tucker decomposition of the two channel modes (Kim et al. 2016).

    Rank: (R_T, R_S), in the order of the kernel's modes, at most (T, S); an integer stands for both.
    """

    format = "tucker2"

    @property
    def rank(self) -> tuple[int, ...]:
        """(R_T, R_S)."""
        return self._inner_channels()[::-1]

    @staticmethod
    def stages(kernel_shape: Sequence[int], rank: Any) -> list[Stage]:
        outputs, inputs, *kernel = kernel_shape
        r_out, r_in = useful_tucker_ranks(rank, kernel_shape, modes=2)
        return [Stage((r_in, inputs, 1, 1)), Stage((r_out, r_in, *kernel), "hw"), Stage((outputs, r_out, 1, 1))]

    @staticmethod
    def decompose(kernel: Tensor, rank: Any, **options: Any) -> list[Tensor]:
        ranks = useful_tucker_ranks(rank, kernel.shape, modes=2)
        core, (u_out, u_in, _, _) = decompose.tucker(kernel, ranks, modes=(0, 1), **options)
        return [u_in.mT[:, :, None, None], core, u_out[:, :, None, None]]

    @staticmethod
    def max_rank(kernel_shape: Sequence[int]) -> tuple[int, int]:
        total = math.prod(kernel_shape)
        outputs, inputs = kernel_shape[:2]
        return min(outputs, total // outputs), min(inputs, total // inputs)


class TTConv2d(FactorizedConv2d):
    """1x1 to R_1 channels, kh x 1 to R_2, 1 x kw to R_3, 1x1 to T: tensor train of the kernel ordered (S, kh, kw, T).

    Rank: (R_1, R_2, R_3); an integer stands for all three, each cut to its largest useful value.
    """

    format = "tt"

    @property
    def rank(self) -> tuple[int, ...]:
        """(R_1, R_2, R_3)."""
        return self._inner_channels()

    @staticmethod
    def stages(kernel_shape: Sequence[int], rank: Any) -> list[Stage]:
        outputs, inputs, height, width = kernel_shape
        r1, r2, r3 = useful_tt_ranks(rank, (inputs, height, width, outputs))
        return [
            Stage((r1, inputs, 1, 1)),
            Stage((r2, r1, height, 1), "h"),
            Stage((r3, r2, 1, width), "w"),
            Stage((outputs, r3, 1, 1)),
        ]

    @staticmethod
    def decompose(kernel: Tensor, rank: Any, **options: Any) -> list[Tensor]:
        first, vertical, horizontal, last = decompose.tt(kernel.permute(1, 2, 3, 0), rank, **options).factors
        return [
            first[0].mT[:, :, None, None],
            vertical.permute(2, 0, 1)[:, :, :, None],
            horizontal.permute(2, 0, 1)[:, :, None, :],
            last[:, :, 0].mT[:, :, None, None],
        ]

    @staticmethod
    def max_rank(kernel_shape: Sequence[int]) -> tuple[int, ...]:
        outputs, inputs, height, width = kernel_shape
        return decompose.max_tt_ranks((inputs, height, width, outputs))
