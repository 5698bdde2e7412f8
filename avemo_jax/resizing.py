"""Cutting and resizing frames on the device: Pillow's bilinear filter with antialiasing, as two matrix products.

The same as `input_pipeline.augment.crop_and_resize`, to a grey level here and there. Not here: which part is cut
(the host draws it, so that a run is the same wherever it is cut).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array


def crop_and_resize(video: Array, box: Array, flip: Array, size: int) -> Array:
    """Each clip's part of its frames, `size` pixels square.

    Args:
      video: uint8 [B, T, H, W, 3], whole frames.
      box: int32 [B, 4]: left, top, right, bottom in pixels.
      flip: bool [B]: mirrored left to right.
      size: pixels a side.

    Returns:
      uint8 [B, T, size, size, 3].
    """
    height, width = video.shape[2:4]
    across = _triangles(box[:, 0], box[:, 2], width, size)
    across = jnp.where(flip[:, None, None], across[:, ::-1], across)
    down = _triangles(box[:, 1], box[:, 3], height, size)
    highest = jax.lax.Precision.HIGHEST
    # Pillow goes across first and rounds what it has then.
    wide = _rounded(jnp.einsum("bow,bthwc->bthoc", across, video.astype(jnp.float32), precision=highest))
    return _rounded(jnp.einsum("boh,bthwc->btowc", down, wide, precision=highest)).astype(jnp.uint8)


def _triangles(first: Array, end: Array, length: int, size: int) -> Array:
    """float32 [B, size, length]: what each pixel of a row, from `first` [B] up to `end` [B], gives to each of `size`
    new ones. A triangle about the new pixel's centre, as wide as one old pixel, or one new pixel where that is wider;
    what would lie outside the part is left out."""
    scale = (end - first)[:, None] / size
    reach = jnp.maximum(scale, 1.0)
    centre = first[:, None] + (jnp.arange(size) + 0.5) * scale
    pixel = jnp.arange(length)
    weights = jnp.maximum(0.0, 1.0 - jnp.abs(pixel + 0.5 - centre[..., None]) / reach[..., None])
    inside = (pixel >= first[:, None]) & (pixel < end[:, None])
    weights = jnp.where(inside[:, None, :], weights, 0.0)
    return weights / weights.sum(-1, keepdims=True)


def _rounded(levels: Array) -> Array:
    return jnp.floor(levels + 0.5)  # of positive numbers, halves up
