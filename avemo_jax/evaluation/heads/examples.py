"""What every head is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from avemo_jax.evaluation.protocols import Split


@dataclass(frozen=True)
class Examples:
    """R rows of a feature matrix, views of N clips; the first N rows are the clips' centre views, in order.

    clip: int [R], whose view a row is. trains: bool [R], rows that may be trained on; the centre views are
    always what is predicted. label: int [N] in [0, classes); or numbers, float [N, K].
    """

    clip: np.ndarray
    trains: np.ndarray
    label: np.ndarray
    classes: int

    @property
    def row_label(self) -> np.ndarray:
        """int [R], or float [R, K]."""
        return self.label[self.clip]

    @property
    def are_numbers(self) -> bool:
        return self.label.ndim == 2

    @property
    def row_target(self) -> np.ndarray:
        """The classes as one-hot vectors, or the numbers: float [R, K]."""
        return self.row_label if self.are_numbers else np.eye(self.classes)[self.row_label]


def centre_views(label: np.ndarray, classes: int) -> Examples:
    """One view a clip: label int [N], or numbers float [N, classes]."""
    return Examples(np.arange(len(label)), np.ones(len(label), bool), np.asarray(label), classes)


@dataclass(frozen=True)
class Scored:
    """One split under every setting of a head's grid.

    predicted: chances of classes, or numbers, float32 [settings, N, K]. A training clip has those of the fit on the
    training part without its inner fold, a test clip those of the fit on the whole training part; other rows mean
    nothing. `converged` is None where there is nothing to reach. shares: of a head that mixes layers, each layer's
    share in the fit on the whole training part, float32 [settings, G, T], summing to 1 over T.
    """

    setting: str
    values: tuple[float, ...]
    predicted: np.ndarray
    converged: bool | None = None
    shares: np.ndarray | None = None


def inner_folds(splits: Sequence[Split]) -> int:
    """The most inner folds of any split (0 where there are none): one shape for all, so one compilation."""
    return 1 + max(int(split.inner.max()) for split in splits)


def each_split(
    setting: str,
    predicted_of: Callable[..., np.ndarray],
    features: np.ndarray,
    examples: Examples,
    splits: Sequence[Split],
    values: Sequence[float],
) -> list[Scored]:
    """Of a head that takes one split after the other: `predicted_of(features, examples, split, folds, values)`."""
    folds = inner_folds(splits)
    return [
        Scored(setting, tuple(values), predicted_of(features, examples, split, folds, values))
        for split in splits
    ]


def row_sets(examples: Examples, split: Split, folds: int) -> np.ndarray:
    """bool [folds + 1, R]: set j leaves inner fold j out; the last one is the whole training part."""
    training = np.isin(examples.clip, split.train) & examples.trains
    inner = split.inner[examples.clip]
    return np.stack([training & (inner != fold) for fold in range(folds)] + [training])


def predicted_by(split: Split, folds: int) -> np.ndarray:
    """int [N]: which of `row_sets` predicts a clip."""
    return np.where(split.inner >= 0, split.inner, folds)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    raised = np.exp(logits - logits.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)
