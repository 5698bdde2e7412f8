"""A fine-tuning run on several folders around its training: what its clips teach, and its heads as runs of their own.

Teachers look at the clips once, before anything is trained: several views, merged, without augmentation. What they said
is kept in the run's folder, for when it is started again. Nothing here is trained; every process of a run calls these,
and the first one writes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from ml_collections import ConfigDict

from avemo_jax.config import to_json
from avemo_jax.errors import UserError
from avemo_jax.evaluation.cache import data_digest, file_of, params_digest, read_arrays, write_arrays
from avemo_jax.evaluation.choosing import choices, result_of
from avemo_jax.evaluation.outcome_files import split_hash_of
from avemo_jax.evaluation.partition import Partition, make_partition
from avemo_jax.evaluation.views import Viewer
from avemo_jax.models.params import Params
from avemo_jax.objectives.distillation import softened
from avemo_jax.tasks.finetuning import check_pooling
from avemo_jax.tasks.heads import Head, of_head, single_params
from avemo_jax.tasks.looks import Watched
from avemo_jax.training.checkpoint_files import BEST, load_params, run_folder
from avemo_jax.training.checkpoints import Checkpoints, Record
from avemo_jax.training.manifest import write_durably
from avemo_jax.training.starting import placed
from avemo_jax.training.state import TrainState
from avemo_jax.training.watching import LOOKS, read_looks, write_looks
from avemo_jax.training.workdir import CONFIG
from input_pipeline.records import open_records
from input_pipeline.targets import target_of

FOLDER = "heads"  # in a run's: a folder for each head
KEPT = "lessons"  # in a run's: what teachers said
_SPLIT_BY = ("protocol", "fold", "fold_by", "folds", "test_split")  # who must not have been a teacher's pupil


class Lessons(NamedTuple):
    """positions: of the clips that are trained on, among those of all folders. tables: the further fields of a batch,
    of each position (see `several`)."""

    positions: list[int]
    tables: dict[str, np.ndarray]


def partitions(heads: Sequence[Head], singles: Sequence[ConfigDict]) -> list[Partition]:
    """Of each head's folder, who is trained on and who is tested.

    Raises:
      UserError: see `make_partition` and `check_pooling`; or a head has no protocol, or development clips whose
        speakers are among the training clips.
    """
    found = []
    for head, single in zip(heads, singles, strict=True):
        if not single.data.protocol:
            raise UserError(f"heads.{head.name}.protocol is empty, so there are no test clips of it: set it")
        try:
            partition = make_partition(single.data)
            assert partition  # since there is a protocol
            check_pooling(single, partition)
        except UserError as error:
            raise UserError(of_head(str(error), head.name)) from error
        if partition.unit not in ("", "speaker"):
            raise UserError(
                f"heads.{head.name}.development={single.data.development} can hold out clips of {single.data.path} by "
                f"{partition.unit} alone, not by speaker: set heads.{head.name}.development=0, and other heads choose"
            )
        found.append(partition)
    return found


def watched(
    heads: Sequence[Head], singles: Sequence[ConfigDict], parts: Sequence[Partition]
) -> list[Watched]:
    """The heads for `looks.make_watch`."""
    return [
        Watched(single, part, head.name, partial(single_params, head=head))
        for head, single, part in zip(heads, singles, parts, strict=True)
    ]


def lessons(
    config: ConfigDict,
    heads: Sequence[Head],
    singles: Sequence[ConfigDict],
    parts: Sequence[Partition],
    mesh: Mesh,
    say: Callable[[str], None] = print,
    kept: Path | None = None,
) -> Lessons:
    """What every clip teaches, by its label and by its head's teacher.

    kept: the folder of what teachers said when they were asked before; None asks them each time.

    Raises:
      UserError: a teacher is not a fine-tuned run of the same outputs, or learnt from clips that are tested here.
    """
    sizes = [open_records(single.data.path).count for single in singles]
    ends = np.cumsum([0, *sizes])
    widths = {
        "label": config.model.classes,
        "taught": config.model.classes,
        "share": len(heads),
        "pupil": len(heads),
    }
    tables = {name: np.zeros((ends[-1], width), np.float32) for name, width in widths.items()}
    positions: list[int] = []
    for number, (head, single, part) in enumerate(zip(heads, singles, parts, strict=True)):
        own = part.positions(part.train)
        rows = ends[number] + np.array(own)
        positions += rows.tolist()
        tables["label"][rows, head.columns] = _labels(part, head)
        tables["share"][rows, number] = 1
        if head.teacher:
            read, outputs, is_new = _taught(head, single, part, mesh, kept)
            tables["taught"][ends[number] + read, head.columns] = softened(
                outputs, head.target.kind, config.distill.temperature
            )
            tables["pupil"][ends[number] + read, number] = 1
            asked = "was asked" if is_new else "had been asked"
            say(f"{head.name}: {head.teacher} {asked} about {len(read)} of {len(own)} clips")
    return Lessons(positions, tables)


def hand_out(
    config: ConfigDict,
    heads: Sequence[Head],
    singles: Sequence[ConfigDict],
    workdir: Path,
    mesh: Mesh,
    say: Callable[[str], None] = print,
) -> list[Path]:
    """A folder for each head, `heads/NAME`, which is that of a fine-tuned run: the encoder and that head alone, of the
    run's chosen weights and of its last ones, and the looks that chose.

    Raises:
      UserError: the run has no checkpoint, or no look to choose by.
    """
    folders = [workdir / FOLDER / head.name for head in heads]
    for _, checkpoint in choices(config, workdir):
        _, params, step = load_params(checkpoint, say=say)
        for head, single, folder in zip(heads, singles, folders, strict=True):
            zero = jnp.zeros((), jnp.int32)
            state = TrainState(zero, zero, zero, placed(single_params(params, head), mesh), None, None)
            record = Record(step=step, config=json.loads(to_json(single)))
            place = folder if checkpoint == workdir else folder / BEST
            Checkpoints(place, keep=1, background=False, say=say).save(state, record)
    if jax.process_index() == 0:
        found = read_looks(workdir / LOOKS)
        for single, folder in zip(singles, folders, strict=True):
            write_looks(folder / LOOKS, found)
            write_durably(folder / CONFIG, to_json(single))
    multihost_utils.sync_global_devices("heads handed out")
    return folders


def _labels(part: Partition, head: Head) -> np.ndarray:
    """Targets of the training clips, float32 [N, K]: classes as distributions, smoothed."""
    targets = part.targets[part.train]
    if not head.target.is_class:
        return targets
    count = len(head.target.names)
    return np.eye(count, dtype=np.float32)[targets] * (1 - head.smoothing) + head.smoothing / count


def _taught(
    head: Head, single: ConfigDict, part: Partition, mesh: Mesh, kept: Path | None
) -> tuple[np.ndarray, np.ndarray, bool]:
    """Which of the training clips the head's teacher could look at, its merged outputs, in the head's order, and
    whether it was asked now: what it said before is taken while its weights, the clips and the views are the same."""
    where, key = f"heads.{head.name}.teacher: {head.teacher}", f"heads.{head.name}"
    folder, _ = result_of(head.teacher)
    config, params, _ = load_params(folder, say=lambda _: None)
    target = target_of(config.data) if config.task == "finetune" else None
    if target is None:
        raise UserError(f"{where} is not a run of avemo finetune")
    if target.kind != head.target.kind or sorted(target.names) != sorted(head.target.names):
        raise UserError(
            f"{where} predicts {target.kind} ({', '.join(target.names)}), and {key} {head.target.kind} "
            f"({', '.join(head.target.names)})"
        )
    for name in _SPLIT_BY:
        theirs, ours = config.data.get(name, single.data[name]), single.data[name]
        if theirs != ours:
            raise UserError(
                f"{where} was fine-tuned with data.{name}={theirs or 'empty'}, and {key}.{name} is {ours}: it has "
                "learnt from clips that are tested here"
            )
    theirs, ours = config.data.get("development", 0), single.data.development
    if ours and theirs != ours:
        raise UserError(
            f"{where} was fine-tuned with data.development={theirs}, and {key}.development is {ours}: it has learnt "
            "from clips that are chosen by here"
        )
    _check_pupils(head, config, single, part)
    with config.unlocked():
        config.data.path, config.data.paths = single.data.path, ()
        config.data.workers, config.data.prefetch = single.data.workers, single.data.prefetch
        config.views.audio_gain, config.views.batch_size = False, single.views.batch_size
    positions = part.positions(part.train)
    read, outputs, is_new = _outputs(Viewer(config, target, mesh), config, params, positions, kept)
    return read, outputs[:, [target.names.index(name) for name in head.target.names]], is_new


def _check_pupils(head: Head, config: ConfigDict, single: ConfigDict, part: Partition) -> None:
    """Raises a UserError where the teacher, a run of `config`, learnt from clips that the head is tested on or chosen
    by, or where that cannot be told. The same protocol deals speakers otherwise where other clips have a target."""
    where = f"heads.{head.name}.teacher: {head.teacher}"
    data = ConfigDict(
        {**single.data.to_dict(), **config.data.to_dict(), "path": single.data.path, "paths": ()}
    )
    try:
        theirs = make_partition(data)
        assert theirs  # since the protocol is that of the head
    except UserError as error:
        raise UserError(f"{where}: from which clips it learnt cannot be told ({error})") from error
    trained, tested = set(theirs.positions(theirs.train)), set(part.positions(part.test))
    if tested & trained.union(theirs.positions(theirs.development)):
        raise UserError(
            f"{where} was split otherwise ({theirs.target.rule}): it has learnt from clips that are tested here"
        )
    if trained.intersection(part.positions(part.development)):
        raise UserError(
            f"{where} was split otherwise ({theirs.target.rule}): it has learnt from clips that are chosen by here"
        )
    told = split_hash_of(run_folder(head.teacher))
    if told and told != theirs.split_hash:
        raise UserError(
            f"{where} had other clips or folds (hash {told[:12]}) than {single.data.path} gives it "
            f"({theirs.split_hash[:12]}): it may have learnt from clips that are tested here"
        )


def _outputs(
    viewer: Viewer, config: ConfigDict, params: Params, positions: Sequence[int], kept: Path | None
) -> tuple[np.ndarray, np.ndarray, bool]:
    """What `viewer` says of these clips, or has said of them and is in the folder `kept`; and whether it was asked."""
    data, views = config.data, config.views
    follows_from = {
        "weights": params_digest(params),
        "data": data_digest(data.path),
        "positions": list(positions),
        "model": json.loads(config.model.to_json()),
        "views": {name: value for name, value in views.items() if name != "batch_size"},
        "cut": [data.frame_stride, data.crop, data.get("allow_missing", False), config.dtype],
        "backend": jax.default_backend(),
    }
    path = file_of(kept, follows_from) if kept else None
    before = read_arrays(path) if path else None
    # All processes ask, or none: one that cannot read the file would wait for the others.
    known = multihost_utils.process_allgather(np.array(before is not None)).all()
    if before is not None and known:
        return before["read"], before["outputs"], False
    read, outputs = viewer.merged(viewer.placed(params), positions)
    if path and jax.process_index() == 0:
        write_arrays(path, read=read, outputs=outputs)
    return read, outputs, True
