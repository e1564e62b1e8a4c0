"""A learner's own copies of the lessons, in a folder that git ignores: answers are never overwritten."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import nbformat

from tnlib import paths

FOLDER = paths.ROOT / "learn"
_STATE, _LAB = ".copied.json", ".lab"
_BESIDE = ("README.md", "GLOSSARY.md", "overview.png")
_LINK = re.compile(r"(\]\()([^)\s#:]+)(?=[)#])")
# Markdown opens as a page, nothing is asked for over the network, and jupytext, which pairs a contributor's notebook
# with its source, stays out of the way.
_SETTINGS = {
    "overrides.json": {
        "@jupyterlab/docmanager-extension:plugin": {"defaultViewers": {"markdown": "Markdown Preview"}},
        "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
    },
    "page_config.json": {"disabledExtensions": {"jupyterlab-jupytext": True}},
}
SIGNS = {True: "✓", False: "✗", None: "○"}


@dataclass(frozen=True)
class Change:
    """What became of one copy: "new", "updated" (no answer was in it), or "beside" (yours stays, see `path`)."""

    name: str
    kind: str
    path: Path
    cells: int


def update(folder: Path = FOLDER, originals: Path = paths.NOTEBOOKS) -> list[Change]:
    """Copy the lessons, their solutions and pages that are not there yet, and those that have changed.

    A copy is overwritten only where its cells are as they were copied; outputs do not count. Where they are not, the
    new lesson is written beside it, as `NAME.new.ipynb`, once. Returns what was written.
    """
    state, changes = _state(folder), []
    for name in _names(originals):
        text = _copied(originals, name)
        now, was = _digests(name, text), state.get(name)
        mine = folder / name
        if not mine.exists():
            kind, target = "new", mine
        elif was == now or _digests(name, mine.read_bytes()) == now:
            state[name] = now
            continue
        elif _digests(name, mine.read_bytes()) == was:
            kind, target = "updated", mine
        else:
            kind, target = "beside", _free(mine, now, state, folder)
        with paths.replacing(target) as temporary:
            temporary.write_bytes(text)
        state[name] = now
        if kind == "beside":
            state[str(target.relative_to(folder))] = now
        changes.append(Change(name, kind, target, _differing(was or [], now)))
        _write(folder / _STATE, state)  # now: what is interrupted must not take a new copy for an edited one
    _write(folder / _STATE, state)
    for name, settings in _SETTINGS.items():
        _write(folder / _LAB / name, settings)
    return changes


def progress(folder: Path = FOLDER) -> dict[str, bool | None]:
    """What the saved copies say of each exercise: solved (True), wrong (False), or not attempted (None).

    Read from the outputs of the checks' cells; the best of several copies of a lesson counts.
    """
    from tnlib.check import EXERCISES  # imports torch; copying need not wait for it

    found: dict[str, bool | None] = dict.fromkeys(EXERCISES)
    for path in sorted(folder.glob("*.ipynb")):
        for text in _outputs(path):
            for name in EXERCISES:
                for passed in (True, False):
                    word = "Right." if passed else "Wrong."
                    if re.match(rf"{SIGNS[passed]} {word} {name}\b", text) and found[name] is not True:
                        found[name] = passed
    return found


def _names(originals: Path) -> list[str]:
    books = [*originals.glob("[0-9]*.ipynb"), *originals.glob("solutions/[0-9]*.ipynb")]
    return [*_BESIDE, *sorted(str(book.relative_to(originals)) for book in books)]


def _copied(originals: Path, name: str) -> bytes:
    """A file as a learner gets it: links to what is not copied lead to the original."""
    path = originals / name
    names, up = {*_names(originals), "solutions"}, "../" * (name.count("/") + 1)

    def link(match: re.Match[str]) -> str:
        target = (path.parent / match[2]).resolve()
        if not target.is_relative_to(originals.resolve()) or str(target.relative_to(originals.resolve())) in names:
            return match[0]
        return f"{match[1]}{up}{originals.name}/{target.relative_to(originals.resolve())}"

    if path.suffix == ".md":
        return _LINK.sub(link, path.read_text()).encode()
    if path.suffix != ".ipynb":
        return path.read_bytes()
    book = nbformat.read(path, as_version=4)
    book.metadata.pop("jupytext", None)
    for cell in book.cells:
        if cell.cell_type == "markdown":
            cell.source = _LINK.sub(link, cell.source)
    return f"{nbformat.writes(book)}\n".encode()


def _digests(name: str, content: bytes) -> list[str]:
    """One digest for each cell's source, of other files one in all; none of what is no notebook any more."""
    if not name.endswith(".ipynb"):
        return [sha256(content).hexdigest()[:16]]
    try:
        cells = json.loads(content)["cells"]
        sources = ["".join(cell["source"]) for cell in cells]
    except (ValueError, KeyError, TypeError):
        return []
    return [sha256(source.encode()).hexdigest()[:16] for source in sources]


def _differing(was: list[str], now: list[str]) -> int:
    return len(set(now) - set(was)) + max(0, len(was) - len(now))


def _free(mine: Path, now: list[str], state: dict[str, list[str]], folder: Path) -> Path:
    """Where a new lesson goes beside an edited one: the first of NAME.new, NAME.new2, ... that holds no answer."""
    for number in range(1, 1000):
        path = mine.with_name(f"{mine.stem}.new{number if number > 1 else ''}{mine.suffix}")
        if not path.exists() or _digests(mine.name, path.read_bytes()) in (
            now,
            state.get(str(path.relative_to(folder))),
        ):
            return path
    raise OSError(f"{mine.parent} holds a thousand versions of {mine.name}: delete some")


def _outputs(path: Path) -> Iterator[str]:
    """The texts that a notebook's checks returned; nothing of a damaged file."""
    try:
        cells = json.loads(path.read_bytes())["cells"]
        for cell in cells:
            if "check." in "".join(cell["source"]):
                for output in cell.get("outputs", ()):
                    yield "".join(output.get("data", {}).get("text/plain", ""))
    except (ValueError, KeyError, TypeError):
        return


def _state(folder: Path) -> dict[str, list[str]]:
    try:
        state = json.loads((folder / _STATE).read_bytes())
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def _write(path: Path, content: object) -> None:
    with paths.replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")
