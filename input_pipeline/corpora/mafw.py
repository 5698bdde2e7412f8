"""MAFW: 10,045 clips of films and television, eleven emotions, official folds.

    data/clips/00025.mp4                                     or clips/…: the clips
    Train & Test Set/single/no_caption/set_1/test.txt        "00025.mp4 anger": the five test sets
    Train & Test Set/compound/no_caption/set_1/test.txt      "00025.mp4 anger_disgust", where it is there
    Train & Test Set/single/with_caption/set_1/test.txt      clip, label, Chinese and English text, by tabs
    Labels/annotation.csv                                    annotation.xlsx saved as CSV: share of each emotion

The fold of a clip is the set that tests on it. A clip in no list of single labels is kept without a label. The
corpus names no people, so there are no speakers; its gender.txt does not say what its numbers mean and is not read.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from input_pipeline.corpora.listing import CHINESE, VIDEO, Listing, find, media_files, read_text, table
from input_pipeline.errors import DataError
from input_pipeline.manifests import Row

EMOTIONS = (  # in the order of HiCMAE's labels
    *("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"),
    *("contempt", "anxiety", "helplessness", "disappointment"),
)
SETS = range(1, 6)
_LISTS = ("Train & Test Set", "Train_Test_Set", "Train&Test Set")
_NAME = re.compile(r"\d{5}")


def list_clips(root: Path) -> Listing:
    """Raises DataError when the lists of the folds are missing or name other things than MAFW's."""
    listing = Listing()
    lists = next((found for name in _LISTS if (found := find(root, name, ("", "data"))) is not None), None)
    if lists is None:
        raise DataError(
            f"{root}: no folder '{_LISTS[0]}' in it; it is a part of MAFW and says labels and folds"
        )
    single = _tested(lists / "single" / "no_caption")
    if not single:
        raise DataError(f"{lists}: no single/no_caption/set_1/test.txt to set_5/test.txt in it")
    compound, texts = _tested(lists / "compound" / "no_caption"), _captions(lists / "single" / "with_caption")
    votes = _votes(find(root, "annotation.csv", ("", "Labels", "labels", "labels/Labels", "data/Labels")))
    if not votes:
        listing.notes.append(
            "Labels/annotation.csv is not there: save annotation.xlsx as CSV to have its votes"
        )
    missing = set(single)
    for path in media_files(root, listing, VIDEO):
        if not _NAME.fullmatch(path.stem):
            listing.refuse(str(path), "its name is not five digits, as in 00025.mp4")
            continue
        missing.discard(path.stem)
        labels: dict[str, Any] = {}
        metadata: dict[str, str] = {}
        if path.stem in single:
            labels["emotion"], metadata["fold"] = single[path.stem]
        if path.stem in compound:
            labels["compound_emotion"], metadata["compound_fold"] = compound[path.stem]
        if path.stem in votes:
            labels["votes"] = votes[path.stem]
        text = texts.get(path.stem, "")
        listing.take(Row(str(path), path.stem, text=text, labels=labels, metadata=metadata))
    if missing:
        listing.notes.append(f"{len(missing)} clips of the lists are not there, as {min(missing)}.mp4")
    return listing


def _tested(folder: Path) -> dict[str, tuple[str, str]]:
    """Of each clip: its label, and the number of the set that tests on it."""
    found: dict[str, tuple[str, str]] = {}
    for number in SETS:
        path = folder / f"set_{number}" / "test.txt"
        if not path.exists():
            return {}
        for line_number, line in enumerate(_lines(path), 1):
            name, _, label = line.strip().partition(" ")
            if not label or set(label.split("_")) - set(EMOTIONS):
                raise DataError(
                    f"{path}, line {line_number}: {line.strip()!r} is not a clip and its emotions"
                )
            clip = name.removesuffix(".mp4")
            if found.setdefault(clip, (label, str(number))) != (label, str(number)):
                raise DataError(
                    f"{path}, line {line_number}: {name} is in another set or has another label too"
                )
    return found


def _captions(folder: Path) -> dict[str, str]:
    """Of each clip: what its English text says; a line of another form has none."""
    texts = {}
    for number in SETS:
        path = folder / f"set_{number}" / "test.txt"
        for line in _lines(path) if path.exists() else ():
            cells = [cell.strip() for cell in line.split("\t")]
            if len(cells) == 4:
                texts[cells[0].removesuffix(".mp4")] = cells[3].removeprefix("<br>").strip()
    return texts


def _votes(path: Path | None) -> dict[str, dict[str, float]]:
    if path is None:
        return {}
    try:
        return {
            row["clip"].removesuffix(".mp4"): {emotion: float(row[emotion] or 0) for emotion in EMOTIONS}
            for row in table(path, ("clip", *EMOTIONS))
        }
    except ValueError as error:
        raise DataError(f"{path}: a vote is not a number ({error})") from None


def _lines(path: Path) -> list[str]:
    return [line for line in read_text(path, CHINESE).splitlines() if line.strip()]
