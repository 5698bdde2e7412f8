"""What an exported folder says of a run on several prepared folders."""

import json
from dataclasses import asdict, replace

import pytest

from avemo_jax.config import load_config
from avemo_jax.convert.huggingface import exporting, facts, folder
from avemo_jax.convert.huggingface.card import Stored, write_card
from input_pipeline import stores
from input_pipeline.errors import StoreFailed
from input_pipeline.prepare import prepare
from input_pipeline.records import open_records
from input_pipeline.storing import ClipOptions
from tests import object_stores, real_clips


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("folders")
    rows = real_clips.talking_rows()[:3]
    for name, some, short_side in (("a", rows[:1], 32), ("b", rows[1:], 32), ("c", rows[:1], 48)):
        prepare(some, real_clips.root(), root / name, ClipOptions(short_side=short_side), workers=0)
    real_clips.count(rows)
    return root


def config_of(*paths):
    return load_config("hicmae:demo", (f"data.paths={','.join(map(str, paths))}",))


def test_folders_that_were_prepared_alike_give_the_way_that_clips_are_prepared(folders):
    stored, where = exporting._stored(config_of(folders / "a", folders / "b"))
    assert stored.known and stored.options == ClipOptions(short_side=32)
    assert where == f"as in {folders / 'a'}, {folders / 'b'}"


def noted(path, **options):
    """A folder that says it was prepared so."""
    (path / "prepare").mkdir(parents=True)
    (path / "prepare" / "plan.json").write_text(json.dumps(asdict(ClipOptions(**options))))
    return path


def test_what_a_folder_lets_its_clips_lack_makes_no_difference(tmp_path):
    faces = noted(tmp_path / "faces", crop="face")
    lacking = noted(tmp_path / "lacking", crop="face", allow_missing="sound")
    stored, _ = exporting._stored(config_of(faces, lacking))
    assert stored.known and stored.options == ClipOptions(crop="face")


def test_files_may_lack_what_clips_that_were_learnt_from_lacked(tmp_path):
    whole = noted(tmp_path / "whole")
    heard, seen = (noted(tmp_path / name, allow_missing=name) for name in ("picture", "sound"))
    for paths, lacking, said in (
        ([whole], "none", "Files need both picture and sound."),
        ([whole, heard], "picture", "one without a picture is taken as black frames"),
        ([heard, seen], "either", "Files need picture or sound"),
        ([tmp_path / "gone"], "either", "Files need picture or sound"),
    ):
        config = config_of(*paths)
        assert folder.may_lack(config) == "none"
        config.data.allow_missing = True
        written = folder.preprocessor_config(config, ClipOptions())["prepare"]
        assert written.get("allow_missing", "none") == lacking
        card = write_card(
            config, facts.Facts(3, versions={}), Stored(ClipOptions(), True), 10, "unknown", None
        )
        assert said in card


def test_folders_that_were_prepared_in_different_ways_do_not_but_for_a_crop_of_all(folders, tmp_path):
    stored, where = exporting._stored(config_of(folders / "a", folders / "c"))
    assert not stored.known and "were prepared in different ways" in where
    faces = [noted(tmp_path / str(side), crop="face", short_side=side) for side in (64, 96)]
    config = config_of(*faces)
    stored, where = exporting._stored(config)
    assert not stored.known and stored.options == ClipOptions(crop="face") and "but for the crop" in where
    card = write_card(config, facts.Facts(3, versions={}), stored, 10, "unknown", None)
    assert "the cut as in the training data" in card
    stored, _ = exporting._stored(config_of(faces[0], noted(tmp_path / "whole")))
    assert not stored.known and stored.options == ClipOptions()


def test_clips_on_object_storage_are_cut_as_its_notes_say(tmp_path, monkeypatch):
    place = object_stores.on_disk(monkeypatch, tmp_path)
    object_stores.upload(noted(tmp_path / "faces", crop="face", min_face_share=0.75), f"{place}/faces")
    stored, where = exporting._stored(config_of(f"{place}/faces"))
    assert stored.known and stored.options == ClipOptions(crop="face", min_face_share=0.75)
    assert where == f"as in {place}/faces"

    def silent(*_):
        raise ConnectionError("no answer")

    monkeypatch.setattr(stores.open_store(place)[0], "cat_file", silent)
    with pytest.raises(
        StoreFailed, match="plan.json: cannot be read"
    ):  # no model of faces without the cut to them
        exporting._stored(config_of(f"{place}/faces"))


def test_the_data_of_a_run_is_that_of_all_its_folders(folders):
    data = facts._data(config_of(folders / "a", folders / "b"), 3)
    seconds = sum(open_records(folders / name).sound_s for name in "ab")
    assert data.clips == 3
    assert data.sound_s == pytest.approx(seconds) and sum(data.splits.values()) == 3
    assert facts._data(config_of(folders / "a"), 3) is None  # no longer what the run was begun with


def test_data_on_object_storage_is_counted_without_a_copy(folders, tmp_path, monkeypatch):
    place = object_stores.on_disk(monkeypatch, tmp_path)
    object_stores.upload(folders / "b", f"{place}/b")
    here, there = config_of(folders / "a", folders / "b"), config_of(folders / "a", f"{place}/b")
    assert facts._data(there, 3) == facts._data(here, 3) and facts._data(there, 3).clips == 3
    assert facts._made_by(there.data) == ()
    assert facts._data(config_of(f"{place}/none"), 3) is None
    assert not (tmp_path / "cache").exists()


def test_that_clips_were_drawn_is_known_from_a_copy_that_is_there_anyway(folders, tmp_path, monkeypatch):
    rows = [replace(row, metadata={"made_by": "a program"}) for row in real_clips.talking_rows()[:1]]
    prepare(rows, real_clips.root(), tmp_path / "drawn", ClipOptions(short_side=32), workers=0)
    place = f"{object_stores.on_disk(monkeypatch, tmp_path)}/drawn"
    object_stores.upload(tmp_path / "drawn", place)
    assert facts._made_by(config_of(tmp_path / "drawn").data) == ("a program",)
    assert facts._made_by(config_of(place).data) == ()
    open_records(place)
    assert facts._made_by(config_of(place).data) == ("a program",)
