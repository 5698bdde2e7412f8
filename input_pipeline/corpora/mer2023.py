"""MER2023: Chinese films and series, six emotions and valence, one training set and three tests.

    train/sample_00000000.avi        or mer2023train/train/…: the clips of a set, avi or mp4; names as in the lists
    train-label.csv                  "name,discrete,valence": their labels; or below another folder
    test1/…, test1-label.csv         MER-MULTI
    test2/…, test2-label.csv         MER-NOISE: noise was added to sound and pictures
    test3/…, test3-label.csv         MER-SEMI: no valence, and most clips have no label at all

Splits: train; test, which is MER-MULTI; test_noise; test_semi. Clips that no list names are kept without labels. The
corpus names no people, and has no folds: its authors deal the training clips at random, to choose by.
What is known of the layout: from the organisers' code (MERTools) and others' that reads it; the corpus was not seen.
"""

from __future__ import annotations

import math
from pathlib import Path, PurePosixPath
from typing import Any

from input_pipeline.corpora.listing import CHINESE, VIDEO, Listing, media_files, table
from input_pipeline.errors import DataError
from input_pipeline.manifests import Row

EMOTIONS = ("neutral", "angry", "happy", "sad", "worried", "surprise")  # in the order of the organisers' code
SPLITS = {"train": "train", "test1": "test", "test2": "test_noise", "test3": "test_semi"}
_LIST = "-label.csv"


def list_clips(root: Path) -> Listing:
    """Raises DataError when no list of labels is there, or a line of one is not a label."""
    listing = Listing()
    labels = _labels(root)
    if not labels:
        raise DataError(f"{root}: no train{_LIST} or test1{_LIST} in it, which have the labels")
    listing.notes += [
        f"{name}{_LIST} is not there: its clips have no labels" for name in SPLITS if name not in labels
    ]
    missing = {(name, clip) for name, clips in labels.items() for clip in clips}
    for path in media_files(root, listing, VIDEO):
        name = next((part for part in reversed(path.parts[:-1]) if part in SPLITS), "")
        if not name:
            listing.refuse(str(path), f"it lies in no folder {', '.join(SPLITS)}")
            continue
        missing.discard((name, path.stem))
        listing.take(
            Row(str(path), path.stem, split=SPLITS[name], labels=labels.get(name, {}).get(path.stem, {}))
        )
    if missing:
        name, clip = min(missing)
        listing.notes.append(f"{len(missing)} clips of the lists are not there, as {name}/{clip}")
    return listing


def _labels(root: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Of each set that has a list: of each clip its labels."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for path in media_files(root, Listing(), frozenset([".csv"])):
        name = path.name.removesuffix(_LIST)
        if name in SPLITS and name != path.name:
            found[name] = dict(_read(root / path))
    return found


def _read(path: Path):
    for row in table(path, ("name", "discrete"), CHINESE):
        name = PurePosixPath(row["name"])
        clip = name.stem if name.suffix.lower() in VIDEO else str(name)
        if row["discrete"] not in EMOTIONS:
            raise DataError(f"{path}, {clip}: {row['discrete']!r} is none of {', '.join(EMOTIONS)}")
        labels: dict[str, Any] = {"emotion": row["discrete"]}
        if row.get("valence"):
            try:
                labels["valence"] = float(row["valence"])
            except ValueError:
                labels["valence"] = math.nan
            if not math.isfinite(labels["valence"]):
                raise DataError(f"{path}, {clip}: {row['valence']!r} is no valence")
        yield clip, labels
