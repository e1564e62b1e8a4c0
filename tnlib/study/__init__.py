"""Run notebooks with parameters, keep their results, and everything of the command line."""

from tnlib.study.results import record, results
from tnlib.study.run import NotebookRun, notebooks, parameters_of, run_notebook

__all__ = ["NotebookRun", "notebooks", "parameters_of", "record", "results", "run_notebook"]
