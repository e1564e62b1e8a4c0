"""Static quantization to int8 by ONNX Runtime's quantizer, and what can be done for factors before."""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from tnlib import paths
from tnlib.deploy.balance import Array, balance, links
from tnlib.deploy.session import Batch, Inputs, batches, feed, outputs, session

Balance = Literal["none", "weights", "activations"]
_SAME = 1e-4


@dataclass(frozen=True)
class Quantized:
    """An int8 file.

    Attributes:
        path: of the file.
        bytes: its size.
        nodes: convolutions and matrix products in it, and how many of them are in int8.
        balanced: places between two factors whose channels were scaled.
    """

    path: Path
    bytes: int
    nodes: tuple[int, int]
    balanced: int


def quantize(
    path: str | Path,
    images: Inputs,
    out: str | Path,
    *,
    per_channel: bool = True,
    weight_bits: Literal[7, 8] = 7,
    balanced: Balance = "activations",
    skip: Collection[str] = (),
) -> Quantized:
    """Quantize a network: weights to int8, values between nodes to uint8, with ranges taken from calibration images.

    Args:
        path: ONNX file that `export` wrote.
        images: to calibrate on, samples in one tensor or a sequence of batches; no labels.
        out: ONNX file to write; it is replaced.
        per_channel: a scale for each output of a weight, instead of one for all.
        weight_bits: 8 uses the whole of int8. On x86 processors without VNNI the products of two 8-bit numbers overflow
            sums of 16 bits, and accuracy may be lost altogether; with 7 they cannot.
        balanced: scale the channels between two factors before (`deploy.balance`), by the ranges of weights alone, or
            by those of the values on the images, too. The float network's outputs stay the same.
        skip: names of modules that stay in float, with all that they contain.

    Raises:
        ValueError: an unknown choice, a name in `skip` that no node has.
        RuntimeError: balanced factors that change the float network's outputs by more than 1e-4 of the largest.
    """
    for value, known in ((balanced, get_args(Balance)), (weight_bits, (7, 8))):
        if value not in known:
            raise ValueError(f"expected one of {', '.join(map(str, known))}, got {value!r}")
    proto, places = onnx.load(str(path)), 0
    left = _left(proto, skip)
    if balanced != "none":
        ranges = _ranges(proto, images) if balanced == "activations" else None
        scaled, places = balance(proto, ranges, per_channel=per_channel)
        _require_same(proto, scaled, next(batches(images)))
        proto = scaled
    with tempfile.TemporaryDirectory() as folder:
        ready, made = Path(folder) / "ready.onnx", Path(folder) / "int8.onnx"
        quant_pre_process(proto, str(ready), skip_optimization=True, skip_symbolic_shape=True)
        quantize_static(
            str(ready),
            str(made),
            _Reader(proto, images),
            quant_format=QuantFormat.QDQ,
            per_channel=per_channel,
            reduce_range=weight_bits == 7,
            activation_type=QuantType.QUInt8,  # signed ones leave layers in float on x86 processors
            weight_type=QuantType.QInt8,
            nodes_to_exclude=left,
            calibrate_method=CalibrationMethod.MinMax,
        )
        content = made.read_bytes()
    out = Path(out)
    with paths.replacing(out) as temporary:
        temporary.write_bytes(content)
    return Quantized(out, len(content), _counted(onnx.load_model_from_string(content)), places)


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Calibration images as the quantizer asks for them."""

    def __init__(self, proto: onnx.ModelProto, images: Inputs) -> None:
        self._network = session(proto.SerializeToString())
        self._batches = iter(batches(images))

    def get_next(self) -> dict[str, Any] | None:
        """The next batch by input name; None after the last."""
        batch = next(self._batches, None)
        return None if batch is None else feed(self._network, batch)


def _left(proto: onnx.ModelProto, skip: Collection[str]) -> list[str]:
    """The names of the nodes of modules; ValueError for a module that has none."""
    owners = {node.name: node.name.rpartition("/")[0] for node in proto.graph.node}
    left = []
    for name in skip:
        own = [node for node, owner in owners.items() if owner == name or owner.startswith(f"{name}.")]
        if not name or not own:
            raise ValueError(f"no node of a module {name!r} in the ONNX network, which has {_few(owners.values())}")
        left += own
    return left


def _few(names: Collection[str]) -> str:
    every = list(dict.fromkeys(name for name in names if name))
    return ", ".join(every[:8]) + (", ..." if len(every) > 8 else "")


def _ranges(proto: onnx.ModelProto, images: Inputs) -> dict[str, Array]:
    """The largest absolute value of each channel of each tensor between two factors."""
    tapped = onnx.ModelProto.FromString(proto.SerializeToString())
    places = links(proto)
    tapped.graph.output.extend(onnx.helper.make_empty_tensor_value_info(link.tensor) for link in places)
    opened, found = session(tapped.SerializeToString()), dict[str, Array]()
    for batch in batches(images):
        values = outputs(opened, batch)[len(proto.graph.output) :]
        for link, value in zip(places, values, strict=True):
            axis = 1 if link.before.op_type == "Conv" else -1
            seen = value.abs().movedim(axis, 0).flatten(1).amax(1).double().numpy()
            found[link.tensor] = np.maximum(found.get(link.tensor, 0.0), seen)
    return found


def _require_same(proto: onnx.ModelProto, scaled: onnx.ModelProto, batch: Batch) -> None:
    """RuntimeError unless two networks give the same outputs, up to rounding."""
    pairs = zip(*(outputs(session(one.SerializeToString()), batch) for one in (proto, scaled)), strict=True)
    for want, got in pairs:
        apart, largest = float((got - want).abs().max()), float(want.abs().max())
        if not apart <= _SAME * max(1.0, largest):
            raise RuntimeError(f"balanced factors change an output by {apart:.3g}, with outputs up to {largest:.3g}")


def _counted(proto: onnx.ModelProto) -> tuple[int, int]:
    """Convolutions and matrix products, and how many of them read int8."""
    made = {name: node.op_type for node in proto.graph.node for name in node.output}
    kinds = [node for node in proto.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    int8 = [node for node in kinds if all(made.get(name) == "DequantizeLinear" for name in node.input[:2])]
    return len(kinds), len(int8)
