"""Scores against numbers recorded from HiCMAE's evaluation, and against scikit-learn and SciPy."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial import distance
from sklearn import metrics as sk

from avemo_jax.evaluation import metrics
from avemo_jax.evaluation.sums import summed

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "metrics.json").read_text())


def _confusion(case):
    logits = np.array(case["logits"])
    return metrics.confusion_matrix(np.array(case["labels"]), logits.argmax(1), logits.shape[1])


@pytest.mark.parametrize("case", GOLDEN["classification"], ids=lambda case: f"{len(case['labels'])}_clips")
def test_classification_scores_are_the_reference_s(case):
    scores = metrics.classification_scores(_confusion(case))
    expected = case["result"]
    assert scores["uar"] == pytest.approx(expected["uar"], abs=1e-12)
    assert scores["war"] == pytest.approx(expected["war"], abs=1e-12)
    assert scores["wf1"] == pytest.approx(expected["weighted_f1"], abs=1e-12)
    assert scores["macro_f1"] == pytest.approx(expected["macro_f1"], abs=1e-12)


def test_a_predicted_but_absent_class_is_left_out_or_nan_as_the_reference_has_it():
    case = GOLDEN["classification_absent_class"]
    confusion = _confusion(case)
    assert np.isnan(case["result"]["uar"]) and np.isnan(metrics.uar(confusion, absent="nan"))
    labels, predicted = np.array(case["labels"]), np.array(case["logits"]).argmax(1)
    recalls = [(predicted[labels == name] == name).mean() for name in set(case["labels"])]
    assert metrics.uar(confusion) == pytest.approx(np.mean(recalls))
    assert metrics.weighted_f1(confusion) == pytest.approx(case["result"]["weighted_f1"])
    assert metrics.macro_f1(confusion) == pytest.approx(case["result"]["macro_f1"])


def test_the_reference_s_uar_ignores_a_class_that_nobody_has_or_predicts():
    confusion = np.array([[2, 1, 0], [0, 3, 0], [0, 0, 0]])
    assert metrics.uar(confusion, absent="nan") == pytest.approx((2 / 3 + 1) / 2)


@st.composite
def _predictions(draw):
    classes = draw(st.integers(2, 6))
    one = st.integers(0, classes - 1)
    pairs = draw(st.lists(st.tuples(one, one), min_size=1, max_size=60))
    return classes, *np.array(pairs).T


@given(_predictions())
def test_class_scores_agree_with_scikit_learn_on_any_predictions(case):
    classes, labels, predicted = case
    confusion = metrics.confusion_matrix(labels, predicted, classes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert metrics.uar(confusion) == pytest.approx(sk.balanced_accuracy_score(labels, predicted))
        assert metrics.war(confusion) == pytest.approx(sk.accuracy_score(labels, predicted))
        for score, average in ((metrics.weighted_f1, "weighted"), (metrics.macro_f1, "macro")):
            expected = sk.f1_score(labels, predicted, average=average, zero_division=0)
            assert score(confusion) == pytest.approx(expected)


@pytest.mark.parametrize("case", GOLDEN["regression"], ids=lambda case: f"{len(case['pred'])}_clips")
def test_regression_scores_are_the_reference_s(case):
    scores = metrics.regression_scores(np.array(case["pred"]), np.array(case["target"]))
    for name in ("mae", "mse", "rmse", "pcc", "ccc"):
        mean, per_dimension = case["metrics"][name]
        np.testing.assert_allclose(scores[name], per_dimension, rtol=2e-5, atol=2e-6)  # recorded in float32
        np.testing.assert_allclose(scores[name].mean(), mean, rtol=2e-5, atol=2e-6)


def test_pcc_is_pearson_s_r_and_ccc_punishes_a_shift_that_pcc_forgives():
    rng = np.random.default_rng(0)
    target = rng.standard_normal((50, 1))
    predicted = 0.5 * target + 0.3 * rng.standard_normal((50, 1))
    scores = metrics.regression_scores(predicted, target)
    shifted = metrics.regression_scores(predicted + 1, target)
    assert scores["pcc"][0] == pytest.approx(stats.pearsonr(predicted[:, 0], target[:, 0]).statistic)
    assert shifted["pcc"][0] == pytest.approx(scores["pcc"][0]) and shifted["ccc"][0] < scores["ccc"][0]


@pytest.mark.parametrize("constant", [0.1, 0.5, 1 / 3, 1e4])
def test_a_constant_has_no_correlation_whatever_its_mean_rounds_to(constant):
    varied = np.random.default_rng(0).standard_normal((30, 1))
    same = np.full((30, 1), constant)
    for predicted, target in ((same, varied), (varied, same), (same, same), (same, same + 1)):
        scores = metrics.regression_scores(predicted, target)
        sums = summed("values", predicted, target)
        every = sums.of(np.arange(30), np.zeros(30, int))[0]
        # Groups of a whole that varies: their constants have no correlation either.
        both = summed("values", np.concatenate([predicted, varied]), np.concatenate([target, varied]))
        group = both.of(np.arange(60), np.arange(60) // 30)[0]
        for found in (scores["pcc"][0], sums.scores["pcc"](every), both.scores["pcc"](group)):
            assert np.isnan(found)
        ccc = 0 if (predicted != target).any() else np.nan
        for found in (scores["ccc"][0], sums.scores["ccc"](every), both.scores["ccc"](group)):
            assert found == pytest.approx(ccc, abs=1e-12, nan_ok=True)
    many = summed("values", np.full((100_000, 1), constant), np.arange(100_000.0)[:, None])
    assert np.isnan(many.scores["pcc"](many.of(np.arange(100_000), np.zeros(100_000, int))[0]))


RNG = np.random.default_rng(3)


@pytest.mark.parametrize("ties", [False, True])
def test_top_k_ranking_and_areas_are_scikit_learn_s(ties):
    labels = RNG.integers(0, 5, 200)
    scores = RNG.dirichlet(np.ones(5), 200)
    if ties:
        scores = np.round(scores, 1)
    present = np.arange(5) == labels[:, None]
    if not ties:  # scikit-learn breaks ties in another way
        for k in (1, 2, 3):
            assert metrics.top_k(scores, labels, k) == pytest.approx(
                sk.top_k_accuracy_score(labels, scores, k=k)
            )
    np.testing.assert_allclose(
        metrics.auc(scores, present), [sk.roc_auc_score(present[:, k], scores[:, k]) for k in range(5)]
    )
    np.testing.assert_allclose(
        metrics.average_precision(scores, present),
        [sk.average_precision_score(present[:, k], scores[:, k]) for k in range(5)],
    )


def test_of_equally_likely_classes_the_first_ones_are_at_the_top():
    assert metrics.top_k(np.full((1, 4), 0.25), np.array([1]), 2) == 1
    assert metrics.top_k(np.full((1, 4), 0.25), np.array([2]), 2) == 0


def test_scores_of_several_classes_a_clip_are_scikit_learn_s():
    present = RNG.random((150, 6)) < 0.3
    probabilities = np.clip(0.4 * present + 0.6 * RNG.random((150, 6)), 0, 1)
    present[:, 5] = False  # nobody's
    scores = metrics.multi_label_scores(probabilities, present.astype(np.float32))
    predicted = probabilities >= 0.5
    for average in ("macro", "micro", "weighted"):
        expected = sk.f1_score(present, predicted, average=average, zero_division=0)
        assert scores[f"{average}_f1"] == pytest.approx(expected)
    known = (present[:, :5], probabilities[:, :5])
    assert scores["map"] == pytest.approx(sk.average_precision_score(*known))
    assert scores["auc"] == pytest.approx(sk.roc_auc_score(*known))
    assert scores["exact"] == pytest.approx(sk.accuracy_score(present, predicted))


def test_distances_of_distributions_are_scipy_s():
    target, predicted = (RNG.dirichlet(np.ones(5), 40) for _ in range(2))
    target[0] = [0, 0.5, 0.5, 0, 0]
    np.testing.assert_allclose(
        metrics.kl_divergence(target, predicted), stats.entropy(target, predicted, axis=1)
    )
    np.testing.assert_allclose(
        metrics.jensen_shannon(target, predicted), distance.jensenshannon(target, predicted, axis=1) ** 2
    )
    assert metrics.kl_divergence([[0.5, 0.5]], [[1.0, 0.0]]) == np.inf
    assert metrics.jensen_shannon([[0.0, 1.0]], [[1.0, 0.0]]) == pytest.approx(np.log(2))
