"""The baseline: every layer keeps the same share of its cost."""

import math

import pytest
import torch
from compress_networks import Encoder, Residual, Tied, images, seeded
from torch import nn

from tnlib import compress, layers, measure, models
from tnlib.compress import Budget


def found(model, x, format, budget, metric="weight"):
    return compress.uniform(compress.curves(model, x, ("svd",), metric), budget, format)


KINDS = {"svd": "macs", "spatial_svd": "params", "cp": "macs", "cp3": "bytes", "tucker2": "macs", "tucker": "params"}


@pytest.mark.parametrize(("format", "kind"), [*KINDS.items(), ("tt", "macs")])
def test_its_cost_is_what_is_counted_and_keeps_the_budget(format, kind):
    model, x = seeded(Residual), images()
    plan = found(model, x, format, Budget(**{kind: 0.8}))
    small = plan.apply(model)
    for every in ("params", "macs", "bytes"):
        assert getattr(measure.cost(small, x[:1]), every) == plan.cost[every]
    assert plan.cost[kind] <= 0.8 * plan.original[kind]
    assert any(c.format == format for c in plan.chosen.values())
    assert {c.format for c in plan.chosen.values()} <= {format, None}


@pytest.mark.parametrize("format", ["svd", "spatial_svd", "cp3", "tucker2"])
@pytest.mark.parametrize("share", [0.75, 0.35, 0.1])
def test_little_is_left_and_shares_are_alike(format, share):
    """By hand for a network without strides in its kernels' formula: every layer within a rank of the common share."""
    model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 24, 3, padding=1), nn.ReLU(),
                          nn.Conv2d(24, 20, 5), nn.Flatten(), nn.Linear(20 * 25, 40))  # fmt: skip
    plan = found(model, images(), format, Budget(macs=share))
    positions, free = {"0": 81, "2": 81, "4": 25}, math.floor(share * plan.original["macs"]) - plan.cost["macs"]
    shares, steps, left = {}, {}, []
    for name, output in positions.items():
        layer, rank = model.get_submodule(name), plan.chosen[name].rank
        size = (9, 9) if output == 81 else (5, 5)
        dense = layer.weight.numel() * output

        def macs(r, layer=layer, size=size):
            return layers.macs(layer, format, r, size)

        assert plan.chosen[name].macs == macs(rank)
        shares[name], steps[name] = macs(rank) / dense, (macs(rank + 1) - macs(rank)) / dense
        left.append(macs(rank + 1) - macs(rank))
    assert free < max(left)
    common = max(shares.values())
    for name, one in shares.items():  # the common share lies within two steps, but where rank 1 is more than it
        assert one >= common - 2 * max(steps.values()) or plan.chosen[name].rank == 1


def test_a_resnet_comes_within_a_percent():
    model, x = models.load("resnet20-cifar10"), torch.zeros(1, 3, 32, 32)
    curves = compress.curves(model, x, ("svd",))
    for format in ("svd", "spatial_svd", "cp", "cp3", "tucker2", "tt"):
        for share in (0.5, 0.25):
            plan = compress.uniform(curves, Budget(macs=share), format)
            assert 0.99 * share < plan.share("macs") <= share


def test_layers_are_factored_in_the_metric_of_the_curves():
    model, x = seeded(Residual), images(20)
    small = [found(model, x, "svd", Budget(macs=0.6), metric).apply(model) for metric in ("weight", "input")]
    ranks = [[m.rank for m in one.modules() if hasattr(m, "rank")] for one in small]
    assert ranks[0] == ranks[1]
    errors = [float((one(x) - model(x)).detach().norm()) for one in small]
    assert errors[0] != errors[1]


@pytest.mark.parametrize(("make", "inputs"), [
    (Tied, {"tokens": torch.zeros(2, 9, dtype=torch.int64)}),
    (Encoder, {"x": torch.zeros(2, 7, 16)}),
])  # fmt: skip
def test_text_networks(make, inputs):
    model = seeded(make)
    plan = found(model, inputs, "svd", Budget(params=0.9))
    assert (
        sum(p.numel() for p in plan.apply(model).parameters()) <= plan.cost["params"] <= 0.9 * plan.original["params"]
    )


def test_bad_requests():
    model, x = seeded(Residual), images()
    curves = compress.curves(model, x, ("svd",))
    for budget in (Budget(macs=0.5, params=0.5), Budget(latency=0.5), Budget(macs=0.5, latency=0.5)):
        with pytest.raises(ValueError, match="one cost: params, macs or bytes"):
            compress.uniform(curves, budget, "svd")
    with pytest.raises(ValueError, match="out of reach: svd at rank 1") as error:
        compress.uniform(curves, Budget(macs=0.01), "svd")
    least = float(str(error.value).split("macs=")[-1])
    assert compress.uniform(curves, Budget(macs=least), "svd").share("macs") <= least
    with pytest.raises(ValueError, match="no layer"):
        compress.uniform(curves, Budget(macs=0.5), "unknown")
    with pytest.raises(ValueError, match="no layer"):
        compress.uniform(compress.curves(nn.Linear(4, 4), torch.zeros(1, 4), ("svd",)), Budget(macs=0.5), "spatial_svd")
