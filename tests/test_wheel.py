"""The installed package: the wheel holds what it needs, works outside the repository, and says what needs more."""

import os
import shutil
import subprocess
import sys
import zipfile

import pytest

from tnlib import paths

# What only the extras bring: an import of one of them fails, as it does where they are not installed.
BLOCKED = (
    "click, dask, fastjsonschema, jupytext, matplotlib, nbformat, pandas, papermill, PIL, platformdirs, pooch, yaml"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with the unpacked wheel, far from the repository."""
    place = tmp_path_factory.mktemp("wheel")
    source, built, site = place / "source", place / "built", place / "site"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(paths.ROOT / name, source)
    shutil.copytree(paths.ROOT / "tnlib", source / "tnlib", ignore=shutil.ignore_patterns("__pycache__"))
    code = f"from setuptools import build_meta; print(build_meta.build_wheel({str(built)!r}))"
    subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True)
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return site


def run(site, folder, *command, blocked=False):
    """A Python whose tnlib is the wheel's, started in an empty folder."""
    block = "import sys\n" + "".join(f"sys.modules[{name.strip()!r}] = None\n" for name in BLOCKED.split(","))
    if blocked:
        (folder / "sitecustomize.py").write_text(block)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TNLIB_")} | {
        "PYTHONPATH": f"{folder}{os.pathsep}{site}",
        "XDG_DATA_HOME": str(folder / "data"),
        "XDG_CACHE_HOME": str(folder / "cache"),
    }
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_the_wheel_holds_every_file_of_the_package(site):
    tracked = {p.relative_to(paths.ROOT) for p in (paths.ROOT / "tnlib").rglob("*") if p.suffix not in ("", ".pyc")}
    assert {p for p in tracked if p.name != "tnlib"} <= {p.relative_to(site) for p in site.rglob("*")}
    assert (site / "tnlib" / "py.typed").is_file()


def test_the_core_works_with_its_five_packages_alone(site, tmp_path):
    code = """
import torch
from tnlib import contract, decompose, layers, measure
small = layers.factorize(torch.nn.Linear(24, 12), "ttm", 2)
x = torch.ones(3, 24)
torch.testing.assert_close(layers.freeze(small, x)(x), small(x).detach())
print(decompose.__file__, measure.cost(small, (3, 24)).params, contract.CostModel.default())
"""
    done = run(site, tmp_path, "-W", "error", "-c", code, blocked=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(site))


def test_the_command_line_says_which_extra_it_needs(site, tmp_path):
    done = run(site, tmp_path, "-m", "tnlib", "results", blocked=True)
    assert done.returncode == 1
    assert done.stderr == "tnlib: the command line needs click: pip install 'tnlib[study]'\n"


def test_with_the_extras_records_work_anywhere_and_lessons_need_the_repository(site, tmp_path):
    code = """
from tnlib import paths, study
assert not paths.IN_REPOSITORY
print(study.record("a-study", {"x": 1.0}, parameters={}, source="a test"))
"""
    done = run(site, tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path))
    listed = run(site, tmp_path, "-m", "tnlib", "results")
    assert (listed.returncode, listed.stderr) == (0, "")
    assert "a-study" in listed.stdout
    lesson = run(site, tmp_path, "-m", "tnlib", "run", "00")
    assert lesson.returncode == 2
    assert lesson.stderr.count("\n") == 1
    assert "repository" in lesson.stderr
