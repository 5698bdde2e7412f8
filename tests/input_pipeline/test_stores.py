"""A prepared folder on object storage: read as the one on disk, copied once, and again only where it has changed."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from input_pipeline import stores
from input_pipeline.errors import DataError
from input_pipeline.loader import eval_batches
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
                file.write(b"x" * 9)

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


def test_md5_tags_of_both_stores_are_understood_and_others_are_passed_over(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    assert stores._has_checksum(path, "900150983cd24fb0d6963f7d28e17f72")
    assert stores._has_checksum(path, "kAFQmDzST7DWlj99KOF/cg==")
    assert stores._has_checksum(path, json.dumps({"generation": 3}))
    assert not stores._has_checksum(path, "900150983cd24fb0d6963f7d28e17f73")
    assert not stores._has_checksum(path, "kAFQmDzST7DWlj99KOF/cQ==")
