"""Lists of clips → rows. The columns are those of the command contract (`avemo prepare --help`).

`path` is required and relative to the root folder. `clip_id split speaker gender text start_s end_s audio_path`
are optional, `label_emotion` is the label `emotion`, every further column is kept as metadata. Not here: corpora
whose list is their folders and file names (corpora), opening the media.
"""

from __future__ import annotations

import csv
import json
import math
import os
import re
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from input_pipeline.errors import DataError

LABEL_PREFIX = "label_"
TEXT_COLUMNS = ("clip_id", "split", "speaker", "gender", "text")
TIME_COLUMNS = ("start_s", "end_s")

# A split's name becomes one of TFDS, which keeps `all` for itself.
SPLIT_NAME = re.compile(r"(?!all$)_*[A-Za-z0-9][A-Za-z0-9_]*|")
SPLIT_RULE = "may hold letters, digits and _ only, not just _, and not be 'all'"


@dataclass(frozen=True)
class Row:
    """One clip of a manifest. A value that the manifest does not give is empty ("" or None)."""

    path: str
    clip_id: str
    split: str = ""
    speaker: str = ""
    gender: str = ""
    text: str = ""
    start_s: float | None = None
    end_s: float | None = None
    labels: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    audio_path: str = ""  # where the sound lies, if not in `path`
    half: str = (
        ""  # "left" or "right": of a film that shows two people side by side, the half that is the clip
    )


@dataclass(frozen=True)
class Refused:
    """A file that is no clip, and the one reason why not."""

    path: str
    clip_id: str
    reason: str


def read_manifest(path: str | os.PathLike) -> list[Row]:
    """Reads a manifest CSV (UTF-8, one header line).

    Raises:
      DataError: naming the file, line and column of the first thing that is wrong.
    """
    path = Path(path)
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            return _rows(csv_rows(file, str(path)), str(path))
    except FileNotFoundError:
        raise DataError(f"{path}: no such manifest") from None
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def csv_rows(lines: Iterable[str], name: str, **form: Any) -> Iterator[tuple[int, list[str]]]:
    """The number of each row's last line, and its cells. name: of the file, for the error; form: as of `csv.reader`.

    Raises:
      DataError: naming the line where a row begins that is not CSV, such as one with a quote that is not closed.
    """
    reader = csv.reader(lines, strict=True, **form)
    begins = 1
    try:
        for cells in reader:
            yield reader.line_num, cells
            begins = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{name}, line {begins}: not CSV ({error}); see to its quotes") from None


def fragment(path: str, start_s: float | None, end_s: float | None) -> str:
    """What a row reads, in one text: its path, and a window as `#t=start,end` (a W3C media fragment)."""
    if start_s is None and end_s is None:
        return path
    return f"{path}#t={start_s or 0.0:g}{'' if end_s is None else f',{end_s:g}'}"


def _rows(lines, name):
    columns = [column.strip() for column in next(lines, (1, []))[1]]
    if "path" not in columns:
        found = textwrap.shorten(", ".join(columns), 200, placeholder=" …") or "none"
        raise DataError(f"{name}, line 1: no column `path`; the columns are: {found}")
    for column in columns:
        if not column or columns.count(column) > 1:
            raise DataError(
                f"{name}, line 1: column {column!r} is {'there twice' if column else 'without a name'}"
            )

    rows, taken = [], {}
    for number, values in lines:
        if not any(value.strip() for value in values):
            continue
        line = f"{name}, line {number}"
        if len(values) != len(columns):
            raise DataError(f"{line}: {len(values)} values for {len(columns)} columns")
        row = _row(dict(zip(columns, map(str.strip, values), strict=True)), line)
        if row.clip_id in taken:
            raise DataError(
                f"{line}, column clip_id: {row.clip_id!r} is the clip of line {taken[row.clip_id]} already; "
                "give each clip a clip_id of its own"
            )
        taken[row.clip_id] = number
        rows.append(row)
    if not rows:
        raise DataError(f"{name}: no clips in it")
    return rows


def _row(cells, line):
    path = _inside_root(cells.pop("path"), f"{line}, column path")
    sound = cells.pop("audio_path", "")
    audio_path = _inside_root(sound, f"{line}, column audio_path") if sound else ""
    text = {column: cells.pop(column, "") for column in TEXT_COLUMNS}
    times = {column: _seconds(cells.pop(column, ""), f"{line}, column {column}") for column in TIME_COLUMNS}
    start, end = times.values()
    if end is not None and end <= (start or 0.0):
        raise DataError(f"{line}, column end_s: {end:g} is not after start_s ({start or 0.0:g})")
    if not SPLIT_NAME.fullmatch(text["split"]):
        raise DataError(f"{line}, column split: {text['split']!r} {SPLIT_RULE}")
    text["clip_id"] = text["clip_id"] or fragment(path, start, end)
    labels = {
        k.removeprefix(LABEL_PREFIX): _value(v) for k, v in cells.items() if k.startswith(LABEL_PREFIX) and v
    }
    metadata = {k: v for k, v in cells.items() if not k.startswith(LABEL_PREFIX) and v}
    return Row(path, **text, **times, labels=labels, metadata=metadata, audio_path=audio_path)


def _inside_root(path, where):
    parts = PurePosixPath(path)
    if not path:
        raise DataError(f"{where}: empty")
    if parts.is_absolute() or ".." in parts.parts or "\0" in path:
        raise DataError(f"{where}: {path!r} must be relative to --root and stay inside it")
    return path


def _seconds(text, where):
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise DataError(f"{where}: {text!r} is not a time in seconds")
    return value


def _value(text):
    """A number or JSON object where it is written as one ("0.2", {"ANG": 3}), else text ("01", "ANG")."""
    try:
        value = json.loads(text, parse_constant=str)
    except ValueError:
        return text
    return value if isinstance(value, (int, float, dict)) and not isinstance(value, bool) else text
