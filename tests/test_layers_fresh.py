"""Fresh layers, the digits and ranks that formats choose, and what tensorized layers tell of their plans."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from layer_cases import CASES, DIGITS, Case, assert_same, difference
from torch import nn

from tnlib import layers


@pytest.mark.parametrize("case", CASES, ids=str)
def test_fresh_is_seeded_and_its_bias_is_zero(case):
    layer, x = case.layer(), case.input()
    first, second, third = (layers.factorize(layer, case.format, 2, weights="fresh", seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.dense_weight(), second.dense_weight())
    assert difference(third.dense_weight(), first.dense_weight()) > 0.1
    assert difference(first.dense_weight(), layer.weight) > 0.1
    if case.kind != "Embedding":
        assert not first(torch.zeros_like(x)).any()
    before = torch.random.get_rng_state()
    case.cls.fresh(layer, 2)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_variance_of_fresh_weights(case):
    """The mean square is gain^2 / fan_in in every draw (an embedding's gain^2), where digits need no padding."""
    sizes = {"Linear": (64, 27), "Embedding": (64, 27)}.get(case.kind, (54, 16, 3))
    layer = getattr(nn, case.kind)(*sizes, **({"groups": 2} if len(sizes) == 3 else {}), dtype=torch.float64)
    fan_in = 1 if case.kind == "Embedding" else layer.weight[0].numel()
    for seed, gain in ((0, 2**0.5), (1, 3.0)):
        weight = case.cls.fresh(layer, 3, gain=gain, seed=seed).dense_weight()
        assert float(weight.detach().square().mean()) == pytest.approx(gain**2 / fan_in, rel=1e-6)
    default = case.cls.fresh(layer, 3).dense_weight().detach()
    assert float(default.square().mean()) == pytest.approx((1 if case.kind == "Embedding" else 2) / fan_in, rel=1e-6)


@pytest.mark.parametrize("case", CASES, ids=str)
@torch.no_grad()
def test_mean_of_fresh_weights(case):
    """Entries of independent draws have the mean 0: their average is within five deviations, which are small."""
    layer, draws = case.layer(dtype=torch.float64), 60
    weights = torch.stack([case.cls.fresh(layer, 2, seed=seed).dense_weight() for seed in range(draws)])
    mean, deviation = weights.mean(0).flatten(), weights.flatten(1).std(0) / draws**0.5
    assert float((mean.abs() / deviation).max()) < 6
    assert float(deviation.mean()) < 0.2 * float(weights.square().mean().sqrt())


@given(st.integers(1, 5000), st.integers(1, 6))
def test_balanced_dims_multiply_to_the_size(size, count):
    dims = layers.balanced_dims(size, count)
    assert len(dims) == count
    assert torch.tensor(dims).prod() == size


def test_balanced_dims_are_balanced():
    assert layers.balanced_dims(1024, 5) == (4, 4, 4, 4, 4)
    assert layers.balanced_dims(25088, 6) == (4, 4, 4, 7, 7, 8)
    assert layers.balanced_dims(13, 3) == (1, 1, 13)
    with pytest.raises(ValueError, match="cannot split 0"):
        layers.balanced_dims(0, 2)


@given(st.integers(1, 5000), st.integers(1, 4))
def test_padded_dims_hold_the_size_without_a_large_factor(size, count):
    dims = layers.padded_dims(size, count)
    product = int(torch.tensor(dims).prod())
    assert len(dims) == count
    assert size <= product < 2 * size + 1
    assert max(dims) <= 4 * product ** (1 / count)
    assert layers.padded_dims(257, 3) == (4, 5, 13)


def test_ranks_that_the_others_limit_are_cut():
    layer = nn.Conv2d(4, 4, 3)
    wide, narrow = layers.factorize(layer, "tucker", (4, 1, 1, 1)), layers.factorize(layer, "tucker", 1)
    assert wide.rank == (1, 1, 1, 1)
    assert_same(wide.dense_weight(), narrow.dense_weight())
    assert layers.factorize(nn.Conv2d(8, 8, 1), "tucker2", (8, 1)).rank == (1, 1)
    assert layers.factorize(nn.Conv2d(6, 8, 3), "tt", (1, 9, 4)).rank == (1, 3, 4)
    assert layers.factorize(nn.Conv1d(6, 8, 1), "tucker", 6).rank == (6, 6, 1)


@pytest.mark.parametrize("name", [name for name in DIGITS if name.startswith("Linear")])
def test_tensorized_layers_explain_their_plans(name):
    case = Case(*name.split("-"))
    module = layers.factorize(nn.Linear(512, 256), case.format, 2, weights="fresh")
    plan, text = module.plan(16), module.explain(16)
    assert str(plan) in text
    assert f"{plan.macs:,}" in text
    assert f"{sum(factor.numel() for factor in module.factors()):,}" in text
    assert 0 < plan.macs <= 256 * 512
    assert "512" in text
    assert "256" in text


def test_bases_make_no_layers():
    for formats in layers.FORMATS.values():
        for cls in formats.values():
            base = cls.__mro__[1]
            if base in formats.values() or base is nn.Module:
                continue
            with pytest.raises(TypeError):
                base.from_layer(nn.Linear(2, 2), 1)
