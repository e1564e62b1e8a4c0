"""A learner's copies: answers are never lost, new lessons come beside them, progress is read from what was saved."""

import json
import shutil

import nbformat
import pytest

from tnlib import paths
from tnlib.check import EXERCISES
from tnlib.study import cli, learner


@pytest.fixture
def originals(tmp_path):
    folder = tmp_path / "notebooks"
    (folder / "solutions").mkdir(parents=True)
    (folder / "README.md").write_text(
        "[first](00_first.ipynb) [studies](experiments/README.md) [data](../data/README.md)\n"
    )
    (folder / "GLOSSARY.md").write_text("words\n")
    (folder / "overview.png").write_bytes(b"picture")
    _lesson(
        folder / "00_first.ipynb",
        ["# First\n[studies](experiments/a.ipynb#here)", "def tail_error(kernel, rank):\n    ..."],
    )
    _lesson(folder / "solutions" / "00_first.ipynb", ["[lesson](../00_first.ipynb) [studies](../experiments)"])
    return folder


def _lesson(path, sources):
    text, *code = sources
    cells = [nbformat.v4.new_markdown_cell(text), *map(nbformat.v4.new_code_cell, code)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"jupytext": {"formats": "ipynb,py"}}), path)


def _edit(path, source, outputs=()):
    book = nbformat.read(path, as_version=4)
    book.cells[-1].source = source
    book.cells[-1].outputs = [
        nbformat.v4.new_output("execute_result", {"text/plain": text}, execution_count=1) for text in outputs
    ]
    nbformat.write(book, path)


def _last(path):
    return nbformat.read(path, as_version=4).cells[-1].source


def test_copies_lose_their_pairing_and_link_to_what_was_not_copied(originals, tmp_path):
    mine = tmp_path / "learn"
    changes = learner.update(mine, originals)
    assert {change.kind for change in changes} == {"new"}
    assert len(changes) == 5
    book = nbformat.read(mine / "00_first.ipynb", as_version=4)
    assert "jupytext" not in book.metadata
    assert "(../notebooks/experiments/a.ipynb#here)" in book.cells[0].source
    solution = nbformat.read(mine / "solutions" / "00_first.ipynb", as_version=4)
    assert solution.cells[0].source == "[lesson](../00_first.ipynb) [studies](../../notebooks/experiments)"
    page = (mine / "README.md").read_text()
    assert page == "[first](00_first.ipynb) [studies](../notebooks/experiments/README.md) [data](../data/README.md)\n"
    assert learner.update(mine, originals) == []


def test_an_answer_is_never_overwritten(originals, tmp_path):
    mine, lesson = tmp_path / "learn", originals / "00_first.ipynb"
    learner.update(mine, originals)
    _edit(mine / "00_first.ipynb", "my answer")
    assert learner.update(mine, originals) == []
    for number, name in enumerate(["00_first.new.ipynb"] * 2 + ["00_first.new2.ipynb"], 1):
        if number == 3:  # the learner has answered in the new one, too
            _edit(mine / "00_first.new.ipynb", "my second answer")
        _edit(lesson, f"version {number}")
        (change,) = learner.update(mine, originals)
        assert (change.kind, change.path.name, change.cells) == ("beside", name, 1)
        assert _last(change.path) == f"version {number}"
        assert _last(mine / "00_first.ipynb") == "my answer"
        assert learner.update(mine, originals) == []
    assert _last(mine / "00_first.new.ipynb") == "my second answer"


def test_a_copy_without_answers_is_brought_up_to_date(originals, tmp_path):
    mine, lesson = tmp_path / "learn", originals / "00_first.ipynb"
    learner.update(mine, originals)
    _edit(mine / "00_first.ipynb", _last(lesson), outputs=["executed"])
    _edit(lesson, "version 2")
    (change,) = learner.update(mine, originals)
    assert (change.kind, change.path) == ("updated", mine / "00_first.ipynb")
    assert _last(mine / "00_first.ipynb") == "version 2"
    _edit(lesson, "version 2", outputs=["executed again"])  # no new lesson
    assert learner.update(mine, originals) == []


@pytest.mark.parametrize("state", [None, b"", b"{", b"[1]"])
@pytest.mark.parametrize("content", [b"no notebook", b"[]", b"{}"])
def test_damaged_files_are_kept_as_if_they_held_answers(originals, tmp_path, state, content):
    mine = tmp_path / "learn"
    learner.update(mine, originals)
    (mine / "00_first.ipynb").write_bytes(content)
    if state is None:
        (mine / ".copied.json").unlink()
    else:
        (mine / ".copied.json").write_bytes(state)
    changes = learner.update(mine, originals)
    assert [(change.kind, change.path.name) for change in changes] == [("beside", "00_first.new.ipynb")]
    assert (mine / "00_first.ipynb").read_bytes() == content
    assert learner.update(mine, originals) == []
    assert set(learner.progress(mine).values()) == {None}


def test_progress_is_what_the_checks_of_saved_copies_said(originals, tmp_path):
    mine, check = tmp_path / "learn", EXERCISES["tail_error"]
    learner.update(mine, originals)
    assert set(learner.progress(mine).values()) == {None}
    for answer, expected in ((lambda **_: ..., None), (lambda **_: 1.0, False), (check.reference, True)):
        _edit(mine / "00_first.ipynb", "check.tail_error(tail_error)", outputs=[repr(check(answer))])
        found = learner.progress(mine)
        assert found["tail_error"] is expected
        assert {name for name, passed in found.items() if passed is not None} <= {"tail_error"}
    shutil.copy(mine / "00_first.ipynb", mine / "00_first.new.ipynb")  # solved in one of two copies
    _edit(mine / "00_first.new.ipynb", "check.tail_error(tail_error)", outputs=[repr(check(lambda **_: 1.0))])
    assert learner.progress(mine)["tail_error"] is True


def test_solutions_count_as_solved(tmp_path):
    for solution in (paths.NOTEBOOKS / "solutions").glob("*.ipynb"):
        shutil.copy(solution, tmp_path)
    assert set(learner.progress(tmp_path).values()) == {True}


def test_commands_say_what_they_did(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(learner, "FOLDER", tmp_path / "learn")
    assert cli.main(["check"]) == 0
    assert "0 of " in (text := capsys.readouterr().out)
    assert "next: make lab" in text
    assert cli.main(["learn"]) == 0
    assert "files copied" in capsys.readouterr().out
    assert cli.main(["learn"]) == 0
    assert "nothing has changed" in capsys.readouterr().out
    lesson = tmp_path / "learn" / "00_start_here.ipynb"
    state = json.loads((tmp_path / "learn" / ".copied.json").read_bytes())
    state["00_start_here.ipynb"][3] = "another"
    (tmp_path / "learn" / ".copied.json").write_text(json.dumps(state))
    _edit(lesson, "mine")
    assert cli.main(["learn"]) == 0
    assert "has changed (1 cell); yours stays, the new one is 00_start_here.new.ipynb" in capsys.readouterr().out
    assert cli.main(["check"]) == 0
    assert "next:" not in capsys.readouterr().out
    settings = json.loads((tmp_path / "learn" / ".lab" / "page_config.json").read_bytes())
    assert settings["disabledExtensions"]["jupyterlab-jupytext"]
