"""IEMOCAP: 10,039 turns of ten actors in 151 dialogues, cut out of films of both actors.

    Session1/dialog/avi/DivX/Ses01F_impro01.avi             a dialogue; both actors, side by side
    Session1/dialog/EmoEvaluation/Ses01F_impro01.txt        its turns: times, labels, ratings
    Session1/dialog/transcriptions/Ses01F_impro01.txt       what is said
    Session1/dialog/wav/Ses01F_impro01.wav                  its sound, taken where it is there

A turn is Ses01F_impro01_M003: session, who of the two wears the markers, dialogue, who speaks. It is one clip: its
seconds of the film, and of the picture the half in which the speaker is, by the first of the two letters: who wears
the markers is on the left (so public code that cuts the films; the corpus was not seen). An evaluation has blocks:

    [6.2901 - 8.2357]	Ses01F_impro01_F000	neu	[2.5000, 2.5000, 2.5000]
    C-E2:	Neutral;	()
    A-E3:	val 3; act 2; dom  2;	()

`emotion` is the consensus, empty where there is none (xxx); `emotion_4` the four of most published results, where
excited counts as happiness (5,531 turns). `votes` count the choices of the evaluators E1 to E6, several of one each
counted, `raters` keep the first; what the actors said of themselves is not read. Values are 1 to 5. The folds are the
sessions, two speakers each.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Any

from input_pipeline.corpora.listing import VIDEO, Listing, media_files, read_text
from input_pipeline.errors import DataError
from input_pipeline.manifests import Row
from input_pipeline.storing import LEFT, RIGHT

EMOTIONS = {
    "ang": "anger",
    "hap": "happiness",
    "neu": "neutral",
    "sad": "sadness",
    "exc": "excited",
    "fru": "frustration",
    "sur": "surprise",
    "fea": "fear",
    "dis": "disgust",
    "oth": "other",
}
FOUR = {"ang": "anger", "hap": "happiness", "exc": "happiness", "neu": "neutral", "sad": "sadness"}
VALUES = ("valence", "arousal", "dominance")  # in the order of an evaluation
_NO_AGREEMENT = "xxx"
_DIALOGUE = re.compile(r"Ses0([1-5])([FM])_(impro|script)\d{2}[ab]?(_\d[ab]?)?")
_TURN = re.compile(rf"({_DIALOGUE.pattern})_([FM])[X\d]{{2}}\d")
_CONSENSUS = re.compile(r"\[([\d.]+) - ([\d.]+)\]\s+(\S+)\s+(\w{3})\s+\[([\d.]+), ([\d.]+), ([\d.]+)\]")
_CHOICES = re.compile(r"C-(E\d+):\s*([^()]*)")
_TEXT = re.compile(r"(\S+) \[[\d.]+-[\d.]+\]:(.*)")
_ENCODINGS = ("utf-8-sig", "latin-1")
_VOTED = {"neutral state": "neutral", "excitement": "excited"}


def list_clips(root: Path) -> Listing:
    """Raises DataError when no evaluation is there, or one is damaged."""
    listing = Listing()
    texts = frozenset([".txt"])
    evaluations, transcripts = {}, {}
    for path in media_files(root, Listing(), texts):
        if path.parent.name == "EmoEvaluation":  # the folders in it hold each evaluator's lines again
            evaluations[path.stem] = root / path
        elif path.parent.name == "transcriptions":
            transcripts[path.stem] = root / path
    if not evaluations:
        raise DataError(f"{root}: no Session…/dialog/EmoEvaluation/….txt in it, which have times and labels")
    films = {}
    for path in media_files(root, listing, VIDEO):
        if not _DIALOGUE.fullmatch(path.stem):
            listing.refuse(str(path), "its name is not that of a dialogue, as in Ses01F_impro01.avi")
        elif path.stem not in evaluations:
            listing.refuse(str(path), "no evaluation of it in dialog/EmoEvaluation")
        elif path.stem in films:
            listing.refuse(str(path), "another file has the same name", path.stem)
        else:
            films[path.stem] = path
    for dialogue, path in films.items():
        said = _said(transcripts[dialogue]) if dialogue in transcripts else {}
        sound = _sound(root, path)
        for turn, (start_s, end_s, labels) in _turns(evaluations[dialogue], dialogue).items():
            listing.take(_row(path, turn, start_s, end_s, labels, said.get(turn, ""), sound))
    missing = set(evaluations) - set(films)
    if missing:
        listing.notes.append(f"{len(missing)} dialogues have no film, as {min(missing)}.avi")
    return listing


def _row(path, turn, start_s, end_s, labels, text, sound) -> Row:
    parts = _TURN.fullmatch(turn)
    assert parts  # since it was read as one
    dialogue, session, marked, setting, _, speaker = parts.groups()
    return Row(
        str(path),
        turn,
        speaker=f"Ses0{session}{speaker}",
        gender=speaker.lower(),
        text=text,
        start_s=start_s,
        end_s=end_s,
        labels=labels,
        metadata={
            "fold": session,
            "session": session,
            "dialogue": dialogue,
            "setting": {"impro": "improvised", "script": "scripted"}[setting],
        },
        audio_path=sound,
        half=LEFT if speaker == marked else RIGHT,
    )


def _sound(root: Path, film: PurePosixPath) -> str:
    """Of dialog/avi/DivX/NAME.avi: dialog/wav/NAME.wav."""
    folder = next((parent for parent in film.parents if parent.name == "dialog"), film.parent)
    path = folder / "wav" / f"{film.stem}.wav"
    return str(path) if (root / path).exists() else ""


def _turns(path: Path, dialogue: str) -> dict[str, tuple[float, float, dict[str, Any]]]:
    """Of each turn: its first and last second, and its labels."""
    found: dict[str, tuple[float, float, dict[str, Any]]] = {}
    labels: dict[str, Any] = {}
    for number, line in enumerate(read_text(path, _ENCODINGS).splitlines(), 1):
        if line.startswith("[") and line[1:2].isdigit():  # a line of the head begins with [START_TIME
            parts = _CONSENSUS.match(line)
            turn = parts and _TURN.fullmatch(parts[3])
            if not parts or not turn or turn[1] != dialogue or parts[4] not in (*EMOTIONS, _NO_AGREEMENT):
                raise DataError(
                    f"{path}, line {number}: {line.strip()!r} is not a turn of {dialogue} with its labels"
                )
            start_s, end_s, values = float(parts[1]), float(parts[2]), map(float, parts.groups()[4:])
            if end_s <= start_s:
                raise DataError(f"{path}, line {number}: {parts[3]} ends before it begins")
            labels = dict(zip(VALUES, values, strict=True))
            if parts[4] in EMOTIONS:
                labels["emotion"] = EMOTIONS[parts[4]]
            if parts[4] in FOUR:
                labels["emotion_4"] = FOUR[parts[4]]
            found[parts[3]] = start_s, end_s, labels
        elif found and (chosen := _CHOICES.match(line)):
            names = [name.strip().lower() for name in chosen[2].split(";") if name.strip()]
            names = [_VOTED.get(name, name) for name in names]
            if names:
                labels.setdefault("raters", {})[chosen[1]] = names[0]
                votes = labels.setdefault("votes", dict.fromkeys(EMOTIONS.values(), 0))
                for name in names:
                    votes[name] = votes.get(name, 0) + 1
    return found


def _said(path: Path) -> dict[str, str]:
    """Of each turn: its words. Other lines are of what is between turns."""
    lines = read_text(path, _ENCODINGS).splitlines()
    return {parts[1]: parts[2].strip() for line in lines if (parts := _TEXT.match(line))}
