"""The clips of a prepared folder that carry a label, with what a protocol needs to know of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from avemo_jax.errors import UserError
from avemo_jax.evaluation.protocols import LabelledClips
from input_pipeline.errors import DataError
from input_pipeline.record import Record
from input_pipeline.records import open_records
from input_pipeline.targets import PLURALITY, VALUES, Target, stratum_of

_UNLABELLED = ("", None)


def read_labelled(
    path: str, label: str, classes: Sequence[str] = (), fold_by: str = "fold"
) -> tuple[LabelledClips, Counter]:
    """Labelled clips in the folder's order, and how many records were left out for which reason.

    Classes are the label's values as text, in alphabetical order, or those of `classes` in that order;
    records with any other value, an empty one or none are left out. Of votes it is the class with the most (of
    `classes`, where there are any); a tie has none. `speaker` and `gender` are labels too (`Record.all_labels`).
    A label that is a number, or several of them, comma-separated, are `values` (see `LabelledClips`).
    fold_by: the metadata that is a clip's fold.

    Raises:
      UserError: no record has the label, its values are neither classes, votes nor numbers, or all the same, or
        `classes` names one that no record has.
    """
    several = tuple(dict.fromkeys(filter(None, label.split(","))))
    if len(several) > 1:
        return _read_numbers(path, several, classes, fold_by)
    rows: list[tuple] = []
    left_out: Counter[str] = Counter()
    keys: Counter[str] = Counter()
    for position, record in _readable(path, left_out):
        labels = record.all_labels
        keys.update(name for name, value in labels.items() if value not in _UNLABELLED)
        value = labels.get(label)
        if value in _UNLABELLED:
            left_out["no label"] += 1
            continue
        if isinstance(value, float):
            return _read_numbers(path, (label,), classes, fold_by)
        if _are_votes(value):
            value = _plurality(value, classes)
            if value is None:
                left_out["no class with the most votes"] += 1
                continue
        if isinstance(value, (dict, list)):
            raise UserError(
                f"{path}: label '{label}' of clip {record.clip_id} is not a single value ({value!r}); "
                "a probe needs classes, votes for them, or numbers"
            )
        rows.append((*_known(position, record, fold_by), str(value)))
    if not rows:
        raise UserError(f"{path}: no clip has the label '{label}'; {_there_are(keys)}")

    positions, clip_ids, speakers, folds, parts, values = (
        np.array(column) for column in zip(*rows, strict=True)
    )
    found = sorted(set(values.tolist()))
    unknown = [name for name in classes if name not in found]
    if unknown:
        raise UserError(f"{path}: --classes {','.join(unknown)}: label '{label}' has only {', '.join(found)}")
    chosen = tuple(classes) or tuple(found)
    if len(chosen) < 2:
        raise UserError(f"{path}: label '{label}' has one class, '{chosen[0]}'; a probe needs two")
    kept = np.isin(values, chosen)
    left_out["other class"] = int((~kept).sum())
    number = {name: index for index, name in enumerate(chosen)}
    truth = np.array([number.get(name, -1) for name in values.tolist()])
    clips = LabelledClips(positions, clip_ids, speakers, folds, parts, truth, chosen, fold_by=fold_by)
    return clips.at(kept), +left_out


def read_targets(
    path: str, target: Target, fold_by: str = "fold"
) -> tuple[LabelledClips, np.ndarray, Counter]:
    """The clips whose labels give the target, in the folder's order; their targets, int [N] or float32 [N, K]; and
    how many records were left out for which reason.

    The clips' `label` is the class that they are dealt by: see `targets.stratum_of`. fold_by: the metadata that is
    their fold.

    Raises:
      UserError: no clip has such a target.
    """
    rows: list[tuple] = []
    found: list[np.ndarray] = []
    left_out: Counter[str] = Counter()
    keys: Counter[str] = Counter()
    for position, record in _readable(path, left_out):
        labels = record.all_labels
        keys.update(name for name, value in labels.items() if value not in _UNLABELLED)
        value = target.of(labels)
        if value is None:
            missing = all(labels.get(name) in _UNLABELLED for name in target.labels)
            why = f"no {target.rule} of the classes" if target.classes else "not a number"
            left_out["no label" if missing else why] += 1
            continue
        rows.append(_known(position, record, fold_by))
        found.append(value)
    if not rows:
        of = f"a {target.rule} of {', '.join(target.names)} by its" if target.classes else "a number as"
        raise UserError(f"{path}: no clip has {of} label '{','.join(target.labels)}'; {_there_are(keys)}")
    names = target.classes or ("below the median", "above the median")
    positions, clip_ids, speakers, folds, parts = (np.array(column) for column in zip(*rows, strict=True))
    dealt_by = stratum_of(target, found)
    clips = LabelledClips(positions, clip_ids, speakers, folds, parts, dealt_by, names, fold_by=fold_by)
    return clips, np.array(found), +left_out


def _read_numbers(
    path: str, names: tuple[str, ...], classes: Sequence[str], fold_by: str
) -> tuple[LabelledClips, Counter]:
    if classes:
        raise UserError(f"{path}: label '{names[0]}' is a number, so there is nothing to choose by --classes")
    clips, values, left_out = read_targets(path, Target(VALUES, names), fold_by)
    for name, column in zip(names, values.T, strict=True):
        if np.ptp(column) == 0:
            raise UserError(
                f"{path}: label '{name}' is {column[0]:g} for every clip; a probe needs two values"
            )
    return replace(clips, numbers=names, values=values), left_out


def _are_votes(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(count, (int, float)) for count in value.values())


def _plurality(votes: dict[str, float], classes: Sequence[str]) -> str | None:
    chosen = tuple(classes) or tuple(votes)
    place = Target(PLURALITY, ("votes",), chosen).of({"votes": votes}) if chosen else None
    return None if place is None else chosen[int(place)]


def _readable(path: str, left_out: Counter) -> Iterator[tuple[int, Record]]:
    """(position, record) of a folder's records; those that cannot be read are counted."""
    records = open_records(path)
    for position in range(records.count):
        try:
            yield position, records[position]
        except DataError:
            left_out["unreadable"] += 1


def _known(position: int, record: Record, fold_by: str) -> tuple:
    """What `LabelledClips` has of a clip before its label."""
    return position, record.clip_id, record.speaker, str(record.metadata.get(fold_by, "")), record.split


def _there_are(keys: Counter) -> str:
    if not keys:
        return "its records carry no labels (columns 'label_…' of the manifest)"
    return "it has: " + ", ".join(f"{name} ({count} clips)" for name, count in sorted(keys.items()))
