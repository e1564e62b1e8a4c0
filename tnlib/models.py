"""The workbook's networks with their trained weights: committed ones, and published ones fetched on demand."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tnlib import paths
from tnlib.data import DATASETS
from tnlib.networks import IMAGENET, CifarResNet, charnet, mlp1024, quick, vgg

Weights = Literal["trained", "published", "none"]


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


_AKAMASTER = "https://github.com/akamaster/pytorch_resnet_cifar10/raw/master/pretrained_models/"


def _resnet(depth: int) -> Callable[[], nn.Module]:
    return lambda: CifarResNet(depth, DATASETS["cifar10"].mean, DATASETS["cifar10"].std)


def _akamaster(depth: int, file: str, sha256: str) -> dict[str, Callable[[], nn.Module] | Published]:
    published = Published(_AKAMASTER + file, file, sha256, "BSD-2-Clause, (c) 2018 Yerlan Idelbayev")
    return {"build_published": lambda: CifarResNet(depth, *IMAGENET), "published": published}


MODELS: dict[str, ModelInfo] = {
    "mlp1024-mnist": ModelInfo("mnist", mlp1024),
    "quick-cifar10": ModelInfo("cifar10", quick),
    "vgg-cifar10": ModelInfo("cifar10", vgg),
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
