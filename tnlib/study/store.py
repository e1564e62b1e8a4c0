"""The records behind every number that may be quoted: one JSON file each, written once, whole or not at all.

A folder is a store. Any number of processes may write to it at the same time: a record is written beside its place,
flushed to disk, and linked to its name, which fails when the name is taken. Nothing is changed or deleted; a damaged
record is moved to `damaged/`. Only files that are named as records (`is_record_name`) are ever read or moved: a store
may be anybody's folder. A record carries the SHA-256 of its content, so that a number edited by hand is noticed.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import sys
import uuid
import warnings
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fastjsonschema

from tnlib import paths

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 2
STUDY = r"[a-z0-9]+(?:-[a-z0-9]+)*"


class DamagedRecordError(ValueError):
    """A file in a store that is not a whole, valid record."""


def record(
    study: str,
    metrics: Mapping[str, Any],
    *,
    parameters: Mapping[str, Any] | None = None,
    source: str | None = None,
    seed: int | None = None,
    seconds: float | None = None,
    folder: Path | None = None,
    run: Mapping[str, Any] | None = None,
) -> Path:
    """Write one record. In a notebook that tnlib runs, `record(study, metrics)` is enough.

    Args:
        study: short name of what was measured, lower-case words with hyphens; the file's name starts with it.
        metrics: name -> number, text, list or mapping of such.
        parameters: everything that decides the metrics; by default the parameters of the run.
        source: the notebook or command that wrote it; by default the notebook of the run.
        seed: of the randomness, where there is some; by default the parameter of that name.
        seconds: wall time of the measurement.
        folder: where to, by default `TNLIB_RESULTS` or else `runs/results/`.
        run: the notebook run that it belongs to, by default the one that is going on (the variable `TNLIB_RUN`). An
            entry `code` is the `code_digest` of its notebook; without it, the modules of tnlib in use are digested.

    Returns:
        The file's path. Two different records never share one. In a run, the record also says which notebook with
        which parameters that was (`tnlib run --from` repeats it).

    Raises:
        ValueError: a bad name, nan, infinity, something that JSON cannot hold, or parameters or source missing
            outside a run.
    """
    from tnlib.provenance import code_digest, provenance

    if not re.fullmatch(STUDY, study):
        raise ValueError(f"study {study!r} must be lower-case words joined by hyphens")
    if run is None and (variable := os.environ.get("TNLIB_RUN")):
        run = json.loads(variable)
    known = dict(run or {})
    code = known.pop("code", None) or code_digest("\n".join(f"import {m}" for m in list(sys.modules) if _is_ours(m)))
    parameters = known.get("parameters") if parameters is None else parameters
    source = source or known.get("notebook")
    if parameters is None or source is None:
        raise ValueError(
            "this is no notebook run of tnlib, so a record needs to be told where it comes from: "
            "record(study, metrics, parameters={...}, source='notebook or command')"
        )
    if seed is None and type(parameters.get("seed")) is int:
        seed = parameters["seed"]
    content = sealed(
        {
            "schema": SCHEMA,
            "study": study,
            "source": source,
            "parameters": _plain("parameters", parameters),
            "seed": seed,
            "metrics": _plain("metrics", metrics),
            "seconds": None if seconds is None else round(seconds, 3),
            "run": known or None,
            "code": code,
            **provenance(),
        }
    )
    return put(content, (folder or paths.results()) / f"{study}-{content['sha256'][:12]}.json")


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content with the SHA-256 of all but itself. Raises ValueError when it is not a record."""
    rest = {key: value for key, value in content.items() if key != "sha256"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False)
    result = {**rest, "sha256": hashlib.sha256(text.encode()).hexdigest()}
    try:
        _validator()(result)
    except fastjsonschema.JsonSchemaValueException as problem:
        raise ValueError(f"not a record: {problem.message.replace('data', 'it', 1)}") from None
    return result


def put(content: Mapping[str, Any], path: Path) -> Path:
    """Write a sealed record under a name, on disk when this returns. A valid record already there is kept.

    A damaged file of that name is quarantined first. Raises ValueError for a name that no record has.
    """
    if not is_record_name(path.name):
        raise ValueError(f"{path.name} does not name a record")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        with temporary.open("x") as handle:
            handle.write(json.dumps(content, indent=1, allow_nan=False) + "\n")
            handle.flush()
            os.fsync(handle.fileno())
        while True:
            try:
                path.hardlink_to(temporary)
                break
            except FileExistsError:
                try:
                    read(path)
                    return path
                except DamagedRecordError:
                    if path.is_dir():
                        raise
                    quarantine(path)
    finally:
        temporary.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return path


def is_record_name(name: str) -> bool:
    """Whether a file of this name is a record: the study, then 12 digits of its hash or a run's key (and a part)."""
    return re.fullmatch(rf"{STUDY}-(?:[0-9a-f]{{12}}|[0-9a-f]{{16}}(?:-\d+)?)\.json", name) is not None


def read(path: Path) -> dict[str, Any]:
    """One record. Raises DamagedRecordError naming the file when it is not whole, or was changed by hand."""
    try:
        text = path.read_text()
        content = json.loads(text)
        if content["schema"] == 1:  # before records had a seal: the name holds the hash of the file
            if hashlib.sha256(text.encode()).hexdigest()[:12] != path.stem.rsplit("-", 1)[-1]:
                raise ValueError("its content was changed")
            return {"run": None, **content}
        if sealed(content)["sha256"] != content["sha256"]:
            raise ValueError("its content was changed")
    except (FileNotFoundError, PermissionError):
        raise
    except (ValueError, KeyError, TypeError, OSError, RecursionError) as error:
        raise DamagedRecordError(f"{path.name} is not a whole record: {error}") from None
    return dict(content)


def read_all(folder: Path) -> Iterator[tuple[Path, dict[str, Any] | DamagedRecordError]]:
    """Every record of a store, or what is wrong with it, in the order of names; other files are passed over."""
    for path in sorted(folder.glob("*.json")):
        if not (is_record_name(path.name) and path.is_file()):
            continue
        try:
            yield path, read(path)
        except DamagedRecordError as error:
            yield path, error
        except FileNotFoundError:  # quarantined by somebody else meanwhile
            continue


def made_by_other_code(content: Mapping[str, Any], code: str) -> bool | None:
    """Whether a record was made by other tnlib code than `code`, the `code_digest` of its notebook today.

    None when that is unknown: records did not always say.
    """
    made_by = content.get("code")
    return None if made_by is None else bool(made_by != code)


def results(study: str | None = None, folder: Path | None = None) -> pd.DataFrame:
    """The published records, or those of another store, oldest first; all, or those of one study.

    A row each, nested values in columns like `metrics.accuracy`; the column `record` holds the file's name. A damaged
    file is named in a warning and left out.
    """
    import pandas as pd

    rows = []
    for path, content in read_all(folder or paths.PUBLISHED):
        if isinstance(content, DamagedRecordError):
            warnings.warn(f"left out: {content}", stacklevel=2)
        elif study in (None, content["study"]):
            rows.append({"record": path.stem, **content})
    frame = pd.json_normalize(rows)
    return frame.sort_values("date", ignore_index=True, kind="stable") if len(frame) else frame


def quarantine(path: Path) -> Path | None:
    """Move a damaged record to the store's `damaged/` folder, under a name that is free.

    None when it is gone already, or is no record by its name: such a file is not ours to move.
    """
    if not (is_record_name(path.name) and path.is_file()):
        return None
    folder = path.parent / "damaged"
    folder.mkdir(exist_ok=True)
    target = folder / f"{path.stem}-{uuid.uuid4().hex[:8]}{path.suffix}"
    try:
        path.rename(target)
    except FileNotFoundError:
        return None
    return target


@cache
def _validator() -> Any:
    return fastjsonschema.compile(json.loads(Path(__file__).with_name("record.schema.json").read_text()))


def _is_ours(module: str) -> bool:
    return module == "tnlib" or module.startswith("tnlib.")


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
