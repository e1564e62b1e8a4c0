"""The freedom between two factors, used for int8: by what one is multiplied, channel by channel, the next is divided.

Between two linear steps nobody sees the channels, so that each may have any scale. Float outputs stay; what int8 makes
of the channels does not, since all share one scale. For networks without factors: Nagel et al. 2019, section 4.1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

_ROUNDS, _SETTLED = 50, 1e-3
Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Link:
    """A tensor between two linear nodes that nobody else reads."""

    tensor: str
    before: onnx.NodeProto
    after: onnx.NodeProto


def links(proto: onnx.ModelProto) -> list[Link]:
    """The places between two convolutions, or two products with constant matrices, whose channels are free to scale."""
    held = {one.name: len(one.dims) for one in proto.graph.initializer}
    used = Counter(name for node in proto.graph.node for name in node.input)
    seen = {one.name for one in proto.graph.output}
    made = {name: node for node in proto.graph.node for name in node.output}
    found = []
    for after in proto.graph.node:
        before = made.get(after.input[0]) if after.input else None
        alone = before is not None and used[after.input[0]] == 1 and after.input[0] not in seen
        if before is None or not alone or (before.op_type == "Conv") != (after.op_type == "Conv"):
            continue
        constants = [*before.input[1:], after.input[1]] if len(after.input) > 1 else ["?"]
        constant = all(name in held and used[name] == 1 for name in constants)
        if not (constant and _linear(before) and _linear(after)):
            continue
        if after.op_type == "Conv" or {held[before.input[1]], held[after.input[1]]} == {2}:
            found.append(Link(after.input[0], before, after))
    return found


def balance(
    proto: onnx.ModelProto, ranges: Mapping[str, Array] | None = None, *, per_channel: bool = True
) -> tuple[onnx.ModelProto, int]:
    """A copy of a network whose neighbouring factors are balanced, and at how many places.

    Args:
        proto: the network, in float32.
        ranges: for the tensor of each of `links` the largest absolute value of each channel (channels,), measured.
            Channels are then scaled for these and for the weights that read them. Without, each channel's incoming and
            outgoing weights get the same largest absolute value.
        per_channel: whether weights will have a scale for each output. A depthwise filter then has one of its own, and
            all its channels may be given the same range.
    """
    proto = onnx.ModelProto.FromString(proto.SerializeToString())
    places = links(proto)
    weights = {one.name: numpy_helper.to_array(one).astype(np.float64) for one in proto.graph.initializer}
    for _ in range(_ROUNDS if ranges is None else 1):
        moved = 0.0
        for link in places:
            if ranges is None:
                into, out = _rows(link.before, weights), _columns(link.after, weights)
                scale = _root(into, out)
            else:
                into, out = np.asarray(ranges[link.tensor], np.float64), _columns(link.after, weights, per_channel)
                free = per_channel and _groups(link.after) == len(into) > 1
                scale = _root(into, np.full_like(into, 1.0) / into.clip(1e-30)) if free else _root(into, out)
            _multiply(link, weights, scale)
            moved = max(moved, float(np.abs(np.log(scale)).max()))
        if moved < _SETTLED:
            break
    touched = {name for link in places for node in (link.before, link.after) for name in node.input[1:]}
    for one in proto.graph.initializer:
        if one.name in touched:
            one.CopyFrom(numpy_helper.from_array(weights[one.name].astype(np.float32), one.name))
    return proto, len(places)


def _linear(node: onnx.NodeProto) -> bool:
    told = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
    plain = told.get("alpha", 1.0) == told.get("beta", 1.0) == 1.0 and not told.get("transA", 0)
    return node.op_type in ("Conv", "MatMul") or (node.op_type == "Gemm" and plain)


def _groups(node: onnx.NodeProto) -> int:
    return next((int(one.i) for one in node.attribute if one.name == "group"), 1)


def _first_is_output(node: onnx.NodeProto) -> bool:
    """Whether a weight's first axis is that of the outputs."""
    return node.op_type == "Conv" or any(one.name == "transB" and one.i for one in node.attribute)


def _grouped(node: onnx.NodeProto, weights: Mapping[str, Array]) -> Array:
    """A node's weight as (groups, outputs, inputs, positions): a view."""
    weight = weights[node.input[1]]
    if not _first_is_output(node):
        return weight.T.reshape(1, weight.shape[1], weight.shape[0], 1)
    groups = _groups(node)
    return weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)


def _rows(node: onnx.NodeProto, weights: Mapping[str, Array]) -> Array:
    """The largest absolute weight of each output (outputs,)."""
    result: Array = np.abs(_grouped(node, weights)).max((2, 3)).ravel()
    return result


def _columns(node: onnx.NodeProto, weights: Mapping[str, Array], relative: bool = False) -> Array:
    """The largest absolute weight of each input (inputs,); relative to the largest one of its output."""
    sizes = np.abs(_grouped(node, weights))
    if relative:
        sizes = sizes / sizes.max((2, 3), keepdims=True).clip(1e-30)
    result: Array = sizes.max((1, 3)).ravel()
    return result


def _root(into: Array, out: Array) -> Array:
    """What makes both ranges of each channel equal; one where a channel is dead."""
    alive = (into > 0) & (out > 0)
    return np.where(alive, np.sqrt(np.where(alive, out, 1.0) / np.where(alive, into, 1.0)), 1.0)


def _multiply(link: Link, weights: dict[str, Array], scale: Array) -> None:
    """Channels times a scale (channels,), in place."""
    before, after = link.before, link.after
    weight = weights[before.input[1]]
    weight *= scale.reshape(-1, *[1] * (weight.ndim - 1)) if _first_is_output(before) else scale
    if len(before.input) > 2:
        weights[before.input[2]] *= scale
    weight, groups = weights[after.input[1]], _groups(after)
    if _first_is_output(after):
        parts = weight.reshape(groups, -1, *weight.shape[1:])
        parts /= scale.reshape(groups, 1, -1, *[1] * (weight.ndim - 2))
    else:
        weight /= scale[:, None]
