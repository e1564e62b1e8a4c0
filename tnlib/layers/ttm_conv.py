"""Convolution on a TT-matrix over channel digits (Garipov et al. 2016, "Ultimate tensorization")."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tnlib import decompose
from tnlib.contract import CostModel, Product, is_tracing
from tnlib.layers.chain import ATTRIBUTES, CONVOLUTIONS, positions
from tnlib.layers.geometry import Geometry
from tnlib.layers.stages import own_parameter
from tnlib.layers.tt_matrix import OnTTMatrix

Order = Literal["kernel", "filters", "cores"]
ORDERS = ("kernel", "filters", "cores")
# A multiply-accumulate of a convolution with one input channel takes as long as this many of a dense convolution.
_DEPTHWISE = 24


@dataclass(frozen=True)
class _Sizes:
    """What the choice of an order depends on besides the input."""

    rows: tuple[int, ...]
    cols: tuple[int, ...]
    ranks: tuple[int, ...]
    kernel: int
    outputs: int
    inputs: int


class TTMConv(OnTTMatrix):
    """A convolution whose kernel is a tensor train over (window) x (t_1 s_1) x ... x (t_d s_d).

    The t_k are digits of a group's outputs, the s_k of its inputs; their products may exceed the channels, which are
    then padded with zeros and cut. `factors()` are the filters (groups R_0, 1, *window), then core number k (groups
    R_(k-1), t_k, s_k, R_k). Rank: (R_0, .., R_(d-1)); an integer stands for all, each cut to its largest useful value.

    `forward` takes the order that a cost model finds cheapest for the input's shape; `explain` tells which:

    - `filters`: R_0 filters over each input channel, then the cores, first to last, at every pixel;
    - `cores`: the cores, last to first, at every input pixel, then R_0 filters over each output channel;
    - `kernel`: the dense kernel is multiplied out in each call and convolved with. At small channel counts this is the
      fastest on a CPU, where convolutions with one input channel are slow; with three spatial axes it is the only one.

    In the first two, no big tensor is permuted. `order` (an attribute) fixes one.
    """

    format = "ttm"
    replaces = CONVOLUTIONS
    attributes: ClassVar[tuple[str, ...]] = ATTRIBUTES
    filters_before = 1
    groups: int
    in_channels: int
    out_channels: int

    def __init__(self, layer: Any, filters: Tensor, cores: Sequence[Tensor], bias: Tensor | None) -> None:
        super().__init__()
        self.filters = own_parameter(filters, layer.weight)
        self.cores = nn.ParameterList([own_parameter(core, layer.weight) for core in cores])
        self.bias = None if bias is None else own_parameter(bias, bias)
        digits = self._digits_of([filters, *cores])
        self.row_dims, self.col_dims = digits["row_dims"], digits["col_dims"]
        self.geometry, self.order = Geometry.of(layer), None
        self._become(layer)
        self._nominal = self.choose((64, self.in_channels, *[16] * len(layer.stride)))

    order: Order | None

    def factors(self) -> list[nn.Parameter]:
        """Filters, then cores."""
        return [self.filters, *(self.cores[k] for k in range(len(self.cores)))]

    @classmethod
    def _terms(cls, left: int, n: int, right: int) -> int:
        return left * n

    @classmethod
    def _factor(cls, kernel: Tensor, rank: Any, rel_error: float | None, seed: int, **options: Any) -> list[Tensor]:
        rows, cols = options.pop("row_dims"), options.pop("col_dims")
        outputs, inputs, *window = kernel.shape
        padded = F.pad(kernel.flatten(2), (0, 0, 0, math.prod(cols) - inputs, 0, math.prod(rows) - outputs))
        axes = [2 * len(rows), *(axis for k in range(len(rows)) for axis in (k, len(rows) + k))]
        modes = cls._modes(kernel.shape, {"row_dims": rows, "col_dims": cols})
        tensor = padded.reshape(*rows, *cols, -1).permute(axes).reshape(modes)
        first, *rest = decompose.tt(tensor, rank, rel_error=rel_error, seed=seed, **options).factors
        cores = [core.unflatten(1, (m, n)) for core, m, n in zip(rest, rows, cols, strict=True)]
        return [first[0].mT.reshape(-1, 1, *window), *cores]

    @classmethod
    def _assemble(cls, like: Any, factors: Sequence[Tensor], bias: Tensor | None) -> Self:
        return cls(like, factors[0], factors[1:], bias)

    @classmethod
    def macs(cls, layer: Any, rank: Any, output_size: Sequence[int] | None = None, **digits: Any) -> int:
        """Multiply-accumulates for one image in the order that needs fewest, as `FactorizedConv.macs`.

        Multiplying out the kernel, in that order, is not counted.
        """
        shape = cls._shape_of(layer)
        chosen = cls._choose(shape, digits)
        stages = cls._stages(shape, rank, **chosen)
        ranks = tuple(stage.shape[0] for stage in stages[1:])
        sizes = _Sizes(chosen["row_dims"], chosen["col_dims"], ranks, math.prod(shape[2:]), *shape[:2])
        after = positions(layer, output_size, set(range(len(layer.stride))))
        before = positions(layer, output_size, set())
        return int(layer.groups * min(_macs(sizes, before, after).values()))

    def _split(self) -> tuple[Tensor, list[Tensor]]:
        """Filters (groups, R_0, *window) and cores (groups, R_(k-1), t_k, s_k, R_k)."""
        filters, *cores = (factor.unflatten(0, (self.groups, -1)) for factor in self.factors())
        return filters[:, :, 0], cores

    def dense_weight(self) -> Tensor:
        """The kernel (T, S / groups, *window) that the factors multiply out to; differentiable."""
        filters, cores = self._split()
        weight = filters.flatten(2).mT[:, None, None]  # (g, T, S, window, R)
        for core in cores:
            weight = torch.einsum("gtspr,grmna->gtmsnpa", weight, core).flatten(3, 4).flatten(1, 2)
        weight = weight[:, : self.out_channels // self.groups, : self.in_channels // self.groups, :, 0]
        return weight.reshape(self.out_channels, -1, *filters.shape[2:])

    def forward(self, input: Tensor) -> Tensor:
        """Map (B, in, *size) to (B, out, *size'), or the same without B."""
        axes = self.filters.ndim - 2
        if input.ndim == 1 + axes:
            return self.forward(input.unsqueeze(0)).squeeze(0)
        order = self.order or self._nominal if is_tracing() else self.choose(input.shape)
        innermost = is_channels_last(input) or any(map(is_channels_last, self.factors()[1:]))  # as torch's go by both
        if order == "kernel":
            y = self.geometry.conv(input, self.dense_weight(), self.bias, self.groups)
            return y.contiguous(memory_format=torch.channels_last) if innermost and axes == 2 else y
        filters, cores = self._split()
        apply = self._filters_first if order == "filters" else self._cores_first
        surplus = math.prod(self.col_dims) - self.in_channels // self.groups
        padding = [0] * (2 * axes) + [0, surplus]
        parts = input.chunk(self.groups, 1)
        results = [
            apply(F.pad(part, padding) if surplus else part, filters[g], [core[g] for core in cores])
            for g, part in enumerate(parts)
        ]
        kept = self.out_channels // self.groups
        y = torch.cat([result[:, :kept] for result in results], 1)
        if self.bias is not None:
            y = y + self.bias.to(y.dtype).reshape(-1, *[1] * axes)
        return y.contiguous(memory_format=torch.channels_last) if innermost and axes == 2 else y

    def _filters_first(self, x: Tensor, filters: Tensor, cores: Sequence[Tensor]) -> Tensor:
        y = self.geometry.conv(x.unsqueeze(1), filters.unsqueeze(1))
        size, done = y.shape[3:], 1
        # `y` is (B t_1 .. t_(k-1), R_k s_k, s_(k+1) .. s_d pixels): what a core contracts lies together.
        for k, core in enumerate(cores):
            left, m, n, right = core.shape
            rest = math.prod(self.col_dims[k + 1 :]) * math.prod(size)
            y = y.reshape(x.shape[0] * done, left * n, rest)
            y = torch.bmm(core.permute(1, 3, 0, 2).reshape(1, m * right, left * n).expand(y.shape[0], -1, -1), y)
            done *= m
        return y.reshape(x.shape[0], done, *size)

    def _cores_first(self, x: Tensor, filters: Tensor, cores: Sequence[Tensor]) -> Tensor:
        y, size, done = x, x.shape[2:], 1
        # `y` is (B s_1 .. s_(k-1), s_k R_k, t_(k+1) .. t_d pixels).
        for k in reversed(range(len(cores))):
            left, m, n, right = cores[k].shape
            y = y.reshape(x.shape[0] * math.prod(self.col_dims[:k]), n * right, done * math.prod(size))
            y = torch.bmm(cores[k].reshape(1, left * m, n * right).expand(y.shape[0], -1, -1), y)
            done *= m
        y = y.reshape(x.shape[0], filters.shape[0], done, *size)
        return self.geometry.conv(y, filters.unsqueeze(0)).squeeze(1)

    def choose(self, input_shape: Sequence[int], merging: bool = True) -> Order:
        """The order for an input of shape (B, in, *size): that of `forward`, or, without `merging`, of `freeze`."""
        if self.order is not None:
            return self.order
        if self.filters.ndim == 5:
            return "kernel"
        costs = self._costs(input_shape, merging)
        return min(costs, key=costs.__getitem__)

    def explain(self, x: Tensor) -> str:
        """The order taken for this input and what the cost model predicts for each; nothing is computed."""
        shape = x.shape if x.ndim == self.filters.ndim else (1, *x.shape)
        costs = ", ".join(f"{order} {cost / 1e6:.3g} ms" for order, cost in self._costs(shape).items())
        taken = self.choose(shape)
        note = ": the dense kernel is multiplied out in each call" if taken == "kernel" else " first"
        return f"{taken}{note} (predicted: {costs})"

    def _costs(self, input_shape: Sequence[int], merging: bool = True) -> dict[Order, float]:
        batch, _, *size = input_shape
        window = tuple(self.filters.shape[2:])
        pixels = math.prod(self.geometry.output_size(size, window))
        channels = self.out_channels // self.groups, self.in_channels // self.groups
        sizes = _Sizes(self.row_dims, self.col_dims, tuple(self.rank), math.prod(window), *channels)  # type: ignore[arg-type]
        costs = _predict(sizes, max(1, batch), math.prod(size), pixels, merging)
        return {order: self.groups * cost for order, cost in costs.items()}

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "order" and value not in (None, *ORDERS):
            raise ValueError(f"unknown order {value!r}; expected {', '.join(ORDERS)} or None")
        super().__setattr__(name, value)

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels} {self.col_dims} -> {self.out_channels} {self.row_dims}, rank={self.rank}, "
            f"groups={self.groups}, {self.geometry}, bias={self.bias is not None}"
        )


def is_channels_last(x: Tensor) -> bool:
    """Whether the channels of images (B, C, H, W) lie innermost, by the strides alone."""
    return x.ndim == 4 and x.shape[1] > 1 and x.stride(1) == 1 and x.stride(3) != 1


def _products(sizes: _Sizes, batch: int, before: int, after: int) -> tuple[list[Product], list[Product], list[Product]]:
    """The products of one group in the orders filters, cores, kernel, for inputs and outputs of so many pixels."""
    rows, cols, ranks = sizes.rows, sizes.cols, (*sizes.ranks, 1)
    filters, cores, kernel = [], [], []
    for k, (row, col) in enumerate(zip(rows, cols, strict=True)):
        left, right, t, s = ranks[k], ranks[k + 1], math.prod(rows[:k]), math.prod(cols[:k])
        rest = math.prod(cols[k + 1 :]) * after
        filters.append(Product(batch * t, row * right, left * col, rest, weight_first=True))
        done = math.prod(rows[k + 1 :]) * before
        cores.append(Product(batch * s, left * row, col * right, done, weight_first=True))
        kernel.append(Product(1, t * s * sizes.kernel, left, row * col * right, weight_first=False))
    return filters, cores, kernel


def _macs(sizes: _Sizes, before: int, after: int) -> dict[str, int]:
    """Multiply-accumulates of one image in each order, for one group."""
    filters, cores, _ = _products(sizes, 1, before, after)
    window = sizes.kernel * sizes.ranks[0] * after
    return {
        "kernel": sizes.outputs * sizes.inputs * sizes.kernel * after,
        "filters": sum(p.macs for p in filters) + window * math.prod(sizes.cols),
        "cores": sum(p.macs for p in cores) + window * math.prod(sizes.rows),
    }


@functools.lru_cache(maxsize=4096)
def _predict(sizes: _Sizes, batch: int, before: int, after: int, merging: bool) -> dict[Order, float]:
    """Predicted nanoseconds of one group's forward pass in each order."""
    m = CostModel.default()
    filters, cores, kernel = (sum(map(m.product, part)) for part in _products(sizes, batch, before, after))
    s, t = math.prod(sizes.cols), math.prod(sizes.rows)
    window = sizes.kernel * sizes.ranks[0] * batch * after * m.mac * _DEPTHWISE
    filters += m.call + window * s + m.written * batch * sizes.ranks[0] * s * after
    # One output channel was seen to take about one and a half times as long as one input channel.
    cores += m.call + 1.5 * window * t + m.written * batch * t * after
    dense = batch * after * sizes.outputs * (sizes.inputs * sizes.kernel * m.mac + m.written)
    return {"kernel": m.call + merging * kernel + dense, "filters": filters, "cores": cores}
