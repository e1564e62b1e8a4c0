"""Run notebooks with parameters, keep their results, and everything of the command line.

`record`, `results`, `run_notebook`, `notebooks`, `parameters_of` and `NotebookRun` are loaded when they are first asked
for: the command line answers `--help` without loading torch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tnlib.study.run import NotebookRun, notebooks, parameters_of, run_notebook
    from tnlib.study.store import record, results

__all__ = ["NotebookRun", "notebooks", "parameters_of", "record", "results", "run_notebook"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tnlib.study import run as _run
    from tnlib.study import store as _store

    return getattr(_store if name in ("record", "results") else _run, name)
