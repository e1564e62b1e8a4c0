"""How networks are trained: recipes, and those of the committed weights.

A recipe is SGD with Nesterov momentum (or Adam, or SOAP), a linear warm-up and a cosine to zero; weight decay spares
biases and BatchNorm. `resolution` may grow during training: a crop of 24x24 costs 0.56 of one of 32x32, and the first
half of training does not need more.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    `lr` is the peak, reached after `warmup` (a fraction of all steps); `resolution` maps the fraction of training done
    to the height and width of the crops; `padding` is the zero padding before a random crop, `flip` mirrors half of
    the images; a gradient longer than `clip` is shortened to it. `optimizer` is `sgd`, with `momentum`, or `adam`
    (AdamW, which has none), or `soap` (Vyas et al. 2025, arXiv 2409.11321): Adam in coordinates in which the gradients
    of each factor are about uncorrelated. `distill` is the share of the loss that is the distance to a teacher: to its
    `answers`, as probabilities at temperature 2 (Hinton et al. 2015), or to its `logits`, squared. With
    `norms="frozen"` BatchNorm keeps its statistics, as in use, while its scales and shifts learn.
    """

    epochs: int
    batch: int = 128
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup: float = 0.15
    padding: int = 4
    flip: bool = True
    resolution: tuple[tuple[float, int], ...] = ()
    clip: float | None = None
    optimizer: Literal["sgd", "adam", "soap"] = "sgd"
    seed: int = 0
    distill: float = 0.0
    match: Literal["answers", "logits"] = "answers"
    norms: Literal["trained", "frozen"] = "trained"

    def start(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimizer at its first step; weight decay spares biases and BatchNorm.

        Raises:
            ValueError: an unknown optimizer.
            ModuleNotFoundError: `soap` without pytorch-optimizer, which comes with the extra `study`.
        """
        known = list(parameters)
        groups = [
            {"params": [p for p in known if p.ndim > 1], "weight_decay": self.weight_decay},
            {"params": [p for p in known if p.ndim <= 1], "weight_decay": 0.0},
        ]
        if self.optimizer == "adam":
            return torch.optim.AdamW(groups, lr=self.lr)
        if self.optimizer == "soap":
            soap: Any = importlib.import_module("pytorch_optimizer").SOAP
            made: torch.optim.Optimizer = soap(groups, lr=self.lr)
            return made
        if self.optimizer != "sgd":
            raise ValueError(f"unknown optimizer {self.optimizer!r}; expected sgd, adam or soap")
        return torch.optim.SGD(groups, lr=self.lr, momentum=self.momentum, nesterov=self.momentum > 0)

    def crop(self, done: float) -> int | None:
        """Height and width of the crops when the fraction `done` of the training is over; None for whole images."""
        sizes = [size for start, size in self.resolution if start <= done]
        return sizes[-1] if sizes else None

    def rate(self, done: float) -> float:
        """Learning rate when the fraction `done` of the steps is over."""
        if done < self.warmup:
            return self.lr * done / self.warmup
        return self.lr * (1 + math.cos(math.pi * (done - self.warmup) / (1 - self.warmup))) / 2


RECIPES: dict[str, Recipe] = {
    "mlp1024-mnist": Recipe(epochs=20, lr=0.1, padding=0, flip=False),
    "quick-cifar10": Recipe(epochs=16, batch=64, lr=0.03, padding=2, resolution=((0.0, 32),)),
    "vgg-cifar10": Recipe(epochs=8, lr=0.1, resolution=((0.0, 24), (0.5, 28), (0.8, 32))),
    "charnet-chars36": Recipe(epochs=12, lr=0.02, padding=2, flip=False, clip=2.0),
    "resnet20-cifar10": Recipe(epochs=40, lr=0.15, resolution=((0.0, 24), (0.4, 28), (0.7, 32))),
}
