"""From a notebook's source (jupytext, py:percent) to the executed notebook that is committed."""

from __future__ import annotations

import json
import os
import time
import warnings
from pathlib import Path

import nbformat

from tnlib import paths
from tnlib.provenance import code_digest
from tnlib.study.parameters import digest, parameters_of

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def source_of(notebook: Path) -> Path:
    """The text twin of a notebook."""
    return notebook.parent / "source" / f"{notebook.stem}.py"


def read_source(source: Path) -> nbformat.NotebookNode:
    """The notebook that a source describes, without outputs; cell ids are the cells' numbers: diffs stay small."""
    import jupytext

    book = jupytext.read(source, fmt="py:percent")
    book.metadata = nbformat.NotebookNode({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    for number, cell in enumerate(book.cells):
        cell.id = f"cell-{number:03d}"
    book.nbformat, book.nbformat_minor = 4, 5
    return book


def publish(source: Path, *, results: Path | None = None) -> Path:
    """Execute a source from a fresh kernel and write the notebook beside its `source/` folder.

    Records go to `results`, by default those of lessons to the published ones, and those of experiments, which are made
    to be swept, to `runs/results/`. Raises CellExecutionError, writing nothing, when a cell fails.
    """
    from nbclient import NotebookClient

    notebook = source.parent.parent / f"{source.stem}.ipynb"
    book = read_source(source)
    inside = notebook.is_relative_to(paths.ROOT)
    results = results or (paths.results() if notebook.parent.name == "experiments" else paths.PUBLISHED)
    told = {
        "notebook": notebook.relative_to(paths.ROOT).as_posix() if inside else notebook.name,
        "digest": digest(book),
        "code": code_digest(source),
        "parameters": {name: parameter.default for name, parameter in parameters_of(book).items()},
    }
    environment = paths.absolute(os.environ) | {
        "TNLIB_RESULTS": str(results.absolute()),
        "TNLIB_RUN": json.dumps(told),
    }
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        NotebookClient(
            book,
            timeout=3600,
            kernel_name="python3",
            extra_arguments=["--log-level=CRITICAL"],
            resources={"metadata": {"path": str(notebook.parent)}},
        ).execute(env=environment)
    book.metadata["tnlib"] = {"seconds": round(time.perf_counter() - started)}
    for cell in book.cells:
        cell.metadata.pop("execution", None)
    with paths.replacing(notebook) as temporary:
        temporary.write_text(nbformat.writes(book) + "\n")
    return notebook


def sources() -> list[Path]:
    """All notebook sources: lessons, solutions, experiments."""
    folders = [paths.NOTEBOOKS, paths.NOTEBOOKS / "solutions", paths.NOTEBOOKS / "experiments"]
    return [source for folder in folders for source in sorted((folder / "source").glob("*.py"))]
