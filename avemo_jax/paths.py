"""Folders on disk and on object storage (gs://, s3://) by the same few operations.

What a path does on its own (read, write, list, `/`), `epath` does for object storage as pathlib does on disk. Here
is what differs: there are no folders to sync, no renaming at once, no appending; a whole object appears or does not.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from avemo_jax.errors import UserError
from input_pipeline import stores


def to_path(text: str | os.PathLike) -> Path:
    """A path on disk, or one that begins with gs:// or s3://.

    The latter is `epath`'s, which has pathlib's methods but is no `pathlib.Path`; it goes under this name because
    whoever takes a folder need not know.

    Raises:
      DataError: another scheme, or the package for this one is not installed.
    """
    text = os.fspath(text)
    if not stores.scheme_of(text):
        return Path(text)
    stores.check_scheme(text)
    stores.configure()
    from etils import epath

    return cast(Path, epath.Path(text))


def on_disk(text: str) -> str:
    """The text, of a place that can only be on a disk; raises a UserError where it is on object storage."""
    if is_remote(text):
        raise UserError(
            f"{text}: this is made on a disk; give a folder there and copy it, with `gcloud storage cp --recursive` or "
            "`aws s3 cp --recursive`"
        )
    return text


def is_remote(path: str | os.PathLike) -> bool:
    """Is it on object storage?"""
    return bool(stores.scheme_of(path))


def absolute(path: str | os.PathLike) -> Path:
    """`to_path`, from the root on."""
    path = to_path(path)
    return path if is_remote(path) else path.absolute()


def size_of(path: Path) -> int:
    """Bytes of a file."""
    stat: Any = path.stat()
    return stat.length if is_remote(path) else stat.st_size


def read_whole(path: Path) -> bytes:
    """A small file's bytes by one request: those of one version, also of an object that another replaces meanwhile."""
    if not is_remote(path):
        return path.read_bytes()
    store, name = stores.open_store(path)
    return store.cat_file(name)


def files_under(folder: Path) -> list[Path]:
    """All files in a folder and its folders, sorted."""
    if not is_remote(folder):
        return sorted(path for path in folder.rglob("*") if path.is_file())
    store, root = stores.open_store(folder)
    # The root itself may be there as an empty object, which stands for a folder.
    names = [name.removeprefix(root).strip("/") for name in store.find(root)]
    return [folder / name for name in sorted(filter(None, names))]


def remove(folder: Path) -> None:
    """Deletes a folder, if it is there and can be."""
    if not is_remote(folder):
        shutil.rmtree(folder, ignore_errors=True)
        return
    with contextlib.suppress(OSError), plain_errors(folder):
        if folder.is_dir():
            cast(Any, folder).rmtree()


@contextlib.contextmanager
def plain_errors(path: str | os.PathLike) -> Iterator[None]:
    """What a store's client raises, much of it of kinds of its own, as an OSError with the reason in its text."""
    try:
        yield
    except Exception as error:
        if (
            not is_remote(path)
            or isinstance(error, UserError)
            or (isinstance(error, OSError) and error.strerror)
        ):
            raise
        text = (str(error).strip() or type(error).__name__).splitlines()[0]
        # Python makes a FileNotFoundError or a PermissionError of it again.
        raise OSError(stores.errno_of(error), text, os.fspath(path)) from error


def exit_code(error: OSError) -> int:
    """Of a command that what `plain_errors` raised ends, as `stores.exit_code` says."""
    return stores.exit_code(error)
