"""The record: one clip as it is stored. Its fields, and its pictures.

Frames are JPEG pictures, so that a reader decodes only those it needs. Sound is raw PCM and not FLAC: next to
the frames it is a tenth of the bytes, and a window of it is then a slice instead of a decoder run. Not here:
the bytes of a whole record, and folders of them (records).
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

try:
    import simplejpeg
except ImportError:  # exported beside a model, to people who prepare single files
    simplejpeg = None

OWN_FIELDS = ("speaker", "gender")  # of a record, that are labels too


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

    @property
    def all_labels(self) -> dict[str, Any]:
        """Its labels, and of `OWN_FIELDS` its own values where no label is called so."""
        return {name: getattr(self, name) for name in OWN_FIELDS} | self.labels

    def pictures(self, indices: Sequence[int] | np.ndarray) -> list[Image.Image]:
        """The frames at `indices`, decoded; a repeated index is decoded once, and is one object."""
        decoded = {i: Image.fromarray(_decode(self.frames[i])) for i in sorted(set(indices))}
        return [decoded[i] for i in indices]

    def video(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """The same as an array, uint8 [indices, H, W, 3]. Raises ValueError when frames differ in size."""
        decoded = {i: _decode(self.frames[i]) for i in sorted(set(indices))}
        return np.stack([decoded[i] for i in indices])


def classes_of(labels: dict[str, Any]) -> dict[str, str]:
    """The labels that are classes, as text; not those that are numbers on a scale, or votes."""
    found = {key: class_of(value) for key, value in sorted(labels.items())}
    return {key: name for key, name in found.items() if name is not None}


def class_of(value: Any) -> str | None:
    """A label as a class; None for what is none: nothing, votes, a number on a scale."""
    return None if value in ("", None) or isinstance(value, (float, dict, list)) else str(value)


def encode_picture(frame: np.ndarray | Image.Image, quality: int) -> bytes:
    """JPEG bytes of a picture, uint8 [H, W, 3]."""
    picture = frame if isinstance(frame, Image.Image) else Image.fromarray(frame)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _decode(data: bytes) -> np.ndarray:
    """Pillow's pixels; of a JPEG in less than half of Pillow's time, by the same library below both."""
    if simplejpeg and data.startswith(b"\xff\xd8"):
        with contextlib.suppress(
            ValueError
        ):  # damaged, or in other colours than these: Pillow converts, or says why
            return simplejpeg.decode_jpeg(data, "RGB")
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
