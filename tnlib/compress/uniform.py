"""The plan that needs no prediction: every layer keeps the same share of its cost. What others are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tnlib.compress.allocate import above
from tnlib.compress.budget import Budget
from tnlib.compress.candidate import Candidate, Loss
from tnlib.compress.curves import Curves
from tnlib.compress.plan import Plan
from tnlib.compress.prices import Prices
from tnlib.compress.survey import Place
from tnlib.layers import FORMATS, max_rank

Rows = Mapping[str, list[Candidate]]


def uniform(curves: Curves, budget: Budget, format: str) -> Plan:
    """All layers in one format, each at the largest rank that keeps one and the same share of its cost.

    One integer stands for all ranks of a layer, each cut to its largest useful value. The share is as large as the
    budget allows; what is left of the budget then raises ranks by one, layer after layer, from the first one on,
    once, where it fits. Layers that do not know the format stay as they are. Notebook 13 uses it.

    Args:
        curves: of any formats: the network's layers, and the norm in which they are then factored. Predicted losses are
            not looked at, and the plan's loss is not a number.
        budget: of one cost, not of latency.
        format: of `layers.FORMATS`.

    Raises:
        ValueError: a budget of several costs or of latency; a format that no layer knows; a budget that rank 1 in all
            layers does not keep (the message tells the smallest).
    """
    kinds = [kind for kind in budget.shares() if kind != "latency"]
    if len(kinds) != 1 or budget.latency is not None:
        raise ValueError(f"uniform takes a budget of one cost: params, macs or bytes; got {budget}")
    (kind,) = kinds
    prices, rows = Prices(), dict[str, list[Candidate]]()
    for name, place in curves.survey.places.items():
        if found := _by_rank(place, format, prices, kind):
            rows[name] = found
    if not rows:
        raise ValueError(f"no layer of this network becomes cheaper in {kind} in the format {format!r}")
    dense = {name: row[0] for name, row in curves.candidates.items()}
    limit, original = budget.limits(curves.cost)[kind], curves.cost[kind]
    rest = original - sum(dense[name].cost(kind) for name in rows)
    least = rest + sum(row[0].cost(kind) for row in rows.values())
    if least > limit:
        raise ValueError(
            f"the budget {kind}={budget.shares()[kind]:g} is out of reach: {format} at rank 1 in all layers "
            f"that know it has {kind}={above(least / original)}"
        )
    at = _filled(rows, _same_share(rows, dense, kind, limit - rest), kind, limit - rest)
    chosen = dense | {name: rows[name][k] for name, k in at.items()}
    cost = {every: curves.fixed(every) + sum(c.cost(every) for c in chosen.values()) for every in curves.cost}
    whole = Plan.of(curves, Budget(**{kind: 1.0}))
    return replace(whole, chosen=chosen, budget=budget, cost=cost, loss=float("nan"), gap=float("nan"))


def _by_rank(place: Place, format: str, prices: Prices, kind: str) -> list[Candidate]:
    """A layer's candidates by integer rank, cheaper than the dense layer, each dearer than the one before."""
    if not any(isinstance(place.layer, cls) and format in known for cls, known in FORMATS.items()):
        return []
    limits = max_rank(place.layer, format)
    ranks = range(1, (max(limits) if isinstance(limits, tuple) else limits) + 1)
    prices.prepare(place, format, list(ranks))
    row: list[Candidate] = []
    for rank in ranks:
        one = Candidate.of(place, format, Loss(rank, float("nan")), prices.of(place, format, rank))
        if one.cost(kind) >= place.cost[kind]:
            break
        if not row or one.cost(kind) > row[-1].cost(kind):
            row.append(one)
    return row


def _same_share(rows: Rows, dense: Mapping[str, Candidate], kind: str, room: int) -> dict[str, int]:
    """Of each layer the last candidate within a share of its cost, rank 1 where none is; the share as large as fits."""

    def within(share: float) -> dict[str, int]:
        allowed = {name: share * dense[name].cost(kind) for name in rows}
        return {name: max(0, sum(c.cost(kind) <= allowed[name] for c in row) - 1) for name, row in rows.items()}

    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        used = sum(rows[name][k].cost(kind) for name, k in within(middle).items())
        low, high = (middle, high) if used <= room else (low, middle)
    return within(low)


def _filled(rows: Rows, at: dict[str, int], kind: str, room: int) -> dict[str, int]:
    """Ranks raised by one, layer after layer, where it fits."""
    at, free = dict(at), room - sum(rows[name][k].cost(kind) for name, k in at.items())
    for name, row in rows.items():
        if at[name] + 1 < len(row) and (more := row[at[name] + 1].cost(kind) - row[at[name]].cost(kind)) <= free:
            at[name], free = at[name] + 1, free - more
    return at
