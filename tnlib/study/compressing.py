"""A network that is given, compressed under a budget and written to a folder, with what it costs and how to load it."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tnlib import compress, data, measure
from tnlib.compress import Budget, Plan
from tnlib.compress.clock import Run
from tnlib.compress.curves import CLOSED
from tnlib.compress.inputs import Call, calls, with_example
from tnlib.study import compression_report, exporting, given, result_folder

IMAGES = 500  # of the training subset of a network of ours
FEW = 100  # samples: fewer fit layers to themselves


@dataclass(frozen=True)
class Compressed:
    """The compressed network, repaired, the plan it was made by, the report (`report.json`), and its ONNX files."""

    model: nn.Module
    plan: Plan
    report: dict[str, Any]
    files: exporting.Files | None = None


def compress_network(
    target: str,
    budget: Budget,
    out: Path,
    *,
    weights: Path | None = None,
    inputs: Path | None = None,
    example: tuple[int, ...] | None = None,
    formats: Sequence[str] | None = None,
    metric: str = "weight",
    skip: Collection[str] = (),
    seed: int = 0,
    cache: Path | None = None,
    onnx: bool = False,
    for_int8: bool = False,
    force: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
) -> Compressed:
    """Compress a network and write it: all files of `result_folder.FILES` or none.

    What was written is loaded once, by its own `load.py`, and must be the compressed network to the last bit.

    Args:
        target: one of `models.MODELS`, or `package.module:function`, found from the current folder, too.
        budget: what the compressed network may cost.
        out: the folder; created if need be.
        weights: safetensors file that is loaded into the network.
        inputs: `.npz` file or folder, see `given.inputs`; by default 500 training images for a network of ours. With
            inputs the layers are fitted on them, one after the other (`compress.repair`).
        example: shape, batch included, of the one input whose cost counts; by default the first sample, or batch.
        formats: to choose from; by default those whose curve comes from one decomposition.
        metric: of `compress.METRICS`: `weight`, or `input`, `kfac` and `exact`, which need inputs.
        skip: qualified names of modules that stay as they are.
        seed: of the decompositions and the choice of images.
        cache: folder where curves and times are kept.
        onnx: write the network as ONNX, too (`exporting.write`), compared with torch.
        for_int8: fit CP convolutions so that their terms do not cancel (`compress.ROUNDING`): int8 then loses less.
        force: replace an earlier result; other files in the folder stay.
        progress: called with (curves or times done, of how many, what the last one was).

    Raises:
        ValueError: what is given does not exist or does not fit, a budget that is out of reach, a folder that holds
            files. Nothing is written then.
        RuntimeError: a function that does not build the same network again; an ONNX network that differs.
    """
    result_folder.require_place(out, force)
    if onnx:
        exporting.require_deploy()
    with given.importing_from_here(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default", UserWarning)
        network = given.network(target, weights)
        model = network.model
        batches, told = _inputs(network, inputs, example, seed)
        shape = None if example is None else _zeros(example, batches, model)
        needed = metric in compress.METRICS and compress.METRICS[metric].needs_inputs
        if for_int8 and batches is None:
            raise ValueError(f"{target} needs --inputs for --for-int8: terms are looked after in the repair")
        if batches is None and (shape is None or needed):
            shown = "" if needed else ", or the shape of the network's one input, as in --example 1,3,224,224"
            raise ValueError(f"{target} needs --inputs{shown}")
        call = _counted(model, shape if batches is None else batches, shape)
        _require_runs(model, call, shape is not None)
        with _naming(batches if needed else None):
            curves = compress.curves(
                model,
                shape if batches is None else batches,
                tuple(formats or CLOSED),
                metric,
                example=call.example,
                skip=skip,
                cache=cache,
                progress=progress,
                seed=seed,
                discount=0.0 if batches is None else compress.DISCOUNT,
            )
        plan = compress.plan_within(curves, model, budget, cache=cache, progress=progress)
        small, repaired = plan.apply(model), batches is not None
        if batches is not None:
            small = _repaired(small, model, batches, skip, compress.ROUNDING if for_int8 else 0.0)
        before, after = measure.cost(model, call.example), measure.cost(small, call.example)
        timing = _latency(model, small, call)
        notes = list(dict.fromkeys(str(w.message) for w in caught if issubclass(w.category, UserWarning)))
        if isinstance(batches, Tensor) and len(batches) < FEW:
            notes.append(f"layers were fitted on {len(batches)} samples; hundreds make it reliable")
        report = compression_report.content(
            plan,
            network=target,
            given={
                "formats": list(formats or CLOSED),
                "skip": list(skip),
                "weights": None if weights is None else weights.name,
                "inputs": told,
            },
            cost=(before, after),
            latency=timing,
            repaired=repaired,
            notes=notes,
        )
        files = None
        with tempfile.TemporaryDirectory() as folder:
            if onnx:
                counted = None if call.kwargs else tuple(call.args[0].shape)
                files = exporting.write(Path(folder), small, exporting.samples(network, small, inputs, counted))
            result_folder.write(out, network, small, plan, report, more=sorted(Path(folder).iterdir()))
    return Compressed(small, plan, report, files)


def _inputs(
    network: given.Network, path: Path | None, example: tuple[int, ...] | None, seed: int
) -> tuple[given.Inputs | None, str]:
    """The inputs, and in words which they are."""
    if path is not None:
        found = given.inputs(path, network.model)
        number = f"{len(found)} batches of " if isinstance(found, given.Batches) else ""
        return found, number + path.name
    if network.dataset is None:
        return None, f"zeros of shape {example}"
    images = data.load(network.dataset, "train").sample(IMAGES, seed).images
    return images, f"{len(images)} training images of {network.dataset}"


def _zeros(shape: tuple[int, ...], batches: given.Inputs | None, model: nn.Module) -> Tensor:
    """An input of this shape, in the type of the other inputs or of the weights."""
    first = next(iter(batches), None) if isinstance(batches, given.Batches) else batches
    if isinstance(first, dict):
        raise ValueError("--example is for a network of one input, and these inputs are keyword arguments")
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    return torch.zeros(shape, dtype=dtype if first is None else first.dtype)


def _counted(model: nn.Module, batches: Any, example: Tensor | None) -> Call:
    """The call whose cost counts, on tensors of its own: a sample that is a view would be counted as all samples."""
    call, _ = with_example(model, batches, example)
    return Call(tuple(x.clone() for x in call.args), {name: x.clone() for name, x in call.kwargs.items()})


def _require_runs(model: nn.Module, call: Call, zeros: bool) -> None:
    """ValueError, with what the network said, unless it takes this call."""
    try:
        with torch.no_grad(), measure.evaluating(model):
            call.run(model)
    except Exception as error:  # whatever the network raises
        named = [f"{name} {tuple(value.shape)}" for name, value in call.kwargs.items()]
        what = "zeros" if zeros else "inputs"
        raise ValueError(
            f"the network does not run on {what} of shape {', '.join(named) or call.describe()}: {_said(error)}"
        ) from None


@contextmanager
def _naming(batches: given.Inputs | None) -> Iterator[None]:
    """While a network runs on inputs: ValueError naming the batch that it does not take."""
    try:
        yield
    except Exception as error:  # whatever the network raises
        current = batches.current if isinstance(batches, given.Batches) else None
        if current is None or current in str(error):
            raise
        raise ValueError(f"the network does not run on {current}: {_said(error)}") from None


def _repaired(
    small: nn.Module, model: nn.Module, batches: given.Inputs, skip: Collection[str], rounding: float
) -> nn.Module:
    """The network with its layers fitted on the inputs. ValueError that names the batch that it does not take."""
    with _naming(batches), torch.no_grad(), measure.evaluating(model):
        for call in calls(model, batches):
            call.run(model)
    return compress.repair(small, model, batches, skip=skip, rounding=rounding)


def _said(error: Exception) -> str:
    """The first line of what an error says."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _latency(model: nn.Module, small: nn.Module, call: Call) -> measure.Comparison | str:
    """Both networks frozen for the call that counts, timed in turn; or why that cannot be done."""
    try:
        return measure.compare({"original": Run.of(model, call), "compressed": Run.of(small, call)})
    except Exception as error:  # a network that cannot be frozen is compressed all the same
        return f"not timed, because freezing fails: {type(error).__name__}: {error}"
