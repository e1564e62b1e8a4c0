"""What the parameters cell says, and what becomes of values that do not fit."""

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tnlib.study.parameters import complete, digest, parameters_of

CELL = """
profile: str = "quick"  # "quick": small; "full": large
rank: int = 4  # at least 1; terms
share: float = 0.5  # 0 to 1; of the parameters
dims: list[int] = [2, 3]  # mode sizes
tol: float | None = None  # relative change to stop at, above 0
name: str = "a"  # a name; no quotes here
flag: bool = True  # a switch
lr: float = 0.1  # step size
steps: list[float] = [0.1]  # step sizes
seed: int = 0  # decides everything random
old = 3
"""
PYTHON = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}


def write(path, parameters, metadata=PYTHON):
    cells = [
        nbformat.v4.new_markdown_cell("# A title"),
        nbformat.v4.new_code_cell(parameters.strip(), metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell("rank"),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), path)
    return path


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    return write(tmp_path_factory.mktemp("books") / "77_typed.ipynb", CELL)


def test_names_types_defaults_and_help_are_read(book):
    known = parameters_of(book)
    assert list(known) == ["profile", "rank", "share", "dims", "tol", "name", "flag", "lr", "steps", "seed", "old"]
    assert known["dims"].default == [2, 3]
    assert known["rank"].help == "at least 1; terms"
    assert known["rank"].expected == "int, at least 1; terms"
    assert known["profile"].expected == "one of 'quick', 'full'"
    assert known["old"].annotation == known["old"].expected == "int"


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
        ("tol", "1e-3", 1e-3),
        ("steps", ["1e-3", 1], [1e-3, 1.0]),
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
        ("tol", 0.0),
        ("name", 5),
        ("flag", 1),
        ("profile", "fast"),
        ("seed", -1),
        ("lr", float("nan")),
        ("lr", float("inf")),
        ("lr", "nan"),
        ("steps", [0.1, float("-inf")]),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected(book, name, bad):
    with pytest.raises(ValueError, match=rf"77_typed: {name} must be .+, got "):
        complete(book, {name: bad})


def test_a_value_in_parentheses_has_its_comment_inside(tmp_path):
    path = write(tmp_path / "n.ipynb", 'kind: str = (\n    "a"  # "a" or "b"\n)\nn: int = 3  # at least 1')
    kind, number = parameters_of(path).values()
    assert (kind.name, kind.help) == ("kind", '"a" or "b"')
    assert number.help == "at least 1"
    with pytest.raises(ValueError, match="kind"):
        complete(path, {"kind": "c"})


@pytest.mark.parametrize(
    ("comment", "inside", "outside"),
    [
        ("between 0 and 1", (0.0, 0.3, 1.0), (-0.1, 1.1)),
        ("where it is needed, in (0, 1)", (0.1, 0.9), (0.0, 1.0)),
        ("in [0, 1)", (0.0, 0.9), (-0.1, 1.0)),
        ("in (0, 1]", (0.1, 1.0), (0.0, 1.1)),
        ("in [0, 1]", (0.0, 1.0), (-0.1, 1.1)),
        ("of the norm, at most 0.9", (-5.0, 0.9), (0.91,)),
        (">= 0.1", (0.1, 7.0), (0.09,)),
        ("<= 1", (1.0, -3.0), (1.1,)),
        ("> 0", (0.1,), (0.0,)),
        ("less than 1", (0.9,), (1.0,)),
        ("below 1e0; or so", (0.9,), (1.0,)),
        ("above -1", (-0.9,), (-1.0,)),
        ("positive", (0.1,), (0.0, -1.0)),
        ("0.25 or more", (0.25,), (0.24,)),
        ("in units of temperature; not 0", (-1.0, 1.0), (0.0,)),
        ("size; 0.25 to 0.75", (0.25, 0.75), (0.2, 0.8)),
        ("from 300 on no noise; 2 to 3 of something else", (0.0, 9.0), ()),  # the default is no such value
    ],
)
def test_limits_that_the_comment_states_are_kept(tmp_path, comment, inside, outside):
    path = write(tmp_path / "n.ipynb", f"x: float = 0.5  # {comment}")
    for value in inside:
        assert complete(path, {"x": value}) == {"x": value}
    for value in outside:
        with pytest.raises(ValueError, match="x must be float"):
            complete(path, {"x": value})


def test_all_problems_are_told_at_once(book):
    with pytest.raises(ValueError, match=r"no parameter 'rnak', did you mean rank.*share must be") as caught:
        complete(book, {"rnak": 1, "share": 2})
    assert "parameters: profile, rank, share" in str(caught.value)


def test_texts_of_the_command_line_get_the_declared_type(book):
    known = parameters_of(book)
    for name, text, value in (
        ("rank", "7", 7),
        ("share", "1e-2", 0.01),
        ("dims", "[4, 5]", [4, 5]),
        ("tol", "None", None),
        ("tol", "null", None),
        ("name", "007", "007"),
        ("name", "true", "true"),
        ("flag", "False", False),
        ("flag", "true", True),
        ("flag", "FALSE", False),
    ):
        assert known[name].value(known[name].from_text(text)) == value
    for name, text in (("rank", "many"), ("lr", "inf"), ("lr", "NaN"), ("flag", "maybe")):
        with pytest.raises(ValueError, match=f"{name} must be"):
            known[name].value(known[name].from_text(text))


@given(rank=st.integers(), share=st.floats())
def test_limits_hold_for_any_number(book, rank, share):
    for name, value, inside in (("rank", rank, rank >= 1), ("share", share, 0 <= share <= 1)):
        if inside:
            assert complete(book, {name: value})[name] == value
        else:
            with pytest.raises(ValueError, match=name):
                complete(book, {name: value})


@pytest.mark.parametrize(
    ("parameters", "metadata", "message"),
    [
        ("%matplotlib inline\nrank = 3", PYTHON, "literals only, not '%matplotlib inline'"),
        ("lr = 1 / 3", PYTHON, "lr is '1 / 3'; derive it in the next cell"),
        ("import math", PYTHON, "only, not 'import math'"),
        ("rank = 3", {}, "does not say its language"),
        ("rank <- 3", {"kernelspec": {"name": "ir", "display_name": "R", "language": "R"}}, "is a notebook in r"),
    ],
)
def test_notebooks_of_others_get_one_sentence(tmp_path, parameters, metadata, message):
    path = write(tmp_path / "other.ipynb", parameters, metadata)
    with pytest.raises(ValueError, match=rf"^other.*{message}") as caught:
        complete(path, {})
    assert "\n" not in str(caught.value)


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
