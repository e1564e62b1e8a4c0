"""The metric `exact`: what errors of kernels do to the outputs of the network, to first order."""

import copy
from dataclasses import replace

import pytest
import torch
from compress_networks import Encoder, Residual, Tied, images, seeded
from torch import nn

from tnlib import compress, layers
from tnlib.compress import Budget
from tnlib.compress.inputs import calls
from tnlib.compress.losses import FITTED
from tnlib.compress.matrices import losses_by_rank
from tnlib.compress.survey import survey


def norms_of(model, inputs):
    places = survey(model, next(iter(calls(model, inputs)))).places
    return compress.METRICS["exact"]().norms(model, places.values(), calls(model, inputs))


def centred(z):
    return z - z.mean(-1, keepdim=True)


@torch.no_grad()
def measured(model, name, error, inputs):
    """Relative squared change of the centred outputs."""
    changed = copy.deepcopy(model)
    changed.get_submodule(name).weight += error
    z, other = centred(model(inputs)), centred(changed(inputs))
    return float((z - other).square().sum() / z.square().sum())


def test_of_a_linear_network_it_is_exact():
    """Up to the draws of the outputs' weights: one a sample."""
    model = seeded(lambda: nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4), nn.Linear(4, 3)))
    x = torch.randn(4000, 6, generator=torch.Generator().manual_seed(1)) + 0.5
    for name, norm in norms_of(model, x).items():
        weight = model.get_submodule(name).weight
        error = 0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(2))
        expected = measured(model, name, error, x)
        assert norm.loss(weight, weight + error) == pytest.approx(expected, rel=0.1)


def test_the_assumption_holds_for_one_position_and_nearly_for_small_errors():
    model, x = seeded(Residual), images(400)
    found = norms_of(model, x)
    ratios = []
    for name in ("stem", "grouped", "depthwise", "dilated", "head"):
        weight = model.get_submodule(name).weight
        error = 1e-2 * weight.detach().norm() * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
        error = error / error.norm() * weight.detach().norm() * 1e-2
        ratios.append(found[name].loss(weight, weight + error) / measured(model, name, error, x))
    assert ratios[-1] == pytest.approx(1, rel=0.2)
    assert all(0.1 < ratio < 10 for ratio in ratios)


def by_channels(model, inputs):
    places = survey(model, next(iter(calls(model, inputs)))).places
    return compress.METRICS["kfac"]().norms(model, places.values(), calls(model, inputs))


def test_by_channels_is_the_kronecker_product_of_means():
    model, x = seeded(Residual), images(30)
    exact, found = norms_of(model, x), by_channels(model, x)
    for name, norm in found.items():
        weight, total = model.get_submodule(name).weight, exact[name].moment.total
        channels, pixels = weight.shape[1], weight[0, 0].numel() if weight.ndim > 2 else 1
        split = total.reshape(len(total), channels, pixels, channels, pixels)
        mean = sum(split[:, :, k, :, k] for k in range(pixels)) / pixels
        expected = torch.stack([torch.kron(one, torch.eye(pixels, dtype=one.dtype)) for one in mean])
        assert torch.allclose(norm.moment.total, expected)
        assert torch.equal(norm.outputs, exact[name].outputs)
        assert norm.moment.vectors == exact[name].moment.vectors
        assert not norm.fits
        error = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
        kernel = error.double().reshape(len(total), -1, channels, pixels)
        value = torch.einsum("gtak,gtu,gab,gubk->", kernel, norm.outputs, mean, kernel)
        assert norm.loss(weight, weight + error) == pytest.approx(float(value), rel=1e-4)


def test_by_channels_a_linear_layer_is_as_it_was():
    model = seeded(Encoder)
    x = torch.randn(20, 6, 16, generator=torch.Generator().manual_seed(0))
    exact, found = norms_of(model, x), by_channels(model, x)
    assert all(torch.equal(found[name].moment.total, norm.moment.total) for name, norm in exact.items())
    curves = [compress.curves(model, x, ("svd",), metric) for metric in ("exact", "kfac")]
    for name, row in curves[0].candidates.items():
        assert [c.loss for c in curves[1].candidates[name]] == pytest.approx([c.loss for c in row], rel=1e-9, abs=1e-15)


def test_by_channels_no_step_makes_a_decomposition_better():
    """Whitened by both factors of the Kronecker product, truncation is optimal: rounds of fitting gain nothing."""
    model, x = seeded(Residual), images(30)
    norm, layer = by_channels(model, x)["stem"], model.stem
    small = layers.factorize(layer, "svd", 4, metric=norm.metric)
    again = replace(norm, fits=True).fitted(small, layer, (15, 50))
    losses = [norm.loss(layer.weight, one.dense_weight()) for one in (small, again)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)
    plain = layers.factorize(layer, "svd", 4)
    assert losses[0] < 0.98 * norm.loss(layer.weight, plain.dense_weight())


def test_by_channels_a_network_goes_through(tmp_path):
    model, x = seeded(Residual), images(30)
    plan = compress.plan(model, x, Budget(macs=0.6), formats=("spatial_svd", "cp3"), metric="kfac", cache=tmp_path)
    assert plan.metric == "kfac"
    assert plan.share("macs") <= 0.6
    assert torch.isfinite(plan.apply(model)(x)).all()
    plan.save(tmp_path / "plan.json")
    assert compress.Plan.load(tmp_path / "plan.json").apply(model, x)(x).shape == (30, 7)


def test_what_the_outputs_do_not_depend_on_costs_nothing():
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(6, 8), nn.Linear(4, 3)

        def forward(self, x):
            return self.last(self.first(x)[:, :4])

    model = seeded(Half)
    x = torch.randn(100, 6, generator=torch.Generator().manual_seed(0))
    norm, weight = norms_of(model, x)["first"], model.first.weight.detach()
    unused = torch.zeros_like(weight)
    unused[4:] = 1.0
    assert norm.loss(weight, weight + unused) < 1e-12 < norm.loss(weight, weight + unused.flip(0))


def test_nothing_is_left_behind():
    model = seeded(Residual).requires_grad_(False)
    model.head.weight.requires_grad_(True)
    needed = {name: p.requires_grad for name, p in model.named_parameters()}
    with torch.no_grad():
        norms_of(model, images())
    assert {name: p.requires_grad for name, p in model.named_parameters()} == needed
    assert not any(module._forward_hooks for module in model.modules())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("make", "inputs"),
    [
        (Residual, lambda: images(40)),
        (Tied, lambda: torch.randint(0, 40, (30, 7), generator=torch.Generator().manual_seed(0))),
        (Encoder, lambda: torch.randn(20, 6, 16, generator=torch.Generator().manual_seed(0))),
    ],
)
def test_any_network(make, inputs, tmp_path):
    model, x = seeded(make), inputs()
    how = {"formats": ("svd", "cp3"), "metric": "exact", "cache": tmp_path}
    plan = compress.plan(model, x, Budget(params=0.9), **how)
    small = plan.apply(model)
    assert plan.loss > 0
    assert sum(p.numel() for p in small.parameters()) == plan.cost["params"]
    assert compress.plan(model, x, Budget(params=0.9), **how) == plan
    assert plan.metric == "exact"
    assert torch.isfinite(compress.repair(small, model, x)(x)).all()


def test_candidates_are_fitted_in_the_norm_of_patches():
    model, x = seeded(Residual), images(60)
    how = {"formats": ("cp3",), "only": ("stem",)}
    plan = compress.plan(model, x, Budget(params=0.97), metric="exact", **how)
    chosen = plan.chosen["stem"]
    norm, weight = plan.norms["stem"], model.stem.weight
    small = plan.apply(model).stem
    assert isinstance(small, layers.CP3Conv)
    assert norm.loss(weight, small.dense_weight()) <= chosen.loss * (1 + 1e-6)
    channels = layers.factorize(model.stem, "cp3", chosen.rank, metric=norm.metric, seed=0, **FITTED["cp3"])
    whole = norm.moment.square(weight.detach().double())
    errors = [
        norm.moment.square(kernel.detach().double() - weight.double()) / whole
        for kernel in (small.dense_weight(), channels.dense_weight())
    ]
    assert errors[0] <= errors[1]


@pytest.mark.parametrize("metric", ["input", "exact"])
def test_every_rank_of_a_linear_layer_loses_what_is_predicted(metric):
    """One decomposition tells the losses of all ranks; here each is made and measured."""
    model = seeded(Tied).double()
    model.head.weight = torch.nn.Parameter(model.head.weight.detach().clone())
    tokens = torch.randint(0, 40, (9, 7), generator=torch.Generator().manual_seed(0))
    found = compress.curves(model, tokens, ("svd",), metric, only=("mix", "head"))
    for name, ranks in (("mix", 12), ("head", 12)):
        layer, norm = model.get_submodule(name), found.norms[name]
        losses = dict(losses_by_rank(layer, norm))
        assert list(losses) == list(range(1, ranks + 1))
        for rank, loss in losses.items():
            small = layers.factorize(layer, "svd", rank, metric=norm.metric)
            made = norm.loss(layer.weight, norm.fitted(small, layer, (15, 25)).dense_weight())
            assert loss == pytest.approx(made, rel=1e-6, abs=1e-12)
        assert all(losses[row.rank] == row.loss for row in found.candidates[name][1:])


def test_a_zero_linear_layer_loses_nothing():
    model = seeded(Tied).double()
    torch.nn.init.zeros_(model.mix.weight)
    tokens = torch.randint(0, 40, (9, 7), generator=torch.Generator().manual_seed(0))
    for metric in ("input", "exact"):
        norm = compress.curves(model, tokens, ("svd",), metric, only=("mix",)).norms["mix"]
        assert {loss for _, loss in losses_by_rank(model.mix, norm)} == {0.0}


def test_mistakes():
    class Deaf(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(6, 6)

        def forward(self, x):
            return self.layer(x).argmax(1)

    with pytest.raises(ValueError, match="needs a model that returns a tensor"):
        compress.plan(seeded(Deaf), torch.randn(5, 6), Budget(params=0.9), metric="exact")
    plan = compress.plan(seeded(Residual), images(), Budget(params=0.9), metric="exact", formats=("svd",))
    with pytest.raises(ValueError, match="needs inputs"):
        replace(plan, norms=None).apply(seeded(Residual))
