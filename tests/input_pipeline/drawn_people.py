"""Pictures and clips of drawn people whose eyes and mouths are known to the pixel, for tests of finding faces."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from input_pipeline import blazeface
from input_pipeline.errors import DataError
from input_pipeline.talking_faces.corpus import draw_speaker
from input_pipeline.talking_faces.drawing import EXPRESSIONS, Moment, draw
from input_pipeline.writing import write_clip


def installed() -> bool:
    try:
        blazeface.check_installed()
    except DataError:
        return False
    return True


needs_detector = pytest.mark.skipif(not installed(), reason=f"faces cannot be found: {blazeface.INSTALL}")


class Person(NamedTuple):
    """who: number of the drawn speaker; x, y: middle of the head; size: from there to the chin; in pixels."""

    who: int
    x: float
    y: float
    size: float
    roll: float = 0.0

    def eyes_and_mouth(self) -> np.ndarray:
        """[3, 2], the eye on the picture's left first."""
        apart = draw_speaker(0, self.who).face.eye_distance
        places = np.array([(-apart, -0.06), (apart, -0.06), (0, 0.56)])
        turn = np.array([(np.cos(self.roll), -np.sin(self.roll)), (np.sin(self.roll), np.cos(self.roll))])
        return places @ turn.T * self.size + (self.x, self.y)


def scene(width: int, height: int, *people: Person) -> np.ndarray:
    """uint8 [H, W, 3]."""
    picture = Image.new("RGB", (width, height), (150, 160, 170))
    for person in people:
        where = Moment(
            x=person.x,
            y=person.y,
            size=person.size,
            roll=person.roll,
            yaw=0.0,
            nod=0.0,
            expression=EXPRESSIONS["neutral"],
            blink=1.0,
            lips_open=0.2,
            lips_wide=0.0,
        )
        picture = draw(draw_speaker(0, person.who).face, where, picture)
    return np.asarray(picture)


def write_scenes(path: Path, frames: list[np.ndarray]) -> Path:
    """At 25 frames a second, with noise for its sound."""
    sound = np.random.default_rng(0).normal(0, 2000, len(frames) * 640).astype(np.int16)
    write_clip(path, frames, 25, sound, 16_000)
    return path
