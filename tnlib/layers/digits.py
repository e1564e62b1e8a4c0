"""Digits: a size split into factors, so that an index becomes several and a matrix a tensor of higher order."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any


def balanced_dims(size: int, count: int) -> tuple[int, ...]:
    """Split an integer into `count` factors as equal as its prime factors allow, in ascending order.

    The largest prime factor goes first, each to the factor that is smallest so far: 25088 in six is (4, 4, 4, 7, 7, 8).

    Raises:
        ValueError: a size or a count below 1.
    """
    if size < 1 or count < 1:
        raise ValueError(f"cannot split {size} into {count} factors")
    primes, rest, p = [], size, 2
    while rest > 1:
        while rest % p == 0:
            primes.append(p)
            rest //= p
        p = p + 1 if p * p <= rest else max(rest, p + 1)
    dims = [1] * count
    for prime in reversed(primes):
        dims[dims.index(min(dims))] *= prime
    return tuple(sorted(dims))


def padded_dims(size: int, count: int) -> tuple[int, ...]:
    """Balanced factors of the smallest number from `size` on that factors well.

    That is: the largest factor is at most four times the number's `count`-th root. 257 is a prime; in three it becomes
    260 = 4 x 5 x 13. ValueError as for `balanced_dims`.
    """
    for padded in itertools.count(size):
        dims = balanced_dims(padded, count)
        if max(dims) <= 4 * padded ** (1 / count):
            return dims
    raise AssertionError("powers of two factor well")


def paired_dims(
    outputs: int,
    inputs: int,
    row_dims: Sequence[int] | None,
    col_dims: Sequence[int] | None,
    *,
    count: int = 3,
    paired: bool = True,
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Row and column digits of an (outputs x inputs) matrix: those given, the others chosen, equally many if `paired`.

    Products may exceed the sizes: the matrix is then padded with zeros.

    Raises:
        ValueError: digits that are too few, too small or not equally many.
    """
    number = len(row_dims or col_dims or range(count))
    rows = tuple(row_dims) if row_dims else padded_dims(outputs, number)
    cols = tuple(col_dims) if col_dims else padded_dims(inputs, number)
    if (paired and len(rows) != len(cols)) or min(rows + cols) < 1:
        raise ValueError(f"row_dims {rows} and col_dims {cols} must be{' equally many' * paired} positive digits")
    if math.prod(rows) < outputs or math.prod(cols) < inputs:
        raise ValueError(
            f"row_dims {rows} and col_dims {cols} multiply to {math.prod(rows)} x {math.prod(cols)}, "
            f"which is less than the weight's {outputs} x {inputs}"
        )
    return rows, cols


def chosen_digits(shape: Sequence[int], options: dict[str, Any]) -> dict[str, Any]:
    """Takes `row_dims` and `col_dims` of a kernel (outputs, inputs, ..) out of options; what is not given is chosen."""
    rows, cols = paired_dims(shape[0], shape[1], options.pop("row_dims", None), options.pop("col_dims", None))
    return {"row_dims": rows, "col_dims": cols}
