"""What the tests of the factorized layers share: a case for each layer type and format, torch's own as reference."""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tnlib import layers

LAYERS = {
    "Linear": (lambda **options: nn.Linear(24, 18, **options), (24,)),
    "Conv1d": (lambda **options: nn.Conv1d(6, 8, 3, stride=2, padding=1, groups=2, **options), (6, 9)),
    "Conv2d": (
        lambda **options: nn.Conv2d(6, 8, (3, 2), stride=(2, 1), padding=(1, 0), groups=2, **options),
        (6, 9, 7),
    ),
    "Conv3d": (
        lambda **options: nn.Conv3d(4, 6, (2, 3, 2), stride=(1, 2, 1), padding=(1, 1, 0), groups=2, **options),
        (4, 4, 6, 5),
    ),
    "Embedding": (lambda **options: nn.Embedding(30, 8, **options), ()),
}
FORMATS = {
    "Linear": ("svd", "cp", "tucker", "tt", "ttm"),
    "Conv1d": ("svd", "cp", "cp3", "tucker2", "tucker", "tt", "ttm"),
    "Conv2d": ("svd", "spatial_svd", "cp", "cp3", "tucker2", "tucker", "tt", "ttm"),
    "Conv3d": ("svd", "cp", "cp3", "tucker2", "tucker", "tt", "ttm"),
    "Embedding": ("svd", "ttm"),
}
DIGITS = ("Linear-cp", "Linear-tucker", "Linear-tt", "Linear-ttm", "Conv1d-ttm", "Conv2d-ttm", "Conv3d-ttm")
CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


@dataclass(frozen=True)
class Case:
    """One layer type in one format, at rank 2."""

    kind: str
    format: str

    def __str__(self) -> str:
        return f"{self.kind}-{self.format}"

    @property
    def cls(self):
        return layers.FORMATS[getattr(nn, self.kind)][self.format]

    def layer(self, **options) -> nn.Module:
        """The layer that is replaced, with the same normal weights in every call."""
        return filled(LAYERS[self.kind][0](**options))

    def factorize(self, layer: nn.Module) -> nn.Module:
        """Another layer in this format; few iterations are enough for what needs no good fit."""
        return layers.factorize(layer, self.format, 2, **({"max_iter": 20} if self.format.startswith("cp") else {}))

    def make(self, dtype: torch.dtype = torch.float32) -> nn.Module:
        """The factorized layer; a new copy in every call."""
        return copy.deepcopy(_made(self, dtype))

    def input(self, batch: int = 3, dtype: torch.dtype = torch.float32, seed: int = 1) -> Tensor:
        """A batch that the layer takes."""
        generator = torch.Generator().manual_seed(seed)
        if self.kind == "Embedding":
            return torch.randint(30, (batch,), generator=generator)
        return torch.randn(batch, *LAYERS[self.kind][1], generator=generator, dtype=torch.float64).to(dtype)


@functools.cache
def _made(case: Case, dtype: torch.dtype) -> nn.Module:
    return case.factorize(case.layer(dtype=dtype))


CASES = [Case(kind, format) for kind, formats in FORMATS.items() for format in formats]
CONVS = [case for case in CASES if case.kind.startswith("Conv")]
FLOATS = [case for case in CASES if case.kind != "Embedding"]


def filled(layer: nn.Module, seed: int = 0) -> nn.Module:
    """The layer, its parameters drawn normal; an embedding's row of `padding_idx` is zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        if getattr(layer, "padding_idx", None) is not None:
            layer.weight[layer.padding_idx] = 0.0
    return layer


def dense(layer: nn.Module, module: nn.Module, x: Tensor) -> Tensor:
    """What torch's own layer gives with the dense weight and the bias of a factorized one, as they are now."""
    values = {"weight": module.dense_weight()}
    if getattr(module, "bias", None) is not None:
        values["bias"] = module.bias
    return torch.func.functional_call(layer, values, (x,))


def assert_same(got: Tensor, want: Tensor, tolerance: float = 1e-5, scale: float = 1e-300) -> None:
    """The same shape and dtype, and a difference of at most `tolerance` of the norm, or of `scale` if that is more."""
    assert got.shape == want.shape
    assert got.dtype == want.dtype
    assert difference(got, want, scale) <= tolerance


def difference(got: Tensor, want: Tensor, scale: float = 1e-300) -> float:
    """Norm of the difference as a fraction of the second one's norm, or of `scale`; of two zeros, zero."""
    got, want = got.detach().double(), want.detach().double()
    return float((got - want).norm() / want.norm().clamp_min(scale))


def owners(module: nn.Module):
    """(module that holds it, its name there, the parameter) for every factor; the bias is left out."""
    for name, parameter in list(module.named_parameters()):
        path, _, last = name.rpartition(".")
        if last != "bias":
            yield module.get_submodule(path), last, parameter
