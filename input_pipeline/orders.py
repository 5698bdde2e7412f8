"""Which clip each row of the endless training stream takes: shuffled, weighted by folder, balanced by group.

Every order is a function of (seed, row) alone, so it is the same for any number of hosts and workers and goes on
at any row. Proportions are not drawn but kept: among any rows in a row, each folder has its share and each group
its turn, up to one clip (or `per_group`). Within a folder or group each clip comes once before any comes again. Not
here: opening.
"""

from __future__ import annotations

import functools
import itertools
import math
import sys
from collections.abc import Hashable, Sequence
from typing import Protocol

import grain.python as grain
import numpy as np

from input_pipeline.errors import DataError
from input_pipeline.manifests import LABEL_PREFIX
from input_pipeline.mixtures import Mixture
from input_pipeline.record import class_of
from input_pipeline.records import Records

CORPUS, SPEAKER, GENDER = "corpus", "speaker", "gender"
_ENDLESS = sys.maxsize // 2
_SMALL = 1 << 15


class Order(Protocol):
    """Row → index of a record."""

    def __getitem__(self, row: int) -> int: ...


class Chosen:
    """An order over the records that are drawn from, and any other of them for one that cannot be read."""

    def __init__(self, order: Order, count: int, indices: np.ndarray | None):
        self._order, self._count, self._indices = order, count, indices

    def __getitem__(self, row: int) -> int:
        return self._named(self._order[row])

    def another(self, seed: Sequence[int]) -> int:
        """The record that takes the place of an unreadable one; the same seed gives the same."""
        return self._named(int(np.random.default_rng(seed).integers(self._count)))

    def _named(self, index: int) -> int:
        return index if self._indices is None else int(self._indices[index])


class Draw:
    """How clips are drawn from `records`; `order(seed)` is the order itself.

    weights: how often each folder comes, in any unit; () draws every clip as often as any other.
    balance: "", "corpus" (each folder as often), "speaker", "gender", or "label_emotion" for the label `emotion`: each
      value as often. With weights, groups are balanced within each folder; without, over all of them, where
      the same speaker's name in two folders is two speakers and the same gender or label is one.

    per_group: how many clips of a group come one after the other, no clip twice among them, so that a batch holds
      several of each (the K of PK batches: Hermans et al. 2017). What is left over when a group was gone through
      in such runs waits for another round, shuffled anew.
    chosen: ascending indices of the only records that are drawn; None: all.

    Raises:
      DataError: weights that do not fit the folders, a folder with a share but no clip, clips that lack what is
        balanced, or groups too small.
    """

    def __init__(
        self,
        records: Records | Mixture,
        weights: Sequence[float] = (),
        balance: str = "",
        per_group: int = 1,
        chosen: np.ndarray | None = None,
    ):
        self._sizes, self._per_group, self._chosen = list(records.sizes), per_group, chosen
        if chosen is not None:
            ends = np.searchsorted(chosen, np.cumsum(self._sizes))
            self._sizes = np.diff(ends, prepend=0).tolist()
        self._weights = _weights(weights, balance, len(self._sizes))
        if self._weights and 0 in self._sizes:
            path = records.parts[self._sizes.index(0)].path
            raise DataError(
                f"{path}: none of its clips is among those to be drawn, and it has a share of each batch "
                "(data.weights, or data.balance=corpus): leave the folder out"
            )
        starts = np.cumsum([0, *self._sizes]) if self._weights else np.array([0, self.count])
        self._spans = list(itertools.pairwise(starts.tolist()))  # whose orders take turns
        self._groups: list[list[np.ndarray]] = []  # of each span, where groups are balanced
        if balance not in ("", CORPUS):
            groups = _groups(records, balance, chosen)
            self._groups = [_within(groups, *span) for span in self._spans]
        self._check_runs(records, balance)

    def _check_runs(self, records, balance) -> None:
        if self._per_group == 1:
            return
        if self._per_group < 1 or not self._groups:
            raise DataError(
                f"data.per_group is {self._per_group}: it is how many clips of a group come together, 1 or more, and "
                "more only with data.balance=speaker, gender or label_NAME"
            )
        small = [group for groups in self._groups for group in groups if len(group) < self._per_group]
        if small:
            first = int(small[0][0] if self._chosen is None else self._chosen[small[0][0]])
            raise DataError(
                f"data.per_group is {self._per_group}, and {balance} groups of fewer clips: {len(small)}, as that of "
                f"{records.clip_ids[first]} ({len(small[0])}); lower it, or leave them out of the manifest"
            )

    @property
    def count(self) -> int:
        """Records that are drawn from."""
        return sum(self._sizes)

    def order(self, seed: int) -> Chosen:
        """The order of a seed; can be sent to another process."""
        return Chosen(self._order(seed), self.count, self._chosen)

    def _order(self, seed: int) -> Order:
        """Row → which of the records that are drawn from."""
        if not self._weights:
            if not self._groups:
                return _Shuffled(seed, 0, self.count)  # the oldest order: runs go on in it
            return _Balanced(seed, self._groups[0], self._per_group)
        orders: list[Order] = []
        for number, (start, end) in enumerate(self._spans):
            own = _seed(seed, number)
            if self._groups:
                orders.append(_Balanced(own, self._groups[number], self._per_group))
            else:
                orders.append(_shuffled(own, start, end - start))
        return _Weighted(orders, self._weights, self._per_group)


class _Shuffled:
    """Records start … start + count, shuffled anew each time round."""

    def __init__(self, seed: int, start: int, count: int):
        self._start = start
        self._shuffled = grain.MapDataset.range(count).seed(seed).shuffle().repeat()

    def __getitem__(self, row: int) -> int:
        return self._start + int(self._shuffled[row])


class _Small:
    """start … start + count, shuffled anew each time round: as `_Shuffled`, which takes milliseconds a row for few."""

    def __init__(self, seed: int, start: int, count: int):
        self._seed, self._start, self._count = seed, start, count
        self._permutations: dict[int, np.ndarray] = {}

    def __getitem__(self, row: int) -> int:
        turn, place = divmod(row, self._count)
        if turn not in self._permutations:
            if len(self._permutations) > 1:  # rows go on: the oldest one is not needed again
                self._permutations.pop(min(self._permutations))
            self._permutations[turn] = np.random.default_rng([self._seed, turn]).permutation(self._count)
        return self._start + int(self._permutations[turn][place])

    def __getstate__(self):
        return {**self.__dict__, "_permutations": {}}


def _shuffled(seed: int, start: int, count: int) -> Order:
    return (_Small if count <= _SMALL else _Shuffled)(seed, start, count)


class _Balanced:
    """Each group once in as many turns as there are groups, in an order shuffled anew each time round.

    A turn is `run` rows, all of them other clips; none is longer than the smallest group.
    """

    def __init__(self, seed: int, groups: Sequence[np.ndarray], run: int):
        self._seed, self._groups, self._run = seed, groups, run
        self._turns = _shuffled(seed, 0, len(groups))

    def __getitem__(self, row: int) -> int:
        turn, place = divmod(row, self._run)
        group = self._turns[turn]
        members = self._groups[group]
        time_round, run = divmod(turn // len(self._groups), len(members) // self._run)
        return int(members[self._within(group)[time_round * len(members) + run * self._run + place]])

    @functools.cached_property
    def _within(self):
        return functools.cache(lambda group: _shuffled(_seed(self._seed, group), 0, len(self._groups[group])))

    def __getstate__(self):
        return {key: value for key, value in self.__dict__.items() if key != "_within"}


class _Weighted:
    """Orders that take turns by weight, `run` rows a turn."""

    def __init__(self, orders: Sequence[Order], weights: Sequence[float], run: int):
        self._orders, self._run = orders, run
        turns = [
            grain.MapDataset.range(_ENDLESS).map(functools.partial(_tagged, part))
            for part in range(len(orders))
        ]
        self._turns = grain.MapDataset.mix(turns, weights)

    def __getitem__(self, row: int) -> int:
        turn, place = divmod(row, self._run)
        part, own_turn = self._turns[turn]
        return self._orders[part][own_turn * self._run + place]


def _tagged(part: int, turn: int) -> tuple[int, int]:
    return part, int(turn)


def _seed(seed: int, number: int) -> int:
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def _weights(weights, balance, folders) -> list[float]:
    """Shares of the folders, [] where there are none to keep."""
    weights = [float(weight) for weight in weights]
    if weights and balance == CORPUS:
        raise DataError("data.weights and data.balance=corpus say two things; set one of them")
    if weights and len(weights) != folders:
        raise DataError(f"data.weights: {len(weights)} weights for {folders} folders of data.paths")
    if not all(math.isfinite(weight) and weight > 0 for weight in weights):
        raise DataError(f"data.weights {weights}: each must be above 0; leave out the folder instead")
    if balance == CORPUS:
        weights = [1.0] * folders
    return [weight / sum(weights) for weight in weights] if folders > 1 else []


def _groups(records: Records | Mixture, balance: str, chosen: np.ndarray | None) -> list[np.ndarray]:
    """Of each group, which of the (chosen) records are in it, ascending; groups in the order of their first clip."""
    numbers = numbers_by(records, balance, "data.balance", chosen)
    return np.split(np.argsort(numbers, kind="stable"), np.cumsum(np.bincount(numbers))[:-1])


def numbers_by(
    records: Records | Mixture, by: str, option: str, chosen: np.ndarray | None = None
) -> np.ndarray:
    """Of each (chosen) record the number of its group, int32, from 0 in the order of their first clip.

    Args:
      by: "speaker", "gender", or "label_emotion" for the classes of `emotion`. The same speaker's name in two folders
        is two speakers, the same gender or class is one.
      option: what asks for it, for messages.

    Raises:
      DataError: no such groups, or clips that are in none.
    """
    label = by.removeprefix(LABEL_PREFIX) if by.startswith(LABEL_PREFIX) else ""
    if by not in (SPEAKER, GENDER) and not label:
        more = "corpus, " if option == "data.balance" else ""
        raise DataError(
            f"{option} {by!r}: there are {more}speaker, gender and label_NAME, as in label_emotion"
        )
    keys: list[Hashable] = []
    for part, members in enumerate(records.parts):
        if by == GENDER:
            keys += [gender or None for gender in members.genders()]
            continue
        for speaker, labels in members.known():
            keys.append(
                ((part, speaker) if speaker else None) if by == SPEAKER else class_of(labels.get(label))
            )
    indices = range(len(keys)) if chosen is None else chosen.tolist()
    missing = [index for index in indices if keys[index] is None]
    if missing:
        what = f"label '{label}' that is a class" if label else by
        raise DataError(
            f"{option}={by}: {len(missing)} of {len(indices)} clips have no {what}, as "
            f"{records.clip_ids[missing[0]]}; leave them out of the manifest, or name another group"
        )
    known: dict[Hashable, int] = {}
    return np.array([known.setdefault(keys[index], len(known)) for index in indices], np.int32)


def _within(groups: list[np.ndarray], start: int, end: int) -> list[np.ndarray]:
    inside = [group[(group >= start) & (group < end)] for group in groups]
    return [group for group in inside if len(group)]
