"""The path of the chains of convolutions without gradients against the same chains called stage by stage."""

import copy
import pickle

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrize, prune

from tnlib.layers import (
    CPConv1d,
    CPConv2d,
    SpatialSVDConv2d,
    SVDConv2d,
    TTConv2d,
    Tucker2Conv2d,
    TuckerConv2d,
    inference,
)
from tnlib.measure import cost, peak_memory

FORMATS = (SVDConv2d, SpatialSVDConv2d, CPConv2d, Tucker2Conv2d, TTConv2d)
LAST = torch.channels_last


def plainly(module, x):
    """The output of the stages, called one by one."""
    return nn.Sequential.forward(module, x)


def exactly(module, x):
    """The same in float64 and contiguous: not by oneDNN, which is wrong for some images of one channel."""
    module = copy.deepcopy(module).to(memory_format=torch.contiguous_format).double()
    return plainly(module, x.double().contiguous())


def assert_same(got, want):
    assert got.shape == want.shape
    assert got.dtype == want.dtype
    assert float((got - want).norm()) <= 1e-5 * float(want.norm()) + 1e-12


def random_images(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def example(cls, **options):
    """A module with everything but 1 in its geometry, and images for it."""
    layer = nn.Conv2d(6, 9, (3, 2), stride=(2, 1), padding=(1, 0), **options)
    module, x = cls.fresh(layer, 4), random_images(2, 6, 9, 7)
    with torch.no_grad():
        if layer.bias is not None:
            module[-1].bias.copy_(torch.arange(9.0))
    return module, x


@torch.no_grad()
def takes_path(module, x):
    """Whether the module's output comes from a path; the answer is compared with the stages' in any case."""
    module.forget()
    assert_same(module(x).double(), exactly(module, x))
    return module._path is not None and module._path.run_for(x.shape) is not None


@st.composite
def chains(draw, cls):
    """A chain in one format, of a drawn layer and rank, with all weights and the bias random, and images for it."""

    def pair(low, high):
        return draw(st.tuples(st.integers(low, high), st.integers(low, high)))

    groups, kernel, padding, dilation = draw(st.sampled_from([1, 1, 1, 2])), pair(1, 4), pair(0, 3), pair(1, 2)
    layer = nn.Conv2d(
        groups * draw(st.integers(1, 9)),
        groups * draw(st.integers(1, 20)),
        kernel,
        stride=pair(1, 3),
        padding=padding,
        dilation=draw(st.sampled_from([(1, 1), dilation])),
        groups=groups,
        bias=draw(st.booleans()),
    )
    shape = (layer.out_channels // groups, *layer.weight.shape[1:])
    largest = cls.max_rank(shape)
    rank = (
        draw(st.integers(1, largest)) if isinstance(largest, int) else tuple(draw(st.integers(1, n)) for n in largest)
    )
    module = cls.fresh(layer, rank, seed=draw(st.integers(0, 100)))
    if layer.bias is not None:
        nn.init.normal_(module[-1].bias, generator=torch.Generator().manual_seed(0))
    sizes = pair(1, 9)
    spans = [n + 2 * p - d * (k - 1) for n, p, d, k in zip(sizes, padding, layer.dilation, kernel, strict=True)]
    assume(min(spans) >= 1)
    x = random_images(draw(st.integers(1, 3)), layer.in_channels, *sizes)
    if draw(st.booleans()):
        module = module.to(memory_format=LAST)
    kind = draw(st.sampled_from(["contiguous", "channels_last", "cut", "turned"]))
    if kind == "cut":
        x = torch.cat([x, x], 1)[:, : layer.in_channels]
    elif kind == "turned":
        x = x.transpose(2, 3).contiguous().transpose(2, 3)
    return module, x.contiguous(memory_format=LAST) if kind == "channels_last" else x


@pytest.mark.parametrize("cls", FORMATS)
@settings(max_examples=100)
@given(data=st.data())
@torch.no_grad()
def test_the_path_equals_the_stages(cls, data):
    module, x = data.draw(chains(cls))
    before = x.clone()
    assert takes_path(module, x)
    y = module(x)
    assert y.is_contiguous(memory_format=LAST)
    assert torch.equal(y, module(x))
    assert torch.equal(x, before)
    assert not module._path.run_for(x.shape)(x).requires_grad


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("batch", [1, 60])
@torch.no_grad()
def test_one_channel_and_one_column(batch, dilation):
    module = SpatialSVDConv2d.fresh(nn.Conv2d(1, 6, (1, 2), stride=(1, 3), dilation=dilation), 1).to(memory_format=LAST)
    assert takes_path(module, random_images(batch, 1, 4, 4))


@torch.no_grad()
def test_many_shapes_take_turns():
    module, _ = example(Tucker2Conv2d)
    for _ in range(2):
        for size in range(3, 15):
            x = random_images(2, 6, size, 7)
            assert_same(module(x).double(), exactly(module, x))
    assert 0 < len(module._path.ready) <= inference._SHAPES
    with pytest.raises(RuntimeError, match="expected input"):
        module(random_images(2, 5, 9, 7))


def convolutions_called(monkeypatch, module, x):
    """How many of the path's steps call torch's convolution."""
    assert takes_path(module, x)
    calls, conv2d = [], inference.F.conv2d
    with monkeypatch.context() as patched, torch.no_grad():
        patched.setattr(inference.F, "conv2d", lambda *args: calls.append(1) or conv2d(*args))
        module(x)
    return len(calls)


def test_few_pixels_are_multiplied_as_patches(monkeypatch):
    module = Tucker2Conv2d.fresh(nn.Conv2d(16, 16, 3, padding=1), 8)
    # The core has 8 outputs: 2 * 8 pixels are few.
    assert convolutions_called(monkeypatch, module, random_images(1, 16, 4, 4)) == 0
    assert convolutions_called(monkeypatch, module, random_images(1, 16, 4, 5)) == 1
    assert convolutions_called(monkeypatch, module, random_images(2, 16, 4, 4)) == 1
    strided = Tucker2Conv2d.fresh(nn.Conv2d(16, 16, 3, padding=1, stride=2), 8)
    assert convolutions_called(monkeypatch, strided, random_images(1, 16, 8, 8)) == 0
    dilated = Tucker2Conv2d.fresh(nn.Conv2d(16, 16, 3, padding=2, dilation=2), 8)
    assert convolutions_called(monkeypatch, dilated, random_images(1, 16, 4, 4)) == 1


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rank", [1, 2, 15, 16, 17])
def test_cp_takes_one_depthwise_pass_of_whole_registers(monkeypatch, bias, rank):
    layer = nn.Conv2d(5, 7, (3, 5), padding=(1, 2), stride=(1, 2), dilation=(2, 1), bias=bias)
    module = CPConv2d.fresh(layer, rank)
    if bias:
        nn.init.normal_(module[-1].bias)
    x = random_images(2, 5, 30, 30)
    assert convolutions_called(monkeypatch, module, x) == (2 if rank == 1 else 1)
    assert all(step.kernel.shape[0] % 16 == 0 for step in module._path.steps if hasattr(step, "kernel")) == (rank > 1)


def fill(module):
    with torch.no_grad():
        module[1].weight.fill_(0.5)


def step(module):
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    plainly(module, random_images(2, 6, 9, 7)).square().sum().backward()
    optimizer.step()


def load(module, assign=False):
    other, _ = example(type(module))
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.5)
    module.load_state_dict(other.state_dict(), assign=assign)


def replace(module):
    """New tensors in the place of the old: their memory is free for the next."""
    for name in ("weight", "bias"):
        shape = getattr(module[-1], name).shape
        delattr(module[-1], name)
        setattr(module[-1], name, nn.Parameter(torch.full(shape, 0.25)))


def swap_data(module):
    for value in (0.5, 0.25):
        module[0].weight.data = torch.full_like(module[0].weight, value)


def change_padding(module):
    module[1].padding = tuple(p + 1 for p in module[1].padding)


def to_and_fro(module):
    for parameter in module.double().parameters():
        parameter.data.mul_(2.0)
    module.float()


CHANGES = (fill, step, load, lambda m: load(m, True), replace, swap_data, change_padding, to_and_fro)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("cls", FORMATS)
def test_changes_are_seen(cls, change):
    module, x = example(cls)
    with torch.no_grad():
        before = module(x)
        assert module._path.steps
        change_with_gradients = torch.enable_grad()(change)
        change_with_gradients(module)
        after, want = module(x), plainly(module, x)
    assert_same(after, want)
    assert module._path.steps
    assert after.shape != before.shape or not torch.allclose(after, before, rtol=1e-2)


@torch.no_grad()
def test_forget_is_for_changes_through_data():
    module, x = example(Tucker2Conv2d)
    module(x)
    module[0].weight.data.mul_(2.0)
    module.forget()
    assert module._path is None
    assert_same(module(x), plainly(module, x))


@pytest.mark.parametrize("cls", FORMATS)
@torch.no_grad()
def test_copies_carry_no_path_and_are_independent(cls):
    module, x = example(cls)
    keys, size = list(module.state_dict()), len(pickle.dumps(module))
    want = module(x)
    assert list(module.state_dict()) == keys
    assert len(pickle.dumps(module)) == size
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert other._path is None
        assert torch.equal(other(x), want)
        other[0].weight.mul_(2.0)
        assert_same(other(x), plainly(other, x))
    assert torch.equal(module(x), want)


@pytest.mark.parametrize("cls", FORMATS)
def test_gradients_are_the_stages(cls):
    module, x = example(cls)
    twin = copy.deepcopy(module)
    with torch.no_grad():
        module(x)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    outputs = [module(inputs[0]), plainly(twin, inputs[1])]
    assert torch.equal(*outputs)
    for output in outputs:
        output.square().sum().backward()
    assert torch.equal(inputs[0].grad, inputs[1].grad)
    for p, q in zip(module.parameters(), twin.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad)


def test_inference_mode_and_training_after_it():
    module, x = example(CPConv2d)
    with torch.inference_mode():
        y = module(x)
        assert module._path.steps
        assert_same(y, plainly(module, x))
    with torch.no_grad():
        assert_same(module(x), y)
        assert not module(x).is_inference()
    step(module)
    assert all(float(p.grad.abs().sum()) > 0 for p in module.parameters())
    with torch.inference_mode():
        assert_same(module(x), plainly(module, x))
        born, _ = example(CPConv2d)
        assert not takes_path(born, x)  # its weights have no version
    assert not takes_path(born, x)


class TestTheStagesAreCalled:
    """Where something else than the result counts, or the path would not give it."""

    def test_hooks(self):
        module, x = example(Tucker2Conv2d)
        seen = []
        for register in (
            module[1].register_forward_hook,
            module[1].register_forward_pre_hook,
            nn.modules.module.register_module_forward_hook,
            nn.modules.module.register_module_forward_pre_hook,
        ):
            assert takes_path(module, x)
            handle = register(lambda stage, *_: seen.append(stage))
            try:
                assert not takes_path(module, x)
                assert module[1] in seen
            finally:
                handle.remove()
            seen.clear()
        assert takes_path(module, x)
        assert not seen

    def test_a_hook_may_change_the_output(self):
        module, x = example(Tucker2Conv2d)
        with torch.no_grad():
            module(x)
            module[1].register_forward_hook(lambda stage, args, output: 0 * output)
            assert torch.equal(module(x), plainly(module, x))
            assert float((module(x) - module[-1].bias[:, None, None]).abs().max()) == 0

    def test_pruning_and_parametrizations(self):
        module, x = example(Tucker2Conv2d)
        assert takes_path(module, x)
        prune.random_unstructured(module[1], "weight", 0.5)
        assert not takes_path(module, x)
        prune.remove(module[1], "weight")
        assert takes_path(module, x)
        parametrize.register_parametrization(module[0], "weight", nn.Tanh())
        assert not takes_path(module, x)

    def test_other_stages_and_a_forward_of_their_own(self):
        module, x = example(Tucker2Conv2d)
        first = module[0]
        first.forward = lambda x: 2 * nn.functional.conv2d(x, first.weight.to(x.dtype))
        assert not takes_path(module, x)
        module[0] = nn.Sequential(first, nn.ReLU())
        assert not takes_path(module, x)
        assert not takes_path(*example(TuckerConv2d))

    @pytest.mark.parametrize("change", ["bias", "depthwise stride", "wide factor"])
    def test_chains_that_only_look_like_cp_take_no_merged_pass(self, change):
        module, x = example(CPConv2d)
        if change == "bias":
            module[1].bias = nn.Parameter(torch.ones(4))
        elif change == "depthwise stride":
            module[1].stride = (2, 2)
        else:
            module[2] = nn.Conv2d(4, 4, (3, 2), groups=4, padding=(1, 0), bias=False)
        assert takes_path(module, x)
        assert len(module._path.steps) == 4

    def test_other_inputs_and_weights(self):
        module, x = example(Tucker2Conv2d)
        assert not takes_path(module, x[0])
        assert not takes_path(module.double(), x.double())
        flat = CPConv1d.fresh(nn.Conv1d(4, 4, 3), 2)
        assert not takes_path(flat, random_images(2, 4, 9))
        module.float()
        with torch.autocast("cpu"), torch.no_grad():
            assert module(x).dtype == torch.bfloat16

    @pytest.mark.parametrize("options", [{"padding": "same"}, {"padding": "valid"}, {"padding_mode": "circular"}])
    def test_other_padding(self, options):
        module = Tucker2Conv2d.fresh(nn.Conv2d(4, 4, 3, **{"padding": 1, **options}), 2)
        assert not takes_path(module, random_images(1, 4, 8, 8))

    @pytest.mark.parametrize("cls", FORMATS)
    def test_costs_are_counted_alike(self, cls):
        module, x = example(cls)
        want = cost(nn.Sequential(*copy.deepcopy(module)), x.shape)
        assert takes_path(module, x)
        assert cost(module, x.shape) == want

    def test_function_modes_see_the_convolutions(self):
        module, x = example(CPConv2d)
        assert takes_path(module, x)
        names = []

        class Names(torch.overrides.TorchFunctionMode):
            def __torch_function__(self, func, types, args=(), kwargs=None):
                names.append(getattr(func, "__name__", ""))
                return func(*args, **(kwargs or {}))

        with torch.no_grad(), Names():
            module(x)
        assert names.count("conv2d") == 4

    @pytest.mark.filterwarnings("ignore:`torch.jit.script`:FutureWarning")  # torch's own, in jvp
    def test_transforms_of_torch_func(self):
        module, x = example(CPConv2d)
        with torch.no_grad():
            want = plainly(module, x)
            assert_same(torch.func.vmap(module)(x.unsqueeze(1)).squeeze(1), want)
            weights = {name: 2 * value for name, value in module.named_parameters()}
            scaled = torch.func.functional_call(module, weights, (x,))
            bias = module[-1].bias[:, None, None]
            assert_same(scaled, 16 * (want - bias) + 2 * bias)
            assert_same(module(x), want)
            _, tangent = torch.func.jvp(
                lambda w: torch.func.functional_call(module, {"3.weight": w}, (x,)),
                (module[3].weight.detach(),),
                (module[3].weight.detach(),),
            )
            assert_same(tangent, want - bias)

    @torch.no_grad()
    def test_export_and_trace(self):
        module, x = example(CPConv2d)
        want = module(x)
        exported = torch.export.export(module.eval(), (x,))
        assert sum("conv2d" in str(node.target) for node in exported.graph.nodes) == 4
        assert_same(exported.module()(x), want)
        traced = torch.fx.symbolic_trace(module)
        assert sum(node.op == "call_module" for node in traced.graph.nodes) == 4
        assert_same(traced(x), want)

    @pytest.mark.parametrize("size", [(2, 5, 9, 9), (1, 6, 1, 1)])
    @pytest.mark.parametrize("cls", FORMATS)
    @torch.no_grad()
    def test_errors_are_the_convolutions(self, cls, size):
        module, x = cls.fresh(nn.Conv2d(6, 8, 3), 2), random_images(2, 6, 9, 9)
        module(x)
        bad = random_images(*size)
        with pytest.raises(RuntimeError) as want:
            plainly(module, bad)
        with pytest.raises(RuntimeError, match=r"channels|Kernel size") as got:
            module(bad)
        # CP says it of the whole kernel where the stages say it of the first factor.
        assert cls is CPConv2d or str(got.value) == str(want.value)

    @torch.no_grad()
    def test_empty_batches(self):
        module, x = example(CPConv2d)
        assert module(x[:0]).shape == (0, *plainly(module, x).shape[1:])


def test_memory_is_measured_on_the_path():
    module, x = CPConv2d.fresh(nn.Conv2d(16, 16, 3, padding=1), 16), random_images(1, 16, 64, 64)
    with torch.no_grad():
        module(x)
        # Input and output of a stage are alive at one time, and the input in channels_last.
        assert peak_memory(module, x) >= 2 * 16 * 64 * 64 * 4
