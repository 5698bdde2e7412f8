"""The batched logistic regression against scikit-learn's, coefficient by coefficient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from avemo_jax.evaluation import logistic, probes


def _data(rows=120, width=30, classes=4, seed=0):
    """Correlated columns of very different spread directions, classes that overlap."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, rows)
    inputs = rng.standard_normal((rows, 8)) @ rng.standard_normal((8, width))
    inputs += 0.3 * rng.standard_normal((rows, width))
    inputs += rng.standard_normal((classes, width))[labels] * 0.4
    return ((inputs - inputs.mean(0)) / inputs.std(0)).astype(np.float32), labels


def _turned(inputs):
    return jnp.asarray(inputs @ probes.principal_axes(inputs), jnp.float32)


def _oracle(inputs, labels, inverse_penalty):
    model = LogisticRegression(C=inverse_penalty, tol=1e-9, max_iter=20000)
    return model.fit(inputs.astype(np.float64), labels)


@pytest.mark.parametrize("inverse_penalty", [1e-4, 1e-2, 1.0])
def test_coefficients_and_bias_are_scikit_learn_s(inverse_penalty):
    inputs, labels = _data()
    rows = np.ones(len(labels), np.float32) / len(labels)
    penalty = 1 / (inverse_penalty * len(labels))
    solution = jax.jit(logistic.fit, static_argnums=4)(inputs, labels, rows, penalty, 4)
    oracle = _oracle(inputs, labels, inverse_penalty)
    scale = np.abs(oracle.coef_).max()
    np.testing.assert_allclose(np.asarray(solution.weights).T, oracle.coef_, atol=2e-3 * scale)
    bias = np.asarray(solution.bias)  # a shift of all biases changes nothing; scikit-learn's sum to zero
    np.testing.assert_allclose(bias - bias.mean(), oracle.intercept_ - oracle.intercept_.mean(), atol=2e-3)
    assert solution.residual <= logistic.TOLERANCE


def test_every_problem_of_a_grid_agrees_with_scikit_learn_s_probabilities():
    inputs, labels = _data(rows=90, width=200)  # wider than long: solved on 90 axes
    rng = np.random.default_rng(1)
    row_sets = rng.random((5, 90)) < 0.7
    strengths = np.array([1e-4, 1e-2, 1.0], np.float32)
    logits, residuals = logistic.fit_grid(_turned(inputs), labels, row_sets, strengths, classes=4)
    assert logits.shape == (3, 5, 90, 4) and (np.asarray(residuals) <= logistic.TOLERANCE).all()
    for s, rows in enumerate(row_sets):
        for c, strength in enumerate(strengths):
            oracle = _oracle(inputs[rows], labels[rows], float(strength))
            expected = oracle.predict_proba(inputs.astype(np.float64))
            np.testing.assert_allclose(jax.nn.softmax(logits[c, s]), expected, atol=2e-3)


def test_separable_classes_with_almost_no_penalty_still_converge():
    inputs, labels = _data(rows=40, width=120)
    everyone = np.ones((1, 40), bool)
    logits, residuals = logistic.fit_grid(_turned(inputs), labels, everyone, jnp.array([100.0]), classes=4)
    assert (np.asarray(logits[0, 0]).argmax(-1) == labels).all()
    assert residuals[0, 0] <= logistic.TOLERANCE


def test_a_class_without_training_rows_is_never_predicted():
    inputs, labels = _data()
    logits, residuals = logistic.fit_grid(inputs, labels, (labels != 2)[None], jnp.array([0.1]), classes=4)
    assert not (np.asarray(logits[0, 0]).argmax(-1) == 2).any()
    assert residuals[0, 0] <= logistic.TOLERANCE
