"""What adapters share: files found in a fixed order, clips taken or refused, folds dealt, tables read."""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from input_pipeline.dealing import deal
from input_pipeline.errors import DataError
from input_pipeline.manifests import Refused, Row, csv_rows

VIDEO = frozenset(
    [".mp4", ".m4v", ".mov", ".mkv", ".avi", ".flv", ".webm", ".mpg", ".mpeg", ".wmv", ".mts", ".3gp"]
)
SOUND = frozenset([".wav", ".flac", ".m4a", ".aac", ".mp3", ".ogg", ".opus"])
WESTERN, CHINESE = ("utf-8-sig",), ("utf-8-sig", "gb18030")  # encodings of a corpus's tables
_NOT_MEDIA = {"__MACOSX"}


@dataclass
class Listing:
    """What a corpus's folder holds. rows: by path; refused: files that are no clips; notes: for people."""

    rows: list[Row] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _taken: dict[str, str] = field(default_factory=dict)

    def take(self, row: Row) -> None:
        """Adds a clip, unless one of its name is there already."""
        if self._taken.setdefault(row.clip_id, row.path) != row.path:
            self.refuse(row.path, "another file has the same name", row.clip_id)
        else:
            self.rows.append(row)

    def refuse(self, path: str, reason: str, clip_id: str = "") -> None:
        """Adds a file that is no clip. reason: the same words for the same fault, so that it can be counted."""
        readable = path.encode("utf-8", "backslashreplace").decode()
        self.refused.append(Refused(readable, clip_id or readable, reason))


def media_files(
    root: Path, listing: Listing, suffixes: frozenset[str] = VIDEO | SOUND, but: Sequence[str] = ()
) -> Iterator[PurePosixPath]:
    """Media files below `root`, relative to it, in the order of their paths; hidden ones are refused.

    but: names of folders that are passed over.
    """
    for folder, folders, files in _walk(root):
        relative = PurePosixPath(Path(folder).relative_to(root).as_posix())
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f not in {*_NOT_MEDIA, *but})
        for name in sorted(files):
            path = relative / name
            if path.suffix.lower() not in suffixes:
                continue
            if not _is_text(path):
                listing.refuse(str(path), "its name is not UTF-8")
            elif name.startswith("."):
                listing.refuse(str(path), "a hidden file")
            else:
                yield path


def deal_by_speaker(rows: Sequence[Row], folds: int) -> list[Row]:
    """The rows with a `fold` from 1: speakers whole, sizes about equal, the same for the same rows.

    For corpora without folds of their own.
    """
    if not rows:
        return []
    numbers = deal(np.array([row.speaker for row in rows]), folds)
    return [
        dataclasses.replace(row, metadata={**row.metadata, "fold": str(number + 1)})
        for row, number in zip(rows, numbers.tolist(), strict=True)
    ]


def read_text(path: Path, encodings: Sequence[str] = WESTERN) -> str:
    """A text file in the first of `encodings` that it can be read in; raises DataError in none."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    for encoding in encodings:
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise DataError(f"{path}: not text in {' or '.join(encodings)}")


def table(path: Path, columns: Sequence[str], encodings: Sequence[str] = WESTERN) -> list[dict[str, str]]:
    """Lines of a CSV table, cells and column names without blanks around them.

    Raises:
      DataError: it cannot be read, is not CSV, or lacks one of `columns`.
    """
    text = io.StringIO(read_text(path, encodings), newline="")
    lines = csv_rows(text, str(path), skipinitialspace=True)
    names = [name.strip() for name in next(lines, (1, []))[1]]
    missing = [column for column in columns if column not in names]
    if missing:
        raise DataError(f"{path}: no column {', '.join(missing)}; it has {', '.join(names) or 'none'}")
    rows = []
    for number, cells in lines:
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(names):
            raise DataError(f"{path}, line {number}: {len(cells)} values for {len(names)} columns")
        rows.append(dict(zip(names, map(str.strip, cells), strict=True)))
    return rows


def find(root: Path, name: str, folders: Sequence[str] = ("",)) -> Path | None:
    """The file or folder `name` in one of `folders` of `root`, the first that is there."""
    return next((root / f / name for f in folders if (root / f / name).exists()), None)


def _walk(root):
    """`os.walk` that follows links to folders, each folder once."""
    seen = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders[:] = []
            continue
        seen.add(real)
        yield folder, folders, files


def _is_text(path):
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
