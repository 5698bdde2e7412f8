"""One checkpoint's folder: its layout, its small record, and reading or writing parameters alone.

    00000200/arrays/            parameters, their average, and optimiser (Orbax)
             checkpoint.json    everything small: `Record`
             manifest.json      sizes and SHA-256 of all files, written last

A folder without its manifest was not finished; one whose files differ from it is damaged.
Not here: the checkpoints of a running run, see `checkpoints.py`.
"""

from __future__ import annotations

import errno
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from orbax.checkpoint import v1 as ocp

from avemo_jax import paths
from avemo_jax.config import from_json, to_json
from avemo_jax.errors import UserError
from avemo_jax.models.params import Params, unflatten
from avemo_jax.provenance import versions
from avemo_jax.training import manifest, staging
from avemo_jax.training.mesh import named_leaves

FOLDER = "checkpoints"
BEST = "best"  # of a run that is looked at while it lasts: the folder of the best weights' own checkpoints
ARRAYS = "arrays"
RECORD = "checkpoint.json"
AVERAGED = "averaged"  # the part with the moving average of parameters, in runs that keep one

_SPARE_BYTES = 1 << 20  # for the small files


@dataclass
class Record:
    """The small part of a checkpoint."""

    step: int
    config: dict[str, Any]  # resolved
    loader: dict[str, Any] = field(default_factory=dict)  # its state; empty without a run
    dataset_size: int | None = None  # clips
    run_key: list[int] | None = None  # raw bits of the run's random key
    bad_steps: int = 0  # skipped steps in a row just before it; 0 = good to roll back to
    rollbacks: int = 0
    arrays: dict[str, list] = field(default_factory=dict)  # path → [shape, dtype]
    versions: dict[str, str] = field(default_factory=versions)


def load_params(path: str | Path, *, say: Callable[[str], None] = print) -> tuple[ConfigDict, Params, int]:
    """(config, parameters as NumPy arrays, step) of a checkpoint, for evaluation and export; changes nothing.

    Of a run that keeps a moving average of its parameters (`config.ema`), that average.

    Args:
      path: a work directory, its `checkpoints` folder, or the folder of one step. Of several, the newest
        whole one is taken.
      say: told when a newer one is passed over.

    Raises:
      UserError: there is none, or it is damaged.
    """
    path = paths.absolute(path)
    passed_over = []
    for candidate in _candidates(path):
        damage = manifest.find_damage(candidate)
        if damage is None:
            break
        passed_over.append(f"{candidate} {damage}")
    else:
        raise UserError(f"no usable checkpoint in {path}: {'; '.join(passed_over) or _needed(path)}")
    if passed_over:
        say(f"{'; '.join(passed_over)}: using {candidate.name} instead")
    record = read_record(candidate)
    part = AVERAGED if any(name.startswith(f"{AVERAGED}/") for name in record.arrays) else "params"
    shapes = {
        name.removeprefix(f"{part}/"): s for name, s in record.arrays.items() if name.startswith(f"{part}/")
    }
    # A broadcast zero has the shape and type that Orbax asks for, and no memory; NumPy in, NumPy out.
    target = {name: np.broadcast_to(np.zeros((), dtype), shape) for name, (shape, dtype) in shapes.items()}
    params = load_arrays(candidate, {part: unflatten(target)})[part]
    return from_json(json.dumps(record.config)), params, record.step


def newest(path: str | Path) -> Path:
    """The folder of the step that `load_params` takes, if that is not damaged.

    Raises:
      UserError: there is no finished checkpoint.
    """
    path = paths.absolute(path)
    passed_over = []
    for candidate in _candidates(path):
        if manifest.is_finished(candidate):
            return candidate
        passed_over.append(f"{candidate} was not finished")
    raise UserError(f"no usable checkpoint in {path}: {'; '.join(passed_over) or _needed(path)}")


def _needed(path: Path) -> str:
    folds = sorted(one.parent.name for one in path.glob(f"fold_*/{FOLDER}"))
    if folds:
        return (
            f"it is a run of all folds, each with weights of its own: name one of them, as {path / folds[0]}"
        )
    return "a work directory, its checkpoints folder or one step's folder is needed"


def newest_config(path: str | Path) -> dict[str, Any]:
    """The resolved config of `newest`, without its arrays."""
    return read_record(newest(path)).config


def _candidates(path: Path) -> list[Path]:
    """Folders of steps, the newest first."""
    folder = path / FOLDER if (path / FOLDER).is_dir() else path
    return [folder] if (folder / ARRAYS).is_dir() else list(reversed(step_folders(folder)))


def run_folder(path: str | Path) -> Path:
    """The work directory of what `load_params` takes: itself, its checkpoints folder or one step's folder; or the same
    of its best weights."""
    path = paths.absolute(path)
    inside = path.parent if (path / ARRAYS).is_dir() else path
    folder = inside.parent if inside.name == FOLDER else inside
    return folder.parent if folder.name == BEST and (folder.parent / FOLDER).is_dir() else folder


def save_params(workdir: str | Path, config: ConfigDict, params: Params, step: int = 0) -> Path:
    """Writes parameters alone as a checkpoint, to evaluate or to go on from; returns its folder.

    Raises:
      UserError: there is one of that step already, or it could not be written.
    """
    folder = paths.absolute(workdir) / FOLDER / step_name(step)
    if manifest.is_finished(folder):
        raise UserError(f"there is a checkpoint already, {folder}: choose another folder, or delete it")
    parts = {"params": params}
    record = Record(step=step, config=json.loads(to_json(config)), arrays=describe(parts))
    needed = size_in_bytes(parts)
    try:
        with paths.plain_errors(folder):
            make_room(folder, needed)
            write_arrays(folder, parts).result()
            seal(folder, record)
    except (OSError, ValueError) as error:
        paths.remove(folder)
        raise UserError(
            f"cannot write checkpoint {folder}: {explain(error)}; it needs {needed:,} bytes"
        ) from error
    return folder


def step_name(step: int) -> str:
    """The name of a step's folder."""
    return f"{step:08d}"


def step_folders(checkpoints: Path) -> list[Path]:
    """The folders of all steps, oldest first, finished or not."""
    try:
        # Not asked whether it is there: a store that cannot be reached says no too, and the run would start over.
        with paths.plain_errors(checkpoints):
            inside = list(checkpoints.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    found = [
        path
        for path in inside
        if re.fullmatch(r"\d{8,}", path.name) and (paths.is_remote(path) or path.is_dir())
    ]
    return sorted(found, key=lambda path: int(path.name))


def make_room(folder: Path, needed: int) -> None:
    """An empty folder for a checkpoint of `needed` bytes.

    Raises:
      OSError: it cannot be made, or the disk has less space than that.
    """
    paths.remove(folder)
    if staging.is_staged(folder):
        folder = staging.make(folder)
    elif paths.is_remote(folder):
        return  # Orbax makes what stands for folders there
    else:
        folder.mkdir(parents=True)
    if shutil.disk_usage(folder).free < needed + _SPARE_BYTES:
        raise OSError(errno.ENOSPC, "No space left on device")


def write_arrays(folder: Path, parts: dict[str, Any]) -> ocp.AsyncResponse:
    """Begins to write named trees of arrays; every process calls it. They may be given away afterwards."""
    context = ocp.Context()
    # Directories made at once: otherwise one that cannot be made is found by a time-out.
    context.asynchronous.create_directories_asynchronously = False
    with context:
        return ocp.save_checkpointables_async(staging.place_of(folder) / ARRAYS, parts)


def load_arrays(folder: Path, target: dict[str, Any]) -> dict[str, Any]:
    """The named trees, as `target` describes them; every process calls it."""
    with staging.fetched(folder) as place:
        return ocp.load_checkpointables(place / ARRAYS, target)


def seal(folder: Path, record: Record) -> None:
    """Makes a folder with its arrays a finished checkpoint."""
    place = staging.place_of(folder)
    manifest.write_durably(place / RECORD, json.dumps(asdict(record), indent=1))
    if staging.is_staged(folder):
        staging.send(folder)
    manifest.write_manifest(folder, place)
    staging.forget(folder)


def read_record(folder: Path) -> Record:
    """The small part of a checkpoint."""
    return Record(**json.loads((folder / RECORD).read_text(encoding="utf-8")))


def describe(parts: Any) -> dict[str, list]:
    """path → [shape, dtype] of every array."""
    return {path: [list(np.shape(leaf)), str(leaf.dtype)] for path, leaf in named_leaves(parts)}


def check_same_arrays(
    stored: dict[str, list],
    wanted: dict[str, list],
    folder: Path | str,
    advice: str = "Use the config it was made with, or another work directory",
) -> None:
    """Raises a UserError that lists the first arrays whose names or shapes differ."""
    differing = [
        f"{path} is {_kind(stored.get(path))} there and {_kind(wanted.get(path))} here"
        for path in sorted(stored.keys() | wanted.keys())
        if stored.get(path) != wanted.get(path)
    ]
    if differing:
        more = f" and {len(differing) - 4} more" if len(differing) > 4 else ""
        raise UserError(
            f"checkpoint {folder} does not fit this config: {'; '.join(differing[:4])}{more}. {advice}"
        )


def size_in_bytes(parts: Any) -> int:
    """What the arrays take, before compression."""
    return sum(int(np.prod(leaf.shape)) * np.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(parts))


def explain(error: Exception) -> str:
    """The reason of a failed write in a few words."""
    return of_the_place(error) or (str(error).strip() or type(error).__name__).splitlines()[0]


_OF_THE_PLACE = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR),
    *(errno.EISDIR, errno.ENAMETOOLONG),
)


def of_the_place(error: Exception) -> str:
    """The system's reason, where it is the place written to that refused; TensorStore hides it in a long text. Empty
    where a network or another process failed, which may go well the next time."""
    if isinstance(error, OSError) and error.strerror:
        missing = error.errno == errno.ENOENT and paths.is_remote(error.filename or "")  # a bucket
        if missing or error.errno in _OF_THE_PLACE:
            return error.strerror.lower()
    known = re.search(
        r"(no space left on device|file too large|permission denied|disk quota exceeded)", str(error), re.I
    )
    return known[1].lower() if known else ""


def _kind(entry: list | None) -> str:
    return "absent" if entry is None else f"{entry[1]}{entry[0]}"
