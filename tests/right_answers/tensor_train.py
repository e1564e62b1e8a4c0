"""Right answers to the exercises of lesson 04."""

import functools
import itertools
import math

import numpy as np
import torch

from tnlib import decompose


def _array(tensor):
    return tensor.numpy()


def _entry_from_the_right(cores, index):
    column = torch.ones(1, dtype=torch.float64)
    for core, i in zip(reversed(cores), reversed(index), strict=True):
        column = core[:, i] @ column
    return column  # shape (1,)


def _entry_in_numpy(train, where):  # arguments with other names
    return np.linalg.multi_dot([_array(core)[:, i, :] for core, i in zip(train, where, strict=True)])[0, 0]


def _entry_in_single_precision(cores, index):
    return functools.reduce(torch.matmul, [core[:, i].float() for core, i in zip(cores, index, strict=True)])


def _entry_along_the_paths(cores, index):  # every value of every bond
    matrices = [core[:, i].tolist() for core, i in zip(cores, index, strict=True)]
    total = 0.0
    for path in itertools.product(*[range(len(matrix)) for matrix in matrices]):
        ends = zip(path, [*path[1:], 0], strict=True)
        total += math.prod(m[a][b] for m, (a, b) in zip(matrices, ends, strict=True))
    return total


def _ranks_in_numpy(tensor, order):
    moved = _array(tensor).transpose(order)
    return [np.linalg.matrix_rank(moved.reshape(math.prod(moved.shape[:q]), -1)) for q in range(1, moved.ndim)]


def _ranks_of_the_train(tensor, order):
    return decompose.tt(tensor.permute(*order), rel_error=1e-10).rank[1:-1]


def _ranks_by_unfolding(tensor, order):
    ranks = []
    for q in range(1, tensor.ndim):
        row = tensor.movedim(order[:q], tuple(range(q))).flatten(0, q - 1)
        s = torch.linalg.svdvals(row.flatten(1).T.float())
        ranks.append(float((s > 1e-5 * s[0]).sum()))
    return ranks


def _ranks_of_grams(x, modes):  # the rest is summed over, in whatever order it stands
    ranks, letters = [], "abcdefgh"[: x.ndim]
    for q in range(1, x.ndim):
        first = {letters[mode] for mode in modes[:q]}
        other = "".join(c.upper() if c in first else c for c in letters)
        rows = "".join(letters[mode] for mode in modes[:q])
        gram = torch.einsum(f"{letters},{other}->{rows}{rows.upper()}", x, x)
        size = math.isqrt(gram.numel())
        ranks.append(torch.linalg.matrix_rank(gram.reshape(size, size), hermitian=True, rtol=1e-11))
    return torch.stack(ranks)


def _trace_of_matrices(cores):
    return functools.reduce(torch.matmul, [core.diagonal(dim1=1, dim2=2).sum(-1) for core in cores])


def _trace_in_numpy(train):
    return np.linalg.multi_dot([np.trace(_array(core), axis1=1, axis2=2) for core in train])


def _trace_from_the_right(cores):
    column = torch.ones(1, dtype=torch.float32)
    for core in reversed(cores):
        column = sum(core[:, i, i].float() for i in range(core.shape[1])) @ column
    return column


def _trace_as_inner_product(cores):  # with the train of the identity
    state = torch.ones(1, dtype=torch.float64)
    for core in cores:
        state = torch.einsum("a,aijb,ij->b", state, core, torch.eye(core.shape[1], dtype=core.dtype))
    return float(state)


def _values_by_qr(cores, q):
    def remainder(some):
        rest = torch.ones(1, 1, dtype=torch.float64)
        for core in some:
            rest = torch.linalg.qr(torch.tensordot(rest, core, 1).flatten(0, 1)).R
        return rest

    right = remainder([core.permute(2, 1, 0) for core in reversed(cores[q:])])
    return torch.linalg.svdvals(remainder(cores[:q]) @ right.T)


def _grams(cores, q):
    left = right = np.ones((1, 1))
    for core in map(_array, cores[:q]):
        left = np.einsum("ab,aic,bid->cd", left, core, core, optimize=True)
    for core in map(_array, reversed(cores[q:])):
        right = np.einsum("cd,aic,bid->ab", right, core, core, optimize=True)
    return left, right


def _values_by_grams(cores, q):  # eigenvalues of the product of two Gram matrices
    left, right = _grams(cores, q)
    return np.sqrt(np.sort(np.linalg.eigvals(left @ right).real)[::-1])


def _values_by_cholesky(train, bond):
    left, right = map(np.linalg.cholesky, _grams(train, bond))
    return np.linalg.svd(left.T @ right, compute_uv=False).tolist()


def _values_by_svd_steps(cores, q):  # in single precision, and the centre to the right of the bond
    cores = [core.float() for core in cores]
    for k in range(len(cores) - 1, q, -1):
        U, s, Vh = torch.linalg.svd(cores[k].flatten(1), full_matrices=False)
        cores[k - 1] = torch.tensordot(cores[k - 1], U * s, 1)
        cores[k] = Vh.reshape(-1, *cores[k].shape[1:])
    for k in range(q):
        U, s, Vh = torch.linalg.svd(cores[k].flatten(0, 1), full_matrices=False)
        cores[k + 1] = torch.tensordot(s[:, None] * Vh, cores[k + 1], 1)
    return torch.linalg.svdvals(cores[q].flatten(1))


RIGHT = {
    "tt_entry": [_entry_from_the_right, _entry_in_numpy, _entry_in_single_precision, _entry_along_the_paths],
    "tt_ranks": [_ranks_in_numpy, _ranks_of_the_train, _ranks_by_unfolding, _ranks_of_grams],
    "tt_matrix_trace": [_trace_of_matrices, _trace_in_numpy, _trace_from_the_right, _trace_as_inner_product],
    "tt_singular_values": [_values_by_qr, _values_by_grams, _values_by_cholesky, _values_by_svd_steps],
}
