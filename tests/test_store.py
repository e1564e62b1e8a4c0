"""The store: whole records or none, several writers, damage, choosing and exporting."""

import json
import subprocess
import sys

import pandas as pd
import pytest

from tnlib import paths, study
from tnlib.study import cli, report, store


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "store"


def write(folder, rank=3, seed=0, format="cp", accuracy=0.5):
    return study.record(
        "a-study",
        {"accuracy": accuracy, "rows": [{"x": 1}]},
        parameters={"rank": rank, "format": format},
        source="tests",
        seed=seed,
        folder=folder,
    )


@pytest.mark.parametrize("damage", [lambda t: t[:50], lambda t: t.replace("0.5", "0.6"), lambda t: "[]", lambda t: ""])
def test_a_record_changed_by_hand_is_named_and_the_others_stay_usable(folder, damage, capsys):
    write(folder, seed=1)
    bad = write(folder, seed=2)
    bad.write_text(damage(bad.read_text()))
    with pytest.warns(UserWarning, match=bad.name):
        assert study.results(folder=folder)["seed"].tolist() == [1]
    assert cli.main(["results", "--folder", str(folder)]) == 1
    shown = capsys.readouterr()
    assert bad.name in shown.err
    assert "a-study" in shown.out


def test_a_record_of_the_first_schema_still_counts_and_its_name_seals_it(tmp_path):
    import hashlib

    content = {"schema": 1, "study": "old", "parameters": {}, "metrics": {"x": 1}, "date": "2026-01-01T00:00:00+00:00"}
    text = json.dumps(content)
    path = tmp_path / f"old-{hashlib.sha256(text.encode()).hexdigest()[:12]}.json"
    path.write_text(text)
    assert store.read(path)["metrics"] == {"x": 1}
    path.write_text(text.replace("1}", "2}"))
    with pytest.raises(store.DamagedRecordError, match=path.name):
        store.read(path)


def test_a_valid_record_is_never_replaced_and_a_damaged_one_is_set_aside(folder):
    first, second = (store.read(write(folder, accuracy=a)) for a in (0.1, 0.2))
    path = folder / "a-study-0123456789abcdef.json"
    store.put(first, path)
    store.put(second, path)
    assert store.read(path) == first
    path.write_text("{")
    store.put(second, path)
    assert store.read(path) == second
    assert [p.read_text() for p in (folder / "damaged").iterdir()] == ["{"]


def test_no_record_leaves_by_another_shape(folder):
    content = store.read(write(folder))
    for change in ({"schema": 3}, {"study": "A B"}, {"seconds": -1.0}, {"run": {}}, {"extra": 1}):
        with pytest.raises(ValueError, match="not a record"):
            store.sealed({**content, **change})


WRITER = """
import sys
from pathlib import Path
from tnlib import study
for i in range(25):
    study.record("race", {"x": i}, parameters={"who": sys.argv[2]}, source="tests", folder=Path(sys.argv[1]))
"""


def test_several_processes_write_into_one_store(folder):
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(folder), str(n)]) for n in range(4)]
    while any(writer.poll() is None for writer in writers):
        for _, content in store.read_all(folder):  # a reader never meets half a record
            assert isinstance(content, dict)
    assert [writer.returncode for writer in writers] == [0] * 4
    frame = study.results("race", folder)
    assert sorted(frame["metrics.x"]) == sorted(list(range(25)) * 4)
    assert not list(folder.glob(".*.part"))


@pytest.fixture
def frame(folder):
    for rank in (2, 4):
        for seed in range(3):
            write(folder, rank, seed, "cp", rank / 10 + seed / 100)
            write(folder, rank, seed, "tt", rank / 20)
    return study.results("a-study", folder)


def test_rows_are_chosen_by_conditions(frame):
    assert len(report.select(frame, ["rank=2", "format=cp"])) == 3
    assert len(report.select(frame, ["rank>2", "seed<=1"])) == 4
    assert len(report.select(frame, ["accuracy >= 0.4", "format != tt"])) == 3
    for bad, message in (("rank", "NAME=VALUE"), ("rnk=2", "no 'rnk'"), ("rank=two", "rank is a number")):
        with pytest.raises(ValueError, match=message):
            report.select(frame, [bad])


def test_the_summary_is_mean_spread_and_number(frame):
    table = report.summary(frame, ["format", "rank"], ["accuracy"])
    row = table.loc[("cp", 4), "accuracy"]
    assert row["mean"] == pytest.approx(0.41)
    assert row["std"] == pytest.approx(0.01)
    assert row["n"] == 3
    with pytest.raises(ValueError, match="no metric that is a number"):
        report.summary(frame[["parameters.rank"]], ["rank"])


def test_exports_read_back(frame, folder, tmp_path, capsys):
    base = ["results", "a-study", "--folder", str(folder)]
    parquet, csv, page = tmp_path / "r.parquet", tmp_path / "r.csv", tmp_path / "r.html"
    assert cli.main([*base, "--parquet", str(parquet)]) == 0
    assert pd.read_parquet(parquet)["metrics.accuracy"].tolist() == frame["metrics.accuracy"].tolist()
    assert json.loads(pd.read_parquet(parquet)["metrics.rows"][0]) == [{"x": 1}]
    assert cli.main([*base, "--csv", str(csv)]) == 0
    assert pd.read_csv(csv)["parameters.rank"].tolist() == frame["parameters.rank"].tolist()
    assert cli.main([*base, "--group-by", "rank,format", "--metric", "accuracy", "--html", str(page)]) == 0
    text = page.read_text()
    assert "data:image/png;base64," in text
    assert text.count("<tr>") >= 4 + 12
    assert frame["commit"][0] in text
    assert "http" not in text
    capsys.readouterr()
    assert cli.main([*base, "--group-by", "format"]) == 0
    assert "mean" in capsys.readouterr().out
    assert cli.main([*base, "--html", str(page)]) == 2


def test_published_records_are_whole():
    contents = [content for _, content in store.read_all(paths.PUBLISHED)]
    assert contents
    assert all(isinstance(content, dict) for content in contents), contents
