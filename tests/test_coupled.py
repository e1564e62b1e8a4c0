"""Chains of coupled third-order decompositions: the theorems core by core, exact recovery, conditions, merged modes."""

import math

import pytest
import tensorly as tl
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_tensors import random_cp, random_tucker, with_noise

from tnlib import decompose
from tnlib.decompose.coupled import group_modes, split_rank_one
from tnlib.decompose.train import canonical, find_train, mirrored


def relative(approximation, tensor):
    return float((approximation - tensor).norm() / tensor.norm())


def matches(got, want):
    """Smallest |cosine| over the columns of all factors, one permutation for all modes being allowed."""
    scores = torch.stack([(g.mT @ (w / w.norm(dim=0))).abs() for g, w in zip(got, want, strict=True)]).amin(0)
    order = scores.argmax(1)
    assert sorted(order.tolist()) == list(range(len(order)))
    return float(scores.max(1).values.min())


def tangled(shape, rank, seed=0, sketch="auto"):
    tensor, factors = random_cp(shape, rank, seed=seed)
    return tensor, factors, find_train(tensor, [rank] * (len(shape) - 1), sketch, seed)


# --- the train -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sketch", [True, False, "auto"])
@pytest.mark.parametrize("shape", [(5, 4, 6), (4, 3, 2, 5), (6, 5, 4, 6, 5, 4)])
def test_a_train_of_the_right_ranks_is_exact_and_orthogonal(shape, sketch):
    tensor, _, cores = tangled(shape, 3, sketch=sketch)
    assert [tuple(core.shape[1:]) for core in cores] == [*((n, 3) for n in shape[:-1]), (shape[-1], 1)]
    assert relative(tl.tt_to_tensor(cores), tensor) < 1e-12
    for core in cores[:-1]:
        flat = core.flatten(0, 1)
        assert torch.allclose(flat.mT @ flat, torch.eye(flat.shape[1], dtype=flat.dtype), atol=1e-12)


def test_every_centre_makes_up_the_tensor_and_bonds_are_its_singular_values():
    shape = (5, 4, 3, 6)
    tensor, _, cores = tangled(shape, 3)
    train = canonical(cores)
    for view in (train, mirrored(train)):
        whole = tensor if view is train else tensor.permute(3, 2, 1, 0)
        for q in range(4):
            mixed = [*view.left[:q], view.centre[q], *view.right[q + 1 :]]
            assert relative(tl.tt_to_tensor(mixed), whole) < 1e-12
            assert math.isclose(float(view.centre[q].norm()), float(tensor.norm()), rel_tol=1e-12)
        for q in range(1, 4):
            want = torch.linalg.svdvals(whole.reshape(math.prod(whole.shape[:q]), -1))[:3]
            assert torch.allclose(view.bonds[q - 1], want, rtol=1e-10)


def test_a_sketched_train_of_a_noisy_tensor_is_close_to_the_best_one():
    tensor = with_noise(random_cp((5,) * 6, 3)[0], 10.0)
    errors = [relative(tl.tt_to_tensor(find_train(tensor, [3] * 5, sketch, 0)), tensor) for sketch in (True, False)]
    assert abs(errors[0] - errors[1]) < 1e-3


# --- the theorems --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4, 3, 5), (5, 3, 2, 4), (3, 4, 2, 5, 6)])
def test_theorem_each_core_is_a_third_order_cpd_that_shares_a_matrix_with_its_neighbour(shape):
    _, factors, cores = tangled(shape, 3)
    # G_1 = P_1 M_1^-1 gives M_1; each core then gives the next one: G_q x_1 M_(q-1)^-1 has slices P_q(:,r) times
    # a row of M_q^-1.
    m = torch.linalg.lstsq(cores[0][0], factors[0]).solution
    for q in range(1, len(shape) - 1):
        slices = torch.einsum("ri,inj->rnj", torch.linalg.inv(m), cores[q])
        rows = torch.stack([torch.linalg.lstsq(factors[q][:, [r]], slices[r]).solution[0] for r in range(3)])
        m_next = torch.linalg.inv(rows)
        rebuilt = torch.einsum("ir,nr,jr->inj", m, factors[q], rows.mT)
        assert torch.allclose(rebuilt, cores[q], atol=1e-9)
        m = m_next
    assert torch.allclose(m @ factors[-1].mT, cores[-1][..., 0], atol=1e-8)


def test_theorem_the_structured_tucker_train_has_reshaped_identities():
    ranks, shape = (2, 3, 2, 3), (4, 5, 3, 6)
    tensor = random_tucker(shape, ranks)
    core, factors = decompose.coupled_tucker(tensor, ranks, core_at=2)
    # Left of q*: (I kron F_q) as a core (R_(q-1), N_q, R_(q-1) T_q); q* holds the core; right of it the mirror image.
    cores = [
        factors[0][None],
        torch.kron(torch.eye(2, dtype=tensor.dtype), factors[1]).reshape(2, 5, 6),
        torch.einsum("ntr,mt->nmr", core.reshape(6, 2, 3), factors[2]),
        factors[3].mT[..., None],
    ]
    assert relative(tl.tt_to_tensor(cores), tensor) < 1e-12
    assert [c.shape[2] for c in cores[:-1]] == list(decompose.max_tt_ranks(ranks))


# --- coupled_cp ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["closed", "als"])
@pytest.mark.parametrize(
    ("shape", "rank"), [((5, 4, 6), 4), ((4, 2, 3, 5), 3), ((7, 5, 3, 2, 4), 2), ((5,) * 6, 5), ((2, 1, 3, 2), 2)]
)
def test_exact_tensors_are_recovered_with_their_factors(shape, rank, step):
    tensor, factors = random_cp(shape, rank, seed=1)
    got = decompose.coupled_cp(tensor, rank, step=step)
    assert relative(got.to_tensor(), tensor) < 1e-10
    assert matches(got.factors, factors) > 1 - 1e-10


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(2, 4), min_size=3, max_size=6), st.integers(1, 3), st.integers(0, 1000))
def test_odd_shapes_are_recovered_too(inner, rank, seed):
    shape = (rank + 1, *inner, rank + 2)
    tensor, _ = random_cp(shape, rank, seed=seed)
    assert relative(decompose.coupled_cp(tensor, rank, seed=seed).to_tensor(), tensor) < 1e-8


@pytest.mark.parametrize("middle", [1, 2, 3, 4])
def test_any_middle_core_will_do(middle):
    tensor, factors = random_cp((4, 3, 2, 5, 3, 4), 3)
    got = decompose.coupled_cp(tensor, 3, middle=middle)
    assert matches(got.factors, factors) > 1 - 1e-10


def test_the_result_is_normalised_like_that_of_cp():
    got = decompose.cp(random_cp((5, 4, 3, 5), 3)[0], 3, method="coupled")
    assert bool((got.weights >= 0).all())
    assert torch.equal(got.weights, got.weights.sort(descending=True).values)
    assert torch.allclose(torch.stack([f.norm(dim=0) for f in got.factors]), torch.ones(4, 3, dtype=torch.float64))


@pytest.mark.parametrize("step", ["closed", "als"])
def test_noise_costs_no_more_than_the_bound_allows(step):
    shape, rank, snr_db = (5,) * 6, 3, 20.0
    errors = []
    for seed in range(9):
        tensor, _ = random_cp(shape, rank, seed=seed)
        got = decompose.coupled_cp(with_noise(tensor, snr_db, seed=seed), rank, step=step)
        errors.append(relative(got.to_tensor(), tensor) ** 2)
    assert sorted(errors)[4] < 2 * decompose.cp_bound(shape, rank, snr_db)


@pytest.mark.parametrize("polish", ["als", "nls"])
def test_polish_lowers_the_misfit_and_reaches_a_stationary_point(polish):
    tensor = with_noise(random_cp((4, 5, 3, 4), 3)[0], 5.0)
    chain = decompose.coupled_cp(tensor, 3)
    polished = decompose.cp(tensor, 3, method="coupled", polish=polish, tol=1e-12)
    assert relative(polished.to_tensor(), tensor) < relative(chain.to_tensor(), tensor)
    residual = polished.to_tensor() - tensor
    for mode in range(4):
        gradient = tl.tenalg.unfolding_dot_khatri_rao(residual, (None, polished.factors), mode)
        assert float(gradient.norm() / tensor.norm()) < 1e-4


def test_scaling_the_tensor_scales_the_weights_only():
    tensor = with_noise(random_cp((5, 4, 3, 5), 3)[0], 20.0)
    one, other = decompose.coupled_cp(tensor, 3), decompose.coupled_cp(1e6 * tensor, 3)
    assert torch.allclose(other.weights, 1e6 * one.weights, rtol=1e-6)
    assert matches(one.factors, other.factors) > 1 - 1e-10


def test_reading_the_modes_backwards_gives_the_same_terms():
    tensor, _ = random_cp((5, 4, 3, 6), 3)
    ahead = decompose.coupled_cp(tensor, 3)
    back = decompose.coupled_cp(tensor.permute(3, 2, 1, 0).contiguous(), 3)
    assert torch.allclose(ahead.weights, back.weights, rtol=1e-8)
    assert matches(ahead.factors, back.factors[::-1]) > 1 - 1e-10


def test_a_seed_decides_everything_and_the_global_generator_is_left_alone():
    tensor = with_noise(random_cp((6,) * 5, 3)[0], 10.0)
    state = torch.get_rng_state()
    one, same = (decompose.coupled_cp(tensor, 3, seed=4, sketch=True) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(x, y) for x, y in zip(one.factors, same.factors, strict=True))


def test_float32_in_float32_out_and_the_input_untouched():
    tensor = random_cp((5, 4, 3, 5), 3)[0].to(torch.float32)
    before = tensor.clone()
    got = decompose.coupled_cp(tensor, 3)
    assert {got.weights.dtype, *(f.dtype for f in got.factors)} == {torch.float32}
    assert relative(got.to_tensor(), tensor) < 1e-5
    assert torch.equal(tensor, before)


# --- conditions ----------------------------------------------------------------------------------------------------


def test_a_chain_needs_no_independent_columns_in_the_middle_modes():
    shape, rank = (4, 2, 2, 2, 4), 4  # three modes smaller than the rank, which the paper's condition excludes
    tensor, factors = random_cp(shape, rank, seed=3)
    assert matches(decompose.coupled_cp(tensor, rank).factors, factors) > 1 - 1e-8


def test_two_equal_columns_rule_out_a_core_as_the_middle_one_but_not_the_chain():
    _, factors = random_cp((4, 3, 5, 3, 4), 3)
    factors[2][:, 1] = -2 * factors[2][:, 0]
    tensor = tl.cp_to_tensor((None, factors))
    with pytest.raises(ValueError, match=r"Kruskal rank below 2.*choose another middle"):
        decompose.coupled_cp(tensor, 3, middle=2)
    assert matches(decompose.coupled_cp(tensor, 3).factors, factors) > 1 - 1e-10
    for q in (1, 3):
        factors[q][:, 1] = factors[q][:, 0]
    with pytest.raises(ValueError, match=r"3 of 3 cores tried.*lower the rank"):
        decompose.coupled_cp(tl.cp_to_tensor((None, factors)), 3)


def test_a_rank_above_the_tensors_is_told_with_the_rank_that_was_found():
    tensor, _ = random_cp((5, 4, 6, 5), 2)
    with pytest.raises(ValueError, match=r"numerical rank 2, below the CP rank 3.*try rank 2"):
        decompose.coupled_cp(tensor, 3)
    _, factors = random_cp((4, 3, 5), 3)
    factors[0][:, 2] = factors[0][:, :2].sum(1)
    with pytest.raises(ValueError, match="first 1 modes has numerical rank 2"):
        decompose.coupled_cp(tl.cp_to_tensor((None, factors)), 3)


@pytest.mark.parametrize(
    ("shape", "rank", "message"),
    [
        ((2, 5, 5, 5), 3, "first mode's size 2 is below the CP rank 3.*merge_modes=True"),
        ((5, 5, 5, 2), 3, "last mode's size 2 is below the CP rank 3"),
        ((3, 3, 3), 4, "too large for the chain.*method='als' or 'nls'"),
        ((5, 5), 2, "too large for the chain"),
        ((5, 1, 1, 5), 2, "between the ends have size 1"),
        ((4, 3, 2), 100, "out of range"),
    ],
)
def test_shapes_that_a_chain_cannot_take_are_refused_with_advice(shape, rank, message):
    with pytest.raises(ValueError, match=message):
        decompose.coupled_cp(torch.ones(shape, dtype=torch.float64), rank)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"middle": 0}, r"middle must be a mode between the ends, one of \[1, 2\], got 0"),
        ({"step": "svd"}, "unknown step 'svd'"),
        ({"polish": "lm"}, "polish 'lm'"),
        ({"starts": 0}, "starts and max_iter must be at least 1"),
        ({"sketch": "no"}, "sketch must be"),
    ],
)
def test_unknown_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        decompose.coupled_cp(random_cp((4, 3, 3, 4), 2)[0], 2, **options)


def test_nan_and_zero_tensors_are_refused():
    with pytest.raises(ValueError, match="nan or infinite"):
        decompose.coupled_cp(torch.full((3, 3, 3), torch.nan), 2)
    with pytest.raises(ValueError, match="the tensor is zero"):
        decompose.coupled_cp(torch.zeros(3, 3, 3), 2)


def test_cp_refuses_options_of_another_method():
    tensor, _ = random_cp((4, 3, 3, 4), 2)
    with pytest.raises(ValueError, match="belong to method coupled, not to nls"):
        decompose.cp(tensor, 2, method="nls", polish="als")
    with pytest.raises(ValueError, match="no restarts and no init"):
        decompose.cp(tensor, 2, method="coupled", restarts=3)


# --- merged modes --------------------------------------------------------------------------------------------------


def test_groups_take_as_few_modes_as_the_rank_asks_for():
    assert group_modes((5, 4, 5), 5, False) == [[0], [1], [2]]
    assert group_modes((2, 3, 4, 2, 2, 2), 5, True) == [[0, 1], [2], [3, 4, 5]]


@pytest.mark.parametrize(("shape", "rank"), [((2,) * 8, 4), ((2, 3, 4, 3, 2), 5), ((2,) * 10, 7), ((3, 1, 2, 4, 6), 5)])
@pytest.mark.parametrize("step", ["closed", "als"])
def test_small_modes_are_merged_and_split_again(shape, rank, step):
    tensor, factors = random_cp(shape, rank, seed=2)
    got = decompose.coupled_cp(tensor, rank, merge_modes=True, step=step)
    assert [tuple(f.shape) for f in got.factors] == [(n, rank) for n in shape]
    assert relative(got.to_tensor(), tensor) < 1e-8
    assert matches(got.factors, factors) > 1 - 1e-8


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(1, 4))
def test_khatri_rao_factorization_undoes_the_product(sizes, rank):
    factors = random_cp([*sizes, 1], rank, seed=sum(sizes))[1][:-1]
    product = tl.tenalg.khatri_rao(factors) if len(sizes) > 1 else factors[0]
    parts = split_rank_one(product, sizes)
    again = tl.tenalg.khatri_rao(parts) if len(sizes) > 1 else parts[0]
    assert torch.allclose(again, product, atol=1e-10)


# --- coupled_tucker ------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=2, max_size=5), st.data())
def test_coupled_tucker_is_exact_on_tensors_of_its_ranks(shape, data):
    ranks = [data.draw(st.integers(1, min(n, math.prod(shape) // n))) for n in shape]
    ranks = [min(t, math.prod(ranks) // t) for t in ranks]
    tensor = random_tucker(shape, ranks, seed=sum(shape))
    ranks = [min(t, int(torch.linalg.matrix_rank(tl.unfold(tensor, q), rtol=1e-9))) for q, t in enumerate(ranks)]
    at = data.draw(st.sampled_from([None, *range(len(shape))]))
    train = data.draw(st.sampled_from(["structured", "svd"]))
    sketch = data.draw(st.sampled_from([True, False, "auto"]))
    got = decompose.coupled_tucker(tensor, ranks, core_at=at, train=train, sketch=sketch)
    assert tuple(got.core.shape) == tuple(ranks)
    assert relative(got.to_tensor(), tensor) < 1e-9
    for factor in got.factors:
        assert torch.allclose(factor.mT @ factor, torch.eye(factor.shape[1], dtype=factor.dtype), atol=1e-10)


@pytest.mark.parametrize("order", [6, 7])
@pytest.mark.parametrize("snr_db", [20.0, 0.0])
def test_coupled_tucker_is_as_accurate_as_hosvd_in_noise(order, snr_db):
    ratios = []
    for seed in range(7):
        tensor = random_tucker((4,) * order, (2,) * order, seed=seed)
        noisy = with_noise(tensor, snr_db, seed=seed)
        ours, theirs = decompose.coupled_tucker(noisy, 2), decompose.tucker(noisy, 2, method="hosvd")
        ratios.append(relative(ours.to_tensor(), tensor) / relative(theirs.to_tensor(), tensor))
    assert sorted(ratios)[3] < 1.005


def test_coupled_tucker_is_within_the_bound_of_sequential_truncation():
    tensor = torch.randn(6, 5, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ranks = (3, 2, 2, 3)
    error = float((decompose.coupled_tucker(tensor, ranks).to_tensor() - tensor).norm())
    tails = torch.stack([torch.linalg.svdvals(tl.unfold(tensor, q))[r:].norm() for q, r in enumerate(ranks)])
    assert float(tails.max()) <= error <= float(tails.norm()) + 1e-12


def test_coupled_tucker_refuses_what_it_does_not_know():
    tensor = random_tucker((4, 4, 4), (2, 2, 2))
    with pytest.raises(ValueError, match="core_at must be a mode between 0 and 2"):
        decompose.coupled_tucker(tensor, 2, core_at=3)
    with pytest.raises(ValueError, match="unknown train 'tt'"):
        decompose.coupled_tucker(tensor, 2, train="tt")
    with pytest.raises(ValueError, match="largest useful one here is 4"):
        decompose.coupled_tucker(tensor, 5)
    got = decompose.coupled_tucker(tensor.to(torch.float32), 2)
    assert {got.core.dtype, *(f.dtype for f in got.factors)} == {torch.float32}
