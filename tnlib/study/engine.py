"""A papermill engine that hands the kernel an environment and a folder of its own and ends the run at a deadline.

papermill's own engine has no deadline and changes environment and folder of the whole process, which is wrong as soon
as one process runs several notebooks.
"""

from __future__ import annotations

import time
from typing import Any

from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines

NAME = "tnlib"
# What the libraries under torch and numpy read when they start.
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Engine(NBClientEngine):  # type: ignore[misc]
    """papermill's nbclient engine with `environment`, `folder` and `deadline` (on the clock of `time.perf_counter`)."""

    @classmethod
    def execute_managed_notebook(
        cls,
        nb_man: Any,
        kernel_name: str,
        *,
        environment: dict[str, str] | None = None,
        deadline: float | None = None,
        start_timeout: int = 60,
        folder: str | None = None,
        **_: Any,
    ) -> Any:
        """Run the notebook; an exceeded deadline is a CellTimeoutError of the cell that ran then."""
        remaining = None if deadline is None else lambda cell: max(1.0, deadline - time.perf_counter())
        client = PapermillNotebookClient(
            nb_man,
            kernel_name=kernel_name,
            startup_timeout=start_timeout,
            timeout=None,
            timeout_func=remaining,
            extra_arguments=["--log-level=CRITICAL"],  # it warns of loopback without encryption
            resources={"metadata": {"path": folder}} if folder else {},
        )
        return client.execute(env=environment)


papermill_engines.register(NAME, Engine)
