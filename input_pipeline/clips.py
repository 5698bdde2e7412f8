"""One row of a manifest → one encoded record, or the one reason why not. Runs in the workers of prepare."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from input_pipeline import records
from input_pipeline.errors import MediaError
from input_pipeline.faces import Counts
from input_pipeline.manifests import Row, fragment
from input_pipeline.storing import ClipOptions, as_record, stored_clip


@dataclass(frozen=True)
class Outcome:
    """An encoded record with its number of frames and samples and the faces looked for in it, or a reason."""

    data: bytes = b""
    frames: int = 0
    samples: int = 0
    reason: str = ""
    faces: Counts | None = None


def make_record(job: tuple[Path, Row, ClipOptions]) -> Outcome:
    """Reads one clip. Whatever is wrong with the file becomes its reason, never an exception."""
    root, row, options = job
    try:
        sound = root / row.audio_path if row.audio_path else None
        clip = stored_clip(
            root / row.path, options, start_s=row.start_s, end_s=row.end_s, audio_path=sound, half=row.half
        )
    except MediaError as error:
        return Outcome(reason=str(error))
    except MemoryError:
        return Outcome(reason="too large for the memory; give it start_s and end_s")
    except Exception as error:  # a file that the decoders have not met yet must not end a run of days
        return Outcome(
            reason=f"cannot be decoded ({type(error).__name__}: {str(error)[:80]})".replace("\n", " ")
        )
    record = as_record(
        clip,
        row.clip_id,
        speaker=row.speaker,
        gender=row.gender,
        split=row.split,
        text=row.text,
        labels=row.labels,
        metadata=row.metadata,
        source=fragment(row.path, row.start_s, row.end_s),
        prepare_version=records.VERSION,
    )
    return Outcome(records.encode(record), len(clip.frames), len(clip.audio), faces=clip.faces)
