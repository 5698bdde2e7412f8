"""A trace of some steps of a run, for XProf or Perfetto: what the devices and the host did, and when."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

FOLDER = "profile"
STEP = "train"  # the name that each traced step has on the time line


class Profile:
    """Traces `config.profile.steps` steps, after the first `config.profile.after` of this start.

    The trace is written beside the run's other results when its last step has been computed. Where that fails the
    run goes on without it.

    Args:
      workdir: gets `profile/`; None in processes that trace nothing.
      say: told where it is and how to open it.
    """

    def __init__(self, workdir: Path | None, *, after: int, steps: int, say: Callable[[str], None] = print):
        self._workdir, self._say = workdir, say
        self._wait, self._left = (after, steps) if workdir is not None else (0, 0)
        self._folder: tempfile.TemporaryDirectory | None = None  # while it traces
        self._first = 0

    def step(self, step: int) -> contextlib.AbstractContextManager:
        """To be around the call that computes `step`."""
        if self._left and not self._wait and self._folder is None:
            self._folder, self._first = tempfile.TemporaryDirectory(), step
            # Python's own calls are many and say little: the loop is a few lines.
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0
            jax.profiler.start_trace(self._folder.name, create_perfetto_trace=True, profiler_options=options)
        self._wait = max(0, self._wait - 1)
        if self._folder is None:
            return contextlib.nullcontext()
        return jax.profiler.StepTraceAnnotation(STEP, step_num=step)

    def done(self, step: int, metrics: Any) -> None:
        """After the call; waits for the last traced step, so that the trace holds it whole."""
        if self._folder is None:
            return
        self._left -= 1
        if not self._left:
            jax.block_until_ready(metrics)
            self._write(step)

    def close(self) -> None:
        """Writes what was traced of a run that ends meanwhile."""
        if self._folder is not None:
            self._write(None)

    def _write(self, last: int | None) -> None:
        folder, self._folder, self._left = self._folder, None, 0
        assert folder and self._workdir
        with folder:
            try:
                jax.profiler.stop_trace()
                name = f"step_{self._first:08d}"
                into = self._workdir / FOLDER / "plugins" / "profile" / name
                into.mkdir(parents=True, exist_ok=True)
                for path in sorted(Path(folder.name).rglob("*")):
                    if path.is_file():
                        with path.open("rb") as source, (into / path.name).open("wb") as target:
                            shutil.copyfileobj(source, target)
            except (OSError, RuntimeError) as error:
                self._say(f"no profile: {error}")
                return
        steps = f"steps {self._first} to {last}" if last else f"steps from {self._first}"
        self._say(
            f"profile of {steps} is in {into}: open perfetto_trace.json.gz there at https://ui.perfetto.dev, "
            f"or see all of it with `pip install xprof` and `xprof --logdir {self._workdir / FOLDER}`"
        )
