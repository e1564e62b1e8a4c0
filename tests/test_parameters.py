"""What the parameters cell says, and what becomes of values that do not fit."""

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tnlib.study.parameters import complete, digest, from_texts, parameters_of

CELL = """
profile: str = "quick"  # "quick": small; "full": large
rank: int = 4  # at least 1; terms
share: float = 0.5  # 0 to 1; of the parameters
dims: list[int] = [2, 3]  # mode sizes
tol: float | None = None  # relative change to stop at
name: str = "a"  # a name; no quotes here
flag: bool = True  # a switch
old = 3
"""


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    path = tmp_path_factory.mktemp("books") / "77_typed.ipynb"
    cells = [
        nbformat.v4.new_markdown_cell("# A title"),
        nbformat.v4.new_code_cell(CELL.strip(), metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell("rank"),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def test_names_types_defaults_and_help_are_read(book):
    known = parameters_of(book)
    assert list(known) == ["profile", "rank", "share", "dims", "tol", "name", "flag", "old"]
    assert known["dims"].default == [2, 3]
    assert known["rank"].help == "at least 1; terms"
    assert known["rank"].expected == "int, at least 1"
    assert known["share"].expected == "float, from 0.0 to 1.0"
    assert known["profile"].expected == "one of 'quick', 'full'"
    assert known["old"].annotation == "int"


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("rank", 7, 7),
        ("rank", 7.0, 7),
        ("share", 1, 1.0),
        ("share", "1e-3", 1e-3),
        ("dims", [1], [1]),
        ("tol", None, None),
        ("tol", 0.1, 0.1),
        ("flag", False, False),
        ("profile", "full", "full"),
    ],
)
def test_allowed_values_come_out_in_the_declared_type(book, name, given, value):
    got = complete(book, {name: given})[name]
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("rank", 0),
        ("rank", 1.5),
        ("rank", True),
        ("rank", "3"),
        ("rank", None),
        ("share", 1.01),
        ("share", "half"),
        ("share", False),
        ("dims", [1, "a"]),
        ("dims", 3),
        ("tol", "x"),
        ("name", 5),
        ("flag", 1),
        ("profile", "fast"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected(book, name, bad):
    with pytest.raises(ValueError, match=rf"77_typed: {name} must be .+, got "):
        complete(book, {name: bad})


def test_all_problems_are_told_at_once(book):
    with pytest.raises(ValueError, match=r"no parameter 'rnak', did you mean rank.*share must be") as caught:
        complete(book, {"rnak": 1, "share": 2})
    assert "parameters: profile, rank, share" in str(caught.value)


def test_texts_of_the_command_line_get_the_declared_type(book):
    texts = {"rank": "7", "share": "1e-2", "dims": "[4, 5]", "tol": "None", "name": "007", "flag": "False"}
    assert from_texts(book, texts) == {
        "rank": 7,
        "share": 0.01,
        "dims": [4, 5],
        "tol": None,
        "name": "007",
        "flag": False,
    }
    with pytest.raises(ValueError, match="rank must be int, at least 1, got 'many'"):
        from_texts(book, {"rank": "many"})


@given(rank=st.integers(), share=st.floats(allow_nan=False))
def test_limits_hold_for_any_number(book, rank, share):
    for name, value, inside in (("rank", rank, rank >= 1), ("share", share, 0 <= share <= 1)):
        if inside:
            assert complete(book, {name: value})[name] == value
        else:
            with pytest.raises(ValueError, match=name):
                complete(book, {name: value})


def test_the_digest_sees_code_and_tags_but_neither_prose_nor_outputs(book, tmp_path):
    def changed(**edits):
        other = nbformat.read(book, 4)
        for number, source in edits.items():
            other.cells[int(number[1:])].source = source
        other.cells[2].outputs = [nbformat.v4.new_output("stream", text="4")]
        path = tmp_path / "other.ipynb"
        nbformat.write(other, path)
        return digest(path)

    assert changed() == digest(book)
    assert changed(c0="# Another title") == digest(book)
    assert changed(c2="rank + 1") != digest(book)


def test_a_file_that_is_no_notebook_is_named(tmp_path):
    for text in ("{", "[]", '{"nbformat": 3}', '{"nbformat": 4}'):
        (tmp_path / "n.ipynb").write_text(text)
        with pytest.raises(ValueError, match=r"n\.ipynb is not a notebook"):
            parameters_of(tmp_path / "n.ipynb")
