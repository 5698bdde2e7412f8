"""Modality conflict: whom does a model follow where those who heard a clip and those who saw it disagree?

CREMA-D has the votes (Cao et al. 2014): single majorities for voice and face differ in 3,023 of its clips, where those
who had both named the face's emotion 1,887 times, the voice's 548 times, and another one or none else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from avemo_jax.evaluation.intervals import bootstrap_scores

VOICE, FACE, BOTH = "majority_voice", "majority_face", "majority_both"
Row = dict[str, Any]


def conflict(
    labels: Sequence[Mapping[str, Any]], predicted: Sequence[str], speakers: np.ndarray
) -> Row | None:
    """How often predictions name the voice's emotion and how often the face's, among clips where they differ.

    Args:
      labels: each clip's, with the majorities of votes named above.
      predicted: class names [N].

    Returns:
      `n` clips in conflict; `voice`, `face` and `other`, counts of predictions; `face_share`, face / (face + voice),
      NaN where all are other ones, with `ci95` from resampling speakers; `raters`, the same three numbers and share of
      those who had both. None when no clip is in conflict.
    """
    chosen = [
        row
        for row, known in enumerate(labels)
        if known.get(VOICE) and known.get(FACE) and known[VOICE] != known[FACE]
    ]
    if not chosen:
        return None
    model = _followed([labels[row] for row in chosen], [predicted[row] for row in chosen])
    human = _followed([labels[row] for row in chosen], [labels[row].get(BOTH, "") for row in chosen])
    intervals = bootstrap_scores(lambda rows: {"share": _share(model[rows])}, np.asarray(speakers)[chosen])
    return {
        "n": len(chosen),
        **_counts(model),
        "face_share": _share(model),
        "ci95": list(intervals.bounds["share"]),
        "ci_unit": intervals.unit,
        "raters": {**_counts(human), "face_share": _share(human)},
    }


def _followed(labels: Sequence[Mapping[str, Any]], names: Sequence[str]) -> np.ndarray:
    """int [N]: 1 the face, −1 the voice, 0 neither."""
    return np.array(
        [(name == known[FACE]) - (name == known[VOICE]) for known, name in zip(labels, names, strict=True)],
        np.int64,
    )


def _counts(followed: np.ndarray) -> dict[str, int]:
    return {
        "voice": int((followed < 0).sum()),
        "face": int((followed > 0).sum()),
        "other": int((followed == 0).sum()),
    }


def _share(followed: np.ndarray) -> float:
    chosen = followed[followed != 0]
    return float((chosen > 0).mean()) if len(chosen) else float("nan")
