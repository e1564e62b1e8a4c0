"""Matrices of low rank in the norm of a layer's inputs: the best one, and what every rank loses, by one SVD."""

from __future__ import annotations

from typing import Any

import torch

from tnlib import layers
from tnlib.compress.norms import Norm
from tnlib.layers.stages import whitened


def losses_by_rank(layer: Any, norm: Norm) -> list[tuple[int, float]]:
    """Of a linear layer in the format `svd`: every rank, and the loss of what is factored in a norm that has a moment.

    With R^T R the damped moment and W R^T = sum of s_k u_k v_k^T, rank r leaves E = sum over k > r of s_k u_k p_k^T,
    p_k = R^-1 v_k. Its loss tr(G E C E^T) is a sum over pairs of s_k s_l (u_k^T G u_l) (p_k^T C p_l), k and l > r.
    """
    moment = norm.moment
    assert moment is not None
    weight = layer.weight.detach().double()
    root = layers.Metric(inputs=moment.damped(norm.ridge)[0]).roots()["in"]
    u, s, vh = torch.linalg.svd(whitened(weight, {"in": root}, ("out", "in")), full_matrices=False)
    first = torch.linalg.solve_triangular(root, vh.mT, upper=True)
    pairs = (first.mT @ moment.total[0] @ first) * s * s[:, None]
    pairs = pairs * (torch.eye(len(s)).to(pairs) if norm.outputs is None else u.mT @ norm.outputs[0] @ u)
    tails = pairs.flip(0, 1).cumsum(0).cumsum(1).diagonal().flip(0).clamp_min(0)
    whole = moment.square(weight) if norm.outputs is None else torch.ones(()).to(tails)
    losses = tails / whole if float(whole) else torch.zeros_like(tails)
    return list(enumerate([*losses[1:].tolist(), 0.0], 1))
