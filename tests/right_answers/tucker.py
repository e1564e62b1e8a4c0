"""Right answers to the exercises of lesson 03."""

import functools
import itertools
import math

import numpy as np
import torch

from tnlib import decompose


def _array(tensor):
    return tensor.numpy()


def _measured(shape):
    X = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return [torch.linalg.matrix_rank(X.movedim(n, 0).flatten(1)) for n in range(X.ndim)]


def _columns(sizes):  # an argument with another name
    ranks = []
    for n, size in enumerate(sizes):
        columns = functools.reduce(lambda a, b: a * b, sizes[:n] + sizes[n + 1 :])
        ranks.append(size if size < columns else columns)
    return ranks


def _longest_only(shape):
    ranks, longest = np.array(shape), int(np.argmax(shape))
    ranks[longest] = min(shape[longest], np.prod(np.delete(shape, longest)))
    return ranks


def _jacobian(shape, ranks):
    generator = torch.Generator().manual_seed(1)
    core, *factors = (torch.randn(*s, generator=generator).double() for s in [ranks, *zip(shape, ranks, strict=True)])

    def build(core, *factors):
        for factor in factors:
            core = torch.tensordot(core, factor, dims=([0], [1]))
        return core.flatten()

    blocks = torch.autograd.functional.jacobian(build, (core, *factors))
    return torch.linalg.matrix_rank(torch.cat([block.flatten(1) for block in blocks], 1))


def _grassmann(shape, ranks):
    return float(math.prod(ranks) + sum(r * (n - r) for n, r in zip(shape, ranks, strict=True)))


def _products(shape, ranks):
    I, T = np.array(shape), np.array(ranks)
    return np.prod(T, keepdims=True) + I @ T - T @ T


def _truncated(kernel, budget):
    T, S, kh, kw = kernel.shape
    errors = {}
    for a, b in itertools.product(range(1, min(T, S * kh * kw) + 1), range(1, min(S, T * kh * kw) + 1)):
        if T * a + a * b * kh * kw + S * b <= budget:
            part = decompose.tucker(kernel, (a, b), modes=(0, 1), method="hosvd")
            errors[a, b] = float((kernel - part.to_tensor()).norm())
    return min(errors, key=errors.get)


def _gram_arrays(kernel, budget):
    K = _array(kernel)
    T, S, kh, kw = K.shape
    grams = np.einsum("tshw,xshw->tx", K, K), np.einsum("tshw,txhw->sx", K, K)
    U, V = (np.linalg.eigh(gram).eigenvectors[:, ::-1] for gram in grams)
    best, pair = -1.0, None
    for b in range(1, S + 1):
        for a in range(1, T + 1):
            kept = np.sum(np.einsum("tshw,ta,sb->abhw", K, U[:, :a], V[:, :b]) ** 2)
            if T * a + a * b * kh * kw + S * b <= budget and kept > best:
                best, pair = kept, [a, b]
    return np.array(pair)


def _cumulative_single(weights, parameters):  # float32, arguments with other names
    K = weights.float()
    U, V = (torch.linalg.svd(K.movedim(m, 0).flatten(1))[0] for m in (0, 1))
    lost = (K**2).sum() - torch.einsum("tshw,ta,sb->abhw", K, U, V).square().sum((2, 3)).cumsum(0).cumsum(1)
    a, b = torch.meshgrid(*(torch.arange(1, n + 1) for n in K.shape[:2]), indexing="ij")
    size = K.shape[0] * a + a * b * K[0, 0].numel() + K.shape[1] * b
    best = lost.where(size <= parameters, math.inf).argmin()
    return torch.stack([best // lost.shape[1], best % lost.shape[1]]) + 1


def _by_exchange(shape, ranks):
    key = [(n + t) / (1 - t / n) if t < n else math.inf for n, t in zip(shape, ranks, strict=True)]
    sizes, total = np.array(shape), 0
    for mode in np.argsort(key):
        total += (shape[mode] + ranks[mode]) * np.prod(sizes)
        sizes[mode] = ranks[mode]
    return total


def _by_subsets(shape, ranks):
    """The least cost of reaching each set of finished modes."""

    @functools.cache
    def least(done):
        return min((least(done - {n}) + step(done - {n}, n) for n in done), default=0)

    def step(done, mode):
        entries = math.prod(ranks[n] if n in done else shape[n] for n in range(len(shape)))
        return (shape[mode] + ranks[mode]) * entries

    return float(least(frozenset(range(len(shape)))))


def _recursive(sizes, ranks):
    modes = list(zip(sizes, ranks, strict=True))

    def cost(left, done):
        entries = done * math.prod(n for n, _ in left)
        costs = [(n + t) * entries + cost(left[:i] + left[i + 1 :], done * t) for i, (n, t) in enumerate(left)]
        return min(costs) if costs else 0

    return torch.tensor([cost(modes, 1)])


def _projecting(tensor, rel_error):  # the tensor keeps its size
    total, X, ranks = (rel_error * np.linalg.norm(_array(tensor))) ** 2, _array(tensor), []
    for n in range(X.ndim):
        matrix = np.moveaxis(X, n, 0).reshape(X.shape[n], -1)
        energies, U = np.linalg.eigh(matrix @ matrix.T)  # ascending
        share = (total - np.linalg.norm(_array(tensor) - X) ** 2) / (X.ndim - n)
        dropped = min(int(np.sum(np.cumsum(energies) <= share)), len(energies) - 1)
        ranks.append(X.shape[n] - dropped)
        kept = U[:, dropped:] @ (U[:, dropped:].T @ matrix)
        X = np.moveaxis(kept.reshape(np.moveaxis(X, n, 0).shape), 0, n)
    return ranks


def _search_up(tensor, rel_error):
    core, left, ranks = tensor.clone(), (rel_error * tensor.norm()).square(), []
    for n in range(tensor.ndim):
        U, s, _ = torch.linalg.svd(core.movedim(n, 0).flatten(1), full_matrices=False)
        rank = 1
        while (s[rank:] ** 2).sum() > left / (tensor.ndim - n):
            rank += 1
        left = left - (s[rank:] ** 2).sum()
        core = torch.tensordot(core, U[:, :rank], dims=([n], [0])).movedim(-1, n)
        ranks.append(rank)
    return core.shape


def _single(X, epsilon):  # float32, arguments with other names
    core, total = X.float(), epsilon**2 * X.float().square().sum()
    for n in range(X.ndim):
        spent = X.float().square().sum() - core.square().sum()
        U, s, _ = torch.linalg.svd(core.transpose(0, n).flatten(1), full_matrices=False)
        tails = s.square().sum() - s.square().cumsum(0)
        rank = 1 + int((tails[:-1] > (total - spent) / (X.ndim - n)).sum())
        core = torch.einsum("a...,ar->r...", core.transpose(0, n), U[:, :rank]).transpose(0, n)
    return torch.tensor(core.shape)


RIGHT = {
    "generic_multilinear_rank": [_measured, _columns, _longest_only],
    "tucker_free_parameters": [_jacobian, _grassmann, _products],
    "tucker2_ranks": [_truncated, _gram_arrays, _cumulative_single],
    "cheapest_st_hosvd": [_by_exchange, _by_subsets, _recursive],
    "st_hosvd_ranks": [_projecting, _search_up, _single],
}
