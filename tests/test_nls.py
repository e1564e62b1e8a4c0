"""Non-linear least squares and the Cramer-Rao bound, against explicit Jacobians, scipy and Monte Carlo."""

import math
from itertools import pairwise

import numpy as np
import pytest
import tensorly as tl
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_tensors import random_cp, with_noise
from scipy.optimize import least_squares

from tnlib import decompose
from tnlib.decompose.als import als
from tnlib.decompose.gauss_newton import GaussNewton
from tnlib.decompose.mttkrp import cp_residual, mttkrp_all
from tnlib.decompose.nls import balance, nls

shapes = st.lists(st.integers(1, 5), min_size=2, max_size=5).map(tuple)


def jacobian(factors):
    """The tensor's entries by all factors' entries, by automatic differentiation."""
    sizes = [factor.numel() for factor in factors]

    def tensor(flat):
        parts = [part.reshape(f.shape) for part, f in zip(flat.split(sizes), factors, strict=True)]
        return tl.cp_to_tensor((None, parts)).flatten()

    return torch.autograd.functional.jacobian(tensor, torch.cat([f.flatten() for f in factors]))


@settings(max_examples=30, deadline=None)
@given(shapes, st.integers(1, 4))
def test_the_gauss_newton_matrix_is_that_of_the_explicit_jacobian(shape, rank):
    _, factors = random_cp(shape, rank, seed=sum(shape))
    explicit = jacobian(factors)
    normal = GaussNewton(factors)
    matrix = normal.matrix()
    assert torch.allclose(matrix, explicit.mT @ explicit, atol=1e-9)
    _, direction = random_cp(shape, rank, seed=99)
    image = normal.product(torch.cat(direction))
    assert torch.allclose(image.flatten(), matrix @ torch.cat(direction).flatten(), atol=1e-8)


@settings(max_examples=30, deadline=None)
@given(shapes, st.integers(1, 4))
def test_one_pass_gives_the_mttkrp_of_every_mode(shape, rank):
    _, factors = random_cp(shape, rank, seed=1)
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for mode, got in enumerate(mttkrp_all(tensor, factors)):
        assert torch.allclose(got, tl.tenalg.unfolding_dot_khatri_rao(tensor, (None, factors), mode), atol=1e-9)
    assert torch.allclose(cp_residual(tensor, factors), tensor - tl.cp_to_tensor((None, factors)), atol=1e-12)


def test_conjugate_gradients_find_the_same_step():
    _, factors = random_cp((6, 5, 4, 3), 3)
    _, downhill = random_cp((6, 5, 4, 3), 3, seed=5)
    matrix = GaussNewton(factors).matrix() + 0.1 * torch.eye(54, dtype=torch.float64)
    want = torch.linalg.solve(matrix, torch.cat([d.flatten() for d in downhill]))
    got = GaussNewton(factors).conjugate_gradients(torch.cat(downhill), 0.1, max_iter=500, tol=1e-12)
    assert torch.allclose(got.flatten(), want, atol=1e-8)
    assert torch.allclose(GaussNewton(factors).step(torch.cat(downhill), 0.1).flatten(), want, atol=1e-10)


@pytest.mark.parametrize("limit", [0, 10**6])
def test_large_and_small_problems_are_solved_alike(monkeypatch, limit):
    monkeypatch.setattr("tnlib.decompose.gauss_newton.DENSE", limit)
    tensor, factors = random_cp((7, 6, 5), 3, seed=2)
    got = decompose.cp(tensor, 3, method="nls", restarts=3, tol=1e-14)
    assert float((got.to_tensor() - tensor).norm() / tensor.norm()) < 1e-10
    for factor, want in zip(got.factors, factors, strict=True):
        assert float((factor.mT @ (want / want.norm(dim=0))).abs().amax(1).min()) > 1 - 1e-10


@pytest.mark.parametrize("shape", [(5, 4, 3), (4, 3, 3, 2), (3, 2, 3, 2, 2)])
def test_nls_ends_where_scipys_least_squares_ends(shape):
    tensor, factors = random_cp(shape, 2)
    noisy = with_noise(tensor, 10.0)
    noisy = noisy / noisy.norm()
    start = balance([f / float(tensor.norm()) ** (1 / len(shape)) for f in factors])
    sizes = [f.numel() for f in factors]

    def residual(flat):
        parts = [part.reshape(f.shape) for part, f in zip(torch.from_numpy(flat).split(sizes), factors, strict=True)]
        return cp_residual(noisy, parts).flatten().numpy()

    theirs = least_squares(residual, np.concatenate([f.flatten() for f in start]), xtol=1e-14, ftol=1e-14, gtol=1e-12)
    error, parts = nls(noisy, start, 500, 1e-14)
    assert math.isclose(error, math.sqrt(2 * theirs.cost), rel_tol=1e-8)
    assert math.isclose(error, float(cp_residual(noisy, parts).norm()), rel_tol=1e-12)
    assert math.isclose(error, als(noisy, start, 5000, 1e-15)[0], rel_tol=1e-6)


def test_nls_needs_far_fewer_steps_than_als_needs_sweeps_when_columns_are_nearly_collinear():
    tensor, factors = random_cp((6, 6, 6), 3, collinearity=0.95, seed=1)
    tensor, scale = tensor / tensor.norm(), float(tensor.norm()) ** (1 / 3)
    _, shift = random_cp((6, 6, 6), 3, seed=7)
    start = [f / scale + 0.02 * s for f, s in zip(factors, shift, strict=True)]
    assert nls(tensor, start, 60, 0.0)[0] < 1e-8
    assert als(tensor, start, 60, 0.0)[0] > 1e-6


def test_nls_error_never_rises_with_more_steps_and_bad_input_is_refused():
    tensor = torch.randn(6, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    errors = [
        float((decompose.cp(tensor, 4, method="nls", max_iter=k, tol=0.0).to_tensor() - tensor).norm())
        for k in (1, 2, 4, 8, 16)
    ]
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(errors))
    with pytest.raises(ValueError, match="unknown method 'newton'"):
        decompose.cp(tensor, 4, method="newton")
    assert float(decompose.cp(torch.zeros(3, 4, 5), 2, method="nls").to_tensor().abs().max()) < 1e-9


def test_balancing_changes_norms_and_not_the_tensor():
    tensor, factors = random_cp((4, 3, 5), 3)
    even = balance([100 * factors[0], factors[1], factors[2] / 100])
    assert torch.allclose(tl.cp_to_tensor((None, even)), tensor, atol=1e-10)
    norms = torch.stack([f.norm(dim=0) for f in even])
    assert torch.allclose(norms, norms[:1].expand_as(norms))


# --- the bound -----------------------------------------------------------------------------------------------------


SMALL_SHAPES = [(5, 4), (6, 6), (4, 4, 4), (3, 4, 5), (10, 2, 2), (2, 9, 3), (12, 2, 3), (1, 4, 3)]
SMALL_SHAPES += [(2, 3, 2, 3), (2, 2, 2, 2, 2)]


@pytest.mark.parametrize(
    ("shape", "rank"),
    [(shape, rank) for shape in SMALL_SHAPES for rank in range(1, min(4, decompose.max_cp_rank(shape)) + 1)],
)
def test_the_dimension_is_the_numerical_rank_of_the_jacobian(shape, rank):
    _, factors = random_cp(shape, rank, seed=3)
    assert decompose.cp_dimension(shape, rank) == int(torch.linalg.matrix_rank(jacobian(factors), rtol=1e-10))


def test_the_bound_of_a_full_rank_tensor_is_the_noise_itself():
    assert math.isclose(decompose.cp_bound((3, 4), 3, 10.0), 0.1)
    assert math.isclose(decompose.cp_bound((5,) * 8, 3, 20.0), 0.01 * 99 / 5**8)


def test_monte_carlo_reaches_the_bounds():
    shape, rank, snr_db, draws = (6, 5, 4), 2, 30.0, 150
    tensor, factors = random_cp(shape, rank, seed=6)
    unit = [f / f.norm(dim=0) for f in factors]
    scale = float(tensor.norm()) ** (1 / 3)
    errors, spread = [], torch.zeros(3, rank, dtype=torch.float64)
    for seed in range(draws):
        noisy = with_noise(tensor, snr_db, seed=seed) / tensor.norm()
        parts = nls(noisy, [f / scale for f in factors], 50, 1e-12)[1]  # from the truth: permutation and signs stay
        errors.append(float((tl.cp_to_tensor((None, parts)) - tensor / tensor.norm()).square().sum()))
        spread += torch.stack([(p / p.norm(dim=0) - u).square().sum(0) for p, u in zip(parts, unit, strict=True)])
    bound = decompose.cp_bound(shape, rank, snr_db)
    assert 0.9 < np.mean(errors) / bound < 1.1
    by_factor = spread / draws / decompose.cp_factor_bounds(factors, snr_db)
    assert float(by_factor.min()) > 0.7
    assert float(by_factor.max()) < 1.35


def test_factor_bounds_do_not_depend_on_how_the_norms_are_shared():
    _, factors = random_cp((4, 3, 5), 2)
    one = decompose.cp_factor_bounds(factors, 20.0)
    other = decompose.cp_factor_bounds([10 * factors[0], factors[1], factors[2] / 3], 20.0)
    assert torch.allclose(one, other, rtol=1e-6)


def test_bounds_refuse_bad_input():
    with pytest.raises(ValueError, match="two or more modes"):
        decompose.cp_bound((5,), 1, 10.0)
    with pytest.raises(ValueError, match="largest useful one here is 6"):
        decompose.cp_bound((4, 3, 2), 7, 10.0)
    with pytest.raises(ValueError, match="none of them zero"):
        decompose.cp_factor_bounds([torch.zeros(3, 2), torch.ones(4, 2)], 10.0)
