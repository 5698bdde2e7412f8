"""Worker processes that do not outlive the one that started them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing import connection


def start_worker() -> None:
    """Call first in a worker: it leaves signals and the accelerator to its parent, and ends with it."""
    # Terminals send SIGINT, and schedulers SIGTERM before a preemption, to every process: the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    keep_to_cpu()
    end_with_parent()


def keep_to_cpu() -> None:
    """Leaves the accelerator to others: grain and TFDS import JAX, which takes what it finds."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    if "jax" in sys.modules:  # it has read the environment already
        sys.modules["jax"].config.update("jax_platforms", "cpu")


def end_with_parent() -> None:
    """Call in a worker: it ends at once when its parent does, also when that was killed with SIGKILL.

    A thread waits for the parent. Linux's PR_SET_PDEATHSIG would end the worker when the *thread* that
    started it ends, and grain starts workers from passing threads.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch():
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()
