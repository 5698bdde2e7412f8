"""Where metrics and pictures of a run go: `metrics.jsonl` and `samples/` always, TensorBoard and W&B when asked.

All have the small interface of `Writer`. A run that is resumed, or rolled back, at step s first takes back what
was written after s, so that no step is there twice.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import secrets
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from avemo_jax import paths
from avemo_jax.errors import UserError
from avemo_jax.training.manifest import write_durably

METRICS = "metrics.jsonl"
SAMPLES = "samples"
_STORE_EVERY_S = 30.0  # between two writes of all rows to object storage
_STORE_SHARE = 0.05  # of the time at most


class Writer(Protocol):
    """Takes what a run reports."""

    def rewind(self, step: int) -> None:
        """Forgets what was written for later steps."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One row of numbers."""

    def images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Pictures, uint8 [H, W, 3] by name."""

    def flush(self) -> None:
        """What was written so far would outlive this process."""

    def close(self) -> None:
        """Everything is on disk when this returns."""


def make_writers(workdir: Path, config: ConfigDict) -> list[Writer]:
    """The writers that `config.log` asks for.

    Raises:
      UserError: one is asked for whose package is not installed, or that cannot write there.
    """
    remote = paths.is_remote(workdir)
    writers: list[Writer] = [StoreWriter(workdir) if remote else FolderWriter(workdir)]
    if config.log.tensorboard and remote:
        raise UserError(
            f"log.tensorboard=True writes to disk only, not to {workdir}: metrics.jsonl there holds the same numbers"
        )
    if config.log.tensorboard:
        writers.append(TensorBoardWriter(workdir))
    if config.log.wandb:
        writers.append(WandbWriter(workdir, config))
    return writers


class FolderWriter:
    """`metrics.jsonl`, one object a line, and `samples/*.png`."""

    def __init__(self, workdir: Path):
        self._path, self._samples = workdir / METRICS, workdir / SAMPLES
        self._file: Any = None  # open from `rewind` to `close`

    def rewind(self, step: int) -> None:
        self.close()
        if self._path.exists():
            rows = self._path.read_text(encoding="utf-8", errors="replace").splitlines()
            kept = [row for row in rows if _step_of(row) <= step]
            write_durably(self._path, "".join(f"{row}\n" for row in kept))
        self._file = self._path.open("a", encoding="utf-8")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        try:
            self._file.write(_row(step, values) + "\n")
            self._file.flush()
        except OSError as error:
            raise UserError(
                f"cannot write {self._path}: {error.strerror}; make room and start again"
            ) from error

    def images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        self._samples.mkdir(exist_ok=True)
        for name, image in images.items():
            path = self._samples / f"{step:08d}_{name}.png"
            try:
                Image.fromarray(image).save(path)
            except OSError as error:
                raise UserError(
                    f"cannot write {path}: {error.strerror}; make room and start again"
                ) from error

    def flush(self) -> None:
        """Each row is flushed as it comes."""

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class StoreWriter:
    """The same on object storage, where nothing can be appended: now and then all rows are written anew.

    A killed run so loses the rows of its last half minute; those before a checkpoint are written before it.
    """

    def __init__(self, workdir: Path):
        self._path, self._samples = workdir / METRICS, workdir / SAMPLES
        self._rows: list[str] = []
        self._unwritten, self._due = False, 0.0

    def rewind(self, step: int) -> None:
        with contextlib.suppress(FileNotFoundError), paths.plain_errors(self._path):
            self._rows = self._path.read_text(encoding="utf-8").splitlines()
        self._rows = [row for row in self._rows if _step_of(row) <= step]
        self._unwritten = True

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._rows.append(_row(step, values))
        self._unwritten = True
        if time.monotonic() >= self._due:
            self.flush()

    def images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        for name, image in images.items():
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "PNG")
            self._write(self._samples / f"{step:08d}_{name}.png", buffer.getvalue())

    def flush(self) -> None:
        if not self._unwritten:
            return
        began = time.monotonic()
        self._write(self._path, "".join(f"{row}\n" for row in self._rows).encode())
        took = time.monotonic() - began
        self._unwritten, self._due = False, began + max(_STORE_EVERY_S, took / _STORE_SHARE)

    def close(self) -> None:
        self.flush()

    def _write(self, path: Path, data: bytes) -> None:
        try:
            with paths.plain_errors(path):
                path.write_bytes(data)
        except OSError as error:
            raise UserError(
                f"cannot write {path}: {error.strerror}; mend it and start again",
                exit_code=paths.exit_code(error),
            ) from error


class TensorBoardWriter:
    """Event files in `tensorboard/`, by tensorboardX, which needs neither TensorFlow nor torch."""

    def __init__(self, workdir: Path):
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise UserError(
                "log.tensorboard=True needs tensorboardX: pip install 'avemo_jax[tensorboard]'"
            ) from error
        self._make, self._folder = SummaryWriter, str(workdir / "tensorboard")
        self._events: Any = None  # open from `rewind` to `close`

    def rewind(self, step: int) -> None:
        self.close()
        # The suffix: two files of one second would otherwise have the same name.
        self._events = self._make(self._folder, purge_step=step + 1, filename_suffix=f".{step}")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._events.add_scalar(name, value, step)

    def images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        for name, image in images.items():
            self._events.add_image(name, image, step, dataformats="HWC")

    def flush(self) -> None:
        if self._events is not None:
            self._events.flush()

    def close(self) -> None:
        if self._events is not None:
            self._events.close()
            self._events = None


class WandbWriter:
    """One W&B run for the whole life of the folder, whose id is kept in `wandb_id`."""

    def __init__(self, workdir: Path, config: ConfigDict):
        try:
            import wandb
        except ImportError as error:
            raise UserError("log.wandb=True needs wandb: pip install 'avemo_jax[wandb]'") from error
        path = workdir / "wandb_id"
        if not path.exists():
            write_durably(path, secrets.token_hex(4))
        self._wandb = wandb
        self._run = wandb.init(
            project="avemo_jax",
            dir=tempfile.mkdtemp() if paths.is_remote(workdir) else str(workdir),
            id=path.read_text(),
            resume="allow",
            config=config.to_dict(),
        )

    def rewind(self, step: int) -> None:
        """Nothing to do: W&B drops rows of steps that it has."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        self._run.log({name: self._wandb.Image(image) for name, image in images.items()}, step=step)

    def flush(self) -> None:
        """W&B sends by itself."""

    def close(self) -> None:
        self._run.finish()


def _row(step: int, values: Mapping[str, float]) -> str:
    # JSON has no NaN; null says "no number" to every reader.
    numbers = {name: value if math.isfinite(value) else None for name, value in values.items()}
    return json.dumps({"step": step, **numbers}, allow_nan=False)


def _step_of(row: str) -> float:
    """The step of a line; infinity for one that was cut or is otherwise not a row."""
    try:
        return int(json.loads(row)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf
