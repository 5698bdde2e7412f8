"""A probe: what a small head reads from frozen features, split by split.

The head's one setting (the strength of a penalty, a number of neighbours) is chosen by the inner folds of the
training part, and the test clips are predicted by the fit on all of it. The choice goes by cross-entropy (the
UAR of a few hundred clips jumps too much to choose by), of numbers by the CCC; test clips never take part in it.
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
    """The test clips' class probabilities, or numbers, float32 [len(test), K], and the chosen setting (its name and
    value). `inner`: what it had on the inner folds, `uar` and `cross_entropy` (nats), of numbers `ccc`, the mean over
    them. `converged`: every fit of the grid did; None where there is nothing to reach. shares: see `Scored`, [G, T]."""

    predicted: np.ndarray
    setting: str
    value: float
    inner: dict[str, float]
    converged: bool | None
    shares: np.ndarray | None = None


def probe(
    features: np.ndarray, examples: Examples, splits: Sequence[Split], head: str = "linear"
) -> list[SplitPrediction]:
    """One probe a split. features float32 [R, D] (finite; [R, T, C] for heads that take tokens)."""
    scored = HEADS[head].fit(features, examples, splits)
    return [choose(one, examples, split) for one, split in zip(scored, splits, strict=True)]


def choose(scored: Scored, examples: Examples, split: Split, on_test: bool = False) -> SplitPrediction:
    """The setting with the least cross-entropy on the inner folds, of numbers with the highest CCC; `on_test`, which
    the field has often done and which is too good to be true, the one with the highest accuracy, or CCC, on the test
    clips."""
    held_out, labels = scored.predicted[:, split.train], examples.label[split.train]
    tested, truth = scored.predicted[:, split.test], examples.label[split.test]
    if examples.are_numbers:
        agreement = _ccc(held_out, labels)
        chosen = int(np.argmax(_ccc(tested, truth) if on_test else agreement))
        inner = {"ccc": float(agreement[chosen])}
    else:
        surprise = -np.log(np.maximum(held_out[:, np.arange(len(labels)), labels], _LEAST_CHANCE)).mean(-1)
        right = (tested.argmax(-1) == truth).mean(-1)
        chosen = int(np.argmax(right) if on_test else np.argmin(surprise))
        confusion = metrics.confusion_matrix(labels, held_out[chosen].argmax(-1), examples.classes)
        inner = {"uar": float(metrics.uar(confusion)), "cross_entropy": float(surprise[chosen])}
    return SplitPrediction(
        tested[chosen],
        scored.setting,
        scored.values[chosen],
        inner,
        scored.converged,
        None if scored.shares is None else scored.shares[chosen],
    )


def _ccc(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The mean CCC of the numbers under each setting [settings]; 0, as of a constant, where there is none."""
    found = [metrics.regression_scores(one, truth)["ccc"] for one in predicted]
    return np.nan_to_num(found).mean(-1)
