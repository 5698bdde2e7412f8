"""Fairness: scores by group of speakers, and how far groups are apart beyond what chance does.

A group is a value of something that is known of clips (sex, age band, ethnicity, speaker). Pure functions.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from avemo_jax.evaluation.intervals import count_speakers, drawn_scores, quantiles, units
from avemo_jax.evaluation.outcomes import lower_is_better
from avemo_jax.evaluation.sums import Summed

AGE_BANDS = (30, 45, 60)  # years: below the first, from one to the next, from the last on
_DRAWS = 2000
_LEVEL = (0.025, 0.975)
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


def by_group(predicted: Summed, speakers: np.ndarray, groups: np.ndarray) -> list[Row]:
    """One row a group, in alphabetical order; clips with an empty group have none.

    Keys: `group`, `n`, `speakers`; each score that the predictions have, as `uar`, with `uar_ci95` from resampling its
    speakers (`ci_unit` says whether there was more than one); `recall` of each class (None without a clip), empty for
    values.
    """
    rows = []
    for name in sorted(set(groups.tolist()) - {""}):
        own = np.flatnonzero(groups == name)
        sums = predicted.of(own, np.zeros(len(own), np.int64))[0]
        drawn, unit, _ = drawn_scores(predicted, own, speakers[own], draws=_DRAWS, seed=0)
        hits, truth = np.split(sums[: 2 * predicted.classes], 2)
        row: Row = {"group": name, "n": len(own), "speakers": count_speakers(speakers[own])}
        for score, function in predicted.scores.items():
            row[score] = float(function(sums))
            row[f"{score}_ci95"] = list(quantiles(drawn[score], _LEVEL))
        recall = [float(hit / of) if of else None for hit, of in zip(hits, truth, strict=True)]
        rows.append({**row, "ci_unit": unit, "recall": recall})
    return rows


def gap(
    predicted: Summed,
    speakers: np.ndarray,
    groups: np.ndarray,
    *,
    score: str = "",
    draws: int = _DRAWS,
    seed: int = 0,
) -> Row:
    """How far the best group's score is from the worst one's, with how often chance makes as large a gap.

    The p-value is that of a permutation test: groups are dealt anew to whole speakers where each speaker has one group,
    else to clips. Some gap there always is: `expected` is its mean under permutation. The interval is that of the best
    and the worst group as they are, from resampling the speakers of each.

    Args:
      score: the first of the predictions' scores where it is empty.

    Returns:
      `score`, `gap`, never below 0, `gap_ci95`, `ci_unit` ("clip" where either has one speaker), `best`, `worst`,
      `expected`, `p`, `permuted` ("speaker" or "clip"), `draws`; all but `score` are None when there are fewer than two
      groups that have the score.
    """
    score = score or next(iter(predicted.scores))
    clips = np.flatnonzero(groups != "")
    names, group = np.unique(groups[clips], return_inverse=True)
    keys = ("gap", "gap_ci95", "ci_unit", "best", "worst", "expected", "p", "permuted", "draws")
    nothing = {"score": score, **dict.fromkeys(keys)}
    if len(names) < 2:
        return nothing
    of_units, unit_of, permuted = _units(speakers[clips], group)
    scored = _spread(predicted.of(clips, unit_of), len(names), predicted.scores[score])
    values, observed = scored(of_units)
    if np.isfinite(values).sum() < 2:
        return nothing
    rng = np.random.default_rng(seed)
    chance = np.array([scored(rng.permutation(of_units))[1] for _ in range(draws)])
    sign = -1 if lower_is_better(score) else 1
    drawn: list[np.ndarray] = []
    ci_units = set()
    ends = (np.nanargmax(sign * values), np.nanargmin(sign * values))
    for place in ends:
        own = clips[group == place]
        scores, unit, _ = drawn_scores(predicted, own, speakers[own], draws=draws, seed=seed + len(drawn))
        drawn.append(scores[score])
        ci_units.add(unit)
    return {
        "score": score,
        "gap": float(observed),
        "gap_ci95": list(quantiles(sign * (drawn[0] - drawn[1]), _LEVEL)),
        "ci_unit": "clip" if "clip" in ci_units else "speaker",
        "best": str(names[ends[0]]),
        "worst": str(names[ends[1]]),
        "expected": float(np.nanmean(chance)),
        "p": float((1 + np.sum(chance >= observed - 1e-12)) / (1 + draws)),
        "permuted": permuted,
        "draws": draws,
    }


def _units(speakers: np.ndarray, group: np.ndarray) -> tuple[np.ndarray, np.ndarray, str]:
    """Group of each unit that is permuted, each clip's unit, and what a unit is."""
    _, speaker = units(speakers)
    count = int(speaker.max()) + 1
    first = np.full(count, -1)
    first[speaker] = group  # of each speaker's last clip
    if count < len(group) and (first[speaker] == group).all() and count > len(np.unique(group)):
        return first, speaker, "speaker"
    return group, np.arange(len(group)), "clip"


def _spread(sums: np.ndarray, count: int, score: Callable[[np.ndarray], np.ndarray]) -> Callable:
    """A function of each unit's group → every group's score, and the largest less the smallest."""
    columns = np.ascontiguousarray(sums.T)

    def scored(groups: np.ndarray) -> tuple[np.ndarray, float]:
        values = score(np.stack([np.bincount(groups, column, count) for column in columns], 1))
        known = values[np.isfinite(values)]
        return values, float(known.max() - known.min()) if len(known) else np.nan

    return scored
