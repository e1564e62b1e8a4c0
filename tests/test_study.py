"""Records, notebook runs and the command line."""

import json
import subprocess
import sys

import nbformat
import numpy as np
import pytest
import torch

from tnlib import paths, study
from tnlib.study import cli


@pytest.fixture
def folder(monkeypatch, tmp_path):
    monkeypatch.setenv("TNLIB_RESULTS", str(tmp_path / "results"))
    return tmp_path / "results"


def write(**changes):
    arguments = {"parameters": {"rank": 3}, "source": "tests", "seed": 1, "seconds": 0.12345} | changes
    return study.record("a-study", {"accuracy": np.float32(0.5), "ranks": (1, torch.tensor(2))}, **arguments)


def test_a_record_holds_everything_and_reads_back(folder):
    path = write()
    content = json.loads(path.read_text())
    assert path.parent == folder
    assert content["metrics"] == {"accuracy": 0.5, "ranks": [1, 2]}
    assert {
        "schema",
        "study",
        "source",
        "parameters",
        "seed",
        "seconds",
        "date",
        "commit",
        "versions",
        "machine",
    } <= set(content)
    frame = study.results("a-study", folder)
    assert frame["metrics.accuracy"].tolist() == [0.5]
    assert frame["parameters.rank"].tolist() == [3]
    assert study.results("another", folder).empty


def test_different_records_never_share_a_file(folder):
    assert len({write(parameters={"rank": r}) for r in range(20)}) == 20
    assert not list(folder.glob(".*"))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), object(), torch.ones(2)])
def test_a_record_of_something_else_is_refused_and_nothing_is_written(folder, bad):
    with pytest.raises(ValueError, match="a record holds"):
        study.record("a-study", {"x": {"y": [bad]}}, parameters={}, source="tests")
    assert not folder.exists()


def test_a_bad_name_is_refused(folder):
    with pytest.raises(ValueError, match="lower-case words"):
        study.record("../etc", {}, parameters={}, source="tests")


@pytest.fixture
def notebook(tmp_path):
    book = nbformat.v4.new_notebook(
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    )
    book.cells = [
        nbformat.v4.new_code_cell("profile: str = 'quick'\nrank: int = 2  # a rank", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(
            "from tnlib import study\nstudy.record('tiny', {'x': rank}, parameters={}, source='t').name"
        ),
        nbformat.v4.new_code_cell("1 / (rank - 7)"),
    ]
    path = tmp_path / "42_tiny.ipynb"
    nbformat.write(book, path)
    return path


def test_a_run_injects_parameters_and_keeps_records_apart(notebook, tmp_path, monkeypatch):
    monkeypatch.delenv("TNLIB_RESULTS")
    before = notebook.read_bytes()
    run = study.run_notebook(notebook, {"rank": 5}, out=tmp_path / "out")
    assert run.ok
    assert notebook.read_bytes() == before
    assert study.results("tiny", tmp_path / "out" / "results")["metrics.x"].tolist() == [5]


def test_a_failing_cell_is_reported_with_its_source_and_error(notebook, tmp_path, capsys):
    assert cli.main(["run", str(notebook), "-p", "rank=7", "--out", str(tmp_path / "out")]) == 1
    shown = capsys.readouterr().out
    assert "1 / (rank - 7)" in shown
    assert "ZeroDivisionError: division by zero" in shown
    assert "FAILED" in shown
    assert "42_tiny.ipynb" in shown


def test_unknown_parameters_stop_before_a_kernel_starts(notebook, tmp_path, capsys):
    with pytest.raises(ValueError, match=r"no parameter 'rnak', did you mean rank\? \(parameters: profile, rank\)"):
        study.run_notebook(notebook, {"rnak": 1}, out=tmp_path / "out")
    assert cli.main(["run", str(notebook), "-p", "rnak=1", "--out", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()
    assert "did you mean rank" in capsys.readouterr().err


def test_the_command_line_answers_mistakes_in_one_line(capsys, tmp_path):
    for arguments in (
        ["run", "99"],
        ["run", "-p", "novalue"],
        ["run", "--from", "no-such-record"],
        ["run", "00", "-p", "batch=many"],
        ["sweep", "no.yaml"],
        ["bench", "nothing"],
        ["new", "Not A Name"],
        ["data", "verify", "imagenet"],
        ["train", "vgg"],
        ["check", "no.py"],
    ):
        assert cli.main(arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("tnlib: ")
        assert error.count("\n") == 1


@pytest.mark.parametrize(
    "command", ["run", "sweep", "new", "bench", "data", "train", "accuracy", "check", "results", "sync"]
)
def test_every_command_has_help_with_an_example(command, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main([command, "--help"])
    assert caught.value.code == 0
    assert f"example: tnlib {command}" in " ".join(capsys.readouterr().out.split())


def test_python_m_tnlib_is_the_command_and_help_does_not_load_torch():
    code = "import sys, tnlib.study.cli as c\ntry: c.main(['--help'])\nexcept SystemExit: print('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "usage: tnlib" in shown.stdout
    assert shown.stdout.endswith("False\n")
    wrong = subprocess.run([sys.executable, "-m", "tnlib", "fly"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert "invalid choice: 'fly'" in wrong.stderr


def test_check_command_reads_a_file_of_answers(tmp_path, capsys):
    answers = tmp_path / "answers.py"
    answers.write_text("def break_even_rank(T, S, k):\n    return (T * S * k * k - 1) // (S + 2 * k + T)\n")
    assert cli.main(["check", str(answers)]) == 0
    answers.write_text("def break_even_rank(T, S, k):\n    return ...\n")
    assert cli.main(["check", str(answers)]) == 1
    assert "not attempted yet" in capsys.readouterr().out


def test_data_list_and_results_commands(folder, offline, capsys):
    assert cli.main(["data", "list"]) == 0
    assert cli.main(["data", "verify", "mnist"]) == 1
    write()
    assert cli.main(["results", "--folder", str(folder), "--csv"]) == 0
    assert cli.main(["results", "nothing", "--folder", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "embedded: yes" in shown
    assert "metrics.accuracy" in shown
    assert "no records of nothing" in shown


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    target = tmp_path / "f.txt"
    target.write_text("old")

    def interrupted():
        with paths.replacing(target) as temporary:
            temporary.write_text("ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_the_readmes_tables_are_those_of_the_records():
    from tnlib.study import readme

    text = readme.README.read_text()
    assert readme.filled(text) == text
    assert {f"<!-- table: {name} -->" for name in readme.TABLES} <= set(text.splitlines())


def test_a_notebook_is_found_by_number_name_title_or_path(notebook):
    (first,) = study.notebooks(["00"])
    assert study.notebooks(["00_start_here"]) == study.notebooks(["compress a trained network"]) == [first]
    assert study.notebooks([str(first)]) == [first]
    assert study.notebooks([str(notebook)]) == [notebook]
    with pytest.raises(ValueError, match="no notebook 'quantum'"):
        study.notebooks(["quantum"])


def test_a_record_leads_back_to_its_run(notebook, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("TNLIB_RESULTS")
    study.run_notebook(notebook, {"rank": 5}, out=tmp_path / "out")
    (path,) = (tmp_path / "out" / "results").glob("*.json")
    again = ["run", str(notebook), "--from", str(path), "--out", str(tmp_path / "again")]
    assert cli.main(again) == 0
    assert "1 values, 1 of them equal to the last digit" in capsys.readouterr().out
    assert not list((tmp_path / "again").glob("records-*"))

    text = notebook.read_text()
    notebook.write_text(text.replace("{'x': rank}", "{'x': rank * 1.001}"))
    assert cli.main([*again, "--tolerance", "0.01"]) == 0
    assert cli.main(again) == 1
    shown = capsys.readouterr().out
    assert "is not the same code as then" in shown
    assert "apart: x: 5 then, 5.00" in shown


def test_agreement_is_told_leaf_by_leaf():
    from tnlib.study.repeat import compare

    old = {"a": 1.0, "b": [1, {"c": "x"}], "d": True, "gone": 1}
    new = {"a": 1.0 + 1e-9, "b": [1, {"c": "y"}], "d": True, "more": 2}
    found = compare(old, new, 1e-6)
    assert (found.values, found.equal, found.where) == (6, 2, "a")
    assert found.largest == pytest.approx(1e-9, rel=1e-3)
    assert found.apart == ["b[1].c: x then, y now", "gone: 1 then, nothing now", "more: nothing then, 2 now"]


def test_new_writes_an_experiment_that_runs_and_a_sweep_that_is_valid(tmp_path, capsys, monkeypatch):
    from tnlib.study import sweep

    monkeypatch.delenv("TNLIB_RESULTS")
    assert cli.main(["new", "my_study", "--folder", str(tmp_path)]) == 0
    book, plan = tmp_path / "my_study.ipynb", sweep.load(tmp_path / "my_study.yaml")
    assert plan.notebook == book
    assert len(plan.cells) == 12
    run = study.run_notebook(book, {"format": "svd", "rank": 60}, out=tmp_path / "out")
    assert run.ok, run.error
    frame = study.results("my-study", tmp_path / "out" / "results")
    assert abs(frame["metrics.drop"][0]) < 0.1
    assert 0 < frame["metrics.error"][0] < 0.5
    before = book.read_bytes()
    assert cli.main(["new", "my_study", "--folder", str(tmp_path)]) == 2
    assert "nothing was written" in capsys.readouterr().err
    assert book.read_bytes() == before
