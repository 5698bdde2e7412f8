"""AVCAffe: 106 people at nine tasks over video calls, cut into segments of six seconds.

    videos/shorter_segments/aiim001/task_1/aiim001_task_1_….avi      the clips
    ground_truths/arousal.txt, valence.txt                           "aiim001_task_1, Calm": what people said of a task
    ground_truths/mental_demand.txt, temporal_demand.txt, effort.txt "aiim001_task_1, 12.0", 0 to 21
    info/no_audio_files.txt                                          segments in which the person does not speak

A label is that of the whole task. The split is the authors': twenty people (ten calls) are `test`, which they call
validation, the others `train`; whoever is on a call with whom is on the same side. Segments without speech are refused,
as the authors' loader leaves them out. Films of whole tasks (per_participant_per_task) and pictures of faces
(face_crops) are passed over: `--crop face` cuts faces out of the segments. Who is a woman and who a man is not read:
the columns of info/prestudy_response.csv are not described.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from input_pipeline.corpora.listing import VIDEO, Listing, find, media_files, read_text
from input_pipeline.errors import DataError
from input_pipeline.manifests import Row

AROUSAL = ("Excited", "Wide-awake", "Neutral", "Dull", "Calm")  # in the order of the authors' loader
VALENCE = ("Pleasant", "Pleased", "Neutral", "Unsatisfied", "Unpleasant")
AFFECT = {"arousal": AROUSAL, "valence": VALENCE}
LOADS = ("mental_demand", "temporal_demand", "effort")
HELD_OUT = frozenset(
    f"aiim{number:03d}"
    for number in (1, 2, 13, 14, 43, 44, 53, 54, 57, 58, 63, 64, 67, 68, 77, 78, 99, 100, 107, 108)
)
_WHOLE_TASKS = ("per_participant_per_task",)
_TASK = re.compile(r"(aiim\d{3})_task_([1-9])")
_NAME = re.compile(rf"{_TASK.pattern}_.+")
_MOST = 21.0


def list_clips(root: Path) -> Listing:
    """Raises DataError when the labels are missing, or a line of them is damaged."""
    listing = Listing()
    labels = _labels(root, listing)
    silent = _silent(root, listing)
    for path in media_files(root, listing, VIDEO, but=_WHOLE_TASKS):
        parts = _NAME.fullmatch(path.stem)
        if not parts:
            listing.refuse(str(path), "its name is not PERSON_TASK_…, as in aiim001_task_1_…")
            continue
        person, task = parts.groups()
        if path.name in silent:
            listing.refuse(str(path), "nobody speaks in it, by info/no_audio_files.txt", path.stem)
            continue
        listing.take(
            Row(
                str(path),
                path.stem,
                split="test" if person in HELD_OUT else "train",
                speaker=person,
                labels=labels.get(f"{person}_task_{task}", {}),
                metadata={"task": task},
            )
        )
    return listing


def _labels(root: Path, listing: Listing) -> dict[str, dict[str, Any]]:
    """Of each person's task: its labels."""
    found: dict[str, dict[str, Any]] = {}
    for name in (*AFFECT, *LOADS):
        path = find(root, f"{name}.txt", ("ground_truths", "data/ground_truths"))
        if path is None:
            listing.notes.append(f"ground_truths/{name}.txt is not there: clips have no label {name}")
            continue
        for number, line in enumerate(read_text(path).splitlines(), 1):
            task, comma, said = (part.strip() for part in line.partition(","))
            if not comma:
                continue
            value = _value(name, said)
            if value is None or not _TASK.fullmatch(task):
                raise DataError(
                    f"{path}, line {number}: {line.strip()!r} is not a person's task and its {name}"
                )
            found.setdefault(task, {})[name] = value
    if not found:
        raise DataError(f"{root}: no ground_truths/arousal.txt or valence.txt in it, which have the labels")
    return found


def _value(name: str, said: str) -> str | float | None:
    if name in AFFECT:
        return said if said in AFFECT[name] else None
    try:
        value = float(said)
    except ValueError:
        return None
    return value if 0 <= value <= _MOST else None


def _silent(root: Path, listing: Listing) -> set[str]:
    """Names of the files in which nobody speaks."""
    path = find(root, "no_audio_files.txt", ("info", "data/info"))
    if path is None:
        listing.notes.append(
            "info/no_audio_files.txt is not there: segments without speech are among the clips"
        )
        return set()
    return {line.strip() for line in read_text(path).splitlines() if line.strip()}
