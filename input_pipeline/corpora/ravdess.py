"""RAVDESS: 24 actors, two sentences, eight emotions spoken and six sung.

    Video_Speech_Actor_01/Actor_01/01-01-01-01-01-01-01.mp4     or Actor_01/… alone
    Audio_Speech_Actors_01-24/Actor_01/03-01-01-01-01-01-01.wav

A name is MODALITY-CHANNEL-EMOTION-INTENSITY-STATEMENT-REPETITION-ACTOR. Modality 01 is picture and sound. A 02
(picture alone) is joined with the sound of its 03 where there is no 01; a 03 without any picture is a clip of
sound. The folds are HiCMAE's, of the spoken clips: actors 1–4, 5–8, … 21–24; sung ones are in none.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from input_pipeline.corpora.listing import Listing, media_files
from input_pipeline.manifests import Row

EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
STATEMENTS = ("Kids are talking by the door", "Dogs are sitting by the door")
CHANNELS = ("speech", "song")
INTENSITIES = ("normal", "strong")
ACTORS_PER_FOLD = 4
_SUNG = 6  # the first six emotions
_NAME = re.compile(r"0[1-3]-0[12]-0[1-8]-0[12]-0[12]-0[12]-(0[1-9]|1\d|2[0-4])")
_ACTOR_FOLDER = re.compile(r"Actor_(\d+)", re.IGNORECASE)


def list_clips(root: Path) -> Listing:
    listing = Listing()
    files: dict[str, dict[str, PurePosixPath]] = {}  # by all but the modality
    for path in media_files(root, listing):
        reason = _wrong(path)
        if reason:
            listing.refuse(str(path), reason)
            continue
        modality, content = path.stem[:2], path.stem[3:]
        same = files.setdefault(content, {})
        if modality in same:
            listing.refuse(str(path), "another file has the same name", path.stem)
        else:
            same[modality] = path
    for content, same in sorted(files.items()):
        whole, picture, sound = (same.get(modality) for modality in ("01", "02", "03"))
        if whole:
            listing.take(_row(whole, content))
        elif picture:
            listing.take(_row(picture, content, sound))
        elif sound:
            listing.take(_row(sound, content))
    return listing


def _wrong(path: PurePosixPath) -> str:
    """Why a file is none of RAVDESS's; "" when it is one."""
    if not _NAME.fullmatch(path.stem):
        return (
            "its name is not MODALITY-CHANNEL-EMOTION-INTENSITY-STATEMENT-REPETITION-ACTOR, two digits each"
        )
    _, channel, emotion, intensity, _, _, actor = map(int, path.stem.split("-"))
    if emotion == 1 and intensity == 2:
        return "its name says strong intensity, which neutral does not have"
    if CHANNELS[channel - 1] == "song" and emotion > _SUNG:
        return f"its name says {EMOTIONS[emotion - 1]} sung, which there is not"
    folder = next((m for part in path.parts[:-1] if (m := _ACTOR_FOLDER.fullmatch(part))), None)
    if folder and int(folder[1]) != actor:
        return "it lies in the folder of another actor than its name says"
    return ""


def _row(path: PurePosixPath, content: str, sound: PurePosixPath | None = None) -> Row:
    channel, emotion, intensity, statement, repetition, actor = map(int, content.split("-"))
    metadata = {"channel": CHANNELS[channel - 1], "repetition": str(repetition)}
    if CHANNELS[channel - 1] == "speech":
        metadata["fold"] = str((actor - 1) // ACTORS_PER_FOLD + 1)
    return Row(
        str(path),
        path.stem,
        speaker=f"{actor:02d}",
        gender="m" if actor % 2 else "f",
        text=STATEMENTS[statement - 1],
        labels={"emotion": EMOTIONS[emotion - 1], "intensity": INTENSITIES[intensity - 1]},
        metadata=metadata,
        audio_path=str(sound) if sound else "",
    )
