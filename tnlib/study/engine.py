"""A papermill engine that hands the kernel an environment and a folder of its own and ends the run at a deadline.

papermill's own engine has no deadline and changes environment and folder of the whole process, which is wrong as soon
as one process runs several notebooks. Kernels that run in other threads can be ended all at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from jupyter_core.utils import ensure_event_loop
from nbclient.exceptions import CellTimeoutError
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines

NAME = "tnlib"
# What the libraries under torch and numpy read when they start.
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_running: set[int] = set()  # process groups of kernels
_ending = threading.Event()


class Client(PapermillNotebookClient):  # type: ignore[misc]
    """papermill's client, whose kernel `kernel_threads` knows."""

    def papermill_execute_cells(self) -> None:
        """Run the cells; a kernel that is out of time is not asked to end, but killed."""
        group = self.km.provisioner.pid
        _running.add(group)
        try:
            if not _ending.is_set():
                super().papermill_execute_cells()
        except CellTimeoutError:
            self.shutdown_kernel = "immediate"
            raise
        finally:
            _running.discard(group)


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
        """Run the notebook.

        An exceeded deadline is a CellTimeoutError of the cell that ran then; KeyboardInterrupt when `kernel_threads`
        ended it.
        """
        remaining = None if deadline is None else lambda cell: max(1.0, deadline - time.perf_counter())
        client = Client(
            nb_man,
            kernel_name=kernel_name,
            startup_timeout=start_timeout,
            timeout=None,
            timeout_func=remaining,
            extra_arguments=["--log-level=CRITICAL"],  # it warns of loopback without encryption
            resources={"metadata": {"path": folder}} if folder else {},
        )
        try:
            return client.execute(env=environment)
        finally:
            if threading.current_thread() is not threading.main_thread():
                _close(ensure_event_loop())  # nbclient makes one for each thread, and leaves it open
            if _ending.is_set():
                raise KeyboardInterrupt


@contextlib.contextmanager
def kernel_threads(number: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that run notebooks, a kernel each. When the block raises (Ctrl-C, say), all their kernels are killed."""
    pool = ThreadPoolExecutor(number)
    try:
        yield pool
    except BaseException:
        _ending.set()
        for group in tuple(_running):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        _ending.clear()


def is_ending() -> bool:
    """Whether no kernel is to be started any more."""
    return _ending.is_set()


def _close(loop: asyncio.AbstractEventLoop) -> None:
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.close()


papermill_engines.register(NAME, Engine)
