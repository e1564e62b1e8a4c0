"""A network that is given, written as ONNX, with int8 if asked for, and the loader beside it: all files or none."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_model
from torch import Tensor, nn

from tnlib import data
from tnlib.compress import Plan
from tnlib.compress.inputs import Call, calls
from tnlib.study import given, result_folder

if TYPE_CHECKING:
    from tnlib.deploy import Exported, Quantized

CALIBRATION, COMPARED, DRAWN = 500, 500, 64


def require_deploy() -> None:
    """RuntimeError, one sentence, where the extra `deploy` is not installed."""
    try:
        import tnlib.deploy  # noqa: F401
    except ModuleNotFoundError as error:
        if str(error.name).startswith("tnlib"):
            raise
        raise RuntimeError(str(error)) from None


@dataclass(frozen=True)
class Samples:
    """What a network is run on: batches to compare outputs, in words which, and what int8 is calibrated on, if any."""

    compared: list[Any]
    told: str
    calibration: list[Any] | None

    @property
    def example(self) -> Any:
        """One sample, or where inputs are keyword arguments one batch: what layers are planned for."""
        first = self.compared[0]
        return first[:1].clone() if isinstance(first, Tensor) else first


@dataclass(frozen=True)
class Files:
    """What was written, and how near it is to torch and to the float file."""

    network: Exported
    told: str
    int8: Quantized | None = None
    int8_same: int = 0

    def lines(self) -> str:
        """For the terminal."""
        e = self.network
        text = (
            f"{e.path.name}: {e.bytes:,} bytes, opset {e.opset}, any number of samples\n"
            f"parity with torch on {self.told}: largest difference {e.difference:.2g} of outputs "
            f"up to {e.largest:.3g}, same top-1 on {e.same} of {e.samples}"
        )
        if self.int8 is not None:
            q = self.int8
            text += (
                f"\n{q.path.name}: {q.bytes:,} bytes, {q.nodes[1]} of {q.nodes[0]} convolutions and products in int8, "
                f"same top-1 as {e.path.name} on {self.int8_same} of {e.samples}"
            )
        return text


def export_network(
    target: str,
    out: Path | None = None,
    *,
    weights: Path | None = None,
    inputs: Path | None = None,
    example: tuple[int, ...] | None = None,
    int8: bool = False,
    skip: Collection[str] = (),
    lanes: int | None = None,
    force: bool = False,
) -> Files:
    """Export a network, or what `tnlib compress` wrote.

    Args:
        target: a folder that `tnlib compress` wrote, or a network as for `compress_network`.
        out: folder to write to; by default the given folder.
        weights: safetensors file that is loaded into a network that is no folder.
        inputs: as for `given.inputs`: what outputs are compared on, and int8 is calibrated on. By default images of the
            data set of a network of ours.
        example: shape of random inputs, where there are no others; of a folder the one that it was counted with.
        int8: write an int8 network, too.
        skip: modules that stay in float there.
        lanes: as for `deploy.export`, by default its own.
        force: replace earlier files.

    Raises:
        ValueError: what is given does not exist or does not fit; a network that cannot be exported.
        RuntimeError: outputs that differ from torch's, or an extra that is missing. Nothing is written in either case.
    """
    require_deploy()
    folder = Path(target)
    with given.importing_from_here():
        if ":" not in target and folder.is_dir():
            if weights is not None:
                raise ValueError("--weights is for a network, and a folder has its own")
            network, model, counted = _of_folder(folder)
            out, example = out or folder, example or counted
        else:
            network = given.network(target, weights)
            model = network.model
        if out is None:
            raise ValueError(f"{target} needs --out, the folder to write to")
        _require_free(out, force)
        found = samples(network, model, inputs, example)
        with tempfile.TemporaryDirectory() as staging:
            files = write(Path(staging), model, found, int8=int8, skip=skip, lanes=lanes)
            out.mkdir(parents=True, exist_ok=True)
            for name in result_folder.ONNX:
                (out / name).unlink(missing_ok=True)
            for path in Path(staging).iterdir():
                shutil.move(path, out / path.name)
    return files


def samples(
    network: given.Network, model: nn.Module, path: Path | None, example: tuple[int, ...] | None, seed: int = 0
) -> Samples:
    """What outputs are compared on: the inputs given, test images of a network of ours, or random numbers."""
    if path is not None:
        read = given.inputs(path, model)
        every = [call.example for call in calls(model, read)]
        return Samples(every, f"the inputs of {path.name}", every)
    if network.dataset is not None:
        test, training = (data.load(network.dataset, split) for split in ("test", "train"))
        images = test.sample(min(COMPARED, len(test)), seed).images
        looked_at = training.sample(min(CALIBRATION, len(training)), seed).images
        told = f"{len(images)} test images of {network.dataset}"
        return Samples(list(images.split(100)), told, list(looked_at.split(100)))
    if example is None:
        raise ValueError(f"{network.name} needs --inputs, or the shape of its one input, as in --example 1,3,224,224")
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    drawn = torch.randn((DRAWN, *example[1:]), generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return Samples([drawn], f"{DRAWN} random inputs, since no others were given", None)


def write(
    folder: Path,
    model: nn.Module,
    found: Samples,
    *,
    int8: bool = False,
    skip: Collection[str] = (),
    lanes: int | None = None,
) -> Files:
    """Write the ONNX files of a network into a folder."""
    from tnlib import deploy

    if int8 and found.calibration is None:
        raise ValueError("--int8 needs --inputs: random numbers tell nothing of the ranges of values")
    if skip and not int8:
        raise ValueError("modules that stay in float are for --int8")
    _require_runs(model, found)
    path = folder / result_folder.ONNX[0]
    lanes = deploy.LANES if lanes is None else lanes
    done = deploy.export(model, found.example, path, inputs=found.compared, lanes=lanes)
    deploy.write_loader(path)
    if not int8:
        return Files(done, found.told)
    made = deploy.quantize(path, found.calibration or [], folder / result_folder.ONNX[1], skip=skip)
    one, other = deploy.session(path), deploy.session(made.path)
    tops = [[deploy.outputs(s, batch)[0].flatten(1).argmax(1) for s in (one, other)] for batch in found.compared]
    return Files(done, found.told, made, sum(int((a == b).sum()) for a, b in tops))


def _require_runs(model: nn.Module, found: Samples) -> None:
    """ValueError, with what the network said, unless it takes the inputs."""
    call = Call.of(model, found.example)
    try:
        with torch.no_grad():
            call.run(model)
    except Exception as error:  # whatever the network raises
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"the network does not run on inputs of shape {call.describe()}: {said}") from None


def _require_free(out: Path, force: bool) -> None:
    there = [name for name in result_folder.ONNX if (out / name).exists()]
    if there and not force:
        raise ValueError(f"{out} has {there[0]}: choose another folder, or replace it with --force")
    result_folder.require_place(out, force=True)


def _of_folder(folder: Path) -> tuple[given.Network, nn.Module, tuple[int, ...] | None]:
    """The network of a folder that `tnlib compress` wrote, and the shape that its cost was counted with."""
    missing = [name for name in ("report.json", "plan.json", "weights.safetensors") if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder} has no {missing[0]}; expected a folder that tnlib compress wrote")
    try:
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        name, counted = str(report["network"]), str(report["counted_call"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"report.json of {folder} is no report of tnlib compress: {error}") from None
    network = given.network(name)
    try:
        model = Plan.load(folder / "plan.json").apply(network.model, weights="empty")
        load_model(model, folder / "weights.safetensors")
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"weights.safetensors of {folder} does not fit: {error}") from None
    shape = re.fullmatch(r"\(([0-9]+(?:, ?[0-9]+)*),?\)", counted)
    return network, model.eval(), None if shape is None else tuple(int(size) for size in shape[1].split(","))
