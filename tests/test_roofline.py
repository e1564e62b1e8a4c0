"""The roofline's formula and its contract; its measured figures only by sign: they are the machine's business."""

import dataclasses
import importlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tnlib import measure

MODULE = importlib.import_module("tnlib.measure.roofline")  # the package shows the function of that name
ROOF = measure.Roofline(2, {"float32": 100.0, "bfloat16": 350.0}, 20.0, 1.5)


@given(st.floats(0, 1e4))
def test_attainable_is_the_lower_of_two_roofs(intensity):
    assert ROOF.attainable(intensity) == min(100.0, 20.0 * intensity)
    assert ROOF.attainable(intensity, "bfloat16") == min(350.0, 20.0 * intensity)


def test_the_roofs_meet_at_the_ridge():
    assert ROOF.ridge() == 5.0
    assert ROOF.ridge("bfloat16") == 17.5
    assert ROOF.attainable(ROOF.ridge()) == 100.0
    assert ROOF.attainable(0.99 * ROOF.ridge()) < 100.0
    assert ROOF.attainable(0) == 0


def test_refusals():
    with pytest.raises(ValueError, match="at least 0 MACs per byte, got -1"):
        ROOF.attainable(-1)
    with pytest.raises(ValueError, match="at least 0 MACs per byte, got nan"):
        ROOF.attainable(float("nan"))
    with pytest.raises(ValueError, match="one of float32, bfloat16, got 'int8'"):
        ROOF.attainable(1, "int8")
    with pytest.raises(dataclasses.FrozenInstanceError):
        ROOF.threads = 3
    for name in ("threads", "matrix_size", "repeats"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            measure.roofline(**{name: 0})
    with pytest.raises(ValueError, match="array_megabytes must be positive, got 0"):
        measure.roofline(array_megabytes=0)


@pytest.mark.parametrize("fast", [False, True])
def test_measured_figures_are_positive_and_threads_are_restored(fast, monkeypatch):
    monkeypatch.setattr(MODULE, "has_fast_bf16", lambda: fast)
    before = torch.get_num_threads()
    got = measure.roofline(threads=before + 1, matrix_size=16, array_megabytes=0.1, repeats=2)
    assert torch.get_num_threads() == before
    assert got.threads == before + 1
    assert list(got.gmacs_per_second) == ["float32"] + ["bfloat16"] * fast
    assert min(*got.gmacs_per_second.values(), got.gbytes_per_second, got.overhead_microseconds) > 0
    assert got.attainable(1e9) == got.gmacs_per_second["float32"]


def test_it_counts_macs_and_bytes_as_it_says(monkeypatch):
    monkeypatch.setattr(MODULE, "has_fast_bf16", lambda: False)
    monkeypatch.setattr(MODULE, "_seconds", lambda f, repeats: 0.5)
    got = measure.roofline(matrix_size=100, array_megabytes=4)
    assert got.gmacs_per_second == {"float32": 100**3 / 0.5 / 1e9}
    assert got.gbytes_per_second == pytest.approx(3 * 4e6 / 0.5 / 1e9, rel=1e-5)
    assert got.overhead_microseconds == 0.5 / 500 * 1e6


def test_it_shows_its_units():
    assert str(ROOF) == "100 GMAC/s float32, 350 GMAC/s bfloat16, 20 GB/s, 1.5 us a call, 2 threads"
