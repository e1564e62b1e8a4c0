"""Layer after layer where a network's operations cannot be traced: both networks run anew up to each layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from tnlib.compress.inputs import Call
from tnlib.compress.regression import refit
from tnlib.compress.sequence import BATCHNORM, may_be_fitted, shared_parameters, shift_batchnorm
from tnlib.compress.survey import inside


class _ReachedError(Exception):
    """A call has come as far as it is looked at."""


def fit_stepwise(
    small: nn.Module,
    model: nn.Module,
    calls: Sequence[Call],
    skip: Collection[str] = (),
    outputs: Mapping[str, Tensor] | None = None,
    rounding: float = 0.0,
) -> None:
    """As `sequence.Walk`, without its care for shortcuts; it takes half a call of both networks for each layer."""
    shared, stops = shared_parameters(model), _order(small, model, calls[0])
    fitted: set[str] = set()
    for name, source in stops:
        layer, made = model.get_submodule(name), small.get_submodule(name)
        if isinstance(made, BATCHNORM):
            both = [(_seen(model, layer, call)[0], _seen(small, made, call)[0]) for call in calls]
            shift_batchnorm(made, [x for x, _ in both], [x for _, x in both], fitted=source in fitted)
        elif may_be_fitted(layer, made, shared) and not inside(name, skip):
            behind = [norm for norm, before in stops if before == name]
            pairs = _pairs(small, model, name, calls)
            counted = (outputs or {}).get(name)
            refit(layer, made, pairs, shift=bool(behind), outputs=counted, rounding=rounding)
            fitted.add(name)


def _pairs(small: nn.Module, model: nn.Module, name: str, calls: Sequence[Call]) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs of the compressed network's layer and outputs of the original's, call after call."""
    for call in calls:
        y = _seen(model, model.get_submodule(name), call)[1]
        yield _seen(small, small.get_submodule(name), call)[0], y


def _order(small: nn.Module, model: nn.Module, call: Call) -> list[tuple[str, str]]:
    """Layers and BatchNorms that are called once, in this order; of a BatchNorm whose output it takes, else ''."""
    known = {name for name, _ in model.named_modules()}
    names = {module: name for name, module in small.named_modules() if name in known}
    seen: list[tuple[str, Tensor, Tensor]] = []

    def note(module: nn.Module, x: Tensor, y: Tensor) -> None:
        seen.append((names[module], x, y))

    stops = [m for m in names if isinstance(m, BATCHNORM) or hasattr(m, "weight")]
    with _hooked(stops, note):
        call.run(small)
    times, by_output = Counter(name for name, _, _ in seen), {id(y): name for name, _, y in seen}
    result = []
    for name, x, _ in seen:
        module = small.get_submodule(name)
        if times[name] > 1 or (isinstance(module, BATCHNORM) and not module.track_running_stats):
            continue
        result.append((name, by_output.get(id(x), "") if isinstance(module, BATCHNORM) else ""))
    return result


def _seen(model: nn.Module, layer: nn.Module, call: Call) -> tuple[Tensor, Tensor]:
    """What a layer gets and gives in a call, which ends there."""
    found: list[tuple[Tensor, Tensor]] = []

    def note(module: nn.Module, x: Tensor, y: Tensor) -> None:
        found.append((x, y))
        raise _ReachedError

    with _hooked([layer], note), suppress(_ReachedError):
        call.run(model)
    return found[0]


@contextmanager
def _hooked(modules: Sequence[nn.Module], note: Callable[[nn.Module, Tensor, Tensor], None]) -> Iterator[None]:
    """`note` is called with each of these modules, its input and its output."""

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        note(module, args[0] if args else next(iter(kwargs.values())), output)

    handles = [module.register_forward_hook(hook, with_kwargs=True) for module in modules]
    try:
        with torch.no_grad():
            yield
    finally:
        for handle in handles:
            handle.remove()
