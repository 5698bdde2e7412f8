"""The bootstrap draws speakers with all their clips."""

import tracemalloc

import numpy as np
import pytest

from avemo_jax.evaluation import intervals, metrics, paired


def test_a_score_that_every_speaker_shares_has_an_interval_of_no_width():
    labels = np.tile([0, 0, 1, 1], 6)
    predicted = np.tile([0, 1, 1, 1], 6)
    result = intervals.bootstrap(labels, predicted, np.repeat(list("abcdef"), 4), 2)
    assert result.bounds["uar"] == pytest.approx((0.75, 0.75))
    assert (result.unit, result.groups) == ("speaker", 6)


def test_speakers_that_differ_widen_the_interval_beyond_that_of_single_clips():
    rng = np.random.default_rng(0)
    speakers = np.repeat(np.arange(8), 40)
    labels = rng.integers(0, 2, 320)
    predicted = np.where(rng.random(320) < np.linspace(0.3, 1.0, 8)[speakers], labels, 1 - labels)
    by_speaker = intervals.bootstrap(labels, predicted, speakers, 2).bounds["war"]
    by_clip = intervals.bootstrap(labels, predicted, np.arange(320), 2).bounds["war"]
    war = metrics.war(metrics.confusion_matrix(labels, predicted, 2))
    assert by_speaker[0] < by_clip[0] < war < by_clip[1] < by_speaker[1]


def test_the_interval_of_accuracy_by_clip_is_the_binomial_one():
    correct = np.arange(400) < 240
    labels = np.zeros(400, int)
    result = intervals.bootstrap(labels, np.where(correct, 0, 1), np.arange(400), 2, draws=4000)
    half = 1.96 * np.sqrt(0.6 * 0.4 / 400)
    assert result.bounds["war"] == pytest.approx((0.6 - half, 0.6 + half), abs=0.006)


def test_one_speaker_is_resampled_by_clip_and_the_result_says_so():
    result = intervals.bootstrap(np.array([0, 1, 0, 1]), np.array([0, 1, 1, 1]), np.array(["s1"] * 4), 2)
    assert (result.unit, result.groups) == ("clip", 4)


def test_clips_without_a_speaker_are_drawn_one_by_one_and_not_as_one_speaker():
    labels = np.zeros(300, int)
    predicted = np.where(np.arange(300) % 2, 0, 1)
    speakers = np.array(["a"] * 50 + ["b"] * 50 + [""] * 200)
    result = intervals.bootstrap(labels, predicted, speakers, 2)
    named = np.where(speakers == "", [f"n{row}" for row in range(300)], speakers)
    assert result == intervals.bootstrap(labels, predicted, named, 2) and result.groups == 202
    assert paired.paired_tests(labels, predicted, labels, speakers, 2)["groups"] == 202
    by_score = intervals.bootstrap_scores(lambda rows: {"n": len(rows)}, speakers, draws=5)
    assert (by_score.unit, by_score.groups) == ("speaker", 202)
    assert intervals.units(np.full(3, ""))[0] == "clip"


def test_speakers_are_counted_by_their_names():
    assert intervals.count_speakers(np.array(["a", "b", "a"])) == 2
    assert intervals.count_speakers(np.array(["a", "", "b"])) == 2
    assert intervals.count_speakers(np.array([""] * 4)) == 0


def test_the_same_seed_gives_the_same_interval():
    rng = np.random.default_rng(1)
    arguments = (rng.integers(0, 3, 90), rng.integers(0, 3, 90), rng.integers(0, 9, 90), 3)
    assert intervals.bootstrap(*arguments, seed=4) == intervals.bootstrap(*arguments, seed=4)
    assert intervals.bootstrap(*arguments, seed=4) != intervals.bootstrap(*arguments, seed=5)


@pytest.mark.parametrize("speakers", [1, 9, 60])
def test_draws_are_sums_of_whole_confusion_matrices(speakers):
    """As they were summed before, [speakers, K²] and [draws, K²] numbers at a time."""
    rng = np.random.default_rng(2)
    labels, predicted, speaker = (rng.integers(0, high, 200) for high in (7, 7, speakers))
    group = np.unique(speaker, return_inverse=True)[1] if speakers > 1 else np.arange(200)
    tables = np.zeros((group.max() + 1, 7, 7), np.int64)
    np.add.at(tables, (group, labels, predicted), 1)
    drawn = np.random.default_rng(0).multinomial(len(tables), [1 / len(tables)] * len(tables), size=2000)
    confusions = np.tensordot(drawn, tables, 1)
    found = intervals.bootstrap(labels, predicted, speaker, 7)
    for name, score in (("uar", metrics.uar), ("war", metrics.war), ("wf1", metrics.weighted_f1)):
        expected = np.nanquantile(score(confusions), [0.025, 0.975])
        np.testing.assert_allclose(found.bounds[name], expected, rtol=1e-13)


def test_hundreds_of_speakers_to_be_told_apart_take_little_memory():
    speakers = np.repeat(np.arange(300), 4)
    predicted = np.random.default_rng(0).permutation(speakers)
    tracemalloc.start()
    intervals.bootstrap(speakers, predicted, speakers, 300)
    paired.paired_tests(speakers, predicted, speakers, speakers, 300)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200e6


def test_where_speakers_are_the_classes_one_drawn_twice_counts_twice():
    rng = np.random.default_rng(0)
    speakers = np.repeat(np.arange(9), rng.integers(5, 20, 9))
    predicted = np.where(rng.random(len(speakers)) < np.linspace(0.2, 1, 9)[speakers], speakers, 0)
    found = intervals.bootstrap(speakers, predicted, speakers.astype(str), 9, draws=4000)
    recalls = np.array([np.mean(predicted[speakers == one] == one) for one in range(9)])
    drawn = np.random.default_rng(1).choice(recalls, (4000, 9)).mean(1)
    assert found.bounds["uar"] == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.02)
    assert found.unit == "speaker"


def test_where_speakers_are_the_classes_a_difference_counts_one_drawn_twice_twice_too():
    rng = np.random.default_rng(0)
    speakers = np.repeat(np.arange(9), rng.integers(5, 20, 9))
    here, there = (
        np.where(rng.random(len(speakers)) < np.linspace(*ends, 9)[speakers], speakers, 0)
        for ends in ((0.2, 1), (0.9, 0.3))
    )
    found = paired.paired_tests(speakers, here, there, speakers.astype(str), 9)
    apart = np.array(
        [np.mean((here == one)[speakers == one] - 1.0 * (there == one)[speakers == one]) for one in range(9)]
    )
    drawn = rng.choice(apart, (4000, 9)).mean(1)
    assert found["uar_difference"] == pytest.approx(apart.mean())
    assert found["uar_difference_ci95"] == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.02)
    never_right = paired.paired_tests(speakers, here, np.full_like(speakers, 9), speakers, 10)
    alone = intervals.bootstrap(speakers, here, speakers, 10).bounds["uar"]
    assert never_right["uar_difference_ci95"] == pytest.approx(alone)
