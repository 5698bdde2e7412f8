"""Werewolf-XL: speakers in thirty games of Werewolf, rated for pleasure, arousal and dominance.

    …/01_03_128.mp4            a clip: session 1, seat 3, its number
    *.csv                      ratings: a column VideoName (or speaker_audio) and the means of three dimensions
    Final_results….csv         who takes part: a column Round, and in each line where the same person plays, "8-5"

Ratings are read from every CSV file with such columns, whatever its name. With the list of who takes part, a speaker
is a person; without it, a seat of a session, so one person has as many names as sessions. Where the ratings give a
category it is kept, in English. The folds are HiCMAE's, six sessions each; `session_fold` is the authors', three each:
folds of sessions, which share people.
"""

from __future__ import annotations

import csv
import math
import re
from pathlib import Path

from input_pipeline.corpora.listing import CHINESE, VIDEO, Listing, media_files, read_text, table
from input_pipeline.errors import DataError
from input_pipeline.manifests import Row

DIMENSIONS = {  # as the authors' own lists call their columns
    "pleasure": ("Pleasure_average", "Mean_P_1_2_4"),
    "arousal": ("Arousal_average", "Mean_A_1_2_4"),
    "dominance": ("Dominance_average", "Mean_D_1_2_4"),
}
CATEGORIES = {
    "中性": "neutral",
    "尴尬": "embarrassed",
    "疑惑": "puzzled",
    "紧张": "nervous",
    "轻松": "relaxed",
    "高兴": "happy",
}
SESSIONS = 30
SESSIONS_PER_FOLD, SESSIONS_PER_OWN_FOLD = 6, 3
_NAMES = ("VideoName", "speaker_audio")
_NAME = re.compile(r"(\d{2})_(\d{2})_(\d+)")
_SEAT = re.compile(r"\s*(\d{1,2})-(\d{1,2})\s*")


def list_clips(root: Path) -> Listing:
    """Raises DataError when no ratings are there, or a rating is not a number."""
    listing = Listing()
    ratings, people = _tables(root)
    if not ratings:
        columns = " or ".join(_NAMES)
        raise DataError(f"{root}: no CSV file with ratings in it (columns {columns}, {_column_names()})")
    if not people:
        listing.notes.append("no list of who takes part (column Round): a speaker is a seat of a session")
    for path in media_files(root, listing, VIDEO):
        parts = _NAME.fullmatch(path.stem)
        if not parts or not 1 <= int(parts[1]) <= SESSIONS:
            listing.refuse(str(path), "its name is not SESSION_SEAT_NUMBER, as in 01_03_128")
            continue
        session, seat = int(parts[1]), int(parts[2])
        metadata = {
            "session": str(session),
            "fold": str((session - 1) // SESSIONS_PER_FOLD + 1),
            "session_fold": str((session - 1) // SESSIONS_PER_OWN_FOLD + 1),
        }
        speaker = people.get((session, seat), f"{session:02d}_{seat:02d}")
        labels = ratings.get(path.stem, {})
        listing.take(Row(str(path), path.stem, speaker=speaker, labels=labels, metadata=metadata))
    return listing


def _tables(root: Path):
    """Labels of each clip, and the person in each (session, seat), from all CSV files below `root`."""
    ratings: dict[str, dict] = {}
    people: dict[tuple[int, int], str] = {}
    for name in media_files(root, Listing(), frozenset({".csv"})):
        path = root / name
        columns = _columns(path)
        if "Round" in columns:
            people |= _people(path)
        elif any(column in columns for column in _NAMES):
            for clip, labels in _ratings(path, columns):
                ratings.setdefault(clip, {}).update(labels)
    return ratings, people


def _columns(path: Path) -> list[str]:
    head = read_text(path, CHINESE).partition("\n")[0]
    return [name.strip() for name in next(csv.reader([head]), [])]


def _ratings(path: Path, columns: list[str]):
    key = next(column for column in _NAMES if column in columns)
    chosen = {name: column for name, choices in DIMENSIONS.items() for column in choices if column in columns}
    for row in table(path, (key,), CHINESE):
        clip = Path(row[key]).stem
        labels: dict[str, float | str] = {}
        for name, column in chosen.items():
            if row[column]:
                labels[name] = _rating(row[column], f"{path}, {clip}, column {column}")
        category = CATEGORIES.get(row.get("Categorical", ""))
        yield clip, labels | ({"emotion": category} if category else {})


def _rating(text, where):
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{where}: {text!r} is not a rating")
    return value


def _people(path: Path) -> dict[tuple[int, int], str]:
    """One name for all seats that lines of the list tie together: the first of them."""
    first: dict[tuple[int, int], tuple[int, int]] = {}

    def root_of(seat):
        while first.setdefault(seat, seat) != seat:
            seat = first[seat]
        return seat

    for row in table(path, ("Round",), CHINESE):
        seats = [(int(m[1]), int(m[2])) for cell in row.values() if (m := _SEAT.fullmatch(cell))]
        for seat in seats:
            one, other = sorted((root_of(seats[0]), root_of(seat)))
            first[other] = one
    return {seat: "person_{:02d}_{:02d}".format(*root_of(seat)) for seat in list(first)}


def _column_names() -> str:
    return ", ".join(" or ".join(choices) for choices in DIMENSIONS.values())
