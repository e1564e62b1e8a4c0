"""What makes the normal equations of a CPD's factors well conditioned: their diagonal blocks, about."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import torch
from torch import Tensor

from tnlib import layers

Solve = Callable[[Sequence[Tensor]], list[Tensor]]


class CPBlocks:
    """The diagonal blocks of J^T M J of a CP convolution's kernel, solved with; M the moment of its patches.

    Let F_j (R, n_j) be the factors of the input's modes, channels and window, and B (T, R) that of the outputs. The
    block of B is exactly I (x) V M V^T, with V (R, n_1 n_2 ..) the products of the other factors' rows. Those of F_j
    are about (B^T B * F_i M_i F_i^T * ..) (x) M_j, with * entry by entry over all modes i but j, if M is about the
    Kronecker product of its partial traces M_j. Kronecker products are solved with by the eigenvectors of their two
    factors.

    Args:
        layer: gives the sizes of the modes; a convolution of one group.
        moment: (1, n, n), n = n_1 n_2 ..
    """

    def __init__(self, layer: layers.CPConv, moment: Tensor) -> None:
        self.moment = moment[0]
        self.sizes = [factor[0].numel() for factor in layer.factors()[:-1]]
        size, modes = len(self.moment), len(self.sizes)
        mean = float(self.moment.diagonal().sum()) / size
        self.traces, by_mode = [], self.moment.reshape(*self.sizes, *self.sizes)
        for j, n in enumerate(self.sizes):
            second = [modes + i if i == j else i for i in range(modes)]
            trace = torch.einsum(by_mode, [*range(modes), *second], [j, modes + j])
            self.traces.append(trace * n / size / mean)
        self.mean = mean
        self.own = [torch.linalg.eigh(trace) for trace in self.traces]

    def at(self, factors: Sequence[Tensor], damping: Sequence[float]) -> Solve:
        """The map from a gradient to about (J^T M J + damping)^-1 of it, at these factors."""
        flat = [factor.flatten(1) for factor in factors]
        inner = [f @ trace @ f.mT for f, trace in zip(flat[:-1], self.traces, strict=True)]
        outer, rows = flat[-1].mT @ flat[-1], flat[0]
        for f in flat[1:-1]:
            rows = (rows[:, :, None] * f[:, None]).flatten(1)
        blocks = [outer * prod(inner[:j] + inner[j + 1 :]) * self.mean for j in range(len(inner))]
        blocks.append(rows @ self.moment @ rows.mT)
        one = flat[-1].new_ones(1)
        solvers = []
        for block, (values, vectors), added in zip(blocks, [*self.own, (one, None)], damping, strict=True):
            weights, turn = torch.linalg.eigh(block)
            spectrum = weights.clamp_min(0)[:, None] * values.clamp_min(0) + added
            solvers.append((turn, vectors, 1 / spectrum.clamp_min(1e-12 * float(spectrum.max()) + 1e-300)))

        def solve(parts: Sequence[Tensor]) -> list[Tensor]:
            solved = []
            for part, (turn, vectors, inverse) in zip(parts, solvers, strict=True):
                if vectors is None:
                    solved.append((((part.flatten(1) @ turn) * inverse.mT) @ turn.mT).reshape(part.shape))
                else:
                    middle = (turn.mT @ part.flatten(1) @ vectors) * inverse
                    solved.append((turn @ middle @ vectors.mT).reshape(part.shape))
            return solved

        return solve
