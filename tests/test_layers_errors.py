"""One exception type for each kind of misuse, over all formats, with a message that names what is wrong."""

import pytest
import torch
from layer_cases import CASES, CONVS, Case
from torch import nn
from torch.nn.utils import parametrizations, prune

from tnlib import layers


@pytest.mark.parametrize("weights", ["pretrained", "fresh"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_ranks_out_of_range_name_the_largest(case, weights):
    layer = case.layer()
    largest = layers.max_rank(layer, case.format)
    for bad in (0, -1, 10**6):
        with pytest.raises(ValueError, match=r"largest"):
            layers.factorize(layer, case.format, bad, weights=weights)
    for bad in (1.5, "2"):
        with pytest.raises(TypeError, match="integer"):
            layers.factorize(layer, case.format, bad, weights=weights)
    if isinstance(largest, int):
        with pytest.raises(ValueError, match=f"largest.* {largest}"):
            layers.factorize(layer, case.format, largest + 1, weights=weights)
        return
    with pytest.raises(ValueError, match=f"largest.* {largest[-1]}"):
        layers.factorize(layer, case.format, (*largest[:-1], largest[-1] + 1), weights=weights)
    with pytest.raises(ValueError, match=f"expected {len(largest)} .* got {len(largest) + 1}"):
        layers.factorize(layer, case.format, (*largest, 1), weights=weights)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_sizes_refuse_the_same_ranks(case):
    layer = case.layer()
    for bad in (0, 10**6):
        with pytest.raises(ValueError, match="largest"):
            layers.size(layer, case.format, bad)
        with pytest.raises(ValueError, match="largest"):
            layers.macs(layer, case.format, bad, (4,) * (int(case.kind[4]) if case in CONVS else 0))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_one_of_rank_share_and_rel_error(case):
    layer = case.layer()
    for options in ({}, {"rank": 2, "share": 0.5}, {"rank": 2, "rel_error": 0.5}, {"share": 0.5, "rel_error": 0.5}):
        with pytest.raises(ValueError, match="exactly one of rank, rel_error and share"):
            layers.factorize(layer, case.format, **options)
        with pytest.raises(ValueError, match="exactly one of rank, rel_error and share"):
            case.cls.from_layer(layer, **options)
    for options in ({"share": 0.0}, {"share": -1.0}, {"share": float("nan")}, {"share": 1e-9}):
        with pytest.raises(ValueError, match="share"):
            layers.factorize(layer, case.format, **options)
    for bad in (-0.1, float("nan")):
        with pytest.raises(ValueError, match="rel_error"):
            layers.factorize(layer, case.format, rel_error=bad)
    with pytest.raises(ValueError, match="of must be 'params' or 'macs', got 'seconds'"):
        layers.factorize(layer, case.format, share=0.5, of="seconds")
    with pytest.raises(ValueError, match="weights must be 'pretrained', 'fresh' or 'empty', got 'stale'"):
        layers.factorize(layer, case.format, 2, weights="stale")


def test_unknown_layers_and_formats():
    for layer in (nn.ReLU(), nn.Bilinear(2, 2, 2), nn.LSTM(2, 2), nn.Sequential(nn.Linear(2, 2))):
        for call in (layers.factorize, layers.size, layers.macs):
            with pytest.raises(TypeError, match=f"cannot factorize {type(layer).__name__}"):
                call(layer, "svd", 1)
        with pytest.raises(TypeError, match=f"cannot factorize {type(layer).__name__}"):
            layers.max_rank(layer, "svd")
    for kind, formats in layers.FORMATS.items():
        layer = Case(kind.__name__, "svd").layer()
        for call in (lambda layer: layers.factorize(layer, "ring", 1), lambda layer: layers.max_rank(layer, "ring")):
            with pytest.raises(ValueError, match=f"unknown format 'ring' for {kind.__name__}.*{', '.join(formats)}"):
                call(layer)


@pytest.mark.parametrize("kind", [nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d])
def test_transposed_convolutions_are_refused_with_a_sentence(kind):
    with pytest.raises(TypeError, match=rf"cannot factorize {kind.__name__}: a transposed convolution"):
        layers.factorize(kind(2, 2, 3), "svd", 1)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_classes_refuse_other_layers(case):
    other = nn.Linear(4, 4) if case.kind != "Linear" else nn.Conv2d(4, 4, 3)
    for make in (case.cls.from_layer, case.cls.fresh, case.cls.size):
        with pytest.raises(TypeError, match=f"cannot factorize {type(other).__name__}.*{case.cls.__name__} replaces"):
            make(other, 1)
    with pytest.raises(TypeError, match=f"cannot factorize {type(other).__name__}.*{case.cls.__name__} replaces"):
        case.cls.from_factors(case.make().factors(), like=other)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_layers_that_do_more_are_refused_by_name(case):
    base = getattr(nn, case.kind)

    class Standardized(base):
        def forward(self, x):
            return 2 * super().forward(x)

    class Renamed(base):
        """Does what its base does."""

    standard, renamed = case.layer(), case.layer()
    standard.__class__, renamed.__class__ = Standardized, Renamed
    with pytest.raises(TypeError, match="Standardized"):
        layers.factorize(standard, case.format, 2)
    own = case.layer()
    own.forward = lambda x: 0 * x
    with pytest.raises(TypeError, match="forward"):
        layers.factorize(own, case.format, 2)
    module = case.factorize(renamed)
    assert torch.equal(module.dense_weight(), case.make().dense_weight())


def pruned(layer):
    return prune.l1_unstructured(layer, "weight", 0.5)


def hooked(layer):
    layer.register_forward_hook(lambda *_: None)
    return layer


def hooked_before(layer):
    layer.register_forward_pre_hook(lambda *_: None)
    return layer


def hooked_behind(layer):
    layer.register_full_backward_hook(lambda *_: None)
    return layer


CHANGES = (
    ("parametrized", parametrizations.weight_norm),
    ("pruning", pruned),
    ("hooks", hooked),
    ("hooks", hooked_before),
    ("hooks", hooked_behind),
)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_layers_whose_weight_is_computed_are_refused(case):
    for word, change in CHANGES:
        layer = change(case.layer())
        for call in (
            lambda layer: layers.factorize(layer, case.format, 2),
            lambda layer: case.cls.from_layer(layer, 2),
        ):
            with pytest.raises(TypeError, match=word):
                call(layer)


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
@pytest.mark.parametrize("kind", [nn.LazyLinear, nn.LazyConv1d, nn.LazyConv2d, nn.LazyConv3d])
def test_lazy_layers_are_refused_until_they_know_their_size(kind):
    layer = kind(4) if kind is nn.LazyLinear else kind(4, 3)
    with pytest.raises(TypeError, match=kind.__name__):
        layers.factorize(layer, "svd", 1)
    layer(torch.zeros(1, 2) if kind is nn.LazyLinear else torch.zeros(1, 2, *layer.kernel_size))
    assert layers.factorize(layer, "svd", 1).rank == 1


@pytest.mark.parametrize("case", CASES, ids=str)
def test_factors_that_do_not_fit(case):
    layer, factors = case.layer(), case.make().factors()
    with pytest.raises(ValueError, match="factors"):
        case.cls.from_factors(factors[:-1], like=layer)
    bigger = {"Linear": lambda: nn.Linear(25, 19), "Embedding": lambda: nn.Embedding(31, 9)}.get(case.kind)
    if bigger is not None:
        with pytest.raises(ValueError, match="factors"):
            case.cls.from_factors(factors, like=bigger() if case.format == "svd" else type(layer)(100, 100))


@pytest.mark.parametrize("case", [case for case in CASES if case.kind in ("Linear", "Embedding")], ids=str)
def test_bad_digits(case):
    if case.format == "svd":
        with pytest.raises(TypeError, match="row_dims"):
            layers.factorize(case.layer(), "svd", 2, row_dims=(4, 8))
        return
    layer = case.layer()
    rows, cols = layer.weight.shape
    with pytest.raises(ValueError, match=f"which is less than the weight's {rows} x {cols}"):
        layers.factorize(layer, case.format, 1, row_dims=(2, 2), col_dims=(2, 2))
    for few in ({"row_dims": (2, 2)}, {"col_dims": (2, 1)}, {"row_dims": (0, rows)}):
        with pytest.raises(ValueError, match=r"less than the weight's|positive"):
            layers.factorize(layer, case.format, 1, **few)
    if case.format != "tt":  # rows and columns are paired
        with pytest.raises(ValueError, match="must be equally many"):
            layers.factorize(layer, case.format, 1, row_dims=(rows, 1), col_dims=(cols,))


@pytest.mark.parametrize("case", [case for case in CASES if case.kind != "Embedding"], ids=str)
def test_inputs_that_do_not_fit(case):
    module, layer = case.make(), case.layer()
    bad = case.input()[:, :-1]
    with pytest.raises(RuntimeError):
        layer(bad)
    with pytest.raises((RuntimeError, ValueError), match=str(case.input().shape[1])):
        module(bad)
