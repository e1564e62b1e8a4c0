"""Decompositions against oracles: closed forms, numpy, TensorLy's own, exact constructions."""

import math
from itertools import pairwise

import numpy as np
import pytest
import tensorly as tl
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_tensors import random_cp

from tnlib import decompose
from tnlib.decompose.als import als

shapes = st.lists(st.integers(1, 6), min_size=2, max_size=5).map(tuple)


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


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


@pytest.mark.parametrize("shape", [(8, 7, 6), (16, 12, 3, 3), (5, 4, 4, 3, 3)])
def test_cp_recovers_an_exact_tensor_and_its_factors(shape):
    tensor, true = random_cp(shape, 3)
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
def test_a_rank_that_is_no_number_is_refused(name):
    with pytest.raises(TypeError, match="must be an integer, got 'two'"):
        CALLS[name](randn(4, 3, 2), "two")


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
    with pytest.raises(TypeError, match="got ndarray"):
        decompose.tt(np.ones((3, 3)), 2)


# --- scale, precision, memory: every function on every kind of input -----------------------------------------------

FUNCTIONS = {
    "svd": lambda x: decompose.svd(x.flatten(1), 1),
    "svd by error": lambda x: decompose.svd(x.flatten(1), rel_error=0.3),
    "cp als": lambda x: decompose.cp(x, 2, max_iter=20),
    "cp als from svd": lambda x: decompose.cp(x, 2, init="svd", max_iter=20),
    "cp nls": lambda x: decompose.cp(x, 2, method="nls", max_iter=20),
    "cp coupled": lambda x: decompose.cp(x, 2, method="coupled"),
    "coupled_cp": lambda x: decompose.coupled_cp(x, 2, step="als", polish="als", sketch=True, max_iter=20),
    "tucker hooi": lambda x: decompose.tucker(x, 2),
    "tucker hosvd": lambda x: decompose.tucker(x, 2, modes=(2, 0), method="hosvd"),
    "tucker by error": lambda x: decompose.tucker(x, rel_error=0.3),
    "coupled_tucker": lambda x: decompose.coupled_tucker(x, 2, sketch=True),
    "coupled_tucker svd": lambda x: decompose.coupled_tucker(x, 2, train="svd"),
    "tt": lambda x: decompose.tt(x, 2),
    "tt by error": lambda x: decompose.tt(x, rel_error=0.3),
    "tt sketched": lambda x: decompose.tt(x, 2, sketch=True),
    "tt_matrix": lambda x: decompose.tt_matrix(x.flatten(1), (1, x.shape[0]), (math.prod(x.shape[1:]), 1), 1),
    "tt_matrix of one digit": lambda x: decompose.tt_matrix(x.flatten(1), (x.shape[0],), (math.prod(x.shape[1:]),), ()),
}
CHAIN = ("cp coupled", "coupled_cp")
every_function = pytest.mark.parametrize("name", FUNCTIONS)
EXTREMES = [1e160, 1e-200, 1e307, 1e-306]
SCALES = [(s, torch.float64) for s in EXTREMES] + [(s, torch.float32) for s in (1e30, 1e-30)]
SCALES += [(s, torch.float16) for s in (3e3, 1e-2)] + [(s, torch.bfloat16) for s in (1e30, 1e-30)]


def parts(result):
    """What holds the scale of a result, first, and then the tensors that do not."""
    if hasattr(result, "weights"):
        return result.weights, list(result.factors)
    if hasattr(result, "core"):
        return result.core, list(result.factors)
    if hasattr(result, "factors"):
        return result.factors[-1], list(result.factors[:-1])
    return result.S, [result.U, result.Vh]


def dense(result, like):
    return (result.to_matrix() if hasattr(result, "to_matrix") else result.to_tensor()).reshape(like.shape)


@every_function
@settings(max_examples=8, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=2),
    power=st.sampled_from([-900, -301, -3, 1, 70, 501, 1000]),
    dtype=st.sampled_from([torch.float64, torch.float32]),
)
def test_a_power_of_two_in_the_input_comes_out_again_bit_by_bit(name, sizes, power, dtype):
    power = power if dtype == torch.float64 else power // 10
    tensor = random_cp((3, 2, *sizes, 4), 2, seed=sum(sizes))[0].to(dtype)
    scale, others = parts(FUNCTIONS[name](tensor))
    got_scale, got_others = parts(FUNCTIONS[name](tensor * 2.0**power))
    assert torch.equal(got_scale, scale * 2.0**power)
    assert all(torch.equal(got, want) for got, want in zip(got_others, others, strict=True))


@every_function
@pytest.mark.parametrize(("factor", "dtype"), SCALES)
def test_the_relative_error_does_not_depend_on_the_scale(name, factor, dtype):
    tensor = random_cp((4, 5, 3), 3, seed=1)[0]
    tensor = tensor / tensor.abs().max()
    scaled = (tensor * factor).to(dtype)
    assert float(scaled.abs().max()) > 0
    result = FUNCTIONS[name](scaled)
    again = dense(result, tensor).to(torch.float64) / factor
    precision = max(1e-6, 8 * torch.finfo(dtype).eps)
    assert math.isclose(
        relative(again, tensor), relative(dense(FUNCTIONS[name](tensor), tensor), tensor), abs_tol=precision
    )


@every_function
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", ["contiguous", "transposed", "sliced", "gradient"])
def test_parts_are_contiguous_have_the_inputs_dtype_and_memory_of_their_own(name, dtype, layout):
    tensor = random_cp((4, 5, 3), 3)[0].to(dtype)
    if layout == "transposed":
        tensor = tensor.permute(2, 1, 0)
    if layout == "sliced":
        tensor = tensor.repeat_interleave(2, 2)[..., ::2]
    before = tensor.clone()
    scale, others = parts(FUNCTIONS[name](tensor.requires_grad_(layout == "gradient")))
    for part in (scale, *others):
        assert part.dtype == dtype
        assert part.is_contiguous()
        assert not part.requires_grad
        assert part.untyped_storage().nbytes() == part.numel() * part.element_size()
    assert torch.equal(tensor, before)


@every_function
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_a_zero_tensor_gives_zero_and_a_basis(name, dtype):
    zero = torch.zeros(4, 5, 3, dtype=dtype)
    if name in CHAIN:
        with pytest.raises(ValueError, match="the tensor is zero"):
            FUNCTIONS[name](zero)
        return
    scale, others = parts(FUNCTIONS[name](zero))
    assert torch.equal(scale, torch.zeros_like(scale))
    for part in others:
        rows = part if name.startswith("svd") and part.shape[1] > 5 else part.flatten(0, -2).mT
        gram = (rows @ rows.mT).to(torch.float64)
        if name.startswith("cp"):  # unit columns
            gram = gram.diagonal().diag()
        assert torch.allclose(gram, torch.eye(len(gram), dtype=torch.float64), atol=8 * torch.finfo(dtype).eps)


@every_function
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused_in_the_same_words(name, bad):
    tensor = randn(4, 5, 3)
    tensor[1, 2, 0] = bad
    with pytest.raises(ValueError, match="nan or infinite values; a decomposition of it is not defined"):
        FUNCTIONS[name](tensor)


@every_function
@pytest.mark.parametrize("shape", [(0, 5, 3), (4, 0, 3), (4, 5, 0)])
def test_empty_tensors_are_refused(name, shape):
    with pytest.raises(ValueError, match="without empty modes"):
        FUNCTIONS[name](torch.zeros(shape))


@every_function
@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64])
def test_what_is_not_a_real_floating_tensor_is_refused(name, dtype):
    with pytest.raises(TypeError, match="expected a real floating torch tensor, got torch"):
        FUNCTIONS[name](torch.ones(4, 5, 3, dtype=dtype))


@every_function
def test_a_result_beyond_float16_is_refused_and_one_within_is_finite(name):
    image = (torch.rand(24, 24, 3, generator=torch.Generator().manual_seed(0)) * 255).round().half()
    got = FUNCTIONS[name](image)
    assert bool(dense(got, image).isfinite().all())
    if name != "tt_matrix of one digit":  # which is the matrix itself
        with pytest.raises(ValueError, match=r"beyond the largest one of torch.float16, 65504: divide the tensor"):
            FUNCTIONS[name](image * 250)
        assert bool(dense(FUNCTIONS[name](image.to(torch.bfloat16) * 250), image).isfinite().all())


def test_scaling_leaves_ordinary_results_as_they_are():
    """By a power of two only: what comes out is what the method gives on the tensor itself."""
    matrix, tensor = randn(9, 12), randn(6, 5, 4)
    u, s, _ = torch.linalg.svd(matrix, full_matrices=False)
    got = decompose.svd(matrix, 9)
    assert torch.equal(got.S, s)
    assert torch.equal(got.U.abs(), u.abs())
    assert torch.equal(decompose.tt(matrix, 4).factors[0][0], u[:, :4])
    generator = torch.Generator().manual_seed(3)
    start = [torch.randn(n, 3, generator=generator, dtype=torch.float64) for n in tensor.shape]
    _, factors = als(tensor / float(tensor.norm()), start, 30, 1e-8)
    got = decompose.cp(tensor, 3, max_iter=30, seed=3)
    order = torch.argsort(torch.stack([f.norm(dim=0) for f in factors]).prod(0), descending=True)
    for ours, theirs in zip(got.factors, factors, strict=True):
        assert torch.equal(ours, (theirs / theirs.norm(dim=0))[:, order])


def test_a_term_of_weight_zero_has_unit_columns_too():
    tensor = torch.zeros(3, 4, 5, dtype=torch.float64)
    tensor[0, 0, 0] = 2.0
    got = decompose.cp(tensor, 2, init="svd")
    assert torch.allclose(got.weights, torch.tensor([2.0, 0.0], dtype=torch.float64), atol=1e-7)
    assert all(torch.allclose(f.norm(dim=0), torch.ones(2, dtype=torch.float64)) for f in got.factors)


@given(st.sampled_from([1e160, 1e-160, 1.0]), st.sampled_from([1e160, 1e-160, 1.0]))
def test_factor_bounds_do_not_depend_on_scale(first, second):
    _, factors = random_cp((4, 3, 5), 2)
    want = decompose.cp_factor_bounds(factors, 20.0)
    got = decompose.cp_factor_bounds([first * factors[0], second * factors[1], factors[2]], 20.0)
    assert torch.allclose(got, want, rtol=1e-6)
    with pytest.raises(ValueError, match="nan or infinite"):
        decompose.cp_factor_bounds([math.inf * factors[0], *factors[1:]], 20.0)
