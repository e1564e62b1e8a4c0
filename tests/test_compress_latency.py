"""Latency as a budget: a table of times, plans by it, and what is measured of the network. No real time is asserted."""

import functools
import itertools
import json
import math
import sys
from dataclasses import replace

import pytest
import torch
from compress_networks import Encoder, Residual, Tied, images, seeded
from torch import nn

from tnlib import compress, layers, measure
from tnlib.compress import Budget, Plan, Times
from tnlib.compress.clock import Run
from tnlib.compress.curves import Candidate
from tnlib.compress.inputs import Call
from tnlib.compress.times import Point, keys_of
from tnlib.compress.timing import COMPARED, TIMED, _input
from tnlib.compress.within import MEASURED, SCATTER, TOLERANCE
from tnlib.layers.frozen import Frozen
from tnlib.study import cli, compressing

LAYERS = (Frozen, nn.Linear, nn.Conv2d, nn.Embedding)
REST = 20_000
FORMATS = ("svd", "tucker2")


class Clock:
    """A clock by which a layer takes 100 ns and 10 for each of its numbers, and a network 20,000 more than its layers.

    In a compressed network replaced layers take `slower` times as long, and `more` ns each.
    """

    def __init__(self, slower=1.0, more=0):
        self.slower, self.more, self.asked, self.measured, self.compared = slower, more, [], 0, 0

    def networks(self, runs):
        self.measured += "compressed" in runs
        self.compared += "split" in runs
        return {name: REST + sum(map(self.in_network, self.called(run))) for name, run in runs.items()}

    def inside(self, run, places, options):
        self.asked.append({key: list(row) for key, row in options.items()})
        called, found = self.called(run), {}
        for name, key in places.items():
            number = called.count(run.module.get_submodule(name))
            row = {"dense": run.module.get_submodule(name), **options.get(key, {})}
            found[key] = {label: number * self.alone(module) for label, module in row.items()}
        known = {run.module.get_submodule(name) for name in places}
        return REST + sum(self.alone(module) for module in called if module not in known), found

    def called(self, run):
        """Layers in the order of their calls, a frozen one without what it consists of."""
        inside, called, handles = [], [], []
        for name, module in run.module.named_modules():
            if isinstance(module, LAYERS) and not any(not above or name.startswith(above + ".") for above in inside):
                inside.append(name)
                handles.append(module.register_forward_hook(lambda m, *_: called.append(m)))
        with torch.no_grad(), measure.without_fast_path():
            run()
        for handle in handles:
            handle.remove()
        return called

    def in_network(self, module):
        replaced = isinstance(module, Frozen)
        return self.alone(module) * (self.slower if replaced else 1) + self.more * replaced

    def alone(self, module):
        return 100 + 10 * sum(t.numel() for t in [*module.parameters(), *module.buffers()])


@functools.cache
def residual(formats=FORMATS, **how):
    model = seeded(Residual)
    return model, compress.curves(model, images(), formats, **how)


def timed(clock=None, **how):
    model, curves = residual(**how)
    return curves.with_times(compress.measure_times(curves, model, clock=clock or Clock()))


@pytest.mark.parametrize("others", [{}, {"params": 0.8}, {"macs": 0.92, "bytes": 0.9}])
@pytest.mark.parametrize("share", [0.96, 0.9])
def test_a_plan_by_latency_is_the_one_that_brute_force_finds(share, others):
    curves = timed(only=("stem", "grouped", "head"), formats=("svd",))
    budget = Budget(latency=share, **others)
    plan = Plan.of(curves, budget)
    limits = budget.limits(curves.cost)
    best = math.inf
    for choice in itertools.product(*curves.candidates.values()):
        if all(curves.fixed(k) + sum(c.cost(k) for c in choice) <= limit for k, limit in limits.items()):
            best = min(best, sum(c.loss for c in choice))
    assert 0 < plan.loss == pytest.approx(best)
    assert all(plan.share(kind) <= limit for kind, limit in budget.shares().items())
    assert plan.cost["latency"] == REST + sum(c.latency for c in plan.chosen.values()) + sum(
        Clock().alone(layer) * n for layer, n in left_alone(curves)
    )


def left_alone(curves):
    """Layers of the network that are not planned for, and how often each is called."""
    modules = seeded(Residual).named_modules()
    return [(m, 1 + (n == "twice")) for n, m in modules if isinstance(m, LAYERS) and n not in curves.candidates]


def test_times_lie_between_measured_ones():
    points = (Point(1, 100, 10), Point((2, 1), 200, 30), Point((1, 2), 200, 50), Point(5, 400, 60))
    times = Times({}, "", 1000, 100, {"a": "k", "b": "k"}, {"k": 70}, {"k": {"svd": points}})
    assert times.of("a", None, None, 999) == 70
    assert times.of("b", "svd", (2, 1), 200) == 30, "measured"
    assert [times.of("a", "svd", 9, macs) for macs in (50, 100, 150, 200, 300, 500)] == [10, 10, 25, 40, 50, 60]
    assert replace(times, factor=1.5).of("a", "svd", 5, 400) == 90
    assert replace(times, factor=1.5).of("a", None, None, 0) == 70
    assert times.is_timed("a", "svd", 5)
    assert times.is_timed("a", None, None)
    assert not times.is_timed("a", "svd", 2)
    more = times.with_points("k", [("svd", Point(2, 150, 11)), ("svd", Point(5, 400, 61)), ("tt", Point(1, 5, 6))])
    assert [point.time for point in more.points["k"]["svd"]] == [10, 11, 50, 30, 61]
    assert more.of("a", "tt", 3, 9) == 6
    for layer, format in (("c", "svd"), ("a", "cp")):
        with pytest.raises(ValueError, match=r"the table of times has no .*: measure it with compress.measure_times"):
            times.of(layer, format, 1, 1)


def test_few_candidates_are_timed_and_layers_of_one_kind_once():
    model = seeded(lambda: nn.Sequential(nn.Linear(30, 30), nn.ReLU(), nn.Linear(30, 30), nn.Linear(30, 9)))
    curves, clock = compress.curves(model, torch.randn(4, 30), ("svd", "tt")), Clock()
    times = compress.measure_times(curves, model, clock=clock)
    assert times.layers["0"] == times.layers["2"] != times.layers["3"]
    network, candidates = clock.asked
    assert not network
    assert set(candidates) == set(times.layers.values())
    for asked in candidates.values():
        for format in ("svd", "tt"):
            assert 1 <= sum(name.startswith(format) for name in asked) <= TIMED
    assert times.rest == REST
    assert times.original == REST + sum(Clock().alone(model[k]) for k in (0, 2, 3))
    table = times.table()
    assert list(table["layers"].unique()) == ["0, 2", "3"]
    assert table["ms"].max() == pytest.approx(times.dense[times.layers["0"]] / 1e6)
    ranks = [c.rank for c in curves.candidates["0"] if c.format == "svd"]
    timed = {point.rank for point in times.points[times.layers["0"]]["svd"]}
    assert {min(ranks), max(ranks)} <= timed < set(ranks)


def test_inputs_of_layers_are_those_of_the_network():
    model = seeded(Residual).to(memory_format=torch.channels_last).double()
    x = images(2).double().to(memory_format=torch.channels_last)
    curves, clock = compress.curves(model, x, ("svd",), example=x), Clock()
    times = compress.measure_times(curves, model, clock=clock)
    made = _input(curves.survey.places["dilated"])
    assert made.dtype == torch.float64
    assert made.shape == (2, 16, 5, 4)
    assert made.is_contiguous(memory_format=torch.channels_last)
    table = nn.Sequential(nn.Embedding(7, 9))
    places = compress.curves(table, torch.tensor([[1, 2, 3]]), ("svd",)).survey.places
    assert _input(places["0"]).dtype == torch.int64
    assert table(_input(places["0"])).shape == (1, 3, 9)
    plain = compress.curves(model, images(2).double(), ("svd",), example=images(2).double())
    assert set(keys_of(plain.survey.places)) == set(times.layers)
    with pytest.raises(ValueError, match="is not of this network and these inputs: it has no layer 'stem'"):
        plain.with_times(times)


def test_a_layer_that_is_called_twice_counts_twice():
    model, curves = residual()
    clock = Clock()
    times = compress.measure_times(curves, model, clock=clock)
    key = times.layers["twice"]
    assert times.dense[key] == 2 * clock.alone(model.twice)
    rank = times.points[key]["svd"][0].rank
    small = layers.freeze(layers.factorize(model.twice, "svd", rank), torch.zeros(1, 12, 9, 9))
    assert times.of("twice", "svd", rank, 0) == 2 * clock.alone(small)


NETWORKS = {
    "residual": (Residual, images()),
    "tied": (Tied, {"tokens": torch.arange(18).reshape(2, 9)}),
    "encoder": (Encoder, {"x": torch.randn(4, 7, 16), "mask": torch.zeros(4, 7, dtype=torch.bool)}),
    "generator": (Residual, None),
    "root": (lambda: nn.Linear(40, 40), torch.randn(2, 40)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_goes_through(name):
    make, inputs = NETWORKS[name]
    model, clock = seeded(make), Clock()
    inputs = (part for part in images(6).split(3)) if inputs is None else inputs
    plan = compress.plan(model, inputs, Budget(latency=0.999 if name == "encoder" else 0.97), clock=clock)
    assert plan.measured == plan.cost["latency"] == pytest.approx(plan.original["latency"], rel=0.5)
    assert plan.share("latency") <= 1
    assert plan.loss > 0
    assert plan.machine["threads"] == torch.get_num_threads()
    small = plan.apply(model)
    assert any(isinstance(module, layers.Factorized) for module in small.modules())
    assert clock.compared == (name == "encoder"), "attention as it was is not the one whose projections are layers"
    assert clock.measured == COMPARED


@pytest.mark.parametrize(("slower", "more"), [(1.5, 0), (0.5, 0), (1.0, 300), (1.2, 100), (3.0, 0)])
def test_the_prediction_is_corrected_by_what_the_network_takes(slower, more):
    model, curves = residual()
    clock = Clock(slower, more)
    share = 0.95
    plan = compress.plan_within(curves, model, Budget(latency=share), clock=clock)
    assert plan.cost["latency"] == pytest.approx(plan.measured, rel=TOLERANCE)
    assert plan.measured <= share * plan.original["latency"] * (1 + SCATTER)
    assert COMPARED <= clock.measured <= COMPARED * MEASURED
    off = Plan.of(curves.with_times(compress.measure_times(curves, model, clock=Clock())), Budget(latency=share))
    assert (plan.loss < off.loss) == (slower < 1)


def test_what_a_plan_chooses_was_timed_itself(tmp_path):
    model, curves = residual()
    plan = compress.plan_within(curves, model, Budget(latency=0.93), clock=Clock(), cache=tmp_path)
    (path,) = tmp_path.iterdir()
    assert plan.cost["latency"] == plan.measured
    corrected = compress.plan_within(curves, model, Budget(latency=0.95), clock=Clock(1.4), cache=tmp_path)
    times = Times.load(path)
    for c in (*plan.chosen.values(), *corrected.chosen.values()):
        assert times.is_timed(c.layer, c.format, c.rank)
    assert times.factor == 1, "what is corrected for one plan is not kept for others"


def test_the_cache_is_of_a_network_and_a_machine(tmp_path, monkeypatch):
    model, curves = residual()
    first, again = Clock(), Clock()
    one = compress.measure_times(curves, model, clock=first, cache=tmp_path)
    assert compress.measure_times(curves, model, clock=again, cache=tmp_path) == one
    assert not again.asked
    (path,) = tmp_path.iterdir()
    assert one.machine["cpu"] == measure.cpu_name()
    more = compress.curves(model, images(), (*FORMATS, "tt"))
    compress.measure_times(more, model, clock=again, cache=tmp_path)
    assert again.asked
    assert all(name.startswith("tt") for asked in again.asked for row in asked.values() for name in row)
    monkeypatch.setattr(measure, "cpu_name", lambda: "another")
    with pytest.raises(ValueError, match=r"was measured on .*, and this is another, \d+ threads?, torch .*: measure"):
        curves.with_times(one)
    with pytest.raises(ValueError, match="was measured on"):
        compress.plan_within(curves, model, Budget(latency=0.9), times=Times.load(path), clock=again)
    with pytest.warns(UserWarning, match="this is another, .*: measured anew"):
        other = compress.measure_times(curves, model, clock=first, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    assert other.machine["cpu"] == "another"
    wider = compress.curves(model, images(), FORMATS, example=images(2))
    compress.measure_times(wider, model, clock=first, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


def test_progress_tells_layers_and_networks():
    model, curves = residual()
    told = []
    compress.plan_within(curves, model, Budget(latency=0.95), clock=Clock(), progress=lambda *one: told.append(one))
    *times, (done, total, what) = told
    assert times[0][0] == times[0][1] > 20
    assert {what for _, _, what in times} == {"candidates timed"}
    assert (done, total) == (1, MEASURED)
    assert what.startswith("predicted latency 9")


def test_without_latency_nothing_is_timed():
    def no_clock(runs, seconds):
        raise AssertionError

    model, curves = residual()
    plan = compress.plan(model, images(), Budget(macs=0.8), formats=FORMATS, clock=no_clock)
    assert plan == Plan.of(curves, Budget(macs=0.8))
    assert "latency" not in plan.cost
    assert plan.measured is plan.machine is None
    with pytest.raises(ValueError, match="a budget of latency needs measured times"):
        Plan.of(curves, Budget(latency=0.8))


def test_a_plan_with_latency_is_saved_and_older_ones_are_read(tmp_path):
    model, curves = residual()
    plan = compress.plan_within(curves, model, Budget(latency=0.95, params=0.9), clock=Clock())
    plan.save(tmp_path / "plan.json")
    loaded = Plan.load(tmp_path / "plan.json")
    assert loaded == plan
    assert loaded.budget == Budget(latency=0.95, params=0.9)
    assert loaded.table().equals(plan.table())
    assert plan.table()["ms"].sum() == pytest.approx((plan.cost["latency"] - REST) / 1e6)
    assert f"{plan.share('latency'):.1%} of latency (measured: " in str(plan)
    Plan.of(curves, Budget(params=0.9)).save(tmp_path / "old.json")
    content = json.loads((tmp_path / "old.json").read_text())
    for name in ("measured", "machine"):
        assert content.pop(name) is None
    for row in content["chosen"] + content["dense"]:
        assert row.pop("latency") is None
    (tmp_path / "old.json").write_text(json.dumps(content))
    assert Plan.load(tmp_path / "old.json") == Plan.of(curves, Budget(params=0.9))


def test_a_table_is_saved(tmp_path):
    model, curves = residual(("svd", "tucker2", "tt"))
    times = compress.measure_times(curves, model, clock=Clock())
    times.save(tmp_path / "times.json")
    assert Times.load(tmp_path / "times.json") == times
    (tmp_path / "bad.json").write_text('{"version": 2, "points": 3}')
    with pytest.raises(ValueError, match=r"bad\.json is no table of times"):
        Times.load(tmp_path / "bad.json")


def test_a_budget_out_of_reach_tells_the_smallest():
    model, curves = residual()
    plan = functools.partial(compress.plan_within, curves, model, clock=Clock())
    with pytest.raises(
        ValueError, match=r"latency=0\.1 is out of reach: .*smallest is latency=0\.\d+ \(.* ms\)"
    ) as said:
        plan(Budget(latency=0.1))
    smallest = float(str(said.value).split("latency=")[-1].split()[0])
    assert plan(Budget(latency=smallest)).share("latency") <= smallest
    with pytest.raises(ValueError, match="out of reach"):
        plan(Budget(latency=smallest - 2e-4))
    with pytest.raises(ValueError, match=r"latency=0\.9 is out of reach: the fastest of \d networks .* has latency=\d"):
        compress.plan_within(curves, model, Budget(latency=0.9), clock=Clock(more=100_000))


def test_a_network_that_cannot_be_frozen_has_no_latency(monkeypatch):
    model, curves = residual()
    monkeypatch.setattr(layers, "freeze", lambda *_: 1 / 0)
    with pytest.raises(ValueError, match="latency cannot be measured, because freezing the network fails: ZeroDiv"):
        compress.measure_times(curves, model, clock=Clock())


def test_all_of_the_latency_is_the_original_by_the_real_clock():
    """And candidates have times: nothing else is said of them."""
    model = seeded(lambda: nn.Sequential(nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 12)))
    plan = compress.plan(model, torch.randn(3, 12), Budget(latency=1.0), formats=("svd",))
    assert plan.loss == 0
    assert plan.measured == plan.cost["latency"] == plan.original["latency"] > 0
    assert all(c.format is None and c.latency > 0 for c in plan.chosen.values())
    curves = compress.curves(model, torch.randn(3, 12), ("svd",))
    times = compress.measure_times(curves, model)
    assert all(point.time > 0 for row in times.points.values() for points in row.values() for point in points)
    assert times.rest >= 0


def test_the_real_clock_puts_layers_back():
    """Two options, a layer called twice, keyword arguments: what it returns, not how long it took."""
    model = seeded(Residual)
    run = Run.of(model, Call((), {"x": images(1)}))
    before = run()
    option = layers.freeze(layers.factorize(model.twice, "svd", 2), torch.zeros(1, 12, 9, 9))
    besides, found = compress.Clock().inside(run, {"twice": "a", "stem": "b"}, {"a": {"svd 2": option}})
    assert besides > 0
    assert {key: set(row) for key, row in found.items()} == {"a": {"dense", "svd 2"}, "b": {"dense"}}
    assert all(time > 0 for row in found.values() for time in row.values())
    assert torch.equal(run(), before)
    assert "forward" not in vars(run.module.twice)
    assert set(compress.Clock().networks({"a": run, "b": run})) == {"a", "b"}


def test_candidates_are_held_in_parts(monkeypatch):
    model, curves = residual()
    one, parts = Clock(), Clock()
    monkeypatch.setattr(sys.modules[compress.measure_times.__module__], "HELD", 0)
    monkeypatch.setitem(curves.survey.cost, "bytes", 4000)
    times = compress.measure_times(curves, model, clock=parts)
    monkeypatch.undo()
    assert times == compress.measure_times(curves, model, clock=one)
    assert len(parts.asked) > len(one.asked) == 2


NETWORK = """
from torch import nn
def make():
    return nn.Sequential(nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 40))
"""


def test_the_command_takes_latency_and_reports_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "timed_network.py").write_text(NETWORK)
    monkeypatch.setattr(compress, "plan_within", functools.partial(compress.plan_within, clock=Clock(slower=1.3)))
    command = "compress timed_network:make --example 2,40 --budget latency=0.8 --budget params=0.9 --cache kept --out a"
    assert cli.main(command.split()) == 0
    shown, report = capsys.readouterr().out, json.loads((tmp_path / "a" / "report.json").read_text())
    planned = report["latency_planned"]
    assert planned["predicted"] <= 0.8 * planned["original"]
    assert planned["measured"] == pytest.approx(planned["predicted"], rel=TOLERANCE)
    assert planned["machine"]["cpu"] == measure.cpu_name()
    assert "latency predicted, ms" in shown
    assert "latency predicted, ms" in (tmp_path / "a" / "report.html").read_text()
    assert list((tmp_path / "kept").glob("times-*.json"))
    assert Plan.load(tmp_path / "a" / "plan.json").budget == Budget(latency=0.8, params=0.9)
    assert cli.main(command.replace("0.8", "0.01").replace("--out a", "--out b").split()) == 2
    assert "latency=0.01 is out of reach" in capsys.readouterr().err
    done = compressing.compress_network("timed_network:make", Budget(params=0.9), tmp_path / "c", example=(2, 40))
    assert done.report["latency_planned"] is None


def test_a_candidate_without_times_has_none():
    assert Candidate("a", None, None, 1, 1, 4, 0.0).latency is None
