"""Records as bytes, and the folder of shards that holds them.

The ONE place that knows how a `record` lies on disk. A prepared folder is a TFDS dataset of ArrayRecord shards
(`tfds.builder_from_directory(folder).as_data_source()` reads it, without TensorFlow), plus `clips.csv`, which
names the clip at each position. Not here: a record's own fields (record), where records come from (prepare),
how one is used (examples).
"""

from __future__ import annotations

import bisect
import csv
import errno
import functools
import io
import itertools
import json
import os
import shutil
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from tensorflow_datasets.core import example_parser, example_serializer, file_adapters, naming

from input_pipeline.audio import SAMPLE_RATE
from input_pipeline.errors import DataError
from input_pipeline.record import Record
from input_pipeline.record import encode_picture as encode_picture  # who makes records finds all of it here
from input_pipeline.stores import local_copy, read_file, scheme_of

DATASET = "avemo_clips"
VERSION = "1.0.0"  # of the layout: raise it when a field changes
CLIP_LIST = "clips.csv"
CLIP_LIST_COLUMNS = ("position", "clip_id", "split", "frames", "samples", "speaker", "labels")

# Random access: no read-ahead, one record a chunk; JPEG and noise-like sound do not shrink any further.
_WRITER_OPTIONS = "group_size:1,uncompressed"
_READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"
_OPEN_SHARDS = 128  # files open at once in one process; the usual limit of a process is 1024


def features() -> tfds.features.FeaturesDict:
    """The record as TFDS features: frames decode to uint8 [T, H, W, 3], all else is a number or bytes."""
    f = tfds.features
    text = {
        name: f.Text()
        for name in ("clip_id", "speaker", "gender", "split", "text", "source", "prepare_version")
    }
    return f.FeaturesDict(
        {
            **text,
            "frames": f.Sequence(f.Image(shape=(None, None, 3), encoding_format="jpeg")),
            "fps": f.Scalar(np.float32, doc="frames a second; 0 without a picture"),
            "audio": f.Scalar(np.object_, doc="little-endian int16 PCM, mono"),
            "audio_rate": f.Scalar(np.int32, doc="samples a second"),
            "duration_s": f.Scalar(np.float32),
            "labels": f.Text(doc="JSON object"),
            "metadata": f.Text(doc="JSON object: further columns of the manifest"),
        }
    )


_FEATURES = features()
_SERIALIZER = example_serializer.ExampleSerializer(_FEATURES.get_serialized_info())
_PARSER = example_parser.ExampleParserNp(_FEATURES.get_serialized_info())  # leaves frames as bytes


def encode(record: Record) -> bytes:
    """A record as the bytes of its `tf.train.Example`."""
    values = asdict(record)
    values["audio"] = np.ascontiguousarray(record.audio, "<i2").tobytes()
    values["labels"] = json.dumps(record.labels, ensure_ascii=False, sort_keys=True)
    values["metadata"] = json.dumps(record.metadata, ensure_ascii=False, sort_keys=True)
    # The fields are a protobuf map, whose order is otherwise another one in each process.
    return _SERIALIZER.get_tf_example(values).SerializeToString(deterministic=True)


def decode(data: bytes) -> Record:
    """The record of `encode`; raises DataError when the bytes are damaged."""
    try:
        values = dict(_PARSER.parse_example(data))
        values["audio"] = np.frombuffer(values["audio"], "<i2")
        values["frames"] = list(values["frames"])
        for name, value in values.items():
            if isinstance(value, bytes):
                values[name] = value.decode()
        for name in ("labels", "metadata"):
            values[name] = json.loads(values[name])
        return Record(**values)
    except Exception as error:  # protobuf, NumPy and json each have their own
        raise DataError(f"damaged record ({type(error).__name__})") from error


def open_records(path: str | os.PathLike, split: str = "") -> Records:
    """Opens a prepared folder.

    path: on disk, or on object storage (gs://, s3://), from where it is copied to this host.
    split: only these records (positions stay those of the whole folder); "" for all.

    Raises:
      DataError: when the folder holds no finished dataset, or none of that split.
    """
    source = os.fspath(path)
    path = local_copy(source) if scheme_of(path) else Path(path)
    if not (path / "dataset_info.json").exists():
        unfinished = (path / "prepare").is_dir()
        hint = (
            "its `avemo prepare` was not finished: run it again"
            if unfinished
            else "make one with `avemo prepare`"
        )
        raise DataError(f"{path}: no prepared dataset in it; {hint}")
    try:
        info = tfds.builder_from_directory(path).info
    except Exception as error:  # TFDS passes on whatever its parsers raise
        raise DataError(f"{path}: its dataset_info.json or features.json cannot be read ({error})") from error
    missing = sorted(set(_FEATURES) - set(info.features))
    if missing:
        raise DataError(f"{path}: not a dataset of clips, its records lack {', '.join(missing)}")
    if split and split not in info.splits:
        raise DataError(f"{path}: no split {split!r}; it has: {', '.join(info.splits)}")

    files, lengths, splits, start, count = [], [], {}, None, 0
    for name, part in info.splits.items():
        if not split or name == split:
            start = count if start is None else start
            splits[name] = part.num_examples
            files += [os.fspath(file) for file in part.filepaths]
            lengths += part.shard_lengths
        count += part.num_examples
    for file in files:
        if not os.path.exists(file):
            raise DataError(f"{file}: this shard is missing; prepare the folder again")
    return Records(path, files, lengths, splits, start or 0, source)


class Lists(NamedTuple):
    """splits: as of `Records`; sound_s: likewise."""

    splits: dict[str, int]
    sound_s: float | None


def read_lists(path: str | os.PathLike, split: str = "") -> Lists:
    """How much a prepared folder holds, by its lists alone: one on object storage is not copied for it.

    Raises:
      DataError: there is no dataset, none of that split, or it cannot be read.
    """
    try:
        info = json.loads(read_file(path, "dataset_info.json"))
        splits = {one["name"]: sum(map(int, one["shardLengths"])) for one in info["splits"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: its dataset_info.json cannot be read ({error})") from error
    if split:
        splits = {name: count for name, count in splits.items() if name == split}
    if not splits:
        raise DataError(f"{path}: no records of split {split!r} in it")
    try:
        listed = csv.DictReader(io.StringIO(read_file(path, CLIP_LIST).decode("utf-8"), newline=""))
        samples = sum(int(row["samples"]) for row in listed if split in ("", row["split"]))
    except (OSError, ValueError, KeyError, TypeError):
        return Lists(splits, None)
    return Lists(splits, samples / SAMPLE_RATE)


class Records:
    """The records of a prepared folder by index; can be sent to another process.

    splits: {name: number of records} of the splits that were opened, in order.
    first_position: the position in the whole folder of the record with index 0.
    source: the folder as it was asked for; of one on object storage `path` is the copy, which has no notes.
    """

    def __init__(
        self,
        path: Path,
        files: list[str],
        lengths: list[int],
        splits: dict[str, int],
        first_position: int,
        source: str,
    ):
        self.path, self.source = path, source
        self.splits = splits
        self.first_position = first_position
        self._files = files
        self._ends = list(itertools.accumulate(lengths))
        self._open: OrderedDict[int, Any] = OrderedDict()

    @property
    def parts(self) -> list[Records]:
        """The folders that these records are of: this one."""
        return [self]

    @property
    def sizes(self) -> list[int]:
        """Records of each folder."""
        return [len(self)]

    @property
    def count(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Record]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Record:
        """Raises DataError when the record is damaged."""
        if not 0 <= index < self.count:
            raise IndexError(index)
        shard = bisect.bisect_right(self._ends, index)
        within = index - (self._ends[shard - 1] if shard else 0)
        try:
            (data,) = self._reader(shard).read([within])
        except Exception as error:  # ArrayRecord raises what its C++ part reports
            raise DataError(
                f"{self._files[shard]}: record {within} cannot be read ({_first_line(error)})"
            ) from error
        return decode(data)

    @functools.cached_property
    def clip_ids(self) -> list[str]:
        """The clip_id of every index: from `clips.csv`, so that damaged records have a name too."""
        if self._listed is None:
            return [record.clip_id for record in self]
        return [row["clip_id"] for row in self._listed]

    @property
    def sound_s(self) -> float | None:
        """Seconds of sound in all records, from `clips.csv`; None where there is no such list."""
        if self._listed is None:
            return None
        return sum(int(row["samples"]) for row in self._listed) / SAMPLE_RATE

    @functools.cached_property
    def frame_counts(self) -> list[int]:
        """Frames of every index: from `clips.csv`, or from the records, where a damaged one has 0."""
        if self._listed is not None:
            return [int(row["frames"]) for row in self._listed]
        return [len(record.frames) if record else 0 for record in map(self._whole, range(len(self)))]

    @functools.cached_property
    def sample_counts(self) -> list[int]:
        """Samples of sound of every index, likewise."""
        if self._listed is not None:
            return [int(row["samples"]) for row in self._listed]
        return [len(record.audio) if record else 0 for record in map(self._whole, range(len(self)))]

    def _whole(self, index: int) -> Record | None:
        try:
            return self[index]
        except DataError:
            return None

    def known(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Speaker and labels of every index: from `clips.csv`, where a damaged record has them too, or from the
        records themselves in a folder that does not list them; a damaged one then has none."""
        listed = self._listed
        if listed is not None and all(row.get("labels") for row in listed):
            yield from ((row["speaker"], json.loads(row["labels"])) for row in listed)
            return
        for record in map(self._whole, range(len(self))):
            yield (record.speaker, record.labels) if record else ("", {})

    def genders(self) -> Iterator[str]:
        """The speaker's gender of every index, from the records, which are all read for it; of a damaged one ""."""
        for record in map(self._whole, range(len(self))):
            yield record.gender if record else ""

    @functools.cached_property
    def _listed(self) -> list[dict[str, str]] | None:
        """The lines of `clips.csv`; None in a folder that another program wrote."""
        clips = self.path / CLIP_LIST
        if not clips.exists():
            return None
        with open(clips, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return rows[self.first_position : self.first_position + self.count]

    def _reader(self, shard):
        if shard in self._open:
            self._open.move_to_end(shard)
        else:
            self._open[shard] = array_record_module.ArrayRecordReader(self._files[shard], _READER_OPTIONS)
            if len(self._open) > _OPEN_SHARDS:
                self._open.popitem(last=False)[1].close()
        return self._open[shard]

    def __getstate__(self):
        # Open files stay in their process; lists of all clips are read again there, if they are needed at all.
        kept = {
            key: value
            for key, value in self.__dict__.items()
            if key not in ("_listed", "clip_ids", "frame_counts")
        }
        return {**kept, "_open": OrderedDict()}


def shard_name(split: str, index: int, count: int) -> str:
    """File name of a shard as TFDS expects it."""
    return f"{DATASET}-{split}.array_record-{index:05d}-of-{count:05d}"


def write_shard(path: str | os.PathLike, encoded: Sequence[bytes]) -> None:
    """Writes encoded records to one file; raises OSError when that fails."""
    try:
        writer = array_record_module.ArrayRecordWriter(os.fspath(path), _WRITER_OPTIONS)
        for data in encoded:
            writer.write(data)
        writer.close()
    except RuntimeError as error:  # ArrayRecord's word for everything
        raise OSError(errno.EIO, _first_line(error).split(";")[0], os.fspath(path)) from error


def write_dataset(
    path: str | os.PathLike, splits: dict[str, tuple[list[int], int]], clips: Sequence[dict]
) -> None:
    """Makes a folder of finished shards a dataset: the last step, after which `open_records` accepts it.

    splits: {split name: (records of each shard, bytes of all)}; clips: rows of `clips.csv` by position.
    """
    path = Path(path)
    part = path / "metadata.part"
    shutil.rmtree(part, ignore_errors=True)
    identity = tfds.core.dataset_info.DatasetIdentity(
        name=DATASET, version=tfds.core.Version(VERSION), data_dir=os.fspath(path), module_name=""
    )
    info = tfds.core.DatasetInfo(
        builder=identity, features=_FEATURES, description="Audio-visual clips prepared by avemo_jax."
    )
    info.set_file_format(file_adapters.FileFormat.ARRAY_RECORD)
    info.set_splits(
        tfds.core.splits.SplitDict(
            tfds.core.SplitInfo(
                name=name, shard_lengths=lengths, num_bytes=size, filename_template=_template(path, name)
            )
            for name, (lengths, size) in splits.items()
        )
    )
    part.mkdir()
    info.write_to_directory(part)
    with open(part / CLIP_LIST, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, CLIP_LIST_COLUMNS)
        writer.writeheader()
        writer.writerows(clips)
    # dataset_info.json is what a reader looks for, so it comes last.
    for written in sorted(part.iterdir(), key=lambda file: file.name == "dataset_info.json"):
        os.replace(written, path / written.name)
    part.rmdir()


def _template(path, split):
    return naming.ShardedFileTemplate(
        data_dir=path, dataset_name=DATASET, split=split, filetype_suffix="array_record"
    )


def _first_line(error):
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
