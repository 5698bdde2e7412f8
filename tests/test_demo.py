"""`avemo demo`: which clips, which commands, what is skipped; and, slowly, the whole of it on real clips."""

import csv
import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from avemo_jax import cli, demo, stages
from avemo_jax.config import load_config
from avemo_jax.demo import Clips
from avemo_jax.errors import UserError
from avemo_jax.stages import Stage
from input_pipeline.manifests import Row, read_manifest
from input_pipeline.talking_faces import generate
from tests import real_clips
from tests.processes import shell_environment


def rows(*cells):
    """Rows of (label, speaker, fold, split)."""
    return [
        Row(
            f"{i}.mp4",
            str(i),
            split,
            speaker,
            labels={"face": label},
            metadata={"fold": fold} if fold else {},
        )
        for i, (label, speaker, fold, split) in enumerate(cells)
    ]


def test_a_probe_is_split_by_the_manifest_if_it_says_how_and_else_by_speaker():
    both = [
        ("a", "s1", "0", "train"),
        ("b", "s1", "0", "train"),
        ("a", "s2", "1", "test"),
        ("b", "s2", "1", "test"),
    ]
    assert "split" in demo.choose_probe(rows(*both))
    assert "folds" in demo.choose_probe(rows(*[(a, s, f, "") for a, s, f, _ in both]))
    assert "leave_one_speaker_out" in demo.choose_probe(rows(*[(a, s, "", "") for a, s, _, _ in both]))
    assert demo.choose_probe(rows(*[(a, "", "", "") for a, *_ in both])) == []


def test_a_class_that_is_in_one_group_only_is_not_probed():
    cells = [
        (name, "", fold, "") for name, fold in (("a", "0"), ("a", "1"), ("b", "0"), ("b", "1"), ("c", "1"))
    ]
    flags = demo.choose_probe(rows(*cells))
    assert flags == ["--label", "face", "--protocol", "folds", "--classes=a,b"]


def test_labels_that_are_numbers_on_a_scale_are_not_probed():
    assert (
        demo.choose_probe(
            rows((0.5, "s1", "", ""), (0.5, "s2", "", ""), (1, "s1", "", ""), (1, "s2", "", ""))
        )
        == []
    )


def test_without_labels_the_probe_is_left_out_and_that_is_said(tmp_path):
    (tmp_path / "m.csv").write_text("path\na.mp4\nb.mp4\n")
    stages = demo.plan(tmp_path, Clips(tmp_path / "m.csv", tmp_path), steps=5)
    assert [stage.words[0] for stage in stages] == ["prepare", "train", "export", "export", "report"]
    assert "no probe" in demo.closing(tmp_path, stages)


def test_the_made_clips_come_first_and_are_probed_for_what_was_drawn(tmp_path):
    stages = demo.plan(tmp_path, demo.find_clips(tmp_path, None, None), steps=30)
    assert [stage.words[0] for stage in stages[:4]] == ["generate", "prepare", "train", "probe"]
    assert f"{30 * load_config(demo.CONFIG).batch_size} clips" in stages[2].title


def test_without_a_package_of_the_extra_nothing_is_begun(monkeypatch):
    monkeypatch.setattr(demo, "lacking_of_extra", lambda extra: [f"{extra} lacks x"])
    with pytest.raises(UserError, match=r"demo lacks x; pip install 'avemo_jax\[demo\]'"):
        demo.check_packages()


def test_classes_that_look_like_flags_are_classes(tmp_path):
    cells = [(value, "", fold, "") for value in (-1, 0, 1) for fold in ("0", "1")]
    _, asked = cli._read(
        "probe", ["--checkpoint", "run", "--data", "data", "--out", "out", *demo.choose_probe(rows(*cells))]
    )
    assert asked.classes == "-1,0,1"


def test_all_videos_of_a_folder_are_listed_and_nothing_else(tmp_path, capsys):
    folder = tmp_path / "videos"
    for name in ("b.MP4", "sub/a.avi", "sub/c.m4v", "notes.txt", "._b.mp4", "__MACOSX/b.mp4"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.mp4")).write_bytes(b"x")
    clips = demo.find_clips(tmp_path / "work", folder, None)
    assert [row.path for row in read_manifest(clips.manifest)] == ["b.MP4", "sub/a.avi", "sub/c.m4v"]
    assert "left out: 2 files, as ._b.mp4 (a hidden file)" in capsys.readouterr().out
    (folder / "sub/c.m4v").unlink()
    shutil.rmtree(folder / "sub")
    (folder / "b.MP4").unlink()
    with pytest.raises(UserError, match="no video files in it"):
        demo.find_clips(tmp_path / "work", folder, None)


def test_of_a_large_folder_some_files_are_taken_spread_over_it(tmp_path):
    for index in range(450):
        (tmp_path / f"{index:03d}.mp4").touch()
    chosen = [row.path for row in read_manifest(demo.find_clips(tmp_path / "work", tmp_path, None).manifest)]
    assert len(chosen) == 150 and chosen[0] == "000.mp4" and chosen[-1] == "447.mp4"


@pytest.fixture
def played(tmp_path, monkeypatch):
    """Three stages that only write their results; `calls` lists those that ran, `codes` makes one fail."""
    calls, codes = [], {}
    (tmp_path / "m.csv").write_text("path\na.mp4\n")
    planned = [Stage(name, [name], tmp_path / f"{name}.out", may_refuse=name == "b") for name in "abc"]

    def call(words):
        calls.append(words[0])
        if words[0] not in codes:
            (tmp_path / f"{words[0]}.out").touch()
        return codes.get(words[0], 0)

    monkeypatch.setattr(stages, "_call", call)

    def play():
        calls.clear()
        return demo.run(planned, Clips(tmp_path / "m.csv", tmp_path), tmp_path), "".join(calls)

    play.stages, play.codes, play.folder = planned, codes, tmp_path
    return play


def test_what_is_done_is_not_done_again(played):
    assert played() == (0, "abc")
    assert played() == (0, "")


def test_a_stage_whose_command_or_result_changed_is_done_again_with_all_after_it(played):
    played()
    played.stages[1] = played.stages[1]._replace(words=["b", "--steps=9"])
    assert played() == (0, "bc")
    (played.folder / "a.out").unlink()
    assert played() == (0, "abc")


def test_the_demo_of_other_clips_is_refused_before_anything_is_written(played, tmp_path):
    played()
    before = (played.folder / demo.NOTE).read_text()
    (tmp_path / "b.mp4").touch()
    for folder, manifest in ((None, None), (tmp_path, None)):
        with pytest.raises(UserError, match="holds a demo of other clips: choose another --workdir"):
            demo.find_clips(played.folder, folder, manifest)
    (played.folder / "m.csv").write_text("path\nb.mp4\n")
    with pytest.raises(UserError, match="holds a demo of other clips"):
        demo.find_clips(played.folder, tmp_path, played.folder / "m.csv")
    assert not (played.folder / "clips.csv").exists()
    assert (played.folder / demo.NOTE).read_text() == before


def test_a_failed_stage_ends_the_demo_with_its_exit_code_and_is_where_it_goes_on(played):
    played.codes["a"] = 2
    assert played() == (2, "a")
    played.codes.clear()
    played.codes["c"] = 1
    assert played() == (1, "abc")
    played.codes.clear()
    assert played() == (0, "c")


def test_a_probe_that_these_clips_cannot_be_split_for_does_not_end_the_demo(played):
    played.codes["b"] = 2
    assert played() == (0, "abc")


def start(*words, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", "avemo_jax", *map(str, words)],
        env={**shell_environment(), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell's jobs in the background, of which these tests may be one, ignore SIGINT, and so would this.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def avemo(*words, **environment):
    process = start(*words, **environment)
    out, err = process.communicate(timeout=1200)
    return subprocess.CompletedProcess(words, process.returncode, out, err)


def group_is_empty(process):
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.slow
def test_the_demo_killed_half_way_goes_on_ends_with_a_report_and_does_nothing_twice(tmp_path):
    clips = tmp_path / "clips"
    generate(clips, 40, speakers=5, workers=2)
    words = ("--clips", clips, "--manifest", clips / "manifest.csv")
    kill_half_way(tmp_path / "demo", *words, before_training=1)


@pytest.mark.nightly
def test_without_clips_it_makes_its_own(tmp_path):
    kill_half_way(tmp_path / "demo", before_training=2)


def kill_half_way(folder, *words, before_training):
    """Kills a demo while it trains, after so many stages, and starts it again, twice."""
    words = ("demo", "--workdir", folder, "--steps", 6, *words)
    process = start(*words)
    while not (folder / "run" / "checkpoints" / "00000002" / "manifest.json").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()

    done = avemo(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("done already") == before_training and "resuming at step" in done.stdout
    results = ("run/metrics.jsonl", "run/probe_emotion/rows.json", "run/report.html")
    for name in (*results, "hicmae.pth", "huggingface/model.safetensors"):
        assert (folder / name).exists(), name
    assert list((folder / "run" / "samples").glob("*.png"))
    assert done.stdout.count("largest difference") > 4 and "FAIL" not in done.stdout

    again = avemo(*words)
    assert again.returncode == 0 and again.stdout.count("done already") == before_training + 5


@pytest.mark.nightly
def test_the_demo_takes_ones_own_clips_and_says_that_without_labels_there_is_no_probe(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    rows = itertools.islice(itertools.cycle(real_clips.talking_rows()), 10)  # enough for a map
    for number, row in enumerate(rows):
        shutil.copy(real_clips.root() / row.path, folder / f"{number}_{Path(row.path).name}")
    done = avemo("demo", "--workdir", tmp_path / "demo", "--steps", 1, "--clips", folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no probe" in done.stdout
    assert 'class="map"' in (tmp_path / "demo" / "run" / "report.html").read_text()
    with open(tmp_path / "demo" / "clips.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == len(list(folder.iterdir()))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_a_stage_is_being_started_stops_it(number, monkeypatch):
    start, started = subprocess.Popen, []

    def started_late(*args, **options):
        signal.raise_signal(number)
        started.append(start(*args, **options))
        return started[0]

    monkeypatch.setattr(stages.subprocess, "Popen", started_late)
    before = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell's jobs in the background ignore it
    try:
        if number == signal.SIGINT:
            with pytest.raises(KeyboardInterrupt):
                stages._call(["doctor"])
        else:
            assert stages._call(["doctor"]) == 143
    finally:
        signal.signal(signal.SIGINT, before)
    assert started[0].returncode == -signal.SIGTERM


@pytest.mark.slow
@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_demo_that_is_stopped_leaves_no_process_behind(number, code, tmp_path):
    process = start("demo", "--workdir", tmp_path)
    while not process.stdout.readline().startswith("$"):
        assert process.poll() is None, process.stderr.read()
    time.sleep(1)  # into the stage
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == code
    ends = time.monotonic() + 10
    while not group_is_empty(process) and time.monotonic() < ends:
        time.sleep(0.1)
    assert group_is_empty(process)
