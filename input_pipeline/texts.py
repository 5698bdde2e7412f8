"""What is said of clips: descriptions and statements in files, and the vectors of descriptions as a table.

    {"clip_id": "a", "text": "A loud voice.", "statements": [["The voice is loud.", true], ["It is quiet.", false]]}

is a line of a .jsonl file; a .csv file has the columns clip_id and text. A clip has one description or none. Not here:
where descriptions come from (describing), how a vector is made of one.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from input_pipeline.errors import DataError
from input_pipeline.manifests import csv_rows

TEXTS, TABLE = "texts.jsonl", "embeddings.npz"  # in the folder of `avemo describe`


@dataclass(frozen=True)
class Described:
    """What is said of one clip. statements: (text, whether it is true), for judging; training does not see them."""

    clip_id: str
    text: str
    statements: tuple[tuple[str, bool], ...] = ()


def read_texts(path: str | os.PathLike) -> list[Described]:
    """The descriptions of a .jsonl or .csv file, or of a folder's `TEXTS`.

    Raises:
      DataError: no such file, a line that is none, a clip without text, or one that is described twice.
    """
    path = Path(path)
    path = path / TEXTS if path.is_dir() else path
    if path.suffix not in (".jsonl", ".csv"):
        raise DataError(f"{path}: texts are read from a .jsonl or .csv file, or from a folder with {TEXTS}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    lines = _csv_lines(path, text) if path.suffix == ".csv" else _json_lines(path, text)
    found: dict[str, Described] = {}
    for number, line in lines:
        try:
            one = _described(line)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f"{path}, line {number}: not a clip_id with a text ({type(error).__name__}: {error})"
            ) from error
        if one.clip_id in found:
            raise DataError(f"{path}, line {number}: clip {one.clip_id} is described twice; keep one of them")
        found[one.clip_id] = one
    if not found:
        raise DataError(f"{path} describes no clip")
    return list(found.values())


def as_jsonl(described: Iterable[Described]) -> str:
    """The content of a file that `read_texts` reads."""
    rows = []
    for one in described:
        row: dict[str, Any] = {"clip_id": one.clip_id, "text": one.text}
        if one.statements:
            row["statements"] = [list(statement) for statement in one.statements]
        rows.append(json.dumps(row, ensure_ascii=False))
    return "".join(f"{row}\n" for row in rows)


@dataclass(frozen=True)
class TextTable:
    """Clips and the vectors of their texts.

    embedding: float32 [N, E]. number: int32 [N]; clips of the same one have the same vector, to the last bit. digest:
      of the tower that made them; empty where nobody said.
    """

    clip_ids: tuple[str, ...]
    embedding: np.ndarray
    number: np.ndarray
    digest: str = ""

    @property
    def dim(self) -> int:
        return self.embedding.shape[1]

    def rows_of(self, clip_ids: Sequence[str]) -> np.ndarray:
        """The row of each of these clips, int64 [M]; −1 for one without text."""
        place = {name: row for row, name in enumerate(self.clip_ids)}
        return np.array([place.get(name, -1) for name in clip_ids], np.int64)


def make_table(clip_ids: Sequence[str], embedding: np.ndarray, digest: str = "") -> TextTable:
    """A table of N clips and float32 [N, E].

    Raises:
      DataError: shapes that do not fit, values that are not finite, a clip that is there twice.
    """
    if embedding.ndim != 2 or len(embedding) != len(clip_ids) or not embedding.size:
        raise DataError(
            f"{len(clip_ids)} clips and vectors of shape {list(embedding.shape)}: they are to be [clips, E]"
        )
    if not np.isfinite(embedding).all() or not np.abs(embedding).sum(1).all():
        raise DataError("a text's vector is not finite, or nothing but zeros")
    if len(set(clip_ids)) < len(clip_ids):
        raise DataError("a clip is there twice; keep one of its texts")
    kept = np.ascontiguousarray(embedding, np.float32)
    _, number = np.unique(kept, axis=0, return_inverse=True)
    return TextTable(tuple(clip_ids), kept, number.reshape(-1).astype(np.int32), digest)


def table_bytes(table: TextTable) -> bytes:
    """The content of a file that `read_table` reads."""
    buffer = io.BytesIO()
    np.savez(
        buffer,
        clip_id=np.array(table.clip_ids),
        embedding=table.embedding,
        tower_digest=np.array(table.digest),
    )
    return buffer.getvalue()


def read_table(path: str | os.PathLike) -> TextTable:
    """The table of an .npz file, or of a folder's `TABLE`: arrays `clip_id` [N] and `embedding` [N, E], and where known
    `tower_digest`.

    Raises:
      DataError: no such file, or another one.
    """
    path = Path(path)
    if path.is_dir() and not (path / TABLE).is_file():
        raise DataError(f"{path}: no {TABLE} in it; make it with avemo describe --tower")
    path = path / TABLE if path.is_dir() else path
    try:
        with np.load(path, allow_pickle=False) as file:
            clip_ids, embedding = file["clip_id"].tolist(), file["embedding"]
            digest = str(file["tower_digest"]) if "tower_digest" in file.files else ""
        return make_table([str(name) for name in clip_ids], embedding, digest)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path} is no table of texts, an .npz with clip_id and embedding: {type(error).__name__}: {error}"
        ) from error


def _described(line: dict) -> Described:
    clip_id, text = line["clip_id"], line["text"]
    if not isinstance(clip_id, str) or not isinstance(text, str) or not clip_id or not text.strip():
        raise ValueError("one of them is empty or no text")
    statements = []
    for said, true in line.get("statements", ()):
        if not isinstance(said, str) or not isinstance(true, bool) or not said.strip():
            raise ValueError("statements are pairs of a text and true or false")
        statements.append((said, true))
    return Described(clip_id, text.strip(), tuple(statements))


def _json_lines(path: Path, text: str):
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except ValueError as error:
                raise DataError(f"{path}, line {number} is no JSON: {error}") from error


def _csv_lines(path: Path, text: str):
    lines = csv_rows(io.StringIO(text), str(path))
    names = next(lines, (1, []))[1]
    if missing := {"clip_id", "text"} - set(names):
        raise DataError(f"{path} has no column {', '.join(sorted(missing))}")
    yield from ((number, dict(zip(names, cells, strict=False))) for number, cells in lines if cells)
