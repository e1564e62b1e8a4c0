"""The table of what is left of sentence embeddings, for `tables`: from the records of the sweep `sentences_study`."""

from __future__ import annotations

import pandas as pd

from tnlib.study.store import results

LEFT = ("raw_cosine", "raw_spearman", "raw_same_neighbour", "raw_own_half")


def rows() -> tuple[list[str], list[list[str]], str]:
    """Head, rows and a line below: each norm and choice of ranks at each share; mean, smallest and largest draw."""
    head = [
        "linear layers",
        "ranks",
        "norm",
        "network",
        "MACs",
        "cosine",
        "Spearman",
        "same neighbour",
        "finds its half",
        "draws",
    ]
    frame = results("compress-sentences")
    frame = frame if frame.empty else frame[frame["parameters.weights"].ne("") & ~frame["parameters.repaired"]]
    if frame.empty:
        return head, [], "No run is on record yet."
    frame = frame.drop_duplicates("run.key", keep="last")
    points = pd.DataFrame(
        [row | {"metric": r["parameters.metric"]} for _, r in frame.iterrows() for row in r["metrics.rows"]]
    )
    found: list[list[str]] = []
    for (share, choice, metric), same in sorted(points.groupby(["share", "choice", "metric"]), reverse=True):
        costs = [f"{same[kind].mean():.1%}" for kind in ("params", "macs")]
        found.append([f"{share:.0%}", str(choice), f"`{metric}`", *costs, *(_spread(same[key]) for key in LEFT)])
        found[-1].append(str(len(same)))
    dense = frame.drop_duplicates("seed")
    found.insert(0, ["100%", "the original", "", "100%", "100%", "1", "1", "1", _spread(dense["metrics.own_half"])])
    found[0].append(str(len(dense)))
    told = frame.iloc[-1]
    line = (
        f"{told['metrics.texts']:.0f} halves of verses in each draw, in brackets the lowest and the "
        f"highest; {told['metrics.inputs']:.0f} others were looked at. Linear layers have "
        f"{told['metrics.linear_params']:,.0f} of the network's {told['metrics.params']:,.0f} parameters; MACs are "
        f"those of 32 tokens. Records: sweep `sentences_study`."
    )
    return head, found, line


def _spread(values: pd.Series[float]) -> str:
    """Their mean, and the smallest and the largest where there are several."""
    return f"{values.mean():.3f}" + f" ({values.min():.3f} to {values.max():.3f})" * (len(values) > 1)
