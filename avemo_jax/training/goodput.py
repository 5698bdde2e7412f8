"""Where a run's wall time goes, by kind, over all its starts: one line at its end, and `time.json`.

A step is always in flight, so waiting for a step's numbers is stepping; waiting for input is only what the
devices waited. What a killed run did after its last checkpoint is in no file, and so not in these sums either.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from avemo_jax import paths
from avemo_jax.training.manifest import write_durably

NAME = "time.json"
KINDS = ("steps", "compiling", "input", "checkpoints", "pictures", "restoring", "looks", "other")


class Goodput:
    """A stopwatch that is always on one kind, `other` at first. To be made when the run begins.

    Args:
      workdir: keeps the sums; None in processes that do not write.
      devices: what the run is on, for the reader.
    """

    def __init__(self, workdir: Path | None, devices: str = ""):
        self._path = workdir / NAME if workdir else None
        self._devices = devices
        self._before = _read(self._path)
        self._seconds = dict.fromkeys(KINDS, 0.0)
        self._kind, self._since, self._idle_s = "other", time.monotonic(), 0.0

    @contextlib.contextmanager
    def on(self, kind: str) -> Iterator[None]:
        """What happens inside is of this kind; afterwards it is as before."""
        outer = self._turn_to(kind)
        try:
            yield
        finally:
            self._turn_to(outer)

    def waited(self, idle_s: float) -> None:
        """Takes a feed's `idle_s`, which counts from its beginning, out of the steps."""
        more = idle_s - self._idle_s if idle_s >= self._idle_s else idle_s  # less: it is a new feed
        self._idle_s = idle_s
        self._seconds["steps"] -= more
        self._seconds["input"] += more

    def save(self) -> None:
        """Writes the sums so far; where that fails, a run goes on without them."""
        if self._path is None:
            return
        self._turn_to(self._kind)
        with contextlib.suppress(OSError):  # also of a store: write_durably raises no other
            write_durably(self._path, json.dumps(self._sums(), indent=1) + "\n")

    def close(self, say: Callable[[str], None]) -> None:
        """Writes the sums and says the shares of this start, and of all."""
        self.save()
        total, sums = sum(self._seconds.values()), self._sums()
        others = [f"{kind} {_share(self._seconds[kind], total)}" for kind in KINDS[1:]]
        line = (
            f"goodput: steps {_share(self._seconds['steps'], total)}, {', '.join(others)} of {_clock(total)}"
        )
        if sums["restarts"]:
            share = _share(sums["seconds"]["steps"], sums["wall_s"])
            line += f"; over all {sums['restarts'] + 1} starts steps {share} of {_clock(sums['wall_s'])}"
        say(line)

    def _turn_to(self, kind: str) -> str:
        """Now `kind`; returns what it was."""
        now, before = time.monotonic(), self._kind
        self._seconds[before] += now - self._since
        self._kind, self._since = kind, now
        return before

    def _sums(self) -> dict[str, Any]:
        """What `time.json` holds: seconds by kind over all starts."""
        earlier = self._before.get("seconds", {})
        seconds = {kind: round(earlier.get(kind, 0.0) + self._seconds[kind], 3) for kind in KINDS}
        restarts = self._before["restarts"] + 1 if self._before else 0
        return {
            "wall_s": round(sum(seconds.values()), 3),
            "seconds": seconds,
            "restarts": restarts,
            "devices": self._devices,
        }


def _read(path: Path | None) -> dict[str, Any]:
    """The sums of the starts before this one; empty when there was none, or the file is not ours."""
    try:
        with paths.plain_errors(path or ""):
            found = json.loads(path.read_text(encoding="utf-8")) if path else {}
        seconds = {kind: float(found["seconds"].get(kind, 0.0)) for kind in KINDS}
        return {"seconds": seconds, "restarts": int(found["restarts"])}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _share(part: float, whole: float) -> str:
    return f"{part / max(whole, 1e-9):.1%}"


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
