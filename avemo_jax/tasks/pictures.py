"""Reconstruction grids: what went in, what was left of it, what came out."""

from __future__ import annotations

import numpy as np
from jax import Array
from ml_collections import ConfigDict

from avemo_jax import frontend
from avemo_jax.batch import Clip, Masks, Outputs, TokenMask

_GREY = 0.5


def reconstruction_grid(
    clip: Clip, masks: Masks, outputs: Outputs, video_grid, audio_grid, target: ConfigDict, *, clips: int = 4
) -> np.ndarray:
    """Rows of (input, visible, reconstruction), frames beside log-mels: uint8 [H, W, 3].

    Predictions are of standardised patches; each is put back on the scale of its true patch, as MAE's pictures
    are made, so a picture shows structure and not the model's guess of brightness. A predicted frame difference
    is added to the predicted first frame of its group.
    """
    clip, masks, outputs = (_first(tree, clips) for tree in (clip, masks, outputs))
    pixels = clip.video * frontend.IMAGENET_STD + frontend.IMAGENET_MEAN
    video = np.asarray(frontend.patchify_video(pixels))
    prediction = _place(outputs.video_prediction, masks.video, video.shape)
    if target.frame_difference:
        prediction = _undo_differences(prediction, video_grid, target.frame_group)
    if target.normalize_video:
        prediction = _rescale(prediction, video, colours=frontend.CHANNELS)
    rows = [
        frontend.unpatchify_video(x, video_grid)[:, :: frontend.TUBELET]
        for x in _three(video, prediction, masks.video, _GREY)
    ]
    audio = np.asarray(frontend.patchify_audio(clip.audio))
    heard = _place(outputs.audio_prediction, masks.audio, audio.shape)
    if target.normalize_audio:
        heard = _rescale(heard, audio, colours=1)
    low, high = audio.min(), audio.max()
    sounds = [
        (np.asarray(frontend.unpatchify_audio(x, audio_grid)) - low) / max(high - low, 1e-6)
        for x in _three(audio, heard, masks.audio, (low + high) / 2)
    ]
    strips = []
    for clip_index in range(len(video)):
        for frames, sound in zip(rows, sounds, strict=True):
            film = np.concatenate(list(np.asarray(frames[clip_index])), axis=1)
            strips.append(np.concatenate([film, _mel_picture(sound[clip_index], film.shape[0])], axis=1))
        strips.append(np.ones((4, strips[-1].shape[1], 3)))
    return (np.clip(np.concatenate(strips[:-1]), 0, 1) * 255).round().astype(np.uint8)


def _first(tree, count: int):
    """The first clips of a named tuple of arrays (or of named tuples), on the host."""
    if isinstance(tree, tuple):
        return type(tree)(*(_first(leaf, count) for leaf in tree))
    return np.asarray(tree[:count])


def _place(prediction: Array, mask: TokenMask, shape) -> np.ndarray:
    """Predicted patches at the places of their tokens, zero elsewhere."""
    placed = np.zeros(shape, np.float32)
    np.put_along_axis(placed, np.asarray(mask.masked)[..., None], np.asarray(prediction), axis=1)
    return placed


def _three(truth: np.ndarray, prediction: np.ndarray, mask: TokenMask, blank: float) -> list[np.ndarray]:
    """Truth, truth with hidden tokens blank, truth with hidden tokens predicted."""
    hidden = np.zeros(truth.shape[:2], bool)
    np.put_along_axis(hidden, np.asarray(mask.masked), True, axis=1)
    hidden = hidden[..., None]
    return [truth, np.where(hidden, blank, truth), np.where(hidden, prediction, truth)]


def _undo_differences(patches: np.ndarray, grid, group: int) -> np.ndarray:
    frames = np.asarray(frontend.unpatchify_video(patches, grid))
    grouped = frames.reshape(frames.shape[0], -1, group, *frames.shape[2:]).copy()
    grouped[:, :, 1:] += grouped[:, :, :1]
    return np.asarray(frontend.patchify_video(grouped.reshape(frames.shape)))


def _rescale(patches: np.ndarray, truth: np.ndarray, colours: int) -> np.ndarray:
    apart = truth.reshape(*truth.shape[:2], -1, colours)
    scaled = patches.reshape(apart.shape) * apart.std(2, keepdims=True, ddof=1) + apart.mean(2, keepdims=True)
    return scaled.reshape(truth.shape)


def _mel_picture(sound: np.ndarray, height: int) -> np.ndarray:
    """[frames, mels] in 0 … 1 → [height, width, 3], low frequencies at the bottom."""
    rows = np.linspace(sound.shape[1] - 1, 0, height).round().astype(int)
    return np.repeat(sound.T[rows][..., None], 3, axis=2)
