"""Predictions of a fine-tuned model beside the targets → scores, by what is predicted: classes, votes or values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from avemo_jax.evaluation import metrics
from avemo_jax.evaluation.intervals import bootstrap, bootstrap_scores, count_speakers
from avemo_jax.evaluation.scores import Score, check_names
from input_pipeline.targets import Target

Row = dict[str, Any]
_ERRORS = ("mae", "mse", "rmse")  # of all values together, and `mae_NAME` and so on of each
_OF_DISTRIBUTIONS = ("js", "kl", "uar", "war")
MAIN_SCORES = {  # the scores of each rule that have intervals, the first of them the one to name first
    "class": ("uar", "war", "wf1"),
    "plurality": ("uar", "war", "wf1"),
    "majority": ("uar", "war", "wf1"),
    "distribution": _OF_DISTRIBUTIONS,
    "multi_label": ("macro_f1", "micro_f1", "map", "auc"),
    "values": ("ccc", "pcc", "mae", "rmse"),
    **dict.fromkeys(("raters", "affect"), _OF_DISTRIBUTIONS),
}


def main_scores(target: Target) -> tuple[str, ...]:
    """The scores that are shown, with intervals."""
    return MAIN_SCORES[target.kind]


def lower_is_better(score: str) -> bool:
    """Whether a score is an error or a divergence."""
    return score in (*_ERRORS, "kl", "js") or score.startswith(tuple(f"{error}_" for error in _ERRORS))


def merit(target: Target, scores: Mapping[str, float]) -> float:
    """The first main score, so that those of different targets can be averaged: 1 at best and higher when better.

    Of distributions it is 1 − JS / log 2, from 0 on; all others stay as they are, from 0 on or, of CCC, from −1.
    """
    value = scores[main_scores(target)[0]]
    return 1 - value / float(np.log(2)) if target.kind == "distribution" else value


def scores_of(
    target: Target, predicted: np.ndarray, truth: np.ndarray, further: Mapping[str, Score] | None = None
) -> dict[str, float]:
    """All scores of M clips, as fractions or in the unit of the values; the `further` ones by their names.

    Args:
      predicted: merged outputs float [M, K] (see `views.Viewer`).
      truth: targets, int [M] or float [M, K].

    Returns:
      classes: `uar`, `war`, `wf1`, `macro_f1`, `top2`, `top3`; `auc` and `map`, one class against the rest, their mean.
      distributions: mean `js` and `kl` in nats, and the scores of classes against the most voted one.
      several classes: see `metrics.multi_label_scores`.
      values: `ccc`, `pcc`, `mae`, `mse`, `rmse`, the mean over values, and `ccc_NAME` and so on of each.
    """
    known = _usual_scores(target, predicted, truth)
    further = further or {}
    check_names(further, known)
    return known | {name: score(predicted, truth) for name, score in further.items()}


def score_names(target: Target, truth: np.ndarray, further: Mapping[str, Score] | None = None) -> list[str]:
    """Of `scores_of`, those that are numbers where these are the targets of the clips (an `auc` needs clips that are of
    the class and others), int [M] or float [M, K], and predictions differ; and all of `further`."""
    rng, shape = np.random.default_rng(0), (len(truth), len(target.names))
    independent = target.kind in ("multi_label", "values")
    guesses = rng.random(shape) if independent else rng.dirichlet(np.ones(shape[1]), shape[0])
    found = scores_of(target, guesses, truth, further)
    return [name for name, value in found.items() if np.isfinite(value) or name in (further or {})]


def _usual_scores(target: Target, predicted: np.ndarray, truth: np.ndarray) -> dict[str, float]:
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
    present = np.arange(count) == classes[:, None]
    for name, of_class in (("auc", metrics.auc), ("map", metrics.average_precision)):
        areas = of_class(predicted, present)
        if not np.isnan(areas).all():
            scores[name] = float(np.nanmean(areas))
    return scores


def recalls(target: Target, predicted: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Each class's recall, NaN of one that no clip has; nothing for values.

    Of distributions the likeliest class beside the most voted one; of several classes a clip how often one that is
    there is given at least one half.
    """
    if target.kind == "values":
        return {}
    if target.kind == "multi_label":
        present = np.asarray(truth) > 0.5
        hits, clips = ((np.asarray(predicted) >= 0.5) & present).sum(0), present.sum(0)
    else:
        classes = truth if target.is_class else truth.argmax(-1)
        counts = metrics.confusion_matrix(classes, predicted.argmax(-1), len(target.names))
        hits, clips = np.diagonal(counts), counts.sum(-1)
    with np.errstate(invalid="ignore"):
        return dict(zip(target.names, (hits / clips).tolist(), strict=True))


def judged(
    target: Target,
    predicted: np.ndarray,
    truth: np.ndarray,
    speakers: np.ndarray,
    further: Mapping[str, Score] | None = None,
) -> Row:
    """`scores_of`, with 95 % intervals of the main ones from resampling speakers: JSON values.

    Further keys: `n`, `speakers`; `ci95` of the first main score and `NAME_ci95` of the others; `ci_unit`, `ci_groups`;
    `outputs`, the names of what is predicted; of classes `chance`, `classes` and `confusion` (rows are the truth);
    `further`, the names of further scores, which have intervals too.
    """
    further = further or {}
    scores = scores_of(target, predicted, truth, further)
    row: Row = {
        "n": len(truth),
        "speakers": count_speakers(speakers),
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
    row |= further_intervals(further, predicted, truth, speakers)
    return row | {"ci_unit": intervals.unit, "ci_groups": intervals.groups}


def further_intervals(
    further: Mapping[str, Score], predicted: np.ndarray, truth: np.ndarray, speakers: np.ndarray
) -> Row:
    """`further`, their names, and the interval of each, `NAME_ci95`; nothing where there are none."""
    if not further:
        return {}
    bounds = bootstrap_scores(
        lambda rows: {name: score(predicted[rows], truth[rows]) for name, score in further.items()}, speakers
    ).bounds
    return {"further": list(further), **{f"{name}_ci95": list(bounds[name]) for name in further}}


def over_folds(score: str, folds: Sequence[Row]) -> Row:
    """`fold_NAME_mean` and `fold_NAME_std` (n − 1) over the folds that have this score, as one clip alone has no CCC;
    no mean (None) where no fold has it, no deviation where fewer than two have."""
    values = [fold[score] for fold in folds if np.isfinite(fold[score])]
    mean = float(np.mean(values)) if values else None
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {f"fold_{score}_mean": mean, f"fold_{score}_std": spread}
