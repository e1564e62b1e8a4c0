"""Exercises of `notebooks/20_compute_with_trains`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from tnlib.check.exercise import Exercise, Mistake
from tnlib.check.tensor_train import FORBIDDEN, HUGE, Train, full, random_train

_NOTEBOOK = "20_compute_with_trains"


def _sum(cores: Sequence[Tensor]) -> Tensor:
    row = torch.ones(1, 1, dtype=torch.float64)
    for core in cores:
        row = row @ core.sum(1)
    return row[0, 0]


def _entries(cores: Sequence[Tensor]) -> int:
    return math.prod(core.shape[1] for core in cores)


tt_sum = Exercise(
    "tt_sum",
    _NOTEBOOK,
    _sum,
    (
        {"cores": random_train((4, 3, 5), (2, 3), 1)},
        {"cores": random_train((2, 6, 3, 2), (2, 4, 2), 2)},
        {"cores": random_train((2,) * 16, (2,) * 15, 3, shift=0.5)},
    ),
    (
        Mistake(
            lambda cores: torch.stack([core.sum() for core in cores]).prod(),
            "Neighbours share a bond index: it has the same value in both cores, so it cannot be summed in each alone.",
        ),
        Mistake(lambda cores: _sum(cores) / _entries(cores), "That is the mean of the entries."),
        Mistake(
            lambda cores: full([core[:, :1] for core in cores]).sum(),
            "That is one entry: every mode's index must run over all its values.",
        ),
        Mistake(
            lambda cores: torch.stack([core.sum() for core in cores]).sum(),
            "That adds the numbers that are stored; an entry of the tensor is a product of matrices.",
        ),
    ),
    beyond=tuple({"cores": random_train(sizes, (2, 2), 20)} for sizes in ((600,) * 3, HUGE)),
    forbidden=FORBIDDEN,
)


def _inner(x: Sequence[Tensor], y: Sequence[Tensor]) -> Tensor:
    left = torch.ones(1, 1, dtype=torch.float64)
    for a, b in zip(x, y, strict=True):
        left = torch.einsum("cnb,cnd->bd", torch.einsum("ac,anb->cnb", left, a), b)
    return left[0, 0]


def _distance(x: Sequence[Tensor], y: Sequence[Tensor]) -> Tensor:
    return (_inner(x, x) - 2 * _inner(x, y) + _inner(y, y)).sqrt()


tt_distance = Exercise(
    "tt_distance",
    _NOTEBOOK,
    _distance,
    (
        {"x": random_train((4, 3, 5), (2, 3), 6), "y": random_train((4, 3, 5), (3, 2), 7)},
        {"x": random_train((3,) * 9, (2,) * 8, 8, shift=0.5), "y": random_train((3,) * 9, (3,) * 8, 9)},
    ),
    (
        Mistake(
            lambda x, y: (_inner(x, x).sqrt() - _inner(y, y).sqrt()).abs(),
            "That is the difference of the norms, not the norm of the difference.",
        ),
        Mistake(lambda x, y: _distance(x, y) ** 2, "That is the squared distance."),
        Mistake(
            lambda x, y: (_inner(x, x) + 2 * _inner(x, y) + _inner(y, y)).sqrt(),
            "That is the norm of the sum: check a sign.",
        ),
        Mistake(
            lambda x, y: (_inner(x, x) - _inner(x, y) + _inner(y, y)).abs().sqrt(),
            "Multiply the square of a difference out again: how often does the mixed term occur?",
        ),
        Mistake(
            lambda x, y: (_inner(x, x) + _inner(y, y)).sqrt(),
            "That would hold for orthogonal tensors; these two are not.",
        ),
    ),
    tolerance=1e-5,
    beyond=({"x": random_train(HUGE, (2, 2), 21), "y": random_train(HUGE, (1, 3), 22)},),
    forbidden=FORBIDDEN,
)


def _ring(sites: int, coupling: float) -> float:
    return (2 * math.cosh(coupling)) ** sites + (2 * math.sinh(coupling)) ** sites


ising_ring = Exercise(
    "ising_ring",
    _NOTEBOOK,
    _ring,
    (
        {"sites": 3, "coupling": 0.7},
        {"sites": 5, "coupling": -0.4},
        {"sites": 6, "coupling": 0.3},
        {"sites": 40, "coupling": 0.5},
    ),
    (
        Mistake(
            lambda sites, coupling: 2 * (2 * math.cosh(coupling)) ** (sites - 1),
            "That is the open chain: the ring has one more bond, between the last spin and the first.",
        ),
        Mistake(
            lambda sites, coupling: (2 * math.cosh(coupling)) ** sites,
            "You kept the larger eigenvalue; a trace is a sum over both.",
        ),
        Mistake(
            lambda sites, coupling: _ring(sites - 1, coupling),
            "One factor is missing: how many bonds has a ring of that many spins?",
        ),
        Mistake(
            lambda sites, coupling: (2 * math.cosh(coupling)) ** sites + abs(2 * math.sinh(coupling)) ** sites,
            "Right for positive couplings; one of the eigenvalues can be negative.",
        ),
        Mistake(
            lambda sites, coupling: math.cosh(coupling) ** sites + math.sinh(coupling) ** sites,
            "Off by a power of two: check the eigenvalues of the 2 x 2 transfer matrix.",
        ),
    ),
)


def _energy_train(sites: int, *, keep: float = 0.0, field: bool = False, scale: float = 1.0) -> Train:
    """The states of the bond: nothing yet, the last spin (and with `keep` all before), the energy so far."""
    s, one = torch.tensor([scale, -scale], dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    core = torch.zeros(3, 2, 3, dtype=torch.float64)
    core[0, :, 0] = core[2, :, 2] = one
    core[0, :, 1], core[1, :, 2], core[1, :, 1] = s, s / scale, keep * one
    if field:
        core[0, :, 1], core[1, :, 2], core[0, :, 2] = 0 * s, 0 * s, s
    return Train([core[:1], *[core] * (sites - 2), core[..., 2:]])


def _weights(sites: int) -> Train:
    s = torch.tensor([1.0, -1.0], dtype=torch.float64)
    T, delta = torch.exp(torch.outer(s, s)), torch.eye(2, dtype=torch.float64)
    return Train([T[None], *[torch.einsum("si,it->sit", delta, T)] * (sites - 2), delta[:, :, None]])


def _read_energy(cores: Sequence[Tensor], sites: int) -> Tensor:
    """The tensor, and of a large one its contractions with vectors: mean energies of spins that are independent."""
    cores = [torch.as_tensor(core) for core in cores]
    if len(cores) != sites:
        raise ValueError(f"{len(cores)} cores for {sites} spins")
    if any(core.ndim != 3 or core.shape[1] != 2 for core in cores):
        raise ValueError(f"shapes {[tuple(core.shape) for core in cores]}, expected (bond, 2, bond)")
    bonds = [1, *(core.shape[0] for core in cores[1:]), 1]
    if [(core.shape[0], core.shape[2]) for core in cores] != list(itertools.pairwise(bonds)):
        raise ValueError(f"bonds of neighbours differ, or do not end in 1: {[tuple(core.shape) for core in cores]}")
    if max(bonds) > 3:
        raise ValueError(f"a bond of {max(bonds)}, though 3 are enough")
    if sites <= 9:
        return full(cores)
    means = 2 * torch.rand(sites, 20, generator=torch.Generator().manual_seed(sites), dtype=torch.float64) - 1
    state = torch.ones(20, 1, dtype=cores[0].dtype)
    for core, mean in zip(cores, means.to(state.dtype), strict=True):
        chances = torch.stack([1 + mean, 1 - mean], 1) / 2
        state = torch.einsum("pa,pi,aib->pb", state, chances, core)
    return state[:, 0]


ising_energy = Exercise(
    "ising_energy",
    _NOTEBOOK,
    _energy_train,
    ({"sites": 3}, {"sites": 4}, {"sites": 9}),
    (
        Mistake(
            lambda sites: _energy_train(sites, keep=1.0),
            "That adds every pair of spins: after a pair is done its first spin must be forgotten.",
        ),
        Mistake(
            lambda sites: _energy_train(sites, field=True),
            "That is the sum of the spins, not of products of neighbours.",
        ),
        Mistake(lambda sites: _energy_train(sites, scale=2.0), "Twice too large: each pair of neighbours counts once."),
        Mistake(lambda sites: _energy_train(sites, scale=-1.0), "The sign is wrong: equal neighbours add +1."),
        Mistake(_weights, "These are the weights, exponentials of the energy with K = 1."),
        Mistake(
            lambda sites: Train([*_energy_train(sites - 1), torch.ones(1, 2, 1, dtype=torch.float64)]),
            "The last pair is missing.",
        ),
    ),
    reading=_read_energy,
    beyond=({"sites": 24}, {"sites": 40}),
    forbidden="With so many spins the tensor is too large to form: write the cores down.",
)

EXERCISES = (tt_sum, tt_distance, ising_ring, ising_energy)
