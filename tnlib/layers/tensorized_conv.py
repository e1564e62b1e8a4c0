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
from tnlib.layers.cost_model import CostModel, Product
from tnlib.layers.digits import paired_dims
from tnlib.layers.geometry import Geometry
from tnlib.layers.ranks import useful_tt_ranks

Order = Literal["kernel", "filters", "cores"]
_MODEL = CostModel()
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


class TensorizedTTConv2d(nn.Module):
    """A convolution whose kernel is a tensor train over (kh kw) x (t_1 s_1) x ... x (t_d s_d).

    The t_k are digits of a group's outputs, the s_k of its inputs; their products may exceed the channels, which are
    then padded with zeros and cut. `filters` has shape (groups R_0, 1, kh, kw), core number k
    (groups, R_(k-1), t_k, s_k, R_k).
    Rank: (R_0, .., R_(d-1)); an integer stands for all, each cut to its largest useful value.

    `forward` takes the order that a cost model finds cheapest for the input's shape; `explain` tells which:

    - `filters`: R_0 filters over each input channel, then the cores, first to last, at every pixel;
    - `cores`: the cores, last to first, at every input pixel, then R_0 filters over each output channel;
    - `kernel`: the dense kernel is multiplied out in each call and convolved with. At small channel counts this is the
      fastest on a CPU, where convolutions with one input channel are slow.

    In the first two, no big tensor is permuted.
    """

    format: ClassVar[str] = "tt"

    def __init__(
        self,
        layer: nn.Conv2d,
        filters: Tensor,
        cores: Sequence[Tensor],
        bias: Tensor | None,
        order: Order | None = None,
    ) -> None:
        super().__init__()
        like: dict[str, Any] = {"device": layer.weight.device, "dtype": layer.weight.dtype}
        self.filters = nn.Parameter(filters.detach().to(**like, copy=True))
        self.cores = nn.ParameterList(nn.Parameter(core.detach().to(**like, copy=True)) for core in cores)
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())
        self.requires_grad_(layer.weight.requires_grad)
        self.row_dims = tuple(core.shape[2] for core in cores)
        self.col_dims = tuple(core.shape[3] for core in cores)
        self.in_channels, self.out_channels, self.groups = layer.in_channels, layer.out_channels, layer.groups
        self.geometry, self.order = Geometry.of(layer), order
        self.train(layer.training)

    @property
    def rank(self) -> tuple[int, ...]:
        """TT ranks R_0 .. R_(d-1) of each group."""
        return tuple(core.shape[1] for core in self.cores)

    @classmethod
    def from_layer(
        cls,
        layer: nn.Conv2d,
        rank: int | Sequence[int],
        *,
        row_dims: Sequence[int] | None = None,
        col_dims: Sequence[int] | None = None,
        order: Order | None = None,
    ) -> Self:
        """Decompose a layer's kernel by TT-SVD, group by group; all else carries over.

        Args:
            layer: any `nn.Conv2d`.
            rank: R_0 .. R_(d-1), or one integer for all.
            row_dims: digits t_1 .. t_d of the outputs of a group; by default as many as `col_dims` has, or three.
            col_dims: digits s_1 .. s_d of the inputs of a group.
            order: fixes the order of contraction (`kernel`, `filters` or `cores`); by default it is chosen.

        Raises:
            TypeError: another kind of layer.
            ValueError: digits whose product is below the channels, a rank out of range, an unknown order.
        """
        shape, rows, cols, ranks = cls._sizes(layer, rank, row_dims, col_dims, order)
        outputs, inputs, *window = shape
        axes = [2 * len(rows), *(axis for k in range(len(rows)) for axis in (k, len(rows) + k))]
        sizes = [math.prod(window), *(m * n for m, n in zip(rows, cols, strict=True))]
        trains = []
        for kernel in layer.weight.detach().double().unflatten(0, (layer.groups, -1)):
            padded = F.pad(kernel.flatten(2), (0, 0, 0, math.prod(cols) - inputs, 0, math.prod(rows) - outputs))
            trains.append(decompose.tt(padded.reshape(*rows, *cols, -1).permute(axes).reshape(sizes), ranks).factors)
        first, *rest = zip(*trains, strict=True)
        filters = torch.cat([core[0].mT for core in first]).reshape(-1, 1, *window)
        digits = zip(rest, rows, cols, strict=True)
        cores = [torch.stack([core.unflatten(1, (m, n)) for core in group]) for group, m, n in digits]
        return cls(layer, filters, cores, layer.bias, order)

    @classmethod
    def fresh(
        cls,
        layer: nn.Conv2d,
        rank: int | Sequence[int],
        *,
        gain: float = 2**0.5,
        seed: int = 0,
        row_dims: Sequence[int] | None = None,
        col_dims: Sequence[int] | None = None,
        order: Order | None = None,
    ) -> Self:
        """The same structure with random factors: entries of `dense_weight` have variance gain**2 / fan_in.

        Each factor is drawn normal with variance 1 / (number of terms that its stage sums), the last one's with gain**2
        more; inputs that only pad are not counted. The bias is zero.
        """
        (_, inputs, *window), rows, cols, ranks = cls._sizes(layer, rank, row_dims, col_dims, order)
        generator = torch.Generator().manual_seed(seed)

        def normal(scale: float, *shape: int) -> Tensor:
            return scale * torch.randn(shape, generator=generator, dtype=torch.float64)

        filters = normal(math.prod(window) ** -0.5, layer.groups * ranks[0], 1, *window)
        ends, cores = (*ranks, 1), []
        for k, (m, n) in enumerate(zip(rows, cols, strict=True)):
            last = gain * math.sqrt(math.prod(cols) / inputs) if k == len(rows) - 1 else 1.0
            cores.append(normal(last / math.sqrt(ends[k] * n), layer.groups, ends[k], m, n, ends[k + 1]))
        return cls(layer, filters, cores, None if layer.bias is None else torch.zeros_like(layer.bias), order)

    @classmethod
    def _sizes(
        cls, layer: Any, rank: Any, row_dims: Any, col_dims: Any, order: Any
    ) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """One group's kernel shape, row digits, column digits, and ranks; checked."""
        if not isinstance(layer, nn.Conv2d):
            raise TypeError(f"{cls.__name__} replaces nn.Conv2d, got {type(layer).__name__}")
        if order not in (None, "kernel", "filters", "cores"):
            raise ValueError(f"unknown order {order!r}; expected kernel, filters, cores or None")
        shape = (layer.out_channels // layer.groups, *layer.weight.shape[1:])
        rows, cols = paired_dims(shape[0], shape[1], row_dims, col_dims)
        pairs = (m * n for m, n in zip(rows, cols, strict=True))
        return shape, rows, cols, useful_tt_ranks(rank, (math.prod(layer.kernel_size), *pairs))

    @staticmethod
    def max_rank(
        kernel_shape: Sequence[int], *, row_dims: Sequence[int] | None = None, col_dims: Sequence[int] | None = None
    ) -> tuple[int, ...]:
        """The largest useful ranks for one group's kernel of shape (T, S, kh, kw)."""
        outputs, inputs, *window = kernel_shape
        rows, cols = paired_dims(outputs, inputs, row_dims, col_dims)
        return decompose.max_tt_ranks([math.prod(window), *(m * n for m, n in zip(rows, cols, strict=True))])

    def dense_weight(self) -> Tensor:
        """The kernel (T, S / groups, kh, kw) that the factors multiply out to; differentiable."""
        window = self.filters.shape[2:]
        weight = self.filters.reshape(self.groups, -1, math.prod(window)).mT[:, None, None]  # (g, T, S, kh kw, R)
        for core in self.cores:
            weight = torch.einsum("gtspr,grmna->gtmsnpa", weight, core).flatten(3, 4).flatten(1, 2)
        weight = weight[:, : self.out_channels // self.groups, : self.in_channels // self.groups, :, 0]
        return weight.reshape(self.out_channels, -1, *window)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in, H, W) or (in, H, W) to (B, out, H', W')."""
        if x.ndim == 3:
            return self.forward(x.unsqueeze(0)).squeeze(0)
        order = self.choose(x.shape)
        if order == "kernel":
            y = self.geometry.conv(x, self.dense_weight(), self.groups)
        else:
            apply = self._filters_first if order == "filters" else self._cores_first
            padding = (0, 0, 0, 0, 0, math.prod(self.col_dims) - self.in_channels // self.groups)
            parts = x.chunk(self.groups, 1)
            results = [apply(g, F.pad(part, padding) if padding[-1] else part) for g, part in enumerate(parts)]
            kept = self.out_channels // self.groups
            y = results[0][:, :kept] if self.groups == 1 else torch.cat([r[:, :kept] for r in results], 1)
        return y if self.bias is None else y + self.bias[:, None, None]

    def _filters_first(self, group: int, x: Tensor) -> Tensor:
        filters = self.filters.chunk(self.groups)[group]
        y = self.geometry.conv(x.unsqueeze(1), filters)
        height, width = y.shape[-2:]
        done = 1
        # `y` is (B t_1 .. t_(k-1), R_k s_k, s_(k+1) .. s_d pixels): what a core contracts lies together.
        for cores in self.cores:
            core = cores[group]
            left, m, n, right = core.shape
            y = y.reshape(len(x) * done, left * n, -1)
            y = torch.bmm(core.permute(1, 3, 0, 2).reshape(1, m * right, left * n).expand(len(y), -1, -1), y)
            done *= m
        return y.reshape(len(x), done, height, width)

    def _cores_first(self, group: int, x: Tensor) -> Tensor:
        filters = self.filters.chunk(self.groups)[group]
        y, before = x, math.prod(self.col_dims)
        # `y` is (B s_1 .. s_(k-1), s_k R_k, t_(k+1) .. t_d pixels).
        for cores in reversed(list(self.cores)):
            core = cores[group]
            left, m, n, right = core.shape
            before //= n
            y = y.reshape(len(x) * before, n * right, -1)
            y = torch.bmm(core.reshape(1, left * m, n * right).expand(len(y), -1, -1), y)
        y = y.reshape(len(x), len(filters), -1, *x.shape[-2:])
        return self.geometry.conv(y, filters.transpose(0, 1)).squeeze(1)

    def choose(self, input_shape: Sequence[int]) -> Order:
        """The order that `forward` takes for an input of shape (B, in, H, W)."""
        if self.order is not None:
            return self.order
        costs = self._costs(input_shape)
        return min(costs, key=costs.__getitem__)

    def explain(self, x: Tensor) -> str:
        """The order taken for this input and what the cost model predicts for each; nothing is computed."""
        shape = x.shape if x.ndim == 4 else (1, *x.shape)
        costs = ", ".join(f"{order} {cost / 1e6:.3g} ms" for order, cost in self._costs(shape).items())
        taken = self.choose(shape)
        note = ": the dense kernel is multiplied out in each call" if taken == "kernel" else " first"
        return f"{taken}{note} (predicted: {costs})"

    def _costs(self, input_shape: Sequence[int]) -> dict[Order, float]:
        batch, _, *size = input_shape
        kernel = tuple(self.filters.shape[2:])
        pixels = math.prod(self.geometry.output_size(size, kernel))
        channels = self.out_channels // self.groups, self.in_channels // self.groups
        sizes = _Sizes(self.row_dims, self.col_dims, self.rank, math.prod(kernel), *channels)
        return {order: self.groups * c for order, c in _predict(sizes, batch, math.prod(size), pixels).items()}

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels} {self.col_dims} -> {self.out_channels} {self.row_dims}, rank={self.rank}, "
            f"groups={self.groups}, {self.geometry}, bias={self.bias is not None}"
        )


@functools.lru_cache(maxsize=4096)
def _predict(sizes: _Sizes, batch: int, pixels_in: int, pixels_out: int) -> dict[Order, float]:
    """Predicted nanoseconds of one group's forward pass in each order."""
    rows, cols, ranks, m = sizes.rows, sizes.cols, (*sizes.ranks, 1), _MODEL
    filters = cores = kernel = 0.0
    t, s = 1, math.prod(cols)
    for k, (row, col) in enumerate(zip(rows, cols, strict=True)):
        after, left, right = s // math.prod(cols[: k + 1]), ranks[k], ranks[k + 1]
        filters += m.product(Product(batch * t, row * right, left * col, after * pixels_out, weight_first=True))
        before, done = math.prod(cols[:k]), math.prod(rows[k + 1 :])
        cores += m.product(Product(batch * before, left * row, col * right, done * pixels_in, weight_first=True))
        inner = t * before * sizes.kernel
        kernel += m.product(Product(1, inner, left, row * col * right, weight_first=False))
        t *= row
    window = sizes.kernel * ranks[0] * batch * pixels_out * m.mac * _DEPTHWISE
    filters += m.call + window * s + m.written * batch * ranks[0] * s * pixels_out
    # One output channel was seen to take about one and a half times as long as one input channel.
    cores += m.call + 1.5 * window * t + m.written * batch * t * pixels_out
    dense = batch * pixels_out * sizes.outputs * (sizes.inputs * sizes.kernel * m.mac + m.written)
    return {"kernel": m.call + kernel + dense, "filters": filters, "cores": cores}
