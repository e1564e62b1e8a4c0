"""Two-dimensional convolutions as chains of smaller ones, one class a format.

Each class is an `nn.Sequential` of ordinary `nn.Conv2d`: counters, hooks, quantization and export see nothing new.
`notebooks/00_start_here` compares them; groups are decomposed one by one, at one rank for all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from tnlib import decompose

Ranks = int | tuple[int, ...]
_BASE = "FactorizedConv2d is the base of the formats; use one of them, or layers.factorize"


@dataclass(frozen=True)
class Stage:
    """One convolution of a chain, for one group: weight (outputs, inputs, kh, kw), (R, 1, kh, kw) when depthwise.

    `along` tells the directions in which it takes over the layer's stride, padding and dilation: `h`, `w`, both, none.
    """

    weight: Tensor
    along: str = ""
    depthwise: bool = False


class FactorizedConv2d(nn.Sequential):
    """A convolution replaced by a chain of smaller ones; base class of the formats, made with `from_layer`.

    The chain's stages are `nn.Conv2d`; the last one carries the bias.
    """

    format: ClassVar[str]

    @property
    def rank(self) -> Ranks:
        """The rank of each group's kernel, an integer or a tuple as the format has it."""
        return self._inner_channels()[0]

    def _inner_channels(self) -> tuple[int, ...]:
        """Output channels, per group, of every stage but the last."""
        convs = [stage for stage in self if isinstance(stage, nn.Conv2d)]
        return tuple(conv.out_channels // convs[0].groups for conv in convs[:-1])

    @classmethod
    def from_layer(cls, layer: nn.Conv2d, rank: Ranks, **options: Any) -> Self:
        """Decompose a layer's kernel, group by group, and build the chain that computes with the factors.

        Args:
            layer: any `nn.Conv2d`; stride, padding, dilation, groups, padding mode, bias, dtype, device and
                train/eval mode carry over.
            rank: the format's rank of one group's kernel.
            options: passed to the decomposition (for example `seed`, `max_iter`).

        Raises:
            ValueError: a rank that is out of range; the message names the largest useful one.
        """
        kernels = layer.weight.detach().unflatten(0, (layer.groups, -1))
        parts = [cls.decompose(kernel.double(), rank, **options) for kernel in kernels]
        chain = [_build(layer, [part[i] for part in parts], i == len(parts[0]) - 1) for i in range(len(parts[0]))]
        return cls(*chain).train(layer.training)

    @staticmethod
    def decompose(kernel: Tensor, rank: Any, **options: Any) -> list[Stage]:
        """Factors of one group's kernel (T, S, kh, kw) as the weights of the chain's stages."""
        raise TypeError(_BASE)

    @staticmethod
    def max_rank(kernel_shape: Sequence[int]) -> Ranks:
        """The largest useful rank for a kernel of shape (T, S, kh, kw)."""
        raise TypeError(_BASE)

    def dense_weight(self) -> Tensor:
        """The kernel that the chain multiplies out to, shape (T, S / groups, kh, kw); differentiable."""
        assert isinstance(self[0], nn.Conv2d)
        groups = self[0].groups
        first, *rest = (_per_group(stage, groups) for stage in self)
        for stage in rest:
            # Kernels of two stages never overlap in a direction, so that their composition is an outer product.
            outer = torch.einsum("grsab,gtrcd->gtsacbd", first, stage)
            first = outer.flatten(5, 6).flatten(3, 4)
        return first.flatten(0, 1)


class SVDConv2d(FactorizedConv2d):
    """kh x kw convolution to R channels, then 1x1: truncated SVD of the kernel unfolded to T x (S kh kw).

    Rank: one integer, at most min(T, S kh kw).
    """

    format = "svd"

    @staticmethod
    def decompose(kernel: Tensor, rank: Any, **options: Any) -> list[Stage]:
        u, s, vh = decompose.svd(kernel.flatten(1), rank, **options)
        root = s.sqrt()
        return [Stage((root[:, None] * vh).unflatten(1, kernel.shape[1:]), "hw"), Stage((u * root)[:, :, None, None])]

    @staticmethod
    def max_rank(kernel_shape: Sequence[int]) -> int:
        return min(kernel_shape[0], math.prod(kernel_shape[1:]))


class SpatialSVDConv2d(FactorizedConv2d):
    """kh x 1 convolution to R channels, then 1 x kw: SVD of the kernel arranged as (S kh) x (T kw).

    Rank: one integer, at most min(S kh, T kw). Source: Jaderberg et al. 2014, scheme 2.
    """

    format = "spatial_svd"

    @staticmethod
    def decompose(kernel: Tensor, rank: Any, **options: Any) -> list[Stage]:
        outputs, inputs, height, width = kernel.shape
        u, s, vh = decompose.svd(kernel.permute(1, 2, 0, 3).reshape(inputs * height, outputs * width), rank, **options)
        root = s.sqrt()
        vertical = (u * root).mT.reshape(-1, inputs, height, 1)
        horizontal = (root[:, None] * vh).reshape(-1, outputs, 1, width).transpose(0, 1)
        return [Stage(vertical, "h"), Stage(horizontal, "w")]

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
    def decompose(kernel: Tensor, rank: Any, **options: Any) -> list[Stage]:
        weights, (a_out, a_in, a_vertical, a_horizontal) = decompose.cp(kernel, rank, **options)
        # The weights are spread evenly over the four factors: fine-tuning then sees gradients of like size.
        root = weights.abs() ** 0.25
        return [
            Stage((a_in * root).mT[:, :, None, None]),
            Stage((a_vertical * root).mT[:, None, :, None], "h", depthwise=True),
            Stage((a_horizontal * root).mT[:, None, None, :], "w", depthwise=True),
            Stage((a_out * root * weights.sign())[:, :, None, None]),
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
    def decompose(kernel: Tensor, rank: Any, **options: Any) -> list[Stage]:
        core, (u_out, u_in, _, _) = decompose.tucker(kernel, rank, modes=(0, 1), **options)
        return [Stage(u_in.mT[:, :, None, None]), Stage(core, "hw"), Stage(u_out[:, :, None, None])]

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
    def decompose(kernel: Tensor, rank: Any, **options: Any) -> list[Stage]:
        first, vertical, horizontal, last = decompose.tt(kernel.permute(1, 2, 3, 0), rank, **options).factors
        return [
            Stage(first[0].mT[:, :, None, None]),
            Stage(vertical.permute(2, 0, 1)[:, :, :, None], "h"),
            Stage(horizontal.permute(2, 0, 1)[:, :, None, :], "w"),
            Stage(last[:, :, 0].mT[:, :, None, None]),
        ]

    @staticmethod
    def max_rank(kernel_shape: Sequence[int]) -> tuple[int, ...]:
        outputs, inputs, height, width = kernel_shape
        return decompose.max_tt_ranks((inputs, height, width, outputs))


def _build(layer: nn.Conv2d, stages: list[Stage], last: bool) -> nn.Conv2d:
    """One stage of the chain as a grouped convolution; `stages` holds that stage's factor of every group.

    A stage strides, pads and dilates only in the directions in which its kernel is the original's: the vertical
    factor vertically, the horizontal one horizontally, a factor of the channels not at all.
    """
    weight = torch.cat([stage.weight for stage in stages]).to(layer.weight)
    outputs, inputs, *kernel = weight.shape
    carries = "h" in stages[0].along, "w" in stages[0].along
    groups = outputs if stages[0].depthwise else layer.groups
    if isinstance(layer.padding, str):
        padding: Any = layer.padding if any(carries) else 0
    else:
        padding = tuple(p if carry else 0 for p, carry in zip(layer.padding, carries, strict=True))
    conv: nn.Conv2d = nn.utils.skip_init(
        nn.Conv2d,
        inputs * groups,
        outputs,
        tuple(kernel),
        stride=tuple(s if carry else 1 for s, carry in zip(layer.stride, carries, strict=True)),
        padding=padding,
        dilation=tuple(d if carry else 1 for d, carry in zip(layer.dilation, carries, strict=True)),
        groups=groups,
        bias=last and layer.bias is not None,
        padding_mode=layer.padding_mode if any(carries) else "zeros",
        device=weight.device,
        dtype=weight.dtype,
    )
    with torch.no_grad():
        conv.weight.copy_(weight)
        if layer.bias is not None and conv.bias is not None:
            conv.bias.copy_(layer.bias)
    conv.requires_grad_(layer.weight.requires_grad)
    return conv


def _per_group(conv: nn.Module, groups: int) -> Tensor:
    """A stage's weight as (groups, outputs, inputs, kh, kw), a depthwise one spread on a diagonal."""
    assert isinstance(conv, nn.Conv2d)
    weight: Tensor = conv.weight.unflatten(0, (groups, -1))
    if conv.groups == groups:
        return weight
    return torch.diag_embed(weight[:, :, 0].movedim(1, -1)).permute(0, 3, 4, 1, 2)
