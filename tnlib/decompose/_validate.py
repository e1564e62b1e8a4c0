"""What every decomposition asks of its input, with one sentence for each way to get it wrong."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence

import torch
from torch import Tensor


def check_tensor(tensor: Tensor, *, order: int | None = None) -> None:
    """What is decomposed has entries, and modes to tell apart.

    Raises:
        TypeError: not a real floating torch tensor.
        ValueError: an empty tensor, one of order 1 or of another order than asked for.
    """
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
        got = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
        raise TypeError(f"expected a real floating torch tensor, got {got}")
    if tensor.numel() == 0 or tensor.ndim < 2 or order not in (None, tensor.ndim):
        wanted = f"of order {order}" if order else "of order 2 or more"
        raise ValueError(f"expected a tensor {wanted} without empty modes, got shape {tuple(tensor.shape)}")


def scaled(tensor: Tensor, *, order: int | None = None, contiguous: bool = False) -> tuple[Tensor, int]:
    """The tensor in float64 times 2^-exponent, and the exponent: the largest entry comes to lie in [1/2, 1).

    Squares and products of such entries neither overflow nor vanish, and a power of two costs no bit of any of them.
    The result is the one copy that is made; in row-major order if `contiguous`, else in the order of the input.

    Raises:
        TypeError, ValueError: as `check_tensor`.
        ValueError: nan or infinite values.
    """
    check_tensor(tensor, order=order)
    layout = torch.contiguous_format if contiguous else torch.preserve_format
    wide = tensor.detach().to(torch.float64, copy=True, memory_format=layout)
    largest = max(abs(float(end)) for end in wide.aminmax())
    if not math.isfinite(largest):
        raise ValueError("the tensor holds nan or infinite values; a decomposition of it is not defined")
    exponent = math.frexp(largest)[1]
    return _scale(wide, -exponent), exponent


def narrowed(part: Tensor, dtype: torch.dtype, exponent: int = 0) -> Tensor:
    """A part of the result times 2^exponent, in the input's dtype, contiguous and with memory of its own.

    Raises:
        ValueError: it holds a number that is too large for the dtype.
    """
    result = _scale(part.clone(), exponent).to(dtype).contiguous()
    if not bool(torch.isfinite(result).all()):
        raise ValueError(
            f"the result holds numbers beyond the largest one of {dtype}, {torch.finfo(dtype).max:.5g}: divide the "
            "tensor by a constant first, or give it in a wider dtype"
        )
    return result


def _scale(tensor: Tensor, exponent: int) -> Tensor:
    """The tensor itself, multiplied by 2^exponent in two steps, since 2^exponent alone may be out of range."""
    half = exponent // 2
    return tensor.mul_(2.0**half).mul_(2.0 ** (exponent - half))


def one_rank(rank: object, largest: int, what: str) -> int:
    """A rank as an int between 1 and `largest`, or a ValueError that names the largest useful one."""
    try:
        value = operator.index(rank)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{what} must be an integer, got {rank!r}") from None
    if not 1 <= value <= largest:
        raise ValueError(f"{what} {value} is out of range: the smallest is 1, the largest useful one here is {largest}")
    return value


def many_ranks(rank: object, largest: Sequence[int], what: str) -> tuple[int, ...]:
    """One rank for each entry of `largest`; a single integer stands for all of them, cut to each largest one."""
    if isinstance(rank, (str, bytes)) or not isinstance(rank, Sequence):
        value = one_rank(rank, max(largest, default=1), what)
        return tuple(min(value, limit) for limit in largest)
    if len(rank) != len(largest):
        raise ValueError(f"expected {len(largest)} {what}s (or one integer for all), got {len(rank)}: {tuple(rank)}")
    return tuple(
        one_rank(r, limit, f"{what} number {i + 1}") for i, (r, limit) in enumerate(zip(rank, largest, strict=True))
    )


def check_rank_or_error(rank: object, rel_error: float | None) -> None:
    """Exactly one of `rank` and `rel_error` is to be given, the latter in [0, 1)."""
    if (rank is None) == (rel_error is None):
        raise ValueError("give either rank or rel_error, not both and not neither")
    if rel_error is not None and not 0 <= rel_error < 1:
        raise ValueError(f"rel_error must lie in [0, 1), got {rel_error}")


def tail_rank(singular_values: Tensor, threshold: float) -> int:
    """The smallest rank whose discarded singular values have a Euclidean norm of at most `threshold`."""
    tails = singular_values.square().flip(0).cumsum(0).flip(0).sqrt()
    # Singular values below rounding error are noise: asking for error 0 must not keep them.
    floor = singular_values.max() * len(singular_values) * torch.finfo(singular_values.dtype).eps
    return max(1, int((tails > max(threshold, float(floor))).sum()))


def max_tt_ranks(shape: Sequence[int]) -> tuple[int, ...]:
    """The ranks R_1 .. R_(Q-1) at which a tensor train represents every tensor of this shape.

    R_q = min(prod of the first q sizes, prod of the others) (Oseledets 2011, theorem 2.1).
    """
    return tuple(min(math.prod(shape[:q]), math.prod(shape[q:])) for q in range(1, len(shape)))


def max_cp_rank(shape: Sequence[int]) -> int:
    """A CP rank that suffices for every tensor of this shape: the product of all sizes but the largest."""
    return math.prod(shape) // max(shape)
