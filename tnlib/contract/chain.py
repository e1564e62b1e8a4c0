"""Plans for a chain of cores: a matrix in tensor-train form, or one side of any other format.

A core has shape (left, m, n, right): `left` and `right` are ranks, `n` a tensorized size of the input, `m` one of the
output. A plan merges neighbours into blocks and applies the blocks from one end. Each block is one matrix product, and
each intermediate result is read where it lies: nothing is permuted. `notebooks/06_build_tensor_layers` derives this.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Hashable, Iterator, Sequence
from functools import partial
from typing import Literal

from torch import Tensor

from tnlib.contract.cost_model import CostModel
from tnlib.contract.plan import Block, Plan, Use
from tnlib.contract.products import Product
from tnlib.contract.search import END, START, Edge, cheapest, job
from tnlib.contract.steps import Left, Right

Shape = tuple[int, int, int, int]
Direction = Literal["right to left", "left to right"]
DIRECTIONS: tuple[Direction, ...] = ("right to left", "left to right")


@functools.lru_cache(maxsize=1024)
def plan_chain(
    shapes: tuple[Shape, ...],
    rows: int,
    *,
    use: Use = "training",
    chunked: bool = True,
    model: CostModel | None = None,
    max_bytes: int = 128 * 2**20,
    itemsize: int = 4,
) -> Plan:
    """The cheapest plan for a chain: over all mergings of neighbours, both directions, and chunks of rows.

    Factors of the plan: the cores. Merging all of them, to the dense matrix, is one of the plans.

    Args:
        shapes: (left, m, n, right) of the cores, first and last rank 1.
        rows: of the batch; none is planned as one.
        use: "frozen" if merging is done beforehand, "forward" if in each call, "training" for forward and backward.
        chunked: whether chunks of rows are considered; not on a GPU, where small pieces leave it idle. Chunks are used
            all the same where nothing else keeps to `max_bytes`.
        model: the cost model, by default `CostModel.default()`.
        max_bytes: ceiling on `Plan.bytes`, the temporaries of a call.
        itemsize: bytes of a number.

    Raises:
        ValueError: shapes whose ranks do not meet, sizes that are not positive, an unknown use, or no plan within
            `max_bytes`.
    """
    ranks = [1, *(shape[-1] for shape in shapes)]
    if any(len(s) != 4 for s in shapes) or not shapes or ranks[-1] != 1 or [s[0] for s in shapes] != ranks[:-1]:
        raise ValueError(f"neighbouring ranks must be equal and the outer ones 1, got cores of shapes {shapes}")
    work = job(rows, use, chunked, model, max_bytes, itemsize, (size for shape in shapes for size in shape))
    names = [f"G{k + 1}" for k in range(len(shapes))]
    dense = _dense(shapes, "".join(names))
    edges = chain_edges(shapes, names, START, END)
    inputs, outputs = math.prod(s[2] for s in shapes), math.prod(s[1] for s in shapes)
    return cheapest([(START, END, dense), *edges], inputs, outputs, work)


def chain_edges(
    shapes: Sequence[Shape],
    names: Sequence[str],
    source: Hashable,
    target: Hashable,
    first: int = 0,
    turn: bool = False,
) -> Iterator[Edge]:
    """All blocks of a chain from one node to another.

    Args:
        shapes: of the cores.
        names: of the factors.
        source: the node before the chain is applied.
        target: the node after it.
        first: where the chain's factors begin among all factors.
        turn: whether the factors are matrices (n, m) instead of cores; matrices (m, n) are taken as they are.
    """
    last = len(shapes)
    for direction in DIRECTIONS:
        for start in range(last):
            for stop in range(start + 1, last + 1):
                # Cut number k lies k cores from the end where the contraction begins.
                ends = (last - stop, last - start) if direction == "right to left" else (start, stop)
                step = block_step(shapes, *ends, direction)
                merge = partial(_weights, start=first + ends[0], stop=first + ends[1], step=step, turn=turn)
                merge = partial(merge, direction=direction)
                name, products = "".join(names[slice(*ends)]), merging(shapes[slice(*ends)])
                node = source if start == 0 else (source, direction, start)
                following = target if stop == last else (source, direction, stop)
                yield node, following, Block(name, (step,), products, merge, direction)


def block_step(shapes: Sequence[Shape], start: int, stop: int, direction: Direction) -> Left | Right:
    """The step by which cores `start` to `stop - 1`, merged, are applied after all cores before them have been."""
    left, m, n, right = _merged_shape(shapes[start:stop])
    before, after = shapes[:start], shapes[stop:]
    if direction == "right to left":
        waiting, done = math.prod(s[2] for s in before), math.prod(s[1] for s in after)
        return Right(waiting, n * right, left * m) if done == 1 else Left(waiting, left * m, n * right, done)
    done, waiting = math.prod(s[1] for s in before), math.prod(s[2] for s in after)
    return Right(done, left * n, m * right) if waiting == 1 else Left(done, m * right, left * n, waiting)


def merging(shapes: Sequence[Shape]) -> tuple[Product, ...]:
    """The products that multiply neighbours out, one after the other."""
    found = []
    for end in range(1, len(shapes)):
        left, m, n, right = _merged_shape(shapes[:end])
        found.append(Product(1, left * m * n, right, math.prod(shapes[end][1:]), weight_first=False))
    return tuple(found)


def merge_cores(cores: Sequence[Tensor]) -> Tensor:
    """Neighbouring cores multiplied out to one of shape (left, prod m, prod n, right); differentiable."""
    block = cores[0]
    for core in cores[1:]:
        (left, m, n, right), (_, more_m, more_n, new) = block.shape, core.shape
        product = block.reshape(left * m * n, right) @ core.reshape(right, more_m * more_n * new)
        product = product.reshape(left, m, n, more_m, more_n, new).transpose(2, 3)
        block = product.reshape(left, m * more_m, n * more_n, new)
    return block


def _merged_shape(shapes: Sequence[Shape]) -> Shape:
    return shapes[0][0], math.prod(s[1] for s in shapes), math.prod(s[2] for s in shapes), shapes[-1][3]


def _dense(shapes: Sequence[Shape], name: str) -> Block:
    _, m, n, _ = _merged_shape(shapes)
    return Block(name, (Right(1, n, m),), merging(shapes), _matrix, dense=True)


def _matrix(cores: Sequence[Tensor]) -> list[Tensor]:
    return [merge_cores(cores)[0, :, :, 0].contiguous()]


def _weights(
    factors: Sequence[Tensor], start: int, stop: int, step: Left | Right, turn: bool, direction: Direction
) -> list[Tensor]:
    """A block as the matrix that its step takes."""
    cores = [core if core.ndim == 4 else (core.t() if turn else core)[None, :, :, None] for core in factors[start:stop]]
    block = merge_cores(cores)
    left, m, n, right = block.shape
    if direction == "right to left":
        weight = block.reshape(left * m, n * right)
    else:
        weight = block.permute(1, 3, 0, 2).reshape(m * right, left * n)
    return [weight.contiguous() if isinstance(step, Left) else weight.t().contiguous()]
