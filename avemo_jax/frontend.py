"""The device's side of the input: uint8 → normalised video, samples → log-mel, patches, targets.

Sizes: B clips, T frames, H × W pixels, S samples, N tokens. Patches are 2 × 16 × 16 (frames, rows, columns) of
video and 16 × 16 (time, mel) of the log-mel spectrogram; tokens are numbered in raster order, the last axis
fastest.
"""

from __future__ import annotations

import functools
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from avemo_jax.batch import Batch, Clip, Masks, Targets
from avemo_jax.errors import UserError
from input_pipeline.audio import (
    FFT,
    FLOOR,
    FRAME,
    HOP,
    LOG_MEL_MEAN,
    LOG_MEL_STD,
    PRE_EMPHASIS,
    mel_filter_bank,
)
from input_pipeline.video import IMAGENET_MEAN, IMAGENET_STD

PATCH, TUBELET, CHANNELS = 16, 2, 3
VIDEO_PATCH = TUBELET * PATCH * PATCH * CHANNELS  # numbers in a video patch
AUDIO_PATCH = PATCH * PATCH
PATCHES = {"video": VIDEO_PATCH, "audio": AUDIO_PATCH}
AnyArray = TypeVar(
    "AnyArray", Array, np.ndarray
)  # patches are cut on the device and for pictures on the host
_TARGET_EPSILON = 1e-6  # added to the standard deviation of a patch, not to its variance


def to_clip(batch: Batch, *, mels: int = 128, gain: Array | None = None) -> Clip:
    """What the host sent as what an encoder sees; `gain` [B] scales each clip's sound."""
    wave = batch["waveform"].astype(jnp.float32) / 32768 - batch["waveform_mean"][:, None]
    if gain is not None:
        wave = wave * gain[:, None]
    return Clip(
        normalise_video(batch["video"]), normalise_log_mel(log_mel(wave, batch["waveform_length"], mels))
    )


def normalise_video(video: Array) -> Array:
    """uint8 RGB → float32, ImageNet mean and deviation."""
    return (video.astype(jnp.float32) / 255 - IMAGENET_MEAN) / IMAGENET_STD


def to_pixels(video: AnyArray) -> AnyArray:
    """Inverse of `normalise_video`, but for the bytes: [..., 3] → pixels from 0 to 1."""
    return video * IMAGENET_STD + IMAGENET_MEAN


def normalise_log_mel(spectrogram: Array) -> Array:
    """(x − mean) / (2 · deviation), with the mean and deviation that the reference measured on its data."""
    return (spectrogram - LOG_MEL_MEAN) / (2 * LOG_MEL_STD)


def log_mel(wave: Array, lengths: Array | None = None, mels: int = 128) -> Array:
    """Kaldi's log-mel filter bank without dither: float32 [B, S] at 16 kHz → [B, 1 + (S − 400) // 160, mels].

    25 ms frames every 10 ms, per-frame mean removed, pre-emphasis 0.97, symmetric Hann window, 512-point
    power spectrum, triangles on the mel axis from 20 Hz to 8 kHz, natural log with a floor. Frames that
    reach beyond a clip's length are 0, as the reference pads after the log. The Fourier transform is a
    matrix product, which shards over the batch where an FFT would be gathered. The same maths as
    `input_pipeline.audio.log_mel`.
    """
    count = 1 + (wave.shape[-1] - FRAME) // HOP
    index = np.arange(count)[:, None] * HOP + np.arange(FRAME)
    frames = wave[:, index]
    frames = frames - frames.mean(-1, keepdims=True)
    previous = jnp.concatenate([frames[..., :1], frames[..., :-1]], axis=-1)
    frames = frames - PRE_EMPHASIS * previous
    highest = jax.lax.Precision.HIGHEST
    cosine, sine = _windowed_fourier()
    power = jnp.square(jnp.matmul(frames, cosine, precision=highest))
    power += jnp.square(jnp.matmul(frames, sine, precision=highest))
    energies = jnp.matmul(power, mel_filter_bank(mels).T.astype(np.float32), precision=highest)
    spectrogram = jnp.log(jnp.maximum(energies, FLOOR))
    if lengths is None:
        return spectrogram
    whole = jnp.where(lengths >= FRAME, 1 + (lengths - FRAME) // HOP, 0)
    return jnp.where(jnp.arange(count)[None, :, None] < whole[:, None, None], spectrogram, 0.0)


@functools.cache
def _windowed_fourier() -> tuple[np.ndarray, np.ndarray]:
    """Hann window and 512-point Fourier transform of a 400-sample frame: two float32 [400, 257]."""
    sample = np.arange(FRAME)[:, None]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * sample / (FRAME - 1))
    angle = 2 * np.pi * sample * np.arange(FFT // 2 + 1) / FFT
    return (window * np.cos(angle)).astype(np.float32), (window * np.sin(angle)).astype(np.float32)


def video_grid(frames: int, image_size: int) -> tuple[int, int, int]:
    """Tokens along (time, height, width)."""
    if frames % TUBELET or image_size % PATCH:
        raise UserError(
            f"clips of {frames} frames at {image_size} px do not cut into patches of {TUBELET} frames × {PATCH} px"
        )
    return frames // TUBELET, image_size // PATCH, image_size // PATCH


def audio_grid(frames: int, mels: int) -> tuple[int, int]:
    """Tokens along (time, frequency)."""
    if frames % PATCH or mels % PATCH:
        raise UserError(
            f"log-mels of {frames} frames × {mels} bins do not cut into patches of {PATCH} × {PATCH}"
        )
    return frames // PATCH, mels // PATCH


def target_widths(model: ConfigDict) -> dict[str, int]:
    """How many numbers a pretraining model of `config.model` predicts of a token: those of its patch, of a teacher's
    token (`target_dim`), or of both, one behind the other."""
    latent = model.get("target_dim") or 0
    patches = not latent or model.get("target_patches", False)
    return {name: width * patches + latent for name, width in PATCHES.items()}


def token_grids(model: ConfigDict) -> dict[str, tuple[int, ...]]:
    """Tokens of the modalities that a model of `config.model` looks at: both, where it does not name them.

    Raises:
      UserError: sizes that do not cut into patches.
    """
    both = {
        "video": video_grid(model.frames, model.image_size),
        "audio": audio_grid(model.audio_frames, model.mel_bins),
    }
    return {name: both[name] for name in model.get("modalities", tuple(both))}


def patchify(clip: Clip, modality: str) -> Array:
    """[B, N, P] of one modality of a clip."""
    return patchify_video(clip.video) if modality == "video" else patchify_audio(clip.audio)


def patchify_video(video: AnyArray) -> AnyArray:
    """[B, T, H, W, 3] → [B, N, 2·16·16·3]; a patch is ordered (frame, row, column, channel)."""
    batch, frames, height, width, channels = video.shape
    grid = frames // TUBELET, height // PATCH, width // PATCH
    cut = video.reshape(batch, grid[0], TUBELET, grid[1], PATCH, grid[2], PATCH, channels)
    return cut.transpose(0, 1, 3, 5, 2, 4, 6, 7).reshape(batch, -1, VIDEO_PATCH)


def unpatchify_video(patches: AnyArray, grid: tuple[int, int, int]) -> AnyArray:
    """Inverse of `patchify_video`; `grid` is (time, height, width) in tokens."""
    times, rows, columns = grid
    cut = patches.reshape(-1, times, rows, columns, TUBELET, PATCH, PATCH, CHANNELS)
    return cut.transpose(0, 1, 4, 2, 5, 3, 6, 7).reshape(
        -1, times * TUBELET, rows * PATCH, columns * PATCH, CHANNELS
    )


def patchify_audio(spectrogram: AnyArray) -> AnyArray:
    """[B, frames, mels] → [B, N, 16·16]; a patch is ordered (time, mel)."""
    batch, frames, mels = spectrogram.shape
    cut = spectrogram.reshape(batch, frames // PATCH, PATCH, mels // PATCH, PATCH)
    return cut.transpose(0, 1, 3, 2, 4).reshape(batch, -1, AUDIO_PATCH)


def unpatchify_audio(patches: AnyArray, grid: tuple[int, int]) -> AnyArray:
    """Inverse of `patchify_audio`; `grid` is (time, frequency) in tokens."""
    times, bands = grid
    cut = patches.reshape(-1, times, bands, PATCH, PATCH)
    return cut.transpose(0, 1, 3, 2, 4).reshape(-1, times * PATCH, bands * PATCH)


def reconstruction_targets(
    clip: Clip,
    masks: Masks,
    *,
    normalize_video: bool,
    normalize_audio: bool,
    frame_difference: bool,
    frame_group: int,
    per_colour: bool = True,
    standardize_video: bool = False,
) -> Targets:
    """What decoders should predict, for the masked tokens only, in float32; HiCMAE's by default.

    Video: pixels in [0, 1], or with `standardize_video` as the clip has them (`normalise_video`); then, with
    `normalize_video`, each colour of each tubelet standardised over its 512 values (unbiased deviation), or without
    `per_colour` all 1536 values of a tubelet together (MAE's). With `frame_difference`, frames are then taken in groups
    of `frame_group`, and every frame but a group's first becomes its difference to that first one, on the standardised
    values. Audio: patches of the normalised log-mel, standardised over their 256 values.
    None for a modality without a mask.
    """
    take = functools.partial(jnp.take_along_axis, axis=1)
    video = audio = None
    if masks.video is not None:
        video = patchify_video(clip.video if standardize_video else to_pixels(clip.video))
        if normalize_video:
            colours = video.reshape(*video.shape[:2], -1, CHANNELS if per_colour else 1)
            video = _standardise(colours, axis=2).reshape(video.shape)
        if frame_difference:
            frames, size = clip.video.shape[1], clip.video.shape[2]
            video = _differences(video, video_grid(frames, size), frame_group)
        video = take(video, masks.video.masked[..., None])
    if masks.audio is not None:
        audio = patchify_audio(clip.audio)
        if normalize_audio:
            audio = _standardise(audio, axis=2)
        audio = take(audio, masks.audio.masked[..., None])
    return Targets(video, audio)


def _standardise(x: Array, axis: int) -> Array:
    return (x - x.mean(axis, keepdims=True)) / (x.std(axis, keepdims=True, ddof=1) + _TARGET_EPSILON)


def _differences(patches: Array, grid: tuple[int, int, int], group: int) -> Array:
    frames = unpatchify_video(patches, grid)
    if frames.shape[1] % group:
        raise UserError(
            f"clips of {frames.shape[1]} frames do not cut into groups of target.frame_group = {group}"
        )
    grouped = frames.reshape(frames.shape[0], -1, group, *frames.shape[2:])
    first = grouped[:, :, :1]
    return patchify_video(jnp.concatenate([first, grouped[:, :, 1:] - first], axis=2).reshape(frames.shape))
