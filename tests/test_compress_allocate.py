"""Budgets, and the choice of candidates: brute force is the oracle."""

import itertools
import math
import sys

import numpy as np
import pytest
import torch
from compress_networks import Residual, images, seeded
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tnlib import compress
from tnlib.compress import Budget
from tnlib.compress.allocate import choose


@st.composite
def knapsacks(draw):
    """Classes of (loss, integer costs), with ties and zeros, and a room that may be too small."""
    classes, kinds = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    losses, costs = [], []
    for _ in range(classes):
        number = draw(st.integers(1, 6))
        value = st.one_of(st.integers(0, 4).map(float), st.floats(0, 1, allow_subnormal=False))
        losses.append(np.array(draw(st.lists(value, min_size=number, max_size=number))))
        rows = st.lists(st.integers(0, 20), min_size=kinds, max_size=kinds)
        costs.append(np.array(draw(st.lists(rows, min_size=number, max_size=number))))
    room = np.array(draw(st.lists(st.integers(0, 14 * classes), min_size=kinds, max_size=kinds)))
    return losses, costs, room


def brute_force(losses, costs, room):
    """The least loss of all choices within the room; None if there are none."""
    totals = [
        sum(loss[i] for loss, i in zip(losses, choice, strict=True))
        for choice in itertools.product(*(range(len(loss)) for loss in losses))
        if (sum(cost[i] for cost, i in zip(costs, choice, strict=True)) <= room).all()
    ]
    return min(totals, default=None)


@settings(deadline=None, max_examples=300)
@given(knapsacks())
def test_it_finds_what_brute_force_finds(problem):
    losses, costs, room = problem
    best, found = brute_force(*problem), choose(*problem)
    assert (found is None) == (best is None)
    if found is not None:
        choice, loss, bound = found
        assert (sum(cost[i] for cost, i in zip(costs, choice, strict=True)) <= room).all()
        assert loss == pytest.approx(sum(row[i] for row, i in zip(losses, choice, strict=True)))
        assert loss == pytest.approx(best, abs=1e-9)
        assert best - 1e-9 <= bound + 1e-9
        assert bound <= best + 1e-9


@pytest.mark.parametrize("kinds", [1, 2])
def test_large_problems_are_solved_with_proof(kinds):
    rng = np.random.default_rng(kinds)
    costs = [rng.integers(1_000, 500_000, (200, 1)) for _ in range(30)]
    losses = [np.exp(-cost[:, 0] / 1e5) * rng.uniform(0.5, 2) + 0.01 * rng.random(200) for cost in costs]
    costs = [np.hstack([cost, cost * (1 + k % 4)])[:, :kinds] for k, cost in enumerate(costs)]
    room = np.array([30 * 150_000, 30 * 300_000])[:kinds]
    choice, loss, bound = choose(losses, costs, room)
    assert (sum(cost[i] for cost, i in zip(costs, choice, strict=True)) <= room).all()
    assert loss == pytest.approx(bound, abs=1e-9)
    for k in range(30):  # no exchange of one class is better and fits
        rest = sum(costs[j][choice[j]] for j in range(30) if j != k)
        fits = (costs[k] + rest <= room).all(1)
        assert losses[k][fits].min() >= losses[k][choice[k]] - 1e-12


def test_a_search_without_space_still_bounds(monkeypatch):
    monkeypatch.setattr(sys.modules[choose.__module__], "STATES", 1)
    rng = np.random.default_rng(0)
    proved = []
    for _ in range(40):
        costs = [rng.integers(0, 30, (5, 1)) for _ in range(5)]
        losses = [rng.random(5) for _ in range(5)]
        room = sum(cost.min(0) for cost in costs) + rng.integers(0, 60, 1)
        _, loss, bound = choose(losses, costs, room)
        best = brute_force(losses, costs, room)
        assert bound - 1e-9 <= best <= loss + 1e-9
        proved.append(loss - bound < 1e-9)
    assert any(proved)
    assert not all(proved)


@pytest.mark.parametrize("budget", [{"macs": 0.6}, {"params": 0.5}, {"bytes": 0.5}, {"params": 0.6, "macs": 0.7}])
def test_a_plan_keeps_every_budget(budget):
    curves = compress.curves(seeded(Residual), images())
    plan = compress.Plan.of(curves, Budget(**budget))
    assert all(plan.share(kind) <= share for kind, share in budget.items())
    assert plan.gap == 0
    assert 0 < plan.loss == pytest.approx(sum(chosen.loss for chosen in plan.chosen.values()))


def test_a_larger_budget_loses_less_and_all_of_it_nothing():
    curves = compress.curves(seeded(Residual), images())
    losses = [compress.allocate(curves, Budget(macs=share)).loss for share in (0.4, 0.5, 0.7, 0.9, 1.0)]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] > losses[-1] == 0


class Backwards(nn.Module):
    """Its layers are called in another order than they are made in."""

    def __init__(self):
        super().__init__()
        self.last, self.middle, self.first = nn.Linear(14, 5), nn.Linear(14, 14), nn.Linear(12, 14)

    def forward(self, x):
        return self.last(self.middle(self.first(x)).relu())


def test_a_discount_is_the_first_layers_in_the_order_of_calls():
    model = seeded(Backwards)
    plain, late = (compress.curves(model, torch.randn(3, 12), ("svd",), discount=value) for value in (0.0, 1.2))
    assert plain.survey.order == ("first", "middle", "last")
    assert set(plain.weights().values()) == {1.0}
    assert late.weights() == pytest.approx({"first": math.exp(-1.2), "middle": math.exp(-0.6), "last": 1.0})
    assert late.candidates == plain.candidates


def test_with_a_discount_the_plan_is_the_best_one_of_discounted_losses():
    model, x = seeded(Backwards), torch.randn(3, 12)
    curves = compress.curves(model, x, ("svd",), discount=1.2)
    weights, rows = curves.weights(), list(curves.candidates.values())
    for share in (0.8, 0.6, 0.5):
        plan = compress.Plan.of(curves, Budget(params=share))
        room = share * plan.original["params"] - curves.fixed("params")
        kept = [choice for choice in itertools.product(*rows) if sum(c.params for c in choice) <= room]
        best = min(sum(weights[c.layer] * c.loss for c in choice) for choice in kept)
        assert sum(weights[c.layer] * c.loss for c in plan.chosen.values()) == pytest.approx(best)
        assert plan.loss == pytest.approx(sum(c.loss for c in plan.chosen.values()))  # what is predicted stays
    with pytest.raises(ValueError, match="discount: nan is no finite number"):
        compress.curves(model, x, ("svd",), discount=math.nan)


def test_a_budget_out_of_reach_tells_the_smallest():
    curves = compress.curves(seeded(Residual), images())
    with pytest.raises(
        ValueError, match=r"macs=0.01 is out of reach.* the smallest is macs=0\.\d+ \([\d,]+ of"
    ) as told:
        compress.allocate(curves, Budget(macs=0.01))
    smallest = float(str(told.value).split("macs=")[-1].split()[0])
    assert compress.allocate(curves, Budget(macs=smallest)).loss > 0
    with pytest.raises(ValueError, match="out of reach"):
        compress.allocate(curves, Budget(macs=smallest - 2e-4))


@pytest.mark.parametrize("bad", [{}, {"macs": 0}, {"macs": 1.5}, {"params": -1}, {"bytes": True}, {"macs": "half"}])
def test_a_bad_budget_is_refused(bad):
    with pytest.raises(ValueError, match=r"budget needs|share of the original"):
        Budget(**bad)


def test_a_budget_prints_what_was_asked():
    assert str(Budget(macs=0.5, params=0.25)) == "params=0.25, macs=0.5"
    assert Budget(macs=0.3).limits({"macs": 10, "params": 3}) == {"macs": 3}
