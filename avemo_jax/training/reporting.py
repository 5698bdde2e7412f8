"""From a step's numbers on the devices to rows: for the writers, and for the person at the terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import jax
from jax import Array

from avemo_jax.training.progress import Progress
from avemo_jax.training.writers import Writer


class Reporter:
    """Writes a row every so many steps, with rates over the steps since the row before.

    Args:
      writers: none in all processes but the first.
      progress: shows the rows.
      batch_size: clips a step.
      every_steps: between rows.
      last_step: of the run; always has a row.
    """

    def __init__(
        self,
        writers: Sequence[Writer],
        progress: Progress,
        *,
        batch_size: int,
        every_steps: int,
        last_step: int,
    ):
        self._writers, self._progress = writers, progress
        self._batch_size, self._every, self._last = batch_size, max(1, every_steps), last_step

    def start(self, step: int, rollbacks: int = 0) -> None:
        """The clock starts; rows of later steps, from before an interruption, are taken back."""
        self._rollbacks, self._step, self._idle_s, self._since = rollbacks, step, 0.0, time.monotonic()
        self._rates: dict[str, float] = {}
        for writer in self._writers:
            writer.rewind(step)

    def read(
        self,
        step: int,
        metrics: dict[str, Array],
        idle_s: float,
        unreadable_clips: int,
        scores: Mapping[str, float],
    ) -> dict[str, float]:
        """Waits for a step's numbers and, where a row is due, writes it. `idle_s` counts from `start` on; `scores` are
        those of a look at the weights, of which a step with any has a row."""
        numbers = {name: value.item() for name, value in jax.device_get(metrics).items()}
        values = {"loss": numbers.pop("loss"), **numbers}
        due = step % self._every == 0 or step == self._last
        if due or not self._rates:
            now = time.monotonic()
            elapsed, steps = max(now - self._since, 1e-9), step - self._step
            self._rates = {
                "clips_per_s": steps * self._batch_size / elapsed,
                "step_s": elapsed / steps,
                "input_wait_share": min((idle_s - self._idle_s) / elapsed, 1.0),
            }
        if due:
            self._step, self._idle_s, self._since = step, idle_s, now
        if due or scores:  # a row for scores alone repeats the rates: it may come at once after another
            values |= scores
            values["rollbacks"] = self._rollbacks
            values["unreadable_clips"] = unreadable_clips
            values |= self._rates
            for writer in self._writers:
                writer.scalars(step, values)
            self._progress.row(step, values)
        return values

    def paused(self, seconds: float) -> None:
        """So much of the time since the last row was not spent on steps."""
        self._since += seconds

    def pictures(self, step: int, images) -> None:
        """Hands on pictures, uint8 [H, W, 3] by name."""
        for writer in self._writers:
            writer.images(step, images)

    def flush(self) -> None:
        """What was written so far outlives this process."""
        for writer in self._writers:
            writer.flush()

    def close(self) -> None:
        """Everything is written."""
        self._progress.close()
        for writer in self._writers:
            writer.close()
