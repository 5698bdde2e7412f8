"""Which labelled clips a fine-tuning run trains on, chooses by and is tested on.

One test part of a protocol is left out, and of the rest some speakers, by whom the run chooses; so no clip that is
tested on has a say in anything. Not here: the protocols themselves.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from ml_collections import ConfigDict

from avemo_jax.errors import UserError
from avemo_jax.evaluation.labelled import read_targets
from avemo_jax.evaluation.protocols import LabelledClips, Split, Splits, make_splits, testing_on
from input_pipeline.mixtures import folders_of
from input_pipeline.targets import Target, target_of


@dataclass(frozen=True)
class Partition:
    """Row numbers of `clips` in three parts, and what is to be said of them with every result.

    targets: int [N] or float32 [N, K], what each clip is to be learnt as (see `Target`).
    unit: what development clips do not share with those that are trained on; empty where there are none.
    left_out: labelled or not, clips that no part has, by reason.
    """

    target: Target
    clips: LabelledClips
    targets: np.ndarray
    train: np.ndarray
    development: np.ndarray
    test: np.ndarray
    protocol: str
    fold: str
    unit: str
    speaker_disjoint: bool
    split_hash: str
    left_out: Counter

    def positions(self, rows: np.ndarray) -> list[int]:
        """The places in the folder of these rows' clips."""
        return self.clips.position[rows].tolist()

    @property
    def class_counts(self) -> tuple[float, ...]:
        """Training clips of each class, or the sum of their shares; of each class that a clip may have among others."""
        if self.target.is_class:
            return tuple(np.bincount(self.targets[self.train], minlength=len(self.target.names)).tolist())
        return tuple(self.truth(self.train).sum(0).tolist())

    @property
    def absent(self) -> list[str]:
        """The classes that no clip is of, in any part; where a clip has exactly one."""
        found = set(self.clips.label.tolist())
        return [name for k, name in enumerate(self.target.names) if self.target.is_class and k not in found]

    @property
    def together(self) -> tuple[float, ...]:
        """Training clips that have both of two classes, K · K numbers by row; on the diagonal, those that have it."""
        present = (self.truth(self.train) > 0).astype(np.float64)
        return tuple((present.T @ present).ravel().tolist())

    def truth(self, rows: np.ndarray) -> np.ndarray:
        """What predictions for these rows are judged by, int [M] or float [M, K]."""
        return self.target.summary(self.targets[rows])


def make_partition(data: ConfigDict) -> Partition | None:
    """The partition that a config's `data` describes; None where `data.protocol` is empty: every clip is trained on.

    protocol: see `protocols.PROTOCOLS`; `fold` names the part to test on, `folds` is the number of parts that
    speakers are dealt into by `speaker_folds`, and each one's clips by `within_speakers`; one of `development` groups
    of the training clips is held out, none where that is 0, and no class that is tested with it. `fold_by` names the
    metadata that `folds` goes by, `test_split` the split that `split` tests on.

    Raises:
      UserError: a protocol, fold or label that the folder does not have, several folders, or nothing that can be held
        out.
    """
    if not data.protocol:
        return None
    target, clips, targets, splits, left_out = _read(data)
    by_name = {split.name: split for split in splits.splits}
    fold = data.fold if data.protocol != "split" else "test"
    if fold not in by_name:
        raise UserError(
            f"data.fold is '{data.fold}': protocol {data.protocol} of {folders_of(data)[0]} has {', '.join(by_name)}"
        )
    split = by_name[fold]
    held_out = np.zeros(len(split.train), bool)
    if data.development:
        held_out = _held_out(split, clips, target, f"protocol {data.protocol}, fold {fold}")
    return Partition(
        target=target,
        clips=clips,
        targets=targets,
        train=split.train[~held_out],
        development=split.train[held_out],
        test=split.test,
        protocol=data.protocol,
        fold=_called(data, fold),
        unit=split.inner_unit if data.development else "",
        speaker_disjoint=splits.speaker_disjoint,
        split_hash=splits.split_hash,
        left_out=left_out,
    )


def _held_out(split: Split, clips: LabelledClips, target: Target, where: str) -> np.ndarray:
    """Which of the training clips are held out to choose by, bool: the first inner group without which every class
    that is tested is still trained on."""
    inner = split.inner[split.train]
    groups = np.unique(inner)
    if len(groups) < 2:
        raise UserError(
            f"{where}: the training clips are all of one {split.inner_unit}, so none can be held out to choose by; set "
            "data.development=0"
        )
    tested = set(clips.label[split.test])
    for group in groups:
        if not target.is_class or tested <= set(clips.label[split.train[inner != group]]):
            return inner == group
    raise UserError(
        f"{where}: whichever {split.inner_unit}s are held out to choose by, a class that is tested is not trained on "
        "any more; set data.development=0, or a higher one"
    )


def fold_names(data: ConfigDict) -> list[str]:
    """The parts that a config's protocol can test on, in order, as `Partition.fold` calls them; raises as
    `make_partition`."""
    if not data.protocol:
        raise UserError("data.fold=all needs a data.protocol, which says what the folds are")
    return [_called(data, split.name) for split in _read(data)[3].splits]


def _called(data: ConfigDict, fold: str) -> str:
    """A fold's name in rows and folders: the only one of `split` has that of the clips that it tests."""
    return data.get("test_split", "test") if data.protocol == "split" else fold


def _read(data: ConfigDict) -> tuple[Target, LabelledClips, np.ndarray, Splits, Counter]:
    target = target_of(data)
    if target is None:
        raise UserError("data.protocol needs a data.label to split clips by")
    folders = folders_of(data)
    if len(folders) > 1:
        raise UserError(
            f"data.protocol={data.protocol} splits one folder, data.paths has {len(folders)}: prepare them as one"
        )
    if data.split:
        raise UserError(
            f"data.split={data.split} and data.protocol={data.protocol} say two things: leave data.split empty"
        )
    fold_by, tested = data.get("fold_by", "fold"), data.get("test_split", "test")
    clips, targets, left_out = read_targets(folders[0], target, fold_by)
    if data.protocol == "split":
        clips = testing_on(clips, tested, f"data.test_split is '{tested}': {folders[0]}")
    try:
        splits = make_splits(
            data.protocol,
            clips,
            folds=data.folds,
            inner_folds=max(2, data.development),
            need_classes=target.is_class,
        )
    except UserError as error:  # it speaks of the flags of a probe
        said = str(error).replace("--protocol", "data.protocol").replace("--classes", "data.classes")
        raise UserError(said) from error
    if splits.left_out:
        left_out["in no fold"] += splits.left_out
    return target, clips, targets, splits, left_out
