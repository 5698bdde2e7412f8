"""The batched logistic regression against scikit-learn's, coefficient by coefficient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from avemo_jax.evaluation import logistic
from avemo_jax.evaluation.heads import scaling

TIGHT = 3e-5


def _data(rows=120, width=30, classes=4, seed=0):
    """Correlated columns of very different spread directions, classes that overlap."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, rows)
    inputs = rng.standard_normal((rows, 8)) @ rng.standard_normal((8, width))
    inputs += 0.3 * rng.standard_normal((rows, width))
    inputs += rng.standard_normal((classes, width))[labels] * 0.4
    return ((inputs - inputs.mean(0)) / inputs.std(0)).astype(np.float32), labels


def _fit(inputs, labels, row_sets, strengths, axes=True, classes=4):
    """Everything that `fit_path` gives: the logits of every row by every problem, and the coefficients."""
    everyone = np.ones(len(labels), bool)
    gram = scaling.gram(inputs, everyone)
    if not axes:
        turned, squares = scaling.principal_axes(inputs)
        inputs, gram = inputs @ turned, logistic.Gram(squares.astype(np.float32), None, 0.0)
    problems = len(row_sets)
    return logistic.fit_path(
        jnp.asarray(inputs, jnp.float32),
        labels,
        np.asarray(row_sets),
        np.ones((problems, inputs.shape[1]), np.float32),
        np.asarray(strengths, np.float32),
        np.repeat(np.arange(problems)[:, None], len(labels), axis=1),
        gram,
        classes=classes,
        tolerance=TIGHT,
        coefficients=True,
    )


def _oracle(inputs, labels, inverse_penalty):
    model = LogisticRegression(C=inverse_penalty, tol=1e-9, max_iter=20000)
    return model.fit(inputs.astype(np.float64), labels)


def test_coefficients_and_bias_of_every_penalty_are_scikit_learn_s():
    inputs, labels = _data()
    strengths = (1e-4, 1e-2, 1.0)
    solutions = _fit(inputs, labels, np.ones((1, len(labels)), bool), strengths)
    for number, strength in enumerate(strengths):
        oracle = _oracle(inputs, labels, strength)
        scale = np.abs(oracle.coef_).max()
        weights = np.asarray(solutions.weights[number, 0]).T
        np.testing.assert_allclose(weights, oracle.coef_, atol=2e-3 * scale)
        bias = np.asarray(solutions.bias[number, 0])  # a shift of all biases changes nothing
        np.testing.assert_allclose(
            bias - bias.mean(), oracle.intercept_ - oracle.intercept_.mean(), atol=2e-3
        )
    assert (solutions.residual <= TIGHT).all()


def test_two_classes_have_scikit_learn_s_one_vector_as_the_difference_of_theirs():
    inputs, labels = _data(classes=2)
    solutions = _fit(inputs, labels, np.ones((1, len(labels)), bool), [0.01], classes=2)
    oracle = _oracle(inputs, labels, 0.01)
    found = np.diff(np.asarray(solutions.weights[0, 0]).T, axis=0)
    np.testing.assert_allclose(found, oracle.coef_, atol=2e-3 * np.abs(oracle.coef_).max())
    np.testing.assert_allclose(np.diff(solutions.bias[0, 0]), oracle.intercept_, atol=2e-3)


@pytest.mark.parametrize("axes", [True, False])
def test_every_problem_of_a_grid_agrees_with_scikit_learn_s_probabilities(axes):
    inputs, labels = _data(rows=90, width=200)  # wider than long
    row_sets = np.random.default_rng(1).random((5, 90)) < 0.7
    strengths = np.array([1e-4, 1e-2, 1.0], np.float32)
    solutions = _fit(inputs, labels, row_sets, strengths, axes)
    assert solutions.logits.shape == (3, 5, 90, 4)
    assert (np.asarray(solutions.residual) <= TIGHT).all()
    for s, rows in enumerate(row_sets):
        for c, strength in enumerate(strengths):
            oracle = _oracle(inputs[rows], labels[rows], float(strength))
            expected = oracle.predict_proba(inputs.astype(np.float64))
            np.testing.assert_allclose(jax.nn.softmax(solutions.logits[c, s]), expected, atol=2e-3)


def test_a_problem_sees_the_inputs_at_its_own_scale():
    inputs, labels = _data()
    rows = np.ones((2, len(labels)), bool)
    scales = np.geomspace(0.2, 5, 2 * inputs.shape[1], dtype=np.float32).reshape(2, -1)
    gram = scaling.gram(inputs, rows[0])
    read = np.repeat(np.arange(2)[:, None], len(labels), axis=1)
    solutions = logistic.fit_path(
        *(inputs, labels, rows, scales, np.array([0.01], np.float32), read, gram), classes=4, tolerance=TIGHT
    )
    for number, scale in enumerate(scales):
        expected = _oracle(inputs * scale, labels, 0.01).predict_proba(inputs * scale)
        np.testing.assert_allclose(jax.nn.softmax(solutions.logits[0, number]), expected, atol=2e-3)


def test_separable_classes_with_almost_no_penalty_still_converge():
    inputs, labels = _data(rows=40, width=120)
    solutions = _fit(inputs, labels, np.ones((1, 40), bool), [100.0])
    assert (np.asarray(solutions.logits[0, 0]).argmax(-1) == labels).all()
    assert solutions.residual[0, 0] <= TIGHT


def test_rows_of_two_of_three_classes_are_fitted_as_scikit_learn_fits_two():
    inputs, labels = _data(classes=3)
    there = labels != 1
    solutions = _fit(inputs, labels, np.stack([there, there | True]), [0.01], classes=3)
    for number, rows in enumerate((there, there | True)):
        oracle = _oracle(inputs[rows], labels[rows], 0.01)
        found = np.asarray(jax.nn.softmax(solutions.logits[0, number]))[:, oracle.classes_]
        np.testing.assert_allclose(found, oracle.predict_proba(inputs), atol=2e-3)


def test_a_class_without_training_rows_is_never_predicted():
    inputs, labels = _data()
    solutions = _fit(inputs, labels, (labels != 2)[None], [0.1])
    assert not (np.asarray(solutions.logits[0, 0]).argmax(-1) == 2).any()
    assert solutions.residual[0, 0] <= TIGHT
