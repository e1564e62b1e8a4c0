"""Linear layers on a weight that was made a tensor: what CP, Tucker, TT and TT-matrix layers share."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, is_grad_enabled, nn

from tnlib.contract import CostModel, Plan, is_tracing
from tnlib.layers.digits import chosen_digits
from tnlib.layers.factorized import Factorized
from tnlib.layers.stages import own_parameter

# Counts multiply-accumulates and nothing else.
MACS_ONLY = CostModel(mac=1.0)
# Rows for which a layer is planned where a compiler or an exporter does not know them.
_NOMINAL = 64
_NO_CEILING = 2**62


class TensorizedLinear(Factorized):
    """Base of the linear layers whose (out, in) weight is a tensor: row digits m_1 .. m_d, column digits n_1 .. n_d.

    The digits' products may exceed the sizes; surplus inputs are zeros, surplus outputs are cut off. In each call the
    factors are merged and applied in the order that is cheapest for this number of rows; `explain` tells which.
    `layers.freeze` merges once.
    """

    replaces = (nn.Linear,)
    attributes = ("in_features", "out_features")
    in_digits = True
    row_dims: tuple[int, ...]
    col_dims: tuple[int, ...]
    in_features: int
    out_features: int
    bias: nn.Parameter | None

    def _setup(self, factors: Sequence[Tensor], bias: Tensor | None, out: int | None, inputs: int | None) -> None:
        """Sizes and bias; by default the features are the products of the digits."""
        digits = self._digits_of(factors)
        self.row_dims, self.col_dims = digits["row_dims"], digits["col_dims"]
        self.out_features, self.in_features = out or math.prod(self.row_dims), inputs or math.prod(self.col_dims)
        self.bias = None if bias is None else own_parameter(bias, bias)
        # For compilers and exporters, which follow no planner; of shapes alone, as every plan.
        self._nominal = self.plan(_NOMINAL, use="forward", chunked=False)

    @property
    def surplus(self) -> tuple[int, int]:
        """Inputs and outputs that the digits have more than the layer."""
        return math.prod(self.col_dims) - self.in_features, math.prod(self.row_dims) - self.out_features

    @classmethod
    @abstractmethod
    def _plan_for(cls, digits: dict[str, Any], rank: Any, rows: int, **how: Any) -> Plan:
        """The contraction plan for so many rows."""

    @abstractmethod
    def _dense(self) -> Tensor:
        """The padded weight, (prod row_dims, prod col_dims)."""

    @classmethod
    def _choose(cls, shape: Sequence[int], options: dict[str, Any]) -> dict[str, Any]:
        return chosen_digits(shape, options)

    @classmethod
    def _assemble(cls, like: Any, factors: Sequence[Tensor], bias: Tensor | None) -> Self:
        sizes = {"out_features": like.out_features, "in_features": like.in_features}
        return cls._from_flat([factor.to(like.weight) for factor in factors], bias, **sizes)._become(like)

    @classmethod
    def _from_flat(cls, factors: Sequence[Tensor], bias: Tensor | None, **sizes: int) -> Self:
        """The layer from its factors in one list."""
        return cls(factors, bias, **sizes)

    @classmethod
    def _factor(cls, kernel: Tensor, rank: Any, rel_error: float | None, seed: int, **options: Any) -> list[Tensor]:
        rows, cols = options.pop("row_dims"), options.pop("col_dims")
        surplus = math.prod(cols) - kernel.shape[1], math.prod(rows) - kernel.shape[0]
        padded = F.pad(kernel, (0, surplus[0], 0, surplus[1])) if any(surplus) else kernel  # a pad by nothing copies
        return cls._factor_digits(padded, rows, cols, rank, rel_error, seed, **options)

    @classmethod
    @abstractmethod
    def _factor_digits(
        cls,
        matrix: Tensor,
        rows: Sequence[int],
        cols: Sequence[int],
        rank: Any,
        rel_error: Any,
        seed: int,
        **options: Any,
    ) -> list[Tensor]:
        """Factors of the padded weight."""

    @classmethod
    def macs(cls, layer: Any, rank: Any, output_size: Sequence[int] | None = None, **digits: Any) -> int:
        """Multiply-accumulates of one sample (one row): the fewest over all orders, merging not counted.

        An order chosen for its time may take more: `plan(batch).macs` counts those.
        """
        chosen = cls._choose(cls._shape_of(layer), digits)
        stages = cls._stages(cls._shape_of(layer), rank, **chosen)
        found = cls._rank_of([torch.empty(stage.shape, device="meta") for stage in stages])
        return cls._plan_for(chosen, found, 1, use="frozen", model=MACS_ONLY, max_bytes=_NO_CEILING).macs

    def forward(self, input: Tensor) -> Tensor:
        """Map (..., in) to (..., out) by the plan for this number of rows; ValueError for another last size."""
        if input.shape[-1] != self.in_features:
            raise ValueError(f"expected {self.in_features} features in the last mode, got shape {tuple(input.shape)}")
        rows = input.reshape(-1, self.in_features)
        if is_tracing():
            plan = self._nominal
        else:
            plan = self.plan(max(1, rows.shape[0]), use="training" if self._learns(input) else "forward")
        y = apply(plan, plan.merge(self.factors()), rows, self.bias, self.surplus)
        return y.reshape(*input.shape[:-1], self.out_features)

    def _learns(self, x: Tensor) -> bool:
        return is_grad_enabled() and (x.requires_grad or any(factor.requires_grad for factor in self.factors()))

    def plan(self, rows: int, use: str = "frozen", **how: Any) -> Plan:
        """The contraction plan for so many rows, as `freeze` ("frozen"), a call ("forward") or training would use it.

        `how` goes to the planner: `model`, `max_bytes`, `chunked`, `itemsize`. Without `max_bytes` the planner's own
        ceiling holds unless no plan keeps it. ValueError for no rows, or a given ceiling that no plan keeps.
        """
        if rows < 1:
            raise ValueError(f"a plan needs at least one row, got {rows}")
        first = self.factors()[0]
        how = {"chunked": not first.is_cuda, "itemsize": first.element_size(), **how}
        digits = {"row_dims": self.row_dims, "col_dims": self.col_dims}
        try:
            return self._plan_for(digits, self.rank, rows, use=use, **how)
        except ValueError:
            if "max_bytes" in how:
                raise
            return self._plan_for(digits, self.rank, rows, use=use, **how, max_bytes=_NO_CEILING)

    def explain(self, rows: int, use: str = "frozen") -> str:
        """The plan for so many rows in words: blocks, products, MACs, bytes and predicted time (on the model's CPU)."""
        plan = self.plan(rows, use)
        dense = self.in_features * self.out_features
        width = self.factors()[0].element_size()
        numbers = sum(factor.numel() for factor in self.factors())
        return "\n".join(
            [
                f"{type(self).__name__} {self.in_features} -> {self.out_features}, {rows} row(s), {use}: "
                f"{plan.nanoseconds / 1e3:,.0f} us predicted",
                f"{plan.macs:,} MACs a row (dense {dense:,}); {numbers:,} numbers stored (dense {dense:,}); "
                f"{plan.stored * width:,} bytes of merged factors; {plan.bytes:,} bytes of temporaries",
                str(plan),
            ]
        )

    def dense_weight(self) -> Tensor:
        """The (out, in) weight that the factors multiply out to; differentiable."""
        return self._dense()[: self.out_features, : self.in_features]

    def extra_repr(self) -> str:
        return (
            f"{self.in_features} -> {self.out_features}, {self.col_dims} -> {self.row_dims}, rank={self.rank}, "
            f"bias={self.bias is not None}"
        )


def apply(plan: Plan, merged: Sequence[Tensor], rows: Tensor, bias: Tensor | None, surplus: tuple[int, int]) -> Tensor:
    """Rows (N, in) through a plan for sizes padded by `surplus` inputs and outputs, with what it merged: (N, out)."""
    surplus_in, surplus_out = surplus
    padded = F.pad(rows, (0, surplus_in)) if surplus_in else rows
    if not surplus_out:
        return plan.run(merged, padded, bias)
    y = plan.run(merged, padded)[:, :-surplus_out]
    return y if bias is None else y + bias.to(y.dtype)
