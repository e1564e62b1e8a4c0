"""The order in which to contract a chain of cores with an input: which cores to merge first, from which end to sweep.

A chain is given by its cores' shapes (left, m, n, right): `left` and `right` are ranks, `n` a digit of the input, `m`
one of the output. A plan merges neighbouring cores into blocks and sweeps over the blocks from one end. Each block is
then one matrix product, and each intermediate result is read where it lies: a sweep permutes nothing. Merging all cores
gives the dense matrix, so that by the model a plan is never worse than that one.
`sweep` runs plans; `notebooks/06_build_tensor_layers` derives them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tnlib.layers.cost_model import CostModel, Product

Shape = tuple[int, int, int, int]
Direction = Literal["right to left", "left to right"]
DEFAULT = CostModel()


@dataclass(frozen=True)
class ChainPlan:
    """How one chain is contracted with a batch of rows.

    Attributes:
        shapes: the cores' (left, m, n, right).
        batch: rows that the plan is for; it serves any number.
        blocks: pairs (first, last + 1) of the cores that are merged.
        direction: from which end the blocks are applied.
        chunk: rows that go through the whole sweep together.
        training: whether gradients will be asked for.
        recompute: in training, whether intermediates are computed again in backward instead of being kept.
        products: of one chunk, in the order of the sweep.
        nanoseconds: predicted, for the whole batch; in training forward and backward.
    """

    shapes: tuple[Shape, ...]
    batch: int
    blocks: tuple[tuple[int, int], ...]
    direction: Direction
    chunk: int
    training: bool
    recompute: bool
    products: tuple[Product, ...]
    nanoseconds: float

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one row, without those of merging."""
        return sum(p.macs for p in self.products) // self.chunk

    @property
    def dense(self) -> bool:
        """Whether the plan multiplies all cores out to the dense matrix."""
        return len(self.blocks) == 1

    @property
    def merged(self) -> int:
        """Numbers in blocks made of more than one core: what inference keeps beside the cores."""
        shapes = [block_shape(self.shapes, *ends) for ends in self.blocks if ends[1] - ends[0] > 1]
        return sum(math.prod(shape) for shape in shapes)

    @property
    def largest(self) -> int:
        """Numbers in the largest intermediate result of one chunk."""
        return max((p.result for p in self.products[:-1]), default=0)

    def __str__(self) -> str:
        names = ["".join(f"G{k + 1}" for k in range(*ends)) for ends in self.blocks]
        chunk = "in one piece" if self.chunk >= self.batch else f"{self.chunk} rows at a time"
        lines = [f"{' | '.join(names)}, {self.direction}, {chunk}" + (", recomputed in backward" * self.recompute)]
        lines += [f"  {p}: {p.macs / self.chunk:,.0f} MACs a row" for p in self.products]
        if self.dense:
            lines.append("  all cores are multiplied out: the dense matrix is cheaper here")
        return "\n".join(lines)


def block_shape(shapes: Sequence[Shape], start: int, stop: int) -> Shape:
    """(left, m, n, right) of the cores from `start` to `stop - 1` merged."""
    part = shapes[start:stop]
    return part[0][0], math.prod(s[1] for s in part), math.prod(s[2] for s in part), part[-1][3]


@functools.lru_cache(maxsize=1024)
def plan_chain(
    shapes: tuple[Shape, ...], batch: int, *, training: bool = False, chunked: bool = True, model: CostModel = DEFAULT
) -> ChainPlan:
    """The cheapest plan by the cost model: over all mergings of neighbours, both directions, and chunks of rows.

    For one direction and chunk, the cost of a block depends on its two ends only, so that the best merging is a
    shortest path over the cuts between cores.

    Args:
        shapes: of the cores, first and last rank 1.
        batch: rows.
        training: plan for forward and backward; intermediates are recomputed where keeping them would take more
            numbers than input and output together.
        chunked: whether to consider chunks; not on a GPU, where small pieces leave it idle.
        model: the cost model.

    Raises:
        ValueError: shapes whose ranks do not meet, no rows.
    """
    ranks = [1, *(s[3] for s in shapes)]
    if not shapes or ranks[-1] != 1 or [s[0] for s in shapes] != ranks[:-1]:
        raise ValueError(f"neighbouring ranks must be equal and the outer ones 1, got cores of shapes {shapes}")
    if batch < 1:
        raise ValueError(f"a plan needs at least one row, got {batch}")
    chunks = {batch} | ({2**i for i in range(batch.bit_length()) if 2**i < batch} if chunked else set())
    directions: tuple[Direction, ...] = ("right to left", "left to right")
    plans = [_best(shapes, batch, d, chunk, training, model) for d in directions for chunk in sorted(chunks)]
    return min(plans, key=lambda plan: plan.nanoseconds)


def sweep_product(shapes: Sequence[Shape], start: int, stop: int, direction: Direction, rows: int) -> Product:
    """The matrix product by which a block is applied when all cores before it in the sweep have been."""
    left, m, n, right = block_shape(shapes, start, stop)
    if direction == "right to left":
        before, done = math.prod(s[2] for s in shapes[:start]), math.prod(s[1] for s in shapes[stop:])
        if done == 1:
            return Product(1, rows * before, n * right, left * m, weight_first=False)
        return Product(rows * before, left * m, n * right, done, weight_first=True)
    done, after = math.prod(s[1] for s in shapes[:start]), math.prod(s[2] for s in shapes[stop:])
    if after == 1:
        return Product(1, rows * done, left * n, m * right, weight_first=False)
    return Product(rows * done, m * right, left * n, after, weight_first=True)


def _best(
    shapes: tuple[Shape, ...], batch: int, direction: Direction, chunk: int, training: bool, model: CostModel
) -> ChainPlan:
    """Shortest path over the cuts, from the end where the sweep begins to the other."""
    last = len(shapes)
    best: list[tuple[float, tuple[tuple[int, int], ...]]] = [(0.0, ()), *[(math.inf, ())] * last]
    pieces = batch / chunk
    for stop in range(1, last + 1):
        for start in range(stop):
            # Cut number k lies k cores from the end where the sweep begins.
            ends = (last - stop, last - start) if direction == "right to left" else (start, stop)
            cost = pieces * _time(sweep_product(shapes, *ends, direction, chunk), training, model)
            if training:
                cost += _merging(shapes, *ends, model)
            if best[start][0] + cost < best[stop][0]:
                best[stop] = best[start][0] + cost, (*best[start][1], ends)
    cost, blocks = best[last]
    products = tuple(sweep_product(shapes, *ends, direction, chunk) for ends in blocks)
    inputs, outputs = math.prod(s[2] for s in shapes), math.prod(s[1] for s in shapes)
    if pieces > 1:  # each piece is cut out of the input and written into its place of the output
        cost += 2 * pieces * model.call
    kept = sum(p.result for p in products[:-1]) / chunk
    recompute = training and (pieces > 1 or kept > inputs + outputs)
    if recompute:
        # Beside the products some twenty views, copies and sums a piece, counted as calls.
        cost += pieces * (sum(model.product(p) for p in products) + 20 * model.call)
    return ChainPlan(shapes, batch, tuple(sorted(blocks)), direction, chunk, training, recompute, products, cost)


def _time(product: Product, training: bool, model: CostModel) -> float:
    """Forward; in training also the gradients of both operands, that of a batched weight made one by one and summed."""
    time = model.product(product)
    if not training:
        return time
    spread = 2 * product.count * product.rows * product.inner if product.weight_first else 0
    return 3 * time + model.moved(spread)


def _merging(shapes: Sequence[Shape], start: int, stop: int, model: CostModel) -> float:
    """Forward and backward of multiplying neighbours out, one after the other."""
    time = 0.0
    for end in range(start + 1, stop):
        left, m, n, right = block_shape(shapes, start, end)
        _, next_m, next_n, next_right = shapes[end]
        product = Product(1, left * m * n, right, next_m * next_n * next_right, weight_first=False)
        time += 3 * (model.product(product) + 2 * model.call + model.moved(2 * product.result))
    return time
