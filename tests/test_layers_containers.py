"""Factorized layers inside what torch builds on layers: attention, pruning, parametrizations, hooks, compilers."""

import copy

import pytest
import torch
from layer_cases import CASES, FORMATS, Case, assert_same, dense, owners
from torch import nn
from torch.nn.utils import parametrize, prune

from tnlib import layers

LINEAR = FORMATS["Linear"]


class Tripled(nn.Module):
    def forward(self, x):
        return 3 * x

    def right_inverse(self, x):
        return x / 3


@pytest.mark.parametrize("case", CASES, ids=str)
def test_pruned_factors_keep_their_order(case):
    module, x = case.make(), case.input()
    want = copy.deepcopy(module)
    shapes = [factor.shape for factor in module.factors()]
    owner, name, parameter = next(owners(module))
    prune.l1_unstructured(owner, name, amount=0.25)
    mask = getattr(owner, f"{name}_mask")
    assert 0 < float(mask.mean()) < 1
    with torch.no_grad():
        next(owners(want))[2].mul_(mask)
        assert_same(module(x), want(x))
        assert_same(module.dense_weight(), want.dense_weight())
        prune.remove(owner, name)
        assert [factor.shape for factor in module.factors()] == shapes
        assert_same(module(x), want(x))
    assert_same(module(x), dense(case.layer(), module, x))
    assert len(list(module.parameters())) == len(list(want.parameters()))
    assert parameter.shape == mask.shape


@pytest.mark.parametrize("case", CASES, ids=str)
def test_parametrized_factors(case):
    module, x = case.make(), case.input()
    want = copy.deepcopy(module)
    with torch.no_grad():
        for owner, name, parameter in owners(module):
            parametrize.register_parametrization(owner, name, Tripled(), unsafe=False)
            assert torch.allclose(getattr(owner, name), parameter * 3)
        assert_same(module(x), want(x))
        for parameter in module.parameters():
            parameter.mul_(0.5)
        for parameter in want.parameters():
            parameter.mul_(0.5)
        assert_same(module(x), want(x))
        assert_same(module.dense_weight(), want.dense_weight())
    module(x).square().sum().backward()
    assert all(float(parameter.grad.abs().sum()) > 0 for parameter in module.parameters())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_hooks_are_called_with_and_without_gradients(case):
    module, x = case.make(), case.input()
    stages = [
        part for part in module.modules() if part is module or isinstance(part, (nn.Linear, nn.modules.conv._ConvNd))
    ]
    seen = []
    for stage in stages:
        stage.register_forward_hook(lambda stage, *_: seen.append(stage))
        stage.register_forward_pre_hook(lambda stage, *_: seen.append(stage))
    for context in (torch.no_grad, torch.enable_grad):
        seen.clear()
        with context():
            module(x)
        assert all(seen.count(stage) == 2 for stage in stages)
    with torch.no_grad():
        y = module(x)
        first = stages[min(1, len(stages) - 1)]
        first.register_forward_hook(lambda stage, args, output: 2 * output)
        constant = (
            0.0
            if first is module or getattr(module, "bias", None) is None
            else dense(case.layer(), module, torch.zeros_like(x))
        )
        assert_same(module(x), 2 * y - constant)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_factors_that_two_layers_share(case):
    first, second, x = case.make(), case.make(), case.input()
    for (owner, name, parameter), (_, _, shared) in zip(owners(second), owners(first), strict=True):
        assert parameter.shape == shared.shape
        setattr(owner, name, shared)
    both = nn.ModuleList([first, second])
    assert len(list(both.parameters())) < 2 * len(list(first.parameters())) or case.kind == "Embedding"
    copied = copy.deepcopy(both)
    for pair in (both, copied):
        optimizer = torch.optim.SGD(pair.parameters(), lr=0.01, fused=True)
        with torch.no_grad():
            pair[1](x)
        pair[0](x).square().sum().backward()
        optimizer.step()
        with torch.no_grad():
            assert torch.equal(pair[0].dense_weight(), pair[1].dense_weight())
            assert_same(pair[1](x), dense(case.layer(), pair[1], x))
    assert_same(copied[0](x), both[0](x))


def densified(model, names):
    """The model with the factorized layers of these names replaced by torch's own of the same weights."""
    model = copy.deepcopy(model)
    for name in names:
        small = model.get_submodule(name)
        layer = nn.Linear(small.in_features, small.out_features)
        with torch.no_grad():
            layer.weight.copy_(small.dense_weight())
            layer.bias.copy_(small.bias)
        model.set_submodule(name, layer)
    return model


def factorized(model, names, format):
    for name in names:
        layer = model.get_submodule(name)
        nn.init.normal_(layer.bias)
        model.set_submodule(name, layers.factorize(layer, format, 2))
    return model


@pytest.mark.parametrize("format", LINEAR)
@pytest.mark.parametrize("training", [True, False])
def test_attention(format, training):
    model = factorized(nn.MultiheadAttention(16, 2, batch_first=True), ["out_proj"], format).train(training)
    want, x = densified(model, ["out_proj"]), torch.randn(2, 5, 16)
    for context in (torch.enable_grad, torch.no_grad):
        with context():
            assert_same(model(x, x, x)[0], want(x, x, x)[0])
    model(x, x, x)[0].square().sum().backward()
    assert all(float(factor.grad.abs().sum()) > 0 for factor in model.out_proj.factors())


@pytest.mark.parametrize("format", LINEAR)
@pytest.mark.parametrize("training", [True, False])
def test_transformer_encoders(format, training):
    names = ["self_attn.out_proj", "linear1", "linear2"]
    layer = factorized(nn.TransformerEncoderLayer(16, 2, 24, dropout=0.0, batch_first=True), names, format)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).train(training)
    every = [f"layers.{i}.{name}" for i in range(2) for name in names]
    want, x = densified(model, every), torch.randn(2, 5, 16)
    for context in (torch.enable_grad, torch.no_grad):
        with context():
            assert_same(model(x), want(x))
    with torch.no_grad():
        for parameter in model.layers[0].linear1.parameters():
            parameter.data.mul_(1.5)
        assert_same(model(x), densified(model, every)(x))
    model(x).square().sum().backward()
    assert all(float(parameter.grad.abs().sum()) > 0 for parameter in model.layers[1].linear2.parameters())


EXPORTED = [case for case in CASES if case.kind in ("Linear", "Conv2d", "Embedding")]
COMPILED = [
    Case(*name.split("-")) for name in ("Linear-cp", "Linear-ttm", "Conv2d-tucker", "Conv2d-ttm", "Embedding-ttm")
]


@pytest.mark.parametrize("case", EXPORTED, ids=str)
@torch.no_grad()
def test_exports_with_any_batch(case):
    module = case.make().eval()
    batch = torch.export.Dim("batch", min=1, max=512)
    exported = torch.export.export(module, (case.input(3),), dynamic_shapes=({0: batch},)).module()
    for number in (1, 3, 64, 300):
        x = case.input(number)
        assert_same(exported(x), dense(case.layer(), module, x))


@pytest.mark.parametrize("case", [case for case in CASES if case not in EXPORTED], ids=str)
@torch.no_grad()
def test_exports(case):
    module, x = case.make().eval(), case.input()
    assert_same(torch.export.export(module, (x,)).module()(x), module(x))


@pytest.mark.parametrize("case", COMPILED, ids=str)
def test_compiles_as_one_graph(case):
    module = case.make()
    torch.compiler.reset()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager", dynamic=True)
    for number in (3, 7):
        x = case.input(number)
        assert_same(compiled(x), dense(case.layer(), module, x))
    compiled(x).square().sum().backward()
    got = [parameter.grad for parameter in module.parameters()]
    want = torch.autograd.grad(dense(case.layer(), module, x).square().sum(), list(module.parameters()))
    for one, other in zip(got, want, strict=True):
        assert_same(one, other, 1e-4)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.data.mul_(1.5)
        assert_same(compiled(x), dense(case.layer(), module, x))
