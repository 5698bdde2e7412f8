"""Preparing real clips: what is stored, what is left out and why; kills, other options and full disks."""

import csv
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import tensorflow_datasets as tfds
from hypothesis import given
from hypothesis import strategies as st

from avemo_jax import cli, provenance
from input_pipeline import folders, manifests
from input_pipeline import prepare as prepare_module
from input_pipeline.errors import DataError, MediaError
from input_pipeline.manifests import Row
from input_pipeline.media import read_clip
from input_pipeline.pool import results_in_order
from input_pipeline.prepare import prepare
from input_pipeline.records import open_records
from input_pipeline.storing import ClipOptions, store_frame
from tests import real_clips
from tests.input_pipeline.containers import tone, write

SMALL = ClipOptions(short_side=64, jpeg_quality=80)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Eight seconds of real clips, each a file of its own."""
    folder = tmp_path_factory.mktemp("raw")
    clips = real_clips.talking_rows()
    for i in range(8):
        row, start_s = clips[i % len(clips)], float(i // len(clips))
        clip = real_clips.decode(
            real_clips.root() / row.path,
            start_s=start_s,
            end_s=start_s + 1.0,
            on_frame=lambda frame: frame[: len(frame) // 4 * 2, : frame.shape[1] // 4 * 2],
        )
        write(folder / f"{i}.mkv", clip.frames, clip.audio, rate=round(clip.fps), audio_rate=16_000)
    return folder


@pytest.fixture(scope="module")
def rows(root):
    return [Row(path.name, path.stem) for path in sorted(root.glob("*.mkv"))]


def contents(folder):
    """{name: bytes} of what a dataset consists of; when and by which commands it was made is beside it."""
    files = [path for path in sorted(Path(folder).iterdir()) if path.is_file()]
    return {path.name: path.read_bytes() for path in files if path.name != provenance.NAME}


def rejected(folder):
    with open(folder / "rejected.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_record_holds_the_frames_the_sound_and_every_column_of_its_clip(root, tmp_path):
    row = Row("0.mkv", "one", "dev", "s1", "f", "hello", 0.2, 0.8, {"emotion": "ANG"}, {"fold": "2"})
    prepare([row], root, tmp_path / "out", ClipOptions(short_side=48, jpeg_quality=100), workers=0)
    (record,) = open_records(tmp_path / "out")
    clip = read_clip(root / "0.mkv", start_s=0.2, end_s=0.8)
    assert record.fps == pytest.approx(clip.fps)
    assert record.duration_s == pytest.approx(len(clip.frames) / clip.fps)
    np.testing.assert_array_equal(record.audio, clip.audio)
    assert record.audio_rate == 16_000
    pictures = record.pictures(range(len(record.frames)))
    assert len(pictures) == len(clip.frames) and min(pictures[0].size) == 48
    for picture, frame in zip(pictures, clip.frames, strict=True):
        expected = np.asarray(store_frame(frame, ClipOptions(short_side=48)), int)
        assert np.abs(np.asarray(picture, int) - expected).mean() < 4
    given_back = (record.clip_id, record.split, record.speaker, record.gender, record.text)
    assert given_back == ("one", "dev", "s1", "f", "hello")
    assert (record.labels, record.metadata, record.source) == (
        {"emotion": "ANG"},
        {"fold": "2"},
        "0.mkv#t=0.2,0.8",
    )


def test_the_shards_do_not_depend_on_the_number_of_workers(root, rows, tmp_path):
    for name, workers in (("none", 0), ("three", 3)):
        prepare(rows, root, tmp_path / name, SMALL, clips_per_shard=3, workers=workers)
    assert contents(tmp_path / "none") == contents(tmp_path / "three")
    assert len(list((tmp_path / "none").glob("*.array_record-*-of-00003"))) == 3


def test_every_clip_left_out_has_exactly_one_reason(root, tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    clip = read_clip(root / "0.mkv")
    write(raw / "good.mp4", clip.frames, clip.audio, audio_rate=16_000, codecs=("libx264", "aac"))
    write(raw / "mute.mp4", clip.frames, None)
    write(raw / "sound.mkv", None, clip.audio, audio_rate=16_000)
    write(raw / "short.mp4", clip.frames[:2], tone(48_000, 0.08))
    (raw / "empty.mp4").touch()
    (raw / "text.avi").write_text("no video")
    (raw / "cut.mp4").write_bytes((raw / "good.mp4").read_bytes()[:5000])
    names = [path.name for path in sorted(raw.iterdir())] + ["absent.mp4"]
    summary = prepare([Row(n, n) for n in names], raw, tmp_path / "out", SMALL, workers=0)
    reasons = {row["path"]: row["reason"] for row in rejected(tmp_path / "out")}
    assert len(rejected(tmp_path / "out")) == len(reasons) == 7 == summary.rejected
    assert "good.mp4" not in reasons and summary.kept == 1
    for name, reason in {
        "mute.mp4": "no sound",
        "sound.mkv": "no picture",
        "short.mp4": "shorter than 0.2 s",
        "empty.mp4": "empty file",
        "text.avi": "not a readable video",
        "cut.mp4": "not a readable video",
        "absent.mp4": "no such file",
    }.items():
        assert reason in reasons[name], name


def test_clips_without_picture_or_sound_are_kept_when_asked(root, tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    clip = read_clip(root / "0.mkv")
    write(raw / "mute.mp4", clip.frames, None)
    write(raw / "sound.mkv", None, clip.audio, audio_rate=16_000)
    for missing, name in (("sound", "mute.mp4"), ("picture", "sound.mkv")):
        prepare([Row(name, name)], raw, tmp_path / missing, ClipOptions(allow_missing=missing), workers=0)
        (record,) = open_records(tmp_path / missing)
        assert (not record.frames, not len(record.audio)) == (missing == "picture", missing == "sound")
        assert (record.fps == 0, record.audio_rate == 0) == (missing == "picture", missing == "sound")
        seconds = len(clip.audio) / 16_000 if missing == "picture" else len(clip.frames) / 25
        assert record.duration_s == pytest.approx(seconds, abs=0.01)


def test_picture_and_sound_that_end_far_apart_are_cut_to_what_they_share(root, tmp_path):
    clip = read_clip(root / "0.mkv")
    half = len(clip.audio) // 2
    write(tmp_path / "a.mkv", clip.frames, clip.audio[:half], audio_rate=16_000, rate=round(clip.fps))
    options = ClipOptions(max_gap_s=0.25)
    prepare([Row("a.mkv", "a")], tmp_path, tmp_path / "out", options, workers=0)
    (record,) = open_records(tmp_path / "out")
    assert len(record.frames) / record.fps == pytest.approx(half / 16_000, abs=0.03)
    prepare([Row("a.mkv", "a")], tmp_path, tmp_path / "all", ClipOptions(max_gap_s=9.0), workers=0)
    assert len(open_records(tmp_path / "all")[0].frames) == len(clip.frames)


def test_the_fixed_crop_is_the_references_box_of_a_224_pixel_face():
    frame = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
    stored = np.asarray(store_frame(frame, ClipOptions(crop="fixed", short_side=160)))
    np.testing.assert_array_equal(stored, frame[0:160, 32:192])
    stored = np.asarray(store_frame(frame, ClipOptions(crop="fixed", short_side=192)))
    np.testing.assert_array_equal(stored, frame[0:192, 16:208])
    assert store_frame(frame, ClipOptions(crop="fixed", short_side=96)).size == (96, 96)
    with pytest.raises(MediaError, match="224 × 224 pixels, not 300 × 224"):
        store_frame(np.zeros((224, 300, 3), np.uint8), ClipOptions(crop="fixed"))
    with pytest.raises(DataError, match="up to 160 and for 192, not 176"):
        ClipOptions(crop="fixed", short_side=176)


@given(st.integers(1, 600), st.integers(1, 600), st.integers(16, 256))
def test_frames_are_scaled_down_to_the_short_side_and_never_up(width, height, short_side):
    size = store_frame(np.zeros((height, width, 3), np.uint8), ClipOptions(short_side=short_side)).size
    assert min(size) == min(short_side, width, height)
    assert size[0] / size[1] == pytest.approx(width / height, rel=1 / min(size))


@given(st.lists(st.sampled_from(["", "train", "test"]), min_size=1, max_size=40), st.integers(1, 9))
def test_each_row_is_in_one_shard_of_its_split_in_the_manifests_order(splits, per_shard):
    rows = [Row(str(i), str(i), split) for i, split in enumerate(splits)]
    shards = prepare_module._shards(rows, per_shard)
    assert len({shard.name for shard in shards}) == len(shards)
    assert all(1 <= len(shard.rows) <= per_shard for shard in shards)
    for split in set(splits):
        mine = [row for shard in shards if shard.split == (split or "clips") for row in shard.rows]
        assert mine == [row for row in rows if row.split == split]


def test_splits_of_the_manifest_are_splits_of_the_dataset(root, rows, tmp_path):
    split_rows = [Row(r.path, r.clip_id, ["train", "test"][i % 2]) for i, r in enumerate(rows)]
    prepare(split_rows, root, tmp_path / "out", SMALL, workers=0)
    assert open_records(tmp_path / "out", "test").clip_ids == [r.clip_id for r in rows[1::2]]
    assert open_records(tmp_path / "out").clip_ids == [r.clip_id for r in rows[0::2] + rows[1::2]]


def test_a_split_that_tfds_cannot_have_is_refused_before_the_work(tmp_path):
    with pytest.raises(DataError, match="split 'all' may hold letters"):
        prepare([Row("a", "a", "all")], tmp_path, tmp_path / "out", SMALL, workers=0)
    assert not (tmp_path / "out").exists()


def test_a_split_of_which_no_clip_can_be_used_is_not_in_the_dataset(root, rows, tmp_path):
    split_rows = [Row(rows[0].path, "a", "train"), Row("absent.mp4", "b", "test")]
    prepare(split_rows, root, tmp_path / "out", SMALL, workers=0)
    assert open_records(tmp_path / "out").splits == {"train": 1}
    source = tfds.builder_from_directory(tmp_path / "out").as_data_source()
    assert {name: len(split) for name, split in source.items()} == {"train": 1}


def test_running_again_does_nothing_and_other_options_or_clips_are_refused(root, rows, tmp_path):
    out = tmp_path / "out"
    prepare(rows, root, out, SMALL, clips_per_shard=4, workers=0)
    before = {path: path.stat().st_mtime_ns for path in out.iterdir() if path.is_file()}
    assert prepare(rows, root, out, SMALL, clips_per_shard=4, workers=0).kept == len(rows)
    assert {path: path.stat().st_mtime_ns for path in out.iterdir() if path.is_file()} == before
    other = ClipOptions(short_side=64, jpeg_quality=81)
    with pytest.raises(DataError, match=r"jpeg_quality \(was 80, now 81\); choose another --out"):
        prepare(rows, root, out, other, clips_per_shard=4, workers=0)
    with pytest.raises(DataError, match="begun with something else: the manifest;"):
        prepare(rows[:-1], root, out, SMALL, clips_per_shard=4, workers=0)


def test_a_folder_with_other_things_in_it_is_left_alone(root, rows, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match=r"is not empty \(it holds thesis.txt\)"):
        prepare(rows, root, tmp_path, SMALL, workers=0)


def test_a_command_that_was_stopped_before_it_began_leaves_the_folder_as_good_as_empty(
    root, rows, tmp_path, monkeypatch
):
    words = command(root, rows[:1], tmp_path, "--workers", "0")
    (tmp_path / "out").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(manifests, "read_manifest", Mock(side_effect=KeyboardInterrupt))
        assert cli.main(words) == 130
    assert (tmp_path / "out" / provenance.NAME).exists()
    assert cli.main(words) == 0


def test_a_shard_that_was_damaged_or_half_written_is_made_again(root, rows, tmp_path):
    out = tmp_path / "out"
    prepare(rows, root, out, SMALL, clips_per_shard=4, workers=0)
    whole = contents(out)
    (out / "dataset_info.json").unlink()
    first = sorted(out.glob("*.array_record-*"))[0]
    first.write_bytes(first.read_bytes()[:1000])
    (out / (first.name + ".part")).write_bytes(b"half")
    (out / "metadata.part").mkdir()  # the last step was stopped
    (out / "metadata.part" / "clips.csv").write_text("half")
    prepare(rows, root, out, SMALL, clips_per_shard=4, workers=0)
    assert contents(out) == whole


def test_nothing_usable_at_all_is_an_error_that_points_to_the_list(tmp_path):
    with pytest.raises(DataError, match=r"not one of the 2 clips can be used; .*rejected.csv"):
        prepare([Row("a", "a"), Row("b", "b")], tmp_path, tmp_path / "out", SMALL, workers=0)
    assert len(rejected(tmp_path / "out")) == 2
    assert not (tmp_path / "out" / "dataset_info.json").exists()


def test_a_full_disk_stops_with_the_path_and_the_size_and_keeps_what_is_finished(root, rows, tmp_path):
    out = tmp_path / "out"
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, limit[1]))
    try:
        with pytest.raises(DataError, match=r"array_record-0000\d-of-.*cannot write.*MB were needed"):
            prepare(rows, root, out, SMALL, clips_per_shard=4, workers=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert not (out / "dataset_info.json").exists()
    assert prepare(rows, root, out, SMALL, clips_per_shard=4, workers=0).kept == len(rows)


@pytest.mark.parametrize(("free", "label"), [(5000, "ANG"), (3 << 20, "A" * (2 << 20))])
def test_a_shard_is_not_begun_where_it_or_the_list_of_all_clips_does_not_fit(
    root, rows, tmp_path, monkeypatch, free, label
):
    usage = prepare_module.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(prepare_module.shutil, "disk_usage", lambda _: usage._replace(free=free))
    labelled = Row(rows[1].path, rows[1].clip_id, labels={"emotion": label})
    with pytest.raises(DataError, match=r"00000-of-00002.*No space left on device.*MB were needed"):
        prepare([rows[0], labelled], root, tmp_path / "out", SMALL, clips_per_shard=1, workers=0)


def test_no_permission_names_the_folder(root, rows, tmp_path):
    tmp_path.chmod(0o500)
    folder = tmp_path if os.geteuid() else Path("/sys")  # where even root may not
    with pytest.raises(DataError, match=rf"(?i){folder}.*cannot write .*(not permitted|denied|read-only)"):
        prepare(rows, root, folder / "out", SMALL, workers=0)


def test_an_output_that_cannot_be_a_folder_is_named(root, rows, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file.*cannot write"):
        prepare(rows, root, tmp_path / "file" / "out", SMALL, workers=0)


def command(root, rows, folder, *more):
    manifest = folder / "m.csv"
    with open(manifest, "w", newline="") as file:
        csv.writer(file).writerows([("path", "clip_id"), *((row.path, row.clip_id) for row in rows)])
    words = ["prepare", "--manifest", manifest, "--root", root, "--out", folder / "out", "--short_side", 64]
    return [str(word) for word in [*words, "--clips_per_shard", 2, "--jpeg_quality", 80, *more]]


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("after_shards", [0, 2])
def test_killed_at_any_moment_and_started_again_gives_what_an_uninterrupted_run_gives(
    root, rows, tmp_path, sign, after_shards
):
    undisturbed = tmp_path / "undisturbed"
    prepare(rows, root, undisturbed, SMALL, clips_per_shard=2, workers=0)
    words = command(root, rows, tmp_path, "--workers", "2")
    out = tmp_path / "out"
    process = subprocess.Popen([sys.executable, "-m", "avemo_jax", *words], start_new_session=True)
    deadline = time.monotonic() + 60
    while len(list(out.glob("prepare/shard-*.json"))) < after_shards and time.monotonic() < deadline:
        time.sleep(0.005)
    os.killpg(process.pid, sign) if sign == signal.SIGINT else process.kill()
    code = process.wait(timeout=20)
    assert code in (0, 130 if sign == signal.SIGINT else -9, -2)
    deadline = time.monotonic() + 10
    while _alive(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(process.pid), "a worker outlived its parent"
    finished = {path: path.stat().st_mtime_ns for path in out.glob("*.array_record-?????-of-?????")}
    assert cli.main(words) == 0
    assert contents(out) == contents(undisturbed)
    for path, written in finished.items():
        note = out / "prepare" / f"shard-{path.name[-14:-9]}.json"
        assert path.stat().st_mtime_ns == written or note.stat().st_mtime_ns > written


def _alive(session):
    listed = subprocess.run(["ps", "-o", "stat=", "-s", str(session)], capture_output=True, text=True).stdout
    return [line for line in listed.split() if "Z" not in line]


def test_two_runs_into_one_folder_at_once_are_refused(root, rows, tmp_path):
    (tmp_path / "out").mkdir()
    with (
        folders.locked(tmp_path / "out", "prepare"),
        pytest.raises(DataError, match="another `avemo prepare` is writing there"),
    ):
        prepare(rows, root, tmp_path / "out", SMALL, workers=0)


def test_the_command_tells_the_share_of_rejected_clips_and_where_the_result_is(root, rows, tmp_path, capsys):
    words = command(root, [*rows, Row("absent.mp4", "absent")], tmp_path, "--workers", "0")
    assert cli.main([*words, "--json", str(tmp_path / "new" / "summary.json")]) == 0
    text = capsys.readouterr().out
    assert f"{len(rows)} of {len(rows) + 1} clips prepared" in text and str(tmp_path / "out") in text
    assert f"1 rejected ({100 / (len(rows) + 1):.1f} %)" in text and "1 × no such file" in text
    assert json.loads((tmp_path / "new" / "summary.json").read_text())["rejected"] == 1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--crop", "round"], "--crop round: there are none, fixed, face"),
        (["--jpeg_quality", "0"], "--jpeg_quality 0: must be 1 to 100"),
        (["--short_side", "4"], "--short_side 4"),
        (["--workers", "-1"], "--workers must be 0 or more"),
        (["--root", "/nowhere"], "/nowhere: no such folder"),
        (["--beam_options=--runner='x"], "--beam_options --runner='x: No closing quotation"),
        (["--json", "/dev/null/x.json"], "/dev/null is a file"),
    ],
)
def test_a_wrong_flag_is_one_line(root, rows, tmp_path, capsys, more, message):
    assert cli.main([*command(root, rows, tmp_path), *more]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and message in lines[0]


def square_or_die(number):
    if number == 3:
        os.kill(os.getpid(), signal.SIGSEGV)
    return number * number


@pytest.mark.slow
def test_a_job_that_takes_its_process_down_costs_only_itself():
    assert list(results_in_order(square_or_die, range(6), 2, lambda job: f"crashed on {job}")) == [
        *(0, 1, 4),
        "crashed on 3",
        *(16, 25),
    ]


def test_a_process_that_dies_while_its_results_are_not_asked_for_costs_only_its_job():
    fine, deadly = signal.SIGURG, signal.SIGKILL
    jobs = [fine, fine, deadly, fine, fine, fine]
    results = results_in_order(signal.raise_signal, jobs, 1, lambda job: "crashed")
    assert next(results) is None
    while multiprocessing.active_children():
        time.sleep(0.05)
    time.sleep(0.2)  # the pool's thread sees it a moment later
    assert list(results) == [None, "crashed", None, None, None]
