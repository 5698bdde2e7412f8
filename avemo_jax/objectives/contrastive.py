"""Contrast between modalities: matching clips are pulled together, others pushed apart."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from avemo_jax.errors import UserError


def hierarchical_contrast(
    video_levels: Array,
    audio_levels: Array,
    *,
    temperature: float,
    negatives: str = "global",
    group_size: int = 0,
) -> tuple[Array, dict[str, Array]]:
    """HiCMAE's hierarchical cross-modal contrast: symmetric InfoNCE, summed over levels.

    Args:
      video_levels: float32 [levels, B, C], one vector a clip and level, not normalised.
      audio_levels: likewise.
      temperature: divides the cosine similarities.
      negatives: "global" takes all other clips of the batch; "local" those of the same `group_size`
        consecutive clips, as a data-parallel reference that gathers nothing does.
      group_size: clips a group, for "local".

    Returns:
      The loss, and `loss_contrast` with `contrast_accuracy`, the share of clips whose own sound is the
      nearest at the deepest level.

    Raises:
      UserError: an unknown kind of negatives, or a batch that does not cut into groups.
    """
    logits = contrast_logits(video_levels, audio_levels, temperature, negatives, group_size)
    if not logits.shape[0]:
        return jnp.zeros(()), {}
    match = jnp.arange(logits.shape[-1])
    rows = -jax.nn.log_softmax(logits, axis=-1)[..., match, match]
    columns = -jax.nn.log_softmax(logits, axis=-2)[..., match, match]
    loss = 0.5 * (rows + columns).mean((1, 2)).sum()
    accuracy = jnp.mean(logits[-1].argmax(-1) == match)
    return loss, {"loss_contrast": loss, "contrast_accuracy": accuracy}


def contrast_logits(
    video_levels: Array, audio_levels: Array, temperature: float, negatives: str, group_size: int
) -> Array:
    """Cosine similarities over the temperature: [levels, groups, clips of video, clips of audio]."""
    levels, batch, dim = video_levels.shape
    if negatives == "global":
        group_size = batch
    elif negatives != "local":
        raise UserError(f"contrast.negatives is '{negatives}', not global or local")
    if group_size < 1 or batch % group_size:
        raise UserError(f"contrast.group_size {group_size} does not divide the batch of {batch} clips")
    video, audio = (
        (x / jnp.linalg.norm(x, axis=-1, keepdims=True)).reshape(levels, -1, group_size, dim)
        for x in (video_levels, audio_levels)
    )
    similarity = jnp.einsum("lgic,lgjc->lgij", video, audio, precision=jax.lax.Precision.HIGHEST)
    return similarity / temperature
