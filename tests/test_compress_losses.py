"""Losses that are interpolated: exact where they fall exponentially, near what is computed; budgets are filled."""

import math

import pytest
import torch
from torch import nn

from tnlib import compress, data, layers, models
from tnlib.compress.candidate import Loss
from tnlib.compress.fitting import QUICK
from tnlib.compress.losses import SKETCHED, STEEPEST, _among, _between

CONV = ("svd", "spatial_svd", "cp", "cp3", "tucker2", "tucker", "tt", "ttm")
LAYER = "4"


def test_exponentials_are_interpolated_exactly():
    places = [1, 4, 9, 20]
    tried = [Loss(k, 3 * math.exp(-0.4 * k)) for k in places]
    found = _between(tried, places, list(range(1, 21)), list(range(1, 21)))
    assert [one.rank for one in found] == list(range(1, 21))
    assert [one.rank for one in found if not one.interpolated] == places
    for one in found:
        assert one.loss == pytest.approx(3 * math.exp(-0.4 * one.rank), rel=1e-12)


@pytest.mark.parametrize("values", [(0.5, 0.0), (0.0, 0.5), (0.0, 0.0), (1e-300, 0.3), (0.2, 0.2)])
def test_ends_that_are_zero_or_far_apart(values):
    """From a loss to none at all there is no exponential: what is in between is no less than a thousandth of it."""
    tried = [Loss(rank, loss) for rank, loss in zip((10, 20), values, strict=True)]
    found = _between(tried, (10, 20), list(range(10, 21)), list(range(10, 21)))
    assert (found[0].loss, found[-1].loss) == values
    for one in found[1:-1]:
        assert one.interpolated
        assert STEEPEST * max(values) <= one.loss <= max(values) + 1e-290


def test_one_rank_alone():
    assert _between([Loss((2, 3), 0.1)], [0], [(2, 3)], [0.0]) == [Loss((2, 3), 0.1)]
    assert _among([(2, 3)], 5) == ([(2, 3)], [0.0])


def test_ranks_of_trains_between_others():
    ranks, at = _among([(1, 1, 1), (1, 4, 2), (3, 5, 2)], 3)
    assert ranks == [(1, 1, 1), (1, 2, 1), (1, 3, 2), (1, 4, 2), (2, 4, 2), (2, 5, 2), (3, 5, 2)]
    assert at == pytest.approx([0, 1 / 3, 2 / 3, 1, 4 / 3, 5 / 3, 2])


@pytest.mark.parametrize("metric", ["weight", "input", "exact"])
@pytest.mark.parametrize("format", ["spatial_svd", "tucker2", "cp3", "tt"])
def test_what_is_interpolated_is_near_what_is_computed(format, metric):
    """Of a trained kernel: within a half, on the average within a tenth; losses span three orders of magnitude."""
    model, x = models.load("quick-cifar10"), data.load("cifar10", "train", "embedded").images[:40]
    curves = compress.curves(model, x, (format,), metric, only=[LAYER])
    layer, norm = model.get_submodule(LAYER), curves.norms[LAYER]
    found = [one for one in curves.candidates[LAYER] if one.interpolated]
    closed = metric == "weight" and format in ("spatial_svd", "tucker2")
    assert bool(found) != closed
    off = []
    for one in found[:: max(1, len(found) // 8)]:
        options = {"seed": 0, "metric": norm.metric, **SKETCHED.get(format, {})}
        small = norm.fitted(layers.factorize(layer, format, one.rank, **options), layer, QUICK)
        off.append(abs(math.log(one.loss / norm.loss(layer.weight, small.dense_weight()))))
    assert max(off, default=0) < math.log(1.5)
    assert sum(off) <= len(off) * math.log(1.1)


def test_all_ranks_of_a_tucker_decomposition_are_computed():
    """Its closed form does not tell how a norm of patches orders ranks of the window: nothing is interpolated."""
    model, x = models.load("quick-cifar10"), data.load("cifar10", "train", "embedded").images[:40]
    row = compress.curves(model, x, ("tucker",), "input", only=[LAYER]).candidates[LAYER]
    assert 8 <= len(row) <= 17
    assert not any(one.interpolated for one in row)


@pytest.mark.parametrize("format", ["svd", "spatial_svd", "tucker2", "cp3", "tt"])
def test_budgets_are_filled(format):
    """As candidates are many, little of a budget is left over, in a network of few layers, too."""
    model, x = models.load("quick-cifar10"), data.load("cifar10", "train", "embedded").images[:1]
    curves = compress.curves(model, x, (format,))
    for share in (0.75, 0.5, 0.35):
        plan = compress.Plan.of(curves, compress.Budget(macs=share))
        assert 0.985 * share < plan.share("macs") <= share, (format, share, plan.share("macs"))


@pytest.mark.parametrize("format", CONV)
def test_the_fewest_ranks(format):
    """A layer so small that few ranks are cheaper, or none is: what is offered is cheaper, and its losses are known."""
    layer, x = nn.Conv2d(2, 2, 3, bias=False), torch.randn(2, 2, 5, 5)
    dense, *others = compress.curves(nn.Sequential(layer), x, (format,)).candidates["0"]
    assert (dense.format, dense.loss, dense.params) == (None, 0.0, 36)
    for one in others:
        assert one.params < dense.params or one.macs < dense.macs
        assert one.params == layers.size(layer, format, one.rank)
        assert 0 < one.loss < 1
