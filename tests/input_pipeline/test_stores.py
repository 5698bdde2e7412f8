"""A prepared folder on object storage: read as the one on disk, copied once, and again only where it has changed."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import itertools
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from input_pipeline import stores
from input_pipeline.describing import facts
from input_pipeline.errors import DataError, StoreFailed
from input_pipeline.loader import eval_batches
from input_pipeline.prepare import read_notes, read_options
from input_pipeline.records import open_records
from tests import object_stores

CUT = {"frames": 4, "image_size": 32, "audio_frames": 64, "batch_size": 4}


@pytest.fixture(scope="module", params=object_stores.SCHEMES)
def bucket(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    with object_stores.running(request.param, folder) as variables, pytest.MonkeyPatch.context() as patch:
        for name, value in {**variables, stores.CACHE: str(folder / "cache")}.items():
            patch.setenv(name, value)
        yield object_stores.make_bucket(request.param)


@pytest.fixture
def url(bucket, request, prepared_folder):
    """The prepared folder on object storage, one for each test."""
    place = f"{bucket}/{request.node.originalname}"
    object_stores.upload(prepared_folder, place)
    return place


@pytest.mark.slow
def test_records_are_those_of_the_folder_on_disk_and_are_copied_once(url, prepared_folder, capsys):
    here, there = open_records(prepared_folder), open_records(url)
    assert there.clip_ids == here.clip_ids
    for one, other in zip(here, there, strict=True):
        for field in dataclasses.fields(one):
            np.testing.assert_equal(getattr(other, field.name), getattr(one, field.name))
    assert f"{url}: copying" in capsys.readouterr().err
    for one, other in zip(
        eval_batches(str(prepared_folder), **CUT), eval_batches(url, workers=1, **CUT), strict=True
    ):
        np.testing.assert_equal(other, one)
    assert "copying" not in capsys.readouterr().err
    assert not (there.path / "prepare").exists()


@pytest.mark.slow
def test_what_changed_there_or_was_cut_here_is_copied_again(url, capsys):
    folder = open_records(url).path
    capsys.readouterr()
    shard = max(folder.glob("*.array_record*"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:100])
    open_records(url)
    assert "copying 2 files" in capsys.readouterr().err  # with the one that says that all are there
    assert shard.read_bytes() == whole

    store, root = stores.open_store(url)
    store.pipe(f"{root}/clips.csv", (folder / "clips.csv").read_bytes() + b"\n")
    open_records(url)
    assert (folder / "clips.csv").read_bytes().endswith(b"\n\n")

    store.rm(f"{root}/{shard.name}")
    with pytest.raises(DataError, match=f"{shard.name}: this shard is missing"):
        open_records(url)


@pytest.mark.slow
def test_a_copy_that_came_over_damaged_is_refused_and_the_next_start_mends_it(url, monkeypatch):
    store, _ = stores.open_store(url)
    bring = store.get_file

    def damaged(source, target, *rest, **named):
        bring(source, target, *rest, **named)
        if "array_record" in source:
            with open(target, "r+b") as file:
                file.seek(50)
                file.write(os.urandom(9))

    with monkeypatch.context() as patch:
        patch.setattr(store, "get_file", damaged)
        with pytest.raises(DataError, match="did not come over whole; start again"):
            open_records(url)
    assert len(list(open_records(url))) > 0


@pytest.mark.slow
def test_a_folder_that_is_not_there_is_one_line(bucket):
    with pytest.raises(DataError, match="nothing is there; give a folder"):
        open_records(f"{bucket}/none")
    with pytest.raises(DataError, match="cannot be read|nothing is there"):
        open_records(f"{bucket}-none/data")


@pytest.mark.slow
def test_a_copy_that_does_not_fit_is_refused_before_it_is_begun(url, monkeypatch):
    usage = stores.shutil.disk_usage
    monkeypatch.setattr(stores.shutil, "disk_usage", lambda path: usage(path)._replace(free=10))
    with pytest.raises(DataError, match="its copy needs .* GB left; AVEMO_DATA_CACHE names another place"):
        open_records(url)


def test_md5_tags_of_both_stores_are_understood_and_others_are_passed_over():
    digests = [hashlib.md5(b"abc").digest()]
    assert stores._is_whole(digests, "900150983cd24fb0d6963f7d28e17f72")
    assert stores._is_whole(digests, "kAFQmDzST7DWlj99KOF/cg==")
    assert stores._is_whole(digests, json.dumps({"generation": 3}))
    assert not stores._is_whole(digests, "900150983cd24fb0d6963f7d28e17f73")
    assert not stores._is_whole(2 * digests, "kAFQmDzST7DWlj99KOF/cQ==")


class Disk:
    """Files of a folder as objects of a store; all have the same tag. fetched: names, in order."""

    def __init__(self, folder: Path, tag: str):
        self.folder, self.tag, self.fetched = folder, tag, []

    def find(self, root, detail):
        files = self.folder.iterdir()
        return {f"{root}/{file.name}": {"size": file.stat().st_size, "ETag": self.tag} for file in files}

    def get_file(self, source, target):
        self.fetched.append(source.rpartition("/")[2])
        shutil.copyfile(self.folder / self.fetched[-1], target)


@pytest.fixture
def disk(tmp_path, monkeypatch):
    """A function: tag → a store with five files of different content, which `local_copy` asks."""
    (tmp_path / "there").mkdir()
    for name in ("a", "b", "c", "d", stores._LAST):
        (tmp_path / "there" / name).write_text(name)
    monkeypatch.setenv(stores.CACHE, str(tmp_path / "cache"))
    monkeypatch.setattr(stores, "_AT_ONCE", 1)

    def with_tag(tag):
        store = Disk(tmp_path / "there", tag)
        monkeypatch.setattr(stores, "open_store", lambda url: (store, "bucket/clips"))
        return store

    return with_tag


def test_a_copy_that_was_stopped_goes_on_with_the_files_that_are_not_there(disk, monkeypatch):
    store = disk("parts-2")
    monkeypatch.setattr(stores, "_NOTE_EVERY_S", -1.0)
    fetch, noted = store.get_file, []

    def stopped_at(name):
        def get_file(source, target):
            if source.endswith(name):
                noted.extend(json.loads(path.read_text()) for path in Path(target).parent.glob(stores._NOTED))
                raise KeyboardInterrupt
            fetch(source, target)

        return get_file

    for name in ("c", stores._LAST):
        monkeypatch.setattr(store, "get_file", stopped_at(name))
        with pytest.raises(KeyboardInterrupt):
            stores.local_copy("s3://bucket/clips")
    assert noted[-1].keys() == {"a", "b", "c", "d"}  # also where it is killed
    assert sorted(name for name in store.fetched if name in "ab") == ["a", "b"]
    monkeypatch.setattr(store, "get_file", fetch)
    assert (stores.local_copy("s3://bucket/clips") / "c").read_text() == "c"


def test_a_tag_that_is_no_checksum_after_all_costs_a_second_look(disk, monkeypatch):
    store = disk("0" * 32)
    assert (stores.local_copy("s3://bucket/clips") / "c").read_text() == "c"
    assert sorted(store.fetched) == sorted(2 * ["a", "b", "c", "d", stores._LAST])
    store, seen = disk("1" * 32), itertools.count()
    monkeypatch.setattr(store, "get_file", lambda _, target: Path(target).write_text(str(next(seen) % 10)))
    with pytest.raises(StoreFailed, match="did not come over whole; start again"):
        stores.local_copy("s3://bucket/clips")


def raising(error):
    def call(*args, **named):
        raise error

    return call


# As the clients of s3:// and gs:// raise them, with a number or without.
FAILED = [
    Exception("Could not connect to the endpoint URL"),
    TimeoutError("the socket was not read from"),
    OSError(errno.ECONNREFUSED, "Connection refused"),
    OSError(errno.EBUSY, "Please reduce your request rate."),
    OSError(errno.EREMOTEIO, "We encountered an internal error."),
    OSError("Service Unavailable"),
]
REFUSED = [
    FileNotFoundError("bucket/clips"),
    FileNotFoundError(errno.ENOENT, "No such bucket"),
    PermissionError("Access Denied"),
    OSError("Forbidden: bucket/clips\nno right to storage.objects.list"),
]


@pytest.mark.parametrize("call", ["find", "get_file"])
@pytest.mark.parametrize("error", [*FAILED, *REFUSED], ids=str)
def test_a_store_that_fails_ends_the_run_with_1_and_one_that_refuses_with_2(disk, monkeypatch, call, error):
    store = disk("parts-2")
    monkeypatch.setattr(store, call, raising(error))
    with pytest.raises(DataError, match="cannot be read") as caught:
        stores.local_copy("s3://bucket/clips")
    assert isinstance(caught.value, StoreFailed) == (error in FAILED)
    assert getattr(caught.value, "exit_code", 2) == (1 if error in FAILED else 2)
    assert "\n" not in str(caught.value)


def test_a_disk_that_is_full_is_no_fault_of_the_store(disk, monkeypatch):
    store = disk("parts-2")
    monkeypatch.setattr(store, "get_file", raising(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(DataError, match=f"No space left.*{stores.CACHE} names another place") as caught:
        stores.local_copy("s3://bucket/clips")
    assert not isinstance(caught.value, StoreFailed)


def test_a_process_that_has_compared_its_copy_reads_on_while_the_store_does_not_answer(
    disk, monkeypatch, capsys
):
    store = disk("parts-2")
    folder = stores.local_copy("s3://bucket/clips")
    with monkeypatch.context() as patch:
        patch.setattr(store, "find", raising(FAILED[0]))
        capsys.readouterr()
        assert stores.local_copy("s3://bucket/clips") == folder
        said = capsys.readouterr().err
        assert said == f"s3://bucket/clips: no answer ({FAILED[0]}); read from {folder}\n"
        patch.setattr(store, "find", raising(PermissionError("Access Denied")))
        with pytest.raises(DataError, match="Access Denied"):
            stores.local_copy("s3://bucket/clips")

    # Nor is one taken that has been found to differ and is not mended yet.
    (store.folder / "c").write_text("other")
    with monkeypatch.context() as patch:
        patch.setattr(store, "get_file", raising(FAILED[0]))
        with pytest.raises(StoreFailed, match="c cannot be read"):
            stores.local_copy("s3://bucket/clips")
        patch.setattr(store, "find", raising(FAILED[0]))
        with pytest.raises(StoreFailed, match="clips: cannot be read"):
            stores.local_copy("s3://bucket/clips")
    assert (stores.local_copy("s3://bucket/clips") / "c").read_text() == "other"


def note_faces(folder: Path) -> None:
    """As if the folder had been cut to faces: in the plan, in two shards' notes, and with a rejected clip."""
    plan = json.loads((folder / "prepare" / "plan.json").read_text())
    (folder / "prepare" / "plan.json").write_text(json.dumps(plan | {"crop": "face", "min_face_share": 0.75}))
    (folder / "rejected.csv").write_text("path,clip_id,reason\nä.mp4,ä,no face found\n", encoding="utf-8")
    for number, found in enumerate((3, 4)):
        note = {"faces": [{"clip_id": "c", "frames": 4, "found": found, "others": 0}]}
        (folder / "prepare" / f"shard-0000{number}.json").write_text(json.dumps(note))


@pytest.fixture
def noted(prepared_folder, tmp_path, monkeypatch):
    """A prepared folder with notes of faces, on disk and in a store."""
    shutil.copytree(prepared_folder, tmp_path / "clips")
    for note in (tmp_path / "clips" / "prepare").glob("shard-*"):
        note.unlink()
    note_faces(tmp_path / "clips")
    place = f"{object_stores.on_disk(monkeypatch, tmp_path)}/clips"
    object_stores.upload(tmp_path / "clips", place)
    return tmp_path / "clips", place


def test_the_notes_of_a_folder_are_read_in_its_store_and_without_a_copy(noted, tmp_path):
    folder, place = noted
    assert read_options(place) == read_options(f"{place}/") == read_options(folder)
    assert read_options(place).crop == "face" and read_options(place).min_face_share == 0.75
    assert read_notes(place) == read_notes(folder) == ({"no face found": 1}, [0.75, 1.0])
    assert not (tmp_path / "cache").exists()
    store, root = stores.open_store(place)
    store.rm([f"{root}/prepare", f"{root}/rejected.csv"], recursive=True)
    assert read_notes(place) == ({}, [])
    with pytest.raises(DataError, match=f"{place}/prepare/plan.json: no note of how"):
        read_options(place)


def test_a_store_that_does_not_answer_is_told_from_a_note_that_is_not_there(noted, monkeypatch):
    store, _ = stores.open_store(noted[1])

    def silent(*_, **__):
        raise ConnectionError("no answer")

    monkeypatch.setattr(store, "cat_file", silent)
    for read in (read_options, read_notes):
        with pytest.raises(DataError, match=r"cannot be read \(no answer\)"):
            read(noted[1])


def test_what_is_described_is_known_to_be_faces_by_the_notes_in_the_store(noted):
    records = open_records(noted[1])
    assert facts._seen(records) == "face" and records.source == noted[1]
    assert not (records.path / "prepare").exists()


@pytest.mark.slow
def test_notes_in_real_stores(bucket, prepared_folder):
    object_stores.upload(prepared_folder, f"{bucket}/notes")
    assert read_options(f"{bucket}/notes") == read_options(prepared_folder)
    assert read_notes(f"{bucket}/notes") == read_notes(prepared_folder)
    for place in (f"{bucket}/none", f"{bucket}-none/data"):
        with pytest.raises(DataError, match="no note of how|cannot be read"):
            read_options(place)
