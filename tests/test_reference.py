"""Published numbers: each with its paper, its place and how sure we are; what follows from shapes is derived."""

import pandas as pd
import pytest
import torch
from torch import nn

from tnlib import layers, paths

TABLES = sorted(path for path in paths.REFERENCE.glob("*.csv") if "certainty" in path.read_text().partition("\n")[0])
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
