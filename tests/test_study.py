"""Records, notebook runs and the command line."""

import json
import shlex
import subprocess
import sys

import nbformat
import numpy as np
import pytest
import torch

from tnlib import paths, study
from tnlib.study import cli, new, repeat, sweep
from tnlib.study.run import NotebookRun, about


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


PYTHON = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}


@pytest.fixture
def notebook(tmp_path):
    book = nbformat.v4.new_notebook(metadata=PYTHON)
    book.cells = [
        nbformat.v4.new_code_cell("profile: str = 'quick'\nrank: int = 2  # a rank", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell("from tnlib import study\nstudy.record('tiny', {'x': rank}).name"),
        nbformat.v4.new_code_cell("1 / (rank - 7)"),
    ]
    path = tmp_path / "42_tiny.ipynb"
    nbformat.write(book, path)
    return path


def test_a_run_injects_parameters_records_and_leads_back(notebook, tmp_path, monkeypatch, capsys):
    """Two real kernels: a run, and its repetition."""
    monkeypatch.delenv("TNLIB_RESULTS")
    before = notebook.read_bytes()
    run = study.run_notebook(notebook, {"rank": 5}, out=tmp_path / "out {a}")
    assert run.ok
    assert notebook.read_bytes() == before
    (path,) = (tmp_path / "out {a}" / "results").glob("*.json")
    content = json.loads(path.read_text())
    assert content["metrics"] == {"x": 5}
    assert content["parameters"] == {"profile": "quick", "rank": 5}
    assert cli.main(["run", str(notebook), "--from", str(path), "--out", str(tmp_path / "again")]) == 0
    assert "1 values, 1 of them equal to the last digit" in capsys.readouterr().out
    assert not list((tmp_path / "again").glob("records-*"))


def test_relative_folders_are_those_of_the_caller(notebook, tmp_path, monkeypatch):
    monkeypatch.setenv("TNLIB_RESULTS", "mine")
    here = tmp_path / "here"  # not the notebook's folder, which its kernel starts in
    here.mkdir()
    monkeypatch.chdir(here)
    run = study.run_notebook(notebook, out=tmp_path / "copies")
    assert run.ok, run.error
    assert len(list((here / "mine").glob("*.json"))) == 1


def test_a_repetition_compares_with_the_record(notebook, tmp_path, monkeypatch, capsys):
    values = {"profile": "quick", "rank": 5}
    path = study.record("tiny", {"x": 5}, folder=tmp_path / "records", run=about(notebook, values))

    def execute(book, parameters, *, results, **options):
        study.record("tiny", {"x": 5 * 1.001}, folder=results, run=about(book, parameters))
        return NotebookRun(book.stem, book, 0.1)

    monkeypatch.setattr(repeat, "run_notebook", execute)
    again = ["run", str(notebook), "--from", str(path), "--out", str(tmp_path / "again")]
    assert cli.main([*again, "--tolerance", "0.01"]) == 0
    notebook.write_text(notebook.read_text().replace("rank - 7", "rank - 8"))
    assert cli.main(again) == 1
    shown = capsys.readouterr().out
    assert "is not the same code as then" in shown
    assert "apart: x: 5 then, 5.00" in shown


def test_agreement_is_told_value_by_value(capsys):
    old = {"a": 1.0, "b": [1, {"c": "x"}], "d": True, "gone": 1}
    new = {"a": 1.0 + 1e-9, "b": [1, {"c": "y"}], "d": True, "more": 2}
    apart = repeat.compare(old, new, 1e-6)
    assert apart == ["b[1].c: x then, y now", "gone: 1 then, nothing now", "more: nothing then, 2 now"]
    assert "6 values, 2 of them equal to the last digit" in capsys.readouterr().out


def test_a_failing_cell_is_reported_and_the_last_good_copy_is_kept(notebook, tmp_path, capsys):
    (tmp_path / "42_tiny.ipynb").replace(tmp_path / "43_tiny.ipynb")
    out = tmp_path / "out"
    out.mkdir()
    (out / "43_tiny.ipynb").write_text("a good copy")
    assert cli.main(["run", str(tmp_path / "43_tiny.ipynb"), "-p", "rank=7", "--out", str(out)]) == 1
    shown = capsys.readouterr().out
    assert "1 / (rank - 7)" in shown
    assert "ZeroDivisionError: division by zero" in shown
    assert "FAILED" in shown
    assert "43_tiny-failed.ipynb" in shown
    assert (out / "43_tiny.ipynb").read_text() == "a good copy"


def test_mistakes_with_parameters_stop_before_a_kernel_starts(notebook, tmp_path, capsys):
    with pytest.raises(ValueError, match=r"no parameter 'rnak', did you mean rank\? \(parameters: profile, rank\)"):
        study.run_notebook(notebook, {"rnak": 1}, out=tmp_path / "out")
    for wrong, message in (
        (["rnak=1"], "did you mean rank"),
        (["rank=8", "rank=9"], "rank is given twice"),
        (["profile=a", "profile=b"], "profile is given twice"),
        (["rank"], "a parameter is given as name=value"),
    ):
        options = [option for text in wrong for option in ("-p", text)]
        assert cli.main(["run", str(notebook), *options, "--out", str(tmp_path / "out")]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_notebook_of_somebody_else_gets_one_sentence(tmp_path, capsys):
    book = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell("rank = 2", metadata={"tags": ["parameters"]})], metadata={}
    )
    nbformat.write(book, tmp_path / "book.ipynb")
    assert cli.main(["run", str(tmp_path / "book.ipynb"), "-p", "rank=3", "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == (
        "tnlib: book does not say its language: open it in Jupyter, choose a Python kernel and save it\n"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "command",
    [
        "run 99",
        "run -p novalue",
        "run --from no-such-record",
        "run 00 -p batch=many",
        "run 00 --nonsense",
        "sweep no.yaml",
        "sweep no.yaml --workers 0",
        "sweep",
        "new 'Not A Name'",
        "data verify imagenet",
        "data",
        "train vgg",
        "check no.py",
        "fly",
    ],
)
def test_the_command_line_answers_mistakes_in_one_line(command, capsys):
    assert cli.main(shlex.split(command)) == 2
    error = capsys.readouterr().err
    assert error.startswith("tnlib: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize("command", sorted(cli.tnlib.commands))
def test_every_command_has_help_with_an_example(command, capsys):
    assert cli.main([command, "--help"]) == 0
    assert f"example: tnlib {command}" in " ".join(capsys.readouterr().out.split())


def test_what_people_expect_of_a_command_line(capsys):
    assert cli.main([]) == 0
    assert "Usage: tnlib" in capsys.readouterr().out
    assert cli.main(["--version"]) == 0
    assert "0." in capsys.readouterr().out
    assert cli.main(["swep", "x.yaml"]) == 2
    assert "did you mean sweep?" in capsys.readouterr().err
    assert cli.main(["run", "01_work_with_tensor.ipynb"]) == 2
    assert "did you mean 01_work_with_tensors?" in capsys.readouterr().err


def test_python_m_tnlib_is_the_command_and_help_does_not_load_torch():
    code = "import sys, tnlib.study.cli as c\nc.main(['--help'])\nprint('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Usage: tnlib" in shown.stdout
    assert shown.stdout.endswith("False\n")
    wrong = subprocess.run([sys.executable, "-m", "tnlib", "fly"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert "no command 'fly'" in wrong.stderr


def test_check_command_reads_a_file_of_answers(tmp_path, capsys):
    answers = tmp_path / "answers.py"
    answers.write_text("def break_even_rank(T, S, k):\n    return (T * S * k * k - 1) // (S + 2 * k + T)\n")
    assert cli.main(["check", str(answers)]) == 0
    answers.write_text("def break_even_rank(T, S, k):\n    return ...\n")
    assert cli.main(["check", str(answers)]) == 1
    assert "not attempted yet" in capsys.readouterr().out


def test_data_list_and_results_commands(folder, offline, capsys):
    assert cli.main(["data", "list"]) == 0
    assert "embedded: yes" in capsys.readouterr().out
    assert cli.main(["data", "verify", "mnist"]) == 1
    write()
    capsys.readouterr()
    assert cli.main(["results", "--folder", str(folder), "--csv"]) == 0
    assert "metrics.accuracy" in capsys.readouterr().out
    assert cli.main(["results", "a_study", "--json"]) == 0, "the default folder of runs is looked at, too"
    assert json.loads(capsys.readouterr().out)[0]["seed"] == 1
    assert cli.main(["results", "--folder", str(folder)]) == 0
    assert "a-study" in capsys.readouterr().out
    assert cli.main(["results", "a-stduy"]) == 2
    assert "did you mean a-study" in capsys.readouterr().err


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


def test_a_notebook_is_found_by_number_name_title_or_path(notebook):
    (first,) = study.notebooks(["00"])
    assert study.notebooks(["00_start_here"]) == study.notebooks(["compress a trained network"]) == [first]
    assert study.notebooks([str(first)]) == [first]
    assert study.notebooks([str(notebook)]) == [notebook]
    with pytest.raises(ValueError, match="no notebook 'quantum'"):
        study.notebooks(["quantum"])


def test_outside_the_repository_it_is_said_what_needs_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(paths, "IN_REPOSITORY", False)
    monkeypatch.setattr(paths, "NOTEBOOKS", tmp_path / "nowhere")
    monkeypatch.setattr(new, "TEMPLATE", tmp_path / "nowhere" / "t.ipynb")
    for command in (["run", "01"], ["run"], ["new", "my_study", "--folder", str(tmp_path)], ["sync"]):
        assert cli.main(command) == 2
        assert "repository" in capsys.readouterr().err


def test_new_writes_an_experiment_and_a_sweep_that_is_valid(tmp_path, capsys):
    assert cli.main(["new", "my_study", "--folder", str(tmp_path)]) == 0
    book, plan = tmp_path / "my_study.ipynb", sweep.load(tmp_path / "my_study.yaml")
    assert plan.notebook == book
    assert len(plan.runs) == 12
    read = nbformat.read(book, 4)
    nbformat.validate(read)
    assert "tnlib results my-study" in capsys.readouterr().out
    assert '"my-study"' in "".join(cell.source for cell in read.cells)
    assert not [cell for cell in read.cells if cell.cell_type == "code" and cell.outputs]
    before = book.read_bytes()
    assert cli.main(["new", "my_study", "--folder", str(tmp_path)]) == 2
    assert "nothing was written" in capsys.readouterr().err
    assert book.read_bytes() == before
