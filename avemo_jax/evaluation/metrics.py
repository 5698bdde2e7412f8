"""Scores of predictions: recalls, F1 and confusion for classes; ranking; distances of distributions; several classes a
clip; error and agreement for regression.

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
    hits, truth, guessed = counts(confusion)
    if absent not in ("skip", "nan"):
        raise ValueError(f"absent is 'skip' or 'nan', not {absent!r}")
    return uar_of(hits, truth, guessed if absent == "nan" else 0)


def counts(confusion: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(hits, truth, guessed) of each class [..., K] of confusion [..., K, K], all that UAR, WAR and F1 follow from."""
    return np.diagonal(confusion, axis1=-2, axis2=-1), confusion.sum(-1), confusion.sum(-2)


def uar_of(hits: np.ndarray, truth: np.ndarray, guessed: np.ndarray | int = 0) -> np.ndarray:
    """The mean recall of `counts` over classes that are true, or among those `guessed`."""
    counted = (truth > 0) | (np.asarray(guessed) > 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        recalls = hits / np.asarray(truth, np.float64)
        return np.where(counted, recalls, 0.0).sum(-1) / counted.sum(-1)


def war(confusion: np.ndarray) -> np.ndarray:
    """Weighted average recall: plain accuracy, pooled over clips; confusion [..., K, K] gives [...]."""
    return war_of(*counts(confusion)[:2])


def war_of(hits: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The same of `counts`."""
    with np.errstate(invalid="ignore"):
        return hits.sum(-1) / truth.sum(-1)


def f1_per_class(confusion: np.ndarray) -> np.ndarray:
    """F1 of each class [..., K]; 0 for a class that is never hit, as in scikit-learn."""
    hits, truth, guessed = counts(confusion)
    return f1_of(hits, truth + guessed)


def f1_of(hits: np.ndarray, total: np.ndarray) -> np.ndarray:
    """F1 by hits and `total`, clips that are of the class and clips that were guessed to be; 0 where there is none."""
    return np.divide(2.0 * hits, total, out=np.zeros(np.shape(hits)), where=total > 0)


def weighted_f1(confusion: np.ndarray) -> np.ndarray:
    """Per-class F1 averaged by each class's number of clips; confusion [..., K, K] gives [...]."""
    return weighted_f1_of(*counts(confusion))


def weighted_f1_of(hits: np.ndarray, truth: np.ndarray, guessed: np.ndarray) -> np.ndarray:
    """The same of `counts`."""
    with np.errstate(invalid="ignore"):
        return (f1_of(hits, truth + guessed) * truth).sum(-1) / truth.sum(-1)


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


def top_k(probabilities: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Share of clips whose class is among the k with the highest of `probabilities` [N, K]; labels int [N].

    Of classes that are equally likely the first ones count as higher.
    """
    order = np.argsort(-np.asarray(probabilities), axis=-1, kind="stable")[:, :k]
    return float((order == np.asarray(labels)[:, None]).any(-1).mean())


def average_precision(scores: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Area under precision over recall of each class [K]: Σ (R_n − R_{n−1}) P_n over distinct scores.

    scores [N, K], present bool [N, K]; NaN for a class that no clip has.
    """
    return _over_classes(scores, present, _average_precision)


def auc(scores: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Area under the ROC curve of each class [K]: how often a clip that has it scores above one that has not, ties
    counting half (Mann–Whitney's U). NaN for a class that all clips have, or none.

    scores [N, K], present bool [N, K].
    """
    return _over_classes(scores, present, _auc)


def multi_label_scores(probabilities: np.ndarray, present: np.ndarray) -> dict[str, float]:
    """`macro_f1`, `micro_f1`, `weighted_f1`, `map`, `auc` and `exact` (all classes of a clip right), for several
    classes a clip.

    probabilities [N, K], a class is predicted from one half on; present [N, K] true or 1 where a clip has it. Classes
    without clips have F1 0, as in scikit-learn, and are left out of `map` and `auc`.
    """
    present = np.asarray(present) > 0.5
    predicted = np.asarray(probabilities) >= 0.5
    hits, truth, guessed = ((x.sum(0).astype(np.float64)) for x in (predicted & present, present, predicted))
    total = truth + guessed
    f1 = f1_of(hits, total)
    return {
        "macro_f1": float(f1.mean()),
        "micro_f1": float(2 * hits.sum() / total.sum()) if total.sum() else 0.0,
        "weighted_f1": float((f1 * truth).sum() / truth.sum()) if truth.sum() else 0.0,
        "map": _mean_of_known(average_precision(probabilities, present)),
        "auc": _mean_of_known(auc(probabilities, present)),
        "exact": float((predicted == present).all(-1).mean()),
    }


def kl_divergence(target: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """KL(target ‖ predicted) of each clip [N], in nats, of distributions [N, K]; infinite where something that there is
    was given no chance at all."""
    target, predicted = np.asarray(target, np.float64), np.asarray(predicted, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(target > 0, target * (np.log(target) - np.log(predicted)), 0.0)
    return terms.sum(-1)


def jensen_shannon(target: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Jensen–Shannon divergence of each clip [N], in nats (0 … log 2), of distributions [N, K]."""
    target, predicted = np.asarray(target, np.float64), np.asarray(predicted, np.float64)
    middle = (target + predicted) / 2
    return (kl_divergence(target, middle) + kl_divergence(predicted, middle)) / 2


def regression_scores(predicted: np.ndarray, target: np.ndarray) -> dict[str, np.ndarray]:
    """`mae`, `mse`, `rmse`, `pcc` and `ccc` [D] of predictions and targets [N, D], each dimension by itself.

    Variances and covariance are unbiased (divided by N - 1), as HiCMAE's metric has them; its CCC *loss*
    divides by N. One clip alone has PCC 1 by that metric's definition, and no CCC (NaN). A constant has no PCC, and two
    equal ones no CCC.
    """
    predicted, target = np.asarray(predicted, np.float64), np.asarray(target, np.float64)
    error = predicted - target
    scores = {"mae": np.abs(error).mean(0), "mse": np.square(error).mean(0)}
    scores["rmse"] = np.sqrt(scores["mse"])
    if len(predicted) < 2:
        return scores | {"pcc": np.ones(error.shape[1]), "ccc": np.full(error.shape[1], np.nan)}
    shift = predicted.mean(0) - target.mean(0)
    # The mean of equal numbers may differ from them in the last digit, which is not to count as a variance.
    centred_p, centred_t = (np.where(np.ptp(x, 0) > 0, x - x.mean(0), 0.0) for x in (predicted, target))
    n = len(predicted) - 1
    covariance = (centred_p * centred_t).sum(0) / n
    variance_p, variance_t = np.square(centred_p).sum(0) / n, np.square(centred_t).sum(0) / n
    with np.errstate(invalid="ignore", divide="ignore"):
        scores["pcc"] = covariance / np.sqrt(variance_p * variance_t)
        scores["ccc"] = 2 * covariance / (variance_p + variance_t + np.square(shift))
    return scores


def _over_classes(scores, present, one) -> np.ndarray:
    scores, present = np.asarray(scores, np.float64), np.asarray(present) > 0.5
    return np.array([one(scores[:, k], present[:, k]) for k in range(scores.shape[1])])


def _average_precision(scores: np.ndarray, present: np.ndarray) -> float:
    if not present.any():
        return np.nan
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # of each run of equal scores
    hits = np.cumsum(present[order])[last]
    precision, recall = hits / (last + 1), hits / present.sum()
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def _auc(scores: np.ndarray, present: np.ndarray) -> float:
    positive, negative = int(present.sum()), int((~present).sum())
    if not positive or not negative:
        return np.nan
    _, place, count = np.unique(scores, return_inverse=True, return_counts=True)
    rank = np.cumsum(count) - (count - 1) / 2  # mean rank of equal scores, from 1 on
    return float((rank[place][present].sum() - positive * (positive + 1) / 2) / (positive * negative))


def _mean_of_known(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
