"""A walk over a built site: what does not hold, and what would be asked of a network."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# Tags whose address a browser opens by itself; an `a` is opened by the reader.
LOADED = {
    "script": "src",
    "img": "src",
    "link": "href",
    "iframe": "src",
    "source": "src",
    "audio": "src",
    "video": "src",
}
LOADED |= {"embed": "src", "object": "data", "use": "href", "image": "href", "input": "src", "track": "src"}
OUTSIDE = re.compile(r"^(?:[a-z][a-z0-9+.-]*:)?//", re.IGNORECASE)


@dataclass
class Page(HTMLParser):
    """What one HTML file names, links to and loads."""

    names: set[str] = field(default_factory=set)
    follows: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    styles: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self._style = False

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        self.names |= {given[name] for name in ("id", "name") if name in given}
        self._style = tag == "style"
        if "style" in given:
            self.styles.append(given["style"])
        if tag in ("a", "area", "form"):
            self.follows += [given[name] for name in ("href", "action") if name in given]
        elif tag in LOADED and LOADED[tag] in given:
            self.loads.append(given[LOADED[tag]])
        if "srcset" in given:
            self.loads += [entry.split()[0] for entry in given["srcset"].split(",")]

    def handle_endtag(self, tag: str) -> None:
        self._style = False

    def handle_data(self, data: str) -> None:
        if self._style:
            self.styles.append(data)


def read(path: Path) -> Page:
    """One page, parsed."""
    page = Page()
    page.feed(path.read_text())
    return page


def problems(site: Path) -> list[str]:
    """Every link of a site's pages and styles that leads nowhere, and all that a browser would fetch elsewhere.

    Returns a sentence each, none when all holds: relative addresses lead to a file of the site, fragments to an id on
    its page, and nothing but an `a` names another host.
    """
    site = site.resolve()
    parsed = {path: read(path) for path in sorted(site.rglob("*.html"))}
    if not parsed:
        return [f"{site} holds no page"]
    found = []
    for path, page in parsed.items():
        own = path.relative_to(site)
        for text in page.styles:
            found += _of_style(text, path, site)
        for address in page.loads:
            found += [f"{own} loads {address}"] if OUTSIDE.match(address) else _missing(address, path, site, parsed)
        for address in page.follows:
            found += _missing(address, path, site, parsed)
    for path in sorted(site.rglob("*.css")):
        found += _of_style(path.read_text(), path, site)
    return list(dict.fromkeys(found))


def _of_style(text: str, path: Path, site: Path) -> list[str]:
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    addresses = re.findall(r"""url\(\s*["']?([^"')]+)""", text) + re.findall(r"""@import\s+["']([^"']+)""", text)
    found = []
    for address in addresses:
        if OUTSIDE.match(address):
            found.append(f"{path.relative_to(site)} loads {address}")
        else:
            found += _missing(address, path, site, {})
    return found


def _missing(address: str, path: Path, site: Path, parsed: dict[Path, Page]) -> list[str]:
    parts = urlsplit(address)
    if parts.scheme or parts.netloc:
        return []
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    sentence = f"{path.relative_to(site)} links to {address}, which is not there"
    if not target.is_file() or not target.is_relative_to(site):
        return [sentence]
    fragment = unquote(parts.fragment)
    return [sentence] if fragment and target in parsed and fragment not in parsed[target].names else []
