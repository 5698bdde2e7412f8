"""Predictions of a fine-tuned model beside the targets → scores, by what is predicted: classes, votes or values."""

from __future__ import annotations

from typing import Any

import numpy as np

from avemo_jax.evaluation import metrics
from avemo_jax.evaluation.intervals import bootstrap, bootstrap_scores
from input_pipeline.targets import Target

Row = dict[str, Any]
LOWER_IS_BETTER = frozenset({"mae", "mse", "rmse", "kl", "js"})
MAIN_SCORES = {  # the scores of each rule that have intervals, the first of them the one to name first
    "class": ("uar", "war", "wf1"),
    "plurality": ("uar", "war", "wf1"),
    "majority": ("uar", "war", "wf1"),
    "distribution": ("js", "kl", "uar", "war"),
    "multi_label": ("macro_f1", "micro_f1", "map", "auc"),
    "values": ("ccc", "pcc", "mae", "rmse"),
}


def main_scores(target: Target) -> tuple[str, ...]:
    """The scores that are shown, with intervals."""
    return MAIN_SCORES[target.kind]


def scores_of(target: Target, predicted: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """All scores of M clips, as fractions or in the unit of the values.

    Args:
      predicted: merged outputs float [M, K] (see `views.Viewer`).
      truth: targets, int [M] or float [M, K].

    Returns:
      classes: `uar`, `war`, `wf1`, `macro_f1`, `top2`, `top3`, `auc` (one class against the rest, their mean).
      distributions: mean `js` and `kl` in nats, and the scores of classes against the most voted one.
      several classes: see `metrics.multi_label_scores`.
      values: `ccc`, `pcc`, `mae`, `mse`, `rmse`, the mean over values, and `ccc_NAME` and so on of each.
    """
    if target.kind == "values":
        each = metrics.regression_scores(predicted, truth)
        scores = {name: float(np.mean(values)) for name, values in each.items()}
        for name, values in each.items():
            scores |= {
                f"{name}_{value}": float(number) for value, number in zip(target.names, values, strict=True)
            }
        return scores
    if target.kind == "multi_label":
        return metrics.multi_label_scores(predicted, truth)
    scores = {}
    classes = truth
    if target.kind == "distribution":
        scores = {
            "js": float(metrics.jensen_shannon(truth, predicted).mean()),
            "kl": float(metrics.kl_divergence(truth, predicted).mean()),
        }
        classes = truth.argmax(-1)
    count = len(target.names)
    scores |= metrics.classification_scores(metrics.confusion_matrix(classes, predicted.argmax(-1), count))
    scores |= {f"top{k}": metrics.top_k(predicted, classes, k) for k in (2, 3) if k < count}
    areas = metrics.auc(predicted, np.arange(count) == classes[:, None])
    if not np.isnan(areas).all():
        scores["auc"] = float(np.nanmean(areas))
    return scores


def judged(target: Target, predicted: np.ndarray, truth: np.ndarray, speakers: np.ndarray) -> Row:
    """`scores_of`, with 95 % intervals of the main ones from resampling speakers: JSON values.

    Further keys: `n`, `speakers`; `ci95` of the first main score and `NAME_ci95` of the others; `ci_unit`, `ci_groups`;
    `outputs`, the names of what is predicted; of classes `chance`, `classes` and `confusion` (rows are the truth).
    """
    scores = scores_of(target, predicted, truth)
    row: Row = {
        "n": len(truth),
        "speakers": len(np.unique(speakers)),
        "outputs": list(target.names),
        **scores,
    }
    main = main_scores(target)
    if target.is_class:
        guesses, count = predicted.argmax(-1), len(target.names)
        intervals = bootstrap(truth, guesses, speakers, count)
        row |= {
            "chance": 1 / count,
            "classes": list(target.names),
            "confusion": metrics.confusion_matrix(truth, guesses, count).tolist(),
        }
    else:
        intervals = bootstrap_scores(
            lambda rows: {n: scores_of(target, predicted[rows], truth[rows])[n] for n in main}, speakers
        )
    for place, name in enumerate(main):
        row["ci95" if place == 0 else f"{name}_ci95"] = list(intervals.bounds[name])
    return row | {"ci_unit": intervals.unit, "ci_groups": intervals.groups}
