"""Files that are results: written whole or not at all, and refused before the work where they cannot be."""

from __future__ import annotations

import contextlib
import os
import uuid
from pathlib import Path

from avemo_jax import paths
from avemo_jax.errors import UserError


def check_place(folder: str | os.PathLike) -> None:
    """Raise a UserError when `folder` can be neither written to nor made: better before the work than after."""
    if paths.is_remote(folder):
        return  # only writing shows
    folder = Path(folder).absolute()
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        reason = "no write permission there" if nearest.is_dir() else f"{nearest} is a file"
        raise UserError(f"{folder} cannot be written: {reason}; choose another place")


def write_file(path: str | os.PathLike, text: str) -> None:
    """Write a whole file or none; an earlier one stays until the new one is complete."""
    path = paths.to_path(path)
    _write(path, path.with_name(path.name + ".part"), text.encode("utf-8"))


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """The same for a file that several processes may write at once: the last to finish has written it."""
    path = paths.to_path(path)
    _write(path, path.with_name(f".{uuid.uuid4().hex}.part"), data)


def _write(path: Path, part: Path, data: bytes) -> None:
    if paths.is_remote(path):
        try:
            with paths.plain_errors(path):
                path.write_bytes(data)  # an object is there whole or not at all
        except OSError as error:
            code = paths.exit_code(error)
            mend = "choose another place" if code == 2 else "start again"
            raise UserError(f"{path} cannot be written: {error.strerror}; {mend}", code) from error
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(data)
        os.replace(part, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        reason = f"{error.strerror or error} ({len(data):,} bytes)"
        raise UserError(
            f"{path} cannot be written: {reason}; choose another place or free some space"
        ) from error
