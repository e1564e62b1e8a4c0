"""Where and with what a number was measured: the part of every record that lets somebody judge or repeat it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tnlib import paths

PACKAGES = ("tnlib", "torch", "tensorly", "numpy", "scipy")


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
    """The checked-out commit, with `+changes` appended when tracked code differs from it; `unknown` outside git."""
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


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _git(*arguments: str) -> str | None:
    try:
        run = subprocess.run(
            ["git", *arguments], cwd=paths.ROOT, capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return run.stdout.strip() if run.returncode == 0 else None
