"""Is a prepared data folder, or a checkpoint, whole?"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator
from pathlib import Path

from avemo_jax.doctor.findings import Finding, note, ok, wrong
from avemo_jax.errors import UserError
from input_pipeline import records
from input_pipeline.errors import DataError
from input_pipeline.prepare import REJECTED_LIST
from input_pipeline.progress import Progress

_READ_AT_LEAST = 500  # records; at most every hundredth is passed over, so that each shard is touched
_MANY_REJECTED = 0.1


def check_data(path: Path) -> Iterator[Finding]:
    """Opens a prepared folder and reads records spread over it, with a picture of each."""
    try:
        opened = records.open_records(path)
        chosen = range(0, len(opened), max(1, min(len(opened) // _READ_AT_LEAST, 100)))
        names = opened.clip_ids
        damaged, versions, seconds = [], set(), 0.0
        with Progress(len(chosen), "records", "data") as progress:
            for index in chosen:
                try:
                    record = opened[index]
                    if record.frames:
                        record.pictures([0])
                except (DataError, OSError) as error:  # OSError: Pillow's word for a damaged picture
                    damaged.append(f"{names[index]} ({error})")
                else:
                    versions.add(record.prepare_version)
                    seconds += record.duration_s
                progress.advance()
    except DataError as error:
        yield wrong("data", str(error), "see `avemo prepare --help`")
        return
    if damaged:
        some = "; ".join(damaged[:3]) + ("; …" if len(damaged) > 3 else "")
        text = f"{len(damaged)} of {len(chosen)} records that were read are damaged: {some}"
        yield wrong("data", text, "delete the folder and prepare it again")
    else:
        minutes = seconds / max(1, len(chosen)) * len(opened) / 60
        length = f"{minutes / 60:.1f} h" if minutes >= 60 else f"{minutes:.1f} min"
        yield ok("data", f"{path}: {len(opened)} clips, about {length}; {len(chosen)} were read")
    if versions - {records.VERSION}:
        other = ", ".join(sorted(versions - {records.VERSION}))
        yield note("data", f"records of version {other or 'unknown'}, this package writes {records.VERSION}")
    yield from _rejected(path, len(opened))


def _rejected(path: Path, kept: int) -> Iterator[Finding]:
    listed = path / REJECTED_LIST
    if not listed.is_file():
        return
    with open(listed, newline="", encoding="utf-8") as file:
        reasons = [row["reason"] for row in csv.DictReader(file)]
    if len(reasons) > _MANY_REJECTED * (len(reasons) + kept):
        commonest = max(set(reasons), key=reasons.count)
        text = f"{len(reasons)} of {len(reasons) + kept} clips were rejected, most for: {commonest}"
        yield note("data", text, f"see {listed}")


def check_checkpoint(path: Path) -> Iterator[Finding]:
    """Verifies the checksums of all checkpoints in `path`, and looks into the newest whole one."""
    import numpy as np

    from avemo_jax.models.params import flatten
    from avemo_jax.training import checkpoint_files as files
    from avemo_jax.training import manifest

    folder = path / files.FOLDER if (path / files.FOLDER).is_dir() else path
    steps = [folder] if (folder / files.ARRAYS).is_dir() else files.step_folders(folder)
    damage = {step: manifest.find_damage(step) for step in steps}
    for step in steps:
        if damage[step] and manifest.is_finished(step):
            text, mend = f"{step} {damage[step]}", "delete it: a run goes back to the one before by itself"
            yield wrong("checkpoint", text, mend)
        elif damage[step]:
            yield note("checkpoint", f"{step} was not finished: it is passed over")
    if not any(reason is None for reason in damage.values()):
        mend = "name a work directory, its checkpoints folder or one step's folder that `avemo train` made"
        yield wrong("checkpoint", f"{path}: no whole checkpoint in it", mend)
        return
    try:
        config, params, newest = files.load_params(path, say=lambda _: None)
    except UserError as error:
        yield wrong("checkpoint", str(error), "use the version of avemo_jax that it was made with")
        return
    arrays = flatten(params)
    size = sum(array.size for array in arrays.values()) / 1e6
    what = f"{config.task} {config.method}:{config.size}"
    whole = sum(reason is None for reason in damage.values())
    text = f"{path}: {whole} whole, the newest is step {newest}, {what}, {size:.1f} M parameters"
    yield ok("checkpoint", text)
    odd = [name for name, array in arrays.items() if not np.isfinite(array).all()]
    if odd:
        names = ", ".join(itertools.islice(odd, 3))
        mend = "the run has diverged: go on from an earlier step, with a lower learning rate"
        yield wrong("checkpoint", f"{len(odd)} arrays hold values that are not finite: {names}", mend)
