"""The figures that several notebooks share, and the style of all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Circle

# One colour and one marker a format, the same in every figure (Okabe and Ito's palette; the last is Tol's wine).
FORMAT_STYLE: dict[str, dict[str, str]] = {
    "svd": {"color": "#0072B2", "marker": "o"},
    "spatial_svd": {"color": "#56B4E9", "marker": "s"},
    "cp": {"color": "#D55E00", "marker": "^"},
    "tucker2": {"color": "#009E73", "marker": "D"},
    "tt": {"color": "#CC79A7", "marker": "v"},
    "ttm": {"color": "#E69F00", "marker": "P"},
    "cp3": {"color": "#882255", "marker": "<"},
}


def use_style() -> None:
    """Apply the workbook's matplotlib style to all figures that follow."""
    plt.style.use(Path(__file__).with_name("tnlib.mplstyle"))


def label_lines(ax: Axes, *, gap: float = 0.06, pad: float = 0.012) -> None:
    """Write each line's label at its right end in its colour, instead of a legend; call it when the limits are set.

    `gap` (between labels, at least, unless there are too many) and `pad` are fractions of the axes' height and width.
    A line that ends outside the axes is labelled at their edge; one without a label or a finite point is left alone.
    """
    ax.autoscale_view()  # now, not when the figure is drawn
    ends = []
    for line in ax.get_lines():
        to_axes = line.get_transform() + ax.transAxes.inverted()
        with np.errstate(all="ignore"):  # on a log axis, a value may have no place
            points = to_axes.transform(np.asarray(line.get_xydata(), dtype=float))
        points = points[np.isfinite(points).all(1)]
        if len(points) and not str(line.get_label()).startswith("_"):
            x_end, y_end = np.clip(points[np.argmax(points[:, 0])], 0, 1)
            ends.append((float(x_end), float(y_end), line))
    ends.sort(key=lambda end: end[1])
    heights = _apart([y_end for _, y_end, _ in ends], gap)
    for (x_end, _, line), height in zip(ends, heights, strict=True):
        label = ax.text(x_end + pad, height, str(line.get_label()), color=line.get_color(), va="center")
        label.set_transform(ax.transAxes)


def _apart(heights: Sequence[float], gap: float) -> list[float]:
    """Ascending heights in [0, 1] moved as far as it takes for neighbours to be `gap` apart, or equally far."""
    gap, result = min(gap, 1 / max(1, len(heights) - 1)), list(heights)
    for k in range(1, len(result)):
        result[k] = max(result[k], result[k - 1] + gap)
    for k, highest in enumerate(reversed(range(len(result)))):
        result[highest] = min(result[highest], 1 - k * gap)
    return result


def tradeoff(
    axes: Sequence[Axes],
    points: Mapping[str, Mapping[str, Sequence[float]]],
    costs: Mapping[str, str],
    reference: float,
    *,
    value: str = "accuracy",
) -> None:
    """Draw accuracy against several costs, a panel each, a line a format.

    Args:
        axes: one for each entry of `costs`.
        points: format -> column -> values; every format has the column `value` and those of `costs`.
        costs: column -> label of the x axis; costs are fractions of the original's.
        reference: accuracy of the original network, drawn as a dashed line.
        value: the column on the y axis, in [0, 1].
    """
    for ax, (column, label) in zip(axes, costs.items(), strict=True):
        ax.axhline(100 * reference, color="0.4", linestyle="--", linewidth=1)
        ax.axvline(1, color="0.8", linewidth=1)
        for name, columns in points.items():
            order = np.argsort(columns[column])
            x, y = np.asarray(columns[column])[order], 100 * np.asarray(columns[value])[order]
            ax.plot(x, y, label=name, **FORMAT_STYLE.get(name, {}))  # type: ignore[arg-type]
        ax.set_xlabel(label)
        ax.set_ylim(0, 100)
    axes[0].set_ylabel("top-1 accuracy (%)")


# Lengths in a drawn network, in units of its axes.
_RADIUS, _STEP, _LEG = 0.27, 1.35, 0.62


def einsum_graph(
    equation: str,
    *,
    names: Sequence[str] = (),
    sizes: Mapping[str, int] | None = None,
    at: Sequence[tuple[float, float]] = (),
    ax: Axes | None = None,
) -> Axes:
    """Draw the tensor network of an einsum: a circle a tensor, a line an index (`notebooks/01_work_with_tensors`).

    An index that two tensors share and that is summed is an edge; a free index is a leg that ends nowhere. Every other
    index (in three tensors or more, shared and kept, summed in one tensor, on a diagonal) is a small black dot, joined
    to each tensor that has it, with a leg when it is kept. Unless `at` says where, a chain of tensors is drawn in a
    row, a star around its centre, anything else on a circle.

    Args:
        equation: as for `torch.einsum`, letters only: `"ia,ajb,bk->ijk"`. Without `->` the indices that occur once are
            kept, in alphabetical order.
        names: of the tensors, one each; by default A, B, C, ...
        sizes: index -> its size, written beside its letter; some or all of the indices.
        at: where the tensors stand, (x, y) each, in steps between neighbours: `[(0, 1), (1, 1), (1, 0), (0, 0)]`.
        ax: where to draw; by default on a new figure.

    Raises:
        ValueError: an equation that is none, or names, sizes or places that do not fit it.
    """
    operands, output = _parse(equation)
    labels = list(names) or [chr(ord("A") + i % 26) for i in range(len(operands))]
    for what, given in {"names": labels, "places": list(at) or labels}.items():
        if len(given) != len(operands):
            raise ValueError(f"{len(given)} {what} {given}, expected {len(operands)}, one a tensor of {equation!r}")
    indices = sorted(set("".join(operands)))
    if unknown := [index for index in sizes or {} if index not in indices]:
        raise ValueError(f"sizes of {unknown}, which are no indices of {equation!r}; expected some of {indices}")
    text = {index: f"{index}={sizes[index]}" if sizes and index in sizes else index for index in indices}

    ends = {index: [n for n, operand in enumerate(operands) for c in operand if c == index] for index in indices}
    shared = {index: nodes for index, nodes in ends.items() if len(set(nodes)) > 1}
    where, is_row = _layout(len(operands), [set(nodes) for nodes in shared.values()])
    where, is_row = (_STEP * np.asarray(at, dtype=float), False) if at else (where, is_row)
    if ax is None:
        ax = plt.subplots(figsize=0.85 * np.ptp(where, axis=0) + (2, 1.7))[1]
    canvas = _Canvas(ax, output, text)
    for point, label in zip(where, labels, strict=True):
        canvas.tensor(point, label)
    for index, nodes in shared.items():
        if len(nodes) == 2:
            parallel = [other for other in shared if shared[other] == nodes]
            canvas.edge(where[nodes[0]], where[nodes[1]], index, parallel.index(index) - (len(parallel) - 1) / 2)
    hubs = [index for index, nodes in shared.items() if len(nodes) > 2]
    for i, index in enumerate(hubs):
        canvas.hub(where[shared[index]], index, i - (len(hubs) - 1) / 2)

    own = [[index for index in dict.fromkeys(operand) if index not in shared] for operand in operands]
    row_ends = {int(np.argmin(where[:, 0])): np.pi, int(np.argmax(where[:, 0])): 0.0} if is_row and shared else {}
    outwards = all(len(mine) <= (node in row_ends) for node, mine in enumerate(own))
    for node, mine in enumerate(own):
        others = [where[other] for nodes in shared.values() if node in nodes for other in nodes if other != node]
        angles = [row_ends[node]] if outwards and mine else _leg_angles(len(mine), where[node], others, is_row)
        for index, angle in zip(mine, angles, strict=True):
            canvas.own(where[node], angle, index, operands[node].count(index))
    return canvas.finish()


@dataclass
class _Canvas:
    """Draws tensors and indices on axes and remembers how much room they take."""

    ax: Axes
    output: str
    text: Mapping[str, str]
    seen: list[np.ndarray] = field(default_factory=list)

    def tensor(self, at: np.ndarray, label: str) -> None:
        self.seen.append(at)
        self.ax.add_patch(Circle((at[0], at[1]), _RADIUS, facecolor="#CFE8F7", edgecolor="#0072B2", zorder=2))
        self.ax.text(at[0], at[1], label, ha="center", va="center", zorder=5)

    def line(self, start: np.ndarray, end: np.ndarray, through: np.ndarray | None = None) -> None:
        self.seen.extend([start, end] if through is None else [start, through, end])
        t = np.linspace(0, 1, 30)[:, None]
        bend = 0 if through is None else through - (start + end) / 2
        self.ax.plot(*(start * (1 - t) + end * t + 4 * t * (1 - t) * bend).T, color="0.35", linewidth=1.6, zorder=1)

    def dot(self, at: np.ndarray) -> None:
        self.ax.plot(*at, "o", color="black", markersize=6, zorder=3)

    def write(self, at: np.ndarray, index: str) -> None:
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
        where = float(at[0]), float(at[1])
        self.ax.text(*where, s=self.text[index], ha="center", va="center", fontsize=9, bbox=box, zorder=4)

    def leg(self, start: np.ndarray, angle: float, index: str) -> None:
        towards = np.array([np.cos(angle), np.sin(angle)])
        self.line(start, start + _LEG * towards)
        self.seen.append(start + (_LEG + 0.25) * towards)
        room = 0.13 + 0.05 * (len(self.text[index]) - 1) * abs(towards[0])
        self.write(start + (_LEG + room) * towards, index)

    def edge(self, start: np.ndarray, end: np.ndarray, index: str, shift: float) -> None:
        """An index of two tensors; `shift` sets it apart from others between the same two."""
        across = np.array([start[1] - end[1], end[0] - start[0]]) / np.linalg.norm(end - start)
        middle = (start + end) / 2 + 0.5 * shift * across
        self.line(start, end, middle)
        if index in self.output:
            self.dot(middle)
            self.leg(middle, _gap(middle, [start, end]), index)
        else:
            self.write(middle, index)

    def hub(self, ends: np.ndarray, index: str, shift: float) -> None:
        """An index of three places or more: a dot between them, a line to each."""
        middle = ends.mean(0) + np.array([0, 0.5 * shift])
        self.dot(middle)
        places, counts = np.unique(ends, axis=0, return_counts=True)
        for place, count in zip(places, counts, strict=True):
            aside = np.array([place[1] - middle[1], middle[0] - place[0]])
            for i in range(count):
                self.line(middle, place, (middle + place) / 2 + 0.3 * (i - (count - 1) / 2) * aside)
        if index in self.output:
            self.leg(middle, _gap(middle, places), index)
        else:
            self.write(middle + 0.17, index)

    def own(self, at: np.ndarray, angle: float, index: str, count: int) -> None:
        """An index that one tensor has alone, `count` times: a leg, or lines to a dot when it is summed or doubled."""
        towards, aside = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
        if count == 1 and index in self.output:
            self.leg(at, angle, index)
            return
        end = at + _LEG * towards
        for i in range(count):
            self.line(at, end, (at + end) / 2 + 0.4 * (i - (count - 1) / 2) * aside)
        self.dot(end)
        if index in self.output:
            self.leg(end, angle, index)
        else:
            self.write(end + (0.16 + 0.06 * len(self.text[index])) * towards, index)

    def finish(self) -> Axes:
        low, high = np.min(self.seen, axis=0) - 0.35, np.max(self.seen, axis=0) + 0.35
        short = np.maximum([3.6, 1.8] - (high - low), 0) / 2  # circles of neighbouring panels are about equally large
        self.ax.set(xlim=(low[0] - short[0], high[0] + short[0]), ylim=(low[1] - short[1], high[1] + short[1]))
        self.ax.set_aspect("equal")
        self.ax.axis("off")
        return self.ax


def _parse(equation: str) -> tuple[list[str], str]:
    """The index letters of each tensor and of the result; ValueError says what is wrong with an equation."""
    left, arrow, output = equation.replace(" ", "").partition("->")
    operands = left.split(",")
    if not all(operand.isascii() and operand.isalpha() for operand in operands):
        raise ValueError(
            f"equation {equation!r} has the tensors {operands}, expected letters for each, as in 'ij,jk->ik' "
            "(no ellipsis, no tensor without an index)"
        )
    if not arrow:
        output = "".join(sorted(index for index in set(left) - {","} if left.count(index) == 1))
    if unknown := [index for index in output if index not in left or index == ","]:
        raise ValueError(f"equation {equation!r} keeps {unknown}, expected only indices of its tensors after '->'")
    if len(set(output)) < len(output):
        raise ValueError(f"equation {equation!r} keeps an index twice; expected each index of {output!r} once")
    return operands, output


def _layout(count: int, groups: Sequence[set[int]]) -> tuple[np.ndarray, bool]:
    """Where `count` tensors stand, (count, 2), when each group of them shares an index; and whether it is a row."""
    near = [{n for group in groups if node in group for n in group} - {node} for node in range(count)]
    order = [min((n for n in range(count) if len(near[n]) <= 1), default=0)]
    while len(order) < count and (further := near[order[-1]] - set(order)):
        order.append(min(further))
    at = np.zeros((count, 2))
    if not groups or (len(order) == count and sum(map(len, near)) == 2 * (count - 1)):
        order = order if groups else list(range(count))
        at[order, 0] = _STEP * np.arange(count)
        return at, count > 1
    centre = [n for n in range(count) if len(near[n]) == count - 1]
    star = len(centre) == 1 and sum(map(len, near)) == 2 * (count - 1)
    ring = [n for n in range(count) if not star or n != centre[0]]
    radius = max(_STEP / 2 / np.sin(np.pi / len(ring)), 1.1)
    angle = np.pi / 2 - 2 * np.pi * np.arange(len(ring)) / len(ring)
    at[ring] = radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return at, False


def _gap(point: np.ndarray, others: Sequence[np.ndarray] | np.ndarray) -> float:
    """The angle in the middle of the widest gap between the directions from a point to others; upwards if it can be."""
    angles = np.sort([np.arctan2(*(other - point)[::-1]) for other in others])
    widths = np.diff(angles, append=angles[0] + 2 * np.pi)
    middles = angles + widths / 2
    return float(middles[np.argmax(np.round(widths, 6) + 1e-3 * np.sin(middles))])


def _leg_angles(count: int, point: np.ndarray, others: Sequence[np.ndarray], is_row: bool) -> list[float]:
    """Directions of a tensor's own indices: around it, down (and up) in a row, outwards on a circle."""
    if not others and not is_row:
        return [np.pi - 2 * np.pi * i / count for i in range(count)]
    if is_row:
        down, up = (count + 1) // 2, count // 2
        fan = [-np.pi / 2 + 0.7 * (i - (down - 1) / 2) for i in range(down)]
        return fan + [np.pi / 2 - 0.7 * (i - (up - 1) / 2) for i in range(up)]
    outward = _gap(point, others)
    return [outward + 0.7 * ((count - 1) / 2 - i) for i in range(count)]
