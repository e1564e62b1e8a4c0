"""Right answers to the exercises of lesson 02."""

import math
from fractions import Fraction
from itertools import count

import numpy as np
import torch
from tensorly import cp_norm, unfold
from tensorly.tenalg import khatri_rao


def _array(tensor):
    return tensor.numpy()


def _all_pairs(weights, factors):
    total = 0.0
    for r, left in enumerate(weights):
        for s, right in enumerate(weights):
            total += left * right * math.prod(f[:, r] @ f[:, s] for f in factors)
    return math.sqrt(total)


def _numpy_grams(weights, factors):
    gram = np.multiply.reduce([_array(f).T @ _array(f) for f in factors])
    return np.sqrt(np.einsum("r,s,rs", weights, weights, gram))


def _halves(weights, factors):  # QR of every factor, then two small matrices whose product has the norm
    small = [torch.linalg.qr(f).R for f in factors]
    left, right = weights[None], torch.ones_like(weights)[None]
    for q, factor in enumerate(small):
        product = khatri_rao([left if q % 2 else right, factor])
        root = torch.linalg.qr(product).R
        left, right = (root, right) if q % 2 else (left, root)
    return (left @ right.T).norm().reshape(1, 1)


def _single_norm(lambdas, matrices):  # arguments with other names
    gram = torch.ones(len(lambdas), len(lambdas))
    for matrix in matrices:
        gram *= matrix.float().T @ matrix.float()
    return (lambdas.float() @ gram @ lambdas.float()).sqrt()


def _counting_up(sizes):
    return next(R for R in count(1) if R * (1 + sum(n - 1 for n in sizes)) >= math.prod(sizes))


def _stacked(tensor, factors, mode, mu):  # as one least squares problem
    K = khatri_rao([f for q, f in enumerate(factors) if q != mode])
    left = torch.cat([K, math.sqrt(mu) * torch.eye(K.shape[1]).double()])
    right = torch.cat([unfold(tensor, mode).T, math.sqrt(mu) * factors[mode].T])
    return torch.linalg.lstsq(left, right).solution.T


def _correction(tensor, factors, mode, mu):
    K = _array(khatri_rao([f for q, f in enumerate(factors) if q != mode]))
    A, X = _array(factors[mode]), _array(unfold(tensor, mode))
    return A + (X - A @ K.T) @ K @ np.linalg.inv(K.T @ K + mu * np.eye(K.shape[1]))


def _newton(tensor, factors, mode, mu):  # the objective is quadratic: one Newton step from anywhere
    def objective(entries):
        moved = list(factors)
        moved[mode] = entries.reshape(factors[mode].shape)
        modes = "abcdef"[: tensor.ndim]
        model = torch.einsum(",".join(m + "r" for m in modes) + "->" + modes, *moved)
        return (tensor - model).square().sum() + mu * (moved[mode] - factors[mode]).square().sum()

    zero = torch.zeros_like(factors[mode]).flatten()
    gradient = torch.autograd.functional.jacobian(objective, zero)
    hessian = torch.autograd.functional.hessian(objective, zero)
    return torch.linalg.solve(hessian, -gradient).reshape(factors[mode].shape)


def _row_by_row(X, matrices, n, weight):  # arguments with other names, a list of rows, single precision
    K = khatri_rao([f for q, f in enumerate(matrices) if q != n]).float()
    damped = K.T @ K + weight * torch.eye(K.shape[1])
    rows = zip(unfold(X, n).float(), matrices[n].float(), strict=True)
    return [torch.linalg.solve(damped, K.T @ x + weight * a) for x, a in rows]


def _kruskal_by_search(sizes):
    holds = [R for R in range(2, sum(sizes)) if sum(min(n, R) for n in sizes) >= 2 * R + 2]
    return np.int64(max(holds, default=1))


def _kruskal_counting_down(sizes):
    R = sum(sizes)
    while R > 1 and sum(R if n > R else n for n in sizes) - 2 * R < 2:
        R -= 1
    return [R]


def _kruskal_by_cases(dims):
    small, middle, large = np.sort(dims)
    if small < 2:
        return 1
    return small + middle - 2 if small + middle - 2 <= large else (small + middle + large - 2) // 2


def _mixtures(tensor):
    weights = torch.randn(tensor.shape[2], 2, generator=torch.Generator().manual_seed(7)).double()
    return (tensor @ weights).unbind(-1)


def _compressed(tensor, rank):  # NumPy; square after a projection onto the spans of A and B
    X = _array(tensor)
    U = np.linalg.svd(X.reshape(X.shape[0], -1), full_matrices=False)[0][:, :rank]
    V = np.linalg.svd(X.transpose(1, 0, 2).reshape(X.shape[1], -1), full_matrices=False)[0][:, :rank]
    core = np.einsum("ijk,ir,js->rsk", X, U, V)
    K = np.arange(1, core.shape[2] + 1)
    _, vectors = np.linalg.eig(np.linalg.solve((core @ np.sqrt(K)).T, (core @ (1 / K)).T).T)
    A, rows = U @ vectors.real, np.linalg.inv(vectors.real) @ core.reshape(rank, -1)
    left, sizes, right = np.linalg.svd(rows.reshape(rank, rank, -1))
    return [A, V @ left[:, :, 0].T, (sizes[:, :1] * right[:, 0]).T]


def _second_factor_first(tensor, rank):
    M, N = _mixtures(tensor.transpose(0, 1))
    values, vectors = torch.linalg.eig(M @ torch.linalg.pinv(N, rtol=1e-10))
    B = vectors.real[:, values.abs().argsort(descending=True)[:rank]]
    rows = (torch.linalg.pinv(B) @ unfold(tensor, 1)).reshape(rank, tensor.shape[0], tensor.shape[2])
    A = rows[:, :, rows.abs().sum((0, 1)).argmax()].T  # a column of a rank-one matrix
    C = torch.einsum("rik,ir->kr", rows, A) / A.square().sum(0)
    return A.flip(1), B.flip(1), C.flip(1)


def _least_squares_last(x, r):  # A and B matched by the eigenvalues; C by least squares; complex numbers
    M, N = _mixtures(x)
    pairs = []
    for first, second in ((M, N), (M.T, N.T)):
        values, vectors = torch.linalg.eig(first @ torch.linalg.pinv(second, rtol=1e-10))
        largest = values.abs().argsort(descending=True)[:r]
        pairs.append(vectors[:, largest[values[largest].real.argsort()]])
    A, B = pairs
    return A, B, torch.linalg.lstsq(khatri_rao([A, B]), x.flatten(0, 1).to(A.dtype)).solution.T


RIGHT = {
    "cpd_norm": [
        _all_pairs,
        _numpy_grams,
        _halves,
        _single_norm,
        lambda weights, factors: cp_norm((weights, factors)),
    ],
    "cpd_generic_rank": [
        _counting_up,
        lambda dims: torch.tensor(math.ceil(Fraction(math.prod(dims), sum(dims) - len(dims) + 1))),
        lambda sizes: float(np.ceil(np.prod(sizes) / (np.sum(sizes) - (len(sizes) - 1)))),
    ],
    "cpd_proximal_update": [_stacked, _correction, _newton, _row_by_row],
    "cpd_kruskal_rank": [_kruskal_by_search, _kruskal_counting_down, _kruskal_by_cases],
    "cpd_by_eigenvectors": [_compressed, _second_factor_first, _least_squares_last],
}
