"""A run's folder: one run at a time in it, and always the same run."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import IO, Protocol

from ml_collections import ConfigDict

from avemo_jax import paths
from avemo_jax.config import (
    from_json,
    keys_of,
    pretrain_defaults,
    resize_positions,
    run_defaults,
    to_json,
)
from avemo_jax.errors import UserError
from avemo_jax.training.lease import Lease
from avemo_jax.training.manifest import write_durably

CONFIG = "config.json"
LOCK = ".lock"

# What may differ when a run is resumed: how and how long it is run, and where its data lies. All else would
# make it another run. A name with a dot at its end stands for all keys below it.
MAY_CHANGE = (
    "total_steps", "epochs", "remat", "attention.", "mesh.", "checkpoint.", "log.", "guard.", "profile.",
    "data.path", "data.paths", "data.workers", "data.prefetch", "data.max_unreadable_share",
    "views.alone", "views.batch_size", "views.pool", "scores",
)  # fmt: skip

# Keys of single tasks and methods that came after runs could have been begun, and what these did.
_KEYS_SINCE = {
    "model.decoder_skips": True,
    "model.gelu": "erf",
    "model.learned_temperature": 0.0,
    "model.learned_bias": 0.0,
    "model.contrast_layers": [],
    "model.decoder_window": [],
    "data.raters": [],
    "data.centres": [],
    "data.stitch": "",
    "data.stitch_step_s": 0.5,
    "data.fold_by": "fold",
    "data.test_split": "test",
    "views.pool": "",
    "loss.co_occurrence": 0.0,
    "loss.together": [],
    "select.by": "last",
    "select.every_epochs": 1.0,
    "select.patience": 0,
}


class Claim(Protocol):
    """A folder that is this process's."""

    def check(self) -> None:
        """Raises a UserError when it no longer is."""

    def close(self) -> None:
        """Gives it back."""


def claim(workdir: Path) -> Claim:
    """Makes the folder and takes it for this process, until the claim is closed.

    On disk it is a lock that is the process's own and ends with it, whichever way it ends; workers do not inherit it.

    Raises:
      UserError: the folder cannot be written, or another run is using it.
    """
    if paths.is_remote(workdir):
        try:
            with paths.plain_errors(workdir):
                return Lease(workdir)
        except OSError as error:
            raise UserError(
                f"work directory {workdir} cannot be used: {error.strerror or error}; see that the bucket is there and "
                "this machine may write to it",
                exit_code=paths.exit_code(error),
            ) from error
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = (workdir / LOCK).open("a+", encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"work directory {workdir} cannot be used: {error.strerror}; choose another one"
        ) from error
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            raise UserError(
                f"work directory {workdir} cannot be locked: {error.strerror}", exit_code=1
            ) from error
        file.seek(0)
        holder = file.read().strip() or "another process"
        file.close()
        raise UserError(f"{workdir} is in use by {holder}: stop it first, or choose another one") from error
    file.truncate(0)
    file.write(f"process {os.getpid()} on {os.uname().nodename}")
    file.flush()
    return _Lock(file)


class _Lock:
    """A locked file."""

    def __init__(self, file: IO[str]):
        self._file = file

    def check(self) -> None:
        """It is held as long as the process lives."""

    def close(self) -> None:
        self._file.close()


def check_config(workdir: Path, config: ConfigDict) -> None:
    """Is this the run that the folder holds?

    Raises:
      UserError: the folder's `config.json` says another run, with the keys that differ.
    """
    path = workdir / CONFIG
    if not path.exists():
        return
    try:
        before = _flat(from_json(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise UserError(
            f"{path} is not a config ({error}): put it back, or choose another work directory"
        ) from error
    now = _flat(config)
    # What a key that there was not yet would have said then: its default.
    defaults = _flat(ConfigDict({**run_defaults(), **pretrain_defaults()})) | _KEYS_SINCE
    defaults |= {f"model.resize_positions.{key}": value for key, value in _flat(resize_positions()).items()}
    defaults |= {key: 0 for key in now if key.startswith("heads.") and key.endswith(".development")}
    before = {key: value for key, value in defaults.items() if key in now} | before
    differing = [
        f"{key} was {before.get(key)!r} and is {now.get(key)!r}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not _may_change(key)
    ]
    if differing:
        raise UserError(
            f"{workdir} holds a run with another config: {'; '.join(differing)}. Choose another work directory, "
            f"or the old values (only these may change: {', '.join(key.rstrip('.') for key in MAY_CHANGE)})"
        )


def write_config(workdir: Path, config: ConfigDict) -> None:
    """Records the resolved config of the run."""
    write_durably(workdir / CONFIG, to_json(config))


def _flat(config: ConfigDict) -> dict:
    return {key: _value(config, key) for key in keys_of(config)}


def _value(config: ConfigDict, key: str):
    for part in key.split("."):
        config = config[part]
    return list(config) if isinstance(config, (tuple, list)) else config


def _may_change(key: str) -> bool:
    return any(key == name or (name.endswith(".") and key.startswith(name)) for name in MAY_CHANGE)
