"""A linear classifier: logistic regression on features standardised by each split's training rows, or only centred.

All splits, their inner folds and all penalties are one program on one matrix (`logistic.fit_path`), where that
is less work than to rotate the features of each split onto the few axes that its training rows span.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from avemo_jax.evaluation import logistic
from avemo_jax.evaluation.heads import scaling
from avemo_jax.evaluation.heads.examples import (
    Examples,
    Scored,
    inner_folds,
    predicted_by,
    row_sets,
    softmax,
)
from avemo_jax.evaluation.protocols import Split

SETTING = "inverse_penalty"
# scikit-learn's C, strongest penalty first. Hundreds of clips take values from the middle, the narrowest features of a
# thousand clips 1; the result rows carry the chosen ones, so an edge shows.
INVERSE_PENALTIES = (1e-5, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0, 10.0)

_MOST_RATIO = (
    30.0  # of a split's standard deviation to all rows': beyond, float32 would not see the split's own
)
_MEMORY = 1 << 30  # bytes that one program's problems may take beside its inputs


class _Block(NamedTuple):
    """Splits that are solved together, and the inputs that they share (see `logistic.fit_path`)."""

    splits: list[int]
    inputs: np.ndarray
    scales: np.ndarray
    gram: logistic.Gram


def fit(
    features: np.ndarray,
    examples: Examples,
    splits: Sequence[Split],
    values: Sequence[float] = INVERSE_PENALTIES,
    *,
    centred: bool = False,
) -> list[Scored]:
    """Every split with every inverse penalty; features float32 [R, D], finite. centred: features are divided by one
    number and not each by its own, so that those that hardly vary stay small, and the penalty keeps them out."""
    folds, grid = inner_folds(splits), tuple(sorted(values))
    results: dict[int, Scored] = {}
    for block in _blocks(features, examples, splits, folds, len(grid), centred):
        chosen = [splits[number] for number in block.splits]
        sets = np.concatenate([row_sets(examples, split, folds) for split in chosen])
        first = (folds + 1) * np.arange(len(chosen))[:, None]
        solutions = logistic.fit_path(
            jnp.asarray(block.inputs),
            jnp.asarray(examples.row_label),
            jnp.asarray(sets),
            jnp.asarray(np.repeat(block.scales, folds + 1, axis=0)),
            jnp.asarray(grid, jnp.float32),
            jnp.asarray(first + np.stack([predicted_by(split, folds) for split in chosen])),
            block.gram,
            classes=examples.classes,
        )
        reached = np.asarray(solutions.residual) <= logistic.TOLERANCE
        reached = reached.reshape(len(grid), len(chosen), folds + 1)
        for place, number in enumerate(block.splits):
            chances = softmax(np.asarray(solutions.logits[:, place]))
            results[number] = Scored(SETTING, grid, chances, bool(reached[:, place].all()))
    return [results[number] for number in range(len(splits))]


def _blocks(features, examples, splits, folds, penalties, centred) -> Iterator[_Block]:
    """Splits are solved together where their scales are alike, unless features are so wide that it is less work to
    turn each split by itself onto the axes that its training rows span."""
    count, width = features.shape
    training = [row_sets(examples, split, 0)[0] for split in splits]
    alone = list(range(len(splits)))
    if width <= 2 * count:
        union = np.stack(training).sum(0) > 0
        inputs = scaling.standardise(features, union, together=centred)
        scales = scaling.scales(inputs, training, together=centred)
        alike = (scales <= _MOST_RATIO).all(1)
        together = np.flatnonzero(alike).tolist()
        gram = scaling.gram(inputs, union)
        for part in _parts(together, count, width, examples.classes, folds, penalties):
            yield _Block(part, inputs, scales[part], gram)
        alone = np.flatnonzero(~alike).tolist()
    widest = min(count, width)  # splits of different rank share one compiled program
    for number in alone:
        inputs = scaling.standardise(features, training[number], together=centred)
        axes, squares = scaling.principal_axes(inputs[training[number]])
        more = widest - len(squares)
        inputs = np.pad((inputs @ axes).astype(np.float32), ((0, 0), (0, more)))
        squares = np.pad(squares, (0, more)).astype(np.float32)
        yield _Block([number], inputs, np.ones((1, widest), np.float32), logistic.Gram(squares, None, 0.0))


def _parts(splits, rows, width, classes, folds, penalties) -> list[list[int]]:
    """Equal parts of the splits whose logits and solver's memory fit."""
    sets = folds + 1
    each = 4 * classes * (rows * (6 * sets + penalties) + 24 * sets * (width + 1))
    parts = min(len(splits), -(-len(splits) * each // _MEMORY))
    return [part.tolist() for part in np.array_split(np.array(splits), parts)] if parts else []
