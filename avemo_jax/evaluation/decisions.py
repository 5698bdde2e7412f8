"""From a fine-tuned model's outputs to what its user is told: a temperature, and of several classes a clip a threshold
for each. Both are fitted on development clips: those that are tested on have no say.

`convert/huggingface/files/deciding.py` applies them where there is no JAX. Not here: how well probabilities can be
believed (calibration).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from avemo_jax.evaluation import calibration, metrics
from avemo_jax.evaluation.intervals import bootstrap_scores
from input_pipeline.targets import Target

Row = dict[str, Any]
_DIGITS = 6  # of what is written down: more would only be the noise of sums


def fit(target: Target, predicted: np.ndarray, truth: np.ndarray) -> Row | None:
    """A temperature, and thresholds for `multi_label`; None for values, which are told as they are.

    The temperature has the least cross-entropy with targets that are short of certainty by one clip's worth, as Platt
    (1999) does it, so that few clips that were all right do not make the model certain. Each class's threshold has the
    highest F1 on these clips, of equal ones the nearest to one half (Lipton et al. 2014).

    Args:
      predicted: merged outputs float [M, K], see `views.Viewer`.
      truth: int [M] or float [M, K].

    Returns:
      `temperature`; `thresholds`, of tempered probabilities, one a class, or None; `unseen`, the classes that no clip
      has, whose threshold is one half; `clips`.
    """
    count = len(target.names)
    if target.kind == "values" or not len(truth):
        return None
    if target.kind == "multi_label":
        shares = np.stack([truth, 1 - truth], -1).reshape(-1, 2)
        chances = np.stack([predicted, 1 - predicted], -1).reshape(-1, 2)
    else:
        shares = np.eye(count)[truth] if target.is_class else truth
        chances = predicted
    doubtful = (len(truth) * shares + 1 / shares.shape[1]) / (len(truth) + 1)
    temperature = round(calibration.fit_temperature(chances, doubtful), _DIGITS)
    row: Row = {"temperature": temperature, "thresholds": None, "unseen": [], "clips": len(truth)}
    if target.kind == "multi_label":
        tempered = applied(row, target, predicted)
        present = truth > 0.5
        row["thresholds"] = [
            round(_threshold(scores, has), _DIGITS) for scores, has in zip(tempered.T, present.T, strict=True)
        ]
        row["unseen"] = [name for name, has in zip(target.names, present.T, strict=True) if not has.any()]
    return row


def applied(decision: Row, target: Target, predicted: np.ndarray) -> np.ndarray:
    """Merged probabilities float [M, K] after the temperature."""
    if target.kind == "multi_label":
        pairs = np.stack([predicted, 1 - predicted], -1).reshape(-1, 2)
        return calibration.tempered(pairs, decision["temperature"])[:, 0].reshape(predicted.shape)
    return calibration.tempered(predicted, decision["temperature"])


def judged(
    decision: Row, target: Target, predicted: np.ndarray, truth: np.ndarray, speakers: np.ndarray
) -> Row:
    """What the decision makes of test clips: each score of the outputs as they are (`before`) and as told (`after`).

    Keys: of classes `ece`, `brier` and `cross_entropy`; of distributions `kl` and `js`; of several classes a clip
    `macro_f1`, `micro_f1` and `exact`, at one half and at the thresholds. `after` has `NAME_ci95` of the first.
    """

    def scores(values, rows):
        if target.is_class:
            known = calibration.scores(values[rows], truth[rows])
            return {name: known[name] for name in ("ece", "brier", "cross_entropy")}
        if target.kind == "distribution":
            return {
                "kl": float(metrics.kl_divergence(truth[rows], values[rows]).mean()),
                "js": float(metrics.jensen_shannon(truth[rows], values[rows]).mean()),
            }
        known = metrics.multi_label_scores(values[rows], truth[rows])
        return {name: known[name] for name in ("macro_f1", "micro_f1", "exact")}

    told = applied(decision, target, predicted)
    if decision["thresholds"]:
        told = (told >= np.array(decision["thresholds"])).astype(np.float64)
    every = np.arange(len(truth))
    after = scores(told, every)
    first = next(iter(after))
    intervals = bootstrap_scores(lambda rows: {first: scores(told, rows)[first]}, speakers)
    return {
        "before": scores(predicted, every),
        "after": after | {f"{first}_ci95": list(intervals.bounds[first])},
        "ci_unit": intervals.unit,
    }


def _threshold(scores: np.ndarray, present: np.ndarray) -> float:
    """See `fit`; in the middle between two neighbouring scores, or below the lowest."""
    if not present.any():
        return 0.5
    distinct = np.unique(scores)
    edges = (distinct + np.concatenate([[0.0], distinct[:-1]])) / 2
    chosen = scores[None] >= edges[:, None]
    hits = (chosen & present).sum(1)
    f1 = 2 * hits / (chosen.sum(1) + present.sum())
    best = edges[f1 >= f1.max() - 1e-12]
    return float(best[np.abs(best - 0.5).argmin()])
