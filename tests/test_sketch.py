"""SVDs and tensor trains by a random sketch against plain ones."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tnlib import decompose, layers, measure
from tnlib.decompose.sketch import LARGE


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def relative(approximation, tensor):
    return float((approximation - tensor).norm() / tensor.norm())


def smooth(rows, cols):
    """A matrix whose unfoldings have decaying singular values, and noise in it."""
    i, j = torch.arange(rows, dtype=torch.float64)[:, None], torch.arange(cols, dtype=torch.float64)
    return torch.cos(3e-5 * i * j) / (1 + 0.01 * (i - j).abs()) + 0.02 * randn(rows, cols)


def exact(row_dims, col_dims, rank):
    """A matrix of these TT ranks."""
    ends = [1, *[rank] * (len(row_dims) - 1), 1]
    matrix, shapes = torch.ones(1, 1, 1, dtype=torch.float64), zip(ends, row_dims, col_dims, ends[1:], strict=False)
    for seed, shape in enumerate(shapes):
        matrix = torch.einsum("abr,rijs->aibjs", matrix, randn(*shape, seed=seed)).flatten(2, 3).flatten(0, 1)
    return matrix[..., 0]


def assert_left_orthogonal(train, atol=1e-10):
    for core in train.factors[:-1]:
        flat = core.flatten(0, -2)
        assert torch.allclose(flat.mT @ flat, torch.eye(flat.shape[1], dtype=flat.dtype), atol=atol)


DIGITS = (4, 4, 4, 4), (3, 7, 7, 4)  # 256 x 588


@pytest.mark.parametrize("rank", [1, 4, 16])
def test_a_sketched_tt_matrix_is_as_near_as_that_of_tt_svd(rank):
    matrix = smooth(256, 588)
    plain, sketched = (decompose.tt_matrix(matrix, *DIGITS, rank, sketch=sketch) for sketch in (False, True))
    best, found = (relative(train.to_matrix(), matrix) for train in (plain, sketched))
    assert 0.01 < best < 0.99
    assert found < 1.01 * best
    assert [core.shape for core in sketched.factors] == [core.shape for core in plain.factors]
    assert_left_orthogonal(sketched)


def test_a_sketched_svd_is_as_near_as_the_best_one():
    matrix = smooth(256, 588)
    plain, sketched = (decompose.svd(matrix, 16, sketch=sketch) for sketch in (False, True))
    assert not torch.equal(plain.U, sketched.U)
    assert relative(sketched.to_matrix(), matrix) < 1.01 * relative(plain.to_matrix(), matrix)
    assert torch.allclose(sketched.S[:8], plain.S[:8], rtol=1e-3)
    assert bool((sketched.S <= plain.S * (1 + 1e-12)).all())
    for part in (sketched.U.mT, sketched.Vh):
        assert torch.allclose(part @ part.mT, torch.eye(16, dtype=torch.float64), atol=1e-12)


@pytest.mark.parametrize("rank", [1, 3, 12])
@pytest.mark.parametrize("digits", [DIGITS, ((2, 2, 8, 8, 2), (5, 3, 7, 4, 1)), ((40, 30), (35, 50))])
def test_a_matrix_of_these_ranks_is_found_exactly(digits, rank):
    matrix = exact(*digits, rank)
    train = decompose.tt_matrix(matrix, *digits, rank, sketch=True)
    assert relative(train.to_matrix(), matrix) < 1e-10


def test_a_matrix_of_this_rank_is_found_exactly():
    low = randn(120, 12) @ randn(12, 175, seed=1)
    assert relative(decompose.svd(low, 12, sketch=True).to_matrix(), low) < 1e-10


@given(st.lists(st.integers(1, 6), min_size=2, max_size=5).map(tuple), st.data())
def test_any_ranks_give_the_shapes_of_tt_svd_and_keep_its_bound(shape, data):
    ranks = [data.draw(st.integers(1, limit)) for limit in decompose.max_tt_ranks(shape)]
    tensor = randn(*shape, seed=sum(shape))
    plain, sketched = (decompose.tt(tensor, ranks, sketch=sketch) for sketch in (False, True))
    assert [core.shape for core in sketched.factors] == [core.shape for core in plain.factors]
    assert_left_orthogonal(sketched)
    # Oseledets 2011, theorem 2.2, for the ranks that the train can use.
    useful = list(decompose.tt(plain.to_tensor(), rel_error=1e-12).rank[1:-1])
    tails = [
        torch.linalg.svdvals(tensor.reshape(math.prod(shape[:q]), -1))[useful[q - 1] :].norm()
        for q in range(1, len(shape))
    ]
    assert float((sketched.to_tensor() - tensor).norm()) <= float(torch.stack(tails).norm()) + 1e-10


def test_ranks_that_a_later_one_makes_useless_are_kept():
    tensor = randn(30, 4, 35, 4, 30)
    plain, sketched = (decompose.tt(tensor, (30, 2, 4, 16), sketch=sketch) for sketch in (False, True))
    assert sketched.rank == plain.rank == (1, 30, 2, 4, 16, 1)
    assert_left_orthogonal(sketched)
    assert relative(sketched.to_tensor(), tensor) < 1.01 * relative(plain.to_tensor(), tensor)


def test_auto_sketches_what_is_large_only():
    at, beyond = randn(2048, 2048, dtype=torch.float32), randn(2048, 2049, dtype=torch.float32)
    assert at.numel() == LARGE
    dims = {at: ((2, 32, 32), (32, 32, 2)), beyond: ((2, 32, 32), (3, 683, 1))}
    for matrix, same in ((at, False), (beyond, True)):
        auto, wanted, other = (
            decompose.tt_matrix(matrix, *dims[matrix], 2, sketch=sketch).factors for sketch in ("auto", same, not same)
        )
        assert all(torch.equal(a, b) for a, b in zip(auto, wanted, strict=True))
        assert not all(torch.equal(a, b) for a, b in zip(auto, other, strict=True))
    auto, sketched = (decompose.svd(beyond, 2, sketch=sketch) for sketch in ("auto", True))
    assert torch.equal(auto.U, sketched.U)
    assert relative(sketched.to_matrix(), beyond) < 1


def test_a_given_error_is_met_by_plain_svds():
    matrix = smooth(64, 81)
    digits = (4, 4, 4), (3, 9, 3)
    plain, asked = (decompose.tt_matrix(matrix, *digits, rel_error=0.1, sketch=s).factors for s in (False, True))
    assert all(torch.equal(a, b) for a, b in zip(plain, asked, strict=True))
    assert torch.equal(decompose.svd(matrix, rel_error=0.1).U, decompose.svd(matrix, rel_error=0.1, sketch=True).U)


def test_the_seed_decides_the_sketch():
    matrix = smooth(256, 588)
    for call in (
        lambda seed: decompose.tt_matrix(matrix, *DIGITS, 4, sketch=True, seed=seed).factors,
        lambda seed: decompose.svd(matrix, 4, sketch=True, seed=seed),
    ):
        one, same, other = call(3), call(3), call(4)
        assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
        assert not all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("sketch", ["yes", None, 2])
def test_an_unknown_sketch_is_refused(sketch):
    for call in (
        lambda: decompose.svd(randn(4, 4), 2, sketch=sketch),
        lambda: decompose.tt(randn(4, 4), 2, sketch=sketch),
        lambda: decompose.tt_matrix(randn(4, 4), (2, 2), (2, 2), 2, sketch=sketch),
        lambda: decompose.tt_matrix(randn(4, 4), (4,), (4,), (), sketch=sketch),
    ):
        with pytest.raises(ValueError, match="sketch must be 'auto', True or False, got"):
            call()


@pytest.fixture(scope="module")
def large():
    """A layer whose weight takes 42 MB in float64."""
    layer = nn.utils.skip_init(nn.Linear, 2048, 2560)
    with torch.no_grad():
        layer.weight.copy_(randn(2560, 2048, dtype=torch.float32))
        layer.bias.zero_()
    return layer


SPLIT = {"row_dims": (5, 8, 8, 8), "col_dims": (4, 8, 8, 8)}


def test_a_large_matrix_stands_in_memory_once(large):
    weight, double = large.weight.detach(), 8 * large.weight.numel()
    assert double < measure.peak_memory(lambda: decompose.tt_matrix(weight, *SPLIT.values(), 8)) < 1.1 * double
    # A layer's weight is made float64 first.
    assert measure.peak_memory(lambda: layers.factorize(large, "ttm", 8, **SPLIT)) < 2.1 * double


def test_layers_take_sketch_and_seed(large):
    for options in ({"format": "ttm", "rank": 4, **SPLIT}, {"format": "svd", "rank": 4}):
        zero, same, one = (layers.factorize(large, **options, seed=seed).factors()[0] for seed in (0, 0, 1))
        assert torch.equal(zero, same)
        assert not torch.equal(zero, one)
    small = nn.Linear(64, 64)
    by_seed = [layers.factorize(small, "svd", 4, sketch=True, seed=seed).factors()[0] for seed in (0, 1)]
    plain = layers.factorize(small, "svd", 4).factors()[0]
    assert not torch.equal(*by_seed)
    assert not torch.equal(by_seed[0], plain)
