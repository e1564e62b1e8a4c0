"""Sweeps: validated whole, run once, resumed after anything, on one machine and on a Dask cluster.

Most tests put a Python function in the place of the kernel; the last three run real ones.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import nbformat
import pytest

from tnlib import paths, study
from tnlib.study import cli, cluster, engine, keyed_run, store, sweep
from tnlib.study.parameters import complete
from tnlib.study.run import NotebookRun, about

PYTHON = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
PARAMETERS = "number: int = 0  # at least 0\nseed: int = 0  # of nothing\nkind: str = 'a'  # a kind"


def notebook(folder, body, name="square"):
    book = nbformat.v4.new_notebook(metadata=PYTHON)
    book.cells = [
        nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(body),
    ]
    nbformat.write(book, folder / f"{name}.ipynb")


class Kernel:
    """In the place of `run_notebook`: records squares, and does what it is told with some numbers."""

    def __init__(self):
        self.ran, self.behaviour, self.lock = Counter(), {}, threading.Lock()
        self.threads, self.working, self.most = set(), 0, 0

    def __call__(self, path, parameters, *, out, results, name, run, threads, timeout):
        values = complete(path, parameters)
        number = values["number"]
        with self.lock:
            self.ran[number, values["seed"]] += 1
            self.threads.add(threads)
            self.working += 1
            self.most = max(self.most, self.working)
        time.sleep(0.02)
        error = self.behaviour.get(number, "")
        out.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("executed")
        for part in range(0 if error else 2 if number == 2 else 1):
            metrics = {"square": number**2, "part": part}
            study.record("square", metrics, folder=results, run=about(path, values) | run)
        with self.lock:
            self.working -= 1
        return NotebookRun(path.stem, out / name, 0.1, error, "cell [2]" if error else "")


@pytest.fixture
def kernel(monkeypatch):
    fake = Kernel()
    monkeypatch.setattr(keyed_run, "run_notebook", fake)
    return fake


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("TNLIB_RESULTS", str(tmp_path / "store"))
    monkeypatch.setattr(paths, "PUBLISHED", tmp_path / "published")
    notebook(tmp_path, "number**2")
    return tmp_path


def write(place, text):
    path = place / "study.yaml"
    path.write_text("notebook: square.ipynb\n" + text)
    return path


def run(place, *options, workers=2):
    out = str(place / "out")
    return cli.main(["sweep", str(place / "study.yaml"), "--out", out, "--workers", str(workers), *options])


def numbers(folder):
    contents = [content for _, content in store.read_all(folder)]
    assert all(isinstance(content, dict) for content in contents)
    return Counter(content["parameters"]["number"] for content in contents)


def test_runs_are_the_product_of_what_is_given(place):
    path = write(place, "parameters: {kind: b}\ngrid: {number: [1, 2]}\nseeds: [5, 6]\ntime_limit: 1h 30 min")
    plan = sweep.load(path)
    assert [dict(r.parameters) for r in plan.runs] == [
        {"kind": "b", "number": n, "seed": s} for n in (1, 2) for s in (5, 6)
    ]
    assert plan.time_limit == 5400
    assert plan.describe(plan.runs[0]) == "number=1 seed=5"
    listed = sweep.load(write(place, "list: [{number: 1, kind: x}, {number: 2}]\nseeds: [0]"))
    assert [r.parameters.get("kind") for r in listed.runs] == ["x", None]


def test_a_random_search_is_the_same_for_the_same_seed(place):
    text = "random: {{samples: 9, seed: {seed}, ranges: {{number: {{integers: [0, 1000]}}, kind: {{choice: [a, b]}}}}}}"
    first, again, other = (
        [dict(r.parameters) for r in sweep.load(write(place, text.format(seed=s))).runs] for s in (1, 1, 2)
    )
    assert first == again != other
    assert all(0 <= r["number"] <= 1000 and r["kind"] in "ab" for r in first)


def test_a_runs_key_depends_on_code_parameters_and_defaults(place):
    plan = sweep.load(write(place, "grid: {number: [0, 1]}"))
    assert len({r.key for r in plan.runs}) == 2
    assert sweep.load(write(place, "parameters: {kind: a}\ngrid: {number: [0, 1]}")).runs[0].key == plan.runs[0].key
    assert sweep.load(write(place, "grid: {number: [0.0, 1.0]}")).runs[0].key == plan.runs[0].key
    notebook(place, "number**3")
    assert sweep.load(write(place, "grid: {number: [0, 1]}")).runs[0].key != plan.runs[0].key


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("grid: {nmuber: [1]}", "no parameter 'nmuber', did you mean number"),
        ("grid: {number: [1, -1, x]}", "number must be int, at least 0, got -1.*got 'x'"),
        ("grid: {number: [1, .nan, .inf]}", "got nan.*got inf"),
        ("grid: {number: [1, 1]}", "two runs have the same parameters"),
        ("grid: {seed: [1]}\nseeds: [1]", "seed set in two places"),
        ("grid: {number: [1]}\ngrid: {number: [2]}", "grid given twice"),
        ("grid: {number: [1], number: [2]}", "number given twice"),
        ("grid: {number: 3}", "number must be array"),
        ("gird: {number: [3]}", "no entry 'gird', did you mean grid"),
        ("random: {samples: 0, ranges: {number: {integers: [0, 3]}}}", "samples"),
        ("random: {samples: 1, ranges: {number: {normal: [0, 3]}}}", "number must be valid exactly by one"),
        ("random: {samples: 1, ranges: {number: {integers: [3, 0]}}}", "number begins at 3 and ends at 0"),
        ("time_limit: soon", "time_limit must be seconds or a time"),
        ("time_limit: .nan", "time_limit must be seconds or a time"),
        ("grid: [", "not YAML"),
    ],
)
def test_a_wrong_file_is_refused_before_anything_runs(place, text, message, capsys):
    with pytest.raises(ValueError, match=message):
        sweep.load(write(place, text))
    assert run(place) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (place / "store").exists()


def test_a_sweep_that_is_not_there_is_suggested(place, capsys):
    write(place, "")
    for wrong, meant in (("stduy.yaml", "study.yaml"), ("rank_studdy.yaml", "rank_study.yaml")):
        assert cli.main(["sweep", str(place / wrong)]) == 2
        assert f"did you mean {meant}" in capsys.readouterr().err


def test_a_sweep_does_each_run_once_and_retries_what_failed(place, kernel, capsys):
    write(place, "grid: {number: [1, 2, 3]}\nseeds: [0, 1]")
    kernel.behaviour[3] = "ValueError: three is bad"
    assert run(place, "--dry-run") == 0
    assert "6 to run" in capsys.readouterr().out
    assert not (place / "store").exists()

    assert run(place) == 1
    shown = capsys.readouterr().out
    assert "2 failed" in shown
    assert "three is bad" in shown
    assert f"see them: tnlib results square{chr(10)}" in shown
    note = json.loads(next((place / "store" / "failed").iterdir()).read_text())
    assert note["parameters"]["number"] == 3
    assert "ValueError: three is bad" in note["error"]
    assert (place / "out" / note["executed"]).is_file()
    assert set(kernel.ran.values()) == {1}
    assert kernel.most == 2

    assert run(place) == 1, "what failed is left alone"
    assert "0 to run" in capsys.readouterr().out
    kernel.behaviour.clear()
    assert run(place, "--retry") == 0
    assert kernel.ran == {(n, s): 2 if n == 3 else 1 for n in (1, 2, 3) for s in (0, 1)}
    assert numbers(place / "store") == {1: 2, 2: 4, 3: 2}
    assert {content["run"]["sweep"] for _, content in store.read_all(place / "store")} == {"study"}
    assert not list((place / "store" / "failed").iterdir())
    assert not list((place / "out").iterdir()), "copies are kept of failed runs only, and none has failed now"
    assert not list((place / "store" / ".staging").iterdir())
    assert kernel.threads == {max(1, cluster.cores() // 2)}


def test_published_records_count_as_done(place, kernel, capsys):
    write(place, "grid: {number: [1, 2]}")
    assert run(place, "--publish") == 0
    assert numbers(place / "published") == {1: 1, 2: 2}
    write(place, "grid: {number: [1, 2, 4]}")
    assert run(place) == 0
    assert "2 done, 0 failed before, 1 to run" in capsys.readouterr().out
    assert numbers(place / "store") == {4: 1}


def test_the_published_study_is_done(capsys):
    assert cli.main(["sweep", str(paths.NOTEBOOKS / "sweeps" / "rank_study.yaml"), "--dry-run"]) == 0
    assert "0 to run" in capsys.readouterr().out


def test_records_of_other_code_count_and_are_refreshed_on_demand(place, kernel, capsys, monkeypatch):
    write(place, "grid: {number: [1, 2]}")
    assert run(place) == 0
    assert "other code" not in capsys.readouterr().out
    for module in (cluster, sys.modules[about.__module__]):
        monkeypatch.setattr(module, "code_digest", lambda path: "0123456789abcdef")
    assert run(place) == 0
    assert "2 of 2 done by other code" in capsys.readouterr().out
    assert kernel.ran == {(1, 0): 1, (2, 0): 1}
    assert run(place, "--refresh") == 0
    assert "other code" not in capsys.readouterr().out
    assert kernel.ran == {(1, 0): 2, (2, 0): 2}
    assert numbers(place / "store") == {1: 1, 2: 2}
    assert {content["code"] for _, content in store.read_all(place / "store")} == {"0123456789abcdef"}
    assert len(list((place / "store" / "replaced").iterdir())) == 3, "the old ones are kept"


def test_a_damaged_record_is_named_and_run_again(place, kernel, capsys):
    write(place, "grid: {number: [1, 2]}")
    assert run(place) == 0
    victims = sorted((place / "store").glob("*.json"))
    assert len(victims) == 3
    victims[0].write_text(victims[0].read_text().replace('"square": ', '"square": 9'))
    number = json.loads(victims[0].read_text())["parameters"]["number"]
    untouched = {p: p.read_bytes() for p in victims[1:] if json.loads(p.read_text())["parameters"]["number"] != number}
    capsys.readouterr()
    assert run(place) == 0
    assert f"damaged: {victims[0].name}" in capsys.readouterr().out
    assert len(list((place / "store" / "damaged").iterdir())) == 1
    assert numbers(place / "store") == {1: 1, 2: 2}
    assert {content["metrics"]["square"] for _, content in store.read_all(place / "store")} == {1, 4}
    assert kernel.ran == {(number, 0): 2, (3 - number, 0): 1}
    assert all(path.read_bytes() == text for path, text in untouched.items())


def test_a_users_folder_is_left_as_it_is(place, kernel, monkeypatch):
    """Files that are not named as records are not ours, nor is a folder that is named as one."""
    mine = place / "mine"
    (mine / "square-0123456789abcdef.json").mkdir(parents=True)
    (mine / "package.json").write_text("{}")
    write(place, "grid: {number: [1]}")
    monkeypatch.chdir(mine)
    assert run(place, "--results", ".") == 0
    assert (mine / "package.json").read_text() == "{}"
    assert (mine / "square-0123456789abcdef.json").is_dir()
    assert not (mine / "damaged").exists()
    assert numbers(mine) == {1: 1}


def test_two_sweeps_at_once_into_one_store_share_the_work(place, kernel):
    plan = sweep.load(write(place, "grid: {number: [1, 2, 4, 5, 6, 7]}\nseeds: [0]"))
    ends = [], []

    def one(end):
        report = lambda run, outcome: end.append(outcome.status)  # noqa: E731
        cluster.run_sweep(plan, list(plan.runs), place / "store", place / "out", workers=1, report=report)

    both = [threading.Thread(target=one, args=(end,)) for end in ends]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert kernel.ran == {(n, 0): 1 for n in (1, 2, 4, 5, 6, 7)}
    assert numbers(place / "store") == {1: 1, 2: 2, 4: 1, 5: 1, 6: 1, 7: 1}
    assert Counter(ends[0] + ends[1]) == {"done": 6, "found": 6}


def test_a_lock_is_held_by_one_process_and_leaves_nothing(tmp_path):
    with keyed_run.claim(tmp_path, "k") as mine:
        assert mine
        with keyed_run.claim(tmp_path, "k") as twice:
            assert not twice
        code = (
            "import sys, pathlib, tnlib.study.keyed_run as k\n"
            "with k.claim(pathlib.Path(sys.argv[1]), 'k') as m: print(m)"
        )
        other = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
        assert other.stdout == "False\n"
    assert not list((tmp_path / ".locks").iterdir())


def test_a_run_that_fails_in_time_and_the_time_limit_leave_the_rest(place, kernel, capsys):
    write(place, "grid: {number: [1, 2, 4]}\ntime_limit: 0.01\ncell_limit: 4")
    kernel.behaviour[1] = "took longer than 4 s"
    assert run(place, workers=1) == 1
    shown = capsys.readouterr().out
    assert "took longer than 4 s" in shown
    assert "2 runs were left" in shown
    assert sum(kernel.ran.values()) == 1


def test_a_kernel_that_dies_gets_a_second_chance_and_no_third(place, kernel, capsys):
    write(place, "grid: {number: [0, 1]}")
    kernel.behaviour[1] = "the kernel died (it did)"
    assert run(place) == 1
    assert kernel.ran == {(0, 0): 1, (1, 0): 2}
    assert capsys.readouterr().out.count("the kernel died") == 1
    assert numbers(place / "store") == {0: 1}


def test_a_scheduler_that_does_not_answer_is_an_error_in_one_line(place, capsys, monkeypatch):
    import distributed

    def refuse(*args, **kwargs):
        raise OSError("nobody there")

    monkeypatch.setattr(distributed, "Client", refuse)
    write(place, "grid: {number: [1]}")
    assert run(place, "--scheduler", "tcp://127.0.0.1:1") == 1
    assert "no Dask scheduler answers at tcp://127.0.0.1:1" in capsys.readouterr().err


def work_and_die_once(task, wait=False):
    """In the place of `run_keyed` on a worker: the first that comes kills its process."""
    victim = Path(task.results).parent / "victim"
    try:
        victim.touch(exist_ok=False)
    except FileExistsError:
        keyed_run.run_notebook = Kernel()
        return keyed_run.run_keyed(task, wait)
    os.kill(os.getpid(), signal.SIGKILL)
    return None


def test_a_dask_worker_that_dies_is_replaced_and_its_run_done_again(place, monkeypatch, capsys):
    """A real scheduler and two real worker processes, without kernels."""
    from distributed import LocalCluster

    monkeypatch.setattr(cluster, "run_keyed", work_and_die_once)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    write(place, "grid: {number: [1, 2, 4]}")
    options = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "memory_limit": 0, "silence_logs": 50}
    with LocalCluster(n_workers=2, threads_per_worker=1, **options) as local:
        assert run(place, "--scheduler", local.scheduler_address) == 0, capsys.readouterr().out
    assert (place / "victim").exists()
    assert numbers(place / "store") == {1: 1, 2: 2, 4: 1}


def command(place, *options):
    options = ["--results", str(place / "store"), "--out", str(place / "out"), "--workers", "2", *options]
    return [sys.executable, "-m", "tnlib", "sweep", str(place / "study.yaml"), *options]


def test_a_sweep_is_killed_stopped_and_goes_on_with_the_same_command(place):
    """Real kernels. First everything is killed, then Ctrl-C, then it may end."""
    notebook(place, "import time\ntime.sleep(0.5)\nnumber**2")
    write(place, "grid: {number: [0, 1, 2, 3]}")
    for how in (signal.SIGKILL, signal.SIGINT):
        before = len(list((place / "store").glob("*.json")))
        driver = subprocess.Popen(
            command(place),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore Ctrl-C
        )
        while len(list((place / "store").glob("*.json"))) == before and driver.poll() is None:
            time.sleep(0.02)
        os.killpg(driver.pid, how)
        _, said = driver.communicate(timeout=60)
        if how == signal.SIGINT:
            assert driver.returncode == 130, said
            assert "the same command goes on" in said
        assert "leaked" not in said
        assert "Traceback" not in said
    assert len(list((place / "store").glob("*.json"))) < 4, "it was stopped in the middle"
    assert not list((place / "store" / "failed").glob("*")), "what was interrupted has not failed"
    last = subprocess.run(command(place), capture_output=True, text=True, check=False)
    assert last.returncode == 0, last.stdout + last.stderr
    assert numbers(place / "store") == {0: 1, 1: 1, 2: 1, 3: 1}


SBATCH = """#!/bin/sh
# A stand-in for Slurm's: the job script becomes a local process.
echo "$1" >> "{place}/submitted"
cp "$1" "{place}/job.sh"
setsid sh "{place}/job.sh" > "{place}/job.log" 2>&1 &
echo "Submitted batch job $!"
"""


def test_a_sweep_runs_in_slurm_jobs(place):
    write(place, "grid: {number: [1, 2]}")
    commands = place / "bin"
    commands.mkdir()
    for name, text in (("sbatch", SBATCH.format(place=place)), ("scancel", '#!/bin/sh\nkill -9 -- "-$1"\n')):
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    job = {"CORES": "2", "PROCESSES": "2", "MEMORY": "4GB", "WALLTIME": "00:10:00", "INTERFACE": "lo"}
    environment = os.environ | {f"DASK_JOBQUEUE__SLURM__{name}": value for name, value in job.items()}
    environment["PATH"] = f"{commands}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(
        command(place, "--slurm"), env=environment, cwd=place, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr + (place / "job.log").read_text()
    assert "#SBATCH" in (place / "job.sh").read_text()
    assert len((place / "submitted").read_text().splitlines()) == 1, "one job of two processes"
    assert numbers(place / "store") == {1: 1, 2: 1}


def test_a_deadline_ends_a_kernel(place):
    notebook(place, "import time\ntime.sleep(60)")
    began = time.monotonic()
    with engine.kernel_threads(1) as threads:
        done = threads.submit(study.run_notebook, place / "square.ipynb", {"number": 1}, out=place, timeout=1).result()
    assert done.error == "took longer than 1 s"
    assert time.monotonic() - began < 50
    assert done.output.name == "square-failed.ipynb"
