"""Right answers to the exercises of lesson 05."""

from itertools import accumulate, permutations
from operator import mul

import numpy as np
import tensorly as tl
import torch


def _array(tensor):
    return tensor.numpy()


def _entry_by_entry(factor):
    size, rank = factor.shape
    core = np.zeros((rank, size, rank), dtype=np.float32)
    for i in range(size):
        for r in range(rank):
            core[r, i, r] = factor[i, r]
    return core


def _with_identity(factor):
    return torch.einsum("ir,ra,rb->aib", factor, *[torch.eye(factor.shape[1], dtype=factor.dtype)] * 2)


def _as_outer_products(a):
    unit = np.eye(a.shape[1])
    return sum(np.multiply.outer(np.multiply.outer(e, _array(a) @ e), e) for e in unit)


def _slices_stacked(factor):
    return torch.stack([torch.diag(row) for row in factor], dim=1).tolist()


def _dual_basis(third, first):  # the left core's M, compared with the right one's by cosines
    basis = np.linalg.inv(_array(third)).T
    cosines = (basis / np.linalg.norm(basis, axis=0)).T @ (_array(first) / np.linalg.norm(_array(first), axis=0))
    return abs(cosines).argmax(axis=1)


def _best_permutation(third, first):
    product = torch.nn.functional.normalize(third, dim=0).T @ torch.nn.functional.normalize(first, dim=0)
    rows = range(len(product))
    return max(permutations(rows), key=lambda p: float(sum(product[r, p[r]].abs() for r in rows)))


def _by_residual(left, right):  # column r of M is a multiple of which column?
    basis, found = torch.linalg.inv(left).T, []
    for column in basis.T:
        misfits = [torch.linalg.matrix_rank(torch.stack([column, other]), rtol=1e-6) for other in right.T]
        found.append(float(misfits.index(1)))
    return found


def _not_zero(third, first):
    product = third.float().T @ first.float()
    rows, columns = torch.where(product.abs() > 1e-3 * product.abs().amax(1, keepdim=True))
    return columns[rows.argsort()]


def _svd_in_numpy(core, right):
    slices = np.einsum("aib,br->ria", _array(core), _array(right))
    U, S, Vh = np.linalg.svd(slices)
    return -U[:, :, 0].T * np.sqrt(S[:, 0]), -Vh[:, 0].T * np.sqrt(S[:, 0])


def _by_gram(core, right):  # eigenvectors of (R, R) matrices; a list
    slices = torch.tensordot(core, right, 1).permute(2, 1, 0)
    left = torch.linalg.eigh(slices.mT @ slices).eigenvectors[:, :, -1]
    return [torch.einsum("ria,ra->ir", slices, left), left.T]


def _power_iterations(g, m):
    columns = []
    for r in range(m.shape[1]):
        slice_r = (g @ m[:, r]).T
        left = slice_r.sum(0) + slice_r[0]
        for _ in range(500):
            left = slice_r.T @ (slice_r @ left)
            left = left / left.norm()
        columns.append((slice_r @ left / 7, 7 * left))
    return tuple(torch.stack(part, dim=1) for part in zip(*columns, strict=True))


def _in_single_precision(core, right):
    U, S, Vh = torch.linalg.svd(torch.einsum("aib,br->rai", core.float(), right.float()), full_matrices=False)
    return (S[:, :1] * Vh[:, 0]).T, U[:, :, 0].T


def _by_jacobian(sizes, ranks, snr_db):  # the tensor is linear in each of its parts: a column a number
    generator = torch.Generator().manual_seed(1)
    shapes = ranks, *zip(sizes, ranks, strict=True)
    parts = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    columns = []
    for n, part in enumerate(parts):
        for unit in torch.eye(part.numel(), dtype=part.dtype):
            core, *factors = [*parts[:n], unit.reshape(part.shape), *parts[n + 1 :]]
            columns.append(tl.tucker_to_tensor((core, factors)).flatten())
    J = torch.stack(columns)
    return torch.linalg.matrix_rank(J @ J.T, hermitian=True) / J.shape[1] / 10 ** (snr_db / 10)


def _core_and_subspaces(sizes, ranks, snr_db):  # a subspace of dimension t of n: t (n - t) numbers
    sizes, ranks = np.array(sizes), np.array(ranks)
    return np.array([(ranks.prod() + (ranks * (sizes - ranks)).sum()) / sizes.prod() * 10 ** (-snr_db / 10)])


def _orthonormal(shape, T, db):
    free = float(np.prod(T))
    for n, t in zip(shape, T, strict=True):
        free += t * n - t * (t + 1) / 2 - t * (t - 1) / 2
    return torch.tensor(free / np.prod(shape) / 10 ** (db / 10), dtype=torch.float32)


def _counting_up(sizes):
    def works(rank):
        front = next((q for q in range(1, len(sizes)) if np.prod(sizes[:q]) >= rank), len(sizes))
        back = next((q for q in range(len(sizes) - 1, 0, -1) if np.prod(sizes[q:]) >= rank), 0)
        return any(size > 1 for size in sizes[front:back])

    rank = 1
    while works(rank + 1):
        rank += 1
    return rank


def _running_products(sizes):
    before, after = list(accumulate(sizes, mul)), list(accumulate(reversed(sizes), mul))[::-1]
    return max(np.minimum(before[:-2], after[2:])[np.array(sizes[1:-1]) > 1])


def _without_ones(sizes):  # a mode of size 1 merges with any other
    modes = np.array([n for n in sizes if n > 1])
    return float(max(min(modes[:c].prod(), modes[c + 1 :].prod()) for c in range(1, len(modes) - 1)))


RIGHT = {
    "cpd_train_core": [_entry_by_entry, _with_identity, _as_outer_products, _slices_stacked],
    "coupled_match": [_dual_basis, _best_permutation, _by_residual, _not_zero],
    "coupled_step_left": [_svd_in_numpy, _by_gram, _power_iterations, _in_single_precision],
    "tucker_bound": [_by_jacobian, _core_and_subspaces, _orthonormal],
    "coupled_largest_rank": [_counting_up, _running_products, _without_ones],
}
