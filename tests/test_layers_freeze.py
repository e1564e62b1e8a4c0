"""Frozen models against the models that they were made from, for the planned shapes and for all others."""

import copy
import io

import pytest
import torch
from layer_cases import CASES, CONVS, FLOATS, Case, assert_same, dense, difference
from torch import nn

from tnlib import layers
from tnlib.layers import freeze


class Net(nn.Module):
    """Two convolutions, BatchNorm, one layer that is used twice, one that is not, and a nested head."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.twice = layers.factorize(nn.Conv2d(8, 8, 3, padding=1), "cp3", 3)
        self.again = self.twice
        self.unused = layers.factorize(nn.Linear(16, 8), "tt", 2)
        head = {"first": layers.factorize(nn.Linear(8, 24), "ttm", 2), "last": nn.Linear(24, 5)}
        self.head = nn.ModuleDict({"inner": nn.Sequential(head["first"], nn.Dropout(0.5), head["last"])})

    def forward(self, x):
        y = self.twice(torch.relu(self.norm(self.conv(x))))
        y = self.again(y[..., ::2, ::2])
        return self.head["inner"](y.mean((-2, -1)))


def images(batch=2, size=8, seed=1):
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


def trained():
    """A `Net` in training mode that has seen a batch."""
    net = Net().train()
    net(images(8)).square().sum().backward()
    return net


def multiply(module, by=1.5):
    for parameter in module.parameters():
        parameter.data.mul_(by)


@pytest.mark.parametrize("example", [1, 5, 64])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_outputs_are_the_layers_for_any_batch(case, example):
    module = case.make()
    frozen = freeze(module, case.input(example))
    assert frozen is not module
    assert not frozen.training
    for number in (example, 0, 1, 7, 65):
        x = case.input(number)
        with torch.no_grad():
            assert_same(frozen(x), module(x))
            assert torch.equal(frozen(x), frozen(x))
    y = frozen(case.input(2))
    assert not y.requires_grad
    if case.kind == "Linear":
        assert_same(frozen(case.input(6).reshape(2, 3, -1)), module(case.input(6).reshape(2, 3, -1)))
    assert_same(frozen(case.input(2)[0]), module(case.input(2)[0]))


@pytest.mark.parametrize("case", CONVS, ids=str)
@torch.no_grad()
def test_outputs_are_the_layers_for_any_image(case):
    module, x = case.make(), case.input()
    frozen = freeze(module, x)
    for size in (4, 5, 9, 16):
        image = torch.randn(2, x.shape[1], *[size] * (x.ndim - 2), generator=torch.Generator().manual_seed(size))
        assert_same(frozen(image), module(image))


@pytest.mark.parametrize("options", [{"padding": "same"}, {"padding": 1, "padding_mode": "circular"}, {"dilation": 2}])
@pytest.mark.parametrize("format", sorted(layers.FORMATS[nn.Conv2d]))
@torch.no_grad()
def test_padding_and_dilation(format, options):
    layer = nn.Conv2d(6, 5, 3, **options, bias=False)
    module = layers.factorize(layer, format, 2, weights="fresh")
    x = torch.randn(2, 6, 8, 9, generator=torch.Generator().manual_seed(0))
    assert_same(freeze(module, x)(x), dense(layer, module, x))


def test_nested_models_and_layers_used_twice():
    net = trained()
    before = copy.deepcopy(net.state_dict())
    frozen = freeze(net, images())
    assert net.training
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert list(net.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not any(part.training for part in frozen.modules())
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    assert frozen.twice is frozen.again
    with torch.no_grad():
        for batch, size in ((2, 8), (1, 8), (7, 8), (2, 11), (0, 8)):
            assert_same(frozen(images(batch, size)), copy.deepcopy(net).eval()(images(batch, size)))
        x = torch.randn(2, 16)
        assert_same(frozen.unused(x), net.unused(x))


def test_arguments_and_layers_inputs_by_name():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = layers.factorize(nn.Conv2d(6, 8, 3, padding=1), "tucker2", (3, 4))
            self.linear = layers.factorize(nn.Linear(8, 12), "ttm", 3)

        def forward(self, image, scale=1.0):
            return self.linear(input=self.conv(input=image).mean((2, 3))) * scale

    torch.manual_seed(0)
    model, image = Named().eval(), torch.randn(2, 6, 9, 9)
    twice = {"image": image, "scale": torch.tensor(2.0)}
    for example in (image, (image, torch.tensor(2.0)), twice):
        frozen = layers.freeze(model, example)
        torch.testing.assert_close(frozen(**twice), model(**twice))
        assert frozen.conv(image).shape == (2, 8, 9, 9)


def test_what_happens_to_the_model_afterwards_does_not_matter():
    net = trained()
    frozen, x = freeze(net, images()), images()
    want = frozen(x)
    net(images(8, seed=3))  # BatchNorm counts
    multiply(net)
    net.head["inner"][0] = nn.Identity()
    assert torch.equal(frozen(x), want)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_weights_changed_afterwards_stay_out(case):
    module, x = case.make(), case.input()
    frozen = freeze(module, x)
    want = frozen(x)
    multiply(module)
    assert torch.equal(frozen(x), want)
    assert difference(module(x), want) > 0.1


def test_models_without_factorized_layers():
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.ReLU()).train()
    frozen, x = freeze(model, torch.randn(3, 6)), torch.randn(5, 6)
    assert list(frozen.state_dict()) == list(model.state_dict())
    assert model.training
    assert torch.equal(frozen(x), model.eval()(x))
    assert not frozen(x).requires_grad


@pytest.mark.parametrize("case", FLOATS, ids=str)
def test_gradients_are_refused_with_a_sentence(case):
    frozen, x = freeze(case.make(), case.input()), case.input().requires_grad_()
    with pytest.raises(RuntimeError, match=r"frozen.*gradient|gradient.*frozen"):
        frozen(x)
    with torch.no_grad():
        assert_same(frozen(x), case.make()(x))


@pytest.mark.parametrize("name", ["network", *map(str, CASES)])
def test_training_is_refused_with_a_sentence(name):
    case = None if name == "network" else Case(*name.split("-"))
    frozen = freeze(trained(), images()) if case is None else freeze(case.make(), case.input())
    for call in (frozen.train, nn.Sequential(frozen, nn.Linear(2, 2)).train):
        with pytest.raises(RuntimeError, match=r"frozen"):
            call()
        frozen.eval()
        assert not any(part.training for part in frozen.modules())
    assert frozen.eval() is frozen
    assert frozen.train(False) is frozen


def test_gradients_of_a_network_are_refused():
    frozen = freeze(trained(), images())
    with pytest.raises(RuntimeError, match="frozen"):
        frozen(images().requires_grad_())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_saved_as_plain_tensors_and_copied(case):
    module, other, x = case.make(), case.make(), case.input()
    multiply(other)
    frozen, target = freeze(module, x), freeze(other, x)
    keys = list(frozen.state_dict())
    frozen(case.input(9))
    assert list(frozen.state_dict()) == keys
    assert difference(target(x), frozen(x)) > 0.1
    buffer = io.BytesIO()
    torch.save(frozen.state_dict(), buffer)
    buffer.seek(0)
    target.load_state_dict(torch.load(buffer, weights_only=True))
    copied = copy.deepcopy(frozen)
    for number in (3, 9):
        assert torch.equal(target(case.input(number)), frozen(case.input(number)))
        assert torch.equal(copied(case.input(number)), frozen(case.input(number)))


@pytest.mark.parametrize("case", CASES, ids=str)
@torch.no_grad()
def test_other_types(case):
    layer, module, x = case.layer(), case.make(), case.input()
    want = module(x)
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        inputs = x if case.kind == "Embedding" else x.to(dtype)
        for frozen in (freeze(case.make().to(dtype), inputs), freeze(module, x).to(dtype)):
            assert frozen(inputs).dtype == dtype
            assert difference(frozen(inputs), want) < 0.05
    frozen = freeze(module, x)
    with torch.autocast("cpu", torch.bfloat16):
        y = frozen(x)
        assert y.dtype == layer(x).dtype
        assert difference(y, want) < 0.05
    assert_same(frozen(x), want)
    with torch.autocast("cpu", torch.bfloat16):
        frozen = freeze(module, x)
    assert_same(frozen(x), want)


@pytest.mark.parametrize("case", CASES, ids=str)
@torch.no_grad()
def test_strides_are_the_replaced_layers(case):
    layer, module, x = case.layer(), case.make(), case.input()
    inputs = [x, x.transpose(0, -1).contiguous().transpose(0, -1), torch.stack([x, x], 1)[:, 1]]
    if x.ndim == 4:
        inputs.append(x.contiguous(memory_format=torch.channels_last))
    for example in inputs:
        frozen = freeze(module, example)
        for x in inputs:
            before = x.clone()
            assert frozen(x).stride() == layer(x).stride()
            assert_same(frozen(x), module(x))
            assert torch.equal(x, before)


def test_transformers_read_the_weights_of_frozen_layers():
    layer = nn.TransformerEncoderLayer(16, 2, 24, dropout=0.0, batch_first=True)
    layer.linear1 = layers.factorize(layer.linear1, "tt", 2)
    layer.self_attn.out_proj = layers.factorize(layer.self_attn.out_proj, "svd", 2)
    x = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    frozen = freeze(layer, x)
    with torch.no_grad():
        want = layer.eval()(x)
        assert_same(frozen(x), want)
    assert_same(frozen(x), want)


EXPORTED = [case for case in CASES if case.kind in ("Linear", "Conv2d", "Embedding")]
COMPILED = [Case("Linear", "ttm"), Case("Conv2d", "cp"), Case("Embedding", "ttm")]


@pytest.mark.parametrize("case", EXPORTED, ids=str)
@torch.no_grad()
def test_exports_with_any_batch(case):
    module = case.make()
    batch = torch.export.Dim("batch", min=1, max=512)
    exported = torch.export.export(freeze(module, case.input()), (case.input(),), dynamic_shapes=({0: batch},)).module()
    for number in (1, 3, 70):
        assert_same(exported(case.input(number)), module(case.input(number)))


@pytest.mark.parametrize("case", COMPILED, ids=str)
def test_compiles_as_one_graph(case):
    module = case.make()
    torch.compiler.reset()
    compiled = torch.compile(freeze(module, case.input()), fullgraph=True, backend="aot_eager", dynamic=True)
    with torch.no_grad():
        for number in (3, 7):
            assert_same(compiled(case.input(number)), module(case.input(number)))


@pytest.mark.parametrize("case", CASES, ids=str)
@torch.no_grad()
def test_bad_inputs_are_refused_as_by_the_layer(case):
    layer, frozen = case.layer(), freeze(case.make(), case.input())
    bad = torch.tensor([0, 30]) if case.kind == "Embedding" else case.input()[:, :-1]
    error = IndexError if case.kind == "Embedding" else RuntimeError
    with pytest.raises(error):
        layer(bad)
    with pytest.raises((error, ValueError)):
        frozen(bad)


def test_a_graph_answers_as_the_model():
    net, x = Net().eval(), images(3)
    found = layers.graph(freeze(net, x), x)
    assert isinstance(found, torch.jit.ScriptModule)
    with torch.no_grad():
        assert_same(found(x), net(x))
    added = layers.graph(Sum().eval(), [x, x])
    assert torch.equal(added(x, x), 2 * x)


def test_a_graph_is_of_a_model_in_use():
    net = Net()
    with pytest.raises(ValueError, match=r"call layers\.freeze first"):
        layers.graph(net, images())
    assert net.training


class Sum(nn.Module):
    def forward(self, x, y):
        return x + y


@pytest.mark.parametrize("groups", [1, 2])
def test_portable_chains_are_padded_with_zeros(groups):
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 10, 3, padding=1, stride=2, groups=groups)
    small, x = layers.factorize(conv, "cp3", 3), torch.randn(2, 6, 7, 8, generator=torch.Generator().manual_seed(1))
    frozen = layers.freeze(small, x, portable=True, lanes=8)
    assert len(frozen.kernel_0) == len(frozen.kernel_1) == (8 if groups == 1 else 6)
    torch.testing.assert_close(frozen(x), small(x).detach())
    torch.testing.assert_close(frozen.dense_weight(), small.dense_weight().detach())
    torch.testing.assert_close(frozen.bias, conv.bias.detach())
    with pytest.raises(ValueError, match="lanes must be at least 1, got 0"):
        layers.freeze(small, x, portable=True, lanes=0)
