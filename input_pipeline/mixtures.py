"""Several prepared folders as one: their records in a row, and how to open what a config names.

Not here: in which proportions and order they are drawn (orders).
"""

from __future__ import annotations

import bisect
import itertools
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from input_pipeline.errors import DataError
from input_pipeline.record import Record
from input_pipeline.records import Records, open_records


def folders_of(data: Any) -> tuple[str, ...]:
    """The folders that a config's `data` names: `paths`, or else `path` alone.

    Raises:
      DataError: both are set, or a folder is there twice.
    """
    paths = tuple(getattr(data, "paths", ()))
    if not paths:
        return (data.path,)
    if data.path:
        raise DataError(f"data.path ({data.path}) and data.paths are both set; set one of them")
    twice = [path for path, count in Counter(map(os.path.abspath, paths)).items() if count > 1]
    if twice:
        raise DataError(f"data.paths: {twice[0]} is there twice; data.weights gives a folder more weight")
    return paths


def open_data(data: Any) -> Records | Mixture:
    """Opens the folders of a config's `data`, of each the split `data.split` ("" for all)."""
    paths, split = folders_of(data), getattr(data, "split", "")
    parts = [open_records(path, split) for path in paths]
    return parts[0] if len(parts) == 1 else Mixture(parts)


class Mixture:
    """Records of several folders by index, one folder after the other; as `Records` of one.

    A position is an index: the place among all records that were opened.
    """

    first_position = 0

    def __init__(self, parts: Sequence[Records]):
        self.parts = list(parts)
        self.path = ", ".join(os.fspath(part.path) for part in parts)
        self.splits = dict(sum((Counter(part.splits) for part in parts), Counter()))
        self._ends = list(itertools.accumulate(len(part) for part in parts))

    @property
    def sizes(self) -> list[int]:
        """Records of each folder."""
        return [len(part) for part in self.parts]

    @property
    def count(self) -> int:
        return self._ends[-1]

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Record]:
        return itertools.chain.from_iterable(self.parts)

    def __getitem__(self, index: int) -> Record:
        """Raises DataError when the record is damaged."""
        if not 0 <= index < self.count:
            raise IndexError(index)
        part = bisect.bisect_right(self._ends, index)
        return self.parts[part][index - (self._ends[part - 1] if part else 0)]

    @property
    def clip_ids(self) -> list[str]:
        """FOLDER/CLIP of every index: corpora may use the same names."""
        return [f"{part.path.name}/{clip}" for part in self.parts for clip in part.clip_ids]

    @property
    def sound_s(self) -> float | None:
        """Seconds of sound in all records; None where a folder does not list it."""
        seconds = [part.sound_s for part in self.parts]
        return None if None in seconds else float(sum(filter(None, seconds)))
