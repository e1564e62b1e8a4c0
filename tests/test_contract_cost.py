"""The cost model: adds up what it says, reads its rates from data, and finds rates again from times."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from tnlib import contract, paths
from tnlib.contract import CostModel, Product

NAMES = ("xeon-avx512-2.5GHz", "xeon-amx", "epyc-avx2")


def test_the_cost_model_adds_up_what_it_says():
    model = CostModel(call=1, matrix=2, mac=3, narrow=11, written=5, near=7, vector=4, tile=4)
    assert model.product(Product(1, 4, 3, 8, False)) == 1 + 3 * 96 + 5 * 32 + 7 * (12 + 24 + 32)
    assert model.product(Product(1, 4, 3, 2, False)) == 1 + 3 * 48 + 5 * 16 + 7 * (12 + 6 + 8)
    assert model.product(Product(2, 3, 1, 5, True)) == 1 + 2 * 2 + 3 * 2 * 4 * 8 + 5 * 2 * 4 * 8 + 7 * (3 + 10 + 30)
    assert model.product(Product(2, 4, 3, 3, True)) == 1 + 2 * 2 + (3 + 11) * 96 + 5 * 32 + 7 * (12 + 18 + 24)
    assert CostModel.default().moved(4e6) > 2 * CostModel.default().moved(2e6)
    model = CostModel(memory=2, paged=3, last_cache=400, mapped=800)
    assert model.product(Product(1, 2, 10, 10, False)) == 0
    assert model.product(Product(1, 20, 10, 10, False)) == 3 * 200
    assert model.product(Product(1, 2, 10, 11, False)) == 2 * 110
    assert CostModel(mac=1).product(Product(3, 5, 7, 11, True)) == 3 * 5 * 7 * 11


def test_rates_are_named_and_cached():
    assert CostModel.default() is CostModel.default()
    assert CostModel.default() == CostModel.named(NAMES[0])
    assert len({CostModel.named(name) for name in NAMES}) == 3
    with pytest.raises(ValueError, match=f"no rates of a machine 'abacus'; there are {', '.join(NAMES)}"):
        CostModel.named("abacus")


def records():
    found = [json.loads(path.read_text())["metrics"] for path in paths.PUBLISHED.glob("products-*.json")]
    assert found
    return found


@pytest.mark.parametrize("name", NAMES)
def test_rates_are_those_of_a_record(name):
    # Rounded to three digits. Vector, tile and the like are what the model is, not fitted.
    fitted = ("call", "matrix", "mac", "written", "near", "far", "memory", "paged", "cache")
    ours = asdict(CostModel.named(name))
    assert any(
        all(ours[rate] == pytest.approx(metrics["model"][rate], rel=6e-3) for rate in fitted) for metrics in records()
    )


def test_what_narrow_products_cost_lies_between_the_machines():
    narrow = []
    for metrics in records():
        timed = [(Product(*row[:-1]), row[-1]) for row in metrics["products"]]
        narrow.append(CostModel.fit(*map(list, zip(*timed, strict=True))).narrow)
    assert min(narrow) < CostModel.default().narrow < max(narrow)


def test_the_fit_finds_the_rates_that_made_the_times():
    drawn = contract.random_products(300, seed=3)
    rates = {"call": 9000, "matrix": 80, "mac": 0.03, "narrow": 0.05, "written": 0.1, "near": 0.02, "far": 0.3}
    model = CostModel(**rates, memory=0.1, paged=4, vector=16, tile=4, cache=6_000_000)
    rng = np.random.default_rng(0)
    times = [model.product(p) * float(np.exp(0.02 * rng.standard_normal())) for p in drawn]
    fitted = CostModel.fit(drawn, times)
    assert fitted.cache == model.cache
    for name in ("call", "mac", "narrow", "far", "matrix"):
        assert getattr(fitted, name) == pytest.approx(getattr(model, name), rel=0.1)


def test_this_machine_is_measured():
    model = CostModel.fit(3, seed=1, seconds=1e-3)
    assert all(rate > 0 for rate in asdict(model).values())
    drawn = contract.random_products(3, seed=1)
    assert drawn == contract.random_products(3, seed=1) != contract.random_products(3, seed=2)
    assert all(time > 0 for time in contract.time_products(drawn, 1e-3))


def test_a_fit_needs_a_time_for_each_product():
    with pytest.raises(ValueError, match="got 2 products, 1 times"):
        CostModel.fit(contract.random_products(2), [1.0])
    with pytest.raises(ValueError, match="got 0 products, 0 times"):
        CostModel.fit([], [])
