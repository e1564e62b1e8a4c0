"""The folder that `tnlib compress` writes: weights, plan, report, and the few lines that load them. All or nothing."""

from __future__ import annotations

import hashlib
import json
import os
import runpy
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_model
from torch import Tensor, nn

from tnlib.compress import Plan
from tnlib.study import compression_report
from tnlib.study.given import Network

FILES = ("weights.safetensors", "plan.json", "report.json", "report.html", "load.py")
ONNX = ("network.onnx", "network.int8.onnx", "run_onnx.py")  # of this network, where they were asked for
LOADER = '''\
"""{name}, compressed by `tnlib compress`: `python load.py`, or `from load import load`."""

{top}from pathlib import Path

from safetensors.torch import load_model
{ours}from tnlib.compress import Plan
{theirs}

def load(folder=Path(__file__).parent):
    """The compressed network in eval mode, with its weights."""
    plan = Plan.load(folder / "plan.json")
    model = plan.apply({expression}, weights="empty")
    load_model(model, folder / "weights.safetensors")
    return model.eval()


if __name__ == "__main__":
    print(load())
'''


def require_place(out: Path, force: bool) -> None:
    """ValueError unless a result can be written there."""
    if out.is_dir():
        if not force and any(out.iterdir()):
            raise ValueError(f"{out} is not empty: choose another folder, or replace an earlier result with --force")
    elif out.exists():
        raise ValueError(f"{out} is a file; expected a folder to write to")
    place = _existing(out)
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise ValueError(f"{out} cannot be made: {place} is no folder that can be written to")


def _existing(out: Path) -> Path:
    """The folder, or the nearest one around it that is there."""
    return next(place for place in (out.absolute(), *out.absolute().parents) if place.exists())


def write(
    out: Path, network: Network, small: nn.Module, plan: Plan, report: dict[str, Any], more: Sequence[Path] = ()
) -> None:
    """Write all files and try them, or leave nothing; `more` are files to be copied. Older ONNX files go."""
    place = _existing(out)
    staging = Path(tempfile.mkdtemp(prefix=f".{out.absolute().name}.", suffix=".part", dir=place))
    try:
        weights = staging / FILES[0]
        save_model(small, str(weights))
        plan.save(staging / "plan.json")
        report["weights_sha256"] = hashlib.sha256(weights.read_bytes()).hexdigest()
        (staging / "report.json").write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        (staging / "report.html").write_text(compression_report.page(report), encoding="utf-8")
        (staging / "load.py").write_text(loader(network), encoding="utf-8")
        _require_same(runpy.run_path(str(staging / "load.py"))["load"](), small, network.name)
        names = [*FILES, *(path.name for path in more)]
        for path in more:
            shutil.copyfile(path, staging / path.name)
        for name in names:
            (staging / name).chmod(0o644)
        if out.is_dir():
            for name in ONNX:
                (out / name).unlink(missing_ok=True)
            for name in names:
                (staging / name).replace(out / name)
        else:
            staging.chmod(0o755)
            out.parent.mkdir(parents=True, exist_ok=True)
            staging.rename(out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def loader(network: Network) -> str:
    """The text of `load.py`."""
    if network.dataset is not None:
        return LOADER.format(
            name=network.name, top="", ours=f"{network.imports}\n", theirs="", expression=network.expression
        )
    module = network.name.partition(":")[0]
    theirs = f'\nsys.path.insert(0, "")  # the current folder, where {module} is, unless it is installed\n'
    theirs += f"{network.imports}  # noqa: E402\n"
    return LOADER.format(name=network.name, top="import sys\n", ours="", theirs=theirs, expression=network.expression)


def _require_same(loaded: nn.Module, small: nn.Module, name: str) -> None:
    """RuntimeError unless two networks have equal parameters and buffers."""
    pairs = []
    for one in (loaded, small):
        kept = (*one.named_parameters(remove_duplicate=False), *one.named_buffers(remove_duplicate=False))
        pairs.append(dict(kept))
    apart = [n for n in pairs[0].keys() | pairs[1].keys() if n not in pairs[0] or n not in pairs[1]]
    apart += [n for n, tensor in pairs[1].items() if n not in apart and not _equal(pairs[0][n], tensor)]
    if apart:
        raise RuntimeError(
            f"{name} does not build the same network in every call: {sorted(apart)[0]} differs when it is loaded again"
        )


def _equal(one: Tensor, other: Tensor) -> bool:
    """Equal to the last bit, on whatever device."""
    return one.dtype == other.dtype and torch.equal(one.detach().cpu(), other.detach().cpu())
