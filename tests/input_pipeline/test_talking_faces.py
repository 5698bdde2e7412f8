"""The talking-face corpus: the same bytes always, real files, labels that can be found but not too easily."""

import csv
import os
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import replace
from functools import partial

import av
import numpy as np
import pytest

from avemo_jax import cli
from input_pipeline import folders
from input_pipeline.clips import ClipOptions
from input_pipeline.errors import DataError
from input_pipeline.manifests import read_manifest
from input_pipeline.media import read_clip
from input_pipeline.prepare import prepare
from input_pipeline.records import open_records
from input_pipeline.talking_faces import MANIFEST, generate
from input_pipeline.talking_faces.corpus import EMOTIONS, draw_factors, draw_speaker
from input_pipeline.talking_faces.speech import SENTENCES

CLIPS, SPEAKERS = 14, 5


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A small corpus, made by two workers; do not write to it."""
    out = tmp_path_factory.mktemp("talking") / "corpus"
    assert generate(out, CLIPS, speakers=SPEAKERS, workers=2) == CLIPS
    return out


def table(folder):
    with open(folder / MANIFEST, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def files(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.mp4")}


@pytest.mark.slow
def test_any_number_of_workers_makes_the_same_bytes_and_a_larger_corpus_begins_with_the_smaller(
    corpus, tmp_path
):
    assert generate(tmp_path / "few", 6, speakers=SPEAKERS, workers=0) == 6
    few, many = files(tmp_path / "few"), files(corpus)
    assert few == {name: many[name] for name in sorted(many)[:6]}
    assert table(tmp_path / "few") == table(corpus)[:6]


def test_another_seed_is_another_corpus():
    def columns(seed):
        speakers = [draw_speaker(seed, number) for number in range(5)]
        return speakers, [draw_factors(seed, index, 5) for index in range(20)]

    assert columns(3) == columns(3)
    for one, other in zip(columns(3), columns(4), strict=True):
        assert not any(a == b for a, b in zip(one, other, strict=True))


def test_prepare_takes_every_clip_with_its_labels_and_factors(corpus, tmp_path):
    rows = read_manifest(corpus / MANIFEST)
    summary = prepare(rows, corpus, tmp_path / "out", ClipOptions(short_side=64), workers=0)
    assert (summary.kept, summary.rejected) == (CLIPS, 0)
    assert (tmp_path / "out" / "rejected.csv").read_text().splitlines() == ["path,clip_id,reason"]
    by_id = {row["clip_id"]: row for row in table(corpus)}
    for record in open_records(tmp_path / "out"):
        cells = by_id[record.clip_id]
        assert record.labels["emotion"] in EMOTIONS and record.gender in ("f", "m")
        assert record.text == SENTENCES[record.labels["sentence"]]
        assert isinstance(record.labels["intensity"], float)
        known = {"path", "clip_id", "split", "speaker", "gender", "text"}
        assert {name for name in cells if not name.startswith("label_")} - known <= set(record.metadata) | {
            name for name, cell in cells.items() if not cell
        }
        assert record.duration_s == pytest.approx(int(cells["frames"]) / float(cells["frame_rate"]), abs=0.01)


def test_the_files_are_what_the_manifest_says_and_differ(corpus):
    rows = table(corpus)
    for row in rows:
        with av.open(str(corpus / row["path"])) as container:
            video, audio = container.streams.video[0], container.streams.audio[0]
            assert (video.codec_context.name, audio.codec_context.name) == ("h264", "aac")
            assert (video.width, video.height) == (int(row["width"]), int(row["height"]))
            assert float(video.average_rate) == pytest.approx(float(row["frame_rate"]), abs=0.001)
            assert video.frames == int(row["frames"])
            assert audio.sample_rate == int(row["sound_rate"])
            assert audio.channels == int(row["channels"])
        clip = read_clip(corpus / row["path"])
        assert 1.95 < clip.video_s < 4.05 and clip.audio_s == pytest.approx(clip.video_s, abs=0.1)
    for column in ("width", "frame_rate", "sound_rate", "channels", "label_sentence"):
        assert len({row[column] for row in rows}) > 1, column
    assert len({row["label_emotion"] for row in rows}) == len(EMOTIONS)


def test_every_factor_varies_and_every_speaker_feels_everything():
    speakers = 20
    drawn = [draw_factors(0, index, speakers) for index in range(12 * speakers)]
    for name in drawn[0]:
        assert len({factors[name] for factors in drawn}) > 1, name
    for number in range(speakers):
        felt = [factors["label_emotion"] for factors in drawn[number::speakers]]
        assert sorted(felt[:6]) == sorted(felt[6:]) == sorted(EMOTIONS)
    assert {factors["label_sentence"] for factors in drawn} == set(SENTENCES)
    for factors in drawn:
        assert (factors["label_intensity"] == 0) == (factors["label_emotion"] == "neutral")


def test_speakers_are_in_one_fold_and_one_split(corpus):
    places = defaultdict(set)
    for row in table(corpus):
        places[row["speaker"]].add((row["fold"], row["split"]))
    assert all(len(where) == 1 for where in places.values()) and len(places) == SPEAKERS
    assert {fold for where in places.values() for fold, _ in where} == set("01234")
    assert {split for where in places.values() for _, split in where} == {"train", "test"}


def test_faces_go_with_voices_but_do_not_give_them_away():
    speakers = [draw_speaker(0, number) for number in range(400)]
    for gender in "fm":
        ours = [speaker for speaker in speakers if speaker.gender == gender]
        assert len(ours) == 200
        pitch, jaw = np.transpose([(speaker.own.pitch, speaker.face.jaw) for speaker in ours])
        assert -0.8 < np.corrcoef(pitch, jaw)[0, 1] < -0.2
    jaws = {g: np.array([s.face.jaw for s in speakers if s.gender == g]) for g in "fm"}
    assert jaws["f"].mean() < jaws["m"].mean() < jaws["f"].max()
    assert any(s.face.hair_length > 0 for s in speakers if s.gender == "m")
    assert any(s.face.hair_length < 0 for s in speakers if s.gender == "f")


def mouth_and_sound(path, row):
    """How much the mouth's surroundings differ from the closed mouth at the start, and how loud it is, at
    25 points a second over 2 s: from the file, float64 [50] each."""
    clip = read_clip(path)
    width, height, unit = int(row["width"]), int(row["height"]), float(row["size"])
    unit *= min(width, height)
    x, y = float(row["x"]) * width, float(row["y"]) * height + 0.58 * unit
    rows, columns = (
        slice(int(y - 0.2 * unit), int(y + 0.3 * unit)),
        slice(int(x - 0.35 * unit), int(x + 0.35 * unit)),
    )
    mouth = np.stack([frame[rows, columns] for frame in clip.frames]).astype(float)
    change = np.abs(mouth - mouth[:2].mean(0)).mean((1, 2, 3))
    power = np.convolve(np.square(clip.audio.astype(float)), np.hanning(1600) / 800, "same")
    grid = np.arange(50) / 25
    loudness = np.log(np.interp(grid, np.arange(len(power)) / 16_000, power) + 1000)
    return np.interp(grid, np.arange(len(change)) / clip.fps, change), loudness


def test_lips_move_with_the_sound_of_their_own_clip_and_in_time(corpus):
    rows = table(corpus)
    mouths, sounds = np.stack([mouth_and_sound(corpus / row["path"], row) for row in rows], 1)
    spoken = slice(12, 42)  # all speak then; that there is silence before and after is no match
    match = np.corrcoef(mouths[:, spoken], sounds[:, spoken])[
        : len(rows), len(rows) :
    ]  # mouth of i, sound of j
    own, others = np.diag(match), match[~np.eye(len(rows), dtype=bool)]
    assert own.mean() > 0.3 and own.mean() > others.mean() + 0.25
    assert np.mean(own[:, None] > match) > 0.75

    def matched(shift):  # frames of 40 ms that the mouth comes later
        shifted = zip(mouths[:, 5 + shift : 45 + shift], sounds[:, 5:45], strict=True)
        return np.mean([np.corrcoef(mouth, sound)[0, 1] for mouth, sound in shifted])

    assert max(range(-5, 6), key=matched) in (0, 1)


def test_started_again_it_keeps_what_is_whole_and_makes_the_rest(corpus, tmp_path):
    out = tmp_path / "corpus"
    shutil.copytree(corpus, out)
    (out / MANIFEST).unlink()
    lost = sorted(out.glob("*.mp4"))[3:5]
    for path in lost:
        path.unlink()
    lost[0].with_suffix(".part").write_bytes(b"half")
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.mp4")}
    assert generate(out, CLIPS, speakers=SPEAKERS, workers=0) == 2
    assert files(out) == files(corpus) and table(out) == table(corpus)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert not list(out.glob("*.part"))


def test_a_folder_of_another_corpus_or_of_something_else_is_refused(corpus, tmp_path):
    with pytest.raises(DataError, match=r"begun with something else: seed \(was 0, now 1\)"):
        generate(corpus, CLIPS, speakers=SPEAKERS, seed=1, workers=0)
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(DataError, match=r"is not empty \(it holds thesis.txt\)"):
        generate(tmp_path, 1, workers=0)
    with (
        folders.locked(tmp_path / "taken", "generate"),
        pytest.raises(DataError, match="another `avemo generate` is writing there"),
    ):
        generate(tmp_path / "taken", 1, workers=0)


def test_a_full_disk_stops_with_the_path_and_the_size(tmp_path):
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limit[1]))
    try:
        with pytest.raises(DataError, match=r"clip000000\.mp4.*cannot write.*MB were needed"):
            generate(tmp_path / "out", 1, workers=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert not list((tmp_path / "out").glob("*.mp4"))
    assert generate(tmp_path / "out", 1, workers=0) == 1


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--clips 0", "--clips is 0, it must be at least 1"),
        ("--speakers 4", "--speakers is 4, it must be at least 5"),
        ("--seed -1", "--seed is -1, it must be at least 0"),
        ("--workers -1", "--workers is -1, it must be at least 0"),
        ("--out /sys/new", "/sys/new: cannot write"),
    ],
)
def test_bad_input_is_one_line(flags, said, tmp_path, capsys):
    words = ["generate", "--out", str(tmp_path / "new"), "--clips", "1", "--workers", "0"]
    assert cli.main([*words, *flags.split()]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert not (tmp_path / "new").exists()


def test_without_espeak_the_command_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    assert cli.main(["generate", "--out", str(tmp_path / "new"), "--workers", "0"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "pip install 'avemo_jax[demo]'" in line


def test_the_command_ends_with_the_next_one_and_that_works(tmp_path, capsys):
    words = ["generate", "--out", str(tmp_path / "it's new"), "--clips", "3", "--speakers", "5"]
    assert cli.main([*words, "--workers", "0"]) == 0
    text = capsys.readouterr().out
    assert "3 clips made, in" in text and str(tmp_path / "it's new" / MANIFEST) in text
    (following,) = [line.removeprefix("next: ") for line in text.splitlines() if line.startswith("next: ")]
    program, *words_of_next = shlex.split(following)
    assert program == "avemo" and cli.main([*words_of_next, "--workers", "0"]) == 0
    assert "3 of 3 clips prepared" in capsys.readouterr().out


@pytest.mark.slow
def test_killed_and_started_again_it_ends_with_what_an_uninterrupted_run_makes(corpus, tmp_path):
    out = tmp_path / "out"
    words = ["generate", "--out", str(out), "--clips", str(CLIPS), "--speakers", str(SPEAKERS)]
    command = [sys.executable, "-m", "avemo_jax", *words, "--workers", "2"]
    process = subprocess.Popen(command, start_new_session=True)
    deadline = time.monotonic() + 60
    while len(list(out.glob("*.mp4"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait(timeout=20)
    deadline = time.monotonic() + 10
    while _alive(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(process.pid), "a worker outlived its parent"
    assert len(files(out)) >= 3
    assert cli.main([*words, "--workers", "2"]) == 0
    assert files(out) == files(corpus) and table(out) == table(corpus)


def _alive(session):
    listed = subprocess.run(["ps", "-o", "stat=", "-s", str(session)], capture_output=True, text=True).stdout
    return [line for line in listed.split() if "Z" not in line]


@pytest.mark.nightly
@pytest.mark.parametrize("seed", [0, 1])
def test_plain_statistics_find_labels_across_speakers_and_lips_their_sound_but_far_from_always(
    seed, tmp_path
):
    count = 300
    workers = os.cpu_count() or 1
    generate(tmp_path / "raw", count, seed=seed, workers=workers)
    rows = read_manifest(tmp_path / "raw" / MANIFEST)
    summary = prepare(rows, tmp_path / "raw", tmp_path / "out", ClipOptions(short_side=96), workers=workers)
    assert summary.kept == count
    vectors = _statistics(tmp_path / "out")
    scores = {label: _probe(tmp_path / "out", vectors, label) for label in ("emotion", "sentence", "sex")}

    emotion = scores["emotion"]
    assert 0.33 < emotion["log_mel+pixels"] < 0.65
    assert 0.28 < emotion["log_mel"] < 0.6 and 0.2 < emotion["pixels"] < 0.55
    assert emotion["loudness"] < 0.33 and emotion["mean pixel"] < 0.25
    assert 0.35 < scores["sentence"]["log_mel+pixels"] < 0.9
    assert scores["sex"]["log_mel+pixels"] > 0.75 and scores["sex"]["pixels"] < 0.97
    speaker = _probe(tmp_path / "out", vectors, "speaker")
    assert speaker["log_mel+pixels"] > 0.6 and speaker["loudness"] < 0.3

    found, by_chance = _retrieved(tmp_path / "raw", clips=100, seed=seed)
    assert found["r1"] > 0.15 and found["r10"] > 0.6 and found["median_rank"] < 10
    assert by_chance["r10"] < 0.25 and 35 < by_chance["median_rank"] < 66


def _retrieved(folder, clips, seed):
    """How well lips find their own sound by its loudness among so many clips; and with the sounds shuffled."""
    from avemo_jax.evaluation.retrieval import match_ranks, summary

    rows = table(folder)[:clips]
    curves = np.stack([mouth_and_sound(folder / row["path"], row) for row in rows], 1)[:, :, 12:42]
    mouths, sounds = (curves - curves.mean(-1, keepdims=True)).astype(np.float32)
    shuffled = sounds[np.random.default_rng(seed).permutation(clips)]
    return tuple(summary(match_ranks(mouths, other)) for other in (sounds, shuffled))


def _statistics(folder):
    """What a probe sees without a network, and two single numbers, by name: float32 [N, D]."""
    import jax

    from avemo_jax.evaluation import baselines
    from input_pipeline.loader import eval_batches

    measure = jax.jit(partial(baselines.statistics, mels=128))
    parts = defaultdict(list)
    for batch in eval_batches(str(folder), frames=16, image_size=96, audio_frames=256, batch_size=30):
        inputs = {name: batch[name] for name in ("video", "waveform", "waveform_length", "waveform_mean")}
        power = np.square(batch["waveform"] / 32768).sum(1) / batch["waveform_length"]
        values = {
            **measure(inputs),
            "loudness": np.log(power + 1e-9)[:, None],
            "mean pixel": batch["video"].mean((1, 2, 3)),
        }
        for name, value in values.items():
            parts[name].append(np.asarray(value, np.float32)[batch["valid"]])
    return {name: np.concatenate(part) for name, part in parts.items()}


def _probe(folder, vectors, label):
    """UAR of a linear probe on each of the vectors, in the manifest's folds; on the speakers themselves each
    speaker's clips are dealt into folds."""
    from avemo_jax.evaluation.extraction import Source
    from avemo_jax.evaluation.judging import judge
    from avemo_jax.evaluation.labelled import read_labelled
    from avemo_jax.evaluation.protocols import make_splits

    clips, _ = read_labelled(str(folder), "sex" if label == "speaker" else label)
    if label == "speaker":
        names, numbers = np.unique(clips.speaker, return_inverse=True)
        turns = [np.sum(numbers[:row] == number) % 5 for row, number in enumerate(numbers)]
        clips = replace(clips, label=numbers, classes=tuple(names), fold=np.array(turns).astype(str))
    splits = make_splits("folds", clips)
    return {
        name: judge(Source(name, "none", 0, "as_recorded"), matrix[clips.position], clips, splits)[0].row[
            "uar"
        ]
        for name, matrix in vectors.items()
    }
