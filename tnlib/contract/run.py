"""Running a plan: plain operations where that is enough, one autograd function where a gradient is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from tnlib.contract.steps import is_tracing

if TYPE_CHECKING:
    from tnlib.contract.plan import Plan


def run_steps(plan: Plan, merged: Sequence[Tensor], x: Tensor, bias: Tensor | None) -> Tensor:
    """`Plan.run`."""
    if plan.dense:
        return functional.linear(x, merged[0], bias)
    if not is_tracing():
        return _eager(plan, merged, x, bias).reshape(x.shape[0], plan.steps[-1].result)
    return _apply(plan, merged, x, bias).reshape(x.shape[0], plan.steps[-1].result)


def _eager(plan: Plan, merged: Sequence[Tensor], x: Tensor, bias: Tensor | None) -> Tensor:
    if _autocasts(x.device.type):
        x, bias, *merged = _autocast(x.device.type, x, bias, *merged)
    if torch.is_grad_enabled():
        if x.requires_grad or any(weight.requires_grad for weight in merged):
            result: Tensor = Contraction.apply(plan, bias, x, *merged)[0]
            return result
        if bias is not None and bias.requires_grad:  # it alone learns
            return _in_chunks(plan, merged, x, None).reshape(x.shape[0], bias.shape[0]) + bias
    return _in_chunks(plan, merged, x, bias)


def _autocasts(kind: str) -> bool:
    """Whether operations on this kind of device are cast now; `meta` and others know no autocast."""
    return bool(torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind))


def without_autocast(kind: str) -> Any:
    """A context without autocast, for kinds of devices that know it."""
    return torch.autocast(kind, enabled=False) if _autocasts(kind) else nullcontext()


def _autocast(kind: str, *tensors: Tensor | None) -> list[Any]:
    """Once for all chunks, as torch would for each product: float64 stays what it is."""
    dtype = torch.get_autocast_dtype(kind)
    return [t if t is None or t.dtype == torch.float64 else t.to(dtype) for t in tensors]


def _apply(plan: Plan, merged: Sequence[Tensor], x: Tensor, bias: Tensor | None) -> Tensor:
    """All steps, one after the other, for all rows; in the shape of the last product.

    A view made in an autograd function could not be changed in place by who calls it.
    """
    rows, last = x.shape[0], plan.steps[-1]
    for step, weight in zip(plan.steps[:-1], merged, strict=False):
        x = step.apply(x, weight, rows)
    return last.apply(x, merged[-1], rows, bias)


def _in_chunks(plan: Plan, merged: Sequence[Tensor], x: Tensor, bias: Tensor | None) -> Tensor:
    outputs = plan.steps[-1].result
    if x.shape[0] <= plan.chunk:
        return _apply(plan, merged, x, bias)
    parts = (_apply(plan, merged, part, bias).reshape(part.shape[0], outputs) for part in x.split(plan.chunk))
    return _joined(parts, x.shape[0])


def _joined(parts: Iterator[Tensor], rows: int) -> Tensor:
    """The parts in one tensor, each copied while it is still in cache; made from a part, to be batched if that is."""
    result: Tensor | None = None
    begin = 0
    for part in parts:
        if result is None:
            result = part.new_empty(rows, part.shape[1])
        result.narrow(0, begin, part.shape[0]).copy_(part)
        begin += part.shape[0]
        del part  # or it would stay while the next one is made
    assert result is not None
    return result


class Contraction(torch.autograd.Function):
    """The steps as one operation: (plan, bias, rows, weights) to the results and the intermediates kept for backward.

    Autograd's own rule for `bmm` multiplies by the transpose of the repeated matrix, which torch then copies for each
    product of the batch. Where the plan says so, nothing is kept for backward but the rows.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(plan: Plan, bias: Tensor | None, x: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        with without_autocast(x.device.type):  # all are of one type already
            if plan.recompute or x.shape[0] > plan.chunk:
                return (_in_chunks(plan, weights, x, bias),)
            between = _intermediates(plan, weights, x)
            last = between[-1] if between else x
            return plan.steps[-1].apply(last, weights[-1], x.shape[0], bias), *between

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        plan, _, *tensors = inputs
        ctx.plan, ctx.shape, ctx.kept = plan, output[0].shape, len(output) - 1
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, *output[1:])
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None, *_: Any) -> Any:
        plan: Plan = ctx.plan
        x, *saved = ctx.saved_tensors
        weights, between = saved[: len(plan.steps)], saved[len(plan.steps) :]
        needs_bias, *needs = ctx.needs_input_grad[1:]
        if gradient is None:
            return None, None, *(None for _ in needs)
        if torch.is_grad_enabled():  # second derivatives must see how the intermediates came about
            between = []
        with without_autocast(x.device.type):
            gradient = gradient.reshape(x.shape[0], plan.steps[-1].result)
            of_bias = gradient.sum(0) if needs_bias else None
            return None, of_bias, *_gradients(plan, x, weights, between, gradient, needs)

    @staticmethod
    def jvp(ctx: Any, _: None, bias: Tensor | None, *tangents: Tensor | None) -> Any:
        plan: Plan = ctx.plan
        y, *weights = ctx.saved_tensors[: 1 + len(plan.steps)]
        rows, dy = y.shape[0], tangents[0]
        with without_autocast(y.device.type):
            for step, weight, turn in zip(plan.steps, weights, tangents[1:], strict=True):
                dy = _total(None if dy is None else step.apply(dy, weight, rows), turn, step, y, rows)
                y = step.apply(y, weight, rows)
            if bias is not None:
                dy = bias.expand(rows, -1) if dy is None else dy.reshape(rows, -1) + bias
        return dy if dy is None else dy.reshape(ctx.shape), *(None for _ in range(ctx.kept))


def _total(first: Tensor | None, turn: Tensor | None, step: Any, y: Tensor, rows: int) -> Tensor | None:
    """The product rule: the tangent that came through the rows, and the one that the weight's adds."""
    if turn is None:
        return first
    second: Tensor = step.apply(y, turn, rows)
    return second if first is None else first + second


def _intermediates(plan: Plan, weights: Sequence[Tensor], x: Tensor) -> list[Tensor]:
    """What the steps before the last make of the rows."""
    found: list[Tensor] = []
    for step, weight in zip(plan.steps[:-1], weights, strict=False):
        found.append(step.apply(found[-1] if found else x, weight, x.shape[0]))
    return found


def _gradients(
    plan: Plan,
    x: Tensor,
    weights: Sequence[Tensor],
    between: Sequence[Tensor],
    gradient: Tensor,
    needs: Sequence[bool],
) -> list[Tensor | None]:
    """For the rows and the weights, where needed, chunk by chunk; what was not kept `between` is computed again."""
    of_x, *of_weights = needs
    turned = [step.turned(weight) for step, weight in zip(plan.steps, weights, strict=True)]
    sums: list[Tensor | None] = [None] * len(weights)
    chunk = plan.chunk if len(x) > plan.chunk else max(len(x), 1)

    def pieces() -> Any:
        for part, dy in zip(x.split(chunk), gradient.split(chunk), strict=True):
            inputs = [part, *(between or _intermediates(plan, weights, part))]
            for k in reversed(range(len(weights))):
                step, y = plan.steps[k], inputs.pop()
                if of_weights[k]:
                    sums[k] = _added(sums[k], step.to_weight(dy, y, len(part)), len(x) > chunk)
                if not of_x and not any(of_weights[:k]):
                    break
                dy = step.to_input(dy, turned[k], len(part))
            yield dy.reshape(part.shape) if of_x else None

    if of_x and len(x) > chunk:
        return [_joined(pieces(), len(x)), *_finished(sums, weights)]
    *_, dx = pieces()
    return [dx, *_finished(sums, weights)]


def _added(total: Tensor | None, term: Tensor, more: bool) -> Tensor:
    """Sums over chunks in half precision would lose digits."""
    if not more:
        return term
    term = term.to(torch.promote_types(term.dtype, torch.float32))
    return term if total is None else total + term


def _finished(sums: Sequence[Tensor | None], weights: Sequence[Tensor]) -> list[Tensor | None]:
    return [None if total is None else total.to(w.dtype) for total, w in zip(sums, weights, strict=True)]
