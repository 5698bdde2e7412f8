"""The memory of limited-memory BFGS (Nocedal 1980) for many problems side by side.

Every array leads with the problem: [P, ...]. The caller brings a first guess of the inverse Hessian (a
preconditioner), the line search and the loop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

PAIRS = 8


class Memory(NamedTuple):
    """The last `PAIRS` steps and changes of the gradient [PAIRS, P, ...], oldest first; 1 / their products
    [PAIRS, P], 0 where there is no pair; and the factor [P] that fits the preconditioner to the last pair."""

    steps: jax.Array
    changes: jax.Array
    inverse: jax.Array
    factor: jax.Array


def dot(a: jax.Array, b: jax.Array) -> jax.Array:
    """Inner product of each problem: [P, ...] twice → [P]."""
    return (a * b).sum(tuple(range(1, a.ndim)))


def along(factor: jax.Array, vector: jax.Array) -> jax.Array:
    """Each problem's factor [P] times its vector [P, ...]."""
    return factor.reshape(factor.shape + (1,) * (vector.ndim - 1)) * vector


def empty(like: jax.Array) -> Memory:
    """Of problems whose parameters have this shape [P, ...]."""
    problems = like.shape[0]
    pairs = jnp.zeros((PAIRS, *like.shape), like.dtype)
    return Memory(pairs, pairs, jnp.zeros((PAIRS, problems), like.dtype), jnp.ones(problems, like.dtype))


def remember(
    memory: Memory, step: jax.Array, change: jax.Array, scaled: jax.Array, valid: jax.Array
) -> Memory:
    """With one more pair; `scaled` is the preconditioned change. A pair that is not `valid` [P], or without
    positive curvature, counts for nothing."""
    product, norm = dot(step, change), dot(change, scaled)
    valid &= (product > 0) & (norm > 0)
    inverse = jnp.where(valid, 1 / jnp.where(valid, product, 1.0), 0.0)

    def push(kept, new):
        return jnp.concatenate([kept[1:], new[None]])

    return Memory(
        push(memory.steps, step),
        push(memory.changes, change),
        push(memory.inverse, inverse),
        jnp.where(valid, product / jnp.where(valid, norm, 1.0), memory.factor),
    )


def direction(
    memory: Memory, gradient: jax.Array, precondition: Callable[[jax.Array], jax.Array]
) -> jax.Array:
    """Minus the approximate inverse Hessian times the gradient (the two-loop recursion)."""

    def back(turn, carry):
        rest, weights = carry
        at = PAIRS - 1 - turn
        weight = memory.inverse[at] * dot(memory.steps[at], rest)
        return rest - along(weight, memory.changes[at]), weights.at[at].set(weight)

    def forth(at, result):
        weight = memory.inverse[at] * dot(memory.changes[at], result)
        return result + along(weights[at] - weight, memory.steps[at])

    rest, weights = jax.lax.fori_loop(0, PAIRS, back, (gradient, jnp.zeros_like(memory.inverse)))
    return -jax.lax.fori_loop(0, PAIRS, forth, along(memory.factor, precondition(rest)))
