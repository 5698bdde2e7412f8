"""Bootstrap intervals of scores, resampled by speaker.

Clips of one speaker resemble each other, so the speaker is drawn, with all its clips, not the clip. With one
speaker only there is nothing to draw but clips; the result says which it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from avemo_jax.evaluation import metrics

SCORES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "uar": metrics.uar,
    "war": metrics.war,
    "wf1": metrics.weighted_f1,
}


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
    values, unit, groups = drawn_scores(labels, predicted, speakers, classes, draws=draws, seed=seed)
    tail = (1 - level) / 2
    bounds = {}
    for name in SCORES:
        low, high = np.nanquantile(values[name], [tail, 1 - tail])
        bounds[name] = (float(low), float(high))
    return Intervals(bounds, unit, groups)


def drawn_scores(
    labels: np.ndarray, predicted: np.ndarray, speakers: np.ndarray, classes: int, *, draws: int, seed: int
) -> tuple[dict[str, np.ndarray], str, int]:
    """(score → float [draws], what was drawn, how many of them there are) of `bootstrap`."""
    unit, group = _units(speakers)
    groups = int(group.max()) + 1
    hits, truth, guessed = counts_of_groups(labels, predicted, group, classes)

    rng = np.random.default_rng(seed)
    times_drawn = rng.multinomial(groups, np.full(groups, 1 / groups), size=draws)
    drawn = [times_drawn.astype(np.float64) @ counts for counts in (hits, truth, guessed)]
    values = {
        "uar": metrics.uar_of(*drawn[:2]),
        "war": metrics.war_of(*drawn[:2]),
        "wf1": metrics.weighted_f1_of(*drawn),
    }
    if unit == "speaker" and ((truth > 0).sum(0) <= 1).all():
        values["uar"] = _of_own_classes(times_drawn, hits.sum(0), truth)
    return values, unit, groups


def counts_of_groups(
    labels: np.ndarray, predicted: np.ndarray, group: np.ndarray, classes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`metrics.counts` of each group's clips, float64 [groups, K]; group: numbers int [N]."""
    shape = (int(group.max()) + 1, classes)
    found = []
    for clips, classes_of in ((labels == predicted, labels), (slice(None), labels), (slice(None), predicted)):
        counts = np.zeros(shape)
        np.add.at(counts, (group[clips], classes_of[clips]), 1)
        found.append(counts)
    return found[0], found[1], found[2]


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
    unit, group = _units(speakers)
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
        known = np.array(values)[np.isfinite(values)]
        low, high = np.quantile(known, [tail, 1 - tail]) if len(known) else (np.nan, np.nan)
        bounds[name] = (float(low), float(high))
    return Intervals(bounds, unit, len(members))


def _of_own_classes(times_drawn: np.ndarray, hits: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """UAR of each draw [draws] where no class has clips of two units: recalls, as often as their unit was drawn."""
    clips = truth.sum(0)
    drawn = times_drawn @ (truth > 0)  # [draws, classes]
    return drawn @ (hits / np.maximum(clips, 1)) / drawn.sum(1)


def _units(speakers: np.ndarray) -> tuple[str, np.ndarray]:
    """What is resampled, and the number of each clip's: its speaker, or itself where one speaker is all."""
    names, group = np.unique(speakers, return_inverse=True)
    return ("speaker", group) if len(names) > 1 else ("clip", np.arange(len(speakers)))
