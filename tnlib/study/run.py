"""Execute notebooks with papermill, with parameters that are checked first."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tnlib import paths
from tnlib.provenance import code_digest
from tnlib.study.parameters import complete, digest, hint, read_notebook

_DIED = "the kernel died"


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

    @property
    def died(self) -> bool:
        """Whether the kernel was killed, by the system or by somebody."""
        return self.error.startswith(_DIED)


def notebooks(names: Sequence[str] = ()) -> list[Path]:
    """Notebooks by number (`00`), name, words of the title, or path; all numbered ones when no name is given.

    Raises ValueError for a name that no notebook has, or a title that several have.
    """
    known = {path.stem: path for path in sorted(paths.NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))}
    known |= {path.stem: path for path in sorted((paths.NOTEBOOKS / "experiments").glob("*.ipynb"))}
    if not names and not known:
        raise ValueError(paths.needs_repository("a lesson"))
    if not names:
        return [path for stem, path in known.items() if stem[:2].isdigit()]
    return [_notebook(name, known) for name in names]


def run_notebook(
    notebook: Path,
    parameters: Mapping[str, Any] | None = None,
    *,
    out: Path | None = None,
    results: Path | None = None,
    progress: bool = False,
    name: str | None = None,
    run: Mapping[str, Any] | None = None,
    threads: int | None = None,
    timeout: float | None = None,
) -> NotebookRun:
    """Execute a copy of a notebook from a fresh kernel.

    Args:
        notebook: path of the notebook; it is not changed.
        parameters: injected after its `parameters` cell.
        out: folder of the executed copy, by default `runs/`.
        results: folder for the records that it writes, by default `results/` in `out`.
        progress: show papermill's progress bar.
        name: of the executed copy, by default that of the notebook.
        run: entries to add to `run` in its records (a sweep's name and key).
        threads: that the kernel computes with, by default what it finds.
        timeout: seconds for the whole notebook.

    Returns:
        `NotebookRun`; a cell that raises, a kernel that dies and a timeout are reported in it. The copy of a failed
        run is named `NAME-failed.ipynb`; an earlier good copy becomes `NAME-before.ipynb`. ValueError for parameters
        that the notebook does not take, before anything runs.
    """
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    from tnlib.study import engine  # registers the engine

    values = complete(notebook, parameters or {})
    folder = (out or paths.RUNS).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / (name or notebook.name)
    working = target.with_stem(f"{target.stem}-failed")
    store = Path(results or os.environ.get("TNLIB_RESULTS") or folder / "results")
    environment = paths.absolute(os.environ) | {
        "TNLIB_RESULTS": str(store.absolute()),
        "TNLIB_RUN": json.dumps({**about(notebook, values), **(run or {})}),
    }
    if threads:
        environment |= dict.fromkeys(engine.THREADS, str(threads))
    started, error, cell = time.perf_counter(), "", ""
    try:
        papermill.execute_notebook(
            _unformatted(notebook),
            _unformatted(working),
            parameters={key: values[key] for key in parameters or {}},
            kernel_name="python3",
            engine_name=engine.NAME,
            progress_bar=progress,
            folder=str(notebook.resolve().parent),
            environment=environment,
            deadline=None if timeout is None else started + timeout,
        )
    except PapermillExecutionError as failure:
        error = f"{failure.ename}: {failure.evalue}"
        cell = f"cell [{failure.exec_count}]:\n{failure.source}"
    except CellTimeoutError:
        error = f"took longer than {timeout:g} s"
    except (DeadKernelError, RuntimeError) as failure:  # a kernel that could not start is a RuntimeError
        error = f"{_DIED} ({failure})"
    if not error:
        if target.exists():
            target.replace(target.with_stem(f"{target.stem}-before"))
        working.replace(target)
    return NotebookRun(notebook.stem, working if error else target, time.perf_counter() - started, error, cell)


def about(notebook: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """What a record says of its run: the notebook, its code and that of tnlib, all parameters."""
    where = notebook.resolve()
    inside = where.is_relative_to(paths.ROOT)
    return {
        "notebook": where.relative_to(paths.ROOT).as_posix() if inside else where.name,
        "digest": digest(notebook),
        "code": code_digest(notebook),
        "parameters": dict(values),
    }


def _notebook(name: str, known: Mapping[str, Path]) -> Path:
    if name.endswith(".ipynb") and Path(name).is_file():
        return Path(name)
    matches = [path for stem, path in known.items() if name == stem or stem.startswith(f"{name}_")]
    if not matches:
        matches = [path for path in known.values() if name.lower() in _title(path).lower()]
    if len(matches) > 1:
        raise ValueError(f"{name!r} is in the title of {', '.join(path.stem for path in matches)}; which one?")
    if not matches and not known and not name.endswith(".ipynb"):
        raise ValueError(f"no notebook {name!r}: {paths.needs_repository('what is named by number, name or title')}")
    if not matches:
        near = [*known, *(path.stem for path in Path.cwd().glob("*.ipynb"))]
        raise ValueError(
            f"no notebook {name!r}{hint(name.removesuffix('.ipynb'), near)} (expected a path, words of a title, "
            f"or one of {', '.join(known)})"
        )
    return matches[0]


def _title(notebook: Path) -> str:
    """The first heading of a notebook."""
    for cell in read_notebook(notebook)["cells"]:
        if match := re.search(r"^# (.+)$", cell["source"], re.MULTILINE):
            return match[1]
    return ""


def _unformatted(path: Path) -> str:
    """A path for papermill, which puts parameters into braces."""
    return str(path).replace("{", "{{").replace("}", "}}")
