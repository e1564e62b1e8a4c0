"""What a layer is predicted to lose in a format at many ranks: computed at a few of them, interpolated in between."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from tnlib import layers
from tnlib.compress.candidate import Candidate, Loss, undominated
from tnlib.compress.fitting import QUICK
from tnlib.compress.matrices import losses_by_rank
from tnlib.compress.norms import Norm
from tnlib.compress.prices import Prices
from tnlib.compress.survey import Place
from tnlib.layers.ranks import Errors, Ranks, rank_within
from tnlib.layers.spectra import ladder
from tnlib.layers.stages import kernels_of, whitened

# How formats that iterate are fitted for a curve, and for the layer that is made: more steps of the same only gain.
SKETCHED: dict[str, dict[str, Any]] = {
    **{name: {"max_iter": 20, "tol": 1e-4} for name in ("cp", "cp3")},
    **{name: {"method": "hosvd"} for name in ("tucker2", "tucker")},
}
FITTED: dict[str, dict[str, Any]] = {name: {"max_iter": 100, "tol": 1e-6} for name in ("cp", "cp3")}
SHARES = (0.06, 0.11, 0.18, 0.28, 0.4, 0.57, 0.8)  # of a layer's parameters, where a CPD's rank is tried
ERRORS = (0.94, 0.86, 0.77, 0.68, 0.58, 0.49, 0.4, 0.32, 0.24, 0.16, 0.08, 0.02)  # at which trains are tried
TRIED = (16, 8)  # ranks of other formats whose losses are computed one by one: where nothing is fitted, and where it is
MANY = 60  # ranks of a curve, at most, where not all come from one decomposition
STEEPEST = 1e-3  # from one rank that is tried to the next: what falls by more is not interpolated as exponential


def losses(place: Place, format: str, norm: Norm, prices: Prices, seed: int) -> list[Loss]:
    """Ranks of a layer in a format, and what each is predicted to lose.

    A matrix's ranks all come from one decomposition, as do those of formats with a closed form in the weight's own
    norm. Otherwise some ranks are decomposed and fitted; between two of them the logarithm of the loss is taken as
    linear: in the rank of a CPD, in the logarithm of the loss that a closed form in a norm of channels tells, in the
    ranks of a train or of a matrix in digits. Of all modes of a convolution's Tucker decomposition a closed form does
    not tell enough: only ranks that were decomposed are known.
    """
    cls, layer = layers.format_class(place.layer, format), place.layer
    if cls is layers.SVDLinear and norm.moment is not None:
        return [Loss(*pair) for pair in losses_by_rank(layer, norm)]
    metric = None if cls.in_digits else norm.metric
    options = {"seed": seed, **SKETCHED.get(format, {})} | ({} if metric is None else {"metric": metric})
    closed = _closed(layer, cls, metric)
    if closed is not None and norm.moment is None:  # factored in the norm of the loss
        return [Loss(*pair) for pair in zip(closed[0], closed[1].tolist(), strict=True)]

    def lost(**wanted: Any) -> Loss:
        small = norm.fitted(layers.factorize(layer, format, **wanted, **options), layer, QUICK)
        return Loss(wanted.get("rank", small.rank), norm.loss(place.weight, small.dense_weight()))

    if closed is not None:
        ranks, at = _envelope(place, format, closed, prices)
        last, number = len(ranks) - 1, min(len(ranks), TRIED[norm.fits and format != "tucker"])
        tried = sorted({round(k * last / max(1, number - 1)) for k in range(number)})
        found = [lost(rank=ranks[k]) for k in tried]
        return found if format == "tucker" else _between(found, [at[k] for k in tried], ranks, at)
    if format in ("cp", "cp3"):
        few = _by_share(layer, format)
        more = {few[0] + k - 1 for k in ladder(few[-1] - few[0] + 1, MANY)} if few else set()
        integers = sorted(more.union(few))
        return _between([lost(rank=rank) for rank in few], few, list(integers), integers)
    found = list({one.rank: one for one in (lost(rel_error=error) for error in ERRORS)}.values())
    ranks, at = _among([one.rank for one in found], MANY // len(found))
    return sorted(_between(found, range(len(found)), ranks, at), key=lambda one: one.loss)


def _closed(layer: nn.Module, cls: Any, metric: layers.Metric | None) -> Errors | None:
    """Ranks and relative losses by one decomposition in a norm of channels; None for a format without."""
    roots = {} if metric is None else metric.roots()
    kernels = [whitened(kernel, roots, cls.modes) for kernel in kernels_of(layer).double()]
    found = [cls.errors(kernel) for kernel in kernels]
    if found[0] is None:
        return None
    errors = torch.stack([pair[1] for pair in found if pair is not None]).sum(0)
    whole = torch.stack([kernel.square().sum() for kernel in kernels]).sum()
    return found[0][0], errors / whole if float(whole) else torch.zeros_like(errors)


def _envelope(place: Place, format: str, closed: Errors, prices: Prices) -> tuple[list[Ranks], list[float]]:
    """Ranks that no other one beats by the closed form, ascending in its loss, and the logarithms of these losses."""
    ranks, errors = closed
    prices.prepare(place, format, ranks)
    rows = [
        Candidate.of(place, format, Loss(rank, loss), prices.of(place, format, rank))
        for rank, loss in zip(ranks, errors.tolist(), strict=True)
    ]
    kept = undominated([row for row in rows if any(row.cost(kind) < place.cost[kind] for kind in place.cost)])
    kept = [kept[k - 1] for k in ladder(len(kept), MANY)]
    return [row.rank for row in kept if row.rank is not None], [math.log(row.loss + 1e-15) for row in kept]


def _by_share(layer: nn.Module, format: str) -> list[int]:
    """Ranks of a CPD at shares of the layer's parameters."""
    cost, limit = partial(layers.size, layer, format), layers.max_rank(layer, format)
    dense, ranks = sum(p.numel() for p in layer.parameters()), set()
    for share in SHARES:
        try:
            ranks.add(rank_within(share, cost, dense, limit, "params"))
        except ValueError:  # smaller than rank 1 is
            continue
    return sorted(ranks)


def _among(found: Sequence[Ranks], steps: int) -> tuple[list[Ranks], list[float]]:
    """Ranks of trains and those between neighbours, `steps` in each gap, and their places: whole numbers are given."""
    ranks, at = [found[0]], [0.0]
    for k, (one, other) in enumerate(itertools.pairwise(found)):
        assert isinstance(one, tuple)
        assert isinstance(other, tuple)
        for step in range(1, steps + 1):
            rank = tuple(round(a + (b - a) * step / steps) for a, b in zip(one, other, strict=True))
            if rank != ranks[-1]:
                ranks.append(rank)
                at.append(k + step / steps)
    return ranks, at


def _between(tried: Sequence[Loss], where: Sequence[float], ranks: Sequence[Ranks], at: Sequence[float]) -> list[Loss]:
    """All ranks with their losses; those that were not tried take theirs from the two neighbours `where` they are."""
    known, result = {one.rank: one for one in tried}, []
    order = np.argsort(where, kind="stable")
    places, values = np.asarray(where, dtype=float)[order], np.array([one.loss for one in tried])[order]
    for rank, place in zip(ranks, at, strict=True):
        if rank in known:
            result.append(known[rank])
            continue
        right = int(np.clip(np.searchsorted(places, place), 1, len(places) - 1))
        high = float(values[right - 1 : right + 1].max())
        share = (place - places[right - 1]) / (places[right] - places[right - 1])
        ends = [math.log(max(float(value), STEEPEST * high, 1e-300)) for value in values[right - 1 : right + 1]]
        result.append(Loss(rank, math.exp(ends[0] + share * (ends[1] - ends[0])), True))
    return result
