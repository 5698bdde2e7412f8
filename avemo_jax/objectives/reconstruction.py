"""Masked autoencoding and latent prediction: how well what was hidden was predicted."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

from avemo_jax.batch import Outputs, Targets
from avemo_jax.errors import UserError

ERRORS: dict[str, Callable[[Array], Array]] = {
    "mse": jnp.square,
    "l1": jnp.abs,
    "smooth_l1": lambda error: jnp.where(jnp.abs(error) < 1, 0.5 * jnp.square(error), jnp.abs(error) - 0.5),
}


def masked_reconstruction(
    outputs: Outputs,
    targets: Targets,
    *,
    difference_weight: float = -1.0,
    difference_factor: Array | float = 1.0,
    error: str = "mse",
    video_weight: Array | float = 1.0,
    audio_weight: Array | float = 1.0,
    cross_weight: Array | float = 1.0,
) -> tuple[Array, dict[str, Array]]:
    """Mean error over the masked tokens of each modality that is predicted, weighted and added up.

    Clips that lack a stream are left out of its mean, and of that of what is predicted from it.

    Args:
      outputs: predictions [B, N masked, P] of each modality; None where there is none.
      targets: the same shapes.
      difference_weight: w ≥ 0 weighs the video's first frames by 1 − w and its frame differences by w
        (for frame groups of 2); negative means one plain error over all values.
      difference_factor: of w, where it changes.
      error: a name in `ERRORS`.
      video_weight, audio_weight: of each modality.
      cross_weight: of what is predicted from the other modality, times the modality's own weight.

    Returns:
      The loss, and `loss_video`, `loss_audio` (with w also `loss_video_frame`, `loss_video_difference`; predicted from
      the other modality `loss_video_from_audio`, `loss_audio_from_video`).

    Raises:
      UserError: there is no such error.
    """
    if error not in ERRORS:
        raise UserError(f"target.error is '{error}', not one of {', '.join(ERRORS)}")
    terms: dict[str, Array] = {}
    total = jnp.zeros(())

    def errors(prediction: Array, target: Array) -> Array:
        return ERRORS[error](prediction.astype(jnp.float32) - target)

    seen, heard, both = _counted(targets)
    wanted = (
        ("video", outputs.video_prediction, targets.video, seen, video_weight),
        ("audio", outputs.audio_prediction, targets.audio, heard, audio_weight),
        ("video_from_audio", outputs.video_from_audio, targets.video, both, video_weight * cross_weight),
        ("audio_from_video", outputs.audio_from_video, targets.audio, both, audio_weight * cross_weight),
    )
    for name, prediction, target, counted, weight in wanted:
        if prediction is None or target is None:
            continue
        of = errors(prediction, target)
        if name == "video" and difference_weight >= 0:
            first, second = (mean_of(half, counted) for half in jnp.split(of, 2, axis=-1))
            share = difference_weight * difference_factor
            loss = (1 - share) * first + share * second
            terms |= {"loss_video_frame": first, "loss_video_difference": second}
        else:
            loss = mean_of(of, counted)
        terms[f"loss_{name}"] = loss
        total += weight * loss
    return total, terms


def clip_weights(video_there: Array, audio_there: Array) -> Array:
    """What a clip counts in the mean over all clips, so that it is one over those with a picture, sound, or both:
    float32 [B, 3], 0 or B / their number; from bool [B] each."""
    there = jnp.stack([video_there, audio_there, video_there & audio_there], axis=1)
    return there * (len(there) / jnp.maximum(there.sum(0), 1))


def mean_of(values: Array, weights: Array | None) -> Array:
    """The mean of [B, …], of each clip weighted by one of `clip_weights`, [B]; None: all alike."""
    if weights is None:
        return values.mean()
    return jnp.mean(values.reshape(len(values), -1).mean(1) * weights)


def _counted(targets: Targets) -> tuple[Array | None, Array | None, Array | None]:
    """`clip_weights` of the clips with a picture, sound, and both."""
    if targets.video_there is None or targets.audio_there is None:
        return None, None, None
    weights = targets.clip_weights
    if weights is None:
        weights = clip_weights(targets.video_there, targets.audio_there)
    return weights[:, 0], weights[:, 1], weights[:, 2]
