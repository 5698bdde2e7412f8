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

    seen, heard, both = targets.video_there, targets.audio_there, targets.complete
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


def mean_of(values: Array, counted: Array | None) -> Array:
    """The mean of [B, …] over the clips that are `counted`, bool [B], or over all; 0 where none is."""
    if counted is None:
        return values.mean()
    each = values.reshape(len(values), -1).mean(1)
    return jnp.sum(each * counted) / jnp.maximum(counted.sum(), 1)
