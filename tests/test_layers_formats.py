"""Every format of every layer computes what its definition says: torch's own layers and einsum are the reference."""

import copy
import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from layer_cases import CASES, CONVS, FORMATS, Case, assert_same, dense, difference, filled
from layer_definitions import dense_by_definition
from torch import nn

from tnlib import layers

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
# torch warns that 'same' with an even kernel copies the input; the result is what is tested here.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")

EXACT = [case for case in CONVS if case.format not in ("cp", "cp3")]
LOW_RANK = [case for case in CONVS if case.format in ("cp", "cp3")]


def test_the_formats_are_those_of_the_field():
    assert {kind.__name__: set(formats) for kind, formats in layers.FORMATS.items()} == {
        kind: set(formats) for kind, formats in FORMATS.items()
    }
    for case in CASES:
        assert case.make().format == case.cls.format == case.format


@st.composite
def convolutions(draw, dims):
    """A convolution with drawn hyper-parameters, and the sizes of an input that it accepts."""

    def each(low, high):
        return draw(st.one_of(st.integers(low, high), st.tuples(*[st.integers(low, high)] * dims)))

    groups = draw(st.sampled_from([1, 1, 2, 3]))
    padding = draw(st.sampled_from(["same", "valid", "numbers", "numbers"]))
    layer = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1](
        groups * draw(st.integers(1, 5)),
        groups * draw(st.integers(1, 5)),
        each(1, 4 - dims // 3),
        stride=1 if padding == "same" else each(1, 3),
        padding=each(0, 3) if padding == "numbers" else padding,
        dilation=each(1, 2),
        groups=groups,
        bias=draw(st.booleans()),
        padding_mode=draw(st.sampled_from(["zeros", "zeros", "reflect", "replicate", "circular"])),
        dtype=draw(st.sampled_from([torch.float32, torch.float64])),
    )
    layer = filled(layer, draw(st.integers(0, 10_000))).train(draw(st.booleans()))
    return layer, draw(st.tuples(*[st.integers(9 - dims, 11 - dims)] * dims))


@torch.no_grad()
def assert_replaces(module, layer, size, batch=2):
    tolerance = TOLERANCE[layer.weight.dtype]
    assert module.training == layer.training
    x = torch.randn(batch, layer.in_channels, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = x.to(layer.weight.dtype)
    assert_same(module.dense_weight(), layer.weight, tolerance)
    scale = float(layer.weight.norm())  # one output alone may be a sum that is almost zero
    assert_same(module(x), layer(x), tolerance, scale)
    assert_same(module(x[0]), layer(x[0]), tolerance, scale)


@pytest.mark.parametrize("case", EXACT, ids=str)
@settings(max_examples=20)
@given(data=st.data())
def test_conv_at_full_rank_equals_the_layer(case, data):
    layer, size = data.draw(convolutions(int(case.kind[4])))
    assert_replaces(layers.factorize(layer, case.format, layers.max_rank(layer, case.format)), layer, size)


def low_rank_kernel(layer, rank, flat):
    """Give every group a kernel of `rank` orthogonal rank-one terms of norms 1 .. rank; `flat`: of S x (kh kw) x T."""
    outputs, inputs, *window = layer.weight.shape
    shape = [outputs // layer.groups, inputs, *([math.prod(window)] if flat else window)]
    generator = torch.Generator().manual_seed(sum(shape))
    letters = "abcde"[: len(shape)]
    for kernel in layer.weight.detach().unflatten(0, (layer.groups, -1)):
        factors = []
        for n in shape:
            normal = torch.randn(max(n, rank), max(n, rank), generator=generator, dtype=torch.float64)
            factors.append(torch.linalg.qr(normal).Q[:rank, :n] if n >= rank else normal[:rank, :n])
        terms = ",".join(f"r{letter}" for letter in letters)
        weights = torch.arange(1, rank + 1, dtype=torch.float64)
        kernel.copy_(torch.einsum(f"r,{terms}->{letters}", weights, *factors).reshape(kernel.shape))
    return shape


@pytest.mark.parametrize("case", LOW_RANK, ids=str)
@settings(max_examples=20)
@given(data=st.data(), rank=st.integers(1, 3))
def test_cp_of_a_kernel_of_that_rank_equals_the_layer(case, data, rank):
    layer, size = data.draw(convolutions(int(case.kind[4])))
    sizes = sorted(low_rank_kernel(layer, rank, case.format == "cp3"))
    # ALS is sure to find the terms where three modes can hold orthonormal columns, or where only two modes are left;
    # the singular vectors that it starts from are then close to them.
    assume(rank == 1 or sizes[-3] >= rank or (sizes[-3] == 1 and sizes[-2] >= rank))
    module = layers.factorize(layer, case.format, rank, init="svd", max_iter=1000, tol=1e-15)
    assert module.rank == rank
    assert_replaces(module, layer, size)


@pytest.mark.parametrize("format", [format for format in FORMATS["Linear"] if format != "cp"])
@settings(max_examples=25)
@given(
    sizes=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    bias=st.booleans(),
    lead=st.lists(st.integers(1, 3), max_size=2),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
@torch.no_grad()
def test_linear_at_full_rank_equals_the_layer(format, sizes, bias, lead, dtype):
    linear = filled(nn.Linear(*sizes, bias=bias, dtype=dtype))
    module = layers.factorize(linear, format, layers.max_rank(linear, format))
    x = torch.randn(*lead, sizes[0], dtype=dtype, generator=torch.Generator().manual_seed(1))
    assert_same(module.dense_weight(), linear.weight, TOLERANCE[dtype])
    assert_same(module(x), linear(x), TOLERANCE[dtype], float(linear.weight.norm()))


@torch.no_grad()
def test_cp_linear_of_a_weight_of_that_rank_equals_the_layer():
    linear = nn.Linear(24, 24, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    factors = [torch.linalg.qr(torch.randn(n, 2, generator=generator).double()).Q for n in (2, 3, 4, 4, 3, 2)]
    linear.weight.copy_(torch.einsum("ar,br,cr,dr,er,fr->abcdef", *factors).reshape(24, 24))
    digits = {"row_dims": (2, 3, 4), "col_dims": (4, 3, 2)}
    module = layers.factorize(linear, "cp", 2, init="svd", max_iter=1000, tol=1e-15, **digits)
    assert (module.row_dims, module.col_dims) == (digits["row_dims"], digits["col_dims"])
    assert_same(module.dense_weight(), linear.weight, 1e-9)


@st.composite
def digits(draw, *sizes):
    """Equally many digits for each size, in any order, that multiply to it or, as often as not, to more."""
    count = draw(st.integers(1, 3))
    every = []
    for size in sizes:
        dims = [draw(st.integers(1, 3)) for _ in range(count - 1)]
        every.append(tuple(draw(st.permutations([*dims, -(-size // math.prod(dims))]))))
    return dict(zip(("row_dims", "col_dims"), every, strict=True))


@pytest.mark.parametrize("kind", ["tucker", "tt", "ttm"])
@settings(max_examples=20)
@given(data=st.data(), sizes=st.tuples(st.integers(1, 30), st.integers(1, 30)))
@torch.no_grad()
def test_linear_in_drawn_digits(kind, data, sizes):
    linear = filled(nn.Linear(*sizes, dtype=torch.float64))
    options = data.draw(digits(*reversed(sizes)))
    module = layers.factorize(linear, kind, rel_error=1e-13, **options)
    if kind != "tt":  # its cores have a digit of the rows or one of the columns, and a one
        assert (module.row_dims, module.col_dims) == tuple(options.values())
    x = torch.randn(3, sizes[0], dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert_same(module(x), linear(x), 1e-10, float(linear.weight.norm()))
    assert_same(dense_by_definition(module), linear.weight, 1e-10)


@settings(max_examples=20)
@given(data=st.data(), dims=st.integers(1, 3))
def test_tensorized_conv_in_drawn_digits(data, dims):
    layer, size = data.draw(convolutions(dims))
    options = data.draw(digits(layer.out_channels // layer.groups, layer.in_channels // layer.groups))
    module = layers.factorize(layer, "ttm", rel_error=1e-13, **options)
    assert (module.row_dims, module.col_dims) == tuple(options.values())
    assert_replaces(module, layer, size)


@pytest.mark.parametrize("case", CASES, ids=str)
@torch.no_grad()
def test_dense_weight_is_the_formats_definition(case):
    module = case.make(torch.float64)
    if str(case) == "Linear-tt":  # three digits of the rows, then three of the columns
        assert [core.shape[1:3] for core in module.factors()] == [(2, 1), (3, 1), (3, 1), (1, 2), (1, 3), (1, 4)]
    assert_same(module.dense_weight(), dense_by_definition(module), 1e-12)
    assert (
        difference(module.dense_weight(), case.layer(dtype=torch.float64).weight) > 1e-3
    )  # at rank 2 something is lost


@torch.no_grad()
def pushed(module):
    """The dense weight read off the outputs for one-hot inputs, groups written as zeros."""
    bias = 0.0 if module.bias is None else module.bias.detach()
    if isinstance(module.in_features if hasattr(module, "in_features") else None, int):
        return (module(torch.eye(module.in_features, dtype=torch.float64)) - bias).mT
    kernel, inputs = module.kernel_size, module.in_channels
    count = inputs * math.prod(kernel)
    ones = torch.eye(count, dtype=torch.float64).reshape(count, inputs, *kernel)
    return (module(ones).flatten(1) - bias).mT.reshape(-1, inputs, *kernel)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("case", [case for case in CASES if case.kind != "Embedding"], ids=str)
def test_dense_weight_is_what_the_identity_shows(case, groups):
    if case.kind == "Linear":
        layer = nn.Linear(13, 10 + groups, dtype=torch.float64)
    else:
        layer = getattr(nn, case.kind)(4, 6, (2, 3, 2)[: int(case.kind[4])], groups=groups, dtype=torch.float64)
    module = case.factorize(filled(layer))
    seen = pushed(module)
    if case.kind != "Linear":
        blocks = seen.unflatten(0, (groups, -1)).unflatten(2, (groups, -1))
        seen = torch.cat([blocks[g, :, g] for g in range(groups)])
        assert float(blocks.norm()) == pytest.approx(float(seen.norm()), rel=1e-12)
    assert_same(seen, module.dense_weight(), 1e-12)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_outputs_are_those_of_the_dense_weight(case):
    layer, module, x = case.layer(), case.make(), case.input()
    assert_same(module(x), dense(layer, module, x))
    assert_same(module(x[0]), dense(layer, module, x[0]))
    if case.kind in ("Linear", "Embedding"):
        many = torch.stack([case.input(4, seed=seed) for seed in range(3)])
        assert_same(module(many), dense(layer, module, many))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients_are_those_through_the_dense_weight(case):
    layer, module, x = case.layer(dtype=torch.float64), case.make(torch.float64), case.input(dtype=torch.float64)
    inputs = [] if case.kind == "Embedding" else [x.requires_grad_()]
    weights = torch.randn(module(x).shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    wanted = [*module.parameters(), *inputs]
    got = torch.autograd.grad((module(x) * weights).sum(), wanted)
    want = torch.autograd.grad((dense(layer, module, x) * weights).sum(), wanted)
    assert all(float(g.abs().sum()) > 0 for g in got)
    for one, other in zip(got, want, strict=True):
        assert_same(one, other, 1e-11)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("case", CASES, ids=str)
@torch.no_grad()
def test_dtypes_in_are_dtypes_out(case, dtype):
    layer = case.layer(dtype=dtype)
    module = case.factorize(layer)
    assert {p.dtype for p in module.parameters()} == {dtype}
    assert module.dense_weight().dtype == module.weight.dtype == dtype
    x = case.input(dtype=dtype)
    assert module(x).dtype == layer(x).dtype == dtype
    exact = case.factorize(copy.deepcopy(layer).double())
    tolerance = 16 * torch.finfo(dtype).eps
    # Factored in float64: only the factors are rounded.
    assert difference(module.dense_weight(), exact.dense_weight()) <= tolerance
    assert difference(module(x), exact(case.input(dtype=torch.float64))) <= 2 * tolerance


def test_tt_matrix_in_novikovs_shapes():
    linear = filled(nn.Linear(1024, 1024))
    module = layers.factorize(linear, "ttm", 8, row_dims=(4, 8, 8, 4), col_dims=(4, 8, 8, 4), weights="fresh")
    assert module.rank == (8, 8, 8)
    assert [tuple(core.shape) for core in module.factors()] == [(1, 4, 4, 8), (8, 8, 8, 8), (8, 8, 8, 8), (8, 4, 4, 1)]
    x = torch.randn(3, 1024, generator=torch.Generator().manual_seed(1))
    assert_same(module(x), dense(linear, module, x))


def test_case_of_every_kind():
    """The tests above would pass on no cases at all."""
    assert len(CASES) == 29
    assert Case("Conv2d", "cp3") in CASES
