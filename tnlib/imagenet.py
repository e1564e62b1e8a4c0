"""AlexNet, VGG and ImageNet's pictures, for readers who have them: the workbook brings neither weights nor pictures."""

from __future__ import annotations

import importlib
from collections import OrderedDict
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from tnlib.networks import IMAGENET, Prepare

CLASSES = 1000
_SIZE, _SHORTER = 224, 256  # pixels: the picture that the network sees, and the shorter side that it is cut from
# Channels of VGG's 3 x 3 convolutions, block by block; a pooling ends each (Simonyan and Zisserman 2015, table 1).
_BLOCKS = {
    16: ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3),
    19: ((64,) * 2, (128,) * 2, (256,) * 4, (512,) * 4, (512,) * 4),
}
_KINDS = (".jpeg", ".jpg", ".png", ".webp", ".bmp")


def alexnet(weights: str = "") -> nn.Module:
    """AlexNet on one GPU (Krizhevsky 2014), as torchvision has it; in eval mode.

    Pictures uint8 (n, 3, 224, 224) in, logits (n, 1000) out.

    Args:
        weights: a file with torchvision's `state_dict` (.pth or .safetensors); `torchvision`: those that it fetches,
            where it is installed; "": random ones, from torch's generator.

    Raises:
        ValueError: weights that cannot be had, or that are not AlexNet's.
    """
    features = nn.Sequential(
        nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2),
    )  # fmt: skip
    classifier = nn.Sequential(
        nn.Dropout(), nn.Linear(9216, 4096), nn.ReLU(),
        nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(),
        nn.Linear(4096, CLASSES),
    )  # fmt: skip
    parts: OrderedDict[str, nn.Module] = OrderedDict(
        prepare=Prepare(*IMAGENET), features=features, flatten=nn.Flatten(), classifier=classifier
    )
    return _ready(parts, weights, "AlexNet", "AlexNet_Weights")


def vgg(depth: Literal[16, 19] = 16, weights: str = "") -> nn.Module:
    """VGG of 16 or 19 layers (Simonyan and Zisserman 2015, D and E), as torchvision has it; in eval mode.

    Pictures uint8 (n, 3, 224, 224) in, logits (n, 1000) out. The fully connected layers are `classifier.0` (25088 to
    4096), `.3` and `.6`. 138 or 144 million parameters: where shapes alone are asked for, call it within
    `torch.device("meta")`, which allocates nothing.

    Args:
        depth: 16 or 19.
        weights: as for `alexnet`.

    Raises:
        ValueError: another depth; weights that cannot be had, or that are not this network's.
    """
    if depth not in _BLOCKS:
        raise ValueError(f"vgg has a depth of 16 or 19, got {depth!r}")
    features, inputs = nn.Sequential(), 3
    for block in _BLOCKS[depth]:
        for outputs in block:
            features.extend([nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()])
            inputs = outputs
        features.append(nn.MaxPool2d(2, 2))
    classifier = nn.Sequential(
        nn.Linear(25088, 4096), nn.ReLU(), nn.Dropout(),
        nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(),
        nn.Linear(4096, CLASSES),
    )  # fmt: skip
    parts: OrderedDict[str, nn.Module] = OrderedDict(
        prepare=Prepare(*IMAGENET),
        features=features,
        avgpool=nn.AdaptiveAvgPool2d(7),
        flatten=nn.Flatten(),
        classifier=classifier,
    )
    return _ready(parts, weights, f"VGG-{depth}", f"VGG{depth}_Weights")


def _ready(parts: OrderedDict[str, nn.Module], weights: str, network: str, published: str) -> nn.Module:
    """The network of these parts in eval mode; its weights read, if asked for, or as torchvision's enum has them."""
    model = nn.Sequential(parts)
    if weights:
        state = _published(published) if weights == "torchvision" else _state(Path(weights), network)
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            raise ValueError(f"{weights} is not a state_dict of torchvision's {network}: {error}") from None
    return model.eval()


def read_folder(folder: Path, count: int = 1000) -> tuple[Tensor, Tensor]:
    """Pictures uint8 (n, 3, 224, 224) and labels int64 (n,) of a validation folder with a subfolder a class.

    The shorter side becomes 256 pixels, the middle square of 224 is kept. `count` pictures are taken, evenly spaced
    in the sorted list of all.

    Args:
        folder: of 1,000 subfolders whose sorted names are the classes in order (torchvision's order), or of some
            that are named by the class's number, 0 to 999.
        count: at most so many pictures.

    Raises:
        ValueError: a folder that is not there, or of another make.
    """
    names = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    numbered = all(name.isdecimal() and int(name) < CLASSES for name in names)
    if not names or not (numbered or len(names) == CLASSES):
        raise ValueError(
            f"imagenet_dir: expected {folder} to hold {CLASSES} folders of pictures, or some named 0 to {CLASSES - 1}; "
            f"found {len(names)} folders{'' if folder.is_dir() else ', and no such folder'}"
        )
    labels = {name: int(name) if numbered else place for place, name in enumerate(names)}
    paths = sorted(path for name in names for path in (folder / name).iterdir() if path.suffix.lower() in _KINDS)
    if not paths:
        raise ValueError(f"imagenet_dir: the folders in {folder} hold no pictures ({', '.join(_KINDS)})")
    places = np.linspace(0, len(paths) - 1, min(count, len(paths))).round().astype(int)
    chosen = [paths[place] for place in places]
    pictures = torch.from_numpy(np.stack([_picture(path) for path in chosen]))
    return pictures, torch.tensor([labels[path.parent.name] for path in chosen])


def _picture(path: Path) -> np.ndarray:
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    width, height = (_SHORTER * side // min(picture.size) for side in picture.size)
    left, top = (round((side - _SIZE) / 2) for side in (width, height))
    picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(picture.crop((left, top, left + _SIZE, top + _SIZE))).transpose(2, 0, 1)


def _published(name: str) -> dict[str, Tensor]:
    try:
        versions = getattr(importlib.import_module("torchvision.models"), name)
    except ImportError:
        raise ValueError("weights='torchvision' needs torchvision: install it, or give a file of its weights") from None
    state: dict[str, Tensor] = versions.IMAGENET1K_V1.get_state_dict(check_hash=True)
    return state


def _state(path: Path, network: str) -> dict[str, Tensor]:
    if not path.is_file():
        raise ValueError(f"weights: no file {path}; give a state_dict of torchvision's {network}, or 'torchvision'")
    state: dict[str, Tensor] = (
        load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    )
    return state
