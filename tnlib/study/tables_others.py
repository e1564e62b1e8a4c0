"""The tables of networks that nobody here wrote, for `tables`: the sweeps `sentences_study` and `speech_study`."""

from __future__ import annotations

import pandas as pd

from tnlib.study.store import results

Rows = tuple[list[str], list[list[str]], str]


def rows_of_sentences() -> Rows:
    """Head, rows and a line below: each norm and choice of ranks at each share; mean, smallest and largest draw."""
    head = ["linear layers", "ranks", "norm", "network", "MACs"]
    head += ["cosine", "Spearman", "same neighbour", "finds its half", "draws"]
    frame = _full("compress-sentences")
    if frame.empty:
        return head, [], "No run is on record yet."
    points, found = _points(frame), list[list[str]]()
    kept = ("cosine", "spearman", "same_neighbour", "own_half")
    for (share, choice, metric), same in sorted(points.groupby(["share", "choice", "metric"]), reverse=True):
        costs = [f"{same[kind].mean():.1%}" for kind in ("params", "macs")]
        for stage, name in (("raw", f"`{metric}`"), ("sequence", f"`{metric}`, in sequence")):
            if f"{stage}_cosine" in same and same[f"{stage}_cosine"].notna().any():
                some = same[same[f"{stage}_cosine"].notna()]
                figures = [_spread(some[f"{stage}_{key}"]) for key in kept]
                found.append([f"{share:.0%}", str(choice), name, *costs, *figures, str(len(some))])
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


def rows_of_speech() -> Rows:
    """Likewise, of the detector of speech: as factored, and fitted in sequence."""
    head = [
        "layers",
        "ranks",
        "norm",
        "network",
        "MACs",
        "decisions kept",
        "right",
        "in sequence: kept",
        "right",
        "draws",
    ]
    frame = _full("compress-speech")
    if frame.empty:
        return head, [], "No run is on record yet."
    dense = frame.drop_duplicates("seed")
    right = _spread(dense["metrics.original_right"])
    found = [["100%", "the original", "", "100%", "100%", "1", right, "1", right, str(len(dense))]]
    for (share, choice, metric), same in sorted(_points(frame).groupby(["share", "choice", "metric"]), reverse=True):
        costs = [f"{same[kind].mean():.1%}" for kind in ("params", "macs")]
        figures = [_spread(same[f"{stage}_{key}"]) for stage in ("raw", "sequence") for key in ("same", "right")]
        named = f"`{metric}`" if choice == "allocated" else f"svd, `{metric}`"
        found.append([f"{share:.0%}", str(choice), named, *costs, *figures, str(len(same))])
    told = frame.iloc[-1]
    line = (
        f"{told['metrics.chunks']:,.0f} chunks of 32 ms in each draw, in brackets the lowest and the highest; "
        f"{told['metrics.looked_at']:,.0f} others were looked at. Layers with weights have "
        f"{told['metrics.layer_macs']:,.0f} of {told['metrics.macs']:,.0f} MACs of a chunk. Records: sweep "
        f"`speech_study`."
    )
    return head, found, line


def _full(name: str) -> pd.DataFrame:
    """The newest record of each run with weights of others."""
    frame = results(name)
    if frame.empty:
        return frame
    return frame.loc[frame["parameters.weights"].ne("")].drop_duplicates("run.key", keep="last")


def _points(frame: pd.DataFrame) -> pd.DataFrame:
    """All rows of all records, each with the norm."""
    return pd.DataFrame(
        [row | {"metric": r["parameters.metric"]} for _, r in frame.iterrows() for row in r["metrics.rows"]]
    )


def _spread(values: pd.Series[float]) -> str:
    """Their mean, and the smallest and the largest where there are several."""
    return f"{values.mean():.3f}" + f" ({values.min():.3f} to {values.max():.3f})" * (len(values) > 1)
