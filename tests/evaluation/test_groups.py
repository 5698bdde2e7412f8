"""Fairness by group, on predictions whose gaps are known by construction."""

import numpy as np
import pytest
from sklearn.metrics import recall_score

from avemo_jax.evaluation import groups
from avemo_jax.evaluation.sums import of_classes


def made(unfair, speakers=40, each=25, seed=0):
    """Two classes; speakers alternate between groups f and m; clips of m are right less often by `unfair`."""
    rng = np.random.default_rng(seed)
    speaker = np.repeat(np.arange(speakers), each)
    group = np.where(speaker % 2, "m", "f")
    labels = rng.integers(2, size=len(speaker))
    right = rng.random(len(speaker)) < 0.8 - unfair * (group == "m")
    return labels, np.where(right, labels, 1 - labels), speaker, group


def gap(labels, predicted, speaker, group, **options):
    return groups.gap(of_classes(labels, predicted, 2), speaker, group, **options)


def test_each_group_has_its_own_scores_and_recalls():
    labels, predicted, speaker, group = made(0.2)
    group[:50] = ""
    rows = groups.by_group(of_classes(labels, predicted, 2), speaker, group)
    assert [row["group"] for row in rows] == ["f", "m"]
    for row in rows:
        own = group == row["group"]
        expected = recall_score(labels[own], predicted[own], average=None)
        assert row["recall"] == pytest.approx(expected.tolist()) and row["uar"] == pytest.approx(
            expected.mean()
        )
        assert row["n"] == own.sum() and row["speakers"] == 19
        assert row["uar_ci95"][0] < row["uar"] < row["uar_ci95"][1]


def test_a_gap_that_is_there_is_found_and_chance_is_not_taken_for_one():
    found = gap(*made(0.2))
    assert found["best"] == "f" and found["worst"] == "m" and found["permuted"] == "speaker"
    assert found["gap"] == pytest.approx(0.2, abs=0.06) and found["p"] < 0.01
    low, high = found["gap_ci95"]
    assert 0 < low < found["gap"] < high and found["ci_unit"] == "speaker"
    # Clips of a speaker are drawn together here, but are as different as any: twice the standard error, by hand.
    error = np.sqrt(0.8 * 0.2 / 500 + 0.6 * 0.4 / 500)
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.3)
    ps = [gap(*made(0.0, seed=seed), draws=200)["p"] for seed in range(40)]
    assert np.mean(np.array(ps) <= 0.1) < 0.3 and 0.3 < np.mean(ps) < 0.7
    assert gap(*made(0.0))["expected"] == pytest.approx(0.02, abs=0.02)


def test_a_group_that_changes_within_speakers_is_permuted_by_clip_and_one_group_has_no_gap():
    labels, predicted, speaker, _ = made(0.0)
    by_clip = np.where(np.arange(len(labels)) % 2, "a", "b")
    assert gap(labels, predicted, speaker, by_clip, draws=50)["permuted"] == "clip"
    assert gap(labels, predicted, speaker, speaker.astype(str), draws=50)["permuted"] == "clip"
    assert gap(labels, predicted, speaker, np.full(len(labels), "a"))["gap"] is None


def test_ages_are_put_into_bands():
    bands = dict(zip(("20", "30", "44.5", "74"), ("under 30", "30–44", "30–44", "60+"), strict=True))
    bands |= dict.fromkeys(("", "old", "nan", "inf", "-1", "0", "999"), "")
    assert groups.bands(list(bands)) == list(bands.values())
