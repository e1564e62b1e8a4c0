"""Tucker decompositions of any subset of the modes: truncated HOSVD, improved by HOOI."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import tensorly as tl
import torch
from tensorly.decomposition import partial_tucker
from tensorly.tucker_tensor import TuckerTensor
from torch import Tensor

from tnlib.decompose import _validate as validate


def tucker(
    tensor: Tensor,
    rank: int | Sequence[int] | None = None,
    *,
    modes: Sequence[int] | None = None,
    rel_error: float | None = None,
    method: Literal["hooi", "hosvd"] = "hooi",
    max_iter: int = 50,
    tol: float = 1e-8,
) -> TuckerTensor:
    """Tucker decomposition of some modes, the others left as they are.

    Args:
        tensor: order Q, sizes N_1 .. N_Q.
        rank: one rank for each of `modes`, or one integer for all of them (cut to each largest useful one).
        modes: the modes that get a factor, by default all; Tucker-2 of a convolution kernel is `modes=(0, 1)`.
        rel_error: instead of `rank`, a bound on the Frobenius error relative to the tensor's norm; each mode may then
            discard rel_error / sqrt(number of modes) of it.
        method: `hosvd` truncates each mode's SVD (De Lathauwer et al. 2000a); `hooi` goes on from there by alternating
            least squares (De Lathauwer et al. 2000b).
        max_iter: largest number of HOOI sweeps.
        tol: HOOI stops when the relative error changes by less than this.

    Returns:
        `TuckerTensor` with orthonormal factors (N_q, R_q); a mode that is left alone has an identity factor.

    Raises:
        ValueError: unknown or repeated modes, a rank that is out of range, an unknown method.
    """
    wide, exponent = validate.scaled(tensor)
    validate.check_rank_or_error(rank, rel_error)
    if method not in ("hooi", "hosvd"):
        raise ValueError(f"unknown method {method!r}; expected hooi or hosvd")
    chosen = _normalised(modes, wide.ndim)
    sizes = [wide.shape[mode] for mode in chosen]
    # A mode cannot have more independent fibres than the product of the other modes' sizes.
    limits = [min(size, wide.numel() // size) for size in sizes]
    ranks = None if rank is None else validate.many_ranks(rank, limits, "Tucker rank")
    # From here on in ascending order, as TensorLy's sweeps expect; the ranks follow their modes.
    by_mode = sorted(range(len(chosen)), key=chosen.__getitem__)
    chosen, ranks = [chosen[i] for i in by_mode], None if ranks is None else tuple(ranks[i] for i in by_mode)
    threshold = (rel_error or 0.0) * float(wide.norm()) / math.sqrt(max(1, len(chosen)))
    factors = {}
    for position, mode in enumerate(chosen):
        u, s, _ = torch.linalg.svd(tl.unfold(wide, mode), full_matrices=False)
        kept = validate.tail_rank(s, threshold) if ranks is None else ranks[position]
        factors[mode] = u[:, :kept]
    if method == "hooi" and len(chosen) > 1 and any(factors[m].shape[1] < wide.shape[m] for m in chosen):
        start = (
            tl.tenalg.multi_mode_dot(wide, [factors[m] for m in chosen], chosen, transpose=True),
            list(factors.values()),
        )
        kept_ranks = [factors[m].shape[1] for m in chosen]
        # TensorLy returns (TuckerTensor-like pair, errors); the core is recomputed below for either method.
        (_, improved), _ = partial_tucker(wide, kept_ranks, chosen, n_iter_max=max_iter, init=start, tol=tol)
        factors = dict(zip(chosen, improved, strict=True))
    core = tl.tenalg.multi_mode_dot(wide, [factors[m] for m in chosen], chosen, transpose=True) if chosen else wide
    every = [factors.get(m, torch.eye(wide.shape[m], dtype=wide.dtype, device=wide.device)) for m in range(wide.ndim)]
    core = validate.narrowed(core, tensor.dtype, exponent)
    return TuckerTensor((core, [validate.narrowed(factor, tensor.dtype) for factor in every]))


def _normalised(modes: Sequence[int] | None, order: int) -> list[int]:
    if modes is None:
        return list(range(order))
    result = [mode + order if mode < 0 else mode for mode in modes]
    if len(set(result)) != len(result) or any(not 0 <= mode < order for mode in result):
        raise ValueError(f"modes {tuple(modes)} must be different and lie between 0 and {order - 1}")
    return result
