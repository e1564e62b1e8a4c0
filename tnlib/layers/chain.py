"""Convolutions as chains of smaller ones: from the factors of a kernel to a sequence of ordinary layers.

A format says which stages its chain has and how a kernel is factored; everything else, for one, two and three spatial
dimensions, is here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from tnlib.layers.factorized import Factorized
from tnlib.layers.geometry import Geometry
from tnlib.layers.stages import Stage, own_parameter

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
ATTRIBUTES = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")


class FactorizedConv(Factorized, nn.Sequential):
    """A convolution replaced by a chain of smaller ones; base class, made with `from_layer`, `fresh`, `from_factors`.

    Counters, hooks, quantization and export see ordinary layers. The last stage carries the bias. Maps (B, S, *size) to
    (B, T, *size'), or the same without B.
    """

    replaces: ClassVar[tuple[type[nn.Module], ...]] = CONVOLUTIONS
    attributes: ClassVar[tuple[str, ...]] = ATTRIBUTES

    @property
    def bias(self) -> nn.Parameter | None:
        """The last stage's bias."""
        bias: nn.Parameter | None = self[-1].bias
        return bias

    def __getitem__(self, index: Any) -> Any:
        """A stage; of a slice, the plain sequence of its stages."""
        return nn.Sequential(*list(self)[index]) if isinstance(index, slice) else super().__getitem__(index)

    def factors(self) -> list[nn.Parameter]:
        """The stages' weights, first to last, as their convolutions hold them."""
        stages: Any = self
        return [stage.weight for stage in stages]

    @classmethod
    def _assemble(cls, like: Any, factors: Sequence[Tensor], bias: Tensor | None) -> Self:
        shape = cls._shape_of(like)
        one = [factor.unflatten(0, (like.groups, -1))[0] for factor in factors]
        stages = cls._stages(shape, cls._rank_of(one))
        last = len(stages) - 1
        pairs = enumerate(zip(stages, factors, strict=True))
        make: Any = cls
        chain: Self = make(*(build(like, stage, factor, bias if k == last else None) for k, (stage, factor) in pairs))
        return chain._become(like)

    @classmethod
    def _rank_of(cls, factors: Sequence[Tensor]) -> int | tuple[int, ...]:
        return int(factors[0].shape[0])

    @classmethod
    def macs(cls, layer: Any, rank: Any, output_size: Sequence[int] | None = None, **digits: Any) -> int:
        """Multiply-accumulates of the chain for one image.

        Args:
            layer: that would be replaced.
            rank: the format's.
            output_size: (height, width) of the layer's output; the input is taken as the largest that gives it. By
                default those of one output position in a large image.
            digits: none, in these formats.
        """
        stages, total = cls._stages(cls._shape_of(layer), rank), 0
        done: set[int] = set()
        for stage in stages:
            done |= set(stage.along)
            total += math.prod(stage.shape) * positions(layer, output_size, done)
        return int(layer.groups * total)

    @classmethod
    def _square_norm(cls, factors: Sequence[Tensor]) -> float:
        return float(multiply_out(list(factors)).square().sum())

    def dense_weight(self) -> Tensor:
        """The kernel that the chain multiplies out to, (T, S / groups, *window); differentiable."""
        split = (factor.unflatten(0, (self.groups, -1)) for factor in self.factors())
        parts = zip(*(torch.unbind(factor) for factor in split), strict=True)
        return torch.cat([multiply_out(list(part)) for part in parts])


def multiply_out(factors: Sequence[Tensor]) -> Tensor:
    """The kernel (T, S, *window) of one group's chain: weights (outputs, inputs, *window), depthwise ones (R, 1, ..).

    In every direction one of two neighbours has one entry: their composition is an outer product.
    """
    kernel = factors[0]
    for factor in factors[1:]:
        if factor.shape[1] == 1 and kernel.shape[0] == factor.shape[0] > 1:
            kernel = kernel * factor
        else:
            kernel = torch.einsum("rs...,tr...->ts...", kernel, factor)
    return kernel


def positions(layer: Any, output_size: Sequence[int] | None, done: set[int]) -> int:
    """At how many positions a stage computes that leaves the axes not in `done` at the input's size."""
    if output_size is None:
        return math.prod(step for axis, step in enumerate(layer.stride) if axis not in done)
    if len(output_size) != len(layer.stride):
        raise ValueError(f"expected an output size of {len(layer.stride)} numbers, got {tuple(output_size)}")
    sizes = Geometry.of(layer).input_size(output_size, layer.kernel_size)
    return math.prod(output_size[axis] if axis in done else sizes[axis] for axis in range(len(sizes)))


def build(layer: Any, stage: Stage, weight: Tensor, bias: Tensor | None) -> Any:
    """One stage of the chain as a convolution of the layer's kind, dtype and device.

    A stage strides, pads and dilates only in the directions in which its kernel is the original's: the vertical
    factor vertically, the horizontal one horizontally, a factor of the channels not at all.
    """
    outputs, inputs, *kernel = weight.shape
    carries = [axis in stage.along for axis in range(len(kernel))]
    groups = outputs if stage.depthwise else layer.groups
    if isinstance(layer.padding, str):
        padding: Any = layer.padding if any(carries) else 0
    else:
        padding = tuple(p if carry else 0 for p, carry in zip(layer.padding, carries, strict=True))
    kind = next(kind for kind in CONVOLUTIONS if isinstance(layer, kind))
    conv: Any = nn.utils.skip_init(
        kind,
        inputs * groups,
        outputs,
        tuple(kernel),
        stride=tuple(s if carry else 1 for s, carry in zip(layer.stride, carries, strict=True)),
        padding=padding,
        dilation=tuple(d if carry else 1 for d, carry in zip(layer.dilation, carries, strict=True)),
        groups=groups,
        bias=False,
        padding_mode=layer.padding_mode if any(carries) else "zeros",
        device=layer.weight.device,
        dtype=layer.weight.dtype,
    )
    conv.weight = own_parameter(weight, layer.weight)
    if bias is not None:
        conv.bias = own_parameter(bias, bias)
    return conv.train(layer.training)
