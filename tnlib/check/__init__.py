"""One check per exercise: hand it your function, and it says whether it is right, or on which input it is not.

`check.tucker2_parameters(my_function)` in a cell shows the verdict; `tnlib check` lists all exercises.
"""

from tnlib.check.exercise import Exercise, Mistake, Verdict
from tnlib.check.start_here import break_even_rank, tail_error, tucker2_parameters

EXERCISES: dict[str, Exercise] = {e.name: e for e in (tucker2_parameters, break_even_rank, tail_error)}

__all__ = ["EXERCISES", "Exercise", "Mistake", "Verdict", *EXERCISES]
