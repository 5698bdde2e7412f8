"""Folders of records whose frames are stored in other ways than `avemo prepare` does, to compare with.

A record's frames are pictures of any kind that Pillow reads, so the loader takes such folders as they are.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from input_pipeline import records
from input_pipeline.manifests import Row
from input_pipeline.media import read_clip
from input_pipeline.prepare import prepare
from input_pipeline.storing import ClipOptions, as_record, store_frame

_SPLIT = "clips"


def prepare_files(files: Sequence[Path], out: Path, options: ClipOptions) -> int:
    """What `avemo prepare` makes of them; the bytes of all records."""
    rows = [Row(path=str(file.resolve()), clip_id=f"{i:06d}") for i, file in enumerate(files)]
    return prepare(rows, "/", out, options, workers=0).bytes


def write_folder(
    files: Sequence[Path], out: Path, options: ClipOptions, encode: Callable[[Image.Image], bytes]
) -> int:
    """The same with frames by `encode`; the bytes of all records."""
    out.mkdir(parents=True)
    encoded, clips = [], []
    for i, file in enumerate(files):
        clip = read_clip(file, on_frame=lambda frame: encode(store_frame(frame, options)))
        encoded.append(records.encode(as_record(clip, f"{i:06d}")))
        counts = {"frames": len(clip.frames), "samples": len(clip.audio)}
        clips.append({"position": i, "clip_id": f"{i:06d}", "split": _SPLIT, **counts})
    records.write_shard(out / records.shard_name(_SPLIT, 0, 1), encoded)
    size = sum(map(len, encoded))
    records.write_dataset(out, {_SPLIT: ([len(encoded)], size)}, clips)
    return size


def encoder(form: str, **how) -> Callable[[Image.Image], bytes]:
    """A function of a picture that gives its bytes in Pillow's format `form`."""

    def encode(picture):
        buffer = io.BytesIO()
        picture.save(buffer, form, **how)
        return buffer.getvalue()

    return encode
