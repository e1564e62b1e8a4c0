"""The chain of coupled third-order decompositions, timed and checked against its rivals: `tnlib bench coupled`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorly as tl
import torch
from torch import Tensor

from tnlib import decompose
from tnlib.study.store import record

SOURCE = "tnlib bench coupled"


def random_cp(
    shape: Sequence[int], rank: int, *, collinearity: float = 0.0, seed: int = 0
) -> tuple[Tensor, list[Tensor]]:
    """A tensor of CP rank R and its factors (N_q, R), entries normal of variance 1, float64.

    Any two columns of a factor have correlation `collinearity`: each is sqrt(c) times a common column plus sqrt(1-c)
    times one of its own.
    """
    generator = torch.Generator().manual_seed(seed)
    factors = []
    for size in shape:
        own = torch.randn(size, rank, generator=generator, dtype=torch.float64)
        common = torch.randn(size, 1, generator=generator, dtype=torch.float64)
        factors.append(math.sqrt(1 - collinearity) * own + math.sqrt(collinearity) * common)
    return tl.cp_to_tensor((None, factors)), factors


def random_tucker(shape: Sequence[int], ranks: Sequence[int], *, seed: int = 0) -> Tensor:
    """A tensor of these Tucker ranks: core entries normal of variance 1, orthonormal factors, float64."""
    generator = torch.Generator().manual_seed(seed)
    core = torch.randn(*ranks, generator=generator, dtype=torch.float64)
    factors = [
        torch.linalg.qr(torch.randn(n, t, generator=generator, dtype=torch.float64)).Q
        for n, t in zip(shape, ranks, strict=True)
    ]
    result: Tensor = tl.tucker_to_tensor((core, factors))
    return result


def with_noise(tensor: Tensor, snr_db: float, *, seed: int = 0) -> Tensor:
    """The tensor plus white Gaussian noise N, with 10 log10(||X||^2 / E ||N||^2) = `snr_db`."""
    noise = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(seed), dtype=tensor.dtype)
    return tensor + float(tensor.norm()) / math.sqrt(tensor.numel()) * 10 ** (-snr_db / 20) * noise


def nmse(estimate: Tensor, tensor: Tensor) -> float:
    """||X_hat - X||^2 / ||X||^2."""
    return float((estimate - tensor).square().sum() / tensor.square().sum())


Method = Callable[[Tensor, int], Any]


def compare(methods: dict[str, Method], draws: Sequence[tuple[Tensor, Tensor]]) -> dict[str, dict[str, list[float]]]:
    """NMSE and seconds of each method on (tensor, noisy tensor) pairs, interleaved, in an order that rotates."""
    rows: dict[str, dict[str, list[float]]] = {name: {"nmse": [], "seconds": []} for name in methods}
    names = list(methods)
    for number, (tensor, noisy) in enumerate(draws):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            begin = time.perf_counter()
            found = methods[name](noisy, number)
            rows[name]["seconds"].append(time.perf_counter() - begin)
            rows[name]["nmse"].append(nmse(found.to_tensor(), tensor))
    return rows


class Draws(Sequence[tuple[Tensor, Tensor]]):
    """Pairs of a tensor and the same with noise, made when asked for: draw n has the seeds n and 10^6 + n."""

    def __init__(self, draw: Callable[[int], Tensor], snr_db: float, count: int) -> None:
        self.draw, self.snr_db, self.size = draw, snr_db, count

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, number: Any) -> Any:
        if not 0 <= number < self.size:
            raise IndexError(number)
        tensor = self.draw(number)
        return tensor, with_noise(tensor, self.snr_db, seed=10**6 + number)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, 10 % and 90 % quantile, largest."""
    low, middle, high = np.quantile(values, (0.1, 0.5, 0.9))
    return {"median": float(middle), "low": float(low), "high": float(high), "max": float(max(values))}


def _ratios(rows: dict[str, dict[str, list[float]]], what: str, of: str, to: str) -> dict[str, float]:
    return spread([a / b for a, b in zip(rows[of][what], rows[to][what], strict=True)])


def against_parafac(count: int) -> dict[str, Any]:
    """Order 8, size 5, rank 3, 20 dB: the chain, TensorLy's parafac and our ALS from one random start each.

    `parafac_svd` is parafac from its default start.
    """
    shape, rank, snr_db = (5,) * 8, 3, 20.0
    methods: dict[str, Method] = {
        "coupled": lambda x, _: decompose.coupled_cp(x, rank),
        "parafac": lambda x, n: tl.decomposition.parafac(x, rank, n_iter_max=500, init="random", random_state=n),
        "parafac_svd": lambda x, n: tl.decomposition.parafac(x, rank, n_iter_max=500, init="svd", random_state=n),
        "als": lambda x, n: decompose.cp(x, rank, seed=n),
    }
    compare(methods, Draws(lambda n: random_cp(shape, rank, seed=10**7 + n)[0], snr_db, 1))  # first calls
    rows = compare(methods, Draws(lambda n: random_cp(shape, rank, seed=n)[0], snr_db, count))
    result: dict[str, Any] = {
        name: {"nmse": spread(row["nmse"]), "seconds": spread(row["seconds"])} for name, row in rows.items()
    }
    for name in methods:
        result[name]["draws_above_1e-3"] = sum(value > 1e-3 for value in rows[name]["nmse"])
    result["bound"] = decompose.cp_bound(shape, rank, snr_db)
    result["parafac_to_coupled_seconds"] = _ratios(rows, "seconds", "parafac", "coupled")
    result["parafac_svd_to_coupled_seconds"] = _ratios(rows, "seconds", "parafac_svd", "coupled")
    result["als_to_coupled_seconds"] = _ratios(rows, "seconds", "als", "coupled")
    return result


def noiseless_order_12() -> dict[str, float]:
    """Order 12, size 4, rank 3, no noise: relative error and seconds of the second call."""
    tensor, _ = random_cp((4,) * 12, 3, seed=0)
    for _ in range(2):
        begin = time.perf_counter()
        found = decompose.coupled_cp(tensor, 3)
        seconds = time.perf_counter() - begin
    return {"relative_error": math.sqrt(nmse(found.to_tensor(), tensor)), "seconds": seconds}


def against_bound(count: int, *, size: int = 5, rank: int = 3) -> list[dict[str, Any]]:
    """NMSE of the chain alone and polished, above the Cramer-Rao bound: orders 4, 6, 8, SNR 10 to 40 dB."""
    methods: dict[str, Method] = {
        "chain": lambda x, _: decompose.coupled_cp(x, rank),
        "polished": lambda x, _: decompose.coupled_cp(x, rank, polish="nls"),
    }
    points = []
    for order in (4, 6, 8):
        shape = (size,) * order
        for snr_db in (10.0, 20.0, 30.0, 40.0):
            bound = decompose.cp_bound(shape, rank, snr_db)
            draws = Draws(lambda n, shape=shape: random_cp(shape, rank, seed=n)[0], snr_db, count)  # type: ignore[misc]
            rows = compare(methods, draws)
            point: dict[str, Any] = {"order": order, "snr_db": snr_db, "bound": bound}
            for name, row in rows.items():
                point[name] = {"nmse": spread(row["nmse"]), "seconds": spread(row["seconds"])}
                point[name]["excess_db"] = 10 * math.log10(point[name]["nmse"]["median"] / bound)
                point[name]["draws_10_times_above"] = sum(value > 10 * bound for value in row["nmse"])
            points.append(point)
            excess = ", ".join(f"{name} {point[name]['excess_db']:+.2f} dB" for name in rows)
            print(f"order {order}, {snr_db:.0f} dB: median over the bound: {excess}", flush=True)
    return points


def tucker_against_hosvd(count: int, *, size: int = 5, rank: int = 2) -> list[dict[str, Any]]:
    """NMSE and seconds of the Tucker chain beside HOSVD: orders 6, 7, 8, SNR 20 and 0 dB."""
    methods: dict[str, Method] = {
        "chain": lambda x, _: decompose.coupled_tucker(x, rank),
        "svd_train": lambda x, _: decompose.coupled_tucker(x, rank, train="svd"),
        "hosvd": lambda x, _: decompose.tucker(x, rank, method="hosvd"),
    }
    points = []
    for order in (6, 7, 8):
        for snr_db in (20.0, 0.0):

            def draw(number: int, order: int = order) -> Tensor:
                return random_tucker((size,) * order, (rank,) * order, seed=number)

            rows = compare(methods, Draws(draw, snr_db, count))
            point: dict[str, Any] = {"order": order, "snr_db": snr_db}
            for name, row in rows.items():
                point[name] = {"nmse": spread(row["nmse"]), "seconds": spread(row["seconds"])}
            for name in ("chain", "svd_train"):
                point[f"{name}_to_hosvd_nmse"] = _ratios(rows, "nmse", name, "hosvd")
            point["hosvd_to_chain_seconds"] = _ratios(rows, "seconds", "hosvd", "chain")
            points.append(point)
            print(
                f"Tucker, order {order}, {snr_db:.0f} dB: "
                f"NMSE {point['chain_to_hosvd_nmse']['median']:.3f} of HOSVD's, "
                f"{point['hosvd_to_chain_seconds']['median']:.1f} times as fast",
                flush=True,
            )
    return points


def coupled(size: int | None = None, folder: Path | None = None) -> Path:
    """Measure the chain methods, `size` draws a point (100), and write the record `coupled`.

    Returns the record's path. CP factors are drawn with normal entries; methods that are compared run on the same
    draws, one after the other in one process.
    """
    count, started = size or 100, time.perf_counter()
    first = against_parafac(count)
    ratio = first["parafac_to_coupled_seconds"]
    print(
        f"order 8, 20 dB: chain NMSE {first['coupled']['nmse']['median']:.2e}, "
        f"worst {first['coupled']['nmse']['max']:.1e}, "
        f"parafac {first['parafac']['nmse']['median']:.1e}; time ratio {ratio['median']:.1f} "
        f"({ratio['low']:.1f} to {ratio['high']:.1f})",
        flush=True,
    )
    large = noiseless_order_12()
    print(f"order 12: relative error {large['relative_error']:.1e} in {large['seconds']:.2f} s", flush=True)
    metrics = {
        "order_8": first,
        "order_12": large,
        "bound": against_bound(count),
        "tucker": tucker_against_hosvd(count),
    }
    return record(
        "coupled",
        metrics,
        parameters={"draws": count, "size": 5, "rank": 3, "tucker_rank": 2},
        source=SOURCE,
        seed=0,
        seconds=time.perf_counter() - started,
        folder=folder,
    )
