"""Terms of a CPD that cancel: what they cost where each is rounded, as a penalty for `fitting`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tnlib.compress.quadratic import Quadratic


class Terms:
    """The squares of a CP convolution's terms in the norm of a problem, summed, beside the squared error of their sum.

    Term r is b_r v_r^T, b_r what it gives the outputs and v_r what it takes of the patches: its square is
    (b_r^T O b_r) (v_r^T M v_r). Channels between factors share one scale in int8, whose steps are the finer the less
    they carry, so that what rounding costs is about proportional to the sum.

    Args:
        problem: without a norm of outputs, whose coordinates have taken it in; one group.
        rounding: how much the sum counts.
    """

    def __init__(self, problem: Quadratic, rounding: float) -> None:
        self.moment, self.outputs, self.rounding = problem.moment[0], problem.outputs, rounding
        self.whole = problem.square(problem.target) or 1.0

    def penalty(self, factors: Sequence[Tensor]) -> float:
        """Relative to the target's square, as the error is."""
        return float(self._squares(factors).sum()) * self.rounding / self.whole

    def slope(self, factors: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Half the gradient in each factor, and half the curvature along each term's part of it, for broadcasting."""
        with torch.enable_grad():
            leaves = [factor.detach().requires_grad_() for factor in factors]
            squares = self._squares(leaves)
            gradients = torch.autograd.grad(squares.sum() * self.rounding / 2, leaves)
        bent, squares = [], squares.detach() * self.rounding
        for factor in factors[:-1]:
            size = factor.flatten(1).square().sum(1)
            bent.append((squares / size.clamp_min(1e-300)).reshape(-1, *[1] * (factor.ndim - 1)))
        size = factors[-1].flatten(1).square().sum(0)
        bent.append((squares / size.clamp_min(1e-300)).reshape(1, -1, *[1] * (factors[-1].ndim - 2)))
        return list(gradients), bent

    def _squares(self, factors: Sequence[Tensor]) -> Tensor:
        """Of each term, (R,)."""
        rows = factors[0].flatten(1)
        for factor in factors[1:-1]:
            rows = (rows[:, :, None] * factor.flatten(1)[:, None]).flatten(1)
        last = factors[-1].flatten(1)
        weighed = last if self.outputs is None else self.outputs[0] @ last
        return (last * weighed).sum(0) * ((rows @ self.moment) * rows).sum(1)
