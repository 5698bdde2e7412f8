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
RATERS, AFFECT = "raters", "affect"
RULES = (CLASS, PLURALITY, MAJORITY, DISTRIBUTION, MULTI_LABEL, VALUES, RATERS, AFFECT)
_KINDS = {
    PLURALITY: CLASS,
    MAJORITY: CLASS,
    RATERS: DISTRIBUTION,
    AFFECT: DISTRIBUTION,
}  # others are their own
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
      raters        the label says what each rater chose, {rater: class}; every rater of `raters` has outputs of their
                    own, and those of a clip's raters are learnt (Davani et al. 2022). Judged as a distribution
      affect        the labels are numbers, and each class has a Gaussian among them (`centres`): a distribution over
                    classes, by how likely each would give these numbers, all being equally frequent
    labels: names; several of them for `values` and `affect` alone.
    classes: in order; none for `values`. Votes for others are not counted.
    raters: names, of `raters`.
    centres: of `affect`, for each class in order the mean of every label, and then the deviation, which is the same for
      all labels.

    Raises:
      DataError: a rule that there is not, or without what it needs.
    """

    rule: str
    labels: tuple[str, ...]
    classes: tuple[str, ...] = ()
    threshold: float = 0.0
    raters: tuple[str, ...] = ()
    centres: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self):
        if self.rule not in RULES:
            raise DataError(f"data.target {self.rule!r}: there are {', '.join(RULES)}")
        if self.rule == VALUES and self.classes:
            raise DataError(f"data.target=values takes no data.classes, got {', '.join(self.classes)}")
        if self.rule not in (VALUES, AFFECT) and (len(self.labels) != 1 or not self.classes):
            raise DataError(f"data.target={self.rule} needs one data.label and data.classes")
        if bool(self.raters) != (self.rule == RATERS):
            needs = "needs" if self.rule == RATERS else "takes no"
            raise DataError(f"data.target={self.rule} {needs} data.raters")
        if self.rule == AFFECT:
            wanted = len(self.labels) + 1
            if len(self.centres) != len(self.classes) or any(len(row) != wanted for row in self.centres):
                raise DataError(
                    f"data.target=affect needs in data.centres for each of {', '.join(self.classes) or 'data.classes'} "
                    f"the means of {', '.join(self.labels)} and a deviation: CLASS:{':'.join(['0.0'] * wanted)}"
                )
            if any(row[-1] <= 0 for row in self.centres):
                raise DataError("data.centres: a deviation is not above 0")

    @property
    def names(self) -> tuple[str, ...]:
        """Of what is predicted: classes, or the labels that are values."""
        return self.classes or self.labels

    @property
    def outputs(self) -> int:
        """Numbers that a model gives for a clip: one for each name, and of `raters` for each rater."""
        return len(self.names) * max(1, len(self.raters))

    @property
    def kind(self) -> str:
        """What is predicted of a clip: `class`, `distribution`, `multi_label` or `values`."""
        return kind_of(self.rule)

    @property
    def is_class(self) -> bool:
        """Whether a clip has exactly one class."""
        return self.kind == CLASS

    @property
    def empty(self) -> np.ndarray:
        """One that says nothing, with the shape and type of all: int32 [], or float32 [K]; of R raters [R, K]."""
        if self.is_class:
            return np.zeros((), np.int32)
        shape = (len(self.raters), len(self.names)) if self.raters else len(self.names)
        return np.zeros(shape, np.float32)

    def summary(self, targets: np.ndarray) -> np.ndarray:
        """What predictions are judged by, [N, K]: of raters' own choices [N, R, K] the share of each class."""
        if self.rule != RATERS:
            return targets
        votes = targets.sum(1)
        return votes / votes.sum(1, keepdims=True)

    def of(self, labels: Mapping[str, Any]) -> np.ndarray | None:
        """The target of a clip with these labels, as `empty`; None where they do not give one."""
        if self.rule in (VALUES, AFFECT):
            values = [labels.get(name) for name in self.labels]
            if not all(isinstance(value, (int, float)) and np.isfinite(value) for value in values):
                return None
            found = np.array(values, np.float32)
            return self._nearness(found) if self.rule == AFFECT else found
        value = labels.get(self.labels[0])
        if self.rule == CLASS:
            return np.array(self.classes.index(str(value)), np.int32) if str(value) in self.classes else None
        if self.rule == MULTI_LABEL and isinstance(value, (list, tuple)):
            chosen = np.isin(self.classes, [str(name) for name in value])
            return chosen.astype(np.float32) if chosen.any() else None
        if self.rule == RATERS:
            if not isinstance(value, Mapping):
                return None
            choices = [[str(value.get(rater, "")) == name for name in self.classes] for rater in self.raters]
            return np.array(choices, np.float32) if np.any(choices) else None
        shares = self._shares(value)
        if shares is None:
            return None
        if self.rule == DISTRIBUTION:
            return shares.astype(np.float32)
        if self.rule == MULTI_LABEL:
            threshold = self.threshold or 1 / len(self.classes)
            return (shares >= threshold - _SLACK).astype(np.float32)
        most = int(shares.argmax())
        alone = (shares >= shares[most] - _SLACK).sum() == 1
        if self.rule == MAJORITY:
            alone = shares[most] > 0.5 + _SLACK
        return np.array(most, np.int32) if alone else None

    def _nearness(self, values: np.ndarray) -> np.ndarray:
        """The share of each class's density at these values [V] in that of all: float32 [K]."""
        table = np.array(self.centres)
        means, deviation = table[:, :-1], table[:, -1]
        distance = np.square((values - means) / deviation[:, None]).sum(1)
        logs = -0.5 * distance - means.shape[1] * np.log(deviation)
        raised = np.exp(logs - logs.max())
        return (raised / raised.sum()).astype(np.float32)

    def _shares(self, votes: Any) -> np.ndarray | None:
        if not isinstance(votes, Mapping):
            return None
        counts = np.array([float(votes.get(name) or 0) for name in self.classes])
        total = counts.sum()
        return counts / total if np.isfinite(total) and total > 0 and counts.min() >= 0 else None


def kind_of(rule: str) -> str:
    """`Target.kind` of this rule."""
    return _KINDS.get(rule, rule)


def target_of(data: Any) -> Target | None:
    """The target of a config's `data` (`label`, and `classes`, `target`, `threshold`); None without a label."""
    label = getattr(data, "label", "")
    if not label:
        return None
    classes = tuple(str(name) for name in getattr(data, "classes", ()))
    return Target(
        getattr(data, "target", CLASS),
        tuple(label.split(",")),
        classes,
        getattr(data, "threshold", 0.0),
        tuple(str(name) for name in getattr(data, "raters", ())),
        _centres_of(getattr(data, "centres", ()), classes),
    )


def _centres_of(centres: Sequence[Any], classes: Sequence[str]) -> tuple[tuple[float, ...], ...]:
    """`data.centres`, "CLASS:MEAN:…:DEVIATION" each, in the order of the classes."""
    found = {}
    for text in centres:
        name, *numbers = str(text).split(":")
        try:
            found[name] = tuple(float(number) for number in numbers)
        except ValueError as error:
            raise DataError(f"data.centres: '{text}' is not CLASS:MEAN:…:DEVIATION ({error})") from error
    missing = [name for name in classes if found and name not in found]
    if missing:
        raise DataError(f"data.centres has nothing for {', '.join(missing)}")
    return tuple(found[name] for name in classes) if found else ()


def stratum_of(target: Target, values: Sequence[np.ndarray]) -> np.ndarray:
    """One class for each of N targets, int [N], by which clips can be dealt evenly: the class, the largest share,
    or whether the first value is above its median."""
    if target.is_class:
        return np.array(values, np.int64)
    if target.rule == VALUES:
        first = np.array([value[0] for value in values])
        return (first > np.median(first)).astype(np.int64)
    return np.array([int(target.summary(value[None])[0].argmax()) for value in values], np.int64)
