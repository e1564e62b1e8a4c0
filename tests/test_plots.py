"""Drawings of tensor networks: what is drawn for each kind of index, where, and what is said of a bad equation."""

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.patches import Circle

from tnlib import plots

mpl.use("Agg")
import matplotlib.pyplot as plt


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def drawn(ax):
    """Numbers of tensors, lines and dots, and the set of texts."""
    lines = [line for line in ax.get_lines() if line.get_marker() == "None"]
    dots = [line for line in ax.get_lines() if line.get_marker() == "o"]
    return sum(isinstance(p, Circle) for p in ax.patches), len(lines), len(dots), {t.get_text() for t in ax.texts}


def centres(ax):
    return np.array([patch.center for patch in ax.patches])


@pytest.mark.parametrize(
    ("equation", "tensors", "lines", "dots"),
    [
        ("ij,jk->ik", 2, 3, 0),  # an edge and two legs
        ("ijk->ijk", 1, 3, 0),
        ("ij,ij->", 2, 2, 0),  # parallel edges
        ("ia,ajb,bk->ijk", 3, 5, 0),
        ("abc,ia,jb,kc->ijk", 4, 6, 0),
        ("ab,bc,ca->", 3, 3, 0),
        ("ir,jr,kr->ijk", 3, 6, 1),  # a summed index in three tensors
        ("ir,jr,kr->ijkr", 3, 7, 1),  # and a kept one
        ("bij,bjk->bik", 2, 5, 1),  # a batch index
        ("ij->i", 1, 2, 1),  # summed in one tensor
        ("ii->", 1, 2, 1),
        ("ii->i", 1, 3, 1),
        ("iij,jk->k", 2, 4, 1),
        ("iij,ik->jk", 2, 5, 1),
        ("i,j->ij", 2, 2, 0),
    ],
)
def test_every_index_is_drawn_as_its_kind(equation, tensors, lines, dots):
    got = drawn(plots.einsum_graph(equation))
    assert got[:3] == (tensors, lines, dots)
    letters = {c for c in equation if c.isalpha()}
    assert got[3] == letters | {chr(ord("A") + n) for n in range(tensors)}


def test_without_an_arrow_the_indices_that_occur_once_are_kept():
    assert drawn(plots.einsum_graph("ij,jk")) == drawn(plots.einsum_graph("ij,jk->ik"))


def test_names_and_sizes_are_written():
    ax = plots.einsum_graph("ij,jk->ik", names=("W", "x"), sizes={"i": 3, "j": 4})
    assert drawn(ax)[3] == {"W", "x", "i=3", "j=4", "k"}


def test_given_axes_are_used_and_returned():
    _, axes = plt.subplots(1, 2)
    assert plots.einsum_graph("ij->ij", ax=axes[1]) is axes[1]
    assert not axes[0].patches


@pytest.mark.parametrize("equation", ["ij,jk,kl,lm->im", "kl,ij,lm,jk->im", "i,j,k->ijk", "ia,bk,ajb->ijk"])
def test_a_chain_stands_in_a_row(equation):
    at = centres(plots.einsum_graph(equation))
    np.testing.assert_allclose(at[:, 1], 0)
    assert np.diff(np.sort(at[:, 0])).min() > 1


def test_neighbours_of_a_chain_stand_side_by_side_whatever_their_order():
    at = centres(plots.einsum_graph("kl,ij,lm,jk->im"))
    assert list(np.argsort(at[:, 0])) in ([1, 3, 0, 2], [2, 0, 3, 1])


@pytest.mark.parametrize(("equation", "ring"), [("abc,ia,jb,kc->ijk", [1, 2, 3]), ("ab,bc,cd,da->", [0, 1, 2, 3])])
def test_other_networks_stand_on_a_circle_a_star_around_its_centre(equation, ring):
    at = centres(plots.einsum_graph(equation))
    radii = np.linalg.norm(at, axis=1)
    np.testing.assert_allclose(radii[ring], radii[ring[0]])
    np.testing.assert_allclose(np.delete(radii, ring), 0)


@pytest.mark.parametrize("equation", ["ijk->ijk", "ia,ajb,bk->ijk", "ir,jr,kr->ijk", "aijb,bklc,cmna->ijklmn"])
def test_everything_drawn_lies_inside_the_axes(equation):
    ax = plots.einsum_graph(equation)
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    points = np.concatenate(
        [line.get_xydata() for line in ax.get_lines()] + [np.array([t.get_position() for t in ax.texts])]
    )
    assert left < points[:, 0].min()
    assert points[:, 0].max() < right
    assert bottom < points[:, 1].min()
    assert points[:, 1].max() < top


@pytest.mark.parametrize(
    ("equation", "options", "message"),
    [
        ("", {}, "expected letters for each"),
        ("ij,,jk->ik", {}, "expected letters for each"),
        ("...ij,jk->ik", {}, "no ellipsis"),
        ("i1->i", {}, "expected letters for each"),
        ("ij,jk->iz", {}, r"keeps \['z'\]"),
        ("ij->ji->i", {}, r"keeps \['-', '>'\]"),
        ("ij->i,j", {}, r"keeps \[','\]"),
        ("ij->ii", {}, "keeps an index twice"),
        ("ij,jk->ik", {"names": ("A",)}, r"1 names \['A'\], expected 2"),
        ("ij,jk->ik", {"sizes": {"z": 3}}, r"sizes of \['z'\].*expected some of \['i', 'j', 'k'\]"),
    ],
)
def test_a_bad_equation_is_quoted_with_what_was_expected(equation, options, message):
    with pytest.raises(ValueError, match=message) as error:
        plots.einsum_graph(equation, **options)
    assert repr(equation) in str(error.value)
