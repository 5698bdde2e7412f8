"""How much a model goes by sound and by picture, from its scores when either is another clip's (`corruptions`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from avemo_jax.evaluation.outcomes import lower_is_better

_SWAPPED = ("swapped_audio", "swapped_video")
Row = dict[str, Any]


def with_reliance(rows: Sequence[Row]) -> list[Row]:
    """The rows of a model, the clips as they are first, with `reliance` in those of swapped sound and swapped picture:
    the share of the score that is lost (the perceptual score, Gat et al. 2021), 1 where all of it is. There is none of
    a score that is an error, or that is not above 0.

    Args:
      rows: with `corruption`, `score` (the name of one of their keys) and `change`, see `tasks.robustness.rows`.
    """
    clean = rows[0][rows[0]["score"]]
    gains = clean > 0 and not lower_is_better(rows[0]["score"])
    return [
        {**row, "reliance": -row["change"] / clean} if gains and row["corruption"] in _SWAPPED else dict(row)
        for row in rows
    ]
