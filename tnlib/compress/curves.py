"""For every layer and format the whole curve of predicted loss against cost."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tnlib import layers, paths
from tnlib.compress.fitting import QUICK
from tnlib.compress.inputs import with_example
from tnlib.compress.matrices import losses_by_rank
from tnlib.compress.metrics import metric_of
from tnlib.compress.norms import LossMetric, Norm
from tnlib.compress.prices import Prices
from tnlib.compress.quadratic import EVEN
from tnlib.compress.survey import Place, Survey, opened, survey
from tnlib.compress.times import Times, as_rank, keys_of, this_machine
from tnlib.layers.ranks import Ranks, rank_within
from tnlib.layers.spectra import ladder
from tnlib.layers.stages import kernels_of, whitened

# Formats whose whole curve comes from one decomposition: the default.
CLOSED = ("svd", "spatial_svd", "tucker2")
# How formats that iterate are fitted for a curve, and for the layer that is made: more steps of the same only gain.
SKETCHED: dict[str, dict[str, Any]] = {
    **{name: {"max_iter": 20, "tol": 1e-4} for name in ("cp", "cp3")},
    **{name: {"method": "hosvd"} for name in ("tucker2", "tucker")},
}
FITTED: dict[str, dict[str, Any]] = {name: {"max_iter": 100, "tol": 1e-6} for name in ("cp", "cp3")}
SHARES = (0.06, 0.12, 0.22, 0.36, 0.55, 0.8)  # of a layer's parameters, where each rank is fitted
FINER = (0.06, 0.09, 0.13, 0.18, 0.24, 0.31, 0.4, 0.5, 0.65, 0.8)  # likewise, where fitting follows
ERRORS = (0.94, 0.86, 0.77, 0.68, 0.58, 0.49, 0.4, 0.32, 0.24, 0.16, 0.08, 0.02)
COUNTED = 60  # candidates of a curve whose costs are, where there is no formula
FEW = 16  # candidates of a curve whose losses are computed one by one
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Candidate:
    """A layer in a format and a rank: what it costs and the loss it is predicted to bring. Dense: no format, loss 0.

    `latency`: nanoseconds of all its calls in one call of the network; None where no times are at hand.
    """

    layer: str
    format: str | None
    rank: Ranks | None
    params: int
    macs: int
    bytes: int
    loss: float
    latency: int | None = None

    def cost(self, kind: str) -> int:
        """One of `params`, `macs`, `bytes`, and `latency` where it is known."""
        value: int = getattr(self, kind)
        return value


@dataclass(frozen=True)
class Curves:
    """Candidates of all layers, and the network they belong to.

    `candidates[layer]` begins with the dense layer; the others are cheaper than it in something, and none of them is
    beaten by another of its format in every cost and in loss (latency apart). `left` says why other layers stay as they
    are. `times` is the table that latencies come from, None without.
    """

    survey: Survey
    metric: LossMetric
    norms: Mapping[str, Norm]
    formats: tuple[str, ...]
    candidates: Mapping[str, tuple[Candidate, ...]]
    seed: int = 0
    times: Times | None = None

    @property
    def cost(self) -> dict[str, int]:
        """What the original network costs; with times, the nanoseconds of one call as `latency`, too."""
        return self.survey.cost | ({} if self.times is None else {"latency": self.times.original})

    def fixed(self, kind: str) -> int:
        """What all but the replaceable layers cost."""
        if kind == "latency" and self.times is not None:
            return self.times.rest
        return self.survey.cost[kind] - sum(row[0].cost(kind) for row in self.candidates.values())

    def with_times(self, times: Times) -> Curves:
        """The same curves with latencies. ValueError for times of another machine, network or shape of inputs."""
        places = self.survey.places
        device = next(iter(places.values())).weight.device
        times.require(this_machine(device), keys_of(places))
        rows = {
            name: tuple(replace(c, latency=times.of(name, c.format, c.rank, c.macs)) for c in row)
            for name, row in self.candidates.items()
        }
        return replace(self, candidates=rows, times=times)

    @property
    def left(self) -> Mapping[str, str]:
        """Layers that stay as they are, and why."""
        return self.survey.left


def curves(
    model: nn.Module,
    inputs: Any,
    formats: Sequence[str] = CLOSED,
    metric: str | LossMetric = "weight",
    *,
    example: Any = None,
    skip: Collection[str] = (),
    only: Collection[str] | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
    seed: int = 0,
) -> Curves:
    """What every layer loses in every format at every rank, as far as its norm predicts it, and what it costs.

    SVD and Tucker formats give a curve from one decomposition, the bound before HOOI for the latter. The others are
    decomposed at ranks of a ladder: CPDs at six shares of the layer's parameters, each by 20 iterations of ALS, so
    that their predicted losses are bounds, too; trains at twelve errors.

    Args:
        model: any network; it is untouched. An `nn.MultiheadAttention` is taken as its projections, `q_proj`, `k_proj`,
            `v_proj` and `out_proj`.
        inputs: a tensor of samples, an iterable of batches or one mapping of keyword arguments; labels are ignored.
            With the metric `weight` no more is read of them than the example. What a layer gets at padded positions
            counts like the rest: give batches of texts of one length, as `sentences.by_length` does.
        formats: of `layers.FORMATS`; each layer takes those that it knows.
        metric: of `METRICS`, or a `LossMetric`.
        example: the inputs of the call whose cost counts; by default the first sample of a tensor, the first batch of
            anything else.
        skip: qualified names of modules that are to stay as they are, with all that they contain.
        only: likewise, those that may be replaced; by default all.
        cache: folder where each curve is kept under a digest of all that decides it; a study that was cut off goes on.
        progress: called with (curves done, of how many, what the last one was).
        seed: of the decompositions.

    Raises:
        ValueError: an unknown format, metric or module; inputs that are empty; no layer that can be replaced.
        TypeError: inputs of another kind.
    """
    known = {name for by_name in layers.FORMATS.values() for name in by_name}
    for name in formats:
        if name not in known:
            raise ValueError(f"unknown format {name!r}; expected some of {', '.join(sorted(known))}")
    found = metric_of(metric)
    model = opened(model)
    call, every = with_example(model, inputs, example)
    seen = survey(model, call, skip, only)
    if not seen.places:
        reasons = "; ".join(f"{name}: {why}" for name, why in seen.left.items())
        raise ValueError(f"nothing to compress: {reasons or 'the model has no linear, convolution or embedding layer'}")
    norms = found.norms(model, seen.places.values(), every)
    jobs = [(place, name) for place in seen.places.values() for name in formats if name in _formats(place.layer)]
    prices, result = Prices(), {name: [_dense(place)] for name, place in seen.places.items()}
    for done, (place, name) in enumerate(jobs, 1):
        result[place.name] += _curve(place, name, norms[place.name], prices, found.key, cache, seed)
        if progress is not None:
            progress(done, len(jobs), f"{place.name} {name}")
    return Curves(seen, found, norms, tuple(formats), {name: tuple(row) for name, row in result.items()}, seed)


def _formats(layer: nn.Module) -> dict[str, Any]:
    return next(formats for kind, formats in layers.FORMATS.items() if isinstance(layer, kind))


def _dense(place: Place) -> Candidate:
    return Candidate(place.name, None, None, loss=0.0, **place.cost)


def _curve(
    place: Place, format: str, norm: Norm, prices: Prices, key: str, cache: Path | None, seed: int
) -> list[Candidate]:
    """The candidates of one layer in one format, ascending in loss."""
    path = None if cache is None else cache / f"{_digest(place, format, norm, key, seed)}.json"
    if path is not None and path.is_file():
        pairs = [(as_rank(rank), loss) for rank, loss in json.loads(path.read_text())]
    else:
        pairs = _losses(place, format, norm, prices, seed)
        if path is not None:
            with paths.replacing(path) as temporary:
                temporary.write_text(json.dumps(pairs))
    if not prices.prepare(place, format, [rank for rank, _ in pairs]):
        pairs = _worth_counting(place, format, pairs, prices)
    rows = [Candidate(place.name, format, rank, loss=loss, **prices.of(place, format, rank)) for rank, loss in pairs]
    dense = place.cost
    rows = [row for row in rows if any(row.cost(kind) < dense[kind] for kind in dense)]
    return undominated(rows)


def _losses(place: Place, format: str, norm: Norm, prices: Prices, seed: int) -> list[tuple[Ranks, float]]:
    """Ranks and predicted losses."""
    cls, layer = layers.format_class(place.layer, format), place.layer
    if cls is layers.SVDLinear and norm.moment is not None:
        return list(losses_by_rank(layer, norm))
    metric = None if cls.in_digits else norm.metric
    roots = {} if metric is None else metric.roots()
    kernels = [whitened(kernel, roots, cls.modes) for kernel in kernels_of(layer).double()]
    found = [cls.errors(kernel) for kernel in kernels]
    options = {"seed": seed, **SKETCHED.get(format, {})} | ({} if metric is None else {"metric": metric})
    if found[0] is not None:
        ranks, errors = found[0][0], torch.stack([pair[1] for pair in found if pair is not None]).sum(0)
        whole = torch.stack([kernel.square().sum() for kernel in kernels]).sum()
        losses = (errors / whole if float(whole) else torch.zeros_like(errors)).tolist()
        if norm.moment is None:  # factored in the norm of the loss
            return list(zip(ranks, losses, strict=True))
        prices.prepare(place, format, ranks)
        ranks = _thinned(place, format, ranks, losses, prices)
    elif format in ("cp", "cp3"):
        ranks = _by_share(layer, format, FINER if norm.fits else SHARES)
    else:
        made = (
            norm.fitted(layers.factorize(layer, format, rel_error=error, **options), layer, QUICK) for error in ERRORS
        )
        pairs = {small.rank: norm.loss(place.weight, small.dense_weight()) for small in made}
        return sorted(pairs.items(), key=lambda pair: pair[1])
    fitted = (norm.fitted(layers.factorize(layer, format, r, **options), layer, QUICK) for r in ranks)
    return [(r, norm.loss(place.weight, small.dense_weight())) for r, small in zip(ranks, fitted, strict=True)]


def _thinned(place: Place, format: str, ranks: list[Ranks], losses: list[float], prices: Prices) -> list[Ranks]:
    """A few ranks along the curve's lower envelope."""
    rows = [
        Candidate(place.name, format, rank, loss=loss, **prices.of(place, format, rank))
        for rank, loss in zip(ranks, losses, strict=True)
    ]
    kept = undominated([row for row in rows if any(row.cost(kind) < place.cost[kind] for kind in place.cost)])
    return [rank for k in ladder(len(kept), FEW) if (rank := kept[k - 1].rank) is not None] if kept else []


def _worth_counting(
    place: Place, format: str, pairs: list[tuple[Ranks, float]], prices: Prices
) -> list[tuple[Ranks, float]]:
    """Those that the format's own formula finds undominated, few enough to be counted one by one."""
    rows = []
    for rank, loss in pairs:
        params, macs = prices.rough(place, format, rank)
        rows.append(Candidate(place.name, format, rank, params, macs, params, loss))
    kept = undominated(rows)
    kept = [kept[k - 1] for k in ladder(len(kept), COUNTED)]
    return [(row.rank, row.loss) for row in kept if row.rank is not None]


def _by_share(layer: nn.Module, format: str, shares: Sequence[float]) -> list[Ranks]:
    """Ranks of a CPD at shares of the layer's parameters."""
    cost, limit = partial(layers.size, layer, format), layers.max_rank(layer, format)
    dense, ranks = sum(p.numel() for p in layer.parameters()), set()
    for share in shares:
        try:
            ranks.add(rank_within(share, cost, dense, limit, "params"))
        except ValueError:  # smaller than rank 1 is
            continue
    return sorted(ranks)


def undominated(rows: Sequence[Candidate]) -> list[Candidate]:
    """Those that no other one beats in every cost and in loss, ascending in loss; of equal ones the first."""
    if not rows:
        return []
    table = np.array([[row.loss, row.params, row.macs, row.bytes] for row in rows], dtype=np.float64)
    kept: list[int] = []
    front = np.empty((0, 4))
    for index in np.lexsort(table.T[::-1]):
        if not (front <= table[index]).all(1).any():
            kept.append(int(index))
            front = np.vstack([front, table[index]])
    return [rows[index] for index in kept]


def _digest(place: Place, format: str, norm: Norm, key: str, seed: int) -> str:
    """Of all that decides a curve: weight, configuration, format, norm, seed, and how this module makes it."""
    digest = hashlib.sha256()
    how = [format, key, seed, norm.ridge, norm.fits, QUICK, SKETCHED, SHARES, FINER, ERRORS, FEW, EVEN, 4]
    digest.update(json.dumps([place.setting, how]).encode())
    digest.update(place.weight.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    for tensor in () if norm.moment is None else (norm.moment.total, norm.outputs):
        digest.update(b"" if tensor is None else tensor.cpu().numpy().tobytes())
    return digest.hexdigest()[:32]
