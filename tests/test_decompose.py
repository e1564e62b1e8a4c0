"""Decompositions against oracles: closed forms, numpy, TensorLy's own, exact constructions."""

import math
from itertools import pairwise

import numpy as np
import pytest
import tensorly as tl
import torch
from hypothesis import given
from hypothesis import strategies as st

from tnlib import decompose
from tnlib.decompose._validate import as_float64
from tnlib.decompose.cp import mttkrp

shapes = st.lists(st.integers(1, 6), min_size=2, max_size=5).map(tuple)


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def exact_cp(shape, rank, seed=0):
    factors = [randn(n, rank, seed=seed + q) for q, n in enumerate(shape)]
    letters = "abcdefgh"[: len(shape)]
    return torch.einsum(",".join(f"{a}r" for a in letters) + "->" + letters, *factors), factors


def relative(approximation, tensor):
    return float((approximation - tensor).norm() / tensor.norm())


# --- svd ---------------------------------------------------------------------------------------------------------


@given(st.integers(1, 9), st.integers(1, 9), st.data())
def test_svd_error_is_the_tail_of_numpys_singular_values(m, n, data):
    matrix = randn(m, n, seed=m * n)
    rank = data.draw(st.integers(1, min(m, n)))
    got = decompose.svd(matrix, rank)
    s = np.linalg.svd(matrix.numpy(), compute_uv=False)
    assert got.U.shape == (m, rank)
    assert got.Vh.shape == (rank, n)
    assert math.isclose(float((matrix - got.to_matrix()).norm()), np.linalg.norm(s[rank:]), abs_tol=1e-12)
    assert torch.allclose(got.U.mT @ got.U, torch.eye(rank, dtype=torch.float64), atol=1e-12)


@given(st.floats(0.01, 0.95))
def test_svd_by_error_keeps_the_smallest_rank_that_reaches_it(error):
    matrix = randn(12, 20)
    got = decompose.svd(matrix, rel_error=error)
    assert relative(got.to_matrix(), matrix) <= error
    if len(got.S) > 1:
        assert relative(decompose.svd(matrix, len(got.S) - 1).to_matrix(), matrix) > error


def test_svd_of_error_zero_drops_only_what_rounding_left():
    matrix = randn(20, 3) @ randn(3, 15, seed=1)
    assert len(decompose.svd(matrix, rel_error=0.0).S) == 3


def test_svd_signs_do_not_depend_on_the_input_sign():
    matrix = randn(6, 5)
    plus, minus = decompose.svd(matrix, 3), decompose.svd(-matrix, 3)
    assert torch.allclose(plus.U, minus.U)
    assert torch.allclose(plus.Vh, -minus.Vh)


# --- tensor train ------------------------------------------------------------------------------------------------


@given(shapes)
def test_tt_at_full_rank_is_exact(shape):
    tensor = randn(*shape, seed=sum(shape))
    assert torch.allclose(decompose.tt(tensor, decompose.max_tt_ranks(shape)).to_tensor(), tensor, atol=1e-12)
    assert torch.allclose(decompose.tt(tensor, rel_error=0.0).to_tensor(), tensor, atol=1e-11)


@given(shapes, st.integers(1, 4))
def test_tt_equals_tensorly_at_equal_ranks(shape, rank):
    tensor = randn(*shape, seed=sum(shape))
    ranks = [min(rank, limit) for limit in decompose.max_tt_ranks(shape)]
    ours = decompose.tt(tensor, ranks)
    theirs = tl.decomposition.tensor_train(tensor, [1, *ranks, 1])
    assert [core.shape for core in ours.factors] == [core.shape for core in theirs.factors]
    assert torch.allclose(ours.to_tensor(), theirs.to_tensor(), atol=1e-10)


@given(shapes, st.floats(0.0, 0.9))
def test_tt_by_error_stays_within_it_and_is_left_orthogonal(shape, error):
    tensor = randn(*shape, seed=sum(shape))
    train = decompose.tt(tensor, rel_error=error)
    assert relative(train.to_tensor(), tensor) <= error + 1e-10
    for core in train.factors[:-1]:
        flat = core.flatten(0, 1)
        assert torch.allclose(flat.mT @ flat, torch.eye(flat.shape[1], dtype=torch.float64), atol=1e-10)


def test_tt_error_bound_of_oseledets_theorem_2_2():
    tensor = randn(5, 6, 4, 5)
    ranks = (3, 4, 2)
    tails = [
        torch.linalg.svdvals(tensor.reshape(math.prod(tensor.shape[:q]), -1))[ranks[q - 1] :].norm() for q in (1, 2, 3)
    ]
    error = (decompose.tt(tensor, ranks).to_tensor() - tensor).norm()
    assert max(tails) - 1e-12 <= error <= torch.stack(tails).norm() + 1e-12


def test_tt_ranks_of_a_quantized_sine_are_two():
    t = torch.sin(0.37 + 0.01 * torch.arange(2**10, dtype=torch.float64)).reshape([2] * 10)
    assert set(decompose.tt(t, rel_error=1e-10).rank[1:-1]) == {2}


def test_tt_matrix_multiplies_out_to_the_matrix():
    matrix = randn(24, 30)
    train = decompose.tt_matrix(matrix, (2, 3, 4), (3, 2, 5), 20)
    assert torch.allclose(train.to_matrix(), matrix, atol=1e-12)
    assert [tuple(core.shape[1:3]) for core in train.factors] == [(2, 3), (3, 2), (4, 5)]


def test_tt_matrix_of_one_digit_is_a_copy_and_has_no_ranks():
    matrix = randn(3, 4)
    train = decompose.tt_matrix(matrix, (3,), (4,), ())
    assert torch.equal(train.to_matrix(), matrix)
    train.factors[0].zero_()
    assert float(matrix.abs().sum()) > 0
    with pytest.raises(ValueError, match="largest useful one here is 1"):
        decompose.tt_matrix(matrix, (3,), (4,), 10**6)
    with pytest.raises(ValueError, match="either rank or rel_error"):
        decompose.tt_matrix(matrix, (3,), (4,))


def test_tt_matrix_of_a_kronecker_product_has_rank_one():
    a, b = randn(3, 4), randn(5, 2, seed=1)
    train = decompose.tt_matrix(torch.kron(a, b), (3, 5), (4, 2), rel_error=1e-12)
    assert tuple(train.rank) == (1, 1, 1)


# --- Tucker ------------------------------------------------------------------------------------------------------


@given(shapes, st.data())
def test_tucker_at_full_rank_is_exact_on_any_modes(shape, data):
    tensor = randn(*shape, seed=sum(shape))
    modes = data.draw(st.sets(st.integers(0, len(shape) - 1), min_size=1))
    limits = [min(shape[m], tensor.numel() // shape[m]) for m in sorted(modes)]
    got = decompose.tucker(tensor, limits, modes=list(modes))
    assert torch.allclose(got.to_tensor(), tensor, atol=1e-11)
    for mode in set(range(len(shape))) - modes:
        assert torch.equal(got.factors[mode], torch.eye(shape[mode], dtype=torch.float64))


@pytest.mark.parametrize("modes", [(1, 0), (-1, 0), (2, 0, 1)])
@pytest.mark.parametrize("method", ["hosvd", "hooi"])
def test_tucker_ranks_belong_to_the_modes_in_the_order_given(modes, method):
    tensor, ranks = randn(6, 7, 8), (2, 5, 3)[: len(modes)]
    got = decompose.tucker(tensor, ranks, modes=modes, method=method)
    for mode, rank in zip(modes, ranks, strict=True):
        assert got.factors[mode].shape == (tensor.shape[mode], rank)
    plain = sorted(zip([m % 3 for m in modes], ranks, strict=True))
    same = decompose.tucker(tensor, [r for _, r in plain], modes=[m for m, _ in plain], method=method)
    assert abs(relative(got.to_tensor(), tensor) - relative(same.to_tensor(), tensor)) < 1e-2


def test_hosvd_is_within_its_bound_and_hooi_is_not_worse():
    tensor = randn(8, 7, 6, 5)
    ranks = (4, 3, 3, 2)
    tails = torch.stack([torch.linalg.svdvals(tl.unfold(tensor, q))[r:].norm() for q, r in enumerate(ranks)])
    hosvd = (decompose.tucker(tensor, ranks, method="hosvd").to_tensor() - tensor).norm()
    hooi = (decompose.tucker(tensor, ranks).to_tensor() - tensor).norm()
    assert hooi < hosvd <= tails.norm() + 1e-12
    assert hosvd <= math.sqrt(len(ranks)) * hooi


def test_hooi_reaches_tensorlys_error():
    tensor = randn(8, 7, 6)
    theirs = tl.decomposition.tucker(tensor, [3, 3, 2], n_iter_max=200, tol=1e-12)
    ours = decompose.tucker(tensor, (3, 3, 2), max_iter=200, tol=1e-12)
    assert relative(ours.to_tensor(), tensor) <= relative(theirs.to_tensor(), tensor) + 1e-6


@given(st.floats(0.05, 0.8))
def test_tucker_by_error_stays_within_it(error):
    tensor = randn(6, 5, 4)
    assert relative(decompose.tucker(tensor, rel_error=error).to_tensor(), tensor) <= error


# --- CP ----------------------------------------------------------------------------------------------------------


@given(shapes, st.integers(1, 4), st.data())
def test_mttkrp_equals_unfolding_times_khatri_rao(shape, rank, data):
    mode = data.draw(st.integers(0, len(shape) - 1))
    tensor, factors = randn(*shape), [randn(n, rank, seed=q) for q, n in enumerate(shape)]
    want = tl.tenalg.unfolding_dot_khatri_rao(tensor, (None, factors), mode)
    assert torch.allclose(mttkrp(tensor, factors, mode), want, atol=1e-10)


@pytest.mark.parametrize("shape", [(8, 7, 6), (16, 12, 3, 3), (5, 4, 4, 3, 3)])
def test_cp_recovers_an_exact_tensor_and_its_factors(shape):
    tensor, true = exact_cp(shape, 3)
    got = decompose.cp(tensor, 3, restarts=3, max_iter=3000, tol=1e-15)
    assert relative(got.to_tensor(), tensor) < 1e-12
    for factor, want in zip(got.factors, true, strict=True):
        match = (factor.mT @ (want / want.norm(dim=0))).abs()
        assert torch.allclose(match.max(1).values, torch.ones(3, dtype=torch.float64), atol=1e-6)


def test_cp_is_not_worse_than_tensorlys_parafac():
    tensor = randn(12, 10, 3, 3)
    theirs = tl.decomposition.parafac(tensor, 6, n_iter_max=500, tol=1e-10, init="random", random_state=0)
    ours = decompose.cp(tensor, 6, restarts=3, tol=1e-10)
    assert relative(ours.to_tensor(), tensor) <= relative(theirs.to_tensor(), tensor) + 5e-3


@pytest.mark.parametrize("init", ["random", "svd"])
def test_cp_is_deterministic_and_normalised(init):
    tensor = randn(9, 8, 3)
    a, b = (decompose.cp(tensor, 5, init=init, max_iter=20, seed=3) for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(a.factors, b.factors, strict=True))
    assert torch.equal(a.weights, a.weights.sort(descending=True).values)
    assert torch.allclose(torch.stack([f.norm(dim=0) for f in a.factors]), torch.ones(3, 5, dtype=torch.float64))


def test_cp_error_never_rises_with_more_sweeps():
    tensor = randn(10, 9, 8)
    errors = [relative(decompose.cp(tensor, 6, max_iter=k, tol=0.0).to_tensor(), tensor) for k in (1, 2, 4, 8, 16, 32)]
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(errors))


def test_cp_of_a_zero_tensor_is_zero():
    assert float(decompose.cp(torch.zeros(3, 4, 5), 2).to_tensor().abs().max()) == 0.0


# --- all of them -------------------------------------------------------------------------------------------------

CALLS = {
    "svd": lambda x, r: decompose.svd(x.flatten(1), r),
    "cp": lambda x, r: decompose.cp(x, r),
    "tucker": lambda x, r: decompose.tucker(x, r),
    "tt": lambda x, r: decompose.tt(x, r),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("rank", [0, -3, 10_000])
def test_a_rank_out_of_range_names_the_largest_useful_one(name, rank):
    x = randn(4, 3, 2)
    largest = {"svd": 4, "cp": 6, "tucker": 4, "tt": 4}[name]
    with pytest.raises(ValueError, match=rf"out of range.*largest useful one here is {largest}"):
        CALLS[name](x, rank)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("bad", ["nan", "both infinities", "integer", "rank text"])
def test_bad_input_is_refused(name, bad):
    x = randn(4, 3, 2)
    rank = 2
    if bad == "nan":
        x[0, 0, 0] = float("nan")
    if bad == "both infinities":
        x[0, 0, 0], x[1, 2, 1] = float("inf"), -float("inf")
    if bad == "integer":
        x = torch.ones(4, 3, 2, dtype=torch.int64)
    if bad == "rank text":
        rank = "two"
    with pytest.raises((ValueError, TypeError), match=r"nan|expected a real floating|must be an integer"):
        CALLS[name](x, rank)


def test_finite_entries_whose_sum_overflows_are_accepted():
    x = torch.full((2, 2), 1e308, dtype=torch.float64)
    assert torch.equal(as_float64(x), x)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_factors_have_the_inputs_dtype_and_the_input_is_untouched(name, dtype):
    x = randn(4, 3, 2).to(dtype)
    before = x.clone()
    got = CALLS[name](x, 2)
    parts = {"svd": lambda: list(got), "cp": lambda: [got.weights, *got.factors]}.get(
        name, lambda: list(got.factors) + ([got.core] if name == "tucker" else [])
    )()
    assert {p.dtype for p in parts} == {dtype}
    assert torch.equal(x, before)


def test_rank_and_error_exclude_each_other():
    for call in (decompose.svd, decompose.tt, decompose.tucker):
        with pytest.raises(ValueError, match="either rank or rel_error"):
            call(randn(3, 3))
        with pytest.raises(ValueError, match="either rank or rel_error"):
            call(randn(3, 3), 1, rel_error=0.1)
    with pytest.raises(ValueError, match=r"rel_error must lie in \[0, 1\)"):
        decompose.tt(randn(3, 3), rel_error=1.5)


def test_other_mistakes_say_what_was_expected():
    with pytest.raises(ValueError, match="expected 2 TT ranks"):
        decompose.tt(randn(3, 3, 3), (2, 2, 2))
    with pytest.raises(ValueError, match="must be different and lie between 0 and 2"):
        decompose.tucker(randn(3, 3, 3), 2, modes=(0, 3))
    with pytest.raises(ValueError, match="equally many and multiply to the shape"):
        decompose.tt_matrix(randn(4, 4), (2, 2), (2, 3), 2)
    with pytest.raises(ValueError, match="unknown method 'newton'"):
        decompose.cp(randn(3, 3, 3), 2, method="newton")
    with pytest.raises(ValueError, match="expected hooi or hosvd"):
        decompose.tucker(randn(3, 3, 3), 2, method="als")
    with pytest.raises(ValueError, match="at least 1"):
        decompose.cp(randn(3, 3, 3), 2, restarts=0)
    with pytest.raises(ValueError, match="order 2"):
        decompose.svd(randn(3, 3, 3), 2)
