"""A feature matrix and its splits → one row of results, in the form that `avemo probe --json` writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from avemo_jax.evaluation import metrics
from avemo_jax.evaluation.extraction import Source
from avemo_jax.evaluation.heads.examples import centre_views
from avemo_jax.evaluation.intervals import bootstrap
from avemo_jax.evaluation.probes import SplitPrediction, probe
from avemo_jax.evaluation.protocols import LabelledClips, Splits


@dataclass(frozen=True)
class Judged:
    """One source's result: the row (JSON values), and for each tested clip its row number, split name and
    class probabilities [M, K]."""

    row: dict[str, Any]
    tested: np.ndarray
    split: np.ndarray
    probabilities: np.ndarray


def judge(source: Source, features: np.ndarray, clips: LabelledClips, splits: Splits) -> Judged:
    """Probe features float32 [N, D] of `clips` on every split and score the pooled test predictions.

    Row keys: `feature`, `weights`, `seed`, `loudness` (see `extraction.Source`), `head`, `split` (protocol),
    `split_hash`, `n` tested clips; `uar`, `war`, `wf1`, `macro_f1` over all test predictions pooled; `ci95`
    of the UAR, `war_ci95`, `wf1_ci95`, and `ci_unit`, what the bootstrap drew; `fold_uar_mean`,
    `fold_uar_std` (n - 1; null for one split) and the like for WAR; `confusion`, rows = truth; `folds`, one
    entry a split.
    Scores are fractions.
    """
    classes = len(clips.classes)
    results = probe(features, centre_views(clips.label, classes), splits.splits)
    tested = np.concatenate([split.test for split in splits.splits])
    predicted = np.concatenate([result.probabilities.argmax(-1) for result in results])
    labels, speakers = clips.label[tested], clips.speaker[tested]
    confusion = metrics.confusion_matrix(labels, predicted, classes)
    intervals = bootstrap(labels, predicted, speakers, classes)
    folds = [_fold(split, result, clips) for split, result in zip(splits.splits, results, strict=True)]
    row = {
        **source._asdict(),
        "head": "linear",
        "split": splits.protocol,
        "split_hash": splits.split_hash,
        "speaker_disjoint": splits.speaker_disjoint,
        "n": len(tested),
        "speakers": len(np.unique(speakers)),
        "dim": features.shape[1],
        "classes": list(clips.classes),
        "chance": 1 / classes,
        **metrics.classification_scores(confusion),
        "ci95": list(intervals.bounds["uar"]),
        "war_ci95": list(intervals.bounds["war"]),
        "wf1_ci95": list(intervals.bounds["wf1"]),
        "ci_unit": intervals.unit,
        "ci_groups": intervals.groups,
        **_over_folds("uar", folds),
        **_over_folds("war", folds),
        "inner_unit": splits.splits[0].inner_unit,
        "converged": all(result.converged for result in results),
        "confusion": confusion.tolist(),
        "folds": folds,
    }
    name = np.concatenate([np.full(len(split.test), split.name) for split in splits.splits])
    return Judged(row, tested, name, np.concatenate([result.probabilities for result in results]))


def _fold(split: Any, result: SplitPrediction, clips: LabelledClips) -> dict[str, Any]:
    predicted = result.probabilities.argmax(-1)
    confusion = metrics.confusion_matrix(clips.label[split.test], predicted, len(clips.classes))
    return {
        "name": split.name,
        "n_train": len(split.train),
        "n": len(split.test),
        "uar": float(metrics.uar(confusion)),
        "war": float(metrics.war(confusion)),
        result.setting: result.value,
        "inner_uar": result.inner_uar,
        "inner_cross_entropy": result.inner_cross_entropy,
        "converged": result.converged,
    }


def _over_folds(score: str, folds: list[dict[str, Any]]) -> dict[str, float | None]:
    values = [fold[score] for fold in folds]
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {f"fold_{score}_mean": float(np.mean(values)), f"fold_{score}_std": spread}
