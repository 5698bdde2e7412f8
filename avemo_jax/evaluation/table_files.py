"""Rows of features → a file or a folder of files; each is written whole under another name and then renamed.

An `.npz` holds all rows as arrays. Parquet has a row a line: vectors and token grids as lists of one length, whose
shape is in the field's metadata, and what made them in the schema's (`avemo_jax`, JSON). A folder holds Parquet shards
of so many clips each: those that are there are kept, so that a job that was stopped goes on, and several hosts share
the work by number.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from avemo_jax import files
from avemo_jax.errors import UserError
from avemo_jax.evaluation.tables import Columns, Table, Window
from input_pipeline.progress import Progress

KEY = b"avemo_jax"  # of the schema's metadata
_FILES = (".npz", ".parquet")  # any other name is a folder's, but for those of other kinds of tables
_OTHERS = (".arrow", ".csv", ".feather", ".h5", ".hdf5", ".json", ".jsonl", ".npy", ".pkl", ".pt", ".tsv")
_SHARD = re.compile(
    r"features-\d{5,}-of-\d{5,}\.parquet|\..*"
)  # or hidden, which readers of a folder pass over
_MOST_BYTES = 8e9  # of an .npz, which is put together in memory


def check_place(path: Path) -> None:
    """Raise a UserError where rows cannot be written to `path`, or would come to lie among other files."""
    if path.suffix in _OTHERS:
        raise UserError(f"{path}: rows go to a .parquet or .npz file, or to a folder of Parquet shards")
    files.check_place(path.parent if path.suffix in _FILES else path)
    if not path.is_dir():
        return
    if path.suffix in _FILES:
        raise UserError(f"{path} is a folder; choose another name")
    if others := sorted(one.name for one in path.iterdir() if not _SHARD.fullmatch(one.name)):
        raise UserError(
            f"{path} holds {others[0]}, and readers take all of a folder; give --out one of its own"
        )


def write(table: Table, path: Path, facts: dict[str, Any], *, shard_clips: int, host: tuple[int, int]) -> int:
    """Writes the table to an `.npz`, a `.parquet` or a folder (any other name); returns its rows, of this host.

    Args:
      facts: what to keep with the rows, for people; `identity` is added.
      shard_clips: clips of a shard.
      host: (index, count); only of a folder's shards every count-th is this host's.

    Raises:
      UserError: a folder with shards of other weights, data or options; a file that cannot be written; no clip
        that can be read.
    """
    facts = {**facts, "identity": table.identity()}
    if path.suffix in _FILES:
        if host[1] != 1:
            raise UserError(
                f"{path}: several hosts write a folder of shards, not one file; give --out a folder"
            )
        save = _write_npz if path.suffix == ".npz" else _write_parquet
        with Progress(len(table.windows), "windows", "features") as progress:
            return save(path, _counted(table, table.windows, progress), facts)
    return _write_shards(table, path, facts, shard_clips, host)


def _write_shards(
    table: Table, folder: Path, facts: dict[str, Any], clips: int, host: tuple[int, int]
) -> int:
    facts = {**facts, "shard_clips": clips}
    count = -(-table.clips // clips)
    shards: list[list[Window]] = [[] for _ in range(count)]
    for window in table.windows:
        shards[window.clip // clips].append(window)
    _check_folder(folder, facts)
    paths = [folder / f"features-{number:05d}-of-{count:05d}.parquet" for number in range(count)]
    mine = range(host[0], count, host[1])
    missing = [number for number in mine if not paths[number].exists()]
    with Progress(sum(len(shards[number]) for number in missing), "windows", "features") as progress:
        for number in missing:
            _write_parquet(paths[number], _counted(table, shards[number], progress), facts, least=0)
    rows = sum(parquet.read_metadata(paths[number]).num_rows for number in mine)
    if host[1] == 1:
        _need_rows(folder, rows)
    return rows


def _check_folder(folder: Path, facts: dict[str, Any]) -> None:
    for path in sorted(folder.glob("features-*.parquet")):
        try:
            found = json.loads((parquet.read_schema(path).metadata or {}).get(KEY, b"{}"))
        except (pa.ArrowInvalid, OSError) as error:
            raise UserError(f"{path} cannot be read: remove it, and it is written anew") from error
        if any(found.get(name) != facts[name] for name in ("identity", "shard_clips")):
            raise UserError(
                f"{path} is of other weights, clips or options than these; choose another folder or remove it"
            )


def _write_npz(path: Path, batches: Iterable[Columns], facts: dict[str, Any]) -> int:
    parts: dict[str, list] = {}
    size = 0
    for columns in batches:
        for name, values in columns.items():
            parts.setdefault(name, []).append(np.asarray(values))
            size += parts[name][-1].nbytes
        if size > _MOST_BYTES:
            raise UserError(f"{path}: more than {_MOST_BYTES / 1e9:.0f} GB for one .npz; give --out a folder")
    arrays = {name: np.concatenate(values) for name, values in parts.items()}
    _need_rows(path, len(arrays.get("clip_id", ())))
    with _whole(path) as part, part.open("wb") as file:
        np.savez(file, **{"about": np.array(json.dumps(facts)), **arrays})  # type: ignore[arg-type]
    return len(arrays["clip_id"])


def _write_parquet(path: Path, batches: Iterable[Columns], facts: dict[str, Any], least: int = 1) -> int:
    rows = 0
    with _whole(path) as part, contextlib.ExitStack() as stack:
        writer = None
        for columns in batches:
            fields, arrays = zip(*(_column(name, values) for name, values in columns.items()), strict=True)
            if writer is None:
                schema = pa.schema(fields, metadata={KEY: json.dumps(facts)})
                writer = stack.enter_context(parquet.ParquetWriter(part, schema))
            writer.write_table(pa.Table.from_arrays(list(arrays), schema=schema))
            rows += len(arrays[0])
        _need_rows(path, rows, least)
    return rows


def _column(name: str, values: Any):
    """(field, array): rows of numbers as lists of one length, with their shape in the field's metadata."""
    if not isinstance(values, np.ndarray) or values.ndim == 1:
        # Of no texts at all the type could not be told.
        array = pa.array(values, None if isinstance(values, np.ndarray) else pa.string())
        return pa.field(name, array.type), array
    shape = values.shape[1:]
    array = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), int(np.prod(shape)))
    return pa.field(name, array.type, metadata={"shape": json.dumps(shape)}), array


def _counted(table: Table, windows: Sequence[Window], progress: Progress) -> Iterable[Columns]:
    for columns in table.rows(windows):
        for _ in columns["window"]:
            progress.advance()
        yield columns


def _need_rows(path: Path, rows: int, least: int = 1) -> None:
    if rows < least:
        raise UserError(f"{path}: none of its clips can be read; prepare the folder again")


@contextlib.contextmanager
def _whole(path: Path):
    """The name to write to; it gets its own name when all is written, and is removed when something fails."""
    part = path.with_name(f".{path.name}.part")  # hidden: readers of a folder pass it over
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        os.replace(part, path)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written: {error.strerror or error}; choose another place"
        ) from error
    finally:
        part.unlink(missing_ok=True)
