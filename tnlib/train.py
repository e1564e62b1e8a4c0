"""Train the workbook's networks, resumably; repair compressed ones; measure accuracy."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from tnlib import compress, data, models, paths
from tnlib.measure import evaluating, has_fast_bf16, provenance
from tnlib.recipe import RECIPES, Recipe


class History(NamedTuple):
    """Mean loss and wall time in seconds of each epoch."""

    losses: list[float]
    seconds: list[float]


def pick_device(device: str = "auto") -> torch.device:
    """`auto` is the first GPU when there is one, otherwise the CPU; any torch device name is taken as it is."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


@torch.no_grad()
def accuracy(
    model: nn.Module, images: data.ImageSet, *, batch: int = 100, device: str | torch.device | None = None
) -> float:
    """Top-1 accuracy in [0, 1] of a model in eval mode on a whole image set; the model's own mode is restored."""
    return int(hits(model, images, batch=batch, device=device).sum()) / len(images)


def hits(
    model: nn.Module, images: data.ImageSet, *, batch: int = 100, device: str | torch.device | None = None
) -> Tensor:
    """Which images (n,) a model in eval mode classifies rightly: what a paired comparison of two models needs."""
    where = _device_of(model) if device is None else torch.device(device)
    model.to(where)
    right = []
    with evaluating(model):
        for x, y in zip(images.images.split(batch), images.labels.split(batch), strict=True):
            right.append(model(_channels_last(x, where)).argmax(1).cpu() == y)
    return torch.cat(right)


def fit(
    model: nn.Module,
    images: data.ImageSet,
    recipe: Recipe,
    *,
    device: str = "auto",
    precision: Literal["auto", "float32"] = "auto",
    checkpoint: Path | None = None,
    on_epoch: Callable[[int, float, float], None] | None = None,
    teacher: nn.Module | None = None,
) -> History:
    """Train a model in place and return the mean loss and the seconds of each epoch, resumed ones included.

    Args:
        model: takes uint8 images (n, channels, height, width) and returns logits (n, classes).
        images: training set.
        recipe: what to do; the shuffling and the crops follow from its seed.
        device: `auto`, or a torch device name.
        precision: `auto` computes in bfloat16 (autocast) where that is fast; `float32` never does. A CPD with large
            terms that cancel needs it: its rounding errors grow with the terms.
        checkpoint: file written after each epoch; training resumes from it when it exists and its recipe is the same.
        on_epoch: called with (epochs done, mean loss, seconds) after each epoch.
        teacher: a network of the same answers, in eval mode, that is imitated if the recipe distils (`_loss`).

    Raises:
        ValueError: a checkpoint of another recipe, an unknown precision, a recipe that distils without a teacher or
            that is unknown in what it matches or in what becomes of BatchNorm.
    """
    if recipe.distill and teacher is None:
        raise ValueError("a recipe that distils needs a teacher")
    if recipe.match not in ("answers", "logits") or recipe.norms not in ("trained", "frozen"):
        raise ValueError(f"unknown recipe: match {recipe.match!r}, norms {recipe.norms!r}")
    if precision not in ("auto", "float32"):
        raise ValueError(f"unknown precision {precision!r}; expected auto or float32")
    where = pick_device(device)
    model.to(where).train()
    if recipe.norms == "frozen":
        for norm in (m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)):
            norm.eval()
    if teacher is not None:
        teacher.to(where)
    if where.type == "cpu":
        model.to(memory_format=torch.channels_last)
    optimizer = recipe.start(model.parameters())
    losses, seconds = history = _resume(checkpoint, recipe, model, optimizer)
    bf16 = precision == "auto" and (where.type == "cuda" or has_fast_bf16())
    steps = math.ceil(len(images) / recipe.batch)
    for epoch in range(len(losses), recipe.epochs):
        started, total = time.perf_counter(), 0.0
        for step, (x, y) in enumerate(_batches(images, recipe, epoch)):
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate((epoch * steps + step + 1) / (recipe.epochs * steps + 1))
            x, y = x.to(where), y.to(where)
            with torch.autocast(where.type, torch.bfloat16) if bf16 else nullcontext():
                loss = _loss(model, x, y, teacher, recipe)
            optimizer.zero_grad()
            loss.backward()
            if recipe.clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
            optimizer.step()
            total += loss.item() * len(y)
        losses.append(total / len(images))
        seconds.append(time.perf_counter() - started)
        if checkpoint is not None:
            _save_checkpoint(checkpoint, recipe, model, optimizer, history)
        if on_epoch is not None:
            on_epoch(epoch + 1, losses[-1], seconds[-1])
    model.eval()
    return history


def _loss(model: nn.Module, x: Tensor, y: Tensor, teacher: nn.Module | None, recipe: Recipe) -> Tensor:
    """Cross-entropy with the labels and, by the share `distill`, the distance to a teacher; 1 needs no label."""
    logits, share = model(x), recipe.distill
    if teacher is None or not share:
        return F.cross_entropy(logits, y)
    with torch.no_grad():
        answers = teacher(x)
    if recipe.match == "logits":
        distance = F.mse_loss(logits, answers)
    else:
        distance = 4 * F.cross_entropy(logits / 2, (answers / 2).softmax(1))
    return distance if share == 1 else (1 - share) * F.cross_entropy(logits, y) + share * distance


def reestimate_batchnorm(model: nn.Module, images: data.ImageSet, *, batch: int = 100) -> None:
    """Recompute every BatchNorm's running mean and variance on `images`, in place: `compress.reestimate_batchnorm`."""
    where = _device_of(model)
    compress.reestimate_batchnorm(model, (_channels_last(x, where) for x in images.images.split(batch)))


def train(
    name: str, *, device: str = "auto", resume: bool = True, say: Callable[[str], None] = print
) -> dict[str, object]:
    """Train one of `RECIPES` on its full data set and write weights and record to `data/weights/`.

    A checkpoint is kept in `runs/train/` until the record is
    written. Returns the record: recipe, losses, accuracy on the full
    test set, wall time, versions, SHA-256 of the weights. Raises ValueError for a network without a recipe.
    """
    if name not in RECIPES:
        raise ValueError(f"no recipe for {name!r}; expected one of {', '.join(RECIPES)}")
    recipe, info = RECIPES[name], models.model_info(name)
    checkpoint = paths.RUNS / "train" / f"{name}.pt"
    if not resume:
        checkpoint.unlink(missing_ok=True)
    training, test = data.load(info.dataset, "train", "full"), data.load(info.dataset, "test", "full")
    torch.manual_seed(recipe.seed)
    model = info.build()

    def report(epoch: int, loss: float, elapsed: float) -> None:
        say(f"{name}: epoch {epoch}/{recipe.epochs}, loss {loss:.4f}, {elapsed:.0f} s")

    losses, seconds = fit(model, training, recipe, device=device, checkpoint=checkpoint, on_epoch=report)
    stored = {
        key: value.cpu().contiguous().to(info.storage if value.is_floating_point() else value.dtype)
        for key, value in model.state_dict().items()
    }
    model = info.build().eval()
    model.load_state_dict(stored)  # what is stored is what is measured
    score = accuracy(model, test)
    path = models.weights_file(name)
    with paths.replacing(path) as temporary:
        save_file(stored, temporary)
    record: dict[str, object] = {
        "model": name,
        "dataset": info.dataset,
        "training_images": len(training),
        "recipe": asdict(recipe),
        "epochs_done": len(losses),
        "test_images": len(test),
        "test_accuracy": round(score, 5),
        "loss_per_epoch": [round(loss, 5) for loss in losses],
        "seconds_per_epoch": [round(s, 1) for s in seconds],
        "sha256": models.file_digest(path),
        **provenance(),
    }
    with paths.replacing(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n")
    checkpoint.unlink(missing_ok=True)
    say(f"{name}: test accuracy {score:.3%} on {len(test)} images")
    return record


def _batches(images: data.ImageSet, recipe: Recipe, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch of augmented batches; the order and the crops depend on the seed and the epoch alone."""
    generator = torch.Generator().manual_seed(recipe.seed * 100_003 + epoch)
    size = recipe.crop(epoch / recipe.epochs)
    for index in torch.randperm(len(images), generator=generator).split(recipe.batch):
        x = images.images[index]
        if recipe.padding or recipe.flip or size is not None:
            x = data.random_crop_flip(x, generator, size=size, padding=recipe.padding, flip=recipe.flip)
        yield x, images.labels[index]


def _save_checkpoint(
    path: Path, recipe: Recipe, model: nn.Module, optimizer: torch.optim.Optimizer, history: History
) -> None:
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    content = state | history._asdict() | {"recipe": asdict(recipe)}
    with paths.replacing(path) as temporary:
        torch.save(content, temporary)


def _resume(path: Path | None, recipe: Recipe, model: nn.Module, optimizer: torch.optim.Optimizer) -> History:
    """Load a checkpoint when there is one; the history of the epochs that it has done."""
    if path is None or not path.is_file():
        return History([], [])
    content = torch.load(path, weights_only=True)
    if content["recipe"] != asdict(recipe):
        raise ValueError(f"{path.name} is a checkpoint of another recipe: remove it, or train without resuming")
    model.load_state_dict(content["model"])
    optimizer.load_state_dict(content["optimizer"])
    return History(content["losses"], content["seconds"])


def _channels_last(images: Tensor, device: torch.device) -> Tensor:
    """Images on a device, channels last in memory: there CPUs convolve faster, depthwise layers most of all."""
    return images.to(device, memory_format=torch.channels_last)


def _device_of(model: nn.Module) -> torch.device:
    """The device of a module's first parameter or buffer; the CPU for one that has neither."""
    tensors = (*model.parameters(), *model.buffers())
    return tensors[0].device if tensors else torch.device("cpu")
