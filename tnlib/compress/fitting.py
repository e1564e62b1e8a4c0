"""Factors of any format, fitted to a kernel in the norm of a layer's inputs: all at once, in turns, or by an SVD."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from tnlib import layers
from tnlib.compress.preconditioner import CPBlocks, Solve
from tnlib.compress.quadratic import Coordinates, Quadratic
from tnlib.compress.terms import Terms
from tnlib.layers.stages import balanced, groups_of

STEPS = 15  # of Levenberg-Marquardt
PRODUCTS = (25, 10)  # of conjugate gradients in each of them: plain, and preconditioned
QUICK = (3, 12)  # likewise, for each candidate of a curve
TOLERANCE = 1e-3  # a step that gains less, relative to the error, is the last
Kernel = Callable[..., Tensor]


def fit_factors(
    layer: layers.Factorized,
    target: Tensor,
    moment: Tensor,
    steps: int = STEPS,
    products: int | None = None,
    *,
    outputs: Tensor | None = None,
    method: Literal["nls", "als"] = "nls",
    tol: float = TOLERANCE,
    preconditioned: bool = True,
    rounding: float = 0.0,
) -> tuple[list[Tensor], list[float]]:
    """Factors whose kernel K is near a target in the norm of a moment, from the layer's own on.

    Minimizes tr(outputs (K - target) moment (K - target)^T), summed over groups, by Levenberg-Marquardt: K is linear in
    each factor, whatever the format, so its Jacobian is applied by computing K once for each factor, and transposed by
    automatic differentiation. Conjugate gradients solve for a step. Where the format allows it, the factors are sought
    in coordinates in which the input channels are white, and errors of all outputs count alike. The best matrix of low
    rank comes from an SVD in these coordinates, without any step. With `als` factors are fitted one after the other
    instead, each by linear least squares, as Kalle et al. (2025, arXiv 2511.04494) fit CP and Tucker-2 in the norm of
    the inputs.

    Args:
        layer: gives format, rank and start; it is untouched.
        target: (groups, outputs, inputs window).
        moment: of the inputs, symmetric positive definite, (groups, inputs window, inputs window).
        steps: at most so many, with `als` sweeps over all factors.
        products: with the normal matrix in one step, or for one factor, at most; by default 25, preconditioned 10.
        outputs: how much squared errors of the outputs count, symmetric positive definite, (groups, outputs, outputs);
            None: all alike.
        method: `nls`, all factors at once, or `als`, alternating least squares.
        tol: a step that gains less, relative to the error, is the last.
        preconditioned: for CP convolutions of one group, whether conjugate gradients are preconditioned by about the
            diagonal blocks of the normal matrix (`CPBlocks`): as many products then go further.
        rounding: for CP convolutions of one group, by `nls`: how much the squares of the terms in the same norm count
            beside the squared error. Terms that cancel are larger than what they make, and so is what int8 rounds off.

    Returns:
        Factors in the order of `layer.factors()`, float64, of equal norms, and the squared error relative to the
        target's squared norm, with `rounding` of the terms added: at the start and after each step. It never grows.

    Raises:
        ValueError: an unknown method; a norm that is not positive definite; a rounding that is no number of at least 0.
    """
    if method not in ("nls", "als"):
        raise ValueError(f"unknown method {method!r}; expected nls or als")
    if not rounding >= 0:
        raise ValueError(f"rounding: {rounding} is no number of at least 0")
    given = Quadratic(target, moment, outputs)
    coordinates = Coordinates(layer, given)
    problem, factors = coordinates.turned(given), coordinates.to([f.detach().double() for f in layer.factors()])
    with torch.no_grad():
        kernel, plain = _kernel_of(layer), PRODUCTS[0] if products is None else products
        if method == "als":
            factors, errors = _alternate(kernel, factors, problem, steps, plain, tol)
        elif isinstance(layer, layers.SVDLinear):
            factors, errors = _best_of_rank(kernel, factors, problem)
        else:
            blocks, number, terms = None, plain, None
            if isinstance(layer, layers.CPConv) and groups_of(layer) == 1:
                terms = Terms(problem, rounding) if rounding else None
                if preconditioned:
                    blocks, number = CPBlocks(layer, problem.moment), PRODUCTS[1] if products is None else products
            factors, errors = _levenberg_marquardt(kernel, factors, problem, steps, number, tol, blocks, terms)
    return balanced(coordinates.back(factors)), errors


def _best_of_rank(kernel: Kernel, factors: list[Tensor], problem: Quadratic) -> tuple[list[Tensor], list[float]]:
    """As `fit_factors`, by Eckart and Young, of a matrix in coordinates in which its error is the Frobenius norm."""
    rank = len(factors[0])
    u, s, vh = torch.linalg.svd(problem.target[0], full_matrices=False)
    found = [vh[:rank], u[:, :rank] * s[:rank]]
    before, after = (problem.look(kernel(*made))[0] for made in (factors, found))
    return (found, [before, after]) if after < before else (factors, [before])


def _levenberg_marquardt(
    kernel: Kernel,
    factors: Sequence[Tensor],
    problem: Quadratic,
    steps: int,
    products: int,
    tol: float,
    blocks: CPBlocks | None,
    terms: Terms | None,
) -> tuple[list[Tensor], list[float]]:
    """As `fit_factors`. The damping of a factor is relative to what the normal matrix has on its diagonal there."""
    factors = balanced(factors)

    def look(at: Sequence[Tensor]) -> tuple[float, Tensor, Pull]:
        pull = Pull(kernel, at)
        error, weighed = problem.look(pull.kernel)
        return error + (0.0 if terms is None else terms.penalty(at)), weighed, pull

    error, weighed, pull = look(factors)
    errors, damping = [error], 1e-3
    for _ in range(steps):
        scales = _scales(kernel, factors, problem)
        uphill, bent = pull(weighed), None
        if terms is not None:
            slope, bent = terms.slope(factors)
            uphill = [part + more for part, more in zip(uphill, slope, strict=True)]
        downhill = [-part for part in uphill]
        for _ in range(5):
            added = [damping * scale for scale in scales]
            solve = _scaled([1 / (s * (1 + damping)) for s in scales]) if blocks is None else blocks.at(factors, added)
            both = added if bent is None else [a + b for a, b in zip(added, bent, strict=True)]
            normal = _Normal(kernel, factors, problem, pull, both)
            step = _conjugate_gradients(normal, downhill, solve, products)
            moved = [factor + part for factor, part in zip(factors, step, strict=True)]
            trial = look(moved)
            if trial[0] < error:
                break
            damping *= 8
        else:
            break
        gain = (error - trial[0]) / error
        factors, (error, weighed, pull) = moved, trial
        errors.append(error)
        damping = max(damping / 3, 1e-7)
        if gain < tol:
            break
    return list(factors), errors


def _alternate(
    kernel: Kernel, factors: Sequence[Tensor], problem: Quadratic, steps: int, products: int, tol: float
) -> tuple[list[Tensor], list[float]]:
    """As `fit_factors`, one factor at a time from where it is, so that no sweep makes the error larger."""
    factors = balanced(factors)
    errors = [problem.look(kernel(*factors))[0]]
    for _ in range(steps):
        for k in range(len(factors)):
            before, behind = factors[:k], factors[k + 1 :]

            def one(part: Tensor, before: Sequence[Tensor] = before, behind: Sequence[Tensor] = behind) -> Tensor:
                return kernel(*before, part, *behind)

            pull = Pull(one, [factors[k]])
            normal = _Normal(one, [factors[k]], problem, pull, [0.0])
            downhill = [-part for part in pull(problem.look(pull.kernel)[1])]
            (step,) = _conjugate_gradients(normal, downhill, list, products, tol=1e-6)
            factors = [*before, factors[k] + step, *behind]
        factors = balanced(factors)
        errors.append(problem.look(kernel(*factors))[0])
        if errors[-2] - errors[-1] < tol * errors[-2]:
            break
    return list(factors), errors


class Pull:
    """The transposed Jacobian of a kernel at its factors: `kernel` there, and products with what has its shape."""

    def __init__(self, kernel: Kernel, factors: Sequence[Tensor]) -> None:
        with torch.enable_grad():
            self._leaves = [factor.detach().requires_grad_() for factor in factors]
            self._made = kernel(*self._leaves)
        self.kernel = self._made.detach()

    def __call__(self, weighed: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad(self._made, self._leaves, weighed, retain_graph=True))


class _Normal:
    """A direction multiplied by J^T H J + damping, H the Hessian of a problem."""

    def __init__(
        self,
        kernel: Kernel,
        factors: Sequence[Tensor],
        problem: Quadratic,
        pull: Pull,
        damping: Sequence[float | Tensor],
    ) -> None:
        self.kernel, self.factors, self.problem, self.pull, self.damping = kernel, factors, problem, pull, damping

    def __call__(self, direction: Sequence[Tensor]) -> list[Tensor]:
        image = self.pull(self.problem.weigh(tangent(self.kernel, self.factors, direction)))
        return [part + d * v for part, d, v in zip(image, self.damping, direction, strict=True)]


def tangent(kernel: Kernel, factors: Sequence[Tensor], direction: Sequence[Tensor]) -> Tensor:
    """The Jacobian of a kernel that is linear in each of its factors, times a direction."""
    total: Any = 0
    for k, part in enumerate(direction):
        total = total + kernel(*factors[:k], part, *factors[k + 1 :])
    return total  # type: ignore[no-any-return]


def _conjugate_gradients(
    normal: _Normal, right: list[Tensor], solve: Solve, products: int, tol: float = 1e-3
) -> list[Tensor]:
    """About the solution of normal(x) = right, from zero; `solve` is the preconditioner."""

    def dot(a: list[Tensor], b: list[Tensor]) -> float:
        return float(torch.stack([(x * y).sum() for x, y in zip(a, b, strict=True)]).sum())

    solution, rest = [torch.zeros_like(part) for part in right], right
    scaled = solve(rest)
    direction, energy = scaled, dot(rest, scaled)
    goal = tol**2 * energy
    for _ in range(products):
        if not energy > goal:
            break
        image = normal(direction)
        curvature = dot(direction, image)
        if not curvature > 0:
            break
        length = energy / curvature
        solution = [x + length * d for x, d in zip(solution, direction, strict=True)]
        rest = [r - length * i for r, i in zip(rest, image, strict=True)]
        scaled = solve(rest)
        before, energy = energy, dot(rest, scaled)
        direction = [z + energy / before * d for z, d in zip(scaled, direction, strict=True)]
    return solution


def _scaled(scales: Sequence[float]) -> Solve:
    """Multiplication by one number for each factor."""
    return lambda parts: [scale * part for scale, part in zip(scales, parts, strict=True)]


def _scales(kernel: Kernel, factors: Sequence[Tensor], problem: Quadratic) -> list[float]:
    """About the mean diagonal entry of the normal matrix in each factor: one random direction tells."""
    scales = []
    for k, factor in enumerate(factors):
        drawn = torch.randn(factor.shape, generator=torch.Generator().manual_seed(k), dtype=torch.float64)
        image = kernel(*factors[:k], drawn.to(factor), *factors[k + 1 :])
        scales.append(max(problem.square(image) / factor.numel(), 1e-300))
    return scales


def _kernel_of(layer: layers.Factorized) -> Kernel:
    """The layer's kernel, (groups, outputs, inputs window), as a function of its factors."""
    copied, groups = copy.deepcopy(layer), groups_of(layer)
    owners = {
        id(p): (module, name) for module in copied.modules() for name, p in module.named_parameters(recurse=False)
    }
    places = [owners[id(factor)] for factor in copied.factors()]
    for module, name in places:  # plain attributes are set a hundred times faster than `functional_call` puts them in
        delattr(module, name)

    def kernel(*factors: Tensor) -> Tensor:
        for (module, name), factor in zip(places, factors, strict=True):
            setattr(module, name, factor)
        by_group: Tensor = copied.dense_weight().unflatten(0, (groups, -1)).flatten(2)
        return by_group

    return kernel
