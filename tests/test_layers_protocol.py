"""What every format does in the same way: errors that are reached, factors in and out, scale, flags and state."""

import copy
import io

import pytest
import torch
from layer_cases import CASES, CONVS, DIGITS, Case, assert_same, dense, difference, filled
from tensorly.tenalg import mode_dot
from torch import nn

from tnlib import layers

PLAIN = [case for case in CASES if str(case) not in DIGITS and case.kind != "Embedding"]


def whole(rank):
    return rank if isinstance(rank, tuple) else (rank,)


def two_terms(layer):
    """A weight 1 + 0.3 (-1)^(sum of indices): of rank 2 in every format; (-1)^t is a product over the digits of t."""
    signs = torch.ones((), dtype=layer.weight.dtype)
    for n in layer.weight.shape:
        signs = signs[..., None] * (1.0 - 2.0 * (torch.arange(n) % 2))
    with torch.no_grad():
        layer.weight.copy_(1.0 + 0.3 * signs)
    return layer


@pytest.mark.parametrize("case", CASES, ids=str)
def test_rel_error_gives_the_least_rank_that_reaches_it(case):
    layer = two_terms(case.layer(dtype=torch.float64))
    # From a random start ALS may find the smaller term first; the singular vectors are those of both.
    options = {"init": "svd"} if case.format.startswith("cp") else {}
    coarse, fine = (layers.factorize(layer, case.format, rel_error=error, **options) for error in (0.8, 0.05))
    errors = [difference(module.dense_weight(), layer.weight) for module in (coarse, fine)]
    assert 0.05 < errors[0] <= 0.8
    assert errors[1] <= 0.05
    assert set(whole(coarse.rank)) == {1}, coarse.rank
    assert max(whole(fine.rank)) == 2


@pytest.mark.parametrize("case", [case for case in CASES if case.format not in ("cp", "cp3")], ids=str)
@pytest.mark.parametrize("error", [0.3, 1e-3])
def test_rel_error_is_reached_by_any_weight(case, error):
    layer = case.layer(dtype=torch.float64)
    module = layers.factorize(layer, case.format, rel_error=error)
    assert difference(module.dense_weight(), layer.weight) <= error
    if case.kind == "Linear" and case.format == "svd":
        less = layers.factorize(layer, case.format, module.rank - 1)
        assert difference(less.dense_weight(), layer.weight) > error


@pytest.mark.parametrize("case", CASES, ids=str)
def test_factors_round_trip(case):
    layer, module, x = case.layer(), case.make(), case.input()
    other = case.cls.from_factors(module.factors(), like=layer)
    assert type(other) is type(module)
    assert other.rank == module.rank
    assert_same(other.dense_weight(), module.dense_weight())
    with torch.no_grad():
        for factor in other.factors():
            factor.zero_()
    assert difference(module(x), dense(layer, module, x)) < 1e-5  # the given factors were copied
    assert module.dense_weight().any()


def norms(module):
    return torch.tensor([float(factor.detach().double().norm()) for factor in module.factors()])


def orthonormal(factor):
    """Whether some unfolding of a factor has orthonormal rows or columns, up to one scalar."""
    factor = factor.detach().double()
    for modes in range(1, factor.ndim):
        for axes in (range(modes), range(factor.ndim - modes, factor.ndim)):
            rest = [axis for axis in range(factor.ndim) if axis not in axes]
            matrix = factor.permute(*axes, *rest).flatten(len(axes)).flatten(0, len(axes) - 1)
            gram = matrix @ matrix.mT
            if torch.allclose(
                gram, gram.diagonal().mean() * torch.eye(len(gram)).double(), atol=1e-6 * float(gram.norm())
            ):
                return True
    return False


@pytest.mark.parametrize("case", CASES, ids=str)
def test_factors_are_balanced(case):
    layer = case.layer(dtype=torch.float64)
    if hasattr(layer, "groups"):
        layer = filled(getattr(nn, case.kind)(6, 8, 3, dtype=torch.float64))
    with torch.no_grad():
        layer.weight.mul_(1e4)
    module = case.factorize(layer)
    every = norms(module)
    assert torch.allclose(every, every.mean(), rtol=1e-5)
    if not case.format.startswith("cp"):
        assert sum(not orthonormal(factor) for factor in module.factors()) <= 1


@pytest.mark.parametrize("mode", ["in", "out"])
@pytest.mark.parametrize("case", PLAIN, ids=str)
def test_multiply_mode_is_the_mode_product_of_the_kernel(case, mode):
    layer = nn.Linear(7, 5) if case.kind == "Linear" else getattr(nn, case.kind)(7, 5, 3)
    layer = filled(layer.double())
    module = case.factorize(layer)
    n = 5 if mode == "out" else 7
    matrix = torch.randn(n, n, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    before = module.dense_weight().detach()
    turned = case.cls.multiply_mode([factor.detach() for factor in module.factors()], mode, matrix)
    other = case.cls.from_factors(turned, like=layer)
    assert_same(other.dense_weight(), mode_dot(before, matrix, 0 if mode == "out" else 1), 1e-10)
    assert torch.equal(module.dense_weight(), before)
    with pytest.raises(ValueError, match="mode"):
        case.cls.multiply_mode(module.factors(), "sideways", matrix)


@pytest.mark.parametrize("name", DIGITS)
def test_multiply_mode_needs_channels_that_are_whole(name):
    case = Case(*name.split("-"))
    with pytest.raises(ValueError, match="digits"):
        case.cls.multiply_mode(case.make().factors(), "in", torch.eye(24))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_zero_weight_learns(case):
    layer = case.layer()
    nn.init.zeros_(layer.weight)
    module = case.factorize(layer)
    assert not module.dense_weight().any()
    x, optimizer = case.input(16), torch.optim.SGD(module.parameters(), lr=1e-3)
    target = torch.randn(module(x).shape, generator=torch.Generator().manual_seed(5))
    for _ in range(3):
        optimizer.zero_grad()
        (module(x) - target).square().sum().backward()
        optimizer.step()
    assert all(float(p.grad.abs().max()) > 0 for p in module.parameters())
    assert module.dense_weight().any()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_flags_and_mode_carry_over(case):
    for weight, bias in ((False, True), (True, False)):
        layer = case.layer().eval()
        layer.weight.requires_grad_(weight)
        if getattr(layer, "bias", None) is not None:
            layer.bias.requires_grad_(bias)
        before = copy.deepcopy(layer.state_dict())
        for module in (case.factorize(layer), case.cls.fresh(layer, 2)):
            assert not module.training
            assert all(factor.requires_grad == weight for factor in module.factors())
            assert getattr(module, "bias", None) is None or module.bias.requires_grad == bias
        assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
        assert layer.weight.requires_grad == weight


@pytest.mark.parametrize("case", CASES, ids=str)
def test_state_dicts_load_and_copies_are_independent(case):
    layer, module, x = case.layer(), case.make(), case.input()
    other, copied = layers.factorize(layer, case.format, 2, weights="fresh"), copy.deepcopy(module)
    assert not torch.allclose(module(x), other(x))
    buffer = io.BytesIO()
    torch.save(module.state_dict(), buffer)
    buffer.seek(0)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(module(x), other(x))
    assert torch.equal(module(x), copied(x))
    assert module.rank == other.rank == copied.rank
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.add_(1.0)
    assert torch.equal(module(x), other(x))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_layers_attributes_are_there(case):
    layer, module = case.layer(), case.make()
    names = [name for name in layer.__constants__ if name != "output_padding"]
    assert len(names) > 1
    assert {name: getattr(module, name) for name in names} == {name: getattr(layer, name) for name in names}
    assert torch.equal(module.weight, module.dense_weight())
    with pytest.raises(AttributeError):
        module.weight = torch.zeros_like(module.weight)


@pytest.mark.parametrize("case", CONVS, ids=str)
def test_channels_of_a_group_are_independent(case):
    """Each group's kernel is decomposed by itself: the factors of one do not depend on the other's weights."""
    layer = case.layer()
    half = layer.out_channels // 2
    first = case.factorize(layer).dense_weight()[:half]
    with torch.no_grad():
        layer.weight[half:] *= 100.0
    assert_same(case.factorize(layer).dense_weight()[:half], first)
