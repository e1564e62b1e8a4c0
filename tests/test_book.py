"""The web book: it builds without a warning, shows what is stored, and asks nothing of a network."""

import json
import re
import subprocess
import sys
from html import unescape
from importlib import import_module
from inspect import isclass, isroutine

import nbformat
import pytest

from tnlib import paths
from tnlib.study import store

BOOK = paths.ROOT / "book"


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.syspath_prepend(str(BOOK))


def plain(html):
    """Text of a page without tags, entities and white space."""
    text = re.sub(r"<(script|style)\b.*?</\1>", "", html, flags=re.DOTALL)
    return re.sub(r"\s+", "", unescape(re.sub(r"<[^>]*>", "", text)))


def missing_outputs(path, html):
    """Stored outputs of a notebook that its page does not show."""
    text, missing, pictures = plain(html), [], 0
    for number, cell in enumerate(cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"):
        for output in cell.outputs:
            data = output.get("data", {})
            pictures += "image/png" in data
            shown = output.get("text") or data.get("text/plain", "")
            if "image/png" in data or "text/latex" in data or "text/markdown" in data:
                continue
            if "text/html" in data:
                shown = unescape(
                    re.sub(r"<[^>]*>", "", re.sub(r"<style.*?</style>", "", data["text/html"], flags=re.DOTALL))
                )
            if re.sub(r"\s+", "", re.sub(r"\x1b\[[\d;]*m", "", shown)) not in text:
                missing.append(f"{path.name}, code cell {number}")
    found = len(re.findall(r'<img [^>]*src="[^"]*_images/[0-9a-f]{20,}\.png"', html))
    return missing + ([f"{path.name}: {pictures} pictures, {found} shown"] if found < pictures else [])


def test_the_book_builds_holds_together_and_shows_what_is_stored(tmp_path):
    site = tmp_path / "book"
    done = subprocess.run([sys.executable, BOOK / "build.py", site], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all links hold" in done.stdout
    assert "WARNING" not in done.stderr

    notebooks = sorted(paths.NOTEBOOKS.glob("[0-9]*.ipynb"))
    notebooks += sorted(
        path for folder in ("solutions", "experiments") for path in (paths.NOTEBOOKS / folder).glob("*.ipynb")
    )
    assert len(notebooks) > 40
    mathematics = 0
    for path in notebooks:
        html = (site / path.relative_to(paths.ROOT)).with_suffix(".html").read_text()
        assert missing_outputs(path, html) == []
        assert "Run this" in html
        formulas = re.findall(r'class="math notranslate[^"]*"(?: id="[^"]*")?>(.*?)</(?:span|div)>', html, re.DOTALL)
        assert all(re.search(r"\\[(\[]", formula) for formula in formulas)
        assert not formulas or re.search(r'src="[./]*_static/mathjax/tex-svg-full\.js', html)
        mathematics += len(formulas)
    assert mathematics > 1000
    assert (site / "_static" / "mathjax" / "tex-svg-full.js").stat().st_size > 1e6

    # What a browser refuses to a page opened from a disk: to fetch another.
    assert (site / "searchindex.js").read_text().startswith("Search.setIndex(")
    assert "SHOW_SEARCH_SUMMARY: false" in (site / "_static" / "documentation_options.js").read_text()

    assert "explorer-numbers" in (site / "explorer.html").read_text()
    assert (site / "_static" / "explorer.js").is_file()
    first = (site / "index.html").read_text()
    assert all(f'href="notebooks/{path.stem}.html"' in first for path in notebooks if path.parent == paths.NOTEBOOKS)
    assert "theme-toggle" in first
    lesson = (site / "notebooks" / "02_fit_cpd.html").read_text()
    term = re.search(r'<a class="[^"]*term[^"]*" href="GLOSSARY\.html#term-border-rank" title="([^"]+)"', lesson)
    assert term
    assert 'id="term-border-rank"' in (site / "notebooks" / "GLOSSARY.html").read_text()
    assert 'href="../api/decompose.html#tnlib.decompose.cp"' in lesson
    assert 'href="01_work_with_tensors.html"' in lesson

    for part in ("decompose", "contract", "layers", "compress", "measure", "deploy", "study"):
        html = (site / "api" / f"{part}.html").read_text()
        module = import_module(f"tnlib.{part}")
        named = {name for name in module.__all__ if isroutine(getattr(module, name)) or isclass(getattr(module, name))}
        assert named <= set(re.findall(rf'id="tnlib\.{part}\.(\w+)"', html))


def test_the_explorer_shows_what_is_on_record():
    """Read back from the page, and compared with the files of the records one by one."""
    explorer = import_module("explorer")
    inside = re.search(r'id="explorer-numbers">(.*?)</script>', explorer.page(), re.DOTALL)[1]
    shown, seen = json.loads(inside), {}
    for _, record in store.read_all(paths.PUBLISHED):
        run = record["parameters"]
        if record["study"] == "price-layers" and run["profile"] == "full":
            curves = shown["layers"][f"{run['network']}, {run['weights']}"]
            assert len(record["metrics"]["rows"]) == sum(
                len(points)
                for layer in curves["curves"].values()
                for by_format in layer.values()
                for points in by_format.values()
            )
            for layer, norm, format, rank, *costs, loss in record["metrics"]["rows"]:
                found = curves["curves"][layer][norm][format]
                assert [*costs, loss] in [point[1:] for point in found]
                assert not isinstance(rank, int) or str(rank) in [point[0] for point in found]
        if record["study"] == "compare-formats" and run["profile"] == "full" and run["choice"] == "allocated":
            for row in record["metrics"]["rows"]:
                if row["reason"] is None and len(run["formats"]) == 1:
                    key = run["network"], run["formats"][0], row["budget"]
                    seen.setdefault(key, []).append([row["macs"], row["params"], row["raw_accuracy"]])
    assert shown["layers"]
    assert seen
    for (network, format, _), rows in seen.items():
        means = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
        points = shown["networks"][network]["points"][format]
        assert any(point[:3] == pytest.approx(means, abs=1e-4) for point in points)


def test_missing_outputs_are_noticed(tmp_path):
    path = paths.NOTEBOOKS / "10_run_a_study.ipynb"
    assert any("code cell" in line for line in missing_outputs(path, "<html></html>"))
    assert any("pictures, 0 shown" in line for line in missing_outputs(path, "<html></html>"))


@pytest.fixture
def site(tmp_path):
    def write(**pages):
        for name, text in pages.items():
            (tmp_path / name.replace("_", ".")).write_text(text)
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("page", "sentence"),
    [
        ('<a href="gone.html">x</a>', "a.html links to gone.html, which is not there"),
        ('<a href="b.html#gone">x</a>', "a.html links to b.html#gone, which is not there"),
        ('<a href="#gone">x</a>', "a.html links to #gone, which is not there"),
        ('<a href="../outside.html">x</a>', "a.html links to ../outside.html, which is not there"),
        ('<img src="gone.png">', "a.html links to gone.png, which is not there"),
        ('<img src="b.html" srcset="gone.png 2x">', "a.html links to gone.png, which is not there"),
        ('<script src="https://cdn.example/x.js"></script>', "a.html loads https://cdn.example/x.js"),
        ('<script src="//cdn.example/x.js"></script>', "a.html loads //cdn.example/x.js"),
        ('<link rel="stylesheet" href="https://fonts.example/f">', "a.html loads https://fonts.example/f"),
        ("<style>p { background: url('http://x.example/p.png') }</style>", "a.html loads http://x.example/p.png"),
        ('<p style="background: url(http://x.example/p.png)">', "a.html loads http://x.example/p.png"),
    ],
)
def test_what_does_not_hold_is_told(site, page, sentence):
    import links

    assert links.problems(site(a_html=page, b_html='<p id="here">')) == [sentence]


def test_what_holds_is_not_told(site):
    import links

    good = '<a href="b.html#here">x</a><a href="https://doi.example/1">a paper</a><a href="mailto:a@b.example">m</a>'
    good += '<a href="#">top</a><img src="data:image/png;base64,AAAA"><link rel="stylesheet" href="s.css?v=1">'
    style = "/* url(http://x.example/) */ p { background: url(b.html) }"
    assert links.problems(site(a_html=good, b_html='<p id="here">', s_css=style)) == []


def test_styles_are_read_and_an_empty_site_is_none(site, tmp_path):
    import links

    (tmp_path / "empty").mkdir()
    assert links.problems(tmp_path / "empty") == [f"{tmp_path / 'empty'} holds no page"]
    folder = site(a_html="<p>", s_css="@import 'https://fonts.example/f.css'; @font-face { src: url(gone.woff2) }")
    assert sorted(links.problems(folder)) == [
        "s.css links to gone.woff2, which is not there",
        "s.css loads https://fonts.example/f.css",
    ]


def test_the_path_of_lessons_is_that_of_their_headers(tmp_path):
    import pages

    found = pages.lessons()
    assert [lesson.path for lesson in found] == sorted(paths.NOTEBOOKS.glob("[0-9]*.ipynb"))
    assert list(pages.short_names()) == [lesson.path.stem for lesson in found]
    # README's table gives the same minutes.
    readme = (paths.ROOT / "README.md").read_text()
    told = re.findall(r"^\| \[\d\d [^|]*\| [^|]*\| (\d+) \|", readme, re.MULTILINE)
    assert [str(lesson.minutes) for lesson in found] == told
    assert found[0].difficulty == "Easy"
    assert found[0].first.startswith("Matrices")


def test_a_lesson_without_its_header_is_refused(tmp_path, monkeypatch):
    import pages

    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# A title\n\n**Difficulty.** Easy.")])
    nbformat.write(book, tmp_path / "30_new.ipynb")
    monkeypatch.setattr(paths, "NOTEBOOKS", tmp_path)
    with pytest.raises(
        ValueError, match=r"30_new\.ipynb lacks a title or Time, What you need first, What you'll learn"
    ):
        pages.lessons()


def test_every_section_of_the_readme_has_its_place():
    import pages

    sections = re.findall(r"^## (.+)", (paths.ROOT / "README.md").read_text(), re.MULTILINE)
    assert sorted(sections) == sorted([*pages.SECTIONS, "Lessons"])


def test_terms_come_with_a_sentence_for_a_tooltip():
    import references

    text = "# G\n\n- **border rank**: the least $R$ such\n  that. More. [02]\n- **`cp`**, **cp3**: a CPD. [06]\n"
    text += "- **order**: $\\sqrt Q$ of it.\n- no term: here\n"
    assert references.terms(text) == {
        "border rank": "the least R such that.",
        "cp": "a CPD.",
        "cp3": "a CPD.",
        "order": "",
    }
    known = references.terms((paths.NOTEBOOKS / "GLOSSARY.md").read_text())
    assert {"border rank", "cp rank", "mttkrp", "k-rank", "tt-svd", "plan"} <= set(known)
    assert len(known) == len({references.slug(term) for term in known})


def test_hidden_outputs_are_folded():
    import build

    path = paths.NOTEBOOKS / "02_fit_cpd.ipynb"
    cells = build.prepared(path).cells
    hidden = [cell for cell in nbformat.read(path, 4).cells if cell.metadata.get("jupyter", {}).get("outputs_hidden")]
    assert hidden
    assert sum("hide-output" in cell.metadata.get("tags", []) for cell in cells) == len(hidden)
    assert "make lab" in cells[1].source
