"""Chains of convolutions for use only: channels_last buffers, and matrix products where these are faster.

In channels_last a 1x1 convolution is one product of the whole buffer with a matrix, and nothing is reordered between
the stages. That path is for float32 images on a CPU; all else takes the same steps as plain convolutions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tnlib.contract import is_tracing
from tnlib.layers.chain import multiply_out
from tnlib.layers.frozen import Frozen
from tnlib.layers.geometry import Geometry
from tnlib.layers.ttm_conv import is_channels_last

_LANES = 16  # float32 numbers in a register of 512 bits: oneDNN's depthwise kernels work on whole ones
_PATCHES = 2  # patches are multiplied up to so many pixels an output channel: measured on two cores, 13 shapes
_PLAIN = (Tensor, nn.Parameter)


@dataclass(frozen=True)
class Step:
    """One convolution: kernel (T, S / groups, *window), bias, and how it walks."""

    kernel: Tensor
    bias: Tensor | None
    geometry: Geometry
    groups: int

    @property
    def pointwise(self) -> bool:
        """Whether it only mixes channels: a matrix product in channels_last."""
        g, ones = self.geometry, (1,) * len(self.geometry.stride)
        return self.groups == 1 and self.kernel.shape[2:] == ones == g.stride and not any(map(any, g.pads))

    @property
    def depthwise(self) -> bool:
        """Whether it is one filter a channel."""
        return self.kernel.shape[0] == self.groups > 1 and self.kernel.shape[1] == 1

    def idle(self, axis: int) -> bool:
        """Whether it does nothing along an axis."""
        g = self.geometry
        return (self.kernel.shape[2 + axis], g.stride[axis], g.pads[axis]) == (1, 1, (0, 0))

    @property
    def simple(self) -> bool:
        """Whether torch's convolution pads as it needs: with zeros, equally on both sides."""
        return self.geometry.mode == "constant" and all(before == after for before, after in self.geometry.pads)


class FrozenChain(Frozen):
    """A chain of convolutions with merged kernels; depthwise neighbours are one pass."""

    in_channels: int
    kernel_0: Tensor

    def __init__(
        self, layer: Any, steps: Sequence[Step], input_shape: Sequence[int], *, fast: bool = True, lanes: int = 1
    ) -> None:
        super().__init__(layer)
        self._layer_groups, steps = layer.groups, list(steps)
        fast = fast and len(input_shape) == 4 and all(s.simple and is_float32_cpu(s.kernel) for s in steps)
        steps = _padded(_with_one_pass(_merged(steps), fast), lanes)
        self.steps: list[dict[str, Any]] = []
        self.fast, self.fixed, self.planned = fast, False, tuple(input_shape)
        shape = self.planned
        for number, step in enumerate(steps):
            few = fast and _few_pixels(step, shape)
            shape = (shape[0], len(step.kernel), *step.geometry.output_size(shape[2:], step.kernel.shape[2:]))
            kernel = step.kernel.detach().contiguous()
            if fast and step.pointwise:  # laid out as a matrix (S, T)
                kernel = kernel.flatten(1).t().contiguous().t().unflatten(1, (-1, 1, 1))
            elif fast and step.kernel.shape[1] > 1:
                kernel = kernel.contiguous(memory_format=torch.channels_last)
            self._hold(f"kernel_{number}", kernel)
            self._hold(f"bias_{number}", step.bias)
            how = {"geometry": step.geometry, "groups": step.groups, "pointwise": step.pointwise, "few": few}
            self.steps.append(how)

    @property
    def bias(self) -> Tensor | None:
        """The layer's bias; where a padded channel carries it, taken from the last kernel."""
        last = len(self.steps) - 1
        bias: Tensor | None = getattr(self, f"bias_{last}")
        if bias is not None or last == 0:
            return bias
        one: Tensor | None = getattr(self, f"bias_{last - 1}")
        return None if one is None else getattr(self, f"kernel_{last}").flatten(1) @ one

    def dense_weight(self) -> Tensor:
        """The kernel (T, S / groups, *window) that the steps multiply out to."""
        kernels = [getattr(self, f"kernel_{k}") for k in range(len(self.steps))]
        groups = self._layer_groups
        parts = zip(*(torch.unbind(kernel.unflatten(0, (groups, -1))) for kernel in kernels), strict=True)
        return torch.cat([multiply_out(list(part)) for part in parts])

    def _check(self, x: Tensor) -> None:
        super()._check(x)
        one = self.planned[1:] if self.planned[0] == 1 else self.planned
        if self.fixed and not is_tracing() and tuple(x.shape) not in (self.planned, one):
            raise ValueError(f"frozen for inputs of shape {self.planned} alone, got {tuple(x.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        """As the layer."""
        self._check(input)
        if self.fast and self._suits(input):
            return self._by_rows(input)
        if input.ndim == 1 + self.kernel_0.ndim - 2:
            return self.forward(input.unsqueeze(0)).squeeze(0)
        for number, step in enumerate(self.steps):
            kernel, bias = getattr(self, f"kernel_{number}"), getattr(self, f"bias_{number}")
            input = step["geometry"].conv(input, kernel, bias, step["groups"])
        return input

    def _suits(self, x: Tensor) -> bool:
        """Whether an input may take the faster path: plain float32 images on the CPU, nobody tracing or casting."""
        return (
            (self.fixed if is_tracing() else type(x) in _PLAIN)  # torch.export's tensors are of a type of their own
            and x.ndim == 4
            and x.dtype is torch.float32
            and x.is_cpu
            and not torch.is_autocast_enabled("cpu")
            and x.shape[1] == self.in_channels
            and x.numel() > 0
            and self.kernel_0.dtype is torch.float32
            and self.kernel_0.is_cpu
        )

    def _by_rows(self, x: Tensor) -> Tensor:
        """All steps on rows (B H W, channels), which in channels_last lie as they do in memory."""
        batch, channels, *size = x.shape
        rows = x.permute(0, 2, 3, 1).reshape(-1, channels)
        for number, step in enumerate(self.steps):
            kernel, bias = getattr(self, f"kernel_{number}"), getattr(self, f"bias_{number}")
            if step["pointwise"]:
                rows = product(rows, kernel.flatten(1), bias)
                continue
            geometry, channels = step["geometry"], rows.shape[1]
            if step["few"] and batch * math.prod(size) <= _few(kernel, geometry):
                rows, size = _patchwise(rows.view(batch, *size, channels), kernel, bias, geometry)
                continue
            # Of one channel, row-major strides: by channels_last's oneDNN returned memory that it had not written.
            image = rows.view(batch, *size, channels).permute(0, 3, 1, 2)
            image = image.reshape(batch, 1, *size) if channels == 1 else image
            y = geometry.conv(image, kernel, bias, step["groups"])
            size = list(y.shape[2:])
            rows = y.permute(0, 2, 3, 1).reshape(-1, y.shape[1])
        y = rows.view(batch, *size, -1).permute(0, 3, 1, 2)
        return y if is_channels_last(x) else y.contiguous()


def steps_of(stages: Sequence[nn.Module]) -> list[Step]:
    """The steps of ordinary convolutions."""
    convs: list[Any] = list(stages)
    return [Step(conv.weight.detach(), conv.bias, Geometry.of(conv), conv.groups) for conv in convs]


def is_float32_cpu(kernel: Tensor) -> bool:
    return kernel.dtype is torch.float32 and kernel.is_cpu and kernel.ndim == 4


def _few(kernel: Tensor, geometry: Geometry) -> int:
    """Up to how many pixels of all images patches are multiplied: for few, oneDNN's reordering of the kernel shows."""
    return _PATCHES * math.prod(geometry.stride) * len(kernel)


def _few_pixels(step: Step, shape: Sequence[int]) -> bool:
    plain = step.groups == 1 and set(step.geometry.dilation) == {1} and not step.pointwise
    return plain and shape[0] * math.prod(shape[2:]) <= _few(step.kernel, step.geometry)


def product(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Rows (N, S) by a weight (T, S): `addmm` spares the checks of `linear`."""
    return torch.mm(rows, weight.t()) if bias is None else torch.addmm(bias, rows, weight.t())


def _patchwise(images: Tensor, kernel: Tensor, bias: Tensor | None, geometry: Geometry) -> tuple[Tensor, list[int]]:
    """A convolution as one product of the patches of images (B, H, W, C): rows (B H' W', T), and (H', W')."""
    (top, bottom), (left, right) = geometry.pads
    channels, window = images.shape[3], kernel.shape[2:]
    lines = F.pad(images, (0, 0, left, right, top, bottom)).flatten(2)
    windows = lines.unfold(1, window[0], geometry.stride[0]).unfold(
        2, window[1] * channels, geometry.stride[1] * channels
    )
    size = list(windows.shape[1:3])
    patches = windows.flatten(3).flatten(0, 2)
    return product(patches, kernel.permute(0, 2, 3, 1).flatten(1), bias), size


def _merged(steps: Sequence[Step]) -> list[Step]:
    """Neighbouring depthwise steps along different axes as one: a call costs as much as its arithmetic."""
    result: list[Step] = []
    for step in steps:
        before = result[-1] if result else None
        together = before is not None and before.depthwise and step.depthwise and before.bias is None
        if together and before is not None and before.geometry.mode == step.geometry.mode and _apart(before, step):
            pairs = zip(before.geometry.pads, step.geometry.pads, strict=True)
            geometry = Geometry(
                tuple(map(max, before.geometry.stride, step.geometry.stride)),
                tuple(map(max, before.geometry.dilation, step.geometry.dilation)),
                tuple((a[0] + b[0], a[1] + b[1]) for a, b in pairs),
                step.geometry.mode,
            )
            result[-1] = Step(before.kernel * step.kernel, step.bias, geometry, step.groups)
        else:
            result.append(step)
    return result


def _apart(one: Step, other: Step) -> bool:
    """Whether on each axis at most one of two steps does anything."""
    return all(one.idle(axis) or other.idle(axis) for axis in range(len(one.geometry.stride)))


def _padded(steps: Sequence[Step], lanes: int) -> list[Step]:
    """The same chain with zeros for channels that make the number of those between two steps a multiple of `lanes`.

    A chain of several groups stays as it is: its channels would have to be padded group by group.
    """
    if any(step.groups > 1 and not step.depthwise for step in steps):
        return list(steps)
    result, room = [], 0  # channels that the step before has more
    for number, step in enumerate(steps):
        window = (0, 0) * (step.kernel.ndim - 2)
        if step.depthwise:
            kernel = F.pad(step.kernel, (*window, 0, 0, 0, room))
        else:
            more = -len(step.kernel) % lanes if number < len(steps) - 1 else 0
            kernel = F.pad(step.kernel, (*window, 0, room, 0, more))
            room = more
        bias = None if step.bias is None else F.pad(step.bias, (0, len(kernel) - len(step.kernel)))
        result.append(Step(kernel, bias, step.geometry, len(kernel) if step.depthwise else 1))
    return result


def _with_one_pass(steps: list[Step], fast: bool) -> list[Step]:
    """The chain 1x1, depthwise, 1x1 with its rank padded to whole registers, on the faster path.

    A padded channel that is constantly one (its filter is zero, its bias one) brings the last product its bias.
    """
    if not fast or len(steps) != 3:
        return steps
    first, middle, last = steps
    if (
        not (first.pointwise and middle.depthwise and last.pointwise)
        or first.bias is not None
        or middle.bias is not None
    ):
        return steps
    rank, biased = middle.groups, last.bias is not None
    room = -(rank + biased) % _LANES + biased
    inputs, filters = (F.pad(s.kernel, (0, 0, 0, 0, 0, 0, 0, room)) for s in (first, middle))
    outputs, one = F.pad(last.kernel, (0, 0, 0, 0, 0, room)), None
    if last.bias is not None:
        one = filters.new_zeros(len(filters))
        one[rank] = 1
        outputs[:, rank, 0, 0] = last.bias.detach()
    return [
        Step(inputs, None, first.geometry, 1),
        Step(filters, one, middle.geometry, len(filters)),
        Step(outputs, None, last.geometry, 1),
    ]
