"""Multinomial logistic regression with an L2 penalty, many problems in one program.

One problem minimises  sum_i w_i * crossentropy_i + penalty / 2 * |W|^2  over the weights W; the bias is free.
With w_i = 1/n and penalty = 1 / (C n) that is scikit-learn's `LogisticRegression(C=C)` divided by C n.

The solver is Newton's method whose linear systems are solved by conjugate gradients. It needs nothing but
products with the inputs, so hundreds of problems on the same inputs become a few wide matrix products under
`vmap`, and unlike quasi-Newton methods it reaches float32 accuracy without tuning. It knows nothing of
speakers or folds; `probes.py` does.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

# Longest step first. Logits are linear in the step, so trying all of them costs no product with the inputs.
_STEPS = (1.0, 0.5, 0.25, 0.125, 0.0625, 0.015625)
_NEWTON_STEPS = 40
_CG_STEPS = 80
_NEVER = -1e9  # logit of a class that a problem's training rows lack
TOLERANCE = 1e-4


class Solution(NamedTuple):
    """Weights [D, K] (no bias), bias [K], logits of every row [N, K], and the residual at the end.

    `residual` is the gradient's norm in the metric of the curvature bound, on the scale of a mean
    cross-entropy; a problem has converged when it is at most `TOLERANCE`.
    """

    weights: jax.Array
    bias: jax.Array
    logits: jax.Array
    residual: jax.Array


def fit(
    inputs: jax.Array,
    labels: jax.Array,
    row_weight: jax.Array,
    penalty: jax.Array,
    classes: int,
    start: jax.Array | None = None,
) -> Solution:
    """Fit one problem. inputs float32 [N, D], labels int [N], row_weight [N] (0 = not a training row).

    `start` [D + 1, K], weights and below them the bias, saves steps where a near solution is known. Classes
    without a training row are never predicted. It is fastest when the columns are nearly uncorrelated
    (`probes.principal_axes`); the solution does not depend on that.
    """
    if start is None:
        start = jnp.zeros((inputs.shape[1] + 1, classes), inputs.dtype)
    with jax.default_matmul_precision("highest"):
        return _fit(inputs, labels, row_weight, penalty, classes, start)


def _fit(inputs, labels, row_weight, penalty, classes, theta):
    design = jnp.concatenate([inputs, jnp.ones_like(inputs[:, :1])], axis=1)  # last column: the bias
    target = jax.nn.one_hot(labels, classes)
    present = (row_weight @ target) > 0
    ridge = jnp.full(design.shape[1], penalty, inputs.dtype).at[-1].set(0.0)[:, None]
    # Boehning's bound: the softmax Hessian is at most 1/2, so this diagonal bounds the curvature.
    curvature = 0.5 * (row_weight @ jnp.square(design))[:, None] + ridge
    curvature = jnp.maximum(curvature, jnp.finfo(inputs.dtype).tiny)
    weight = row_weight[:, None]

    def logits_of(theta):
        return design @ theta + jnp.where(present, 0.0, _NEVER)

    def loss(theta, logits):
        surprise = jax.nn.logsumexp(logits, axis=-1) - jnp.sum(logits * target, axis=-1)
        return jnp.sum(row_weight * jnp.where(row_weight > 0, surprise, 0)) + 0.5 * jnp.sum(ridge * theta**2)

    def newton_step(carry):
        theta, logits, gradient, _, step = carry
        probabilities = jax.nn.softmax(logits)

        def curve(direction):
            change = probabilities * (design @ direction)
            change -= probabilities * change.sum(axis=-1, keepdims=True)
            return design.T @ (weight * change) + ridge * direction

        direction = _conjugate_gradients(curve, -gradient, curvature)
        change = design @ direction
        steps = jnp.asarray(_STEPS, inputs.dtype)
        losses = jax.vmap(lambda size: loss(theta + size * direction, logits + size * change))(steps)
        size = steps[jnp.argmin(losses)]
        theta = theta + size * direction
        logits = logits_of(theta)
        gradient = gradient_at(theta, logits)
        return theta, logits, gradient, norm(gradient), step + 1

    def gradient_at(theta, logits):
        return design.T @ (weight * (jax.nn.softmax(logits) - target)) + ridge * theta

    def norm(gradient):
        return jnp.sqrt(jnp.sum(gradient**2 / curvature))

    logits = logits_of(theta)
    gradient = gradient_at(theta, logits)
    theta, logits, _, residual, _ = jax.lax.while_loop(
        lambda carry: (carry[3] > TOLERANCE) & (carry[4] < _NEWTON_STEPS),
        newton_step,
        (theta, logits, gradient, norm(gradient), 0),
    )
    return Solution(theta[:-1], theta[-1], logits, residual)


def _conjugate_gradients(apply, right_side, diagonal):
    """Solve apply(x) = right_side to a tenth (closer near the optimum), preconditioned by 1/diagonal."""
    first = right_side / diagonal
    start = jnp.sum(right_side * first)
    enough = jnp.minimum(0.01, jnp.sqrt(start)) * start  # superlinear: tighter as the gradient vanishes

    def body(carry):
        x, rest, search, size, step = carry
        image = apply(search)
        curve = jnp.sum(search * image)
        alpha = jnp.where(curve > 0, size / curve, 0.0)
        x, rest = x + alpha * search, rest - alpha * image
        scaled = rest / diagonal
        new_size = jnp.sum(rest * scaled)
        return x, rest, scaled + new_size / jnp.maximum(size, 1e-38) * search, new_size, step + 1

    carry = (jnp.zeros_like(right_side), right_side, first, start, 0)
    return jax.lax.while_loop(lambda c: (c[3] > enough) & (c[4] < _CG_STEPS), body, carry)[0]


@partial(jax.jit, static_argnames="classes")
def fit_grid(
    inputs: jax.Array, labels: jax.Array, row_sets: jax.Array, inverse_penalties: jax.Array, *, classes: int
) -> tuple[jax.Array, jax.Array]:
    """Fit every set of training rows with every C, as one program on shared inputs.

    The sets are solved together; the penalties one after the other in the order given, each from the last
    solution, so give the strongest first.

    inputs float32 [N, D]; row_sets bool [S, N]; inverse_penalties [C] (scikit-learn's C).
    Returns logits of all rows [C, S, N, K] and residuals [C, S].
    """

    def one(rows, inverse_penalty, start):
        count = jnp.maximum(rows.sum(), 1)
        solution = fit(inputs, labels, rows / count, 1.0 / (inverse_penalty * count), classes, start)
        return jnp.vstack([solution.weights, solution.bias]), (solution.logits, solution.residual)

    def all_sets(starts, inverse_penalty):
        return jax.vmap(one, in_axes=(0, None, 0))(row_sets.astype(inputs.dtype), inverse_penalty, starts)

    starts = jnp.zeros((row_sets.shape[0], inputs.shape[1] + 1, classes), inputs.dtype)
    return jax.lax.scan(all_sets, starts, inverse_penalties)[1]
