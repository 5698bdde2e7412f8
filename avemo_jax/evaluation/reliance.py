"""What becomes of a model's predictions when sound or picture is another clip's, the donor's (`corruptions.donors`):
how much of its score it loses, and how often it then says the donor's class."""

from __future__ import annotations

from typing import Any

import numpy as np

from avemo_jax.evaluation.intervals import bootstrap_scores, drawn_scores, quantiles
from avemo_jax.evaluation.outcomes import lower_is_better
from avemo_jax.evaluation.sums import Summed

Row = dict[str, Any]
_DRAWS = 500


def reliance(score: str, clean: Summed, swapped: Summed, speakers: np.ndarray) -> Row:
    """`reliance`: the share of the score that is lost (the perceptual score, Gat et al. 2021), 1 where all of it is;
    `reliance_ci95`, from resampling speakers. Nothing of a score that is an error, or that is not above 0.

    Args:
      score: its name.
      clean, swapped: predictions of N clips as they are, and with another clip's stream.
      speakers: [N].
    """
    every, sides = np.arange(len(speakers)), (clean, swapped)
    before, after = (one.scores[score](one.of(every, np.zeros_like(every))[0]) for one in sides)
    value = float(_lost(before, after))
    if lower_is_better(score) or np.isnan(value):
        return {}
    # The same seed draws the same speakers for both.
    drawn = (drawn_scores(one, every, speakers, draws=_DRAWS, seed=0)[0][score] for one in sides)
    bounds = quantiles(_lost(*drawn), (0.025, 0.975))
    return {"reliance": value, "reliance_ci95": list(bounds)}


def following(
    guess: np.ndarray, clean: np.ndarray, truth: np.ndarray, donor: np.ndarray, speakers: np.ndarray
) -> Row:
    """`follows_donor`: of the clips whose donor has another class the share that is given the donor's, with
    `follows_donor_ci95` from resampling speakers; `follows_donor_clean`, the share that is given it as the clips are;
    `donors`, how many such clips there are. Nothing where there are none.

    Args:
      guess, clean: predicted classes int [N] with the donor's stream, and of the clips as they are.
      truth: classes int [N].
      donor: classes of the donors int [N], −1 where there is no donor.
      speakers: [N].
    """
    asked = (donor >= 0) & (donor != truth)
    if not asked.any():
        return {}
    follows, before = (found[asked] == donor[asked] for found in (guess, clean))
    bounds = bootstrap_scores(
        lambda rows: {"follows": float(follows[rows].mean())}, speakers[asked], draws=_DRAWS
    ).bounds["follows"]
    return {
        "follows_donor": float(follows.mean()),
        "follows_donor_ci95": list(bounds),
        "follows_donor_clean": float(before.mean()),
        "donors": int(asked.sum()),
    }


def _lost(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Shares, NaN where there was nothing to lose."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(before > 0, (before - after) / before, np.nan)
