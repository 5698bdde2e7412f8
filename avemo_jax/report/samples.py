"""A run's `samples/*.png` → pictures for the page: each clip's rows as one picture of frames and one of sound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from ml_collections import ConfigDict

from avemo_jax.evaluation.runs import Run
from avemo_jax.report import numbers
from avemo_jax.report.images import Picture, picture, read_pixels
from avemo_jax.tasks.pictures import ROWS, Strip, cut_grid

GRID = "reconstruction"


@dataclass
class Sampled:
    """The pictures of one step: clips as (frames, sound), and pictures of other kinds as they are, by name."""

    step: int
    clips: list[tuple[Picture, Picture]] = field(default_factory=list)
    others: dict[str, Picture] = field(default_factory=dict)


def sampled(run: Run, most_clips: int, quality: int) -> list[Sampled]:
    """Of the last pictured step and of the first one, in this order; adds to the run's notes what is damaged."""
    steps = sorted(run.samples)
    return (
        [_at(run, step, most_clips, quality) for step in dict.fromkeys([steps[-1], steps[0]])]
        if steps
        else []
    )


def stacked(strips: list[Strip], names: Sequence[str], what: str, quality: int) -> tuple[Picture, Picture]:
    """A clip's rows, one above the other: frames and sound. `what` begins both descriptions.

    The descriptions say how far each row is from the first, or how bright it is where it is alone.
    """
    film, sound = (np.concatenate([strip[part] for strip in strips]) for part in (0, 1))
    frames = strips[0].film.shape[1] // strips[0].film.shape[0]
    order = f", from top to bottom {', '.join(names)}" if len(strips) > 1 else ""
    seen = f"{what}: {frames} frames{order}. {_in_numbers(strips, names, 0)}"
    heard = f"{what}: log-mel spectrogram{order}. {_in_numbers(strips, names, 1)}"
    return picture(film, seen, quality), picture(sound, heard, quality)


def _at(run: Run, step: int, most_clips: int, quality: int) -> Sampled:
    result = Sampled(step)
    for name, path in run.samples[step].items():
        try:
            pixels = read_pixels(path)
        except OSError as error:
            run.notes.append(f"{path} cannot be read ({error})")
            continue
        clips = _cut(pixels, run) if name == GRID else []
        for index, strips in enumerate(clips[:most_clips]):
            what = f"Clip {index + 1} of step {numbers.count(step)}"
            result.clips.append(stacked(strips, ROWS, what, quality))
        if not clips:
            words = f"{numbers.title(name)} at step {numbers.count(step)}, "
            words += (
                f"{pixels.shape[1]} × {pixels.shape[0]} pixels, mean brightness {pixels.mean() / 2.55:.0f} %"
            )
            result.others[name] = picture(pixels, words, quality)
    return result


def _cut(pixels: np.ndarray, run: Run) -> list[list[Strip]]:
    model = run.config.get("model", {})
    if not {"frames", "image_size", "audio_frames"} <= model.keys():
        return []
    return cut_grid(pixels, ConfigDict(model))


def _in_numbers(strips: list[Strip], names: Sequence[str], part: int) -> str:
    first = strips[0][part].astype(float)
    if len(strips) == 1:
        return f"Mean brightness {first.mean() / 2.55:.0f} % of white."
    rows = [
        f"{name} differs from the {names[0]} by {np.abs(strip[part] - first).mean() / 2.55:.1f} %"
        for name, strip in zip(names[1:], strips[1:], strict=True)
    ]
    return f"On average {', '.join(rows)} of the scale from black to white."
