"""A checkpoint and some clips → a page of where it looks: attention rollout over frames and spectrogram.

The page holds pictures of people: it is only ever written where its reader asks for it.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from avemo_jax import frontend
from avemo_jax.evaluation import rollout
from avemo_jax.evaluation.choosing import load_result
from avemo_jax.evaluation.extraction import centre_batches
from avemo_jax.report import page
from avemo_jax.report.clips import draw, read_cards
from avemo_jax.report.images import Picture, picture
from avemo_jax.report.judged import TENTHS
from avemo_jax.tasks.pictures import clip_strips
from input_pipeline.records import open_records

Row = dict[str, Any]
PAGE = "rollout.html"
ROWS = ("input", "its encoder", "after the fusion")
_GLOW = np.array([255.0, 150.0, 0.0])
_DIM, _QUALITY = 0.6, 88


def make(checkpoint: str, data: str, *, clips: int = 6, workers: int = 0) -> tuple[str, list[Row]]:
    """The HTML text, and a row a clip: `clip_id`, `position`, `step`, `selection`, `labels`; and of what reaches the
    vector of `video` and of `audio`, and of what each gives to the vector of both after the fusion (`fused_video`,
    `fused_audio`), the share that comes from the most relevant tenth of patches. Clips are drawn at random.

    How much comes from either stream is not said: of each layer of the fusion half is the other stream's by definition.

    Raises:
      UserError: no usable checkpoint, one of another method than HiCMAE, or a folder without readable clips.
    """
    config, params, step, selection = load_result(checkpoint)
    rollout.check_model(config)
    model = config.model
    positions = draw(len(open_records(data)), clips, 2)
    (batch,) = centre_batches(config, data, positions, len(positions), workers)
    kept = batch["valid"]
    on_device = {
        name: jnp.asarray(batch[name][kept])
        for name in ("video", "waveform", "waveform_length", "waveform_mean")
    }
    positions = batch["position"][kept].tolist()
    found = rollout.relevance(config, params, on_device)
    video_grid = frontend.video_grid(model.frames, model.image_size)
    audio_grid = frontend.audio_grid(model.audio_frames, model.mel_bins)
    clip = frontend.to_clip(on_device, mels=model.mel_bins)
    strips = clip_strips(clip, None, video_grid, audio_grid, clips=len(positions), mel_height=model.mel_bins)
    cards = {card.position: card for card in read_cards(data, 0, positions=positions)}
    tokens = int(np.prod(video_grid))
    rows, pictures = [], []
    for place, position in enumerate(positions):
        own, card = strips[place][0], cards[position]
        fused = np.asarray(found.fused[place])
        seen = [np.asarray(found.video[place]), fused[:tokens]]
        heard = [np.asarray(found.audio[place]), fused[tokens:]]
        known = {"clip_id": card.clip_id, "position": position, "step": step, "selection": selection}
        known["labels"] = card.labels
        tenths = {
            name: _most(values)
            for name, values in zip(TENTHS, (seen[0], heard[0], seen[1], heard[1]), strict=True)
        }
        rows.append(known | tenths)
        pictures.append(
            (
                _picture(own.film, [over_film(each.reshape(video_grid)) for each in seen], seen, "frames"),
                _picture(
                    own.sound, [over_sound(each.reshape(audio_grid)) for each in heard], heard, "log-mel"
                ),
            )
        )
    numbers = {**page.made(), "path": data, "step": step, "selection": selection, "clips": rows, "tables": {}}
    return page.render("rollout.html.j2", {}, numbers, pictures=pictures, names=ROWS), rows


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


def _picture(pixels: np.ndarray, heats: list[np.ndarray], relevance: list[np.ndarray], what: str) -> Picture:
    told = []
    for name, values in zip(ROWS[1:], relevance, strict=True):
        told.append(f"{name}: the most relevant tenth of patches has {100 * _most(values):.0f} %")
    words = f"{what}, from top to bottom {', '.join(ROWS)}. {'; '.join(told)} of the attention."
    rows = [pixels, *(glowing(pixels, heat) for heat in heats)]
    return picture(np.concatenate(rows), words[0].upper() + words[1:], _QUALITY)
