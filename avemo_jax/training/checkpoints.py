"""The checkpoints of a run: written in the background, checked before they are read, restored onto any mesh.

Every process of a run calls every method, in the same order; process 0 decides and does what is to be done
once. Not here: what a checkpoint's folder holds (`checkpoint_files.py`), and when to save (the loop).
"""

from __future__ import annotations

import dataclasses
import errno
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from avemo_jax import paths
from avemo_jax.errors import UserError
from avemo_jax.training import checkpoint_files as files
from avemo_jax.training import manifest, staging
from avemo_jax.training.checkpoint_files import Record, load_params, save_params
from avemo_jax.training.state import TrainState

__all__ = ["Checkpoints", "Record", "load_params", "save_params"]

_ASIDE = ".unusable"
_NOT_SHARED = (
    f"the processes do not share the folder that checkpoints are made in; {staging.SCRATCH} names another one, "
    "and gs:// needs none"
)
_TRAINING = ("step", "bad_steps", "skipped_steps", "opt_state")  # saved beside the parameters


class Checkpoints:
    """Saves and restores the states of one run.

    Args:
      workdir: the run's folder, the same for all processes.
      keep: how many whole ones to keep, the newest; where all of them were saved amid skipped steps, the newest
        that was not is kept too, to roll back to.
      background: return from `save` as soon as the arrays are copied off the devices.
      say: takes a line for the person at the terminal.
    """

    def __init__(self, workdir: Path, *, keep: int, background: bool, say: Callable[[str], None] = print):
        self.folder = paths.absolute(workdir) / files.FOLDER
        self._keep, self._background, self._say = max(1, keep), background, say
        self._finisher = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future | None = None
        # Orbax logs the traceback of a failed write from each of its threads; here it becomes one clear line.
        logging.getLogger("absl").addFilter(_is_not_from_orbax_threads)

    def save(self, state: TrainState, record: Record) -> None:
        """Begins to save; the arrays are copied before this returns, so the state may be given away.

        Raises:
          UserError: this one, or the one before it, could not be written.
        """
        self.wait()
        parts = _parts(state)
        record = dataclasses.replace(record, arrays=files.describe(parts))
        folder, needed = self.folder / files.step_name(record.step), files.size_in_bytes(parts)
        try:
            with paths.plain_errors(folder):
                if jax.process_index() == 0:
                    files.make_room(folder, needed)
                multihost_utils.sync_global_devices("checkpoint folder made")
                if staging.is_staged(folder) and not staging.place_of(folder).is_dir():
                    raise OSError(errno.ENOTDIR, _NOT_SHARED, str(staging.place_of(folder)))
                writing = files.write_arrays(folder, parts)
        except (OSError, ValueError) as error:
            raise self._failure(folder, needed, error) from error
        self._pending = self._finisher.submit(self._finish, folder, needed, writing, record)
        if not self._background:
            self.wait()

    def check(self) -> None:
        """Raises the UserError of a save that has failed in the meantime; does not wait."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Returns when nothing is being written any more.

        Raises:
          UserError: what was being written could not be.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def restore(self, target: TrainState, *, good_only: bool = False) -> tuple[TrainState, Record] | None:
        """The newest whole checkpoint, on the mesh of `target` (shapes with shardings); None when there is none.

        Newer ones that are unfinished, damaged or (with `good_only`) were written amid skipped steps are said
        and set aside. One of parameters only comes back with the `opt_state` and counters of `target`, that
        is as shapes: the optimiser is to start fresh.

        Raises:
          UserError: its arrays have other names or shapes than the target; or all checkpoints are damaged.
        """
        self.wait()
        step = self._choose(good_only) if jax.process_index() == 0 else None
        step = int(multihost_utils.broadcast_one_to_all(np.int32(-1 if step is None else step)))
        if step < 0:
            return None
        folder = self.folder / files.step_name(step)
        record, parts = files.read_record(folder), _parts(target)
        if not any(path.startswith("training/") for path in record.arrays):
            parts = {"params": parts["params"]}
        files.check_same_arrays(record.arrays, files.describe(parts), folder)
        loaded = files.load_arrays(folder, parts)
        return dataclasses.replace(target, **loaded.pop("training", {}), **loaded), record

    def _choose(self, good_only: bool) -> int | None:
        """The step to restore; sets aside what is newer, so that it cannot be taken for this run's later on."""
        passed_over = []
        for folder in reversed(files.step_folders(self.folder)):
            reason = manifest.find_damage(folder)
            if reason is None and good_only and files.read_record(folder).bad_steps:
                reason = "was written amid skipped steps"
            if reason is None:
                break
            passed_over.append((folder, reason))
        else:
            folder = None
            damaged = [f"{path} {reason}" for path, reason in passed_over if manifest.is_finished(path)]
            if damaged and not good_only:
                raise UserError(
                    f"no checkpoint can be used, {'; '.join(damaged)}: "
                    "put a copy in its place, or delete the folder to start over"
                )
        before = f"step {int(folder.name)}" if folder else "the start"
        for path, reason in passed_over:
            self._say(f"checkpoint {path} {reason}; going back to {before}")
            if paths.is_remote(path):  # renaming would copy it, and could be cut short
                _delete(path)
                continue
            aside = path.with_name(path.name + _ASIDE)
            paths.remove(aside)
            path.rename(aside)
        return int(folder.name) if folder else None

    def _finish(self, folder: Path, needed: int, writing: ocp.AsyncResponse, record: Record) -> None:
        """After the arrays: record, manifest, and only then away with the oldest."""
        try:
            with paths.plain_errors(folder):
                writing.result()
                if jax.process_index() == 0:
                    files.seal(folder, record)
        except (OSError, ValueError) as error:
            raise self._failure(folder, needed, error) from error
        if jax.process_index() == 0:
            try:
                self._prune()
            except OSError as error:  # this one is whole, and the next save prunes again
                self._say(f"older checkpoints in {self.folder} cannot be deleted: {files.explain(error)}")

    def _prune(self) -> None:
        finished = self._finished()
        older = finished[: -self._keep]
        good = next((folder for folder in reversed(finished) if _is_good(folder)), None) if older else None
        for folder in [*older, *self.folder.glob(f"*{_ASIDE}")]:
            if folder != good:
                _delete(folder)

    def _finished(self) -> list[Path]:
        return [folder for folder in files.step_folders(self.folder) if manifest.is_finished(folder)]

    def _failure(self, folder: Path, needed: int, error: Exception) -> UserError:
        """One line with the path, the reason, the size, and what there is to go on from.

        Where a process is missing, the others' part in the writing fails with errors of many kinds: then nothing is
        wrong with the run's input, and it may be started again.
        """
        if jax.process_index() == 0:
            paths.remove(folder)
            staging.forget(folder)
        finished = self._finished()
        left = (
            f"step {int(finished[-1].name)} is the last good one" if finished else "there is no earlier one"
        )
        if jax.process_count() > 1 and not files.of_the_place(error):
            return UserError(
                f"the processes lost one another while checkpoint {folder} was written, {left}: "
                f"{files.explain(error)}",
                exit_code=1,
            )
        return UserError(
            f"cannot write checkpoint {folder}: {files.explain(error)}; it needs {needed:,} bytes, {left}: "
            "make room or mend the permissions, then run the same command again",
            exit_code=2 if files.of_the_place(error) else 1,
        )


def _is_good(folder: Path) -> bool:
    """Whether a rollback may use it, by its record alone; one without a readable record it may not."""
    try:
        with paths.plain_errors(folder):
            return not files.read_record(folder).bad_steps
    except (FileNotFoundError, ValueError, TypeError):
        return False


def _delete(folder: Path) -> None:
    # Without its manifest a folder no longer counts, so its deletion may be cut short.
    (folder / manifest.NAME).unlink(missing_ok=True)
    paths.remove(folder)


def _parts(state: TrainState) -> dict[str, Any]:
    """A state as the trees that are saved; evaluation reads `averaged` alone, or `params` where there is none. One
    without an optimiser cannot be trained on and is saved as its parameters."""
    parts: dict[str, Any] = {"params": state.params}
    if state.opt_state is not None:
        parts["training"] = {name: getattr(state, name) for name in _TRAINING}
    return parts if state.averaged is None else parts | {files.AVERAGED: state.averaged}


def _is_not_from_orbax_threads(record: logging.LogRecord) -> bool:
    return "_SignalingThread" not in record.getMessage()
