"""Errors that count by the norms of a layer's inputs and outputs: against dense sums, and what fits make of them."""

import pytest
import torch
from compress_networks import Residual, images, seeded
from test_compress_exact import norms_of
from test_compress_repair import CASES, flat, made, problem, randn
from torch import nn

from tnlib import compress, layers
from tnlib.compress import Budget
from tnlib.compress.curvature import counted_outputs
from tnlib.compress.fitting import fit_factors
from tnlib.compress.inputs import calls
from tnlib.compress.quadratic import EVEN, Coordinates, Quadratic, evened


def given(name):
    """A layer, and an error of its kernel that counts by both norms."""
    layer = made(name)
    target, moment = problem(layer)
    mixing = randn(len(target), target.shape[1], target.shape[1], seed=5)
    return layer, Quadratic(target, moment, mixing @ mixing.mT + 0.1 * torch.eye(target.shape[1]).double())


def square(error, by):
    return float(torch.einsum("gts,gsn,gnm,gtm->", by.outputs, error, by.moment, error))


@pytest.mark.parametrize("name", sorted({name for name, _ in CASES}))
def test_the_error_is_the_dense_sum(name):
    _, by = given(name)
    kernel = randn(*by.target.shape, seed=7)
    error, weighed = by.look(kernel)
    assert error == pytest.approx(square(kernel - by.target, by) / square(by.target, by))
    moved = kernel.clone().requires_grad_()
    rest = moved - by.target
    torch.einsum("gts,gsn,gnm,gtm->", by.outputs, rest, by.moment, rest).backward()
    assert torch.allclose(2 * weighed, moved.grad)


@pytest.mark.parametrize(("name", "format"), CASES)
def test_in_other_coordinates_it_is_the_same(name, format):
    layer, by = given(name)
    small = layers.factorize(layer, format, 2)
    coordinates, factors = Coordinates(small, by), [factor.detach() for factor in small.factors()]
    turned, there = coordinates.turned(by), coordinates.to(factors)
    kernel = flat(small.dense_weight(), len(by.target))
    moved = small if not coordinates.roots else type(small).from_factors(there, like=layer)
    assert turned.look(flat(moved.dense_weight(), len(by.target)))[0] == pytest.approx(by.look(kernel)[0], rel=1e-6)
    assert all(torch.allclose(a, b) for a, b in zip(coordinates.back(there), factors, strict=True))
    if coordinates.roots:
        split = turned.moment[0].reshape(*coordinates.shape, *coordinates.shape)
        assert torch.allclose(torch.einsum("akbk->ab", split), torch.eye(len(split)).double(), atol=1e-8)
        assert turned.outputs is None
    else:
        assert small.in_digits or len(by.target) > 1


@pytest.mark.parametrize("method", ["nls", "als"])
@pytest.mark.parametrize(("name", "format"), CASES)
def test_factors_come_nearer_in_both_norms(name, format, method):
    layer, by = given(name)
    small = layers.factorize(layer, format, 2)
    factors, errors = fit_factors(small, by.target, by.moment, outputs=by.outputs, method=method)
    kernels = [
        flat(one.dense_weight(), len(by.target)) for one in (small, type(small).from_factors(factors, like=layer))
    ]
    assert [by.look(kernel)[0] for kernel in kernels] == pytest.approx([errors[0], errors[-1]], rel=1e-6)
    assert errors[-1] < 0.9 * errors[0]


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_of_matrices_the_best_is_found(rank):
    """The tail of the singular values of outputs^(1/2) target moment^(1/2), by Eckart and Young."""
    layer, by = given("linear")
    roots = []
    for matrix in (by.outputs[0], by.moment[0]):
        values, vectors = torch.linalg.eigh(matrix)
        roots.append((vectors * values.sqrt()) @ vectors.mT)
    singular = torch.linalg.svdvals(roots[0] @ by.target[0] @ roots[1])
    best = float(singular[rank:].square().sum() / singular.square().sum())
    _, errors = fit_factors(layers.factorize(layer, "svd", rank), by.target, by.moment, outputs=by.outputs)
    assert errors[-1] == pytest.approx(best, rel=1e-8)


def test_outputs_are_evened():
    norm = torch.diag(torch.tensor([3.0, 1.0, 0.0, 0.0], dtype=torch.float64))[None]
    assert torch.allclose(evened(norm)[0].diagonal(), torch.tensor([3.0, 1.0, 0.0, 0.0]).double() + EVEN)
    assert torch.equal(evened(7 * norm), evened(norm))
    assert evened(None) is None
    assert evened(torch.zeros(2, 3, 3)) is None


def test_what_the_outputs_count_is_what_the_metric_has():
    model, x = seeded(Residual), images(60)
    norms, named = norms_of(model, x), {name: model.get_submodule(name) for name in ("stem", "grouped", "head")}
    for name, counted in counted_outputs(model, named, calls(model, x)).items():
        assert torch.allclose(counted / counted.norm(), norms[name].outputs / norms[name].outputs.norm(), rtol=1e-9)


class Deaf(nn.Module):
    """Answers whose gradients do not exist."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 5)

    def forward(self, x):
        return self.last(self.first(x).relu()).argmax(1)


def test_where_outputs_have_no_gradients_all_count_alike():
    model, x = seeded(Deaf), torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    small = compress.plan(model, x, Budget(params=0.8)).apply(model)
    one, two = (compress.repair(small, model, x, metric=metric).state_dict() for metric in ("exact", "input"))
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_what_the_network_answers_is_nearer():
    """Where most of a layer's outputs hardly matter, a fit that knows it wastes nothing on them."""

    class Uneven(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(12, 16), nn.Linear(16, 5)
            with torch.no_grad():
                self.last.weight[:, 4:] *= 0.02

        def forward(self, x):
            return self.last(self.first(x).relu())

    model, x = seeded(Uneven), torch.randn(500, 12, generator=torch.Generator().manual_seed(0))
    small = compress.plan(model, x, Budget(params=0.6), only=("first",)).apply(model)
    errors = {}
    for metric in ("input", "exact"):
        with torch.no_grad():
            rest = compress.repair(small, model, x, metric=metric)(x) - model(x)
        errors[metric] = float((rest - rest.mean(1, keepdim=True)).square().sum())
    assert errors["exact"] < 0.5 * errors["input"]


def test_an_unknown_metric_changes_nothing():
    model, x = seeded(Deaf), torch.randn(50, 6)
    with pytest.raises(ValueError, match="unknown metric 'weight'; expected input or exact"):
        compress.repair(model, model, x, metric="weight")
