"""The Gauss-Newton matrix J^T J of a CPD: from Gram matrices alone, as a matrix, as a map, and solved with.

The unknowns are all factors (N_q, R), one below the other. J is the Jacobian of the tensor's entries; it is never
formed (Tomasi and Bro 2006; Sorber, Van Barel and De Lathauwer 2013).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

DENSE = 1500  # unknowns up to which the normal equations are solved by a Cholesky factorization


class GaussNewton:
    """J^T J at given factors (N_q, R), the weights in them.

    With o(q) the Hadamard product of the Gram matrices of all modes but q, and o(q, p) of all but two, a direction D is
    mapped to D_q o(q) + A_q sum_p (o(q, p) * D_p^T A_p) in mode q: one product of [D_q, A_q] with a matrix (2 R, R).
    """

    def __init__(self, factors: Sequence[Tensor]) -> None:
        self.factors = [factor.contiguous() for factor in factors]
        self.sizes = [len(factor) for factor in factors]
        self.rank = factors[0].shape[1]
        grams = torch.stack([factor.mT @ factor for factor in factors])
        order = len(grams)

        def without(*modes: int) -> Tensor:
            return grams[[n for n in range(order) if n not in modes]].prod(0)

        self.others = torch.stack([without(q) for q in range(order)])
        self.pairs = torch.stack(
            [
                torch.stack([without(q, p) if p != q else torch.zeros_like(grams[0]) for p in range(order)])
                for q in range(order)
            ]
        )
        self._beside = torch.cat([torch.zeros_like(flat := torch.cat(self.factors)), flat], 1)
        self._turned = [factor.mT.contiguous() for factor in factors]

    def matrix(self) -> Tensor:
        """J^T J, (n, n) with n = R (N_1 + .. + N_Q); the unknowns factor by factor, each row by row."""
        starts = [self.rank * sum(self.sizes[:q]) for q in range(len(self.sizes) + 1)]
        matrix = self.others.new_zeros(starts[-1], starts[-1])
        for q, gram in enumerate(self.others):
            eye = torch.eye(self.sizes[q], dtype=gram.dtype, device=gram.device)
            matrix[starts[q] : starts[q + 1], starts[q] : starts[q + 1]] = torch.kron(eye, gram)
            for p in range(q + 1, len(self.sizes)):
                # d x / d a_q(i,r) and d x / d a_p(j,s) meet in a_q(i,s) a_p(j,r) times the other modes' Gram entry.
                block = torch.einsum("is,jr,rs->irjs", self.factors[q], self.factors[p], self.pairs[q, p])
                block = block.reshape(self.rank * self.sizes[q], -1)
                matrix[starts[q] : starts[q + 1], starts[p] : starts[p + 1]] = block
                matrix[starts[p] : starts[p + 1], starts[q] : starts[q + 1]] = block.mT
        return matrix

    def product(self, direction: Tensor) -> Tensor:
        """J^T J times a direction, both (N_1 + .. + N_Q, R), without that matrix."""
        parts = direction.split(self.sizes)
        mixed = torch.stack([turned @ part for turned, part in zip(self._turned, parts, strict=True)])
        right = torch.cat([self.others, (self.pairs * mixed.mT).sum(1)], 1)
        self._beside[:, : self.rank] = direction
        image = torch.empty_like(direction)
        left = self._beside.split(self.sizes)
        for block, matrix, out in zip(left, right, image.split(self.sizes), strict=True):
            torch.mm(block, matrix, out=out)
        return image

    def step(self, downhill: Tensor, damping: float, max_iter: int = 30, tol: float = 1e-2) -> Tensor:
        """The solution of (J^T J + damping I) step = downhill, (N_1 + .. + N_Q, R).

        Exact with up to 1,500 unknowns. With more, conjugate gradients end after `max_iter` products, or when the
        residual, in the norm of the preconditioner, has come down to `tol` of its first value: a Gauss-Newton step is a
        guess that the next one corrects.
        """
        if downhill.numel() <= DENSE:
            matrix = self.matrix()
            matrix.diagonal().add_(damping)
            lower, info = torch.linalg.cholesky_ex(matrix)
            if int(info) == 0:
                return torch.cholesky_solve(downhill.reshape(-1, 1), lower).reshape(downhill.shape)
            # Rounding made it indefinite.
            least: Tensor = torch.linalg.lstsq(matrix, downhill.reshape(-1, 1), driver="gelsd").solution
            return least.reshape(downhill.shape)
        return self.conjugate_gradients(downhill, damping, max_iter, tol)

    def conjugate_gradients(self, downhill: Tensor, damping: float, max_iter: int, tol: float) -> Tensor:
        """The same solution by conjugate gradients, preconditioned by the diagonal blocks."""
        eye = torch.eye(self.rank, dtype=downhill.dtype, device=downhill.device)
        blocks = torch.linalg.inv(self.others + (damping + 1e-14) * eye)

        def scale(rest: Tensor) -> Tensor:
            scaled = torch.empty_like(rest)
            for part, block, out in zip(rest.split(self.sizes), blocks, scaled.split(self.sizes), strict=True):
                torch.mm(part, block, out=out)
            return scaled

        step, rest = torch.zeros_like(downhill), downhill.clone()
        direction = scaled = scale(rest)
        energy = float((rest * scaled).sum())
        goal = tol**2 * energy
        for _ in range(max_iter):
            image = self.product(direction).add_(direction, alpha=damping)
            curvature = float((direction * image).sum())
            if not energy > goal or curvature <= 0:
                break
            step.add_(direction, alpha=energy / curvature)
            rest.sub_(image, alpha=energy / curvature)
            scaled = scale(rest)
            before, energy = energy, float((rest * scaled).sum())
            direction = scaled.add(direction, alpha=energy / before)
        return step
