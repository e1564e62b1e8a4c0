"""A plan within a budget of several costs, latency among them: predicted, measured, corrected, and planned again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from tnlib.compress.allocate import above
from tnlib.compress.budget import Budget
from tnlib.compress.clock import Clock
from tnlib.compress.curves import Curves, Progress
from tnlib.compress.curves import curves as find_curves
from tnlib.compress.plan import Plan
from tnlib.compress.times import Times
from tnlib.compress.timing import Stopwatch

TOLERANCE = 0.1  # of the measured latency: how far off a prediction may be
SCATTER = 0.03  # of a latency: what a measurement may be over the budget and is not corrected for
MEASURED = 4  # networks that are measured, at most
SETTLING = 4  # rounds in which chosen candidates are timed that were not yet, at most


def plan(model: nn.Module, inputs: Any, budget: Budget, *, clock: Clock | None = None, **how: Any) -> Plan:
    """The plan of least predicted loss under a budget: `curves`, then `plan_within`.

    Args:
        model: any network; it is untouched.
        inputs: as for `curves`.
        budget: what the compressed network may cost. With `latency` in it the network and candidates of its layers are
            timed, frozen, on this machine; without, nothing is.
        clock: what times them, by default the machine's.
        how: all else that `curves` takes: `formats`, `metric`, `example`, `skip`, `only`, `cache`, `progress`, `seed`,
            `discount`.

    Raises:
        ValueError: as `curves`; a budget that is out of reach (the message tells the smallest cost).
        TypeError: as `curves`.
    """
    known = {name: how[name] for name in ("cache", "progress") if name in how}
    return plan_within(find_curves(model, inputs, **how), model, budget, clock=clock, **known)


def plan_within(
    curves: Curves,
    model: nn.Module,
    budget: Budget,
    *,
    times: Times | None = None,
    cache: Path | None = None,
    clock: Clock | None = None,
    progress: Progress | None = None,
) -> Plan:
    """The plan of least predicted loss under a budget, from curves; a latency is measured and its prediction corrected.

    With `latency` in the budget candidates are timed, frozen and inside the network, and the best plan is made by
    their times. What it chose is timed where its time was interpolated, until it chooses nothing new. Then its network,
    with random factors, is measured frozen, in turn with the original. Where prediction and measurement differ by more
    than 10 %, or the measurement is over the budget, the times of replaced layers are scaled so that they agree, and
    the plan is made anew: up to four networks are measured. If none keeps the budget, the one of least loss that is at
    most 10 % over it is taken.

    Args:
        curves: of this model.
        model: the network; it is untouched.
        budget: without `latency`, this is `Plan.of`.
        times: from `measure_times`, which is called by default.
        cache: folder where times are kept.
        clock: what times networks and layers, by default the machine's.
        progress: called with (done, of how many, what the last one was).

    Returns:
        A plan with its latency predicted, `cost["latency"]`, and `measured`: at most 10 % apart.

    Raises:
        ValueError: a budget that is out of reach (the message tells the smallest cost, or the fastest network
            measured); a network that cannot be frozen; times of another machine or network.
    """
    if budget.latency is None:
        return Plan.of(curves, budget)
    watch = Stopwatch(curves, model, cache, clock or Clock(), progress)
    curves, tried = curves.with_times(watch.table() if times is None else times), dict[tuple[Any, ...], Plan]()
    for _ in range(2 * MEASURED):
        try:
            curves, found = _settled(curves, budget, watch)
        except ValueError:  # out of reach: by the times of layers, or as corrected by what was measured so far
            if not tried:
                raise
            break
        choice = tuple((c.format, c.rank) for c in found.chosen.values())
        if choice in tried:
            found = replace(found, measured=tried[choice].measured)
        elif len(tried) == MEASURED:
            break
        else:
            share = _measured(found, watch)
            found = replace(found, measured=round(share * found.original["latency"]))
            if progress is not None:
                told = f"predicted latency {found.share('latency'):.1%}, measured {share:.1%}"
                progress(len(tried) + 1, MEASURED, told)
        tried[choice] = found
        if _is_kept(found, budget.latency):
            return found
        curves = _corrected(curves, found)
    return _best(list(tried.values()), budget.latency)


def _settled(curves: Curves, budget: Budget, watch: Stopwatch) -> tuple[Curves, Plan]:
    """The best plan when what it chose has been timed, and the curves with these times."""
    for _ in range(SETTLING):
        found, times = Plan.of(curves, budget), curves.times
        assert times is not None
        more = watch.with_times_of(times, found.chosen.values())
        if more is times:
            return curves, found
        curves = curves.with_times(more)
    return curves, Plan.of(curves, budget)


def _measured(found: Plan, watch: Stopwatch) -> float:
    """What a plan's network takes, with random factors, as a share of the original; as in the table if all stays."""
    if all(c.format is None for c in found.chosen.values()):
        return found.share("latency")
    return watch.share(found.apply(watch.model, weights="fresh"))


def _is_kept(found: Plan, share: float) -> bool:
    """Whether prediction and measurement agree, and the latter keeps the budget but for what measurements scatter."""
    assert found.measured is not None
    close = abs(found.cost["latency"] - found.measured) <= TOLERANCE * found.measured
    return close and found.measured <= share * (1 + SCATTER) * found.original["latency"]


def _corrected(curves: Curves, found: Plan) -> Curves:
    """Curves whose times predict for a plan what was measured of it."""
    assert curves.times is not None
    assert found.measured is not None
    replaced = sum(c.cost("latency") for c in found.chosen.values() if c.format is not None)
    kept = sum(c.cost("latency") for c in found.chosen.values() if c.format is None)
    return curves.with_times(curves.times.corrected(replaced, kept, found.measured))


def _best(tried: Sequence[Plan], share: float) -> Plan:
    """Of the plans that were measured the one of least loss that keeps the budget, its prediction the measurement."""
    shares = [found.measured / found.original["latency"] for found in tried if found.measured is not None]
    for limit in (share * (1 + SCATTER), share * (1 + TOLERANCE)):
        if kept := [found for found, one in zip(tried, shares, strict=True) if one <= limit]:
            break
    if not kept:
        raise ValueError(
            f"the budget latency={share:g} is out of reach: the fastest of {len(tried)} networks that were measured "
            f"has latency={above(min(shares))}"
        )
    found = min(kept, key=lambda one: one.loss)
    assert found.measured is not None
    return replace(found, cost={**found.cost, "latency": found.measured})
