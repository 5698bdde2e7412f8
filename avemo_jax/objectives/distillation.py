"""What a model learns from a frozen teacher's outputs: KL of softened probabilities for classes, squares for values.

Values are never turned into probabilities: a softmax over valence and arousal means nothing. Each function gives one
number a clip, [B]. Not here: labels (supervised), and where a teacher's outputs come from (tasks.lessons).
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


def softened(outputs: np.ndarray, kind: str, temperature: float) -> np.ndarray:
    """A teacher's outputs [N, K] as they are learnt from, by the kind of target (`targets.Target.kind`): probabilities
    at this temperature, which are softmax(logits / T), of each class by itself for several a clip; values as they are.
    """
    if kind == "values":
        return outputs
    raised = np.power(np.clip(outputs, 0.0, 1.0), 1 / temperature)
    if kind == "multi_label":
        return raised / (raised + np.power(np.clip(1 - outputs, 0.0, 1.0), 1 / temperature))
    return raised / raised.sum(-1, keepdims=True)


def class_distillation(logits: Array, taught: Array, temperature: float) -> Array:
    """T² · KL(taught ‖ softmax(logits / T)), [B]: gradients are of the same size at every temperature (Hinton 2015).

    Args:
      logits: float32 [B, K].
      taught: [B, K], the teacher's distribution at the same temperature.
    """
    terms = taught * (_log(taught) - jax.nn.log_softmax(logits / temperature))
    return temperature**2 * terms.sum(-1)


def several_distillation(logits: Array, taught: Array, temperature: float) -> Array:
    """T² · the mean over classes of KL(taught ‖ sigmoid(logits / T)) of each class by itself, [B]; as above."""
    cooled = logits / temperature
    present = taught * (_log(taught) - jax.nn.log_sigmoid(cooled))
    absent = (1 - taught) * (_log(1 - taught) - jax.nn.log_sigmoid(-cooled))
    return temperature**2 * (present + absent).mean(-1)


def value_distillation(prediction: Array, taught: Array, temperature: float = 1.0) -> Array:
    """Mean square of the difference over values, [B]; a temperature says nothing of values."""
    return jnp.mean(jnp.square(prediction - taught), axis=-1)


DISTILLATION: dict[str, Callable[[Array, Array, float], Array]] = {  # by the kind of target
    "class": class_distillation,
    "distribution": class_distillation,
    "multi_label": several_distillation,
    "values": value_distillation,
}


def _log(shares: Array) -> Array:
    """log, and 0 where there is nothing: 0 · log 0 = 0."""
    return jnp.log(jnp.where(shares > 0, shares, 1.0))
