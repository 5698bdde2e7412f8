"""Pictures of clips as a model sees them: what went in, what was left of it, what came out."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jax import Array
from ml_collections import ConfigDict

from avemo_jax import frontend
from avemo_jax.batch import Clip, Masks, Outputs, TokenMask

ROWS = ("input", "visible", "reconstruction")  # of each clip in a grid, from top to bottom
_GREY = 0.5
_GAP = 4  # white rows between clips


class Strip(NamedTuple):
    """One of a clip's rows: frames side by side, and its log-mel with low frequencies at the bottom."""

    film: np.ndarray  # uint8 [H, W, 3], the first frame of every tubelet
    sound: np.ndarray  # uint8 [H, frames, 3]


def reconstruction_grid(
    clip: Clip, masks: Masks, outputs: Outputs, video_grid, audio_grid, target: ConfigDict, *, clips: int = 4
) -> np.ndarray:
    """The `ROWS` of each clip, frames beside log-mels: uint8 [H, W, 3]; `cut_grid` takes it apart."""
    strips = clip_strips(clip, masks, video_grid, audio_grid, outputs, target, clips=clips)
    rows = []
    for three in strips:
        rows += [np.concatenate(strip, axis=1) for strip in three]
        rows.append(np.full((_GAP, rows[-1].shape[1], 3), 255, np.uint8))
    return np.concatenate(rows[:-1])


def input_grid(clip: Clip, video_grid, audio_grid, *, clips: int = 4) -> np.ndarray:
    """Each clip in a row of its own, frames beside its log-mel: uint8 [H, W, 3]."""
    strips = clip_strips(clip, None, video_grid, audio_grid, clips=clips)
    return np.concatenate([np.concatenate(strip, axis=1) for (strip,) in strips])


def cut_grid(grid: np.ndarray, model: ConfigDict) -> list[list[Strip]]:
    """The strips of a grid that was drawn for `config.model`: [clip][row]; none when it has another size."""
    side, width = model.image_size, model.frames // frontend.TUBELET * model.image_size
    block = len(ROWS) * side + _GAP
    if (grid.shape[0] + _GAP) % block or grid.shape[1] != width + model.audio_frames:
        return []
    clips = []
    for top in range(0, grid.shape[0], block):
        rows = [grid[top + row * side : top + (row + 1) * side] for row in range(len(ROWS))]
        clips.append([Strip(row[:, :width], row[:, width:]) for row in rows])
    return clips


def clip_strips(
    clip: Clip,
    masks: Masks | None,
    video_grid,
    audio_grid,
    outputs: Outputs | None = None,
    target: ConfigDict | None = None,
    *,
    clips: int = 4,
    mel_height: int = 0,
) -> list[list[Strip]]:
    """[clip][row]: input; with masks, what is visible of it; with a model's outputs, their reconstruction too.

    Predictions are of standardised patches; each is put back on the scale of its true patch, as MAE's pictures
    are made, so a picture shows structure and not the model's guess of brightness. A predicted frame difference
    is added to the predicted first frame of its group, and a predicted standardised picture made pixels again.

    Args:
      clips: the first so many.
      mel_height: of the log-mel's picture, pixels; 0: that of the frames.
    """
    clip, masks, outputs = (_first(tree, clips) for tree in (clip, masks, outputs))
    video, audio = (
        np.asarray(frontend.patchify_video(frontend.to_pixels(clip.video))),
        np.asarray(frontend.patchify_audio(clip.audio)),
    )
    seen = heard = None
    if outputs is not None and target is not None and masks is not None:
        if outputs.video_prediction is not None and masks.video is not None:
            seen = _place(outputs.video_prediction, masks.video, video.shape)
            if target.frame_difference:
                seen = _undo_differences(seen, video_grid, target.frame_group)
            if target.normalize_video:
                truth = frontend.patchify_video(clip.video) if target.standardize_video else video
                seen = _rescale(
                    seen,
                    np.asarray(truth),
                    colours=frontend.CHANNELS if target.get("per_colour", True) else 1,
                )
            if target.standardize_video:
                colours = seen.reshape(*seen.shape[:2], -1, frontend.CHANNELS)
                seen = frontend.to_pixels(colours).reshape(seen.shape)
        if outputs.audio_prediction is not None and masks.audio is not None:
            heard = _place(outputs.audio_prediction, masks.audio, audio.shape)
            if target.normalize_audio:
                heard = _rescale(heard, audio, colours=1)
    low, high = audio.min(), audio.max()
    rows = 1 if masks is None else 2 if outputs is None else 3
    films = [
        np.asarray(frontend.unpatchify_video(x, video_grid)[:, :: frontend.TUBELET])
        for x in _versions(video, seen, masks and masks.video, _GREY, rows)
    ]
    sounds = [
        (np.asarray(frontend.unpatchify_audio(x, audio_grid)) - low) / max(high - low, 1e-6)
        for x in _versions(audio, heard, masks and masks.audio, (low + high) / 2, rows)
    ]
    return [
        [
            Strip(
                _as_bytes(np.concatenate(list(film[index]), axis=1)),
                _as_bytes(_mel_picture(sound[index], mel_height or film.shape[2])),
            )
            for film, sound in zip(films, sounds, strict=True)
        ]
        for index in range(len(video))
    ]


def _first(tree, count: int):
    """The first clips of a named tuple of arrays (or of named tuples), on the host."""
    if tree is None:
        return None
    if isinstance(tree, tuple):
        return type(tree)(*(_first(leaf, count) for leaf in tree))
    return np.asarray(tree[:count])


def _place(prediction: Array, mask: TokenMask, shape) -> np.ndarray:
    """Predicted patches at the places of their tokens, zero elsewhere."""
    placed = np.zeros(shape, np.float32)
    np.put_along_axis(placed, np.asarray(mask.masked)[..., None], np.asarray(prediction), axis=1)
    return placed


def _versions(
    truth: np.ndarray, prediction: np.ndarray | None, mask: TokenMask | None, blank: float, rows: int
) -> list[np.ndarray]:
    """So many of: truth; truth with hidden tokens blank; with hidden tokens predicted, and those that nobody predicts
    blank. A modality that is not masked, since the method does not look at it, is blank from the second on."""
    hidden = np.ones(truth.shape[:2], bool)
    if mask is not None:
        np.put_along_axis(hidden, np.asarray(mask.visible), False, axis=1)
    visible = np.where(hidden[..., None], blank, truth)
    completed = visible
    if prediction is not None and mask is not None:
        asked = np.zeros(truth.shape[:2], bool)
        np.put_along_axis(asked, np.asarray(mask.masked), True, axis=1)
        completed = np.where(asked[..., None], prediction, visible)
    return [truth, visible, completed][:rows]


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


def _as_bytes(picture: np.ndarray) -> np.ndarray:
    """0 … 1 → uint8."""
    return (np.clip(picture, 0, 1) * 255).round().astype(np.uint8)
