"""Links that the texts do not spell out: terms to the glossary, numbers to lessons, names in code to the reference.

Texts say **border rank**, "notebook 02" and `decompose.cp`, in JupyterLab, too. Here each is a link. A term is one
where it stands in bold or italics; of two words, or with capitals, also where a page first mentions it.
"""

from __future__ import annotations

import builtins
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.nodes import make_refnode

GLOSSARY = "notebooks/GLOSSARY"
NUMBERS = re.compile(r"(?<!\w)(?:[Nn]otebooks?|[Ll]essons?) \d\d(?:(?:, | and | to |, and )\d\d)*(?!\d)")
NAME = re.compile(r"(?:tnlib\.)?((?:[A-Za-z]\w*\.)+[A-Za-z]\w*)(?:\(.*\))?", re.DOTALL)
# What a link must not stand in: a link, a heading, code, a formula.
CLOSED = (
    *(nodes.reference, nodes.title, nodes.literal, nodes.literal_block, nodes.math, nodes.math_block, nodes.raw),
    *(addnodes.pending_xref, addnodes.download_reference, nodes.citation, nodes.thead),
)


def slug(term: str) -> str:
    """The id of a term on the glossary's page."""
    return "term-" + re.sub(r"[^a-z0-9]+", "-", term.lower()).strip("-")


def terms(text: str) -> dict[str, str]:
    """Every term of the glossary, in lower case, with the sentence that explains it.

    A term is what stands in bold before an entry's first colon. A sentence with more of a formula than letters is
    left out.
    """
    found = {}
    for entry in re.findall(r"^- (.+(?:\n(?!- |\n|#).+)*)", text, re.MULTILINE):
        head, _, rest = " ".join(entry.split()).partition(": ")
        sentence = re.split(r"(?<=[.;]) ", rest)[0].rstrip(";")
        sentence = re.sub(r"\$([^$\\]+)\$|[`*]", lambda match: match[1] or "", sentence)
        plain = "" if "$" in sentence else re.sub(r" ?\[[\d, ]+\]", "", sentence)
        for term in re.findall(r"\*\*([^*$]+)\*\*", head):
            found[term.strip("`").lower()] = plain
    return found


def _open_texts(document: nodes.document) -> Iterator[nodes.Text]:
    for node in list(document.findall(nodes.Text)):
        parent = node.parent
        while parent is not None and not isinstance(parent, CLOSED):
            parent = parent.parent
        if parent is None:
            yield node


def _split(node: nodes.Text, matches: list[tuple[int, int, nodes.Node]]) -> None:
    """Put nodes in the place of stretches of a text."""
    text, parts, at = node.astext(), [], 0
    for start, end, new in matches:
        parts += [nodes.Text(text[at:start])] if start > at else []
        parts.append(new)
        at = end
    parts += [nodes.Text(text[at:])] if at < len(text) else []
    node.parent.replace(node, parts)


def _to(env: BuildEnvironment, page: str, fragment: str, shown: nodes.Node, title: str, kind: str) -> nodes.reference:
    builder = env.app.builder
    link = make_refnode(builder, env.docname, page, fragment or None, shown, title or None)
    link["classes"].append(kind)
    return link


def link_lessons(env: BuildEnvironment, document: nodes.document) -> None:
    """`notebook 02` and, in the glossary, `[02]`: links to lessons."""
    pages = {name.rpartition("/")[2][:2]: name for name in env.found_docs if re.fullmatch(r"notebooks/\d\d_\w+", name)}
    pattern = re.compile(NUMBERS.pattern + r"|\[\d\d(?:, \d\d)*\]") if env.docname == GLOSSARY else NUMBERS
    for node in _open_texts(document):
        matches = []
        for stretch in pattern.finditer(node.astext()):
            for number in re.finditer(r"\d\d", stretch[0]):
                page = pages.get(number[0])
                if page and page != env.docname:
                    start = stretch.start() + number.start()
                    link = _to(env, page, "", nodes.inline(number[0], number[0]), "", "lesson")
                    matches.append((start, start + 2, link))
        if matches:
            _split(node, matches)


def link_terms(env: BuildEnvironment, document: nodes.document, known: dict[str, str]) -> None:
    """Terms: links to the glossary, its sentence as tooltip; on the glossary's own page, the places they lead to."""
    if env.docname == GLOSSARY:
        for item in document.findall(nodes.list_item):
            for node in item.findall(nodes.strong):
                name = slug(node.astext())
                if node.astext().lower() in known and name not in document.ids:
                    node["ids"].append(name)
                    document.ids[name] = node
        return
    if not env.docname.startswith("notebooks/"):
        return
    seen: set[str] = set()

    def link(term: str, shown: nodes.Node) -> nodes.reference:
        seen.add(term)
        return _to(env, GLOSSARY, slug(term), shown, known[term] or "in the glossary", "term")

    for node in _open_texts(document):
        parent, text = node.parent, " ".join(node.astext().split()).lower()
        if isinstance(parent, nodes.strong | nodes.emphasis) and len(parent) == 1 and text in known:
            parent.replace(node, link(text, nodes.inline(node.astext(), node.astext())))
    noticeable = sorted((term for term in known if " " in term or term in CAPITALS), key=len, reverse=True)
    shown = {term: CAPITALS.get(term, term) for term in noticeable}
    pattern = re.compile(r"(?<![\w-])(?:" + "|".join(re.escape(shown[term]) for term in noticeable) + r")(?![\w-])")
    back = {text: term for term, text in shown.items()}
    for node in _open_texts(document):
        matches = []
        for stretch in pattern.finditer(node.astext()):
            term = back[stretch[0]]
            if term not in seen:
                matches.append((*stretch.span(), link(term, nodes.inline(stretch[0], stretch[0]))))
        if matches:
            _split(node, matches)


CAPITALS: dict[str, str] = {}


def link_names(env: BuildEnvironment, document: nodes.document) -> None:
    """`decompose.cp`, in code style: a link to the reference, if it is there."""
    for node in list(document.findall(nodes.literal)):
        name = NAME.fullmatch(node.astext())
        inside = isinstance(
            node.parent, nodes.reference | addnodes.pending_xref | addnodes.download_reference | nodes.title
        )
        if name and not inside:
            options = {"refdomain": "py", "reftype": "obj", "reftarget": f"tnlib.{name[1]}", "refdoc": env.docname}
            node.replace_self(addnodes.pending_xref("", node.deepcopy(), **options))


def _read(app: Sphinx, document: nodes.document) -> None:
    env: BuildEnvironment = app.env
    text = (Path(app.srcdir) / f"{GLOSSARY}.md").read_text()
    known = terms(text)
    if not CAPITALS:
        heads = re.findall(r"\*\*`?([^*$`]+)`?\*\*", text)
        CAPITALS.update(
            {head.lower(): head for head in heads if len(re.findall(r"[A-Z]", head)) > 1 and head.lower() in known}
        )
    link_lessons(env, document)
    link_terms(env, document, known)
    link_names(env, document)
    link_folders(env, document)
    unlink_builtins(document)


def link_folders(env: BuildEnvironment, document: nodes.document) -> None:
    """A link to a folder leads to its page; one to README to the first page, where its beginning stands."""
    for node in document.findall(addnodes.pending_xref):
        if node["reftype"] == "myst" and not node.get("refdomain"):
            target = os.path.normpath(Path(env.docname).parent / node["reftarget"])
            pages = ["index"] if target == "README.md" else [f"{target}/README", f"{target}/index"]
            for page in env.found_docs.intersection(pages):
                node["refdomain"], node["reftarget"], node["reftargetid"] = "doc", page, None


def unlink_builtins(document: nodes.document) -> None:
    """`bytes` in a signature is Python's, not an attribute of ours of that name."""
    for node in list(document.findall(addnodes.pending_xref)):
        if node.get("refdomain") == "py" and hasattr(builtins, node["reftarget"]):
            node.replace_self(node.children)


def _escape(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text with names in backticks: a star or a bar outside of those is one.

    What `NamedTuple` says of its fields says nothing.
    """
    if lines and re.fullmatch(r"Alias for field number \d+", lines[0]):
        lines.clear()
    for n, line in enumerate(lines):
        lines[n] = re.sub(r"(`[^`]*`)|([*|])", lambda found: found[1] or "\\" + found[2], line)


def _trimmed(toc: nodes.bullet_list) -> nodes.bullet_list:
    """A page's own entry and the pages below it, without its sections."""
    short = nodes.bullet_list()
    for item in toc.children:
        below = [tree.deepcopy() for tree in item.findall(addnodes.toctree)]
        kept = [part.deepcopy() for part in item.children if isinstance(part, addnodes.compact_paragraph)]
        if kept:
            short += nodes.list_item("", *kept, *([nodes.bullet_list("", *below)] if below else []))
        else:
            short += below
    return short


@cache
def _short_tocs(env: BuildEnvironment) -> dict[str, nodes.bullet_list]:
    return {name: _trimmed(toc) for name, toc in env.tocs.items()}


def _navigate(app: Sphinx, page: str, template: str, context: dict[str, Any], document: nodes.document | None) -> None:
    """The list of pages beside each page holds no sections; without them it takes a fraction of the time."""
    env, whole = app.env, context["toctree"]
    short = _short_tocs(env)

    def toctree(**options: Any) -> str:
        kept, env.tocs = env.tocs, short
        try:
            return str(whole(**options))
        finally:
            env.tocs = kept

    context["toctree"] = toctree


def setup(app: Sphinx) -> dict[str, Any]:
    """As Sphinx asks of an extension."""
    app.connect("doctree-read", _read)
    app.connect("autodoc-process-docstring", _escape, priority=100)
    app.connect("html-page-context", _navigate, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True, "version": "1"}
