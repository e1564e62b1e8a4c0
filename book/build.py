"""Build the web book: stage its pages, have Sphinx make a site of them, check every link. Nothing is executed.

`python book/build.py` writes `build/book/`; open `build/book/index.html`, from a disk or a server. The pages are the
notebooks with their stored outputs, the files in Markdown beside them, and what `pages` makes. They are staged in
`build/book-source/`, in the folders of the repository, so that links between them are those of the repository.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path

import links
import nbformat
import pages
from sphinx.cmd.build import build_main

from tnlib import paths

HERE = Path(__file__).resolve().parent
# What pages show, read or let the reader take away.
ASSETS = ["LICENSE", "CITATION.cff", "notebooks/overview.png", "notebooks/sweeps/*.yaml", "data/reference/*"]
ASSETS += ["data/embedded/*.py", "tnlib/deploy/on_device.py"]
TEXTS = ["notebooks/*.md", "notebooks/*/README.md", "data/README.md"]
NOTEBOOKS = ["notebooks/[0-9]*.ipynb", "notebooks/solutions/*.ipynb", "notebooks/experiments/*.ipynb"]


def stage(folder: Path) -> None:
    """Write the sources of the book into a folder; what has not changed keeps its time, what is gone is removed."""
    texts = {Path(name): text for name, text in pages.written().items()}
    for path in _found(TEXTS):
        texts[path] = (paths.ROOT / path).read_text()
    for path in _found(NOTEBOOKS):
        texts[path] = nbformat.writes(prepared(paths.ROOT / path))
    experiments = sorted(path.stem for path in texts if path.parent.name == "experiments" and path.suffix == ".ipynb")
    tree = "\n".join(["", "```{toctree}", ":hidden:", "", *experiments, "```", ""])
    texts[Path("notebooks/experiments/README.md")] += tree
    assets = _found(ASSETS)
    for old in [path for path in folder.rglob("*") if path.is_file()]:
        if old.relative_to(folder) not in {*texts, *assets}:
            old.unlink()
    for name, text in texts.items():
        target = folder / name
        if not target.exists() or target.read_text() != text:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
    for name in assets:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(paths.ROOT / name, folder / name)


def _found(patterns: list[str]) -> list[Path]:
    return sorted({path.relative_to(paths.ROOT) for pattern in patterns for path in paths.ROOT.glob(pattern)})


def prepared(path: Path) -> nbformat.NotebookNode:
    """A notebook as the book shows it: how to run it below its first cell; outputs that JupyterLab hides are folded."""
    book = nbformat.read(path, 4)
    for cell in book.cells:
        if cell.metadata.get("jupyter", {}).get("outputs_hidden"):
            cell.metadata.tags = [*cell.metadata.get("tags", []), "hide-output"]
    name = path.relative_to(paths.NOTEBOOKS).with_suffix("")
    how = f"`tnlib run {name}` executes a copy of it, in `runs/`."
    if path.parent == paths.NOTEBOOKS:
        how = f"`make lab` opens JupyterLab on copies of your own; there, open `{path.name}`. "
        how += f"`tnlib run {path.name[:2]}` executes it as it is."
    shown = f"{how} This page shows the stored outputs. {{download}}`Take the notebook <{path.name}>`."
    text = f":::{{admonition}} Run this\n:class: tip\n{shown}\n:::"
    book.cells.insert(1, nbformat.v4.new_markdown_cell(text, id="run-this"))
    return book


def build(target: Path) -> list[str]:
    """Build the site into `target`, and return what is wrong with its links.

    Raises:
        RuntimeError: Sphinx failed, or warned.
    """
    source, doctrees = target.with_name(f"{target.name}-source"), target.with_name(f"{target.name}-doctrees")
    stage(source)
    arguments = ["-b", "html", "-c", str(HERE), "-d", str(doctrees), "-W", "--keep-going", "-q"]
    if build_main([*arguments, str(source), str(target)]):
        raise RuntimeError("Sphinx could not build the book, or warned; see above")
    return links.problems(target)


def main() -> int:
    """The command: build, say what it took and what is wrong."""
    parser = argparse.ArgumentParser(description="Build the web book from the stored outputs.")
    parser.add_argument("target", nargs="?", type=Path, default=paths.ROOT / "build" / "book", help="folder to write")
    given = parser.parse_args()
    start = time.perf_counter()
    try:
        wrong = build(given.target.resolve())
    except (RuntimeError, ValueError) as error:
        print(f"make book: {error}", file=sys.stderr)
        return 1
    print("\n".join(wrong) or f"{given.target}/index.html: all links hold; {time.perf_counter() - start:.0f} s")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
