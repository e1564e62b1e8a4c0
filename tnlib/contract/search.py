"""The cheapest way through a graph of blocks, by the cost model and under a ceiling on memory.

Nodes are what has been contracted so far, edges are blocks. The time of a block depends on the number of rows only, so
that for one size of chunks the best plan is a shortest path. The ceiling counts numbers that are held throughout, which
add up, and numbers of a moment, whose maximum counts: where the shortest path exceeds it, all paths that are best in
one of the counts are followed.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import get_args

from tnlib.contract.cost_model import CostModel
from tnlib.contract.plan import Block, Plan, Use

Edge = tuple[Hashable, Hashable, Block]
START, END = "start", "end"


@dataclass(frozen=True)
class Job:
    """What is to be planned: rows, use, and the limits."""

    rows: int
    use: Use
    chunked: bool
    model: CostModel
    max_bytes: int
    itemsize: int


def job(
    rows: int, use: Use, chunked: bool, model: CostModel | None, max_bytes: int, itemsize: int, sizes: Iterable[int]
) -> Job:
    """The arguments that all planners share, checked; `sizes` are those that must be positive."""
    if use not in get_args(Use):
        raise ValueError(f"use must be one of {', '.join(map(repr, get_args(Use)))}, got {use!r}")
    if rows < 0:
        raise ValueError(f"a plan needs a number of rows, got {rows}")
    if max_bytes < 0:
        raise ValueError(f"max_bytes cannot be negative, got {max_bytes}")
    for name, size in (("itemsize", itemsize), *(("sizes and ranks", s) for s in sizes)):
        if size < 1:
            raise ValueError(f"{name} must be positive, got {size}")
    return Job(max(rows, 1), use, chunked, model or CostModel.default(), max_bytes, itemsize)


@dataclass(frozen=True)
class _Path:
    """Blocks so far: nanoseconds, numbers held throughout, numbers of the worst moment, intermediates kept."""

    cost: float
    held: int
    peak: int
    kept: int
    blocks: tuple[Block, ...]

    def counts(self) -> tuple[float, int, int, int]:
        return self.cost, self.held, self.peak, self.kept


@dataclass(frozen=True)
class _Way:
    """One size of chunks, with intermediates kept or computed again; `most` intermediates may be kept."""

    job: Job
    chunk: int
    recompute: bool
    most: float

    @property
    def pieces(self) -> float:
        return self.job.rows / self.chunk

    def cost(self, block: Block) -> float:
        """Nanoseconds for all rows."""
        model, training = self.job.model, self.job.use == "training"
        time = 0.0
        for step in block.steps:
            forward = step.time(self.chunk, model)
            time += forward * (1 + self.recompute) + (step.backward_time(self.chunk, model) if training else 0.0)
        if self.job.use == "frozen":
            return self.pieces * time
        merging = sum(model.product(p) + 2 * model.call + model.moved(2 * p.result) for p in block.products)
        return self.pieces * time + (3 if training else 1) * merging

    def overhead(self) -> float:
        """Nanoseconds beside the blocks: views, copies and sums of each piece, counted as calls."""
        calls = 2 * (self.pieces > 1) + 20 * self.recompute
        return self.pieces * calls * self.job.model.call

    def numbers(self, block: Block, first: bool, last: bool) -> tuple[int, int, int]:
        """Held throughout, at the worst moment, and kept for backward."""
        largest = max((product.result for product in block.products), default=0)
        results = self.chunk * sum(step.result for step in block.steps)
        if self.job.use != "training":
            moment = max(self._forward(block, k, first, last) for k in range(len(block.steps)))
            return (0, moment, 0) if self.job.use == "frozen" else (block.stored, max(moment, 3 * largest), 0)
        # The merged tensors, as backward takes them, their gradients, in half precision summed in single; autograd's.
        held = (3 if self.job.itemsize >= 4 else 6) * block.stored + sum(p.result for p in block.products)
        if block.dense:
            return held, 3 * largest, 0
        moment = self.chunk * max(2 * (step.source + step.result) + step.scratch for step in block.steps)
        kept = results - self.chunk * block.steps[-1].result * last
        return held + results, max(moment, 3 * largest), 0 if self.recompute else kept

    def _forward(self, block: Block, k: int, first: bool, last: bool) -> int:
        step, whole = block.steps[k], self.pieces <= 1
        final = last and k == len(block.steps) - 1
        source = 0 if first and k == 0 else step.source
        # The last result is the output itself; a bias that is not added on the way takes another.
        result = step.result * (2 - whole - step.fused if final else 1)
        return self.chunk * (source + step.scratch + result)

    def bytes(self, path: _Path) -> int:
        return self.job.itemsize * (path.held + path.peak)

    def fits(self, path: _Path) -> bool:
        return self.bytes(path) <= self.job.max_bytes and path.kept <= self.most

    def paths(self, edges: Sequence[Edge], *, every: bool, limited: bool = True) -> list[_Path]:
        """To the end: the cheapest one, or every one that no other beats in all counts."""
        found: dict[Hashable, list[_Path]] = {START: [_Path(self.overhead(), 0, 0, 0, ())]}
        for source, target, block in edges:
            if block.dense and self.pieces > 1:
                continue
            cost, numbers = self.cost(block), self.numbers(block, source == START, target == END)
            for path in found.get(source, []):
                longer = _Path(
                    path.cost + cost,
                    path.held + numbers[0],
                    max(path.peak, numbers[1]),
                    path.kept + numbers[2],
                    (*path.blocks, block),
                )
                if not every or not limited or self.fits(longer):
                    _keep(found.setdefault(target, []), longer, every)
        return found.get(END, [])

    def best(self, edges: Sequence[Edge]) -> _Path | None:
        """The cheapest path that fits."""
        for every in (False, True):
            fitting = [path for path in self.paths(edges, every=every) if self.fits(path)]
            if fitting:
                return min(fitting, key=lambda path: path.cost)
        return None


def _keep(paths: list[_Path], new: _Path, every: bool) -> None:
    counts = new.counts()
    if not every:
        if not paths or counts[0] < paths[0].cost:
            paths[:] = [new]
        return
    if not any(all(a <= b for a, b in zip(old.counts(), counts, strict=True)) for old in paths):
        paths[:] = [old for old in paths if any(a < b for a, b in zip(old.counts(), counts, strict=True))] + [new]


def cheapest(edges: Sequence[Edge], inputs: int, outputs: int, job: Job) -> Plan:
    """The plan of least predicted time.

    Args:
        edges: (from, to, block), those that lead to a node before those that leave it; from `START` to `END`.
        inputs: numbers of a row.
        outputs: numbers of a row of the result.
        job: rows, use, limits. Intermediates are kept for backward where they take no more numbers than input and
            output together; chunks smaller than the batch are considered if `chunked`, or if nothing else fits.

    Raises:
        ValueError: no plan within `max_bytes`; the least that one needs is named.
    """
    sizes = [job.rows, *(2**k for k in reversed(range(job.rows.bit_length())) if 2**k < job.rows)]
    ways = [_ways(job, size, job.rows * (inputs + outputs)) for size in sizes]
    if job.chunked:
        ways = [[way for group in ways for way in group]]
    for group in ways:
        found = [(way, path) for way in group if (path := way.best(edges)) is not None]
        if found:
            way, path = min(found, key=lambda one: one[1].cost)
            kind = job.rows, job.use, way.chunk, way.recompute and not path.blocks[0].dense
            return Plan(path.blocks, *kind, path.cost, way.bytes(path))
    every = ((way, path) for group in ways for way in group for path in way.paths(edges, every=True, limited=False))
    least = min(way.bytes(path) for way, path in every)
    raise ValueError(
        f"no plan for {job.rows} rows ({job.use}) keeps to {job.max_bytes:,} bytes of temporaries; the least possible "
        f"is {least:,}: raise max_bytes or lower the ranks"
    )


def _ways(job: Job, chunk: int, most: int) -> list[_Way]:
    if job.use != "training":
        return [_Way(job, chunk, False, math.inf)]
    again = _Way(job, chunk, True, math.inf)
    return [again] if chunk < job.rows else [_Way(job, chunk, False, most), again]
