"""How a convolution walks over its input, for modules that compute their kernel and cannot be an `nn.Conv2d`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Geometry:
    """Stride and dilation (vertical, horizontal) of an `nn.Conv2d`, and its padding as (left, right, top, bottom)."""

    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    pads: tuple[int, int, int, int]
    mode: str

    @classmethod
    def of(cls, layer: nn.Conv2d) -> Self:
        """The geometry of a layer; `same` and `valid` become numbers, `same` with the odd one right and below."""
        if layer.padding == "same":
            total = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
            top, left = (t // 2 for t in total)
            pads = left, total[1] - left, top, total[0] - top
        else:
            height, width = (0, 0) if isinstance(layer.padding, str) else layer.padding
            pads = width, width, height, height
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        return cls(layer.stride, layer.dilation, pads, mode)

    def conv(self, x: Tensor, weight: Tensor, groups: int = 1) -> Tensor:
        """Convolve (B, C, H, W) with (T, C / groups, kh, kw); (B, C, D, H, W) likewise, the kernel shared over D."""
        left, right, top, bottom = self.pads
        padding = (top, left)
        if self.mode != "constant" or (left, top) != (right, bottom):
            flat = F.pad(x.flatten(1, -3), self.pads, mode=self.mode)
            x = flat.reshape(*x.shape[:-2], *flat.shape[-2:])
            padding = (0, 0)
        if x.ndim == 4:
            return F.conv2d(x, weight, None, self.stride, padding, self.dilation, groups)
        deep = (1, *self.stride), (0, *padding), (1, *self.dilation)
        return F.conv3d(x, weight.unsqueeze(2), None, *deep, groups)

    def output_size(self, size: Sequence[int], kernel: Sequence[int]) -> tuple[int, int]:
        """Height and width that a kernel of height and width `kernel` makes of an input's."""
        left, right, top, bottom = self.pads
        height, width = (
            (n + pad - d * (k - 1) - 1) // s + 1
            for n, pad, k, d, s in zip(
                size, (top + bottom, left + right), kernel, self.dilation, self.stride, strict=True
            )
        )
        return height, width

    def __str__(self) -> str:
        return f"stride={self.stride}, pads={self.pads}, dilation={self.dilation}, mode={self.mode}"
