"""One row of a manifest → one encoded record, or the one reason why not. Runs in the workers of prepare."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from input_pipeline import records
from input_pipeline.errors import DataError, MediaError
from input_pipeline.manifests import Row, fragment
from input_pipeline.media import AUDIO_RATE, Clip, read_clip

CROPS = ("none", "fixed")
MIN_SAMPLES = 1024  # 64 ms: the reference refuses shorter sound

# The reference's crop of the 224 × 224 faces of VoxCeleb2, by input size: (left, top, right, bottom).
_FIXED_CROP = {160: (32, 0, 192, 160), 192: (16, 0, 208, 192)}
_FIXED_CROP_OF = 224


@dataclass(frozen=True)
class ClipOptions:
    """How frames and sound are stored.

    crop: "none", or "fixed" for VoxCeleb2's 224 × 224 frames (the box for sizes up to 160, or for 192).
    short_side: larger frames are scaled down to this short side (pixels). 160 is what the reference's
      multi-scale crop starts from and the input size of its models; smaller frames are kept as they are.
    jpeg_quality: 95 is hard to tell from the source; targets are normalised per patch, which would bring out
      the artefacts of lower ones.
    allow_missing: "none", "sound", "picture": a clip may lack it (for instance a corpus of speech only).
    min_s: shorter clips are rejected.
    max_gap_s: picture and sound whose ends lie further apart are both cut to the shorter one.
    """

    crop: str = "none"
    short_side: int = 160
    jpeg_quality: int = 95
    allow_missing: str = "none"
    min_s: float = 0.2
    max_gap_s: float = 0.5

    def __post_init__(self):
        if self.crop not in CROPS:
            raise DataError(f"--crop {self.crop}: there are {', '.join(CROPS)}")
        if self.crop == "fixed" and self.short_side > 160 and self.short_side not in _FIXED_CROP:
            raise DataError(
                f"--crop fixed is known for --short_side up to 160 and for 192, not {self.short_side}"
            )
        if not 1 <= self.jpeg_quality <= 100:
            raise DataError(f"--jpeg_quality {self.jpeg_quality}: must be 1 to 100")
        if self.short_side < 16:
            raise DataError(f"--short_side {self.short_side}: must be at least 16 pixels")


@dataclass(frozen=True)
class Outcome:
    """An encoded record with its number of frames and samples, or a reason."""

    data: bytes = b""
    frames: int = 0
    samples: int = 0
    reason: str = ""


def make_record(job: tuple[Path, Row, ClipOptions]) -> Outcome:
    """Reads one clip. Whatever is wrong with the file becomes its reason, never an exception."""
    root, row, options = job
    try:
        clip = read_clip(
            root / row.path,
            start_s=row.start_s,
            end_s=row.end_s,
            on_frame=lambda frame: records.encode_picture(store_frame(frame, options), options.jpeg_quality),
        )
        clip = _checked(clip, options)
    except MediaError as error:
        return Outcome(reason=str(error))
    except MemoryError:
        return Outcome(reason="too large for the memory; give it start_s and end_s")
    except Exception as error:  # a file that the decoders have not met yet must not end a run of days
        return Outcome(
            reason=f"cannot be decoded ({type(error).__name__}: {str(error)[:80]})".replace("\n", " ")
        )
    record = records.Record(
        clip_id=row.clip_id,
        frames=clip.frames,
        fps=clip.fps,
        audio=clip.audio,
        audio_rate=AUDIO_RATE if len(clip.audio) else 0,
        duration_s=clip.video_s or clip.audio_s,
        speaker=row.speaker,
        gender=row.gender,
        split=row.split,
        text=row.text,
        labels=row.labels,
        metadata=row.metadata,
        source=fragment(row.path, row.start_s, row.end_s),
        prepare_version=records.VERSION,
    )
    return Outcome(records.encode(record), len(clip.frames), len(clip.audio))


def store_frame(frame: np.ndarray, options: ClipOptions) -> Image.Image:
    """A decoded frame, uint8 [H, W, 3], cropped and scaled down as it is stored."""
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


def _checked(clip: Clip, options: ClipOptions) -> Clip:
    """The clip, cut to what picture and sound share; raises the reason to leave it out."""
    if not clip.frames and options.allow_missing != "picture":
        raise MediaError("no picture")
    if not len(clip.audio) and options.allow_missing != "sound":
        raise MediaError("no sound")
    if clip.frames and len(clip.audio) and abs(clip.video_s - clip.audio_s) > options.max_gap_s:
        end_s = min(clip.video_s, clip.audio_s)
        clip = Clip(clip.frames[: round(end_s * clip.fps)], clip.fps, clip.audio[: round(end_s * AUDIO_RATE)])
    if max(clip.video_s, clip.audio_s) < options.min_s:
        raise MediaError(f"shorter than {options.min_s:g} s")
    if 0 < len(clip.audio) <= MIN_SAMPLES:
        raise MediaError(f"its sound is shorter than {MIN_SAMPLES / AUDIO_RATE * 1000:g} ms")
    return clip
