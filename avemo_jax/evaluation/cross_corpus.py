"""Two prepared folders → clips to train on and clips to test on: what of one corpus holds in another.

Corpora call the same thing by other names, or have what others lack. A map gives both the same names; what is then
only in one of them is refused, or left out on request. A speaker is never on both sides.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from avemo_jax import paths
from avemo_jax.errors import UserError
from avemo_jax.evaluation.cache import data_digest
from avemo_jax.evaluation.gathering import Folder
from avemo_jax.evaluation.labelled import read_labelled
from avemo_jax.evaluation.protocols import LabelledClips, Splits, make_splits

PROTOCOL = "cross_corpus"
SHARED = ("refuse", "drop", "differ")  # what to do about names of speakers that are in both folders


@dataclass(frozen=True)
class Other:
    """The folder to test on. label: the same as of the training folder when empty. names: value → common name, of the
    labels of either folder. drop: values without a counterpart are left out. shared: one of `SHARED`."""

    data: str
    label: str = ""
    names: Mapping[str, str] = field(default_factory=dict)
    drop: bool = False
    shared: str = SHARED[0]

    def __post_init__(self):
        if self.shared not in SHARED:
            raise UserError(f"--shared_speakers: no '{self.shared}'; there are {', '.join(SHARED)}")


@dataclass(frozen=True)
class Joined:
    """All clips, those to train on first; `left_out` counts others by reason."""

    clips: LabelledClips
    left_out: Counter
    folders: tuple[Folder, Folder]

    def splits(self, inner_folds: int = 5) -> Splits:
        """The one split there is: trained on the first folder's clips, tested on the second's."""
        return replace(make_splits("split", self.clips, inner_folds=inner_folds), protocol=PROTOCOL)


def read_names(text: str) -> dict[str, str]:
    """`angry=ANG,sad=SAD`, or the name of a file with such pairs, one a line, or with a JSON object of them.

    Raises:
      UserError: no such file, or something that is no pair.
    """
    if not text:
        return {}
    if "=" in text:
        return _pairs(text.split(","), "--map")
    try:
        with paths.plain_errors(paths.to_path(text)):
            content = paths.to_path(text).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(
            f"--map {text}: neither pairs, as in sad=sadness,happy=joy, nor a file ({error})"
        ) from error
    if content.lstrip().startswith("{"):
        try:
            return {str(value): str(name) for value, name in json.loads(content).items()}
        except ValueError as error:
            raise UserError(f"--map {text}: not a JSON object: {error}") from error
    lines = [line.partition("#")[0].strip() for line in content.splitlines()]
    return _pairs([line for line in lines if line], f"--map {text}")


def join(data: str, label: str, classes: Sequence[str], other: Other) -> Joined:
    """The labelled clips of both folders under common names, only `classes` of them where there are any.

    Raises:
      UserError: the folders hold the same clips, share speakers, or have labels without a counterpart; or the map names
        a value that neither has.
    """
    here, left_out = read_labelled(data, label)
    there, left_out_there = read_labelled(other.data, other.label or label)
    left_out += left_out_there
    if here.numbers or there.numbers:
        raise UserError(
            f"--test_data needs classes, label '{','.join(here.numbers or there.numbers)}' is a number, whose scale "
            "may be another in each corpus"
        )
    if data_digest(data) == data_digest(other.data):
        raise UserError(f"{other.data} holds the very clips of {data}: give --test_data another corpus")
    check_map(data, here.classes, other, there.classes)
    here, there = (renamed(clips, other.names) for clips in (here, there))
    common = common_classes(data, here.classes, other, there.classes, classes)
    here, there = (only(clips, common, left_out) for clips in (here, there))
    here, there = _apart(data, here, other, there, left_out)
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(here, name), getattr(there, name)])
        for name in ("position", "clip_id", "speaker", "fold", "label")
    }
    part = np.repeat(["train", "test"], [len(here), len(there)])
    clips = LabelledClips(part=part, classes=common, **columns)
    rows = np.arange(len(clips))
    folders = (Folder(data, rows[: len(here)]), Folder(other.data, rows[len(here) :]))
    return Joined(clips, +left_out, folders)


def _pairs(words: Sequence[str], where: str) -> dict[str, str]:
    names: dict[str, str] = {}
    for word in words:
        value, equals, name = (part.strip() for part in word.partition("="))
        if not (value and equals and name):
            raise UserError(f"{where}: '{word}' is no pair, as in sad=sadness")
        if names.setdefault(value, name) != name:
            raise UserError(f"{where}: '{value}' is mapped to '{names[value]}' and to '{name}'")
    return names


def check_map(data: str, here: Sequence[str], other: Other, there: Sequence[str]) -> None:
    """Raises a UserError where the map names a value that is not among the classes here, of `data`, and there."""
    unknown = sorted(other.names.keys() - {*here, *there})
    if unknown:
        raise UserError(
            f"--map: no clip has the value '{unknown[0]}'; {data} has {', '.join(here)}, {other.data} has "
            f"{', '.join(there)}"
        )


def renamed(clips: LabelledClips, names: Mapping[str, str]) -> LabelledClips:
    """Classes by their common names."""
    common = [names.get(name, name) for name in clips.classes]
    classes = sorted(set(common))
    return replace(
        clips, label=np.array([classes.index(n) for n in common])[clips.label], classes=tuple(classes)
    )


def common_classes(
    data: str, here: Sequence[str], other: Other, there: Sequence[str], wanted: Sequence[str]
) -> tuple[str, ...]:
    """The classes that both have, here and there, in the order of `wanted`, else of the alphabet.

    Raises:
      UserError: one that only one of them has, unless those are dropped, or less than two in common.
    """
    unknown = [name for name in wanted if name not in {*here, *there}]
    if unknown:
        raise UserError(
            f"--classes: no '{unknown[0]}' after --map; there are {', '.join(sorted({*here, *there}))}"
        )
    chosen = list(wanted) or sorted({*here, *there})
    alone = {
        folder: [name for name in chosen if name in own and name not in others]
        for folder, own, others in ((data, here, there), (other.data, there, here))
    }
    if any(alone.values()) and not other.drop:
        told = "; ".join(f"{', '.join(names)} of {folder}" for folder, names in alone.items() if names)
        raise UserError(
            f"labels without a counterpart in the other folder: {told}; name one with --map (value=name), or leave "
            "them out with --drop_unmapped"
        )
    common = tuple(name for name in chosen if name in here and name in there)
    if len(common) < 2:
        raise UserError(
            f"{data} and {other.data} have {len(common)} classes in common, two are needed; give their values the same "
            "names with --map"
        )
    return common


def only(clips: LabelledClips, classes: tuple[str, ...], left_out: Counter) -> LabelledClips:
    """The clips of these classes; `left_out` counts the others."""
    number = np.array([classes.index(name) if name in classes else -1 for name in clips.classes])[clips.label]
    left_out["no counterpart"] += int((number < 0).sum())
    return replace(clips, label=number, classes=classes).at(number >= 0)


def _apart(data, here, other, there, left_out) -> tuple[LabelledClips, LabelledClips]:
    """Without speakers on both sides."""
    shared = sorted(set(here.speaker.tolist()) & set(there.speaker.tolist()) - {""})
    if not shared:
        return here, there
    if other.shared == "refuse":
        raise UserError(
            f"{data} and {other.data} share {len(shared)} names of speakers, the first is {shared[0]}: "
            "--shared_speakers drop does not train on them, differ takes them for different people"
        )
    if other.shared == "differ":
        folder = paths.absolute(paths.to_path(other.data)).name
        names = [f"{folder}/{name}" if name else "" for name in there.speaker.tolist()]
        return here, replace(there, speaker=np.array(names))
    kept = ~np.isin(here.speaker, shared)
    left_out["of a speaker who is tested"] += int((~kept).sum())
    if not kept.any():
        raise UserError(f"{data} has no speaker who is not in {other.data}: nothing is left to train on")
    return here.at(kept), there
