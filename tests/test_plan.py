"""Contraction plans: exact whatever the plan, cheapest by the model, and what tensorized layers keep between calls."""

import copy
import itertools
import json
import math
import pickle
from dataclasses import asdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tnlib import layers, measure, paths
from tnlib.layers import plan as planning
from tnlib.layers import sweep
from tnlib.layers.cost_model import CostModel, Product
from tnlib.layers.digits import padded_dims, paired_dims
from tnlib.study import bench_products

DIRECTIONS = ("right to left", "left to right")
FORMATS = ("cp", "tucker", "tt")
VGG = {"row_dims": (4,) * 6, "col_dims": (2, 7, 8, 8, 7, 4)}


@st.composite
def chains(draw, longest=5):
    d = draw(st.integers(1, longest))
    ranks = [1, *draw(st.lists(st.integers(1, 5), min_size=d - 1, max_size=d - 1)), 1]
    dims = draw(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 5)), min_size=d, max_size=d))
    return tuple((left, m, n, right) for left, (m, n), right in zip(ranks, dims, ranks[1:], strict=False))


def cores_of(shapes, requires_grad=False):
    generator = torch.Generator().manual_seed(0)
    cores = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    return [core.requires_grad_(requires_grad) for core in cores]


def dense_of(cores):
    """By einsum over digits, core by core: (prod m, prod n)."""
    weight = torch.ones(1, 1, 1, dtype=torch.float64)
    for core in cores:
        weight = torch.einsum("mna,aijb->minjb", weight, core).flatten(2, 3).flatten(0, 1)
    return weight[:, :, 0]


def every_blocking(length):
    for cuts in itertools.product([False, True], repeat=length - 1):
        ends = [0, *(k + 1 for k, cut in enumerate(cuts) if cut), length]
        yield tuple(itertools.pairwise(ends))


@settings(max_examples=40, deadline=None)
@given(chains(4), st.integers(1, 7), st.integers(1, 7), st.sampled_from(DIRECTIONS), st.booleans(), st.booleans())
def test_every_plan_computes_the_product_with_the_dense_matrix(shapes, batch, chunk, direction, training, bias):
    cores, chunk = cores_of(shapes), min(chunk, batch)
    dense = dense_of(cores)
    x = torch.randn(batch, dense.shape[1], dtype=torch.float64)
    added = torch.randn(dense.shape[0], dtype=torch.float64) if bias else None
    for blocks in every_blocking(len(shapes)):
        order = blocks[::-1] if direction == "right to left" else blocks
        products = tuple(planning.sweep_product(shapes, *ends, direction, chunk) for ends in order)
        recompute = training and chunk < batch
        plan = planning.ChainPlan(shapes, batch, blocks, direction, chunk, training, recompute, products, 0.0)
        y = sweep.run_chain(plan, sweep.merge_blocks(plan, cores), added, batch)(x)
        assert torch.allclose(y, x @ dense.T + (0 if added is None else added), atol=1e-10)
        assert plan.macs == sum(p.macs for p in products) / chunk


@settings(max_examples=60, deadline=None)
@given(chains(), st.integers(1, 300), st.booleans())
def test_the_plan_is_the_cheapest_of_all(shapes, batch, training):
    plan = planning.plan_chain(shapes, batch, training=training, chunked=False)

    def cost(blocks, direction):
        products = [planning.sweep_product(shapes, *ends, direction, batch) for ends in blocks]
        time = sum(planning._time(p, training, planning.DEFAULT) for p in products)
        if training:
            time += sum(planning._merging(shapes, *ends, planning.DEFAULT) for ends in blocks)
        return time

    found = []
    for direction in DIRECTIONS:
        best = planning._best(shapes, batch, direction, batch, training, planning.DEFAULT)
        cheapest = min(cost(blocks, direction) for blocks in every_blocking(len(shapes)))
        assert cost(best.blocks, direction) == pytest.approx(cheapest)
        assert best.nanoseconds == pytest.approx(cheapest) or best.recompute
        found.append(best.nanoseconds)
    assert plan.nanoseconds == min(found)
    assert planning.plan_chain(shapes, batch, training=training).nanoseconds <= plan.nanoseconds


def test_the_plan_for_vggs_layer_is_counted_by_hand():
    shapes = [(1 if k == 0 else 4, 4, n, 1 if k == 5 else 4) for k, n in enumerate(VGG["col_dims"])]
    plan = planning.plan_chain(tuple(shapes), 1)
    assert plan.blocks == ((0, 2), (2, 3), (3, 4), (4, 6))
    # The last two cores, the fourth, the third, the first two: rows x inner x cols each.
    assert plan.macs == 896 * 28 * 64 + 112 * 16 * 32 * 16 + 14 * 16 * 32 * 64 + 16 * 56 * 256
    assert "G1G2 | G3 | G4 | G5G6, right to left, in one piece" in str(plan)
    assert plan.merged == 16 * 14 * 4 + 4 * 16 * 28
    assert not plan.dense


def test_the_dense_matrix_is_a_plan_and_says_so():
    layer = layers.factorize(nn.Linear(16, 16), "tt", 16, row_dims=(4, 4), col_dims=(4, 4))
    assert layer.plan(1000).dense
    assert "the dense matrix is cheaper here" in layer.explain(1000)
    assert "1,024 bytes of merged factors" in layer.explain(1000)


def test_the_cost_model_adds_up_what_it_says():
    model = CostModel(call=1, matrix=2, mac=3, narrow=11, written=5, near=7, far=0, memory=0, paged=0, vector=4)
    assert model.product(Product(1, 4, 3, 8, False)) == 1 + 3 * 96 + 5 * 32 + 7 * (12 + 24 + 32)
    assert model.product(Product(1, 4, 3, 2, False)) == 1 + 3 * 48 + 5 * 16 + 7 * (12 + 6 + 8)
    assert model.product(Product(2, 3, 1, 5, True)) == 1 + 2 * 2 + 3 * 2 * 4 * 8 + 5 * 2 * 4 * 8 + 7 * (3 + 10 + 30)
    assert model.product(Product(2, 4, 3, 3, True)) == 1 + 2 * 2 + (3 + 11) * 96 + 5 * 32 + 7 * (12 + 18 + 24)
    assert CostModel().moved(4e6) > 2 * CostModel().moved(2e6)
    model = CostModel(call=0, matrix=0, mac=0, written=0, near=0, far=0, memory=2, paged=3, last_cache=400, mapped=800)
    assert model.product(Product(1, 2, 10, 10, False)) == 0
    assert model.product(Product(1, 20, 10, 10, False)) == 3 * 200
    assert model.product(Product(1, 2, 10, 11, False)) == 2 * 110


def test_the_cost_models_rates_are_those_of_a_record():
    # Rounded to three digits: the docstring names the benchmark that fitted them.
    found = [json.loads(path.read_text())["metrics"]["model"] for path in paths.PUBLISHED.glob("products-*.json")]
    ours = asdict(CostModel())
    names = [name for name in ours if name != "narrow"]
    assert any(all(ours[name] == pytest.approx(model[name], rel=6e-3) for name in names) for model in found)


def test_what_narrow_products_cost_lies_between_the_machines():
    narrow = []
    for path in paths.PUBLISHED.glob("products-*.json"):
        timed = json.loads(path.read_text())["metrics"]["products"]
        products, times = [Product(*row[:-1]) for row in timed], np.array([float(row[-1]) for row in timed])
        narrow.append(bench_products.fit(products, times).narrow)
    assert min(narrow) < CostModel().narrow < max(narrow)


def test_the_fit_finds_the_rates_that_made_the_times():
    drawn = bench_products.random_products(300, seed=3)
    model = CostModel(
        call=9000,
        matrix=80,
        mac=0.03,
        narrow=0.05,
        written=0.1,
        near=0.02,
        far=0.3,
        memory=0.1,
        paged=4,
        cache=6_000_000,
    )
    rng = np.random.default_rng(0)
    times = np.array([model.product(p) for p in drawn]) * np.exp(0.02 * rng.standard_normal(300))
    fitted = bench_products.fit(drawn, times)
    assert fitted.cache == model.cache
    for name in ("call", "mac", "narrow", "far", "matrix"):
        assert getattr(fitted, name) == pytest.approx(getattr(model, name), rel=0.1)


def test_mistakes_in_a_chain_are_named():
    with pytest.raises(ValueError, match="neighbouring ranks must be equal"):
        planning.plan_chain(((1, 2, 2, 3), (2, 2, 2, 1)), 1)
    with pytest.raises(ValueError, match="neighbouring ranks must be equal"):
        planning.plan_chain(((1, 2, 2, 3),), 1)
    with pytest.raises(ValueError, match="at least one row, got 0"):
        planning.plan_chain(((1, 2, 2, 1),), 0)


@settings(max_examples=20, deadline=None)
@given(chains(3), st.integers(1, 4), st.integers(1, 4), st.sampled_from(DIRECTIONS), st.booleans(), st.data())
def test_the_sweep_has_the_gradients_of_its_products_twice(shapes, batch, chunk, direction, recompute, data):
    chunk = min(chunk, batch)
    blocks = data.draw(st.sampled_from(list(every_blocking(len(shapes)))))
    order = blocks[::-1] if direction == "right to left" else blocks
    products = tuple(planning.sweep_product(shapes, *ends, direction, chunk) for ends in order)
    plan = planning.ChainPlan(shapes, batch, blocks, direction, chunk, True, recompute, products, 0.0)
    x = torch.randn(batch, math.prod(s[2] for s in shapes), dtype=torch.float64)
    inputs = [x, *(weight.clone() for weight in sweep.merge_blocks(plan, cores_of(shapes)))]
    needs = data.draw(st.lists(st.booleans(), min_size=len(inputs), max_size=len(inputs)).filter(any))
    for tensor, need in zip(inputs, needs, strict=True):
        tensor.requires_grad_(need)

    def f(x, *weights):
        return sweep.run_chain(plan, weights, None, batch)(x)

    assert torch.autograd.gradcheck(f, inputs)
    assert torch.autograd.gradgradcheck(f, inputs, fast_mode=True)


@pytest.mark.parametrize("format", FORMATS)
@settings(max_examples=40, deadline=None)
@given(
    sizes=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    rank=st.integers(1, 4),
    lead=st.lists(st.integers(1, 5), max_size=2),
    bias=st.booleans(),
)
def test_gradients_are_those_of_the_dense_weight(format, sizes, rank, lead, bias):
    layer = nn.Linear(*sizes, bias=bias, dtype=torch.float64)
    largest = layers.max_rank(layer, format)
    rank = min(rank, largest if isinstance(largest, int) else max(largest))
    module = layers.factorize(layer, format, rank, weights="fresh", seed=1)
    x = torch.randn(*lead, sizes[0], dtype=torch.float64, requires_grad=True)
    y = module(x)
    wanted = nn.functional.linear(x, module.dense_weight(), module.bias)
    with torch.no_grad():
        assert torch.allclose(module(x), wanted, atol=1e-10)
    weights = torch.randn_like(y)
    inputs = [x, *module.parameters()]
    for got, want in zip(
        torch.autograd.grad(y, inputs, weights), torch.autograd.grad(wanted, inputs, weights), strict=True
    ):
        assert torch.allclose(got, want, atol=1e-9)


def test_chunks_are_recomputed_in_backward_and_change_nothing():
    module = layers.factorize(nn.Linear(3136, 256).double(), "tt", 8, weights="fresh", col_dims=(7, 8, 8, 7))
    assert module.plan(300, training=True).recompute
    assert 300 % module.plan(300, training=True).chunk
    x = torch.randn(300, 3136, dtype=torch.float64)
    got = torch.autograd.grad(module(x).square().sum(), list(module.parameters()))
    wanted = nn.functional.linear(x, module.dense_weight(), module.bias).square().sum()
    for a, b in zip(got, torch.autograd.grad(wanted, list(module.parameters())), strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-9 * float(b.abs().max()))


def test_a_training_step_keeps_less_than_three_times_the_input():
    module = layers.factorize(nn.Linear(25088, 4096), "tt", 4, weights="fresh", **VGG)
    x = torch.randn(100, 25088, requires_grad=True)

    def step(x):
        module.zero_grad()
        x.grad = None
        module(x).square().sum().backward()

    step(x)
    assert measure.peak_memory(step, x) < 3 * x.numel() * x.element_size()


@pytest.mark.parametrize("format", FORMATS)
def test_autocast_trains_and_predicts(format):
    module = layers.factorize(nn.Linear(3136, 256), format, 4, weights="fresh", col_dims=(7, 8, 8, 7))
    x = torch.randn(40, 3136, generator=torch.Generator().manual_seed(0))
    wanted = torch.autograd.grad(module(x).square().sum(), list(module.parameters()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = module(x)
    for got, want in zip(torch.autograd.grad(y.square().sum(), list(module.parameters())), wanted, strict=True):
        assert float((got - want).norm()) < 0.05 * float(want.norm())
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert float((module(x) - y).norm()) < 0.05 * float(y.norm())
    y = module(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = torch.autograd.grad(y.square().sum(), list(module.parameters()))
    for got, want in zip(found, wanted, strict=True):
        assert float((got - want).norm()) < 0.05 * float(want.norm())


class TestWhatIsKeptBetweenCalls:
    x = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))

    def make(self, format):
        module = layers.factorize(nn.Linear(64, 24), format, 3, weights="fresh")
        with torch.no_grad():
            module(self.x)
        assert module._kept
        return module

    def agrees(self, module, x=None):
        x = self.x if x is None else x
        with torch.no_grad():
            wanted = nn.functional.linear(x, module.dense_weight(), module.bias)
            return torch.allclose(module(x), wanted, atol=1e-5)

    @pytest.mark.parametrize("format", FORMATS)
    def test_changes_are_seen(self, format):
        module = self.make(format)
        kept = next(iter(module._kept.values()))[1]
        self.agrees(module)
        assert next(iter(module._kept.values()))[1] is kept
        with torch.no_grad():
            module.factors()[0].mul_(2.0)
        assert self.agrees(module)
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        module(self.x).square().sum().backward()
        optimizer.step()
        assert self.agrees(module)
        module.load_state_dict(layers.factorize(nn.Linear(64, 24), format, 3, weights="fresh", seed=5).state_dict())
        assert self.agrees(module)
        assert self.agrees(module.double(), self.x.double())

    @pytest.mark.parametrize("format", FORMATS)
    def test_copies_and_pickles_are_on_their_own(self, format):
        module = self.make(format)
        for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
            assert not other._kept
            with torch.no_grad():
                other.factors()[-1].add_(1.0)
            assert self.agrees(other)
            assert self.agrees(module)
            assert not torch.allclose(module(self.x), other(self.x))

    @pytest.mark.parametrize("format", FORMATS)
    def test_other_factors_by_functional_call(self, format):
        module = self.make(format)
        other = layers.factorize(nn.Linear(64, 24), format, 3, weights="fresh", seed=7)
        with torch.no_grad():
            got = torch.func.functional_call(module, dict(other.named_parameters()), (self.x,))
            assert torch.allclose(got, other(self.x), atol=1e-6)
        assert self.agrees(module)

    @pytest.mark.parametrize("format", FORMATS)
    def test_inference_mode_leaves_a_layer_that_learns(self, format):
        module = layers.factorize(nn.Linear(64, 24), format, 3, weights="fresh")
        with torch.inference_mode():
            module(self.x)
        module.requires_grad_(False)
        x = self.x.clone().requires_grad_()
        module(x).sum().backward()
        assert torch.allclose(x.grad, module.dense_weight().sum(0).expand(3, -1), atol=1e-5)
        with torch.inference_mode():
            made = layers.factorize(nn.Linear(64, 24), format, 3, weights="fresh")
            made(self.x)

    @pytest.mark.parametrize("format", FORMATS)
    def test_many_shapes_take_turns(self, format):
        module = self.make(format)
        for _ in range(2):
            for lead in ((3,), (1,), (70,), (2, 5), ()):
                assert self.agrees(module, torch.randn(*lead, 64))
        assert len(module._kept) <= 2

    def test_an_edit_through_data_needs_forget(self):
        module = self.make("tt")
        module.cores[0].data.mul_(3.0)
        module.forget()
        assert self.agrees(module)


@pytest.mark.parametrize("format", ["svd", *FORMATS])
def test_fresh_weights_have_the_variance_asked_for(format):
    layer = nn.Linear(360, 128)
    rank = 20 if format == "svd" else 6
    module = layers.factorize(layer, format, rank, weights="fresh", gain=1.5)
    weight = module.dense_weight().detach()
    # Of independent draws, the variance of the weight is an average; tensorized ones are scaled to have it.
    assert float(weight.square().mean()) * 360 == pytest.approx(1.5**2, rel=0.1 if format == "svd" else 1e-4)
    assert not any(p.count_nonzero() for name, p in module.named_parameters() if "bias" in name)
    again = layers.factorize(layer, format, rank, weights="fresh", gain=1.5)
    assert torch.equal(weight, again.dense_weight())
    assert not torch.equal(weight, layers.factorize(layer, format, rank, weights="fresh", seed=1).dense_weight())


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3000), st.integers(1, 6))
def test_padded_digits_are_enough_and_balanced(size, count):
    dims = padded_dims(size, count)
    assert len(dims) == count
    assert size <= math.prod(dims) <= 2 * size
    assert max(dims) <= 4 * math.prod(dims) ** (1 / count)


@pytest.mark.parametrize("format", FORMATS)
def test_a_prime_size_is_padded(format):
    layer = nn.Linear(31, 37, dtype=torch.float64)
    module = layers.factorize(layer, format, 3, row_dims=(2, 4, 5), col_dims=(4, 4, 3))
    assert module.dense_weight().shape == (37, 31)
    x = torch.randn(4, 31, dtype=torch.float64)
    assert torch.allclose(module(x), x @ module.dense_weight().T + layer.bias, atol=1e-12)
    assert padded_dims(257, 3) == (4, 5, 13)


def test_cp_recovers_a_weight_of_its_rank():
    made = layers.factorize(nn.Linear(48, 36, dtype=torch.float64), "cp", 3, weights="fresh", seed=2)
    layer = nn.Linear(48, 36, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(made.dense_weight())
    module = layers.factorize(layer, "cp", 3, init="svd", max_iter=2000, tol=1e-14)
    assert torch.allclose(module.dense_weight(), layer.weight, atol=1e-6)


def test_bad_digits_and_inputs_are_refused():
    layer = nn.Linear(24, 18)
    with pytest.raises(ValueError, match="which is less than the weight's 18 x 24"):
        layers.factorize(layer, "tt", 2, row_dims=(2, 4), col_dims=(4, 6))
    with pytest.raises(ValueError, match="equally many positive digits"):
        paired_dims(18, 24, (3, 6), (2, 3, 4))
    with pytest.raises(ValueError, match="weights must be 'pretrained' or 'fresh', got 'random'"):
        layers.factorize(layer, "tt", 2, weights="random")
    module = layers.factorize(layer, "tt", 2)
    with pytest.raises(ValueError, match=r"expected 24 features in the last mode, got shape \(4, 12\)"):
        module(torch.randn(4, 12))
    assert module(torch.randn(0, 24)).shape == (0, 18)
    assert module(torch.randn(24)).shape == (18,)
