"""What an exercise's check is made of: a reference, inputs to try, and the mistakes that people make."""

from __future__ import annotations

import copy
import html
import inspect
import math
import traceback
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tnlib.check.limit import OutOfTimeError, time_limit

_SIGNS = {True: ("✓", "Right.", "#009E73"), False: ("✗", "Wrong.", "#D55E00"), None: ("○", "", "#808080")}
_SINGLE = 1e-4  # relative; what a right answer computed in float32 may be off


@dataclass(frozen=True)
class Verdict:
    """What a check found; truthy when the exercise is solved. `passed` is None for a stub.

    Shows itself as a line of text, in a notebook with a colour.
    """

    exercise: str
    passed: bool | None
    message: str

    def __bool__(self) -> bool:
        return self.passed is True

    def __repr__(self) -> str:
        sign, word, _ = _SIGNS[self.passed]
        return " ".join(filter(None, (sign, word, f"{self.exercise}{self.message}")))

    def _repr_html_(self) -> str:
        sign, word, color = _SIGNS[self.passed]
        return (
            f'<div style="border-left: 4px solid {color}; padding-left: 8px">'
            f'<strong style="color: {color}">{sign} {word}</strong> '
            f"<code>{html.escape(self.exercise)}</code>{html.escape(self.message)}</div>"
        )


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
        tolerance: relative, for floats and tensors in double precision.
        reading: what of an answer counts, where right answers differ: the product of factors that are not unique, say.
            Gets the answer and the case's arguments by name; may raise, and then the answer is of the wrong form.
        beyond: arguments, tried last and in this order, on which what the exercise forbids is slow, then impossible: a
            tensor of 600^3 entries, one of 2^48. (Slow first: loops inside of a library cannot be stopped.)
        forbidden: what to tell somebody who fails on those.
        seconds: after so many a call is given up, after five on those of `beyond`.
    """

    name: str
    notebook: str
    reference: Callable[..., Any]
    cases: tuple[Mapping[str, Any], ...]
    mistakes: tuple[Mistake, ...] = ()
    tolerance: float = 1e-6
    reading: Callable[..., Any] | None = None
    beyond: tuple[Mapping[str, Any], ...] = ()
    forbidden: str = ""
    seconds: float = 20.0

    def __call__(self, learner: object) -> Verdict:
        """Try the learner's function, from the smallest input to the largest. Never raises."""
        if not callable(learner):
            return self._no(f": give the function itself, without calling it (got {type(learner).__name__})")
        if problem := self._signature(learner):
            return self._no(problem)
        cases, answers = sorted(self.cases, key=_size), []
        for case in cases:
            answer, problem = self._answer(learner, case, self.seconds)
            if problem:
                return self._no(problem)
            if answer is ...:
                return Verdict(self.name, None, ": not attempted yet")
            answers.append(answer)
        for case, answer in zip(cases, answers, strict=True):
            if problem := self._difference(answer, self.reference(**case), case):
                return self._no(f"{_show(case)} {problem}." + self._hint(cases, answers))
        for case in self.beyond:
            answer, problem = self._answer(learner, case, min(5.0, self.seconds))
            if not problem and (problem := self._difference(answer, self.reference(**case), case)):
                problem = f"{_show(case)} {problem}"
            if problem:
                problem = problem.removesuffix(" Does a loop end?").rstrip(".")
                return self._no(f"{problem}. {self.forbidden}")
        return Verdict(self.name, True, f" is correct on all {len(self.cases) + len(self.beyond)} inputs")

    def _signature(self, learner: Callable[..., Any]) -> str:
        """What is wrong with the arguments that a function takes; their names are free."""
        try:
            signature = inspect.signature(learner)
        except (TypeError, ValueError):  # built in: has none
            return ""
        case = self.cases[0]
        if _binds(signature, **case) or _binds(signature, *case.values()):
            return ""
        return f"{signature} has to take the {len(case)} arguments ({', '.join(case)})"

    def _answer(self, learner: Callable[..., Any], case: Mapping[str, Any], seconds: float) -> tuple[Any, str]:
        """What the function returns, and else why there is nothing."""
        given = copy.deepcopy(dict(case))
        try:
            by_name = _binds(inspect.signature(learner), **given)
        except (TypeError, ValueError):
            by_name = True
        try:
            with warnings.catch_warnings(), time_limit(seconds):
                warnings.simplefilter("ignore")
                answer = learner(**given) if by_name else learner(*given.values())
        except OutOfTimeError as error:
            return None, f"{_show(case)} still ran after {seconds:g} s{_own_line(learner, error)}. Does a loop end?"
        except Exception as error:  # whatever the learner's code raises is the learner's result
            return None, f"{_show(case)} raised {type(error).__name__}{_own_line(learner, error)}: {error}"
        if answer is None:
            return None, f"{_show(case)} returned None; is a `return` missing?"
        return answer, ""

    def _hint(self, cases: list[Mapping[str, Any]], answers: list[Any]) -> str:
        """The symptom of the first known mistake that gives the same answers, as a sentence to append."""
        for mistake in self.mistakes:
            wrong = [mistake.wrong(**case) for case in cases]
            if not any(self._difference(*three) for three in zip(answers, wrong, cases, strict=True)):
                return f" {mistake.symptom}"
        return ""

    def _difference(self, answer: Any, expected: Any, case: Mapping[str, Any]) -> str:
        """What is wrong with an answer, expected against returned; empty when nothing is."""
        if self.reading is not None:
            try:
                answer, expected = self.reading(_tensors(answer), **case), self.reading(expected, **case)
            except Exception as error:  # the learner's answer may be anything
                return f"returned a {type(answer).__name__} of another form than asked ({error})"
        try:
            got, tolerance = _numbers(answer), max(self.tolerance, _SINGLE if _is_single(answer) else 0)
        except (TypeError, ValueError, RuntimeError):
            return f"returned a {type(answer).__name__}, expected a {type(expected).__name__}"
        want = _numbers(expected)
        if want.ndim == 0 and got.size == 1:
            got = got.reshape(())
        if got.shape != want.shape:
            return f"returned shape {got.shape}, expected {want.shape}"
        if not np.isfinite(got).all():
            return "returned nan or infinity"
        allowed = tolerance * max(float(abs(want).max(initial=0)), 1e-300)
        off = abs(got - want) > allowed
        if not off.any():
            return ""
        where = tuple(int(i) for i in np.argwhere(off)[0])
        if np.iscomplexobj(got) and not (abs(got.real - want) > allowed).any():
            return "returned complex numbers, expected real ones"
        pair = f"returned {_text(got[where])}, expected {_text(want[where])}"
        return pair if got.ndim == 0 else f"{pair} as entry {where}; {off.sum()} of {off.size} entries are wrong"

    def _no(self, message: str) -> Verdict:
        return Verdict(self.name, False, message)


def _binds(signature: inspect.Signature, *args: Any, **kwargs: Any) -> bool:
    try:
        signature.bind(*args, **kwargs)
    except TypeError:
        return False
    return True


def _own_line(learner: Callable[..., Any], error: BaseException) -> str:
    """The last line of the learner's own code that ran, where it is known."""
    file = getattr(getattr(learner, "__code__", None), "co_filename", None)
    lines = [frame.line for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f" in the line `{lines[-1]}`" if lines and lines[-1] else ""


def _text(number: Any) -> str:
    """Whole numbers in full, others to six digits."""
    whole = not np.iscomplexobj(number) and abs(number) < 1e15 and number == int(number)
    return str(int(number)) if whole else f"{number:.6g}"


def _tensors(answer: Any) -> Any:
    """NumPy arrays as tensors, also in lists and tuples."""
    if isinstance(answer, np.ndarray | np.generic):
        return torch.from_numpy(np.array(answer))
    return type(answer)(map(_tensors, answer)) if type(answer) in (list, tuple) else answer


def _numbers(value: Any) -> np.ndarray[Any, Any]:
    """An answer as an array of float64 or complex128."""
    array = np.array(_arrays(value))
    return array.astype(np.complex128 if np.iscomplexobj(array) else np.float64)


def _arrays(value: Any) -> Any:
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        return (value if value.is_complex() else value.double()).resolve_conj().numpy()
    return list(map(_arrays, value)) if isinstance(value, list | tuple) else value


def _is_single(value: Any) -> bool:
    """Whether an answer was computed in less than double precision."""
    if isinstance(value, list | tuple):
        return any(map(_is_single, value))
    if isinstance(value, Tensor):
        return value.dtype in (torch.float32, torch.complex64)
    return getattr(value, "dtype", None) in (np.float32, np.complex64)


def _size(case: Mapping[str, Any]) -> float:
    """How large an input is for who reads it."""

    def of(value: Any) -> float:
        if isinstance(value, Tensor):
            return value.numel()
        if isinstance(value, list | tuple):
            return sum(map(of, value))
        return abs(value) if isinstance(value, int | float) and math.isfinite(value) else 1.0

    return sum(map(of, case.values()))


def _show(case: Mapping[str, Any]) -> str:
    """A case as arguments, tensors by their shape."""

    def text(value: Any) -> str:
        if isinstance(value, Tensor):
            return f"<tensor {tuple(value.shape)}>"
        if isinstance(value, list | tuple) and any(isinstance(item, Tensor) for item in value):
            return f"[{', '.join(map(text, value))}]"
        return repr(value)

    return f"({', '.join(f'{name}={text(value)}' for name, value in case.items())})"
