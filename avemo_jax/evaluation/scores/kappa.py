"""Cohen's kappa (1960): agreement beyond what the numbers of clips of each class would give by chance."""

from __future__ import annotations

import numpy as np

from avemo_jax.evaluation.metrics import confusion_matrix


def score(predicted: np.ndarray, truth: np.ndarray) -> float:
    """κ of the likeliest classes; of distributions [M, K] against the most voted one. NaN where truth and prediction
    are one and the same class throughout."""
    classes = truth if truth.ndim == 1 else truth.argmax(-1)
    counts = confusion_matrix(classes, predicted.argmax(-1), predicted.shape[1]) / len(classes)
    chance = counts.sum(0) @ counts.sum(1)
    return float((np.trace(counts) - chance) / (1 - chance)) if chance < 1 else float("nan")
