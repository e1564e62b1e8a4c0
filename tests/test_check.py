"""Every check accepts right answers, tells a stub "not attempted yet", and rejects each known mistake."""

import re
import threading
import time
from contextlib import suppress
from functools import partial

import numpy as np
import pytest
import tensorly as tl
import torch
from right_answers import RIGHT

from tnlib import decompose
from tnlib.check import EXERCISES, Exercise, Mistake
from tnlib.check.limit import OutOfTimeError, time_limit

NAMES = list(EXERCISES)


@pytest.mark.parametrize("name", NAMES)
def test_the_reference_passes_and_the_stub_is_not_attempted(name):
    check = EXERCISES[name]
    assert check(check.reference)
    assert "Right." in repr(check(check.reference))
    assert "is correct on all" in repr(check(check.reference))
    assert repr(check(lambda **_: ...)) == f"○ {name}: not attempted yet"


@pytest.mark.parametrize(("name", "answer"), [(name, answer) for name, answers in RIGHT.items() for answer in answers])
def test_other_right_answers_are_accepted(name, answer):
    verdict = EXERCISES[name](answer)
    assert verdict, verdict


def test_every_exercise_has_at_least_three_right_answers_and_four_wrong_ones():
    assert set(RIGHT) == set(NAMES)
    assert all(len(answers) >= 3 for answers in RIGHT.values())
    assert all(len(check.mistakes) >= 4 for check in EXERCISES.values())


@pytest.mark.parametrize("name", NAMES)
def test_plausible_mistakes_are_rejected_with_their_symptom(name):
    check = EXERCISES[name]
    for mistake in check.mistakes:
        verdict = check(mistake.wrong)
        assert not verdict
        assert verdict.passed is False
        assert mistake.symptom in repr(verdict)
        assert repr(verdict).startswith(f"✗ Wrong. {name}(")
        if check.reading is None:
            assert "expected" in repr(verdict)


@pytest.mark.parametrize("name", NAMES)
def test_whatever_the_learner_hands_over_is_answered_in_words(name):
    check = EXERCISES[name]

    def broken(**_):
        raise ZeroDivisionError("oh")

    assert "raised ZeroDivisionError" in repr(check(broken))
    assert 'in the line `raise ZeroDivisionError("oh")`' in repr(check(broken))
    assert "is a `return` missing?" in repr(check(lambda **_: None))
    assert re.search("returned a str", repr(check(lambda **_: "many")))
    if check.reading is None:
        assert "nan or infinity" in repr(check(lambda **case: torch.as_tensor(check.reference(**case)) * float("nan")))
        assert "returned shape (2, 1, 3, 1), expected (" in repr(check(lambda **_: torch.ones(2, 1, 3, 1)))
    for answer in (float("nan"), [1, 2, 3], torch.ones(2, 1, 3, 1), {"a": 1}, object()):
        assert not check(lambda answer=answer, **_: answer)
    assert "give the function itself" in repr(check(7))
    assert "has to take the" in repr(check(lambda: 1))


def _double(n, x):
    return 2 * x


DOUBLE = Exercise(
    "double",
    "00",
    _double,
    ({"n": 9, "x": torch.ones(2, 2)}, {"n": 1, "x": torch.ones(2)}, {"n": 4, "x": torch.ones(3)}),
    (Mistake(lambda n, x: x + n, "That adds."),),
    seconds=0.3,
)


def test_expected_stands_against_returned_on_the_smallest_failing_input():
    wrong = repr(DOUBLE(lambda n, x: 2 * x if n == 1 else x + 1 + (x.cumsum(0) > 2)))
    assert (
        wrong == "✗ Wrong. double(n=4, x=<tensor (3,)>) returned 3, expected 2 as entry (2,); 1 of 3 entries are wrong."
    )
    assert "That adds." in repr(DOUBLE(lambda n, x: x + n))


@pytest.mark.parametrize(
    "answer",
    [
        lambda n, x: 2 * x.numpy(),
        lambda n, x: (2 * x).numpy()[::-1],
        lambda n, x: (2 * x).tolist(),
        lambda n, x: list(2 * x),
        lambda n, x: [2 * row.numpy() for row in x],
        lambda n, x: (2 * x).requires_grad_(),
        lambda n, x: (2 * x).int(),
        lambda n, x: 2 * x + 1e-5,  # in single precision
        lambda count, values: 2 * values,
        lambda *arguments: 2 * arguments[1],
        lambda **arguments: 2 * arguments["x"],
        lambda n, x, factor=2: factor * x,
        partial(_double),
    ],
)
def test_a_right_answer_may_come_in_many_forms(answer):
    verdict = DOUBLE(answer)
    assert verdict, verdict


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (lambda n, x: 2 * x.double() + 1e-5, "expected 2"),
        (lambda n, x: 2j * x, "expected 2"),
        (lambda n, x: 2 * x + 1j, "complex numbers, expected real ones"),
        (lambda n, x: 2 * x[None], "expected (2,)"),
        (lambda n, x: [["a"]], "returned a list, expected a Tensor"),
        (lambda n: n, "(n) has to take the 2 arguments (n, x)"),
    ],
)
def test_a_wrong_form_is_named(answer, symptom):
    verdict = DOUBLE(answer)
    assert verdict.passed is False
    assert symptom in repr(verdict)


def test_an_endless_loop_ends():
    def endless(n, x):
        while True:
            with suppress(Exception):  # must not catch the limit
                n += 1

    verdict = repr(DOUBLE(endless))
    assert "double(n=1, x=<tensor (2,)>) still ran after 0.3 s in the line" in verdict
    assert "Does a loop end?" in verdict


def test_a_time_limit_restores_what_was_there_and_does_nothing_in_other_threads():
    with pytest.raises(OutOfTimeError), time_limit(0.05):
        time.sleep(5)
    with time_limit(0.01):
        pass
    time.sleep(0.05)

    def elsewhere():
        with time_limit(0.01):
            time.sleep(0.05)
        done.append(True)

    done = []
    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert done


def test_a_verdict_has_a_sign_and_a_colour_in_a_notebook():
    right, wrong, stub = DOUBLE(_double), DOUBLE(lambda n, x: "<b>"), DOUBLE(lambda n, x: ...)
    for verdict, word, color in (
        (right, "✓ Right.", "#009E73"),
        (wrong, "✗ Wrong.", "#D55E00"),
        (stub, "○", "#808080"),
    ):
        page = verdict._repr_html_()
        assert word in page
        assert color in page
        assert "<tensor" not in page
    assert right
    assert not wrong
    assert not stub
    assert (right.passed, wrong.passed, stub.passed) == (True, False, None)


def test_what_is_forbidden_does_not_pass():
    def forms_both(A, B, C, D, E, F):
        return (tl.cp_to_tensor((None, [A, B, C])) * tl.cp_to_tensor((None, [D, E, F]))).sum()

    def forms_both_in_numpy(A, B, C, D, E, F):
        first, second = (np.einsum("ir,jr,kr->ijk", *map(np.asarray, f)) for f in ((A, B, C), (D, E, F)))
        return (first * second).sum()

    def full(cores):
        product = cores[0]
        for core in cores[1:]:
            product = torch.tensordot(product, core, 1)
        return product[0, ..., 0]

    def forms_the_weight(x, cores):
        first, *others = cores
        for core in others:
            first = torch.einsum("aijr,rklb->aikjlb", first, core).flatten(3, 4).flatten(1, 2)
        return x @ first[0, ..., 0].T

    def fits_by_nls(tensor, rank):
        found = decompose.cp(tensor, rank, method="nls", restarts=5, max_iter=200, tol=1e-15)
        return found.factors[0] * found.weights, *found.factors[1:]

    def forms_the_kernel(x, factors, stride, padding):
        kernel = torch.einsum("tr,sr,ar,br->tsab", *factors)
        return torch.nn.functional.conv2d(x, kernel, stride=stride, padding=padding)

    answers = {
        "strided_cp": [forms_the_kernel],
        "cpd_norm": [lambda weights, factors: tl.cp_to_tensor((weights, factors)).norm()],
        "cpd_by_eigenvectors": [fits_by_nls],
        "tensor_cp_inner": [forms_both, forms_both_in_numpy],
        "tt_sum": [lambda cores: full(cores).sum()],
        "tt_distance": [lambda x, y: (full(x) - full(y)).norm()],
        "tt_singular_values": [
            lambda cores, q: torch.linalg.svdvals(full(cores).flatten(0, q - 1).flatten(1))[: cores[q].shape[0]]
        ],
        "tt_linear_from_left": [forms_the_weight],
    }
    for name, given in answers.items():
        for answer in given:
            verdict = EXERCISES[name](answer)
            assert verdict.passed is False
            assert EXERCISES[name].forbidden in repr(verdict)


def test_a_check_cannot_be_fooled_by_changing_its_inputs():
    check = EXERCISES["tail_error"]

    def vandal(kernel, rank):
        kernel.zero_()
        return 0.0

    assert not check(vandal)
    assert check(check.reference)
