"""VoxCeleb2: 1.1 million clips of 6,112 speakers from interviews, faces cut out at 224 × 224.

    dev/mp4/id00012/21Uxsk56VDQ/00001.mp4     pictures without sound; dev and test, or mp4 alone
    dev/aac/id00012/21Uxsk56VDQ/00001.m4a     their sound; a .wav made of it, or a folder wav, does too
    vox2_meta.csv                             gender of the speakers, and whether they are of dev or test

Sound may lie below another folder than the pictures. The corpus has no emotions and no folds but its split into
dev and test, whose speakers differ.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

from input_pipeline.corpora.listing import SOUND, VIDEO, Listing, find, media_files, table
from input_pipeline.manifests import Row

SPLITS = ("dev", "test")
_SPEAKER = re.compile(r"id\d{5}")
_SOURCE = re.compile(r"[A-Za-z0-9_-]{11}")  # as YouTube names its videos
_NUMBER = re.compile(r"\d{5}")
_STORES = {"mp4", "aac", "wav", "m4a"}  # folders that hold the speakers'
_SUFFIXES = (".wav", ".m4a")


def list_clips(root: Path) -> Listing:
    listing = Listing()
    meta = _meta(root, listing)
    stores = _stores(root)
    sound_stores = [store for store in stores if store.name != "mp4"]
    if not sound_stores:
        listing.notes.append("no folder aac or wav: the sound must be in the mp4 files themselves")
    for path in media_files(root, listing, VIDEO | SOUND, but=("aac", "wav", "m4a")):
        speaker, source, number = ("", "", "", *path.parts[:-1], path.stem)[-3:]
        if not (_SPEAKER.fullmatch(speaker) and _SOURCE.fullmatch(source) and _NUMBER.fullmatch(number)):
            listing.refuse(str(path), "it does not lie as id00012/21Uxsk56VDQ/00001.mp4")
            continue
        if path.suffix.lower() not in VIDEO:
            listing.refuse(str(path), "sound outside a folder aac or wav")
            continue
        clip = f"{speaker}/{source}/{number}"
        gender, split = meta.get(speaker, ("", ""))
        sound = _sound(root, sound_stores, path, clip)
        if sound_stores and not sound:
            listing.refuse(str(path), "no sound file for it in aac or wav", clip)
            continue
        split = split or next((part for part in path.parts[:-3] if part in SPLITS), "")
        listing.take(
            Row(str(path), clip, split=split, speaker=speaker, gender=gender, audio_path=sound or "")
        )
    return listing


def _meta(root: Path, listing: Listing) -> dict[str, tuple[str, str]]:
    """Of each speaker: gender, and split."""
    path = find(root, "vox2_meta.csv", ("", "meta"))
    if path is None:
        listing.notes.append(f"vox2_meta.csv is not in {root}: gender stays empty")
        return {}
    rows = table(path, ("VoxCeleb2 ID", "Gender", "Set"))
    return {row["VoxCeleb2 ID"]: (row["Gender"], row["Set"]) for row in rows}


def _stores(root: Path) -> list[Path]:
    """Folders mp4, aac and wav, not looking inside them: there lie 150,000 folders."""
    found = []
    for folder, folders, _ in os.walk(root, followlinks=True):
        found += [Path(folder) / name for name in sorted(folders) if name in _STORES]
        folders[:] = sorted(f for f in folders if f not in _STORES and not _SPEAKER.fullmatch(f))
    return found


def _sound(root: Path, stores: list[Path], path: PurePosixPath, clip: str) -> str | None:
    """The sound's path relative to `root`: of the store beside the picture's, else of any."""
    own = root.joinpath(*path.parts[:-4])
    for store in sorted(stores, key=lambda store: store.parent != own):
        for suffix in _SUFFIXES:
            if (found := store / f"{clip}{suffix}").exists():
                return found.relative_to(root).as_posix()
    return None
