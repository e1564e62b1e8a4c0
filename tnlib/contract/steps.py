"""The steps of a contraction: each is linear in the rows that go through it and in its weight.

A step knows the sizes of one row. `apply` maps a batch of rows, in any shape, to the next intermediate result and may
add a bias of all results of a row; `to_input` and `to_weight` are its two gradients. While a step is traced it does not
ask how many rows there are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from tnlib.contract.cost_model import CostModel
from tnlib.contract.products import Product


def is_tracing() -> bool:
    """Whether torch.compile, torch.export or torch.jit is looking on: sizes may be symbols then."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined]


class Step(ABC):
    """Numbers of one row: `source` goes in, `result` comes out, `scratch` is held beside both; numbers in `weight`."""

    source: int
    result: int
    scratch: int
    weight: int
    macs: int
    fused: bool  # whether a bias is added on the way, without another pass

    @abstractmethod
    def describe(self, rows: int) -> str:
        """The step for so many rows in words."""

    @abstractmethod
    def time(self, rows: int, model: CostModel) -> float:
        """Nanoseconds of `apply`."""

    def backward_time(self, rows: int, model: CostModel) -> float:
        """Nanoseconds of both gradients."""
        return 2 * self.time(rows, model)

    @abstractmethod
    def turned(self, weight: Tensor) -> Tensor:
        """The weight as `to_input` takes it."""

    @abstractmethod
    def apply(self, y: Tensor, weight: Tensor, rows: int, bias: Tensor | None = None) -> Tensor:
        """The next intermediate result, with a bias (result,) if one is given."""

    @abstractmethod
    def to_input(self, dy: Tensor, turned: Tensor, rows: int) -> Tensor:
        """The gradient of the rows from that of the results."""

    @abstractmethod
    def to_weight(self, dy: Tensor, y: Tensor, rows: int) -> Tensor:
        """The gradient of the weight from that of the results and the rows."""


class _Multiplication(Step):
    scratch = 0

    def __post_init__(self) -> None:
        one = self.product(1)
        sizes = {"result": one.result, "weight": one.weight, "macs": one.macs}
        for name, size in (sizes | {"source": one.floats - one.result - one.weight}).items():
            object.__setattr__(self, name, size)

    @abstractmethod
    def product(self, rows: int) -> Product:
        """The matrix product of so many rows."""

    def describe(self, rows: int) -> str:
        return str(self.product(rows))

    def time(self, rows: int, model: CostModel) -> float:
        return model.product(self.product(rows))

    def turned(self, weight: Tensor) -> Tensor:
        # A repeated matrix that is not contiguous would be copied for each product of a batch.
        return weight.t().contiguous()


@dataclass(frozen=True)
class Right(_Multiplication):
    """Each row as a matrix (before, inner), times a weight (inner, cols)."""

    before: int
    inner: int
    cols: int

    @property
    def fused(self) -> bool:  # type: ignore[override]
        return self.before == 1

    def product(self, rows: int) -> Product:
        return Product(1, rows * self.before, self.inner, self.cols, weight_first=False)

    def apply(self, y: Tensor, weight: Tensor, rows: int, bias: Tensor | None = None) -> Tensor:
        y = y.reshape(rows * self.before, self.inner)
        if bias is not None and self.fused:
            return torch.addmm(bias, y, weight)
        return _plus(torch.mm(y, weight), rows, bias)

    def to_input(self, dy: Tensor, turned: Tensor, rows: int) -> Tensor:
        return torch.mm(dy.reshape(rows * self.before, self.cols), turned)

    def to_weight(self, dy: Tensor, y: Tensor, rows: int) -> Tensor:
        count = rows * self.before
        return torch.mm(y.reshape(count, self.inner).t(), dy.reshape(count, self.cols))


@dataclass(frozen=True)
class Left(_Multiplication):
    """Each row as `before` matrices (inner, cols), a weight (height, inner) times each."""

    before: int
    height: int
    inner: int
    cols: int

    @property
    def fused(self) -> bool:  # type: ignore[override]
        return self.before == 1

    def product(self, rows: int) -> Product:
        return Product(rows * self.before, self.height, self.inner, self.cols, weight_first=True)

    def backward_time(self, rows: int, model: CostModel) -> float:
        return 2 * self.time(rows, model) + model.moved(2 * rows * self.before * self.weight)

    def apply(self, y: Tensor, weight: Tensor, rows: int, bias: Tensor | None = None) -> Tensor:
        count = rows * self.before
        added = bias.reshape(self.height, self.cols) if bias is not None and self.fused else None
        if not is_tracing() and count == 1:  # a plain product has less to do
            y = y.reshape(self.inner, self.cols)
            return torch.mm(weight, y) if added is None else torch.addmm(added, weight, y)
        y, repeated = y.reshape(count, self.inner, self.cols), weight.expand(count, -1, -1)
        if added is not None:
            return torch.baddbmm(added, repeated, y)
        return _plus(torch.bmm(repeated, y), rows, bias)

    def to_input(self, dy: Tensor, turned: Tensor, rows: int) -> Tensor:
        count = rows * self.before
        return torch.bmm(turned.expand(count, -1, -1), dy.reshape(count, self.height, self.cols))

    def to_weight(self, dy: Tensor, y: Tensor, rows: int) -> Tensor:
        # The sum of dy_b y_b^T over the batch: one product of copies beats a batch of small ones.
        count = rows * self.before
        dy = dy.reshape(count, self.height, self.cols).transpose(0, 1).reshape(self.height, count * self.cols)
        y = y.reshape(count, self.inner, self.cols).transpose(0, 1).reshape(self.inner, count * self.cols)
        return torch.mm(dy, y.t())


@dataclass(frozen=True)
class Weighted(Step):
    """Entry by entry times a weight (head, rank): a row (head, rank) is summed over its head, a row (rank,) repeated.

    The two are each other's transposes. They are the steps of a CPD, whose rank is not summed until the end.
    """

    head: int
    rank: int
    summed: bool
    fused = False

    def __post_init__(self) -> None:
        whole = self.head * self.rank
        sizes = (whole, self.rank, whole) if self.summed else (self.rank, whole, 0)
        for name, size in zip(("source", "result", "scratch"), sizes, strict=True):
            object.__setattr__(self, name, size)
        object.__setattr__(self, "weight", whole)
        object.__setattr__(self, "macs", whole)

    def describe(self, rows: int) -> str:
        return f"{rows} weighted sums over {self.head}" if self.summed else f"{rows} x {self.head} weighted copies"

    def time(self, rows: int, model: CostModel) -> float:
        return 2 * model.call + model.moved(4 * rows * self.weight)

    def turned(self, weight: Tensor) -> Tensor:
        return weight

    def apply(self, y: Tensor, weight: Tensor, rows: int, bias: Tensor | None = None) -> Tensor:
        return _plus(self._sum(y, weight, rows) if self.summed else self._repeat(y, weight, rows), rows, bias)

    def to_input(self, dy: Tensor, turned: Tensor, rows: int) -> Tensor:
        return self._repeat(dy, turned, rows) if self.summed else self._sum(dy, turned, rows)

    def to_weight(self, dy: Tensor, y: Tensor, rows: int) -> Tensor:
        one, whole = (dy, y) if self.summed else (y, dy)
        return (one.reshape(rows, 1, self.rank) * whole.reshape(rows, self.head, self.rank)).sum(0)

    def _sum(self, y: Tensor, weight: Tensor, rows: int) -> Tensor:
        return (y.reshape(rows, self.head, self.rank) * weight.to(y.dtype)).sum(1, dtype=y.dtype)

    def _repeat(self, y: Tensor, weight: Tensor, rows: int) -> Tensor:
        return y.reshape(rows, 1, self.rank) * weight.to(y.dtype)


def _plus(y: Tensor, rows: int, bias: Tensor | None) -> Tensor:
    return y if bias is None else y.reshape(rows, bias.shape[0]) + bias.to(y.dtype)
