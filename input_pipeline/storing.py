"""A clip as it is stored: frames cut, scaled down and compressed, picture and sound of one length.

The one way from a media file, or from frames and sound that were decoded elsewhere, to what models see in
training and evaluation. Not here: which clips (manifests), and what becomes of them (clips, prepare).
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from input_pipeline.blazeface import find_faces
from input_pipeline.errors import DataError, MediaError
from input_pipeline.faces import Counts, Cutting, cut, follow
from input_pipeline.media import AUDIO_RATE, STAMP_ERROR_S, Clip, read_clip
from input_pipeline.record import Record, encode_picture

CROPS = ("none", "fixed", "face")
EITHER = "either"
LEFT, RIGHT = "left", "right"  # halves of a picture
MIN_SAMPLES = 1024  # 64 ms: the reference refuses shorter sound

# The reference's crop of the 224 × 224 faces of VoxCeleb2, by input size: (left, top, right, bottom).
_FIXED_CROP = {160: (32, 0, 192, 160), 192: (16, 0, 208, 192)}
_FIXED_CROP_OF = 224


@dataclass(frozen=True)
class ClipOptions:
    """How frames and sound are stored.

    crop: "none"; "fixed" for VoxCeleb2's 224 × 224 frames (the box for sizes up to 160, or for 192); "face": the
      face that is found and followed, upright, see `faces`.
    short_side: larger frames are scaled down to this short side (pixels). 160 is what the reference's
      multi-scale crop starts from and the input size of its models; smaller frames are kept as they are.
    min_face_share: with "face", of the frames, in which it must be found; else the clip is rejected.
    jpeg_quality: 95 is hard to tell from the source; targets are normalised per patch, which would bring out
      the artefacts of lower ones.
    allow_missing: "none", "sound", "picture": a clip may lack it (for instance a corpus of speech only); "either": one
      of both.
    min_s: shorter clips are rejected.
    max_gap_s: picture and sound whose ends lie further apart are both cut to the shorter one.
    """

    crop: str = "none"
    short_side: int = 160
    jpeg_quality: int = 95
    allow_missing: str = "none"
    min_s: float = 0.2
    max_gap_s: float = 0.5
    min_face_share: float = 0.5

    def __post_init__(self):
        if self.crop not in CROPS:
            raise DataError(f"--crop {self.crop}: there are {', '.join(CROPS)}")
        if self.crop == "fixed" and self.short_side > 160 and self.short_side not in _FIXED_CROP:
            raise DataError(
                f"--crop fixed is known for --short_side up to 160 and for 192, not {self.short_side}"
            )
        if not 0 < self.min_face_share <= 1:
            raise DataError(f"--min_face_share {self.min_face_share}: must be above 0 and at most 1")
        if self.crop != "face" and self.min_face_share != ClipOptions.min_face_share:
            raise DataError(f"--min_face_share is for --crop face, and this is --crop {self.crop}")
        if not 1 <= self.jpeg_quality <= 100:
            raise DataError(f"--jpeg_quality {self.jpeg_quality}: must be 1 to 100")
        if self.short_side < 16:
            raise DataError(f"--short_side {self.short_side}: must be at least 16 pixels")


@dataclass(frozen=True)
class StoredClip(Clip):
    """A clip whose frames are JPEG bytes. faces: what was found, where one was looked for."""

    faces: Counts | None = None


def stored_clip(
    path: str | os.PathLike,
    options: ClipOptions,
    *,
    start_s: float | None = None,
    end_s: float | None = None,
    audio_path: str | os.PathLike | None = None,
    half: str = "",
) -> StoredClip:
    """The file between two times (seconds from its start), its frames as JPEG bytes.

    audio_path: the sound is this file's, and not that of `path`; both start at the same moment.
    half: LEFT or RIGHT, of the picture, before anything else is done to it.

    Raises:
      MediaError: with a short reason, when it cannot be read or `options` rule it out.
      DataError: faces are looked for, and packages for it are missing.
    """
    if options.crop == "face":
        clip = _read_face(path, options, start_s, end_s, half)
    else:
        read = read_clip(
            path,
            start_s=start_s,
            end_s=end_s,
            on_frame=lambda frame: _compressed(_half(frame, half), options),
        )
        clip = StoredClip(read.frames, read.fps, read.audio)
    if audio_path is not None:
        if not clip.frames:
            raise MediaError("no picture")
        clip = replace(clip, audio=_sound_of(audio_path, start_s, end_s, clip.fps))
    return _checked(clip, options)


def stored_arrays(
    frames: Iterable[np.ndarray], fps: float, audio: np.ndarray, options: ClipOptions
) -> StoredClip:
    """As `stored_clip`, of what was decoded already: frames uint8 [H, W, 3], sound int16 [S] at 16 kHz."""
    if options.crop == "face" and (frames := list(frames)):
        cutting = _follow([find_faces(frame) for frame in frames], fps, options)
        squares = zip(frames, cutting.squares, strict=True)
        stored = [_face(frame, square, cutting, options) for frame, square in squares]
        return _checked(StoredClip(stored, fps, audio, cutting.counts), options)
    return _checked(StoredClip([_compressed(frame, options) for frame in frames], fps, audio), options)


def as_record(clip: Clip, clip_id: str, **more: Any) -> Record:
    """The record of a stored clip; `more` are further fields."""
    fps: Any = np.float32(clip.fps)  # as on disk: its rounding decides single samples of the sound
    return Record(
        clip_id=clip_id,
        frames=clip.frames,
        fps=fps,
        audio=clip.audio,
        audio_rate=AUDIO_RATE if len(clip.audio) else 0,
        duration_s=clip.video_s or clip.audio_s,
        **more,
    )


def store_frame(frame: np.ndarray, options: ClipOptions) -> Image.Image:
    """A decoded frame, uint8 [H, W, 3], cropped by "none" or "fixed" and scaled down as it is stored."""
    picture = Image.fromarray(frame)
    if options.crop == "fixed":
        if picture.size != (_FIXED_CROP_OF, _FIXED_CROP_OF):
            width, height = picture.size
            raise MediaError(f"--crop fixed is for frames of 224 × 224 pixels, not {width} × {height}")
        picture = picture.crop(_FIXED_CROP[max(160, options.short_side)])
    short = min(picture.size)
    if short <= options.short_side:
        return picture
    width, height = (max(1, round(side * options.short_side / short)) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.BILINEAR)


def _read_face(path, options, start_s, end_s, half) -> StoredClip:
    """The clip cut to its face. The file is decoded twice: which face is kept, and where it goes, is known only at
    the end, and all pictures until then would not fit in the memory of a worker."""
    numbers = itertools.count()
    seen = read_clip(
        path,
        start_s=start_s,
        end_s=end_s,
        on_frame=lambda frame: (next(numbers), find_faces(_half(frame, half))),
    )
    if not seen.frames:
        return StoredClip([], seen.fps, seen.audio)
    cutting = _follow([faces for _, faces in seen.frames], seen.fps, options)
    # By the order of decoding: the grid of times may show a picture twice or not at all.
    squares = dict(zip((number for number, _ in seen.frames), cutting.squares, strict=True))
    numbers = itertools.count()

    def on_frame(frame):
        square = squares.get(next(numbers))
        return b"" if square is None else _face(_half(frame, half), square, cutting, options)

    again = read_clip(path, start_s=start_s, end_s=end_s, on_frame=on_frame)
    if len(again.frames) != len(seen.frames) or not all(again.frames):
        raise MediaError("it changed while it was read")
    return StoredClip(again.frames, seen.fps, seen.audio, cutting.counts)


def _half(frame: np.ndarray, half: str) -> np.ndarray:
    """uint8 [H, W, 3] → its half [H, W / 2, 3], or all of it; a column in the middle is in neither."""
    width = frame.shape[1] // 2
    parts = {"": frame, LEFT: frame[:, :width], RIGHT: frame[:, frame.shape[1] - width :]}
    return np.ascontiguousarray(parts[half])


def _follow(found, fps, options) -> Cutting:
    return follow(found, fps, least_share=options.min_face_share, largest=options.short_side)


def _face(frame, square, cutting, options) -> bytes:
    return encode_picture(cut(frame, square, cutting.size), options.jpeg_quality)


def _sound_of(path, start_s, end_s, fps) -> np.ndarray:
    """int16 [S] from the time of the first frame at or after `start_s` on, as `read_clip` cuts a file's own."""
    first_s = math.ceil((start_s - STAMP_ERROR_S) * fps) / fps if start_s else None
    try:
        audio = read_clip(path, start_s=first_s, end_s=end_s, on_frame=lambda _: None).audio
    except MediaError as error:
        raise MediaError(f"its sound file: {error}") from None
    if not len(audio):
        raise MediaError("its sound file: no sound")
    return audio


def _compressed(frame: np.ndarray, options: ClipOptions) -> bytes:
    return encode_picture(store_frame(frame, options), options.jpeg_quality)


def _checked(clip: StoredClip, options: ClipOptions) -> StoredClip:
    """The clip, cut to what picture and sound share; raises the reason to leave it out."""
    if not clip.frames and options.allow_missing not in ("picture", EITHER):
        raise MediaError("no picture")
    if not len(clip.audio) and options.allow_missing not in ("sound", EITHER):
        raise MediaError("no sound")
    if clip.frames and len(clip.audio) and abs(clip.video_s - clip.audio_s) > options.max_gap_s:
        end_s = min(clip.video_s, clip.audio_s)
        frames, audio = clip.frames[: round(end_s * clip.fps)], clip.audio[: round(end_s * AUDIO_RATE)]
        clip = replace(clip, frames=frames, audio=audio)
    if max(clip.video_s, clip.audio_s) < options.min_s:
        raise MediaError(f"shorter than {options.min_s:g} s")
    if 0 < len(clip.audio) <= MIN_SAMPLES:
        raise MediaError(f"its sound is shorter than {MIN_SAMPLES / AUDIO_RATE * 1000:g} ms")
    return clip
