"""A feature matrix and its splits → one row of results, in the form that `avemo probe --json` writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from avemo_jax.evaluation import features as named
from avemo_jax.evaluation.extraction import Source
from avemo_jax.evaluation.heads import HEADS, pooled
from avemo_jax.evaluation.heads.examples import Examples, centre_views
from avemo_jax.evaluation.outcome_files import plain
from avemo_jax.evaluation.outcomes import judged, main_scores, over_folds, scores_of
from avemo_jax.evaluation.probes import SplitPrediction, choose
from avemo_jax.evaluation.protocols import LabelledClips, Split, Splits
from avemo_jax.evaluation.scores import Score, check_names


@dataclass(frozen=True)
class Judged:
    """One source's result: the row (JSON values), and for each tested clip its row number, split name, the seed that
    dealt it and class probabilities, or numbers, [M, K]."""

    row: dict[str, Any]
    tested: np.ndarray
    split: np.ndarray
    seed: np.ndarray
    predicted: np.ndarray


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
    steps: int = pooled.STEPS,
) -> list[Judged]:
    """Probe features [R, …] of `clips` on every split and score the pooled test predictions: one result, and with
    `legacy` a second one whose setting was chosen in each split by its accuracy (of numbers the CCC) on the test clips.
    Heads that are trained step by step are for so many `steps`.

    Row keys: `feature`, `weights`, `seed`, `loudness`, `missing` (see `extraction.Source`), `modality`, `head`,
    `split` (protocol), `split_hash`, `n` tested clips; `selection`, `inner_folds` or `test (legacy)`; `target`, `class`
    or `values`; of all test predictions pooled the scores, intervals and more of `outcomes.judged`, those of `further`
    too (None where not defined); `chance`, of numbers 0, the CCC of what does not depend on the clip; `fold_uar_mean`,
    `fold_uar_std` (n - 1; null for one split) and the like for the other main scores and for `dev_uar`, the UAR on the
    inner folds; of numbers `ccc` takes the place of `uar`; `folds`, one entry a split; `layer_shares` of a head that
    mixes layers (else null), the mean over splits for each stream and layer. Scores are fractions, errors in the unit
    of the numbers.

    Where folds were dealt by several seeds, scores and bounds of intervals are the means over them, `confusion` their
    sum, and there are `repeats`, for each seed its `split_seed`, `split_hash` and main scores with intervals, and
    `repeat_uar_std` (n - 1) and the like.
    """
    examples = examples or centre_views(clips.truth, clips.target.outputs)
    asked = {"steps": steps} if HEADS[head].by_steps else {}
    scored = HEADS[head].fit(features, examples, splits.splits, **asked)
    found = []
    for on_test in (False, True) if legacy else (False,):
        results = [
            choose(one, examples, split, on_test) for one, split in zip(scored, splits.splits, strict=True)
        ]
        found.append(_judged(source, features, clips, splits, head, results, further or {}))
        found[-1].row["selection"] = "test (legacy)" if on_test else "inner_folds"
    return found


def _judged(source, features, clips, splits, head, results, further) -> Judged:
    target = clips.target
    tested = np.concatenate([split.test for split in splits.splits])
    predicted = np.concatenate([result.predicted for result in results])
    folds = [_fold(split, result, clips) for split, result in zip(splits.splits, results, strict=True)]
    row = {
        **source._asdict(),
        "modality": named.modality(source.feature),
        "head": head,
        "split": splits.protocol,
        "split_hash": splits.split_hash,
        "speaker_disjoint": splits.speaker_disjoint,
        "target": target.kind,
        "dim": int(np.prod(features.shape[1:])),
        "inner_unit": splits.splits[0].inner_unit,
        "converged": _all([result.converged for result in results]),
        "layer_shares": _mean_shares(results),
        "folds": folds,
    }
    for score in (*main_scores(target), f"dev_{main_scores(target)[0]}"):
        row |= over_folds(score, folds)
    check_names(further, row)
    name = np.concatenate([np.full(len(split.test), split.name) for split in splits.splits])
    seed = np.concatenate([np.full(len(split.test), split.seed) for split in splits.splits])
    each = []
    for own in (seed == one for one in dict.fromkeys(seed.tolist())):
        clip = tested[own]
        each.append(judged(target, predicted[own], clips.truth[clip], clips.speaker[clip], further))
    row |= each[0] if len(each) == 1 else _over_repeats(each, main_scores(target), splits)
    row.setdefault("chance", 0.0)
    return Judged(plain(row), tested, name, seed, predicted)


def _over_repeats(each: list[dict[str, Any]], main: Sequence[str], splits: Splits) -> dict[str, Any]:
    """What was judged of the folds of each seed, as one: see `judge`."""
    row = dict(each[0])
    shown = {"ci95": main[0], **{f"{name}_ci95": name for name in (*main[1:], *row.get("further", ()))}}
    for name, value in each[0].items():
        if name in shown or isinstance(value, (float, np.floating)):
            row[name] = np.mean([one[name] for one in each], axis=0).tolist()
    if "confusion" in row:
        row["confusion"] = np.sum([one["confusion"] for one in each], axis=0).tolist()
    kept = [*shown.values(), *shown]
    row["repeats"] = [
        {"split_seed": seed, "split_hash": split_hash, **{name: one[name] for name in kept}}
        for (seed, split_hash), one in zip(splits.hashes.items(), each, strict=True)
    ]
    for name in shown.values():
        row[f"repeat_{name}_std"] = float(np.std([one[name] for one in each], ddof=1))
    return row


def _mean_shares(results: list[SplitPrediction]) -> list[list[float]] | None:
    shares = [result.shares for result in results if result.shares is not None]
    return np.stack(shares).mean(0, dtype=np.float64).tolist() if shares else None


def _fold(split: Split, result: SplitPrediction, clips: LabelledClips) -> dict[str, Any]:
    main = main_scores(clips.target)
    scores = scores_of(clips.target, result.predicted, clips.truth[split.test])
    return {
        "name": split.name,
        "n_train": len(split.train),
        "n": len(split.test),
        **{score: scores[score] for score in main},
        "setting": result.setting,
        result.setting: result.value,
        f"dev_{main[0]}": result.inner[main[0]],
        **{f"inner_{score}": value for score, value in result.inner.items()},
        "converged": result.converged,
    }


def _all(converged: list[bool | None]) -> bool | None:
    return None if None in converged else all(converged)
