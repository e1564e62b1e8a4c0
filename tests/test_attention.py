"""Split attention against `nn.MultiheadAttention` with the same weights, and inside what torch builds on it."""

import copy
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_cases import assert_same, difference
from torch import nn
from torch.nn.utils import parametrize, prune

from tnlib import layers, measure
from tnlib.layers.attention import SplitAttention, split_attention

OPTIONS = {
    "plain": {},
    "no bias": {"bias": False},
    "kdim and vdim": {"kdim": 7, "vdim": 5},
    "vdim": {"vdim": 5},
    "kdim, no bias": {"kdim": 7, "bias": False},
    "bias_kv": {"add_bias_kv": True},
    "zero": {"add_zero_attn": True},
    "all": {"add_bias_kv": True, "add_zero_attn": True, "kdim": 5, "vdim": 7},
}
LENGTHS = (1, 5, 7)
PROJECTIONS = ("q_proj", "k_proj", "v_proj")
ENCODER = {"d_model": 12, "nhead": 4, "dim_feedforward": 20, "dropout": 0.0, "batch_first": True}


def randomized(module, seed=0):
    """The module in float64, its parameters drawn normal, so small that no softmax saturates."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.double().parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return module


def attention(**options):
    return randomized(nn.MultiheadAttention(12, 3, **options))


def normal(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mask(kind, *shape, seed=2):
    """True for a third of the keys, never for the first; of kind "float" normal numbers; of None no mask."""
    if kind == "float":
        return normal(*shape, seed=seed)
    hidden = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.35
    hidden[..., 0] = False
    return hidden if kind == "bool" else None


def causal(length):
    return torch.ones(length, length, dtype=torch.bool).triu(1)


def inputs(module, queries=5, keys=7, dims=3, batch=2):
    """Query, key and value for a module, laid out as it asks."""
    sizes = ((queries, module.embed_dim), (keys, module.kdim), (keys, module.vdim))
    leading = [(length,) if dims == 2 else (batch, length) for length, _ in sizes]
    if dims == 3 and not module.batch_first:
        leading = [shape[::-1] for shape in leading]
    return [normal(*shape, size, seed=k) for k, (shape, (_, size)) in enumerate(zip(leading, sizes, strict=True))]


def packed(split):
    """The gradients of a split attention's parameters, by the names that torch's own attention gives them."""
    weights = {name: getattr(split, name).weight.grad for name in PROJECTIONS}
    if split.kdim == split.vdim == split.embed_dim:
        weights = {"in_proj_weight": torch.cat(list(weights.values()))}
    else:
        weights = {f"{name}_weight": gradient for name, gradient in weights.items()}
    if split.q_proj.bias is not None:
        weights["in_proj_bias"] = torch.cat([getattr(split, name).bias.grad for name in PROJECTIONS])
    own = {name: value.grad for name, value in split.named_parameters() if name.startswith(("out_proj", "bias"))}
    return {**weights, **own}


def backward(module, arguments, **options):
    """What a call returns, and the gradients of what was given; those of the parameters stay in the module."""
    given = [x.clone().requires_grad_(x.is_floating_point()) for x in arguments]
    attn_mask = options.pop("attn_mask", None)
    if attn_mask is not None:
        attn_mask = attn_mask.clone().requires_grad_(attn_mask.is_floating_point())
    output, weights = module(*given, attn_mask=attn_mask, **options)
    loss = (output * normal(*output.shape, seed=8)).sum()
    if weights is not None:
        loss = loss + (weights * normal(*weights.shape, seed=9)).sum()
    loss.backward()
    gradients = [x.grad for x in [*given, attn_mask] if x is not None and x.requires_grad]
    return output, weights, gradients


@settings(max_examples=120)
@given(
    options=st.sampled_from(list(OPTIONS)),
    batch_first=st.booleans(),
    training=st.booleans(),
    dims=st.sampled_from((2, 3)),
    queries=st.sampled_from(LENGTHS),
    keys=st.sampled_from(LENGTHS),
    padding=st.sampled_from((None, "bool", "float")),
    masked=st.sampled_from((None, "bool", "float")),
    by_head=st.booleans(),
    need_weights=st.booleans(),
    average=st.booleans(),
)
def test_is_torch_s_attention(
    options, batch_first, training, dims, queries, keys, padding, masked, by_head, need_weights, average
):
    module = attention(batch_first=batch_first, **OPTIONS[options]).train(training)
    split = SplitAttention.from_module(module)
    if padding and masked:
        padding = masked  # torch warns of two kinds
    batch = 2 if dims == 3 else 1
    call = {
        "key_padding_mask": mask(padding, *(batch, keys)[3 - dims :], seed=3),
        "attn_mask": mask(masked, *((3 * batch, queries, keys) if by_head else (queries, keys))),
        "need_weights": need_weights,
        "average_attn_weights": average,
    }
    arguments = inputs(module, queries, keys, dims)
    (want, want_weights, want_gradients), (got, weights, gradients) = (
        backward(one, arguments, **call) for one in (module, split)
    )
    assert_same(got, want, 1e-10)
    assert (weights is None) == (want_weights is None) == (not need_weights)
    if need_weights:
        assert_same(weights, want_weights, 1e-10)
    for one, other in zip(gradients, want_gradients, strict=True):
        assert_same(one, other, 1e-10, scale=1.0)  # one key alone: its weight is one, whatever the query is
    named = packed(split)
    assert named.keys() == {name for name, _ in module.named_parameters()}
    for name, parameter in module.named_parameters():
        assert_same(named[name], parameter.grad, 1e-10, scale=1.0)


@pytest.mark.parametrize("need_weights", [True, False])
def test_masks_of_two_kinds_are_added(need_weights):
    split = SplitAttention.from_module(attention(batch_first=True))
    arguments, hidden, scores = inputs(split), mask("bool", 2, 7), mask("float", 5, 7)
    as_floats = torch.zeros(2, 7, dtype=torch.float64).masked_fill(hidden, -torch.inf)
    got = split(*arguments, key_padding_mask=hidden, attn_mask=scores, need_weights=need_weights)
    want = split(*arguments, key_padding_mask=as_floats, attn_mask=scores, need_weights=need_weights)
    assert torch.equal(got[0], want[0])
    assert difference(split(*arguments, attn_mask=scores)[0], want[0]) > 1e-3


@pytest.mark.parametrize("need_weights", [True, False])
@torch.no_grad()
def test_a_query_that_sees_no_key(need_weights):
    """Not a number where torch's own has none, zero where it has zero."""
    module = attention(batch_first=True).train()
    split, arguments = SplitAttention.from_module(module), inputs(module)
    hidden = torch.zeros(5, 7, dtype=torch.bool)
    hidden[2] = True
    want, got = (one(*arguments, attn_mask=hidden, need_weights=need_weights)[0] for one in (module, split))
    assert torch.equal(got.isnan(), want.isnan())
    assert torch.allclose(got, want, 1e-10, 1e-10, equal_nan=True)
    rest = [0, 1, 3, 4]
    assert not got[:, rest].isnan().any()


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("padding", [None, "bool"])
@pytest.mark.parametrize("options", OPTIONS)
@torch.no_grad()
def test_the_causal_hint_changes_nothing(options, padding, need_weights):
    """The reference gets no hint: with it, torch's own hides the added keys, too, which the mask does not."""
    module = attention(batch_first=True, **OPTIONS[options])
    split, arguments = SplitAttention.from_module(module), inputs(module, 7, 7)
    call = {"attn_mask": causal(7), "key_padding_mask": mask(padding, 2, 7), "need_weights": need_weights}
    want = module(*arguments, **call)[0]
    assert_same(split(*arguments, **call, is_causal=True)[0], want, 1e-10)
    assert difference(split(*arguments, key_padding_mask=call["key_padding_mask"])[0], want) > 1e-3
    if not {"add_bias_kv", "add_zero_attn"} & OPTIONS[options].keys():
        assert_same(split(*arguments, **call, is_causal=True)[0], module(*arguments, **call, is_causal=True)[0], 1e-10)


@torch.no_grad()
def test_the_causal_hint_is_taken():
    """The kernel for causal attention is asked for, which reads no mask; so does torch's own."""
    module = attention(batch_first=True)
    split, arguments = SplitAttention.from_module(module), inputs(module, 7, 7)
    call = {"attn_mask": torch.zeros(7, 7, dtype=torch.bool), "is_causal": True, "need_weights": False}
    assert_same(split(*arguments, **call)[0], split(*arguments, attn_mask=causal(7))[0], 1e-10)
    assert_same(split(*arguments, **call)[0], module(*arguments, **call)[0], 1e-10)


@pytest.mark.parametrize("need_weights", [True, False])
@torch.no_grad()
def test_dropout(need_weights):
    """With the same random numbers as torch's own, and in training alone."""
    module = attention(batch_first=True, dropout=0.5)
    arguments, results = inputs(module), []
    split = SplitAttention.from_module(module)
    with torch.random.fork_rng():
        for one in (module, split):
            torch.manual_seed(5)
            results.append(one(*arguments, need_weights=need_weights))
    assert_same(results[1][0], results[0][0], 1e-10)
    if need_weights:
        assert_same(results[1][1], results[0][1], 1e-10)
    without = module.eval()(*arguments)[0]
    assert_same(split.eval()(*arguments, need_weights=need_weights)[0], without, 1e-10)
    assert difference(results[1][0], without) > 1e-2


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_are_copies(options, dtype):
    module = attention(**OPTIONS[options]).to(dtype).eval()
    for name, parameter in module.named_parameters():
        parameter.requires_grad_("weight" in name)
    split = SplitAttention.from_module(module)
    assert all(type(getattr(split, name)) is nn.Linear for name in (*PROJECTIONS, "out_proj"))
    assert not any(part.training for part in split.modules())
    assert all(part.training for part in SplitAttention.from_module(module.train()).modules())
    assert sum(p.numel() for p in split.parameters()) == sum(p.numel() for p in module.parameters())
    assert all(parameter.requires_grad == ("weight" in name) for name, parameter in split.named_parameters())
    assert all(parameter.dtype == dtype for parameter in split.parameters())
    memory = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    own = [parameter.untyped_storage().data_ptr() for parameter in split.parameters()]
    assert memory.isdisjoint(own)
    assert len(set(own)) == len(own)


def test_meta_weights_stay_on_their_device():
    split = SplitAttention.from_module(nn.MultiheadAttention(12, 3, kdim=5, device="meta"))
    assert {parameter.device.type for parameter in split.parameters()} == {"meta"}
    assert [split.k_proj.in_features, split.v_proj.in_features] == [5, 12]


def test_first_weights_are_torch_s():
    options = {"kdim": 7, "add_bias_kv": True, "batch_first": True, "dtype": torch.float64}
    with torch.random.fork_rng():
        torch.manual_seed(3)
        split = SplitAttention(12, 3, **options)
        torch.manual_seed(3)
        module = nn.MultiheadAttention(12, 3, **options)
    arguments = inputs(module)
    assert_same(split(*arguments)[0], module(*arguments)[0], 1e-10)


def test_state_dicts_and_copies():
    split = SplitAttention.from_module(attention(add_bias_kv=True, vdim=5))
    names = {f"{part}.{name}" for part in (*PROJECTIONS, "out_proj") for name in ("weight", "bias")}
    assert split.state_dict().keys() == names | {"bias_k", "bias_v"}
    other, copied = SplitAttention(12, 3, add_bias_kv=True, vdim=5).double(), copy.deepcopy(split)
    arguments = inputs(split)
    want = split(*arguments)[0]
    assert difference(other(*arguments)[0], want) > 1e-2
    other.load_state_dict(split.state_dict())
    with torch.no_grad():
        for parameter in split.parameters():
            parameter.zero_()
    for one in (other, copied):
        assert torch.equal(one(*arguments)[0], want)


Q, K = (2, 5, 12), (2, 7, 12)
WRONG = {
    "4-D": ((5, *Q), (5, *K), (5, *K), {}, "3-D"),
    "mixed": (Q, K[1:], K[1:], {}, "3-D"),
    "batches": (Q, (1, 7, 12), (1, 7, 12), {}, "batch or length"),
    "lengths": (Q, K, (2, 6, 12), {}, "batch or length"),
    "padding across": (Q, K, K, {"key_padding_mask": mask("bool", 7, 2)}, r"key_padding_mask must have shape \(2, 7\)"),
    "padding of one": (Q, K, K, {"key_padding_mask": mask("bool", 1, 7)}, "key_padding_mask"),
    "padding of numbers": (Q, K, K, {"key_padding_mask": torch.ones(2, 7, dtype=torch.int64)}, "int64"),
    "padding, unbatched": (Q[1:], K[1:], K[1:], {"key_padding_mask": mask("bool", 1, 7)}, "key_padding_mask"),
    "mask of one": (Q, K, K, {"attn_mask": mask("bool", 1, 7)}, r"attn_mask must have shape \(5, 7\)"),
    "mask of keys": (Q, K, K, {"attn_mask": mask("bool", 7)}, "attn_mask"),
    "mask of one sample": (Q, K, K, {"attn_mask": mask("bool", 3, 5, 7)}, r"attn_mask must have shape \(6, 5, 7\)"),
    "mask in four": (Q, K, K, {"attn_mask": mask("bool", 2, 3, 5, 7)}, "attn_mask"),
    "hint alone": (Q, K, K, {"is_causal": True}, "attn_mask"),
}


@pytest.mark.parametrize("name", WRONG)
def test_errors_name_what_is_wrong(name):
    *shapes, call, message = WRONG[name]
    split = SplitAttention.from_module(attention(batch_first=True))
    with pytest.raises(ValueError, match=message):
        split(*(normal(*shape) for shape in shapes), **call)
    with pytest.raises((AssertionError, RuntimeError)):
        attention(batch_first=True)(*(normal(*shape) for shape in shapes), **call)


# Inside torch's transformers.


class Noted(nn.Linear):
    """A linear layer that counts its calls: a hook would keep torch from its fused path by itself."""

    calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x)


def noted(layer):
    new = Noted(layer.in_features, layer.out_features, dtype=layer.weight.dtype)
    new.load_state_dict(layer.state_dict())
    return new


CONTEXTS = {"train": (True, torch.enable_grad), "eval": (False, torch.enable_grad), "use": (False, torch.no_grad)}


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("options", [{}, {"norm_first": True}, {"batch_first": False}, {"bias": False}, {"nhead": 3}])
def test_encoder_layers(context, options):
    training, gradients = CONTEXTS[context]
    layer = randomized(nn.TransformerEncoderLayer(**{**ENCODER, **options})).train(training)
    split = copy.deepcopy(layer)
    assert split_attention(split) == ["self_attn"]
    assert type(split.self_attn) is SplitAttention
    x = normal(2, 5, 12)
    masks = [{}, {"src_mask": mask("bool", *((5, 5) if layer.self_attn.batch_first else (2, 2)))}]
    masks.append({"src_key_padding_mask": mask("bool", *((2, 5) if layer.self_attn.batch_first else (5, 2)))})
    with gradients():
        for call in masks:
            assert_same(split(x, **call), layer(x, **call), 1e-10)
        assert_same(split(x[0]), layer(x[0]), 1e-10)


@pytest.mark.parametrize("norm_first", [True, False])
@torch.no_grad()
def test_encoder_layers_call_their_layers(norm_first):
    layer = randomized(nn.TransformerEncoderLayer(**ENCODER, norm_first=norm_first)).eval()
    layer.linear1 = noted(layer.linear1)
    split, x = copy.deepcopy(layer), normal(2, 5, 12)
    split_attention(split)
    split.self_attn.q_proj, split.self_attn.out_proj = noted(split.self_attn.q_proj), noted(split.self_attn.out_proj)
    assert_same(split(x), layer(x), 1e-10)
    assert [part.calls for part in (split.linear1, split.self_attn.q_proj, split.self_attn.out_proj)] == [1, 1, 1]
    assert layer.linear1.calls == 0  # the fused path was there to be declined


@torch.no_grad()
def test_encoder_layers_multiply_no_factors_out(monkeypatch):
    layer = randomized(nn.TransformerEncoderLayer(**ENCODER)).eval()
    split_attention(layer)
    want, x = copy.deepcopy(layer), normal(2, 5, 12)
    for name in ("linear1", "linear2", "self_attn.k_proj", "self_attn.out_proj"):
        small = layers.factorize(layer.get_submodule(name), "svd", 3)
        want.get_submodule(name).weight.copy_(small.dense_weight())
        layer.set_submodule(name, small)
    monkeypatch.setattr(layers.SVDLinear, "dense_weight", lambda self: pytest.fail("a dense weight was computed"))
    assert_same(layer(x), want(x), 1e-10)
    assert_same(
        layer(x, src_key_padding_mask=mask("bool", 2, 5)), want(x, src_key_padding_mask=mask("bool", 2, 5)), 1e-10
    )


@pytest.mark.parametrize("options", [{}, {"norm_first": True}, {"batch_first": False}])
def test_costs(options):
    """Splitting costs nothing; a projection of rank R takes R (in + out) MACs a row instead of in * out."""
    layer = nn.TransformerEncoderLayer(**{**ENCODER, **options})
    before = measure.cost(layer, (2, 5, 12))
    split_attention(layer)
    after = measure.cost(layer, (2, 5, 12))
    assert (after.macs, after.params, after.bytes) == (before.macs, before.params, before.bytes)
    for name, size, rank in (
        ("linear1", 12 * 20, 3),
        ("self_attn.v_proj", 12 * 12, 2),
        ("self_attn.out_proj", 12 * 12, 4),
    ):
        dense = layer.get_submodule(name)
        layer.set_submodule(name, layers.factorize(dense, "svd", rank))
        small = measure.cost(layer, (2, 5, 12))
        assert after.macs - small.macs == 10 * (size - rank * (dense.in_features + dense.out_features))
        after = small


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("options", [{}, {"norm_first": True}, {"batch_first": False}])
def test_decoder_layers(context, options):
    training, gradients = CONTEXTS[context]
    layer = randomized(nn.TransformerDecoderLayer(**{**ENCODER, **options})).train(training)
    split = copy.deepcopy(layer)
    assert split_attention(split) == ["self_attn", "multihead_attn"]
    target, memory = normal(2, 5, 12), normal(2, 7, 12, seed=4)
    if not layer.self_attn.batch_first:
        target, memory = target.transpose(0, 1), memory.transpose(0, 1)
    call = {"tgt_mask": causal(5), "tgt_is_causal": True, "memory_key_padding_mask": mask("bool", 2, 7)}
    with gradients():
        assert_same(split(target, memory, **call), layer(target, memory, **call), 1e-10)
        assert_same(split(target, memory), layer(target, memory), 1e-10)


def encoder(options=None, **more):
    layer = nn.TransformerEncoderLayer(**{**ENCODER, **(options or {})})
    model = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(12), **more)
    return randomized(model)


LEFT = torch.tensor([[False] * 5, [False, False, False, True, True]])
ENCODER_CALLS = {
    "plain": {},
    "padded at the end": {"src_key_padding_mask": LEFT},
    "padded anywhere": {"src_key_padding_mask": mask("bool", 2, 5)},
    "masked": {"mask": mask("bool", 5, 5)},
    "causal": {"mask": causal(5)},
    "both": {"mask": causal(5), "src_key_padding_mask": LEFT},
}


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("call", ENCODER_CALLS)
def test_encoders(call, context):
    """No warning, although the encoder is one that makes nested tensors of padded inputs."""
    training, gradients = CONTEXTS[context]
    model = encoder().train(training)
    assert model.use_nested_tensor
    want = encoder(enable_nested_tensor=False).train(training)
    by_hand, x = copy.deepcopy(model), normal(2, 5, 12)
    assert split_attention(model) == ["layers.0.self_attn", "layers.1.self_attn"]
    assert not model.use_nested_tensor
    for layer in by_hand.layers:
        layer.self_attn = SplitAttention.from_module(layer.self_attn)
    assert by_hand.use_nested_tensor
    with gradients():
        for frozen in (False, True):
            for one in (model, by_hand):
                one.requires_grad_(not frozen)
                assert_same(one(x, **ENCODER_CALLS[call]), want(x, **ENCODER_CALLS[call]), 1e-10)


@torch.no_grad()
def test_an_encoder_of_which_one_attention_is_skipped():
    model, want, x = encoder().eval(), encoder(enable_nested_tensor=False).eval(), normal(2, 5, 12)
    assert split_attention(model, skip=[model.layers[0].self_attn]) == ["layers.1.self_attn"]
    assert type(model.layers[0].self_attn) is nn.MultiheadAttention
    assert_same(model(x, src_key_padding_mask=LEFT), want(x, src_key_padding_mask=LEFT), 1e-10)
    model.use_nested_tensor = True
    with pytest.warns(UserWarning, match="nested"), pytest.raises(ValueError, match="use_nested_tensor = False"):
        model(x, src_key_padding_mask=LEFT)


def test_an_encoder_made_of_split_layers():
    layer = randomized(nn.TransformerEncoderLayer(**ENCODER)).eval()
    want = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    split_attention(layer)
    got, x = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), normal(2, 5, 12)
    with torch.no_grad():
        assert_same(got(x, src_key_padding_mask=LEFT), want(x, src_key_padding_mask=LEFT), 1e-10)
    with pytest.warns(UserWarning, match="nested"):  # as of any attention that has no fused path
        nn.TransformerEncoder(layer, 2)


@torch.no_grad()
def test_a_whole_transformer():
    options = {"dim_feedforward": 20, "num_encoder_layers": 2, "num_decoder_layers": 2, "dropout": 0.0}
    model = randomized(nn.Transformer(12, 4, batch_first=True, **options)).eval()
    split, source, target = copy.deepcopy(model), normal(2, 5, 12), normal(2, 7, 12, seed=4)
    names = [f"encoder.layers.{k}.self_attn" for k in range(2)]
    names += [f"decoder.layers.{k}.{name}" for k in range(2) for name in ("self_attn", "multihead_attn")]
    assert split_attention(split) == names
    assert not any(isinstance(module, nn.MultiheadAttention) for module in split.modules())
    assert_same(split(source, target, tgt_mask=causal(7)), model(source, target, tgt_mask=causal(7)), 1e-10)


class Block(nn.Module):
    """An encoder block of a vision transformer, as torchvision has it."""

    def __init__(self):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(12), nn.LayerNorm(12)
        self.self_attention = nn.MultiheadAttention(12, 4, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(12, 20), nn.GELU(), nn.Linear(20, 12))

    def forward(self, x):
        y = self.ln_1(x)
        y, _ = self.self_attention(y, y, y, need_weights=False)
        x = x + y
        return x + self.mlp(self.ln_2(x))


@pytest.mark.parametrize("gradients", [torch.enable_grad, torch.no_grad])
def test_blocks_of_vision_transformers(gradients):
    model = randomized(nn.Sequential(Block(), Block())).eval()
    split, x = copy.deepcopy(model), normal(2, 7, 12)
    assert split_attention(split) == ["0.self_attention", "1.self_attention"]
    with gradients():
        assert_same(split(x), model(x), 1e-10)


def test_frozen_models():
    layer = randomized(nn.TransformerEncoderLayer(**ENCODER)).eval()
    split_attention(layer)
    for name in ("q_proj", "out_proj"):
        small = layers.factorize(layer.self_attn.get_submodule(name), "tt", 2)
        layer.self_attn.set_submodule(name, small)
    x = normal(2, 5, 12)
    assert_same(layers.freeze(layer, x)(x), layer(x), 1e-10)


# Which attention is replaced.


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.MultiheadAttention(12, 3)
        self.inner = nn.ModuleDict({"second": self.first})
        self.block = nn.ModuleList([nn.MultiheadAttention(12, 3)])
        self.again = self.block

    def forward(self, x):
        for module in (self.first, self.inner["second"], self.block[0], self.again[0]):
            x = module(x, x, x)[0]
        return x


def test_one_attention_in_several_places_stays_one():
    model = randomized(Twice())
    split, x = copy.deepcopy(model), normal(5, 2, 12)
    assert split_attention(split) == ["first", "inner.second", "block.0", "again.0"]
    assert split.first is split.inner["second"]
    assert split.block[0] is split.again[0]
    assert split.first is not split.block[0]
    assert_same(split(x), model(x), 1e-10)
    assert split_attention(split) == []


class Own(nn.MultiheadAttention):
    def forward(self, *args, **kwargs):
        output, weights = super().forward(*args, **kwargs)
        return 2 * output, weights


class Doubled(nn.Module):
    def forward(self, x):
        return 2 * x


def hooked(module):
    module.register_forward_hook(lambda module, args, result: (2 * result[0], result[1]))


def with_own_forward(module):
    module.forward = Own.forward.__get__(module)


def with_a_module(module):
    module.adapter = nn.Linear(12, 12)


CHANGED = {
    "hook": hooked,
    "pre-hook": lambda module: module.register_forward_pre_hook(lambda module, args: None),
    "hook of out_proj": lambda module: module.out_proj.register_forward_hook(lambda *_: None),
    "parametrized": lambda module: parametrize.register_parametrization(module, "in_proj_weight", Doubled()),
    "parametrized out_proj": lambda module: parametrize.register_parametrization(module.out_proj, "weight", Doubled()),
    "pruned": lambda module: prune.l1_unstructured(module, "in_proj_weight", amount=0.5),
    "pruned out_proj": lambda module: prune.l1_unstructured(module.out_proj, "weight", amount=0.5),
    "own forward": with_own_forward,
    "subclass": lambda module: setattr(module, "__class__", Own),
    "own module": with_a_module,
}


@pytest.mark.parametrize("name", CHANGED)
@pytest.mark.filterwarnings("error")
def test_what_does_more_than_plain_attention_is_left_alone(name):
    model = nn.Sequential(
        nn.ModuleDict({"changed": nn.MultiheadAttention(12, 3), "plain": nn.MultiheadAttention(12, 3)})
    )
    changed = model[0]["changed"]
    CHANGED[name](changed)
    assert split_attention(model) == ["0.plain"]
    assert model[0]["changed"] is changed
    with pytest.raises(TypeError, match="cannot"):
        SplitAttention.from_module(changed)


def test_what_is_skipped():
    model = nn.ModuleList([nn.MultiheadAttention(12, 3) for _ in range(3)])
    kept = list(model)
    assert split_attention(model, {model[0], model[1].out_proj}) == ["2"]
    assert [model[0], model[1]] == kept[:2]
    assert type(model[2]) is SplitAttention


def test_the_model_itself_cannot_be_replaced():
    module = nn.MultiheadAttention(12, 3)
    with pytest.raises(ValueError, match=r"from_module\(model\)"):
        split_attention(module)
    assert split_attention(module, [module]) == []
    assert split_attention(nn.Linear(3, 3)) == []


def test_a_factorized_out_proj_stays_and_is_called():
    module = attention(batch_first=True)
    module.out_proj = layers.factorize(module.out_proj, "svd", 2)
    split, arguments = SplitAttention.from_module(module), inputs(module)
    assert type(split.out_proj) is layers.SVDLinear
    assert split.out_proj is not module.out_proj
    want, calls = module(*arguments)[0], []
    split.out_proj.register_forward_hook(lambda *_: calls.append(1))
    assert_same(split(*arguments)[0], want, 1e-10)
    assert calls == [1]


# Compilers.


@pytest.mark.parametrize("need_weights", [True, False])
@torch.no_grad()
def test_exports_with_any_batch_and_length(need_weights):
    split = SplitAttention.from_module(attention(batch_first=True)).eval()
    sizes = {0: torch.export.Dim("batch", min=1, max=64), 1: torch.export.Dim("length", min=2, max=64)}

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = split

        def forward(self, x, hidden):
            return self.attention(x, x, x, key_padding_mask=hidden, need_weights=need_weights)[0]

    example = (normal(3, 5, 12), mask("bool", 3, 5))
    exported = torch.export.export(Model(), example, dynamic_shapes=(sizes, sizes)).module()
    for batch, length in itertools.product((1, 3, 64), (2, 7)):
        x, hidden = normal(batch, length, 12), mask("bool", batch, length)
        assert_same(exported(x, hidden), Model()(x, hidden), 1e-10)


@torch.no_grad()
def test_a_padded_encoder_exports():
    model = encoder().eval()
    split_attention(model)
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    shapes = {"src": batch, "src_key_padding_mask": batch}
    example = (normal(3, 5, 12), None, mask("bool", 3, 5))
    exported = torch.export.export(model, example, dynamic_shapes={**shapes, "mask": None}).module()
    for number in (1, 9):
        arguments = (normal(number, 5, 12), None, mask("bool", number, 5))
        assert_same(exported(*arguments), model(*arguments), 1e-10)


def test_compiles_as_one_graph():
    module = attention(batch_first=True)
    split = SplitAttention.from_module(module)
    torch.compiler.reset()
    compiled = torch.compile(split, fullgraph=True, backend="aot_eager", dynamic=True)
    for batch in (3, 7):
        arguments = inputs(module, batch=batch)
        call = {"attn_mask": mask("bool", 3 * batch, 5, 7), "need_weights": False}
        want, got = (backward(one, arguments, **call) for one in (module, compiled))
        assert_same(got[0], want[0], 1e-10)
        for one, other in zip(got[2], want[2], strict=True):
            assert_same(one, other, 1e-10)
    for name, gradient in packed(split).items():
        assert_same(gradient, module.get_parameter(name).grad, 1e-10, scale=1.0)
