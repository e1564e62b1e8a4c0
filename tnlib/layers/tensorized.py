"""Linear layers on a weight that was made a tensor: what TT, CP and Tucker layers share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor, is_grad_enabled, nn
from torch.nn import functional

from tnlib.layers.digits import paired_dims
from tnlib.layers.sweep import Rows

_version = attrgetter("_version")


class Plan(Protocol):
    """What every contraction plan tells: predicted nanoseconds, MACs of a row, numbers merged, whether it is dense."""

    @property
    def nanoseconds(self) -> float: ...
    @property
    def macs(self) -> int: ...
    @property
    def merged(self) -> int: ...
    @property
    def dense(self) -> bool: ...


class TensorizedLinear(nn.Module, ABC):
    """Base of the linear layers whose (out, in) weight is a tensor: row digits m_1 .. m_d, column digits n_1 .. n_d.

    The digits' products may exceed the sizes; surplus inputs are zeros, surplus outputs are cut off.

    Without gradients, merged factors are kept between calls and made anew when a factor has changed. A change through
    `.data` is not seen; call `forget()` after one.
    """

    format: ClassVar[str]

    def __init__(
        self, row_dims: Sequence[int], col_dims: Sequence[int], bias: Tensor | None, out_features: int, in_features: int
    ) -> None:
        super().__init__()
        self.row_dims, self.col_dims = tuple(row_dims), tuple(col_dims)
        self.out_features, self.in_features = out_features, in_features
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())
        self._surplus = math.prod(self.col_dims) - in_features, math.prod(self.row_dims) - out_features
        self._plans: dict[tuple[int, bool, bool], Any] = {}
        self._kept: dict[tuple[torch.Size, bool], tuple[Any, ...]] = {}

    @abstractmethod
    def factors(self) -> list[Any]:
        """The parameters that the weight is made of."""

    @abstractmethod
    def _find_plan(self, batch: int, training: bool, chunked: bool) -> Any:
        """The contraction plan for so many rows."""

    @abstractmethod
    def _merge(self, plan: Any) -> Any:
        """What the plan multiplies by, made from the factors; differentiable."""

    @abstractmethod
    def _run(self, plan: Any, merged: Any, bias: Tensor | None, rows: int) -> Rows:
        """The plan as a function from (rows, prod n) to (rows, prod m), with what `_merge` made."""

    @abstractmethod
    def _dense(self) -> Tensor:
        """The padded weight, (prod row_dims, prod col_dims)."""

    @staticmethod
    @abstractmethod
    def _decompose(
        weight: Tensor, row_dims: Sequence[int], col_dims: Sequence[int], rank: Any, options: dict[str, Any]
    ) -> Sequence[Tensor]:
        """The factors of a padded weight."""

    @staticmethod
    @abstractmethod
    def _fresh(row_dims: Sequence[int], col_dims: Sequence[int], rank: Any, normal: Any) -> Sequence[Tensor]:
        """Random factors: `normal(shape, terms)` gives entries of variance 1 / terms."""

    @staticmethod
    @abstractmethod
    def _square_norm(factors: Sequence[Tensor]) -> float:
        """The squared Frobenius norm of the padded weight, without making it."""

    @classmethod
    @abstractmethod
    def _build(cls, layer: nn.Linear, factors: Sequence[Tensor], bias: Tensor | None) -> Self:
        """The layer with these factors and this bias, of the sizes of `layer`."""

    @classmethod
    def from_layer(
        cls,
        layer: nn.Linear,
        rank: int | Sequence[int],
        *,
        row_dims: Sequence[int] | None = None,
        col_dims: Sequence[int] | None = None,
        **options: Any,
    ) -> Self:
        """Decompose a layer's weight; bias, dtype, device and train/eval mode carry over.

        Args:
            layer: the linear layer; it is left untouched.
            rank: the format's rank or ranks.
            row_dims: digits of the outputs; their product may exceed the outputs (padding).
            col_dims: digits of the inputs, likewise; what is not given is chosen: as many as the other, else three, as
                equal as possible, padded if need be.
            options: passed to the decomposition.

        Raises:
            ValueError: digits that do not fit, a rank that is out of range.
        """
        rows, cols = paired_dims(layer.out_features, layer.in_features, row_dims, col_dims)
        padding = (0, math.prod(cols) - layer.in_features, 0, math.prod(rows) - layer.out_features)
        weight = functional.pad(layer.weight.detach(), padding)
        return cls._like(layer, rows, cols, cls._decompose(weight, rows, cols, rank, options), layer.bias)

    @classmethod
    def fresh(
        cls,
        layer: nn.Linear,
        rank: int | Sequence[int],
        *,
        row_dims: Sequence[int] | None = None,
        col_dims: Sequence[int] | None = None,
        gain: float = math.sqrt(2.0),
        seed: int = 0,
    ) -> Self:
        """The same layer with random factors, to be trained from scratch; its bias is zero.

        Every factor is drawn normal with variance 1 / (terms that its stage sums): the weight's entries then have
        variance gain^2 / in_features on average over draws, as in He et al. 2015 for gain sqrt(2). A product of few
        random numbers strays far from its average, so that the factors are scaled to have it in each draw.
        """
        rows, cols = paired_dims(layer.out_features, layer.in_features, row_dims, col_dims)
        generator = torch.Generator().manual_seed(seed)

        def normal(shape: Sequence[int], terms: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64) / math.sqrt(terms)

        factors = cls._fresh(rows, cols, rank, normal)
        wanted = gain**2 / layer.in_features * math.prod(rows) * math.prod(cols)
        scale = (wanted / cls._square_norm(factors)) ** (0.5 / len(factors))
        bias = None if layer.bias is None else torch.zeros_like(layer.bias)
        return cls._like(layer, rows, cols, [(factor * scale).to(layer.weight) for factor in factors], bias)

    @classmethod
    def _like(
        cls,
        layer: nn.Linear,
        rows: tuple[int, ...],
        cols: tuple[int, ...],
        factors: Sequence[Tensor],
        bias: Tensor | None,
    ) -> Self:
        result = cls._build(layer, factors, bias).train(layer.training)
        assert (result.row_dims, result.col_dims) == (rows, cols)
        return result.requires_grad_(layer.weight.requires_grad)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out) by the plan for this number of rows; ValueError for another last size."""
        training = learning = False
        if is_grad_enabled():
            learning = any(factor.requires_grad for factor in self.factors())
            training = learning or x.requires_grad or (self.bias is not None and self.bias.requires_grad)
        if not learning:
            kept = self._kept.get((x.shape, training))
            if kept is not None and kept[0] == self._stamp():
                run: Rows = kept[1]
                return run(x)
        return self._prepare(x, training, learning)(x)

    def _prepare(self, x: Tensor, training: bool, learning: bool) -> Rows:
        """What maps inputs of this shape; kept for the next call unless the factors learn."""
        if x.shape[-1] != self.in_features:
            raise ValueError(f"expected {self.in_features} features in the last mode, got shape {tuple(x.shape)}")
        if x.numel() == 0:
            return lambda x: x.new_zeros(*x.shape[:-1], self.out_features)
        rows = int(x.numel()) // self.in_features  # a tensor while tracing
        plan = self.plan(rows, training, not x.is_cuda)
        stamp = None if learning else self._stamp()
        if stamp is None:
            return self._around(x.ndim, plan, self._merge(plan), self.bias, rows)
        held = self.factors(), self.bias  # so that their ids stay theirs
        with torch.inference_mode(False), torch.no_grad():
            bias = self.bias if training or self.bias is None else self.bias.detach()  # a plain tensor: faster
            run = self._around(x.ndim, plan, self._merge(plan), bias, rows)
        if len(self._kept) >= 2:
            self._kept.clear()
        self._kept[x.shape, training] = stamp, run, held
        return run

    def _around(self, ndim: int, plan: Any, merged: Any, bias: Tensor | None, rows: int) -> Rows:
        """The plan as a function of inputs: padded, flattened to rows, and back."""
        more_inputs, more_outputs = self._surplus
        if ndim == 2 and not more_inputs and not more_outputs:
            return self._run(plan, merged, bias, rows)
        run = self._run(plan, merged, None if more_outputs else bias, rows)

        def around(x: Tensor) -> Tensor:
            y = x.reshape(-1, self.in_features)
            y = run(functional.pad(y, (0, more_inputs)) if more_inputs else y)
            if more_outputs:
                y = y[:, : self.out_features]
                y = y if bias is None else y + bias
            return y if x.ndim == 2 else y.reshape(*x.shape[:-1], self.out_features)

        return around

    def _stamp(self) -> list[int] | None:
        """Which factors and bias, and how often the factors were changed; None if they do not count changes."""
        factors, held = self.factors(), self._parameters
        bias = held["bias"] if "bias" in held else self.bias  # noqa: SIM401 - `get` would look up both
        try:
            return [id(bias), *map(id, factors), *map(_version, factors)]
        except RuntimeError:  # a tensor made in inference mode
            return None

    def forget(self) -> None:
        """Drop the merged factors that are kept between calls."""
        self._kept.clear()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self.forget()
        return super()._apply(fn, recurse)  # type: ignore[no-any-return]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": {}, "_plans": {}}

    def plan(self, batch: int, training: bool = False, chunked: bool = True) -> Any:
        """The contraction plan for so many rows; ValueError for none."""
        key = batch, training, chunked
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plans[key] = self._find_plan(batch, training, chunked)
        return plan

    def explain(self, batch: int, *, training: bool = False) -> str:
        """The plan for so many rows in words: blocks, products, MACs, bytes and predicted time (on the model's CPU)."""
        plan: Plan = self.plan(batch, training=training)
        dense = self.in_features * self.out_features
        width = self.factors()[0].element_size()
        numbers = sum(factor.numel() for factor in self.factors())
        return "\n".join(
            [
                f"{type(self).__name__} {self.in_features} -> {self.out_features}, {batch} row(s), "
                f"{'training' if training else 'inference'}: {plan.nanoseconds / 1e3:,.0f} us predicted",
                f"{plan.macs:,} MACs a row (dense {dense:,}); {numbers:,} numbers stored (dense {dense:,}); "
                f"{plan.merged * width:,} bytes of merged factors",
                str(plan),
            ]
        )

    def dense_weight(self) -> Tensor:
        """The (out, in) weight that the factors multiply out to; differentiable."""
        return self._dense()[: self.out_features, : self.in_features]

    def extra_repr(self) -> str:
        rank = getattr(self, "rank", None)
        return (
            f"{self.in_features} -> {self.out_features}, {self.col_dims} -> {self.row_dims}, rank={rank}, "
            f"bias={self.bias is not None}"
        )


def listed(module: nn.Module, name: str) -> list[Any]:
    """A module's list of parameters; iterating over it is so slow that it shows at batch 1."""
    parameters: Any = module._modules[name]
    return list(parameters._parameters.values())
