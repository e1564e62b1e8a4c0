"""Right answers to the exercises of lesson 08."""

import math

import numpy as np
import torch
from scipy.optimize import minimize_scalar


def _by_loop(weights, factors):
    total = 0.0
    for r, weight in enumerate(weights):
        term = weight**2
        for factor in factors:
            term = term * (factor[:, r] ** 2).sum()
        total += term
    return total


def _by_diagonals(weights, factors):
    grams = [np.asarray(factor).T @ np.asarray(factor) for factor in factors]
    return (np.asarray(weights) ** 2 * np.prod([np.diag(gram) for gram in grams], axis=0)).sum(keepdims=True)


def _moved_into_one(coefficients, matrices):
    first = matrices[0].float() * coefficients.float()
    size = first.square().sum(0)
    for matrix in matrices[1:]:
        size = size * matrix.float().square().sum(0)
    return size.sum()


def _by_counting(rank):
    from tnlib import measure, networks
    from tnlib.layers import factorize

    model = networks.charnet().eval()
    for name in ("conv2", "conv3"):
        small = factorize(model.get_submodule(name), "cp", rank, weights="fresh")
        model.set_submodule(name, small)
    return measure.cost(model, (1, 1, 24, 24)).macs


def _by_formula(R):
    second = R * (48 * 256 + 9 * 128 + 9 * 64 + 128 * 64)
    third = R * (64 * 64 + 8 * 8 + 8 + 512)
    return 1_990_656 + 18_432 + second + third


def _from_meta(rank):
    total = 16 * 16 * 96 * 81 + 144 * 128
    for inputs, outputs, side, window in [(48, 128, 16, 9), (64, 512, 8, 8)]:
        left = side - (window - 1)
        sizes = np.array([inputs, window, window, outputs])
        total = total + rank * sizes @ [side**2, side * left, left**2, left**2]
    return total


def _by_tensor_power(cosine):
    a, c = np.array([1.0, 0.0]), np.array([cosine, math.sqrt(1 - cosine**2)])
    best = 0.0
    for angle in np.linspace(0, np.pi, 60):
        u = np.array([np.cos(angle), np.sin(angle)])
        for _ in range(4000):
            image = (a @ u) ** 2 * a + (c @ u) ** 2 * c + 0.2 * u
            u = image / np.linalg.norm(image)
        best = max(best, abs((a @ u) ** 3 + (c @ u) ** 3))
    return best


def _by_scipy(rho):
    angle = math.acos(rho)
    starts = np.linspace(-np.pi, np.pi, 41)
    found = [
        minimize_scalar(
            lambda u: -abs(math.cos(u) ** 3 + math.cos(angle - u) ** 3),
            bounds=(start - 0.2, start + 0.2),
            method="bounded",
            options={"xatol": 1e-10},
        ).fun
        for start in starts
    ]
    return -min(found)


def _by_gradients(cosine):
    u = torch.linspace(0, math.pi, 400, dtype=torch.float64).requires_grad_()
    other = math.acos(cosine)
    for _ in range(200):
        value = u.cos() ** 3 + (other - u).cos() ** 3
        (slope,) = torch.autograd.grad(value.abs().sum(), u)
        with torch.no_grad():
            u += 0.2 * slope
    return [float((u.cos() ** 3 + (other - u).cos() ** 3).abs().max())]


def _columns(factors, direction):
    """Term by term."""
    rank, order = factors[0].shape[1], len(factors)
    result = [torch.zeros_like(factor) for factor in factors]
    for r in range(rank):
        for s in range(rank):
            dots = [factors[m][:, r] @ factors[m][:, s] for m in range(order)]
            for n in range(order):
                rest = math.prod(float(dots[m]) for m in range(order) if m != n)
                result[n][:, r] += rest * direction[n][:, s]
                for m in range(order):
                    if m != n:
                        others = math.prod(float(dots[k]) for k in range(order) if k not in (m, n))
                        result[n][:, r] += others * (factors[m][:, r] @ direction[m][:, s]) * factors[n][:, s]
    return result


def _in_numpy(factors, direction):
    A, D = [f.numpy() for f in factors], [d.numpy() for d in direction]
    grams, mixed = [a.T @ a for a in A], [a.T @ d for a, d in zip(A, D, strict=True)]
    out = []
    for n in range(len(A)):
        keep = [m for m in range(len(A)) if m != n]
        image = D[n] @ np.prod([grams[m] for m in keep], axis=0)
        for m in keep:
            rest = [grams[k] for k in keep if k != m]
            image += A[n] @ (np.prod([*rest, np.ones_like(grams[0])], axis=0) * mixed[m].T)
        out.append(image)
    return out


def _by_difference(points, steps):
    """The derivative of the Gram form of the gradient, exact by autograd on small matrices."""
    A = [p.clone().requires_grad_() for p in points]
    moved = [p + 0 for p in points]

    def inner(left, right):
        return torch.stack([x.mT @ y for x, y in zip(left, right, strict=True)]).prod(0).sum()

    def along(B):
        total = 0
        for m, step in enumerate(steps):
            total = total + inner(B, [*moved[:m], step, *moved[m + 1 :]])
        return total

    return torch.autograd.grad(along(A), A)


RIGHT = {
    "cp_term_energy": [_by_loop, _by_diagonals, _moved_into_one],
    "char_network_macs": [_by_counting, _by_formula, _from_meta],
    "greedy_first_term": [_by_tensor_power, _by_scipy, _by_gradients],
    "cp_gauss_newton_product": [_columns, _in_numpy, _by_difference],
}
