"""A probe: what a small head reads from frozen features, split by split.

The head's one setting (the strength of a penalty, a number of neighbours) is chosen by the inner folds of the
training part, and the test clips are predicted by the fit on all of it. The choice goes by cross-entropy (the
UAR of a few hundred clips jumps too much to choose by), and test clips never take part in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from avemo_jax.evaluation import metrics
from avemo_jax.evaluation.heads import HEADS
from avemo_jax.evaluation.heads.examples import Examples, Scored
from avemo_jax.evaluation.protocols import Split

_LEAST_CHANCE = 1e-6  # a class that an inner training part lacks must not decide alone


@dataclass(frozen=True)
class SplitPrediction:
    """The test clips' class probabilities float32 [len(test), K], the chosen setting (its name and value) and the
    UAR and cross-entropy (nats) it had on the inner folds. `converged`: every fit of the grid did;
    None where there is nothing to reach. shares: see `Scored`, [G, T]."""

    probabilities: np.ndarray
    setting: str
    value: float
    inner_uar: float
    inner_cross_entropy: float
    converged: bool | None
    shares: np.ndarray | None = None


def probe(
    features: np.ndarray, examples: Examples, splits: Sequence[Split], head: str = "linear"
) -> list[SplitPrediction]:
    """One probe a split. features float32 [R, D] (finite; [R, T, C] for heads that take tokens)."""
    scored = HEADS[head].fit(features, examples, splits)
    return [choose(one, examples, split) for one, split in zip(scored, splits, strict=True)]


def choose(scored: Scored, examples: Examples, split: Split, on_test: bool = False) -> SplitPrediction:
    """The setting with the least cross-entropy on the inner folds; `on_test`, which the field has often done and which
    is too good to be true, the one with the highest accuracy on the test clips."""
    rows = split.train
    labels = examples.label[rows]
    held_out = scored.chances[:, rows]
    surprise = -np.log(np.maximum(held_out[:, np.arange(len(rows)), labels], _LEAST_CHANCE)).mean(-1)
    right = (scored.chances[:, split.test].argmax(-1) == examples.label[split.test]).mean(-1)
    chosen = int(np.argmax(right) if on_test else np.argmin(surprise))
    confusion = metrics.confusion_matrix(labels, held_out[chosen].argmax(-1), examples.classes)
    return SplitPrediction(
        scored.chances[chosen, split.test],
        scored.setting,
        scored.values[chosen],
        float(metrics.uar(confusion)),
        float(surprise[chosen]),
        scored.converged,
        None if scored.shares is None else scored.shares[chosen],
    )
