"""Being told to stop: SIGTERM, or a preemption notice, becomes one step at which all processes save."""

from __future__ import annotations

import signal
import threading

import jax
from jax.experimental import multihost_utils

EXIT_CODE = 143  # 128 + SIGTERM; launchers read it as "start again to go on", not as failure


class StopRequest:
    """A context manager that takes SIGTERM while a run can be saved.

    With several processes the signal may reach only one. JAX's preemption service, which also hears a TPU's
    notice, then agrees on a step that no process has passed yet; with one process a flag is enough.
    """

    def __init__(self):
        self._told = False
        self._before = None

    def __enter__(self) -> StopRequest:
        if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._take)
        return self

    def __exit__(self, *_) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def reached(self, step: int) -> bool:
        """To be asked once after every step: save and stop now?"""
        return self._told or multihost_utils.reached_preemption_sync_point(step)

    def _take(self, *_) -> None:
        self._told = True
