"""GRID: 34 talkers, a thousand sentences of six words each; talker 21 has no pictures.

    s1/bbaf2n.mpg   or   s1/video/mpg_6000/bbaf2n.mpg       any folder named s and a number, above the files

The videos have sound; the separate recordings (audio_25k) are not read.
A name is the sentence: command, colour, preposition, letter, digit, adverb. There are no emotions and no
official folds: five are dealt by talker. Gender is that of the corpus's paper (18 men, 16 women).
"""

from __future__ import annotations

import re
from pathlib import Path

from input_pipeline.corpora.listing import VIDEO, Listing, deal_by_speaker, media_files
from input_pipeline.manifests import Row

_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
WORDS: tuple[tuple[str, dict[str, str]], ...] = (
    ("command", {"b": "bin", "l": "lay", "p": "place", "s": "set"}),
    ("colour", {"b": "blue", "g": "green", "r": "red", "w": "white"}),
    ("preposition", {"a": "at", "b": "by", "i": "in", "w": "with"}),
    ("letter", {letter: letter for letter in "abcdefghijklmnopqrstuvxyz"}),  # w is too long to say
    (
        "digit",
        dict(zip("z123456789", _DIGITS, strict=True)),
    ),
    ("adverb", {"a": "again", "n": "now", "p": "please", "s": "soon"}),
)
WOMEN = frozenset({4, 7, 11, 15, 16, 18, 20, 21, 22, 23, 24, 25, 29, 31, 33, 34})
TALKERS = 34
FOLDS = 5
_FOLDER = re.compile(r"s([1-9]\d?)")


def list_clips(root: Path) -> Listing:
    listing = Listing()
    for path in media_files(root, listing, VIDEO):
        talker = next((int(m[1]) for part in reversed(path.parts[:-1]) if (m := _FOLDER.fullmatch(part))), 0)
        said = sentence(path.stem)
        if not 1 <= talker <= TALKERS:
            listing.refuse(str(path), "it lies in no folder of a talker, s1 to s34")
        elif said is None:
            listing.refuse(str(path), "its name is not a sentence of six letters and digits, as in bbaf2n")
        else:
            listing.take(
                Row(
                    str(path),
                    f"s{talker}_{path.stem}",
                    speaker=f"s{talker}",
                    gender="f" if talker in WOMEN else "m",
                    text=" ".join(said.values()),
                    labels=dict(said),
                )
            )
    listing.rows = deal_by_speaker(listing.rows, FOLDS)
    return listing


def sentence(name: str) -> dict[str, str] | None:
    """The words of a file name by their part in the sentence; None when it is not one."""
    if len(name) != len(WORDS) or any(
        letter not in words for letter, (_, words) in zip(name, WORDS, strict=True)
    ):
        return None
    return {part: words[letter] for letter, (part, words) in zip(name, WORDS, strict=True)}
