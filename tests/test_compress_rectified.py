"""What a ReLU behind a layer leaves free: targets, and networks fitted to them."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from compress_networks import seeded
from torch import nn

from tnlib import compress
from tnlib.compress import Budget
from tnlib.compress.rectified import Affine, rectified


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_targets_are_the_nearest_of_equal_value_behind_the_relu():
    before, now = randn(50), 2 * randn(50, seed=1)
    found = rectified(before, now)
    assert torch.equal(found.relu(), before.relu())
    grid = torch.arange(-800, 801) / 100
    for target, goal, got in zip(found, before, now, strict=True):
        allowed = goal[None] if goal > 0 else grid[grid.relu() == goal.relu()]
        assert abs(float(target - allowed[(allowed - got).abs().argmin()])) < 0.0051
    assert ((found - now).abs() >= (before.relu() - now.relu()).abs() - 1e-6).all()  # the bound of the module's text


@pytest.mark.parametrize(
    ("norm", "shape"),
    [
        (lambda: nn.BatchNorm1d(4), (7, 4)),
        (lambda: nn.BatchNorm1d(4), (7, 4, 5)),
        (lambda: nn.BatchNorm2d(4, affine=False), (3, 4, 5, 2)),
        (lambda: nn.BatchNorm3d(4), (3, 4, 2, 1, 2)),
    ],
)
def test_affine_is_batchnorm(norm, shape):
    norm, y = norm().eval(), randn(*shape)
    with torch.no_grad():
        norm.running_mean.copy_(randn(4))
        norm.running_var.copy_(randn(4, seed=1).square())
        if norm.affine:
            norm.weight.copy_(randn(4, seed=2))
            norm.bias.copy_(randn(4, seed=3))
            norm.weight[1] = 0.0
        affine, change = Affine.of(norm, y), randn(*shape, seed=4)
        assert torch.allclose(affine(y), norm(y), atol=1e-5)
        passed = norm(y + affine.inverse(change)) - norm(y)
        assert torch.allclose(passed[:, [0, 2, 3]], change[:, [0, 2, 3]], atol=1e-4)
        if norm.affine:
            assert not affine.inverse(change)[:, 1].any()


def test_without_batchnorm_nothing_changes():
    y = randn(3, 4)
    affine = Affine.of(None, y)
    assert torch.equal(affine(y), y)
    assert torch.equal(affine.inverse(y), y)


RELUS = {
    "module": nn.ReLU(),
    "function": F.relu,
    "torch": torch.relu,
    "method": lambda x: x.relu(),
    "in place": lambda x: x.relu_(),
}


class Plain(nn.Module):
    """A convolution, a BatchNorm or none, an activation."""

    def __init__(self, act, norm=True):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, bias=not norm)
        self.norm, self.act = nn.BatchNorm2d(8) if norm else nn.Identity(), act

    def forward(self, x):
        return self.act(self.norm(self.conv(x)))


class Block(Plain):
    """The same, with a shortcut that has an error of its own."""

    def __init__(self, act, norm=True):
        super().__init__(act, norm)
        self.stem = nn.Conv2d(3, 8, 3)

    def forward(self, x):
        return self.act(self.norm(self.conv(x)) + self.stem(x))


class Twice(Plain):
    """The layer's output is used a second time, so that the ReLU leaves nothing free."""

    def forward(self, x):
        y = self.norm(self.conv(x))
        return self.act(y) + y


def networks(make, act, norm=True, format="svd"):
    x = randn(40, 3, 6, 6)
    model = seeded(lambda: make(act, norm))
    if norm:
        with torch.no_grad():
            model.norm.weight.copy_(1 + 0.5 * randn(8, seed=3))
            model.norm.bias.copy_(randn(8, seed=4))
        compress.reestimate_batchnorm(model, x)
    small = compress.plan(model, x, Budget(params=0.5), formats=(format,)).apply(model)
    return small, model.eval(), x


def behind(small, model, x):
    """The squared distance of what both networks give."""
    with torch.no_grad():
        return float((small.eval()(x) - model(x)).square().sum())


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("make", [Plain, Block])
@pytest.mark.parametrize(("name", "format"), [*((name, "svd") for name in RELUS), ("module", "cp3")])
def test_less_is_lost_behind_the_relu(name, format, make, norm):
    small, model, x = networks(make, RELUS[name], norm, format)
    fits = (compress.repair(small, model, x, rounds=rounds, metric="input") for rounds in (0, 1, 4))
    errors = [behind(fitted, model, x) for fitted in fits]
    assert errors[1] < 0.97 * errors[0]
    assert errors[2] < errors[1]


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize(("make", "act"), [(Plain, F.gelu), (Plain, nn.Identity()), (Twice, F.relu)])
def test_without_a_relu_alone_behind_it_nothing_is_free(make, act, norm):
    small, model, x = networks(make, act, norm)
    one, two = (compress.repair(small, model, x, rounds=rounds).state_dict() for rounds in (0, 3))
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_the_bound_does_not_grow():
    small, model, x = networks(Plain, F.relu)
    before = model.norm(model.conv(x)).detach()
    bounds = []
    for rounds in range(6):
        fitted = compress.repair(small, model, x, rounds=rounds, metric="input")
        with torch.no_grad():
            now = fitted.norm(fitted.conv(x))
            scale = Affine.of(fitted.norm, now).scale  # squares are summed in front of BatchNorm
        bounds.append(float(((rectified(before, now) - now) / scale).square().sum()))
    assert all(after <= 1.001 * before for before, after in itertools.pairwise(bounds))
    assert bounds[-1] < bounds[0]


def test_a_channel_that_batchnorm_stops_is_left_alone():
    small, model, x = networks(Plain, F.relu)
    for network in (small, model):
        with torch.no_grad():
            network.norm.weight[2] = 0.0
    fitted = compress.repair(small, model, x, rounds=3)
    assert all(torch.isfinite(value).all() for value in fitted.state_dict().values())
    assert behind(fitted, model, x) < behind(small, model, x)


def test_negative_rounds():
    small, model, x = networks(Plain, F.relu)
    state = copy.deepcopy(small.state_dict())
    with pytest.raises(ValueError, match="rounds: -1 is negative"):
        compress.repair(small, model, x, rounds=-1)
    assert all(torch.equal(value, state[key]) for key, value in small.state_dict().items())
