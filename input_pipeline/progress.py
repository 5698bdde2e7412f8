"""Progress of long work: a bar on a terminal, a plain line now and then elsewhere (logs, pipes)."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

_LINE_EVERY_S = 15.0


class Progress:
    """Counts items up to a total; a context manager.

    with Progress(total, "clips", "prepare") as progress: progress.advance()
    """

    def __init__(self, total: int, unit: str, label: str, done: int = 0):
        self._total, self._unit, self._label = total, unit, label
        self._done = self._first = done
        self._bar = None
        self._began = self._said = time.monotonic()
        if sys.stderr.isatty():
            self._bar = tqdm(total=total, initial=done, unit=f" {unit}", desc=label, file=sys.stderr)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self._done > self._first:
            self._say()

    def advance(self, note: str = "") -> None:
        """One more item is done; `note` is shown behind the count."""
        self._done += 1
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update()
        elif time.monotonic() - self._said >= _LINE_EVERY_S and self._done < self._total:
            self._say(note)

    def say(self, line: str) -> None:
        """A line of its own, above the bar."""
        tqdm.write(f"{self._label}: {line}", file=sys.stderr)

    def _say(self, note=""):
        self._said = time.monotonic()
        rate = (self._done - self._first) / max(self._said - self._began, 1e-6)
        left = (
            f", {(self._total - self._done) / rate:.0f} s left" if self._done < self._total and rate else ""
        )
        count = f"{self._done}/{self._total} {self._unit}"
        print(
            f"{self._label}: {count}, {rate:.1f}/s{left}{', ' + note if note else ''}",
            file=sys.stderr,
            flush=True,
        )
