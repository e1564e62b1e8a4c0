"""Factors and how they are applied, in which norm they are fitted, and how they become parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

Mode = Literal["in", "out"]


@dataclass(frozen=True)
class Stage:
    """One factor of one group's kernel, and how it is applied.

    Attributes:
        shape: of the factor.
        terms: how many products each entry of its stage's result sums.
        along: spatial axes in which a convolution's stage takes over stride, padding and dilation.
        depthwise: of a convolution's stage: one filter a channel.
    """

    shape: tuple[int, ...]
    terms: int
    along: tuple[int, ...] = ()
    depthwise: bool = False


@dataclass(frozen=True)
class Metric:
    """In which norm a kernel's error is measured: sum over kernel positions of tr(O E I E^T), E (T, S) the error there.

    Attributes:
        inputs: I, symmetric positive definite (S, S), for example the second moment of the layer's input channels.
        outputs: O, likewise (T, T). None stands for the identity.
    """

    inputs: Tensor | None = None
    outputs: Tensor | None = None

    def roots(self) -> dict[Mode, Tensor]:
        """Upper triangular R with R^T R the matrix of a mode; ValueError for one that is not positive definite."""
        result: dict[Mode, Tensor] = {}
        given: tuple[tuple[Mode, Tensor | None], ...] = (("in", self.inputs), ("out", self.outputs))
        for mode, matrix in given:
            if matrix is not None:
                root, info = torch.linalg.cholesky_ex(matrix.double(), upper=True)
                if int(info):
                    raise ValueError(
                        f"the metric of mode {mode!r} is not positive definite: add a ridge to its diagonal"
                    )
                result[mode] = root
        return result


def whitened(kernel: Tensor, roots: dict[Mode, Tensor], modes: tuple[Mode, Mode]) -> Tensor:
    """A kernel in the coordinates in which a metric of these roots is the identity; `modes` are its first two axes."""
    for mode, root in roots.items():
        axis = modes.index(mode)
        kernel = torch.tensordot(root.to(kernel.device), kernel, ([1], [axis])).movedim(0, axis)
    return kernel.contiguous()


def layer_bias(layer: Any) -> Tensor | None:
    """The bias of a layer; an embedding has none."""
    bias: Tensor | None = getattr(layer, "bias", None)
    return bias


def own_parameter(values: Tensor, like: Tensor, requires_grad: bool | None = None) -> nn.Parameter:
    """A parameter with a copy of these values in row-major order, of the dtype and place of `like`."""
    copied = values.detach().to(like.device, like.dtype, copy=True).contiguous()
    return nn.Parameter(copied, requires_grad=like.requires_grad if requires_grad is None else requires_grad)


def balanced(factors: Sequence[Tensor]) -> list[Tensor]:
    """The factors scaled to equal norms, their product kept. A zero one, of a zero kernel, leaves all as they are."""
    norms = torch.stack([factor.norm() for factor in factors])
    if not bool((norms > 0).all()):
        return list(factors)
    scales = (norms.log().mean() - norms.log()).exp()
    return [factor * scale for factor, scale in zip(factors, scales, strict=True)]


def groups_of(layer: Any) -> int:
    """Groups of a convolution; one of any other layer."""
    return int(getattr(layer, "groups", 1))


def kernels_of(layer: Any) -> Tensor:
    """The kernel of each group of a layer, (groups, *shape of one), detached."""
    kernels: Tensor = layer.weight.detach().unflatten(0, (groups_of(layer), -1))
    return kernels


def by_group(factors: Sequence[Tensor], groups: int) -> list[Tensor]:
    """Each factor with its groups as the first axis."""
    return [factor.unflatten(0, (groups, -1)) for factor in factors]
