"""The house rules: imports go one way, the environments agree, the lock is pinned, the repository stays small."""

import ast
import re
import subprocess
import sys
import tomllib

import pytest
import yaml

from tnlib import paths

PACKAGE = paths.ROOT / "tnlib"
PROJECT = tomllib.loads((paths.ROOT / "pyproject.toml").read_text())["project"]

# What these parts may import of other packages: what `pip install tnlib` brings.
CORE = {"decompose", "contract", "layers", "compress", "measure", "provenance"}
PACKAGES = {"torch", "tensorly", "numpy", "scipy", "safetensors"}

# What each part may import of tnlib besides itself and `paths`.
MAY_IMPORT = {
    "paths": set(),
    "provenance": set(),
    "decompose": set(),
    "characters": set(),
    "sources": {"characters"},
    "contract": set(),
    "layers": {"contract", "decompose"},
    "measure": {"provenance"},
    "compress": {"layers", "contract", "decompose", "measure"},
    "deploy": {"layers", "measure"},
    "data": {"sources"},
    "networks": {"data"},
    "models": {"data", "networks"},
    "imagenet": {"networks"},
    "sentences": set(),
    "speech": set(),
    "recipe": set(),
    "train": {"data", "models", "measure", "compress", "recipe"},
    "plots": set(),
    "check": {"decompose", "layers"},
    "study": {"provenance", "compress", "layers", "decompose", "measure", "data", "models", "train", "plots", "check"}
    | {"deploy"},
    "__main__": {"study"},
}


def requirements(extra):
    """What an extra lists, the extras that it names included."""
    for entry in PROJECT["optional-dependencies"][extra]:
        named = re.fullmatch(r"tnlib\[(.+)\]", entry)
        if named:
            yield from (inner for name in named[1].split(",") for inner in requirements(name))
        else:
            yield entry


EVERYTHING = [*PROJECT["dependencies"], *requirements("dev")]


def imported_parts(path):
    """First-level parts of tnlib that a module imports, wherever in the module."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "tnlib" else [node.module]
        else:
            assert not isinstance(node, ast.ImportFrom), f"{path.name}: relative imports hide their direction"
            continue
        yield from (name.split(".")[1] for name in names if name.startswith("tnlib."))


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if part == "__init__":
        assert not list(imported_parts(path))
        return
    assert set(imported_parts(path)) <= MAY_IMPORT[part] | {part, "paths"}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_the_core_needs_five_packages_and_nobody_a_private_name_of_torch(path):
    tree = ast.parse(path.read_text())
    imports = [n for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom)]
    names = {a.name for n in imports if isinstance(n, ast.Import) for a in n.names}
    names |= {f"{n.module}.{a.name}" for n in imports if isinstance(n, ast.ImportFrom) for a in n.names}
    if path.relative_to(PACKAGE).parts[0].removesuffix(".py") in CORE:
        outside = {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) - {"tnlib"}
        assert outside <= PACKAGES
    names |= {ast.unparse(n) for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
    assert not [name for name in names if re.match(r"torch(\.\w+)*\._(?!_)", name)]


def test_no_module_is_a_drawer_and_none_is_too_long():
    for path in [*PACKAGE.rglob("*.py"), *(paths.ROOT / "book").rglob("*.py")]:
        assert path.stem not in {"utils", "helpers", "common"}
        assert len(path.read_text().splitlines()) <= 300, f"{path} is asking to be two"


def test_environment_yml_lists_what_pyproject_lists():
    dependencies = yaml.safe_load((paths.ROOT / "environment.yml").read_text())["dependencies"]
    pip = next(entry["pip"] for entry in dependencies if isinstance(entry, dict))
    assert sorted(pip) == sorted([*EVERYTHING, "-e ."])
    assert "python" + PROJECT["requires-python"] in dependencies


def test_the_lock_pins_every_dependency_with_hashes_and_names_no_index():
    lock = (paths.ROOT / "requirements.lock").read_text()
    pinned = set(re.findall(r"^([A-Za-z0-9_.-]+)==", lock, re.MULTILINE))
    assert {re.split(r"[<>=\[]", entry)[0].replace("_", "-") for entry in EVERYTHING} <= pinned
    assert not re.search(r"https?://|index-url|find-links", lock)
    for block in re.split(r"\n(?=\S)", lock.strip()):
        assert "--hash=sha256:" in block


def test_tracked_files_are_small_and_name_no_place_of_this_machine():
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=paths.ROOT, capture_output=True, text=True, check=True)
    files = [paths.ROOT / name for name in listing.stdout.split("\0") if name and (paths.ROOT / name).is_file()]
    sizes = [path.stat().st_size for path in files]
    assert max(sizes) < 10e6
    assert sum(sizes) < 60e6
    texts = [p for p in files if p.suffix in {".py", ".md", ".json", ".ipynb", ".toml", ".yml", ".yaml"}]
    assert not [p for p in texts if str(paths.ROOT) + "/" in p.read_text()]
