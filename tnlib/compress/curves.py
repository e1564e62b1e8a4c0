"""For every layer and format the whole curve of predicted loss against cost."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tnlib import layers, paths
from tnlib.compress.candidate import Candidate, Loss, undominated
from tnlib.compress.fitting import QUICK
from tnlib.compress.inputs import with_example
from tnlib.compress.losses import ERRORS, MANY, SHARES, SKETCHED, TRIED, losses
from tnlib.compress.metrics import metric_of
from tnlib.compress.norms import LossMetric, Norm
from tnlib.compress.prices import Prices
from tnlib.compress.quadratic import EVEN
from tnlib.compress.survey import Place, Survey, opened, survey
from tnlib.compress.times import Times, as_rank, keys_of, this_machine
from tnlib.layers.spectra import ladder

# Formats whose whole curve comes from one decomposition: the default.
CLOSED = ("svd", "spatial_svd", "tucker2")
DISCOUNT = 1.0  # of losses of the first layer, where `repair` follows: see `curves`
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Curves:
    """Candidates of all layers, and the network they belong to.

    `candidates[layer]` begins with the dense layer; the others are cheaper than it in something, and none of them is
    beaten by another of its format in every cost and in loss (latency apart). `left` says why other layers stay as they
    are. `times` is the table that latencies come from, None without. `discount`: as in `curves`.
    """

    survey: Survey
    metric: LossMetric
    norms: Mapping[str, Norm]
    formats: tuple[str, ...]
    candidates: Mapping[str, tuple[Candidate, ...]]
    seed: int = 0
    times: Times | None = None
    discount: float = 0.0

    def weights(self) -> dict[str, float]:
        """How much each layer's loss counts where a budget is shared: exp(-discount) to 1, in the order of calls."""
        last = max(1, len(self.survey.order) - 1)
        return {name: math.exp(-self.discount * (1 - k / last)) for k, name in enumerate(self.survey.order)}

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
    discount: float = 0.0,
) -> Curves:
    """What every layer loses in every format at every rank, as far as its norm predicts it, and what it costs.

    SVD and Tucker formats give a curve from one decomposition, the bound before HOOI for the latter. The others are
    decomposed at a few ranks: CPDs at seven shares of the layer's parameters, each by 20 iterations of ALS, so that
    these losses are bounds, too; trains at twelve errors. So is every format in a norm that factors are fitted in. The
    losses of ranks in between are interpolated (`losses`), within some percent as a rule.

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
        discount: how much less early layers count where layers share a budget: by exp(-discount) at the first one that
            is called, and not at the last. What they lose, a repair in sequence makes up for in the layers behind them;
            `DISCOUNT` is what it was found to be worth. With 0 all losses count alike, as they do without a repair.

    Raises:
        ValueError: an unknown format, metric or module; inputs that are empty; no layer that can be replaced; a
            discount that is no number.
        TypeError: inputs of another kind.
    """
    known = {name for by_name in layers.FORMATS.values() for name in by_name}
    for name in formats:
        if name not in known:
            raise ValueError(f"unknown format {name!r}; expected some of {', '.join(sorted(known))}")
    if not math.isfinite(discount):
        raise ValueError(f"discount: {discount} is no finite number")
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
    rows = {name: tuple(row) for name, row in result.items()}
    return Curves(seen, found, norms, tuple(formats), rows, seed, discount=discount)


def _formats(layer: nn.Module) -> dict[str, Any]:
    return next(formats for kind, formats in layers.FORMATS.items() if isinstance(layer, kind))


def _dense(place: Place) -> Candidate:
    return Candidate(place.name, None, None, place.cost["params"], place.cost["macs"], place.cost["bytes"], loss=0.0)


def _curve(
    place: Place, format: str, norm: Norm, prices: Prices, key: str, cache: Path | None, seed: int
) -> list[Candidate]:
    """The candidates of one layer in one format, ascending in loss."""
    path = None if cache is None else cache / f"{_digest(place, format, norm, key, seed)}.json"
    if path is not None and path.is_file():
        found = [Loss(as_rank(rank), *rest) for rank, *rest in json.loads(path.read_text())]
    else:
        found = losses(place, format, norm, prices, seed)
        if path is not None:
            with paths.replacing(path) as temporary:
                temporary.write_text(json.dumps(found))
    if not prices.prepare(place, format, [one.rank for one in found]):
        found = _worth_counting(place, format, found, prices)
    rows = [Candidate.of(place, format, one, prices.of(place, format, one.rank)) for one in found]
    dense = place.cost
    rows = [row for row in rows if any(row.cost(kind) < dense[kind] for kind in dense)]
    return undominated(rows)


def _worth_counting(place: Place, format: str, found: list[Loss], prices: Prices) -> list[Loss]:
    """Those that the format's own formula finds undominated, few enough to be counted one by one."""
    rows, known = [], {one.rank: one for one in found}
    for one in found:
        params, macs = prices.rough(place, format, one.rank)
        rows.append(Candidate(place.name, format, one.rank, params, macs, params, one.loss))
    kept = undominated(rows)
    kept = [kept[k - 1] for k in ladder(len(kept), MANY)]
    return [known[row.rank] for row in kept if row.rank is not None]


def _digest(place: Place, format: str, norm: Norm, key: str, seed: int) -> str:
    """Of all that decides a curve: weight, configuration, format, norm, seed, and how this module makes it."""
    digest = hashlib.sha256()
    how = [format, key, seed, norm.ridge, norm.fits, QUICK, SKETCHED, SHARES, ERRORS, TRIED, MANY, EVEN, 5]
    digest.update(json.dumps([place.setting, how]).encode())
    digest.update(place.weight.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    for tensor in () if norm.moment is None else (norm.moment.total, norm.outputs):
        digest.update(b"" if tensor is None else tensor.cpu().numpy().tobytes())
    return digest.hexdigest()[:32]
