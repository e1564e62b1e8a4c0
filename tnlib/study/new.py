"""An experiment notebook of one's own, and a sweep of it, from the one that the lesson on studies uses."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat

from tnlib import paths

TEMPLATE = paths.NOTEBOOKS / "experiments" / "compress_one_layer.ipynb"

SWEEP = """\
# What this sweep is to answer: one line. Run it with: tnlib sweep {name}.yaml
notebook: {name}.ipynb
parameters: {{profile: quick}}
grid:
  format: [cp, tucker2]
  rank: [8, 16]
seeds: [0, 1, 2]
time_limit: 1h
"""


def new(name: str, folder: Path) -> list[Path]:
    """Write `NAME.ipynb` (a working experiment, without outputs) and `NAME.yaml` (a sweep of it).

    Raises ValueError for a name that is no identifier, when a file of that name is there, and outside the repository.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ValueError(f"a notebook's name is made of lower-case letters, digits and underscores, got {name!r}")
    if not TEMPLATE.is_file():
        raise ValueError(paths.needs_repository("the experiment that `new` copies"))
    targets = [folder / f"{name}.ipynb", folder / f"{name}.yaml"]
    if taken := [path.name for path in targets if path.exists()]:
        raise ValueError(f"{' and '.join(taken)} exist already; nothing was written")
    book = nbformat.read(TEMPLATE, 4)
    study, title = name.replace("_", "-"), name.replace("_", " ").capitalize()
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        cell.source = (
            re.sub(r"^# .+$", f"# {title}", cell.source, count=1) if cell.source.startswith("# ") else cell.source
        )
        cell.source = cell.source.replace(TEMPLATE.stem.replace("_", "-"), study).replace(TEMPLATE.stem, name)
    book.metadata.pop("tnlib", None)
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in zip(targets, (nbformat.writes(book) + "\n", SWEEP.format(name=name)), strict=True):
        with paths.replacing(path) as temporary:
            temporary.write_text(text)
    return targets
