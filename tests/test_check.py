"""Every check accepts the solution, tells a stub "not attempted yet", and rejects each known mistake by its symptom."""

import re

import pytest
import torch

from tnlib.check import EXERCISES

NAMES = list(EXERCISES)


@pytest.mark.parametrize("name", NAMES)
def test_the_reference_passes_and_the_stub_is_not_attempted(name):
    check = EXERCISES[name]
    assert check(check.reference)
    assert "correct on all" in repr(check(check.reference))
    assert repr(check(lambda **_: ...)) == f"{name}: not attempted yet"


@pytest.mark.parametrize("name", NAMES)
def test_at_least_three_plausible_mistakes_are_rejected_with_their_symptom(name):
    check = EXERCISES[name]
    assert len(check.mistakes) >= 3
    for mistake in check.mistakes:
        verdict = check(mistake.wrong)
        assert not verdict
        assert mistake.symptom in repr(verdict)
        assert "(" in repr(verdict), "the input on which it failed is shown"


@pytest.mark.parametrize("name", NAMES)
def test_whatever_the_learner_hands_over_is_answered_in_words(name):
    check = EXERCISES[name]

    def broken(**_):
        raise ZeroDivisionError("oh")

    assert "raised ZeroDivisionError" in repr(check(broken))
    assert "is a `return` missing?" in repr(check(lambda **_: None))
    assert re.search("returned (a )?str", repr(check(lambda **_: "many")))
    if check.reading is None:
        shape = torch.as_tensor(check.reference(**check.cases[0])).shape
        assert "nan or infinity" in repr(check(lambda **_: torch.full(shape, float("nan"))))
        assert f"expected {tuple(shape)}" in repr(check(lambda **_: torch.ones(2, 1, 3, 1)))
    for answer in (float("nan"), [1, 2, 3], torch.ones(2, 1, 3, 1), {"a": 1}, object()):
        assert not check(lambda answer=answer, **_: answer)
    assert "give the function itself" in repr(check(7))
    assert "raised TypeError" in repr(check(lambda: 1))


def test_a_check_cannot_be_fooled_by_changing_its_inputs():
    check = EXERCISES["tail_error"]

    def vandal(kernel, rank):
        kernel.zero_()
        return 0.0

    assert not check(vandal)
    assert check(check.reference)
