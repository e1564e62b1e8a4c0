"""Follows the operations of a network: their MACs, the memory of what they return, and which have no formula."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from tnlib.measure.operations import counts_nothing, formulas


class Counter(FlopCounterMode):
    """Torch's counter with more formulas; a context. `uncounted`: names of the operations that it cannot count.

    `peak`: the most bytes that the given inputs (tensors, nested in any way) and what operations returned occupied at
    one time.
    """

    def __init__(self, inputs: object) -> None:
        super().__init__(display=False, custom_mapping=formulas())
        self.uncounted: set[str] = set()
        self.flop_registry = _Observed(self.flop_registry, self._observe)
        self._alive: dict[int, int] = {}  # identity of a storage -> bytes
        self._now = self.peak = 0
        for tensor in _tensors(inputs):
            self._follow(tensor)

    @property
    def macs(self) -> int:
        """Multiply-accumulates so far: half of the FLOP."""
        return int(self.get_total_flops()) // 2

    def _observe(self, operation: Any, has_formula: bool, arguments: object, result: object) -> None:
        if not has_formula and not counts_nothing(operation):
            self.uncounted.add(str(operation))
        given = {id(tensor.untyped_storage()) for tensor in _tensors(arguments)}
        for tensor in _tensors(result):
            # A view of something that is not followed is a view of a parameter: not an activation.
            if id(tensor.untyped_storage()) not in given:
                self._follow(tensor)

    def _follow(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()  # the same object for all tensors on it, as long as one of them lives
        if id(storage) in self._alive:
            return
        self._alive[id(storage)] = storage.nbytes()
        self._now += storage.nbytes()
        self.peak = max(self.peak, self._now)
        weakref.finalize(storage, self._drop, id(storage)).atexit = False

    def _drop(self, storage: int) -> None:
        self._now -= self._alive.pop(storage)


class _Observed(dict[Any, Callable[..., int]]):
    """Formulas that report each operation that runs, also those without a formula.

    Of an operation without one the counter asks twice whether it is here: before, as it may be taken apart into
    others, and once more when it was not and has run. The first answer is no, the second yes.
    """

    def __init__(self, known: Mapping[Any, Callable[..., int]], report: Callable[[Any, bool, object, object], None]):
        super().__init__(known)
        self._report = report
        self._asked = ""

    def __contains__(self, operation: object) -> bool:
        name = ".".join(str(operation).split(".")[:2])  # the counter may ask for an overload first: aten.add.Tensor
        # A name without a dot is an operation on functions, which nothing takes apart.
        here = super().__contains__(operation) or "." not in name or name == self._asked
        self._asked = "" if here else name
        return here

    def __getitem__(self, operation: Any) -> Callable[..., int]:
        return partial(self._count, operation)

    def _count(self, operation: Any, *args: Any, out_val: object = None, **kwargs: Any) -> int:
        formula = self.get(operation)
        self._report(operation, formula is not None, (args, kwargs), out_val)
        return formula(*args, out_val=out_val, **kwargs) if formula else 0


def _tensors(value: object) -> Iterator[Tensor]:
    """The tensors in nested tuples, lists and dicts; not sparse ones, which have no one storage."""
    if isinstance(value, Tensor):
        if value.layout == torch.strided:
            yield value
    elif isinstance(value, (tuple, list, dict)):
        items: Iterable[object] = value.values() if isinstance(value, dict) else value
        for item in items:
            yield from _tensors(item)
