"""A feature matrix and its splits → one row of results, in the form that `avemo probe --json` writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from avemo_jax.evaluation import features as named
from avemo_jax.evaluation import metrics
from avemo_jax.evaluation.extraction import Source
from avemo_jax.evaluation.heads import HEADS
from avemo_jax.evaluation.heads.examples import Examples, centre_views
from avemo_jax.evaluation.intervals import bootstrap
from avemo_jax.evaluation.outcome_files import plain
from avemo_jax.evaluation.outcomes import further_intervals
from avemo_jax.evaluation.probes import SplitPrediction, choose
from avemo_jax.evaluation.protocols import LabelledClips, Splits
from avemo_jax.evaluation.scores import Score, check_names


@dataclass(frozen=True)
class Judged:
    """One source's result: the row (JSON values), and for each tested clip its row number, split name and
    class probabilities [M, K]."""

    row: dict[str, Any]
    tested: np.ndarray
    split: np.ndarray
    probabilities: np.ndarray


def judge(
    source: Source,
    features: np.ndarray,
    clips: LabelledClips,
    splits: Splits,
    head: str = "linear",
    examples: Examples | None = None,
    *,
    legacy: bool = False,
    further: Mapping[str, Score] | None = None,
) -> list[Judged]:
    """Probe features [R, …] of `clips` on every split and score the pooled test predictions: one result, and with
    `legacy` a second one whose setting was chosen in each split by its accuracy on the test clips.

    Row keys: `feature`, `weights`, `seed`, `loudness`, `missing` (see `extraction.Source`), `modality`, `head`,
    `split` (protocol), `split_hash`, `n` tested clips; `selection`, `inner_folds` or `test (legacy)`; `uar`, `war`,
    `wf1`, `macro_f1` over all test predictions pooled; `ci95` of the UAR, `war_ci95`, `wf1_ci95`, and `ci_unit`,
    what the bootstrap drew; `fold_uar_mean`, `fold_uar_std` (n - 1; null for one split) and the like for WAR and
    for `dev_uar`, the UAR on the inner folds; `confusion`, rows = truth; `folds`, one entry a split; `layer_shares` of
    a head that mixes layers (else null), the mean over splits for each stream and layer; with `further` scores
    `further`, their names, and `NAME` and `NAME_ci95` of each, over all test predictions, None where not defined.
    Scores are fractions.
    """
    examples = examples or centre_views(clips.label, len(clips.classes))
    scored = HEADS[head].fit(features, examples, splits.splits)
    judged = []
    for on_test in (False, True) if legacy else (False,):
        results = [
            choose(one, examples, split, on_test) for one, split in zip(scored, splits.splits, strict=True)
        ]
        judged.append(_judged(source, features, clips, splits, head, results, further or {}))
        judged[-1].row["selection"] = "test (legacy)" if on_test else "inner_folds"
    return judged


def _judged(source, features, clips, splits, head, results, further) -> Judged:
    classes = len(clips.classes)
    tested = np.concatenate([split.test for split in splits.splits])
    probabilities = np.concatenate([result.probabilities for result in results])
    predicted = probabilities.argmax(-1)
    labels, speakers = clips.label[tested], clips.speaker[tested]
    confusion = metrics.confusion_matrix(labels, predicted, classes)
    intervals = bootstrap(labels, predicted, speakers, classes)
    folds = [_fold(split, result, clips) for split, result in zip(splits.splits, results, strict=True)]
    row = {
        **source._asdict(),
        "modality": named.modality(source.feature),
        "head": head,
        "split": splits.protocol,
        "split_hash": splits.split_hash,
        "speaker_disjoint": splits.speaker_disjoint,
        "n": len(tested),
        "speakers": len(np.unique(speakers)),
        "dim": int(np.prod(features.shape[1:])),
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
        **_over_folds("dev_uar", folds),
        "inner_unit": splits.splits[0].inner_unit,
        "converged": _all([result.converged for result in results]),
        "layer_shares": _mean_shares(results),
        "confusion": confusion.tolist(),
        "folds": folds,
    }
    check_names(further, row)
    found = {called: score(probabilities, labels) for called, score in further.items()}
    row |= plain(found | further_intervals(further, probabilities, labels, speakers))
    name = np.concatenate([np.full(len(split.test), split.name) for split in splits.splits])
    return Judged(row, tested, name, probabilities)


def _mean_shares(results: list[SplitPrediction]) -> list[list[float]] | None:
    shares = [result.shares for result in results if result.shares is not None]
    return np.stack(shares).mean(0, dtype=np.float64).tolist() if shares else None


def _fold(split: Any, result: SplitPrediction, clips: LabelledClips) -> dict[str, Any]:
    predicted = result.probabilities.argmax(-1)
    confusion = metrics.confusion_matrix(clips.label[split.test], predicted, len(clips.classes))
    return {
        "name": split.name,
        "n_train": len(split.train),
        "n": len(split.test),
        "uar": float(metrics.uar(confusion)),
        "war": float(metrics.war(confusion)),
        "setting": result.setting,
        result.setting: result.value,
        "dev_uar": result.inner_uar,
        "inner_uar": result.inner_uar,
        "inner_cross_entropy": result.inner_cross_entropy,
        "converged": result.converged,
    }


def _over_folds(score: str, folds: list[dict[str, Any]]) -> dict[str, float | None]:
    values = [fold[score] for fold in folds]
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {f"fold_{score}_mean": float(np.mean(values)), f"fold_{score}_std": spread}


def _all(converged: list[bool | None]) -> bool | None:
    return None if None in converged else all(converged)
