"""Any folder: each media file is a clip, named by its path.

What the folders between `root` and the files say can be told by a layout, `split/speaker/label_emotion`: one
name for each level, of those that a manifest has (`-` skips a level). Without one nothing is known of a clip.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any

from input_pipeline.corpora.listing import Listing, media_files
from input_pipeline.errors import DataError
from input_pipeline.manifests import LABEL_PREFIX, SPLIT_NAME, SPLIT_RULE, Row

_FIELDS = ("split", "speaker", "gender", "text")
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_SKIPPED = "-"


def list_clips(root: Path, layout: str = "") -> Listing:
    """Every video and sound file below `root`.

    layout: what each folder level says, split by `/`; files that lie less deep are refused.
    """
    levels = _levels(layout)
    listing = Listing()
    paths = list(media_files(root, listing))
    stems = Counter(str(path.with_suffix("")) for path in paths)
    for path in paths:
        folders = path.parts[:-1]
        if len(folders) < len(levels):
            listing.refuse(str(path), f"lies less deep than --layout {layout} says")
            continue
        said = dict(zip(levels, folders, strict=False))
        if not SPLIT_NAME.fullmatch(said.get("split", "")):
            listing.refuse(str(path), f"the name of its split's folder {SPLIT_RULE}")
            continue
        listing.take(_row(path, said, unique=stems[str(path.with_suffix(""))] == 1))
    return listing


def _levels(layout):
    levels = [level.strip() for level in layout.split("/")] if layout else []
    for level in levels:
        if level != _SKIPPED and not _NAME.fullmatch(level):
            raise DataError(
                f"--layout {layout}: {level!r} is no name; as in split/speaker/label_emotion, - skips a level"
            )
        if level != _SKIPPED and levels.count(level) > 1:
            raise DataError(f"--layout {layout}: {level} is there twice")
    return levels


def _row(path: PurePosixPath, said: dict[str, str], unique: bool) -> Row:
    said.pop(_SKIPPED, None)
    fields: dict[str, Any] = {name: said.pop(name) for name in _FIELDS if name in said}
    labels = {k.removeprefix(LABEL_PREFIX): v for k, v in said.items() if k.startswith(LABEL_PREFIX)}
    metadata = {k: v for k, v in said.items() if not k.startswith(LABEL_PREFIX)}
    clip_id = str(path.with_suffix("")) if unique else str(path)
    return Row(str(path), clip_id, **fields, labels=labels, metadata=metadata)
