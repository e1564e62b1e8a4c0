"""What all factorized layers have in common; linear layers against the layers that they replace."""

import copy
import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tnlib import layers

CONV_FORMATS = tuple(layers.FORMATS[nn.Conv2d])
LINEAR_FORMATS = tuple(layers.FORMATS[nn.Linear])
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


@pytest.mark.parametrize("format", [format for format in LINEAR_FORMATS if format != "cp"])
@settings(max_examples=60)
@given(
    sizes=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    bias=st.booleans(),
    lead=st.lists(st.integers(1, 3), max_size=2),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_linear_at_full_rank_equals_the_layer(format, sizes, bias, lead, dtype):
    torch.manual_seed(0)
    linear = nn.Linear(*sizes, bias=bias, dtype=dtype)
    module = layers.factorize(linear, format, layers.max_rank(linear, format))
    x = torch.randn(*lead, sizes[0], dtype=dtype)
    assert module(x).shape == linear(x).shape
    with torch.no_grad():
        assert float((module(x) - linear(x)).norm()) <= TOLERANCE[dtype] * float(linear(x).norm())
    assert torch.allclose(module.dense_weight(), linear.weight, atol=TOLERANCE[dtype])


def test_tt_linear_in_novikovs_shapes():
    torch.manual_seed(0)
    linear = nn.Linear(1024, 1024)
    module = layers.factorize(linear, "tt", 8, row_dims=(4, 8, 8, 4), col_dims=(4, 8, 8, 4))
    assert module.rank == (8, 8, 8)
    assert sum(core.numel() for core in module.cores) == 16 * 8 + 2 * 64 * 64 + 8 * 16
    x = torch.randn(3, 1024)
    assert torch.allclose(module(x), x @ module.dense_weight().mT + linear.bias, atol=1e-5)


def cases():
    for format in CONV_FORMATS:
        yield format, nn.Conv2d(6, 8, (3, 2), stride=(2, 1), padding=(1, 0), groups=2), (2, 6, 9, 7), 3
    for format in LINEAR_FORMATS:
        yield format, nn.Linear(24, 18), (2, 24), 3


@pytest.mark.parametrize(("format", "layer", "shape", "rank"), list(cases()))
class TestEveryFormat:
    def make(self, format, layer, rank):
        return layers.factorize(layer, format, rank)

    def test_state_dict_round_trip(self, format, layer, shape, rank):
        module, other = self.make(format, layer, rank), self.make(format, copy.deepcopy(layer), rank)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.zero_()
        buffer = io.BytesIO()
        torch.save(module.state_dict(), buffer)
        buffer.seek(0)
        other.load_state_dict(torch.load(buffer, weights_only=True))
        x = torch.randn(shape)
        assert torch.equal(module(x), other(x))

    def test_deepcopy_is_independent(self, format, layer, shape, rank):
        module = self.make(format, layer, rank)
        other = copy.deepcopy(module)
        x = torch.randn(shape)
        before = module(x)
        assert torch.equal(before, other(x))
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.add_(1.0)
        assert torch.equal(before, module(x))
        assert other.rank == module.rank

    def test_export(self, format, layer, shape, rank):
        module = self.make(format, layer, rank).eval()
        x = torch.randn(shape)
        exported = torch.export.export(module, (x,)).module()
        assert torch.allclose(exported(x), module(x), atol=1e-6)

    def test_gradients(self, format, layer, shape, rank):
        module = self.make(format, copy.deepcopy(layer).double(), rank)
        x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda x: module(x).square().sum(), (x,), fast_mode=True)
        module.dense_weight().square().sum().backward()
        assert all(float(p.grad.abs().sum()) > 0 for n, p in module.named_parameters() if "bias" not in n)

    def test_original_is_untouched_and_needs_for_gradients_carry_over(self, format, layer, shape, rank):
        layer = copy.deepcopy(layer)
        before = {key: value.clone() for key, value in layer.state_dict().items()}
        frozen = copy.deepcopy(layer).requires_grad_(False).eval()
        module = self.make(format, frozen, rank)
        assert not module.training
        assert not any(p.requires_grad for p in module.parameters())
        assert all(torch.equal(value, before[key]) for key, value in layer.state_dict().items())

    def test_bad_ranks(self, format, layer, shape, rank):
        for bad in (0, -1, 10**6):
            with pytest.raises(ValueError, match="largest useful one here is"):
                self.make(format, layer, bad)


def test_unknown_formats_and_layers():
    with pytest.raises(
        ValueError, match="unknown format 'ring' for Conv2d; expected one of svd, spatial_svd, cp, tucker2, tucker, tt"
    ):
        layers.factorize(nn.Conv2d(2, 2, 3), "ring", 1)
    with pytest.raises(TypeError, match=r"cannot factorize ReLU; expected nn\.Linear or nn\.Conv2d"):
        layers.factorize(nn.ReLU(), "svd", 1)
    with pytest.raises(TypeError, match="cannot factorize ConvTranspose2d"):
        layers.factorize(nn.ConvTranspose2d(2, 2, 3), "svd", 1)


@given(st.integers(1, 5000), st.integers(1, 6))
def test_balanced_dims_multiply_to_the_size(size, count):
    dims = layers.balanced_dims(size, count)
    assert len(dims) == count
    assert torch.tensor(dims).prod() == size


def test_balanced_dims_are_balanced():
    assert layers.balanced_dims(1024, 5) == (4, 4, 4, 4, 4)
    assert layers.balanced_dims(25088, 6) == (4, 4, 4, 7, 7, 8)
    assert layers.balanced_dims(13, 3) == (1, 1, 13)
    with pytest.raises(ValueError, match="cannot split 0"):
        layers.balanced_dims(0, 2)
