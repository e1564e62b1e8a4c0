"""One check per exercise: hand it your function, and it says whether it is right, or on which input it is not.

`check.tucker2_parameters(my_function)` in a cell shows the verdict; `tnlib check` lists all exercises.
"""

import tnlib.decompose  # noqa: F401 - makes torch the backend of TensorLy, also for answers outside a notebook
from tnlib.check import (
    choose_ranks,
    comparison,
    compute_with_trains,
    costs,
    coupled_trains,
    cpd,
    lebedev,
    novikov,
    review,
    run_a_study,
    scheme,
    small_machine,
    start_here,
    tensor_algebra,
    tensor_layers,
    tensor_train,
    tucker,
)
from tnlib.check.exercise import Exercise, Mistake, Verdict

__all__ = ["EXERCISES", "Exercise", "Mistake", "Verdict"]

LESSONS = (
    start_here,
    tensor_algebra,
    cpd,
    tucker,
    tensor_train,
    coupled_trains,
    tensor_layers,
    costs,
    lebedev,
    novikov,
    run_a_study,
    review,
    choose_ranks,
    comparison,
    scheme,
    small_machine,
    compute_with_trains,
)
EXERCISES: dict[str, Exercise] = {exercise.name: exercise for lesson in LESSONS for exercise in lesson.EXERCISES}


def __getattr__(name: str) -> Exercise:
    """Exercises are attributes, so that notebooks read `check.tail_error(tail_error)`."""
    if name in EXERCISES:
        return EXERCISES[name]
    raise AttributeError(f"no exercise {name!r}; `tnlib check` lists them")


def __dir__() -> list[str]:
    return [*__all__, *EXERCISES]
