"""Execute notebooks with papermill, with parameters that are checked first."""

from __future__ import annotations

import difflib
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tnlib import paths


@dataclass(frozen=True)
class NotebookRun:
    """What became of one execution: its copy's path, seconds, and for a failure the cell and the error."""

    notebook: str
    output: Path
    seconds: float
    error: str = ""
    failed_cell: str = ""

    @property
    def ok(self) -> bool:
        """Whether every cell ran."""
        return not self.error


def notebooks(names: Sequence[str] = ()) -> list[Path]:
    """Notebooks by number (`00`), name or path; all numbered ones, in order, when no name is given.

    Raises ValueError for a name that no notebook has.
    """
    known = {path.stem: path for path in sorted(paths.NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))}
    if not names:
        return list(known.values())
    found = []
    for name in names:
        matches = [path for stem, path in known.items() if name == stem or stem.startswith(f"{name}_")]
        if not matches and Path(name).is_file() and name.endswith(".ipynb"):
            matches = [Path(name)]
        if not matches:
            raise ValueError(f"no notebook {name!r}; expected a path or one of {', '.join(known)}")
        found += matches
    return found


def parameters_of(notebook: Path) -> dict[str, Any]:
    """Names of a notebook's parameters and what papermill knows of each: inferred type, default, help."""
    import papermill

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result: dict[str, Any] = papermill.inspect_notebook(str(notebook))
    return result


def check_parameters(notebook: Path, given: Mapping[str, Any]) -> None:
    """Raise ValueError when a notebook has no parameter of some given name (papermill would only warn)."""
    known = parameters_of(notebook) if given else {}
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"{notebook.stem} has no parameter {name!r}{hint} It has: {', '.join(known) or 'none'}")


def run_notebook(
    notebook: Path,
    parameters: Mapping[str, Any] | None = None,
    *,
    out: Path | None = None,
    results: Path | None = None,
    progress: bool = False,
) -> NotebookRun:
    """Execute a copy of a notebook from a fresh kernel.

    Args:
        notebook: path of the notebook; it is not changed.
        parameters: injected after its `parameters` cell.
        out: folder of the executed copy, by default `runs/`.
        results: folder for the records that it writes, by default `results/` in `out`.
        progress: show papermill's progress bar.

    Returns:
        `NotebookRun`; a cell that raises is reported in it. ValueError for an unknown parameter, before anything runs.
    """
    import papermill
    from papermill.exceptions import PapermillExecutionError

    parameters = dict(parameters or {})
    check_parameters(notebook, parameters)
    folder = (out or paths.RUNS).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / notebook.name
    inherited = os.environ.get("TNLIB_RESULTS")
    os.environ["TNLIB_RESULTS"] = str(results or inherited or folder / "results")
    started, error, cell = time.perf_counter(), "", ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            papermill.execute_notebook(
                str(notebook),
                str(target),
                parameters=parameters,
                kernel_name="python3",
                cwd=str(notebook.resolve().parent),
                progress_bar=progress,
            )
    except PapermillExecutionError as failure:
        error = f"{failure.ename}: {failure.evalue}"
        cell = f"cell [{failure.exec_count}]:\n{failure.source}"
    finally:
        if inherited is None:
            del os.environ["TNLIB_RESULTS"]
        else:
            os.environ["TNLIB_RESULTS"] = inherited
    return NotebookRun(notebook.stem, target, time.perf_counter() - started, error, cell)
