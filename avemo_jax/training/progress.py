"""What the person at the terminal sees of a run: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from datetime import timedelta

from tqdm import tqdm


class Progress:
    """Shows a run's steps; silent where `shown` is False (all processes but the first).

    Args:
      total_steps: of the run.
      first_step: where it begins or goes on.
      shown: whether to say anything.
    """

    def __init__(self, total_steps: int, first_step: int, *, shown: bool):
        self._total, self._first, self._shown = total_steps, first_step, shown
        self._began = time.monotonic()
        self._bar = None
        if shown and sys.stderr.isatty():
            self._bar = tqdm(
                total=total_steps, initial=first_step, unit=" steps", desc="train", file=sys.stderr
            )

    def row(self, step: int, values: dict[str, float]) -> None:
        """The numbers of a step that is logged."""
        if not self._shown:
            return
        loss, speed, idle = values["loss"], values["clips_per_s"], values["input_wait_share"]
        numbers = f"loss {loss:.4f}, {speed:.1f} clips/s, {idle:.0%} of the time waiting for data"
        if self._bar is not None:
            self._bar.set_postfix_str(numbers, refresh=False)
            self._bar.update(step - self._bar.n)
        else:
            seconds = (time.monotonic() - self._began) / max(step - self._first, 1) * (self._total - step)
            left = timedelta(seconds=round(seconds))
            print(f"step {step}/{self._total}: {numbers}, {left} left", flush=True)

    def say(self, line: str) -> None:
        """A line of its own."""
        if self._bar is not None:
            self._bar.write(line)
        elif self._shown:
            print(line, flush=True)

    def close(self) -> None:
        """The bar stays as it is."""
        if self._bar is not None:
            self._bar.close()
