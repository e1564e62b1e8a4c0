"""Parameters and multiply-accumulates of every format: those of what is built, and shares that are kept."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_cases import CASES, CONVS
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tnlib import layers


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def whole(rank):
    return rank if isinstance(rank, tuple) else (rank,)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_size_is_what_is_built(case, bias):
    layer = case.layer() if case.kind == "Embedding" else case.layer(bias=bias)
    largest = layers.max_rank(layer, case.format)
    assert largest == case.cls.max_rank(layer)
    for rank in (1, 2, largest):
        module = layers.factorize(layer, case.format, rank, weights="fresh")
        assert layers.size(layer, case.format, rank) == case.cls.size(layer, rank) == count(module)
        assert case.cls.size(layer, module.rank) == count(module)
        assert type(module.rank) is type(largest)
    assert module.rank == largest
    assert all(r <= most for r, most in zip(whole(module.rank), whole(largest), strict=True))


@settings(max_examples=40)
@given(
    sizes=st.tuples(*[st.integers(1, 9)] * 2, *[st.integers(1, 4)] * 2),
    groups=st.integers(1, 2),
)
def test_numbers_of_parameters_are_the_formats(sizes, groups):
    T, S, kh, kw = sizes
    layer = nn.Conv2d(S * groups, T * groups, (kh, kw), groups=groups, bias=False)
    want = {
        "svd": T + S * kh * kw,
        "spatial_svd": T * kw + S * kh,
        "cp": T + S + kh + kw,
        "cp3": T + S + kh * kw,
        "tucker2": T + S + kh * kw,
        "tucker": T + S + kh + kw + 1,
        "tt": T + S + kh + kw,
    }
    assert {format: layers.size(layer, format, 1) for format in want} == {f: groups * n for f, n in want.items()}
    flat = nn.Conv1d(S * groups, T * groups, kw, groups=groups, bias=False)
    assert layers.size(flat, "cp", 1) == layers.size(flat, "tt", 1) == groups * (T + S + kw)
    assert layers.size(nn.Linear(S, T), "svd", 1) == S + 2 * T


def test_numbers_of_parameters_on_digits():
    linear = nn.Linear(64, 27, bias=False)
    assert layers.size(linear, "cp", 5) == 5 * (9 + 12)
    assert layers.size(linear, "tucker", 2) == 2**6 + 2 * (9 + 12)
    assert layers.size(linear, "tt", 2) == 2 * 3 + 4 * (3 + 3 + 4 + 4) + 2 * 4
    assert layers.size(linear, "ttm", 2) == 2 * 12 + 4 * 12 + 2 * 12
    assert layers.size(nn.Embedding(1000, 64), "ttm", 8) == 40 * 8 + 8 * 40 * 8 + 8 * 40


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("share", [0.6, 1.0])
def test_share_gives_the_largest_rank_that_fits(case, share):
    if case.kind == "Embedding":
        layer = nn.Embedding(60, 16)
    else:
        layer = nn.Linear(60, 48) if case.kind == "Linear" else getattr(nn, case.kind)(16, 12, 3, groups=2)
    budget = share * count(layer)
    module = layers.factorize(layer, case.format, share=share, weights="fresh")
    assert count(module) <= budget
    largest = whole(layers.max_rank(layer, case.format))
    more = tuple(min(r + 1, most) for r, most in zip(whole(module.rank), largest, strict=True))
    assert more == whole(module.rank) or case.cls.size(layer, more if len(more) > 1 else more[0]) > budget
    assert more != whole(module.rank) or whole(module.rank) == largest


@pytest.mark.parametrize("case", [case for case in CASES if case.kind != "Embedding"], ids=str)
def test_share_of_macs(case):
    layer = nn.Linear(60, 48) if case.kind == "Linear" else getattr(nn, case.kind)(16, 12, 3, padding=1)
    size = () if case.kind == "Linear" else (5,) * int(case.kind[4])
    budget = 0.5 * layer.weight.numel() * math.prod(size)
    module = layers.factorize(layer, case.format, share=0.5, of="macs", output_size=size, weights="fresh")
    assert case.cls.macs(layer, module.rank, size) == layers.macs(layer, case.format, module.rank, size) <= budget
    largest = whole(layers.max_rank(layer, case.format))
    more = tuple(min(r + 1, most) for r, most in zip(whole(module.rank), largest, strict=True))
    assert case.cls.macs(layer, more if len(more) > 1 else more[0], size) > budget or more == largest


@pytest.mark.parametrize("case", [case for case in CONVS if case.format not in ("tucker", "ttm")], ids=str)
@pytest.mark.parametrize("rank", [1, 3])
def test_macs_are_those_that_torch_counts(case, rank):
    """Of the chain for one image: the largest one whose output has the given size."""
    axes = int(case.kind[4])
    options = {"stride": (2, 1, 3)[:axes], "padding": (1, 0, 1)[:axes], "dilation": (1, 2, 1)[:axes]}
    layer = getattr(nn, case.kind)(6, 8, (3, 2, 2)[:axes], **options, groups=2)
    output = (4, 3, 2)[:axes]
    steps = zip(output, layer.stride, layer.dilation, layer.kernel_size, layer.padding, strict=True)
    size = [n * s + d * (k - 1) - 2 * p for n, s, d, k, p in steps]
    module = layers.factorize(layer, case.format, rank, weights="fresh")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        y = module(torch.zeros(1, 6, *size))
    assert y.shape[2:] == output
    assert y.shape[2:] == layer(torch.zeros(1, 6, *size)).shape[2:]
    assert 2 * layers.macs(layer, case.format, rank, output) == counter.get_total_flops()
    with pytest.raises(ValueError, match=f"{axes} numbers"):
        layers.macs(layer, case.format, rank, (*output, 1))


def test_macs_of_tucker_take_the_cheaper_order_of_the_core():
    layer = nn.Conv2d(20, 30, 3, padding=1)  # of a 3 x 3 output in a 3 x 3 image
    # One filter over 10 channels, then the core: fewer than the whole kernel's 10 * 10 * 9.
    want = 9 * (20 * 10 + 30 * 10 + 10 * (9 + 10))
    assert layers.macs(layer, "tucker", (10, 10, 1, 1), (3, 3)) == want
    assert layers.macs(layer, "tucker", (12, 10, 3, 3), (3, 3)) == 9 * (20 * 10 + 30 * 12 + 12 * 10 * 9)


def test_macs_of_linear_layers():
    linear = nn.Linear(64, 27)  # digits 4, 4, 4 and 3, 3, 3; merging is not counted
    assert layers.macs(linear, "svd", 7) == 7 * (64 + 27)
    assert layers.macs(linear, "cp", 5) == 5 * (64 + 27)
    assert layers.macs(linear, "tt", 2) <= 2 * (64 + 27)
    assert layers.macs(linear, "tucker", 2) <= 8 * (64 + 8 + 27)
    assert layers.macs(linear, "ttm", 2) <= 2 * 64 * 3 * 3 + 4 * 16 * 3 * 9  # two cores as one, and the third
    for format in ("cp", "tucker", "tt", "ttm"):
        largest = layers.max_rank(linear, format)
        assert layers.macs(linear, format, largest) <= 64 * 27


@pytest.mark.parametrize("case", [case for case in CASES if case.kind == "Embedding"], ids=str)
def test_macs_of_embeddings_are_of_one_row(case):
    layer = nn.Embedding(1000, 64)
    assert 0 < layers.macs(layer, case.format, 1) < layers.macs(layer, case.format, 4) <= 4 * 4 * 64
