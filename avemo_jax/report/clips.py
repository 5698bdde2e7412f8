"""A prepared folder → some of its clips with what is known of them, and facts of all."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from avemo_jax.report.images import film_strip
from input_pipeline.errors import DataError
from input_pipeline.prepare import read_notes
from input_pipeline.progress import Progress
from input_pipeline.record import classes_of
from input_pipeline.records import Record, Records, open_records

STRIP_FRAMES = 3
MOST_READ = 2000  # records that facts are taken from
MOST_GROUPS = 8  # what colours and shapes can tell apart
OTHERS, NOTHING = "others", "not given"


@dataclass(frozen=True)
class Card:
    """What is shown of a clip. `labels` holds its classes as text; `strip` is a data URI, empty without frames."""

    position: int
    clip_id: str
    speaker: str
    gender: str
    split: str
    text: str
    duration_s: float
    labels: dict[str, str]
    strip: str = ""


@dataclass
class Facts:
    """What a prepared folder holds. `read`: the clips that all but `clips` was taken from."""

    clips: int
    read: int = 0
    splits: Counter = field(default_factory=Counter)
    speakers: Counter = field(default_factory=Counter)
    genders: Counter = field(default_factory=Counter)
    labels: dict[str, Counter] = field(default_factory=dict)
    scales: dict[str, list[float]] = field(default_factory=dict)  # labels that are numbers
    fps: Counter = field(default_factory=Counter)
    durations_s: list[float] = field(default_factory=list)
    levels_db: list[float] = field(default_factory=list)  # root mean square of the sound, below full scale
    faces: list[float] = field(default_factory=list)  # share of a clip's frames with its face; of all clips
    rejected: Counter = field(default_factory=Counter)  # clips that are not in the folder, by reason
    with_text: int = 0
    unreadable: int = 0


@dataclass(frozen=True)
class Grouping:
    """Clips told apart by one thing. names: of the groups, the most frequent first; of: each clip's group."""

    key: str
    names: tuple[str, ...]
    counts: tuple[int, ...]
    of: tuple[int, ...]
    values: tuple[str, ...]  # each clip's own value; of the last group, `others`, there may be many


def read_cards(data: str, count: int, seed: int = 0, positions: Sequence[int] = ()) -> list[Card]:
    """Up to `count` readable clips drawn at random, in the folder's order; or those at `positions`."""
    records = open_records(data)
    chosen = positions or draw(len(records), count, seed)
    cards = []
    with Progress(len(chosen), "clips", "strips") as progress:
        for position in chosen:
            with contextlib.suppress(DataError, OSError):  # OSError: Pillow's word for a damaged picture
                cards.append(_card(records[position], position))
            progress.advance()
    return cards


def draw(total: int, count: int, seed: int) -> list[int]:
    """`count` of the numbers 0 … total − 1, ascending; all of them when there are no more."""
    rng = np.random.default_rng(seed)
    return sorted(rng.choice(total, min(count, total), replace=False).tolist())


def collect_facts(data: str, seed: int = 0) -> Facts:
    """Counts over the records of a folder; of more than `MOST_READ`, over so many drawn at random."""
    records: Records = open_records(data)
    rejected, faces = read_notes(data)
    facts = Facts(len(records), rejected=rejected, faces=faces)
    chosen = draw(len(records), MOST_READ, seed)
    with Progress(len(chosen), "records", "facts") as progress:
        for position in chosen:
            try:
                _count(facts, records[position])
            except DataError:
                facts.unreadable += 1
            progress.advance()
    return facts


def groupings(cards: Sequence[Card]) -> list[Grouping]:
    """Every way to tell these clips apart: by each label with classes, by speaker, by gender."""
    keys = sorted({key for card in cards for key in card.labels})
    found = [_group(key, [card.labels.get(key, "") for card in cards]) for key in keys]
    found.append(_group("speaker", [card.speaker for card in cards]))
    found.append(_group("gender", [card.gender for card in cards]))
    return [grouping for grouping in found if any(name != NOTHING for name in grouping.names)]


def _card(record: Record, position: int) -> Card:
    strip = ""
    if record.frames:
        middles = [(2 * i + 1) * len(record.frames) // (2 * STRIP_FRAMES) for i in range(STRIP_FRAMES)]
        strip = film_strip(record.pictures(middles))
    return Card(
        position=position,
        clip_id=record.clip_id,
        speaker=record.speaker,
        gender=record.gender,
        split=record.split,
        text=record.text,
        duration_s=round(float(record.duration_s), 3),
        labels=classes_of(record.labels),
        strip=strip,
    )


def _count(facts: Facts, record: Record) -> None:
    facts.read += 1
    facts.splits[record.split or NOTHING] += 1
    facts.speakers[record.speaker or NOTHING] += 1
    facts.genders[record.gender or NOTHING] += 1
    facts.fps[f"{record.fps:.2f}".rstrip("0").rstrip(".")] += 1
    facts.durations_s.append(float(record.duration_s))
    if len(record.audio):
        facts.levels_db.append(_level_db(record.audio))
    facts.with_text += bool(record.text)
    for key, value in classes_of(record.labels).items():
        facts.labels.setdefault(key, Counter())[value] += 1
    for key, value in record.labels.items():
        if isinstance(value, float):
            facts.scales.setdefault(key, []).append(value)


def _level_db(audio: np.ndarray) -> float:
    """Of int16 [S]: 0 where every sample is as large as can be, −96 for silence."""
    power = np.mean(np.square(audio / 2.0**15))
    return max(-96.0, 10 * float(np.log10(power))) if power else -96.0


def _group(key: str, values: Iterable[str]) -> Grouping:
    values = tuple(value or NOTHING for value in values)
    counts = Counter(value for value in values if value != NOTHING)
    names = [name for name, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
    if len(names) > MOST_GROUPS:
        names = [*names[: MOST_GROUPS - 1], OTHERS]
    if NOTHING in values:
        names.append(NOTHING)
    place = {name: index for index, name in enumerate(names)}
    of = tuple(place.get(value, place.get(OTHERS, 0)) for value in values)
    sizes = Counter(of)
    return Grouping(key, tuple(names), tuple(sizes[index] for index in range(len(names))), of, values)
