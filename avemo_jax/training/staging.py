"""Where Orbax reads and writes a checkpoint's arrays: in their folder, or in a copy of it on this machine.

Orbax (0.12) knows disks and gs://, where all hosts write at once. For other object storage a checkpoint is made in a
folder here and then copied, and copied here before it is read. All processes have to see that folder while one is
written: those of one machine do, several hosts need a file system that they share (`AVEMO_SCRATCH`).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from avemo_jax import paths
from input_pipeline import stores

SCRATCH = "AVEMO_SCRATCH"  # the folder for such copies
_BY_ORBAX = ("", "gs")


def is_staged(folder: Path) -> bool:
    """Does this checkpoint need a copy here?"""
    return stores.scheme_of(folder) not in _BY_ORBAX


def place_of(folder: Path) -> Path:
    """The folder itself, or the one that stands for it here: the same in all processes and starts."""
    if not is_staged(folder):
        return folder
    scratch = os.environ.get(SCRATCH) or Path(tempfile.gettempdir()) / f"avemo-{os.getuid()}"
    run = hashlib.sha256(os.fspath(folder.parent).encode()).hexdigest()[:16]
    return Path(scratch).absolute() / run / folder.name


def make(folder: Path) -> Path:
    """An empty place to write at; nothing else of this run is kept beside it."""
    place = place_of(folder)
    paths.remove(place.parent if is_staged(folder) else place)
    place.mkdir(parents=True, exist_ok=True)
    return place


def send(folder: Path) -> None:
    """Copies what was written here to where it belongs."""
    place = place_of(folder)
    with paths.plain_errors(folder):
        store, root = stores.open_store(folder)
        files = paths.files_under(place)
        names = [f"{root}/{path.relative_to(place).as_posix()}" for path in files]
        store.put([os.fspath(path) for path in files], names)


@contextlib.contextmanager
def fetched(folder: Path) -> Iterator[Path]:
    """A checkpoint's folder to read arrays from: itself, or a copy here for as long as the context lasts.

    Raises:
      OSError: it cannot be copied.
    """
    if not is_staged(folder):
        yield folder
        return
    place_of(folder).parent.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="read-", dir=place_of(folder).parent.parent) as copy:
        with paths.plain_errors(folder):
            store, root = stores.open_store(folder)
            names = [path.relative_to(folder).as_posix() for path in paths.files_under(folder)]
            for name in names:
                (Path(copy) / name).parent.mkdir(parents=True, exist_ok=True)
            store.get([f"{root}/{name}" for name in names], [f"{copy}/{name}" for name in names])
        yield Path(copy)


def forget(folder: Path) -> None:
    """Gives the space of the copy back."""
    if is_staged(folder):
        paths.remove(place_of(folder))
