"""Who speaks and what varies in each clip, the clips as mp4 files, and the manifest of all that was drawn.

For trying things out, for tests and for checks with known answers, on any machine; no picture of real emotion.
The same arguments and the same versions of the packages give the same bytes on any number of workers, and a
larger corpus begins with the smaller one: a speaker depends on the seed and its number alone, a clip on the
seed, its number and its speaker.

What a label shows is blurred on purpose, as in recordings: expressions differ in strength, start late and sit
on faces with their own resting shape; voices overlap; level, noise, light, place and size vary.
"""

from __future__ import annotations

import csv
import io
import os
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from PIL import Image

from input_pipeline import folders
from input_pipeline.errors import DataError
from input_pipeline.pool import results_in_order
from input_pipeline.progress import Progress
from input_pipeline.talking_faces.drawing import EXPRESSIONS, Expression, Face, Moment, draw, mix
from input_pipeline.talking_faces.speech import RATE, SENTENCES, VOICES, Delivery, deliver, lips, speak

MANIFEST = "manifest.csv"
MADE_BY = "avemo generate"  # so that records, and who learns from them, tell that nobody was filmed
EMOTIONS = tuple(EXPRESSIONS)

_VERB = "generate"  # and the name of the folder of notes
_VERSION = 2  # of what a seed gives: raise it when that changes
_FOLDS = 5
_SPEAKER, _CLIP, _MOVEMENT = range(3)  # streams of random numbers

_SKINS = ("#f6d8c0", "#e8b894", "#be845c", "#825438", "#5c3c2d")  # light to dark
_HAIRS = ("#201a1a", "#462e22", "#969492", "#70462a", "#cea864", "#96522c")
_IRISES = ("#4e3424", "#5c7a96", "#607c54", "#785a38")


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
    least = {"clips": (clips, 1), "speakers": (speakers, _FOLDS), "seed": (seed, 0), "workers": (workers, 0)}
    for name, (value, lowest) in least.items():
        if value < lowest:
            raise DataError(f"--{name} is {value}, it must be at least {lowest}")
    out = Path(out)
    with folders.clear_about_disk(out), folders.locked(out, _VERB):
        folders.claim(out, _VERB, {"seed": seed, "speakers": speakers, "version": _VERSION})
        there = sum(_path(out, index).exists() for index in range(clips))
        jobs = [(out, seed, index, speakers) for index in range(clips)]
        rows = []
        with Progress(clips, "clips", _VERB) as progress:
            for row in results_in_order(_make_clip, jobs, workers, on_crash=_crashed):
                rows.append(row)
                progress.advance()
        with folders.whole_file(out / MANIFEST) as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return clips - there


class Speaker(NamedTuple):
    """Who speaks: a voice, an own way of speaking, a face and the colour of the wall behind it."""

    speaker: str
    gender: str
    fold: int
    voice: str
    wall: str
    own: Delivery
    face: Face


class _Lot:
    """Random numbers, rounded to what the manifest shows."""

    def __init__(self, *stream: int):
        self.rng = np.random.default_rng(stream)

    def between(self, low, high):
        return round(float(self.rng.uniform(low, high)), 4)

    def one_of(self, values):
        return values[self.rng.integers(len(values))]

    def colour(self, low, high):
        """Hue in degrees, saturation and value in per cent, each between two."""
        return "hsv({},{}%,{}%)".format(*self.rng.integers(low, high))


def draw_speaker(seed: int, number: int) -> Speaker:
    """Women and men take turns. Faces go with voices as far as they do: by gender, with much overlap, and a
    deeper voice has a somewhat larger jaw."""
    lot = _Lot(seed, _SPEAKER, number)
    gender = "fm"[number % 2]
    man, depth = gender == "m", lot.between(-1, 1)  # how deep the voice is for its gender

    def about(women, men, spread, by_depth=0.0):
        centre = (men if man else women) + by_depth * depth
        return lot.between(centre - spread, centre + spread)

    dark = int(lot.rng.integers(len(_SKINS) - 1))
    face = Face(
        width=about(0.74, 0.80, 0.045, 0.015),
        jaw=about(2.05, 2.35, 0.3, 0.15),
        eye_distance=about(0.33, 0.345, 0.03),
        eye_size=about(0.165, 0.152, 0.015),
        brow_thickness=about(0.024, 0.04, 0.008),
        nose_length=about(0.28, 0.31, 0.04),
        mouth_width=about(0.265, 0.28, 0.03),
        lip_thickness=about(0.078, 0.054, 0.016),
        hair_length=lot.between(0.5, 1.35) if lot.rng.random() < (0.05 if man else 0.9) else -0.4,
        fringe=about(-0.52, -0.58, 0.07),
        parting=lot.between(-0.4, 0.4),
        glasses=int(lot.rng.random() < 0.2),
        skin=mix(_SKINS[dark], _SKINS[dark + 1], lot.between(0, 1)),
        hair=lot.one_of(_HAIRS[: 3 if dark > 1 else None]),
        iris=lot.one_of(_IRISES[: 1 if dark > 1 else None]),
        clothes=lot.colour((0, 25, 25), (360, 70, 80)),
    )
    own = Delivery(
        pitch=round(48 - 14 * depth + lot.between(-8, 8)),
        pitch_range=round(lot.between(38, 62)),
        rate=round(lot.between(154, 196)),
        volume=round(lot.between(51, 69)),
        word_gap=0,
    )
    voice = VOICES[gender][number // 2 % len(VOICES[gender])]
    wall = lot.colour((0, 5, 50), (360, 35, 95))
    return Speaker(f"speaker{number:03d}", gender, number % _FOLDS, voice, wall, own, face)


def draw_factors(seed: int, index: int, speakers: int) -> dict[str, Any]:
    """What is drawn for clip `index`, by its column in the manifest.

    `…_s` are seconds, `…_db` decibels; x and y are shares of width and height, size is how much of the shorter
    side a face unit (drawing) takes; the delivery is in espeak-ng's units. Speakers take turns, and each goes
    through all emotions before one comes again.
    """
    turn, number = divmod(index, speakers)
    emotion = EMOTIONS[(number + turn) % len(EMOTIONS)]
    lot = _Lot(seed, _CLIP, index)
    intensity = 0.0 if emotion == "neutral" else lot.between(0.5, 1)
    delivery = deliver(draw_speaker(seed, number).own, emotion, intensity, lot.rng.normal(0, 1, 5))
    width, height = lot.one_of(((192, 192), (224, 224), (256, 256), (320, 240), (360, 288)))
    reach = 0.015 if width == height else 0.05  # square pictures are as if cropped to the face
    return {
        "label_emotion": emotion,
        "label_sentence": lot.one_of(tuple(SENTENCES)),
        "label_sex": ("female", "male")[number % 2],
        "label_intensity": intensity,
        "emotion_starts_s": lot.between(0, 0.8),
        **{f"resting_{name}": lot.between(-0.25, 0.25) for name in Expression._fields},
        "blinks_every_s": lot.between(1, 4),
        "speech_starts_s": lot.between(0.1, 0.5),
        "pause_after_s": lot.between(0.2, 0.9),
        **delivery._asdict(),
        "gain_db": lot.between(-6, 6),
        "snr_db": lot.between(12, 40),
        "channels": lot.one_of((1, 2)),
        "sound_rate": lot.one_of((16_000, 22_050, 44_100, 48_000)),
        "frame_rate": lot.one_of((24, 25, 29.97, 30)),
        "width": width,
        "height": height,
        "x": lot.between(0.5 - reach, 0.5 + reach),
        "y": lot.between(0.485, 0.515),
        "size": lot.between(0.345, 0.375),
        "sway": lot.between(0.1, 0.4),
        "light": lot.between(0.75, 1.0),
        "light_side": lot.between(-0.3, 0.3),
        "light_warm": lot.between(-0.09, 0.09),
        "camera_noise": lot.between(1, 6),
        "crf": int(lot.rng.integers(18, 28)),
    }


def _make_clip(job):
    """Writes the clip (folder, seed, number, speakers) unless it is there; returns its row of the manifest."""
    out, seed, index, speakers = job
    speaker, f = draw_speaker(seed, index % speakers), draw_factors(seed, index, speakers)
    text = SENTENCES[f["label_sentence"]]
    speech = speak(text, speaker.voice, Delivery(*(f[name] for name in Delivery._fields)))
    wanted_s = f["speech_starts_s"] + len(speech.audio) / RATE + f["pause_after_s"]
    frames = round(np.clip(wanted_s, 2, 4) * f["frame_rate"])
    path = _path(out, index)
    if not path.exists():
        rng = _Lot(seed, _MOVEMENT, index).rng
        pictures = _pictures(speaker, f, speech, np.arange(frames) / f["frame_rate"], rng)
        data = _mp4(pictures, _sound(f, speech, frames / f["frame_rate"], rng), f)
        part = path.with_suffix(".part")
        with folders.clear_about_disk(path, len(data)):
            part.write_bytes(data)
            os.replace(part, path)
    row = {
        "path": path.name,
        "clip_id": path.stem,
        "split": "test" if speaker.fold == _FOLDS - 1 else "train",
    }
    row |= {"text": text, "made_by": MADE_BY, **f, "frames": frames, **speaker._asdict()}
    for part in ("own", "face"):
        row |= {f"{part}_{name}": value for name, value in row.pop(part)._asdict().items()}
    return row


def _pictures(speaker, f, speech, times, rng):
    """Yields what the camera sees at `times` [T] (seconds), uint8 [H, W, 3]."""
    width, height = f["width"], f["height"]
    says = lips(speech, times - f["speech_starts_s"])
    strength = f["label_intensity"] * np.clip((times - f["emotion_starts_s"]) / 0.4, 0.1, 1)
    resting = [f[f"resting_{name}"] for name in Expression._fields]
    feels = strength[:, None] * EXPRESSIONS[f["label_emotion"]] + resting
    to_blink_s = times % f["blinks_every_s"] - f["blinks_every_s"] / 2
    blink = 1 - np.exp(-((to_blink_s / 0.07) ** 2))
    # The head sways slowly about its place: x, y and size in face units, then roll, yaw and nod.
    speeds, phases = rng.uniform(0.15, 0.9, (2, 6)), rng.uniform(0, 2 * np.pi, (2, 6))
    swaying = np.sin(2 * np.pi * (times[:, None, None] * speeds) + phases).sum(1)
    unit = f["size"] * min(width, height)
    extent = f["sway"] * np.array([0.07 * unit, 0.04 * unit, 0.02 * unit, 0.05, 0.12, 0.08])
    places = (f["x"] * width, f["y"] * height, unit, 0, 0, 0) + extent * swaying
    across, down = np.linspace(-1, 1, width), np.linspace(0.05, -0.2, height)
    warm = np.array([f["light_warm"], 0, -f["light_warm"]])
    light = f["light"] * (1 + f["light_side"] * across[:, None] + down[:, None, None]) * (1 + warm)
    light = light.astype(np.float32)
    wall = Image.new("RGB", (width, height), speaker.wall)
    for place, open_eyes, mouth, expression in zip(places, blink, says, feels, strict=True):
        moment = Moment(*place, open_eyes, *mouth, Expression(*expression))
        picture = draw(speaker.face, moment, wall)
        noise = f["camera_noise"] * rng.standard_normal((height, width, 1), np.float32)
        yield np.clip(np.asarray(picture) * light + noise, 0, 255).astype(np.uint8)


def _sound(f, speech, duration_s, rng):
    """The speech in its place with the noise of a room, as recorded: float32 [channels, S] at RATE."""
    samples, first = round(duration_s * RATE), round(f["speech_starts_s"] * RATE)
    said = speech.audio[: samples - first]
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    noise = np.fft.irfft(spectrum / np.sqrt(np.arange(1, len(spectrum) + 1)), samples)  # pink
    audio = noise / noise.std() * said.std() * 10 ** (-f["snr_db"] / 20)
    audio[first : first + len(said)] += said
    audio = np.clip(audio * 10 ** (f["gain_db"] / 20), -1, 1).astype(np.float32)
    return np.tile(audio, (f["channels"], 1))


def _mp4(pictures, sound, f) -> bytes:
    """A file with H.264 and AAC in it."""
    buffer, layout = io.BytesIO(), "stereo" if f["channels"] == 2 else "mono"
    rate = Fraction(f["frame_rate"]).limit_denominator(100)
    # x264's macroblock tree gives other bytes now and then, for the same pictures in one thread (measured).
    options = {"preset": "veryfast", "crf": str(f["crf"]), "mbtree": "0"}
    with av.open(buffer, "w", format="mp4") as container:
        video = container.add_stream("libx264", rate=rate, options=options)
        video.width, video.height, video.pix_fmt = f["width"], f["height"], "yuv420p"
        # Workers share the cores; and one thread always gives one result.
        video.codec_context.thread_count = 1
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


def _path(out, index):
    return out / f"clip{index:06d}.mp4"


def _crashed(job):
    raise DataError(f"{_path(job[0], job[2])}: the process that made it ended; run the command again")
