"""Drawings of tensor networks: what is drawn for each index, where, what a bad equation is told; labels of lines."""

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


def test_tensors_stand_where_they_are_told():
    places = [(0, 1), (1, 1), (1, 0), (0, 0)]
    ax = plots.einsum_graph("ia,ib,jb,ja->", at=places)
    at = centres(ax)
    assert np.allclose(at / at.max(), places)
    assert drawn(ax)[:3] == (4, 4, 0)


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
        ("ij,jk->ik", {"at": [(0, 0)]}, r"1 places \[\(0, 0\)\], expected 2"),
        ("ij,jk->ik", {"sizes": {"z": 3}}, r"sizes of \['z'\].*expected some of \['i', 'j', 'k'\]"),
    ],
)
def test_a_bad_equation_is_quoted_with_what_was_expected(equation, options, message):
    with pytest.raises(ValueError, match=message) as error:
        plots.einsum_graph(equation, **options)
    assert repr(equation) in str(error.value)


NAN, INF = float("nan"), float("inf")


def labelled(ax):
    """Label -> its place as a fraction of the axes; drawing it all must not warn."""
    plots.label_lines(ax)
    ax.figure.canvas.draw()
    return {text.get_text(): text.get_position() for text in ax.texts}


@pytest.mark.parametrize("scale", ["linear", "log"])
@pytest.mark.parametrize(
    ("values", "names"),
    [
        ([[1, 1000], [1, 1000]], "ab"),  # equal ends
        ([[1, 2], [NAN, NAN], [3, NAN], [2, INF]], "acd"),
        ([[0, 0], [-1, -5], [1, 1e-300]], None),
        ([[1, 1e200], [1, 1e-200]], "ab"),
        ([[k + 1, 5] for k in range(26)], "abcdefghijklmnopqrstuvwxyz"),  # more than have room
    ],
)
def test_labels_of_any_values_are_finite_inside_and_without_a_warning(caplog, scale, values, names):
    plots.use_style()
    ax = plt.subplots()[1]
    for name, y in zip("abcdefghijklmnopqrstuvwxyz", values, strict=False):
        ax.plot([1, 2], y, label=name)
    ax.set(xscale=scale, yscale=scale, xlim=(0.5, 3))
    places = labelled(ax)
    assert names is None or set(places) == set(names)
    heights = sorted(y for _, y in places.values())
    assert all(-1e-9 <= y <= 1 + 1e-9 for y in heights)
    assert all(0 <= x <= 1.02 for x, _ in places.values())
    assert (np.diff(heights) > min(0.06, 1 / (len(heights) or 2)) - 1e-9).all()
    assert not caplog.records


def test_labels_stand_at_the_ends_of_lines_whose_limits_follow_the_data():
    ax = plt.subplots()[1]
    ax.plot([0, 10], [0, 1000], label="up")
    ax.plot([0, 10], [1000, 0], label="down")
    ax.axhline(500, label="half")
    ax.plot([0, 5], [0, 800])
    low, high = ax.get_ylim()
    places = labelled(ax)
    assert set(places) == {"up", "down", "half"}
    for name, y in (("up", 1000), ("down", 0), ("half", 500)):
        assert places[name][1] == pytest.approx((y - low) / (high - low))
    assert places["up"][0] == pytest.approx(
        ax.transAxes.inverted().transform(ax.transData.transform((10, 0)))[0] + 0.012
    )
    assert places["half"][0] == pytest.approx(1.012)


def test_a_line_that_ends_above_shared_axes_is_labelled_at_their_edge():
    plots.use_style()
    axes = plt.subplots(1, 2, sharey=True)[1]
    for ax, top in zip(axes, (1, 30), strict=True):
        ax.plot([0, 1], [0, top], label="time")
        ax.set(xlim=(0, 1.4), ylim=(0, 1))
    assert labelled(axes[0])["time"][1] == labelled(axes[1])["time"][1] == 1
