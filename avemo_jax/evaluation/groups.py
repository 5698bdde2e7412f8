"""Fairness: scores by group of speakers, and how far groups are apart beyond what chance does.

A group is a value of something that is known of clips (sex, age band, ethnicity, speaker). Pure functions.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from avemo_jax.evaluation import metrics
from avemo_jax.evaluation.intervals import SCORES, bootstrap, drawn_scores

AGE_BANDS = (30, 45, 60)  # years: below the first, from one to the next, from the last on
_PERMUTATIONS = 2000
Row = dict[str, Any]


def bands(ages: Sequence[str], edges: Sequence[int] = AGE_BANDS) -> list[str]:
    """Each age in years as its band, such as "30–44"; text that is no age, 0 to 150, stays empty."""
    names = [
        f"under {edges[0]}",
        *(f"{a}–{b - 1}" for a, b in itertools.pairwise(edges)),
        f"{edges[-1]}+",
    ]
    found = []
    for age in ages:
        try:
            years = float(age)
        except ValueError:
            years = np.nan
        is_age = 0 < years < 150  # corpora write -1, 0 or 999 where none is known
        found.append(names[int(np.searchsorted(edges, years, side="right"))] if is_age else "")
    return found


def by_group(
    labels: np.ndarray, predicted: np.ndarray, speakers: np.ndarray, groups: np.ndarray, classes: int
) -> list[Row]:
    """One row a group, in alphabetical order; clips with an empty group have none.

    Keys: `group`, `n`, `speakers`, `uar`, `war`, `wf1` with `uar_ci95` and so on from resampling its speakers
    (`ci_unit` says whether there was more than one), `recall` of each class (None without a clip).
    """
    rows = []
    for name in sorted(set(groups.tolist()) - {""}):
        own = groups == name
        confusion = metrics.confusion_matrix(labels[own], predicted[own], classes)
        intervals = bootstrap(labels[own], predicted[own], speakers[own], classes)
        truth = confusion.sum(1)
        recall = [float(confusion[k, k] / truth[k]) if truth[k] else None for k in range(classes)]
        row: Row = {"group": name, "n": int(own.sum()), "speakers": len(np.unique(speakers[own]))}
        for score, function in SCORES.items():
            row[score] = float(function(confusion))
            row[f"{score}_ci95"] = list(intervals.bounds[score])
        rows.append({**row, "ci_unit": intervals.unit, "recall": recall})
    return rows


def gap(
    labels: np.ndarray,
    predicted: np.ndarray,
    speakers: np.ndarray,
    groups: np.ndarray,
    classes: int,
    *,
    score: str = "uar",
    draws: int = _PERMUTATIONS,
    seed: int = 0,
) -> Row:
    """The best group's score less the worst one's, with how often chance makes as large a gap.

    The p-value is that of a permutation test: groups are dealt anew to whole speakers where each speaker has one group,
    else to clips. Some gap there always is: `expected` is its mean under permutation. The interval is that of the best
    and the worst group as they are, from resampling the speakers of each.

    Keys: `score`, `gap`, `gap_ci95`, `ci_unit` ("clip" where either has one speaker), `best`, `worst`, `expected`, `p`,
    `permuted` ("speaker" or "clip"), `draws`; all but `score` are None when there are fewer than two groups.
    """
    known = groups != ""
    labels, predicted, speakers, groups = (x[known] for x in (labels, predicted, speakers, groups))
    names, group = np.unique(groups, return_inverse=True)
    keys = ("gap", "gap_ci95", "ci_unit", "best", "worst", "expected", "p", "permuted", "draws")
    nothing = dict.fromkeys(keys)
    if len(names) < 2:
        return {"score": score, **nothing}
    units, unit_of, permuted = _units(speakers, group)
    cells = np.zeros((len(units), classes * classes), np.int64)
    np.add.at(cells, (unit_of, labels * classes + predicted), 1)
    scored = _spread(cells, len(names), classes, SCORES[score])
    values, observed = scored(units)
    rng = np.random.default_rng(seed)
    chance = np.array([scored(rng.permutation(units))[1] for _ in range(draws)])
    drawn: list[np.ndarray] = []
    ci_units = set()
    for place in (np.nanargmax(values), np.nanargmin(values)):
        own = group == place
        clips = (labels[own], predicted[own], speakers[own])
        scores, unit, _ = drawn_scores(*clips, classes, draws=draws, seed=seed + len(drawn))
        drawn.append(scores[score])
        ci_units.add(unit)
    low, high = np.nanquantile(drawn[0] - drawn[1], [0.025, 0.975])
    return {
        "score": score,
        "gap": float(observed),
        "gap_ci95": [float(low), float(high)],
        "ci_unit": "clip" if "clip" in ci_units else "speaker",
        "best": str(names[np.nanargmax(values)]),
        "worst": str(names[np.nanargmin(values)]),
        "expected": float(np.nanmean(chance)),
        "p": float((1 + np.sum(chance >= observed - 1e-12)) / (1 + draws)),
        "permuted": permuted,
        "draws": draws,
    }


def _units(speakers: np.ndarray, group: np.ndarray) -> tuple[np.ndarray, np.ndarray, str]:
    """Group of each unit that is permuted, each clip's unit, and what a unit is."""
    names, speaker = np.unique(speakers, return_inverse=True)
    first = np.full(len(names), -1)
    first[speaker] = group  # of each speaker's last clip
    if len(names) < len(group) and (first[speaker] == group).all() and len(names) > len(np.unique(group)):
        return first, speaker, "speaker"
    return group, np.arange(len(group)), "clip"


def _spread(cells: np.ndarray, count: int, classes: int, score: Callable) -> Callable:
    """A function of each unit's group → every group's score, and the largest less the smallest."""

    def scored(groups: np.ndarray) -> tuple[np.ndarray, float]:
        confusions = np.zeros((count, classes * classes), np.int64)
        np.add.at(confusions, groups, cells)
        values = score(confusions.reshape(count, classes, classes))
        return values, float(np.nanmax(values) - np.nanmin(values))

    return scored
