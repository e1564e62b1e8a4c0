"""What a plan is: groups of factors that are merged, the steps that apply them, and how many rows go at a time."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from tnlib.contract.products import Product
from tnlib.contract.run import run_steps
from tnlib.contract.steps import Step

Use = Literal["training", "forward", "frozen"]
Merge = Callable[[Sequence[Tensor]], list[Tensor]]


@dataclass(frozen=True)
class Block:
    """Factors that are merged, and the steps that multiply by what they become.

    Attributes:
        name: of the factors.
        steps: one for each merged tensor.
        products: by which the factors are merged; empty for a single one.
        merge: makes the merged tensors from all factors of the layer; differentiable, results contiguous.
        order: of this block among its neighbours, in words.
        dense: whether it is the whole matrix, kept (outputs, inputs).
    """

    name: str
    steps: tuple[Step, ...]
    products: tuple[Product, ...]
    merge: Merge = field(compare=False, repr=False)
    order: str = ""
    dense: bool = False

    @property
    def stored(self) -> int:
        """Numbers in the merged tensors."""
        return sum(step.weight for step in self.steps)


@dataclass(frozen=True)
class Plan:
    """How a batch of rows is multiplied by a matrix that is given by its factors.

    Made by `plan_chain`, `plan_cp` and `plan_tucker`.

    Attributes:
        blocks: in the order in which they are applied.
        rows: that the plan is for; it serves any number.
        use: "frozen" (merged once), "forward" (merged in each call) or "training" (and backward).
        chunk: rows that go through all steps together.
        recompute: in training, whether intermediate results are computed again in backward instead of being kept.
        nanoseconds: predicted for all rows, on the cost model's machine.
        bytes: of temporaries, at the worst moment, for `rows` rows of contiguous input; input, output, factors and
            their gradients not counted, nor what is merged beforehand. An upper bound for a call that is not traced.
    """

    blocks: tuple[Block, ...]
    rows: int
    use: Use
    chunk: int
    recompute: bool
    nanoseconds: float
    bytes: int
    steps: tuple[Step, ...] = field(init=False, repr=False)
    dense: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", tuple(itertools.chain.from_iterable(block.steps for block in self.blocks)))
        object.__setattr__(self, "dense", self.blocks[0].dense)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one row, without those of merging."""
        return sum(step.macs for step in self.steps)

    @property
    def merging(self) -> int:
        """Multiply-accumulates of merging the factors once."""
        return sum(product.macs for block in self.blocks for product in block.products)

    @property
    def stored(self) -> int:
        """Numbers in all merged tensors."""
        return sum(block.stored for block in self.blocks)

    def merge(self, factors: Sequence[Tensor]) -> list[Tensor]:
        """The tensors by which the steps multiply, from the factors in the order of the plan's maker.

        Differentiable; results are contiguous.
        """
        return [tensor for block in self.blocks for tensor in block.merge(factors)]

    def run(self, merged: Sequence[Tensor], x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Map rows (any number, inputs) to (that number, outputs), plus a bias (outputs,).

        Differentiable in all of them, any number of times and in any mode. Under autocast results have its type, as
        those of `nn.Linear`. While torch.compile, torch.export or torch.jit looks on, the steps are plain operations
        on all rows at once: `bytes` is no promise then.
        """
        return run_steps(self, merged, x, bias)

    def __str__(self) -> str:
        parts = []
        for order, group in itertools.groupby(self.blocks, key=lambda block: block.order):
            names = [block.name for block in group]
            names = names[::-1] if order == "right to left" else names
            parts.append(" | ".join(names) + f", {order}" * bool(order))
        chunk = "in one piece" if self.chunk >= self.rows else f"{self.chunk} rows at a time"
        lines = [f"{'; '.join(parts)}, {chunk}" + ", recomputed in backward" * self.recompute]
        lines += [f"  {step.describe(self.chunk)}: {step.macs:,} MACs a row" for step in self.steps]
        if self.dense:
            lines.append("  all factors are multiplied out: the dense matrix is cheaper here")
        return "\n".join(lines)
