"""Uniformity (Wang & Isola 2020): the vectors of different clips spread over the sphere. A further term."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from avemo_jax.batch import Outputs, Targets
from avemo_jax.errors import UserError

_HEAT = 2.0  # t of exp(−t d²), as in the paper


def term(outputs: Outputs, targets: Targets) -> Array:
    """log of the mean over pairs of different clips of exp(−2 ‖u − v‖²), u and v unit vectors of the deepest level;
    the mean over video and audio. The lower, the more evenly they lie.

    Raises:
      UserError: the method gives no vectors of clips, or there is only one clip.
    """
    if outputs.video_levels is None or outputs.audio_levels is None:
        raise UserError("it takes the vectors that clips are compared by, and this method gives none")
    if outputs.video_levels.shape[1] < 2:
        raise UserError("it takes pairs of clips, and a batch has one")
    seen, heard = targets.video_there, targets.audio_there
    return (_of(outputs.video_levels[-1], seen) + _of(outputs.audio_levels[-1], heard)) / 2


def _of(vectors: Array, there: Array | None) -> Array:
    """[B, C] → [], over the clips that are there, bool [B]; 0 where there are no two."""
    units = vectors / jnp.linalg.norm(vectors, axis=-1, keepdims=True)
    cosines = jnp.einsum("ic,jc->ij", units, units, precision=jax.lax.Precision.HIGHEST)
    there = jnp.ones(len(units), bool) if there is None else there
    pairs = there[:, None] & there[None] & ~jnp.eye(len(units), dtype=bool)
    # ‖u − v‖² = 2 − 2 cos
    heat = jnp.where(pairs, jnp.exp(-_HEAT * (2 - 2 * cosines)), 0.0).sum()
    return jnp.where(
        pairs.any(), jnp.log(jnp.where(pairs.any(), heat, 1.0) / jnp.maximum(pairs.sum(), 1)), 0.0
    )
