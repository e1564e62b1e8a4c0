"""Running a contraction plan: a ready function where no gradient is asked for, one autograd function where one is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from tnlib.layers.cost_model import Product
from tnlib.layers.plan import ChainPlan

Rows = Callable[[Tensor], Tensor]


def merge_blocks(plan: ChainPlan, cores: Sequence[Tensor]) -> list[Tensor]:
    """The plan's blocks as the matrices that its products take, in the order of the sweep; differentiable."""
    if plan.dense:
        return [merge_cores(cores)[0, :, :, 0].contiguous()]
    weights = []
    blocks = plan.blocks[::-1] if plan.direction == "right to left" else plan.blocks
    for (start, stop), product in zip(blocks, plan.products, strict=True):
        block = merge_cores(cores[start:stop])
        left, m, n, right = block.shape
        if plan.direction == "right to left":
            weight = block.reshape(left * m, n * right)
        else:
            weight = block.permute(1, 3, 0, 2).reshape(m * right, left * n)
        weights.append(weight.contiguous() if product.weight_first else weight.t().contiguous())
    return weights


def merge_cores(cores: Sequence[Tensor]) -> Tensor:
    """Neighbouring cores multiplied out to one of shape (left, prod m, prod n, right); differentiable."""
    block = cores[0]
    for core in cores[1:]:
        left, m, n, right = block.shape
        product = block.reshape(-1, right) @ core.reshape(right, -1)
        product = product.reshape(left, m, n, core.shape[1], core.shape[2], core.shape[3])
        block = product.transpose(2, 3).reshape(left, m * core.shape[1], n * core.shape[2], core.shape[3])
    return block


def run_chain(plan: ChainPlan, weights: Sequence[Tensor], bias: Tensor | None, rows: int) -> Rows:
    """The plan as a function from (rows, prod n) to (rows, prod m), with weights from `merge_blocks`, plus a bias.

    For a training plan it is differentiable in all of them, once and again. For any other, weights and bias are made
    ready here and the results carry no gradients: a call is the products and little else.
    """
    if plan.dense:
        return dense_step(weights[0], bias)
    if plan.training:
        return lambda x: _with_gradients(plan, weights, bias, x)
    if rows <= plan.chunk:
        return _products(plan, weights, bias, rows)
    whole = _products(plan, weights, bias, plan.chunk)
    rest = _products(plan, weights, bias, rows % plan.chunk) if rows % plan.chunk else whole
    outputs = math.prod(s[1] for s in plan.shapes)

    def run(x: Tensor) -> Tensor:
        parts = x.split(plan.chunk)
        runs = [whole] * (len(parts) - 1) + [rest]
        if torch.is_autocast_enabled(x.device.type):  # which leaves alone what writes into a given tensor
            return torch.cat([run(part) for run, part in zip(runs, parts, strict=True)])
        result = x.new_empty(rows, outputs)
        for run, part, out in zip(runs, parts, result.split(plan.chunk), strict=True):
            run(part, out)
        return result

    return run


def dense_step(weight: Tensor, bias: Tensor | None) -> Rows:
    """The product with the transpose of a weight (out, in), plus a bias: `functional.linear` with less to do."""
    turned = weight.t()
    if bias is None:
        return lambda x: torch.mm(x, turned)
    row = bias.view(1, -1)
    return lambda x: torch.addmm(row, x, turned)


def _products(plan: ChainPlan, weights: Sequence[Tensor], bias: Tensor | None, rows: int) -> Callable[..., Tensor]:
    """The products of one chunk of so many rows; the last one is written into `out` where that is given."""
    counts = [product.count // plan.chunk * rows for product in plan.products]
    *most, (product, weight, count) = zip(plan.products, weights, counts, strict=True)
    steps, last = [product_step(*triple) for triple in most], _last_step(product, weight, count, bias, rows)

    def run(x: Tensor, out: Tensor | None = None) -> Tensor:
        for step in steps:
            x = step(x)
        return last(x, out).view(rows, -1)

    return run


def product_step(product: Product, weight: Tensor, count: int) -> Rows:
    """One product as a function of what it multiplies, in any shape."""
    mm, bmm, inner, cols = torch.mm, torch.bmm, product.inner, product.cols
    if not product.weight_first:
        return lambda y: mm(y.reshape(-1, inner), weight)
    if count == 1:
        return lambda y: mm(weight, y.reshape(inner, cols))
    repeated, shape = weight.expand(count, -1, -1), (count, inner, cols)
    return lambda y: bmm(repeated, y.reshape(shape))


def _last_step(
    product: Product, weight: Tensor, count: int, bias: Tensor | None, rows: int
) -> Callable[[Tensor, Tensor | None], Tensor]:
    """The same of the last product, which adds the bias and is told where to write, or None."""
    height, inner, cols = product.rows, product.inner, product.cols
    if not product.weight_first:

        def right(y: Tensor, out: Tensor | None) -> Tensor:
            y = torch.mm(y.reshape(-1, inner), weight, out=None if out is None else out.view(-1, cols))
            return y if bias is None else y.view(rows, -1).add_(bias)

        return right
    one = count == 1
    multiply: Any = (torch.mm if one else torch.bmm) if bias is None else (torch.addmm if one else torch.baddbmm)
    before: Any = () if bias is None else (bias.view(height, cols) if one else bias.view(1, height, cols),)
    before += (weight if one else weight.expand(count, -1, -1),)
    shape, result = ((inner, cols), (height, cols)) if one else ((count, inner, cols), (count, height, cols))

    def left(y: Tensor, out: Tensor | None) -> Tensor:
        z: Tensor = multiply(*before, y.reshape(shape), out=None if out is None else out.view(result))
        return z

    return left


def _with_gradients(plan: ChainPlan, weights: Sequence[Tensor], bias: Tensor | None, x: Tensor) -> Tensor:
    kind = x.device.type
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        x, weights = x.to(dtype), [weight.to(dtype) for weight in weights]
    y: Tensor = Sweep.apply(plan, x, *weights)
    return y if bias is None else y + bias


class Sweep(torch.autograd.Function):
    """A chunked sweep as one operation: (plan, rows, weights) to rows.

    Autograd's own rule for `bmm` multiplies by the transpose of the repeated matrix, which torch then copies for each
    product of the batch. Where the plan says so, nothing is kept for backward but the rows.
    """

    @staticmethod
    def forward(ctx: Any, plan: ChainPlan, x: Tensor, *weights: Tensor) -> Tensor:
        results: list[Tensor] = []
        between: list[Tensor] = []
        keep = not plan.recompute and len(x) <= plan.chunk
        for part in x.split(plan.chunk):
            *inputs, result = _all_results(plan, weights, part)
            results.append(result.view(len(part), -1))
            between = inputs[1:] if keep else []
        ctx.plan = plan
        ctx.save_for_backward(x, *weights, *between)
        return results[0] if len(results) == 1 else torch.cat(results)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        plan, (x, *saved) = ctx.plan, ctx.saved_tensors
        weights, between = saved[: len(plan.products)], saved[len(plan.products) :]
        needs = ctx.needs_input_grad[1:]
        with torch.autocast(x.device.type, enabled=False):  # all are of one kind already
            if torch.is_grad_enabled():  # the gradient is to be differentiated: autograd's rules can be
                y = _all_results(plan, weights, x)[-1].reshape(len(x), -1)
                wanted = [v for v, need in zip((x, *weights), needs, strict=True) if need]
                found = iter(torch.autograd.grad(y, wanted, gradient, create_graph=True))
                return None, *(next(found) if need else None for need in needs)
            return None, *_gradients(plan, x, weights, between, gradient, needs)


def _gradients(
    plan: ChainPlan,
    x: Tensor,
    weights: Sequence[Tensor],
    between: Sequence[Tensor],
    gradient: Tensor,
    needs: Sequence[bool],
) -> list[Tensor | None]:
    """For the rows and the weights, where needed, chunk by chunk; what was not kept `between` is computed again."""
    dx = torch.empty_like(x, memory_format=torch.contiguous_format) if needs[0] else None
    exact = torch.promote_types(x.dtype, torch.float32)  # sums over chunks in half precision would lose digits
    sums = [torch.zeros_like(weight, dtype=exact) for weight in weights]
    turned = [weight.t().contiguous() for weight in weights]
    for begin in range(0, len(x), plan.chunk):
        part, dy = x[begin : begin + plan.chunk], gradient[begin : begin + plan.chunk]
        inputs = [part, *between] if between else _all_results(plan, weights[:-1], part)
        for k in reversed(range(len(weights))):
            product, y = plan.products[k], inputs.pop()
            if product.weight_first:
                dy, y = dy.reshape(-1, product.rows, product.cols), y.reshape(-1, product.inner, product.cols)
            else:
                dy, y = dy.reshape(-1, product.cols), y.reshape(-1, product.inner)
            if needs[k + 1]:
                sums[k] += _outer(dy, y) if product.weight_first else y.t() @ dy
            if k > 0:
                dy = _transposed(turned[k], dy)
            elif dx is not None:
                _transposed(turned[0], dy, dx[begin : begin + plan.chunk].view(y.shape))
    return [dx, *(total.to(x.dtype) if need else None for total, need in zip(sums, needs[1:], strict=True))]


def _all_results(plan: ChainPlan, weights: Sequence[Tensor], x: Tensor) -> list[Tensor]:
    """The rows and what each product in turn makes of them, in the shapes of the products."""
    results = [x]
    for product, weight in zip(plan.products, weights, strict=False):
        if product.weight_first:
            y = results[-1].reshape(-1, product.inner, product.cols)
            results.append(torch.bmm(weight.expand(len(y), -1, -1), y))
        else:
            results.append(torch.mm(results[-1].reshape(-1, product.inner), weight))
    return results


def _transposed(turned: Tensor, dy: Tensor, out: Tensor | None = None) -> Tensor:
    """The gradient for a product's input: by the transposed weight, from the side on which the weight stood."""
    if dy.ndim == 2:
        return torch.mm(dy, turned, out=out)
    return torch.bmm(turned.expand(len(dy), -1, -1), dy, out=out)


def _outer(dy: Tensor, y: Tensor) -> Tensor:
    """The sum of dy_b y_b^T over the batch, (rows, inner): one product of copies beats a batch of small ones."""
    return dy.transpose(0, 1).reshape(dy.shape[1], -1) @ y.transpose(0, 1).reshape(y.shape[1], -1).t()
