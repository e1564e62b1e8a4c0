"""The protocol of all factorized layers: what a format has to say, and what all formats then can do."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from tnlib.layers import eligible, ranks
from tnlib.layers.ranks import Errors, Ranks
from tnlib.layers.stages import Metric, Mode, Stage, balanced, by_group, groups_of, kernels_of, layer_bias, whitened


class Factorized(nn.Module, ABC):
    """A torch layer on factors of its weight. It computes with its parameters as they are; it keeps nothing else.

    A layer's kernel has shape (outputs, inputs, *window), that of each group if it has groups; an embedding's is its
    table. Factors of several groups lie one after the other along their first axis.
    """

    format: ClassVar[str]
    replaces: ClassVar[tuple[type[nn.Module], ...]] = ()
    attributes: ClassVar[tuple[str, ...]]  # of the replaced layer, that the new one has too
    in_digits: ClassVar[bool] = False  # whether outputs and inputs are split into digits
    modes: ClassVar[tuple[Mode, Mode]] = ("out", "in")  # what the first two axes of the weight are

    # What a format says, for the kernel of one group. `digits` are `row_dims` and `col_dims`, where it has them.

    @classmethod
    @abstractmethod
    def _limits(cls, shape: Sequence[int], **digits: Any) -> Ranks:
        """The largest useful rank."""

    @classmethod
    @abstractmethod
    def _stages(cls, shape: Sequence[int], rank: Any, **digits: Any) -> list[Stage]:
        """The factors' shapes; ValueError for a rank that is out of range."""

    @classmethod
    @abstractmethod
    def _factor(cls, kernel: Tensor, rank: Any, rel_error: float | None, seed: int, **options: Any) -> list[Tensor]:
        """Factors of a float64 kernel: all orthonormal but one, where the format leaves the choice."""

    @classmethod
    @abstractmethod
    def _rank_of(cls, factors: Sequence[Tensor]) -> Ranks:
        """The rank of one group's factors."""

    @classmethod
    @abstractmethod
    def _assemble(cls, like: Any, factors: Sequence[Tensor], bias: Tensor | None) -> Self:
        """The layer with these factors (of all groups) and copies of this bias, of the type and place of `like`."""

    @classmethod
    @abstractmethod
    def macs(cls, layer: Any, rank: Any, output_size: Sequence[int] | None = None, **digits: Any) -> int:
        """Multiply-accumulates of one sample, in the order of contraction that needs fewest."""

    @abstractmethod
    def factors(self) -> list[nn.Parameter]:
        """The parameters that the weight is made of, in the order that `from_factors` takes."""

    @abstractmethod
    def dense_weight(self) -> Tensor:
        """The weight that the factors multiply out to, of the replaced layer's shape; differentiable."""

    # What follows from that.

    @property
    def weight(self) -> Tensor:
        """`dense_weight()`, computed anew: attention and its like read the weight of a layer instead of calling it."""
        return self.dense_weight()

    @property
    def rank(self) -> Ranks:
        """The format's rank, of each group's kernel: an integer or a tuple."""
        groups, factors = groups_of(self), self.factors()
        return self._rank_of(factors if groups == 1 else [part[0] for part in by_group(factors, groups)])

    @classmethod
    def max_rank(cls, layer: Any, **digits: Any) -> Ranks:
        """The largest useful rank: with it there is an exact factorization (which ALS need not find for `cp`)."""
        shape = cls._shape_of(layer)
        return cls._limits(shape, **cls._choose(shape, digits))

    @classmethod
    def size(cls, layer: Any, rank: Any, **digits: Any) -> int:
        """Parameters of the layer that `from_layer` makes, its bias included; nothing is built."""
        shape = cls._shape_of(layer)
        stages = cls._stages(shape, rank, **cls._choose(shape, digits))
        bias = getattr(layer, "bias", None)
        return groups_of(layer) * sum(math.prod(s.shape) for s in stages) + (0 if bias is None else bias.numel())

    @classmethod
    def from_layer(
        cls,
        layer: Any,
        rank: Any = None,
        *,
        rel_error: float | None = None,
        share: float | None = None,
        of: Literal["params", "macs"] = "params",
        output_size: Sequence[int] | None = None,
        metric: Metric | None = None,
        seed: int = 0,
        **options: Any,
    ) -> Self:
        """Decompose a layer's weight; bias, dtype, device, train/eval mode and need for gradients carry over.

        Args:
            layer: left untouched. A parameter that it shares with another layer is shared no longer.
            rank: the format's rank or ranks (of each group's kernel). Give this, or `rel_error`, or `share`.
            rel_error: the largest error of each group's kernel, relative to its norm; the rank is found.
            share: the largest integer rank is taken whose cost is at most this share of the layer's.
            of: what `share` is of, parameters (bias included) or multiply-accumulates.
            output_size: height and width of the layer's output, for MACs of a convolution; by default those of one
                position in a large image count.
            metric: the norm in which the error is measured and made small; formats in digits have none.
            seed: for random starts.
            options: for the decomposition; for formats in digits also `row_dims` and `col_dims`.

        Raises:
            TypeError: a layer that cannot be replaced.
            ValueError: a rank out of range (the message names the largest useful one), an error or a share that cannot
                be kept, digits that do not fit.
        """
        shape = cls._shape_of(layer)
        digits = cls._choose(shape, options)
        rank = cls._wanted_rank(layer, rank, rel_error, share, of, output_size, digits)
        if rank is not None:
            cls._stages(shape, rank, **digits)  # a bad rank is told before the work
        kernels, how = kernels_of(layer), {"metric": metric, "seed": seed, **digits, **options}
        parts = [cls.decompose(kernel, rank, rel_error=rel_error, **how) for kernel in kernels]
        found = [cls._rank_of(part) for part in parts]
        if any(one != found[0] for one in found):  # groups have one rank: the largest that one of them asks for
            parts = [cls.decompose(kernel, ranks.largest_of(found), **how) for kernel in kernels]
        return cls._assemble(layer, [torch.cat(group) for group in zip(*parts, strict=True)], layer_bias(layer))

    @classmethod
    def fresh(
        cls,
        layer: Any,
        rank: Any = None,
        *,
        share: float | None = None,
        of: Literal["params", "macs"] = "params",
        output_size: Sequence[int] | None = None,
        gain: float | None = None,
        seed: int = 0,
        **digits: Any,
    ) -> Self:
        """The layer that `from_layer` builds, with random factors, to be trained from scratch; its bias is zero.

        Every factor is drawn normal with variance 1 / (terms that its stage sums), then all are scaled so that the
        weight's mean square is gain^2 / fan_in in each draw, as He et al. 2015 initialise a dense weight on average.
        By default the gain is sqrt(2), for ReLU; an embedding's fan_in counts as 1, and its gain is 1. The seed decides
        the draw; all else as for `from_layer`.
        """
        shape = cls._shape_of(layer)
        chosen = cls._choose(shape, digits)
        if digits:
            raise TypeError(f"{cls.__name__}.fresh got unknown options: {', '.join(digits)}")
        rank = cls._wanted_rank(layer, rank, None, share, of, output_size, chosen)
        generator, groups = torch.Generator().manual_seed(seed), groups_of(layer)
        factors = []
        for stage in cls._stages(shape, rank, **chosen):
            drawn = torch.randn((groups * stage.shape[0], *stage.shape[1:]), generator=generator, dtype=torch.float64)
            factors.append(drawn / math.sqrt(stage.terms))
        fan_in, usual = (1, 1.0) if isinstance(layer, nn.Embedding) else (math.prod(shape[1:]), math.sqrt(2.0))
        wanted = (usual if gain is None else gain) ** 2 / fan_in * math.prod(shape) * groups
        squares = sum(cls._square_norm([f[g] for f in by_group(factors, groups)]) for g in range(groups))
        scale = (wanted / squares) ** (0.5 / len(factors))
        bias = layer_bias(layer)
        bias = None if bias is None else nn.Parameter(torch.zeros_like(bias), requires_grad=bias.requires_grad)
        return cls._assemble(layer, [factor * scale for factor in factors], bias)

    @classmethod
    def from_factors(cls, factors: Sequence[Tensor], like: Any) -> Self:
        """The layer on these factors as they are (`factors()` of another, say), with the bias and type of `like`.

        Raises:
            ValueError: factors whose shapes make no kernel of the shape of `like`.
        """
        shape, groups = cls._shape_of(like), groups_of(like)
        got = ", ".join(str(tuple(factor.shape)) for factor in factors)
        try:
            one = [factor.unflatten(0, (groups, -1))[0] for factor in factors]
            digits = cls._digits_of(one)
            stages = cls._stages(shape, cls._rank_of(one), **cls._choose(shape, digits))
        except (IndexError, RuntimeError, ValueError) as error:
            raise ValueError(f"factors of shapes {got} make no {cls.__name__} for {like}: {error}") from None
        wanted = [(groups * stage.shape[0], *stage.shape[1:]) for stage in stages]
        if [tuple(factor.shape) for factor in factors] != wanted:
            raise ValueError(f"{cls.__name__} needs factors of shapes {', '.join(map(str, wanted))}, got {got}")
        return cls._assemble(like, factors, layer_bias(like))

    @classmethod
    def decompose(
        cls,
        kernel: Tensor,
        rank: Any = None,
        *,
        rel_error: float | None = None,
        metric: Metric | None = None,
        seed: int = 0,
        **options: Any,
    ) -> list[Tensor]:
        """Balanced factors of one group's kernel: float64, of equal norms, their product as the decomposition has it.

        With a metric the kernel is factored in coordinates in which the metric is the identity, and brought back: the
        error counts in that metric.
        """
        kernel = kernel.detach().double()
        roots = {} if metric is None else metric.roots()
        if roots and cls.in_digits:
            raise ValueError(f"{cls.__name__} splits its channels into digits: it has no metric of channels")
        factors = cls._factor(whitened(kernel, roots, cls.modes), rank, rel_error, seed, **options)
        for mode, root in roots.items():
            factors = cls.multiply_mode(factors, mode, torch.linalg.inv(root).to(kernel.device))
        return balanced(factors)

    @classmethod
    def multiply_mode(cls, factors: Sequence[Tensor], mode: Mode, matrix: Tensor) -> list[Tensor]:
        """One group's factors of its kernel multiplied by a matrix (new, old) along its output or input mode.

        ValueError for a format whose channels are split into digits, where such a product has no factors.
        """
        if cls.in_digits:
            raise ValueError(f"{cls.__name__} splits its channels into digits: multiply the dense weight instead")
        if mode not in ("in", "out"):
            raise ValueError(f"mode must be 'in' or 'out', got {mode!r}")
        first, *middle, last = factors
        matrix = matrix.to(first)
        if mode == "in":  # factors of a chain: (R, S, ...) first, (T, R, ...) last
            return [torch.tensordot(first, matrix, ([1], [1])).movedim(-1, 1), *middle, last]
        return [first, *middle, torch.tensordot(matrix, last, ([1], [0]))]

    @classmethod
    def errors(cls, kernel: Tensor) -> Errors | None:
        """Ranks, and the squared errors they leave of a group's float64 kernel; None without a closed form of these."""
        return None

    @classmethod
    @abstractmethod
    def _square_norm(cls, factors: Sequence[Tensor]) -> float:
        """The squared norm of the (padded) kernel that one group's factors make."""

    @classmethod
    def _digits_of(cls, factors: Sequence[Tensor]) -> dict[str, Any]:
        """The digits that one group's factors have."""
        return {}

    @classmethod
    def _choose(cls, shape: Sequence[int], options: dict[str, Any]) -> dict[str, Any]:
        """Takes the digits out of `options`; those that are not given are chosen. Empty for a format without."""
        return {}

    @classmethod
    def _shape_of(cls, layer: Any) -> tuple[int, ...]:
        """The shape of one group's kernel; TypeError for a layer that cannot be replaced."""
        eligible.require(layer, cls.replaces, cls.__name__)
        outputs, *rest = layer.weight.shape
        return (outputs // groups_of(layer), *rest)

    @classmethod
    def _wanted_rank(
        cls, layer: Any, rank: Any, rel_error: Any, share: Any, of: str, output_size: Any, digits: dict[str, Any]
    ) -> Any:
        """The rank given or that keeps the share; None if the error has to tell."""
        if [rank, rel_error, share].count(None) != 2:
            raise ValueError("give exactly one of rank, rel_error and share")
        if of not in ("params", "macs"):
            raise ValueError(f"of must be 'params' or 'macs', got {of!r}")
        if share is None:
            return rank
        dense, cost = cls.dense_macs(layer, output_size), partial(cls.macs, layer, output_size=output_size, **digits)
        if of == "params":
            dense, cost = sum(p.numel() for p in layer.parameters()), partial(cls.size, layer, **digits)
        return ranks.rank_within(share, cost, dense, cls._limits(cls._shape_of(layer), **digits), of)

    @classmethod
    def dense_macs(cls, layer: Any, output_size: Sequence[int] | None = None) -> int:
        """Multiply-accumulates of the layer that is replaced, one sample; of a convolution as for `macs`."""
        return int(layer.weight.numel()) * math.prod(output_size or (1,))

    def _become(self, layer: Any) -> Self:
        """Take over the attributes, the mode and the need for gradients of the replaced layer."""
        for name in self.attributes:
            setattr(self, name, getattr(layer, name))
        for factor in self.factors():
            factor.requires_grad_(layer.weight.requires_grad)
        return self.train(layer.training)
