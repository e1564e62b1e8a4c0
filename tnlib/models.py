"""The workbook's networks, and their trained weights: committed ones, and published ones fetched on demand.

Every network starts with `Prepare`, so that all of them take images as `tnlib.data` gives them (uint8, or floats in
[0, 1]) and nobody has to remember which mean and deviation belong to which weights.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from tnlib import paths
from tnlib.data import DATASETS

Weights = Literal["trained", "published", "none"]


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


class Maxout(nn.Module):
    """Channel j of c is the largest of channels j, j + c, j + 2 c, ... of `pieces` c (Goodfellow et al. 2013)."""

    def __init__(self, pieces: int) -> None:
        super().__init__()
        self.pieces = pieces

    def forward(self, x: Tensor) -> Tensor:
        return reduce(torch.maximum, x.chunk(self.pieces, 1))


def charnet() -> nn.Sequential:
    """Jaderberg et al. 2014's character network, which Lebedev et al. 2015 compress: 24x24 grey, 36 classes, maxout."""
    layers = OrderedDict[str, nn.Module](
        prepare=Prepare(DATASETS["chars36"].mean, DATASETS["chars36"].std),
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


@dataclass(frozen=True)
class Published:
    """Weights that somebody else published: address, file name and SHA-256; fetched, never committed."""

    url: str
    file: str
    sha256: str
    licence: str


@dataclass(frozen=True)
class ModelInfo:
    """A known network: its data set, how to build it, which weights exist for it, and how they are stored."""

    dataset: str
    build: Callable[[], nn.Module]
    storage: torch.dtype = torch.float32
    build_published: Callable[[], nn.Module] | None = None
    published: Published | None = None


_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_AKAMASTER = "https://github.com/akamaster/pytorch_resnet_cifar10/raw/master/pretrained_models/"


def _resnet(depth: int) -> Callable[[], nn.Module]:
    return lambda: CifarResNet(depth, DATASETS["cifar10"].mean, DATASETS["cifar10"].std)


def _akamaster(depth: int, file: str, sha256: str) -> dict[str, Callable[[], nn.Module] | Published]:
    published = Published(_AKAMASTER + file, file, sha256, "BSD-2-Clause, (c) 2018 Yerlan Idelbayev")
    return {"build_published": lambda: CifarResNet(depth, *_IMAGENET), "published": published}


MODELS: dict[str, ModelInfo] = {
    "mlp1024-mnist": ModelInfo("mnist", mlp1024),
    "quick-cifar10": ModelInfo("cifar10", quick),
    "charnet-chars36": ModelInfo("chars36", charnet, torch.float16),
    "resnet20-cifar10": ModelInfo(
        "cifar10",
        _resnet(20),
        **_akamaster(20, "resnet20-12fca82f.th", "12fca82f0bebc4135bf1f32f6e3710e61d5108578464b84fd6d7f5c1b04036c8"),  # type: ignore[arg-type]
    ),
    "resnet56-cifar10": ModelInfo(
        "cifar10",
        _resnet(56),
        **_akamaster(56, "resnet56-4bfd9763.th", "4bfd97631478d6b638d2764fd2baff3edb1d7d82252d54439343b6596b9b5367"),  # type: ignore[arg-type]
    ),
}


def load(name: str, weights: Weights | None = None) -> nn.Module:
    """Build a network, load its weights, and return it in eval mode on the CPU in float32.

    Args:
        name: one of `MODELS`.
        weights: `trained`, the committed weights; `published`, other people's, fetched over HTTPS or from
            `TNLIB_MIRROR`; `none`, a fresh initialisation. By default the committed weights where there are some.

    Raises:
        ValueError: unknown network, or weights that do not exist for it.
        RuntimeError: a weight file whose SHA-256 is not the recorded one, or that no source could give.
    """
    info = model_info(name)
    if weights is None:
        weights = "trained" if weights_file(name).is_file() else "published"
    if weights == "none":
        return info.build().eval()
    if weights == "published":
        if info.published is None or info.build_published is None:
            raise ValueError(f"{name} has no published weights; train it (tnlib train {name}), then weights='trained'")
        model, state = info.build_published(), _published_state(info.published)
    elif weights == "trained":
        model, state = info.build(), _trained_state(name)
    else:
        raise ValueError(f"unknown weights {weights!r}; expected trained, published or none")
    model.load_state_dict(state)
    return model.eval()


def model_info(name: str) -> ModelInfo:
    """The description of a network; ValueError names the known ones."""
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}; expected one of {', '.join(MODELS)}")
    return MODELS[name]


def weights_file(name: str) -> Path:
    """The committed safetensors file of a network; its JSON record lies beside it."""
    return paths.WEIGHTS / f"{name}.safetensors"


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def record(name: str) -> dict[str, object]:
    """The JSON record that lies beside a network's committed weights: recipe, seed, accuracy, date, versions."""
    model_info(name)
    path = weights_file(name).with_suffix(".json")
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in paths.WEIGHTS.glob("*.safetensors"))) or "none"
        raise ValueError(
            f"no trained weights of {name} are committed (committed: {known}); train them: tnlib train {name}"
        )
    result: dict[str, object] = json.loads(path.read_text())
    return result


def _trained_state(name: str) -> dict[str, Tensor]:
    expected, path = record(name)["sha256"], weights_file(name)
    if not path.is_file() or file_digest(path) != expected:
        raise RuntimeError(
            f"{path.name} is damaged (its SHA-256 is not the recorded one): restore it with git checkout"
        )
    return load_file(path)


def _published_state(published: Published) -> dict[str, Tensor]:
    """Find published weights in the cache, the mirror folder or on the web; verify, cache, and strip `module.`."""
    import pooch

    target = paths.cache() / "weights" / published.file
    mirror, answers = paths.mirror(), []
    if not target.is_file() or file_digest(target) != published.sha256:
        copy = mirror / published.file if mirror else None
        if copy is not None and copy.is_file() and file_digest(copy) == published.sha256:
            with paths.replacing(target) as temporary:
                temporary.write_bytes(copy.read_bytes())
        else:
            if copy is not None:
                answers.append(f"{copy}: {'another SHA-256' if copy.is_file() else 'not there'}")
            try:
                target.unlink(missing_ok=True)
                pooch.get_logger().setLevel("ERROR")
                pooch.retrieve(
                    published.url,
                    known_hash=published.sha256,
                    fname=target.name,
                    path=target.parent,
                    downloader=pooch.HTTPDownloader(timeout=20),
                )
            except (OSError, ValueError) as error:
                answers.append(f"{published.url}: {type(error).__name__}")
                raise RuntimeError(
                    f"{published.file} could not be had. Tried: {'; '.join(answers)}. "
                    "Put it in a folder and set TNLIB_MIRROR to that folder."
                ) from None
    content = torch.load(target, map_location="cpu", weights_only=True)
    return {key.removeprefix("module."): value for key, value in content["state_dict"].items()}
