"""The figures that several notebooks share, and the style of all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

# One colour and one marker a format, the same in every figure (Okabe and Ito's palette).
FORMAT_STYLE: dict[str, dict[str, str]] = {
    "svd": {"color": "#0072B2", "marker": "o"},
    "spatial_svd": {"color": "#56B4E9", "marker": "s"},
    "cp": {"color": "#D55E00", "marker": "^"},
    "tucker2": {"color": "#009E73", "marker": "D"},
    "tt": {"color": "#CC79A7", "marker": "v"},
}


def use_style() -> None:
    """Apply the workbook's matplotlib style to all figures that follow."""
    plt.style.use(Path(__file__).with_name("tnlib.mplstyle"))


def label_lines(ax: Axes, *, gap: float = 0.06, pad: float = 0.012) -> None:
    """Write each line's label at its right end in its colour, instead of a legend; labels are kept `gap` apart.

    `gap` and `pad` are fractions of the axes' height and width. Lines without a label are left alone.
    """
    lines = [line for line in ax.get_lines() if not str(line.get_label()).startswith("_")]
    to_axes = ax.transData + ax.transAxes.inverted()
    ends = []
    for line in lines:
        x, y = np.asarray(line.get_xdata(), dtype=float), np.asarray(line.get_ydata(), dtype=float)
        last = int(np.nanargmax(x))
        ends.append((to_axes.transform((x[last], y[last])), line))
    below = -np.inf
    for (x_end, y_end), line in sorted(ends, key=lambda end: float(end[0][1])):
        y_label = max(float(y_end), below + gap)
        below = y_label
        ax.text(
            float(x_end) + pad,
            y_label,
            str(line.get_label()),
            color=line.get_color(),
            transform=ax.transAxes,
            va="center",
        )


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
