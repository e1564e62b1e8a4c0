"""Matrices of low rank in the norms of a layer's inputs and outputs: what every rank loses, by one SVD."""

from __future__ import annotations

from typing import Any

import torch

from tnlib import layers
from tnlib.compress.norms import Norm
from tnlib.compress.quadratic import evened
from tnlib.layers.stages import whitened


def losses_by_rank(layer: Any, norm: Norm) -> list[tuple[int, float]]:
    """Of a linear layer in the format `svd`: every rank, and the loss of what is factored in a norm that has a moment.

    With R^T R and Q^T Q the damped norms of inputs and outputs and Q W R^T = sum of s_k u_k v_k^T, rank r leaves
    E = sum over k > r of s_k q_k p_k^T, q_k = Q^-1 u_k, p_k = R^-1 v_k. Its loss tr(G E C E^T) is a sum over pairs of
    s_k s_l (q_k^T G q_l) (p_k^T C p_l), k and l > r.
    """
    moment = norm.moment
    assert moment is not None
    weight = layer.weight.detach().double()
    outputs = evened(norm.outputs)
    roots = layers.Metric(moment.damped(norm.ridge)[0], None if outputs is None else outputs[0]).roots()
    u, s, vh = torch.linalg.svd(whitened(weight, roots, ("out", "in")), full_matrices=False)
    first = torch.linalg.solve_triangular(roots["in"], vh.mT, upper=True)
    last = torch.linalg.solve_triangular(roots["out"], u, upper=True) if "out" in roots else u
    pairs = (first.mT @ moment.total[0] @ first) * s * s[:, None]
    pairs = pairs * (last.mT @ last if norm.outputs is None else last.mT @ norm.outputs[0] @ last)
    tails = pairs.flip(0, 1).cumsum(0).cumsum(1).diagonal().flip(0).clamp_min(0)
    whole = moment.square(weight) if norm.outputs is None else torch.ones(()).to(tails)
    losses = tails / whole if float(whole) else torch.zeros_like(tails)
    return list(enumerate([*losses[1:].tolist(), 0.0], 1))
