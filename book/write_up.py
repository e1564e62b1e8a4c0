"""Make the write-up on the scheme: run its notebook on the records, keep what it shows, leave out its code.

`python book/write_up.py` writes `build/writeup/emis.html`: one file that asks nothing of a network, two pages when
printed on A4.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import jupytext
from nbclient import NotebookClient
from nbconvert import HTMLExporter

from tnlib import paths

HERE = Path(__file__).resolve().parent
STYLE = """
@page { size: A4; margin: 14mm 16mm }
body { font: 10.3pt/1.32 Georgia, "Times New Roman", serif; color: #111 }
body { max-width: 178mm; margin: 2em auto; padding: 0 1em }
h1 { font-size: 16pt; line-height: 1.15; margin: 0 0 .3em } h2 { font-size: 12pt; margin: .8em 0 .2em }
p { margin: .35em 0 }
table { border-collapse: collapse; font-size: 8.8pt; margin: .4em 0 } th, td { padding: .1em .6em; text-align: right }
th { border-bottom: 1px solid #888; font-weight: 600 }
th:first-child, td:first-child { text-align: left; white-space: nowrap }
img { max-width: 100% } .anchor-link, .prompt { display: none }
@media print { body { margin: 0; padding: 0; max-width: none } }
@media screen and (prefers-color-scheme: dark) { body { background: #181818; color: #ddd } img { background: #fff } }
"""


def written(source: Path) -> str:
    """The page of a notebook in Markdown and Python, executed in the folder of the project.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell fails.
    """
    notebook = jupytext.read(source)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(paths.ROOT)}}).execute()
    exporter = HTMLExporter(template_name="basic", exclude_input=True, exclude_input_prompt=True)
    body, _ = exporter.from_notebook_node(notebook)
    title = next(line.removeprefix("# ") for line in notebook.cells[0].source.splitlines() if line.startswith("# "))
    head = f'<meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n{body}\n</body></html>\n'


def main() -> int:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=paths.ROOT / "build" / "writeup")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "emis.html"
    with paths.replacing(target) as temporary:
        temporary.write_text(written(HERE / "writeup" / "emis.py"), encoding="utf-8")
    print(f"{target.name} is written to {folder.name}/")
    return 0


if __name__ == "__main__":
    sys.exit(main())
