"""Each benchmark runs, in a tiny setting, and its JSON is whole. How fast anything is, is not tested."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from input_pipeline.media import read_clip
from tests import real_clips
from tests.input_pipeline import containers

FOLDER = Path(__file__).parents[1] / "benchmarks"
TINY_MODEL = (
    *("model.image_size=32", "model.dim=16", "model.heads=1", "model.depth=2", "model.fusion_depth=1"),
    *("model.decoder_dim=16", "model.decoder_heads=1", "model.decoder_depth=2", "model.skip_layers=1,"),
    *("model.frames=4", "model.audio_frames=32", "model.mel_bins=32"),
)


def run(name, tmp_path, *words):
    """(its figures, what it printed); numbers that are no numbers are not JSON."""
    written = tmp_path / "figures.json"
    command = [sys.executable, str(FOLDER / f"{name}.py"), *words, "--json", str(written)]
    # What is measured here is not looked at: the compiler need not take pains.
    env = {**os.environ, "XLA_FLAGS": "--xla_backend_optimization_level=0"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=FOLDER.parent, env=env)
    assert done.returncode == 0, done.stderr
    figures = json.loads(
        written.read_text(), parse_constant=lambda word: pytest.fail(f"{word} in the figures")
    )
    assert figures["machine"]["load"] > 0 and all(figures["machine"]["versions"].values())
    return figures, done.stdout


def load(name):
    """A benchmark as a module."""
    sys.path.insert(0, str(FOLDER))
    try:
        spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(FOLDER))


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """A folder with one second of a real clip, and nothing else."""
    folder = tmp_path_factory.mktemp("videos")
    clip = read_clip(real_clips.talking_file(), end_s=1.0)
    frames = [np.asarray(Image.fromarray(frame).resize((96, 72))) for frame in clip.frames]
    containers.write(folder / "clip.mp4", frames, clip.audio, rate=round(clip.fps), audio_rate=16_000)
    return str(folder)


@pytest.mark.parametrize(
    "name", sorted(path.stem for path in FOLDER.glob("*.py") if "main()" in path.read_text())
)
def test_help_says_how_it_is_called(name):
    done = subprocess.run(
        [sys.executable, str(FOLDER / f"{name}.py"), "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0 and f"python benchmarks/{name}.py" in done.stdout and "--json" in done.stdout


@pytest.mark.slow
def test_feed_compares_the_loader_with_decord(videos, tmp_path):
    pytest.importorskip("decord", reason="no wheel for this machine")
    small = ("--clips", "1", "--videos", videos, "--batch", "2", "--seconds", "0.2", "--image_size", "48")
    figures, printed = run("feed", tmp_path, *small)
    assert figures["clips"] == 1 and len(figures["goals"]) == 7
    reading = figures["reading"]
    assert list(reading) == [
        "prepared, JPEG (default)",
        "prepared, raw",
        "prepared, JPEG, cut and resized on the device",
        "decord",
        "decord, float32 and log-mel",
    ]
    assert all(found["clips_per_core_s"] > 0 and name in printed for name, found in reading.items())
    assert reading["decord"]["times_peer"] == 1
    assert reading["prepared, raw"]["mb_per_clip"] > reading["prepared, JPEG (default)"]["mb_per_clip"]
    assert 0 <= figures["waiting"]["share"] <= 1
    # 16 × 48 × 48 × 3 bytes, 41,200 samples of two, three numbers of four
    assert figures["device_bytes"]["bytes_per_clip"] == 16 * 48 * 48 * 3 + 2 * 41_200 + 3 * 4


@pytest.mark.slow
def test_storage_compares_formats(videos, tmp_path):
    figures, printed = run(
        "storage", tmp_path, "--clips", "1", "--videos", videos, "--short_side", "48", "--times", "1"
    )
    formats = figures["formats"]
    assert len(formats) == 11 and all(name in printed for name in formats)
    assert formats["raw (BMP)"]["psnr_db"] is None and formats["PNG"]["ssim"] == 1
    assert formats["JPEG 95"]["times_default"] == 1
    sizes = [formats[f"JPEG {quality}"]["bytes_per_clip"] for quality in (75, 85, 90, 95)]
    lost = [formats[f"JPEG {quality}"]["artefacts_in_targets"] for quality in (75, 85, 90, 95)]
    assert sizes == sorted(sizes) and lost == sorted(lost, reverse=True)
    assert 20 < formats["H.264 crf 26"]["psnr_db"] < formats["H.264 crf 15"]["psnr_db"]


def test_ssim_is_one_for_the_same_picture_and_falls_with_noise():
    ssim, rng = load("storage").ssim, np.random.default_rng(0)
    picture = rng.uniform(0, 255, (40, 50))
    assert ssim(picture, picture) == pytest.approx(1)
    falling = [
        ssim(picture, picture + noise * rng.standard_normal(picture.shape)) for noise in (0, 5, 20, 80)
    ]
    assert falling == sorted(falling, reverse=True) and falling[-1] < 0.9


# Compiling takes most of a minute each.
@pytest.mark.parametrize(
    "task",
    [pytest.param("finetune", marks=pytest.mark.slow), pytest.param("pretrain", marks=pytest.mark.nightly)],
)
def test_train_step_compares_with_pytorch(task, tmp_path):
    words = ("--size", "demo", "--tasks", task, "--batch", "2", "--steps", "1", "--cores", "2")
    figures, _ = run("train_step", tmp_path, *words, "--config", *TINY_MODEL)
    assert figures["peer"] == "torch_model.py" and len(figures["goals"]) == 2
    for side in ("ours", "peer"):
        its = figures["steps"][task][side]
        assert its["cpu_s"] > 0 and 0.1 < its["peak_gib"] <= its["peak_of_process_gib"] and its["loss"] > 0


@pytest.mark.slow
def test_train_step_refuses_a_folder_that_is_not_the_reference(tmp_path):
    done = subprocess.run(
        [sys.executable, str(FOLDER / "train_step.py"), "--reference", str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and done.stderr == f"{tmp_path}: no checkout of HiCMAE (--reference)\n"


@pytest.mark.slow
def test_probe_compares_with_scikit_learn(tmp_path):
    small = (
        "--clips",
        "400",
        "--width",
        "40",
        "--folds",
        "2",
        "--penalties",
        "1e-3,1e-2",
        "--inner_folds",
        "2",
    )
    figures, printed = run("probe", tmp_path, *small)
    assert figures["fits"] == 12 and figures["ours"]["converged"] and figures["peer"]["iterations"] > 4
    assert len(figures["accuracy"]) == 2 and len(figures["goals"]) == 3 and "scikit-learn" in printed
    for row in figures["accuracy"]:
        assert row["ours"] == pytest.approx(row["peer"], abs=0.02) and row["ours"] > 0.1
