"""Which layers are replaced, why others are not, and what people give as inputs."""

import pytest
import torch
from compress_networks import Encoder, Residual, Tied, images, seeded
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.data import DataLoader, TensorDataset

from tnlib import compress, layers
from tnlib.compress import Budget
from tnlib.compress.inputs import Call, calls

TOKENS = torch.arange(18).reshape(2, 9)


def left(model, inputs=None, **how):
    return compress.curves(model, images() if inputs is None else inputs, **how).left


def test_tied_weights_stay_tied():
    model = seeded(Tied)
    reasons = left(model, TOKENS)
    assert set(reasons) == {"embed", "head"}
    assert "that of head" in reasons["embed"]
    assert "that of embed" in reasons["head"]
    small = compress.plan(model, TOKENS, Budget(params=0.9)).apply(model)
    assert small.head.weight is small.embed.weight
    assert isinstance(small.mix, layers.SVDLinear)


def test_attention_that_shares_a_parameter_is_not_split():
    model = seeded(Encoder)
    first, second = (layer.self_attn for layer in model.encoder.layers)
    second.in_proj_weight = first.in_proj_weight
    x = torch.randn(2, 5, 16)
    curves = compress.curves(model, x)
    assert curves.survey.cost["params"] == sum(p.numel() for p in model.parameters())
    assert not [name for name in curves.candidates if "q_proj" in name]
    small = compress.plan(model, x, Budget(params=0.8)).apply(model)
    one, other = (layer.self_attn for layer in small.encoder.layers)
    assert one.in_proj_weight is other.in_proj_weight


def test_layers_that_do_more_are_left_with_a_reason():
    model = seeded(Residual)
    model.stem.register_forward_hook(lambda *_: None)
    parametrizations.weight_norm(model.head)
    reasons = left(model)
    assert "hooks" in reasons["stem"]
    assert "parametrized" in reasons["head"]
    assert set(reasons) == {"stem", "head"}


def test_layers_that_are_not_called_or_have_no_format():
    model = nn.ModuleDict({"used": nn.Linear(8, 8), "spare": nn.Linear(8, 8), "cell": nn.GRUCell(8, 8)})
    model.forward = lambda x: model["cell"](model["used"](x))
    reasons = left(model, torch.randn(2, 8))
    assert reasons["spare"] == "it is not called with these inputs"
    assert "cannot factorize GRUCell" in reasons["cell"]


def test_what_is_factorized_already_is_not_looked_into():
    model = seeded(Residual)
    model.twice = layers.factorize(model.twice, "svd", 3)
    curves = compress.curves(model, images())
    assert not [name for name in (*curves.candidates, *curves.left) if name.startswith("twice")]


def test_skip_and_only_take_modules_with_what_they_contain():
    model = seeded(Encoder)
    x = torch.randn(2, 5, 16)
    curves = compress.curves(model, x, skip=["encoder.layers.0"], only=["encoder"])
    assert {name.split(".")[2] for name in curves.candidates} == {"1"}
    assert curves.left["out"] == "it is not in `only`"
    assert curves.left["encoder.layers.0.self_attn.q_proj"] == "it is in `skip`"
    for how in ({"skip": ["nowhere"]}, {"only": ["nowhere"]}):
        with pytest.raises(ValueError, match="the model has no module 'nowhere'"):
            compress.curves(model, x, **how)


def test_embeddings_that_factors_cannot_be():
    table = nn.Embedding(20, 6, padding_idx=0)
    with torch.no_grad():
        table.weight[0] = 1.0
    model = nn.ModuleDict({"a": table, "b": nn.Embedding(20, 6, max_norm=1.0), "c": nn.Embedding(20, 6)})
    model.forward = lambda x: model["a"](x) + model["b"](x) + model["c"](x)
    reasons = left(model, TOKENS)
    assert "padding_idx" in reasons["a"]
    assert "max_norm" in reasons["b"]
    assert set(reasons) == {"a", "b"}


def test_nothing_to_compress_is_said():
    with pytest.raises(ValueError, match="nothing to compress: the model has no linear"):
        compress.curves(nn.ReLU(), torch.randn(2, 3))
    with pytest.raises(ValueError, match="nothing to compress: 0: it is in `skip`"):
        compress.curves(nn.Sequential(nn.Linear(3, 3)), torch.randn(2, 3), skip=["0"])


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"formats": ("svd", "spatial")}, "unknown format 'spatial'; expected some of cp, cp3,"),
        ({"metric": "weights"}, "unknown metric 'weights'; expected one of weight, input, kfac, exact"),
    ],
)
def test_unknown_names_are_refused(how, message):
    with pytest.raises(ValueError, match=message):
        compress.curves(seeded(Residual), images(), **how)


def test_all_ways_to_give_the_same_inputs():
    model, x = seeded(Residual), images(6)
    labels = torch.arange(6)
    loader = DataLoader(TensorDataset(x, labels), batch_size=2)
    ways = [x, loader, list(x.split(2)), (part for part in x.split(3)), {"x": x, "labels": labels}, [(x, labels)]]
    found = [compress.curves(model, way, ("svd",), "input", example=x[:1]) for way in ways]
    for curves in found[1:]:
        for name, row in curves.candidates.items():
            assert [c.loss for c in row] == pytest.approx(
                [c.loss for c in found[0].candidates[name]], rel=1e-4, abs=1e-9
            )


def test_a_model_of_two_inputs_takes_both():
    model = nn.Bilinear(3, 4, 5)
    a, b = torch.randn(2, 3), torch.randn(2, 4)
    (call,) = calls(model, [(a, b, "label")])
    assert torch.equal(call.run(model), model(a, b))
    assert call.describe() == "(2, 3), (2, 4)"
    (call,) = calls(seeded(Tied), [[TOKENS, 2.0]])  # the second has a default: it is taken for a label
    assert len(call.args) == 1


def test_the_example_is_one_sample_of_a_tensor_and_a_batch_of_a_loader():
    model, x = seeded(Residual), images(6)
    assert compress.curves(model, x, ("svd",)).survey.inputs == "(1, 3, 9, 9)"
    assert compress.curves(model, x.split(2), ("svd",)).survey.inputs == "(2, 3, 9, 9)"


@pytest.mark.parametrize("bad", [5, "images", None, [5]])
def test_inputs_of_another_kind(bad):
    with pytest.raises(TypeError, match=r"inputs must be|a batch must be"):
        compress.curves(seeded(Residual), bad)


@pytest.mark.parametrize("empty", [images(0), [], iter(())])
def test_empty_inputs(empty):
    with pytest.raises(ValueError, match="inputs are empty"):
        compress.curves(seeded(Residual), empty)


def test_arguments_that_a_model_does_not_know_are_dropped():
    model = seeded(Tied)
    call = Call.of(model, {"tokens": TOKENS, "label": 1, "attention_mask": 2, "scale": 3.0})
    assert set(call.kwargs) == {"tokens", "scale"}
    assert torch.equal(call.run(model), model(TOKENS, 3.0))
