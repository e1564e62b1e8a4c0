"""Where and with what a number was measured: the part of every record that lets somebody judge or repeat it."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("tnlib", "torch", "tensorly", "numpy", "scipy")
# Parts of tnlib that run, record, draw and check, and decide no value: `code_digest` leaves them out.
ASIDE = ("study", "provenance", "paths", "plots", "check")
_IMPORT_LINE = re.compile(r"^\s*((?:from|import)\s+tnlib\b[^#(\\]*)", re.MULTILINE)


def provenance() -> dict[str, object]:
    """Commit, library versions, machine (CPU, cores, threads) and UTC date, as a JSON-ready dict.

    It does not load torch: a process that has not done so measured without it.
    """
    torch: Any = sys.modules.get("torch")
    threads = torch.get_num_threads() if torch else int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "machine": {
            "cpu": cpu_name(),
            "architecture": platform.machine(),
            "cores": os.cpu_count(),
            "threads": threads,
            "device": torch.cuda.get_device_name() if torch and torch.cuda.is_available() else "cpu",
        },
    }


def commit() -> str:
    """The checked-out commit, with `+changes` appended when tracked code differs from it.

    `unknown` outside the workbook's repository: the commit of another one, around site-packages say, is not ours.
    """
    head = _git("rev-parse", "--short=12", "HEAD")
    if head is None:
        return "unknown"
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", "tnlib", "notebooks/source")
    return head + ("+changes" if changed else "")


def cpu_name() -> str:
    """The processor's model name, and the instruction sets that decide how fast it computes in low precision."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    name = next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
    flags = next((line for line in lines if line.startswith("flags")), "").split()
    wide = [flag for flag in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16") if flag in flags]
    return " ".join([name, *wide])


def has_fast_bf16() -> bool:
    """Whether the CPU multiplies bfloat16 in hardware (elsewhere it is emulated, and slower than float32)."""
    return any(flag in cpu_name() for flag in ("avx512_bf16", "amx_bf16"))


def code_digest(source: Path | str) -> str:
    """Digest of the tnlib modules that some code imports, and of those that they import.

    Args:
        source: a notebook (`.ipynb`) or Python file; or a text, which is code itself.

    Returns:
        16 hexadecimal digits. They depend on the modules' syntax trees without docstrings: another comment, layout,
        docstring or Python version changes nothing. The code itself does not count (records have its own digest), nor
        do the parts of tnlib that only run, record, draw or check (`ASIDE`).
    """
    todo = [name for text in _texts(source) for name in _imported(_parsed(text))]
    parts: dict[str, str] = {}
    while todo:
        name = todo.pop()
        if name in parts or (file := _file(name)) is None:
            continue
        tree = ast.parse(file.read_text())
        parts[name] = _plain(tree)
        todo += _imported(tree)
    text = "\n".join(f"{name} {parts[name]}" for name in sorted(parts))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _texts(source: Path | str) -> list[str]:
    """Pieces of code: the code cells of a notebook, a file's text, or the text itself."""
    if isinstance(source, str):
        return [source]
    if source.suffix != ".ipynb":
        return [source.read_text()]
    return ["".join(cell["source"]) for cell in json.loads(source.read_text())["cells"] if cell["cell_type"] == "code"]


def _parsed(text: str) -> ast.AST:
    """The syntax tree; of a cell with IPython's own syntax, that of its lines which import from tnlib."""
    try:
        return ast.parse(text)
    except SyntaxError:
        return ast.parse("\n".join(_IMPORT_LINE.findall(text)))


def _imported(tree: ast.AST) -> Iterator[str]:
    """Names of tnlib that a tree imports: modules, the packages around them, and what may be a module or not."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "tnlib" and (len(parts) == 1 or parts[1] not in ASIDE):
                yield from (".".join(parts[: n + 1]) for n in range(len(parts)))


def _file(name: str) -> Path | None:
    """The file of a module of tnlib; None when there is no such module."""
    place = Path(__file__).parent.joinpath(*name.split(".")[1:])
    return next((file for file in (place / "__init__.py", place.with_suffix(".py")) if file.is_file()), None)


def _plain(node: object) -> str:
    """A syntax tree as text, the same in every version of Python.

    Without positions, texts that stand as statements (docstrings), and empty fields, which versions add to nodes.
    """
    if isinstance(node, list):
        kept = [item for item in node if not (isinstance(item, ast.Expr) and _is_text(item.value))]
        return f"[{','.join(map(_plain, kept))}]"
    if not isinstance(node, ast.AST):
        return ascii(node)
    fields = ((name, getattr(node, name, None)) for name in sorted(node._fields) if name not in ("kind", "ctx"))
    return f"{type(node).__name__}({','.join(f'{n}={_plain(v)}' for n, v in fields if v not in (None, []))})"


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _git(*arguments: str) -> str | None:
    from tnlib import paths  # not above: `measure` imports this module, and works without platformdirs

    if not paths.IN_REPOSITORY:
        return None
    try:
        run = subprocess.run(
            ["git", *arguments], cwd=paths.ROOT, capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return run.stdout.strip() if run.returncode == 0 else None
