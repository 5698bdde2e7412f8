"""The memory of limited-memory BFGS (Nocedal 1980) for many problems side by side.

Every array leads with the problem: [P, ...]. The caller brings the inner product, a first guess of the inverse
Hessian (a preconditioner), the line search and the loop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

PAIRS = 8

Dot = Callable[[jax.Array, jax.Array], jax.Array]  # [P, ...] twice → [P]
Operator = Callable[[jax.Array], jax.Array]  # [P, ...] → [P, ...]


class Memory(NamedTuple):
    """The last `PAIRS` steps and changes of the gradient [PAIRS, P, ...], oldest first, and 1 / their products
    [PAIRS, P], 0 where there is no pair."""

    steps: jax.Array
    changes: jax.Array
    inverse: jax.Array


def along(factor: jax.Array, vector: jax.Array) -> jax.Array:
    """Each problem's factor [P] times its vector [P, ...]."""
    return factor.reshape(factor.shape + (1,) * (vector.ndim - factor.ndim)) * vector


def empty(like: jax.Array) -> Memory:
    """Of problems whose parameters have this shape [P, ...]."""
    pairs = jnp.zeros((PAIRS, *like.shape), like.dtype)
    return Memory(pairs, pairs, jnp.zeros((PAIRS, like.shape[0]), like.dtype))


def remember(memory: Memory, step: jax.Array, change: jax.Array, valid: jax.Array, dot: Dot) -> Memory:
    """With one more pair, which counts for nothing where it is not `valid` [P] or has no positive curvature."""

    def push(kept, new):
        return jnp.concatenate([kept[1:], new[None]])

    inverse = _inverse(jnp.where(valid, dot(step, change), 0.0))
    return Memory(push(memory.steps, step), push(memory.changes, change), push(memory.inverse, inverse))


def with_more_ridge(memory: Memory, ridge: jax.Array, dot: Dot) -> Memory:
    """The memory of the same problems with `ridge` [P, ...] / 2 * |parameters|^2 added to what is minimised."""
    known = memory.inverse > 0
    changes = memory.changes + ridge * memory.steps
    products = jax.vmap(dot)(memory.steps, changes)
    return Memory(memory.steps, changes, _inverse(jnp.where(known, products, 0.0)))


def direction(memory: Memory, gradient: jax.Array, precondition: Operator, dot: Dot) -> jax.Array:
    """Minus the approximate inverse Hessian times the gradient (the two-loop recursion). The preconditioner is
    scaled to fit the last pair."""

    def back(turn, carry):
        rest, weights = carry
        at = PAIRS - 1 - turn
        weight = memory.inverse[at] * dot(memory.steps[at], rest)
        return rest - along(weight, memory.changes[at]), weights.at[at].set(weight)

    def forth(at, result):
        weight = memory.inverse[at] * dot(memory.changes[at], result)
        return result + along(weights[at] - weight, memory.steps[at])

    rest, weights = jax.lax.fori_loop(0, PAIRS, back, (gradient, jnp.zeros_like(memory.inverse)))
    last = memory.changes[-1]
    scaled = memory.inverse[-1] * dot(last, precondition(last))
    factor = jnp.where(scaled > 0, 1 / jnp.where(scaled > 0, scaled, 1.0), 1.0)
    return -jax.lax.fori_loop(0, PAIRS, forth, along(factor, precondition(rest)))


def _inverse(products):
    return jnp.where(products > 0, 1 / jnp.where(products > 0, products, 1.0), 0.0)
