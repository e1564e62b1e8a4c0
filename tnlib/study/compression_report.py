"""What `tnlib compress` reports: as JSON, as lines for the terminal, and as one page of HTML without scripts."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from tnlib.compress import Plan
from tnlib.measure import Comparison, Cost, provenance

NAMES = {"params": "parameters", "macs": "MACs", "bytes": "bytes", "peak_activation_bytes": "peak activation bytes"}
STYLE = (
    "body{font:16px/1.5 sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;margin:1rem 0}th,td{padding:.2rem .6rem;border-bottom:1px solid #ccc;"
    "text-align:right;vertical-align:top}th:first-child,td:first-child,.text td{text-align:left}"
)


def content(
    plan: Plan,
    *,
    network: str,
    given: Mapping[str, Any],
    cost: tuple[Cost, Cost],
    latency: Comparison | str,
    repaired: bool,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """The report as JSON holds it.

    Args:
        plan: what became of each layer.
        network: its name.
        given: what else was asked for: formats, skip, names of the files of weights and inputs.
        cost: of the original and of the compressed network, counted on one call.
        latency: of both, frozen, in milliseconds of that call; or why it was not measured.
        repaired: whether the layers were fitted on the inputs, one after the other.
        notes: what else is to be known, warnings say.
    """
    names = ("original", "compressed")
    timed: dict[str, Any] | None = None
    if isinstance(latency, str):
        notes = [*notes, latency]
    else:
        speedup = dict(zip(("median", "low", "high"), latency.speedup["compressed"], strict=True))
        timed = {name: asdict(latency.timings[name]) for name in names} | {"speedup": speedup}
    rows = []
    for name, chosen in plan.chosen.items():
        dense = plan.dense[name]
        kept = {kind: chosen.cost(kind) for kind in ("params", "macs", "bytes")}
        row = {"layer": name, "format": chosen.format, "rank": chosen.rank, **kept, "loss": chosen.loss}
        rows.append(row | {"original": {kind: dense.cost(kind) for kind in kept}})
    return {
        "version": 1,
        "network": network,
        "budget": plan.budget.shares(),
        "metric": plan.metric,
        "seed": plan.seed,
        **given,
        "counted_call": plan.inputs,
        "cost": {name: asdict(one) for name, one in zip(names, cost, strict=True)},
        "share": cost[1].relative_to(cost[0]),
        "latency_ms": timed,
        "latency_planned": _planned(plan),
        "predicted_loss": plan.loss,
        "gap": plan.gap,
        "repaired": repaired,
        "layers": rows,
        "left": dict(plan.left),
        "notes": list(notes),
        **provenance(),
    }


def _planned(plan: Plan) -> dict[str, Any] | None:
    """Milliseconds that the plan was made by: predicted, and measured with random weights; None without a budget."""
    if plan.budget.latency is None:
        return None
    known = {"original": plan.original["latency"], "predicted": plan.cost["latency"], "measured": plan.measured}
    shares = {"share": plan.share("latency"), "machine": plan.machine}
    return {name: None if time is None else time / 1e6 for name, time in known.items()} | shares


def summary(report: Mapping[str, Any]) -> str:
    """A report in a few lines: how many layers, cost and latency of both networks, notes."""
    replaced = sum(row["format"] is not None for row in report["layers"])
    lines = [f"{report['network']}: {replaced} of {len(report['layers'])} layers replaced, {_loss(report)}"]
    table = [("", "original", "compressed", ""), *_costs(report)]
    widths = [max(len(row[column]) for row in table) for column in range(4)]
    for first, *others in table:
        numbers = "  ".join(f"{text:>{width}}" for text, width in zip(others, widths[1:], strict=True))
        lines.append(f"  {first:<{widths[0]}}  {numbers}".rstrip())
    return "\n".join([*lines, *(f"note: {note}" for note in report["notes"])])


def page(report: Mapping[str, Any]) -> str:
    """A report as one self-contained HTML page."""
    machine, title = report["machine"], f"{report['network']}, compressed"
    budget = ", ".join(f"{kind}={share:g}" for kind, share in report["budget"].items())
    asked = {
        "budget": f"{budget} of the original's",
        "formats": ", ".join(report["formats"]),
        "metric": report["metric"],
        "weights": report["weights"] or "the network's own",
        "inputs": report["inputs"],
        "skipped": ", ".join(report["skip"]) or "nothing",
        "seed": str(report["seed"]),
        "repair": "layers fitted on the inputs, one after the other" if report["repaired"] else "none: no inputs",
    }
    came = {
        "date": report["date"],
        "machine": f"{machine['cpu']}, {machine['threads']} of {machine['cores']} threads, {machine['device']}",
        "versions": ", ".join(f"{name} {version}" for name, version in report["versions"].items()),
        "commit of tnlib": report["commit"],
        "SHA-256 of weights.safetensors": report["weights_sha256"],
    }
    rows = []
    for row in report["layers"]:
        costs = [_of(row[kind], row["original"][kind]) for kind in ("params", "macs", "bytes")]
        rank = "" if row["rank"] is None else _rank(row["rank"])
        rows.append(
            (row["layer"] or "(the network itself)", row["format"] or "dense", rank, *costs, f"{row['loss']:.4g}")
        )
    head = ("layer", "format", "rank", "parameters", "MACs", "bytes", "predicted loss")
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f"<p>{html.escape(_loss(report).capitalize())}. Nothing was trained and no label was read: "
        "the accuracy has to be measured.</p>",
        "<h2>The network</h2>",
        _table(("", "original", "compressed", "share, or times as fast"), _costs(report)),
        f"<p>Counted and timed for a call with inputs of shape {html.escape(report['counted_call'])}; timed frozen, in "
        "turn: median, and in brackets the 10 % and 90 % quantiles.</p>",
        "<h2>Layers</h2>",
        _table(head, rows),
        "<p>In brackets shares of the original layer's. The predicted loss is the relative squared error of "
        f"{'the output on the inputs' if report['metric'] == 'input' else 'the weight'}.</p>",
        "<h2>Layers left alone</h2>",
        _table(("layer", "why"), report["left"].items(), "text") if report["left"] else "<p>None.</p>",
        *(["<h2>Notes</h2>", *(f"<p>{html.escape(note)}</p>" for note in report["notes"])] if report["notes"] else []),
        "<h2>What was asked for</h2>",
        _table((), asked.items(), "text"),
        "<h2>Where it comes from</h2>",
        _table((), came.items(), "text"),
    ]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style>\n{chr(10).join(parts)}\n</html>\n"
    )


def _loss(report: Mapping[str, Any]) -> str:
    best = "no choice has less" if report["gap"] == 0 else f"at most {report['gap']:.2g} above the best choice"
    return f"predicted loss {report['predicted_loss']:.4g} (metric {report['metric']}; {best})"


def _costs(report: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Rows of a table: what, original, compressed, and how they compare."""
    before, after = report["cost"]["original"], report["cost"]["compressed"]
    rows = [
        (name, f"{before[kind]:,}", f"{after[kind]:,}", f"{report['share'].get(kind, 1):.1%}")
        for kind, name in NAMES.items()
    ]
    if planned := report["latency_planned"]:
        before, after = (f"{planned[name]:.3g}" for name in ("original", "predicted"))
        rows.append(("latency predicted, ms", before, after, f"{planned['share']:.1%}"))
    if timed := report["latency_ms"]:
        fast = "{median:.2f}x ({low:.2f} to {high:.2f})".format(**timed["speedup"])
        rows.append(("latency, ms", _spread(timed["original"]), _spread(timed["compressed"]), fast))
    return rows


def _spread(timing: Mapping[str, float]) -> str:
    return f"{timing['median']:.3g} ({timing['low']:.3g} to {timing['high']:.3g})"


def _of(value: int, whole: int) -> str:
    return f"{value:,} ({value / whole:.0%})" if whole else f"{value:,}"


def _rank(rank: Any) -> str:
    return str(rank) if isinstance(rank, int) else ", ".join(map(str, rank))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>"

    lines = [row(head, "th")] if head else []
    return f'<table class="{kind}">\n' + "\n".join([*lines, *(row(cells, "td") for cells in rows)]) + "\n</table>"
