"""Settings of Sphinx for the web book; `book/build.py` stages the pages and calls it."""

import sys
from importlib.metadata import distribution
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.util.fileutil import copy_asset

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

project = "Tensor Compression Workbook"
author = "The developers of the Tensor Compression Workbook"
project_copyright = author
version = release = distribution("tnlib").version
language = "en"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinxcontrib.bibtex",
    "references",
]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}
highlight_language = "none"

# What is shown is what is stored.
nb_execution_mode = "off"
nb_merge_streams = True
nb_code_prompt_show, nb_code_prompt_hide = "Show the {type}", "Hide the {type}"
myst_enable_extensions = ["amsmath", "colon_fence", "dollarmath"]
myst_heading_anchors = 4
myst_update_mathjax = False

# Docstrings: one word in backticks is a name, and a link where it is one of ours.
default_role = "py:obj"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 100
napoleon_numpy_docstring = False
napoleon_use_rtype = False
viewcode_line_numbers = True

suppress_warnings = ["bibtex.missing_field"]  # works.bib holds the fields that could be verified
bibtex_bibfiles = [str(HERE.parent / "data" / "reference" / "works.bib")]

# One file draws formulas as SVG: no fonts to load, which browsers refuse to pages opened from a disk.
MATHJAX = "sphinx-mathjax-offline/static/mathjax/tex-svg-full.js"
mathjax_path = "mathjax/tex-svg-full.js"
mathjax_options = {"defer": "defer"}
mathjax3_config = {
    "svg": {"fontCache": "global"},
    "options": {"enableMenu": False, "ignoreHtmlClass": "tex2jax_ignore|output", "processHtmlClass": "math"},
}

html_theme = "furo"
html_title = project
html_static_path = [str(HERE / "static")]
html_css_files = ["book.css"]
html_js_files = [("explorer.js", {"defer": "defer"})]
html_copy_source = False
html_show_search_summary = False  # summaries are fetched, which browsers refuse to pages opened from a disk
html_theme_options = {"navigation_with_keys": True}


def setup(app: Sphinx) -> None:
    """Put MathJax among the site's files."""

    def copy_mathjax(app: Sphinx, failure: Exception | None) -> None:
        if failure is None:
            found = distribution("sphinx-mathjax-offline").locate_file(MATHJAX)
            copy_asset(str(found), Path(app.outdir) / "_static" / "mathjax")

    app.connect("build-finished", copy_mathjax)
