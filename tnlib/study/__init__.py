"""Run notebooks with parameters, keep their results, and everything of the command line.

`record`, `results`, `run_notebook` and the other names below are loaded when they are first asked for: the command line
answers `--help` without loading torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tnlib.study.parameters import Parameter, parameters_of
    from tnlib.study.run import NotebookRun, notebooks, run_notebook
    from tnlib.study.store import record, results

__all__ = ["NotebookRun", "Parameter", "notebooks", "parameters_of", "record", "results", "run_notebook"]

_PLACES = {"record": "store", "results": "store", "Parameter": "parameters", "parameters_of": "parameters"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"tnlib.study.{_PLACES.get(name, 'run')}"), name)
