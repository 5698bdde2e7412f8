"""DFEW: 16,372 clips of films, seven emotions, votes of ten raters, official folds.

    Clip/original/part_1/1.mp4                          the clips, in folders by parts or not, numbers padded or not
    EmoLabel_DataSplit/test(single-labeled)/set_1.csv   "video_name,label", 1 to 7: the five test sets
    Annotation/annotation.csv                           annotation.xlsx saved as CSV: the votes, the clip, its label

The fold of a clip is the set that tests on it: 11,697 clips, of which HiCMAE's lists are made too. A clip in no set has
no fold, and a label only where the table gives it a single one (362 clips whose faces the authors did not find). The
aligned pictures (`Clip/clip_224x224…`) have no sound and are passed over; `--crop face` cuts faces out of the clips.
The corpus names no people. Numbers, columns and sets are those of the corpus's own README.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from input_pipeline.corpora.listing import VIDEO, WESTERN, Listing, find, media_files, table
from input_pipeline.errors import DataError
from input_pipeline.manifests import Row

EMOTIONS = ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear")  # 1 to 7, and HiCMAE's 0 to 6
SETS = range(1, 6)
CLIPS = 16_372
_SPLITS = ("test(single-labeled)", "test(single_labeled)")
_VOTES = tuple(f"{number}{emotion}" for number, emotion in enumerate(EMOTIONS, 1))
_ALIGNED = ("clip_224x224", "clip_224x224_16f", "clip_224x224_avi")
_NAME = re.compile(r"\d{1,5}")


def list_clips(root: Path) -> Listing:
    """Raises DataError when the lists of the folds are missing, or a table of the corpus is damaged."""
    listing = Listing()
    tested = _tested(root)
    rated = _rated(find(root, "annotation.csv", ("Annotation", "")))
    if not rated:
        listing.notes.append(
            "Annotation/annotation.csv is not there: save annotation.xlsx as CSV to have its votes"
        )
    missing = set(tested)
    for path in media_files(root, listing, VIDEO, but=_ALIGNED):
        number = int(path.stem) if _NAME.fullmatch(path.stem) else 0
        if not 1 <= number <= CLIPS:
            listing.refuse(str(path), f"its name is not a number from 1 to {CLIPS}, as in 16.mp4")
            continue
        missing.discard(number)
        labels: dict[str, Any] = dict(rated.get(number, {}))
        metadata = {}
        if number in tested:
            labels["emotion"], metadata["fold"] = tested[number]
        listing.take(Row(str(path), f"{number:05d}", labels=labels, metadata=metadata))
    if missing:
        listing.notes.append(f"{len(missing)} clips of the lists are not there, as {min(missing)}.mp4")
    return listing


def _tested(root: Path) -> dict[int, tuple[str, str]]:
    """Of each clip: its label, and the number of the set that tests on it."""
    places = (find(root, name, ("EmoLabel_DataSplit", "")) for name in _SPLITS)
    folder = next(filter(None, places), None)
    if folder is None:
        raise DataError(
            f"{root}: no folder 'EmoLabel_DataSplit/{_SPLITS[0]}' in it; it is a part of DFEW and says labels and folds"
        )
    found: dict[int, tuple[str, str]] = {}
    for number in SETS:
        path = folder / f"set_{number}.csv"
        if not path.exists():
            raise DataError(f"{folder}: no set_{number}.csv in it")
        for row in table(path, ("video_name", "label"), WESTERN):
            clip, emotion = _number(row["video_name"]), _emotion(row["label"])
            if clip is None or not emotion:
                raise DataError(
                    f"{path}: {row['video_name']},{row['label']} is not a clip and an emotion, 1 to 7"
                )
            if found.setdefault(clip, (emotion, str(number))) != (emotion, str(number)):
                raise DataError(f"{path}: clip {clip} is in another set or has another label too")
    return found


def _rated(path: Path | None) -> dict[int, dict[str, Any]]:
    """Of each clip: its votes, and its emotion where it has a single one."""
    found = {}
    for row in table(path, (*_VOTES, "order", "label"), WESTERN) if path else ():
        clip, emotion = _number(row["order"]), _emotion(row["label"])
        try:
            votes = {name: int(row[column]) for name, column in zip(EMOTIONS, _VOTES, strict=True)}
        except ValueError:
            clip = None
        if clip is None or emotion is None:
            raise DataError(
                f"{path}: the line of clip {row['order']!r} is not one of votes and a label, 0 to 7"
            )
        found[clip] = {**({"emotion": emotion} if emotion else {}), "votes": votes}
    return found


def _number(text: str) -> int | None:
    return int(text) if _NAME.fullmatch(text) else None


def _emotion(text: str) -> str | None:
    """Its name; "" for 0, which is no single emotion; None for what is no label."""
    return dict(enumerate(("", *EMOTIONS))).get(int(text)) if text.isdecimal() else None
