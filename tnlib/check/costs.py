"""Exercises of `notebooks/07_measure_what_it_costs`."""

from __future__ import annotations

import torch
from torch import Tensor

from tnlib.check import costs_counts
from tnlib.check.exercise import Exercise, Mistake

_NOTEBOOK = "07_measure_what_it_costs"


def _intensity(batch: int, inputs: int, outputs: int, width: int) -> float:
    numbers = batch * inputs + inputs * outputs + outputs + batch * outputs
    return batch * inputs * outputs / (width * numbers)


linear_intensity = Exercise(
    "linear_intensity",
    _NOTEBOOK,
    _intensity,
    (
        {"batch": 1, "inputs": 300, "outputs": 200, "width": 4},
        {"batch": 64, "inputs": 7, "outputs": 50, "width": 4},
        {"batch": 16, "inputs": 40, "outputs": 30, "width": 2},
    ),
    (
        Mistake(
            lambda batch, inputs, outputs, width: 2 * _intensity(batch, inputs, outputs, width),
            "Twice too large: that is FLOP per byte, asked are MACs.",
        ),
        Mistake(
            lambda batch, inputs, outputs, width: _intensity(batch, inputs, outputs, width) * width / 4,
            "You took four bytes for each number; float16 has two.",
        ),
        Mistake(
            lambda batch, inputs, outputs, width: _intensity(batch, inputs, outputs, width) * width,
            "That is MACs per number, not per byte.",
        ),
        Mistake(
            lambda batch, inputs, outputs, width: 1 / (width * (1 / batch + 1 / inputs + 1 / outputs)),
            "A little too large: the bias is read, too.",
        ),
        Mistake(
            lambda batch, inputs, outputs, width: batch / width,
            "You counted the weights' bytes alone. Inputs and outputs move as well.",
        ),
        Mistake(
            lambda batch, inputs, outputs, width: _intensity(batch, inputs, outputs, width) * (inputs + 1) / inputs,
            "You counted the additions of the bias as well; here they are no MACs.",
        ),
        Mistake(
            lambda batch, inputs, outputs, width: (
                batch * inputs * outputs / (width * (batch * (inputs + outputs) + inputs * outputs + inputs))
            ),
            "A bias has a number for each output, not for each input.",
        ),
        Mistake(
            lambda batch, inputs, outputs, width: 1 / _intensity(batch, inputs, outputs, width),
            "Upside down: bytes for each MAC.",
        ),
    ),
)


def _attainable(macs: float, moved: float, peak_gflops: float, gbytes_per_second: float) -> float:
    return min(peak_gflops, 2 * macs / moved * gbytes_per_second)


def _sum_of_times(macs: float, moved: float, peak_gflops: float, gbytes_per_second: float) -> float:
    return 2 * macs / (2 * macs / peak_gflops + moved / gbytes_per_second)


attainable_gflops = Exercise(
    "attainable_gflops",
    _NOTEBOOK,
    _attainable,
    (
        {"macs": 3e6, "moved": 8e6, "peak_gflops": 150.0, "gbytes_per_second": 20.0},
        {"macs": 5e9, "moved": 8e6, "peak_gflops": 150.0, "gbytes_per_second": 20.0},
        {"macs": 6e8, "moved": 1e8, "peak_gflops": 160.0, "gbytes_per_second": 20.0},
    ),
    (
        Mistake(
            lambda macs, moved, peak_gflops, gbytes_per_second: min(peak_gflops, macs / moved * gbytes_per_second),
            "Half of what it should be left of the ridge: one MAC is two FLOP.",
        ),
        Mistake(
            lambda macs, moved, peak_gflops, gbytes_per_second: max(peak_gflops, 2 * macs / moved * gbytes_per_second),
            "Faster than the peak, or than memory delivers: both are limits.",
        ),
        Mistake(
            lambda macs, moved, peak_gflops, gbytes_per_second: peak_gflops,
            "That is the peak, whatever the intensity. Can memory feed it?",
        ),
        Mistake(
            lambda macs, moved, peak_gflops, gbytes_per_second: 2 * min(peak_gflops, macs / moved * gbytes_per_second),
            "Twice the peak right of the ridge: the peak is in FLOP already.",
        ),
        Mistake(
            lambda macs, moved, peak_gflops, gbytes_per_second: min(
                peak_gflops, moved / (2 * macs) * gbytes_per_second
            ),
            "The intensity is upside down: FLOP for each byte, not bytes for each FLOP.",
        ),
        Mistake(_sum_of_times, "You added the two times. A roofline lets arithmetic and memory work at the same time."),
    ),
)


def _paired(first: Tensor, second: Tensor) -> float:
    return float((first / second).quantile(0.5))


def _times(rounds: int, factor: float) -> dict[str, Tensor]:
    """Two functions that share a machine: a common drift, a stall that hits one of them, and noise.

    An odd number of rounds: then all that is called a median agrees, and the median of inverses is the inverse.
    """
    generator = torch.Generator().manual_seed(rounds)
    noise = torch.rand(2, rounds, generator=generator, dtype=torch.float64)
    machine = torch.linspace(1, 4, rounds, dtype=torch.float64)
    first, second = machine * (1 + 0.5 * noise[0]), machine * factor * (1 + 0.4 * noise[1])
    first[1], second[-1] = 90, 70
    return {"first": first, "second": second}


paired_speedup = Exercise(
    "paired_speedup",
    _NOTEBOOK,
    _paired,
    (_times(21, 0.4), _times(15, 1.7), _times(9, 0.9)),
    (
        Mistake(
            lambda first, second: float(first.quantile(0.5) / second.quantile(0.5)),
            "A ratio of medians: what the machine did in one round does not cancel.",
        ),
        Mistake(
            lambda first, second: float((second / first).quantile(0.5)),
            "Upside down: the second is faster when the number is above 1.",
        ),
        Mistake(lambda first, second: float((first / second).mean()), "One stalled round moves a mean a long way."),
        Mistake(lambda first, second: float(first.mean() / second.mean()), "Means of times follow the stalls."),
        Mistake(
            lambda first, second: float(first.min() / second.min()),
            "The fastest calls may come from different rounds, and say nothing about the usual one.",
        ),
    ),
)

EXERCISES = (linear_intensity, attainable_gflops, paired_speedup, *costs_counts.EXERCISES)
