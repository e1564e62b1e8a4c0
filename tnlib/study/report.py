"""What to do with records: choose some, summarise them, and write tables and an HTML report."""

from __future__ import annotations

import base64
import html
import io
import json
import operator
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from tnlib import paths

COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "!=": operator.ne,
    "=": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}


def column(frame: pd.DataFrame, name: str) -> str:
    """The column that a short name means: `rank` is `parameters.rank`, or else `metrics.rank`, `run.parameters.rank`.

    Raises ValueError naming the columns there are.
    """
    for candidate in (name, f"parameters.{name}", f"metrics.{name}", f"run.parameters.{name}", f"machine.{name}"):
        if candidate in frame.columns:
            return candidate
    short = [c.split(".", 1)[1] for c in frame.columns if c.startswith(("parameters.", "metrics."))]
    raise ValueError(f"the records have no {name!r}; they have {', '.join(short)}")


def select(frame: pd.DataFrame, conditions: Sequence[str]) -> pd.DataFrame:
    """The rows that meet all conditions like `rank<=8` or `format=cp`. ValueError for one that is none."""
    for condition in conditions:
        match = re.fullmatch(r"\s*([\w.]+)\s*(<=|>=|!=|=|<|>)\s*(.+?)\s*", condition)
        if not match:
            raise ValueError(f"a condition is NAME=VALUE (or <=, >=, !=, <, >), got {condition!r}")
        values, text = frame[column(frame, match[1])], match[3]
        if pd.api.types.is_bool_dtype(values):
            wanted: Any = text.lower() in ("true", "1")
        elif pd.api.types.is_numeric_dtype(values):
            try:
                wanted = float(text)
            except ValueError:
                raise ValueError(f"{match[1]} is a number, got {text!r}") from None
        else:
            values, wanted = values.astype(str), text
        frame = frame[COMPARE[match[2]](values, wanted)]
    return frame


def summary(frame: pd.DataFrame, by: Sequence[str], metrics: Sequence[str] = ()) -> pd.DataFrame:
    """Mean, standard deviation (n - 1) and number of each metric, a row for each group.

    All metrics that are numbers when none is named.
    """
    groups = [column(frame, name) for name in by]
    chosen = [column(frame, name) for name in metrics] or [
        c for c in frame.columns if c.startswith("metrics.") and pd.api.types.is_numeric_dtype(frame[c])
    ]
    if not chosen:
        raise ValueError("the records have no metric that is a number")
    table = frame.groupby(groups, sort=True)[chosen].agg(["mean", "std", "count"])
    pairs = [(str(pair[0]).split(".", 1)[1], str(pair[1]).replace("count", "n")) for pair in table.columns.to_list()]
    table.columns = pd.MultiIndex.from_tuples(pairs)
    return table.rename_axis(index=[c.split(".", 1)[-1] for c in groups])


def flat(frame: pd.DataFrame) -> pd.DataFrame:
    """The records with lists as JSON texts: what CSV and Parquet can hold."""
    result = frame.copy()
    for name in result.columns:
        if result[name].map(lambda value: isinstance(value, list | dict)).any():
            result[name] = result[name].map(
                lambda value: json.dumps(value) if isinstance(value, list | dict) else value
            )
    return result


def write_html(frame: pd.DataFrame, path: Path, by: Sequence[str], metrics: Sequence[str], title: str) -> None:
    """One self-contained page: a figure for each metric, the summary, the provenance, and every record."""
    table = summary(frame, by, metrics)
    names = list(dict.fromkeys(str(pair[0]) for pair in table.columns.to_list()))
    images = "".join(
        f'<img alt="{html.escape(name)}" src="data:image/png;base64,{_figure(table, name)}">' for name in names
    )
    shown = [c for c in frame.columns if c.startswith(("parameters.", "metrics."))]
    small = [c for c in shown if not frame[c].map(lambda value: isinstance(value, list | dict)).any()]
    facts = {
        "records": str(len(frame)),
        "dates": f"{frame['date'].min()} to {frame['date'].max()}",
        "commits": ", ".join(sorted(set(frame["commit"]))),
        "machines": ", ".join(sorted(set(frame["machine.cpu"]))),
        "sources": ", ".join(sorted(set(frame["source"]))),
    }
    rows = "".join(f"<tr><th>{key}</th><td>{html.escape(value)}</td></tr>" for key, value in facts.items())
    text = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        "<style>body{font:16px/1.5 sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}img{max-width:100%}"
        "table{border-collapse:collapse;margin:1rem 0}th,td{padding:.2rem .6rem;border-bottom:1px solid #ccc;"
        "text-align:right}</style>"
        f"<h1>{html.escape(title)}</h1><p>Mean, standard deviation (bars) and number of records.</p>{images}"
        f"<h2>Summary</h2>{table.to_html(float_format=_six)}<h2>Where it comes from</h2><table>{rows}</table>"
        f"<h2>Records</h2>{frame[['record', 'date', *small]].to_html(index=False, float_format=_six)}</html>\n"
    )
    with paths.replacing(path) as temporary:
        temporary.write_text(text)


def _six(value: float) -> str:
    return f"{value:.6g}"


def _figure(table: pd.DataFrame, name: str) -> str:
    """A metric's mean and spread against the first group that is a number, a line for each of the others; as base64."""
    from matplotlib.figure import Figure

    from tnlib import plots

    flat_index = table[name].reset_index()
    keys = [c for c in flat_index.columns if c not in ("mean", "std", "n")]
    numbers = [c for c in keys if pd.api.types.is_numeric_dtype(flat_index[c])]
    x = (numbers or keys)[0]
    others = [c for c in keys if c != x]
    figure = Figure(figsize=(7, 4), layout="constrained")
    ax = figure.add_subplot()
    for label, part in flat_index.groupby(others) if others else [((), flat_index)]:
        values = label if isinstance(label, tuple) else (label,)
        text = ", ".join(f"{c} {v}" for c, v in zip(others, values, strict=True))
        style = next((plots.FORMAT_STYLE[str(v)] for v in values if str(v) in plots.FORMAT_STYLE), {"marker": "o"})
        ax.errorbar(part[x], part["mean"], yerr=part["std"].fillna(0), label=text, capsize=3, **style)  # type: ignore[arg-type]
    ax.set(xlabel=x, ylabel=name)
    if others:
        ax.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return base64.b64encode(buffer.getvalue()).decode()
