"""What the `parameters` cell of a notebook says, and given values checked against it before anything runs.

A parameter is one line, `rank: int = 16  # at least 1; terms of the decomposition`. Its annotation gives the type. Its
comment may give the values: `at least 1`, `at most 9`, `1 to 600`, `between 0 and 1`, `in (0, 1)`, `>= 1`, `positive`,
or, for a text, the values in double quotes. A `seed` is at least 0.
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
from functools import cached_property
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
_N = r"(-?\d+(?:\.\d+)?(?:e-?\d+)?)"
# How a comment says limits, and which keywords of JSON schema its numbers are.
LIMITS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (rf"\b(?:between )?{_N} (?:to|and) {_N}\b", ("minimum", "maximum")),
    (rf"\[{_N}, {_N}\]", ("minimum", "maximum")),
    (rf"\({_N}, {_N}\)", ("exclusiveMinimum", "exclusiveMaximum")),
    (rf"\({_N}, {_N}\]", ("exclusiveMinimum", "maximum")),
    (rf"\[{_N}, {_N}\)", ("minimum", "exclusiveMaximum")),
    (rf"(?:\bat least|\bnot less than|>=|≥) ?{_N}", ("minimum",)),
    (rf"\b{_N} or more\b", ("minimum",)),
    (rf"(?:\bat most|\bup to|<=|≤) ?{_N}", ("maximum",)),
    (rf"(?:\bgreater than|\bmore than|\babove|>) ?{_N}", ("exclusiveMinimum",)),
    (rf"(?:\bless than|\bbelow|<) ?{_N}", ("exclusiveMaximum",)),
)


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
        return ", ".join(text for text in (self.annotation, self.help) if text)

    def value(self, given: Any) -> Any:
        """The value in the declared type (2 for 2.0, 1e-3 for "1e-3"). Raises ValueError when it is not allowed."""
        value = _typed(self.schema, given)
        try:
            json.dumps(self._check(value), allow_nan=False)
        except (fastjsonschema.JsonSchemaValueException, ValueError):
            raise ValueError(f"{self.name} must be {self.expected}, got {given!r}") from None
        return value

    def from_text(self, text: str) -> Any:
        """What a text on the command line means: a literal of Python or JSON, or the text itself; not checked."""
        if self.schema.get("type") != "string":
            for read in (ast.literal_eval, lambda text: json.loads(text.lower())):
                with contextlib.suppress(ValueError, SyntaxError):
                    return read(text)
        return text

    @cached_property
    def _check(self) -> Any:
        return fastjsonschema.compile(dict(self.schema))


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
    """The parameters of a notebook by name; none when it has no cell with the tag `parameters`.

    Raises ValueError, in one sentence, for a notebook that is not in Python, and for a parameters cell that holds
    something else than literals.
    """
    name = notebook.stem if isinstance(notebook, Path) else "the notebook"
    book = read_notebook(notebook) if isinstance(notebook, Path) else notebook
    if (language := _language(book["metadata"])) != "python":
        raise ValueError(
            f"{name} is a notebook in {language}; tnlib runs Python"
            if language
            else f"{name} does not say its language: open it in Jupyter, choose a Python kernel and save it"
        )
    cells = [source for source, tags in code_of(book) if "parameters" in tags]
    if len(cells) > 1:
        raise ValueError(f"{name} has {len(cells)} cells with the tag parameters; expected one")
    try:
        return {p.name: p for source in cells for p in _read_cell(source)}
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def complete(notebook: Path, given: Mapping[str, Any], known: Mapping[str, Parameter] | None = None) -> dict[str, Any]:
    """All parameters of a run: the given values, checked and typed, and the defaults of the others.

    Raises ValueError naming every unknown parameter, with the nearest known one, and every value that is not allowed.
    """
    known = parameters_of(notebook) if known is None else known
    values, problems = {name: p.default for name, p in known.items()}, []
    for name, value in given.items():
        if name not in known:
            problems.append(f"no parameter {name!r}{hint(name, known)}")
            continue
        try:
            values[name] = known[name].value(value)
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ValueError(f"{notebook.stem}: {'; '.join(problems)} (parameters: {', '.join(known) or 'none'})")
    return values


def hint(name: str, known: Iterable[str]) -> str:
    """`, did you mean ...?` when a known name is near, or else nothing."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f", did you mean {near[0]}?" if near else ""


def _language(metadata: Mapping[str, Any]) -> str:
    kernel = metadata.get("kernelspec", {})
    language = str(kernel.get("language") or metadata.get("language_info", {}).get("name") or "").lower()
    return language or ("python" if str(kernel.get("name", "")).startswith("python") else str(kernel.get("name", "")))


def _read_cell(source: str) -> list[Parameter]:
    """The parameters of a cell. Raises ValueError for a line that is none."""
    lines, result = source.splitlines(), []
    try:
        body = ast.parse(source).body
    except SyntaxError as error:
        line = lines[(error.lineno or 1) - 1].strip()
        raise ValueError(f"the parameters cell holds Python literals only, not {line!r}") from None
    for node in body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            name, annotation, value = node.target.id, ast.unparse(node.annotation), node.value
        elif isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            name, annotation, value = node.targets[0].id, "", node.value
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue  # a text that explains
        else:
            raise ValueError(f"the parameters cell holds `name: type = literal` only, not {ast.unparse(node)!r}")
        try:
            default = ast.literal_eval(value)
        except ValueError:
            message = f"the parameters cell holds literals only: {name} is {ast.unparse(value)!r}"
            raise ValueError(f"{message}; derive it in the next cell") from None
        comment = _comment(lines, node) or _comment(lines, value)
        annotation = annotation or type(default).__name__.replace("NoneType", "Any")
        schema = _schema(ast.parse(annotation, mode="eval").body)
        result.append(Parameter(name, annotation, default, comment, _limited(schema, name, comment, default)))
    return result


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


def _comment(lines: list[str], node: ast.stmt | ast.expr) -> str:
    """What is written behind a statement, or a value in parentheses, on its last line."""
    end = lines[(node.end_lineno or 1) - 1].encode()[node.end_col_offset or 0 :].decode()
    return end.partition("#")[2].strip()


def _limited(schema: dict[str, Any], name: str, comment: str, default: Any) -> dict[str, Any]:
    """The schema with the values that the comment gives, as far as the default is one of them."""
    if "anyOf" in schema:
        return {"anyOf": [_limited(part, name, comment, default) for part in schema["anyOf"]]}
    if schema.get("type") == "string" and default in (quoted := re.findall(r'"([^"]*)"', comment)):
        return schema | {"enum": list(dict.fromkeys(quoted))}
    if schema.get("type") not in ("integer", "number"):
        return schema
    number = int if schema["type"] == "integer" else float
    limits: dict[str, Any] = {"minimum": 0} if name == "seed" else {}
    if re.search(r"\bpositive\b", comment):
        limits["exclusiveMinimum"] = 0
    if re.search(r"\bnot (0|zero)\b", comment):
        limits["not"] = {"const": 0}
    for pattern, keys in LIMITS:
        if match := re.search(pattern, comment):
            limits |= {key: number(float(text)) for key, text in zip(keys, match.groups(), strict=True)}
            break
    try:
        fastjsonschema.compile(schema | limits)(default)
    except fastjsonschema.JsonSchemaValueException:
        return schema if default is not None else schema | limits
    return schema | limits


def _typed(schema: Mapping[str, Any], value: Any) -> Any:
    """A value in a schema's type where nothing is lost by it: 2 for 2.0, 1e-3 for "1e-3" (what YAML reads)."""
    kind = schema.get("type")
    if value is not None and (
        numbers := [s for s in schema.get("anyOf", []) if s.get("type") in ("integer", "number")]
    ):
        return _typed(numbers[0], value)
    if kind == "array" and isinstance(value, list | tuple):
        return [_typed(schema.get("items", {}), item) for item in value]
    if kind == "number" and not isinstance(value, bool):
        with contextlib.suppress(TypeError, ValueError):
            return float(value)
    if kind == "integer" and isinstance(value, float) and value.is_integer():
        return int(value)
    return value
