"""What a reader does, in a real browser: a lesson in JupyterLab, then the book from a disk. `make browser` runs it.

Pytest does not collect this file by itself: it takes minutes, needs Chromium, and the book built. Any error in the
browser's console, any failed request, any address outside fails it.
"""

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from urllib.parse import urlsplit

import pytest

from tnlib import paths

playwright = pytest.importorskip("playwright.sync_api", reason="the driver is missing: pip install '.[browser]'")
CHROMIUM = os.environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
SITE = paths.ROOT / "build" / "book"
ANSWER = """import math
def sweep_runs(grid, seeds):
    return math.prod(len(values) for values in grid.values()) * seeds
check.sweep_runs(sweep_runs)"""
PATIENCE = 60_000  # ms; a busy machine is slow

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium here: install Debian's package chromium, or name one in CHROMIUM"
)


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        as_root = ["--no-sandbox"] if hasattr(os, "getuid") and os.getuid() == 0 else []
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=as_root)
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    """A page whose errors fail the test at its end."""
    page, wrong = browser.new_page(viewport={"width": 1400, "height": 1000}), []
    page.set_default_timeout(PATIENCE)
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("requestfailed", lambda request: wrong.append(f"failed: {request.url} ({request.failure})"))
    page.on(
        "response",
        lambda response: wrong.append(f"{response.status}: {response.url}") if response.status >= 400 else None,
    )
    page.on("request", lambda request: wrong.append(f"outside: {request.url}") if is_outside(request.url) else None)
    yield page
    page.close()
    # A page that is left behind takes its open requests with it.
    assert [line for line in wrong if "ERR_ABORTED" not in line] == []


def is_outside(address):
    parts = urlsplit(address)
    return parts.scheme in ("http", "https", "ws", "wss") and parts.hostname not in ("127.0.0.1", "localhost")


@pytest.fixture
def lab(tmp_path):
    """The address of a lesson in a JupyterLab of its own, on copies that `tnlib learn` has made."""
    subprocess.run(
        [sys.executable, "-m", "tnlib", "learn", "--folder", tmp_path / "learn"], check=True, capture_output=True
    )
    # All cells are in the page, not only those in sight.
    settings = tmp_path / "settings" / "@jupyterlab" / "notebook-extension"
    settings.mkdir(parents=True)
    (settings / "tracker.jupyterlab-settings").write_text(json.dumps({"windowingMode": "none"}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root", f"--port={port}"]
    command += [f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={tmp_path}"]
    command += ["--ServerApp.jpserver_extensions={'jupyterlab_jupytext': False}"]
    command += [f"--LabApp.app_settings_dir={tmp_path / 'learn' / '.lab'}"]
    command += [f"--LabApp.user_settings_dir={tmp_path / 'settings'}", f"--LabApp.workspaces_dir={tmp_path / 'spaces'}"]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api?token={token}", timeout=5).close()
                break
            except OSError:
                assert server.poll() is None, (tmp_path / "log").read_text()
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/lab/tree/learn/10_run_a_study.ipynb?token={token}"
    finally:
        server.terminate()
        server.wait(30)


def test_a_lesson_runs_and_an_answer_is_right(lab, page):
    page.goto(lab)
    page.locator(".jp-Notebook .jp-Cell").first.wait_for()
    # A cell that is sent before the kernel listens is lost.
    playwright.expect(page.locator("#jp-main-statusbar")).to_contain_text("| Idle", timeout=PATIENCE)
    assert page.locator(".jp-RenderedHTMLCommon h1").first.inner_text().startswith("Run a study")
    page.locator(".jp-CodeCell .jp-InputPrompt").first.click()
    page.keyboard.press("Shift+Enter")
    playwright.expect(page.locator(".jp-CodeCell .jp-InputPrompt").first).to_have_text("[1]:", timeout=PATIENCE)
    for _ in range(3):  # imports, a text, a table
        page.keyboard.press("Shift+Enter")
    # The table of an experiment's parameters is there, and computed now.
    table = page.locator(".jp-CodeCell", has_text="study.parameters_of(experiment)").first
    playwright.expect(table.locator(".jp-InputPrompt")).to_have_text(re.compile(r"\[3\]"), timeout=PATIENCE)
    playwright.expect(table.locator("table")).to_contain_text("rank")

    exercise = page.locator(".jp-CodeCell", has_text="check.sweep_runs(sweep_runs)").first
    exercise.scroll_into_view_if_needed()
    exercise.locator(".cm-content").click()
    page.keyboard.press("Shift+Enter")
    playwright.expect(exercise.locator(".jp-OutputArea")).to_contain_text("not attempted yet", timeout=PATIENCE)
    exercise.locator(".cm-content").click()
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.insert_text(ANSWER)
    page.keyboard.press("Shift+Enter")
    playwright.expect(exercise.locator(".jp-OutputArea")).to_contain_text("Right.", timeout=PATIENCE)
    page.keyboard.press("ControlOrMeta+s")


def open_first(page):
    assert (SITE / "index.html").is_file(), "the book is not built: make book"
    page.goto((SITE / "index.html").as_uri())


def typeset(page):
    """Wait until MathJax is done; every formula is drawn, none as an error. The number of formulas."""
    number = page.locator(".math").count()
    if number:
        page.wait_for_function("() => Boolean(window.MathJax?.startup?.promise)")
        page.evaluate("MathJax.startup.promise.then(() => true)")
    assert page.locator(".math mjx-container svg").count() >= number
    assert page.locator(".math [data-mml-node=merror]").count() == 0
    return number


def test_the_path_of_lessons_is_walked_from_a_disk(page):
    open_first(page)
    lessons = sorted(path.stem for path in paths.NOTEBOOKS.glob("[0-9]*.ipynb"))
    page.locator("article table a").first.click()
    seen, formulas = [], 0
    while True:
        page.wait_for_load_state()
        seen.append(page.url.rpartition("/")[2].removesuffix(".html"))
        formulas += typeset(page)
        following = page.locator("article p", has_text="Next:").first.locator("a", has_text=re.compile(r"^\d\d ")).last
        if len(seen) == len(lessons):
            break
        following.click()
        page.wait_for_url(f"**/{lessons[len(seen)]}.html*")
    assert seen == lessons
    assert formulas > 1000


def test_search_finds_a_lesson_from_a_disk(page):
    open_first(page)
    page.locator(".sidebar-search").fill("border rank")
    page.keyboard.press("Enter")
    found = page.locator("#search-results li a", has_text="Fit a CPD").first
    found.click()
    page.wait_for_url("**/02_fit_cpd.html*")
    term = page.locator("a.term", has_text="border rank").first
    assert len(term.get_attribute("title")) > 20
    term.click()
    page.wait_for_url("**/GLOSSARY.html#term-border-rank")


def test_the_explorer_answers_to_choices_and_sliders(page):
    open_first(page)
    page.get_by_role("link", name="the explorer", exact=True).click()
    page.wait_for_url("**/explorer.html")
    for part, first in (("explorer-layer", "Layer"), ("explorer-network", "Network")):
        place = page.locator(f"#{part}")
        rows, lines = place.locator("tbody tr"), place.locator("svg path")
        assert rows.count() == lines.count() > 1
        assert sum(len(lines.nth(k).get_attribute("d")) > 20 for k in range(lines.count())) > 3
        before = rows.all_inner_texts()
        place.get_by_label("Share left").fill("80")
        playwright.expect(place.locator("output")).to_have_text("80 %")
        later = rows.all_inner_texts()
        assert later != before
        place.get_by_label(first, exact=True).select_option(index=0)
        assert rows.all_inner_texts() != later
        assert "NaN" not in place.inner_text()


def test_light_and_dark_a_folded_output_and_a_telephone(page):
    page.emulate_media(color_scheme="light")
    page.goto((SITE / "notebooks" / "07_measure_what_it_costs.html").as_uri())
    typeset(page)

    def brightness():
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(map(int, re.findall(r"\d+", colour)[:3])) / 3

    kinds = set()
    for _ in range(3):  # automatic, light, dark, in some order
        page.locator(".theme-toggle:visible").first.click()
        kinds.add("light" if brightness() > 200 else "dark" if brightness() < 60 else "grey")
    assert kinds == {"light", "dark"}

    folded = page.locator("article details.hide").first
    assert not folded.locator(".cell_output, .output").first.is_visible()
    folded.locator("summary").click()
    assert folded.locator(".cell_output, .output").first.is_visible()

    for width in (1400, 400):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        figures = page.locator("article img").all()
        assert max(figure.bounding_box()["width"] for figure in figures if figure.is_visible()) <= width
