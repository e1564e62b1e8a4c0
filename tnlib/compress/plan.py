"""One candidate a layer, chosen under a budget: looked at, kept, and made into a network."""

from __future__ import annotations

import copy
import importlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from torch import nn

from tnlib import layers
from tnlib.compress.allocate import allocate
from tnlib.compress.budget import Budget
from tnlib.compress.candidate import Candidate
from tnlib.compress.curves import Curves
from tnlib.compress.fitting import STEPS
from tnlib.compress.inputs import calls
from tnlib.compress.losses import FITTED
from tnlib.compress.metrics import metric_of
from tnlib.compress.norms import Norm
from tnlib.compress.survey import Place, opened
from tnlib.compress.times import as_rank

VERSION = 1


@dataclass(frozen=True)
class Plan:
    """What becomes of each layer, what the network then costs, and what it is predicted to lose.

    Attributes:
        chosen: one candidate a layer; a dense one stays as it is.
        budget: what was asked for.
        original: parameters, multiply-accumulates of one call and bytes of the network; where times were measured,
            `latency`: nanoseconds of one call, frozen.
        cost: likewise of the compressed one: exactly what `measure.cost` counts of it, and the latency predicted.
        loss: predicted, the sum over the layers.
        gap: how much less loss another choice of these candidates might have, at most; 0: none is better. Discounted
            where curves have a discount.
        left: layers that could not be replaced, and why.
        metric: in which norm losses are predicted and layers are factored.
        inputs: shapes of the inputs of the call that is counted.
        seed: of the decompositions.
        measured: latency of the compressed network, frozen, in nanoseconds beside `original`'s; None if it was not.
        machine: where times were measured; None without times.
    """

    chosen: Mapping[str, Candidate]
    dense: Mapping[str, Candidate]
    budget: Budget
    original: Mapping[str, int]
    cost: Mapping[str, int]
    loss: float
    gap: float
    left: Mapping[str, str]
    metric: str
    inputs: str
    seed: int = 0
    measured: int | None = None
    machine: Mapping[str, Any] | None = None
    norms: Mapping[str, Norm] | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, curves: Curves, budget: Budget) -> Self:
        """The best plan under a budget; ValueError where no choice of candidates keeps it."""
        found, original = allocate(curves, budget), curves.cost
        dense = {name: row[0] for name, row in curves.candidates.items()}
        cost = {kind: curves.fixed(kind) + sum(c.cost(kind) for c in found.chosen.values()) for kind in original}
        told: dict[str, Any] = {
            "left": curves.left,
            "metric": curves.metric.key,
            "inputs": curves.survey.inputs,
            "seed": curves.seed,
            "norms": curves.norms,
            "machine": None if curves.times is None else curves.times.machine,
        }
        loss = sum(c.loss for c in found.chosen.values())
        return cls(found.chosen, dense, budget, original, cost, loss, found.gap, **told)

    def share(self, kind: str) -> float:
        """The compressed network's cost as a share of the original's."""
        return self.cost[kind] / self.original[kind]

    def table(self) -> Any:
        """A pandas.DataFrame, one row a layer: format, rank, costs, their shares of the dense layer's, predicted loss.

        Where times were measured, `ms` is the layer's part of the latency.

        ModuleNotFoundError where pandas is not installed; it comes with the extra `study`.
        """
        pandas = importlib.import_module("pandas")
        rows = []
        for name, chosen in self.chosen.items():
            dense = self.dense[name]
            row: dict[str, Any] = {"layer": name, "format": chosen.format or "dense"}
            row["rank"] = "" if chosen.rank is None else chosen.rank  # beside None, pandas would make integers floats
            for kind in ("params", "macs"):
                row[kind] = chosen.cost(kind)
                row[f"{kind} share"] = chosen.cost(kind) / dense.cost(kind) if dense.cost(kind) else 1.0
            if chosen.latency is not None and dense.latency is not None:
                row |= {"ms": chosen.latency / 1e6, "ms share": chosen.latency / dense.latency}
            rows.append(row | {"loss": chosen.loss})
        return pandas.DataFrame(rows).set_index("layer")

    def apply(
        self, model: nn.Module, inputs: Any = None, *, weights: Literal["pretrained", "fresh", "empty"] = "pretrained"
    ) -> nn.Module:
        """A new model with these layers, each factored by itself; the given one is untouched.

        Args:
            model: the network that was planned for, or one of the same layers.
            inputs: for a plan that was loaded and whose metric needs inputs.
            weights: `fresh` draws random ones, and `empty` makes the layers only, for a state that is loaded.

        Raises:
            ValueError: a model without these layers or with layers of other shapes; inputs that are missing.
        """
        small = opened(model)
        small = copy.deepcopy(model) if small is model else small
        modules = dict(small.named_modules())
        for name, dense in self.dense.items():
            layer = modules.get(name)
            if layer is None or sum(p.numel() for p in layer.parameters()) != dense.params:
                raise ValueError(
                    f"this plan is not for this model: it has no layer {name!r} of {dense.params} parameters"
                )
        replaced = {name: chosen for name, chosen in self.chosen.items() if chosen.format is not None}
        norms = self._norms(small, inputs) if weights == "pretrained" else {}
        for name, chosen in replaced.items():
            new = self._made(modules[name], chosen, norms.get(name, Norm()), weights)
            if not name:
                return new
            for every, module in list(small.named_modules(remove_duplicate=False)):
                if module is modules[name]:
                    small.set_submodule(every, new)
        return small

    def _made(self, layer: nn.Module, chosen: Candidate, norm: Norm, weights: str) -> nn.Module:
        assert chosen.format is not None
        if weights == "empty":
            return layers.factorize(layer, chosen.format, chosen.rank, weights="empty")
        if weights == "fresh":
            return layers.factorize(layer, chosen.format, chosen.rank, weights="fresh", seed=self.seed)
        options: dict[str, Any] = {"seed": self.seed, **FITTED.get(chosen.format, {})}
        if not layers.format_class(layer, chosen.format).in_digits and norm.metric is not None:
            options["metric"] = norm.metric
        made: nn.Module = norm.fitted(
            layers.factorize(layer, chosen.format, chosen.rank, **options), layer, (STEPS, None)
        )
        return made

    def _norms(self, model: nn.Module, inputs: Any) -> Mapping[str, Norm]:
        if self.norms is not None:
            return self.norms
        metric = metric_of(self.metric)
        if inputs is None and metric.needs_inputs:
            raise ValueError(f"this plan was loaded, and its metric {self.metric!r} needs inputs: give them to apply")
        modules = dict(model.named_modules())
        places = [Place(name, modules[name], ()) for name in self.dense]
        return metric.norms(model, places, () if inputs is None else calls(model, inputs))

    def save(self, path: str | Path) -> None:
        """Write the plan as JSON; what the metric knows of the inputs is not kept."""
        content = {
            "version": VERSION,
            "budget": self.budget.shares(),
            "original": dict(self.original),
            "cost": dict(self.cost),
            "loss": self.loss,
            "gap": self.gap,
            "metric": self.metric,
            "inputs": self.inputs,
            "seed": self.seed,
            "measured": self.measured,
            "machine": None if self.machine is None else dict(self.machine),
            "chosen": [asdict(candidate) for candidate in self.chosen.values()],
            "dense": [asdict(candidate) for candidate in self.dense.values()],
            "left": dict(self.left),
        }
        Path(path).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote; ValueError for a file that is no plan."""
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            if content.pop("version") != VERSION:
                raise ValueError("another version")
            tables: dict[str, Any] = {}
            for name in ("chosen", "dense"):
                rows = [row | {"rank": as_rank(row["rank"])} for row in content.pop(name)]
                tables[name] = {row["layer"]: Candidate(**row) for row in rows}
            return cls(budget=Budget(**content.pop("budget")), **tables, **content)
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError, UnicodeDecodeError, ValueError) as error:
            raise ValueError(f"{Path(path).name} is no plan that this version can read: {error}") from None

    def __str__(self) -> str:
        kept = ", ".join(f"{self.share(kind):.1%} of {kind}" for kind in self.cost if kind != "bytes")
        if self.measured is not None:
            kept += f" (measured: {self.measured / self.original['latency']:.1%})"
        number = sum(chosen.format is not None for chosen in self.chosen.values())
        return (
            f"{number} of {len(self.chosen)} layers replaced: {kept}; predicted loss {self.loss:.4g} ({self.metric}), "
            f"at most {self.gap:.2g} above the best choice"
        )
