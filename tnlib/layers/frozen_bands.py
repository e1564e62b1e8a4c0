"""CP convolutions of one small image: the filters along the axes as band matrices, four matrix products in all.

A filter along an axis of length n is a band (Toeplitz) matrix (n', n): stride, dilation, and zero padding are in it. It
multiplies zeros, too, and still beats a depthwise convolution, which oneDNN runs at a tenth of a product's speed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tnlib.contract import is_tracing
from tnlib.layers.frozen_conv import FrozenChain, Step, is_float32_cpu, product
from tnlib.layers.ttm_conv import is_channels_last

_LARGEST = 32  # pixels of an axis up to which bands are used: measured on one and two threads, 14 shapes


def has_bands(steps: Sequence[Step], shape: Sequence[int]) -> bool:
    """Whether a layer is a chain 1x1, filters along one axis, filters along the other, 1x1 on one small image."""
    if len(steps) != 4 or len(shape) != 4 or shape[0] != 1 or max(shape[2:]) > _LARGEST:
        return False
    first, down, along, last = steps
    plain = all(s.simple and is_float32_cpu(s.kernel) for s in steps) and not any(s.bias is not None for s in steps[:3])
    mixes = first.pointwise and last.pointwise
    return plain and mixes and down.depthwise and along.depthwise and down.idle(1) and along.idle(0)


class FrozenBands(FrozenChain):
    """The chain for one image of the planned size; other inputs take the same steps as plain convolutions."""

    kernel_2: Tensor
    bias_2: Tensor | None
    down: Tensor
    along: Tensor
    window: Tensor

    def __init__(self, layer: Any, steps: Sequence[Step], input_shape: Sequence[int]) -> None:
        super().__init__(layer, steps, input_shape, fast=False)
        down, along = (_band(step, axis, input_shape[2 + axis]) for axis, step in enumerate(steps[1:3]))
        self.size = down.shape[1], along.shape[1]
        if self.size == (1, 1):  # one window: its products with the image, summed
            self._hold("window", (down.mT * along).flatten(1))
        else:
            self._hold("down", down)
            self._hold("along", along.mT.contiguous())

    def forward(self, input: Tensor) -> Tensor:
        """As the layer."""
        planned = self.fixed if is_tracing() else tuple(input.shape) == self.planned  # sizes may be symbols
        if not (planned and self._suits(input)):
            return super().forward(input)
        self._check(input)
        by_rows = is_channels_last(input)  # there the pixels are rows: products take them transposed, nothing is copied
        pixels = (
            input.permute(0, 2, 3, 1).reshape(-1, input.shape[1]).t() if by_rows else input.reshape(input.shape[1], -1)
        )
        mixed = torch.mm(self.kernel_0.flatten(1), pixels)
        if self.size == (1, 1):
            filtered = (mixed * self.window).sum(1, keepdim=True)
        else:
            images = mixed.view(len(mixed), *self.planned[2:])
            filtered = torch.bmm(torch.bmm(self.down, images), self.along).flatten(1)
        last, bias = self.kernel_2.flatten(1), self.bias_2
        if by_rows:
            y = product(filtered.t(), last, bias)
            return y.view(1, *self.size, len(last)).permute(0, 3, 1, 2)
        y = torch.mm(last, filtered) if bias is None else torch.addmm(bias.unsqueeze(1), last, filtered)
        return y.view(1, len(last), *self.size)


def _band(step: Step, axis: int, length: int) -> Tensor:
    """The matrices (R, n', n) of a depthwise step along an axis: its filters applied to the rows of an identity."""
    geometry, filters = step.geometry, step.kernel.detach().flatten(1)
    eye = torch.eye(length, dtype=filters.dtype, device=filters.device).unsqueeze(1)
    how = geometry.stride[axis], geometry.pads[axis][0], geometry.dilation[axis]
    return torch.nn.functional.conv1d(eye, filters.unsqueeze(1), None, *how).permute(1, 2, 0).contiguous()
