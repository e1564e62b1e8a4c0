"""Terms that cancel, as a penalty of fits: against every term written out densely, and what it is worth."""

import itertools

import pytest
import torch
from cp_convolutions import CONVOLUTIONS, definite, made, randn
from torch import nn

from tnlib import compress, layers
from tnlib.compress.fitting import _kernel_of, fit_factors
from tnlib.compress.quadratic import Quadratic
from tnlib.compress.terms import Terms


def dense_terms(layer, factors):
    """Each term's kernel, from factors in which all other terms are zero."""
    kernel, rank = _kernel_of(layer), len(factors[0])
    found = []
    for r in range(rank):
        only = torch.zeros(rank, dtype=torch.float64)
        only[r] = 1
        found.append(kernel(*factors[:-1], factors[-1] * only.reshape(1, -1, *[1] * (factors[-1].ndim - 2))))
    return torch.stack(found)


@pytest.mark.parametrize("counted", [False, True])
@pytest.mark.parametrize(("format", "kind"), CONVOLUTIONS)
def test_the_penalty_is_that_of_the_terms_written_out(format, kind, counted):
    layer = made(format, kind)
    factors = [randn(*f.shape, seed=k) for k, f in enumerate(layer.factors())]
    target = layer.weight.detach().flatten(1)[None]
    outputs = definite(target.shape[1], 5)[None] if counted else None
    problem = Quadratic(target, definite(target.shape[2], 3)[None], outputs)
    terms = Terms(problem, 0.25)

    def expected(at):
        return sum(problem.square(term) for term in dense_terms(layer, at)) / problem.square(target) / 4

    assert terms.penalty(factors) == pytest.approx(expected(factors), rel=1e-12)
    slope, bent = terms.slope(factors)
    for k, part in enumerate(slope):
        direction = randn(*part.shape, seed=20 + k)
        ahead, behind = (
            [f + sign * 1e-5 * direction if j == k else f for j, f in enumerate(factors)] for sign in (1, -1)
        )
        change = (expected(ahead) - expected(behind)) / 2e-5 * problem.square(target) / 2
        assert float((part * direction).sum()) == pytest.approx(change, rel=1e-6)
        # Along its own part a term is quadratic in it: half of the curvature there is exact.
        own = float((bent[k] * factors[k].square()).sum())
        assert own == pytest.approx(terms.penalty(factors) * problem.square(target), rel=1e-12)


def cancellation(factors, problem, layer):
    """The terms' squares, summed, beside the square of their sum."""
    terms = dense_terms(layer, factors)
    return sum(problem.square(term) for term in terms) / problem.square(terms.sum(0))


@pytest.mark.parametrize("preconditioned", [True, False])
def test_terms_cancel_less_and_the_error_hardly_grows(preconditioned):
    torch.manual_seed(0)
    layer = nn.Conv2d(12, 10, 3).double()
    smooth = torch.exp(-0.3 * torch.arange(3.0)[:, None].sub(torch.arange(3.0)).abs()).double()
    problem = Quadratic(
        layer.weight.detach().flatten(1)[None], torch.kron(definite(12, 1), torch.kron(smooth, smooth))[None]
    )
    start = layers.factorize(layer, "cp3", 24)
    how = {"steps": 40, "tol": 1e-6, "preconditioned": preconditioned}
    free, alone = fit_factors(start, problem.target, problem.moment, **how)
    bounded, both = fit_factors(start, problem.target, problem.moment, **how, rounding=1e-3)
    assert cancellation(bounded, problem, start) < 0.7 * cancellation(free, problem, start)
    error, _ = problem.look(_kernel_of(start)(*bounded))
    assert error < alone[-1] + 0.02
    assert both[-1] == pytest.approx(error + 1e-3 * cancellation_of(bounded, problem, start), rel=1e-9)
    assert all(after <= before for before, after in itertools.pairwise(both))


def cancellation_of(factors, problem, layer):
    return sum(problem.square(term) for term in dense_terms(layer, factors)) / problem.square(problem.target)


@pytest.mark.parametrize(
    ("layer", "format"),
    [
        (lambda: nn.Conv2d(6, 5, 3), "spatial_svd"),
        (lambda: nn.Conv2d(6, 4, 3, groups=2), "cp3"),
        (lambda: nn.Conv2d(6, 5, 3), "tucker2"),
    ],
)
def test_formats_without_terms_and_groups_are_fitted_as_without(layer, format):
    torch.manual_seed(0)
    layer = layer().double()
    start = layers.factorize(layer, format, (2, 2) if format == "tucker2" else 2)
    groups = layer.groups
    target = layer.weight.detach().unflatten(0, (groups, -1)).flatten(2)
    moment = torch.stack([definite(target.shape[2], k) for k in range(groups)])
    one, other = (fit_factors(start, target, moment, rounding=weight) for weight in (0.0, 0.5))
    assert one[1] == other[1]
    assert all(torch.equal(a, b) for a, b in zip(one[0], other[0], strict=True))


def test_a_repair_takes_it_and_refuses_nonsense():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.Flatten(), nn.Linear(6 * 16, 4)).eval()
    x = torch.randn(60, 3, 8, 8)
    small = compress.uniform(compress.curves(model, x, ["cp3"], only=["2"]), compress.Budget(macs=0.8), "cp3").apply(
        model
    )
    plain, bounded = (compress.repair(small, model, x, rounding=weight) for weight in (0.0, 0.1))
    norms = [
        sum(term.square().sum() for term in dense_terms(m[2], [f.double() for f in m[2].factors()]))
        for m in (plain, bounded)
    ]
    assert norms[1] < norms[0]
    for weight in (-1.0, float("nan")):
        with pytest.raises(ValueError, match=r"rounding: .* is no number of at least 0"):
            compress.repair(small, model, x, rounding=weight)
        with pytest.raises(ValueError, match=r"rounding: .* is no number of at least 0"):
            fit_factors(small[2], torch.zeros(1, 6, 72), torch.eye(72)[None], rounding=weight)
