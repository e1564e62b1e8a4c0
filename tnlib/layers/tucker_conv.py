"""Tucker decomposition of all four modes of a convolution kernel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from tnlib import decompose
from tnlib.layers.chain import Stage, build
from tnlib.layers.conv import FactorizedConv2d
from tnlib.layers.geometry import Geometry
from tnlib.layers.ranks import useful_tucker_ranks

# Multiply-accumulates of a depthwise convolution count this often when the order is chosen: fitted on two CPU cores,
# eight shapes, batches 1 and 16; the depthwise kernels move as many bytes for far fewer of them.
_DEPTHWISE = 24


class TuckerCore2d(nn.Module):
    """Convolution from R_S to R_T channels whose kernel is a core times a vertical and a horizontal factor.

    `core` has shape (groups R_T, R_S, R_h, R_w), `vertical` (groups R_h, 1, kh, 1), `horizontal` (groups R_w, 1, 1,
    kw). All channels share the R_h and R_w filters, which no grouped `nn.Conv2d` can. `forward` contracts one of two
    ways, chosen once by their multiply-accumulates, a depthwise one counted 24 times:

    - kernel first (`filters_first` false): core and filters to a kernel (R_T, R_S, kh, kw), then one convolution;
    - filters first: the two filters to R_h R_w filters of kh x kw, each over each channel, then the core as 1x1.
    """

    def __init__(self, layer: nn.Conv2d, core: Tensor, vertical: Tensor, horizontal: Tensor) -> None:
        super().__init__()
        self.core, self.vertical, self.horizontal = (
            nn.Parameter(part.detach().to(layer.weight, copy=True), requires_grad=layer.weight.requires_grad)
            for part in (core, vertical, horizontal)
        )
        self.groups, self.geometry = layer.groups, Geometry.of(layer)
        r_out, r_in, *inner = (core.shape[0] // layer.groups, *core.shape[1:])
        self.out_channels, self.in_channels = r_out * layer.groups, r_in * layer.groups
        filters, pixels = math.prod(inner), math.prod(layer.kernel_size)
        self.filters_first = filters * (_DEPTHWISE * pixels + r_out) < r_out * pixels

    @property
    def weight(self) -> Tensor:
        """The kernel (groups R_T, R_S, kh, kw) that the three factors multiply out to; differentiable."""
        kernel = torch.einsum("gtsij,giab->gtsabj", self._by_group(self.core), self._by_group(self.vertical)[:, :, 0])
        kernel = torch.einsum("gtsabj,gjbc->gtsac", kernel, self._by_group(self.horizontal)[:, :, 0])
        return kernel.flatten(0, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, groups R_S, H, W) to (B, groups R_T, H', W'), or the same without B."""
        if x.ndim == 3:
            return self.forward(x.unsqueeze(0)).squeeze(0)
        if not self.filters_first:
            return self.geometry.conv(x, self.weight, self.groups)
        vertical, horizontal = (self._by_group(part)[:, :, 0] for part in (self.vertical, self.horizontal))
        filters = torch.einsum("giab,gjbc->gijac", vertical, horizontal).flatten(1, 2)
        each = filters.unsqueeze(1).expand(-1, self.core.shape[1], -1, -1, -1).flatten(0, 2).unsqueeze(1)
        y = self.geometry.conv(x, each, self.in_channels)
        return nn.functional.conv2d(y, self.core.flatten(1)[:, :, None, None], groups=self.groups)

    def _by_group(self, part: Tensor) -> Tensor:
        parts: Tensor = part.unflatten(0, (self.groups, -1))
        return parts

    def extra_repr(self) -> str:
        order = "filters" if self.filters_first else "kernel"
        return f"{self.in_channels}, {self.out_channels}, groups={self.groups}, {self.geometry}, {order} first"


class TuckerConv2d(FactorizedConv2d):
    """1x1 to R_S channels, a `TuckerCore2d` to R_T, 1x1 to T: Tucker decomposition of all four modes of the kernel.

    Rank: (R_T, R_S, R_h, R_w), in the order of the kernel's modes, at most (T, S, kh, kw); an integer stands for all
    four, each cut to its largest useful value. Parameters: T R_T + S R_S + kh R_h + kw R_w + R_T R_S R_h R_w, no more.
    """

    format = "tucker"

    @property
    def rank(self) -> tuple[int, ...]:
        """(R_T, R_S, R_h, R_w)."""
        core = self._core()
        return core.out_channels // core.groups, *core.core.shape[1:]

    def _core(self) -> TuckerCore2d:
        middle = self[1]
        assert isinstance(middle, TuckerCore2d)
        return middle

    @staticmethod
    def stages(kernel_shape: Sequence[int], rank: Any) -> list[Stage]:
        outputs, inputs, height, width = kernel_shape
        ranks = useful_tucker_ranks(rank, kernel_shape)
        # The core's shape holds R_h and R_w where the kernel's holds kh and kw.
        return [
            Stage((ranks[1], inputs, 1, 1)),
            Stage((ranks[2], 1, height, 1), "h"),
            Stage((ranks[3], 1, 1, width), "w"),
            Stage(ranks),
            Stage((outputs, ranks[0], 1, 1)),
        ]

    @staticmethod
    def decompose(kernel: Tensor, rank: Any, **options: Any) -> list[Tensor]:
        ranks = useful_tucker_ranks(rank, kernel.shape)
        core, (u_out, u_in, u_vertical, u_horizontal) = decompose.tucker(kernel, ranks, **options)
        return [
            u_in.mT[:, :, None, None],
            u_vertical.mT[:, None, :, None],
            u_horizontal.mT[:, None, None, :],
            core,
            u_out[:, :, None, None],
        ]

    @classmethod
    def _assemble(cls, layer: Any, stages: Sequence[Stage], weights: Sequence[Tensor], bias: Tensor | None) -> Self:
        first, vertical, horizontal, core, last = weights
        return cls(
            build(layer, stages[0], first, None),
            TuckerCore2d(layer, core, vertical, horizontal),
            build(layer, stages[-1], last, bias),
        )

    @staticmethod
    def max_rank(kernel_shape: Sequence[int]) -> tuple[int, ...]:
        total = math.prod(kernel_shape)
        return tuple(min(size, total // size) for size in kernel_shape)
