"""The records behind every number that may be quoted: one JSON file each, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from tnlib import paths
from tnlib.measure.provenance import provenance

SCHEMA = 1


def record(
    study: str,
    metrics: Mapping[str, Any],
    *,
    parameters: Mapping[str, Any],
    source: str,
    seed: int | None = None,
    seconds: float | None = None,
    folder: Path | None = None,
) -> Path:
    """Write one record.

    Args:
        study: short name of what was measured, lower-case words with hyphens; the file's name starts with it.
        metrics: name -> number, text, list or mapping of such.
        parameters: everything that decides the metrics.
        source: the notebook or command that wrote it.
        seed: of the randomness, where there is some.
        seconds: wall time of the measurement.
        folder: where to, by default `TNLIB_RESULTS` or else `runs/results/`.

    Returns:
        The file's path. Two different records never share one.

    Raises:
        ValueError: a bad name, nan, infinity, or something that JSON cannot hold.
    """
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", study):
        raise ValueError(f"study {study!r} must be lower-case words joined by hyphens")
    content = {
        "schema": SCHEMA,
        "study": study,
        "source": source,
        "parameters": _plain("parameters", parameters),
        "seed": seed,
        "metrics": _plain("metrics", metrics),
        "seconds": None if seconds is None else round(seconds, 3),
        **provenance(),
    }
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    path = (folder or paths.results()) / f"{study}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.json"
    with paths.replacing(path) as temporary:
        temporary.write_text(text)
    return path


def results(study: str | None = None, folder: Path | None = None) -> pd.DataFrame:
    """The published records, or those in another folder, oldest first; all, or those of one study.

    A row each, nested values in columns like `metrics.accuracy`; the column `record` holds the file's name. Raises
    ValueError naming a file that is not a whole record.
    """
    rows = []
    for path in sorted((folder or paths.PUBLISHED).glob("*.json")):
        try:
            content = json.loads(path.read_text())
            if content["schema"] != SCHEMA:
                raise KeyError(f"schema {content['schema']}")
            if missing := {"study", "date", "metrics", "parameters"} - content.keys():
                raise KeyError(f"without {', '.join(sorted(missing))}")
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path.name} is not a record of schema {SCHEMA} ({error}): remove or restore it"
            ) from None
        if study in (None, content["study"]):
            rows.append({"record": path.stem, **content})
    frame = pd.json_normalize(rows)
    return frame.sort_values("date", ignore_index=True) if len(frame) else frame


def _plain(name: str, value: Any) -> Any:
    """A value made of what JSON holds; numbers of numpy and torch become Python's."""
    if isinstance(value, Mapping):
        return {str(key): _plain(f"{name}.{key}", item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(f"{name}[{i}]", item) for i, item in enumerate(value)]
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{name} is {value}; a record holds finite numbers only")
        return value
    raise ValueError(f"{name} is a {type(value).__name__}; a record holds numbers, texts, lists and mappings")
