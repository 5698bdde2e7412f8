"""Augmentation of normalised clips on the device: resized crops, flips, erasing, mixing of clips, missing modalities.

Static shapes throughout: a box is drawn as numbers and becomes a matrix or a mask. What belongs to a clip is drawn
from the clip's own key, what belongs to a pair of clips from the step's. Not here: RandAugment, which is the host's
(`input_pipeline.randaugment`); losses.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from avemo_jax.batch import Batch, Clip

_TRIES = 10  # for a box that fits; after that the whole picture, or nothing to erase
_ERASED_ASPECT = (0.3, 1 / 0.3)
_ERASED_AREA = (0.02, 1 / 3)


class Box(NamedTuple):
    """A rectangle of pixels; int32 [...] each."""

    top: Array
    left: Array
    height: Array
    width: Array


def resized_crop(
    video: Array, keys: Array, *, area: tuple[float, float], aspect: tuple[float, float], flip: float
) -> Array:
    """Each clip's own random box, brought back to the full size, and perhaps mirrored; all frames alike.

    Bilinear without antialiasing, pixels as areas (PyTorch's `align_corners=False`), as the reference has it.

    Args:
      video: float32 [B, T, H, W, 3].
      keys: [B].
      area: least and largest share of the picture, drawn evenly.
      aspect: width over height, drawn evenly on a log scale.
      flip: the probability of mirroring.
    """
    height, width = video.shape[2:4]

    def draw(key: Array) -> tuple[Box, Array]:
        where, mirrored = jax.random.split(key)
        return crop_box(where, height, width, area, aspect), jax.random.bernoulli(mirrored, flip)

    boxes, flipped = jax.vmap(draw)(keys)
    return crop_and_resize(video, boxes, flipped)


def crop_and_resize(video: Array, boxes: Box, flipped: Array) -> Array:
    """Boxes [B] of float32 [B, T, H, W, 3] at the full size, mirrored where `flipped` [B]."""
    height, width = video.shape[2:4]
    rows = jax.vmap(lambda start, length: _bilinear(start, length, height))(boxes.top, boxes.height)
    columns = jax.vmap(lambda start, length: _bilinear(start, length, width))(boxes.left, boxes.width)
    columns = jnp.where(flipped[:, None, None], columns[:, ::-1], columns)
    highest = jax.lax.Precision.HIGHEST  # pixels, not activations
    video = jnp.einsum("bih,bthwc->btiwc", rows, video, precision=highest)
    return jnp.einsum("bjw,btiwc->btijc", columns, video, precision=highest)


def crop_box(
    key: Array, height: int, width: int, area: tuple[float, float], aspect: tuple[float, float]
) -> Box:
    """One random box of a picture; the whole of it when ten tries do not fit."""
    boxes = _tries(key, height, width, area, aspect)
    fits = (boxes.height >= 1) & (boxes.width >= 1) & (boxes.height <= height) & (boxes.width <= width)
    first = jnp.argmax(fits)
    box = jax.tree.map(lambda values: values[first], boxes)
    whole = Box(*(jnp.asarray(value, jnp.int32) for value in (0, 0, height, width)))
    return jax.tree.map(lambda ours, other: jnp.where(fits.any(), ours, other), box, whole)


def erase(video: Array, keys: Array, seen: Array, *, probability: float) -> Array:
    """A random box of some clips becomes noise, N(0, 1) for each pixel of each frame (Zhong et al. 2020).

    Args:
      video: normalised, float32 [B, T, H, W, 3]; the box is the same in all frames.
      keys: [B].
      seen: bool [B], which clips have a picture; the black one of others stays.
      probability: of erasing.
    """
    height, width = video.shape[2:4]

    def one(key: Array, clip: Array, present: Array) -> Array:
        where, often, pixels = jax.random.split(key, 3)
        inside = _within(erased_box(where, height, width), height, width)
        inside &= present & jax.random.bernoulli(often, probability)
        noise = jax.random.normal(pixels, clip.shape, clip.dtype)
        return jnp.where(inside[None, :, :, None], noise, clip)

    return jax.vmap(one)(keys, video, seen)


def erased_box(key: Array, height: int, width: int) -> Box:
    """One random box to erase, smaller than the picture both ways; of no size when no try fits."""
    boxes = _tries(key, height, width, _ERASED_AREA, _ERASED_ASPECT)
    fits = (boxes.height < height) & (boxes.width < width)
    first = jnp.argmax(fits)
    box = jax.tree.map(lambda values: values[first], boxes)
    return box._replace(height=jnp.where(fits.any(), box.height, 0))


class Mixing(NamedTuple):
    """How the clips of a batch are mixed with their partners."""

    kept: Array  # float32 [], the share of a clip's own target
    blended: Array  # float32 [], the share of its own pixels outside the box
    box: Box  # of the partner's pixels
    span: Array  # int32 [2], first and last + 1 log-mel frame of the partner's sound


def draw_mixing(
    key: Array,
    height: int,
    width: int,
    audio_frames: int,
    *,
    mixup: float,
    cutmix: float,
    probability: float,
    switch: float,
) -> Mixing:
    """Mixup (Zhang et al. 2018) or CutMix (Yun et al. 2019), one draw for a whole batch as in the reference.

    Args:
      mixup, cutmix: α of the Beta distribution of λ; 0 leaves the method out.
      probability: of mixing at all.
      switch: of CutMix, where both methods are on.
    """
    which, often, alpha, place, when = jax.random.split(key, 5)
    cuts = jnp.asarray(cutmix > 0 and (mixup <= 0 or switch >= 1))
    if mixup > 0 and cutmix > 0:
        cuts = jax.random.bernoulli(which, switch)
    exponent = jnp.where(cuts, max(cutmix, 1e-6), max(mixup, 1e-6))
    share = jax.random.beta(alpha, exponent, exponent)
    mixes = jax.random.bernoulli(often, probability) & bool(mixup > 0 or cutmix > 0)
    share = jnp.where(mixes, share, 1.0)
    centre = jax.random.randint(place, (2,), 0, jnp.array([height, width]))
    box, kept = cutmix_box(share, centre[0], centre[1], height, width)
    none = jax.tree.map(jnp.zeros_like, box)
    box = jax.tree.map(lambda a, b: jnp.where(cuts & mixes, a, b), box, none)
    kept = jnp.where(cuts & mixes, kept, share)
    length = jnp.round((1 - kept) * audio_frames).astype(jnp.int32)
    start = jax.random.randint(when, (), 0, audio_frames - length + 1)
    span = jnp.where(cuts & mixes, jnp.array([start, start + length]), 0)
    return Mixing(kept, jnp.where(cuts, 1.0, share), box, span)


def cutmix_box(share: Array, row: Array, column: Array, height: int, width: int) -> tuple[Box, Array]:
    """The box around (row, column) that leaves `share` of a picture, cut at its edges, and the share that is left."""
    ratio = jnp.sqrt(1 - share)

    def side(centre: Array, length: int) -> tuple[Array, Array]:
        half = (length * ratio).astype(jnp.int32) // 2
        low, high = jnp.clip(centre - half, 0, length), jnp.clip(centre + half, 0, length)
        return low, high - low

    (top, rows), (left, columns) = side(row, height), side(column, width)
    return Box(top, left, rows, columns), 1 - rows * columns / (height * width)


def mix(clip: Clip, target: Array, mixing: Mixing, *, sound: bool) -> tuple[Clip, Array]:
    """Each clip with its partner, which is its mirror image in the batch, and its target likewise.

    Args:
      clip: of B clips.
      target: float32 [B, K].
      sound: whether log-mels are mixed too: blended by Mixup, by CutMix a span of frames of the box's share.
        Without it sound and target of a clip do not agree, which is what the reference trains on.
    """
    height, width = clip.video.shape[2:4]
    inside = _within(mixing.box, height, width)[:, :, None]
    video = _blend(clip.video, inside, mixing.blended)
    audio = clip.audio
    if sound:
        frames = jnp.arange(audio.shape[1])
        audio = _blend(
            audio, ((frames >= mixing.span[0]) & (frames < mixing.span[1]))[:, None], mixing.blended
        )
    return Clip(video, audio), mixing.kept * target + (1 - mixing.kept) * target[::-1]


def volume_gain(keys: jax.Array) -> jax.Array:
    """The reference's waveform augmentation, Beta(10, 10) + ½ for each clip: float32 [B], mean 1."""
    return jax.vmap(lambda key: jax.random.beta(key, 10.0, 10.0))(keys) + 0.5


def drop_modalities(batch: Batch, keys: Array, *, video: float, audio: float) -> Batch:
    """Some clips without their picture or their sound, as the input pipeline gives a clip that has none.

    video, audio: the probability that a clip goes without it; together at most 1, as never both are gone: nor is what
    a clip has alone.
    """
    drawn = jax.vmap(jax.random.uniform)(keys)
    no_video = (drawn < video) & (batch["waveform_length"] > 0)
    no_audio = (drawn >= 1 - audio) & (batch["video"] > 0).any((1, 2, 3, 4))
    return without(batch, no_video, no_audio)


def without(batch: Batch, no_video: Array, no_audio: Array) -> Batch:
    """The batch without the pictures and the sound of these clips, bool [B] each."""
    silent = {name: batch[name] for name in ("waveform", "waveform_length", "waveform_mean")}
    silent = {name: jnp.where(_like(no_audio, field), 0, field) for name, field in silent.items()}
    return batch | silent | {"video": jnp.where(_like(no_video, batch["video"]), 0, batch["video"])}


def _blend(x: Array, inside: Array, share: Array) -> Array:
    other = x[::-1]
    return jnp.where(inside, other, share * x + (1 - share) * other)


def _like(flags: Array, field: Array) -> Array:
    return flags.reshape(-1, *[1] * (field.ndim - 1))


def _tries(key, height, width, area, aspect):
    """[10] boxes of random area, aspect (width over height) and place; some of them do not fit."""
    size, shape, down, right = jax.random.split(key, 4)
    pixels = jax.random.uniform(size, (_TRIES,), minval=area[0], maxval=area[1]) * (height * width)
    low, high = jnp.log(jnp.array(aspect))
    ratio = jnp.exp(jax.random.uniform(shape, (_TRIES,), minval=low, maxval=high))
    rows = jnp.round(jnp.sqrt(pixels / ratio)).astype(jnp.int32)
    columns = jnp.round(jnp.sqrt(pixels * ratio)).astype(jnp.int32)
    top = jax.random.randint(down, (_TRIES,), 0, jnp.maximum(height - rows, 0) + 1)
    left = jax.random.randint(right, (_TRIES,), 0, jnp.maximum(width - columns, 0) + 1)
    return Box(top, left, rows, columns)


def _within(box: Box, height: int, width: int) -> Array:
    """bool [H, W], true inside the box."""
    rows, columns = jnp.arange(height)[:, None], jnp.arange(width)[None]
    down = (rows >= box.top) & (rows < box.top + box.height)
    return down & (columns >= box.left) & (columns < box.left + box.width)


def _bilinear(start: Array, length: Array, size: int) -> Array:
    """[size, size]: pixels of a row → `size` pixels interpolated from `length` of them, from `start` on."""
    where = jnp.maximum((jnp.arange(size) + 0.5) * (length / size) - 0.5, 0.0)
    low = jnp.floor(where).astype(jnp.int32)
    high = jnp.minimum(low + 1, length - 1)
    upper = where - low
    pixel = jnp.arange(size)
    return (pixel == (start + low)[:, None]) * (1 - upper)[:, None] + (
        pixel == (start + high)[:, None]
    ) * upper[:, None]
