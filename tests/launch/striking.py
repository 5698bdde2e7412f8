"""Runs whose processes are struck at a chosen moment."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from launch.crew import Process
from launch.local import plan, read_flags
from tests.training.tiny import ROOT, rows_of

SLOWLY = "tiny.sleep_s=0.3"  # so that there is a moment to strike in


def python(*programs: str) -> Callable[[str], list[Process]]:
    """Processes that run these programs in place of a verb."""
    return lambda _: [Process([sys.executable, "-c", program], {}) for program in programs]


def tiny_processes(folder: Path, *overrides: str, first: int = 0) -> Callable[[str], list[Process]]:
    """The tiny run as two processes of four devices, which note their ids in `folder/ID.pid`."""
    args = read_flags(["--processes", "2", "--devices_per_process", "4", "--", "train"])
    command = [sys.executable, "-m", "tests.training.tiny", str(folder / "run"), *overrides]
    own = {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}

    def make(coordinator: str) -> list[Process]:
        planned = plan(args, coordinator, {})
        return [
            Process(
                ["sh", "-c", f'echo $$ > {folder}/{index}.pid; exec "$@"', "sh", *command],
                each.environment | own,
            )
            for index, each in enumerate(planned)
        ]

    return make


def pid_of(folder: Path, index: int) -> int:
    """The id of one of the tiny run's processes."""
    return int((folder / f"{index}.pid").read_text())


def has_steps(folder: Path, count: int) -> Callable[[], bool]:
    """Has the tiny run come so far?"""
    return lambda: (folder / "run" / "metrics.jsonl").exists() and len(rows_of(folder / "run")) >= count


def _tell_the_launcher() -> None:
    if (
        signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    ):  # it has ended already, and this would end the tests
        os.kill(os.getpid(), signal.SIGTERM)


def strike_when(happened, strike=_tell_the_launcher) -> list[float]:
    """Strikes, by default with SIGTERM at this process, which is the launcher, as soon as something has happened.

    Returns a list that will hold the moment.
    """
    struck: list[float] = []

    def watch():
        ends = time.monotonic() + 600
        while time.monotonic() < ends:
            try:
                if happened():
                    strike()
                    struck.append(time.monotonic())
                    return
            except (ValueError, OSError):  # a line that is being written
                pass
            time.sleep(0.05)

    threading.Thread(target=watch, daemon=True).start()
    return struck
