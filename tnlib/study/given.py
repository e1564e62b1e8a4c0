"""What is given to be compressed: a network by name or as a function, its weights, its inputs. No pickle is read."""

from __future__ import annotations

import importlib
import inspect
import keyword
import sys
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from tnlib import models
from tnlib.compress.inputs import LABELS, VAR_KEYWORD
from tnlib.study.parameters import hint


@dataclass(frozen=True)
class Network:
    """A network in eval mode, with its weights, and the two lines of Python that build it again.

    `imports` is an import statement, `expression` what builds the network; `dataset` is that of a network of ours.
    """

    name: str
    model: nn.Module
    imports: str
    expression: str
    dataset: str | None


@contextmanager
def importing_from_here() -> Iterator[None]:
    """For a while, modules of the current folder can be imported; `sys.path` is restored."""
    before = sys.path[:]
    sys.path.insert(0, str(Path.cwd()))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = before


def network(target: str, weights: Path | None = None) -> Network:
    """Build a network.

    Args:
        target: a name that `models.load` knows, or `package.module:function`; the function is called without
            arguments and returns an `nn.Module`.
        weights: safetensors file to be loaded into it; by default a known network has its own weights, and the
            function's stays as it was returned.

    Raises:
        ValueError: an unknown network, a function that is missing or fails, weights that do not fit.
    """
    if ":" in target:
        module, _, name = target.partition(":")
        model = _built(module, name)
        found = Network(target, model.eval(), f"from {module} import {name} as build", "build()", None)
    else:
        info = models.model_info(target)
        bare = weights is not None or models.weights_file(target).is_file()
        model = models.load(target, "none" if weights is not None else None)
        expression = f'models.load("{target}", "none")' if bare else f'models.load("{target}")'
        found = Network(target, model, "from tnlib import models", expression, info.dataset)
    if weights is not None:
        _load(model, weights, target)
    for name, tensor in model.named_parameters():
        if not bool(tensor.isfinite().all()):
            raise ValueError(f"{name} of {target} holds numbers that are not finite")
    return found


def _built(module: str, name: str) -> nn.Module:
    """What a function of a module returns."""
    words = [*module.split("."), name]
    if words[-2] == "py" and len(words) == 3:
        raise ValueError(f"{module}:{name} names a file; expected its module, {module.removesuffix('.py')}:{name}")
    if not all(word.isidentifier() and not keyword.iskeyword(word) for word in words):
        raise ValueError(f"{module}:{name} is no package.module:function, as nets:make would be")
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and f"{module}.".startswith(f"{error.name}."):
            raise ValueError(f"no module {error.name!r}: it is neither in this folder nor installed") from None
        raise ValueError(f"{module} cannot be imported: {error}") from None
    except (Exception, SystemExit) as error:  # whatever the module raises
        raise ValueError(f"{module} cannot be imported: {_said(error)}") from None
    if not callable(make := getattr(found, name, None)):
        functions = [known for known, value in vars(found).items() if callable(value)]
        raise ValueError(f"{module} has no function {name!r}{hint(name, functions)}")
    try:
        model = make()
    except (Exception, SystemExit) as error:  # whatever the function raises
        raise ValueError(f"{module}:{name} called without arguments fails: {_said(error)}") from None
    if not isinstance(model, nn.Module):
        raise ValueError(f"{module}:{name} must return an nn.Module, got {type(model).__name__}")
    return model


def _load(model: nn.Module, path: Path, target: str) -> None:
    """Load safetensors into a model, all and none too many; of tied tensors, which are stored once, one is enough."""
    if not path.is_file():
        raise ValueError(f"no file {path}; expected weights in safetensors")
    try:
        state = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path.name} is no safetensors file: {error}") from None
    own = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    present = {own[name].data_ptr() for name in state if name in own}
    absent = [name for name, tensor in own.items() if name not in state and tensor.data_ptr() not in present]
    problems = [
        *([f"it lacks {_some(absent)}"] if absent else []),
        *([f"the network has no {_some(unknown)}"] if (unknown := [name for name in state if name not in own]) else []),
        *(
            f"{name} is {tuple(state[name].shape)} and not {tuple(tensor.shape)}"
            for name, tensor in own.items()
            if name in state and state[name].shape != tensor.shape
        ),
    ]
    if problems:
        raise ValueError(f"{path.name} does not fit {target}: {_some(problems, '; ')}")
    model.load_state_dict(state, strict=False)


def _some(items: Sequence[str], between: str = ", ") -> str:
    """The first three."""
    more = f" and {len(items) - 3} more" if len(items) > 3 else ""
    return between.join(items[:3]) + more


class Batches:
    """The batches of a folder, read one at a time in the order of names; may be gone through any number of times.

    `current` is the name of the file that was read last, None before the first one and after the last.
    """

    def __init__(self, files: Sequence[Path], model: nn.Module) -> None:
        self.files, self.model = files, model
        self.current: str | None = None

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[Tensor | dict[str, Tensor]]:
        for file in self.files:
            self.current = file.name
            yield _batch(file, self.model)
        self.current = None


Inputs = Tensor | dict[str, Tensor] | Batches


def inputs(path: Path, model: nn.Module) -> Inputs:
    """Read inputs, as `compress.curves` takes them. Floating-point numbers get the dtype of the model's parameters.

    Args:
        path: an `.npz` file, whose one array holds samples, or whose several arrays are the keyword arguments of one
            call, by name; an `.npy` file of samples; or a folder of such files, each of them a batch.
        model: the network that they are for; arguments called `label` or `labels` are not given to it.

    Raises:
        ValueError: no such file, a file that is no array without pickle, an array of something else than finite
            numbers, or one that is named as no argument of the network.
    """
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in (".npz", ".npy"))
        if not files:
            raise ValueError(f"the folder {path} holds no .npz or .npy file")
        return Batches(files, model)
    if not path.is_file():
        raise ValueError(f"no file or folder {path}; expected inputs in .npz or .npy")
    return _batch(path, model)


def _batch(path: Path, model: nn.Module) -> Tensor | dict[str, Tensor]:
    try:
        read = np.load(path, allow_pickle=False)
        if isinstance(read, np.ndarray):
            arrays = {"": read}
        else:
            with read:
                arrays = dict(read)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path.name} holds no arrays that can be read without pickle: {error}") from None
    if not arrays:
        raise ValueError(f"{path.name} holds no array")
    tensors = {name: _tensor(array, f"{name or 'the array'} of {path.name}", model) for name, array in arrays.items()}
    if len(tensors) == 1:
        return next(iter(tensors.values()))
    arguments = inspect.signature(model.forward).parameters
    if not any(argument.kind is VAR_KEYWORD for argument in arguments.values()):
        for name in tensors:
            if name not in arguments and name not in LABELS:
                raise ValueError(
                    f"{path.name} holds {name}, which is no argument of the network{hint(name, arguments)} "
                    f"(arguments: {', '.join(arguments)})"
                )
    return tensors


def _tensor(array: np.ndarray, what: str, model: nn.Module) -> Tensor:
    """An array as a tensor. ValueError unless it holds finite numbers or truth values."""
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{what} must hold numbers, got {array.dtype}")
    if array.dtype.kind != "f":
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C"))
    if not np.isfinite(array).all():
        raise ValueError(f"{what} holds numbers that are not finite")
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    near = np.float64 if dtype == torch.float64 else np.float32
    return torch.from_numpy(array.astype(near, order="C")).to(dtype)


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
