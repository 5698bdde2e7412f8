"""Ridge regression on one-hot labels or numbers, in closed form, on features standardised by each split's training
rows.

It minimises  mean |target - X W - bias|^2 + penalty |W|^2. The fits without an inner fold follow exactly from the
one on the whole training part (Woodbury's identity), so a split costs one eigendecomposition.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from avemo_jax.evaluation.heads import scaling
from avemo_jax.evaluation.heads.examples import Examples, Scored, each_split, predicted_by, row_sets
from avemo_jax.evaluation.protocols import Split

SETTING = "penalty"
PENALTIES = (100.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.01, 1e-3)  # of standardised features
_LEAST = 0.01  # scores are about chances, but may be negative


def fit(
    features: np.ndarray, examples: Examples, splits: Sequence[Split], values: Sequence[float] = PENALTIES
) -> list[Scored]:
    """Every split with every penalty; features float32 [R, D], finite."""
    return each_split(SETTING, _predicted, features, examples, splits, values)


def _predicted(features, examples, split, folds, values):
    sets = row_sets(examples, split, folds)
    train = np.flatnonzero(sets[-1])
    inputs = scaling.standardise(features, train)
    axes, squares = scaling.principal_axes(inputs[train])
    design = np.hstack([inputs @ axes, np.ones((len(inputs), 1))])  # the last column is the bias
    gram = len(train) * np.append(squares, 1.0)  # diagonal: columns are centred and uncorrelated
    target = examples.row_target
    products = design[train].T @ target[train]
    tested, by = design[: len(examples.label)], predicted_by(split, folds)
    predicted = np.empty((len(values), len(tested), examples.classes), np.float32)
    for number, value in enumerate(values):
        inverse = 1 / (gram + np.append(np.full(len(squares), value * len(train)), 0.0))
        whole = inverse[:, None] * products
        for fold, rows in enumerate(sets):
            weights = _without(whole, inverse, design, target, np.flatnonzero(sets[-1] & ~rows))
            own = by == fold
            predicted[number, own] = tested[own] @ weights
    if examples.are_numbers:
        return predicted
    chances = np.maximum(predicted, _LEAST)
    return chances / chances.sum(-1, keepdims=True)


def _without(weights, inverse, design, target, left_out):
    """The weights of the fit that does not see these rows."""
    if not len(left_out):
        return weights
    rows = design[left_out]
    missed = np.eye(len(rows)) - (rows * inverse) @ rows.T
    return weights - inverse[:, None] * (rows.T @ np.linalg.solve(missed, target[left_out] - rows @ weights))
