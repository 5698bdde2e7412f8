"""`avemo features` as a person calls it: rows against the probe's own features, files, restarts, several hosts."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from pyarrow import parquet

from avemo_jax.cli import main
from avemo_jax.evaluation import extraction
from avemo_jax.provenance import read_calls
from avemo_jax.training.checkpoints import load_params
from input_pipeline.records import open_records
from input_pipeline.sampling import window_starts
from tests.evaluation import synthetic
from tests.input_pipeline.test_loader import damage

CLIPS = synthetic.SPEAKERS * synthetic.CLIPS_EACH


def write(place, out, *words, data="data"):
    where = ["--checkpoint", place / "run", "--data", place / data, "--out", out, "--batch_size", 16]
    return main([str(word) for word in ("features", *where, *words)])


def read(path):
    """Columns of a Parquet file as arrays of their own shape, and what the file says of itself."""
    table = parquet.read_table(path)
    columns = {}
    for field in table.schema:
        values = table.column(field.name).combine_chunks()
        shape = json.loads(field.metadata[b"shape"]) if field.metadata else None
        columns[field.name] = (
            values.flatten().to_numpy(zero_copy_only=False).reshape(len(values), *shape)
            if shape
            else np.array(values.to_pylist())
        )
    return columns, json.loads(table.schema.metadata[b"avemo_jax"])


def test_rows_are_the_features_that_a_probe_sees_and_grids_are_the_tokens_behind_them(
    place, tmp_path, capsys
):
    out = tmp_path / "table.parquet"
    wanted = ("cat4", "audio_rows", "video_layer_1", "audio_layer_1", "fused_video", "fused_audio")
    assert write(place, out, "--features", ",".join(wanted), "--tokens", "last,fused") == 0
    assert f"{CLIPS} rows of {CLIPS} clips" in capsys.readouterr().out
    columns, about = read(out)
    config, params, _ = load_params(place / "run")
    networks = [extraction.Network("checkpoint", 0, params)]
    _, expected = extraction.extract_folder(
        config, str(place / "data"), range(CLIPS), networks, wanted, batch_size=16
    )
    for source, matrix in expected.items():
        if source.weights == "checkpoint":
            np.testing.assert_allclose(columns[source.feature], matrix, rtol=1e-5, atol=1e-5)
    behind = {"video_layer_1": "video_tokens", "audio_layer_1": "audio_tokens"}
    behind |= {name: f"{name}_tokens" for name in ("fused_video", "fused_audio")}
    for pooled, grid in behind.items():
        tokens = columns[grid].reshape(CLIPS, -1, config.model.dim)
        np.testing.assert_allclose(tokens.mean(1), columns[pooled], rtol=1e-4, atol=1e-5)
    rows = columns["audio_tokens"].mean(1).reshape(CLIPS, -1)
    np.testing.assert_allclose(rows, columns["audio_rows"], rtol=1e-4, atol=1e-5)

    records = open_records(place / "data")
    assert columns["clip_id"].tolist() == [record.clip_id for record in records]
    assert [json.loads(labels) for labels in columns["labels"]] == [record.labels for record in records]
    assert columns["speaker"].tolist() == [record.speaker for record in records]
    assert about["step"] == 7 and about["checkpoint"] == str(place / "run")
    # 30 frames at 25 a second, four of them at a stride of 4: from frame (30 − 16) // 2 on.
    np.testing.assert_allclose(columns["video_start_s"], 7 / 25, rtol=1e-6)
    np.testing.assert_allclose(columns["video_token_s"], [[(7 + 2) / 25, (7 + 10) / 25]] * CLIPS, rtol=1e-6)
    seconds = columns["audio_start_s"][:, None] + 0.16 * (np.arange(4) + 0.5)
    np.testing.assert_allclose(columns["audio_token_s"], seconds, rtol=1e-6)


def test_an_npz_has_the_same_numbers_and_half_of_their_bits_on_request(place, tmp_path):
    for name, words in (("a.parquet", ()), ("a.npz", ()), ("half.npz", ("--half",))):
        assert write(place, tmp_path / name, "--features", "cat4", "--tokens", *words) == 0
    columns, about = read(tmp_path / "a.parquet")
    with np.load(tmp_path / "a.npz") as arrays, np.load(tmp_path / "half.npz") as half:
        assert json.loads(str(arrays["about"])) == about
        assert set(arrays.files) == {"about", *columns}
        for name, values in columns.items():
            np.testing.assert_array_equal(arrays[name], values)
        assert half["video_tokens"].dtype == np.float16
        np.testing.assert_allclose(half["cat4"], columns["cat4"], rtol=1e-3, atol=1e-3)


def test_windows_cover_a_clip_and_the_last_one_ends_with_it(place, tmp_path):
    out = tmp_path / "all.parquet"
    assert write(place, out, "--features", "cat4", "--windows", "all") == 0
    columns, _ = read(out)
    assert columns["window"].tolist() == [0, 1] * CLIPS
    np.testing.assert_allclose(columns["video_start_s"], [0, 14 / 25] * CLIPS, rtol=1e-6)
    assert set(columns["split"]) == {"clips"}
    assert not np.allclose(columns["cat4"][0], columns["cat4"][1])
    assert window_starts(64, 16, 4) == [0] and window_starts(128, 16, 4) == [0, 64]
    assert window_starts(130, 16, 4) == [0, 64, 66] and window_starts(3, 16, 4) == [0]


def test_windows_of_a_clip_without_pictures_cover_its_sound(place, tmp_path):
    """1.2 seconds of sound, of which a window takes 0.655."""
    heard = [number for number in range(CLIPS) if number % 8 == 2]
    synthetic.write_folder(tmp_path / "data", lambda number: "picture" if number in heard else "")
    rows = {}
    for windows in ("all", "centre"):
        out = tmp_path / f"{windows}.npz"
        more = ("--features", "cat4", "--windows", windows)
        assert write(place, out, *more, data=tmp_path / "data") == 0
        with np.load(out) as table:
            unseen = np.isin(table["clip_id"], [f"clip{number:02d}" for number in heard])
            rows[windows] = {name: table[name][unseen] for name in table.files if name != "about"}
    assert rows["all"]["window"].tolist() == [0, 1] * len(heard)
    np.testing.assert_allclose(rows["all"]["audio_s"], 0.655, rtol=1e-6)
    np.testing.assert_allclose(rows["all"]["audio_start_s"], [0, 1.2 - 0.655] * len(heard), rtol=1e-6)
    np.testing.assert_allclose(rows["centre"]["audio_start_s"], (1.2 - 0.655) / 2, rtol=1e-6)
    assert not rows["all"]["video_start_s"].any()
    vectors = [*rows["all"]["cat4"][:2], rows["centre"]["cat4"][0]]
    assert all(not np.allclose(vectors[k], vectors[k - 1]) for k in range(3))


def test_frames_that_are_repeated_are_where_they_were_taken(place, tmp_path):
    """Of 30 frames, ten at a stride of 4: the one at 28 is the last and stands three times."""
    out = tmp_path / "short.parquet"
    assert write(place, out, "--features", "cat4", "--tokens", "--sizes", "frames=10") == 0
    columns, _ = read(out)
    np.testing.assert_allclose(
        columns["video_token_s"], np.tile([[2, 10, 18, 26, 28]], (CLIPS, 1)) / 25, rtol=1e-6
    )


def test_a_stopped_folder_goes_on_and_hosts_share_it(place, tmp_path, capsys):
    words = ("--features", "cat4", "--shard_clips", 20)
    whole, shared = tmp_path / "whole", tmp_path / "shared"
    assert write(place, whole, *words) == 0
    names = [f"features-{number:05d}-of-00003.parquet" for number in range(3)]
    assert sorted(path.name for path in whole.iterdir()) == names  # readers take all files of a folder
    assert parquet.read_table(whole).num_rows == CLIPS
    assert str(whole) in read_calls(tmp_path)[0]["command"]
    (whole / names[1]).rename(tmp_path / "before")
    (whole / f".{names[1]}.part").write_text("half of a shard")
    assert parquet.read_table(whole).num_rows == CLIPS - 20  # readers pass it over
    kept = (whole / names[0]).stat().st_mtime_ns
    assert write(place, whole, *words) == 0
    assert (whole / names[0]).stat().st_mtime_ns == kept and not list(whole.glob(".*.part"))
    assert parquet.read_table(whole / names[1]).equals(parquet.read_table(tmp_path / "before"))
    (whole / names[1]).write_bytes((whole / names[1]).read_bytes()[:1000])
    assert write(place, whole, *words) == 2
    assert f"{names[1]} cannot be read: remove it, and it is written anew" in capsys.readouterr().err
    (whole / names[1]).unlink()
    assert write(place, whole, *words) == 0
    for host in ("1/2", "0/2"):
        assert write(place, shared, *words, "--host", host) == 0
    for name in names:
        assert parquet.read_table(shared / name).equals(parquet.read_table(whole / name))
    synthetic.write_changed(tmp_path / "louder", place / "data", lambda record: replace(record, fps=24.0))
    for changed in (
        {"data": place / "data", "more": ("--windows", "all")},
        {"data": place / "data", "more": ("--shard_clips", 19)},  # as many shards, of other clips
        {"data": tmp_path / "louder"},
    ):
        capsys.readouterr()
        assert write(place, whole, *words, *changed.get("more", ()), data=changed["data"]) == 2
        assert "is of other weights, clips or options" in capsys.readouterr().err


@pytest.mark.parametrize(
    "out, words, says",
    [
        ("t.npz", ("--tokens", "first"), "--tokens: no 'first'; there are last, fused"),
        ("t.npz", ("--host", "0/2"), "several hosts write a folder of shards"),
        ("t", ("--host", "2/2"), "--host 2/2: give K/N"),
        ("t.npz", ("--features", "cat5"), "no feature 'cat5'"),
        ("t.npz", ("--split", "dev"), "no split 'dev'"),
        ("t", ("--shard_clips", "0"), "--shard_clips is 0"),
        ("t", ("--out", "gs://bucket/t"), "gs://bucket/t: this is made on a disk"),
        ("t.csv", (), "t.csv: rows go to a .parquet or .npz file, or to a folder of Parquet shards"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_leaves_nothing(place, tmp_path, capsys, out, words, says):
    assert write(place, tmp_path / "new" / out, *words) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "out, says",
    [("t", "t holds notes.txt, and readers take all of a folder"), ("t.npz", "t.npz is a folder")],
)
def test_rows_are_not_put_among_other_files(place, tmp_path, capsys, out, says):
    (tmp_path / out).mkdir()
    (tmp_path / out / "notes.txt").write_text("mine")
    assert write(place, tmp_path / out) == 2
    assert says in capsys.readouterr().err
    assert [path.name for path in (tmp_path / out).iterdir()] == ["notes.txt"]


def test_a_clip_that_cannot_be_read_has_no_row(place, tmp_path):
    shutil.copytree(place / "data", tmp_path / "data")
    for index in range(3):  # all of the first batch and shard
        damage(tmp_path / "data", index)
    words = ("--features", "cat4", "--tokens", "--batch_size", 3)
    for name in ("t.npz", "t.parquet"):
        assert write(place, tmp_path / name, *words, data=tmp_path / "data") == 0
    with np.load(tmp_path / "t.npz") as arrays:
        kept = arrays["clip_id"].tolist()
    columns, _ = read(tmp_path / "t.parquet")
    assert kept == columns["clip_id"].tolist() == [f"clip{number:02d}" for number in range(3, CLIPS)]
    assert write(place, tmp_path / "t", *words, "--shard_clips", 3, data=tmp_path / "data") == 0
    first, *others = sorted((tmp_path / "t").glob("*.parquet"))
    assert parquet.read_metadata(first).num_rows == 0
    assert parquet.read_schema(first).equals(parquet.read_schema(others[0]), check_metadata=True)
