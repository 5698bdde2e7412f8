"""CREMA-D: 7,442 clips of 91 actors, as its repository is laid out.

    VideoFlash/1001_DFA_ANG_XX.flv              the clips
    AudioWAV/1001_DFA_ANG_XX.wav                their sound, taken where it is there
    VideoDemographics.csv                       age, sex, race, ethnicity of the actors
    processedResults/tabulatedVotes.csv         votes of some ten raters for voice, face and both
    processedResults/summaryTable.csv           the majorities of those votes

A name is ACTOR_SENTENCE_EMOTION_LEVEL. `emotion` is the intended one, which is what published results use; it is
the majority vote of those who see and hear a clip for 72 % of them only. The votes are kept as counts.
The folds are those of HiCMAE's lists: actors 1001–1018, 1019–1036, 1037–1054, 1055–1072, 1073–1091.
"""

from __future__ import annotations

import re
from pathlib import Path

from input_pipeline.corpora.listing import VIDEO, Listing, find, media_files, table
from input_pipeline.errors import DataError
from input_pipeline.manifests import Row

EMOTIONS = ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD")  # in the order of HiCMAE's labels
SENTENCES = {
    "IEO": "It's eleven o'clock.",
    "TIE": "That is exactly what happened.",
    "IOM": "I'm on my way to the meeting.",
    "IWW": "I wonder what this is about.",
    "TAI": "The airplane is almost full.",
    "MTI": "Maybe tomorrow it will be cold.",
    "IWL": "I would like a new alarm clock.",
    "ITH": "I think I have a doctor's appointment.",
    "DFA": "Don't forget a jacket.",
    "ITS": "I think I've seen this before.",
    "TSI": "The surface is slick.",
    "WSI": "We'll stop in a couple of minutes.",
}
LEVELS = {"LO": "low", "MD": "medium", "HI": "high", "XX": "", "X": ""}  # one name ends in X
# Picture or sound is not usable; HiCMAE's lists are without them.
BROKEN = frozenset({"1064_IEO_DIS_MD", "1064_TIE_SAD_XX", "1076_MTI_NEU_XX", "1076_MTI_SAD_XX"})
HEARD_OR_SEEN = {"1": "voice", "2": "face", "3": "both"}  # the first digit of a line of votes
ACTORS_PER_FOLD = 18
FOLDS = 5

_FIRST, _LAST = 1001, 1091
_NAME = re.compile(rf"(\d{{4}})_({'|'.join(SENTENCES)})_({'|'.join(EMOTIONS)})_({'|'.join(LEVELS)})")
_EMOTION_OF = {name[0]: name for name in EMOTIONS}
_SUMMARY = {"voice": "VoiceVote", "face": "FaceVote", "both": "MultiModalVote"}
_TABLES = ("", "processedResults")


def list_clips(root: Path) -> Listing:
    """Raises DataError when a table is there but is not CREMA-D's; what a missing one gives is empty."""
    listing = Listing()
    actors, votes, majorities = (
        _optional(root, listing, name, read)
        for name, read in (
            ("VideoDemographics.csv", _actors),
            ("tabulatedVotes.csv", _votes),
            ("summaryTable.csv", _majorities),
        )
    )
    for path in media_files(root, listing, VIDEO):
        parts = _NAME.fullmatch(path.stem)
        if not parts or not _FIRST <= int(parts[1]) <= _LAST:
            listing.refuse(str(path), "its name is not ACTOR_SENTENCE_EMOTION_LEVEL, as in 1001_DFA_ANG_XX")
            continue
        if path.stem in BROKEN:
            listing.refuse(str(path), "one of the four clips that are known to be broken", path.stem)
            continue
        actor, sentence, emotion, level = parts.groups()
        labels = {"emotion": emotion, **({"level": LEVELS[level]} if LEVELS[level] else {})}
        labels |= votes.get(path.stem, {}) | majorities.get(path.stem, {})
        person = dict(actors.get(actor, {}))
        sound = root / "AudioWAV" / f"{path.stem}.wav"
        listing.take(
            Row(
                str(path),
                path.stem,
                speaker=actor,
                gender=person.pop("gender", ""),
                text=SENTENCES[sentence],
                labels=labels,
                metadata={"fold": str(fold_of(int(actor))), "sentence": sentence, **person},
                audio_path=sound.relative_to(root).as_posix() if sound.exists() else "",
            )
        )
    return listing


def fold_of(actor: int) -> int:
    """1 to 5; the last takes the one actor that is left over."""
    return min((actor - _FIRST) // ACTORS_PER_FOLD + 1, FOLDS)


def _optional(root, listing, name, read):
    path = find(root, name, _TABLES)
    if path is None:
        listing.notes.append(f"{name} is not in {root}: what it says of the clips stays empty")
        return {}
    return read(path)


def _actors(path):
    rows = table(path, ("ActorID", "Age", "Sex", "Race", "Ethnicity"))
    return {
        row["ActorID"]: {
            "gender": {"Male": "m", "Female": "f"}.get(row["Sex"], ""),
            "age": row["Age"],
            "race": row["Race"],
            "ethnicity": row["Ethnicity"],
        }
        for row in rows
    }


def _votes(path):
    """Of each clip: {"votes_voice": {"ANG": 3, …}, "votes_face": …, "votes_both": …}."""
    counts: dict[str, dict] = {}
    for row in table(path, ("", *_EMOTION_OF, "fileName")):
        way = HEARD_OR_SEEN.get(row[""][:1])
        try:
            votes = {_EMOTION_OF[letter]: int(row[letter]) for letter in _EMOTION_OF}
        except ValueError:
            way = None
        if way is None:
            raise DataError(f"{path}: line {row['']!r} is not one of votes for voice, face or both")
        counts.setdefault(row["fileName"], {})[f"votes_{way}"] = votes
    return counts


def _majorities(path):
    """Of each clip: {"majority_voice": "ANG", …}; a tie has none."""
    found = {}
    for row in table(path, ("FileName", *_SUMMARY.values())):
        single = {way: _EMOTION_OF.get(row[column]) for way, column in _SUMMARY.items()}
        found[row["FileName"]] = {f"majority_{way}": name for way, name in single.items() if name}
    return found
