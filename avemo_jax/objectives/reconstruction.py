"""Masked autoencoding: how well the hidden patches were predicted."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from avemo_jax.batch import Outputs, Targets


def masked_reconstruction(
    outputs: Outputs, targets: Targets, *, difference_weight: float = -1.0
) -> tuple[Array, dict[str, Array]]:
    """Mean squared error over the masked tokens of both modalities, added up.

    Args:
      outputs: predictions [B, N masked, P] of each modality.
      targets: the same shapes.
      difference_weight: w ≥ 0 weighs the video's first frames by 1 − w and its frame differences by w
        (for frame groups of 2); negative means one plain error over all values.

    Returns:
      The loss, and `loss_video`, `loss_audio` (with w also `loss_video_frame`, `loss_video_difference`).
    """
    errors = jnp.square(outputs.video_prediction.astype(jnp.float32) - targets.video)
    audio = jnp.mean(jnp.square(outputs.audio_prediction.astype(jnp.float32) - targets.audio))
    if difference_weight < 0:
        video = errors.mean()
        return video + audio, {"loss_video": video, "loss_audio": audio}
    first, second = (half.mean() for half in jnp.split(errors, 2, axis=-1))
    video = (1 - difference_weight) * first + difference_weight * second
    return video + audio, {
        "loss_video": video,
        "loss_audio": audio,
        "loss_video_frame": first,
        "loss_video_difference": second,
    }
