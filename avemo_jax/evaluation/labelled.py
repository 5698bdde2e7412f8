"""The clips of a prepared folder that carry a label, with what a protocol needs to know of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from avemo_jax.errors import UserError
from avemo_jax.evaluation.protocols import LabelledClips
from input_pipeline.errors import DataError
from input_pipeline.record import Record
from input_pipeline.records import open_records
from input_pipeline.targets import Target, stratum_of

_UNLABELLED = ("", None)
OWN_FIELDS = ("speaker", "gender")  # of a record, that are labels too


def read_labelled(path: str, label: str, classes: Sequence[str] = ()) -> tuple[LabelledClips, Counter]:
    """Labelled clips in the folder's order, and how many records were left out for which reason.

    Classes are the label's values as text, in alphabetical order, or those of `classes` in that order;
    records with any other value, an empty one or none are left out. Of `OWN_FIELDS`, clips without such a label have
    the record's own value.

    Raises:
      UserError: no record has the label, its values are numbers rather than classes, or `classes` names one
        that no record has.
    """
    rows: list[tuple] = []
    left_out: Counter[str] = Counter()
    keys: Counter[str] = Counter()
    for position, record in _readable(path, left_out):
        keys.update(name for name, value in record.labels.items() if value not in _UNLABELLED)
        value = record.labels.get(label, getattr(record, label) if label in OWN_FIELDS else None)
        if value in _UNLABELLED:
            left_out["no label"] += 1
            continue
        if isinstance(value, (float, dict, list)):
            kind = "a number" if isinstance(value, float) else "not a single value"
            raise UserError(
                f"{path}: label '{label}' of clip {record.clip_id} is {kind} ({value!r}); "
                "a probe needs classes"
            )
        rows.append((*_known(position, record), str(value)))
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
    labels = np.array([number.get(name, -1) for name in values.tolist()])
    clips = LabelledClips(positions, clip_ids, speakers, folds, parts, labels, chosen)
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
        keys.update(name for name, value in record.labels.items() if value not in _UNLABELLED)
        value = target.of(record.labels)
        if value is None:
            missing = all(record.labels.get(name) in _UNLABELLED for name in target.labels)
            left_out["no label" if missing else f"no {target.rule} of the classes"] += 1
            continue
        rows.append(_known(position, record, fold_by))
        found.append(value)
    if not rows:
        raise UserError(
            f"{path}: no clip has a {target.rule} of {', '.join(target.names)} by its label "
            f"'{','.join(target.labels)}'; {_there_are(keys)}"
        )
    names = target.classes or ("below the median", "above the median")
    positions, clip_ids, speakers, folds, parts = (np.array(column) for column in zip(*rows, strict=True))
    dealt_by = stratum_of(target, found)
    clips = LabelledClips(positions, clip_ids, speakers, folds, parts, dealt_by, names)
    return clips, np.array(found), +left_out


def _readable(path: str, left_out: Counter) -> Iterator[tuple[int, Record]]:
    """(position, record) of a folder's records; those that cannot be read are counted."""
    records = open_records(path)
    for position in range(records.count):
        try:
            yield position, records[position]
        except DataError:
            left_out["unreadable"] += 1


def _known(position: int, record: Record, fold_by: str = "fold") -> tuple:
    """What `LabelledClips` has of a clip before its label."""
    return position, record.clip_id, record.speaker, str(record.metadata.get(fold_by, "")), record.split


def _there_are(keys: Counter) -> str:
    if not keys:
        return "its records carry no labels (columns 'label_…' of the manifest)"
    return "it has: " + ", ".join(f"{name} ({count} clips)" for name, count in sorted(keys.items()))
