"""What swapped sound and pictures say of a model, from scores and predictions by hand."""

import numpy as np
import pytest

from avemo_jax.evaluation.reliance import following, reliance

SPEAKERS = np.repeat(["s", "t", "u", "v"], 5)


@pytest.mark.parametrize(("after", "lost"), [(0.2, 0.75), (0.9, -0.125)])
def test_reliance_is_the_share_of_the_score_that_another_clip_s_stream_costs(after, lost):
    found = reliance("uar", lambda rows: (0.8, after), SPEAKERS)
    assert found["reliance"] == pytest.approx(lost) and found["reliance_ci95"] == pytest.approx([lost] * 2)
    for score, before in (("mae", 0.8), ("ccc", -0.1)):
        assert reliance(score, lambda rows, before=before: (before, after), SPEAKERS) == {}


def test_its_interval_draws_speakers_for_both_scores_at_once():
    right = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]]).ravel()
    half = right * np.tile([1, 0, 0, 0, 0], 4)
    found = reliance("war", lambda rows: (right[rows].mean(), half[rows].mean()), SPEAKERS)
    low, high = found["reliance_ci95"]
    assert found["reliance"] == pytest.approx(1 - 4 / 12)
    assert 0 <= low < found["reliance"] < high <= 0.8  # of one speaker alone: 0, 1/2, 3/4, 4/5


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
