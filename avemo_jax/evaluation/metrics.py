"""Scores of predictions: recalls, F1 and confusion for classes; error and agreement for regression.

Pure NumPy functions of arrays, in float64. Nothing here knows where predictions come from, and nothing
samples: intervals are in `intervals.py`. All scores are fractions in [0, 1], not per cent.
"""

from __future__ import annotations

import numpy as np


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Counts [classes, classes]: rows are true classes, columns predicted ones. Both inputs int [N]."""
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (np.asarray(labels), np.asarray(predicted)), 1)
    return counts


def uar(confusion: np.ndarray, absent: str = "skip") -> np.ndarray:
    """Unweighted average recall, the mean of per-class recalls; confusion [..., K, K] gives [...].

    A class without a single clip has no recall. `absent="skip"` leaves it out of the mean (NaN only when
    no class has a clip). `absent="nan"` does what HiCMAE's evaluation does: the mean runs over classes that
    are either true or predicted somewhere, and a class that is predicted but never true makes it NaN.
    """
    truth = confusion.sum(-1).astype(np.float64)
    counted = truth > 0
    if absent == "nan":
        counted |= confusion.sum(-2) > 0
    elif absent != "skip":
        raise ValueError(f"absent is 'skip' or 'nan', not {absent!r}")
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        recalls = hits / truth
        return np.where(counted, recalls, 0.0).sum(-1) / counted.sum(-1)


def war(confusion: np.ndarray) -> np.ndarray:
    """Weighted average recall: plain accuracy, pooled over clips; confusion [..., K, K] gives [...]."""
    with np.errstate(invalid="ignore"):
        return np.trace(confusion, axis1=-2, axis2=-1) / confusion.sum((-2, -1))


def f1_per_class(confusion: np.ndarray) -> np.ndarray:
    """F1 of each class [..., K]; 0 for a class that is never hit, as in scikit-learn."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    total = confusion.sum(-1) + confusion.sum(-2)
    return np.divide(2.0 * hits, total, out=np.zeros(hits.shape), where=total > 0)


def weighted_f1(confusion: np.ndarray) -> np.ndarray:
    """Per-class F1 averaged by each class's number of clips; confusion [..., K, K] gives [...]."""
    truth = confusion.sum(-1)
    with np.errstate(invalid="ignore"):
        return (f1_per_class(confusion) * truth).sum(-1) / truth.sum(-1)


def macro_f1(confusion: np.ndarray) -> np.ndarray:
    """Plain mean of F1 over the classes that are true or predicted somewhere; [..., K, K] gives [...]."""
    seen = (confusion.sum(-1) + confusion.sum(-2)) > 0
    with np.errstate(invalid="ignore"):
        return f1_per_class(confusion).sum(-1) / seen.sum(-1)


def classification_scores(confusion: np.ndarray) -> dict[str, float]:
    """`uar`, `war`, `wf1` and `macro_f1` of one confusion matrix [K, K]."""
    return {
        "uar": float(uar(confusion)),
        "war": float(war(confusion)),
        "wf1": float(weighted_f1(confusion)),
        "macro_f1": float(macro_f1(confusion)),
    }


def regression_scores(predicted: np.ndarray, target: np.ndarray) -> dict[str, np.ndarray]:
    """`mae`, `mse`, `rmse`, `pcc` and `ccc` [D] of predictions and targets [N, D], each dimension by itself.

    Variances and covariance are unbiased (divided by N - 1), as HiCMAE's metric has them; its CCC *loss*
    divides by N. One clip alone has PCC 1 by that metric's definition, and no CCC (NaN).
    """
    predicted, target = np.asarray(predicted, np.float64), np.asarray(target, np.float64)
    error = predicted - target
    scores = {"mae": np.abs(error).mean(0), "mse": np.square(error).mean(0)}
    scores["rmse"] = np.sqrt(scores["mse"])
    if len(predicted) < 2:
        return scores | {"pcc": np.ones(error.shape[1]), "ccc": np.full(error.shape[1], np.nan)}
    shift = predicted.mean(0) - target.mean(0)
    centred_p, centred_t = predicted - predicted.mean(0), target - target.mean(0)
    n = len(predicted) - 1
    covariance = (centred_p * centred_t).sum(0) / n
    variance_p, variance_t = np.square(centred_p).sum(0) / n, np.square(centred_t).sum(0) / n
    with np.errstate(invalid="ignore", divide="ignore"):
        scores["pcc"] = covariance / np.sqrt(variance_p * variance_t)
        scores["ccc"] = 2 * covariance / (variance_p + variance_t + np.square(shift))
    return scores
