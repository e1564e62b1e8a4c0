"""Factorized convolutions against torch's own, over drawn strides, paddings, dilations, groups and padding modes."""

import copy
import io
import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from tnlib.layers.chain import FactorizedConv
from tnlib.layers.conv import CPConv2d, SpatialSVDConv2d, SVDConv2d, TTConv2d, Tucker2Conv2d
from tnlib.layers.conv1d import CPConv1d, SVDConv1d, TTConv1d, Tucker2Conv1d
from tnlib.layers.ranks import useful_tt_ranks, useful_tucker_ranks
from tnlib.layers.tensorized_conv import TensorizedTTConv2d
from tnlib.layers.tucker_conv import TuckerConv2d

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
EXACT_2D = (SVDConv2d, SpatialSVDConv2d, Tucker2Conv2d, TuckerConv2d, TTConv2d, TensorizedTTConv2d)
EXACT_1D = (SVDConv1d, Tucker2Conv1d, TTConv1d)
EVERY_2D = (*EXACT_2D, CPConv2d)
EVERY = (*EVERY_2D, *EXACT_1D, CPConv1d)

# torch warns that 'same' with an even kernel copies the input; the result is what is tested here.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")


@st.composite
def convolutions(draw, dims):
    """An `nn.Conv1d` or `nn.Conv2d` with drawn hyper-parameters, and the sizes of an input that it accepts."""

    def each(low, high):
        return draw(st.one_of(st.integers(low, high), st.tuples(*[st.integers(low, high)] * dims)))

    groups = draw(st.sampled_from([1, 1, 2, 3]))
    padding = draw(st.sampled_from(["same", "valid", "numbers", "numbers"]))
    layer = (nn.Conv1d, nn.Conv2d)[dims - 1](
        groups * draw(st.integers(1, 5)),
        groups * draw(st.integers(1, 5)),
        each(1, 4),
        stride=1 if padding == "same" else each(1, 3),
        padding=each(0, 3) if padding == "numbers" else padding,
        dilation=each(1, 2),
        groups=groups,
        bias=draw(st.booleans()),
        padding_mode=draw(st.sampled_from(["zeros", "zeros", "reflect", "replicate", "circular"])),
        dtype=draw(st.sampled_from([torch.float32, torch.float64])),
    )
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return layer.train(draw(st.booleans())), draw(st.tuples(*[st.integers(8, 11)] * dims))


def group_shape(layer):
    return (layer.out_channels // layer.groups, *layer.weight.shape[1:])


def low_rank_cp_kernel(layer, rank):
    """Give every group of a convolution a kernel of `rank` orthogonal rank-one terms, of norms 1, 2, .. rank."""
    shape = group_shape(layer)
    generator = torch.Generator().manual_seed(sum(shape))
    terms = ",".join(f"r{axis}" for axis in "abcd"[: len(shape)])
    for kernel in layer.weight.detach().unflatten(0, (layer.groups, -1)):
        factors = []
        for n in shape:
            normal = torch.randn(max(n, rank), max(n, rank), generator=generator, dtype=torch.float64)
            factors.append(torch.linalg.qr(normal).Q[:rank, :n] if n >= rank else normal[:rank, :n])
        weights = torch.arange(1, rank + 1, dtype=torch.float64)
        kernel.copy_(torch.einsum(f"r,{terms}->{'abcd'[: len(shape)]}", weights, *factors))


@torch.no_grad()
def assert_same(module, layer, size, tolerance):
    assert module.training == layer.training
    x = torch.randn(2, layer.in_channels, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = x.to(layer.weight.dtype)
    want, got = layer(x), module(x)
    assert got.shape == want.shape
    assert got.dtype == want.dtype
    assert float((got - want).norm()) <= tolerance * float(want.norm())
    assert torch.allclose(module.dense_weight(), layer.weight, atol=tolerance * float(layer.weight.norm()))
    assert torch.allclose(module(x[0]), got[0], atol=tolerance * float(want.norm()))


@pytest.mark.parametrize("cls", EXACT_2D)
@settings(max_examples=50)
@given(drawn=convolutions(2))
def test_conv2d_at_full_rank_equals_the_layer(cls, drawn):
    layer, size = drawn
    module = cls.from_layer(layer, cls.max_rank(group_shape(layer)))
    assert_same(module, layer, size, TOLERANCE[layer.weight.dtype])


@pytest.mark.parametrize("cls", EXACT_1D)
@settings(max_examples=50)
@given(drawn=convolutions(1))
def test_conv1d_at_full_rank_equals_the_layer(cls, drawn):
    layer, size = drawn
    module = cls.from_layer(layer, cls.max_rank(group_shape(layer)))
    assert_same(module, layer, size, TOLERANCE[layer.weight.dtype])


@pytest.mark.parametrize("dims", [1, 2])
@settings(max_examples=50)
@given(data=st.data(), rank=st.integers(1, 3))
def test_cp_of_a_kernel_of_that_rank_equals_the_layer(dims, data, rank):
    layer, size = data.draw(convolutions(dims))
    # ALS is sure to find the terms where three modes can hold orthonormal columns, or where only two modes are left;
    # the singular vectors that it starts from are then close to them.
    sizes = sorted(group_shape(layer))
    assume(rank == 1 or sizes[-3] >= rank or (sizes[-3] == 1 and sizes[-2] >= rank))
    low_rank_cp_kernel(layer, rank)
    module = (CPConv1d, CPConv2d)[dims - 1].from_layer(layer, rank, init="svd", max_iter=1000, tol=1e-15)
    assert module.rank == rank
    assert_same(module, layer, size, TOLERANCE[layer.weight.dtype])


@pytest.mark.parametrize("order", ["kernel", "filters", "cores"])
@settings(max_examples=50)
@given(drawn=convolutions(2), data=st.data())
def test_tensorized_conv_in_every_order_with_drawn_digits(order, drawn, data):
    layer, size = drawn
    outputs, inputs, *_ = shape = group_shape(layer)
    count = data.draw(st.integers(1, 3))

    def digits(channels):
        """Digits that multiply to the channels or, as often as not, to more."""
        dims = [data.draw(st.integers(1, 3)) for _ in range(count - 1)]
        return (*dims, -(-channels // math.prod(dims)))

    options = {"row_dims": digits(outputs), "col_dims": digits(inputs)}
    rank = TensorizedTTConv2d.max_rank(shape, **options)
    module = TensorizedTTConv2d.from_layer(layer, rank, order=order, **options)
    assert module.choose((2, layer.in_channels, *size)) == order
    assert (module.row_dims, module.col_dims) == (options["row_dims"], options["col_dims"])
    assert_same(module, layer, size, TOLERANCE[layer.weight.dtype])


@pytest.mark.parametrize("filters_first", [True, False])
@settings(max_examples=50)
@given(drawn=convolutions(2))
def test_tucker_core_in_both_orders(filters_first, drawn):
    layer, size = drawn
    module = TuckerConv2d.from_layer(layer, TuckerConv2d.max_rank(group_shape(layer)))
    module[1].filters_first = filters_first
    assert_same(module, layer, size, TOLERANCE[layer.weight.dtype])


def test_tucker_core_takes_the_order_of_fewer_weighted_macs():
    def first(channels, rank, window):
        return TuckerConv2d.fresh(nn.Conv2d(channels, channels, window), rank)[1].filters_first

    # One filter over 128 channels: 24 * 9 + 128 < 128 * 9.  All nine filters: 9 * (24 * 9 + 128) > 128 * 9.
    assert first(128, (128, 128, 1, 1), 3)
    assert not first(128, (128, 128, 3, 3), 3)
    # 24 * 9 + 8 > 8 * 9
    assert not first(8, (8, 8, 1, 1), 3)


def test_tensorized_conv_says_when_it_multiplies_the_kernel_out():
    small = TensorizedTTConv2d.fresh(nn.Conv2d(8, 8, 3), 4)
    large = TensorizedTTConv2d.fresh(nn.Conv2d(512, 512, 3), (2, 4, 4), row_dims=(8, 8, 8), col_dims=(8, 8, 8))
    assert small.explain(torch.zeros(4, 8, 16, 16)).startswith("kernel: the dense kernel is multiplied out")
    assert large.explain(torch.zeros(512, 16, 16)).startswith("filters first")
    # Fewer outputs than inputs: the channels are contracted before the filters pass over the outputs.
    narrow = TensorizedTTConv2d.fresh(nn.Conv2d(512, 8, 5), 4, row_dims=(2, 2, 2), col_dims=(8, 8, 8), order=None)
    costs = narrow._costs((1, 512, 32, 32))
    assert costs["cores"] < costs["filters"]


def numbers(module):
    return sum(p.numel() for n, p in module.named_parameters() if "bias" not in n)


@settings(max_examples=40)
@given(
    sizes=st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(1, 4)),
    groups=st.integers(1, 2),
    cut=st.integers(1, 4),
)
def test_numbers_of_parameters_are_the_formats(sizes, groups, cut):
    T, S, kh, kw = sizes
    flat, plane = nn.Conv1d(S * groups, T * groups, kw, groups=groups), nn.Conv2d(S, T, (kh, kw))
    plane = nn.Conv2d(S * groups, T * groups, (kh, kw), groups=groups)
    R = 1
    assert numbers(CPConv2d.fresh(plane, R)) == groups * R * (T + S + kh + kw)
    assert numbers(CPConv1d.fresh(flat, R)) == groups * R * (T + S + kw)
    assert numbers(SVDConv2d.fresh(plane, R)) == groups * R * (T + S * kh * kw)
    assert numbers(SpatialSVDConv2d.fresh(plane, R)) == groups * R * (T * kw + S * kh)
    cut = min(cut, max(TuckerConv2d.max_rank(sizes)))
    tucker = TuckerConv2d.fresh(plane, cut)
    a, b, c, d = tucker.rank
    assert numbers(tucker) == groups * (T * a + S * b + kh * c + kw * d + a * b * c * d)
    tt = TensorizedTTConv2d.fresh(plane, 1)
    pairs = sum(m * n for m, n in zip(tt.row_dims, tt.col_dims, strict=True))
    assert numbers(tt) == groups * (kh * kw + pairs)
    r1, r2 = (tt := TTConv1d.fresh(flat, 1)).rank
    assert numbers(tt) == groups * (S * r1 + r1 * kw * r2 + r2 * T)


def layer_for(cls):
    if cls in EVERY_2D:
        return nn.Conv2d(6, 8, (3, 2), stride=(2, 1), padding=(1, 0), groups=2), (2, 6, 9, 7)
    return nn.Conv1d(6, 8, 3, stride=2, padding=1, groups=2), (2, 6, 9)


@pytest.mark.parametrize("cls", EVERY)
class TestEveryClass:
    def test_gradients_reach_all_factors(self, cls):
        layer, shape = layer_for(cls)
        module = cls.from_layer(layer.double(), 2)
        x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        names, values = zip(*module.named_parameters(), strict=True)

        def f(x, *values):
            return torch.func.functional_call(module, dict(zip(names, values, strict=True)), (x,)).square().sum()

        assert torch.autograd.gradcheck(f, (x, *values), fast_mode=True)
        module.dense_weight().square().sum().backward()
        assert all(float(p.grad.abs().sum()) > 0 for n, p in module.named_parameters() if "bias" not in n)

    def test_dense_weight_is_what_the_module_convolves_with(self, cls):
        layer, shape = layer_for(cls)
        module = cls.from_layer(layer.double(), 2)
        x = torch.randn(shape, dtype=torch.float64)
        layer.weight.data = module.dense_weight().detach()
        assert torch.allclose(module(x), layer(x), atol=1e-12)

    def test_state_dict_and_deepcopy(self, cls):
        layer, shape = layer_for(cls)
        module, other = cls.from_layer(layer, 2), cls.fresh(layer, 2)
        copied = copy.deepcopy(module)
        x = torch.randn(shape)
        buffer = io.BytesIO()
        torch.save(module.state_dict(), buffer)
        buffer.seek(0)
        assert not torch.allclose(module(x), other(x))
        other.load_state_dict(torch.load(buffer, weights_only=True))
        assert torch.equal(module(x), other(x))
        assert torch.equal(module(x), copied(x))
        assert module.rank == other.rank == copied.rank
        with torch.no_grad():
            for parameter in copied.parameters():
                parameter.add_(1.0)
        assert torch.equal(module(x), other(x))

    def test_frozen_layers_and_other_dtypes(self, cls):
        layer, _ = layer_for(cls)
        frozen = copy.deepcopy(layer).requires_grad_(False).eval().double()
        for module in (cls.from_layer(frozen, 2), cls.fresh(frozen, 2)):
            assert not module.training
            assert not any(p.requires_grad for p in module.parameters())
            assert {p.dtype for p in module.parameters()} == {torch.float64}

    def test_bad_ranks(self, cls):
        layer, _ = layer_for(cls)
        for make in (cls.from_layer, cls.fresh):
            for bad in (0, -1, 10**6):
                with pytest.raises(ValueError, match="largest useful one here is"):
                    make(layer, bad)
            with pytest.raises(TypeError, match="must be an integer"):
                make(layer, 1.5)
        largest = cls.max_rank(group_shape(layer))
        if isinstance(largest, tuple):
            with pytest.raises(
                ValueError, match=f"number {len(largest)} .* the largest useful one here is {largest[-1]}"
            ):
                cls.from_layer(layer, (*largest[:-1], largest[-1] + 1))
            with pytest.raises(ValueError, match=f"expected {len(largest)} .* got {len(largest) + 1}"):
                cls.from_layer(layer, (*largest, 1))

    def test_other_layers(self, cls):
        with pytest.raises(TypeError, match=rf"{cls.__name__} replaces nn\.Conv.d, got Linear"):
            cls.from_layer(nn.Linear(2, 2), 1)
        with pytest.raises(TypeError, match="got ConvTranspose"):
            cls.fresh((nn.ConvTranspose2d if cls in EVERY_2D else nn.ConvTranspose1d)(2, 2, 3), 1)

    def test_export(self, cls):
        layer, shape = layer_for(cls)
        module, x = cls.from_layer(layer, 2).eval(), torch.randn(shape)
        assert torch.allclose(torch.export.export(module, (x,)).module()(x), module(x), atol=1e-6)

    def test_fresh_is_seeded_and_its_bias_is_zero(self, cls):
        layer, shape = layer_for(cls)
        first, second, third = cls.fresh(layer, 2), cls.fresh(layer, 2), cls.fresh(layer, 2, seed=1)
        assert torch.equal(first.dense_weight(), second.dense_weight())
        assert not torch.equal(first.dense_weight(), third.dense_weight())
        assert torch.equal(first(torch.zeros(shape)), torch.zeros_like(layer(torch.zeros(shape))))
        assert torch.allclose(
            cls.fresh(layer, 2, gain=3.0).dense_weight(), 3 / 2**0.5 * first.dense_weight(), atol=1e-6
        )

    def test_variance_of_fresh_weights_and_outputs(self, cls):
        """Mean over independent draws of the mean square of the entries, against gain^2 / fan_in, within 5 deviations.

        Entries of one draw share factors; draws with different seeds are independent, so that the spread between them
        bounds the deviation of their mean.
        """
        gain, draws = 1.5, 120
        layer = (nn.Conv2d(14, 10, 3, groups=2) if cls in EVERY_2D else nn.Conv1d(14, 10, 5, groups=2)).double()
        fan_in = layer.weight[0].numel()
        size = (5, 5) if cls in EVERY_2D else (9,)
        x = torch.randn(4, 14, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        modules = [cls.fresh(layer, 3, gain=gain, seed=seed) for seed in range(draws)]
        with torch.no_grad():
            squares = torch.stack([m.dense_weight().square().mean() for m in modules]) * fan_in / gain**2
            outputs = torch.stack([m(x).square().mean() for m in modules]) / gain**2
        for values in (squares, outputs):
            deviation = float(values.std()) / draws**0.5
            assert deviation < 0.12  # otherwise the next line would say little
            assert abs(float(values.mean()) - 1) < 5 * deviation


@torch.no_grad()
def test_variance_over_one_large_layer():
    # At a rank of hundreds the entries are almost independent normal: their mean square deviates by sqrt(2 / entries),
    # plus sqrt(2 / R) for each factor that few numbers make up; here both factors have over 30,000.
    layer = nn.Conv2d(128, 256, 3)
    module = SVDConv2d.fresh(layer, 200)
    ratio = float(module.dense_weight().square().mean()) * 128 * 9 / 2
    bound = 5 * math.sqrt(2 / (256 * 200) + 2 / (200 * 128 * 9))
    assert abs(ratio - 1) < bound < 0.04
    x = torch.randn(4, 128, 20, 20, generator=torch.Generator().manual_seed(3))
    assert abs(float(module(x).square().mean()) / 2 - 1) < bound + 5 * math.sqrt(2 / 256)


def test_ranks_that_the_others_limit_are_cut():
    assert useful_tucker_ranks((4, 1, 1, 1), (4, 4, 3, 3)) == (1, 1, 1, 1)
    assert useful_tucker_ranks((8, 1), (8, 8, 2, 1), modes=2) == (2, 1)
    assert useful_tucker_ranks(3, (4, 5, 3, 1)) == (3, 3, 3, 1)
    assert useful_tt_ranks((1, 9, 4), (6, 3, 3, 8)) == (1, 3, 4)
    layer = nn.Conv2d(4, 4, 3)
    wide, narrow = TuckerConv2d.from_layer(layer, (4, 1, 1, 1)), TuckerConv2d.from_layer(layer, 1)
    assert wide.rank == (1, 1, 1, 1)
    assert torch.allclose(wide.dense_weight(), narrow.dense_weight(), atol=1e-6)
    assert Tucker2Conv2d.from_layer(nn.Conv2d(8, 8, 1), (8, 1)).rank == (1, 1)


def test_the_base_class_is_no_format():
    with pytest.raises(TypeError, match=r"use one of them, or layers\.factorize"):
        FactorizedConv.stages((1, 1, 1), 1)
    with pytest.raises(ValueError, match="unknown order 'sideways'"):
        TensorizedTTConv2d.from_layer(nn.Conv2d(4, 4, 3), 1, order="sideways")
    with pytest.raises(ValueError, match="which is less than the weight's 8 x 4"):
        TensorizedTTConv2d.from_layer(nn.Conv2d(4, 8, 3), 1, row_dims=(2, 2), col_dims=(2, 2))
