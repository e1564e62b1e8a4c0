"""Running plans in every mode of torch: gradients of any order, transforms, export, compile, autocast, no rows."""

import itertools
import math

import pytest
import torch
from torch import nn

from tnlib import contract, measure

CHAIN = ((1, 3, 5, 4), (4, 2, 3, 5), (5, 4, 2, 3), (3, 2, 4, 1))
ROW_DIMS, COL_DIMS = (3, 4, 2), (5, 2, 3)
ROWS = 8
MACS_ONLY = contract.CostModel(mac=1.0)
VGG = tuple((1 if k == 0 else 4, 4, n, 1 if k == 5 else 4) for k, n in enumerate((2, 7, 8, 8, 7, 4)))


def normal(*shape, dtype=torch.float64):
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def cases():
    """Name, plan, factors: in one piece with intermediates kept, recomputed, in chunks."""
    cores = [normal(*shape) / 3 for shape in CHAIN]
    cp = [normal(size, 2) for size in ROW_DIMS + COL_DIMS]
    core = normal(2, 3, 2, 3, 2, 2)
    tucker = [core, *(normal(*pair) for pair in zip(ROW_DIMS + COL_DIMS, core.shape, strict=True))]
    for rows, ceiling in ((ROWS, 2**27), (ROWS, 12_500)):
        name = "whole" if ceiling == 2**27 else "chunks"
        plan = contract.plan_chain(CHAIN, rows, model=MACS_ONLY, max_bytes=ceiling)
        yield f"chain-{name}", plan, cores
        ranks = core.shape[:3], core.shape[3:]
        plan = contract.plan_tucker(ROW_DIMS, COL_DIMS, *ranks, rows, model=MACS_ONLY, max_bytes=min(ceiling, 6_000))
        yield f"tucker-{name}", plan, tucker
        plan = contract.plan_cp(ROW_DIMS, COL_DIMS, 2, rows, max_bytes=ceiling if name == "whole" else 2_500)
        yield f"cp-{name}", plan, cp
    yield "dense", contract.plan_chain(CHAIN, 2000), cores


CASES = [pytest.param(plan, factors, id=name) for name, plan, factors in cases()]
each = pytest.mark.parametrize(("plan", "factors"), CASES)
no_script = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # torch's own call, forward mode


class Layer(nn.Module):
    def __init__(self, plan, factors, dtype=torch.float64):
        super().__init__()
        self.plan = plan
        self.factors = nn.ParameterList(nn.Parameter(factor.to(dtype)) for factor in factors)
        self.bias = nn.Parameter(normal(plan.steps[-1].result, dtype=dtype))
        self.inputs = plan.steps[0].source

    def forward(self, x):
        return self.plan.run(self.plan.merge(list(self.factors)), x, self.bias)


def tensors_of(plan, factors, rows):
    """Rows, bias, merged tensors."""
    merged = [tensor.detach() for tensor in plan.merge(factors)]
    return [normal(rows, plan.steps[0].source), normal(plan.steps[-1].result), *merged]


def dense_of(plan, merged):
    return plan.run(merged, torch.eye(plan.steps[0].source, dtype=torch.float64)).T


def test_the_cases_are_what_they_are_called():
    kinds = {(plan.chunk < ROWS, plan.recompute, plan.dense) for _, plan, _ in cases()}
    assert kinds == {(True, True, False), (False, True, False), (False, False, False), (False, False, True)}


@each
@no_script
def test_gradients_of_first_and_second_order_backward_and_forward(plan, factors):
    def f(x, bias, *merged):
        return plan.run(merged, x, bias)

    for rows in (3, 11):
        inputs = [tensor.requires_grad_() for tensor in tensors_of(plan, factors, rows)]
        modes = {"check_forward_ad": True, "check_batched_grad": True, "check_batched_forward_grad": True}
        assert torch.autograd.gradcheck(f, inputs, fast_mode=True, **modes)
        assert torch.autograd.gradgradcheck(f, inputs, fast_mode=True, check_fwd_over_rev=True)


@each
def test_only_what_needs_a_gradient_gets_one(plan, factors):
    for rows in (5, 20):
        x, bias, *merged = tensors_of(plan, factors, rows)
        wanted = torch.func.grad(lambda *t: plan.run(t[2:], t[0], t[1]).square().sum(), tuple(range(2 + len(merged))))
        wanted = wanted(x, bias, *merged)
        for needs in itertools.product((False, True), repeat=min(2 + len(merged), 5)):
            needs = (*needs, *[False] * (2 + len(merged) - len(needs)))
            inputs = [t.clone().requires_grad_(need) for t, need in zip((x, bias, *merged), needs, strict=True)]
            y = plan.run(inputs[2:], *inputs[:2])
            assert y.requires_grad == any(needs)
            if any(needs):
                y.square().sum().backward()
            for tensor, need, want in zip(inputs, needs, wanted, strict=True):
                assert (tensor.grad is not None) == need
                if need:
                    torch.testing.assert_close(tensor.grad, want)


@each
@no_script
def test_transforms_compose(plan, factors):
    x, bias, *merged = tensors_of(plan, factors, 11)
    dense, several = dense_of(plan, merged), torch.stack([x, 2 * x, x.square()])
    torch.testing.assert_close(torch.func.vmap(lambda x: plan.run(merged, x, bias))(several), several @ dense.T + bias)
    biases = torch.stack([bias, -bias])
    got = torch.func.vmap(lambda bias: plan.run(merged, x, bias))(biases)
    torch.testing.assert_close(got, (x @ dense.T)[None] + biases[:, None])
    models = [torch.stack([tensor, tensor.square()]) for tensor in merged]
    got = torch.func.vmap(lambda *m: plan.run(m, x, bias))(*models)
    for k in range(2):
        torch.testing.assert_close(got[k], plan.run([tensor[k] for tensor in models], x, bias))

    def loss(x, *merged):
        return plan.run(merged, x, bias).square().sum()

    numbers = tuple(range(1 + len(merged)))
    per_sample = torch.func.vmap(torch.func.grad(loss, numbers), (0, *[None] * len(merged)))(several, *merged)
    for k, one in enumerate(several):
        for got, want in zip(per_sample, torch.func.grad(loss, numbers)(one, *merged), strict=True):
            torch.testing.assert_close(got[k], want)
    tangents = tuple(tensor.square() for tensor in (x, *merged))
    _, got = torch.func.jvp(loss, (x, *merged), tangents)
    gradients = torch.func.grad(loss, numbers)(x, *merged)
    torch.testing.assert_close(got, sum((g * t).sum() for g, t in zip(gradients, tangents, strict=True)))
    hessian = torch.func.hessian(lambda row: plan.run(merged, row[None]).square().sum())(x[0])
    torch.testing.assert_close(hessian, 2 * dense.T @ dense)


@each
def test_export_with_any_number_of_rows(plan, factors):
    layer = Layer(plan, factors)
    exported = torch.export.export(layer, (normal(5, layer.inputs),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    for rows in (2, 9, 40):
        x = normal(rows, layer.inputs)
        torch.testing.assert_close(exported.module()(x), layer(x))
    rows = torch.export.Dim("rows", min=1, max=64)
    exported = torch.export.export(layer, (normal(5, layer.inputs),), dynamic_shapes=({0: rows},))
    torch.testing.assert_close(exported.module()(normal(1, layer.inputs)), layer(normal(1, layer.inputs)))
    assert [(bound.lower, bound.upper) for bound in exported.range_constraints.values()] == [(1, 64)]


@each
def test_compiled_in_one_graph(plan, factors):
    layer = Layer(plan, factors)
    torch.compiler.reset()
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    for rows in (5, 20):
        x = normal(rows, layer.inputs)
        got = torch.autograd.grad(compiled(x).square().sum(), list(layer.parameters()))
        wanted = torch.autograd.grad(layer(x).square().sum(), list(layer.parameters()))
        for a, b in zip(got, wanted, strict=True):
            torch.testing.assert_close(a, b)


@each
def test_autocast_gives_the_type_of_a_linear_layer(plan, factors):
    layer = Layer(plan, factors, torch.float32)
    linear = nn.Linear(layer.inputs, len(layer.bias))
    for rows, learns in itertools.product((3, 20), (False, True)):
        x = normal(rows, layer.inputs, dtype=torch.float32).requires_grad_(learns)
        wanted = layer(x)
        with torch.set_grad_enabled(learns), torch.autocast("cpu", torch.bfloat16):
            y = layer(x)
            assert y.dtype == linear(x).dtype == torch.bfloat16
        assert float((y - wanted).detach().norm()) < 0.05 * float(wanted.detach().norm())
        if learns:
            inputs = [x, *layer.parameters()]
            got = torch.autograd.grad(y.float().square().sum(), inputs)
            for a, b in zip(got, torch.autograd.grad(wanted.square().sum(), inputs), strict=True):
                assert a.dtype == torch.float32
                assert float((a - b).norm()) < 0.05 * float(b.norm())
    with torch.autocast("cpu", torch.bfloat16):  # float64 is left alone, as torch does
        assert Layer(plan, factors)(normal(3, layer.inputs)).dtype == torch.float64


@each
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_runs_and_learns(plan, factors, dtype):
    layer, exact = Layer(plan, factors, dtype), Layer(plan, factors)
    x = normal(20, layer.inputs, dtype=dtype).requires_grad_()
    with torch.no_grad():
        assert layer(x).dtype == dtype
    layer(x).sum().backward()
    exact(x.double()).sum().backward()
    for got, want in zip(layer.parameters(), exact.parameters(), strict=True):
        assert got.grad.dtype == dtype
        assert float((got.grad - want.grad).norm()) < 0.05 * float(want.grad.norm())


@each
def test_an_empty_batch_has_gradients(plan, factors):
    layer = Layer(plan, factors)
    x = torch.zeros(0, layer.inputs, dtype=torch.float64, requires_grad=True)
    y = layer(x)
    assert y.shape == (0, len(layer.bias))
    y.sum().backward()
    assert x.grad.shape == x.shape
    assert all(parameter.grad.count_nonzero() == 0 for parameter in layer.parameters())
    with torch.no_grad():
        assert layer(x).shape == y.shape


@each
def test_results_may_be_changed_in_place(plan, factors):
    for rows in (5, 20):
        x, _, *merged = tensors_of(plan, factors, rows)
        y = plan.run(merged, x.requires_grad_())
        wanted = torch.autograd.grad(y.clamp(min=0).sum(), x)[0]
        y = plan.run(merged, x)
        torch.relu_(y).sum().backward()
        torch.testing.assert_close(x.grad, wanted)
        with torch.inference_mode():
            assert plan.run(merged, x.detach()).is_contiguous()


def test_a_training_step_keeps_less_than_three_times_the_input():
    plan = contract.plan_chain(VGG, 100)
    assert plan.recompute
    assert 100 % plan.chunk
    cores = [normal(*shape, dtype=torch.float32).requires_grad_() for shape in VGG]
    x = normal(100, math.prod(shape[2] for shape in VGG), dtype=torch.float32).requires_grad_()

    def step(x):
        for tensor in (x, *cores):
            tensor.grad = None
        plan.run(plan.merge(cores), x).square().sum().backward()

    step(x)
    assert measure.peak_memory(step, x) < 3 * x.numel() * x.element_size()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@each
def test_a_gpu_agrees(plan, factors):
    layer = Layer(plan, factors)
    x = normal(20, layer.inputs)
    wanted = layer(x)
    torch.testing.assert_close(layer.cuda()(x.cuda()).cpu(), wanted)
