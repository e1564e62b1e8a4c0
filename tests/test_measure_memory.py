"""Peak memory against closed forms: what a function must hold at one time, counted by hand."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tnlib import measure

SCALAR = 16  # a Python number that meets a tensor becomes one itself: 8 bytes, and 4 of its float32 copy


@settings(max_examples=10)
@given(st.integers(1, 9), st.integers(1, 7), st.sampled_from([torch.float32, torch.float64]))
def test_one_operation_is_one_copy(rows, columns, dtype):
    x = torch.ones(rows, columns, dtype=dtype)
    assert measure.peak_memory(torch.add, x, x) == x.nbytes
    assert x.nbytes <= measure.peak_memory(lambda x: x + 1, x) <= x.nbytes + SCALAR


def test_views_and_in_place_operations_take_nothing():
    x = torch.ones(30, 7)
    assert measure.peak_memory(lambda x: x.T[3:].reshape(-1, 15), x.T.contiguous().T) == 0
    assert measure.peak_memory(lambda x: x.add_(x), x) == 0
    assert measure.peak_memory(lambda: None) == 0


@pytest.mark.parametrize("length", [2, 3, 7])
def test_a_chain_that_frees_holds_two_at_a_time(length):
    def chain(x):
        for _ in range(length):
            x = x + x
        return x

    x = torch.ones(501)
    assert measure.peak_memory(chain, x) == 2 * x.nbytes


def test_the_peak_is_in_the_middle_not_at_the_end():
    def spike(x):
        return torch.cat([x] * 5).sum()

    x = torch.ones(100)
    assert measure.peak_memory(spike, x) == 5 * x.nbytes + 4


def test_what_was_there_before_is_neither_counted_nor_subtracted():
    held = [torch.ones(1000)]

    def swap():
        held.pop()
        held.append(torch.empty(700))

    for _ in range(4):  # later calls release what an earlier one allocated, and meet its addresses again
        assert measure.peak_memory(swap) == 2800
    assert measure.peak_memory(lambda: held.append(torch.empty(300))) == 1200


@pytest.mark.parametrize("depth", [1, 2, 5])
@pytest.mark.parametrize("held", [False, True])
def test_backward_keeps_what_the_graph_saves(depth, held):
    x = torch.ones(1000, requires_grad=True)

    def forward_then_backward():
        y = x
        for _ in range(depth):
            y = torch.exp(y)  # its derivative is its result, which is saved
        total = y.sum()
        if not held:
            del y
        total.backward()
        x.grad = None

    # All results are saved. The first step of backward adds one product; each later one adds one before the previous
    # product goes, while the saved result of the step before has gone, unless a variable still holds it.
    copies = depth + (min(depth, 2) if held else 1)
    assert measure.peak_memory(forward_then_backward) - copies * x.nbytes in range(SCALAR + 1)

    def forward_only():
        with torch.no_grad():
            y = x
            for _ in range(depth):
                y = torch.exp(y)
            return y.sum()

    assert measure.peak_memory(forward_only) - min(depth, 2) * x.nbytes in range(5)


def test_a_linear_training_step_by_hand():
    batch, inputs, outputs = 50, 30, 20
    layer, x = nn.Linear(inputs, outputs, bias=False), torch.ones(batch, inputs)

    def step():
        layer.zero_grad(set_to_none=True)
        F.linear(x, layer.weight).sum().backward()

    # The output, freed before the weight's gradient exists (the sum's backward does not need it), or beside it.
    output, gradient = 4 * batch * outputs, 4 * inputs * outputs
    peak = measure.peak_memory(step)
    assert max(output, gradient) <= peak <= 2 * output + 2 * gradient + SCALAR
    assert measure.peak_memory(step) <= peak  # the second time the old gradient is given back first


def test_gradients_are_as_the_caller_has_them():
    model = nn.Sequential(*[nn.Sigmoid() for _ in range(6)])
    x = torch.ones(400, requires_grad=True)
    with torch.no_grad():
        assert measure.peak_memory(model, x) == 2 * x.nbytes
    assert measure.peak_memory(model, x) == 6 * x.nbytes


def test_a_function_that_raises_leaves_no_profiler_behind():
    with pytest.raises(ZeroDivisionError):
        measure.peak_memory(lambda: 1 / 0)
    assert measure.peak_memory(torch.ones, 10) == 40


def test_bad_input_gets_one_clear_error():
    with pytest.raises(TypeError, match="needs a function and its arguments, got Tensor"):
        measure.peak_memory(torch.ones(3))
    with pytest.raises(ValueError, match="devices cpu and cuda, got meta"):
        measure.peak_memory(torch.add, torch.ones(3, device="meta"), 1)
    with pytest.raises(ValueError, match="got meta"):
        measure.peak_memory(nn.Linear(2, 2, device="meta"), 1)


def test_nothing_is_printed_even_at_the_first_use():
    code = "import torch; from tnlib import measure; print(measure.peak_memory(torch.ones, 25))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert (run.stdout, run.stderr) == ("100\n", "")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_counts_its_own_allocator():
    x = torch.ones(2**20, device="cuda")
    assert measure.peak_memory(torch.add, x, x) == x.nbytes
