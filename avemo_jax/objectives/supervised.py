"""Losses against labels: classes, distributions over classes, several classes, values. Each gives a scalar."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import Array

_PCC_EPSILON = 1e-6  # added to the denominator, as the reference has it


def soft_targets(target: Array, classes: int, *, smoothing: float = 0.0) -> Array:
    """Class indices int [B] → float32 [B, K], `smoothing` of the mass spread evenly; other targets as they are."""
    if target.ndim > 1:
        return target
    return jax.nn.one_hot(target, classes) * (1 - smoothing) + smoothing / classes


def cross_entropy(
    logits: Array, target: Array, *, smoothing: float = 0.0, class_weights: Array | None = None
) -> Array:
    """Mean cross-entropy.

    Args:
      logits: float32 [B, K].
      target: class indices int [B], or a distribution [B, K] (which is not smoothed).
      smoothing: mass spread evenly over all K classes.
      class_weights: [K]; the mean is then the weighted one.
    """
    target = soft_targets(target, logits.shape[-1], smoothing=smoothing)
    if class_weights is None:
        return -jnp.sum(target * jax.nn.log_softmax(logits), axis=-1).mean()
    weighted = target * class_weights
    return -jnp.sum(weighted * jax.nn.log_softmax(logits)) / jnp.maximum(weighted.sum(), 1e-12)


def kl_divergence(logits: Array, target: Array, *, class_weights: Array | None = None) -> Array:
    """Mean KL(target ‖ softmax) over distributions [B, K]: cross-entropy without the target's own entropy."""
    logs = jnp.log(jnp.where(target > 0, target, 1.0))  # 0 · log 0 = 0
    terms = target * (logs - jax.nn.log_softmax(logits))
    if class_weights is not None:
        terms = terms * class_weights
    return terms.sum(-1).mean()


def binary_cross_entropy(logits: Array, target: Array, *, class_weights: Array | None = None) -> Array:
    """Mean over clips and classes of the error of each class by itself; targets in 0 … 1, [B, K].

    class_weights: [K], by which a class that is there counts more than one that is not.
    """
    present = 1.0 if class_weights is None else class_weights
    terms = present * target * jax.nn.log_sigmoid(logits) + (1 - target) * jax.nn.log_sigmoid(-logits)
    return -terms.mean()


def rater_cross_entropy(logits: Array, target: Array, *, class_weights: Array | None = None) -> Array:
    """Mean cross-entropy of each rater's outputs with that rater's choice, over the choices that were made (multi-
    annotator heads, Davani et al. 2022).

    Args:
      logits: float32 [B, R · K], a rater's classes side by side.
      target: float32 [B, R, K], zeros for a rater who did not see the clip.
      class_weights: [K]; the mean is then the weighted one.
    """
    logs = jax.nn.log_softmax(logits.reshape(target.shape))
    weighted = target if class_weights is None else target * class_weights
    return -jnp.sum(weighted * logs) / jnp.maximum(weighted.sum(), 1e-12)


def unlikely_together(counts: Sequence[float]) -> Array:
    """How unlikely two classes are in one clip, [K, K], symmetric, 0 to 1, 0 on the diagonal.

    1 − the mean of P(j | i) and P(i | j) among the training clips; with a class that no clip has, 1.

    Args:
      counts: K · K numbers of clips that have both classes, row by row; on the diagonal, those that have the one.
    """
    size = math.isqrt(len(counts))
    both = jnp.asarray(counts, jnp.float32).reshape(size, size)
    given = both / jnp.maximum(jnp.diag(both), 1e-12)[:, None]
    return (1 - (given + given.T) / 2) * (1 - jnp.eye(size))


def co_occurrence_penalty(chances: Array, unlikely: Array) -> Array:
    """Mean over clips and pairs of classes of p_i p_j · unlikely_ij: what a model pays for classes that it gives
    together and that hardly ever are (a penalty matrix, after Chou 2024).

    Args:
      chances: float32 [B, K], of each class.
      unlikely: [K, K], see `unlikely_together`.
    """
    size = unlikely.shape[0]
    pairs = jnp.einsum("bi,ij,bj->b", chances, unlikely, chances, precision=jax.lax.Precision.HIGHEST)
    return pairs.mean() / (size * (size - 1))


def mean_squared_error(prediction: Array, target: Array) -> Array:
    """Mean over clips and outputs, [B, K] each."""
    return jnp.mean(jnp.square(prediction - target))


def mean_absolute_error(prediction: Array, target: Array) -> Array:
    """L1: mean over clips and outputs, [B, K] each."""
    return jnp.mean(jnp.abs(prediction - target))


def smooth_l1(prediction: Array, target: Array) -> Array:
    """Huber's loss with its bend at 1: mean over clips and outputs, [B, K] each."""
    error = jnp.abs(prediction - target)
    return jnp.mean(jnp.where(error < 1, 0.5 * jnp.square(error), error - 0.5))


def ccc_loss(prediction: Array, target: Array) -> Array:
    """1 − the concordance of a batch (Lin 1989), the mean over outputs; [B, K] each, moments divided by B."""
    covariance, variances, shift = _moments(prediction, target)
    return 1 - jnp.mean(2 * covariance / (variances[0] + variances[1] + jnp.square(shift)))


def pcc_loss(prediction: Array, target: Array) -> Array:
    """1 − Pearson's correlation of a batch, the mean over outputs; [B, K] each."""
    covariance, variances, _ = _moments(prediction, target)
    return 1 - jnp.mean(covariance / (jnp.sqrt(variances[0]) * jnp.sqrt(variances[1]) + _PCC_EPSILON))


def balanced_weights(counts: Sequence[float]) -> Array:
    """Weights [K] by which every class counts as much as any other: N / (K · n), 0 for a class without clips."""
    number = jnp.asarray(counts, jnp.float32)
    return jnp.where(number > 0, number.sum() / (len(counts) * jnp.maximum(number, 1e-12)), 0.0)


def log_priors(counts: Sequence[float]) -> Array:
    """log of the share of each class, [K]: what logits are adjusted by (Menon et al. 2021)."""
    number = jnp.maximum(jnp.asarray(counts, jnp.float32), 0.5)  # a class without clips: half of one
    return jnp.log(number / number.sum())


CLASS_LOSSES: dict[str, Callable[..., Array]] = {
    "cross_entropy": cross_entropy,
    "kl": kl_divergence,
    "binary_cross_entropy": binary_cross_entropy,
    "raters": rater_cross_entropy,
}
VALUE_LOSSES: dict[str, Callable[[Array, Array], Array]] = {
    "mse": mean_squared_error,
    "l1": mean_absolute_error,
    "smooth_l1": smooth_l1,
    "ccc": ccc_loss,
    "pcc": pcc_loss,
}


def _moments(prediction: Array, target: Array) -> tuple[Array, tuple[Array, Array], Array]:
    """Covariance, both variances and the difference of means, [K] each."""
    shift = prediction.mean(0) - target.mean(0)
    p, t = prediction - prediction.mean(0), target - target.mean(0)
    return (p * t).mean(0), (jnp.square(p).mean(0), jnp.square(t).mean(0)), shift
