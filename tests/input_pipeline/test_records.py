"""The record's bytes, and a folder of shards as TFDS and as we read it."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from input_pipeline.errors import DataError
from input_pipeline.records import (
    Record,
    decode,
    encode,
    encode_picture,
    open_records,
    read_lists,
    shard_name,
    write_dataset,
    write_shard,
)

PICTURE = np.mgrid[0:24, 0:32, 0:3].sum(axis=0).astype(np.uint8) * 4


def record(clip_id="c", frames=2, samples=100):
    return Record(
        clip_id=clip_id,
        frames=[encode_picture(PICTURE, 90)] * frames,
        fps=25.0 if frames else 0.0,
        audio=np.arange(samples, dtype=np.int16) - 50,
        audio_rate=16_000,
        duration_s=0.25,
        text="Grüße",
        labels={"emotion": "ANG", "valence": 0.2, "votes": {"ANG": 3}},
        metadata={"fold": "4"},
    )


def assert_equal(a, b):
    np.testing.assert_array_equal(a.audio, b.audio)
    a, b = {**vars(a), "audio": None}, {**vars(b), "audio": None}
    assert a == b


@pytest.mark.parametrize(("frames", "samples"), [(2, 100), (0, 100), (2, 0), (0, 0)])
def test_a_record_comes_back_as_it_was(frames, samples):
    original = record(frames=frames, samples=samples)
    assert_equal(decode(encode(original)), original)


def test_bytes_that_are_no_record_are_a_data_error():
    for data in (b"", b"nonsense", encode(record())[:-40]):
        with pytest.raises(DataError, match="damaged record"):
            decode(data)


def test_only_the_wanted_pictures_are_decoded_each_once():
    original = record(frames=3)
    original.frames[1] = b"never looked at"
    a, b, c = original.pictures([0, 2, 0])
    assert a is c and a.size == b.size == (32, 24)
    assert np.abs(np.asarray(a, int) - PICTURE).mean() < 4


def folder(path, lengths, split="train"):
    """A dataset with these many records in each shard."""
    clips = []
    for i, length in enumerate(lengths):
        names = [f"c{len(clips) + k}" for k in range(length)]
        write_shard(path / shard_name(split, i, len(lengths)), [encode(record(name)) for name in names])
        clips += [{"position": len(clips) + k, "clip_id": n, "split": split} for k, n in enumerate(names)]
    write_dataset(path, {split: (list(lengths), 1000)}, clips)
    return path


@settings(max_examples=25)
@given(lengths=st.lists(st.integers(0, 3), min_size=1, max_size=5).filter(any))
def test_every_index_finds_its_record_whatever_the_shards_hold(tmp_path_factory, lengths):
    records = open_records(folder(tmp_path_factory.mktemp("ds"), lengths))
    assert len(records) == records.count == sum(lengths)
    names = [f"c{i}" for i in range(sum(lengths))]
    assert [records[i].clip_id for i in range(len(records))] == names == records.clip_ids
    for outside in (-1, len(records)):
        with pytest.raises(IndexError):
            records[outside]


def test_records_can_be_sent_to_another_process_after_use(tmp_path):
    records = open_records(folder(tmp_path, [2, 2]))
    assert records[3].clip_id == "c3"
    assert pickle.loads(pickle.dumps(records))[3].clip_id == "c3"


def test_a_split_keeps_the_positions_of_the_whole_folder(tmp_path):
    for i, split in enumerate(("train", "test")):
        write_shard(tmp_path / shard_name(split, 0, 1), [encode(record(f"{split}{k}")) for k in range(2 + i)])
    rows = [
        {"position": i, "clip_id": name}
        for i, name in enumerate(("train0", "train1", "test0", "test1", "test2"))
    ]
    write_dataset(tmp_path, {"train": ([2], 1), "test": ([3], 1)}, rows)
    test = open_records(tmp_path, "test")
    assert [r.clip_id for r in test] == test.clip_ids == ["test0", "test1", "test2"]
    whole = open_records(tmp_path)
    assert whole[test.first_position + 1].clip_id == test[1].clip_id


def test_the_lists_of_a_folder_tell_how_much_is_in_it_and_in_a_split(tmp_path):
    clips, splits = [], {"train": 2, "test": 3}
    for split, count in splits.items():
        write_shard(tmp_path / shard_name(split, 0, 1), [encode(record(f"{split}{k}")) for k in range(count)])
        clips += [{"position": len(clips) + k, "split": split, "samples": 800 * count} for k in range(count)]
    write_dataset(tmp_path, {split: ([count], 100) for split, count in splits.items()}, clips)
    for split in ("", *splits):
        opened = open_records(tmp_path, split)
        assert read_lists(tmp_path, split) == (opened.splits, opened.sound_s)
    (tmp_path / "clips.csv").unlink()
    assert read_lists(tmp_path) == (splits, None)
    with pytest.raises(DataError, match="no records of split 'none'"):
        read_lists(tmp_path, "none")
    with pytest.raises(DataError, match="dataset_info.json cannot be read"):
        read_lists(tmp_path / "nowhere")


READ_WITH_TFDS = """
import sys
import numpy as np, tensorflow_datasets as tfds
builder = tfds.builder_from_directory(sys.argv[1])
source = builder.as_data_source(split=list(builder.info.splits)[0])
first = source[0]
assert all(frame.dtype == np.uint8 and frame.ndim == 3 for frame in first["frames"])
assert len(np.frombuffer(first["audio"], "<i2")) / first["audio_rate"] > 0.5
assert "tensorflow" not in sys.modules
print(len(source), first["clip_id"].decode(), len(first["frames"]))
"""


def test_tfds_reads_a_prepared_folder_without_tensorflow(prepared_folder):
    done = subprocess.run(
        [sys.executable, "-c", READ_WITH_TFDS, str(prepared_folder)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    records = open_records(prepared_folder)
    first = records[0]
    count, clip_id, frames = done.stdout.split()
    assert (int(frames), clip_id) == (len(first.frames), first.clip_id)
    assert int(count) <= len(records)


def test_a_folder_without_a_list_of_clips_reads_the_names_from_its_records(tmp_path):
    folder(tmp_path, [2, 1])
    (tmp_path / "clips.csv").unlink()
    assert open_records(tmp_path).clip_ids == ["c0", "c1", "c2"]
