"""Windows over long recordings, and their values joined to a sequence. Needs NumPy alone: exported folders have it too.

Windows may overlap and leave gaps. Three rules:

  mean      at a time, the mean of all windows that cover it
  triangle  likewise, a window's weight falling linearly from its middle to its ends
  centre    a window stands for its middle, and between two middles lies a straight line

At times that no window covers there is nothing.
"""

from __future__ import annotations

import numpy as np

RULES = ("mean", "triangle", "centre")
_LEAST = 1e-6  # weight of a window at its very ends, so that what one window alone covers is its own


def spans(first_s: float, last_s: float, window_s: float, hop_s: float) -> list[tuple[float, float]]:
    """(start, end) of windows every `hop_s` from `first_s` on; one more ends at `last_s` where they leave some of it,
    and what is shorter than a window is one by itself."""
    count = int(np.floor((last_s - first_s - window_s) / hop_s + 1e-9)) + 1
    starts = [first_s + number * hop_s for number in range(max(0, count))]
    if not starts or starts[-1] + window_s < last_s - 1e-9:
        starts.append(max(first_s, last_s - window_s))
    return [(start, min(last_s, start + window_s)) for start in starts]


def grid(start: np.ndarray, end: np.ndarray, step_s: float) -> np.ndarray:
    """Times [T] of the sequence that windows [N] make: the middles of steps, from the first window's start on."""
    count = int(np.ceil((end.max() - start.min()) / step_s - 1e-9))
    return start.min() + step_s * (np.arange(count) + 0.5)


def stitch(
    start: np.ndarray, end: np.ndarray, values: np.ndarray, times: np.ndarray, rule: str
) -> np.ndarray:
    """The sequence [T, K] at these times [T] of windows [N] with values [N, K]; NaN where there is nothing."""
    middle = (start + end) / 2
    covers = (times[:, None] >= start) & (times[:, None] < end)
    if rule == "centre":
        order = np.argsort(middle, kind="stable")
        lines = np.stack([np.interp(times, middle[order], column[order]) for column in values.T], -1)
        return np.where(covers.any(1, keepdims=True), lines, np.nan)
    weights = covers.astype(float)
    if rule == "triangle":
        away = np.abs(times[:, None] - middle) / ((end - start) / 2)
        weights *= np.maximum(1 - away, _LEAST)
    total = weights.sum(1, keepdims=True)
    return np.divide(
        weights @ values, total, out=np.full((len(times), values.shape[1]), np.nan), where=total > 0
    )
