"""The write-up on the scheme: made from the records, complete in one file, two pages long."""

import re
import shutil
import subprocess
import sys
from html import unescape

import pytest

from tnlib import paths, study


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("writeup")
    command = [sys.executable, paths.ROOT / "book" / "write_up.py", folder]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "emis.html"


def text_of(page):
    plain = re.sub(r"<style>.*?</style>|<[^>]*>", " ", page.read_text(), flags=re.DOTALL)
    return re.sub(r"\s+", " ", unescape(plain))


def test_it_shows_what_is_on_record(page):
    found, text = study.results("ablate-scheme"), text_of(page)
    found = found[(found["parameters.profile"] == "full") & (found["parameters.weights"] == "published")]
    discounts = found.get("parameters.discount", found["seed"] * 0.0).fillna(0.0)
    usual = discounts.eq(found.assign(less=discounts)["less"].mode()[0]) & found["parameters.inputs"].eq(1000)
    usual &= found["parameters.formats"].map(" ".join).eq("spatial_svd cp3") & found["parameters.metric"].eq("exact")
    usual &= found["parameters.rounds"].eq(3) & found["parameters.counted"].eq("exact")
    usual &= found["parameters.pictures"].eq("training") & found["parameters.choice"].eq("allocated")
    means = {}
    for record in found[usual].sort_values("date").to_dict("records"):
        for row in record["metrics.rows"]:  # of runs that were made again the newest counts
            draws = means.setdefault((record["parameters.network"], row["budget"]), {})
            draws[record["seed"]] = row["sequence_accuracy"]
    assert means
    for draws in means.values():
        assert f"{100 * sum(draws.values()) / len(draws):.2f}" in text


def test_it_needs_nothing_else_and_shows_no_code(page):
    html = page.read_text()
    assert not re.search(r"""(src|href)=["'](?!data:|#)|@import|url\(""", html)
    assert html.count("<img") == html.count("data:image/png;base64,") == 1
    assert "import pandas" not in html
    assert "Traceback" not in html
    assert not re.search(r"\bnan\b", text_of(page))


def test_it_has_two_pages(page):
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium, which prints pages")
    pdf, profile = page.with_suffix(".pdf"), page.parent / "profile"
    how = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}", "--no-pdf-header-footer"]
    subprocess.run(
        [chromium, *how, f"--print-to-pdf={pdf}", page.as_uri()], check=True, capture_output=True, timeout=120
    )
    assert len(re.findall(rb"/Type /Page\b", pdf.read_bytes())) == 2
