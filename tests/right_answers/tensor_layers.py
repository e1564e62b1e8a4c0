"""Right answers to the exercises of lesson 06."""

import functools
import itertools
import math
import string

import numpy as np
import torch
import torch.nn.functional as F


def _weights_times_places(kernel_shape, rank, image, output):
    T, S, kh, kw = kernel_shape
    sizes = ((S, rank, (1, 1), 1), (rank, rank, (kh, 1), rank), (rank, rank, (1, kw), rank), (rank, T, (1, 1), 1))
    convs = [torch.nn.Conv2d(*three, groups=groups, bias=False, device="meta") for *three, groups in sizes]
    places = (image[0] * image[1], output[0] * image[1], output[0] * output[1], output[0] * output[1])
    return sum(conv.weight.numel() * count for conv, count in zip(convs, places, strict=True))


def _term_by_term(shape, terms, before, after):  # arguments with other names
    total = np.zeros(1)
    for _ in range(terms):
        total += shape[1] * np.prod(before) + shape[2] * after[0] * before[1]
        total += (shape[0] + shape[3]) * np.prod(after)
    return total


def _transposed_state(x, cores):
    y = x.T
    for core in cores:
        left, m, n, right = core.shape
        y = core.permute(1, 3, 0, 2).reshape(m * right, left * n) @ y.reshape(left * n, -1)
        y = y.reshape(m, -1).T
    return y.reshape(len(x), -1)


def _one_einsum(x, cores):
    d, letters = len(cores), iter(string.ascii_letters)
    batch, rows, cols, bonds = next(letters), *("".join(itertools.islice(letters, n)) for n in (d, d, d + 1))
    terms = [batch + cols, *(bonds[k] + rows[k] + cols[k] + bonds[k + 1] for k in range(d))]
    digits = x.reshape(len(x), *[core.shape[2] for core in cores])
    return torch.einsum(f"{','.join(terms)}->{batch}{rows}", digits, *cores).flatten(1)


def _sample_by_sample(x, cores):
    rows = []
    for sample in x.numpy().astype(np.float32):
        state = sample[None]
        for core in cores:
            left, _, n, right = core.shape
            state = np.tensordot(core.numpy().astype(np.float32), state.reshape(left, n, -1), axes=([0, 2], [0, 1]))
            state = np.moveaxis(state, 0, -1).reshape(right, -1)
        rows.append(state.ravel())
    return rows


def _horizontal_first(x, factors, stride, padding):
    out, inp, high, wide = factors
    y = F.pad(torch.einsum("nshw,sr->nrhw", x, inp), (padding[1], padding[1], padding[0], padding[0]))
    y = F.conv2d(y, wide.T[:, None, None], stride=(1, stride[1]), groups=inp.shape[1])
    y = F.conv2d(y, high.T[:, None, :, None], stride=(stride[0], 1), groups=inp.shape[1])
    return torch.einsum("nrhw,tr->nthw", y, out)


def _windows(x, factors, stride, padding):
    out, inp, high, wide = (factor.numpy() for factor in factors)
    y = np.einsum("nshw,sr->nrhw", x.numpy(), inp)
    y = np.pad(y, ((0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2))
    y = np.lib.stride_tricks.sliding_window_view(y, (len(high), len(wide)), axis=(2, 3))
    return np.einsum("nrhwab,ar,br,tr->nthw", y[:, :, :: stride[0], :: stride[1]], high, wide, out, optimize=True)


def _strides_last(x, factors, stride, padding):  # right, and dearer
    out, inp, high, wide = (factor.float() for factor in factors)
    y = F.conv2d(x.float(), inp.T[:, :, None, None])
    y = F.conv2d(y, high.T[:, None, :, None], padding=tuple(padding), groups=inp.shape[1])
    y = F.conv2d(y, wide.T[:, None, None], groups=inp.shape[1])
    return F.conv2d(y, out[:, :, None, None], stride=tuple(stride))


def _rank_one_terms(x, factors, stride, padding):
    total = 0
    for t, s, a, b in zip(*(factor.T for factor in factors), strict=True):
        y = (x * s[:, None, None]).sum(1, keepdim=True)
        y = F.conv2d(y, torch.outer(a, b)[None, None], stride=stride, padding=padding)  # one small window a term
        total = total + y * t[:, None, None]
    return total


def _by_logarithms(rows, cols, ranks, gain):
    logs = 2 * math.log(gain) - sum(map(math.log, [*cols, *ranks]))
    return np.float64(math.exp(logs / (2 * len(rows))))


def _by_bisection(rows, cols, ranks, gain):
    low, high = 0.0, 10.0
    for _ in range(80):
        middle = (low + high) / 2
        too_large = middle ** (2 * len(rows)) * math.prod(ranks) > gain**2 / math.prod(cols)
        low, high = (low, middle) if too_large else (middle, high)
    return torch.tensor([low], dtype=torch.float64)


def _one_bond_at_a_time(rows, cols, ranks, gain):
    variance = gain * gain
    for size in (*cols, *ranks):
        variance /= size
    return math.sqrt(variance ** (1 / len(rows)))


def _count(rows, cols, ranks):
    R, total = [1, *ranks, 1], 0
    for k in range(len(rows)):
        total += R[k] * math.prod(rows[k:]) * math.prod(cols[: k + 1]) * R[k + 1]
    return total


def _by_masks(rows, cols, ranks):
    costs = []
    for keep in itertools.product((False, True), repeat=len(ranks)):
        m, n, R = [rows[0]], [cols[0]], []
        for k, kept in enumerate(keep):
            if kept:
                m, n, R = [*m, rows[k + 1]], [*n, cols[k + 1]], [*R, ranks[k]]
            else:
                m[-1], n[-1] = m[-1] * rows[k + 1], n[-1] * cols[k + 1]
        costs += [_count(m, n, R), _count(m[::-1], n[::-1], R[::-1])]
    return float(min(costs))


def _by_programming(rows, cols, ranks):
    def from_right(m, n, bonds):
        R, best = [1, *bonds, 1], [0]
        for b in range(1, len(m) + 1):
            best.append(
                min(best[a] + R[a] * math.prod(m[a:]) * math.prod(n[:b]) * R[b] for a in range(b))  # group a .. b - 1
            )
        return best[-1]

    return np.int64(min(from_right(rows, cols, ranks), from_right(rows[::-1], cols[::-1], ranks[::-1])))


def _by_recursion(m, n, R):  # the first group is applied first, then the rest: a shortest path
    def cheapest(m, n, R):
        bonds = (1, *R, 1)

        @functools.cache
        def rest(start):
            if start == len(m):
                return 0
            ends = range(start + 1, len(m) + 1)
            return min(
                bonds[start] * math.prod(m[:end]) * math.prod(n[start:]) * bonds[end] + rest(end) for end in ends
            )

        return rest(0)

    return torch.tensor([min(cheapest(m, n, R), cheapest(m[::-1], n[::-1], R[::-1]))])


RIGHT = {
    "cp_conv_macs": [
        _weights_times_places,
        _term_by_term,
        lambda kernel_shape, rank, image, output: (
            float(rank)
            * (
                kernel_shape[1] * image[0] * image[1]
                + output[0] * (kernel_shape[2] * image[1] + sum(kernel_shape[::3]) * output[1])
            )
        ),
    ],
    "tt_linear_from_left": [_transposed_state, _one_einsum, _sample_by_sample],
    "strided_cp": [_horizontal_first, _windows, _strides_last, _rank_one_terms],
    "equal_std": [_by_logarithms, _by_bisection, _one_bond_at_a_time],
    "least_macs": [_by_masks, _by_programming, _by_recursion],
}
