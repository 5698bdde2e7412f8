"""Telling the launcher that this process runs, at which step, and whether it moves: a line once a second with the step
and a number that rises with all that is done.

The launcher names a pipe in the environment; without one, nothing is told. A process that is stopped, or so stuck
that no Python runs in it, falls silent: that is the sign. Not here: what is done about it, see `launch/`.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator

FD = "AVEMO_HEARTBEAT_FD"  # of the pipe's end to write to

_EVERY_S = 1.0


class Heartbeat:
    """The process's heartbeat: started once, as early as can be."""

    def __init__(self):
        self._step = -1  # none yet
        self._before = 0  # steps of the parts that are done
        self._moves = 0
        self._busy = False

    def start(self) -> None:
        """Begins to beat in the background."""
        fd = os.environ.pop(FD, "")  # taken out: it is not for our workers
        if not fd:
            return
        os.set_blocking(int(fd), False)
        os.set_inheritable(int(fd), False)
        threading.Thread(target=self._beat, args=(int(fd),), name="heartbeat", daemon=True).start()

    def at(self, step: int) -> None:
        """This step was given to the devices; the next beat tells."""
        self._step = step
        self.moved()

    def moved(self) -> None:
        """Something was done that is no step, as one batch of many that are looked at: a run that takes long is told
        from one that hangs."""
        self._moves += 1

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """Meanwhile every beat tells of something done: for what takes long and gives no sign of its own, as compiling
        does."""
        self._busy = True
        try:
            yield
        finally:
            self._busy = False

    def part_done(self) -> None:
        """The steps that follow are those of another part, such as a fold, and are counted on: what is told only rises,
        by which the launcher sees that a run gets further."""
        self._before += max(self._step, 0)
        self._step = 0

    def _beat(self, fd: int) -> None:
        while True:
            if self._busy:
                self.moved()
            try:
                os.write(fd, b"%d %d\n" % (self._before + self._step, self._moves))
            except BlockingIOError:  # nobody reads just now
                pass
            except OSError:  # nobody will again: the launcher is gone
                return
            time.sleep(_EVERY_S)


HEARTBEAT = Heartbeat()
