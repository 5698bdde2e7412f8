"""Calibration against definitions written out clip by clip, scikit-learn, and models whose truth is known."""

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from avemo_jax.evaluation import calibration

RNG = np.random.default_rng(0)


def drawn(clips=4000, classes=4, temperature=1.0):
    """Probabilities that are exactly right, as a model that is `temperature` times too sure gives them, and labels."""
    logits = RNG.normal(size=(clips, classes)) * 1.5
    true = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = np.array([RNG.choice(classes, p=row) for row in true])
    return calibration.tempered(true, 1 / temperature), labels


def test_the_calibration_error_is_its_definition():
    probabilities, labels = drawn(300)
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    total = 0.0
    for bin_ in range(15):
        inside = (confidence > bin_ / 15) & (confidence <= (bin_ + 1) / 15)
        if inside.any():
            total += inside.sum() * abs(right[inside].mean() - confidence[inside].mean())
    assert calibration.calibration_error(probabilities, labels) == pytest.approx(total / 300)
    mass = calibration.reliability(probabilities, labels, bins=10, equal_mass=True)
    assert mass.clips.tolist() == [30] * 10 and (np.diff(mass.confidence) > 0).all()
    order = np.argsort(confidence).reshape(10, 30)
    expected = np.mean([abs(right[rows].mean() - confidence[rows].mean()) for rows in order])
    assert calibration.calibration_error(probabilities, labels, 10, equal_mass=True) == pytest.approx(
        expected
    )


def test_clips_that_are_all_as_sure_are_one_bin():
    found = calibration.reliability(np.full((3, 2), 0.5), np.array([0, 1, 1]), equal_mass=True)
    assert [values.tolist() for values in found] == [[0.0], [0.5], [3], [0.5], [pytest.approx(1 / 3)]]
    one = np.array([[0.7, 0.3]] * 2)  # a draw of a bootstrap that has one clip twice
    assert calibration.scores(one, np.zeros(2, int))["ace"] == pytest.approx(0.3)


def test_proper_scores_are_those_of_scikit_learn():
    probabilities, labels = drawn(200)
    assert calibration.cross_entropy(probabilities, labels) == pytest.approx(
        sklearn_metrics.log_loss(labels, probabilities, labels=range(4))
    )
    single = probabilities.astype(np.float32)
    for score in (calibration.brier, calibration.fit_temperature):  # computed in double precision
        assert score(single, labels) == score(single.astype(np.float64), labels)
    two = np.stack([1 - probabilities[:, 0], probabilities[:, 0]], axis=1)
    first = (labels == 0).astype(int)
    assert calibration.brier(two, first) == pytest.approx(
        2 * sklearn_metrics.brier_score_loss(first, probabilities[:, 0])
    )


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_of_a_model_that_is_too_sure_or_not_sure_enough_is_found(temperature):
    probabilities, labels = drawn(temperature=temperature)
    found = calibration.fit_temperature(probabilities, labels)
    assert found == pytest.approx(temperature, rel=0.08)
    before = calibration.calibration_error(probabilities, labels)
    after = calibration.calibration_error(calibration.tempered(probabilities, found), labels)
    assert after < 0.03 and (temperature == 1.0 or before > 3 * after)


def test_no_clip_has_a_say_in_its_own_temperature():
    probabilities, labels = drawn(400, temperature=2.0)
    parts = np.repeat(["a", "b", "c", "d"], 100)
    temperatures = calibration.cross_fitted(probabilities, labels, parts)
    others = parts != "b"
    expected = calibration.fit_temperature(probabilities[others], labels[others])
    assert temperatures[100:200] == pytest.approx(np.full((100, 1), expected))
    with pytest.raises(ValueError, match="at least two"):
        calibration.cross_fitted(probabilities, labels, np.full(400, "a"))


def test_risk_falls_with_coverage_where_confidence_means_something():
    probabilities, labels = drawn()
    coverage, risk = calibration.risk_coverage(probabilities, labels)
    wrong = (probabilities.argmax(1) != labels).mean()
    assert coverage[-1] == 1 and risk[-1] == pytest.approx(wrong)
    assert calibration.scores(probabilities, labels)["risk_at_80"] < wrong
    same = np.full((10, 2), 0.5)
    _, flat = calibration.risk_coverage(same, np.array([0] * 6 + [1] * 4))
    np.testing.assert_allclose(flat, 0.4)
