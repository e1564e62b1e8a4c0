"""Sweeps: validated whole, run once, resumed after anything, on one machine and on a Dask cluster."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import nbformat
import pytest

from tnlib.study import cell, cli, cluster, store, sweep
from tnlib.study.bench import command, killed_and_resumed, trivial

# Appends a line each time it runs; fails for number 3 as long as a file `fail` lies beside it; records twice for 2.
CELL = """
import os
from pathlib import Path
from tnlib import study
here = Path("{place}")
if number == 3 and (here / "fail").exists():
    raise ValueError("three is bad")
for part in range(2 if number == 2 else 1):
    metrics = {{"square": number**2, "part": part}}
    study.record("square", metrics, parameters={{"number": number}}, source="t", seed=seed)
with (here / "ran").open("a") as handle:
    handle.write(f"{{number}} {{seed}} {{os.environ['OMP_NUM_THREADS']}}\\n")
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("TNLIB_RESULTS", str(tmp_path / "store"))
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    book = nbformat.v4.new_notebook(metadata={"kernelspec": kernel})
    parameters = "number: int = 0  # at least 0\nseed: int = 0  # of nothing\nkind: str = 'a'  # a kind"
    book.cells = [
        nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(CELL.format(place=tmp_path)),
    ]
    nbformat.write(book, tmp_path / "square.ipynb")
    return tmp_path


def write(place, text):
    path = place / "study.yaml"
    path.write_text("notebook: square.ipynb\n" + text)
    return path


def ran(place):
    return Counter(tuple(line.split()[:2]) for line in (place / "ran").read_text().splitlines())


def run(place, *options, workers=2):
    out = str(place / "out")
    return cli.main(["sweep", str(place / "study.yaml"), "--out", out, "--workers", str(workers), *options])


def test_cells_are_the_product_of_what_is_given(place):
    path = write(place, "parameters: {kind: b}\ngrid: {number: [1, 2]}\nseeds: [5, 6]\ntime_limit: 2h")
    plan = sweep.load(path)
    assert [dict(c.parameters) for c in plan.cells] == [
        {"kind": "b", "number": n, "seed": s} for n in (1, 2) for s in (5, 6)
    ]
    assert plan.time_limit == 7200
    assert plan.describe(plan.cells[0]) == "number=1 seed=5"
    listed = sweep.load(write(place, "list: [{number: 1, kind: x}, {number: 2}]\nseeds: [0]"))
    assert [c.parameters.get("kind") for c in listed.cells] == ["x", None]


def test_a_random_search_is_the_same_for_the_same_seed(place):
    text = "random: {{samples: 9, seed: {seed}, ranges: {{number: {{integers: [0, 1000]}}, kind: {{choice: [a, b]}}}}}}"
    first, again, other = (
        [dict(c.parameters) for c in sweep.load(write(place, text.format(seed=s))).cells] for s in (1, 1, 2)
    )
    assert first == again != other
    assert all(0 <= c["number"] <= 1000 and c["kind"] in "ab" for c in first)


def test_a_cells_key_depends_on_code_parameters_and_defaults(place):
    plan = sweep.load(write(place, "grid: {number: [0, 1]}"))
    assert len({c.key for c in plan.cells}) == 2
    assert sweep.load(write(place, "parameters: {kind: a}\ngrid: {number: [0, 1]}")).cells[0].key == plan.cells[0].key
    assert sweep.load(write(place, "grid: {number: [0.0, 1.0]}")).cells[0].key == plan.cells[0].key
    book = (place / "square.ipynb").read_text()
    (place / "square.ipynb").write_text(book.replace("range(2 if", "range(3 if"))
    assert sweep.load(write(place, "grid: {number: [0, 1]}")).cells[0].key != plan.cells[0].key


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("grid: {nmuber: [1]}", "no parameter 'nmuber', did you mean number"),
        ("grid: {number: [1, -1, x]}", "number must be int, at least 0, got -1.*got 'x'"),
        ("grid: {number: [1, 1]}", "two cells have the same parameters"),
        ("grid: {seed: [1]}\nseeds: [1]", "seed set in two places"),
        ("grid: {number: 3}", "number must be array"),
        ("gird: {number: [3]}", "gird"),
        ("random: {samples: 0, ranges: {number: {integers: [0, 3]}}}", "samples"),
        ("random: {samples: 1, ranges: {number: {normal: [0, 3]}}}", "number must be valid exactly by one"),
        ("time_limit: soon", "time_limit must be seconds or a time"),
        ("grid: [", "not YAML"),
    ],
)
def test_a_wrong_file_is_refused_before_anything_runs(place, text, message, capsys):
    with pytest.raises(ValueError, match=message):
        sweep.load(write(place, text))
    assert run(place) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (place / "store").exists()


def test_a_sweep_runs_each_cell_once_and_retries_what_failed(place, capsys):
    write(place, "grid: {number: [1, 2, 3]}\nseeds: [0, 1]")
    (place / "fail").touch()
    assert run(place, "--dry-run") == 0
    assert "6 to run" in capsys.readouterr().out
    assert not (place / "store").exists()

    assert run(place) == 1
    shown = capsys.readouterr().out
    assert "2 failed" in shown
    assert "three is bad" in shown
    note = json.loads(next((place / "store" / "failed").iterdir()).read_text())
    assert note["parameters"]["number"] == 3
    assert "ValueError: three is bad" in note["error"]
    assert (place / "out" / note["executed"]).is_file()
    assert set(ran(place).values()) == {1}

    assert run(place) == 1, "what failed is left alone"
    assert "0 to run" in capsys.readouterr().out
    (place / "fail").unlink()
    assert run(place, "--retry") == 0
    assert ran(place) == {(str(n), str(s)): 1 for n in (1, 2, 3) for s in (0, 1)}
    contents = [content for _, content in store.read_all(place / "store")]
    assert Counter(c["parameters"]["number"] for c in contents) == {1: 2, 2: 4, 3: 2}
    assert {c["run"]["sweep"] for c in contents} == {"study"}
    assert not list((place / "store" / "failed").iterdir())
    assert not list((place / "out").glob("*.ipynb")), "copies are kept of failed cells only, and none has failed now"
    threads = {line.split()[2] for line in (place / "ran").read_text().splitlines()}
    assert threads == {str(max(1, cluster.cores() // 2))}


def test_a_damaged_record_is_named_set_aside_and_run_again(place, capsys):
    write(place, "grid: {number: [1, 2]}")
    assert run(place) == 0
    victims = sorted((place / "store").glob("*.json"))
    assert len(victims) == 3
    victims[0].write_text(victims[0].read_text().replace('"square": ', '"square": 9'))
    untouched = {path: path.read_bytes() for path in victims[1:]}
    number = json.loads(victims[0].read_text())["parameters"]["number"]
    capsys.readouterr()
    assert run(place) == 0
    assert f"set aside: {victims[0].name}" in capsys.readouterr().out
    assert len(list((place / "store" / "damaged").iterdir())) >= 1
    contents = [content for _, content in store.read_all(place / "store")]
    assert all(isinstance(c, dict) for c in contents)
    assert {c["metrics"]["square"] for c in contents} == {1, 4}
    assert ran(place)[str(number), "0"] == 2
    assert ran(place)[str(3 - number), "0"] == 1
    assert all(path.read_bytes() == text for path, text in untouched.items() if f'"number": {3 - number}' in str(text))


def test_two_sweeps_at_once_into_one_store_share_the_work(place):
    path = write(place, "grid: {number: [1, 2, 4, 5, 6, 7]}\nseeds: [0]")
    both = [
        subprocess.Popen(command(path, place / "store", "--workers", "1"), stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    shown = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], shown
    assert ran(place) == {(str(n), "0"): 1 for n in (1, 2, 4, 5, 6, 7)}
    contents = [content for _, content in store.read_all(place / "store")]
    assert Counter(c["parameters"]["number"] for c in contents) == {1: 1, 2: 2, 4: 1, 5: 1, 6: 1, 7: 1}


def test_a_sweep_survives_three_kills(tmp_path):
    path = trivial(tmp_path, cells=8, seconds=0.2)
    found = killed_and_resumed(path, tmp_path / "store", [(0, 1.0), (1, 0.1), (3, 0.3)])
    assert found["records"] == found["distinct"] == 8
    assert found["damaged"] == 0
    assert 3 <= found["records_when_killed"] < 8, "the last kill came in the middle"


def test_ctrl_c_stops_and_the_same_command_goes_on(tmp_path):
    path = trivial(tmp_path, cells=5, seconds=0.2)
    driver = subprocess.Popen(
        command(path, tmp_path / "store", "--workers", "2"),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore Ctrl-C
    )
    while not list((tmp_path / "store").glob("*.json")) and driver.poll() is None:
        time.sleep(0.05)
    os.killpg(driver.pid, signal.SIGINT)
    _, said = driver.communicate(timeout=60)
    assert driver.returncode == 130, said
    assert "the same command goes on" in said
    assert not list((tmp_path / "store" / "failed").glob("*")), "what was interrupted has not failed"
    assert subprocess.run(command(path, tmp_path / "store"), check=False).returncode == 0
    assert len(list((tmp_path / "store").glob("*.json"))) == 5


def test_a_worker_that_dies_on_a_scheduler_is_replaced_and_its_cell_run_again(tmp_path):
    """A real scheduler and two real workers on loopback; one is killed in the middle."""
    dask = [sys.executable, "-m", "distributed.cli.dask_scheduler"]
    file = tmp_path / "scheduler.json"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    options = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
    scheduler = subprocess.Popen([*dask, *options], **quiet)
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", "--scheduler-file", str(file), "--nthreads", "1"]
    worker += ["--no-dashboard", "--memory-limit", "0", "--local-directory", str(tmp_path / "scratch")]
    workers = [subprocess.Popen(worker, start_new_session=True, **quiet) for _ in range(2)]
    try:
        while not file.exists():
            assert scheduler.poll() is None
            time.sleep(0.1)
        time.sleep(0.2)
        address = json.loads(file.read_text())["address"]
        path = trivial(tmp_path, cells=8, seconds=0.5)
        driver = subprocess.Popen(
            command(path, tmp_path / "store", "--scheduler", address), stdout=subprocess.PIPE, text=True
        )
        while len(list((tmp_path / "store").glob("*.json"))) < 2:
            assert driver.poll() is None
            time.sleep(0.05)
        os.killpg(workers[0].pid, signal.SIGKILL)
        shown, _ = driver.communicate(timeout=200)
        assert driver.returncode == 0, shown
    finally:
        for process in [*workers, scheduler]:
            process.kill()
            process.wait()
    contents = [content for _, content in store.read_all(tmp_path / "store")]
    assert sorted(c["parameters"]["number"] for c in contents) == list(range(8))


def test_a_scheduler_that_does_not_answer_is_an_error_in_one_line(place, capsys, monkeypatch):
    import distributed

    def refuse(*args, **kwargs):
        raise OSError("nobody there")

    monkeypatch.setattr(distributed, "Client", refuse)
    write(place, "grid: {number: [1]}")
    assert run(place, "--scheduler", "tcp://127.0.0.1:1") == 1
    assert "no Dask scheduler answers at tcp://127.0.0.1:1" in capsys.readouterr().err


def test_a_cell_that_takes_too_long_fails_and_the_time_limit_leaves_the_rest(tmp_path, capsys):
    path = trivial(tmp_path, cells=2, seconds=30)
    path.write_text(path.read_text() + "cell_limit: 4\ntime_limit: 0.5\n")
    arguments = ["sweep", str(path), "--results", str(tmp_path / "store"), "--out", str(tmp_path / "out")]
    assert cli.main([*arguments, "--workers", "1"]) == 1
    shown = capsys.readouterr().out
    assert "took longer than 4 s" in shown
    assert "1 cells were left" in shown


def test_a_kernel_that_dies_gets_a_second_chance_and_no_third(tmp_path, capsys):
    path = trivial(tmp_path, cells=2)
    book = nbformat.read(tmp_path / "trivial.ipynb", 4)
    book.cells[1].source = (
        f"import os, pathlib\nwith open('{tmp_path}/ran', 'a') as f: f.write(str(number))\n"
        f"text = pathlib.Path('{tmp_path}/ran').read_text()\n"
        "if number == 1 or text.count('0') < 2: os.kill(os.getpid(), 9)"
    )
    nbformat.write(book, tmp_path / "trivial.ipynb")
    arguments = ["sweep", str(path), "--results", str(tmp_path / "store"), "--out", str(tmp_path / "out")]
    assert cli.main([*arguments, "--workers", "1"]) == 1
    assert (tmp_path / "ran").read_text() == "0011"
    shown = capsys.readouterr().out
    assert shown.count("the kernel died") == 1
    contents = [content for _, content in store.read_all(tmp_path / "store")]
    assert [c["parameters"]["number"] for c in contents] == [0]


def test_a_lock_is_held_by_one_and_leaves_nothing(tmp_path):
    with cell.claim(tmp_path, "k") as mine:
        assert mine
        code = "import sys, pathlib, tnlib.study.cell as c\nwith c.claim(pathlib.Path(sys.argv[1]), 'k') as m: print(m)"
        other = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
        assert other.stdout == "False\n"
    assert not list((tmp_path / ".locks").iterdir())


SBATCH = """#!/bin/sh
# A stand-in for Slurm's: the job script becomes a local process.
echo "$1" >> "{place}/submitted"
cp "$1" "{place}/job.sh"
setsid sh "{place}/job.sh" > "{place}/job.log" 2>&1 &
echo "Submitted batch job $!"
"""


def test_a_sweep_runs_in_slurm_jobs(tmp_path):
    path, commands = trivial(tmp_path, cells=4), tmp_path / "bin"
    commands.mkdir()
    for name, text in (("sbatch", SBATCH.format(place=tmp_path)), ("scancel", '#!/bin/sh\nkill -9 -- "-$1"\n')):
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    job = {"CORES": "2", "PROCESSES": "2", "MEMORY": "4GB", "WALLTIME": "00:10:00", "INTERFACE": "lo"}
    environment = os.environ | {f"DASK_JOBQUEUE__SLURM__{name}": value for name, value in job.items()}
    environment["PATH"] = f"{commands}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(
        command(path, tmp_path / "store", "--slurm", "--workers", "2"),
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr + (tmp_path / "job.log").read_text()
    assert "#SBATCH" in (tmp_path / "job.sh").read_text()
    assert len((tmp_path / "submitted").read_text().splitlines()) == 1, "one job of two processes"
    assert len(list((tmp_path / "store").glob("*.json"))) == 4
