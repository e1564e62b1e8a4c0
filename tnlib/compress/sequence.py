"""Layer after layer from the input to the output: each is fitted to what the original computes, on what it gets now."""

from __future__ import annotations

import inspect
import operator
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from tnlib import layers, measure
from tnlib.compress.inputs import Call
from tnlib.compress.rectified import Affine, is_relu, rectified
from tnlib.compress.regression import Regression, refit
from tnlib.compress.survey import KINDS, inside

BATCHNORM = nn.modules.batchnorm._BatchNorm
LARGEST = 6000  # inputs of a layer, times its window: its moment has the square of that many numbers
ADDS = (operator.add, operator.iadd, torch.add, "add", "add_")
PASSING = (nn.Dropout, nn.Identity)  # modules whose output is their input, in eval mode
LATER = 5  # steps of a fit, at most, where what is wanted in front of a ReLU was drawn anew


def may_be_fitted(layer: nn.Module, made: nn.Module, shared: Collection[int]) -> bool:
    """Whether a layer of the original, and what stands in its place, are of a kind that is fitted."""
    if type(layer) not in KINDS or isinstance(layer, nn.Embedding):
        return False
    if type(made) is not type(layer) and not isinstance(made, layers.Factorized):
        return False
    weight: Any = layer.weight
    return weight[0].numel() <= LARGEST and not any(id(p) in shared for p in layer.parameters())


def shared_parameters(model: nn.Module) -> set[int]:
    """Identities of parameters that more than one module holds."""
    owners = Counter(id(p) for m in model.modules() for p in m.parameters(recurse=False))
    return {one for one, number in owners.items() if number > 1}


@torch.no_grad()
def shift_batchnorm(norm: Any, before: Sequence[Tensor], now: Sequence[Tensor], fitted: bool) -> None:
    """Move a BatchNorm's mean by what that of its inputs has moved.

    Its variance follows only where no fitted layer is in front: what least squares give varies less than what they
    are fitted to by the error that they leave, and a larger scale would make that error larger, too.
    """
    (mean, variance), (new_mean, new_variance) = _statistics(before), _statistics(now)
    norm.running_mean += (new_mean - mean).to(norm.running_mean)
    if not fitted:
        norm.running_var *= (new_variance / variance.clamp_min(1e-12)).to(norm.running_var)


def traced(small: nn.Module, model: nn.Module, calls: Sequence[Call]) -> tuple[fx.Graph, list[dict[str, Any]]] | None:
    """The graph of the original's operations and the values of its inputs in each call; None for one that has none."""
    with measure.evaluating(model), measure.evaluating(small):
        try:
            given = [_arguments(model, call) for call in calls]
            graph = _Tracer(small, _fixed(given)).trace(model)
            return graph, [_bound(graph, values) for values in given]
        except Exception:  # control flow that depends on values: fx raises what the model's own code happens to raise
            return None


class _Tracer(fx.Tracer):
    """Leaves are the layers that are fitted, and whatever has none of them and no BatchNorm inside."""

    def __init__(self, small: nn.Module, fixed: dict[str, Any]) -> None:
        super().__init__()
        self.fixed = fixed
        stops: tuple[Any, ...] = (layers.Factorized, *KINDS, BATCHNORM)
        self.names = {name for name, module in small.named_modules() if isinstance(module, stops)}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        inside = any(name.startswith(module_qualified_name + ".") for name in self.names)
        return module_qualified_name in self.names or not inside

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        function, args = super().create_args_for_root(root_fn, is_module, concrete_args)
        return function, [self.fixed.get(str(a.node.target), a) if isinstance(a, fx.Proxy) else a for a in args]


def _arguments(model: nn.Module, call: Call) -> dict[str, Any]:
    """The values of the arguments of a call, by name, defaults included."""
    bound = inspect.signature(model.forward).bind(*call.args, **call.kwargs)
    bound.apply_defaults()
    return bound.arguments


def _fixed(given: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Arguments that are one and the same None, number or text in all calls: what a model does may depend on them.

    ValueError where an argument is None in some calls only: no single graph does both.
    """
    result = {}
    for name, value in given[0].items():
        others = [arguments[name] for arguments in given]
        if any(other is None for other in others) and any(other is not None for other in others):
            raise ValueError(f"{name} is given in some calls only")
        plain = value is None or isinstance(value, (bool, int, float, str))
        if plain and all(type(other) is type(value) and other == value for other in others):
            result[name] = value
    return result


def _bound(graph: fx.Graph, arguments: dict[str, Any]) -> dict[str, Any]:
    """Values of the graph's inputs, by name; ValueError where a model takes any number of them."""
    wanted = [str(node.target) for node in graph.nodes if node.op == "placeholder"]
    if any(name not in arguments for name in wanted):
        raise ValueError("the model takes a number of inputs that is not fixed")
    return {name: arguments[name] for name in wanted}


class Walk:
    """The original and the compressed network on one graph, one operation after the other, each on all calls.

    `values[node][k][b]` is what the original (k = 0) and the compressed one (k = 1) computed at a node in call b; it is
    dropped after its last use.
    """

    def __init__(
        self,
        graph: fx.Graph,
        bound: Sequence[dict[str, Any]],
        small: nn.Module,
        model: nn.Module,
        skip: Collection[str] = (),
        rounds: int = 0,
        outputs: Mapping[str, Tensor] | None = None,
        rounding: float = 0.0,
    ) -> None:
        self.rounding = rounding
        self.graph, self.networks, self.bound = graph, (model, small), bound
        self.values: dict[fx.Node, tuple[list[Any], list[Any]]] = {}
        called = Counter(node.target for node in graph.nodes if node.op == "call_module")
        self.once = {name for name, times in called.items() if times == 1}
        self.shared, self.skip, self.rounds, self.outputs = shared_parameters(model), skip, rounds, outputs or {}
        self.fitted: set[fx.Node] = set()
        self.wanted: dict[fx.Node, list[Tensor]] = {}  # what a layer in front of a BatchNorm was last fitted to

    def run(self) -> None:
        """Fit the compressed network, in place."""
        last: dict[fx.Node, fx.Node] = {}
        for node in self.graph.nodes:
            for used in node.all_input_nodes:
                last[used] = node
        for node in self.graph.nodes:
            if node.op != "output":
                self._visit(node)
            for used in node.all_input_nodes:
                if last[used] is node:
                    self.values.pop(used, None)

    def _visit(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            given = [bound[str(node.target)] for bound in self.bound]
            copies = ([v.clone() if isinstance(v, Tensor) else v for v in given] for _ in range(2))
            self.values[node] = next(copies), next(copies)  # operations may change their arguments
            return
        if node.op == "call_module" and node.target in self.once and len(node.all_input_nodes) == 1:
            name = str(node.target)
            layer, made = (network.get_submodule(name) for network in self.networks)
            if isinstance(made, BATCHNORM) and made.track_running_stats:
                (source,) = node.all_input_nodes
                before, now = self.values[source]
                shift_batchnorm(made, self.wanted.pop(source, before), now, fitted=source in self.fitted)
            elif may_be_fitted(layer, made, self.shared) and not inside(name, self.skip):
                self.values[node] = self._fit(node, layer, made)
                return
        self.values[node] = self._computed(node, 0), self._computed(node, 1)

    def _computed(self, node: fx.Node, which: int) -> list[Any]:
        return [self._one(node, which, call) for call in range(len(self.bound))]

    def _one(self, node: fx.Node, which: int, call: int) -> Any:
        """What one network makes of an operation in one call."""
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda used: self.values[used][which][call])
        target: Any = node.target
        if node.op == "call_module":
            return self.networks[which].get_submodule(target)(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], target)(*args[1:], **kwargs)
        if node.op == "get_attr":
            return operator.attrgetter(target)(self.networks[which])
        return target(*args, **kwargs)

    def _fit(self, node: fx.Node, layer: Any, made: Any) -> tuple[list[Any], list[Any]]:
        """Fit a layer; what both networks then compute at it."""
        original, norm = self._computed(node, 0), self._norm_behind(node)
        (source,) = node.all_input_nodes
        x, wanted = self.values[source][1], self._with_shortcut(node, norm, original)
        seen, before = Regression(layer), self._in_front_of_relu(node, norm, original)
        how: dict[str, Any] = {"shift": norm is not None, "sums": seen, "outputs": self.outputs.get(str(node.target))}
        how["rounding"] = self.rounding
        refit(layer, made, zip(x, wanted, strict=True), **how)
        for _ in range(self.rounds):
            if before is None:
                break
            wanted = self._rectified(node, norm, before, wanted)
            seen.want_anew()
            refit(layer, made, zip(x, wanted, strict=True), **how, steps=LATER)
        if norm is not None and self.rounds:
            self.wanted[node] = wanted
        self.fitted.add(node)
        return original, self._computed(node, 1)

    def _norm_behind(self, node: fx.Node) -> Any:
        """The BatchNorm, called once, that alone uses what a layer computes; None where there is none."""
        users = list(node.users)
        if len(users) != 1 or users[0].op != "call_module" or users[0].target not in self.once:
            return None
        norm: Any = self.networks[1].get_submodule(str(users[0].target))
        return norm if isinstance(norm, BATCHNORM) and norm.track_running_stats else None

    def _passed_on(self, node: fx.Node) -> fx.Node:
        """The last of the dropouts and identities behind a node that hand on its value as it is; itself without any."""
        while len(node.users) == 1:
            (user,) = node.users
            module = self.networks[1].get_submodule(str(user.target)) if user.op == "call_module" else None
            dropped = user.target is F.dropout and user.kwargs.get("training") is False
            if not isinstance(module, PASSING) and not dropped:
                break
            node = user
        return node

    def _added_behind(self, node: fx.Node, norm: Any, y: list[Tensor]) -> tuple[fx.Node, fx.Node | None]:
        """The sum that alone uses what a layer gives, or its BatchNorm, and what is added; else the latter and None.

        `y`: what the layer gives, whose shapes what is added has.
        """
        behind = self._passed_on(node if norm is None else next(iter(node.users)))
        users = list(behind.users)
        if len(users) != 1 or users[0].target not in ADDS or len(users[0].all_input_nodes) != 2:
            return behind, None
        (other,) = (used for used in users[0].all_input_nodes if used is not behind)
        if other not in self.values or [v.shape for v in self.values[other][0]] != [v.shape for v in y]:
            return behind, None
        return users[0], other

    def _with_shortcut(self, node: fx.Node, norm: Any, wanted: list[Tensor]) -> list[Tensor]:
        """What a layer should give so that its sum with a shortcut, whose values have changed, is the original's."""
        _, other = self._added_behind(node, norm, wanted)
        if other is None:
            return wanted
        affine, values = Affine.of(norm, wanted[0]), zip(wanted, *self.values[other], strict=True)
        return [y + affine.inverse(before - now) for y, before, now in values]

    def _in_front_of_relu(self, node: fx.Node, norm: Any, original: list[Tensor]) -> list[Tensor] | None:
        """What the original computes in front of the ReLU that alone uses what a layer gives; None without one."""
        behind, other = self._added_behind(node, norm, original)
        users = list(self._passed_on(behind).users)
        if len(users) != 1 or not is_relu(users[0], self.networks[0]):
            return None
        before = self.networks[0].get_submodule(str(next(iter(node.users)).target)) if norm is not None else None
        return self._behind(original, Affine.of(before, original[0]), other, 0)

    def _rectified(self, node: fx.Node, norm: Any, before: list[Tensor], wanted: list[Tensor]) -> list[Tensor]:
        """What to want of a layer in front of a ReLU, from what it was last fitted to, and what it then gave."""
        given = self._computed(node, 1)
        if norm is not None:  # whose mean will make up for this
            moved = (_statistics(wanted)[0] - _statistics(given)[0]).to(given[0])
            given = [y + moved.reshape(-1, *[1] * (y.ndim - 2)) for y in given]
        affine = Affine.of(norm, given[0])
        now = self._behind(given, affine, self._added_behind(node, norm, given)[1], 1)
        pairs = zip(given, before, now, strict=True)
        return [y + affine.inverse(rectified(goal, got) - got) for y, goal, got in pairs]

    def _behind(self, y: list[Tensor], affine: Affine, other: fx.Node | None, which: int) -> list[Tensor]:
        """What one network has behind a layer's BatchNorm and sum with a shortcut, where there are some."""
        passed = [affine(one) for one in y]
        return passed if other is None else [a + b for a, b in zip(passed, self.values[other][which], strict=True)]


def _statistics(batches: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel over all batches and positions, float64."""
    flat = [x.transpose(0, 1).flatten(1) for x in batches]
    number = sum(x.shape[1] for x in flat)
    mean = torch.stack([x.sum(1).double() for x in flat]).sum(0) / number
    squares = [(x - mean[:, None].to(x)).square().sum(1).double() for x in flat]
    return mean, torch.stack(squares).sum(0) / number
