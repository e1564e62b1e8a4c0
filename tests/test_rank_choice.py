"""Estimates of a rank against the theory's thresholds, closed forms written anew, and brute-force minimization."""

import inspect
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize

from tnlib import decompose
from tnlib.decompose.rank_choice import VBMF, description_length_rank, energy_rank, vbmf

SHAPES = [(37, 200), (200, 37), (64, 64)]


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_singular_values(m, n, values, seed=0):
    values = torch.as_tensor(values, dtype=torch.float64)
    u = torch.linalg.qr(randn(m, len(values), seed=seed))[0]
    v = torch.linalg.qr(randn(n, len(values), seed=seed + 1))[0]
    return (u * values) @ v.mT


def diagonal(m, n, values):
    matrix = torch.zeros(m, n, dtype=torch.float64)
    matrix.diagonal()[: len(values)] = torch.as_tensor(values, dtype=torch.float64)
    return matrix


def weakest_found(m, n):
    """The t of the paper, from its function Phi: the least noiseless s^2 / (M noise variance) found in the limit."""
    small, large = sorted((m, n))
    alpha = small / large

    def phi(z):
        return math.log1p(z) / z - 0.5

    return brentq(lambda t: phi(t) + phi(t / alpha), 0.9 * math.sqrt(alpha), 10, xtol=1e-14)


def least_kept(m, n):
    """The least s^2 / (M noise variance), noise included, of a component that is kept."""
    t = weakest_found(m, n)
    return (1 + t) * (1 + min(m, n) / max(m, n) / t)


def signals(m, n, rank, strength, seed, noise_variance=1.0):
    """White noise plus `rank` components of `strength` to 4 times `strength` the weakest s^2 that is found."""
    s2 = weakest_found(m, n) * max(m, n) * noise_variance * strength * torch.linspace(1, 4, rank)
    return with_singular_values(m, n, s2.sqrt(), seed=100 + seed) + noise_variance**0.5 * randn(m, n, seed=seed)


# --- vbmf: rank and noise variance --------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank", [0, 1, 5, 12])
@pytest.mark.parametrize("strength", [3.0, 100.0])
def test_rank_and_noise_variance_are_recovered(shape, rank, strength):
    variances = []
    for seed in range(6):
        matrix = signals(*shape, rank, strength, seed, noise_variance=0.04)
        got = vbmf(matrix)
        assert got.rank == vbmf(matrix, 0.04).rank == rank
        variances.append(got.noise_variance)
    assert variances == pytest.approx([0.04] * 6, rel=0.15)
    if strength == 100:
        # Of (m - r) (n - r) noise degrees of freedom the free energy counts m n - r (m + n), r^2 too few.
        m, n = shape
        bias = (m - rank) * (n - rank) / (m * n - rank * (m + n))
        assert np.mean(variances) == pytest.approx(0.04 * bias, rel=0.03)


def test_the_noise_variance_of_a_large_matrix_is_exact_to_a_per_cent():
    got = vbmf(signals(300, 400, 5, 3.0, 0, noise_variance=9.0))
    assert got.rank == 5
    assert got.noise_variance == pytest.approx(9.0, rel=0.015)


@pytest.mark.parametrize("shape", [(200, 400), (300, 300)])
@pytest.mark.parametrize("given_variance", [None, 1.0])
def test_a_signal_is_found_above_the_theorys_threshold_and_not_below(shape, given_variance):
    for seed in range(3):
        assert vbmf(signals(*shape, 1, 1.6, seed), given_variance).rank == 1
        assert vbmf(signals(*shape, 1, 0.5, seed), given_variance).rank == 0


@pytest.mark.parametrize("shape", [(5, 8), (8, 5), (6, 6), (1, 30), (40, 1), (3, 3000)])
@pytest.mark.parametrize("noise_variance", [1.0, 1e-4])
def test_the_threshold_of_an_observed_singular_value_is_the_root_of_phi(shape, noise_variance):
    edge = math.sqrt(max(shape) * noise_variance * least_kept(*shape))
    assert vbmf(diagonal(*shape, [edge * (1 + 1e-8)]), noise_variance).rank == 1
    assert vbmf(diagonal(*shape, [edge * (1 - 1e-8)]), noise_variance).rank == 0


def test_the_papers_approximation_of_the_root():
    assert weakest_found(10, 10) == pytest.approx(2.5129, abs=5e-5)
    for small, within in ((100, 1e-4), (50, 4e-3), (10, 4e-2), (5, 6e-2)):
        t = weakest_found(small, 100)
        assert t == pytest.approx(2.5129 * math.sqrt(small / 100), rel=within)
        assert t >= 2.5128 * math.sqrt(small / 100)
    assert weakest_found(1, 10**4) > 1.3 * 2.5129 / 100  # no constant does for every alpha: the root is computed


@pytest.mark.parametrize("shape", [*SHAPES, (1, 9), (9, 1), (1, 1), (2, 2), (2, 3)])
def test_an_estimated_noise_variance_leaves_less_than_the_harmonic_rank(shape):
    m, n = shape
    for seed in range(3):
        steep = with_singular_values(m, n, 10.0 ** -torch.linspace(0, 12, min(m, n)), seed)
        for matrix in (randn(m, n, seed=seed), steep):
            got = vbmf(matrix)
            assert got.rank * (m + n) < m * n
            assert 0 < got.noise_variance <= float(matrix.square().mean()) * (1 + 1e-12)


# --- vbmf: oracles ------------------------------------------------------------------------------------------------


def component_energy(s, m, n, v):
    """Twice the free energy of a component beyond that of none, and the product of its means, by brute force.

    Over the logarithms of the two posterior means, the two posterior variances and the two prior variances.
    """

    def energy(logs):
        x = torch.tensor(logs, dtype=torch.float64, requires_grad=True)
        a, b, var_a, var_b, prior_a, prior_b = x.exp()
        moment_a, moment_b = a**2 + n * var_a, b**2 + m * var_b
        value = n * (prior_a / var_a).log() + m * (prior_b / var_b).log() + moment_a / prior_a + moment_b / prior_b
        value = value - (m + n) + (moment_a * moment_b - 2 * a * b * s) / v
        value.backward()
        return float(value.detach()), x.grad.numpy()

    start = math.sqrt(s / 2)
    logs = np.log([start, start, v / s, v / s, start**2 / n, start**2 / m])
    found = minimize(energy, logs, jac=True, method="BFGS", options={"gtol": 1e-9, "maxiter": 2000})
    return found.fun, math.exp(found.x[0] + found.x[1])


@pytest.mark.parametrize("shape", [(3, 3), (3, 8), (8, 3), (2, 40)])
def test_every_component_is_the_brute_force_minimum_of_the_free_energy(shape):
    m, n = shape
    v = 0.3
    edge = math.sqrt(max(shape) * v * least_kept(m, n))
    for factor in (0.95, 0.99, 1.01, 1.05, 1.5, 5.0):
        energy, product = component_energy(factor * edge, m, n, v)
        got = vbmf(diagonal(m, n, [factor * edge]), v)
        assert got.rank == (energy < 0) == (factor > 1)
        if got.rank:
            assert float(got.singular_values[0]) == pytest.approx(product, rel=1e-5)


def test_components_of_one_matrix_are_decided_one_by_one():
    edge = math.sqrt(7 * 0.5 * least_kept(4, 7))
    values = [3 * edge, 1.2 * edge, 1.2 * edge, 0.9 * edge]
    got = vbmf(diagonal(4, 7, values), 0.5)
    want = [component_energy(s, 4, 7, 0.5)[1] for s in values[:3]]
    assert got.rank == 3
    assert got.singular_values.tolist() == pytest.approx(want, rel=1e-5)


def closed_form(s, m, n, v):
    """Shrunk singular value and twice the component's free energy, as in the paper, L and M in full."""
    c = 1 - (m + n) * v / s**2
    shrunk = s / 2 * (c + math.sqrt(c**2 - 4 * m * n * v**2 / s**4))
    product = s * shrunk / v
    return shrunk, max(m, n) * math.log1p(product / max(m, n)) + min(m, n) * math.log1p(product / min(m, n)) - product


def free_energy(values, m, n, v):
    """Twice the free energy of the best components at noise variance v, but for a constant."""
    total = m * n * math.log(v) + sum(s**2 for s in values) / v
    found = [s for s in values if s > math.sqrt(v) * (math.sqrt(m) + math.sqrt(n))]  # where the form is real
    return total + sum(min(0.0, closed_form(s, m, n, v)[1]) for s in found)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("noise_variance", [None, 1.0, 0.2])
def test_shrunk_singular_values_are_the_closed_form_and_below_the_observed_ones(shape, noise_variance):
    matrix = signals(*shape, 5, 2.0, seed=3)
    got = vbmf(matrix, noise_variance)
    observed = torch.linalg.svdvals(matrix)[: got.rank].tolist()
    want = [closed_form(s, *shape, got.noise_variance)[0] for s in observed]
    assert got.rank == 5 if noise_variance != 0.2 else got.rank > 5
    assert got.singular_values.tolist() == pytest.approx(want, rel=1e-9)
    assert all(0 < shrunk < s for shrunk, s in zip(want, observed, strict=True))
    assert sorted(want, reverse=True) == want


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=7), st.integers(0, 5))
def test_the_noise_variance_is_the_global_minimum_of_the_free_energy(logs, more):
    values = sorted((10.0**x for x in logs), reverse=True)
    m, n = len(values), len(values) + more
    got = vbmf(diagonal(m, n, values))
    highest = sum(s**2 for s in values) / (m * n)
    grid = highest * np.logspace(-14, 0.5, 150)
    reached = free_energy(values, m, n, got.noise_variance)
    assert reached <= min(free_energy(values, m, n, v) for v in grid) + 1e-7 * abs(reached)
    # Where the derivative vanishes: what the components do not explain is noise.
    explained = sum(s * float(shrunk) for s, shrunk in zip(values, got.singular_values, strict=False))
    assert got.noise_variance == pytest.approx(highest - explained / (m * n), rel=1e-4, abs=1e-9 * highest)


def test_of_two_local_minima_of_the_free_energy_the_lower_one_is_taken():
    """A cliff in the spectrum: one minimum takes the first values for signal, the other takes all for noise."""
    ranks = set()
    for height in np.linspace(1.5, 4, 11):
        values = [height] * 3 + [1.0] * 9
        got = vbmf(diagonal(12, 14, values))
        ranks.add(got.rank)
        grid = min(free_energy(values, 12, 14, v) for v in np.linspace(0.05, 1.5, 300))
        assert free_energy(values, 12, 14, got.noise_variance) <= grid + 1e-9
    assert ranks == {0, 3}


# --- vbmf: any matrix ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimate", [vbmf, description_length_rank, lambda a: energy_rank(a, 0.9)])
@pytest.mark.parametrize("shape", SHAPES)
def test_transposed_scaled_and_float32_matrices_have_the_same_rank(estimate, shape):
    for seed in range(3):
        matrix = signals(*shape, 4, 2.5, seed)
        want = estimate(matrix)
        for other in (matrix.mT, -matrix, 3.7 * matrix, matrix * 1e150, matrix * 1e-150, matrix.float(), matrix.half()):
            got = estimate(other)
            if not isinstance(want, VBMF):
                assert got == want
                continue
            factor = float(other.double().abs().max() / matrix.abs().max())
            rel = 1e-9 if other.dtype == torch.float64 else 4 * torch.finfo(other.dtype).eps
            assert got.rank == want.rank
            assert got.noise_variance == pytest.approx(want.noise_variance * factor**2, rel=rel)
            assert (got.singular_values.double() / factor).tolist() == pytest.approx(
                want.singular_values.tolist(), rel=rel
            )


def test_equal_calls_give_equal_results_and_leave_the_matrix_alone():
    matrix = signals(30, 20, 3, 3.0, 0).requires_grad_()
    before = matrix.detach().clone()
    first, second = vbmf(matrix), vbmf(matrix)
    assert first[:2] == second[:2]
    assert torch.equal(first.singular_values, second.singular_values)
    assert not first.singular_values.requires_grad
    assert torch.equal(matrix, before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_matrix_of_exact_rank_keeps_it_whatever_its_dtype_rounds_off(shape, dtype):
    for rank in (1, 5, 12, 25):
        matrix = (randn(shape[0], rank) @ randn(rank, shape[1], seed=1)).to(dtype)
        got = vbmf(matrix)
        assert got.rank == vbmf(matrix, 0.0).rank == rank
        assert got.noise_variance == 0.0
        assert got.singular_values.dtype == dtype
        assert torch.allclose(got.singular_values.double(), torch.linalg.svdvals(matrix.double())[:rank], rtol=1e-2)
        assert description_length_rank(matrix) == description_length_rank(matrix, 0.0) == rank
        assert energy_rank(matrix, 1) == rank


@pytest.mark.parametrize("shape", [(4, 7), (7, 4), (1, 1), (1, 5), (5, 1)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
@pytest.mark.parametrize("noise_variance", [None, 0.0, 2.0])
def test_a_zero_matrix_has_rank_zero(shape, dtype, noise_variance):
    zero = torch.zeros(shape, dtype=dtype)
    got = vbmf(zero, noise_variance)
    assert got[:2] == (0, noise_variance or 0.0)
    assert got.singular_values.shape == (0,)
    assert got.singular_values.dtype == dtype
    assert description_length_rank(zero, noise_variance) == energy_rank(zero, 0.5) == energy_rank(zero, 1) == 0


@pytest.mark.parametrize("shape", [(1, 12), (12, 1)])
def test_a_row_or_a_column_has_rank_one_only_by_a_known_noise_variance(shape):
    matrix = torch.full(shape, 5.0, dtype=torch.float64)
    assert vbmf(matrix)[:2] == (0, pytest.approx(25.0))
    assert description_length_rank(matrix) == 0
    assert vbmf(matrix, 1.0).rank == description_length_rank(matrix, 1.0) == energy_rank(matrix, 1) == 1
    assert vbmf(matrix, 25.0).rank == description_length_rank(matrix, 25.0) == 0


def test_noise_variances_out_of_the_matrixs_range():
    matrix = signals(20, 30, 3, 3.0, 0)
    for estimate in (lambda *a: vbmf(*a).rank, description_length_rank):
        assert estimate(matrix * 1e-200, 1e300) == 0
        assert estimate(matrix * 1e200, 1e-300) == 20
    assert vbmf(matrix * 1e200, 1e-300).noise_variance == 1e-300
    with pytest.raises(ValueError, match="noise variance is too large for a float: divide"):
        vbmf(matrix * 1e200)
    with pytest.raises(ValueError, match=r"beyond the largest one of torch.float16"):
        vbmf((signals(20, 30, 3, 50.0, 0) * 700).half())


# --- energy -------------------------------------------------------------------------------------------------------


@given(st.floats(1e-6, 1), st.integers(1, 9), st.integers(1, 9))
def test_energy_rank_is_the_first_one_whose_cumulated_share_reaches_it(energy, m, n):
    matrix = randn(m, n, seed=10 * m + n)
    squares = np.linalg.svd(matrix.numpy(), compute_uv=False) ** 2
    shares = np.cumsum(squares) / squares.sum()
    rank = energy_rank(matrix, energy)
    assert shares[rank - 1] >= energy - 1e-14
    assert rank == 1 or shares[rank - 2] < energy
    error = float((decompose.svd(matrix, rank).to_matrix() - matrix).norm() / matrix.norm())
    assert error**2 <= 1 - energy + 1e-14


def test_energy_rank_by_hand():
    matrix = with_singular_values(6, 9, [4.0, 2.0, 2.0, 1.0])  # squares 16, 4, 4, 1 of 25
    shares = {0.01: 1, 0.63: 1, 0.65: 2, 0.79: 2, 0.81: 3, 0.95: 3, 0.97: 4, 1: 4}
    assert {energy: energy_rank(matrix, energy) for energy in shares} == shares
    assert energy_rank(diagonal(6, 9, [1.0, 1e-9, 1e-12]), 1) == 3


@pytest.mark.parametrize("size", [7, 10, 49])
def test_rounding_does_not_add_a_rank_at_an_exact_share(size):
    rotation = torch.linalg.qr(randn(size, size))[0]
    assert [energy_rank(rotation, k / size) for k in range(1, size + 1)] == list(range(1, size + 1))


# --- description length -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank", [0, 1, 5, 12])
@pytest.mark.parametrize("noise_variance", [None, 1.0])
def test_description_length_recovers_the_rank(shape, rank, noise_variance):
    for seed in range(4):
        assert description_length_rank(signals(*shape, rank, 4.0, seed), noise_variance) == rank


def gaussian_length(eigenvalues, k, samples, v):
    """Description length of real Gaussian vectors, from the likelihood of the fitted covariance; no shortcuts."""
    p = len(eigenvalues)
    noise = np.mean(eigenvalues[k:]) if v is None else v
    fitted = np.concatenate((eigenvalues[:k], np.full(p - k, noise)))
    half_log_determinant = 0.5 * samples * np.sum(np.log(fitted) + eigenvalues / fitted)
    eigenvectors = sum(p - 1 - i for i in range(k))  # each unit, and orthogonal to those before
    return half_log_determinant + 0.5 * (k + eigenvectors + (v is None)) * math.log(samples)


@given(st.integers(1, 8), st.integers(1, 40), st.sampled_from([None, 0.1, 1.0, 7.0]), st.integers(0, 20))
def test_description_length_is_that_of_the_fitted_gaussian(p, more, v, seed):
    n = p + more
    matrix = randn(p, n, seed=seed) * torch.linspace(3, 0.5, p, dtype=torch.float64)[:, None]
    eigenvalues = np.linalg.eigvalsh((matrix @ matrix.mT / n).numpy())[::-1]
    limit = p - 1 if v is None else int((eigenvalues > v).sum())
    lengths = [gaussian_length(eigenvalues, k, n, v) for k in range(limit + 1)]
    assert description_length_rank(matrix, v) == np.argmin(lengths)
    assert description_length_rank(matrix.mT, v) == np.argmin(lengths)


def test_a_planted_spectrum_by_hand():
    """Eigenvalues 4, 1, 1, 1 of 100 samples: 100 (4 log(7/4) - log 4) = 85.2 at k = 0, 4 log 100 = 18.4 at k = 1."""
    matrix = diagonal(4, 100, [20.0, 10.0, 10.0, 10.0])
    assert description_length_rank(matrix) == 1
    assert description_length_rank(diagonal(4, 100, [11.0, 10.0, 10.0, 10.0])) == 0


# --- errors -------------------------------------------------------------------------------------------------------

EVERY = pytest.mark.parametrize("estimate", [vbmf, description_length_rank, lambda a: energy_rank(a, 0.9)])


@EVERY
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused(estimate, bad):
    matrix = randn(4, 5)
    matrix[1, 2] = bad
    with pytest.raises(ValueError, match="nan or infinite values"):
        estimate(matrix)


@EVERY
@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 4), (0, 3), (3, 0)])
def test_what_is_not_a_matrix_is_refused(estimate, shape):
    with pytest.raises(ValueError, match="expected a tensor of order 2 without empty modes"):
        estimate(torch.ones(shape))


@EVERY
@pytest.mark.parametrize("bad", [torch.ones(3, 3, dtype=torch.int64), torch.ones(2, 2, dtype=torch.complex64), [[1.0]]])
def test_what_is_not_a_real_floating_tensor_is_refused(estimate, bad):
    with pytest.raises(TypeError, match="expected a real floating torch tensor"):
        estimate(bad)


@pytest.mark.parametrize("estimate", [vbmf, description_length_rank])
@pytest.mark.parametrize("bad", [-1.0, -1e-300, math.nan, math.inf, -math.inf])
def test_a_noise_variance_that_is_negative_or_not_finite_is_refused(estimate, bad):
    with pytest.raises(ValueError, match="noise_variance must be finite and not negative, got"):
        estimate(randn(4, 5), bad)


@pytest.mark.parametrize("bad", [0, -0.1, 1.0001, math.nan, math.inf])
def test_an_energy_that_is_no_share_is_refused(bad):
    with pytest.raises(ValueError, match=r"energy must lie in \(0, 1\], got"):
        energy_rank(randn(4, 5), bad)


@pytest.mark.parametrize("function", [vbmf, energy_rank, description_length_rank])
def test_docstrings_say_shapes_and_errors(function):
    text = inspect.getdoc(function)
    assert all(part in text for part in ("shape (m, n)", "Raises:", "ValueError"))
