"""Tucker decomposition of all modes of a convolution kernel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from tnlib import decompose
from tnlib.layers.chain import FactorizedConv, build, positions
from tnlib.layers.geometry import Geometry
from tnlib.layers.ranks import Errors, max_tucker_ranks, useful_tucker_ranks
from tnlib.layers.spectra import tucker_errors
from tnlib.layers.stages import Stage, own_parameter

# Multiply-accumulates of a depthwise convolution count this often when the order is chosen: fitted on two CPU cores,
# eight shapes, batches 1 and 16; the depthwise kernels move as many bytes for far fewer of them.
_DEPTHWISE = 24


class TuckerCore(nn.Module):
    """Convolution from R_S to R_T channels whose kernel is a core times one filter factor for each spatial axis.

    `core` has shape (groups R_T, R_S, R_h, R_w), `filters[0]` (groups R_h, 1, kh, 1), `filters[1]` (groups R_w, 1, 1,
    kw); likewise for one and three axes. All channels share these filters, which no grouped convolution can. `forward`
    contracts one of two ways, chosen by their multiply-accumulates, a depthwise one counted 24 times:

    - kernel first (`filters_first` false): core and filters to a kernel (R_T, R_S, kh, kw), then one convolution;
    - filters first: the filters to R_h R_w filters of kh x kw, each over each channel, then the core as 1x1.
    """

    def __init__(self, layer: Any, core: Tensor, filters: Sequence[Tensor]) -> None:
        super().__init__()
        self.core = own_parameter(core, layer.weight)
        self.filters = nn.ParameterList([own_parameter(part, layer.weight) for part in filters])
        self.groups, self.geometry = layer.groups, Geometry.of(layer)
        r_out, r_in, *inner = (core.shape[0] // layer.groups, *core.shape[1:])
        self.out_channels, self.in_channels = r_out * layer.groups, r_in * layer.groups
        number, pixels = math.prod(inner), math.prod(layer.kernel_size)
        self.filters_first = number * (_DEPTHWISE * pixels + r_out) < r_out * pixels

    @property
    def weight(self) -> Tensor:
        """The kernel (groups R_T, R_S, *window) that the factors multiply out to; differentiable."""
        kernel = self._by_group(self.core)
        for part in self._parts():
            kernel = torch.einsum("gtsi...,gik->gts...k", kernel, part)
        return kernel.flatten(0, 1)

    def forward(self, input: Tensor) -> Tensor:
        """Map (B, groups R_S, *size) to (B, groups R_T, *size'), or the same without B."""
        if input.ndim == 1 + len(self.filters):
            return self.forward(input.unsqueeze(0)).squeeze(0)
        if not self.filters_first:
            return self.geometry.conv(input, self.weight, groups=self.groups)
        first, *rest = self._parts()
        for part in rest:
            first = torch.einsum("gp...,gik->gpi...k", first, part).flatten(1, 2)
        each = first.unsqueeze(1).expand(-1, self.core.shape[1], *first.shape[1:]).flatten(0, 2).unsqueeze(1)
        y = self.geometry.conv(input, each, groups=self.in_channels)
        mixing = self.core.flatten(1).reshape(self.out_channels, -1, *[1] * len(self.filters))
        return Geometry.plain(len(self.filters)).conv(y, mixing, groups=self.groups)

    def _parts(self) -> list[Tensor]:
        """The filter factors as (groups, R_i, k_i)."""
        return [self._by_group(self.filters[k]).flatten(2) for k in range(len(self.filters))]

    def _by_group(self, part: Tensor) -> Tensor:
        split: Tensor = part.unflatten(0, (self.groups, -1))
        return split

    def extra_repr(self) -> str:
        order = "filters" if self.filters_first else "kernel"
        return f"{self.in_channels}, {self.out_channels}, groups={self.groups}, {self.geometry}, {order} first"


class TuckerConv(FactorizedConv):
    """1x1 to R_S channels, a `TuckerCore` to R_T, 1x1 to T: Tucker decomposition of all modes of the kernel.

    Rank: (R_T, R_S, R_h, R_w), in the order of the kernel's modes, at most (T, S, kh, kw); an integer stands for all,
    each cut to its largest useful value. Parameters: T R_T + S R_S + kh R_h + kw R_w + R_T R_S R_h R_w, no more.
    """

    format = "tucker"

    def factors(self) -> list[nn.Parameter]:
        """First 1x1 weight, filter factors, core, last 1x1 weight."""
        middle = self[1]
        filters = [middle.filters[k] for k in range(len(middle.filters))]
        return [self[0].weight, *filters, middle.core, self[2].weight]

    @classmethod
    def _rank_of(cls, factors: Sequence[Tensor]) -> tuple[int, ...]:
        return tuple(factors[-2].shape)

    @classmethod
    def _limits(cls, shape: Sequence[int], **digits: Any) -> tuple[int, ...]:
        return max_tucker_ranks(shape)

    @classmethod
    def _stages(cls, shape: Sequence[int], rank: Any, **digits: Any) -> list[Stage]:
        outputs, inputs, *window = shape
        ranks, ones = useful_tucker_ranks(rank, shape), [1] * len(window)
        stages = [Stage((ranks[1], inputs, *ones), inputs)]
        for axis, size in enumerate(window):
            sizes = [*ones[:axis], size, *ones[axis + 1 :]]
            stages.append(Stage((ranks[2 + axis], 1, *sizes), size, (axis,)))
        core = Stage(ranks, math.prod(ranks[1:]), tuple(range(len(window))))
        return [*stages, core, Stage((outputs, ranks[0], *ones), ranks[0])]

    @classmethod
    def _factor(cls, kernel: Tensor, rank: Any, rel_error: float | None, seed: int, **options: Any) -> list[Tensor]:
        ranks = None if rank is None else useful_tucker_ranks(rank, kernel.shape)
        core, factors = decompose.tucker(kernel, ranks, rel_error=rel_error, **options)
        u_out, u_in, *filters = factors
        shapes = [stage.shape for stage in cls._stages(kernel.shape, tuple(core.shape))]
        inner = [part.mT.reshape(shape) for part, shape in zip([u_in, *filters], shapes, strict=False)]
        return [*inner, core, u_out.reshape(shapes[-1])]

    @classmethod
    def errors(cls, kernel: Tensor) -> Errors:
        """Ranks, and the squared errors they leave of a group's float64 kernel, before HOOI lowers them."""
        return tucker_errors(kernel)

    @classmethod
    def _square_norm(cls, factors: Sequence[Tensor]) -> float:
        first, *filters, core, last = factors
        for axis, part in enumerate([last.flatten(1), first.flatten(1).mT, *(f.flatten(1).mT for f in filters)]):
            core = torch.tensordot(part, core, ([1], [axis])).movedim(0, axis)
        return float(core.square().sum())

    @classmethod
    def _assemble(cls, like: Any, factors: Sequence[Tensor], bias: Tensor | None) -> Self:
        first, *filters, core, last = factors
        outer = Stage((), 0)
        middle = TuckerCore(like, core, filters)
        return cls(build(like, outer, first, None), middle, build(like, outer, last, bias))._become(like)

    @classmethod
    def macs(cls, layer: Any, rank: Any, output_size: Sequence[int] | None = None, **digits: Any) -> int:
        """Multiply-accumulates for one image, as `FactorizedConv.macs`; the core in its cheaper order.

        Making the kernel of core and filters is not counted.
        """
        shape = cls._shape_of(layer)
        first, *_, core, last = cls._stages(shape, rank)
        r_out, r_in, *inner = core.shape
        pixels, window = positions(layer, output_size, set(core.along)), math.prod(shape[2:])
        kernel_first, filters_first = r_out * r_in * window, math.prod(inner) * r_in * (window + r_out)
        middle = min(kernel_first, filters_first) + math.prod(last.shape)
        return int(layer.groups * (math.prod(first.shape) * positions(layer, output_size, set()) + pixels * middle))

    def dense_weight(self) -> Tensor:
        """The kernel that the chain multiplies out to, (T, S / groups, *window); differentiable."""
        stages: Any = self
        first, middle, last = (stage.weight.unflatten(0, (self.groups, -1)) for stage in stages)
        kernel = torch.einsum("grs...,gtr...->gts...", first, middle)
        return torch.einsum("grs...,gtr...->gts...", kernel, last).flatten(0, 1)
