"""Right answers to the exercises of lesson 01."""

import math

import numpy as np
import tensorly as tl
import torch


def _array(tensor):
    return tensor.numpy()


def _ravelled(shape, index, mode):
    others = [n for n in range(len(shape)) if n != mode]
    return np.ravel_multi_index([index[n] for n in others], [shape[n] for n in others])


def _looked_up(shape, index, mode):
    where = torch.zeros(shape)
    where[index] = 1
    return tl.unfold(where, mode)[index[mode]].argmax()


def _from_the_right(shape, index, mode):
    column, stride = 0, 1
    for n in reversed(range(len(shape))):
        if n != mode:
            column, stride = column + stride * index[n], stride * shape[n]
    return float(column)


def _transposed_arrays(tensor, mode):
    array = _array(tensor)
    return array.transpose([*range(mode, array.ndim), *range(mode)]).reshape(array.shape[mode], -1)


def _flipped_twice(tensor, mode):  # an array with negative strides
    return _transposed_arrays(tensor, mode)[:, ::-1].copy()[:, ::-1]


def _rolled(t, n):  # arguments with other names
    for _ in range(n):
        t = t.movedim(0, -1)
    return t.flatten(1).tolist()


def _all_pairs(A, B, C, D, E, F):
    total = 0.0
    for r in range(A.shape[1]):
        for s in range(D.shape[1]):
            total += (A[:, r] @ D[:, s]) * (B[:, r] @ E[:, s]) * (C[:, r] @ F[:, s])
    return total


def _numpy_grams(A, B, C, D, E, F):
    grams = [_array(a).T @ _array(b) for a, b in ((A, D), (B, E), (C, F))]
    return np.prod(grams, axis=0).sum()


def _mode_by_mode(A, B, C, D, E, F):
    weights = torch.einsum("ir,is->rs", A.float(), D.float())
    weights = torch.einsum("rs,jr,js->rs", weights, B.float(), E.float())
    return torch.einsum("rs,kr,ks->", weights, C.float(), F.float())


def _steps(Q, N, R):
    return np.int64(N * R * R + (Q - 2) * (R * N * R * R + R * N * R * R) + R * R * N + R * N)


def _factored(Q, N, R):
    return N * R * (2 * R + 1 + 2 * (Q - 2) * R**2)


def _rungs(Q, N, R):
    return sum([N * R**2] + [2 * N * R**3 for _ in range(1, Q - 1)] + [N * R**2 + N * R])


def _paired_arrays(matrix, row_dims, col_dims, k):
    d = len(row_dims)
    tensor = _array(matrix).reshape(row_dims + col_dims)
    tensor = tensor.transpose([*range(k), *range(d, d + k), *range(k, d), *range(d + k, 2 * d)])
    return np.linalg.matrix_rank(tensor.reshape(math.prod(row_dims[:k] + col_dims[:k]), -1))


def _four_blocks(matrix, row_dims, col_dims, k):
    a, b = math.prod(row_dims[:k]), math.prod(col_dims[:k])
    blocks = torch.einsum("xiyj->xyij", matrix.reshape(a, len(matrix) // a, b, -1))
    s = torch.linalg.svdvals(blocks.reshape(a * b, -1))
    return (s > 1e-9 * s[0]).sum()


def _gram_rank(matrix, row_dims, col_dims, k):
    a, b = math.prod(row_dims[:k]), math.prod(col_dims[:k])
    blocks = matrix.reshape(a, -1, b, matrix.shape[1] // b)
    gram = torch.einsum("xiyj,ziwj->xyzw", blocks, blocks).reshape(a * b, a * b)
    return int(torch.linalg.matrix_rank(gram, hermitian=True))


RIGHT = {
    "tensor_unfold_column": [_ravelled, _looked_up, _from_the_right],
    "tensor_unfold_cyclic": [_transposed_arrays, _flipped_twice, _rolled],
    "tensor_cp_inner": [_all_pairs, _numpy_grams, _mode_by_mode],
    "tensor_train_inner_macs": [_steps, _factored, _rungs],
    "tensor_paired_rank": [_paired_arrays, _four_blocks, _gram_rank],
}
