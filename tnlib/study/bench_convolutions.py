"""How much of what factorized convolutions save in MACs they save in time: behind `tnlib bench convolutions`.

The rival is `nn.Conv2d` in the faster of its two memory formats, contiguous and channels_last. Weights are random: the
time does not depend on them. Every layer is checked against the dense convolution with the kernel that its factors
multiply out to before it is timed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tnlib.layers import factorize
from tnlib.layers.chain import FactorizedConv
from tnlib.measure import compare, cost

BLOCK = 20.0  # milliseconds of a turn


@dataclass(frozen=True)
class Shape:
    """A convolution: channels in and out, height (and width) of its input, kernel size, stride, bias.

    The padding is half the kernel size, so that stride 1 keeps the height.
    """

    name: str
    inputs: int
    outputs: int
    size: int
    kernel: int = 3
    stride: int = 1
    bias: bool = True

    def layer(self) -> nn.Conv2d:
        """The dense layer, normal weights of variance 2 / fan_in from a fixed seed, in eval mode."""
        layer: nn.Conv2d = nn.utils.skip_init(
            nn.Conv2d,
            self.inputs,
            self.outputs,
            self.kernel,
            stride=self.stride,
            padding=self.kernel // 2,
            bias=self.bias,
        )
        generator = torch.Generator().manual_seed(0)
        nn.init.kaiming_normal_(layer.weight, generator=generator)
        if layer.bias is not None:
            nn.init.normal_(layer.bias, generator=generator)
        return layer.eval()

    def images(self, batch: int) -> Tensor:
        """A random input (batch, inputs, size, size), contiguous."""
        generator = torch.Generator().manual_seed(1)
        return torch.randn(batch, self.inputs, self.size, self.size, generator=generator)


ALEXNET_CONV2 = Shape("alexnet conv2", 64, 192, 27, kernel=5)
# The distinct k x k convolutions of the networks for CIFAR. Their first ones stay dense: of three input channels,
# half ranks leave more MACs than there were.
RESNET20 = (
    Shape("resnet20 16@32", 16, 16, 32, bias=False),
    Shape("resnet20 16-32@32/2", 16, 32, 32, stride=2, bias=False),
    Shape("resnet20 32@16", 32, 32, 16, bias=False),
    Shape("resnet20 32-64@16/2", 32, 64, 16, stride=2, bias=False),
    Shape("resnet20 64@8", 64, 64, 8, bias=False),
)
VGG16 = (
    Shape("vgg16 64@32", 64, 64, 32),
    Shape("vgg16 64-128@16", 64, 128, 16),
    Shape("vgg16 128@16", 128, 128, 16),
    Shape("vgg16 128-256@8", 128, 256, 8),
    Shape("vgg16 256@8", 256, 256, 8),
    Shape("vgg16 256-512@4", 256, 512, 4),
    Shape("vgg16 512@4", 512, 512, 4),
    Shape("vgg16 512@2", 512, 512, 2),
)


def alexnet_conv2(rank: int = 140, batch: int = 1, *, rounds: int = 60, seconds: float = 2.0) -> dict[str, Any]:
    """Time AlexNet's second convolution in the CP format beside the dense one; the metrics of `speed`.

    `steps_alone`: milliseconds of each step of the chain by itself, its operands in cache: what the chain would take if
    nothing were lost between them.
    """
    metrics = speed(ALEXNET_CONV2, "cp", rank, batch, rounds=rounds, seconds=seconds)
    chain = factorize(ALEXNET_CONV2.layer(), "cp", rank, weights="fresh").to(memory_format=torch.channels_last)
    assert isinstance(chain, FactorizedConv)
    x = ALEXNET_CONV2.images(batch).to(memory_format=torch.channels_last)
    steps = {}
    with torch.no_grad():
        chain(x)
        assert chain._path is not None
        rows, shape = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]), tuple(x.shape)
        for number, step in enumerate(chain._path.steps):
            run, shape = step.ready(shape)
            steps[str(number)] = partial(run, rows)
            rows = run(rows)
    timings = compare(steps, rounds=rounds, seconds=seconds, block=BLOCK).timings
    return metrics | {"steps_alone": [timing.median for timing in timings.values()]}


def tucker2_at_half_ranks(
    batch: int = 16,
    shapes: Iterable[Shape] = RESNET20 + VGG16,
    *,
    rounds: int = 60,
    seconds: float = 1.0,
) -> dict[str, Any]:
    """Time Tucker-2 layers with R_T = T / 2 and R_S = S / 2 beside the dense ones, shape by shape.

    Returns:
        `shapes`: for each the metrics of `speed`; `share`, `share_resnet20`, `share_vgg16`: geometric means of the
        shares of the MAC reduction that became speed (inputs channels_last), of all shapes and of each network's;
        `share_from_contiguous`: the same of all shapes for contiguous inputs; `batch`.
    """
    rows = [
        speed(shape, "tucker2", (shape.outputs // 2, shape.inputs // 2), batch, rounds=rounds, seconds=seconds)
        for shape in shapes
    ]
    metrics: dict[str, Any] = {"batch": batch, "shapes": rows, "share": geometric_mean(row["share"] for row in rows)}
    for network in ("resnet20", "vgg16"):
        shares = [row["share"] for row in rows if row["name"].startswith(network)]
        if shares:
            metrics[f"share_{network}"] = geometric_mean(shares)
    metrics["share_from_contiguous"] = geometric_mean(row["share_from_contiguous"] for row in rows)
    return metrics


def speed(
    shape: Shape,
    format: str,
    rank: int | tuple[int, ...],
    batch: int,
    *,
    rounds: int = 60,
    seconds: float = 1.0,
) -> dict[str, Any]:
    """Time one layer in a format beside the dense one, in inference.

    First the two memory formats of the dense layer, interleaved; then the faster one and the factorized layer,
    interleaved, with nothing else between. A turn is as many calls as fill `BLOCK` milliseconds.

    Args:
        shape: of the layer.
        format: one of `factorize` that makes a chain of convolutions.
        rank: the format's.
        batch: images a call.
        rounds: turns of each, at most.
        seconds: as for `measure.compare`.

    Returns:
        The shape's fields and `format`, `rank`, `batch`; `macs_dense`, `macs_factorized` (of the format: the stages one
        by one) and `mac_ratio`; milliseconds [median, 10 %, 90 %] of `dense_contiguous`, `dense_channels_last`,
        `factorized`; `dense_format`, the faster one; `speedup` [median, 10 %, 90 %], dense in the faster format /
        factorized, round by round; `share` = median speedup / `mac_ratio`; `rounds`. What concerns `factorized`
        come twice: for channels_last inputs, and with `_from_contiguous` for contiguous ones.

    Raises:
        AssertionError: the factorized layer does not compute the convolution with its dense weight.
    """
    dense, images = shape.layer(), shape.images(batch)
    chain = factorize(dense, format, rank, weights="fresh").to(memory_format=torch.channels_last)
    assert isinstance(chain, nn.Sequential)
    last = images.to(memory_format=torch.channels_last)
    _check(chain, dense, images, last)
    other = shape.layer().to(memory_format=torch.channels_last)
    rivals = {"contiguous": lambda: dense(images), "channels_last": lambda: other(last)}
    calls = {"": lambda: chain(last), "_from_contiguous": lambda: chain(images)}
    tried = compare(rivals, rounds=rounds, seconds=seconds / 2, block=BLOCK).timings
    faster = min(tried, key=lambda name: tried[name].median)
    macs = [cost(layer, images.shape).macs for layer in (dense, nn.Sequential(*chain))]
    ratio = macs[0] / macs[1]
    metrics: dict[str, Any] = {**asdict(shape), "format": format, "rank": rank, "batch": batch}
    metrics |= {"macs_dense": macs[0], "macs_factorized": macs[1], "mac_ratio": ratio, "dense_format": faster}
    for name, timing in tried.items():
        metrics[f"dense_{name}"] = [timing.median, timing.low, timing.high]
    for suffix, call in calls.items():
        result = compare({"dense": rivals[faster], "factorized": call}, rounds=rounds, seconds=seconds, block=BLOCK)
        timing = result.timings["factorized"]
        metrics[f"factorized{suffix}"] = [timing.median, timing.low, timing.high]
        metrics[f"speedup{suffix}"] = list(result.speedup["factorized"])
        metrics[f"share{suffix}"] = result.speedup["factorized"][0] / ratio
        metrics[f"rounds{suffix}"] = timing.n
    return metrics


def geometric_mean(values: Iterable[float]) -> float:
    """Exponential of the mean logarithm; ValueError when there is no value or one is not positive."""
    found = list(values)
    if not found or min(found) <= 0:
        raise ValueError(f"a geometric mean needs positive values, got {found}")
    return math.exp(math.fsum(map(math.log, found)) / len(found))


@torch.no_grad()
def _check(chain: nn.Module, dense: nn.Conv2d, *inputs: Tensor) -> None:
    kernel = chain.dense_weight()  # type: ignore[operator]
    bias: Any = list(chain.modules())[-1].bias
    for x in inputs:
        expected = F.conv2d(x, kernel, bias, dense.stride, dense.padding)
        torch.testing.assert_close(chain(x), expected, rtol=1e-3, atol=1e-3)
