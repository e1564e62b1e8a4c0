"""Second moments of what a layer's weight is applied to: rows, patches of a convolution's input, a table's indices."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from tnlib import layers
from tnlib.compress.quadratic import damped
from tnlib.layers.geometry import Geometry
from tnlib.layers.stages import groups_of


class Moment:
    """The second moment of a layer's inputs, summed over all samples and positions.

    `total` is, for each group, the sum of x x^T over all vectors x that the rows of the group's weight (outputs,
    inputs, *window), flattened, are multiplied with: (groups, S window, S window). Of an embedding it is how often each
    row is looked up: (num_embeddings,).
    """

    def __init__(self, layer: nn.Module) -> None:
        self.layer, self.groups = layer, groups_of(layer)
        weight: Any = layer.weight
        size = len(weight) if isinstance(layer, nn.Embedding) else math.prod(weight.shape[1:])
        shape = (size,) if isinstance(layer, nn.Embedding) else (self.groups, size, size)
        self.total, self.vectors = torch.zeros(shape, dtype=torch.float64, device=weight.device), 0

    def add(self, x: Tensor) -> None:
        """Take in one input of the layer."""
        if isinstance(self.layer, nn.Embedding):
            self.total += torch.bincount(x.reshape(-1), minlength=len(self.total))
            self.vectors += x.numel()
            return
        self.add_vectors(self.vectors_of(x))

    def add_vectors(self, vectors: Tensor) -> None:
        """Take in what `vectors_of` returned; their products are those of float32 at least."""
        vectors = vectors.float() if vectors.element_size() < 4 else vectors
        self.total += torch.bmm(vectors, vectors.mT)
        self.vectors += vectors.shape[2]

    def vectors_of(self, x: Tensor) -> Tensor:
        """What the weight's rows are multiplied with, as columns: (groups, S window, number)."""
        if isinstance(self.layer, nn.Linear):
            return x.reshape(1, -1, x.shape[-1]).transpose(1, 2)
        layer: Any = self.layer
        x = x if x.ndim == layer.weight.ndim else x[None]
        patches = Geometry.of(layer).patches(x, layer.kernel_size)
        by_group: Tensor = patches.unflatten(0, (self.groups, -1))
        return by_group.flatten(3).flatten(1, 2)

    def by_channels(self) -> Moment:
        """The same as a Kronecker product: channels' mean moment over the window's pixels, and pixels uncorrelated."""
        weight: Any = self.layer.weight
        if self.total.ndim == 1:
            return self
        made, pixels = Moment(self.layer), math.prod(weight.shape[2:])
        split = self.total.unflatten(2, (-1, pixels)).unflatten(1, (-1, pixels))
        mean = torch.einsum("gakbk->gab", split) / pixels
        made.total = torch.einsum("gab,kl->gakbl", mean, torch.eye(pixels).to(mean)).reshape(self.total.shape)
        made.vectors = self.vectors
        return made

    def square(self, kernel: Tensor, outputs: Tensor | None = None) -> Tensor:
        """Sum of squares of what a weight of the layer's shape makes of all vectors, or rows of a table, float64.

        With `outputs`, (groups, outputs, outputs), as a quadratic form of the outputs instead.
        """
        if self.total.ndim == 1:
            rows = kernel if outputs is None else kernel @ outputs[0]
            return ((rows * kernel).sum(1) * self.total).sum()
        flat: Tensor = kernel.unflatten(0, (self.groups, -1)).flatten(2)
        return ((flat if outputs is None else outputs @ flat) @ self.total * flat).sum()

    def damped(self, ridge: float) -> Tensor:
        """The mean over all vectors, (groups, S window, S window), plus a ridge relative to its mean diagonal entry."""
        return damped(self.total / max(1, self.vectors), ridge)

    def metric(self, ridge: float, outputs: Tensor | None = None) -> layers.Metric | None:
        """The moment of the input channels, the mean over the window's pixels; None with several groups, of a table.

        `outputs`: how much squared errors of the outputs count, (groups, outputs, outputs).
        """
        if self.total.ndim == 1 or self.groups > 1:
            return None
        weight: Any = self.layer.weight
        channels, pixels = weight.shape[1], math.prod(weight.shape[2:])
        split = self.total[0].reshape(channels, pixels, channels, pixels)
        mean = torch.einsum("akbk->ab", split) / (pixels * max(1, self.vectors))
        return layers.Metric(inputs=damped(mean[None], ridge)[0], outputs=None if outputs is None else outputs[0])
