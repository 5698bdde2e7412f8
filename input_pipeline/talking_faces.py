"""A corpus of drawn faces that speak: real mp4 files, made on the spot, every factor known.

For trying things out, for tests and for checks with known answers, on any machine; no picture of real emotion.
The same arguments and the same versions of the packages give the same bytes on any number of workers, and a
larger corpus begins with the smaller one. Not here: what is drawn by lot (talking_factors), what a face looks
like (drawn_faces), the voice (talking_speech).
"""

from __future__ import annotations

import csv
import io
import os
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image, ImageFilter

from input_pipeline import folders
from input_pipeline.drawn_faces import EXPRESSIONS, SUPERSAMPLING, Expression, Moment, draw
from input_pipeline.errors import DataError
from input_pipeline.pool import results_in_order
from input_pipeline.progress import Progress
from input_pipeline.talking_factors import FOLDS, LONGEST_S, draw_factors, draw_speaker, movement
from input_pipeline.talking_speech import RATE, SENTENCES, Delivery, lips, speak, tilted

MANIFEST = "manifest.csv"

_VERB = "generate"  # and the name of the folder of notes
_VERSION = 1  # of what a seed gives: raise it when that changes
_SHORTEST_S = 2.0
_ONSET_S = 0.4  # how long an expression takes to show
_GRAIN = 32  # pixels that the camera's noise is shifted by, frame by frame


def generate(
    out: str | os.PathLike, clips: int, *, speakers: int = 20, seed: int = 0, workers: int = 1
) -> int:
    """Fills `out` with clips and their manifest, or goes on where an earlier call was stopped.

    speakers: at least one a fold; they take turns. workers: processes; 0 works in this one.
    Returns how many clips were made now.

    Raises:
      DataError: for numbers that cannot be, a folder that belongs to another corpus or cannot be written, or
        when espeak-ng is not installed.
    """
    least = {"clips": (clips, 1), "speakers": (speakers, FOLDS), "seed": (seed, 0), "workers": (workers, 0)}
    for name, (value, lowest) in least.items():
        if value < lowest:
            raise DataError(f"--{name} is {value}, it must be at least {lowest}")
    out = Path(out)
    with folders.clear_about_disk(out), folders.locked(out, _VERB):
        folders.claim(out, _VERB, {"seed": seed, "speakers": speakers, "version": _VERSION})
        there = sum((out / _name(index)).exists() for index in range(clips))
        jobs = [(out, seed, index, speakers) for index in range(clips)]
        rows = []
        with Progress(clips, "clips", _VERB) as progress:
            for row in results_in_order(make_clip, jobs, workers, on_crash=_crashed):
                rows.append(row)
                progress.advance()
        with folders.whole_file(out / MANIFEST) as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return clips - there


def make_clip(job: tuple[Path, int, int, int]) -> dict[str, Any]:
    """Writes the clip (folder, seed, number, speakers) unless it is there; returns its row of the manifest."""
    out, seed, index, speakers = job
    speaker, f = draw_speaker(seed, index % speakers), draw_factors(seed, index, speakers)
    text = SENTENCES[f["label_sentence"]]
    speech = speak(text, speaker.voice, Delivery(*(f[name] for name in Delivery._fields)))
    wanted_s = f["speech_starts_s"] + speech.duration_s + f["pause_after_s"]
    frames = round(min(max(wanted_s, _SHORTEST_S), LONGEST_S) * f["frame_rate"])
    path = out / _name(index)
    if not path.exists():
        rng = movement(seed, index)
        pictures = _pictures(speaker, f, speech, np.arange(frames) / float(f["frame_rate"]), rng)
        data = _mp4(pictures, _sound(f, speech, float(frames / f["frame_rate"]), rng), f)
        part = path.with_suffix(".part")
        with folders.clear_about_disk(path, len(data)):
            part.write_bytes(data)
            os.replace(part, path)
    row = {
        "path": path.name,
        "clip_id": path.stem,
        "split": "test" if speaker.fold == FOLDS - 1 else "train",
        "speaker": speaker.name,
        "gender": speaker.gender,
        "text": text,
        "fold": speaker.fold,
        **f,
        "frames": frames,
        "voice": speaker.voice,
        **{f"own_{name}": value for name, value in speaker.own._asdict().items()},
        **{f"face_{name}": value for name, value in asdict(speaker.face).items()},
        "wall": speaker.wall,
    }
    return {name: _cell(value) for name, value in row.items()}


def _pictures(speaker, f, speech, times, rng):
    """Yields what the camera sees at `times` [T] (seconds), uint8 [H, W, 3]."""
    width, height = f["width"], f["height"]
    says = lips(speech, times - f["speech_starts_s"])
    shown = np.clip((times - f["emotion_starts_s"]) / _ONSET_S, 0, 1)
    strength = f["label_intensity"] * (0.1 + 0.9 * shown**2 * (3 - 2 * shown))
    jitter = [f[f"jitter_{name}"] for name in Expression._fields]
    feels = strength[:, None] * EXPRESSIONS[f["label_emotion"]] + jitter
    blinks = np.array([float(at) for at in f["blinks_s"].split()])
    blink = 1 - np.exp(-(((times[:, None] - blinks) / 0.07) ** 2)).max(1, initial=0)

    def swaying(name, extent, unit=1.0):
        return unit * (f[name] + f["sway"] * extent * _wander(rng, times))

    place = [swaying("x", 0.03, width), swaying("y", 0.02, height), swaying("size", 0.01, min(width, height))]
    place += [swaying("roll", 0.05), swaying("yaw", 0.12), swaying("nod", 0.08)]
    wall, light = _wall(speaker.wall, width, height), _light(f)
    grain = rng.normal(0, f["camera_noise"], (height + _GRAIN, width + _GRAIN, 3)).astype(np.float32)
    for k, where in enumerate(np.transpose(place)):
        picture = draw(speaker.face, Moment(*where, Expression(*feels[k]), blink[k], *says[k]), wall)
        if f["blur"]:
            picture = picture.filter(ImageFilter.BoxBlur(f["blur"]))
        top, left = rng.integers(0, _GRAIN, 2)
        seen = np.asarray(picture) * light + grain[top : top + height, left : left + width]
        yield np.clip(seen, 0, 255).astype(np.uint8)


def _wander(rng, times):
    """A slow smooth movement about 0, some 1 in extent, at each time [T]."""
    speeds, phases = rng.uniform(0.15, 0.9, 3), rng.uniform(0, 2 * np.pi, 3)
    return np.sin(2 * np.pi * speeds * times[:, None] + phases).mean(1) * 1.5


def _wall(colour, width, height):
    """A background that darkens towards the floor, SUPERSAMPLING times as large."""
    column = np.linspace(1.05, 0.8, height)[:, None, None] * np.array(colour)
    picture = Image.fromarray(np.clip(column, 0, 255).astype(np.uint8))
    return picture.resize((width * SUPERSAMPLING, height * SUPERSAMPLING))


def _light(f):
    """What each pixel is multiplied with, float32 [1, W, 3]: the level, from one side, with a colour."""
    across = 1 + f["light_side"] * np.linspace(-1, 1, f["width"])
    cast = 1 + np.array([f["cast_warm"], f["cast_green"], -f["cast_warm"]])
    return (f["light"] * across[None, :, None] * cast).astype(np.float32)


def _sound(f, speech, duration_s, rng):
    """The speech in its place with the noise of the room, as recorded: float32 [channels, S] at RATE."""
    audio = np.zeros(round(duration_s * RATE), np.float32)
    first = round(f["speech_starts_s"] * RATE)
    said = tilted(speech.audio, f["tilt_db"])[: len(audio) - first]
    audio[first : first + len(said)] = said
    noise = tilted(rng.normal(0, 1, len(audio)), f["noise_slope_db"])
    audio += noise / noise.std() * said.std() * 10 ** (-f["snr_db"] / 20)
    gains_db = f["gain_db"] + np.array([0.5, -0.5])[: f["channels"]] * f["balance_db"]
    return np.clip(audio * 10 ** (gains_db[:, None] / 20), -1, 1).astype(np.float32)


def _mp4(pictures, sound, f) -> bytes:
    """A file with H.264 and AAC in it."""
    buffer, layout = io.BytesIO(), "stereo" if f["channels"] == 2 else "mono"
    # x264's macroblock tree gives other bytes now and then, for the same pictures in one thread (measured).
    options = {"preset": "veryfast", "crf": str(f["crf"]), "mbtree": "0"}
    with av.open(buffer, "w", format="mp4") as container:
        video = container.add_stream("libx264", rate=f["frame_rate"], options=options)
        video.width, video.height, video.pix_fmt = f["width"], f["height"], "yuv420p"
        video.codec_context.thread_count = (
            1  # workers share the cores; and one thread always gives one result
        )
        audio = container.add_stream(
            "aac", rate=f["sound_rate"], layout=layout, options={"aac_coder": "fast"}
        )
        audio.bit_rate = 64_000 * f["channels"]
        for picture in pictures:
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        frame = av.AudioFrame.from_ndarray(sound, format="fltp", layout=layout)
        frame.sample_rate, frame.time_base, frame.pts = RATE, Fraction(1, RATE), 0
        container.mux(audio.encode(frame))  # PyAV resamples to the stream's rate
        for stream in (video, audio):
            container.mux(stream.encode())
    return buffer.getvalue()


def _name(index):
    return f"clip{index:06d}.mp4"


def _cell(value):
    """A value as the manifest shows it: colours as #rrggbb, yes and no as 1 and 0, all else as it is."""
    if isinstance(value, tuple):
        return "#" + "".join(f"{channel:02x}" for channel in value)
    return {bool: int, Fraction: lambda rate: round(float(rate), 3)}.get(type(value), lambda same: same)(
        value
    )


def _crashed(job):
    raise DataError(f"{job[0] / _name(job[2])}: the process that made it ended; run the command again")
