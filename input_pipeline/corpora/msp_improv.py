"""MSP-IMPROV: 8,438 turns of twelve actors in six sessions, rated by crowds.

    session1/S01A/P/MSP-IMPROV-S01A-F01-P-FM01.avi     the clips; or below a folder Video
    session1/S01A/P/MSP-IMPROV-S01A-F01-P-FM01.wav     their sound, taken where it is there; or below a folder Audio
    Evalution.txt                                      ratings (spelled so; Evaluation.txt does too)

A name is SENTENCE and intended emotion, SPEAKER (its number is the session), SETTING, TURN; files may begin with UTD
instead of MSP, as the ratings do. Ratings are blocks, one line of the consensus and then one of each rater:

    UTD-IMPROV-S01A-F01-P-FM01.avi; N; A:3.000000; V:3.500000; D:3.000000 ; N:4.000000;
    1-p1; Neutral; Neutral,Other; A:3.000000; V:3.000000; D:3.000000; N:4.000000;

`emotion` is the consensus, empty where there is none (X); `votes` count the raters' first choice, `raters` keep whose
it was. Values are arousal, valence, dominance and naturalness, 1 to 5. The folds are the sessions, as in HiCMAE's
lists, which lack 11 of the 7,798 clips with one of its four emotions.
What is known of the layout: from HiCMAE's lists and public code that reads the corpus; the corpus itself was not seen.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any

from input_pipeline.corpora.listing import SOUND, VIDEO, Listing, media_files, read_text
from input_pipeline.errors import DataError
from input_pipeline.manifests import Row

EMOTIONS = {"A": "angry", "H": "happy", "N": "neutral", "S": "sad", "O": "other"}  # X: no agreement
SETTINGS = {"R": "target read", "T": "target improvised", "S": "other improvised", "P": "natural interaction"}
VALUES = {"A": "arousal", "V": "valence", "D": "dominance", "N": "naturalness"}
SESSIONS = 6
_NO_AGREEMENT = "X"
_RATINGS = ("Evalution.txt", "Evaluation.txt")
_NAME = re.compile(r"(?:MSP|UTD)-IMPROV-(S\d{2})([AHNS])-([FM])0([1-6])-([RTSP])-([FM]{1,2}\d{2,3})")
_ENCODINGS = ("utf-8-sig", "latin-1")


def list_clips(root: Path) -> Listing:
    """Raises DataError when the ratings are missing, or a line of them is damaged."""
    listing = Listing()
    found = [
        root / name for name in media_files(root, Listing(), frozenset([".txt"])) if name.name in _RATINGS
    ]
    if not found:
        raise DataError(f"{root}: no {_RATINGS[0]} in it, which has the ratings")
    ratings = _ratings(found[0])
    sounds = {_key(path): path for path in media_files(root, Listing(), SOUND) if _NAME.fullmatch(path.stem)}
    for path in media_files(root, listing, VIDEO):
        parts = _NAME.fullmatch(path.stem)
        if not parts:
            listing.refuse(str(path), "its name is not as in MSP-IMPROV-S01A-F01-P-FM01")
            continue
        sentence, intended, gender, session, setting, _ = parts.groups()
        metadata = {
            "fold": session,
            "session": session,
            "sentence": sentence,
            "intended_emotion": EMOTIONS[intended],
            "setting": SETTINGS[setting],
        }
        listing.take(
            Row(
                str(path),
                f"MSP-IMPROV-{_key(path)}",
                speaker=f"{gender}0{session}",
                gender=gender.lower(),
                labels=ratings.get(_key(path), {}),
                metadata=metadata,
                audio_path=str(sounds.get(_key(path), "")),
            )
        )
    return listing


def _key(path: PurePosixPath) -> str:
    """A clip's name without the MSP or UTD that it begins with."""
    return path.stem.split("-", 2)[2]


def _ratings(path: Path) -> dict[str, dict[str, Any]]:
    """Of each clip: its labels."""
    found: dict[str, dict[str, Any]] = {}
    clip = ""
    for number, line in enumerate(read_text(path, _ENCODINGS).splitlines(), 1):
        cells = [cell.strip() for cell in line.split(";") if cell.strip()]
        if not cells:
            continue
        where = f"{path}, line {number}"
        if cells[0].endswith(".avi"):
            name = PurePosixPath(cells[0])
            if not _NAME.fullmatch(name.stem) or len(cells) < 2:
                raise DataError(f"{where}: {line.strip()!r} is not the consensus on a clip")
            clip = _key(name)
            if cells[1] not in (*EMOTIONS, _NO_AGREEMENT):
                raise DataError(f"{where}: {cells[1]!r} is none of {', '.join((*EMOTIONS, _NO_AGREEMENT))}")
            emotion = EMOTIONS.get(cells[1])
            found[clip] = {
                **({"emotion": emotion} if emotion else {}),
                **_values(cells[2:], where),
                "raters": {},
            }
        elif clip and len(cells) > 1:
            found[clip]["raters"][cells[0]] = cells[1].lower()  # some lines are there twice, word for word
    for labels in found.values():
        if labels["raters"]:
            labels["votes"] = {**dict.fromkeys(EMOTIONS.values(), 0), **Counter(labels["raters"].values())}
        else:
            del labels["raters"]
    return found


def _values(cells: list[str], where: str) -> dict[str, float]:
    """Of cells as "A:3.500000" those that are numbers; the corpus has NaN for what nobody rated."""
    values = {}
    for cell in cells:
        letter, colon, text = cell.partition(":")
        try:
            value = float(text)
        except ValueError:
            colon = ""
        if not colon or letter.strip() not in VALUES:
            raise DataError(f"{where}: {cell!r} is not a mean rating, as A:3.500000")
        if math.isfinite(value):
            values[VALUES[letter.strip()]] = value
    return values
