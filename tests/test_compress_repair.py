"""Fitting factors in the norm of inputs, layers to wanted outputs, and networks layer after layer."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from compress_networks import Encoder, Residual, Tied, seeded
from torch import nn

from tnlib import compress, layers
from tnlib.compress import Budget
from tnlib.compress.fitting import Pull, _kernel_of, fit_factors, tangent
from tnlib.compress.regression import Regression, refit
from tnlib.compress.repair import traced
from tnlib.compress.sequence import Walk
from tnlib.compress.stepwise import fit_stepwise

LAYERS = {
    "linear": lambda: nn.Linear(12, 8),
    "conv1d": lambda: nn.Conv1d(6, 8, 3, bias=False),
    "conv2d": lambda: nn.Conv2d(6, 8, (3, 2)),
    "grouped": lambda: nn.Conv2d(6, 8, 3, groups=2),
    "conv3d": lambda: nn.Conv3d(3, 4, (2, 1, 2)),
}


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def made(name):
    """A float64 layer."""
    return seeded(LAYERS[name]).double()


def flat(kernel, groups):
    """(groups, outputs, inputs window)."""
    return kernel.detach().unflatten(0, (groups, -1)).flatten(2)


def problem(layer, seed=1):
    """A target near the layer's kernel, and an ill-conditioned moment."""
    groups = getattr(layer, "groups", 1)
    kernel = flat(layer.weight, groups)
    size = kernel.shape[-1]
    mixing = randn(groups, size, size, seed=seed) * torch.logspace(0, -2, size, dtype=torch.float64)
    return kernel + 0.1 * randn(*kernel.shape, seed=seed + 1), mixing @ mixing.mT + 1e-4 * torch.eye(size).double()


def error_of(kernel, target, moment):
    """Relative squared error, by a dense einsum."""
    rest = kernel - target
    return float(
        torch.einsum("gtn,gnm,gtm->", rest, moment, rest) / torch.einsum("gtn,gnm,gtm->", target, moment, target)
    )


CASES = [
    (name, format)
    for name, make in LAYERS.items()
    for kind, formats in layers.FORMATS.items()
    if isinstance(make(), kind)
    for format in formats
    if not (name in ("conv1d", "conv3d") and format == "spatial_svd")
]


@pytest.mark.parametrize(("name", "format"), CASES)
def test_every_format_is_linear_in_each_factor(name, format):
    small = layers.factorize(made(name), format, 2)
    factors = [factor.detach() for factor in small.factors()]
    direction = [randn(*factor.shape, seed=k) for k, factor in enumerate(factors)]
    kernel = _kernel_of(small)
    expected = torch.autograd.functional.jvp(kernel, tuple(factors), tuple(direction))[1]
    found = tangent(kernel, factors, direction)
    assert torch.allclose(found, expected, atol=1e-12)
    weighed = randn(*found.shape, seed=7)
    pulled = Pull(kernel, factors)(weighed)
    inner = sum((a * b).sum() for a, b in zip(pulled, direction, strict=True))
    assert torch.allclose(inner, (weighed * found).sum(), rtol=1e-9)
    assert all(isinstance(factor, nn.Parameter) for factor in small.factors())


@pytest.mark.parametrize("method", ["nls", "als"])
@pytest.mark.parametrize(("name", "format"), CASES)
def test_factors_come_nearer_to_the_target(name, format, method):
    layer = made(name)
    small = layers.factorize(layer, format, 2)
    before = copy.deepcopy(small.state_dict())
    target, moment = problem(layer)
    factors, errors = fit_factors(small, target, moment, method=method)
    groups = getattr(layer, "groups", 1)
    assert errors[0] == pytest.approx(error_of(flat(small.dense_weight(), groups), target, moment), rel=1e-6)
    assert all(now < before for before, now in itertools.pairwise(errors))
    fitted = type(small).from_factors(factors, like=layer)
    assert error_of(flat(fitted.dense_weight(), groups), target, moment) == pytest.approx(errors[-1], rel=1e-6)
    assert errors[-1] < 0.9 * errors[0]
    assert all(torch.equal(before[key], value) for key, value in small.state_dict().items())
    norms = torch.stack([factor.norm() for factor in factors])
    assert torch.allclose(norms, norms[:1].expand_as(norms), rtol=1e-6)


@pytest.mark.parametrize("method", ["nls", "als"])
@pytest.mark.parametrize("rank", [1, 3, 6])
def test_the_svd_format_finds_the_best_reduced_rank_regression(rank, method):
    """Whose error is the tail of the singular values of target moment^(1/2), by Eckart and Young."""
    layer = made("linear")
    target, moment = problem(layer)
    values, vectors = torch.linalg.eigh(moment[0])
    singular = torch.linalg.svdvals(target[0] @ (vectors * values.sqrt()))
    best = float(singular[rank:].square().sum() / singular.square().sum())
    start = layers.factorize(layer, "svd", rank)
    factors, errors = fit_factors(start, target, moment, steps=60, products=80, method=method, tol=1e-5)
    assert errors[-1] == pytest.approx(best, rel=0.01 if method == "als" else 1e-9)
    assert errors[-1] >= best * (1 - 1e-9)
    again = layers.SVDLinear.from_factors(factors, like=layer)
    assert fit_factors(again, target, moment)[1][-1] == pytest.approx(best, rel=1e-9)


@pytest.mark.parametrize("format", ["cp", "cp3", "tucker2", "spatial_svd"])
def test_in_turns_each_factor_is_the_solution_of_linear_least_squares(format):
    """After a sweep the last factor is what `lstsq` finds for it, beside the others."""
    layer = made("conv2d")
    target, moment = problem(layer)
    factors, _ = fit_factors(layers.factorize(layer, format, 2), target, moment, 1, 200, method="als")
    kernel = _kernel_of(layers.factorize(layer, format, 2))
    values, vectors = torch.linalg.eigh(moment[0])
    root, number = vectors * values.sqrt(), factors[-1].numel()
    units = torch.eye(number, dtype=torch.float64).reshape(number, *factors[-1].shape)
    columns = torch.stack([(kernel(*factors[:-1], unit)[0] @ root).flatten() for unit in units], 1)
    right = (target[0] @ root).flatten()
    rest = columns @ factors[-1].flatten() - right
    best = columns @ torch.linalg.lstsq(columns, right).solution - right
    assert rest.square().sum() == pytest.approx(float(best.square().sum()), rel=1e-6)


def test_an_unknown_method_of_fitting():
    layer = made("linear")
    with pytest.raises(ValueError, match="expected nls or als"):
        fit_factors(layers.factorize(layer, "svd", 2), *problem(layer), method="gd")


def test_what_has_the_rank_is_found():
    layer = made("conv2d")
    other = layers.factorize(nn.Conv2d(6, 8, (3, 2)).double(), "cp3", 2, weights="fresh", seed=3)
    _, moment = problem(layer)
    start = layers.SVDConv.from_layer(layer, 8)
    target = flat(layer.weight, 1)
    assert fit_factors(start, target, moment)[1][-1] < 1e-12
    near = type(other).from_factors(
        [f + 0.1 * randn(*f.shape, seed=k) for k, f in enumerate(other.factors())], like=layer
    )
    assert fit_factors(near, flat(other.dense_weight(), 1), moment, steps=100, products=100)[1][-1] < 1e-6


def test_a_zero_target_and_a_zero_layer():
    layer = made("linear")
    target, moment = problem(layer)
    factors, errors = fit_factors(layers.factorize(layer, "svd", 2), torch.zeros_like(target), moment)
    assert torch.isfinite(torch.tensor(errors)).all()
    assert errors[-1] <= errors[0]
    nn.init.zeros_(layer.weight)
    factors, errors = fit_factors(layers.factorize(layer, "svd", 2), target, moment)
    assert all(torch.isfinite(factor).all() for factor in factors)


def patches(layer, x):
    """Rows that a layer's weight is multiplied with, by torch's own unfold."""
    if isinstance(layer, nn.Linear):
        return x.reshape(-1, x.shape[-1])
    unfolded = F.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    return unfolded.movedim(1, -1).reshape(-1, unfolded.shape[1])


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(5, 4), (30, 5)),
        (nn.Linear(5, 4), (6, 7, 5)),
        (nn.Conv2d(3, 4, (3, 2), stride=2, padding=1), (9, 3, 8, 7)),
        (nn.Conv2d(2, 4, 3, dilation=2), (9, 2, 9, 8)),
    ],
)
def test_least_squares_is_that_of_torch(layer, shape, shift):
    """With rows for the ridge below those of the samples: an ordinary least-squares problem."""
    layer, x = layer.double(), randn(*shape) + 1.0
    with torch.no_grad():
        y = 1.5 * layer(x) + 0.3 * randn(*layer(x).shape, seed=2)
        sums = Regression(layer)
        for a, b in zip(x.tensor_split(3), y.tensor_split(3), strict=True):
            sums.add(a, b)
    target, moment = sums.solve(shift)
    rows, weight = patches(layer, x), flat(layer.weight, 1)[0]
    wanted = (y if isinstance(layer, nn.Linear) else y.movedim(1, -1)).reshape(-1, len(weight))
    if shift:
        rows, wanted = rows - rows.mean(0), wanted - wanted.mean(0)
    plain = rows.mT @ rows / len(rows)
    ridge = float((moment[0] - plain).diagonal().mean())
    assert torch.allclose(moment[0], plain + ridge * torch.eye(len(plain)), atol=1e-9)
    below = (ridge * len(rows)) ** 0.5 * torch.eye(len(plain)).double()
    solution = torch.linalg.lstsq(torch.cat([rows, below]), torch.cat([wanted, below @ weight.mT])).solution.mT
    assert torch.allclose(target[0], solution, atol=1e-8)
    means = sums.means()
    assert torch.allclose(means[0][0], patches(layer, x).mean(0), atol=1e-10)


AGAIN = {
    "linear": (lambda: nn.Linear(12, 8), (60, 12)),
    "conv1d": (lambda: nn.Conv1d(6, 8, 3, stride=2), (21, 6, 9)),
    "conv2d": (lambda: nn.Conv2d(6, 8, (3, 2)), (20, 6, 7, 6)),
    "grouped": (lambda: nn.Conv2d(6, 8, 3, groups=2, padding="same"), (20, 6, 7, 6)),
    "dilated": (lambda: nn.Conv2d(6, 4, 3, padding=2, dilation=2, padding_mode="reflect"), (20, 6, 7, 6)),
    "circular": (lambda: nn.Conv2d(6, 4, 3, padding=1, padding_mode="circular", stride=(2, 1)), (20, 6, 7, 6)),
    "no batch": (lambda: nn.Conv2d(6, 8, (3, 2)), (6, 17, 16)),
    "conv3d": (lambda: nn.Conv3d(3, 4, (2, 1, 2)), (20, 3, 4, 3, 4)),
}


@pytest.mark.parametrize("name", AGAIN)
def test_other_outputs_for_inputs_that_are_known_are_as_good_as_new(name):
    make, shape = AGAIN[name]
    layer, x = seeded(make).double(), randn(*shape)
    again, new = Regression(layer), Regression(layer)
    with torch.no_grad():
        first, second = layer(x) + randn(*layer(x).shape, seed=1), 2 * layer(x) + randn(*layer(x).shape, seed=2)
        again.add(x, first)
        before = again.means()[1]
        again.want_anew()
        again.add(x, second)
        new.add(x, second)
    for one, two in zip(again.solve(True) + again.means(), new.solve(True) + new.means(), strict=True):
        assert torch.allclose(one, two, rtol=1e-9, atol=1e-12)
        assert torch.allclose(sum(half.cross for half in again.halves), sum(half.cross for half in new.halves))
    assert not torch.allclose(before, again.means()[1])


def test_too_few_samples_leave_the_weight():
    """Twenty unknowns for each output, four samples, outputs that have nothing to do with the inputs."""
    layer, x = nn.Linear(20, 3).double(), randn(4, 20)
    sums = Regression(layer)
    sums.add(x, layer(x).detach() + randn(4, 3, seed=9))
    far = Regression(layer)
    far.add(x[:1], randn(1, 3))
    assert torch.equal(far.solve(True)[0][0], layer.weight.detach())
    step = (sums.solve(True)[0][0] - layer.weight.detach()).norm()
    exact = torch.linalg.lstsq(x, layer(x).detach() + randn(4, 3, seed=9)).solution.mT - layer.weight.detach()
    assert step < exact.norm()
    assert all(torch.isfinite(part).all() for part in far.solve(True))


def test_inputs_that_hardly_vary():
    """Rounding of single precision beside large means leaves moments with negative eigenvalues, beyond small ridges."""
    layer, sums = nn.Linear(60, 3), Regression(nn.Linear(60, 3))
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        common = 100 * torch.rand(500, 1, generator=generator) * torch.ones(60)
        x = common + 1e-4 * torch.randn(500, 60, generator=generator)
        sums.add(x, layer(x).detach())
    assert torch.linalg.eigvalsh(sums.halves[0].normal(True)[0])[0, 0] < -1e-4 * 100 / 60
    target, moment = sums.solve(True)
    assert torch.isfinite(target).all()
    assert torch.linalg.eigvalsh(moment)[0, 0] > 0


@pytest.mark.parametrize("name", ["linear", "conv2d", "grouped"])
def test_a_layer_learns_what_is_wanted(name):
    layer, truth = made(name), seeded(LAYERS[name], 5).double()
    x = randn(200, 12) if name == "linear" else randn(40, 6, 7, 6)
    with torch.no_grad():
        dense, wanted = copy.deepcopy(layer), truth(x)
        refit(layer, dense, zip(x.split(50), wanted.split(50), strict=True), shift=False)
        assert (dense(x) - wanted).norm() < 1e-2 * wanted.norm()
        small = layers.factorize(layer, "svd", 2)
        before = (small(x) - wanted).norm()
        refit(layer, small, zip(x.split(50), wanted.split(50), strict=True), shift=False)
        assert (small(x) - wanted).norm() < 0.8 * before
        axes = [0, *range(2, wanted.ndim)]
        assert torch.allclose(small(x).mean(axes), wanted.mean(axes), atol=1e-6)


class Traceless(nn.Module):
    """A small network whose operations depend on values."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.second, self.last = nn.Conv2d(8, 8, 3), nn.Linear(8, 5)

    def forward(self, x):
        x = self.norm(self.first(x)).relu()
        if float(x.sum()) < 0:
            raise AssertionError("never")
        return self.last(self.second(x).relu().mean((2, 3)))


class Traceable(Traceless):
    """The same, straight."""

    def forward(self, x):
        x = self.norm(self.first(x)).relu()
        return self.last(self.second(x).relu().mean((2, 3)))


def used(model, x):
    """The network with BatchNorm statistics and scales of a trained one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias)
    compress.reestimate_batchnorm(model, x)
    return model


def images(number=60, seed=0):
    return torch.randn(number, 3, 9, 9, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def distance(small, model, x):
    return float((small(x) - model(x)).norm() / (model(x) - model(x).mean(0)).norm())


@pytest.mark.parametrize("make", [Residual, Traceable, Traceless])
@pytest.mark.parametrize("formats", [("svd",), ("cp3", "spatial_svd"), ("tucker2",)])
def test_repair_brings_the_network_back(make, formats):
    x = images()
    model = used(seeded(make), x)
    small = compress.plan(model, x, Budget(params=0.5), formats=formats).apply(model)
    states = [copy.deepcopy(network.state_dict()) for network in (small, model)]
    repaired = compress.repair(small, model, x)
    assert distance(repaired, model, x) < 0.8 * distance(small, model, x)
    other = images(seed=1)  # not only on the images that it has seen
    assert distance(repaired, model, other) < distance(small, model, other)
    for network, state in zip((small, model), states, strict=True):
        assert all(torch.equal(state[key], value) for key, value in network.state_dict().items())
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    assert not repaired.training
    sizes = [[p.shape for p in network.parameters()] for network in (small, repaired)]
    assert sizes[0] == sizes[1]


def test_with_and_without_tracing_it_is_the_same():
    x = images()
    straight, other = used(seeded(Traceable), x), used(seeded(Traceless), x)
    other.load_state_dict(straight.state_dict())
    small = compress.plan(straight, x, Budget(params=0.6), formats=("svd",)).apply(straight)
    calls = list(compress.inputs.calls(straight, x))
    walked, stepped = copy.deepcopy(small), copy.deepcopy(small)
    assert traced(stepped, other, calls) is None
    graph = traced(walked, straight, calls)
    assert graph is not None
    with torch.no_grad():
        Walk(*graph, walked, straight).run()
        fit_stepwise(stepped, straight, calls)
    for (name, one), two in zip(walked.state_dict().items(), stepped.state_dict().values(), strict=True):
        assert torch.allclose(one, two, atol=1e-4), name


@pytest.mark.parametrize("make", [Residual, Traceless])
def test_a_network_that_lost_nothing_stays_as_it_is(make):
    x = images()
    model = used(seeded(make), x)
    repaired = compress.repair(copy.deepcopy(model), model, x)
    assert distance(repaired, model, x) < 1e-3


def test_means_are_those_of_the_original():
    x = images()
    model = used(seeded(Traceable), x)
    small = compress.plan(model, x, Budget(params=0.5), formats=("svd",)).apply(model)
    repaired = compress.repair(small, model, x)
    with torch.no_grad():
        for part in (lambda net: net.norm(net.first(x)), lambda net: net(x)):
            one, two = part(model), part(repaired)
            axes = [0, 2, 3][: 1 if one.ndim == 2 else 3]
            assert torch.allclose(one.mean(axes), two.mean(axes), atol=1e-4)
    assert torch.equal(repaired.norm.running_var, model.norm.running_var)


def test_the_layer_before_a_sum_makes_up_for_the_shortcut():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1)
            self.norm = nn.BatchNorm2d(3)

        def forward(self, x):
            x = self.first(x)
            return x + self.norm(self.second(x))

    x = images()
    model = used(seeded(Block), x)
    small = compress.plan(model, x, Budget(params=0.7), formats=("svd",), skip=("second",)).apply(model)
    repaired = compress.repair(small, model, x, metric="input")
    alone = compress.repair(small, model, x, metric="input", skip=("second", "norm"))
    assert distance(repaired, model, x) < 0.9 * distance(alone, model, x)


def test_what_stays_stays():
    x = images()
    model = used(seeded(Residual), x)
    small = compress.plan(model, x, Budget(params=0.6)).apply(model)
    repaired = compress.repair(small, model, x, skip=("head", "dilated"))

    def same(name):
        pairs = zip(small.get_submodule(name).parameters(), repaired.get_submodule(name).parameters(), strict=True)
        return all(torch.equal(a, b) for a, b in pairs)

    assert same("twice")  # it is called twice
    assert same("head")
    assert same("dilated")
    assert not same("stem")
    assert not same("grouped")


@pytest.mark.parametrize("tied", [False, True])
def test_text(tied):
    model = seeded(Tied)
    if not tied:
        model.head.weight = nn.Parameter(model.head.weight.detach().clone())
    tokens = torch.randint(0, 40, (50, 7), generator=torch.Generator().manual_seed(0))
    small = compress.plan(model, tokens, Budget(params=0.9), formats=("svd",), skip=("embed", "positions")).apply(model)
    repaired = compress.repair(small, model, tokens)
    assert distance(repaired, model, tokens) <= distance(small, model, tokens)
    assert torch.equal(repaired.embed.weight, model.embed.weight)
    assert (repaired.head.weight is repaired.embed.weight) is tied


def test_a_transformer():
    model = seeded(Encoder)
    x = torch.randn(40, 6, 16, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(40, 6, dtype=torch.bool)
    batches = [{"x": a, "mask": b} for a, b in zip(x.split(20), mask.split(20), strict=True)]
    small = compress.plan(model, batches, Budget(params=0.6), formats=("svd",), metric="input").apply(model)
    repaired = compress.repair(small, model, batches)
    assert distance(repaired, model, x) < 0.9 * distance(small, model, x)


class Masked(nn.Module):
    """What engineers' networks have: arguments that may be None or say what to do, dropout before a sum."""

    def __init__(self, dropout=nn.Identity):
        super().__init__()
        self.embed, self.first, self.second = nn.Embedding(30, 12), nn.Linear(12, 12), nn.Linear(12, 12)
        self.dropout, self.head = dropout(), nn.Linear(12, 5)

    def forward(self, tokens, mask=None, how="mean", squashed=True):
        x = self.first(self.embed(tokens))
        if mask is not None:
            x = x * mask[..., None]
        x = x + self.dropout(self.second(x.tanh()))
        pooled = x.mean(1) if how == "mean" else x.amax(1)
        return self.head(pooled.tanh() if squashed else pooled)


TOKENS = torch.randint(0, 30, (80, 6), generator=torch.Generator().manual_seed(0))
MASK = torch.arange(6) < torch.randint(2, 7, (80, 1), generator=torch.Generator().manual_seed(1))
GIVEN = {
    "none": [{"tokens": TOKENS}],
    "masks": [{"tokens": a, "mask": b} for a, b in zip(TOKENS.split(20), MASK.split(20), strict=True)],
    "other values": [{"tokens": TOKENS, "how": "max", "squashed": False}],
    "masks at times": [{"tokens": TOKENS[:40]}, {"tokens": TOKENS[40:], "mask": MASK[40:]}],
    "values that change": [{"tokens": TOKENS[:40]}, {"tokens": TOKENS[40:], "how": "max"}],
}


@pytest.mark.parametrize("given", GIVEN)
def test_arguments_that_are_none_or_no_tensors(given):
    model, batches = seeded(Masked), GIVEN[given]
    small = compress.plan(model, batches, Budget(params=0.8), formats=("svd",), only=("first", "second")).apply(model)
    repaired = compress.repair(small, model, batches)
    found = traced(copy.deepcopy(small), model, list(compress.inputs.calls(model, batches)))
    assert (found is None) == (given in ("masks at times", "values that change"))
    with torch.no_grad():
        wanted, raw, now = (torch.cat([net(**batch) for batch in batches]) for net in (model, small, repaired))
    assert (now - wanted).norm() < 0.8 * (raw - wanted).norm()


class Dropping(Masked):
    """Dropout as a function."""

    def forward(self, tokens):
        x = self.first(self.embed(tokens))
        x = x + F.dropout(self.second(x.tanh()), 0.5, training=self.training)
        return self.head(x.mean(1).tanh())


def test_a_dropout_before_a_sum_hides_no_shortcut():
    plain = seeded(Masked)
    small = compress.plan(plain, TOKENS, Budget(params=0.8), formats=("svd",), only=("first", "second")).apply(plain)
    expected = compress.repair(small, plain, TOKENS)
    stepped = copy.deepcopy(small)
    fit_stepwise(stepped, plain, list(compress.inputs.calls(plain, TOKENS)))  # which cares for no shortcut
    assert not torch.allclose(stepped.second.dense_weight(), expected.second.dense_weight(), atol=1e-3)
    for other in (seeded(lambda: Masked(nn.Dropout)), seeded(Dropping)):
        other.load_state_dict(plain.state_dict())
        copied = copy.deepcopy(other)
        for name in ("first", "second"):
            copied.set_submodule(name, copy.deepcopy(small.get_submodule(name)))
        found = compress.repair(copied, other, TOKENS)
        for one, two in zip(found.state_dict().values(), expected.state_dict().values(), strict=True):
            assert torch.allclose(one, two, atol=1e-5)


def test_one_sample_and_batches_of_other_sizes():
    model = used(seeded(Residual), images())
    small = compress.plan(model, images(2), Budget(params=0.6)).apply(model)
    repaired = compress.repair(small, model, images(1))
    assert torch.isfinite(repaired(images())).all()
    uneven = compress.repair(small, model, iter([images(9), images(40), (images(5), torch.zeros(5))]))
    assert torch.isfinite(uneven(images())).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_of_weights(dtype):
    x = images().to(dtype)
    model = used(seeded(Traceable).to(dtype), x)
    small = compress.plan(model, x, Budget(params=0.5), formats=("svd",)).apply(model)
    repaired = compress.repair(small, model, x)
    assert {p.dtype for p in repaired.parameters()} == {dtype}
    assert distance(repaired, model, x) < 0.8 * distance(small, model, x)


def test_an_operation_in_place_changes_nobodys_inputs():
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(6, 6)

        def forward(self, x):
            return self.layer(x.mul_(2.0))

    model, x = seeded(InPlace), torch.randn(30, 6, generator=torch.Generator().manual_seed(0))
    before = x.clone()
    repaired = compress.repair(copy.deepcopy(model), model, x)
    assert torch.equal(x, before)
    assert torch.allclose(repaired(x.clone()), model(x.clone()), atol=1e-4)


def test_mistakes():
    model = used(seeded(Traceable), images())
    with pytest.raises(ValueError, match="inputs are empty"):
        compress.repair(model, model, [])
    with pytest.raises(ValueError, match="has no 'stem'"):
        compress.repair(model, seeded(Residual), images())
    with pytest.raises(TypeError, match="inputs must be"):
        compress.repair(model, model, 3)
