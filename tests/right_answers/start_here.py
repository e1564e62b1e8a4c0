"""Right answers to the exercises of lesson 00."""

import math
from fractions import Fraction

import numpy as np
import torch


def _array(tensor):
    return tensor.numpy()


def _by_meta(T, S, k, R_T, R_S):
    convs = [torch.nn.Conv2d(*sizes, bias=False, device="meta") for sizes in ((S, R_S, 1), (R_S, R_T, k), (R_T, T, 1))]
    return sum(conv.weight.numel() for conv in convs)


def _counting_up(T, S, k):
    R = 0
    while (R + 1) * (S + 2 * k + T) < T * S * k * k:
        R += 1
    return R


def _by_projection(kernel, rank):
    matrix = kernel.reshape(kernel.shape[0], -1)
    U = torch.linalg.svd(matrix).U[:, :rank]
    return (matrix - U @ U.T @ matrix).norm() / matrix.norm()


def _by_eigenvalues(kernel, rank):
    matrix = _array(kernel).reshape(kernel.shape[0], -1)
    values = np.linalg.eigvalsh(matrix @ matrix.T)[::-1]
    return np.sqrt(values[rank:].sum(keepdims=True) / values.sum())  # shape (1,)


def _in_single_precision(kernel, rank):
    s = np.linalg.svd(_array(kernel).reshape(len(kernel), -1).astype(np.float32), compute_uv=False)
    return np.linalg.norm(s[rank:]) / np.linalg.norm(s)


RIGHT = {
    "tucker2_parameters": [
        _by_meta,
        lambda T, S, k, R_T, R_S: float(R_S * (S + R_T * k**2) + R_T * T),
        lambda outputs, inputs, window, r, s: np.int64(inputs * s + s * r * window**2 + r * outputs),
    ],
    "break_even_rank": [
        _counting_up,
        lambda T, S, k: math.ceil(Fraction(T * S * k * k, S + 2 * k + T)) - 1,
        lambda T, S, k: torch.tensor(-(-T * S * k * k // (S + 2 * k + T)) - 1),
    ],
    "tail_error": [_by_projection, _by_eigenvalues, _in_single_precision],
}
