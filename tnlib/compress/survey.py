"""Which layers of a network can be replaced, what they see in one call, and why the others are left alone."""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tnlib import layers, measure
from tnlib.compress.inputs import Call
from tnlib.layers import eligible
from tnlib.layers.frozen import Frozen

KINDS = tuple(layers.FORMATS)
Shape = tuple[int, ...]
Observed = tuple[tuple[Shape, Shape], tuple[Shape, torch.dtype]]


@dataclass(frozen=True)
class Place:
    """A layer of a network, and the shapes of (input, output) of each of its calls in one call of the network.

    `name` is its qualified name, the first one if it stands in several places; `layouts` are strides and type of the
    input of each call.
    """

    name: str
    layer: nn.Module
    calls: tuple[tuple[Shape, Shape], ...]
    layouts: tuple[tuple[Shape, torch.dtype], ...] = ()

    @property
    def cost(self) -> dict[str, int]:
        """Parameters, multiply-accumulates of all calls, and bytes."""
        own = list(self.layer.parameters())
        sizes = {"params": sum(p.numel() for p in own), "bytes": sum(p.numel() * p.element_size() for p in own)}
        return sizes | {"macs": sum(self.positions) * self.weight.numel()}

    @property
    def weight(self) -> Tensor:
        """The layer's."""
        layer: Any = self.layer
        weight: Tensor = layer.weight
        return weight

    @property
    def positions(self) -> list[int]:
        """How often the weight is applied in each call: rows, or positions of a convolution's output; not a table."""
        if isinstance(self.layer, nn.Embedding):
            return [0] * len(self.calls)
        if isinstance(self.layer, nn.Linear):
            return [math.prod(before[:-1]) for before, _ in self.calls]
        return [math.prod(after) // self.weight.shape[0] for _, after in self.calls]

    @property
    def setting(self) -> str:
        """What decides the costs of its formats: its configuration, its type and the shapes it sees."""
        kind = type(self.layer).__mro__
        base = next(cls.__name__ for cls in kind if cls in KINDS)
        return f"{base}{self.layer.extra_repr()}{self.weight.dtype}{self.calls}"


@dataclass(frozen=True)
class Survey:
    """A network's replaceable layers by name, why the others are left, what it costs and for which inputs.

    `call` is the call whose cost counts, `order` the names of the layers as they are first called in it.
    """

    places: dict[str, Place]
    left: dict[str, str]
    cost: dict[str, int]
    inputs: str
    call: Call = field(compare=False, repr=False)
    order: tuple[str, ...]


def opened(model: nn.Module) -> nn.Module:
    """The model, or a copy of it whose attention layers call a linear layer for each of their projections.

    `nn.MultiheadAttention` only reads the weights of its projections: replaced ones would save nothing. One that shares
    a parameter with another module stays: the split would part them.
    """
    if not any(isinstance(module, nn.MultiheadAttention) for module in model.modules()):
        return model
    copied = copy.deepcopy(model)
    layers.split_attention(copied, skip=list(_tied(copied)))
    return copied


def survey(model: nn.Module, call: Call, skip: Collection[str] = (), only: Collection[str] | None = None) -> Survey:
    """Find the layers that can be replaced.

    Args:
        model: any network; it is untouched.
        call: the call whose cost counts.
        skip: qualified names of layers, or of modules with all that they contain, that are to stay as they are.
        only: likewise, those that may be replaced; by default all.

    Raises:
        ValueError: a name in `skip` or `only` that the model does not have.
    """
    modules = dict(model.named_modules())
    for name in (*skip, *(only or ())):
        if name not in modules:
            raise ValueError(f"the model has no module {name!r}; it has {', '.join(sorted(modules)[1:12])} ..")
    seen, tied = _observe(model, call), _tied(model)
    places, left = {}, {}
    for name, module in _candidates(model):
        reason = _reason(name, module, skip, only) or tied.get(module, "") or _special(module)
        if not reason and module not in seen:
            reason = "it is not called with these inputs"
        if reason:
            left[name] = reason
        else:
            shapes, layouts = zip(*seen[module], strict=True)
            places[name] = Place(name, module, shapes, layouts)
    cost = measure.cost(model, call.example)
    names = {place.layer: name for name, place in places.items()}
    order = tuple(names[module] for module in seen if module in names)
    costs = {"params": cost.params, "macs": cost.macs, "bytes": cost.bytes}
    return Survey(places, left, costs, call.describe(), call, order)


def _candidates(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Replaceable layers and other modules with a matrix of their own; not what is inside a layer."""
    done: list[str] = []
    for name, module in model.named_modules():
        if any(not above or name.startswith(above + ".") for above in done):
            continue
        if isinstance(module, (layers.Factorized, Frozen)):
            done.append(name)
        elif isinstance(module, KINDS):  # of a parametrized one, the parameters lie below
            done.append(name)
            yield name, module
        elif any(parameter.ndim > 1 for parameter in module.parameters(recurse=False)):
            yield name, module


def inside(name: str, names: Iterable[str]) -> bool:
    """Whether a module is one of these or lies in one of them."""
    return any(name == one or name.startswith(one + ".") or not one for one in names)


def _reason(name: str, module: nn.Module, skip: Collection[str], only: Collection[str] | None) -> str:
    if inside(name, skip):
        return "it is in `skip`"
    if only is not None and not inside(name, only):
        return "it is not in `only`"
    try:
        eligible.require(module, KINDS, "tnlib.compress")
    except TypeError as error:
        return str(error)
    return ""


def _special(module: nn.Module) -> str:
    """What an embedding is asked to do and its factors cannot."""
    if isinstance(module, nn.Embedding):
        try:
            layers.size(module, "svd", 1)
        except ValueError as error:
            return str(error)
        if module.padding_idx is not None and bool(module.weight[module.padding_idx].any()):
            return "its row of padding_idx is not zero, and a factorized one always is"
    return ""


def _tied(model: nn.Module) -> dict[nn.Module, str]:
    """Modules whose weight belongs to others, too, or to themselves twice, and which those are."""
    owners: dict[int, list[tuple[str, nn.Module]]] = defaultdict(list)
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)].append((name, module))
    result = {}
    for shared in owners.values():
        for name, module in shared if len(shared) > 1 else ():
            others = ", ".join(other for other, _ in shared if other != name)
            result[module] = f"a parameter of it is that of {others}, too: two copies would not stay tied"
    return result


def _observe(model: nn.Module, call: Call) -> dict[nn.Module, list[Observed]]:
    """The shapes of input and output, and the input's strides and type, of each call of each replaceable layer."""
    seen: dict[nn.Module, list[Observed]] = defaultdict(list)

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        before = args[0] if args else next(iter(kwargs.values()))
        shapes = tuple(before.shape), tuple(output.shape)
        seen[module].append((shapes, (tuple(before.stride()), before.dtype)))

    kinds = [module for module in model.modules() if isinstance(module, KINDS)]
    handles = [module.register_forward_hook(note, with_kwargs=True) for module in kinds]
    try:
        with torch.no_grad(), measure.evaluating(model), measure.without_fast_path():
            call.run(model)
    finally:
        for handle in handles:
            handle.remove()
    return seen
