"""Temperatures and thresholds from development clips, against scikit-learn and SciPy."""

import numpy as np
import pytest
from scipy import optimize, special
from sklearn.metrics import f1_score

from avemo_jax.convert.huggingface.files import deciding
from avemo_jax.evaluation import decisions
from avemo_jax.evaluation.views import Merger
from input_pipeline.targets import Target

CLASSES = ("a", "b", "c", "d")
RNG = np.random.default_rng(3)


def of_rule(rule, clips=200, sharpness=4.0):
    """(target, probabilities, truth) of a model that is too sure of itself by `sharpness`."""
    logits = RNG.standard_normal((clips, 4)) * 1.5
    if rule == "multi_label":
        truth = (RNG.random((clips, 4)) < special.expit(logits)).astype(np.float32)
        return Target(rule, ("votes",), CLASSES), special.expit(sharpness * logits), truth
    chances, told = special.softmax(logits, 1), special.softmax(sharpness * logits, 1)
    if rule == "distribution":
        return Target(rule, ("votes",), CLASSES), told, RNG.multinomial(9, chances) / 9
    truth = np.array([RNG.choice(4, p=row) for row in chances])
    return Target("class", ("emotion",), CLASSES), told, truth


@pytest.mark.parametrize("rule", ["class", "distribution", "multi_label"])
def test_the_temperature_undoes_how_much_too_sure_a_model_is(rule):
    target, told, truth = of_rule(rule, clips=3000)
    found = decisions.fit(target, told, truth)
    assert 3.5 < found["temperature"] < 4.5 and found["clips"] == 3000


@pytest.mark.parametrize("rule", ["class", "distribution", "multi_label"])
def test_the_temperature_is_what_scipy_finds_from_the_formula(rule):
    target, told, truth = of_rule(rule, clips=60)
    if rule == "multi_label":
        wanted = (60 * truth + 0.5) / 61

        def loss(log):
            logits = special.logit(np.clip(told, 1e-6, 1 - 1e-6)) / np.exp(log)
            return -(wanted * special.log_expit(logits) + (1 - wanted) * special.log_expit(-logits)).mean()
    else:
        wanted = (60 * (np.eye(4)[truth] if rule == "class" else truth) + 0.25) / 61

        def loss(log):
            return -(wanted * special.log_softmax(np.log(np.maximum(told, 1e-6)) / np.exp(log), 1)).sum()

    best = optimize.brute(loss, [slice(-3, 3, 0.01)], finish=optimize.fmin, full_output=False)
    assert decisions.fit(target, told, truth)["temperature"] == pytest.approx(np.exp(best[0]), rel=1e-3)


def test_clips_that_were_all_right_do_not_make_a_model_certain():
    truth = np.arange(12) % 4
    told = special.softmax(3 * np.eye(4)[truth], 1)
    target = Target("class", ("emotion",), CLASSES)
    found = decisions.fit(target, told, truth)
    assert 0.9 < decisions.applied(found, target, told).max() < 0.99


def test_thresholds_have_the_highest_f1_that_any_threshold_has_and_unseen_classes_one_half():
    target, told, truth = of_rule("multi_label", clips=80)
    truth[:, 3] = 0
    truth[:, 2] = 1
    found = decisions.fit(target, told, truth)
    tempered = decisions.applied(found, target, told)
    assert found["unseen"] == ["d"] and found["thresholds"][3] == 0.5
    for k in range(3):
        tried = [f1_score(truth[:, k], tempered[:, k] >= edge) for edge in np.linspace(0, 1, 401)]
        ours = f1_score(truth[:, k], tempered[:, k] >= found["thresholds"][k])
        assert ours >= max(tried) - 1e-12
    scored = decisions.judged(found, target, told, truth, np.repeat(list("stuv"), 20))
    chosen = tempered >= np.array(found["thresholds"])
    assert scored["after"]["macro_f1"] == pytest.approx(
        f1_score(truth, chosen, average="macro", zero_division=0)
    )
    assert scored["before"]["macro_f1"] == pytest.approx(
        f1_score(truth, told >= 0.5, average="macro", zero_division=0)
    )
    low, high = scored["after"]["macro_f1_ci95"]
    assert low <= scored["after"]["macro_f1"] <= high


def test_values_are_told_as_they_are():
    assert decisions.fit(Target("values", ("x", "y")), np.zeros((5, 2)), np.zeros((5, 2))) is None


@pytest.mark.parametrize("rule", ["class", "distribution", "multi_label", "values"])
def test_the_exported_folders_own_code_merges_and_tempers_as_evaluation_does(rule):
    outputs = RNG.standard_normal((2, 5, 4)) * 3  # views, clips, outputs
    target = Target(rule, CLASSES) if rule == "values" else Target(rule, ("votes",), CLASSES)
    merger = Merger(target, 2)
    for view in outputs:
        merger.add(np.arange(5), view)
    expected = merger.merged(range(5))[1]
    decision = {"temperature": 1.7}
    if rule != "values":
        expected = decisions.applied(decision, target, expected)
    head = {"predicts": rule, **decision}
    for clip in range(5):
        np.testing.assert_allclose(deciding.merged(outputs[:, clip], head), expected[clip], rtol=1e-9)


def test_decisions_by_rule():
    told = {"a": 0.2, "b": 0.7, "c": 0.4}
    decide = lambda **head: deciding.decided(told, head, list(told))  # noqa: E731
    assert decide(predicts="class") == "b" and decide(predicts="distribution") == "b"
    assert decide(predicts="multi_label") == ["b"]
    assert decide(predicts="multi_label", thresholds={"a": 0.1, "b": 0.9, "c": 0.4}) == ["a", "c"]
    assert decide(predicts="values") == told
