"""Factorized embeddings against torch's own."""

import copy
import io
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_cases import assert_same, filled
from torch import nn

from tnlib import layers
from tnlib.layers import SVDEmbedding, TTMEmbedding

CLASSES = (SVDEmbedding, TTMEmbedding)
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def embedding(rows, columns, *, padding_idx=None, dtype=torch.float64, seed=0):
    return filled(nn.Embedding(rows, columns, padding_idx=padding_idx, dtype=dtype), seed)


@pytest.mark.parametrize("cls", CLASSES)
@settings(max_examples=40)
@given(data=st.data())
@torch.no_grad()
def test_at_full_rank_equals_the_layer(cls, data):
    rows, columns = data.draw(st.integers(1, 60)), data.draw(st.integers(1, 24))
    padding_idx = data.draw(st.one_of(st.none(), st.integers(-rows, rows - 1)))
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]))
    layer = embedding(rows, columns, padding_idx=padding_idx, dtype=dtype, seed=data.draw(st.integers(0, 99)))
    options = {}
    if cls is TTMEmbedding and data.draw(st.booleans()):
        count = data.draw(st.integers(1, 4))

        def digits(size):
            """Digits, in any order, that multiply to the size or, as often as not, to more."""
            dims = [data.draw(st.integers(1, 4)) for _ in range(count - 1)]
            return tuple(data.draw(st.permutations([*dims, -(-size // math.prod(dims))])))

        options = {"row_dims": digits(rows), "col_dims": digits(columns)}
    module = cls.from_layer(layer, cls.max_rank(layer, **options), **options)
    shape = data.draw(st.one_of(st.lists(st.integers(0, 5), max_size=3), st.just([300])))
    indices = torch.randint(rows, shape, generator=torch.Generator().manual_seed(1))
    indices = indices.to(data.draw(st.sampled_from([torch.int64, torch.int32])))
    got, want = module(indices), layer(indices)
    assert (got.shape, got.dtype) == (want.shape, want.dtype)
    scale = TOLERANCE[dtype] * float(layer.weight.norm())
    assert torch.allclose(got, want, atol=scale)
    assert torch.allclose(module.dense_weight(), layer.weight, atol=scale)
    assert module.padding_idx == layer.padding_idx


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("padding_idx", [None, 4])
class TestEveryClass:
    def make(self, cls, padding_idx):
        return cls.from_layer(embedding(50, 12, padding_idx=padding_idx), 3)

    def test_rows_are_those_of_the_dense_weight(self, cls, padding_idx):
        module = self.make(cls, padding_idx)
        for number in (0, 1, 7, 40, 400):
            indices = torch.randint(50, (number,), generator=torch.Generator().manual_seed(number))
            for context in (torch.no_grad, torch.enable_grad):
                with context():
                    assert_same(module(indices), module.dense_weight()[indices], 1e-12)
        assert_same(module(torch.tensor(7)), module.dense_weight()[7], 1e-12)

    def test_gradients_equal_those_through_the_dense_weight(self, cls, padding_idx):
        module = self.make(cls, padding_idx)
        for number in (7, 40, 400):
            generator = torch.Generator().manual_seed(number)
            indices = torch.randint(50, (number,), generator=generator)
            indices[0] = 4
            weights = torch.randn(number, 12, generator=generator, dtype=torch.float64)
            got = torch.autograd.grad((module(indices) * weights).sum(), tuple(module.parameters()))
            want = torch.autograd.grad((module.dense_weight()[indices] * weights).sum(), tuple(module.parameters()))
            assert all(float(g.abs().sum()) > 0 for g in got)
            for one, other in zip(got, want, strict=True):
                assert_same(one, other, 1e-12)

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

    def test_fresh(self, cls, padding_idx):
        """Every draw's entries have the mean square gain^2, the row of padding apart; their mean is zero over draws."""
        layer, draws = embedding(50, 12, padding_idx=padding_idx), 200
        rows = [i for i in range(50) if i != padding_idx]
        tables = torch.stack([cls.fresh(layer, 3, gain=1.5, seed=seed).dense_weight() for seed in range(draws)])
        squares = tables[:, rows].detach().square().mean((1, 2))
        assert abs(float(squares.mean()) - 1.5**2) < 0.15 * 1.5**2
        means = tables[:, rows].detach().mean((1, 2))
        assert abs(float(means.mean())) < 5 * float(means.std()) / draws**0.5
        assert torch.equal(cls.fresh(layer, 3, gain=1.5).dense_weight(), tables[0])
        assert not torch.equal(tables[0], tables[1])

    @torch.no_grad()
    def test_export_with_any_number_of_indices(self, cls, padding_idx):
        module = self.make(cls, padding_idx).eval()
        dims = {0: torch.export.Dim("batch", max=1000), 1: torch.export.Dim("length", max=1000)}
        exported = torch.export.export(module, (torch.randint(50, (3, 5)),), dynamic_shapes=(dims,)).module()
        for shape in ((3, 5), (2, 2), (40, 30)):
            indices = torch.randint(50, shape)
            assert_same(exported(indices), module.dense_weight()[indices], 1e-12)

    def test_vmap_over_sentences(self, cls, padding_idx):
        module, indices = self.make(cls, padding_idx), torch.randint(50, (4, 6))
        assert_same(torch.func.vmap(module)(indices), module(indices), 1e-12)


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_the_row_of_padding_idx_stays_zero_in_training(cls, optimizer):
    module = cls.from_layer(embedding(30, 8, padding_idx=2), 4)
    chosen = optimizer(module.parameters(), lr=0.1)
    before = module.dense_weight().detach()
    for _ in range(3):
        chosen.zero_grad()
        (module(torch.arange(30)) - 1.0).square().sum().backward()
        chosen.step()
        assert torch.equal(module(torch.tensor([2, 2])), torch.zeros(2, 8, dtype=torch.float64))
        assert torch.equal(module.dense_weight()[2], torch.zeros(8, dtype=torch.float64))
    assert not torch.allclose(module.dense_weight(), before, atol=0.01)
    module.zero_grad()
    module(torch.tensor([2, 2, 2])).sum().backward()
    assert all(p.grad is None or float(p.grad.abs().max()) == 0.0 for p in module.parameters())


def test_numbers_of_parameters_and_digits_by_default():
    module = TTMEmbedding.fresh(nn.Embedding(1000, 64), 8)
    assert (module.row_dims, module.col_dims, module.rank) == ((10, 10, 10), (4, 4, 4), (8, 8))
    assert sum(p.numel() for p in module.parameters()) == 40 * 8 + 8 * 40 * 8 + 8 * 40
    assert sum(p.numel() for p in SVDEmbedding.fresh(nn.Embedding(1000, 64), 8).parameters()) == 8 * 1064


@pytest.mark.parametrize("cls", CLASSES)
def test_options_that_factors_cannot_keep_are_refused(cls):
    for make in (cls.from_layer, cls.fresh):
        for option, value in (("max_norm", 1.0), ("scale_grad_by_freq", True), ("sparse", True)):
            with pytest.raises(ValueError, match=f"cannot factorize an nn.Embedding with {option}={value}"):
                make(nn.Embedding(10, 4, **{option: value}), 1)
    full = nn.Embedding(10, 4, padding_idx=3)
    nn.init.ones_(full.weight)
    with pytest.raises(ValueError, match="the row of padding_idx=3 is not zero"):
        cls.from_layer(full, 1)
    assert torch.equal(cls.fresh(full, 1)(torch.tensor([3])), torch.zeros(1, 4))
    with pytest.raises(TypeError, match="EmbeddingBag"):
        layers.factorize(nn.EmbeddingBag(10, 4), cls.format, 1)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("cls", CLASSES)
def test_bad_indices(cls, frozen):
    module = cls.from_layer(embedding(10, 4), 2)
    if frozen:
        module = layers.freeze(module, torch.tensor([0]))
    for bad in (10, -1, 11):  # 11 lies within the digits' 12 rows
        with pytest.raises(IndexError, match="out of range"):
            module(torch.tensor([0, bad]))
    with pytest.raises(TypeError, match="indices must be int64 or int32"):
        module(torch.tensor([0.0]))


@pytest.mark.parametrize("cls", CLASSES)
def test_indices_are_checked_in_transforms_and_graphs_too(cls):
    """Where values are not known, a bad index must not read another row."""
    module = cls.from_layer(embedding(10, 4), 2)
    with torch.no_grad():
        exported = torch.export.export(module.eval(), (torch.tensor([1, 2]),)).module()
    for call in (exported, torch.func.vmap(module)):
        with pytest.raises((IndexError, RuntimeError)):
            call(torch.tensor([0, 11]))
