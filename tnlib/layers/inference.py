"""Chains of convolutions without gradients on a CPU: channels_last buffers, matrix products where these are faster.

In channels_last a 1x1 convolution is one product of the whole buffer with a matrix, and nothing is reordered between
the stages. What is derived from the weights is kept between calls: a `Path`. `chain.FactorizedConv` asks `suits`
whether an input may take it, and the path whether it is `current`; where not, the stages are called one by one. Both
are asked in every call, when kernels have just emptied the caches: they look up as little as they can.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import chain
from operator import attrgetter, itemgetter, methodcaller
from typing import Any

import torch
import torch.nn.functional as F
import torch.nn.modules.module as global_hooks
from torch import Tensor, is_grad_enabled, nn
from torch._C import (
    _is_any_autocast_enabled,
    _is_tracing,
    _len_torch_dispatch_stack,
    _len_torch_function_stack,
)
from torch._C._functorch import maybe_current_level
from torch.autograd import forward_ad
from torch.compiler import is_compiling

_LANES = 16  # float32 numbers in a register of 512 bits: oneDNN's depthwise kernels work on whole ones
_PATCHES = 2  # patches are multiplied up to so many pixels an output channel: measured on two cores, 13 shapes
_SHAPES = 8  # shapes of inputs whose functions are kept
_GEOMETRY = ("stride", "padding", "dilation")
_LAST, _FLOAT32, _STRIDED, _PLAIN = torch.channels_last, torch.float32, torch.strided, (Tensor, nn.Parameter)

Shape = tuple[int, ...]
Rows = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Product:
    """A 1x1 convolution as a product of the images' rows (B H W, S) with a matrix (S, T), plus a bias (T,)."""

    matrix: Tensor
    bias: Tensor | None = None

    def ready(self, shape: Shape) -> tuple[Rows, Shape]:
        """The function of rows for images of shape (B, S, H, W), and the shape of the result."""
        matrix, result = self.matrix, (shape[0], self.matrix.shape[1], *shape[2:])
        if self.bias is None:
            return lambda rows: torch.mm(rows, matrix), result
        bias = self.bias[None]
        return lambda rows: torch.addmm(bias, rows, matrix), result


@dataclass(frozen=True)
class Convolution:
    """oneDNN's convolution; for few pixels a product of the patches, since oneDNN reorders the kernel in every call.

    `patches` is the kernel as a matrix (kh kw S, T), None where only oneDNN will do.
    """

    kernel: Tensor
    bias: Tensor | None
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    patches: Product | None = None

    def ready(self, shape: Shape) -> tuple[Rows, Shape]:
        """The function of rows (B H W, S) for images of shape (B, S, H, W), and the shape of the result."""
        kernel, how = self.kernel, (self.bias, self.stride, self.padding, self.dilation, self.groups)
        batch, channels, height, width = shape
        (down, across), (top, left), (kh, kw) = self.stride, self.padding, kernel.shape[2:]
        spans = (height + 2 * top - self.dilation[0] * (kh - 1), width + 2 * left - self.dilation[1] * (kw - 1))
        result = batch, kernel.shape[0], (spans[0] - 1) // down + 1, (spans[1] - 1) // across + 1
        few = batch * height * width <= _PATCHES * down * across * kernel.shape[0]
        if self.patches is not None and few and min(spans) > 0:  # for less, conv2d says what is wrong
            multiply, _ = self.patches.ready(shape)

            def patchwise(rows: Tensor) -> Tensor:
                image = F.pad(rows.view(batch, height, width, channels), (0, 0, left, left, top, top)).flatten(2)
                windows = image.unfold(1, kh, down).unfold(2, kw * channels, across * channels)
                return multiply(windows.flatten(3).flatten(0, 2))

            return patchwise, result
        # One channel is contiguous in both formats, whatever its strides say; oneDNN goes by the strides, and where a
        # row of the output has one pixel, by channels_last's it returns memory that it never wrote.
        strides = (height * width, height * width, width, 1) if channels == 1 else _strides(shape)
        rows_after = result[0] * result[2] * result[3], result[1]

        def convolve(rows: Tensor) -> Tensor:
            y = F.conv2d(rows.as_strided(shape, strides), kernel, *how)
            return y.contiguous(memory_format=_LAST).as_strided(rows_after, (rows_after[1], 1))

        return convolve, result


Step = Product | Convolution


@dataclass
class Path:
    """The steps for a chain's stages as they are now; none for a chain that has to be called stage by stage.

    `ready` has the function for each shape of images that was met. `sources` keeps the weights' memory from being given
    to others: an address in the stamp then means one tensor.
    """

    stages: list[nn.Module]
    held: list[dict[str, Any]]
    stamp: list[Any]
    sources: list[Tensor]
    steps: list[Step]
    channels: int = 0
    ready: dict[Shape, Rows] = field(default_factory=dict)

    def current(self, stages: Iterable[nn.Module]) -> bool:
        """Whether the chain still has these stages, unchanged."""
        return [*stages] == self.stages and _stamp(self.held) == self.stamp

    def run_for(self, shape: Shape) -> Rows | None:
        """The function of images of this shape, channels_last whatever they are; None if the stages must be called."""
        run = self.ready.get(shape)
        if run is None and self.steps and len(shape) == 4 and 0 not in shape and shape[1] == self.channels:
            if len(self.ready) >= _SHAPES:
                self.ready.clear()
            run = self.ready[shape] = self._for_shape(shape)
        return run

    def _for_shape(self, shape: Shape) -> Rows:
        batch, channels, height, width = result = tuple(shape)
        rows, runs = (batch * height * width, channels), []
        for step in self.steps:
            run, result = step.ready(result)
            runs.append(run)
        strides = _strides(result)

        def whole(x: Tensor) -> Tensor:
            y = x.contiguous(memory_format=_LAST).as_strided(rows, (rows[1], 1))
            for run in runs:
                y = run(y)
            return y.as_strided(result, strides)

        return whole


def _strides(shape: Shape) -> Shape:
    """Of a channels_last tensor."""
    _, channels, height, width = shape
    return height * width * channels, 1, width * channels, channels


def suits(x: Tensor) -> bool:
    """Whether an input may take the path: plain float32 images, and nobody who wants to see the operations."""
    return (
        not is_grad_enabled()
        and not is_compiling()
        and type(x) in _PLAIN
        and x.dtype is _FLOAT32
        and x.layout is _STRIDED
        and not _is_any_autocast_enabled()
        and not _len_torch_dispatch_stack()  # counters of FLOPs and of memory, fake tensors
        and not _len_torch_function_stack()
        and maybe_current_level() is None  # vmap and the like
        and forward_ad._current_level < 0
        and not _is_tracing()
        and not global_hooks._global_forward_hooks
        and not global_hooks._global_forward_pre_hooks
    )


def _stamp(held: list[dict[str, Any]]) -> list[Any]:
    """Geometry, hooks, addresses and versions of weights of the stages with these attributes, by few calls.

    RuntimeError for weights that carry no version (made in inference mode), KeyError for a stage without such things.
    """
    parameters = [*map(_parameters, held)]
    weights = [w for values in parameters for w in values.values() if w is not None]
    numbers = map(len, chain(held, parameters, map(_hooks, held), map(_pre_hooks, held)))
    return [*map(_settings, held), *numbers, *map(_address, weights), *map(_version, weights)]


_settings = itemgetter(*_GEOMETRY, "groups", "padding_mode")
_parameters, _hooks, _pre_hooks = map(itemgetter, ("_parameters", "_forward_hooks", "_forward_pre_hooks"))
_address, _version = methodcaller("data_ptr"), attrgetter("_version")


def prepare(stages: Iterable[nn.Module]) -> Path | None:
    """The path for the stages of a chain; None if they carry no versions by which changes could be seen.

    It keeps the weights once more, kernels larger than 1x1 twice more. It has no steps where somebody wants the stages
    to be called (hooks, a `forward` of an instance's own), where a stage is no `nn.Conv2d` of plain float32 tensors on
    the CPU, or pads other than with zeros by numbers.
    """
    convs: list[Any] = list(stages)
    held, sources = [conv.__dict__ for conv in convs], [p.detach() for conv in convs for p in conv.parameters()]
    try:
        seen = _stamp(held)
    except KeyError:  # a stage that is no convolution
        return Path(convs, [], [], [], [])
    except RuntimeError:
        return None
    steps: list[Step] = []
    if all(map(_plain, sources)) and not any(map(_wants_calls, convs)):
        with torch.inference_mode(False), torch.no_grad():
            steps = _depthwise(*convs) if _is_depthwise(convs) else [_step(conv) for conv in convs]
    return Path(convs, held, seen, sources, steps, convs[0].in_channels)


def _wants_calls(conv: nn.Module) -> bool:
    own = type(conv) is not nn.Conv2d or "forward" in vars(conv) or bool(conv._forward_hooks or conv._forward_pre_hooks)
    return own or conv.padding_mode != "zeros" or isinstance(conv.padding, str)


def _plain(x: Any) -> bool:
    return type(x) in _PLAIN and x.dtype is _FLOAT32 and x.is_cpu and x.layout is _STRIDED


def _step(conv: nn.Conv2d) -> Step:
    weight, bias = conv.weight.detach(), None if conv.bias is None else conv.bias.detach()
    if _is_pointwise(conv):
        return Product(weight.flatten(1).t().contiguous(), bias)
    kernel = weight.contiguous().view(-1).view(weight.shape)  # row-major strides, see `Convolution.ready`
    if conv.in_channels > 1:
        kernel = weight.contiguous(memory_format=_LAST)
    patches = None
    if conv.groups == 1 and conv.dilation == (1, 1):
        patches = Product(kernel.permute(2, 3, 1, 0).flatten(0, 2).contiguous(), bias)
    how: dict[str, Any] = {name: getattr(conv, name) for name in (*_GEOMETRY, "groups")}
    return Convolution(kernel, bias, patches=patches, **how)


def _depthwise(first: nn.Conv2d, vertical: nn.Conv2d, horizontal: nn.Conv2d, last: nn.Conv2d) -> list[Step]:
    """The CP chain with one kh x kw depthwise pass, its rank padded to whole registers.

    One pass, because a call costs as much as its arithmetic. A padded channel that is constantly one (its kernel is
    zero, its bias one) brings the last product its bias.
    """
    rank, biased = vertical.groups, last.bias is not None
    channels = -(-(rank + biased) // _LANES) * _LANES
    room = channels - rank
    kernel = F.pad(vertical.weight * horizontal.weight, (0, 0, 0, 0, 0, 0, 0, room))
    inputs, outputs = F.pad(first.weight.flatten(1), (0, 0, 0, room)), F.pad(last.weight.flatten(1), (0, room))
    one = None
    if last.bias is not None:
        one = kernel.new_zeros(channels)
        one[rank] = 1
        outputs[:, rank] = last.bias
    how: dict[str, Any] = {name: (getattr(vertical, name)[0], getattr(horizontal, name)[1]) for name in _GEOMETRY}
    middle = Convolution(kernel, one, groups=channels, **how)
    return [Product(inputs.t().contiguous()), middle, Product(outputs.t().contiguous())]


def _is_depthwise(convs: list[nn.Conv2d]) -> bool:
    """Whether the stages are 1x1, kh x 1 and 1 x kw depthwise, 1x1, with at least two channels and no bias inside."""
    if len(convs) != 4 or any(conv.bias is not None for conv in convs[:3]):
        return False
    first, vertical, horizontal, last = convs
    channels = {n for conv in (vertical, horizontal) for n in (conv.groups, conv.in_channels, conv.out_channels)}
    flat = _is_flat(vertical, 1) and _is_flat(horizontal, 0)
    return flat and _is_pointwise(first) and _is_pointwise(last) and channels == {first.out_channels} != {1}


def _is_pointwise(conv: nn.Conv2d) -> bool:
    return conv.groups == 1 and _is_flat(conv, 0) and _is_flat(conv, 1)


def _is_flat(conv: nn.Conv2d, axis: int) -> bool:
    """Whether a stage does nothing along an axis (0: vertical, 1: horizontal)."""
    return (conv.kernel_size[axis], conv.stride[axis], conv.padding[axis]) == (1, 1, 0)
