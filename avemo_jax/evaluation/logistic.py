"""Multinomial logistic regression with an L2 penalty: hundreds of problems on the same rows as one program.

One problem minimises  sum_i w_i * crossentropy_i + penalty / 2 * |W|^2  over the weights W; the bias is free.
With w_i = 1/n on n training rows and penalty = 1 / (C n) that is scikit-learn's `LogisticRegression(C=C)`
divided by C n.

All problems share one matrix of inputs, so that a step of all of them is two wide matrix products, which is
where nearly all time goes. What differs is which rows a problem is trained on, and a factor a column, by which
each problem sees the inputs at its own scale. The solver is preconditioned L-BFGS: the curvature is about
c * Gram matrix + penalty with one number c, and one eigendecomposition of the Gram matrix inverts that for
every penalty. Logits are linear in a step, so the line search costs no product with the inputs. Penalties are
solved one after the other, each from the last solution. It knows nothing of speakers or folds.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from avemo_jax.evaluation import lbfgs
from avemo_jax.evaluation.lbfgs import along, dot

TOLERANCE = 1e-4
_MOST_STEPS = 200
_SEARCH_STEPS = 3  # of Newton's method along a direction
_LEAST_CURVATURE = 1e-3  # where every row is certain of its class
_NEVER = -1e9  # logit of a class that a problem's training rows lack


class Solutions(NamedTuple):
    """Of C penalties and S problems. `logits` [C, P, N, K] are read as `fit_path` was asked. `weights`
    [C, S, D, K] (of scaled inputs) and `bias` [C, S, K], where asked for. `residual` [C, S] is the gradient's
    norm in the metric of the preconditioner, on the scale of a mean cross-entropy; a problem has converged when
    it is at most `TOLERANCE`. `steps` [C] that the slowest problem took."""

    logits: jax.Array
    weights: jax.Array | None
    bias: jax.Array | None
    residual: jax.Array
    steps: jax.Array


@partial(jax.jit, static_argnames=("classes", "coefficients"))
def fit_path(
    inputs: jax.Array,
    labels: jax.Array,
    row_sets: jax.Array,
    scales: jax.Array,
    inverse_penalties: jax.Array,
    read: jax.Array,
    squares: jax.Array,
    axes: jax.Array | None = None,
    *,
    classes: int,
    coefficients: bool = False,
) -> Solutions:
    """Fit every set of training rows with every C.

    Args:
      inputs: float32 [N, D], columns about centred and of about variance 1.
      labels: int [N]; a class without a training row in a set is never predicted by it.
      row_sets: bool [S, N], the training rows of each problem.
      scales: [S, D], the problem's inputs are `inputs * scale` (0 leaves a column out).
      inverse_penalties: [C], scikit-learn's C, strongest penalty first.
      read: int [P, N], the problem whose logits of row n are wanted.
      squares, axes: eigenvalues [D] and eigenvectors [D, D] of about inputs' inputs / N, for speed alone; without
        axes the inputs lie along them already.
    """
    with jax.default_matmul_precision("highest"):
        problems = _Problems(inputs, labels, row_sets, scales, squares, axes, classes)

        def next_penalty(start, inverse_penalty):
            theta, logits, residual, steps = problems.solve(start, inverse_penalty)
            taken = jnp.take_along_axis(logits, read[:, None], axis=0).swapaxes(1, 2)
            weights = theta[..., :-1].swapaxes(1, 2) if coefficients else None
            bias = theta[..., -1] if coefficients else None
            return theta, Solutions(taken, weights, bias, residual, steps)

        start = jnp.zeros((row_sets.shape[0], classes, inputs.shape[1] + 1), inputs.dtype)
        return jax.lax.scan(next_penalty, start, inverse_penalties)[1]


class _Problems:
    """S problems on shared inputs. Parameters are [S, K, D + 1], the bias last; logits [S, K, N]: in this order
    both products with the inputs have their long side where a CPU's matrix product is fast."""

    def __init__(self, inputs, labels, row_sets, scales, squares, axes, classes):
        self.inputs, self.scales, self.squares, self.axes = inputs, scales[:, None], squares, axes
        self.count = jnp.maximum(row_sets.sum(1), 1).astype(inputs.dtype)
        self.weight = row_sets / self.count[:, None]
        self.target = jax.nn.one_hot(labels, classes, axis=0, dtype=inputs.dtype)[None]
        present = jnp.einsum("sn,kn->sk", self.weight, self.target[0]) > 0
        self.absent = jnp.where(present, 0.0, _NEVER)[..., None]
        self.classes = classes

    def solve(self, theta, inverse_penalty):
        penalty = 1 / (inverse_penalty * self.count)
        ridge = jnp.ones(theta.shape[-1], theta.dtype).at[-1].set(0) * penalty[:, None, None]
        logits = self._products(theta) + self.absent
        # The softmax's Hessian averaged over rows, as one number: 1/K at the start, less when rows are certain.
        certain = jnp.square(jax.nn.softmax(logits, 1)).sum(1)
        curvature = jnp.maximum((self.weight * (1 - certain)).sum(1) / (self.classes - 1), _LEAST_CURVATURE)
        precondition = partial(self._precondition, penalty, curvature)

        def gradient_at(theta, logits):
            return (
                self._gathered((jax.nn.softmax(logits, 1) - self.target) * self.weight[:, None])
                + ridge * theta
            )

        def step(carry):
            theta, logits, gradient, scaled, memory, residual, count = carry
            direction = lbfgs.direction(memory, gradient, precondition)
            change = self._products(direction)
            size = self._search(theta, logits, direction, change, ridge)
            going = residual > TOLERANCE
            moved = along(jnp.where(going, size, 0.0), direction)
            theta, logits = theta + moved, logits + along(jnp.where(going, size, 0.0), change)
            new = gradient_at(theta, logits)
            new_scaled = precondition(new)
            memory = lbfgs.remember(memory, moved, new - gradient, new_scaled - scaled, going)
            residual = jnp.where(going, _norm(new, new_scaled), residual)
            return theta, logits, new, new_scaled, memory, residual, count + 1

        gradient = gradient_at(theta, logits)
        scaled = precondition(gradient)
        carry = (theta, logits, gradient, scaled, lbfgs.empty(theta), _norm(gradient, scaled), 0)
        carry = jax.lax.while_loop(lambda c: (c[5] > TOLERANCE).any() & (c[6] < _MOST_STEPS), step, carry)
        return carry[0], carry[1], carry[5], carry[6]

    def _search(self, theta, logits, direction, change, ridge):
        """How far to go [S]: Newton's method for the minimum of the convex function along the direction, within
        the bracket known so far."""
        bend = dot(ridge * direction, direction)
        begin = dot(ridge * theta, direction) - jnp.einsum("sn,skn,skn->s", self.weight, self.target, change)

        def closer(_, carry):
            size, low, high = carry
            chances = jax.nn.softmax(logits + along(size, change), 1)
            mean = (chances * change).sum(1)
            spread = (chances * jnp.square(change)).sum(1) - jnp.square(mean)
            slope = begin + size * bend + (self.weight * mean).sum(1)
            low, high = jnp.where(slope < 0, size, low), jnp.where(slope < 0, high, size)
            guess = size - slope / jnp.maximum((self.weight * spread).sum(1) + bend, 1e-30)
            inside = (guess > low) & (guess < jnp.minimum(high, 4 * size))
            return jnp.where(inside, guess, jnp.where(jnp.isinf(high), 2 * size, (low + high) / 2)), low, high

        ones = jnp.ones_like(bend)
        return jax.lax.fori_loop(0, _SEARCH_STEPS, closer, (ones, 0 * ones, jnp.inf * ones))[0]

    def _products(self, theta):
        """Logits [S, K, N] but for absent classes."""
        weights = (theta[..., :-1] * self.scales).reshape(-1, theta.shape[-1] - 1)
        return _contract(weights, self.inputs, 1, 1).reshape(*theta.shape[:2], -1) + theta[..., -1:]

    def _gathered(self, rows):
        """Rows [S, K, N] → parameters [S, K, D + 1], the transpose of `_products`."""
        flat = rows.reshape(-1, rows.shape[-1])
        weights = _contract(flat, self.inputs, 1, 0).reshape(*rows.shape[:2], -1) * self.scales
        return jnp.concatenate([weights, rows.sum(-1, keepdims=True)], -1)

    def _precondition(self, penalty, curvature, gradient):
        inverse = 1 / (curvature[:, None] * self.squares + penalty[:, None])
        weights = self._turned(self._turned(gradient[..., :-1], 0) * inverse[:, None], 1)
        return jnp.concatenate([weights, gradient[..., -1:] / curvature[:, None, None]], -1)

    def _turned(self, weights, side):
        if self.axes is None:
            return weights
        return _contract(weights.reshape(-1, weights.shape[-1]), self.axes, 1, side).reshape(weights.shape)


def _contract(a, b, a_side, b_side):
    return jax.lax.dot_general(a, b, (((a_side,), (b_side,)), ((), ())))


def _norm(gradient, scaled):
    return jnp.sqrt(jnp.maximum(dot(gradient, scaled), 0))
