"""What people call inputs: a tensor, batches of any kind, a loader that gives labels, too; and the calls they make."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

VAR_KEYWORD = inspect.Parameter.VAR_KEYWORD
POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
LABELS = ("label", "labels")  # of a batch that is a dict: not given to the model


@dataclass(frozen=True)
class Call:
    """One call of a model: what it is called with."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @classmethod
    def of(cls, model: nn.Module, batch: Any) -> Call:
        """The call that a batch stands for, on the model's device.

        A tensor is the model's input. Of a sequence, which may end with labels, as many entries are taken as the model
        has positional arguments without a default, at least one. A mapping is given as keyword arguments, without
        `label`, `labels` and what the model does not know. TypeError for anything else.
        """
        tensors = chain(model.parameters(), model.buffers())
        device = next((tensor.device for tensor in tensors), torch.device("cpu"))
        arguments = list(inspect.signature(model.forward).parameters.values())
        if isinstance(batch, Tensor):
            return cls((batch.to(device),), {})
        if isinstance(batch, Mapping):
            known = {argument.name for argument in arguments if argument.kind is not VAR_KEYWORD}
            open_ended = any(argument.kind is VAR_KEYWORD for argument in arguments)
            kept = {k: v for k, v in batch.items() if k not in LABELS and (open_ended or k in known)}
            return cls((), {k: v.to(device) if isinstance(v, Tensor) else v for k, v in kept.items()})
        if isinstance(batch, Sequence) and batch and not isinstance(batch, str):
            needed = sum(a.kind in POSITIONAL and a.default is a.empty for a in arguments)
            taken = batch[: max(1, needed)]
            return cls(tuple(v.to(device) if isinstance(v, Tensor) else v for v in taken), {})
        raise TypeError(
            f"a batch must be a tensor, a sequence that begins with the model's inputs, or a mapping of its keyword "
            f"arguments; got {type(batch).__name__}"
        )

    def run(self, model: nn.Module) -> Any:
        """What the model returns."""
        return model(*self.args, **self.kwargs)

    @property
    def example(self) -> Tensor | tuple[Any, ...] | dict[str, Any]:
        """As `measure.cost` and `layers.freeze` take it."""
        if self.kwargs:
            return self.kwargs
        return self.args[0] if len(self.args) == 1 else self.args

    def describe(self) -> str:
        """The shapes of what it is called with."""
        values = [*self.args, *self.kwargs.values()]
        return ", ".join(str(tuple(value.shape)) for value in values if isinstance(value, Tensor))


def calls(model: nn.Module, inputs: Any, batch: int = 100) -> Iterator[Call]:
    """The calls that inputs stand for.

    Args:
        model: to be called.
        inputs: a tensor of samples, which is split into batches; a mapping, which is one batch; or an iterable of
            batches, a loader say.
        batch: samples of a batch of a tensor, at most; batches differ by one at most, so that none weighs too much.

    Raises:
        TypeError: inputs or a batch of another kind.
        ValueError: no batch at all.
    """
    if isinstance(inputs, Tensor):
        batches: Iterable[Any] = inputs.tensor_split(-(-len(inputs) // batch)) if inputs.ndim and len(inputs) else ()
    elif isinstance(inputs, Mapping):
        batches = (inputs,)
    elif isinstance(inputs, Iterable) and not isinstance(inputs, str):
        batches = inputs
    else:
        raise TypeError(f"inputs must be a tensor, a mapping or an iterable of batches, got {type(inputs).__name__}")
    empty = True
    for one in batches:
        empty = False
        yield Call.of(model, one)
    if empty:
        raise ValueError("inputs are empty: at least one batch is needed")


def with_example(model: nn.Module, inputs: Any, example: Any = None) -> tuple[Call, Iterator[Call]]:
    """The call whose cost counts, and all calls: an iterator of inputs is gone through once.

    By default the first sample of a tensor, the first batch of anything else.
    """
    every = calls(model, inputs)
    first = next(every)
    if example is not None:
        chosen = Call.of(model, example)
    elif isinstance(inputs, Tensor):
        chosen = Call.of(model, inputs[:1])
    else:
        chosen = first
    return chosen, chain([first], every)
