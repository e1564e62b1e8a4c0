"""Small CP convolutions and positive definite norms, float64, for the tests of how `compress` fits them."""

import torch
from torch import nn

from tnlib import layers

CONVOLUTIONS = {
    ("cp3", nn.Conv2d): lambda: nn.Conv2d(5, 7, (3, 2)),
    ("cp", nn.Conv2d): lambda: nn.Conv2d(5, 7, (3, 2)),
    ("cp", nn.Conv1d): lambda: nn.Conv1d(4, 3, 5),
    ("cp", nn.Conv3d): lambda: nn.Conv3d(2, 3, (2, 3, 2)),
    ("cp3", nn.Conv3d): lambda: nn.Conv3d(3, 2, 2),
}


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def definite(size, seed):
    root = randn(size, size, seed=seed)
    return root @ root.mT / size + 0.1 * torch.eye(size, dtype=torch.float64)


def made(format, kind, rank=3):
    torch.manual_seed(0)
    return layers.factorize(CONVOLUTIONS[format, kind]().double(), format, rank)
