"""What the `parameters` cell of a notebook says, and given values checked against it before anything runs.

A parameter is one line, `rank: int = 16  # at least 1; terms of the decomposition`. Its annotation gives the type. Its
comment may give the values: `at least 1`, `1 to 600`, or, for a text, the values in double quotes.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fastjsonschema

SIMPLE: dict[str, dict[str, Any]] = {
    "int": {"type": "integer"},
    "float": {"type": "number"},
    "str": {"type": "string"},
    "bool": {"type": "boolean"},
    "list": {"type": "array"},
    "dict": {"type": "object"},
    "None": {"type": "null"},
}
NUMBER = r"(-?\d+(?:\.\d+)?(?:e-?\d+)?)"


@dataclass(frozen=True)
class Parameter:
    """One line of a parameters cell; `schema` is the JSON schema of its values."""

    name: str
    annotation: str
    default: Any
    help: str
    schema: Mapping[str, Any] = field(repr=False)

    @property
    def expected(self) -> str:
        """Type and values in words, for messages."""
        if "enum" in self.schema:
            return "one of " + ", ".join(map(repr, self.schema["enum"]))
        low, high = self.schema.get("minimum"), self.schema.get("maximum")
        if low is None:
            return self.annotation
        return f"{self.annotation}, {f'at least {low}' if high is None else f'from {low} to {high}'}"

    def value(self, given: Any) -> Any:
        """The value in the declared type (2 for 2.0, 1e-3 for "1e-3"). Raises ValueError when it is not allowed."""
        value, kind = given, self.schema.get("type")
        if kind == "number" and not isinstance(value, bool):
            with contextlib.suppress(TypeError, ValueError):
                value = float(value)
        elif kind == "integer" and isinstance(value, float) and value.is_integer():
            value = int(value)
        try:
            fastjsonschema.compile(dict(self.schema))(value)
        except fastjsonschema.JsonSchemaValueException:
            raise ValueError(f"{self.name} must be {self.expected}, got {given!r}") from None
        return value

    def from_text(self, text: str) -> Any:
        """The value that a text on the command line means: a Python literal, or the text itself."""
        try:
            literal = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            literal = text
        if self.schema.get("type") == "string" and not isinstance(literal, str):
            literal = text
        return self.value(literal)


def read_notebook(path: Path) -> dict[str, Any]:
    """A notebook's JSON with the sources of cells as texts. Raises ValueError when the file is not one.

    (nbformat reads notebooks too, but takes seconds to load.)
    """
    try:
        book = json.loads(path.read_text())
        if book["nbformat"] != 4:
            raise ValueError(f"version {book['nbformat']}, expected 4")
        for cell in book["cells"]:
            cell["source"] = "".join(cell["source"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path.name} is not a notebook: {error}") from None
    return dict(book)


def code_of(notebook: Path | Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Source and tags of a notebook's code cells."""
    book = read_notebook(notebook) if isinstance(notebook, Path) else notebook
    cells = [cell for cell in book["cells"] if cell["cell_type"] == "code" and cell["source"].strip()]
    return [(cell["source"], sorted(cell["metadata"].get("tags", []))) for cell in cells]


def digest(notebook: Path | Mapping[str, Any]) -> str:
    """SHA-256 of a notebook's code, whatever its outputs and its prose: it decides what a run computes."""
    return hashlib.sha256(repr(code_of(notebook)).encode()).hexdigest()


def parameters_of(notebook: Path | Mapping[str, Any]) -> dict[str, Parameter]:
    """The parameters of a notebook by name; none when it has no cell with the tag `parameters`."""
    result: dict[str, Parameter] = {}
    for source, tags in code_of(notebook):
        if "parameters" not in tags:
            continue
        lines = source.splitlines()
        for node in ast.parse(source).body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
                name, annotation, value = node.target.id, ast.unparse(node.annotation), node.value
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                name, annotation, value = node.targets[0].id, "", node.value
            else:
                continue
            default = ast.literal_eval(value)
            end = node.end_col_offset or 0
            comment = lines[(node.end_lineno or 1) - 1].encode()[end:].decode().partition("#")[2].strip()
            annotation = annotation or type(default).__name__.replace("NoneType", "Any")
            schema = _limits(_schema(ast.parse(annotation, mode="eval").body), comment, default)
            result[name] = Parameter(name, annotation, default, comment, schema)
    return result


def complete(notebook: Path, given: Mapping[str, Any], known: Mapping[str, Parameter] | None = None) -> dict[str, Any]:
    """All parameters of a run: the given values, checked and typed, and the defaults of the others.

    Raises ValueError naming every unknown parameter, with the nearest known one, and every value that is not allowed.
    """
    known = parameters_of(notebook) if known is None else known
    values, problems = {name: p.default for name, p in known.items()}, []
    for name, value in given.items():
        if name not in known:
            problems.append(f"no parameter {name!r}{_hint(name, known)}")
            continue
        try:
            values[name] = known[name].value(value)
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ValueError(f"{notebook.stem}: {'; '.join(problems)} (parameters: {', '.join(known) or 'none'})")
    return values


def from_texts(notebook: Path, texts: Mapping[str, str]) -> dict[str, Any]:
    """Values from the command line's texts, typed; unknown names are kept for `complete` to refuse."""
    known, result, problems = parameters_of(notebook), {}, []
    for name, text in texts.items():
        try:
            result[name] = known[name].from_text(text) if name in known else text
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ValueError(f"{notebook.stem}: {'; '.join(problems)}")
    return result


def _hint(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f", did you mean {near[0]}?" if near else ""


def _schema(node: ast.expr) -> dict[str, Any]:
    """The JSON schema of an annotation; of one that is not understood, a schema that allows everything."""
    if isinstance(node, ast.Name):
        return dict(SIMPLE.get(node.id, {}))
    if isinstance(node, ast.Constant) and node.value is None:
        return dict(SIMPLE["None"])
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return {"anyOf": [_schema(node.left), _schema(node.right)]}
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
        if node.value.id == "list":
            return {"type": "array", "items": _schema(node.slice)}
        if node.value.id == "dict" and isinstance(node.slice, ast.Tuple):
            return {"type": "object", "additionalProperties": _schema(node.slice.elts[1])}
    return {}


def _limits(schema: dict[str, Any], comment: str, default: Any) -> dict[str, Any]:
    """The schema with the values that the comment gives, as far as the default is one of them."""
    if schema.get("type") == "string" and default in (quoted := re.findall(r'"([^"]*)"', comment)):
        return schema | {"enum": list(dict.fromkeys(quoted))}
    if schema.get("type") in ("integer", "number"):
        number = int if schema["type"] == "integer" else float
        if match := re.search(rf"\b{NUMBER} to {NUMBER}\b", comment):
            low, high = float(match[1]), float(match[2])
            if low <= default <= high:
                return schema | {"minimum": number(low), "maximum": number(high)}
        if (match := re.search(rf"\bat least {NUMBER}\b", comment)) and float(match[1]) <= default:
            return schema | {"minimum": number(float(match[1]))}
    return schema
