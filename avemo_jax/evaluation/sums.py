"""Scores as functions of sums over clips: a resample or a permutation adds up groups' sums and touches no clip twice.

Not here: what is drawn (intervals), and scores that do not follow from sums, such as areas under curves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from avemo_jax.evaluation import metrics
from input_pipeline.targets import CLASS, DISTRIBUTION, MULTI_LABEL

Score = Callable[[np.ndarray], np.ndarray]
_ROUNDING = 4 * np.finfo(np.float64).eps  # of a sum of squares: a variance below this share is rounding's


@dataclass(frozen=True)
class Summed:
    """Predictions of N clips.

    of: (clips int [M], group int [M], numbers from 0 on) → float64 [groups, S], the sums over these clips by group.
    scores: name → function of sums [..., S] giving [...]; the score to name first is the first. classes: K where sums
    begin with each class's hits [K] and clips [K], else 0.
    """

    of: Callable[[np.ndarray, np.ndarray], np.ndarray]
    scores: Mapping[str, Score]
    classes: int = 0


def of_classes(labels: np.ndarray, predicted: np.ndarray, classes: int) -> Summed:
    """`uar`, `war` and `wf1`; labels, predicted: int [N]."""

    def counts(clips: np.ndarray, group: np.ndarray) -> np.ndarray:
        return np.concatenate(_counts(labels[clips], predicted[clips], group, classes), 1)

    scores = {
        "uar": lambda sums: metrics.uar_of(*_thirds(sums)[:2]),
        "war": lambda sums: metrics.war_of(*_thirds(sums)[:2]),
        "wf1": lambda sums: metrics.weighted_f1_of(*_thirds(sums)),
    }
    return Summed(counts, scores, classes)


def summed(kind: str, predicted: np.ndarray, truth: np.ndarray) -> Summed:
    """By what is predicted (`Target.kind`): outputs float [N, K] beside truth int [N] or float [N, K].

    The main scores of `outcomes` that follow from sums: of classes `uar`, `war`, `wf1`; of distributions `js`, `uar`,
    `war`, of several classes `macro_f1`, `micro_f1`, of values `ccc`, `pcc`, `mae`, `rmse`. A group of one clip has
    neither CCC nor PCC (NaN); where either is constant there is no PCC.
    """
    if kind == CLASS:
        return of_classes(truth, predicted.argmax(-1), predicted.shape[1])
    if kind == DISTRIBUTION:
        return _of_distributions(predicted, truth)
    return _of_several(predicted, truth) if kind == MULTI_LABEL else _of_values(predicted, truth)


def _of_distributions(predicted: np.ndarray, truth: np.ndarray) -> Summed:
    likeliest = of_classes(truth.argmax(-1), predicted.argmax(-1), predicted.shape[1])
    apart = np.stack([metrics.jensen_shannon(truth, predicted), np.ones(len(truth))], 1)

    def sums(clips: np.ndarray, group: np.ndarray) -> np.ndarray:
        return np.concatenate([likeliest.of(clips, group), _added(apart[clips], group)], 1)

    def of_counts(name: str) -> Score:
        return lambda sums: likeliest.scores[name](sums[..., :-2])

    def js(sums: np.ndarray) -> np.ndarray:
        return sums[..., -2] / sums[..., -1]

    return Summed(sums, {"js": js, "uar": of_counts("uar"), "war": of_counts("war")}, likeliest.classes)


def _of_several(predicted: np.ndarray, truth: np.ndarray) -> Summed:
    present, guessed = truth > 0.5, predicted >= 0.5
    parts = np.concatenate([present & guessed, present, guessed], 1)

    def macro(sums: np.ndarray) -> np.ndarray:
        hits, clips, guesses = _thirds(sums)
        return metrics.f1_of(hits, clips + guesses).mean(-1)

    def micro(sums: np.ndarray) -> np.ndarray:
        hits, clips, guesses = (part.sum(-1) for part in _thirds(sums))
        return metrics.f1_of(hits, clips + guesses)

    scores = {"macro_f1": macro, "micro_f1": micro}
    return Summed(lambda clips, group: _added(parts[clips], group), scores, truth.shape[1])


def _of_values(predicted: np.ndarray, truth: np.ndarray) -> Summed:
    # Sums of squares of large numbers would lose the variance. The middle is the truth's for both, and so the same for
    # all predictions of these clips, as `paired` adds up sums of two of them.
    middle = np.asarray(truth, np.float64).mean(0)
    p, t = np.asarray(predicted, np.float64) - middle, np.asarray(truth, np.float64) - middle
    error = p - t
    parts = np.stack(
        [np.ones(p.shape), p, t, p * p, t * t, p * t, np.abs(error), error**2], 1
    )  # [N, 8, values]

    def sums(clips: np.ndarray, group: np.ndarray) -> np.ndarray:
        return _added(parts[clips].reshape(len(clips), -1), group)

    def moments(sums: np.ndarray) -> list[np.ndarray]:
        """Clips, and of each value the variances, the covariance, the shift, the squared and the absolute error."""
        n, *means = np.moveaxis(sums.reshape(*sums.shape[:-1], *parts.shape[1:]), -2, 0)
        p, t, pp, tt, pt, error, squared = (mean / n for mean in means)
        free = n / np.where(n > 1, n - 1, np.nan)
        spread = ((xx - x * x, _ROUNDING * n * xx) for x, xx in ((p, pp), (t, tt)))
        of_p, of_t = (np.where(variance > least, variance, 0.0) for variance, least in spread)
        both = np.where((of_p > 0) & (of_t > 0), pt - p * t, 0.0)
        return [free * of_p, free * of_t, free * both, p - t, squared, error]

    def ccc(sums: np.ndarray) -> np.ndarray:
        of_p, of_t, both, shift, _, _ = moments(sums)
        return (2 * both / (of_p + of_t + shift**2)).mean(-1)

    def pcc(sums: np.ndarray) -> np.ndarray:
        of_p, of_t, both, *_ = moments(sums)
        return (both / np.sqrt(of_p * of_t)).mean(-1)

    scores = {
        "ccc": _quiet(ccc),
        "pcc": _quiet(pcc),
        "mae": _quiet(lambda sums: moments(sums)[5].mean(-1)),
        "rmse": _quiet(lambda sums: np.sqrt(moments(sums)[4]).mean(-1)),
    }
    return Summed(sums, scores)


def _quiet(score: Score) -> Score:
    """Without a word where there is no such score."""

    def quiet(sums: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return score(sums)

    return quiet


def _counts(labels: np.ndarray, predicted: np.ndarray, group: np.ndarray, classes: int) -> list[np.ndarray]:
    """`metrics.counts` of each group's clips, float64 [groups, K] each."""
    shape = (int(group.max()) + 1, classes)
    found = []
    for clips, classes_of in ((labels == predicted, labels), (slice(None), labels), (slice(None), predicted)):
        counts = np.zeros(shape)
        np.add.at(counts, (group[clips], classes_of[clips]), 1)
        found.append(counts)
    return found


def _thirds(sums: np.ndarray) -> list[np.ndarray]:
    """Hits, clips and guesses of each class."""
    return np.split(sums, 3, axis=-1)


def _added(parts: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Sums [groups, S] of parts [N, S]."""
    found = np.zeros((int(group.max()) + 1, parts.shape[1]))
    np.add.at(found, group, parts)
    return found
