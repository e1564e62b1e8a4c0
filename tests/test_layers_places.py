"""Every factorized layer wherever a torch layer is put: its output belongs to its parameters as they are now.

The reference is torch's own layer with the dense weight that the parameters then make.
"""

import copy
import io

import pytest
import torch
from layer_cases import CASES, FLOATS, assert_same, dense, difference, owners
from torch import nn
from torch.func import functional_call, grad, jvp, vmap


def stepped(optimizer, **options):
    def change(case, module):
        chosen = getattr(torch.optim, optimizer)(module.parameters(), lr=0.1, **options)
        module(case.input()).square().sum().backward()
        chosen.step()

    return change


def by_vector(case, module):
    vector = nn.utils.parameters_to_vector(module.parameters())
    nn.utils.vector_to_parameters(1.5 * vector, module.parameters())


def by_data(case, module):
    for parameter in module.parameters():
        parameter.data.mul_(1.5)


def by_new_data(case, module):
    for parameter in module.parameters():
        parameter.data = 1.5 * parameter.data


def by_memory(case, module):
    """As another process or a collective operation writes: no tensor of torch's is told."""
    for parameter in module.parameters():
        parameter.detach().numpy()[...] *= 1.5


def by_swap(case, module):
    for parameter in module.parameters():
        torch.utils.swap_tensors(parameter, nn.Parameter(1.5 * parameter.detach()))


def by_loading(case, module, assign=False):
    module.load_state_dict({name: 1.5 * value for name, value in module.state_dict().items()}, assign=assign)


def by_assigning(case, module):
    by_loading(case, module, True)


def by_replacing(case, module):
    for owner, name, parameter in owners(module):
        setattr(owner, name, nn.Parameter(1.5 * parameter.detach()))


CHANGES = {
    "AdamW fused": stepped("AdamW", fused=True),
    "SGD fused": stepped("SGD", fused=True, momentum=0.9),
    "Adagrad fused": stepped("Adagrad", fused=True),
    "Adam foreach": stepped("Adam", foreach=True),
    "vector": by_vector,
    "data": by_data,
    "new data": by_new_data,
    "memory": by_memory,
    "swap": by_swap,
    "load": by_loading,
    "assign": by_assigning,
    "replace": by_replacing,
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_changed_weights_are_the_weights(case, name):
    layer, module, x = case.layer(), case.make().eval(), case.input()
    with torch.no_grad():
        before = module(x)
    module(x)
    CHANGES[name](case, module)
    for context in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        with context():
            assert_same(module(x), dense(layer, module, x))
            assert difference(module(x), before) > 1e-2


@pytest.mark.parametrize("case", CASES, ids=str)
def test_functional_call_computes_with_what_it_is_given(case):
    layer, module, x = case.layer(), case.make(), case.input()
    values = {name: 1.5 * value for name, value in module.state_dict().items()}
    other = copy.deepcopy(module)
    other.load_state_dict(values)
    with torch.no_grad():
        before = module(x)
        assert_same(functional_call(module, values, (x,)), dense(layer, other, x))
        assert torch.equal(module(x), before)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients_of_each_sample(case):
    module, x = case.make(torch.float64), case.input(dtype=torch.float64)
    values = {name: value.detach() for name, value in module.named_parameters()}

    def loss(values, sample):
        return functional_call(module, values, (sample.unsqueeze(0),)).square().sum()

    got = vmap(grad(loss), in_dims=(None, 0))(values, x)
    for i, sample in enumerate(x):
        want = torch.autograd.grad(module(sample.unsqueeze(0)).square().sum(), list(module.parameters()))
        for name, value in zip(values, want, strict=True):
            assert_same(got[name][i], value, 1e-10)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_models_in_a_batch(case):
    """`vmap` over the parameters, as ensembles are run."""
    models, x = [case.make() for _ in range(2)], case.input()
    by_data(case, models[1])
    values, buffers = torch.func.stack_module_state(models)
    got = vmap(lambda v, b: functional_call(models[0], (v, b), (x,)))(values, buffers)
    for output, model in zip(got, models, strict=True):
        assert_same(output, model(x))


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:FutureWarning", "ignore:`torch.jit.script`:DeprecationWarning")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_derivatives_forward(case):
    module, x = case.make(torch.float64), case.input(dtype=torch.float64)
    values = {name: value.detach() for name, value in module.named_parameters()}
    first = next(iter(values))

    def f(value):
        return functional_call(module, {**values, first: value}, (x,))

    value, tangent = jvp(f, (values[first],), (values[first],))
    assert_same(value, module(x), 1e-12)
    assert_same(tangent, (f(2 * values[first]) - f(0 * values[first])) / 2, 1e-10)  # linear in each factor


@pytest.mark.parametrize("case", CASES, ids=str)
def test_state_is_saved_as_plain_tensors(case):
    module, other, x = case.make(), case.make(), case.input()
    with torch.no_grad():
        keys, want = list(module.state_dict()), module(x)
        by_data(case, other)
        assert not torch.allclose(other(x), want)
        buffer = io.BytesIO()
        torch.save(module.state_dict(), buffer)
        buffer.seek(0)
        other.load_state_dict(torch.load(buffer, weights_only=True))
        assert torch.equal(other(x), want)
    assert list(module.state_dict()) == keys == [name for name, _ in module.named_parameters()]
    assert all(parameter.is_contiguous() for parameter in module.parameters())


@pytest.mark.parametrize("case", FLOATS, ids=str)
def test_only_the_bias_learns(case):
    module, layer, x = case.make(), case.layer(), case.input()
    for factor in module.factors():
        factor.requires_grad_(False)
    module(x).square().sum().backward()
    (want,) = torch.autograd.grad(dense(layer, module, x).square().sum(), [module.bias])
    assert_same(module.bias.grad, want)
    assert all(factor.grad is None for factor in module.factors())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_one_factor_learns(case):
    module, layer, x = case.make(), case.layer(), case.input()
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    factor = module.factors()[-1].requires_grad_()
    module(x).square().sum().backward()
    (want,) = torch.autograd.grad(dense(layer, module, x).square().sum(), [factor])
    assert_same(factor.grad, want, 1e-4)
    assert sum(parameter.grad is not None for parameter in module.parameters()) == 1


@pytest.mark.parametrize("case", FLOATS, ids=str)
def test_only_the_input_learns(case):
    module, layer, x = case.make().requires_grad_(False), case.layer(), case.input().requires_grad_()
    (got,) = torch.autograd.grad(module(x).square().sum(), [x])
    (want,) = torch.autograd.grad(dense(layer, module, x).square().sum(), [x])
    assert_same(got, want)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_autocast_then_plain(case):
    layer, module, x = case.layer(), case.make().eval(), case.input()
    want = dense(layer, module, x).detach()
    for context in (torch.no_grad, torch.enable_grad, torch.inference_mode):
        with context():
            with torch.autocast("cpu", torch.bfloat16):
                got, dtype = module(x), layer(x).dtype
            assert got.dtype == dtype
            assert difference(got, want) < 0.05
            assert_same(module(x), want)
    with torch.autocast("cpu", torch.bfloat16):
        loss = module(x).float().square().sum()
    loss.backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in module.parameters())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_inference_mode_and_training_after_it(case):
    layer, module, x = case.layer(), case.make(), case.input()
    with torch.inference_mode():
        y = module(x)
        assert y.is_inference()
        born = case.factorize(case.layer())
        assert_same(born(x), y)
    with torch.no_grad():
        assert not module(x).is_inference()
    CHANGES["SGD fused"](case, module)
    assert all(float(parameter.grad.abs().sum()) > 0 for parameter in module.parameters())
    with torch.inference_mode():
        assert_same(module(x), dense(layer, module, x))
