"""The pages of the book that no notebook is: made of README's sections, headers of lessons, docstrings and tables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from itertools import accumulate
from pathlib import Path

import click
import explorer
import nbformat
import pandas as pd

from tnlib import paths
from tnlib.study import cli

# README's sections, each a page of its own or, under "index", a part of the first one. "Lessons" is not among them: the
# first page has a table made from the lessons themselves.
SECTIONS = {
    "Two commands": "index",
    "Results": "results",
    "Re-run with other parameters": "studies",
    "Use `tnlib` on your own network": "use",
    "For contributors": "contributors",
}
PARTS = ["decompose", "contract", "layers", "compress", "measure", "deploy", "data", "models", "train", "plots"]
PARTS += ["check", "study"]


@dataclass(frozen=True)
class Lesson:
    """What the first cell of a lesson says of it."""

    path: Path
    title: str
    learn: str
    first: str
    minutes: int
    difficulty: str

    @property
    def number(self) -> str:
        """Two digits, as texts name it."""
        return self.path.name[:2]


def lessons() -> list[Lesson]:
    """All lessons, in the order of their numbers.

    Raises:
        ValueError: a lesson whose first cell does not have the house's header.
    """
    return [_lesson(path) for path in sorted(paths.NOTEBOOKS.glob("[0-9]*.ipynb"))]


def _lesson(path: Path) -> Lesson:
    text = nbformat.read(path, 4).cells[0].source
    fields = dict(re.findall(r"\*\*(What you'll learn|What you need first|Time|Difficulty)\.\*\*\s+((?:.+\n?)+)", text))
    fields |= dict(re.findall(r"\*\*(Difficulty)\.\*\* ([^.]+)\.", text))
    title = re.match(r"# (.+)", text)
    minutes = re.match(r"(\d+) minutes", fields.get("Time", ""))
    missing = {"What you'll learn", "What you need first", "Time", "Difficulty"} - set(fields)
    if missing or not title or not minutes:
        raise ValueError(
            f"the first cell of {path.name} lacks a title or {', '.join(sorted(missing)) or 'its minutes'}"
        )
    learn, first = (" ".join(fields[name].split()) for name in ("What you'll learn", "What you need first"))
    return Lesson(path, title[1], learn, first, int(minutes[1]), fields["Difficulty"])


def written() -> dict[str, str]:
    """Every generated page: its path within the book's sources and its Markdown."""
    readme = _sections((paths.ROOT / "README.md").read_text())
    pages = {
        f"{SECTIONS[name]}.md": f"# {text}" for name, text in readme.items() if SECTIONS.get(name, "index") != "index"
    }
    pages["index.md"] = _index(readme)
    pages["notebooks/solutions/index.md"] = _solutions()
    pages["works.md"] = _works()
    pages["explorer.md"] = explorer.page()
    pages["commands.md"] = _commands()
    pages["api/index.md"] = "# The package `tnlib`\n\n" + _toctree([f"{part} <{part}>" for part in PARTS])
    return pages | {f"api/{part}.md": _part(part) for part in PARTS}


def _sections(readme: str) -> dict[str, str]:
    """README's parts by heading; what stands before the first one under the empty text."""
    parts = re.split(r"^## ", readme, flags=re.MULTILINE)
    return {"": parts[0]} | {part.partition("\n")[0]: part for part in parts[1:]}


def _toctree(entries: list[str], caption: str = "", *, hidden: bool = False) -> str:
    options = [":maxdepth: 1", *([f":caption: {caption}"] if caption else []), *([":hidden:"] if hidden else [])]
    return "\n".join(["```{toctree}", *options, "", *entries, "```", ""])


def _index(readme: dict[str, str]) -> str:
    path = lessons()
    hours = accumulate(lesson.minutes / 60 for lesson in path)
    rows = [
        f"| [{lesson.number}](notebooks/{lesson.path.name}) | **[{lesson.title}](notebooks/{lesson.path.name})**<br>"
        f"{lesson.learn}<br>*First:* {lesson.first} | {lesson.minutes} | {hour:.0f} | {lesson.difficulty} |"
        for lesson, hour in zip(path, hours, strict=True)
    ]
    head = ["| | lesson, what you'll learn, what you need first | minutes | hours so far | difficulty |"]
    table = "\n".join([*head, "| --- | --- | --- | --- | --- |", *rows])
    names = ["notebooks/README", *(f"{name} <notebooks/{stem}>" for stem, name in short_names().items())]
    answers = ["explorer", "notebooks/solutions/index", "notebooks/experiments/README", "notebooks/sweeps/README"]
    trees = [
        _toctree(names, "Lessons", hidden=True),
        _toctree(answers, "Beside the lessons", hidden=True),
        _toctree(["results", "studies", "use", "api/index", "commands", "data/README"], "Use", hidden=True),
        _toctree(["notebooks/GLOSSARY", "works", "contributors"], "Reference", hidden=True),
    ]
    return "\n".join(
        [
            readme[""],
            "## The path of lessons",
            "A week, a month, and what can wait: [the map](notebooks/README.md). "
            "Stuck? [Worked solutions](notebooks/solutions/index.md). "
            "Look before you read: [the explorer](explorer.md). A word: [the glossary](notebooks/GLOSSARY.md).\n",
            table,
            "\n## Run this: two commands",
            readme["Two commands"].partition("\n")[2],
            *trees,
        ]
    )


def short_names() -> dict[str, str]:
    """A lesson's file, without its ending, and the name that README's table gives it."""
    readme = (paths.ROOT / "README.md").read_text()
    return {
        stem: name for name, stem in re.findall(r"^\| \[(\d\d [^]]+)\]\(notebooks/(\w+)\.ipynb\)", readme, re.MULTILINE)
    }


def _solutions() -> str:
    text = "# Solutions\n\nOne notebook a lesson, a worked answer for every exercise. First try, then look.\n\n"
    return text + _toctree([f"{name} <{stem}>" for stem, name in short_names().items()])


def _works() -> str:
    """Every work with what it does and leaves open, then all references."""
    ideas = pd.read_csv(paths.REFERENCE / "ideas.csv", keep_default_na=False, dtype=str).to_dict("records")
    works = pd.read_csv(paths.REFERENCE / "works.csv", dtype=str).drop_duplicates("work")
    group = dict(zip(works["work"], works["group"], strict=True))
    cited = {True: "{{cite}}`{}`", False: ""}
    rows = [
        f"| {row['work']} | {group[row['work']]} | {row['idea']} | {cited[bool(row['entry'])].format(row['entry'])} |"
        for row in ideas
    ]
    text = ["# Works and references", "", "What each work does and what it leaves open, as lesson 11 read it.", ""]
    text += ["| work | group | what it does, what it leaves open | reference |", "| --- | --- | --- | --- |", *rows, ""]
    return "\n".join([*text, "## References", "", "```{bibliography}", ":all:", "```", ""])


def _commands() -> str:
    """What `--help` prints, command by command."""
    text = ["# The command `tnlib`", ""]
    for name, command in _walk(cli.tnlib, "tnlib", None):
        text += [f"## `{name[0]}`", "", "```text", name[1].rstrip(), "```", ""] if command else []
    return "\n".join(text)


def _walk(command: click.Command, name: str, parent: click.Context | None) -> Iterator[tuple[tuple[str, str], bool]]:
    context = click.Context(command, info_name=name, parent=parent, terminal_width=88, max_content_width=88)
    yield (context.command_path, command.get_help(context)), True
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            if found is not None and not found.hidden:
                yield from _walk(found, child, context)


def _part(part: str) -> str:
    """The reference of one part: all that `__all__` names, or all public names of a module without it."""
    module = import_module(f"tnlib.{part}")
    members = getattr(module, "__all__", None)
    lines = [f"# `tnlib.{part}`", "", "```{eval-rst}", f".. automodule:: tnlib.{part}"]
    if members is None:
        lines += ["   :members:"]
    elif set(members) <= set(dir(module)):
        lines += [f"   :members: {', '.join(members)}", "   :imported-members:"]
    else:  # names that the module looks up when they are asked for
        lines += ["", f".. py:currentmodule:: tnlib.{part}", ""]
        lines += [f".. auto{'class' if isinstance(getattr(module, m), type) else 'function'}:: {m}" for m in members]
    return "\n".join([*lines, "```", ""])
