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
    chunk: int = 0,
) -> tuple[Array, dict[str, Array]]:
    """HiCMAE's hierarchical cross-modal contrast: symmetric InfoNCE, summed over levels.

    Args:
      video_levels: float32 [levels, B, C], one vector a clip and level, not normalised.
      audio_levels: likewise.
      temperature: divides the cosine similarities.
      negatives: "global" takes all other clips of the batch; "local" those of the same `group_size`
        consecutive clips, as a data-parallel reference that gathers nothing does.
      group_size: clips a group, for "local".
      chunk: with more clips a group than this, every video is compared with at most so many sounds at a time
        and the similarities are made again for the gradient: the same loss in little memory. 0 is off.

    Returns:
      The loss, and `loss_contrast` with `contrast_accuracy`, the share of clips whose own sound is the
      nearest at the deepest level.

    Raises:
      UserError: an unknown kind of negatives, or a batch that does not cut into groups.
    """
    if not video_levels.shape[0]:
        return jnp.zeros(()), {}
    with jax.named_scope("contrast"):  # the name by which a compiled program's collectives are told apart
        video, audio = (_directions(x, negatives, group_size) for x in (video_levels, audio_levels))
        if 0 < chunk < video.shape[2]:
            loss, accuracy = _in_chunks(video, audio, temperature, chunk)
        else:
            loss, accuracy = _at_once(video, audio, temperature)
    return loss, {"loss_contrast": loss, "contrast_accuracy": accuracy}


def contrast_logits(
    video_levels: Array, audio_levels: Array, temperature: float, negatives: str, group_size: int
) -> Array:
    """Cosine similarities over the temperature: [levels, groups, clips of video, clips of audio]."""
    video, audio = (_directions(x, negatives, group_size) for x in (video_levels, audio_levels))
    return _logits(video, audio, temperature)


def _at_once(video: Array, audio: Array, temperature: float) -> tuple[Array, Array]:
    """(loss, accuracy) from all similarities of a group, [levels, groups, size, size]."""
    logits = _logits(video, audio, temperature)
    match = jnp.arange(logits.shape[-1])
    rows = -jax.nn.log_softmax(logits, axis=-1)[..., match, match]
    columns = -jax.nn.log_softmax(logits, axis=-2)[..., match, match]
    loss = 0.5 * (rows + columns).mean((1, 2)).sum()
    return loss, jnp.mean(logits[-1].argmax(-1) == match)


def _in_chunks(video: Array, audio: Array, temperature: float, most: int) -> tuple[Array, Array]:
    """The same from [levels, groups, size, chunk] similarities at a time.

    A chunk takes every k-th sound, so that where clips are divided over devices every device holds an equal
    part of each chunk: only a chunk is ever gathered. All videos are there in each, so a chunk's columns are
    complete, and of its rows the log-sum-exp is kept.
    """
    levels, groups, size, dim = audio.shape
    chunk = _chunk_size(size, most)
    chunks = audio.reshape(levels, groups, chunk, size // chunk, dim).transpose(3, 0, 1, 2, 4)

    @jax.checkpoint
    def compare(sounds: Array) -> tuple[Array, Array, Array, Array]:
        logits = _logits(video, sounds, temperature)
        deepest = jax.lax.stop_gradient(logits[-1])
        in_rows, in_columns = (jax.nn.logsumexp(logits, axis=axis) for axis in (-1, -2))
        return in_rows, in_columns, deepest.max(-1), deepest.argmax(-1)

    in_rows, in_columns, nearest, place = jax.lax.map(compare, chunks)
    match = jnp.sum(video * audio, axis=-1) / temperature
    loss = 0.5 * (jax.nn.logsumexp(in_rows, axis=0) - match).mean((1, 2)).sum()
    loss += 0.5 * (in_columns.mean((0, 2, 3)) - match.mean((1, 2))).sum()
    best = nearest.argmax(0)  # the chunk with the nearest sound, [groups, size]
    found = jnp.take_along_axis(place, best[None], axis=0)[0] * (size // chunk) + best
    return loss, jnp.mean(found == jnp.arange(size))


def _chunk_size(size: int, most: int) -> int:
    """The divisor of `size` to use: up to `most`, even parts for as many devices as can be, then the largest.

    Devices come in powers of two, so the power of two in it says for how many devices it cuts evenly.
    """
    divisors = [n for n in range(1, most + 1) if size % n == 0]
    return max(divisors, key=lambda n: (n & -n, n))


def _directions(levels: Array, negatives: str, group_size: int) -> Array:
    """Unit vectors by group: [levels, B, C] → [levels, groups, clips a group, C]."""
    count, batch, dim = levels.shape
    if negatives == "global":
        group_size = batch
    elif negatives != "local":
        raise UserError(f"contrast.negatives is '{negatives}', not global or local")
    if group_size < 1 or batch % group_size:
        raise UserError(f"contrast.group_size {group_size} does not divide the batch of {batch} clips")
    return (levels / jnp.linalg.norm(levels, axis=-1, keepdims=True)).reshape(count, -1, group_size, dim)


def _logits(video: Array, audio: Array, temperature: float) -> Array:
    similarity = jnp.einsum("lgic,lgjc->lgij", video, audio, precision=jax.lax.Precision.HIGHEST)
    return similarity / temperature
