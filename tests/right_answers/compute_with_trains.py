"""Right answers to the exercises of lesson 20."""

import functools
import math

import numpy as np
import torch


def _array(tensor):
    return tensor.numpy()


def _sum_from_the_right(cores):
    column = torch.ones(1, dtype=torch.float64)
    for core in reversed(cores):
        column = torch.einsum("aib,b->a", core, column)
    return column  # shape (1,)


def _sum_in_numpy(train):
    return np.linalg.multi_dot([_array(core).sum(axis=1) for core in train])


def _sum_in_single_precision(cores):
    return functools.reduce(torch.matmul, [core.float().sum(1) for core in cores])


def _sum_of_halves(cores):  # the middle bond last
    def product(some):
        return functools.reduce(torch.matmul, [core.sum(1) for core in some])

    return (product(cores[:1]) @ product(cores[1:])).item()


def _difference(x, y):
    cores = []
    for q, (g, h) in enumerate(zip(x, y, strict=True)):
        core = g.new_zeros(len(g) + len(h), g.shape[1], g.shape[2] + h.shape[2])
        core[: len(g), :, : g.shape[2]], core[len(g) :, :, g.shape[2] :] = g, -h if q == 0 else h
        cores.append(core)
    return [cores[0].sum(0, keepdim=True), *cores[1:-1], cores[-1].sum(2, keepdim=True)]


def _distance_by_qr(x, y):
    push = torch.ones(1, 1, dtype=torch.float64)
    for core in _difference(x, y):
        push = torch.linalg.qr(torch.tensordot(push, core, 1).flatten(0, 1)).R
    return push.norm()


def _distance_by_one_ladder(x, y):
    cores, state = [_array(core) for core in _difference(x, y)], np.ones((1, 1))
    for core in cores:
        state = np.einsum("ab,aic,bid->cd", state, core, core, optimize=True)
    return np.sqrt(state)  # shape (1, 1)


def _distance_from_the_right(first, second):
    def inner(a, b):
        state = torch.ones(1, 1, dtype=torch.float64)
        for g, h in zip(reversed(a), reversed(b), strict=True):
            state = torch.tensordot(torch.tensordot(g, state, 1), h, dims=([1, 2], [1, 2]))
        return state.item()

    return math.sqrt(inner(first, first) + inner(second, second) - inner(first, second) - inner(second, first))


def _distance_in_single_precision(x, y):
    return _distance_by_qr([core.float().double() for core in x], [core.float().double() for core in y]).float()


def _ring_by_power(sites, coupling):
    a, b = math.exp(coupling), math.exp(-coupling)
    return np.trace(np.linalg.matrix_power(np.array([[a, b], [b, a]]), sites))


def _ring_by_eigenvalues(sites, coupling):
    a, b = math.exp(coupling), math.exp(-coupling)
    return (torch.linalg.eigvalsh(torch.tensor([[a, b], [b, a]], dtype=torch.float64)) ** sites).sum()


def _ring_by_broken_pairs(Q, K):  # an even number of neighbours differ
    return 2 * sum(math.comb(Q, broken) * math.exp(K * (Q - 2 * broken)) for broken in range(0, Q + 1, 2))


def _ring_in_single_precision(sites, coupling):
    t = np.float32(np.tanh(coupling))
    return np.float32(2 * np.cosh(coupling)) ** np.float32(sites) * (1 + t**sites)


def _energy_by_adding_and_rounding(sites):
    """One train of rank 1 for each pair, added; the sum is rounded."""
    s, one = torch.tensor([1.0, -1.0], dtype=torch.float64).reshape(1, 2, 1), torch.ones(1, 2, 1, dtype=torch.float64)
    total = [s, s, *[one] * (sites - 2)]
    for q in range(1, sites - 1):
        total = _difference(total, [s if k in (q, q + 1) else -one if k == 0 else one for k in range(sites)])
    for k in range(sites - 1):
        Q, R = torch.linalg.qr(total[k].flatten(0, 1))
        total[k], total[k + 1] = Q.reshape(len(total[k]), 2, -1), torch.tensordot(R, total[k + 1], 1)
    for k in range(sites - 1, 0, -1):
        U, sigma, Vh = torch.linalg.svd(total[k].flatten(1), full_matrices=False)
        rank = int((sigma > 1e-10 * sigma[0]).sum())
        total[k - 1] = torch.tensordot(total[k - 1], U[:, :rank] * sigma[:rank], 1)
        total[k] = Vh[:rank].reshape(rank, 2, -1)
    return total


def _energy_from_the_right(sites):  # the states of the bond in another order, in numpy
    core = np.zeros((3, 2, 3))
    core[0, :, 0] = core[2, :, 2] = 1
    core[0, :, 1] = core[1, :, 2] = 1, -1
    core = core[::-1, :, ::-1]
    return [core[2:], *[core] * (sites - 2), core[..., :1]]


def _energy_with_bonds_of_two_at_the_ends(n):
    s = torch.tensor([1.0, -1.0])
    first, last = torch.zeros(1, 2, 2), torch.zeros(2, 2, 1)
    first[0, :, 0], first[0, :, 1] = 1, s  # nothing yet; the last spin
    last[0, :, 0], last[1, :, 0] = s, 1  # the energy's last factor; done
    inner = torch.zeros(3, 2, 3)
    inner[0, :, 0] = inner[2, :, 2] = 1
    inner[0, :, 1] = inner[1, :, 2] = s
    return (first, inner[:2], *[inner] * (n - 4), inner[..., 1:], last) if n > 3 else (first, inner[:2, :, 1:], last)


RIGHT = {
    "tt_sum": [_sum_from_the_right, _sum_in_numpy, _sum_in_single_precision, _sum_of_halves],
    "tt_distance": [
        _distance_by_qr,
        _distance_by_one_ladder,
        _distance_from_the_right,
        _distance_in_single_precision,
    ],
    "ising_ring": [_ring_by_power, _ring_by_eigenvalues, _ring_by_broken_pairs, _ring_in_single_precision],
    "ising_energy": [
        _energy_by_adding_and_rounding,
        _energy_from_the_right,
        _energy_with_bonds_of_two_at_the_ends,
    ],
}
