"""List the faces that `chars36` is drawn with: `python data/embedded/list_faces.py` (Debian 12, packages installed).

Takes every installed TrueType or OpenType face that has the 36 characters, at most three of a family, and notes the
package, its version and licence. Families are assigned to training or test by a digest of their group: the first word
of the name, and one group for all copies of Helvetica, Times, Courier and the like.
"""

from __future__ import annotations

import csv
import hashlib
import re
import subprocess
from collections import defaultdict
from pathlib import Path

from fontTools.ttLib import TTFont, TTLibError
from PIL import ImageFont

from tnlib import characters, paths

# No alphabets of shapes that people read, or bitmaps drawn as outlines.
EXCLUDED = re.compile(
    r"D050000L|Symbols|Klingon|Futhark|Keyboard|Keyfont|Initials|Math|Spleen|Unifont|unifur|Wargames|Smallcaps"
)
COPIES = {  # of the designs that PostScript made common, and of Bitstream Vera
    "nimbus", "urw", "c059", "p052", "z003", "free", "freesans", "freeserif", "freemono", "liberation", "stix",
    "stixgeneral", "switzera", "tribun", "dejavu", "verana", "hack", "noto", "caliban",
}  # fmt: skip
FACES_A_FAMILY = 3


def main() -> None:
    families = defaultdict(list)
    for path in sorted(Path("/usr/share/fonts").rglob("*")):
        if path.suffix in (".ttf", ".otf") and (name := named(path)) and not EXCLUDED.search(" ".join(name)):
            families[name[0]].append((name[1], path))
    rows, seen = [], set()
    for family, members in sorted(families.items()):
        members = [(style, path) for style, path in sorted(members) if path.name not in seen]
        step = max(1, len(members) // FACES_A_FAMILY)
        for style, path in members[::step][:FACES_A_FAMILY]:
            seen.add(path.name)
            package = output("dpkg", "-S", str(path)).split(":")[0]
            rows.append(
                {
                    "package": package,
                    "version": output("dpkg-query", "-W", "-f", "${Version}", package),
                    "licence": licence(package),
                    "file": path.name,
                    "family": family,
                    "style": style,
                    "split": split(family),
                    "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                }
            )
    with (paths.REFERENCE / "chars36-faces.csv").open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    for part in ("train", "test"):
        chosen = [row for row in rows if row["split"] == part]
        print(f"{part}: {len(chosen)} faces of {len({row['family'] for row in chosen})} families")


def named(path: Path) -> tuple[str, str] | None:
    """Family and style of a face that has all characters, as shapes of their own; else None."""
    try:
        table = TTFont(path, lazy=True).getBestCmap() or {}
        font = ImageFont.truetype(path, 64, layout_engine=ImageFont.Layout.BASIC)
    except (TTLibError, OSError):
        return None
    if any(ord(text) not in table for text in characters.CHARACTERS):
        return None
    masks = [font.getmask(text, mode="L") for text in characters.CHARACTERS]
    sizes = [mask.size for mask in masks]
    if min(map(min, sizes)) < 4 or max(width for width, _ in sizes) > 140 or min(height for _, height in sizes) < 15:
        return None
    if len({(mask.size, bytes(mask)) for mask in masks}) < 33:  # zero and O may be alike, letters in general not
        return None
    family, style = font.getname()
    return family or path.stem, style or ""


def split(family: str) -> str:
    group = re.sub(r"[^a-z0-9]", "", family.lower().split()[0])
    if group in COPIES:
        return "train"
    return "test" if hashlib.sha256(group.encode()).digest()[0] < 70 else "train"


def licence(package: str) -> str:
    """The licences that a package's copyright file names first, by their short names."""
    text = Path(f"/usr/share/doc/{package}/copyright").read_text(errors="replace")
    names = re.findall(r"^Licen[cs]e:[ \t]*(\S.*)$", text, re.M)
    if names:
        return " / ".join(dict.fromkeys(name.strip() for name in names if "debian" not in name.lower()))[:80]
    known = {
        "OFL": r"SIL\s+O(pen|FL)|Open\s+Font\s+Licen[cs]e",
        "GPL": r"GNU\s+General\s+Public",
        "public domain": r"public\s+domain",
        "LPPL": r"LaTeX\s+Project\s+Public",
        "Apache-2.0": r"Apache\s+License",
        "MIT": r"Permission is hereby granted, free of charge",
        "CC": r"Creative Commons",
    }
    found = [name for name, pattern in known.items() if re.search(pattern, text, re.I)]
    return " / ".join(found) or "free, see the package"


def output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main()
