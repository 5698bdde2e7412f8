"""Is a folder whole? A list of its files with sizes and SHA-256, written last and checked before reading.

Orbax writes atomically but does not notice flipped bits, so a checkpoint counts only when this list is there
and every file in it is what it was. Also here: writing a small file so that a crash leaves the old or the new
one, never half of it.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from avemo_jax import paths
from avemo_jax.errors import UserError

NAME = "manifest.json"


def write_manifest(folder: Path, source: Path | None = None) -> None:
    """Lists every file under `folder`; each is on disk, not only in memory, before the list is.

    source: where the same files lie too, and are read from.
    """
    source = source or folder
    on_disk = not paths.is_remote(folder)
    files = {}
    for path in paths.files_under(source):
        if path.name == NAME:
            continue
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            if on_disk:
                os.fsync(file.fileno())
        files[path.relative_to(source).as_posix()] = {"bytes": paths.size_of(path), "sha256": digest}
    if on_disk:
        for inner in {path.parent for path in folder.rglob("*")} | {folder}:
            _sync_folder(inner)
    write_durably(folder / NAME, json.dumps({"files": files}, indent=1))
    if on_disk:
        _sync_folder(folder.parent)


def is_finished(folder: Path) -> bool:
    """Was the list written? Says nothing about the files in it."""
    return (folder / NAME).is_file()


def find_damage(folder: Path) -> str | None:
    """What is wrong with the folder, in words; None when every listed file is as it was written.

    Raises:
      UserError: a store cannot be read just now, which says nothing about the folder.
    """
    if not is_finished(folder):
        return "was not finished"
    try:
        with paths.plain_errors(folder):
            written = (folder / NAME).read_bytes()
        for name, expected in json.loads(written)["files"].items():
            path, size, digest = folder / name, expected["bytes"], expected["sha256"]
            with paths.plain_errors(path):
                if not path.is_file():
                    return f"lacks its file {name}"
                if (found := paths.size_of(path)) != size:
                    return f"has a file of {found} instead of {size} bytes, {name}"
                with path.open("rb") as file:
                    if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                        return f"has a file with a wrong checksum, {name}"
    except OSError as error:
        if paths.is_remote(folder) and not isinstance(error, FileNotFoundError):
            raise UserError(f"{folder} cannot be read: {error.strerror or error}", exit_code=1) from error
        return f"has an unreadable file ({error})"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"has an unreadable file ({error})"
    return None


def write_durably(path: Path, text: str) -> None:
    """Replaces a small file at once: after a crash there is the old one or the new one."""
    if paths.is_remote(path):
        with paths.plain_errors(path):
            path.write_text(text, encoding="utf-8")  # an object is there whole or not at all
        return
    beside = path.with_name(path.name + ".new")
    with beside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
