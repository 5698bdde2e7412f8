"""What a clip is to be learnt as: its labels → a class, a distribution over classes, several classes, or values.

Votes are kept in the records as they were cast; what they mean is a rule that is chosen here, not when the data is
prepared. Not here: which clips are used, losses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from input_pipeline.errors import DataError

CLASS, PLURALITY, MAJORITY = "class", "plurality", "majority"
DISTRIBUTION, MULTI_LABEL, VALUES = "distribution", "multi_label", "values"
RULES = (CLASS, PLURALITY, MAJORITY, DISTRIBUTION, MULTI_LABEL, VALUES)
_SLACK = 1e-9  # shares are quotients: a third of three votes is at least 1/3


@dataclass(frozen=True)
class Target:
    """A rule and the labels that it reads.

    rule:
      class         the label is the class
      plurality     of votes, the class with the most; a tie has none
      majority      of votes, the class with more than half of those for `classes`
      distribution  of votes, the share of each class
      multi_label   of votes, every class with at least `threshold` of them, 1/K where that is 0 (the all-inclusive
                    rule: every clip is used, Chou et al. 2022); or a list of classes
      values        the labels are numbers
    labels: names; several of them for `values` alone.
    classes: in order; none for `values`. Votes for others are not counted.

    Raises:
      DataError: a rule that there is not, or without what it needs.
    """

    rule: str
    labels: tuple[str, ...]
    classes: tuple[str, ...] = ()
    threshold: float = 0.0

    def __post_init__(self):
        if self.rule not in RULES:
            raise DataError(f"data.target {self.rule!r}: there are {', '.join(RULES)}")
        if self.rule == VALUES and self.classes:
            raise DataError(f"data.target=values takes no data.classes, got {', '.join(self.classes)}")
        if self.rule != VALUES and (len(self.labels) != 1 or not self.classes):
            raise DataError(f"data.target={self.rule} needs one data.label and data.classes")

    @property
    def names(self) -> tuple[str, ...]:
        """Of the outputs: classes, or the labels that are values."""
        return self.classes or self.labels

    @property
    def is_class(self) -> bool:
        """Whether a clip has exactly one class."""
        return self.rule in (CLASS, PLURALITY, MAJORITY)

    @property
    def empty(self) -> np.ndarray:
        """One that says nothing, with the shape and type of all: int32 [], or float32 [K]."""
        return np.zeros((), np.int32) if self.is_class else np.zeros(len(self.names), np.float32)

    def of(self, labels: Mapping[str, Any]) -> np.ndarray | None:
        """The target of a clip with these labels, as `empty`; None where they do not give one."""
        if self.rule == VALUES:
            values = [labels.get(name) for name in self.labels]
            if not all(isinstance(value, (int, float)) and np.isfinite(value) for value in values):
                return None
            return np.array(values, np.float32)
        value = labels.get(self.labels[0])
        if self.rule == CLASS:
            return np.array(self.classes.index(str(value)), np.int32) if str(value) in self.classes else None
        if self.rule == MULTI_LABEL and isinstance(value, (list, tuple)):
            chosen = np.isin(self.classes, [str(name) for name in value])
            return chosen.astype(np.float32) if chosen.any() else None
        shares = self._shares(value)
        if shares is None:
            return None
        if self.rule == DISTRIBUTION:
            return shares.astype(np.float32)
        if self.rule == MULTI_LABEL:
            threshold = self.threshold or 1 / len(self.classes)
            return (shares >= threshold - _SLACK).astype(np.float32)
        most = int(shares.argmax())
        alone = (shares[most] > 0.5) if self.rule == MAJORITY else (shares == shares[most]).sum() == 1
        return np.array(most, np.int32) if alone else None

    def _shares(self, votes: Any) -> np.ndarray | None:
        if not isinstance(votes, Mapping):
            return None
        counts = np.array([float(votes.get(name) or 0) for name in self.classes])
        total = counts.sum()
        return counts / total if np.isfinite(total) and total > 0 else None


def target_of(data: Any) -> Target | None:
    """The target of a config's `data` (`label`, and `classes`, `target`, `threshold`); None without a label."""
    label = getattr(data, "label", "")
    if not label:
        return None
    return Target(
        getattr(data, "target", CLASS),
        tuple(label.split(",")),
        tuple(str(name) for name in getattr(data, "classes", ())),
        getattr(data, "threshold", 0.0),
    )


def stratum_of(target: Target, values: Sequence[np.ndarray]) -> np.ndarray:
    """One class for each of N targets, int [N], by which clips can be dealt evenly: the class, the largest share,
    or whether the first value is above its median."""
    if target.is_class:
        return np.array(values, np.int64)
    if target.rule == VALUES:
        first = np.array([value[0] for value in values])
        return (first > np.median(first)).astype(np.int64)
    return np.array([int(value.argmax()) for value in values], np.int64)
