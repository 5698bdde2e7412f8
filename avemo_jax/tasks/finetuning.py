"""A fine-tuning run around its training: which clips, and its scores at the end.

Nothing here is trained; `training.loop` does that, and `looks` has what it is watched by. Every process of a run calls
these, and the first one writes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from avemo_jax.errors import UserError
from avemo_jax.evaluation import decisions, pooling, scores, stitching
from avemo_jax.evaluation.choosing import choices
from avemo_jax.evaluation.intervals import count_speakers
from avemo_jax.evaluation.outcome_files import ALL_FOLDS
from avemo_jax.evaluation.outcomes import Row, judged, main_scores, over_folds
from avemo_jax.evaluation.partition import Partition, make_partition
from avemo_jax.evaluation.views import BOTH, MODALITIES, Viewer
from avemo_jax.models.params import Params
from avemo_jax.tasks import clips
from avemo_jax.training.checkpoint_files import load_params


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one choice of weights, with one choice of modalities, makes of the test clips of a fold."""

    row: Row
    fold: np.ndarray  # [M], and so on
    clip_id: np.ndarray
    speaker: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray


def partition_of(config: ConfigDict) -> Partition | None:
    """The clips of a fine-tuning config with a protocol, whose class counts are filled in; None for any other.

    Raises:
      UserError: see `make_partition`, `check_stitching` and `check_pooling`.
    """
    partition = make_partition(config.data) if config.task == "finetune" else None
    if partition is None:
        return None
    check_stitching(config, partition)
    check_pooling(config, partition)
    if config.loss.class_weights or config.loss.logit_adjustment:
        with config.unlocked():
            config.loss.class_counts = partition.class_counts
    if config.loss.get("co_occurrence"):
        with config.unlocked():
            config.loss.together = partition.together
    return partition


def check_stitching(config: ConfigDict, partition: Partition) -> None:
    """Raises a UserError where `data.stitch` asks for what the data or the target cannot give."""
    rule = config.data.get("stitch", "")
    if not rule:
        return
    if rule not in stitching.RULES:
        raise UserError(f"data.stitch is '{rule}', not one of {', '.join(stitching.RULES)}")
    if partition.target.kind != "values":
        raise UserError(f"data.stitch joins values, and data.target is {partition.target.rule}")
    if config.data.stitch_step_s <= 0:
        raise UserError(f"data.stitch_step_s is {config.data.stitch_step_s}, it must be above 0")
    stitching.places(partition.clips.clip_id[partition.test].tolist())


def check_pooling(config: ConfigDict, partition: Partition) -> None:
    """Raises a UserError where `views.pool` does not say what clips that are judged belong together."""
    pattern = config.views.get("pool", "")
    if pattern and config.data.get("stitch", ""):
        raise UserError("views.pool makes one of several clips and data.stitch a sequence: set one of them")
    for rows in (partition.test, partition.development):
        if pattern and len(rows):
            pooling.wholes(pattern, partition.clips.clip_id[rows].tolist(), partition.truth(rows))


def as_judged(
    config: ConfigDict, partition: Partition, rows: np.ndarray, predicted: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(names, speakers, truth, outputs [M, K]) of what is judged: the clips of these rows, whose outputs are
    `predicted`, or the wholes that `views.pool` makes of them."""
    clip_id, speaker = partition.clips.clip_id[rows], partition.clips.speaker[rows]
    truth = partition.truth(rows)
    pattern = config.views.get("pool", "")
    if not pattern or not len(rows):
        return clip_id, speaker, truth, predicted
    clip_id, numbers = pooling.wholes(pattern, clip_id.tolist(), truth)
    first = np.unique(numbers, return_index=True)[1]
    return clip_id, speaker[first], truth[first], pooling.means(numbers, predicted)


def joined(config: ConfigDict, partition: Partition, outcomes: Sequence[Outcome]) -> tuple[str, str]:
    """(words, CSV) of the test's windows as sequences, where `data.stitch` asks for it; the CSV is of the chosen
    weights with both modalities. Rows get their scores, as `sequence`."""
    rule, said, text = config.data.get("stitch", ""), [], ""
    for one in outcomes if rule else ():
        found = stitching.sequences(
            one.clip_id.tolist(), one.truth, one.predicted, rule, config.data.stitch_step_s
        )
        one.row["sequence"] = stitching.judged(found, partition.target.names)
        said.append(
            f"{one.row['selection']}, {one.row['modalities']}: {stitching.in_words(one.row['sequence'])}"
        )
        text = text or stitching.as_csv(found, partition.target.names)
    return "\n".join(said), text


def missing_in_words(config: ConfigDict, partition: Partition) -> str:
    """How many clips of each part lack picture or sound, and what becomes of them; empty where none does."""
    parts = {"train": partition.train, "development": partition.development, "test": partition.test}
    return clips.missing_in_words(config, {name: partition.positions(rows) for name, rows in parts.items()})


def absent_in_words(partition: Partition) -> str:
    """Which classes no clip is of, so that a misspelt one is seen before training; empty where each has one."""
    absent = ", ".join(partition.absent)
    return (
        absent
        and f"note: no clip is of class {absent} by its label {partition.target.labels[0]}; is it spelt so?"
    )


def test(config: ConfigDict, partition: Partition, workdir: Path, mesh: Mesh) -> list[Outcome]:
    """Outcomes on the test clips, of the chosen weights first and then of the last ones. Where there are development
    clips, a row's `decision` is what `decisions.fit` makes of them, with `test`, its scores on the test clips.

    Raises:
      UserError: the run has no checkpoint, or no test clip can be read.
    """
    viewer, outcomes = Viewer(config, partition.target, mesh), []
    further = further_scores(config)
    for selection, folder in choices(config, workdir):
        _, params, step = load_params(folder)
        placed = viewer.placed(params)
        for modalities in MODALITIES if config.views.alone else (BOTH,):
            read, predicted = viewer.merged(placed, partition.positions(partition.test), modalities)
            if not len(read):
                raise UserError(
                    f"{config.data.path}: none of the {len(partition.test)} test clips can be read"
                )
            rows, of_clips = rows_at(partition, read), predicted
            clip_id, speaker, truth, predicted = as_judged(config, partition, rows, predicted)
            row = {
                "label": config.data.label,
                "target": partition.target.rule,
                "split": partition.protocol,
                "fold": partition.fold,
                "split_hash": partition.split_hash,
                "speaker_disjoint": partition.speaker_disjoint,
                "n_train": len(partition.train),
                "n_development": len(partition.development),
                "development_unit": partition.unit,
                "unreadable": len(partition.test) - len(rows),
                "selection": selection,
                "step": step,
                "modalities": modalities,
                "views": config.views.segments * config.views.crops,
                "clips": len(rows),  # more than `n` where several are judged as one
                "seed": config.seed,
            }
            scores.check_names(further, row)
            row |= judged(partition.target, predicted, truth, speaker, further)
            if modalities == BOTH:
                decision = _decision(viewer, placed, partition)
                if decision:
                    decision["test"] = decisions.judged(
                        decision,
                        partition.target,
                        of_clips,
                        partition.truth(rows),
                        partition.clips.speaker[rows],
                    )
                row["decision"] = decision
            fold = np.full(len(truth), partition.fold)
            outcomes.append(Outcome(row, fold, clip_id, speaker, truth, predicted))
    return outcomes


def further_scores(config: ConfigDict) -> dict[str, scores.Score]:
    """Those that `scores` of the config names; a config of an earlier version names none."""
    return scores.select(config.get("scores", ()), "scores")


def pooled(config: ConfigDict, partition: Partition, folds: list[list[Outcome]]) -> list[Outcome]:
    """Outcomes over the test clips of all folds together, with `over_folds` of the main and further scores."""
    together, further = [], further_scores(config)
    for same in zip(*folds, strict=True):
        arrays = {
            field.name: np.concatenate([getattr(outcome, field.name) for outcome in same])
            for field in dataclasses.fields(Outcome)
            if field.name != "row"
        }
        row = dict(same[0].row)
        found = judged(partition.target, arrays["predicted"], arrays["truth"], arrays["speaker"], further)
        for name in (*main_scores(partition.target), *further):
            found |= over_folds(name, [outcome.row for outcome in same])
        row.pop("decision", None)
        row.pop("sequence", None)  # each fold has its own
        row |= {"fold": ALL_FOLDS, "step": None, "n_train": None, "n_development": None, **found}
        for name in ("unreadable", "clips"):
            row[name] = sum(outcome.row[name] for outcome in same)
        row["folds"] = [outcome.row for outcome in same]
        together.append(Outcome(row, **arrays))
    return together


def fold_folder(workdir: Path, fold: str) -> Path:
    """The folder of one fold's run, of a fine-tuning of all: right in `workdir`, whatever the fold is called."""
    return workdir / f"fold_{fold.replace('%', '%25').replace('/', '%2F')}"


def _decision(viewer: Viewer, placed: Params, partition: Partition) -> Row | None:
    """What is fitted on the development clips; None where there are none to read."""
    if not len(partition.development) or partition.target.kind == "values":
        return None
    read, predicted = viewer.merged(placed, partition.positions(partition.development))
    rows = rows_at(partition, read)
    found = decisions.fit(partition.target, predicted, partition.truth(rows))
    if found:
        found["speakers"] = count_speakers(partition.clips.speaker[rows])
    return found


def rows_at(partition: Partition, positions: np.ndarray) -> np.ndarray:
    """The row numbers of clips at these places, which are in the folder's order."""
    return np.searchsorted(partition.clips.position, positions)
