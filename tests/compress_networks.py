"""Small networks of every kind that `tnlib.compress` is to take, with inputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Residual(nn.Module):
    """Convolutions of all sorts on 9 x 9 images: strided, grouped, depthwise, dilated, one called twice, BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.norm = nn.BatchNorm2d(12)
        self.twice = nn.Conv2d(12, 12, 3, padding=1, bias=False)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.grouped = nn.Conv2d(12, 16, (3, 2), stride=2, padding=(1, 0), groups=2)
        self.dilated = nn.Conv2d(16, 10, 3, padding=2, dilation=2, padding_mode="reflect")
        self.head = nn.Linear(10, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        x = x + self.twice(self.twice(x).relu())
        x = self.grouped(self.depthwise(x).relu())
        return self.head(self.dilated(x).relu().mean((2, 3)))


class Tied(nn.Module):
    """A text classifier that predicts words too: the head's weight is the embedding's."""

    def __init__(self, words: int = 40, size: int = 12) -> None:
        super().__init__()
        self.embed, self.positions = nn.Embedding(words, size), nn.Embedding(9, size)
        self.mix, self.head = nn.Linear(size, size), nn.Linear(size, words, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor, scale: float = 1.0) -> Tensor:
        places = torch.arange(tokens.shape[1], device=tokens.device)
        return self.head(self.mix(self.embed(tokens) + self.positions(places)).tanh() * scale)


class Encoder(nn.Module):
    """A transformer encoder on keyword inputs."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.out = nn.Linear(16, 5)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.out(self.encoder(x, src_key_padding_mask=mask).mean(1))


def seeded(make, seed: int = 0) -> nn.Module:
    """A network with weights that are the same in every call, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make().eval()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.running_mean, -0.5, 0.5)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model


def images(number: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(number, 3, 9, 9, generator=torch.Generator().manual_seed(seed))
