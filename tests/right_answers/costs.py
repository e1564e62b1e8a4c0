"""Right answers to the exercises of lesson 07."""

import math
import statistics
from fractions import Fraction

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tnlib import measure


def _array(tensor):
    return tensor.numpy()


def _weighed(batch, inputs, outputs, width):
    dtype = {2: torch.float16, 4: torch.float32}[width]
    shapes = ((batch, inputs), (outputs, inputs), (outputs,), (batch, outputs))
    moved = sum(torch.empty(shape, dtype=dtype).nbytes for shape in shapes)
    return measure.cost(nn.Linear(inputs, outputs), (batch, inputs)).macs / moved


def _reciprocals(B, n, m, bytes_each):
    return np.float32(1 / (bytes_each * (1 / B + 1 / m + 1 / n + 1 / (B * n))))


def _exactly(batch, inputs, outputs, width):
    numbers = (batch + 1) * outputs + inputs * (batch + outputs)
    return float(Fraction(batch * inputs * outputs, width * numbers))


def _by_the_slower(macs, moved, peak_gflops, gbytes_per_second):
    seconds = max(2 * macs / (peak_gflops * 1e9), moved / (gbytes_per_second * 1e9))
    return 2 * macs / seconds / 1e9


def _by_the_ridge(macs, moved, peak_gflops, gbytes_per_second):
    ridge, intensity = peak_gflops / gbytes_per_second, 2 * macs / moved
    return torch.tensor([peak_gflops if intensity > ridge else gbytes_per_second * intensity])


def _by_roofline(macs, moved, peak, bandwidth):
    roof = measure.Roofline(1, {"float32": peak / 2}, bandwidth, 0.0)
    return 2 * roof.attainable(macs / moved)


def _of_lists(first, second):
    return statistics.median([float(a) / float(b) for a, b in zip(first, second, strict=True)])


def _in_logarithms(first, second):
    return math.exp(float((first.log() - second.log()).median()))


def _of_arrays(slow, fast):
    return np.median(_array(slow).astype(np.float32) / _array(fast).astype(np.float32), keepdims=True)


def _sorted_by_hand(first, second):
    ratios = sorted((second / first).tolist())
    return 1 / ratios[len(ratios) // 2]


def _by_closed_form(T, S, k, height, width, stride):
    large, small = height * width, -(-height // stride) * -(-width // stride)
    a, b, c = small * k * k, large * S + small * T, small * T * S * k * k
    R = (math.isqrt(b * b + 4 * a * c) - b) // (2 * a)
    return R - (a * R * R + b * R == c)


def _of_real_layers(T, S, k, height, width, stride):
    def macs(*convs):
        return measure.cost(nn.Sequential(*convs).to("meta"), (1, S, height, width)).macs

    dense, low, high = macs(nn.Conv2d(S, T, k, stride, k // 2)), 0, S + T
    while high - low > 1:
        R = (low + high) // 2
        stages = nn.Conv2d(S, R, 1), nn.Conv2d(R, R, k, stride, k // 2), nn.Conv2d(R, T, 1)
        low, high = (R, high) if macs(*stages) < dense else (low, R)
    return low


def _table_of_ranks(outputs, inputs, k, H, W, s):
    R = np.arange(outputs * inputs * k * k + 1)
    small = math.ceil(H / s) * math.ceil(W / s)
    macs = H * W * inputs * R + small * (k * k * R * R + outputs * R)
    return np.flatnonzero(macs < small * outputs * inputs * k * k).max()


def _solved_for_batch(inputs, outputs, ridge):
    below = inputs * outputs - 4 * ridge * (inputs + outputs)
    return max(0, math.ceil(4 * ridge * inputs * outputs / below)) if below else 0


def _counted_up(n, m, ridge):
    for B in range(1, 20_000):
        if B * n * m / (4 * (B * n + B * m + n * m)) >= ridge:
            return torch.tensor(B)
    return torch.tensor(0)


def _bisected(inputs, outputs, ridge):
    def reached(B):
        return Fraction(B * inputs * outputs, 4 * (B * (inputs + outputs) + inputs * outputs)) >= Fraction(ridge)

    low, high = 0, 10**9
    if not reached(high):
        return 0.0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high


def _with_bonds(ranks):
    return [1, *ranks, 1]


def _by_sizes(row_dims, col_dims, ranks):
    """The intermediate result as a set of lines with their sizes; a step multiplies all lines of both."""
    d, bonds = len(row_dims), _with_bonds(ranks)
    size = {("m", k): v for k, v in enumerate(row_dims)} | {("n", k): v for k, v in enumerate(col_dims)}
    size |= {("r", k): v for k, v in enumerate(bonds)}
    best = math.inf
    for p in range(d + 1):
        lines, macs = {("n", k) for k in range(d)}, 0
        for k in [*reversed(range(p, d)), *range(p)]:
            core = {("m", k), ("n", k), ("r", k), ("r", k + 1)}
            macs += math.prod(size[line] for line in lines | core)
            lines ^= core
        best = min(best, macs)
    return best


def _on_meta_tensors(m, n, ranks):
    d, bonds, found = len(m), _with_bonds(ranks), []
    letters = "abcdefghijklmnopqrstuvwxyz"
    rows, columns, inner = letters[:d], letters[d : 2 * d], letters[2 * d : 3 * d + 1]
    for p in range(d + 1):
        here, y = columns, torch.empty(tuple(n), device="meta")
        with FlopCounterMode(display=False) as counter:
            for k in [*range(d - 1, p - 1, -1), *range(p)]:
                core = torch.empty(bonds[k], m[k], n[k], bonds[k + 1], device="meta")
                names = inner[k] + rows[k] + columns[k] + inner[k + 1]
                left = "".join(sorted(set(here) ^ set(names)))
                y, here = torch.einsum(f"{here},{names}->{left}", y, core), left
        found.append(counter.get_total_flops() // 2)
    return float(min(found))


def _running_products(row_dims, col_dims, ranks):
    m, n, R, d = np.array(row_dims), np.array(col_dims), np.array(_with_bonds(ranks)), len(row_dims)
    entries = R[:-1] * m * n * R[1:]
    before_n, after_m = np.cumprod([1, *n]), np.cumprod([1, *m[::-1]])[::-1]
    totals = []
    for p in range(d + 1):
        second = (entries[k] * m[:k].prod() * n[k + 1 : p].prod() * (R[p] if k + 1 < p else 1) for k in range(p))
        totals.append(sum(entries[k] * before_n[k] * after_m[k + 1] for k in range(p, d)) + after_m[p] * sum(second))
    return np.array([min(totals)])


RIGHT = {
    "linear_intensity": [_weighed, _reciprocals, _exactly],
    "attainable_gflops": [_by_the_slower, _by_the_ridge, _by_roofline],
    "paired_speedup": [
        _of_lists,
        _in_logarithms,
        _of_arrays,
        _sorted_by_hand,
        lambda first, second: (first / second).median(),
        lambda first, second: 1 / torch.quantile(second / first, 0.5, keepdim=True),
        lambda first, second: np.percentile(np.divide(first, second), 50),
        lambda first, second: (torch.stack([first, second]).float().diff(dim=0).neg() / second + 1).median(),
    ],
    "tucker2_mac_break_even": [_by_closed_form, _of_real_layers, _table_of_ranks],
    "ridge_batch": [_solved_for_batch, _counted_up, _bisected],
    "two_sided_macs": [_by_sizes, _on_meta_tensors, _running_products],
}
