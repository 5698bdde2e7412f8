"""Losses against labels."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array


def cross_entropy(logits: Array, target: Array, *, smoothing: float = 0.0) -> Array:
    """Mean cross-entropy; a scalar.

    Args:
      logits: float32 [B, K].
      target: class indices int [B], or a distribution [B, K] (which is not smoothed).
      smoothing: mass spread evenly over all K classes.
    """
    classes = logits.shape[-1]
    if target.ndim == 1:
        target = jax.nn.one_hot(target, classes) * (1 - smoothing) + smoothing / classes
    return -jnp.sum(target * jax.nn.log_softmax(logits), axis=-1).mean()


def mean_squared_error(prediction: Array, target: Array) -> Array:
    """Mean over clips and outputs, [B, K] each; a scalar."""
    return jnp.mean(jnp.square(prediction - target))
