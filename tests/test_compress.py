"""From a network to a smaller one: predicted costs are the measured ones, predicted losses those of the layers."""

import copy
import math

import pytest
import torch
from compress_networks import Encoder, Residual, Tied, images, seeded
from torch import nn

from tnlib import compress, layers, measure
from tnlib.compress import Budget

CONV = ("svd", "spatial_svd", "cp", "cp3", "tucker2", "tucker", "tt", "ttm")
TOKENS = torch.randint(0, 40, (3, 9), generator=torch.Generator().manual_seed(0))
SEQUENCES = torch.randn(4, 7, 16, generator=torch.Generator().manual_seed(1))
NETWORKS = {
    "residual": (Residual, images(), images(1)),
    "tied": (Tied, {"tokens": TOKENS}, TOKENS),
    "encoder": (Encoder, {"x": SEQUENCES, "mask": torch.zeros(4, 7, dtype=torch.bool)}, SEQUENCES),
}


def error(layer, small):
    """The relative squared error of a layer's weight."""
    weight = layer.weight.detach()
    return float((small.dense_weight().detach() - weight).square().sum() / weight.square().sum())


@pytest.mark.parametrize("formats", [(format,) for format in CONV] + [("svd", "tucker2", "tt")], ids=str)
def test_predicted_costs_are_the_measured_ones(formats):
    model = seeded(Residual)
    curves = compress.curves(model, images(), formats)
    for share in (0.95, 0.7):
        try:
            plan = compress.Plan.of(curves, Budget(params=share))
        except ValueError:
            continue
        cost = measure.cost(plan.apply(model), images(1))
        assert plan.cost == {"params": cost.params, "macs": cost.macs, "bytes": cost.bytes}
        assert cost.params <= share * plan.original["params"]
    assert any(len(row) > 1 for row in curves.candidates.values())


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("metric", ["weight", "input"])
def test_every_network_goes_through(name, metric):
    make, inputs, _ = NETWORKS[name]
    model = seeded(make)
    before = copy.deepcopy(model.state_dict())
    plan = compress.plan(model, inputs, Budget(params=0.8), metric=metric)
    small = plan.apply(model)
    example = inputs[:1] if isinstance(inputs, torch.Tensor) else inputs
    cost = measure.cost(small, example)
    assert plan.cost == {"params": cost.params, "macs": cost.macs, "bytes": cost.bytes}
    assert any(isinstance(module, layers.Factorized) for module in small.modules())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not any(isinstance(module, layers.Factorized) for module in model.modules())
    assert type(small) is type(model)


def test_all_ranks_of_all_formats_cost_what_is_predicted():
    model = seeded(Residual)
    curves = compress.curves(model, images(2), CONV, example=images(3))
    assert curves.survey.inputs == "(3, 3, 9, 9)"
    for name, row in curves.candidates.items():
        for chosen in row[1 :: max(1, len(row) // 3)]:
            small = copy.deepcopy(model)
            small.set_submodule(name, layers.factorize(model.get_submodule(name), chosen.format, chosen.rank))
            cost = measure.cost(small, images(3))
            dense = row[0]
            for kind in ("params", "macs", "bytes"):
                whole = curves.survey.cost[kind]
                assert getattr(cost, kind) == whole - dense.cost(kind) + chosen.cost(kind), (name, chosen)


@pytest.mark.parametrize("format", CONV)
def test_predicted_losses_are_those_of_the_weights(format):
    model = seeded(Residual)
    curves = compress.curves(model, images(), (format,))
    how = {"tucker2": {"method": "hosvd"}, "tucker": {"method": "hosvd"}}.get(format, {})
    how |= {"max_iter": 20, "tol": 1e-4} if format in ("cp", "cp3") else {}
    for name, row in curves.candidates.items():
        layer = model.get_submodule(name)
        computed = [chosen for chosen in row[1:] if not chosen.interpolated]
        assert len(row) == 1 or computed
        for chosen in computed[:: max(1, len(computed) // 5)]:
            assert chosen.loss == pytest.approx(
                error(layer, layers.factorize(layer, format, chosen.rank, **how)), abs=1e-5
            )
        losses = [chosen.loss for chosen in row]
        assert losses == sorted(losses)


def test_what_is_made_is_no_worse_than_predicted():
    model = seeded(Residual)
    for format in ("tucker2", "cp3", "cp", "tucker"):
        plan = compress.plan(model, images(), Budget(params=0.7), formats=(format,))
        small = plan.apply(model)
        for name, chosen in plan.chosen.items():
            if chosen.format is not None:
                assert error(model.get_submodule(name), small.get_submodule(name)) <= chosen.loss + 1e-6


def test_losses_of_the_metric_input_are_errors_of_the_output():
    model, x = seeded(Residual).double(), images(5).double()
    seen = {}
    for name in ("stem", "twice", "depthwise", "grouped", "dilated", "head"):
        module = model.get_submodule(name)
        module.register_forward_hook(lambda m, args, y, name=name: seen.setdefault(name, []).append(args[0]))
    with torch.no_grad():
        model(x)
    for module in model.modules():
        module._forward_hooks.clear()
    curves = compress.curves(model, x.split(2), metric="input")  # batches of other sizes: the same moments
    for name, row in curves.candidates.items():
        layer, norm = model.get_submodule(name), curves.norms[name]
        bias = 0 if layer.bias is None else layer.bias.reshape(-1, *[1] * (layer.weight.ndim - 2))
        computed = [chosen for chosen in row[1:] if not chosen.interpolated]
        for chosen in computed[:: max(1, len(computed) // 4)]:
            options = {"method": "hosvd"} if chosen.format == "tucker2" else {}
            if norm.metric is not None:
                options["metric"] = norm.metric
            small = layers.factorize(layer, chosen.format, chosen.rank, **options)
            with torch.no_grad():
                pairs = [(layer(part), small(part)) for part in seen[name]]
            off = sum((a - b).square().sum() for a, b in pairs)
            whole = sum((a - bias).square().sum() for a, _ in pairs).detach()
            assert chosen.loss == pytest.approx(float(off / whole), rel=1e-6, abs=1e-12), (name, chosen)


def test_factoring_in_the_norm_of_the_inputs_loses_less_of_the_output():
    model, x = seeded(Residual), images(20)
    x[:, 0] *= 5  # inputs that are far from white
    curves = {metric: compress.curves(model, x, ("svd",), metric) for metric in ("weight", "input")}
    norm = curves["input"].norms["stem"]
    for chosen in curves["input"].candidates["stem"][1:]:
        plain = layers.factorize(model.stem, "svd", chosen.rank)
        assert chosen.loss <= norm.loss(model.stem.weight, plain.dense_weight()) * (1 + 1e-3)


def test_a_linear_layers_closed_form_in_the_norm_of_its_inputs():
    model = nn.Sequential(nn.Linear(9, 7, bias=False)).double()
    x = torch.randn(50, 9, dtype=torch.float64) * torch.linspace(0.1, 2, 9, dtype=torch.float64)
    curves = compress.curves(model, x, ("svd",), "input")
    s = torch.linalg.svdvals(x @ model[0].weight.detach().mT).square()
    for chosen in curves.candidates["0"][1:]:
        assert chosen.loss == pytest.approx(float(s[chosen.rank :].sum() / s.sum()), rel=2e-3)


def test_embeddings_lose_by_how_often_rows_are_looked_up():
    model = nn.Sequential(nn.Embedding(20, 6), nn.Flatten())
    tokens = torch.randint(0, 5, (30, 2))
    curves = compress.curves(model, tokens, ("svd",), "input")
    for chosen in curves.candidates["0"][1:]:
        small = layers.factorize(model[0], "svd", chosen.rank)
        off, whole = (
            (small(tokens) - model[0](tokens)).detach().square().sum(),
            model[0](tokens).detach().square().sum(),
        )
        assert chosen.loss == pytest.approx(float(off / whole), rel=1e-4)


def test_a_layer_in_two_places_stays_one():
    shared = nn.Linear(12, 12)
    model = seeded(lambda: nn.Sequential(nn.Linear(12, 12), nn.ReLU(), shared, nn.ReLU(), shared))
    plan = compress.plan(model, torch.randn(4, 12), Budget(params=0.8))
    small = plan.apply(model)
    assert small[2] is small[4]
    assert plan.cost["macs"] == measure.cost(small, (1, 12)).macs
    curves = compress.curves(model, torch.randn(4, 12))
    assert [c.macs for c in curves.candidates["2"]] == [2 * 144, *(2 * 24 * c.rank for c in curves.candidates["2"][1:])]


def test_the_root_itself_may_be_replaced():
    layer = nn.Linear(30, 20)
    small = compress.plan(layer, torch.randn(2, 30), Budget(macs=0.5)).apply(layer)
    assert isinstance(small, layers.SVDLinear)
    assert small.rank == 6


@pytest.mark.parametrize("conv", [nn.Conv2d(4, 20, 1), nn.Conv2d(20, 4, 1), nn.Conv2d(1, 20, 3)], ids=str)
@pytest.mark.parametrize("format", ["tucker2", "tucker"])
def test_kernels_of_which_one_mode_is_larger_than_the_others_together(conv, format):
    x = images(2)[:, :1].expand(-1, conv.in_channels, -1, -1)
    curves = compress.curves(nn.Sequential(conv), x, (format,))
    row = curves.candidates["0"]
    assert len(row) > 1
    for chosen in row[1:]:
        small = layers.factorize(conv, format, chosen.rank, method="hosvd")
        assert small.rank == chosen.rank
        assert chosen.loss == pytest.approx(error(conv, small), abs=1e-5)


def test_embeddings_in_cores_cost_what_is_predicted():
    model, tokens = nn.Sequential(nn.Embedding(400, 48)), torch.arange(12).reshape(2, 6)
    plan = compress.plan(model, [tokens], Budget(params=0.3), formats=("ttm",))
    cost = measure.cost(plan.apply(model), tokens)
    assert plan.cost == {"params": cost.params, "macs": cost.macs, "bytes": cost.bytes}


def test_a_zero_weight_and_one_that_nothing_is_won_with():
    model = nn.Sequential(nn.Linear(12, 12), nn.Linear(12, 1), nn.Linear(1, 12))
    nn.init.zeros_(model[0].weight)
    curves = compress.curves(model, torch.randn(3, 12))
    assert [len(row) for row in curves.candidates.values()] == [1 + 1, 1, 1]  # rank 1 is exact and the cheapest
    assert curves.candidates["0"][1].loss == 0


def test_what_a_plan_says(tmp_path):
    model = seeded(Residual)
    plan = compress.plan(model, images(), Budget(macs=0.6), skip=["head"])
    table = plan.table()
    assert list(table.index) == list(plan.chosen)
    assert table["macs"].sum() + 10 * 7 == plan.cost["macs"]
    assert list(table["rank"]) == ["" if c.rank is None else c.rank for c in plan.chosen.values()]
    assert table["loss"].sum() == pytest.approx(plan.loss)
    assert plan.left == {"head": "it is in `skip`"}
    assert "layers replaced" in str(plan)
    plan.save(tmp_path / "plan.json")
    loaded = compress.Plan.load(tmp_path / "plan.json")
    assert loaded == plan
    assert loaded.table().equals(table)
    one, other = plan.apply(model), loaded.apply(model)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_a_loaded_plan_makes_layers_for_a_state(tmp_path):
    model, other = seeded(Encoder), seeded(Encoder, 1)
    plan = compress.plan(model, SEQUENCES, Budget(params=0.6), metric="input")
    small = plan.apply(model)
    plan.save(tmp_path / "plan.json")
    loaded = compress.Plan.load(tmp_path / "plan.json")
    with pytest.raises(ValueError, match="its metric 'input' needs inputs"):
        loaded.apply(model)
    again = loaded.apply(model, SEQUENCES)
    assert torch.allclose(again(SEQUENCES), small(SEQUENCES), atol=1e-5)
    empty = loaded.apply(other, weights="empty").eval()
    empty.load_state_dict(small.state_dict())
    with torch.no_grad():
        assert torch.equal(empty(SEQUENCES), small(SEQUENCES))
    with pytest.raises(ValueError, match="this plan is not for this model"):
        loaded.apply(seeded(Residual), SEQUENCES)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 0}', '{"version": 1, "chosen": 3}', "no json"])
def test_a_file_that_is_no_plan(text, tmp_path):
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"plan\.json is no plan"):
        compress.Plan.load(path)


def test_curves_are_kept_and_found_again(tmp_path, monkeypatch):
    model, told = seeded(Residual), []
    first = compress.curves(
        model, images(), ("svd", "cp3"), "input", cache=tmp_path, progress=lambda *a: told.append(a)
    )
    files = sorted(tmp_path.iterdir())
    assert len(files) == len(told) == told[-1][0] == told[-1][1]
    monkeypatch.setattr(layers.SVDConv, "errors", None)  # whoever decomposes again fails
    monkeypatch.setattr(layers.CP3Conv, "_factor", None)
    again = compress.curves(model, images(), ("svd", "cp3"), "input", cache=tmp_path)
    assert again.candidates == first.candidates
    monkeypatch.undo()
    with torch.no_grad():
        model.stem.weight[0, 0, 0, 0] += 1.0
    compress.curves(model, images(), ("svd", "cp3"), "weight", cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2 * len(files)


def test_repair_averages_what_the_layers_see():
    model, x = seeded(Residual), images(40)
    small = compress.plan(model, x, Budget(macs=0.5)).apply(model)
    before = copy.deepcopy(small.state_dict())
    repaired = compress.repair(small, model, x.split(10), fit=False)
    with torch.no_grad():
        y = small.stem(x)
    assert torch.allclose(repaired.norm.running_mean, y.mean((0, 2, 3)), atol=1e-5)
    variances = torch.stack([part.transpose(0, 1).flatten(1).var(1) for part in y.split(10)])
    assert torch.allclose(repaired.norm.running_var, variances.mean(0), atol=1e-4)
    assert all(torch.equal(before[key], value) for key, value in small.state_dict().items())
    weights = dict(small.named_parameters())
    assert all(torch.equal(weights[name], p) for name, p in repaired.named_parameters())
    assert not repaired.training
    assert repaired.norm.momentum == small.norm.momentum == 0.1


def test_seeds_decide_what_is_random():
    model = seeded(Residual)
    plans = [compress.plan(model, images(), Budget(params=0.6), formats=("cp3",), seed=seed) for seed in (0, 0, 1)]
    assert plans[0] == plans[1] != plans[2]
    assert [plan.seed for plan in plans] == [0, 0, 1]
    weights = [torch.cat([p.flatten() for p in plan.apply(model).parameters()]) for plan in plans[:2]]
    assert torch.equal(*weights)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_of_weights(dtype):
    model = seeded(Residual).to(dtype)
    plan = compress.plan(model, images().to(dtype), Budget(bytes=0.6))
    small = plan.apply(model)
    assert {p.dtype for p in small.parameters()} == {dtype}
    assert plan.cost["bytes"] == measure.cost(small, images(1).to(dtype)).bytes
    assert math.isfinite(plan.loss)
