"""Published numbers: each with its paper, its place and how sure we are; what follows from shapes is derived."""

import re

import pandas as pd
import pytest
import torch
from torch import nn

from tnlib import layers, paths

WORKS = paths.REFERENCE / "works.csv"
TABLES = sorted(
    path
    for path in paths.REFERENCE.glob("*.csv")
    if path != WORKS and "certainty" in path.read_text().partition("\n")[0]
)
NOVIKOV = paths.REFERENCE / "novikov2015.csv"


def test_the_tables_are_there():
    assert {"lebedev2015.csv", "networks.csv", "novikov2015.csv"} <= {path.name for path in TABLES}


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_every_number_has_a_place_and_a_certainty(path):
    table = pd.read_csv(path)
    assert set(table["certainty"]) <= {"abstract", "table", "secondary", "computed"}
    assert table[["value", "paper", "place"]].notna().all().all()
    assert pd.api.types.is_numeric_dtype(table["value"])
    assert ((table["certainty"] == "abstract") == table["place"].str.startswith("abstract")).all()
    assert not table.duplicated(["claim"] if "claim" in table else ["network", "metric"]).any()


def test_what_is_computed_follows_from_the_shapes():
    claims = pd.read_csv(NOVIKOV)
    computed = claims[claims["certainty"] == "computed"].set_index("claim")["value"].to_dict()
    with torch.device("meta"):
        layer = nn.Linear(25088, 4096, bias=False)
    digits = {"row_dims": (4,) * 6, "col_dims": (2, 7, 8, 8, 7, 4)}
    ours = {
        f"TT{rank} FC FC: factor on the layers": layer.weight.numel() // layers.size(layer, "ttm", rank, **digits)
        for rank in (4, 2, 1)
    }
    assert computed == ours
    assert len(ours) == 3


def test_novikovs_table_2_is_whole():
    claims = pd.read_csv(NOVIKOV)
    of_table = claims[claims["place"] == "table 2"]["claim"].str.partition(": ")
    networks = [f"{kind} {name}" for name in ("VGG-16", "VGG-19") for kind in ("factor on", "top-1 error of")]
    networks += [f"top-5 error of {name}" for name in ("VGG-16", "VGG-19")]
    assert of_table.groupby(0)[2].apply(set).map(lambda found: found == {"factor on the layers", *networks}).all()
    assert of_table[0].nunique() == 8
    assert (claims["place"] == "table 3").sum() == 8


GROUPS = {"matrix", "cp", "tucker", "tt", "tr", "kronecker", "mixed", "pruning", "metric", "reconstruction"}
GROUPS |= {"rank-learning", "theory", "quantization", "transformer"}
NUMBERS = ["before", "after", "change", "macs_removed", "params_removed", "speedup"]


@pytest.fixture(scope="module")
def works():
    return pd.read_csv(WORKS)


def test_works_say_where_each_number_was_read_and_how_sure_that_is(works):
    assert list(works)[:2] == ["work", "year"]
    assert works[["work", "title", "group", "source", "certainty"]].notna().all().all()
    assert works["year"].dropna().between(2011, 2026).all()
    assert works[works["year"].isna()]["work"].nunique() < 6  # software, and what names no year
    assert set(works["certainty"]) == {"abstract", "table", "secondary"}
    assert set(works["group"]) <= GROUPS
    assert set(works["labels"].dropna()) <= {"yes", "no", "unlabelled"}
    for column in NUMBERS:
        assert pd.api.types.is_numeric_dtype(works[column]), column
    assert not works.duplicated([c for c in works if c not in ("source", "remark", "certainty")]).any()
    assert works.groupby("work")["year"].nunique().max() == 1
    told = works[NUMBERS].notna().any(axis=1)
    assert works[told]["work"].nunique() >= 60
    assert told.sum() >= 150


def test_works_are_consistent(works):
    """Shares lie below 100 %; a change is the difference of what stands beside it, up to rounding."""
    removed = works[["macs_removed", "params_removed"]].stack().dropna()
    assert removed.between(-50, 100).all()
    both = works[works[["before", "after", "change"]].notna().all(axis=1) & works["metric"].str.contains("accuracy")]
    assert len(both) > 100
    off = both[((both["after"] - both["before"] - both["change"]).abs() > 0.06)]
    assert off.empty, off[["work", "network", "before", "after", "change"]].to_string()
    accuracies = works[works["metric"].isin(["top-1 accuracy", "top-5 accuracy"])]
    assert accuracies[["before", "after"]].stack().dropna().between(0, 100).all()


def test_every_work_has_an_idea_and_every_entry_a_work(works):
    ideas = pd.read_csv(paths.REFERENCE / "ideas.csv")
    assert set(ideas["work"]) == set(works["work"])
    assert not ideas["work"].duplicated().any()
    entries = re.findall(r"^@\w+\{([^,\s]+),", (paths.REFERENCE / "works.bib").read_text(), re.MULTILINE)
    assert len(entries) == len(set(entries))
    assert set(ideas["entry"].dropna()) == set(entries)
