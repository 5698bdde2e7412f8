"""What a probe sees without any network: statistics of the log-mel spectrogram and of grey pixels.

  log_mel         mean and standard deviation over time of each mel band              2 · mel bins
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

NAMES = ("log_mel", "pixels", "log_mel+pixels")
_SIDE = 16
_GREY = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601 luma


def statistics(batch: Batch, mels: int, gain: jax.Array | None = None) -> dict[str, jax.Array]:
    """The vectors of `NAMES`, float32 [B, D]; `gain` [B] scales each clip's sound."""
    sound, picture = _log_mel(batch, mels, gain), _pixels(batch["video"])
    return {"log_mel": sound, "pixels": picture, "log_mel+pixels": jnp.concatenate([sound, picture], -1)}


def _log_mel(batch: Batch, mels: int, gain: jax.Array | None) -> jax.Array:
    """Over the rows that hold sound; the padding after a short clip is no part of its statistics."""
    rows = frontend.to_clip(batch, mels=mels, gain=gain).audio
    whole = 1 + (batch["waveform_length"] - FRAME) // HOP
    inside = (jnp.arange(rows.shape[1]) < jnp.maximum(whole, 1)[:, None])[..., None]
    mean = rows.mean(1, where=inside)
    deviation = jnp.sqrt(jnp.square(rows - mean[:, None]).mean(1, where=inside))
    return jnp.concatenate([mean, deviation], -1)


def _pixels(video: jax.Array) -> jax.Array:
    grey = video.astype(jnp.float32) / 255 @ _GREY
    count, frames, height, width = grey.shape
    cells = grey.reshape(count, frames, _SIDE, height // _SIDE, _SIDE, width // _SIDE).mean((3, 5))
    cells = cells.reshape(count, frames, _SIDE * _SIDE)
    return jnp.concatenate([cells.mean(1), cells.std(1)], -1)
