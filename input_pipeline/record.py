"""The record: one clip as it is stored. Its fields, and its pictures.

Frames are JPEG pictures, so that a reader decodes only those it needs. Sound is raw PCM and not FLAC: next to
the frames it is a tenth of the bytes, and a window of it is then a slice instead of a decoder run. Not here:
the bytes of a whole record, and folders of them (records).
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image


@dataclass
class Record:
    """One clip. A value that the corpus does not give is empty, never invented.

    frames: JPEG pictures; frame k is shown at k / fps seconds.
    audio: int16 [S], mono; sample 0 is at the time of frame 0.
    labels: {"emotion": "ANG", "valence": 0.2, …}; metadata: the manifest's further columns, as text.
    """

    clip_id: str
    frames: Sequence[bytes]
    fps: float
    audio: np.ndarray
    audio_rate: int
    duration_s: float
    speaker: str = ""
    gender: str = ""
    split: str = ""
    text: str = ""
    labels: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    source: str = ""
    prepare_version: str = ""

    def pictures(self, indices: Sequence[int] | np.ndarray) -> list[Image.Image]:
        """The frames at `indices`, decoded; a repeated index is decoded once."""
        decoded = {i: _decode_picture(self.frames[i]) for i in sorted(set(indices))}
        return [decoded[i] for i in indices]


def encode_picture(frame: np.ndarray | Image.Image, quality: int) -> bytes:
    """JPEG bytes of a picture, uint8 [H, W, 3]."""
    picture = frame if isinstance(frame, Image.Image) else Image.fromarray(frame)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _decode_picture(data):
    picture = Image.open(io.BytesIO(data))
    if picture.mode != "RGB":  # not of our making
        return picture.convert("RGB")
    picture.load()
    return picture
