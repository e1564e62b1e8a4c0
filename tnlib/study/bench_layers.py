"""Tensor layers against the clock: `tnlib bench layers` and `tnlib bench convolutions`.

The TT layer of Novikov et al. 2015, table 3 (25088 -> 4096, rank 4) is timed against the dense layer, against a plain
sweep over the cores and, where they are installed (`pip install tensorly-torch torchTT opt_einsum`), against other
libraries' layers with the same cores. All results are compared with the dense layer before anything is timed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tnlib.layers import ChainPlan, TTLinear, factorize
from tnlib.measure import Comparison, compare, peak_memory
from tnlib.study.bench_convolutions import BLOCK, alexnet_conv2, tucker2_at_half_ranks
from tnlib.study.bench_products import step
from tnlib.study.store import record

VGG = {"row_dims": (4, 4, 4, 4, 4, 4), "col_dims": (2, 7, 8, 8, 7, 4)}


def layers(size: int | None = None, folder: Path | None = None) -> Path:
    """Time TT layers; `size` is the number of random shapes in the grid (default 20)."""
    started, shapes = time.perf_counter(), size or 20
    metrics: dict[str, Any] = {"vgg_fc6": {f"batch {batch}": vgg_inference(batch) for batch in (1, 100)}}
    metrics["vgg_fc6"]["training step, batch 100"] = vgg_training(100)
    metrics["grid"] = grid(shapes)
    return _record("layers", metrics, {"shapes": shapes, "rank": 4}, started, folder)


def convolutions(size: int | None = None, folder: Path | None = None) -> Path:
    """Time factorized convolutions; `size` is the batch of the Tucker-2 layers (default 16)."""
    started, batch = time.perf_counter(), size or 16
    metrics = {"alexnet_conv2": alexnet_conv2(), "tucker2_at_half_ranks": tucker2_at_half_ranks(batch=batch)}
    return _record("convolutions", metrics, {"batch": batch}, started, folder)


def vgg_inference(batch: int) -> dict[str, Any]:
    """Milliseconds and speed-ups over the dense layer, in inference, with the plan and opt_einsum's count."""
    tt, dense = _vgg_layers()
    x = torch.randn(batch, dense.in_features, generator=torch.Generator().manual_seed(1))
    rivals: dict[str, Callable[[Tensor], Tensor]] = {"dense": dense, "tnlib": tt, "plain sweep": _plain(tt)}
    rivals |= peers(tt)
    result = _told(f"VGG fc6, batch {batch}", _agreeing(rivals, x))
    plan = tt.plan(batch)
    result |= {"plan": str(plan), "macs": plan.macs, "predicted_ms": plan.nanoseconds / 1e6}
    result["products_alone"] = alone = products_alone(plan)
    bound = result["milliseconds"]["dense"]["median"] / alone["milliseconds"]
    print(f"its products alone, operands in cache: {alone['milliseconds']:.3g} ms, {bound:.0f} times as fast as dense")
    if (path := einsum_macs(tt, batch)) is not None:
        result["opt_einsum_macs"] = path
    return result


def products_alone(plan: ChainPlan) -> dict[str, Any]:
    """What limits a plan: its products one by one, operands in cache, scaled from a chunk to the whole batch."""
    steps = {str(product): step(product) for product in plan.products}
    timings = compare(steps, rounds=21, seconds=2.0, block=BLOCK).timings
    scale = plan.batch / plan.chunk
    rates = {str(p): p.macs / timings[str(p)].median / 1e6 for p in plan.products}
    return {"milliseconds": scale * sum(t.median for t in timings.values()), "gmacs_per_second": rates}


def vgg_training(batch: int) -> dict[str, Any]:
    """The same for forward and backward, gradients for the input included, and the peak of extra memory."""
    tt, dense = _vgg_layers()
    x = torch.randn(batch, dense.in_features, generator=torch.Generator().manual_seed(1)).requires_grad_()

    def learn(layer: nn.Module) -> Callable[[Tensor], None]:
        def run(x: Tensor) -> None:
            with torch.enable_grad():
                layer.zero_grad()
                x.grad = None
                layer(x).square().sum().backward()

        return run

    rivals = {"dense": learn(dense), "tnlib": learn(tt)}
    rivals |= {name: learn(layer) for name, layer in peers(tt).items() if isinstance(layer, nn.Module)}
    comparison = compare(rivals, x, rounds=7, seconds=8.0, block=200.0)
    result = _told(f"VGG fc6, training step, batch {batch}", comparison)
    peak, size = peak_memory(rivals["tnlib"], x), x.numel() * x.element_size()
    print(f"peak of extra memory: {peak / size:.2f} times the input")
    return result | {"peak_bytes": peak, "input_bytes": size, "plan": str(tt.plan(batch, training=True))}


def grid(shapes: int) -> dict[str, Any]:
    """Random shapes, ranks and batches: the planned layer against the better of dense and plain sweep."""
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for number in range(shapes):
        d, batch = int(rng.integers(2, 7)), int(rng.choice([1, 10, 100]))
        limit = {2: 64, 3: 16, 4: 8, 5: 6, 6: 4}[d]
        row_dims, col_dims = (tuple(int(v) for v in rng.integers(2, limit + 1, d)) for _ in range(2))
        rank = int(2 ** rng.integers(0, 6))
        dense = nn.Linear(math.prod(col_dims), math.prod(row_dims))
        tt = factorize(dense, "tt", rank, weights="fresh", row_dims=row_dims, col_dims=col_dims, seed=number)
        assert isinstance(tt, TTLinear)
        with torch.no_grad():
            dense.weight.copy_(tt.dense_weight())
            tt.bias.copy_(dense.bias)  # type: ignore[union-attr]
        x = torch.randn(batch, dense.in_features, generator=torch.Generator().manual_seed(number))
        comparison = _agreeing({"tnlib": tt, "dense": dense, "plain sweep": _plain(tt)}, x, seconds=1.0)
        # Speed-ups are "tnlib / rival", round by round: above 1 the rival is the faster one.
        worst = max(comparison.speedup[name][0] for name in ("dense", "plain sweep"))
        plan, ms = tt.plan(batch), comparison.timings["tnlib"].median
        row: dict[str, Any] = {"row_dims": row_dims, "col_dims": col_dims, "rank": tt.rank, "batch": batch}
        row["slower"] = worst
        row |= {name: timing.median for name, timing in comparison.timings.items()}
        rows.append(row | {"dense_plan": plan.dense, "predicted_ms": plan.nanoseconds / 1e6})
        print(f"[{number + 1}/{shapes}] {row_dims} x {col_dims}, rank {rank}, batch {batch}: {ms:.3g} ms, {worst:.2f}")
    errors = [abs(math.log(row["predicted_ms"] / row["tnlib"])) for row in rows]
    slower = [row["slower"] for row in rows]
    print(f"against the better of dense and plain sweep: at worst {max(slower):.2f} times its time")
    return {"rows": rows, "worst": max(slower), "median_model_error": math.exp(float(np.median(errors))) - 1}


def peers(tt: TTLinear) -> dict[str, Callable[[Tensor], Tensor]]:
    """The layers of other libraries that are installed, on the same cores."""
    found: dict[str, Callable[[Tensor], Tensor]] = {}
    try:
        import tltorch
    except ImportError:
        print("tensorly-torch is not installed: left out")
    else:
        theirs = tltorch.FactorizedLinear(
            tt.col_dims, tt.row_dims, factorization="blocktt", rank=4, implementation="factorized"
        )
        _copy(tt, theirs, [p for p in theirs.parameters() if p.ndim == 4])
        with torch.no_grad():
            theirs.bias.copy_(tt.bias)
        found["tensorly-torch"] = theirs
    try:
        import torchtt
    except ImportError:
        print("torchTT is not installed: left out")
    else:
        other = torchtt.nn.LinearLayerTT(list(tt.col_dims), list(tt.row_dims), [1, *tt.rank, 1])
        cores = [p for p in other.parameters() if tuple(p.shape) != tt.row_dims]
        _copy(tt, other, cores)
        with torch.no_grad():
            next(p for p in other.parameters() if tuple(p.shape) == tt.row_dims).copy_(tt.bias.view(tt.row_dims))  # type: ignore[union-attr]
        found["torchTT"] = _Reshaped(other, tt.col_dims)
    return found


class _Reshaped(nn.Module):
    """torchTT wants the input's digits as modes."""

    def __init__(self, layer: nn.Module, dims: tuple[int, ...]) -> None:
        super().__init__()
        self.layer, self.dims = layer, dims

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layer(x.reshape(-1, *self.dims)).reshape(x.shape[0], -1)
        return result


def einsum_macs(tt: TTLinear, batch: int) -> int | None:
    """Multiply-accumulates of a row by the best path that opt_einsum finds; None where it is not installed."""
    try:
        import opt_einsum
    except ImportError:
        return None
    d, symbol = len(tt.row_dims), opt_einsum.get_symbol
    rows, cols, bonds = ([symbol(1 + k * (d + 1) + i) for i in range(d + 1)] for k in range(3))
    cores = [f"{bonds[k]}{rows[k]}{cols[k]}{bonds[k + 1]}" for k in range(d)]
    equation = f"{symbol(0)}{''.join(cols[:d])},{','.join(cores)}->{symbol(0)}{''.join(rows[:d])}"
    shapes = [(batch, *tt.col_dims), *(tuple(core.shape) for core in tt.cores)]
    _, info = opt_einsum.contract_path(equation, *shapes, shapes=True, optimize="optimal")
    return int(info.opt_cost / 2 / batch)


def _vgg_layers() -> tuple[TTLinear, nn.Linear]:
    dense = nn.Linear(25088, 4096)
    tt = factorize(dense, "tt", 4, weights="fresh", **VGG)
    assert isinstance(tt, TTLinear)
    with torch.no_grad():
        dense.weight.copy_(tt.dense_weight())
        tt.bias.copy_(dense.bias)  # type: ignore[union-attr]
    return tt, dense


def _plain(tt: TTLinear) -> Callable[[Tensor], Tensor]:
    """Core by core from the last one to the first, nothing merged, the whole batch at once."""
    cores = list(tt.cores)

    def sweep(x: Tensor) -> Tensor:
        y = x.reshape(-1, 1)
        for core in reversed(cores):
            left, m, n, right = core.shape
            y = core.reshape(left * m, n * right) @ y.reshape(-1, n * right, y.shape[1])
            y = y.reshape(-1, m * y.shape[2])
        y = y.reshape(x.shape[0], -1)
        return y if tt.bias is None else y + tt.bias

    return sweep


def _copy(tt: TTLinear, layer: nn.Module, theirs: list[nn.Parameter]) -> None:
    with torch.no_grad():
        for core, parameter in zip(tt.cores, theirs, strict=True):
            parameter.copy_(core)


def _agreeing(rivals: dict[str, Callable[[Tensor], Tensor]], x: Tensor, seconds: float = 4.0) -> Comparison:
    """Compare them, once it is clear that all compute the same."""
    with torch.no_grad():
        wanted = next(iter(rivals.values()))(x)
        for name, f in rivals.items():
            error = float((f(x) - wanted).norm() / wanted.norm())
            if error > 1e-4:
                raise AssertionError(f"{name} differs from the others by {error:.1e}")
    return compare(rivals, x, rounds=21, seconds=seconds, block=BLOCK)


def _told(title: str, comparison: Comparison) -> dict[str, Any]:
    print(f"{title}\n{comparison}", flush=True)
    times = {name: asdict(timing) for name, timing in comparison.timings.items()}
    return {"milliseconds": times, "speedup_over_dense": comparison.speedup}


def _record(
    name: str, metrics: dict[str, Any], parameters: dict[str, Any], started: float, folder: Path | None
) -> Path:
    parameters = parameters | {"threads": torch.get_num_threads(), "block_ms": BLOCK}
    seconds = time.perf_counter() - started
    return record(name, metrics, parameters=parameters, source=f"tnlib bench {name}", seconds=seconds, folder=folder)
