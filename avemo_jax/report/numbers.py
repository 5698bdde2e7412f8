"""How a number is written, everywhere on a page. Scores and shares are fractions in the data and per cent here."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from avemo_jax.training.watching import RECALL

NONE = "–"


def percent(fraction: float | None, digits: int = 1) -> str:
    """0.6764 → 67.6; the sign stands in the heading."""
    return NONE if fraction is None else f"{100 * fraction:.{digits}f}"


def interval(bounds: Sequence[float] | None) -> str:
    """(0.647, 0.707) → [64.7, 70.7]."""
    return NONE if bounds is None else f"[{', '.join(percent(bound) for bound in bounds)}]"


def value(number: float | None) -> str:
    """Four significant digits, three of very small and large ones: 0.9775, 10.39, 6.00e-04."""
    if number is None or not math.isfinite(number):
        return NONE
    if number == 0 or (float(number).is_integer() and abs(number) < 1e4):
        return f"{number:.0f}"
    if not 1e-3 <= abs(number) < 1e6:
        return f"{number:.2e}"
    digits = max(0, 3 - math.floor(math.log10(abs(number))))
    return f"{number:,.{digits}f}"


def count(number: float | None) -> str:
    """30400 → 30,400."""
    return NONE if number is None else f"{number:,.0f}"


def duration(seconds: float | None) -> str:
    """75.2 → 1 min 15 s; 3.21 → 3.2 s; 4000 → 1 h 07 min."""
    if seconds is None:
        return NONE
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def moment(text: str | None) -> str:
    """An ISO time in UTC, to the minute: 2026-11-24 18:29 UTC."""
    try:
        return datetime.fromisoformat((text or "").replace("Z", "+00:00")).strftime("%Y-%m-%d %H:%M UTC")
    except ValueError:
        return NONE


def is_share(key: str) -> bool:
    """Is this number of `metrics.jsonl` a fraction, which is shown in per cent?"""
    return RECALL in key or "accuracy" in key or key.endswith(("_share", *_SCORES))


def metric(number: float | None, key: str) -> str:
    """A number of `metrics.jsonl`."""
    if is_share(key):
        return NONE if number is None else f"{percent(number)} %"
    return value(number)


def recall_of(key: str) -> tuple[str, str] | None:
    """(whose clips, class) of a key that says how often a class is found; None for any other. Of several heads it is
    whose clips and which head, `development_HEAD`."""
    looked_at, _, name = key.partition(RECALL)
    return (looked_at, name) if looked_at.partition("_")[0] in _LOOKED_AT and name else None


def title(key: str) -> str:
    """A key of the data in words: loss_video → Video error."""
    prefix, _, score = key.partition("_")
    if prefix in _LOOKED_AT:
        return f"{score.upper() if len(score) < 4 else score.replace('_', ' ').capitalize()} of {_LOOKED_AT[prefix]}"
    return _TITLES.get(key, key.replace("_", " ").capitalize())


def whose(looked_at: str) -> str:
    """Clips that were looked at, in words."""
    clips, _, head = looked_at.partition("_")
    return f"{_LOOKED_AT[clips]} of {head}" if head else _LOOKED_AT[clips]


FILTERS: dict[str, Callable[..., Any]] = {
    "percent": percent,
    "interval": interval,
    "value": value,
    "count": count,
    "duration": duration,
    "moment": moment,
    "metric": metric,
    "title_of": title,
    "whose": whose,
}

_SCORES = ("_uar", "_war", "_wf1", "_macro_f1", "_micro_f1", "_map", "_auc", "_top2", "_top3")
_LOOKED_AT = {"development": "the development clips", "test": "the test clips"}
_TITLES = {
    "loss": "Total loss",
    "loss_video": "Video error",
    "loss_audio": "Audio error",
    "loss_contrast": "Contrast, sum of levels",
    "contrast_accuracy": "Pairs matched in the batch",
    "accuracy": "Accuracy in the batch",
    "learning_rate": "Learning rate",
    "grad_norm": "Gradient norm",
    "clips_per_s": "Clips a second",
    "input_wait_share": "Time waiting for input",
    "steps": "Steps",
    "compiling": "Compiling",
    "input": "Waiting for input",
    "checkpoints": "Checkpoints",
    "pictures": "Pictures",
    "looks": "Scoring",
    "restoring": "Restoring",
    "other": "Other",
}
