"""Multinomial logistic regression with an L2 penalty: hundreds of problems on the same rows as one program.

One problem minimises  sum_i w_i * crossentropy_i + penalty / 2 * |W|^2  over the weights W; the bias is free.
With w_i = 1/n on n training rows and penalty = 1 / (C n) that is scikit-learn's `LogisticRegression(C=C)`
divided by C n. Of two classes scikit-learn penalises one vector, the difference of both weights, which is twice as much
(see `penalty_of`).

All problems share one matrix of inputs, so that a step of all of them is two wide matrix products, which is
where nearly all time goes. What differs is which rows a problem is trained on, and a factor a column, by which
each problem sees the inputs at its own scale. The solver is L-BFGS, whose first guess of the curvature is
c * Gram matrix + penalty, with one number c and the Gram matrix by its largest eigenvectors. Logits are linear in a
step, so a line search costs no product with the inputs. Penalties are solved one after the other: each begins on the
line through the last two solutions, and with the pairs of the last. It knows nothing of speakers or folds.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from avemo_jax.evaluation import lbfgs
from avemo_jax.evaluation.lbfgs import along

# The objective is then some 1e-7 above its least value. scikit-learn's default stops at up to 1e-3.
TOLERANCE = 3e-4
_MOST_STEPS = 300
_SEARCH_STEPS = 3  # of Newton's method along a direction
_LEAST_CURVATURE = 1e-3  # where every row is certain of its class
_NEVER = -1e9  # logit of a class that a problem's training rows lack

AnyArray = jax.Array | np.ndarray


class Gram(NamedTuple):
    """About inputs' inputs / n, for speed alone: its largest eigenvalues [A], their eigenvectors [A, D], and what
    the other directions have on average, []. Without vectors the inputs lie along them already, A = D."""

    squares: AnyArray
    vectors: AnyArray | None
    rest: AnyArray | float


class Solutions(NamedTuple):
    """Of C penalties and S problems. `logits` [C, P, M, K] are read as `fit_path` was asked. `weights`
    [C, S, D, K] (of scaled inputs) and `bias` [C, S, K], where asked for; both sum to 0 over the classes.
    `residual` [C, S] is the gradient's norm in the metric of the preconditioner, on the scale of a mean
    cross-entropy; a problem has converged when it is at most the tolerance. `steps` [C] that the slowest took."""

    logits: jax.Array
    weights: jax.Array | None
    bias: jax.Array | None
    residual: jax.Array
    steps: jax.Array


@partial(jax.jit, static_argnames=("classes", "tolerance", "coefficients"))
def fit_path(
    inputs: jax.Array,
    labels: jax.Array,
    row_sets: jax.Array,
    scales: jax.Array,
    inverse_penalties: jax.Array,
    read: jax.Array,
    gram: Gram,
    *,
    classes: int,
    tolerance: float = TOLERANCE,
    coefficients: bool = False,
) -> Solutions:
    """Fit every set of training rows with every C.

    Args:
      inputs: float32 [N, D], columns about centred and, on average, of about variance 1.
      labels: int [N]; a class without a training row in a set is never predicted by it.
      row_sets: bool [S, N], the training rows of each problem.
      scales: [S, D], the problem's inputs are `inputs * scale` (0 leaves a column out).
      inverse_penalties: [C], scikit-learn's C, strongest penalty first.
      read: int [P, M], the problem whose logits of row m < M are wanted.
    """
    with jax.default_matmul_precision("highest"):
        problems = _Problems(inputs, labels, row_sets, scales, gram, classes, tolerance)

        def next_penalty(path, inverse_penalty):
            path, residual, steps = problems.solve(path, inverse_penalty)
            logits = path.logits[..., : read.shape[1]]
            taken = jnp.take_along_axis(logits, read[:, None], axis=0).swapaxes(1, 2)
            theta = _all_classes(path.theta)
            weights = theta[..., :-1].swapaxes(1, 2) if coefficients else None
            return path, Solutions(taken, weights, theta[..., -1] if coefficients else None, residual, steps)

        return jax.lax.scan(next_penalty, problems.start(), inverse_penalties)[1]


def penalty_of(inverse_penalty: jax.Array, count: jax.Array, classes: jax.Array | int) -> jax.Array:
    """Of the squared weights of all classes, for scikit-learn's C, so many training rows and the classes that these
    have; shapes broadcast."""
    return jnp.where(jnp.asarray(classes) == 2, 2.0, 1.0) / (inverse_penalty * count)


class _Path(NamedTuple):
    """How far the penalties are solved: the last solution, how it differs from the one before, what L-BFGS
    remembers, and the last penalty [S]."""

    theta: jax.Array
    logits: jax.Array
    theta_step: jax.Array
    logits_step: jax.Array
    memory: lbfgs.Memory
    penalty: jax.Array


class _Problems:
    """S problems on shared inputs. Logits are [S, K, N], parameters [S, K - 1, D + 1], the bias last; those of the
    last class are minus the sum of the others, which is where the minimum lies. In this order both products
    with the inputs have their long side where a CPU's matrix product is fast, with a transposed copy of them."""

    def __init__(self, inputs, labels, row_sets, scales, gram, classes, tolerance):
        self.inputs, self.turned = inputs, jax.lax.optimization_barrier(inputs.T)
        self.scales, self.gram, self.classes, self.tolerance = scales[:, None], gram, classes, tolerance
        self.count = jnp.maximum(row_sets.sum(1), 1).astype(inputs.dtype)
        self.weight = row_sets / self.count[:, None]
        self.target = jax.nn.one_hot(labels, classes, axis=0, dtype=inputs.dtype)[None]
        present = jnp.einsum("sn,kn->sk", self.weight, self.target[0]) > 0
        self.absent = jnp.where(present, 0.0, _NEVER)[..., None]
        self.present = present.sum(1)
        self.penalised = jnp.ones(inputs.shape[1] + 1, inputs.dtype).at[-1].set(0)

    def start(self) -> _Path:
        sets, rows, width = len(self.count), len(self.inputs), len(self.penalised)
        theta = jnp.zeros((sets, self.classes - 1, width), self.inputs.dtype)
        none = jnp.zeros((sets, self.classes, rows), self.inputs.dtype)
        return _Path(theta, none + self.absent, theta, none, lbfgs.empty(theta), jnp.zeros_like(self.count))

    def solve(self, path: _Path, inverse_penalty):
        penalty = penalty_of(inverse_penalty, self.count, self.present)
        ridge = along(penalty, self.penalised[None, None])
        more = along(penalty - path.penalty, self.penalised[None, None])
        memory = lbfgs.with_more_ridge(path.memory, more, _dot)
        size = self._search(path.theta, path.logits, path.theta_step, path.logits_step, ridge)
        theta = path.theta + along(size, path.theta_step)
        logits = path.logits + along(size, path.logits_step)

        def look(theta, logits):
            """The gradient, the preconditioner there, and the residual."""
            chances = jax.nn.softmax(logits, 1)
            gradient = self._gathered((chances - self.target) * self.weight[:, None]) + ridge * theta
            # The softmax's Hessian averaged over rows, as one number: 1/K at first, less when rows are certain.
            curvature = (self.weight * (1 - jnp.square(chances).sum(1))).sum(1) / (self.classes - 1)
            curvature = jnp.maximum(curvature, _LEAST_CURVATURE)
            scaled = self._precondition(penalty, curvature, gradient)
            return gradient, curvature, jnp.sqrt(jnp.maximum(_dot(gradient, scaled), 0))

        def step(carry):
            theta, logits, (gradient, curvature, residual), memory, count = carry
            precondition = partial(self._precondition, penalty, curvature)
            direction = lbfgs.direction(memory, gradient, precondition, _dot)
            change = self._products(direction)
            going = residual > self.tolerance
            size = jnp.where(going, self._search(theta, logits, direction, change, ridge), 0.0)
            moved = along(size, direction)
            theta, logits = theta + moved, logits + along(size, change)
            new = look(theta, logits)
            memory = lbfgs.remember(memory, moved, new[0] - gradient, going, _dot)
            return theta, logits, (new[0], new[1], jnp.where(going, new[2], residual)), memory, count + 1

        def unfinished(carry):
            return (carry[2][2] > self.tolerance).any() & (carry[4] < _MOST_STEPS)

        carry = jax.lax.while_loop(unfinished, step, (theta, logits, look(theta, logits), memory, 0))
        theta, logits, (_, _, residual), memory, steps = carry
        reached = _Path(theta, logits, theta - path.theta, logits - path.logits, memory, penalty)
        return reached, residual, steps

    def _search(self, theta, logits, direction, change, ridge):
        """How far to go [S]: Newton's method for the minimum of the convex function along the direction, within
        the bracket known so far."""
        bend = _dot(ridge * direction, direction)
        begin = _dot(ridge * theta, direction)
        begin -= (self.weight * (self.target * change).sum(1)).sum(1)

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
        return _all_classes(_contract(weights, self.inputs).reshape(*theta.shape[:2], -1) + theta[..., -1:])

    def _gathered(self, rows):
        """Rows [S, K, N] that sum to 0 over classes → parameters, the transpose of `_products`."""
        rows = rows[:, :-1]
        weights = _contract(rows.reshape(-1, rows.shape[-1]), self.turned).reshape(*rows.shape[:2], -1)
        return jnp.concatenate([weights * self.scales, rows.sum(-1, keepdims=True)], -1)

    def _precondition(self, penalty, curvature, gradient):
        weights, bias = gradient[..., :-1], gradient[..., -1:]
        inverse = 1 / (curvature[:, None] * self.gram.squares + penalty[:, None])
        if self.gram.vectors is None:
            weights = weights * inverse[:, None]
        else:
            other = 1 / (curvature * self.gram.rest + penalty)
            parts = _contract(weights.reshape(-1, weights.shape[-1]), self.gram.vectors)
            parts = parts.reshape(*weights.shape[:2], -1) * (inverse - other[:, None])[:, None]
            known = parts.reshape(-1, parts.shape[-1]) @ self.gram.vectors
            weights = along(other, weights) + known.reshape(weights.shape)
        return jnp.concatenate([weights, along(1 / curvature, bias)], -1)


def _all_classes(array):
    """[S, K - 1, ...] → [S, K, ...]."""
    return jnp.concatenate([array, -array.sum(1, keepdims=True)], 1)


def _dot(a, b):
    """Inner product over all K classes of parameters that are kept for K - 1: two [S, K - 1, D] → [S]."""
    return (a * b).sum((1, 2)) + (a.sum(1) * b.sum(1)).sum(-1)


def _contract(a, b):
    """Rows of a times rows of b."""
    return jax.lax.dot_general(a, b, (((1,), (1,)), ((), ())))
