"""Who is trained on and who is tested: ways to split labelled clips, and the checks of a split.

A protocol only looks at clip ids, speakers, fold names and labels, never at features or predictions. The
same clips always give the same splits, and where clips are dealt into folds the same seed; `split_hash` names them,
and is stored with every result because the same data set circulates with different clip lists.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np

from avemo_jax.errors import UserError
from input_pipeline.dealing import deal
from input_pipeline.targets import CLASS, VALUES, Target


@dataclass(frozen=True)
class LabelledClips:
    """What is known of N clips that carry the label: arrays of length N, `label` indexes `classes`.

    `position` is the clip's place in its folder; `speaker`, `fold` and `part` (train, test, …) are empty
    strings where the data does not give them. `numbers` names labels that are numbers, K of them, and `values` has
    them, float32 [N, K]; `label` is then on which side of the first one's median a clip is. `fold_by` is the metadata
    that `fold` is of.
    """

    position: np.ndarray
    clip_id: np.ndarray
    speaker: np.ndarray
    fold: np.ndarray
    part: np.ndarray
    label: np.ndarray
    classes: tuple[str, ...]
    numbers: tuple[str, ...] = ()
    values: np.ndarray | None = None
    fold_by: str = "fold"

    def __len__(self) -> int:
        return len(self.clip_id)

    @property
    def target(self) -> Target:
        """What is predicted of a clip: its class, or numbers."""
        return Target(VALUES, self.numbers) if self.numbers else Target(CLASS, ("label",), self.classes)

    @property
    def truth(self) -> np.ndarray:
        """What predictions are judged by, int [N] or float32 [N, K]."""
        return self.label if self.values is None else self.values

    def at(self, rows: np.ndarray) -> LabelledClips:
        """Only these rows (numbers or a mask)."""
        columns = {one.name: getattr(self, one.name) for one in fields(self)}
        return replace(self, **{name: of[rows] for name, of in columns.items() if isinstance(of, np.ndarray)})

    def of_found_classes(self) -> LabelledClips:
        """Without the classes that no clip is of."""
        found, label = np.unique(self.label, return_inverse=True)
        return replace(self, label=label, classes=tuple(self.classes[number] for number in found))


@dataclass(frozen=True)
class Split:
    """Row numbers to train on and to test on. `inner` [N] numbers the folds inside the training rows that
    choose the regularisation (-1 elsewhere); `inner_unit` says what those folds keep together. `seed` is what the
    folds were dealt by."""

    name: str
    train: np.ndarray
    test: np.ndarray
    inner: np.ndarray
    inner_unit: str
    seed: int = 0


@dataclass(frozen=True)
class Splits:
    """All splits of one protocol. `left_out` counts labelled clips that no split uses. `split_hash` is of all of them;
    `hashes` has that of each seed where folds were dealt by several."""

    protocol: str
    splits: tuple[Split, ...]
    left_out: int
    speaker_disjoint: bool
    split_hash: str
    hashes: dict[int, str] = field(default_factory=dict)

    @property
    def rows(self) -> np.ndarray:
        """Row numbers that some split trains or tests on, ascending."""
        return np.unique(np.concatenate([np.concatenate([split.train, split.test]) for split in self.splits]))


def make_splits(
    protocol: str,
    clips: LabelledClips,
    *,
    folds: int = 5,
    inner_folds: int = 5,
    need_classes: bool = True,
    seeds: Sequence[int] = (0,),
    dealings: int = 1,
) -> Splits:
    """Split `clips` by the protocol's name (see `PROTOCOLS`).

    `folds` is the number of groups of `speaker_folds`; `inner_folds` the most folds inside a training part;
    `need_classes` whether `label` is what is to be learnt, so that each tested class must be trained on. Protocols that
    deal clips (`DEALT`) deal them `dealings` times, each time anew, by the first of `seeds` that deal them differently
    and such that they can be split: splits of another seed than 0 are called SEED:FOLD.
    Raises UserError when the data cannot be split that way by the first seed, or not so often by all of them.
    """
    if protocol not in PROTOCOLS:
        raise UserError(f"unknown protocol {protocol!r}; choose one of {', '.join(PROTOCOLS)}")
    dealt: dict[int, tuple[np.ndarray, list[Split]]] = {}
    ways = set()
    for seed in seeds:
        try:
            group, splits = _dealt(protocol, clips, folds, inner_folds, need_classes, seed)
        except UserError:
            if not dealt:
                raise
            continue
        way = frozenset(split.test.tobytes() for split in splits)
        if way not in ways:
            ways.add(way)
            dealt[seed] = group, splits
        if len(dealt) == dealings:
            break
    if len(dealt) < dealings:
        raise UserError(
            f"protocol {protocol}: seeds {seeds[0]} to {seeds[-1]} give only {len(dealt)} different dealing"
            f"{'s' * (len(dealt) > 1)} that can be used; ask for --split_seeds {len(dealt)}, or take other --folds"
        )
    groups = {seed: group for seed, (group, _) in dealt.items()}
    used = groups[seeds[0]] != ""  # the same clips by any seed
    ids, lines = clips.clip_id[used], zip(*(group[used].tolist() for group in groups.values()), strict=True)
    hashes = {seed: split_hash(ids, group[used]) for seed, group in groups.items()} if dealings > 1 else {}
    return Splits(
        protocol,
        tuple(split for _, splits in dealt.values() for split in splits),
        left_out=int((~used).sum()),
        speaker_disjoint=_is_disjoint(clips, groups[seeds[0]]),
        split_hash=split_hash(ids, ["\t".join(line) for line in lines]),
        hashes=hashes,
    )


def _dealt(
    protocol: str, clips: LabelledClips, folds: int, inner_folds: int, need_classes: bool, seed: int
) -> tuple[np.ndarray, list[Split]]:
    """Each clip's group, "" of those left out, and the splits, by one seed; raises as `make_splits`."""
    group, tested = PROTOCOLS[protocol](clips, folds, seed)
    used, disjoint = group != "", _is_disjoint(clips, group)
    splits = []
    for name in tested or _natural(np.unique(group[used]).tolist()):
        train, test = np.flatnonzero(used & (group != name)), np.flatnonzero(group == name)
        called = f"{seed}:{name}" if seed else name
        if need_classes:
            _check_classes(protocol, called, clips, train, test)
        elif len(train) < 2:
            raise UserError(
                f"protocol {protocol}: one clip is left to train on beside {called!r}, at least 2 are needed; use "
                "another --protocol"
            )
        inner, unit = _inner_folds(clips, train, group, disjoint, inner_folds)
        splits.append(Split(called, train, test, inner, unit, seed))
    return group, splits


def _is_disjoint(clips: LabelledClips, group: np.ndarray) -> bool:
    """Whether every clip that is used has a speaker's name, and no speaker is in two groups."""
    speaker, group = clips.speaker[group != ""], group[group != ""]
    return "" not in speaker and len(set(zip(speaker, group, strict=True))) == len(np.unique(speaker))


def testing_on(clips: LabelledClips, part: str, asked: str) -> LabelledClips:
    """The same clips, of which protocol `split` tests on this split instead of "test".

    Raises:
      UserError: no clip has that split; `asked` says where it was named.
    """
    if part == "test":
        return clips
    if part not in clips.part:
        found = ", ".join(sorted(set(clips.part.tolist()) - {""})) or "none"
        raise UserError(f"{asked} has no such split (found: {found})")
    others = np.where(clips.part == "test", "", clips.part)
    return replace(clips, part=np.where(clips.part == part, "test", others))


def split_hash(clip_ids: Sequence[str], groups: Sequence[str]) -> str:
    """SHA-256 of the lines `clip id <tab> group`, sorted: the same for any order of the clips."""
    lines = sorted(f"{clip}\t{group}\n" for clip, group in zip(clip_ids, groups, strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def clips_hash(clip_ids: Sequence[str]) -> str:
    """`split_hash` of clips that are all judged, and split by nothing."""
    return split_hash(clip_ids, [""] * len(clip_ids))


def _leave_one_speaker_out(clips: LabelledClips, folds: int, seed: int) -> tuple[np.ndarray, tuple[str, ...]]:
    _need_speakers("leave_one_speaker_out", clips)
    return clips.speaker, ()


def _speaker_folds(clips: LabelledClips, folds: int, seed: int) -> tuple[np.ndarray, tuple[str, ...]]:
    _need_speakers("speaker_folds", clips)
    named = clips.speaker != ""
    group = np.full(len(clips), "", f"U{len(str(folds))}")
    group[named] = deal(clips.speaker[named], folds, seed)
    return group, ()


def _within_speakers(clips: LabelledClips, folds: int, seed: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """Each speaker's clips, class by class, are dealt in turn; one clip alone cannot be on both sides."""
    named = clips.speaker != ""
    if not named.any():
        _need_speakers("within_speakers", clips)
    _, speaker, count = np.unique(clips.speaker, return_inverse=True, return_counts=True)
    used = named & (count[speaker] > 1)
    if not used.any():
        raise UserError(
            "protocol within_speakers: no speaker has two clips with this label, so none can be trained on and tested; "
            "use --protocol speaker_folds"
        )
    group = _in_turn(clips.clip_id, speaker, clips.label, folds, seed).astype(str)
    return np.where(used, group, ""), ()


def _manifest_folds(clips: LabelledClips, folds: int, seed: int) -> tuple[np.ndarray, tuple[str, ...]]:
    names = np.unique(clips.fold[clips.fold != ""])
    if len(names) < 2:
        raise UserError(
            f"protocol folds: the manifest's column '{clips.fold_by}' gives {len(names)} fold(s) for labelled clips, "
            "at least 2 are needed; add the column and prepare again, or use another --protocol"
        )
    return clips.fold, ()


def _train_test(clips: LabelledClips, folds: int, seed: int) -> tuple[np.ndarray, tuple[str, ...]]:
    missing = [part for part in ("train", "test") if part not in clips.part]
    if missing:
        found = ", ".join(sorted(set(clips.part) - {""})) or "none"
        raise UserError(
            f"protocol split: no clip with this label has split {' or '.join(missing)} (found: {found}); "
            "set the manifest's column 'split', or use another --protocol"
        )
    return np.where(np.isin(clips.part, ["train", "test"]), clips.part, ""), ("test",)


# name → (clips, folds, seed) → (each clip's group, "" = left out; the groups to test on, () = each in turn)
PROTOCOLS: dict[str, Callable[[LabelledClips, int, int], tuple[np.ndarray, tuple[str, ...]]]] = {
    "leave_one_speaker_out": _leave_one_speaker_out,
    "speaker_folds": _speaker_folds,
    "within_speakers": _within_speakers,
    "folds": _manifest_folds,
    "split": _train_test,
}
DEALT = ("speaker_folds", "within_speakers")  # by a seed; of the others the data says who is tested on


def _inner_folds(
    clips: LabelledClips, train: np.ndarray, group: np.ndarray, disjoint: bool, folds: int
) -> tuple[np.ndarray, str]:
    """Folds inside the training rows: by speaker where the outer folds are, or wherever every class has two of
    them; else by the protocol's own groups (which may keep near copies together), else by clip, dealt within each
    class."""
    speakers, groups = clips.speaker[train], group[train]
    labels = clips.label[train]
    least = min(len(np.unique(speakers[labels == label])) for label in np.unique(labels))
    if "" not in speakers and (least > 1 or (disjoint and len(np.unique(speakers)) > 1)):
        units, unit = speakers, "speaker"
    elif len(np.unique(groups)) > 1:
        units, unit = groups, "fold"
    else:
        # In turn within each class, anew for each.
        units, unit = _in_turn(clips.clip_id[train], labels, labels, folds), "clip"
        if len(np.unique(units)) < 2:  # one clip of each class
            units = clips.clip_id[train]
    inner = np.full(len(clips), -1)
    inner[train] = deal(units, folds)
    return inner, unit


def _in_turn(
    clip_id: np.ndarray, whose: np.ndarray, then: np.ndarray, folds: int, seed: int = 0
) -> np.ndarray:
    """Numbers of folds int [N]: the clips of each `whose` in the order of `then`, of equal ones in one that
    follows from their ids and the seed alone, go to the folds in turn."""
    digest = np.array([_digest(f"{seed}:{clip}" if seed else clip) for clip in clip_id.tolist()])
    order = np.lexsort((digest, then, whose))
    first = np.flatnonzero(np.diff(whose[order], prepend=-1))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order)) - np.repeat(first, np.diff(np.append(first, len(order))))
    return rank % folds


def _need_speakers(protocol: str, clips: LabelledClips) -> None:
    names = np.unique(clips.speaker[clips.speaker != ""])
    if len(names) < 2:
        who = f"only {str(names[0])!r}" if len(names) else "no speaker names"
        raise UserError(
            f"protocol {protocol}: clips with this label have {who}, at least 2 speakers are needed; "
            "use --protocol folds or split, or give the manifest a column 'speaker'"
        )


def _check_classes(
    protocol: str, name: str, clips: LabelledClips, train: np.ndarray, test: np.ndarray
) -> None:
    unseen = sorted(set(clips.label[test]) - set(clips.label[train]))
    if unseen:
        names = ", ".join(repr(clips.classes[k]) for k in unseen)
        other = ", as within_speakers" if protocol in ("leave_one_speaker_out", "speaker_folds") else ""
        raise UserError(
            f"protocol {protocol}: class {names} is only among the test clips of {name!r}, so nothing can "
            f"be learnt about it; leave it out with --classes, or use another --protocol{other}"
        )
    if len(set(clips.label[train])) < 2:
        raise UserError(
            f"protocol {protocol}: the training clips of {name!r} hold only the class "
            f"{clips.classes[clips.label[train][0]]!r}; use another --protocol"
        )


def _natural(names: Sequence[str]) -> list[str]:
    """Sorted, numbers by value: '2' before '10'."""
    return sorted(names, key=lambda n: (0, int(n), n) if n.isdecimal() else (1, 0, n))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
