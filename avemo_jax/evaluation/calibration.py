"""How far predicted probabilities can be believed: calibration, proper scores, and what abstaining buys.

Probabilities are float [N, K], rows summing to 1; labels int [N]. A clip's confidence is its highest probability. Pure
functions in float64; scores are fractions, cross-entropy is in nats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import optimize

BINS = 15  # Guo et al. 2017
_LEAST = 1e-6  # probabilities come from files with so many digits
_RANGE = (np.log(0.02), np.log(50.0))  # of the logarithm of a temperature


class Bins(NamedTuple):
    """A reliability diagram, one entry a bin that has clips: [M] each."""

    low: np.ndarray
    high: np.ndarray
    clips: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray


def reliability(
    probabilities: np.ndarray, labels: np.ndarray, bins: int = BINS, equal_mass: bool = False
) -> Bins:
    """Clips by their confidence, in bins of equal width on (0, 1], or of equally many clips."""
    confidence, right = _confidence(probabilities, labels)
    edges = np.linspace(0, 1, bins + 1)
    if equal_mass:
        edges = np.unique(np.append(0.0, np.quantile(confidence, edges)[1:]))
    place = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, len(edges) - 2)
    count = np.bincount(place, minlength=len(edges) - 1)
    used = count > 0
    return Bins(
        edges[:-1][used],
        edges[1:][used],
        count[used],
        np.bincount(place, confidence, len(count))[used] / count[used],
        np.bincount(place, right, len(count))[used] / count[used],
    )


def calibration_error(
    probabilities: np.ndarray, labels: np.ndarray, bins: int = BINS, equal_mass: bool = False
) -> float:
    """Expected calibration error: |accuracy − confidence| averaged over clips, bin by bin (Naeini et al. 2015; Guo et
    al. 2017); with `equal_mass` over bins of equally many clips (Nixon et al. 2019)."""
    found = reliability(probabilities, labels, bins, equal_mass)
    return float(np.sum(found.clips * np.abs(found.accuracy - found.confidence)) / found.clips.sum())


def brier(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean squared distance to the truth over all classes, 0 to 2 (Brier 1950)."""
    return float(squared_distances(probabilities, labels).mean())


def squared_distances(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Of each clip [N], see `brier`."""
    probabilities = np.asarray(probabilities, np.float64)
    truth = np.arange(probabilities.shape[1]) == np.asarray(labels)[:, None]
    return np.square(probabilities - truth).sum(1)


def cross_entropy(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean −log of the true class's probability, which counts as a millionth at least; where the truth is shares of
    classes, float [N, K], the mean of −log weighted by them."""
    logs = -np.log(np.maximum(np.asarray(probabilities, np.float64), _LEAST))
    if np.ndim(labels) == 2:
        return float((labels * logs).sum(1).mean())
    return float(logs[np.arange(len(labels)), labels].mean())


def tempered(probabilities: np.ndarray, temperature: float | np.ndarray) -> np.ndarray:
    """Softmax of the logarithms divided by a temperature, one or [N, 1]: above 1 less sure, below 1 surer."""
    logits = np.log(np.maximum(np.asarray(probabilities, np.float64), _LEAST)) / temperature
    raised = np.exp(logits - logits.max(1, keepdims=True))
    return raised / raised.sum(1, keepdims=True)


def fit_temperature(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The temperature, from 0.02 to 50, with the least cross-entropy on these clips (Guo et al. 2017); labels are
    int [N], or shares float [N, K]."""
    found = optimize.minimize_scalar(
        lambda log: cross_entropy(tempered(probabilities, np.exp(log)), labels),
        bounds=_RANGE,
        method="bounded",
    )
    return float(np.exp(found.x))


def cross_fitted(probabilities: np.ndarray, labels: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """A temperature for each clip, [N, 1], fitted on the clips of all other parts: none has a say in its own.

    parts: [N], a speaker or a group of them. Raises ValueError when there is one part only.
    """
    names = np.unique(parts)
    if len(names) < 2:
        raise ValueError("a temperature is fitted on other parts than it is used on: at least two are needed")
    temperatures = np.ones((len(labels), 1))
    for name in names:
        own = parts == name
        temperatures[own] = fit_temperature(probabilities[~own], labels[~own])
    return temperatures


def risk_coverage(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(coverage, risk) float [N] each: the share of errors among the clips that are answered, when the surest are
    answered first (Geifman and El-Yaniv 2017). Of equally sure ones each counts as their mean."""
    confidence, right = _confidence(probabilities, labels)
    order = np.argsort(-confidence, kind="stable")
    _, run, size = np.unique(-confidence[order], return_inverse=True, return_counts=True)
    wrong = (np.bincount(run, 1 - right[order]) / size)[run]
    answered = np.arange(1, len(order) + 1)
    return answered / len(order), np.cumsum(wrong) / answered


def scores(probabilities: np.ndarray, labels: np.ndarray) -> Mapping[str, float]:
    """`ece`, `ace` (bins of equally many clips), `brier`, `cross_entropy`, `confidence` (mean), `aurc` (area under the
    risk-coverage curve) and `risk_at_80`, the share of errors among the surest 80 %."""
    coverage, risk = risk_coverage(probabilities, labels)
    return {
        "ece": calibration_error(probabilities, labels),
        "ace": calibration_error(probabilities, labels, equal_mass=True),
        "brier": brier(probabilities, labels),
        "cross_entropy": cross_entropy(probabilities, labels),
        "confidence": float(_confidence(probabilities, labels)[0].mean()),
        "aurc": float(risk.mean()),
        "risk_at_80": float(risk[np.searchsorted(coverage, 0.8 - 1e-9)]),
    }


def fitted_on(rows: Sequence[Mapping[str, Any]]) -> str:
    """Which clips the temperatures in rows of the suite were fitted on, for people."""
    by_speaker = all(row.get("by") in (None, "speaker") for row in rows)
    return "other speakers' clips" if by_speaker else "clips of other parts of the test"


def _confidence(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each clip's highest probability, and 1.0 where that class is the right one."""
    probabilities = np.asarray(probabilities, np.float64)
    return probabilities.max(1), (probabilities.argmax(1) == labels).astype(np.float64)
