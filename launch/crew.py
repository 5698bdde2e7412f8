"""The processes of one host: started, shown line by line, listened to, stopped. What to do is decided elsewhere.

A process that wants to be heard beats: it writes its step as a line to the pipe that `AVEMO_HEARTBEAT_FD` names,
about once a second (`avemo_jax/training/heartbeat.py`). Silence then means that it is frozen or cannot run.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

HEARTBEAT_FD = "AVEMO_HEARTBEAT_FD"

# Loaded here, since little is safe between fork and exec.
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_DYING_S = 10.0  # for processes that were killed to be gone
OWN_PAUSE_S = 5.0  # longer between two looks than this, and it was us who did not run


class Process(NamedTuple):
    """What one process is started with."""

    command: list[str]
    environment: dict[str, str]  # what is set in addition to our own


@dataclass
class Condition:
    """How a process is. Crosses the network as JSON."""

    id: int  # in the whole run
    host: str
    code: int | None = None  # as `subprocess` gives it; None: runs
    silent_s: float = 0.0  # since its last beat, or since it was seen to be stopped
    stopped: bool = False  # by SIGSTOP or a debugger
    step: int = -1  # the last that it told of; −1: none yet
    still_s: float = 0.0  # for how long it has told of nothing new

    @property
    def name(self) -> str:
        return f"process {self.id} on {self.host}"

    def as_json(self) -> dict:
        return asdict(self)


class Crew:
    """The processes of this host, from their start to their end. To be made in the main thread.

    Args:
      processes: what to start.
      first_id: the first one's number in the whole run.
      host: this host's name, for messages.
    """

    def __init__(self, processes: Sequence[Process], first_id: int = 0, host: str = ""):
        self._members = [_Member(process, first_id + i, host) for i, process in enumerate(processes)]
        self._looked_at = time.monotonic()
        self._ended = False

    def look(self) -> list[Condition]:
        """How every process is now. To be called often."""
        now = time.monotonic()
        # When we ourselves were stopped, or the machine was, silence meanwhile says nothing.
        excused = now - self._looked_at > OWN_PAUSE_S
        self._looked_at = now
        return [member.look(now, excused) for member in self._members]

    def signal(self, number: int) -> None:
        """Sends a signal to every process that runs, not to their workers."""
        for member in self._members:
            if member.child.poll() is None:
                member.child.send_signal(number)

    def end(self) -> None:
        """Ends what still runs, workers included: a process inside a collective hears no gentler signal."""
        if self._ended:  # their numbers may be those of strangers by now
            return
        self._ended = True
        for member in self._members:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(member.child.pid, signal.SIGKILL)
        ends = time.monotonic() + _DYING_S
        for member in self._members:
            member.close(max(0.1, ends - time.monotonic()))


class _Member:
    """One process."""

    def __init__(self, process: Process, number: int, host: str):
        self._beats, theirs = os.pipe()
        os.set_blocking(self._beats, False)
        self.child = subprocess.Popen(
            process.command,
            env={**os.environ, **process.environment, HEARTBEAT_FD: str(theirs), "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=[theirs],
            start_new_session=True,  # its workers end with it, and Ctrl-C reaches it through us only
            preexec_fn=_end_with_parent if LIBC else None,
        )
        os.close(theirs)
        self._reader = _show(self.child, f"[{number}] ")
        self._condition = Condition(number, host)
        self._heard_at: float | None = None  # None: it has not beaten yet, or never will
        self._stopped_since: float | None = None
        self._moves, self._moved_at = 0, time.monotonic()

    def look(self, now: float, excused: bool) -> Condition:
        told = self._condition
        beats = self._read_beats()
        if beats or (excused and self._heard_at is not None):
            self._heard_at = now
        if beats and beats[-1] != (told.step, self._moves):
            (told.step, self._moves), self._moved_at = beats[-1], now
        told.code = self.child.poll()
        told.stopped = told.code is None and _is_stopped(self.child.pid)
        if not told.stopped or excused:
            self._stopped_since = None
        if excused:
            self._moved_at = now
        if told.stopped:
            self._stopped_since = self._stopped_since or now
        quiet_since = [since for since in (self._heard_at, self._stopped_since) if since is not None]
        told.silent_s = now - min(quiet_since) if quiet_since and told.code is None else 0.0
        told.still_s = now - self._moved_at
        return told

    def close(self, seconds: float) -> None:
        with contextlib.suppress(
            subprocess.TimeoutExpired
        ):  # it hangs in a driver or a mount: only that can free it
            self.child.wait(seconds)
            self._reader.join(timeout=5)
        if self._beats >= 0:
            os.close(self._beats)
            self._beats = -1

    def _read_beats(self) -> list[tuple[int, int]]:
        """What each line says, step and moves."""
        if self._beats < 0:
            return []
        try:
            text = os.read(self._beats, 1 << 16)
        except BlockingIOError:
            return []
        # Lines are shorter than a pipe's atomic write, so that each comes whole.
        numbers = [line.split() for line in text.splitlines()]
        return [(int(step), int(moves)) for step, moves in numbers]


def share_of_gpus(environment: Mapping[str, str], index: int, count: int) -> dict[str, str]:
    """The GPUs of one of several processes, where the environment lists the host's and they can be shared out."""
    listed = [gpu for gpu in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
    if count == 1 or not listed or len(listed) % count:
        return {}
    share = len(listed) // count
    return {"CUDA_VISIBLE_DEVICES": ",".join(listed[index * share : (index + 1) * share])}


def _is_stopped(pid: int) -> bool:
    """Linux tells; elsewhere silence has to do."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] in ("T", "t")


def _end_with_parent() -> None:
    """A launcher that is killed outright takes its processes along, so that none writes on unseen."""
    LIBC.prctl(1, signal.SIGKILL)  # 1: PR_SET_PDEATHSIG


def _show(child: subprocess.Popen, prefix: str) -> threading.Thread:
    def copy():
        for line in child.stdout:
            # Nobody reads it any more, or its disk is full: a process whose lines are not taken would stand still.
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.write(prefix + line.decode(errors="replace"))
                sys.stdout.flush()

    reader = threading.Thread(target=copy, daemon=True)
    reader.start()
    return reader
