"""What the chains of convolutions share: from the factors of a kernel to a sequence of ordinary layers.

A format says which stages its chain has (`stages`) and what their weights are (`decompose`); everything else, for one
and for two spatial dimensions, pretrained and fresh, is here. Groups are decomposed one by one, at one rank for all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from tnlib.layers import inference

Ranks = int | tuple[int, ...]
Conv = nn.Conv1d | nn.Conv2d


@dataclass(frozen=True)
class Stage:
    """One convolution of a chain, for one group: its weight has shape (outputs, inputs, *kernel).

    `along` tells the directions in which it takes over the layer's stride, padding and dilation: `h`, `w`, both, none;
    the only one of an `nn.Conv1d` is `w`. A depthwise stage of R channels has a weight of shape (R, 1, *kernel).
    """

    shape: tuple[int, ...]
    along: str = ""
    depthwise: bool = False

    @property
    def terms(self) -> int:
        """How many products each of its outputs sums."""
        return math.prod(self.shape[1:])


class FactorizedConv(nn.Sequential):
    """A convolution replaced by a chain of smaller ones; base class, made with `from_layer` or `fresh`.

    Counters, hooks, quantization and export see ordinary layers. The last stage carries the bias.

    Without gradients, float32 images on the CPU take a faster path to the same result up to rounding (`inference`).
    What it derives from the weights is kept between calls and made anew when a weight has changed. A change through
    `.data` is not seen; call `forget()` after one.
    """

    format: ClassVar[str]
    layer_type: ClassVar[type[nn.Module]]
    _path: inference.Path | None = None

    @property
    def rank(self) -> Ranks:
        """The rank of each group's kernel, an integer or a tuple as the format has it."""
        return self._inner_channels()[0]

    def _inner_channels(self) -> tuple[int, ...]:
        """Output channels, per group, of every stage but the last."""
        groups = _conv(self[0]).groups
        return tuple(_conv(stage).out_channels // groups for stage in list(self)[:-1])

    @classmethod
    def from_layer(cls, layer: Any, rank: Any, **options: Any) -> Self:
        """Decompose a layer's kernel, group by group, and build the chain that computes with the factors.

        Args:
            layer: any convolution of the class's kind; stride, padding, dilation, groups, padding mode, bias, dtype,
                device, train/eval mode and the need for gradients carry over.
            rank: the format's rank of one group's kernel.
            options: passed to the decomposition (for example `seed`, `max_iter`).

        Raises:
            TypeError: another kind of layer.
            ValueError: a rank that is out of range; the message names the largest useful one.
        """
        stages = cls._stages_for(layer, rank)
        kernels = layer.weight.detach().unflatten(0, (layer.groups, -1)).double()
        parts = [cls.decompose(kernel, rank, **options) for kernel in kernels]
        weights = [torch.cat(factors) for factors in zip(*parts, strict=True)]
        return cls._assemble(layer, stages, weights, layer.bias).train(layer.training)

    @classmethod
    def fresh(cls, layer: Any, rank: Any, *, gain: float = 2**0.5, seed: int = 0) -> Self:
        """The chain that `from_layer` builds, with random weights, so that it can be trained from scratch.

        Every stage's weight is drawn normal with variance 1 / (number of terms that an output of the stage sums), the
        last one's with gain**2 more; the bias is zero. Entries of `dense_weight` then have mean 0 and variance
        gain**2 / fan_in, as He et al. 2015 initialise a dense kernel (gain**2 = 2 is for ReLU).

        Args:
            layer: tells everything but the weights, as for `from_layer`; it is not read otherwise.
            rank: as for `from_layer`.
            gain: standard deviation of an output for white input of variance 1 without padding.
            seed: decides the draw; the same call gives the same weights.
        """
        stages = cls._stages_for(layer, rank)
        generator = torch.Generator().manual_seed(seed)
        weights = []
        for position, stage in enumerate(stages):
            scale = (gain if position == len(stages) - 1 else 1.0) / math.sqrt(stage.terms)
            shape = (layer.groups * stage.shape[0], *stage.shape[1:])
            weights.append(scale * torch.randn(shape, generator=generator, dtype=torch.float64))
        bias = None if layer.bias is None else torch.zeros_like(layer.bias)
        return cls._assemble(layer, stages, weights, bias).train(layer.training)

    @classmethod
    def _stages_for(cls, layer: Any, rank: Any) -> list[Stage]:
        if not isinstance(layer, cls.layer_type):
            raise TypeError(f"{cls.__name__} replaces nn.{cls.layer_type.__name__}, got {type(layer).__name__}")
        conv = _conv(layer)
        outputs, *rest = conv.weight.shape
        return cls.stages((outputs // conv.groups, *rest), rank)

    @classmethod
    def _assemble(cls, layer: Conv, stages: Sequence[Stage], weights: Sequence[Tensor], bias: Tensor | None) -> Self:
        """The chain; a stage's weight holds all groups' one after the other."""
        last = len(stages) - 1
        pairs = enumerate(zip(stages, weights, strict=True))
        return cls(*(build(layer, stage, weight, bias if i == last else None) for i, (stage, weight) in pairs))

    @staticmethod
    def stages(kernel_shape: Sequence[int], rank: Any) -> list[Stage]:
        """The stages of one group's chain for a kernel of shape (T, S, *kernel); ValueError for a bad rank."""
        raise TypeError(_BASE)

    @staticmethod
    def decompose(kernel: Tensor, rank: Any, **options: Any) -> list[Tensor]:
        """Factors of one group's kernel (T, S, *kernel), float64, as the weights of the stages."""
        raise TypeError(_BASE)

    @staticmethod
    def max_rank(kernel_shape: Sequence[int]) -> Ranks:
        """The largest useful rank for a kernel of shape (T, S, *kernel)."""
        raise TypeError(_BASE)

    def forward(self, input: Tensor) -> Tensor:
        """Map (B, S, H, W) to (B, T, H', W') or (B, S, L) to (B, T, L'), or the same without B.

        The faster path returns channels_last strides whatever the input's are: flatten the result with `flatten` or
        `reshape`, not with `view`.
        """
        if inference.suits(input):
            path = self._path
            if path is None or not path.current(self._modules.values()):
                path = self._path = inference.prepare(self)
            if path is not None and (run := path.run_for(input.shape)) is not None:
                return run(input)
        return super().forward(input)  # type: ignore[no-any-return]

    def forget(self) -> None:
        """Drop what is kept between calls without gradients."""
        self._path = None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self.forget()
        return super()._apply(fn, recurse)  # type: ignore[no-any-return]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_path"}

    def dense_weight(self) -> Tensor:
        """The kernel that the chain multiplies out to, shape (T, S / groups, *kernel); differentiable."""
        groups = _conv(self[0]).groups
        first, *rest = (_per_group(stage, groups) for stage in self)
        for stage in rest:
            # In every direction one of the two kernels has one entry: their composition is an outer product.
            first = torch.einsum("grs...,gtr...->gts...", first, stage)
        return first.flatten(0, 1)


_BASE = "this is the base of the formats; use one of them, or layers.factorize"


def build(layer: Conv, stage: Stage, weight: Tensor, bias: Tensor | None) -> Conv:
    """One stage of the chain as a convolution of the layer's kind, dtype and device.

    A stage strides, pads and dilates only in the directions in which its kernel is the original's: the vertical
    factor vertically, the horizontal one horizontally, a factor of the channels not at all.
    """
    outputs, inputs, *kernel = weight.shape
    carries = [axis in stage.along for axis in "hw"[-len(kernel) :]]
    groups = outputs if stage.depthwise else layer.groups
    if isinstance(layer.padding, str):
        padding: Any = layer.padding if any(carries) else 0
    else:
        padding = tuple(p if carry else 0 for p, carry in zip(layer.padding, carries, strict=True))
    conv: Conv = nn.utils.skip_init(
        nn.Conv1d if len(kernel) == 1 else nn.Conv2d,
        inputs * groups,
        outputs,
        tuple(kernel),
        stride=tuple(s if carry else 1 for s, carry in zip(layer.stride, carries, strict=True)),
        padding=padding,
        dilation=tuple(d if carry else 1 for d, carry in zip(layer.dilation, carries, strict=True)),
        groups=groups,
        bias=bias is not None,
        padding_mode=layer.padding_mode if any(carries) else "zeros",
        device=layer.weight.device,
        dtype=layer.weight.dtype,
    )
    with torch.no_grad():
        conv.weight.copy_(weight)
        if bias is not None and conv.bias is not None:
            conv.bias.copy_(bias)
    conv.requires_grad_(layer.weight.requires_grad)
    return conv


def _conv(stage: nn.Module) -> Any:
    """A stage: a convolution, or a module with the same `weight`, `groups`, `in_channels` and `out_channels`."""
    return stage


def _per_group(stage: nn.Module, groups: int) -> Tensor:
    """A stage's weight as (groups, outputs, inputs, *kernel), a depthwise one spread on a diagonal."""
    conv = _conv(stage)
    weight: Tensor = conv.weight.unflatten(0, (groups, -1))
    if conv.groups == groups:
        return weight
    return torch.diag_embed(weight[:, :, 0].movedim(1, -1)).movedim((-2, -1), (1, 2))
