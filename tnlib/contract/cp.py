"""Plans for a CPD: factors (m_k, R) of the rows of a matrix and (n_k, R) of its columns."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from functools import partial

from torch import Tensor

from tnlib.contract.cost_model import CostModel
from tnlib.contract.plan import Block, Plan, Use
from tnlib.contract.products import Product
from tnlib.contract.search import END, START, Edge, cheapest, job
from tnlib.contract.steps import Right, Step, Weighted


@functools.lru_cache(maxsize=1024)
def plan_cp(
    row_dims: tuple[int, ...],
    col_dims: tuple[int, ...],
    rank: int,
    rows: int,
    *,
    use: Use = "training",
    chunked: bool = True,
    model: CostModel | None = None,
    max_bytes: int = 128 * 2**20,
    itemsize: int = 4,
) -> Plan:
    """The cheapest plan for a CPD: where to cut the factors of either side into a head and a tail; or the dense matrix.

    Head and tail are each merged by a Khatri-Rao product. Columns: the tail is applied by a matrix product, the head by
    a weighted sum. Rows: the head weights copies, the tail is a matrix product. Factors of the plan: A_1 (m_1, R) ..
    A_d of the rows, then B_1 (n_1, R) .. of the columns. Other arguments and errors as `plan_chain` has them.
    """
    if not row_dims or not col_dims:
        raise ValueError(f"both sides need a factor, got row_dims {row_dims}, col_dims {col_dims}")
    work = job(rows, use, chunked, model, max_bytes, itemsize, (*row_dims, *col_dims, rank))
    edges = [
        (START, END, _dense(row_dims, col_dims, rank)),
        *_side(col_dims, rank, "B", len(row_dims)),
        *_side(row_dims, rank, "A", 0),
    ]
    return cheapest(edges, math.prod(col_dims), math.prod(row_dims), work)


def _side(dims: Sequence[int], rank: int, letter: str, first: int) -> Iterator[Edge]:
    columns = letter == "B"
    for cut in range(len(dims)):
        head, tail = math.prod(dims[:cut]), math.prod(dims[cut:])
        names = ["".join(f"{letter}{k + 1}" for k in group) for group in (range(cut), range(cut, len(dims)))]
        product = Right(head, tail, rank) if columns else Right(head, rank, tail)
        steps: tuple[Step, ...] = (product,)
        if cut:
            weighted = Weighted(head, rank, summed=columns)
            steps = (product, weighted) if columns else (weighted, product)
        products = (*_khatri_rao_products(dims[:cut], rank), *_khatri_rao_products(dims[cut:], rank))
        merge = partial(_weights, first=first, cut=first + cut, last=first + len(dims), columns=columns)
        nodes = (START, "rank") if columns else ("rank", END)
        yield *nodes, Block(" | ".join(name for name in names if name), steps, products, merge)


def _weights(factors: Sequence[Tensor], first: int, cut: int, last: int, columns: bool) -> list[Tensor]:
    tail = khatri_rao(factors[cut:last])
    tail = (tail if columns else tail.t()).contiguous()
    if first == cut:
        return [tail]
    head = khatri_rao(factors[first:cut]).contiguous()
    return [tail, head] if columns else [head, tail]


def khatri_rao(factors: Sequence[Tensor]) -> Tensor:
    """Khatri-Rao product of matrices (k, R): (product of all k, R), the last index fastest; differentiable."""
    result = factors[0]
    for factor in factors[1:]:
        result = (result[:, None, :] * factor[None]).reshape(result.shape[0] * factor.shape[0], factor.shape[1])
    return result


def _khatri_rao_products(dims: Sequence[int], rank: int) -> tuple[Product, ...]:
    sizes = [math.prod(dims[:end]) for end in range(2, len(dims) + 1)]
    return tuple(Product(1, size, 1, rank, weight_first=False) for size in sizes)


def _dense(row_dims: Sequence[int], col_dims: Sequence[int], rank: int) -> Block:
    outputs, inputs, d = math.prod(row_dims), math.prod(col_dims), len(row_dims)
    products = (*_khatri_rao_products(row_dims, rank), *_khatri_rao_products(col_dims, rank))
    products += (Product(1, outputs, rank, inputs, weight_first=False),)
    name = "".join(f"A{k + 1}" for k in range(d)) + "".join(f"B{k + 1}" for k in range(len(col_dims)))
    return Block(name, (Right(1, inputs, outputs),), products, partial(_matrix, cut=d), dense=True)


def _matrix(factors: Sequence[Tensor], cut: int) -> list[Tensor]:
    return [khatri_rao(factors[:cut]) @ khatri_rao(factors[cut:]).t()]
