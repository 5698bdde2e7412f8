"""Who speaks and what varies in each clip of the talking-face corpus: everything that is drawn by lot.

What a label shows is blurred on purpose, as in recordings: expressions differ in strength, start late and sit
on faces with their own resting shape; voices overlap; level, noise, light, place and size vary.

A speaker depends on the seed and its number alone, a clip on the seed, its number and its speaker.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from input_pipeline.drawn_faces import EXPRESSIONS, Colour, Expression, Face
from input_pipeline.talking_speech import MANNERS, SENTENCES, VOICES, Delivery, deliver

EMOTIONS = tuple(EXPRESSIONS)
FOLDS = 5
LONGEST_S = 4.0

_SPEAKER, _ORDER, _CLIP, _MOVEMENT = range(4)  # streams of random numbers
_SIZES = ((192, 192), (224, 224), (256, 256), (320, 240), (360, 288))
_FRAME_RATES = (Fraction(24), Fraction(25), Fraction(30), Fraction(30000, 1001))
_SOUND_RATES = (16_000, 22_050, 44_100, 48_000)

_SKINS = ((246, 216, 192), (232, 184, 148), (190, 132, 92), (130, 84, 56), (92, 60, 45))  # light to dark
_HAIRS = ((32, 26, 26), (70, 46, 34), (150, 148, 146), (112, 70, 42), (206, 168, 100), (150, 82, 44))
_IRISES = ((78, 52, 36), (92, 122, 150), (96, 124, 84), (120, 90, 56))
_LIP = (190, 40, 70)


@dataclass(frozen=True)
class Speaker:
    """Who speaks: a voice, an own way of speaking, a face and a wall behind it."""

    name: str
    gender: str
    fold: int
    voice: str
    own: Delivery
    face: Face
    wall: Colour


class _Lot:
    """Random numbers, rounded to what the manifest shows."""

    def __init__(self, *stream: int):
        self.rng = np.random.default_rng(stream)

    def between(self, low, high):
        return round(float(self.rng.uniform(low, high)), 4)

    def near(self, centre, spread):
        return round(float(centre + spread * self.rng.normal()), 4)

    def one_of(self, values):
        return values[self.rng.integers(len(values))]

    def colour(self, saturation, value) -> Colour:
        hsv = self.rng.uniform(), self.rng.uniform(*saturation), self.rng.uniform(*value)
        return _rounded(255 * np.array(colorsys.hsv_to_rgb(*hsv)))


def draw_speaker(seed: int, number: int) -> Speaker:
    """Women and men take turns. Faces go with voices as far as they do: by gender, with much overlap, and a
    deeper voice has a somewhat larger jaw."""
    lot = _Lot(seed, _SPEAKER, number)
    gender = "fm"[number % 2]
    man, depth = gender == "m", lot.between(-1, 1)  # how deep the voice is for its gender

    def about(women, men, spread, by_depth=0.0):
        centre = (men if man else women) + by_depth * depth
        return lot.between(centre - spread, centre + spread)

    darkness = lot.between(0, 1)
    skin = np.array([np.interp(4 * darkness, range(5), channel) for channel in np.transpose(_SKINS)])
    face = Face(
        width=about(0.755, 0.79, 0.045, 0.015),
        jaw=about(2.05, 2.35, 0.3, 0.15),
        eye_distance=about(0.335, 0.34, 0.03),
        eye_size=about(0.165, 0.152, 0.015),
        brow_thickness=about(0.026, 0.038, 0.008),
        nose_length=about(0.28, 0.31, 0.04),
        nose_width=about(0.11, 0.125, 0.02),
        mouth_width=about(0.265, 0.28, 0.03),
        lip_thickness=about(0.072, 0.056, 0.016),
        hair_length=lot.between(0.5, 1.35) if lot.rng.random() < (0.1 if man else 0.75) else -0.4,
        hair_volume=about(0.1, 0.06, 0.04),
        fringe=about(-0.52, -0.58, 0.07),
        parting=lot.between(-0.35, 0.35),
        shoulders=about(1.3, 1.55, 0.12, 0.05),
        lashes=about(0.02, 0.004, 0.004),
        beard=bool(man and lot.rng.random() < 0.3),
        glasses=bool(lot.rng.random() < 0.2),
        resting_corner=lot.between(-0.15, 0.25),
        resting_brow=lot.between(-0.2, 0.2),
        skin=_rounded(skin),
        hair=lot.one_of(_HAIRS[: 3 if darkness > 0.5 else None]),
        iris=lot.one_of(_IRISES[: 1 if darkness > 0.5 else None]),
        lip=_rounded(skin + 0.28 * (_LIP - skin)),
        clothes=lot.colour((0.25, 0.7), (0.25, 0.8)),
    )
    own = Delivery(
        pitch=round(48 - 14 * depth + lot.between(-8, 8)),
        pitch_range=round(lot.between(38, 62)),
        rate=round(lot.between(154, 196)),
        volume=round(lot.between(51, 69)),
        word_gap=0,
    )
    voice = VOICES[gender][number // 2 % len(VOICES[gender])]
    wall = lot.colour((0.05, 0.35), (0.5, 0.95))
    return Speaker(f"speaker{number:03d}", gender, number % FOLDS, voice, own, face, wall)


def draw_factors(seed: int, index: int, speakers: int) -> dict[str, Any]:
    """What is drawn for clip `index`, by its column in the manifest.

    `…_s` are seconds, `…_db` decibels, angles radians; x and y are shares of width and height, size is how
    much of the shorter side a face unit (drawn_faces) takes; the delivery is in espeak-ng's units. The clip's
    speaker, number index % speakers, goes through all emotions in any order before one comes again.
    """
    number, turn = index % speakers, index // speakers
    order = _Lot(seed, _ORDER, number, turn // len(EMOTIONS)).rng.permutation(len(EMOTIONS))
    emotion = EMOTIONS[order[turn % len(EMOTIONS)]]
    lot = _Lot(seed, _CLIP, index)
    intensity = 0.0 if emotion == "neutral" else lot.between(0.4, 1)
    delivery = deliver(draw_speaker(seed, number).own, emotion, intensity, lot.rng.normal(0, 1, 5))
    blinks = np.cumsum(lot.rng.uniform(0.6, 3.5, 4)) - 0.6
    width, height = lot.one_of(_SIZES)
    reach = 0.015 if width == height else 0.05  # square pictures are as if cropped to the face
    return {
        "label_emotion": emotion,
        "label_sentence": lot.one_of(tuple(SENTENCES)),
        "label_sex": ("female", "male")[number % 2],
        "label_intensity": intensity,
        "emotion_starts_s": lot.between(0, 0.8),
        **{f"jitter_{name}": lot.near(0, 0.13) for name in Expression._fields},
        "blinks_s": " ".join(f"{blink:.2f}" for blink in blinks if blink < LONGEST_S),
        "speech_starts_s": lot.between(0.1, 0.5),
        "pause_after_s": lot.between(0.2, 0.9),
        **delivery._asdict(),
        "tilt_db": lot.near(intensity * MANNERS[emotion].tilt_db, 0.6),
        "gain_db": lot.between(-6, 6),
        "snr_db": lot.between(12, 40),
        "noise_slope_db": lot.between(-6, 0),
        "balance_db": lot.between(-3, 3),
        "channels": lot.one_of((1, 2)),
        "sound_rate": lot.one_of(_SOUND_RATES),
        "frame_rate": lot.one_of(_FRAME_RATES),
        "width": width,
        "height": height,
        "x": lot.between(0.5 - reach, 0.5 + reach),
        "y": lot.between(0.485, 0.515),
        "size": lot.between(0.345, 0.375),
        "roll": lot.between(-0.025, 0.025),
        "yaw": lot.between(-0.06, 0.06),
        "nod": lot.between(-0.05, 0.05),
        "sway": lot.between(0.1, 0.4),
        "light": lot.between(0.75, 1.0),
        "light_side": lot.between(-0.3, 0.3),
        "cast_warm": lot.between(-0.09, 0.09),
        "cast_green": lot.between(-0.03, 0.03),
        "camera_noise": lot.between(1, 7),
        "blur": lot.between(0.4, 1.2) if lot.rng.random() < 0.3 else 0.0,
        "crf": int(lot.rng.integers(18, 28)),
    }


def movement(seed: int, index: int) -> np.random.Generator:
    """Chance within a clip: how the head sways, the noise of the camera and of the room."""
    return _Lot(seed, _MOVEMENT, index).rng


def _rounded(colour) -> Colour:
    red, green, blue = (round(float(channel)) for channel in colour)
    return red, green, blue
