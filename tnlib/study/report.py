"""What to do with records: list studies, choose rows, show what varies, summarise, and write an HTML report."""

from __future__ import annotations

import base64
import difflib
import html
import io
import json
import operator
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
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


def studies(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a study, the newest first: how many records, the date of the last, and the parameters that vary."""
    rows = []
    for name, part in frame.groupby("study"):
        varied = [_short(c) for c in varying(part) if not c.startswith("metrics.")]
        rows.append(
            {"study": name, "records": len(part), "newest": _minute(part["date"].max()), "varies": ", ".join(varied)}
        )
    return pd.DataFrame(rows).sort_values("newest", ascending=False, kind="stable", ignore_index=True)


def find_study(frame: pd.DataFrame, name: str) -> str:
    """The study of that name, hyphens or underscores. Raises ValueError with the nearest names, or with all of them."""
    known = sorted(set(frame["study"])) if len(frame) else []
    wanted = name.replace("_", "-")
    if wanted in known:
        return wanted
    near = difflib.get_close_matches(wanted, known, n=3) or [k for k in known if k.startswith(wanted)]
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known) or 'none'}"
    raise ValueError(f"no records of {name}; {hint}")


def column(frame: pd.DataFrame, name: str) -> str:
    """The column that a short name means: `rank` is `parameters.rank`, or else `metrics.rank`, `run.parameters.rank`.

    Raises ValueError naming the columns there are.
    """
    for candidate in (name, f"parameters.{name}", f"metrics.{name}", f"run.parameters.{name}", f"machine.{name}"):
        if candidate in frame.columns:
            return candidate
    short = [_short(c) for c in frame.columns if c.startswith(("parameters.", "metrics."))]
    near = difflib.get_close_matches(name, short, n=1)
    raise ValueError(
        f"the records have no {name!r}" + (f", did you mean {near[0]}?" if near else f"; they have {', '.join(short)}")
    )


def select(frame: pd.DataFrame, conditions: Sequence[str]) -> pd.DataFrame:
    """The rows that meet all conditions like `rank<=8` or `format=cp`. ValueError for one that is none."""
    for condition in conditions:
        match = re.fullmatch(r"\s*([\w.]+)\s*(<=|>=|!=|=|<|>)\s*(.+?)\s*", condition)
        if not match:
            raise ValueError(f"a condition is NAME=VALUE (or <=, >=, !=, <, >), got {condition!r}")
        values, value = frame[column(frame, match[1])], match[3]
        if pd.api.types.is_bool_dtype(values):
            wanted: Any = value.lower() in ("true", "1")
        elif pd.api.types.is_numeric_dtype(values):
            try:
                wanted = float(value)
            except ValueError:
                raise ValueError(f"{match[1]} is a number, got {value!r}") from None
        else:
            values, wanted = values.astype(str), value
        frame = frame[COMPARE[match[2]](values, wanted)]
    return frame


def varying(frame: pd.DataFrame) -> list[str]:
    """The seed, parameters and metrics whose values differ between records; lists are left out."""
    columns = [c for c in frame.columns if c == "seed" or c.startswith("parameters.")]
    columns += [c for c in frame.columns if c.startswith("metrics.")]
    plain = [c for c in columns if not frame[c].map(lambda value: isinstance(value, list | dict)).any()]
    return [c for c in plain if frame[c].nunique(dropna=False) > 1]


def text(frame: pd.DataFrame, width: int | None = None) -> str:
    """Records of one study for the terminal: the newest first, with the columns that vary and fit; one record: all.

    What is the same in all of them, and how many columns did not fit, is said below.
    """
    width = width or shutil.get_terminal_size().columns
    values = flat(frame.sort_values("date", ascending=False, kind="stable"))
    same = [c for c in ("seed", *frame.columns) if c.startswith("parameters.") or (c == "seed" and c in frame.columns)]
    if len(frame) == 1:
        shown = ["record", "date", *dict.fromkeys([*same, *(c for c in frame.columns if c.startswith("metrics."))])]
        return "\n".join(f"{_short(c)}: {_cut(_six(values[c].iloc[0]), width)}" for c in shown)
    values["date"] = values["date"].map(_minute)
    wanted = ["record", "date", *varying(frame)]
    table = values[wanted].rename(columns=_short)
    fitting = len(wanted)
    lines = table.to_string(index=False, float_format=_six, na_rep="").splitlines()
    while len(lines[0]) > width and fitting > 3:
        fitting -= 1
        lines = table.iloc[:, :fitting].to_string(index=False, float_format=_six, na_rep="").splitlines()
    constant = [f"{_short(c)}={_six(values[c].iloc[0])}" for c in dict.fromkeys(same) if c not in wanted]
    if constant:
        lines += ["", f"the same in all: {', '.join(constant)}"]
    if fitting < len(wanted):
        lines += ["", f"{len(wanted) - fitting} more columns vary; --csv has every field, --metric chooses"]
    return "\n".join(lines)


def summary(frame: pd.DataFrame, by: Sequence[str], metrics: Sequence[str] = ()) -> pd.DataFrame:
    """Mean, standard deviation (n - 1) and number of each metric, a row for each group.

    When no metric is named: all that are numbers and vary.
    """
    frame = flat(frame)
    groups = [column(frame, name) for name in by]
    chosen = [column(frame, name) for name in metrics] or _measured(frame)
    if not chosen:
        raise ValueError("the records have no metric that is a number")
    numbers = frame[groups].join(frame[[c for c in chosen if c not in groups]].astype(float))
    table = numbers.groupby(groups, sort=True, dropna=False)[chosen].agg(["mean", "std", "count"])
    pairs = [(_short(str(pair[0])), str(pair[1]).replace("count", "n")) for pair in table.columns.to_list()]
    table.columns = pd.MultiIndex.from_tuples(pairs)
    return table.rename_axis(index=[_short(c) for c in groups])


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
    """One self-contained page: a figure for each metric that varies, the summary, the provenance, and every record."""
    frame = flat(frame)
    chosen = [column(frame, name) for name in metrics] or _measured(frame)
    drawn = [c for c in chosen if frame[c].nunique() > 1]
    constant = ", ".join(f"{_short(c)} = {_six(frame[c].iloc[0])}" for c in chosen if c not in drawn)
    images = "".join(
        f'<img alt="{html.escape(_short(c))}" src="data:image/png;base64,{_png(frame, by, c)}">' for c in drawn
    )
    facts = {
        "records": str(len(frame)),
        "dates": f"{frame['date'].min()} to {frame['date'].max()}",
        "commits": ", ".join(sorted(set(frame["commit"]))),
        "machines": ", ".join(sorted(set(frame["machine.cpu"]))),
        "sources": ", ".join(sorted(set(frame["source"]))),
    }
    rows = "".join(f"<tr><th>{key}</th><td>{html.escape(value)}</td></tr>" for key, value in facts.items())
    listed = frame[["record", "date", *varying(frame)]].rename(columns=_short)
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        "<style>body{font:16px/1.5 sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}img{max-width:100%}"
        "table{border-collapse:collapse;margin:1rem 0}th,td{padding:.2rem .6rem;border-bottom:1px solid #ccc;"
        "text-align:right}</style>"
        f"<h1>{html.escape(title)}</h1>"
        f"<p>Dots: single records. Marks and bars: mean and standard deviation.</p>{images}"
        + (f"<p>The same in every record: {html.escape(constant)}.</p>" if constant else "")
        + f"<h2>Summary</h2>{summary(frame, by, metrics).to_html(float_format=_six, na_rep='')}"
        f"<h2>Where it comes from</h2><table>{rows}</table>"
        f"<h2>Records</h2>{listed.to_html(index=False, float_format=_six, na_rep='')}</html>\n"
    )
    with paths.replacing(path) as temporary:
        temporary.write_text(page)


def draw(ax: Any, frame: pd.DataFrame, by: Sequence[str], metric: str) -> None:
    """Single values, their mean and spread: lines over the first of `by` that is a number, else one place a group."""
    from tnlib import plots

    columns = [column(frame, name) for name in by]
    x = next((c for c in columns if _is_number(frame[c]) and frame[c].nunique() > 1), None)
    places = []
    for place, (label, part) in enumerate(_parts(frame, [c for c in columns if c != x])):
        style: dict[str, Any] = {"marker": "o"}
        style |= next((dict(plots.FORMAT_STYLE[name]) for name in label if name in plots.FORMAT_STYLE), {})
        if x is None:
            part, style = part.assign(place=place), style | {"linestyle": "none"}
        name = ", ".join(label)
        places.append(name)
        grouped = part.groupby(x or "place")[metric]
        mean, spread = grouped.mean(), grouped.std().fillna(0)
        line = ax.errorbar(mean.index, mean, yerr=spread, label=name, capsize=3, **style)
        ax.plot(part[x or "place"], part[metric], ".", alpha=0.4, color=line.lines[0].get_color())
    ax.set(ylabel=_short(metric), xlabel=_short(x) if x else ", ".join(by))
    if x is None:
        ax.set_xticks(range(len(places)), places)
    elif len(places) > 1:
        ax.legend()


def _parts(frame: pd.DataFrame, columns: list[str]) -> Iterator[tuple[tuple[str, ...], pd.DataFrame]]:
    """The groups of records, named by the texts of their values; one group of no name without columns."""
    if not columns:
        yield (), frame
        return
    for label, part in frame.groupby(columns, sort=True, dropna=False):
        yield tuple(_six(value) for value in label), part


def _png(frame: pd.DataFrame, by: Sequence[str], metric: str) -> str:
    from matplotlib.figure import Figure

    figure, buffer = Figure(figsize=(7, 4), layout="constrained"), io.BytesIO()
    draw(figure.add_subplot(), frame, by, metric)
    figure.savefig(buffer, format="png", dpi=120)
    return base64.b64encode(buffer.getvalue()).decode()


def _measured(frame: pd.DataFrame) -> list[str]:
    """The metrics that are numbers and vary; when none varies, all that are numbers."""
    numbers = [c for c in frame.columns if c.startswith("metrics.") and pd.api.types.is_numeric_dtype(frame[c])]
    return [c for c in numbers if frame[c].nunique() > 1] or numbers


def _is_number(values: pd.Series[Any]) -> bool:
    return pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)


def _short(name: str) -> str:
    """A column's name without `parameters.` or `metrics.`."""
    return re.sub(r"^(parameters|metrics)\.", "", name)


def _minute(date: str) -> str:
    return date[:16].replace("T", " ")


def _six(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _cut(value: str, width: int) -> str:
    return value if len(value) <= width else value[: max(1, width - 3)] + "..."
