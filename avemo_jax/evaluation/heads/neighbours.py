"""The k nearest training clips by cosine of features standardised by each split's training rows.

Nothing is fitted: it shows whether clips of a class lie together at all.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from avemo_jax.evaluation.heads import scaling
from avemo_jax.evaluation.heads.examples import Examples, Scored, each_split, predicted_by, row_sets
from avemo_jax.evaluation.protocols import Split

SETTING = "neighbours"
COUNTS = (50, 20, 10, 5, 3, 1)
_ROWS = 512  # at a time
_TIE = 1e-3  # of a vote, for the nearest: decides between classes of equal votes


def fit(
    features: np.ndarray, examples: Examples, splits: Sequence[Split], values: Sequence[int] = COUNTS
) -> list[Scored]:
    """Every split with every number of neighbours; features float32 [R, D], finite."""
    return each_split(SETTING, _predicted, features, examples, splits, values)


def _predicted(features, examples, split, folds, values):
    """(votes + 1 / K) / (k + 1): a class without a vote is unlikely and not impossible. Of numbers the mean."""
    sets = row_sets(examples, split, folds)
    inputs = scaling.standardise(features, sets[-1])
    inputs /= np.maximum(np.linalg.norm(inputs, axis=-1, keepdims=True), 1e-12)
    by, target = predicted_by(split, folds), examples.row_target
    predicted = np.empty((len(values), len(by), examples.classes), np.float32)
    for fold, rows in enumerate(sets):
        known, asked = np.flatnonzero(rows), np.flatnonzero(by == fold)
        most = min(max(values), len(known))
        for first in range(0, len(asked), _ROWS):
            some = asked[first : first + _ROWS]
            near = _nearest(inputs[some], inputs[known], most)
            votes = target[known[near]]
            if not examples.are_numbers:
                votes *= 1 + _TIE / (1 + np.arange(most)[:, None])
            totals = np.cumsum(votes, axis=1)
            for number, value in enumerate(values):
                count = min(value, most)
                if examples.are_numbers:
                    predicted[number, some] = totals[:, count - 1] / count
                    continue
                smooth = totals[:, count - 1] + 1 / examples.classes
                predicted[number, some] = smooth / smooth.sum(-1, keepdims=True)
    return predicted


def _nearest(asked, known, count):
    """Numbers of the `count` most similar rows of `known`, the nearest first: int [len(asked), count]."""
    similar = asked @ known.T
    near = np.argpartition(-similar, count - 1, axis=1)[:, :count]
    order = np.argsort(-np.take_along_axis(similar, near, 1), axis=1, kind="stable")
    return np.take_along_axis(near, order, 1)
