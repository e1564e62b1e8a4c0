"""Which layers can be replaced: a factorized layer does what a plain torch layer does, and nothing else."""

from __future__ import annotations

from torch import nn
from torch.nn.utils import parametrize

# A subclass may say how it is made and printed; any other method of its own could change what the layer computes.
_HARMLESS = {
    "__init__",
    "__repr__",
    "__str__",
    "extra_repr",
    "__module__",
    "__qualname__",
    "__doc__",
    "__annotations__",
}
_HARMLESS |= {"__constants__", "__static_attributes__", "__firstlineno__", "__parameters__", "__orig_bases__"}


def require(layer: nn.Module, kinds: tuple[type[nn.Module], ...], name: str) -> None:
    """Check that `name` can replace this layer.

    Raises:
        TypeError: another kind of layer, or one that does more than its plain torch layer: a subclass with methods of
            its own, a lazy, parametrized, pruned or normalized one, one with hooks. The message says what to do.
    """
    if isinstance(layer, nn.modules.lazy.LazyModuleMixin):
        raise TypeError(f"{type(layer).__name__} has no weight yet: call it once, then factorize")
    if isinstance(layer, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
        raise TypeError(
            f"cannot factorize {type(layer).__name__}: a transposed convolution spreads its input, and no format here "
            "does; factorize the convolutions around it"
        )
    kind = next((kind for kind in kinds if isinstance(layer, kind)), None)
    if kind is None:
        wanted = " or ".join(f"nn.{kind.__name__}" for kind in kinds)
        raise TypeError(f"cannot factorize {type(layer).__name__}: {name} replaces {wanted}")
    if parametrize.is_parametrized(layer):
        raise TypeError(
            f"cannot factorize a parametrized {type(layer).__name__}: call "
            "torch.nn.utils.parametrize.remove_parametrizations first"
        )
    changed = _own_methods(type(layer), kind) | ({"forward"} & set(vars(layer)))
    if changed:
        raise TypeError(
            f"cannot factorize {type(layer).__name__}: it is an nn.{kind.__name__} with its own "
            f"{', '.join(sorted(changed))}, which the factors would not do"
        )
    extra = {key for key, _ in [*layer.named_parameters(), *layer.named_buffers()]} - {"weight", "bias"}
    if extra or next(layer.children(), None) is not None:
        raise TypeError(
            f"cannot factorize this {type(layer).__name__}: it also holds {', '.join(sorted(extra)) or 'modules'}; "
            "remove the pruning, normalization or adapter first"
        )
    if hooked(layer):
        raise TypeError(f"cannot factorize a {type(layer).__name__} with hooks, which would be lost: remove them first")


def hooked(module: nn.Module) -> bool:
    """Whether hooks on calls of this module, its state or its gradients are registered."""
    return any(bool(value) for key, value in vars(module).items() if key.endswith("_hooks"))


def _own_methods(cls: type[nn.Module], kind: type[nn.Module]) -> set[str]:
    between = cls.__mro__[: cls.__mro__.index(kind)]
    names = {
        name for part in between for name, value in vars(part).items() if callable(value) or hasattr(value, "__get__")
    }
    return names - _HARMLESS
