"""Can the usual video, sound and picture files be read? By list, and by really writing and reading one."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import PIL.features

from avemo_jax.doctor.findings import Finding, ok, wrong
from input_pipeline.errors import MediaError
from input_pipeline.media import AUDIO_RATE, read_clip
from input_pipeline.writing import write_clip

# What the containers mp4, mov, mkv, webm, avi, flv and mpg of talking-face corpora usually hold.
VIDEO = ("h264", "hevc", "mpeg4", "mpeg1video", "mpeg2video", "vp8", "vp9", "av1", "flv", "mjpeg")
SOUND = ("aac", "mp3", "mp2", "opus", "vorbis", "flac", "pcm_s16le")

_REINSTALL = "pip install --force-reinstall av: its wheels bring an FFmpeg that reads them all"
_FRAMES, _RATE = 10, 25


def check_decoders() -> Iterator[Finding]:
    """PyAV's decoders, Pillow's JPEG, and a small file through both."""
    lacking = [name for name in (*VIDEO, *SOUND) if name not in av.codecs_available]
    if lacking:
        yield wrong("decoders", f"PyAV {av.__version__} cannot read {', '.join(lacking)}", _REINSTALL)
    else:
        yield ok("decoders", f"PyAV {av.__version__}: {', '.join((*VIDEO, *SOUND))}")
    if not PIL.features.check("jpg"):
        yield wrong("decoders", "Pillow has no JPEG", "pip install --force-reinstall pillow")
    yield _round_trip()


def _round_trip() -> Finding:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.avi"
        try:
            _write_clip(path)
            clip = read_clip(path)
        except (av.FFmpegError, MediaError, ValueError) as error:
            return wrong("decoders", f"a small video cannot be written and read ({error})", _REINSTALL)
    expected = _FRAMES, AUDIO_RATE * _FRAMES // _RATE
    if (len(clip.frames), len(clip.audio)) != expected:
        found = f"{len(clip.frames)} frames and {len(clip.audio)} samples"
        return wrong("decoders", f"a small video gives {found} instead of {expected}", _REINSTALL)
    return ok("decoders", f"a small video was written and read: {_FRAMES} frames, {expected[1]} samples")


def _write_clip(path: Path) -> None:
    """A grey video of 0.4 s with a tone: MPEG-4 and PCM."""
    greys = [np.full((64, 64, 3), 20 * index, np.uint8) for index in range(_FRAMES)]
    tone = 8000 * np.sin(np.arange(AUDIO_RATE * _FRAMES // _RATE) * 0.17)
    write_clip(path, greys, _RATE, tone.astype(np.int16), AUDIO_RATE)
