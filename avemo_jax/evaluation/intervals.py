"""Bootstrap intervals of scores, resampled by speaker.

Clips of one speaker resemble each other, so the speaker is drawn, with all its clips, not the clip. Clips whose speaker
has no name are drawn one by one. With one speaker only there is nothing to draw but clips; the result says which it
was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from avemo_jax.evaluation.sums import Summed, of_classes


@dataclass(frozen=True)
class Intervals:
    """Percentile intervals `bounds[score] = (low, high)` over `groups` resampled units of kind `unit`."""

    bounds: dict[str, tuple[float, float]]
    unit: str
    groups: int


def bootstrap(
    labels: np.ndarray,
    predicted: np.ndarray,
    speakers: np.ndarray,
    classes: int,
    *,
    draws: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Intervals:
    """Cluster bootstrap of UAR, WAR and weighted F1 over speakers, or over clips when one speaker is all.

    labels, predicted: int [N]; speakers: any hashable [N]. A resample is a sum of the drawn speakers' counts of hits,
    clips and guesses of each class, so no prediction is touched twice. A draw that misses a class averages the rest.
    Where each class has one speaker only, as where speakers are what is predicted, one drawn twice counts twice in the
    UAR.
    """
    return bootstrap_sums(
        of_classes(labels, predicted, classes), speakers, draws=draws, level=level, seed=seed
    )


def bootstrap_sums(
    predicted: Summed, speakers: np.ndarray, *, draws: int = 2000, level: float = 0.95, seed: int = 0
) -> Intervals:
    """As `bootstrap`, of all scores that these predictions have; (NaN, NaN) where no draw has one."""
    values, unit, groups = drawn_scores(predicted, np.arange(len(speakers)), speakers, draws=draws, seed=seed)
    tail = (1 - level) / 2
    bounds = {name: quantiles(drawn, [tail, 1 - tail]) for name, drawn in values.items()}
    return Intervals(bounds, unit, groups)


def quantiles(drawn: np.ndarray, at: Sequence[float]) -> tuple[float, float]:
    """Of the draws that are numbers; NaN where none is."""
    known = drawn[np.isfinite(drawn)]
    low, high = np.quantile(known, at) if len(known) else (np.nan, np.nan)
    return float(low), float(high)


def drawn_scores(
    predicted: Summed, clips: np.ndarray, speakers: np.ndarray, *, draws: int, seed: int
) -> tuple[dict[str, np.ndarray], str, int]:
    """(score → float [draws], what was drawn, how many of them there are) of `bootstrap_sums`, of these clips int [M]
    with their speakers [M]."""
    unit, group = units(speakers)
    sums = predicted.of(clips, group)
    groups = len(sums)

    rng = np.random.default_rng(seed)
    times_drawn = rng.multinomial(groups, np.full(groups, 1 / groups), size=draws)
    return scores_of_draws(predicted, sums, times_drawn, unit), unit, groups


def scores_of_draws(
    predicted: Summed, sums: np.ndarray, times_drawn: np.ndarray, unit: str
) -> dict[str, np.ndarray]:
    """Each score [draws] where units of this kind, with these sums [groups, S], were drawn so often, int [draws,
    groups]; what a draw that misses classes counts is said in `bootstrap`."""
    drawn = times_drawn.astype(np.float64) @ sums
    values = {name: score(drawn) for name, score in predicted.scores.items()}
    if unit == "speaker" and "uar" in values:
        hits, truth = np.split(sums[:, : 2 * predicted.classes], 2, axis=1)
        if ((truth > 0).sum(0) <= 1).all():
            values["uar"] = _of_own_classes(times_drawn, hits.sum(0), truth)
    return values


def bootstrap_scores(
    measure: Callable[[np.ndarray], Mapping[str, float]],
    speakers: np.ndarray,
    *,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Intervals:
    """As `bootstrap`, of any scores: `measure` gives them for clips by their numbers, int [M], some of them twice.

    A draw for which a score is not a number is left out of that score's interval; (NaN, NaN) when all are.
    """
    unit, group = units(speakers)
    order = np.argsort(group, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(group))[:-1])
    rng = np.random.default_rng(seed)
    found: dict[str, list[float]] = {}
    for _ in range(draws):
        drawn = rng.integers(len(members), size=len(members))
        for name, value in measure(np.concatenate([members[i] for i in drawn])).items():
            found.setdefault(name, []).append(value)
    tail = (1 - level) / 2
    bounds = {}
    for name, values in found.items():
        bounds[name] = quantiles(np.array(values), [tail, 1 - tail])
    return Intervals(bounds, unit, len(members))


def _of_own_classes(times_drawn: np.ndarray, hits: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """UAR of each draw [draws] where no class has clips of two units: recalls, as often as their unit was drawn."""
    clips = truth.sum(0)
    drawn = times_drawn @ (truth > 0)  # [draws, classes]
    return drawn @ (hits / np.maximum(clips, 1)) / drawn.sum(1)


def count_speakers(speakers: np.ndarray) -> int:
    """How many people are named as the speakers of these clips."""
    return len(set(np.asarray(speakers).astype(str).tolist()) - {""})


def units(speakers: np.ndarray) -> tuple[str, np.ndarray]:
    """What is resampled, and the number of each clip's: its speaker, or itself where its speaker has no name or one
    speaker is all."""
    names, group = np.unique(speakers, return_inverse=True)
    if len(names) < 2:
        return "clip", np.arange(len(speakers))
    nameless = np.asarray(speakers).astype(str) == ""
    return "speaker", np.unique(
        np.where(nameless, len(names) + np.arange(len(group)), group), return_inverse=True
    )[1]
