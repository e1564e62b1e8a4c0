"""From a network to an ONNX file that computes the same: frozen, exported, compared with torch before it is kept."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from tnlib import paths
from tnlib.deploy.session import Batch, Inputs, batches, outputs, session
from tnlib.layers import freeze
from tnlib.measure import evaluating, without_fast_path

LANES = 8  # channels that ONNX Runtime's fast convolutions take at once on x86 processors without AVX-512


class ParityError(RuntimeError):
    """An ONNX network that does not compute what torch computes."""


@dataclass(frozen=True)
class Exported:
    """An ONNX file and how near it is to torch.

    Attributes:
        path: of the file.
        opset: the version of ONNX's operators.
        bytes: the file's size.
        difference: the largest absolute difference of an output from torch's.
        largest: the largest absolute value of torch's outputs.
        same: samples whose largest output is the same one (top-1).
        samples: that were compared.
    """

    path: Path
    opset: int
    bytes: int
    difference: float
    largest: float
    same: int
    samples: int


def export(
    model: nn.Module,
    example: Batch,
    path: str | Path,
    *,
    inputs: Inputs | None = None,
    tolerance: float = 1e-4,
    lanes: int = LANES,
) -> Exported:
    """Write a network to an ONNX file: frozen (`layers.freeze`), all in one file, for any number of samples.

    Args:
        model: any module, factorized or not; computed in eval mode, and untouched.
        example: a batch, as `layers.freeze` takes it. Layers are planned for it; the first size of each tensor that has
            as many rows as the first one is free in the file.
        path: of the file; it is replaced.
        inputs: what both are compared on, samples of one tensor or a sequence of batches; by default the example.
        tolerance: of the largest difference of the outputs, relative to the largest output, or to one if that is less.
        lanes: channels between the convolutions of one factorized layer are padded with zeros to a multiple of this.
            ONNX Runtime has fast kernels on x86 processors for multiples of 8, or of 16 with AVX-512, and slower ones
            for all other numbers: the experiment `bench_deploy` measures it. With 1 nothing is padded: the smallest
            file.

    Raises:
        ParityError: outputs that differ by more. No file is written then, and an old one stays.
        ValueError: a network that cannot be exported for any number of samples.
    """
    frozen = freeze(model, example, portable=True, lanes=lanes)
    proto = _exported(frozen, example)
    _tidy(proto, frozen)
    onnx.checker.check_model(proto)
    content = proto.SerializeToString()
    difference, largest, same, samples = _compared(
        model, content, example if inputs is None else inputs, inputs is None
    )
    if not difference <= tolerance * max(1.0, largest):  # not a number is no parity, either
        raise ParityError(
            f"the ONNX network differs from torch by {difference:.3g}, with outputs up to {largest:.3g}: more than "
            f"{tolerance:g} of that; same top-1 on {same} of {samples}"
        )
    path = Path(path)
    with paths.replacing(path) as temporary:
        temporary.write_bytes(content)
    opset = next(one.version for one in proto.opset_import if one.domain in ("", "ai.onnx"))
    return Exported(path, opset, len(content), difference, largest, same, samples)


def _exported(frozen: nn.Module, example: Batch) -> onnx.ModelProto:
    """The network in ONNX, its batch free."""
    named = {name: _two(value) for name, value in example.items()} if isinstance(example, Mapping) else {}
    placed = () if named else (_two(example),) if isinstance(example, Tensor) else tuple(_two(x) for x in example)
    rows = next((len(x) for x in (*placed, *named.values()) if isinstance(x, Tensor) and x.ndim), 0)
    free = {"placed": [_free(x, rows) for x in placed], "named": {name: _free(x, rows) for name, x in named.items()}}
    shapes: Any = free["named"] if named else tuple(free["placed"])
    try:
        with torch.no_grad():
            program = torch.export.export(frozen, placed, named, dynamic_shapes=shapes)
            made = torch.onnx.export(program, dynamo=True, optimize=True, verbose=False)
    except Exception as error:  # whatever export raises; its messages are long
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"the network cannot be exported for any number of samples: {said}") from None
    proto: onnx.ModelProto = made.model_proto  # type: ignore[union-attr]
    return proto


def _two(value: Any) -> Any:
    """A tensor of one sample, twice: torch.export takes a size of one for fixed."""
    return torch.cat([value, value]) if isinstance(value, Tensor) and value.ndim and len(value) == 1 else value


def _free(value: Any, rows: int) -> Any:
    alike = isinstance(value, Tensor) and value.ndim and len(value) == rows
    return {0: torch.export.Dim.DYNAMIC} if alike else None


def _tidy(proto: onnx.ModelProto, frozen: nn.Module) -> None:
    """Nodes get their modules' names; notes of the exporter, which hold file names of this machine, are removed."""
    modules = {name for name, _ in frozen.named_modules()} - {""}
    held = {one.name for one in proto.graph.initializer}
    for number, node in enumerate(proto.graph.node):
        scopes = next((p.value for p in node.metadata_props if p.key == "pkg.torch.onnx.name_scopes"), "[]")
        own = [_owner(name, modules) for name in node.input if name in held]
        own += [name for name in reversed(ast.literal_eval(scopes)) if name in modules]
        node.name = f"{next((name for name in own if name), '')}/{node.op_type}_{number}"
    graph = proto.graph
    for part in (proto, graph, *graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info):
        del part.metadata_props[:]
        part.doc_string = ""


def _owner(name: str, modules: set[str]) -> str:
    """The module that a parameter of this name belongs to, or none."""
    parts = name.split(".")
    names = (".".join(parts[:k]) for k in range(len(parts) - 1, 0, -1))
    return next((one for one in names if one in modules), "")


@torch.no_grad()
def _compared(model: nn.Module, content: bytes, inputs: Inputs | Batch, single: bool) -> tuple[float, float, int, int]:
    """Largest difference, largest output, samples of the same top-1, and samples."""
    opened, difference, largest, same, samples = session(content), 0.0, 0.0, 0, 0
    every: Any = [inputs] if single else batches(inputs)  # type: ignore[arg-type]
    with evaluating(model), without_fast_path():
        for batch in every:
            wanted = _tensors(_call(model, batch))
            for number, (got, want) in enumerate(zip(outputs(opened, batch), wanted, strict=True)):
                if got.shape != want.shape:
                    raise ParityError(f"an output of ONNX is {tuple(got.shape)}, and of torch {tuple(want.shape)}")
                if want.numel():
                    apart = float((got.double() - want.double()).abs().max())
                    difference = apart if apart != apart else max(difference, apart)
                    largest = max(largest, float(want.double().abs().max()))
                if number == 0 and want.ndim > 1:
                    top = got.flatten(1).argmax(1) == want.flatten(1).argmax(1)
                    same, samples = same + int(top.sum()), samples + len(top)
            if difference != difference:
                break
    return difference, largest, same, samples


def _call(model: nn.Module, batch: Batch) -> Any:
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(batch) if isinstance(batch, Tensor) else model(*batch)


def _tensors(value: Any) -> list[Tensor]:
    """The tensors of what a network returns, in ONNX's order."""
    if isinstance(value, Tensor):
        return [value.cpu()]
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, Sequence):
        return [tensor for one in value for tensor in _tensors(one)]
    return []
