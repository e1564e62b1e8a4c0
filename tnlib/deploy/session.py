"""Networks in ONNX Runtime: open a file, run it on tensors, count right answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor

Batch = Tensor | Sequence[Tensor] | Mapping[str, Tensor]
Inputs = Tensor | Sequence[Batch]


def session(network: str | Path | bytes, *, threads: int = 1, fused: bool = True) -> onnxruntime.InferenceSession:
    """Open an ONNX file for the CPU.

    Args:
        network: the file, or its bytes.
        threads: that a call computes with.
        fused: as people run it. Without, nodes are computed one by one as they stand in the file: an int8 network then
            rounds its numbers and multiplies them in float, the same on every processor. Where int8 products overflow
            the processor's 16-bit sums, the two differ.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
    if not fused:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    given = network if isinstance(network, bytes) else str(network)
    return onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])


def outputs(network: onnxruntime.InferenceSession, batch: Batch) -> list[Tensor]:
    """What a network returns for one batch, given as a tensor, a sequence of arguments, or a mapping by name."""
    return [torch.from_numpy(np.asarray(value)) for value in network.run(None, feed(network, batch))]


def hits(
    network: onnxruntime.InferenceSession | str | Path, images: Tensor, labels: Tensor, *, batch: int = 100
) -> Tensor:
    """Which images (n,) a network classifies rightly, by its first output (n, classes).

    Args:
        network: a session or an ONNX file.
        images: (n, ...), of the type that the network takes.
        labels: (n,), integers.
        batch: images of a call.
    """
    opened = session(network) if isinstance(network, (str, Path)) else network
    pairs = zip(images.split(batch), labels.split(batch), strict=True)
    return torch.cat([outputs(opened, x)[0].argmax(1) == y for x, y in pairs])


def accuracy(
    network: onnxruntime.InferenceSession | str | Path, images: Tensor, labels: Tensor, *, batch: int = 100
) -> float:
    """Top-1 accuracy in [0, 1]; arguments as for `hits`."""
    return float(hits(network, images, labels, batch=batch).double().mean())


def batches(inputs: Inputs, size: int = 100) -> Iterator[Batch]:
    """The batches of inputs: those of a sequence as they are, those of a tensor of samples of at most this size."""
    yield from inputs.split(size) if isinstance(inputs, Tensor) else inputs


def feed(network: onnxruntime.InferenceSession, batch: Batch) -> dict[str, Any]:
    """The arrays that a session takes, by name; what it has no input for is left out."""
    names = [one.name for one in network.get_inputs()]
    if isinstance(batch, Mapping):
        return {name: batch[name].detach().cpu().numpy() for name in names}
    values = (batch,) if isinstance(batch, Tensor) else batch
    return {name: value.detach().cpu().numpy() for name, value in zip(names, values, strict=False)}
