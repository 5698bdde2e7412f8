"""Arrays and files → pictures inside the page, each with words for those who cannot see it."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

_STRIP_HEIGHT = 72  # pixels, of a clip's small film strip
_STRIP_QUALITY = 62
_WIDEST = 1280  # wider pictures are scaled down; none is shown any wider


@dataclass(frozen=True)
class Picture:
    """A JPEG picture as a data URI, its size in pixels, and what it shows."""

    uri: str
    width: int
    height: int
    alt: str

    @property
    def file(self) -> bytes:
        """What a `.jpg` file of it holds."""
        return base64.b64decode(self.uri.partition(",")[2])


def picture(pixels: np.ndarray, alt: str, quality: int = 85) -> Picture:
    """uint8 [H, W, 3] → a picture for the page."""
    image = Image.fromarray(pixels)
    if image.width > _WIDEST:
        size = _WIDEST, max(1, round(image.height * _WIDEST / image.width))
        image = image.resize(size, Image.Resampling.LANCZOS)
    return Picture(_uri(image, quality, sharp=True), image.width, image.height, alt)


def film_strip(frames: list[Image.Image]) -> str:
    """A few frames side by side, small, as a data URI."""
    small = []
    for frame in frames:
        width = max(1, round(frame.width * _STRIP_HEIGHT / frame.height))
        small.append(frame.resize((width, _STRIP_HEIGHT), Image.Resampling.BILINEAR))
    strip = Image.new("RGB", (sum(frame.width for frame in small), _STRIP_HEIGHT))
    left = 0
    for frame in small:
        strip.paste(frame, (left, 0))
        left += frame.width
    return _uri(strip, _STRIP_QUALITY)


def read_pixels(path: Path) -> np.ndarray:
    """uint8 [H, W, 3] of a picture file.

    Raises:
      OSError: it is no picture, or damaged.
    """
    with path.open("rb") as file, Image.open(file) as image:
        return np.asarray(image.convert("RGB"))


def _uri(image: Image.Image, quality: int, sharp: bool = False) -> str:
    """JPEG bytes as a data URI; `sharp`: colours are as fine as brightness, for the edges of patches."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, optimize=True, subsampling=0 if sharp else 2)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
