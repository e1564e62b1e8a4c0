"""Corrected CPDs: smaller terms at the same error, closed forms for matrices; the greedy method and where it fails."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_tensors import random_cp, with_noise
from tensorly.cp_tensor import CPTensor

from tnlib import decompose

shapes = st.lists(st.integers(2, 5), min_size=2, max_size=4).map(tuple)


def error(found, tensor):
    return float((found.to_tensor() - tensor).norm() / tensor.norm())


def size(found, tensor):
    """Square root of the sum of squared norms of the terms, divided by the tensor's norm."""
    return float(found.weights.norm() / tensor.norm())


def smallest_nuclear_norm(matrix, away):
    """Of the matrices within a distance: singular values lowered by one threshold (Cai, Candes and Shen 2010)."""
    values = torch.linalg.svdvals(matrix)
    low, high = 0.0, float(values[0])
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if float(values.clamp(max=middle).norm()) <= away else (low, middle)
    return float((values - low).clamp(min=0).sum())


@settings(max_examples=25, deadline=None)
@given(shapes, st.integers(1, 4), st.integers(0, 99))
def test_terms_get_smaller_at_the_same_error(shape, rank, seed):
    rank = min(rank, decompose.max_cp_rank(shape))
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = decompose.cp(tensor, rank, max_iter=30, seed=seed)
    if not 1e-6 < error(found, tensor) < 1:
        return
    corrected = decompose.correct_cp(tensor, found, max_iter=30)
    assert error(corrected, tensor) <= error(found, tensor) * (1 + 1e-6)
    assert size(corrected, tensor) <= size(found, tensor) * (1 + 1e-6)
    for factor, n in zip(corrected.factors, shape, strict=True):
        assert factor.shape == (n, rank)


@pytest.mark.parametrize("away", [0.05, 0.3, 0.6])
def test_for_a_matrix_the_terms_are_as_small_as_its_nuclear_norm_allows(away):
    """R terms have at least the nuclear norm together, so at least its square over R as sum of squares."""
    matrix = torch.randn(6, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    found = decompose.cp(matrix, 5, max_iter=200)
    corrected = decompose.correct_cp(matrix, found, rel_error=away, max_iter=3000, tol=1e-9)
    assert error(corrected, matrix) == pytest.approx(away, rel=1e-6)
    least = smallest_nuclear_norm(matrix, away * float(matrix.norm())) / 5**0.5 / float(matrix.norm())
    assert least * (1 - 1e-6) <= size(corrected, matrix) <= 1.02 * least


def test_a_degenerate_fit_becomes_a_tame_one():
    """a a b + a b a + b a a has border rank 2: terms of a close fit diverge and cancel."""
    a, b = torch.eye(3, dtype=torch.float64)[:2]
    tensor = sum(torch.einsum("i,j,k->ijk", *three) for three in ((a, a, b), (a, b, a), (b, a, a)))
    found = decompose.cp(tensor, 2, method="nls", max_iter=300, tol=1e-16)
    assert size(found, tensor) > 10
    tame = decompose.correct_cp(tensor, found, rel_error=0.2)
    assert error(tame, tensor) == pytest.approx(0.2, rel=1e-5)
    assert size(tame, tensor) < 3


@pytest.mark.parametrize("bound", [0.3, 0.8, 5.0])
def test_a_bound_on_the_terms_holds(bound):
    tensor = with_noise(random_cp((6, 5, 4), 4, seed=1)[0], 10.0)
    found = decompose.cp(tensor, 4, max_iter=200)
    bounded = decompose.correct_cp(tensor, found, max_norm=bound, max_iter=300)
    assert size(bounded, tensor) <= bound * (1 + 1e-6)
    if bound > size(found, tensor):  # it asks for nothing
        assert error(bounded, tensor) <= error(found, tensor) * (1 + 1e-6)
    direct = decompose.cp(tensor, 4, max_iter=200, max_norm=bound)
    assert size(direct, tensor) <= bound * (1 + 1e-6)


def test_dtype_scale_and_weights_do_not_matter():
    tensor, factors = random_cp((4, 4, 3), 2, seed=4)
    tensor = with_noise(tensor, 20.0)
    found = CPTensor((torch.tensor([2.0, 3.0], dtype=torch.float64), [factors[0] / 2, factors[1], factors[2]]))
    want = decompose.correct_cp(tensor, found, rel_error=0.5)
    for scale in (1e-200, 1e200):
        given_ = CPTensor((found.weights * scale, found.factors))
        got = decompose.correct_cp(tensor * scale, given_, rel_error=0.5)
        assert torch.allclose(got.to_tensor() / scale, want.to_tensor(), rtol=1e-6, atol=1e-8)
    narrow = CPTensor((None, [factor.float() for factor in factors]))
    assert decompose.correct_cp(tensor.float(), narrow, rel_error=0.5).factors[0].dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rel_error": 0.1, "max_norm": 1.0}, "rel_error or max_norm, not both"),
        ({"rel_error": 1.0}, "rel_error must lie in"),
        ({"max_norm": 0.0}, "max_norm must be positive"),
    ],
)
def test_bad_bounds_are_refused(options, message):
    tensor, factors = random_cp((4, 3, 2), 2)
    with pytest.raises(ValueError, match=message):
        decompose.correct_cp(tensor, CPTensor((None, factors)), **options)


def test_factors_of_another_shape_are_refused():
    _, factors = random_cp((4, 3, 2), 2)
    with pytest.raises(ValueError, match=r"make a tensor of shape \(4, 3, 2\), not \(4, 3, 5\)"):
        decompose.correct_cp(torch.ones(4, 3, 5), CPTensor((None, factors)))


def test_greedy_terms_of_a_matrix_are_those_of_its_svd():
    matrix = torch.randn(7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = decompose.greedy_cp(matrix, 3, max_iter=2000, tol=1e-13)
    assert torch.allclose(found.weights, torch.linalg.svdvals(matrix)[:3], rtol=1e-4)


def test_greedy_terms_of_orthogonal_ones_are_these_and_of_others_are_not():
    basis = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)).Q
    a, b = basis[:, 0], basis[:, 1]
    tensor = 2 * torch.einsum("i,j,k->ijk", a, a, a) + torch.einsum("i,j,k->ijk", b, b, b)
    assert error(decompose.greedy_cp(tensor, 2, max_iter=500, tol=1e-12), tensor) < 1e-5
    c = 0.6 * a + 0.8 * b
    tensor = torch.einsum("i,j,k->ijk", a, a, a) + torch.einsum("i,j,k->ijk", c, c, c)
    together = decompose.cp(tensor, 2, method="nls", restarts=3, tol=1e-14)
    assert error(together, tensor) < 1e-6
    assert error(decompose.greedy_cp(tensor, 2, max_iter=500, tol=1e-12), tensor) > 0.1
    assert error(decompose.greedy_cp(tensor, 4, max_iter=500, tol=1e-12), tensor) > 1e-3  # nor with twice as many


@pytest.mark.parametrize("method", ["als", "nls"])
def test_a_fit_stops_at_the_error_that_is_asked_for(method):
    tensor = with_noise(random_cp((12, 10, 8), 5, seed=2)[0], 20.0)
    best = error(decompose.cp(tensor, 5, method=method), tensor)
    for goal in (0.5, 0.3):
        found = decompose.cp(tensor, 5, method=method, rel_error=goal, restarts=3)
        assert best < error(found, tensor) <= goal
    with pytest.raises(ValueError, match=r"rel_error must lie in \[0, 1\)"):
        decompose.cp(tensor, 5, method=method, rel_error=1.0)
    assert error(decompose.cp(tensor, 5, method="greedy"), tensor) > best
    with pytest.raises(ValueError, match="belong to als and nls"):
        decompose.cp(tensor, 5, method="coupled", rel_error=0.5)


def test_a_large_fit_begins_with_sweeps_and_goes_on_with_better_steps():
    tensor = torch.randn(24, 20, 3, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    rank = 32  # 1,600 unknowns
    first, again = (decompose.cp(tensor, rank, method="nls", max_iter=20) for _ in range(2))
    assert error(first, tensor) < error(decompose.cp(tensor, rank, max_iter=40), tensor)
    assert torch.equal(first.weights, again.weights)
