"""One way out: a model for use, its factorized layers merged and planned for an example's shapes."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from tnlib.contract import without_autocast
from tnlib.layers.chain import FactorizedConv
from tnlib.layers.eligible import hooked
from tnlib.layers.factorized import Factorized
from tnlib.layers.frozen import REFUSED, Frozen, FrozenLayer, FrozenTensorized
from tnlib.layers.frozen_bands import FrozenBands, has_bands
from tnlib.layers.frozen_conv import FrozenChain, Step, steps_of
from tnlib.layers.tensorized import TensorizedLinear
from tnlib.layers.ttm_conv import TTMConv
from tnlib.layers.tucker_conv import TuckerConv


def freeze(
    model: nn.Module,
    example: Tensor | Sequence[Any] | Mapping[str, Any],
    *,
    fixed: bool = False,
    portable: bool = False,
    lanes: int = 1,
) -> nn.Module:
    """A new model for inference: factors merged, planned and laid out, no gradients, in eval mode.

    The given model is untouched, and later changes of its weights do not reach the frozen one. A layer in several
    places stays one layer. Results are those of the model in eval mode up to rounding; other shapes than the example's
    are right, too, only planned for that one. The plan is for speed: where merged factors, or the whole dense weight,
    are faster, they are what is kept, and a frozen model may hold more numbers than the given one. Store that one.

    Args:
        model: any module; a factorized layer itself, too.
        example: an input, the sequence of the model's arguments, or a mapping of them by name; it is run once.
        fixed: inputs have the example's shape, always; then what is planned for it survives tracing, compiling and
            export, too. Of convolutions alone: all else is planned for a number of rows, and right for any.
        portable: convolutions are merged, but not laid out for torch's own kernels, for which ranks are padded with
            channels of zeros, and one that is constant. For other runtimes.
        lanes: where convolutions are portable, the channels between those of one chain are padded with zeros to a
            multiple of this: runtimes that compute several channels at once need it for their fast kernels.

    Returns:
        A model of the same class. RuntimeError, from it, for training mode, or where a gradient is to pass through a
        layer that was factorized. With `fixed`, a convolution that gets another shape raises ValueError.

    Raises:
        ValueError: lanes below 1.
    """
    if lanes < 1:
        raise ValueError(f"lanes must be at least 1, got {lanes}")
    frozen = copy.deepcopy(model).eval().requires_grad_(False)
    shapes = _input_shapes(frozen, example)
    with without_autocast(next((p.device.type for p in frozen.parameters()), "cpu")):
        frozen = _with_frozen_layers(frozen, shapes, lanes if portable else None)
    for module in frozen.modules():
        if isinstance(module, FrozenChain):
            module.fixed = fixed
    return frozen


def _with_frozen_layers(frozen: nn.Module, shapes: dict[nn.Module, tuple[int, ...]], lanes: int | None) -> nn.Module:
    if isinstance(frozen, Factorized):
        return _frozen(frozen, shapes.get(frozen), lanes)
    found: dict[nn.Module, nn.Module] = {}
    for name, module in list(frozen.named_modules(remove_duplicate=False)):
        if isinstance(module, Factorized):
            if module not in found:
                found[module] = _frozen(module, shapes.get(module), lanes)
            frozen.set_submodule(name, found[module])
    kind = type(frozen)
    frozen.__class__ = type(kind.__name__, (_OnlyEval, kind), {"__module__": kind.__module__})
    return frozen


class _OnlyEval:
    """What the class of a frozen model has more."""

    def train(self, mode: bool = True) -> Self:
        """Stays in eval mode; RuntimeError for any other."""
        if mode:
            raise RuntimeError(REFUSED)
        return self


def _input_shapes(
    model: nn.Module, example: Tensor | Sequence[Any] | Mapping[str, Any]
) -> dict[nn.Module, tuple[int, ...]]:
    """The shape of the first input that each factorized layer sees, given by place or by name."""
    shapes: dict[nn.Module, tuple[int, ...]] = {}
    named = example if isinstance(example, Mapping) else {}
    placed = () if named else (example,) if isinstance(example, Tensor) else tuple(example)

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        shapes.setdefault(module, tuple((args or tuple(kwargs.values()))[0].shape))

    layers = [module for module in model.modules() if isinstance(module, Factorized)]
    hooks = [module.register_forward_pre_hook(note, with_kwargs=True) for module in layers]
    try:
        with torch.no_grad():
            model(*placed, **named)
    finally:
        for hook in hooks:
            hook.remove()
    return shapes


def _frozen(layer: Any, shape: tuple[int, ...] | None, lanes: int | None) -> Frozen:
    """The frozen form of a layer for inputs of this shape; None for a layer that the example did not call.

    `lanes` are those of a portable form; None for one of torch's own.
    """
    if any(hooked(module) for module in layer.modules()):  # whoever watches the stages goes on seeing them
        return FrozenLayer(layer)
    if isinstance(layer, TensorizedLinear):
        return FrozenTensorized(layer, 1 if shape is None else max(1, math.prod(shape[:-1])))
    if isinstance(layer, (FactorizedConv, TTMConv)):
        return _frozen_conv(layer, shape, lanes)
    return FrozenLayer(layer)


def _frozen_conv(layer: Any, shape: tuple[int, ...] | None, lanes: int | None) -> Frozen:
    if shape is None:  # one position is planned for
        spans = (1 + d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True))
        shape = (1, layer.in_channels, *spans)
    shape = (1, *shape) if len(shape) == 1 + len(layer.stride) else shape
    with torch.no_grad():
        steps = _conv_steps(layer, shape)
    if steps is None:
        return FrozenLayer(layer)
    if lanes is not None:
        return FrozenChain(layer, steps, shape, fast=False, lanes=lanes)
    return FrozenBands(layer, steps, shape) if has_bands(steps, shape) else FrozenChain(layer, steps, shape)


def _conv_steps(layer: Any, shape: tuple[int, ...]) -> list[Step] | None:
    """The convolutions of a layer with their kernels as they are; None where its own order is better."""
    kind = type(layer)
    if kind is TTMConv:
        layer.order = layer.choose(shape, merging=False)
        kernel_first = layer.order == "kernel"
        return [Step(layer.dense_weight(), layer.bias, layer.geometry, layer.groups)] if kernel_first else None
    if kind is TuckerConv:
        first, core, last = layer
        middle = Step(core.weight, None, core.geometry, core.groups)
        return None if core.filters_first else [*steps_of([first]), middle, *steps_of([last])]
    return steps_of(list(layer))
