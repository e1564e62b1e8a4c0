"""Contraction plans: exact whatever the plan, cheapest by the model, and within the memory that they promise."""

import dataclasses
import itertools
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tnlib import contract, measure

USES = ("training", "forward", "frozen")
DIRECTIONS = ("right to left", "left to right")
MACS_ONLY = contract.CostModel(mac=1.0)
UNLIMITED = 2**50
VGG = tuple((1 if k == 0 else 4, 4, n, 1 if k == 5 else 4) for k, n in enumerate((2, 7, 8, 8, 7, 4)))
SIZES = st.sampled_from((1, 2, 3, 5, 7))
# torch copies a transposed matrix of 60 x 60 or more by way of a buffer of that size, 8 bytes a number.
TRANSPOSE = 60 * 60 * 8


def normal(*shape):
    generator = torch.Generator().manual_seed(sum(shape) + len(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@st.composite
def chains(draw, longest=4):
    d = draw(st.integers(1, longest))
    ranks = [1, *draw(st.lists(SIZES, min_size=d - 1, max_size=d - 1)), 1]
    dims = draw(st.lists(st.tuples(SIZES, SIZES), min_size=d, max_size=d))
    return tuple((left, m, n, right) for left, (m, n), right in zip(ranks, dims, ranks[1:], strict=False))


def chain_matrix(cores):
    """By einsum, core by core: (prod m, prod n)."""
    weight = torch.ones(1, 1, 1, dtype=torch.float64)
    for core in cores:
        weight = torch.einsum("mna,aijb->minjb", weight, core).flatten(2, 3).flatten(0, 1)
    return weight[:, :, 0]


def einsum_matrix(core, factors, outputs):
    """By one einsum: `core` has a mode for each factor, factors are (size, rank)."""
    letters = "abcdefgh"[: len(factors)]
    terms = ",".join([letters, *(letter.upper() + letter for letter in letters)])
    return torch.einsum(f"{terms}->{letters.upper()}", core, *factors).reshape(outputs, -1)


@st.composite
def problems(draw):
    """A planner, its shapes, factors, and the dense matrix by einsum."""
    kind = draw(st.sampled_from(("chain", "cp", "tucker")))
    if kind == "chain":
        shapes = draw(chains())
        cores = [normal(*shape) for shape in shapes]
        return contract.plan_chain, (shapes,), cores, chain_matrix(cores)
    sides = st.lists(SIZES, min_size=1, max_size=3).map(tuple)
    row_dims, col_dims = draw(sides), draw(sides)
    dims = row_dims + col_dims
    if kind == "cp":
        rank = draw(SIZES)
        factors = [normal(size, rank) for size in dims]
        core = torch.zeros((rank,) * len(dims), dtype=torch.float64)
        core[(torch.arange(rank),) * len(dims)] = 1.0
        dense = einsum_matrix(core, factors, math.prod(row_dims))
        return contract.plan_cp, (row_dims, col_dims, rank), factors, dense
    ranks = tuple(draw(st.integers(1, 3)) for _ in dims)
    core, factors = normal(*ranks), [normal(*shape) for shape in zip(dims, ranks, strict=True)]
    dense, d = einsum_matrix(core, factors, math.prod(row_dims)), len(row_dims)
    return contract.plan_tucker, (row_dims, col_dims, ranks[:d], ranks[d:]), [core, *factors], dense


@st.composite
def plans(draw):
    """A plan under some ceiling, its factors, the dense matrix."""
    planner, arguments, factors, dense = draw(problems())
    options = {
        "use": draw(st.sampled_from(USES)),
        "chunked": draw(st.booleans()),
        "model": draw(st.sampled_from((None, MACS_ONLY))),
        "itemsize": 8,
    }
    rows, tight = draw(st.sampled_from((1, 3, 20, 130))), draw(st.booleans())
    plan = planner(*arguments, rows, **options)
    if tight:
        plan = planner(*arguments, rows, **options, max_bytes=least_bytes(planner, *arguments, rows, **options))
    return plan, factors, dense


def least_bytes(planner, *arguments, **options):
    """What the error names when nothing is allowed; 0 where nothing is needed."""
    try:
        return planner(*arguments, **options, max_bytes=0).bytes
    except ValueError as error:
        return int(str(error).split("least possible is ")[1].split(":")[0].replace(",", ""))


def every_blocking(length):
    for cuts in itertools.product([False, True], repeat=length - 1):
        ends = [0, *(k + 1 for k, cut in enumerate(cuts) if cut), length]
        yield tuple(itertools.pairwise(ends))


def product_of(shapes, start, stop, direction, rows):
    """The product by which merged cores are applied when those before them in the contraction have been."""
    outer = [(s[1], s[2]) if direction == "right to left" else (s[2], s[1]) for s in shapes]
    m, n = math.prod(s[1] for s in shapes[start:stop]), math.prod(s[2] for s in shapes[start:stop])
    left, right = shapes[start][0], shapes[stop - 1][3]
    if direction == "right to left":
        before, after = math.prod(b for _, b in outer[:start]), math.prod(a for a, _ in outer[stop:])
        height, inner = left * m, n * right
    else:
        before, after = math.prod(b for _, b in outer[:start]), math.prod(a for a, _ in outer[stop:])
        height, inner = m * right, left * n
    if after == 1:
        return contract.Product(1, rows * before, inner, height, weight_first=False)
    return contract.Product(rows * before, height, inner, after, weight_first=True)


def merging_products(shapes):
    for end in range(1, len(shapes)):
        m, n = math.prod(s[1] for s in shapes[:end]), math.prod(s[2] for s in shapes[:end])
        _, next_m, next_n, next_right = shapes[end]
        yield contract.Product(1, m * n * shapes[0][0], shapes[end][0], next_m * next_n * next_right, False)


@settings(max_examples=80)
@given(plans(), st.sampled_from((0, 1, 2, 19, 131)), st.booleans())
def test_every_plan_computes_the_product_with_the_dense_matrix(made, rows, bias):
    plan, factors, dense = made
    x, added = normal(rows, dense.shape[1]), normal(dense.shape[0]) if bias else None
    wanted = x @ dense.T if added is None else x @ dense.T + added
    merged = plan.merge(factors)
    assert all(tensor.is_contiguous() for tensor in merged)
    assert plan.stored == sum(tensor.numel() for tensor in merged)
    got = plan.run(merged, x, added)
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)
    strided = normal(dense.shape[1], rows).t()
    torch.testing.assert_close(plan.run(merged, strided), strided @ dense.T, rtol=1e-9, atol=1e-9)


@settings(max_examples=60)
@given(chains(), st.integers(1, 100), st.sampled_from(USES), st.booleans())
def test_a_chains_plan_is_the_cheapest_of_all(shapes, rows, use, chunked):
    model = contract.CostModel.default()
    outer = math.prod(s[1] for s in shapes) + math.prod(s[2] for s in shapes)

    def cost(blocks, direction, chunk, recompute):
        ends = blocks[::-1] if direction == "right to left" else blocks
        products = [product_of(shapes, *pair, direction, chunk) for pair in ends]
        pieces = rows / chunk
        kept = sum(p.result for p in products[:-1])
        if use == "training" and not recompute and (pieces > 1 or kept > rows * outer):
            return math.inf
        total = pieces * sum(map(model.product, products)) * (3 + recompute if use == "training" else 1)
        if use == "training":
            total += pieces * sum(model.moved(2 * p.count * p.rows * p.inner) for p in products if p.weight_first)
        if use != "frozen":
            merging = [p for pair in blocks for p in merging_products(shapes[slice(*pair)])]
            time = sum(model.product(p) + 2 * model.call + model.moved(2 * p.result) for p in merging)
            total += time * (3 if use == "training" else 1)
        return total + pieces * model.call * (2 * (pieces > 1) + 20 * recompute)

    chunks = [rows, *(2**k for k in range(7) if 2**k < rows)] if chunked else [rows]
    ways = itertools.product(every_blocking(len(shapes)), DIRECTIONS, chunks, {False, use == "training"})
    plan = contract.plan_chain(shapes, rows, use=use, chunked=chunked, max_bytes=UNLIMITED)
    assert plan.nanoseconds == pytest.approx(min(cost(*way) for way in ways))


def cheapest_tree(terms, out, sizes):
    """MACs of the cheapest of all orders in which tensors, given as sets of indices, can be contracted in pairs."""
    if len(terms) == 1:
        return 0
    best = math.inf
    for i, j in itertools.combinations(range(len(terms)), 2):
        rest = [term for k, term in enumerate(terms) if k not in (i, j)]
        both = terms[i] | terms[j]
        result = both & out.union(*rest)
        best = min(best, math.prod(sizes[k] for k in both) + cheapest_tree([*rest, result], out, sizes))
    return best


@settings(max_examples=60)
@given(chains(3), st.sampled_from((1, 3, 20)))
def test_no_order_of_contraction_beats_a_plan_for_two_cores(shapes, rows):
    # For more, an order may contract from both ends at once, which a plan does not.
    sizes, terms = {"rows": rows}, [{"rows", *(("n", k) for k in range(len(shapes)))}]
    for k, shape in enumerate(shapes):
        indices = (("r", k), ("m", k), ("n", k), ("r", k + 1))
        sizes |= dict(zip(indices, shape, strict=True))
        terms.append(set(indices))
    out = {"rows", ("r", 0), ("r", len(shapes)), *(("m", k) for k in range(len(shapes)))}
    best = cheapest_tree(terms, out, sizes)
    plan = contract.plan_chain(shapes, rows, use="forward", chunked=False, model=MACS_ONLY, max_bytes=UNLIMITED)
    macs = plan.macs * rows + plan.merging
    assert macs >= best
    assert macs == best or len(shapes) > 2
    assert plan.nanoseconds == macs


@pytest.mark.parametrize("rows", [1, 100])
def test_opt_einsum_finds_no_better_order_for_vggs_layer(rows):
    opt_einsum = pytest.importorskip("opt_einsum")
    inputs, cores = "Zbdfhjl", ("AabB", "BcdC", "CefD", "DghE", "EijF", "FklG")
    shapes = [(rows, *(shape[2] for shape in VGG)), *VGG]
    expression = f"{inputs},{','.join(cores)}->ZacegikAG"
    path, _ = opt_einsum.contract_path(expression, *shapes, shapes=True, optimize="optimal")
    sizes, terms, best = {}, [set(inputs), *map(set, cores)], 0
    for term, shape in zip((inputs, *cores), shapes, strict=True):
        sizes |= dict(zip(term, shape, strict=True))
    for pair in path:
        both = set().union(*(terms.pop(k) for k in sorted(pair, reverse=True)))
        best += math.prod(sizes[index] for index in both)
        terms.append(both & set("ZacegikAG").union(*terms))
    plan = contract.plan_chain(VGG, rows, use="forward", chunked=False, model=MACS_ONLY, max_bytes=UNLIMITED)
    assert plan.macs * rows + plan.merging == best


def test_the_plan_for_vggs_layer_is_counted_by_hand():
    plan = contract.plan_chain(VGG, 1, use="frozen")
    # The last two cores, the fourth, the third, the first two: rows x inner x cols each.
    assert plan.macs == 896 * 28 * 64 + 112 * 16 * 32 * 16 + 14 * 16 * 32 * 64 + 16 * 56 * 256
    assert plan.merging == (4 * 2) * 4 * (4 * 7 * 4) + (4 * 4 * 7) * 4 * (4 * 4)
    assert plan.stored == 16 * 14 * 4 + 2 * (4 * 4 * 8 * 4) + 4 * 16 * 28
    assert str(plan).splitlines()[:2] == [
        "G1G2 | G3 | G4 | G5G6, right to left, in one piece",
        "  (896 x 28) (28 x 64): 1,605,632 MACs a row",
    ]
    assert not plan.dense
    # Source and result of the third product are the largest two: 14 x 8 x 4 x 4 x 16 and 14 x 4 x 4 x 64 numbers.
    sizes = [896 * 64, 112 * 16 * 16, 14 * 16 * 64]
    assert plan.bytes == 4 * max(sizes[0], sizes[0] + sizes[1], sizes[1] + sizes[2])


def test_cp_and_tucker_are_counted_by_hand():
    plan = contract.plan_cp((3, 4), (5, 7), 2, 1, use="frozen", model=MACS_ONLY)
    # One cut on each side: the tail by a product, the head entry by entry; no cut costs as much without the head.
    assert plan.macs == 35 * 2 + 2 * 12
    assert plan.merging == 35 * 2 + 12 * 2
    plan = contract.plan_tucker((3, 4), (5, 7), (2, 2), (2, 2), 1, use="frozen", model=MACS_ONLY)
    assert plan.macs == 5 * 7 * 2 + 5 * 2 * 2 + 4 * 4 + min(2 * 2 * 3 + 2 * 3 * 4, 2 * 2 * 4 + 2 * 4 * 3)
    assert plan.merging == 0
    assert str(plan).startswith("V1 | V2, right to left; core; U1 | U2, ")


def test_the_dense_matrix_is_a_plan_and_says_so():
    plan = contract.plan_chain(((1, 4, 4, 16), (16, 4, 4, 1)), 1000, use="frozen")
    assert plan.dense
    assert (plan.macs, plan.stored, plan.bytes) == (256, 256, 0)
    assert "the dense matrix is cheaper here" in str(plan)
    assert contract.plan_cp((4, 4), (4, 4), 64, 1000, use="frozen").dense
    assert contract.plan_tucker((4, 4), (4, 4), (4, 4), (4, 4), 1000, use="frozen").dense


@settings(max_examples=15)
@given(plans())
def test_a_run_keeps_to_the_bytes_of_its_plan(made):
    plan, factors, dense = made
    learns = plan.use == "training"
    x, bias = normal(plan.rows, dense.shape[1]), normal(dense.shape[0])
    tensors = [tensor.requires_grad_(learns) for tensor in (*factors, x, bias)]
    gradient = normal(plan.rows, dense.shape[0])
    with torch.set_grad_enabled(learns):
        ready = plan.merge(factors) if plan.use == "frozen" else None

    def call(x):
        with torch.set_grad_enabled(learns):
            y = plan.run(plan.merge(factors) if ready is None else ready, x, bias)
            if learns:
                y.backward(gradient)
        for tensor in tensors:
            tensor.grad = None
        return y

    call(x)
    outside = gradient.numel() + learns * sum(tensor.numel() for tensor in tensors)
    assert measure.peak_memory(call, x) <= 8 * (outside + 1) + plan.bytes + TRANSPOSE


@pytest.mark.parametrize(
    ("planner", "arguments"),
    [
        (contract.plan_chain, (VGG, 100)),
        (contract.plan_cp, ((4,) * 6, (2, 7, 8, 8, 7, 4), 64, 100)),
        (contract.plan_tucker, ((16, 16, 16), (28, 28, 32), (8, 8, 8), (8, 8, 8), 100)),
    ],
)
@pytest.mark.parametrize("use", USES)
def test_the_ceiling_is_kept_or_the_least_is_named(planner, arguments, use):
    assert planner(*arguments, use=use).bytes <= 128 * 2**20
    free = planner(*arguments, use=use, max_bytes=UNLIMITED)
    assert planner(*arguments, use=use, max_bytes=free.bytes) == free
    least = least_bytes(planner, *arguments, use=use)
    tight = planner(*arguments, use=use, max_bytes=least)
    assert tight.bytes == least
    assert tight.nanoseconds >= free.nanoseconds
    assert planner(*arguments, use=use, chunked=False, max_bytes=least).bytes == least
    if use == "frozen":  # the dense matrix needs no temporaries
        assert least == 0
        return
    with pytest.raises(ValueError, match=f"keeps to {least - 1:,} bytes .* least possible is {least:,}: raise max"):
        planner(*arguments, use=use, max_bytes=least - 1)


def test_without_chunks_the_batch_is_cut_only_for_memory():
    whole = contract.plan_chain(VGG, 100, use="forward", chunked=False, max_bytes=UNLIMITED)
    assert whole.chunk == 100
    cut = contract.plan_chain(VGG, 100, use="forward", chunked=False, max_bytes=2**20)
    assert cut.chunk < 100
    assert cut.bytes <= 2**20
    half = contract.plan_chain(VGG, 100, use="forward", chunked=False, max_bytes=UNLIMITED, itemsize=2)
    assert half.bytes == whole.bytes // 2


def test_plans_are_cached_by_shapes_compared_and_pickled():
    plan = contract.plan_chain(VGG, 10)
    assert contract.plan_chain(VGG, 10) is plan
    assert contract.plan_cp((2, 3), (3, 2), 2, 5) is contract.plan_cp((2, 3), (3, 2), 2, 5)
    assert contract.plan_chain(VGG, 0) == contract.plan_chain(VGG, 1)
    again = pickle.loads(pickle.dumps(plan))
    assert again == plan
    cores = [normal(*shape) for shape in VGG]
    x = normal(2, 25088)
    torch.testing.assert_close(again.run(again.merge(cores), x), plan.run(plan.merge(cores), x))
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.chunk = 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: contract.plan_chain(((1, 2, 2, 3), (2, 2, 2, 1)), 1), "neighbouring ranks must be equal"),
        (lambda: contract.plan_chain(((1, 2, 2, 3),), 1), "neighbouring ranks must be equal"),
        (lambda: contract.plan_chain((), 1), "neighbouring ranks must be equal"),
        (lambda: contract.plan_chain(((1, 2, 1),), 1), "neighbouring ranks must be equal"),
        (lambda: contract.plan_chain(((1, 0, 2, 1),), 1), "sizes and ranks must be positive, got 0"),
        (lambda: contract.plan_chain(((1, 2, 2, 1),), -1), "needs a number of rows, got -1"),
        (lambda: contract.plan_chain(((1, 2, 2, 1),), 1, use="inference"), "'training', 'forward', 'frozen', got"),
        (lambda: contract.plan_chain(((1, 2, 2, 1),), 1, max_bytes=-1), "max_bytes cannot be negative, got -1"),
        (lambda: contract.plan_chain(((1, 2, 2, 1),), 1, itemsize=0), "itemsize must be positive, got 0"),
        (lambda: contract.plan_cp((), (2,), 1, 1), "both sides need a factor"),
        (lambda: contract.plan_cp((2,), (2,), 0, 1), "sizes and ranks must be positive, got 0"),
        (lambda: contract.plan_tucker((2,), (2, 2), (1,), (1,), 1), "each factor one size and one rank"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
