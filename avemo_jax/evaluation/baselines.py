"""What a probe sees without any network: statistics of the log-mel spectrogram and of grey pixels.

  log_mel         mean and standard deviation over time of each mel band              2 · mel bins
  log_mel_spans   the same of each quarter of the sound, one behind the other         8 · mel bins
  pixels          mean and standard deviation over time of 16 × 16 grey pixels        512
  log_mel+pixels  both

They are what pretraining must beat: on small sets a linear probe on them often wins.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from avemo_jax import frontend
from avemo_jax.batch import Batch
from input_pipeline.audio import FRAME, HOP

NAMES = ("log_mel", "log_mel_spans", "pixels", "log_mel+pixels")
_SPANS = 4
_SIDE = 16
_GREY = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601 luma


def statistics(batch: Batch, mels: int, gain: jax.Array | None = None) -> dict[str, jax.Array]:
    """The vectors of `NAMES`, float32 [B, D]; `gain` [B] scales each clip's sound."""
    sound, picture = _log_mel(batch, mels, gain, 1), _pixels(batch["video"])
    spans = _log_mel(batch, mels, gain, _SPANS)
    joined = jnp.concatenate([sound, picture], -1)
    return dict(zip(NAMES, (sound, spans, picture, joined), strict=True))


def _log_mel(batch: Batch, mels: int, gain: jax.Array | None, spans: int) -> jax.Array:
    """Over the rows that hold sound; the padding after a short clip is no part of its statistics."""
    rows = frontend.to_clip(batch, mels=mels, gain=gain).audio
    whole = jnp.maximum(1 + (batch["waveform_length"] - FRAME) // HOP, 1)[:, None]
    place = jnp.arange(rows.shape[1])
    found = []
    for span in range(spans):
        inside = (place >= span * whole // spans) & (place < -(-(span + 1) * whole // spans))
        mean = rows.mean(1, where=inside[..., None])
        deviation = jnp.square(rows - mean[:, None]).mean(1, where=inside[..., None])
        found += [mean, jnp.sqrt(deviation)]
    return jnp.concatenate(found, -1)


def _pixels(video: jax.Array) -> jax.Array:
    grey = video.astype(jnp.float32) / 255 @ _GREY
    count, frames, height, width = grey.shape
    cells = grey.reshape(count, frames, _SIDE, height // _SIDE, _SIDE, width // _SIDE).mean((3, 5))
    cells = cells.reshape(count, frames, _SIDE * _SIDE)
    return jnp.concatenate([cells.mean(1), cells.std(1)], -1)
