"""Object storage (gs://, s3://): how its paths are told apart and opened, and a prepared folder's copy on this host.

ArrayRecord reads files on disk only, and at random. So a folder on object storage is copied once to each host, checked
against the store's own list of sizes and checksums at every start, and read from there.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import fcntl
import fnmatch
import hashlib
import importlib.util
import itertools
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from input_pipeline import folders
from input_pipeline.errors import DataError, StoreFailed
from input_pipeline.progress import Progress

# scheme → (the package that fsspec needs for it, the extra of avemo_jax that brings it)
STORES = {"gs": ("gcsfs", "gcs"), "s3": ("s3fs", "s3")}
CACHE = "AVEMO_DATA_CACHE"  # where copies are kept

_AT_ONCE = 8  # files
_NOTED = ".copied.json"  # name → what the store said of it when it was copied
_NOTE_EVERY_S = 10.0
_NOT_NEEDED = "prepare/"  # the notes of `avemo prepare`
_LAST = "dataset_info.json"  # what a reader looks for

_PATH_IS_WRONG = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR)
_DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_compared: set[Path] = set()  # copies that this process has seen to be what their stores have


def scheme_of(path: str | os.PathLike) -> str:
    """`gs`, `s3` or whatever stands before `://`; empty for a path on disk."""
    return os.fspath(path).partition("://")[0] if "://" in os.fspath(path) else ""


def check_scheme(path: str | os.PathLike) -> None:
    """Raises a DataError for a scheme that is not known or whose package is not installed."""
    scheme = scheme_of(path)
    if scheme not in STORES:
        known = ", ".join(f"{name}://" for name in STORES)
        raise DataError(f"{path}: {scheme}:// is not known; a folder is on disk or begins with {known}")
    package, extra = STORES[scheme]
    if importlib.util.find_spec(package) is None:
        raise DataError(f"{path}: {scheme}:// needs {package}: pip install 'avemo_jax[{extra}]'")


def open_store(path: str | os.PathLike) -> tuple[Any, str]:
    """The fsspec file system of a path on object storage, and the path as it is called there."""
    check_scheme(path)
    configure()
    import fsspec

    return fsspec.core.url_to_fs(os.fspath(path))


def configure() -> None:
    """For all file systems that are opened from now on, also by other libraries."""
    # An experiment of gcsfs that asks each bucket for its kind, and where it may not ask waits a minute.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    import fsspec

    for scheme in STORES:
        # Listings are not kept: others write there too, Orbax's own threads among them.
        fsspec.config.conf.setdefault(scheme, {}).setdefault("use_listings_cache", False)


def errno_of(error: Exception) -> int:
    """The system's number for what a store's client raised, which often has none itself; EIO where the store failed."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    if isinstance(error, PermissionError) or str(error).startswith("Forbidden: "):  # gcsfs
        return errno.EACCES
    return errno.ENOENT if isinstance(error, FileNotFoundError) else errno.EIO


def exit_code(error: Exception) -> int:
    """Of a command that a store's client ends: 2 where the path, or the right to it, is at fault, 1 where the store
    failed, which may go well the next time."""
    return 2 if errno_of(error) in _PATH_IS_WRONG else 1


def read_file(folder: str | os.PathLike, name: str) -> bytes:
    """A small file of a folder on disk or on object storage, without a copy of the folder.

    Raises:
      FileNotFoundError: it is not there.
      DataError: the store cannot be read.
    """
    if not scheme_of(folder):
        return (Path(folder) / name).read_bytes()
    store, root = open_store(folder)
    with _read_errors(f"{os.fspath(folder).rstrip('/')}/{name}"):
        return store.cat_file(f"{root}/{name}")


def read_files(folder: str | os.PathLike, within: str, pattern: str) -> list[bytes]:
    """The small files right in `within`, a folder in `folder`, whose names match, by name; raises as `read_file`."""
    if not scheme_of(folder):
        return [path.read_bytes() for path in sorted((Path(folder) / within).glob(pattern))]
    store, root = open_store(folder)
    with _read_errors(f"{os.fspath(folder).rstrip('/')}/{within}"):
        names = [name for name in store.find(f"{root}/{within}", maxdepth=1) if _matches(name, pattern)]
        contents = store.cat(names) if names else {}
    return [contents[name] for name in sorted(names)]


def _matches(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name.rpartition("/")[2], pattern)


@contextlib.contextmanager
def _read_errors(what: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except Exception as error:  # of as many kinds as there are stores
        raise _unread(f"{what}:", error, "see that it is there and may be read") from error


def local_copy(url: str) -> Path:
    """The folder of this host that holds what is at `url`; copies what is missing or has changed there. When the store
    does not answer a process that has compared the copy before, the copy is taken as it is.

    Raises:
      StoreFailed: the store did not answer, or broke off.
      DataError: the folder is empty or may not be read, or the copy does not fit the disk.
    """
    store, root = open_store(url)
    folder = _place_of(url, root)
    try:
        listed = _list(store, root)
    except Exception as error:  # of as many kinds as there are stores
        if folder in _compared and exit_code(error) == 1:
            print(f"{url}: no answer ({_words(error)}); read from {folder}", file=sys.stderr, flush=True)
            return folder
        raise _unread(f"{url}:", error, "see that the bucket is there and may be read") from error
    if not listed:
        raise DataError(
            f"{url}: nothing is there; give a folder that `avemo prepare` made and that was copied there"
        )
    _compared.discard(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder):
            _bring(url, store, root, listed, folder)
    except OSError as error:
        raise DataError(
            f"{url}: cannot be copied to {folder} ({_words(error)}); {CACHE} names another place"
        ) from error
    _compared.add(folder)
    return folder


def copied(url: str) -> Path | None:
    """The folder that `local_copy` made of `url` on this host, as it was then; None where no whole one is there."""
    folder = _place_of(url, open_store(url)[1])
    return folder if (folder / _LAST).is_file() else None


def _place_of(url: str, root: str) -> Path:
    cache = Path(os.environ.get(CACHE) or Path.home() / ".cache" / "avemo_jax" / "data")
    return cache.absolute() / scheme_of(url) / root


def _list(store: Any, root: str) -> dict[str, dict[str, Any]]:
    """name → size and what tells this content from another."""
    found = {}
    for path, info in store.find(root, detail=True).items():
        name = path.removeprefix(root).strip("/")
        if name and not name.startswith(_NOT_NEEDED):
            tag = info.get("md5Hash") or info.get("ETag") or info.get("etag") or info.get("generation")
            found[name] = {"bytes": info["size"], "tag": str(tag).strip('"')}
    return found


def _bring(url: str, store: Any, root: str, listed: dict[str, dict[str, Any]], folder: Path) -> None:
    noted: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        noted = json.loads((folder / _NOTED).read_text())
    wanted = [
        name
        for name, what in listed.items()
        if noted.get(name) != what or _size(folder / name) != what["bytes"]
    ]
    gone = noted.keys() - listed.keys()
    if not wanted and not gone:
        return
    needed = sum(listed[name]["bytes"] for name in wanted)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"{url}: its copy needs {needed / 1e9:.1f} GB, {folder} has {free / 1e9:.1f} GB left; {CACHE} names "
            "another place, or mount the bucket as a folder"
        )
    # Not whole from here on until its last file is there.
    for name in {*gone, *wanted, _LAST}:
        if name in gone or name == _LAST:
            (folder / name).unlink(missing_ok=True)
            noted.pop(name, None)
    if _LAST in listed and _LAST not in wanted:
        wanted.append(_LAST)
    wanted.sort(key=lambda name: name == _LAST)
    print(
        f"{url}: copying {len(wanted)} files, {needed / 1e6:,.1f} MB, to {folder}",
        file=sys.stderr,
        flush=True,
    )

    def bring(name: str) -> None:
        _bring_file(url, store, f"{root}/{name}", listed[name], folder / name)
        noted[name] = listed[name]

    written = time.monotonic()
    try:
        with Progress(len(wanted), "files", "copy") as progress, ThreadPoolExecutor(_AT_ONCE) as pool:
            for _ in itertools.chain(pool.map(bring, wanted[:-1]), map(bring, wanted[-1:])):
                progress.advance()
                if time.monotonic() - written > _NOTE_EVERY_S:
                    folders.write_json(folder / _NOTED, noted.copy())
                    written = time.monotonic()
    finally:
        folders.write_json(folder / _NOTED, noted)


def _bring_file(url: str, store: Any, source: str, expected: dict[str, Any], target: Path) -> None:
    part = target.with_name(target.name + ".part")
    target.parent.mkdir(parents=True, exist_ok=True)
    digests: list[bytes] = []
    while len(digests) < 2:
        try:
            store.get_file(source, os.fspath(part))
        except Exception as error:  # of as many kinds as there are stores
            named = getattr(error, "filename", None) == os.fspath(part)
            if named or getattr(error, "errno", None) in _DISK_IS_FULL:
                raise
            raise _unread(f"{url}: {target.name}", error) from error
        if _size(part) != expected["bytes"]:
            break
        with part.open("rb") as file:
            digests.append(hashlib.file_digest(file, "md5").digest())
        if _is_whole(digests, expected["tag"]):
            os.replace(part, target)
            return
    raise StoreFailed(f"{url}: {target.name} did not come over whole; start again")


def _is_whole(digests: Sequence[bytes], tag: str) -> bool:
    """Whether a file is what the store holds, from the MD5 of each time it was fetched.

    GCS's tag is the MD5 in base64. S3's is that in hexadecimal, or for some encrypted objects something that looks like
    it; there the same content twice is the right one. Objects that were uploaded in parts have neither; ArrayRecord's
    own checksums guard them when they are read.
    """
    if len(tag) == 32:
        return digests[-1].hex() == tag or len(set(digests)) < len(digests)
    return not (len(tag) == 24 and tag.endswith("==")) or tag == base64.b64encode(digests[-1]).decode()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _unread(what: str, error: Exception, hint: str = "") -> DataError:
    text = f"{what} cannot be read ({_words(error)})" + (f"; {hint}" if hint else "")
    return StoreFailed(text) if exit_code(error) == 1 else DataError(text)


def _words(error: BaseException) -> str:
    text = (getattr(error, "strerror", None) or str(error)).strip() or type(error).__name__
    return text.splitlines()[0]


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process of this host copies; the others wait for it."""
    with (folder.parent / f"{folder.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
