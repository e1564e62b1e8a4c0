"""The command `compress`: a network in, a folder with a smaller one out."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tnlib.study.parameters import hint

if TYPE_CHECKING:
    from tnlib.compress import Budget

PATH = click.Path(path_type=Path)


@click.command(epilog="example: tnlib compress resnet20-cifar10 --budget macs=0.5 --out runs/small")
@click.argument("network")
@click.option(
    "--budget", "budgets", multiple=True, required=True, metavar="COST=SHARE", help="params, macs, bytes or latency"
)
@click.option("--out", type=PATH, required=True, metavar="DIR", help="folder to write to")
@click.option("--weights", type=PATH, metavar="FILE", help="safetensors that are loaded into the network")
@click.option("--inputs", type=PATH, metavar="FILE|FOLDER", help=".npz or .npy, or a folder of such batches; no labels")
@click.option("--example", metavar="SHAPE", help="1,3,32,32: the shape of the input whose cost counts")
@click.option("--formats", metavar="NAMES", help="to choose from (default: svd,spatial_svd,tucker2)")
@click.option(
    "--metric", default="weight", metavar="weight|input|kfac|exact", help="whose errors predict the loss (weight)"
)
@click.option("--skip", multiple=True, metavar="NAME", help="a module that stays as it is")
@click.option("--seed", type=click.IntRange(0), default=0, help="of decompositions and of the images drawn (0)")
@click.option(
    "--cache",
    type=PATH,
    metavar="DIR",
    help="keep what layers lose and how long they take; another budget is then quick",
)
@click.option("--onnx", is_flag=True, help="write network.onnx, compared with torch, and run_onnx.py, too")
@click.option("--for-int8", is_flag=True, help="terms of CP convolutions do not cancel: tnlib export --int8 loses less")
@click.option("--force", is_flag=True, help="replace an earlier result in DIR; other files there stay")
def compress(
    network: str,
    *,
    budgets: tuple[str, ...],
    out: Path,
    weights: Path | None,
    inputs: Path | None,
    example: str | None,
    formats: str | None,
    metric: str,
    skip: tuple[str, ...],
    seed: int,
    cache: Path | None,
    onnx: bool,
    for_int8: bool,
    force: bool,
) -> None:
    """Compress a NETWORK under a budget, without labels and without training.

    NETWORK is one of the workbook's own (tnlib.models), or package.module:function, which is called without arguments
    and returns an nn.Module. DIR gets weights.safetensors, plan.json, load.py, report.json and report.html.
    """
    print(f"{network}: loading", flush=True)
    from tnlib.study.compressing import compress_network
    from tnlib.study.compression_report import summary

    done = compress_network(
        network,
        parse_budget(budgets),
        out,
        weights=weights,
        inputs=inputs,
        example=None if example is None else parse_shape(example),
        formats=None if formats is None else [name.strip() for name in formats.split(",")],
        metric=metric,
        skip=skip,
        seed=seed,
        cache=cache,
        onnx=onnx,
        for_int8=for_int8,
        force=force,
        progress=Progress(),
    )
    exported = "" if done.files is None else f"\n\n{done.files.lines()}"
    print(f"\n{summary(done.report)}{exported}\n\nsee {out / 'report.html'}; load it: python {out / 'load.py'}")


class Progress:
    """Prints how many curves or times are done: the first, the last, and one every two seconds."""

    def __init__(self) -> None:
        self._last = 0.0

    def __call__(self, done: int, total: int, what: str) -> None:
        """After each curve."""
        if done in (1, total) or time.monotonic() - self._last > 2:
            print(f"[{done}/{total}] {what.strip()}", flush=True)
            self._last = time.monotonic()


def parse_budget(texts: Sequence[str]) -> Budget:
    """The budget of texts like `macs=0.5`. ValueError for one that is no such text, or a cost that is given twice."""
    from tnlib.compress import Budget

    known, shares = [field.name for field in fields(Budget)], dict[str, float]()
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not re.fullmatch(r"[0-9.]+(e-?[0-9]+)?", value) or value.count(".") > 1:
            raise ValueError(f"a budget is COST=SHARE, for example macs=0.5, got {text!r}")
        if name not in known:
            raise ValueError(f"a budget is of {', '.join(known)}, got {text!r}{hint(name, known)}")
        if name in shares:
            raise ValueError(f"the budget {name} is given twice: {shares[name]:g} and {value}")
        shares[name] = float(value)
    return Budget(**shares)


def parse_shape(text: str) -> tuple[int, ...]:
    """The shape that a text like `1,3,32,32` stands for. ValueError for another text."""
    if not re.fullmatch(r"\s*[1-9][0-9]*(\s*,\s*[1-9][0-9]*)*\s*,?\s*", text):
        raise ValueError(f"a shape is a list of sizes like 1,3,32,32, got {text!r}")
    return tuple(int(size) for size in text.split(",") if size.strip())


COMMANDS = (compress,)
