"""Predictions for windows of long recordings → one sequence a recording, with its times, and scores over the whole.

A window's clip is named RECORDING@START-END, in seconds; the rules are those of `windows`. The truth is joined by the
same rule from the windows' own targets. Not here: how recordings are cut (input_pipeline/corpora/traces.py).
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from avemo_jax.errors import UserError
from avemo_jax.evaluation import metrics
from avemo_jax.evaluation.intervals import bootstrap_scores
from avemo_jax.evaluation.windows import RULES as RULES  # who joins finds all of it here
from avemo_jax.evaluation.windows import grid, stitch

_NAME = re.compile(r"(.+)@(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)")
Row = dict[str, Any]


class Joined(NamedTuple):
    """One recording's: times [T] in seconds, truth and prediction [T, K]."""

    recording: str
    times: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray


def places(clip_ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(recording [N], start [N], end [N]) of windows by their names.

    Raises:
      UserError: a clip of another name.
    """
    found = [_NAME.fullmatch(str(name)) for name in clip_ids]
    for name, match in zip(clip_ids, found, strict=True):
        if not match or float(match[2]) >= float(match[3]):
            raise UserError(
                f"clip {name}: data.stitch needs clips that are named RECORDING@START-END, in seconds"
            )
    parts = [match.groups() for match in found if match]
    recording, start, end = (np.array(column) for column in zip(*parts, strict=True))
    return recording, start.astype(float), end.astype(float)


def sequences(
    clip_ids: Sequence[str], truth: np.ndarray, predicted: np.ndarray, rule: str, step_s: float
) -> list[Joined]:
    """One for each recording, in the order of their names, every `step_s` from the first window's start on."""
    recording, start, end = places(clip_ids)
    made = []
    for name in np.unique(recording):
        own = recording == name
        times = grid(start[own], end[own], step_s)
        both = [stitch(start[own], end[own], values[own], times, rule) for values in (truth, predicted)]
        there = np.isfinite(both[0]).all(1) & np.isfinite(both[1]).all(1)
        made.append(Joined(str(name), times[there], both[0][there], both[1][there]))
    return made


def judged(found: Sequence[Joined], names: Sequence[str]) -> Row:
    """Scores over whole recordings, JSON values.

    Keys: `recordings`; `ccc` and `pcc` over all sequences one behind the other, the mean over values, and `ccc_NAME`,
    `pcc_NAME` of each; `ccc_ci95` from resampling recordings; `mean_ccc`, `mean_pcc`, the means over recordings of each
    one's own (of those whose truth moves); `each`, by recording.
    """

    def scores(chosen: Sequence[Joined]) -> dict[str, np.ndarray]:
        both = (np.concatenate([getattr(one, part) for one in chosen]) for part in ("predicted", "truth"))
        return metrics.regression_scores(*both)

    whole, each = scores(found), {one.recording: scores([one]) for one in found if _moves(one)}
    row: Row = {"recordings": len(found)}
    for score in ("ccc", "pcc"):
        row[score] = float(whole[score].mean())
        row |= {f"{score}_{name}": float(value) for name, value in zip(names, whole[score], strict=True)}
        own = [float(one[score].mean()) for one in each.values()]
        row[f"mean_{score}"] = float(np.mean([value for value in own if np.isfinite(value)] or [np.nan]))
    row["each"] = {
        name: {score: float(one[score].mean()) for score in ("ccc", "pcc")} for name, one in each.items()
    }
    if len(found) > 1:
        intervals = bootstrap_scores(
            lambda rows: {"ccc": float(scores([found[int(place)] for place in rows])["ccc"].mean())},
            np.array([one.recording for one in found]),
            draws=500,
        )
        row["ccc_ci95"] = list(intervals.bounds["ccc"])
    return row


def _moves(one: Joined) -> bool:
    """Whether there is anything to correlate with."""
    return len(one.times) > 1 and bool((np.ptp(one.truth, axis=0) > 0).all())


def as_csv(found: Sequence[Joined], names: Sequence[str]) -> str:
    """One line a recording and time: `recording`, `time_s`, `true_NAME` and `p_NAME` of each value."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(
        ["recording", "time_s", *(f"true_{name}" for name in names), *(f"p_{name}" for name in names)]
    )
    for one in found:
        for time, truth, predicted in zip(one.times, one.truth, one.predicted, strict=True):
            numbers = [f"{value:.6g}" for value in (*truth, *predicted)]
            writer.writerow([one.recording, f"{time:.3f}", *numbers])
    return buffer.getvalue()


def in_words(row: Row) -> str:
    """The scores as a line."""
    low, high = row.get("ccc_ci95", (np.nan, np.nan))
    interval = "" if np.isnan(low) else f" [{100 * low:.1f}, {100 * high:.1f}]"
    text = f"{row['recordings']} whole recordings: CCC {100 * row['ccc']:.1f}{interval}, PCC {100 * row['pcc']:.1f}"
    if not row["each"]:
        return text
    return f"{text}; mean over recordings CCC {100 * row['mean_ccc']:.1f}, PCC {100 * row['mean_pcc']:.1f}"
