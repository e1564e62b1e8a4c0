"""What an exercise's check is made of: a reference, inputs to try, and the mistakes that people make."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Verdict:
    """What a check found; shows itself as one line of text, truthy when the exercise is solved."""

    exercise: str
    passed: bool
    message: str

    def __bool__(self) -> bool:
        return self.passed

    def __repr__(self) -> str:
        return f"{self.exercise}: {self.message}"


@dataclass(frozen=True)
class Mistake:
    """A plausible wrong answer, and what to tell somebody who gives it (the symptom, not the solution)."""

    wrong: Callable[..., Any]
    symptom: str


@dataclass(frozen=True)
class Exercise:
    """The check of one exercise; call it with the learner's function.

    Args:
        name: of the function that the learner writes.
        notebook: where the exercise stands.
        reference: a right answer.
        cases: keyword arguments to try it on, chosen so that every mistake differs from the reference on one of them.
        mistakes: known wrong answers. A function that agrees with one of them on every case gets its symptom.
        tolerance: relative, for floats and tensors.
        reading: what of an answer counts, where right answers differ: the product of factors that are not unique, say.
            Gets the answer and the case's arguments by name; may raise, and then the answer is of the wrong form.
    """

    name: str
    notebook: str
    reference: Callable[..., Any]
    cases: tuple[Mapping[str, Any], ...]
    mistakes: tuple[Mistake, ...] = ()
    tolerance: float = 1e-6
    reading: Callable[..., Any] | None = None

    def __call__(self, learner: object) -> Verdict:
        """Try the learner's function on every case; the first difference decides. Never raises."""
        if not callable(learner):
            return self._no(f"give the function itself, without calling it (got {type(learner).__name__})")
        answers = []
        for case in self.cases:
            try:
                answers.append(learner(**copy.deepcopy(dict(case))))
            except Exception as error:  # whatever the learner's code raises is the learner's result
                return self._no(f"raised {type(error).__name__} on {_show(case)}: {error}")
            if answers[-1] is ...:
                return self._no("not attempted yet")
            if answers[-1] is None:
                return self._no(f"returned None on {_show(case)}; is a `return` missing?")
        for case, answer in zip(self.cases, answers, strict=True):
            expected = self.reference(**case)
            problem = self._difference(answer, expected, case)
            if problem:
                return self._no(f"{problem} on {_show(case)}" + self._hint(answers))
        return Verdict(self.name, True, f"correct on all {len(self.cases)} inputs")

    def _hint(self, answers: list[Any]) -> str:
        """The symptom of the first known mistake that gives the same answers, as a sentence to append."""
        for mistake in self.mistakes:
            wrong = [mistake.wrong(**case) for case in self.cases]
            if not any(self._difference(*three) for three in zip(answers, wrong, self.cases, strict=True)):
                return f". {mistake.symptom}"
        return ""

    def _difference(self, answer: Any, expected: Any, case: Mapping[str, Any]) -> str:
        """What is wrong with an answer; empty when nothing is."""
        if self.reading is not None:
            try:
                answer, expected = self.reading(answer, **case), self.reading(expected, **case)
            except Exception as error:  # the learner's answer may be anything
                return f"returned a {type(answer).__name__} of another form than asked ({error})"
        try:
            got = torch.as_tensor(answer).to(torch.float64)
        except (TypeError, ValueError, RuntimeError):
            return f"returned {type(answer).__name__}, expected {type(expected).__name__}"
        want = torch.as_tensor(expected).to(torch.float64)
        if got.shape != want.shape:
            return f"returned shape {tuple(got.shape)}, expected {tuple(want.shape)}"
        if not bool(torch.isfinite(got).all()):
            return "returned nan or infinity"
        if float((got - want).abs().max()) <= self.tolerance * max(float(want.abs().max()), 1e-300):
            return ""
        return f"returned {got.item():.6g}" if got.ndim == 0 else "returned wrong entries"

    def _no(self, message: str) -> Verdict:
        return Verdict(self.name, False, message)


def _show(case: Mapping[str, Any]) -> str:
    """A case as arguments, tensors by their shape."""

    def text(value: Any) -> str:
        if isinstance(value, Tensor):
            return f"<tensor {tuple(value.shape)}>"
        if isinstance(value, list | tuple) and any(isinstance(item, Tensor) for item in value):
            return f"[{', '.join(map(text, value))}]"
        return repr(value)

    return f"({', '.join(f'{name}={text(value)}' for name, value in case.items())})"
