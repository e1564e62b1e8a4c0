"""Counts against closed forms and torch's own counter; timings by their contract, never by their values."""

import subprocess
import sys
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tnlib import layers, measure, models


@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5), st.integers(1, 3), st.integers(1, 2), st.integers(1, 3))
def test_convolution_macs_by_the_formula(batch, inputs, outputs, k, stride, groups):
    conv = nn.Conv2d(groups * inputs, groups * outputs, k, stride=stride, groups=groups)
    side = (9 - k) // stride + 1
    got = measure.cost(conv, (batch, groups * inputs, 9, 9))
    assert got.macs == batch * groups * outputs * side**2 * inputs * k**2
    assert got.params == groups * outputs * (inputs * k**2 + 1)
    assert got.bytes == 4 * got.params
    assert got.peak_activation_bytes == 4 * batch * groups * (inputs * 81 + outputs * side**2)


@pytest.mark.parametrize(("name", "params", "shape"), [
    ("mlp1024-mnist", 1024 * 1024 + 1024 + 10 * 1024 + 10, (1, 1, 28, 28)),
    ("quick-cifar10", 145_578, (1, 3, 32, 32)),
    ("vgg-cifar10", 9 * 31_840 + 2 * 448 + 1290, (1, 3, 32, 32)),
    ("resnet20-cifar10", 269_722, (1, 3, 32, 32)),
    ("resnet56-cifar10", 853_018, (1, 3, 32, 32)),
])  # fmt: skip
def test_networks_cost_what_the_papers_say_and_torch_counts(name, params, shape):
    model = models.load(name, weights="none")
    got = measure.cost(model, shape)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(shape))
    assert got.params == params
    assert 2 * got.macs == counter.get_total_flops()


def test_ttm_linear_macs_by_hand():
    dims = {"row_dims": (4,) * 6, "col_dims": (2, 7, 8, 8, 7, 4)}
    module = layers.factorize(nn.Linear(25088, 4096), "ttm", 4, weights="fresh", **dims)
    # The last two cores merged, the fourth, the third, the first two merged: matrices x rows x inner x columns.
    macs = 896 * 28 * 64 + 112 * 16 * 32 * 16 + 14 * 16 * 32 * 64 + 16 * 56 * 256
    frozen = layers.freeze(module, torch.zeros(1, 25088))
    assert measure.cost(frozen, (1, 25088)).macs == macs
    assert measure.cost(frozen, (3, 25088)).macs == 3 * macs


def test_peak_memory_counts_what_is_alive_at_once():
    class Wasteful(nn.Module):
        def forward(self, x):
            a = x * 2
            b = a * 2
            del a
            return b * 2

    # x, and two of the three products at a time.
    assert measure.cost(Wasteful(), (1, 100)).peak_activation_bytes == 3 * 400


def test_views_are_not_counted_twice():
    assert measure.cost(nn.Flatten(), (2, 3, 4)).peak_activation_bytes == 4 * 24


def test_cost_restores_the_mode_and_refuses_a_wrong_shape():
    model = nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2)).train()
    measure.cost(model, (1, 4))
    assert model.training
    with pytest.raises(ValueError, match=r"does not run on an input of shape \(1, 5\)"):
        measure.cost(model, (1, 5))
    assert model.training


def test_relative_cost():
    a, b = measure.cost(nn.Linear(4, 8, bias=False), (1, 4)), measure.cost(nn.Linear(4, 16, bias=False), (1, 4))
    assert a.relative_to(b)["params"] == 0.5


def test_compare_interleaves_and_tells_a_sleep_from_a_longer_one():
    calls = []

    def make(name, seconds):
        def f(x):
            calls.append(name)
            time.sleep(seconds)

        return f

    got = measure.compare({"short": make("short", 0.002), "long": make("long", 0.02)}, 0, rounds=4)
    assert calls == ["short", "long"] * 2 + ["short", "long", "long", "short"] * 2
    assert got.timings["short"].n == 4
    assert got.timings["long"].low >= 20
    assert got.speedup["short"] == (1.0, 1.0, 1.0)
    assert got.speedup["long"][2] < 1
    assert "long" in str(got)
    with pytest.raises(ValueError, match="at least one"):
        measure.compare({})


def test_latency_stops_when_time_is_up_but_not_before_three_calls():
    assert measure.latency(time.sleep, 0.01, rounds=1000, seconds=0.05).n in range(3, 8)
    assert measure.latency(time.sleep, 0.01, rounds=1000, seconds=0.0).n == 3


def test_provenance_tells_machine_and_versions():
    got = measure.provenance()
    assert torch.__version__.startswith(got["versions"]["torch"])
    assert got["machine"]["threads"] == torch.get_num_threads()
    assert got["date"].endswith("+00:00")


# Without compare, each of these blocks, larger than any freed before it, comes from the system and goes back to it,
# whatever the heap holds. Transparent huge pages would hide 512 faults in one: they are off.
_FAULTS = """
import ctypes, platform, resource, sys, torch
from tnlib import measure

if hasattr(ctypes.CDLL(None), "prctl"):
    ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE
if "timed" in sys.argv:
    measure.compare({"nothing": int}, rounds=1)

before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for i in range(50):
    torch.ones(2_000_000 + 2_000 * i)
print(platform.libc_ver()[0], (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 50)
"""


def _faults(*words):
    answer = subprocess.run([sys.executable, "-c", _FAULTS, *words], capture_output=True, text=True, check=True)
    library, pages = answer.stdout.split()
    return library, float(pages)


def test_pages_are_kept_once_something_was_timed():
    library, new = _faults()
    if library == "glibc":  # 8 MB are 1,953 pages; other libraries have other rules
        assert new > 1000
        assert _faults("timed")[1] < new / 2  # a few times those of one block
