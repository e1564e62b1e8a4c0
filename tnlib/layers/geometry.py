"""How a convolution walks over its input, for modules that compute their kernel and cannot be a torch convolution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Self

import torch.nn.functional as F
from torch import Tensor

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


@dataclass(frozen=True)
class Geometry:
    """Stride and dilation of a convolution in each spatial axis, and its padding (before, after) in each."""

    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    mode: str

    @classmethod
    def of(cls, layer: Any) -> Self:
        """The geometry of a layer; `same` and `valid` become numbers, `same` with the odd one behind."""
        if layer.padding == "same":
            total = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
            pads = tuple((t // 2, t - t // 2) for t in total)
        else:
            numbers = [0] * len(layer.stride) if isinstance(layer.padding, str) else layer.padding
            pads = tuple((p, p) for p in numbers)
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        return cls(tuple(layer.stride), tuple(layer.dilation), pads, mode)

    @classmethod
    def plain(cls, axes: int) -> Self:
        """Of a 1x1 convolution."""
        return cls((1,) * axes, (1,) * axes, ((0, 0),) * axes, "constant")

    def conv(self, x: Tensor, weight: Tensor, bias: Tensor | None = None, groups: int = 1) -> Tensor:
        """Convolve (B, C, *size) with (T, C / groups, *window); (B, C, D, *size) likewise, the kernel shared over D."""
        axes = len(self.stride)
        deep = x.ndim - 2 - axes
        padding = [before for before, _ in self.pads]
        if self.mode != "constant" or any(before != after for before, after in self.pads):
            flat = self.padded(x.flatten(1, 1 + deep))
            x = flat.reshape(*x.shape[: 2 + deep], *flat.shape[2:])
            padding = [0] * axes
        if not deep:
            return _CONV[axes](x, weight, bias, self.stride, padding, self.dilation, groups)
        how = (1, *self.stride), (0, *padding), (1, *self.dilation)
        return _CONV[axes + 1](x, weight.unsqueeze(2), bias, *how, groups)

    def padded(self, x: Tensor) -> Tensor:
        """(B, C, *size) with its padding around it."""
        return F.pad(x, [n for pair in reversed(self.pads) for n in pair], mode=self.mode)

    def patches(self, x: Tensor, window: Sequence[int]) -> Tensor:
        """What each pixel of a window meets in (B, C, *size), position by position: (C, pixels, B, *size')."""
        sizes, x = self.output_size(x.shape[2:], window), self.padded(x)
        patches = x.new_empty(x.shape[1], math.prod(window), len(x), *sizes)
        for k, offset in enumerate(product(*(range(n) for n in window))):
            steps = zip(offset, sizes, self.stride, self.dilation, strict=True)
            where = [slice(d * i, d * i + (n - 1) * s + 1, s) for i, n, s, d in steps]
            patches[:, k] = x[(slice(None), slice(None), *where)].transpose(0, 1)
        return patches

    def output_size(self, size: Sequence[int], window: Sequence[int]) -> tuple[int, ...]:
        """The size that a window makes of an input's."""
        return tuple(
            (n + sum(pad) - d * (k - 1) - 1) // s + 1
            for n, pad, k, d, s in zip(size, self.pads, window, self.dilation, self.stride, strict=True)
        )

    def input_size(self, size: Sequence[int], window: Sequence[int]) -> tuple[int, ...]:
        """The largest size of an input whose output has this size."""
        return tuple(
            n * s + d * (k - 1) - sum(pad)
            for n, pad, k, d, s in zip(size, self.pads, window, self.dilation, self.stride, strict=True)
        )

    def __str__(self) -> str:
        return f"stride={self.stride}, pads={self.pads}, dilation={self.dilation}, mode={self.mode}"
