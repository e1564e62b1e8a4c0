"""The few lines beside an ONNX file that run it with onnxruntime and numpy alone."""

from __future__ import annotations

from pathlib import Path

from tnlib import paths

NAME = "run_onnx.py"
LOADER = '''\
"""Runs {file}: `python {name} inputs.npy`, or `from run_onnx import run`. Needs onnxruntime and numpy alone."""

import sys

import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession(__file__[: -len("{name}")] + "{file}", providers=["CPUExecutionProvider"])
run = lambda *arrays: session.run(None, dict(zip([i.name for i in session.get_inputs()], arrays)))

if __name__ == "__main__":
    print([(i.name, i.type, i.shape) for i in session.get_inputs()])
    print(*run(*map(np.load, sys.argv[1:])) if sys.argv[1:] else (), sep="\\n")
'''


def write_loader(network: Path) -> Path:
    """Write `run_onnx.py` beside an ONNX file, which it runs; returns its path."""
    path = network.with_name(NAME)
    with paths.replacing(path) as temporary:
        temporary.write_text(LOADER.format(file=network.name, name=NAME), encoding="utf-8")
    return path
