"""A checkpoint and some clips → where it looks: attention rollout over frames and spectrogram, for the report and as
the page of `avemo evaluate --suite rollout`.

The pictures show people, as all pictures of clips do: pages are only written where their reader asks for them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from avemo_jax import frontend
from avemo_jax.errors import UserError
from avemo_jax.evaluation import rollout
from avemo_jax.evaluation.choosing import load_result
from avemo_jax.evaluation.extraction import centre_batches
from avemo_jax.models.params import Params
from avemo_jax.report import page
from avemo_jax.report.clips import read_cards
from avemo_jax.report.images import Picture, picture
from avemo_jax.report.judged import TENTHS
from avemo_jax.tasks.pictures import Strip, clip_strips

Row = dict[str, Any]
ROWS = ("input", "its encoder", "after the fusion")
_GLOW = np.array([255.0, 150.0, 0.0])
_DIM, _QUALITY = 0.6, 88
_BATCH = 8  # clips of which all attention is in memory at a time


class Looked(NamedTuple):
    """A checkpoint's step and how its weights were chosen (see `load_result`); of each clip that can be read a row,
    and its frames and its sound with `ROWS` one above the other."""

    step: int
    selection: str
    rows: list[Row]
    pictures: list[tuple[Picture, Picture]]


def make(checkpoint: str, data: str, *, clips: int = 6, workers: int = 0) -> tuple[str, list[Row]]:
    """The HTML text of a page, and the rows of `look` with `step` and `selection`."""
    found = look(checkpoint, data, clips, workers=workers)
    known = {"step": found.step, "selection": found.selection}
    entry = {"run": "", "data": data, **known, "clips": found.rows}
    numbers = {**page.made(), "rollouts": [entry], "tables": {}}
    shown = {("", row["position"]): pair for row, pair in zip(found.rows, found.pictures, strict=True)}
    html = page.render("rollout.html.j2", {}, numbers, rollouts=shown, looked_at=ROWS)
    return html, [row | known for row in found.rows]


def look(checkpoint: str, data: str, clips: int, *, workers: int = 0, quality: int = _QUALITY) -> Looked:
    """Of so many clips of a prepared folder, drawn at random: the same for every checkpoint. Those of them that lack
    picture or sound, or cannot be read, are left out.

    A row has `clip_id`, `position` and `labels`; and of what reaches the vector of `video` and of `audio`, and of what
    each gives to the vector of both after the fusion (`fused_video`, `fused_audio`), the share that comes from the most
    relevant tenth of patches. How much comes from either stream is not said: of each layer of the fusion half is the
    other stream's by definition.

    Raises:
      UserError: no usable checkpoint, one of another method than HiCMAE or whose attention is not finite, or none of
        the clips drawn is left.
    """
    config, params, step, selection = load_result(checkpoint)
    rollout.check_model(config)
    model = config.model
    video_grid = frontend.video_grid(model.frames, model.image_size)
    audio_grid = frontend.audio_grid(model.audio_frames, model.mel_bins)
    tokens = int(np.prod(video_grid))
    cards = {card.position: card for card in read_cards(data, clips, seed=2) if card.strip}
    rows, pictures = [], []
    whole = _whole_clips(config, params, data, list(cards), (video_grid, audio_grid), workers)
    for position, own, of_video, of_audio, of_both in whole:
        if not np.isfinite(of_both).all():
            raise UserError(f"{checkpoint}: attention is not finite; its run may have diverged")
        card, seen, heard = cards[position], [of_video, of_both[:tokens]], [of_audio, of_both[tokens:]]
        tenths = (seen[0], heard[0], seen[1], heard[1])
        rows.append(
            {"clip_id": card.clip_id, "position": position, "labels": card.labels}
            | {name: _most(values) for name, values in zip(TENTHS, tenths, strict=True)}
        )
        over = [over_film(each.reshape(video_grid)) for each in seen]
        under = [over_sound(each.reshape(audio_grid)) for each in heard]
        film = _picture(own.film, over, seen, f"{card.clip_id}: frames", quality)
        pictures.append((film, _picture(own.sound, under, heard, f"{card.clip_id}: log-mel", quality)))
    if not rows:
        raise UserError(f"{data}: none of the {clips} clips drawn has a picture and a sound that can be read")
    return Looked(step, selection, rows, pictures)


def _whole_clips(
    config: ConfigDict, params: Params, data: str, positions: Sequence[int], grids: tuple, workers: int
) -> Iterator[tuple[int, Strip, np.ndarray, np.ndarray, np.ndarray]]:
    """(position, input, *relevance) of each clip at these positions that has picture and sound."""
    mels, size = config.model.mel_bins, min(_BATCH, len(positions))
    for batch in centre_batches(config, data, positions, size, workers) if positions else ():
        kept = batch["valid"] & (batch["waveform_length"] > 0)
        if not kept.any():
            continue
        on_device = {
            name: jnp.asarray(batch[name][kept])
            for name in ("video", "waveform", "waveform_length", "waveform_mean")
        }
        relevance = map(np.asarray, rollout.relevance(config, params, on_device))
        clip = frontend.to_clip(on_device, mels=mels)
        strips = clip_strips(clip, None, *grids, clips=size, mel_height=mels)
        inputs = [strip for (strip,) in strips]
        yield from zip(batch["position"][kept].tolist(), inputs, *relevance, strict=True)


def over_film(relevance: np.ndarray) -> np.ndarray:
    """[times, rows, columns] of patches → [H, times · W] of pixels, times side by side."""
    return np.kron(np.concatenate(list(relevance), axis=1), np.ones((frontend.PATCH, frontend.PATCH)))


def over_sound(relevance: np.ndarray) -> np.ndarray:
    """[times, mels] of patches → [mel bins, frames] of pixels, low frequencies at the bottom."""
    return np.kron(relevance.T[::-1], np.ones((frontend.PATCH, frontend.PATCH)))


def glowing(pixels: np.ndarray, relevance: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] in grey, the brighter orange the more relevant [H, W] a pixel is; from the least to the most."""
    grey = _DIM * pixels.mean(-1, keepdims=True)
    low, high = float(relevance.min()), float(relevance.max())
    share = ((relevance - low) / max(high - low, 1e-12))[..., None]
    return np.round(grey * (1 - 0.7 * share) + 0.7 * share * _GLOW).astype(np.uint8)


def _most(relevance: np.ndarray) -> float:
    """The share of the most relevant tenth of patches, at least of one."""
    return float(np.sort(relevance)[::-1][: max(1, len(relevance) // 10)].sum() / relevance.sum())


def _picture(
    pixels: np.ndarray, heats: list[np.ndarray], relevance: list[np.ndarray], what: str, quality: int
) -> Picture:
    told = []
    for name, values in zip(ROWS[1:], relevance, strict=True):
        told.append(f"{name}: the most relevant tenth of patches has {100 * _most(values):.0f} %")
    words = f"{what}, from top to bottom {', '.join(ROWS)}. {'; '.join(told)} of the attention."
    rows = [pixels, *(glowing(pixels, heat) for heat in heats)]
    return picture(np.concatenate(rows), words, quality)
