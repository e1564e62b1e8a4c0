"""The pages in Markdown: tables are those of the records, links lead somewhere, commands work as typed."""

import re
import shlex
import subprocess
import tomllib
from urllib.parse import unquote

import click
import nbformat
import pandas as pd
import pytest

from tnlib import paths, study
from tnlib.study import cli, cluster, tables
from tnlib.study.tables_formats import rows_of_formats, rows_of_int8
from tnlib.study.tables_peers import rows_of_peers

LISTING = subprocess.run(
    ["git", "ls-files", "-co", "--exclude-standard"], cwd=paths.ROOT, capture_output=True, text=True
)
PAGES = [paths.ROOT / name for name in sorted(set(LISTING.stdout.split())) if name.endswith(".md")]
OTHERS = {"tensorly-torch", "torchTT", "opt_einsum"}  # packages of others that a benchmark takes in
LESSONS = sorted(paths.NOTEBOOKS.glob("*.ipynb"))


def text_of(path):
    if path.suffix == ".md":
        return path.read_text()
    return "\n\n".join(cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "markdown")


def commands():
    """Every line of a code block without a language that starts with a command, and the same in running text."""
    for path in [*PAGES, *LESSONS]:
        text = text_of(path)
        blocks = re.findall(r"^```(?:bash|sh)?\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        lines = [line for block in blocks for line in block.splitlines()]
        lines += re.findall(
            r"(?<!`)`((?:tnlib|make|python -m tnlib) [^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        )
        for line in lines:
            if not re.match(r"([A-Z_]+=\S* )*(tnlib|make|pip|python -m tnlib) ", line):
                continue
            words = shlex.split(line, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
                words = words[1:]
            if words[:3] == ["python", "-m", "tnlib"]:
                words = ["tnlib", *words[3:]]
            # Words in capitals stand for the reader's own.
            if not any(re.fullmatch(r"[A-Z]{2,}|\.\.\.", word) for word in words):
                yield f"{path.name}: {' '.join(words)}", words


COMMANDS = dict(commands())


def test_every_table_is_that_of_the_records():
    pages = [page.read_text() for page in tables.PAGES]
    assert [tables.filled(page) for page in pages] == pages
    blocks = re.findall(r"<!-- table: (\w+) -->", "\n".join(pages))
    assert sorted(blocks) == sorted(tables.TABLES)


def test_the_picture_is_that_of_the_first_notebook():
    assert tables.COVER.read_bytes() == tables.cover()


@pytest.mark.parametrize("page", [*PAGES, *LESSONS], ids=lambda path: path.name)
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", re.sub(r"```.*?```", "", text_of(page), flags=re.DOTALL)):
        if not re.match(r"[a-z]+:", target):
            assert (page.parent / unquote(target)).exists(), f"{page.name} links to {target}, which is not there"


@pytest.mark.parametrize("path", sorted((paths.NOTEBOOKS / "sweeps").glob("*.yaml")), ids=lambda path: path.name)
def test_every_sweep_is_listed(path):
    assert f"({path.name})" in (path.parent / "README.md").read_text()


def test_commands_are_found():
    first = [words[0] for words in COMMANDS.values()]
    assert first.count("tnlib") >= 15
    assert first.count("make") >= 4


@pytest.mark.parametrize("name", COMMANDS)
def test_a_printed_command_works(name, monkeypatch, tmp_path, capsys):
    """Short ones are executed; of long ones all but the work is."""
    words = COMMANDS[name]
    monkeypatch.chdir(paths.ROOT)
    if words[0] == "make":
        subprocess.run(["make", "--dry-run", *words[1:]], check=True, capture_output=True)
        return
    if words[0] == "pip":
        extras = tomllib.loads((paths.ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        for word in words[2:]:
            ours = re.fullmatch(r"(?:\.|tnlib)(?:\[([a-z,]+)\])?", word)
            assert set(ours[1].split(",") if ours[1] else []) <= set(extras) if ours else word in OTHERS
        return
    done = []
    monkeypatch.setattr(
        "tnlib.study.run.run_notebook",
        lambda book, *_, **__: done.append(book) or study.NotebookRun(book.stem, paths.ROOT / "runs" / book.name, 1.0),
    )
    monkeypatch.setattr("tnlib.study.repeat.repeat", lambda record, **_: done.append(record) or [])
    monkeypatch.setattr(cluster, "run_sweep", lambda *_, **__: None)
    # Files go elsewhere.
    words = [str(tmp_path / word) if re.fullmatch(r"[\w/]+\.(csv|json|parquet|html)", word) else word for word in words]
    if "my_study" in name.replace("-", "_"):  # as in a folder where the reader has made and run it
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("TNLIB_RESULTS", str(tmp_path))
        if words[1] != "new":
            assert cli.main(["new", "my_study"]) == 0
        study.record("my-study", {"x": 1.0}, parameters={"rank": 1, "format": "cp"}, source="a test")
    if words[1] in ("train", "accuracy", "sync", "check", "data", "compress", "export"):
        command = cli.tnlib.get_command(click.Context(cli.tnlib), words[1])
        assert command is not None
        if words[2:]:  # a command's name alone is how texts speak of it
            command.make_context(words[1], words[2:])
        return
    if words[1:2] == ["sweep"] and "--dry-run" not in words:
        words = [*words, "--dry-run"]
    assert cli.main(words[1:]) == 0, capsys.readouterr().err
    assert done or words[1] != "run"


def test_a_table_without_records_says_so(monkeypatch):
    monkeypatch.setattr("tnlib.study.tables_formats.results", lambda study: pd.DataFrame())
    monkeypatch.setattr("tnlib.study.tables_peers.results", lambda study: pd.DataFrame())
    for rows in (rows_of_formats, rows_of_int8, rows_of_peers):
        assert rows() == ([], [], "No run is on record yet.")


def test_other_tools_stand_beside_ours_with_the_share_that_they_reached(monkeypatch):
    told = {"profile": "full", "network": "net", "peer": "tool", "importance": "magnitude", "ranking": "global"}
    told |= {"channels": "inner", "timed": False}
    found = {"budget": [0.5, 0.1], "macs": [0.4, None], "raw_accuracy": [0.7, None], "batchnorm_accuracy": [0.6, None]}
    theirs = {f"parameters.{name}": value for name, value in told.items()} | {"seed": 0, "date": "1"}
    theirs |= {f"metrics.{name}": value for name, value in found.items()} | {"metrics.labels_used": True}
    again = {"date": "2", "metrics.raw_accuracy": [0.8, None]}  # of one run the newest record
    variant = {"parameters.ranking": "local", "metrics.macs": [0.5, 0.1], "seed": 1}
    variant |= {"metrics.raw_accuracy": [0.2, 0.1], "metrics.batchnorm_accuracy": [0.1, 0.2]}
    rows = [theirs | again, theirs, theirs | variant, theirs | variant | {"parameters.timed": True}]
    rows.append(theirs | {"parameters.profile": "quick", "parameters.network": "small"})
    usual = {"profile": "full", "network": "net", "choice": "allocated", "metric": "input", "repair": "batchnorm"}
    ours = {f"parameters.{name}": value for name, value in usual.items()} | {"parameters.formats": ["cp3"]}
    points = [{"budget": b, "macs": b, "repaired_accuracy": a, "reason": None} for b, a in ((0.5, 0.9), (0.1, 0.3))]
    draws = [ours | {"seed": s, "date": "1", "metrics.rows": points} for s in (0, 1)]
    draws += [draws[0] | {"parameters.network": "alone"}, draws[0] | {"parameters.formats": ["cp3", "svd"]}]
    frames = {"compare-peers": rows, "compare-formats": draws}
    monkeypatch.setattr("tnlib.study.tables_peers.results", lambda study: pd.DataFrame(frames[study]))
    head, made, _ = rows_of_peers()
    assert head == ["network", "by", "labels", "50% of MACs", "10% of MACs", "draws"]
    assert made == [
        ["`net`", "`cp3`, ours", "no", "90.00%", "30.00%", "2"],
        ["`net`", "tool", "yes", "80.00% (0.40)", "none", "1"],
        ["`net`", "tool, local", "yes", "20.00%", "20.00%", "1"],
    ]


def test_int8_has_a_row_for_a_budget_and_means_over_draws(monkeypatch):
    told = {"profile": "full", "weight_bits": 7, "per_channel": True, "skip": [], "network": "net"}
    told |= {"balance": "activations", "formats": ["svd", "cp3"]}
    found = {"onnx_bytes": 2000, "int8_bytes": 1000, "macs": 0.4, "test_images": 10}
    runs = [(0.4, 0, 1e-3, 0.9, 0.8), (0.4, 1, 1e-3, 0.8, 0.7), (0.4, 0, None, 0.9, 0.5), (1.0, 0, 1e-3, 0.9, 0.9)]
    rows = [
        {f"parameters.{name}": value for name, value in (told | {"budget": budget, "rounding": rounding}).items()}
        | {
            f"metrics.{name}": value
            for name, value in (found | {"onnx_accuracy": before, "int8_accuracy": after}).items()
        }
        | {"seed": seed}
        for budget, seed, rounding, before, after in runs
    ]
    again = {"metrics.int8_accuracy": 0.6}  # of one run the newest record
    rows += [rows[2] | again, rows[0] | {"parameters.profile": "quick"}, rows[0] | {"parameters.balance": "none"}]
    monkeypatch.setattr("tnlib.study.tables_formats.results", lambda study: pd.DataFrame(rows))
    _, made, line = rows_of_int8()
    assert [row[2:4] for row in made] == [["dense", ""], ["`svd`, `cp3`", "yes"], ["`svd`, `cp3`", "no"]]
    assert [row[4:] for row in made] == [
        ["90.00%", "90.00%", "2", "1", "1"],
        ["85.00%", "75.00%", "2", "1", "2"],
        ["90.00%", "60.00%", "2", "1", "1"],
    ]
    assert line.startswith("Accuracy on 10 test images")
