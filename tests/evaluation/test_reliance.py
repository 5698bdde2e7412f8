"""What swapped sound and pictures say of a model, from scores and predictions by hand."""

import numpy as np
import pytest

from avemo_jax.evaluation.reliance import following, reliance
from avemo_jax.evaluation.sums import Summed, of_classes

SPEAKERS = np.repeat(["s", "t", "u", "v"], 5)


def always(score, value):
    """Predictions with this score, whatever the clips."""
    return Summed(
        lambda clips, group: np.zeros((group.max() + 1, 1)),
        {score: lambda sums: np.full(sums.shape[:-1], value)},
    )


@pytest.mark.parametrize(("after", "lost"), [(0.2, 0.75), (0.9, -0.125)])
def test_reliance_is_the_share_of_the_score_that_another_clip_s_stream_costs(after, lost):
    found = reliance("war", always("war", 0.8), always("war", after), SPEAKERS)
    assert found["reliance"] == pytest.approx(lost) and found["reliance_ci95"] == pytest.approx([lost] * 2)
    for score, before in (("mae", 0.8), ("ccc", -0.1)):
        assert reliance(score, always(score, before), always(score, after), SPEAKERS) == {}


def test_its_interval_draws_speakers_for_both_scores_at_once():
    right = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]]).ravel()
    half = right * np.tile([1, 0, 0, 0, 0], 4)
    clean, swapped = (of_classes(np.ones_like(right), guess, 2) for guess in (right, half))
    found = reliance("war", clean, swapped, SPEAKERS)
    low, high = found["reliance_ci95"]
    assert found["reliance"] == pytest.approx(1 - 4 / 12)
    assert 0 <= low < found["reliance"] < high <= 0.8  # of one speaker alone: 0, 1/2, 3/4, 4/5


def test_where_speakers_are_the_classes_one_drawn_twice_counts_twice():
    speaker = np.repeat(np.arange(9), 20)
    right, left = (np.tile(np.arange(20), 9) < np.repeat(shares, 20) for shares in (range(4, 21, 2), [4] * 9))
    clean, swapped = (of_classes(speaker, np.where(hit, speaker, 9), 10) for hit in (right, left))
    found = reliance("uar", clean, swapped, speaker)
    recalls = np.random.default_rng(1).choice(np.arange(4, 21, 2) / 20, (4000, 9)).mean(1)
    assert found["reliance"] == pytest.approx(1 - 0.2 / 0.6)
    assert found["reliance_ci95"] == pytest.approx(np.quantile(1 - 0.2 / recalls, [0.025, 0.975]), abs=0.015)


def test_the_donor_is_followed_by_clips_that_get_its_class_where_that_is_another():
    truth = np.tile([0, 1, 2, 0, 1], 4)
    donor = np.tile([1, 2, 0, 0, -1], 4)  # the fourth's is of its own class, the fifth has none
    guess = np.tile([1, 1, 0, 0, 1], 4)
    found = following(guess, truth, truth, donor, SPEAKERS)
    assert found["donors"] == 12 and found["follows_donor"] == pytest.approx(2 / 3)
    assert found["follows_donor_clean"] == 0 and found["follows_donor_ci95"] == pytest.approx([2 / 3] * 2)
    guess[10:] = donor[10:]
    found = following(guess, guess, truth, donor, SPEAKERS)
    low, high = found["follows_donor_ci95"]
    assert found["follows_donor"] == found["follows_donor_clean"] == pytest.approx(5 / 6)
    assert low < found["follows_donor"] < high
    assert following(guess, guess, truth, truth, SPEAKERS) == {}
