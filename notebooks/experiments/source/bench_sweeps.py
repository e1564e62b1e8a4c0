# %% [markdown]
# # Measure what a sweep adds to papermill, and kill sweeps at random moments
#
# A benchmark: one run gives one record, `bench-sweeps`. What does a run of a sweep (`tnlib sweep`, one worker) take beside
# papermill alone? And when a sweep is killed at a random moment and the same command given again, does every run have
# exactly one valid record?
#
# **Rules.** The swept notebook squares a number: nearly all of its time is the kernel's start. The sweep is the whole
# command: interpreter, validation, scheduler, worker, store. Half of papermill's calls come before it and half after, so
# that a drift of the machine hits both. Every second kill also takes workers and kernels, as a power cut would.

# %% tags=["parameters"]
profile: str = "quick"  # "quick": 2 runs and 1 kill, seconds; "full": 200 runs and 20 kills, a quarter of an hour
cells: int | None = None  # at least 0; runs of the sweep that is timed, 0: none; None: the profile's
kills: int | None = None  # at least 0; sweeps that are killed; None: the profile's
seed: int = 0  # decides the moments of the kills

# %%
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import numpy as np
import psutil

from tnlib import study
from tnlib.study.store import DamagedRecordError, read_all

# %%
full = profile == "full"
cells = (200 if full else 2) if cells is None else cells
kills = (20 if full else 1) if kills is None else kills
killed_cells, workers, pause = (6, 2, 0.3) if full else (2, 2, 0.0)
place = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
rng = np.random.default_rng(seed)

# %% [markdown]
# ## A notebook and its sweep


# %%
def trivial(name, cells, pause=0.0):
    folder = Path(place.name, name)
    folder.mkdir()
    book = nbformat.v4.new_notebook(
        metadata={"kernelspec": {"name": "python3", "display_name": "", "language": "python"}}
    )
    book.cells = [
        nbformat.v4.new_code_cell("number: int = 0  # at least 0", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(f"import time\ntime.sleep({pause})\nnumber**2"),
    ]
    nbformat.write(book, folder / "trivial.ipynb")
    sweep = folder / "trivial.yaml"
    sweep.write_text(f"notebook: trivial.ipynb\ngrid: {{number: {list(range(cells))}}}\n")
    return sweep


# %%
def command(sweep, store, workers):
    where = ["--results", str(store), "--out", str(sweep.parent / "out"), "--workers", str(workers)]
    return [sys.executable, "-m", "tnlib", "sweep", str(sweep), *where]


# %%
def run(command):
    begin = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return time.perf_counter() - begin


# %%
def numbers(store):
    """The swept number of every valid record, in order, and how many records are damaged."""
    contents = [content for _, content in read_all(store)]
    whole = [content for content in contents if not isinstance(content, DamagedRecordError)]
    damaged = len(contents) - len(whole) + len(list(store.glob("damaged/*")))
    return sorted(content["run"]["parameters"]["number"] for content in whole), damaged


# %% [markdown]
# ## Overhead
# papermill runs in one process of its own, which is told how many calls to make and says how long each took; a first one,
# which loads everything, does not count.

# %%
script = """
import json, sys, time, papermill
def seconds(number):
    begin = time.perf_counter()
    parameters = {"number": number}
    papermill.execute_notebook(*sys.argv[1:3], parameters=parameters, kernel_name="python3", progress_bar=False)
    return time.perf_counter() - begin
seconds(0)
for line in sys.stdin:
    print(json.dumps([seconds(number) for number in range(int(line))]), flush=True)
"""


# %%
def papermill_process(book):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    return subprocess.Popen([sys.executable, "-c", script, str(book), str(book.with_name("bare.ipynb"))], **pipes)


# %%
def calls(process, number):
    print(number, file=process.stdin, flush=True)
    return json.loads(process.stdout.readline())


# %%
def overhead(sweep):
    store, number = sweep.with_name("store"), max(1, cells // 4)
    with papermill_process(sweep.with_suffix(".ipynb")) as papermill:
        before = calls(papermill, number)
        seconds = run(command(sweep, store, workers=1))
        bare = before + calls(papermill, number)
    assert numbers(store) == (list(range(cells)), 0)
    low, median, high = np.quantile(bare, [0.1, 0.5, 0.9]).tolist()
    found = {"papermill_calls": len(bare), "papermill_seconds": median}
    found |= {"papermill_seconds_low": low, "papermill_seconds_high": high}
    return found | {"sweep_seconds_per_run": seconds / cells, "overhead": seconds / cells / float(np.mean(bare))}


# %%
metrics = {"cells": cells, **(overhead(trivial("timed", cells)) if cells else {})}

# %% [markdown]
# ## Kills
# A kill comes a random time after a random number of records is there: so most kills hit a sweep in its middle.


# %%
def kill(pid, whole):
    victims = [pid, *([child.pid for child in psutil.Process(pid).children(recursive=True)] if whole else [])]
    for victim in victims:
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:
            continue


# %%
def kill_one(sweep, store, after, delay, whole):
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    driver = subprocess.Popen(command(sweep, store, workers), **quiet)
    while driver.poll() is None and len(list(store.glob("*.json"))) < after:
        time.sleep(0.02)
    time.sleep(delay)
    in_time = driver.poll() is None
    if in_time:
        kill(driver.pid, whole)
    driver.wait()
    return {"killed": in_time, "records_when_killed": len(list(store.glob("*.json")))}


# %%
def killed_and_resumed(number):
    store = killed.with_name(f"store{number}")
    whole, after = number % 2 == 1, int(rng.integers(killed_cells))
    delay = float(rng.uniform(0, metrics.get("papermill_seconds", 1.0) + pause))
    row = {"whole": whole, "after_records": after, "delay": delay, **kill_one(killed, store, after, delay, whole)}
    run(command(killed, store, workers))
    found, damaged = numbers(store)
    exactly_one = found == list(range(killed_cells))
    return row | {"records": len(found), "distinct": len(set(found)), "damaged": damaged, "exactly_one": exactly_one}


# %%
killed = trivial("killed", killed_cells, pause)
rows = [killed_and_resumed(number) for number in range(kills)]

# %%
metrics |= {"kills": sum(row["killed"] for row in rows), "killed_sweeps": len(rows), "killed_cells": killed_cells}
metrics["kills_exactly_one_record"] = sum(row["exactly_one"] for row in rows)
metrics["kills_in_the_middle"] = sum(0 < row["records_when_killed"] < killed_cells for row in rows)
metrics["damaged_records"] = sum(row["damaged"] for row in rows)

# %%
place.cleanup()
study.record(
    "bench-sweeps",
    metrics | {"rows": rows},
    parameters={"profile": profile, "cells": cells, "kills": kills},
    source="notebooks/experiments/bench_sweeps",
    seed=seed,
)
print("recorded bench-sweeps")
