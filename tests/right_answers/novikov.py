"""Right answers to the exercises of lesson 09."""

import math
from itertools import pairwise

import numpy as np
import torch


def _by_shapes(row_dims, col_dims, rank):
    d = len(row_dims)
    held = 0
    for q in range(d):
        left, right = (1 if q == 0 else rank), (1 if q == d - 1 else rank)
        held += left * row_dims[q] * col_dims[q] * right
    return math.prod(row_dims) * math.prod(col_dims) / held


def _in_numpy(rows, cols, R):
    pairs = np.array(rows) * np.array(cols)
    bonds = np.array([1] + [R] * (len(rows) - 1) + [1])
    return np.prod(pairs.astype(float)) / (bonds[:-1] * pairs * bonds[1:]).sum()


def _by_empty_cores(row_dims, col_dims, rank):
    bonds = pairwise((1, *[rank] * (len(row_dims) - 1), 1))
    cores = [torch.empty(a, m, n, b, device="meta") for (a, b), m, n in zip(bonds, row_dims, col_dims, strict=True)]
    matrix = torch.empty(math.prod(row_dims), math.prod(col_dims), device="meta")
    return torch.tensor([matrix.numel() / sum(core.numel() for core in cores)])


def _pass(cores, x):
    state = x.reshape(len(x), -1, 1, 1)
    for core in reversed(cores):
        a, m, n, c = core.shape
        state = torch.einsum("bpnco,amnc->bpamo", state.reshape(len(x), -1, n, c, state.shape[-1]), core)
        state = state.reshape(len(x), -1, a, m * state.shape[-1])
    return state.reshape(len(x), -1)


def _one_core_at_a_time(cores, directions, x):
    return sum(_pass([*cores[:q], directions[q], *cores[q + 1 :]], x) for q in range(len(cores)))


def _forward_mode(cores, directions, x):
    return torch.func.jvp(lambda *moved: _pass(moved, x), tuple(cores), tuple(directions))[1]


def _twice_as_wide(cores, directions, x):
    """The tangent is a train of twice the ranks: [D G; 0 D] inside, [D G] first, [G; D] last."""
    wide, last = [], len(cores) - 1
    for q, (core, direction) in enumerate(zip(cores, directions, strict=True)):
        above = torch.cat([core, direction], 3) if q < last else direction
        below = torch.cat([torch.zeros_like(core), core], 3) if q < last else core
        wide.append(above if q == 0 else torch.cat([above, below]))
    return _pass(wide, x)


def _columns_first(cores, extra, seed):
    generator = torch.Generator().manual_seed(seed + 7)
    grown = []
    for q, core in enumerate(cores):
        if q > 0:
            core = torch.cat([core, torch.zeros(extra, *core.shape[1:], dtype=core.dtype)])
        if q < len(cores) - 1:
            core = torch.cat([core, torch.randn(*core.shape[:3], extra, generator=generator, dtype=core.dtype)], 3)
        grown.append(core)
    return grown


def _rows_first(cores, extra, seed):
    flipped = [core.transpose(0, 3) for core in reversed(cores)]
    return [core.transpose(0, 3).contiguous() for core in reversed(_columns_first(flipped, extra, seed))]


def _with_small_numbers(cores, extra, seed):
    rng, grown = np.random.default_rng(seed), []
    for q, core in enumerate(np.asarray(c) for c in cores):
        wide = np.pad(core, [(0, extra * (q > 0)), (0, 0), (0, 0), (0, extra * (q < len(cores) - 1))])
        if q < len(cores) - 1:
            wide[: core.shape[0], ..., core.shape[3] :] = 0.1 * rng.standard_normal((*core.shape[:3], extra))
        grown.append(wide)
    return grown


RIGHT = {
    "ttm_factor": [_by_shapes, _in_numpy, _by_empty_cores],
    "directional_output": [_one_core_at_a_time, _forward_mode, _twice_as_wide],
    "grow_train": [_columns_first, _rows_first, _with_small_numbers],
}
