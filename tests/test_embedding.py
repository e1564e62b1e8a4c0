"""Factorized embeddings against torch's own."""

import copy
import io
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tnlib.layers.embedding import FactorizedEmbedding, SVDEmbedding, TTEmbedding

CLASSES = (SVDEmbedding, TTEmbedding)
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def embedding(rows, columns, *, padding_idx=None, dtype=torch.float64, seed=0):
    layer = nn.Embedding(rows, columns, padding_idx=padding_idx, dtype=dtype)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(rows, columns, generator=generator, dtype=torch.float64))
        if padding_idx is not None:
            layer.weight[padding_idx] = 0.0
    return layer


@pytest.mark.parametrize("cls", CLASSES)
@settings(max_examples=60)
@given(data=st.data())
def test_at_full_rank_equals_the_layer(cls, data):
    rows, columns = data.draw(st.integers(1, 60)), data.draw(st.integers(1, 24))
    padding_idx = data.draw(st.one_of(st.none(), st.integers(-rows, rows - 1)))
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]))
    layer = embedding(rows, columns, padding_idx=padding_idx, dtype=dtype, seed=data.draw(st.integers(0, 99)))
    options = {}
    if cls is TTEmbedding and data.draw(st.booleans()):
        count = data.draw(st.integers(1, 4))

        def digits(size):
            """Digits, in any order, that multiply to the size or, as often as not, to more."""
            dims = [data.draw(st.integers(1, 4)) for _ in range(count - 1)]
            return tuple(data.draw(st.permutations([*dims, -(-size // math.prod(dims))])))

        options = {"row_dims": digits(rows), "col_dims": digits(columns)}
    module = cls.from_layer(layer, cls.max_rank((rows, columns), **options), **options)
    shape = data.draw(st.one_of(st.lists(st.integers(0, 5), max_size=3), st.just([300])))
    indices = torch.randint(rows, shape, generator=torch.Generator().manual_seed(1))
    indices = indices.to(data.draw(st.sampled_from([torch.int64, torch.int32])))
    got, want = module(indices), layer(indices)
    assert got.shape == want.shape
    assert got.dtype == want.dtype
    scale = TOLERANCE[dtype] * float(layer.weight.detach().norm())
    assert torch.allclose(got, want, atol=scale)
    assert torch.allclose(module.dense_weight(), layer.weight, atol=scale)


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("padding_idx", [None, 4])
class TestEveryClass:
    def test_rows_are_those_of_the_dense_weight(self, cls, padding_idx):
        module = cls.from_layer(embedding(50, 12, padding_idx=padding_idx), 3)
        # 7 indices: one slice each; 40: leading cores multiplied out; 400: repeated ones computed once.
        for number in (0, 1, 7, 40, 400):
            indices = torch.randint(50, (number,), generator=torch.Generator().manual_seed(number))
            assert torch.allclose(module(indices), module.dense_weight()[indices], atol=1e-12)
        assert torch.allclose(module(torch.tensor(7)), module.dense_weight()[7], atol=1e-12)

    def test_gradients_equal_those_through_the_dense_weight(self, cls, padding_idx):
        module = cls.from_layer(embedding(50, 12, padding_idx=padding_idx), 3)
        for number in (7, 40, 400):
            indices = torch.randint(50, (number,), generator=torch.Generator().manual_seed(number))
            indices[0] = 4
            weights = torch.randn(number, 12, dtype=torch.float64)
            got = torch.autograd.grad((module(indices) * weights).sum(), tuple(module.parameters()))
            want = torch.autograd.grad((module.dense_weight()[indices] * weights).sum(), tuple(module.parameters()))
            assert all(float(g.abs().sum()) > 0 for g in got)
            for one, other in zip(got, want, strict=True):
                assert torch.allclose(one, other, atol=1e-12)

    def test_state_dict_and_deepcopy(self, cls, padding_idx):
        layer = embedding(50, 12, padding_idx=padding_idx)
        module, other = cls.from_layer(layer, 3), cls.fresh(layer, 3)
        copied, indices = copy.deepcopy(module), torch.arange(50)
        buffer = io.BytesIO()
        torch.save(module.state_dict(), buffer)
        buffer.seek(0)
        assert not torch.allclose(module(indices), other(indices))
        other.load_state_dict(torch.load(buffer, weights_only=True))
        assert torch.equal(module(indices), other(indices))
        assert torch.equal(module(indices), copied(indices))
        assert module.rank == other.rank == copied.rank
        with torch.no_grad():
            for parameter in copied.parameters():
                parameter.add_(1.0)
        assert torch.equal(module(indices), other(indices))

    def test_mode_dtype_and_need_for_gradients_carry_over(self, cls, padding_idx):
        layer = embedding(50, 12, padding_idx=padding_idx, dtype=torch.float32).requires_grad_(False).eval()
        for module in (cls.from_layer(layer, 3), cls.fresh(layer, 3)):
            assert not module.training
            assert not any(p.requires_grad for p in module.parameters())
            assert {p.dtype for p in module.parameters()} == {torch.float32}

    def test_fresh(self, cls, padding_idx):
        """Mean square of the entries over independent draws, within five deviations of gain^2."""
        layer, draws = embedding(50, 12, padding_idx=padding_idx), 200
        tables = torch.stack([cls.fresh(layer, 3, gain=1.5, seed=seed).dense_weight() for seed in range(draws)])
        rows = [i for i in range(50) if i != padding_idx]
        squares = tables[:, rows].square().mean((1, 2)).detach()
        deviation = float(squares.std()) / draws**0.5
        assert deviation < 0.15
        assert abs(float(squares.mean()) - 1.5**2) < 5 * deviation
        assert torch.equal(cls.fresh(layer, 3, gain=1.5).dense_weight(), tables[0])
        assert not torch.equal(tables[0], tables[1])

    def test_export(self, cls, padding_idx):
        module = cls.from_layer(embedding(50, 12, padding_idx=padding_idx), 3).eval()
        indices = torch.randint(50, (300,))
        exported = torch.export.export(module, (indices,)).module()
        assert torch.allclose(exported(indices), module(indices), atol=1e-12)


@pytest.mark.parametrize("cls", CLASSES)
def test_the_row_of_padding_idx_stays_zero_in_training(cls):
    module = cls.from_layer(embedding(30, 8, padding_idx=2), 4)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    before = module.dense_weight().detach()
    for _ in range(3):
        optimizer.zero_grad()
        (module(torch.arange(30)) - 1.0).square().sum().backward()
        optimizer.step()
        assert torch.equal(module(torch.tensor([2, 2])), torch.zeros(2, 8, dtype=torch.float64))
        assert torch.equal(module.dense_weight()[2], torch.zeros(8, dtype=torch.float64))
    assert not torch.allclose(module.dense_weight(), before, atol=0.01)
    module.zero_grad()
    module(torch.tensor([2, 2, 2])).sum().backward()
    assert all(p.grad is None or float(p.grad.abs().max()) == 0.0 for p in module.parameters())


@torch.no_grad()
def test_variance_over_one_large_table():
    # At this rank the entries are almost independent: the bound is five deviations of the mean square.
    layer = nn.Embedding(2000, 256)
    for cls, rank in ((SVDEmbedding, 128), (TTEmbedding, 64)):
        module = cls.fresh(layer, rank)
        parts = [p.numel() for p in module.parameters()]
        bound = 5 * math.sqrt(sum(2 / n for n in parts))
        assert abs(float(module.dense_weight().square().mean()) - 1) < bound < 0.25


def test_numbers_of_parameters_and_digits_by_default():
    module = TTEmbedding.fresh(nn.Embedding(1000, 64), 8)
    assert (module.row_dims, module.col_dims, module.rank) == ((10, 10, 10), (4, 4, 4), (8, 8))
    assert sum(p.numel() for p in module.parameters()) == 40 * 8 + 8 * 40 * 8 + 8 * 40
    assert sum(p.numel() for p in SVDEmbedding.fresh(nn.Embedding(1000, 64), 8).parameters()) == 8 * 1064


@pytest.mark.parametrize("cls", CLASSES)
def test_bad_input(cls):
    layer = embedding(10, 4)
    for make in (cls.from_layer, cls.fresh):
        for bad in (0, -1, 10**6):
            with pytest.raises(ValueError, match="largest useful one here is"):
                make(layer, bad)
        with pytest.raises(TypeError, match=r"replaces nn\.Embedding, got Linear"):
            make(nn.Linear(2, 2), 1)
        for option, value in (("max_norm", 1.0), ("scale_grad_by_freq", True), ("sparse", True)):
            with pytest.raises(ValueError, match=f"cannot factorize an nn.Embedding with {option}={value}"):
                make(nn.Embedding(10, 4, **{option: value}), 1)
    full = nn.Embedding(10, 4, padding_idx=3)
    nn.init.ones_(full.weight)
    with pytest.raises(ValueError, match="the row of padding_idx=3 is not zero"):
        cls.from_layer(full, 1)
    module = cls.from_layer(layer, 2)
    for bad in (10, -1, 11):  # 11 lies within the digits' 12 rows
        with pytest.raises(IndexError, match=f"index {bad} is out of range for 10 embeddings"):
            module(torch.tensor([0, bad]))
    with pytest.raises(TypeError, match="indices must be int64 or int32"):
        module(torch.tensor([0.0]))


def test_bad_digits_and_ranks():
    layer = embedding(10, 4)
    with pytest.raises(ValueError, match="which is less than the weight's 10 x 4"):
        TTEmbedding.from_layer(layer, 1, row_dims=(3, 3), col_dims=(2, 2))
    with pytest.raises(ValueError, match="must be equally many"):
        TTEmbedding.from_layer(layer, 1, row_dims=(5, 2), col_dims=(4,))
    with pytest.raises(ValueError, match="TT rank number 1 9 is out of range"):
        TTEmbedding.from_layer(layer, (9,), row_dims=(5, 2), col_dims=(2, 2))
    with pytest.raises(TypeError, match="abstract"):
        FactorizedEmbedding(layer)
