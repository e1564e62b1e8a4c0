"""The benchmark notebooks, run by papermill in their quick profile: what they record. No assertion on a time."""

import json
import math

import pytest

from tnlib import paths, study

RERUNS = [
    ("bench_layers", {"batches": [3], "shapes": 2, "seed": 1}),
    ("bench_layers", {"rank": 2, "batches": [1, 7], "shapes": 1, "seed": 2}),
    ("bench_convolutions", {"cp_rank": 24, "batch": 2, "seed": 1}),
    ("bench_convolutions", {"cp_rank": 31, "cp_batch": 2, "batch": 1, "share": 0.5}),
    ("bench_products", {"products": 24, "seconds": 0.005, "seed": 1}),
    ("bench_products", {"products": 13, "seconds": 0.005}),
    ("bench_coupled", {"draws": 2, "seed": 1}),
    ("bench_coupled", {"draws": 1, "size": 4, "rank": 2}),
    ("bench_cp", {"starts": 2, "nls_iter": 20}),
    ("bench_cp", {"starts": 1, "seed": 5}),
    ("bench_characters", {"rank": 8, "first_rank": 4, "seed": 1}),
    ("bench_characters", {"rank": 3, "first_rank": 2}),
    ("bench_compress", {"formats": ["svd"], "seed": 1}),
    ("bench_compress", {"formats": ["spatial_svd"], "budget": 0.6}),
    ("bench_scheme", {"formats": ["spatial_svd"], "inputs": 30, "repeats": 2, "seed": 1}),
    ("bench_scheme", {"formats": ["cp3"], "inputs": 40, "budget": 0.4}),
    ("bench_latency", {"budgets": [0.9, 0.01], "batches": [2], "formats": ["svd"]}),
    ("bench_latency", {"budgets": [0.8], "batches": [1], "seed": 1}),
    ("bench_deploy", {"menus": ["spatial_svd"], "batches": [2], "lanes": [8, 1], "inputs": 3, "seed": 1}),
    ("bench_deploy", {"menus": [], "latency_budget": 0.01, "batches": [1], "budget": 0.5}),
    ("bench_formats", {"formats": ["cp3", "svd"], "budgets": [0.5], "batches": [2], "threads": [1], "seed": 1}),
    ("bench_formats", {"formats": ["spatial_svd"], "budgets": [0.6, 0.01], "batches": [1, 3], "threads": [1]}),
    ("bench_others", {"shares": [0.5], "tokens": [3], "seed": 1}),
    ("bench_others", {"shares": [0.7, 0.2], "tokens": [5, 9]}),
    ("bench_sweeps", {"cells": 1, "kills": 0}),
    ("bench_sweeps", {"cells": 0, "kills": 1, "seed": 3}),
]


@pytest.mark.parametrize(("name", "parameters"), RERUNS)
def test_rerun_benchmark(name, parameters, tmp_path, monkeypatch):
    monkeypatch.delenv("TNLIB_RESULTS")
    run = study.run_notebook(paths.NOTEBOOKS / "experiments" / f"{name}.ipynb", parameters, out=tmp_path)
    assert run.ok, f"{run.failed_cell}\n{run.error}"
    (record,) = (json.loads(path.read_text()) for path in (tmp_path / "results").glob("*.json"))
    assert record["study"] == name.replace("_", "-")
    told = {"profile": "quick"} | {name: value for name, value in parameters.items() if name != "seed"}
    assert record["parameters"].items() >= told.items()
    assert record["seed"] == parameters.get("seed", 0)
    asserts = {"bench_layers": layers, "bench_convolutions": convolutions, "bench_products": products, "bench_cp": cp}
    asserts |= {"bench_characters": characters, "bench_coupled": coupled, "bench_sweeps": sweeps}
    asserts |= {"bench_compress": whole, "bench_latency": latency, "bench_deploy": deployed, "bench_formats": formats}
    asserts |= {"bench_scheme": scheme, "bench_others": others}
    asserts[name](record["metrics"], parameters)


def whole(metrics, parameters):
    (row,) = metrics["rows"]
    budget = parameters.get("budget", 0.5)
    assert (row["network"], row["params"]) == ("resnet20", 269_722)
    assert budget - 0.05 < row["macs"] <= budget
    assert row["gap"] < 1e-6
    assert row["params_after"] < row["params"]
    assert row["slowest_format"] == parameters["formats"][0]
    assert 0 < row["slowest_layer_share"] <= row["slowest_format_share"] <= 1 + 1e-9
    assert metrics["peak_bytes"] >= row["peak_bytes"] > 1e8
    positive(row, "curves_s", "plan_s", "second_plan_s", "apply_s")


def scheme(metrics, parameters):
    rows, budget = metrics["rows"], parameters.get("budget", 0.5)
    assert len(rows) == parameters.get("repeats", 1)
    for row in rows:
        assert 0.98 * budget < row["macs"] <= budget
        positive(row, "curves", "apply", "repair")
        assert row["seconds"] == pytest.approx(row["curves"] + row["apply"] + row["repair"])
    assert 0 < metrics["least_seconds"] <= metrics["seconds_s"] <= metrics["most_seconds"]
    assert metrics["peak_bytes"] >= metrics["peak_bytes_before"] > 1e8
    assert metrics["params"] > 1e5


def others(metrics, parameters):
    rows, shares = metrics["rows"], [1.0, *parameters["shares"]]
    sizes = [("encoder", length) for length in parameters["tokens"]] + [("detector", 512)]
    assert [(r["network"], r["size"], r["share"]) for r in rows] == [
        (*size, share) for size in sizes for share in shares
    ]
    dense = {(row["network"], row["size"]): row for row in rows if row["share"] == 1}
    assert dense["detector", 512]["macs"] == 679_552
    for row in rows:
        positive(row, "ms", "ms_low", "ms_high", "speedup", "gmacs_per_s")
        whole = dense[row["network"], row["size"]]
        assert (row["macs"] < whole["macs"]) == (row["bytes"] < 0.95 * whole["bytes"]) == (row["share"] < 1)
        if row["network"] == "detector":
            fixed = 4 * 258 * 256
            assert 0 <= row["share"] - (row["macs"] - fixed) / (whole["macs"] - fixed) < 0.02
            assert row["real_time"] == pytest.approx(row["ms"] / 32)


def latency(metrics, parameters):
    rows = metrics["rows"]
    places = [(row["network"], row["batch"], row["budget"]) for row in rows]
    assert places == [("quick-cifar10", parameters["batches"][0], budget) for budget in parameters["budgets"]]
    assert metrics["reached"] == sum(row["reached"] for row in rows)
    for row in rows:
        if row["reached"]:
            positive(row, "predicted", "measured", "macs", "params")
            assert row["low"] <= row["measured"] <= row["high"]
            assert row["off"] == pytest.approx(row["predicted"] / row["measured"] - 1)
        else:
            assert "out of reach" in row["said"]
    assert not any(row["reached"] for row in rows if row["budget"] < 0.1)


def deployed(metrics, parameters):
    lanes, kinds = parameters.get("lanes", [8]), ("float", "int8")
    keys = [("dense", numbers, lanes[0]) for numbers in kinds]
    keys += [(label, numbers, number) for label in parameters["menus"] for number in lanes for numbers in kinds]
    for part in ("rows", "operators", "alone"):
        assert [(row["network"], row["numbers"], row["lanes"]) for row in metrics[part]] == keys
    assert len(metrics["not_made"]) == ("latency_budget" in parameters)
    assert all("out of reach" in text for text in metrics["not_made"])
    dense = metrics["rows"][0]
    for row in metrics["rows"]:
        assert row["batch"] == parameters["batches"][0]
        assert 0 < row["speedup_low"] <= row["speedup"] <= row["speedup_high"]
        assert row["gmacs_per_s"] == pytest.approx(row["batch"] * row["macs"] / row["ms"] / 1e6)
        limit = 1 if row["network"] == "dense" else parameters.get("budget", 0.4)
        assert limit - 0.1 < row["macs"] / dense["macs"] <= limit
        assert row["file_bytes"] < (0.6 if row["numbers"] == "int8" else 1.01) * dense["file_bytes"]
    bytes_of = {(row["network"], row["numbers"], row["lanes"]): row["file_bytes"] for row in metrics["rows"]}
    for label, numbers, number in bytes_of:
        assert bytes_of[label, numbers, number] >= bytes_of.get((label, numbers, 1), 0)
    assert dense["speedup"] == metrics[f"dense_float_batch{dense['batch']}_speedup"] == 1
    for row in metrics["operators"]:
        assert sum(row["ms"].values()) > 0
        assert any("Conv" in kind for kind in row["ms"])
    for row in metrics["alone"]:
        positive(row, "cold_ms", "memory_mb")


def formats(metrics, parameters):
    rows, budgets = metrics["rows"], [budget for budget in parameters["budgets"] if budget > 0.1]
    assert sorted(metrics["missing"]) == sorted(
        f"{name} at {budget:g}" for name in parameters["formats"] for budget in set(parameters["budgets"]) - {*budgets}
    )
    assert all("out of reach" in said for said in metrics["missing"].values())
    dense = [row for row in rows if row["format"] == "dense"]
    assert all(row["speedup"] == row["macs"] == row["params"] == row["bytes"] == 1 for row in dense)
    assert len(dense) == len(parameters["budgets"]) * len(parameters["batches"]) * len(parameters["threads"])
    small = [row for row in rows if row["format"] != "dense"]
    assert len(small) == len(parameters["formats"]) * len(budgets) * len(parameters["batches"])
    for row in small:
        assert row["budget"] - 0.05 < row["macs"] <= row["budget"]
        assert 0 < row["speedup_low"] <= row["speedup"] <= row["speedup_high"]
        positive(row, "ms", "seconds", "params", "bytes", "peak_activation_bytes")


def characters(metrics, parameters):
    rank, first = parameters["rank"], parameters["first_rank"]
    rows = metrics["times"]
    assert len(rows) == 16  # two networks, two batches, one and two threads, from Python and as a graph
    assert {(row["rank"], row["first_rank"]) for row in rows} == {(rank, 0), (rank, first)}
    dense, conv1 = 96 * 81 * 256 + 128 * 48 * 81 * 64 + 512 * 64 * 64 + 144 * 128, 96 * 81 * 256
    cp = rank * (48 * 256 + 9 * 8 * 16 + 9 * 64 + 128 * 64) + rank * (64 * 64 + 8 * 8 + 8 + 512)
    for row in rows:
        of_first = first * (576 + 9 * 16 * 24 + 9 * 256 + 96 * 256) if row["first_rank"] else conv1
        assert row["mac_ratio"] == pytest.approx(dense / (of_first + cp + 144 * 128))
        assert 0 < row["speedup_low"] <= row["speedup"] <= row["speedup_high"]
        positive(row, "dense_ms", "ms")
    positive(metrics, "conv2_speedup", "batch1_threads1_graph_speedup", "batch64_threads2_first_python_speedup")


def cp(metrics, parameters):
    runs = metrics["runs"]["resnet20_small"]
    assert {len(rows) for rows in runs.values()} == {parameters["starts"]}
    assert metrics["resnet20_small_parafac_error"] == min(row["error"] for row in runs["parafac"]) < 1
    for rival, als in zip(runs["parafac"], runs["als"], strict=True):
        assert als["error"] < rival["error"] * 1.2  # a start of its own, which may end elsewhere
    reached = [row["to_best"]["error"] for row in runs["nls"]]
    assert metrics["resnet20_small_nls_reached_it"] == sum(
        e <= metrics["resnet20_small_parafac_error"] for e in reached
    )
    for row in runs["nls"]:
        assert row["error"] <= row["to_best"]["error"]
    positive(metrics, "resnet20_small_parafac_over_als_seconds", "resnet20_small_nls_seconds_to_that")


def positive(metrics, *names):
    assert all(metrics[name] > 0 for name in names), {name: metrics[name] for name in names}


def layers(metrics, parameters):
    assert (metrics["in_features"], metrics["out_features"]) == (4096, 1024)
    rank = parameters.get("rank", 4)
    cores = 2 * 16 * rank + (16 + 32 + 32) * rank**2  # 4 x 4 at both ends, 4 x 4, 4 x 8 and 4 x 8 between
    assert (metrics["dense_bytes"], metrics["tt_bytes"]) == (4 * (4096 * 1024 + 1024), 4 * (cores + 1024))
    for name in (*(f"batch{batch}" for batch in parameters["batches"]), "training_step"):
        positive(metrics, f"{name}_ms", f"{name}_dense_ms")
        low, median, high = (metrics[f"{name}_speedup{end}"] for end in ("_low", "", "_high"))
        assert 0 < low <= median <= high
    for batch in parameters["batches"]:
        positive(metrics, f"batch{batch}_over_plain", f"batch{batch}_bound_speedup", f"batch{batch}_predicted_ms")
        assert metrics[f"batch{batch}_macs"] < 4096 * 1024
        for side in ("", "dense_"):  # a call makes at least its output
            assert metrics[f"batch{batch}_{side}peak_bytes"] >= 4 * batch * 1024
        assert 4 * 1024 < metrics[f"batch{batch}_frozen_bytes"] < metrics["dense_bytes"]
        assert ("opt_einsum" in metrics["libraries"]) == (f"batch{batch}_opt_einsum_macs" in metrics)
    assert metrics["training_step_batch"] == parameters["batches"][-1]
    # A step makes at least the input's gradient, beside the batch's outputs.
    assert metrics["training_step_peak_over_input"] >= 1
    for name, library in (("tensorly_torch", "tensorly-torch"), ("torchTT", "torchTT")):
        assert (f"training_step_over_{name}" in metrics) == (library in metrics["libraries"])
    rows = metrics["shapes"]
    assert len(rows) == parameters["shapes"]
    assert metrics["shapes_worst"] == max(row["slower"] for row in rows)
    for row in rows:
        positive(row, "slower", "tnlib_ms", "dense_ms", "plain_ms", "predicted_ms")
        assert len(row["row_dims"]) == len(row["col_dims"]) == len(row["rank"]) + 1


def convolutions(metrics, parameters):
    rank, conv2 = parameters["cp_rank"], {"dense": 64 * 192 * 25, "cp": 64 + 5 + 5 + 192}
    assert metrics["alexnet_conv2_mac_ratio"] == pytest.approx(conv2["dense"] / (conv2["cp"] * rank))
    assert metrics["alexnet_conv2_batch"] == parameters.get("cp_batch", 1)
    positive(metrics, "alexnet_conv2_speedup", "alexnet_conv2_speedup_contiguous")
    assert {row["network"] for row in metrics["tucker2"]} == {"resnet20", "vgg16"}
    for row in metrics["tucker2"]:
        assert row["rank"] == [row["outputs"] // 2, row["inputs"] // 2]
        assert row["share_of_reduction"] == pytest.approx(row["speedup"] / row["mac_ratio"])
        assert row["dense_format"] in ("contiguous", "channels_last")
    row = metrics["tucker2"][0]  # 16 channels to 8 to 8 to 16, pixel by pixel as many
    assert row["mac_ratio"] == pytest.approx(16 * 16 * 9 / (16 * 8 + 8 * 8 * 9 + 8 * 16))
    fits = {row["format"]: row for row in metrics["equal_macs"]}
    assert list(fits) == ["cp3", "cp", "tucker2", "tt", "svd", "spatial_svd"]
    for row in fits.values():
        assert row["mac_ratio"] >= 1 / parameters.get("share", 0.25)
        assert 0 < row["error"] < 1
        assert metrics[f"equal_macs_error_{row['format']}"] == pytest.approx(row["error"])
    assert metrics["cp3_over_cp_error"] == pytest.approx(fits["cp3"]["error"] / fits["cp"]["error"])
    # At this size the formats' errors differ by much more than ALS varies.
    assert fits["cp3"]["error"] < fits["svd"]["error"]


def products(metrics, parameters):
    assert metrics["products"] == len(metrics["rows"]) == parameters["products"]
    assert metrics["held_out"] == math.ceil(parameters["products"] / 3)
    assert metrics["self_error"] < 0.02
    for *sizes, weight_first, nanoseconds in metrics["rows"]:
        assert min(sizes) >= 1
        assert nanoseconds > 0
        assert weight_first or sizes[0] == 1
    positive(metrics, "fitted_error", "default_error", "fitted_shape_error")
    assert metrics["fitted_error_90"] >= metrics["fitted_error"]
    assert all(rate > 0 for rate in metrics["rates"].values())


def coupled(metrics, parameters):
    size, rank = parameters.get("size", 5), parameters.get("rank", 3)
    # The bound counts the free entries of the factors, a scale of each column but one mode's left out.
    free = rank * (5 * size - 4)
    assert metrics["bound"] == pytest.approx(free / size**5 * 10**-2, rel=1e-6)
    for name in ("coupled", "parafac", "parafac_svd", "als"):
        positive(metrics, f"{name}_nmse", f"{name}_seconds")
        assert metrics[f"{name}_nmse"] <= metrics[f"{name}_nmse_max"]
    for name in ("parafac", "parafac_svd", "als"):
        low, median, high = (metrics[f"{name}_over_coupled_seconds{end}"] for end in ("_low", "", "_high"))
        assert 0 < low <= median <= high
    assert metrics["coupled_nmse_max"] < 10 * metrics["bound"]
    assert metrics["coupled_failures"] == metrics["polished_failures"] == 0
    assert metrics["large_order_error"] < 1e-10
    assert [point["order"] for point in metrics["bounds"]] == [4]
    assert [(point["order"], point["snr_db"]) for point in metrics["tucker"]] == [(5, 20), (6, 0)]
    assert metrics["draws"] == parameters["draws"]


def sweeps(metrics, parameters):
    assert ("overhead" in metrics) == (parameters["cells"] > 0)
    if parameters["cells"]:
        positive(metrics, "overhead", "sweep_seconds_per_run", "papermill_seconds")
        assert metrics["papermill_calls"] == 2
    assert len(metrics["rows"]) == metrics["killed_sweeps"] == parameters["kills"]
    assert metrics["kills"] <= metrics["killed_sweeps"] == metrics["kills_exactly_one_record"]
    assert metrics["damaged_records"] == 0
    for row in metrics["rows"]:
        assert row["records"] == row["distinct"] == metrics["killed_cells"] == 2
