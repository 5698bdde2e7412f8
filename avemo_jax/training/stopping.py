"""Being told to stop: SIGTERM, or a preemption notice, becomes one moment at which all processes save."""

from __future__ import annotations

import signal
import threading

import jax
from jax.experimental import multihost_utils

EXIT_CODE = 143  # 128 + SIGTERM; launchers read it as "start again to go on", not as failure


class StopRequest:
    """The process's wish to stop, remembered until a run has stopped for it; used as a context it takes SIGTERM, while
    a run can be saved.

    With several processes the signal may reach only one. JAX's preemption service, which also hears a TPU's
    notice, then agrees on a question that no process has passed yet; with one process a flag is enough.
    """

    def __init__(self):
        self._told = False
        self._asked = 0  # in all runs of this process: the service knows of no runs
        self._before = None

    def __enter__(self) -> StopRequest:
        if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._take)
        return self

    def __exit__(self, *_) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
            self._before = None

    def reached(self) -> bool:
        """To be asked by all processes equally often, before a run and after every step: save and stop now?"""
        self._asked += 1
        self._told |= multihost_utils.reached_preemption_sync_point(self._asked)
        return self._told

    def obeyed(self) -> None:
        """A run has stopped for it."""
        self._told = False

    def _take(self, *_) -> None:
        self._told = True


STOP = StopRequest()
