"""The workbook's networks as modules, without weights.

Every network starts by preparing its images, so that all of them take images as `tnlib.data` gives them (uint8, or
floats in [0, 1]) and nobody has to remember which mean and deviation belong to which weights.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from functools import reduce
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tnlib.data import DATASETS

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and deviation that many published weights expect


class Prepare(nn.Module):
    """Bring images to what a network was trained on: scale uint8 to [0, 1], zero-pad, subtract a mean, divide.

    Input (n, channels, height, width), uint8 or float; output float, height and width larger by 2 * `padding`.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], padding: int = 0) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.padding = padding
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        floats = images.to(self.mean.dtype)
        if images.dtype == torch.uint8:
            floats = floats / 255
        return (F.pad(floats, (self.padding,) * 4) - self.mean) / self.std


def mlp1024() -> nn.Sequential:
    """Novikov et al. 2015's MNIST network: 28x28 images padded to 32x32, then 1024-1024-10 with ReLU."""
    return nn.Sequential(
        Prepare(DATASETS["mnist"].mean, DATASETS["mnist"].std, padding=2),
        nn.Flatten(),
        nn.Linear(1024, 1024),
        nn.ReLU(),
        nn.Linear(1024, 10),
    )


def quick() -> nn.Sequential:
    """Caffe's CIFAR-10 `quick` network: three 5x5 convolutions with 3x3/2 pooling, then 1024-64-10.

    As in Caffe, the first pooling takes maxima and precedes the ReLU, the other two take averages, and no ReLU stands
    between the two fully connected layers.
    """
    return nn.Sequential(
        Prepare(DATASETS["cifar10"].mean, DATASETS["cifar10"].std),
        nn.Conv2d(3, 32, 5, padding=2), nn.MaxPool2d(3, 2, ceil_mode=True), nn.ReLU(),
        nn.Conv2d(32, 32, 5, padding=2), nn.ReLU(), nn.AvgPool2d(3, 2, ceil_mode=True),
        nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.AvgPool2d(3, 2, ceil_mode=True),
        nn.Flatten(), nn.Linear(1024, 64), nn.Linear(64, 10),
    )  # fmt: skip


def garipov() -> nn.Sequential:
    """Garipov et al. 2016's network for CIFAR-10: six 3x3 convolutions, then 8192-1536-512-10; BatchNorm and ReLU.

    Sizes as in the authors' public code (github.com/timgaripov/TensorNet-TF, `conv-fc`): 64, 64, pooling, 128, 128,
    pooling, 128, 128; maxima of 3x3 every other pixel; no biases but the last. Without its two hidden layers, and with
    averages of 4x4 in their place, it is the paper's `conv`, which has 0.56 M parameters; this one has 13.9 M.
    """
    layers: list[nn.Module] = [Prepare(DATASETS["cifar10"].mean, DATASETS["cifar10"].std)]
    channels = (3, 64, 64, 128, 128, 128, 128)
    for k, (inputs, outputs) in enumerate(pairwise(channels), 1):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        layers += [nn.MaxPool2d(3, 2, ceil_mode=True)] if k in (2, 4) else []
    layers.append(nn.Flatten())
    for inputs, outputs in ((8192, 1536), (1536, 512)):
        layers += [nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU()]
    layers.append(nn.Linear(512, 10))
    return nn.Sequential(*layers)


def vgg() -> nn.Sequential:
    """A small network after VGG (Simonyan and Zisserman 2015): six 3x3 convolutions of 32 to 128 channels, no shortcut.

    In pairs, with BatchNorm and ReLU; maxima of 2x2 follow each pair; the mean over all places, then 128-10. About as
    many MACs as ResNet-20.
    """
    layers: list[nn.Module] = [Prepare(DATASETS["cifar10"].mean, DATASETS["cifar10"].std)]
    channels = (3, 32, 32, 64, 64, 128, 128)
    for k, (inputs, outputs) in enumerate(pairwise(channels), 1):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if k % 2 == 0 else []
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))


class Standardize(nn.Module):
    """Bring each image to mean 0 and deviation 1; uint8 or float (n, channels, height, width) in, float out."""

    def forward(self, images: Tensor) -> Tensor:
        floats = images if images.is_floating_point() else images.float()
        values = floats[:1].numel()
        return F.layer_norm(floats, floats.shape[1:], eps=1e-12) * math.sqrt(1 - 1 / values)  # deviation: by n - 1


class Maxout(nn.Module):
    """Channel j of c is the largest of channels j, j + c, j + 2 c, ... of `pieces` c (Goodfellow et al. 2013)."""

    def __init__(self, pieces: int) -> None:
        super().__init__()
        self.pieces = pieces

    def forward(self, x: Tensor) -> Tensor:
        pieces = self.pieces
        while pieces % 2 == 0:  # halves, while there are some: fewer calls
            x, pieces = torch.maximum(*x.chunk(2, 1)), pieces // 2
        return reduce(torch.maximum, x.chunk(pieces, 1))


def charnet() -> nn.Sequential:
    """Jaderberg et al. 2014's character network, which Lebedev et al. 2015 compress: 24x24 grey, 36 classes, maxout."""
    layers = OrderedDict[str, nn.Module](
        prepare=Standardize(),
        conv1=nn.Conv2d(1, 96, 9), maxout1=Maxout(2),
        conv2=nn.Conv2d(48, 128, 9), maxout2=Maxout(2), dropout2=nn.Dropout(),
        conv3=nn.Conv2d(64, 512, 8), maxout3=Maxout(4), dropout3=nn.Dropout(),
        conv4=nn.Conv2d(128, 144, 1), maxout4=Maxout(4), flatten=nn.Flatten(),
    )  # fmt: skip
    return nn.Sequential(layers)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a parameter-free shortcut (option A of He et al. 2016: stride, then zero channels)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.extra = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.extra:
            half = self.extra // 2
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, self.extra - half))
        return F.relu(x + y)


class CifarResNet(nn.Module):
    """He et al. 2016's ResNet for CIFAR-10, of depth 6 n + 2: three stages of n blocks with 16, 32, 64 channels."""

    def __init__(self, depth: int, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.prepare = Prepare(mean, std)
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, (depth - 2) // 6)
        self.layer2 = self._stage(16, 32, (depth - 2) // 6)
        self.layer3 = self._stage(32, 64, (depth - 2) // 6)
        self.linear = nn.Linear(64, 10)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    @staticmethod
    def _stage(inputs: int, outputs: int, blocks: int) -> nn.Sequential:
        first = BasicBlock(inputs, outputs, 1 if inputs == outputs else 2)
        return nn.Sequential(first, *(BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1)))

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(self.prepare(images))))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits
