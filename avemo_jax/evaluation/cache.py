"""Features kept between probes: a file a feature matrix, named by the hash of all that it follows from.

The weights themselves, the clips' records, the view, the feature and the shapes are in the name, so nothing that
changed is ever taken for what it was, and nothing has to be cleared (of records in object storage size and both ends
count alone: see `data_digest`). Files appear whole, by renaming, under any
number of writers; one that is damaged counts as not there.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from avemo_jax import paths
from avemo_jax.evaluation.extraction import Source
from avemo_jax.files import write_bytes
from avemo_jax.models.params import Params

VERSION = 2  # raised when the same inputs give other features
_ENDS = 1 << 16  # bytes at either end of a shard in object storage that count


class FeatureCache:
    """Feature matrices of one config's networks on some clips of one folder, in a folder of their own.

    Args:
      folder: made when something is kept.
      positions: the clips, in the order of the matrices' rows.
      view: which random view; the centre view when None.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        config: ConfigDict,
        data: str,
        positions: Sequence[int],
        view: int | None,
    ):
        self._folder = paths.to_path(folder)
        self._common = {
            "version": VERSION,
            "data": data_digest(data),
            "positions": hashlib.sha256(np.asarray(positions, np.int64).tobytes()).hexdigest(),
            "view": "centre" if view is None else f"random {view}",
            "model": json.loads(config.model.to_json()),
            "cut": [config.data.frame_stride, config.data.crop, config.dtype],
            "backend": jax.default_backend(),
        }

    def get(self, source: Source, network: str) -> np.ndarray | None:
        """The matrix of a source whose weights have this digest, or None."""
        found = read_arrays(self._path(source, network))
        return None if found is None else found.get("features")

    def put(self, source: Source, network: str, matrix: np.ndarray) -> None:
        """Keeps it.

        Raises:
          UserError: it cannot be written.
        """
        write_arrays(self._path(source, network), features=matrix)

    def _path(self, source: Source, network: str) -> Path:
        # Who drew the weights, and with which seed, is no part of what they give.
        key = {**self._common, "network": network, "feature": source.feature}
        key |= {"loudness": source.loudness, "missing": source.missing}
        return file_of(self._folder, key)


def file_of(folder: Path, key: Mapping[str, Any]) -> Path:
    """The file in a folder that is named by the hash of these JSON values."""
    return folder / f"{hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()}.npz"


def read_arrays(path: Path) -> dict[str, np.ndarray] | None:
    """What `write_arrays` wrote; None where there is nothing, or nothing whole."""
    try:
        with paths.plain_errors(path), np.load(io.BytesIO(path.read_bytes())) as file:
            return dict(file)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def write_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Writes a whole file or none.

    Raises:
      UserError: it cannot be written.
    """
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # names are not its own options
    write_bytes(path, buffer.getvalue())


def params_digest(params: Params) -> str:
    """SHA-256 of the parameters' names, shapes and values: the same for a copy of a checkpoint."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def data_digest(data: str) -> str:
    """SHA-256 of a prepared folder: of the names and all bytes of its lists and shards.

    A GB takes about three seconds on one core; each file is read once a process, and several at a time. In object
    storage, where reading a corpus takes long and costs money, of each file size and both ends count.
    """
    folder = paths.to_path(data)
    files = [path for path in sorted(folder.iterdir(), key=lambda path: path.name) if _is_data(path.name)]
    files = [path for path in files if path.is_file()]
    digest = hashlib.sha256()
    with ThreadPoolExecutor() as pool:
        for path, found in zip(files, pool.map(_file_digest, files), strict=True):
            digest.update(f"{path.name} {found}\n".encode())
    return digest.hexdigest()


def _file_digest(path: Path) -> str:
    if not paths.is_remote(path):
        now = path.stat()
        return _whole_digest(path, now.st_size, now.st_mtime_ns)
    size = paths.size_of(path)
    with path.open("rb") as file:
        ends = file.read(_ENDS)
        file.seek(max(0, size - _ENDS))
        return hashlib.sha256(f"{size}\n".encode() + ends + file.read(_ENDS)).hexdigest()


@cache
def _whole_digest(path: Path, size: int, changed_ns: int) -> str:
    """Of a file as it is now, by its size and time of change."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_data(name: str) -> bool:
    return "array_record" in name or name in ("dataset_info.json", "features.json", "clips.csv")
