"""Plans for a Tucker decomposition: a core, factors (m_k, r_k) of a matrix's rows and (n_k, s_k) of its columns."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from functools import partial

from torch import Tensor

from tnlib.contract.chain import chain_edges
from tnlib.contract.cost_model import CostModel
from tnlib.contract.plan import Block, Plan, Use
from tnlib.contract.products import Product
from tnlib.contract.search import END, START, cheapest, job
from tnlib.contract.steps import Right


@functools.lru_cache(maxsize=1024)
def plan_tucker(
    row_dims: tuple[int, ...],
    col_dims: tuple[int, ...],
    row_ranks: tuple[int, ...],
    col_ranks: tuple[int, ...],
    rows: int,
    *,
    use: Use = "training",
    chunked: bool = True,
    model: CostModel | None = None,
    max_bytes: int = 128 * 2**20,
    itemsize: int = 4,
) -> Plan:
    """The cheapest plan for a Tucker decomposition: column factors, core, row factors; or the dense matrix.

    The factors of either side are planned as a chain is. Factors of the plan: the core (r_1 .. r_d, s_1 .. s_e), U_1
    (m_1, r_1) .. U_d of the rows, V_1 (n_1, s_1) .. V_e of the columns. Other arguments and errors as `plan_chain`.
    """
    if not row_dims or not col_dims or (len(row_dims), len(col_dims)) != (len(row_ranks), len(col_ranks)):
        got = f"rows {row_dims} with ranks {row_ranks}, columns {col_dims} with ranks {col_ranks}"
        raise ValueError(f"both sides need factors, and each factor one size and one rank, got {got}")
    sizes = (*row_dims, *col_dims, *row_ranks, *col_ranks)
    work = job(rows, use, chunked, model, max_bytes, itemsize, sizes)
    d = len(row_dims)
    columns = [(1, s, n, 1) for s, n in zip(col_ranks, col_dims, strict=True)]
    outputs = [(1, m, r, 1) for m, r in zip(row_dims, row_ranks, strict=True)]
    middle = Right(1, math.prod(col_ranks), math.prod(row_ranks))
    edges = [
        (START, END, _dense(row_dims, col_dims, row_ranks, col_ranks)),
        *chain_edges(columns, [f"V{k + 1}" for k in range(len(col_dims))], START, "columns", 1 + d, turn=True),
        ("columns", "core", Block("core", (middle,), (), partial(_core, modes=d))),
        *chain_edges(outputs, [f"U{k + 1}" for k in range(d)], "core", END, 1),
    ]
    return cheapest(edges, math.prod(col_dims), math.prod(row_dims), work)


def _core(factors: Sequence[Tensor], modes: int) -> list[Tensor]:
    core = factors[0]
    return [core.reshape(math.prod(core.shape[:modes]), math.prod(core.shape[modes:])).t().contiguous()]


def _dense(
    row_dims: Sequence[int], col_dims: Sequence[int], row_ranks: Sequence[int], col_ranks: Sequence[int]
) -> Block:
    size, products = math.prod(row_ranks) * math.prod(col_ranks), []
    for dim, rank in zip((*row_dims, *col_dims), (*row_ranks, *col_ranks), strict=True):
        products.append(Product(1, size // rank, rank, dim, weight_first=False))
        size = size // rank * dim
    name = "".join(f"U{k + 1}" for k in range(len(row_dims))) + "".join(f"V{k + 1}" for k in range(len(col_dims)))
    steps = (Right(1, math.prod(col_dims), math.prod(row_dims)),)
    return Block(f"core{name}", steps, tuple(products), partial(_matrix, outputs=math.prod(row_dims)), dense=True)


def _matrix(factors: Sequence[Tensor], outputs: int) -> list[Tensor]:
    """One mode after the other: the product takes the first mode away and puts the new one behind all others."""
    weight = factors[0]
    for factor in factors[1:]:
        rank = factor.shape[1]
        weight = weight.reshape(rank, weight.numel() // rank).t() @ factor.t()
    return [weight.reshape(outputs, weight.numel() // outputs)]
